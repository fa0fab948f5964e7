"""A network that starts from components is the projection on them."""

import numpy as np
import pytest
import torch

from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.autoencoder import Architecture, seeded_autoencoder
from spectra_scale.models.initialise import start_from_components


def test_the_start_is_the_projection_on_the_components():
    rng = np.random.default_rng(3)
    n_pixels, k = 40, 3
    components = np.linalg.qr(rng.normal(size=(n_pixels, k)))[0].T
    mean, scale = rng.normal(size=n_pixels), np.array([3.0, 1.0, 0.2])
    model = seeded_autoencoder(Architecture(n_pixels, (16, 11), k), 1)
    start_from_components(model, mean, components, scale)
    x = rng.normal(size=(20, n_pixels))
    coefficients = (x - mean) @ components.T
    with torch.no_grad():
        latents = model.encode(torch.as_tensor(x, dtype=torch.float32)).numpy()
        recon = model(torch.as_tensor(x, dtype=torch.float32)).numpy()
    # float32 sums of 40 terms of order 1, through six layers.
    np.testing.assert_allclose(latents, coefficients / scale, atol=1e-4)
    np.testing.assert_allclose(recon, mean + coefficients @ components, atol=1e-4)


def test_every_weight_can_still_learn():
    rng = np.random.default_rng(4)
    components = np.linalg.qr(rng.normal(size=(30, 2)))[0].T
    model = seeded_autoencoder(Architecture(30, (12, 9), 2), 1)
    start_from_components(model, np.ones(30), components, np.ones(2))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in model.parameters()]
    x = torch.as_tensor(rng.normal(size=(64, 30)) ** 2, dtype=torch.float32)
    for _ in range(5):
        optimiser.zero_grad()
        ((model(x) - x) ** 2).mean().backward()
        optimiser.step()
    # Units that began with no say have one after the first step, and learn from the second.
    for old, new in zip(before, model.parameters(), strict=True):
        assert (old != new).float().mean() > 0.5


def test_too_narrow_layers_are_refused():
    model = seeded_autoencoder(Architecture(30, (12, 3), 2), 1)
    with pytest.raises(SpectraScaleError, match="at least 4 units"):
        start_from_components(model, np.ones(30), np.eye(2, 30), np.ones(2))
