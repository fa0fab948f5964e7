"""A 2-D map as a graph of populated cells: what `auto_regions` finds its paths in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

from spectra_scale.spectrum.classify import Label

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Cells along each axis, by the number of objects: about 30 objects in a populated cell.
_CELLS = (8, 48)
_OBJECTS_A_CELL = 30
# Cells with less than this share of the mean count are the fringe: they would be short cuts.
_FRINGE = 0.1
# A bridge between islands costs this many times its length.
_BRIDGE_COST = 10.0
# How much dearer an empty-most cell is than the densest.
_DENSITY_COST = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Populated cells of a map.

    Parameters
    ----------
    index
        Column and row of each cell, shape (k, 2).
    centre
        Mean position of the objects in it, in units of the map's extent, shape (k, 2).
    by_class
        Objects of each class code, shape (k, 7).
    """

    index: Ints
    centre: Floats
    by_class: Floats

    @property
    def count(self) -> Floats:
        """Objects in each cell, shape (k,)."""
        return np.asarray(self.by_class.sum(axis=1))

    def share(self, *labels: Label) -> Floats:
        """Share of some classes in each cell.

        Parameters
        ----------
        *labels
            The classes, counted together.

        Returns
        -------
        Floats
            Shape (k,): of the objects that have a class; 0 where none has.
        """
        known = self.by_class[:, 1:].sum(axis=1)
        chosen = self.by_class[:, list(labels)].sum(axis=1)
        return np.asarray(chosen / np.maximum(known, 1.0))


def cells_of(unit: Floats, label: Ints) -> Cells:
    """Cut a map into cells.

    Parameters
    ----------
    unit
        Positions scaled so that the body of the map spans 0 to 1, shape (n, 2), n ≥ 1. Objects
        outside are left out; at least one must be inside.
    label
        Class codes, shape (n,).

    Returns
    -------
    Cells
        Cells with at least a tenth of the mean count.
    """
    body = ((unit >= 0.0) & (unit <= 1.0)).all(axis=1)
    unit, label = unit[body], label[body]
    n_axis = int(np.clip(np.sqrt(len(unit) / _OBJECTS_A_CELL), *_CELLS))
    ij = np.minimum((unit * n_axis).astype(np.int64), n_axis - 1)
    flat, inverse = np.unique(ij[:, 0] * n_axis + ij[:, 1], return_inverse=True)
    n_classes = len(Label)
    by_class = np.bincount(inverse * n_classes + label, minlength=flat.size * n_classes)
    count = np.bincount(inverse)
    centre = np.column_stack([np.bincount(inverse, weights=unit[:, a]) / count for a in (0, 1)])
    keep = count >= _FRINGE * count.mean()
    return Cells(
        index=np.column_stack((flat // n_axis, flat % n_axis))[keep],
        centre=centre[keep],
        by_class=by_class.reshape(flat.size, n_classes)[keep].astype(np.float64),
    )


def neighbours(cells: Cells) -> tuple[Ints, Floats]:
    """Links between cells: the eight neighbours, and bridges from island to island.

    Parameters
    ----------
    cells
        The cells, k of them.

    Returns
    -------
    tuple[Ints, Floats]
        Pairs of cells, shape (m, 2), that join all cells, and the length of each link, shape
        (m,), that of a bridge ten times its distance.
    """
    # 1.5 cells reach the eight neighbours.
    pairs = cKDTree(cells.index).query_pairs(1.5, output_type="ndarray").astype(np.int64)
    pairs = pairs.reshape(-1, 2)
    length = _lengths(cells, pairs)
    bridges = _bridges(cells, pairs)
    return (
        np.concatenate((pairs, bridges)),
        np.concatenate((length, _BRIDGE_COST * _lengths(cells, bridges))),
    )


def _lengths(cells: Cells, pairs: Ints) -> Floats:
    steps = cells.centre[pairs[:, 0]] - cells.centre[pairs[:, 1]]
    return np.asarray(np.linalg.norm(steps, axis=1))


def _bridges(cells: Cells, pairs: Ints) -> Ints:
    """Shortest links from each island to the rest, until all are joined."""
    n = len(cells.centre)
    bridges: set[tuple[int, int]] = set()
    while True:
        added = np.array(sorted(bridges), dtype=np.int64).reshape(-1, 2)
        links = np.concatenate((pairs, added))
        graph = coo_matrix((np.ones(len(links)), links.T), shape=(n, n))
        n_islands, island = connected_components(graph, directed=False)
        if n_islands == 1:
            return added
        # Each round joins every island to its nearest and at least halves their number.
        for number in range(n_islands):
            inside, outside = np.flatnonzero(island == number), np.flatnonzero(island != number)
            distance, nearest = cKDTree(cells.centre[outside]).query(cells.centre[inside])
            best = int(np.argmin(distance))
            ends = sorted((int(inside[best]), int(outside[nearest[best]])))
            bridges.add((ends[0], ends[1]))


def graph_of(cells: Cells, links: tuple[Ints, Floats], cost: Floats) -> csr_matrix:
    """Weighted graph of the cells.

    Parameters
    ----------
    cells
        The cells, k of them.
    links
        Pairs and lengths, from `neighbours`.
    cost
        Cost of a unit of length in each cell, shape (k,).

    Returns
    -------
    csr_matrix
        Upper half of the graph, (k, k): a link costs its length times the mean cost of its ends.
    """
    pairs, length = links
    weight = length * 0.5 * (cost[pairs[:, 0]] + cost[pairs[:, 1]])
    n = len(cells.centre)
    return coo_matrix((weight, pairs.T), shape=(n, n)).tocsr()


def density_cost(cells: Cells) -> Floats:
    """Cost of a unit of length: 1 in the densest cell, up to 4 in the thinnest.

    Parameters
    ----------
    cells
        The cells, k of them.

    Returns
    -------
    Floats
        Shape (k,), falling with the logarithm of the count.
    """
    log_count = np.log1p(cells.count)
    return np.asarray(1.0 + _DENSITY_COST * (1.0 - log_count / log_count.max()))


def cheapest_path(graph: csr_matrix, start: int, end: int) -> Ints:
    """Cells of the cheapest path between two cells.

    Parameters
    ----------
    graph
        A connected graph, from `graph_of`.
    start, end
        Numbers of two cells, which may be the same.

    Returns
    -------
    Ints
        Cells from `start` to `end`, both included.
    """
    _, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    path = [end]
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    return np.array(path[::-1], dtype=np.int64)
