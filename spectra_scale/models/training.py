"""The training loop: one loop for one process and for many (science.md §6, design.md §2).

Where the rows come from and how ranks talk is handed in (`RowSource`, `Communicator`), so the
loop is the same inside a cluster's worker function and without a cluster.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from spectra_scale.models.autoencoder import AutoEncoder
from spectra_scale.models.batches import Batch, VirtualStreams
from spectra_scale.models.loading import check_inputs, load_batches
from spectra_scale.models.meter import Meter
from spectra_scale.models.misfit import Loss
from spectra_scale.models.objective import BatchLoss, batch_loss
from spectra_scale.models.precision import without_denormals
from spectra_scale.models.records import (
    SUMS,
    DivergedError,
    EpochRecord,
    TrainState,
    learnt,
    new_state,
)
from spectra_scale.models.train_inputs import (
    Communicator,
    Floats,
    Rows,
    RowSource,
    SingleProcess,
    TorchDistributed,
    TrainSettings,
)

__all__ = [
    "SUMS",
    "Communicator",
    "DivergedError",
    "EpochRecord",
    "RowSource",
    "SingleProcess",
    "TorchDistributed",
    "TrainSettings",
    "TrainState",
    "evaluate",
    "is_finished",
    "new_state",
    "train",
]

log = logging.getLogger(__name__)

#: Steps between looks at the gradient on an accelerator, where each look waits for it.
_CHECK_EVERY = 100
#: An epoch whose χ² is so many times that of the best before it has diverged.
_GROWTH = 10.0
_N_WORST = 5


@dataclass(frozen=True, slots=True, eq=False)
class _Loop:
    """What stays the same through a training."""

    model: AutoEncoder
    source: RowSource
    settings: TrainSettings
    comm: Communicator
    state: TrainState
    weights: Tensor | None
    on_pause: Callable[[TrainState], None]

    @property
    def learnt(self) -> dict[str, nn.Parameter]:
        """Parameters of the network and of the loss."""
        return learnt(self.model, self.state.loss)


def train(  # noqa: PLR0913 - three things to learn from, two that say how, four to resume and report
    model: AutoEncoder,
    source: RowSource,
    train_streams: VirtualStreams,
    validation_rows: Rows,
    settings: TrainSettings,
    comm: Communicator,
    *,
    on_epoch: Callable[[EpochRecord, TrainState], None],
    on_pause: Callable[[TrainState], None] = lambda _: None,
    state: TrainState | None = None,
    row_weights: Floats | None = None,
) -> TrainState:
    """Train until `settings.epochs` epochs are done, or until early stopping ends it.

    In one process on one device, a training resumed from a checkpoint ends bit-equal to an
    unbroken one. Several workers see the same batches, and their results differ by the order of
    float32 additions only.

    Parameters
    ----------
    model
        Changed in place; on its device. Every rank starts with the weights of rank 0.
    source
        Normalised spectra by row number.
    train_streams
        Order of the training rows, the same object on every rank.
    validation_rows
        Row numbers of the validation split, all of them on every rank.
    settings
        What to do.
    comm
        How ranks talk.
    on_epoch
        Called on every rank after every epoch: reports, and writes checkpoints when due.
    on_pause
        Called on every rank after every `checkpoint_batches` batches within an epoch.
    state
        Where an earlier training stood (`load_checkpoint`); None begins anew.
    row_weights
        Factor on the loss of every row of the sample, shape (row,); None is 1.

    Returns
    -------
    The state after the last epoch.

    Raises
    ------
    DivergedError
        On every rank alike, when the loss is no longer finite or has grown tenfold.
    """
    check_inputs(model, source, train_streams, validation_rows, comm)
    state = new_state(model, settings) if state is None else state
    with torch.no_grad():
        for parameter in learnt(model, state.loss).values():
            comm.broadcast(parameter)
    weights = None
    if row_weights is not None and (row_weights != 1).any():
        weights = torch.as_tensor(row_weights, device=model.device)
    loop = _Loop(model, source, settings, comm, state, weights, on_pause)
    if not state.history and not state.batch:
        state.start_chi2 = evaluate(model, source, validation_rows, settings, comm)["chi2"]
    while not is_finished(state, settings):
        with without_denormals():
            record = _epoch(loop, train_streams, validation_rows)
        on_epoch(record, state)
    if state.best:
        _restore(loop, state.best)
    return state


def is_finished(state: TrainState, settings: TrainSettings) -> bool:
    """Whether all epochs are done, or early stopping ends the training."""
    waited = state.epoch - state.best_epoch
    return state.epoch >= settings.epochs or 0 < settings.patience <= waited


def evaluate(  # noqa: PLR0913 - a model, its rows, and how they are judged
    model: AutoEncoder,
    source: RowSource,
    rows: Rows,
    settings: TrainSettings,
    comm: Communicator,
    *,
    inpaint: bool = False,
    loss: Loss | None = None,
) -> dict[str, float]:
    """Mean χ² of rows under the present weights, in float32; the ranks share the work.

    Parameters
    ----------
    model, source, settings, comm
        As for `train`.
    rows
        Row numbers, all of them on every rank.
    inpaint
        Feed missing pixels the reconstruction of a first pass.
    loss
        What was minimised (`TrainState.loss`); None is that of `settings` before training.

    Returns
    -------
    ``chi2``, ``chi2_valid`` (ivar as in the loss), ``chi2_uncapped``, ``chi2_valid_uncapped``
    (ivar of the sample), ``loss``, and ``rows``; the same on every rank.
    """
    if loss is None:
        loss = settings.loss_for(model.architecture.n_pixels).to(model.device)
    size = settings.validation_batch_size
    shares = (rows[start : start + size] for start in range(0, len(rows), size))
    mine = islice(shares, comm.rank, None, comm.world_size)
    batches = (Batch(share, len(share), index) for index, share in enumerate(mine))
    totals = torch.zeros(len(SUMS), dtype=torch.float64, device=model.device)
    with torch.inference_mode(), closing(load_batches(source, batches, model.device)) as loaded:
        for _, flux, ivar in loaded:
            found = batch_loss(
                model, loss, (flux, ivar), settings, inpaint=inpaint, learning=False
            )
            totals += found.sums
    comm.sum_(totals)
    return _means(totals)


def _epoch(loop: _Loop, streams: VirtualStreams, validation_rows: Rows) -> EpochRecord:
    """One epoch and its validation; the state is that after it."""
    settings, state, comm = loop.settings, loop.state, loop.comm
    meter = Meter()
    learnt = _train_epoch(loop, streams, meter)
    inpaint = settings.inpaints(state.epoch)
    held_out = evaluate(
        *(loop.model, loop.source, validation_rows, settings, comm),
        inpaint=inpaint, loss=state.loss,
    )  # fmt: skip
    rate = float(state.optimiser.param_groups[0]["lr"])
    record = EpochRecord(
        epoch=state.epoch + 1,
        learning_rate=rate,
        rows=round(learnt["rows"]),
        **{f"train_{name}": learnt[name] for name in SUMS[:-1]},
        **{f"validation_{name}": held_out[name] for name in SUMS[:-1]},
        **meter.read(comm, loop.model.device),
    )
    state.epoch, state.batch, state.totals = state.epoch + 1, 0, [0.0] * len(SUMS)
    state.history.append(record)
    _keep_best(loop)
    log.debug(
        "trained epoch=%d train_chi2=%.4f validation_chi2=%.4f rows=%d seconds=%.1f",
        *(record.epoch, record.train_chi2, record.validation_chi2),
        *(record.rows, record.seconds),
    )
    return record


def _train_epoch(loop: _Loop, streams: VirtualStreams, meter: Meter) -> dict[str, float]:
    """Train to the end of the epoch; its means over spectra, the same on every rank."""
    model, settings, comm, state = loop.model, loop.settings, loop.comm, loop.state
    n_batches = streams.n_batches(settings.batch_size)
    batches = streams.epoch(
        state.epoch, settings.batch_size, comm.rank, comm.world_size, state.batch
    )
    # What was summed before a pause is counted by one rank alone.
    before = state.totals if comm.rank == 0 else [0.0] * len(SUMS)
    totals = torch.tensor(before, dtype=torch.float64, device=model.device)
    worst = Batch(np.empty(0, np.int64), 0, 0), torch.empty(0)
    model.train()
    with closing(load_batches(loop.source, batches, model.device)) as loaded:
        for batch, flux, ivar in meter.waiting(loaded):
            rate = settings.rate(state.epoch, batch.index, n_batches)
            state.optimiser.param_groups[0]["lr"] = rate
            found = _step(loop, batch, (flux, ivar), meter)
            worst = batch, found.by_spectrum
            totals += found.sums
            pause = _pause_due(settings, batch.index + 1, n_batches)
            # Before a pause, too: what is kept of it must be sound.
            if model.device.type == "cpu" or batch.index % _CHECK_EVERY == 0 or pause:
                _check_gradient(loop, *worst)
            if pause:
                totals = _pause(loop, batch.index + 1, totals)
    comm.sum_(totals)
    means = _means(totals)
    reference = min([state.start_chi2, *(record.train_chi2 for record in state.history)])
    if not math.isfinite(means["chi2"]) or means["chi2"] > _GROWTH * reference:
        raise _diverged(loop, f"its mean χ² is {means['chi2']:.4g}", *worst)
    return means


def _step(loop: _Loop, batch: Batch, spectra: tuple[Tensor, Tensor], meter: Meter) -> BatchLoss:
    """One step of the optimiser."""
    settings, state = loop.settings, loop.state
    weights = None
    if loop.weights is not None:
        weights = loop.weights[torch.as_tensor(batch.rows, device=loop.weights.device)]
    state.optimiser.zero_grad(set_to_none=True)
    found = batch_loss(
        *(loop.model, state.loss, spectra, settings),
        weights=weights, inpaint=settings.inpaints(state.epoch),
        softness=settings.softness(state.epoch),
    )  # fmt: skip
    # Divided by the size of the whole batch, so the sum over ranks is the exact mean although
    # ranks may have unequal shares, or none.
    divisor = _divisor(batch, spectra[1], loop, meter)
    torch.autograd.backward(found.loss / divisor)
    _sum_gradients(loop, meter)
    state.optimiser.step()
    return found


def _divisor(batch: Batch, ivar: Tensor, loop: _Loop, meter: Meter) -> Tensor | int:
    """Spectra of the whole batch, or for ``batch_masked`` its valid pixels."""
    if loop.settings.loss != "batch_masked":
        return batch.n_global
    n_valid = (ivar > 0).sum(dtype=torch.float64)
    meter.reduce(n_valid, loop.comm)
    return n_valid.clamp(min=1).to(ivar.dtype)


def _sum_gradients(loop: _Loop, meter: Meter) -> None:
    """Sum gradients over ranks in one message.

    DistributedDataParallel would average over ranks, which is wrong for unequal shares, and its
    buckets gain nothing for so small a network.
    """
    if loop.comm.world_size == 1:
        return
    parameters = list(loop.learnt.values())
    # A rank without rows still runs backward on zero spectra, so its gradients exist and are 0.
    flat = torch.cat([p.grad.view(-1) for p in parameters if p.grad is not None])
    meter.reduce(flat, loop.comm)
    parts = torch.split(flat, [p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def _pause_due(settings: TrainSettings, done: int, n_batches: int) -> bool:
    every = settings.checkpoint_batches
    return every > 0 and done % every == 0 and done < n_batches


def _pause(loop: _Loop, done: int, totals: Tensor) -> Tensor:
    """Say where the epoch stands, and give the sums to go on with."""
    loop.comm.sum_(totals)
    loop.state.batch, loop.state.totals = done, totals.tolist()
    loop.on_pause(loop.state)
    return totals if loop.comm.rank == 0 else torch.zeros_like(totals)


def _keep_best(loop: _Loop) -> None:
    """Remember the weights if their validation loss is the best so far."""
    settings, state = loop.settings, loop.state
    if not settings.patience:
        return
    found = [record.validation_loss for record in state.history]
    best = found[state.best_epoch - 1] if state.best_epoch else math.inf
    if found[-1] < best * (1 - settings.min_gain):
        state.best_epoch = state.epoch
        state.best = {k: v.detach().clone() for k, v in loop.learnt.items()}


def _restore(loop: _Loop, best: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in loop.learnt.items():
            parameter.copy_(best[name])


def _check_gradient(loop: _Loop, batch: Batch, losses: Tensor) -> None:
    # The summed gradient of the output bias is the same on every rank and is not finite if any
    # residual is not, so all ranks stop at the same step and none waits for another.
    gradient = next(reversed(list(loop.model.parameters()))).grad
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        raise _diverged(loop, f"it is not finite in batch {batch.index}", batch, losses)


def _diverged(loop: _Loop, what: str, batch: Batch, losses: Tensor) -> DivergedError:
    settings, state = loop.settings, loop.state
    cap = "none" if settings.snr_cap is None else f"{settings.snr_cap:g}"
    order = torch.nan_to_num(losses, nan=math.inf, posinf=math.inf).argsort(descending=True)
    rate = state.optimiser.param_groups[0]["lr"]
    return DivergedError(
        f"The loss diverges in epoch {state.epoch + 1}: {what}, at a learning rate of {rate:.3g}. "
        f"Lower learning_rate (now {settings.learning_rate:g}) or lengthen warmup_epochs, set or "
        f"lower snr_cap (now {cap}), or check the sample with `spectra-scale verify`. The last "
        "checkpoint is unharmed.",
        batch.rows[order.cpu().numpy()[:_N_WORST]],
    )


def _means(totals: Tensor) -> dict[str, float]:
    values = dict(zip(SUMS, totals.tolist(), strict=True))
    rows = values.pop("rows")
    return {name: value / max(rows, 1.0) for name, value in values.items()} | {"rows": rows}
