"""The conditional flow is one density a class, and its posteriors mean what they say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.calibration import calibration_curve as sklearn_curve
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix
from sklearn.metrics import log_loss as sklearn_log_loss

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models import conditional_gis
from spectra_scale.models.class_prior import class_prior, estimated_prior
from spectra_scale.models.conditional_gis import ConditionalGIS, ConditionalSettings
from spectra_scale.models.reliability import (
    calibration_curve,
    fit_temperature,
    reliability,
    tempered,
)

SETTINGS = ConditionalSettings(n_layers=25, seed=3)
DIMS = 3
SHARE = np.array([0.6, 0.37, 0.03])


def covariances() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    roots = [np.eye(DIMS) + 0.3 * rng.standard_normal((DIMS, DIMS)) for _ in SHARE]
    return [root @ root.T for root in roots]


MEANS = np.array([[0.0, 0, 0], [1.5, 0, 0.5], [0.0, 2.0, 1.0]])


def draw(n: int, seed: int, share: np.ndarray = SHARE) -> tuple[np.ndarray, np.ndarray]:
    """Classes 1 (Gaussian), 2 (curved) and 3 (Gaussian, few)."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=share) + 1
    x = np.empty((n, DIMS))
    for k, covariance in enumerate(covariances()):
        inside = labels == k + 1
        x[inside] = rng.multivariate_normal(MEANS[k], covariance, inside.sum())
    x[labels == 2, 1] += x[labels == 2, 0] ** 2 - 1.0
    return x, labels


def truth(x: np.ndarray) -> np.ndarray:
    unbent = x.copy()
    unbent[:, 1] -= x[:, 0] ** 2 - 1.0
    laws = [multivariate_normal(m, c) for m, c in zip(MEANS, covariances(), strict=True)]
    return np.stack([law.logpdf(unbent if k == 1 else x) for k, law in enumerate(laws)], axis=1)


def fit(n: int = 6000, settings: ConditionalSettings = SETTINGS) -> ConditionalGIS:
    x, labels = draw(n, 0)
    held_out, their_labels = draw(n // 3, 1)
    return ConditionalGIS.fit(x, labels, settings, held_out, their_labels)


@pytest.fixture(scope="module")
def flow() -> ConditionalGIS:
    return fit()


# ---- densities


def test_each_class_has_its_own_density_near_the_true_one(flow):
    x, labels = draw(4000, 2)
    gap = truth(x) - flow.log_prob(x)
    by_class = [gap[labels == code, code - 1].mean() for code in flow.classes]
    # Nats a row. The affine start alone leaves 0.5 in the curved class; fitting errors of a
    # Gaussian with n rows are D (D + 3) / 4n, which is 0.03 for the 180 rows of the last.
    np.testing.assert_array_less(by_class, [0.02, 0.2, 0.1])
    np.testing.assert_array_less(-0.05, by_class)
    own = np.flatnonzero(labels == 2)
    start = replace(SETTINGS, n_layers=0)
    affine = truth(x) - fit(settings=start).log_prob(x)
    assert affine[own, 1].mean() > 2 * by_class[1]


def test_every_density_integrates_to_one(flow):
    # Importance sampling from a wide Gaussian.
    law = multivariate_normal([0.7, 0.7, 0.5], 6.0 * np.eye(DIMS))
    points = law.rvs(60_000, random_state=np.random.default_rng(4))
    weights = np.exp(flow.log_prob(points) - law.logpdf(points)[:, None])
    mean, error = weights.mean(axis=0), weights.std(axis=0) / np.sqrt(len(points))
    # The error is Monte Carlo's; 0.01 more for the mass where the wide Gaussian has no points.
    np.testing.assert_array_less(np.abs(mean - 1), 4 * error + 0.01)


def test_one_class_is_the_same_column_and_the_marginal_is_the_sum(flow):
    x, _ = draw(50, 5)
    every = flow.log_prob(x)
    for k, code in enumerate(flow.classes):
        np.testing.assert_array_equal(flow.log_prob(x, int(code)), every[:, k])
    prior = np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(np.exp(flow.marginal(x, prior)), np.exp(every) @ prior, rtol=1e-12)


def test_results_do_not_depend_on_the_batch(flow, monkeypatch):
    x, _ = draw(200, 6)
    whole = flow.log_prob(x)
    monkeypatch.setattr(conditional_gis, "BATCH_ROWS", 7)
    np.testing.assert_array_equal(flow.log_prob(x), whole)


def test_samples_of_a_class_have_its_moments(flow):
    for code in (1, 3):
        drawn = flow.sample(20_000, code, np.random.default_rng(8))
        x, labels = draw(60_000, 9)
        wanted = x[labels == code]
        # 5 sigma of the mean of the drawn, of the wanted, and of the rows it was fitted on.
        n_fit = int(flow.counts[code - 1])
        sigma = wanted.std(axis=0) * np.sqrt(1 / 20_000 + 1 / len(wanted) + 1 / n_fit)
        np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - wanted.mean(axis=0)), 5 * sigma)
    again = flow.sample(20_000, 3, np.random.default_rng(8))
    np.testing.assert_array_equal(again, drawn)


