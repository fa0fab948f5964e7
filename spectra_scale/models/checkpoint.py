"""Models and trainings on disk: safetensors and JSON, nothing pickled.

A checkpoint is a directory written beside its place and renamed into it, so a reader never meets
half of one. A model is two files in an artifact's directory, the JSON last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from spectra_scale.errors import DamagedArtifactError, UsageError
from spectra_scale.models.autoencoder import Architecture, AutoEncoder
from spectra_scale.models.misfit import Loss, MixtureDensity
from spectra_scale.models.normalise import Normalisation
from spectra_scale.models.records import EpochRecord, TrainState, learnt, new_state
from spectra_scale.models.train_inputs import TrainSettings
from spectra_scale.provenance import write_bytes, write_json

CHECKPOINT_SCHEMA = "spectra_scale.checkpoint/4"
MODEL_SCHEMA = "spectra_scale.autoencoder/1"

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
# A resumed training may write checkpoints more or less often; some may be made longer.
# What a training began in one precision may go on in that of another machine.
_FREE_SETTINGS = (
    "checkpoint_every",
    "checkpoint_batches",
    "validation_batch_size",
    "precision",
)
_BEST = "best.safetensors"
#: What a loss with parameters of its own has learnt, beside the model.
LOSS = "loss.safetensors"


def save_checkpoint(
    directory: Path,
    model: AutoEncoder,
    state: TrainState,
    settings: TrainSettings,
    normalisation: Normalisation,
) -> None:
    """Write all that is needed to go on; replaces an older checkpoint of that name.

    Parameters
    ----------
    directory
        Where the checkpoint is to be; its parent must exist.
    model, state, settings
        As `train` has them.
    normalisation
        How the spectra were normalised.
    """
    partial = directory.with_name(f"{directory.name}.partial")
    previous = _previous(directory)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    weights = learnt(model, state.loss)
    tensors = {"weights.safetensors": _on_cpu(weights),
               "optimiser.safetensors": _moments(weights, state)}  # fmt: skip
    if state.best:
        tensors[_BEST] = _on_cpu(state.best)
    fields = {
        "schema": CHECKPOINT_SCHEMA,
        "epoch": state.epoch,
        "batch": state.batch,
        "totals": state.totals,
        "start_chi2": state.start_chi2,
        "best_epoch": state.best_epoch,
        "learning_rate": state.optimiser.param_groups[0]["lr"],
        "architecture": model.architecture.to_dict(),
        "normalisation": normalisation.to_dict(),
        "settings": settings.to_dict(),
        "history": [record.to_dict() for record in state.history],
    }
    try:
        for name, values in tensors.items():
            write_bytes(partial / name, save(values))
        write_json(partial / "state.json", fields)
    except OSError:
        # A full disk keeps the older checkpoint, and is not kept full by half of a new one.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # A directory cannot be replaced in one step: killed in between, `previous` is still there,
    # and `has_checkpoint` and `load_checkpoint` find it.
    if directory.exists():
        shutil.rmtree(previous, ignore_errors=True)
        directory.rename(previous)
    partial.rename(directory)
    shutil.rmtree(previous, ignore_errors=True)


def has_checkpoint(directory: Path) -> bool:
    """Whether `load_checkpoint` will find one."""
    return directory.is_dir() or _previous(directory).is_dir()


def load_checkpoint(
    directory: Path, model: AutoEncoder, settings: TrainSettings, normalisation: Normalisation
) -> TrainState:
    """Put a checkpoint's weights into `model`, and give the state to go on from.

    Parameters
    ----------
    directory
        As given to `save_checkpoint`.
    model
        On the device to train on; must have the checkpoint's architecture.
    settings, normalisation
        What the training is to go on with; must be the checkpoint's, but for the number of
        epochs and how often checkpoints are written.

    Returns
    -------
    State for `train`.

    Raises
    ------
    UsageError
        The checkpoint is of another architecture, normalisation or setting; it says which.
    DamagedArtifactError
        A file is missing or unreadable.
    """
    found = directory if directory.is_dir() else _previous(directory)
    fields = _read_json(found / "state.json", CHECKPOINT_SCHEMA)
    recorded, present = fields["settings"], settings.to_dict()
    # Only a training that does not know its end can be given another one.
    free = _FREE_SETTINGS if settings.knows_its_end else (*_FREE_SETTINGS, "epochs")
    for name in free:
        present[name] = recorded.get(name)
    _refuse_difference(found, "architecture", fields["architecture"], model.architecture.to_dict())
    _refuse_difference(found, "normalisation", fields["normalisation"], normalisation.to_dict())
    _refuse_difference(found, "settings", recorded, present)
    state = new_state(model, settings)
    weights = learnt(model, state.loss)
    _fill(weights, found / "weights.safetensors")
    _restore_moments(weights, state, found / "optimiser.safetensors")
    state.epoch, state.batch = int(fields["epoch"]), int(fields["batch"])
    state.totals, state.best_epoch = list(fields["totals"]), int(fields["best_epoch"])
    state.start_chi2 = float(fields["start_chi2"])
    if state.best_epoch:
        state.best = _fitting(weights, found / _BEST)
    state.history = [EpochRecord.from_dict(record) for record in fields["history"]]
    return state


def save_model(
    directory: Path,
    model: AutoEncoder,
    normalisation: Normalisation,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a finished model as ``model.safetensors`` and ``model.json``.

    Parameters
    ----------
    directory
        Must exist.
    model, normalisation
        What to keep.
    metadata
        Anything JSON can hold: grid, settings, metrics.
    """
    fields = {
        "schema": MODEL_SCHEMA,
        "architecture": model.architecture.to_dict(),
        "normalisation": normalisation.to_dict(),
        "metadata": dict(metadata or {}),
    }
    write_bytes(directory / "model.safetensors", save(_on_cpu(dict(model.named_parameters()))))
    write_json(directory / "model.json", fields)


