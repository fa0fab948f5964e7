"""Pixel masks by bit, and the pixels that were never measured.

Shares, lengths of runs and places are those of 196 legacy and 71 BOSS files (SPPIXMASK bits;
formats.md section A1). Two facts of those files are easily missed: pixels of ivar 0 carry no
FULLREJECT in BOSS files, and those of dead columns carry LOWFLAT and SCATTEREDLIGHT in legacy
ones; and OR_MASK of every BOSS file has whole ranges set where one camera reaches beyond what it
was calibrated for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.exposure_kernels import Bits, Ints, stamp_kernel
from spectra_scale.mock.fibers import slit_position
from spectra_scale.mock.spectrograph import Spectrograph

BADTRACE, BADFLAT, MANYBADCOLUMNS = 1, 2, 4
NEARBADPIXEL, LOWFLAT, FULLREJECT, PARTIALREJECT, SCATTEREDLIGHT = 16, 17, 18, 19, 20
NOSKY, BRIGHTSKY, NODATA, COMBINEREJ, BADFLUXFACTOR, BADSKYCHI = 22, 23, 24, 25, 26, 27
SOMEBADPIX = 0
"""DESI's own bit: every masked pixel of a coadd has ivar 0."""

_SATURATED = (5576.5, 5580.2)
"""Å: the core of the oxygen line is lost in half of the BOSS files."""


@dataclass(frozen=True, slots=True)
class Hits:
    """Runs of pixels that carry the same bits.

    Attributes
    ----------
    bits
        Set together.
    run
        Mean length in pixels.
    below, above
        Share of pixels on either side of `edge`.
    edge
        Å.
    """

    bits: tuple[int, ...]
    run: float
    below: float
    above: float
    edge: float = 5950.0


# In any exposure.
_ANY = {
    "sdss": (
        Hits((FULLREJECT, PARTIALREJECT), 3.0, 0.0021, 0.0038),
        Hits((NEARBADPIXEL,), 4.0, 0.012, 0.020),
        Hits((COMBINEREJ,), 2.0, 0.021, 0.024),
        Hits((BADSKYCHI,), 3.0, 0.001, 0.024),
        Hits((BADFLUXFACTOR,), 6.0, 0.0, 0.0020),
        Hits((BADFLUXFACTOR,), 6.0, 0.020, 0.0, 3850.0),
        Hits((SCATTEREDLIGHT,), 2.5, 0.006, 0.012),
        Hits((SCATTEREDLIGHT,), 2.5, 0.14, 0.0, 3890.0),
        Hits((NOSKY,), 3.5, 0.0002, 0.0004),
    ),
    "boss": (
        Hits((PARTIALREJECT,), 2.2, 0.115, 0.110, 5100.0),
        Hits((FULLREJECT, PARTIALREJECT, NEARBADPIXEL), 4.0, 0.005, 0.062, 5100.0),
        Hits((NEARBADPIXEL,), 5.0, 0.015, 0.058, 5100.0),
        Hits((COMBINEREJ,), 2.3, 0.022, 0.065),
        Hits((COMBINEREJ,), 2.3, 0.0, 0.105, 7900.0),
        Hits((BADSKYCHI,), 3.0, 0.0001, 0.022),
    ),
    "desi": (),
}
# In every exposure.
_EVERY = {
    "sdss": (
        Hits((NEARBADPIXEL,), 1.2, 0.0003, 0.0003),
        Hits((BADSKYCHI,), 1.6, 0.0, 0.0004),
    ),
    "boss": (
        Hits((NEARBADPIXEL, PARTIALREJECT), 1.3, 0.00025, 0.0001),
        Hits((BADSKYCHI,), 3.0, 0.0001, 0.0005),
    ),
    "desi": (),
}
# Without a measurement, bits aside: DESI loses a stretch of a column here and there.
_LOST = {
    "sdss": (Hits((), 1.0, 0.00005, 0.00005),),
    "boss": (Hits((), 1.3, 0.0004, 0.0002), Hits((), 1.4, 0.0, 0.0055, 9000.0)),
    "desi": (Hits((SOMEBADPIX,), 5.0, 0.0013, 0.0013),),
}


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """Masks of a plate.

    Attributes
    ----------
    and_mask, or_mask
        Bits set in every and in any exposure, shape (fiber, pixel).
    lost
        1 where nothing was measured, same shape, int8.
    """

    and_mask: Bits
    or_mask: Bits
    lost: NDArray[np.int8]


