"""From the columns of a source to canonical catalogue columns, many rows at once.

One row, for spectrum files, is in `canonical_row`; tests hold both to the same answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.surveys.canonical_derived import (
    ebv_of_extinction,
    own_ids,
    rebuilt_specobjid,
    specobjids,
)
from spectra_scale.surveys.canonical_values import (
    MISSING_BELOW,
    Bools,
    UnusableColumnError,
    flags,
    floats,
    integers,
    known_integers,
    rows_of,
    texts,
    value_of,
)
from spectra_scale.surveys.catalogue_columns import (
    BOSS_LAST_MJD,
    CATALOGUE_COLUMNS,
    STANDARD_OBJTYPES,
)
from spectra_scale.surveys.fits_bytes import Array

__all__ = [
    "CATALOGUE_SCHEMA",
    "MISSING_BELOW",
    "UNKNOWN",
    "Canonical",
    "UnusableColumnError",
    "canonical_rows",
    "ebv_of_extinction",
    "instrument_of",
    "is_legacy",
    "rebuilt_specobjid",
    "survey_of",
    "table_of",
    "targettype_of",
]

CATALOGUE_SCHEMA = pa.schema(
    [(column.name, pa.type_for_alias(column.dtype)) for column in CATALOGUE_COLUMNS]
)
"""Arrow schema of a canonical catalogue."""

_TEXT = tuple(c.name for c in CATALOGUE_COLUMNS if c.dtype == "string")
_FLOATS = {c.name: c.dtype for c in CATALOGUE_COLUMNS if c.dtype.startswith("float")}
_INTEGERS = {c.name: c.dtype for c in CATALOGUE_COLUMNS if c.dtype.startswith("int")}
UNKNOWN: dict[str, int | float] = {
    "ebv": math.nan, "z_err": math.nan, "sn_median_all": math.nan, "specprimary": -1,
    "z_noqso": math.nan, "zwarning_noqso": -1, "field": -1, "catalogid": -1, "sdss_id": -1,
    "targetid": -1, "healpix": -1, "fiberstatus": -1,
}  # fmt: skip
_IDS = {
    "sdss": ("plate", "mjd", "fiber"),
    "sdssv": ("field", "mjd", "catalogid"),
    "desi": ("targetid",),
}
_LEGACY_SURVEY = {"26": "sdss", "103": "segue1", "104": "segue2"}
_NSIDE64 = 4 * 64**2  # UNIQPIX of the first pixel of nside 64


class Canonical(NamedTuple):
    """Rows of a source as canonical catalogue rows.

    Parameters
    ----------
    table
        `CATALOGUE_SCHEMA`.
    rows
        Row of the source that each is from, int64, ascending.
    lost
        Rows of the source whose identity cannot be read, ascending, and what was found.
    """

    table: pa.Table
    rows: Array
    lost: list[tuple[int, str]]


def is_legacy(reduction: str) -> bool:
    """Whether a RUN2D is one of the SDSS spectrographs' own (26, 103, 104)."""
    return not reduction.startswith("v")


def survey_of(reduction: str, mjd: int) -> str:
    """Survey by RUN2D and date, where the source has no SURVEY; empty if unknown."""
    if reduction.startswith("v"):
        return "eboss" if mjd > BOSS_LAST_MJD else "boss"
    return _LEGACY_SURVEY.get(reduction, "")


def instrument_of(reduction: str) -> str:
    """Spectrograph by RUN2D, where the source has no INSTRUMENT; empty if unknown."""
    if reduction.startswith("v"):
        return "BOSS"
    return "SDSS" if reduction in _LEGACY_SURVEY else ""


def targettype_of(found: str) -> str:
    """TARGETTYPE, or what an OBJTYPE means: SCIENCE, SKY, STANDARD, QA, CALIBRATION or empty."""
    upper = found.upper()
    if upper in {"", "SKY", "SCIENCE"}:
        return upper
    if upper in STANDARD_OBJTYPES:
        return "STANDARD"
    # An OBJTYPE such as QSO, GALAXY or NA says what a fibre was put on: all are science.
    return upper if upper in {"STANDARD", "QA", "CALIBRATION"} else "SCIENCE"


def table_of(found: Mapping[str, Array], reduction: str = "") -> pa.Table:
    """Canonical catalogue of SDSS to DR17 from the columns of a source.

    Parameters
    ----------
    found
        Canonical name (and the auxiliary ``extinction``, ``extinction_u``, ``extinction_r`` and
        ``class_noqso``) to values, shape (row,) or (row, band). All of `NEEDED` are there.
    reduction
        RUN2D where the source has no such column.

    Returns
    -------
    pyarrow.Table
        With `CATALOGUE_SCHEMA`.

    Raises
    ------
    UnusableColumnError
        If a column holds something else than it should.
    """
    made = canonical_rows(found, "sdss", reduction)
    if made.lost:
        row, message = made.lost[0]
        msg = f"row {row}: {message} ({len(made.lost)} such rows)"
        raise UnusableColumnError(msg)
    return made.table


