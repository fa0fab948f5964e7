"""FITS files by astropy: what the fast parser of `fits_table` leaves to it, and its reference."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.fits_bytes import CARD, Array, Buffer, UnsureError
from spectra_scale.surveys.fits_layout import Value, Wanted
from spectra_scale.surveys.fits_table import RawTable

_COUNTS = re.compile(rb"(?:NAXIS   |TFIELDS |GCOUNT  )= *(-?[0-9]{1,20})")
MOST_BY_ASTROPY = 1 << 32
"""Bytes of a table that astropy may read: it takes all of them into memory."""
_MOST = 999  # the standard's limit of axes and columns
_CHECKED = 1 << 22


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
            If astropy cannot convert it, it is of variable length, or two columns have this name.
        """
        if [each.lower() for each in self.data.names].count(name.lower()) > 1:
            msg = f"two columns have the name {name}"
            raise UnsureError(msg)
        with by_astropy():
            values = np.asarray(self.data.field(self.names[name.lower()])[start:stop])
            if values.dtype.kind in "SU":
                return np.char.strip(values.astype(str))
            if values.dtype.kind == "O":
                msg = f"column {name} is of variable length"
                raise UnsureError(msg)
            return values.astype(values.dtype.newbyteorder("="))

    def columns(
        self, names: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, Array]:
        """Several columns of the same rows by the names given.

        Raises
        ------
        UnsureError
            As `column` does.
        """
        return {name: self.column(name, start, stop) for name in names}

    def pick(self, wanted: Wanted) -> dict[str, Value]:
        """Values of row 0, one number as a Python object; what no column holds is left out.

        Raises
        ------
        UnsureError
            As `column` does.
        """
        found: dict[str, Value] = {}
        for name, columns in wanted:
            column = next((each for each in columns if each in self), None)
            if column is None:
                continue
            values = self.column(column, 0, 1)
            if len(values) != 1:
                msg = "no rows"
                raise UnsureError(msg)
            found[name] = values[0] if isinstance(values[0], np.ndarray) else values[0].item()
        return found


class EitherTable:
    """A plain table, of which the columns that are not plain are left to astropy.

    Parameters
    ----------
    raw
        The table.
    index
        Index of its HDU.
    """

    def __init__(self, raw: RawTable, index: int) -> None:
        self.raw, self.index = raw, index
        self._slow: AstropyTable | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.raw.n_rows

    def __contains__(self, name: str) -> bool:
        """Whether there is a column `name`, in any case."""
        return name in self.raw

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows `start` to `stop` of a column, in native byte order; text as stripped str.

        Raises
        ------
        UnsureError
            If astropy cannot convert it either, or it would need too much memory.
        BadSpectrumError
            If the file cannot be read.
        """
        return self.columns((name,), start, stop)[name]

    def columns(
        self, names: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, Array]:
        """Several columns of the same rows by the names given, the rows read once.

        Raises
        ------
        UnsureError, BadSpectrumError
            As `column` does.
        """
        plain = [name for name in names if self.raw.is_plain(name)]
        found = self.raw.columns(plain, start, stop) if plain else {}
        for name in names:
            if name not in found:
                found[name] = self._by_astropy(name).column(name, start, stop)
        return found

    def pick(self, wanted: Wanted) -> dict[str, Value]:
        """Values of row 0: see `fits_table.Table`."""
        return self.raw.pick(wanted)

    def _by_astropy(self, name: str) -> AstropyTable:
        hdu = self.raw.hdu
        if hdu.data_size > MOST_BY_ASTROPY:
            msg = f"column {name} is not plain, and {hdu.data_size} bytes are too many for astropy"
            raise UnsureError(msg)
        if self._slow is None:
            self._slow = astropy_hdus(hdu.buffer, self.index + 1)[self.index].table
        if self._slow is None:
            msg = "no table"
            raise UnsureError(msg)
        return self._slow


@dataclass(frozen=True, slots=True, eq=False)
class AstropyHdu:
    """One HDU as astropy sees it.

    Parameters
    ----------
    name
        EXTNAME in upper case; empty if there is none.
    table
        Its table; None if it has none that can be read.
    image
        Its image, if it was asked for and there is one; None otherwise.
    cards
        Its header.
    """

    name: str
    table: AstropyTable | None
    image: Array | None
    cards: fits.Header

    def card(self, key: str) -> str | None:
        """Value of a card as text; None if absent."""
        with by_astropy():
            found = self.cards.get(key)
            return None if found is None else str(found).strip()


def astropy_hdus(source: Buffer, n: int, images: Collection[int] = ()) -> list[AstropyHdu]:
    """Read the first HDUs of a file by astropy.

    Parameters
    ----------
    source
        The file. Of one that is not in memory, the tables are read as wholes.
    n
        How many at most.
    images
        Indices of HDUs whose image is wanted.

    Returns
    -------
    list of AstropyHdu
        As far as astropy gets.

    Raises
    ------
    UnsureError
        If astropy cannot read the file either; with what it says.
    BadSpectrumError
        If the file cannot be read.
    """
    found = []
    _check_counts(source)
    with (
        by_astropy(),
        fits.open(stream_of(source), memmap=False, lazy_load_hdus=True) as hdus,
    ):
        for index in range(n):
            if index and (not _has(hdus, index) or isinstance(hdus[index], fits.PrimaryHDU)):
                break
            _check_size(hdus[index], len(source))
            found.append(_hdu(hdus[index], image=index in images))
    return found


@contextmanager
def by_astropy() -> Iterator[None]:
    """Where astropy works on files that may be damaged: without its warnings.

    Raises
    ------
    UnsureError
        For whatever astropy raises: it checks little before it converts, and what it meets in
        damaged bytes it may meet anywhere.
    BadSpectrumError
        If the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (BadSpectrumError, UnsureError):
        raise
    except Exception as error:
        msg = f"{type(error).__name__}: {error}"
        raise UnsureError(msg) from error


