"""Rows of the survey's catalogue and the files that hold their spectra.

A file of one spectrum says by its name which one; a file of many says which group (a plate and
MJD; a DESI survey, program and healpixel). Where the name does not say, the file's own table does.
All joins are of whole columns: a catalogue may have tens of millions of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spectra_scale.config import IngestSection
from spectra_scale.stages.ingest.ledger import lines_for, lines_of, together
from spectra_scale.surveys.formats import FORMATS, ROW_SCHEMA, FileIn, Lost
from spectra_scale.surveys.reasons import Reason

Bools = NDArray[np.bool_]
_PLACE = pa.schema([("key", pa.string()), ("source_format", pa.string()),
                    ("source_file", pa.string()), ("source_row", pa.int64())])  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where spectra are, by what files are called.

    Parameters
    ----------
    single
        Key of a spectrum to format, file and id in the file.
    groups
        Group of spectra to format and file.
    ledger
        Files that are there twice.
    """

    single: pa.Table
    groups: pa.Table
    ledger: pa.Table


def places_of(inputs: list[tuple[str, FileIn]]) -> tuple[Places, list[tuple[str, FileIn]]]:
    """Sort spectrum files by the key or group in their names.

    Returns
    -------
    places, unnamed
        The second are files whose names do not say: their own tables have to be read.
    """
    single: dict[str, tuple[str, str]] = {}
    groups: dict[str, tuple[str, str]] = {}
    unnamed, lost = [], []
    for kind, file in inputs:
        place = FORMATS[kind].place(file.path)
        if not place:
            unnamed.append((kind, file))
            continue
        found = single if FORMATS[kind].group is None else groups
        if place in found:
            message = f"the same observation, or group of them, as {found[place][1]}"
            key = place if found is single else ""
            lost.append(Lost(file.locator, key, "file", Reason.DUPLICATE, message))
        else:
            found[place] = (kind, file.locator)
    return Places(_table(single), _table(groups), lines_of(lost)), unnamed


def _table(found: dict[str, tuple[str, str]]) -> pa.Table:
    kinds, files = [v[0] for v in found.values()], [v[1] for v in found.values()]
    columns = [pa.array(list(found), pa.string()), pa.array(kinds, pa.string()),
               pa.array(files, pa.string()), pa.array(np.zeros(len(found), np.int64))]  # fmt: skip
    return pa.table(columns, schema=_PLACE)


def with_rows(places: Places, rows: pa.Table) -> Places:
    """Add spectra whose place was found in the files' own tables (`ROW_SCHEMA`)."""
    more = pa.table([rows["spectrum_key"], *(rows[name] for name in _PLACE.names[1:])],
                    schema=_PLACE)  # fmt: skip
    known = pc.is_in(more["key"], value_set=places.single["key"].combine_chunks())
    twice = more.filter(known)
    message = "the same observation as in another file"
    lines = lines_for("fibre", Reason.DUPLICATE, message, _flat(twice, "source_file"),
                      _flat(twice, "key"))  # fmt: skip
    single = pa.concat_tables([places.single, more.filter(pc.invert(known))]).combine_chunks()
    return Places(single, places.groups, together([places.ledger, lines]))


def locate_rows(table: pa.Table, places: Places) -> pa.Table:
    """Catalogue rows with the place of their spectra; null where no file has it."""
    table = table.combine_chunks()
    at = pc.index_in(table["spectrum_key"], value_set=_flat(places.single, "key"))
    found = {name: _flat(places.single, name).take(_flat_array(at)) for name in _PLACE.names[1:]}
    for kind in pc.unique(places.groups["source_format"]).to_pylist():
        _add_groups(table, found, places.groups, kind)
    for name in _PLACE.names[1:]:
        table = table.append_column(name, found[name])
    return table.select(ROW_SCHEMA.names).cast(ROW_SCHEMA)


def _add_groups(table: pa.Table, found: dict[str, pa.Array], groups: pa.Table, kind: str) -> None:
    mine = groups.filter(pc.equal(groups["source_format"], kind))
    group = FORMATS[kind].group
    assert group is not None
    at = pc.index_in(group(table), value_set=_flat(mine, "key"))
    new = pc.and_(pc.is_null(found["source_file"]), pc.is_valid(at))
    ids = _flat(table, FORMATS[kind].id_column).cast(pa.int64())
    values = {"source_format": pa.scalar(kind), "source_row": ids,
              "source_file": _flat(mine, "source_file").take(_flat_array(at))}  # fmt: skip
    for name, value in values.items():
        found[name] = pc.if_else(new, value, found[name])


def _flat(table: pa.Table, name: str) -> pa.Array:
    return _flat_array(table[name])


def _flat_array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


# Rows that are left out -----------------------------------------------------------------------


