"""Rows of the line tables, and of the truth, made from one observed plate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.columns import PORTSMOUTH, SPZLINE, ZLINES
from spectra_scale.mock.instrument import ARTEFACTS
from spectra_scale.mock.light import PIXEL_KM_S, broad_flux
from spectra_scale.mock.lines import (
    HA,
    HB,
    LINE_WAVE,
    LINES,
    N_PORTSMOUTH,
    NII,
    OIII,
    calzetti,
    kauffmann,
    kewley,
)
from spectra_scale.mock.measure import Measured
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.population import LIGHT_KM_S, Floats
from spectra_scale.mock.rows import spectrum_keys
from spectra_scale.mock.truth import object_columns

Rows = NDArray[Any]

# Lines within 6 Å of these are not measured, and FIT_WARNING says so.
_SKY = np.array([5578.9, 6302.0, 6365.5])
_ALLOWED = np.array([name[0] == "H" for name, _ in LINES])


def portsmouth_rows(seen: Observation) -> Rows:
    """Rows of the Portsmouth table: galaxies that have line measurements.

    Fluxes are corrected for the diffuse dust of the galaxy (Calzetti), as the survey's are. EWs
    are rest frame, positive in emission. A line outside the spectrum or on a strong sky line has
    zeros.
    """
    chosen = np.flatnonzero(seen.has_lines)
    m, objects, task = seen.measured, seen.objects, seen.task
    cut = np.ix_(chosen, np.arange(N_PORTSMOUTH))
    wave = LINE_WAVE[:N_PORTSMOUTH]
    observed = wave * (1 + objects.redshift[chosen, None])
    warning = (np.abs(observed[..., None] - _SKY) < 6).any(axis=-1)
    seen_here = m.covered[cut] & ~warning
    dust = 10 ** (0.4 * objects.dust_stars[chosen, None] * calzetti(wave))
    flux, flux_err = m.flux[cut] * dust, m.flux_err[cut] * dust
    step = observed * np.log(10) * 1e-4
    width = np.maximum(m.sigma[cut] / PIXEL_KM_S, 0.5) * step
    amplitude = flux / (np.sqrt(2 * np.pi) * width)
    velocity = 12 * np.sin(1e3 * objects.gas.sigma[chosen, None]) + np.zeros_like(flux)
    arrays = {
        "V": velocity, "V_ERR": 60 / np.maximum(m.snr[cut], 1), "SIG": m.sigma[cut],
        "SIG_ERR": 50 / np.maximum(m.snr[cut], 1), "AMPLITUDE": amplitude,
        "AMPLITUDE_ERR": flux_err / (np.sqrt(2 * np.pi) * width), "FLUX": flux,
        "FLUX_ERR": flux_err, "EW": m.ew[cut], "EW_ERR": m.ew_err[cut],
        "FLUX_CONT": m.level[cut] * dust, "FLUX_CONT_ERR": 0.02 * m.level[cut] * dust,
        "AON": amplitude / dust / m.pixel_err[cut],
    }  # fmt: skip
    rows = np.zeros(len(chosen), dtype=PORTSMOUTH)
    for name, values in arrays.items():
        rows[name] = np.where(seen_here, values, 0)
    # One error in a thousand is infinite in the real table.
    rows["FLUX_ERR"][np.mod(np.abs(flux) * 7919, 1.0) < 0.0005] = np.inf
    rows["FIT_WARNING"] = warning
    scalars = {
        "PLATE": task.plate, "MJD": task.mjd, "FIBERID": seen.fiber[chosen], "RA": seen.ra[chosen],
        "DEC": seen.dec[chosen], "Z": seen.redshift[chosen], "Z_ERR": seen.redshift_err[chosen],
        "ZNUM": 1, "REDSHIFT": seen.redshift[chosen] + velocity[:, 0] / LIGHT_KM_S,
        "VEL_STARS": velocity[:, 0] * 0.5, "SIGMA_STARS": objects.sigma_stars[chosen],
        "SIGMA_STARS_ERR": 12.0, "CHISQ": 1.1,
        "FILENAME": [f"spec-{task.name}-{fiber:04d}.fits" for fiber in seen.fiber[chosen]],
        "BPT": _bpt_names(m)[chosen], "EBMV": objects.gas.dust[chosen] / 4.05, "EBMV_ERR": 0.05,
    }  # fmt: skip
    for name, value in scalars.items():
        rows[name] = value
    return rows


def _bpt_names(m: Measured) -> NDArray[np.str_]:
    four = [HB, OIII, HA, NII]
    flux = np.maximum(m.flux, 1e-9)
    x = np.log10(flux[:, NII] / flux[:, HA])
    y = np.log10(flux[:, OIII] / flux[:, HB])
    # A/N of 1.5 is about a S/N of 3 in the flux.
    usable = (m.snr[:, four] > 3).all(axis=1)
    is_sf = (x < 0.05) & (y < kauffmann(x))
    is_agn = (x >= 0.47) | (y > kewley(x))
    names = np.select(
        [~usable, is_sf, is_agn & (y > 1.05 * x + 0.45), is_agn],
        ["BLANK", "Star Forming", "Seyfert", "LINER"],
        "Composite",
    )
    return np.asarray(names)


def zline_tables(seen: Observation) -> Iterator[Rows]:
    """SPZLINE of each spectrum: 29 lines in legacy files, 32 in BOSS.

    Widths and centres are tied, LINEEW is in the observed frame, and a line outside the spectrum
    has errors of -1. The Balmer lines of a broad-line object are broad.
    """
    lines = [z for z in ZLINES if z[2] in {"", seen.task.survey}]
    broad = np.stack([broad_flux(seen.lines, wave) for wave in LINE_WAVE], axis=1)
    for index in range(len(seen.fiber)):
        yield _zline_rows(seen, index, lines, broad[index])


def _zline_rows(
    seen: Observation, index: int, lines: list[tuple[str, float, str, int]], broad: Floats
) -> Rows:
    m = seen.measured
    rows = np.zeros(len(lines), dtype=SPZLINE)
    rows["PLATE"], rows["MJD"] = seen.task.plate, seen.task.mjd
    rows["FIBERID"] = seen.fiber[index]
    rows["LINENAME"] = [z[0] for z in lines]
    rows["LINEWAVE"] = [z[1] for z in lines]
    for name in ("LINEZ_ERR", "LINESIGMA_ERR", "LINEAREA_ERR", "LINEEW_ERR", "LINECONTLEVEL_ERR"):
        rows[name] = -1
    rows["LINECHI2"] = -1
    known = np.array([z[3] for z in lines])
    here = (known >= 0) & m.covered[index, known]
    line = known[here]
    found_broad = "BROADLINE" in str(seen.subclass[index])
    wide = seen.objects.nucleus.fwhm[index] / 2.355
    allowed = np.isin(line, np.flatnonzero(_ALLOWED)) & found_broad
    extra = broad[line] * allowed
    sigma = np.where(allowed, wide, seen.objects.gas.sigma[index])
    values = {
        "LINEZ": seen.redshift[index], "LINEZ_ERR": 2 * seen.redshift_err[index],
        "LINESIGMA": sigma, "LINESIGMA_ERR": np.maximum(0.02 * sigma, 2.0),
        "LINEAREA": m.flux[index, line] + extra,
        "LINEAREA_ERR": np.hypot(m.flux_err[index, line], 0.02 * extra),
        "LINECONTLEVEL": m.level[index, line], "LINECONTLEVEL_ERR": 0.02 * m.level[index, line],
        "LINENPIXLEFT": 12, "LINENPIXRIGHT": 12, "LINEDOF": 22.7, "LINECHI2": 23.0,
    }  # fmt: skip
    values["LINEEW"] = values["LINEAREA"] / values["LINECONTLEVEL"]
    values["LINEEW_ERR"] = values["LINEAREA_ERR"] / values["LINECONTLEVEL"]
    for name, value in values.items():
        rows[name][here] = value
    return rows


def truth_columns(seen: Observation) -> dict[str, Any]:
    """What is true of each science spectrum, as columns of the truth table."""
    n = len(seen.fiber)
    return {
        "spectrum_key": spectrum_keys(seen),
        "plate": np.full(n, seen.task.plate, dtype=np.int32),
        "mjd": np.full(n, seen.task.mjd, dtype=np.int32),
        "fiber": seen.fiber.astype(np.int32),
        "artefact": [ARTEFACTS[a] for a in seen.artefact],
        "is_repeat": np.full(n, seen.task.is_repeat),
        "has_lines": seen.has_lines,
        **object_columns(seen.objects, seen.lines),
    }
