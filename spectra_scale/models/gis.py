"""GIS, the sliced iterative normalizing flow: a density fitted without back-propagation.

Dai & Seljak 2021, "Sliced Iterative Normalizing Flows" (ICML, arXiv 2007.00674), as the paper uses it
on the latents (science.md section 7; every choice is described in gis.md). Layer by layer it finds
the directions along which the training data are least Gaussian, makes those slices Gaussian and goes
on with the transformed data: ``log p(x) = log N(z; 0, I) + sum of the layers' log-determinants``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.gis_directions import AscentSettings, search_directions
from spectra_scale.models.gis_kde import Tail, fit_slice, gaussian_scores, knot_count
from spectra_scale.models.gis_spline import layer_forward, layer_inverse, matrix_rows, shrink

log = logging.getLogger(__name__)

Floats: TypeAlias = NDArray[np.float64]
Progress: TypeAlias = Callable[[int, dict[str, float]], None]

MIN_ROWS = 50


@dataclass(frozen=True, slots=True)
class GISSettings:
    """What a fit depends on besides the data.

    Parameters
    ----------
    n_iterations
        Number of layers, or the greatest number if `early_stop`. The paper fixes 200.
    n_slices
        Directions a layer, K. None: all D if D <= 8 or there are fewer than 20 D rows, else 8.
    subsample
        Rows that the direction search looks at, drawn anew for each layer.
    max_steps
        Greatest number of ascent steps of one direction search.
    tolerance
        Relative gain a step below which the direction search ends.
    n_knots
        Knots a spline. None: sqrt(n), at least 50 and at most 200.
    shrinkage
        How far each layer is moved towards the identity, as (values and inner slopes, end slopes);
        (0, 0) is the full step. None: 1 - 0.02 log10 n for the first, and the same for the second
        if `tail` is midrank, else SINF's 1 - 0.001 log10 n.
    tail
        How end slopes are found: see `spectra_scale.models.gis_kde.fit_slice`.
    whiten
        Start with a layer that gives the training data zero mean and unit covariance.
    early_stop
        Keep the layers up to the best validation score, and stop when `patience` layers have passed
        without a gain of `min_gain`. The score is the mean log-density without the least probable
        `trim` of the rows (at least one): a single far outlier would otherwise decide.
    patience
        Layers without gain that are waited for.
    min_gain
        Least gain that counts, in nats.
    trim
        Fraction of the least probable rows that trimmed means leave out.
    seed
        Seed of directions, subsamples and knot repair.
    """

    n_iterations: int = 200
    n_slices: int | None = None
    subsample: int = 10_000
    max_steps: int = 100
    tolerance: float = 1e-5
    n_knots: int | None = None
    shrinkage: tuple[float, float] | None = None
    tail: Tail = "midrank"
    whiten: bool = True
    early_stop: bool = False
    patience: int = 5
    min_gain: float = 1e-3
    trim: float = 1e-3
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GISSettings:
        """Settings back from `to_json`, after a trip through JSON or not."""
        known = dict(values)
        if known.get("shrinkage") is not None:
            known["shrinkage"] = tuple(known["shrinkage"])
        return cls(**known)


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """What one layer reached: log-densities in nats, NaN for validation if none was given.

    Layer 0 is the whitening alone. The trimmed means leave out the least probable rows.
    """

    layer: int
    train_mean: float
    train_trimmed: float
    validation_mean: float
    validation_trimmed: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Whitening:
    mean: Floats
    matrix: Floats
    inverse: Floats
    logdet: float


@dataclass(frozen=True, slots=True, eq=False)
class _Layers:
    """Frames (T, K, D) and splines (T, K, 3, M)."""

    frames: Floats
    tables: Floats


@dataclass(slots=True, eq=False)
class _Flowing:
    """Rows on their way through the flow, and their log-determinants so far."""

    z: Floats
    logdet: Floats

    def log_prob(self) -> Floats:
        dims = self.z.shape[1]
        square = np.einsum("ij,ij->i", self.z, self.z)
        return np.asarray(self.logdet - 0.5 * square - 0.5 * dims * np.log(2 * np.pi))


@final
class GIS:
    """A fitted flow.

    Attributes
    ----------
    settings
        What it was fitted with.
    history
        One `LayerRecord` a layer fitted, layer 0 (the whitening) first. After an early stop it is
        longer than the flow.
    """

    def __init__(
        self,
        whitening: _Whitening,
        layers: _Layers,
        settings: GISSettings,
        history: tuple[LayerRecord, ...],
    ) -> None:
        self._whitening = whitening
        self._layers = layers
        self.settings = settings
        self.history = history

    @property
    def n_dimensions(self) -> int:
        """Dimension D of the data."""
        return len(self._whitening.mean)

    @property
    def n_layers(self) -> int:
        """Number of layers, without the whitening."""
        return len(self._layers.frames)

    @property
    def frames(self) -> Floats:
        """Orthonormal directions of every layer as rows, shape (layer, K, D)."""
        return self._layers.frames.copy()

    @property
    def best_layer(self) -> int | None:
        """Number of layers with the best trimmed validation score; None without validation."""
        scores = np.array([record.validation_trimmed for record in self.history])
        return None if np.isnan(scores).any() else int(np.argmax(scores))

    @classmethod
    def fit(
        cls,
        x_train: ArrayLike,
        settings: GISSettings | None = None,
        validation: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> GIS:
        """Fit the flow, layer by layer.

        Parameters
        ----------
        x_train
            Training rows, shape (n, D); never changed.
        settings
            Defaults to `GISSettings()`.
        validation
            Rows that score each layer, shape (m, D); needed for an early stop.
        progress
            Called after each layer with the number of layers and the fields of its `LayerRecord`.

        Returns
        -------
        GIS

        Raises
        ------
        SpectraScaleError
            If there are too few rows, rows that are not finite, or a singular covariance.
        """
        settings = GISSettings() if settings is None else settings
        x = _checked_rows(x_train, "x_train")
        _check_fit(x, settings, validation)
        whitening = _whitening(x, whiten=settings.whiten)
        flowing = [_whitened(x, whitening)]
        if validation is not None:
            rows = _checked_rows(validation, "validation", dims=x.shape[1])
            flowing.append(_whitened(rows, whitening))
        layers, history = _fit_layers(flowing, settings, progress)
        flow = cls(whitening, layers, settings, history)
        if not settings.early_stop:
            return flow
        best = flow.best_layer
        kept = _Layers(layers.frames[:best].copy(), layers.tables[:best].copy())
        log.info("flow stopped layers=%d fitted=%d", len(kept.frames), len(layers.frames))
        return cls(whitening, kept, settings, history)

    def transform(self, x: ArrayLike) -> tuple[Floats, Floats]:
        """Carry data to the normal space.

        Parameters
        ----------
        x
            Rows, shape (n, D); never changed.

        Returns
        -------
        tuple
            z, shape (n, D), and the log-determinants log|dz/dx|, shape (n,). What a row gives does
            not depend on the other rows.
        """
        rows = _checked_rows(x, "x", dims=self.n_dimensions)
        flowing = _whitened(rows, self._whitening)
        for frame, tables in zip(self._layers.frames, self._layers.tables, strict=True):
            layer_forward(flowing.z, frame, tables, flowing.logdet)
        return flowing.z, flowing.logdet

    def log_prob(self, x: ArrayLike) -> Floats:
        """Log-density of rows x, shape (n, D), in nats per unit volume of x; shape (n,)."""
        return _Flowing(*self.transform(x)).log_prob()

    def inverse(self, z: ArrayLike) -> Floats:
        """Carry rows z of the normal space, shape (n, D), back to the data space; shape (n, D)."""
        rows = _checked_rows(z, "z", dims=self.n_dimensions).copy()
        for frame, tables in zip(self._layers.frames[::-1], self._layers.tables[::-1], strict=True):
            layer_inverse(rows, frame, tables)
        return np.asarray(matrix_rows(rows, self._whitening.inverse) + self._whitening.mean)

    def sample(self, n: int, generator: np.random.Generator) -> Floats:
        """Draw n rows from the density, shape (n, D)."""
        return self.inverse(generator.standard_normal((n, self.n_dimensions)))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the settings as named arrays, for safetensors; see `from_arrays`."""
        names = [field.name for field in fields(LayerRecord)]
        rows = [[float(getattr(record, name)) for name in names] for record in self.history]
        return {
            "mean": self._whitening.mean.copy(),
            "whitening": self._whitening.matrix.copy(),
            "unwhitening": self._whitening.inverse.copy(),
            "whitening_logdet": np.array([self._whitening.logdet]),
            "frames": self._layers.frames.copy(),
            "tables": self._layers.tables.copy(),
            "history": np.array(rows, dtype=np.float64).reshape(-1, len(names)),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], settings: GISSettings) -> GIS:
        """Rebuild a flow from `to_arrays` and its settings.

        Raises
        ------
        SpectraScaleError
            If an array is missing.
        """
        wanted = ("mean", "whitening", "unwhitening", "whitening_logdet", "frames", "tables")
        missing = [name for name in (*wanted, "history") if name not in arrays]
        if missing:
            msg = (
                f"The arrays of the flow lack {', '.join(missing)}; found {sorted(arrays)}. "
                "They are not those that GIS.to_arrays wrote: fit the density again."
            )
            raise SpectraScaleError(msg)
        parts = {name: np.array(arrays[name], dtype=np.float64, order="C") for name in wanted}
        whitening = _Whitening(
            mean=parts["mean"],
            matrix=parts["whitening"],
            inverse=parts["unwhitening"],
            logdet=float(parts["whitening_logdet"][0]),
        )
        history = tuple(
            LayerRecord(int(row[0]), *(float(value) for value in row[1:]))
            for row in np.asarray(arrays["history"])
        )
        return cls(whitening, _Layers(parts["frames"], parts["tables"]), settings, history)


