"""FITS files by astropy: what the fast parser of `fits_table` leaves to it, and its reference."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError

from spectra_scale.surveys.fits_bytes import CARD, Array, Buffer, UnsureError

_COUNTS = re.compile(rb"(?:NAXIS   |TFIELDS |GCOUNT  )= *([0-9]{1,20})")
_MOST = 999  # the standard's limit of axes and columns
_CHECKED = 1 << 22
# What astropy raises on damaged headers and data: it checks little before it converts.
_ASTROPY_ERRORS = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError,
    MemoryError, AssertionError, NotImplementedError, RecursionError, VerifyError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class AstropyTable:
    """A table of any kind that astropy reads, with the interface of `fits_table.Table`.

    Parameters
    ----------
    data
        The table.
    names
        Lower-case name of a column to its name.
    """

    data: fits.FITS_rec
    names: dict[str, str]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.data)

    def __contains__(self, name: str) -> bool:
        """Whether there is a column `name`, in any case."""
        return name.lower() in self.names

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows `start` to `stop` of a column, in native byte order; text as stripped str.

        Raises
        ------
        UnsureError
            If astropy cannot convert it.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = np.asarray(self.data.field(self.names[name.lower()])[start:stop])
            if values.dtype.kind in "SU":
                return np.char.strip(values.astype(str))
            return values.astype(values.dtype.newbyteorder("="))
        except _ASTROPY_ERRORS as error:
            raise UnsureError(str(error)) from error

    def first(self, name: str) -> str | int | float | Array:
        """Value of a column in row 0, as a Python object where it is one number.

        Raises
        ------
        UnsureError
            If astropy cannot convert it.
        """
        values = self.column(name, 0, 1)
        if len(values) != 1:
            msg = "no rows"
            raise UnsureError(msg)
        value = values[0]
        return value if isinstance(value, np.ndarray) else value.item()


@dataclass(frozen=True, slots=True, eq=False)
class AstropyHdu:
    """One HDU as astropy sees it.

    Parameters
    ----------
    name
        EXTNAME in upper case; empty if there is none.
    table
        Its table; None if it has none that can be read.
    """

    name: str
    table: AstropyTable | None


def astropy_hdus(source: Buffer | Path, n: int) -> list[AstropyHdu]:
    """Read the first HDUs of a file by astropy.

    Parameters
    ----------
    source
        The whole file in memory, or its path: then the data are mapped, not copied.
    n
        How many at most.

    Returns
    -------
    list of AstropyHdu
        As far as astropy gets.

    Raises
    ------
    UnsureError
        If astropy cannot read the file either; with what it says.
    """
    found = []
    try:
        _check_counts(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapped = isinstance(source, Path)
            stream = source if isinstance(source, Path) else io.BytesIO(source[:])
            with fits.open(stream, memmap=mapped, lazy_load_hdus=True) as hdus:
                for index in range(n):
                    if index and not _has(hdus, index):
                        break
                    found.append(AstropyHdu(_name(hdus[index]), _table(hdus[index])))
    except _ASTROPY_ERRORS as error:
        msg = f"{type(error).__name__}: {error}"
        raise UnsureError(msg) from error
    return found


def _check_counts(source: Buffer | Path) -> None:
    """Refuse damaged headers that count billions of axes or columns: astropy would list them."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            start = file.read(_CHECKED)
    else:
        start = bytes(source[:_CHECKED])
    for match in _COUNTS.finditer(start):
        if match.start() % CARD == 0 and int(match[1]) > _MOST:
            msg = match[0].decode()
            raise UnsureError(msg)


def _has(hdus: fits.HDUList, index: int) -> bool:
    try:
        hdus[index]
    except IndexError:
        return False
    return True


def _name(hdu: object) -> str:
    header = hdu.header  # type: ignore[attr-defined]  # astropy has no types
    return str(header.get("EXTNAME", "")).strip().upper()


def _table(hdu: object) -> AstropyTable | None:
    if not isinstance(hdu, fits.BinTableHDU | fits.TableHDU) or hdu.data is None:
        return None
    return AstropyTable(hdu.data, {name.lower(): name for name in hdu.columns.names})
