"""Drift: how far new objects lie from those that a density was judged on.

Two questions. Are the new objects less probable under the old density (log p: mean difference,
Kolmogorov-Smirnov)? And are they elsewhere, even where they are as probable: a shift along a level
set of the density leaves log p alone (energy distance of the latents, Székely & Rizzo 2013,
J. Stat. Plan. Inference 143, 1249; a classifier that tells old from new, Lopez-Paz & Oquab 2017,
arXiv 1610.06545)?

With many objects every difference is significant, so sizes come first and p-values second: nats,
distances between 0 and 1, the area under a classifier's curve.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

#: Rows of each side that the tests on latents look at: pairs of rows cost their product.
MOST_PAIRED = 1000
#: The same for the classifier.
MOST_CLASSIFIED = 5000
N_PERMUTATIONS = 999
#: Rows of a side below which nothing is compared.
LEAST_ROWS = 10
_CELLS = 4  # of redshift and of S/N when matching
_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Objects of one side, row-aligned.

    Parameters
    ----------
    latents
        Shape (n, D), finite.
    log_prob
        Under the old density, nats.
    label
        Class codes.
    z, snr
        Redshift and total S/N, to match by; NaN where not known.
    """

    latents: Floats
    log_prob: Floats
    label: Ints
    z: Floats
    snr: Floats

    def take(self, rows: NDArray[Any]) -> Scored:
        """Some of the rows."""
        return Scored(
            self.latents[rows], self.log_prob[rows], self.label[rows], self.z[rows], self.snr[rows]
        )

    def at_most(self, n: int, seed: int) -> Scored:
        """All rows, or a seeded choice of n of them, in order."""
        if len(self.log_prob) <= n:
            return self
        rng = np.random.default_rng(seed)
        return self.take(np.sort(rng.choice(len(self.log_prob), n, replace=False)))


@dataclass(frozen=True, slots=True)
class LogProbDrift:
    """How log p of new objects differs from that of old ones.

    Parameters
    ----------
    n_old, n_new
        Objects compared.
    difference, error
        Mean of new - mean of old, nats, and its standard error (two independent samples). A
        single far outlier can own it: see `median_difference`.
    median_difference
        Median of new - median of old, nats.
    ks, ks_p
        Kolmogorov-Smirnov distance (0 to 1) and its p-value.
    """

    n_old: int
    n_new: int
    difference: float
    error: float
    median_difference: float
    ks: float
    ks_p: float


@dataclass(frozen=True, slots=True)
class LatentDrift:
    """How the latents themselves differ, whatever their log p.

    Parameters
    ----------
    n_old, n_new
        Objects compared by the energy distance: a seeded choice of at most 1000 a side.
    energy
        Energy coefficient (2 E|X-Y| - E|X-X'| - E|Y-Y'|) / 2 E|X-Y|, 0 (same) to 1 (apart), in
        latents whitened by the old ones.
    energy_p
        Share of 999 permutations of old and new with a larger one: (k + 1) / 1000.
    classifier_auc
        Area under the curve of a boosted classifier that tells new from old, out of fold: the
        chance that it finds the new one of a pair. 0.5: it cannot.
    """

    n_old: int
    n_new: int
    energy: float
    energy_p: float
    classifier_auc: float


@dataclass(frozen=True, slots=True)
class MatchedDrift:
    """Mean difference of log p at equal redshift and S/N.

    Parameters
    ----------
    difference, error
        Nats: the difference in each cell of redshift and S/N, averaged with the new counts.
    share
        Share of the new objects that lie in cells with ten old ones; the others count nowhere.
    """

    difference: float
    error: float
    share: float


@dataclass(frozen=True, slots=True)
class Drift:
    """Everything that is said of new objects against old ones; None where there are too few."""

    log_prob: LogProbDrift | None
    latents: LatentDrift | None
    matched: MatchedDrift | None
    by_class: dict[int, LogProbDrift]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def drift(old: Scored, new: Scored, seed: int = 0) -> Drift:
    """Compare new objects with old ones that the density was not fitted on.

    Parameters
    ----------
    old
        Validation objects of the data that the density was fitted to.
    new
        New objects, in the same latents.
    seed
        Of choices of rows and permutations.

    Returns
    -------
    Drift
    """
    shared = np.intersect1d(old.label, new.label)
    by_class = {
        int(code): _log_prob_drift(
            old.log_prob[old.label == code], new.log_prob[new.label == code]
        )
        for code in shared
    }
    return Drift(
        log_prob=_log_prob_drift(old.log_prob, new.log_prob),
        latents=_latent_drift(old.latents, new.latents, seed),
        matched=_matched(old, new),
        by_class={code: found for code, found in by_class.items() if found is not None},
    )


def _log_prob_drift(old: Floats, new: Floats) -> LogProbDrift | None:
    if min(len(old), len(new)) < LEAST_ROWS:
        return None
    test = ks_2samp(old, new, method="asymp")
    error = np.sqrt(np.var(old, ddof=1) / len(old) + np.var(new, ddof=1) / len(new))
    return LogProbDrift(
        n_old=len(old),
        n_new=len(new),
        difference=float(np.mean(new) - np.mean(old)),
        error=float(error),
        median_difference=float(np.median(new) - np.median(old)),
        ks=float(test.statistic),
        ks_p=float(test.pvalue),
    )


