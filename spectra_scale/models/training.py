"""The training loop: one loop for one process and for many (science.md §6, design.md §2).

Where the rows come from and how ranks talk is handed in (`RowSource`, `Communicator`), so the
loop is the same inside a cluster's worker function and without a cluster.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.autoencoder import AutoEncoder, to_tensor
from spectra_scale.models.batches import Batch, VirtualStreams, prefetch
from spectra_scale.models.losses import squared_residual, training_ivar, valid_count
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
    "EpochRecord",
    "RowSource",
    "SingleProcess",
    "TorchDistributed",
    "TrainSettings",
    "TrainState",
    "evaluate",
    "new_state",
    "train",
]

log = logging.getLogger(__name__)

# Names of the sums kept over spectra, in their order; `rows` is what the others are divided by.
SUMS = ("chi2", "chi2_valid", "chi2_uncapped", "chi2_valid_uncapped", "rows")

_CHECK_EVERY = 100  # steps between looks at the gradient: each look waits for an accelerator


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one epoch gave; all χ² are means over spectra.

    Parameters
    ----------
    epoch
        Epochs done, so the first is 1.
    learning_rate
        Adam's step in this epoch.
    train_chi2, train_chi2_valid
        Paper eq. 1 and 2 of the training rows, with the loss's ivar (cap and variance scale). A
        running mean: each batch is taken before the step it causes, so early in a training it
        lies above what `evaluate` gives afterwards.
    train_chi2_uncapped, train_chi2_valid_uncapped
        The same with the ivar of the sample: neither cap nor variance scale.
    validation_chi2, validation_chi2_valid
        Validation rows with the weights at the end of the epoch, ivar as in the loss.
    validation_chi2_uncapped, validation_chi2_valid_uncapped
        The same with the ivar of the sample.
    rows
        Training rows of the epoch over all ranks.
    seconds
        Wall time of training and validation.
    """

    epoch: int
    learning_rate: float
    train_chi2: float
    train_chi2_valid: float
    train_chi2_uncapped: float
    train_chi2_valid_uncapped: float
    validation_chi2: float
    validation_chi2_valid: float
    validation_chi2_uncapped: float
    validation_chi2_valid_uncapped: float
    rows: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EpochRecord:
        """Inverse of `to_dict`."""
        return cls(**fields)


@dataclass(slots=True, eq=False)
class TrainState:
    """Where a training stands, beside the weights.

    Parameters
    ----------
    epoch
        Epochs done.
    optimiser
        Adam with its moments.
    history
        One record an epoch.
    """

    epoch: int
    optimiser: torch.optim.Adam
    history: list[EpochRecord]


def new_state(model: AutoEncoder, settings: TrainSettings) -> TrainState:
    """State of a training that has not begun; the model must be on its device already."""
    # The fused kernel updates all weights in one pass, several times faster than the plain loop.
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    return TrainState(0, optimiser, [])


def train(  # noqa: PLR0913 - three things to learn from, two that say how, two to resume and report
    model: AutoEncoder,
    source: RowSource,
    train_streams: VirtualStreams,
    validation_rows: Rows,
    settings: TrainSettings,
    comm: Communicator,
    *,
    on_epoch: Callable[[EpochRecord, TrainState], None],
    state: TrainState | None = None,
) -> TrainState:
    """Train until `settings.epochs` epochs are done.

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
    state
        Where an earlier training stood (`load_checkpoint`); None begins anew.

    Returns
    -------
    The state after the last epoch.

    Raises
    ------
    SpectraScaleError
        On every rank alike, when the loss is no longer finite.
    """
    _check_inputs(model, source, train_streams, validation_rows)
    state = new_state(model, settings) if state is None else state
    with torch.no_grad():
        for parameter in model.parameters():
            comm.broadcast(parameter)
    for epoch in range(state.epoch, settings.epochs):
        started = time.perf_counter()
        rate = settings.learning_rate * settings.gamma**epoch
        state.optimiser.param_groups[0]["lr"] = rate
        batches = train_streams.epoch(epoch, settings.batch_size, comm.rank, comm.world_size)
        learnt = _train_epoch(model, source, batches, settings, comm, state)
        held_out = evaluate(model, source, validation_rows, settings, comm)
        record = _record(epoch + 1, rate, learnt, held_out, time.perf_counter() - started)
        state.epoch = epoch + 1
        state.history.append(record)
        log.debug(
            "trained epoch=%d train_chi2=%.4f validation_chi2=%.4f rows=%d seconds=%.1f",
            *(record.epoch, record.train_chi2, record.validation_chi2),
            *(record.rows, record.seconds),
        )
        on_epoch(record, state)
    return state


