"""Gaussian mixtures: the base of the refined flow, fitted by EM and chosen by BIC.

Much smaller than a library's because all of its work is four matrix products a step (responses
from one, weighted first and second moments from the others), and because rows may carry weights,
which scikit-learn's mixture does not take.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

Floats: TypeAlias = NDArray[np.float64]

#: Numbers of components that `choose_mixture` tries, in order.
CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24)
_LEAST_VARIANCE = 1e-6  # added to variances, of the squared spread of the data's middle half
_LAST_ROWS = 500_000  # that the chosen mixture is fitted to, of more
_TOLERANCE = 3e-4  # gain of the mean log-likelihood a step, in nats, that ends the EM
_BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """A mixture of C Gaussians in D dimensions.

    Parameters
    ----------
    log_weights
        Logarithms of the weights, which sum to 1, shape (C,).
    means
        Shape (C, D).
    roots
        Upper triangular, shape (C, D, D): ``y = (x - mean) @ root`` is standard normal within a
        component, and its first d values depend on the first d of x alone.
    """

    log_weights: Floats
    means: Floats
    roots: Floats

    @property
    def n_components(self) -> int:
        """Number of components C."""
        return len(self.log_weights)

    def parts(self, x: Floats) -> Floats:
        """``log(weight_c N_c(x))`` of rows x, shape (n, D); shape (n, C)."""
        return _parts(x, self)

    def log_prob(self, x: Floats) -> Floats:
        """Log-density of rows x, shape (n, D); shape (n,)."""
        found = np.empty(len(x))
        for start in range(0, len(x), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            found[rows] = logsumexp(_parts(x[rows], self), axis=1)
        return found

    def sample(self, n: int, generator: np.random.Generator) -> Floats:
        """Draw n rows, shape (n, D)."""
        weights = np.exp(self.log_weights)
        which = generator.choice(self.n_components, n, p=weights / weights.sum())
        rows = generator.standard_normal((n, self.means.shape[1]))
        for c in np.unique(which):
            mine = which == c
            rows[mine] = solve_triangular(self.roots[c], rows[mine].T, trans="T").T
        return np.asarray(rows + self.means[which])


def fit_mixture(
    x: Floats,
    start: int | Mixture,
    *,
    weights: Floats | None = None,
    seed: int = 0,
    steps: int = 60,
) -> Mixture:
    """Fit a mixture by expectation maximisation.

    Parameters
    ----------
    x
        Rows of about unit variance, shape (n, D).
    start
        A mixture to go on from, or a number of components, at most n, to start from k-means.
        Components that lose all their rows are dropped.
    weights
        Of the rows, shape (n,); None: all 1.
    seed
        Of k-means.
    steps
        Greatest number of steps; it ends before when a step gains less than 3e-4 nats a row.

    Returns
    -------
    Mixture
    """
    w = np.ones(len(x)) if weights is None else weights
    mixture, floor = start, _floor(x)
    if not isinstance(mixture, Mixture):
        mixture = _from_moments(*_hard_moments(x, w, mixture, seed), floor)
    before = -np.inf
    for _ in range(steps):
        moments, score = _soft_moments(x, w, mixture)
        mixture = _from_moments(*moments, floor)
        if score - before < _TOLERANCE:
            break
        before = score
    return mixture


def choose_mixture(
    x: Floats,
    *,
    weights: Floats | None = None,
    seed: int = 0,
    subsample: int = 10_000,
    candidates: tuple[int, ...] = CANDIDATES,
) -> Mixture:
    """Fit mixtures of more and more components and keep the one of least BIC.

    Parameters
    ----------
    x, weights, seed
        As for `fit_mixture`.
    subsample
        Rows that the number of components is chosen with; the one chosen goes on with all rows.
    candidates
        Numbers tried, in order, until two in a row are worse than the best.

    Returns
    -------
    Mixture
    """
    w = np.ones(len(x)) if weights is None else weights
    seen, given = some_rows(x, w, subsample, seed)
    seen_weights = np.ones(len(seen)) if given is None else given
    dims = x.shape[1]
    best, best_bic, worse = fit_mixture(seen, 1, weights=seen_weights), np.inf, 0
    for count in candidates:
        # A component has to find more rows than it has parameters.
        if count > 1 and len(seen) < count * dims * (dims + 3) / 2:
            break
        found = fit_mixture(seen, count, weights=seen_weights, seed=seed, steps=25)
        likelihood = float(seen_weights @ found.log_prob(seen))
        size = found.n_components * (1 + dims * (dims + 3) / 2) - 1
        bic = size * np.log(seen_weights.sum()) - 2.0 * likelihood
        if bic < best_bic:
            best, best_bic, worse = found, bic, 0
        else:
            worse += 1
        if worse == 2:
            break
    if len(x) == len(seen):
        return best
    more, more_weights = some_rows(x, w, _LAST_ROWS, seed)
    return fit_mixture(more, best, weights=more_weights, steps=20)


def some_rows(
    x: Floats, weights: Floats | None, most: int, seed: int
) -> tuple[Floats, Floats | None]:
    """At most so many rows of x, shape (n, D), and their weights: a seeded choice, in order."""
    if len(x) <= most:
        return x, weights
    few = np.sort(np.random.default_rng(seed).choice(len(x), most, replace=False))
    return x[few], None if weights is None else weights[few]


def one_gaussian(x: Floats, weights: Floats | None = None) -> Mixture:
    """One Gaussian of the data's mean and covariance, as three of the same centre.

    Their widths are 0.6, 1 and 2 times its own: a flow that starts from here can fit tails
    heavier than a Gaussian's. Equal centres would stay equal for ever, so they differ by 0.01.

    Parameters
    ----------
    x, weights
        As for `fit_mixture`.
    """
    w = np.ones(len(x)) if weights is None else weights
    single = _from_moments(*_hard_moments(x, w, 1, 0), _floor(x))
    width = np.array([0.6, 1.0, 2.0])
    shift = 0.01 * np.array([-1.0, 0.0, 1.0])
    return Mixture(
        log_weights=np.log([0.35, 0.45, 0.2]),
        means=single.means + shift[:, None],
        roots=single.roots / width[:, None, None],
    )


def _parts(x: Floats, mixture: Mixture) -> Floats:
    n_components, dims = mixture.means.shape
    flat = mixture.roots.transpose(1, 0, 2).reshape(dims, -1)
    offset = np.einsum("cd,cde->ce", mixture.means, mixture.roots).ravel()
    y = x @ flat
    y -= offset
    square = np.square(y, out=y).reshape(len(x), n_components, dims).sum(axis=2)
    constant = (
        mixture.log_weights
        + np.log(np.diagonal(mixture.roots, axis1=1, axis2=2)).sum(axis=1)
        - 0.5 * dims * np.log(2 * np.pi)
    )
    return np.asarray(constant - 0.5 * square)


def _hard_moments(
    x: Floats, weights: Floats, n_components: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Moments of k-means clusters."""
    if n_components == 1:
        return _moments(x, weights[:, None])
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    found = KMeans(n_components, n_init=1, random_state=seed, max_iter=30)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: the clusters without rows are dropped.
        warnings.simplefilter("ignore", ConvergenceWarning)
        label = found.fit_predict(x, sample_weight=weights)
    member = np.zeros((len(x), n_components))
    member[np.arange(len(x)), label] = weights
    return _moments(x, member)


