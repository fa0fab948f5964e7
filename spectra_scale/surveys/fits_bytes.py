"""The bytes of a FITS file: which HDUs it has, and where their headers and data lie.

It exists because reading one small file with a general library costs far more than its bytes
(formats.md §0.9). It takes the plain case only; whatever else it meets raises `UnsureError`, and
the caller hands the file to astropy (`surveys.fits_fallback`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from spectra_scale.surveys.fits_files import Array, Buffer, fill, load

__all__ = [
    "BLOCK",
    "CARD",
    "IMAGES",
    "NO_END",
    "PACKED",
    "Array",
    "Buffer",
    "Cards",
    "Hdu",
    "UnsureError",
    "Want",
    "card_value",
    "image",
    "image_layout",
    "load",
    "read_hdu",
    "read_hdus",
    "text_of",
]

BLOCK = 2880
CARD = 80
NO_END = "END"
"""What `UnsureError` says of a header without an end."""
PACKED = "packed by fpack"
"""What `UnsureError` says of a table that `fits_unpack` has to unpack."""
_MAX_HEADER = 400 * BLOCK  # the longest header of the real files has 18 blocks
_LEADING = 8 * CARD  # SIMPLE or XTENSION to TFIELDS
_EQUALS = ord("=")
IMAGES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_AT_ONCE = 12 * BLOCK  # read of a file at a time while the end of a header is looked for
_NO_DATA = b"NAXIS   =                    0"
_MOST_KNOWN = 32
_CHECKSUMS = (b"CHECKSUM= ", b"DATASUM = ")

T = TypeVar("T")


class UnsureError(Exception):
    """The fast parser met something it does not handle; astropy has to look at it."""


@dataclass(frozen=True, slots=True)
class Want:
    """An HDU to find: by name, or where names are absent by its place (formats.md A1, A2)."""

    names: tuple[str, ...]
    index: int

    def among(self, names: list[str]) -> int | None:
        """Index of the HDU in a file whose HDUs have these EXTNAMEs (upper case); None if none."""
        for name in self.names:
            if name in names:
                return names.index(name)
        # Early releases have no EXTNAME; an HDU of another name is another HDU.
        return self.index if self.index < len(names) and not names[self.index] else None


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


@dataclass(frozen=True, slots=True, eq=False)
class Hdu:
    """Where one HDU lies in a buffer, and its header.

    Parameters
    ----------
    buffer
        The whole file.
    start, data_start, data_size
        First byte of the header, first byte of the data, bytes of data without padding.
    header
        The bytes of the header.
    name
        EXTNAME in upper case; empty if there is none, as in early releases.
    leading
        Values of the first cards, where the mandatory ones stand; empty if not looked at.
    rest
        The cards after these, as an object that all headers with the very same cards share.
    """

    buffer: Buffer
    start: int
    data_start: int
    data_size: int
    header: bytes
    name: str
    leading: Mapping[str, str]
    rest: Cards

    @property
    def complete(self) -> bool:
        """Whether the file holds all of the data."""
        return self.data_start + self.data_size <= len(self.buffer)

    @property
    def end(self) -> int:
        """First byte of the next HDU."""
        return self.data_start + -(-self.data_size // BLOCK) * BLOCK

    def card(self, key: str) -> str | None:
        """Value of a card as text, without quotes and outer blanks; None if absent."""
        return self.leading.get(key) or card_value(self.header, key)

    def integer(self, key: str, default: int | None = None) -> int:
        """Value of a card as an integer.

        Raises
        ------
        UnsureError
            If the card is absent (and has no default) or is no integer.
        """
        text = self.card(key)
        if text is None and default is not None:
            return default
        try:
            return int(text or "")
        except ValueError:
            raise UnsureError(key) from None


def card_value(header: bytes, key: str) -> str | None:
    """Value of the first card `key` of a header as text; None if there is none."""
    wanted = key.ljust(8).encode()
    # Eight letters are one integer: far faster than a search for text among blanks.
    keys = np.frombuffer(header, "<u8", len(header) // CARD * 10)[::10]
    places = np.flatnonzero(keys == int.from_bytes(wanted, "little"))
    at = CARD * int(places[0]) if len(places) else -1
    return text_of(header[at + 9 : at + CARD]) if at >= 0 and header[at + 8] == _EQUALS else None


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


def read_hdu(buffer: Buffer, start: int) -> Hdu | None:
    """Read the header that begins at byte `start`.

    Parameters
    ----------
    buffer
        The whole file.
    start
        First byte of the header.

    Returns
    -------
    Hdu or None
        None at the end of the file.

    Raises
    ------
    UnsureError
        If the header has no END, holds other than printable ASCII, or is not plain.
    """
    if start and isinstance(buffer, bytes):
        for rest in _known():
            if buffer.startswith(rest.cards, start + _LEADING):
                _known().remove(rest)
                _known().insert(0, rest)
                header = buffer[start : start + _LEADING + len(rest.cards)]
                return _hdu(buffer, start, header, rest)
    header = _header(buffer, start)
    if not header:
        return None
    if not header.isascii() or header[:9] not in {b"SIMPLE  =", b"XTENSION="}:
        msg = "header"
        raise UnsureError(msg)
    return _hdu(buffer, start, header, _shared(header[_LEADING:], keep=start > 0))


def _hdu(buffer: Buffer, start: int, header: bytes, rest: Cards) -> Hdu:
    leading: Mapping[str, str] = {}
    if header.startswith(_NO_DATA, 2 * CARD):
        # As of all primary HDUs of spectrum files.
        size, name = 0, "" if start == 0 else rest.made_by(_name)
    else:
        leading, known_size = _leading(header[:_LEADING])
        size = _data_size(leading, header) if known_size is None else known_size
        # The primary HDU is found by its place.
        name = "" if start == 0 else leading.get("EXTNAME", "").upper() or rest.made_by(_name)
    return Hdu(buffer, start, start + len(header), size, header, name, leading, rest)


@lru_cache(maxsize=1)
def _known() -> list[Cards]:
    """The cards that were met last, the newest first.

    A release has a handful of different tables in millions of files, and comparing bytes is far
    quicker than parsing cards.
    """
    return []


def _shared(cards: bytes, *, keep: bool) -> Cards:
    """The object of these cards: one that is known, or a new one."""
    if not keep:
        return Cards(cards)
    plain = _without_checksums(cards)
    for rest in _known():
        if rest.cards == plain:
            return rest
    rest = Cards(plain)
    _known().insert(0, rest)
    del _known()[_MOST_KNOWN:]
    return rest


def _without_checksums(cards: bytes) -> bytes:
    """Blank the cards that differ from file to file."""
    for key in _CHECKSUMS:
        at = cards.find(key)
        if at >= 0 and at % CARD == 0:
            cards = cards[:at] + b" " * CARD + cards[at + CARD :]
    return cards


def _name(header: bytes) -> str:
    return (card_value(header, "EXTNAME") or "").upper()


@lru_cache(maxsize=1024)
def _leading(first: bytes) -> tuple[dict[str, str], int | None]:
    """Values of the first cards; bytes of data, None where later cards have a say in them."""
    # From the last to the first, so that the first of a repeated keyword stays.
    cards = [first[at : at + CARD] for at in range(_LEADING - CARD, -CARD, -CARD)]
    found = {card[:8].decode().rstrip(): text_of(card[9:]) for card in cards if card[8] == _EQUALS}
    axes = found.get("NAXIS", "")
    if axes == "0":
        return found, 0
    needed = {"PCOUNT", "GCOUNT", *(f"NAXIS{axis}" for axis in (1, 2))}
    if axes == "2" and needed <= found.keys():
        return found, _data_size(found, first)
    return found, None


def _header(buffer: Buffer, start: int) -> bytes:
    """The header at a place, up to the end of its last block; empty at the end of the file."""
    if isinstance(buffer, bytes):
        stop = _header_end(buffer, start, min(start + _MAX_HEADER, len(buffer)))
        if not stop and start < len(buffer):
            raise UnsureError(NO_END)
        return buffer[start:stop]
    header = b""
    while len(header) < _MAX_HEADER:
        more = buffer[start + len(header) : start + len(header) + _AT_ONCE]
        stop = _header_end(more, 0, len(more))
        if stop:
            return header + more[:stop]
        header += more
        if len(more) < _AT_ONCE:
            break
    if header:
        raise UnsureError(NO_END)
    return header


def _header_end(buffer: bytes, start: int, stop: int) -> int:
    """End of the block with the END card; 0 if there is none."""
    # Only blanks follow END in its block: looking from the end of each block is ten times faster
    # than a search for a card that is mostly blanks in a header that is mostly blanks.
    for at in range(start, stop - BLOCK + 1, BLOCK):
        filled = buffer[at : at + BLOCK].rstrip(b" ")
        if filled.endswith(b"END") and len(filled) % CARD == 3:
            return at + BLOCK
    return 0


def _data_size(leading: Mapping[str, str], header: bytes) -> int:
    def number(key: str, default: str | None = None) -> int:
        text = leading.get(key) or card_value(header, key) or default
        if text is None or not text.lstrip("-").isdecimal():
            raise UnsureError(key)
        return int(text)

    n_axes = number("NAXIS")
    if not n_axes:
        return 0
    size = 1
    for axis in range(1, n_axes + 1):
        size *= number(f"NAXIS{axis}")
    size = abs(number("BITPIX")) // 8 * number("GCOUNT", "1") * (number("PCOUNT", "0") + size)
    if size < 0:
        msg = "NAXIS"
        raise UnsureError(msg)
    return size


def read_hdus(buffer: Buffer, n: int) -> list[Hdu]:
    """Read the first `n` headers of a file, or as many as it has.

    Parameters
    ----------
    buffer
        The whole file.
    n
        How many at most.

    Returns
    -------
    list of Hdu
        The last may be incomplete: look at `Hdu.complete`.

    Raises
    ------
    UnsureError
        If a header is damaged.
    """
    hdus: list[Hdu] = []
    at = 0
    while len(hdus) < n:
        hdu = read_hdu(buffer, at)
        if hdu is None:
            break
        hdus.append(hdu)
        at = hdu.end
    return hdus


def image(hdu: Hdu) -> Array:
    """Give an image HDU as it is in the file.

    Parameters
    ----------
    hdu
        Its HDU, complete.

    Returns
    -------
    numpy.ndarray
        Big-endian, shape (NAXIS2, NAXIS1) for two axes: a view of a file in memory, else read.

    Raises
    ------
    UnsureError
        If the image is scaled or incomplete.
    BadSpectrumError
        If the file cannot be read.
    """
    kind, shape = image_layout(hdu)
    if isinstance(hdu.buffer, bytes):
        return np.ndarray(shape, kind, hdu.buffer, hdu.data_start)
    out = np.empty(shape, kind)
    fill(hdu.buffer, out, hdu.data_start)
    return out


def image_layout(hdu: Hdu) -> tuple[str, tuple[int, ...]]:
    """Type of the pixels of an image HDU as it is in the file, and its shape.

    Raises
    ------
    UnsureError
        If the image is scaled or incomplete.
    """
    kind = IMAGES.get(hdu.integer("BITPIX"))
    scaled = hdu.card("BSCALE") is not None or hdu.card("BZERO") is not None
    if kind is None or scaled or not hdu.complete:
        msg = "BITPIX"
        raise UnsureError(msg)
    axes = range(hdu.integer("NAXIS"), 0, -1)
    shape = tuple(hdu.integer(f"NAXIS{axis}") for axis in axes)
    if math.prod(shape) * np.dtype(kind).itemsize != hdu.data_size:
        msg = "NAXIS"
        raise UnsureError(msg)
    return kind, shape