def failed_cuts(table: pa.Table, config: IngestSection) -> list[tuple[Reason, str, Bools]]:
    """Rows that a cut of `[ingest]` removes, each by the first that does.

    A redshift that is no number is no reason here: redshifts are revised, and the spectrum is
    what it is. `prepare` leaves such rows out.

    Returns
    -------
    list of (Reason, str, numpy.ndarray)
        Reason, message, and which rows.
    """
    z = np.asarray(table["z"].to_numpy(), np.float64)
    low = -np.inf if config.z_min is None else config.z_min
    high = np.inf if config.z_max is None else config.z_max
    kinds = pc.is_in(table["class"], value_set=pa.array(config.classes, pa.string()))
    warned = np.asarray(table["zwarning"].to_numpy()) != 0
    cuts = [
        (Reason.CUT_REDSHIFT, f"z outside {low} to {high}", (z < low) | (z > high)),
        (Reason.CUT_CLASS, f"class is none of {', '.join(config.classes)}",
         ~_numpy(kinds) if config.classes else np.zeros(len(z), bool)),
        (Reason.CUT_ZWARNING, "ZWARNING is not 0", warned & config.zwarning_zero),
    ]  # fmt: skip
    taken = np.zeros(len(z), bool)
    found = []
    for reason, message, which in cuts:
        found.append((reason, message, which & ~taken))
        taken |= which
    return found


def _numpy(values: pa.ChunkedArray) -> Bools:
    return np.asarray(values.to_numpy(), dtype=bool)


def left_out(table: pa.Table, reason: Reason, message: str | pa.Array, which: Bools) -> pa.Table:
    """Ledger lines of rows that are left out, and of their files if they hold nothing else.

    `message` is one for all, or one for each row that is left out.
    """
    rows = table.filter(pa.array(which))
    row_lines = lines_for("row", reason, message, _flat(rows, "source_file"),
                          _flat(rows, "spectrum_key"))  # fmt: skip
    alone = pc.is_in(rows["source_format"], value_set=pa.array(_single_formats(), pa.string()))
    single = row_lines.filter(alone)
    files = single.set_column(2, "kind", pa.array(["file"] * single.num_rows, pa.string()))
    return together([row_lines, files])


def _single_formats() -> list[str]:
    return [name for name, each in FORMATS.items() if each.single]


def without_row(places: Places, rows: pa.Table) -> pa.Table:
    """Ledger lines of files, and of spectra in files of several, that no row is taken from."""
    named = pc.unique(rows["source_file"])
    keys = places.single["key"]
    single = places.single.filter(pc.invert(pc.is_in(keys, value_set=_flat(rows, "spectrum_key"))))
    alone = pc.is_in(single["source_format"], value_set=pa.array(_single_formats(), pa.string()))
    message = "the file is there, the catalogue has no row of its spectrum"
    lines = [lines_for("file", Reason.FILE_WITHOUT_ROW, message,
                       *_paths_and_keys(single.filter(alone)))]  # fmt: skip
    message = "the file has this spectrum, the catalogue has no row of it"
    lines.append(lines_for("fibre", Reason.FIBRE_WITHOUT_ROW, message,
                           *_paths_and_keys(single.filter(pc.invert(alone)))))  # fmt: skip
    groups = places.groups.filter(
        pc.invert(pc.is_in(places.groups["source_file"], value_set=named))
    )
    message = "the file is there, but no row of the catalogue is taken from it"
    lines.append(lines_for("file", Reason.FILE_WITHOUT_ROW, message, _flat(groups, "source_file")))
    return together(lines)


def _paths_and_keys(places: pa.Table) -> tuple[pa.Array, pa.Array]:
    return _flat(places, "source_file"), _flat(places, "key")


def once(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows in order of file and id, each observation once: the first stays.

    Returns
    -------
    rows, ledger
    """
    order = pc.sort_indices(rows, [("source_file", "ascending"), ("source_row", "ascending")])
    rows = rows.take(order).combine_chunks()
    keys = _flat(rows, "spectrum_key")
    encoded = keys.dictionary_encode()
    codes = np.asarray(encoded.indices.to_numpy())
    # Dictionary codes count up in the order of first appearance.
    first = np.zeros(len(codes), bool)
    first[np.unique(codes, return_index=True)[1]] = True
    if first.all():
        return rows, together([])
    files = _flat(rows, "source_file")
    # The row that stays of each observation, by its code.
    stays = files.take(pa.array(np.flatnonzero(first)))
    where = stays.take(pa.array(codes[~first].astype(np.int64)))
    message = pc.binary_join_element_wise(pa.scalar("the same observation as in"), where, " ")
    return rows.filter(pa.array(first)), left_out(rows, Reason.DUPLICATE, message, ~first)
