"""Conditional GIS: a density for each class, and with priors the probability of each class.

The flow of `spectra_scale.models.gis` with one set of splines a class (gis.md, "Conditional
GIS"). The whitening is shared, and so is the frame of each layer, found on all training rows,
each carried under its own label; rows are carried under every label only to evaluate. Beyond
gis.md each class has an affine layer of its own after the shared one, its own number of layers,
and a weight that grows with its size, so that small classes stay close to the others.

The reference multiplies log-densities by the prior; here its logarithm is added:
``P(c|x) = softmax_c(log p(x|c) + log prior_c)``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.class_prior import Ints, Prior, class_prior
from spectra_scale.models.conditional_layers import (
    ConditionalSettings,
    Group,
    check_classes,
    check_settings,
    class_whitenings,
    fit_class_layers,
    started,
)
from spectra_scale.models.gis_layers import Progress
from spectra_scale.models.gis_rows import Floats, Whitening, checked_rows, whiten_rows
from spectra_scale.models.gis_spline import layer_forward, layer_inverse, matrix_rows
from spectra_scale.models.reliability import fit_temperature

__all__ = ["ConditionalGIS", "ConditionalSettings"]

log = logging.getLogger(__name__)

#: Rows evaluated at once: bounds the memory, changes no result.
BATCH_ROWS = 1 << 16


@final
class ConditionalGIS:
    """A fitted conditional flow.

    Attributes
    ----------
    settings
        What it was fitted with.
    classes
        Labels of the C classes, in increasing order.
    counts
        Training rows of each class.
    pooled
        Which classes have no density of their own: fewer than `min_members` rows. Theirs is the
        pooled density.
    history
        By layer and class, the mean log p of training rows and the trimmed mean of validation
        rows, shape (T + 1, C, 2); NaN after a class has stopped. Layer 0 is the affine start.
    temperature
        What log-posteriors are divided by: 1, or what `calibrated` found.
    """

    def __init__(
        self,
        settings: ConditionalSettings,
        classes: Ints,
        counts: Ints,
        parts: _Parts,
        history: Floats,
        temperature: float = 1.0,
    ) -> None:
        self.settings, self.classes, self.counts = settings, classes, counts
        self._parts = parts
        self.history = history
        self.temperature = temperature
        self.pooled = counts < settings.min_members

    @property
    def frames(self) -> Floats:
        """Directions of every layer as rows, shape (T, K, D)."""
        return self._parts.frames.copy()

    @property
    def n_dimensions(self) -> int:
        """Dimension D of the data."""
        return len(self._parts.shared.mean)

    @property
    def n_layers(self) -> Ints:
        """Layers of each class, without the affine start; 0 for a pooled one."""
        found = np.zeros(len(self.classes), dtype=np.int64)
        found[~self.pooled] = [len(tables) for tables in self._parts.splines]
        return found

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        labels: ArrayLike,
        settings: ConditionalSettings | None = None,
        validation: ArrayLike | None = None,
        validation_labels: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> ConditionalGIS:
        """Fit the flow, layer by layer.

        Parameters
        ----------
        x
            Training rows, shape (n, D); never changed.
        labels
            Class of each row, integers, shape (n,). Rows of a label in `settings.left_out`, or of
            none of `settings.classes`, are not fitted on.
        settings
            Defaults to `ConditionalSettings()`.
        validation, validation_labels
            Rows and labels that say when each class has enough layers; needed for an early stop.
        progress
            Called after each layer with the number of layers and mean log p of all rows.

        Returns
        -------
        ConditionalGIS

        Raises
        ------
        SpectraScaleError
            If there are too few rows, fewer than two classes with `min_members`, rows that are
            not finite, or a singular covariance.
        """
        settings = ConditionalSettings() if settings is None else settings
        rows = checked_rows(x, "x")
        check_settings(settings, rows.shape[1], has_validation=validation is not None)
        codes = _codes(labels, len(rows), "labels")
        found = np.unique(codes) if settings.classes is None else np.unique(settings.classes)
        classes = np.setdiff1d(found, settings.left_out).astype(np.int64)
        counts = np.array([np.sum(codes == code) for code in classes], dtype=np.int64)
        own = classes[counts >= settings.min_members]
        check_classes(classes, counts, rows.shape[1], settings)
        shared = whiten_rows(rows[np.isin(codes, classes)], whiten=True)
        by_class = [rows[codes == code] for code in own]
        affine = class_whitenings(by_class, shared, settings)
        held_out = _held_out(validation, validation_labels, own, rows.shape[1])
        groups = [
            Group.begin(started(a, shared, w), started(b, shared, w), settings.trim)
            for a, b, w in zip(by_class, held_out, affine, strict=True)
        ]
        frames = fit_class_layers(groups, settings, progress)
        best = [group.best(settings) for group in groups]
        shape = (0, frames.shape[1], 3, 2)
        splines = tuple(
            np.stack(group.splines[:n]) if n else np.empty(shape)
            for group, n in zip(groups, best, strict=True)
        )
        log.info("conditional flow layers=%s classes=%s", best, own.tolist())
        parts = _Parts(shared, tuple(affine), frames[: max(best)].copy(), splines)
        return cls(settings, classes, counts, parts, _history(groups, classes, own))

    def log_prob(self, x: ArrayLike, label: int | None = None) -> Floats:
        """Log-density of rows given a class, log p(x|c).

        A class of n training rows has the density w p_own + (1 - w) p_pooled with
        w = n / (n + doubt), or 0 for a class of fewer than `min_members`. The pooled density is
        the mean of the own ones, weighted by their training rows.

        Parameters
        ----------
        x
            Rows, shape (n, D); never changed. What a row gives does not depend on the others.
        label
            Class; None for all.

        Returns
        -------
        numpy.ndarray
            Nats per unit volume of x; shape (n,), or (n, C) in the order of `classes`.
        """
        rows = checked_rows(x, "x", dims=self.n_dimensions)
        place = None if label is None else self._place(label)
        out = np.empty((len(rows), len(self.classes)))
        for start in range(0, len(rows), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            out[part] = self._blend(self._own(rows[part]))
        return out if place is None else out[:, place].copy()

    def posterior(self, x: ArrayLike, prior: Prior = "training") -> Floats:
        """Probability of each class given rows x, shape (n, D), and a prior; shape (n, C).

        The prior is ``training`` (the class fractions of the training rows, one added to each
        count), ``uniform``, or C positive numbers that sum to 1.
        """
        return self.posterior_of(self.log_prob(x), prior)

    def posterior_of(self, log_prob: Floats, prior: Prior = "training") -> Floats:
        """Probability of each class from `log_prob` of the rows, shape (n, C).

        The temperature acts on the posterior under the training prior, for which it was found;
        another prior then comes in by its ratio to that one. At temperature 1 this is Bayes' rule.
        """
        trained = np.log(self.prior("training"))
        joint = (log_prob + trained) / self.temperature + np.log(self.prior(prior)) - trained
        return np.asarray(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)))

    def calibrated(self, x: ArrayLike, labels: ArrayLike) -> ConditionalGIS:
        """The same densities with the temperature that suits labelled rows it was not fitted on.

        One number for all classes, the least log-loss (Guo et al. 2017, arXiv 1706.04599): the
        most probable class stays the same.
        """
        plain = ConditionalGIS(self.settings, self.classes, self.counts, self._parts, self.history)
        found = fit_temperature(plain.posterior(x), labels, self.classes)
        return ConditionalGIS(
            self.settings, self.classes, self.counts, self._parts, self.history, found
        )

    def marginal(self, x: ArrayLike, prior: Prior = "training") -> Floats:
        """Log-density of rows whatever their class, log sum_c prior_c p(x|c), shape (n,)."""
        return np.asarray(logsumexp(self.log_prob(x) + np.log(self.prior(prior)), axis=1))

    def prior(self, prior: Prior = "training") -> Floats:
        """Prior probabilities of the classes by name, or given ones, checked; shape (C,)."""
        return class_prior(prior, self.counts)

    def sample(self, n: int, label: int, generator: np.random.Generator) -> Floats:
        """Draw n rows of a class, shape (n, D)."""
        place = self._place(label)
        z = generator.standard_normal((n, self.n_dimensions))
        own = np.flatnonzero(~self.pooled)
        # Each row comes from the class's own density or, with the rest, from the pooled one.
        chances = (1.0 - self._weights()[place]) * self._fractions()
        if not self.pooled[place]:
            chances[np.searchsorted(own, place)] += self._weights()[place]
        source = generator.choice(len(own), n, p=chances)
        for k in range(len(own)):
            z[source == k] = self._inverse(z[source == k], k)
        return z

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the settings as named arrays, for safetensors; see `from_arrays`."""
        parts = self._parts
        arrays: dict[str, NDArray[Any]] = {
            "classes": self.classes.copy(),
            "counts": self.counts.copy(),
            "frames": parts.frames.copy(),
            "history": self.history.copy(),
            "temperature": np.array([self.temperature]),
        }
        owners = self.classes[~self.pooled]
        for name, affine in zip(("shared", *owners), (parts.shared, *parts.affine), strict=True):
            arrays[f"mean_{name}"] = affine.mean.copy()
            arrays[f"matrix_{name}"] = affine.matrix.copy()
            arrays[f"inverse_{name}"] = affine.inverse.copy()
            arrays[f"logdet_{name}"] = np.array([affine.logdet])
        for name, tables in zip(owners, parts.splines, strict=True):
            arrays[f"splines_{name}"] = tables.copy()
        return arrays

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], settings: ConditionalSettings
    ) -> ConditionalGIS:
        """Rebuild a flow from `to_arrays` and its settings.

        Raises
        ------
        SpectraScaleError
            If an array is missing.
        """

        def get(name: str) -> Floats:
            return np.array(arrays[name], dtype=np.float64, order="C")

        def affine(name: object) -> Whitening:
            mean, matrix, inverse = (get(f"{k}_{name}") for k in ("mean", "matrix", "inverse"))
            return Whitening(mean, matrix, inverse, float(get(f"logdet_{name}")[0]))

        try:
            classes = np.array(arrays["classes"], dtype=np.int64)
            counts = np.array(arrays["counts"], dtype=np.int64)
            own = classes[counts >= settings.min_members].tolist()
            parts = _Parts(
                affine("shared"),
                tuple(affine(code) for code in own),
                get("frames"),
                tuple(get(f"splines_{code}") for code in own),
            )
            temperature = float(get("temperature")[0])
            return cls(settings, classes, counts, parts, get("history"), temperature)
        except KeyError as error:
            msg = (
                f"The arrays of the conditional flow lack {error}; found {sorted(arrays)}. They "
                "are not those that ConditionalGIS.to_arrays wrote: fit the density again."
            )
            raise SpectraScaleError(msg) from error

    def _own(self, rows: Floats) -> Floats:
        """Log-density of rows under each class's own flow, shape (n, own classes)."""
        parts = self._parts
        out = np.empty((len(rows), len(parts.affine)))
        for k, (affine, splines) in enumerate(zip(parts.affine, parts.splines, strict=True)):
            flowing = started(rows, parts.shared, affine)
            for frame, tables in zip(parts.frames, splines, strict=False):
                layer_forward(flowing.z, frame, tables, flowing.logdet)
            out[:, k] = flowing.log_prob()
        return out

    def _inverse(self, z: Floats, k: int) -> Floats:
        parts = self._parts
        rows, affine, splines = z.copy(), parts.affine[k], parts.splines[k]
        for frame, tables in zip(parts.frames[: len(splines)][::-1], splines[::-1], strict=True):
            layer_inverse(rows, frame, tables)
        rows = matrix_rows(rows, affine.inverse) + affine.mean
        return np.asarray(matrix_rows(rows, parts.shared.inverse) + parts.shared.mean)

    def _fractions(self) -> Floats:
        """Shares of the own densities in the pooled one."""
        counts = self.counts[~self.pooled]
        return np.asarray(counts / counts.sum())

    def _weights(self) -> Floats:
        """Weight of each class's own density, shape (C,)."""
        return np.where(self.pooled, 0.0, self.counts / (self.counts + self.settings.doubt))

    def _blend(self, own: Floats) -> Floats:
        pooled = logsumexp(own + np.log(self._fractions()), axis=1)
        out = np.repeat(pooled[:, None], len(self.classes), axis=1)
        with np.errstate(divide="ignore"):  # without doubt the pooled density weighs nothing
            kept, rest = np.log(self._weights()[~self.pooled]), np.log1p(-self._weights())
        out[:, ~self.pooled] = np.logaddexp(own + kept, pooled[:, None] + rest[~self.pooled])
        return out

    def _place(self, label: int) -> int:
        found = np.flatnonzero(self.classes == label)
        if len(found):
            return int(found[0])
        msg = (
            f"found label {label}, expected one of {self.classes.tolist()}: the conditional flow "
            "has no such class. Ask for another, or fit it with that class."
        )
        raise UsageError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """What a fitted flow is made of: affine layers, frames, and splines by class."""

    shared: Whitening
    affine: tuple[Whitening, ...]
    frames: Floats
    splines: tuple[Floats, ...]


def _codes(labels: ArrayLike, n: int, name: str) -> Ints:
    codes = np.asarray(labels)
    if codes.shape != (n,) or not np.issubdtype(codes.dtype, np.integer):
        msg = (
            f"{name} has shape {codes.shape} and type {codes.dtype}, expected one integer a row, "
            f"shape ({n},). Pass class codes."
        )
        raise UsageError(msg)
    return codes.astype(np.int64)


def _held_out(
    rows: ArrayLike | None, labels: ArrayLike | None, own: Ints, dims: int
) -> list[Floats]:
    if rows is None or labels is None:
        return [np.empty((0, dims)) for _ in own]
    x = checked_rows(rows, "validation", dims=dims)
    codes = _codes(labels, len(x), "validation_labels")
    return [x[codes == code] for code in own]


def _history(groups: list[Group], classes: Ints, own: Ints) -> Floats:
    longest = max(len(group.scores) for group in groups)
    out = np.full((longest, len(classes), 2), np.nan)
    for group, code in zip(groups, own, strict=True):
        out[: len(group.scores), np.searchsorted(classes, code)] = group.scores
    return out
