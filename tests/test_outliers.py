"""The outliers stage: planted faults get their verdicts, others none; parts, reuse, bad input."""

import numpy as np
import pyarrow as pa
import pytest
from pipeline_builders import DyingPlace, Killed, digests, index_of, make_sample
from pydantic import ValidationError

from spectra_scale.compute.place import Here
from spectra_scale.config import EncodeSection, OutliersSection
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.autoencoder import Architecture, seeded_autoencoder
from spectra_scale.models.baseline import fit_weighted_pca
from spectra_scale.models.checkpoint import save_model
from spectra_scale.models.initialise import start_from_components
from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.islands import find_islands
from spectra_scale.models.normalise import Normalisation
from spectra_scale.models.redshift_scan import scan_redshifts, shifts_within
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.triage import (
    FAULTS,
    OWN_LEVEL,
    SHOWN,
    Levels,
    evidence_in_words,
    scan_gain,
    verdicts,
)
from spectra_scale.stages import encode, outliers
from spectra_scale.stages.outliers.isolation import fit_cloud, knn_distances
from spectra_scale.store import artifact
from spectra_scale.store.arrays import shards_of
from spectra_scale.store.objects import column, columns_of, read_objects, write_objects

GRID = WavelengthGrid.rest_frame()
WAVE = GRID.centres
N = 640
NOISE = 1 / 25
SKY = (5578.9, 6302.0, 6865.0, 7278.0, 7342.9, 7753.0, 7796.3, 7823.6, 7916.0, 7967.0)
#: Rows with a fault each: row -> verdict. Rows 3, 7, 11 … are of the validation split.
PLANTED = {
    20: "bad-pixels",
    25: "calibration-step",
    30: "sky-residual",
    36: "wrong-redshift",
    41: "missing-range",
    46: "unusable",
    52: "rare-shape",
}


def spectrum_at(redshift, rng, shift=0.0):
    """Galaxies with lines and a break, at a redshift that is wrong by `shift` (dex)."""
    n = len(redshift)
    wave = WAVE * 10**shift
    slope, line, break_ = rng.normal(0, 0.3, n), rng.uniform(0.5, 2, n), rng.uniform(0.2, 0.6, n)
    shape = 1 + slope[:, None] * (np.log(wave) - 8.6)
    shape -= break_[:, None] / (1 + np.exp((wave - 4000) / 30))
    for centre, strength in (
        (3728, 0.8),
        (4862.7, 0.4),
        (5008.2, 0.7),
        (6564.6, 1.0),
        (6730, 0.3),
    ):
        shape += strength * line[:, None] * np.exp(-0.5 * ((wave - centre) / 8) ** 2)
    return shape


def planted():
    """Flux, ivar and redshift of all rows, faults as in `PLANTED`."""
    rng = np.random.default_rng(5)
    redshift = rng.uniform(0.06, 0.3, N)
    flux = spectrum_at(redshift, rng)
    wrong = 40 * GRID.log10_step
    flux[36] = spectrum_at(redshift[36:37], rng, wrong)[0]
    seen = WAVE * (1 + redshift)[:, None]
    at_sky = (np.abs(np.log(seen[:, :, None] / np.array(SKY))) < 8e-4).any(axis=2)
    sigma = np.where(at_sky, 2, 1) * NOISE
    flux[25] *= np.where(seen[25] > 5975, 1.4, 1)
    flux += sigma * rng.standard_normal(flux.shape)
    flux[30] += np.where(at_sky[30], 8 * sigma[30], 0)
    flux[20, [333, 490]] += 50 * NOISE
    ivar = np.where((seen > 3800) & (seen < 9200), sigma**-2.0, 0)
    ivar[41, 560:] = 0
    flux[46] = -1
    return np.where(ivar > 0, flux, 0).astype("f4"), ivar.astype("f4"), redshift


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    flux, ivar, redshift = planted()
    index = index_of(N, z=redshift, snr_median=np.full(N, 25.0))
    return make_sample(tmp_path_factory.mktemp("sample"), flux, ivar, index=index)


def finished(out, kind, **counts):
    recipe = artifact.Recipe(kind, 1, {}, {"made": "here"})
    assert artifact.begin(out, recipe) is None
    return lambda: artifact.finish(out, recipe, counts=counts)


