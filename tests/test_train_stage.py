"""The train stage: what it leaves behind, and that a killed training ends like an unbroken one."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_builders import digests, index_of, low_rank_spectra, make_sample
from safetensors.numpy import load_file

from spectra_scale.config import ComputeSection, TrainSection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.baseline import WeightedPCA
from spectra_scale.models.inputs import load_encoder
from spectra_scale.provenance import read_json
from spectra_scale.stages import train
from spectra_scale.stages.train import worker
from spectra_scale.stages.train.rows import Spectra, StreamedRows, held_rows
from spectra_scale.store.objects import column
from spectra_scale.store.tables import read_table

N, N_PIXELS = 300, 60
BASE = {
    "hidden": (24, 12),
    "n_latent": 3,
    "epochs": 6,
    "batch_size": 32,
    "validation_batch_size": 64,
    "learning_rate": 3e-3,
    "engine": "local",
    "checkpoint_every": 2,
}
LOSSES = [
    f"{split}_{name}"
    for split in ("train", "validation")
    for name in ("chi2", "chi2_valid", "chi2_uncapped", "chi2_valid_uncapped")
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    flux, ivar = low_rank_spectra(N, N_PIXELS)
    return make_sample(tmp_path_factory.mktemp("train") / "sample", flux, ivar)


def run(sample, out, here, memory_gib=4.0, **changes):
    config = TrainSection(**(BASE | changes))
    inputs = train.TrainInputs(sample, ComputeSection(memory_gib=memory_gib, workers=1))
    recipe = train.recipe(sample.artifact.fingerprint, config)
    return train.run(inputs, config, here, out, recipe)


@pytest.fixture(scope="module")
def unbroken(sample, tmp_path_factory):
    from spectra_scale.compute.place import Here

    return run(sample, tmp_path_factory.mktemp("unbroken") / "ae", Here())


def weights(path):
    return load_file(path / "model.safetensors")


def history(path):
    table = read_table(path / "history.parquet")
    cost = {"seconds", "data_seconds", "reduce_seconds", "cpu_seconds", "memory_mib"}
    return {name: column(table, name) for name in table.column_names if name not in cost}


def assert_equal_training(one, other):
    """To the bit: weights and every loss of every epoch; only the seconds may differ."""
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    mine, theirs = history(one), history(other)
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


# What it leaves behind ---------------------------------------------------------------------------


def test_both_losses_on_both_splits_are_there_for_every_epoch(unbroken):
    found = history(unbroken.path)
    assert found["epoch"].tolist() == list(range(1, 7))
    for name in LOSSES:
        assert np.isfinite(found[name]).all()
        assert (found[name] > 0).all()
    # Eq. 1 divides by all pixels, eq. 2 by the valid ones, of which there are fewer.
    assert (found["train_chi2"] < found["train_chi2_valid"]).all()
    assert found["validation_chi2"][-1] < found["validation_chi2"][0] / 3
    last = unbroken.metrics["last epoch"]
    assert last["validation_chi2"] == found["validation_chi2"][-1]
    np.testing.assert_allclose(found["learning_rate"], 3e-3 * 0.99 ** np.arange(6), rtol=1e-12)


def test_the_last_validation_loss_is_that_of_the_published_model(sample, unbroken):
    """Paper eq. 1 and 2 in float64 NumPy, from the published weights and the sample on disk."""
    model, inputs = load_encoder(unbroken.path)
    flux, ivar = sample.read(slice(0, N))
    rows = sample.validation_rows()
    found = inputs.apply(flux[rows], ivar[rows])
    x = found.flux.astype("f8")
    state = {name: value.astype("f8") for name, value in weights(unbroken.path).items()}
    for side in ("encoder", "decoder"):
        layers = sorted({int(k.split(".")[1]) for k in state if k.startswith(side)})
        for i in layers:
            x = x @ state[f"{side}.{i}.weight"].T + state[f"{side}.{i}.bias"]
            x = np.maximum(x, 0) if i != layers[-1] else x
    del model
    v, f = found.ivar.astype("f8"), found.flux.astype("f8")
    square = (x - f) ** 2
    last = unbroken.metrics["last epoch"]
    # float32 forward pass against float64: 1e-6 a pixel, less in the mean.
    for kind, weight in (
        ("uncapped", v),
        ("", np.minimum(v, (50 / np.where(f == 0, np.inf, np.abs(f))) ** 2 + (f == 0) * v)),
    ):
        suffix = f"_{kind}" if kind else ""
        total = (square * weight).sum(axis=1)
        assert np.mean(total) / N_PIXELS == pytest.approx(
            last[f"validation_chi2{suffix}"], rel=1e-5
        )
        assert np.mean(total / (v > 0).sum(axis=1)) == pytest.approx(
            last[f"validation_chi2_valid{suffix}"], rel=1e-5
        )


def test_the_baseline_is_the_weighted_pca_that_is_stored(sample, unbroken):
    stored = load_file(unbroken.path / "baseline.safetensors")
    model = WeightedPCA(stored["mean"], stored["components"])
    _, inputs = load_encoder(unbroken.path)
    flux, ivar = sample.read(slice(0, N))
    rows = sample.validation_rows()
    found = model.chi2(*inputs.apply(flux[rows], ivar[rows])[:2])
    said = unbroken.metrics["baseline"]
    assert said["components"] == 3
    # The median normalisation is float32, and the file's rows are read in other blocks.
    assert said["validation_chi2_uncapped"] == pytest.approx(np.mean(found.chi2), rel=1e-5)
    # Spectra of three hidden quantities: the linear model is at the noise, one per pixel.
    assert said["validation_chi2_valid_uncapped"] == pytest.approx(1.0, abs=0.15)


def test_rows_parameters_and_where_it_ran_are_recorded(sample, unbroken):
    counts = unbroken.counts
    assert counts == {"train": 225, "validation": 75, "unusable": 0}
    with np.load(unbroken.path / "rows.npz") as rows:
        np.testing.assert_array_equal(rows["train"], np.flatnonzero(sample.training_rows()))
    assert unbroken.metrics["parameters"] == sum(w.size for w in weights(unbroken.path).values())
    assert unbroken.manifest["where"] == {"engine": "local", "workers": 2}


def test_a_second_stage_is_remembered_with_the_weights(sample, unbroken, here, tmp_path):
    staged = run(sample, tmp_path / "ae", here, epochs=2, inpaint_epochs=1)
    assert [load_encoder(made.path)[1].inpaint for made in (staged, unbroken)] == [1, 0]


def test_a_finished_training_is_not_repeated(sample, unbroken, here):
    before = digests(unbroken.path, without=())
    run(sample, unbroken.path, here)
    assert digests(unbroken.path, without=()) == before


def test_starting_from_the_linear_baseline_starts_near_it(sample, unbroken, here, tmp_path):
    how = {"initial": "linear", "fill": "linear", "learning_rate": 1e-6}
    started = run(sample, tmp_path / "ae", here, epochs=1, **how)
    linear = started.metrics["baseline"]["validation_chi2_uncapped"]
    found = history(started.path)["validation_chi2_uncapped"][0]
    # With missing pixels filled the network is the baseline but for float32 weights, and for
    # eight steps of 1e-6.
    assert found == pytest.approx(linear, rel=1e-4)
    assert found < history(unbroken.path)["validation_chi2_uncapped"][0] / 2


def test_missing_pixels_are_filled_with_the_baselines_guess_where_asked(
    sample, unbroken, here, tmp_path
):
    filled = run(sample, tmp_path / "ae", here, epochs=1, fill="linear")
    _, inputs = load_encoder(filled.path)
    _, plain = load_encoder(unbroken.path)
    flux, ivar = sample.read(slice(0, 20))
    ours, zeros = inputs.apply(flux, ivar).flux, plain.apply(flux, ivar).flux
    missing = ivar == 0
    assert not zeros[missing].any()
    np.testing.assert_array_equal(ours[~missing], zeros[~missing])
    # The hidden spectrum is smooth and the guess near it: neighbours differ by noise.
    assert np.abs(ours[missing] - 1).mean() < 0.2


def test_more_rows_than_a_worker_may_hold_change_nothing(sample, here, tmp_path):
    # Memory for one chunk alone: rows are streamed from disk again and again.
    streamed = run(sample, tmp_path / "ae", here, memory_gib=1e-9, epochs=1)
    held = run(sample, tmp_path / "held", here, epochs=1)
    assert_equal_training(streamed.path, held.path)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_streamed_rows_are_the_resident_rows_and_those_that_encode_sees(sample, unbroken, slots):
    _, inputs = load_encoder(unbroken.path)
    flux, ivar = sample.read(slice(0, N))
    expected = inputs.apply(flux, ivar)
    spectra = Spectra(sample.arrays, (N, N_PIXELS), 32, inputs)
    streamed = StreamedRows(spectra, slots * spectra.chunk_bytes)
    held = held_rows(spectra, np.arange(0, N, 2))
    rng = np.random.default_rng(slots)
    for n in (6, 1, 40, N // 2):
        rows = np.append(rng.permutation(np.arange(0, N, 2))[: n - 1], 298)
        for source in (streamed, held):
            for found, array in zip(source.take(rows), expected[:2], strict=True):
                np.testing.assert_array_equal(found.numpy(), array[rows])


def test_factors_found_before_give_the_same_rows(sample, unbroken):
    _, inputs = load_encoder(unbroken.path)
    with np.load(unbroken.path / "rows.npz") as file:
        factor = file["factor"]
    shape, rows = (N, N_PIXELS), np.arange(N)
    one = held_rows(Spectra(sample.arrays, shape, 32, inputs, factor), rows)
    other = held_rows(Spectra(sample.arrays, shape, 32, inputs), rows)
    for a, b in zip(one.take(rows), other.take(rows), strict=True):
        assert torch.equal(a, b)


# Who trains --------------------------------------------------------------------------------------


def test_superseded_unusable_and_other_classes_do_not_train(here, tmp_path):
    flux, ivar = low_rank_spectra(N, N_PIXELS)
    flux[10] *= -1  # no positive median: cannot be normalised
    ivar[11] = 0
    flux[11] = 0
    old = np.arange(N) == 12
    sample = make_sample(tmp_path / "s", flux, ivar, superseded=old)
    made = run(sample, tmp_path / "ae", here, epochs=1, classes=("star-forming", "passive"))
    with np.load(tmp_path / "ae" / "rows.npz") as rows:
        used = np.concatenate([rows["train"], rows["validation"]])
    label = column(sample.index, "label")
    assert set(label[used]) == {1, 6}
    assert not {10, 11, 12} & set(used.tolist())
    everything = run(sample, tmp_path / "all", here, epochs=1)
    assert everything.counts["unusable"] == 2
    assert everything.counts["train"] + everything.counts["validation"] == N - 3
    assert made.counts["train"] < everything.counts["train"]


def test_balance_gives_every_class_the_same_say(sample, here, tmp_path):
    made = run(sample, tmp_path / "ae", here, epochs=1, balance=True, classes=("N/A", "passive"))
    with np.load(made.path / "rows.npz") as file:
        rows, weight = file["train"], file["weight"].astype("f8")
    label = column(sample.index, "label")[rows]
    sums = [weight[rows][label == code].sum() for code in (0, 6)]
    # float32 weights of some thirty rows.
    assert sums[0] == pytest.approx(sums[1], rel=1e-6)
    assert weight[rows].mean() == pytest.approx(1, rel=1e-6)
    plain = run(sample, tmp_path / "plain", here, epochs=1)
    with np.load(plain.path / "rows.npz") as file:
        assert (file["weight"] == 1).all()


def test_balance_lowers_the_chi2_of_a_rare_class(here, tmp_path):
    """One latent for two kinds of spectra; one in twenty is of the rare kind."""
    n, rng = 600, np.random.default_rng(2)
    x = np.linspace(0, 1, N_PIXELS)
    rare = rng.random(n) < 0.06
    hidden = np.column_stack([rng.uniform(15, 40, n), rng.normal(0, 6, n)])
    shapes = [np.stack([np.ones(N_PIXELS), wave]) for wave in (np.sin(4 * x), np.cos(9 * x))]
    truth = np.where(rare[:, None], hidden @ shapes[1], hidden @ shapes[0])
    ivar = np.where(rng.random(truth.shape) < 0.05, 0, 1)
    flux = np.where(ivar > 0, truth + rng.normal(size=truth.shape), 0)
    sample = make_sample(tmp_path / "s", flux, ivar, label=np.where(rare, 4, 6).astype("i1"))
    found = {}
    for balance in (False, True):
        made = run(
            sample, tmp_path / f"{balance}", here, epochs=15, balance=balance, n_latent=1,
            initial="linear", fill="linear",
        )  # fmt: skip
        scores = read_json(made.path / "model_card.json")["validation"]["by class"]
        found[balance] = {name: row["chi2"] for name, row in scores.items()}
    # Found 14.4 and 6.7; the many pay for it, 1.1 and 5.3: one latent cannot serve both.
    assert found[True]["broad-line"] < 0.7 * found[False]["broad-line"]
    assert found[True]["passive"] > found[False]["passive"]


def test_global_normalisation_is_one_number_from_the_training_split(here, tmp_path):
    flux, ivar = low_rank_spectra(N, N_PIXELS)
    sample = make_sample(tmp_path / "s", flux, ivar, preset="reference")
    made = run(sample, tmp_path / "ae", here, epochs=1)  # auto: global with reference
    _, inputs = load_encoder(made.path)
    # science.md §2, step 7: the mean over the whole set, masked zeros included.
    mean = flux[sample.training_rows()].mean(dtype="f8")
    scaled = inputs.apply(flux, ivar)
    np.testing.assert_allclose(scaled.flux, flux / mean, rtol=1e-6)
    # With `reference` the S/N was capped already: it is not applied a second time.
    found = history(made.path)
    np.testing.assert_array_equal(found["train_chi2"], found["train_chi2_uncapped"])


@pytest.mark.parametrize(
    ("n", "split", "words"),
    [
        (4, None, "found 3 training and 1 validation spectra, expected more than n_latent = 3"),
        (40, ["train"] * 40, "found 40 training and 0 validation"),
        (40, ["validation"] * 40, "found 0 training and 40 validation"),
    ],
)
def test_too_few_spectra_are_refused_with_what_to_do(here, tmp_path, n, split, words):
    flux, ivar = low_rank_spectra(n, N_PIXELS)
    index = index_of(n, masked_fraction=(ivar == 0).mean(axis=1),
                     **({} if split is None else {"split": split}))  # fmt: skip
    sample = make_sample(tmp_path / "s", flux, ivar, index=index)
    with pytest.raises(SpectraScaleError, match=words) as error:
        run(sample, tmp_path / "ae", here)
    assert "[models] from = RUN" in str(error.value)
    assert not (tmp_path / "ae" / "manifest.json").exists()


# Interruptions -----------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("epoch", [1, 2, 3, 6])
def test_a_training_that_was_killed_ends_with_the_same_bits(
    sample, unbroken, here, tmp_path, monkeypatch, epoch
):
    # Before the first checkpoint, at one, between two, and after the last epoch.
    write = worker.write_history

    def killed(path, records):
        write(path, records)
        if len(records) == epoch:
            raise Killed

    monkeypatch.setattr(worker, "write_history", killed)
    with pytest.raises(Killed):
        run(sample, tmp_path / "ae", here)
    assert not (tmp_path / "ae" / "manifest.json").exists()
    done = []

    def counted(path, records):
        done.append(len(records))
        write(path, records)

    monkeypatch.setattr(worker, "write_history", counted)
    made = run(sample, tmp_path / "ae", here)
    assert_equal_training(made.path, unbroken.path)
    # It went on from the last checkpoint, and not from the start.
    assert done == [*range(epoch - epoch % 2 + 1, 7), 6]  # and once more, at the end


def test_a_resumed_training_may_keep_checkpoints_at_another_rate(
    sample, unbroken, here, tmp_path, monkeypatch
):
    write = worker.write_history

    def killed(path, records):
        write(path, records)
        if len(records) == 3:
            raise Killed

    monkeypatch.setattr(worker, "write_history", killed)
    with pytest.raises(Killed):
        run(sample, tmp_path / "ae", here)
    monkeypatch.undo()
    made = run(sample, tmp_path / "ae", here, checkpoint_every=1, workers=1)
    assert_equal_training(made.path, unbroken.path)


def test_a_training_killed_before_its_last_epoch_was_told_tells_of_it_all_the_same(
    sample, unbroken, here, tmp_path, monkeypatch
):
    write = worker.write_history

    def killed(path, records):
        if len(records) == 6:
            raise Killed  # after the checkpoint
        write(path, records)

    monkeypatch.setattr(worker, "write_history", killed)
    with pytest.raises(Killed):
        run(sample, tmp_path / "ae", here)
    monkeypatch.undo()
    made = run(sample, tmp_path / "ae", here)
    assert_equal_training(made.path, unbroken.path)
    assert made.metrics["last epoch"]["epoch"] == 6


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_train_stage import run
from spectra_scale.compute.place import Here
from spectra_scale.store.sample import open_sample
run(open_sample(sys.argv[2]), Path(sys.argv[3]), Here(), epochs=60)
"""


