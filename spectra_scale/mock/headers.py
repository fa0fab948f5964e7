"""Header cards of plate and spectrum files, as the pipelines of the two surveys write them."""

from __future__ import annotations

import numpy as np

from spectra_scale.mock.fits import Card
from spectra_scale.mock.instrument import Spectrograph
from spectra_scale.mock.plate_facts import plate_facts
from spectra_scale.mock.settings import MockTask

#: Exposures of each camera.
N_EXPOSURES = {"sdss": 4, "boss": 5}
_DEPTHS = tuple(
    (f"SPEC{i}_{band}", f"(S/N)^2 for spec  {i} at mag {magnitude}")
    for i in (1, 2)
    for band, magnitude in (("G", "20.20"), ("R", "20.25"), ("I", "19.90"))
)


def plate_cards(
    task: MockTask, instrument: Spectrograph, centre: tuple[float, float], n_exposures: int
) -> list[Card]:
    """Cards that the spPlate of a plate and all its spec files share, COEFF0 of the plate last."""
    versions = _boss_versions() if instrument.is_boss else _legacy_versions()
    night = np.random.default_rng((task.seed, task.plate, task.mjd))
    depth = plate_facts(task).depth
    cards: list[Card] = [
        ("TELESCOP", "SDSS 2.5-M", "Sloan Digital Sky Survey"),
        ("FLAVOR", "science", "exposure type, SDSS spectro style"),
        ("MJD", task.mjd, "APO fMJD day at start of exposure"),
        ("MJDLIST", str(task.mjd), ""),
        ("NAME", f"{task.name}-01", "The name of the currently loaded plate"),
        ("PLATEID", task.plate, "The currently loaded plate"),
        ("TILEID", 122 + task.plate, ""),
        ("CARTID", 1 + task.plate % 9, "Cartridge used in this plugging"),
        ("RA", round(centre[0], 6), "RA of telescope boresight (deg)"),
        ("DEC", round(centre[1], 6), "Dec of telescope boresight (deg)"),
        ("EQUINOX", 2000.0, ""),
        ("RADECSYS", "FK5", ""),
        ("RADEG", round(centre[0], 6), "RA of telescope pointing(deg)"),
        ("DECDEG", round(centre[1], 6), "Dec of telescope pointing (deg)"),
        ("AIRTEMP", round(float(night.normal(9, 6)), 3), ""),
        ("HUMIDITY", round(float(night.uniform(10, 70)), 3), ""),
        ("EXPTIME", 900.0 * n_exposures, "Minimum of exposure times for all cameras"),
        ("SPCOADD", "Mon Jan  1 00:00:00 2024", "SPCOADD finished"),
        *versions,
        ("PLUGFILE", f"plPlugMapM-{task.name}-01.par", ""),
        ("HELIO_RV", round(float(night.uniform(-28, 28)), 9), "Heliocentric correction"),
        ("VACUUM", True, "Wavelengths are in vacuum"),
        ("SFLATTEN", True, "Superflat has been applied"),
        ("PSFSKY", 3, "Order of PSF skysubtraction"),
        ("SKYCHI2", round(float(night.uniform(0.98, 1.12)), 9), "Mean chi^2 of sky-subtraction"),
        ("PREJECT", 0.2, "Profile area rejection threshold"),
        *((key, depth[key], comment) for key, comment in _DEPTHS),
        ("NSTD", 14 + task.plate % 7, "Number of (good) std stars"),
        ("LOWREJ", 5, "Extraction: low rejection"),
        ("HIGHREJ", 8, "Extraction: high rejection"),
        ("SCATPOLY", 0, "Extraction: Order of scattered light polynomial"),
        ("PROFTYPE", 3, "Extraction profile: 1=Gaussian"),
        ("NFITPOLY", 1, "Extraction: Number of parameters in each profil"),
        ("NWORDER", 2, "Linear-log10 coefficients"),
        ("WFITTYPE", "LOG-LINEAR", "Linear-log10 dispersion"),
        (
            "COEFF0",
            round(1e-4 * instrument.first_pixel, 4),
            "Central wavelength (log10) of first pixel",
        ),
        ("COEFF1", 0.0001, "Log10 dispersion per pixel"),
        ("FBADPIX", 0.0242607, "Fraction of bad pixels"),
        ("WAT0_001", "system=linear", ""),
        ("WAT1_001", "wtype=linear label=Wavelength units=Angstroms", ""),
        ("DC-FLAG", 1, "Log-linear flag"),
        ("BUNIT", "1E-17 erg/cm^2/s/Ang", ""),
        ("MOCK", True, "Simulated by spectra_scale: not an observation"),
    ]
    return cards


