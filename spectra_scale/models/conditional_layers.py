"""Parts of the conditional flow: settings, the affine start of each class, the greedy fit.

`spectra_scale.models.conditional_gis` has the flow itself and says what it is. The defaults were
chosen by held-out likelihood on classes of known density (docs/density-classes.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.gis_directions import AscentSettings, project, search_directions
from spectra_scale.models.gis_kde import fit_slice, gaussian_scores, knot_count
from spectra_scale.models.gis_layers import MIN_ROWS, Progress
from spectra_scale.models.gis_rows import Flowing, Whitening, trimmed_mean, whitened
from spectra_scale.models.gis_spline import layer_forward, matrix_rows, shrink

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
EndSlopes: TypeAlias = Literal["capped", "one", "fitted"]

#: Validation rows below which a class cannot judge its own layers, and keeps its affine start.
MIN_JUDGES = 20
# Cross-validation of the pooling of covariances.
_POOLINGS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_FOLDS, _MOST_FOLDED = 5, 5000


@dataclass(frozen=True, slots=True)
class ConditionalSettings:
    """What a conditional fit depends on besides the data.

    Parameters
    ----------
    classes
        Labels that are classes. None: those of the training rows, without `left_out`.
    left_out
        Labels that are no class: such rows are not fitted on.
    n_layers
        Number of layers, or the greatest number if `early_stop`.
    early_stop
        Keep for each class the layers up to its best trimmed validation score, and end it when
        `patience` layers have passed without a gain of `min_gain` nats. A class with fewer than
        20 validation rows keeps its affine start.
    patience, min_gain, trim
        As in `GISSettings`.
    step
        Part of the way to a Gaussian that one layer goes, for a large class.
    n_slices
        Directions a layer. None: all D if D <= 8 or there are fewer than 20 D rows, else 8.
    subsample, max_steps, tolerance
        Of the direction search, as in `GISSettings`.
    end_slopes
        ``capped``: fitted, at most 1, so that no tail is ever made thinner than a Gaussian's;
        ``one``: never fitted, as the reference does; ``fitted``: as the plain flow's.
    class_whitening
        Give each class its own mean and covariance before the first layer.
    pooling
        Rows that the other classes count for in the affine start: a class of n has the weight
        n / (n + pooling) in its covariance. None: by cross-validation, for each class.
    damping
        A class of n goes n / (n + damping) of each step.
    doubt
        Rows that the pooled density counts for: a class of n has the weight n / (n + doubt) in
        its own density, and the pooled density has the rest.
    min_members
        Training rows below which a class has no density of its own but the pooled one.
    seed
        Seed of directions, subsamples and knot repair.
    """

    classes: tuple[int, ...] | None = None
    left_out: tuple[int, ...] = (0,)
    n_layers: int = 200
    early_stop: bool = True
    patience: int = 5
    min_gain: float = 1e-3
    trim: float = 1e-3
    step: float = 0.2
    n_slices: int | None = None
    subsample: int = 10_000
    max_steps: int = 30
    tolerance: float = 1e-5
    end_slopes: EndSlopes = "capped"
    class_whitening: bool = True
    pooling: float | None = None
    damping: float = 30.0
    doubt: float = 3.0
    min_members: int = 10
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ConditionalSettings:
        """Settings back from `to_json`, after a trip through JSON or not."""
        known = dict(values)
        for name in ("classes", "left_out"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        return cls(**known)


def check_settings(settings: ConditionalSettings, dims: int, *, has_validation: bool) -> None:
    """Refuse settings that cannot work for rows of `dims` dimensions.

    Raises
    ------
    UsageError
        With the rule that is broken.
    """
    wrong = [
        (settings.early_stop and not has_validation, "early_stop needs validation rows"),
        (not 1 <= (settings.n_slices or 1) <= dims, f"n_slices must lie in 1 .. {dims}"),
        (settings.n_layers < 0, "n_layers must not be negative"),
        (not 0 < settings.step <= 1, "step must lie in (0, 1]"),
        (not 0 <= settings.trim < 1, "trim must lie in [0, 1)"),
        (settings.end_slopes not in ("capped", "one", "fitted"), "end_slopes is unknown"),
        (
            min(settings.damping, settings.doubt) < 0,
            "damping and doubt must not be negative",
        ),
        (settings.pooling is not None and settings.pooling <= 0, "pooling must be positive"),
        (settings.min_members < 2, "min_members must be at least 2"),
    ]
    for fault, rule in wrong:
        if fault:
            msg = f"The settings of the conditional flow cannot be used: {rule}; found {settings}."
            raise UsageError(msg)


class TooFewRowsError(SpectraScaleError):
    """The classes have too few rows for densities of their own."""


def check_classes(classes: Ints, counts: Ints, dims: int, settings: ConditionalSettings) -> None:
    """Refuse too few rows, or too few classes with enough of them.

    Raises
    ------
    TooFewRowsError
        With the rows of every class.
    """
    n, own = int(counts.sum()), int(np.sum(counts >= settings.min_members))
    least = max(MIN_ROWS, dims + 1)
    if n >= least and own >= 2:
        return
    found = ", ".join(f"{code}: {count}" for code, count in zip(classes, counts, strict=True))
    msg = (
        f"found {n} rows of classes (label: rows) {{{found}}}, expected at least {least} rows and "
        f"two classes with {settings.min_members}. Use more objects, or leave the conditional "
        "density out."
    )
    raise TooFewRowsError(msg)


@dataclass(slots=True, eq=False)
class Group:
    """Rows of one class on their way, and the splines they have been through."""

    train: Flowing
    validation: Flowing
    splines: list[Floats]
    scores: list[tuple[float, float]]

    @classmethod
    def begin(cls, train: Flowing, validation: Flowing, trim: float) -> Group:
        """Start with rows that are through the affine layers."""
        group = cls(train, validation, [], [])
        group.score(trim)
        return group

    def score(self, trim: float) -> None:
        """Note mean log p of the training rows and the trimmed mean of the validation rows."""
        held_out = self.validation.log_prob()
        judged = trimmed_mean(held_out, trim) if len(held_out) else np.nan
        self.scores.append((float(np.mean(self.train.log_prob())), judged))

    def stopped(self, settings: ConditionalSettings) -> bool:
        """Whether the validation rows want no more layers."""
        if not settings.early_stop:
            return False
        if len(self.validation.z) < MIN_JUDGES:
            return True
        last, reference = 0, self.scores[0][1]
        for layer, (_, score) in enumerate(self.scores):
            if score > reference + settings.min_gain:
                last, reference = layer, score
        return len(self.scores) - 1 - last >= settings.patience

    def best(self, settings: ConditionalSettings) -> int:
        """Number of layers that the class keeps."""
        if not settings.early_stop:
            return len(self.splines)
        if len(self.validation.z) < MIN_JUDGES:
            return 0
        return int(np.argmax([score for _, score in self.scores]))


def class_whitenings(
    rows: list[Floats], shared: Whitening, settings: ConditionalSettings
) -> list[Whitening]:
    """Affine start of every class, acting on rows whitened by the shared layer.

    The covariance is the class's own, drawn to the mean within-class covariance where the class is
    small: regularised discriminant analysis (Friedman 1989, JASA 84, 165) with the weight
    n / (n + pooling), pooling by cross-validation. The mean is the class's own, and what its error
    adds to the spread of new rows, 1 + 1/n, is put on the covariance.

    Parameters
    ----------
    rows
        Training rows of each class.
    shared
        Whitening of all rows.
    settings
        See `ConditionalSettings`.

    Returns
    -------
    list
        One affine map a class.

    Raises
    ------
    SpectraScaleError
        If the classes differ in a dimension in which none has any spread.
    """
    dims = len(shared.mean)
    if not settings.class_whitening:
        return [Whitening(np.zeros(dims), np.eye(dims), np.eye(dims), 0.0) for _ in rows]
    white = [whitened(part, shared).z for part in rows]
    means = [part.mean(axis=0) for part in white]
    scatter = [(z - m).T @ (z - m) for z, m in zip(white, means, strict=True)]
    within = np.sum(scatter, axis=0) / max(sum(len(z) - 1 for z in white), 1)
    # Beyond rounding of the whitened rows, whose own variance is 1.
    if np.linalg.eigvalsh(within)[0] < 1e-12:
        msg = (
            "No class has any spread in some direction, in which the classes differ: their "
            "densities would be infinite. Leave out such a latent."
        )
        raise SpectraScaleError(msg)
    made = []
    for z, mean, square in zip(white, means, scatter, strict=True):
        pooling = settings.pooling
        if pooling is None:
            pooling = _chosen_pooling(z, within)
        made.append(_affine(mean, _drawn(square, within, len(z), pooling)))
    return made


def _drawn(square: Floats, within: Floats, n: int, pooling: float) -> Floats:
    own = square / max(n - 1, 1)
    return np.asarray((n * own + pooling * within) / (n + pooling) * (1.0 + 1.0 / n))


def _chosen_pooling(z: Floats, within: Floats) -> float:
    """Pooling of the most probable left-out rows, in five folds of at most some thousand rows."""
    z = z[:_MOST_FOLDED]
    fold = np.arange(len(z)) % min(_FOLDS, len(z))
    scores = np.zeros(len(_POOLINGS))
    for k in range(fold.max() + 1):
        kept, left = z[fold != k], z[fold == k]
        mean = kept.mean(axis=0)
        square = (kept - mean).T @ (kept - mean)
        for i, pooling in enumerate(_POOLINGS):
            factor = np.linalg.cholesky(_drawn(square, within, len(kept), pooling))
            white = np.linalg.solve(factor, (left - mean).T)
            scores[i] -= 0.5 * np.sum(white**2) + len(left) * np.sum(np.log(np.diag(factor)))
    return float(_POOLINGS[int(np.argmax(scores))])


def _affine(mean: Floats, covariance: Floats) -> Whitening:
    # The Cholesky factor has no signs or order to choose: the same bytes everywhere.
    factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    inverse = np.ascontiguousarray(np.linalg.inv(factor))
    return Whitening(mean, inverse, factor, -float(np.sum(np.log(np.diag(factor)))))


def started(rows: Floats, shared: Whitening, own: Whitening) -> Flowing:
    """Rows of one class, shape (n, D), carried through both affine layers; they are copied."""
    first = whitened(rows, shared)
    z = matrix_rows(first.z - own.mean, own.matrix)
    return Flowing(z, first.logdet + own.logdet)


def fit_class_layers(
    groups: list[Group], settings: ConditionalSettings, progress: Progress | None
) -> Floats:
    """Fit layer after layer: one frame for all classes, then the splines of each.

    Parameters
    ----------
    groups
        The classes; carried along in place, their splines are put into them. A class that has
        stopped is carried no further, and later frames are searched without it.
    settings
        See `ConditionalSettings`.
    progress
        Called after each layer with the number of layers and the mean log p of all rows.

    Returns
    -------
    numpy.ndarray
        Frames of all layers, shape (T, K, D).
    """
    n, dims = sum(len(group.train.z) for group in groups), groups[0].train.z.shape[1]
    n_slices = settings.n_slices or (dims if dims <= 8 or n < 20 * dims else 8)
    ascent = AscentSettings(max_steps=settings.max_steps, tolerance=settings.tolerance)
    frames: list[Floats] = []
    active = groups
    for layer in range(1, settings.n_layers + 1):
        active = [group for group in active if not group.stopped(settings)]
        if not active:
            break
        # A generator of its own for each layer: no layer depends on how much the others drew.
        rng = np.random.default_rng([settings.seed, layer])
        seen = np.concatenate([group.train.z for group in active])
        if len(seen) > settings.subsample:
            seen = seen[rng.choice(len(seen), settings.subsample, replace=False)]
        frame = search_directions(seen, n_slices, rng, ascent)
        for group in active:
            tables = _splines(group.train.z, frame, settings, rng)
            for part in (group.train, group.validation):
                layer_forward(part.z, frame, tables, part.logdet)
            group.splines.append(tables)
            group.score(settings.trim)
        frames.append(frame)
        if progress is not None:
            progress(layer, _means(groups))
    return np.array(frames).reshape(-1, n_slices, dims)


def _splines(
    z: Floats, frame: Floats, settings: ConditionalSettings, rng: np.random.Generator
) -> Floats:
    """Splines of all slices of a class's rows, shape (K, 3, M), moved by what its size allows."""
    n = len(z)
    scores = gaussian_scores(n)
    slices = np.sort(project(frame, np.ascontiguousarray(z.T)), axis=1)
    fitted = np.stack([fit_slice(u, scores, knot_count(n), "midrank", rng) for u in slices])
    ends = fitted[:, 2, [0, -1]]
    if settings.end_slopes == "one":
        ends = np.ones_like(ends)
    elif settings.end_slopes == "capped":
        ends = np.minimum(ends, 1.0)
    fitted[:, 2, [0, -1]] = ends
    kept = 1.0 - settings.step * n / (n + settings.damping)
    return np.stack([shrink(table, kept, kept) for table in fitted])


def _means(groups: list[Group]) -> dict[str, float]:
    """Mean log p of all rows, each under its own class."""
    train = np.concatenate([group.train.log_prob() for group in groups])
    held_out = np.concatenate([group.validation.log_prob() for group in groups])
    validation = float(np.mean(held_out)) if len(held_out) else np.nan
    return {"train_mean": float(np.mean(train)), "validation_mean": validation}
