"""Encode: latents, their covariance and χ² of every spectrum of a sample, one task a shard.

Each task also adds up, by label and split, what figure 14 and the residuals by class need, so
that nobody has to read all spectra again. Covariances are calibrated at the end (science.md §6).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import EncodeSection, changed_settings
from spectra_scale.provenance import read_json, write_bytes
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.stages.encode.calibrate import (
    Found,
    NoiseTask,
    add_noise,
    calibrate,
    noise_task,
)
from spectra_scale.stages.encode.shard import (
    SPLITS,
    How,
    Task,
    correlation_of,
    encode_shard,
    group_of,
    on_linear_grid,
)
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import column, write_objects
from spectra_scale.store.run import OBJECTS
from spectra_scale.store.sample import Sample
from spectra_scale.store.tables import read_table

__all__ = [
    "SPLITS",
    "EncodeInputs",
    "chi2_by_class",
    "correlation_of",
    "current_split",
    "recipe",
    "run",
]

VERSION = 5
KIND = "encode"
PARTS = "parts"


class EncodeInputs(NamedTuple):
    """Inputs of `run`.

    Parameters
    ----------
    sample
        The sample.
    autoencoder
        The trained auto-encoder, of this run or of an earlier one.
    fitted
        Latents of the run the auto-encoder is of, whose calibration is taken; None makes one: it
        belongs to the models, so that a release more changes nothing of the others.
    """

    sample: Sample
    autoencoder: Artifact
    fitted: Artifact | None = None


def recipe(
    sample: str, autoencoder: str, config: EncodeSection, fitted: str | None = None
) -> Recipe:
    """What the latents are made from."""
    parents = {"sample": sample, "autoencoder": autoencoder}
    if fitted is not None:
        parents["calibration"] = fitted
    return Recipe(KIND, VERSION, changed_settings(config), parents)


def run(
    inputs: EncodeInputs,
    config: EncodeSection,
    place: Place,
    out: Path,
    recipe: Recipe,
) -> Artifact:
    """Encode a sample.

    Parameters
    ----------
    inputs
        What is encoded with what.
    config
        `[encode]`.
    place
        Where the tasks run.
    out
        Directory of the artifact: ``objects/`` with latents, the upper triangle of their
        calibrated covariance (``cov_0_0``, ``cov_0_1`` …), χ² by paper eq. 1 and eq. 2 with the
        ivar of the sample (not capped), and `usable`; ``residuals.safetensors`` with sums by
        label and split.
    recipe
        What it is made from.
    """
    done = begin(out, recipe)
    if done:
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return done
    sample, model, fitted = inputs
    index = sample.index
    label, split = column(index, "label"), current_split(index)
    parts = (out / PARTS).resolve()
    how = _how(sample, model, config, parts)
    tasks = _tasks(sample, group_of(label, split))
    found = _map(how, tasks, noise_task(sample) if config.covariance else None, place)
    table = pa.concat_tables(
        [read_table(parts / f"{task.file}.parquet") for task in tasks]
    ).combine_chunks()
    columns = {name: column(table, name) for name in table.column_names}
    metrics: dict[str, Any] = chi2_by_class(columns, label, split)
    metrics["inpaint"] = how.inpaint
    where = {"place": place.name}
    if found is not None:
        metrics["covariance"] = calibrate(sample, columns, found, fitted)
        where["precision"] = found.precision
    write_objects(out / OBJECTS, index, columns)
    write_bytes(out / "residuals.safetensors", save(_merged(parts, tasks)))
    usable = columns["usable"]
    counts = {
        "rows": len(usable),
        "usable": int(usable.sum()),
        "median_not_positive": int((~usable).sum()),
    }
    artifact = finish(out, recipe, counts=counts, metrics=metrics, where=where)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return artifact


def _map(how: How, tasks: list[Task], noise: NoiseTask | None, place: Place) -> Found | None:
    """Encode all shards, and the noise realisations beside them: one start of the workers."""
    sizes = [task.shard.n_rows for task in tasks]
    if noise is None:
        place.map(partial(_do, how), tasks, Work("encode", "spectra", sizes))
        return None
    work = Work("encode", "spectra", [*sizes, 4 * len(noise.rows)])
    *_, found = place.map(partial(_do, how), [*tasks, noise], work)
    assert isinstance(found, Found)
    return found


def _do(how: How, task: Task | NoiseTask) -> int | Found:
    return encode_shard(how, task) if isinstance(task, Task) else add_noise(how, task)


def _passes(model: Artifact, config: EncodeSection) -> int:
    """How often missing pixels are inpainted: as the job says, else as the model was trained."""
    if config.inpaint is not None:
        return config.inpaint
    return int(read_json(model.path / "model.json")["metadata"].get("inpaint", 0))


def _how(sample: Sample, model: Artifact, config: EncodeSection, parts: Path) -> How:
    return How(
        arrays=sample.arrays.resolve(),
        model=model.path.resolve(),
        fingerprint=model.fingerprint,
        parts=parts,
        precision=config.precision,
        inpaint=_passes(model, config),
        covariance=config.covariance,
        batch=config.batch,
        correlated=sample.artifact.metrics["preset"] == "conserve",
    )


def _tasks(sample: Sample, group: NDArray[np.int64]) -> list[Task]:
    index = sample.index
    redshift = column(index, "z").astype(np.float64)
    linear = on_linear_grid(column(index, "spectrum_key"))
    return [
        Task(shard, group[shard.rows], redshift[shard.rows], linear[shard.rows])
        for shard in sample.shards
    ]


def current_split(index: pa.Table) -> NDArray[np.object_]:
    """Split of each row; '' for a superseded one, whose observation is there in a newer one."""
    split = column(index, "split").copy()
    split[column(index, "superseded").astype(bool)] = ""
    return split


def _merged(parts: Path, tasks: Sequence[Task]) -> dict[str, NDArray[np.float64]]:
    total: dict[str, NDArray[np.float64]] = {}
    for task in tasks:
        for name, value in load_file(parts / f"{task.file}.safetensors").items():
            total[name] = total.get(name, 0.0) + value
    return total


def chi2_by_class(
    columns: Mapping[str, NDArray[Any]],
    label: NDArray[np.int8],
    split: NDArray[np.object_],
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean χ² of eq. 1 and eq. 2 and counts, by split and class; only usable spectra count."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    usable = columns["usable"].astype(bool)
    for name in SPLITS:
        inside = usable & (split == name)
        groups = {"all": inside} | {
            CLASS_NAMES[code]: inside & (label == code) for code in np.unique(label[inside])
        }
        found[name] = {
            group: {
                "n": int(rows.sum()),
                "chi2": float(np.mean(columns["chi2"][rows], dtype=np.float64)),
                "chi2_valid": float(np.mean(columns["chi2_valid"][rows], dtype=np.float64)),
                "chi2_valid median": float(np.median(columns["chi2_valid"][rows])),
            }
            for group, rows in groups.items()
            if rows.any()
        }
    return found
