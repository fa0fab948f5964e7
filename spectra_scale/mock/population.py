"""Stellar light: analytic spectra of populations of stated age and metallicity, and of stars.

A population is a smooth continuum, multiplied by a forest of absorption features (atoms and
molecular bands of cool stars, which grow with age and metallicity) and by the Balmer series and
jump of hot stars. `population_tables` has the numbers. None of the spectra that they were fitted
to is needed to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from spectra_scale.mock import population_residuals as residuals
from spectra_scale.mock import population_tables as tables
from spectra_scale.mock.population_tables import POPULATIONS, STARS

Floats = NDArray[np.float64]

LIGHT_KM_S = 299792.458
# Half a native SDSS pixel, so that linear interpolation between samples loses nothing visible.
LOG_STEP = 0.5e-4
LOG_START = 3.0200
N_REST = 20600
AGES_GYR = np.array([p.age_gyr for p in POPULATIONS])
METALLICITIES = np.array([p.metallicity for p in POPULATIONS])
N_POPULATIONS = len(POPULATIONS)
N_STARS = len(STARS)
DILUTED_BY = int(np.flatnonzero(AGES_GYR == 1.0)[0])
# Velocity dispersions (km/s) of the templates; an object's lies between two of them.
DISPERSIONS = np.array([0.0, 60.0, 90.0, 120.0, 160.0, 210.0, 270.0, 340.0])
# A fibre spectrograph of R about 1800: wdisp is near one native pixel of 69 km/s.
INSTRUMENT_SIGMA = 66.0


def vacuum(air: Floats) -> Floats:
    """Vacuum wavelength (Å) of an air wavelength, Morton (1991) without iteration."""
    return air * (1 + 2.735182e-4 + 131.4182 / air**2 + 2.76249e8 / air**4)


def rest_wave() -> Floats:
    """Rest wavelengths of the grid of all templates, vacuum Å, shape (sample,)."""
    return np.asarray(10 ** (LOG_START + LOG_STEP * np.arange(N_REST)))


def broaden(spectra: Floats, sigma_km_s: float) -> Floats:
    """Convolve with a Gaussian of `sigma_km_s` along the last axis, which is log-uniform.

    By FFT with the ends repeated, so that the edges do not wrap.
    """
    samples = sigma_km_s / (LIGHT_KM_S * np.log(10) * LOG_STEP)
    pad = int(6 * samples) + 1
    padded = np.pad(spectra, [(0, 0)] * (spectra.ndim - 1) + [(pad, pad)], mode="edge")
    frequency = np.fft.rfftfreq(padded.shape[-1])
    kernel = np.exp(-2 * (np.pi * frequency * samples) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(padded) * kernel, padded.shape[-1])
    return np.asarray(smooth[..., pad:-pad])


def balmer_depth(wave: Floats) -> Floats:
    """Optical depth of the Balmer series of an A star, about 1 in the cores, shape of `wave`."""
    depth = np.zeros_like(wave)
    for n in range(3, 24):
        centre = 3646.98 * n**2 / (n**2 - 4.0)
        # Stark wings narrow and cores weaken up the series.
        width = tables.BALMER_WIDTHS[n >= 6] * (1.0 if n < 6 else (6.0 / n) ** 0.9)
        core = tables.BALMER_CORES[min(n - 3, 9)] * min(1.0, (12.0 / n) ** 1.5)
        depth += core / (1 + ((wave - centre) / width) ** 2) ** 1.15
    return depth


def balmer_edge(wave: Floats) -> Floats:
    """Bound-free opacity of hydrogen in its second level, 1 at 3646 Å and 0 redwards."""
    # Below the last resolved line the series merges: a ramp over 40 Å instead of a step.
    ramp = 1 / (1 + np.exp(np.minimum((wave - 3675.0) / 11.0, 700.0)))
    return np.asarray(ramp * (wave / 3646.98) ** 3)


def feature_depths(wave: Floats) -> Floats:
    """Optical depths of the features, shape (3, sample).

    Rows: cool stars of solar metallicity, what metal-rich ones add to it (metal-poor ones lack
    it), and hot stars.
    """
    table = np.array([row.split() for row in tables.FEATURES.split(",")], dtype=np.float64)
    depth = np.zeros((3, len(wave)))
    for centre, sigma, *strengths in table:
        near = slice(*np.searchsorted(wave, (centre - 6 * sigma, centre + 6 * sigma)))
        profile = np.exp(-0.5 * ((wave[near] - centre) / sigma) ** 2)
        depth[:, near] += np.array(strengths)[:, None] * profile
    return depth


def _continuum(values: str, wave: Floats) -> Floats:
    x = np.log(np.array(tables.KNOTS.split(), dtype=np.float64))
    y = np.array(values.split(), dtype=np.float64)
    return np.asarray(np.exp(PchipInterpolator(x, y)(np.log(wave))))


def _stellar_spectra(wave: Floats) -> Floats:
    """Spectra of populations, then of stars, unbroadened, shape (population, sample)."""
    balmer, edge = balmer_depth(wave), balmer_edge(wave)
    cool, rich, hot = feature_depths(wave)
    spectra = []
    for p in POPULATIONS:
        depth = p.metals * cool + p.rich * rich + p.hot * hot
        depth += p.balmer * balmer + p.jump * edge
        spectra.append(_continuum(p.continuum, wave) * np.exp(-depth))
    for s in STARS:
        planck = (5500.0 / wave) ** 5 / np.expm1(1.43877e8 / (wave * s.temperature))
        depth = s.metals * cool + s.balmer * balmer + s.jump * edge
        spectra.append(planck * np.exp(-depth))
    every = np.array(spectra)
    # One at 5500 Å over 40 Å, so that a weight is a share of the light there.
    every /= every[:, (wave > 5480) & (wave < 5520)].mean(axis=1, keepdims=True)
    share = np.zeros((len(every), 1))
    share[:N_POPULATIONS, 0] = tables.DILUTION
    every = (1 - share) * every + share * every[DILUTED_BY]
    is_old = AGES_GYR >= 2.5
    every[:N_POPULATIONS][is_old] *= _residual(residuals.OLD, wave)
    every[:N_POPULATIONS][~is_old] *= _residual(residuals.YOUNG, wave)
    return np.asarray(every)


def _residual(values: str, wave: Floats) -> Floats:
    thousandths = np.array(values.split(), dtype=np.float64)
    x = residuals.START + residuals.STEP * np.arange(len(thousandths))
    return np.asarray(np.exp(1e-3 * np.interp(np.log10(wave), x, thousandths, left=0, right=0)))


@dataclass(frozen=True, slots=True, eq=False)
class Populations:
    """Templates of populations and, after them, of stars.

    Attributes
    ----------
    light
        F_λ, 1 at 5500 Å, float32, shape (dispersion, sample, population).
    smooth
        The same smoothed by 1500 km/s, shape (sample, population): continuum levels for
        equivalent widths.
    """

    light: NDArray[np.float32]
    smooth: Floats


@lru_cache(maxsize=4)
def populations(instrument_sigma: float = INSTRUMENT_SIGMA) -> Populations:
    """Build the templates, once in a process for each resolution (0.3 s).

    Parameters
    ----------
    instrument_sigma
        Dispersion of the spectrograph in km/s, folded into the templates.
    """
    spectra = _stellar_spectra(rest_wave())
    light = [broaden(spectra, float(np.hypot(sigma, instrument_sigma))) for sigma in DISPERSIONS]
    return Populations(
        light=np.ascontiguousarray(np.swapaxes(np.array(light), 1, 2), dtype=np.float32),
        smooth=np.ascontiguousarray(broaden(spectra, 1500.0).T),
    )
