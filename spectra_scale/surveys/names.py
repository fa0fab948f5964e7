"""What the names of survey files say: their kind, their partner, or why they are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from spectra_scale.surveys import sdssv
from spectra_scale.surveys.desi import COADD_NAME, REDROCK_NAME, find_redrock
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss_plate import PLATE_NAME, ZBEST_NAME, find_zbest
from spectra_scale.surveys.sdss_spec import FILE_NAME

_PACKED = r"(\.gz|\.fz)?"
FITS_NAME = re.compile(rf".*\.(fits|fit|fts){_PACKED}", re.IGNORECASE)
"""Names that promise FITS."""
TEXT_NAME = re.compile(r".*\.csv(\.gz)?", re.IGNORECASE)
"""Names that promise a table as text."""
HDF5_NAME = re.compile(r".*\.(hdf5|h5)", re.IGNORECASE)
"""Names that promise HDF5."""

_KINDS = (
    ("spec", FILE_NAME),
    ("spec", sdssv.FILE_NAME),
    ("spplate", PLATE_NAME),
    ("coadd", COADD_NAME),
)
_REDSHIFTS = (ZBEST_NAME, REDROCK_NAME)
REFUSED = (
    (
        Reason.DR7_SPSPEC,
        re.compile(rf"spSpec-.*\.fits?{_PACKED}", re.IGNORECASE),
        "a DR7 spSpec file: get spec-PLATE-MJD-FIBER.fits of DR8 or later",
    ),
    (
        Reason.NOT_COADDED,
        re.compile(rf"spectra-.*\.fits{_PACKED}", re.IGNORECASE),
        "DESI spectra of single exposures: the coadd file beside it has their sum",
    ),
    (
        Reason.NOT_COADDED,
        re.compile(rf"(spCFrame|spFrame|cframe|frame|sframe)-.*\.fits{_PACKED}", re.IGNORECASE),
        "a frame of one exposure: get the spec, spPlate or coadd file",
    ),
    (
        Reason.UNKNOWN_FORMAT,
        re.compile(rf"spField-.*\.fits{_PACKED}", re.IGNORECASE),
        "an spField file of SDSS-V: its spectra are read from the spec files of the field",
    ),
)
"""Files that are known by name and not read: reason, names, and what to say."""


def format_by_name(name: str) -> str | None:
    """Kind of a spectrum file (`formats.FORMATS`) by its name; None if the name does not say."""
    for kind, pattern in _KINDS:
        if pattern.fullmatch(name):
            return kind
    return None


def is_redshift_file(name: str) -> bool:
    """Whether a name is that of a redshift file: spZbest, redrock, zbest."""
    return any(pattern.fullmatch(name) for pattern in _REDSHIFTS)


def find_redshifts(path: Path) -> Path | None:
    """File with the redshifts of a plate or coadd; None if there is none, or it needs none."""
    if PLATE_NAME.fullmatch(path.name):
        return find_zbest(path)
    return find_redrock(path) if COADD_NAME.fullmatch(path.name) else None


def refused(name: str) -> Iterator[tuple[Reason, str]]:
    """Why files of this name are not read, if they are known and are not."""
    for reason, pattern, message in REFUSED:
        if pattern.fullmatch(name):
            yield reason, message
