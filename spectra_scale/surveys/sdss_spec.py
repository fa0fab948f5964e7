"""Single-object SDSS spectrum files (spec and spec-lite, DR8 to DR17): formats.md A1.

A plain file is read by our own parser; whatever that is not sure of goes to astropy. Both give the
same numbers to the bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.grid import NATIVE_STEP
from spectra_scale.spectrum.observed import OffGridError, snap_loglam
from spectra_scale.surveys import lines as line_tables
from spectra_scale.surveys.block import SpectraBlock
from spectra_scale.surveys.canonical import UnusableColumnError
from spectra_scale.surveys.canonical_row import row_of
from spectra_scale.surveys.fits_bytes import (
    BLOCK,
    NO_END,
    Buffer,
    Hdu,
    UnsureError,
    Want,
    load,
    read_hdus,
)
from spectra_scale.surveys.fits_bytes import card_value as value_of
from spectra_scale.surveys.fits_fallback import AstropyHdu, astropy_hdus
from spectra_scale.surveys.fits_table import RawTable, Table
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss import (
    SpecFile,
    SpectrumArrays,
    is_outside_native_grid,
    reason_without_ivar,
    usable_ivar,
)

FILE_NAME = re.compile(r"spec-(\d{4,5})-(\d{5})-(\d{4})\.fits(?:\.gz)?", re.IGNORECASE)
"""Name of a spectrum file: plate, MJD, fibre."""

_COADD_COLUMNS = ("flux", "loglam", "ivar", "and_mask")
_ALL_HDUS = 64  # a full file has 4 to some 60: B and R of each exposure


_COADD = Want(("COADD",), 1)
_ROW = Want(("SPECOBJ", "SPALL"), 2)
# SPZLINE became ZLINE and HDU 4 in DR18, where ZALL took its place.
_LINES = Want(("SPZLINE", "ZLINE"), 3)


def read_spec(path: Path, *, want_row: bool = True, want_lines: bool = False) -> SpecFile:
    """Read one SDSS spectrum file, gzipped or not.

    Parameters
    ----------
    path
        The file.
    want_row
        Also read its catalogue row (HDU 2), and check it against the file's name.
    want_lines
        Also read the pipeline's line fits (SPZLINE), with EW moved to the rest frame.

    Returns
    -------
    SpecFile
        Native pixels from the ``loglam`` column (never COEFF0, formats.md §0.1), AND_MASK as
        uint32. Pixels with NaN or infinite flux or ivar, or negative ivar, get ivar 0 and are
        counted.

    Raises
    ------
    BadSpectrumError
        If the file cannot be used; with a code of `reasons.Reason`.
    """
    buffer = load(path)
    wants = (_COADD, *((_ROW,) if want_row else ()), *((_LINES,) if want_lines else ()))
    try:
        return _read(path, buffer, wants, _fast_tables)
    except UnsureError as error:
        unsure = str(error)
    try:
        return _read(path, buffer, wants, _slow_tables)
    except UnsureError as error:
        # A header without END is one that was cut, or whose END was overwritten.
        cut = len(buffer) % BLOCK or unsure == NO_END
        message = f"is damaged, astropy cannot read it either: {error}"
        reason = Reason.TRUNCATED if cut else Reason.UNREADABLE
        raise BadSpectrumError(reason, message, path) from error


def read_spec_block(path: Path, ids: npt.ArrayLike = (0,)) -> SpectraBlock:
    """Read the one spectrum of a file, with the pipeline's line fits.

    Parameters
    ----------
    path
        The file, gzipped or not.
    ids
        Ids within the file, shape (spectrum,): 0 is the only one there is.

    Returns
    -------
    SpectraBlock
        One spectrum for each id, in order; an id other than 0 has the reason
        ``row_without_fibre`` and zeros.

    Raises
    ------
    BadSpectrumError
        If the spectrum cannot be used: see `read_spec`.
    """
    wanted = np.atleast_1d(np.asarray(ids)).astype(np.int64)
    spec = read_spec(path, want_lines=True)
    there = wanted == 0
    shape = (len(wanted), len(spec.arrays.flux))
    flux, ivar = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    mask_bits = np.zeros(shape, np.uint32)
    flux[there], ivar[there] = spec.arrays.flux, spec.arrays.ivar
    mask_bits[there] = spec.arrays.mask_bits
    return SpectraBlock(
        spec.arrays.first_pixel,
        flux,
        ivar,
        mask_bits,
        ["" if each else str(Reason.ROW_WITHOUT_FIBRE) for each in there],
        ["" if i == 0 else f"a spec file has one spectrum, of id 0, none of {i}" for i in wanted],
        np.where(there, spec.n_repaired, 0).astype(np.int32),
        [spec.lines if each else None for each in there],
    )


Tables = dict[Want, Table | None]
_Opener = Callable[[Path, Buffer, tuple[Want, ...]], Tables]


def _read(path: Path, buffer: Buffer, wants: tuple[Want, ...], opener: _Opener) -> SpecFile:
    tables = opener(path, buffer, wants)
    arrays, n_repaired = _arrays(path, buffer, tables[_COADD])
    row = None
    if _ROW in wants:
        row = _row(path, buffer, tables[_ROW])
    found_lines = None
    if _LINES in wants:
        redshift = row["z"] if row else _redshift(path, buffer, wants, opener)
        found_lines = _lines(tables[_LINES], redshift)
    return SpecFile(arrays, row, found_lines, n_repaired)


def _redshift(path: Path, buffer: Buffer, wants: tuple[Want, ...], opener: _Opener) -> float:
    return float(_row(path, buffer, opener(path, buffer, (*wants, _ROW))[_ROW])["z"])


def _fast_tables(path: Path, buffer: Buffer, wants: tuple[Want, ...]) -> Tables:
    hdus = read_hdus(buffer, 1 + max(want.index for want in wants))
    found = [want.among([hdu.name for hdu in hdus]) for want in wants]
    if None in found:
        hdus = read_hdus(buffer, _ALL_HDUS)
        found = [want.among([hdu.name for hdu in hdus]) for want in wants]
    tables: Tables = {}
    for want, index in zip(wants, found, strict=True):
        tables[want] = None if index is None else _fast_table(path, hdus[index], index)
    return tables


def _fast_table(path: Path, hdu: Hdu, index: int) -> Table:
    if not hdu.complete:
        message = (
            f"ends at byte {len(hdu.buffer)}, but HDU {index} {hdu.name or '(unnamed)'} needs "
            f"{hdu.data_start + hdu.data_size}: fetch the file again"
        )
        raise BadSpectrumError(Reason.TRUNCATED, message, path)
    return RawTable.of(hdu)


def _slow_tables(path: Path, buffer: Buffer, wants: tuple[Want, ...]) -> Tables:
    hdus: Sequence[AstropyHdu] = astropy_hdus(buffer, _ALL_HDUS)
    tables: Tables = {}
    for want in wants:
        index = want.among([hdu.name for hdu in hdus])
        tables[want] = None if index is None else hdus[index].table
        if tables[want] is None and want is not _LINES and len(buffer) % BLOCK:
            message = f"ends within a FITS block, before HDU {want.index}: fetch the file again"
            raise BadSpectrumError(Reason.TRUNCATED, message, path)
    return tables


def _arrays(path: Path, buffer: Buffer, table: Table | None) -> tuple[SpectrumArrays, int]:
    if table is None or not any(name in table for name in _COADD_COLUMNS):
        raise _without_coadd(path, buffer)
    missing = [name for name in _COADD_COLUMNS if name not in table]
    if missing:
        message = f"COADD has no column {', '.join(missing)}"
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, path)
    if table.n_rows == 0:
        raise BadSpectrumError(Reason.NO_ROWS, "COADD has 0 rows, expected some 4000", path)
    flux, loglam, ivar, mask = (table.column(name) for name in _COADD_COLUMNS)
    kinds = (flux.dtype.str[1:], loglam.dtype.kind, ivar.dtype.str[1:], mask.dtype.str[1:])
    if kinds != ("f4", "f", "f4", "i4") or any(
        column.ndim != 1 for column in (flux, loglam, ivar, mask)
    ):
        message = f"COADD has columns of types {kinds}, expected float32 and an int32 mask"
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, path)
    first = _first_pixel(path, loglam)
    good, n_repaired = usable_ivar(flux, ivar)
    if not good.any():
        reason = reason_without_ivar(flux, ivar) or Reason.ALL_IVAR_ZERO
        message = f"none of {len(ivar)} pixels has a usable inverse variance"
        raise BadSpectrumError(reason, message, path)
    if is_outside_native_grid(first, good):
        message = f"has data in pixels {first} to {first + len(good) - 1}: too far out"
        raise BadSpectrumError(Reason.OUTSIDE_NATIVE_GRID, message, path)
    return SpectrumArrays(first, flux, good, mask.view(np.uint32)), int(n_repaired)


def _first_pixel(path: Path, loglam: np.ndarray[Any, Any]) -> int:
    # Wavelengths far off would overflow the integers of the snapping.
    if not (loglam.min() > 3 and loglam.max() < 5):
        message = f"loglam runs from {loglam.min()} to {loglam.max()}, expected 3.5 to 4.1"
        raise BadSpectrumError(Reason.BAD_LOGLAM, message, path)
    first = round(float(loglam[0]) / NATIVE_STEP)
    exact = np.arange(first, first + len(loglam)) * NATIVE_STEP
    if loglam.dtype == np.float32 and np.array_equal(loglam, exact.astype(np.float32)):
        # The grid to the last bit, as in all real files: three times faster to see than to snap.
        return first
    try:
        return int(snap_loglam(loglam)[0])
    except OffGridError as error:
        raise BadSpectrumError(Reason.BAD_LOGLAM, str(error), path) from error


def _without_coadd(path: Path, buffer: Buffer) -> BadSpectrumError:
    header = bytes(buffer[: 8 * BLOCK])
    if value_of(header, "SPEC_CLN") is not None and value_of(header, "NAXIS") == "2":
        message = (
            "is a DR7 spSpec file (or older), another format and another reduction: get the "
            f"spec-PLATE-MJD-FIBER.fits files of DR8 or later{_same_in_dr8(header)}"
        )
        return BadSpectrumError(Reason.DR7_SPSPEC, message, path)
    if value_of(header, "PLATEID") is None and value_of(header, "COEFF0") is None:
        message = "is FITS, but has no COADD table and no SDSS header"
        return BadSpectrumError(Reason.UNKNOWN_FORMAT, message, path)
    message = "has no COADD table (HDU 1 with flux, loglam, ivar, and_mask)"
    return BadSpectrumError(Reason.MISSING_HDU, message, path)


def _same_in_dr8(header: bytes) -> str:
    parts = [value_of(header, key) or "" for key in ("PLATEID", "MJD", "FIBERID")]
    if not all(part.isdecimal() for part in parts):
        return ""
    return ", this one is spec-{:04d}-{}-{:04d}.fits".format(*(int(part) for part in parts))


def _row(path: Path, buffer: Buffer, table: Table | None) -> dict[str, Any]:
    if table is None:
        message = "has no SPECOBJ or SPALL table (HDU 2)"
        raise BadSpectrumError(Reason.MISSING_HDU, message, path)
    if table.n_rows == 0:
        raise BadSpectrumError(Reason.NO_ROWS, "SPECOBJ has 0 rows, expected 1", path)
    try:
        # RUN2D is absent from legacy headers: HDU 2 has it in all releases.
        reduction = "" if "RUN2D" in table else value_of(bytes(buffer[: 8 * BLOCK]), "RUN2D")
        row = row_of(table, reduction or "")
    except UnusableColumnError as error:
        raise BadSpectrumError(Reason.MISSING_COLUMN, str(error), path) from error
    _check_row(path, row)
    return row


def _check_row(path: Path, row: dict[str, Any]) -> None:
    name = FILE_NAME.fullmatch(path.name)
    found = (row["plate"], row["mjd"], row["fiber"])
    if name and tuple(int(part) for part in name.groups()) != found:
        message = "its row (HDU 2) is of plate-MJD-fibre {}-{}-{}".format(*found)
        raise BadSpectrumError(Reason.IDENTITY_MISMATCH, message, path)
    if not math.isfinite(row["z"]) or row["z"] <= -1:
        message = f"redshift is {row['z']}, expected a number above -1"
        raise BadSpectrumError(Reason.BAD_REDSHIFT, message, path)


def _lines(table: Table | None, redshift: float) -> dict[str, Any] | None:
    if table is None or not all(name in table for name in line_tables.SPZLINE_COLUMNS):
        return None
    columns = {name: table.column(name) for name in line_tables.SPZLINE_COLUMNS}
    return line_tables.lines_from_spzline(columns, redshift)
