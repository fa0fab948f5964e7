"""HDUs of the single exposures of a full spec file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock import fits
from spectra_scale.mock.fits import Card
from spectra_scale.mock.observation import Observation

Rows = NDArray[Any]

# Wavelengths (Å) of the blue and the red camera, which overlap.
_CAMERAS = {"sdss": ((3700, 6160), (5780, 9240)), "boss": ((3550, 6300), (5830, 10400))}
_NAMES = ("flux", "loglam", "ivar", "mask", "wdisp", "sky", "calib", "x")
_EXPOSURE_S = 900.0


def exposure_type(survey: str) -> np.dtype[Any]:
    """Columns of an exposure: BOSS files have the place on the detector (`x`) too."""
    names = _NAMES if survey == "boss" else _NAMES[:-1]
    return np.dtype([(name, ">i4" if name == "mask" else ">f4") for name in names])


def exposure_hdus(seen: Observation, index: int, names: list[str]) -> list[bytes]:
    """HDUs of all exposures of one spectrum, blue camera first.

    The exposures have the noise of one each, and their mean is the coadd: deviations that sum to
    nothing are added to it. They stand on the pixels of the coadd, moved by the flexure between
    exposures (a few hundredths of a pixel), where real ones have the detector's own; blue legacy
    exposures run from red to blue, as the real ones do.

    Parameters
    ----------
    seen
        The plate as observed.
    index
        Which science spectrum.
    names
        Of `headers.exposure_names`.
    """
    task, n_exposures = seen.task, len(names) // 2
    rng = np.random.default_rng((task.seed, task.plate, int(seen.fiber[index]), 4))
    hdus = []
    for camera, (low, high) in enumerate(_CAMERAS[task.survey]):
        tables = _camera(seen, index, (low, high), n_exposures, rng)
        for i, rows in enumerate(tables):
            name = names[camera * n_exposures + i]
            ordered = rows[::-1] if camera == 0 and task.survey == "sdss" else rows
            cards = _cards(seen, name, i)
            header = fits.table_header(rows.dtype, len(rows), name.upper(), cards=cards)
            hdus += [header, fits.padded(ordered.tobytes())]
    return hdus


def _camera(
    seen: Observation,
    index: int,
    ends: tuple[float, float],
    n_exposures: int,
    rng: np.random.Generator,
) -> list[Rows]:
    exposure, row = seen.exposure, seen.row[index]
    first, last = np.searchsorted(seen.instrument.wave, ends)
    cut = slice(max(int(first), int(exposure.start[row])), min(int(last), int(exposure.stop[row])))
    flux, ivar = exposure.flux[row, cut], exposure.ivar[row, cut]
    sigma = np.where(ivar > 0, 1 / np.sqrt(np.maximum(ivar, 1e-12)), 0)
    noise = rng.standard_normal((n_exposures, flux.size))
    # Var of one exposure is n times that of the mean; deviations have n - 1 of it, and sum to 0.
    deviation = np.sqrt(n_exposures) * sigma * (noise - noise.mean(axis=0))
    pixel = np.arange(cut.start, cut.stop)
    rest = np.linspace(-1, 1, flux.size) if flux.size > 1 else np.zeros(flux.size)
    tables = []
    for i in range(n_exposures):
        rows = np.zeros(flux.size, dtype=exposure_type(seen.task.survey))
        rows["flux"] = flux + deviation[i]
        shift = 0.03 * rng.standard_normal()
        rows["loglam"] = 1e-4 * (seen.instrument.first_pixel + pixel + shift)
        rows["ivar"] = ivar / n_exposures
        rows["mask"] = exposure.and_mask[row, cut]
        rows["wdisp"] = seen.instrument.wdisp_of(exposure.slit_place[row])[cut]
        rows["sky"] = exposure.sky[row, cut]
        # Flux of one count: worst at the ends of a camera.
        rows["calib"] = 0.06 * 10 ** (0.7 * rest**4)
        if "x" in (rows.dtype.names or ()):
            rows["x"] = 30 + 4 * (int(seen.fiber[index]) % 500) * 2 + 3 * rest**2
        tables.append(rows)
    return tables


def _cards(seen: Observation, name: str, index: int) -> list[Card]:
    task = seen.task
    camera, number = name[:2], int(name.split("-")[1])
    start = task.mjd * 86_400.0 + 20_000 + index * (_EXPOSURE_S + 80)
    return [
        ("TELESCOP", "SDSS 2.5-M", "Sloan Digital Sky Survey"),
        ("FILENAME", f"sdR-{camera}-{number:08d}.fit", ""),
        ("CAMERAS", camera, "camera ID in this exposure"),
        ("EXPOSURE", number, "Spectro exposure number"),
        ("EXPTIME", _EXPOSURE_S, "Exposure time. (seconds)"),
        ("FLAVOR", "science", "Flavor of this sequence"),
        ("TAI-BEG", start, "Exposure Start Time"),
        ("MJD", task.mjd, "MJD of observation"),
        ("NAME", f"{task.name}-01", "Name of target; PlateId-MJD-Mapper Re"),
        ("PLATEID", task.plate, "Plate Id"),
        ("RADEG", round(seen.centre[0], 6), "Right Ascension. (degrees)"),
        ("DECDEG", round(seen.centre[1], 6), "Declination. (degrees)"),
    ]
