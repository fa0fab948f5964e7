"""Stability over seeds: what agrees, what does not, and what is refused."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_builders import copy_of_run, digests, job_of, keys_of
from scipy.stats import kstest, spearmanr
from sklearn.neighbors import NearestNeighbors
from test_cli import call

from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.stability import (
    FLOW,
    Member,
    Summary,
    agreements,
    ensemble,
    likeness,
    overlap,
    rank_correlation,
    simple_scores,
    summarise,
    verdict,
)
from spectra_scale.planning import make_plan
from spectra_scale.store.objects import column
from spectra_scale.store.run import Run
from spectra_scale.store.tables import read_table, write_table


def everything(n):
    return {"all": np.ones(n, bool)}


# Agreement ---------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 60))
def test_the_rank_correlation_is_scipys_ties_too(seed, n):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, n).astype(float), rng.standard_normal(n)
    expected = spearmanr(a, b).statistic if np.ptp(a) else np.nan
    assert rank_correlation(a, b) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_only_the_order_of_scores_counts(seed):
    a, b = np.random.default_rng(seed).standard_normal((2, 300))
    members = [Member(1, 1), Member(2, 1)]
    (plain,) = agreements("s", members, np.stack([a, b]), everything(300))
    (bent,) = agreements("s", members, np.stack([np.exp(3 * a), b**3]), everything(300))
    assert bent == plain


def test_equal_rankings_agree_reversed_ones_do_not_and_independent_ones_by_chance():
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 20_000))
    assert rank_correlation(a, a) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert (overlap(a, a, 500), overlap(a, -a, 500)) == (1.0, 0.0)
    # The scatter of ρ of independent rankings is 1/√n; that of the overlap, hypergeometric.
    assert abs(rank_correlation(a, b)) < 5 / np.sqrt(20_000)
    assert overlap(a, b, 500) == pytest.approx(0.025, abs=5 * np.sqrt(0.025 / 500))


def test_pairs_are_sorted_by_what_they_differ_in():
    members = [Member(a, f) for a in (1, 2) for f in (1, 2, 3)]
    values = np.random.default_rng(1).standard_normal((6, 100))
    found = summarise(agreements("s", members, values, everything(100)))
    assert {each.differ: each.pairs for each in found} == {
        "flow": 6, "auto-encoder": 3, "both": 6
    }  # fmt: skip


def test_scores_that_cannot_be_ranked_are_refused():
    members = [Member(1, 1), Member(1, 2)]
    values = np.zeros((2, 50))
    values[1, 3] = np.nan
    with pytest.raises(SpectraScaleError, match="1 not finite"):
        agreements("s", members, values, everything(50))
    with pytest.raises(SpectraScaleError, match="found 19 all objects"):
        agreements("s", members, np.zeros((2, 19)), everything(19))


def test_the_ensembles_p_values_are_uniform_for_what_is_like_the_validation_split():
    rng = np.random.default_rng(8)
    truth = rng.standard_normal(4000)
    values = truth + rng.standard_normal((5, 4000))
    validation = np.arange(4000) < 2000
    found = ensemble(values, validation)
    # At p = 1e-3 for 2000 objects.
    assert kstest(found.p_value[~validation], "uniform").statistic < 1.95 / np.sqrt(2000) * 1.5
    # Many noisy judges together order the objects better than one.
    assert rank_correlation(found.mean_rank, truth) > rank_correlation(values[0], truth) + 0.1
    assert found.mean_rank.min() > 0
    assert found.mean_rank.max() < 1
    alone = ensemble(values[:1], validation)
    np.testing.assert_allclose(alone.mean_rank, (values[0].argsort().argsort() + 0.5) / 4000)
    assert np.isnan(alone.rank_spread).all()
    assert ensemble(np.stack([truth, 2 * truth]), validation).rank_spread.max() == 0


# Scores without a flow ---------------------------------------------------------------------------


def test_a_linear_change_of_the_latents_matters_only_to_what_is_not_whitened():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((600, 4)) ** 3
    training = np.arange(600) < 400
    mixing = rng.standard_normal((4, 4)) + np.diag([1.0, 3.0, 9.0, 27.0])
    one, two = simple_scores(rows, training), simple_scores(rows @ mixing.T + 3, training)
    for name in ("Gaussian", "kNN"):
        # kNN takes float32 rows.
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-4)
    assert rank_correlation(one["kNN, not whitened"], two["kNN, not whitened"]) < 0.95


def test_a_training_row_is_not_its_own_neighbour():
    rows = np.random.default_rng(3).standard_normal((300, 3))
    training = np.arange(300) < 200
    score = simple_scores(rows, training)["kNN, not whitened"]
    search = NearestNeighbors(n_neighbors=11).fit(rows[training])
    distance, _ = search.kneighbors(rows)
    expected = np.where(training, distance[:, 10], distance[:, 9])
    np.testing.assert_allclose(score, -np.log(expected), rtol=1e-5, atol=1e-5)


# The answer --------------------------------------------------------------------------------------


def summary(score, differ, rho, shared=0.5):
    three = (rho, rho, rho)
    return Summary(score, differ, "validation", 3, three, (shared,) * 3, (shared,) * 3)


@pytest.mark.parametrize(
    ("rho", "simple", "shared", "words"),
    [
        (
            0.98,
            0.70,
            0.88,
            "leaves no dependence on the auto-encoder's seed beyond its own scatter.",
        ),
        (0.98, 0.98, 0.88, "there was little to remove"),
        (0.98, 0.70, 0.30, "does not remove"),  # the bulk agrees, the outliers do not
        (0.90, 0.70, 0.80, "leaves less of it than any"),
        (0.90, 0.95, 0.80, "kNN depends on it less, which does not make it the better"),
        (0.90, 0.91, 0.80, "it is not the flow that helps"),
    ],
)
def test_the_answer_follows_the_numbers(rho, simple, shared, words):
    found = [
        summary(FLOW, "flow", 0.99, 0.9),
        summary(FLOW, "auto-encoder", rho, shared),
        summary("kNN", "auto-encoder", simple),
    ]
    text = verdict(found)
    assert words in text
    assert f"ρ = {rho:.3f}" in text
    assert f"kNN ρ = {simple:.3f}" in text


def test_auto_encoders_of_a_common_start_answer_nothing():
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((500, 6))
    assert likeness(rows, -3 * rows + 1 + 0.1 * rng.standard_normal((500, 6))) > 0.99
    turned = rows @ np.linalg.qr(rng.standard_normal((6, 6)))[0]
    assert likeness(rows, turned) < 0.8
    assert likeness(rows, np.zeros((500, 6))) == 0
    found = [summary(FLOW, "flow", 0.999), summary(FLOW, "auto-encoder", 0.999)]
    assert 'initial = "random"' in verdict(found, alike=0.99)
    assert "leaves no dependence" not in verdict(found, alike=0.99)
    assert "leaves no dependence" in verdict(found, alike=0.3)


def test_one_auto_encoder_answers_nothing_of_its_seed():
    assert "nothing can be said" in verdict([summary(FLOW, "flow", 0.99)])


# Runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tiny_run, tmp_path_factory):
    """Two auto-encoders with two flows each, by the command line's own function."""
    from spectra_scale.stability import Wanted, stability

    out = tmp_path_factory.mktemp("stability")
    return stability(Wanted([tiny_run.run.path], out, flow_seeds=2, autoencoder_seeds=1)), out


