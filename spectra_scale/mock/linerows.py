"""Rows of the Portsmouth table and of the archive server's, from fits to noisy spectra."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.columns import CAS_LINES, PORTSMOUTH
from spectra_scale.mock.lines import HA, HB, LINE_WAVE, N_PORTSMOUTH, NII, OIII, calzetti
from spectra_scale.mock.measure import bpt_names
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.population import LIGHT_KM_S, Floats

Rows = NDArray[Any]
Ints = NDArray[np.int64]

# Lines within 6 Å of these are not measured, and FIT_WARNING says so.
_SKY = np.array([5578.9, 6302.0, 6365.5])
# One error in two thousand is infinite (formats.md A4).
_INFINITE = 1 / 2000
# The table's "not measured".
_MISSING = -9999.0
# A line so near (observed Å) to the end of its spectrum is tried in vain.
_END = 30.0


def portsmouth_rows(seen: Observation) -> Rows:
    """Rows of the Portsmouth table: galaxies that have line measurements.

    Fluxes are corrected for the diffuse dust of the galaxy (Calzetti, E(B-V) from the Balmer
    decrement), as the survey's are. EWs are rest frame, positive in emission. As in public rows, a
    line whose flux is 0 has an error of 0 and an EW error of -9999: a fit that stopped at 0, a
    line on a strong sky line, which has a FIT_WARNING, or one outside the spectrum. Flux, EW and
    their errors are -9999 where the spectrum ends at the line.
    """
    chosen = np.flatnonzero(seen.has_lines)
    m, task, fits = seen.measured, seen.task, seen.measured.fits
    excess = colour_excess(seen)[chosen]
    velocity = fits.velocity[chosen]
    rows = np.zeros(len(chosen), dtype=PORTSMOUTH)
    _fill_lines(rows, seen, chosen, excess)
    scalars: dict[str, Any] = {
        "PLATE": task.plate, "MJD": task.mjd, "FIBERID": seen.fiber[chosen], "RA": seen.ra[chosen],
        "DEC": seen.dec[chosen], "Z": seen.redshift[chosen], "Z_ERR": seen.redshift_err[chosen],
        "ZNUM": 1, "REDSHIFT": seen.redshift[chosen] + velocity / LIGHT_KM_S,
        "VEL_STARS": 0.5 * velocity, "SIGMA_STARS": fits.sigma_stars[chosen],
        "SIGMA_STARS_ERR": 12.0, "CHISQ": 1.1,
        "FILENAME": [f"spec-{task.name}-{fiber:04d}.fits" for fiber in seen.fiber[chosen]],
        "BPT": bpt_names(m)[chosen], "EBMV": excess, "EBMV_ERR": 0.05,
    }  # fmt: skip
    for name, value in scalars.items():
        rows[name] = value
    return rows


def _fill_lines(rows: Rows, seen: Observation, chosen: Ints, excess: Floats) -> None:
    """Fill the arrays over the 28 lines."""
    m, fits = seen.measured, seen.measured.fits
    cut = np.ix_(chosen, np.arange(N_PORTSMOUTH))
    wave = LINE_WAVE[:N_PORTSMOUTH]
    observed = wave * (1 + seen.redshift[chosen, None])
    warning = (np.abs(observed[..., None] - _SKY) < 6).any(axis=-1)
    found = (m.flux_err[cut] > 0) & (m.flux[cut] > 0) & ~warning
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
    for name, values in arrays.items():
        rows[name] = np.where(found, values, 0)
    # Digits of a flux that nobody looks at are as good as a random number.
    rows["FLUX_ERR"][found & (np.mod(flux * 7919, 1.0) < _INFINITE)] = np.inf
    rows["EW_ERR"][~found] = _MISSING
    cut_off = (m.flux_err[cut] == 0) & _at_the_end(seen, chosen, observed) & ~warning
    for name in ("FLUX", "FLUX_ERR", "EW"):
        rows[name][cut_off] = _MISSING
    rows["FIT_WARNING"] = warning


def _at_the_end(seen: Observation, chosen: Ints, observed: Floats) -> NDArray[np.bool_]:
    """Whether a line at `observed` (Å), shape (m, line), is where its spectrum ends."""
    wave, exposure, row = seen.instrument.wave, seen.exposure, seen.row[chosen]
    first, last = wave[exposure.start[row]], wave[np.maximum(exposure.stop[row] - 1, 0)]
    ends = np.stack([first, last], axis=1)[:, None]
    return np.asarray((np.abs(observed[..., None] - ends) < _END).any(axis=-1))


def colour_excess(seen: Observation) -> Floats:
    """E(B-V) (n,) of the gas from Hα/Hβ over 2.86 by Calzetti's curve; 0.1 where Hβ is weak."""
    m = seen.measured
    usable = (m.snr[:, HA] > 3) & (m.snr[:, HB] > 3)
    ratio = np.where(usable, m.flux[:, HA], 2.86) / np.where(usable, m.flux[:, HB], 1.0)
    curve = 4.05 * calzetti(LINE_WAVE[[HB, HA]])
    excess = 2.5 / (curve[0] - curve[1]) * np.log10(np.maximum(ratio, 1e-3) / 2.86)
    return np.asarray(np.where(usable, np.clip(excess, 0, 1.5), 0.1))


def cas_rows(portsmouth: Rows, spec_obj_id: NDArray[np.uint64]) -> Rows:
    """Rows of the table as the Catalog Archive Server gives it: the same values, a column a line.

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
        columns = {
            f"Flux_{name}": "FLUX", f"Flux_{name}_Err": "FLUX_ERR", f"EW_{name}": "EW",
            f"EW_{name}_Err": "EW_ERR", f"AoN_{name}": "AON",
        }  # fmt: skip
        for mine, theirs in columns.items():
            rows[mine] = portsmouth[theirs][:, line]
        rows[f"Fit_Warning_{name}"] = portsmouth["FIT_WARNING"][:, line]
    return rows