def evaluate(
    model: AutoEncoder,
    source: RowSource,
    rows: Rows,
    settings: TrainSettings,
    comm: Communicator,
) -> dict[str, float]:
    """Mean χ² of rows under the present weights; the ranks share the work.

    Parameters
    ----------
    model, source, settings, comm
        As for `train`.
    rows
        Row numbers, all of them on every rank.

    Returns
    -------
    ``chi2``, ``chi2_valid`` (ivar as in the loss), ``chi2_uncapped``, ``chi2_valid_uncapped``
    (ivar of the sample), and ``rows``; the same on every rank.
    """
    size = settings.validation_batch_size
    shares = (rows[start : start + size] for start in range(0, len(rows), size))
    mine = islice(shares, comm.rank, None, comm.world_size)
    batches = (Batch(share, len(share), index) for index, share in enumerate(mine))
    totals = torch.zeros(len(SUMS), dtype=torch.float64, device=model.device)
    with torch.inference_mode(), closing(_load(source, batches, model.device)) as loaded:
        for _, flux, ivar in loaded:
            totals += _forward(model, flux, ivar, settings)[1]
    return _means(totals, comm)


def _check_inputs(
    model: AutoEncoder, source: RowSource, streams: VirtualStreams, validation_rows: Rows
) -> None:
    if model.architecture.n_pixels != source.n_pixels:
        message = (
            f"The model takes {model.architecture.n_pixels} pixels, the sample has "
            f"{source.n_pixels}. Set the model's n_pixels to that of the sample's grid."
        )
        raise UsageError(message)
    if len(streams) == 0 or len(validation_rows) == 0:
        message = (
            f"There are {len(streams)} training and {len(validation_rows)} validation rows; both "
            "are needed. Loosen the selection, or add spectra: the split goes by sky position."
        )
        raise UsageError(message)


def _load(
    source: RowSource, batches: Iterator[Batch], device: torch.device
) -> Generator[tuple[Batch, Tensor, Tensor]]:
    """Batches with their flux and ivar on `device`, read ahead."""
    nothing = np.empty((0, source.n_pixels), np.float32)

    def read() -> Iterator[tuple[Batch, Floats, Floats]]:
        for batch in batches:
            flux, ivar = source.take(batch.rows) if len(batch.rows) else (nothing, nothing)
            yield batch, flux, ivar

    with closing(prefetch(read())) as ahead:
        for batch, flux, ivar in ahead:
            yield batch, to_tensor(flux, device), to_tensor(ivar, device)


def _forward(
    model: AutoEncoder, flux: Tensor, ivar: Tensor, settings: TrainSettings
) -> tuple[Tensor, Tensor]:
    """Sum over spectra of the optimised χ², with its graph, and the float64 `SUMS`."""
    recon: Tensor = model(flux)
    square = squared_residual(recon, flux, ivar)
    weight = training_ivar(flux, ivar, settings.snr_cap, settings.variance_scale)
    n_valid = valid_count(ivar)
    capped = (square * weight).sum(dim=1)
    with torch.no_grad():
        plain = (square * ivar).sum(dim=1)
        by_spectrum = torch.stack([capped, capped / n_valid, plain, plain / n_valid])
        sums = by_spectrum.sum(dim=1, dtype=torch.float64)
        sums[::2] /= ivar.shape[1]
        sums = torch.cat([sums, sums.new_full((1,), len(flux))])
    if settings.loss == "chi2_valid":
        return (capped / n_valid).sum(), sums
    total = capped.sum()
    return (total / ivar.shape[1] if settings.loss == "chi2" else total), sums


