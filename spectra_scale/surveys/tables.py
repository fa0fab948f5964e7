"""Catalogue files of any kind (FITS, CSV, Parquet) as columns by name, without regard to case."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.surveys.fits_bytes import (
    PACKED,
    Array,
    Buffer,
    UnsureError,
    load,
    read_hdu,
)
from spectra_scale.surveys.fits_fallback import MOST_BY_ASTROPY, EitherTable, astropy_hdus
from spectra_scale.surveys.fits_files import OpenGzip
from spectra_scale.surveys.fits_table import RawTable, Table
from spectra_scale.surveys.fits_unpack import unpacked

_HDUS_TO_TRY = 8
_BLOCK_ROWS = 1 << 16
_TEXT = frozenset({"specobjid", "run2d", "survey", "instrument", "class", "subclass", "bpt"})
TABLE_SUFFIXES = (".csv", ".parquet")
"""Suffixes of tables that are not FITS."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A table in a file, of which single columns are read.

    Parameters
    ----------
    path
        The file.
    n_rows
        Number of rows.
    names
        Lower-case name of a column to its name in the file.
    holder
        What holds the values.
    """

    path: Path
    n_rows: int
    names: dict[str, str]
    holder: Table | pa.Table

    def __contains__(self, name: str) -> bool:
        """Whether there is a column `name`, in any case."""
        return name.lower() in self.names

    def some_names(self) -> str:
        """The first column names, for a message."""
        names = list(self.names.values())
        more = f" and {len(names) - 30} more" if len(names) > 30 else ""
        return ", ".join(names[:30]) + more

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows `start` to `stop` of a column; text is stripped, a null number is NaN.

        Raises
        ------
        SpectraScaleError
            If there is no such column, or its values cannot be read.
        """
        return self.read_many((name,), start, stop)[name]

    def read_many(
        self, names: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, Array]:
        """Rows `start` to `stop` of several columns by the names given, the rows read once.

        Parameters
        ----------
        names
            The columns, in any case.
        start, stop
            The rows; by default all. Of a large file they are read in blocks, so that memory is
            needed for the result alone.

        Raises
        ------
        SpectraScaleError
            As `read` does.
        """
        for name in names:
            if name not in self:
                msg = f"{self.path} has no column {name}; found {self.some_names()}."
                raise SpectraScaleError(msg)
        end = self.n_rows if stop is None else min(stop, self.n_rows)
        if isinstance(self.holder, pa.Table):
            return {name: self._arrow(self.holder, name, start, end) for name in names}
        try:
            return self.holder.columns(names, start, end)
        except UnsureError as error:
            msg = f"{self.path}: columns {', '.join(names)} cannot be read: {error}"
            raise SpectraScaleError(msg) from error
        except BadSpectrumError as error:
            msg = f"{self.path}: rows {start} to {end} cannot be read: {error.message}"
            raise SpectraScaleError(msg) from error

    def _arrow(self, table: pa.Table, name: str, start: int, stop: int) -> Array:
        try:
            return _arrow_values(table.column(self.names[name.lower()])[start:stop])
        except (KeyError, pa.ArrowException, UnicodeDecodeError) as error:
            # Two columns of one name, or text that is not UTF-8.
            msg = f"{self.path}: column {name} cannot be read: {error}. Export the table again."
            raise SpectraScaleError(msg) from error

    def whole(self, names: Sequence[str]) -> Array:
        """The first of some columns that is there, as int64; -1 where there is no whole number.

        Raises
        ------
        SpectraScaleError
            If none is there, or it holds text.
        """
        name = next((name for name in names if name in self), names[0])
        values = self.read(name)
        try:
            numbers = values.astype(np.float64)
        except ValueError as error:
            msg = f"{self.path}: column {name} holds something else than numbers: {error}"
            raise SpectraScaleError(msg) from error
        good = np.isfinite(numbers) & (np.abs(numbers) < 2.0**63) & (numbers == np.rint(numbers))
        return np.where(good, numbers, -1).astype(np.int64)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows, so that a wide table is gone through once and in little memory.

        Of the rows of one range, several columns in turn cost one read.
        """
        step = _BLOCK_ROWS
        if isinstance(self.holder, EitherTable):
            step = min(step, self.holder.raw.block_rows)
        for start in range(0, max(self.n_rows, 1), step):
            yield start, min(start + step, self.n_rows)


def open_source(path: Path, wanted: Collection[str]) -> Source:
    """Open a table file: FITS (the first table in it, gzipped or not), CSV or Parquet.

    Parameters
    ----------
    path
        The file. CSV may begin with the ``#Table1`` line of CAS.
    wanted
        Lower-case names of the columns that may be read; of others only the names are known.

    Returns
    -------
    Source
        The table.

    Raises
    ------
    SpectraScaleError
        If it cannot be read or has no table.
    """
    if not path.is_file():
        msg = f"{path} is no file; expected a catalogue in FITS, CSV or Parquet. Check the path."
        raise SpectraScaleError(msg)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    try:
        if ".parquet" in suffixes:
            return _from_parquet(path, wanted)
        if ".csv" in suffixes:
            return _from_csv(path, wanted)
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        # A KeyError is Arrow's for two columns of one name.
        msg = f"{path} cannot be read as {suffixes[-1]}: {error}. Fetch it again."
        raise SpectraScaleError(msg) from error
    return _from_fits(path)


def _from_parquet(path: Path, wanted: Collection[str]) -> Source:
    names = pq.read_schema(path).names
    table = pq.read_table(path, columns=[name for name in names if name.lower() in wanted])
    n_rows = pq.read_metadata(path).num_rows
    return Source(path, n_rows, {name.lower(): name for name in names}, table)


def _from_csv(path: Path, wanted: Collection[str]) -> Source:
    with pa.input_stream(str(path), compression="detect") as stream:
        # CAS writes a line #Table1 before the names.
        skip = 1 if stream.read(1) == b"#" else 0
    options = pa_csv.ReadOptions(skip_rows=skip)
    with pa_csv.open_csv(str(path), read_options=options) as reader:
        names = reader.schema.names
    # Text stays text: an id of 19 digits or a RUN2D of 26 would become a number.
    convert = pa_csv.ConvertOptions(
        include_columns=[name for name in names if name.lower() in wanted],
        column_types={name: pa.string() for name in names if name.lower() in _TEXT},
    )
    table = pa_csv.read_csv(str(path), read_options=options, convert_options=convert)
    return Source(path, table.num_rows, {name.lower(): name for name in names}, table)


def _from_fits(path: Path) -> Source:
    try:
        table, names = _fits_table(load(path, mapped=True))
    except (BadSpectrumError, UnsureError) as error:
        what = error.message if isinstance(error, BadSpectrumError) else str(error)
        msg = f"{path} holds no table that can be read: {what}. Expected a FITS table."
        raise SpectraScaleError(msg) from error
    return Source(path, table.n_rows, names, table)


def _fits_table(buffer: Buffer) -> tuple[Table, dict[str, str]]:
    try:
        return _named(_first_raw(buffer))
    except UnsureError as error:
        if str(error) == PACKED:
            return _named(_first_raw(unpacked(buffer) or b""))
    if not isinstance(buffer, OpenGzip) and len(buffer) > MOST_BY_ASTROPY:
        msg = f"its headers are not plain, and {len(buffer)} bytes are too many for astropy"
        raise UnsureError(msg)
    for hdu in astropy_hdus(buffer, _HDUS_TO_TRY):
        if hdu.table is not None:
            return hdu.table, dict(hdu.table.names)
    msg = "no table HDU"
    raise UnsureError(msg)


def _named(table: EitherTable) -> tuple[Table, dict[str, str]]:
    return table, {name: name for name in table.raw.names}


def _first_raw(buffer: Buffer) -> EitherTable:
    at = 0
    for index in range(_HDUS_TO_TRY):
        hdu = read_hdu(buffer, at)
        if hdu is None:
            break
        if hdu.card("XTENSION") == "BINTABLE" and hdu.card("ZIMAGE") != "T":
            return EitherTable(RawTable.of(hdu), index)
        at = hdu.end
    msg = "no table HDU"
    raise UnsureError(msg)


def _arrow_values(column: pa.ChunkedArray) -> Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.char.strip(np.asarray(column.fill_null("").to_numpy(), dtype=np.str_))
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        rows: Any = column.to_pylist()
        return np.array(rows)
    return np.asarray(column.to_numpy())