# ---- posteriors and priors


def test_posteriors_follow_bayes_rule_and_use_the_log_of_the_prior(flow):
    x, _ = draw(300, 10)
    prior = np.array([0.1, 0.2, 0.7])
    density = np.exp(flow.log_prob(x))
    expected = density * prior / (density @ prior)[:, None]
    np.testing.assert_allclose(flow.posterior(x, prior), expected, rtol=1e-10)
    counts = flow.counts
    np.testing.assert_allclose(flow.prior(), (counts + 1) / (counts.sum() + 3))


def test_posteriors_are_nearly_as_good_as_the_best_there_are(flow):
    x, labels = draw(8000, 11)
    joint = truth(x) + np.log(SHARE)
    best = reliability(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)), labels, [1, 2, 3])
    ours = reliability(flow.posterior(x), labels, flow.classes)
    # One sigma of an accuracy near 0.85 with 8000 objects is 0.004; both see the same objects.
    assert ours.accuracy > best.accuracy - 0.012
    assert ours.log_loss < best.log_loss + 0.03
    assert ours.ece < 0.02
    # Equal priors cost accuracy where classes are not equally frequent.
    assert reliability(flow.posterior(x, "uniform"), labels, flow.classes).log_loss > ours.log_loss


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=8))
def test_the_training_prior_is_a_probability_even_of_an_absent_class(counts):
    prior = class_prior("training", np.array(counts))
    assert np.all(prior > 0)
    assert prior.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "prior", ["equal", [0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.4, 0.3], [1.2, -0.1, -0.1]]
)
def test_a_prior_that_is_none_is_refused(flow, prior):
    with pytest.raises(UsageError, match=r"expected 'training', 'uniform', or 3 positive"):
        flow.posterior(np.zeros((1, DIMS)), prior)


def test_the_mix_of_classes_of_other_data_is_found_from_their_densities(flow):
    share = np.array([0.1, 0.3, 0.6])
    x, labels = draw(5000, 12, share)
    found = estimated_prior(flow.log_prob(x))
    assert found.sum() == pytest.approx(1.0)
    # Sampling alone is 0.007; the rest is the error of the densities.
    np.testing.assert_allclose(found, share, atol=0.03)
    kept = reliability(flow.posterior(x), labels, flow.classes)
    mended = reliability(flow.posterior(x, found), labels, flow.classes)
    assert mended.log_loss < kept.log_loss - 0.2


def test_a_calibrated_flow_keeps_its_densities_and_its_choices(flow):
    x, labels = draw(4000, 30)
    warm = flow.calibrated(x, labels)
    np.testing.assert_array_equal(warm.log_prob(x), flow.log_prob(x))
    assert warm.temperature == pytest.approx(1.0, abs=0.1)  # these are honest already
    warm.temperature = 3.0
    first, second = flow.posterior(x), warm.posterior(x)
    np.testing.assert_allclose(second, tempered(first, 3.0), rtol=1e-9)
    np.testing.assert_array_equal(first.argmax(axis=1), second.argmax(axis=1))
    # Another prior comes in by its ratio to the training prior, at any temperature.
    prior = np.array([0.2, 0.2, 0.6])
    odds = warm.posterior(x, prior)[:, 2] / warm.posterior(x, prior)[:, 0]
    expected = second[:, 2] / second[:, 0] * (prior[2] / prior[0])
    np.testing.assert_allclose(odds, expected * warm.prior()[0] / warm.prior()[2], rtol=1e-9)
    back = ConditionalGIS.from_arrays(load(save(warm.to_arrays())), warm.settings)
    np.testing.assert_array_equal(back.posterior(x), second)


# ---- small and odd classes


def test_a_class_of_ten_is_better_served_than_by_the_pooled_density():
    """The rule for small classes, on the mean of several draws of ten members."""
    gains = []
    for seed in range(4):
        x, labels = draw(1500, 20 + seed, np.array([0.6, 0.4, 0.0]))
        ten, theirs = draw(10, 40 + seed, np.array([0.0, 0.0, 1.0]))
        rows, codes = np.concatenate([x, ten]), np.concatenate([labels, theirs])
        settings = replace(SETTINGS, n_layers=5)
        held_out = draw(600, 60 + seed, np.array([0.6, 0.4, 0.0]))
        own = ConditionalGIS.fit(rows, codes, settings, *held_out)
        pooled = ConditionalGIS.fit(rows, codes, replace(settings, min_members=11), *held_out)
        assert own.pooled.tolist() == [False, False, False]
        assert pooled.pooled.tolist() == [False, False, True]
        assert own.n_layers[2] == 0  # no validation rows of its own: the affine start
        test, _ = draw(1000, 80 + seed, np.array([0.0, 0.0, 1.0]))
        gains.append(np.mean(own.log_prob(test, 3) - pooled.log_prob(test, 3)))
    assert np.mean(gains) > 0.3
    assert np.min(gains) > -0.3


