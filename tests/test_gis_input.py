"""What data the flow takes, and what it says of those it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gpu_checks import chain

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.gis import GIS, GISSettings

SETTINGS = GISSettings(n_iterations=4, max_steps=15, shrinkage=(0.3, 0.3), seed=1)


def rows(n: int, seed: int = 0) -> np.ndarray:
    return chain(n, np.random.default_rng(seed), dims=3)


@pytest.fixture(scope="module")
def flow() -> GIS:
    return GIS.fit(rows(300), SETTINGS)


def test_narrow_numbers_are_taken_as_the_float64_they_are():
    x = rows(300)
    counts = np.round(20 * x)
    for narrow in (x.astype(np.float16), x.astype(np.float32), counts.astype(np.int16),
                   counts.astype(np.int64), (x.astype(">f4")), np.asfortranarray(x)):  # fmt: skip
        found, expected = GIS.fit(narrow, SETTINGS), GIS.fit(narrow.astype(np.float64), SETTINGS)
        np.testing.assert_array_equal(found.frames, expected.frames)
        np.testing.assert_array_equal(found.log_prob(narrow), expected.log_prob(narrow))
        assert found.log_prob(narrow).dtype == np.float64
    listed = GIS.fit(x.tolist(), SETTINGS)
    np.testing.assert_array_equal(listed.frames, GIS.fit(x, SETTINGS).frames)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (rows(100) + 1j, "complex128 values"),
        (rows(100).astype(object), "object values"),
        (rows(100).astype(str), "<U"),
        (rows(100).astype("datetime64[s]"), "datetime64"),
        ([[1.0, 2.0], [3.0]], "no array of numbers"),
        (np.ma.masked_less(rows(100), 0.0), "masked values"),
        (rows(100)[:, 0], r"shape \(100,\)"),
        (rows(100)[None], r"shape \(1, 100, 3\)"),
        (5.0, r"has shape \(\)"),
        (np.empty((0, 3)), "no rows"),
        (np.empty((100, 0)), "rows without dimensions"),
        (rows(49), "49 rows of 3 dimensions"),
        (np.random.default_rng(0).standard_normal((60, 60)), "60 rows of 60 dimensions"),
        (np.where(np.arange(300).reshape(100, 3) == 7, np.inf, rows(100)), "first at row 2"),
        (np.full((100, 3), np.nan), "100 of 100 rows"),
        (np.column_stack([rows(100), rows(100)[:, 1]]), r"dimensions \[1, 3\] depend"),
        (np.column_stack([rows(100), rows(100) @ [1, 2, 0]]), r"dimensions \[0, 1, 3\] depend"),
        (np.column_stack([rows(100), np.full(100, 1e9)]), r"\[3\] are constant"),
        (np.repeat(rows(3), 100, axis=0), "depend on one another"),
    ],
)
def test_data_without_a_density_are_refused_in_words(values: object, reason: str):
    with pytest.raises(SpectraScaleError, match=reason):
        GIS.fit(values, SETTINGS)
    with pytest.raises(SpectraScaleError, match=reason):
        GIS.fit(values, SETTINGS, device="cpu")


def test_an_empty_or_wrong_validation_is_refused():
    x = rows(100)
    for validation, reason in (
        (np.empty((0, 3)), "validation has no rows"),
        (rows(10)[:, :2], r"validation has shape \(10, 2\)"),
        (rows(10) * np.nan, "validation has 10 of 10 rows"),
    ):
        with pytest.raises(SpectraScaleError, match=reason):
            GIS.fit(x, SETTINGS, validation)
    assert np.isfinite(GIS.fit(x, SETTINGS, rows(1, 5)).history[-1].validation_mean)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_no_rows_give_no_rows(flow: GIS, device: str | None):
    nothing = np.empty((0, 3))
    assert flow.log_prob(nothing, device=device).shape == (0,)
    assert flow.transform(nothing, device=device)[0].shape == (0, 3)
    assert flow.inverse(nothing, device=device).shape == (0, 3)
    assert flow.sample(0, np.random.default_rng(0), device=device).shape == (0, 3)


def test_wrong_calls_of_a_fitted_flow_are_refused(flow: GIS):
    x = rows(10)
    for call, reason in (
        (lambda: flow.log_prob(x[:, :2]), r"x has shape \(10, 2\)"),
        (lambda: flow.log_prob(x[0]), r"x has shape \(3,\)"),
        (lambda: flow.log_prob(x * np.nan), "10 of 10 rows"),
        (lambda: flow.inverse(x[:, :1]), r"z has shape \(10, 1\)"),
        (lambda: flow.sample(-1, np.random.default_rng(0)), "asked for -1 rows"),
        (lambda: flow.log_prob(x, batch=0), "batch is 0"),
        (lambda: flow.log_prob(x, device="cpu", batch=-3), "batch is -3"),
        (lambda: flow.log_prob(x, precision="float32"), "needs a device"),
        (lambda: flow.log_prob(x, device="cpu", precision="float16"), "none of"),
        (lambda: flow.log_prob(x, device="no such"), "cannot run on device 'no such'"),
        (lambda: GIS.fit(rows(100), SETTINGS, device="cuda:99"), "cannot run on device"),
    ):
        with pytest.raises(SpectraScaleError, match=reason):
            call()


def test_settings_that_ask_for_nothing_are_refused():
    for change, reason in (({"subsample": 1}, "subsample"), ({"max_steps": -1}, "max_steps")):
        with pytest.raises(UsageError, match=reason):
            GIS.fit(rows(100), replace(SETTINGS, **change))


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("kind", ["counts", "two values", "repeats", "spike", "wide"])
def test_odd_data_give_a_finite_density_that_inverts(kind: str, device: str | None):
    rng = np.random.default_rng(8)
    x = rows(600)
    if kind == "counts":
        x = rng.poisson(3.0, (600, 3)).astype(np.int32)
    elif kind == "two values":
        x[:, 1] = rng.integers(0, 2, 600)
    elif kind == "repeats":
        x = x[rng.integers(0, 20, 600)]
    elif kind == "spike":
        x[:400] = x[0]
    else:
        x = x * np.array([1e-12, 1.0, 1e12]) + np.array([0.0, 1e6, 0.0])
    copy = x.copy()
    flow = GIS.fit(x, SETTINGS, device=device)
    np.testing.assert_array_equal(x, copy)
    z, logdet = flow.transform(x, device=device)
    assert np.isfinite(z).all()
    assert np.isfinite(logdet).all()
    spread = np.abs(x - x.mean(axis=0)).max(axis=0) + np.abs(x).max(axis=0)
    # Rounding of the data themselves and of whitened coordinates of order 10, through the slopes
    # of four layers: steep where many values are one.
    error = np.abs(flow.inverse(z, device=device) - x).max(axis=0)
    assert (error <= 1e-8 * spread).all()
    drawn = flow.sample(200, rng, device=device)
    assert np.isfinite(drawn).all()


def test_a_constant_column_without_whitening_stays_as_it_is():
    x = np.column_stack([rows(200), np.zeros(200)])
    flow = GIS.fit(x, replace(SETTINGS, whiten=False))
    assert np.isfinite(flow.log_prob(x)).all()