@pytest.fixture(scope="module")
def made(sample, tmp_path_factory):
    """The sample's linear auto-encoder, latents, and made-up densities and places on a map."""
    folder = tmp_path_factory.mktemp("made")
    fed = Normalisation().apply(*sample.read(slice(0, N)))
    rows = sample.training_rows() & fed.usable
    linear = fit_weighted_pca(fed.flux[rows], fed.ivar[rows], 4, seed=0)
    scale = linear.coefficients(fed.flux[rows], fed.ivar[rows]).std(axis=0)
    model = seeded_autoencoder(Architecture(GRID.n_pixels, (32, 16), 4), 1)
    start_from_components(model, linear.mean, linear.components, scale)
    done = finished(folder / "train", "train")
    inputs = ModelInputs(Normalisation(), linear)
    save_model(folder / "train", model, inputs.normalisation, {"fill": True})
    inputs.save(folder / "train")
    trained = done()
    config = EncodeSection(covariance=False)
    recipe = encode.recipe(sample.artifact.fingerprint, trained.fingerprint, config)
    given = encode.EncodeInputs(sample, trained)
    latents = encode.run(given, config, Here(), folder / "latents", recipe)
    p = np.linspace(0.02, 1, N)
    p[52] = 0.002
    done = finished(folder / "density", "density")
    write_objects(folder / "density/objects", sample.index, {"p_value": p})
    density = done()
    xy = np.random.default_rng(1).normal(0, 1, (N, 2)).astype("f4")
    xy[100:115] += 30
    done = finished(folder / "map", "embed-latents")
    write_objects(folder / "map/objects", sample.index, {"latent_map": xy})
    return outliers.OutliersInputs(sample, trained, latents, density, done())


def run(made, out, place=None, **settings):
    config = OutliersSection(island_share=0.05, **settings)
    fitted = None if made.fitted is None else made.fitted.fingerprint
    recipe = outliers.recipe(made.density.fingerprint, made.map.fingerprint, config, fitted)
    return outliers.run(made, config, place or Here(), out, recipe)


@pytest.fixture(scope="module")
def judged(made, tmp_path_factory):
    return run(made, tmp_path_factory.mktemp("outliers"))


def table_of(sample, judged):
    return read_objects(judged.path / "objects", sample.index)


# The stage ---------------------------------------------------------------------------------------


def test_each_planted_fault_gets_its_verdict_and_sound_spectra_none(sample, judged):
    table = table_of(sample, judged)
    verdict = column(table, "verdict")
    assert {row: verdict[row] for row in PLANTED} == PLANTED
    others = np.setdiff1d(np.arange(N), list(PLANTED))
    # Of six tests a Gaussian's 5 widths are passed by chance once in half a million.
    assert (verdict[others] == "none").mean() > 0.99
    assert judged.counts["rows"] == N
    assert judged.counts["unusable"] == 1
    assert sum(judged.counts[word] for word in ("none", *set(PLANTED.values()))) <= N


def test_the_evidence_says_where_the_fault_is(sample, judged):
    table = table_of(sample, judged)
    z = column(sample.index, "z")
    # The weaker of two spikes of the same height is found as well.
    assert column(table, "n_spikes")[20] == 2
    places = WAVE[[333, 490]] * (1 + z[20])
    assert np.abs(places / column(table, "spike_wave")[20] - 1).min() < 1e-3
    # The model follows a part of the step.
    assert 0.15 < column(table, "step")[25] < 0.45
    assert column(table, "missing_red")[41] > 0.3
    # Its lines lie 40 pixels bluer than they belong: found to one, 9e-4 in 1 + z.
    true = (1 + z[36]) * 10 ** (-40 * GRID.log10_step) - 1
    assert column(table, "other_redshift")[36] == pytest.approx(true, abs=2e-3)
    assert column(table, "chi2_ratio")[36] > 1.2
    assert np.isnan(column(table, "evidence")[46])
    assert column(table, "outlier").sum() == 1


def test_neighbours_and_islands_are_what_plain_code_finds(sample, made, judged):
    table = table_of(sample, judged)
    usable = np.arange(N) != 46
    latents = columns_of(read_objects(made.latents.path / "objects", sample.index), "latent")
    training = sample.training_rows() & usable
    centred = latents - latents[training].mean(axis=0)
    inverse = np.linalg.inv(np.cov(latents[training], rowvar=False))
    for row in (3, 8, 36):
        step = centred[training] - centred[row]
        distance = np.sort(np.sqrt(np.einsum("ij,jk,ik->i", step, inverse, step)))
        expected = distance[10 if training[row] else 9]
        # Whitened in float64, stored in float32.
        assert column(table, "knn_distance")[row] == pytest.approx(expected, rel=1e-4)
    rank = column(table, "knn_distance")
    validation = rank[sample.validation_rows() & usable]
    np.testing.assert_allclose(
        column(table, "knn_p_value")[8], ((validation > rank[8]).sum() + 1) / (len(validation) + 1)
    )
    small = column(table, "small_island").astype(bool)
    assert small[100:115].all()
    assert column(table, "island_size")[105] == 15
    assert not small[~usable].any()
    overlap = judged.metrics["overlap"]["flow and islands"]
    assert overlap["islands"] == small.sum()
    assert overlap["both"] == 0


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(made, judged, tmp_path):
    n_shards = len(made.sample.shards)
    for after in (1, n_shards + 2, 2 * n_shards + 3):
        with pytest.raises(Killed):
            run(made, tmp_path / "out", DyingPlace(after))
    done = run(made, tmp_path / "out")
    assert digests(done.path) == digests(judged.path)
    assert not (done.path / "parts").exists()
    again = run(made, tmp_path / "out", DyingPlace(0))  # nothing is left to do
    assert again.counts == done.counts


