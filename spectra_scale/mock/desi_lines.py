"""FastSpecFit-like rows: line fits of DESI spectra whose arms were merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.desi_columns import FASTSPEC, FASTSPEC_LINES, METADATA, ZCATALOG
from spectra_scale.mock.desi_merge import N_PIXELS, START, STEP, merge_arms
from spectra_scale.mock.desi_observation import DesiObservation
from spectra_scale.mock.lines import HA, HB, LINE_WAVE
from spectra_scale.mock.measure import Measured, measure
from spectra_scale.mock.population import LIGHT_KM_S, Floats

Rows = NDArray[Any]
Bools = NDArray[np.bool_]

# BOXFLUX is the sum over 3 sigma to either side, of two pixels at least. In white noise it has
# 6 / (2 √π) times the variance of the fit, which uses the same pixels: what it differs by from the
# fit, in units of the fit's error, is the root of what is above 1.
_BOX_SIGMAS, _LEAST_PIXELS = 3.0, 2.0
_BOX_SCATTER = 0.83
_FWHM = 2.355
# Errors of EWs (Å) that templates leave besides those of `measure`: FastSpecFit's are coarser, and
# Hα lies in an absorption line. Tuned, as those are, so that the labels of the deeper spectra have
# the fractions of SDSS's: without, 24 % are retired instead of 19.5.
_MISMATCH, _MISMATCH_HA = 0.12, 0.26
# Galactic extinction over E(B-V) in the bands of the Legacy Surveys.
_EXTINCTION = {"G": 3.214, "R": 2.165, "Z": 1.211, "W1": 0.184, "W2": 0.113}


def fastspec_rows(
    seen: DesiObservation, target_id: NDArray[np.int64], chosen: NDArray[np.int64]
) -> Rows:
    """Rows of FASTSPEC.

    EWs are rest frame and positive in emission; an IVAR of 0 says not measured. As in FastSpecFit,
    broad lines are in the model where they are significant, and are all zeros elsewhere.

    Parameters
    ----------
    seen
        The healpixel.
    target_id
        TARGETID of all of its targets, shape (n_science,).
    chosen
        Which of them are fitted.
    """
    merged, z = merge_arms(seen), seen.redshifts.z
    log_wave = np.log10(START + STEP * np.arange(N_PIXELS))
    measured = measure(log_wave, merged.flux, merged.ivar, z, merged.sigma_km_s)
    rows = np.zeros(len(chosen), dtype=FASTSPEC)
    rows["TARGETID"], rows["SURVEY"] = target_id[chosen], "main"
    rows["PROGRAM"], rows["HEALPIX"] = seen.task.program, seen.task.healpix
    rows["Z"], rows["VDISP"] = z[chosen], measured.fits.sigma_stars[chosen]
    rows["VDISP_IVAR"] = 1 / 20.0**2
    rng = np.random.default_rng((seen.task.seed, seen.task.plate, 7))
    lines = [(name, line, _narrow(measured, line, z)) for name, line in FASTSPEC_LINES.items()]
    for column, (name, line) in enumerate((("HALPHA_BROAD", HA), ("HBETA_BROAD", HB))):
        lines.append((name, line, _broad(measured, column, z)))
    for name, line, every in lines:
        wave = LINE_WAVE[line] * (1 + rows["Z"])
        pixel = np.clip(np.rint((wave - START) / STEP), 0, N_PIXELS - 1).astype(np.int64)
        _fill(rows, name, every.of(chosen), (wave, merged.sigma_km_s[pixel]), rng)
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """One line in n spectra, each array (n,); all 0 where it is not measured or was dropped.

    `flux_noise` is what pixels have to do with the error `flux_err`.
    """

    flux: Floats
    flux_err: Floats
    flux_noise: Floats
    ew: Floats
    ew_err: Floats
    sigma: Floats

    def of(self, chosen: NDArray[np.int64]) -> _Line:
        return _Line(*(getattr(self, name)[chosen] for name in self.__slots__))

    def where(self, kept: Bools) -> _Line:
        return _Line(*(np.where(kept, getattr(self, name), 0.0) for name in self.__slots__))


def _narrow(measured: Measured, line: int, redshift: Floats) -> _Line:
    fits = measured.fits
    mismatch = _MISMATCH_HA if line == HA else _MISMATCH
    level = fits.level[:, line] * (1 + redshift)
    every = _Line(
        flux=measured.flux[:, line],
        flux_err=np.hypot(measured.flux_err[:, line], mismatch * level),
        flux_noise=fits.flux_err[:, line],
        ew=measured.ew[:, line],
        ew_err=np.hypot(measured.ew_err[:, line], mismatch),
        sigma=fits.sigma,
    )
    return every.where((measured.flux_err[:, line] > 0) & (level > 0))


def _broad(measured: Measured, column: int, redshift: Floats) -> _Line:
    """Broad Hα (0) or Hβ (1), kept where `Measured.found_broad` keeps either."""
    fits = measured.fits
    flux, error = fits.broad_flux[:, column], fits.broad_err[:, column]
    level = fits.level[:, (HA, HB)[column]] * (1 + redshift)
    ew, ew_err = _over(flux, level), _over(error, level)
    every = _Line(flux, error, error, ew, ew_err, fits.broad_fwhm / _FWHM)
    return every.where(measured.found_broad & (error > 0) & (flux > 0) & (level > 0))


def _fill(
    rows: Rows, name: str, line: _Line, place: tuple[Floats, Floats], rng: np.random.Generator
) -> None:
    """Fill the columns of a line; `place` is where it is (Å) and the spectrograph's sigma there.

    AMP is the peak of what the spectrograph makes of the line; CHI2 a sum over its NPIX pixels.
    """
    wave, dispersion = place
    there = line.flux_err > 0
    rows[f"{name}_FLUX"], rows[f"{name}_FLUX_IVAR"] = line.flux, _inverse_square(line.flux_err)
    rows[f"{name}_EW"], rows[f"{name}_EW_IVAR"] = line.ew, _inverse_square(line.ew_err)
    rows[f"{name}_SIGMA"] = line.sigma
    seen_width = np.hypot(line.sigma, dispersion) / LIGHT_KM_S * wave
    rows[f"{name}_AMP"] = line.flux / (np.sqrt(2 * np.pi) * seen_width)
    scatter = _BOX_SCATTER * line.flux_noise * rng.standard_normal(len(rows))
    rows[f"{name}_BOXFLUX"] = line.flux + scatter
    width = np.maximum(line.sigma / LIGHT_KM_S * wave, _LEAST_PIXELS * STEP)
    n_pixels = np.where(there, np.rint(2 * _BOX_SIGMAS * width / STEP), 0)
    rows[f"{name}_NPIX"] = n_pixels
    rows[f"{name}_CHI2"] = np.where(there, rng.chisquare(np.maximum(n_pixels, 1)), 0.0)


def _over(value: Floats, by: Floats) -> Floats:
    return np.divide(value, by, out=np.zeros_like(value), where=by > 0)


def _inverse_square(error: Floats) -> Floats:
    return np.asarray(np.divide(1.0, error**2, out=np.zeros_like(error), where=error > 0))


def metadata_rows(of: Rows, fastspec: Rows) -> Rows:
    """Rows of METADATA, one for each of FASTSPEC: targets and redshifts, fluxes without dust.

    Parameters
    ----------
    of
        The same targets' rows of the redshift catalogue.
    fastspec
        Their rows of FASTSPEC.
    """
    rows = np.zeros(len(of), dtype=METADATA)
    for name in set(METADATA.names or ()) & set(ZCATALOG.names or ()):
        rows[name] = of[name]
    rows["RA"], rows["DEC"] = of["TARGET_RA"], of["TARGET_DEC"]
    rows["Z"], rows["Z_RR"] = fastspec["Z"], of["Z"]
    rows["LS_ID"] = of["TARGETID"]
    for band, ratio in _EXTINCTION.items():
        passed = 10 ** (-0.4 * ratio * of["EBV"])
        rows[f"MW_TRANSMISSION_{band}"] = passed
        rows[f"FLUX_IVAR_{band}"] *= passed**2
        for name in ("FLUX", "FIBERFLUX", "FIBERTOTFLUX"):
            if f"{name}_{band}" in (METADATA.names or ()):
                rows[f"{name}_{band}"] /= passed
    return rows
