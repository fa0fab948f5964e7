"""Stack: inverse-variance stacks of all regions on the native grid, in one pass (science.md §9).

A task reads some shards of one release and adds up all regions and their bootstrap replicas.
Sums are float64 and merge by addition in a fixed order, so that the result does not depend on
where the tasks ran.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import PrepareSection, StackSection, changed_settings
from spectra_scale.dust import deredden
from spectra_scale.provenance import write_bytes
from spectra_scale.spectrum.grid import stack_wavelength
from spectra_scale.spectrum.indices import measure_indices
from spectra_scale.spectrum.linefit import fit_lines
from spectra_scale.spectrum.masks import reject_bits
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.spectrum.stacking import (
    StackSums,
    bootstrap_error,
    bootstrap_multiplicity,
    shift_to_stack,
    stack_regions,
    window_scale,
)
from spectra_scale.store.arrays import Shard
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import column, read_objects
from spectra_scale.store.run import OBJECTS
from spectra_scale.store.sample import Sample
from spectra_scale.store.tables import write_table
from spectra_scale.surveys.native import Buffers, NativeRows
from spectra_scale.surveys.release import Release

VERSION = 1
KIND = "stack"
PARTS = "parts"
#: Tasks at most: each leaves one file of sums for all regions and replicas.
MAX_TASKS = 64
SUMS = ("weight", "weighted_flux", "count", "weight_squared")
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StackInputs:
    """Inputs of `run`.

    Parameters
    ----------
    releases, sample, regions
        Native arrays, the rows and redshifts of the sample, and who is in which region.
    """

    releases: Sequence[Release]
    sample: Sample
    regions: Artifact


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    spectra: NativeRows
    objects: Ints
    redshift: NDArray[np.float64]
    membership: NDArray[np.bool_]
    ebv: NDArray[np.float64] | None
    part: Path


@dataclass(frozen=True, slots=True)
class _How:
    mask: str
    window: tuple[float, float] | None
    n_bootstrap: int
    seed: int


def recipe(regions: str, prepare: PrepareSection, config: StackSection) -> Recipe:
    """What the stacks are made from; the regions' fingerprint stands for sample and releases."""
    mask = prepare.mask_preset if config.mask == "same" else config.mask
    settings = changed_settings(config) | {"mask": mask}
    if prepare.deredden:
        settings["deredden"] = True
    return Recipe(KIND, VERSION, settings, {"regions": regions})


def run(
    inputs: StackInputs, config: StackSection, place: Place, out: Path, recipe: Recipe
) -> Artifact:
    """Stack all regions.

    Parameters
    ----------
    inputs
        Releases, sample and regions.
    config
        `[stack]`.
    place
        Where the tasks run.
    out
        Directory of the artifact: ``stacks.parquet`` (wavelength, and flux, error,
        bootstrap_error, count and n_eff of each region on the stacking grid) and
        ``indices.parquet`` (indices with bootstrap errors, and lines, of each region).
    recipe
        What it is made from.
    """
    done = begin(out, recipe)
    if done:
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return done
    names, tasks = _tasks(inputs, out, dust=bool(recipe.settings.get("deredden")))
    how = _How(
        recipe.settings["mask"],
        None if config.normalise == "off" else config.normalise,
        config.n_bootstrap,
        config.seed,
    )
    work = Work("stack", "spectra", [max(len(task.spectra), 1) for task in tasks])
    used = sum(place.map(partial(_stack_task, how), tasks, work))
    sums = _merge(tasks, len(names), config.n_bootstrap)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    write_table(out / "stacks.parquet", _stack_table(names, sums))
    indices = [_measure(row) for row in sums]
    write_table(out / "indices.parquet", _index_table(names, indices))
    counts = {"spectra stacked": used} | {
        name: int(np.max(row[0].count, initial=0)) for name, row in zip(names, sums, strict=True)
    }
    return finish(out, recipe, counts=counts, where={"place": place.name})


