"""An HDF5 file of MultimodalUniverse: what is in it, opened with care (formats.md A6).

One file holds the spectra of a healpixel and the catalogue columns they came with, one dataset a
column, row-aligned. HDF5 may point to other files and to data that are made as they are read;
neither is followed.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.reasons import Reason

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_NEEDED = ("object_id", "spectrum_flux", "spectrum_ivar")
_WAVELENGTHS = (("spectrum_lambda",), ("spectrum_lambda_min", "spectrum_lambda_max"))
# Columns that only the catalogue of one survey has: zall-pix of DESI, specObj of SDSS.
_DESI = ("targetid", "program", "zwarn", "zerr", "desi_target", "spectrum_lambda_min")
_SDSS = ("plate", "specobjid", "zwarning", "z_err", "vdisp")
# What h5py raises on damaged files: HDF5's own errors come as several of these.
_ERRORS = (
    OSError, KeyError, RuntimeError, ValueError, TypeError, IndexError, AttributeError,
    MemoryError, OverflowError, NotImplementedError, SystemError,
)  # fmt: skip
_MOST_ROWS, _MOST_PIXELS = 1 << 28, 1 << 16
_BRIDGED = 4  # rows are picked from a span of up to this many times their number


@dataclass(frozen=True, slots=True, eq=False)
class MmuFile:
    """An open file.

    Parameters
    ----------
    path
        The file.
    survey
        `sdss` or `desi`.
    n_rows
        Number of spectra.
    names
        Lower-case name of a dataset to its name.
    group
        The HDF5 root group.
    """

    path: Path
    survey: str
    n_rows: int
    names: dict[str, str]
    group: Any

    def __contains__(self, name: str) -> bool:
        """Whether there is a dataset `name`, in any case."""
        return name.lower() in self.names

    def column(self, name: str) -> Array:
        """Values of a catalogue column, one or several a row; text as stripped str.

        Raises
        ------
        BadSpectrumError
            If the dataset cannot be read or has another number of rows.
        """
        with _named(self.path):
            found = _dataset(self.group, self.names[name.lower()])
            if not found.shape or found.shape[0] != self.n_rows or found.ndim > 2:
                raise _wrong(self.path, name, found.shape, f"({self.n_rows},)")
            _check_kind(name, found, "biufSUO")
            values = np.asarray(found[()])
            if values.dtype.kind in "SUO":
                return _texts(values)
            return values.astype(values.dtype.newbyteorder("="), copy=False)

    def pixels(self, name: str, rows: Ints, n_pixels: int) -> Array:
        """Rows of a dataset of one value a pixel, shape (row, pixel).

        Raises
        ------
        BadSpectrumError
            If the dataset cannot be read or has another shape.
        """
        with _named(self.path):
            found = _dataset(self.group, self.names[name.lower()])
            if found.shape != (self.n_rows, n_pixels):
                raise _wrong(self.path, name, found.shape, f"({self.n_rows}, {n_pixels})")
            _check_kind(name, found, "biuf")
            return _take(found, rows)

    @property
    def n_pixels(self) -> int:
        """Pixels of a spectrum, padding included.

        Raises
        ------
        BadSpectrumError
            If `spectrum_flux` is no array of spectra.
        """
        with _named(self.path):
            shape = _dataset(self.group, self.names["spectrum_flux"]).shape
        if len(shape) != 2 or shape[0] != self.n_rows or not 0 < shape[1] <= _MOST_PIXELS:
            raise _wrong(self.path, "spectrum_flux", shape, f"({self.n_rows}, pixels)")
        return int(shape[1])


@contextmanager
def open_mmu(path: Path) -> Iterator[MmuFile]:
    """Open a file.

    Parameters
    ----------
    path
        A regular file.

    Yields
    ------
    MmuFile
        The file, until the end of the ``with`` block.

    Raises
    ------
    BadSpectrumError
        ``unreadable`` if it cannot be opened or is not HDF5, ``empty_file``, ``truncated``, or
        ``unknown_format`` if it is no file of SDSS or DESI spectra.
    """
    import h5py

    _check_content(path)
    with _named(path):
        # Survey files do not change; locks fail on some network file systems.
        group = h5py.File(path, "r", locking=False)
    try:
        with _named(path):
            keys = [name for name in group if isinstance(name, str)]
            names = {name.lower(): name for name in reversed(keys)}
            survey = _survey(names)
            if survey is None:
                message = (
                    "HDF5, but not a MultimodalUniverse file of SDSS or DESI spectra: found "
                    f"{', '.join(keys[:20]) or 'nothing'}"
                )
                raise BadSpectrumError(Reason.UNKNOWN_FORMAT, message, path)
            shape = _dataset(group, names["object_id"]).shape
        if len(shape) != 1 or shape[0] > _MOST_ROWS:
            raise _wrong(path, "object_id", shape, "one a spectrum")
        yield MmuFile(path, survey, int(shape[0]), names, group)
    finally:
        with _named(path):
            group.close()


def _survey(names: dict[str, str]) -> str | None:
    there = all(name in names for name in _NEEDED)
    if not there or not any(all(n in names for n in each) for each in _WAVELENGTHS):
        return None
    if any(name in names for name in _DESI):
        return "desi"
    return "sdss" if any(name in names for name in _SDSS) else None


def _check_content(path: Path) -> None:
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            message = "is a folder, a pipe or a device, expected a regular file"
            raise BadSpectrumError(Reason.UNREADABLE, message, path)
        with path.open("rb") as file:
            start = file.read(len(HDF5_MAGIC))
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise BadSpectrumError(Reason.UNREADABLE, message, path) from error
    if not start:
        raise BadSpectrumError(Reason.EMPTY_FILE, "found 0 bytes, expected HDF5", path)
    if start != HDF5_MAGIC:
        message = f"begins with {start!r}, expected HDF5: fetch it again"
        raise BadSpectrumError(Reason.UNREADABLE, message, path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what h5py raises into a reason."""
    try:
        yield
    except BadSpectrumError:
        raise
    except _ERRORS as error:
        text = " ".join(str(error).split())
        cut = "truncated" in text or "file is too small" in text
        reason = Reason.TRUNCATED if cut else Reason.UNREADABLE
        message = f"HDF5 cannot be read: {type(error).__name__}: {text}"
        raise BadSpectrumError(reason, message, path) from error


