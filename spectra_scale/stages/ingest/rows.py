"""The rows of a release or revision, and the ledger of all that is no row.

Rows come from the survey's catalogue where one is given, matched to files by what their names say;
else from the files' own tables, read by tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import IngestSection
from spectra_scale.stages.ingest import ledger as lines
from spectra_scale.stages.ingest.inventory import Inventory
from spectra_scale.stages.ingest.leave_out import failed_cuts, left_out, once
from spectra_scale.stages.ingest.ledger import flat
from spectra_scale.stages.ingest.places import (
    Places,
    locate_rows,
    places_of,
    with_rows,
    without_row,
)
from spectra_scale.stages.ingest.revisions import FILES, Piece, sizes_of
from spectra_scale.store.tables import read_table, write_table
from spectra_scale.surveys.catalogue import catalogue_blocks
from spectra_scale.surveys.formats import FORMATS, ROW_SCHEMA, FileIn, Lost
from spectra_scale.surveys.reasons import Reason

#: Columns that say what an earlier revision has of a spectrum.
EARLIER = ("spectrum_key", "reduction", "source_format", "source_file", "status", "reason")
#: Rows of a catalogue that are looked up at once.
ROWS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Rows of a release, and what is none.

    Parameters
    ----------
    rows
        `formats.ROW_SCHEMA`, ordered by file and id in the file.
    ledger
        `store.schema.LEDGER`.
    counts
        Rows in, and rows that earlier revisions account for.
    """

    rows: pa.Table
    ledger: pa.Table
    counts: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Earlier:
    """What earlier revisions of a release account for.

    Parameters
    ----------
    rows
        `EARLIER` columns of their catalogues, and ``bytes`` of the file; the newest first.
    keys
        Keys of catalogue rows in their ledgers.
    """

    rows: pa.Table
    keys: pa.Array

    def knows(self, keys: pa.Array) -> pa.Array:
        """Whether each key is of a row, or of a ledger line of a row."""
        known = pa.concat_arrays([flat(self.rows["spectrum_key"]), self.keys])
        return pc.is_in(keys, value_set=known)

    @classmethod
    def of(cls, releases: Sequence[Path]) -> Earlier:
        """Read the catalogues and ledgers of some revisions, oldest first."""
        schema = pa.schema([*((name, pa.string()) for name in EARLIER), ("bytes", pa.int64())])
        tables, keys = [schema.empty_table()], [pa.array([], pa.string())]
        known: dict[str, int] = {}
        for path in releases:
            known |= sizes_of(read_table(path / FILES))
            rows = read_table(path / "catalogue.parquet", list(EARLIER))
            sizes = [known.get(name, -1) for name in rows["source_file"].to_pylist()]
            tables.insert(1, rows.append_column("bytes", pa.array(sizes, pa.int64())))
            ledger = read_table(path / "ledger.parquet", ["kind", "spectrum_key"])
            keys.append(flat(ledger.filter(pc.equal(ledger["kind"], "row"))["spectrum_key"]))
        return cls(pa.concat_tables(tables).combine_chunks(), pa.concat_arrays(keys))


@dataclass(frozen=True, slots=True)
class _RowTask:
    kind: str
    files: tuple[FileIn, ...]
    part: Path

    @property
    def ledger(self) -> Path:
        return self.part.with_name(self.part.name.replace("rows-", "ledger-"))


def rows_of(piece: Piece, config: IngestSection, place: Place, parts: Path) -> Found:
    """Find the rows of a release or revision.

    Parameters
    ----------
    piece
        Its files, and the revisions before it.
    config
        Cuts on the catalogue.
    place
        Where the files' own tables are read.
    parts
        Folder for the tasks' tables.
    """
    inventory, earlier = piece.inventory, Earlier.of(piece.earlier)
    if inventory.catalogue is None:
        found = _from_files(inventory, place, parts)
    else:
        found = _from_catalogue(piece, earlier, place, parts)
    ledger, counts = [found.ledger, _others(inventory)], found.counts
    rows, lines_of_known = _without_earlier(found.rows, earlier, piece)
    counts["rows of earlier revisions"] += found.rows.num_rows - rows.num_rows
    counts["rows of earlier revisions"] -= lines.count(lines_of_known, "row")
    kept = np.ones(rows.num_rows, bool)
    for reason, message, which in failed_cuts(rows, config):
        ledger.append(left_out(rows, reason, message, which))
        kept &= ~which
    rows, twice = once(rows.filter(pa.array(kept)))
    return Found(rows, _ledger([*ledger, lines_of_known, twice], rows, piece), counts)