def p_value(log_prob: Floats, validation_log_prob: Floats) -> Floats:
    """Outlier p-value: how rarely a validation row is less probable (science.md section 7).

    Parameters
    ----------
    log_prob
        Log-densities of the objects, any shape, finite.
    validation_log_prob
        Log-densities of the n validation rows, shape (n,), finite.

    Returns
    -------
    numpy.ndarray
        (k + 1) / (n + 1) with k of the n validation rows strictly less probable; shape of
        `log_prob`. At least 1 / (n + 1).

    Examples
    --------
    >>> p_value(np.array([-9.0, -2.0, 0.0]), np.array([-3.0, -2.0, -1.0]))
    array([0.25, 0.5 , 1.  ])
    """
    below = np.searchsorted(np.sort(validation_log_prob), log_prob, side="left")
    return np.asarray((below + 1.0) / (len(validation_log_prob) + 1.0))


def trimmed_mean(values: Floats, trim: float) -> float:
    """Mean without the lowest `trim` of the values, at least one of them."""
    dropped = min(max(int(np.ceil(trim * len(values))), 1), len(values) - 1) if trim > 0 else 0
    return float(np.mean(np.sort(values)[dropped:]))


def _fit_layers(
    flowing: list[_Flowing], settings: GISSettings, progress: Progress | None
) -> tuple[_Layers, tuple[LayerRecord, ...]]:
    """Fit layers on flowing[0], carrying flowing[1] (validation, if any) along."""
    n, dims = flowing[0].z.shape
    n_slices, n_knots = _shape_of_layer(n, dims, settings)
    frames, tables = np.empty((0, n_slices, dims)), np.empty((0, n_slices, 3, n_knots))
    found: list[tuple[Floats, Floats]] = []
    history = [_record(flowing, settings, layer=0, seconds=0.0)]
    scores = gaussian_scores(n)
    for layer in range(1, settings.n_iterations + 1):
        began = time.perf_counter()
        # A generator of its own for each layer: no layer depends on how much the others drew.
        rng = np.random.default_rng([settings.seed, layer])
        frame, spline = _fit_layer(flowing[0].z, (scores, n_slices, n_knots), settings, rng)
        for part in flowing:
            layer_forward(part.z, frame, spline, part.logdet)
        found.append((frame, spline))
        seconds = time.perf_counter() - began
        history.append(_record(flowing, settings, layer=layer, seconds=seconds))
        if progress is not None:
            progress(layer, asdict(history[-1]))
        if settings.early_stop and _stalled(history, settings):
            break
    if found:
        frames = np.stack([frame for frame, _ in found])
        tables = np.stack([spline for _, spline in found])
    return _Layers(frames, tables), tuple(history)