def draw_masks(instrument: Spectrograph, n: int, rng: np.random.Generator) -> Masks:
    """Draw the masks of a plate of `n` fibres."""
    shape = (n, instrument.n_pixels)
    bright = 1 << BRIGHTSKY if instrument.survey != "desi" else 0
    and_mask, or_mask = np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.int32)
    and_mask[:] = np.where(instrument.bright, bright, 0)
    or_mask[:] = np.where(instrument.bright_any, bright, 0)
    masks = Masks(and_mask, or_mask, np.zeros(shape, dtype=np.int8))
    _draw_hits(_ANY[instrument.survey], masks.or_mask, None, instrument, rng)
    _draw_hits(_EVERY[instrument.survey], masks.and_mask, None, instrument, rng)
    _draw_hits(_LOST[instrument.survey], masks.and_mask, masks.lost, instrument, rng)
    if instrument.survey == "sdss":
        _legacy_columns(masks, instrument, rng)
    elif instrument.survey == "boss":
        _boss_ranges(masks, instrument)
        _boss_losses(masks, instrument, rng)
    return masks


def _word(bits: tuple[int, ...]) -> int:
    return sum(1 << bit for bit in bits)


def _draw_hits(
    kinds: tuple[Hits, ...],
    mask: Bits,
    lost: NDArray[np.int8] | None,
    instrument: Spectrograph,
    rng: np.random.Generator,
) -> None:
    n, n_pixels = mask.shape
    for kind in kinds:
        edge = int(np.searchsorted(instrument.wave, kind.edge))
        # Exposures and detectors differ: the 5 and 95 % of files are 0.5 and 2 times the median.
        rate = rng.gamma(6.0, 1 / 6.0, n)
        for share, low, high in ((kind.below, 0, edge), (kind.above, edge, n_pixels)):
            if share == 0 or high <= low:
                continue
            count = rng.poisson(rate * share * (high - low) / kind.run)
            fiber = np.repeat(np.arange(n), count)
            start = rng.integers(low, high, len(fiber))
            length = np.minimum(rng.geometric(1 / kind.run, len(fiber)), high - start)
            if kind.bits:
                stamp_kernel(mask, fiber, start, length, _word(kind.bits))
            if lost is not None:
                _lose(lost, fiber, start, length)


def _lose(lost: NDArray[np.int8], fiber: Ints, start: Ints, length: Ints) -> None:
    step = np.arange(int(length.max(initial=0)))
    pixel = np.minimum(start[:, None] + step, lost.shape[1] - 1)
    inside = step < length[:, None]
    lost[np.broadcast_to(fiber[:, None], inside.shape)[inside], pixel[inside]] = 1


def _legacy_columns(masks: Masks, instrument: Spectrograph, rng: np.random.Generator) -> None:
    """Bits of a fibre's half, and the low flat fields where the cameras meet.

    Of 196 files 21 have MANYBADCOLUMNS in one half (red in three of four), four BADFLAT and one
    BADTRACE: a tenth is half-masked under any bit.
    """
    n, n_pixels = masks.and_mask.shape
    chance = rng.random(n)
    red = np.less(rng.random(n), 0.77)
    blue_end, red_start = instrument.split + 40, instrument.split + 70
    for side, low, high in ((red, red_start, n_pixels), (~red, 0, blue_end)):
        half = np.flatnonzero(np.less(chance, 0.107) & side)
        masks.and_mask[half, low:high] |= 1 << MANYBADCOLUMNS
        masks.or_mask[half, max(low - 250, 0) : high] |= 1 << MANYBADCOLUMNS
    masks.and_mask[(chance > 0.107) & (chance < 0.122)] |= 1 << BADFLAT
    traceless = (chance > 0.122) & (chance < 0.127)
    masks.and_mask[traceless, red_start:] |= _word((BADTRACE, BADFLAT))
    dead = np.flatnonzero(rng.random(n) < np.where(np.less(chance, 0.107), 0.85, 0.05))
    _dead_columns(masks, dead, red[dead], rng)
    # Five pixels of low flat field in one exposure or another.
    every, five = np.arange(n), np.full(n, 5)
    for place in (-190, 110):
        first = instrument.split + place + rng.integers(-6, 6, n)
        stamp_kernel(masks.or_mask, every, first, five, 1 << LOWFLAT)