def _tasks(inputs: StackInputs, out: Path, *, dust: bool) -> tuple[list[str], list[_Task]]:
    index = inputs.sample.index
    table = read_objects(inputs.regions.path / OBJECTS, index)
    columns = [name for name in table.column_names if name.startswith("in_")]
    flags = [column(table, name).astype(bool) for name in columns]
    membership = np.stack(flags, axis=1) if flags else np.zeros((index.num_rows, 0), dtype=bool)
    # A superseded row is an older reduction of an observation that is there already.
    membership &= ~column(index, "superseded").astype(bool)[:, None]
    release, row = column(index, "release"), column(index, "row")
    n_shards = sum(len(r.shards) for r in inputs.releases)
    group = max(1, -(-n_shards // MAX_TASKS))
    tasks = []
    for number, source in enumerate(inputs.releases):
        source.check_present()
        places = source.places()
        mine = np.flatnonzero((release == source.name) & membership.any(axis=1))
        shards = source.shards
        for start in range(0, len(shards), group):
            rows = mine[_within(row[mine], shards[start : start + group])]
            tasks.append(
                _Task(
                    spectra=source.rows(row[rows], places),
                    objects=column(index, "sky_id")[rows],
                    redshift=column(index, "z")[rows],
                    membership=membership[rows],
                    ebv=_ebv(source, row[rows]) if dust else None,
                    part=out.resolve() / PARTS / f"{number:03d}-{start:06d}.safetensors",
                )
            )
    return [name.removeprefix("in_") for name in columns], tasks


def _ebv(release: Release, rows: Ints) -> NDArray[np.float64]:
    return np.asarray(column(release.catalogue, "ebv")[rows], dtype=np.float64)


def _within(rows: Ints, shards: Sequence[Shard]) -> NDArray[np.bool_]:
    return (rows >= shards[0].start) & (rows < shards[-1].stop)


def _stack_task(how: _How, task: _Task) -> int:
    n_rows = len(task.spectra)
    if task.part.is_file():
        return n_rows
    n_stacks = task.membership.shape[1] * (1 + how.n_bootstrap)
    total = [StackSums.zeros() for _ in range(n_stacks)]
    buffers = task.spectra.buffers()
    for part in task.spectra.blocks():
        spectra = _read(task, part, buffers)
        reject = int(reject_bits(how.mask, spectra.linear_step))
        z = task.redshift[part]
        weights = _multiplicity(task, part, how)
        scale = None
        if how.window is not None:
            scale = window_scale(*shift_to_stack(spectra, z, reject), how.window)
        block = stack_regions(spectra, z, weights, reject, scale)
        total = [a + b for a, b in zip(total, block, strict=True)]
    stacked = {
        name: np.stack([getattr(s, name) for s in total]) if total else np.zeros((0, 0))
        for name in SUMS
    }
    write_bytes(task.part, save(stacked))
    return n_rows


def _read(task: _Task, part: slice, buffers: Buffers | None) -> ObservedSpectra:
    spectra = task.spectra.read(part, into=buffers)
    return spectra if task.ebv is None else deredden(spectra, task.ebv[part])


def _multiplicity(task: _Task, part: slice, how: _How) -> NDArray[np.uint16]:
    """Regions, then their replicas: shape (spectrum, region · (1 + replica)).

    Objects on the sky are resampled, not spectra: repeats of one object go together.
    """
    inside = task.membership[part].astype(np.uint16)
    if not how.n_bootstrap:
        return inside
    drawn = bootstrap_multiplicity(task.objects[part], how.n_bootstrap, how.seed)
    replicas = inside[:, :, None] * drawn[:, None, :]
    return np.concatenate([inside[:, :, None], replicas], axis=2).reshape(len(inside), -1)


def _merge(tasks: Sequence[_Task], n_regions: int, n_bootstrap: int) -> list[list[StackSums]]:
    total: dict[str, NDArray[Any]] = {}
    for task in tasks:
        for name, value in load_file(task.part).items():
            total[name] = total[name] + value if name in total else value
    size = 1 + n_bootstrap
    return [
        [StackSums(**{name: total[name][r * size + b] for name in SUMS}) for b in range(size)]
        for r in range(n_regions)
    ]


def _stack_table(names: Sequence[str], stacks: Sequence[Sequence[StackSums]]) -> pa.Table:
    columns: dict[str, NDArray[Any]] = {"wavelength": stack_wavelength()}
    for name, stack in zip(names, stacks, strict=True):
        columns |= {
            f"{name}_flux": stack[0].flux(),
            f"{name}_error": stack[0].error(),
            f"{name}_bootstrap_error": _scatter_of(stack[1:]),
            f"{name}_count": stack[0].count.astype(np.int64),
            f"{name}_n_eff": stack[0].n_eff(),
        }
    return pa.table(columns)


def _scatter_of(replicas: Sequence[StackSums]) -> NDArray[np.float64]:
    if len(replicas) < 2:
        return np.full(len(stack_wavelength()), np.nan)
    return np.asarray(bootstrap_error(list(replicas)))


def _measure(sums: Sequence[StackSums]) -> dict[str, float]:
    """Indices of a region's stack, their scatter over replicas, and its lines."""
    wave = stack_wavelength()
    whole = sums[0]
    found = measure_indices(wave, whole.flux())
    replicas = [measure_indices(wave, replica.flux()) for replica in sums[1:]]
    errors = {f"{name}_error": _scatter([r[name] for r in replicas]) for name in found}
    return found | errors | fit_lines(wave, whole.flux(), whole.error())


def _scatter(values: Sequence[float]) -> float:
    finite = np.array([value for value in values if np.isfinite(value)])
    return float(np.std(finite, ddof=1)) if len(finite) > 2 else float("nan")


def _index_table(names: Sequence[str], rows: Sequence[dict[str, float]]) -> pa.Table:
    columns: dict[str, Any] = {"region": pa.array(list(names), pa.string())}
    for name in rows[0] if rows else ():
        columns[name] = pa.array([float(row[name]) for row in rows], pa.float64())
    return pa.table(columns)
