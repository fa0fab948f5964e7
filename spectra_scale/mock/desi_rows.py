"""Rows of a coadd's tables, made from one observed healpixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.desi_columns import EXP_FIBERMAP, FIBERMAP, SCORES, TSNR2, TSNR2_KINDS
from spectra_scale.mock.desi_observation import ARMS, BAD_POSITION, DesiObservation
from spectra_scale.mock.desi_targets import brick_of, target_columns, target_id
from spectra_scale.mock.medians import median_snr
from spectra_scale.mock.population import Floats
from spectra_scale.mock.positions import pixel_centre
from spectra_scale.mock.targets import DESI_BITS

Rows = NDArray[Any]
Ints = NDArray[np.int64]

EXPOSURE_S = {"bright": 300.0, "dark": 1000.0}
# Two exposures are taken a night; a petal has 500 fibres.
_A_NIGHT, _A_PETAL = 2, 500
# (S/N)² of templates at one exposure: what the early files have, kind by kind.
_TSNR2 = {
    "GPBDARK": 240.0, "ELG": 30.0, "GPBBRIGHT": 50.0, "LYA": 25.0, "BGS": 2800.0,
    "GPBBACKUP": 12.0, "QSO": 8.0, "LRG": 25.0,
}  # fmt: skip
_TSNR2_ARM = {"_B": 0.15, "_R": 0.35, "_Z": 0.50, "": 1.0}


def fibermap_rows(seen: DesiObservation) -> Rows:
    """Rows of FIBERMAP: targets, sky fibres and fibres without a target, mixed.

    A row of which the pipeline leaves nothing has no exposures in its coadd.
    """
    rows = np.zeros(seen.n_rows, dtype=FIBERMAP)
    rng = np.random.default_rng((seen.task.seed, seen.task.plate, 5))
    ra, dec = _places(seen, rng)
    kind = np.full(seen.n_rows, "", dtype="U3")
    kind[seen.row], kind[seen.sky_row] = "TGT", "SKY"
    exposures = np.where(seen.is_lost, 0, seen.n_exposures)
    misplaced = (seen.status & BAD_POSITION) > 0
    values: dict[str, Any] = {
        "TARGETID": -(10_000 * _tile(seen) + np.arange(seen.n_rows)),
        "COADD_FIBERSTATUS": seen.status, "TARGET_RA": ra, "TARGET_DEC": dec, "OBJTYPE": kind,
        "FA_TYPE": np.select([kind == "TGT", kind == "SKY"], [1, 4], 0),
        "OBSCONDITIONS": np.select([kind == "TGT", kind == "SKY"], [_condition(seen), 63], 0),
        "PLATE_RA": ra, "PLATE_DEC": dec, "COADD_NUMEXP": exposures,
        "COADD_EXPTIME": exposures * EXPOSURE_S[seen.task.program],
        "COADD_NUMNIGHT": -(-exposures // _A_NIGHT), "COADD_NUMTILE": np.minimum(exposures, 1),
        "MEAN_DELTA_X": 0.005 * rng.standard_normal(seen.n_rows), "RMS_DELTA_X": 0.005,
        "MEAN_DELTA_Y": 0.005 * rng.standard_normal(seen.n_rows), "RMS_DELTA_Y": 0.005,
        "MEAN_FIBER_RA": ra, "MEAN_FIBER_DEC": dec, "STD_FIBER_RA": 0.03, "STD_FIBER_DEC": 0.03,
        "MEAN_PSF_TO_FIBER_SPECFLUX": np.where(misplaced, 0.0, 0.77),
    }  # fmt: skip
    for column, value in values.items():
        rows[column] = value
    _fill_sky(seen, rows, rng)
    for column, value in target_columns(seen).items():
        rows[column][seen.row] = value
    return rows


def _fill_sky(seen: DesiObservation, rows: Rows, rng: np.random.Generator) -> None:
    row, brick = seen.sky_row, brick_of(seen.task, is_sky=True)
    values: dict[str, Any] = {
        "TARGETID": target_id(row, brick.number, brick.release, is_sky=True), "BRICK_OBJID": row,
        "BRICKID": brick.number, "BRICKNAME": brick.name, "RELEASE": brick.release,
        "SUBPRIORITY": rng.random(len(row)), "PRIORITY_INIT": -1, "NUMOBS_INIT": -1,
        "DESI_TARGET": DESI_BITS["sky"], "FA_TARGET": DESI_BITS["sky"],
    }  # fmt: skip
    for column, value in values.items():
        rows[column][row] = value


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
    # Each healpixel has a tile of its own, of numbers beyond those of the survey.
    return (100_000 if seen.task.program == "dark" else 200_000) + seen.task.healpix


def exposure_rows(seen: DesiObservation, fibermap: Rows) -> Rows:
    """Rows of EXP_FIBERMAP: each row of FIBERMAP as often as it was exposed."""
    index = np.repeat(np.arange(seen.n_rows), seen.n_exposures)
    first = np.cumsum(seen.n_exposures) - seen.n_exposures
    number = np.arange(len(index)) - np.repeat(first, seen.n_exposures)
    rows = np.zeros(len(index), dtype=EXP_FIBERMAP)
    for name in ("TARGETID", "SUBPRIORITY", "PLATE_RA", "PLATE_DEC"):
        rows[name] = fibermap[name][index]
    # A healpixel with more rows than a petal has fibres lies under two of the ten, or more.
    petal, slot = (seen.task.healpix + index // _A_PETAL) % 10, index % _A_PETAL
    place = 5.0 + 400 * (np.stack([slot % 23, slot // 23]) / 23.0 - 0.5)
    mjd = exposure_mjd(seen, number)
    values: dict[str, Any] = {
        "PRIORITY": fibermap["PRIORITY_INIT"][index], "MJD": mjd, "NIGHT": _nights(mjd),
        "EXPID": _first_exposure(seen) + number, "TILEID": _tile(seen),
        "EXPTIME": EXPOSURE_S[seen.task.program], "PETAL_LOC": petal, "DEVICE_LOC": slot,
        "LOCATION": 1000 * petal + slot, "FIBER": _A_PETAL * petal + slot,
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


def _first_exposure(seen: DesiObservation) -> int:
    # Up to four exposures of each tile, and none of two.
    return 80_000 + 8 * seen.task.healpix + 4 * (seen.task.program == "dark")


def exposure_mjd(seen: DesiObservation, number: Ints) -> Floats:
    """MJD at the start of exposure `number` of a tile: two a night, then the next night's."""
    seconds = EXPOSURE_S[seen.task.program] + 120
    night = number // _A_NIGHT
    return np.asarray(seen.task.mjd + 0.3 + night + (number % _A_NIGHT) * seconds / 86_400)


def _nights(mjd: Floats) -> Ints:
    """Nights of MJDs as YYYYMMDD, the day they begin."""
    whole = np.floor(mjd).astype(np.int64)
    start = np.datetime64("1858-11-17")
    names = {day: int(str(start + (day - 1)).replace("-", "")) for day in np.unique(whole)}
    return np.array([names[day] for day in whole], dtype=np.int64)


def score_rows(seen: DesiObservation, fibermap: Rows) -> Rows:
    """Rows of SCORES: sums and medians over each arm, and (S/N)² of templates."""
    rows = np.zeros(seen.n_rows, dtype=SCORES)
    rows["TARGETID"] = fibermap["TARGETID"]
    every = np.arange(seen.n_rows)
    for name, arm, exposure in zip(ARMS, seen.arms, seen.exposures, strict=True):
        if not seen.has_arm(name):
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
            there = not arm or seen.has_arm(arm[1:].lower())
            rows[f"TSNR2_{kind}{arm}"] = _TSNR2[kind] * share * depth * there
    return rows
