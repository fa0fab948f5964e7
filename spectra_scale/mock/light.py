"""From the parameters of objects to noiseless spectra on a native grid.

The work is one compiled loop (`light_kernels`): a spectrum is a sum of templates at a redshift,
each under its dust, with lines as Gaussians. No object has a convolution of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.agn import BROAD_LINES, BROAD_WIDTH, TEMPLATE_FWHM, nuclear_templates
from spectra_scale.mock.kinds import STAR
from spectra_scale.mock.light_kernels import RED_BEND, add_light, add_lines
from spectra_scale.mock.lines import HA, HB, LINE_WAVE, NII, OIII, attenuation
from spectra_scale.mock.objects import Objects
from spectra_scale.mock.population import (
    LIGHT_KM_S,
    LOG_START,
    LOG_STEP,
    N_POPULATIONS,
    N_REST,
    N_STARS,
    Floats,
    populations,
)

Singles = NDArray[np.float32]

# Flux density (1e-17 erg/s/cm²/Å) at 6166 Å of an AB magnitude of 22.5.
_FLUX_22_5 = 0.2864
_PIVOT = 6166.0
# A pixel of 1e-4 dex in km/s.
PIXEL_KM_S = LIGHT_KM_S * log(10) * 1e-4
_BROAD = np.array(BROAD_LINES)
_BROAD_HB = 10
# Lines strong enough to show the wing of an outflow.
_WINGED = np.array([2, 5, 6, 11, HB, 16, OIII, 23, HA, NII, 26, 27])
# Interstellar Na D: vacuum wavelength (Å) and share of the absorption.
_SODIUM = np.array([[5891.58, 0.57], [5897.56, 0.43]])
# Balmer continuum is quoted at its edge against the power law at 5100 Å: about λ^-1.7 between.
_EDGE_OVER_5100 = 1.9


@dataclass(frozen=True, slots=True, eq=False)
class Emission:
    """All lines of n objects: narrow ones first, then wings, sodium, and the broad lines.

    Attributes
    ----------
    wave
        Rest wavelengths, vacuum Å, shape (line,).
    flux
        1e-17 erg/s/cm² as received, negative in absorption, shape (n, line).
    sigma, offset
        Gaussian width without the instrument, and velocity, km/s, shape (n, line).
    """

    wave: Floats
    flux: Floats
    sigma: Floats
    offset: Floats

    def narrow(self) -> Floats:
        """Total narrow flux of each of `lines.LINES`, wings included, shape (n, line)."""
        total = self.flux[:, : len(LINE_WAVE)].copy()
        total[:, _WINGED] += self.flux[:, len(LINE_WAVE) : len(LINE_WAVE) + len(_WINGED)]
        return total


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


def template_weights(objects: Objects) -> Floats:
    """Weights of the templates of populations and stars, shape (n, template).

    A galaxy's are scaled to a dust-free level of 1 at 5100 Å; a star lies between two templates.
    """
    n = len(objects)
    weights = np.zeros((n, N_POPULATIONS + N_STARS))
    index = int((np.log10(5100.0) - LOG_START) / LOG_STEP)
    level = objects.weights @ populations().smooth[index, :N_POPULATIONS]
    weights[:, :N_POPULATIONS] = objects.weights / level[:, None]
    is_star = objects.kind == STAR
    weights[is_star] = 0
    hot = np.minimum(objects.star.astype(np.int64), N_STARS - 2)
    share = objects.star - hot
    row = np.flatnonzero(is_star)
    weights[row, N_POPULATIONS + hot[row]] = 1 - share[row]
    weights[row, N_POPULATIONS + hot[row] + 1] = share[row]
    return weights


def _model(objects: Objects, wave: Floats) -> Floats:
    """Smooth rest-frame model at `wave` (n, m): galaxy and nucleus, shape (n, m, 2)."""
    index = np.clip((np.log10(wave) - LOG_START) / LOG_STEP, 0, N_REST - 1).astype(np.int64)
    smooth = populations().smooth[index]
    weights = template_weights(objects)
    young = smooth[..., 0] * weights[:, :1]
    old = np.einsum("nma,na->nm", smooth[..., 1:], weights[:, 1:])
    nucleus, share = objects.nucleus, objects.nucleus.share[:, None]
    curve = attenuation(wave, objects.dust_slope[:, None])
    galaxy = old + young * 10 ** (-0.4 * objects.dust_birth[:, None] * curve)
    galaxy *= (1 - share) * 10 ** (-0.4 * objects.dust_stars[:, None] * curve)
    templates = nuclear_templates()[_template(nucleus.fwhm)[:, None], index]
    bright = (wave / 5100.0) ** nucleus.slope[:, None] * np.maximum(wave / 5600.0, 1.0) ** RED_BEND
    bright = bright + np.einsum("nmc,nc->nm", templates, _extras(objects))
    plain = attenuation(wave, np.zeros((len(wave), 1)))
    bright = bright * share * 10 ** (-0.4 * nucleus.dust[:, None] * plain)
    return np.stack([galaxy, bright], axis=-1)


def _extras(objects: Objects) -> Floats:
    """Balmer continuum and the two Fe II templates, against the power law at 5100 Å, (n, 3)."""
    nucleus = objects.nucleus
    return np.column_stack([_EDGE_OVER_5100 * nucleus.balmer_continuum, nucleus.iron])


def _template(fwhm: Floats) -> NDArray[np.int64]:
    distance = np.abs(np.log(np.maximum(fwhm, 100.0))[:, None] - np.log(TEMPLATE_FWHM))
    return np.asarray(distance.argmin(axis=1))


def emission(objects: Objects, continuum: Continuum) -> Emission:
    """Fluxes and widths of all lines of `objects`, dust and redshift in."""
    stretch = (1 + objects.redshift)[:, None]
    gas = objects.gas
    narrow = gas.ew_ha[:, None] * stretch * continuum.at(LINE_WAVE[[HA]]) * gas.ratios
    wing = narrow[:, _WINGED] * gas.wing[:, None]
    narrow[:, _WINGED] -= wing
    level = continuum.at(_SODIUM[:, 0])
    sodium = -objects.sodium[:, None] * stretch * level * _SODIUM[:, 1]
    n, one = len(objects), np.ones
    wide, broad_sigma, broad_offset = _broad(objects, continuum)
    sigma = gas.sigma[:, None]
    parts = (
        (LINE_WAVE, narrow, sigma * one((1, len(LINE_WAVE))), gas.offset[:, None]),
        (LINE_WAVE[_WINGED], wing, gas.wing_sigma[:, None], gas.wing_offset[:, None]),
        (_SODIUM[:, 0], sodium, 0.7 * sigma, np.zeros((n, 1))),
        (np.tile(_BROAD[:, 0], 3), wide, broad_sigma, broad_offset),
    )
    return Emission(
        wave=np.concatenate([p[0] for p in parts]),
        flux=np.concatenate([p[1] for p in parts], axis=1),
        sigma=np.concatenate([np.broadcast_to(p[2], p[1].shape) for p in parts], axis=1),
        offset=np.concatenate([np.broadcast_to(p[3], p[1].shape) for p in parts], axis=1),
    )


def _broad(objects: Objects, continuum: Continuum) -> tuple[Floats, Floats, Floats]:
    """Flux, width and velocity of core, wing and bump of all broad lines, each (n, 3 lines)."""
    nucleus = objects.nucleus
    stretch = (1 + objects.redshift)[:, None]
    # Broad Hβ has its EW against the nucleus alone; dust reddens the lines as the continuum.
    level = continuum.parts(_BROAD[[_BROAD_HB], 0])[:, :, 1]
    curve = attenuation(_BROAD[:, 0], np.zeros(1))
    dust = 10 ** (-0.4 * nucleus.dust[:, None] * (curve - curve[_BROAD_HB]))
    flux = nucleus.broad_ew[:, None] * stretch * level * nucleus.ratios * dust
    core = nucleus.fwhm[:, None] / 2.355 * BROAD_WIDTH
    shape = (len(objects), 3 * len(_BROAD))
    return (
        (nucleus.parts[:, :, None] * flux[:, None]).reshape(shape),
        (nucleus.widths[:, :, None] * core[:, None]).reshape(shape),
        np.repeat(nucleus.offsets, len(_BROAD), axis=1),
    )


def broad_flux(lines: Emission, rest: float) -> Floats:
    """Flux (n,) of the broad line at `rest`, all its parts; 0 where there is none."""
    first = len(LINE_WAVE) + len(_WINGED) + len(_SODIUM)
    near = np.abs(lines.wave[first:] - rest) < 1.0
    return np.asarray(lines.flux[:, first:][:, near].sum(axis=1))


def render(continuum: Continuum, lines: Emission, log_wave: Floats, sigma_km_s: Floats) -> Singles:
    """Noiseless spectra on any increasing grid of wavelengths.

    Parameters
    ----------
    continuum, lines
        What shines.
    log_wave
        log10 of the observed vacuum wavelengths (Å) of the pixel centres, shape (pixel,).
    sigma_km_s
        Gaussian dispersion of the instrument at each of them, shape (pixel,). Stars are seen at
        the mean of it, lines at that of their place.

    Returns
    -------
        F_λ in 1e-17 erg/s/cm²/Å, shape (n, pixel).
    """
    objects, nucleus = continuum.objects, continuum.objects.nucleus
    # Rounded, so that the templates of few resolutions serve all plates.
    stars = populations(5.0 * round(float(np.mean(sigma_km_s)) / 5.0))
    scale = continuum.amplitude * (1 - nucleus.share)
    parameters = np.column_stack(
        [
            np.log10(1 + objects.redshift),
            objects.dispersion,
            objects.dust_stars,
            objects.dust_birth,
            objects.dust_slope,
            nucleus.share * continuum.amplitude,
            nucleus.slope,
            nucleus.dust,
            _extras(objects),
        ]
    )
    out = np.zeros((len(objects), len(log_wave)), dtype=np.float32)
    add_light(
        stars.light,
        nuclear_templates(),
        (template_weights(objects) * scale[:, None]).astype(np.float32),
        _template(nucleus.fwhm),
        parameters,
        np.ascontiguousarray(log_wave, dtype=np.float64),
        out,
    )
    # A pixel is a box: a twelfth of its squared width is added to the variance of a line.
    box = np.gradient(log_wave) * LIGHT_KM_S * log(10) / sqrt(12)
    width = np.hypot(sigma_km_s, box)
    shifted = (1 + objects.redshift)[:, None] * (1 + lines.offset / LIGHT_KM_S)
    centre = np.log10(lines.wave * shifted)
    add_lines(centre, lines.flux, lines.sigma, log_wave, width, out)
    return out
