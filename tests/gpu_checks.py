"""What has to hold on any device; run by test_gis_gpu.py and by ``benchmarks/gpu.py --checks``.

Every check takes a device of torch and compares with the processor's own path. They need torch,
numpy, scipy and numba alone.
"""

from __future__ import annotations

import numpy as np
import torch

from spectra_scale.models.autoencoder import Architecture, encode, seeded_autoencoder
from spectra_scale.models.batches import VirtualStreams
from spectra_scale.models.gis import GIS, GISSettings
from spectra_scale.models.gis_directions import HostSample, random_frame
from spectra_scale.models.gis_torch import Place, TorchSample
from spectra_scale.models.loading import ArrayRows
from spectra_scale.models.records import EpochRecord
from spectra_scale.models.training import SingleProcess, TrainSettings, train

SETTINGS = GISSettings(n_iterations=3, max_steps=30, shrinkage=(0.3, 0.3), seed=3)


def chain(n: int, rng: np.random.Generator, dims: int = 10) -> np.ndarray:
    """Each coordinate bends and stretches with the one before; every third has heavy tails."""
    x = rng.standard_normal((n, dims))
    x[:, ::3] = rng.standard_t(5, (n, len(range(0, dims, 3))))
    for d in range(1, dims):
        before = np.clip(x[:, d - 1], -4, 4)
        x[:, d] = x[:, d] * np.exp(0.4 * np.tanh(before)) + 0.4 * before**2 + np.sin(1.5 * before)
    return x


