"""A small FITS writer: headers, images and binary tables as bytes.

A mock release may be many thousands of little files with a table of 126 or 236 columns in each:
building `astropy` objects for them takes longer than everything else together. What is written
here is read back with astropy and fitsio in the tests.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.errors import SpectraScaleError

Card = tuple[str, Any, str]

_BLOCK = 2880
_FORMATS = {"E": ">f4", "D": ">f8", "J": ">i4", "I": ">i2", "K": ">i8", "B": "u1", "L": "?"}
_BITPIX = {"f4": -32, "f8": -64, "i4": 32, "u4": 32}
# Bytes of an image that are turned to big-endian at a time.
_PIECE = 1 << 18
Part = bytes | memoryview


@lru_cache(maxsize=8192, typed=True)
def card(key: str, value: Hashable = None, comment: str = "") -> bytes:
    """One 80-character header card; COMMENT and END take no value.

    Cached: most cards of the files of a plate are the same.
    """
    if key in {"COMMENT", "END", ""}:
        text = f"{key:<8}{comment}"
    else:
        text = f"{key:<8}= {_value(value)}"
        if comment:
            text = f"{text} / {comment}"
    return f"{text[:80]:<80}".encode("ascii")


def _value(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return f"{'T' if value else 'F':>20}"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):>20}"
    if isinstance(value, (float, np.floating)):
        text = f"{float(value):.12G}"
        return f"{text if '.' in text or 'E' in text else text + '.':>20}"
    quoted = str(value).replace("'", "''").ljust(8)
    return f"'{quoted}'".ljust(20)


def header(cards: Iterable[Card]) -> bytes:
    """Cards, END and blanks up to a multiple of 2880 bytes."""
    text = b"".join(card(*c) for c in cards) + card("END")
    return text + b" " * (-len(text) % _BLOCK)


def padded(data: bytes) -> bytes:
    """Data with zeros up to a multiple of 2880 bytes."""
    return data + b"\0" * (-len(data) % _BLOCK)


def primary(cards: Sequence[Card] = ()) -> bytes:
    """Encode a primary HDU without data."""
    start: list[Card] = [
        ("SIMPLE", True, "conforms to FITS standard"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 0, "number of array dimensions"),
        ("EXTEND", True, ""),
    ]
    return header([*start, *cards])


def image_header(
    values: NDArray[Any], cards: Sequence[Card] = (), *, extension: str | None = None
) -> bytes:
    """Header of an image HDU; the primary one unless `extension` names it.

    An empty name is an extension without EXTNAME. Unsigned 32-bit integers get a BZERO.
    """
    kind = values.dtype.str[1:]
    first: Card = ("XTENSION", "IMAGE", "Image Extension")
    if extension is None:
        first = ("SIMPLE", True, "conforms to FITS standard")
    axes: list[Card] = [
        (f"NAXIS{i + 1}", size, "") for i, size in enumerate(reversed(values.shape))
    ]
    start: list[Card] = [first, ("BITPIX", _BITPIX[kind], ""), ("NAXIS", values.ndim, ""), *axes]
    if extension is None:
        start.append(("EXTEND", True, ""))
    else:
        start += [("PCOUNT", 0, ""), ("GCOUNT", 1, "")]
    if kind == "u4":
        start += [("BSCALE", 1, ""), ("BZERO", 2**31, "")]
    name: list[Card] = [("EXTNAME", extension, "")] if extension else []
    return header([*start, *cards, *name])


def image(
    values: NDArray[Any], cards: Sequence[Card] = (), *, extension: str | None = None
) -> Iterator[Part]:
    """Encode an image HDU of float32, float64, int32 or uint32, see `image_header`.

    Yields
    ------
    bytes or memoryview
        The header and the data piece by piece: each piece is to be used before the next is asked
        for, since all are made in one small buffer that stays in the processor's cache. A plate
        would take 10 MB an image twice over otherwise. `values` may be a broadcast view.
    """
    yield image_header(values, cards, extension=extension)
    kind = values.dtype.str[1:]
    # A cube is taken plane by plane: reshaping a broadcast one would copy all of it.
    planes = values if values.ndim > 2 else [np.atleast_2d(values)]
    width = values.shape[-1]
    n_rows = max(_PIECE // max(width * values.itemsize, 1), 1)
    buffer = np.empty((n_rows, width), dtype=">i4" if kind == "u4" else f">{kind}")
    for plane in planes:
        for first in range(0, len(plane), n_rows):
            rows = plane[first : first + n_rows]
            piece = buffer[: len(rows)]
            piece[:] = (rows ^ np.uint32(1 << 31)).view(np.int32) if kind == "u4" else rows
            yield piece.reshape(-1).view(np.uint8).data
    yield b"\0" * (-(values.size * values.itemsize) % _BLOCK)


def table_type(columns: str) -> np.dtype[Any]:
    """Record type of a list of ``NAME:TFORM``.

    An unsigned 64-bit integer is written ``K!``, an array of two axes with its TDIM: ``6E(3,2)``.

    Examples
    --------
    >>> table_type("Z:E SN_MEDIAN:5E CLASS:6A").descr
    [('Z', '>f4'), ('SN_MEDIAN', '>f4', (5,)), ('CLASS', '|S6')]
    """
    fields: list[Any] = []
    for column in columns.split():
        name, form = column.split(":")
        found = re.fullmatch(r"(\d*)([A-Z])(!?)(?:\((\d+),(\d+)\))?", form)
        assert found is not None, form
        repeat, letter = int(found[1] or 1), found[2]
        if letter == "A":
            fields.append((name, f"S{repeat}"))
        else:
            # An unsigned integer is stored minus 2**63: the bytes of a big-endian int64.
            kind = ">u8" if found[3] else _FORMATS[letter]
            shape = (int(found[5]), int(found[4])) if found[4] else (repeat,)
            fields.append((name, kind) if repeat == 1 else (name, kind, shape))
    return np.dtype(fields)


def table_cards(kind: np.dtype[Any], n_rows: int) -> list[Card]:
    """Cards that describe a binary table of `n_rows` records of type `kind`."""
    cards: list[Card] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", kind.itemsize, "length of dimension 1"),
        ("NAXIS2", n_rows, "length of dimension 2"),
        ("PCOUNT", 0, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", len(kind.names or ()), "number of table fields"),
    ]
    for i, name in enumerate(kind.names or (), start=1):
        base, shape = kind[name].base, kind[name].shape
        cards += [(f"TTYPE{i}", name, ""), (f"TFORM{i}", _form(base, shape), "")]
        if len(shape) > 1:
            cards.append((f"TDIM{i}", f"( {', '.join(str(n) for n in reversed(shape))})", ""))
        if base == np.dtype(">u8"):
            cards += [(f"TSCAL{i}", 1, ""), (f"TZERO{i}", 2**63, "")]
    return cards


def _form(base: np.dtype[Any], shape: tuple[int, ...]) -> str:
    if base.kind == "S":
        return f"{base.itemsize}A"
    letter = {">f4": "E", ">f8": "D", ">i4": "J", ">i2": "I", ">i8": "K", ">u8": "K", "|u1": "B",
              "|b1": "L"}  # fmt: skip
    return f"{math.prod(shape) if shape else ''}{letter[base.str]}"


def table_header(
    kind: np.dtype[Any],
    n_rows: int,
    name: str = "",
    comment: str = "",
    cards: Sequence[Card] = (),
) -> bytes:
    """Header of a binary table; its rows follow (`table_rows`) and are `padded`.

    Parameters
    ----------
    kind, n_rows
        Its columns and rows.
    name, comment
        EXTNAME and a COMMENT, if not empty.
    cards
        More cards, after those of the columns.
    """
    found = [*table_cards(kind, n_rows), *cards]
    if name:
        found.append(("EXTNAME", name, ""))
    if comment:
        found.append(("COMMENT", None, comment))
    return header(found)


def padded_texts(rows: NDArray[Any]) -> NDArray[Any]:
    """Records whose texts are padded with blanks; the very records where there are no texts."""
    texts = [name for name in rows.dtype.names or () if rows.dtype[name].kind == "S"]
    if not texts:
        return rows
    out = rows.copy()
    for name in texts:
        out[name] = np.char.ljust(out[name], out.dtype[name].itemsize)
    return out


def table_rows(rows: NDArray[Any], *, blanks: bool = True) -> bytes:
    """Bytes of the rows of a table: unsigned integers shifted, logical values as letters.

    Parameters
    ----------
    rows
        Records of a `table_type`.
    blanks
        Whether texts are padded with blanks, as IDL and the archive's C programs do; with NULs
        otherwise, as Python's.
    """
    kinds = {name: rows.dtype[name] for name in rows.dtype.names or ()}
    special = [n for n, kind in kinds.items() if kind.kind == "b" or kind.str == ">u8"]
    out = padded_texts(rows) if blanks else rows
    if not special:
        return out.tobytes()
    out = out.copy()
    for name in special:
        column = out[name]
        if column.dtype.kind == "b":
            column.view(np.uint8)[:] = np.where(column, ord("T"), ord("F"))
        else:
            out[name] = column ^ np.uint64(1 << 63)
    return out.tobytes()


def table(
    rows: NDArray[Any], name: str = "", comment: str = "", cards: Sequence[Card] = ()
) -> bytes:
    """A whole binary table HDU."""
    return table_header(rows.dtype, len(rows), name, comment, cards) + padded(table_rows(rows))


def write_atomically(path: Path, parts: Iterable[Part]) -> int:
    """Write a file under another name, then rename it: a reader never meets half of it.

    Parameters
    ----------
    path
        The file; its folder is made.
    parts
        Its bytes. Little ones are gathered, so that a small file is written at once.

    Returns
    -------
        Its size in bytes.

    Raises
    ------
    SpectraScaleError
        If there is no room on the disk, or another fault of it. Nothing is left of the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb", buffering=_PIECE) as stream:
            for part in parts:
                stream.write(part)
            size = stream.tell()
        temporary.replace(path)
    except OSError as error:
        raise disk_error(error, temporary, path) from error
    return size


def disk_error(error: OSError, temporary: Path, path: Path) -> SpectraScaleError:
    """Remove what was written of a file, and say what is wrong with the disk."""
    # No number: it would be that after the removal, or that of another user's files.
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        what = error.strerror or str(error)
        return SpectraScaleError(f"{path}: {what}. Nothing was left of this file.")
    return SpectraScaleError(
        f"{path}: no space on the disk. What was written before is whole and stays; free some "
        "space and give the same command again, and it goes on from there."
    )
