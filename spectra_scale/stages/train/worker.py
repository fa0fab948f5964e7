"""What one training worker does: the same with Ray, without Ray, alone or one of many."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from spectra_scale.models.autoencoder import Architecture, AutoEncoder, seeded_autoencoder
from spectra_scale.models.baseline import WeightedPCA
from spectra_scale.models.batches import VirtualStreams
from spectra_scale.models.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_loss,
    save_model,
)
from spectra_scale.models.initialise import start_from_components
from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.normalise import Normalisation
from spectra_scale.models.precision import PrecisionSetting, resolve
from spectra_scale.models.training import (
    Communicator,
    DivergedError,
    EpochRecord,
    RowSource,
    TrainSettings,
    TrainState,
    is_finished,
    train,
)
from spectra_scale.stages.train.curves import Curves
from spectra_scale.stages.train.rows import PIXEL_BYTES, Spectra, StreamedRows, held_rows
from spectra_scale.stages.train.scan import read_usable_rows
from spectra_scale.store.tables import read_table

Rows = NDArray[np.int64]
CHECKPOINT = "checkpoint"
HISTORY = "history.jsonl"
BASELINE = "baseline.safetensors"
DATA = "data.txt"
#: Of a GPU's free memory, what spectra may take: weights, moments and activations need some.
_SHARE_OF_GPU = 0.6
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Training:
    """All a worker is told; the rows are in a file of `out`, the spectra in the sample.

    Parameters
    ----------
    arrays, shape, chunk_rows
        Zarr group of the sample, its rows and pixels, and rows compressed together.
    out
        Directory of the artifact, reachable from every worker.
    architecture, normalisation, settings
        The model and how it is trained.
    precision
        Of the matrix products; what ``auto`` means is for the worker's device to say.
    memory_gib
        Spectra a worker may hold.
    buffer_gib
        Spectra shuffled together, over all workers.
    initial
        ``random`` weights, or ``linear``: the baseline of ``baseline.safetensors``.
    fill
        Whether missing pixels are fed the baseline's guess instead of 0.
    """

    arrays: Path
    shape: tuple[int, int]
    chunk_rows: int
    out: Path
    architecture: Architecture
    normalisation: Normalisation
    settings: TrainSettings
    precision: PrecisionSetting
    memory_gib: float
    buffer_gib: float
    initial: str
    fill: bool

    def streams(self, rows: Rows) -> VirtualStreams:
        """Order of the training rows; a function of settings, not of workers or memory."""
        blocks = self.buffer_gib * 2**30 / (self.chunk_rows * self.shape[1] * PIXEL_BYTES)
        plain = VirtualStreams(rows, self.chunk_rows, self.settings.seed)
        buffer = max(1, int(blocks / plain.n_streams))
        return dataclasses.replace(plain, buffer_blocks=buffer)


def work(
    training: Training,
    comm: Communicator,
    device: str,
    report: Callable[[EpochRecord], None],
) -> None:
    """Train from the last checkpoint (or from nothing) to the end, and save the model.

    Parameters
    ----------
    training
        What to do.
    comm
        How ranks talk; rank 0 writes.
    device
        Where this worker computes.
    report
        Called on every rank after every epoch.

    Raises
    ------
    DivergedError
        If the loss diverges; it names the spectra with the largest.
    """
    settings = dataclasses.replace(
        training.settings, precision=resolve(training.precision, device)
    )
    rows = read_usable_rows(training.out)
    inputs, model = _start(training, device)
    spectra = Spectra(training.arrays, training.shape, training.chunk_rows, inputs, rows["factor"])
    streams, validation = training.streams(rows["train"]), rows["validation"]
    state: TrainState | None = None
    if has_checkpoint(training.out / CHECKPOINT):
        state = load_checkpoint(training.out / CHECKPOINT, model, settings, training.normalisation)
    source = open_source(spectra, training, (streams, validation), comm, device)
    curves = Curves(training.out, state) if comm.rank == 0 else None
    keeper = _Keeper(training, settings, model, comm, report, curves)
    try:
        state = train(
            *(model, source, streams, validation, settings, comm),
            on_epoch=keeper.after, on_pause=keeper.save, state=state, row_weights=rows["weight"],
        )  # fmt: skip
    except DivergedError as error:
        msg = f"{error}{_named(training, error.rows)}"
        raise DivergedError(msg, error.rows) from error
    finally:
        if curves is not None:
            curves.close()
    if comm.rank == 0:
        # Killed after the last checkpoint, the history on disk may lack its last epoch.
        write_history(training.out / HISTORY, state.history)
        inputs.save(training.out)
        save_loss(training.out, state.loss)
        metadata = {"fill": training.fill, "inpaint": int(settings.inpaint_epochs > 0)}
        save_model(training.out, model, training.normalisation, metadata)


@dataclass(frozen=True, slots=True, eq=False)
class _Keeper:
    """What is kept of a training while it runs; rank 0 writes."""

    training: Training
    settings: TrainSettings
    model: AutoEncoder
    comm: Communicator
    report: Callable[[EpochRecord], None]
    curves: Curves | None

    def save(self, state: TrainState) -> None:
        """Write a checkpoint."""
        if self.comm.rank == 0:
            place, normalisation = self.training.out / CHECKPOINT, self.training.normalisation
            save_checkpoint(place, self.model, state, self.settings, normalisation)

    def after(self, record: EpochRecord, state: TrainState) -> None:
        """Write the history of an epoch, and a checkpoint when one is due."""
        if self.curves is not None:
            # Before the checkpoint, so that a resume finds no epoch missing in the curves.
            self.curves.add(record)
        if self.settings.checkpoint_due(record.epoch) or is_finished(state, self.settings):
            self.save(state)
        if self.comm.rank == 0:
            write_history(self.training.out / HISTORY, state.history)
        self.report(record)


def _start(training: Training, device: str) -> tuple[ModelInputs, AutoEncoder]:
    """What the model is fed, and the model before its first step."""
    baseline = load_file(training.out / BASELINE)
    components = WeightedPCA(baseline["mean"], baseline["components"])
    model = seeded_autoencoder(training.architecture, training.settings.seed)
    if training.initial == "linear":
        start_from_components(model, components.mean, components.components, baseline["scale"])
    inputs = ModelInputs(training.normalisation, components if training.fill else None)
    return inputs, model.to(device)


def open_source(
    spectra: Spectra,
    training: Training,
    rows: tuple[VirtualStreams, Rows],
    comm: Communicator,
    device: str,
) -> RowSource:
    """A rank's rows: on its GPU or in memory where they fit, else streamed; says which.

    Parameters
    ----------
    spectra
        The sample.
    training
        How much memory there is.
    rows
        Training and validation rows of all ranks.
    comm
        Which rank this is; rank 0 writes to `DATA` what it chose.
    device
        Where this rank computes.
    """
    streams, validation = rows
    size = training.settings.validation_batch_size
    shares = [validation[start : start + size] for start in range(0, len(validation), size)]
    mine = np.concatenate(
        [streams.owned_rows(comm.rank, comm.world_size), *shares[comm.rank :: comm.world_size]]
    )
    need, memory = len(mine) * spectra.shape[1] * PIXEL_BYTES, training.memory_gib * 2**30
    where = device if need <= _SHARE_OF_GPU * _free_on(device) else "cpu"
    if where != "cpu" or need <= memory:
        said = f"{need / 2**30:.2f} GiB of spectra a worker, held in memory ({where})"
        source: RowSource = held_rows(spectra, np.unique(mine), where)
    else:
        pool = StreamedRows(spectra, memory)
        least = min(spectra.n_chunks, streams.active_blocks(comm.world_size))
        said = (
            f"{need / 2**30:.2f} GiB of spectra a worker, streamed through "
            f"{pool.n_slots * spectra.chunk_bytes / 2**30:.2f} GiB"
        )
        if pool.n_slots < least:
            said += (
                f"; chunks will be read again and again: raise [compute] memory_gib to "
                f"{least * spectra.chunk_bytes / 2**30:.2f} or lower [train] buffer_gib"
            )
        source = pool
    if comm.rank == 0:
        (training.out / DATA).write_text(said, encoding="utf-8")
        log.info("train: %s", said)
    return source


def _free_on(device: str) -> int:
    """Free bytes of a GPU; 0 for a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else 0


def _named(training: Training, rows: Rows) -> str:
    """Which spectra these are, for a message."""
    if not len(rows):
        return ""
    index = read_table(training.arrays.parent / "index.parquet", columns=["spectrum_key"])
    keys = index["spectrum_key"].take(pa.array(rows)).to_pylist()
    return f" Largest in the last batch: {', '.join(map(str, keys))}."


def write_history(path: Path, history: list[EpochRecord]) -> None:
    """Write one JSON line an epoch, replacing the file at once."""
    lines = "".join(json.dumps(record.to_dict()) + "\n" for record in history)
    partial = path.with_suffix(".part")
    partial.write_text(lines)
    partial.replace(path)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Records written so far; none if there is no file yet."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def pick_device() -> str:
    """A GPU if this process has one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
