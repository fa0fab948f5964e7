"""Where spectra are, by what files and the folders they are in are called.

A file of one spectrum says by its name which one; a file of many says which group (a plate and
MJD; a DESI survey, program and healpixel). The same place may be there in several reductions:
then the folders tell them apart, and a catalogue's row is of its own reduction's file alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.stages.ingest.ledger import flat, lines_for, lines_of, together
from spectra_scale.surveys.formats import FORMATS, ROW_SCHEMA, FileIn, Lost
from spectra_scale.surveys.reasons import Reason

_COLUMNS = ("source_format", "source_file", "source_row")
_PLACE = pa.schema([("key", pa.string()), ("source_format", pa.string()),
                    ("source_file", pa.string()), ("source_row", pa.int64()),
                    ("spectrum_key", pa.string())])  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Candidate:
    kind: str
    locator: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Files by the place that their names say (`_PLACE` tables).

    Parameters
    ----------
    exact
        By place and reduction, where a folder says the reduction.
    open_
        By place, of files whose reduction is not known.
    any_
        By place, of whatever reduction: for rows that do not say theirs.
    """

    exact: pa.Table
    open_: pa.Table
    any_: pa.Table

    def find(self, place: pa.Array, reduction: pa.Array) -> dict[str, pa.Array]:
        """Format, file and id in the file of each place; null where there is none."""
        named = _joined(place, pc.utf8_lower(reduction))
        silent = pc.if_else(pc.equal(reduction, ""), place, pa.scalar(None, pa.string()))
        looks = ((self.exact, named), (self.open_, place), (self.any_, silent))
        ats = [flat(pc.index_in(key, value_set=flat(table["key"]))) for table, key in looks]
        return {
            name: pc.coalesce(*(flat(table[name]).take(at)
                                for (table, _), at in zip(looks, ats, strict=True)))
            for name in _COLUMNS
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where spectra are.

    Parameters
    ----------
    single
        Files of one spectrum, and spectra of files whose own tables say which they have.
    groups
        Files of a group of spectra.
    ledger
        Files that are there twice.
    """

    single: Index
    groups: Index
    ledger: pa.Table


def _joined(place: pa.Array, reduction: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(place, reduction, "\n")


def places_of(
    inputs: Sequence[tuple[str, FileIn]], sizes: Mapping[str, int]
) -> tuple[Places, list[tuple[str, FileIn]]]:
    """Sort spectrum files by the place that their names say.

    Parameters
    ----------
    inputs
        Format and file of each.
    sizes
        Bytes of each file: of two copies of one place the larger is taken, since a file that was
        cut is smaller, then the first by name.

    Returns
    -------
    places, unnamed
        The second are files whose names do not say: their own tables have to be read.
    """
    single: dict[str, list[_Candidate]] = {}
    groups: dict[str, list[_Candidate]] = {}
    unnamed = []
    for kind, file in inputs:
        place = FORMATS[kind].place(file.path)
        if not place:
            unnamed.append((kind, file))
            continue
        found = single if FORMATS[kind].group is None else groups
        candidate = _Candidate(kind, file.locator, file.path, sizes.get(file.locator, 0))
        found.setdefault(place, []).append(candidate)
    lost: list[Lost] = []
    one, many = _index(single, lost, named=True), _index(groups, lost, named=False)
    return Places(one, many, lines_of(lost)), unnamed


def _index(found: Mapping[str, list[_Candidate]], lost: list[Lost], *, named: bool) -> Index:
    exact: dict[str, tuple[_Candidate, str]] = {}
    open_: dict[str, tuple[_Candidate, str]] = {}
    any_: dict[str, tuple[_Candidate, str]] = {}
    for place, candidates in found.items():
        candidates.sort(key=lambda each: (-each.size, each.locator))
        key = place if named else ""
        for each in candidates:
            reduction = FORMATS[each.kind].reduction(each.path).lower()
            table, name = (exact, f"{place}\n{reduction}") if reduction else (open_, place)
            if name in table:
                message = f"the same observation, or group of them, as {table[name][0].locator}"
                lost.append(Lost(each.locator, key, "file", Reason.DUPLICATE, message))
            else:
                table[name] = (each, key)
            any_.setdefault(place, (each, key))
        if len(candidates) > 1:
            _tell_apart(place, candidates, exact, key)
    return Index(_table(exact), _table(open_), _table(any_))


def _tell_apart(
    place: str,
    candidates: Sequence[_Candidate],
    exact: dict[str, tuple[_Candidate, str]],
    key: str,
) -> None:
    """Files of one place in folders of several names: one of these may be the row's reduction."""
    folders = [{part.lower() for part in each.path.parent.parts} for each in candidates]
    shared = set.intersection(*folders)
    for each, names in zip(candidates, folders, strict=True):
        for name in sorted(names - shared):
            exact.setdefault(f"{place}\n{name}", (each, key))


def _table(found: Mapping[str, tuple[_Candidate, str]]) -> pa.Table:
    candidates = [each for each, _ in found.values()]
    columns = [list(found), [each.kind for each in candidates],
               [each.locator for each in candidates], [0] * len(found),
               [key for _, key in found.values()]]  # fmt: skip
    return pa.table(
        [pa.array(v, f.type) for v, f in zip(columns, _PLACE, strict=True)], schema=_PLACE
    )


def with_rows(places: Places, rows: pa.Table) -> Places:
    """Add spectra whose place was found in the files' own tables (`ROW_SCHEMA`)."""
    if not rows.num_rows:
        return places
    keys, reductions = flat(rows["spectrum_key"]), pc.utf8_lower(flat(rows["reduction"]))
    exact = _joined(keys, reductions)
    twice = pc.is_in(exact, value_set=flat(places.single.exact["key"]))
    message = "the same observation and reduction as in another file"
    again = rows.filter(twice)
    lines = lines_for("fibre", Reason.DUPLICATE, message, flat(again["source_file"]),
                      flat(again["spectrum_key"]))  # fmt: skip
    new = pc.invert(twice)
    silent = pc.and_(new, pc.equal(reductions, ""))
    single = Index(
        _more(places.single.exact, exact, rows, new),
        _more(places.single.open_, keys, rows, silent),
        _more(places.single.any_, keys, rows, new),
    )
    return Places(single, places.groups, together([places.ledger, lines]))


def _more(table: pa.Table, keys: pa.Array, rows: pa.Table, which: pa.Array) -> pa.Table:
    columns = [keys, *(flat(rows[name]) for name in _COLUMNS), flat(rows["spectrum_key"])]
    added = pa.table(columns, schema=_PLACE).filter(which)
    return pa.concat_tables([table, added]).combine_chunks()


def locate_rows(table: pa.Table, places: Places) -> pa.Table:
    """Catalogue rows with the place of their spectra; null where no file has it.

    A row of a known reduction is never given a file that is known to be of another.
    """
    table = table.combine_chunks()
    reduction = flat(table["reduction"])
    found = places.single.find(flat(table["spectrum_key"]), reduction)
    for kind, each in FORMATS.items():
        if each.group is None:
            continue
        there = places.groups.find(each.group(table), reduction)
        new = pc.and_(pc.is_null(found["source_file"]), _equal(there["source_format"], kind))
        there["source_row"] = flat(table[each.id_column]).cast(pa.int64())
        for name in _COLUMNS:
            found[name] = pc.if_else(new, there[name], found[name])
    for name in _COLUMNS:
        table = table.append_column(name, found[name])
    return table.select(ROW_SCHEMA.names).cast(ROW_SCHEMA)


def _equal(values: pa.Array, wanted: str) -> pa.Array:
    return pc.fill_null(pc.equal(values, wanted), False)  # noqa: FBT003


def without_row(places: Places, rows: pa.Table) -> pa.Table:
    """Ledger lines of files, and of spectra in files of several, that no row is taken from."""
    files, keys = pc.unique(rows["source_file"]), flat(rows["spectrum_key"])
    single = _unique(places.single).filter(
        pc.invert(pc.is_in(_unique(places.single)["source_file"], value_set=flat(files)))
    )
    alone = pc.is_in(single["source_format"], value_set=pa.array(single_formats(), pa.string()))
    message = "the file is there, the catalogue has no row of its spectrum in its reduction"
    lines = [_named("file", Reason.FILE_WITHOUT_ROW, message, single.filter(alone))]
    spectra = _unique(places.single)
    several = pc.invert(
        pc.is_in(spectra["source_format"], value_set=pa.array(single_formats(), pa.string()))
    )
    spectra = spectra.filter(several)
    spectra = spectra.filter(pc.invert(pc.is_in(spectra["spectrum_key"], value_set=keys)))
    message = "the file has this spectrum, the catalogue has no row of it"
    lines.append(_named("fibre", Reason.FIBRE_WITHOUT_ROW, message, spectra))
    groups = _unique(places.groups)
    groups = groups.filter(pc.invert(pc.is_in(groups["source_file"], value_set=flat(files))))
    message = "the file is there, but no row of the catalogue is taken from it"
    lines.append(_named("file", Reason.FILE_WITHOUT_ROW, message, groups))
    return together(lines)


def _unique(index: Index) -> pa.Table:
    """Each file, or spectrum of a file of several, once."""
    table = pa.concat_tables([index.open_, index.exact])
    names = ["source_format", "source_file", "source_row", "spectrum_key"]
    return table.group_by(names, use_threads=False).aggregate([]).select(names)


def _named(kind: str, reason: Reason, message: str, places: pa.Table) -> pa.Table:
    return lines_for(kind, reason, message, flat(places["source_file"]),
                     flat(places["spectrum_key"]))  # fmt: skip


def single_formats() -> list[str]:
    """Formats whose files hold one spectrum."""
    return [name for name, each in FORMATS.items() if each.single]