@pytest.mark.slow
def test_a_process_killed_outright_is_gone_on_with(sample, here, tmp_path):
    out = tmp_path / "ae"
    tests = Path(__file__).parent
    command = [sys.executable, "-c", DRIVER, *map(str, (tests, sample.path, out))]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 40
        while len(worker.read_history(out / "history.jsonl")) < 5:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    made = run(sample, out, here, epochs=60)
    unbroken = run(sample, tmp_path / "whole", here, epochs=60)
    assert_equal_training(made.path, unbroken.path)


# Ray ---------------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.timeout(120)
# Ray Data, which Ray Train copies settings of, warns about defaults of its own.
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("executor", ["ray"], indirect=True)
def test_two_ray_workers_see_the_batches_of_one_process_and_learn_the_same(
    sample, unbroken, executor, tmp_path
):
    made = run(sample, tmp_path / "ae", executor, engine="ray", workers=2)
    mine, theirs = history(made.path), history(unbroken.path)
    # The same rows in every epoch, and, were one batch of it another one, other losses from the
    # first epoch on. Gradients of the two halves of a batch are added in another order, in
    # float32: 1e-7 of each, and 48 steps of Adam, whose division by the root of the second moment
    # turns that into as much of a step where a gradient is near 0.
    np.testing.assert_array_equal(mine["rows"], theirs["rows"])
    for name in LOSSES:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, err_msg=name)
    ours, others = weights(made.path), weights(unbroken.path)
    for name, values in ours.items():
        np.testing.assert_allclose(values, others[name], rtol=0, atol=1e-4, err_msg=name)
    assert made.manifest["where"] == {"engine": "ray", "workers": 2}
    # Ray's own state of the run is gone, and it is the same artifact to the rest of the pipeline.
    assert not (made.path / "ray").exists()
    # One of the two writes the curves.
    assert len(list((made.path / "tensorboard").iterdir())) == 1
    assert made.fingerprint == unbroken.fingerprint


