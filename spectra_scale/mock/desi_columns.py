"""Columns and units of DESI's tables, as `NAME:TFORM`, in the order of the data model.

FIBERMAP, EXP_FIBERMAP and SCORES of a coadd and REDSHIFTS and TSNR2 of a redrock file are those of
public files of the early data release, with the target columns of the main survey; ZCATALOG is
that of the data model of zall-pix (version 1, as in DR1). FASTSPEC and METADATA are those of a
catalogue of FastSpecFit 2.2.0, with the lines and the columns of each that labels need.
"""

from __future__ import annotations

from spectra_scale.mock.fits import Card, table_type

_TARGETS = """
TARGET_RA:D TARGET_DEC:D PMRA:E PMDEC:E REF_EPOCH:E FA_TARGET:K FA_TYPE:B OBJTYPE:3A SUBPRIORITY:D
OBSCONDITIONS:J RELEASE:I BRICKNAME:8A BRICKID:J BRICK_OBJID:J MORPHTYPE:4A EBV:E FLUX_G:E
FLUX_R:E FLUX_Z:E FLUX_W1:E FLUX_W2:E FLUX_IVAR_G:E FLUX_IVAR_R:E FLUX_IVAR_Z:E FLUX_IVAR_W1:E
FLUX_IVAR_W2:E FIBERFLUX_G:E FIBERFLUX_R:E FIBERFLUX_Z:E FIBERTOTFLUX_G:E FIBERTOTFLUX_R:E
FIBERTOTFLUX_Z:E MASKBITS:I SERSIC:E SHAPE_R:E SHAPE_E1:E SHAPE_E2:E REF_ID:K REF_CAT:2A
GAIA_PHOT_G_MEAN_MAG:E GAIA_PHOT_BP_MEAN_MAG:E GAIA_PHOT_RP_MEAN_MAG:E PARALLAX:E PHOTSYS:1A
PRIORITY_INIT:K NUMOBS_INIT:K
"""
_COADDED = """
PLATE_RA:D PLATE_DEC:D COADD_NUMEXP:I COADD_EXPTIME:E COADD_NUMNIGHT:I COADD_NUMTILE:I
MEAN_DELTA_X:E RMS_DELTA_X:E MEAN_DELTA_Y:E RMS_DELTA_Y:E
"""
_PLACES = "MEAN_FIBER_RA:D STD_FIBER_RA:E MEAN_FIBER_DEC:D STD_FIBER_DEC:E "
_LOSS = "MEAN_PSF_TO_FIBER_SPECFLUX:E "
_BITS = "DESI_TARGET:K BGS_TARGET:K MWS_TARGET:K "
_EARLY = "CMX_TARGET:K " + " ".join(
    f"SV{i}_{name}_TARGET:K" for i in (1, 2, 3) for name in ("DESI", "BGS", "MWS", "SCND")
)
_EXPOSURES = """
TARGETID:K PRIORITY:J SUBPRIORITY:D NIGHT:J EXPID:J MJD:D TILEID:J EXPTIME:D PETAL_LOC:I
DEVICE_LOC:J LOCATION:K FIBER:J FIBERSTATUS:J FIBERASSIGN_X:E FIBERASSIGN_Y:E LAMBDA_REF:E
PLATE_RA:D PLATE_DEC:D NUM_ITER:K FIBER_X:D FIBER_Y:D DELTA_X:D DELTA_Y:D FIBER_RA:D FIBER_DEC:D
PSF_TO_FIBER_SPECFLUX:D
"""
_REDSHIFTS = """
Z:D ZERR:D ZWARN:K CHI2:D COEFF:10D NPIXELS:K SPECTYPE:6A SUBTYPE:20A NCOEFF:K DELTACHI2:D
"""
#: Kinds of target that TSNR2 is given for, in the files' order.
TSNR2_KINDS = ("GPBDARK", "ELG", "GPBBRIGHT", "LYA", "BGS", "GPBBACKUP", "QSO", "LRG")
_TSNR2 = " ".join(f"TSNR2_{kind}{arm}:E" for arm in ("_B", "_R", "_Z", "") for kind in TSNR2_KINDS)
_SCORES = " ".join(
    f"{name}_{arm}:E"
    for arm in "BRZ"
    for name in ("INTEG_COADD_FLUX", "MEDIAN_COADD_FLUX", "MEDIAN_COADD_SNR")
)
_ZCATALOG = f"""
TARGETID:K SURVEY:7A PROGRAM:6A HEALPIX:J SPGRPVAL:J {_REDSHIFTS} COADD_FIBERSTATUS:J {_TARGETS}
{_EARLY} {_BITS} SCND_TARGET:K {_COADDED} {_LOSS} {_PLACES} MIN_MJD:D MAX_MJD:D MEAN_MJD:D {_TSNR2}
SV_NSPEC:I SV_PRIMARY:L MAIN_NSPEC:I MAIN_PRIMARY:L ZCAT_NSPEC:I ZCAT_PRIMARY:L DESINAME:22A
"""

