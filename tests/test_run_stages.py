"""One small run through every stage, each result recomputed from what is on disk."""

import csv
import io
import json
import re
import shutil
import time
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pipeline_builders import (
    digests,
    job_of,
    keys_of,
    manifest,
    tiny_job,
    write_job,
)
from safetensors.numpy import load_file
from surveys_builders import legacy_row, write_spec

from spectra_scale import pipeline, planning
from spectra_scale.apply import Extra, apply_to_file, apply_to_release
from spectra_scale.cli import main
from spectra_scale.compute.place import Here
from spectra_scale.errors import (
    BadSpectrumError,
    SpectraScaleError,
    StaleArtifactError,
    UsageError,
)
from spectra_scale.estimate import estimate
from spectra_scale.models.inputs import load_encoder
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum.geometry import points_in_polygon
from spectra_scale.spectrum.masks import mask_bits_of
from spectra_scale.stages import encode, prepare, stack
from spectra_scale.stages.regions import read_regions
from spectra_scale.store.objects import column, columns_of
from spectra_scale.store.run import OBJECT_STAGES, open_run
from spectra_scale.store.tables import read_table
from spectra_scale.surveys.release import open_release
from spectra_scale.verify import verify

STAGES = ("label", "prepare", "train", "encode", "density", "embed-latents", "embed-flux",
          "outliers", "regions", "stack", "report")  # fmt: skip


# Most of these take no time, but the run they look at takes half a minute.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tiny_run):
    return tiny_run.folder


@pytest.fixture(scope="module")
def job(tiny_run):
    return tiny_run.job


@pytest.fixture(scope="module")
def run(tiny_run):
    return tiny_run.run


@pytest.fixture(scope="module")
def release(run):
    return open_release(run.path / "releases" / "mock")


@pytest.fixture(scope="module")
def spectra(run):
    """Normalised flux, ivar and reconstruction of every row, in float64 NumPy."""
    model, inputs = load_encoder(run.folder("train"))
    found = inputs.apply(*run.sample.read(slice(0, run.sample.n_rows)))
    weights = {name: p.detach().numpy().astype("f8") for name, p in model.named_parameters()}
    latents = forward(weights, "encoder", found.flux.astype("f8"))
    return {
        "flux": found.flux.astype("f8"),
        "ivar": found.ivar.astype("f8"),
        "latents": latents,
        "reconstruction": forward(weights, "decoder", latents),
    }


def forward(weights, side, x):
    layers = sorted({int(name.split(".")[1]) for name in weights if name.startswith(side)})
    for i in layers:
        x = x @ weights[f"{side}.{i}.weight"].T + weights[f"{side}.{i}.bias"]
        if i != layers[-1]:
            x = np.maximum(x, 0)
    return x


# The whole ---------------------------------------------------------------------------------------


def test_every_stage_is_there_with_its_description(run, job):
    for stage in STAGES:
        assert run.has(stage), stage
    assert job_of(tomllib.loads((run.path / "job.toml").read_text())) == job
    log = (run.path / "run.log").read_text()
    for stage in ("mock", "ingest mock", *STAGES):
        assert f"{stage}: done in" in log


def test_the_run_verifies(run):
    checks = verify(run.path, Here())
    assert [c.what for c in checks if c.problem] == []
    assert len([c for c in checks if c.what.endswith(": keys")]) == len(OBJECT_STAGES)


def test_a_table_of_a_stage_that_was_cut_is_found(run, tmp_path):
    for name in ("stacks/stacks.parquet", "labels/objects/mock.parquet",
                 "autoencoder/model.safetensors", "report/index.html"):  # fmt: skip
        stage = name.partition("/")[0]
        copy = Path(shutil.copytree(run.path / stage, tmp_path / stage))
        file = tmp_path / name
        file.write_bytes(file.read_bytes()[:-1])
        bad = [c.problem for c in verify(copy, Here()) if c.problem]
        assert len(bad) == 1
        assert name in bad[0]


def test_the_same_job_again_does_nothing_and_is_quick(run, job):
    before = digests(run.path, without=("run.log",))
    start = time.monotonic()
    pipeline.run_job(job)
    # Listing 50 files and reading ten manifests takes milliseconds; any stage takes longer.
    assert time.monotonic() - start < 1.5
    assert digests(run.path, without=("run.log",)) == before


def test_the_joined_table_has_every_object_once(run):
    table = run.table()
    assert table.num_rows == run.sample.n_rows
    assert keys_of(table) == keys_of(run.index)
    for name in ("latent_4", "chi2", "log_prob", "p_value", "latent_map_1", "flux_map_0"):
        assert name in table.column_names
    assert len(set(table.column_names)) == len(table.column_names)


