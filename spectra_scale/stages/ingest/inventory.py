"""What a release will be made of: files, rows, and what is neither.

Rows come from the survey's catalogue where one is given, matched to files by plate, MJD and
fibre; else from the files' own tables, read by tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import ReleaseSection
from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.identity import sdss_key
from spectra_scale.store.objects import column
from spectra_scale.store.schema import LEDGER
from spectra_scale.store.tables import read_table, write_table
from spectra_scale.surveys.catalogue import CATALOGUE_SCHEMA, read_catalogue
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.scan import PlateFiles, Scan, SourceFile, scan
from spectra_scale.surveys.sdss_plate import PLATE_NAME, read_plate, read_zbest
from spectra_scale.surveys.sdss_spec import FILE_NAME, read_spec

#: Spectrum files whose rows one task reads.
FILES_A_TASK = 256
SKY_TARGETS = ("SKY", "STANDARD", "SPECTROPHOTO_STD")


@dataclass(frozen=True, slots=True)
class Inventory:
    """Files of a release's source folders.

    Parameters
    ----------
    roots
        The folders, in the order of the job.
    files
        What is in them.
    catalogue
        The survey's catalogue, or None.
    """

    roots: tuple[Path, ...]
    files: Scan
    catalogue: Path | None

    def locator(self, file: SourceFile) -> str:
        """A file's name in the catalogue and the ledger: its path below its folder.

        With several folders, their number in the job stands before it.
        """
        if len(self.roots) == 1:
            return file.relative
        return f"{self.roots.index(file.root)}:{file.relative}"


def look(section: ReleaseSection) -> Inventory:
    """List the files of a release; nothing is read but what names do not tell."""
    return Inventory(section.source, scan(list(section.source)), section.catalogue)


@dataclass(frozen=True, slots=True)
class _RowTask:
    files: tuple[tuple[str, Path], ...]
    plate: tuple[Path, Path] | None
    part: Path


def rows_of(
    inventory: Inventory, place: Place, parts: Path
) -> tuple[pa.Table, pa.Table, dict[str, int]]:
    """Find the rows of a release.

    Parameters
    ----------
    inventory
        Its files.
    place
        Where the files' own tables are read, if there is no catalogue.
    parts
        Folder for the tasks' tables.

    Returns
    -------
    rows, ledger, counts
        Catalogue rows with `source_file` and `source_row`, ordered by file and fibre; ledger
        lines of all that is not a row; how many rows and files there were.
    """
    if inventory.catalogue is None:
        rows, ledger = _rows_from_files(inventory, place, parts)
        n_rows_in = rows.num_rows
    else:
        rows, ledger, n_rows_in = _rows_from_catalogue(inventory)
    rows, repeated = _without_duplicates(rows)
    tables = [_others(inventory), ledger, repeated]
    ledger = pa.concat_tables([table.cast(LEDGER.arrow()) for table in tables]).combine_chunks()
    counts = {
        "files in": inventory.files.n_files,
        "rows in": n_rows_in,
        "duplicates": repeated.num_rows,
        "rows without spectrum": ledger["reason"].to_pylist().count(Reason.ROW_WITHOUT_FILE),
        "files without row": _count(ledger, "file"),
        "fibres without row": _count(ledger, "fibre"),
    }
    return rows, ledger, counts


def _count(ledger: pa.Table, kind: str) -> int:
    return list(ledger["kind"].to_pylist()).count(kind)


def _lines(rows: Sequence[tuple[str, str, str, str, str]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    names = LEDGER.arrow().names
    return pa.table(dict(zip(names, columns, strict=True)), schema=LEDGER.arrow())


def _others(inventory: Inventory) -> pa.Table:
    """Files that hold no spectra; known tables are named too, so that all files are accounted."""
    files = inventory.files
    found = [
        (inventory.locator(other.file), "", "file", str(other.reason), other.message)
        for other in files.others
    ]
    for file in files.catalogues:
        used = inventory.catalogue is not None and inventory.catalogue.samefile(file.path)
        note = "the catalogue of this release" if used else "a catalogue; name it in the job"
        found.append((inventory.locator(file), "", "file", Reason.NOT_A_SPECTRUM, note))
    for file in files.line_catalogues:
        note = "a line catalogue; name it in [label] lines"
        found.append((inventory.locator(file), "", "file", Reason.NOT_A_SPECTRUM, note))
    return _lines(found)


def _rows_from_files(inventory: Inventory, place: Place, parts: Path) -> tuple[pa.Table, pa.Table]:
    spec = inventory.files.spec_files
    tasks = [
        _RowTask(
            tuple((inventory.locator(f), f.path) for f in spec[start : start + FILES_A_TASK]),
            None,
            parts / f"rows-spec-{start:09d}.parquet",
        )
        for start in range(0, len(spec), FILES_A_TASK)
    ]
    bad = []
    for plate in inventory.files.plates:
        name = inventory.locator(plate.spplate)
        if plate.zbest is None:
            message = "no spZbest file beside it or in a RUN1D folder: redshifts are not known"
            bad.append((name, "", "file", str(Reason.FILE_WITHOUT_ROW), message))
            continue
        both = (plate.spplate.path, plate.zbest.path)
        part = parts / f"rows-plate-{len(tasks):09d}.parquet"
        tasks.append(_RowTask(((name, both[0]),), both, part))
    work = Work("ingest (rows)", "files", [len(task.files) for task in tasks])
    place.map(_read_rows, tasks, work)
    tables = [read_table(task.part) for task in tasks]
    ledgers = [read_table(_ledger_of(task.part)) for task in tasks]
    rows = pa.concat_tables([_row_schema().empty_table(), *tables])
    return rows, pa.concat_tables([_lines(bad), *ledgers])


def _row_schema() -> pa.Schema:
    extra = [("source_file", pa.string()), ("source_row", pa.int32())]
    return pa.schema([*CATALOGUE_SCHEMA, *(pa.field(name, kind) for name, kind in extra)])


def _ledger_of(part: Path) -> Path:
    return part.with_name(part.name.replace("rows-", "ledger-"))


def _read_rows(task: _RowTask) -> int:
    if not task.part.is_file():
        rows, ledger = _rows_of_plate(task) if task.plate else _rows_of_specs(task)
        write_table(_ledger_of(task.part), ledger)
        write_table(task.part, rows)
    return len(task.files)


def _rows_of_specs(task: _RowTask) -> tuple[pa.Table, pa.Table]:
    rows: list[dict[str, Any]] = []
    bad = []
    for name, path in task.files:
        try:
            row = read_spec(path).row
        except BadSpectrumError as error:
            bad.append((name, _key_of(path), "file", error.reason, error.message))
            continue
        assert row is not None
        rows.append(row | {"source_file": name, "source_row": 0})
    return pa.Table.from_pylist(rows, schema=_row_schema()), _lines(bad)


def _key_of(path: Path) -> str:
    match = FILE_NAME.fullmatch(path.name)
    return "" if match is None else str(sdss_key(*(int(part) for part in match.groups()))[0])


def _rows_of_plate(task: _RowTask) -> tuple[pa.Table, pa.Table]:
    assert task.plate is not None
    name = task.files[0][0]
    try:
        fibers = read_plate(task.plate[0]).fiber
        table = read_zbest(task.plate[1], task.plate[0])
    except BadSpectrumError as error:
        failed = [(name, "", "file", error.reason, error.message)]
        return _row_schema().empty_table(), _lines(failed)
    target = column(table, "targettype")
    sky = np.isin(target.astype(str), SKY_TARGETS)
    there = np.isin(column(table, "fiber"), fibers)
    lost = [
        (name, key, "fibre", str(reason), message)
        for rows, reason, message in (
            (sky, Reason.SKY_FIBRE, "a fibre that points at no science target"),
            (~sky & ~there, Reason.ROW_WITHOUT_FIBRE, "its fibre is not in the plate file"),
        )
        for key in column(table, "spectrum_key")[rows].tolist()
    ]
    rows = table.filter(pa.array(~sky & there))
    rows = rows.append_column("source_file", pa.array([name] * rows.num_rows, pa.string()))
    rows = rows.append_column("source_row", pa.array(column(rows, "fiber"), pa.int32()))
    return rows.cast(_row_schema()), _lines(lost)


def _rows_from_catalogue(inventory: Inventory) -> tuple[pa.Table, pa.Table, int]:
    """Match the survey's catalogue to files by plate, MJD and fibre, by the files' names."""
    assert inventory.catalogue is not None
    table = read_catalogue(inventory.catalogue)
    keys = column(table, "spectrum_key")
    places, plates, lost = _places(inventory)
    numbers = zip(column(table, "plate").tolist(), column(table, "mjd").tolist(), strict=True)
    files = [
        places.get(key) or plates.get(pair, "")
        for key, pair in zip(keys.tolist(), numbers, strict=True)
    ]
    found = np.array([bool(file) for file in files])
    for key in keys[~found].tolist():
        message = "the catalogue has it, the source folders do not"
        lost.append(("", key, "row", str(Reason.ROW_WITHOUT_FILE), message))
    known = set(keys.tolist())
    for key, name in places.items():
        if key not in known:
            message = "the file is there, the catalogue has no such plate, MJD and fibre"
            lost.append((name, key, "file", str(Reason.FILE_WITHOUT_ROW), message))
    used = {file for file in files if file}
    for name in plates.values():
        if name not in used:
            message = "the plate file is there, but no row of the catalogue is taken from it"
            lost.append((name, "", "file", str(Reason.FILE_WITHOUT_ROW), message))
    rows = table.append_column("source_file", pa.array(files, pa.string()))
    in_spec = np.isin(np.array(files), np.array(sorted(places.values()) or [""]))
    fibre = np.where(in_spec, 0, column(table, "fiber"))
    rows = rows.append_column("source_row", pa.array(fibre, pa.int32()))
    return rows.filter(pa.array(found)).cast(_row_schema()), _lines(lost), table.num_rows


def _places(
    inventory: Inventory,
) -> tuple[dict[str, str], dict[tuple[int, int], str], list[tuple[str, str, str, str, str]]]:
    """Spectrum files by key, plate files by plate and MJD; files whose names say neither."""
    places: dict[str, str] = {}
    lost = []
    for file in inventory.files.spec_files:
        name = inventory.locator(file)
        key = _key_of(file.path)
        if not key:
            try:
                row = read_spec(file.path).row
                key = "" if row is None else str(row["spectrum_key"])
            except BadSpectrumError as error:
                lost.append((name, "", "file", error.reason, error.message))
                continue
        if key in places:
            message = f"the same observation as {places[key]}"
            lost.append((name, key, "file", str(Reason.DUPLICATE), message))
        else:
            places[key] = name
    plates, twice = _plates(inventory.files.plates, inventory)
    return places, plates, lost + twice


def _plates(
    plates: Sequence[PlateFiles], inventory: Inventory
) -> tuple[dict[tuple[int, int], str], list[tuple[str, str, str, str, str]]]:
    """Plate files by plate and MJD; a second one of the same is a duplicate."""
    found: dict[tuple[int, int], str] = {}
    lost = []
    for plate in plates:
        match = PLATE_NAME.fullmatch(plate.spplate.path.name)
        assert match is not None
        pair = (int(match[1]), int(match[2]))
        name = inventory.locator(plate.spplate)
        if pair in found:
            message = f"the same plate and MJD as {found[pair]}"
            lost.append((name, "", "file", str(Reason.DUPLICATE), message))
        else:
            found[pair] = name
    return found, lost


def _without_duplicates(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows in order of file and fibre, each observation once: the first stays."""
    order = np.lexsort((column(rows, "source_row"), column(rows, "source_file").astype(str)))
    rows = rows.take(pa.array(order))
    keys = column(rows, "spectrum_key").astype(str)
    _, first = np.unique(keys, return_index=True)
    keep: NDArray[np.bool_] = np.zeros(len(keys), dtype=bool)
    keep[first] = True
    where = dict(zip(keys[first].tolist(),
                     column(rows, "source_file")[first].tolist(), strict=True))  # fmt: skip
    single = column(rows, "source_row") == 0
    repeated = [
        (str(file), key, "file" if alone else "row", str(Reason.DUPLICATE),
         f"the same observation as in {where[key]}")
        for file, key, alone in zip(
            column(rows, "source_file")[~keep], keys[~keep].tolist(), single[~keep], strict=True
        )
    ]  # fmt: skip
    return rows.filter(pa.array(keep)), _lines(repeated)
