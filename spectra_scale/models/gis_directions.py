"""Directions along which a sample is least Gaussian.

Step 1 of the flow: maximise, over K orthonormal directions, the mean squared distance between the
sorted projections and the quantiles of a standard normal (max K-sliced 2-Wasserstein distance; Dai
& Seljak 2021, section 3.1), by gradient ascent along Cayley curves of the Stiefel manifold (Wen &
Yin 2013) with Armijo back-tracking. Nearly all its time is sorting: an own radix sort ranks the
projections in one pass for objective and gradient, at the same speed on every processor
(`numpy.sort` varies tenfold with its vector instructions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtri

Floats: TypeAlias = NDArray[np.float64]

_ARMIJO = 0.5
_FIRST_STEP = 0.1
_MAX_HALVINGS = 40
_LEAST_MOVE = 1e-6


@dataclass(frozen=True, slots=True)
class AscentSettings:
    """When the ascent ends.

    Parameters
    ----------
    max_steps
        Greatest number of ascent steps.
    tolerance
        Relative gain of the objective, averaged over `window` steps, below which it stops.
    window
        Number of steps the gain is averaged over: single steps of a line search may be short.
    """

    max_steps: int = 100
    tolerance: float = 1e-5
    window: int = 5


def random_frame(dims: int, n_slices: int, rng: np.random.Generator) -> Floats:
    """Orthonormal rows, uniform over the Stiefel manifold.

    Parameters
    ----------
    dims
        Dimension of the space.
    n_slices
        Number of directions, at most `dims`.
    rng
        Source of the draw.

    Returns
    -------
    numpy.ndarray
        Shape (n_slices, dims).
    """
    return _orthonormal_rows(rng.standard_normal((dims, n_slices)).T)


def normal_quantiles(n: int) -> Floats:
    """Quantiles of the standard normal at n equally spaced levels from 0.5/n, shape (n,)."""
    return np.asarray(ndtri((np.arange(n) + 0.5) / n))


def sliced_distance(x: Floats, frame: Floats, quantiles: Floats) -> Floats:
    """Squared 2-Wasserstein distance to N(0, 1) of the projection on each direction.

    Parameters
    ----------
    x
        Rows, shape (n, D).
    frame
        Directions as rows, shape (K, D).
    quantiles
        `normal_quantiles` of n.

    Returns
    -------
    numpy.ndarray
        Shape (K,).
    """
    projected = np.sort(project(frame, np.ascontiguousarray(x.T)), axis=1)
    return np.asarray(np.mean((projected - quantiles) ** 2, axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A frame, how far each projected row is from its normal quantile, and the mean square.

    `residuals` is whatever the `Sample` that made the point keeps of them.
    """

    frame: Floats
    residuals: Any
    score: float


class Sample(Protocol):
    """Rows that the ascent looks at, on the host or on a device.

    Frames and gradients are a few numbers and stay on the host in float64; what costs time, to
    project and rank all rows, is the sample's.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of dimensions."""
        ...

    def at(self, frame: Floats) -> Point:
        """Project all rows on the directions, shape (K, D), and compare with the quantiles."""
        ...

    def slopes(self, point: Point) -> Floats:
        """Weighted sum over the rows of residual times row, shape (K, D)."""
        ...

    def distances(self, point: Point) -> Floats:
        """Mean squared residual of each direction, shape (K,)."""
        ...


