"""SDSS plate files: spPlate (all spectra of a plate) and spZbest (their redshifts), formats.md A2.

The order of the HDUs is the contract, since early releases have no EXTNAMEs: 0 flux, 1 ivar, 2
AND_MASK, 5 plug map. Arrays are untrimmed, so the same pixel has another index than in a spec
file: what matches is the native pixel k.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.surveys.block import SpectraBlock
from spectra_scale.surveys.canonical import UnusableColumnError
from spectra_scale.surveys.catalogue import WANTED, catalogue_of
from spectra_scale.surveys.fits_bytes import (
    Array,
    Hdu,
    UnsureError,
    image,
    load,
    read_hdus,
)
from spectra_scale.surveys.fits_fallback import astropy_hdus
from spectra_scale.surveys.fits_table import RawTable, Table
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss import (
    Floats,
    Ints,
    PlateArrays,
    UInts,
    is_outside_native_grid,
    reason_without_ivar,
    usable_ivar,
)
from spectra_scale.surveys.tables import Source, open_source

PLATE_NAME = re.compile(r"spPlate-(\d{4,5})-(\d{5})[^/]*\.fits(?:\.gz)?", re.IGNORECASE)
"""Name of a plate file: plate, MJD."""
ZBEST_NAME = re.compile(r"spZbest-(\d{4,5})-(\d{5})[^/]*\.fits(?:\.gz)?", re.IGNORECASE)
"""Name of a redshift file: plate, MJD."""

_STEP = 1e-4
_IMAGES = ("flux", "ivar", "mask")
_PLUGMAP = 5
_MESSAGES = {
    str(Reason.ALL_IVAR_ZERO): "no pixel has a positive inverse variance",
    str(Reason.BAD_IVAR): "no pixel has a usable inverse variance",
    str(Reason.NON_FINITE_FLUX): "flux is NaN or infinite in all pixels that have an ivar",
    str(Reason.OUTSIDE_NATIVE_GRID): "has data outside the native grid, 3532 to 10508 Å",
}
_REDUCTION = re.compile(r"26|103|104|v\d+_\d+_\d+")


def read_plate(path: Path, fibers: npt.ArrayLike | None = None) -> PlateArrays:
    """Read spectra of a plate file.

    Parameters
    ----------
    path
        The spPlate file, gzipped or not.
    fibers
        Fibre numbers to read, shape (fibre,); default all, in the order of the file.

    Returns
    -------
    PlateArrays
        Arrays on common native pixels, untrimmed. A fibre without usable pixels has a reason and
        ivar 0 throughout; sky fibres are read like others (their rows in spZbest say what they
        are).

    Raises
    ------
    BadSpectrumError
        If the file cannot be used, or has no such fibre.
    """
    plate = _open(path)
    rows = _rows(path, plate.fiber, fibers)
    flux, ivar, mask = plate.spectra(rows)
    good, n_repaired, reasons = _checked(plate.first_pixel, flux, ivar)
    return PlateArrays(plate.fiber[rows], plate.first_pixel, flux, good, mask, reasons, n_repaired)


def read_plate_block(path: Path, fibers: npt.ArrayLike) -> SpectraBlock:
    """Read fibres of a plate file, in the order asked for.

    Parameters
    ----------
    path
        The spPlate file, gzipped or not.
    fibers
        Fibre numbers, shape (spectrum,).

    Returns
    -------
    SpectraBlock
        One spectrum a fibre, on the plate's untrimmed native pixels. A fibre that the file lacks
        has the reason ``row_without_fibre`` and zeros.

    Raises
    ------
    BadSpectrumError
        If the file cannot be used at all.
    """
    plate = _open(path)
    wanted = np.atleast_1d(np.asarray(fibers)).astype(np.int64)
    row_of = {number: row for row, number in enumerate(plate.fiber.tolist())}
    rows = np.array([row_of.get(number, -1) for number in wanted.tolist()], np.int64)
    absent = rows < 0
    flux, ivar, mask = plate.spectra(np.maximum(rows, 0))
    for array in (flux, ivar, mask):
        array[absent] = 0
    good, n_repaired, reasons = _checked(plate.first_pixel, flux, ivar)
    messages = [_MESSAGES.get(reason, "") for reason in reasons]
    for row in np.flatnonzero(absent).tolist():
        reasons[row] = str(Reason.ROW_WITHOUT_FIBRE)
        messages[row] = f"the plate file has {len(row_of)} fibres, none of number {wanted[row]}"
    return SpectraBlock(plate.first_pixel, flux, good, mask, reasons, messages, n_repaired)


@dataclass(frozen=True, slots=True, eq=False)
class _Plate:
    """An open plate file: views of its images, its fibre numbers and first pixel."""

    images: list[Array]
    fiber: npt.NDArray[np.int32]
    first_pixel: int

    def spectra(self, rows: Any) -> tuple[Floats, Floats, UInts]:
        flux, ivar = (view[rows].astype(np.float32) for view in self.images[:2])
        return flux, ivar, self.images[2][rows].astype(np.int32).view(np.uint32)


def _open(path: Path) -> _Plate:
    buffer = load(path, mapped=True)
    try:
        hdus = read_hdus(buffer, _PLUGMAP + 1)
        images = [_image(path, hdus, index) for index in range(len(_IMAGES))]
        numbers = _fibers(hdus[_PLUGMAP:], images[0].shape[0])
        return _Plate(images, numbers, _first_pixel(path, hdus[0]))
    except UnsureError as error:
        # A damaged or compressed plate file of 60 MB and more is not worth a second reader.
        message = f"is damaged or not a plain spPlate file (at {error}): fetch it again"
        raise BadSpectrumError(Reason.UNREADABLE, message, path) from error


def _checked(first: int, flux: Floats, ivar: Floats) -> tuple[Floats, Ints, list[str]]:
    good, n_repaired = usable_ivar(flux, ivar)
    reasons = [_reason(first, f, v, g) for f, v, g in zip(flux, ivar, good, strict=True)]
    unusable = np.array([bool(reason) for reason in reasons], bool)
    if unusable.any():
        good = np.where(unusable[:, None], np.float32(0), good)
    return good, n_repaired, reasons


def _image(path: Path, hdus: list[Hdu], index: int) -> Array:
    name = _IMAGES[index]
    if index >= len(hdus):
        message = f"has {len(hdus)} HDU, expected {name} in HDU {index}: it is cut or trimmed"
        raise BadSpectrumError(Reason.MISSING_HDU, message, path)
    hdu = hdus[index]
    if not hdu.complete:
        message = (
            f"ends at byte {len(hdu.buffer)}, but {name} (HDU {index}) needs "
            f"{hdu.data_start + hdu.data_size}: fetch the file again"
        )
        raise BadSpectrumError(Reason.TRUNCATED, message, path)
    view = image(hdu)
    expected = (hdus[0].integer("NAXIS2", 0), hdus[0].integer("NAXIS1", 0))
    wrong_kind = view.dtype.kind != ("i" if name == "mask" else "f") or view.dtype.itemsize != 4
    if view.shape != expected or wrong_kind or not view.size:
        message = (
            f"HDU {index} is {view.dtype} of shape {view.shape}, expected {name} of shape "
            f"(fibre, pixel) = {expected} in 4 bytes"
        )
        raise BadSpectrumError(Reason.MISSING_HDU, message, path)
    return view


def _first_pixel(path: Path, primary: Hdu) -> int:
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


def _fibers(plugmap: Sequence[Hdu], n_fibers: int) -> npt.NDArray[np.int32]:
    if plugmap and plugmap[0].complete and plugmap[0].card("XTENSION") == "BINTABLE":
        table = RawTable.of(plugmap[0])
        if "FIBERID" in table and table.n_rows == n_fibers:
            return np.asarray(table.column("FIBERID"), np.int32)
    # Row = FIBERID - 1 in all releases.
    return np.arange(1, n_fibers + 1, dtype=np.int32)


def _rows(path: Path, numbers: npt.NDArray[np.int32], fibers: npt.ArrayLike | None) -> Any:
    if fibers is None:
        return slice(None)
    row_of = {int(number): row for row, number in enumerate(numbers)}
    wanted = [int(fiber) for fiber in np.atleast_1d(np.asarray(fibers))]
    absent = [fiber for fiber in wanted if fiber not in row_of]
    if absent:
        message = f"has {len(numbers)} fibres, none of number {absent[0]} ({len(absent)} missing)"
        raise BadSpectrumError(Reason.ROW_WITHOUT_FIBRE, message, path)
    return np.array([row_of[fiber] for fiber in wanted], np.int64)


def _reason(first: int, flux: Array, ivar: Array, good: Array) -> str:
    if not good.any():
        return str(reason_without_ivar(flux, ivar) or Reason.ALL_IVAR_ZERO)
    return str(Reason.OUTSIDE_NATIVE_GRID) if is_outside_native_grid(first, good) else ""


def find_zbest(spplate: Path) -> Path | None:
    """Find the redshifts of a plate file: beside it, or in a RUN1D sub-directory.

    Parameters
    ----------
    spplate
        The spPlate file.

    Returns
    -------
    Path or None
        The spZbest file of the same plate and MJD. Of several RUN1D the one named like the
        RUN2D directory is taken, else the last by name.
    """
    match = PLATE_NAME.fullmatch(spplate.name)
    if match is None:
        return None
    stem = f"spZbest-{match[1]}-{match[2]}"
    found = [p for name in (f"{stem}*.fits", f"{stem}*.fits.gz") for p in _both(spplate, name)]
    found = [path for path in sorted(found) if ZBEST_NAME.fullmatch(path.name)]
    beside = [path for path in found if path.parent == spplate.parent]
    same = [path for path in found if path.parent.name == spplate.parent.parent.name]
    return next(iter([*beside, *same, *found[::-1]]), None)


def _both(spplate: Path, pattern: str) -> list[Path]:
    return [*spplate.parent.glob(pattern), *spplate.parent.glob(f"*/{pattern}")]


def read_zbest(path: Path, spplate: Path | None = None, reduction: str = "") -> pa.Table:
    """Read the redshifts of all fibres of a plate.

    Parameters
    ----------
    path
        The spZbest file.
    spplate
        Its plate file: positions come from there if spZbest has none.
    reduction
        RUN2D where neither the table, nor the header, nor a directory of the path says it.

    Returns
    -------
    pyarrow.Table
        `catalogue.CATALOGUE_SCHEMA`, one row a fibre, in the order of the file. Sky fibres have
        targettype SKY, standard stars STANDARD; specprimary is -1.

    Raises
    ------
    BadSpectrumError
        If the file cannot be used.
    """
    try:
        source = open_source(path, WANTED)
        extra = {} if "PLUG_RA" in source or "RA" in source else _positions(source, spplate)
        return catalogue_of(source, _reduction(path) or reduction, extra)
    except UnusableColumnError as error:
        raise BadSpectrumError(Reason.MISSING_COLUMN, str(error), path) from error
    except BadSpectrumError:
        raise
    except SpectraScaleError as error:
        raise _as_bad(error, path) from error


def _as_bad(error: SpectraScaleError, path: Path) -> BadSpectrumError:
    if isinstance(error.__cause__, BadSpectrumError):
        return error.__cause__
    lacks = "lacks columns" in str(error) or isinstance(error.__cause__, UnusableColumnError)
    reason = Reason.MISSING_COLUMN if lacks else Reason.UNREADABLE
    return BadSpectrumError(reason, str(error), path)


def _reduction(path: Path) -> str:
    try:
        header = read_hdus(load(path, mapped=True), 1)[0]
        found = header.card("RUN2D") or ""
    except UnsureError:
        found = ""
    if found:
        return found
    names = [parent.name for parent in path.parents]
    return next((name for name in names if _REDUCTION.fullmatch(name)), "")


def _positions(source: Source, spplate: Path | None) -> dict[str, Array]:
    if spplate is None:
        return {}
    table = _plugmap(spplate)
    if table is None or table.n_rows != source.n_rows or "RA" not in table:
        return {}
    return {"ra": table.column("RA"), "dec": table.column("DEC")}


def _plugmap(spplate: Path) -> Table | None:
    try:
        hdus = read_hdus(load(spplate, mapped=True), _PLUGMAP + 1)
        return RawTable.of(hdus[_PLUGMAP]) if len(hdus) > _PLUGMAP else None
    except UnsureError:
        found = astropy_hdus(spplate, _PLUGMAP + 1)
        return found[_PLUGMAP].table if len(found) > _PLUGMAP else None
