"""Files, opened with care and read by position.

Nothing is mapped: a mapped file that is cut while it is read, or that has a bad block, kills the
process; a read gives an error that is one line of the ledger.
"""

from __future__ import annotations

import gzip
import os
import stat
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.reasons import Reason

Array = npt.NDArray[Any]

_FITS_MAGIC = b"SIMPLE  ="
_GZIP_MAGIC = b"\x1f\x8b"
# Not to wait for the writer of a pipe, nor to become the terminal's process.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_WHOLE = 1 << 19  # larger files are read in parts: a spec-lite has 0.2 MB
_GZIP_WHOLE = 1 << 26  # larger gzip files are unpacked as they are read


class OpenFile:
    """A regular file of which only what is asked for is read.

    It has a length and can be sliced like bytes; a slice is one read. It is closed with
    `close`, by a ``with`` statement, or when it is forgotten.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    BadSpectrumError
        ``unreadable`` if it cannot be opened or is a pipe, a device or a folder; ``empty_file``.
    """

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd, self._state = _open(path)
        self.path = path

    def __len__(self) -> int:
        return self._state.st_size

    def __getitem__(self, wanted: slice) -> bytes:
        """Bytes of a range, as a slice of bytes gives them.

        Raises
        ------
        BadSpectrumError
            ``unreadable`` for a read error, ``file_changed`` if the file was cut meanwhile.
        """
        start, stop, _ = wanted.indices(len(self))
        return self._read(max(stop - start, 0), start)

    def _read(self, n: int, start: int) -> bytes:
        return _read(self.path, self._fd, n, start)

    def read_into(self, out: Array, start: int) -> None:
        """Fill a contiguous array with the bytes from `start` on.

        Raises
        ------
        BadSpectrumError
            As slicing does.
        """
        left = out.data.cast("B")
        try:
            while len(left):
                n = os.preadv(self._fd, [left], start)
                if not n:
                    raise _cut(self.path)
                left, start = left[n:], start + n
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def check_unchanged(self) -> None:
        """Raise ``file_changed`` if the file was written to since it was opened."""
        _check_unchanged(self.path, self._fd, self._state)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class OpenGzip(OpenFile):
    """A gzip file that is unpacked as it is read: quick forwards, from the start again backwards.

    Its length is not known before its end: `len` is the largest there is, and a slice that
    reaches beyond the end is shorter than asked for.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()
        self._packed = os.fdopen(os.dup(self._fd), "rb")
        self._stream = gzip.GzipFile(fileobj=self._packed, mode="rb")

    def __len__(self) -> int:
        return sys.maxsize

    def _read(self, n: int, start: int) -> bytes:
        try:
            with self._lock:
                self._stream.seek(start)
                return self._stream.read(n)
        except (OSError, EOFError, zlib.error) as error:
            raise _bad_gzip(self.path, error) from error

    def read_into(self, out: Array, start: int) -> None:
        """Fill a contiguous array with the unpacked bytes from `start` on."""
        found = self._read(out.nbytes, start)
        if len(found) < out.nbytes:
            raise BadSpectrumError(Reason.TRUNCATED, "the gzip stream ends too early", self.path)
        out.data.cast("B")[:] = found

    def whole(self) -> bytes:
        """All of it, unpacked."""
        try:
            with self._lock:
                self._stream.seek(0)
                return self._stream.read()
        except (OSError, EOFError, zlib.error) as error:
            raise _bad_gzip(self.path, error) from error

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if hasattr(self, "_stream"):
            self._stream.close()
            self._packed.close()
        super().close()


Buffer = bytes | OpenFile


def load(path: Path, *, mapped: bool = False) -> Buffer:
    """Open a FITS file, gzipped or not (told by its first bytes, not by its name).

    Parameters
    ----------
    path
        The file.
    mapped
        Read only what is asked for, whatever the size: for plate files and catalogues. Without
        it small files are in memory as a whole.

    Returns
    -------
    bytes or OpenFile
        The file, unpacked; both have a length and can be sliced.

    Raises
    ------
    BadSpectrumError
        If it cannot be opened or read, is empty, is not FITS, or its gzip stream is damaged.
    """
    fd, state = _open(path)
    try:
        in_parts = mapped or state.st_size > _WHOLE
        start = _read(path, fd, min(len(_FITS_MAGIC), state.st_size), 0) if in_parts else b""
        if in_parts and (start == _FITS_MAGIC or state.st_size > _GZIP_WHOLE):
            return _in_parts(path, start)
        found = _read(path, fd, state.st_size, 0)
        _check_unchanged(path, fd, state)
    finally:
        os.close(fd)
    if found[:2] == _GZIP_MAGIC:
        found = _gunzip(found, path)
    if found[:9] != _FITS_MAGIC:
        raise BadSpectrumError(Reason.NOT_FITS, what_it_is(found), path)
    return found


def _in_parts(path: Path, start: bytes) -> OpenFile:
    file = OpenGzip(path) if start[:2] == _GZIP_MAGIC else OpenFile(path)
    start = file[:200]
    if start[:9] != _FITS_MAGIC:
        raise BadSpectrumError(Reason.NOT_FITS, what_it_is(start), path)
    return file


def _open(path: Path) -> tuple[int, os.stat_result]:
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            message = "is a folder, a pipe or a device, expected a regular file"
            raise BadSpectrumError(Reason.UNREADABLE, message, path)
        if not state.st_size:
            # What /proc holds has no size, but may have content, or give an error.
            if os.pread(fd, 1, 0):
                message = "has no size but content: it is made as it is read, copy it first"
                raise BadSpectrumError(Reason.UNREADABLE, message, path)
            raise BadSpectrumError(Reason.EMPTY_FILE, "found 0 bytes, expected FITS", path)
    except OSError as error:
        os.close(fd)
        raise _unreadable(path, error) from error
    except BadSpectrumError:
        os.close(fd)
        raise
    return fd, state


def _read(path: Path, fd: int, n: int, start: int) -> bytes:
    try:
        found = os.pread(fd, n, start)
        while len(found) < n:
            # One read gives 2 GB at most.
            more = os.pread(fd, n - len(found), start + len(found))
            if not more:
                raise _cut(path)
            found += more
    except OSError as error:
        raise _unreadable(path, error) from error
    return found


def _check_unchanged(path: Path, fd: int, before: os.stat_result) -> None:
    now = os.fstat(fd)
    if now.st_mtime_ns != before.st_mtime_ns or now.st_size != before.st_size:
        message = "was written to while it was read: ingest it again when it is complete"
        raise BadSpectrumError(Reason.FILE_CHANGED, message, path)


def _cut(path: Path) -> BadSpectrumError:
    message = "became shorter while it was read: ingest it again when it is complete"
    return BadSpectrumError(Reason.FILE_CHANGED, message, path)


def _unreadable(path: Path, error: OSError) -> BadSpectrumError:
    message = f"cannot be read: {error.strerror or error}"
    return BadSpectrumError(Reason.UNREADABLE, message, path)


def _bad_gzip(path: Path, error: Exception) -> BadSpectrumError:
    message = f"the gzip stream is damaged or cut: {error}"
    return BadSpectrumError(Reason.TRUNCATED, message, path)


def _gunzip(packed: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise _bad_gzip(path, error) from error


def what_it_is(start: bytes) -> str:
    """Say what a file is that does not begin as FITS does."""
    text = start[:200].lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return "found an HTML or XML page, expected FITS: the download failed, fetch it again"
    return f"begins with {start[:12]!r}, expected {_FITS_MAGIC!r}"


def bytes_of(buffer: Buffer, start: int, n: int) -> bytes:
    """Exactly `n` bytes from `start` on.

    Raises
    ------
    BadSpectrumError
        ``truncated`` if the end of a gzip stream comes before.
    """
    found = buffer[start : start + n]
    if len(found) < n and isinstance(buffer, OpenFile):
        raise BadSpectrumError(Reason.TRUNCATED, "ends before its data do", buffer.path)
    return found


def fill(buffer: Buffer, out: Array, start: int) -> None:
    """Fill a contiguous array with the bytes of a file from `start` on, in the order they have.

    Raises
    ------
    BadSpectrumError
        If the file cannot be read.
    """
    if isinstance(buffer, OpenFile):
        buffer.read_into(out, start)
    else:
        out.reshape(-1).view(np.uint8)[:] = np.frombuffer(buffer, np.uint8, out.nbytes, start)