def _train_epoch(
    model: AutoEncoder,
    source: RowSource,
    batches: Iterator[Batch],
    settings: TrainSettings,
    comm: Communicator,
    state: TrainState,
) -> dict[str, float]:
    totals = torch.zeros(len(SUMS), dtype=torch.float64, device=model.device)
    model.train()
    with closing(_load(source, batches, model.device)) as loaded:
        for batch, flux, ivar in loaded:
            state.optimiser.zero_grad(set_to_none=True)
            loss, sums = _forward(model, flux, ivar, settings)
            # Divided by the size of the whole batch, so the sum over ranks is the exact mean
            # although ranks may have unequal shares, or none.
            torch.autograd.backward(loss / _divisor(batch, ivar, settings, comm))
            _sum_gradients(model, comm)
            state.optimiser.step()
            totals += sums
            if batch.index % _CHECK_EVERY == 0:
                _check_gradient(model, state, settings, batch)
    means = _means(totals, comm)
    if not math.isfinite(means["chi2"]):
        raise _diverged(state, settings, "at its end")
    return means


def _divisor(
    batch: Batch, ivar: Tensor, settings: TrainSettings, comm: Communicator
) -> Tensor | int:
    """Spectra of the whole batch, or for ``batch_masked`` its valid pixels."""
    if settings.loss != "batch_masked":
        return batch.n_global
    n_valid = (ivar > 0).sum(dtype=torch.float64)
    comm.sum_(n_valid)
    return n_valid.clamp(min=1).to(ivar.dtype)


def _sum_gradients(model: AutoEncoder, comm: Communicator) -> None:
    """Sum gradients over ranks in one message.

    DistributedDataParallel would average over ranks, which is wrong for unequal shares, and its
    buckets gain nothing for so small a network.
    """
    if comm.world_size == 1:
        return
    parameters = list(model.parameters())
    # A rank without rows still runs backward on zero spectra, so its gradients exist and are 0.
    flat = torch.cat([p.grad.view(-1) for p in parameters if p.grad is not None])
    comm.sum_(flat)
    parts = torch.split(flat, [p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def _check_gradient(
    model: AutoEncoder, state: TrainState, settings: TrainSettings, batch: Batch
) -> None:
    # The summed gradient of the output bias is the same on every rank and is not finite if any
    # residual is not, so all ranks stop at the same step and none waits for another.
    gradient = next(reversed(list(model.parameters()))).grad
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        raise _diverged(state, settings, f"in batch {batch.index}")


def _diverged(state: TrainState, settings: TrainSettings, where: str) -> SpectraScaleError:
    cap = "none" if settings.snr_cap is None else f"{settings.snr_cap:g}"
    return SpectraScaleError(
        f"The loss is no longer finite in epoch {state.epoch + 1}, {where}. Lower learning_rate "
        f"(now {settings.learning_rate:g}), set or lower snr_cap (now {cap}), or check the "
        "sample with `spectra-scale verify`. The last checkpoint is unharmed."
    )


def _means(totals: Tensor, comm: Communicator) -> dict[str, float]:
    comm.sum_(totals)
    values = dict(zip(SUMS, totals.tolist(), strict=True))
    rows = values.pop("rows")
    return {name: value / max(rows, 1.0) for name, value in values.items()} | {"rows": rows}


def _record(
    epoch: int,
    learning_rate: float,
    learnt: Mapping[str, float],
    held_out: Mapping[str, float],
    seconds: float,
) -> EpochRecord:
    fields = {f"train_{name}": learnt[name] for name in SUMS[:-1]}
    fields |= {f"validation_{name}": held_out[name] for name in SUMS[:-1]}
    return EpochRecord(
        epoch=epoch,
        learning_rate=learning_rate,
        rows=round(learnt["rows"]),
        seconds=seconds,
        **fields,
    )
