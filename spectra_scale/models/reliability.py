"""Whether class probabilities mean what they say: calibration curve, scores, a temperature.

Of the objects that are given probability p of a class, a share p should be of it (reliability
diagram; Murphy & Winkler 1977; Guo et al. 2017, arXiv 1706.04599, for the expected calibration
error and the temperature). A probability can be calibrated and useless, so accuracy, Brier score
and log-loss stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import beta

from spectra_scale.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

# A probability of 0 for what happened would make the log-loss of all infinite.
_LEAST = 1e-12
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationCurve:
    """Observed frequency against stated probability, in bins of equal count.

    Parameters
    ----------
    stated
        Mean probability of each bin, increasing, shape (bin,).
    observed
        Share of the objects that the statement was true of.
    low, high
        Central 68 % Jeffreys interval of that share.
    count
        Objects in each bin.
    """

    stated: Floats
    observed: Floats
    low: Floats
    high: Floats
    count: Ints

    @property
    def error(self) -> float:
        """Expected calibration error: mean |observed - stated|, weighted by count."""
        if not self.count.sum():
            return float("nan")
        gap = np.abs(self.observed - self.stated)
        return float(np.average(gap, weights=self.count))


def calibration_curve(
    probability: ArrayLike, happened: ArrayLike, bins: int = 10
) -> CalibrationCurve:
    """Compare probabilities with what happened.

    Parameters
    ----------
    probability
        Stated probability of each object, shape (n,).
    happened
        Whether it was true, shape (n,).
    bins
        Number of bins; each has n / bins objects, and fewer bins are made of fewer objects. Equal
        probabilities are not kept together.

    Returns
    -------
    CalibrationCurve
    """
    stated = np.asarray(probability, dtype=np.float64)
    order = np.argsort(stated, kind="stable")
    truth = np.asarray(happened, dtype=bool)[order]
    edges = np.linspace(0, len(order), min(bins, max(len(order), 1)) + 1).astype(np.int64)
    count = np.diff(edges)
    k = np.array([truth[a:b].sum() for a, b in pairwise(edges)])
    with np.errstate(invalid="ignore"):
        sums = np.add.reduceat(stated[order], edges[:-1]) if len(order) else np.zeros(len(count))
        mean, share = sums / count, k / count
    low, high = (beta.ppf(q, k + 0.5, count - k + 0.5) for q in (0.1587, 0.8413))
    return CalibrationCurve(mean, share, np.asarray(low), np.asarray(high), count)


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Scores of class posteriors.

    Parameters
    ----------
    n
        Objects scored.
    accuracy
        Share whose most probable class is the true one.
    ece
        Expected calibration error of the probability of the most probable class.
    brier
        Brier score, mean over objects of the sum over classes of (p - truth)²: 0 to 2.
    log_loss
        Mean -log probability of the true class, nats.
    confusion
        Counts, true class by row, most probable by column, shape (C, C).
    top
        Calibration curve of the probability of the most probable class.
    by_class
        Calibration curve of each class's probability.
    """

    n: int
    accuracy: float
    ece: float
    brier: float
    log_loss: float
    confusion: Ints
    top: CalibrationCurve
    by_class: tuple[CalibrationCurve, ...]

    def metrics(self) -> dict[str, Any]:
        """The scalar scores, for a manifest."""
        return {
            "n": self.n,
            "accuracy": self.accuracy,
            "expected calibration error": self.ece,
            "brier score": self.brier,
            "log-loss": self.log_loss,
        }


def reliability(
    posterior: ArrayLike, labels: ArrayLike, classes: ArrayLike, bins: int = 10
) -> Reliability:
    """Score class posteriors on objects of known class.

    Parameters
    ----------
    posterior
        Probabilities, shape (n, C), rows sum to 1.
    labels
        True class of each object; those of no class are left out.
    classes
        Labels of the C classes, increasing.
    bins
        Bins of each curve.

    Returns
    -------
    Reliability

    Raises
    ------
    UsageError
        If no object is of any class.
    """
    codes, names = np.asarray(labels), np.asarray(classes)
    known = np.isin(codes, names)
    if not known.any():
        msg = f"found no object of the classes {names.tolist()}, expected some to score on."
        raise UsageError(msg)
    chance = np.asarray(posterior, dtype=np.float64)[known]
    true = np.searchsorted(names, codes[known])
    rows = np.arange(len(true))
    best = np.argmax(chance, axis=1)
    hit = best == true
    target = np.zeros_like(chance)
    target[rows, true] = 1.0
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (true, best), 1)
    top = calibration_curve(chance[rows, best], hit, bins)
    return Reliability(
        n=len(true),
        accuracy=float(np.mean(hit)),
        ece=top.error,
        brier=float(np.mean(np.sum((chance - target) ** 2, axis=1))),
        log_loss=float(-np.mean(np.log(np.maximum(chance[rows, true], _LEAST)))),
        confusion=confusion,
        top=top,
        by_class=tuple(
            calibration_curve(chance[:, k], true == k, bins) for k in range(len(names))
        ),
    )


def fit_temperature(posterior: ArrayLike, labels: ArrayLike, classes: ArrayLike) -> float:
    """Temperature that makes posteriors most probable on objects of known class.

    Parameters
    ----------
    posterior, labels, classes
        As in `reliability`. Use objects that nothing was fitted on.

    Returns
    -------
    float
        T of ``softmax(log posterior / T)`` with the least log-loss; above 1 where the posteriors
        were too sure.
    """
    codes, names = np.asarray(labels), np.asarray(classes)
    known = np.isin(codes, names)
    logs = np.log(np.maximum(np.asarray(posterior, dtype=np.float64)[known], 1e-300))
    own = np.arange(len(logs)), np.searchsorted(names, codes[known])

    def loss(log_temperature: float) -> float:
        scaled = logs * np.exp(-log_temperature)
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[own]))

    bounds = tuple(np.log(_TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def tempered(posterior: ArrayLike, temperature: float) -> Floats:
    """Posteriors raised to 1 / temperature and normalised, shape (n, C)."""
    logs = np.log(np.maximum(np.asarray(posterior, dtype=np.float64), 1e-300)) / temperature
    return np.asarray(np.exp(logs - logsumexp(logs, axis=1, keepdims=True)))
