"""Rows of the line tables of SDSS, from fits to noisy spectra."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.columns import CAS_LINES, PORTSMOUTH, SPZLINE, ZLINES
from spectra_scale.mock.lines import HA, HB, LINE_WAVE, LINES, N_PORTSMOUTH, NII, OIII, calzetti
from spectra_scale.mock.measure import bpt_names
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.population import LIGHT_KM_S, Floats

Rows = NDArray[Any]

# Lines within 6 Å of these are not measured, and FIT_WARNING says so.
_SKY = np.array([5578.9, 6302.0, 6365.5])
# Lines that may be broad, and their flux relative to broad Hβ.
_BALMER = {HA: 0, HB: 1}
# Amplitude over noise that a measurement of the Portsmouth group needs.
_LEAST_AON = 2.0
_MISSING = -9999.0


def portsmouth_rows(seen: Observation) -> Rows:
    """Rows of the Portsmouth table: galaxies that have line measurements.

    Fluxes are corrected for the diffuse dust of the galaxy (Calzetti, E(B-V) from the Balmer
    decrement), as the survey's are. EWs are rest frame, positive in emission. A line outside the
    spectrum or on a strong sky line has zeros.
    """
    chosen = np.flatnonzero(seen.has_lines)
    m, task, fits = seen.measured, seen.task, seen.measured.fits
    cut = np.ix_(chosen, np.arange(N_PORTSMOUTH))
    wave = LINE_WAVE[:N_PORTSMOUTH]
    observed = wave * (1 + seen.redshift[chosen, None])
    warning = (np.abs(observed[..., None] - _SKY) < 6).any(axis=-1)
    seen_here = (m.flux_err[cut] > 0) & ~warning
    excess = colour_excess(seen)[chosen]
    dust = 10 ** (0.4 * 4.05 * excess[:, None] * calzetti(wave))
    flux, flux_err = m.flux[cut] * dust, m.flux_err[cut] * dust
    sigma = fits.sigma[chosen, None] + np.zeros_like(flux)
    width = np.sqrt(2 * np.pi) * np.hypot(sigma, 69.0) / LIGHT_KM_S * observed
    velocity = fits.velocity[chosen, None] + np.zeros_like(flux)
    snr = np.maximum(m.snr[cut], 1)
    arrays = {
        "V": velocity, "V_ERR": 60 / snr, "SIG": sigma, "SIG_ERR": 50 / snr,
        "AMPLITUDE": flux / width, "AMPLITUDE_ERR": flux_err / width, "FLUX": flux,
        "FLUX_ERR": flux_err, "EW": m.ew[cut], "EW_ERR": m.ew_err[cut],
        "FLUX_CONT": fits.level[cut] * dust, "FLUX_CONT_ERR": 0.02 * fits.level[cut] * dust,
        "AON": m.aon[cut],
    }  # fmt: skip
    rows = np.zeros(len(chosen), dtype=PORTSMOUTH)
    for name, values in arrays.items():
        rows[name] = np.where(seen_here, values, 0)
    # One error in two thousand is infinite in the real table.
    rows["FLUX_ERR"][np.mod(np.abs(flux) * 7919, 1.0) < 0.0005] = np.inf
    rows["FIT_WARNING"] = warning
    scalars: dict[str, Any] = {
        "PLATE": task.plate, "MJD": task.mjd, "FIBERID": seen.fiber[chosen], "RA": seen.ra[chosen],
        "DEC": seen.dec[chosen], "Z": seen.redshift[chosen], "Z_ERR": seen.redshift_err[chosen],
        "ZNUM": 1, "REDSHIFT": seen.redshift[chosen] + velocity[:, 0] / LIGHT_KM_S,
        "VEL_STARS": 0.5 * velocity[:, 0], "SIGMA_STARS": fits.sigma_stars[chosen],
        "SIGMA_STARS_ERR": 12.0, "CHISQ": 1.1,
        "FILENAME": [f"spec-{task.name}-{fiber:04d}.fits" for fiber in seen.fiber[chosen]],
        "BPT": bpt_names(m)[chosen], "EBMV": excess, "EBMV_ERR": 0.05,
    }  # fmt: skip
    for name, value in scalars.items():
        rows[name] = value
    return rows


def colour_excess(seen: Observation) -> Floats:
    """E(B-V) (n,) of the gas from Hα/Hβ over 2.86 by Calzetti's curve; 0.1 where Hβ is weak."""
    m = seen.measured
    usable = (m.snr[:, HA] > 3) & (m.snr[:, HB] > 3)
    ratio = np.where(usable, m.flux[:, HA], 2.86) / np.where(usable, m.flux[:, HB], 1.0)
    curve = 4.05 * calzetti(LINE_WAVE[[HB, HA]])
    excess = 2.5 / (curve[0] - curve[1]) * np.log10(np.maximum(ratio, 1e-3) / 2.86)
    return np.asarray(np.where(usable, np.clip(excess, 0, 1.5), 0.1))


