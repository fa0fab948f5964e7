"""From the columns of a source to canonical catalogue columns, many rows at once.

One row, for spectrum files, is in `canonical_row`; tests hold both to the same answers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys.catalogue_columns import (
    BOSS_LAST_MJD,
    CATALOGUE_COLUMNS,
    EXTINCTION_LAWS,
    EXTINCTION_RATIO_TOLERANCE,
    STANDARD_OBJTYPES,
)
from spectra_scale.surveys.fits_bytes import Array

log = logging.getLogger(__name__)

CATALOGUE_SCHEMA = pa.schema(
    [(column.name, pa.type_for_alias(column.dtype)) for column in CATALOGUE_COLUMNS]
)
"""Arrow schema of a canonical catalogue."""

MISSING_BELOW = -9000.0  # CAS writes -9999 for "no value"
_TEXT = tuple(c.name for c in CATALOGUE_COLUMNS if c.dtype == "string")
UNKNOWN: dict[str, int | float] = {
    "ebv": math.nan, "z_err": math.nan, "sn_median_all": math.nan, "specprimary": -1,
    "z_noqso": math.nan, "zwarning_noqso": -1, "field": -1, "catalogid": -1, "sdss_id": -1,
    "targetid": -1, "healpix": -1, "fiberstatus": -1,
}  # fmt: skip
_LEGACY_SURVEY = {"26": "sdss", "103": "segue1", "104": "segue2"}
_INT32 = 1 << 31


class UnusableColumnError(SpectraScaleError):
    """A column that is needed is absent, or holds something else than it should."""


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
    """Canonical catalogue from the columns of a source.

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
    n_rows = len(found["plate"])
    text = {name: _texts(found.get(name), n_rows) for name in _TEXT if name != "specobjid"}
    out: dict[str, Array] = dict(text)
    for column in CATALOGUE_COLUMNS:
        if column.dtype != "string":
            out[column.name] = _numbers(found, column.name, column.dtype, n_rows)
    out["reduction"] = np.where(text["reduction"] == "", reduction, text["reduction"])
    _complete(out, found)
    plate, mjd, fiber = out["plate"].tolist(), out["mjd"].tolist(), out["fiber"].tolist()
    keys = [f"sdss:{p}-{m}-{f}" for p, m, f in zip(plate, mjd, fiber, strict=True)]
    out["spectrum_key"] = np.array(keys, dtype=np.str_)
    out["specobjid"] = _specobjids(found.get("specobjid"), out)
    return pa.table([pa.array(out[name]) for name in CATALOGUE_SCHEMA.names], CATALOGUE_SCHEMA)


def _complete(out: dict[str, Array], found: Mapping[str, Array]) -> None:
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
    types, which_type = np.unique(out["targettype"], return_inverse=True)
    out["targettype"] = np.array([targettype_of(name) for name in types.tolist()], "U16")[
        which_type
    ]
    legacy = np.array([is_legacy(name) for name in names], bool)[which]
    classes = found.get("class_noqso")
    unfilled = legacy if classes is None else _texts(classes, len(legacy)) == ""
    out["z_noqso"] = np.where(unfilled, np.float32(np.nan), out["z_noqso"])
    out["zwarning_noqso"] = np.where(unfilled, np.int32(-1), out["zwarning_noqso"])
    if "ebv" not in found:
        out["ebv"] = _ebvs(found, len(legacy))


def _texts(values: Array | None, n_rows: int) -> Array:
    if values is None:
        return np.full(n_rows, "", "U1")
    if values.ndim != 1:
        msg = f"a column of text has {values.ndim} axes, expected one value a row"
        raise UnusableColumnError(msg)
    return np.char.strip(np.asarray(values).astype(np.str_))


