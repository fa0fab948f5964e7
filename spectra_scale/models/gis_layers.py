"""Parts of the GIS flow: its settings, the whitening, and the greedy fit of the layers.

`spectra_scale.models.gis` has the flow itself and says what it is; gis.md describes every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.gis_directions import AscentSettings, Sample, search_directions
from spectra_scale.models.gis_kde import (
    Tail,
    effective_count,
    fit_slice,
    gaussian_scores,
    knot_count,
)
from spectra_scale.models.gis_rows import Floats
from spectra_scale.models.gis_spline import shrink

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
class Layers:
    """Frames, shape (T, K, D), and splines, shape (T, K, 3, M), of T layers."""

    frames: Floats
    tables: Floats


class Rows(Protocol):
    """Rows on their way through the flow: `Flowing` in main memory, or their like on a device."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of dimensions."""
        ...

    @property
    def effective(self) -> float:
        """Effective number of rows, (sum w)^2 / sum w^2."""
        ...

    def score(self, trim: float) -> tuple[float, float]:
        """Mean log-density if the flow ended here, and the mean without the lowest `trim`."""
        ...

    def push(self, frame: Floats, tables: Floats) -> None:
        """Carry the rows through one layer."""
        ...

    def sample(self, picked: NDArray[np.int64] | None) -> Sample:
        """Some of the rows by number, or all, for the direction search."""
        ...

    def slices(self, frame: Floats) -> Iterator[tuple[Floats, Floats | None]]:
        """Yield the projections on each direction, (n,) ascending, and their weights if any."""
        ...


def fit_layers(
    flowing: Sequence[Rows],
    settings: GISSettings,
    progress: Progress | None = None,
    start: Layers | None = None,
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
    start
        Layers fitted before: taken as they are, and scored as if they were fitted now.

    Returns
    -------
    tuple
        All layers fitted, and the records of layer 0 (the whitening) and of each layer.
    """
    n, dims = flowing[0].shape
    known = [] if start is None else list(zip(start.frames, start.tables, strict=True))
    n_slices, n_knots = shape_of_layer(flowing[0], settings)
    if start is not None:
        n_slices, n_knots = start.tables.shape[1], start.tables.shape[3]
    found: list[tuple[Floats, Floats]] = []
    history = [_record(flowing, settings, layer=0)]
    scores = gaussian_scores(n)
    for layer in range(1, settings.n_iterations + 1):
        # A generator of its own for each layer: no layer depends on how much the others drew.
        rng = np.random.default_rng([settings.seed, layer])
        if layer <= len(known):
            frame, spline = known[layer - 1]
        else:
            frame, spline = _fit_layer(flowing[0], (scores, n_slices, n_knots), settings, rng)
        for part in flowing:
            part.push(frame, spline)
        found.append((frame, spline))
        history.append(_record(flowing, settings, layer=layer))
        if progress is not None:
            progress(layer, asdict(history[-1]))
        if settings.early_stop and _stalled(history, settings):
            break
    frames, tables = np.empty((0, n_slices, dims)), np.empty((0, n_slices, 3, n_knots))
    if found:
        frames = np.stack([frame for frame, _ in found])
        tables = np.stack([spline for _, spline in found])
    return Layers(frames, tables), tuple(history)


def shape_of_layer(rows: Rows, settings: GISSettings) -> tuple[int, int]:
    """Number of slices and of knots of every layer."""
    n, dims = rows.effective, rows.shape[1]
    n_slices = dims if dims <= 8 or n < 20 * dims else 8
    if settings.n_slices is not None:
        n_slices = settings.n_slices
    n_knots = knot_count(n) if settings.n_knots is None else settings.n_knots
    return n_slices, n_knots


def _fit_layer(
    rows: Rows,
    shape: tuple[Floats, int, int],
    settings: GISSettings,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    scores, n_slices, n_knots = shape
    n, picked = rows.shape[0], None
    if n > settings.subsample:
        picked = rng.choice(n, settings.subsample, replace=False)
    ascent = AscentSettings(max_steps=settings.max_steps, tolerance=settings.tolerance)
    frame = search_directions(rows.sample(picked), n_slices, rng, ascent)
    inner, tail = _shrinkage(rows.effective, settings)
    tables = []
    for u, weights in rows.slices(frame):
        ranks = scores if weights is None else None
        table = fit_slice(u, ranks, n_knots, settings.tail, rng, weights)
        tables.append(shrink(table, inner, tail))
    return frame, np.stack(tables)


def _shrinkage(n: float, settings: GISSettings) -> tuple[float, float]:
    if settings.shrinkage is not None:
        return settings.shrinkage
    inner = float(1.0 - 0.02 * np.log10(n))
    return inner, inner if settings.tail == "midrank" else float(1.0 - 0.001 * np.log10(n))


def _record(flowing: Sequence[Rows], settings: GISSettings, *, layer: int) -> LayerRecord:
    scores = [part.score(settings.trim) for part in flowing]
    train, validation = (*scores, (np.nan, np.nan))[:2]
    return LayerRecord(layer, *train, *validation)


def _stalled(history: list[LayerRecord], settings: GISSettings) -> bool:
    """Whether `patience` layers have passed since the last gain of `min_gain`.

    Gains are counted from the last score that counted, so a slow but steady rise goes on.
    """
    last, reference = 0, history[0].validation_trimmed
    for record in history[1:]:
        if record.validation_trimmed > reference + settings.min_gain:
            last, reference = record.layer, record.validation_trimmed
    return history[-1].layer - last >= settings.patience


def check_fit(
    x: Floats,
    settings: GISSettings,
    validation: ArrayLike | None,
    weights: Floats | None = None,
) -> None:
    """Refuse too few rows and settings that cannot work for rows of shape (n, D).

    Raises
    ------
    SpectraScaleError
        With what was found, what is needed and what to do.
    """
    dims = x.shape[1]
    n = int(effective_count(weights, len(x)))
    if n < MIN_ROWS or n <= dims:
        msg = (
            f"x_train has {'effectively ' if weights is not None else ''}{n} rows of {dims} "
            f"dimensions; a density needs at least {MIN_ROWS} rows and more than {dims}. Use more "
            "objects or fewer latents."
        )
        raise SpectraScaleError(msg)
    wrong = [
        (settings.early_stop and validation is None, "early_stop needs validation rows"),
        (not 1 <= (settings.n_slices or 1) <= dims, f"n_slices must lie in 1 .. {dims}"),
        ((settings.n_knots or 4) < 4, "n_knots must be at least 4"),
        (settings.n_iterations < 0, "n_iterations must not be negative"),
        (settings.subsample < 2, "subsample must be at least 2"),
        (settings.max_steps < 0, "max_steps must not be negative"),
        (not 0 <= settings.trim < 1, "trim must lie in [0, 1)"),
        (settings.tail not in ("midrank", "regression"), "tail must be midrank or regression"),
        (not all(0 <= a < 1 for a in settings.shrinkage or ()), "shrinkage must lie in [0, 1)"),
    ]
    for fault, rule in wrong:
        if fault:
            msg = f"The settings of the flow cannot be used: {rule}; found {settings}."
            raise UsageError(msg)
