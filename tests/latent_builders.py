"""Noisy spectra of known truth, and a small auto-encoder that was trained on such."""

import numpy as np
import torch

from spectra_scale.models.autoencoder import Architecture, seeded_autoencoder
from spectra_scale.models.baseline import fit_weighted_pca
from spectra_scale.models.initialise import start_from_components
from spectra_scale.models.losses import chi2
from spectra_scale.models.normalise import Normalisation
from spectra_scale.spectrum.covariance import correlated_noise


def smooth_spectra(seed, n, n_pixels=400, snr=25.0, hidden=None, blue=None):
    """Continua of differing slope with a line, noise free; the blue end of each is missing."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, n_pixels)
    drawn = np.column_stack([rng.normal(0, 0.4, n), rng.uniform(0, 1.5, n), rng.normal(0, 0.2, n)])
    slope, line, curve = (drawn if hidden is None else hidden).T[:, :, None]
    shape = (
        1 + slope * (x - 0.5) + line * np.exp(-(((x - 0.6) / 0.02) ** 2)) + curve * np.sin(5 * x)
    )
    ivar = np.full(shape.shape, (snr / 5) ** 2)
    missing = rng.integers(0, n_pixels // 10, n) if blue is None else blue
    ivar[np.arange(n_pixels) < missing[:, None]] = 0
    return np.where(ivar > 0, 5 * shape, 0).astype("f4"), ivar.astype("f4")


def noisy_spectra(seed, n, n_pixels=400, rho=0.1, **kinds):
    """The same with noise: flux, ivar and the correlation of neighbours."""
    flux, ivar = smooth_spectra(seed, n, n_pixels, **kinds)
    correlation = np.full((n, n_pixels - 1), rho, "f4")
    noise = correlated_noise(ivar, correlation, np.random.default_rng(seed + 1))
    return flux + noise, ivar, correlation


def trained_model(n_pixels=400, n_latent=3, steps=40):
    """From the linear start, a few steps of training: no projection any more."""
    flux, ivar, _ = noisy_spectra(11, 300, n_pixels)
    fed = Normalisation().apply(flux, ivar)
    linear = fit_weighted_pca(fed.flux, fed.ivar, n_latent, seed=0)
    scale = linear.coefficients(fed.flux, fed.ivar).std(axis=0)
    model = seeded_autoencoder(Architecture(n_pixels, (64, 32), n_latent), 1)
    start_from_components(model, linear.mean, linear.components, scale)
    x, v = torch.from_numpy(fed.flux), torch.from_numpy(fed.ivar)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        chi2(model(x), x, v).mean().backward()
        optimiser.step()
    return model
