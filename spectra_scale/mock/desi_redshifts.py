"""Rows of redrock's table and of the redshift catalogue, made from one observed healpixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.desi_columns import REDSHIFTS, ZCATALOG
from spectra_scale.mock.desi_observation import ARMS, DesiObservation
from spectra_scale.mock.desi_rows import exposure_mjd
from spectra_scale.mock.desi_targets import redshift_warning, spectra_of_targets
from spectra_scale.mock.population import Floats
from spectra_scale.mock.redshifts import SMALL_DELTA_CHI2

Rows = NDArray[Any]

_NODATA, _SKY = 1 << 9, 1


def redshift_rows(seen: DesiObservation, fibermap: Rows, scores: Rows) -> Rows:
    """Rows of REDSHIFTS, one for each of FIBERMAP: sky and empty ones have noise, and a flag."""
    rows = np.zeros(seen.n_rows, dtype=REDSHIFTS)
    rng = np.random.default_rng((seen.task.seed, seen.task.plate, 6))
    rows["TARGETID"] = fibermap["TARGETID"]
    there = [e for n, e in zip(ARMS, seen.exposures, strict=True) if seen.has_arm(n)]
    rows["NPIXELS"] = sum(np.count_nonzero(exposure.ivar, axis=1) for exposure in there)
    rows["CHI2"] = rows["NPIXELS"] * (1.02 + 0.03 * rng.standard_normal(seen.n_rows))
    rows["Z"], rows["ZERR"] = rng.uniform(0.01, 1.6, seen.n_rows), 1e-4
    rows["SPECTYPE"], rows["ZWARN"] = "GALAXY", _SKY | SMALL_DELTA_CHI2
    rows["DELTACHI2"] = rng.exponential(5, seen.n_rows)
    found, snr = seen.redshifts, np.maximum(scores["MEDIAN_COADD_SNR_R"][seen.row], 0.1)
    warning, no_data = redshift_warning(seen.task, found)
    # Nothing is known of a target without data: it keeps the noise of the others.
    rows["Z"][seen.row] = np.where(no_data, rows["Z"][seen.row], found.z)
    rows["ZERR"][seen.row] = np.where(no_data, rows["ZERR"][seen.row], found.z_err)
    spectype = np.where(no_data, "GALAXY", seen.spectype)
    rows["SPECTYPE"][seen.row], rows["ZWARN"][seen.row] = spectype, warning
    clear = 20 + 60 * snr**1.6
    rows["DELTACHI2"][seen.row] = np.where(warning > 0, rng.uniform(0, 9, len(snr)), clear)
    star = np.select([rng.random(len(snr)) < 0.4, rng.random(len(snr)) < 0.6], ["F", "G"], "K")
    rows["SUBTYPE"][seen.row] = np.where(spectype == "STAR", star, "")
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
    """Rows of the redshift catalogue of all healpixels (zall-pix).

    Those of a target that both programs observed know of each other.
    """
    rows = np.zeros(seen.n_rows, dtype=ZCATALOG)
    for table in (scores, fibermap, redshifts):
        for name in set(table.dtype.names or ()) & set(ZCATALOG.names or ()):
            rows[name] = table[name]
    last = seen.n_exposures - 1
    mjd = exposure_mjd(seen, np.arange(seen.n_exposures.max()))
    mean = np.cumsum(mjd) / np.arange(1, len(mjd) + 1)
    count = np.ones(seen.n_rows, dtype=np.int64)
    primary = np.ones(seen.n_rows, dtype=np.bool_)
    count[seen.row], primary[seen.row] = spectra_of_targets(seen)
    values: dict[str, Any] = {
        "SURVEY": "main", "PROGRAM": seen.task.program, "HEALPIX": seen.task.healpix,
        "SPGRPVAL": seen.task.healpix, "MIN_MJD": mjd[0], "MAX_MJD": mjd[last],
        "MEAN_MJD": mean[last], "MAIN_NSPEC": count, "MAIN_PRIMARY": primary,
        "ZCAT_NSPEC": count, "ZCAT_PRIMARY": primary,
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
