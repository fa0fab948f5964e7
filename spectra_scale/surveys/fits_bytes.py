"""The bytes of a FITS file: which HDUs it has, and where their headers and data lie.

It exists because reading one small file with a general library costs far more than its bytes
(formats.md §0.9). It takes the plain case only; whatever else it meets raises `UnsureError`, and
the caller hands the file to astropy (`surveys.fits_fallback`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from spectra_scale.surveys.fits_cards import (
    BLOCK,
    CARD,
    EQUALS,
    Cards,
    UnsureError,
    card_value,
    exact_text_of,
    known_at,
    shared_cards,
    text_of,
)
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
    "exact_text_of",
    "image",
    "image_layout",
    "load",
    "read_hdu",
    "read_hdus",
    "text_of",
]

NO_END = "END"
"""What `UnsureError` says of a header without an end."""
PACKED = "packed by fpack"
"""What `UnsureError` says of a table that `fits_unpack` has to unpack."""
_MAX_HEADER = 400 * BLOCK  # the longest header of the real files has 18 blocks
_LEADING = 8 * CARD  # SIMPLE or XTENSION to TFIELDS
IMAGES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_AT_ONCE = 12 * BLOCK  # read of a file at a time while the end of a header is looked for
# They stand among the first eight, but for the higher of many axes.
_MANDATORY = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2")
_SIMPLE = b"SIMPLE  =%21s" % b"T"
_BEGINNINGS = (b"XTENSION=", b"SIMPLE  =")
_NO_DATA = b"NAXIS   =                    0"


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

    def integers(self, *keys: str) -> list[int]:
        """Values of several cards as integers.

        Raises
        ------
        UnsureError
            As `integer` does.
        """
        try:
            return [int(self.leading[key]) for key in keys]
        except (KeyError, ValueError):
            return [self.integer(key) for key in keys]


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
        None at the end of the file, or of the FITS in it: another file may be behind it.

    Raises
    ------
    UnsureError
        If the header has no END, holds other than printable ASCII, or is not plain.
    """
    if start and isinstance(buffer, bytes) and not buffer.startswith(_BEGINNINGS[1], start):
        rest = known_at(buffer, start + _LEADING)
        if rest is not None:
            header = buffer[start : start + _LEADING + len(rest.cards)]
            _check_header(header[:_LEADING])
            return _hdu(buffer, start, header, rest)
    header = _header(buffer, start)
    if not header or (start and header.startswith(_BEGINNINGS[1])):
        return None
    _check_header(header)
    # A primary header is another in every file.
    rest = shared_cards(header[_LEADING:]) if start else Cards(header[_LEADING:])
    return _hdu(buffer, start, header, rest)


def _check_header(header: bytes) -> None:
    if not header.isascii() or not header.startswith((_SIMPLE, b"XTENSION=")):
        msg = "header"
        raise UnsureError(msg)


def _hdu(buffer: Buffer, start: int, header: bytes, rest: Cards) -> Hdu:
    leading: Mapping[str, str] = {}
    if header.startswith(_NO_DATA, 2 * CARD):
        # As of all primary HDUs of spectrum files.
        size, name = 0, "" if start == 0 else rest.made_by(_name)
    else:
        rest.made_by(_check_not_repeated)
        leading, known_size = _leading(header[:_LEADING])
        size = _data_size(leading, header) if known_size is None else known_size
        # The primary HDU is found by its place.
        name = "" if start == 0 else leading.get("EXTNAME", "").upper() or rest.made_by(_name)
    return Hdu(buffer, start, start + len(header), size, header, name, leading, rest)


def _check_not_repeated(header: bytes) -> None:
    """What a mandatory card says twice is indeterminate (FITS standard 4.0, section 4.1.2.1)."""
    for key in _MANDATORY:
        if card_value(header, key) is not None:
            msg = f"a second {key}"
            raise UnsureError(msg)


def _name(header: bytes) -> str:
    return (card_value(header, "EXTNAME", exact_text_of) or "").upper()


@lru_cache(maxsize=1024)
def _leading(first: bytes) -> tuple[dict[str, str], int | None]:
    """Values of the first cards; bytes of data, None where later cards have a say in them."""
    # From the last to the first, so that the first of a repeated keyword stays.
    cards = [first[at : at + CARD] for at in range(_LEADING - CARD, -CARD, -CARD)]
    found = {
        card[:8].decode().rstrip(): exact_text_of(card[9:]) for card in cards if card[8] == EQUALS
    }
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
    if buffer.startswith(_NO_DATA, start + 2 * CARD):
        # Without data, the next header follows at once.
        for at in range(start + BLOCK, stop, BLOCK):
            if buffer.startswith(_BEGINNINGS, at) and _has_end(buffer, at - BLOCK):
                return at
    # Only blanks follow END in its block: looking from the end of each block is ten times faster
    # than a search for a card that is mostly blanks in a header that is mostly blanks.
    for at in range(start, stop - BLOCK + 1, BLOCK):
        if _has_end(buffer, at):
            return at + BLOCK
    return 0


def _has_end(buffer: bytes, at: int) -> bool:
    filled = buffer[at : at + BLOCK].rstrip(b" ")
    return filled.endswith(b"END") and len(filled) % CARD == 3


def _data_size(leading: Mapping[str, str], header: bytes) -> int:
    def number(key: str, default: str | None = None) -> int:
        text = leading.get(key)
        if text is None:
            text = card_value(header, key) or default
        # Two negative axes would have a size; BITPIX of floats alone is below 0.
        digits = (text or "").removeprefix("-" if key == "BITPIX" else "")
        if not digits.isdecimal():
            raise UnsureError(key)
        return int(text or "")

    n_axes = number("NAXIS")
    if not n_axes:
        return 0
    size = 1
    for axis in range(1, n_axes + 1):
        size *= number(f"NAXIS{axis}")
    return abs(number("BITPIX")) // 8 * number("GCOUNT", "1") * (number("PCOUNT", "0") + size)


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
        If the image is scaled or incomplete, or the HDU is none of an image.
    """
    if (hdu.card("XTENSION") or "IMAGE") != "IMAGE":
        msg = "XTENSION"
        raise UnsureError(msg)
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
