"""SDSS files built by hand with astropy from formats.md, for the tests of the readers."""

from pathlib import Path

import numpy as np
from astropy.io import fits

SHARED = Path(__file__).parents[2] / "shared" / "data"

FIRST_PIXEL = 35800
N_PIXELS = 50


def coadd_columns(n_pixels=N_PIXELS, first_pixel=FIRST_PIXEL, seed=1, *, upper=False):
    """COADD of formats.md A1: flux, loglam, ivar, and_mask, or_mask, wdisp, sky, model."""
    rng = np.random.default_rng(seed)
    values = {
        "flux": rng.normal(10, 1, n_pixels).astype("f4"),
        "loglam": (np.arange(first_pixel, first_pixel + n_pixels) * 1e-4).astype("f4"),
        "ivar": rng.uniform(0.5, 1.5, n_pixels).astype("f4"),
        "and_mask": rng.integers(0, 1 << 24, n_pixels).astype("i4"),
        "or_mask": np.zeros(n_pixels, "i4"),
        "wdisp": np.ones(n_pixels, "f4"),
        "sky": np.zeros(n_pixels, "f4"),
        "model": np.full(n_pixels, 10, "f4"),
    }
    return {(name.upper() if upper else name): column for name, column in values.items()}


def legacy_row(**changes):
    """Row 0 of a legacy SPECOBJ: text blank-padded, SPECOBJID text with leading blanks."""
    row = {
        "SURVEY": "sdss  ",
        "INSTRUMENT": "SDSS",
        "PLATEQUALITY": "good    ",
        "SPECPRIMARY": np.uint8(1),
        "SPECOBJID": "    299489676975171584",
        "RUN2D": "26 ",
        "TARGETTYPE": "SCIENCE ",
        "PLATE": np.int32(266),
        "MJD": np.int32(51602),
        "FIBERID": np.int32(1),
        "PLUG_RA": 146.71421,
        "PLUG_DEC": -1.0413043,
        "CLASS": "GALAXY",
        "SUBCLASS": "",
        "Z": np.float32(0.0212),
        "Z_ERR": np.float32(1e-5),
        "ZWARNING": np.int32(0),
        "SN_MEDIAN_ALL": np.float32(31.5),
        "SN_MEDIAN": np.arange(5, dtype="f4"),
        "Z_NOQSO": np.float32(0),
        "ZWARNING_NOQSO": np.int32(0),
        "CLASS_NOQSO": "",
    }
    return {name: value for name, value in (row | changes).items() if value is not None}


def boss_row(**changes):
    """Row 0 of a BOSS SPALL: uint64 SPECOBJID (BZERO 2^63), no SURVEY or INSTRUMENT."""
    row = legacy_row(
        SURVEY=None,
        INSTRUMENT=None,
        TARGETTYPE=None,
        PLATE=np.int32(3606),
        MJD=np.int32(55182),
        FIBERID=np.int32(679),
        RUN2D="v5_13_0",
        SPECOBJID=np.uint64(4060181793114181632),
        Z_NOQSO=np.float32(0.31),
        ZWARNING_NOQSO=np.int32(4),
        CLASS_NOQSO="GALAXY",
        OBJTYPE="QSO             ",
        EXTINCTION=np.array([0.4239, 0.3303, 0.2285, 0.1698, 0.1263], "f4"),
    )
    return {name: value for name, value in (row | changes).items() if value is not None}