def _numbers(found: Mapping[str, Array], name: str, dtype: str, n_rows: int) -> Array:
    if name not in found:
        return np.full(n_rows, UNKNOWN[name], dtype)
    values = np.asarray(found[name])
    try:
        if values.ndim != 1:
            msg = f"{values.ndim} axes"
            raise ValueError(msg)
        numbers = values.astype(np.float64)
        if dtype.startswith("int"):
            return _whole(values, numbers, dtype)
    except ValueError as error:
        msg = f"column {name} holds something else than numbers: {error}"
        raise UnusableColumnError(msg) from None
    if name in UNKNOWN:
        numbers[numbers < MISSING_BELOW] = np.nan
    return numbers.astype(dtype)


def _whole(values: Array, numbers: Array, dtype: str) -> Array:
    limits = np.iinfo(dtype)
    inside = (numbers >= limits.min) & (numbers <= limits.max) & (numbers == np.rint(numbers))
    if not inside.all():
        msg = f"row {int(np.argmin(inside))} has {values[np.argmin(inside)]}, expected an integer"
        raise ValueError(msg)
    return numbers.astype(dtype)


def _ebvs(found: Mapping[str, Array], n_rows: int) -> Array:
    bands = found.get("extinction")
    if bands is not None and bands.ndim == 2 and bands.shape[1] >= 3:
        return ebv_of_extinction(bands[:, 0], bands[:, 2])
    if "extinction_u" in found and "extinction_r" in found:
        return ebv_of_extinction(found["extinction_u"], found["extinction_r"])
    return np.full(n_rows, np.nan, np.float32)


def ebv_of_extinction(extinction_u: Array, extinction_r: Array) -> Array:
    """E(B−V) of Schlegel et al. (1998) from the extinctions in u and r of a photometric match.

    Which of two extinction laws a release used shows in the ratio of its bands
    (`catalogue_columns.EXTINCTION_LAWS`).

    Parameters
    ----------
    extinction_u, extinction_r
        Magnitudes, shape (row,).

    Returns
    -------
    numpy.ndarray
        float32, shape (row,); NaN where the extinction is not positive or of an unknown law.
    """
    u, r = np.asarray(extinction_u, np.float64), np.asarray(extinction_r, np.float64)
    out = np.full(u.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = u / r
        for expected, per_ebv in EXTINCTION_LAWS:
            law = (r > 0) & (np.abs(ratio - expected) < EXTINCTION_RATIO_TOLERANCE)
            out[law] = r[law] / per_ebv
    return out.astype(np.float32)


def _specobjids(values: Array | None, out: Mapping[str, Array]) -> Array:
    n_rows = len(out["plate"])
    text = np.full(n_rows, "", "U20")
    if values is not None and values.dtype.kind in "iu":
        # Some files hold the unsigned id in a signed column.
        text = (
            values.astype(np.int64).view(np.uint64).astype("U20")
            if values.dtype.kind == "i"
            else values.astype("U20")
        )
    elif values is not None and values.dtype.kind in "OSU":
        text = _texts(values, n_rows)
    # A float column, or text such as 2.99533E+17, has lost the last digits.
    rebuild = np.flatnonzero(~np.char.isdigit(text))
    if len(rebuild):
        plate, fiber, mjd = (out[name][rebuild] for name in ("plate", "fiber", "mjd"))
        text = text.astype(f"U{max(20, text.dtype.itemsize // 4)}")
        text[rebuild] = rebuilt_specobjid(plate, fiber, mjd, out["reduction"][rebuild].tolist())
    return text


def rebuilt_specobjid(plate: Array, fiber: Array, mjd: Array, reductions: list[str]) -> Array:
    """SpecObjIDs as text from what they are packed from; empty where they cannot be."""
    from spectra_scale.spectrum.identity import sdss_specobjid

    out = np.full(len(plate), "", "U20")
    names = np.array(reductions, dtype=np.str_)
    for name in np.unique(names[names != ""]).tolist():
        rows = np.flatnonzero(names == name)
        try:
            ids = sdss_specobjid(plate[rows], fiber[rows], mjd[rows], name)
        except SpectraScaleError as error:
            log.debug("no specObjID reduction=%s rows=%d: %s", name, len(rows), error)
            continue
        out[rows] = ids.astype("U20")
    return out
