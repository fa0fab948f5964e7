"""Pulls of latents, and the factors that are found from them (science.md §6)."""

import numpy as np
import pytest
from latent_builders import noisy_spectra, trained_model

from spectra_scale.models.baseline import fit_weighted_pca
from spectra_scale.models.calibration import Calibration, Pulls, noise_pulls, repeat_pulls
from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.normalise import Normalisation, masked_median
from spectra_scale.models.uncertainty import Propagation
from spectra_scale.spectrum.noise_kernels import median_response

NOTHING = Pulls(np.empty((0, 3)), np.empty(0))


@pytest.fixture(scope="module")
def model():
    return trained_model()


def normal_pulls(n, width, seed=0):
    root = np.array([[1.0, 0, 0], [0.5, 1, 0], [0.2, -0.4, 2]])
    drawn = np.random.default_rng(seed).normal(size=(n, 3)) @ root.T * width
    return drawn.astype("f4"), np.repeat((root @ root.T)[None], n, axis=0).astype("f4")


def correlations(covariance):
    root = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return covariance / root[:, :, None] / root[:, None]


def test_pulls_of_gaussian_differences_have_the_width_they_were_given():
    pulls = Pulls.of(*normal_pulls(20_000, 1.3))
    # A percentile range of n pulls has sigma 0.93/√n (three latents add, but are correlated).
    assert pulls.width == pytest.approx(1.3, abs=5 * 0.93 * 1.3 / np.sqrt(20_000))
    # Squared lengths in the metric of the covariance: χ² of three numbers, over three.
    assert pulls.distance.mean() == pytest.approx(1.69, rel=5 * np.sqrt(2 / 60_000))
    assert not len(Pulls.of(*normal_pulls(0, 1.0)))
    assert NOTHING.to_dict() == {"n": 0}


def test_a_wrong_redshift_among_repeats_counts_once():
    difference, covariance = normal_pulls(200, 1.0)
    clean = Pulls.of(difference, covariance).width
    difference[0] = 1e4
    assert Pulls.of(difference, covariance).width == pytest.approx(clean, rel=0.05)


def test_spectra_without_a_covariance_have_no_pull():
    difference, covariance = normal_pulls(10, 1.0)
    covariance[3], covariance[4], difference[5] = 0, np.nan, np.nan
    assert len(Pulls.of(difference, covariance)) == 7


def test_repeats_are_paired_once_each():
    latents = np.array([[0.0], [1.0], [5.0], [3.0], [4.0], [9.0]], "f4")
    covariance = np.full((6, 1, 1), 0.5, "f4")
    found = repeat_pulls(latents, covariance, np.array([7, 2, 7, 2, 7, 1]))
    assert sorted(np.abs(found.values[:, 0])) == [2.0, 5.0]  # 1 and 3 of object 2, 0 and 5 of 7
    assert not len(repeat_pulls(latents, covariance, np.arange(6)))


def test_the_factors_are_the_repeats_where_there_are_fifty_pairs_else_the_realisations():
    wide, narrow = Pulls.of(*normal_pulls(50, 2.0)), Pulls.of(*normal_pulls(500, 1.0))
    found = Calibration.of(wide, narrow, NOTHING)
    assert (found.source, found.factors) == ("repeats", wide.widths)
    few = Pulls.of(*normal_pulls(49, 2.0))
    found = Calibration.of(few, narrow, NOTHING)
    assert (found.source, found.factors) == ("noise realisations", narrow.widths)
    assert found.to_dict()["repeats"]["n"] == 49
    assert Calibration.of(NOTHING, NOTHING, NOTHING).factors == ()


def test_calibrated_pulls_are_as_wide_as_they_should_be_in_every_latent():
    difference, covariance = normal_pulls(4000, np.array([1.5, 2.9, 0.7]))
    found = Calibration.of(Pulls.of(difference, covariance), NOTHING, NOTHING)
    columns = {f"cov_{i}_{j}": covariance[:, i, j] for i in range(3) for j in range(i, 3)}
    after = found.apply(columns | {"latent_0": difference[:, 0]})
    assert after.keys() == columns.keys()
    calibrated = np.empty_like(covariance)
    for i in range(3):
        for j in range(3):
            calibrated[:, i, j] = after[f"cov_{min(i, j)}_{max(i, j)}"]
    assert Pulls.of(difference, calibrated).widths == pytest.approx([1.0] * 3, rel=1e-5)
    # Correlations stay, and with them a positive definite matrix.
    np.testing.assert_allclose(correlations(calibrated), correlations(covariance), rtol=1e-5)