def test_other_data_are_judged_by_what_was_usual(made, judged, sample, tmp_path):
    applied = outliers.OutliersInputs(
        made.sample, made.autoencoder, made.latents, made.density, made.map, fitted=judged
    )
    again = run(applied, tmp_path / "again")
    mine, theirs = table_of(sample, again), table_of(sample, judged)
    for name in ("verdict", "misfit", "island", "sigma_bad_pixels"):
        np.testing.assert_array_equal(column(mine, name), column(theirs, name), err_msg=name)
    # Whether an object is its own neighbour is known in its own run alone.
    rows = sample.validation_rows() & column(theirs, "verdict").astype(bool)
    np.testing.assert_array_equal(
        column(mine, "knn_distance")[rows], column(theirs, "knn_distance")[rows]
    )


@pytest.mark.slow
def test_it_is_the_same_wherever_it_runs(sample, made, judged, executor, tmp_path):
    """To rounding, which on some processors depends on the number of threads of a worker."""
    here, there = (
        read_objects(path / "objects", sample.index)
        for path in (judged.path, run(made, tmp_path / "out", executor).path)
    )
    assert here.column_names == there.column_names
    for name in here.column_names:
        ours, theirs = column(here, name), column(there, name)
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(theirs, ours, err_msg=name)


@pytest.mark.parametrize(
    "wrong",
    [{"p_value": 0}, {"sigma": -1}, {"k": 0}, {"min_island": 1}, {"redshift_reach": 0.001},
     {"island_share": 1.5}, {"max_fit": 2}, {"nonsense": 1}],
)  # fmt: skip
def test_nonsense_settings_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        OutliersSection(**wrong)


# Its parts ---------------------------------------------------------------------------------------


def test_a_verdict_is_the_first_fault_beyond_the_limit_and_rare_needs_none():
    strength = {kind: np.zeros(5) for kind in FAULTS}
    strength["bad-pixels"][0] = 50
    strength["wrong-redshift"][:2] = 6
    strength["sky-residual"][2] = 4.9
    rare = np.array([True, False, True, False, True])
    usable = np.array([True, True, True, True, False])
    verdict, evidence = verdicts(strength, rare, usable, 5.0)
    assert verdict.tolist() == [
        "wrong-redshift", "wrong-redshift", "rare-shape", "none", "unusable",
    ]  # fmt: skip
    np.testing.assert_array_equal(evidence, [6, 6, 4.9, 0, np.nan])


def test_levels_follow_signal_to_noise_and_ignore_a_few_broken_spectra():
    rng = np.random.default_rng(1)
    snr = 10 ** rng.uniform(0.5, 2, 4000)
    statistic = 0.2 * np.log(snr) + rng.normal(0, 1.5, 4000)
    none = np.zeros(4000, bool)
    sound = Levels.of("sky-residual", statistic, snr, none)
    broken = statistic.copy()
    broken[::50] += 100
    found = Levels.of("sky-residual", broken, snr, none)
    strength = found.strength(statistic, snr, none)
    # Centre and width are known to a tenth of the width in bins of 400.
    assert np.mean(strength) == pytest.approx(0, abs=0.1)
    assert np.std(strength) == pytest.approx(1, abs=0.15)
    # With 2 % broken ones the 95 % quantile is the Gaussian's 97 %: 1.88 / 1.645 as wide, and
    # more where a bin of 400 has its share twice.
    assert np.median(found.width / sound.width) < 1.25
    assert found.strength(np.array([np.nan]), np.array([10.0]), none[:1]) == 0
    empty = Levels.of("sky-residual", np.empty(0), np.empty(0), none[:0])
    assert empty.strength(snr, snr, none).max() == 0


