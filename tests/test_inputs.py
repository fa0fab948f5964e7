"""What a model is fed at missing pixels."""

import numpy as np

from spectra_scale.models.autoencoder import Architecture, seeded_autoencoder
from spectra_scale.models.baseline import WeightedPCA
from spectra_scale.models.checkpoint import save_model
from spectra_scale.models.inputs import ModelInputs, load_encoder
from spectra_scale.models.normalise import Normalisation


def low_rank(rng, n=30, n_pixels=50, k=2):
    components = np.linalg.qr(rng.normal(size=(n_pixels, k)))[0].T
    mean = 5 + rng.normal(size=n_pixels)
    flux = mean + rng.normal(size=(n, k)) @ components
    return WeightedPCA(mean, components), flux.astype(np.float32)


def test_the_fill_is_the_truth_where_the_spectra_are_linear():
    rng = np.random.default_rng(1)
    fill, flux = low_rank(rng)
    ivar = np.where(rng.random(flux.shape) < 0.3, 0, 1).astype(np.float32)
    broken = np.where(ivar > 0, flux, np.float32(np.nan))
    found = ModelInputs(Normalisation("none"), fill).apply(broken, ivar)
    # Without noise the coefficients are exact; float32 of numbers near 5.
    np.testing.assert_allclose(found.flux, flux, atol=1e-4)
    np.testing.assert_array_equal(found.ivar, ivar)


def test_the_fill_is_the_float64_reconstruction_however_few_pixels_there_are():
    rng = np.random.default_rng(5)
    fill, flux = low_rank(rng, n=300, n_pixels=400, k=5)
    ivar = rng.uniform(1, 400, flux.shape).astype(np.float32)
    ivar[rng.random(flux.shape) < 0.2] = 0
    for row in range(40):
        ivar[row, row:] = 0  # from no valid pixel to forty
    noisy = np.where(ivar > 0, flux + rng.normal(0, 0.1, flux.shape), 0).astype(np.float32)
    filled = fill.fill_missing(noisy, ivar)
    expected = np.where(ivar > 0, noisy, fill.reconstruct(noisy, ivar))
    # The same in float64, but for the order of sums; rows with few pixels amplify it.
    np.testing.assert_allclose(filled[:40], expected[:40], rtol=1e-5)
    # Sums of 400 float32 terms, and normal equations of a condition of about ten.
    np.testing.assert_allclose(filled, expected, rtol=1e-4, atol=1e-4)


def test_without_a_fill_missing_pixels_are_fed_as_zero():
    rng = np.random.default_rng(2)
    _, flux = low_rank(rng)
    ivar = np.where(rng.random(flux.shape) < 0.3, 0, 1).astype(np.float32)
    found = ModelInputs(Normalisation("none")).apply(flux, ivar)
    assert (found.flux[ivar == 0] == 0).all()
    np.testing.assert_array_equal(found.flux[ivar > 0], flux[ivar > 0])


def test_the_fill_is_stored_with_the_model(tmp_path):
    rng = np.random.default_rng(3)
    fill, flux = low_rank(rng)
    ivar = np.where(rng.random(flux.shape) < 0.3, 0, 1).astype(np.float32)
    model = seeded_autoencoder(Architecture(50, (8,), 2), 1)
    for inputs in (ModelInputs(Normalisation(), fill), ModelInputs(Normalisation())):
        inputs.save(tmp_path)
        save_model(tmp_path, model, inputs.normalisation, {"fill": inputs.fill is not None})
        _, back = load_encoder(tmp_path)
        np.testing.assert_array_equal(back.apply(flux, ivar).flux, inputs.apply(flux, ivar).flux)
