"""One slice made Gaussian: a kernel-density CDF, knots at quantiles, slopes of the two tails.

Step 2 of the flow (Dai & Seljak 2021, section 3.2 and appendix B). The CDF of a Gaussian kernel
density is a convolution, so it is computed from a linearly binned histogram by FFT: four thousand
cells give the exact sum to about 1e-6 at a cost that does not grow with the number of knots.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.special import ndtr, ndtri

from spectra_scale.models.gis_spline import pad_table, parabola_slopes

Floats: TypeAlias = NDArray[np.float64]
Tail = Literal["midrank", "regression"]

MIN_CELLS, MAX_CELLS = 4096, 131072
_CELLS_PER_WIDTH = 64  # keeps the error of linear binning below 2e-5 for any data, 1e-6 for smooth
_REACH = 8.5  # kernel widths after which a Gaussian CDF is 0 or 1 to the last bit that matters
_LEAST_STEP = 1e-5  # smallest step between knots and between their values
_REPAIR_TRIES = 20
_SLOPE_RANGE = (1e-2, 1e2)  # of a tail in one layer; beyond it a tail holds one outlier or a spike


def scott_width(u: Floats) -> float:
    """Scott's width of a Gaussian kernel, std(u) n^(-1/5), for the values of one slice."""
    return float(np.std(u) * len(u) ** -0.2)


def binned_cdf(u: Floats, width: float, points: Floats) -> Floats:
    """CDF of the Gaussian kernel density of `u`, mean_i Phi((t - u_i) / width).

    Values farther than the kernel's reach from all `points` count as 0 or 1 without being binned,
    so an outlier cannot coarsen the cells.

    Parameters
    ----------
    u
        Data, shape (n,).
    width
        Kernel width, positive.
    points
        Where the CDF is wanted, shape (m,).

    Returns
    -------
    numpy.ndarray
        Shape (m,), in [0, 1], within 1e-5 of the exact sum as long as the points span less than
        2000 widths.
    """
    start = float(points.min()) - _REACH * width
    span = float(points.max()) + _REACH * width - start
    wanted = 2 ** int(np.ceil(np.log2(span / width * _CELLS_PER_WIDTH)))
    cells = min(max(wanted, MIN_CELLS), MAX_CELLS)
    step = span / (cells - 1)
    place = (u - start) / step
    inside = place[(place >= 0) & (place < cells - 1)]
    cell = inside.astype(np.int64)
    share = inside - cell
    histogram = np.bincount(cell, weights=1.0 - share, minlength=cells)
    histogram += np.bincount(cell + 1, weights=share, minlength=cells)
    lags = np.arange(cells) * (step / width)
    # Lags 0 .. cells-1, one unused lag, then the negative ones: a circular convolution of twice
    # the length never wraps around.
    kernel = np.concatenate([ndtr(lags), [0.0], ndtr(-lags[:0:-1])])
    smooth = irfft(rfft(histogram, 2 * cells) * rfft(kernel), 2 * cells)[:cells]
    grid = start + step * np.arange(cells)
    cdf = (smooth + np.count_nonzero(place < 0)) / len(u)
    return np.asarray(np.clip(np.interp(points, grid, cdf), 0.0, 1.0))


def knot_count(n: int) -> int:
    """Default number of knots of a slice with `n` values: sqrt(n), at least 50 and at most 200."""
    return int(np.clip(int(np.sqrt(n)), 50, 200))