def _soft_moments(
    x: Floats, weights: Floats, mixture: Mixture
) -> tuple[tuple[Floats, Floats, Floats], float]:
    """Moments of the rows shared out by a mixture, and its weighted mean log-likelihood."""
    n_components, dims = mixture.means.shape
    size, first = np.zeros(n_components), np.zeros((n_components, dims))
    second, score = np.zeros((n_components, dims * (dims + 1) // 2)), 0.0
    for start in range(0, len(x), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        parts = _parts(x[rows], mixture)
        # Twice as fast as scipy's logsumexp, whose care for infinities is not needed here.
        top = parts.max(axis=1, keepdims=True)
        share = np.exp(parts - top)
        sums = share.sum(axis=1, keepdims=True)
        score += float(weights[rows] @ (top + np.log(sums))[:, 0])
        found = _moments(x[rows], share * (weights[rows, None] / sums))
        for total, more in zip((size, first, second), found, strict=True):
            np.add(total, more, out=total)
    return (size, first, second), score / float(weights.sum())


def _moments(x: Floats, member: Floats) -> tuple[Floats, Floats, Floats]:
    """Sums over rows of membership, of membership times x, and times its products."""
    low, high = np.tril_indices(x.shape[1])
    return member.sum(axis=0), member.T @ x, member.T @ (x[:, low] * x[:, high])


def _from_moments(size: Floats, first: Floats, second: Floats, floor: Floats) -> Mixture:
    dims = first.shape[1]
    # Fewer rows than dimensions give no covariance of their own.
    alive = size > dims
    if not alive.any():
        alive = size >= size.max()
    size, first, second = size[alive], first[alive], second[alive]
    means = first / size[:, None]
    low, high = np.tril_indices(dims)
    covariance = np.empty((len(size), dims, dims))
    covariance[:, low, high] = covariance[:, high, low] = (
        second / size[:, None] - means[:, low] * means[:, high]
    )
    covariance += np.diag(floor)
    return Mixture(np.log(size / size.sum()), means, np.stack([_root(c) for c in covariance]))


def _floor(x: Floats) -> Floats:
    """What is added to the variances, shape (D,).

    Of data whitened with one wild row among them the bulk is far narrower than 1.
    """
    low, high = np.percentile(x, [25, 75], axis=0)
    return np.asarray(_LEAST_VARIANCE * np.clip((high - low) ** 2, 1e-8, 1.0))


def _root(covariance: Floats) -> Floats:
    """Upper triangular U with ``U U^T`` the inverse of a covariance.

    The moments' rounding can leave a flat component a hair below zero: the variance added grows
    until the factor exists.
    """
    eye = np.eye(len(covariance))
    more = 0.0
    while True:
        try:
            lower = np.linalg.cholesky(covariance + more * eye)
            return np.asarray(solve_triangular(lower, eye, lower=True).T)
        except np.linalg.LinAlgError:
            more = max(10.0 * more, 1e-15)
