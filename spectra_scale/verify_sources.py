"""Verify a release against the survey's own files: read them again, and compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.compute.place import Place, Work
from spectra_scale.errors import BadSpectrumError, DamagedArtifactError
from spectra_scale.spectrum.grid import NATIVE_GRIDS
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.store.objects import column
from spectra_scale.store.release import read_native
from spectra_scale.store.tables import read_table
from spectra_scale.surveys.block import SpectraBlock, spectrum_digest
from spectra_scale.surveys.datasum import wrong_datasums
from spectra_scale.surveys.files import locate
from spectra_scale.surveys.formats import FORMATS
from spectra_scale.surveys.native import files_of, place_rows
from spectra_scale.surveys.release import Release

Ints = NDArray[np.int64]
#: Rows that one task reads again.
ROWS_A_TASK = 512
FACTS = ["spectrum_key", "source_format", "source_file", "source_row", "status", "reason",
         "checksum"]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    release: Path
    grid: str
    arrays: Path | None
    roots: tuple[Path, ...]
    rows: Ints
    facts: pa.Table


def check_sources(release: Release, place: Place, n_rows: int | None, seed: int = 0) -> int:
    """Read the survey's files again and compare them with what is stored.

    Parameters
    ----------
    release
        The release; its source folders are those it was made from.
    place
        Where files are read.
    n_rows
        Rows to check, drawn at random; None for all.
    seed
        Of the draw.

    Returns
    -------
    int
        Rows checked: native flux, ivar and mask bits equal to the bit (without a copy: their
        checksums), of quarantined rows the reason, and DATASUM of the files that have it.

    Raises
    ------
    DamagedArtifactError
        Naming the first spectra that differ, or whose file cannot be read any more or is not what
        the survey wrote.
    """
    total = release.n_rows
    rows = np.arange(total)
    if n_rows is not None and n_rows < total:
        rows = np.sort(np.random.default_rng(seed).choice(total, n_rows, replace=False))
    facts = read_table(release.path / "catalogue.parquet", FACTS).take(pa.array(rows))
    tasks = [_task(release, rows, facts, at) for at in range(0, len(rows), ROWS_A_TASK)]
    work = Work("verify sources", "spectra", [len(task.rows) for task in tasks])
    problems = [each for found in place.map(_compare, tasks, work) for each in found]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        msg = (
            f"{release.path}: {len(problems)} differences in {len(rows)} spectra from what the "
            f"survey's files say: {'; '.join(problems[:3])}{more}. If the files were "
            "replaced, ingest them again under another name; if not, the release is "
            "damaged: delete it and ingest anew."
        )
        raise DamagedArtifactError(msg)
    return len(rows)


def _task(release: Release, rows: Ints, facts: pa.Table, at: int) -> _Task:
    source = release.artifact.manifest["where"]["source"]
    roots = release.roots or tuple(Path(path) for path in source)
    arrays = release.arrays.resolve() if release.has_copy else None
    part = rows[at : at + ROWS_A_TASK]
    table = facts.slice(at, len(part))
    return _Task(release.path, release.grid.name, arrays, roots, part, table)


def _compare(task: _Task) -> list[str]:
    """What differs between the store and the survey's files, in words."""
    grid = NATIVE_GRIDS[task.grid]
    stored = None
    if task.arrays is not None:
        keys = np.full(len(task.rows), "", dtype=object)
        stored = read_native(task.arrays, grid, task.rows, keys)
    problems = []
    for (kind, name), rows in files_of(task.facts).items():
        block, reason = _read(task, kind, name, rows)
        reasons = [reason] * len(rows) if block is None else list(block.reason)
        problems += _compare_reasons(task, name, rows, reasons)
        if block is not None:
            problems += _compare_arrays(task, stored, (name, rows), block)
            problems += _compare_datasums(task, name)
    return problems


def _read(task: _Task, kind: str, name: str, rows: Ints) -> tuple[SpectraBlock | None, str]:
    ids = column(task.facts, "source_row")[rows]
    try:
        return FORMATS[kind].read(locate(task.roots, name), ids), ""
    except BadSpectrumError as error:
        return None, str(error.reason)
    except OSError as error:
        return None, f"unreadable: {error.strerror}"


def _compare_reasons(task: _Task, name: str, rows: Ints, reasons: list[str]) -> list[str]:
    recorded = column(task.facts, "reason")[rows]
    keys = column(task.facts, "spectrum_key")[rows]
    return [
        f"{name}: {key} is {found or 'fine'} in the file, {then or 'fine'} in the release"
        for key, found, then in zip(keys, reasons, recorded, strict=True)
        if str(found) != str(then)
    ]


def _compare_datasums(task: _Task, name: str) -> list[str]:
    wrong = wrong_datasums(locate(task.roots, name))
    what = f"{name}: {', '.join(wrong)} contradicts its DATASUM: bits changed after the survey"
    return [f"{what} wrote it; fetch the file again"] if wrong else []


def _compare_arrays(
    task: _Task, stored: ObservedSpectra | None, file: tuple[str, Ints], block: SpectraBlock
) -> list[str]:
    name, rows = file
    grid = NATIVE_GRIDS[task.grid]
    shape = (len(rows), grid.n_pixels)
    out = (np.zeros(shape, "f4"), np.zeros(shape, "f4"), np.zeros(shape, "u4"))
    place_rows(block, grid, np.arange(len(rows)), out)
    kept = column(task.facts, "status")[rows] == "kept"
    if stored is None:
        checksums = column(task.facts, "checksum")[rows]
        same = np.array([
            spectrum_digest(*(array[i] for array in out)) == checksums[i] for i in range(len(rows))
        ])  # fmt: skip
    else:
        theirs = (stored.flux, stored.ivar, stored.mask_bits)
        # As bytes: a NaN of the file must be the same NaN here.
        same = np.logical_and.reduce([
            (mine.view("u4") == array[rows].view("u4")).all(axis=1)
            for mine, array in zip(out, theirs, strict=True)
        ])  # fmt: skip
    keys = column(task.facts, "spectrum_key")[rows]
    return [f"{name}: {key} differs" for key in keys[kept & ~same]]
