"""The bytes of a FITS file: which HDUs it has, and where their headers and data lie.

It exists because reading one small file with a general library costs far more than its bytes
(formats.md §0.9). It takes the plain case only; whatever else it meets raises `UnsureError`, and
the caller hands the file to astropy (`surveys.fits_fallback`).
"""

from __future__ import annotations

import gzip
import math
import mmap
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.reasons import Reason

BLOCK = 2880
CARD = 80
NO_END = "END"
"""What `UnsureError` says of a header without an end."""
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_HEADER = 400 * BLOCK  # the longest header of the real files has 18 blocks
_LEADING = 8 * CARD  # SIMPLE or XTENSION to TFIELDS
_EQUALS = ord("=")
_IMAGES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

Buffer = bytes | mmap.mmap
Array = npt.NDArray[Any]


class UnsureError(Exception):
    """The fast parser met something it does not handle; astropy has to look at it."""


def load(path: Path, *, mapped: bool = False) -> Buffer:
    """Take a file into memory.

    Parameters
    ----------
    path
        A FITS file, gzipped or not (told by its first bytes, not by its name).
    mapped
        Map the file instead of copying it: for plate files and catalogues.

    Returns
    -------
    bytes or mmap.mmap
        The file, unpacked.

    Raises
    ------
    BadSpectrumError
        If it cannot be opened, is empty, is not FITS, or its gzip stream is damaged.
    """
    try:
        with path.open("rb", buffering=0) as file:
            if mapped and os.fstat(file.fileno()).st_size:
                buffer: Buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                buffer = file.readall()
    except OSError as error:
        raise BadSpectrumError(Reason.UNREADABLE, f"cannot be read: {error}", path) from error
    if not len(buffer):
        raise BadSpectrumError(Reason.EMPTY_FILE, "found 0 bytes, expected FITS", path)
    if buffer[:2] == _GZIP_MAGIC:
        buffer = _gunzip(buffer, path)
    if buffer[:9] != b"SIMPLE  =":
        raise BadSpectrumError(Reason.NOT_FITS, _what_it_is(buffer), path)
    return buffer


def _gunzip(buffer: Buffer, path: Path) -> bytes:
    try:
        return gzip.decompress(buffer)
    except (OSError, EOFError, zlib.error) as error:
        message = f"the gzip stream is damaged or cut: {error}"
        raise BadSpectrumError(Reason.TRUNCATED, message, path) from error


def _what_it_is(buffer: Buffer) -> str:
    start = bytes(buffer[:200]).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return "found an HTML or XML page, expected FITS: the download failed, fetch it again"
    return f"begins with {bytes(buffer[:12])!r}, expected b'SIMPLE  ='"


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
        Values of the first cards, where the mandatory ones stand.
    """

    buffer: Buffer
    start: int
    data_start: int
    data_size: int
    header: bytes
    name: str
    leading: dict[str, str]

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
    if start >= len(buffer):
        return None
    stop = _header_end(buffer, start)
    header = bytes(buffer[start:stop])
    if not header.isascii() or header[:9] not in {b"SIMPLE  =", b"XTENSION="}:
        msg = "header"
        raise UnsureError(msg)
    # The primary HDU is found by its place.
    name = (card_value(header, "EXTNAME") or "").upper() if start else ""
    leading = _leading(header)
    return Hdu(buffer, start, stop, _data_size(leading, header), header, name, leading)


def _leading(header: bytes) -> dict[str, str]:
    # From the last to the first, so that the first of a repeated keyword stays.
    cards = [header[at : at + CARD] for at in range(_LEADING - CARD, -CARD, -CARD)]
    return {card[:8].decode().rstrip(): text_of(card[9:]) for card in cards if card[8] == _EQUALS}


def _header_end(buffer: Buffer, start: int) -> int:
    # Only blanks follow END in its block: looking from the end of each block is ten times faster
    # than a search for a card that is mostly blanks in a header that is mostly blanks.
    for at in range(start, min(start + _MAX_HEADER, len(buffer) - BLOCK + 1), BLOCK):
        filled = buffer[at : at + BLOCK].rstrip(b" ")
        if filled.endswith(b"END") and len(filled) % CARD == 3:
            return at + BLOCK
    raise UnsureError(NO_END)


def _data_size(leading: dict[str, str], header: bytes) -> int:
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
    """View an image HDU in the buffer.

    Parameters
    ----------
    hdu
        Its HDU, complete.

    Returns
    -------
    numpy.ndarray
        Big-endian view, shape (NAXIS2, NAXIS1) for two axes.

    Raises
    ------
    UnsureError
        If the image is scaled or incomplete.
    """
    kind = _IMAGES.get(hdu.integer("BITPIX"))
    scaled = hdu.card("BSCALE") is not None or hdu.card("BZERO") is not None
    if kind is None or scaled or not hdu.complete:
        msg = "BITPIX"
        raise UnsureError(msg)
    axes = range(hdu.integer("NAXIS"), 0, -1)
    shape = tuple(hdu.integer(f"NAXIS{axis}") for axis in axes)
    if math.prod(shape) * np.dtype(kind).itemsize != hdu.data_size:
        msg = "NAXIS"
        raise UnsureError(msg)
    return np.ndarray(shape, kind, hdu.buffer, hdu.data_start)
