"""Header cards of SDSS-V's spec files: the keys that each release documents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spectra_scale.mock.fits import Card
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.plate_facts import plate_facts
from spectra_scale.mock.sdssv_columns import FIRST_PIXEL, N_PIXELS

#: Exposures of each camera, and how long each is (s).
N_EXPOSURES, EXPOSURE_S = 8, 900.0
#: Number of the first exposure.
FIRST_EXPOSURE = 353_048
_BANDS = (("G", "21.20"), ("R", "20.20"), ("I", "20.20"))
_DAY_S = 86_400.0


def field_cards(seen: Observation) -> list[Card]:
    """Cards that all spec files of a field share, those of a primary HDU without data first."""
    if seen.settings.sdssv_release == "dr18":
        return [*_dr18_cards(seen)]
    return [*_later_cards(seen)]


def object_cards(seen: Observation, index: int) -> list[Card]:
    """Cards of one spectrum."""
    return [
        ("PLUG_RA", round(float(seen.ra[index]), 9), "RA of the target [deg]"),
        ("PLUG_DEC", round(float(seen.dec[index]), 9), "Dec of the target [deg]"),
    ]


def exposure_mjds(seen: Observation) -> list[float]:
    """Middle of each exposure, days."""
    start = seen.task.mjd + 0.25
    return [start + (i + 0.5) * (EXPOSURE_S + 80) / _DAY_S for i in range(N_EXPOSURES)]


def _primary(*, has_axis: bool) -> Iterator[Card]:
    yield "SIMPLE", True, "conforms to FITS standard"
    # DR18 kept the shape of the image that its header was made for, without the image.
    yield "BITPIX", 32 if has_axis else 8, "array data type"
    yield "NAXIS", 0, "number of array dimensions"
    if has_axis:
        yield "NAXIS1", N_PIXELS, ""
    yield "EXTEND", True, ""


def _dr18_cards(seen: Observation) -> Iterator[Card]:
    task, night = seen.task, _night(seen)
    yield from _primary(has_axis=True)
    yield "TELESCOP", "SDSS 2.5-M", "Sloan Digital Sky Survey"
    yield from _seeing(night)
    yield from (("V_BOSS", "5.0.1", ""), ("CAMDAQ", "1.5.0:37", ""), ("DIDFLUSH", True, ""))
    yield "FLAVOR", "science", "exposure type, SDSS spectro style"
    yield "MJD", task.mjd, "MJD of the observation"
    yield "MJDLIST", str(task.mjd), ""
    yield "TAI-BEG", (task.mjd + 0.25) * _DAY_S, "start of the observation (s)"
    yield "NAME", f"{task.plate}-{task.mjd}-01", "The name of the currently loaded plate"
    yield "PLATEID", task.plate, "The currently loaded plate"
    yield from (("TILEID", -1, ""), ("CARTID", 3, ""), ("MAPID", 1, ""), ("POINTING", "A", ""))
    yield from (("PLATETYP", "BHM&MWM", ""), ("SRVYMODE", "BHM lead", ""), ("OBJSYS", "ICRS", ""))
    yield from _pointing(seen)
    yield from _weather(night)
    yield from _exposures(second=False)
    yield from _versions(seen, "8.7.2", "v5_5_17")
    yield "BADPIXEL", "badpixels-58736-b1.fits.gz", ""
    yield from _pipeline(seen, night)
    yield "PLUGFILE", f"plPlugMapM-{task.plate}-{task.mjd}-01.par", ""
    yield "HELIO_RV", round(float(night.uniform(-28, 28)), 9), "Heliocentric correction (km/s)"
    yield from _depths(seen, second=False)
    yield "XCHI2", 0.0, ""
    yield "FIELDID", str(task.plate), ""
    yield from _axis()
    yield "BUNIT", "1E-17 erg/cm^2/s/Ang", ""
    yield "MOCK", True, "Simulated by spectra_scale: not an observation"


def _later_cards(seen: Observation) -> Iterator[Card]:
    task, night = seen.task, _night(seen)
    yield from _primary(has_axis=False)
    yield "TELESCOP", "SDSS 2.5-M", "Telescope"
    yield "OBSERVAT", "APO", "Observatory"
    yield from ((key, "", "") for key in ("SPEC", "CCD", "CCDID", "CCDTYPE"))
    yield from _exposures(second=True)
    yield from (("NAME", "", ""), ("PLATEID", "", ""), ("CARTID", "FPS-N", ""), ("MAPID", "", ""))
    yield from (("POINTING", "", ""), ("PLATETYP", "BHM&MWM", ""), ("SRVYMODE", "", ""))
    # A text, as the fields of some coadds have names.
    yield "FIELDID", f"{task.plate:06d}", "FPS field"
    yield "MJD", task.mjd, ""
    yield from (("FIELDCAD", "dark_174x8_v1", ""), ("SLITID", 0, ""))
    yield from _pointing(seen)
    yield from (("OFFRA", 0.0, ""), ("OFFDEC", -0.1, ""), ("OFFPA", -432.0, ""))
    yield from (
        ("VJAEGER", "1.3.4a0", ""),
        ("VKAIJU", "1.2.4", ""),
        ("V_APO", "3.0.1", ""),
    )
    yield from (("VCOORDIO", "1.6.2a0", ""), ("VCALIBS", "2023.01.05", ""), ("BOSSVER", "", ""))
    yield from (("V_BOSS", "6.0.2-alpha.0", ""), ("CAMDAQ", "1.5.0:37", ""), ("DAQVER", "", ""))
    yield from ((key, "", "") for key in ("V_ARCHON", "ARCHBACK", "ARCHBVER", "V_GUIDER", "V_SOP"))
    yield from _versions(seen, "8.8.0", "6.0.0dev")
    yield "BADPIXEL", "badpixels-59747-b1.fits.gz", ""
    yield from _pipeline(seen, night)
    yield "OBSMODE", "dark_rm", ""
    yield from _depths(seen, second=True)
    yield from _axis()
    # No header can hold a number that is none.
    yield "HUMIDITY", "NaN", ""
    motion = round(float(night.uniform(-28, 28)), 9)
    yield from (("HELIO_RV", motion, "as V_RAD"), ("V_RAD", motion, "barycentric (km/s)"))
    yield from _seeing(night)
    yield "TAI-BEG", (task.mjd + 0.25) * _DAY_S, "start of the observation (s)"
    yield "SDSSC2BV", 1, ""
    yield "MOCK", True, "Simulated by spectra_scale: not an observation"


def _night(seen: Observation) -> np.random.Generator:
    return np.random.default_rng((seen.task.seed, seen.task.plate, seen.task.mjd))


def _pointing(seen: Observation) -> Iterator[Card]:
    ra, dec = seen.centre
    yield from (("RA", round(ra, 6), "telescope [deg]"), ("DEC", round(dec, 6), "telescope [deg]"))
    yield from (("EQUINOX", 2000.0, ""), ("RADECSYS", "FK5", ""))
    yield from (("RADEG", round(ra, 6), "field [deg]"), ("DECDEG", round(dec, 6), "field [deg]"))


def _seeing(night: np.random.Generator) -> Iterator[Card]:
    middle = float(night.uniform(0.9, 1.9))
    yield "NGUIDE", 205, "guider frames"
    for percent, factor in ((20, 0.9), (50, 1.0), (80, 1.2)):
        yield f"SEEING{percent}", round(factor * middle, 6), "seeing (arcsec)"
        yield f"RMSOFF{percent}", round(0.1 * factor, 6), "guiding (arcsec)"


def _weather(night: np.random.Generator) -> Iterator[Card]:
    yield "AIRTEMP", round(float(night.normal(9, 6)), 3), ""
    yield "HUMIDITY", round(float(night.uniform(10, 70)), 3), ""


def _exposures(*, second: bool) -> Iterator[Card]:
    yield "NEXP", 2 * N_EXPOSURES if not second else N_EXPOSURES, "exposures"
    yield "BESTEXP", FIRST_EXPOSURE + 2, ""
    for place, name in enumerate(exposure_names(), 1):
        yield f"EXPID{place:02d}", name, ""
    total = N_EXPOSURES * EXPOSURE_S
    for camera in ("B1", "R1"):
        yield f"NEXP_{camera}", N_EXPOSURES, ""
        yield f"EXPT_{camera}", total, ""
    if second:
        for camera in ("B2", "R2"):
            yield f"NEXP_{camera}", 0, ""
            yield f"EXPT_{camera}", 0.0, ""
    yield "EXPTIME", total, "exposure time (s)"
    yield "SPCOADD", "Mon Jan  1 00:00:00 2024", "SPCOADD finished"


def exposure_names() -> list[str]:
    """Names of the exposures as EXPID gives them: blue ones first, flat and arc before them."""
    flat, arc = FIRST_EXPOSURE - 4, FIRST_EXPOSURE - 1
    return [
        f"{camera}1-{FIRST_EXPOSURE + i:08d}-{flat:08d}-{arc:08d}"
        for camera in "br"
        for i in range(N_EXPOSURES)
    ]


def _versions(seen: Observation, idl: str, utilities: str) -> Iterator[Card]:
    run2d = seen.settings.run2d("sdssv")
    yield from (("VERSIDL", idl, ""), ("VERSUTIL", utilities, ""))
    for key in ("VERSREAD", "VERS2D", "VERSCOMB"):
        yield key, run2d, ""
    yield from (("VERSLOG", "trunk 27531", ""), ("VERSFLAT", "v1_35", ""))


def _pipeline(seen: Observation, night: np.random.Generator) -> Iterator[Card]:
    yield "RUN2D", seen.settings.run2d("sdssv"), "Spectro-2D reduction name"
    for i in range(1, 6):
        yield f"REDDEN{i:02d}", 0.0, ""
    yield from (("WDISPR", 3.10333, ""), ("LAMPLIST", "lamphgcdne.dat", ""))
    yield from (("SKYLIST", "skylines.dat", ""), ("VACUUM", True, "wavelengths in vacuum"))
    yield from (("SFLATTEN", True, ""), ("PSFSKY", 3, ""), ("PREJECT", 0.2, ""))
    chi2 = round(float(night.uniform(0.86, 0.92)), 9)
    yield from (("SKYCHI2", chi2, ""), ("SCHI2MIN", 0.85, ""), ("SCHI2MAX", 0.98, ""))
    yield from (("LOWREJ", 4, ""), ("HIGHREJ", 50, ""), ("SCATPOLY", 0, ""), ("PROFTYPE", 1, ""))
    yield from (("NFITPOLY", 1, ""), ("NSTD", 70, ""), ("NGAL", 429, ""))


def _depths(seen: Observation, *, second: bool) -> Iterator[Card]:
    """(S/N)² of the field and of its exposures; robots feed the first spectrograph alone."""
    depth = plate_facts(seen.task).depth
    for band, magnitude in _BANDS:
        value = depth[f"SPEC1_{band}"]
        yield f"SPEC1_{band}", value, f"(S/N)^2 at mag {magnitude}"
        yield f"SN2EXT1{band}", value, ""
        if second:
            yield from ((f"FSPEC1_{band}", value, ""), (f"FSN2EX1{band}", value, ""))
            yield from ((f"SPEC2_{band}", 0.0, ""), (f"SN2EXT2{band}", 0.0, ""))
            yield from ((f"FSPEC2_{band}", 0.0, ""), (f"FSN2EX2{band}", 0.0, ""))
    for exposure in range(N_EXPOSURES):
        for spectrograph in (1, 2) if second else (1,):
            for band, _ in _BANDS:
                value = round(depth[f"SPEC1_{band}"] / N_EXPOSURES * (spectrograph == 1), 5)
                tail = f"{spectrograph}{band}{exposure:02d}"
                yield f"SNC0{tail}", round(1.4 * (spectrograph == 1), 5), ""
                yield f"SNC1{tail}", round(10.0 * (spectrograph == 1), 5), ""
                yield f"SN2_{tail}", value, ""


def _axis() -> Iterator[Card]:
    first = round(1e-4 * FIRST_PIXEL, 4)
    yield "NWORDER", 2, "Linear-log10 coefficients"
    yield "COEFF0", first, "Central wavelength (log10) of first pixel"
    yield "COEFF1", 0.0001, "Log10 dispersion per pixel"
    yield from (("FBADPIX", 0.0110465, ""), ("FBADPIX1", 0.0110465, ""), ("FBADPIX2", 0, ""))
    yield "WAT0_001", "system=linear", ""
    yield "WAT1_001", "wtype=linear label=Wavelength units=Angstroms", ""
    yield from (("CRVAL1", first, ""), ("CD1_1", 0.0001, ""), ("CRPIX1", 1, ""))
    yield from (("CTYPE1", "LINEAR", ""), ("DC-FLAG", 1, "Log-linear flag"))
