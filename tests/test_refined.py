"""The refined flow: what it fits, that it inverts, and what it does with bad data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.autoregressive import MaskedLayer
from spectra_scale.models.density import rebuild, settings_json
from spectra_scale.models.gis import GIS, GISSettings
from spectra_scale.models.refined import RefinedFlow, RefinedSettings

QUICK = RefinedSettings(min_steps=200, epochs=1, batch=256, hidden=32, n_layers=2)


def banana(n: int, seed: int) -> np.ndarray:
    """A bent sheet: y = x^2 / 2 + noise, and a third coordinate that is independent."""
    z = np.random.default_rng(seed).standard_normal((n, 3))
    return np.stack([z[:, 0], 0.5 * z[:, 0] ** 2 + 0.3 * z[:, 1], z[:, 2]], axis=1)


def banana_log_prob(x: np.ndarray) -> np.ndarray:
    z = np.stack([x[:, 0], (x[:, 1] - 0.5 * x[:, 0] ** 2) / 0.3, x[:, 2]], axis=1)
    return -0.5 * (z**2).sum(axis=1) - 1.5 * np.log(2 * np.pi) - np.log(0.3)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def flow() -> RefinedFlow:
    return RefinedFlow.fit(banana(4000, 0), QUICK, banana(1000, 1))


def test_a_layer_inverts_and_tells_its_volume():
    generator = torch.Generator().manual_seed(0)
    layer = MaskedLayer(4, 16, generator, backwards=True).double()
    with torch.no_grad():
        for weight in layer.weights:
            weight.add_(
                0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
        layer.frame.add_(0.2 * torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))
    x = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x[0] *= 1e3
    y, logdet = layer(x)
    torch.testing.assert_close(layer.inverse(y), x, rtol=1e-10, atol=1e-10)
    jacobian = torch.stack([torch.autograd.functional.jacobian(
        lambda row: layer(row[None])[0][0], row) for row in x[1:4]])  # fmt: skip
    volume = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(logdet[1:4], volume, rtol=1e-8, atol=1e-8)


def test_a_bent_sheet_is_fitted_better_than_by_plain_gis_and_by_a_gaussian(flow):
    held_out = banana(4000, 2)
    gap = banana_log_prob(held_out).mean() - flow.log_prob(held_out).mean()
    plain = GIS.fit(banana(4000, 0), GISSettings(n_iterations=20), banana(1000, 1))
    assert gap < 0.06
    assert gap < banana_log_prob(held_out).mean() - plain.log_prob(held_out).mean()


def test_far_clusters_are_the_mixtures():
    rng = np.random.default_rng(0)
    means = rng.normal(0, 8, (5, 4))
    draw = means[rng.integers(0, 5, 6000)] + rng.standard_normal((6000, 4))
    flow = RefinedFlow.fit(draw[:4000], QUICK, draw[4000:5000])
    parts = [multivariate_normal(mean, np.eye(4)).pdf(draw[5000:]) for mean in means]
    true = np.log(np.mean(parts, axis=0))
    assert flow.n_components >= 5
    assert true.mean() - flow.log_prob(draw[5000:]).mean() < 0.05


def test_the_flow_inverts_and_its_parts_add_up(flow):
    x = banana(300, 3)
    x[:5] *= 1000  # far outliers
    u, logdet = flow.transform(x)
    np.testing.assert_allclose(flow.inverse(u), x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(flow.mixture.log_prob(u) + logdet, flow.log_prob(x), rtol=1e-10)


def test_the_density_integrates_to_one_and_samples_follow_it():
    x = np.random.default_rng(0).standard_normal((2000, 2)) @ np.array([[1.0, 0.4], [0.0, 0.7]])
    x[:, 1] += 0.5 * x[:, 0] ** 2
    flow = RefinedFlow.fit(x, QUICK)
    axis = np.linspace(-12, 28, 401)
    middle = 0.5 * (axis[1:] + axis[:-1])
    grid = np.stack(np.meshgrid(middle, middle, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.exp(flow.log_prob(grid)).reshape(400, 400) * (axis[1] - axis[0]) ** 2
    assert mass.sum() == pytest.approx(1, abs=2e-3)
    n = 40_000
    drawn = flow.sample(n, np.random.default_rng(0))
    counts, _, _ = np.histogram2d(*drawn.T, bins=[axis[::10], axis[::10]])
    expected = n * mass.reshape(40, 10, 40, 10).sum(axis=(1, 3))
    usual = expected > 20
    pull = (counts - expected)[usual] / np.sqrt(expected[usual])
    assert np.abs(pull).max() < 5


def test_a_row_gives_the_same_in_every_batch(flow):
    x = banana(2500, 5)
    whole, (u, logdet) = flow.log_prob(x), flow.transform(x)
    for rows in (slice(0, 1), slice(7, 30), slice(1000, 2100)):
        assert np.array_equal(flow.log_prob(x[rows]), whole[rows])
        few = flow.transform(x[rows])
        assert np.array_equal(few[0], u[rows])
        assert np.array_equal(few[1], logdet[rows])


def test_the_seed_decides_the_fit_and_inputs_stay_untouched():
    x, validation = banana(500, 0), banana(100, 1)
    kept = x.copy(), validation.copy()
    settings = RefinedSettings(min_steps=30, max_steps=30, hidden=8, n_layers=1, seed=3)
    first, again = (RefinedFlow.fit(x, settings, validation) for _ in range(2))
    assert np.array_equal(x, kept[0])
    assert np.array_equal(validation, kept[1])
    assert np.array_equal(first.log_prob(x), again.log_prob(x))
    other = RefinedSettings(min_steps=30, max_steps=30, hidden=8, n_layers=1, seed=4)
    assert not np.array_equal(first.log_prob(x), RefinedFlow.fit(x, other, validation).log_prob(x))


def test_it_is_never_worse_on_the_validation_rows_than_where_it_began():
    x, validation = banana(60, 0), banana(200, 1)
    flow = RefinedFlow.fit(x, QUICK, validation)
    began = [record.validation_trimmed for record in flow.history if record.step == 0]
    best = max(record.validation_trimmed for record in flow.history)
    assert best >= max(began)
    # The flow that is kept is that of the best look.
    kept = np.sort(flow.log_prob(validation))[1:].mean()
    assert kept == pytest.approx(best, abs=1e-3)


def test_weights_of_0_leave_rows_out():
    rng = np.random.default_rng(0)
    x = np.concatenate([banana(1000, 0), rng.normal(50, 1, (200, 3))])
    weights = np.concatenate([np.ones(1000), np.zeros(200)])
    settings = RefinedSettings(min_steps=20, max_steps=20, hidden=8, n_layers=1)
    weighted = RefinedFlow.fit(x, settings, banana(100, 1), weights=weights)
    without = RefinedFlow.fit(x[:1000], settings, banana(100, 1), weights=weights[:1000])
    np.testing.assert_array_equal(weighted.log_prob(x), without.log_prob(x))


def test_arrays_and_settings_give_the_same_flow_back(flow):
    again = rebuild(flow.to_arrays(), settings_json(flow.settings))
    x = banana(100, 6)
    assert np.array_equal(again.log_prob(x), flow.log_prob(x))
    np.testing.assert_equal(again.to_arrays()["history"], flow.to_arrays()["history"])


def test_it_is_the_same_on_any_number_of_threads():
    settings = RefinedSettings(min_steps=20, max_steps=20, hidden=64, n_layers=2)
    x, before = banana(3000, 0), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            # What training leaves behind: torch then keeps this number whatever OpenMP says.
            torch.set_num_threads(count)
            found.append(RefinedFlow.fit(x, settings, banana(500, 1)).to_arrays())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)


def test_one_wild_row_does_not_own_the_density():
    rng = np.random.default_rng(0)
    x, held_out = rng.standard_normal((2, 2000, 3))
    x[0] = 1e4
    flow = RefinedFlow.fit(x, QUICK, rng.standard_normal((500, 3)))
    true = -0.5 * (held_out**2).sum(axis=1).mean() - 1.5 * np.log(2 * np.pi)
    # One row of 2,000 cannot have a Gaussian of its own, so one of the bulk's grows; a single
    # Gaussian would be 24 nats away.
    assert true - flow.log_prob(held_out).mean() < 0.3


def test_arrays_that_do_not_fit_one_another_are_refused(flow):
    arrays = flow.to_arrays()
    for name, value in (("mean", arrays["mean"][:2]), ("history", np.zeros((3, 2)))):
        with pytest.raises(SpectraScaleError, match="refined flow"):
            RefinedFlow.from_arrays(arrays | {name: value}, flow.settings)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (banana(20, 0), "at least"),
        (np.where(np.arange(3) == 1, 2.0, banana(500, 0)), "constant"),
        (banana(500, 0)[:, [0, 1, 1]], "depend"),
        (np.full((500, 3), np.nan), "NaN"),
        (np.zeros(10), "shape"),
    ],
)
def test_data_that_have_no_density_are_refused(x, match):
    with pytest.raises(SpectraScaleError, match=match):
        RefinedFlow.fit(x, QUICK)


def test_float16_discrete_and_repeated_rows_are_taken():
    x = banana(600, 0)
    settings = RefinedSettings(min_steps=20, max_steps=20, hidden=8, n_layers=1)
    for rows in (x.astype(np.float16), np.round(x), np.repeat(x[:60], 10, axis=0)):
        assert np.isfinite(RefinedFlow.fit(rows, settings).log_prob(rows)).all()


def test_rows_of_another_dimension_and_nonsense_are_refused(flow):
    with pytest.raises(SpectraScaleError, match="shape"):
        flow.log_prob(np.zeros((5, 4)))
    with pytest.raises(UsageError, match="hidden"):
        RefinedFlow.fit(banana(500, 0), RefinedSettings(hidden=0))
    with pytest.raises(UsageError, match="-1"):
        flow.sample(-1, np.random.default_rng(0))
    with pytest.raises(SpectraScaleError, match="refined flow"):
        RefinedFlow.from_arrays({"mean": np.zeros(3)}, flow.settings)
    with pytest.raises(SpectraScaleError, match="method"):
        rebuild(flow.to_arrays(), {"method": "spline"})
    assert flow.log_prob(np.zeros((0, 3))).shape == (0,)
    assert flow.sample(0, np.random.default_rng(0)).shape == (0, 3)
