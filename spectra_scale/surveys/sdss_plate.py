"""SDSS plate files: spPlate (all spectra of a plate) and spZbest (their redshifts), formats.md A2.

The order of the HDUs is the contract, since early releases have no EXTNAMEs: 0 flux, 1 ivar, 2
AND_MASK, 5 plug map. Arrays are untrimmed, so the same pixel has another index than in a spec
file: what matches is the native pixel k.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.surveys.block import SpectraBlock
from spectra_scale.surveys.canonical import UnusableColumnError
from spectra_scale.surveys.catalogue import WANTED, catalogue_of
from spectra_scale.surveys.fits_bytes import (
    Array,
    UnsureError,
    load,
    read_hdus,
)
from spectra_scale.surveys.fits_fallback import astropy_hdus
from spectra_scale.surveys.fits_table import RawTable, Table
from spectra_scale.surveys.fits_unpack import unpacked
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss import (
    SDSS_FIRST_PIXEL,
    SDSS_N_PIXELS,
    Floats,
    Ints,
    PlateArrays,
)
from spectra_scale.surveys.sdss_plate_file import PLUGMAP, PlateFile, open_plate
from spectra_scale.surveys.tables import Source, open_source

PLATE_NAME = re.compile(r"spPlate-(\d{4,5})-(\d{5})[^/]*\.fits(?:\.(?:gz|fz))?", re.IGNORECASE)
"""Name of a plate file: plate, MJD."""
ZBEST_NAME = re.compile(r"spZbest-(\d{4,5})-(\d{5})[^/]*\.fits(?:\.(?:gz|fz))?", re.IGNORECASE)
"""Name of a redshift file: plate, MJD."""

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
    plate = open_plate(path)
    if fibers is None:
        rows = np.arange(len(plate.fiber))
    else:
        rows = plate.rows_of(np.atleast_1d(np.asarray(fibers)).astype(np.int64))
        if (rows < 0).any():
            absent = np.atleast_1d(np.asarray(fibers))[rows < 0]
            message = (
                f"has {len(plate.fiber)} fibres, none of number {absent[0]} "
                f"({len(absent)} missing)"
            )
            raise BadSpectrumError(Reason.ROW_WITHOUT_FIBRE, message, path)
    found = _spectra(plate, rows)
    arrays = (found.flux, found.ivar, found.mask_bits)
    reasons = list(found.reason)
    return PlateArrays(plate.fiber[rows], plate.first_pixel, *arrays, reasons, found.n_repaired)


def read_plate_block(path: Path, fibers: npt.ArrayLike) -> SpectraBlock:
    """Read fibres of a plate file, in the order asked for.

    Parameters
    ----------
    path
        The spPlate file, gzipped, fpacked or plain.
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
    plate = open_plate(path)
    wanted = np.atleast_1d(np.asarray(fibers)).astype(np.int64)
    found = _spectra(plate, plate.rows_of(wanted))
    for spectrum, reason in enumerate(found.reason):
        if reason == Reason.ROW_WITHOUT_FIBRE:
            n_fibers, number = len(plate.fiber), wanted[spectrum]
            found.message[spectrum] = (  # type: ignore[index]  # the list made below
                f"the plate file has {n_fibers} fibres, not one of number {number}"
            )
    return found


_AT_ONCE = 1 << 18  # bytes of an image: what was read is still in the cache when it is checked


def _spectra(plate: PlateFile, rows: npt.NDArray[np.int64]) -> SpectraBlock:
    """Spectra of rows of a plate file; row -1 stands for a fibre that it lacks."""
    # Compiled code is loaded when a plate is read, not when its name is looked at.
    from spectra_scale.spectrum.arms_kernels import COUNTS, make_usable

    shape = (len(rows), plate.n_pixels)
    flux, ivar = np.empty(shape, np.uint32), np.empty(shape, np.uint32)
    mask = np.empty(shape, np.uint32)
    counts = np.zeros((len(rows), COUNTS), np.int32)
    n_at_once = max(1, _AT_ONCE // (4 * plate.n_pixels))
    piece = np.empty((n_at_once, plate.n_pixels), np.uint32)
    order = np.arange(n_at_once)
    for start, stop in _runs(rows, n_at_once):
        n = stop - start
        if rows[start] < 0:
            flux[start], ivar[start], mask[start] = 0, 0, 0
            continue
        here, row = slice(start, stop), int(rows[start])
        plate.read_into(flux[here], 0, row)
        plate.read_into(ivar[here], 1, row)
        make_usable(flux[here], ivar[here], order[:n], 0, plate.n_pixels, counts[here])
        plate.read_into(piece[:n], 2, row)
        mask[here] = piece[:n].view(">u4")
    plate.check_unchanged()
    weights = ivar.view(np.float32)
    reasons = _reasons(plate.first_pixel, rows, counts, weights)
    messages = [_MESSAGES.get(reason, "") for reason in reasons]
    n_repaired = counts[:, 1] - counts[:, 0]
    arrays = (flux.view(np.float32), weights, mask)
    return SpectraBlock(plate.first_pixel, *arrays, reasons, messages, n_repaired)


def _runs(rows: npt.NDArray[np.int64], longest: int) -> list[tuple[int, int]]:
    """Ranges of `rows` that follow each other in the file."""
    # Each fibre that the file lacks is a range by itself.
    breaks = np.flatnonzero(np.diff(np.where(rows < 0, -2, rows)) != 1) + 1
    edges = [0, *breaks.tolist(), len(rows)]
    return [
        (at, min(at + longest, stop))
        for start, stop in pairwise(edges)
        for at in range(start, stop, longest)
    ]


def _reasons(first: int, rows: npt.NDArray[np.int64], counts: Ints, ivar: Floats) -> list[str]:
    """Why spectra cannot be used; the `ivar` of these becomes 0.

    `counts` are usable pixels, those with an ivar, and those with a positive and finite one.
    """
    found = np.full(len(rows), "", "U24")
    low = max(SDSS_FIRST_PIXEL - first, 0)
    high = max(SDSS_FIRST_PIXEL + SDSS_N_PIXELS - first, 0)
    outside = ivar[:, :low].any(axis=1) | ivar[:, high:].any(axis=1)
    usable, present, positive = counts.T
    # The last that holds is the one that is told.
    for holds, reason in (
        (outside, Reason.OUTSIDE_NATIVE_GRID),
        (usable == 0, Reason.ALL_IVAR_ZERO),
        ((usable == 0) & (present > 0), Reason.BAD_IVAR),
        ((usable == 0) & (positive > 0), Reason.NON_FINITE_FLUX),
        (rows < 0, Reason.ROW_WITHOUT_FIBRE),
    ):
        found[holds] = str(reason)
    ivar[found != ""] = 0
    return list(found.tolist())


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
    found = _both(spplate, f"{stem}*.fits*")
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
        found = read_hdus(load(path, mapped=True), 1)[0].card("RUN2D") or ""
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
    buffer = load(spplate, mapped=True)
    try:
        buffer = unpacked(buffer) or buffer
        hdus = read_hdus(buffer, PLUGMAP + 1)
        return RawTable.of(hdus[PLUGMAP]) if len(hdus) > PLUGMAP else None
    except UnsureError:
        found = astropy_hdus(buffer, PLUGMAP + 1)
        return found[PLUGMAP].table if len(found) > PLUGMAP else None
