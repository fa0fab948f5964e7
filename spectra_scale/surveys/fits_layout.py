"""The columns of plain FITS binary tables, from the cards of their headers."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from spectra_scale.surveys.fits_bytes import (
    CARD,
    PACKED,
    Array,
    UnsureError,
    exact_text_of,
    text_of,
)

_VALUE = 30  # of the 70 characters of a card's value
_NUMBERS = range(1, 1000)
_KEYS = {
    word: np.array([f"{word}{number:<3d}" for number in _NUMBERS], "S8")
    for word in ("TTYPE", "TFORM")
}
FORMS = {
    "L": ("S1", 1), "B": ("u1", 1), "I": (">i2", 2), "J": (">i4", 4), "K": (">i8", 8),
    "A": ("S1", 1), "E": (">f4", 4), "D": (">f8", 8),
}  # fmt: skip
"""TFORM letter to numpy format and bytes of one element."""
_OTHER_FORMS = {"P": 8, "Q": 16, "C": 8, "M": 16}  # of known width, left to astropy
_ONE = dict(zip("BIJKED", "Bhiqfd", strict=True))
_SHORT = 16
UNSIGNED = {"i2": ("u2", 1 << 15), "i4": ("u4", 1 << 31), "i8": ("u8", 1 << 63)}
"""Format of signed integers to that of unsigned ones, and the TZERO that makes them so."""

Value = str | int | float | bool | Array
Wanted = tuple[tuple[str, tuple[str, ...]], ...]
"""Names to read something under, each with the columns it may be in, the first found wins."""

Words = tuple[int, tuple[np.dtype[np.generic], ...]]
"""Place of the first of columns of four bytes in a row, in words, and their types."""


class Field(NamedTuple):
    """One value of a row as `RowPlan.packed` gives it.

    Parameters
    ----------
    name
        The name to give it under.
    letter
        TFORM letter.
    place
        Which of the values that are unpacked; the first of several.
    n
        How many they are; 1 for one number or text.
    bias
        What is added to a signed number that stands for an unsigned one.
    """

    name: str
    letter: str
    place: int
    n: int
    bias: int


@dataclass(frozen=True, slots=True, eq=False)
class RowPlan:
    """How the values of one row are picked: by one format, or column by column."""

    packed: struct.Struct
    fields: tuple[Field, ...]
    single: tuple[tuple[str, str], ...]


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
    zeros
        TZERO by number, where it is not 0.
    unusable
        Why a column is left to astropy, by number.
    plans, words
        What `plan` and `words_of` answered before.
    """

    offsets: list[int]
    names: dict[str, int]
    forms: list[tuple[int, str, int]]
    zeros: dict[int, float]
    unusable: dict[int, str]
    plans: dict[Wanted, RowPlan] = field(default_factory=dict)
    words: dict[tuple[str, ...], Words | None] = field(default_factory=dict)

    def plan(self, wanted: Wanted) -> RowPlan:
        """How to pick the values of one row."""
        if wanted not in self.plans:
            self.plans[wanted] = _plan(self, wanted)
        return self.plans[wanted]

    def words_of(self, names: tuple[str, ...]) -> Words | None:
        """Where columns lie that are single numbers of four bytes side by side, in this order.

        Parameters
        ----------
        names
            Names of columns, in any case.

        Returns
        -------
        tuple or None
            Place of the first, in words, and the types; None if they are otherwise.
        """
        if names not in self.words:
            self.words[names] = self._words_of(
                [self.names.get(name.lower(), -1) for name in names]
            )
        return self.words[names]

    def _words_of(self, numbers: list[int]) -> Words | None:
        first = numbers[0]
        if min(numbers) < 0 or self.offsets[first] % 4 or self.offsets[-1] % 4:
            return None
        for i, number in enumerate(numbers):
            plain = self.forms[number] in {(1, "E", 4), (1, "J", 4)} and number not in self.zeros
            beside = self.offsets[number] == self.offsets[first] + 4 * i
            if not (plain and beside) or number in self.unusable:
                return None
        kinds = [np.dtype(FORMS[self.forms[number][1]][0][1:]) for number in numbers]
        return self.offsets[first] // 4, tuple(kinds)


