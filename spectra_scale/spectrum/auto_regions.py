"""Regions drawn on a map without a hand: two sequences of boxes, and polygons of broad lines.

They stand in for what the paper drew by eye (Figures 4 and 6), so that a map of any survey comes
with its sequences. Nothing is random, and the order of the objects does not matter.

**Boxes** (`auto_sequence_boxes`): the map is cut into cells. A graph joins neighbouring populated
cells; islands are joined by bridges at a high cost. The sequences start at the cell of mostly
star-forming galaxies farthest, along the graph, from the quiet (retired and passive) ones, and end
in the two groups of quiet cells that a weighted 2-means finds. Cheapest paths run through dense
cells; the *top* one goes to the group whose way is richer in AGN, and prefers AGN and composites,
the *bottom* one avoids AGN and prefers composites and retired galaxies. Boxes are evenly spaced
along each path and grow until they hold enough objects.

**Polygons** (`auto_broad_polygons`): k-means of the broad-line objects, convex hulls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from spectra_scale.errors import UsageError
from spectra_scale.spectrum.classify import Label
from spectra_scale.spectrum.geometry import Box, points_in_polygon
from spectra_scale.spectrum.map_graph import (
    Cells,
    cells_of,
    cheapest_path,
    density_cost,
    graph_of,
    neighbours,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_LLOYD_STEPS = 100


# Ends ---------------------------------------------------------------------------------------


def _dominated(cells: Cells, share: Floats) -> Ints:
    """Dense cells a class dominates, or those with the largest share if it dominates none."""
    threshold = min(0.5, float(share.max()))
    chosen = np.flatnonzero(share >= threshold)
    count = cells.count[chosen]
    return np.asarray(chosen[count >= np.median(count)])


def _two_groups(cells: Cells, chosen: Ints) -> tuple[Ints, Ints]:
    """Split cells in two by 2-means weighted with the number of objects."""
    points, weight = cells.centre[chosen], cells.count[chosen]
    middle = np.average(points, axis=0, weights=weight)
    _, _, axes = np.linalg.svd((points - middle) * np.sqrt(weight)[:, None], full_matrices=False)
    second = (points - middle) @ axes[0] > 0
    for _ in range(_LLOYD_STEPS):
        if second.all() or not second.any():
            return chosen, chosen
        ends = [np.average(points[m], axis=0, weights=weight[m]) for m in (~second, second)]
        distance = [np.sum((points - end) ** 2, axis=1) for end in ends]
        closer = distance[1] < distance[0]
        if np.array_equal(closer, second):
            break
        second = closer
    return chosen[~second], chosen[second]


@dataclass(frozen=True, slots=True, eq=False)
class _Ends:
    star_forming: int
    quiet: tuple[int, int]


def _ends(cells: Cells, graph: csr_matrix) -> _Ends:
    quiet_share = cells.share(Label.RETIRED, Label.PASSIVE)
    quiet = _dominated(cells, quiet_share)
    blue = _dominated(cells, cells.share(Label.STAR_FORMING))
    core = quiet[int(np.argmax((cells.count * quiet_share)[quiet]))]
    from_quiet = dijkstra(graph, directed=False, indices=core)
    start = int(blue[int(np.argmax(from_quiet[blue]))])
    from_start = dijkstra(graph, directed=False, indices=start)
    groups = _two_groups(cells, quiet)
    first, second = (int(group[int(np.argmax(from_start[group]))]) for group in groups)
    return _Ends(start, (first, second))


# Boxes --------------------------------------------------------------------------------------


def _along(path: Floats, n: int) -> Floats:
    """Evenly spaced points along a polyline, shape (n, 2)."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    position = np.concatenate(([0.0], np.cumsum(steps)))
    wanted = np.linspace(0.0, position[-1], n)
    return np.column_stack([np.interp(wanted, position, path[:, a]) for a in (0, 1)])


def _half_width(distance: Floats, smallest: float, min_count: int) -> float:
    """Half width that holds enough objects, given their distances from the box's centre."""
    needed = float(np.partition(distance, min_count - 1)[min_count - 1])
    # Wider by a trifle: the farthest object must survive the rounding to map coordinates.
    return max(smallest, needed * (1.0 + 1e-6))


def _boxes(unit: Floats, path: Floats, n_boxes: int, min_count: int) -> list[Floats]:
    centres = _along(path, n_boxes)
    spacing = np.abs(np.diff(centres, axis=0)).max(axis=1) if n_boxes > 1 else np.zeros(0)
    # Neighbours just do not overlap, unless they must grow.
    smallest = 0.45 * float(spacing.min()) if spacing.size else 0.0
    smallest = max(smallest, 0.01)
    boxes = []
    for centre in centres:
        half = _half_width(np.abs(unit - centre).max(axis=1), smallest, min_count)
        boxes.append(np.array([centre - half, centre + half]))
    return boxes


