"""Network, losses, normalisation, encoding and the linear baseline (science.md §6)."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.autoencoder import (
    Architecture,
    AutoEncoder,
    encode,
    seeded_autoencoder,
)
from spectra_scale.models.baseline import fit_weighted_pca
from spectra_scale.models.losses import (
    batch_masked_chi2,
    cap_ivar,
    chi2,
    chi2_valid,
    pixelwise_chi2_sums,
    training_ivar,
)
from spectra_scale.models.normalise import FluxSums, Normalisation, fit_global, masked_median

SMALL = Architecture(40, (16, 8), 3)


def spectra(seed, n=50, n_pixels=40, masked=0.1):
    """Noisy spectra on three smooth directions; missing pixels hold NaN flux and ivar 0."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 3, n_pixels)
    basis = np.stack([np.sin(x), np.cos(2 * x), x - 1.5])
    noise = rng.uniform(0.02, 0.2, (n, n_pixels))
    flux = 3 + rng.normal(size=(n, 3)) @ basis + noise * rng.normal(size=(n, n_pixels))
    ivar = noise**-2
    missing = rng.random((n, n_pixels)) < masked
    ivar[missing], flux[missing] = 0, np.nan
    return flux.astype(np.float32), ivar.astype(np.float32)


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


def test_the_network_of_the_paper_has_2559590_parameters():
    model = AutoEncoder()
    assert sum(p.numel() for p in model.parameters()) == 2_559_590


def test_starting_weights_depend_on_the_seed_alone():
    first = seeded_autoencoder(SMALL, 3)
    torch.rand(7)
    again, other = seeded_autoencoder(SMALL, 3), seeded_autoencoder(SMALL, 4)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_latent_and_output_are_linear_and_can_be_negative():
    model = seeded_autoencoder(SMALL, 0)
    x = torch.randn(200, 40, generator=torch.Generator().manual_seed(1))
    assert (model.encode(x) < 0).any()
    assert (model(x) < 0).any()
    assert torch.equal(model.decode(model.encode(x)), model(x))


def test_an_architecture_survives_json():
    assert Architecture.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    with pytest.raises(UsageError, match="without units"):
        Architecture(0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2, 1.0]))
@settings(max_examples=20, deadline=None)
def test_both_chi2_agree_with_float64_sums_over_valid_pixels(seed, masked):
    flux, ivar = spectra(seed, n=8, masked=masked)
    recon = np.random.default_rng(seed).normal(3, 1, flux.shape).astype(np.float32)
    valid = ivar > 0
    square = (recon.astype(float) - flux) ** 2 * ivar
    total = np.where(valid, square, 0).sum(axis=1)
    # float32 sums of 40 positive terms: each step rounds by at most 6e-8 of the sum.
    close = {"rtol": 1e-5}
    arrays = tensors(recon, flux, ivar)
    np.testing.assert_allclose(chi2(*arrays).numpy(), total / 40, **close)
    n_valid = np.maximum(valid.sum(axis=1), 1)
    np.testing.assert_allclose(chi2_valid(*arrays).numpy(), total / n_valid, **close)
    expected = total.sum() / max(valid.sum(), 1)
    np.testing.assert_allclose(batch_masked_chi2(*arrays).numpy(), expected, **close)
    per_pixel, count = pixelwise_chi2_sums(*arrays)
    np.testing.assert_allclose(per_pixel.numpy(), np.where(valid, square, 0).sum(0), **close)
    np.testing.assert_array_equal(count.numpy(), valid.sum(axis=0))


def test_equation_2_exceeds_equation_1_by_the_masked_fraction():
    flux, ivar = spectra(0, masked=0.067)
    recon = np.full_like(flux, 3)
    ratio = chi2_valid(*tensors(recon, flux, ivar)) / chi2(*tensors(recon, flux, ivar))
    # Two float32 divisions apart.
    np.testing.assert_allclose(ratio.numpy(), 40 / (ivar > 0).sum(axis=1), rtol=1e-6)


def test_chi2_of_the_truth_with_gaussian_noise_is_one():
    rng = np.random.default_rng(5)
    truth = rng.uniform(1, 2, (400, 500)).astype(np.float32)
    ivar = rng.uniform(1, 400, truth.shape).astype(np.float32)
    flux = (truth + rng.normal(size=truth.shape) / np.sqrt(ivar)).astype(np.float32)
    mean = chi2(*tensors(truth, flux, ivar)).mean().item()
    # χ² of n pixels has variance 2n, so the mean over 2e5 pixels has sigma sqrt(2 / 2e5).
    assert abs(mean - 1) < 5 * np.sqrt(2 / truth.size)


def test_missing_pixels_leak_neither_into_losses_nor_into_gradients():
    flux, ivar = spectra(1)
    recon = torch.full(flux.shape, 3.0, requires_grad=True)
    weights = training_ivar(*tensors(flux, ivar), snr_cap=50.0, variance_scale=1.1)
    chi2(recon, torch.from_numpy(flux), weights).sum().backward()
    assert torch.isfinite(recon.grad).all()
    assert (recon.grad.numpy()[ivar == 0] == 0).all()


