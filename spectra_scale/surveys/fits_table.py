"""Plain FITS binary tables, read by column name from bytes in memory.

Columns of fixed width without scaling only, but for unsigned integers. Whatever else raises
`UnsureError`, and the caller hands the file to astropy. Results are those of astropy to the bit.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

import numpy as np

from spectra_scale.surveys.fits_bytes import CARD, Array, Hdu, UnsureError, text_of

_MANDATORY = 8 * CARD  # XTENSION to TFIELDS, in this order by the standard
_VALUE = 30  # of the 70 characters of a card's value
_NUMBERS = range(1, 1000)
_KEYS = {
    word: np.array([f"{word}{number:<3d}" for number in _NUMBERS], "S8")
    for word in ("TTYPE", "TFORM")
}
# TFORM letter -> numpy format and bytes of one element.
_FORMS = {
    "L": ("S1", 1), "B": ("u1", 1), "I": (">i2", 2), "J": (">i4", 4), "K": (">i8", 8),
    "A": ("S1", 1), "E": (">f4", 4), "D": (">f8", 8),
}  # fmt: skip
_ONE = {letter: struct.Struct(f">{code}") for letter, code in zip("BIJKED", "Bhiqfd", strict=True)}
_UNSIGNED = {"i2": ("u2", 1 << 15), "i4": ("u4", 1 << 31), "i8": ("u8", 1 << 63)}


class Table(Protocol):
    """A table of an HDU, read by name without regard to case."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""

    def __contains__(self, name: str) -> bool: ...

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows `start` to `stop` of a column, in native byte order; text as stripped str."""

    def first(self, name: str) -> str | int | float | Array:
        """Value of a column in row 0, as a Python object where it is one number."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The columns of a plain binary table.

    Parameters
    ----------
    offsets
        First byte of each column in a row, and the bytes of a row.
    names
        Lower-case name of a column to its number, from 0.
    forms
        Elements, TFORM letter and bytes of each column.
    scaled
        TZERO by number, where it is not 0.
    """

    offsets: list[int]
    names: dict[str, int]
    forms: list[tuple[int, str, int]]
    scaled: dict[int, float]


@dataclass(frozen=True, slots=True, eq=False)
class RawTable:
    """A plain binary table in a buffer.

    Parameters
    ----------
    hdu
        The HDU; its data are complete.
    n_rows
        Number of rows.
    layout
        Its columns.
    """

    hdu: Hdu
    n_rows: int
    layout: Layout

    @classmethod
    def of(cls, hdu: Hdu) -> RawTable:
        """Find the columns of a binary table.

        Raises
        ------
        UnsureError
            If the table is not plain: another extension, variable-length columns, scaled columns,
            widths that do not add up, two columns of one name, or missing data.
        """
        if hdu.card("XTENSION") != "BINTABLE" or hdu.integer("BITPIX") != 8 or not hdu.complete:
            msg = "XTENSION"
            raise UnsureError(msg)
        # The mandatory cards hold the number of rows, the rest is the same in file after file.
        layout = _layout(hdu.header[_MANDATORY:], hdu.integer("TFIELDS"))
        width, n_rows = layout.offsets[-1], hdu.integer("NAXIS2")
        if width != hdu.integer("NAXIS1") or not 0 <= max(width, 1) * n_rows <= hdu.data_size:
            msg = "NAXIS1"
            raise UnsureError(msg)
        return cls(hdu, n_rows, layout)

    @property
    def names(self) -> list[str]:
        """Lower-case names of the columns."""
        return list(self.layout.names)

    def __contains__(self, name: str) -> bool:
        """Whether there is a column `name`, in any case."""
        return name.lower() in self.layout.names

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows `start` to `stop` of a column, in native byte order; text as stripped str.

        Raises
        ------
        UnsureError
            If the column is scaled in another way than unsigned integers are.
        """
        number = self.layout.names[name.lower()]
        repeat, letter, _ = self.layout.forms[number]
        row_bytes = self.layout.offsets[-1]
        stop = self.n_rows if stop is None else min(stop, self.n_rows)
        kind, size = _FORMS[letter]
        if stop <= start or repeat == 0:
            return np.empty(
                max(stop - start, 0), "U1" if letter in "AL" else kind.replace(">", "=")
            )
        at = self.hdu.data_start + self.layout.offsets[number] + start * row_bytes
        buffer = self.hdu.buffer
        if letter == "A":
            text = np.ndarray((stop - start,), f"S{repeat}", buffer, at, (row_bytes,))
            return _text(text)
        shape, step = (stop - start, repeat), (row_bytes, size)
        view: Array = np.ndarray(shape, kind, buffer, at, step)
        native = (view[:, 0] if repeat == 1 else view).astype(view.dtype.newbyteorder("="))
        return (
            _unsigned(native, self.layout.scaled[number])
            if number in self.layout.scaled
            else native
        )

    def first(self, name: str) -> str | int | float | Array:
        """Value of a column in row 0: what `column(name)[0]` gives, as a Python object.

        Raises
        ------
        UnsureError
            As `column` does.
        """
        number = self.layout.names[name.lower()]
        repeat, letter, _ = self.layout.forms[number]
        at = self.hdu.data_start + self.layout.offsets[number]
        if letter == "A":
            raw = bytes(self.hdu.buffer[at : at + repeat])
            return raw.partition(b"\0")[0].decode("latin-1").strip()
        if repeat != 1 or number in self.layout.scaled or letter == "L":
            value = self.column(name, 0, 1)[0]
            return value if isinstance(value, np.ndarray) else value.item()
        found: int | float = _ONE[letter].unpack_from(self.hdu.buffer, at)[0]
        return found