# Encode ------------------------------------------------------------------------------------------


def test_latents_and_chi2_are_those_of_plain_numpy(run, spectra):
    found = run.objects("encode")
    assert column(found, "usable").all()
    # A float32 forward pass of three layers: 1e-6 of the largest term of each sum.
    scale = np.abs(spectra["latents"]).max()
    np.testing.assert_allclose(
        columns_of(found, "latent"), spectra["latents"], rtol=0, atol=1e-5 * scale
    )
    square = (spectra["reconstruction"] - spectra["flux"]) ** 2 * spectra["ivar"]
    valid = (spectra["ivar"] > 0).sum(axis=1)
    np.testing.assert_allclose(column(found, "chi2"), square.sum(axis=1) / 1000, rtol=1e-4)
    np.testing.assert_allclose(column(found, "chi2_valid"), square.sum(axis=1) / valid, rtol=1e-4)


def test_chi2_by_class_and_split_are_means_over_their_objects(run):
    found, index = run.objects("encode"), run.index
    chi2 = column(found, "chi2_valid").astype("f8")
    split, label = np.array(index["split"].to_pylist()), column(index, "label")
    metrics = run.artifact("encode").metrics
    for name in ("train", "validation"):
        said = metrics[name]
        assert said["all"]["n"] == (split == name).sum()
        for code, kind in enumerate(CLASS_NAMES):
            rows = (split == name) & (label == code)
            assert (kind in said) == rows.any()
            if rows.any():
                assert said[kind]["n"] == rows.sum()
                assert said[kind]["chi2_valid"] == pytest.approx(chi2[rows].mean(), rel=1e-9)


def test_residual_sums_are_those_of_a_loop_over_spectra(run, spectra):
    """Figure 14: Σ (F_rec−F)² v m and Σ m by split, class and pixel."""
    sums = load_file(run.folder("encode") / "residuals.safetensors")
    index = run.index
    label = column(index, "label")
    residual = spectra["reconstruction"] - spectra["flux"]
    expected = {name: np.zeros((2, 7, 1000)) for name in sums}
    for i, split in enumerate(index["split"].to_pylist()):
        at = (("train", "validation").index(split), label[i])
        expected["square"][at] += residual[i] ** 2 * spectra["ivar"][i]
        expected["pull"][at] += residual[i] * np.sqrt(spectra["ivar"][i])
        expected["count"][at] += spectra["ivar"][i] > 0
    np.testing.assert_array_equal(sums["count"], expected["count"])
    # Pulls are summed as float32 numbers of a few units, a hundred of them a sum.
    np.testing.assert_allclose(sums["square"], expected["square"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sums["pull"], expected["pull"], rtol=1e-3, atol=1e-2)


def test_a_spectrum_that_cannot_be_normalised_is_nowhere_on_the_map(run, job, tmp_path):
    """A row without a positive median stays in every table, unusable and without a place."""
    from pipeline_builders import index_of, make_sample

    flux, ivar = run.sample.read(slice(0, 40))
    flux = flux.copy()
    flux[7] *= -1
    masked = (ivar == 0).mean(axis=1)
    sample = make_sample(
        tmp_path / "sample", flux, ivar, index=index_of(40, masked_fraction=masked)
    )
    made = score(sample, run, job, tmp_path)
    table = {stage: made.objects(stage) for stage in OBJECT_STAGES}
    usable = column(table["encode"], "usable")
    assert np.flatnonzero(~usable).tolist() == [7]
    for stage, name in (
        ("density", "log_prob"),
        ("density", "p_value"),
        ("embed-latents", "latent_map_0"),
        ("embed-flux", "flux_map_1"),
    ):
        values = column(table[stage], name)
        assert np.flatnonzero(np.isnan(values)).tolist() == [7]
    inside = [column(table["regions"], n) for n in table["regions"].column_names if "in_" in n]
    assert not any(rows[7] for rows in inside)
    assert any(rows.any() for rows in inside)


def score(sample, run, job, out):
    """Encode, score, place and find regions of another sample with the run's models."""
    from spectra_scale.stages import density, embed, outliers, regions
    from spectra_scale.store.run import FOLDERS, Run

    def fitted(stage):
        return run.artifact(stage)

    made = Run(out)
    model = fitted("train")
    recipe = encode.recipe(sample.artifact.fingerprint, model.fingerprint, job.encode)
    latents = encode.run(
        encode.EncodeInputs(sample, model), job.encode, Here(), out / FOLDERS["encode"], recipe
    )
    recipe = density.recipe(latents.fingerprint, job.density, fitted("density").fingerprint)
    given = density.DensityInputs(sample, latents, fitted("density"))
    flow = density.run(given, job.density, out / FOLDERS["density"], recipe)
    maps = {}
    for what in ("latents", "flux"):
        stage = f"embed-{what}"
        recipe = embed.recipe(what, latents.fingerprint, job.embed, fitted(stage).fingerprint)
        inputs = embed.EmbedInputs(sample, model, latents, fitted(stage))
        maps[what] = embed.run(inputs, job.embed, Here(), out / FOLDERS[stage], recipe)
    recipe = regions.recipe(
        maps["latents"].fingerprint, flow.fingerprint, job.regions, fitted("regions").fingerprint
    )
    inputs = regions.RegionsInputs(sample, maps["latents"], flow, fitted("regions"))
    regions.run(inputs, job.regions, out / FOLDERS["regions"], recipe)
    recipe = outliers.recipe(
        flow.fingerprint, maps["latents"].fingerprint, job.outliers, fitted("outliers").fingerprint
    )
    given = outliers.OutliersInputs(
        sample, model, latents, flow, maps["latents"], fitted("outliers")
    )
    outliers.run(given, job.outliers, Here(), out / FOLDERS["outliers"], recipe)
    return made


# Density -----------------------------------------------------------------------------------------


def test_p_values_count_the_less_probable_of_the_validation_split(run):
    found = run.objects("density")
    log_prob, p = column(found, "log_prob"), column(found, "p_value")
    reference = log_prob[run.sample.validation_rows()]
    n = len(reference)
    expected = [(np.sum(reference < value) + 1) / (n + 1) for value in log_prob]
    np.testing.assert_allclose(p, expected, rtol=1e-12)
    assert p.min() > 0
    assert p.max() <= 1
    np.testing.assert_array_equal(column(found, "in_training"), run.sample.training_rows())


def test_the_stored_flow_gives_the_stored_densities(run):
    from spectra_scale.stages.density import load_flow

    flow, reference = load_flow(run.folder("density"))
    latents = columns_of(run.objects("encode"), "latent").astype("f8")
    found = column(run.objects("density"), "log_prob")
    np.testing.assert_allclose(flow.log_prob(latents), found, rtol=1e-12)
    np.testing.assert_array_equal(np.sort(found[run.sample.validation_rows()]), reference)
    metrics = run.artifact("density").metrics
    assert metrics["layers"] == 5
    assert metrics["mean log_prob train"] == pytest.approx(
        found[run.sample.training_rows()].mean()
    )
    assert read_table(run.folder("density") / "history.parquet").num_rows >= 5


# Maps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "prefix"), [("embed-latents", "latent_map"),
                                               ("embed-flux", "flux_map")])  # fmt: skip
