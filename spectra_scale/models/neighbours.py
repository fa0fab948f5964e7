"""Nearest neighbours, exact and the same for a row in every batch.

Up to 15 dimensions a k-d tree is used, beyond that brute force: a float32 matrix product proposes
candidates, with a margin for its rounding, and float64 differences decide among them. So the
result is that of float64 arithmetic at the speed of the matrix product, and does not depend on the
shape of a batch, which the rounding of the product does. Only the neighbours of a large set in
itself are approximate (NN-descent), above `TREE_ROWS` or `BRUTE_ROWS`; queries are exact, but for
those of an `ApproximateIndex`.
"""

from __future__ import annotations

import logging
from typing import Any, TypeAlias, final

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError

log = logging.getLogger(__name__)

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

TREE_DIMENSIONS = 15  # a k-d tree is no faster than brute force in more
TREE_ROWS = 500_000
BRUTE_ROWS = 100_000
_BLOCK_VALUES = 1 << 24  # distances held at once: 64 MiB of float32


@final
class ExactIndex:
    """Neighbour search in a fixed set of rows.

    Parameters
    ----------
    reference
        Rows, shape (n, D), finite; taken as float32.

    Raises
    ------
    SpectraScaleError
        If the rows are not a finite two-dimensional array.
    """

    def __init__(self, reference: ArrayLike) -> None:
        self._rows = finite_rows(reference, "reference")
        self._tree: Any = None
        if self._rows.shape[1] <= TREE_DIMENSIONS:
            from sklearn.neighbors import KDTree

            self._tree = KDTree(self._rows.astype(np.float64))
            return
        # Distances do not change, and without the common mean spectrum less is lost to rounding.
        self._mean = self._rows.mean(axis=0, dtype=np.float64)
        self._centred = (self._rows - self._mean).astype(np.float32)
        self._squares = np.einsum("ij,ij->i", self._centred, self._centred)
        # A sum of D products errs by at most D eps sum|a b|, whatever its order (Higham 2002,
        # section 3.1); as (|q| + |r|)^2 <= 2 q^2 + 2 r^2, that is a share for each of the two.
        self._error = np.float32(2 * (self._rows.shape[1] + 8) * np.finfo(np.float32).eps)
        self._slack = self._error * self._squares

    def query(self, queries: ArrayLike, k: int) -> tuple[Indices, Floats]:
        """Find the k nearest reference rows of each query.

        Parameters
        ----------
        queries
            Rows, shape (m, D), finite; taken as float32.
        k
            Number of neighbours, at most n.

        Returns
        -------
        tuple
            Indices (int64) and Euclidean distances (float32), shape (m, k), nearest first and
            equal distances in order of index. Of rows at the same distance as the k-th, brute
            force keeps the lowest indices, the tree whichever it meets first.

        Raises
        ------
        SpectraScaleError
            If k is not in 1 .. n, or the queries do not fit the reference.
        """
        rows = finite_rows(queries, "queries", dims=self._rows.shape[1])
        _check_k(k, len(self._rows))
        if self._tree is not None:
            return _sorted_by_distance(*reversed(self._tree.query(rows.astype(np.float64), k=k)))
        indices = np.empty((len(rows), k), dtype=np.int64)
        squares = np.empty((len(rows), k), dtype=np.float64)
        block = max(_BLOCK_VALUES // len(self._rows), 1)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            rough, slack = self._rough_squares(rows[part])
            found = (indices[part], squares[part])
            _nearest((rows[part], self._rows), rough, (slack, self._slack), found)
        return indices, np.sqrt(squares).astype(np.float32)

    def _rough_squares(self, rows: Floats) -> tuple[Floats, Floats]:
        """Squared distances by a float32 product, and each query's share of their error."""
        centred = (rows - self._mean).astype(np.float32)
        squares = np.einsum("ij,ij->i", centred, centred)
        rough = centred @ self._centred.T
        rough *= -2
        rough += squares[:, None]
        rough += self._squares
        return rough, self._error * squares


@final
class ApproximateIndex:
    """Neighbour search in a fixed set of rows that finds nearly all neighbours (NN-descent).

    Building it takes far longer than one exact query, a query far less: for many queries of a
    large set. tests/benchmarks/similar.py measures both.

    Parameters
    ----------
    reference
        Rows, shape (n, D), finite; taken as float32.
    seed
        Same seed, same index.
    epsilon
        How far beyond the k-th distance a search goes on; more finds more.

    Raises
    ------
    SpectraScaleError
        If the rows are not a finite two-dimensional array.
    """

    def __init__(self, reference: ArrayLike, seed: int = 0, epsilon: float = 0.2) -> None:
        from pynndescent import NNDescent

        rows = finite_rows(reference, "reference")
        self._shape, self._epsilon = rows.shape, epsilon
        self._index = NNDescent(rows, n_neighbors=min(30, len(rows)), random_state=seed)
        self._index.prepare()

    def query(self, queries: ArrayLike, k: int) -> tuple[Indices, Floats]:
        """Find about the k nearest reference rows of each query; as `ExactIndex.query`."""
        rows = finite_rows(queries, "queries", dims=self._shape[1])
        _check_k(k, self._shape[0])
        indices, distances = self._index.query(rows, k=k, epsilon=self._epsilon)
        return _sorted_by_distance(indices, distances)


def knn(
    reference: ArrayLike, queries: ArrayLike | None = None, *, k: int, seed: int = 0
) -> tuple[Indices, Floats]:
    """Find the k nearest neighbours of rows.

    Parameters
    ----------
    reference
        Rows, shape (n, D), finite.
    queries
        Rows, shape (m, D). None: the reference itself, each row being its own first neighbour.
    k
        Number of neighbours, a row itself included if `queries` is None.
    seed
        For NN-descent, which replaces the exact search if `queries` is None and the reference has
        more than `TREE_ROWS` rows of at most `TREE_DIMENSIONS` dimensions, or more than
        `BRUTE_ROWS` of more.

    Returns
    -------
    tuple
        Indices (int64) and Euclidean distances (float32), shape (n or m, k), nearest first.

    Raises
    ------
    SpectraScaleError
        If k is not in 1 .. n, or rows are not finite.
    """
    if queries is not None:
        return ExactIndex(reference).query(queries, k)
    rows = finite_rows(reference, "reference")
    _check_k(k, len(rows))
    most = TREE_ROWS if rows.shape[1] <= TREE_DIMENSIONS else BRUTE_ROWS
    if len(rows) > most:
        log.info("neighbours are approximate rows=%d exact_up_to=%d", len(rows), most)
        return _self_first(*_descent(rows, k, seed))
    return _self_first(*ExactIndex(rows).query(rows, k))


def finite_rows(values: ArrayLike, name: str, dims: int | None = None) -> Floats:
    """Rows as contiguous float32, shape (n, dims), all finite.

    Raises
    ------
    SpectraScaleError
        For another shape, no rows, NaN or infinity.
    """
    rows = np.ascontiguousarray(values, dtype=np.float32)
    if rows.ndim != 2 or (dims is not None and rows.shape[1] != dims):
        msg = (
            f"{name} has shape {rows.shape}, but rows of shape (n, {dims or 'dimensions'}) are "
            "needed. Pass one object a row."
        )
        raise SpectraScaleError(msg)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        msg = (
            f"{name} has {len(bad)} of {len(rows)} rows with NaN or infinity, the first at row "
            f"{bad[0]}. Fill missing pixels (see the map's masked-pixel setting) or drop the rows."
        )
        raise SpectraScaleError(msg)
    return rows


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        msg = f"{k} neighbours were asked for among {n} rows. Ask for 1 to {n}, or give more rows."
        raise SpectraScaleError(msg)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _insert(key: float, item: int, keys: Doubles, items: Indices) -> None:
    """Put an item into lists sorted by key; the last drops out, equal keys keep their order."""
    place = len(keys) - 1
    if key >= keys[place]:
        return
    while place > 0 and key < keys[place - 1]:
        keys[place] = keys[place - 1]
        items[place] = items[place - 1]
        place -= 1
    keys[place] = key
    items[place] = item


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _nearest(
    rows: tuple[Floats, Floats],
    rough: Floats,
    slack: tuple[Floats, Floats],
    out: tuple[Indices, Doubles],
) -> None:
    """Keep, of the reference rows that may be among the k nearest, the k nearest in float64.

    The k-th smallest of the greatest possible distances is a limit that the least possible
    distance of no true neighbour exceeds.
    """
    queries, reference = rows
    indices, squares = out
    for q in range(queries.shape[0]):
        squares[q] = np.inf
        for r in range(reference.shape[0]):
            _insert(rough[q, r] + slack[0][q] + slack[1][r], r, squares[q], indices[q])
        limit = squares[q, -1]
        squares[q] = np.inf
        for r in range(reference.shape[0]):
            if rough[q, r] - slack[0][q] - slack[1][r] > limit:
                continue
            total = 0.0
            for d in range(queries.shape[1]):
                step = np.float64(queries[q, d]) - np.float64(reference[r, d])
                total += step * step
            _insert(total, r, squares[q], indices[q])


def _sorted_by_distance(indices: Indices, distances: Doubles) -> tuple[Indices, Floats]:
    order = np.lexsort((indices, distances), axis=1)
    return (
        np.take_along_axis(indices, order, axis=1).astype(np.int64),
        np.take_along_axis(distances, order, axis=1).astype(np.float32),
    )


def _self_first(indices: Indices, distances: Floats) -> tuple[Indices, Floats]:
    """Move each row to the front of its own neighbours; it may be missing among its duplicates."""
    own = np.arange(len(indices))
    place = np.where(indices == own[:, None], np.arange(indices.shape[1]), -1).max(axis=1)
    place = np.where(place < 0, indices.shape[1] - 1, place)
    for column in range(indices.shape[1] - 1, 0, -1):
        moved = place >= column
        indices[moved, column] = indices[moved, column - 1]
        distances[moved, column] = distances[moved, column - 1]
    indices[:, 0], distances[:, 0] = own, 0.0
    return indices, distances


def _descent(rows: Floats, k: int, seed: int) -> tuple[Indices, Floats]:
    from pynndescent import NNDescent

    # More neighbours than asked for keep the graph connected while it is being improved.
    index = NNDescent(rows, n_neighbors=max(k, 15), random_state=seed)
    indices, distances = index.neighbor_graph
    return indices[:, :k].astype(np.int64), distances[:, :k].astype(np.float32)
