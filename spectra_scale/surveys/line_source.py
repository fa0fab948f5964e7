"""Opening a line table: which kind it is, and its columns a block of rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.surveys.fits_bytes import Array, UnsureError
from spectra_scale.surveys.fits_named import NamedTable, tables_of
from spectra_scale.surveys.line_formats import FASTSPECFIT, FORMATS, WANTED, Block, LineFormat
from spectra_scale.surveys.tables import TABLE_SUFFIXES, Source, open_source

Holder = Source | NamedTable

_BLOCK_ROWS = 1 << 15
_FASTSPEC, _METADATA = "FASTSPEC", "METADATA"


@dataclass(frozen=True, slots=True, eq=False)
class LineSource:
    """A line table that is open.

    Parameters
    ----------
    path
        The file.
    kind
        Which kind of table it is.
    holders
        The table, and one that is matched to it row by row if it lacks columns itself.
    places
        Which holder has each column, and what it is called there.
    """

    path: Path
    kind: LineFormat
    holders: tuple[Holder, ...]
    places: dict[str, tuple[int, str]]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.holders[0].n_rows

    def blocks(self) -> list[tuple[int, int]]:
        """Ranges of rows to read at once."""
        step = min(getattr(each, "block_rows", _BLOCK_ROWS) for each in self.holders)
        return [(at, min(at + step, self.n_rows)) for at in range(0, self.n_rows, step)]

    def read(self, start: int, stop: int) -> Block:
        """Columns of a range of rows.

        Raises
        ------
        SpectraScaleError
            If values cannot be read, the file was cut since it was opened, or the rows of two
            tables that go together are of different objects.
        """
        out: dict[str, Array] = {}
        try:
            for number, holder in enumerate(self.holders):
                names = {k: n for k, (h, n) in self.places.items() if h == number}
                found = _columns(holder, [*names.values()], start, stop)
                out |= {name: found[theirs] for name, theirs in names.items()}
            for holder in self.holders[1:]:
                self._check_match(holder, out, start, stop)
        except (BadSpectrumError, UnsureError, pa.ArrowException, KeyError, ValueError) as error:
            msg = f"{self.path}: rows {start} to {stop} cannot be read: {error}. Fetch it again."
            raise SpectraScaleError(msg) from error
        return out

    def _check_match(self, holder: Holder, block: Block, start: int, stop: int) -> None:
        for names in self.kind.identity:
            name = self.places[names[0]][1]
            if name in holder and self.places[names[0]][0] == 0:
                theirs = _columns(holder, [name], start, stop)[name]
                if not np.array_equal(theirs, block[names[0]]):
                    msg = (
                        f"{self.path}: {name} is not the same, row by row, as in {_name(holder)}, "
                        f"from row {start} on. Take both from the same release."
                    )
                    raise SpectraScaleError(msg)


def _columns(holder: Holder, names: Sequence[str], start: int, stop: int) -> dict[str, Array]:
    if isinstance(holder, NamedTable):
        return holder.columns(names, start, stop)
    return {name: holder.read(name, start, stop) for name in names}


def _name(holder: Holder) -> str:
    if isinstance(holder, NamedTable) and holder.name:
        return f"{holder.path.name}[{holder.name}]"
    return holder.path.name


def open_line_source(path: Path) -> LineSource:
    """Open a line table.

    Parameters
    ----------
    path
        FITS (gzipped or not), CSV or Parquet. FastSpecFit's FASTSPEC is found by its name, of
        other FITS files the first table is taken.

    Returns
    -------
    LineSource
        The table, with all columns it needs.

    Raises
    ------
    SpectraScaleError
        If the file cannot be read, the table is of no known kind or lacks a column.
    """
    holders = _holders(path)
    kind = kind_of(holders[0])
    if kind is None:
        known = "; ".join(f"{each.title}: {', '.join(each.marks)}" for each in FORMATS)
        msg = (
            f"{path} is no line catalogue: found columns {holders[0].some_names()}; expected "
            "PLATE (or PLATEID), MJD and FIBERID, or TARGETID, SURVEY and PROGRAM, with one of "
            f"[{known}]. Give another file."
        )
        raise SpectraScaleError(msg)
    _refuse_dr9(path, kind)
    if kind.fits(holders[0]):
        holders = holders[:1]
    if "RELIABLE" in kind.columns and "RELIABLE" not in holders[0]:
        holders.append(_info_beside(path))
    _check_lengths(holders)
    return LineSource(path, kind, tuple(holders), _places(path, kind, holders))


def kind_of(source: Holder) -> LineFormat | None:
    """Which kind of line table a table is, by its columns; None if it is none."""
    if isinstance(source, NamedTable) and source.name == _FASTSPEC:
        # Its identity may stand in METADATA.
        return FASTSPECFIT if all(name in source for name in FASTSPECFIT.marks) else None
    return next((each for each in FORMATS if each.fits(source)), None)


def _holders(path: Path) -> list[Holder]:
    """The table that may be a line table, then the one that may complete it."""
    is_fits = not set(TABLE_SUFFIXES) & {suffix.lower() for suffix in path.suffixes}
    try:
        tables = tables_of(path) if is_fits else None
    except BadSpectrumError as error:
        msg = f"{path} holds no table that can be read: {error.message}. Fetch it again."
        raise SpectraScaleError(msg) from error
    if not tables:
        return [open_source(path, WANTED)]
    named = {table.name: table for table in reversed(tables)}
    if _FASTSPEC in named:
        return [named[name] for name in (_FASTSPEC, _METADATA) if name in named]
    return [tables[0]]


def _info_beside(path: Path) -> Holder:
    """The galSpecInfo file beside a galSpecLine, which has RELIABLE."""
    beside = path.with_name(path.name.replace("galSpecLine", "galSpecInfo"))
    if beside == path or not beside.is_file():
        msg = (
            f"{path} has no column RELIABLE, and no galSpecInfo file lies beside it. "
            "Unreliable fits must not be used: put galSpecInfo-dr8.fits into the same folder."
        )
        raise SpectraScaleError(msg)
    return _holders(beside)[0]


def _check_lengths(holders: Sequence[Holder]) -> None:
    for other in holders[1:]:
        if other.n_rows != holders[0].n_rows:
            msg = (
                f"{_name(other)} has {other.n_rows} rows, {_name(holders[0])} has "
                f"{holders[0].n_rows}: the two are matched row by row. Take both from the same "
                f"release ({holders[0].path})."
            )
            raise SpectraScaleError(msg)


def _places(path: Path, kind: LineFormat, holders: Sequence[Holder]) -> dict[str, tuple[int, str]]:
    places = {}
    for first, names in kind.columns.items():
        found = [(i, n) for i, holder in enumerate(holders) for n in names if n in holder]
        if not found:
            msg = (
                f"{path} is a table of {kind.title}, but has no column {' or '.join(names)}: "
                f"found {holders[0].some_names()}. Labels rest on it: give the whole table."
            )
            raise SpectraScaleError(msg)
        places[first] = found[0]
    return places


def _refuse_dr9(path: Path, kind: LineFormat) -> None:
    """Refuse the first Portsmouth release by its name: nothing inside tells."""
    marks = ("dr9", "v5_4_45")
    if kind.source in {"portsmouth", "cas"} and any(mark in path.name.lower() for mark in marks):
        msg = (
            f"{path} is, by its name, the Portsmouth catalogue of DR9, whose equivalent widths "
            "are wrong by a factor of 1 + z (SDSS caveats). Take that of DR10 or later (DR12 "
            "holds the same spectra), or rename the file if it is not of DR9."
        )
        raise SpectraScaleError(msg)
