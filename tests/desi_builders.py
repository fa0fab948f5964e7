"""DESI files built by hand with astropy from formats.md A5, for the tests of the readers."""

import numpy as np
from astropy.io import fits

ARMS = {"B": (4500, 2751), "R": (7200, 2326), "Z": (9400, 2881)}
"""First pixel in steps of 0.8 Å, and pixels: 3600-5800, 5760-7620, 7520-9824 Å."""
HEADER = {
    "SPGRP": "healpix", "SPGRPVAL": 9144, "HPXPIXEL": 9144, "HPXNSIDE": 64, "HPXNEST": True,
    "SURVEY": "main", "PROGRAM": "dark",
}  # fmt: skip
TILE_HEADER = {"SPGRP": "cumulative", "SPGRPVAL": 20210324, "TILEID": 80613, "PETAL": 4}
NAME = "coadd-main-dark-9144.fits"
# 17 digits: more than a float64 can hold.
FIRST_TARGET = 39627866878511337


def target_ids(n_rows):
    return FIRST_TARGET + 2 * np.arange(n_rows, dtype="i8")


def column(name, values):
    array = np.asarray(values)
    if array.dtype.kind == "U":
        return fits.Column(name, f"{max(array.dtype.itemsize // 4, 1)}A", array=array)
    if array.dtype.kind == "b":
        return fits.Column(name, "L", array=array)
    letter = {"i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D", "u1": "B"}
    return fits.Column(name, letter[array.dtype.str[1:]], array=array)


def table(columns, name):
    made = [column(key, values) for key, values in columns.items() if values is not None]
    return fits.BinTableHDU.from_columns(made, name=name)


def fibermap(n_rows, **changes):
    columns = {
        "TARGETID": target_ids(n_rows),
        "COADD_FIBERSTATUS": np.zeros(n_rows, "i4"),
        "TARGET_RA": np.linspace(10, 11, n_rows),
        "TARGET_DEC": np.linspace(-1, 1, n_rows),
        "OBJTYPE": np.array(["TGT"] * n_rows),
        "EBV": np.full(n_rows, 0.03, "f4"),
        "MEAN_MJD": np.full(n_rows, 59311.9),
    }
    return table(columns | changes, "FIBERMAP")


def wavelength(arm):
    first, n_pixels = ARMS[arm]
    # As the survey makes it: adding up 0.8 leaves dust of 1e-10 (formats.md A5).
    start = first * 0.8
    return start + np.arange(n_pixels) * 0.8


def arm_images(arm, n_rows, rng):
    """Flux, ivar and mask of an arm; every masked pixel has ivar 0, one in a hundred is masked."""
    n_pixels = ARMS[arm][1]
    flux = rng.normal(3, 1, (n_rows, n_pixels)).astype("f4")
    ivar = rng.uniform(0.5, 1.5, (n_rows, n_pixels)).astype("f4")
    mask = np.where(rng.random((n_rows, n_pixels)) < 0.01, 1 << rng.integers(0, 13), 0)
    ivar[mask > 0] = 0
    return flux, ivar, mask.astype("u4")


def coadd_hdus(n_rows=4, seed=1, header=None, arms="BRZ", *, resolution=True, **fiber_columns):
    rng = np.random.default_rng(seed)
    primary = fits.PrimaryHDU()
    primary.header.update(HEADER if header is None else header)
    hdus = [primary, fibermap(n_rows, **fiber_columns)]
    for arm in arms:
        flux, ivar, mask = arm_images(arm, n_rows, rng)
        hdus += [
            fits.ImageHDU(wavelength(arm), name=f"{arm}_WAVELENGTH"),
            fits.ImageHDU(flux, name=f"{arm}_FLUX"),
            fits.ImageHDU(ivar, name=f"{arm}_IVAR"),
            fits.ImageHDU(mask, name=f"{arm}_MASK"),  # uint32: BZERO 2^31
        ]
        if resolution:
            shape = (n_rows, 11, ARMS[arm][1])
            hdus.append(fits.ImageHDU(rng.random(shape, dtype="f4"), name=f"{arm}_RESOLUTION"))
    hdus.append(table({"TARGETID": target_ids(n_rows)}, "SCORES"))
    return fits.HDUList(hdus)


def write_coadd(folder, name=NAME, **parts):
    path = folder / name
    coadd_hdus(**parts).writeto(path, overwrite=True)
    return path


def redrock_hdus(ids, header=None, extname="REDSHIFTS", *, targets=True, **changes):
    n_rows = len(ids)
    columns = {
        "TARGETID": np.asarray(ids, "i8"),
        "CHI2": np.ones(n_rows),
        "COEFF": None,
        "Z": np.linspace(0.1, 0.3, n_rows),
        "ZERR": np.full(n_rows, 1e-5),
        "ZWARN": np.zeros(n_rows, "i8"),
        "SPECTYPE": np.array(["GALAXY"] * n_rows),
        "SUBTYPE": np.array([""] * n_rows),
    }
    primary = fits.PrimaryHDU()
    primary.header.update(header or {})
    hdus = [primary, table(columns | changes, extname)]
    if targets:
        hdus.append(fibermap(n_rows, TARGETID=np.asarray(ids, "i8")))
    return fits.HDUList(hdus)
