"""What SDSS-V (DR18 to DR20) does otherwise in its spectrum files: formats.md A1.

A spectrum is named by field, MJD and catalogid, not by plate, MJD and fibre. Columns are those of
DR18 (v6_0_4), DR19 (v6_1_3) and DR20 (v6_2_1) as the survey's data model has them; no real file
was seen.
"""

from __future__ import annotations

import math
import re
from typing import Any

from spectra_scale.surveys.canonical import UnusableColumnError, targettype_of
from spectra_scale.surveys.canonical_row import integer_of, number_of, text_of
from spectra_scale.surveys.catalogue_columns import SDSSV_MAP
from spectra_scale.surveys.fits_bytes import card_value
from spectra_scale.surveys.fits_table import Table

FILE_NAME = re.compile(r"spec-(\d{1,6})p?-(\d{5})-(\d{5,19})\.fits(?:\.(?:gz|fz))?", re.IGNORECASE)
"""Name of a spectrum file of SDSS-V: field (with or without zeros before it, ``p`` for a plate),
MJD, catalogid (likewise). A fibre of a name to DR17 has four digits, a catalogid ten and more."""

_COLUMNS = tuple(SDSSV_MAP.columns.items())
_INT64 = (1 << 63) - 1


def is_sdssv(table: Table) -> bool:
    """Whether a SPALL table is one of SDSS-V: no earlier release knows catalogids."""
    return "CATALOGID" in table and "FIELD" in table


def row_of(table: Table, header: bytes) -> dict[str, Any]:
    """Canonical row of a spectrum file of SDSS-V from row 0 of its SPALL table.

    Parameters
    ----------
    table
        The table, with at least one row.
    header
        The primary header of the file.

    Returns
    -------
    dict
        A value for each of `CATALOGUE_COLUMNS`, as Python objects; the key is
        ``sdssv:FIELD-MJD-CATALOGID``, plate and fiber are -1.

    Raises
    ------
    UnusableColumnError
        If a needed column is absent or of the wrong type.
    """
    found: dict[str, Any] = table.pick(_COLUMNS)
    missing = [SDSSV_MAP.columns[name][0] for name in SDSSV_MAP.needed if name not in found]
    if missing:
        msg = f"the SPALL table has no {', '.join(missing)}"
        raise UnusableColumnError(msg)
    field, mjd = _field(found, header), integer_of(found, "mjd")
    catalogid = integer_of(found, "catalogid", _INT64)
    if min(field, mjd, catalogid) < 0:
        msg = f"field-MJD-catalogid is {field}-{mjd}-{catalogid}, expected no negative number"
        raise UnusableColumnError(msg)
    noqso = bool(text_of(found, "class_noqso"))
    return {
        "spectrum_key": f"sdssv:{field}-{mjd}-{catalogid}",
        "reduction": text_of(found, "reduction") or card_value(header, "RUN2D") or "",
        "survey": "sdssv",
        "instrument": "BOSS",
        "plate": -1,
        "mjd": mjd,
        "fiber": -1,
        "specobjid": _specobjid(found.get("specobjid")),
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
        "targettype": _targettype(text_of(found, "targettype")),
        "z_noqso": number_of(found, "z_noqso") if noqso else math.nan,
        "zwarning_noqso": integer_of(found, "zwarning_noqso") if noqso else -1,
        "field": field,
        "catalogid": catalogid,
        "sdss_id": max(integer_of(found, "sdss_id", _INT64), -1),
        "targetid": -1,
        "program": "",
        "healpix": -1,
        "fiberstatus": -1,
    }


def _field(found: dict[str, Any], header: bytes) -> int:
    # The data model of DR18 describes FIELD of SPALL as the field of SDSS imaging, which its
    # plug maps have too; FIELDID of the header is the field of the observation in all releases.
    card = card_value(header, "FIELDID") or ""
    return int(card) if card.isdecimal() else integer_of(found, "field")


def _specobjid(found: object) -> str:
    if isinstance(found, int):
        # Some files hold the unsigned id in a signed column.
        return str(found % (1 << 64)) if found else ""
    return found.strip() if isinstance(found, str) else ""


def _ebv(found: dict[str, Any]) -> float:
    if "sfd_ebv" in found:
        return number_of(found, "sfd_ebv")
    # From DR19 on EBV may come from another map than that of Schlegel et al. 1998.
    return (
        number_of(found, "ebv") if text_of(found, "ebv_type").upper() in {"", "SFD"} else math.nan
    )


def _targettype(objtype: str) -> str:
    # SKY_BOSS and STANDARD_BOSS are the categories of targets of the fibre positioners.
    return targettype_of(objtype.upper().removesuffix("_BOSS"))
