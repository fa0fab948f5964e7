"""The model card: what an auto-encoder was trained on, how well it does, and what it is not for.

Written twice beside the weights: `model_card.json` for programs, `MODEL_CARD.md` to read. Neither
says where or when it was made, so the same weights have the same card.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file

from spectra_scale.compute.place import Place
from spectra_scale.config import PrepareSection, TrainSection
from spectra_scale.models.checkpoint import LOSS
from spectra_scale.provenance import read_json, versions, write_bytes, write_json
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.stages.train.card_text import CARD, PAGE, limits, page
from spectra_scale.stages.train.scan import UsableRows
from spectra_scale.stages.train.score import SNR_EDGES, score, table
from spectra_scale.stages.train.worker import CHECKPOINT, HISTORY, Training, read_history
from spectra_scale.store.artifact import Recipe
from spectra_scale.store.objects import column
from spectra_scale.store.sample import Sample

SCHEMA = "spectra_scale.model_card/1"
_QUANTILES = {"5 %": 0.05, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "95 %": 0.95}


def write_card(
    sample: Sample, rows: UsableRows, training: Training, config: TrainSection,
    recipe: Recipe, place: Place,
) -> dict[str, Any]:  # fmt: skip
    """Judge a finished model on all validation spectra, and write its card beside it.

    Parameters
    ----------
    sample, rows
        The sample, and which of its spectra train and judge.
    training
        What was done; the model is in its directory.
    config
        `[train]`.
    recipe
        Of the artifact.
    place
        Where the pass over the validation spectra runs.

    Returns
    -------
    The card.
    """
    sums = score(sample, rows, training.settings, training.out, place)
    card = {
        "schema": SCHEMA,
        "fingerprint": recipe.fingerprint,
        "model": _model(training),
        "sample": _sample(sample, rows),
        "training": _training(training, config, recipe),
        "validation": {"snr_median edges": list(SNR_EDGES)} | table(sums),
    }
    card["limits"] = limits(card)
    card["versions"] = versions()
    write_json(training.out / CARD, card)
    write_bytes(training.out / PAGE, page(card).encode())
    return card


def _model(training: Training) -> dict[str, Any]:
    architecture = training.architecture
    sizes = architecture.sizes
    return {
        "layers": [*sizes, *sizes[-2::-1]],
        "parameters": n_parameters(sizes),
        "latents": architecture.n_latent,
        "normalisation": training.normalisation.to_dict(),
        "missing pixels": "the linear baseline's guess" if training.fill else "zeros",
    }


def n_parameters(sizes: tuple[int, ...]) -> int:
    """Weights and biases of an auto-encoder whose encoder has these layer sizes."""
    # Encoder layers have biases of the next size, the mirrored decoder's of the one before.
    return sum(2 * a * b + a + b for a, b in pairwise(sizes))


def _sample(sample: Sample, rows: UsableRows) -> dict[str, Any]:
    index, metrics = sample.index, sample.artifact.metrics
    settings = PrepareSection(**(_recorded(sample) | {"preset": metrics["preset"]}))
    edges, grid = sample.grid.edges, sample.grid
    return {
        "fingerprint": sample.artifact.fingerprint,
        "counts": rows.counts,
        "releases": _releases(index, rows),
        "classes": _classes(column(index, "label"), rows),
        "z": _spread(column(index, "z")[rows.train]),
        "snr_median": _spread(column(index, "snr_median")[rows.train]),
        "snr_total": _spread(column(index, "snr_total")[rows.train]),
        "masked_fraction": _spread(column(index, "masked_fraction")[rows.train]),
        "preset": metrics["preset"],
        "mask": settings.mask_preset,
        "deredden": settings.deredden,
        "grid": {"n_pixels": grid.n_pixels, "first edge": round(float(edges[0]), 3),
                 "last edge": round(float(edges[-1]), 3), "unit": "Angstrom, vacuum, rest frame"},
        "flux unit": metrics["unit"],
        "settings that are not the defaults": _recorded(sample),
    }  # fmt: skip


def _recorded(sample: Sample) -> dict[str, Any]:
    """`[prepare]` as the sample recorded it; what else is in its recipe is not of it."""
    recorded: Mapping[str, Any] = sample.artifact.manifest["settings"]
    return {k: v for k, v in recorded.items() if k in PrepareSection.model_fields}


def _releases(index: pa.Table, rows: UsableRows) -> dict[str, dict[str, Any]]:
    names, survey, reduction = (
        column(index, name).astype(str) for name in ("release", "survey", "reduction")
    )
    found = {}
    for name in sorted(set(names[rows.train]) | set(names[rows.validation])):
        train, held = (part[names[part] == name] for part in (rows.train, rows.validation))
        both = np.concatenate([train, held])
        found[str(name)] = {
            "survey": sorted({str(s) for s in survey[both]}),
            "reductions": sorted({str(r) for r in reduction[both]}),
            "train": len(train),
            "validation": len(held),
        }
    return found


def _classes(label: NDArray[np.int8], rows: UsableRows) -> dict[str, dict[str, int]]:
    return {
        name: {
            "train": int((label[rows.train] == code).sum()),
            "validation": int((label[rows.validation] == code).sum()),
        }
        for code, name in enumerate(CLASS_NAMES)
    }


def _spread(values: NDArray[Any]) -> dict[str, float]:
    """Range and quantiles, to four digits."""
    finite = values[np.isfinite(values)].astype(float)
    if not len(finite):
        return {}
    quantiles = np.quantile(finite, list(_QUANTILES.values()))
    pairs = zip(("least", *_QUANTILES, "most"), (finite.min(), *quantiles, finite.max()),
                strict=True)  # fmt: skip
    return {name: float(f"{value:.4g}") for name, value in pairs}


def _training(training: Training, config: TrainSection, recipe: Recipe) -> dict[str, Any]:
    history = read_history(training.out / HISTORY)
    keep = ("epoch", "learning_rate", *(k for k in history[-1] if k.startswith(("train_", "val"))))
    best = 0
    if config.patience:
        # The weights are those of the epoch of the lowest validation loss.
        best = int(read_json(training.out / CHECKPOINT / "state.json")["best_epoch"])
    used = history[best - 1] if best else history[-1]
    how = training.settings.to_dict() | {"precision": config.precision}
    return {
        "epochs": len(history),
        "weights of epoch": int(used["epoch"]),
        "that epoch": {name: used[name] for name in keep},
        "classes": list(config.classes),
        "balance": config.balance,
        "initial": config.initial,
        "outliers": _outliers(training),
        "settings": {k: v for k, v in how.items() if not k.startswith("checkpoint")},
        "settings that are not the defaults": dict(recipe.settings),
    }


def _outliers(training: Training) -> dict[str, Any]:
    """Over the grid, what a loss has learnt itself; nothing if it learns nothing."""
    path = training.out / LOSS
    return {k: _spread(v) for k, v in load_file(path).items()} if path.is_file() else {}
