"""Spectra like a given one: distances are what they say, whoever computes them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_builders import copy_of_run, keys_of
from scipy.spatial.distance import cdist, mahalanobis
from test_cli import call

import spectra_scale as ss
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.neighbours import ApproximateIndex, ExactIndex
from spectra_scale.models.similar import LatentSearch, scan, unit_scale
from spectra_scale.similar import Neighbourhood
from spectra_scale.store.objects import column, columns_of
from spectra_scale.store.tables import read_table, write_table


def latents_of(seed, n=300, dims=4):
    """Rows along a bent line: unlike in scale and correlated, as latents are."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, dims)) * np.geomspace(0.1, 10, dims)
    rows[:, 0] += 0.3 * rows[:, 1] ** 2
    return rows


# Distances ---------------------------------------------------------------------------------------


def test_the_scale_of_a_covariance_gives_scipys_mahalanobis_distance():
    rows = latents_of(1)
    covariance = np.cov(rows, rowvar=False)
    mine = np.linalg.norm(unit_scale(covariance) @ (rows[0] - rows[1]))
    theirs = mahalanobis(rows[0], rows[1], np.linalg.inv(covariance))
    assert mine == pytest.approx(theirs, rel=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_neighbours_do_not_depend_on_the_units_or_the_mixing_of_the_latents(seed):
    rng = np.random.default_rng(seed)
    rows = latents_of(seed)
    mixing = rng.standard_normal((4, 4)) + 4 * np.eye(4)
    training = rng.random(len(rows)) < 0.7
    found = [
        LatentSearch.build(each, training).query(each[:5], 6)
        for each in (rows, rows @ mixing.T + 7.0)
    ]
    # Rows are kept as float32: their distances are good to about 1e-6 of a latent's size.
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)
    plain = [
        LatentSearch.build(each, training, whiten=False).query(each[:5], 6)[1]
        for each in (rows, 2 * rows)
    ]
    np.testing.assert_allclose(2 * plain[0], plain[1], rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_one_pass_finds_what_the_index_and_a_matrix_of_distances_find(seed, k):
    rows = latents_of(seed).astype("f4")
    scale = unit_scale(np.cov(rows.astype("f8"), rowvar=False))
    indices, distances = scan(rows, rows[3].astype("f8"), scale, k)
    expected = cdist(rows @ scale.T, rows[3:4] @ scale.T)[:, 0]
    np.testing.assert_allclose(distances, np.sort(expected)[:k], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(expected[indices], distances, rtol=1e-5, atol=1e-6)
    _, theirs = ExactIndex(rows @ scale.T).query((rows[3:4] @ scale.T), k)
    np.testing.assert_allclose(distances, theirs[0], rtol=1e-5, atol=1e-5)


def test_a_constant_latent_is_refused():
    rows = latents_of(1)
    rows[:, 2] = 5.0
    with pytest.raises(SpectraScaleError, match="a latent is constant"):
        LatentSearch.build(rows, np.ones(len(rows), bool))


@pytest.mark.exhaustive  # numba compiles NN-descent's search for a minute in every process
@pytest.mark.timeout(900)
def test_the_approximate_index_finds_nearly_all_neighbours():
    rows = np.random.default_rng(2).standard_normal((4000, 10))
    queries = np.random.default_rng(3).standard_normal((200, 10))
    exact, _ = ExactIndex(rows).query(queries, 10)
    found, distances = ApproximateIndex(rows).query(queries, 10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall > 0.95
    assert (np.diff(distances, axis=1) >= 0).all()
    np.testing.assert_allclose(
        distances[:, 0], np.linalg.norm(rows[found[:, 0]] - queries, axis=1), rtol=1e-5
    )
    with pytest.raises(SpectraScaleError, match="neighbours were asked for"):
        ApproximateIndex(rows[:20]).query(queries, 21)


# A run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_run):
    return tiny_run.run


@pytest.fixture(scope="module")
def latents(run):
    return columns_of(run.objects("encode"), "latent").astype("f8")


def expected_distances(run, latents, place):
    """Whitened by the covariance of the training split, by scipy."""
    covariance = np.cov(latents[run.sample.training_rows()], rowvar=False)
    inverse = np.linalg.inv(covariance)
    return cdist(latents, latents[place : place + 1], "mahalanobis", VI=inverse)[:, 0]


@pytest.mark.slow
def test_the_nearest_are_those_of_a_matrix_of_distances_without_the_spectrum(run, latents):
    keys = keys_of(run.index)
    for place in (0, 50, 200):
        table = ss.find_similar(run, keys[place], k=12)
        distance = expected_distances(run, latents, place)
        order = np.argsort(distance)
        order = order[order != place][:12]
        assert keys_of(table) == [keys[i] for i in order]
        np.testing.assert_allclose(column(table, "distance"), distance[order], rtol=1e-4)
        log_prob = column(run.objects("density"), "log_prob")
        np.testing.assert_array_equal(column(table, "log_prob"), log_prob[order])
        np.testing.assert_array_equal(column(table, "z"), column(run.index, "z")[order])


@pytest.mark.slow
def test_repeats_of_the_object_are_marked_and_the_spectrum_itself_is_not_there(run, tmp_path):
    mine = copy_of_run(run, tmp_path)
    path = mine.folder("prepare") / "index.parquet"
    table = read_table(path)
    sky = column(table, "sky_id").copy()
    sky[[40, 60]] = sky[5]  # observed three times
    place = table.column_names.index("sky_id")
    write_table(path, table.set_column(place, "sky_id", pa.array(sky)))
    keys = keys_of(mine.index)
    found = Neighbourhood(mine).of(keys[5], mine.sample.n_rows - 1).table
    assert len(found) == mine.sample.n_rows - 1
    assert keys[5] not in keys_of(found)
    same = dict(zip(keys_of(found), column(found, "same_object").tolist(), strict=True))
    assert {key for key, flag in same.items() if flag} == {keys[40], keys[60]}


@pytest.mark.slow
def test_a_superseded_observation_is_no_neighbour_but_can_be_asked_for(run, tmp_path):
    mine = copy_of_run(run, tmp_path)
    path = mine.folder("prepare") / "index.parquet"
    table = read_table(path)
    old = np.arange(table.num_rows) == 40
    place = table.column_names.index("superseded")
    write_table(path, table.set_column(place, "superseded", pa.array(old)))
    keys = keys_of(mine.index)
    hood = Neighbourhood(mine)
    assert keys[40] not in keys_of(hood.of(keys[5], mine.sample.n_rows - 2).table)
    assert hood.of(keys[40], 3).query.name == keys[40]


@pytest.mark.slow
def test_the_noise_metric_uses_the_covariance_of_the_query(run, latents):
    table = run.objects("encode")
    place, n = 7, latents.shape[1]
    covariance = np.empty((n, n))
    for i in range(n):
        for j in range(i, n):
            covariance[i, j] = covariance[j, i] = column(table, f"cov_{i}_{j}")[place]
    inverse = np.linalg.inv(covariance)
    distance = cdist(latents, latents[place : place + 1], "mahalanobis", VI=inverse)[:, 0]
    found = ss.find_similar(run, keys_of(run.index)[place], 5, "noise")
    expected = np.sort(distance)[1:6]
    np.testing.assert_allclose(column(found, "distance"), expected, rtol=1e-3)


@pytest.mark.slow
def test_a_file_has_the_neighbours_of_its_spectrum_in_the_run(run, tiny_run):
    from spectra_scale.surveys.release import open_release

    release = open_release(run.path / "releases" / "mock")
    used = set(keys_of(run.index))
    record = next(r for r in release.catalogue.to_pylist()
                  if r["source_row"] == 0 and r["spectrum_key"] in used)  # fmt: skip
    hood = Neighbourhood(run)
    by_file = hood.of(tiny_run.folder / "mock" / record["source_file"], 10)
    by_key = hood.of(record["spectrum_key"], 10)
    assert by_file.query.name == record["spectrum_key"] not in keys_of(by_file.table)
    assert by_file.query.sky_id == by_key.query.sky_id >= 0
    assert by_file.query.label == by_key.query.label
    # A batch of one goes through another float32 matrix product.
    np.testing.assert_allclose(
        column(by_file.table, "distance"), column(by_key.table, "distance"), rtol=0.02, atol=1e-3
    )
    assert len(set(keys_of(by_file.table)) & set(keys_of(by_key.table))) >= 9


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_the_approximate_search_of_a_run_agrees_with_the_exact_one(run):
    keys = keys_of(run.index)
    exact, approximate = Neighbourhood(run), Neighbourhood(run, approximate=True)
    shared = [
        len({*keys_of(exact.of(k, 10).table)} & {*keys_of(approximate.of(k, 10).table)})
        for k in keys[:20]
    ]
    assert np.mean(shared) > 9
    with pytest.raises(UsageError, match="approximate with --metric noise"):
        Neighbourhood(run, "noise", approximate=True)


@pytest.mark.slow
def test_the_command_prints_writes_and_draws(run, capsys, tmp_path):
    key = keys_of(run.index)[0]
    out, figure = tmp_path / "like.parquet", tmp_path / "like.png"
    code, text, _ = call(capsys, "similar", run.path, key, "--k", 4, "--out", out,
                         "--figure", figure)  # fmt: skip
    assert code == 0
    table = read_table(out)
    assert table.num_rows == 4
    assert all(k in text for k in keys_of(table))
    assert figure.read_bytes().startswith(b"\x89PNG")
    code, _, err = call(capsys, "similar", run.path, key, "--out", out)
    assert (code, "exists already" in err) == (2, True)


@pytest.mark.slow
def test_what_cannot_be_asked_is_wrong_usage(run, capsys, tmp_path):
    key = keys_of(run.index)[0]
    cases = [
        ((run.path, "sdss:1-2-3"), "found neither a file nor a usable spectrum"),
        ((run.path, key, "--k", run.sample.n_rows), f"expected 1 to {run.sample.n_rows - 1}"),
        ((run.path, key, "--metric", "cosine"), "expected one of whitened, noise, raw"),
        ((run.path, key, "--out", tmp_path / "x.doc"), "found ending '.doc'"),
    ]
    for arguments, words in cases:
        code, out, err = call(capsys, "similar", *arguments)
        assert (code, out) == (2, "")
        assert words in err
    _, _, err = call(capsys, "similar", run.path, "sdss:1-2-3")
    assert "spectra-scale export" in err  # how keys are found