@pytest.mark.cluster
@pytest.mark.exhaustive
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("executor", ["ray"], indirect=True)
def test_a_loss_that_diverges_on_ray_ends_at_once_and_says_so(sample, executor, tmp_path):
    with pytest.raises(SpectraScaleError, match=r"diverges in epoch \d") as told:
        run(sample, tmp_path / "ae", executor, engine="ray", workers=1, learning_rate=1e30)
    assert "Largest in the last batch: " in str(told.value)
    assert "Traceback" not in str(told.value)


@pytest.mark.cluster
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("executor", ["ray"], indirect=True)
def test_an_error_of_a_worker_on_ray_is_told_without_tracebacks(executor, tmp_path, monkeypatch):
    sample = make_sample(tmp_path / "s", *low_rank_spectra(N, N_PIXELS))
    plan = train._training

    def damage(*arguments):
        # When the driver has read all it reads, and the workers nothing.
        shard = sample.arrays / "flux" / "c" / "0" / "0"
        shard.write_bytes(shard.read_bytes()[:-200])
        return plan(*arguments)

    monkeypatch.setattr(train, "_training", damage)
    with pytest.raises(SpectraScaleError, match="after 0 restarts: ") as told:
        run(sample, tmp_path / "ae", executor, engine="ray", workers=1, max_failures=0)
    assert re.search(r"flux/c/0/0: found .*expected a whole shard", str(told.value))
    assert "Traceback" not in str(told.value)
    assert "Run the same command again" in str(told.value)