def test_no_pixel_keeps_a_signal_to_noise_above_the_cap():
    flux, ivar = spectra(2)
    flux[0, :3], ivar[0, :3] = 0.0, 1e4
    capped = cap_ivar(*tensors(flux, ivar), 20.0).numpy()
    valid = ivar > 0
    snr = np.abs(flux[valid]) * np.sqrt(ivar[valid])
    assert (snr > 20).any()
    new = np.abs(flux[valid]) * np.sqrt(capped[valid])
    # The cap is squared and rooted again in float32.
    np.testing.assert_allclose(new, np.minimum(snr, 20), rtol=1e-6)
    assert (capped[~valid] == 0).all()
    np.testing.assert_array_equal(capped[0, :3], ivar[0, :3])


def test_variance_scale_multiplies_the_variance():
    flux, ivar = tensors(*spectra(2))
    assert training_ivar(flux, ivar, None, 1.0) is ivar
    scaled = training_ivar(flux, ivar, None, 1.1)
    torch.testing.assert_close(1 / scaled[ivar > 0], 1.1 / ivar[ivar > 0])


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.97, 1.0]))
@settings(max_examples=30, deadline=None)
def test_the_masked_median_is_that_of_numpy(seed, masked):
    flux, ivar = spectra(seed, n=20, n_pixels=21, masked=masked)
    for row, median in enumerate(masked_median(flux, ivar)):
        good = flux[row][ivar[row] > 0]
        expected = np.median(good.astype(float)) if len(good) else np.nan
        np.testing.assert_array_equal(median, np.float32(expected))


@pytest.mark.parametrize("normalisation", [Normalisation(), Normalisation("global", 7.3)])
def test_normalisation_leaves_chi2_as_it_is(normalisation):
    flux, ivar = spectra(4)
    done = normalisation.apply(flux, ivar)
    assert done.usable.all()
    assert np.isfinite(done.flux).all()
    recon = np.full_like(flux, 2.5)
    before = chi2(*tensors(recon, flux, ivar))
    after = chi2(*tensors(recon / done.factor[:, None], done.flux, done.ivar))
    # F_rec - F is a difference of numbers near 3 down to 0.02: float32 leaves 1e-5 of it.
    torch.testing.assert_close(after, before, rtol=1e-4, atol=0)
    again = normalisation.apply(flux, ivar, done.factor)
    np.testing.assert_array_equal(again.flux, done.flux)


def test_a_median_normalised_spectrum_has_median_one():
    flux, ivar = spectra(4)
    done = Normalisation().apply(flux, ivar)
    # One float32 division.
    np.testing.assert_allclose(masked_median(done.flux, done.ivar), 1, rtol=2e-7)


def test_spectra_without_a_positive_median_are_flagged_and_weigh_nothing():
    flux, ivar = spectra(4, n=4)
    flux[0], flux[1], ivar[2] = -flux[0], 0, 0
    done = Normalisation().apply(flux, ivar)
    np.testing.assert_array_equal(done.usable, [False, False, False, True])
    assert not done.ivar[:3].any()
    assert not done.flux[:3].any()
    np.testing.assert_array_equal(Normalisation("none").apply(flux, ivar).usable, [1, 1, 0, 1])


def test_global_sums_merge_and_count_masked_zeros():
    flux, ivar = spectra(6)
    whole = FluxSums.of(flux, ivar)
    parts = FluxSums.of(flux[:17], ivar[:17]) + FluxSums.of(flux[17:], ivar[17:])
    assert parts.count == whole.count == flux.size
    expected = np.where(ivar > 0, flux.astype(float), 0).mean()
    # Only the order of float64 additions differs.
    assert fit_global(parts).scale == pytest.approx(expected, rel=1e-12)
    assert Normalisation.from_dict(fit_global(whole).to_dict()) == fit_global(whole)


def test_a_global_normalisation_needs_a_positive_mean():
    with pytest.raises(SpectraScaleError, match="cannot normalise"):
        fit_global(FluxSums(-3.0, 10))
    with pytest.raises(UsageError, match="positive"):
        Normalisation("global", 0.0)


def test_encoding_does_not_depend_on_the_batch_size():
    flux, ivar = spectra(7)
    model = seeded_autoencoder(SMALL, 0)
    whole = encode(model, flux, ivar, want_reconstruction=True)
    parts = encode(model, flux, ivar, 7, want_reconstruction=True)
    # Matrix products of other shapes add in another order.
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    expected = chi2(*tensors(whole.reconstruction, flux, ivar)).numpy()
    # Sums of 40 positive float32 terms, in another order.
    np.testing.assert_allclose(whole.chi2, expected, rtol=1e-5)
    expected = chi2_valid(*tensors(whole.reconstruction, flux, ivar)).numpy()
    np.testing.assert_allclose(whole.chi2_valid, expected, rtol=1e-5)
    assert encode(model, flux, ivar).reconstruction is None