def _ledger(tables: Sequence[pa.Table], rows: pa.Table, piece: Piece) -> pa.Table:
    """Lines of files and spectra that this piece accounts for, but for files that have a row.

    Of files that an earlier revision accounts for, it tells nothing again.
    """
    ledger = lines.together(tables)
    named = flat(pc.unique(rows["source_file"]))
    listed = pa.concat_arrays(
        [flat(piece.listing["path"]), pa.array(sorted(piece.fresh), pa.string())]
    )
    is_file, is_row = pc.equal(ledger["kind"], "file"), pc.equal(ledger["kind"], "row")
    has_row = pc.is_in(ledger["path"], value_set=named)
    mine = pc.or_(pc.is_in(ledger["path"], value_set=listed), has_row)
    keep = pc.or_(is_row, pc.and_(mine, pc.invert(pc.and_(is_file, has_row))))
    return _each_file_once(ledger.filter(keep).combine_chunks())


def _each_file_once(ledger: pa.Table) -> pa.Table:
    """One line a file: the first that says what became of it."""
    is_file = np.asarray(pc.equal(ledger["kind"], "file").to_numpy(), bool)
    codes = np.asarray(flat(ledger["path"]).dictionary_encode().indices.to_numpy())
    files = np.flatnonzero(is_file)
    keep = ~is_file
    keep[files[np.unique(codes[files], return_index=True)[1]]] = True
    return ledger.filter(pa.array(keep)).combine_chunks()


def _without_earlier(rows: pa.Table, earlier: Earlier, piece: Piece) -> tuple[pa.Table, pa.Table]:
    """Rows that earlier revisions do not have, and the ledger lines of those that are copies.

    A row of the same file as before is known and needs no line, unless that file, or the file of
    its redshifts, is another by now. A row of another file is a copy if that has as many bytes, or
    is of another format; if not, it is taken, and supersedes.
    """
    if not earlier.rows.num_rows or not rows.num_rows:
        return rows, lines.together([])
    at = pc.index_in(_identity(rows), value_set=_identity(earlier.rows))
    theirs = earlier.rows.take(flat(at))
    now = sizes_of(piece.inventory.listing())
    sizes = pa.array([now.get(name, -1) for name in rows["source_file"].to_pylist()], pa.int64())
    same_file = _true(pc.equal(theirs["source_file"], rows["source_file"]))
    again = pa.array(sorted(piece.fresh), pa.string())
    fresh = _true(pc.is_in(rows["source_file"], value_set=again))
    # A disk or server that failed then may be back.
    fresh |= _true(pc.equal(theirs["reason"], str(Reason.UNREADABLE)))
    alike = _true(pc.equal(theirs["bytes"], sizes)) | ~_true(
        pc.equal(theirs["source_format"], rows["source_format"])
    )
    there = _true(pc.is_valid(flat(at)))
    known = there & same_file & ~fresh
    copies = there & ~same_file & alike & _true(pc.equal(theirs["status"], "kept"))
    message = "an earlier revision of this release has the same observation and reduction"
    gone = known | copies
    return rows.filter(pa.array(~gone)), left_out(rows, Reason.DUPLICATE, message, copies)


