"""Blocks of spectra: as a survey published them, and in the rest frame.

The frame is in the type. `ObservedSpectra` becomes `RestSpectra` in
`spectra_scale.spectrum.preprocess.to_rest_frame` and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.grid import NATIVE_STEP, WavelengthGrid, native_edges

__all__ = [
    "NATIVE_STEP",
    "ObservedSpectra",
    "OffGridError",
    "RestSpectra",
    "ShapeError",
    "snap_loglam",
]

Floats = npt.NDArray[np.float32]

# A tenth of a native pixel. The float32 column of real files is off by up to 2.4e-7 dex.
_SNAP_TOLERANCE = 1e-5


class ShapeError(SpectraScaleError, ValueError):
    """Arrays that belong together do not have shapes that fit."""


class OffGridError(SpectraScaleError, ValueError):
    """Wavelengths do not lie on consecutive pixels of the native 1e-4 dex grid."""


def _require_shape(owner: str, name: str, found: tuple[int, ...], expected: object) -> None:
    if found != expected:
        msg = (
            f"{owner}.{name} has shape {found}, expected {expected}. "
            "Give arrays of shape (spectrum, pixel) with one key a spectrum."
        )
        raise ShapeError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class ObservedSpectra:
    """Spectra in the observed frame, on one native grid.

    Parameters
    ----------
    spectrum_key
        Name of each observation (science.md §4), strings, shape (spectrum,).
    first_pixel
        Native index k of column 0. Column i is centred on ``log10 λ = (k + i)·1e-4``, or on
        ``λ = (k + i)·linear_step`` where `linear_step` is given.
    flux
        Flux density in 1e-17 erg s⁻¹ cm⁻² Å⁻¹, vacuum wavelengths, shape (spectrum, pixel). May
        hold anything, NaN too, where `ivar` is 0.
    ivar
        Inverse variance of `flux`, same shape; 0 marks a missing pixel.
    mask_bits
        Mask of the survey (SDSS AND_MASK, DESI MASK), same shape.
    linear_step
        Å per pixel of a survey with linear pixels (DESI: 0.8, `first_pixel` 4500); 0 for the
        logarithmic SDSS grid.

    Raises
    ------
    ShapeError
        If the shapes do not fit together.

    Notes
    -----
    Arrays are held C-contiguous, as float32, float32 and uint32 in the byte order of the machine;
    those that come so are not copied.
    """

    spectrum_key: npt.NDArray[Any]
    first_pixel: int
    flux: Floats
    ivar: Floats
    mask_bits: npt.NDArray[np.uint32]
    linear_step: float = 0.0

    def __post_init__(self) -> None:
        shape = np.shape(self.flux)
        if len(shape) != 2:
            _require_shape("ObservedSpectra", "flux", shape, ("spectrum", "pixel"))
        _require_shape("ObservedSpectra", "ivar", np.shape(self.ivar), shape)
        _require_shape("ObservedSpectra", "mask_bits", np.shape(self.mask_bits), shape)
        _require_shape("ObservedSpectra", "spectrum_key", np.shape(self.spectrum_key), shape[:1])
        # A frozen dataclass is filled this way; big-endian FITS columns are turned round here.
        object.__setattr__(self, "flux", np.ascontiguousarray(self.flux, dtype=np.float32))
        object.__setattr__(self, "ivar", np.ascontiguousarray(self.ivar, dtype=np.float32))
        bits = np.asarray(self.mask_bits).astype(np.uint32, order="C", copy=False)
        object.__setattr__(self, "mask_bits", bits)

    def __len__(self) -> int:
        return len(self.flux)

    @property
    def n_pixels(self) -> int:
        """Number of native pixels."""
        return int(self.flux.shape[1])

    @property
    def wavelength(self) -> npt.NDArray[np.float64]:
        """Pixel centres, observed frame, vacuum Å, shape (pixel,)."""
        index = np.arange(self.first_pixel, self.first_pixel + self.n_pixels, dtype=np.float64)
        if self.linear_step > 0:
            return index * self.linear_step
        centres: npt.NDArray[np.float64] = 10.0 ** (index * NATIVE_STEP)
        return centres

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Pixel edges, observed frame, vacuum Å, shape (pixel + 1,)."""
        if self.linear_step > 0:
            index = np.arange(self.n_pixels + 1, dtype=np.float64) + (self.first_pixel - 0.5)
            return index * self.linear_step
        return native_edges(self.first_pixel, self.n_pixels)


