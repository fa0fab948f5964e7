"""The columns of a catalogue, and what they are called in the files of each origin: data only.

Sources: formats.md A1 (spec files), A2 (spZbest), A3 (specObj, CAS, Data Lab), A5 (zall-pix);
public data models of SDSS-V (spAll, DR18 to DR20) and DESI (zcatalog v1 and v2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from spectra_scale.store.schema import ColumnSpec

CATALOGUE_COLUMNS = (
    ColumnSpec(
        "spectrum_key",
        "string",
        "names the observation: sdss:PLATE-MJD-FIBER, sdssv:FIELD-MJD-CATALOGID or "
        "desi:SURVEY-PROGRAM-TARGETID",
    ),
    ColumnSpec("reduction", "string", "RUN2D or SPECPROD; empty if the source does not say"),
    ColumnSpec(
        "survey", "string", "sdss, segue1, segue2, boss, eboss, sdssv; DESI: main, sv1, sv3 ..."
    ),
    ColumnSpec("instrument", "string", "SDSS, BOSS or DESI: the spectrograph"),
    ColumnSpec("plate", "int32", "plate; -1 where the survey has none"),
    ColumnSpec("mjd", "int32", "modified Julian date of the observation; -1 if unknown"),
    ColumnSpec("fiber", "int32", "fibre, from 1 (DESI: from 0); -1 if unknown"),
    ColumnSpec("specobjid", "string", "the survey's own id; empty if unknown"),
    ColumnSpec("ra", "float64", "right ascension of the fibre (ICRS)", "deg"),
    ColumnSpec("dec", "float64", "declination of the fibre (ICRS)", "deg"),
    ColumnSpec(
        "ebv", "float32", "Milky Way E(B-V) of Schlegel et al. 1998; NaN if unknown", "mag"
    ),
    ColumnSpec("z", "float64", "redshift of the survey's pipeline"),
    ColumnSpec("z_err", "float32", "its error; NaN if unknown"),
    ColumnSpec("zwarning", "int32", "ZWARNING bits; 0 is good, -1 (all bits) if unreadable"),
    ColumnSpec("class", "string", "GALAXY, QSO or STAR"),
    ColumnSpec("subclass", "string", "subclass of the survey's pipeline"),
    ColumnSpec("sn_median_all", "float32", "median S/N a pixel, as published; NaN if unknown"),
    ColumnSpec("specprimary", "int8", "1 for the best observation of an object; -1 if unknown"),
    ColumnSpec("platequality", "string", "good, marginal or bad; empty if unknown"),
    ColumnSpec(
        "targettype",
        "string",
        "SCIENCE, SKY, STANDARD ...; UNASSIGNED for a blank OBJTYPE of DESI; empty if unknown",
    ),
    ColumnSpec("z_noqso", "float32", "redshift without QSO templates; NaN if unknown"),
    ColumnSpec("zwarning_noqso", "int32", "its ZWARNING; -1 if unknown"),
    ColumnSpec("field", "int32", "FIELD of SDSS-V; -1 elsewhere"),
    ColumnSpec("catalogid", "int64", "CATALOGID of SDSS-V; -1 elsewhere"),
    ColumnSpec("sdss_id", "int64", "SDSS_ID, the object of SDSS-V from DR19 on; -1 if unknown"),
    ColumnSpec("targetid", "int64", "TARGETID of DESI; -1 elsewhere"),
    ColumnSpec("program", "string", "PROGRAM of DESI (dark, bright ...); empty elsewhere"),
    ColumnSpec("healpix", "int32", "healpixel of DESI (nside 64, nested); -1 elsewhere"),
    ColumnSpec("fiberstatus", "int32", "COADD_FIBERSTATUS bits of DESI, 0 is good; -1 elsewhere"),
)
"""Canonical columns of a catalogue row, in order."""


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """What the columns are called in the files of one origin.

    Parameters
    ----------
    name
        The origin.
    columns
        Canonical name to the names it may have, the first found wins; case does not matter. Other
        names than canonical ones are what canonical columns are made from.
    kind
        How a spectrum is named: `sdss`, `sdssv` or `desi`.
    needed
        Canonical names without which a file is no catalogue.
    marks
        Columns that only files of this origin have.
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    kind: str = "sdss"
    needed: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


