"""How well a map keeps the neighbours of the data (science.md section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.neighbours import ExactIndex, Indices, finite_rows

_BLOCK_VALUES = 1 << 23  # distances held at once
_DOUBLE_VALUES = 20_000_000  # greatest size of the data that are ranked in float64

Reals: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class MapQuality:
    """How well a map keeps neighbours.

    Parameters
    ----------
    trustworthiness
        Venna & Kaski (2001): 1 if all neighbours on the map are neighbours in the data, penalised
        by the rank of those that are not.
    neighbour_overlap
        Fraction of the k nearest on the map that are among the k nearest in the data.
    k
        Number of neighbours, a row itself not counted.
    n_rows
        Number of rows the two were averaged over.
    """

    trustworthiness: float
    neighbour_overlap: float
    k: int
    n_rows: int


def quality(
    x: ArrayLike, coordinates: ArrayLike, k: int = 15, *, sample: int = 2000, seed: int = 0
) -> MapQuality:
    """Trustworthiness and neighbour overlap of a map.

    Each of the sampled rows is ranked against all n, so the figures estimate those of the full set
    and equal them if `sample` >= n.

    Parameters
    ----------
    x
        Data, shape (n, D), finite.
    coordinates
        Their places on the map, shape (n, n_components).
    k
        Number of neighbours, less than n / 2.
    sample
        Greatest number of rows that are looked at.
    seed
        Seed of the sample.

    Returns
    -------
    MapQuality

    Raises
    ------
    SpectraScaleError
        If the two do not fit one another, or k is too large for the formula.
    """
    rows, places = finite_rows(x, "x"), finite_rows(coordinates, "coordinates")
    n = len(rows)
    if len(places) != n or not 1 <= k < n / 2:
        msg = (
            f"Map quality with k={k} needs as many coordinates as rows and more than {2 * k} of "
            f"them; found {n} rows and {len(places)} coordinates. Lower k or give more rows."
        )
        raise SpectraScaleError(msg)
    chosen = np.arange(n)
    if n > sample:
        chosen = np.sort(np.random.default_rng(seed).choice(n, sample, replace=False))
    near, _ = ExactIndex(places).query(places[chosen], k + 1)
    near = _without_self(near, chosen)
    ranks = np.empty_like(near)
    # In many dimensions neighbours are so far apart that float32 ranks them as well.
    kind = np.float64 if rows.size <= _DOUBLE_VALUES else np.float32
    centred = (rows - rows.mean(axis=0, dtype=np.float64)).astype(kind)
    squares = np.einsum("ij,ij->i", centred, centred)
    block = max(_BLOCK_VALUES // n, 1)
    for start in range(0, len(chosen), block):
        part = chosen[start : start + block]
        distances = squares[part, None] + squares - 2 * centred[part] @ centred.T
        _ranks(distances, part, near[start : start + block], ranks[start : start + block])
    penalty = np.maximum(ranks - k, 0).sum(axis=1).mean()
    return MapQuality(
        trustworthiness=float(1 - 2 * penalty / (k * (2 * n - 3 * k - 1))),
        neighbour_overlap=float(np.mean(ranks <= k)),
        k=k,
        n_rows=len(chosen),
    )


def _without_self(near: Indices, own: Indices) -> Indices:
    """Drop each row from its own neighbours, or the last if it is missing among its duplicates."""
    keep = near != own[:, None]
    keep[keep.all(axis=1), -1] = False
    return np.asarray(near[keep].reshape(len(near), -1))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba carries no types
def _ranks(distances: Reals, own: Indices, near: Indices, out: Indices) -> None:
    """Rank in the data, from 1, of each neighbour on the map; the row itself is not ranked."""
    for i in range(near.shape[0]):
        for j in range(near.shape[1]):
            limit = distances[i, near[i, j]]
            closer = 0
            for r in range(distances.shape[1]):
                closer += distances[i, r] < limit
            closer -= distances[i, own[i]] < limit
            out[i, j] = closer + 1