def test_every_usable_object_has_a_place_and_what_was_fitted_keeps_it(run, stage, prefix):
    found = run.objects(stage)
    xy = columns_of(found, prefix)
    assert xy.shape == (run.sample.n_rows, 2)
    assert np.isfinite(xy).all()
    fitted = column(found, f"{prefix}_fitted")
    np.testing.assert_array_equal(fitted, run.sample.training_rows())
    arrays = load_file(run.folder(stage) / "map.safetensors")
    np.testing.assert_array_equal(xy[fitted], arrays["coordinates"])
    assert len(np.unique(xy[fitted], axis=0)) > 0.9 * fitted.sum()
    # Weighted means of fitted neighbours lie within the map.
    low, high = xy[fitted].min(axis=0), xy[fitted].max(axis=0)
    assert (xy[~fitted] >= low).all()
    assert (xy[~fitted] <= high).all()
    metrics = run.artifact(stage).metrics
    assert 0.5 < metrics["trustworthiness"] <= 1
    counts = run.artifact(stage).counts
    assert counts["placed"] == run.sample.n_rows
    assert counts["fitted on"] == fitted.sum()


# Regions -----------------------------------------------------------------------------------------


def test_members_of_regions_are_those_inside(run):
    index = run.index
    label = column(index, "label")
    xy = columns_of(run.objects("embed-latents"), "latent_map").astype("f8")
    found = run.objects("regions")
    regions = read_regions(run.folder("regions"))
    assert sum("box" in r.rule for r in regions) == 16
    # Six where there are broad-line objects enough; a dozen of them give fewer.
    assert 1 <= sum("polygon" in r.rule for r in regions) <= 6
    counts = run.artifact("regions").counts
    for region in regions:
        if "box" in region.rule:
            x0, x1, y0, y1 = region.rule["box"]
            inside = (xy[:, 0] >= x0) & (xy[:, 0] <= x1) & (xy[:, 1] >= y0) & (xy[:, 1] <= y1)
        else:
            inside = points_in_polygon(xy[:, 0], xy[:, 1], region.rule["polygon"])
            assert region.labels == ("broad-line",)
            inside &= label == 4
        np.testing.assert_array_equal(column(found, f"in_{region.name}"), inside)
        assert counts[region.name] == inside.sum()