NEEDED = ("plate", "mjd", "fiber", "ra", "dec", "z", "zwarning", "class")
"""Columns without which a file is no catalogue of SDSS to DR17."""

_SAME = {
    "plate": ("PLATE",), "mjd": ("MJD",), "fiber": ("FIBERID",), "specobjid": ("SPECOBJID",),
    "z": ("Z",), "zwarning": ("ZWARNING",), "class": ("CLASS",), "subclass": ("SUBCLASS",),
    "reduction": ("RUN2D",), "survey": ("SURVEY",), "instrument": ("INSTRUMENT",),
    "ebv": ("EBV",), "platequality": ("PLATEQUALITY",),
}  # fmt: skip

SPECOBJ_MAP = ColumnMap(
    "FITS (specObj, spAll, SPECOBJ of a spec file, spZbest)",
    MappingProxyType(
        _SAME
        | {
            # PLUG_RA is where the fibre was; RA of an spAll is its photometric match, or 0.
            "ra": ("PLUG_RA", "RA"), "dec": ("PLUG_DEC", "DEC"), "z_err": ("Z_ERR",),
            "sn_median_all": ("SN_MEDIAN_ALL",), "specprimary": ("SPECPRIMARY",),
            "targettype": ("TARGETTYPE", "OBJTYPE"), "extinction": ("EXTINCTION",),
            "z_noqso": ("Z_NOQSO",), "zwarning_noqso": ("ZWARNING_NOQSO",),
            "class_noqso": ("CLASS_NOQSO",),
        }
    ),
    needed=NEEDED,
)  # fmt: skip
CAS_MAP = ColumnMap(
    "CAS (SkyServer)",
    MappingProxyType(
        _SAME
        | {
            "ra": ("ra",), "dec": ("dec",), "z_err": ("zErr",), "sn_median_all": ("snMedian",),
            "specprimary": ("sciencePrimary",), "targettype": ("targetType",),
            "extinction_u": ("extinction_u",), "extinction_r": ("extinction_r",),
            "z_noqso": ("zNoQSO",), "zwarning_noqso": ("zWarningNoQSO",),
            "class_noqso": ("classNoQSO",),
        }
    ),
    needed=NEEDED,
)  # fmt: skip
DATALAB_MAP = ColumnMap(
    "Data Lab",
    MappingProxyType(
        _SAME
        | {
            "ra": ("ra",), "dec": ("dec",), "z_err": ("zerr", "z_err"),
            "sn_median_all": ("snmedian", "sn_median"),
            "specprimary": ("scienceprimary", "specprimary"), "targettype": ("targettype",),
            "extinction_u": ("extinction_u",), "extinction_r": ("extinction_r",),
            "z_noqso": ("z_noqso", "znoqso"),
            "zwarning_noqso": ("zwarning_noqso", "zwarningnoqso"),
            "class_noqso": ("class_noqso", "classnoqso"),
        }
    ),
    needed=NEEDED,
)  # fmt: skip
SDSSV_MAP = ColumnMap(
    "SDSS-V (spAll, spAll-lite)",
    MappingProxyType(
        {
            "field": ("FIELD",), "mjd": ("MJD",), "catalogid": ("CATALOGID",),
            "sdss_id": ("SDSS_ID",), "specobjid": ("SPECOBJID",),
            # PLUG_RA is the object's place in all releases, FIBER_RA that of an exposure.
            "ra": ("PLUG_RA", "RACAT", "FIBER_RA", "RA"),
            "dec": ("PLUG_DEC", "DECCAT", "FIBER_DEC", "DEC"),
            # From DR19 on EBV_TYPE says whose map EBV is from.
            "sfd_ebv": ("SFD_EBV",), "ebv": ("EBV",), "ebv_type": ("EBV_TYPE",),
            "z": ("Z",), "z_err": ("Z_ERR",), "zwarning": ("ZWARNING",), "class": ("CLASS",),
            "subclass": ("SUBCLASS",), "sn_median_all": ("SN_MEDIAN_ALL",),
            "specprimary": ("SPECPRIMARY",), "platequality": ("FIELDQUALITY", "PLATEQUALITY"),
            "targettype": ("OBJTYPE",), "reduction": ("RUN2D",), "z_noqso": ("Z_NOQSO",),
            "zwarning_noqso": ("ZWARNING_NOQSO",), "class_noqso": ("CLASS_NOQSO",),
        }
    ),
    kind="sdssv",
    needed=("field", "mjd", "catalogid", "ra", "dec", "z", "zwarning", "class"),
    # An spAll of DR18 has PLATE and FIBERID too.
    marks=("FIELD", "CATALOGID"),
)  # fmt: skip
_DESI = {
    "targetid": ("TARGETID",), "survey": ("SURVEY",), "program": ("PROGRAM",),
    "healpix": ("HEALPIX", "HPXPIXEL"), "uniqpix": ("UNIQPIX",), "tileid": ("TILEID",),
    "spgrpval": ("SPGRPVAL",), "fiber": ("FIBER",), "ra": ("TARGET_RA",), "dec": ("TARGET_DEC",),
    "targettype": ("OBJTYPE",), "fiberstatus": ("COADD_FIBERSTATUS", "FIBERSTATUS"),
    "ebv": ("EBV",), "mean_mjd": ("MEAN_MJD",), "specprimary": ("ZCAT_PRIMARY",),
    "main_primary": ("MAIN_PRIMARY",), "sv_primary": ("SV_PRIMARY",), "reduction": ("SPECPROD",),
}  # fmt: skip
_DESI_NEEDED = ("targetid", "ra", "dec", "z", "zwarning", "class")
DESI_MAP = ColumnMap(
    "DESI zcatalog v1 (zall-pix, zpix, zall-tilecumulative, ztile) and redrock",
    MappingProxyType(
        _DESI
        | {
            "z": ("Z",), "z_err": ("ZERR",), "zwarning": ("ZWARN",), "class": ("SPECTYPE",),
            "subclass": ("SUBTYPE",),
        }
    ),
    kind="desi",
    needed=_DESI_NEEDED,
    marks=("TARGETID",),
)  # fmt: skip
DESI_V2_MAP = ColumnMap(
    "DESI zcatalog v2 (core files)",
    MappingProxyType(
        _DESI
        | {
            # Redrock's redshift, or QuasarNET's where that is better: the recommended one.
            "z": ("Z_BEST",), "z_err": ("ZERR_BEST",), "zwarning": ("ZWARN_BEST",),
            "class": ("SPECTYPE_BEST",), "subclass": ("SUBTYPE_BEST",),
        }
    ),
    kind="desi",
    needed=_DESI_NEEDED,
    marks=("TARGETID", "Z_BEST"),
)  # fmt: skip
COLUMN_MAPS = (SPECOBJ_MAP, CAS_MAP, DATALAB_MAP, SDSSV_MAP, DESI_MAP, DESI_V2_MAP)
"""Known origins. Of those whose marks a file has, the one with most marks is taken, then the one
with most of its columns in the file."""

EXTINCTION_LAWS = ((1.8738, 2.751), (1.8551, 2.285))
"""A_u/A_r, and A_r/E(B-V)_SFD: of Schlegel et al. 1998 (releases to DR8 and v5_7_0), and of
Schlafly & Finkbeiner 2011 (later ones). Which of the two a file has shows in its A_u/A_r, found to
be 1.874 or 1.855 in real files."""
EXTINCTION_RATIO_TOLERANCE = 0.006
"""Largest distance of A_u/A_r from that of the law: a third of the distance of the two laws."""

BOSS_LAST_MJD = 56870
"""BOSS ended in July 2014, eBOSS began in that autumn: tells them apart where SURVEY is absent."""

STANDARD_OBJTYPES = ("SPECTROPHOTO_STD", "REDDEN_STD", "HOT_STD", "STANDARD")
"""OBJTYPE of a fibre on a calibration star."""
