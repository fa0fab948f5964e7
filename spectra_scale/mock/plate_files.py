"""Files of a whole plate: spPlate and spZbest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock import fits
from spectra_scale.mock.columns import PLUGMAP, ZBEST
from spectra_scale.mock.fits import Part
from spectra_scale.mock.headers import N_EXPOSURES, plate_axis_cards, plate_cards
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.plate_facts import plate_facts, spectrograph_of
from spectra_scale.mock.rows import focal_plane, target_names
from spectra_scale.mock.targets import object_types

Rows = NDArray[Any]

# u - r, g - r, 0, i - r, z - r of a galaxy.
_COLOURS = np.array([2.4, 0.8, 0, -0.35, -0.6])


def write_plate_files(seen: Observation, rows: Rows, folder: Path) -> list[int]:
    """Write spPlate and spZbest; the latter in a RUN1D folder for BOSS, as in the archive.

    Parameters
    ----------
    seen, rows
        The plate as observed, and its rows of the catalogue.
    folder
        Root of the release.

    Returns
    -------
        Sizes of the files in bytes.
    """
    task = seen.task
    run2d = seen.settings.run2d(task.survey)
    directory = folder / run2d / f"{task.plate:04d}"
    best = directory / (run2d if task.survey == "boss" else "") / f"spZbest-{task.name}.fits"
    plate = directory / f"spPlate-{task.name}.fits"
    return [
        fits.write_atomically(plate, _plate_hdus(seen, rows)),
        fits.write_atomically(best, _best_hdus(seen, rows)),
    ]


def _plate_hdus(seen: Observation, rows: Rows) -> Iterator[Part]:
    exposure = seen.exposure
    cards = plate_cards(seen.task, seen.instrument, seen.centre, N_EXPOSURES[seen.task.survey])
    axis = plate_axis_cards(seen.instrument)
    wdisp = seen.instrument.wdisp_of(exposure.slit_place)
    # EXTNAMEs came with DR10: the index order is what all releases share.
    yield from fits.image(exposure.flux, [*cards, *axis])
    yield from fits.image(exposure.ivar, axis, extension="IVAR")
    yield from fits.image(exposure.and_mask, axis, extension="ANDMASK")
    yield from fits.image(exposure.or_mask, axis, extension="ORMASK")
    yield from fits.image(wdisp, axis, extension="WAVEDISP")
    yield fits.table(_plugmap(seen, rows), "PLUGMAP")
    yield from fits.image(exposure.sky, axis, extension="SKY")


def _best_hdus(seen: Observation, rows: Rows) -> Iterator[Part]:
    cards = plate_cards(seen.task, seen.instrument, seen.centre, N_EXPOSURES[seen.task.survey])
    dispersion = np.zeros((len(seen.exposure.flux), 35), dtype=np.float32)
    yield fits.primary(cards)
    yield fits.table(_zbest(seen, rows))
    yield from fits.image(seen.exposure.model, plate_axis_cards(seen.instrument), extension="")
    yield from fits.image(dispersion, extension="")


def _plugmap(seen: Observation, best: Rows) -> Rows:
    n = len(seen.fiber) + len(seen.sky_fiber)
    rows = np.zeros(n, dtype=PLUGMAP)
    rows["FIBERID"] = np.arange(1, n + 1)
    rows["HOLETYPE"], rows["OBJTYPE"] = "OBJECT", "SKY"
    rows["RA"], rows["DEC"] = seen.centre
    rows["SPECTROGRAPHID"] = spectrograph_of(rows["FIBERID"], seen.task, seen.settings)
    rows["OBJTYPE"][seen.row] = object_types(target_names(seen))
    rows["OBJID"][seen.row] = best["OBJID"]
    rows["RA"][seen.row], rows["DEC"][seen.row] = seen.ra, seen.dec
    rows["MAG"][seen.row] = seen.objects.magnitude[:, None] + _COLOURS
    rows["XFOCAL"], rows["YFOCAL"] = focal_plane(rows["RA"], rows["DEC"], seen.centre)
    for name in ("PRIMTARGET", "SECTARGET"):
        rows[name][seen.row] = best[name]
    return rows


def _zbest(seen: Observation, rows: Rows) -> Rows:
    """One row a fibre, sky fibres included: theirs are of the class of noise, and flagged."""
    n = len(seen.fiber) + len(seen.sky_fiber)
    best = np.zeros(n, dtype=ZBEST)
    best["PLATE"], best["MJD"] = seen.task.plate, seen.task.mjd
    best["FIBERID"] = np.arange(1, n + 1)
    best["CLASS"], best["OBJTYPE"] = "GALAXY", "SKY"
    best["RUN2D"] = seen.settings.run2d(seen.task.survey)
    # Bit 0 says sky; bit 2 that no redshift stands out.
    best["ZWARNING"], best["Z"] = 5, 0.3
    best["PLUG_RA"], best["PLUG_DEC"] = seen.centre
    for name in set(ZBEST.names or ()) & set(rows.dtype.names or ()):
        best[name][seen.row] = rows[name]
    best["OBJTYPE"][seen.row] = object_types(target_names(seen))
    for name, value in plate_facts(seen.task).depth.items():
        best[name] = value
    return best
