"""From the parameters of objects to noiseless spectra on a native grid.

The work is one compiled loop: a spectrum is a sum of templates at a redshift, each under its dust,
with lines as Gaussians. No object has a convolution of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spectra_scale.mock.agn import (
    BROAD_LINES,
    TEMPLATE_FWHM,
    WING_SHARE,
    WING_WIDTH,
    nuclear_templates,
)
from spectra_scale.mock.lines import HA, LINE_WAVE, calzetti
from spectra_scale.mock.objects import STAR, Objects
from spectra_scale.mock.population import (
    LIGHT_KM_S,
    LOG_START,
    LOG_STEP,
    N_POPULATIONS,
    N_REST,
    Floats,
    balmer_depth,
    balmer_edge,
    feature_depths,
    populations,
    rest_wave,
)

Singles = NDArray[np.float32]

# Flux density (1e-17 erg/s/cm²/Å) at 6166 Å of an AB magnitude of 22.5.
_FLUX_22_5 = 0.2864
_PIVOT = 6166.0
# A pixel of 1e-4 dex in km/s.
PIXEL_KM_S = LIGHT_KM_S * log(10) * 1e-4
_BROAD = np.array(BROAD_LINES)
_BROAD_HB = 10


@dataclass(frozen=True, slots=True, eq=False)
class Emission:
    """All lines of n objects, narrow ones first, then broad cores, then broad wings.

    Attributes
    ----------
    wave
        Rest wavelengths, vacuum Å, shape (line,).
    flux
        1e-17 erg/s/cm² as received, shape (n, line).
    sigma
        km/s without the instrument, shape (n, line).
    """

    wave: Floats
    flux: Floats
    sigma: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Continuum:
    """Continua of n objects in received units, evaluated at rest wavelengths.

    Attributes
    ----------
    objects
        What they are.
    amplitude
        Received F_λ for a rest-frame model value of 1, shape (n,).
    """

    objects: Objects
    amplitude: Floats

    @classmethod
    def of(cls, objects: Objects) -> Continuum:
        """Scale the light of `objects` to their r magnitudes at 6166 Å as observed."""
        wave = _PIVOT / (1 + objects.redshift)
        level = _model(objects, wave[:, None]).sum(axis=-1)[:, 0]
        flux = _FLUX_22_5 * 10 ** (-0.4 * (objects.magnitude - 22.5))
        return cls(objects, flux / level)

    def at(self, rest: Floats) -> Floats:
        """Received continuum F_λ (n, m), without lines, at rest wavelengths (m,) or (n, m)."""
        return np.asarray(self.parts(rest).sum(axis=-1))

    def parts(self, rest: Floats) -> Floats:
        """Like `at`, the galaxy and the nucleus apart: shape (n, m, 2)."""
        wave = np.broadcast_to(rest, (len(self.amplitude), rest.shape[-1]))
        return _model(self.objects, wave) * self.amplitude[:, None, None]


def _model(objects: Objects, wave: Floats) -> Floats:
    """Smooth rest-frame model at `wave` (n, m): galaxy and nucleus, shape (n, m, 2)."""
    index = np.clip((np.log10(wave) - LOG_START) / LOG_STEP, 0, N_REST - 1).astype(np.int64)
    galaxy = np.einsum(
        "nma,na->nm", populations().smooth[index][..., :N_POPULATIONS], objects.ages
    )
    galaxy /= _galaxy_level(objects)[:, None]
    templates = nuclear_templates()[_template(objects.fwhm)[:, None], index]
    nucleus = (wave / 5100.0) ** objects.slope[:, None]
    # Balmer continuum and Fe II are measured against the power law at 5100 Å.
    nucleus = nucleus + templates[..., 0] * objects.balmer_continuum[:, None] * 1.9
    nucleus = nucleus + templates[..., 1] * objects.iron[:, None]
    curve = calzetti(wave)
    share = objects.nucleus[:, None]
    galaxy *= (1 - share) * 10 ** (-0.4 * objects.dust_stars[:, None] * curve)
    nucleus = nucleus * share * 10 ** (-0.4 * objects.dust_nucleus[:, None] * curve)
    stars = np.flatnonzero(objects.kind == STAR)
    galaxy[stars] = star_light(objects.magnitude[stars], wave[stars])
    return np.stack([galaxy, nucleus], axis=-1)


def star_heat(magnitude: Floats) -> Floats:
    """Temperature of a star, 0 for 4500 K to 1 for 10,000 K, from the digits of its magnitude."""
    return np.asarray(np.mod(magnitude * 7.31, 1.0))


def star_light(magnitude: Floats, wave: Floats) -> Floats:
    """Black bodies, standing in for stars of `magnitude` (n,), 1 at 5500 Å; `wave` is (n, m)."""
    hot = 4500 + 5500 * star_heat(magnitude)[:, None]
    x, x0 = 1.43877e8 / (wave * hot), 1.43877e8 / (5500.0 * hot)
    return np.asarray((5500.0 / wave) ** 5 * np.expm1(x0) / np.expm1(x))


def _galaxy_level(objects: Objects) -> Floats:
    index = int((np.log10(5100.0) - LOG_START) / LOG_STEP)
    return np.asarray(objects.ages @ populations().smooth[index][:N_POPULATIONS])


def _template(fwhm: Floats) -> NDArray[np.int64]:
    distance = np.abs(np.log(np.maximum(fwhm, 100.0))[:, None] - np.log(TEMPLATE_FWHM))
    return np.asarray(distance.argmin(axis=1))


def emission(objects: Objects, continuum: Continuum) -> Emission:
    """Fluxes and widths of all lines of `objects`, dust and redshift in."""
    stretch = (1 + objects.redshift)[:, None]
    narrow = objects.ew_ha[:, None] * stretch * continuum.at(LINE_WAVE[[HA]]) * objects.ratios
    # Broad Hβ has its EW against the nucleus alone; dust reddens the lines as the continuum.
    level = continuum.parts(np.array([_BROAD[_BROAD_HB, 0]]))[:, :, 1]
    curve = calzetti(_BROAD[:, 0])
    dust = 10 ** (-0.4 * objects.dust_nucleus[:, None] * (curve - curve[_BROAD_HB]))
    broad = objects.broad_ew[:, None] * stretch * level * _BROAD[:, 1] * dust
    sigma_gas = np.repeat(objects.sigma_gas[:, None], len(LINE_WAVE), axis=1)
    core = np.repeat(objects.fwhm[:, None] / 2.355, len(_BROAD), axis=1)
    # He II and the high-ionisation ultraviolet lines come from deeper in the potential.
    core = core * np.where(np.isin(_BROAD[:, 0], (1549.48, 1640.42, 4687.02)), 1.3, 1.0)
    return Emission(
        wave=np.concatenate([LINE_WAVE, _BROAD[:, 0], _BROAD[:, 0]]),
        flux=np.concatenate([narrow, broad * (1 - WING_SHARE), broad * WING_SHARE], axis=1),
        sigma=np.concatenate([sigma_gas, core, core * WING_WIDTH], axis=1),
    )


def broad_flux(lines: Emission, rest: float) -> Floats:
    """Flux (n,) of the broad line at `rest`, core and wings; 0 where there is none."""
    n_narrow = len(LINE_WAVE)
    near = np.abs(lines.wave[n_narrow:] - rest) < 1.0
    return np.asarray(lines.flux[:, n_narrow:][:, near].sum(axis=1))


def render(continuum: Continuum, lines: Emission, log_wave: Floats, sigma_km_s: Floats) -> Singles:
    """Noiseless spectra on any increasing grid of wavelengths.

    Parameters
    ----------
    continuum, lines
        What shines.
    log_wave
        log10 of the observed vacuum wavelengths (Å) of the pixel centres, shape (pixel,).
    sigma_km_s
        Gaussian dispersion of the instrument at each of them, shape (pixel,).

    Returns
    -------
        F_λ in 1e-17 erg/s/cm²/Å, shape (n, pixel).
    """
    objects = continuum.objects
    n = len(objects)
    weights = objects.ages * ((1 - objects.nucleus) / _galaxy_level(objects))[:, None]
    weights = np.where((objects.kind == STAR)[:, None], 0.0, weights)
    amplitude = continuum.amplitude
    power = np.stack(
        [
            objects.nucleus * amplitude,
            objects.slope,
            1.9 * objects.balmer_continuum,
            objects.iron,
            objects.dust_nucleus,
            objects.dust_stars,
            np.log10(1 + objects.redshift),
        ],
        axis=1,
    )
    out = np.zeros((n, len(log_wave)), dtype=np.float32)
    _continua(
        populations().light,
        nuclear_templates(),
        calzetti(rest_wave()).astype(np.float32),
        np.ascontiguousarray(weights * amplitude[:, None], dtype=np.float32),
        objects.dispersion,
        _template(objects.fwhm),
        power,
        log_wave,
        out,
    )
    _add_stars(continuum, log_wave, out)
    # A pixel is a box: a twelfth of its squared width is added to the variance of a line.
    box = np.gradient(log_wave) * LIGHT_KM_S * log(10) / sqrt(12)
    width = np.hypot(sigma_km_s, box)
    _lines(lines.wave, lines.flux, lines.sigma, objects.redshift, log_wave, width, out)
    return out


def _add_stars(continuum: Continuum, log_wave: Floats, out: Singles) -> None:
    rows = np.flatnonzero(continuum.objects.kind == STAR)
    wave: Floats = np.power(10.0, log_wave, dtype=np.float64)
    magnitude = continuum.objects.magnitude[rows]
    hot = star_heat(magnitude)[:, None]
    light = star_light(magnitude, np.broadcast_to(wave, (len(rows), len(wave))))
    depth = hot * (balmer_depth(wave) + 0.7 * balmer_edge(wave))
    depth = depth + (1 - hot) ** 2 * feature_depths(wave)[0]
    out[rows] = light * np.exp(-depth) * continuum.amplitude[rows, None]


@njit(cache=True, fastmath=True, nogil=True)
def _continua(light, nuclear, curve, weights, dispersion, template, power, log_wave_seen, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, PLR0913, PLR0917
    n_age = weights.shape[1]
    ln10 = log(10.0)
    for i in range(out.shape[0]):
        level, slope, balmer, iron, dust_nucleus, dust_stars, log_z = power[i]
        stars = light[dispersion[i]]
        agn = nuclear[template[i]]
        for j in range(out.shape[1]):
            log_wave = log_wave_seen[j] - log_z
            x = (log_wave - LOG_START) / LOG_STEP
            k = int(x)
            if k < 0 or k >= N_REST - 1:
                k = min(max(k, 0), N_REST - 2)
                x = float(k)
            t = np.float32(x - k)
            a = np.float32(0.0)
            b = np.float32(0.0)
            for m in range(n_age):
                a += weights[i, m] * stars[k, m]
                b += weights[i, m] * stars[k + 1, m]
            value = (a + t * (b - a)) * exp(-0.4 * ln10 * dust_stars * curve[k])
            if level > 0.0:
                bright = exp(slope * ln10 * (log_wave - 3.7075701760979363))
                bright += balmer * (agn[k, 0] + t * (agn[k + 1, 0] - agn[k, 0]))
                bright += iron * (agn[k, 1] + t * (agn[k + 1, 1] - agn[k, 1]))
                value += level * bright * exp(-0.4 * ln10 * dust_nucleus * curve[k])
            out[i, j] = value


@njit(cache=True, fastmath=True, nogil=True)
def _lines(wave, flux, sigma, redshift, log_wave, width_km_s, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, PLR0913, PLR0917
    n_pixels = out.shape[1]
    per_dex = LIGHT_KM_S * log(10.0)
    for i in range(out.shape[0]):
        for m in range(wave.shape[0]):
            if flux[i, m] <= 0.0:
                continue
            centre_wave = wave[m] * (1.0 + redshift[i])
            centre = log(centre_wave) / log(10.0)
            near = min(np.searchsorted(log_wave, centre), n_pixels - 1)
            width = sqrt(sigma[i, m] ** 2 + width_km_s[near] ** 2) / per_dex
            low = np.searchsorted(log_wave, centre - 5.5 * width)
            high = np.searchsorted(log_wave, centre + 5.5 * width)
            peak = flux[i, m] / (sqrt(2.0 * np.pi) * width * centre_wave * log(10.0))
            for j in range(low, high):
                x = (log_wave[j] - centre) / width
                out[i, j] += peak * exp(-0.5 * x * x)
