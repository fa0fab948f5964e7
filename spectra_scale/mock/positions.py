"""Where the objects of a mock release lie on the sky."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.task import NSIDE, MockTask

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PLATE_RADIUS_DEG = 1.45
# Farthest that two catalogues have one object from another.
_CATALOGUE_OFFSET_DEG = 0.3 / 3600


def positions(task: MockTask) -> tuple[tuple[float, float], Floats, Floats]:
    """Sky positions of the science spectra of `task`, the same for repeats.

    Objects are uniform within a plate's radius or within a healpixel. SDSS-V has its own catalogue
    of those that a plate observes too: up to 0.3 arcsec from the plate's.

    Returns
    -------
        Centre (RA, Dec) of the plate or pixel, and RA and Dec of shape (n_science,), all in deg.
    """
    if task.layout == "field":
        return _in_field(task)
    if task.layout != "healpix":
        centre, ra, dec = _on_plate(task)
        return centre, ra[: task.n_science], dec[: task.n_science]
    if _is_over_plate(task):
        _, ra, dec = _on_plate(task)
        chosen = chosen_objects(task)
        return pixel_centre(task.healpix), ra[chosen], dec[chosen]
    return pixel_centre(task.healpix), *_in_pixel(task)


def plate_centre(task: MockTask) -> tuple[float, float]:
    """RA and Dec (deg) of the centre of the plate that `task` takes its objects from."""
    rng = task.position_rng()
    # The northern cap of the survey, where most of its plates are.
    return float(rng.uniform(120, 240)), float(rng.uniform(0, 58))


def chosen_objects(task: MockTask) -> Ints:
    """Which objects of its source `task` observes: indices of shape (n_science,)."""
    if not _is_over_plate(task):
        return np.arange(task.n_science)
    _, ra, dec = _on_plate(task)
    return np.flatnonzero(_pixel_of(ra, dec) == task.healpix)[: task.n_science]


def count_inside(source: MockTask, healpix: int) -> int:
    """How many objects of a plate lie in a healpixel."""
    _, ra, dec = _on_plate(replace(source, n_source=source.n_science))
    return int((_pixel_of(ra, dec) == healpix).sum())


def pixel_over(source: MockTask) -> int:
    """The odd healpixel at the centre of a plate: even ones hold objects of their own."""
    ra, dec = plate_centre(source)
    return int(_pixel_of(np.array([ra]), np.array([dec]))[0]) | 1


def own_pixels() -> Ints:
    """Even healpixels of the northern cap of SDSS, in an order that scatters them over it."""
    pixel = np.arange(0, 12 * NSIDE**2, 2)
    ra, dec = _place(pixel, np.full(len(pixel), 0.5), np.full(len(pixel), 0.5))
    inside = pixel[(ra > 120) & (ra < 240) & (dec > 0) & (dec < 58)]
    # A prime step visits each of them once; the release takes as many as it needs.
    return np.asarray(inside[(np.arange(len(inside)) * 1009) % len(inside)], dtype=np.int64)


def pixel_centre(healpix: int) -> tuple[float, float]:
    """RA and Dec (deg) of the centre of a nested pixel of nside 64."""
    ra, dec = _place(np.array([healpix]), np.array([0.5]), np.array([0.5]))
    return float(ra[0]), float(dec[0])


def _is_over_plate(task: MockTask) -> bool:
    """Whether a healpixel observes objects of a plate, not its own or those of its twin."""
    return task.layout == "healpix" and task.is_repeat and task.source_survey != "desi"


def _on_plate(task: MockTask) -> tuple[tuple[float, float], Floats, Floats]:
    rng = task.position_rng()
    ra0, dec0 = float(rng.uniform(120, 240)), float(rng.uniform(0, 58))
    radius = PLATE_RADIUS_DEG * np.sqrt(rng.random(task.n_source))
    angle = rng.uniform(0, 2 * np.pi, task.n_source)
    dec = dec0 + radius * np.sin(angle)
    ra = ra0 + radius * np.cos(angle) / np.cos(np.radians(dec))
    return (ra0, dec0), ra, dec


def _in_field(task: MockTask) -> tuple[tuple[float, float], Floats, Floats]:
    centre, ra, dec = _on_plate(task)
    ra, dec = ra[: task.n_science], dec[: task.n_science]
    if not task.is_repeat:
        return centre, ra, dec
    chance, angle = task.pointing_rng().random((2, task.n_science))
    offset = _CATALOGUE_OFFSET_DEG * np.sqrt(chance)
    north, east = offset * np.sin(2 * np.pi * angle), offset * np.cos(2 * np.pi * angle)
    return centre, ra + east / np.cos(np.radians(dec)), dec + north


def _in_pixel(task: MockTask) -> tuple[Floats, Floats]:
    # The projection keeps areas, so that what is uniform in a pixel's own axes is on the sky.
    x, y = task.position_rng().random((2, task.n_source))
    ra, dec = _place(np.full(task.n_source, task.healpix), x, y)
    return ra[: task.n_science], dec[: task.n_science]


def _place(pixel: Ints, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    from astropy_healpix import healpix_to_lonlat

    lon, lat = healpix_to_lonlat(pixel, NSIDE, dx=x, dy=y, order="nested")
    return np.degrees(lon.value), np.degrees(lat.value)


def _pixel_of(ra: Floats, dec: Floats) -> Ints:
    import astropy.units as u
    from astropy_healpix import lonlat_to_healpix

    pixel = lonlat_to_healpix(ra * u.deg, dec * u.deg, NSIDE, order="nested")
    return np.asarray(pixel, dtype=np.int64)
