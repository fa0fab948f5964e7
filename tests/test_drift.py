"""Drift is measured in sizes that mean something, and what log p cannot see is seen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import ks_2samp, multivariate_normal, ttest_ind

from spectra_scale.models.drift import Scored, classifier_auc, drift, energy_test

DIMS = 4
LAW = multivariate_normal(np.zeros(DIMS), np.diag([1.0, 1.0, 1.0, 1.0]))


def scored(latents, seed=0, z=None, snr=None, label=None):
    rng = np.random.default_rng(seed)
    n = len(latents)
    return Scored(
        latents=latents,
        log_prob=np.asarray(LAW.logpdf(latents)).reshape(n),
        label=rng.integers(1, 4, n) if label is None else label,
        z=rng.uniform(0, 0.3, n) if z is None else z,
        snr=rng.uniform(5, 50, n) if snr is None else snr,
    )


def gaussian(n, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, DIMS)) + shift


def test_the_same_kind_of_data_does_not_drift():
    found = drift(scored(gaussian(3000, 1)), scored(gaussian(2000, 2)))
    assert found.log_prob is not None
    assert found.latents is not None
    # Four sigma of the difference; AUC has an error of about 0.29 sqrt(1/n + 1/m) = 0.008.
    assert abs(found.log_prob.difference) < 4 * found.log_prob.error
    assert found.log_prob.ks_p > 0.001
    assert found.latents.energy_p > 0.01
    assert found.latents.energy < 0.01
    assert found.latents.classifier_auc == pytest.approx(0.5, abs=0.03)
    assert set(found.by_class) == {1, 2, 3}


def test_permutation_p_values_are_even_where_nothing_drifts():
    p = np.array([
        energy_test(gaussian(40, 100 + k), gaussian(50, 200 + k), np.random.default_rng(k))[1]
        for k in range(60)
    ])  # fmt: skip
    assert p.min() >= 0.001
    assert ks_2samp(p, np.linspace(0, 1, 1001)).pvalue > 0.01


def test_the_size_of_a_shift_is_the_expected_loss_in_nats():
    shift = 0.5
    found = drift(scored(gaussian(20_000, 3)), scored(gaussian(20_000, 4, shift)))
    assert found.log_prob is not None
    # E log p falls by |shift|^2 / 2 under a unit Gaussian.
    expected = -0.5 * DIMS * shift**2
    assert found.log_prob.difference == pytest.approx(expected, abs=4 * found.log_prob.error)
    old, new = LAW.logpdf(gaussian(20_000, 3)), LAW.logpdf(gaussian(20_000, 4, shift))
    t = ttest_ind(new, old, equal_var=False)
    assert found.log_prob.difference / found.log_prob.error == pytest.approx(t.statistic)
    assert found.log_prob.ks == ks_2samp(old, new).statistic
    assert found.latents is not None
    assert found.latents.energy_p == 0.001
    assert found.latents.classifier_auc > 0.6


def test_a_shift_along_a_level_set_leaves_log_p_alone_and_is_found_in_the_latents():
    # Signs made positive: the same |x|, so the same density, and another place.
    old, new = gaussian(3000, 5), np.abs(gaussian(3000, 6))
    found = drift(scored(old), scored(new))
    assert found.log_prob is not None
    assert found.latents is not None
    assert abs(found.log_prob.difference) < 4 * found.log_prob.error
    assert found.log_prob.ks_p > 0.01
    assert found.latents.energy_p == 0.001
    assert found.latents.energy > 0.05
    assert found.latents.classifier_auc > 0.9


def test_the_energy_coefficient_lies_between_same_and_apart():
    rng = np.random.default_rng(0)
    x = gaussian(300, 7)
    same, p = energy_test(x, x.copy(), rng)
    assert same == pytest.approx(0.0, abs=1e-12)
    assert p > 0.9
    apart, p = energy_test(x, x + 1e4, rng)
    assert apart == pytest.approx(1.0, abs=0.01)
    assert p == 0.001
    equal, _ = energy_test(np.ones((20, 2)), np.ones((20, 2)), rng)
    assert equal == 0.0


def test_a_classifier_that_knows_nothing_is_a_coin():
    assert classifier_auc(gaussian(800, 8), gaussian(800, 9), 1) == pytest.approx(0.5, abs=0.06)
    assert classifier_auc(gaussian(200, 8), gaussian(200, 9, 5.0), 1) > 0.99


def test_matching_takes_out_what_redshift_and_noise_explain():
    """Log p depends on S/N alone, and the new data are fainter: no drift at equal S/N."""
    rng = np.random.default_rng(10)

    def side(n, low, high, seed):
        snr = rng.uniform(low, high, n)
        latents = gaussian(n, seed) * (3.0 - snr / 20.0)[:, None]
        return scored(latents, seed, snr=snr)

    found = drift(side(8000, 5, 50, 11), side(4000, 5, 25, 12))
    assert found.log_prob is not None
    assert found.matched is not None
    assert found.log_prob.difference < -2.0
    # Inside a cell S/N still differs a little.
    assert abs(found.matched.difference) < 0.15 * abs(found.log_prob.difference)
    assert found.matched.share > 0.95


def test_new_data_where_there_are_no_old_ones_is_not_matched():
    old = scored(gaussian(500, 13))
    new = scored(gaussian(500, 14), z=np.full(500, np.nan))
    assert drift(old, new).matched is None


def test_hardly_any_objects_are_compared_with_none():
    old = scored(gaussian(500, 15))
    for n in (0, 1, 9):
        found = drift(old, scored(gaussian(n, 16)))
        assert (found.log_prob, found.latents, found.matched) == (None, None, None)
        assert found.by_class == {}
        assert json.loads(json.dumps(found.to_json()))["log_prob"] is None


def test_latents_without_spread_are_left_out():
    old, new = gaussian(200, 17), gaussian(200, 18)
    old[:, 1] = new[:, 1] = 2.0
    found = drift(scored(old), scored(new))
    assert found.latents is not None
    assert np.isfinite(found.latents.energy)


def test_the_same_data_and_seed_give_the_same_numbers():
    pair = scored(gaussian(1500, 19)), scored(gaussian(1500, 20))
    assert drift(*pair, seed=3) == drift(*pair, seed=3)
    assert pair[0].at_most(100, 1).latents.shape == (100, DIMS)
    assert pair[0].at_most(5000, 1) is pair[0]
