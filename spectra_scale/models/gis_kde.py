"""One slice made Gaussian: a kernel-density CDF, knots at quantiles, slopes of the two tails.

Step 2 of the flow (Dai & Seljak 2021, section 3.2 and appendix B). The CDF of a Gaussian kernel
density is a convolution, so it is computed from a linearly binned histogram by FFT: four thousand
cells give the exact sum to about 1e-6 at a cost that does not grow with the number of knots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.special import ndtr, ndtri

from spectra_scale.models.gis_directions import weighted_levels
from spectra_scale.models.gis_spline import pad_table, parabola_slopes

Floats: TypeAlias = NDArray[np.float64]
Tail = Literal["midrank", "regression"]

MIN_CELLS, MAX_CELLS = 4096, 131072
_CELLS_PER_WIDTH = 64  # keeps the error of linear binning below 2e-5 for any data, 1e-6 for smooth
_REACH = 8.5  # kernel widths after which a Gaussian CDF is 0 or 1 to the last bit that matters
_LEAST_STEP = 1e-5  # smallest step between knots and between their values
_REPAIR_TRIES = 20
_SLOPE_RANGE = (1e-2, 1e2)  # of a tail in one layer; beyond it a tail holds one outlier or a spike
_IDENTITY = np.array([[-1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]])


def effective_count(weights: Floats | None, n: int) -> float:
    """Number of equally weighted rows that say as much: (sum w)^2 / sum w^2; n without weights."""
    return float(n) if weights is None else float(np.sum(weights) ** 2 / np.sum(weights**2))


def scott_width(u: Floats, weights: Floats | None = None) -> float:
    """Scott's width of a Gaussian kernel, std(u) n^(-1/5), for the values of one slice.

    With weights the standard deviation is weighted and n is `effective_count`.
    """
    if weights is None:
        return float(np.std(u) * len(u) ** -0.2)
    mean = np.average(u, weights=weights)
    spread = np.sqrt(np.average((u - mean) ** 2, weights=weights))
    return float(spread * effective_count(weights, len(u)) ** -0.2)


def binned_cdf(u: Floats, width: float, points: Floats, weights: Floats | None = None) -> Floats:
    """CDF of the Gaussian kernel density of `u`, the mean over i of Phi((t - u_i) / width).

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
    weights
        Positive weights of the values, shape (n,); None for a plain mean.

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
    mass = np.empty(0) if weights is None else weights
    histogram, below = _linear_histogram(u, mass, (start, step), cells)
    lags = np.arange(cells) * (step / width)
    # Lags 0 .. cells-1, one unused lag, then the negative ones: a circular convolution of twice
    # the length never wraps around.
    kernel = np.concatenate([ndtr(lags), [0.0], ndtr(-lags[:0:-1])])
    smooth = irfft(rfft(histogram, 2 * cells) * rfft(kernel), 2 * cells)[:cells]
    grid = start + step * np.arange(cells)
    cdf = (smooth + below) / (len(u) if weights is None else np.sum(weights))
    return np.asarray(np.clip(np.interp(points, grid, cdf), 0.0, 1.0))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _linear_histogram(
    u: Floats, weights: Floats, grid: tuple[float, float], cells: int
) -> tuple[Floats, float]:
    """Divide each value among the two grid points (start, step) beside it; and what lies below.

    Values beyond the last point are left out. No `weights` (shape (0,)) are ones.
    """
    left, right, below = np.zeros(cells), np.zeros(cells), 0.0
    start, step = grid
    for i in range(len(u)):
        place, mass = (u[i] - start) / step, 1.0
        if len(weights) > 0:
            mass = weights[i]
        if place < 0:
            below += mass
        elif place < cells - 1:
            cell = int(place)
            left[cell] += (1.0 - (place - cell)) * mass
            right[cell + 1] += (place - cell) * mass
    return left + right, below


def knot_count(n: float) -> int:
    """Default number of knots of a slice with `n` values: sqrt(n), at least 50 and at most 200."""
    return int(np.clip(int(np.sqrt(n)), 50, 200))