def load_model(directory: Path) -> tuple[AutoEncoder, Normalisation, dict[str, Any]]:
    """Read what `save_model` wrote.

    Parameters
    ----------
    directory
        As given to `save_model`.

    Returns
    -------
    The model on the CPU, its normalisation and the metadata.

    Raises
    ------
    DamagedArtifactError
        A file is missing or unreadable, or the weights do not fit the architecture.
    """
    fields = _read_json(directory / "model.json", MODEL_SCHEMA)
    model = AutoEncoder.of(Architecture.from_dict(fields["architecture"]))
    _fill(dict(model.named_parameters()), directory / "model.safetensors")
    return model, Normalisation.from_dict(fields["normalisation"]), fields["metadata"]


def _previous(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.previous")


def save_loss(directory: Path, loss: Loss) -> None:
    """Write what a loss has learnt as ``loss.safetensors``, by pixel; nothing if it learns none.

    Parameters
    ----------
    directory
        Where `save_model` writes.
    loss
        `TrainState.loss` after training.
    """
    if isinstance(loss, MixtureDensity):
        write_bytes(directory / LOSS, save(loss.learnt()))


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _moments(weights: Mapping[str, Tensor], state: TrainState) -> dict[str, Tensor]:
    kept = state.optimiser.state
    return {
        f"{name}/{moment}": kept[parameter][moment].detach().cpu()
        for name, parameter in weights.items()
        if parameter in kept
        for moment in _MOMENTS
    }


def _restore_moments(weights: Mapping[str, Tensor], state: TrainState, path: Path) -> None:
    tensors = _read_tensors(path)
    shapes = {
        f"{name}/{moment}": "float32 ()" if moment == "step" else _kind(parameter)
        for name, parameter in weights.items()
        for moment in _MOMENTS
    }
    if not tensors:  # saved before the first step
        return
    _refuse_shapes(path, {name: _kind(t) for name, t in tensors.items()}, shapes)
    # Clones, because torch's own allocation is aligned: arithmetic then goes as in the first run.
    moments = {
        index: {moment: tensors[f"{name}/{moment}"].clone() for moment in _MOMENTS}
        for index, name in enumerate(weights)
    }
    groups = state.optimiser.state_dict()["param_groups"]
    state.optimiser.load_state_dict({"state": moments, "param_groups": groups})


def _fitting(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors of a file, which must be weights of the same names and shapes."""
    tensors = _read_tensors(path)
    expected = {name: _kind(p) for name, p in weights.items()}
    _refuse_shapes(path, {name: _kind(t) for name, t in tensors.items()}, expected)
    return tensors


def _fill(weights: Mapping[str, Tensor], path: Path) -> None:
    tensors = _fitting(weights, path)
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(tensors[name])


def _read_json(path: Path, schema: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read ({error}). Delete its directory and run again."
        raise DamagedArtifactError(message) from error
    if fields.get("schema") != schema:
        message = (
            f"{path} has schema {fields.get('schema')!r}, expected {schema!r}: it was written by "
            "another version of spectra_scale. Use that version, or train again."
        )
        raise UsageError(message)
    return fields


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        message = f"{path} cannot be read ({error}). Delete its directory and run again."
        raise DamagedArtifactError(message) from error
    return tensors


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype}".removeprefix("torch.") + f" {tuple(tensor.shape)}"


def _refuse_shapes(path: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    names = sorted(found.keys() | expected.keys())
    wrong = [n for n in names if found.get(n) != expected.get(n)]
    if wrong:
        said = "; ".join(f"{n} is {found.get(n)}, not {expected.get(n)}" for n in wrong[:4])
        message = f"{path} does not fit the model: {said}. Delete its directory and run again."
        raise DamagedArtifactError(message)


def _refuse_difference(
    path: Path, what: str, recorded: Mapping[str, Any], present: Mapping[str, Any]
) -> None:
    names = sorted(recorded.keys() | present.keys())
    wrong = [n for n in names if recorded.get(n) != present.get(n)]
    if wrong:
        said = "; ".join(f"{n} was {recorded.get(n)!r}, is {present.get(n)!r}" for n in wrong)
        message = (
            f"{path} was made with another {what}: {said}. Set these back to go on, or give "
            "another output directory to train anew."
        )
        raise UsageError(message)