def _plan(layout: Layout, wanted: Wanted) -> RowPlan:
    chosen = []
    for name, columns in wanted:
        column = next((each.lower() for each in columns if each.lower() in layout.names), None)
        if column is not None:
            chosen.append((layout.names[column], name, column))
    codes, fields, single = "", [], []
    at = place = 0
    for number, name, column in sorted(chosen):
        repeat, letter, size = layout.forms[number]
        offset = layout.offsets[number]
        # Two names may be read from one column: the second is picked by itself.
        if number in layout.unusable or offset < at or not _packs(layout, number):
            single.append((name, column))
            continue
        count = 1 if letter == "A" else repeat
        codes += f"{offset - at}x{repeat}" + ("s" if letter == "A" else _ONE[letter])
        fields.append(Field(name, letter, place, count, int(layout.zeros.get(number, 0))))
        at, place = offset + size, place + count
    return RowPlan(struct.Struct(f">{codes}"), tuple(fields), tuple(single))


def _packs(layout: Layout, number: int) -> bool:
    """Whether a value can be had from a row by one format: numbers, text, and short lists."""
    repeat, letter, _ = layout.forms[number]
    if letter == "A":
        return True
    return letter in _ONE and 1 <= repeat <= (1 if number in layout.zeros else _SHORT)


def layout_of(cards: bytes) -> Layout:
    """Find the columns by the cards that follow the mandatory ones.

    Raises
    ------
    UnsureError
        If the table is compressed, or its columns cannot be told.
    """
    n_columns = len(_places(cards, "TFORM"))
    # A compressed table has the form of its parts, the names of the whole.
    if any(len(_places(cards, word)) for word in ("ZFORM", "ZTABLE", "ZIMAGE")):
        raise UnsureError(PACKED)
    if any(len(_places(cards, word)) for word in ("PCOUNT", "GCOUNT", "TFIELDS")):
        msg = "a second PCOUNT, GCOUNT or TFIELDS, or one not in its place"
        raise UnsureError(msg)
    names, twice = _names(_numbered(cards, "TTYPE", n_columns))
    forms = [_form(raw) for raw in _numbered(cards, "TFORM", n_columns)]
    offsets = [*accumulate([form[2] for form in forms], initial=0)]
    zeros = _floats(cards, "TZERO", 0.0)
    unusable = dict.fromkeys(twice, "two columns have this name")
    for number, (_, letter, _) in enumerate(forms):
        if letter not in FORMS:
            unusable[number] = f"TFORM of type {letter}"
        elif number in zeros and UNSIGNED.get(FORMS[letter][0][1:], ("", 0))[1] != zeros[number]:
            unusable[number] = "TZERO"
    unusable |= dict.fromkeys(_floats(cards, "TSCAL", 1.0), "TSCAL")
    return Layout(offsets, names, forms, zeros, unusable)


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
    for at in (CARD * places).tolist():
        exact_text_of(header[at + 9 : at + CARD])
    values = np.ndarray((n_cards,), f"S{_VALUE}", header, 10, (CARD,))[places]
    return list(values.tolist())


def _names(values: list[bytes]) -> tuple[dict[str, int], list[int]]:
    """Number of each name, and the numbers of names that come again."""
    # A name of over 28 characters leaves its quote open here, and a comment may have a quote.
    parts = b"\n".join(values).decode("latin-1").lower().split("'")
    if len(parts) != 2 * len(values) + 1:
        msg = "TTYPE"
        raise UnsureError(msg)
    names: dict[str, int] = {}
    twice = []
    for number, name in enumerate(map(str.strip, parts[1::2])):
        if names.setdefault(name, number) != number:
            twice.append(names[name])
    return names, twice


def _form(raw: bytes) -> tuple[int, str, int]:
    text = text_of(raw)
    count, letter = _split(text)
    if letter in FORMS and len(count) == len(text) - 1:
        return int(count or 1), letter, int(count or 1) * FORMS[letter][1]
    if letter == "X":
        return int(count or 1), letter, (int(count or 1) + 7) // 8
    if letter in _OTHER_FORMS:
        return int(count or 1), letter, int(count or 1) * _OTHER_FORMS[letter]
    raise UnsureError(text)


def _split(form: str) -> tuple[str, str]:
    """Repeat count and letter of a TFORM such as 5E, A or 1PE(12)."""
    rest = form.lstrip("0123456789")
    return form[: len(form) - len(rest)], rest[:1]


def _floats(header: bytes, word: str, plain: float) -> dict[int, float]:
    cards = [header[CARD * int(at) : CARD * int(at) + CARD] for at in _places(header, word)]
    try:
        values = {int(card[5:8]) - 1: float(text_of(card[10:])) for card in cards}
    except ValueError:
        msg = word
        raise UnsureError(msg) from None
    return {number: value for number, value in values.items() if value != plain}
