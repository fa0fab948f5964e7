"""How far a ranking by probability depends on seeds: agreement of members, and their ensemble.

A member is one density: of the latents of one auto-encoder (its seed), by one flow (its seed).
log p of two auto-encoders are densities in different spaces, so only ranks of the same objects are
compared (science.md §7; the question is that of Pat et al. 2022, appendix A). Higher is more
probable everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.gis import p_value
from spectra_scale.models.neighbours import ExactIndex

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Differ = Literal["flow", "auto-encoder", "both"]

#: What two members can differ in, in the order of tables.
DIFFER: tuple[Differ, ...] = ("flow", "auto-encoder", "both")
#: How many least probable objects are compared, where there are ten times as many.
LEAST = 100
#: Neighbours of the score by distance.
N_NEIGHBOURS = 10
#: Score of the flows, in tables.
FLOW = "flow"
#: A difference of rank correlations that is called one.
NOTABLE = 0.02
#: Correlation of same-numbered latents from which two auto-encoders are no independent ones.
ALIKE = 0.9


@dataclass(frozen=True, slots=True)
class Member:
    """One density.

    Parameters
    ----------
    autoencoder, flow
        Seeds; `flow` is None for a score that has none.
    """

    autoencoder: int
    flow: int | None = None

    def differs(self, other: Member) -> Differ:
        """What it and another differ in."""
        if self.autoencoder == other.autoencoder:
            return "flow"
        return "auto-encoder" if self.flow == other.flow else "both"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two members rank the same objects alike.

    Parameters
    ----------
    score
        What they rank by.
    differ
        What they differ in.
    first, second
        The members.
    rows
        Which objects: ``validation`` or ``all``.
    rank_correlation
        Spearman's ρ.
    overlap_least, overlap_percent
        Share of the least probable objects (`n_least`, and 1 %) of one that are among those of the
        other.
    n_rows, n_least
        Objects, and how many count as least probable.
    """

    score: str
    differ: Differ
    first: Member
    second: Member
    rows: str
    rank_correlation: float
    overlap_least: float
    overlap_percent: float
    n_rows: int
    n_least: int


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation, ties by mean ranks; NaN if one of them is constant."""
    x, y = rankdata(a) - (len(a) + 1) / 2, rankdata(b) - (len(b) + 1) / 2
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def overlap(a: Floats, b: Floats, count: int) -> float:
    """Share of the `count` lowest of one that are among those of the other.

    Of two independent rankings of n objects it is `count` / n on average.
    """
    first, second = (np.argsort(values, kind="stable")[:count] for values in (a, b))
    return len(np.intersect1d(first, second)) / count


def agreements(
    score: str, members: Sequence[Member], values: Floats, rows: Mapping[str, Bools]
) -> list[Agreement]:
    """Compare every pair of members.

    Parameters
    ----------
    score
        What they rank by.
    members
        The members.
    values
        Their scores of the same objects, shape (member, object), finite.
    rows
        Which objects to compare on, by name: shape (object,) each.

    Raises
    ------
    SpectraScaleError
        If scores are not finite, or fewer than 20 objects are to be compared.
    """
    if values.shape[0] != len(members) or not np.isfinite(values).all():
        msg = (
            f"{score}: found scores of shape {values.shape} for {len(members)} members, "
            f"{int((~np.isfinite(values)).sum())} not finite; expected a finite row a member."
        )
        raise SpectraScaleError(msg)
    found = []
    for name, chosen in rows.items():
        n = int(chosen.sum())
        if n < 20:
            msg = f"found {n} {name} objects to compare rankings on, expected at least 20."
            raise SpectraScaleError(msg)
        n_least, percent = min(LEAST, n // 10), max(n // 100, 1)
        for (first, a), (second, b) in combinations(zip(members, values, strict=True), 2):
            x, y = a[chosen], b[chosen]
            found.append(
                Agreement(score, first.differs(second), first, second, name,
                          rank_correlation(x, y), overlap(x, y, n_least), overlap(x, y, percent),
                          n, n_least)
            )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class Summary:
    """Agreements of one kind: median, least and greatest of each statistic.

    Parameters
    ----------
    score, differ, rows
        Which pairs.
    pairs
        How many.
    rank_correlation, overlap_least, overlap_percent
        (median, least, greatest) over the pairs.
    """

    score: str
    differ: Differ
    rows: str
    pairs: int
    rank_correlation: tuple[float, float, float]
    overlap_least: tuple[float, float, float]
    overlap_percent: tuple[float, float, float]


def summarise(found: Iterable[Agreement]) -> list[Summary]:
    """Sum up agreements by score, by what differs and by rows, in order of appearance."""
    groups: dict[tuple[str, str, Differ], list[Agreement]] = {}
    for each in found:
        groups.setdefault((each.rows, each.score, each.differ), []).append(each)
    return [
        Summary(score, differ, rows, len(group),
                *(_three([getattr(each, name) for each in group]) for name in
                  ("rank_correlation", "overlap_least", "overlap_percent")))
        for (rows, score, differ), group in groups.items()
    ]  # fmt: skip


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    return float(np.median(values)), float(np.min(values)), float(np.max(values))


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """What all members say together, shape (object,) each.

    Parameters
    ----------
    mean_rank
        Mean over the members of the rank among the objects, from 0 (least probable) to 1.
    rank_spread
        Standard deviation of the rank over the members.
    p_value
        Outlier p-value of the mean rank: (k+1)/(n+1), k of n validation objects having a lower
        one.
    """

    mean_rank: Floats
    rank_spread: Floats
    p_value: Floats


def ensemble(values: Floats, validation: Bools) -> Ensemble:
    """Combine the rankings of members, each counting the same.

    Parameters
    ----------
    values
        log p by member, shape (member, object), finite.
    validation
        Objects of the validation split, shape (object,).
    """
    ranks = (rankdata(values, axis=1) - 0.5) / values.shape[1]
    mean = ranks.mean(axis=0)
    spread = ranks.std(axis=0, ddof=1) if len(ranks) > 1 else np.full(len(mean), np.nan)
    return Ensemble(mean, spread, p_value(mean, mean[validation]))


def simple_scores(latents: Floats, training: Bools) -> dict[str, Floats]:
    """Scores that need no flow, to compare with: the higher the more probable.

    Parameters
    ----------
    latents
        Shape (object, D), finite.
    training
        Rows that covariance and neighbours are taken from, shape (object,).

    Returns
    -------
    dict
        ``Gaussian``: minus the Mahalanobis distance from the mean. ``kNN``: minus the logarithm of
        the distance to the tenth neighbour among the training rows, in latents whitened by their
        covariance; ``kNN, not whitened``: the same in the latents as they are. A training row is
        not its own neighbour.
    """
    mean = latents[training].mean(axis=0)
    covariance = np.atleast_2d(np.cov(latents[training], rowvar=False))
    white = np.linalg.solve(np.linalg.cholesky(covariance), (latents - mean).T).T
    return {
        "Gaussian": -np.sqrt((white**2).sum(axis=1)),
        "kNN": _knn_score(white, training),
        "kNN, not whitened": _knn_score(latents, training),
    }


def _knn_score(rows: Floats, training: Bools) -> Floats:
    k = min(N_NEIGHBOURS, int(training.sum()) - 1)
    _, distances = ExactIndex(rows[training]).query(rows, k + 1)
    # A training row finds itself first.
    kth = np.where(training, distances[:, k], distances[:, k - 1]).astype(np.float64)
    return np.asarray(-np.log(np.maximum(kth, np.finfo(np.float32).tiny)))


def likeness(a: Floats, b: Floats) -> float:
    """Median of the absolute correlations of same-numbered latents of two auto-encoders.

    About 1 where both began with the same components, as with `[train] initial = "linear"`; of
    random starts a latent of one has no more to do with that of the same number of the other than
    with any.

    Parameters
    ----------
    a, b
        Latents of the same objects, shape (object, D) each.
    """
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return float(np.median(np.abs((x * y).sum(axis=0)) / np.where(scale > 0, scale, np.inf)))


def verdict(found: Sequence[Summary], alike: float | None = None, rows: str = "validation") -> str:
    """Whether the flow removes the dependence on the auto-encoder's seed, in a few sentences.

    Parameters
    ----------
    found
        From `summarise`.
    alike
        Greatest `likeness` of two of the auto-encoders.
    rows
        Which objects it speaks of.
    """
    by_pair = {(each.score, each.differ): each for each in found if each.rows == rows}
    flow = by_pair.get((FLOW, "flow"))
    other = by_pair.get((FLOW, "auto-encoder"))
    parts = []
    if flow is not None:
        parts.append(
            f"Flows that differ in their seed alone rank {rows} objects with ρ = "
            f"{flow.rank_correlation[0]:.3f} and share {_percent(flow)} of the least probable."
        )
    if other is None:
        parts.append("With one auto-encoder nothing can be said of its seed.")
        return " ".join(parts)
    parts.append(
        f"Auto-encoders that differ in their seed alone: ρ = {other.rank_correlation[0]:.3f}, "
        f"{_percent(other)} shared."
    )
    simple = {
        score: each.rank_correlation[0]
        for (score, differ), each in by_pair.items()
        if differ == "auto-encoder" and not score.startswith(FLOW)
    }
    if simple:
        parts.append(
            "Without any flow, the same pairs: "
            + ", ".join(f"{name} ρ = {value:.3f}" for name, value in simple.items())
            + "."
        )
    if alike is not None and alike > ALIKE:
        parts.append(
            "This does not answer whether the flow removes the dependence on the seed: these "
            f"auto-encoders are all but the same (correlation {alike:.2f} of same-numbered "
            'latents), as those with the common start of [train] initial = "linear" are. Compare '
            'auto-encoders with initial = "random".'
        )
    else:
        parts.append(_answer(flow, other, simple))
    return " ".join(parts)


def _percent(each: Summary) -> str:
    return f"{100 * each.overlap_least[0]:.0f} %"


def _answer(flow: Summary | None, other: Summary, simple: Mapping[str, float]) -> str:
    rho = other.rank_correlation[0]
    own = 1.0 if flow is None else flow.rank_correlation[0]
    least = 1.0 if flow is None else flow.overlap_least[0]
    best = max(simple.values(), default=-1.0)
    if rho >= own - NOTABLE and other.overlap_least[0] >= least - 0.05:
        answer = "The flow leaves no dependence on the auto-encoder's seed beyond its own scatter"
        if best >= rho - NOTABLE:
            return answer + ", but nor does a simple score: there was little to remove."
        return answer + "."
    answer = "The flow does not remove the dependence on the auto-encoder's seed"
    if not simple:
        return answer + "."
    if rho > best + NOTABLE:
        return answer + ", but leaves less of it than any of the simple scores does."
    if rho < best - NOTABLE:
        name = max(simple, key=lambda score: simple[score])
        return f"{answer}: {name} depends on it less, which does not make it the better score."
    return answer + ": a simple score depends on it as little, so it is not the flow that helps."
