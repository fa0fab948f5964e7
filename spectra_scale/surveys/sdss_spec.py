"""Single-object SDSS spectrum files, spec and spec-lite, DR8 to DR20: formats.md A1.

To DR17 a spectrum is named by plate, MJD and fibre; what SDSS-V does otherwise is in `sdssv`. A
plain file is read by our own parser; whatever that is not sure of goes to astropy. Both give the
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
from spectra_scale.surveys import sdssv
from spectra_scale.surveys.block import SpectraBlock
from spectra_scale.surveys.canonical import UnusableColumnError
from spectra_scale.surveys.canonical_row import row_of
from spectra_scale.surveys.fits_bytes import (
    BLOCK,
    NO_END,
    PACKED,
    Array,
    Buffer,
    Hdu,
    UnsureError,
    Want,
    card_value,
    load,
    read_hdu,
    read_hdus,
)
from spectra_scale.surveys.fits_fallback import AstropyHdu, astropy_hdus
from spectra_scale.surveys.fits_table import RawTable, Table
from spectra_scale.surveys.fits_unpack import unpacked
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss import (
    SpecFile,
    SpectrumArrays,
    is_outside_native_grid,
    reason_without_ivar,
    usable_ivar,
)

FILE_NAME = re.compile(r"spec-(\d{4,5})-(\d{5})-(\d{4})\.fits(?:\.(?:gz|fz))?", re.IGNORECASE)
"""Name of a spectrum file to DR17: plate, MJD, fibre. Of SDSS-V: `sdssv.FILE_NAME`."""

_COADD_COLUMNS = ("flux", "loglam", "ivar", "and_mask")
_ALL_HDUS = 64  # a full file has 4 to some 60: B and R of each exposure

_COADD = Want(("COADD",), 1)
_ROW = Want(("SPECOBJ", "SPALL"), 2)
# SPZLINE became ZLINE and HDU 4 in DR18, where ZALL took its place.
_LINES = Want(("SPZLINE", "ZLINE"), 3)
_LINES_AFTER_ZALL = Want(("ZLINE",), 4)

# Wavelengths as files hold them, from 10^3 to 10^5 Å.
_GRID_FIRST, _GRID_STOP = 30000, 50000
_GRID = (np.arange(_GRID_FIRST, _GRID_STOP) * NATIVE_STEP).astype(np.float32)


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
    if isinstance(buffer, bytes):
        return _read_any(path, buffer, wants)
    with buffer:
        found = _read_any(path, buffer, wants)
        buffer.check_unchanged()
    return found


def _read_any(path: Path, buffer: Buffer, wants: tuple[Want, ...]) -> SpecFile:
    try:
        return _read(path, buffer, wants, _fast_tables)
    except UnsureError as error:
        unsure = str(error)
    try:
        plain = unpacked(buffer) if unsure == PACKED else None
        if plain is not None:
            return _read(path, plain, wants, _fast_tables)
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
        table = tables[_LINES]
        if table is not None and "LINENAME" not in table:
            # Without EXTNAMEs, HDU 3 is ZALL in SDSS-V.
            table = opener(path, buffer, (_LINES_AFTER_ZALL,))[_LINES_AFTER_ZALL]
        redshift = row["z"] if row else _redshift(path, buffer, wants, opener)
        found_lines = _lines(table, redshift)
    return SpecFile(arrays, row, found_lines, n_repaired)


def _redshift(path: Path, buffer: Buffer, wants: tuple[Want, ...], opener: _Opener) -> float:
    return float(_row(path, buffer, opener(path, buffer, (*wants, _ROW))[_ROW])["z"])


def _fast_tables(path: Path, buffer: Buffer, wants: tuple[Want, ...]) -> Tables:
    hdus = read_hdus(buffer, _first_hdus(wants))
    found = [want.among([hdu.name for hdu in hdus]) for want in wants]
    if _may_lie_behind(found, [hdu.name for hdu in hdus]):
        hdus = read_hdus(buffer, _ALL_HDUS)
        found = [want.among([hdu.name for hdu in hdus]) for want in wants]
    tables: Tables = {}
    for want, index in zip(wants, found, strict=True):
        tables[want] = None if index is None else _fast_table(path, hdus[index], index)
    return tables


def _first_hdus(wants: tuple[Want, ...]) -> int:
    return 1 + max(want.index for want in wants)


def _may_lie_behind(found: list[int | None], names: list[str]) -> bool:
    """Whether an HDU is missing, or stands in its place without a name where others have names."""
    return None in found or (any(names) and not all(names[index or 0] for index in found))


def _fast_table(path: Path, hdu: Hdu, index: int) -> Table:
    if not hdu.complete:
        message = (
            f"ends at byte {len(hdu.buffer)}, but HDU {index} {hdu.name or '(unnamed)'} needs "
            f"{hdu.data_start + hdu.data_size}: fetch the file again"
        )
        raise BadSpectrumError(Reason.TRUNCATED, message, path)
    return RawTable.of(hdu)


def _slow_tables(path: Path, buffer: Buffer, wants: tuple[Want, ...]) -> Tables:
    hdus: Sequence[AstropyHdu] = astropy_hdus(buffer, _first_hdus(wants))
    names = [hdu.name for hdu in hdus]
    if _may_lie_behind([want.among(names) for want in wants], names):
        hdus = astropy_hdus(buffer, _ALL_HDUS)
        names = [hdu.name for hdu in hdus]
    tables: Tables = {}
    for want in wants:
        index = want.among(names)
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
    columns = table.columns(_COADD_COLUMNS)
    flux, loglam, ivar, mask = (columns[name] for name in _COADD_COLUMNS)
    _check_kinds(path, columns)
    first = _first_pixel(path, loglam)
    good, n_repaired = usable_ivar(flux, ivar)
    if not np.maximum.reduce(good) > 0:
        reason = reason_without_ivar(flux, ivar) or Reason.ALL_IVAR_ZERO
        message = f"none of {len(ivar)} pixels has a usable inverse variance"
        raise BadSpectrumError(reason, message, path)
    if is_outside_native_grid(first, good):
        message = f"has data in pixels {first} to {first + len(good) - 1}: too far out"
        raise BadSpectrumError(Reason.OUTSIDE_NATIVE_GRID, message, path)
    return SpectrumArrays(first, flux, good, mask.view(np.uint32)), int(n_repaired)


def _check_kinds(path: Path, columns: dict[str, Array]) -> None:
    flux, loglam, ivar, mask = (columns[name] for name in _COADD_COLUMNS)
    floats = flux.dtype == ivar.dtype == np.float32 and loglam.dtype.kind == "f"
    flat = flux.ndim == loglam.ndim == ivar.ndim == mask.ndim == 1
    if not (floats and flat and mask.dtype == np.int32):
        kinds = ", ".join(f"{name} {each.dtype}{each.shape[1:]}" for name, each in columns.items())
        message = f"COADD has columns {kinds}; expected float32 and an int32 mask"
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, path)


def _first_pixel(path: Path, loglam: Array) -> int:
    if loglam.dtype == np.float32 and _GRID[0] < loglam[0] < _GRID[-1]:
        first = round(float(loglam[0]) / NATIVE_STEP)
        at = first - _GRID_FIRST
        # The grid to the last bit, as in all real files: far quicker to see than to snap.
        if loglam.tobytes() == _GRID[at : at + len(loglam)].tobytes():
            return first
    # Wavelengths far off would overflow the integers of the snapping.
    if not (loglam.min() > 3 and loglam.max() < 5):
        message = f"loglam runs from {loglam.min()} to {loglam.max()}, expected 3.5 to 4.1"
        raise BadSpectrumError(Reason.BAD_LOGLAM, message, path)
    try:
        return int(snap_loglam(loglam)[0])
    except OffGridError as error:
        raise BadSpectrumError(Reason.BAD_LOGLAM, str(error), path) from error


def _without_coadd(path: Path, buffer: Buffer) -> BadSpectrumError:
    header = buffer[: 16 * BLOCK]
    if card_value(header, "SPEC_CLN") is not None and card_value(header, "NAXIS") == "2":
        message = (
            "is a DR7 spSpec file (or older), another format and another reduction: get the "
            f"spec-PLATE-MJD-FIBER.fits files of DR8 or later{_same_in_dr8(header)}"
        )
        return BadSpectrumError(Reason.DR7_SPSPEC, message, path)
    if card_value(header, "PLATEID") is None and card_value(header, "COEFF0") is None:
        message = "is FITS, but has no COADD table and no SDSS header"
        return BadSpectrumError(Reason.UNKNOWN_FORMAT, message, path)
    message = "has no COADD table (HDU 1 with flux, loglam, ivar, and_mask)"
    return BadSpectrumError(Reason.MISSING_HDU, message, path)


def _same_in_dr8(header: bytes) -> str:
    parts = [card_value(header, key) or "" for key in ("PLATEID", "MJD", "FIBERID")]
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
        if sdssv.is_sdssv(table):
            row = sdssv.row_of(table, _header(buffer))
        else:
            # RUN2D is absent from legacy headers: HDU 2 has it in all releases.
            reduction = "" if "RUN2D" in table else card_value(_header(buffer), "RUN2D")
            row = row_of(table, reduction or "")
    except UnusableColumnError as error:
        raise BadSpectrumError(Reason.MISSING_COLUMN, str(error), path) from error
    _check_row(path, row)
    return row


def _header(buffer: Buffer) -> bytes:
    hdu = read_hdu(buffer, 0)
    return b"" if hdu is None else hdu.header


def _check_row(path: Path, row: dict[str, Any]) -> None:
    name = FILE_NAME.fullmatch(path.name)
    found, what = (row["plate"], row["mjd"], row["fiber"]), "plate-MJD-fibre"
    if name is None and (name := sdssv.FILE_NAME.fullmatch(path.name)):
        found, what = (row["field"], row["mjd"], row["catalogid"]), "field-MJD-catalogid"
    if name and tuple(int(part) for part in name.groups()) != found:
        key = row["spectrum_key"]
        message = f"its row (HDU 2) is of {key}, its name of another {what}"
        raise BadSpectrumError(Reason.IDENTITY_MISMATCH, message, path)
    if not math.isfinite(row["z"]) or row["z"] <= -1:
        message = f"redshift is {row['z']}, expected a number above -1"
        raise BadSpectrumError(Reason.BAD_REDSHIFT, message, path)


def _lines(table: Table | None, redshift: float) -> dict[str, Any] | None:
    if table is None or not all(name in table for name in line_tables.SPZLINE_COLUMNS):
        return None
    return line_tables.lines_from_spzline(table.columns(line_tables.SPZLINE_COLUMNS), redshift)
