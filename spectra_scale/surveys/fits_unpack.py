"""Files packed by fpack (.fz): tiled images and tiled tables, unpacked into plain FITS.

FITS standard 4.0, section 10. Images are left to astropy; tables, which it does not unpack, are
unpacked here. The result is the file as it was before, so that one reader serves both.
"""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from spectra_scale.surveys.fits_bytes import (
    BLOCK,
    CARD,
    IMAGES,
    Array,
    Buffer,
    Hdu,
    UnsureError,
    read_hdus,
)
from spectra_scale.surveys.fits_layout import FORMS

_HDUS = 64
# Cards that describe the packed form, or that the plain form has at its beginning.
_DROPPED = re.compile(
    rb"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|EXTEND|END|CHECKSUM|DATASUM|THEAP|"
    rb"Z(IMAGE|TABLE|SIMPLE|TENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|EXTEND|BLOCKED|CMPTYPE|TILE\d+|"
    rb"TILELEN|NAME\d+|VAL\d+|MASKCMP|QUANTIZ|DITHER0|BLANK|HECKSUM|DATASUM|CTYP\d+|FORM\d+|THEAP)"
    rb"|TFORM\d+) *"
)
_OF_PACKED_IMAGE = re.compile(rb"(TTYPE|TDIM|TUNIT)\d+ *")
_RICE = {"I": (">i2", 4, 14, 16), "J": (">i4", 5, 25, 32)}
_RICE_BLOCK = 32
_ANY_ZLIB = 47  # zlib or gzip, whichever the first bytes say
_MOST_COLUMNS = _MOST_AXES = 999
_SECONDS = 600  # a plate takes one
_MOST_A_BYTE = 1 << 11  # bytes that one packed byte can become: less is possible of zeros alone


def unpacked(source: Buffer) -> bytes | None:
    """The file as it was before fpack.

    Parameters
    ----------
    source
        The file.

    Returns
    -------
    bytes or None
        A plain FITS file in memory; None if nothing in it is packed.

    Raises
    ------
    UnsureError
        If a header is damaged, or a packed HDU cannot be unpacked.
    BadSpectrumError
        If the file cannot be read.
    """
    hdus = read_hdus(source, _HDUS)
    packed = [hdu.card("ZIMAGE") == "T" or hdu.card("ZTABLE") == "T" for hdu in hdus]
    if not any(packed):
        return None
    for index, hdu in enumerate(hdus):
        if not hdu.complete:
            msg = f"HDU {index} is cut"
            raise UnsureError(msg)
    images = [index for index, hdu in enumerate(hdus) if hdu.card("ZIMAGE") == "T"]
    pixels = dict(zip(images, packed_images(source, hdus, images), strict=True))
    # fpack puts an empty primary HDU before an image that was in the primary HDU itself.
    is_primary = len(hdus) > 1 and packed[1] and hdus[1].card("ZSIMPLE") == "T"
    parts = []
    for index, (hdu, is_packed) in enumerate(zip(hdus, packed, strict=True)):
        if index in pixels:
            parts.append(_image(hdu, pixels[index], is_primary=is_primary and index == 1))
        else:
            parts.append(_table(source, hdu, index) if is_packed else source[hdu.start : hdu.end])
    if is_primary:
        del parts[0]
    return b"".join(parts)


def packed_images(source: Buffer, hdus: Sequence[Hdu], indices: Sequence[int]) -> list[Array]:
    """Pixels of tiled images as they were before they were packed, not scaled.

    Astropy unpacks them by compiled code that trusts its input: damaged tiles have killed the
    process. So it does that in a process of its own.

    Parameters
    ----------
    source
        The file.
    hdus
        Its HDUs, complete.
    indices
        Those that hold tiled images.

    Returns
    -------
    list of numpy.ndarray
        One array an image, of the type and shape that its header announces.

    Raises
    ------
    UnsureError
        If one cannot be unpacked.
    """
    if not indices:
        return []
    expected = [_announced(hdus[index]) for index in indices]
    content = source if isinstance(source, bytes) else source[: hdus[-1].end]
    command = [sys.executable, "-P", str(Path(__file__).with_name("fits_child.py"))]
    command += [str(index) for index in indices]
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"tiled images cannot be unpacked: {error}"
        raise UnsureError(msg) from error
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    stream = io.BytesIO(done.stdout)
    found = []
    for index, (kind, shape) in zip(indices, expected, strict=True):
        try:
            pixels = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            msg = f"HDU {index} cannot be unpacked: {last or done.returncode}"
            raise UnsureError(msg) from error
        if pixels.dtype.newbyteorder("=") != kind.newbyteorder("=") or pixels.shape != shape:
            msg = f"HDU {index} is unpacked to {pixels.dtype} of shape {pixels.shape}"
            raise UnsureError(msg)
        found.append(pixels)
    return found


