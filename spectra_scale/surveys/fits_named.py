"""Tables of a FITS file, read in blocks of rows: a table may be larger than memory.

Headers are walked, and of a table only the bytes of a block of rows are read, once for all of its
columns. What is not plain is left to astropy, as everywhere here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.fits_bytes import Array, Buffer, Hdu, UnsureError, load, read_hdu
from spectra_scale.surveys.fits_fallback import astropy_hdus
from spectra_scale.surveys.fits_table import RawTable, Table
from spectra_scale.surveys.reasons import Reason

_HDUS_TO_TRY = 16
_BLOCK_BYTES = 32 << 20
_ASTROPY_ROWS = 1 << 14
_MOST_BY_ASTROPY = 4 << 30  # it takes the whole file into memory


@dataclass(frozen=True, slots=True, eq=False)
class NamedTable:
    """A table of a file, of which single columns of a block of rows are read.

    Parameters
    ----------
    path
        The file.
    name
        Its EXTNAME, upper case; empty if there is none.
    n_rows
        Number of rows.
    names
        Names of its columns, lower case.
    block_rows
        Rows that `columns` should be asked for at once, to keep memory small.
    holder
        What holds the values.
    """

    path: Path
    name: str
    n_rows: int
    names: tuple[str, ...]
    block_rows: int
    holder: Table

    def __contains__(self, name: str) -> bool:
        """Whether there is a column `name`, in any case."""
        return name.lower() in self.names

    def some_names(self) -> str:
        """The first column names, for a message."""
        more = f" and {len(self.names) - 30} more" if len(self.names) > 30 else ""
        return ", ".join(self.names[:30]) + more

    def columns(self, names: Iterable[str], start: int, stop: int) -> dict[str, Array]:
        """Rows `start` to `stop` of some columns, in native byte order; text as stripped str.

        Raises
        ------
        BadSpectrumError
            If the file ends too early, or was cut since it was opened.
        UnsureError
            If a column cannot be converted.
        """
        stop = min(stop, self.n_rows)
        if not isinstance(self.holder, RawTable):
            return {name: self.holder.column(name, start, stop) for name in names}
        hdu, layout = self.holder.hdu, self.holder.layout
        width = layout.offsets[-1]
        at = hdu.data_start + start * width
        size = (stop - start) * width
        rows = bytes(hdu.buffer[at : at + size])
        if len(rows) < size:
            message = f"ends before the rows of {self.name or 'its table'} do"
            raise BadSpectrumError(Reason.TRUNCATED, message, self.path)
        part = replace(hdu, buffer=rows, start=0, data_start=0, data_size=len(rows))
        block = RawTable(part, stop - start, layout)
        return {name: block.column(name) for name in names}


def tables_of(path: Path) -> list[NamedTable] | None:
    """Open all tables of a FITS file.

    Parameters
    ----------
    path
        The file, gzipped or not.

    Returns
    -------
    list of NamedTable or None
        In the order of the file; None if it is no regular file or is not FITS.

    Raises
    ------
    BadSpectrumError
        If the file cannot be read, or ends before the data that its headers announce.
    """
    buffer = _buffer(path)
    if buffer is None:
        return None
    try:
        return _plain(path, buffer)
    except UnsureError:
        return _by_astropy(path)


def _buffer(path: Path) -> Buffer | None:
    if not path.is_file():
        return None
    try:
        return load(path, mapped=True)
    except BadSpectrumError as error:
        if error.reason == Reason.NOT_FITS:
            return None
        raise


def _plain(path: Path, buffer: Buffer) -> list[NamedTable]:
    tables: list[NamedTable] = []
    at = 0
    for _ in range(_HDUS_TO_TRY):
        hdu = read_hdu(buffer, at)
        if hdu is None:
            break
        if not hdu.complete:
            message = (
                f"ends before the data of HDU {hdu.name or '(no name)'}: found {len(buffer)} "
                f"bytes, expected {hdu.data_start + hdu.data_size}"
            )
            raise BadSpectrumError(Reason.TRUNCATED, message, path)
        if hdu.card("XTENSION") == "BINTABLE":
            tables.append(_of(path, hdu))
        at = hdu.end
    return tables


def _of(path: Path, hdu: Hdu) -> NamedTable:
    raw = RawTable.of(hdu)
    rows = max(1, _BLOCK_BYTES // max(raw.layout.offsets[-1], 1))
    return NamedTable(path, hdu.name, raw.n_rows, tuple(raw.names), rows, raw)


def _by_astropy(path: Path) -> list[NamedTable]:
    size = path.stat().st_size
    if size > _MOST_BY_ASTROPY:
        message = f"its headers are not plain, and it is too large for astropy: {size} bytes"
        raise BadSpectrumError(Reason.UNREADABLE, message, path)
    try:
        hdus = astropy_hdus(load(path), _HDUS_TO_TRY)
    except UnsureError as error:
        message = f"its headers cannot be read: {error}"
        raise BadSpectrumError(Reason.UNREADABLE, message, path) from error
    found = [(hdu.name, hdu.table) for hdu in hdus if hdu.table is not None]
    return [
        NamedTable(path, name, table.n_rows, tuple(table.names), _ASTROPY_ROWS, table)
        for name, table in found
    ]
