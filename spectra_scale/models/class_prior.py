"""Priors of classes: by name or given, and re-estimated for data whose mix of classes differs."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from spectra_scale.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Prior: TypeAlias = Literal["training", "uniform"] | ArrayLike

#: Added to every class's count in the prior: a class without members is rare, not impossible.
PSEUDO_COUNT = 1.0


def class_prior(prior: Prior, counts: Ints) -> Floats:
    """Prior probabilities of classes.

    Parameters
    ----------
    prior
        ``training``: fractions of `counts`, one added to each; ``uniform``; or the numbers.
    counts
        Training rows of each class, shape (C,).

    Returns
    -------
    numpy.ndarray
        Shape (C,).

    Raises
    ------
    UsageError
        If the numbers are not C, not positive, or do not sum to 1 within 1e-6.

    Examples
    --------
    >>> class_prior("training", np.array([7, 1, 0]))
    array([0.72727273, 0.18181818, 0.09090909])
    """
    if isinstance(prior, str):
        if prior == "training":
            return np.asarray((counts + PSEUDO_COUNT) / np.sum(counts + PSEUDO_COUNT))
        if prior == "uniform":
            return np.full(len(counts), 1.0 / len(counts))
        given = np.empty(0)
    else:
        given = np.asarray(prior, dtype=np.float64)
    good = given.shape == counts.shape and bool(np.all(given > 0))
    if not good or abs(float(given.sum()) - 1.0) > 1e-6:
        msg = (
            f"found prior {prior!r}, expected 'training', 'uniform', or {len(counts)} positive "
            "numbers that sum to 1, in the order of the classes. Give one of these."
        )
        raise UsageError(msg)
    return given


def estimated_prior(log_prob: ArrayLike, n_steps: int = 200) -> Floats:
    """Class fractions of unlabelled objects, by maximum likelihood (EM).

    The mix of classes of a new release is not that of the training split. The fractions that make
    the objects most probable are those of the mixture sum_c prior_c p(x|c) (Saerens, Latinne &
    Decaestecker 2002, Neural Computation 14, 21).

    Parameters
    ----------
    log_prob
        log p(x|c) of the objects, shape (n, C), finite.
    n_steps
        EM steps, fewer once nothing moves by 1e-6.

    Returns
    -------
    numpy.ndarray
        Shape (C,), positive, sum 1.
    """
    given = np.asarray(log_prob, dtype=np.float64)
    prior = np.full(given.shape[1], 1.0 / given.shape[1])
    for _ in range(n_steps):
        joint = given + np.log(prior)
        shares = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        # One row in all is spread over the classes: a fraction never reaches 0.
        new = (shares.sum(axis=0) + 1.0 / len(prior)) / (len(given) + 1.0)
        moved = float(np.abs(new - prior).max())
        prior = new
        if moved < 1e-6:
            break
    return np.asarray(prior)