def cas_rows(portsmouth: Rows, spec_obj_id: NDArray[np.uint64]) -> Rows:
    """Rows of the table as the Catalog Archive Server gives it: a column a line, -9999 missing.

    Parameters
    ----------
    portsmouth
        Rows of the FITS table.
    spec_obj_id
        Of each of them.
    """
    rows = np.zeros(len(portsmouth), dtype=CAS_LINES)
    rows["specObjID"] = spec_obj_id
    same = ("plate", "fiberID", "mjd", "ra", "dec", "z", "redshift", "chisq", "ebmv", "ebmv_err")
    for name in same:
        rows[name] = portsmouth[name.upper()]
    rows["velStars"], rows["sigmaStars"] = portsmouth["VEL_STARS"], portsmouth["SIGMA_STARS"]
    rows["sigmaStarsErr"] = portsmouth["SIGMA_STARS_ERR"]
    rows["bpt"] = [name[:7] for name in portsmouth["BPT"]]
    for line, name in ((OIII, "OIII_5006"), (NII, "NII_6583"), (HB, "Hb_4861"), (HA, "Ha_6562")):
        # A measurement exists only above this; the server has -9999 for the others.
        measured = portsmouth["AON"][:, line] > _LEAST_AON
        columns = {
            f"Flux_{name}": "FLUX", f"Flux_{name}_Err": "FLUX_ERR", f"EW_{name}": "EW",
            f"EW_{name}_Err": "EW_ERR", f"AoN_{name}": "AON",
        }  # fmt: skip
        for mine, theirs in columns.items():
            rows[mine] = np.where(measured, portsmouth[theirs][:, line], _MISSING)
        rows[f"Fit_Warning_{name}"] = portsmouth["FIT_WARNING"][:, line]
    return rows


def zline_rows(seen: Observation) -> Rows:
    """SPZLINE of all spectra, shape (n, line): 29 lines in legacy files, 32 in BOSS.

    Widths and centres are tied, widths hold the instrument's, LINEEW is in the observed frame, and
    a line outside the spectrum has errors of -1. Balmer lines of a broad-line object are broad.
    """
    lines = [z for z in ZLINES if z[2] in {"", seen.task.survey}]
    m, fits, n = seen.measured, seen.measured.fits, len(seen.fiber)
    rows = np.zeros((n, len(lines)), dtype=SPZLINE)
    rows["PLATE"], rows["MJD"] = seen.task.plate, seen.task.mjd
    rows["FIBERID"] = seen.fiber[:, None]
    rows["LINENAME"] = [z[0] for z in lines]
    rows["LINEWAVE"] = [z[1] for z in lines]
    for name in ("LINEZ_ERR", "LINESIGMA_ERR", "LINEAREA_ERR", "LINEEW_ERR", "LINECONTLEVEL_ERR"):
        rows[name] = -1
    rows["LINECHI2"] = -1
    known = np.array([z[3] for z in lines])
    here = (known >= 0) & (m.flux_err[:, known] > 0)
    broad, broad_err = _broad(seen)
    wide = (broad[:, known] > 0) & here
    sigma = np.where(wide, fits.broad_fwhm[:, None] / 2.355, np.hypot(fits.sigma[:, None], 67.0))
    velocity = fits.velocity[:, None] / LIGHT_KM_S
    level = fits.level[:, known]
    area = m.flux[:, known] + broad[:, known]
    error = np.hypot(m.flux_err[:, known], broad_err[:, known])
    values: dict[str, Any] = {
        "LINEZ": seen.redshift[:, None] + velocity, "LINEZ_ERR": 2 * seen.redshift_err[:, None],
        "LINESIGMA": sigma, "LINESIGMA_ERR": np.maximum(0.02 * sigma, 2.0), "LINEAREA": area,
        "LINEAREA_ERR": error, "LINECONTLEVEL": level, "LINECONTLEVEL_ERR": 0.02 * level,
        "LINEEW": area / np.where(level > 0, level, np.inf),
        "LINEEW_ERR": error / np.where(level > 0, level, np.inf),
        "LINENPIXLEFT": 12, "LINENPIXRIGHT": 12, "LINEDOF": 22.7, "LINECHI2": 23.0,
    }  # fmt: skip
    for name, value in values.items():
        rows[name] = np.where(here, value, rows[name])
    return rows


def _broad(seen: Observation) -> tuple[Floats, Floats]:
    """Broad flux and error of every line, shape (n, line): Hα and Hβ as fitted, others by Hβ."""
    fits, n = seen.measured.fits, len(seen.fiber)
    flux, error = np.zeros((n, len(LINES))), np.zeros((n, len(LINES)))
    found = np.char.find(seen.subclass, "BROADLINE") >= 0
    for line, column in _BALMER.items():
        flux[found, line] = fits.broad_flux[found, column]
        error[found, line] = fits.broad_err[found, column]
    for line, share in ((9, 0.23), (10, 0.42)):
        flux[:, line], error[:, line] = share * flux[:, HB], share * error[:, HB]
    return flux, error
