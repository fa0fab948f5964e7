"""Tasks of outliers: the spectra of one shard, from Zarr to sums or to one small table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.compute.threads import one_thread
from spectra_scale.spectrum.faults import STATISTICS, Scales, ScaleSums, measure_faults
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.triage import scan_gain
from spectra_scale.store.arrays import Shard
from spectra_scale.store.sample import read_rest
from spectra_scale.store.tables import write_table

if TYPE_CHECKING:
    from spectra_scale.models.autoencoder import AutoEncoder
    from spectra_scale.models.inputs import ModelInputs

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
ROWS_AT_ONCE = 1024
#: Columns of a scan's part, by the name of what `scan_redshifts` gives.
SCANNED = {
    "shift": "scan_shift",
    "chi2": "chi2_scan",
    "chi2_here": "chi2_scan_here",
    "n_pixels": "n_scan",
}
SCAN_COLUMNS = (*SCANNED.values(), "scan_gain")


@dataclass(frozen=True, slots=True)
class How:
    """What is the same for every shard.

    Parameters
    ----------
    arrays
        Zarr group of the sample.
    model, fingerprint
        Directory of the auto-encoder, and what it was made from.
    parts
        Folder of the tasks' results.
    inpaint
        Passes with missing pixels from the reconstruction, as the latents were made.
    reach
        Greatest shift of the redshift scan (dex).
    """

    arrays: Path
    model: Path
    fingerprint: str
    parts: Path
    inpaint: int
    reach: float

    def load(self) -> tuple[AutoEncoder, ModelInputs]:
        """The model of this process, on its device, and how it is fed."""
        import torch

        from spectra_scale.models.inputs import load_encoder_once

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return load_encoder_once(self.model, self.fingerprint, device)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Rows of one shard, with what is known of each.

    Parameters
    ----------
    shard
        The rows.
    latents
        Shape (row, latent).
    redshift, survey, broad
        Of each row; whether it is a broad-line spectrum.
    chosen
        Rows that the task is about.
    """

    shard: Shard
    latents: Floats
    redshift: Doubles
    survey: NDArray[np.object_]
    broad: Bools
    chosen: Bools

    def file(self, parts: Path, what: str) -> Path:
        """Where its results go."""
        return parts / f"{what}-{self.shard.index:06d}.parquet"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Normalised spectra of some rows of a task, with their reconstructions."""

    rows: NDArray[np.int64]
    recon: Floats
    flux: Floats
    ivar: Floats


def _blocks(how: How, task: Task) -> list[slice]:
    n = task.shard.n_rows
    return [slice(i, min(i + ROWS_AT_ONCE, n)) for i in range(0, n, ROWS_AT_ONCE)]


def _block(how: How, task: Task, part: slice) -> Block:
    from spectra_scale.models.autoencoder import decode_latents

    model, inputs = how.load()
    start = task.shard.start
    rows = part.start + np.flatnonzero(task.chosen[part])
    flux, ivar = read_rest(how.arrays, slice(start + part.start, start + part.stop))
    inside = rows - part.start
    fed = inputs.apply(flux[inside], ivar[inside])
    made = decode_latents(model, task.latents[rows], fed.flux, fed.ivar)
    assert made.reconstruction is not None
    return Block(rows, made.reconstruction, fed.flux, fed.ivar)


def add_scales(how: How, task: Task) -> ScaleSums:
    """Sums of a shard's chosen rows: how well the model usually does."""
    with one_thread():
        grid = WavelengthGrid.rest_frame(how.load()[0].architecture.n_pixels)
        total = ScaleSums.empty(grid)
        for part in _blocks(how, task):
            if task.chosen[part].any():
                block = _block(how, task, part)
                arrays = block.recon, block.flux, block.ivar
                facts = task.redshift[block.rows], task.broad[block.rows]
                total = total + ScaleSums.of(*arrays, *facts, grid)
        return total


def measure_shard(how: How, scales: Scales, task: Task) -> int:
    """Measure the chosen rows of a shard, unless that was done; gives their number."""
    path = task.file(how.parts, "faults")
    if not path.is_file():
        with one_thread():
            table = {name: np.full(task.shard.n_rows, np.nan) for name in STATISTICS}
            for part in _blocks(how, task):
                if task.chosen[part].any():
                    _measure(scales, task, _block(how, task, part), table)
            write_table(path, pa.table(table))
    return task.shard.n_rows


def _measure(scales: Scales, task: Task, block: Block, table: dict[str, Doubles]) -> None:
    grid = WavelengthGrid.rest_frame(block.flux.shape[1])
    survey = task.survey[block.rows]
    for name in np.unique(survey.astype(str)):
        mine = survey == name
        rows = block.rows[mine]
        arrays = block.recon[mine], block.flux[mine], block.ivar[mine]
        facts = task.redshift[rows], task.broad[rows]
        found = measure_faults(*arrays, *facts, (scales, grid, str(name)))
        for column, values in found.items():
            table[column][rows] = values


def scan_shard(how: How, task: Task) -> int:
    """Look for other redshifts of the chosen rows, unless that was done; gives their number."""
    path = task.file(how.parts, "scan")
    if not path.is_file():
        with one_thread():
            write_table(path, pa.table(_scan(how, task)))
    return int(task.chosen.sum())


def _scan(how: How, task: Task) -> dict[str, Doubles]:
    from spectra_scale.models.redshift_scan import scan_redshifts, shifts_within

    table = {name: np.full(task.shard.n_rows, np.nan) for name in SCAN_COLUMNS}
    model, inputs = how.load()
    step = WavelengthGrid.rest_frame(model.architecture.n_pixels).log10_step
    shifts = shifts_within(step, how.reach)
    for row in np.flatnonzero(task.chosen):
        at = task.shard.start + int(row)
        spectrum = read_rest(how.arrays, slice(at, at + 1))
        found = scan_redshifts(
            model,
            inputs,
            *spectrum,
            shifts,
            log10_step=step,
            redshift=task.redshift[row : row + 1],
            inpaint_passes=how.inpaint,
        )
        for name, values in zip(found._fields, found, strict=True):
            table[SCANNED[name]][row] = values[0]
    table["scan_gain"] = scan_gain(
        table["chi2_scan"],
        table["chi2_scan_here"],
        table["n_scan"],
        model.architecture.n_latent,
    )
    return table
