"""The training loop and its checkpoints (science.md §6, design.md §2)."""

import dataclasses
import json
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.distributed as dist

from spectra_scale.errors import DamagedArtifactError, SpectraScaleError, UsageError
from spectra_scale.models.autoencoder import Architecture, seeded_autoencoder
from spectra_scale.models.batches import VirtualStreams
from spectra_scale.models.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
)
from spectra_scale.models.normalise import Normalisation
from spectra_scale.models.training import (
    SingleProcess,
    TorchDistributed,
    TrainSettings,
    evaluate,
    train,
)

ARCHITECTURE = Architecture(30, (24, 12), 3)
SETTINGS = TrainSettings(epochs=4, batch_size=48, validation_batch_size=32, seed=5)
NORMALISATION = Normalisation("none")


class ArraySource:
    """Spectra in memory: two smooth directions, calibrated noise, a tenth of pixels missing."""

    n_pixels = 30
    resident = False

    def __init__(self, n=400, seed=0):
        rng = np.random.default_rng(seed)
        x = np.linspace(0, 3, self.n_pixels)
        truth = 2 + rng.normal(size=(n, 2)) @ np.stack([np.sin(x), np.cos(x)])
        noise = rng.uniform(0.02, 0.2, truth.shape)
        good = rng.random(truth.shape) > 0.1
        self.flux = np.where(good, truth + noise * rng.normal(size=truth.shape), 0).astype("f4")
        self.ivar = np.where(good, noise**-2, 0).astype("f4")

    def take(self, rows):
        return torch.from_numpy(self.flux[rows]), torch.from_numpy(self.ivar[rows])


class ThreadedRank:
    """One of several ranks that are threads of this process."""

    def __init__(self, rank, world_size, shared):
        self.rank, self.world_size, self._shared = rank, world_size, shared

    def _gather(self, tensor):
        barrier, slots = self._shared
        slots[self.rank] = tensor.detach().clone()
        barrier.wait(30)
        gathered = list(slots)
        barrier.wait(30)
        return gathered

    def sum_(self, tensor):
        total = torch.zeros_like(tensor)
        for part in self._gather(tensor):
            total += part
        tensor.copy_(total)

    def broadcast(self, tensor):
        tensor.copy_(self._gather(tensor)[0])


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def splits(source):
    rows = np.arange(len(source.flux))
    return VirtualStreams(rows[rows % 4 != 0], 16, seed=1), rows[rows % 4 == 0]


def ignore(record, state):
    pass


def trained(settings=SETTINGS, comm=None, state=None, model=None, on_epoch=ignore, source=None):
    source = source or ArraySource()
    streams, validation = splits(source)
    model = model or seeded_autoencoder(ARCHITECTURE, settings.seed)
    comm = comm or SingleProcess()
    state = train(
        model, source, streams, validation, settings, comm, on_epoch=on_epoch, state=state
    )
    return model, state


def on_ranks(world_size, settings):
    shared = threading.Barrier(world_size), [None] * world_size
    with ThreadPoolExecutor(world_size) as pool:
        ranks = [ThreadedRank(rank, world_size, shared) for rank in range(world_size)]
        return list(pool.map(lambda rank: trained(settings, rank), ranks))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


#: Fields of a record that say what it cost.
COST = ("seconds", "data_seconds", "reduce_seconds", "cpu_seconds", "memory_mib")


def without_seconds(history):
    return [dataclasses.replace(record, **dict.fromkeys(COST, 0.0)) for record in history]


def test_a_trained_network_explains_held_out_spectra():
    source = ArraySource(2000)
    settings = dataclasses.replace(
        SETTINGS, epochs=25, batch_size=100, learning_rate=3e-3, snr_cap=None
    )
    _, state = trained(settings, source=source)
    _, validation = splits(source)
    mean = source.flux[source.ivar > 0].mean()
    left_by_mean = (source.flux[validation] - mean) ** 2 * source.ivar[validation]
    first, last = state.history[0], state.history[-1]
    # Loose on purpose: a network that learnt nothing stays at what the mean spectrum leaves.
    assert last.validation_chi2 < 0.1 * left_by_mean.mean() < first.validation_chi2
    assert last.train_chi2 < first.train_chi2
    assert last.rows == 1500
    assert last.learning_rate == 3e-3 * 0.99**24


def test_an_epoch_reports_what_evaluate_finds():
    source = ArraySource()
    model, state = trained(source=source)
    _, validation = splits(source)
    record = state.history[-1]
    found = evaluate(model, source, validation, SETTINGS, SingleProcess())
    assert found["rows"] == len(validation) == 100
    for name in ("chi2", "chi2_valid", "chi2_uncapped", "chi2_valid_uncapped"):
        assert found[name] == getattr(record, f"validation_{name}")
    with torch.no_grad():
        recon = model(torch.from_numpy(source.flux[validation])).numpy().astype(float)
    terms = (recon - source.flux[validation]) ** 2 * source.ivar[validation]
    # float32 residuals of values near 2 that agree to 0.02.
    assert found["chi2_uncapped"] == pytest.approx(terms.mean(), rel=1e-4)
    assert record.validation_chi2 < record.validation_chi2_uncapped