def sdssv_row(release="DR19", **changes):
    """Row 0 of SPALL of SDSS-V as sdss/datamodel's specLite has it for DR18, DR19 and DR20."""
    row = {
        "FIELD": np.int64(112360),
        "MJD": np.int64(60000),
        "CATALOGID": np.int64(27021598150202075),
        "RUN2D": "v6_1_3",
        "OBJTYPE": "QSO".ljust(16),
        "PLUG_RA": 148.965814255,
        "PLUG_DEC": 1.51883669717,
        "CLASS": "GALAXY",
        "SUBCLASS": "BROADLINE".ljust(21),
        "Z": np.float32(0.25),
        "Z_ERR": np.float32(2e-5),
        "ZWARNING": np.int64(4),
        "SN_MEDIAN": np.arange(5, dtype="f4"),
        "SN_MEDIAN_ALL": np.float32(12.5),
        "Z_NOQSO": np.float32(0.26),
        "ZWARNING_NOQSO": np.int64(0),
        "CLASS_NOQSO": "GALAXY",
    }
    if release == "DR18":
        row |= {
            # FIELD of DR18 is described as that of SDSS imaging; the header has FIELDID.
            "FIELD": np.int64(0),
            "MJD": np.int32(59205),
            "CATALOGID": np.int64(4544940698),
            "FIBERID": np.int32(17),
            "ZWARNING": np.int32(4),
            "RUN2D": "v6_0_4",
            "RA": 10.0,
            "DEC": 20.0,
            "SFD_EBV": np.float32(0.05),
            "SPECOBJID": np.int64(-5),
        }
    else:
        row |= {
            "SDSS_ID": np.int64(58339379),
            "SPECOBJID": "11236060000270215981502".rjust(29),
            "EBV": np.float32(0.03),
            "EBV_TYPE": "SFD",
            "RACAT": 1.0,
            "DECCAT": 2.0,
            "FIELDQUALITY": "good",
            "SPECPRIMARY": np.int64(1),
            "FIBERID_LIST": "17 18",
        }
    if release == "DR20":
        row |= {"RUN2D": "v6_2_1", "OBS": "LCO"}
    return {name: value for name, value in (row | changes).items() if value is not None}


SDSSV_NAMES = {
    "DR18": "spec-15143-59205-04544940698.fits",
    "DR19": "spec-112360-60000-27021598150202075.fits",
    "DR20": "spec-112360-60000-27021598150202075.fits",
}


def sdssv_hdus(release="DR19", row=None, *, named=True):
    """COADD (WRESL before MODEL in DR18, after it later), SPALL, ZALL of 134 rows, ZLINE."""
    coadd = coadd_columns(upper=True)
    wresl = {"WRESL": np.full(N_PIXELS, 2, "f4")}
    if release == "DR18":
        model = coadd.pop("MODEL")
        coadd |= wresl | {"MODEL": model}
    else:
        coadd |= wresl
    primary = fits.PrimaryHDU()
    primary.header["FIELDID"] = "15143" if release == "DR18" else 112360
    primary.header["PLATEID"] = ""
    primary.header["COEFF0"] = 3.5799
    zall = table_hdu({"FIELD": np.full(134, 15143, "i4"), "Z": np.linspace(0, 3, 134)})
    spall = row_hdu(sdssv_row(release) if row is None else row)
    hdus = [primary, table_hdu(coadd), spall, zall, table_hdu(line_columns())]
    for hdu, name in zip(hdus[1:], ("COADD", "SPALL", "ZALL", "ZLINE"), strict=True):
        if named:
            hdu.name = name
        if release != "DR18":
            hdu.add_checksum()
    return fits.HDUList(hdus)


def line_columns(**changes):
    """SPZLINE: names as in the real files; H_alpha has a rest EW of 20 Å at z = 0.0212."""
    names = ["Ly_alpha", "H_beta", "[O_III] 4959", "[O_III] 5007", "H_alpha", "[N_II] 6583"]
    columns = {
        "LINENAME": np.array(names),
        "LINEWAVE": np.array([1215.67, 4862.68, 4960.29, 5008.24, 6564.61, 6585.27]),
        "LINEZ": np.full(6, 0.0212, "f4"),
        "LINEAREA": np.array([0, 10, 2, 6, 40, 15], "f4"),
        "LINEAREA_ERR": np.array([-1, 1, 1, 2, 4, 3], "f4"),
        "LINEEW": np.array([0, 3, 1, 2, 20 * 1.0212, 7], "f4"),
        "LINEEW_ERR": np.array([-1, 1, 1, 1, 2 * 1.0212, 1], "f4"),
    }
    return columns | changes


