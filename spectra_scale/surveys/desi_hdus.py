"""The HDUs of a DESI file: found by walking its headers alone, read by position.

Four fifths of a coadd are RESOLUTION matrices (formats.md §0.10), so headers are read block by
block and data only where they are wanted. Plain images and tables are read from their bytes;
compressed or scaled ones are left to astropy, HDU by HDU.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.fits_bytes import (
    BLOCK,
    CARD,
    Array,
    Buffer,
    Hdu,
    UnsureError,
    image_layout,
    read_hdu,
)
from spectra_scale.surveys.fits_fallback import AstropyTable, by_astropy
from spectra_scale.surveys.fits_files import OpenFile, bytes_of, fill, load
from spectra_scale.surveys.fits_table import RawTable, Table
from spectra_scale.surveys.fits_unpack import unpacked
from spectra_scale.surveys.reasons import Reason

_MAGIC = b"SIMPLE  ="
_MAX_HEADER = 4000 * BLOCK  # a coadd of hundreds of exposures names each of them in its header
_MAX_HDUS = 200
_MOST = 999  # the standard's limit of axes and columns
_UNREAD = "_RESOLUTION"
_PRIMARY = b"".join(
    card.ljust(CARD) for card in (b"SIMPLE  =%21s" % b"T", b"BITPIX  =%21s" % b"8",
                                  b"NAXIS   =%21s" % b"0", b"END")
).ljust(BLOCK)  # fmt: skip
"""An empty primary HDU, to put before another."""


class ScatteredFile(OpenFile):
    """A file of which a range is read into several places at once."""

    def scatter(self, parts: Sequence[memoryview], start: int, n_bytes: int) -> None:
        """Fill `parts`, one after the other, with the `n_bytes` bytes from `start` on.

        Raises
        ------
        BadSpectrumError
            ``unreadable`` for a read error, ``file_changed`` if the file was cut meanwhile.
        """
        try:
            found = os.preadv(self._fd, parts, start)
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            raise BadSpectrumError(Reason.UNREADABLE, message, self.path) from error
        if found < n_bytes:
            # A network file system may give less than was asked for; so does a cut or bad file.
            rest = memoryview(self[start + found : start + n_bytes])
            if len(rest) < n_bytes - found:
                message = "became shorter while it was read: ingest it again when it is complete"
                raise BadSpectrumError(Reason.FILE_CHANGED, message, self.path)
            for part in parts:
                held = min(found, len(part))
                part[held:] = rest[: len(part) - held]
                rest, found = rest[len(part) - held :], found - held


@dataclass(frozen=True, slots=True, eq=False)
class DesiFile:
    """An open FITS file whose headers were walked.

    Parameters
    ----------
    path
        The file.
    buffer
        Its bytes, unpacked.
    hdus
        Its HDUs in order, each with its name in upper case; the last may be incomplete.
    """

    path: Path
    buffer: Buffer
    hdus: list[Hdu]

    def find(self, *names: str) -> Hdu | None:
        """The first HDU of one of these names (upper case), in the order of the names."""
        for name in names:
            for hdu in self.hdus[1:]:
                if hdu.name == name:
                    return hdu
        return None

    @property
    def is_cut(self) -> bool:
        """Whether the file ends within an HDU."""
        return not self.hdus[-1].complete

    def table(self, hdu: Hdu) -> Table:
        """Read a table HDU into memory.

        Raises
        ------
        BadSpectrumError
            If it is no table, cut or damaged.
        """
        self._check_complete(hdu)
        try:
            data = bytes_of(self.buffer, hdu.data_start, hdu.data_size)
            return RawTable.of(replace(hdu, buffer=data, start=0, data_start=0))
        except UnsureError:
            found = self._by_astropy(hdu)
        if not isinstance(found, fits.FITS_rec):
            raise self._damaged(hdu, "is no table")
        return AstropyTable(found, {name.lower(): name for name in found.names})

    def image(self, hdu: Hdu) -> Array:
        """Read a whole image HDU, in native byte order.

        Raises
        ------
        BadSpectrumError
            If it is no image, cut or damaged.
        """
        self._check_complete(hdu)
        try:
            kind, shape = image_layout(hdu)
        except UnsureError:
            found = self._by_astropy(hdu)
            if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
                raise self._damaged(hdu, "is no image") from None
            return np.asarray(found.astype(found.dtype.newbyteorder("=")))
        out = np.empty(shape, kind)
        fill(self.buffer, out, hdu.data_start)
        return np.asarray(out.astype(out.dtype.newbyteorder("=")))

    def raw(self, hdu: Hdu) -> npt.NDArray[np.uint8]:
        """The bytes of an HDU's data, shape (byte,)."""
        out = np.empty(hdu.data_size, np.uint8)
        fill(self.buffer, out, hdu.data_start)
        return out

    def card(self, *keys: str, hdus: Sequence[Hdu | None] = ()) -> str:
        """The first value there is of some cards, in the primary header or some others."""
        for hdu in (self.hdus[0], *hdus):
            for key in keys:
                value = None if hdu is None else hdu.card(key)
                if value:
                    return value.strip()
        return ""

    def _check_complete(self, hdu: Hdu) -> None:
        if not hdu.complete:
            message = (
                f"ends at byte {len(self.buffer)}, but {hdu.name} needs "
                f"{hdu.data_start + hdu.data_size}: fetch the file again"
            )
            raise BadSpectrumError(Reason.TRUNCATED, message, self.path)

    def _damaged(self, hdu: Hdu, what: object) -> BadSpectrumError:
        message = f"{hdu.name} {what}: fetch the file again"
        return BadSpectrumError(Reason.UNREADABLE, message, self.path)

    def _by_astropy(self, hdu: Hdu) -> object:
        """What astropy finds in one HDU: it is given that HDU alone."""
        try:
            _check_counts(hdu)
            stream = io.BytesIO(_PRIMARY + _whole(hdu))
            with by_astropy(), fits.open(stream, memmap=False) as hdus:
                return hdus[-1].data
        except UnsureError as error:
            raise self._damaged(hdu, f"cannot be read ({error})") from error


