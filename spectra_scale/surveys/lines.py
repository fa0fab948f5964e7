"""Emission-line measurements, from every table that has them, in one form: formats.md A4.

Fluxes are in 1e-17 erg s⁻¹ cm⁻²; EW(Hα) is in Å, rest frame, positive in emission. A value that is
not measured (-9999, not finite, error not positive) is NaN together with its error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys.fits_bytes import Array
from spectra_scale.surveys.tables import Source, open_source

LINES = ("hbeta", "oiii", "halpha", "nii")
"""The lines of the BPT diagram."""

LINE_COLUMNS = (
    *(f"{line}_{what}" for line in LINES for what in ("flux", "err")),
    "halpha_ew",
    "halpha_ew_err",
)
"""Canonical measurement columns, all float64."""

LINE_SCHEMA = pa.schema(
    [("plate", pa.int32()), ("mjd", pa.int32()), ("fiber", pa.int32())]
    + [(name, pa.float64()) for name in LINE_COLUMNS]
    + [("source", pa.string())]
)
"""Arrow schema of a canonical line catalogue."""

SPZLINE_COLUMNS = ("LINENAME", "LINEAREA", "LINEAREA_ERR", "LINEEW", "LINEEW_ERR")
"""Columns of SPZLINE (ZLINE) that are read."""

_SPZLINE_NAMES = ("H_beta", "[O_III] 5007", "H_alpha", "[N_II] 6583")
_PORTSMOUTH_INDEX = (15, 17, 24, 25)  # of 28 lines (formats.md A4)
_PORTSMOUTH_LINES = 28
_MISSING = -9999.0  # "no value"; real fluxes may be lower still


def lines_from_spzline(table: Mapping[str, Array], redshift: float) -> dict[str, Any]:
    """Line measurements of one object from the pipeline's line fits.

    Parameters
    ----------
    table
        `SPZLINE_COLUMNS`, shape (line,).
    redshift
        Of the object: LINEEW is in the observed frame and is divided by 1 + z.

    Returns
    -------
    dict
        `LINE_COLUMNS` as floats and ``source`` ``spzline``. NaN for a line that is absent or has
        a negative error, which marks an invalid fit; EW is NaN for a redshift that is unusable.
    """
    names = {str(name).strip(): row for row, name in reversed([*enumerate(table["LINENAME"])])}
    out: dict[str, Any] = dict.fromkeys(LINE_COLUMNS, math.nan)
    for line, name in zip(LINES, _SPZLINE_NAMES, strict=True):
        if name in names:
            row = names[name]
            pair = float(table["LINEAREA"][row]), float(table["LINEAREA_ERR"][row])
            out[f"{line}_flux"], out[f"{line}_err"] = _valid_one(*pair)
    stretch = 1 + redshift
    if _SPZLINE_NAMES[2] in names and math.isfinite(stretch) and stretch > 0:
        row = names[_SPZLINE_NAMES[2]]
        pair = float(table["LINEEW"][row]), float(table["LINEEW_ERR"][row])
        ew, error = _valid_one(*pair)
        out["halpha_ew"], out["halpha_ew_err"] = ew / stretch, error / stretch
    out["source"] = "spzline"
    return out


def _valid_one(value: float, error: float) -> tuple[float, float]:
    good = math.isfinite(value) and value != _MISSING and math.isfinite(error) and error > 0
    return (value, error) if good else (math.nan, math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class _Format:
    """One kind of line table: how it is told, and where its values stand."""

    source: str
    title: str
    plate: tuple[str, ...]
    marks: tuple[str, ...]
    read: Callable[[Source], dict[str, Array]]


def _read_arrays(source: Source) -> dict[str, Array]:
    wide = {name: source.read(name) for name in ("FLUX", "FLUX_ERR", "EW", "EW_ERR")}
    for name, values in wide.items():
        if values.ndim != 2 or values.shape[1] != _PORTSMOUTH_LINES:
            msg = (
                f"{source.path}: column {name} has shape {values.shape}, expected "
                f"{_PORTSMOUTH_LINES} lines a row, in the order of the Portsmouth catalogue."
            )
            raise SpectraScaleError(msg)
    out = {}
    for line, index in zip(LINES, _PORTSMOUTH_INDEX, strict=True):
        out[f"{line}_flux"] = wide["FLUX"][:, index]
        out[f"{line}_err"] = wide["FLUX_ERR"][:, index]
    halpha = _PORTSMOUTH_INDEX[2]
    return out | {"halpha_ew": wide["EW"][:, halpha], "halpha_ew_err": wide["EW_ERR"][:, halpha]}


_CAS_NAMES = ("Hb_4861", "OIII_5006", "Ha_6562", "NII_6583")


def _read_cas(source: Source) -> dict[str, Array]:
    out = {}
    for line, name in zip(LINES, _CAS_NAMES, strict=True):
        out[f"{line}_flux"] = source.read(f"Flux_{name}")
        out[f"{line}_err"] = source.read(f"Flux_{name}_Err")
    ew = {"halpha_ew": "EW_Ha_6562", "halpha_ew_err": "EW_Ha_6562_Err"}
    return out | {name: source.read(column) for name, column in ew.items()}


_MPA_NAMES = ("H_BETA", "OIII_5007", "H_ALPHA", "NII_6584")


def _read_mpa(source: Source) -> dict[str, Array]:
    out = {}
    for line, name in zip(LINES, _MPA_NAMES, strict=True):
        out[f"{line}_flux"] = source.read(f"{name}_FLUX")
        out[f"{line}_err"] = source.read(f"{name}_FLUX_ERR")
    # MPA-JHU counts emission as negative.
    ew = np.asarray(source.read("H_ALPHA_EQW"), np.float64)
    out["halpha_ew"] = np.where(ew != _MISSING, -ew, np.nan)
    out["halpha_ew_err"] = source.read("H_ALPHA_EQW_ERR")
    reliable = _reliable(source)
    return {name: np.where(reliable, values, np.nan) for name, values in out.items()}


def _reliable(source: Source) -> Array:
    """RELIABLE of galSpec: in the table itself, or in the galSpecInfo file beside it."""
    holder = source
    if "RELIABLE" not in source:
        beside = source.path.with_name(source.path.name.replace("galSpecLine", "galSpecInfo"))
        if beside == source.path or not beside.is_file():
            msg = (
                f"{source.path} has no column RELIABLE, and no galSpecInfo file lies beside it. "
                "Unreliable fits must not be used: put galSpecInfo-dr8.fits into the same folder."
            )
            raise SpectraScaleError(msg)
        holder = open_source(beside, WANTED)
    reliable = np.asarray(holder.read("RELIABLE"))
    if len(reliable) != source.n_rows:
        msg = (
            f"{holder.path} has {len(reliable)} rows, {source.path} has {source.n_rows}: the two "
            "are matched row by row. Take both from the same release."
        )
        raise SpectraScaleError(msg)
    return np.asarray(reliable.astype(np.float64) == 1)


_PLATE = ("PLATE", "PLATEID")
_FORMATS = (
    _Format(
        "portsmouth",
        "Portsmouth, arrays of 28 lines",
        _PLATE,
        ("FLUX", "FLUX_ERR", "EW", "EW_ERR"),
        _read_arrays,
    ),
    _Format(
        "cas",
        "Portsmouth, CAS or Data Lab columns",
        _PLATE,
        tuple(f"Flux_{name}" for name in _CAS_NAMES),
        _read_cas,
    ),
    _Format(
        "mpa-jhu",
        "MPA-JHU galSpecLine",
        ("PLATEID", "PLATE"),
        tuple(f"{name}_FLUX" for name in _MPA_NAMES),
        _read_mpa,
    ),
)


WANTED = frozenset(
    name.lower()
    for name in (
        *(name for each in _FORMATS for name in (*each.plate, *each.marks)),
        *(f"Flux_{name}_Err" for name in _CAS_NAMES),
        *(f"{name}_FLUX_ERR" for name in _MPA_NAMES),
        *("MJD", "FIBERID", "FIBER", "EW_Ha_6562", "EW_Ha_6562_Err"),
        *("H_ALPHA_EQW", "H_ALPHA_EQW_ERR", "RELIABLE"),
    )
)
"""Lower-case names of all columns that are read from a line catalogue."""


def is_line_catalogue(source: Source) -> bool:
    """Whether a table is one of the known line catalogues, by its columns."""
    return _format_of(source) is not None


def read_line_catalogue(path: Path) -> pa.Table:
    """Read a line catalogue: Portsmouth (28-line arrays, or CAS columns) or MPA-JHU galSpecLine.

    Parameters
    ----------
    path
        FITS, CSV or Parquet. For MPA-JHU, `galSpecInfo` lies beside it if it has no RELIABLE.

    Returns
    -------
    pyarrow.Table
        `LINE_SCHEMA`; rows without an identity (PLATEID -1) are left out. EW is positive in
        emission, whatever the sign in the source. A join is by plate, mjd and fiber.

    Raises
    ------
    SpectraScaleError
        If the table is of no known kind, lacks a column, or has EWs of the wrong sign.
    """
    source = open_source(path, WANTED)
    kind = _format_of(source)
    if kind is None:
        known = "; ".join(f"{each.title}: {', '.join(each.marks)}" for each in _FORMATS)
        msg = (
            f"{path} is no line catalogue: found columns {source.some_names()}; expected PLATE "
            f"(or PLATEID), MJD and FIBERID with one of [{known}]. Give another file."
        )
        raise SpectraScaleError(msg)
    identity = [source.whole(names) for names in (kind.plate, ("MJD",), ("FIBERID", "FIBER"))]
    values = {name: np.asarray(v, np.float64) for name, v in kind.read(source).items()}
    _blank_invalid(values)
    _check_sign(path, values)
    there = np.logical_and.reduce([each > 0 for each in identity])
    _check_identity(path, [each[there] for each in identity])
    columns: list[Array] = [each[there].astype(np.int32) for each in identity]
    columns += [values[name][there] for name in LINE_COLUMNS]
    columns.append(np.full(int(there.sum()), kind.source))
    return pa.table([pa.array(column) for column in columns], LINE_SCHEMA)


def _check_identity(path: Path, identity: list[Array]) -> None:
    for name, values in zip(("plate", "MJD", "fibre"), identity, strict=True):
        if len(values) and values.max() > 99999:
            msg = (
                f"{path}: {name} reaches {values.max()}, expected at most five digits. The column "
                "is another id (PLATEID of CAS is one): export PLATE, MJD and FIBERID."
            )
            raise SpectraScaleError(msg)


def _format_of(source: Source) -> _Format | None:
    if "MJD" not in source or not ("FIBERID" in source or "FIBER" in source):
        return None
    for each in _FORMATS:
        plate = any(name in source for name in each.plate)
        if plate and all(name in source for name in each.marks):
            return each
    return None


def _blank_invalid(values: dict[str, Array]) -> None:
    pairs = [(f"{line}_flux", f"{line}_err") for line in LINES] + [("halpha_ew", "halpha_ew_err")]
    for value, error in pairs:
        v, e = values[value], values[error]
        good = np.isfinite(v) & (v != _MISSING) & np.isfinite(e) & (e > 0)
        values[value], values[error] = np.where(good, v, np.nan), np.where(good, e, np.nan)


def _check_sign(path: Path, values: Mapping[str, Array]) -> None:
    with np.errstate(invalid="ignore"):
        strong = values["halpha_flux"] > 5 * values["halpha_err"]
    ew = values["halpha_ew"][strong & np.isfinite(values["halpha_ew"])]
    if len(ew) and np.median(ew) < 0:
        msg = (
            f"{path}: EW(Hα) has a median of {np.median(ew):.3g} Å in {len(ew)} objects with "
            "Hα in emission; expected positive values (after the sign of the source is undone). "
            "The catalogue has another convention than formats.md A4 says."
        )
        raise SpectraScaleError(msg)