def knot_levels(n: int, n_knots: int) -> Floats:
    """Quantile levels of the knots: equally spaced, with the first and last interval subdivided.

    Parameters
    ----------
    n
        Number of values in the slice.
    n_knots
        Number of knots, at least 4.

    Returns
    -------
    numpy.ndarray
        Increasing levels inside (0, 1), shape (n_knots,).
    """
    edge = min(max(int(np.log10(n)) - 1, 0), (n_knots - 2) // 2)
    inner = n_knots - 2 * edge
    gap = 1.0 / (inner + 1)
    first = gap * np.arange(1, edge + 1) / (edge + 1)
    return np.concatenate([first, gap * np.arange(1, inner + 1), 1.0 - first[::-1]])


def gaussian_scores(n: int) -> Floats:
    """Standard normal quantiles at the mid-ranks (i + 1/2) / n, shape (n,)."""
    return np.asarray(ndtri((np.arange(n) + 0.5) / n))


def fit_slice(
    u: Floats, scores: Floats, n_knots: int, tail: Tail, rng: np.random.Generator
) -> Floats:
    """Spline that makes one slice standard normal.

    Parameters
    ----------
    u
        Values of the slice in increasing order, shape (n,).
    scores
        `gaussian_scores` of n.
    n_knots
        Number of knots.
    tail
        How the two end slopes are found: ``midrank`` fits the ranks of the data outside the knots,
        ``regression`` the kernel CDF there (SINF's default).
    rng
        Draws the knots that replace coincident ones.

    Returns
    -------
    numpy.ndarray
        Knots, values and slopes, shape (3, n_knots). The identity if all values are the same.
    """
    width = scott_width(u)
    if width < _LEAST_STEP:
        return pad_table(np.array([[-1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]]), n_knots)
    quantiles = np.interp(knot_levels(len(u), n_knots), (np.arange(len(u)) + 0.5) / len(u), u)
    knots, values = _repaired(u, width, quantiles, rng)
    if len(knots) < 2:
        return pad_table(np.array([[-1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]]), n_knots)
    slopes = np.ones_like(knots)
    slopes[1:-1] = parabola_slopes(knots, values)
    for end in (0, -1):
        outside = (
            slice(0, np.searchsorted(u, knots[0]))
            if end == 0
            else slice(int(np.searchsorted(u, knots[-1], side="right")), None)
        )
        far = (u[outside], scores[outside])
        slopes[end] = _tail_slope(u, width, far, (knots[end], values[end]), tail)
    return pad_table(np.stack([knots, values, slopes]), n_knots)


def _values(u: Floats, width: float, knots: Floats) -> Floats:
    # The kernel broadens a unit Gaussian to variance 1 + width^2: scaling by its root makes the
    # map of an already Gaussian slice the identity.
    return np.asarray(np.sqrt(1.0 + width**2) * ndtri(binned_cdf(u, width, knots)))


def _faulty(knots: Floats, values: Floats) -> NDArray[np.bool_]:
    """Knots that coincide with the one before, in position or value, or have no finite value."""
    bad = ~np.isfinite(values)
    known = np.where(bad, 0.0, values)
    bad[1:] |= (np.diff(knots) <= _LEAST_STEP) | (np.diff(known) <= _LEAST_STEP)
    return bad


def _repaired(
    u: Floats, width: float, knots: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Replace coincident knots by random ones; drop those that stay bad after some tries.

    Quantiles coincide where data repeat. The new knots are drawn from the span of the old ones and
    two units on either side, as most of [min, max] may be an empty stretch before one outlier.
    """
    low, high = knots[0] - 2.0, knots[-1] + 2.0
    values = _values(u, width, knots)
    bad = _faulty(knots, values)
    for _ in range(_REPAIR_TRIES):
        if not bad.any():
            return knots, values
        knots = np.sort(np.where(bad, rng.uniform(low, high, len(knots)), knots))
        values = _values(u, width, knots)
        bad = _faulty(knots, values)
    while bad.any():
        knots, values = knots[~bad], values[~bad]
        bad = _faulty(knots, values)
    return knots, values


def _tail_slope(
    u: Floats, width: float, far: tuple[Floats, Floats], end: tuple[float, float], tail: Tail
) -> float:
    """Slope of the straight tail through the end knot by least squares; 1 without data there."""
    points, scores = far
    if len(points) == 0:
        return 1.0
    if tail == "regression":
        if len(points) > 10:
            points = np.quantile(points, np.linspace(0.1, 0.9, 9))
        scores = _values(u, width, points)
    dx, dy = points - end[0], scores - end[1]
    usable = np.isfinite(dy)
    below = float(np.sum(dx[usable] ** 2))
    slope = float(np.sum(dx[usable] * dy[usable])) / below if below > 0 else 1.0
    return float(np.clip(slope, *_SLOPE_RANGE)) if slope > 0 else 1.0
