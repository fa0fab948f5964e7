"""FastSpecFit-like rows: line fits of DESI spectra whose arms were merged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.desi_columns import FASTSPEC, FASTSPEC_LINES
from spectra_scale.mock.desi_observation import ARMS, DesiObservation
from spectra_scale.mock.fit_lines import LineFits
from spectra_scale.mock.lines import HA, HB
from spectra_scale.mock.measure import Measured, measure
from spectra_scale.mock.population import LIGHT_KM_S, Floats

Rows = NDArray[Any]
Singles = NDArray[np.float32]

_START, _STEP, _N_PIXELS = 3600.0, 0.8, 7781


def merge_arms(seen: DesiObservation) -> tuple[Singles, Singles, Floats]:
    """Put B, R and Z of the targets on one grid of 0.8 Å, weighted by ivar where they overlap.

    Returns
    -------
        Flux and ivar of shape (n_science, 7781), 0 where missing, and the dispersion (km/s) of the
        spectrograph, shape (7781,).
    """
    weight = np.zeros((len(seen.row), _N_PIXELS), dtype=np.float32)
    total = np.zeros_like(weight)
    sigma = np.zeros(_N_PIXELS)
    for name, arm, exposure in zip(ARMS, seen.arms, seen.exposures, strict=True):
        first = round((arm.wave[0] - _START) / _STEP)
        part = slice(first, first + arm.n_pixels)
        sigma[part] = arm.sigma_km_s
        if name != seen.missing_arm:
            ivar = exposure.ivar[seen.row]
            weight[:, part] += ivar
            total[:, part] += ivar * np.where(ivar > 0, exposure.flux[seen.row], 0)
    flux = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return flux, weight, sigma


def measure_merged(seen: DesiObservation) -> Measured:
    """Line measurements of the targets, shape (n_science, line)."""
    flux, ivar, sigma = merge_arms(seen)
    log_wave = np.log10(_START + _STEP * np.arange(_N_PIXELS))
    return measure(log_wave, flux, ivar, seen.redshifts.z, sigma)


def fastspec_rows(seen: DesiObservation, target_id: NDArray[np.int64]) -> tuple[Rows, Measured]:
    """Rows of FASTSPEC for the targets that are galaxies or quasars and have data.

    EWs are rest frame and positive in emission; an IVAR of 0 says not measured.
    """
    measured = measure_merged(seen)
    fits = measured.fits
    chosen = np.flatnonzero((seen.spectype != "STAR") & ~seen.is_lost[seen.row])
    rows = np.zeros(len(chosen), dtype=FASTSPEC)
    rows["TARGETID"], rows["SURVEY"] = target_id[chosen], "main"
    rows["PROGRAM"], rows["HEALPIX"] = seen.task.program, seen.task.healpix
    rows["Z"], rows["VDISP"] = seen.redshifts.z[chosen], fits.sigma_stars[chosen]
    rows["VDISP_IVAR"] = 1 / 20.0**2
    for name, line in FASTSPEC_LINES.items():
        _fill(rows, name, line, measured, chosen)
    for name, line, column in (("HALPHA_BROAD", HA, 0), ("HBETA_BROAD", HB, 1)):
        _fill_broad(rows, name, fits, chosen, (line, column))
    return rows, measured


def _inverse_square(error: Floats) -> Floats:
    return np.asarray(np.divide(1.0, error**2, out=np.zeros_like(error), where=error > 0))


def _fill(rows: Rows, name: str, line: int, measured: Measured, chosen: NDArray[np.int64]) -> None:
    flux, error = measured.flux[chosen, line], measured.flux_err[chosen, line]
    rows[f"{name}_FLUX"], rows[f"{name}_FLUX_IVAR"] = flux, _inverse_square(error)
    # Summed over the pixels instead of fitted: the same within its larger error.
    rows[f"{name}_BOXFLUX"] = flux + 0.3 * error
    rows[f"{name}_EW"] = measured.ew[chosen, line]
    rows[f"{name}_EW_IVAR"] = _inverse_square(measured.ew_err[chosen, line])
    sigma = np.where(error > 0, measured.fits.sigma[chosen], 0.0)
    rows[f"{name}_SIGMA"] = sigma
    rows[f"{name}_AMP"] = _amplitude(flux, sigma, rows["Z"], name)
    rows[f"{name}_CHI2"] = np.where(error > 0, 1.0, 0.0)
    rows[f"{name}_NPIX"] = np.where(error > 0, 24, 0)


def _amplitude(flux: Floats, sigma: Floats, redshift: Floats, name: str) -> Floats:
    wave = 4862.683 if name.startswith("HBETA") else 6564.613
    width = np.hypot(sigma, 35.0) / LIGHT_KM_S * wave * (1 + redshift)
    return np.asarray(flux / (np.sqrt(2 * np.pi) * width))


def _fill_broad(
    rows: Rows, name: str, fits: LineFits, chosen: NDArray[np.int64], place: tuple[int, int]
) -> None:
    line, column = place
    flux, error = fits.broad_flux[chosen, column], fits.broad_err[chosen, column]
    level = fits.level[chosen, line] * (1 + rows["Z"])
    there = (error > 0) & (level > 0)
    rows[f"{name}_FLUX"], rows[f"{name}_FLUX_IVAR"] = flux, _inverse_square(error)
    rows[f"{name}_BOXFLUX"] = flux
    rows[f"{name}_EW"] = np.where(there, flux / np.where(there, level, 1), 0)
    rows[f"{name}_EW_IVAR"] = np.where(there, level**2, 0) * _inverse_square(error)
    sigma = np.where(error > 0, fits.broad_fwhm[chosen] / 2.355, 0.0)
    rows[f"{name}_SIGMA"] = sigma
    rows[f"{name}_AMP"] = _amplitude(flux, sigma, rows["Z"], name)
    rows[f"{name}_NPIX"] = np.where(error > 0, 200, 0)