def table_hdu(columns, name=None):
    """A binary table with the columns in their own types."""
    made = []
    for column, values in columns.items():
        array = np.asarray(values)
        if array.dtype.kind == "U":
            form = f"{max(array.dtype.itemsize // 4, 1)}A"
        else:
            letter = {"u1": "B", "i2": "I", "i4": "J", "i8": "K", "u8": "K", "f4": "E", "f8": "D"}
            form = letter[array.dtype.str[1:]]
            form = (str(array.shape[1]) if array.ndim == 2 else "") + form
        zero = {"bzero": 1 << 63} if array.dtype.str[1:] == "u8" else {}
        made.append(fits.Column(column, form, array=array, **zero))
    hdu = fits.BinTableHDU.from_columns(made)
    if name:
        hdu.name = name
    return hdu


def row_hdu(row, name=None):
    return table_hdu({key: np.array([value]) for key, value in row.items()}, name)


def spec_hdus(coadd=None, row=None, lines=None, names=("COADD", "SPECOBJ", "SPZLINE")):
    primary = fits.PrimaryHDU()
    primary.header["PLATEID"] = 266
    primary.header["COEFF0"] = 3.5799  # one pixel off on purpose: formats.md §0.1
    primary.header["COEFF1"] = 1e-4
    return fits.HDUList(
        [
            primary,
            table_hdu(coadd_columns() if coadd is None else coadd, names[0]),
            row_hdu(legacy_row() if row is None else row, names[1]),
            table_hdu(line_columns() if lines is None else lines, names[2]),
        ]
    )


def write_spec(folder, name="spec-0266-51602-0001.fits", **parts):
    path = Path(folder) / name
    spec_hdus(**parts).writeto(path, overwrite=True)
    return path


def zbest_columns(n_fibers, plate=4055, mjd=55359, **changes):
    """Spectroscopic redshifts of a plate (spZbest HDU 1), the last fibre on sky."""
    objtype = np.array(["GALAXY".ljust(16)] * n_fibers)
    objtype[-1] = "SKY".ljust(16)
    columns = {
        "PLATE": np.full(n_fibers, plate, "i4"),
        "MJD": np.full(n_fibers, mjd, "i4"),
        "FIBERID": np.arange(1, n_fibers + 1, dtype="i4"),
        "RUN2D": np.array(["v5_7_0"] * n_fibers),
        "OBJTYPE": objtype,
        "PLUG_RA": np.linspace(10, 11, n_fibers),
        "PLUG_DEC": np.linspace(-1, 1, n_fibers),
        "CLASS": np.array(["GALAXY"] * n_fibers),
        "SUBCLASS": np.array(["BROADLINE".ljust(21)] * n_fibers),
        "Z": np.linspace(0.1, 0.3, n_fibers).astype("f4"),
        "Z_ERR": np.full(n_fibers, 1e-5, "f4"),
        "ZWARNING": np.arange(n_fibers, dtype="i4") % 2,
        "SN_MEDIAN": np.ones((n_fibers, 5), "f4"),
        "SN_MEDIAN_ALL": np.full(n_fibers, 5, "f4"),
    }
    return {name: value for name, value in (columns | changes).items() if value is not None}


def plate_hdus(n_fibers=4, n_pixels=60, first_pixel=35513, seed=2):
    """A spPlate of formats.md A2: images by index, no EXTNAMEs, untrimmed."""
    rng = np.random.default_rng(seed)
    primary = fits.PrimaryHDU(rng.normal(5, 1, (n_fibers, n_pixels)).astype("f4"))
    primary.header["COEFF0"] = first_pixel * 1e-4
    primary.header["COEFF1"] = 1e-4
    primary.header["PLATEID"] = 4055
    primary.header["RUN2D"] = "v5_7_0"
    ivar = rng.uniform(0.5, 2, (n_fibers, n_pixels)).astype("f4")
    ivar[:, :5] = 0
    mask = rng.integers(0, 1 << 28, (n_fibers, n_pixels)).astype("i4")
    plug = table_hdu(
        {
            "OBJTYPE": np.array(["GALAXY"] * n_fibers),
            "RA": np.linspace(10, 11, n_fibers),
            "DEC": np.linspace(-1, 1, n_fibers),
            "FIBERID": np.arange(1, n_fibers + 1, dtype="i4"),
        }
    )
    images = [fits.ImageHDU(a) for a in (ivar, mask, mask, np.ones_like(ivar))]
    return fits.HDUList([primary, *images, plug, fits.ImageHDU(np.zeros_like(ivar))])
