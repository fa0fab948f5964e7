"""Rows of DESI's tables, made from one observed healpixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.desi_columns import (
    EXP_FIBERMAP,
    FIBERMAP,
    REDSHIFTS,
    SCORES,
    TSNR2,
    TSNR2_KINDS,
    ZCATALOG,
)
from spectra_scale.mock.desi_observation import ARMS, DesiObservation
from spectra_scale.mock.medians import median_snr
from spectra_scale.mock.population import Floats
from spectra_scale.mock.positions import pixel_centre
from spectra_scale.mock.targets import BGS_BITS, DESI_BITS, bits_of

Rows = NDArray[Any]
Ints = NDArray[np.int64]

EXPOSURE_S = {"bright": 300.0, "dark": 1000.0}
_BANDS = {"G": 4770.0, "R": 6231.0, "Z": 9134.0}
_FLUX_OF_NMGY, _PIVOT = 0.2864, 6166.0
# (S/N)² of templates at one exposure: what the early files have, kind by kind.
_TSNR2 = {
    "GPBDARK": 240.0, "ELG": 30.0, "GPBBRIGHT": 50.0, "LYA": 25.0, "BGS": 2800.0,
    "GPBBACKUP": 12.0, "QSO": 8.0, "LRG": 25.0,
}  # fmt: skip
_TSNR2_ARM = {"_B": 0.15, "_R": 0.35, "_Z": 0.50, "": 1.0}
_NODATA, _SKY = 1 << 9, 1
_SMALL_DELTA_CHI2 = 1 << 2


def target_id(objid: Ints, brick: int, release: int, *, is_sky: bool = False) -> Ints:
    """DESI TARGETID: OBJID in bits 0-21, BRICKID 22-41, RELEASE 42-57, SKY 59 (desitarget).

    Examples
    --------
    >>> int(target_id(np.array([2281]), 349954, 9010)[0])
    39627866878511337
    """
    constant = (brick << 22) | (release << 42) | (int(is_sky) << 59)
    return np.asarray(objid, dtype=np.int64) | np.int64(constant)


def fibermap_rows(seen: DesiObservation) -> Rows:
    """Rows of FIBERMAP: targets, sky fibres and fibres without a target, mixed."""
    rows = np.zeros(seen.n_rows, dtype=FIBERMAP)
    rng = np.random.default_rng((seen.task.seed, seen.task.plate, 5))
    ra, dec = _places(seen, rng)
    is_north = float(np.mean(seen.dec)) > 32.375
    release = 9011 if is_north else 9010
    brick = 2 * seen.task.healpix + (seen.task.program == "dark")
    objid = np.arange(seen.n_rows)
    ids = -(10_000 * _tile(seen) + objid)
    ids[seen.row] = target_id(objid[seen.row], brick, release)
    ids[seen.sky_row] = target_id(objid[seen.sky_row], brick, release, is_sky=True)
    tractor = np.zeros(seen.n_rows, dtype=np.bool_)
    tractor[seen.row] = tractor[seen.sky_row] = True
    kind = np.full(seen.n_rows, "", dtype="U3")
    kind[seen.row], kind[seen.sky_row] = "TGT", "SKY"
    exposures = np.where(tractor, seen.n_exposures, 0)
    sign = "p" if float(np.mean(seen.dec)) >= 0 else "m"
    name = f"{round(10 * float(np.mean(ra))):04d}{sign}{abs(round(10 * float(np.mean(dec)))):03d}"
    values: dict[str, Any] = {
        "TARGETID": ids, "COADD_FIBERSTATUS": seen.status, "TARGET_RA": ra, "TARGET_DEC": dec,
        "OBJTYPE": kind, "SUBPRIORITY": np.where(tractor, rng.random(seen.n_rows), 0),
        "FA_TYPE": np.select([kind == "TGT", kind == "SKY"], [1, 4], 0),
        "OBSCONDITIONS": np.select([kind == "TGT", kind == "SKY"], [_condition(seen), 63], 0),
        "RELEASE": release * tractor, "BRICKNAME": np.where(tractor, name, ""),
        "BRICKID": brick * tractor, "BRICK_OBJID": objid * tractor,
        "PLATE_RA": ra, "PLATE_DEC": dec, "COADD_NUMEXP": exposures,
        "COADD_EXPTIME": exposures * EXPOSURE_S[seen.task.program],
        "COADD_NUMNIGHT": np.minimum(exposures, 2), "COADD_NUMTILE": np.minimum(exposures, 1),
        "MEAN_DELTA_X": 0.005 * rng.standard_normal(seen.n_rows), "RMS_DELTA_X": 0.005,
        "MEAN_DELTA_Y": 0.005 * rng.standard_normal(seen.n_rows), "RMS_DELTA_Y": 0.005,
        "MEAN_FIBER_RA": ra, "MEAN_FIBER_DEC": dec, "STD_FIBER_RA": 0.03, "STD_FIBER_DEC": 0.03,
        "MEAN_PSF_TO_FIBER_SPECFLUX": np.where(tractor, 0.77, 0.0),
    }  # fmt: skip
    for column, value in values.items():
        rows[column] = value
    _fill_targets(seen, rows, rng, is_north=is_north)
    rows["PRIORITY_INIT"][seen.sky_row] = rows["NUMOBS_INIT"][seen.sky_row] = -1
    rows["DESI_TARGET"][seen.sky_row] = rows["FA_TARGET"][seen.sky_row] = DESI_BITS["sky"]
    return rows


def _fill_targets(
    seen: DesiObservation, rows: Rows, rng: np.random.Generator, *, is_north: bool
) -> None:
    objects, n = seen.scene.objects, len(seen.row)
    flux = _photometry(seen)
    red = flux[:, 1]
    fiber_share = np.clip(0.55 + 0.15 * rng.standard_normal(n), 0.15, 0.85)
    disc = rng.random(n) < 0.5
    is_star = seen.target == "standard"
    desi = bits_of(seen.target, DESI_BITS)
    values: dict[str, Any] = {
        "FA_TARGET": desi, "DESI_TARGET": desi, "BGS_TARGET": bits_of(seen.target, BGS_BITS),
        "MORPHTYPE": np.select([is_star, disc], ["PSF", "EXP"], "DEV"),
        "SERSIC": np.select([is_star, disc], [0, 1], 4),
        "SHAPE_R": np.where(is_star, 0, 0.5 + 2.0 * rng.random(n)),
        "EBV": 0.02 + 0.03 * np.abs(np.sin(0.11 * seen.ra + 0.17 * seen.dec)),
        "REF_EPOCH": 2015.5, "PHOTSYS": "N" if is_north else "S",
        "PRIORITY_INIT": np.where(seen.target == "qso", 3400, 3200), "NUMOBS_INIT": 4,
        "PMRA": np.where(is_star, 8 * rng.standard_normal(n), 0),
        "PMDEC": np.where(is_star, 8 * rng.standard_normal(n), 0),
        "GAIA_PHOT_G_MEAN_MAG": np.where(is_star, objects.magnitude + 0.1, 0),
        "FLUX_W1": 2.5 * red, "FLUX_W2": 1.6 * red, "FLUX_IVAR_W1": 2.0, "FLUX_IVAR_W2": 0.5,
    }  # fmt: skip
    for i, (band, ivar) in enumerate((("G", 700.0), ("R", 240.0), ("Z", 48.0))):
        values |= {
            f"FIBERFLUX_{band}": flux[:, i], f"FIBERTOTFLUX_{band}": flux[:, i] * 1.01,
            f"FLUX_{band}": flux[:, i] / fiber_share, f"FLUX_IVAR_{band}": ivar,
        }  # fmt: skip
    for column, value in values.items():
        rows[column][seen.row] = value


def _photometry(seen: DesiObservation) -> Floats:
    """Flux in the fibre in g, r and z, nanomaggies, shape (n_science, 3)."""
    wave = np.array(list(_BANDS.values()))
    flux = seen.scene.continuum.at(wave / (1 + seen.scene.objects.redshift[:, None]))
    return np.asarray(np.maximum(flux / _FLUX_OF_NMGY * (wave / _PIVOT) ** 2, 1e-4))


def _places(seen: DesiObservation, rng: np.random.Generator) -> tuple[Floats, Floats]:
    ra0, dec0 = pixel_centre(seen.task.healpix)
    ra, dec = ra0 + 0.3 * (rng.random((2, seen.n_rows)) - 0.5) * np.array([[1.0], [0.0]])
    dec = dec0 + 0.3 * (rng.random(seen.n_rows) - 0.5)
    ra[seen.row], dec[seen.row] = seen.ra, seen.dec
    return ra, dec


def _condition(seen: DesiObservation) -> int:
    # OBSCONDITIONS: DARK is bit 0, BRIGHT bit 2.
    return 1 if seen.task.program == "dark" else 4


def _tile(seen: DesiObservation) -> int:
    return (1000 if seen.task.program == "dark" else 20_000) + seen.task.healpix % 10_000


def exposure_rows(seen: DesiObservation, fibermap: Rows) -> Rows:
    """Rows of EXP_FIBERMAP: each row of FIBERMAP as often as it was exposed."""
    index = np.repeat(np.arange(seen.n_rows), seen.n_exposures)
    first = np.cumsum(seen.n_exposures) - seen.n_exposures
    number = np.arange(len(index)) - np.repeat(first, seen.n_exposures)
    rows = np.zeros(len(index), dtype=EXP_FIBERMAP)
    for name in ("TARGETID", "SUBPRIORITY", "PLATE_RA", "PLATE_DEC"):
        rows[name] = fibermap[name][index]
    petal = seen.task.healpix % 10
    device = index % 524
    seconds = EXPOSURE_S[seen.task.program]
    place = 5.0 + 400 * (np.stack([device % 23, device // 23]) / 23.0 - 0.5)
    values: dict[str, Any] = {
        "PRIORITY": fibermap["PRIORITY_INIT"][index], "MJD": _mjd(seen, number),
        "NIGHT": _night(seen.task.mjd), "EXPID": 80_000 + seen.task.healpix + number,
        "TILEID": _tile(seen), "EXPTIME": seconds, "PETAL_LOC": petal, "DEVICE_LOC": device,
        "LOCATION": 1000 * petal + device, "FIBER": 500 * petal + index % 500,
        "FIBERSTATUS": seen.status[index], "FIBERASSIGN_X": place[0], "FIBERASSIGN_Y": place[1],
        "LAMBDA_REF": 5400.0, "NUM_ITER": 2, "FIBER_X": place[0], "FIBER_Y": place[1],
        "DELTA_X": fibermap["MEAN_DELTA_X"][index], "DELTA_Y": fibermap["MEAN_DELTA_Y"][index],
        "FIBER_RA": fibermap["MEAN_FIBER_RA"][index],
        "FIBER_DEC": fibermap["MEAN_FIBER_DEC"][index],
        "PSF_TO_FIBER_SPECFLUX": fibermap["MEAN_PSF_TO_FIBER_SPECFLUX"][index],
    }  # fmt: skip
    for name, value in values.items():
        rows[name] = value
    return rows


def _mjd(seen: DesiObservation, number: Ints) -> Floats:
    seconds = EXPOSURE_S[seen.task.program] + 120
    return np.asarray(seen.task.mjd + 0.3 + number * seconds / 86_400)


def _night(mjd: int) -> int:
    """Night of an MJD as YYYYMMDD, the day it begins."""
    day = np.datetime64("1858-11-17") + np.timedelta64(mjd - 1, "D")
    return int(str(day).replace("-", ""))


def score_rows(seen: DesiObservation, fibermap: Rows) -> Rows:
    """Rows of SCORES: sums and medians over each arm, and (S/N)² of templates."""
    rows = np.zeros(seen.n_rows, dtype=SCORES)
    rows["TARGETID"] = fibermap["TARGETID"]
    every = np.arange(seen.n_rows)
    for name, arm, exposure in zip(ARMS, seen.arms, seen.exposures, strict=True):
        if name == seen.missing_arm:
            continue
        letter = name.upper()
        valid = np.where(exposure.ivar > 0, exposure.flux, 0)
        rows[f"INTEG_COADD_FLUX_{letter}"] = valid.sum(axis=1) * np.gradient(arm.wave).mean()
        edges = np.array([[0, arm.n_pixels]])
        one = (exposure.ivar > 0).astype(np.float32)
        rows[f"MEDIAN_COADD_FLUX_{letter}"] = median_snr(exposure.flux, one, every, edges)[:, 0]
        snr = median_snr(exposure.flux, exposure.ivar, every, edges)
        rows[f"MEDIAN_COADD_SNR_{letter}"] = snr[:, 0]
    found = tsnr2_rows(seen, fibermap)
    for name in TSNR2.names or ():
        rows[name] = found[name]
    return rows


def tsnr2_rows(seen: DesiObservation, fibermap: Rows) -> Rows:
    """Rows of TSNR2."""
    rows = np.zeros(seen.n_rows, dtype=TSNR2)
    rows["TARGETID"] = fibermap["TARGETID"]
    depth = seen.n_exposures * EXPOSURE_S[seen.task.program] / 1000.0
    for kind in TSNR2_KINDS:
        for arm, share in _TSNR2_ARM.items():
            there = not arm or arm[1:].lower() != seen.missing_arm
            rows[f"TSNR2_{kind}{arm}"] = _TSNR2[kind] * share * depth * there
    return rows


def redshift_rows(seen: DesiObservation, fibermap: Rows, scores: Rows) -> Rows:
    """Rows of REDSHIFTS, one for each of FIBERMAP: sky and empty ones have noise, and a flag."""
    rows = np.zeros(seen.n_rows, dtype=REDSHIFTS)
    rng = np.random.default_rng((seen.task.seed, seen.task.plate, 6))
    rows["TARGETID"] = fibermap["TARGETID"]
    there = [e for n, e in zip(ARMS, seen.exposures, strict=True) if n != seen.missing_arm]
    rows["NPIXELS"] = sum(np.count_nonzero(exposure.ivar, axis=1) for exposure in there)
    rows["CHI2"] = rows["NPIXELS"] * (1.02 + 0.03 * rng.standard_normal(seen.n_rows))
    rows["Z"], rows["ZERR"] = rng.uniform(0.01, 1.6, seen.n_rows), 1e-4
    rows["SPECTYPE"], rows["ZWARN"] = "GALAXY", _SKY | _SMALL_DELTA_CHI2
    rows["DELTACHI2"] = rng.exponential(5, seen.n_rows)
    found, snr = seen.redshifts, np.maximum(scores["MEDIAN_COADD_SNR_R"][seen.row], 0.1)
    bad = found.zwarning == _SMALL_DELTA_CHI2
    rows["Z"][seen.row], rows["ZERR"][seen.row] = found.z, found.z_err
    rows["SPECTYPE"][seen.row] = seen.spectype
    # redrock has no flag for outliers that is set in practice.
    rows["ZWARN"][seen.row] = np.where(bad, _SMALL_DELTA_CHI2, 0)
    rows["DELTACHI2"][seen.row] = np.where(bad, rng.uniform(0, 9, len(snr)), 20 + 60 * snr**1.6)
    star = np.select([rng.random(len(snr)) < 0.4, rng.random(len(snr)) < 0.6], ["F", "G"], "K")
    rows["SUBTYPE"][seen.row] = np.where(seen.spectype == "STAR", star, "")
    n_coeff = np.select([rows["SPECTYPE"] == b"QSO", rows["SPECTYPE"] == b"STAR"], [4, 5], 10)
    rows["NCOEFF"] = n_coeff
    coefficient = 300 * rng.standard_normal((seen.n_rows, 10)) / (1 + np.arange(10.0)) ** 1.5
    rows["COEFF"] = np.where(np.arange(10) < n_coeff[:, None], coefficient, 0)
    lost = seen.is_lost
    rows["ZWARN"][lost] |= _NODATA
    for name in ("CHI2", "DELTACHI2", "COEFF"):
        rows[name][lost] = 0
    return rows


def zcatalog_rows(seen: DesiObservation, fibermap: Rows, scores: Rows, redshifts: Rows) -> Rows:
    """Rows of the redshift catalogue of all healpixels (zall-pix)."""
    rows = np.zeros(seen.n_rows, dtype=ZCATALOG)
    for table in (scores, fibermap, redshifts):
        for name in set(table.dtype.names or ()) & set(ZCATALOG.names or ()):
            rows[name] = table[name]
    last = _mjd(seen, seen.n_exposures - 1)
    values: dict[str, Any] = {
        "SURVEY": "main", "PROGRAM": seen.task.program, "HEALPIX": seen.task.healpix,
        "SPGRPVAL": seen.task.healpix, "MIN_MJD": seen.task.mjd + 0.3, "MAX_MJD": last,
        "MEAN_MJD": 0.5 * (seen.task.mjd + 0.3 + last), "MAIN_NSPEC": 1, "MAIN_PRIMARY": True,
        "ZCAT_NSPEC": 1, "ZCAT_PRIMARY": True,
        "DESINAME": _names(rows["TARGET_RA"], rows["TARGET_DEC"]),
    }  # fmt: skip
    for name, value in values.items():
        rows[name] = value
    return rows


def _names(ra: Floats, dec: Floats) -> list[str]:
    """DESINAMEs: coordinates in degrees, cut after four digits."""
    cut = [(int(a * 1e4) / 1e4, "-" if d < 0 else "+", int(abs(d) * 1e4) / 1e4)
           for a, d in zip(ra, dec, strict=True)]  # fmt: skip
    return [f"DESI J{a:08.4f}{sign}{d:07.4f}" for a, sign, d in cut]
