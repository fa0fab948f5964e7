"""Stacks on the native grid, as partial sums that merge (science.md §9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.compiled import readonly
from spectra_scale.spectrum.grid import STACK_FIRST, STACK_N_PIXELS, stack_edges, stack_wavelength
from spectra_scale.spectrum.kernels import (
    add_to_stacks,
    masked_median,
    rest_frame_conserve,
    shift_spectra,
)
from spectra_scale.spectrum.observed import ObservedSpectra, ShapeError

__all__ = [
    "StackSums",
    "bootstrap_error",
    "bootstrap_multiplicity",
    "median_stack",
    "shift_to_stack",
    "stack_regions",
    "unweighted_mean",
    "window_scale",
]

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

# Of DESI pixels: a stack pixel is kept where valid pixels cover half of it, as in science.md §2.
_MIN_COVERAGE = 0.5

# P(Poisson(1) <= k) for k = 0, 1, ...; beyond 12 less than one draw in 10^10 is left.
_POISSON_STEPS = np.cumsum(np.exp(-1.0) / np.cumprod(np.r_[1.0, np.arange(1.0, 13.0)]))


@dataclass(frozen=True, slots=True, eq=False)
class StackSums:
    """An unfinished stack; ``+`` merges two, in any order and grouping.

    Parameters
    ----------
    weight
        Σ v, float64, shape (pixel,).
    weighted_flux
        Σ v F, likewise.
    count
        Number of contributing spectra, int64.
    weight_squared
        Σ v².
    """

    weight: Doubles
    weighted_flux: Doubles
    count: npt.NDArray[np.int64]
    weight_squared: Doubles

    @classmethod
    def zeros(cls, n_pixels: int = STACK_N_PIXELS) -> StackSums:
        """Give the stack of no spectra, the neutral element of ``+``.

        Parameters
        ----------
        n_pixels
            Length of the stack.
        """
        return cls(
            np.zeros(n_pixels),
            np.zeros(n_pixels),
            np.zeros(n_pixels, dtype=np.int64),
            np.zeros(n_pixels),
        )

    @classmethod
    def of(cls, flux: npt.ArrayLike, ivar: npt.ArrayLike) -> StackSums:
        """Sum a block of spectra.

        Parameters
        ----------
        flux
            Rest-frame flux density, shape (spectrum, pixel). Ignored where `ivar` is 0, so it may
            hold NaN there.
        ivar
            Inverse variance of `flux`, same shape; 0 marks a missing pixel.
        """
        weight = np.asarray(ivar, dtype=np.float64)
        good = weight > 0
        terms = np.where(good, weight * np.where(good, flux, 0.0), 0.0)
        weight = np.where(good, weight, 0.0)
        return cls(
            weight.sum(axis=0),
            terms.sum(axis=0),
            good.sum(axis=0, dtype=np.int64),
            (weight * weight).sum(axis=0),
        )

    def __add__(self, other: StackSums) -> StackSums:
        return StackSums(
            self.weight + other.weight,
            self.weighted_flux + other.weighted_flux,
            self.count + other.count,
            self.weight_squared + other.weight_squared,
        )

    def flux(self) -> Doubles:
        """Give the stack Σ v F / Σ v, shape (pixel,); NaN where no spectrum contributes."""
        return _ratio(self.weighted_flux, self.weight, self.weight > 0)

    def error(self) -> Doubles:
        """Give its error (Σ v)^(-1/2), shape (pixel,); NaN where no spectrum contributes."""
        return np.sqrt(_ratio(np.ones_like(self.weight), self.weight, self.weight > 0))

    def n_eff(self) -> Doubles:
        """Give (Σ v)²/Σ v², the number of spectra that own the stack; NaN where none does."""
        return _ratio(self.weight * self.weight, self.weight_squared, self.weight_squared > 0)


def _ratio(upper: Doubles, lower: Doubles, where: npt.NDArray[np.bool_]) -> Doubles:
    out = np.full(upper.shape, np.nan)
    np.divide(upper, lower, out=out, where=where)
    return out


def _on_native_grid(
    observed: ObservedSpectra, redshift: npt.ArrayLike, reject_bits: int
) -> tuple[ObservedSpectra, Doubles, int]:
    """Give spectra on the 1e-4 dex grid, their redshifts and reject bits.

    Linear (DESI) pixels are rebinned to the rest-frame stack grid by the kernel of science.md §2;
    they have no redshift and no masks left.
    """
    z = np.asarray(redshift, dtype=np.float64)
    if z.shape != (len(observed),):
        msg = f"redshift has shape {z.shape}, expected ({len(observed)},): one a spectrum."
        raise ShapeError(msg)
    if observed.linear_step <= 0:
        return observed, z, reject_bits
    arrays = (observed.flux, observed.ivar, observed.mask_bits)
    flux, ivar, _ = rest_frame_conserve(
        *arrays, observed.edges, z, stack_edges(), reject_bits, _MIN_COVERAGE
    )
    clear = np.zeros(flux.shape, dtype=np.uint32)
    rest = ObservedSpectra(observed.spectrum_key, STACK_FIRST, flux, ivar, clear)
    return rest, np.zeros(len(z)), 0


def stack_regions(
    observed: ObservedSpectra,
    redshift: npt.ArrayLike,
    membership: npt.ArrayLike,
    reject_bits: int,
    scale: npt.ArrayLike | None = None,
) -> list[StackSums]:
    """Stack a block of spectra into every region, in one pass over its pixels.

    Each native pixel lands on one pixel of the stack, by a shift of whole pixels (science.md §9).

    Parameters
    ----------
    observed
        The spectra. Those with linear pixels (DESI) are rebinned to the stack grid first.
    redshift
        Shape (spectrum,). A spectrum whose 1+z is not positive and finite is left out.
    membership
        Shape (spectrum, region): booleans, or how often a spectrum counts (0 to 65535), so that
        bootstrap replicas are regions like any other.
    reject_bits
        A native pixel with any of these bits set is missing.
    scale
        Factor on the flux of each spectrum (ivar is divided by its square), shape (spectrum,), 1
        by default. A spectrum whose scale is not positive and finite is left out.

    Returns
    -------
    list of StackSums
        One a region, 4000 pixels from log10 λ = 3.5 (`stack_wavelength`).

    Raises
    ------
    ShapeError
        If `redshift`, `membership` or `scale` do not have one row a spectrum.
    """
    n_spectra = len(observed)
    members = np.asarray(membership)
    factor = np.ones(n_spectra) if scale is None else np.asarray(scale, dtype=np.float64)
    if members.ndim != 2 or len(members) != n_spectra or factor.shape != (n_spectra,):
        msg = (
            f"membership has shape {members.shape} and scale {factor.shape}, expected "
            f"({n_spectra}, region) and ({n_spectra},): one row a spectrum of the block."
        )
        raise ShapeError(msg)
    native, z, reject = _on_native_grid(observed, redshift, reject_bits)
    sums = np.zeros((4, members.shape[1], STACK_N_PIXELS))
    add_to_stacks(
        (sums[0], sums[1], sums[2], sums[3]),
        _arrays(native),
        native.first_pixel,
        readonly(z, np.float64),
        readonly(factor, np.float64),
        readonly(members, np.uint16),
        np.uint32(reject),
        STACK_FIRST,
    )
    return [
        StackSums(sums[0, r], sums[1, r], sums[2, r].astype(np.int64), sums[3, r])
        for r in range(members.shape[1])
    ]


def _arrays(observed: ObservedSpectra) -> tuple[Floats, Floats, npt.NDArray[np.uint32]]:
    return (
        readonly(observed.flux, np.float32),
        readonly(observed.ivar, np.float32),
        readonly(observed.mask_bits, np.uint32),
    )


def shift_to_stack(
    observed: ObservedSpectra, redshift: npt.ArrayLike, reject_bits: int
) -> tuple[Floats, Floats]:
    """Lay spectra on the stack grid, one row each, for medians and for looking at them.

    Parameters
    ----------
    observed
        The spectra.
    redshift
        Shape (spectrum,).
    reject_bits
        A native pixel with any of these bits set is missing.

    Returns
    -------
    flux : numpy.ndarray
        Rest-frame F(1+z), float32, shape (spectrum, 4000); NaN where missing or outside.
    ivar : numpy.ndarray
        v/(1+z)², likewise; 0 where missing or outside.
    """
    native, z, reject = _on_native_grid(observed, redshift, reject_bits)
    shape = (len(observed), STACK_N_PIXELS)
    outputs = (np.full(shape, np.nan, dtype=np.float32), np.zeros(shape, dtype=np.float32))
    shift_spectra(
        _arrays(native),
        native.first_pixel,
        readonly(z, np.float64),
        np.uint32(reject),
        STACK_FIRST,
        outputs,
    )
    return outputs


def median_stack(flux: npt.ArrayLike, ivar: npt.ArrayLike) -> Doubles:
    """Median over the spectra, pixel by pixel, unweighted.

    Parameters
    ----------
    flux
        Aligned spectra, shape (spectrum, pixel). Ignored where `ivar` is 0.
    ivar
        Their inverse variance, same shape; 0 marks a missing pixel.

    Returns
    -------
    numpy.ndarray
        float64, shape (pixel,); NaN where no spectrum contributes.
    """
    median: Doubles = masked_median(
        readonly(flux, np.float32), readonly(np.asarray(ivar) > 0, np.bool_)
    )
    return median


def unweighted_mean(flux: npt.ArrayLike, ivar: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    """Mean over the spectra, every spectrum counting alike.

    Parameters
    ----------
    flux
        Aligned spectra, shape (spectrum, pixel). Ignored where `ivar` is 0.
    ivar
        Their inverse variance, same shape; 0 marks a missing pixel.

    Returns
    -------
    mean : numpy.ndarray
        float64, shape (pixel,); NaN where no spectrum contributes.
    error : numpy.ndarray
        √(Σ 1/v) / N; NaN where no spectrum contributes.
    """
    weight = np.asarray(ivar, dtype=np.float64)
    good = weight > 0
    count = good.sum(axis=0).astype(np.float64)
    total = np.where(good, flux, 0.0).sum(axis=0, dtype=np.float64)
    variance = (1.0 / np.where(good, weight, np.inf)).sum(axis=0)
    mean = _ratio(total, count, count > 0)
    return mean, _ratio(np.sqrt(variance), count, count > 0)


def window_scale(flux: npt.ArrayLike, ivar: npt.ArrayLike, window: tuple[float, float]) -> Doubles:
    """Give the factors that bring the median flux of each spectrum in a window to 1.

    Parameters
    ----------
    flux
        Spectra on the stack grid, shape (spectrum, 4000), as `shift_to_stack` gives them.
    ivar
        Their inverse variance, same shape; 0 marks a missing pixel.
    window
        First and last wavelength, rest frame, vacuum Å.

    Returns
    -------
    numpy.ndarray
        1/median, shape (spectrum,), for `stack_regions`; NaN, which leaves a spectrum out of the
        stack, where there is no valid pixel in the window or the median is not positive.
    """
    wavelength = stack_wavelength()
    inside = (wavelength >= window[0]) & (wavelength <= window[1])
    part = np.asarray(flux, dtype=np.float32)[:, inside].T
    good = np.asarray(ivar)[:, inside].T > 0
    median = masked_median(readonly(part, np.float32), readonly(good, np.bool_))
    return _ratio(np.ones_like(median), median, median > 0)


def bootstrap_multiplicity(
    rows: npt.ArrayLike, n_replicas: int, seed: int
) -> npt.NDArray[np.uint16]:
    """Draw how often each object appears in each bootstrap replica.

    Poisson bootstrap: multiplicities are independent Poisson(1) draws, which for many objects is
    resampling with replacement, and needs no knowledge of the other objects. A draw depends on
    seed, row and replica alone, so blocks may be cut and ordered in any way.

    Parameters
    ----------
    rows
        A number that names each object for good (its row in the sample), shape (object,).
    n_replicas
        Number of replicas.
    seed
        Any integer.

    Returns
    -------
    numpy.ndarray
        Shape (object, replica); multiply a column of `stack_regions`' `membership` by it.
    """
    row = np.asarray(rows).astype(np.uint64)
    key = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
    replica = _mix(np.arange(n_replicas, dtype=np.uint64) + key)
    bits = _mix(_mix(row)[:, None] ^ replica[None, :])
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(_POISSON_STEPS, uniform, side="right").astype(np.uint16)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # SplitMix64 (Steele, Lea & Flood 2014); uint64 arrays wrap round, as it wants.
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def bootstrap_error(replicas: list[StackSums]) -> Doubles:
    """Scatter of the stack over bootstrap replicas.

    Parameters
    ----------
    replicas
        One finished sum a replica.

    Returns
    -------
    numpy.ndarray
        Standard deviation over the replicas that have the pixel, shape (pixel,); NaN where fewer
        than two have.
    """
    stacks = np.array([replica.flux() for replica in replicas])
    known = np.isfinite(stacks)
    count = known.sum(axis=0).astype(np.float64)
    values = np.where(known, stacks, 0.0)
    mean = _ratio(values.sum(axis=0), count, count > 0)
    square = np.where(known, values - np.where(count > 0, mean, 0.0), 0.0) ** 2
    return np.sqrt(_ratio(square.sum(axis=0), count - 1.0, count > 1))
