"""From the observed to the rest frame: the two presets of science.md §2."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import UsageError
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.kernels import rest_frame_conserve, rest_frame_reference
from spectra_scale.spectrum.masks import mask_bits_of, reject_bits
from spectra_scale.spectrum.observed import ObservedSpectra, RestSpectra, ShapeError
from spectra_scale.spectrum.quality import Quality, measure_quality

__all__ = ["FLUX_UNITS", "Preprocess", "to_rest_frame"]

FLUX_UNITS = {
    "conserve": "1e-17 erg s^-1 cm^-2 Angstrom^-1",
    "reference": "1e-17 erg s^-1 cm^-2 (lambda F_lambda moved to z = 0.1)",
}
"""Unit of the rest-frame flux, by preset."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """One complete, recorded set of choices of how spectra come to the rest frame.

    Parameters
    ----------
    preset
        ``conserve``: exact and flux-conserving. ``reference``: the paper's own data set.
    mask
        Mask preset (`spectra_scale.spectrum.masks.MASK_PRESETS`); the paper used ``paper``.
    min_coverage
        ``conserve`` keeps a grid pixel covered by valid native pixels at least to this fraction.
    grid
        Rest-frame grid.

    Raises
    ------
    UsageError
        If the preset or the mask is unknown or `min_coverage` is outside 0 to 1.
    """

    preset: str = "conserve"
    mask: str = "strict"
    min_coverage: float = 0.5
    grid: WavelengthGrid = field(default_factory=WavelengthGrid.rest_frame)

    def __post_init__(self) -> None:
        if self.preset not in FLUX_UNITS:
            msg = (
                f"Unknown preprocess preset {self.preset!r}; expected one of "
                f"{', '.join(FLUX_UNITS)}. Set [prepare] preset in the job to one of these."
            )
            raise UsageError(msg)
        if not 0.0 <= self.min_coverage <= 1.0:
            msg = (
                f"min_coverage is {self.min_coverage}; expected a fraction from 0 to 1. "
                "Correct [prepare] min_coverage in the job."
            )
            raise UsageError(msg)
        mask_bits_of(self.mask)

    @property
    def flux_unit(self) -> str:
        """Unit of the rest-frame flux."""
        return FLUX_UNITS[self.preset]


def to_rest_frame(
    observed: ObservedSpectra,
    redshift: npt.ArrayLike,
    settings: Preprocess,
    luminosity_factor: npt.ArrayLike | None = None,
    extinction: npt.ArrayLike | None = None,
) -> tuple[RestSpectra, Quality]:
    """Move a block of spectra to the rest frame and measure their quality (science.md §2, §3).

    Parameters
    ----------
    observed
        The spectra.
    redshift
        Shape (spectrum,). Where 1+z is not positive and finite the spectrum comes out missing
        (masked fraction 1).
    settings
        Preset, mask, coverage and grid.
    luminosity_factor
        (d_L(z)/d_L(0.1))², shape (spectrum,); for the preset ``reference`` only. Cosmology is
        the caller's.
    extinction
        Factor to multiply the observed flux with, to undo Milky Way dust: shape (native,) or
        (spectrum, native), positive and finite. ivar is divided by its square.

    Returns
    -------
    rest : RestSpectra
        Spectra on ``settings.grid``; flux is 0 where ivar is 0.
    quality : Quality
        S/N and masked fraction of each.

    Raises
    ------
    ShapeError
        If the arguments do not have one value a spectrum, or `extinction` does not fit.
    UsageError
        If `luminosity_factor` lacks in ``reference``, or is given in ``conserve``.
    """
    z = _per_spectrum("redshift", redshift, len(observed))
    if (luminosity_factor is not None) != (settings.preset == "reference"):
        msg = (
            f"luminosity_factor is {'given' if luminosity_factor is not None else 'missing'} with "
            f"preset {settings.preset!r}; expected it with 'reference' and only there. Pass "
            "(d_L(z)/d_L(0.1))**2 a spectrum, or change the preset."
        )
        raise UsageError(msg)
    if extinction is not None:
        observed = _deredden(observed, extinction)
    reject = int(reject_bits(settings.mask, observed.linear_step))
    arrays = (observed.flux, observed.ivar, observed.mask_bits)
    edges = settings.grid.edges
    if luminosity_factor is None:
        flux, ivar, variance = rest_frame_conserve(
            *arrays, observed.edges, z, edges, reject, settings.min_coverage
        )
    else:
        factor = _per_spectrum("luminosity_factor", luminosity_factor, len(observed))
        flux, ivar, variance = rest_frame_reference(
            *arrays, observed.wavelength, z, edges, reject, factor
        )
    rest = RestSpectra(observed.spectrum_key, z, settings.grid, flux, ivar)
    return rest, measure_quality(flux, ivar, variance)


def _per_spectrum(name: str, values: npt.ArrayLike, n_spectra: int) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n_spectra,):
        msg = (
            f"{name} has shape {array.shape}, expected ({n_spectra},): one value a spectrum of "
            "the block."
        )
        raise ShapeError(msg)
    return array


def _deredden(observed: ObservedSpectra, extinction: npt.ArrayLike) -> ObservedSpectra:
    factor = np.asarray(extinction, dtype=np.float32)
    n_spectra, n_pixels = observed.flux.shape
    if factor.shape not in {(n_pixels,), (n_spectra, n_pixels)}:
        msg = (
            f"extinction has shape {factor.shape}, expected ({n_pixels},) or "
            f"({n_spectra}, {n_pixels}): one factor a native pixel."
        )
        raise ShapeError(msg)
    if not ((factor > 0) & (factor < np.inf)).all():
        msg = (
            "extinction holds factors that are not positive and finite; expected 10**(0.4 A). "
            "Look for missing E(B-V) in the catalogue."
        )
        raise ShapeError(msg)
    # What is no number stays none, and is masked further on; it needs no warning here.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return replace(
            observed, flux=observed.flux * factor, ivar=observed.ivar / (factor * factor)
        )