def _announced(hdu: Hdu) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """Type and shape of a tiled image."""
    kind = IMAGES.get(hdu.integer("ZBITPIX"), "")
    n_axes = hdu.integer("ZNAXIS")
    shape = tuple(hdu.integer(f"ZNAXIS{axis}") for axis in range(min(n_axes, _MOST_AXES), 0, -1))
    fits_in = 0 < math.prod(shape) <= _MOST_A_BYTE * max(hdu.data_size, 1)
    if not kind or not fits_in or min(shape, default=0) < 1:
        msg = f"a tiled image of shape {shape} in {hdu.data_size} bytes"
        raise UnsureError(msg)
    return np.dtype(kind), shape


def _image(hdu: Hdu, pixels: Array, *, is_primary: bool) -> bytes:
    kind, shape = _announced(hdu)
    first = [_card("SIMPLE", "T") if is_primary else b"XTENSION= 'IMAGE   '"]
    first += [_card("BITPIX", hdu.integer("ZBITPIX")), _card("NAXIS", len(shape))]
    first += [_card(f"NAXIS{axis + 1}", size) for axis, size in enumerate(reversed(shape))]
    first += [_card("EXTEND", "T")] if is_primary else [_card("PCOUNT", 0), _card("GCOUNT", 1)]
    kept = [card for card in _kept(hdu) if not _OF_PACKED_IMAGE.fullmatch(card[:8])]
    return _hdu(first + kept, pixels.astype(kind).tobytes())


def _table(source: Buffer, hdu: Hdu, index: int) -> bytes:
    numbers = range(1, min(hdu.integer("TFIELDS"), _MOST_COLUMNS) + 1)
    forms = [hdu.card(f"ZFORM{number}") or "" for number in numbers]
    widths = [_width(form) for form in forms]
    n_rows, width = hdu.integer("ZNAXIS2"), hdu.integer("ZNAXIS1")
    most = _MOST_A_BYTE * hdu.data_size
    if sum(widths) != width or hdu.integer("ZPCOUNT", 0) or not 0 <= n_rows * width <= most:
        msg = f"HDU {index} has {n_rows} rows of {width} bytes or columns of variable length"
        raise UnsureError(msg)
    out = np.zeros((n_rows, width), np.uint8)
    at = 0
    for number, form, size in zip(numbers, forms, widths, strict=True):
        method = hdu.card(f"ZCTYP{number}") or ""
        row = 0
        for tile, n in _tiles(source, hdu, number, n_rows):
            try:
                column = _column(tile, method, form, n)
                out[row : row + n, at : at + size] = column.reshape(n, size)
            except (ValueError, IndexError, EOFError, OSError, zlib.error) as error:
                msg = f"HDU {index}, column {number} cannot be unpacked by {method}: {error}"
                raise UnsureError(msg) from error
            row += n
        at += size
    first = [b"XTENSION= 'BINTABLE'", _card("BITPIX", 8), _card("NAXIS", 2)]
    first += [_card("NAXIS1", width), _card("NAXIS2", n_rows), _card("PCOUNT", 0)]
    first += [_card("GCOUNT", 1), _card("TFIELDS", len(forms))]
    first += [b"%-8b= '%-8b'" % (f"TFORM{n}".encode(), form.encode())
              for n, form in zip(numbers, forms, strict=True)]  # fmt: skip
    return _hdu(first + _kept(hdu), out.tobytes())