@pytest.mark.slow
def test_the_table_is_what_the_written_scores_give(tiny_run, compared):
    report, out = compared
    run = tiny_run.run
    table = read_table(out / "objects.parquet")
    assert sorted(keys_of(table)) == sorted(keys_of(run.index))
    names = [name for name in table.column_names if name.startswith("log_prob_")]
    assert names == ["log_prob_1_1", "log_prob_1_2", "log_prob_2_1", "log_prob_2_2"]
    own = dict(zip(keys_of(run.index), column(run.objects("density"), "log_prob"), strict=True))
    np.testing.assert_array_equal(
        column(table, "log_prob_1_1"), [own[key] for key in keys_of(table)]
    )
    held_out = column(table, "split") == "validation"
    pairs = read_table(out / "pairs.parquet").to_pylist()
    chosen = [p for p in pairs if p["rows"] == "validation" and p["score"] == FLOW]
    assert len(chosen) == 6
    for pair in chosen:
        a, b = (column(table, f"log_prob_{pair[f'autoencoder_{x}']}_{pair[f'flow_{x}']}")[held_out]
                for x in "ab")  # fmt: skip
        assert pair["rank_correlation"] == pytest.approx(spearmanr(a, b).statistic)
        lowest = [set(np.argsort(v)[: pair["n_least"]]) for v in (a, b)]
        assert pair["overlap_least"] == len(lowest[0] & lowest[1]) / pair["n_least"]
    assert (np.diff(column(table, "mean_rank")) >= 0).all()
    assert 0 < column(table, "p_ensemble").min() <= column(table, "p_ensemble").max() <= 1
    assert report.verdict in (out / "stability.md").read_text()
    assert (out / "stability.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_other_auto_encoder_is_a_run_on_the_same_sample_with_another_seed(tiny_run, compared):
    _, out = compared
    other, run = Run(out / "seed-2"), tiny_run.run
    assert other.folder("prepare").resolve() == run.folder("prepare").resolve()
    assert other.artifact("prepare").fingerprint == run.artifact("prepare").fingerprint
    assert other.artifact("train").fingerprint != run.artifact("train").fingerprint
    assert not other.has("embed-latents")
    job = job_of(tomllib.loads((other.path / "job.toml").read_text()))
    assert job.train.model_copy(update={"seed": 1}) == tiny_run.job.train
    # `spectra-scale run` would go on from here with maps and report.
    states = make_plan(job).states()
    assert [stage for stage, state in states.items() if state != "done"] == [
        "embed-latents", "embed-flux", "outliers", "regions", "stack", "report"
    ]  # fmt: skip


@pytest.mark.slow
def test_the_same_again_makes_nothing_anew(tiny_run, compared, capsys):
    _, out = compared
    made = digests(out, without=("run.log",))
    code, text, _ = call(capsys, "stability", tiny_run.run.path, "--flow-seeds", 2,
                         "--autoencoder-seeds", 1, "--out", out)  # fmt: skip
    assert code == 0
    assert "Rankings by log p" in text
    # Manifests hold the time they were written.
    assert digests(out, without=("run.log",)) == made
    # The auto-encoder it trained can be given as a run.
    code, _, _ = call(capsys, "stability", tiny_run.run.path, out / "seed-2", "--flow-seeds", 2,
                      "--out", out)  # fmt: skip
    assert code == 0
    assert digests(out, without=("run.log",)) == made


def change_job(run, **train):
    path = run.path / "job.toml"
    data = tomllib.loads(path.read_text())
    data["train"] |= train
    path.write_text(tomli_w.dumps(data))


@pytest.mark.slow
def test_runs_that_cannot_be_compared_are_refused(tiny_run, tmp_path, capsys):
    mine = tiny_run.run
    other = copy_of_run(mine, tmp_path)

    def refused(words, *more):
        code, out, err = call(capsys, "stability", mine.path, *more, "--out", tmp_path / "out")
        assert code in (1, 2)
        assert out == ""
        assert words in err
        assert not (tmp_path / "out").exists()

    refused("both have train.seed = 1", other.path)
    refused("nothing to compare", "--flow-seeds", 1)
    refused("found no job.toml", tmp_path)
    change_job(other, seed=9)
    manifest = other.folder("density") / "manifest.json"
    described = json.loads(manifest.read_text())
    manifest.write_text(
        json.dumps(described | {"settings": described["settings"] | {"n_iterations": 6}})
    )
    refused("differ in density.n_iterations", other.path)
    manifest.write_text(json.dumps(described))
    # The same spectra of another reduction are other objects.
    index = other.folder("prepare") / "index.parquet"
    table = read_table(index)
    place = table.column_names.index("reduction")
    changed = table.set_column(place, "reduction", pa.array(["v9"] * table.num_rows))
    write_table(index, changed)
    refused("found no object in common", other.path)
    manifest.unlink()
    refused("found no finished density", other.path)
    assert not list(Path(mine.path).glob("stability*"))