def test_the_exported_members_have_every_column_of_the_specification(run):
    members = read_table(run.folder("regions") / "members.parquet")
    assert members.column_names == [
        "region", "release", "row", "spectrum_key", "specobjid", "plate", "mjd", "fiber", "ra",
        "dec", "z", "class", "label", "map_x", "map_y", "log_prob",
    ]  # fmt: skip
    counts = run.artifact("regions").counts
    names = members["region"].to_pylist()
    assert {n: names.count(n) for n in set(names)} == {n: c for n, c in counts.items() if c}
    table = run.table().select(["spectrum_key", "log_prob", "latent_map_0"]).to_pylist()
    by_key = {r["spectrum_key"]: r for r in table}
    for record in members.to_pylist()[::17]:
        theirs = by_key[record["spectrum_key"]]
        assert record["log_prob"] == theirs["log_prob"]
        assert record["map_x"] == theirs["latent_map_0"]


# Stacks ------------------------------------------------------------------------------------------


def brute_force_stack(run, release, rows, window=None):
    """science.md §9 for one region, spectrum by spectrum in float64."""
    index = run.index
    upper, lower, squares, count = (np.zeros(4000) for _ in range(4))
    reject = int(mask_bits_of("strict"))
    for i in np.flatnonzero(rows):
        row, z = index["row"][int(i)].as_py(), index["z"][int(i)].as_py()
        block = release.read(slice(row, row + 1))
        k = block.first_pixel + np.arange(block.flux.shape[1])
        k = k - int(np.floor(1e4 * np.log10(1 + z) + 0.5)) - 35000
        good = (block.ivar[0] > 0) & ((block.mask_bits[0] & reject) == 0) & (k >= 0) & (k < 4000)
        flux = block.flux[0][good].astype("f8") * (1 + z)
        weight = block.ivar[0][good].astype("f8") / (1 + z) ** 2
        upper[k[good]] += weight * flux
        lower[k[good]] += weight
        squares[k[good]] += weight**2
        count[k[good]] += 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return upper / lower, lower**-0.5, count, lower**2 / squares


def test_stacks_are_those_of_a_loop_over_native_spectra(run, release):
    stacks = read_table(run.folder("stack") / "stacks.parquet")
    np.testing.assert_allclose(
        column(stacks, "wavelength"), 10 ** (np.arange(35000, 39000) * 1e-4), rtol=1e-12
    )
    members = run.objects("regions")
    counts = run.artifact("regions").counts
    names = [
        max((n for n in counts if n.startswith(p)), key=counts.get) for p in ("top", "bottom")
    ]
    # One of few members too, which leaves pixels empty that no spectrum reaches.
    names.append(min((n for n in counts if counts[n]), key=counts.get))
    n_empty = 0
    for name in names:
        flux, error, count, n_eff = brute_force_stack(run, release, column(members, f"in_{name}"))
        assert count.max() == counts[name] > 0
        np.testing.assert_array_equal(column(stacks, f"{name}_count"), count)
        empty = count == 0
        n_empty += empty.sum()
        assert np.isnan(column(stacks, f"{name}_flux")[empty]).all()
        assert np.isnan(column(stacks, f"{name}_error")[empty]).all()
        # The kernel multiplies (1+z) into float64 sums: only the order of additions differs.
        for kind, expected in (("flux", flux), ("error", error), ("n_eff", n_eff)):
            mine = column(stacks, f"{name}_{kind}")[~empty]
            np.testing.assert_allclose(mine, expected[~empty], rtol=1e-6, atol=1e-9)
    assert n_empty > 0


