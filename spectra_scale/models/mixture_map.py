"""The map that carries a Gaussian mixture to a standard normal, and back.

Rosenblatt 1952 (Ann. Math. Stat. 23, 470): ``z_d = Phi^-1(F(u_d | u_1 .. u_d-1))``. Of a mixture
all conditional distributions are again mixtures, in one dimension, so the map is exact. All is
done with logarithms of the smaller tail: outliers lie at 40 sigma of a component and more, where
a distribution function is 0 or 1 to the last bit.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp, ndtri_exp

from spectra_scale.models.mixture import Mixture

Floats: TypeAlias = NDArray[np.float64]

_STEPS = 80  # bisections halve the bracket to the last bit in fewer
_LOG_HALF = -np.log(2.0)


def to_normal(u: Floats, mixture: Mixture) -> tuple[Floats, Floats]:
    """Carry rows of a mixture to the standard normal.

    Parameters
    ----------
    u
        Rows, shape (n, D).
    mixture
        What they are distributed as.

    Returns
    -------
    tuple
        z, shape (n, D), and log|dz/du|, shape (n,): the mixture's log-density less the normal's.
    """
    z = np.empty_like(u)
    log_share = np.tile(mixture.log_weights, (len(u), 1))
    for d in range(u.shape[1]):
        centre, width = _conditional(u, mixture, d)
        y = (u[:, d, None] - centre) / width
        z[:, d] = _score(y, log_share)
        log_share = _updated(log_share, y, width)
    density = mixture.log_prob(u)
    normal = -0.5 * np.square(z).sum(axis=1) - 0.5 * u.shape[1] * np.log(2 * np.pi)
    return z, density - normal


def from_normal(z: Floats, mixture: Mixture) -> Floats:
    """Carry rows of the standard normal to the mixture: the inverse of `to_normal`.

    Parameters
    ----------
    z
        Rows, shape (n, D).
    mixture
        What they are to be distributed as.

    Returns
    -------
    numpy.ndarray
        Shape (n, D), to about 1e-10 in z.
    """
    u = np.empty_like(z)
    log_share = np.tile(mixture.log_weights, (len(z), 1))
    for d in range(z.shape[1]):
        centre, width = _conditional(u, mixture, d)
        u[:, d] = _solve(z[:, d], centre, width, log_share)
        log_share = _updated(log_share, (u[:, d, None] - centre) / width, width)
    return u


def _conditional(u: Floats, mixture: Mixture, d: int) -> tuple[Floats, Floats]:
    """Mean of coordinate d given those before, (n, C), and its standard deviation, (C,)."""
    width = 1.0 / mixture.roots[:, d, d]
    before = mixture.roots[:, :d, d]
    pull = u[:, :d] @ before.T - np.einsum("cd,cd->c", mixture.means[:, :d], before)
    return mixture.means[:, d] - width * pull, width


def _updated(log_share: Floats, y: Floats, width: Floats) -> Floats:
    """Posterior weights of the components after one more coordinate, shape (n, C)."""
    found = log_share - 0.5 * y * y - np.log(width)
    return np.asarray(found - logsumexp(found, axis=1, keepdims=True))


def _score(y: Floats, log_share: Floats) -> Floats:
    """Normal quantile of a mixture's distribution function, from its smaller tail; shape (n,)."""
    below = logsumexp(log_share + log_ndtr(y), axis=1)
    above = logsumexp(log_share + log_ndtr(-y), axis=1)
    low = ndtri_exp(np.minimum(below, _LOG_HALF))
    high = -ndtri_exp(np.minimum(above, _LOG_HALF))
    return np.asarray(np.where(below < above, low, high))


def _solve(z: Floats, centre: Floats, width: Floats, log_share: Floats) -> Floats:
    """Coordinate whose score is z: Newton's steps, halving wherever one leaves the bracket.

    A quantile of a mixture lies between the same quantiles of its components.
    """
    ends = centre + width * z[:, None]
    low, high = ends.min(axis=1), ends.max(axis=1)
    u: Floats = np.einsum("nc,nc->n", np.exp(log_share), ends)
    open_ = np.flatnonzero(high > low)
    for _ in range(_STEPS):
        if not len(open_):
            break
        y = (u[open_, None] - centre[open_]) / width
        score = _score(y, log_share[open_])
        miss = score - z[open_]
        low[open_] = np.where(miss <= 0, u[open_], low[open_])
        high[open_] = np.where(miss >= 0, u[open_], high[open_])
        # d score / d u = f(u) / phi(score)
        log_density = logsumexp(log_share[open_] - 0.5 * y * y - np.log(width), axis=1)
        with np.errstate(over="ignore"):
            step = miss * np.exp(-0.5 * score * score - log_density)
        trial = u[open_] - step
        inside = (trial > low[open_]) & (trial < high[open_])
        moved = np.where(inside, trial, 0.5 * (low[open_] + high[open_]))
        done = (np.abs(miss) < 1e-12) | (moved == u[open_])
        u[open_] = np.where(np.abs(miss) < 1e-12, u[open_], moved)
        open_ = open_[~done]
    return u