def _identity(rows: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(flat(rows["spectrum_key"]), flat(rows["reduction"]), "\n")


def _true(values: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(flat(pc.fill_null(values, False)).to_numpy(zero_copy_only=False), bool)  # noqa: FBT003


def _others(inventory: Inventory) -> pa.Table:
    """Files that hold no spectra; known tables are named too, so that all files are accounted."""
    files = inventory.files
    tables = [
        lines.lines_for("file", other.reason, other.message, inventory.locator(other.file), n=1)
        for other in files.others
    ]
    for file in files.catalogues:
        used = inventory.catalogue is not None and inventory.catalogue.samefile(file.path)
        note = "the catalogue of this release" if used else "a catalogue; name it in the job"
        name = inventory.locator(file)
        tables.append(lines.lines_for("file", Reason.NOT_A_SPECTRUM, note, name, n=1))
    for file in files.line_catalogues:
        note = "a line catalogue; name it in [label] lines"
        name = inventory.locator(file)
        tables.append(lines.lines_for("file", Reason.NOT_A_SPECTRUM, note, name, n=1))
    return lines.together(tables)


# From the files' own tables -------------------------------------------------------------------


def _from_files(inventory: Inventory, place: Place, parts: Path) -> Found:
    rows, ledger = _read(inventory.inputs(), place, parts)
    return Found(rows, ledger, {"rows in": rows.num_rows, "rows of earlier revisions": 0})


def _read(
    inputs: Sequence[tuple[str, FileIn]], place: Place, parts: Path
) -> tuple[pa.Table, pa.Table]:
    tasks = _tasks(inputs, parts)
    work = Work("ingest (rows)", "files", [len(task.files) for task in tasks])
    place.map(_read_rows, tasks, work)
    rows = [read_table(task.part) for task in tasks]
    return (
        pa.concat_tables([ROW_SCHEMA.empty_table(), *rows]).combine_chunks(),
        lines.together([read_table(task.ledger) for task in tasks]),
    )


def _tasks(inputs: Sequence[tuple[str, FileIn]], parts: Path) -> list[_RowTask]:
    tasks = []
    for kind, each in FORMATS.items():
        files = [file for name, file in inputs if name == kind]
        for start in range(0, len(files), each.batch):
            part = parts / f"rows-{kind}-{start:09d}.parquet"
            tasks.append(_RowTask(kind, tuple(files[start : start + each.batch]), part))
    return tasks


def _read_rows(task: _RowTask) -> int:
    if not task.part.is_file():
        rows, lost = FORMATS[task.kind].rows(task.files)
        write_table(task.ledger, lines.lines_of(lost))
        write_table(task.part, rows)
    return len(task.files)


# From the survey's catalogue ------------------------------------------------------------------


def _from_catalogue(piece: Piece, earlier: Earlier, place: Place, parts: Path) -> Found:
    inventory = piece.inventory
    assert inventory.catalogue is not None
    places, unnamed = places_of(inventory.inputs(), sizes_of(inventory.listing()))
    own, ledger = _read(unnamed, place, parts)
    places = with_rows(places, own)
    tables, found = [ledger, places.ledger], [ROW_SCHEMA.empty_table()]
    missing = [pa.array([], pa.string())]
    n_in = 0
    for table, nameless in _batches(inventory.catalogue):
        located, keys = _located(table, places)
        found.append(located)
        # Of rows without a file, the most of a large catalogue, only keys are kept.
        missing.append(keys)
        # They have no key to be known by: every revision tells of them again.
        tables.append(lines.lines_of(nameless))
        n_in += table.num_rows + len(nameless)
    keys = pa.concat_arrays(missing)
    unknown = keys.filter(pc.invert(earlier.knows(keys)))
    message = "the catalogue has it, the source folders do not"
    tables.append(lines.lines_for("row", Reason.ROW_WITHOUT_FILE, message, "", unknown))
    rows = pa.concat_tables(found).combine_chunks()
    tables.append(without_row(places, rows))
    counts = {"rows in": n_in, "rows of earlier revisions": len(keys) - len(unknown)}
    return Found(rows, lines.together(tables), counts)


def _located(table: pa.Table, places: Places) -> tuple[pa.Table, pa.Array]:
    """Rows that have a file, and the keys of those that have none."""
    rows = locate_rows(table, places)
    missing = pc.is_null(rows["source_file"])
    return rows.filter(pc.invert(missing)), flat(rows.filter(missing)["spectrum_key"])


def _batches(catalogue: Path) -> Iterator[tuple[pa.Table, list[Lost]]]:
    """Blocks of a catalogue, put together: each look-up has its price, whatever the rows."""
    tables: list[pa.Table] = []
    nameless: list[Lost] = []
    for block in catalogue_blocks(catalogue):
        tables.append(block.table)
        nameless += [
            Lost("", "", "row", str(each.reason), f"row {each.row}: {each.message}")
            for each in block.lost
        ]
        if sum(table.num_rows for table in tables) >= ROWS_AT_ONCE:
            yield pa.concat_tables(tables), nameless
            tables, nameless = [], []
    if tables:
        yield pa.concat_tables(tables), nameless
