"""The flow is a density: it inverts, integrates to one, and finds what is not Gaussian."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import multivariate_normal

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.gis import GIS, GISSettings, p_value, trimmed_mean
from spectra_scale.models.gis_directions import (
    AscentSettings,
    normal_quantiles,
    project,
    random_frame,
    search_directions,
    sliced_distance,
    subtract_ranked,
)
from spectra_scale.models.gis_kde import (
    binned_cdf,
    fit_slice,
    gaussian_scores,
    knot_count,
    knot_levels,
    scott_width,
)
from spectra_scale.models.gis_spline import pad_table, shrink, spline_forward, spline_inverse

FAST = GISSettings(n_iterations=25, max_steps=30, shrinkage=(0.3, 0.3), seed=5)


def banana(n: int, rng: np.random.Generator) -> np.ndarray:
    """Two curved coordinates and a Gaussian one, of known density."""
    z = rng.standard_normal((n, 3))
    return np.column_stack([z[:, 0], 0.5 * z[:, 1] + z[:, 0] ** 2, 3.0 + 2.0 * z[:, 2]])


def banana_log_prob(x: np.ndarray) -> np.ndarray:
    z = np.column_stack([x[:, 0], (x[:, 1] - x[:, 0] ** 2) / 0.5, (x[:, 2] - 3.0) / 2.0])
    return -0.5 * (z**2).sum(axis=1) - 1.5 * np.log(2 * np.pi) - np.log(0.5 * 2.0)


@pytest.fixture(scope="module")
def flow() -> GIS:
    return GIS.fit(banana(3000, np.random.default_rng(0)), FAST)


def spline_of_sample(seed: int = 0, n: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u = np.sort(np.concatenate([rng.normal(-2, 0.4, n // 2), rng.normal(1, 1.0, n // 2)]))
    return fit_slice(u, gaussian_scores(n), knot_count(n), "midrank", rng)


def torch_spline(u: torch.Tensor, table: np.ndarray) -> torch.Tensor:
    """The spline of gis.md written a second time, for autograd."""
    x, y, d = (torch.tensor(row) for row in table)
    j = (torch.searchsorted(x, u.detach(), right=True) - 1).clamp(0, len(x) - 2)
    width, height = x[j + 1] - x[j], y[j + 1] - y[j]
    s, xi = height / width, (u - x[j]) / width
    bottom = s + (d[j + 1] + d[j] - 2 * s) * xi * (1 - xi)
    inside = y[j] + height * (s * xi**2 + d[j] * xi * (1 - xi)) / bottom
    left, right = y[0] + d[0] * (u - x[0]), y[-1] + d[-1] * (u - x[-1])
    return torch.where(u <= x[0], left, torch.where(u >= x[-1], right, inside))


# ---- splines


def test_a_spline_inverts_inside_and_outside_its_knots():
    table = spline_of_sample()
    u = np.linspace(table[0, 0] - 50, table[0, -1] + 50, 5001)
    y, slope = spline_forward(u, table)
    assert np.all(np.diff(y) > 0)
    assert np.all(slope > 0)
    # float64 rounding of y at |y| < 100, divided by the smallest slope.
    np.testing.assert_allclose(spline_inverse(y, table), u, atol=1e-13 * 100 / slope.min())


def test_value_and_derivative_of_a_spline_match_autograd():
    table = spline_of_sample()
    u = torch.linspace(float(table[0, 0]) - 3, float(table[0, -1]) + 3, 997, dtype=torch.float64)
    u.requires_grad_()
    value = torch_spline(u, table)
    (derivative,) = torch.autograd.grad(value.sum(), u)
    got, slope = spline_forward(u.detach().numpy(), table)
    # Same formula, other order of operations: some ulp of values of order 10.
    np.testing.assert_allclose(got, value.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(slope, derivative.numpy(), rtol=1e-9)


def test_shrinking_to_the_end_gives_the_identity_and_padding_changes_nothing():
    table = spline_of_sample()
    u = np.linspace(-9, 9, 301)
    np.testing.assert_allclose(spline_forward(u, shrink(table, 1.0, 1.0))[0], u, atol=1e-12)
    padded = pad_table(table, table.shape[1] + 7)
    # On the padded stretch the spline is the straight tail up to rounding.
    np.testing.assert_allclose(
        spline_forward(u, padded)[0], spline_forward(u, table)[0], atol=1e-12
    )


# ---- one slice made Gaussian


def test_the_binned_kernel_cdf_is_the_exact_sum():
    rng = np.random.default_rng(3)
    u = np.concatenate([rng.normal(-3, 0.3, 3000), rng.standard_t(3, 2000), [900.0, -400.0]])
    for width in (0.02, 0.2, scott_width(u)):
        points = np.quantile(u, knot_levels(len(u), 70))
        exact = ndtr((points[:, None] - u) / width).mean(axis=1)
        # 64 cells a kernel width: linear binning and interpolation err by at most 2e-5, and the
        # errors of neighbouring points cancel.
        np.testing.assert_allclose(binned_cdf(u, width, points), exact, atol=1e-5)


def test_a_gaussian_slice_is_left_as_it_is():
    n = 20_000
    u = gaussian_scores(n)
    table = fit_slice(u, u, knot_count(n), "midrank", np.random.default_rng(0))
    grid = np.linspace(-4, 4, 100)
    # Exact quantiles, so only the kernel CDF's curvature between knots is left.
    np.testing.assert_allclose(spline_forward(grid, table)[0], grid, atol=0.01)


@pytest.mark.parametrize("tail", ["midrank", "regression"])
def test_a_slice_becomes_gaussian(tail):
    rng = np.random.default_rng(1)
    n = 20_000
    u = np.sort(rng.gamma(2.0, size=n))
    table = fit_slice(u, gaussian_scores(n), knot_count(n), tail, rng)
    z = spline_forward(u, table)[0]
    # A kernel of width 0.14 standard deviations blurs the sharp edge of the gamma law at 0.
    assert np.sqrt(np.mean((z - gaussian_scores(n)) ** 2)) < 0.1


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0], [-1.0, 0.0, 5.0], list(range(30))])
def test_repeated_values_still_give_an_increasing_spline(values):
    rng = np.random.default_rng(0)
    u = np.sort(rng.choice(values, 500))
    tables = [
        fit_slice(u, gaussian_scores(500), 50, "midrank", np.random.default_rng(9))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(tables[0], tables[1])
    assert tables[0].shape == (3, 50)
    assert np.isfinite(tables[0]).all()
    assert (np.diff(tables[0][:2]) > 0).all()
    assert (tables[0][2] > 0).all()


def test_knot_levels_increase_inside_the_unit_interval():
    for n in (50, 99, 1000, 40_000, 10**6):
        for n_knots in (4, 5, knot_count(n)):
            levels = knot_levels(n, n_knots)
            assert len(levels) == n_knots
            assert (np.diff(levels) > 0).all()
            assert 0 < levels[0] < levels[-1] < 1


# ---- direction search


def test_ranking_by_radix_sort_agrees_with_argsort():
    rng = np.random.default_rng(4)
    values = rng.standard_t(1.5, (3, 4001)) * 10.0
    values[0, :100] = 0.0
    expected = values.copy()
    quantiles = normal_quantiles(values.shape[1])
    for row in expected:
        row[np.argsort(row, kind="stable")] -= quantiles
    got = values.copy()
    total = subtract_ranked(got, quantiles)
    np.testing.assert_array_equal(got, expected)
    assert total == pytest.approx((expected**2).sum(), rel=1e-12)  # order of additions


def test_projection_is_the_matrix_product():
    rng = np.random.default_rng(4)
    frame, rows = rng.standard_normal((3, 6)), rng.standard_normal((6, 100))
    np.testing.assert_allclose(project(frame, rows), frame @ rows, atol=1e-13)  # float64 sums


def test_the_search_finds_a_planted_direction():
    rng = np.random.default_rng(0)
    dims = 6
    planted = random_frame(dims, 1, rng)[0]
    x = rng.standard_normal((5000, dims))
    # Along the planted direction: two narrow peaks of unit variance in all.
    peaks = np.sign(rng.standard_normal(5000)) * 0.95 + 0.3 * rng.standard_normal(5000)
    x += np.outer(peaks - x @ planted, planted)
    best = sliced_distance(x, planted[None], normal_quantiles(5000))[0]
    for n_slices in (1, 2):
        # An ascent ends on the nearest hill, and noise has hills too: one start in two finds the
        # planted one with one direction, four in five with two.
        starts = [np.random.default_rng(seed) for seed in range(12)]
        frames = [search_directions(x, n_slices, start, AscentSettings()) for start in starts]
        heights = [sliced_distance(x, f, normal_quantiles(5000))[0] for f in frames]
        found = frames[int(np.argmax(heights))]
        # Sampling noise of 5000 rows turns the best direction by about 1/sqrt(5000) each way.
        assert abs(found[0] @ planted) > 0.99
        assert max(heights) > 0.95 * best


def test_frames_are_orthonormal(flow):
    eye = np.eye(flow.frames.shape[1])
    for frame in flow.frames:
        np.testing.assert_allclose(frame @ frame.T, eye, atol=1e-13)  # QR in float64


# ---- the flow


def test_the_flow_inverts(flow):
    rng = np.random.default_rng(1)
    x = np.concatenate([banana(500, rng), 40.0 * rng.standard_normal((20, 3))])
    z, _ = flow.transform(x)
    # Rounding at |x| < 150 grows by the inverse slopes of 25 layers.
    np.testing.assert_allclose(flow.inverse(z), x, atol=1e-9)


def test_log_determinant_matches_finite_differences(flow):
    x = banana(20, np.random.default_rng(2))
    step = 1e-6
    jacobian = np.empty((len(x), 3, 3))
    for d in range(3):
        shift = np.zeros(3)
        shift[d] = step
        difference = flow.transform(x + shift)[0] - flow.transform(x - shift)[0]
        jacobian[:, :, d] = difference / (2 * step)
    # Central differences: 1e-16/step rounding and second derivatives that jump at knots.
    np.testing.assert_allclose(
        flow.transform(x)[1], np.log(np.abs(np.linalg.det(jacobian))), atol=1e-4
    )


def test_a_gaussian_is_fitted_by_its_whitening_alone():
    rng = np.random.default_rng(3)
    mixing = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    mean = np.array([5.0, -1.0, 0.0, 100.0])
    x = rng.standard_normal((8000, 4)) @ mixing.T + mean
    fresh = rng.standard_normal((2000, 4)) @ mixing.T + mean
    exact = multivariate_normal(mean, mixing @ mixing.T).logpdf(fresh)
    flow = GIS.fit(x, replace(FAST, n_iterations=20, shrinkage=None))
    # Twenty shrunk layers fit noise of order n_knots K / n = 0.04 nats in all.
    assert abs(np.mean(flow.log_prob(fresh)) - np.mean(exact)) < 0.05
    assert np.std(flow.log_prob(fresh) - exact) < 0.25


def test_a_banana_is_fitted_better_than_by_a_gaussian(flow):
    x = banana(4000, np.random.default_rng(7))
    gaussian = multivariate_normal(x.mean(axis=0), np.cov(x.T)).logpdf(x)
    true = banana_log_prob(x)
    gap, gaussian_gap = np.mean(true - flow.log_prob(x)), np.mean(true - gaussian)
    assert gaussian_gap > 0.9  # log of the width ratio sqrt(0.25 + 2) / 0.5 is 1.1
    assert 0 < gap < 0.25 * gaussian_gap


def test_the_density_integrates_to_one():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-2, 0.5, (1000, 2)), rng.normal(1.5, 1.0, (1000, 2))])
    flow = GIS.fit(x, replace(FAST, n_iterations=10))
    edge = np.linspace(-12, 12, 701)
    grid = np.stack(np.meshgrid(edge, edge, indexing="ij"), axis=-1).reshape(-1, 2)
    total = np.exp(flow.log_prob(grid)).sum() * (edge[1] - edge[0]) ** 2
    # Cells of 0.034 against features of 0.1: the midpoint rule errs by some 1e-3 at kinks.
    assert total == pytest.approx(1.0, abs=5e-3)


def test_samples_follow_the_density(flow):
    drawn = flow.sample(6000, np.random.default_rng(8))
    x = banana(6000, np.random.default_rng(9))
    # Means of 6000 rows: five standard errors, and the fit's own error of a few per cent.
    error = 5 * x.std(axis=0) / np.sqrt(6000) + 0.05 * x.std(axis=0)
    assert (np.abs(drawn.mean(axis=0) - x.mean(axis=0)) < error).all()
    np.testing.assert_allclose(drawn.std(axis=0), x.std(axis=0), rtol=0.15)
    again = flow.sample(6000, np.random.default_rng(8))
    np.testing.assert_array_equal(drawn, again)


def test_a_row_gives_the_same_in_every_batch(flow):
    x = banana(1001, np.random.default_rng(1))
    whole = flow.log_prob(x)
    parts = np.concatenate([flow.log_prob(part) for part in np.array_split(x, [1, 2, 9, 500])])
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(flow.log_prob(x[::-1])[::-1], whole)


def test_the_seed_decides_the_fit_and_inputs_stay_untouched():
    x = banana(600, np.random.default_rng(0))
    held_out = banana(100, np.random.default_rng(1))
    copies = x.copy(), held_out.copy()
    short = replace(FAST, n_iterations=3, subsample=300)
    first, second = (GIS.fit(x, short, held_out) for _ in range(2))
    other = GIS.fit(x, replace(short, seed=6), held_out)
    np.testing.assert_array_equal(first.log_prob(held_out), second.log_prob(held_out))
    assert not np.array_equal(first.log_prob(held_out), other.log_prob(held_out))
    first.inverse(held_out)
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(held_out, copies[1])


def test_a_longer_fit_begins_with_the_shorter_one(flow):
    shorter = GIS.fit(banana(3000, np.random.default_rng(0)), replace(FAST, n_iterations=4))
    np.testing.assert_array_equal(shorter.frames, flow.frames[:4])


def test_arrays_and_settings_give_the_same_flow_back(flow):
    settings = GISSettings.from_json(json.loads(json.dumps(flow.settings.to_json())))
    copy = GIS.from_arrays(flow.to_arrays(), settings)
    x = banana(100, np.random.default_rng(1))
    assert copy.settings == flow.settings
    assert [r.train_mean for r in copy.history] == [r.train_mean for r in flow.history]
    np.testing.assert_array_equal(copy.log_prob(x), flow.log_prob(x))
    np.testing.assert_array_equal(copy.inverse(x), flow.inverse(x))
    with pytest.raises(SpectraScaleError, match="tables"):
        GIS.from_arrays({k: v for k, v in flow.to_arrays().items() if k != "tables"}, settings)


def test_validation_stops_an_overfitting_fit_at_its_best_layer():
    rng = np.random.default_rng(0)
    seen: list[int] = []
    settings = replace(FAST, n_iterations=60, shrinkage=(0.0, 0.0), early_stop=True)
    flow = GIS.fit(banana(300, rng), settings, banana(300, rng), lambda n, _: seen.append(n))
    scores = [record.validation_trimmed for record in flow.history]
    assert flow.n_layers == flow.best_layer == int(np.argmax(scores)) < 60
    assert len(flow.history) - 1 == len(seen) <= flow.n_layers + settings.patience + 20
    assert seen == list(range(1, len(flow.history)))


def test_a_fixed_number_of_layers_is_kept_and_the_best_reported():
    rng = np.random.default_rng(0)
    flow = GIS.fit(banana(300, rng), replace(FAST, shrinkage=(0.0, 0.0)), banana(300, rng))
    assert flow.n_layers == 25
    assert flow.best_layer < 25
    recorded = flow.history[-1].train_mean
    fitted = np.mean(flow.log_prob(banana(300, np.random.default_rng(0))))
    assert fitted == pytest.approx(recorded, abs=1e-12)  # order of additions in the mean


def test_one_dimension_and_two_values_can_be_fitted():
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, size=(500, 1))
    assert np.isfinite(GIS.fit(x, replace(FAST, n_iterations=3)).log_prob(x)).all()
    discrete = np.column_stack([rng.integers(0, 2, 500), rng.standard_normal(500)])
    assert np.isfinite(GIS.fit(discrete, replace(FAST, n_iterations=3)).log_prob(discrete)).all()


# ---- p-values and errors


def test_p_values_count_the_less_probable_rows():
    rng = np.random.default_rng(0)
    validation, x = rng.standard_normal(200), rng.standard_normal(50)
    x[0], x[1] = validation[3], -50.0
    expected = [((validation < value).sum() + 1) / 201 for value in x]
    np.testing.assert_array_equal(p_value(x, validation), expected)
    assert p_value(x, validation).min() == 1 / 201


def test_the_trimmed_mean_leaves_out_the_worst_rows():
    values = np.r_[-1e9, np.arange(1999.0)]
    assert trimmed_mean(values, 1e-3) == np.arange(1.0, 1999.0).mean()
    assert trimmed_mean(values[:10], 1e-3) == np.arange(9.0).mean()
    assert trimmed_mean(np.array([3.0, 5.0]), 0.0) == 4.0


def test_data_that_have_no_density_are_refused():
    x = banana(200, np.random.default_rng(0))
    holed = x.copy()
    holed[7, 1] = np.nan
    flat = np.column_stack([x, x[:, 0] + x[:, 2]])
    constant = np.column_stack([x, np.full(200, 3.0)])
    with pytest.raises(SpectraScaleError, match="20 rows of 3 dimensions"):
        GIS.fit(x[:20])
    with pytest.raises(SpectraScaleError, match="first at row 7"):
        GIS.fit(holed)
    with pytest.raises(SpectraScaleError, match="validation has 1 of 200 rows"):
        GIS.fit(x, FAST, holed)
    with pytest.raises(SpectraScaleError, match=r"dimensions \[0, 2, 3\] depend"):
        GIS.fit(flat)
    with pytest.raises(SpectraScaleError, match=r"\[3\] are constant"):
        GIS.fit(constant)
    with pytest.raises(SpectraScaleError, match=r"shape \(200, 4\)"):
        GIS.fit(x, FAST, flat)


def test_settings_that_cannot_work_are_refused():
    x = banana(200, np.random.default_rng(0))
    for change, reason in (
        ({"early_stop": True}, "needs validation"),
        ({"n_slices": 4}, "n_slices"),
        ({"n_knots": 3}, "n_knots"),
        ({"shrinkage": (1.0, 0.0)}, "shrinkage"),
        ({"tail": "none"}, "tail"),
    ):
        with pytest.raises(UsageError, match=reason):
            GIS.fit(x, replace(FAST, **change))
