"""Plain FITS binary tables, read by column name from bytes in memory.

Columns of fixed width without scaling only, but for unsigned integers. Whatever else raises
`UnsureError`, and the caller hands the file to astropy. Results are those of astropy to the bit.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spectra_scale.surveys.fits_bytes import Array, Hdu, UnsureError, text_of

_CARDS = np.dtype([("word", "S5"), ("number", "S3"), ("is", "S2"), ("value", "S70")])
_NUMBERS = np.array([f"{number:<3d}" for number in range(1, 1000)], "S3")
_QUOTED = re.compile(r"^\s*'([^'\n]*?)\s*'", re.MULTILINE)
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
class RawTable:
    """A plain binary table in a buffer.

    Parameters
    ----------
    hdu
        The HDU; its data are complete.
    n_rows, row_bytes
        Shape of the table in bytes.
    names
        Lower-case name of a column to its number, from 0.
    layout
        Offset in the row, elements and TFORM letter by number.
    scaled
        TZERO by number, where it is not 0.
    """

    hdu: Hdu
    n_rows: int
    row_bytes: int
    names: dict[str, int]
    layout: list[tuple[int, int, str]]
    scaled: dict[int, float]

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
        n_columns = hdu.integer("TFIELDS")
        cards = np.frombuffer(hdu.header, _CARDS)
        words = cards["word"]
        names = _names(cards[words == b"TTYPE"], n_columns)
        layout = _layout(cards[words == b"TFORM"], n_columns)
        width = layout[-1][0] + _width(layout[-1]) if layout else 0
        if width != hdu.integer("NAXIS1"):
            msg = "NAXIS1"
            raise UnsureError(msg)
        if _floats(cards[words == b"TSCAL"], 1.0):
            msg = "TSCAL"
            raise UnsureError(msg)
        zeros = _floats(cards[words == b"TZERO"], 0.0)
        return cls(hdu, hdu.integer("NAXIS2"), width, names, layout, zeros)

    def __contains__(self, name: str) -> bool:
        """Whether there is a column `name`, in any case."""
        return name.lower() in self.names

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows `start` to `stop` of a column, in native byte order; text as stripped str.

        Raises
        ------
        UnsureError
            If the column is scaled in another way than unsigned integers are.
        """
        number = self.names[name.lower()]
        offset, repeat, letter = self.layout[number]
        stop = self.n_rows if stop is None else min(stop, self.n_rows)
        kind, size = _FORMS[letter]
        if stop <= start or repeat == 0:
            return np.empty(max(stop - start, 0), "U1" if letter == "A" else kind)
        at = self.hdu.data_start + offset + start * self.row_bytes
        buffer = self.hdu.buffer
        if letter == "A":
            text = np.ndarray((stop - start,), f"S{repeat}", buffer, at, (self.row_bytes,))
            return _text(text)
        shape, step = (stop - start, repeat), (self.row_bytes, size)
        view: Array = np.ndarray(shape, kind, buffer, at, step)
        native = (view[:, 0] if repeat == 1 else view).astype(view.dtype.newbyteorder("="))
        return _unsigned(native, self.scaled[number]) if number in self.scaled else native

    def first(self, name: str) -> str | int | float | Array:
        """Value of a column in row 0: what `column(name)[0]` gives, as a Python object.

        Raises
        ------
        UnsureError
            As `column` does.
        """
        number = self.names[name.lower()]
        offset, repeat, letter = self.layout[number]
        at = self.hdu.data_start + offset
        if letter == "A":
            raw = bytes(self.hdu.buffer[at : at + repeat])
            return raw.partition(b"\0")[0].decode("latin-1").strip()
        if repeat != 1 or number in self.scaled or letter == "L":
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


def _check_numbers(found: Array, n: int) -> None:
    # Cards out of order or missing are legal but never seen: astropy sorts them out.
    if n > 999 or len(found) != n or not (found["number"] == _NUMBERS[:n]).all():
        msg = "TFIELDS"
        raise UnsureError(msg)


def _names(found: Array, n: int) -> dict[str, int]:
    _check_numbers(found, n)
    text = b"\n".join(found["value"].tolist()).decode("latin-1").lower()
    names = dict(zip(_QUOTED.findall(text), range(n), strict=False))
    if len(names) != n:
        msg = "TTYPE"
        raise UnsureError(msg)
    return names


def _layout(found: Array, n: int) -> list[tuple[int, int, str]]:
    _check_numbers(found, n)
    known: dict[bytes, tuple[int, str, int]] = {}
    layout = []
    offset = 0
    for raw in found["value"].tolist():
        form = known.get(raw)
        if form is None:
            form = known[raw] = _form(raw)
        layout.append((offset, form[0], form[1]))
        offset += form[2]
    return layout


def _form(raw: bytes) -> tuple[int, str, int]:
    text = text_of(raw)
    letter, count = text[-1:], text[:-1] or "1"
    if letter not in _FORMS or not count.isdecimal():
        raise UnsureError(text)
    return int(count), letter, int(count) * _FORMS[letter][1]


def _width(column: tuple[int, int, str]) -> int:
    return column[1] * _FORMS[column[2]][1]


def _floats(found: Array, plain: float) -> dict[int, float]:
    try:
        values = {int(card["number"]) - 1: float(text_of(card["value"])) for card in found}
    except ValueError:
        msg = "TZERO"
        raise UnsureError(msg) from None
    return {number: value for number, value in values.items() if value != plain}
