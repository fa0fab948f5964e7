"""Compiled loops of `light`: templates under dust, and Gaussian lines, summed at a redshift."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
from numba import njit

from spectra_scale.mock.lines import calzetti
from spectra_scale.mock.population import LIGHT_KM_S, LOG_START, LOG_STEP, N_REST, rest_wave

# Templates are read at every second sample, a native SDSS pixel apart, and interpolated between
# by a cubic; dust and power laws, smooth, are evaluated every 16th of these.
_STRIDE = 2
_COARSE = 16
_LN10 = log(10.0)
_LOG_5100, _LOG_5600 = 3.7075701760979363, 3.7481880270062002
# What is added to the slope of the power law beyond 5600 Å.
RED_BEND = 0.65
_CURVE = calzetti(rest_wave()[:: _STRIDE * _COARSE]).astype(np.float32)


@njit(cache=True, fastmath=True, nogil=True)
def _smooth(p, first, n, galaxy, birth, nucleus):  # type: ignore[no-untyped-def]
    """Fill attenuations of old and young stars, and power law and its dust, at coarse places."""
    for c in range(n):
        at = first + c
        curve = _CURVE[min(at, _CURVE.shape[0] - 1)]
        log_wave = LOG_START + LOG_STEP * _STRIDE * _COARSE * at
        tilted = curve * exp(p[4] * _LN10 * (log_wave - 3.740362689494244))
        galaxy[c] = exp(-0.4 * _LN10 * p[2] * tilted)
        birth[c] = exp(-0.4 * _LN10 * (p[2] + p[3]) * tilted)
        nucleus[c, 0] = 0.0
        nucleus[c, 1] = 0.0
        if p[5] > 0.0:
            dust = p[5] * exp(-0.4 * _LN10 * p[7] * curve)
            # Warm dust lifts the power law to the red.
            red = max(log_wave - _LOG_5600, 0.0)
            nucleus[c, 0] = dust * exp(_LN10 * (p[6] * (log_wave - _LOG_5100) + RED_BEND * red))
            nucleus[c, 1] = dust


@njit(cache=True, fastmath=True, nogil=True)
def add_light(light, nuclear, weights, template, parameters, log_wave, out):  # type: ignore[no-untyped-def]
    """Add stars and nuclei of n objects to `out`, shape (n, pixel).

    `parameters` has a row an object: log(1+z), place among the dispersions, A_V diffuse, A_V birth
    cloud, δ, level of the nucleus, its slope and A_V, Balmer continuum, two of Fe II.
    """
    n_template = light.shape[2]
    n_row = (N_REST + _STRIDE - 1) // _STRIDE
    row = np.zeros(n_row + 4, dtype=np.float32)
    n_coarse = n_row // _COARSE + 3
    galaxy = np.zeros(n_coarse, dtype=np.float32)
    birth = np.zeros(n_coarse, dtype=np.float32)
    nucleus = np.zeros((n_coarse, 2), dtype=np.float32)
    blend = np.zeros(n_template, dtype=np.float32)
    step = LOG_STEP * _STRIDE
    for i in range(out.shape[0]):
        p = parameters[i]
        low = (log_wave[0] - p[0] - LOG_START) / step
        high = (log_wave[-1] - p[0] - LOG_START) / step
        first = max(int(low) - 2, 0)
        last = min(int(high) + 4, n_row)
        coarse = first // _COARSE
        _smooth(p, coarse, min(last // _COARSE + 3 - coarse, n_coarse), galaxy, birth, nucleus)
        d = min(int(p[1]), light.shape[0] - 2)
        t_d = np.float32(p[1] - d)
        narrow = light[d]
        wide = light[d + 1]
        agn = nuclear[template[i]]
        for m in range(n_template):
            blend[m] = weights[i, m]
        young = blend[0]
        blend[0] = np.float32(0.0)
        for q in range(first, last):
            k = q * _STRIDE
            a = np.float32(0.0)
            b = np.float32(0.0)
            for m in range(n_template):
                a += blend[m] * narrow[k, m]
                b += blend[m] * wide[k, m]
            c = q // _COARSE - coarse
            t = np.float32((q % _COARSE) / _COARSE)
            value = (a + t_d * (b - a)) * (galaxy[c] + t * (galaxy[c + 1] - galaxy[c]))
            new = narrow[k, 0] + t_d * (wide[k, 0] - narrow[k, 0])
            value += young * new * (birth[c] + t * (birth[c + 1] - birth[c]))
            if p[5] > 0.0:
                value += nucleus[c, 0] + t * (nucleus[c + 1, 0] - nucleus[c, 0])
                extra = p[8] * agn[k, 0] + p[9] * agn[k, 1] + p[10] * agn[k, 2]
                value += extra * (nucleus[c, 1] + t * (nucleus[c + 1, 1] - nucleus[c, 1]))
            row[q] = value
        for j in range(out.shape[1]):
            x = (log_wave[j] - p[0] - LOG_START) / step
            q = min(max(int(x), first + 1), last - 3)
            # A cubic through four samples (Lagrange); beyond the templates, its end.
            u = np.float32(min(max(x - q, 0.0), 1.0))
            v = np.float32(1.0) - u
            w = np.float32(1.0) + u
            s = np.float32(2.0) - u
            near = v * s * (w * row[q] * np.float32(0.5) - u * row[q - 1] / np.float32(6.0))
            far = u * w * (s * row[q + 1] * np.float32(0.5) - v * row[q + 2] / np.float32(6.0))
            out[i, j] += near + far


@njit(cache=True, fastmath=True, nogil=True)
def add_lines(centre, flux, sigma, log_wave, width_km_s, out):  # type: ignore[no-untyped-def]
    """Add Gaussian lines to `out`: log10 of the centres (Å) and fluxes, shape (n, line)."""
    n_pixels = out.shape[1]
    per_dex = LIGHT_KM_S * _LN10
    for i in range(out.shape[0]):
        for m in range(centre.shape[1]):
            if flux[i, m] == 0.0:
                continue
            place = centre[i, m]
            near = min(np.searchsorted(log_wave, place), n_pixels - 1)
            width = sqrt(sigma[i, m] ** 2 + width_km_s[near] ** 2) / per_dex
            low = np.searchsorted(log_wave, place - 5.0 * width)
            high = np.searchsorted(log_wave, place + 5.0 * width)
            peak = flux[i, m] / (sqrt(2.0 * np.pi) * width * exp(_LN10 * place) * _LN10)
            for j in range(low, high):
                x = (log_wave[j] - place) / width
                out[i, j] += peak * exp(-0.5 * x * x)