@dataclass(frozen=True, slots=True, eq=False)
class RestSpectra:
    """Spectra in the rest frame, on the grid of a sample.

    Parameters
    ----------
    spectrum_key
        Name of each observation, shape (spectrum,).
    redshift
        Redshift each was moved by, float64, shape (spectrum,).
    grid
        The rest-frame wavelength grid.
    flux
        float32, shape (spectrum, grid.n_pixels): F_λ in 1e-17 erg s⁻¹ cm⁻² Å⁻¹ with the preset
        ``conserve``, λF_λ moved to z = 0.1 with ``reference``. 0 where `ivar` is 0.
    ivar
        Inverse variance of `flux`, same shape; 0 marks a missing pixel.

    Raises
    ------
    ShapeError
        If the shapes do not fit together.
    """

    spectrum_key: npt.NDArray[Any]
    redshift: npt.NDArray[np.float64]
    grid: WavelengthGrid
    flux: Floats
    ivar: Floats

    def __post_init__(self) -> None:
        expected = (np.size(self.redshift), self.grid.n_pixels)
        _require_shape("RestSpectra", "flux", np.shape(self.flux), expected)
        _require_shape("RestSpectra", "ivar", np.shape(self.ivar), expected)
        _require_shape("RestSpectra", "redshift", np.shape(self.redshift), expected[:1])
        _require_shape("RestSpectra", "spectrum_key", np.shape(self.spectrum_key), expected[:1])

    def __len__(self) -> int:
        return len(self.flux)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """True where a pixel is good (the paper's convention), shape of `flux`."""
        good: npt.NDArray[np.bool_] = self.ivar > 0
        return good


def snap_loglam(loglam: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Turn a ``loglam`` column into exact native pixel indices (formats.md §0.2).

    Parameters
    ----------
    loglam
        log10 of the vacuum wavelength in Å, shape (pixel,), usually float32.

    Returns
    -------
    numpy.ndarray
        k with ``log10 λ = k·1e-4``, int64, shape (pixel,).

    Raises
    ------
    OffGridError
        If a value is not finite, lies more than 1e-5 dex from the grid, or the pixels are not
        consecutive.

    Examples
    --------
    >>> snap_loglam(np.float32([3.5792, 3.5793, 3.5794]))
    array([35792, 35793, 35794])
    """
    values = np.asarray(loglam, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        msg = (
            f"loglam has shape {values.shape} and {int((~np.isfinite(values)).sum())} values that "
            "are not finite; expected one finite log10 wavelength a pixel. The file is damaged."
        )
        raise OffGridError(msg)
    nearest = np.rint(values / NATIVE_STEP)
    away = np.abs(values - nearest * NATIVE_STEP)
    if away.size and away.max() > _SNAP_TOLERANCE:
        worst = int(away.argmax())
        msg = (
            f"loglam[{worst}] = {values[worst]:.7f} lies {away[worst]:.1e} dex off the native "
            f"grid of 1e-4 dex (at most {_SNAP_TOLERANCE:g} allowed). Only spectra on the SDSS "
            "logarithmic grid can be snapped; rebin others first."
        )
        raise OffGridError(msg)
    pixel = nearest.astype(np.int64)
    gaps = np.flatnonzero(np.diff(pixel) != 1)
    if gaps.size:
        at = int(gaps[0])
        msg = (
            f"loglam goes from pixel {pixel[at]} to {pixel[at + 1]} at row {at}; expected "
            "consecutive pixels. The file lacks rows or is not sorted."
        )
        raise OffGridError(msg)
    return pixel
