"""A fit goes on where it ended, weighs its rows, and goes through a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gpu_checks import chain
from safetensors.numpy import save_file

from spectra_scale.errors import DamagedArtifactError, SpectraScaleError, UsageError
from spectra_scale.models.gis import GIS, GISSettings, trimmed_mean
from spectra_scale.models.gis_directions import HostSample, random_frame
from spectra_scale.models.gis_file import KEY
from spectra_scale.models.gis_kde import binned_cdf, scott_width
from spectra_scale.models.gis_rows import checked_weights, whiten_rows

SETTINGS = GISSettings(n_iterations=8, max_steps=15, shrinkage=(0.2, 0.2), seed=4)


def same(a: GIS, b: GIS) -> None:
    for name, values in a.to_arrays().items():
        np.testing.assert_array_equal(b.to_arrays()[name], values, err_msg=name)


def rows(n: int, seed: int) -> np.ndarray:
    return chain(n, np.random.default_rng(seed), dims=4)


# ---- going on


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_fit_that_goes_on_is_a_fit_at_once(device: str | None):
    x, held_out = rows(400, 0), rows(200, 1)
    half = GIS.fit(x, replace(SETTINGS, n_iterations=4), held_out, device=device)
    whole = GIS.fit(x, SETTINGS, held_out, device=device)
    same(GIS.fit(x, SETTINGS, held_out, start=half, device=device), whole)
    assert half.n_layers == 4


def test_an_early_stop_falls_on_the_same_layer_across_a_resume():
    # Long steps on few rows overfit: validation falls after some layers.
    x, held_out = rows(400, 0), rows(200, 1)
    stops = replace(SETTINGS, n_iterations=40, shrinkage=(0.3, 0.3), early_stop=True, patience=6)
    whole = GIS.fit(x, stops, held_out)
    assert 2 < whole.n_layers < 34
    stopped_at = len(whole.history) - 1
    for first in (whole.n_layers - 1, whole.n_layers + 2, stopped_at):
        half = GIS.fit(x, replace(stops, n_iterations=first), held_out)
        same(GIS.fit(x, stops, held_out, start=half), whole)
    # From a flow that never looked at validation rows, too: they are scored as it goes on.
    blind = GIS.fit(x, replace(stops, early_stop=False, n_iterations=20))
    same(GIS.fit(x, stops, held_out, start=blind), whole)


def test_going_on_with_fewer_layers_cuts_and_other_shapes_are_refused():
    x = rows(300, 0)
    whole = GIS.fit(x, SETTINGS)
    same(GIS.fit(x, replace(SETTINGS, n_iterations=3), start=whole),
         GIS.fit(x, replace(SETTINGS, n_iterations=3)))  # fmt: skip
    assert GIS.fit(x, start=whole).settings == SETTINGS
    with pytest.raises(UsageError, match="n_knots = 50, the settings ask for 60"):
        GIS.fit(x, replace(SETTINGS, n_knots=60), start=whole)
    with pytest.raises(SpectraScaleError, match=r"shape \(n, 4\)"):
        GIS.fit(x[:, :3], SETTINGS, start=whole)


# ---- weights


def test_repeated_rows_are_rows_of_integer_weight_in_every_part():
    rng = np.random.default_rng(2)
    x, counts = rows(500, 0), rng.integers(1, 5, 500)
    many = np.repeat(x, counts, axis=0)
    _, mass = checked_weights(counts, 500, "weights")
    weighted, repeated = whiten_rows(x, whiten=True, weights=mass), whiten_rows(many, whiten=True)
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
    # The covariances differ by the factor of the unbiased divisor alone, of order 1/n.
    scale = weighted.matrix / repeated.matrix
    np.testing.assert_allclose(scale, scale[0, 0], rtol=1e-6)
    assert abs(scale[0, 0] - 1) < 2 / 500
    order = np.argsort(x[:, 0])
    u, sorted_mass = x[order, 0], mass[order]
    points = np.linspace(-3, 3, 21)
    np.testing.assert_allclose(
        binned_cdf(u, 0.3, points, sorted_mass), binned_cdf(many[:, 0], 0.3, points), atol=1e-12
    )
    # Only n^(-1/5) differs: (sum w)^2 / sum w^2 rows count, not sum w.
    effective = counts.sum() ** 2 / (counts**2).sum()
    expected = scott_width(many[:, 0]) * (effective / len(many)) ** -0.2
    assert scott_width(u, sorted_mass) == pytest.approx(expected, rel=1e-12)
    scores = rng.standard_normal(500)
    kept = trimmed_mean(np.repeat(scores, counts), 0.0)
    assert trimmed_mean(scores, 0.0, mass) == pytest.approx(kept, rel=1e-12)


def test_the_search_sees_repeats_as_weight():
    rng = np.random.default_rng(2)
    x, counts = rows(4000, 0), rng.integers(1, 4, 4000)
    _, mass = checked_weights(counts, 4000, "weights")
    frame = random_frame(4, 3, rng)
    weighted = HostSample(x, mass)
    repeated = HostSample(np.repeat(x, counts, axis=0))
    one, many = weighted.at(frame), repeated.at(frame)
    # Repeats are spread over quantiles that a weighted row has the middle of: a part in 1e3.
    np.testing.assert_allclose(weighted.distances(one), repeated.distances(many), rtol=5e-3)
    slopes = repeated.slopes(many) / counts.sum()
    np.testing.assert_allclose(weighted.slopes(one) / 4000, slopes, atol=5e-3)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_integer_weights_fit_as_repeated_rows_do(device: str | None):
    rng = np.random.default_rng(5)
    x, held_out = rows(2000, 0), rows(3000, 1)
    counts = rng.integers(1, 4, 2000)
    plain = replace(SETTINGS, n_knots=50, n_slices=4)
    one = GIS.fit(x, plain, held_out, weights=counts, device=device)
    many = GIS.fit(np.repeat(x, counts, axis=0), plain, held_out, device=device)
    unweighted = GIS.fit(x, plain, held_out, device=device)
    # The kernel is wider by the fifth root of sum w / effective rows, 4 %, and searches end
    # elsewhere: 0.02 nats of the 1 that the layers bring.
    scores = [flow.history[-1].validation_mean for flow in (one, many, unweighted)]
    assert one.history[0].train_mean == pytest.approx(many.history[0].train_mean, abs=2e-3)
    assert abs(scores[0] - scores[1]) < 0.04
    assert scores[1] > many.history[0].validation_mean + 0.3


def test_weights_move_the_density():
    rng = np.random.default_rng(6)
    x = np.concatenate([rng.normal(-3, 1, (1500, 2)), rng.normal(3, 1, (1500, 2))])
    weights = np.r_[np.full(1500, 9.0), np.ones(1500)]
    flow = GIS.fit(x, replace(SETTINGS, n_iterations=15), weights=weights)
    drawn = flow.sample(4000, rng)
    # A tenth of the weight lies in the right lobe; the fit errs by some hundredths.
    assert (drawn[:, 0] > 0).mean() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_rows_without_weight_are_as_if_absent_and_the_unit_does_not_matter(device: str | None):
    rng = np.random.default_rng(7)
    x, held_out = rows(400, 0), rows(100, 1)
    weights = rng.uniform(0.5, 2.0, 400)
    weights[::3] = 0.0
    few, rest = x[weights > 0], weights[weights > 0]
    flow = GIS.fit(few, SETTINGS, held_out, weights=rest, device=device)
    same(GIS.fit(x, SETTINGS, held_out, weights=weights, device=device), flow)
    same(GIS.fit(x, SETTINGS, held_out, weights=weights * 2.0**40, device=device), flow)
    tiny = np.where(weights > 0, weights, 1e-9)
    same(GIS.fit(x, SETTINGS, held_out, weights=tiny, device=device), flow)
    equal = GIS.fit(x, SETTINGS, held_out, weights=np.full(400, 3), device=device)
    same(equal, GIS.fit(x, SETTINGS, held_out, device=device))
    counted = GIS.fit(x, SETTINGS, held_out, validation_weights=np.r_[1, np.zeros(99)])
    assert counted.history[-1].validation_mean == pytest.approx(counted.log_prob(held_out[:1])[0])


def test_weights_that_mean_nothing_are_refused():
    x = rows(100, 0)
    for weights, reason in (
        (np.ones(99), r"shape \(99,\), but 100 rows"),
        (np.ones((100, 1)), r"shape \(100, 1\)"),
        (np.r_[-1.0, np.ones(99)], "the first -1.0 at row 0"),
        (np.r_[1.0, np.nan, np.ones(98)], "the first nan at row 1"),
        (np.r_[np.inf, np.ones(99)], "the first inf at row 0"),
        (np.zeros(100), "no positive weight"),
        (["a"] * 100, "<U1 values"),
        (np.r_[np.ones(10), np.zeros(90)], "10 rows of 4 dimensions"),
        (np.r_[1e6, np.ones(99)], "effectively 1 rows of 4 dimensions"),
    ):
        with pytest.raises(SpectraScaleError, match=reason):
            GIS.fit(x, SETTINGS, weights=weights)


# ---- a file


def test_a_file_gives_the_flow_back_and_the_same_flow_the_same_bytes(tmp_path: Path):
    x = rows(300, 0)
    flow = GIS.fit(x, replace(SETTINGS, shrinkage=None), rows(100, 1))
    flow.save(tmp_path / "a.safetensors")
    flow.save(str(tmp_path / "b.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    copy = GIS.load(tmp_path / "a.safetensors")
    assert copy.settings == flow.settings
    assert copy.history == flow.history
    same(copy, flow)
    np.testing.assert_array_equal(copy.log_prob(x), flow.log_prob(x))
    same(GIS.fit(x, replace(SETTINGS, shrinkage=None, n_iterations=9), start=copy),
         GIS.fit(x, replace(SETTINGS, shrinkage=None, n_iterations=9)))  # fmt: skip
    with pytest.raises(SpectraScaleError, match=r"rows of shape \(n, 4\)"):
        copy.log_prob(x[:, :3])


def test_files_that_are_no_flow_are_refused(tmp_path: Path):
    flow = GIS.fit(rows(100, 0), replace(SETTINGS, n_iterations=2))
    path = tmp_path / "flow.safetensors"
    arrays = flow.to_arrays()
    about = {"version": 1, "settings": flow.settings.to_json()}

    def written(metadata: object, **changed: np.ndarray) -> Path:
        save_file(arrays | changed, path, metadata={KEY: json.dumps(metadata)})
        return path

    with pytest.raises(UsageError, match="is no file"):
        GIS.load(path)
    path.write_bytes(b"not a flow")
    with pytest.raises(DamagedArtifactError, match="cannot be read as a flow"):
        GIS.load(path)
    save_file(arrays, path)
    with pytest.raises(UsageError, match="holds no flow"):
        GIS.load(path)
    with pytest.raises(UsageError, match="version 7, this is version 1"):
        GIS.load(written(about | {"version": 7}))
    with pytest.raises(DamagedArtifactError, match="other"):
        GIS.load(written(about | {"settings": {"other": 1}}))
    with pytest.raises(DamagedArtifactError, match="do not fit one another"):
        GIS.load(written(about, mean=np.zeros(3)))
    with pytest.raises(DamagedArtifactError, match="do not rise"):
        GIS.load(written(about, tables=np.zeros_like(arrays["tables"])))
    with pytest.raises(DamagedArtifactError, match="5 columns"):
        GIS.load(written(about, history=np.zeros((3, 4))))
    np.testing.assert_array_equal(GIS.load(written(about)).frames, flow.frames)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedArtifactError, match="cannot be read as a flow"):
        GIS.load(path)
