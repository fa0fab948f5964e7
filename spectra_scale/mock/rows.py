"""Rows of the catalogue (specObj), made from one observed plate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.columns import CATALOGUE
from spectra_scale.mock.medians import median_snr
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.population import Floats
from spectra_scale.mock.targets import (
    BOSS_ANCILLARY,
    BOSS_BITS,
    LEGACY_BITS,
    LEGACY_STANDARD,
    bits_of,
    target_classes,
)

Rows = NDArray[Any]

# Windows (Å) in which SN_MEDIAN is taken, and effective wavelengths, of u g r i z.
_BANDS = ((3200, 4000), (4000, 5500), (5600, 7000), (7000, 8200), (8200, 10500))
_EFFECTIVE = np.array([3551.0, 4686.0, 6166.0, 7480.0, 8932.0])
_FLUX_OF_NMGY = 0.2864


def spec_obj_id(plate: int, fiber: NDArray[np.int64], mjd: int, run2d: str) -> NDArray[np.uint64]:
    """SDSS specObjID (DR8 packing) of fibres of a plate.

    Examples
    --------
    >>> int(spec_obj_id(266, np.array([1]), 51602, "26")[0])
    299489676975171584
    >>> int(spec_obj_id(3606, np.array([679]), 55182, "v5_13_0")[0])
    4060181793114181632
    """
    if run2d.startswith("v"):
        major, minor, patch = (int(x) for x in run2d[1:].split("_"))
        number = (major - 5) * 10_000 + minor * 100 + patch
    else:
        number = int(run2d)
    constant = (plate << 50) | ((mjd - 50_000) << 24) | (number << 10)
    return (fiber.astype(np.uint64) << np.uint64(38)) | np.uint64(constant)


def spectrum_keys(seen: Observation) -> list[str]:
    """Name the observations ``sdss:PLATE-MJD-FIBER`` (science.md section 4)."""
    task = seen.task
    return [f"sdss:{task.plate}-{task.mjd}-{fiber}" for fiber in seen.fiber]


def target_names(seen: Observation) -> NDArray[np.str_]:
    """Target class of each science spectrum, see `targets.target_classes`."""
    objects = seen.objects
    return target_classes(seen.task, objects.kind, objects.redshift, objects.magnitude)


def _signal_to_noise(seen: Observation) -> tuple[Floats, Floats]:
    """Median S/N a pixel over all of a spectrum (n,) and in five bands (n, 5)."""
    wave = seen.instrument.wave
    edges = np.searchsorted(wave, np.array(((0.0, 1e5), *_BANDS)))
    found = median_snr(seen.exposure.flux, seen.exposure.ivar, seen.row, edges)
    return found[:, 0], found[:, 1:]


def catalogue_rows(seen: Observation) -> Rows:
    """Rows of specObj: the columns of a legacy SPECOBJ, one row for each science fibre."""
    task, settings, n = seen.task, seen.settings, len(seen.fiber)
    is_boss = task.survey == "boss"
    rows = np.zeros(n, dtype=CATALOGUE)
    run2d = settings.run2d(task.survey)
    ids = spec_obj_id(task.plate, seen.fiber, task.mjd, run2d)
    all_sn, band_sn = _signal_to_noise(seen)
    ends = seen.exposure.start[seen.row], seen.exposure.stop[seen.row] - 1
    wave = seen.instrument.wave
    flux = seen.scene.continuum.at(np.array([5500.0]))[:, 0]
    band_flux = _band_flux(seen)
    n_inside = np.count_nonzero(seen.exposure.ivar, axis=1)[seen.row]
    target = target_names(seen)
    legacy = bits_of(target, LEGACY_BITS) * (not is_boss)
    standard = LEGACY_STANDARD * (target == "standard") * (not is_boss)
    mask_and = np.bitwise_or.reduce(seen.exposure.and_mask, axis=1)[seen.row]
    mask_or = np.bitwise_or.reduce(seen.exposure.or_mask, axis=1)[seen.row]
    ra, dec = np.radians(seen.ra), np.radians(seen.dec)
    focal = 217.7 * np.stack([seen.ra - seen.centre[0], seen.dec - seen.centre[1]])
    quality = "marginal" if task.is_repeat or task.plate % 61 == 0 else "good"
    template = np.select(
        [seen.classes == "QSO", seen.classes == "STAR"],
        ["spEigenQSO-55732.fits", "spEigenStar-55734.fits"],
        "spEigenGal-56436.fits" if is_boss else "spEigenGal-53724.fits",
    )
    values: dict[str, Any] = {
        "SURVEY": "boss" if is_boss else "sdss", "INSTRUMENT": "BOSS" if is_boss else "SDSS",
        "CHUNK": "boss10" if is_boss else "chunk4", "PLATERUN": "boss10" if is_boss else "chunk4",
        "PROGRAMNAME": "boss" if is_boss else "legacy", "PLATEQUALITY": quality,
        "PLATESN2": 16.0, "DEREDSN2": 14.0, "LAMBDA_EFF": 5000.0, "SNTURNOFF": -9999.0,
        "NTURNOFF": -1, "SPECPRIMARY": not task.is_repeat, "SPECLEGACY": not is_boss,
        "SPECBOSS": is_boss, "SPECOBJID": [f"{i:>22d}" for i in ids], "BESTOBJID": "",
        "TARGETOBJID": f"{0:>22d}", "PLATEID": f"{(task.plate << 50) + (26 << 10):>19d}",
        "NSPECOBS": 2 if task.is_repeat else 1, "FIRSTRELEASE": "dr9" if is_boss else "dr7",
        "RUN2D": run2d, "RUN1D": run2d if is_boss else "", "DESIGNID": -1,
        "CX": np.cos(ra) * np.cos(dec), "CY": np.sin(ra) * np.cos(dec), "CZ": np.sin(dec),
        "XFOCAL": focal[0], "YFOCAL": focal[1], "SOURCETYPE": seen.classes,
        "TARGETTYPE": "SCIENCE", "PRIMTARGET": legacy, "LEGACY_TARGET1": legacy,
        "SECTARGET": standard, "LEGACY_TARGET2": standard,
        "BOSS_TARGET1": bits_of(target, BOSS_BITS) * is_boss,
        "ANCILLARY_TARGET1": BOSS_ANCILLARY * (target == "ancillary") * is_boss,
        "SPECTROGRAPHID": 1 + (seen.fiber > settings.fibers(task.survey) // 2),
        "PLATE": task.plate, "TILE": 122 + task.plate, "MJD": task.mjd, "FIBERID": seen.fiber,
        "PLUG_RA": seen.ra, "PLUG_DEC": seen.dec, "CLASS": seen.classes, "SUBCLASS": seen.subclass,
        "Z": seen.redshift, "Z_ERR": seen.redshift_err, "ZWARNING": seen.zwarning,
        "RCHI2": _scatter(flux, 1.06, 0.05), "DOF": n_inside - 10,
        "RCHI2DIFF": np.where(seen.zwarning == 4, 0.004, 0.8), "TFILE": template,
        "TCOLUMN": [0, 1, 2, 3, -1, -1, -1, -1, -1, -1], "NPOLY": 3,
        "VDISP": np.where(seen.classes == "GALAXY", seen.objects.sigma_stars, 0),
        "VDISP_ERR": np.where(seen.classes == "GALAXY", 250 / np.maximum(all_sn, 1), 0),
        "WAVEMIN": wave[ends[0]], "WAVEMAX": wave[np.maximum(ends[1], 0)],
        "WCOVERAGE": n_inside * 1e-4, "SN_MEDIAN_ALL": all_sn, "SN_MEDIAN": band_sn,
        "CHI68P": 1.05, "SPECTROFLUX": band_flux, "SPECTROFLUX_IVAR": (20 / band_flux) ** 2,
        "SPECTROSYNFLUX": band_flux, "SPECTROSYNFLUX_IVAR": (20 / band_flux) ** 2,
        "SPECTROSKYFLUX": [9.2, 14.5, 35.1, 70.4, 143.1], "ANYANDMASK": mask_and,
        "ANYORMASK": mask_or, "CALIBFLUX": band_flux, "CALIBFLUX_IVAR": (30 / band_flux) ** 2,
    }  # fmt: skip
    if is_boss:
        # The galaxy redshift that Portsmouth used; legacy tables leave these columns empty.
        is_qso = seen.classes == "QSO"
        values |= {
            "Z_NOQSO": seen.redshift, "Z_ERR_NOQSO": seen.redshift_err,
            "ZWARNING_NOQSO": np.where(is_qso, 4, seen.zwarning),
            "CLASS_NOQSO": np.where(is_qso, "GALAXY", seen.classes),
        }  # fmt: skip
    for name, value in values.items():
        rows[name] = value
    return rows


def _scatter(like: Floats, mean: float, spread: float) -> Floats:
    # A fixed, harmless pattern in place of one more random number an object.
    return mean + spread * np.sin(1e4 * like)


def _band_flux(seen: Observation) -> Floats:
    """Nanomaggies in u g r i z, shape (n, 5)."""
    flux = seen.scene.continuum.at(_EFFECTIVE / (1 + seen.objects.redshift[:, None]))
    return np.asarray(np.maximum(flux / _FLUX_OF_NMGY * (_EFFECTIVE / 6166.0) ** 2, 1e-3))