def test_bootstrap_errors_are_about_what_a_bootstrap_by_hand_gives(run, release):
    indices = {
        r["region"]: r for r in read_table(run.folder("stack") / "indices.parquet").to_pylist()
    }
    counts = run.artifact("regions").counts
    names = [n for n in indices if n.startswith(("top", "bottom"))]
    sound = [n for n in names if counts[n] >= 10]
    assert sound
    for name in sound:
        value, error = indices[name]["d4000n"], indices[name]["d4000n_error"]
        assert 0.8 < value < 2.6
        assert 0 < error < 0.3
    # By hand for one region: D4000n of resampled stacks, without the program's own generator.
    name = max(sound, key=counts.get)
    rows = np.flatnonzero(column(run.objects("regions"), f"in_{name}"))
    rng = np.random.default_rng(5)
    single = [brute_force_parts(run, release, int(i)) for i in rows]
    wave = 10 ** (np.arange(35000, 39000) * 1e-4)
    values = []
    for _ in range(40):
        times = rng.poisson(1.0, len(rows))
        lower = sum(t * w for t, (w, _) in zip(times, single, strict=True))
        upper = sum(t * wf for t, (_, wf) in zip(times, single, strict=True))
        values.append(d4000n(wave, upper / np.where(lower > 0, lower, np.nan)))
    scatter = np.std(values, ddof=1)
    # Standard deviations of 10 and of 40 draws scatter by 24 % and 11 %: a factor of 3 is 4 sigma.
    assert scatter / 3 < indices[name]["d4000n_error"] < scatter * 3


def brute_force_parts(run, release, i):
    one = np.zeros(run.sample.n_rows, bool)
    one[i] = True
    flux, error, count, _ = brute_force_stack(run, release, one)
    weight = np.where(count > 0, error**-2.0, 0)
    return weight, np.where(count > 0, weight * np.nan_to_num(flux), 0)


def d4000n(wave, flux):
    f_nu = flux * wave**2
    # Balogh et al. 1999 in air; the shift to vacuum of 1.1 Å moves a ratio of means by < 1 %.
    red = (wave > 4001.1) & (wave < 4101.2)
    blue = (wave > 3851.1) & (wave < 3951.1)
    return np.nanmean(f_nu[red]) / np.nanmean(f_nu[blue])


def test_the_shipped_d4000n_is_that_of_the_stack(run):
    stacks = read_table(run.folder("stack") / "stacks.parquet")
    wave = column(stacks, "wavelength")
    for record in read_table(run.folder("stack") / "indices.parquet").to_pylist():
        flux = column(stacks, f"{record['region']}_flux")
        if np.isfinite(record["d4000n"]):
            # Edges of windows fall between pixels: one of 250 pixels more or less.
            assert record["d4000n"] == pytest.approx(d4000n(wave, flux), rel=0.02)


@pytest.mark.parametrize("executor", ["threads", pytest.param("ray", marks=pytest.mark.cluster)],
                         indirect=True)  # fmt: skip
def test_stacks_and_latents_are_the_same_bytes_from_every_place(run, job, executor, tmp_path):
    releases = [open_release(run.path / "releases" / "mock")]
    made = run.artifact("stack")
    recipe = stack.recipe(run.artifact("regions").fingerprint, job.prepare, job.stack)
    inputs = stack.StackInputs(releases, run.sample, run.artifact("regions"))
    other = stack.run(inputs, job.stack, executor, tmp_path / "stacks", recipe)
    assert other.fingerprint == made.fingerprint
    assert digests(other.path) == digests(made.path)
    model = run.artifact("train")
    recipe = encode.recipe(run.artifact("prepare").fingerprint, model.fingerprint, job.encode)
    latents = encode.run(
        encode.EncodeInputs(run.sample, model), job.encode, executor, tmp_path / "latents", recipe
    )
    for name in ("latent_0", "chi2_valid"):
        mine = column(read_table(latents.path / "objects" / "mock.parquet"), name)
        # PyTorch may add in another order with another number of threads.
        np.testing.assert_allclose(mine, column(run.objects("encode"), name), rtol=1e-4, atol=1e-4)


# The report --------------------------------------------------------------------------------------


def test_the_report_stands_alone_and_has_the_papers_figures(run):
    page = (run.folder("report") / "index.html").read_text()
    for number in (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14):
        assert re.search(rf"[Ff]igure {number}\b", page), number
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "@import" not in page
    assert "url(http" not in page
    figures = sorted((run.folder("report") / "figures").glob("*.png"))
    assert page.count("data:image/png;base64,") == len(figures) >= 13
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in figures)
    assert "<script src" not in page


def test_the_report_says_what_each_cut_removed_and_what_became_of_every_file(run):
    page = (run.folder("report") / "index.html").read_text()
    sample = run.artifact("prepare").counts
    for cut, n in sample["dropped by cut"].items():
        assert re.search(rf"removed by {re.escape(cut)}.*?{n}\b", page, re.DOTALL), cut
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(
        rf"\bmock\s+{manifest(run.path / 'releases' / 'mock')['counts']['files in']}\b", text
    )