def spectrum_cards(
    cards: list[Card], first_pixel: int, own: list[Card], exposures: list[str], *, is_boss: bool
) -> list[Card]:
    """Cards of one spec file.

    Parameters
    ----------
    cards
        Those of the plate.
    first_pixel
        Native index that COEFF0 names. BOSS files name their own first pixel; legacy files keep
        that of the plate, one or more pixels before their `loglam` begins.
    own
        PLUG_RA, PLUG_DEC and the object's id.
    exposures
        Of `exposure_names`.
    is_boss
        EXPID cards have two digits in legacy files, three from DR16 on. BOSS files count the
        exposures of each camera for the first spectrograph alone.
    """
    coeff0, n = round(1e-4 * first_pixel, 4), len(exposures) // 2
    spectrograph, digits = int(exposures[0][1]), 3 if is_boss else 2
    mine: list[Card] = [(k, coeff0 if k == "COEFF0" else v, c) for k, v, c in cards]
    mine += own
    if not is_boss or spectrograph == 1:
        # Of legacy files too they are named after the first spectrograph, whichever it was.
        mine += [
            ("NEXP_B1", n, "b1 camera number of exposures"),
            ("NEXP_R1", n, "r1 camera number of exposures"),
        ]
    mine.append(("NEXP", 2 * n, "Number of individual exposures"))
    return mine + [(f"EXPID{i:0{digits}d}", name, "") for i, name in enumerate(exposures, 1)]


def exposure_names(n_exposures: int, spectrograph: int) -> list[str]:
    """Names of the exposures as EXPID gives them: camera, exposure, flat, arc; blue ones first."""
    flat, arc = 2591 + n_exposures, 2592 + n_exposures
    return [
        f"{camera}{spectrograph}-{2591 + i:08d}-{flat:08d}-{arc:08d}"
        for camera in "br"
        for i in range(n_exposures)
    ]


def plate_axis_cards(instrument: Spectrograph) -> list[Card]:
    """Cards of the wavelength axis of an spPlate image; CTYPE1 says linear although it is not."""
    return [
        (
            "CRVAL1",
            round(1e-4 * instrument.first_pixel, 4),
            "Central wavelength (log10) of first pixel",
        ),
        ("CD1_1", 0.0001, "Log10 dispersion per pixel"),
        ("CRPIX1", 1, "Starting pixel (1-indexed)"),
        ("CTYPE1", "LINEAR", ""),
    ]


def _legacy_versions() -> list[Card]:
    # VERS2D begins with v5 in legacy files too, and there is no RUN2D card.
    return [
        ("VERSION", "v3_140_0", "version of IOP"),
        ("CAMVER", "SPEC2 v4_5", "Camera code version"),
        ("VERSIDL", "6.3", "Version of IDL"),
        ("VERSUTIL", "v5_3_0", "Version of idlutils"),
        ("VERSREAD", "v5_3_12", "Version of idlspec2d for pre-processing raw dat"),
        ("VERS2D", "v5_3_12", "Version of idlspec2d for 2D reduction"),
        ("VERSCOMB", "v5_3_12", "Version of idlspec2d for combining multiple spe"),
        ("VERSFLAT", "v1_7", "Version of SPECFLAT product"),
    ]


def _boss_versions() -> list[Card]:
    return [
        ("BOSSVER", "2", "ICC version"),
        ("VERSIDL", "7.1.1", "Version of IDL"),
        ("VERSUTIL", "v5_5_36", "Version of idlutils"),
        ("VERSREAD", "v5_13_2", "Version of idlspec2d for pre-processing raw dat"),
        ("VERS2D", "v5_13_2", "Version of idlspec2d for 2D reduction"),
        ("VERSCOMB", "v5_13_2", "Version of idlspec2d for combining multiple spe"),
        ("VERSFLAT", "v1_40", "Version of SPECFLAT product"),
        ("RUN2D", "v5_13_2", "Spectro-2D reduction name"),
        ("REDDEN01", 0.0709, "Median extinction in u-band"),
    ]
