"""Covariances of latents and variances of reconstructions (science.md §6)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.models import uncertainty
from spectra_scale.models.autoencoder import Architecture, encode, seeded_autoencoder
from spectra_scale.models.baseline import WeightedPCA, fit_weighted_pca
from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.normalise import Normalisation
from spectra_scale.models.uncertainty import Propagation, reconstruction_variance
from spectra_scale.spectrum.covariance import correlated_noise
from spectra_scale.spectrum.noise_kernels import median_response, sandwich

NONE = Normalisation("none")
SMALL = Architecture(40, (16, 8), 3)
#: With so many units some of each layer are active, and no covariance is singular.
WIDE = Architecture(40, (160, 80), 3)


def spectra(seed, n=12, masked=0.2):
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 3, 40)
    basis = np.stack([np.sin(x), np.cos(2 * x), x - 1.5])
    ivar = rng.uniform(20, 400, (n, 40))
    flux = 1 + 0.3 * rng.normal(size=(n, 3)) @ basis + rng.normal(size=(n, 40)) / np.sqrt(ivar)
    ivar[rng.random((n, 40)) < masked] = 0
    return np.where(ivar > 0, flux, 0).astype("f4"), ivar.astype("f4")


def linear_model(seed):
    flux, ivar = spectra(seed + 1000, n=200, masked=0.1)
    return fit_weighted_pca(flux, ivar, 3, seed=0)


def autograd(model, flux, ivar, fill, passes):
    """The same Jacobian by automatic differentiation, in float64, one spectrum at a time."""
    model = model.double()
    found = []
    for f, v in zip(flux.astype(float), ivar.astype(float), strict=True):
        weight, valid = torch.from_numpy(v), torch.from_numpy(v > 0)

        def latents(x, weight=weight, valid=valid):
            fed = torch.where(valid, x, torch.zeros(()).double())
            if fill is not None:
                basis, mean = torch.from_numpy(fill.components), torch.from_numpy(fill.mean)
                normal = (basis * weight) @ basis.T
                ridge = 1e-10 * normal.trace() / len(basis) * torch.eye(len(basis)).double()
                right = (basis * weight) @ (fed - mean)
                guess = mean + torch.linalg.solve(normal + ridge, right) @ basis
                fed = torch.where(valid, fed, guess)
            z = model.encode(fed)
            for _ in range(passes):
                z = model.encode(torch.where(valid, fed, model.decode(z)))
            return z

        found.append(torch.autograd.functional.jacobian(latents, torch.from_numpy(f)).numpy())
    model.float()
    return np.array(found)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_the_jacobian_is_autograds_through_fill_and_inpainting(seed, filled, passes):
    flux, ivar = spectra(seed)
    fill = linear_model(seed % 5) if filled else None
    flux = ModelInputs(NONE, fill).apply(flux, ivar).flux
    model = seeded_autoencoder(SMALL, seed % 7)
    found = Propagation(model, ModelInputs(NONE, fill), passes).jacobian(flux, ivar)
    expected = autograd(model, flux, ivar, fill, passes)
    # The activations are found in float32: an input within 1e-6 of a kink may fall on its other
    # side, so a spectrum in a hundred may differ.
    close = np.isclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert close.all(axis=(1, 2)).mean() > 0.9
    assert not found.transpose(0, 2, 1)[ivar == 0].any()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_covariance_is_the_sandwich_of_float64_matrices(seed):
    flux, ivar = spectra(seed)
    rng = np.random.default_rng(seed)
    rho = rng.uniform(0, 0.5, (len(flux), 39)).astype("f4")
    how = Propagation(seeded_autoencoder(SMALL, 1), ModelInputs(NONE))
    found = how.covariance(flux, ivar, rho)
    jacobian = how.jacobian(flux, ivar).astype(float)
    for i in range(len(flux)):
        sigma = np.where(ivar[i] > 0, 1 / np.sqrt(np.where(ivar[i] > 0, ivar[i], 1)), 0)
        shape = np.eye(40) + np.diag(rho[i], 1) + np.diag(rho[i], -1)
        expected = jacobian[i] @ (shape * np.outer(sigma, sigma)) @ jacobian[i].T
        # Sums of 40 float32 terms.
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-6 * expected.max())
        # Singular where few hidden units are active: then float32 leaves its last digit.
        assert np.linalg.eigvalsh(found[i].astype(float)).min() > -1e-6 * expected.max()


def test_a_spectrum_without_pixels_has_no_noise_and_none_gives_none():
    flux, ivar = spectra(3)
    ivar[2] = 0
    how = Propagation(
        seeded_autoencoder(SMALL, 1), ModelInputs(Normalisation(), linear_model(1)), 1
    )
    found = how.covariance(flux, ivar)
    assert np.isfinite(found).all()
    assert not found[2].any()
    assert how.covariance(flux[:0], ivar[:0]).shape == (0, 3, 3)
    assert how.jacobian(flux[:0], ivar[:0]).shape == (0, 3, 40)


def test_covariances_do_not_depend_on_batches():
    flux, ivar = spectra(4, n=300)
    how = Propagation(seeded_autoencoder(SMALL, 1), ModelInputs(NONE))
    whole = how.covariance(flux, ivar)
    parts = np.concatenate(
        [how.covariance(flux[:7], ivar[:7]), how.covariance(flux[7:], ivar[7:])]
    )
    # Matrix products of other shapes add in another order.
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-6 * whole.max())


@pytest.mark.parametrize(("filled", "passes"), [(False, 0), (True, 0), (False, 1), (True, 1)])
def test_pulls_over_noise_realisations_of_known_truth_have_width_one(filled, passes):
    """Monte Carlo: what noise does to latents, beside what is said of it."""
    n = 4000
    truth, ivar = (np.repeat(a, n, axis=0) for a in spectra(5, n=1))
    ivar *= 25  # noise so small that the network is linear over it
    rho = np.full((n, 39), 0.35, "f4")
    noise = correlated_noise(ivar, rho, np.random.default_rng(6))
    inputs = ModelInputs(NONE, linear_model(2) if filled else None)
    model = seeded_autoencoder(WIDE, 2)

    def latents(flux):
        return encode(model, inputs.apply(flux, ivar).flux, ivar, inpaint_passes=passes).latents

    moved = (latents(truth + noise) - latents(truth)).astype(float)
    how = Propagation(model, inputs, passes)
    said = how.covariance(inputs.apply(truth, ivar).flux[:1], ivar[:1], rho[:1])[0].astype(float)
    whitened = np.linalg.solve(np.linalg.cholesky(said), moved.T)
    # The width of n pulls has sigma 1/√(2n), and the whitened ones are independent.
    np.testing.assert_allclose(whitened.std(axis=1), 1, atol=5 / np.sqrt(2 * n))
    np.testing.assert_allclose(np.corrcoef(whitened), np.eye(3), atol=5 / np.sqrt(n))
    # Without the covariance of neighbours they would not be: it is worth a tenth, either way.
    alone = how.covariance(inputs.apply(truth, ivar).flux[:1], ivar[:1])[0]
    assert np.abs(moved.std(axis=0) / np.sqrt(np.diag(alone)) - 1).max() > 5 / np.sqrt(2 * n)


def test_the_variance_of_a_reconstruction_is_its_scatter():
    n = 4000
    model = seeded_autoencoder(SMALL, 3)
    latents = np.repeat(np.float32([[0.3, -0.2, 0.9]]), n, axis=0)
    root = 1e-3 * np.array([[1, 0, 0], [0.5, 2, 0], [-1, 0.3, 0.7]])
    covariance = np.repeat((root @ root.T)[None].astype("f4"), n, axis=0)
    said = reconstruction_variance(model, latents[:3], covariance[:3])
    assert said.shape == (3, 40)
    moved = latents + np.random.default_rng(1).normal(size=(n, 3)) @ root.T
    with torch.inference_mode():
        scatter = model.decode(torch.from_numpy(moved.astype("f4"))).numpy().std(axis=0)
    np.testing.assert_allclose(np.sqrt(said[0]), scatter, rtol=5 / np.sqrt(2 * n))
    # Along a direction that has no noise there is none.
    flat = np.zeros((1, 3, 3), "f4")
    assert not reconstruction_variance(model, latents[:1], flat).any()


def test_products_in_bfloat16_change_a_covariance_by_less_than_a_hundredth():
    flux, ivar = spectra(8, n=60)
    model = seeded_autoencoder(Architecture(40, (160, 80), 5), 1)
    exact = Propagation(model, ModelInputs(NONE)).covariance(flux, ivar)
    rough = Propagation(model, ModelInputs(NONE), precision="bfloat16").covariance(flux, ivar)
    sigma = np.sqrt(np.diagonal(exact, axis1=1, axis2=2))
    # Three roundings of 2^-9 a term, over sums of many terms of either sign.
    assert np.abs(np.sqrt(np.diagonal(rough, axis1=1, axis2=2)) / sigma - 1).max() < 0.01


@pytest.mark.parametrize("given", ["nothing", "neighbours", "median", "both"])
def test_a_gpu_would_add_up_what_the_compiled_loops_do(given):
    """The products that other devices use, here on the CPU's tensors."""
    flux, ivar = spectra(11)
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(len(flux), 3, 40)).astype("f4")
    jacobian.transpose(0, 2, 1)[ivar == 0] = np.nan  # a missing pixel's means nothing
    rho = (
        rng.uniform(0, 0.5, (len(flux), 39)).astype("f4")
        if given in {"neighbours", "both"}
        else None
    )
    scaling = (flux, median_response(flux, ivar)) if given in {"median", "both"} else None
    ours = sandwich(jacobian, ivar, rho, scaling)
    theirs = uncertainty._sandwich_on_device(torch.from_numpy(jacobian), ivar, rho, scaling)
    # Sums of 40 float32 terms in another order.
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(ours).max())


def test_a_gpu_would_follow_the_fill_as_the_compiled_loops_do():
    flux, ivar = spectra(12)
    rows = torch.randn(len(flux), 3, 40, generator=torch.Generator().manual_seed(1))
    fill = linear_model(1)
    basis = torch.from_numpy(fill.components).float()
    how = Propagation(seeded_autoencoder(SMALL, 1), ModelInputs(NONE, fill))
    ours = how._through_fill(rows.clone(), torch.from_numpy(ivar))
    theirs = uncertainty._follow_on_device(rows, torch.from_numpy(ivar), basis)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_fill_of_all_pixels_is_differentiable_where_only_few_are_valid():
    flux, ivar = spectra(10, n=4)
    ivar[:, 2:] = 0  # two valid pixels for three components
    fill = WeightedPCA(
        np.zeros(40), np.linalg.qr(np.random.default_rng(0).normal(size=(40, 3)))[0].T
    )
    found = Propagation(seeded_autoencoder(SMALL, 1), ModelInputs(NONE, fill)).covariance(
        flux, ivar
    )
    assert np.isfinite(found).all()
