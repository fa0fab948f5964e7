"""Boxes and polygons on the map: which points lie inside, and whether a region makes sense.

Points on the boundary are inside (science.md §9), without a tolerance: a point is on an edge where
the cross product, computed in float64, is exactly 0. Coordinates are converted to float64 first,
so a float32 map and its float64 copy give the same members.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from spectra_scale.errors import UsageError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
"""x_low, x_high, y_low, y_high."""


def check_box(box: npt.ArrayLike, name: str = "box") -> Box:
    """Check a box and return it as four floats.

    Parameters
    ----------
    box
        x_low, x_high, y_low, y_high; a box without width or height is allowed.
    name
        What to call it in errors.

    Returns
    -------
    Box
        The same numbers.

    Raises
    ------
    UsageError
        Not four finite numbers, or a low end above the high end.
    """
    values = np.asarray(box, dtype=np.float64)
    if values.shape != (4,) or not np.isfinite(values).all():
        message = (
            f"{name}: found {np.array2string(values)}, expected four finite numbers x_low, "
            "x_high, y_low, y_high. Correct the region."
        )
        raise UsageError(message)
    x_low, x_high, y_low, y_high = values.tolist()
    if x_low > x_high or y_low > y_high:
        message = (
            f"{name}: x runs from {x_low} to {x_high}, y from {y_low} to {y_high}; expected the "
            "low end first. Swap them."
        )
        raise UsageError(message)
    return x_low, x_high, y_low, y_high


def points_in_box(x: npt.ArrayLike, y: npt.ArrayLike, box: npt.ArrayLike) -> Bools:
    """Points within a box, its boundary included.

    Parameters
    ----------
    x, y
        Map coordinates, shape (n,); NaN is outside.
    box
        x_low, x_high, y_low, y_high.

    Returns
    -------
    Bools
        Shape (n,).

    Raises
    ------
    UsageError
        The box makes no sense; see `check_box`.
    """
    x_low, x_high, y_low, y_high = check_box(box)
    x_points, y_points = _points(x, y)
    inside: Bools = (x_points >= x_low) & (x_points <= x_high)
    inside &= (y_points >= y_low) & (y_points <= y_high)
    return inside


def check_polygon(vertices: npt.ArrayLike, name: str = "polygon") -> Floats:
    """Check a polygon and return its vertices without a repeated last one.

    Parameters
    ----------
    vertices
        Corners in order, either sense, shape (m, 2); the first may be repeated at the end.
    name
        What to call it in errors.

    Returns
    -------
    Floats
        Shape (k, 2), k ≥ 3.

    Raises
    ------
    UsageError
        Fewer than three corners, a number that is not finite, a corner twice in a row, edges
        that cross or touch, or no area.
    """
    corners = np.asarray(vertices, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2:
        message = f"{name}: vertices have shape {corners.shape}, expected (m, 2): x and y each."
        raise UsageError(message)
    if not np.isfinite(corners).all():
        message = f"{name}: a vertex is not finite. Give numbers on the map."
        raise UsageError(message)
    if len(corners) > 1 and np.array_equal(corners[0], corners[-1]):
        corners = corners[:-1]
    if len(corners) < 3:
        message = f"{name}: found {len(corners)} different vertices, expected at least 3."
        raise UsageError(message)
    crossing = _first_bad_edges(corners)
    if crossing is not None:
        first, second = crossing
        message = (
            f"{name}: the edges from vertex {first} and from vertex {second} cross, touch or have "
            "no length; expected a polygon that does not meet itself. Reorder its vertices."
        )
        raise UsageError(message)
    return corners


def _first_bad_edges(corners: Floats) -> tuple[int, int] | None:
    """First pair of edges that meet where they should not, by index of their first vertex."""
    m = len(corners)
    for i in range(m):
        a, b = corners[i], corners[(i + 1) % m]
        if np.array_equal(a, b):
            return i, (i + 1) % m
        for j in range(i + 1, m):
            c, d = corners[j], corners[(j + 1) % m]
            if j == i + 1:
                bad = _folds_back(a, b, d)
            elif (j + 1) % m == i:
                bad = _folds_back(b, a, c)
            else:
                bad = _segments_meet(a, b, c, d)
            if bad:
                return i, j
    return None


def _cross(a: Floats, b: Floats, c: Floats) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _folds_back(far: Floats, shared: Floats, other: Floats) -> bool:
    """Whether the edges far-shared and shared-other lie on one another."""
    straight = _cross(far, shared, other) == 0.0
    return straight and float(np.dot(far - shared, other - shared)) > 0.0


def _segments_meet(a: Floats, b: Floats, c: Floats, d: Floats) -> bool:
    low = np.maximum(np.minimum(a, b), np.minimum(c, d))
    high = np.minimum(np.maximum(a, b), np.maximum(c, d))
    if (low > high).any():
        return False
    # Signs, not products of cross products: those underflow on a small map.
    across_cd = np.sign(_cross(a, b, c)) * np.sign(_cross(a, b, d)) <= 0.0
    across_ab = np.sign(_cross(c, d, a)) * np.sign(_cross(c, d, b)) <= 0.0
    return bool(across_cd and across_ab)


def points_in_polygon(x: npt.ArrayLike, y: npt.ArrayLike, vertices: npt.ArrayLike) -> Bools:
    """Points within a polygon, its boundary included.

    Parameters
    ----------
    x, y
        Map coordinates, shape (n,); NaN is outside.
    vertices
        Corners in order, shape (m, 2); the polygon need not be convex.

    Returns
    -------
    Bools
        Shape (n,). A point is on an edge where the float64 cross product is exactly 0 and it lies
        within the edge's box; otherwise crossings of a ray to the right are counted.

    Raises
    ------
    UsageError
        The polygon makes no sense; see `check_polygon`.
    """
    corners = check_polygon(vertices)
    x_points, y_points = _points(x, y)
    return np.asarray(_inside(x_points, y_points, np.ascontiguousarray(corners)))


def _points(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    x_points = np.ascontiguousarray(x, dtype=np.float64)
    y_points = np.ascontiguousarray(y, dtype=np.float64)
    if x_points.shape != y_points.shape or x_points.ndim != 1:
        message = (
            f"map coordinates have shapes {x_points.shape} and {y_points.shape}, expected two "
            "columns of equal length."
        )
        raise UsageError(message)
    return x_points, y_points


@numba.njit(cache=True, nogil=True)
def _inside(x: Floats, y: Floats, corners: Floats) -> Bools:
    m = corners.shape[0]
    inside = np.zeros(x.size, dtype=np.bool_)
    for i in range(x.size):
        px, py = x[i], y[i]
        if not (np.isfinite(px) and np.isfinite(py)):
            continue
        odd = False
        for j in range(m):
            x1, y1 = corners[j, 0], corners[j, 1]
            x2, y2 = corners[(j + 1) % m, 0], corners[(j + 1) % m, 1]
            cross = (x2 - x1) * (py - y1) - (y2 - y1) * (px - x1)
            if (
                cross == 0.0
                and min(x1, x2) <= px <= max(x1, x2)
                and min(y1, y2) <= py <= max(y1, y2)
            ):
                odd = True
                break
            # An edge counts where it crosses the point's height, its upper end excluded, and the
            # point is on its left: decided by the sign of the same cross product.
            if (y1 > py) != (y2 > py) and (cross > 0.0) == (y2 > y1):
                odd = not odd
        inside[i] = odd
    return inside
