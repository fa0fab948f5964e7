"""Rows of the catalogue (specObj), made from one observed plate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.columns import CATALOGUE
from spectra_scale.mock.medians import median_snr
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.photo_ids import (
    TARGET_RERUN,
    n_observations,
    obj_id,
    object_numbers,
    photo_fields,
)
from spectra_scale.mock.plate_facts import plate_facts, spectrograph_of
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
#: Focal plane of the telescope, mm a degree.
MM_A_DEGREE = 217.7
# Greatest VDISP that the pipeline tries, km/s.
_MOST_VDISP = 850.0


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
    o = seen.objects
    return target_classes(seen.task, o.kind, o.redshift, o.magnitude, o.as_galaxy)


def signal_to_noise(seen: Observation) -> tuple[Floats, Floats]:
    """Median S/N a pixel over all of a spectrum (n,) and in five bands (n, 5)."""
    wave = seen.instrument.wave
    edges = np.searchsorted(wave, np.array(((0.0, 1e5), *_BANDS)))
    found = median_snr(seen.exposure.flux, seen.exposure.ivar, seen.row, edges)
    return found[:, 0], found[:, 1:]


def catalogue_rows(seen: Observation) -> Rows:
    """Rows of specObj: the columns of a legacy SPECOBJ, one row for each science fibre.

    Quality and depth are the plate's, numbers of objects and NSPECOBS the same in all rows of one
    object.
    """
    rows = np.zeros(len(seen.fiber), dtype=CATALOGUE)
    all_sn, band_sn = signal_to_noise(seen)
    target = target_names(seen)
    columns = _survey_columns(seen) | _identity_columns(seen) | _target_columns(seen, target)
    columns |= _place_columns(seen) | fit_columns(seen, all_sn) | light_columns(seen)
    columns |= {"SN_MEDIAN_ALL": all_sn, "SN_MEDIAN": band_sn}
    for name, value in columns.items():
        rows[name] = value
    return rows


def _survey_columns(seen: Observation) -> dict[str, Any]:
    task, is_boss = seen.task, seen.task.survey == "boss"
    facts, run2d = plate_facts(seen.task), seen.settings.run2d(seen.task.survey)
    plate_id = spec_obj_id(task.plate, np.zeros(1, dtype=np.int64), task.mjd, run2d)[0]
    columns: dict[str, Any] = {
        "SURVEY": "boss" if is_boss else "sdss", "INSTRUMENT": "BOSS" if is_boss else "SDSS",
        "CHUNK": "boss10" if is_boss else "chunk4", "PLATERUN": "boss10" if is_boss else "chunk4",
        "PROGRAMNAME": "boss" if is_boss else "legacy", "PLATEQUALITY": facts.quality,
        "PLATESN2": facts.worst, "DEREDSN2": facts.worst if is_boss else 0.0,
        "SNTURNOFF": -9999.0, "NTURNOFF": -1, "SPECPRIMARY": not task.is_repeat,
        "SPECLEGACY": not is_boss, "SPECBOSS": is_boss, "PLATEID": f"{plate_id:d}",
        "FIRSTRELEASE": "dr9" if is_boss else "dr7", "RUN2D": run2d,
        "RUN1D": run2d if is_boss else "", "DESIGNID": -1, "PLATE": task.plate,
        "TILE": 122 + task.plate, "MJD": task.mjd, "FIBERID": seen.fiber,
        "SPECTROGRAPHID": spectrograph_of(seen.fiber, task, seen.settings),
    }  # fmt: skip
    return columns | facts.depth


def _identity_columns(seen: Observation) -> dict[str, Any]:
    """Ids of the spectra, and of their objects in the photometric survey."""
    task, is_boss = seen.task, seen.task.survey == "boss"
    ids = spec_obj_id(task.plate, seen.fiber, task.mjd, seen.settings.run2d(task.survey))
    fields = photo_fields(object_numbers(task))
    photo = [str(number) for number in obj_id(fields).tolist()]
    return {
        "SPECOBJID": [f"{i:>22d}" for i in ids], "BESTOBJID": photo, "FLUXOBJID": photo,
        "TARGETOBJID": [f"{i:>22d}" for i in obj_id(fields, 0, TARGET_RERUN)],
        "OBJID": np.insert(fields, 1, TARGET_RERUN, axis=1),
        "NSPECOBS": n_observations(task, seen.settings),
        "BOSS_SPECOBJ_ID": (task.plate * 1000 + seen.fiber) * is_boss,
    }  # fmt: skip


def _target_columns(seen: Observation, target: NDArray[np.str_]) -> dict[str, Any]:
    is_boss, is_standard = seen.task.survey == "boss", target == "standard"
    legacy = bits_of(target, LEGACY_BITS) * (not is_boss)
    standard = LEGACY_STANDARD * is_standard * (not is_boss)
    source = np.select([is_standard, target == "qso"], ["SPECTROPHOTO_STD", "QSO"], "GALAXY")
    # Quasars' holes are drilled for the blue light of theirs.
    effective = np.where(target == "qso", 4000.0, 5400.0) if is_boss else 5000.0
    return {
        "SOURCETYPE": source, "TARGETTYPE": np.where(is_standard, "STANDARD", "SCIENCE"),
        "PRIMTARGET": legacy, "LEGACY_TARGET1": legacy, "SECTARGET": standard,
        "LEGACY_TARGET2": standard, "BOSS_TARGET1": bits_of(target, BOSS_BITS) * is_boss,
        "ANCILLARY_TARGET1": BOSS_ANCILLARY * (target == "ancillary") * is_boss,
        "LAMBDA_EFF": effective, "BLUEFIBER": 1 if is_boss else -1,
    }  # fmt: skip


def _place_columns(seen: Observation) -> dict[str, Any]:
    ra, dec = np.radians(seen.ra), np.radians(seen.dec)
    x, y = focal_plane(seen.ra, seen.dec, seen.centre)
    return {
        "CX": np.cos(ra) * np.cos(dec), "CY": np.sin(ra) * np.cos(dec), "CZ": np.sin(dec),
        "PLUG_RA": seen.ra, "PLUG_DEC": seen.dec, "XFOCAL": x, "YFOCAL": y,
    }  # fmt: skip


def focal_plane(ra: Floats, dec: Floats, centre: tuple[float, float]) -> tuple[Floats, Floats]:
    """XFOCAL and YFOCAL (mm) of places (deg) on a plate."""
    x = (ra - centre[0]) * np.cos(np.radians(dec))
    return np.asarray(MM_A_DEGREE * x), np.asarray(MM_A_DEGREE * (dec - centre[1]))


def fit_columns(seen: Observation, all_sn: Floats) -> dict[str, Any]:
    """Class, redshift and what belongs to the fit."""
    is_boss, classes = seen.task.spectrograph == "boss", seen.classes
    template = np.select(
        [classes == "QSO", classes == "STAR"],
        ["spEigenQSO-55732.fits", "spEigenStar-55734.fits"],
        "spEigenGal-56436.fits" if is_boss else "spEigenGal-53724.fits",
    )
    n_inside = np.count_nonzero(seen.exposure.ivar, axis=1)[seen.row]
    dispersion, dispersion_err = _dispersion(seen, all_sn)
    flux = seen.scene.continuum.at(np.array([5500.0]))[:, 0]
    columns: dict[str, Any] = {
        "CLASS": classes, "SUBCLASS": seen.subclass, "Z": seen.redshift,
        "Z_ERR": seen.redshift_err, "ZWARNING": seen.zwarning, "RCHI2": _scatter(flux, 1.06, 0.05),
        "DOF": n_inside - 10, "RCHI2DIFF": np.where(seen.zwarning == 4, 0.004, 0.8),
        "TFILE": template, "TCOLUMN": [0, 1, 2, 3, -1, -1, -1, -1, -1, -1], "NPOLY": 3,
        "VDISP": dispersion, "VDISP_ERR": dispersion_err, "WCOVERAGE": n_inside * 1e-4,
        "CHI68P": 1.05,
    }  # fmt: skip
    if is_boss:
        # The galaxy redshift that Portsmouth used; legacy tables leave these columns empty.
        is_qso = classes == "QSO"
        columns |= {
            "Z_NOQSO": seen.redshift, "Z_ERR_NOQSO": seen.redshift_err,
            "ZWARNING_NOQSO": np.where(is_qso, 4, seen.zwarning),
            "CLASS_NOQSO": np.where(is_qso, "GALAXY", classes),
        }  # fmt: skip
    return columns


def _dispersion(seen: Observation, all_sn: Floats) -> tuple[Floats, Floats]:
    """VDISP and its error (km/s), 0 but for galaxies: the true one with noise of that error."""
    task = seen.task
    rng = np.random.default_rng((task.seed, task.plate, 9))
    # Of every fibre that there could be: a spectrum's noise is that of its fibre.
    noise = rng.standard_normal(seen.settings.fibers(task.survey))[seen.fiber - 1]
    is_galaxy = seen.classes == "GALAXY"
    error = np.where(is_galaxy, 250 / np.maximum(all_sn, 1), 0)
    found = np.clip(seen.objects.sigma_stars + noise * error, 0, _MOST_VDISP)
    return np.where(is_galaxy, found, 0), error


def light_columns(seen: Observation) -> dict[str, Any]:
    """Ends of the spectra, masks and fluxes in the bands of the photometric survey."""
    exposure, row, wave = seen.exposure, seen.row, seen.instrument.wave
    band_flux = _band_flux(seen)
    ivar, of_calibration = (20 / band_flux) ** 2, (30 / band_flux) ** 2
    return {
        "WAVEMIN": wave[exposure.start[row]],
        "WAVEMAX": wave[np.maximum(exposure.stop[row] - 1, 0)],
        "SPECTROFLUX": band_flux, "SPECTROFLUX_IVAR": ivar, "SPECTROSYNFLUX": band_flux,
        "SPECTROSYNFLUX_IVAR": ivar, "SPECTROSKYFLUX": [9.2, 14.5, 35.1, 70.4, 143.1],
        "ANYANDMASK": np.bitwise_or.reduce(exposure.and_mask, axis=1)[row],
        "ANYORMASK": np.bitwise_or.reduce(exposure.or_mask, axis=1)[row],
        "CALIBFLUX": band_flux, "CALIBFLUX_IVAR": of_calibration,
    }  # fmt: skip


def _scatter(like: Floats, mean: float, spread: float) -> Floats:
    # A fixed, harmless pattern in place of one more random number an object.
    return mean + spread * np.sin(1e4 * like)


def _band_flux(seen: Observation) -> Floats:
    """Nanomaggies in u g r i z, shape (n, 5)."""
    flux = seen.scene.received(_EFFECTIVE)
    return np.asarray(np.maximum(flux / _FLUX_OF_NMGY * (_EFFECTIVE / 6166.0) ** 2, 1e-3))