def _tiles(source: Buffer, hdu: Hdu, number: int, n_rows: int) -> Iterator[tuple[bytes, int]]:
    """Packed bytes of each tile of a column, and how many rows are in them."""
    wide = ["Q" in (hdu.card(f"TFORM{n}") or "") for n in range(1, number + 1)]
    offset = sum(16 if each else 8 for each in wide[:-1])
    row_bytes, n_tiles = hdu.integer("NAXIS1"), hdu.integer("NAXIS2")
    heap = hdu.data_start + hdu.integer("THEAP", row_bytes * n_tiles)
    rows = source[hdu.data_start : hdu.data_start + row_bytes * n_tiles]
    kind, size = (">i8", 8) if wide[-1] else (">i4", 4)
    if offset + 2 * size > row_bytes:
        msg = f"column {number} lies beyond the row"
        raise UnsureError(msg)
    where = np.ndarray((n_tiles, 2), kind, rows, offset, (row_bytes, size))
    length = hdu.integer("ZTILELEN", n_rows)
    for tile, (n_bytes, at) in enumerate(where.tolist()):
        n = min(length, n_rows - tile * length)
        if n_bytes < 0 or at < 0 or n <= 0:
            msg = f"column {number} has a tile of {n_bytes} bytes at {at}"
            raise UnsureError(msg)
        yield source[heap + at : heap + at + n_bytes], n


def _width(form: str) -> int:
    letter, count = form[-1:], form[:-1] or "1"
    if letter not in FORMS or not count.isdecimal():
        raise UnsureError(form)
    return int(count) * FORMS[letter][1]


def _column(packed: bytes, method: str, form: str, n_rows: int) -> Array:
    """Bytes of the rows of a column, big-endian as in a plain table."""
    letter, size = form[-1:], FORMS[form[-1:]][1]
    n = _width(form) // size * n_rows
    if method == "RICE_1" and letter in _RICE:
        kind = _RICE[letter][0]
        return np.array(_rice(packed, n, *_RICE[letter][1:]), np.int64).astype(kind).view(np.uint8)
    if method not in {"GZIP_1", "GZIP_2"}:
        msg = "an unknown method"
        raise ValueError(msg)
    plain = np.frombuffer(zlib.decompress(packed, _ANY_ZLIB), np.uint8)
    # The second kind has the first bytes of all elements first, then the second bytes.
    return plain.reshape(size, n).T.reshape(-1) if method == "GZIP_2" else plain


def _rice(packed: bytes, n: int, fs_bits: int, fs_most: int, n_bits: int) -> list[int]:
    """Rice coding: the first number as it is, then differences in blocks of 32.

    The low bits of a block's differences stand as they are, the rest of each in unary.
    """
    # As text: each bit is looked at once, whatever the length of the tile.
    bits = (np.unpackbits(np.frombuffer(packed, np.uint8)) + ord("0")).tobytes()
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > len(bits):
            msg = "the tile ends too early"
            raise ValueError(msg)
        return int(bits[at - count : at], 2) if count else 0

    found: list[int] = []
    last = take(n_bits)
    while len(found) < n:
        split = take(fs_bits) - 1
        for _ in range(min(_RICE_BLOCK, n - len(found))):
            coded = 0
            if split == fs_most:
                coded = take(n_bits)
            elif split >= 0:
                ends = bits.index(b"1", at)
                coded, at = ends - at, ends + 1
                coded = coded << split | take(split)
            # Even numbers are differences from zero up, odd ones from -1 down.
            last += -(coded + 1 >> 1) if coded & 1 else coded >> 1
            found.append(last)
    half = 1 << n_bits - 1
    return [(value + half) % (2 * half) - half for value in found]


def _kept(hdu: Hdu) -> list[bytes]:
    cards = [hdu.header[at : at + CARD] for at in range(0, len(hdu.header), CARD)]
    return [
        card
        for card in cards
        if card.strip()
        and not _DROPPED.fullmatch(card[:8])
        and not card.startswith(b"EXTNAME = 'COMPRESSED_IMAGE'")
    ]


def _card(key: str, value: str | int) -> bytes:
    return f"{key:<8}= {value!s:>20}".encode()


def _hdu(cards: list[bytes], data: bytes) -> bytes:
    header = b"".join(card.ljust(CARD) for card in [*cards, b"END"])
    header = header.ljust(-(-len(header) // BLOCK) * BLOCK)
    return header + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")