def test_encoding_no_spectra_gives_no_latents():
    nothing = np.empty((0, 40), np.float32)
    assert encode(seeded_autoencoder(SMALL, 0), nothing, nothing).latents.shape == (0, 3)


def test_encoding_another_grid_is_refused():
    flux, ivar = spectra(7, n_pixels=41)
    with pytest.raises(SpectraScaleError, match="spectra of 40 pixels"):
        encode(seeded_autoencoder(SMALL, 0), flux, ivar)


def test_inpainting_feeds_the_reconstruction_at_missing_pixels_only():
    flux, ivar = spectra(8)
    model = seeded_autoencoder(SMALL, 0)
    first = encode(model, flux, ivar, want_reconstruction=True)
    filled = np.where(ivar > 0, flux, first.reconstruction)
    by_hand = encode(model, filled, np.ones_like(ivar))
    inpainted = encode(model, flux, ivar, inpaint_passes=1)
    np.testing.assert_array_equal(inpainted.latents, by_hand.latents)
    complete = spectra(8, masked=0)
    np.testing.assert_array_equal(
        encode(model, *complete, inpaint_passes=2).latents, encode(model, *complete).latents
    )


def test_with_constant_ivar_the_baseline_is_ordinary_pca():
    flux, _ = spectra(9, n=300, masked=0)
    ivar = np.full_like(flux, 4)
    ours = fit_weighted_pca(flux, ivar, 3, seed=0)
    theirs = PCA(3, svd_solver="full").fit(flux.astype(float))
    sign = np.sign((ours.components * theirs.components_).sum(axis=1))
    # The ridge of the normal equations is 1e-10 of their trace, and is met ten times.
    np.testing.assert_allclose(ours.components * sign[:, None], theirs.components_, atol=1e-7)
    expected = theirs.inverse_transform(theirs.transform(flux.astype(float)))
    # The reconstruction is returned in float32.
    np.testing.assert_allclose(ours.reconstruct(flux, ivar), expected, rtol=1e-6)


def test_the_weighted_baseline_reaches_the_noise_where_plain_pca_does_not():
    flux, ivar = spectra(10, n=600, masked=0.15)
    train, held_out = slice(0, 400), slice(400, 600)
    found = fit_weighted_pca(flux[train], ivar[train], 3, seed=0)
    start = fit_weighted_pca(flux[train], ivar[train], 3, seed=0, n_iterations=0)
    achieved = found.chi2(flux[held_out], ivar[held_out])
    plain = start.chi2(flux[held_out], ivar[held_out])
    mean = np.full_like(flux[held_out], flux[ivar > 0].mean())
    nothing = chi2(*tensors(mean, flux[held_out], ivar[held_out])).mean().item()
    assert achieved.chi2_valid.mean() < plain.chi2_valid.mean() < nothing / 20
    # Each spectrum gives up 3 of its 34 valid pixels; 5 sigma of χ² over the held-out pixels,
    # and 1 % for the noise of components learnt from 400 spectra.
    n_valid = (ivar[held_out] > 0).sum()
    expected = 1 - 3 * 200 / n_valid
    assert abs(achieved.chi2_valid.mean() - expected) < 5 * np.sqrt(2 / n_valid) + 0.01


def test_the_baseline_reports_the_chi2_of_its_reconstruction():
    flux, ivar = spectra(11)
    found = fit_weighted_pca(flux, ivar, 2, seed=0)
    recon = found.reconstruct(flux, ivar)
    # float32 residuals: see the normalisation test.
    np.testing.assert_allclose(
        found.chi2(flux, ivar).chi2, chi2(*tensors(recon, flux, ivar)), rtol=1e-3
    )


def test_the_baseline_survives_empty_spectra_and_empty_pixels():
    flux, ivar = spectra(12)
    ivar[3], ivar[:, 5] = 0, 0
    found = fit_weighted_pca(flux, ivar, 3, seed=0)
    recon = found.reconstruct(flux, ivar)
    assert np.isfinite(recon).all()
    np.testing.assert_array_equal(recon[3], found.mean.astype(np.float32))
    assert found.chi2(flux, ivar).chi2_valid[3] == 0


def test_the_baseline_draws_its_rows_by_seed():
    flux, ivar = spectra(13, n=100)
    one = fit_weighted_pca(flux, ivar, 2, seed=1, max_rows=50)
    same = fit_weighted_pca(flux, ivar, 2, seed=1, max_rows=50)
    other = fit_weighted_pca(flux, ivar, 2, seed=2, max_rows=50)
    np.testing.assert_array_equal(one.components, same.components)
    assert not np.array_equal(one.components, other.components)
    with pytest.raises(SpectraScaleError, match="more of both"):
        fit_weighted_pca(flux[:2], ivar[:2], 2, seed=0)