def _shape_of_layer(n: int, dims: int, settings: GISSettings) -> tuple[int, int]:
    """Number of slices and of knots of every layer."""
    n_slices = dims if dims <= 8 or n < 20 * dims else 8
    if settings.n_slices is not None:
        n_slices = settings.n_slices
    n_knots = knot_count(n) if settings.n_knots is None else settings.n_knots
    return n_slices, n_knots


def _fit_layer(
    z: Floats,
    shape: tuple[Floats, int, int],
    settings: GISSettings,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    scores, n_slices, n_knots = shape
    seen = z
    if len(z) > settings.subsample:
        seen = z[rng.choice(len(z), settings.subsample, replace=False)]
    ascent = AscentSettings(max_steps=settings.max_steps, tolerance=settings.tolerance)
    frame = search_directions(seen, n_slices, rng, ascent)
    slices = np.sort(frame @ z.T, axis=1)
    inner, tail = _shrinkage(len(z), settings)
    tables = [
        shrink(fit_slice(u, scores, n_knots, settings.tail, rng), inner, tail) for u in slices
    ]
    return frame, np.stack(tables)


def _shrinkage(n: int, settings: GISSettings) -> tuple[float, float]:
    if settings.shrinkage is not None:
        return settings.shrinkage
    inner = 1.0 - 0.02 * np.log10(n)
    return inner, inner if settings.tail == "midrank" else 1.0 - 0.001 * np.log10(n)


def _record(
    flowing: list[_Flowing], settings: GISSettings, *, layer: int, seconds: float
) -> LayerRecord:
    means = []
    for part in flowing:
        log_prob = part.log_prob()
        means += [float(np.mean(log_prob)), trimmed_mean(log_prob, settings.trim)]
    means += [np.nan] * (4 - len(means))
    return LayerRecord(layer, *means, seconds)


def _stalled(history: list[LayerRecord], settings: GISSettings) -> bool:
    """Whether `patience` layers have passed since the last gain of `min_gain`.

    Gains are counted from the last score that counted, so a slow but steady rise goes on.
    """
    last, reference = 0, history[0].validation_trimmed
    for record in history[1:]:
        if record.validation_trimmed > reference + settings.min_gain:
            last, reference = record.layer, record.validation_trimmed
    return history[-1].layer - last >= settings.patience


def _whitened(rows: Floats, whitening: _Whitening) -> _Flowing:
    z = matrix_rows(rows - whitening.mean, whitening.matrix)
    return _Flowing(z, np.full(len(rows), whitening.logdet))


def _whitening(x: Floats, *, whiten: bool) -> _Whitening:
    """Mean and the matrix that gives `x` unit covariance, directions of most variance first."""
    dims = x.shape[1]
    if not whiten:
        return _Whitening(np.zeros(dims), np.eye(dims), np.eye(dims), 0.0)
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / (len(x) - 1)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    _check_covariance(covariance, values, vectors)
    # LAPACK leaves the signs open; the largest component of each direction is made positive.
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(dims)]
    vectors = vectors * np.sign(largest)
    scale = np.sqrt(values)
    return _Whitening(
        mean=x.mean(axis=0),
        matrix=np.ascontiguousarray((vectors / scale).T),
        inverse=np.ascontiguousarray(vectors * scale),
        logdet=-float(np.sum(np.log(scale))),
    )


