"""Catalogue rows of a MultimodalUniverse file: its columns are those of specObj or zall-pix.

MultimodalUniverse writes every column of the survey's catalogue (specObj-dr17, zall-pix) and adds
object_id, ra and dec; an export that keeps but a few of them is read as far as it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.spectrum.identity import desi_key, unpack_specobjid
from spectra_scale.surveys.canonical import (
    CATALOGUE_SCHEMA,
    UNKNOWN,
    UnusableColumnError,
    table_of,
)
from spectra_scale.surveys.catalogue_columns import SPECOBJ_MAP
from spectra_scale.surveys.mmu_file import Array, MmuFile, open_mmu
from spectra_scale.surveys.reasons import Reason

ROW_SCHEMA = pa.schema([*CATALOGUE_SCHEMA, ("source_row", pa.int64())])
"""Catalogue columns, and the row of the file."""

_IDENTITY = ("plate", "mjd", "fiber")
_UINT64_DIGITS = 20
_DESI_COLUMNS = {
    "ra": ("TARGET_RA", "ra"), "dec": ("TARGET_DEC", "dec"), "z": ("Z",), "z_err": ("ZERR",),
    "zwarning": ("ZWARN",), "ebv": ("EBV",), "healpix": ("HEALPIX",),
    "fiberstatus": ("COADD_FIBERSTATUS",), "specprimary": ("ZCAT_PRIMARY",),
    "mjd": ("MEAN_MJD",), "class": ("SPECTYPE",), "subclass": ("SUBTYPE",),
}  # fmt: skip
_TARGET_TYPES = {"TGT": "SCIENCE", "": "UNASSIGNED"}


class LostRow(NamedTuple):
    """A row of the file that is no catalogue row.

    Parameters
    ----------
    row
        Its number in the file.
    spectrum_key
        Its key; '' if it has none.
    reason, message
        Why: a code of `reasons.Reason`, and what was found.
    """

    row: int
    spectrum_key: str
    reason: str
    message: str


def read_rows(path: Path) -> tuple[pa.Table, list[LostRow]]:
    """Read the catalogue rows of a file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    rows
        `ROW_SCHEMA`, in the order of the file. Keys are those of the survey's own files:
        ``sdss:PLATE-MJD-FIBER``, from the columns or out of the specObjID that object_id is, or
        ``desi:SURVEY-PROGRAM-TARGETID``.
    lost
        Every other row of the file: an object_id that names nothing, one that contradicts PLATE,
        MJD and FIBERID, and those of an SDSS plate of which the file has several MJDs:
        MultimodalUniverse takes the spectra of all of them from the plate file of one.

    Raises
    ------
    BadSpectrumError
        If the file cannot be read, or lacks a column without which nothing has a name.
    """
    # Damaged numbers may not fit the type that they are cast to.
    with open_mmu(path) as file, np.errstate(over="ignore", invalid="ignore"):
        try:
            found = _sdss(file) if file.survey == "sdss" else _desi(file)
        except (UnusableColumnError, SpectraScaleError) as error:
            if isinstance(error, BadSpectrumError):
                raise
            raise BadSpectrumError(Reason.MISSING_COLUMN, str(error), path) from error
    return found


def _whole(values: Array) -> npt.NDArray[np.int64]:
    """Whole numbers of a column, one a row; -1 where there is none."""
    if values.dtype.kind not in "iubf" or values.ndim != 1:
        msg = f"a column is {values.dtype} with {values.ndim} axes, expected one number a row"
        raise UnusableColumnError(msg)
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    good = np.isfinite(values) & (values == np.rint(values)) & (np.abs(values) < 2.0**53)
    return np.where(good, values, -1).astype(np.int64)


def _require(file: MmuFile, names: Sequence[str]) -> None:
    if not any(name in file for name in names):
        message = (
            f"has no dataset {' or '.join(names)}, without which its spectra have no name, place "
            "or redshift"
        )
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, file.path)


# SDSS -----------------------------------------------------------------------------------------


def _sdss(file: MmuFile) -> tuple[pa.Table, list[LostRow]]:
    found = _sdss_columns(file)
    reasons = np.full(file.n_rows, "", dtype=object)
    packed, is_id = _unpacked(file)
    has_columns = all(name in found for name in _IDENTITY)
    if has_columns:
        identity = {name: _whole(found[name]) for name in _IDENTITY}
        same = np.logical_and.reduce([identity[n] == packed[n] for n in _IDENTITY])
        reasons[is_id & ~same] = "object_id is the specObjID of another plate, MJD or fibre"
    else:
        identity = {name: packed[name] for name in _IDENTITY}
        reasons[~is_id] = "object_id is no specObjID, and there are no PLATE, MJD and FIBERID"
    if "reduction" not in found:
        found["reduction"] = np.where(is_id, packed["run2d"], "")
    reasons[np.logical_or.reduce([identity[n] <= 0 for n in _IDENTITY]) & (reasons == "")] = (
        "plate, MJD and fibre are not all positive"
    )
    _mark_mixed_plates(identity, reasons)
    found |= identity
    good = np.flatnonzero(reasons == "")
    table = table_of({name: values[good] for name, values in found.items()})
    keys = [f"sdss:{p}-{m}-{f}" for p, m, f in zip(*(identity[n] for n in _IDENTITY), strict=True)]
    lost = [
        LostRow(int(row), keys[row] if has_columns else "", Reason.IDENTITY_MISMATCH, reasons[row])
        for row in np.flatnonzero(reasons != "")
    ]
    return _with_rows(table, good), lost


def _sdss_columns(file: MmuFile) -> dict[str, Array]:
    found = {}
    for name, sources in SPECOBJ_MAP.columns.items():
        present = next((each for each in sources if each in file), None)
        if present is not None:
            found[name] = file.column(present)
    for name in ("ra", "dec", "z"):
        _require(file, SPECOBJ_MAP.columns[name])
    # An export may drop what it does not cut on; what is not known must not pass for good.
    found.setdefault("zwarning", np.full(file.n_rows, -1, np.int32))
    found.setdefault("class", np.full(file.n_rows, "", "U1"))
    if found["zwarning"].dtype.kind == "b":
        found["zwarning"] = found["zwarning"].astype(np.int32)
    found["specobjid"] = file.column("object_id")
    return found


def _unpacked(file: MmuFile) -> tuple[dict[str, Array], npt.NDArray[np.bool_]]:
    """What object_id says, and where it says something."""
    values = file.column("object_id")
    text = values if values.dtype.kind == "U" else values.astype(np.str_)
    is_id = np.char.isdecimal(text) & (np.char.str_len(text) <= _UINT64_DIGITS)
    usable = [t if ok and int(t) < 1 << 64 else "0" for t, ok in zip(text, is_id, strict=True)]
    ids = unpack_specobjid(np.array(usable, np.str_))
    # No specObjID is below that of plate 1.
    is_id &= ids.plate > 0
    return {"plate": ids.plate, "mjd": ids.mjd, "fiber": ids.fiber, "run2d": ids.run2d}, is_id


def _mark_mixed_plates(identity: dict[str, Any], reasons: npt.NDArray[np.object_]) -> None:
    rows = np.flatnonzero(reasons == "")
    pairs = np.unique(np.stack([identity["plate"][rows], identity["mjd"][rows]], axis=1), axis=0)
    plates, n_dates = np.unique(pairs[:, 0], return_counts=True)
    for plate in plates[n_dates > 1].tolist():
        dates = ", ".join(str(m) for p, m in pairs.tolist() if p == plate)
        reasons[rows[identity["plate"][rows] == plate]] = (
            f"plate {plate} was observed at MJDs {dates}, and MultimodalUniverse took the spectra "
            "of all from one of its plate files, nobody knows which: take it from the survey"
        )


# DESI -----------------------------------------------------------------------------------------


def _desi(file: MmuFile) -> tuple[pa.Table, list[LostRow]]:
    for names in (("SURVEY",), ("PROGRAM",), *(_DESI_COLUMNS[n] for n in ("ra", "dec", "z"))):
        _require(file, names)
    target = _targets(file)
    # As in keys of coadds: lower case, whatever the file has.
    survey, program = (
        np.char.lower(file.column(name).astype(np.str_)) for name in ("SURVEY", "PROGRAM")
    )
    good = np.flatnonzero((survey != "") & (program != ""))
    out = {field.name: _unknown(field.name, file.n_rows) for field in CATALOGUE_SCHEMA}
    out |= _desi_columns(file)
    out |= {
        "spectrum_key": desi_key(survey, program, target), "survey": survey, "program": program,
        "targetid": target, "specobjid": target.astype(np.str_),
        "instrument": np.full(file.n_rows, "DESI"),
    }  # fmt: skip
    arrays = [pa.array(out[field.name][good]).cast(field.type) for field in CATALOGUE_SCHEMA]
    lost = [
        LostRow(int(row), "", Reason.IDENTITY_MISMATCH, "SURVEY or PROGRAM is blank")
        for row in np.setdiff1d(np.arange(file.n_rows), good)
    ]
    return _with_rows(pa.table(arrays, CATALOGUE_SCHEMA), good), lost


def _targets(file: MmuFile) -> npt.NDArray[np.int64]:
    values = file.column("TARGETID" if "TARGETID" in file else "object_id")
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    try:
        return np.array([int(each) for each in values.tolist()], np.int64)
    except (ValueError, OverflowError) as error:
        message = f"TARGETID or object_id holds something else than TARGETIDs: {error}"
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, file.path) from error


def _desi_columns(file: MmuFile) -> dict[str, Array]:
    found = {}
    for name, sources in _DESI_COLUMNS.items():
        present = next((each for each in sources if each in file), None)
        # In lower case it is the cell (nside 16) that MultimodalUniverse sorts its files by.
        if present is None or (name == "healpix" and file.names["healpix"] != "HEALPIX"):
            continue
        found[name] = _typed(name, file.column(present))
    if "OBJTYPE" in file:
        kinds = file.column("OBJTYPE").astype(np.str_).tolist()
        found["targettype"] = np.array([_TARGET_TYPES.get(k, k.upper()) for k in kinds], np.str_)
    return found


def _typed(name: str, values: Array) -> Array:
    """Values as the catalogue has them; a number that does not fit is not known."""
    kind = _kind(name)
    if kind.kind == "U":
        return values.astype(np.str_)
    if kind.kind == "f":
        if values.dtype.kind not in "iubf" or values.ndim != 1:
            msg = f"column {name} is {values.dtype} with {values.ndim} axes, expected numbers"
            raise UnusableColumnError(msg)
        return values.astype(kind)
    if name == "mjd" and values.dtype.kind == "f":
        values = np.floor(values)
    numbers, limits = _whole(values), np.iinfo(kind)
    return np.where((numbers >= 0) & (numbers <= limits.max), numbers, -1).astype(kind)


def _kind(name: str) -> np.dtype[Any]:
    kind = CATALOGUE_SCHEMA.field(name).type
    return np.dtype(np.str_) if kind == pa.string() else np.dtype(kind.to_pandas_dtype())


def _unknown(name: str, n_rows: int) -> Array:
    kind = _kind(name)
    if kind.kind == "U":
        return np.full(n_rows, "", "U1")
    return np.full(n_rows, UNKNOWN.get(name, -1), kind)


def _with_rows(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    return table.append_column("source_row", pa.array(rows, pa.int64())).cast(ROW_SCHEMA)
