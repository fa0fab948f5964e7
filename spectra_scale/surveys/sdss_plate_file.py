"""An spPlate file, opened: where its images lie, its fibres and its wavelengths (formats.md A2).

The order of the HDUs is the contract, since early releases have no EXTNAMEs: 0 flux, 1 ivar, 2
AND_MASK, 5 plug map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.fits_bytes import (
    BLOCK,
    NO_END,
    Array,
    Buffer,
    Hdu,
    UnsureError,
    image_layout,
    load,
    read_hdus,
)
from spectra_scale.surveys.fits_fallback import astropy_hdus
from spectra_scale.surveys.fits_files import OpenFile, OpenGzip, fill
from spectra_scale.surveys.fits_table import RawTable, Table
from spectra_scale.surveys.fits_unpack import unpacked
from spectra_scale.surveys.reasons import Reason

PLUGMAP = 5
"""Index of the HDU with the plug map."""

_STEP = 1e-4

Words = npt.NDArray[np.uint32]
_IMAGES = ("flux", "ivar", "mask")
# The first has no EXTNAME in any release, the others have some in late ones.
_NAMES = ("FLUX", "IVAR", "ANDMASK", "ORMASK", "WAVEDISP", "PLUGMAP", "SKY")


class _Pixels(Protocol):
    """Images of a plate file: see `PlateFile.read_into`."""

    def read_into(self, out: Words, image: int, row: int) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class PlateFile:
    """An open plate file.

    Parameters
    ----------
    images
        Its flux, inverse variance and AND_MASK.
    fiber
        Fibre number of each row, from 1, shape (fibre,).
    first_pixel, n_pixels
        k of the first pixel, and how many there are.
    """

    images: _Pixels
    fiber: npt.NDArray[np.int32]
    first_pixel: int
    n_pixels: int

    def read_into(self, out: Words, image: int, row: int) -> None:
        """Fill an array with the bytes of rows of an image, big-endian as they are in a file.

        Parameters
        ----------
        out
            uint32, contiguous, shape (fibre, pixel).
        image
            0 flux, 1 ivar, 2 AND_MASK.
        row
            First row.

        Raises
        ------
        BadSpectrumError
            If the file cannot be read.
        """
        self.images.read_into(out, image, row)

    def check_unchanged(self) -> None:
        """Raise ``file_changed`` if the file was written to since it was opened."""
        if isinstance(self.images, _InFile) and isinstance(self.images.buffer, OpenFile):
            self.images.buffer.check_unchanged()

    def rows_of(self, fibers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Row of each fibre number; -1 for those that the file lacks, or has twice.

        A flipped bit turns one number into another: which of two rows is the fibre's cannot be
        told.
        """
        numbers = self.fiber.tolist()
        row_of = {number: row for row, number in enumerate(numbers)}
        if len(row_of) < len(numbers):
            row_of = {n: row for n, row in row_of.items() if numbers.count(n) == 1}
        return np.array([row_of.get(number, -1) for number in fibers.tolist()], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _InFile:
    """Plain images, read from where they lie in the file."""

    buffer: Buffer
    starts: tuple[int, ...]

    def read_into(self, out: Words, image: int, row: int) -> None:
        fill(self.buffer, out, self.starts[image] + row * out.shape[1] * out.itemsize)


@dataclass(frozen=True, slots=True, eq=False)
class _InMemory:
    """Images that astropy has read."""

    arrays: tuple[Array, ...]

    def read_into(self, out: Words, image: int, row: int) -> None:
        rows = self.arrays[image][row : row + len(out)]
        out[...] = rows.astype(rows.dtype.newbyteorder(">")).view(np.uint32)


def open_plate(path: Path) -> PlateFile:
    """Open a plate file.

    Parameters
    ----------
    path
        The spPlate file: plain, gzipped or fpacked.

    Returns
    -------
    PlateFile
        No pixels were read yet, unless the file is packed or unusual.

    Raises
    ------
    BadSpectrumError
        If the file cannot be used.
    """
    buffer = load(path, mapped=True)
    if isinstance(buffer, OpenGzip):
        # Rows of three images are read in turn: not for a stream that only runs forwards.
        buffer = buffer.whole()
    try:
        return _of_plain(path, buffer)
    except UnsureError as error:
        unsure = error
    try:
        plain = unpacked(buffer)
        return _by_astropy(path, buffer) if plain is None else _of_plain(path, plain)
    except UnsureError as error:
        message = f"is damaged or no spPlate file ({unsure}; astropy: {error}): fetch it again"
        # A header without END is one that was cut, or whose END was overwritten.
        cut = len(buffer) % BLOCK or str(unsure) == NO_END
        reason = Reason.TRUNCATED if cut else Reason.UNREADABLE
        raise BadSpectrumError(reason, message, path) from error


def _of_plain(path: Path, buffer: Buffer) -> PlateFile:
    hdus = read_hdus(buffer, PLUGMAP + 1)
    if not hdus[0].data_size and len(hdus) > 1:
        msg = "no image in HDU 0"
        raise UnsureError(msg)
    shape = _shape(path, [_layout(path, hdus, index) for index in range(len(_IMAGES))])
    _check_order(path, [(hdu.name, hdu.card("XTENSION") == "BINTABLE") for hdu in hdus])
    numbers = _fibers([_raw_table(hdu) for hdu in hdus[PLUGMAP:]], shape[0])
    starts = tuple(hdu.data_start for hdu in hdus[: len(_IMAGES)])
    return PlateFile(_InFile(buffer, starts), numbers, _first_pixel(path, hdus[0]), shape[1])


def _by_astropy(path: Path, buffer: Buffer) -> PlateFile:
    wanted = range(len(_IMAGES))
    hdus = astropy_hdus(buffer, PLUGMAP + 1, wanted)
    images = [hdu.image for hdu in hdus[: len(_IMAGES)] if hdu.image is not None]
    if len(images) < len(_IMAGES):
        raise _too_few(path, len(images))
    shape = _shape(path, [(image.dtype, image.shape) for image in images])
    _check_order(path, [(hdu.name, hdu.table is not None) for hdu in hdus])
    numbers = _fibers([hdu.table for hdu in hdus[PLUGMAP:]], shape[0])
    first = _first_pixel(path, hdus[0])
    return PlateFile(_InMemory(tuple(images)), numbers, first, shape[1])


def _layout(path: Path, hdus: list[Hdu], index: int) -> tuple[np.dtype[np.void], tuple[int, ...]]:
    if index >= len(hdus):
        raise _too_few(path, len(hdus))
    hdu = hdus[index]
    if not hdu.complete:
        message = (
            f"ends at byte {len(hdu.buffer)}, but {_IMAGES[index]} (HDU {index}) needs "
            f"{hdu.data_start + hdu.data_size}: fetch the file again"
        )
        raise BadSpectrumError(Reason.TRUNCATED, message, path)
    kind, shape = image_layout(hdu)
    return np.dtype(kind), shape


def _too_few(path: Path, n_hdus: int) -> BadSpectrumError:
    message = (
        f"has {n_hdus} HDU, expected {_IMAGES[min(n_hdus, len(_IMAGES) - 1)]} in HDU {n_hdus}: it "
        "is cut or trimmed"
    )
    return BadSpectrumError(Reason.MISSING_HDU, message, path)


def _shape(path: Path, images: Sequence[tuple[np.dtype[Any], tuple[int, ...]]]) -> tuple[int, int]:
    """Number of fibres and pixels; all images must have the same."""
    expected = images[0][1]
    for index, (kind, shape) in enumerate(images):
        name = _IMAGES[index]
        kinds = "iu" if name == "mask" else "f"
        sound = kind.kind in kinds and kind.itemsize == 4 and shape == expected
        if not sound or len(shape) != 2 or not math.prod(shape):
            message = (
                f"HDU {index} is {kind} of shape {shape}, expected {name} of shape "
                f"(fibre, pixel) = {expected} in 4 bytes"
            )
            raise BadSpectrumError(Reason.MISSING_HDU, message, path)
    return expected[0], expected[1]


def _check_order(path: Path, hdus: Sequence[tuple[str, bool]]) -> None:
    """Refuse a file of which an HDU is missing or out of its place: all are known by their place.

    Parameters
    ----------
    path
        The file.
    hdus
        EXTNAME of each, empty in early releases, and whether it is a table.
    """
    for index, (name, is_table) in enumerate(hdus):
        other = name in _NAMES and _NAMES.index(name) != index
        if other or is_table != (index == PLUGMAP):
            what = f"{name or 'without a name'}, {'a table' if is_table else 'an image'}"
            message = (
                f"HDU {index} is {what}, expected {_NAMES[index]}: HDUs are missing or "
                "not in their order, fetch the file again"
            )
            raise BadSpectrumError(Reason.MISSING_HDU, message, path)


class _Header(Protocol):
    def card(self, key: str) -> str | None: ...


def _first_pixel(path: Path, primary: _Header) -> int:
    try:
        start, step = (float(primary.card(key) or "nan") for key in ("COEFF0", "COEFF1"))
    except ValueError:
        start = step = math.nan
    nearest = start / _STEP
    off = not abs(step - _STEP) < 1e-10 or not 3 < start < 5
    if off or abs(nearest - round(nearest)) > 0.1:
        message = (
            f"COEFF0 = {start}, COEFF1 = {step}: expected pixels of 1e-4 dex on its multiples"
        )
        raise BadSpectrumError(Reason.BAD_LOGLAM, message, path)
    return round(nearest)


def _raw_table(hdu: Hdu) -> Table | None:
    plain = hdu.complete and hdu.card("XTENSION") == "BINTABLE"
    return RawTable.of(hdu) if plain else None


def _fibers(plugmap: Sequence[Table | None], n_fibers: int) -> npt.NDArray[np.int32]:
    table = plugmap[0] if plugmap else None
    if table is not None and "FIBERID" in table and table.n_rows == n_fibers:
        return np.asarray(table.column("FIBERID"), np.int32)
    # Row = FIBERID - 1 in all releases.
    return np.arange(1, n_fibers + 1, dtype=np.int32)
