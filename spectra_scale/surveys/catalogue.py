"""Catalogues of spectra: specObj of SDSS, CAS and Data Lab exports, as FITS, CSV or Parquet.

Whatever the columns are called there, the result has `CATALOGUE_COLUMNS`. Definitions: formats.md
A3; names: `catalogue_columns`.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys.canonical import CATALOGUE_SCHEMA, UnusableColumnError, table_of
from spectra_scale.surveys.catalogue_columns import (
    CATALOGUE_COLUMNS,
    COLUMN_MAPS,
    NEEDED,
    ColumnMap,
)
from spectra_scale.surveys.fits_bytes import Array
from spectra_scale.surveys.tables import Source, open_source

__all__ = [
    "CATALOGUE_COLUMNS",
    "CATALOGUE_SCHEMA",
    "WANTED",
    "catalogue_of",
    "is_catalogue",
    "read_catalogue",
]

WANTED = frozenset(
    name.lower() for each in COLUMN_MAPS for names in each.columns.values() for name in names
)
"""Lower-case names of all columns that are read from a catalogue."""


def read_catalogue(path: Path) -> pa.Table:
    """Read a catalogue of spectra.

    Parameters
    ----------
    path
        FITS (gzipped or not), CSV or Parquet; names as in specObj, CAS or Data Lab, in any case.

    Returns
    -------
    pyarrow.Table
        `CATALOGUE_SCHEMA`, in the order of the file. Text is stripped of blanks; SPECOBJID is
        rebuilt from plate, MJD, fibre and RUN2D where it is missing or was rounded to a float.

    Raises
    ------
    SpectraScaleError
        If the file cannot be read, or a needed column is absent or of the wrong type.
    """
    return catalogue_of(open_source(path, WANTED))


def is_catalogue(source: Source) -> bool:
    """Whether a table is a catalogue of spectra, by its columns."""
    return not _missing(source, _map_of(source), {})


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
        If a needed column is absent or of the wrong type.
    """
    columns = _map_of(source)
    given = extra or {}
    missing = _missing(source, columns, given)
    if missing:
        expected = ", ".join(" or ".join(columns.columns[name]) for name in missing)
        msg = (
            f"{source.path} lacks columns of a catalogue: found {source.some_names()}; expected "
            f"also {expected} (names of {columns.name}). Export these columns too."
        )
        raise SpectraScaleError(msg)
    parts = []
    for start, stop in source.blocks():
        found = {name: values[start:stop] for name, values in given.items()}
        for name, sources in columns.columns.items():
            present = next((each for each in sources if each in source), None)
            if present is not None:
                found[name] = source.read(present, start, stop)
        parts.append(_part(source, found, reduction, start))
    return pa.concat_tables(parts)


def _part(source: Source, found: dict[str, Array], reduction: str, start: int) -> pa.Table:
    try:
        return table_of(found, reduction)
    except UnusableColumnError as error:
        msg = f"{source.path}, rows from {start}: {error}. Repair or drop these rows."
        raise SpectraScaleError(msg) from error


def _map_of(source: Source) -> ColumnMap:
    def found(columns: ColumnMap) -> int:
        return sum(any(name in source for name in names) for names in columns.columns.values())

    return max(COLUMN_MAPS, key=found)


def _missing(source: Source, columns: ColumnMap, given: dict[str, Array]) -> list[str]:
    return [
        name
        for name in NEEDED
        if name not in given and not any(each in source for each in columns.columns[name])
    ]