def _text(raw: Array) -> Array:
    try:
        return np.char.strip(raw.astype(f"U{raw.dtype.itemsize}"))
    except UnicodeDecodeError:
        return np.char.strip(np.char.decode(raw, "latin-1"))


def _unsigned(signed: Array, zero: float) -> Array:
    kind, bias = _UNSIGNED.get(signed.dtype.str[1:], ("", 0))
    # 2^63 stands in a header as an integer or as 9.223…E18: compare as floats, flip the top bit.
    if zero != float(bias) or not bias:
        msg = "TZERO"
        raise UnsureError(msg)
    return np.asarray(signed.view(kind) ^ np.array(bias, kind))


@lru_cache(maxsize=64)
def _layout(cards: bytes, n_columns: int) -> Layout:
    """Columns by the cards that follow the mandatory ones.

    Remembered by the cards themselves: a release has a handful of different tables.
    """
    names = _names(_numbered(cards, "TTYPE", n_columns))
    forms = [_form(raw) for raw in _numbered(cards, "TFORM", n_columns)]
    offsets = [*accumulate([form[2] for form in forms], initial=0)]
    if _floats(cards, "TSCAL", 1.0):
        msg = "TSCAL"
        raise UnsureError(msg)
    return Layout(offsets, names, forms, _floats(cards, "TZERO", 0.0))


def _places(header: bytes, word: str) -> Array:
    """Cards whose keyword begins with the first four letters of `word`, as card numbers."""
    tags = np.frombuffer(header, "S4", len(header) // CARD * (CARD // 4))[:: CARD // 4]
    return np.flatnonzero(tags.view("<u4") == int.from_bytes(word[:4].encode(), "little"))


def _numbered(header: bytes, word: str, n: int) -> list[bytes]:
    places = _places(header, word)
    n_cards = len(header) // CARD
    words = np.ndarray((n_cards,), "S8", header, 0, (CARD,))[places]
    # Cards out of order or missing are legal but never seen: astropy sorts them out.
    if n > len(_NUMBERS) or len(places) != n or not (words == _KEYS[word][:n]).all():
        msg = "TFIELDS"
        raise UnsureError(msg)
    values = np.ndarray((n_cards,), f"S{_VALUE}", header, 10, (CARD,))[places]
    return list(values.tolist())


def _names(values: list[bytes]) -> dict[str, int]:
    # A name of over 28 characters leaves its quote open here, and a comment may have a quote.
    parts = b"\n".join(values).decode("latin-1").lower().split("'")
    names = dict(zip(map(str.strip, parts[1::2]), range(len(values)), strict=False))
    if len(parts) != 2 * len(values) + 1 or len(names) != len(values):
        msg = "TTYPE"
        raise UnsureError(msg)
    return names


def _form(raw: bytes) -> tuple[int, str, int]:
    text = text_of(raw)
    letter, count = text[-1:], text[:-1] or "1"
    if letter not in _FORMS or not count.isdecimal():
        raise UnsureError(text)
    return int(count), letter, int(count) * _FORMS[letter][1]


def _floats(header: bytes, word: str, plain: float) -> dict[int, float]:
    cards = [header[CARD * int(at) : CARD * int(at) + CARD] for at in _places(header, word)]
    try:
        values = {int(card[5:8]) - 1: float(text_of(card[10:])) for card in cards}
    except ValueError:
        msg = word
        raise UnsureError(msg) from None
    return {number: value for number, value in values.items() if value != plain}