def test_a_class_below_the_least_number_has_the_pooled_density_and_is_marked():
    x, labels = draw(2000, 13)
    labels[np.flatnonzero(labels == 3)[4:]] = 0
    settings = replace(SETTINGS, n_layers=5, classes=(1, 2, 3, 5))
    flow = ConditionalGIS.fit(x, labels, settings, *draw(500, 14))
    assert flow.counts.tolist()[2:] == [4, 0]
    assert flow.pooled.tolist() == [False, False, True, True]
    test, _ = draw(50, 15)
    found = flow.log_prob(test)
    big = flow.counts[:2] / flow.counts[:2].sum()
    # The pooled density is the mean of the own ones; the big classes differ from theirs by the
    # doubt of 3 rows in a thousand.
    np.testing.assert_allclose(found[:, 2], logsumexp(found[:, :2], axis=1, b=big), atol=0.01)
    np.testing.assert_array_equal(found[:, 2], found[:, 3])
    assert flow.sample(5, 5, np.random.default_rng(0)).shape == (5, DIMS)


def test_objects_of_no_class_are_scored_but_not_fitted_on():
    x, labels = draw(2000, 16)
    stray = np.full((300, DIMS), 50.0) + np.random.default_rng(1).normal(size=(300, DIMS))
    settings = replace(SETTINGS, n_layers=3)
    held_out = draw(500, 17)
    alone = ConditionalGIS.fit(x, labels, settings, *held_out)
    joined = ConditionalGIS.fit(
        np.concatenate([x, stray]), np.append(labels, np.zeros(300, int)), settings, *held_out
    )
    assert joined.classes.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(alone.log_prob(x), joined.log_prob(x))
    far = joined.log_prob(stray)
    assert np.isfinite(far).all()
    assert far.max() < joined.log_prob(x).max(axis=1).mean() - 50


def test_an_outlier_of_a_class_does_not_get_an_infinite_density_anywhere(flow):
    """Tails that only widen: far rows stay finite and less probable the farther they are."""
    far = np.outer([10.0, 100.0, 1e4, 1e6], [1.0, -1.0, 0.5])
    found = flow.log_prob(far)
    assert np.isfinite(found).all()
    assert np.all(np.diff(found, axis=0) < 0)


# ---- fitting


def test_fits_are_the_same_bytes_and_leave_the_rows_alone(flow):
    x, labels = draw(6000, 0)
    before = x.copy()
    again = ConditionalGIS.fit(x, labels, SETTINGS, *draw(2000, 1))
    np.testing.assert_array_equal(x, before)
    assert save(again.to_arrays()) == save(flow.to_arrays())
    other = fit(settings=replace(SETTINGS, seed=4))
    assert save(other.to_arrays()) != save(flow.to_arrays())


def test_a_stored_flow_gives_the_same_numbers(flow):
    settings = ConditionalSettings.from_json(json.loads(json.dumps(flow.settings.to_json())))
    assert settings == flow.settings
    back = ConditionalGIS.from_arrays(load(save(flow.to_arrays())), settings)
    x, _ = draw(100, 18)
    np.testing.assert_array_equal(back.log_prob(x), flow.log_prob(x))
    np.testing.assert_array_equal(back.n_layers, flow.n_layers)
    arrays = flow.to_arrays()
    del arrays["splines_2"]
    with pytest.raises(SpectraScaleError, match="splines_2"):
        ConditionalGIS.from_arrays(arrays, settings)


def test_each_class_keeps_the_layers_its_validation_rows_want(flow):
    scores = flow.history[:, :, 1]
    np.testing.assert_array_equal(flow.n_layers, np.nanargmax(scores, axis=0))
    # A Gaussian needs no layer; the curved class needs many.
    assert flow.n_layers[0] < flow.n_layers[1]
    fixed = fit(settings=replace(SETTINGS, n_layers=4, early_stop=False))
    assert fixed.n_layers.tolist() == [4, 4, 4]
    x, labels = draw(3000, 0)
    unjudged = ConditionalGIS.fit(x, labels, replace(SETTINGS, n_layers=2, early_stop=False))
    assert np.isnan(unjudged.history[:, :, 1]).all()