def spectra(n: int, seed: int = 0, n_pixels: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Smooth normalised spectra with lines, of unit median, and their ivar; 6 % is missing."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, 1.0, n_pixels, dtype=np.float32)
    waves = np.stack([np.sin(np.pi * k * t + k) for k in range(1, 7)]).astype("f4")
    centres = rng.uniform(0.1, 0.9, 6).astype("f4")
    lines = np.exp(-0.5 * ((t - centres[:, None]) / 0.004) ** 2).astype("f4")
    state = rng.standard_normal((n, 4)).astype("f4")
    mixing = rng.standard_normal((4, 12)).astype("f4")
    parts = np.tanh(state @ mixing)
    flux = 0.15 * parts[:, :6] @ waves + np.exp(parts[:, 6:] - 1.0) @ lines
    flux += 1.0 + 0.3 * state[:, :1] * (t - 0.5)
    ivar = np.exp(rng.normal(5.0, 0.5, (n, 1))).astype("f4") * np.ones(n_pixels, dtype="f4")
    flux += rng.standard_normal((n, n_pixels), dtype="f4") / np.sqrt(ivar)
    ivar[rng.random((n, n_pixels), dtype="f4") < 0.02] = 0
    edges = rng.integers(0, 80, n)
    ivar[np.arange(n_pixels) < edges[:, None]] = 0
    return np.where(ivar > 0, flux, 0).astype("f4"), ivar


def flow_is_the_same(device: str) -> None:
    """A flow fitted on the processor gives the same on a device."""
    rng = np.random.default_rng(0)
    x = chain(1000, rng)
    flow = GIS.fit(x, SETTINGS)
    held_out = np.concatenate([chain(2000, rng), 1e3 * rng.standard_normal((20, 10))])
    given = held_out.copy()
    z, logdet = flow.transform(held_out)
    on_device, volume = flow.transform(held_out, device=device)
    # Three layers of float64 at |z| up to 1e3: 1e-13 a layer, stretched by slopes of the tails.
    np.testing.assert_allclose(on_device, z, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(volume, logdet, rtol=0, atol=1e-9)
    np.testing.assert_allclose(flow.inverse(z, device=device), flow.inverse(z), atol=1e-9)
    np.testing.assert_array_equal(held_out, given)
    np.testing.assert_array_equal(z, flow.transform(given)[0])


def search_agrees(device: str) -> None:
    """Objective and gradient of the direction search are those of the processor."""
    rng = np.random.default_rng(4)
    x = chain(3000, rng)
    x[:40] = x[40:80]  # repeated rows: ties in every projection
    frame = random_frame(10, 8, rng)
    weights = rng.uniform(0.1, 2.0, len(x))
    for mass in (None, weights / weights.mean()):
        here = HostSample(x, mass)
        place = Place.of(device, "float64", None)
        there = TorchSample(place.tensor(x.T), None if mass is None else place.tensor(mass))
        point, other = here.at(frame), there.at(frame)
        # Sums of 24,000 terms in another order; values closer than 1e-7 may swap their ranks.
        assert abs(other.score - point.score) < 1e-10 * point.score
        slopes = here.slopes(point)
        np.testing.assert_allclose(
            there.slopes(other), slopes, rtol=0, atol=1e-6 * np.abs(slopes).max()
        )
        np.testing.assert_allclose(there.distances(other), here.distances(point), rtol=1e-9)


def fit_agrees(device: str) -> None:
    """Fits on both differ by rounding, which the search amplifies: likelihoods agree."""
    rng = np.random.default_rng(1)
    x, held_out = chain(2000, rng), chain(2000, rng)
    here, there = GIS.fit(x, SETTINGS, held_out), GIS.fit(x, SETTINGS, held_out, device=device)
    # Two ends of one ascent differ by far less than the layers bring (1.5 nats here).
    assert here.history[-1].validation_mean > here.history[0].validation_mean + 0.5
    assert abs(here.history[-1].validation_mean - there.history[-1].validation_mean) < 0.05
    recorded = there.history[-1].validation_mean
    assert abs(float(np.mean(there.log_prob(held_out))) - recorded) < 1e-9  # rounding


def fit_repeats(device: str) -> None:
    """The same seed gives the same bits on one device, in any batch."""
    x = chain(1000, np.random.default_rng(2))
    first = GIS.fit(x, SETTINGS, device=device)
    for batch in (None, 300):
        again = GIS.fit(x, SETTINGS, device=device, batch=batch)
        for name, values in first.to_arrays().items():
            np.testing.assert_array_equal(again.to_arrays()[name], values, err_msg=name)
    whole = first.log_prob(x, device=device)
    np.testing.assert_array_equal(first.log_prob(x, device=device, batch=77), whole)


def training_is_finite(device: str) -> None:
    """One epoch of the auto-encoder lowers χ², as it does on the processor."""
    flux, ivar = (torch.from_numpy(v) for v in spectra(600, n_pixels=120))
    settings = TrainSettings(epochs=1, batch_size=32, seed=1)
    reached: dict[str, EpochRecord] = {}
    for place in ("cpu", device):
        model = seeded_autoencoder(Architecture(120, (64, 32), 4), 1).to(place)
        source = ArrayRows(flux.to(place), ivar.to(place))

        def keep(record: EpochRecord, _: object, place: str = place) -> None:
            reached[place] = record

        train(
            *(model, source, VirtualStreams(np.arange(500), 256, 0), np.arange(500, 600)),
            *(settings, SingleProcess()),
            on_epoch=keep,
        )
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    ours, theirs = reached[device].validation_chi2, reached["cpu"].validation_chi2
    # The same batches in float32; sixteen steps amplify rounding of 1e-6 little.
    assert abs(ours - theirs) < 0.01 * theirs


def encode_is_the_same(device: str) -> None:
    """Latents and χ² of spectra are those of the processor, to float32."""
    flux, ivar = spectra(300, n_pixels=120)
    model = seeded_autoencoder(Architecture(120, (64, 32), 4), 1)
    here = encode(model, flux, ivar, want_reconstruction=True)
    there = encode(model.to(device), flux, ivar, want_reconstruction=True)
    # Products of float32 with 120 terms, summed in another order.
    np.testing.assert_allclose(there.latents, here.latents, atol=2e-5)
    np.testing.assert_allclose(there.reconstruction, here.reconstruction, atol=2e-5)
    np.testing.assert_allclose(there.chi2, here.chi2, rtol=1e-4)


ALL = (
    search_agrees,
    flow_is_the_same,
    fit_agrees,
    fit_repeats,
    training_is_finite,
    encode_is_the_same,
)
