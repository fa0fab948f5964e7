"""From the columns of a spectrum file to one canonical catalogue row.

For spectrum files, where the overhead of arrays would cost more than the file; many rows at once
are in `canonical`. Tests hold both to the same answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from spectra_scale.surveys.canonical import (
    MISSING_BELOW,
    UNKNOWN,
    UnusableColumnError,
    instrument_of,
    is_legacy,
    rebuilt_specobjid,
    survey_of,
    targettype_of,
)
from spectra_scale.surveys.catalogue_columns import (
    EXTINCTION_LAWS,
    EXTINCTION_RATIO_TOLERANCE,
    NEEDED,
    SPECOBJ_MAP,
)
from spectra_scale.surveys.fits_table import Table

_INT32 = 1 << 31


def row_of(table: Table, reduction: str) -> dict[str, Any]:
    """Canonical row of a spectrum file from row 0 of its SPECOBJ or SPALL table.

    Parameters
    ----------
    table
        The table, with at least one row.
    reduction
        RUN2D of the file's primary header, used where the table has none; may be empty.

    Returns
    -------
    dict
        A value for each of `CATALOGUE_COLUMNS`, as Python objects.

    Raises
    ------
    UnusableColumnError
        If a needed column is absent or of the wrong type.
    """
    found: dict[str, Any] = {}
    for name, sources in SPECOBJ_MAP.columns.items():
        for source in sources:
            if source in table:
                found[name] = table.first(source)
                break
    missing = [SPECOBJ_MAP.columns[name][0] for name in NEEDED if name not in found]
    if missing:
        msg = f"the table of the spectrum's parameters has no {', '.join(missing)}"
        raise UnusableColumnError(msg)
    return _row(found, reduction)


def _row(found: dict[str, Any], file_reduction: str) -> dict[str, Any]:
    plate, mjd, fiber = (_integer(found, name) for name in ("plate", "mjd", "fiber"))
    reduction = _text(found, "reduction") or file_reduction
    if min(plate, mjd, fiber) < 0:
        msg = f"plate-MJD-fibre is {plate}-{mjd}-{fiber}, expected no negative number"
        raise UnusableColumnError(msg)
    noqso = _text(found, "class_noqso") if "class_noqso" in found else not is_legacy(reduction)
    return {
        "spectrum_key": f"sdss:{plate}-{mjd}-{fiber}",
        "reduction": reduction,
        "survey": _text(found, "survey").lower() or survey_of(reduction, mjd),
        "instrument": _text(found, "instrument").upper() or instrument_of(reduction),
        "plate": plate,
        "mjd": mjd,
        "fiber": fiber,
        "specobjid": _specobjid(found.get("specobjid"), (plate, fiber, mjd, reduction)),
        "ra": _number(found, "ra"),
        "dec": _number(found, "dec"),
        "ebv": _ebv(found),
        "z": _number(found, "z"),
        "z_err": _number(found, "z_err"),
        "zwarning": _integer(found, "zwarning"),
        "class": _text(found, "class"),
        "subclass": _text(found, "subclass"),
        "sn_median_all": _number(found, "sn_median_all"),
        "specprimary": _integer(found, "specprimary", 127),
        "platequality": _text(found, "platequality").lower(),
        "targettype": targettype_of(_text(found, "targettype")),
        "z_noqso": _number(found, "z_noqso") if noqso else math.nan,
        "zwarning_noqso": _integer(found, "zwarning_noqso") if noqso else -1,
        "field": -1,
        "catalogid": -1,
        "sdss_id": -1,
        "targetid": -1,
        "program": "",
        "healpix": -1,
        "fiberstatus": -1,
    }


def _integer(found: Mapping[str, Any], name: str, limit: int = _INT32 - 1) -> int:
    value: Any = found.get(name, UNKNOWN.get(name))
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = limit + 1
    if abs(number) > limit or (isinstance(value, float) and number != value):
        msg = f"column {name} holds {value!r}, expected an integer"
        raise UnusableColumnError(msg)
    return number


def _number(found: Mapping[str, Any], name: str) -> float:
    value = found.get(name, math.nan)
    try:
        number = float(value)
    except (TypeError, ValueError):
        msg = f"column {name} holds {value!r}, expected a number"
        raise UnusableColumnError(msg) from None
    return math.nan if name in UNKNOWN and number < MISSING_BELOW else number


def _text(found: Mapping[str, Any], name: str) -> str:
    return str(found.get(name, "")).strip()


def _ebv(found: Mapping[str, Any]) -> float:
    if "ebv" in found:
        return _number(found, "ebv")
    bands = found.get("extinction")
    if not isinstance(bands, np.ndarray) or len(bands) < 3 or not bands[2] > 0:
        return math.nan
    u, r = float(bands[0]), float(bands[2])
    for ratio, per_ebv in EXTINCTION_LAWS:
        if abs(u / r - ratio) < EXTINCTION_RATIO_TOLERANCE:
            return r / per_ebv
    return math.nan


def _specobjid(found: object, identity: tuple[int, int, int, str]) -> str:
    if isinstance(found, int):
        # Some files hold the unsigned id in a signed column.
        return str(found % (1 << 64))
    if isinstance(found, str) and found.strip().isdigit():
        return found.strip()
    plate, fiber, mjd, reduction = identity
    return str(
        rebuilt_specobjid(np.array([plate]), np.array([fiber]), np.array([mjd]), [reduction])[0]
    )
