"""Gaussian mixtures: EM and BIC."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from spectra_scale.models.mixture import (
    Mixture,
    choose_mixture,
    fit_mixture,
    one_gaussian,
)


def planted(seed: int, n_components: int, dims: int, spread: float = 3.0) -> Mixture:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(n_components, 4.0))
    roots = np.triu(rng.normal(0, 0.4, (n_components, dims, dims)), 1)
    roots += np.exp(rng.uniform(-0.7, 0.7, (n_components, dims)))[:, :, None] * np.eye(dims)
    return Mixture(np.log(weights), rng.normal(0, spread, (n_components, dims)), roots)


def truth(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """scipy's densities of the components, added up."""
    laws = [
        multivariate_normal(mean, np.linalg.inv(root @ root.T))
        for mean, root in zip(mixture.means, mixture.roots, strict=True)
    ]
    return np.log(sum(np.exp(w) * law.pdf(x) for w, law in zip(mixture.log_weights, laws)))  # noqa: B905


def test_the_density_is_scipys():
    mixture = planted(0, 4, 3)
    x = mixture.sample(500, np.random.default_rng(1))
    np.testing.assert_allclose(mixture.log_prob(x), truth(mixture, x), atol=1e-10)


def test_samples_have_the_mixtures_moments():
    mixture = planted(1, 3, 2)
    x = mixture.sample(200_000, np.random.default_rng(0))
    weights = np.exp(mixture.log_weights)
    mean = weights @ mixture.means
    # The standard error of a mean of 200,000 draws of spread 3.
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=5 * 3 / np.sqrt(2e5))


def test_em_reaches_what_scikit_learn_reaches():
    planted_one = planted(2, 3, 4)
    x = planted_one.sample(6000, np.random.default_rng(0))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    ours = fit_mixture(x, 3, steps=200).log_prob(x).mean()
    theirs = GaussianMixture(3, random_state=0, tol=3e-4, max_iter=200).fit(x).score(x)
    # Either ends when a step gains less than 3e-4.
    assert ours == pytest.approx(theirs, abs=2e-3)


def test_whole_weights_are_repeated_rows():
    x = planted(3, 2, 3).sample(400, np.random.default_rng(0)) / 3
    weights = np.random.default_rng(1).integers(0, 4, 400)
    start = fit_mixture(x, 2)
    weighted = fit_mixture(x, start, weights=weights.astype(float), steps=5)
    repeated = fit_mixture(np.repeat(x, weights, axis=0), start, steps=5)
    # What is added to variances, 1e-6 of the data's spread, does not look at weights.
    np.testing.assert_allclose(weighted.means, repeated.means, atol=1e-5)
    np.testing.assert_allclose(weighted.log_weights, repeated.log_weights, atol=1e-5)
    np.testing.assert_allclose(weighted.log_prob(x), repeated.log_prob(x), atol=1e-4)


def test_bic_finds_the_clusters_that_are_there():
    x = planted(4, 6, 5, spread=6.0).sample(6000, np.random.default_rng(0)) / 6
    assert choose_mixture(x, candidates=(1, 2, 4, 6, 8)).n_components == 6
    assert choose_mixture(np.random.default_rng(0).normal(size=(3000, 5))).n_components == 1


@pytest.mark.parametrize(
    "rows",
    [
        np.repeat(np.random.default_rng(0).normal(size=(20, 3)), 30, axis=0),
        np.random.default_rng(1).integers(0, 3, (600, 3)).astype(float),
        np.concatenate([np.random.default_rng(2).normal(size=(599, 3)), np.full((1, 3), 1e4)]),
    ],
)
def test_repeated_discrete_and_far_rows_give_a_finite_density(rows):
    found = choose_mixture(rows, candidates=(1, 2, 4))
    assert np.isfinite(found.log_prob(rows)).all()
    assert np.exp(found.log_weights).sum() == pytest.approx(1)


def test_one_gaussian_has_the_mean_and_the_axes_of_the_data():
    x = np.random.default_rng(0).multivariate_normal([1, -2], [[2, 1], [1, 3]], 20_000)
    found = one_gaussian(x)
    np.testing.assert_allclose(found.means.mean(axis=0), x.mean(axis=0), atol=0.01)
    middle = np.linalg.inv(found.roots[1] @ found.roots[1].T)
    np.testing.assert_allclose(middle, np.cov(x.T, bias=True), rtol=1e-4)
