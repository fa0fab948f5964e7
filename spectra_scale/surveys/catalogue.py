"""Catalogues of spectra: specObj of SDSS, CAS and Data Lab exports, spAll of SDSS-V, zall of DESI.

As FITS, CSV or Parquet; whatever the columns are called there, the result has
`CATALOGUE_COLUMNS`. Definitions: formats.md A3, A5; names: `catalogue_columns`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.surveys.canonical import (
    CATALOGUE_SCHEMA,
    Canonical,
    UnusableColumnError,
    canonical_rows,
)
from spectra_scale.surveys.catalogue_columns import (
    CATALOGUE_COLUMNS,
    COLUMN_MAPS,
    NEEDED,
    ColumnMap,
)
from spectra_scale.surveys.desi import CUMULATIVE, production_of_path, tile_places
from spectra_scale.surveys.desi_hdus import open_desi
from spectra_scale.surveys.fits_bytes import Array
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.tables import Source, open_source

__all__ = [
    "CATALOGUE_COLUMNS",
    "CATALOGUE_SCHEMA",
    "COLUMN_MAPS",
    "NEEDED",
    "WANTED",
    "CatalogueBlock",
    "LostRow",
    "bad_rows",
    "catalogue_blocks",
    "catalogue_of",
    "is_catalogue",
    "origin_of",
    "read_catalogue",
]

WANTED = frozenset(
    name.lower() for each in COLUMN_MAPS for names in each.columns.values() for name in names
)
"""Lower-case names of all columns that are read from a catalogue."""

_GROUP = re.compile(
    r"(?:ztile-(?P<survey>\w+?)-(?P<program>\w+?)-|zpix-(?P<survey2>\w+?)-(?P<program2>\w+?)[-.]"
    r"|zall-tile)(?P<group>cumulative|pernight|perexp|1x_depth|4x_depth|lowspeed)?.*",
    re.IGNORECASE,
)
_PRODUCTION = re.compile(
    r"zall-(?:pix|tile[a-z]+)-(?P<name>[a-z0-9_]+)(?:-(?:imaging|extra))?\.\w+(?:\.gz)?",
    re.IGNORECASE,
)


class LostRow(NamedTuple):
    """A row of a catalogue whose identity cannot be read: a line of the ledger.

    Parameters
    ----------
    row
        Its number in the file, from 0.
    reason, message
        Code of `reasons.Reason`, and what was found.
    """

    row: int
    reason: str
    message: str


class CatalogueBlock(NamedTuple):
    """Some consecutive rows of a catalogue.

    Parameters
    ----------
    table
        `CATALOGUE_SCHEMA`, in the order of the file. Redshifts are as they are: see `bad_rows`.
    rows
        Row of the file that each is from, int64.
    lost
        Rows that are not in `table`.
    """

    table: pa.Table
    rows: npt.NDArray[np.int64]
    lost: list[LostRow]


def read_catalogue(path: Path) -> pa.Table:
    """Read a whole catalogue of spectra.

    Parameters
    ----------
    path
        FITS (gzipped or not), CSV or Parquet; names as `COLUMN_MAPS` has them, in any case.

    Returns
    -------
    pyarrow.Table
        `CATALOGUE_SCHEMA`, in the order of the file. Text is stripped of blanks; SPECOBJID is
        rebuilt from plate, MJD, fibre and RUN2D where it is missing or was rounded to a float.

    Raises
    ------
    SpectraScaleError
        If the file cannot be read, a needed column is absent or of the wrong type, or a row has
        no identity. `catalogue_blocks` reads on where a single row is bad.
    """
    return catalogue_of(open_source(path, WANTED))


def catalogue_blocks(path: Path) -> Iterator[CatalogueBlock]:
    """Read a catalogue of spectra part by part: a few hundred bytes a row at a time.

    Parameters
    ----------
    path
        As for `read_catalogue`.

    Yields
    ------
    CatalogueBlock
        In the order of the file; at least one. A row is in `table` or in `lost`.

    Raises
    ------
    SpectraScaleError
        If the file cannot be read, or a needed column is absent or of the wrong type.
    """
    yield from _blocks(open_source(path, WANTED), "", {})


def bad_rows(table: pa.Table) -> list[tuple[int, str, str]]:
    """Rows of a canonical catalogue that cannot be used, whatever their spectra are.

    Parameters
    ----------
    table
        `CATALOGUE_SCHEMA`.

    Returns
    -------
    list of (row, reason, message)
        Rows whose redshift is NaN, infinite or <= -1, by their number in the table.
    """
    z = table["z"].to_numpy()
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~(np.isfinite(z) & (z > -1)))
    return [
        (row, str(Reason.BAD_REDSHIFT), f"z is {z[row]}, expected > -1") for row in bad.tolist()
    ]


def is_catalogue(source: Source) -> bool:
    """Whether a table is a catalogue of spectra, by its columns."""
    return not _missing(source, origin_of(source), {})


def catalogue_of(
    source: Source, reduction: str = "", extra: dict[str, Array] | None = None
) -> pa.Table:
    """Canonical catalogue of an open table.

    Parameters
    ----------
    source
        The table, opened with `WANTED`.
    reduction
        RUN2D where the table has no such column.
    extra
        Columns by canonical name that the table lacks, shape (row,).

    Returns
    -------
    pyarrow.Table
        `CATALOGUE_SCHEMA`, in the order of the table.

    Raises
    ------
    SpectraScaleError
        If a needed column is absent or of the wrong type, or a row has no identity.
    """
    tables = []
    for block in _blocks(source, reduction, extra or {}):
        if block.lost:
            first = block.lost[0]
            msg = f"{source.path}, row {first.row}: {first.message}. Repair or drop such rows."
            raise SpectraScaleError(msg) from UnusableColumnError(first.message)
        tables.append(block.table)
    return pa.concat_tables(tables)


def origin_of(source: Source) -> ColumnMap:
    """The origin of a table, by its columns: the one that fits best."""

    def fit(columns: ColumnMap) -> tuple[int, int]:
        marked = all(name in source for name in columns.marks)
        found = sum(any(name in source for name in names) for names in columns.columns.values())
        return (len(columns.marks) if marked else -1), found

    return max(COLUMN_MAPS, key=fit)


def _missing(source: Source, origin: ColumnMap, given: dict[str, Array]) -> list[str]:
    return [
        name
        for name in origin.needed
        if name not in given and not any(each in source for each in origin.columns[name])
    ]


def _blocks(source: Source, reduction: str, given: dict[str, Array]) -> Iterator[CatalogueBlock]:
    origin = origin_of(source)
    missing = _missing(source, origin, given)
    if missing:
        expected = ", ".join(" or ".join(origin.columns[name]) for name in missing)
        msg = (
            f"{source.path} lacks columns of a catalogue: found {source.some_names()}; expected "
            f"also {expected} (names of {origin.name}). Export these columns too."
        )
        raise SpectraScaleError(msg)
    desi = _Desi.of(source) if origin.kind == "desi" else None
    for start, stop in source.blocks():
        found = {name: values[start:stop] for name, values in given.items()}
        for name, sources in origin.columns.items():
            present = next((each for each in sources if each in source), None)
            if present is not None:
                found[name] = _values(source, present, start, stop)
        if desi is not None:
            reduction = desi.complete(found, stop - start) or reduction
        made = _made(source, found, origin, reduction, start)
        lost = [LostRow(start + row, _NO_IDENTITY, message) for row, message in made.lost]
        yield CatalogueBlock(made.table, made.rows + start, lost)


_NO_IDENTITY = str(Reason.BAD_IDENTITY)


def _made(
    source: Source, found: dict[str, Array], origin: ColumnMap, reduction: str, start: int
) -> Canonical:
    try:
        return canonical_rows(found, origin.kind, reduction)
    except UnusableColumnError as error:
        msg = f"{source.path}, rows from {start}: {error}. Repair or drop these rows."
        raise SpectraScaleError(msg) from error


def _values(source: Source, name: str, start: int, stop: int) -> Array:
    if isinstance(source.holder, pa.Table):
        try:
            column = source.holder.column(source.names[name.lower()])[start:stop]
        except KeyError as error:
            msg = f"{source.path}: column {name} cannot be read: {error}. Export the table again."
            raise SpectraScaleError(msg) from error
        if pa.types.is_integer(column.type) and column.null_count:
            # As floats, which is what Arrow makes of them, ids would lose their last digits.
            held = column.combine_chunks()
            nulls = held.is_null().to_numpy(zero_copy_only=False)
            values = held.fill_null(0).to_numpy(zero_copy_only=False)
            return np.ma.MaskedArray(values, nulls)
        if pa.types.is_boolean(column.type):
            return np.asarray(column.cast(pa.string()).fill_null("").to_numpy(), dtype=np.str_)
    return source.read(name, start, stop)


# What a catalogue of DESI says outside of its columns ------------------------------------------


@dataclass(frozen=True, slots=True)
class _Desi:
    """What header and name of a catalogue say of all its rows.

    `group` is SPGRP of a catalogue of tiles; empty for healpixels.
    """

    survey: str
    program: str
    group: str
    production: str

    @classmethod
    def of(cls, source: Source) -> _Desi:
        name = source.path.name
        match, named = _GROUP.fullmatch(name), _PRODUCTION.fullmatch(name)
        parts = {} if match is None else match.groupdict("")
        cards = _cards(source)
        of_tiles = "TILEID" in source and "HEALPIX" not in source and "UNIQPIX" not in source
        group = (cards.get("SPGRP", "") or parts.get("group", "")).lower() if of_tiles else ""
        found = cls(
            cards.get("SURVEY", "") or parts.get("survey", "") or parts.get("survey2", ""),
            cards.get("PROGRAM", "") or parts.get("program", "") or parts.get("program2", ""),
            group,
            cards.get("SPECPROD", "") or (named["name"] if named else "")
            or production_of_path(source.path),
        )  # fmt: skip
        if of_tiles and not group:
            raise _unsaid(source, "SPGRP", "ztile-SURVEY-PROGRAM-cumulative.fits")
        lacks = [key for key in ("SURVEY", "PROGRAM") if key not in source]
        if lacks and not of_tiles and not (found.survey and found.program):
            raise _unsaid(source, "SURVEY and PROGRAM", "zpix-SURVEY-PROGRAM.fits")
        return found

    def complete(self, found: dict[str, Array], n_rows: int) -> str:
        """Add survey and program where they are no columns; give the production."""
        if self.group:
            value = None if self.group == CUMULATIVE else found.get("spgrpval")
            found["survey"] = np.full(n_rows, self.group)
            found["program"] = tile_places(found["tileid"], value, self.group)
        else:
            found.setdefault("survey", np.full(n_rows, self.survey))
            found.setdefault("program", np.full(n_rows, self.program))
        return self.production


def _unsaid(source: Source, what: str, name: str) -> SpectraScaleError:
    msg = (
        f"{source.path}: found {what} neither in its columns, nor in its header, nor in its name; "
        f"expected them, since TARGETID alone names no spectrum. Name it as {name}."
    )
    return SpectraScaleError(msg)


def _cards(source: Source) -> dict[str, str]:
    """Cards of the primary header and that of the table, where the file is FITS."""
    if isinstance(source.holder, pa.Table):
        return {}
    try:
        with open_desi(source.path, n_hdus=2) as file:
            tables = file.hdus[1:]
            keys = ("SURVEY", "PROGRAM", "SPGRP", "SPECPROD")
            return {key: file.card(key, hdus=tables) for key in keys}
    except BadSpectrumError:
        return {}
