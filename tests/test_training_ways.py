"""Ways to train: schedules, precision, pauses, early stopping, inpainting, weights of rows."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training import (
    ARCHITECTURE,
    NORMALISATION,
    SETTINGS,
    ArraySource,
    on_ranks,
    one_thread,  # noqa: F401 - a fixture
    splits,
    trained,
    weights,
    without_seconds,
)

from spectra_scale.errors import UsageError
from spectra_scale.models.autoencoder import seeded_autoencoder
from spectra_scale.models.checkpoint import load_checkpoint, save_checkpoint
from spectra_scale.models.loading import ArrayRows
from spectra_scale.models.losses import weighted_squares
from spectra_scale.models.objective import batch_loss
from spectra_scale.models.precision import bf16_here, resolve
from spectra_scale.models.training import (
    DivergedError,
    SingleProcess,
    TrainSettings,
    evaluate,
    train,
)

# Learning rate -----------------------------------------------------------------------------------


@given(st.integers(0, 199), st.integers(0, 99))
def test_the_paper_s_rate_is_its_scheduler_s(epoch, batch):
    settings = TrainSettings(epochs=200, batch_size=32)
    assert settings.rate(epoch, batch, 100) == pytest.approx(1e-3 * 0.99**epoch, rel=1e-12)


def test_torch_s_scheduler_gives_the_same_rates():
    settings = TrainSettings(epochs=9, batch_size=32, learning_rate=2e-3, gamma=0.9)
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=2e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(adam, 0.9)
    for epoch in range(9):
        assert settings.rate(epoch, 3, 7) == pytest.approx(adam.param_groups[0]["lr"], rel=1e-12)
        adam.step()
        scheduler.step()


@given(st.integers(2, 50), st.integers(1, 40), st.floats(0, 1.9))
def test_a_cosine_rises_once_falls_to_nearly_nothing_and_never_exceeds_its_peak(
    epochs, n_batches, warmup
):
    settings = TrainSettings(
        epochs=epochs, batch_size=1, learning_rate=0.5, schedule="cosine", warmup_epochs=warmup
    )
    rates = [settings.rate(e, b, n_batches) for e in range(epochs) for b in range(n_batches)]
    top = int(np.argmax(rates))
    assert min(rates) > 0
    assert max(rates) <= 0.5
    assert (np.diff(rates[: top + 1]) >= 0).all()
    assert (np.diff(rates[top:]) <= 0).all()
    # The last of n steps along half a cosine is at cos(π (1 - 1/n)): nearly (π/2n)² of the peak.
    left = min(1.0, 1 / n_batches / (epochs - warmup))
    assert rates[-1] == pytest.approx(0.5 * 0.5 * (1 - math.cos(math.pi * left)), rel=1e-6, abs=0)


# Pauses ------------------------------------------------------------------------------------------


class Stop(BaseException):
    pass


@pytest.mark.parametrize("schedule", ["exponential", "cosine"])
@pytest.mark.parametrize("at", [(0, 2), (1, 4), (3, 6)])
def test_a_training_stopped_within_an_epoch_ends_with_the_same_bits(tmp_path, at, schedule):
    settings = dataclasses.replace(SETTINGS, checkpoint_batches=2, schedule=schedule,
                                   warmup_epochs=0.5)  # fmt: skip
    whole, unbroken = trained(settings)
    place = tmp_path / "checkpoint"
    source = ArraySource()
    streams, validation = splits(source)
    model = seeded_autoencoder(ARCHITECTURE, settings.seed)

    def pause(state):
        save_checkpoint(place, model, state, settings, NORMALISATION)
        if (state.epoch, state.batch) == at:
            raise Stop

    with pytest.raises(Stop):
        train(model, source, streams, validation, settings, SingleProcess(),
              on_epoch=lambda *_: None, on_pause=pause)  # fmt: skip
    resumed = seeded_autoencoder(ARCHITECTURE, 999)
    state = load_checkpoint(place, resumed, settings, NORMALISATION)
    assert (state.epoch, state.batch) == at
    assert len(state.history) == at[0]
    _, state = trained(settings, model=resumed, state=state)
    assert torch.equal(weights(resumed), weights(whole))
    assert without_seconds(state.history) == without_seconds(unbroken.history)


def test_sums_of_a_paused_epoch_are_counted_once_on_any_number_of_ranks():
    settings = dataclasses.replace(SETTINGS, epochs=2)
    paused = dataclasses.replace(settings, checkpoint_batches=1)
    plain = on_ranks(3, settings)[0][1].history
    for one, other in zip(on_ranks(3, paused)[1][1].history, plain, strict=True):
        assert one.rows == other.rows == 300
        # Sums of ranks are added up after every batch instead of at the end, in float64.
        assert one.train_chi2 == pytest.approx(other.train_chi2, rel=1e-12)


def test_a_cosine_cannot_be_made_longer(tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=2, schedule="cosine")
    model, state = trained(settings)
    save_checkpoint(tmp_path / "c", model, state, settings, NORMALISATION)
    longer = dataclasses.replace(settings, epochs=4)
    with pytest.raises(UsageError, match="epochs was 2, is 4"):
        load_checkpoint(tmp_path / "c", model, longer, NORMALISATION)


# Early stopping ----------------------------------------------------------------------------------


def overfitting(patience, **changes):
    """So few spectra that the held-out loss rises again."""
    return dataclasses.replace(SETTINGS, epochs=300, batch_size=16, learning_rate=1e-2, gamma=1.0,
                               patience=patience, **changes)  # fmt: skip


def test_early_stopping_ends_with_the_weights_of_the_best_epoch(tmp_path):
    source, settings = ArraySource(40), overfitting(5)
    model, state = trained(settings, source=source)
    found = [record.validation_chi2 for record in state.history]
    assert state.best_epoch == len(found) - 5 < 295
    assert found[state.best_epoch - 1] < min(found) / (1 - settings.min_gain)
    _, validation = splits(source)
    again = evaluate(model, source, validation, settings, SingleProcess())
    assert again["chi2"] == found[state.best_epoch - 1]


def test_a_resumed_training_stops_where_the_unbroken_one_does(tmp_path):
    source, settings, kept = ArraySource(40), overfitting(5), []
    whole, unbroken = trained(settings, source=source)
    model = seeded_autoencoder(ARCHITECTURE, settings.seed)
    middle = unbroken.best_epoch + 2

    def after(record, state):
        if record.epoch == middle:
            save_checkpoint(tmp_path / "c", model, state, settings, NORMALISATION)
            kept.append(record.epoch)
            raise Stop

    with pytest.raises(Stop):
        trained(settings, source=source, model=model, on_epoch=after)
    resumed = seeded_autoencoder(ARCHITECTURE, 999)
    state = load_checkpoint(tmp_path / "c", resumed, settings, NORMALISATION)
    _, state = trained(settings, source=source, model=resumed, state=state)
    assert torch.equal(weights(resumed), weights(whole))
    assert without_seconds(state.history) == without_seconds(unbroken.history)


# Precision ---------------------------------------------------------------------------------------


def test_bfloat16_products_learn_the_same_and_validate_in_float32():
    source = ArraySource(2000)
    settings = dataclasses.replace(
        SETTINGS, epochs=15, batch_size=100, learning_rate=3e-3, snr_cap=None
    )
    half = dataclasses.replace(settings, precision="bfloat16")
    full, _ = trained(settings, source=source)
    model, state = trained(half, source=source)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    _, validation = splits(source)
    found = evaluate(model, source, validation, settings, SingleProcess())["chi2"]
    assert found == state.history[-1].validation_chi2
    best = evaluate(full, source, validation, settings, SingleProcess())["chi2"]
    # bfloat16 has 8 bits: products are off by 0.4 %, of fluxes near 2 with errors of 0.1 that is
    # a tenth of an error. Fifteen epochs amplify roundings, which differ between processors.
    assert found == pytest.approx(best, rel=0.1)


def test_auto_is_bfloat16_where_the_hardware_has_it():
    assert resolve("auto", "cpu") == ("bfloat16" if bf16_here("cpu") else "float32")
    assert resolve("float32", "cpu") == "float32"
    with pytest.raises(UsageError, match="half"):
        resolve("half", "cpu")


def test_numbers_too_small_to_matter_do_not_slow_a_training_and_come_back_after_it():
    tiny = torch.tensor([1e-40, 1e-310], dtype=torch.float64)

    def seen():
        return [float(tiny[0].float() * 0.5), float(tiny[1] * 0.5)]

    before = seen()
    assert min(before) > 0
    during, source = [], ArraySource()
    take = source.take
    source.take = lambda rows: during.append(seen()) or take(rows)
    source.resident = True  # read in the thread that trains
    trained(dataclasses.replace(SETTINGS, epochs=1), source=source)
    assert [0.0, 0.0] in during
    assert seen() == before


@given(st.integers(0, 2**32 - 1))
def test_the_gradient_of_the_weighted_squares_is_autograd_s(seed):
    rng = torch.Generator().manual_seed(seed)
    recon, flux, ivar, g = (torch.randn((4, 7), generator=rng, dtype=torch.float64)
                            for _ in range(4))  # fmt: skip
    weight, up = ivar.clamp(min=0), g[:, 0]
    recon.requires_grad_()
    plain = ((recon - flux) ** 2 * weight).sum(dim=1)
    (expected,) = torch.autograd.grad(plain, recon, up)
    found, residual = weighted_squares(recon, flux, weight)
    (gradient,) = torch.autograd.grad(found, recon, up)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(residual, (recon - flux).detach())


# Missing pixels, weights, divergence -------------------------------------------------------------


def test_inpainting_feeds_missing_pixels_the_reconstruction():
    source = ArraySource(60)
    flux, ivar = source.take(np.arange(60))
    model = seeded_autoencoder(ARCHITECTURE, 3)
    settings = dataclasses.replace(SETTINGS, snr_cap=None)
    loss = settings.loss_for(30)
    found = batch_loss(model, loss, (flux, ivar), settings, inpaint=True)
    with torch.no_grad():
        whole = torch.where(ivar > 0, flux, model(flux))
        expected = ((model(whole) - flux).square() * ivar).sum() / 30
    torch.testing.assert_close(found.loss.detach(), expected)
    changed = torch.where(ivar > 0, flux, 7.0)
    # What is fed in the second pass depends on the first one only through the network.
    assert batch_loss(model, loss, (changed, ivar), settings).loss != found.loss
    # Only the last epochs are of the second stage.
    staged = dataclasses.replace(SETTINGS, inpaint_epochs=1)
    assert [staged.inpaints(epoch) for epoch in range(4)] == [False, False, False, True]
    ours, plain = trained(staged)[1].history, trained()[1].history
    assert without_seconds(ours)[:3] == without_seconds(plain)[:3]
    assert ours[3].validation_chi2 != plain[3].validation_chi2


def test_rows_of_weight_0_teach_nothing_and_of_weight_2_count_twice():
    source = ArraySource(80)
    streams, validation = splits(source)
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=1000, snr_cap=None)
    weight = np.ones(80, np.float32)
    weight[::8], weight[1::8] = 0, 2

    def moments(flux, ivar, row_weights):
        model = seeded_autoencoder(ARCHITECTURE, 5)
        rows = ArrayRows(torch.from_numpy(flux), torch.from_numpy(ivar))
        state = train(model, rows, streams, validation, settings, SingleProcess(),
                      on_epoch=lambda *_: None, row_weights=row_weights)  # fmt: skip
        return torch.cat([state.optimiser.state[p]["exp_avg"].flatten()
                          for p in model.parameters()]), state  # fmt: skip

    weighted, state = moments(source.flux, source.ivar, weight)
    # An inverse variance of twice the size is the same as counting twice.
    scaled, _ = moments(source.flux, source.ivar * weight[:, None], None)
    torch.testing.assert_close(weighted, scaled, rtol=1e-4, atol=1e-5 * scaled.abs().max().item())
    # What is reported is χ² without them.
    _, plain = moments(source.flux, source.ivar, None)
    assert state.history[0].train_chi2 == plain.history[0].train_chi2


def test_a_loss_that_grows_tenfold_stops_and_names_the_worst_rows():
    source = ArraySource()
    worst = splits(source)[0].rows[17]
    source.flux[worst] *= 300
    settings = dataclasses.replace(SETTINGS, learning_rate=30.0, snr_cap=None, batch_size=1000)
    with pytest.raises(DivergedError, match=r"epoch \d: its mean χ² is .* rate of 30") as told:
        trained(settings, source=source)
    assert told.value.rows[0] == worst
    assert len(told.value.rows) == 5


def test_more_workers_than_streams_are_refused():
    with pytest.raises(UsageError, match=r"65 workers.*64 streams"):
        trained(comm=SingleProcess(0, 65))


def test_a_steep_first_epoch_that_is_gone_on_with_does_not_pass_for_a_divergence(tmp_path):
    """What growth is told by is the χ² before the first step, not that where a pause was."""
    source = ArraySource(4000)
    settings = dataclasses.replace(
        SETTINGS, epochs=2, batch_size=16, learning_rate=3e-3, snr_cap=None, checkpoint_batches=100
    )
    kept = []

    def pause(state):
        save_checkpoint(tmp_path / "c", model, state, settings, NORMALISATION)
        kept.append(state.totals[0] / state.totals[-1])
        raise Stop

    source.ivar *= 100  # small errors: the first batches are far off
    streams, validation = splits(source)
    model = seeded_autoencoder(ARCHITECTURE, settings.seed)
    with pytest.raises(Stop):
        train(model, source, streams, validation, settings, SingleProcess(),
              on_epoch=lambda *_: None, on_pause=pause)  # fmt: skip
    resumed = seeded_autoencoder(ARCHITECTURE, 999)
    state = load_checkpoint(tmp_path / "c", resumed, settings, NORMALISATION)
    now = evaluate(resumed, source, validation, settings, SingleProcess())["chi2"]
    assert state.start_chi2 > kept[0] > 2 * now
    # Were it told by where it stands now, a tenth of that would be too much.
    state.start_chi2 = now / 10
    with pytest.raises(DivergedError):
        trained(settings, source=source, model=resumed, state=state)
    resumed = seeded_autoencoder(ARCHITECTURE, 999)
    state = load_checkpoint(tmp_path / "c", resumed, settings, NORMALISATION)
    trained(settings, source=source, model=resumed, state=state)
    whole, _ = trained(settings, source=source)
    assert torch.equal(weights(resumed), weights(whole))


def test_patience_and_a_second_stage_cannot_go_together():
    with pytest.raises(UsageError, match="patience"):
        dataclasses.replace(SETTINGS, patience=2, inpaint_epochs=1)