def test_half_precision_input_is_taken_as_it_is(flow):
    x, _ = draw(20, 19)
    small = x.astype(np.float16)
    np.testing.assert_array_equal(flow.log_prob(small), flow.log_prob(small.astype("f8")))


def test_what_cannot_be_fitted_is_refused_in_words():
    x, labels = draw(400, 0)
    held_out = draw(100, 1)
    one = np.ones_like(labels)
    with pytest.raises(SpectraScaleError, match="two classes with 10"):
        ConditionalGIS.fit(x, one, SETTINGS, *held_out)
    with pytest.raises(SpectraScaleError, match="at least 50 rows"):
        ConditionalGIS.fit(x[:40], labels[:40], SETTINGS, *held_out)
    with pytest.raises(UsageError, match="early_stop needs validation"):
        ConditionalGIS.fit(x, labels, SETTINGS)
    with pytest.raises(UsageError, match="one integer a row"):
        ConditionalGIS.fit(x, labels.astype(float), SETTINGS, *held_out)
    broken = x.copy()
    broken[3, 1] = np.nan
    with pytest.raises(SpectraScaleError, match="first at row 3"):
        ConditionalGIS.fit(broken, labels, SETTINGS, *held_out)
    broken = x.copy()
    broken[:, 2] = 1.0
    with pytest.raises(SpectraScaleError, match="singular"):
        ConditionalGIS.fit(broken, labels, SETTINGS, *held_out)
    broken[:, 2] = labels
    with pytest.raises(SpectraScaleError, match="No class has any spread"):
        ConditionalGIS.fit(broken, labels, SETTINGS, *held_out)
    with pytest.raises(UsageError, match="step must lie"):
        ConditionalGIS.fit(x, labels, replace(SETTINGS, step=0.0), *held_out)


def test_questions_it_cannot_answer_are_refused_in_words(flow):
    with pytest.raises(UsageError, match="found label 9"):
        flow.log_prob(np.zeros((1, DIMS)), 9)
    with pytest.raises(SpectraScaleError, match="shape"):
        flow.log_prob(np.zeros((1, DIMS + 1)))


# ---- reliability


def posteriors(n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    chance = rng.dirichlet([1.0, 2.0, 0.5], n)
    labels = np.array([rng.choice(3, p=row) for row in chance]) + 1
    return chance, labels


def test_scores_are_those_of_scikit_learn():
    chance, labels = posteriors()
    found = reliability(chance, labels, [1, 2, 3])
    best = chance.argmax(axis=1) + 1
    assert found.accuracy == pytest.approx(accuracy_score(labels, best))
    assert found.log_loss == pytest.approx(sklearn_log_loss(labels, chance), rel=1e-9)
    brier = sum(brier_score_loss(labels == k + 1, chance[:, k]) for k in range(3))
    assert found.brier == pytest.approx(brier)
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, best))
    share, stated = sklearn_curve(labels == 2, chance[:, 1], n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found.by_class[1].stated, stated, rtol=1e-12)
    np.testing.assert_allclose(found.by_class[1].observed, share, rtol=1e-12)


def test_honest_probabilities_lie_within_their_intervals():
    chance, labels = posteriors(20_000, 1)
    curve = reliability(chance, labels, [1, 2, 3]).by_class[0]
    inside = (curve.low <= curve.stated) & (curve.stated <= curve.high)
    # 68 % of ten bins: fewer than four has a chance of 2 %, and this draw is fixed.
    assert inside.sum() >= 4
    # Ten bins of 2000: the mean |error| of a share p is 0.8 sqrt(p (1 - p) / 2000) < 0.009.
    assert curve.error < 0.015


def test_a_temperature_mends_probabilities_that_are_too_sure():
    chance, labels = posteriors(20_000, 2)
    sure = tempered(chance, 0.5)
    found = fit_temperature(sure, labels, [1, 2, 3])
    assert found == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(tempered(sure, 2.0), chance, atol=1e-9)
    before, after = (reliability(p, labels, [1, 2, 3]) for p in (sure, tempered(sure, found)))
    assert after.ece < 0.3 * before.ece
    assert after.accuracy == before.accuracy


@pytest.mark.parametrize("n", [0, 1, 3, 25])
def test_curves_of_hardly_any_objects_have_as_many_bins_as_they_can_fill(n):
    curve = calibration_curve(np.linspace(0, 1, n), np.arange(n) % 2 == 0)
    assert curve.count.sum() == n
    assert len(curve.count) == max(min(n, 10), 1)
    assert np.isnan(curve.error) == (n == 0)


def test_objects_of_no_class_are_not_scored():
    chance, labels = posteriors(100)
    labels[:50] = 0
    assert reliability(chance, labels, [1, 2, 3]).n == 50
    with pytest.raises(UsageError, match="no object of the classes"):
        reliability(chance, np.zeros(100, int), [1, 2, 3])
