"""What is measured on every spectrum of both sides: class, indices, lines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compare.sides import Doubles, Floats, Native
from spectra_scale.mock.lines import HA, HB, NII, OIII
from spectra_scale.mock.measure import Measured, measure
from spectra_scale.mock.population import INSTRUMENT_SIGMA
from spectra_scale.spectrum.classify import LineMeasurements, broad_from_subclass, classify
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.indices import d4000n, hdelta_a

MEASURES: dict[str, str] = {
    "d4000n": "D4000n",
    "hdelta_a": "HδA (Å)",
    "colour": "colour 6100 over 4200 Å",
    "halpha_ew": "EW(Hα) (Å)",
    "balmer": "log Hα/Hβ",
    "nii_ha": "log [N II]/Hα",
    "oiii_hb": "log [O III]/Hβ",
    "sigma_gas": "narrow lines σ (km/s)",
    "broad_fwhm": "broad lines FWHM (km/s)",
}
"""Measures that are compared, and how they are written."""

# A ratio of fluxes is only compared where both lines are seen.
_MIN_SNR = 3.0
# Lines that tell their width lower χ² by so much.
_MIN_GAIN = 200.0
# Red and blue continuum without strong lines, rest-frame vacuum Å.
_COLOUR_WINDOWS = ((6000.0, 6250.0), (4150.0, 4280.0))


def measure_block(
    block: Native, flux: Floats, ivar: Floats
) -> tuple[NDArray[np.int8], dict[str, Doubles]]:
    """Classes and measures of a block of spectra.

    Parameters
    ----------
    block
        Spectra as published with their rows.
    flux, ivar
        The same in the rest frame on the paper's grid; ivar 0 is missing.

    Returns
    -------
    Class codes (spectrum,), and `MEASURES` with NaN where not measured.
    """
    found = _fit(block)
    lines = _lines(found, block.rows)
    subclass = np.array([row["subclass"] for row in block.rows], dtype=str)
    label = classify(broad_from_subclass(subclass), lines)
    return label, _indices(flux, ivar) | _ratios(lines) | _widths(found)


def _indices(flux: Floats, ivar: Floats) -> dict[str, Doubles]:
    wave = WavelengthGrid.rest_frame().centres
    out = {name: np.full(len(flux), np.nan) for name in ("d4000n", "hdelta_a")}
    for i, (f, v) in enumerate(zip(flux, ivar, strict=True)):
        values = np.where(v > 0, f, np.nan)
        out["d4000n"][i] = d4000n(wave, values)
        out["hdelta_a"][i] = hdelta_a(wave, values)
    return out | {"colour": _colour(flux, ivar)}


def _colour(flux: Floats, ivar: Floats) -> Doubles:
    """Log of the median flux of one window over that of another, where 70 % of both is there.

    The slope of `spectrum.indices` wants six whole windows, which one survey seldom reaches.
    """
    wave = WavelengthGrid.rest_frame().centres
    medians = []
    for low, high in _COLOUR_WINDOWS:
        inside = (wave > low) & (wave < high)
        values = np.where(ivar[:, inside] > 0, flux[:, inside], np.nan).astype(np.float64)
        enough = np.isfinite(values).mean(axis=1) > 0.7
        medians.append(np.nanmedian(np.where(enough[:, None], values, 1.0), axis=1))
        medians[-1][~enough | (medians[-1] <= 0)] = np.nan
    return np.asarray(np.log10(medians[0]) - np.log10(medians[1]), np.float64)


def _fit(block: Native) -> Measured:
    """Line fits of a block: the same code for mock and real spectra."""
    observed = block.observed
    log_wave = np.log10(observed.wavelength)
    z = np.array([row["z"] for row in block.rows], np.float64)
    sigma = np.full(len(log_wave), INSTRUMENT_SIGMA)
    return measure(log_wave, observed.flux, observed.ivar, z, sigma)


def _lines(found: Measured, rows: list[dict[str, Any]]) -> LineMeasurements:
    # What the release's own line table lacks has no measurement for us either.
    columns = {
        f"{name}_{what}": values[:, line]
        for name, line in (("hbeta", HB), ("oiii", OIII), ("halpha", HA), ("nii", NII))
        for what, values in (("flux", found.flux), ("err", found.flux_err))
    }
    return LineMeasurements(
        measured=np.array([bool(row["lines"]) for row in rows]),
        halpha_ew=found.ew[:, HA],
        halpha_ew_err=found.ew_err[:, HA],
        **columns,
    )


def _widths(found: Measured) -> dict[str, Doubles]:
    """Widths (km/s): of narrow lines where they are strong, and of broad ones."""
    strong = found.fits.gain > _MIN_GAIN
    return {
        "sigma_gas": np.where(strong, found.fits.sigma, np.nan),
        "broad_fwhm": np.where(found.found_broad, found.fits.broad_fwhm, np.nan),
    }


def _ratios(lines: LineMeasurements) -> dict[str, Doubles]:
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = lines.fluxes > _MIN_SNR * lines.errors

    # Rows of `fluxes`: Hβ, [O III], Hα, [N II].
    def ratio(over: int, under: int) -> Doubles:
        good = seen[over] & seen[under]
        pair = lines.fluxes[over], lines.fluxes[under]
        top, bottom = (np.where(good, p, 1.0) for p in pair)
        return np.where(good, np.log10(top) - np.log10(bottom), np.nan)

    return {
        "halpha_ew": np.asarray(lines.halpha_ew, np.float64),
        "balmer": ratio(2, 0),
        "nii_ha": ratio(3, 2),
        "oiii_hb": ratio(1, 0),
    }
