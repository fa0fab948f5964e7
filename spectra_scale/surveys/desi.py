"""DESI files by what they are called, and whose spectra they hold by what their headers say.

Names: formats.md A5. Healpixel coadds are of one survey and program; coadds of tiles are of one
tile, grouped by nights (cumulative, pernight), exposures (perexp) or depth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.canonical_values import integers
from spectra_scale.surveys.desi_hdus import DesiFile
from spectra_scale.surveys.fits_bytes import Array
from spectra_scale.surveys.reasons import Reason

COADD_NAME = re.compile(
    r"coadd-(?P<rest>"
    r"(?P<survey>[a-z]\w*)-(?P<program>[a-z]\w*)-(?P<healpix>\d+)"
    r"|(?P<petal>\d)-(?P<tile>\d+)-(?P<group>[a-z]*|[14]x[a-z]*)(?P<value>\d+)"
    r"|\d+-\d+"
    r")\.fits(?P<packed>\.gz|\.fz)?",
    re.IGNORECASE,
)
"""Name of a coadd: of a healpixel, of a tile, or NSIDE and pixel as in files of before 2021."""
REDROCK_NAME = re.compile(r"(redrock|zbest)-.+\.fits(\.gz|\.fz)?", re.IGNORECASE)
"""Name of a file of redshifts."""

CUMULATIVE = "cumulative"
"""SPGRP of tiles whose coadd grows with every night: a later one replaces an earlier one."""
_GROUPS = {
    "thru": CUMULATIVE, "": "pernight", "exp": "perexp", "1xsubset": "1x_depth",
    "4xsubset": "4x_depth", "lowspeedsubset": "lowspeed",
}  # fmt: skip
_SUBSETS = ("1x_depth", "4x_depth", "lowspeed")
_NSIDE = 64


@dataclass(frozen=True, slots=True)
class CoaddPlace:
    """What a coadd is of: the part of `spectrum_key` that its spectra share, and its healpixel.

    Parameters
    ----------
    survey, program
        SURVEY and PROGRAM, lower case. Of a tile: SPGRP (cumulative, pernight ...) and the
        TILEID, with the night, exposure or subset after a dot unless it is cumulative.
    healpix
        Healpixel (nside 64, nested); -1 for a tile.
    """

    survey: str
    program: str
    healpix: int


def coadd_name(path: Path | str) -> CoaddPlace | None:
    """Say what a coadd is of, by its name.

    Parameters
    ----------
    path
        The file, or its name.

    Returns
    -------
    CoaddPlace or None
        None if it is not called as a coadd is. Names with NSIDE and pixel say neither survey nor
        program: both are empty.

    Examples
    --------
    >>> coadd_name("coadd-main-dark-9144.fits")
    CoaddPlace(survey='main', program='dark', healpix=9144)
    >>> coadd_name("coadd-4-80613-thru20210324.fits").program
    '80613'
    """
    match = COADD_NAME.fullmatch(Path(path).name)
    if match is None:
        return None
    if match["survey"] is not None:
        return CoaddPlace(match["survey"].lower(), match["program"].lower(), int(match["healpix"]))
    if match["tile"] is None:
        return CoaddPlace("", "", -1)
    group = _GROUPS.get(match["group"].lower())
    return None if group is None else tile_place(group, match["tile"], match["value"])


def tile_place(group: str, tile: str, value: str) -> CoaddPlace:
    """What a coadd of a tile is of.

    Parameters
    ----------
    group, tile, value
        SPGRP, TILEID and SPGRPVAL: the night, exposure or subset.
    """
    tile = tile.lstrip("0") or "0"
    # Two nights of a tile are two observations; more nights of a cumulative one replace it.
    number = "" if group == CUMULATIVE or not value else "." + (value.lstrip("0") or "0")
    return CoaddPlace(group, tile + number, -1)


def tile_places(tile: Array, value: Array | None, group: str) -> Array:
    """`CoaddPlace.program` of many rows of a catalogue of tiles.

    Parameters
    ----------
    tile, value
        TILEID and SPGRPVAL, shape (row,); None if the catalogue has no SPGRPVAL.
    group
        SPGRP.

    Returns
    -------
    numpy.ndarray
        Text, shape (row,); empty where the TILEID cannot be read.
    """
    tiles, bad = integers(tile, "tileid", "int64")
    program = np.where(bad | (tiles < 0), "", tiles.astype("U20"))
    if value is None or group == CUMULATIVE:
        return program
    numbers, unknown = integers(value, "spgrpval", "int64")
    suffix = np.where(unknown | (program == ""), "", np.char.add(".", numbers.astype("U20")))
    return np.char.add(program, suffix)


def find_redrock(coadd: Path) -> Path | None:
    """Find the redshifts of a coadd, beside it.

    Parameters
    ----------
    coadd
        The coadd.

    Returns
    -------
    Path or None
        redrock-... of the same rest of the name, else zbest-... as before 2021; gzipped or not.
    """
    match = COADD_NAME.fullmatch(coadd.name)
    if match is None:
        return None
    for kind in ("redrock", "zbest"):
        for suffix in dict.fromkeys([match["packed"] or "", "", ".gz", ".fz"]):
            path = coadd.with_name(f"{kind}-{match['rest']}.fits{suffix}")
            if path.is_file():
                return path
    return None


def place_of(file: DesiFile) -> CoaddPlace:
    """Say what a coadd is of: by its header, checked against its name.

    Parameters
    ----------
    file
        The open file.

    Returns
    -------
    CoaddPlace
        From the header; from the name where the header does not say.

    Raises
    ------
    BadSpectrumError
        ``identity_mismatch`` if header and name contradict each other, or neither says it.
    """
    named = coadd_name(file.path)
    found = header_place(file) or named
    if found is None or not found.survey:
        message = (
            "neither its header (SURVEY and PROGRAM, or SPGRP and TILEID) nor its name says of "
            "which survey it is: name it coadd-SURVEY-PROGRAM-HEALPIX.fits"
        )
        raise BadSpectrumError(Reason.IDENTITY_MISMATCH, message, file.path)
    if named is not None and named.survey and not _agree(found, named):
        message = (
            f"its header says {_words(found)}, its name {_words(named)}: one of them is wrong, "
            "fetch the file again or rename it"
        )
        raise BadSpectrumError(Reason.IDENTITY_MISMATCH, message, file.path)
    return found


def _agree(header: CoaddPlace, named: CoaddPlace) -> bool:
    programs = header.program, named.program
    if header.survey in _SUBSETS:
        # How a subset is numbered in a header is not documented.
        programs = header.program.partition(".")[0], named.program.partition(".")[0]
    same_pixel = header.healpix < 0 or named.healpix < 0 or header.healpix == named.healpix
    return header.survey == named.survey and programs[0] == programs[1] and same_pixel


def _words(place: CoaddPlace) -> str:
    pixel = f", healpixel {place.healpix}" if place.healpix >= 0 else ""
    return f"{place.survey} {place.program}{pixel}"


def header_place(file: DesiFile) -> CoaddPlace | None:
    """What a coadd or redrock file is of, by its headers alone; None if they do not say."""
    # Some files say it in the header of the table.
    says = file.card("SURVEY") or file.card("TILEID")
    hdus = [] if says else [file.find("FIBERMAP")]
    survey, program = (file.card(key, hdus=hdus).lower() for key in ("SURVEY", "PROGRAM"))
    group, value = file.card("SPGRP", hdus=hdus).lower(), file.card("SPGRPVAL", hdus=hdus)
    if group and group != "healpix":
        tile = file.card("TILEID", hdus=hdus)
        return tile_place(group, tile, value) if tile else None
    if not survey or not program:
        return None
    pixel = file.card("HPXPIXEL", hdus=hdus) or (value if group == "healpix" else "")
    nside = file.card("HPXNSIDE", hdus=hdus) or str(_NSIDE)
    is_known = pixel.isdecimal() and nside == str(_NSIDE)
    return CoaddPlace(survey, program, int(pixel) if is_known else -1)


def production_of(file: DesiFile) -> str:
    """Name of the production (fuji, iron ...): SPECPROD, or the folder below ``redux``."""
    return file.card("SPECPROD").lower() or production_of_path(file.path)


def production_of_path(path: Path) -> str:
    """Name of the folder below ``redux`` in a path; empty if there is none."""
    parts = path.parts
    return parts[parts.index("redux") + 1] if "redux" in parts[:-2] else ""
