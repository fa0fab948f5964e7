"""Islands of a map: groups of points that stand apart (HDBSCAN, Campello et al. 2013)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import UsageError
from spectra_scale.models.neighbours import Floats, Indices, finite_rows, knn

NOISE = -1


class Islands(NamedTuple):
    """Clusters of the points that they were looked for in.

    Parameters
    ----------
    points
        Shape (point, dimension).
    label
        Cluster of each, 0 the largest; -1 is in none. Shape (point,).
    size
        Points of each cluster, shape (cluster,).
    """

    points: Floats
    label: Indices
    size: Indices

    def place(self, queries: ArrayLike) -> Indices:
        """Cluster of other points: that of the nearest point, shape (query,)."""
        rows = finite_rows(queries, "queries", dims=self.points.shape[1])
        if not len(rows):
            return np.empty(0, np.int64)
        nearest, _ = knn(self.points, rows, k=1)
        found: Indices = self.label[nearest[:, 0]]
        return found

    def size_of(self, label: NDArray[np.int64]) -> Indices:
        """Points of each object's cluster; 0 for those in none."""
        sizes = np.append(self.size, 0)
        found: Indices = sizes[label]
        return found


def find_islands(points: ArrayLike, min_size: int) -> Islands:
    """Cluster points by density.

    Parameters
    ----------
    points
        Shape (point, dimension), finite.
    min_size
        Fewest points of a cluster.

    Raises
    ------
    UsageError
        If `min_size` is under 2.
    """
    rows = finite_rows(points, "points")
    if min_size < 2:
        message = f"found min_size = {min_size}, expected at least 2 points of a cluster."
        raise UsageError(message)
    if len(rows) <= min_size:
        return Islands(rows, np.full(len(rows), NOISE), np.empty(0, np.int64))
    from sklearn.cluster import HDBSCAN

    found = HDBSCAN(min_cluster_size=min_size, copy=True).fit_predict(rows.astype(np.float64))
    found = np.asarray(found, dtype=np.int64)
    found[found < 0] = NOISE
    names, counts = np.unique(found[found >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    # One entry more, so that noise (-1) keeps its name.
    renamed = np.full(len(names) + 1, NOISE)
    renamed[names[order]] = np.arange(len(names))
    return Islands(rows, renamed[found], counts[order].astype(np.int64))
