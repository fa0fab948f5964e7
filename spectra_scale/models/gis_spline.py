"""Monotone rational-quadratic splines and the layer of the flow that is made of them.

A layer has K orthonormal directions a_k in R^D and one monotone map psi_k for each:

    x' = x + sum_k a_k (psi_k(a_k . x) - a_k . x),   log-determinant = sum_k log psi_k'(a_k . x)

(Dai & Seljak 2021, arXiv 2007.00674, section 3). psi_k is the rational-quadratic spline of
Gregory & Delbourgo (1982) between its knots and a straight line outside them.

The kernels take plain sums instead of a matrix product, so what a row gives does not depend on the
rows beside it: BLAS picks other kernels, hence other roundings, for other batch sizes. They take
some hundred rows at once through one spline after the other, which a compiler turns into vector
instructions: four times as fast as row by row, to the same bits.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

_BLOCK = 256  # rows at once: their columns and one spline stay in a core's first cache

# A spline is a table of shape (3, M): these rows are its knots, their values and the slopes there.
_KNOT, _VALUE, _SLOPE = 0, 1, 2


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _intervals(edges: Floats, u: Floats, low: Ints) -> None:
    """Index j of the interval with edges[j] <= u < edges[j + 1]; the nearest one outside them."""
    low[:] = 0
    length = edges.shape[0] - 1
    while length > 1:
        half = length >> 1
        # No branch: the compiler makes it a choice of two numbers, for several points at once.
        for i in range(u.shape[0]):
            middle = low[i] + half
            low[i] = middle if edges[middle] <= u[i] else low[i]
        length -= half


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]  # see above
def _forward(u: Floats, table: Floats, low: Ints, value: Floats, slope: Floats) -> None:
    """Values and derivatives of one spline at u, into `value` and `slope`."""
    knots, values, slopes = table[0], table[1], table[2]
    first, last = table[:, 0].copy(), table[:, -1].copy()
    _intervals(knots, u, low)
    for i in range(u.shape[0]):
        j = low[i]
        width = knots[j + 1] - knots[j]
        height = values[j + 1] - values[j]
        left, right, secant = slopes[j], slopes[j + 1], height / width
        xi = (u[i] - knots[j]) / width
        across = xi * (1.0 - xi)
        below = secant + (right + left - 2.0 * secant) * across
        inside = values[j] + height * (secant * xi * xi + left * across) / below
        above = right * xi * xi + 2.0 * secant * across + left * (1.0 - xi) * (1.0 - xi)
        # Outside the knots what was found means nothing, and the straight tail is taken.
        under, over = u[i] <= first[0], u[i] >= last[0]
        tail = first[2] if under else last[2]
        from_end = u[i] - (first[0] if under else last[0])
        line = (first[1] if under else last[1]) + tail * from_end
        value[i] = line if under or over else inside
        slope[i] = tail if under or over else secant * secant * above / (below * below)


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]  # see above
def _inverse(y: Floats, table: Floats, low: Ints, u: Floats) -> None:
    """Points at which one spline has the values y, into `u`."""
    knots, values, slopes = table[0], table[1], table[2]
    first, last = table[:, 0].copy(), table[:, -1].copy()
    _intervals(values, y, low)
    for i in range(y.shape[0]):
        j = low[i]
        width = knots[j + 1] - knots[j]
        height = values[j + 1] - values[j]
        left, right, secant = slopes[j], slopes[j + 1], height / width
        rise = y[i] - values[j]
        bend = right + left - 2.0 * secant
        a = height * (secant - left) + rise * bend
        b = height * left - rise * bend
        c = -secant * rise
        # The true discriminant is never negative; rounding can leave it a hair below zero.
        root = np.sqrt(max(b * b - 4.0 * a * c, 0.0))
        inside = knots[j] + width * (-2.0 * c / (b + root))
        under, over = y[i] <= first[1], y[i] >= last[1]
        from_end = y[i] - (first[1] if under else last[1])
        line = (first[0] if under else last[0]) + from_end / (first[2] if under else last[2])
        u[i] = line if under or over else inside


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def spline_forward(u: Floats, table: Floats) -> tuple[Floats, Floats]:
    """Values and derivatives of one spline.

    Parameters
    ----------
    u
        Points, shape (n,).
    table
        Knots, values and slopes, shape (3, M); knots and values increase, slopes are positive.

    Returns
    -------
    tuple
        psi(u) and psi'(u), each of shape (n,).
    """
    value, slope = np.empty_like(u), np.empty_like(u)
    _forward(u, table, np.empty(len(u), np.int64), value, slope)
    return value, slope


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def spline_inverse(y: Floats, table: Floats) -> Floats:
    """Points at which one spline has the values `y`; see `spline_forward`."""
    u = np.empty_like(y)
    _inverse(y, table, np.empty(len(y), np.int64), u)
    return u


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _weighted_sum(factors: Floats, columns: Floats, out: Floats) -> None:
    """Sum of columns (term, row) times factors (term,), term by term, into `out`."""
    out[:] = 0.0
    for k in range(len(factors)):
        factor = factors[k]
        for i in range(len(out)):
            out[i] += factor * columns[k, i]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def layer_forward(x: Floats, frame: Floats, tables: Floats, logdet: Floats) -> None:
    """Push rows through one layer, in place.

    Parameters
    ----------
    x
        Rows, shape (n, D), overwritten with the transformed rows.
    frame
        Orthonormal directions as rows, shape (K, D).
    tables
        One spline a direction, shape (K, 3, M).
    logdet
        Shape (n,); the layer's log-determinant is added to it.
    """
    n_slices, low = len(frame), np.empty(_BLOCK, np.int64)
    deltas = np.empty((n_slices, _BLOCK))
    for start in range(0, len(x), _BLOCK):
        m = min(_BLOCK, len(x) - start)
        columns = np.ascontiguousarray(x[start : start + m].T)
        u, value, slope, volume = np.empty(m), np.empty(m), np.empty(m), np.ones(m)
        for k in range(n_slices):
            _weighted_sum(frame[k], columns, u)
            _forward(u, tables[k], low, value, slope)
            for i in range(m):
                deltas[k, i] = value[i] - u[i]
                product = volume[i] * slope[i]
                # One logarithm a row is enough, unless the product would leave the range.
                if product < 1e-200 or product > 1e200:
                    logdet[start + i] += np.log(product)
                    product = 1.0
                volume[i] = product
        for i in range(m):
            logdet[start + i] += np.log(volume[i])
        _shift(x[start : start + m], frame, deltas, u)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def layer_inverse(z: Floats, frame: Floats, tables: Floats) -> None:
    """Pull rows back through one layer, in place; see `layer_forward`."""
    n_slices, low = len(frame), np.empty(_BLOCK, np.int64)
    deltas = np.empty((n_slices, _BLOCK))
    for start in range(0, len(z), _BLOCK):
        m = min(_BLOCK, len(z) - start)
        columns = np.ascontiguousarray(z[start : start + m].T)
        value, u = np.empty(m), np.empty(m)
        for k in range(n_slices):
            _weighted_sum(frame[k], columns, value)
            _inverse(value, tables[k], low, u)
            for i in range(m):
                deltas[k, i] = u[i] - value[i]
        _shift(z[start : start + m], frame, deltas, u)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _shift(x: Floats, frame: Floats, deltas: Floats, spare: Floats) -> None:
    """Move rows, shape (m, D), along the directions by deltas, shape (K, m or more), in place."""
    for d in range(x.shape[1]):
        _weighted_sum(frame[:, d], deltas, spare)
        for i in range(x.shape[0]):
            x[i, d] += spare[i]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def matrix_rows(x: Floats, matrix: Floats) -> Floats:
    """``x @ matrix.T`` with the same rounding for a row in every batch.

    Parameters
    ----------
    x
        Rows, shape (n, D).
    matrix
        Shape (P, D).

    Returns
    -------
    numpy.ndarray
        Shape (n, P).
    """
    n, dims = x.shape
    out = np.empty((n, matrix.shape[0]))
    for i in range(n):
        for p in range(matrix.shape[0]):
            total = 0.0
            for d in range(dims):
                total += matrix[p, d] * x[i, d]
            out[i, p] = total
    return out


def parabola_slopes(knots: Floats, values: Floats) -> Floats:
    """Slopes at the inner knots, of the parabola through each knot and its two neighbours.

    Parameters
    ----------
    knots, values
        Increasing, shape (M,).

    Returns
    -------
    numpy.ndarray
        Shape (M - 2,), positive because both secants are.
    """
    width = np.diff(knots)
    secant = np.diff(values) / width
    return np.asarray(
        (secant[:-1] * width[1:] + secant[1:] * width[:-1]) / (width[:-1] + width[1:])
    )


def shrink(table: Floats, inner: float, tail: float) -> Floats:
    """Move a spline towards the identity: SINF's regularisation alpha = (inner, tail).

    Parameters
    ----------
    table
        Spline, shape (3, M).
    inner
        Fraction of the way to the identity for values and inner slopes: 0 keeps the spline.
    tail
        The same for the two end slopes.

    Returns
    -------
    numpy.ndarray
        A new table, shape (3, M).
    """
    out = table.copy()
    out[_VALUE] = (1.0 - inner) * table[_VALUE] + inner * table[_KNOT]
    out[_SLOPE] = (1.0 - inner) * table[_SLOPE] + inner
    out[_SLOPE, [0, -1]] = (1.0 - tail) * table[_SLOPE, [0, -1]] + tail
    return out


def pad_table(table: Floats, n_knots: int) -> Floats:
    """Lengthen a spline to `n_knots` knots without changing it.

    Parameters
    ----------
    table
        Spline, shape (3, M) with M <= n_knots.
    n_knots
        Wanted number of knots.

    Returns
    -------
    numpy.ndarray
        Shape (3, n_knots). The new knots lie on the straight line to the right, where a spline
        whose secant equals both its end slopes is that line.
    """
    steps = np.arange(1.0, n_knots - table.shape[1] + 1.0)
    slope = table[_SLOPE, -1]
    more = np.stack(
        [
            table[_KNOT, -1] + steps,
            table[_VALUE, -1] + slope * steps,
            np.full_like(steps, slope),
        ]
    )
    return np.concatenate([table, more], axis=1)