def _check_covariance(covariance: Floats, values: Floats, vectors: Floats) -> None:
    floor = 1e-14 * max(values[0], np.finfo(np.float64).tiny) * len(values)
    if values[-1] > floor:
        return
    null = np.abs(vectors[:, values <= floor])
    dims = sorted({int(d) for d in np.argwhere(null > 0.1 * null.max(axis=0))[:, 0]})
    constant = [d for d in range(len(values)) if covariance[d, d] == 0]
    msg = (
        f"The covariance of x_train is singular: dimensions {dims} depend on one another"
        f"{f' and {constant} are constant' if constant else ''} (smallest eigenvalue "
        f"{values[-1]:.2g}, largest {values[0]:.2g}). A density needs independent dimensions: leave "
        "out such latents, or train the auto-encoder with fewer."
    )
    raise SpectraScaleError(msg)


def _checked_rows(values: ArrayLike, name: str, dims: int | None = None) -> Floats:
    """Rows as contiguous float64 of shape (n, dims), all finite."""
    rows = np.ascontiguousarray(values, dtype=np.float64)
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
            f"{bad[0]}. Drop or repair them before the density."
        )
        raise SpectraScaleError(msg)
    return rows


def _check_fit(x: Floats, settings: GISSettings, validation: ArrayLike | None) -> None:
    n, dims = x.shape
    if n < MIN_ROWS or n <= dims:
        msg = (
            f"x_train has {n} rows of {dims} dimensions; a density needs at least {MIN_ROWS} rows "
            f"and more than {dims}. Use more objects or fewer latents."
        )
        raise SpectraScaleError(msg)
    wrong = [
        (settings.early_stop and validation is None, "early_stop needs validation rows"),
        (not 1 <= (settings.n_slices or 1) <= dims, f"n_slices must lie in 1 .. {dims}"),
        ((settings.n_knots or 4) < 4, "n_knots must be at least 4"),
        (settings.n_iterations < 0, "n_iterations must not be negative"),
        (not 0 <= settings.trim < 1, "trim must lie in [0, 1)"),
        (settings.tail not in ("midrank", "regression"), "tail must be midrank or regression"),
        (not all(0 <= a < 1 for a in settings.shrinkage or ()), "shrinkage must lie in [0, 1)"),
    ]
    for fault, rule in wrong:
        if fault:
            msg = f"The settings of the flow cannot be used: {rule}; found {settings}."
            raise UsageError(msg)
