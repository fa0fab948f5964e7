"""The tables of a mock release, collected from its plates, and the mark that it is whole."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.mock import fits
from spectra_scale.mock.columns import CATALOGUE, PORTSMOUTH
from spectra_scale.mock.plates import is_written, part_path
from spectra_scale.mock.settings import MockSettings, MockTask

log = logging.getLogger(__name__)
Rows = NDArray[Any]

FORMAT = 1
SUMMARY = "mock.json"
BEGUN = ".mock-begun.json"
CATALOGUE_FILE = "specObj-mock.fits"
LINES_FILE = "portsmouth_emlinekin_full-mock.fits"
TRUTH_FILE = "truth.parquet"


def check_folder(folder: Path, settings: MockSettings) -> bool:
    """Say whether `folder` holds this very release, finished.

    Raises
    ------
    UsageError
        If it holds a release of other settings, finished or begun.
    """
    wanted = {"format": FORMAT, "settings": asdict(settings)}
    for name in (SUMMARY, BEGUN):
        if not (folder / name).exists():
            continue
        found = json.loads((folder / name).read_text())
        if {key: found.get(key) for key in wanted} == wanted:
            return name == SUMMARY
        others = found.get("settings") or {}
        changed = [key for key, value in asdict(settings).items() if others.get(key) != value]
        message = (
            f"{folder} holds a mock release of other settings (differing: "
            f"{', '.join(changed) or 'its format'}). Give another folder, "
            "or delete this one to write it anew."
        )
        raise UsageError(message)
    return False


def begin(folder: Path, settings: MockSettings) -> None:
    """Mark a folder as being written with these settings, so that no other release mixes in.

    Raises
    ------
    UsageError
        As `check_folder`.
    """
    check_folder(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "settings": asdict(settings)}, indent=1)
    path = folder / f".{BEGUN}.tmp"
    path.write_text(text + "\n")
    path.replace(folder / BEGUN)


def is_complete(folder: Path, settings: MockSettings) -> bool:
    """Whether `folder` holds this very release, finished, so that writing it can be skipped.

    False as well for a release of other settings; `check_folder` refuses that one.
    """
    try:
        return check_folder(folder, settings)
    except UsageError:
        return False


def finish(folder: Path, tasks: Sequence[MockTask], settings: MockSettings) -> dict[str, Any]:
    """Write the catalogue, the line table, the truth and, last, ``mock.json``.

    Parameters
    ----------
    folder
        Root of the release, where every task was written with `write_plate`.
    tasks
        ``plan(settings)``, or a part of it to publish a part: the tables then have its rows only.
    settings
        Those of the plan.

    Returns
    -------
        The content of ``mock.json``: settings and counts.

    Raises
    ------
    UsageError
        If the folder holds another release.
    SpectraScaleError
        If a plate was not written.
    """
    if check_folder(folder, settings):
        return dict(json.loads((folder / SUMMARY).read_text()))
    missing = [task.name for task in tasks if not is_written(folder, task, settings)]
    if missing:
        message = (
            f"{folder}: {len(missing)} of {len(tasks)} plates are not written with "
            f"these settings, the first is {missing[0]}. Write them with write_plate, then "
            "finish again."
        )
        raise SpectraScaleError(message)
    n_rows = {name: sum(len(rows) for rows in _parts(folder, tasks, name)) for name in _TABLES}
    for name, (file, kind) in _TABLES.items():
        chunks = _table(kind, n_rows[name], _parts(folder, tasks, name))
        fits.write_atomically(folder / file, chunks)
    counts = _write_truth(folder, tasks)
    summary = {
        "format": FORMAT,
        "settings": asdict(settings),
        "n_plates": len(tasks),
        "n_spectra": n_rows["catalogue"],
        "n_line_rows": n_rows["lines"],
        **counts,
    }
    path = folder / f".{SUMMARY}.tmp"
    path.write_text(json.dumps(summary, indent=1) + "\n")
    path.replace(folder / SUMMARY)
    (folder / BEGUN).unlink(missing_ok=True)
    shutil.rmtree(folder / ".parts")
    log.info("mock finished folder=%s spectra=%d", folder, n_rows["catalogue"])
    return summary


_TABLES = {"catalogue": (CATALOGUE_FILE, CATALOGUE), "lines": (LINES_FILE, PORTSMOUTH)}


def _parts(folder: Path, tasks: Sequence[MockTask], name: str) -> Iterator[Rows]:
    for task in tasks:
        with np.load(part_path(folder, task), allow_pickle=False) as part:
            yield part[name]


def _table(kind: np.dtype[Any], n_rows: int, parts: Iterator[Rows]) -> Iterator[bytes]:
    yield fits.primary()
    yield fits.table_header(kind, n_rows)
    size = 0
    for rows in parts:
        data = fits.table_rows(rows)
        size += len(data)
        yield data
    yield b"\0" * (-size % 2880)


def _write_truth(folder: Path, tasks: Sequence[MockTask]) -> dict[str, dict[str, int]]:
    """Write the truth table, one row group a plate, and count its kinds and artefacts."""
    path = folder / TRUTH_FILE
    temporary = folder / f".{TRUTH_FILE}.tmp"
    counts: dict[str, dict[str, int]] = {"kinds": {}, "artefacts": {}}
    writer: pq.ParquetWriter | None = None
    for part in _parts(folder, tasks, "truth"):
        table = pq.read_table(io.BytesIO(part.tobytes()))
        if writer is None:
            writer = pq.ParquetWriter(temporary, table.schema)
        writer.write_table(table)
        for column, name in (("kind", "kinds"), ("artefact", "artefacts")):
            _count(counts[name], table[column])
    if writer is not None:
        writer.close()
        temporary.replace(path)
    return counts


def _count(counts: dict[str, int], column: pa.ChunkedArray) -> None:
    for value, number in zip(*np.unique(column.to_numpy(), return_counts=True), strict=True):
        counts[str(value)] = counts.get(str(value), 0) + int(number)
