"""The map: UMAP of a fitted set, and a place on it for every other object.

science.md section 8. UMAP (McInnes, Healy & Melville 2018, arXiv 1802.03426) is fitted on at most
`max_fit` rows with exact neighbours given to it. All others are placed by their neighbours in that
set, so their coordinates are deterministic, can be computed in any shard, and do not depend on
what else is placed. cuML or umap-learn is chosen here and nowhere else.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.map_quality import MapQuality, quality
from spectra_scale.models.neighbours import ExactIndex, Floats, Indices, finite_rows, knn

__all__ = ["FittedMap", "MapQuality", "MapSettings", "fit_rows", "quality"]

log = logging.getLogger(__name__)

Backend = Literal["umap-learn", "cuml"]


@dataclass(frozen=True, slots=True)
class MapSettings:
    """What a map depends on besides the data.

    Parameters
    ----------
    n_neighbors
        Neighbours of a row, itself included.
    min_dist
        UMAP's least distance of points on the map.
    n_components
        Dimensions of the map.
    n_epochs
        UMAP's optimisation epochs. None: the library's choice, 500 up to 10,000 rows, else 200.
    max_fit
        Greatest number of rows fitted; of more, a random subset is.
    init
        Start of the optimisation: ``spectral``, or ``pca`` (umap-learn alone).
    seed
        Seed of the subset, of approximate neighbours and of UMAP.
    backend
        ``umap-learn``, ``cuml``, or ``auto``: cuML where it can be imported and finds a device.
    """

    n_neighbors: int = 15
    min_dist: float = 0.1
    n_components: int = 2
    n_epochs: int | None = None
    max_fit: int = 100_000
    init: Literal["spectral", "pca"] = "spectral"
    seed: int = 0
    backend: Literal["auto", "umap-learn", "cuml"] = "auto"

    def to_json(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        return asdict(self)


def fit_rows(n: int, settings: MapSettings) -> Indices:
    """Rows of n that a map is fitted on: all, or a random `max_fit` of them, in increasing order.

    Give `FittedMap.fit` the neighbours of these rows among each other, if any.
    """
    if n <= settings.max_fit:
        return np.arange(n)
    rng = np.random.default_rng(settings.seed)
    return np.sort(rng.choice(n, settings.max_fit, replace=False))


@final
class FittedMap:
    """A fitted map: the rows it was fitted on and their coordinates.

    Attributes
    ----------
    x
        Fitted rows, float32, shape (n_fit, D).
    coordinates
        Their places on the map, float32, shape (n_fit, n_components).
    rows
        Which of the rows given to `fit` they are, shape (n_fit,).
    """

    def __init__(self, x: Floats, coordinates: Floats, rows: Indices) -> None:
        self.x, self.coordinates, self.rows = x, coordinates, rows
        self._index: ExactIndex | None = None

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        settings: MapSettings | None = None,
        neighbours: tuple[Indices, Floats] | None = None,
    ) -> FittedMap:
        """Fit a map.

        Parameters
        ----------
        x
            Rows, shape (n, D), finite.
        settings
            Defaults to `MapSettings()`.
        neighbours
            Indices and distances of `knn` for the rows of `fit_rows`, with at least `n_neighbors`
            columns. Computed here if None.

        Returns
        -------
        FittedMap

        Raises
        ------
        SpectraScaleError
            If there are too few rows, rows that are not finite, or neighbours that do not fit.
        """
        settings = MapSettings() if settings is None else settings
        given = finite_rows(x, "x")
        rows = fit_rows(len(given), settings)
        fitted = given[rows]
        _check_fit(len(fitted), settings)
        began = time.perf_counter()
        if neighbours is None:
            neighbours = knn(fitted, k=settings.n_neighbors, seed=settings.seed)
        found = _checked_neighbours(neighbours, len(fitted), settings.n_neighbors)
        searched = time.perf_counter()
        backend = _backend(settings.backend)
        project = _with_cuml if backend == "cuml" else _with_umap_learn
        coordinates = np.ascontiguousarray(project(fitted, found, settings), dtype=np.float32)
        ended = time.perf_counter()
        log.info(
            "map fitted rows=%d dimensions=%d backend=%s neighbours_s=%.1f umap_s=%.1f rate=%.0f",
            len(fitted),
            fitted.shape[1],
            backend,
            searched - began,
            ended - searched,
            len(fitted) / (ended - began),
        )
        return cls(fitted, coordinates, rows)

    def place(self, x_new: ArrayLike, k: int = 15) -> Floats:
        """Give rows their places on the map.

        A row is put at the mean of its k nearest fitted rows with weights exp(-(d - d_1) / s) / d,
        s being the mean of d - d_1: UMAP's own kernel with a closed-form scale, and a pole at
        d = 0, so that a row goes to the place of a fitted one as it comes near it.

        Parameters
        ----------
        x_new
            Rows, shape (m, D), finite.
        k
            Number of fitted neighbours, at most n_fit.

        Returns
        -------
        numpy.ndarray
            Coordinates, float32, shape (m, n_components). A row equal to a fitted one gets exactly
            its place (the first such row's, among equals). The same in every batch.

        Raises
        ------
        SpectraScaleError
            If the rows are not finite or have another dimension, or k is too large.
        """
        if self._index is None:
            self._index = ExactIndex(self.x)
        began = time.perf_counter()
        indices, distances = self._index.query(x_new, k)
        excess = distances.astype(np.float64) - distances[:, :1]
        scale = np.maximum(excess.mean(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        near = np.maximum(distances.astype(np.float64), np.finfo(np.float32).tiny)
        # Relative to the nearest, or the reciprocal of a tiny distance would overflow.
        weights = np.exp(-excess / scale) * (near[:, :1] / near)
        weights[distances[:, 0] == 0, 1:] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        # A sum over neighbours in their order: a matrix product could round by batch.
        placed = np.zeros((len(indices), self.coordinates.shape[1]))
        for column in range(k):
            placed += weights[:, column, None] * self.coordinates[indices[:, column]]
        log.info("map placed rows=%d seconds=%.1f", len(placed), time.perf_counter() - began)
        return placed.astype(np.float32)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The map as named arrays, for safetensors; see `from_arrays`."""
        return {"x": self.x, "coordinates": self.coordinates, "rows": self.rows}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FittedMap:
        """Rebuild a map from `to_arrays`.

        Raises
        ------
        SpectraScaleError
            If an array is missing.
        """
        missing = [name for name in ("x", "coordinates", "rows") if name not in arrays]
        if missing:
            msg = (
                f"The arrays of the map lack {', '.join(missing)}; found {sorted(arrays)}. They "
                "are not those that FittedMap.to_arrays wrote: fit the map again."
            )
            raise SpectraScaleError(msg)
        x, coordinates = (
            np.ascontiguousarray(arrays[name], dtype=np.float32) for name in ("x", "coordinates")
        )
        return cls(x, coordinates, np.asarray(arrays["rows"], dtype=np.int64))


def _check_fit(n: int, settings: MapSettings) -> None:
    if settings.n_neighbors < 2 or n <= settings.n_neighbors:
        msg = (
            f"A map with n_neighbors={settings.n_neighbors} needs n_neighbors >= 2 and more than "
            f"{settings.n_neighbors} rows to fit; found {n} rows. Give more objects, raise "
            "max_fit, or lower n_neighbors."
        )
        raise SpectraScaleError(msg)


def _checked_neighbours(
    neighbours: tuple[Indices, Floats], n: int, k: int
) -> tuple[Indices, Floats]:
    """Exactly k columns, copied: umap-learn writes into them and expects this width."""
    indices, distances = neighbours
    if indices.shape != distances.shape or len(indices) != n or indices.shape[1] < k:
        msg = (
            f"The neighbours have shapes {indices.shape} and {distances.shape}, but the map is "
            f"fitted on {n} rows with {k} neighbours each. Compute them with knn for the rows of "
            "fit_rows."
        )
        raise SpectraScaleError(msg)
    return indices[:, :k].copy(), np.ascontiguousarray(distances[:, :k], dtype=np.float32).copy()


def _backend(wanted: str) -> Backend:
    if wanted == "umap-learn":
        return "umap-learn"
    reason = _why_no_cuml()
    if reason is None:
        return "cuml"
    if wanted == "cuml":
        msg = (
            f"backend='cuml' was asked for, but it cannot be used here: {reason}. Install the gpu "
            "extra on a machine with a device, or set backend = 'auto'."
        )
        raise UsageError(msg)
    log.info("map backend=umap-learn because=%r", reason)
    return "umap-learn"


def _why_no_cuml() -> str | None:
    """None if cuML can be used, else the reason why not."""
    try:
        import cuml.manifold  # noqa: F401  # only whether it can be imported
        import cupy

        return None if cupy.is_available() else "no device was found"
    # Without a driver or with mixed versions these raise far more than ImportError.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


def _with_cuml(x: Floats, neighbours: tuple[Indices, Floats], settings: MapSettings) -> Any:
    from cuml.manifold import UMAP

    return UMAP(
        n_neighbors=settings.n_neighbors,
        n_components=settings.n_components,
        min_dist=settings.min_dist,
        n_epochs=settings.n_epochs,
        init="spectral",
        random_state=settings.seed,
        precomputed_knn=neighbours,
        output_type="numpy",
    ).fit_transform(x)


def _with_umap_learn(x: Floats, neighbours: tuple[Indices, Floats], settings: MapSettings) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tensorflow not installed")
        # No search index is given: new rows are placed here, not by umap-learn.
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\] \(knn_search_index\)")
        from umap import UMAP

        return UMAP(
            n_neighbors=settings.n_neighbors,
            n_components=settings.n_components,
            min_dist=settings.min_dist,
            n_epochs=settings.n_epochs,
            init=settings.init,
            random_state=settings.seed,
            n_jobs=1,  # what a seed demands anyway, with a warning
            precomputed_knn=neighbours,
        ).fit_transform(x)