def canonical_rows(found: Mapping[str, Array], kind: str, reduction: str = "") -> Canonical:
    """Canonical catalogue rows from the columns of a source.

    Parameters
    ----------
    found
        Names of `ColumnMap.columns` to values, shape (row,) or (row, band); masked where null.
        Those that the origin needs are there, and `survey` and `program` for DESI.
    kind
        How spectra are named: `sdss`, `sdssv` or `desi`.
    reduction
        RUN2D or SPECPROD where the source has no such column.

    Returns
    -------
    Canonical
        Rows whose plate, MJD and fibre (SDSS-V: field, MJD and catalogid; DESI: TARGETID, survey
        and program) cannot be read are `lost`. Any other value that cannot be read is unknown;
        of a ZWARNING all bits are set. Redshifts are as they are.

    Raises
    ------
    UnusableColumnError
        If a whole column holds something else than it should.
    """
    n_rows = len(found[_IDS[kind][0]])
    lost = _unnamed(found, kind, n_rows)
    keep = np.ones(n_rows, bool)
    keep[[row for row, _ in lost]] = False
    if lost:
        found = rows_of(found, keep)
    out = _plain_columns(found, int(keep.sum()))
    out["reduction"] = np.where(out["reduction"] == "", reduction, out["reduction"])
    {"sdss": _as_sdss, "sdssv": _as_sdssv, "desi": _as_desi}[kind](out, found)
    ids = (("survey", "program") if kind == "desi" else ()) + _IDS[kind]
    out["spectrum_key"] = _keys(kind, [out[name] for name in ids])
    columns = [pa.array(out[name]) for name in CATALOGUE_SCHEMA.names]
    return Canonical(pa.table(columns, CATALOGUE_SCHEMA), np.flatnonzero(keep), lost)


def _keys(prefix: str, ids: list[Array]) -> pa.Array:
    parts = [pa.array(values).cast(pa.string()) for values in ids]
    joined = pc.binary_join_element_wise(*parts, "-")
    return pc.binary_join_element_wise(pa.scalar(prefix), joined, ":")


def _unnamed(found: Mapping[str, Array], kind: str, n_rows: int) -> list[tuple[int, str]]:
    """Rows whose ids cannot be read: of the first such id, what was found."""
    said: dict[int, str] = {}
    for name in _IDS[kind]:
        numbers, bad = integers(found[name], name, _INTEGERS[name])
        expected = "a whole number"
        if kind != "desi":
            bad, expected = bad | (numbers < 0), "a whole number, not negative"
        for row in np.flatnonzero(bad).tolist():
            text = f"{name.upper()} is {value_of(found[name], row)}, expected {expected}"
            said.setdefault(row, text)
    for name in ("survey", "program") if kind == "desi" else ():
        for row in np.flatnonzero(texts(found[name], n_rows) == "").tolist():
            said.setdefault(row, f"{name.upper()} is empty: TARGETID alone names no spectrum")
    return sorted(said.items())


def _plain_columns(found: Mapping[str, Array], n_rows: int) -> dict[str, Array]:
    """Canonical columns that a source has; what it lacks is unknown."""
    out: dict[str, Array] = {
        name: texts(found.get(name), n_rows) for name in _TEXT if name != "specobjid"
    }
    for name, dtype in _FLOATS.items():
        unknown = name in UNKNOWN
        out[name] = (
            floats(found[name], name, dtype, has_unknown=unknown)
            if name in found
            else np.full(n_rows, np.nan, dtype)
        )
    for name, dtype in _INTEGERS.items():
        unknown_as = int(UNKNOWN.get(name, -1))
        out[name] = (
            known_integers(found[name], name, dtype, unknown_as)
            if name in found and name != "specprimary"
            else np.full(n_rows, unknown_as, dtype)
        )
    if "specprimary" in found:
        out["specprimary"] = flags(found["specprimary"], "specprimary")
    return out


def _as_sdss(out: dict[str, Array], found: Mapping[str, Array]) -> None:
    reductions, which = np.unique(out["reduction"], return_inverse=True)
    names = reductions.tolist()
    boss = np.array([survey_of(name, 0) for name in names], "U8")[which]
    eboss = np.array([survey_of(name, BOSS_LAST_MJD + 1) for name in names], "U8")[which]
    derived = np.where(out["mjd"] > BOSS_LAST_MJD, eboss, boss)
    out["survey"] = np.where(out["survey"] == "", derived, np.char.lower(out["survey"]))
    instrument = np.array([instrument_of(name) for name in names], "U8")[which]
    given = np.char.upper(out["instrument"])
    out["instrument"] = np.where(given == "", instrument, given)
    out["platequality"] = np.char.lower(out["platequality"])
    out["targettype"] = _by_value(out["targettype"], targettype_of)
    legacy = np.array([is_legacy(name) for name in names], bool)[which]
    classes = found.get("class_noqso")
    unfilled = legacy if classes is None else texts(classes, len(legacy)) == ""
    _without_noqso(out, unfilled)
    if "ebv" not in found:
        out["ebv"] = _ebvs(found, len(legacy))
    out["specobjid"] = specobjids(found.get("specobjid"), out)


