"""Signal to noise and masked fraction of rest-frame spectra (science.md §3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.compiled import ZERO, compiled, readonly

__all__ = ["Quality", "measure_quality"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """How good each spectrum is, over its valid grid pixels (science.md §3).

    Parameters
    ----------
    snr_median
        Median of F√v over the valid pixels, shape (spectrum,); 0 without a valid pixel.
    snr_mean
        Mean of F√v, likewise.
    snr_total
        ΣF / √(variance of that sum): the paper's "global S/N".
    masked_fraction
        Share of the grid that is missing; 1 without a valid pixel.
    """

    snr_median: Doubles
    snr_mean: Doubles
    snr_total: Doubles
    masked_fraction: Doubles


@compiled
def _median(values: Floats, keys: npt.NDArray[np.int32]) -> float:
    """Median of float32 values, none of them NaN, by halving the range of their bit patterns.

    Counting how many lie below a pivot vectorises, so that 32 countings take a third of the time
    of one selection, whose branches no processor can predict. `keys` is room of the same length.
    """
    n = values.shape[0]
    bits = values.view(np.int32)
    low = np.int64(2147483647)
    high = np.int64(-2147483648)
    for i in range(n):
        # As signed integers the patterns order like the values they stand for.
        keys[i] = bits[i] if bits[i] >= 0 else bits[i] ^ np.int32(0x7FFFFFFF)
        low = min(low, np.int64(keys[i]))
        high = max(high, np.int64(keys[i]))
    wanted = (n + 1) // 2  # the lower median is the smallest key with as many at or below it
    while low < high:
        middle = np.int32((low + high) >> 1)
        below = 0
        for i in range(n):
            below += 1 if keys[i] <= middle else 0
        if below >= wanted:
            high = np.int64(middle)
        else:
            low = np.int64(middle) + 1
    below = 0
    lower = -np.inf
    upper = np.inf
    for i in range(n):
        below += 1 if keys[i] <= low else 0
        value = np.float64(values[i])
        lower = value if keys[i] == low else lower
        upper = min(upper, value if keys[i] > low else np.inf)
    return lower if n % 2 == 1 or below > wanted else 0.5 * (lower + upper)


@compiled
def _signal_to_noise(
    flux: Floats,
    ivar: Floats,
    variance_of_sum: Doubles,
    outputs: tuple[Doubles, Doubles, Doubles, Doubles],
) -> None:
    """Fill median, mean and total S/N and the masked fraction of each spectrum.

    Parameters
    ----------
    flux
        Rest-frame flux, float32, shape (spectrum, pixel).
    ivar
        Its inverse variance, same shape; 0 marks a missing pixel, whose flux is not read.
    variance_of_sum
        Variance of the sum of the valid pixels, shape (spectrum,).
    outputs
        Four float64 arrays of shape (spectrum,): median, mean, total, masked fraction.
    """
    out_median, out_mean, out_total, out_masked = outputs
    n_pixels = flux.shape[1]
    ratio = np.empty(n_pixels, dtype=np.float32)
    keys = np.empty(n_pixels, dtype=np.int32)
    for s in range(flux.shape[0]):
        n = 0
        added = 0.0
        total = 0.0
        for j in range(n_pixels):
            if ivar[s, j] > ZERO:
                f = np.float64(flux[s, j])
                snr = f * np.sqrt(np.float64(ivar[s, j]))
                ratio[n] = snr
                added += snr
                total += f
                n += 1
        out_masked[s] = 1.0 - n / n_pixels
        out_median[s] = _median(ratio[:n], keys[:n]) if n else 0.0
        out_mean[s] = added / n if n else 0.0
        known = n > 0 and variance_of_sum[s] > 0.0
        out_total[s] = total / np.sqrt(variance_of_sum[s]) if known else 0.0


def measure_quality(
    flux: npt.ArrayLike, ivar: npt.ArrayLike, variance_of_sum: npt.ArrayLike | None = None
) -> Quality:
    """Measure the three S/N and the masked fraction.

    Parameters
    ----------
    flux
        Rest-frame flux, shape (spectrum, pixel). Not read where `ivar` is 0.
    ivar
        Its inverse variance, same shape; 0 marks a missing pixel.
    variance_of_sum
        Variance of the sum of the valid pixels, shape (spectrum,), as the resampling gives it.
        Without it pixels count as independent, which overstates `snr_total` after an exact
        rebinning (by 4.6 % on the paper's grid).

    Returns
    -------
    Quality
        All S/N 0 and masked fraction 1 where a spectrum has no valid pixel.

    Examples
    --------
    >>> quality = measure_quality([[2.0, 0.0]], [[4.0, 0.0]])
    >>> quality.snr_total, quality.masked_fraction
    (array([4.]), array([0.5]))
    """
    flux = readonly(flux, np.float32)
    ivar = readonly(ivar, np.float32)
    if variance_of_sum is None:
        known = np.where(ivar > 0, ivar, np.inf).astype(np.float64)
        variance_of_sum = (1.0 / known).sum(axis=1)
    out = Quality(*(np.empty(len(flux)) for _ in range(4)))
    outputs = (out.snr_median, out.snr_mean, out.snr_total, out.masked_fraction)
    _signal_to_noise(flux, ivar, readonly(variance_of_sum, np.float64), outputs)
    return out