# Other settings ----------------------------------------------------------------------------------


class NoPlace:
    def __call__(self, *_):
        message = "a worker was started"
        raise AssertionError(message)


def test_a_changed_setting_is_refused_before_any_worker_and_touches_nothing(
    run, folder, monkeypatch
):
    monkeypatch.setattr(pipeline, "open_place", NoPlace())
    before = digests(run.path, without=())
    for changes, stage, words in (
        ({"density": {"n_iterations": 6}}, "density", "setting n_iterations (5 -> 6)"),
        ({"train": {"epochs": 4}}, "autoencoder", "setting epochs (3 -> 4)"),
        ({"prepare": {"z_min": 0.06}}, "sample", "setting z_min (default -> 0.06)"),
        ({"limit": 50}, "releases/mock", "setting limit (default -> 50)"),
    ):
        with pytest.raises(StaleArtifactError) as error:
            pipeline.run_job(job_of(tiny_job(folder, **changes)))
        assert f"{run.path / stage} was made with fingerprint" in str(error.value)
        assert words in str(error.value)
    assert digests(run.path, without=()) == before


def test_another_mock_release_in_its_place_is_refused(run, folder, monkeypatch):
    monkeypatch.setattr(pipeline, "open_place", NoPlace())
    with pytest.raises(UsageError, match=r"differing: seed"):
        pipeline.run_job(job_of(tiny_job(folder, mock={"seed": 7})))


def test_where_it_runs_is_not_a_changed_setting(run, folder):
    elsewhere = tiny_job(
        folder, train={"engine": "ray", "workers": 3}, compute={"engine": "threads"}
    )
    plan = planning.make_plan(job_of(elsewhere))
    assert set(plan.states().values()) == {"done"}


def test_plan_says_what_would_be_done(run, folder, job, tmp_path, capsys):
    found = estimate(job)
    assert set(found.states.values()) == {"done"}
    assert found.problem == ""
    assert found.facts["release mock"] == "400 spectra"
    changed = estimate(job_of(tiny_job(folder, density={"n_iterations": 6})))
    assert changed.states["prepare"] == "done"
    assert changed.states["density"] == "other settings"
    assert changed.states["embed-latents"] == "done"  # the map does not hang on the density
    assert changed.states["regions"] == "other settings"
    assert "density, outliers, regions, stack, report: made from other settings" in changed.problem
    fresh = estimate(job_of(tiny_job(folder, out=str(tmp_path / "new"))))
    assert set(fresh.states.values()) == {"to do"}
    assert not (tmp_path / "new").exists()
    # Before the mock release is written, nothing more than its size can be known.
    early = estimate(job_of(tiny_job(tmp_path)))
    assert early.facts["spectra"] == "400 (mock)"
    assert not (tmp_path / "mock").exists()


def test_status_says_what_is_there(run, capsys):
    main_ok(["status", str(run.path)])
    out = capsys.readouterr().out
    for name in ("sample", "autoencoder", "map-latents", "releases/mock", "report"):
        assert re.search(rf"{name}\b.*done", out)
    assert f"kept {run.sample.n_rows}" in out
    assert re.search(r"^auto-encoder run/autoencoder: χ² .* held-out spectra; linear", out, re.M)


