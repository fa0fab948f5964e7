"""Parts of the GIS flow: its settings, the whitening, and the greedy fit of the layers.

`spectra_scale.models.gis` has the flow itself and says what it is; gis.md describes every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.gis_directions import AscentSettings, project, search_directions
from spectra_scale.models.gis_kde import Tail, fit_slice, gaussian_scores, knot_count
from spectra_scale.models.gis_spline import layer_forward, matrix_rows, shrink

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
        Keep the layers up to the best validation score, and stop when `patience` layers have
        passed without a gain of `min_gain`. The score is the mean log-density without the least
        probable `trim` of the rows (at least one): a single far outlier would otherwise decide.
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

    Layer 0 is the whitening alone. The trimmed means leave out the least probable rows. No times:
    the same data give the same bytes.
    """

    layer: int
    train_mean: float
    train_trimmed: float
    validation_mean: float
    validation_trimmed: float


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """``z = matrix (x - mean)`` and back, with the constant log-determinant."""

    mean: Floats
    matrix: Floats
    inverse: Floats
    logdet: float


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """Frames, shape (T, K, D), and splines, shape (T, K, 3, M), of T layers."""

    frames: Floats
    tables: Floats


@dataclass(slots=True, eq=False)
class Flowing:
    """Rows on their way through the flow, and their log-determinants so far."""

    z: Floats
    logdet: Floats

    def log_prob(self) -> Floats:
        """Log-density of the rows if the flow ended here, shape (n,)."""
        dims = self.z.shape[1]
        square = np.einsum("ij,ij->i", self.z, self.z)
        return np.asarray(self.logdet - 0.5 * square - 0.5 * dims * np.log(2 * np.pi))


def fit_layers(
    flowing: list[Flowing], settings: GISSettings, progress: Progress | None
) -> tuple[Layers, tuple[LayerRecord, ...]]:
    """Fit layer after layer, each on what the ones before left.

    Parameters
    ----------
    flowing
        Whitened training rows, then validation rows if any; both are carried along in place.
    settings
        See `GISSettings`.
    progress
        Called after each layer.

    Returns
    -------
    tuple
        All layers fitted, and the records of layer 0 (the whitening) and of each layer.
    """
    n, dims = flowing[0].z.shape
    n_slices, n_knots = _shape_of_layer(n, dims, settings)
    frames, tables = np.empty((0, n_slices, dims)), np.empty((0, n_slices, 3, n_knots))
    found: list[tuple[Floats, Floats]] = []
    history = [_record(flowing, settings, layer=0)]
    scores = gaussian_scores(n)
    for layer in range(1, settings.n_iterations + 1):
        # A generator of its own for each layer: no layer depends on how much the others drew.
        rng = np.random.default_rng([settings.seed, layer])
        frame, spline = _fit_layer(flowing[0].z, (scores, n_slices, n_knots), settings, rng)
        for part in flowing:
            layer_forward(part.z, frame, spline, part.logdet)
        found.append((frame, spline))
        history.append(_record(flowing, settings, layer=layer))
        if progress is not None:
            progress(layer, asdict(history[-1]))
        if settings.early_stop and _stalled(history, settings):
            break
    if found:
        frames = np.stack([frame for frame, _ in found])
        tables = np.stack([spline for _, spline in found])
    return Layers(frames, tables), tuple(history)


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
    slices = np.sort(project(frame, np.ascontiguousarray(z.T)), axis=1)
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


def _record(flowing: list[Flowing], settings: GISSettings, *, layer: int) -> LayerRecord:
    scores = [part.log_prob() for part in flowing]
    means = [float(np.mean(score)) for score in scores] + [np.nan]
    trimmed = [trimmed_mean(score, settings.trim) for score in scores] + [np.nan]
    return LayerRecord(layer, means[0], trimmed[0], means[1], trimmed[1])


def _stalled(history: list[LayerRecord], settings: GISSettings) -> bool:
    """Whether `patience` layers have passed since the last gain of `min_gain`.

    Gains are counted from the last score that counted, so a slow but steady rise goes on.
    """
    last, reference = 0, history[0].validation_trimmed
    for record in history[1:]:
        if record.validation_trimmed > reference + settings.min_gain:
            last, reference = record.layer, record.validation_trimmed
    return history[-1].layer - last >= settings.patience


def whitened(rows: Floats, whitening: Whitening) -> Flowing:
    """Start rows, shape (n, D), on their way; they are copied."""
    z = matrix_rows(rows - whitening.mean, whitening.matrix)
    return Flowing(z, np.full(len(rows), whitening.logdet))


def whiten_rows(x: Floats, *, whiten: bool) -> Whitening:
    """Mean and the matrix that gives rows unit covariance, directions of most variance first.

    Parameters
    ----------
    x
        Rows, shape (n, D) with n > D.
    whiten
        If false, the identity.

    Returns
    -------
    Whitening

    Raises
    ------
    SpectraScaleError
        If the covariance is singular; the message names the dimensions.
    """
    dims = x.shape[1]
    if not whiten:
        return Whitening(np.zeros(dims), np.eye(dims), np.eye(dims), 0.0)
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / (len(x) - 1)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    _check_covariance(covariance, values, vectors)
    # LAPACK leaves the signs open; the largest component of each direction is made positive.
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(dims)]
    vectors = vectors * np.sign(largest)
    scale = np.sqrt(values)
    return Whitening(
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
        f"{values[-1]:.2g}, largest {values[0]:.2g}). A density needs independent dimensions: "
        "leave out such latents, or train the auto-encoder with fewer."
    )
    raise SpectraScaleError(msg)


def trimmed_mean(values: Floats, trim: float) -> float:
    """Mean without the lowest `trim` of the values, at least one of them."""
    dropped = min(max(int(np.ceil(trim * len(values))), 1), len(values) - 1) if trim > 0 else 0
    return float(np.mean(np.sort(values)[dropped:]))


def checked_rows(values: ArrayLike, name: str, dims: int | None = None) -> Floats:
    """Rows as contiguous float64, shape (n, dims), all finite.

    Raises
    ------
    SpectraScaleError
        For another shape, NaN or infinity.
    """
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


def check_fit(x: Floats, settings: GISSettings, validation: ArrayLike | None) -> None:
    """Refuse too few rows and settings that cannot work for rows of shape (n, D).

    Raises
    ------
    SpectraScaleError
        With what was found, what is needed and what to do.
    """
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