class HostSample:
    """Rows in main memory, looked at by compiled loops.

    Parameters
    ----------
    x
        Rows, shape (n, D), float64.
    weights
        Positive weights of mean 1, shape (n,); None if all rows count alike.
    """

    def __init__(self, x: Floats, weights: Floats | None = None) -> None:
        self._x, self._weights = x, weights
        self._rows = np.ascontiguousarray(x.T)
        self._quantiles = normal_quantiles(len(x))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of dimensions."""
        return self._x.shape[0], self._x.shape[1]

    def at(self, frame: Floats) -> Point:
        """Project all rows on the directions, shape (K, D), and compare with the quantiles."""
        residuals = project(frame, self._rows)
        if self._weights is None:
            total = subtract_ranked(residuals, self._quantiles)
        else:
            total = _subtract_weighted(residuals, self._weights)
        return Point(frame, residuals, total / residuals.size)

    def slopes(self, point: Point) -> Floats:
        """Weighted sum over the rows of residual times row, shape (K, D)."""
        if self._weights is None:
            return np.asarray(_products(point.residuals, self._x))
        return np.asarray(_products(point.residuals * self._weights, self._x))

    def distances(self, point: Point) -> Floats:
        """Mean squared residual of each direction, shape (K,)."""
        squares = point.residuals**2
        return np.asarray(
            np.mean(squares if self._weights is None else self._weights * squares, axis=1)
        )


def search_directions(
    x: Floats | Sample, n_slices: int, rng: np.random.Generator, settings: AscentSettings
) -> Floats:
    """Find the orthonormal directions along which `x` is least Gaussian.

    Parameters
    ----------
    x
        Rows, shape (n, D), of zero mean and about unit variance; or a sample of such rows.
    n_slices
        Number of directions K, at most D.
    rng
        Draws the starting frame.
    settings
        When to stop.

    Returns
    -------
    numpy.ndarray
        Directions as rows, least Gaussian first, shape (K, D).
    """
    sample: Sample = HostSample(x) if isinstance(x, np.ndarray) else x
    n, dims = sample.shape
    here = sample.at(random_frame(dims, n_slices, rng))
    step, scores = _FIRST_STEP, [here.score]
    # In one dimension there is one direction, up to a sign that the spline does not care about.
    for _ in range(settings.max_steps if dims > 1 else 0):
        # The gradient holds the order of the projections fixed, as in the authors' code.
        gradient = (-2.0 / (n_slices * n)) * sample.slopes(here)
        found, step = _line_search(sample, here, gradient, 2.0 * step)
        if found is None:
            break
        moved = float(np.abs(found.frame - here.frame).max())
        here, step = found, 1.5 * step
        scores.append(here.score)
        if moved < _LEAST_MOVE or _settled(scores, settings):
            break
    order = np.argsort(-sample.distances(here), kind="stable")
    return _orthonormal_rows(here.frame[order])


def weighted_levels(order: NDArray[np.int64], weights: Floats) -> Floats:
    """Mid-rank levels of ordered values: the weight below, and half of the value's own, over all.

    Parameters
    ----------
    order
        Row numbers in increasing order of the values, shape (n,).
    weights
        Positive weights of the rows, shape (n,).

    Returns
    -------
    numpy.ndarray
        In (0, 1), in the order of `order`, shape (n,). With equal weights (i + 1/2) / n.
    """
    ordered = weights[order]
    reached = np.cumsum(ordered)
    return np.asarray((reached - 0.5 * ordered) / reached[-1])


def _subtract_weighted(projected: Floats, weights: Floats) -> float:
    """`subtract_ranked` for weighted rows; the sum of squares is weighted."""
    total = 0.0
    for values in projected:
        order = np.argsort(values.astype(np.float32), kind="stable")
        values[order] -= ndtri(weighted_levels(order, weights))
        total += float(np.sum(weights * values**2))
    return total


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def subtract_ranked(projected: Floats, quantiles: Floats) -> float:
    """Subtract from each value the quantile of its rank within its row, in place.

    Values are ranked by a radix sort of their float32 form, ties by position: two values closer
    than 1e-7 of their size may change places, which changes a sum of squares by less than 1e-13.

    Parameters
    ----------
    projected
        Shape (K, n), finite.
    quantiles
        Increasing, shape (n,).

    Returns
    -------
    float
        Sum of the squares of what is left.
    """
    n = projected.shape[1]
    squares = 0.0
    single = np.empty(n, dtype=np.float32)
    bits = single.view(np.uint32)
    items, other = np.empty(n, dtype=np.uint64), np.empty(n, dtype=np.uint64)
    counts = np.empty((3, 2048), dtype=np.int64)
    low32 = np.uint64(0xFFFFFFFF)
    for k in range(projected.shape[0]):
        counts[:] = 0
        for i in range(n):
            single[i] = projected[k, i]
            # Flipped this way the bits of floats sort as unsigned integers.
            key = np.uint64(bits[i])
            key = key ^ low32 if key >> np.uint64(31) else key ^ np.uint64(0x80000000)
            items[i] = (key << np.uint64(32)) | np.uint64(i)
            counts[0, key & np.uint64(2047)] += 1
            counts[1, (key >> np.uint64(11)) & np.uint64(2047)] += 1
            counts[2, key >> np.uint64(22)] += 1
        for digit in range(3):
            total = 0
            for bucket in range(2048):
                size = counts[digit, bucket]
                counts[digit, bucket] = total
                total += size
            shift = np.uint64(32 + 11 * digit)
            for i in range(n):
                bucket_of = (items[i] >> shift) & np.uint64(2047)
                other[counts[digit, bucket_of]] = items[i]
                counts[digit, bucket_of] += 1
            items, other = other, items
        for rank in range(n):
            row = items[rank] & low32
            projected[k, row] -= quantiles[rank]
            squares += projected[k, row] ** 2
    return squares


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def project(frame: Floats, rows: Floats) -> Floats:
    """``frame @ rows``, for matrices so flat that BLAS would lose more in waking its threads.

    Parameters
    ----------
    frame
        Shape (K, D).
    rows
        Data with one dimension a row, shape (D, n).

    Returns
    -------
    numpy.ndarray
        Shape (K, n), the same on any number of threads.
    """
    out = np.zeros((frame.shape[0], rows.shape[1]))
    for k in range(frame.shape[0]):
        for d in range(frame.shape[1]):
            factor = frame[k, d]
            for i in range(rows.shape[1]):
                out[k, i] += factor * rows[d, i]
    return out


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _products(residuals: Floats, x: Floats) -> Floats:
    """``residuals @ x`` for shapes (K, n) and (n, D); see `project`."""
    out = np.zeros((residuals.shape[0], x.shape[1]))
    for i in range(x.shape[0]):
        for k in range(residuals.shape[0]):
            factor = residuals[k, i]
            for d in range(x.shape[1]):
                out[k, d] += factor * x[i, d]
    return out


def _settled(scores: list[float], settings: AscentSettings) -> bool:
    if len(scores) <= settings.window:
        return False
    gain = scores[-1] - scores[-1 - settings.window]
    return gain <= settings.window * settings.tolerance * scores[-1]


def _orthonormal_rows(frame: Floats) -> Floats:
    q, r = np.linalg.qr(frame.T)
    # Without the signs of R's diagonal the QR of a Gaussian matrix is not uniform.
    return np.ascontiguousarray((q * np.sign(np.diag(r))).T)


def _cayley(frame: Floats, skew: Floats, step: float) -> Floats:
    """Point of the Cayley curve: frame (I - step/2 skew) (I + step/2 skew)^-1, again orthonormal.

    I + step/2 skew is invertible for any skew matrix. D is some tens at most here, so the full
    solve costs nothing beside the sorts and the low-rank form for 2K < D is not worth its lines.
    """
    half = 0.5 * step * skew
    eye = np.eye(len(skew))
    # X M^-1 = (M^-T X^T)^T, and M^T = I - half because half is skew.
    return np.asarray(np.linalg.solve(eye - half, (frame @ (eye - half)).T).T)


def _line_search(
    sample: Sample, here: Point, gradient: Floats, step: float
) -> tuple[Point | None, float]:
    """Halve the step until the objective rises by half of what the slope promises (Armijo)."""
    skew = here.frame.T @ gradient - gradient.T @ here.frame
    rise = float(np.sum(gradient * (here.frame @ skew)))
    for _ in range(_MAX_HALVINGS):
        step *= 0.5
        trial = sample.at(_cayley(here.frame, skew, step))
        if trial.score >= here.score + _ARMIJO * rise * step:
            return trial, step
    return None, step