def test_running_means_of_the_first_epoch_start_from_the_untrained_network():
    source = ArraySource()
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=10_000)
    untrained = seeded_autoencoder(ARCHITECTURE, settings.seed)
    streams, _ = splits(source)
    before = evaluate(untrained, source, streams.rows, settings, SingleProcess())
    _, state = trained(settings, source=source)
    # The only batch holds every row; sums over rows are in float64, products in float32.
    assert state.history[0].train_chi2 == pytest.approx(before["chi2"], rel=1e-5)


@pytest.mark.parametrize("loss", ["chi2", "chi2_valid", "batch_masked"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_several_ranks_learn_what_one_process_learns(world_size, loss):
    settings = dataclasses.replace(SETTINGS, epochs=2, loss=loss)
    alone, alone_state = trained(settings)
    ranks = on_ranks(world_size, settings)
    for model, _ in ranks[1:]:
        assert torch.equal(weights(model), weights(ranks[0][0]))
    # Gradients differ by the order of float32 additions (1e-7 of their size), which Adam turns
    # into 1e-7 of a step, or a whole one of 1e-3 where a gradient is nearly 0. 14 steps.
    difference = weights(ranks[0][0]) - weights(alone)
    assert difference.abs().median() < 1e-7
    assert difference.abs().max() < 1e-3
    ours = [r.validation_chi2 for r in ranks[0][1].history]
    assert ours == pytest.approx([r.validation_chi2 for r in alone_state.history], rel=1e-4)
    assert ranks[1][1].history[-1].validation_chi2 == ours[-1]


@pytest.mark.parametrize("loss", ["chi2", "chi2_valid", "batch_masked"])
def test_the_summed_gradient_is_that_of_the_whole_batch(loss):
    # One step of all rows: Adam's first moment is (1 - β1) times the gradient.
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=300, loss=loss)
    alone, alone_state = trained(settings)
    model, state = on_ranks(3, settings)[0]
    for p, q in zip(alone.parameters(), model.parameters(), strict=True):
        one = alone_state.optimiser.state[p]["exp_avg"]
        three = state.optimiser.state[q]["exp_avg"]
        # float32 sums over 300 rows and 30 pixels in another order.
        torch.testing.assert_close(three, one, rtol=0, atol=3e-6 * one.abs().max().item())


def test_a_rank_without_rows_takes_part():
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=2)
    source = ArraySource(24)
    alone, _ = trained(settings, source=source)
    shared = threading.Barrier(4), [None] * 4
    with ThreadPoolExecutor(4) as pool:
        ranks = [ThreadedRank(rank, 4, shared) for rank in range(4)]
        found = list(pool.map(lambda rank: trained(settings, rank, source=source), ranks))
    # Nine steps; see the other comparison of ranks.
    assert (weights(found[3][0]) - weights(alone)).abs().max() < 1e-3


def test_a_resumed_training_is_bit_equal_to_an_unbroken_one(tmp_path):
    whole, unbroken = trained()
    place = tmp_path / "checkpoint"
    half = dataclasses.replace(SETTINGS, epochs=2)
    model, state = trained(half)
    save_checkpoint(place, model, state, half, NORMALISATION)
    resumed = seeded_autoencoder(ARCHITECTURE, 999)
    state = load_checkpoint(place, resumed, SETTINGS, NORMALISATION)
    assert state.epoch == 2
    _, state = trained(model=resumed, state=state)
    assert torch.equal(weights(resumed), weights(whole))
    assert without_seconds(state.history) == without_seconds(unbroken.history)


def test_the_callback_sees_every_epoch_and_when_to_save():
    settings = dataclasses.replace(SETTINGS, epochs=5, checkpoint_every=2)
    seen = []
    trained(settings, on_epoch=lambda record, state: seen.append((record.epoch, state.epoch)))
    assert seen == [(n, n) for n in range(1, 6)]
    assert [n for n in range(1, 6) if settings.checkpoint_due(n)] == [2, 4, 5]


def test_training_leaves_no_thread_behind():
    def stop(record, state):
        message = "enough"
        raise KeyError(message)

    with pytest.raises(KeyError):
        trained(on_epoch=stop)
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize("batch_size", [48, 10_000])
def test_a_loss_that_is_not_finite_stops_with_advice(batch_size):
    source = ArraySource()
    source.flux[source.ivar > 0] = 1e30
    settings = dataclasses.replace(SETTINGS, snr_cap=None, batch_size=batch_size)
    with pytest.raises(SpectraScaleError, match=r"diverges in epoch 1.*learning_rate"):
        trained(settings, source=source)