def _latent_drift(old: Floats, new: Floats, seed: int) -> LatentDrift | None:
    if min(len(old), len(new)) < max(LEAST_ROWS, old.shape[1] + 2):
        return None
    rng = np.random.default_rng(seed)
    mean, root = old.mean(axis=0), _root_of_precision(old)
    theirs, mine = ((_chosen(rows, rng) - mean) @ root for rows in (old, new))
    # The choice is in random order, so the first rows are a choice too.
    a, b = theirs[:MOST_PAIRED], mine[:MOST_PAIRED]
    energy, p = energy_test(a, b, rng)
    return LatentDrift(len(a), len(b), energy, p, classifier_auc(theirs, mine, seed))


def _chosen(rows: Floats, rng: np.random.Generator) -> Floats:
    return rows[rng.permutation(len(rows))[:MOST_CLASSIFIED]]


def _root_of_precision(rows: Floats) -> Floats:
    """Matrix that whitens rows; directions without spread are left out."""
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False).reshape(rows.shape[1], -1))
    kept = values > 1e-12 * max(values[-1], np.finfo(np.float64).tiny)
    return np.asarray(vectors[:, kept] / np.sqrt(values[kept]))


def energy_test(old: Floats, new: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Energy coefficient of two samples, and its p-value by permutation.

    Parameters
    ----------
    old, new
        Rows, shapes (n, D) and (m, D).
    rng
        Draws the permutations.

    Returns
    -------
    tuple
        Coefficient between 0 and 1, and (k + 1) / (N + 1) with k of N permutations as large.
    """
    rows = np.concatenate([old, new])
    distances = cdist(rows, rows)
    weight = np.concatenate([np.full(len(old), 1 / len(old)), np.full(len(new), -1 / len(new))])
    # With these weights -w D w is 2 E|X-Y| - E|X-X'| - E|Y-Y'|, for any assignment of rows.
    shuffled = np.stack([weight, *(rng.permutation(weight) for _ in range(N_PERMUTATIONS))])
    energies = -np.einsum("ij,ij->i", shuffled @ distances, shuffled)
    as_large = int(np.sum(energies[1:] >= energies[0]))
    n, m = len(old), len(new)
    across = 2.0 * float(np.mean(distances[:n, n:]))
    # No row is paired with itself, or two small samples of one kind would seem apart.
    within = sum(
        float(part.sum()) / max(size * (size - 1), 1)
        for part, size in ((distances[:n, :n], n), (distances[n:, n:], m))
    )
    coefficient = max(1.0 - within / across, 0.0) if across > 0 else 0.0
    return coefficient, (as_large + 1) / (N_PERMUTATIONS + 1)


def classifier_auc(old: Floats, new: Floats, seed: int) -> float:
    """Chance that a boosted classifier, out of fold, ranks a new row above an old one.

    Parameters
    ----------
    old, new
        Rows, shapes (n, D) and (m, D), at least five each.
    seed
        Of folds and classifier.

    Returns
    -------
    float
        Area under the receiver operating characteristic.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    rows = np.concatenate([old, new])
    is_new = np.arange(len(rows)) >= len(old)
    model = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15, random_state=seed)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    # Small trees: threads that wait for one another cost more than they bring.
    with threadpool_limits(1):
        found = cross_val_predict(model, rows, is_new, cv=folds, method="predict_proba")
    return float(roc_auc_score(is_new, found[:, 1]))


def _matched(old: Scored, new: Scored) -> MatchedDrift | None:
    sides = [side.take(np.isfinite(side.z) & np.isfinite(side.snr)) for side in (old, new)]
    theirs, mine = sides
    if min(len(theirs.z), len(mine.z)) < LEAST_ROWS:
        return None
    places = [_cells(side, mine) for side in sides]
    differences, variances, counts = [], [], []
    for cell in np.unique(places[1]):
        a, b = (side.log_prob[place == cell] for side, place in zip(sides, places, strict=True))
        if min(len(a), len(b)) < LEAST_ROWS:
            continue
        differences.append(np.mean(b) - np.mean(a))
        variances.append(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))
        counts.append(len(b))
    if not counts:
        return None
    weight = np.array(counts) / np.sum(counts)
    return MatchedDrift(
        difference=float(weight @ np.array(differences)),
        error=float(np.sqrt(weight**2 @ np.array(variances))),
        share=float(np.sum(counts) / len(new.z)),
    )


def _cells(side: Scored, of: Scored) -> Ints:
    """Cell of redshift and S/N of each row, between quartiles of `of`; -1 beyond its range."""
    place = np.zeros(len(side.z), dtype=np.int64)
    inside = np.ones(len(side.z), dtype=bool)
    for mine, theirs in ((side.z, of.z), (side.snr, of.snr)):
        inner = np.quantile(theirs, np.arange(1, _CELLS) / _CELLS)
        place = place * _CELLS + np.searchsorted(inner, mine, side="right")
        inside &= (mine >= theirs.min()) & (mine <= theirs.max())
    return np.where(inside, place, -1)