@contextmanager
def open_desi(path: Path, n_hdus: int = _MAX_HDUS) -> Iterator[DesiFile]:
    """Open a FITS file and walk its headers; no data are read.

    Parameters
    ----------
    path
        The file, gzipped or not; fpacked is like others here.
    n_hdus
        HDUs to look at, from the first.

    Yields
    ------
    DesiFile
        The file, unpacked; closed at the end, after a check that nobody wrote to it meanwhile.

    Raises
    ------
    BadSpectrumError
        If it cannot be opened, is empty, is not FITS, or its headers are damaged.
    """
    file = ScatteredFile(path)
    buffer: Buffer = file
    try:
        if file[: len(_MAGIC)] != _MAGIC:
            # It is gzipped, or no FITS: which of them, and why, is known there.
            buffer = load(path)
        hdus = _walk(path, buffer, n_hdus)
        if any(hdu.card("ZTABLE") or hdu.card("ZIMAGE") for hdu in hdus[1:]):
            buffer = _unpacked(path, hdus)
            hdus = _walk(path, buffer, n_hdus)
        yield DesiFile(path, buffer, hdus)
        file.check_unchanged()
    finally:
        file.close()
        if isinstance(buffer, OpenFile):
            buffer.close()


def _unpacked(path: Path, hdus: Sequence[Hdu]) -> bytes:
    """What fpack packed, tables and images, and what is beside it: all but RESOLUTION."""
    if not hdus[-1].complete:
        message = f"is packed by fpack and ends within {hdus[-1].name}: fetch the file again"
        raise BadSpectrumError(Reason.TRUNCATED, message, path)
    wanted = [hdu for hdu in hdus if not hdu.name.endswith(_UNREAD)]
    content = b"".join(_whole(hdu) for hdu in wanted)
    try:
        return unpacked(content) or content
    except UnsureError as error:
        message = f"is packed by fpack and damaged ({error}): fetch it again"
        raise BadSpectrumError(Reason.UNREADABLE, message, path) from error


def _walk(path: Path, buffer: Buffer, n_hdus: int) -> list[Hdu]:
    hdus: list[Hdu] = []
    at = 0
    while len(hdus) < n_hdus:
        header = _header(path, buffer, at)
        if not header:
            break
        try:
            # Not at the beginning of the buffer, where a primary header would be.
            hdu = read_hdu(b" " + header, 1) if hdus else read_hdu(header, 0)
        except UnsureError as error:
            raise _bad_header(path, at, error) from error
        assert hdu is not None
        hdus.append(replace(hdu, buffer=buffer, start=at, data_start=at + len(header)))
        at = hdus[-1].end
    return hdus


def _header(path: Path, buffer: Buffer, start: int) -> bytes:
    """A header, read block by block: not one byte of the data behind it. Empty at the end."""
    blocks: list[bytes] = []
    while len(blocks) * BLOCK < _MAX_HEADER:
        at = start + len(blocks) * BLOCK
        block = buffer[at : at + BLOCK]
        if not blocks and (not block.strip(b"\0 ") or (start and block.startswith(_MAGIC))):
            break  # the end, padding after it, or another file
        blocks.append(block)
        if len(block) < BLOCK:
            message = f"ends within the header at byte {start}: fetch the file again"
            raise BadSpectrumError(Reason.TRUNCATED, message, path)
        if len(blocks) == 1 and not block.startswith((b"SIMPLE  =", b"XTENSION=")):
            raise _bad_header(path, start, "no XTENSION")
        filled = block.rstrip(b" ")
        if filled.endswith(b"END") and len(filled) % CARD == 3:
            return b"".join(blocks)
    if not blocks:
        return b""
    raise _bad_header(path, start, "no END")


def _bad_header(path: Path, start: int, what: object) -> BadSpectrumError:
    message = (
        f"the header at byte {start} is damaged ({what}), and what is behind it cannot be found: "
        "fetch the file again"
    )
    return BadSpectrumError(Reason.UNREADABLE, message, path)


def _whole(hdu: Hdu) -> bytes:
    """Header and data of an HDU, filled up to a whole block where the file is not."""
    content = bytes_of(hdu.buffer, hdu.start, hdu.data_start + hdu.data_size - hdu.start)
    return content + b"\0" * (-len(content) % BLOCK)


def _check_counts(hdu: Hdu) -> None:
    """Refuse damaged headers that count what would fill the memory: astropy would list it."""
    for key in ("NAXIS", "TFIELDS", "GCOUNT"):
        if not 0 <= hdu.integer(key, 0) <= _MOST:
            raise UnsureError(key)


def rows_for(ids: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Row of each wanted id, -1 where there is none; of a repeated id the first.

    Parameters
    ----------
    ids
        Id of each row, shape (row,).
    wanted
        Ids to look for, shape (n,).

    Returns
    -------
    numpy.ndarray
        int64, shape (n,).
    """
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(ids, kind="stable")
    at = np.searchsorted(ids, wanted, sorter=order)
    rows = order[np.minimum(at, len(ids) - 1)]
    return np.asarray(np.where(ids[rows] == wanted, rows, -1), np.int64)
