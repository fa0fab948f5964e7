"""What may be wrong with a spectrum, measured on the residuals of its reconstruction.

Nothing here knows a survey's sky or a model's weaknesses: how well each pixel of the rest frame is
usually reproduced, and where in the observed frame the sky makes spectra noisy or takes pixels
away, is learnt from the validation split (`ScaleSums`, then `Scales`). The statistics of
`measure_faults` are then in units of noise and usual misfit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum import fault_kernels
from spectra_scale.spectrum.compiled import readonly
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.vacuum import LINES, WEAK_LINES

__all__ = [
    "OWN_SCALE",
    "STATISTICS",
    "ScaleSums",
    "Scales",
    "measure_faults",
    "observed_offset",
    "quiet_pixels",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STATISTICS = (
    "misfit", "sky_ratio", "n_sky", "spike", "spike_wave", "n_spikes", "step",
    "step_sigma", "step_wave", "missing_blue", "missing_red", "missing_gap",
)  # fmt: skip
"""Columns of `measure_faults`, in order."""

#: Where the arms of a spectrograph meet (Å, observed, vacuum): SDSS and BOSS 5800-6150 Å (Smee et
#: al. 2013), DESI 5760-5800 and 7520-7620 Å.
SEAMS = {"sdss": (5975.0,), "sdssv": (5975.0,), "desi": (5780.0, 7570.0)}

#: Relative misfits that are told apart: 0.1 % to e⁷ times that, 6 bins an e-fold.
_FIRST, _BINS, _PER_FOLD = float(np.log(1e-3)), 48, 6.0
#: The misfit of a pixel is what makes 90 % of the pulls smaller than a Gaussian's 90 % (1.645 σ):
#: a tenth of the spectra may be broken or rare and it does not move.
_SHARE, _LIMIT = 0.90, 1.645
#: Broad-line spectra with a valid pixel from which their misfit there is their own: the 90 %
#: quantile of 50 is that of 86 to 94 %.
OWN_SCALE = 50
#: The observed grid reaches from the first rest-frame pixel this far beyond the last (dex): z = 1.
_REACH = 0.30
#: Neighbourhood in which the noise of a pixel is compared, either side (dex): 50 Å at 6000 Å, more
#: than a line of the sky is wide and less than a band of them.
_NEAR = 0.010
#: Noise beyond the neighbours' that makes a pixel one of the sky: ln σ/σ', a quarter more
#: variance.
_BRIGHT = 0.12
#: Share of spectra that have a pixel which all "usually" have.
_USUAL = 0.90
#: Core and reach of a spike; gap and reach of a step (dex). A cosmic ray hits up to four native
#: pixels; the arms of SDSS overlap over 5800-6150 Å, and change over within 90 Å of the seam.
_SPIKE, _STEP = (5e-4, 2.8e-3), (6e-3, 2.2e-2)
#: Pixels so near to an emission line (dex) are no place to look for cosmic rays: a line stronger
#: than the model knows is as narrow. 550 km/s; 1,250 for those that outflows give wings; 275 for
#: weak ones, of which only the core is seen.
_LINE, _STRONG_LINE, _WEAK_LINE = 8e-4, 1.8e-3, 4e-4
_STRONG = ("OII3727", "Hbeta", "OIII4960", "OIII5008", "NII6549", "Halpha", "NII6585")
_ABSORPTION = ("CaK", "CaH", "Gband", "Mgb", "NaD")


def observed_offset(redshift: npt.ArrayLike, grid: WavelengthGrid) -> Ints:
    """Pixels from a rest-frame pixel to its place on the observed grid, shape (spectrum,)."""
    shift = np.log10(1.0 + np.asarray(redshift, dtype=np.float64)) / grid.log10_step
    return np.rint(shift).astype(np.int64)


def _n_observed(grid: WavelengthGrid) -> int:
    return grid.n_pixels + round(_REACH / grid.log10_step)


@dataclass(frozen=True, slots=True, eq=False)
class ScaleSums:
    """Unfinished scales; ``+`` merges.

    Parameters
    ----------
    misfit
        Spectra by the relative misfit that they need at a pixel, broad-line ones apart, shape
        (2, pixel, bin): others first.
    excess, valid, seen
        Sum of ln(σ / median σ nearby), valid pixels, and pixels, shape (observed pixel,).
    """

    misfit: Doubles
    excess: Doubles
    valid: Doubles
    seen: Doubles

    @classmethod
    def of(
        cls,
        recon: Floats,
        flux: Floats,
        ivar: Floats,
        redshift: npt.ArrayLike,
        broad: npt.ArrayLike,
        grid: WavelengthGrid,
    ) -> ScaleSums:
        """Sums of a block of spectra.

        Parameters
        ----------
        recon, flux, ivar
            Reconstruction, flux and inverse variance in one unit, rest frame, shape (spectrum,
            pixel); ivar 0 is missing.
        redshift, broad
            Redshift, and whether the spectrum is one of broad lines, shape (spectrum,).
        grid
            Of the pixels.
        """
        sums = cls.empty(grid)
        arrays = [readonly(array, np.float32) for array in (recon, flux, ivar)]
        group = readonly(broad, np.int64)
        fault_kernels.add_misfit(*arrays, group, (_LIMIT, _FIRST, _PER_FOLD), sums.misfit)
        near = max(round(_NEAR / grid.log10_step), 2)
        offset = readonly(observed_offset(redshift, grid), np.int64)
        fault_kernels.add_observed(arrays[2], offset, near, sums.excess, sums.valid, sums.seen)
        return sums

    @classmethod
    def empty(cls, grid: WavelengthGrid) -> ScaleSums:
        """Sums over no spectra."""
        n = _n_observed(grid)
        return cls(np.zeros((2, grid.n_pixels, _BINS)), np.zeros(n), np.zeros(n), np.zeros(n))

    def __add__(self, other: ScaleSums) -> ScaleSums:
        return ScaleSums(
            self.misfit + other.misfit,
            self.excess + other.excess,
            self.valid + other.valid,
            self.seen + other.seen,
        )


class Scales(NamedTuple):
    """What is usual in the validation split.

    Parameters
    ----------
    misfit
        Relative error of the reconstruction beside the noise, shape (2, pixel): of broad-line
        spectra in the second row, of the others in the first; that of all where there are too
        few (`OWN_SCALE`).
    sky
        Where lines of the sky dominate the noise, shape (observed pixel,).
    usual
        Where nearly all spectra have valid pixels, shape (observed pixel,).
    """

    misfit: Floats
    sky: Bools
    usual: Bools

    @classmethod
    def of(cls, sums: ScaleSums) -> Scales:
        """Scales from sums over the validation split."""
        own = sums.misfit[1].sum(axis=-1, keepdims=True) >= OWN_SCALE
        hist = np.where(own, sums.misfit, sums.misfit.sum(axis=0))
        share = np.cumsum(hist, axis=-1) / np.maximum(hist.sum(axis=-1, keepdims=True), 1)
        at = np.argmax(share >= _SHARE, axis=-1)
        # The centre of a bin; none for the first, which needs none.
        misfit = np.where(at > 0, np.exp(_FIRST + (at - 0.5) / _PER_FOLD), 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            sky = np.nan_to_num(sums.excess / sums.valid) > _BRIGHT
            usual = np.nan_to_num(sums.valid / sums.seen) >= _USUAL
        return cls(misfit.astype(np.float32), sky, usual)


def quiet_pixels(grid: WavelengthGrid) -> Bools:
    """Pixels away from the emission lines of galaxies, shape (pixel,).

    A line that the model does not know, or draws too bright, is as narrow as a cosmic ray on this
    grid: of the mock's cosmic rays half spill under 15 % of their peak into a neighbour, and so do
    half of the residuals at [Fe VII]. Width does not tell them apart.
    """
    emitted = [name for name in LINES if name not in _ABSORPTION]
    lines = [*(LINES[name] for name in emitted), *WEAK_LINES.values()]
    reach = [_STRONG_LINE if name in _STRONG else _LINE for name in emitted]
    reach += [_WEAK_LINE] * len(WEAK_LINES)
    away = np.abs(np.log10(grid.centres)[:, None] - np.log10(lines)) - reach
    found: Bools = away.min(axis=1) > 0.5 * grid.log10_step
    return found


def measure_faults(
    recon: Floats,
    flux: Floats,
    ivar: Floats,
    redshift: npt.ArrayLike,
    broad: npt.ArrayLike,
    how: tuple[Scales, WavelengthGrid, str],
) -> dict[str, Doubles]:
    """Statistics of what may be wrong with each spectrum.

    A pull is (F - F_rec) / √(1/v + (f F_rec)²) with f the misfit that is usual at the pixel.

    Parameters
    ----------
    recon, flux, ivar
        Reconstruction, flux and inverse variance in one unit, rest frame, shape (spectrum, pixel);
        ivar 0 is missing.
    redshift, broad
        Redshift, and whether the spectrum is one of broad lines, shape (spectrum,).
    how
        Scales of the validation split, grid of the pixels, and survey (`SEAMS`).

    Returns
    -------
    dict
        Columns `STATISTICS`, each float64 of shape (spectrum,):

        - ``misfit``: mean of pull² away from lines of the sky, each cut at 9: 1 is usual;
        - ``sky_ratio``: mean pull² at lines of the sky, each cut at 25, over that elsewhere;
          ``n_sky`` pixels of the sky; NaN with fewer than 8;
        - ``spike``, ``spike_wave``: greatest |pull| above the median of the neighbours', away
          from lines of the sky, and its observed wavelength (Å; 0 if none reaches 3);
          ``n_spikes`` beyond 5. Near emission lines of the galaxy (`quiet_pixels`) only what lies
          below the reconstruction of all neighbours counts, by as much as it does;
        - ``step``, ``step_sigma``, ``step_wave``: jump of F / F_rec where two arms meet, its
          significance, less where jumps are common elsewhere in the spectrum, and the observed
          wavelength (Å; 0 if not covered);
        - ``missing_blue``, ``missing_red``, ``missing_gap``: share of the grid missing at either
          end and in the longest gap, of what other spectra have at that observed wavelength.
    """
    scales, grid, survey = how
    arrays = [readonly(array, np.float32) for array in (recon, flux, ivar)]
    offset = readonly(observed_offset(redshift, grid), np.int64)
    step, start = grid.log10_step, float(np.log10(grid.centres[0]))
    seams = [round((np.log10(wave) - start) / step) for wave in SEAMS.get(survey, ())]
    widths = [max(round(w / step), 1) for w in (*_SPIKE, *_STEP)]
    widths[1] = max(widths[1], widths[0] + 3)
    out = np.zeros((len(flux), len(STATISTICS)))
    fault_kernels.measure(
        *arrays,
        (offset, readonly(broad, np.int64)),
        (
            readonly(scales.misfit, np.float32),
            readonly(scales.sky, np.bool_),
            readonly(scales.usual, np.bool_),
            readonly(quiet_pixels(grid), np.bool_),
        ),
        (widths[0], widths[1], widths[2], widths[3]),
        readonly(np.array(seams, np.int64), np.int64),
        out,
    )
    columns = dict(zip(STATISTICS, out.T.copy(), strict=True))
    place = columns["spike_wave"] + offset
    columns["spike_wave"] = np.where(columns["spike"] > 0, 10 ** (start + step * place), 0.0)
    place = columns["step_wave"] + offset
    columns["step_wave"] = np.where(columns["step_sigma"] > 0, 10 ** (start + step * place), 0.0)
    return columns
