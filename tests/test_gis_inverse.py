"""Layers invert: for any spline, inside the knots and far outside, in loops and on a device."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_checks import chain
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.models.gis import GIS, GISSettings
from spectra_scale.models.gis_directions import random_frame
from spectra_scale.models.gis_layers import Layers
from spectra_scale.models.gis_rows import Whitening
from spectra_scale.models.gis_spline import (
    layer_forward,
    layer_inverse,
    spline_forward,
    spline_inverse,
)
from spectra_scale.models.gis_torch import Place, inverse, transform

EPS = np.finfo(np.float64).eps


@st.composite
def tables(draw: st.DrawFn, n_knots: int | None = None) -> np.ndarray:
    """Any increasing spline whose pieces and slopes differ by up to ten thousand."""
    n = draw(st.integers(2, 12)) if n_knots is None else n_knots
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = 10.0 ** rng.uniform(-3, 1, (2, n - 1))
    starts = rng.uniform(-50, 50, (2, 1))
    edges = np.concatenate([starts, starts + np.cumsum(steps, axis=1)], axis=1)
    return np.stack([*edges, 10.0 ** rng.uniform(-2, 2, n)])


@given(tables(), st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_any_spline_rises_and_inverts(table: np.ndarray, seed: int):
    rng = np.random.default_rng(seed)
    low, high = table[0, 0], table[0, -1]
    u = np.sort(np.r_[rng.uniform(low - 5, high + 5, 50), table[0], low - 1e3, high + 1e3])
    y, slope = spline_forward(u, table)
    assert (np.diff(y) >= 0).all()
    assert (slope > 0).all()
    # Rounding of y, and of the differences that xi is made of, divided by the slope there.
    scale = np.abs(table[:2]).max() + np.abs(u) + np.abs(y)
    error = np.abs(spline_inverse(y, table) - u)
    assert (error <= 50 * EPS * scale * (1 + 1 / slope)).all()


@given(st.data(), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_layer_inverts_on_both_paths(data: st.DataObject, dims: int, seed: int):
    rng = np.random.default_rng(seed)
    n_slices = data.draw(st.integers(1, dims))
    frame = random_frame(dims, n_slices, rng)
    splines = np.stack([data.draw(tables(n_knots=7)) for _ in range(n_slices)])
    x = np.concatenate([rng.uniform(-60, 60, (40, dims)), 1e3 * rng.standard_normal((5, dims))])
    z, logdet = x.copy(), np.zeros(len(x))
    layer_forward(z, frame, splines, logdet)
    back = z.copy()
    layer_inverse(back, frame, splines)
    # Slopes as small as 1e-4 of random splines stretch the rounding of numbers of 1e5.
    scale = np.abs(np.concatenate([z, x])).max() + 100
    slopes = [
        spline_forward(x @ a, table)[1].min() for a, table in zip(frame, splines, strict=True)
    ]
    bound = 100 * EPS * scale * (1 + 1 / min(slopes))
    np.testing.assert_allclose(back, x, atol=bound)
    eye = Whitening(np.zeros(dims), np.eye(dims), np.eye(dims), 0.0)
    layers, place = Layers(frame[None], splines[None]), Place.of("cpu", "float64", None)
    on_device, volume = transform(x, eye, layers, place)
    # The same steps in another order: slopes of up to 1e4 stretch the rounding of u.
    steepest = max(
        float(spline_forward(x @ a, table)[1].max())
        for a, table in zip(frame, splines, strict=True)
    )
    np.testing.assert_allclose(on_device, z, atol=100 * EPS * scale * (1 + steepest))
    np.testing.assert_allclose(volume, logdet, atol=1e-6)
    np.testing.assert_allclose(inverse(z, eye, layers, place), back, atol=2 * bound)


@pytest.fixture(scope="module")
def flow() -> GIS:
    """The paper's flow in all but its number of layers, of data with far outliers."""
    rng = np.random.default_rng(3)
    x = np.concatenate([chain(3000, rng), 1e3 * rng.standard_normal((30, 10))])
    return GIS.fit(x, GISSettings(n_iterations=40, max_steps=20, seed=2))


def errors_of(flow: GIS, **how: str) -> tuple[float, float]:
    """Largest error of a way there and back: of the bulk, and of outliers at |x| of 1e3."""
    rng = np.random.default_rng(4)
    x = np.concatenate([chain(2000, rng), 1e3 * rng.standard_normal((200, 10))])
    back = flow.inverse(flow.transform(x, **how)[0], **how)
    error = np.abs(back - x).max(axis=1)
    return error[:2000].max(), error[2000:].max()


def test_outliers_come_back_to_the_stated_error(flow: GIS):
    # Rounding of numbers up to 4e3, times 40 layers and the slopes of tails: measured 6e-12 in
    # float64; in float32, whose rounding is 5e8 times as coarse, 2e-5 and 2e-3. Margins of ten.
    for how in ({}, {"device": "cpu"}):
        assert max(errors_of(flow, **how)) < 1e-10
    bulk, far = errors_of(flow, device="cpu", precision="float32")
    assert bulk < 3e-4
    assert 1e-9 < far < 2e-2  # above the error of float64: it is another arithmetic


def test_float32_gives_the_density_of_the_bulk_to_a_thousandth(flow: GIS):
    x = chain(2000, np.random.default_rng(6))
    single = flow.log_prob(x, device="cpu", precision="float32")
    # Measured 4e-5: forty layers of 1e-7 each, in sums of a hundred terms.
    np.testing.assert_allclose(single, flow.log_prob(x), atol=1e-3)
