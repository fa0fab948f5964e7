"""Plain FITS binary tables, read by column name.

Columns of fixed width without scaling only, but for unsigned integers. Whatever else raises
`UnsureError`, and the caller hands the file to astropy. Results are those of astropy to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from spectra_scale.surveys.fits_bytes import Array, Hdu, UnsureError
from spectra_scale.surveys.fits_files import bytes_of
from spectra_scale.surveys.fits_layout import (
    FORMS,
    UNSIGNED,
    Layout,
    Value,
    Wanted,
    Words,
    layout_of,
)

BLOCK_BYTES = 1 << 25
"""Bytes of rows that are read at once of a table larger than that."""


class Table(Protocol):
    """A table of an HDU, read by name without regard to case."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""

    def __contains__(self, name: str) -> bool: ...

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows `start` to `stop` of a column, in native byte order; text as stripped str."""

    def columns(
        self, names: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, Array]:
        """Several columns of the same rows by the names given, the rows read once."""

    def pick(self, wanted: Wanted) -> dict[str, Value]:
        """Values of row 0, one number as a Python object; what no column holds is left out."""


@dataclass(frozen=True, slots=True, eq=False)
class RawTable:
    """A plain binary table of a file.

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
    # The last rows that were read of a file that is not in memory: start, stop and bytes.
    _last: list[tuple[int, int, bytes]] = field(default_factory=list)

    @classmethod
    def of(cls, hdu: Hdu) -> RawTable:
        """Find the columns of a binary table.

        Raises
        ------
        UnsureError
            If the table is not plain: another extension, a compressed one, widths that do not add
            up, or missing data.
        """
        if not hdu.complete or hdu.card("XTENSION") != "BINTABLE":
            msg = "XTENSION"
            raise UnsureError(msg)
        # The mandatory cards hold the number of rows, the rest is the same in file after file.
        layout = hdu.rest.made_by(layout_of)
        bits, width, n_rows, n_fields = hdu.integers("BITPIX", "NAXIS1", "NAXIS2", "TFIELDS")
        plain = bits == 8 and width == layout.offsets[-1] and n_fields == len(layout.forms)
        if not plain or not 0 <= max(width, 1) * n_rows <= hdu.data_size:
            msg = "NAXIS1"
            raise UnsureError(msg)
        return cls(hdu, n_rows, layout)

    @property
    def names(self) -> list[str]:
        """Lower-case names of the columns."""
        return list(self.layout.names)

    @property
    def block_rows(self) -> int:
        """Rows that are read at once, so that a table of any size needs little memory."""
        return max(1, BLOCK_BYTES // max(self.layout.offsets[-1], 1))

    def __contains__(self, name: str) -> bool:
        """Whether there is a column `name`, in any case."""
        return name.lower() in self.layout.names

    def is_plain(self, name: str) -> bool:
        """Whether `column` can read a column that there is."""
        return self.layout.names[name.lower()] not in self.layout.unusable

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows `start` to `stop` of a column, in native byte order; text as stripped str.

        Raises
        ------
        UnsureError
            If the column is scaled in another way than unsigned integers are, of variable length,
            or one of two of this name.
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
        words = self.layout.words_of(tuple(names))
        numbers = [] if words else [self._usable(name) for name in names]
        stop = self.n_rows if stop is None else min(stop, self.n_rows)
        parts = [
            self._turned(words, n, rows, at) if words else self._parts(numbers, n, rows, at)
            for n, rows, at in self._blocks(start, max(stop, start))
        ]
        if len(parts) > 1:
            parts = [[np.concatenate(same) for same in zip(*parts, strict=True)]]
        return dict(zip(names, parts[0], strict=True))

    def _parts(self, numbers: list[int], n: int, rows: bytes, at: int) -> list[Array]:
        return [self._part(number, n, rows, at) for number in numbers]

    def _turned(self, words: Words, n: int, rows: bytes, at: int) -> list[Array]:
        """Numbers of four bytes side by side, as in every COADD: turned round all at once."""
        place, kinds = words
        width = self.layout.offsets[-1] // 4
        found: Array = np.ndarray((n, width), ">u4", rows, at)
        found = found[:, place : place + len(kinds)].T.astype(np.uint32, order="C")
        return [row.view(kind) for row, kind in zip(found, kinds, strict=True)]

    def _usable(self, name: str) -> int:
        number = self.layout.names.get(name.lower())
        if number is None:
            msg = f"no column {name}"
            raise UnsureError(msg)
        if number in self.layout.unusable:
            raise UnsureError(self.layout.unusable[number])
        return number

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, bytes, int]]:
        """Number of rows, bytes that hold them, and where in these they begin."""
        width = self.layout.offsets[-1]
        buffer, first = self.hdu.buffer, self.hdu.data_start
        if isinstance(buffer, bytes):
            yield stop - start, buffer, first + start * width
            return
        step = self.block_rows
        for at in range(start, max(stop, start + 1), step):
            end = min(at + step, stop)
            for known, until, rows in self._last:
                if known <= at and end <= until:
                    yield end - at, rows, (at - known) * width
                    break
            else:
                rows = bytes_of(buffer, first + at * width, (end - at) * width)
                self._last[:] = [(at, end, rows)]
                yield end - at, rows, 0

    def _part(self, number: int, n: int, rows: bytes, at: int) -> Array:
        repeat, letter, _ = self.layout.forms[number]
        kind, size = FORMS[letter]
        if n == 0 or repeat == 0:
            empty = {"A": "U1", "L": "?"}.get(letter, kind.replace(">", "="))
            # Of no elements a row, text is empty and an array has no second axis to speak of.
            return np.zeros((n,) if repeat == 1 or letter == "A" else (n, repeat), empty)
        at += self.layout.offsets[number]
        row_bytes = self.layout.offsets[-1]
        if letter == "A":
            letters: Array = np.ndarray((n, repeat), np.uint8, rows, at, (row_bytes, 1))
            return _text(np.ndarray((n,), f"S{repeat}", rows, at, (row_bytes,)), letters)
        view: Array = np.ndarray((n, repeat), kind, rows, at, (row_bytes, size))
        view = view[:, 0] if repeat == 1 else view
        if letter == "L":
            return np.asarray(view == b"T")
        native = view.astype(view.dtype.newbyteorder("="))
        if number in self.layout.zeros:
            return _unsigned(native, self.layout.zeros[number])
        return native

    def pick(self, wanted: Wanted) -> dict[str, Value]:
        """Values of row 0, one number as a Python object; what no column holds is left out.

        Parameters
        ----------
        wanted
            Names to give values under, each with the columns it may be in.

        Raises
        ------
        UnsureError, BadSpectrumError
            As `column` does.
        """
        plan = self.layout.plan(wanted)
        _, rows, at = next(self._blocks(0, 1))
        found: dict[str, Value] = {}
        values = plan.packed.unpack_from(rows, at)
        for name, letter, place, count, bias in plan.fields:
            if letter == "A":
                found[name] = _string(values[place])
            elif count == 1:
                found[name] = values[place] + bias if bias else values[place]
            else:
                found[name] = np.array(values[place : place + count], FORMS[letter][0][1:])
        for name, column in plan.single:
            value = self.column(column, 0, 1)[0]
            found[name] = value if isinstance(value, np.ndarray) else value.item()
        return found


def _string(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("latin-1").strip()


def _text(raw: Array, letters: Array) -> Array:
    # A NUL ends a text, whatever stands behind it.
    if ((letters[:, :-1] == 0) & (letters[:, 1:] != 0)).any():
        raw = np.array([each.partition(b"\0")[0] for each in raw.tolist()], raw.dtype)
    try:
        return np.char.strip(raw.astype(f"U{raw.dtype.itemsize}"))
    except UnicodeDecodeError:
        return np.char.strip(np.char.decode(raw, "latin-1"))


def _unsigned(signed: Array, zero: float) -> Array:
    kind, bias = UNSIGNED[signed.dtype.str[1:]]
    # 2^63 stands in a header as an integer or as 9.223…E18: compare as floats, flip the top bit.
    assert zero == float(bias)
    return np.asarray(signed.view(kind) ^ np.array(bias, kind))
