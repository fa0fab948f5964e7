"""Monotone rational-quadratic splines and the layer of the flow that is made of them.

A layer has K orthonormal directions a_k in R^D and one monotone map psi_k for each:

    x' = x + sum_k a_k (psi_k(a_k . x) - a_k . x),   log-determinant = sum_k log psi_k'(a_k . x)

(Dai & Seljak 2021, arXiv 2007.00674, section 3). psi_k is the rational-quadratic spline of
Gregory & Delbourgo (1982) between its knots and a straight line outside them.

The kernels walk row by row with plain sums instead of a matrix product, so what a row gives does
not depend on the rows beside it: BLAS picks other kernels, hence other roundings, for other batch
sizes.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# A spline is a table of shape (3, M): these rows are its knots, their values and the slopes there.
_KNOT, _VALUE, _SLOPE = 0, 1, 2


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _interval(knots: Floats, u: float) -> int:
    """Index j of the interval with knots[j] <= u < knots[j + 1]; u lies inside the knots."""
    low, high = 0, knots.shape[0] - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if knots[middle] <= u:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _forward_one(u: float, table: Floats) -> tuple[float, float]:
    """Value and derivative of the spline at u."""
    end = 0 if u <= table[0, 0] else table.shape[1] - 1
    if end == 0 or u >= table[0, end]:
        slope = table[2, end]
        return table[1, end] + slope * (u - table[0, end]), slope
    j = _interval(table[0], u)
    width = table[0, j + 1] - table[0, j]
    height = table[1, j + 1] - table[1, j]
    left, right, secant = table[2, j], table[2, j + 1], height / width
    xi = (u - table[0, j]) / width
    across = xi * (1.0 - xi)
    below = secant + (right + left - 2.0 * secant) * across
    value = table[1, j] + height * (secant * xi * xi + left * across) / below
    above = right * xi * xi + 2.0 * secant * across + left * (1.0 - xi) * (1.0 - xi)
    return value, secant * secant * above / (below * below)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _inverse_one(y: float, table: Floats) -> float:
    """Point at which the spline has the value y."""
    end = 0 if y <= table[1, 0] else table.shape[1] - 1
    if end == 0 or y >= table[1, end]:
        return float(table[0, end] + (y - table[1, end]) / table[2, end])
    j = _interval(table[1], y)
    width = table[0, j + 1] - table[0, j]
    height = table[1, j + 1] - table[1, j]
    left, right, secant = table[2, j], table[2, j + 1], height / width
    rise = y - table[1, j]
    bend = right + left - 2.0 * secant
    a = height * (secant - left) + rise * bend
    b = height * left - rise * bend
    c = -secant * rise
    # The true discriminant is never negative; rounding can leave it a hair below zero.
    root = np.sqrt(max(b * b - 4.0 * a * c, 0.0))
    return float(table[0, j] + width * (-2.0 * c / (b + root)))


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
    for i in range(u.shape[0]):
        value[i], slope[i] = _forward_one(u[i], table)
    return value, slope


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def spline_inverse(y: Floats, table: Floats) -> Floats:
    """Points at which one spline has the values `y`; see `spline_forward`."""
    u = np.empty_like(y)
    for i in range(y.shape[0]):
        u[i] = _inverse_one(y[i], table)
    return u


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
    n, dims = x.shape
    shift = np.empty(dims)
    for i in range(n):
        shift[:] = 0.0
        volume = 1.0
        for k in range(frame.shape[0]):
            u = 0.0
            for d in range(dims):
                u += frame[k, d] * x[i, d]
            value, slope = _forward_one(u, tables[k])
            volume *= slope
            # One logarithm a row is enough, unless the product would leave the range of a float.
            if volume < 1e-200 or volume > 1e200:
                logdet[i] += np.log(volume)
                volume = 1.0
            for d in range(dims):
                shift[d] += frame[k, d] * (value - u)
        logdet[i] += np.log(volume)
        for d in range(dims):
            x[i, d] += shift[d]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def layer_inverse(z: Floats, frame: Floats, tables: Floats) -> None:
    """Pull rows back through one layer, in place; see `layer_forward`."""
    n, dims = z.shape
    shift = np.empty(dims)
    for i in range(n):
        shift[:] = 0.0
        for k in range(frame.shape[0]):
            value = 0.0
            for d in range(dims):
                value += frame[k, d] * z[i, d]
            u = _inverse_one(value, tables[k])
            for d in range(dims):
                shift[d] += frame[k, d] * (u - value)
        for d in range(dims):
            z[i, d] += shift[d]


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
