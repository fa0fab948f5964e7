"""The tables of a mock release, collected from its parts, and the mark that it is whole."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.mock import fits, parts
from spectra_scale.mock.columns import CATALOGUE, PORTSMOUTH
from spectra_scale.mock.desi_columns import FASTSPEC, METADATA, ZCATALOG, unit_cards
from spectra_scale.mock.parts import is_written
from spectra_scale.mock.plan import plan
from spectra_scale.mock.sdssv_columns import tables_of
from spectra_scale.mock.sdssv_files import summary_cards
from spectra_scale.mock.sdssv_names import summary_file
from spectra_scale.mock.settings import MockSettings, as_dict
from spectra_scale.mock.task import MockTask
from spectra_scale.store.lock import LOCK

log = logging.getLogger(__name__)
Rows = NDArray[Any]

FORMAT = 3
SUMMARY = "mock.json"
BEGUN = ".mock-begun.json"
CATALOGUE_FILE = "specObj-mock.fits"
LINES_FILE = "portsmouth_emlinekin_full-mock.fits"
ZCATALOG_FILE = "zall-pix-mock.fits"
FASTSPEC_FILE = "fastspec-mock.fits"
CAS_FILE = "emissionLinesPort-mock.csv"
TRUTH_FILE = "truth.parquet"


def check_folder(folder: Path, settings: MockSettings) -> bool:
    """Say whether `folder` holds this very release, whole.

    Raises
    ------
    UsageError
        If it holds a release of other settings, finished or begun, or anything else.
    """
    _check_name(folder)
    found = _found(folder)
    if found is None:
        _check_empty(folder)
        return False
    name, content = found
    wanted = {"format": FORMAT, "settings": as_dict(settings)}
    if {key: content.get(key) for key in wanted} != wanted:
        others = content.get("settings")
        # What a release without SDSS-V does not record is as usual there.
        usual = asdict(MockSettings()).items() - as_dict(MockSettings()).items()
        known = dict(usual) | (others if isinstance(others, dict) else {})
        changed = [key for key, value in asdict(settings).items() if known.get(key) != value]
        message = (
            f"{folder} holds a mock release of other settings (differing: "
            f"{', '.join(changed) or 'its format'}). Give another folder, "
            "or delete this one to write it anew."
        )
        raise UsageError(message)
    return name == SUMMARY and bool(content.get("whole"))


def _check_name(folder: Path) -> None:
    """Refuse a name that no folder can have."""
    try:
        folder.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}:
            raise
        message = f"{folder}: {error.strerror}; expected the path of a folder. Give another."
        raise UsageError(message) from error


def _found(folder: Path) -> tuple[str, dict[str, Any]] | None:
    # The first again: another run may have finished between the two looks.
    for name in (SUMMARY, BEGUN, SUMMARY):
        path = folder / name
        try:
            content = json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, RecursionError) as error:
            message = f"{path} is no JSON ({error}). Delete the folder, or give another."
            raise UsageError(message) from error
        except IsADirectoryError as error:
            message = (
                f"{path} is a folder; expected the file in which a mock release says what it is. "
                "Delete it, or give another folder."
            )
            raise UsageError(message) from error
        return name, content if isinstance(content, dict) else {}
    return None


def _check_empty(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        message = f"{folder} is a file: a mock release is a folder. Give another path."
        raise UsageError(message)
    # A run that was killed at once leaves the half of its mark; one that begins has its lock.
    ours = (f".{BEGUN}.", LOCK)
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith(ours))
    if not names or parts.FOLDER in names:
        return
    words = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    message = (
        f"{folder} holds {words}, and no mock release: nothing is written into a folder with "
        "other things. Give an empty or a new folder."
    )
    raise UsageError(message)


def begin(folder: Path, settings: MockSettings) -> None:
    """Mark a folder as being written with these settings, so that no other release mixes in.

    Raises
    ------
    UsageError
        As `check_folder`.
    """
    check_folder(folder, settings)
    text = json.dumps({"format": FORMAT, "settings": as_dict(settings)}, indent=1)
    fits.write_atomically(folder / BEGUN, [(text + "\n").encode()])


def is_complete(folder: Path, settings: MockSettings) -> bool:
    """Whether `folder` holds this very release, whole, so that writing it can be skipped.

    False as well for a release of other settings; `check_folder` refuses that one.
    """
    try:
        return check_folder(folder, settings)
    except UsageError:
        return False


def parts_there(folder: Path, settings: MockSettings) -> set[str]:
    """Names of the tasks that the tables in `folder` hold; none while they are being written."""
    found = _found(folder)
    if found is None or found[0] != SUMMARY or (folder / BEGUN).exists():
        return set()
    check_folder(folder, settings)
    names = found[1].get("parts")
    return {str(name) for name in names} if isinstance(names, list) else set()


def finish(folder: Path, tasks: Sequence[MockTask], settings: MockSettings) -> dict[str, Any]:
    """Write the catalogues, the line tables, the truth and, last, ``mock.json``.

    Parameters
    ----------
    folder
        Root of the release, where every task was written with `write_plate`.
    tasks
        ``plan(settings)``, or a part of it: the tables then have its rows only, ``mock.json`` says
        which parts are there, and the part files stay, so that a later run may add others.
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
        If a plate was not written, or the disk is full.
    """
    if check_folder(folder, settings):
        _tidy(folder, whole=True)
        return dict(json.loads((folder / SUMMARY).read_text()))
    missing = [task.name for task in tasks if not is_written(folder, task, settings)]
    if missing:
        message = (
            f"{folder}: {len(missing)} of {len(tasks)} plates are not written with "
            f"these settings, the first is {missing[0]}. Write them with write_plate, then "
            "finish again."
        )
        raise SpectraScaleError(message)
    begin(folder, settings)
    # Without it nothing looks finished while the tables are being replaced.
    (folder / SUMMARY).unlink(missing_ok=True)
    summary = _write_tables(folder, tasks, settings)
    text = json.dumps(summary, indent=1) + "\n"
    fits.write_atomically(folder / SUMMARY, [text.encode()])
    _tidy(folder, whole=summary["whole"])
    log.info("mock finished folder=%s spectra=%d", folder, summary["n_spectra"])
    return summary


def _tidy(folder: Path, *, whole: bool) -> None:
    (folder / BEGUN).unlink(missing_ok=True)
    if whole:
        shutil.rmtree(folder / parts.FOLDER, ignore_errors=True)
        # What a killed worker left of a file: whoever finishes holds the lock.
        for path in folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def _write_tables(
    folder: Path, tasks: Sequence[MockTask], settings: MockSettings
) -> dict[str, Any]:
    sizes = parts.sizes_of(folder, tasks)
    for file in _files(settings):
        there = [table for table in file.tables if table.rows in sizes]
        if there:
            hdus = (
                _table(table, sizes[table.rows], parts.rows_of(folder, tasks, table.rows))
                for table in there
            )
            primary = fits.primary(file.cards)
            fits.write_atomically(folder / file.path, chain([primary], *hdus))
    if "cas" in sizes:
        fits.write_atomically(folder / CAS_FILE, _csv(parts.rows_of(folder, tasks, "cas")))
    counts = _write_truth(folder, tasks)
    names = [task.name for task in tasks]
    return {
        "format": FORMAT,
        "settings": as_dict(settings),
        "whole": {task.name for task in plan(settings)} <= set(names),
        "n_plates": len(tasks),
        "n_spectra": sizes.get("truth", 0),
        "n_line_rows": sizes.get("lines", 0) + sizes.get("fastspec", 0),
        **counts,
        "parts": names,
    }


@dataclass(frozen=True, slots=True)
class _Table:
    """A table: the name that its rows have in the parts, EXTNAME, columns, how texts end."""

    rows: str
    extension: str
    kind: np.dtype[Any]
    has_units: bool = False
    blanks: bool = True


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    tables: tuple[_Table, ...]
    cards: Sequence[fits.Card] = ()


def _files(settings: MockSettings) -> list[_File]:
    """Files with the rows of many tasks. DESI's tables have units; those of SDSS have none."""
    fastspec = _Table("fastspec", "FASTSPEC", FASTSPEC, has_units=True)
    metadata = _Table("metadata", "METADATA", METADATA, has_units=True)
    is_dr18 = settings.sdssv_release == "dr18"
    summary = tables_of(settings.sdssv_release).summary
    spall = _Table("spall", "" if is_dr18 else "SPALL", summary, blanks=is_dr18)
    return [
        _File(CATALOGUE_FILE, (_Table("catalogue", "", CATALOGUE),)),
        _File(LINES_FILE, (_Table("lines", "", PORTSMOUTH),)),
        _File(ZCATALOG_FILE, (_Table("zcatalog", "ZCATALOG", ZCATALOG, has_units=True),)),
        _File(FASTSPEC_FILE, (fastspec, metadata)),
        _File(str(summary_file(settings)), (spall,), summary_cards(settings)),
    ]