FIBERMAP = table_type(
    f"TARGETID:K COADD_FIBERSTATUS:J {_TARGETS} {_BITS} {_COADDED} {_PLACES} {_LOSS}"
)
EXP_FIBERMAP = table_type(_EXPOSURES)
SCORES = table_type(f"TARGETID:K {_SCORES} {_TSNR2}")
REDSHIFTS = table_type(f"TARGETID:K {_REDSHIFTS}")
TSNR2 = table_type(f"TARGETID:K {_TSNR2}")
ZCATALOG = table_type(_ZCATALOG)

#: Lines of FASTSPEC that are written, and their index in `lines.LINES`.
FASTSPEC_LINES = {
    "OII_3726": 3, "OII_3729": 4, "NEIII_3869": 5, "HGAMMA": 10, "OIII_4363": 11, "HBETA": 15,
    "OIII_4959": 16, "OIII_5007": 17, "OI_6300": 21, "NII_6548": 23, "HALPHA": 24, "NII_6584": 25,
    "SII_6716": 26, "SII_6731": 27,
}  # fmt: skip
_LINE = "{0}_AMP:E {0}_FLUX:E {0}_FLUX_IVAR:E {0}_BOXFLUX:E {0}_EW:E {0}_EW_IVAR:E {0}_SIGMA:E "
_LINE += "{0}_CHI2:E {0}_NPIX:J"
FASTSPEC = table_type(
    "TARGETID:K SURVEY:7A PROGRAM:6A HEALPIX:J Z:D VDISP:E VDISP_IVAR:E "
    + " ".join(_LINE.format(name) for name in (*FASTSPEC_LINES, "HALPHA_BROAD", "HBETA_BROAD"))
)
_BANDS = ("G", "R", "Z", "W1", "W2")
_FIBER = " ".join(f"{name}_{band}:E" for name in ("FIBERFLUX", "FIBERTOTFLUX") for band in "GRZ")
_FLUX = " ".join(f"{name}_{band}:E" for name in ("FLUX", "FLUX_IVAR") for band in _BANDS)
_DUST = " ".join(f"MW_TRANSMISSION_{band}:E" for band in _BANDS)
METADATA = table_type(f"""
TARGETID:K SURVEY:7A PROGRAM:6A HEALPIX:J RA:D DEC:D COADD_FIBERSTATUS:K {_BITS} SCND_TARGET:K Z:D
ZWARN:B DELTACHI2:D SPECTYPE:6A Z_RR:D TSNR2_BGS:E TSNR2_LRG:E TSNR2_ELG:E TSNR2_QSO:E TSNR2_LYA:E
PHOTSYS:1A LS_ID:K {_FIBER} {_FLUX} EBV:E {_DUST}
""")

FLUX_UNIT = "10**-17 erg/(s cm2 Angstrom)"
IVAR_UNIT = "10**+34 (s2 cm4 Angstrom2) / erg2"

_UNITS = {
    "deg": (
        "RA", "DEC", "TARGET_RA", "TARGET_DEC", "PLATE_RA", "PLATE_DEC", "MEAN_FIBER_RA",
        "MEAN_FIBER_DEC",
    ),
    "mas yr^-1": ("PMRA", "PMDEC"),
    "yr": ("REF_EPOCH",),
    "mag": (
        "EBV", "GAIA_PHOT_G_MEAN_MAG", "GAIA_PHOT_BP_MEAN_MAG", "GAIA_PHOT_RP_MEAN_MAG",
    ),
    "nanomaggy": tuple(
        f"{what}_{band}"
        for what, bands in (
            ("FLUX", ("G", "R", "Z", "W1", "W2")), ("FIBERFLUX", "GRZ"), ("FIBERTOTFLUX", "GRZ"),
        )
        for band in bands
    ),
    "nanomaggy^-2": tuple(f"FLUX_IVAR_{band}" for band in ("G", "R", "Z", "W1", "W2")),
    "arcsec": ("SHAPE_R", "STD_FIBER_RA", "STD_FIBER_DEC"),
    "mas": ("PARALLAX",),
    "s": ("COADD_EXPTIME",),
    "mm": ("MEAN_DELTA_X", "RMS_DELTA_X", "MEAN_DELTA_Y", "RMS_DELTA_Y"),
    "d": ("MIN_MJD", "MAX_MJD", "MEAN_MJD"),
    "km s^-1": ("VDISP",),
    "km^-2 s^2": ("VDISP_IVAR",),
}  # fmt: skip
# Of each line in FASTSPEC, by the end of the column's name.
_LINE_UNITS = {
    "FLUX_IVAR": "10**34 erg^-2 s^2 cm^4", "BOXFLUX": "10**-17 erg s^-1 cm^-2",
    "FLUX": "10**-17 erg s^-1 cm^-2", "EW_IVAR": "Angstrom^-2", "EW": "Angstrom",
    "AMP": "10**-17 erg s^-1 cm^-2 Angstrom^-1", "SIGMA": "km s^-1",
}  # fmt: skip
_UNIT_OF = {name: unit for unit, names in _UNITS.items() for name in names} | {
    f"{line}_{end}": unit
    for line in (*FASTSPEC_LINES, "HALPHA_BROAD", "HBETA_BROAD")
    for end, unit in _LINE_UNITS.items()
}


def unit_cards(names: tuple[str, ...]) -> list[Card]:
    """TUNIT cards of a table with these columns."""
    return [
        (f"TUNIT{i}", _UNIT_OF[name], "") for i, name in enumerate(names, 1) if name in _UNIT_OF
    ]
