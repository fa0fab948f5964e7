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
_WANTED = tuple(SPECOBJ_MAP.columns.items())


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
    found: dict[str, Any] = table.pick(_WANTED)
    missing = [SPECOBJ_MAP.columns[name][0] for name in NEEDED if name not in found]
    if missing:
        msg = f"the table of the spectrum's parameters has no {', '.join(missing)}"
        raise UnusableColumnError(msg)
    return _row(found, reduction)


def _row(found: dict[str, Any], file_reduction: str) -> dict[str, Any]:
    plate, mjd, fiber = (integer_of(found, name) for name in ("plate", "mjd", "fiber"))
    reduction = text_of(found, "reduction") or file_reduction
    if min(plate, mjd, fiber) < 0:
        msg = f"plate-MJD-fibre is {plate}-{mjd}-{fiber}, expected no negative number"
        raise UnusableColumnError(msg)
    noqso = text_of(found, "class_noqso") if "class_noqso" in found else not is_legacy(reduction)
    return {
        "spectrum_key": f"sdss:{plate}-{mjd}-{fiber}",
        "reduction": reduction,
        "survey": text_of(found, "survey").lower() or survey_of(reduction, mjd),
        "instrument": text_of(found, "instrument").upper() or instrument_of(reduction),
        "plate": plate,
        "mjd": mjd,
        "fiber": fiber,
        "specobjid": _specobjid(found.get("specobjid"), (plate, fiber, mjd, reduction)),
        "ra": number_of(found, "ra"),
        "dec": number_of(found, "dec"),
        "ebv": _ebv(found),
        "z": number_of(found, "z"),
        "z_err": number_of(found, "z_err"),
        "zwarning": integer_of(found, "zwarning"),
        "class": text_of(found, "class"),
        "subclass": text_of(found, "subclass"),
        "sn_median_all": number_of(found, "sn_median_all"),
        "specprimary": integer_of(found, "specprimary", 127),
        "platequality": text_of(found, "platequality").lower(),
        "targettype": targettype_of(text_of(found, "targettype")),
        "z_noqso": number_of(found, "z_noqso") if noqso else math.nan,
        "zwarning_noqso": integer_of(found, "zwarning_noqso") if noqso else -1,
        "field": -1,
        "catalogid": -1,
        "sdss_id": -1,
        "targetid": -1,
        "program": "",
        "healpix": -1,
        "fiberstatus": -1,
    }


def integer_of(found: Mapping[str, Any], name: str, limit: int = _INT32 - 1) -> int:
    """Value of a column as an integer.

    Parameters
    ----------
    found
        Values by canonical name.
    name
        Which.
    limit
        The largest that fits the catalogue, and its negative the smallest.

    Returns
    -------
    int
        The value, or what stands for "unknown" if there is none.

    Raises
    ------
    UnusableColumnError
        If it is no integer or too large.
    """
    value: Any = found.get(name, UNKNOWN.get(name))
    if type(value) is int and -limit <= value <= limit:
        return value
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = limit + 1
    if abs(number) > limit or (isinstance(value, float) and number != value):
        msg = f"column {name} holds {value!r}, expected an integer"
        raise UnusableColumnError(msg)
    return number


def number_of(found: Mapping[str, Any], name: str) -> float:
    """Value of a column as a float; NaN if there is none or it is marked as missing.

    Raises
    ------
    UnusableColumnError
        If it is no number.
    """
    value = found.get(name, math.nan)
    try:
        number = float(value)
    except (TypeError, ValueError):
        msg = f"column {name} holds {value!r}, expected a number"
        raise UnusableColumnError(msg) from None
    return math.nan if name in UNKNOWN and number < MISSING_BELOW else number


def text_of(found: Mapping[str, Any], name: str) -> str:
    """Value of a column as text without blanks around it; empty if there is none."""
    value = found.get(name, "")
    return value if type(value) is str else str(value).strip()


def _ebv(found: Mapping[str, Any]) -> float:
    if "ebv" in found:
        return number_of(found, "ebv")
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
