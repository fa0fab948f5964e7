"""Files of one DESI healpixel: coadd and redrock, with their part of the catalogues."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import erf

from spectra_scale.mock import fits
from spectra_scale.mock.desi_columns import FLUX_UNIT, IVAR_UNIT, unit_cards
from spectra_scale.mock.desi_lines import fastspec_rows, metadata_rows
from spectra_scale.mock.desi_observation import ARMS, DesiObservation, observe_healpix
from spectra_scale.mock.desi_redshifts import redshift_rows, zcatalog_rows
from spectra_scale.mock.desi_rows import exposure_rows, fibermap_rows, score_rows, tsnr2_rows
from spectra_scale.mock.fits import Card, Part
from spectra_scale.mock.instrument import Spectrograph
from spectra_scale.mock.parts import write_part
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.task import NSIDE, MockTask
from spectra_scale.mock.truth import truth_table

Rows = NDArray[Any]

# Diagonals of the resolution matrix that are kept.
_N_DIAGONALS = 11


def healpix_folder(folder: Path, task: MockTask) -> Path:
    """Where the files of a healpixel lie: ``healpix/main/PROGRAM/GROUP/PIXEL``."""
    group = str(task.healpix // 100)
    return folder / "healpix" / "main" / task.program / group / str(task.healpix)


def write_healpix(
    task: MockTask, folder: Path, settings: MockSettings
) -> tuple[list[int], NDArray[np.str_], int]:
    """Write coadd and redrock of a healpixel, and its part of the tables.

    Returns
    -------
        Sizes of the files in bytes, SPECTYPE of each target, and rows of the line table.
    """
    seen = observe_healpix(task, settings)
    fibermap = fibermap_rows(seen)
    exposures, scores = exposure_rows(seen, fibermap), score_rows(seen, fibermap)
    redshifts = redshift_rows(seen, fibermap, scores)
    directory = healpix_folder(folder, task)
    coadd = directory / f"coadd-{task.name}.fits"
    redrock = directory / f"redrock-{task.name}.fits"
    sizes = [
        fits.write_atomically(coadd, _coadd_hdus(seen, (fibermap, exposures, scores))),
        fits.write_atomically(redrock, _redrock_hdus(seen, (redshifts, fibermap, exposures))),
    ]
    ids = fibermap["TARGETID"][seen.row]
    has_data = seen.has_data()
    # FastSpecFit fits no stars, and nothing without data.
    fitted = np.flatnonzero((seen.spectype != "STAR") & has_data)
    fastspec = fastspec_rows(seen, ids, fitted)
    zcatalog = zcatalog_rows(seen, fibermap, scores, redshifts)
    metadata = metadata_rows(zcatalog[seen.row[fitted]], fastspec)
    tables = {"zcatalog": zcatalog, "fastspec": fastspec, "metadata": metadata}
    keys = [f"desi:main-{task.program}-{i}" for i in ids]
    names = {"spectrum_key": keys, "plate": -1, "fiber": -1}
    has_lines = np.isin(ids, fastspec["TARGETID"])
    truth = truth_table(seen, names, has_lines, seen.target, ~has_data)
    write_part(folder, task, settings, tables, pa.table(truth))
    return sizes, seen.spectype, len(fastspec)


def _primary(seen: DesiObservation, more: list[Card]) -> bytes:
    task = seen.task
    cards: list[Card] = [
        ("SPGRP", "healpix", ""),
        ("SPGRPVAL", task.healpix, ""),
        ("HPXPIXEL", task.healpix, ""),
        ("HPXNSIDE", NSIDE, ""),
        ("HPXNEST", True, ""),
        ("SURVEY", "main", ""),
        ("PROGRAM", task.program, ""),
        ("SPECPROD", seen.settings.run2d("desi"), ""),
        *more,
        ("MOCK", True, "Simulated by spectra_scale: not an observation"),
    ]
    return fits.primary(cards)


def _table(rows: Rows, name: str) -> bytes:
    cards: list[Card] = [("ENCODING", "ascii", ""), *unit_cards(rows.dtype.names or ())]
    return fits.table(rows, name, cards=cards)


def _coadd_hdus(seen: DesiObservation, tables: tuple[Rows, Rows, Rows]) -> Iterator[Part]:
    fibermap, exposures, scores = tables
    first = int(np.abs(fibermap["TARGETID"]).argmin())
    source = f"spectra-{seen.task.name}.fits"
    yield _primary(seen, [("FIBERMIN", first, ""), ("INFIL000", source, "")])
    yield _table(fibermap, "FIBERMAP")
    yield _table(exposures, "EXP_FIBERMAP")
    for name, arm, exposure in zip(ARMS, seen.arms, seen.exposures, strict=True):
        if not seen.has_arm(name):
            continue
        letter = name.upper()
        wave: list[Card] = [("BUNIT", "Angstrom", "")]
        yield from fits.image(arm.wave, wave, extension=f"{letter}_WAVELENGTH")
        flux: list[Card] = [("BUNIT", FLUX_UNIT, "")]
        yield from fits.image(exposure.flux, flux, extension=f"{letter}_FLUX")
        ivar: list[Card] = [("BUNIT", IVAR_UNIT, "")]
        yield from fits.image(exposure.ivar, ivar, extension=f"{letter}_IVAR")
        mask = exposure.and_mask.view(np.uint32)
        yield from fits.image(mask, extension=f"{letter}_MASK")
        band = resolution(arm)
        cube = np.broadcast_to(band, (seen.n_rows, *band.shape))
        yield from fits.image(cube, extension=f"{letter}_RESOLUTION")
    yield _table(scores, "SCORES")


def resolution(arm: Spectrograph) -> NDArray[np.float32]:
    """Diagonals of the resolution matrix of a mean fibre of an arm.

    Returns
    -------
        Shape (11, pixel): row 5 + d has, at pixel j, the share of the light of pixel j that falls
        on pixel j + d; a Gaussian integrated over the pixels. Columns sum to 1 within 2e-3.
    """
    sigma = np.maximum(arm.wdisp.astype(np.float64), 0.2)
    edges = np.arange(_N_DIAGONALS + 1) - _N_DIAGONALS / 2
    steps = erf(edges[:, None] / sigma / sqrt(2))
    return np.asarray(0.5 * np.diff(steps, axis=0), dtype=np.float32)


def _redrock_hdus(seen: DesiObservation, tables: tuple[Rows, Rows, Rows]) -> Iterator[Part]:
    redshifts, fibermap, exposures = tables
    templates: list[Card] = [("LONGSTRN", "OGIP 1.0", ""), ("RRVER", "0.15.4", "")]
    names = ("GALAXY", "QSO:::HIZ", "QSO:::LOZ", "STAR:::F", "STAR:::G", "STAR:::K")
    for i, name in enumerate(names):
        templates += [(f"TEMNAM{i:02d}", name, ""), (f"TEMVER{i:02d}", "2.6", "")]
    yield _primary(seen, templates)
    yield _table(redshifts, "REDSHIFTS")
    yield _table(fibermap, "FIBERMAP")
    yield _table(exposures, "EXP_FIBERMAP")
    yield _table(tsnr2_rows(seen, fibermap), "TSNR2")
