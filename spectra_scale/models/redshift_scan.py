"""Is the redshift wrong? χ² of a spectrum against that of itself, shifted and reconstructed anew.

A model that has seen spectra at their redshifts cannot reproduce one at another: shifted to where
it belongs, it is reproduced as well as any. A shift is a whole number of pixels of the log grid,
so no pixel is interpolated, and both χ² are over the same pixels of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spectra_scale.errors import UsageError
from spectra_scale.models.autoencoder import AutoEncoder, encode
from spectra_scale.models.inputs import ModelInputs

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Squares of pulls are cut here: a bad pixel must not choose the redshift.
_CUT = 100.0
#: Shifts this near to none (dex, 2,200 km/s) are no other redshift: so far may the broad lines of
#: a quasar lie from its narrow ones.
_SAME = 3.2e-3
#: Another redshift is not below this one: nearby stars recede or approach by 1,000 km/s at most.
_LEAST_Z = -0.003
#: Shifts tried first, this far apart (dex), and how many of the best are looked at closely. A line
#: is two pixels wide: half the distance is less than that.
_STRIDE, _N_BEST = 1.17e-3, 3
_ROWS_AT_ONCE = 1024


class Scan(NamedTuple):
    """What a scan found, each of shape (spectrum,).

    Parameters
    ----------
    shift
        Best shift in pixels of the grid: the spectrum belongs so many pixels bluer than it lies.
    chi2
        χ² there, summed over the valid pixels that stay on the grid; NaN if no shift could be
        tried.
    chi2_here
        χ² without a shift, over the same pixels.
    n_pixels
        Their number.
    """

    shift: Ints
    chi2: Doubles
    chi2_here: Doubles
    n_pixels: Ints


def shifts_within(log10_step: float, reach: float) -> Ints:
    """Shifts to try first, in pixels: 0 and those near it are left out.

    Parameters
    ----------
    log10_step
        Of the grid (dex).
    reach
        Greatest shift, either way (dex).

    Raises
    ------
    UsageError
        If the reach is not greater than what counts as the same redshift.
    """
    if not _SAME < reach < 1:
        message = f"found a reach of {reach} dex, expected one above {_SAME} and below 1."
        raise UsageError(message)
    same, last = int(np.ceil(_SAME / log10_step)), int(reach / log10_step)
    stride = max(round(_STRIDE / log10_step), 1)
    up = np.arange(same, last + 1, stride)
    return np.concatenate([-up[::-1], up]).astype(np.int64)


def scan_redshifts(  # noqa: PLR0913 - a block of spectra, and how it is done
    model: AutoEncoder,
    inputs: ModelInputs,
    flux: Floats,
    ivar: Floats,
    shifts: Ints,
    *,
    log10_step: float,
    redshift: Doubles,
    inpaint_passes: int = 0,
    min_overlap: float = 0.6,
) -> Scan:
    """Reconstruct spectra at many shifts, and keep the best of each.

    Parameters
    ----------
    model, inputs
        Trained auto-encoder and how it is fed.
    flux, ivar
        As the sample stores them, shape (spectrum, pixel); ivar 0 is missing.
    shifts
        From `shifts_within`.
    log10_step
        Of the grid (dex).
    redshift
        Of each, shape (spectrum,): no shift is tried that would make it negative.
    inpaint_passes
        As of `encode`.
    min_overlap
        Share of a spectrum's valid pixels that must stay on the grid for a shift to count.

    Returns
    -------
    Scan
        With median normalisation. With a global one the factor of distance is left to the latents.
    """
    scanner = _Scanner(model, inputs, inpaint_passes, min_overlap)
    least = np.log10((1 + _LEAST_Z) / (1 + redshift)) / log10_step
    found = [
        _scan_one(scanner, flux[i], ivar[i], shifts[shifts >= least[i]]) for i in range(len(flux))
    ]
    columns = list(zip(*found, strict=True)) if found else [(), (), (), ()]
    return Scan(
        np.array(columns[0], np.int64),
        np.array(columns[1], np.float64),
        np.array(columns[2], np.float64),
        np.array(columns[3], np.int64),
    )


class _Scanner(NamedTuple):
    model: AutoEncoder
    inputs: ModelInputs
    passes: int
    min_overlap: float

    def squares(self, flux: Floats, ivar: Floats, shifts: Ints) -> Iterator[tuple[int, Doubles]]:
        """Each shift, and the squared pulls there by the pixel where the spectrum lies now."""
        for start in range(0, len(shifts), _ROWS_AT_ONCE):
            part = shifts[start : start + _ROWS_AT_ONCE]
            moved = _moved(flux, ivar, part)
            fed = self.inputs.apply(*moved)
            made = encode(
                self.model, fed.flux, fed.ivar, want_reconstruction=True,
                inpaint_passes=self.passes,
            )  # fmt: skip
            assert made.reconstruction is not None
            pulls = (made.reconstruction - fed.flux).astype(np.float64)
            squares = np.minimum(pulls * pulls * fed.ivar, _CUT)
            for k in np.flatnonzero(fed.usable):
                yield int(part[k]), squares[k]


def _scan_one(
    scanner: _Scanner, flux: Floats, ivar: Floats, shifts: Ints
) -> tuple[int, float, float, int]:
    n_pixels = len(flux)
    valid = ivar > 0
    counts = np.concatenate([[0], np.cumsum(valid)])
    here = next(scanner.squares(flux, ivar, np.zeros(1, np.int64)), None)
    if here is None:
        return 0, np.nan, np.nan, 0
    sums = np.concatenate([[0.0], np.cumsum(here[1])])

    def overlap(shift: int) -> tuple[float, int]:
        low, high = max(shift, 0), min(n_pixels + shift, n_pixels)
        return float(sums[high] - sums[low]), int(counts[high] - counts[low])

    def enough(tried: Ints) -> Ints:
        least = scanner.min_overlap * counts[-1]
        return np.array([s for s in tried if overlap(int(s))[1] >= least], np.int64)

    def gains(tried: Ints) -> list[tuple[float, int, float, float, int]]:
        made = []
        for shift, squares in scanner.squares(flux, ivar, enough(tried)):
            before, n = overlap(shift)
            after = float(squares.sum())
            made.append(((after - before) / max(n, 1), shift, after, before, n))
        return sorted(made)

    first = gains(shifts)
    if not first:
        return 0, np.nan, np.nan, 0
    stride = max(int(np.diff(shifts).min()), 1) if len(shifts) > 1 else 1
    same = int(np.abs(shifts).min())
    near = {
        s + d for _, s, *_ in first[:_N_BEST] for d in range(-stride + 1, stride)
        if d and abs(s + d) >= same
    }  # fmt: skip
    _, shift, after, before, n = sorted(first + gains(np.array(sorted(near), np.int64)))[0]
    return shift, after, before, n


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _moved(flux: Floats, ivar: Floats, shifts: Ints) -> tuple[Floats, Floats]:
    """A spectrum moved bluewards by each shift, shape (shift, pixel); missing beyond its ends."""
    n_pixels = len(flux)
    made_flux = np.zeros((len(shifts), n_pixels), np.float32)
    made_ivar = np.zeros((len(shifts), n_pixels), np.float32)
    for k in range(len(shifts)):
        for j in range(n_pixels):
            i = j + shifts[k]
            if 0 <= i < n_pixels and ivar[i] > 0:
                made_flux[k, j] = flux[i]
                made_ivar[k, j] = ivar[i]
    return made_flux, made_ivar
