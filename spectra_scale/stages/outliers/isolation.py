"""How far an object stands from others: neighbours in latent space, islands of the map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import OutliersSection
from spectra_scale.store.arrays import Shard

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
#: Latents that distances are measured to: more make a search slower and hardly finer.
MOST_NEIGHBOURS = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """Training latents that distances are measured in, whitened.

    Parameters
    ----------
    mean, axes
        Whitened latents are (z - mean) @ axes.
    rows
        Whitened training latents, shape (row, latent).
    number
        Their row numbers in the sample; -1 in a run that only applies them.
    """

    mean: Doubles
    axes: Doubles
    rows: Floats
    number: NDArray[np.int64]

    def whiten(self, latents: NDArray[Any]) -> Floats:
        """Latents with unit covariance in the training split."""
        return ((latents.astype(np.float64) - self.mean) @ self.axes).astype(np.float32)


def fit_cloud(latents: Floats, training: Bools, seed: int) -> Cloud:
    """Whitening and reference rows of the training split."""
    number = np.flatnonzero(training)
    chosen = latents[number].astype(np.float64)
    mean = chosen.mean(axis=0)
    value, vector = np.linalg.eigh(np.atleast_2d(np.cov(chosen, rowvar=False)))
    # A direction that the training split does not vary in tells nothing of distance.
    axes = vector / np.sqrt(np.where(value > 1e-12 * value.max(), value, np.inf))
    if len(number) > MOST_NEIGHBOURS:
        rng = np.random.default_rng(seed)
        number = np.sort(rng.choice(number, MOST_NEIGHBOURS, replace=False))
    rows = ((latents[number].astype(np.float64) - mean) @ axes).astype(np.float32)
    return Cloud(mean, axes, rows, number)


def knn_distances(
    cloud: Cloud, reference: Path, latents: Floats, shards: list[Shard], how: tuple[int, Place]
) -> Doubles:
    """Distance of each row to its k-th nearest training object, itself not counted.

    Parameters
    ----------
    cloud, reference
        The training rows, and the file that holds them.
    latents
        Of all rows, finite, shape (row, latent).
    shards
        Tasks.
    how
        k, and where the tasks run.
    """
    k, place = how
    white = cloud.whiten(latents)
    own = np.isin(np.arange(len(latents)), cloud.number)
    k = min(k, len(cloud.rows) - 1)
    if k < 1:
        return np.full(len(latents), np.nan)
    items = [(white[shard.rows], own[shard.rows]) for shard in shards]
    work = Work("outliers (neighbours)", "spectra", [shard.n_rows for shard in shards])
    return np.concatenate(place.map(partial(_distances, reference, k), items, work))


def _distances(reference: Path, k: int, item: tuple[Floats, Bools]) -> Doubles:
    from spectra_scale.models.neighbours import ExactIndex

    white, own = item
    rows = load_file(reference)["cloud_rows"]
    _, distance = ExactIndex(rows).query(white, k + 1)
    # Its own first neighbour is the object itself.
    return np.where(own, distance[:, k], distance[:, k - 1]).astype(np.float64)


def islands_of(
    xy: Floats, usable: Bools, config: OutliersSection, fitted: dict[str, Any] | None
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Columns ``island``, ``island_size`` and ``small_island``, and the arrays to place others.

    Parameters
    ----------
    xy
        Place on the map of latents, shape (row, dimension).
    usable
        Rows on the map.
    config
        `[outliers]`.
    fitted
        Arrays of an earlier run, whose islands are taken; None looks for them.
    """
    from spectra_scale.models.islands import NOISE, Islands, find_islands

    rows = np.flatnonzero(usable & np.isfinite(xy).all(axis=1))
    if fitted is None:
        seen = rows
        if len(seen) > config.max_fit:
            rng = np.random.default_rng(config.seed)
            seen = np.sort(rng.choice(seen, config.max_fit, replace=False))
        islands = find_islands(xy[seen], config.min_island)
    else:
        islands = Islands(*(fitted[f"island_{name}"] for name in Islands._fields))
    label = np.full(len(xy), NOISE)
    label[rows] = islands.place(xy[rows])
    size = islands.size_of(label)
    small = (label >= 0) & (size <= config.island_share * len(islands.points))
    columns = {"island": label.astype(np.int32), "island_size": size.astype(np.int32),
               "small_island": small}  # fmt: skip
    return columns, {f"island_{k}": v for k, v in islands._asdict().items()}