def main_ok(arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (0, None)


def copy_of(run, tmp_path):
    """A copy of the run and its mock release, moved: fingerprints know no paths."""
    shutil.copytree(run.path.parent, tmp_path / "copy")
    return tmp_path / "copy"


def test_clean_deletes_what_is_stale_and_a_moved_run_stays_valid(
    run, tmp_path, capsys, monkeypatch
):
    moved = copy_of(run, tmp_path)
    assert set(planning.make_plan(job_of(tiny_job(moved))).states().values()) == {"done"}
    before = digests(moved / "run", without=())
    path = write_job(tmp_path / "job.toml", tiny_job(moved, density={"n_iterations": 6}))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    main_ok(["clean", str(path)])
    assert "Delete these 5 directories?" in capsys.readouterr().out
    assert digests(moved / "run", without=()) == before
    main_ok(["clean", str(path), "--yes"])
    left = {p.name for p in (moved / "run").iterdir() if p.is_dir()}
    assert left == {"releases", "labels", "sample", "autoencoder", "latents", "map-flux",
                    "map-latents"}  # fmt: skip
    main_ok(["clean", str(path), "--yes"])
    assert "nothing is stale" in capsys.readouterr().out


def test_lost_stages_are_made_again_with_the_same_bytes(run, job, tmp_path):
    moved = copy_of(run, tmp_path)
    gone = ("labels", "sample", "latents", "density", "outliers", "regions", "stacks")
    for name in gone:
        shutil.rmtree(moved / "run" / name)
    pipeline.run_job(job_of(tiny_job(moved)))
    for name in gone:
        assert digests(moved / "run" / name) == digests(run.path / name), name
    # What hung on none of these was not made again: its manifest has its time.
    for name in ("autoencoder", "map-latents", "map-flux", "report"):
        assert digests(moved / "run" / name, without=()) == digests(run.path / name, without=())


def test_python_opens_what_the_command_line_made(run):
    import spectra_scale as ss

    found = ss.open_run(run.path)
    assert found.sample.n_rows == ss.open_sample(run.path / "sample").n_rows
    assert ss.open_release(run.path / "releases" / "mock").n_rows == 400
    key = keys_of(found.index)[0]
    flux, ivar = found.sample.get(key)
    assert (flux != 0).sum() == (ivar > 0).sum()
    with pytest.raises(SpectraScaleError, match="expected manifest"):
        open_run(run.path / "stacks")


# Export ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".fits", ".parquet", ".csv", ".vot", ".xml"])
def test_the_exported_table_is_read_back_by_others(run, tmp_path, ending):
    from astropy.table import Table

    path = tmp_path / f"table{ending}"
    main_ok(["export", str(run.path), str(path)])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no scraps
    expected = run.table()
    if ending == ".parquet":
        found = read_table(path).to_pydict()
    elif ending == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        found = {name: [row[name] for row in rows] for name in rows[0]}
    else:
        table = Table.read(path, format="fits" if ending == ".fits" else "votable")
        table.convert_bytestring_to_unicode()
        found = {name: np.asarray(table[name]).tolist() for name in table.colnames}
    assert list(found) == [*expected.column_names, "label_name"]
    assert [str(k) for k in found["spectrum_key"]] == keys_of(expected)
    assert found["label_name"] == [CLASS_NAMES[c] for c in column(expected, "label")]
    for name in ("z", "ra", "snr_total", "chi2", "log_prob", "latent_map_0", "label", "row"):
        # Text holds the shortest digits that give the number back.
        np.testing.assert_array_equal(
            np.asarray(found[name]).astype(column(expected, name).dtype),
            column(expected, name),
            err_msg=name,
        )
    flags = [str(v) in ("True", "true", "1") for v in found["primary"]]
    assert flags == column(expected, "primary").tolist()


# Apply -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_of", [0, -1])
def test_one_spectrum_file_gets_the_numbers_it_has_in_the_run(run, folder, release, row_of):
    catalogue = release.catalogue.to_pylist()
    used = keys_of(run.index)
    rows = [r for r in catalogue if r["source_row"] == 0 and r["spectrum_key"] in used]
    record = rows[row_of]
    scored = apply_to_file(run.path, folder / "mock" / record["source_file"])
    facts = scored.facts
    assert facts["spectrum"] == record["spectrum_key"]
    (theirs,) = [r for r in run.table().to_pylist() if r["spectrum_key"] == facts["spectrum"]]
    assert facts["z"] == theirs["z"]
    # The file's pixels begin elsewhere than the release's: float64 sums in another order.
    assert facts["S/N (total)"] == pytest.approx(theirs["snr_total"], rel=1e-9)
    assert facts["masked fraction"] == theirs["masked_fraction"]
    # A batch of one goes through another float32 matrix product.
    assert facts["χ² per valid pixel"] == pytest.approx(theirs["chi2_valid"], rel=1e-4)
    assert facts["log p"] == pytest.approx(theirs["log_prob"], abs=1e-3)
    assert facts["p-value"] == pytest.approx(theirs["p_value"], abs=0.02)
    assert facts["verdict"].partition(" (")[0] == theirs["verdict"]
    if theirs["split"] == "validation":
        for name, prefix in (("latents", "latent_map"), ("flux", "flux_map")):
            place = [float(v) for v in facts[f"place on the map of {name}"].split(",")]
            assert place == pytest.approx([theirs[f"{prefix}_{k}"] for k in (0, 1)], abs=0.02)
    assert scored.flux.shape == scored.reconstruction.shape == (1000,)


def test_apply_prints_the_facts_of_a_file_and_draws_it(run, folder, tmp_path, capsys):
    file = next((folder / "mock").rglob("spec-*.fits"))
    main_ok(["apply", str(run.path), str(file), "--out", str(tmp_path / "one.png")])
    out = capsys.readouterr().out
    for word in (
        "log p: ",
        "p-value: ",
        "verdict: ",
        "χ² per valid pixel: ",
        "place on the map of flux: ",
        "class from the latents: ",
    ):
        assert word in out
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_bad_file_is_refused_with_its_reason(run, tmp_path):
    (tmp_path / "spec-0001-50000-0001.fits").write_bytes(b"")
    with pytest.raises(BadSpectrumError, match="found 0 bytes"):
        apply_to_file(run.path, tmp_path / "spec-0001-50000-0001.fits")
    # A spectrum that ends before the rest-frame range begins.
    path = write_spec(tmp_path, row=legacy_row(Z=np.float32(3.0)))
    with pytest.raises(SpectraScaleError, match=r"expected a spectrum that can be normalised"):
        apply_to_file(run.path, path)


def test_a_folder_is_ingested_scored_placed_and_stacked_with_the_runs_models(
    run, folder, tmp_path
):
    source = tmp_path / "new"
    source.mkdir()
    for file in sorted((folder / "mock").rglob("spec-*.fits"))[:40]:
        shutil.copy(file, source)
    before = digests(run.path, without=())
    done = apply_to_release(run.path, source, tmp_path / "out", Extra())
    assert digests(run.path, without=()) == before
    table, theirs = done.table(), {r["spectrum_key"]: r for r in run.table().to_pylist()}
    assert table.num_rows > 10
    for record in table.to_pylist():
        old = theirs[record["spectrum_key"]]
        assert record["chi2_valid"] == pytest.approx(old["chi2_valid"], rel=1e-4)
        assert record["log_prob"] == pytest.approx(old["log_prob"], abs=1e-3)
        if old["latent_map_fitted"]:
            # The very object is in the map: it lands where it lies.
            assert record["latent_map_0"] == pytest.approx(old["latent_map_0"], abs=0.05)
        for name in ("posterior_passive", "posterior_broad_line"):
            assert record[name] == pytest.approx(old[name], abs=1e-3)
    assert not any(column(table, "in_training"))
    drift = json.loads((done.folder("density") / "drift.json").read_text())
    assert drift["log_prob"]["n_old"] == run.sample.validation_rows().sum()
    assert not done.has("train")
    page = (done.folder("report") / "index.html").read_text()
    assert "Drift" in page
    regions = [r.name for r in read_regions(done.folder("regions"))]
    assert regions == [r.name for r in read_regions(run.folder("regions"))]
    assert (read_table(done.folder("stack") / "stacks.parquet").num_rows) == 4000


def test_a_release_more_rewrites_none_of_the_others_results(run, folder, tmp_path):
    """The same models on the old release, and on both: the old one's results are the same."""
    source = tmp_path / "new"
    source.mkdir()
    for file in sorted((folder / "mock").rglob("spec-*.fits"))[:8]:
        shutil.copy(file, source)
    old = {"name": "mock", "path": str(run.path / "releases" / "mock")}
    new = {"name": "zz", "source": [str(source)]}
    changes = {"models": {"from": str(run.path)}, "mock": None, "label": None}
    made = {}
    for name, releases in (("one", [old]), ("two", [old, new])):
        job = job_of(tiny_job(folder, out=str(tmp_path / name), release=releases, **changes))
        plan = planning.make_plan(job)
        with pipeline.open_place(job.compute) as place:
            line = pipeline.Pipeline(plan, place)
            opened = [line._release(section.name) for section in job.release]
            line._prepare(opened)
            line._models()
            line._score()
        made[name] = tmp_path / name
    for stage in ("labels", "latents", "density", "map-latents", "map-flux", "outliers"):
        files = [made[name] / stage / "objects" for name in ("one", "two")]
        assert {p.name for p in files[1].iterdir()} == {"mock.parquet", "zz.parquet"}
        one, two = (pq.read_table(f / "mock.parquet") for f in files)
        assert one.column_names == two.column_names
        for name in one.column_names:
            ours, theirs = column(one, name), column(two, name)
            if ours.dtype.kind == "f":
                # On some processors a product's last bits depend on where its arrays lie; two
                # neighbours in rank may change places, and a rank of 93 is 0.011.
                loose = 0.025 if "p_value" in name else 1e-3
                np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=loose, err_msg=name)
            else:
                np.testing.assert_array_equal(theirs, ours, err_msg=name)
    # The release itself was opened, not written.
    assert not (tmp_path / "two" / "releases" / "mock").exists()


def test_prepare_reports_the_layout_it_wrote(run):
    assert run.sample.chunk_rows == 64
    assert [s.n_rows for s in run.sample.shards][:-1] == [128] * (len(run.sample.shards) - 1)
    assert manifest(run.folder("prepare"))["kind"] == prepare.KIND
