"""Encode: latents and χ² of every spectrum of a sample, one task a shard.

Each task also adds up, by label and split, what figure 14 and the residuals by class need, so
that nobody has to read all spectra again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from spectra_scale.compute.place import Place, Work
from spectra_scale.provenance import write_bytes
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.store.arrays import Shard
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import column, write_objects
from spectra_scale.store.run import OBJECTS
from spectra_scale.store.sample import Sample, read_rest
from spectra_scale.store.tables import read_table, write_table

VERSION = 2
KIND = "encode"
PARTS = "parts"
SPLITS = ("train", "validation")
#: Spectra encoded at once.
BATCH = 1024


@dataclass(frozen=True, slots=True)
class _Task:
    shard: Shard
    label: NDArray[np.int8]
    split: NDArray[np.object_]


def recipe(sample: str, autoencoder: str) -> Recipe:
    """What the latents are made from."""
    return Recipe(KIND, VERSION, {}, {"sample": sample, "autoencoder": autoencoder})


def run(inputs: tuple[Sample, Artifact], place: Place, out: Path, recipe: Recipe) -> Artifact:
    """Encode a sample.

    Parameters
    ----------
    inputs
        The sample and the trained auto-encoder, of this run or of an earlier one.
    place
        Where the tasks run.
    out
        Directory of the artifact: ``objects/`` with latents, χ² by paper eq. 1 and eq. 2 with the
        ivar of the sample (not capped), and `usable`; ``residuals.safetensors`` with sums by
        label and split.
    recipe
        What it is made from.
    """
    done = begin(out, recipe)
    if done:
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return done
    sample, model = inputs
    index = sample.index
    label, split = column(index, "label"), current_split(index)
    tasks = [_Task(shard, label[shard.rows], split[shard.rows]) for shard in sample.shards]
    work = Work("encode", "spectra", [shard.n_rows for shard in sample.shards])
    parts = (out / PARTS).resolve()
    place.map(
        partial(_encode_shard, sample.arrays.resolve(), model.path.resolve(), parts), tasks, work
    )
    table = pa.concat_tables([read_table(_table(parts, t.shard)) for t in tasks]).combine_chunks()
    columns = {name: column(table, name) for name in table.column_names}
    write_objects(out / OBJECTS, index, columns)
    sums = _merged(parts, [task.shard for task in tasks])
    write_bytes(out / "residuals.safetensors", save(sums))
    usable = columns["usable"]
    artifact = finish(
        out,
        recipe,
        counts={"rows": len(usable), "usable": int(usable.sum()),
                "median_not_positive": int((~usable).sum())},
        metrics=chi2_by_class(columns, label, split),
        where={"place": place.name},
    )  # fmt: skip
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return artifact


def _table(parts: Path, shard: Shard) -> Path:
    return parts / f"{shard.index:06d}.parquet"


def _sums(parts: Path, shard: Shard) -> Path:
    return parts / f"{shard.index:06d}.safetensors"


def _encode_shard(arrays: Path, model_path: Path, parts: Path, task: _Task) -> int:
    if not _table(parts, task.shard).is_file():
        _make(arrays, model_path, parts, task)
    return task.shard.n_rows


def _make(arrays: Path, model_path: Path, parts: Path, task: _Task) -> None:
    from spectra_scale.models.autoencoder import encode
    from spectra_scale.models.inputs import load_encoder

    model, inputs_ = load_encoder(model_path)
    model.to(_device())
    tables = []
    total: dict[str, NDArray[np.float64]] = {}
    for start in range(task.shard.start, task.shard.stop, BATCH):
        rows = slice(start, min(start + BATCH, task.shard.stop))
        flux, ivar, factor, usable = inputs_.apply(*read_rest(arrays, rows))
        found = encode(model, flux, ivar, want_reconstruction=True)
        assert found.reconstruction is not None
        tables.append(
            pa.table(
                {f"latent_{k}": found.latents[:, k] for k in range(found.latents.shape[1])}
                | {"chi2": found.chi2, "chi2_valid": found.chi2_valid,
                   "factor": factor, "usable": usable}
            )
        )  # fmt: skip
        here = slice(rows.start - task.shard.start, rows.stop - task.shard.start)
        part = residual_sums(found.reconstruction - flux, ivar, task.label[here], task.split[here])
        total = {name: total.get(name, 0.0) + value for name, value in part.items()}
    write_bytes(_sums(parts, task.shard), save(total))
    write_table(_table(parts, task.shard), pa.concat_tables(tables))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def current_split(index: pa.Table) -> NDArray[np.object_]:
    """Split of each row; '' for a superseded one, whose observation is there in a newer one."""
    split = column(index, "split").copy()
    split[column(index, "superseded").astype(bool)] = ""
    return split


def residual_sums(
    residual: NDArray[np.float32],
    ivar: NDArray[np.float32],
    label: NDArray[np.int8],
    split: NDArray[np.object_],
) -> dict[str, NDArray[np.float64]]:
    """Sums over spectra of normalised residuals, by split, label and pixel.

    Parameters
    ----------
    residual
        Reconstruction minus data, shape (spectrum, pixel).
    ivar
        Inverse variance, 0 where missing: such a pixel adds nothing.
    label, split
        Class code and split of each spectrum; one of neither split adds nothing.

    Returns
    -------
    dict
        ``square`` Σ (F_rec−F)² v, ``pull`` Σ (F_rec−F) √v and ``count`` of valid pixels, each of
        shape (split, label, pixel), splits in the order of `SPLITS` (science.md §10, figure 14).
    """
    shape = (len(SPLITS), len(CLASS_NAMES), residual.shape[1])
    sums = {name: np.zeros(shape) for name in ("square", "pull", "count")}
    pull = (residual * np.sqrt(ivar)).astype(np.float64)
    valid = ivar > 0
    for s, here in enumerate([split == name for name in SPLITS]):
        for code in np.unique(label[here]):
            rows = here & (label == code)
            sums["square"][s, code] = (pull[rows] ** 2).sum(axis=0)
            sums["pull"][s, code] = pull[rows].sum(axis=0)
            sums["count"][s, code] = valid[rows].sum(axis=0)
    return sums


def _merged(parts: Path, shards: Sequence[Shard]) -> dict[str, NDArray[np.float64]]:
    total: dict[str, NDArray[np.float64]] = {}
    for shard in shards:
        for name, value in load_file(_sums(parts, shard)).items():
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
