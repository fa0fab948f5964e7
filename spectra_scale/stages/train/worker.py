"""What one training worker does: the same with Ray, without Ray, alone or one of many."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from spectra_scale.models.autoencoder import Architecture, seeded_autoencoder
from spectra_scale.models.baseline import WeightedPCA
from spectra_scale.models.batches import VirtualStreams
from spectra_scale.models.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_model,
)
from spectra_scale.models.initialise import start_from_components
from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.normalise import Normalisation
from spectra_scale.models.training import (
    Communicator,
    EpochRecord,
    TrainSettings,
    TrainState,
    train,
)
from spectra_scale.stages.train.rows import SampleRows

CHECKPOINT = "checkpoint"
HISTORY = "history.jsonl"
BASELINE = "baseline.safetensors"
ROWS = "rows.npz"


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
    checkpoint_every
        Epochs between checkpoints.
    memory_gib
        Spectra a worker may hold.
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
    checkpoint_every: int
    memory_gib: float
    initial: str
    fill: bool

    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training and validation rows."""
        with np.load(self.out / ROWS) as file:
            return file["train"], file["validation"]


def work(
    training: Training,
    comm: Communicator,
    device: str,
    report: Callable[[EpochRecord], None] | None = None,
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
    """
    rows, validation = training.rows()
    baseline = load_file(training.out / BASELINE)
    components = WeightedPCA(baseline["mean"], baseline["components"])
    inputs = ModelInputs(training.normalisation, components if training.fill else None)
    memory = training.memory_gib * 2**30
    source = SampleRows(training.arrays, training.shape, training.chunk_rows, inputs, memory)
    model = seeded_autoencoder(training.architecture, training.settings.seed).to(device)
    if training.initial == "linear":
        start_from_components(model, components.mean, components.components, baseline["scale"])
    checkpoint = training.out / CHECKPOINT
    state: TrainState | None = None
    if has_checkpoint(checkpoint):
        state = load_checkpoint(checkpoint, model, training.settings, training.normalisation)

    def after(record: EpochRecord, state: TrainState) -> None:
        if comm.rank == 0:
            last = record.epoch == training.settings.epochs
            if record.epoch % training.checkpoint_every == 0 or last:
                save_checkpoint(
                    checkpoint, model, state, training.settings, training.normalisation
                )
            write_history(training.out / HISTORY, state.history)
        if report is not None:
            report(record)

    streams = VirtualStreams(rows, training.chunk_rows, training.settings.seed)
    train(model, source, streams, validation, training.settings, comm, on_epoch=after, state=state)
    if comm.rank == 0:
        inputs.save(training.out)
        save_model(training.out, model, training.normalisation, {"fill": training.fill})


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