def _dataset(group: Any, name: str) -> Any:
    import h5py

    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        msg = f"{name} is a link to elsewhere, which is not followed"
        raise ValueError(msg)
    found = group[name]
    if not isinstance(found, h5py.Dataset):
        msg = f"{name} is no dataset"
        raise TypeError(msg)
    if found.external or found.is_virtual:
        msg = f"{name} keeps its values in another file, which is not opened"
        raise ValueError(msg)
    return found


def _check_kind(name: str, dataset: Any, kinds: str) -> None:
    if dataset.dtype.kind not in kinds:
        msg = f"{name} holds {dataset.dtype}, expected numbers or text"
        raise TypeError(msg)


def _wrong(path: Path, name: str, shape: Sequence[int], expected: str) -> BadSpectrumError:
    message = f"dataset {name} has shape {tuple(shape)}, expected {expected}"
    return BadSpectrumError(Reason.UNREADABLE, message, path)


def _take(dataset: Any, rows: Ints) -> Array:
    if not len(rows):
        return np.empty((0, *dataset.shape[1:]), dataset.dtype)
    low, high = int(rows.min()), int(rows.max()) + 1
    if high - low <= _BRIDGED * len(rows):
        found = np.asarray(dataset[low:high])
        if len(found) != len(rows) or (np.diff(rows) != 1).any():
            found = found[rows - low]
    else:
        # h5py wants indices ascending, and each once.
        ascending, inverse = np.unique(rows, return_inverse=True)
        found = np.asarray(dataset[ascending])[inverse]
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _texts(values: Array) -> Array:
    if values.dtype.kind == "S":
        try:
            return np.char.strip(np.char.decode(values, "ascii"))
        except UnicodeDecodeError:
            return np.char.strip(np.char.decode(values, "latin-1"))
    decoded = [v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in values.ravel()]
    return np.char.strip(np.array(decoded, np.str_).reshape(values.shape))
