"""Input normalisation of the auto-encoder (science.md §6): part of the model, not of a sample.

χ² does not change under it: flux is divided by a factor, inverse variance multiplied by its
square.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spectra_scale.errors import SpectraScaleError, UsageError

Floats = NDArray[np.float32]
NormalisationKind = Literal["median", "global", "none"]

_ROWS_AT_ONCE = 4096  # keeps the sorted copy small enough for the cache levels that matter


def valid_pixels(flux: NDArray[np.floating], ivar: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Where a pixel can be used: ivar positive, flux and ivar finite; shape of the inputs."""
    valid: NDArray[np.bool_] = (ivar > 0) & np.isfinite(flux) & np.isfinite(ivar)
    return valid


def masked_median(flux: Floats, ivar: Floats) -> Floats:
    """Median flux over the valid pixels of each spectrum.

    Parameters
    ----------
    flux, ivar
        Shape (spectrum, pixel); a pixel with ivar 0 is missing, and its flux may be NaN.

    Returns
    -------
    Shape (spectrum,), float32; NaN for a spectrum with no valid pixel. With an even number of
    valid pixels it is the mean of the two middle ones.
    """
    median = np.empty(len(flux), np.float32)
    for start in range(0, len(flux), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        valid = valid_pixels(flux[rows], ivar[rows])
        # Missing pixels sort to the end, so the middle of the first n_valid is the median: one
        # vectorised sort is some fifty times faster than np.nanmedian.
        ordered = np.sort(np.where(valid, flux[rows], np.float32(np.inf)), axis=1)
        count = valid.sum(axis=1)
        at = np.arange(len(ordered))
        low = ordered[at, np.maximum(count - 1, 0) // 2].astype(np.float64)
        high = ordered[at, count // 2]
        median[rows] = np.where(count > 0, 0.5 * (low + high), np.nan)
    return median


@njit(cache=True, nogil=True, error_model="numpy")
def scale_in_place(flux: Floats, ivar: Floats, factor: Floats) -> None:
    """Divide flux by a factor and multiply ivar by its square, in one pass over memory.

    Parameters
    ----------
    flux, ivar
        Shape (spectrum, pixel), changed in place; a pixel with ivar 0 is missing: both are 0.
    factor
        Shape (spectrum,); a spectrum with 0 is missing throughout.
    """
    zero = np.float32(0.0)
    for i in range(len(flux)):
        by = factor[i]
        for j in range(flux.shape[1]):
            good = by > 0 and ivar[i, j] > 0
            flux[i, j] = flux[i, j] / by if good else zero
            ivar[i, j] = ivar[i, j] * by * by if good else zero


class Normalised(NamedTuple):
    """Spectra ready for the model.

    Parameters
    ----------
    flux, ivar
        Shape (spectrum, pixel), float32, dimensionless; both 0 at missing pixels and throughout
        unusable spectra.
    factor
        What the flux was divided by, shape (spectrum,), in the unit of the flux; 0 if unusable.
    usable
        False where the spectrum has no valid pixel or a median that is not positive. The caller
        drops such rows, with the reason ``median_not_positive``.
    """

    flux: Floats
    ivar: Floats
    factor: Floats
    usable: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How flux is scaled before the model sees it.

    Parameters
    ----------
    kind
        ``median``: each spectrum by its median valid flux; ``global``: all by one number, see
        `fit_global`; ``none``: as it is.
    scale
        The number of ``global``, in the unit of the flux; unused otherwise.
    """

    kind: NormalisationKind = "median"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(NormalisationKind):
            message = f"normalisation {self.kind!r} is none of {get_args(NormalisationKind)}."
            raise UsageError(message)
        if not (math.isfinite(self.scale) and self.scale > 0):
            message = f"The scale of a normalisation must be positive, not {self.scale}."
            raise UsageError(message)

    def factor(self, flux: Floats, ivar: Floats) -> Floats:
        """Divisor of each spectrum.

        Parameters
        ----------
        flux, ivar
            Shape (spectrum, pixel); a pixel with ivar 0 is missing, and its flux may be NaN.

        Returns
        -------
        Shape (spectrum,), float32, in the unit of the flux; 0 where there is no positive one, so
        ``factor > 0`` says which spectra are usable.
        """
        if self.kind == "median":
            median = masked_median(flux, ivar)
            return np.where(median > 0, median, np.float32(0.0))
        scale = self.scale if self.kind == "global" else 1.0
        return np.where(valid_pixels(flux, ivar).any(axis=1), np.float32(scale), np.float32(0.0))

    def apply(self, flux: Floats, ivar: Floats, factor: Floats | None = None) -> Normalised:
        """Flux divided by the factor, inverse variance multiplied by its square.

        Parameters
        ----------
        flux, ivar
            Shape (spectrum, pixel); a pixel with ivar 0 is missing, and its flux may be NaN.
        factor
            What `factor` gave for these rows before, to save the medians in every epoch.

        Returns
        -------
        Spectra for the model; unusable ones are missing throughout, so they weigh nothing.
        """
        divisor = self.factor(flux, ivar) if factor is None else factor
        usable = divisor > 0
        column = np.where(usable, divisor, np.float32(1.0))[:, np.newaxis]
        good = valid_pixels(flux, ivar) & usable[:, np.newaxis]
        zero = np.float32(0.0)
        scaled = np.where(good, flux, zero)
        scaled /= column
        weight = np.where(good, ivar, zero)
        weight *= column
        weight *= column
        return Normalised(scaled, weight, divisor, usable)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON can hold them."""
        return {"kind": self.kind, "scale": self.scale}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Normalisation:
        """Inverse of `to_dict`."""
        return cls(fields["kind"], float(fields["scale"]))


@dataclass(frozen=True, slots=True)
class FluxSums:
    """Unfinished mean flux; ``+`` merges the sums of two sets of spectra.

    Parameters
    ----------
    total
        Sum of valid flux.
    count
        Number of pixels, missing ones included.
    """

    total: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, flux: Floats, ivar: Floats) -> FluxSums:
        """Sum a block of spectra of shape (spectrum, pixel); a missing pixel counts as 0."""
        total = np.sum(flux, where=valid_pixels(flux, ivar), dtype=np.float64)
        return cls(float(total), int(flux.size))

    def __add__(self, other: FluxSums) -> FluxSums:
        return FluxSums(self.total + other.total, self.count + other.count)


def fit_global(sums: FluxSums) -> Normalisation:
    """Global normalisation by the mean over a whole set, masked zeros included.

    Reference: science.md §2, ``reference`` step 7.

    Parameters
    ----------
    sums
        Sums over the training split.

    Returns
    -------
    A normalisation of kind ``global``.
    """
    mean = sums.total / sums.count if sums.count else 0.0
    if not (math.isfinite(mean) and mean > 0):
        message = (
            f"The mean flux of the training split is {mean:g} over {sums.count} pixels, so it "
            "cannot normalise the spectra. Check the sample, or use normalisation = 'median'."
        )
        raise SpectraScaleError(message)
    return Normalisation("global", mean)