def stream_of(source: Buffer) -> io.BufferedIOBase:
    """The file as a stream, for astropy."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return io.BufferedReader(_Stream(source))


class _Stream(io.RawIOBase):
    """An open file as a raw stream that is read by position."""

    def __init__(self, source: Buffer) -> None:
        super().__init__()
        self._source, self._at = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._source)}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, out: memoryview) -> int:  # type: ignore[override]  # bytes-like, as given
        found = self._source[self._at : self._at + len(out)]
        out[: len(found)] = found
        self._at += len(found)
        return len(found)


def _check_counts(source: Buffer) -> None:
    """Refuse damaged headers that count billions of axes or columns: astropy would list them."""
    start = source[:_CHECKED]
    for match in _COUNTS.finditer(start):
        if match.start() % CARD == 0 and not 0 <= int(match[1]) <= _MOST:
            msg = match[0].decode()
            raise UnsureError(msg)


def _check_size(hdu: fits.hdu.base.ExtensionHDU, n_bytes: int) -> None:
    """Refuse a damaged header that announces more than the file holds: room would be made."""
    if "NAXIS" not in hdu.header or not 0 <= hdu.size <= min(n_bytes, MOST_BY_ASTROPY):
        msg = f"HDU {hdu.name} needs {hdu.size} bytes, the file has {n_bytes}"
        raise UnsureError(msg)


def _has(hdus: fits.HDUList, index: int) -> bool:
    try:
        hdus[index]
    except IndexError:
        return False
    return True


def _hdu(hdu: fits.hdu.base.ExtensionHDU, *, image: bool) -> AstropyHdu:
    given = hdu.header.get("EXTNAME", "")
    name = given.strip().upper() if isinstance(given, str) else ""
    pixels = None
    # Tiled images are for `fits_unpack`: the code that unpacks them may kill the process.
    plain = hdu.is_image and not isinstance(hdu, fits.CompImageHDU)
    if image and plain and hdu.data is not None:
        pixels = np.asarray(hdu.data).astype(hdu.data.dtype.newbyteorder("="))
    return AstropyHdu(name, _table(hdu), pixels, hdu.header)


def _table(hdu: fits.hdu.base.ExtensionHDU) -> AstropyTable | None:
    if not isinstance(hdu, fits.BinTableHDU | fits.TableHDU) or hdu.data is None:
        return None
    return AstropyTable(hdu.data, {name.lower(): name for name in hdu.columns.names})
