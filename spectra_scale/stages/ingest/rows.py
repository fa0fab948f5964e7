"""The rows of a release or revision, and the ledger of all that is no row.

Rows come from the survey's catalogue where one is given, matched to files by what their names say;
else from the files' own tables, read by tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import IngestSection
from spectra_scale.stages.ingest import ledger as lines
from spectra_scale.stages.ingest.inventory import Inventory
from spectra_scale.stages.ingest.match import (
    failed_cuts,
    left_out,
    locate_rows,
    once,
    places_of,
    with_rows,
    without_row,
)
from spectra_scale.store.tables import read_table, write_table
from spectra_scale.surveys.catalogue import catalogue_blocks
from spectra_scale.surveys.formats import FORMATS, ROW_SCHEMA, FileIn, Lost
from spectra_scale.surveys.reasons import Reason

#: Columns that say what an earlier revision has of a spectrum.
EARLIER = ("spectrum_key", "reduction", "source_file")


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
        Files in, rows in, and rows that earlier revisions account for.
    """

    rows: pa.Table
    ledger: pa.Table
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What earlier revisions of a release account for.

    Parameters
    ----------
    rows
        `EARLIER` columns of their catalogues.
    keys
        Keys of catalogue rows in their ledgers.
    """

    rows: pa.Table
    keys: pa.Array

    def knows(self, keys: pa.Array) -> pa.Array:
        """Whether each key is of a row, or of a ledger line of a row."""
        rows = self.rows["spectrum_key"].combine_chunks()
        return pc.or_(pc.is_in(keys, value_set=rows), pc.is_in(keys, value_set=self.keys))

    @classmethod
    def of(cls, releases: Sequence[Path]) -> Earlier:
        """Read the catalogues and ledgers of some revisions."""
        empty = pa.table({name: pa.array([], pa.string()) for name in EARLIER})
        rows = [read_table(path / "catalogue.parquet", list(EARLIER)) for path in releases]
        ledgers = [lines.together([read_table(path / "ledger.parquet")]) for path in releases]
        keys = [each.filter(pc.equal(each["kind"], "row"))["spectrum_key"] for each in ledgers]
        flat = pa.chunked_array([c for k in keys for c in k.chunks], pa.string()).combine_chunks()
        return cls(pa.concat_tables([empty, *rows]).combine_chunks(), flat)


@dataclass(frozen=True, slots=True)
class _RowTask:
    kind: str
    files: tuple[FileIn, ...]
    part: Path

    @property
    def ledger(self) -> Path:
        return self.part.with_name(self.part.name.replace("rows-", "ledger-"))


def rows_of(
    inventory: Inventory, config: IngestSection, earlier: Earlier, place: Place, parts: Path
) -> Found:
    """Find the rows of a release or revision.

    Parameters
    ----------
    inventory
        Its files.
    config
        Cuts on the catalogue.
    earlier
        What earlier revisions have: of the same spectrum in the same reduction the first stays.
    place
        Where the files' own tables are read.
    parts
        Folder for the tasks' tables.
    """
    if inventory.catalogue is None:
        found = _from_files(inventory, place, parts)
    else:
        found = _from_catalogue(inventory, earlier, place, parts)
    rows, ledger, counts = found.rows, [found.ledger, _others(inventory)], found.counts
    kept = np.ones(rows.num_rows, bool)
    for reason, message, which in failed_cuts(rows, config):
        ledger.append(left_out(rows, reason, message, which))
        kept &= ~which
    rows = rows.filter(pa.array(kept))
    rows, twice = once(rows)
    rows, known = _not_earlier(rows, earlier)
    ledger += [twice, known]
    return Found(rows, lines.together(ledger), counts | {"files in": inventory.files.n_files})


def _not_earlier(rows: pa.Table, earlier: Earlier) -> tuple[pa.Table, pa.Table]:
    """Leave out what an earlier revision has, unless its file was replaced since."""
    if not earlier.rows.num_rows:
        return rows, lines.together([])
    at = pc.index_in(rows["spectrum_key"], value_set=earlier.rows["spectrum_key"].combine_chunks())
    theirs = earlier.rows.take(at.combine_chunks())
    same = pc.and_(
        pc.equal(theirs["reduction"], rows["reduction"]),
        pc.not_equal(theirs["source_file"], rows["source_file"]),
    )
    known = np.asarray(pc.fill_null(same, False).to_numpy(), dtype=bool)  # noqa: FBT003
    message = "an earlier revision of this release has the same observation and reduction"
    return rows.filter(pa.array(~known)), left_out(rows, Reason.DUPLICATE, message, known)


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


def _from_catalogue(inventory: Inventory, earlier: Earlier, place: Place, parts: Path) -> Found:
    assert inventory.catalogue is not None
    places, unnamed = places_of(inventory.inputs())
    own, ledger = _read(unnamed, place, parts)
    places = with_rows(places, own)
    tables, found = [ledger, places.ledger], [ROW_SCHEMA.empty_table()]
    counts = {"rows in": 0, "rows of earlier revisions": 0}
    # Block by block: of rows without a file, the most of a large catalogue, only keys are kept.
    for block in catalogue_blocks(inventory.catalogue):
        rows = locate_rows(block.table, places)
        missing = pc.is_null(rows["source_file"])
        found.append(rows.filter(pc.invert(missing)))
        keys = rows.filter(missing)["spectrum_key"].combine_chunks()
        unknown = keys.filter(pc.invert(earlier.knows(keys)))
        message = "the catalogue has it, the source folders do not"
        tables.append(lines.lines_for("row", Reason.ROW_WITHOUT_FILE, message, "", unknown))
        nameless = [
            Lost(
                "", "", "row", str(lost.reason), f"row {lost.row} of the catalogue: {lost.message}"
            )
            for lost in block.lost
        ]
        # They have no key to be known by: every revision tells of them again.
        tables.append(lines.lines_of(nameless))
        counts["rows in"] += rows.num_rows + len(nameless)
        counts["rows of earlier revisions"] += len(keys) - len(unknown)
    rows = pa.concat_tables(found).combine_chunks()
    tables.append(without_row(places, rows))
    return Found(rows, lines.together(tables), counts)