def _table(table: _Table, n_rows: int, found: Iterator[Rows]) -> Iterator[bytes]:
    units = unit_cards(table.kind.names or ()) if table.has_units else ()
    yield fits.table_header(table.kind, n_rows, table.extension, cards=units)
    size = 0
    for rows in found:
        data = fits.table_rows(rows, blanks=table.blanks)
        size += len(data)
        yield data
    yield b"\0" * (-size % 2880)


def _csv(found: Iterator[Rows]) -> Iterator[bytes]:
    """Rows as comma-separated values, as the archive server exports them."""
    first = True
    for rows in found:
        columns = {
            name: rows[name].astype(np.str_) if rows.dtype[name].kind == "S" else rows[name]
            for name in rows.dtype.names or ()
        }
        sink = pa.BufferOutputStream()
        options = pacsv.WriteOptions(include_header=first, quoting_style="none")
        pacsv.write_csv(pa.table(columns), sink, options)
        yield sink.getvalue().to_pybytes()
        first = False


def _write_truth(folder: Path, tasks: Sequence[MockTask]) -> dict[str, dict[str, int]]:
    """Write the truth table, one row group a plate, and count its kinds and artefacts."""
    path = folder / TRUTH_FILE
    temporary = folder / f".{TRUTH_FILE}.{os.getpid()}.tmp"
    counts: dict[str, dict[str, int]] = {"kinds": {}, "artefacts": {}}
    writer: pq.ParquetWriter | None = None
    try:
        for table in parts.truths_of(folder, tasks):
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
            for column, name in (("kind", "kinds"), ("artefact", "artefacts")):
                _count(counts[name], table[column])
        if writer is not None:
            writer.close()
            temporary.replace(path)
    except OSError as error:
        if writer is not None:
            with suppress(OSError):
                writer.close()
        raise fits.disk_error(error, temporary, path) from error
    return counts


def _count(counts: dict[str, int], column: pa.ChunkedArray) -> None:
    for value, number in zip(*np.unique(column.to_numpy(), return_counts=True), strict=True):
        counts[str(value)] = counts.get(str(value), 0) + int(number)