def test_halves_of_pulls_calibrate_each_other():
    found = Pulls.of(*normal_pulls(4000, np.array([1.5, 2.9, 0.7])))
    # Two percentile widths of 2000 pulls each: 0.93/√2000 twice.
    assert found.held_out == pytest.approx([1.0] * 3, abs=4 * 0.93 * np.sqrt(2 / 2000))
    assert found.to_dict()["held out, by latent"] == pytest.approx(found.held_out, abs=1e-4)
    # Pulls that are not of one width are told: the even ones twice as wide as the odd ones.
    values = found.values.copy()
    values[::2] *= 2
    assert min(Pulls(values, found.distance).held_out) > 1.03


@pytest.mark.parametrize(("filled", "passes"), [(False, 0), (True, 0), (False, 1), (True, 1)])
@pytest.mark.parametrize("snr", [10.0, 60.0])
def test_pulls_of_normalised_spectra_of_known_truth_have_width_one(model, filled, passes, snr):
    """Normalisation by a noisy median, fill, inpainting and a network that is not linear."""
    fill = None
    if filled:
        normalised = Normalisation().apply(*noisy_spectra(3, 300)[:2])
        fill = fit_weighted_pca(normalised.flux, normalised.ivar, 3, seed=0)
    how = Propagation(model, ModelInputs(Normalisation(), fill), passes)
    pairs, about_truth = noise_pulls(how, noisy_spectra(5, 700, snr=snr), seed=1, n_draws=4)
    assert len(pairs) == 1400
    # 0.1 is what is promised; a robust width of 1400 pulls has sigma 0.93/√1400 = 0.025.
    assert max(abs(width - 1) for width in pairs.to_dict()["width by latent"]) < 0.1
    # About the truth there is the bias of a noisy spectrum's median as well.
    assert len(about_truth) == 2800
    assert about_truth.width > pairs.width


def test_without_the_noise_of_the_median_errors_would_be_too_small(model):
    flux, ivar, rho = noisy_spectra(5, 200, snr=60.0)
    inputs = ModelInputs(Normalisation())
    fed = inputs.apply(flux, ivar)
    whole = Propagation(model, inputs).covariance(fed.flux, fed.ivar, rho)
    fixed = Propagation(model, ModelInputs(Normalisation("none"))).covariance(
        fed.flux, fed.ivar, rho
    )
    ratio = np.diagonal(whole, axis1=1, axis2=2) / np.diagonal(fixed, axis1=1, axis2=2)
    assert (np.median(ratio, axis=0) > 1.1).all()


@pytest.mark.parametrize(("spread", "tolerance"), [(0.0, 0.15), (1.0, 0.1), (20.0, 0.1)])
def test_the_variance_of_a_median_follows_from_its_response(spread, tolerance):
    """From the same flux in every pixel to fluxes spread over twenty times the noise."""
    rng = np.random.default_rng(2)
    n, sigma = 4000, 0.01
    truth = 1 + spread * sigma * np.linspace(-1, 1, 501)
    flux = (truth + sigma * rng.normal(size=(n, 501))).astype("f4")
    ivar = np.full(flux.shape, sigma**-2, "f4")
    median = masked_median(flux, ivar)
    response = median_response(flux / median[:, None], ivar * median[:, None] ** 2)
    # A thousand float32 terms.
    np.testing.assert_allclose(response.sum(axis=1), 1, rtol=1e-5)
    said = np.sqrt((response.astype(float) ** 2).sum(axis=1).mean()) * sigma
    assert said == pytest.approx(median.std(), rel=tolerance)


def test_the_response_of_a_median_without_noise_is_its_derivative():
    flux = np.float32([[0.5, 0.8, 1.2, 1.9, 3.0], [0.2, 1.0, 1.6, 0.4, 9.0]])
    ivar = np.float32([[1e9, 1e9, 1e9, 1e9, 0], [1e9] * 5])
    expected = np.float32([[0, 0.5, 0.5, 0, 0], [0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(median_response(flux, ivar), expected)
    assert not median_response(flux, np.zeros_like(ivar)).any()
