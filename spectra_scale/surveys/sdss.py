"""SDSS spectra as arrays on the native grid: constants, types and the checks every reader shares.

Native pixels are integers k with ``log10 λ = k·1e-4`` (vacuum Å, formats.md §0.2). A release has
one grid for all of its spectra, from `SDSS_FIRST_PIXEL` on, `SDSS_N_PIXELS` long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.grid import SDSS_NATIVE
from spectra_scale.surveys.reasons import Reason

SDSS_FIRST_PIXEL = SDSS_NATIVE.first_pixel
"""First native pixel of a release: 10^3.548 = 3532 Å."""
SDSS_N_PIXELS = SDSS_NATIVE.n_pixels
"""Native pixels of a release: up to k = 40215, 10^4.0215 = 10508 Å."""

Floats = npt.NDArray[np.float32]
UInts = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class SpectrumArrays:
    """One spectrum on consecutive native pixels, observed frame.

    Parameters
    ----------
    first_pixel
        k of the first pixel.
    flux
        F_λ in 1e-17 erg s⁻¹ cm⁻² Å⁻¹, float32, shape (pixel,). As in the file: it may hold
        anything, NaN included, where `ivar` is 0.
    ivar
        Inverse variance of `flux`, float32, shape (pixel,); 0 marks a missing pixel.
    mask_bits
        AND_MASK (SPPIXMASK bits), uint32, shape (pixel,).
    """

    first_pixel: int
    flux: Floats
    ivar: Floats
    mask_bits: UInts


@dataclass(frozen=True, slots=True, eq=False)
class PlateArrays:
    """Spectra of one plate on common native pixels, observed frame.

    Parameters
    ----------
    fiber
        Fibre numbers, from 1, shape (fibre,).
    first_pixel
        k of the first pixel, the same for all.
    flux, ivar, mask_bits
        As in `SpectrumArrays`, shape (fibre, pixel).
    reason
        Why a fibre is unusable, shape (fibre,); empty where it is fine. An unusable fibre has
        ivar 0 throughout.
    n_repaired
        Pixels of each fibre whose ivar was set to 0, shape (fibre,).
    """

    fiber: Ints
    first_pixel: int
    flux: Floats
    ivar: Floats
    mask_bits: UInts
    reason: list[str]
    n_repaired: Ints


@dataclass(frozen=True, slots=True, eq=False)
class SpecFile:
    """What a single-object spectrum file holds.

    Parameters
    ----------
    arrays
        The co-added spectrum.
    row
        Its catalogue row by canonical name (`catalogue.CATALOGUE_COLUMNS`); None if not asked for.
    lines
        Its line measurements by canonical name (`lines.LINE_COLUMNS`); None if not asked for or
        if the file has none.
    n_repaired
        Pixels whose ivar was set to 0, because flux or ivar was NaN or infinite, or ivar < 0.
    """

    arrays: SpectrumArrays
    row: dict[str, Any] | None
    lines: dict[str, Any] | None
    n_repaired: int


def usable_ivar(flux: Floats, ivar: Floats) -> tuple[Floats, Ints]:
    """Set the inverse variance to 0 where a pixel cannot be used.

    Parameters
    ----------
    flux, ivar
        float32, shape (..., pixel).

    Returns
    -------
    ivar
        The same array if nothing had to be done, else a copy: 0 where `ivar` is negative, NaN or
        infinite, and where `flux` is NaN or infinite.
    n_repaired
        Pixels that were set to 0, shape (...,). Pixels with ivar 0 already do not count.
    """
    if is_plain(flux, ivar):
        return ivar, np.zeros(ivar.shape[:-1], np.int32)
    with np.errstate(invalid="ignore"):
        good = (ivar > 0) & np.isfinite(ivar) & np.isfinite(flux)
    repaired = np.count_nonzero(~good & (ivar != 0), axis=-1)
    return np.where(good, ivar, np.float32(0)), np.asarray(repaired, np.int32)


def is_plain(flux: Floats, ivar: Floats) -> bool:
    """Whether all of the flux is finite, and all of the inverse variance finite and not negative.

    Parameters
    ----------
    flux, ivar
        float32, contiguous, shape (..., pixel).

    Returns
    -------
    bool
        True for nearly all files: nothing has to be repaired.
    """
    if not flux.size:
        return True
    # A NaN makes minimum and maximum NaN; one pass over each is all that nearly all files need.
    low, high = np.minimum.reduce(ivar, axis=None), np.maximum.reduce(ivar, axis=None)
    return bool(low >= 0 and high < np.inf and np.logical_and.reduce(np.isfinite(flux), axis=None))


def reason_without_ivar(flux: Floats, ivar: Floats) -> Reason | None:
    """Say why a spectrum has no usable pixel.

    Parameters
    ----------
    flux, ivar
        As in the file, float32, shape (pixel,).

    Returns
    -------
    Reason or None
        None if there is a usable pixel.
    """
    with np.errstate(invalid="ignore"):
        positive = (ivar > 0) & np.isfinite(ivar)
    if (positive & np.isfinite(flux)).any():
        return None
    if positive.any():
        return Reason.NON_FINITE_FLUX
    return Reason.BAD_IVAR if (ivar != 0).any() else Reason.ALL_IVAR_ZERO


def is_outside_native_grid(first_pixel: int, ivar: Floats) -> bool:
    """Whether a spectrum has data outside the release's native grid.

    Parameters
    ----------
    first_pixel
        k of the first pixel.
    ivar
        Inverse variance, shape (pixel,).

    Returns
    -------
    bool
        True if a pixel with ivar > 0 is outside. Missing pixels outside are no loss.
    """
    low = SDSS_FIRST_PIXEL - first_pixel
    high = low + SDSS_N_PIXELS
    if low <= 0 and high >= len(ivar):
        return False
    return bool((ivar[: max(low, 0)] > 0).any() or (ivar[max(high, 0) :] > 0).any())


def place_on_native(
    first_pixel: int, arrays: tuple[Floats, Floats, UInts], out: tuple[Floats, Floats, UInts]
) -> None:
    """Write spectra into rows of a release's native arrays.

    Pixels of `out` that the spectra do not reach are left as they are (zero in a new shard);
    pixels outside the native grid are dropped: `is_outside_native_grid` tells whether they hold
    data.

    Parameters
    ----------
    first_pixel
        k of the first pixel of the spectra.
    arrays
        flux, ivar and mask bits, shape (..., pixel).
    out
        The same on the native grid, shape (..., `SDSS_N_PIXELS`); changed in place.
    """
    at = first_pixel - SDSS_FIRST_PIXEL
    n_pixels = arrays[0].shape[-1]
    start, stop = max(at, 0), min(at + n_pixels, SDSS_N_PIXELS)
    if stop > start:
        for source, target in zip(arrays, out, strict=True):
            target[..., start:stop] = source[..., start - at : stop - at]