def test_impossible_trainings_are_refused_before_they_start():
    source = ArraySource()
    streams, validation = splits(source)
    common = {"on_epoch": ignore}
    wide = seeded_autoencoder(Architecture(31), 0)
    with pytest.raises(UsageError, match="31 pixels"):
        train(wide, source, streams, validation, SETTINGS, SingleProcess(), **common)
    model = seeded_autoencoder(ARCHITECTURE, 0)
    with pytest.raises(UsageError, match="0 validation rows"):
        train(model, source, streams, validation[:0], SETTINGS, SingleProcess(), **common)
    for wrong in ({"loss": "mse"}, {"gamma": 0.0}, {"epochs": 0}, {"snr_cap": -1.0}):
        with pytest.raises(UsageError):
            dataclasses.replace(SETTINGS, **wrong)


def test_settings_survive_json():
    assert TrainSettings.from_dict(json.loads(json.dumps(SETTINGS.to_dict()))) == SETTINGS


def test_a_checkpoint_of_something_else_is_refused_and_says_what_differs(tmp_path):
    place = tmp_path / "checkpoint"
    model, state = trained()
    save_checkpoint(place, model, state, SETTINGS, NORMALISATION)
    other = seeded_autoencoder(Architecture(30, (24, 12), 4), 0)
    with pytest.raises(UsageError, match="architecture: n_latent was 3, is 4"):
        load_checkpoint(place, other, SETTINGS, NORMALISATION)
    slower = dataclasses.replace(SETTINGS, learning_rate=1e-4, epochs=9)
    with pytest.raises(UsageError, match=r"settings: learning_rate was 0.001, is 0.0001\. "):
        load_checkpoint(place, model, slower, NORMALISATION)
    with pytest.raises(UsageError, match="normalisation: kind was 'none', is 'median'"):
        load_checkpoint(place, model, SETTINGS, Normalisation())


def test_a_damaged_checkpoint_is_refused(tmp_path):
    place = tmp_path / "checkpoint"
    model, state = trained()
    save_checkpoint(place, model, state, SETTINGS, NORMALISATION)
    path = place / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedArtifactError, match="cannot be read"):
        load_checkpoint(place, model, SETTINGS, NORMALISATION)
    (place / "state.json").unlink()
    with pytest.raises(DamagedArtifactError, match=r"state\.json"):
        load_checkpoint(place, model, SETTINGS, NORMALISATION)


def test_a_save_killed_half_way_leaves_the_older_checkpoint(tmp_path):
    place = tmp_path / "checkpoint"
    model, state = trained()
    save_checkpoint(place, model, state, SETTINGS, NORMALISATION)
    save_checkpoint(place, model, state, SETTINGS, NORMALISATION)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    # Killed between the two renames.
    place.rename(tmp_path / "checkpoint.previous")
    assert has_checkpoint(place)
    assert load_checkpoint(place, model, SETTINGS, NORMALISATION).epoch == 4
    save_checkpoint(place, model, state, SETTINGS, NORMALISATION)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    assert not has_checkpoint(tmp_path / "nothing")


def test_a_model_comes_back_from_disk_as_it_went(tmp_path):
    model, _ = trained()
    save_model(tmp_path, model, Normalisation("global", 3.25), {"grid": [1, 2]})
    back, normalisation, metadata = load_model(tmp_path)
    assert torch.equal(weights(back), weights(model))
    assert back.architecture == ARCHITECTURE
    assert normalisation == Normalisation("global", 3.25)
    assert metadata == {"grid": [1, 2]}
    fields = json.loads((tmp_path / "model.json").read_text())
    fields["architecture"]["hidden"] = [24, 13]
    (tmp_path / "model.json").write_text(json.dumps(fields))
    with pytest.raises(
        DamagedArtifactError, match=r"encoder\.2\.bias is float32 \(12,\), not float32 \(13,\)"
    ):
        load_model(tmp_path)


def _gloo_rank(rank, place, answers):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    # Other starting weights on rank 1: the loop must spread those of rank 0.
    model = seeded_autoencoder(ARCHITECTURE, SETTINGS.seed + rank)
    trained(comm=TorchDistributed(), model=model)
    answers.put((rank, weights(model).numpy()))
    dist.destroy_process_group()


@pytest.mark.cluster
def test_two_gloo_processes_learn_what_one_process_learns(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = [(rank, tmp_path / "store", answers) for rank in range(2)]
    workers = [context.Process(target=_gloo_rank, args=a) for a in arguments]
    for worker in workers:
        worker.start()
    found = dict(answers.get(timeout=50) for _ in workers)
    for worker in workers:
        worker.join(20)
    np.testing.assert_array_equal(found[0], found[1])
    # 28 steps; see the comparison of threads.
    difference = np.abs(found[0] - weights(trained()[0]).numpy())
    assert np.median(difference) < 1e-6
    assert difference.max() < 1e-3
