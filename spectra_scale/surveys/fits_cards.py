"""Cards of FITS headers: their values, and what was made of cards that were met before."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

BLOCK = 2880
CARD = 80
EQUALS = ord("=")

_MOST_KNOWN = 32
_IN_FRONT = 4
# Text in quotes or one word, and a comment behind a slash.
_VALUE = re.compile(rb" *(?:'(?:[ -&(-~]|'')*'|[!-&(-.0-~]*)(?: *| */.*)", re.DOTALL)
_CHECKSUMS = (b"CHECKSUM= ", b"DATASUM = ")

T = TypeVar("T")


class UnsureError(Exception):
    """The fast parser met something it does not handle; astropy has to look at it."""


@dataclass(frozen=True, slots=True, eq=False)
class Cards:
    """Cards of a header, checksums blanked, and what was made of them.

    Parameters
    ----------
    cards
        The bytes, up to the end of the header.
    made
        Results by the function that made them: see `made_by`.
    """

    cards: bytes
    made: dict[Callable[[bytes], Any], Any] = field(default_factory=dict)

    def made_by(self, parse: Callable[[bytes], T]) -> T:
        """What a function makes of the cards, from memory if it was asked for before."""
        if parse not in self.made:
            self.made[parse] = parse(self.cards)
        return self.made[parse]  # type: ignore[no-any-return]


def text_of(raw: bytes) -> str:
    """Value part of a card as text, without its quotes, outer blanks and comment."""
    text = raw.decode("latin-1").strip()
    if not text.startswith("'"):
        return text.partition("/")[0].strip()
    # A quote inside a string is doubled.
    end = text.find("'", 1)
    while end > 0 and text[end + 1 : end + 2] == "'":
        end = text.find("'", end + 2)
    return text[1 : end if end > 0 else None].replace("''", "'").strip()


def card_value(header: bytes, key: str, parse: Callable[[bytes], str] = text_of) -> str | None:
    """Value of the first card `key` of a header as text; None if there is none."""
    wanted = key.ljust(8).encode()
    # Eight letters are one integer: far faster than a search for text among blanks.
    keys = np.frombuffer(header, "<u8", len(header) // CARD * 10)[::10]
    places = np.flatnonzero(keys == int.from_bytes(wanted, "little"))
    at = CARD * int(places[0]) if len(places) else -1
    return parse(header[at + 9 : at + CARD]) if at >= 0 and header[at + 8] == EQUALS else None


def exact_text_of(raw: bytes) -> str:
    """Value part of a card as `text_of` gives it, for cards on which the data depend.

    Raises
    ------
    UnsureError
        If it is no value and comment as the standard has them: the card is damaged.
    """
    if not _VALUE.fullmatch(raw):
        msg = f"a card of value {raw.decode('latin-1').strip()!r}"
        raise UnsureError(msg)
    return text_of(raw)


@lru_cache(maxsize=1)
def _met() -> list[tuple[Cards, ...]]:
    """One tuple of the cards that were met last, the newest first.

    It is replaced as a whole: several threads may look, and what one of them adds may be lost.
    """
    return [()]


def known_at(buffer: bytes, at: int) -> Cards | None:
    """The cards that stand at a place of a file, if the very same were met before.

    A release has a handful of different tables in millions of files, and comparing bytes is far
    quicker than parsing cards.

    Parameters
    ----------
    buffer
        The file.
    at
        Where they begin.

    Returns
    -------
    Cards or None
        Up to the end of the header; None if they are not known.
    """
    for cards in _met()[0]:
        if buffer.startswith(cards.cards, at):
            _move_up(cards)
            return cards
    return None


def shared_cards(cards: bytes) -> Cards:
    """The object of these cards: one that is known, or a new one."""
    plain = _without_checksums(cards)
    if not plain.strip():
        # END is in front: by these cards alone a header that lacks it would be known.
        return Cards(plain)
    found = next((each for each in _met()[0] if each.cards == plain), None) or Cards(plain)
    _move_up(found)
    return found


def _move_up(found: Cards) -> None:
    met = _met()
    before = met[0]
    if found not in before[:_IN_FRONT]:
        met[0] = (found, *(each for each in before if each is not found))[:_MOST_KNOWN]


def _without_checksums(cards: bytes) -> bytes:
    """Blank the cards that differ from file to file."""
    for key in _CHECKSUMS:
        at = cards.find(key)
        if at >= 0 and at % CARD == 0:
            cards = cards[:at] + b" " * CARD + cards[at + CARD :]
    return cards