def knot_levels(n: float, n_knots: int) -> Floats:
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


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """Values of a slice in increasing order, their weights if any, and its kernel's width."""

    u: Floats
    weights: Floats | None
    width: float

    def values(self, points: Floats) -> Floats:
        """Where the spline is to take these points: normal quantiles of the kernel CDF."""
        # The kernel broadens a unit Gaussian to variance 1 + width^2: scaling by its root makes
        # the map of an already Gaussian slice the identity.
        cdf = binned_cdf(self.u, self.width, points, self.weights)
        return np.asarray(np.sqrt(1.0 + self.width**2) * ndtri(cdf))

    def levels(self) -> Floats:
        """Mid-rank levels of the values."""
        if self.weights is None:
            return (np.arange(len(self.u)) + 0.5) / len(self.u)
        return weighted_levels(np.arange(len(self.u)), self.weights)

    def outside(self, end: int, knot: float) -> slice:
        """Which values lie beyond an end knot; `end` is 0 (left) or -1."""
        if end == 0:
            return slice(0, int(np.searchsorted(self.u, knot)))
        return slice(int(np.searchsorted(self.u, knot, side="right")), None)


def fit_slice(
    u: Floats,
    scores: Floats | None,
    n_knots: int,
    tail: Tail,
    rng: np.random.Generator,
    weights: Floats | None = None,
) -> Floats:
    """Spline that makes one slice standard normal.

    Parameters
    ----------
    u
        Values of the slice in increasing order, shape (n,).
    scores
        Normal quantiles of their mid-ranks, `gaussian_scores` of n; None finds them.
    n_knots
        Number of knots.
    tail
        How the two end slopes are found: ``midrank`` fits the ranks of the data outside the knots,
        ``regression`` the kernel CDF there (SINF's default).
    rng
        Draws the knots that replace coincident ones.
    weights
        Positive weights in the order of `u`, shape (n,); None if all values count alike.

    Returns
    -------
    numpy.ndarray
        Knots, values and slopes, shape (3, n_knots). The identity if all values are the same.
    """
    part = _Slice(u, weights, scott_width(u, weights))
    if part.width < _LEAST_STEP:
        return pad_table(_IDENTITY, n_knots)
    levels = part.levels()
    n = len(u) if weights is None else effective_count(weights, len(u))
    knots, values = _repaired(part, np.interp(knot_levels(n, n_knots), levels, u), rng)
    if len(knots) < 2:
        return pad_table(_IDENTITY, n_knots)
    scores = np.asarray(ndtri(levels)) if scores is None else scores
    slopes = np.ones_like(knots)
    slopes[1:-1] = parabola_slopes(knots, values)
    for end in (0, -1):
        far = part.outside(end, knots[end])
        slopes[end] = _tail_slope(part, far, scores[far], (knots[end], values[end]), tail)
    return pad_table(np.stack([knots, values, slopes]), n_knots)


def _faulty(knots: Floats, values: Floats) -> NDArray[np.bool_]:
    """Knots that coincide with the one before, in position or value, or have no finite value."""
    bad = ~np.isfinite(values)
    known = np.where(bad, 0.0, values)
    bad[1:] |= (np.diff(knots) <= _LEAST_STEP) | (np.diff(known) <= _LEAST_STEP)
    return bad


def _repaired(part: _Slice, knots: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Replace coincident knots by random ones; drop those that stay bad after some tries.

    Quantiles coincide where data repeat. The new knots are drawn from the span of the old ones and
    two units on either side, as most of [min, max] may be an empty stretch before one outlier.
    """
    low, high = knots[0] - 2.0, knots[-1] + 2.0
    values = part.values(knots)
    bad = _faulty(knots, values)
    for _ in range(_REPAIR_TRIES):
        if not bad.any():
            return knots, values
        knots = np.sort(np.where(bad, rng.uniform(low, high, len(knots)), knots))
        values = part.values(knots)
        bad = _faulty(knots, values)
    while bad.any():
        knots, values = knots[~bad], values[~bad]
        bad = _faulty(knots, values)
    return knots, values


def _tail_slope(
    part: _Slice, far: slice, scores: Floats, end: tuple[float, float], tail: Tail
) -> float:
    """Slope of the straight tail through the end knot by least squares; 1 without data there."""
    points = part.u[far]
    mass = np.ones(1) if part.weights is None else part.weights[far]
    if len(points) == 0:
        return 1.0
    if tail == "regression":
        if len(points) > 10:
            # Places to look at the CDF, which knows of the weights: these need none.
            points, mass = np.quantile(points, np.linspace(0.1, 0.9, 9)), np.ones(1)
        scores = part.values(points)
    dx, dy = points - end[0], scores - end[1]
    usable = np.isfinite(dy)
    mass = np.broadcast_to(mass, dx.shape)[usable]
    below = float(np.sum(mass * dx[usable] ** 2))
    slope = float(np.sum(mass * (dx[usable] * dy[usable]))) / below if below > 0 else 1.0
    return float(np.clip(slope, *_SLOPE_RANGE)) if slope > 0 else 1.0
