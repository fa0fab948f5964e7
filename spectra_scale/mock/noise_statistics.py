"""Statistics of noise that mock and real spectra go through alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW = 41
"""Pixels of the running median that takes objects and bad fits out of the pulls."""
_BRIGHTSKY = 1 << 23
_CLIP = 5.0


@dataclass(frozen=True, slots=True)
class NoiseStatistics:
    """Of one spectrum, or the median over several.

    Attributes
    ----------
    width
        Of the pulls: 0.741 times their interquartile range, 1 for Gaussian noise rightly quoted.
    lag1, lag2, lag3
        Correlation of pulls one, two and three pixels apart.
    variance4
        Squared width of sums of four pixels over the root of their summed quoted variance.
    outliers
        Share of pulls beyond 5.
    """

    width: float
    lag1: float
    lag2: float
    lag3: float
    variance4: float
    outliers: float


def noise_statistics(
    flux: NDArray[np.floating],
    ivar: NDArray[np.floating],
    model: NDArray[np.floating] | None = None,
    masks: NDArray[np.integer] | None = None,
) -> NoiseStatistics:
    """Measure the noise of one spectrum.

    Pulls are ``(flux - model) sqrt(ivar)`` less their running median over `WINDOW` pixels, which
    takes out what the model misses on scales of a line and more; the median itself takes 3 % off
    their width. Correlations leave out pulls beyond 5. Both are robust to lines that the model
    lacks. Medians over real files, and over mock spectra of the same best fits (24 plates):

    ======  =====  =====  =====  ==========
    files   width  lag 1  lag 2  variance 4
    ======  =====  =====  =====  ==========
    legacy  0.983  0.143  -0.03  1.16
    mock    0.981  0.140  -0.04  1.15
    BOSS    0.943  0.204  -0.08  1.09
    mock    0.936  0.203  -0.09  1.10
    ======  =====  =====  =====  ==========

    Without taking out a running median, legacy pulls correlate at 0.18: the median takes off 0.03.

    Parameters
    ----------
    flux, ivar
        Native pixels of one spectrum, shape (pixel,). Missing pixels have ivar 0.
    model
        The best fit, same shape. Without one the running median of the flux itself is taken.
    masks
        AND_MASK, same shape: BRIGHTSKY pixels are left out.
    """
    from scipy.ndimage import median_filter

    valid = ivar > 0
    if masks is not None:
        valid &= (masks & _BRIGHTSKY) == 0
    root = np.sqrt(np.where(ivar > 0, ivar, 0.0).astype(np.float64))
    spectrum = np.where(ivar > 0, flux, 0.0).astype(np.float64)
    if model is None:
        pull = (spectrum - median_filter(spectrum, WINDOW)) * root
    else:
        pull = (spectrum - model) * root
        pull -= median_filter(pull, WINDOW)
    if valid.sum() < 4 * WINDOW:
        return NoiseStatistics(*(np.nan,) * 6)
    return _of_pulls(pull, root, valid)


def _of_pulls(pull: Floats, root: Floats, valid: NDArray[np.bool_]) -> NoiseStatistics:
    inside = valid & (np.abs(pull) < _CLIP)
    power = float((pull[inside] ** 2).mean())
    lags = [
        float((pull[k:] * pull[:-k])[inside[k:] & inside[:-k]].mean()) / power for k in (1, 2, 3)
    ]
    n = len(pull) // 4 * 4
    four = valid[:n].reshape(-1, 4).all(axis=1)
    sigma = np.divide(1.0, root[:n], out=np.zeros(n), where=root[:n] > 0).reshape(-1, 4)
    total = (pull[:n].reshape(-1, 4) * sigma).sum(axis=1)[four]
    total /= np.sqrt((sigma**2).sum(axis=1)[four])
    return NoiseStatistics(
        width=robust_width(pull[valid]),
        lag1=lags[0],
        lag2=lags[1],
        lag3=lags[2],
        variance4=robust_width(total) ** 2,
        outliers=float((np.abs(pull[valid]) > _CLIP).mean()),
    )


def robust_width(values: NDArray[np.floating]) -> float:
    """Interquartile range over that of a unit Gaussian; NaN where there are too few values."""
    if len(values) < 8:
        return float("nan")
    low, high = np.percentile(values, (25, 75))
    return float(high - low) / 1.3489795


def median_statistics(spectra: Iterable[NoiseStatistics]) -> NoiseStatistics:
    """Median of each statistic over spectra, NaN left out."""
    table = np.array([(s.width, s.lag1, s.lag2, s.lag3, s.variance4, s.outliers) for s in spectra])
    return NoiseStatistics(*(float(x) for x in np.nanmedian(table, axis=0)))