def _as_sdssv(out: dict[str, Array], found: Mapping[str, Array]) -> None:
    n_rows = len(out["field"])
    out["survey"], out["instrument"] = np.full(n_rows, "sdssv"), np.full(n_rows, "BOSS")
    out["program"] = np.full(n_rows, "")
    out["plate"], out["fiber"] = (np.full(n_rows, -1, np.int32) for _ in range(2))
    out["sdss_id"] = np.maximum(out["sdss_id"], -1)
    out["platequality"] = np.char.lower(out["platequality"])
    # SKY_BOSS and STANDARD_BOSS are the categories of targets of the fibre positioners.
    out["targettype"] = _by_value(
        out["targettype"], lambda value: targettype_of(value.upper().removesuffix("_BOSS"))
    )
    _without_noqso(out, texts(found.get("class_noqso"), n_rows) == "")
    if "sfd_ebv" in found:
        out["ebv"] = floats(found["sfd_ebv"], "ebv", "float32", has_unknown=True)
    else:
        kind = np.char.upper(texts(found.get("ebv_type"), n_rows))
        out["ebv"] = np.where((kind == "") | (kind == "SFD"), out["ebv"], np.float32(np.nan))
    ids = own_ids(found.get("specobjid"), n_rows)
    out["specobjid"] = np.where(ids == "0", "", ids)


def _as_desi(out: dict[str, Array], found: Mapping[str, Array]) -> None:
    n_rows = len(out["targetid"])
    out["survey"], out["program"] = np.char.lower(out["survey"]), np.char.lower(out["program"])
    out["reduction"] = np.char.lower(out["reduction"])
    out["instrument"] = np.full(n_rows, "DESI")
    out["plate"] = np.full(n_rows, -1, np.int32)
    if "targettype" in found:
        names = {"TGT": "SCIENCE", "": "UNASSIGNED"}
        out["targettype"] = _by_value(
            out["targettype"], lambda value: names.get(value.upper(), value.upper())
        )
    if "mean_mjd" in found:
        days = floats(found["mean_mjd"], "mean_mjd", "float64", has_unknown=True)
        known = np.isfinite(days) & (days > 0) & (days < np.iinfo(np.int32).max)
        out["mjd"] = np.floor(np.where(known, days, -1)).astype(np.int32)
    if "uniqpix" in found and "healpix" not in found:
        pixel = known_integers(found["uniqpix"], "uniqpix", "int64", -1) - _NSIDE64
        inside = (pixel >= 0) & (pixel < 3 * _NSIDE64)
        out["healpix"] = np.where(inside, pixel, -1).astype(np.int32)
    if "specprimary" not in found:
        out["specprimary"] = _primary(out["survey"], found)
    out["specobjid"] = np.full(n_rows, "")


def _primary(survey: Array, found: Mapping[str, Array]) -> Array:
    """MAIN_PRIMARY is of the main survey, SV_PRIMARY of sv1 to sv3, each of no other."""
    out = np.full(len(survey), -1, np.int8)
    for name, which in (
        ("main_primary", survey == "main"),
        ("sv_primary", np.char.startswith(survey, "sv")),
    ):
        if name in found:
            out = np.where(which, flags(found[name], name), out)
    return out


def _by_value(values: Array, translate: Callable[[str], str]) -> Array:
    names, which = np.unique(values, return_inverse=True)
    return np.array([translate(name) for name in names.tolist()], "U16")[which]


def _without_noqso(out: dict[str, Array], unfilled: Bools) -> None:
    out["z_noqso"] = np.where(unfilled, np.float32(np.nan), out["z_noqso"])
    out["zwarning_noqso"] = np.where(unfilled, np.int32(-1), out["zwarning_noqso"])


def _ebvs(found: Mapping[str, Array], n_rows: int) -> Array:
    bands = found.get("extinction")
    if bands is not None and bands.ndim == 2 and bands.shape[1] >= 3:
        return ebv_of_extinction(bands[:, 0], bands[:, 2])
    if "extinction_u" in found and "extinction_r" in found:
        return ebv_of_extinction(found["extinction_u"], found["extinction_r"])
    return np.full(n_rows, np.nan, np.float32)