def test_broad_lines_are_compared_with_each_other_where_there_are_enough():
    rng = np.random.default_rng(2)
    snr = 10 ** rng.uniform(0.5, 2, 4000)
    broad = np.arange(4000) < 400
    # Broad lines lie 6 higher and scatter three times as far; all grow with S/N.
    statistic = np.log(snr) + np.where(
        broad, 6 + 6 * rng.normal(size=4000), 2 * rng.normal(size=4000)
    )
    levels = Levels.of("calibration-step", statistic, snr, broad)
    strength = levels.strength(statistic, snr, broad)
    for rows in (broad, ~broad):
        # A width from 400 is known to a tenth, and is the greater of two.
        assert np.median(strength[rows]) == pytest.approx(0, abs=0.15)
        assert np.std(strength[rows]) == pytest.approx(1, abs=0.15)
    # Broad ones in the pool would widen what is usual of the others.
    assert (
        levels.width < Levels.of("calibration-step", statistic, snr, np.zeros(4000, bool)).width
    ).all()
    few = broad & (np.arange(4000) < OWN_LEVEL - 1)
    pooled = Levels.of("calibration-step", statistic, snr, few)
    np.testing.assert_array_equal(pooled.broad, [0, 1])
    np.testing.assert_array_equal(
        pooled.strength(statistic, snr, few), pooled.strength(statistic, snr, ~few)
    )
    # Nothing but broad lines is no group beside others.
    alone = Levels.of("calibration-step", statistic[broad], snr[broad], broad[broad])
    np.testing.assert_array_equal(alone.broad, [0, 1])


def test_broad_lines_that_are_better_than_others_are_not_judged_more_sharply():
    rng = np.random.default_rng(3)
    broad = np.arange(1000) < 200
    statistic = np.where(broad, 0.01, 1) * rng.normal(size=1000)
    levels = Levels.of("bad-pixels", statistic, np.full(1000, 20.0), broad)
    assert levels.broad[1] == 1


def test_the_gain_of_another_redshift_counts_in_its_scatter():
    # 400 better of 1000 with ten latents: 400 / √40.
    gain = scan_gain(np.array([1000.0]), np.array([1400.0]), [1000], 10)
    assert gain == pytest.approx(400 / np.sqrt(40))
    assert np.isnan(scan_gain(np.array([np.nan]), np.array([1.0]), [0], 10))


def test_every_verdict_is_put_in_words():
    value = dict.fromkeys(SHOWN, 0.5)
    words = [evidence_in_words(kind, value) for kind in (*FAULTS, "rare-shape")]
    assert all(words)
    assert len(set(words)) == len(words)
    assert evidence_in_words("none", value) == ""


def test_islands_are_named_by_size_and_others_go_with_the_nearest():
    rng = np.random.default_rng(2)
    centres = np.repeat([[0, 0], [20, 0], [0, 20]], [300, 40, 15], axis=0)
    points = centres + rng.normal(0, 0.5, centres.shape)
    found = find_islands(points, 10)
    inner = [found.label[rows] for rows in (slice(0, 300), slice(300, 340), slice(340, 355))]
    assert [np.bincount(part[part >= 0]).argmax() for part in inner] == [0, 1, 2]
    assert found.place([[20.1, 0.1], [0.2, 19.8]]).tolist() == [1, 2]
    assert found.size_of(np.array([0, 2, -1])).tolist() == [*found.size[[0, 2]], 0]
    few = find_islands(points[:5], 10)
    assert few.label.tolist() == [-1] * 5
    assert few.size_of(few.label).tolist() == [0] * 5
    with pytest.raises(UsageError, match="at least 2"):
        find_islands(points, 1)
    with pytest.raises(SpectraScaleError, match="NaN"):
        find_islands(np.full((30, 2), np.nan), 10)


def test_a_constant_latent_does_not_count_in_distances(tmp_path):
    rng = np.random.default_rng(3)
    latents = rng.normal(0, 3, (50, 3)).astype("f4")
    latents[:, 1] = 7
    training = np.arange(50) < 40
    cloud = fit_cloud(latents, training, 1)
    assert np.isfinite(cloud.whiten(latents)).all()
    from safetensors.numpy import save_file

    save_file({"cloud_rows": cloud.rows}, tmp_path / "r")
    found = knn_distances(cloud, tmp_path / "r", latents, shards_of(50, 20), (100, Here()))
    # More neighbours than there are: the farthest then.
    assert np.isfinite(found).all()


def test_a_scan_finds_nothing_to_try_near_redshift_zero():
    with pytest.raises(UsageError, match="reach"):
        shifts_within(GRID.log10_step, 1e-3)
    shifts = shifts_within(GRID.log10_step, 0.1)
    assert (np.abs(shifts) * GRID.log10_step >= 3.2e-3).all()
    assert set(shifts) == set(-shifts)
    model = seeded_autoencoder(Architecture(GRID.n_pixels, (8,), 2), 1)
    empty = np.zeros((2, GRID.n_pixels), "f4")
    found = scan_redshifts(
        model, ModelInputs(Normalisation()), empty, empty, shifts,
        log10_step=GRID.log10_step, redshift=np.zeros(2),
    )  # fmt: skip
    assert np.isnan(found.chi2).all()


def test_figures_and_benchmark_see_the_same_columns(judged, sample):
    table = table_of(sample, judged)
    assert table.schema.field("verdict").type == pa.string()
    assert table.schema.field("outlier").type == pa.bool_()
