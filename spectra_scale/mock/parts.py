"""Part files: what a task leaves for the tables of the whole release."""

from __future__ import annotations

import io
import json
import logging
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.errors import SpectraScaleError
from spectra_scale.mock import fits
from spectra_scale.mock.settings import MockSettings, as_dict
from spectra_scale.mock.task import MockTask

log = logging.getLogger(__name__)

Rows = NDArray[Any]
FOLDER = ".parts"
# What reading a file that is cut, empty or overwritten raises.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error,
           NotImplementedError, RuntimeError)  # fmt: skip


def part_path(folder: Path, task: MockTask) -> Path:
    """Where a task leaves the rows that `release.finish` collects."""
    return folder / FOLDER / f"{task.name}.npz"


def write_part(
    folder: Path, task: MockTask, settings: MockSettings, rows: Mapping[str, Rows], truth: pa.Table
) -> None:
    """Write the part of a task, last of all its files: where it is, they are whole.

    Parameters
    ----------
    folder
        Root of the release.
    task, settings
        What was written.
    rows
        Rows of the tables, by the table's name.
    truth
        Its rows of the truth table.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, truth.schema) as writer:
        writer.write_table(truth)
    stream = io.BytesIO()
    sizes = {name: len(values) for name, values in rows.items()} | {"truth": len(truth)}
    np.savez(
        stream,
        allow_pickle=False,
        origin=np.array(_origin(task, settings)),
        sizes=np.array(json.dumps(sizes)),
        truth=np.frombuffer(sink.getvalue(), dtype=np.uint8),
        **{f"rows_{name}": values for name, values in rows.items()},
    )
    fits.write_atomically(part_path(folder, task), [stream.getbuffer()])


def is_written(folder: Path, task: MockTask, settings: MockSettings) -> bool:
    """Whether this very task, of these settings, was written here: a resumed run may skip it.

    A part file that is damaged counts as none: a disk that lost its power may keep the name of a
    file and lose what was in it. All of the part is read for that.
    """
    path = part_path(folder, task)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is None:
            with np.load(path, allow_pickle=False) as part:
                return str(part["origin"]) == _origin(task, settings)
    except FileNotFoundError:
        return False
    except _DAMAGE as error:
        bad = str(error)
    log.warning("mock part=%s is damaged (%s): its plate is written again", path, bad)
    return False


@contextmanager
def _opened(folder: Path, task: MockTask) -> Iterator[Any]:
    path = part_path(folder, task)
    try:
        with np.load(path, allow_pickle=False) as part:
            yield part
    except _DAMAGE as error:
        message = (
            f"{path} cannot be read ({error}); expected the tables of a plate. Delete it and give "
            "the same command again: that plate is then written anew."
        )
        raise SpectraScaleError(message) from error


def _origin(task: MockTask, settings: MockSettings) -> str:
    return json.dumps([asdict(task), as_dict(settings)], sort_keys=True)


def sizes_of(folder: Path, tasks: Sequence[MockTask]) -> dict[str, int]:
    """Rows of each table, over all `tasks`."""
    total: dict[str, int] = {}
    for task in tasks:
        with _opened(folder, task) as part:
            for name, n in json.loads(str(part["sizes"])).items():
                total[name] = total.get(name, 0) + n
    return total


def rows_of(folder: Path, tasks: Sequence[MockTask], name: str) -> Iterator[Rows]:
    """Rows of one table, task by task."""
    for task in tasks:
        with _opened(folder, task) as part:
            if f"rows_{name}" in part:
                yield part[f"rows_{name}"]


def truths_of(folder: Path, tasks: Sequence[MockTask]) -> Iterator[pa.Table]:
    """Truth tables, task by task."""
    for task in tasks:
        with _opened(folder, task) as part:
            data = part["truth"].tobytes()
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            yield reader.read_all()