def _sequence_paths(cells: Cells) -> tuple[Floats, Floats]:
    """Paths of the top and the bottom sequence, each from its quiet end to the shared one."""
    links = neighbours(cells)
    dense = density_cost(cells)
    plain = graph_of(cells, links, dense)
    ends = _ends(cells, plain)
    agn, broad = cells.share(Label.NARROW_LINE_AGN), cells.share(Label.BROAD_LINE)
    composite = cells.share(Label.COMPOSITE)
    ways = [cheapest_path(plain, ends.star_forming, end) for end in ends.quiet]
    # The more active way is the top one; if alike, the one that ends higher on the map.
    activity = agn + broad + 0.5 * composite
    ranked = sorted((activity[way].mean(), cells.centre[way[-1], 1], way[-1]) for way in ways)
    bottom_end, top_end = (int(end) for _, _, end in ranked)
    top_cost = dense * (1.0 - 0.8 * np.minimum(agn + 0.5 * composite, 1.0))
    calm = 1.0 - 0.5 * np.minimum(composite + cells.share(Label.RETIRED), 1.0)
    bottom_cost = dense * calm * (1.0 + 4.0 * (agn + broad))
    active = int(np.argmax(cells.count * (agn + composite)))
    if agn[active] + composite[active] > 0:
        # Through the core of the active galaxies, and not there by way of the star-forming ones.
        blue = 1.0 + 4.0 * cells.share(Label.STAR_FORMING)
        first = cheapest_path(graph_of(cells, links, dense * blue), top_end, active)
        second = cheapest_path(graph_of(cells, links, top_cost), active, ends.star_forming)
        top = np.concatenate([first, second[1:]])
    else:
        top = cheapest_path(graph_of(cells, links, top_cost), top_end, ends.star_forming)
    bottom = cheapest_path(graph_of(cells, links, bottom_cost), bottom_end, ends.star_forming)
    return cells.centre[top], cells.centre[bottom]


def auto_sequence_boxes(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    label: npt.ArrayLike,
    n_boxes: int = 8,
    min_count: int = 20,
) -> tuple[list[Box], list[Box]]:
    """Two sequences of boxes from quiet to star-forming galaxies, as in the paper's Figure 4.

    Parameters
    ----------
    x, y
        Map coordinates, shape (n,); objects with a NaN are left out.
    label
        Codes of `classify.Label`, shape (n,).
    n_boxes
        Boxes a sequence.
    min_count
        Objects a box must hold, as far as there are so many.

    Returns
    -------
    tuple[list[Box], list[Box]]
        The top sequence, which passes through narrow-line AGN, and the bottom one. Box 0 is at
        the quiet end of each, the last at the star-forming end and the same in both. Both lists
        are empty only if no object has a place on the map. Where a class is missing its end of
        the map is the cell with most of what there is, so boxes always come back.

    Raises
    ------
    UsageError
        The three columns differ in length, a label is no code, or a number is not positive.
    """
    points, labels = _checked(x, y, label, min(n_boxes, min_count))
    if len(points) == 0:
        return [], []
    # The body of the map sets the scale: one outlier far away must not shrink all else to a cell.
    low = np.quantile(points, 0.001, axis=0, method="lower")
    extent = np.quantile(points, 0.999, axis=0, method="higher") - low
    extent[extent == 0] = 1.0
    unit = (points - low) / extent
    top_path, bottom_path = _sequence_paths(cells_of(unit, labels))
    enough = min(min_count, len(points))
    top = _boxes(unit, top_path, n_boxes, enough)
    bottom = [*_boxes(unit, bottom_path, n_boxes, enough)[:-1], top[-1]]
    return _on_map(top, low, extent), _on_map(bottom, low, extent)


def _on_map(boxes: list[Floats], low: Floats, extent: Floats) -> list[Box]:
    result: list[Box] = []
    for box in boxes:
        (x_low, y_low), (x_high, y_high) = (low + box * extent).tolist()
        result.append((x_low, x_high, y_low, y_high))
    return result