def _dead_columns(
    masks: Masks, rows: Ints, red: NDArray[np.bool_], rng: np.random.Generator
) -> None:
    """Columns that follow a trace for 5 to 125 pixels, with NEARBADPIXEL around most of them."""
    n = len(rows)
    length = np.clip(np.exp(rng.normal(4.1, 1.0, n)), 4, 300).astype(np.int64)
    start = np.where(red, rng.integers(2700, 3550, n), rng.integers(120, 900, n))
    _lose(masks.lost, rows, start, length)
    stamp_kernel(
        masks.and_mask, rows, start, length, _word((NEARBADPIXEL, LOWFLAT, SCATTEREDLIGHT))
    )
    cut = rng.random(n) < 0.25
    bits = _word((FULLREJECT, PARTIALREJECT))
    stamp_kernel(masks.and_mask, rows[cut], start[cut], length[cut], bits)
    cut = rng.random(n) < 0.65
    reach = rng.integers(150, 1100, n)
    first, wide = start - reach // 2, length + reach
    stamp_kernel(masks.and_mask, rows[cut], first[cut], wide[cut], 1 << NEARBADPIXEL)


def _boss_ranges(masks: Masks, instrument: Spectrograph) -> None:
    """Ranges of OR_MASK where a camera has light but no calibration: the same in every file.

    They end some 70 pixels earlier in the second spectrograph.
    """
    half, x = slit_position(len(masks.or_mask))
    shift = (-72 * half + 14 * (1 - x**2)).astype(np.int64) - instrument.first_pixel
    every = np.arange(len(half))
    for bits, first, last in (
        ((LOWFLAT, NOSKY, BADFLUXFACTOR), 37_188, 37_674),
        ((BADFLUXFACTOR,), 37_155, 37_684),
        ((LOWFLAT, NOSKY), 38_046, 38_224),
        ((BADFLUXFACTOR,), 38_022, 38_640),
        ((NODATA,), 38_224, 38_640),
    ):
        start = first + shift
        length = np.full(len(every), last - first)
        stamp_kernel(masks.or_mask, every, start, length, _word(bits))


def _boss_losses(masks: Masks, instrument: Spectrograph, rng: np.random.Generator) -> None:
    """The saturated line, bad flats (1 of 71 files) and bad columns (6, 1 in every exposure)."""
    n = len(masks.and_mask)
    half, _ = slit_position(n)
    first, last = np.searchsorted(instrument.wave, _SATURATED)
    # Where the line saturates in all exposures of a spectrograph, it does so in most fibres.
    lost = rng.random(n) < np.where(rng.random(2) < 0.55, 0.9, 0.1)[half]
    rows = np.flatnonzero(lost)
    start = first - rng.integers(0, 2, len(rows))
    _lose(masks.lost, rows, start, last - start + rng.integers(0, 2, len(rows)))
    masks.and_mask[rng.random(n) < 0.014] |= 1 << BADFLAT
    rows = np.flatnonzero(rng.random(n) < 0.085)
    start = 39_070 - instrument.first_pixel + rng.integers(-40, 40, len(rows))
    length = rng.integers(600, 820, len(rows))
    bits = _word((NEARBADPIXEL, PARTIALREJECT))
    stamp_kernel(masks.or_mask, rows, start, length, bits)
    every = rng.random(len(rows)) < 0.17
    stamp_kernel(masks.and_mask, rows[every], start[every], length[every], bits)