def _checked(
    x: npt.ArrayLike, y: npt.ArrayLike, label: npt.ArrayLike, positive: int
) -> tuple[Floats, Ints]:
    """Objects with a place on the map, sorted so that their order does not matter."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    labels = np.asarray(label, dtype=np.int64)
    if not (xs.shape == ys.shape == labels.shape) or xs.ndim != 1:
        message = (
            f"x, y and label have shapes {xs.shape}, {ys.shape} and {labels.shape}; expected "
            "three columns of equal length."
        )
        raise UsageError(message)
    if labels.size and (labels.min() < 0 or labels.max() >= len(Label)):
        message = f"labels run from {labels.min()} to {labels.max()}, expected codes 0 to 6."
        raise UsageError(message)
    if positive < 1:
        message = "expected at least one box or polygon with at least one object."
        raise UsageError(message)
    keep = np.isfinite(xs) & np.isfinite(ys)
    points, labels = np.column_stack((xs, ys))[keep], labels[keep]
    order = np.lexsort((labels, points[:, 1], points[:, 0]))
    return points[order], labels[order]


# Polygons -----------------------------------------------------------------------------------


def auto_broad_polygons(
    x: npt.ArrayLike, y: npt.ArrayLike, is_broad: npt.ArrayLike, n: int = 6
) -> list[Floats]:
    """Convex polygons over the broad-line objects, as in the paper's Figure 6.

    k-means of the broad-line objects from a farthest-point start, the 5 % most isolated left out
    of the start; the convex hull of each cluster without the 5 % farthest from its centre.

    Parameters
    ----------
    x, y
        Map coordinates, shape (n_objects,); objects with a NaN are left out.
    is_broad
        Whether an object is broad-line, shape (n_objects,).
    n
        Polygons wanted. With fewer than 3·n broad-line objects there are fewer.

    Returns
    -------
    list[Floats]
        Vertices (m, 2), counter-clockwise, of at most `n` polygons that do not overlap, ordered
        by the share of broad-line objects among all objects inside: first the purest (the
        paper's 'A'), last the most mixed ('F').

    Raises
    ------
    UsageError
        The three columns differ in length, or `n` is not positive.
    """
    points, labels = _checked(x, y, np.asarray(is_broad, dtype=bool), n)
    broad = labels == 1
    chosen = points[broad]
    k = min(n, len(chosen) // 3)
    if k == 0:
        return []
    scale = chosen.std(axis=0)
    scale[scale == 0] = 1.0
    cluster = _k_means(chosen / scale, k)
    hulls = [_trimmed_hull(chosen[cluster == number], scale) for number in range(k)]
    polygons = [hull for hull in hulls if hull is not None]
    purity = []
    for polygon in polygons:
        inside = points_in_polygon(points[:, 0], points[:, 1], polygon)
        purity.append(np.count_nonzero(inside & broad) / np.count_nonzero(inside))
    # Equal purity: from top to bottom, as the paper's letters run.
    order = np.lexsort(([-polygon[:, 1].mean() for polygon in polygons], -np.array(purity)))
    return [polygons[i] for i in order]


def _k_means(points: Floats, k: int) -> Ints:
    """Cluster of each point."""
    tree = cKDTree(points)
    neighbours = min(len(points), 6)
    isolation = tree.query(points, k=[neighbours])[0][:, 0]
    # A farthest-point start goes for the outliers first; leave the loneliest out.
    core = points[isolation <= np.quantile(isolation, 0.95)]
    middle = np.median(core, axis=0)
    centres = core[[int(np.argmin(np.sum((core - middle) ** 2, axis=1)))]]
    while len(centres) < k:
        distance = cKDTree(centres).query(core)[0]
        centres = np.vstack((centres, core[int(np.argmax(distance))]))
    cluster = np.asarray(cKDTree(centres).query(points)[1], dtype=np.int64)
    for _ in range(_LLOYD_STEPS):
        for number in range(k):
            if (cluster == number).any():
                centres[number] = points[cluster == number].mean(axis=0)
        moved = np.asarray(cKDTree(centres).query(points)[1], dtype=np.int64)
        if np.array_equal(moved, cluster):
            break
        cluster = moved
    return cluster


def _trimmed_hull(points: Floats, scale: Floats) -> Floats | None:
    """Hull of a cluster without its outer 5 %; None where it has no area."""
    if len(points) < 3:
        return None
    distance = np.sum(((points - points.mean(axis=0)) / scale) ** 2, axis=1)
    inner = points[distance <= np.quantile(distance, 0.95)] if len(points) > 20 else points
    hull = _convex_hull(inner)
    return hull if len(hull) >= 3 else None


def _convex_hull(points: Floats) -> Floats:
    """Corners of the convex hull, counter-clockwise, none on a straight edge (monotone chain)."""
    ordered = np.unique(points, axis=0)

    def chain(sequence: Floats) -> list[Floats]:
        corners: list[Floats] = []
        for point in sequence:
            while len(corners) > 1 and _turn(corners[-2], corners[-1], point) <= 0:
                corners.pop()
            corners.append(point)
        return corners[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]), dtype=np.float64).reshape(-1, 2)


def _turn(a: Floats, b: Floats, c: Floats) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
