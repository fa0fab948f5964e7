"""Broad Balmer lines: is there one, what is its profile, and how much of it in each line."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
from numba import njit

from spectra_scale.mock.fit_kernels import baseline, gaussian
from spectra_scale.mock.population import LIGHT_KM_S

_PER_DEX = LIGHT_KM_S * log(10.0)
# Gaussian widths (km/s) tried for each of two components, and their shifts in units of the width.
_WIDTHS = np.array([500.0, 800.0, 1200.0, 1800.0, 2700.0, 4000.0, 6000.0])
_SHIFTS = np.array([-0.6, -0.2, 0.2, 0.6])
# Rest Å beside Hα and Hβ where a broad line shows, and farther out where it does not.
_INNER = np.log10([[[6470.0, 6532.0], [6600.0, 6665.0]], [[4785.0, 4845.0], [4880.0, 4942.0]]])
_OUTER = np.log10([[[6330.0, 6400.0], [6780.0, 6850.0]], [[4680.0, 4745.0], [5060.0, 5120.0]]])
_CENTRES = np.log10([6564.61, 4862.68, 4341.68, 4102.89])
_REACH = 14_000.0  # km/s to either side that a broad line is fitted in
# Significance, and share of the continuum, of an excess that is looked into.
_SEEN, _SHARE = 5.0, 0.025
#: Parts of a profile: width, shift and share of two Gaussians.
N_PARTS = 6


@njit(cache=True, fastmath=True, nogil=True)
def _mean(rest, ivar, free, log_rest, regions):  # type: ignore[no-untyped-def]
    total = 0.0
    weight = 0.0
    for k in range(2):
        low = np.searchsorted(log_rest, regions[k, 0])
        high = np.searchsorted(log_rest, regions[k, 1])
        mean, error = baseline(rest, ivar, free, low, high)
        if error > 0.0:
            total += mean / error**2
            weight += 1.0 / error**2
    if weight <= 0.0:
        return 0.0, 0.0
    return total / weight, 1.0 / sqrt(weight)


@njit(cache=True, fastmath=True, nogil=True)
def looks_broad(rest, ivar, free, log_rest, level):  # type: ignore[no-untyped-def]
    """Whether flux beside Hα or Hβ stands out over that farther away; `level` is the continuum."""
    for k in range(2):
        inner, inner_error = _mean(rest, ivar, free, log_rest, _INNER[k])
        outer, outer_error = _mean(rest, ivar, free, log_rest, _OUTER[k])
        if inner_error > 0.0 and outer_error > 0.0:
            excess = inner - outer
            here = min(np.searchsorted(log_rest, _CENTRES[k]), level.shape[0] - 1)
            least = max(_SEEN * sqrt(inner_error**2 + outer_error**2), _SHARE * level[here])
            if excess > least:
                return True
    return False


@njit(cache=True, fastmath=True, nogil=True)
def _fill(log_rest, low, high, centre, width, shift, share, out):  # type: ignore[no-untyped-def]
    """Add a Gaussian of flux `share` per dex of wavelength to `out`, pixels low to high."""
    s = width / _PER_DEX
    place = centre + shift * width / _PER_DEX
    peak = share / (sqrt(2.0 * np.pi) * s)
    first = max(np.searchsorted(log_rest, place - 7.0 * s), low)
    last = min(np.searchsorted(log_rest, place + 7.0 * s), high)
    for j in range(first, last):
        x = (log_rest[j] - place) / s
        out[j - low] += peak * gaussian(x * x)


@njit(cache=True, fastmath=True, nogil=True)
def _scale(rest, ivar, free, low, high, profile):  # type: ignore[no-untyped-def]
    """Fit amplitude and a constant; returns amplitude, its error, the constant and the gain."""
    a = b = c = d = e = 0.0
    for j in range(low, high):
        if free[j]:
            w = ivar[j]
            p = profile[j - low]
            a += w * p * p
            b += w * p
            c += w
            d += w * p * rest[j]
            e += w * rest[j]
    det = a * c - b * b
    if c <= 0.0 or det <= 1e-9 * a * c:
        return 0.0, 0.0, 0.0, 0.0
    amplitude = (d * c - b * e) / det
    gain = amplitude * amplitude * det / c
    return amplitude, sqrt(c / det), (e - amplitude * b) / c, gain


@njit(cache=True, fastmath=True, nogil=True)
def _search(rest, ivar, free, low, high, log_rest, centre, profile, parts):  # type: ignore[no-untyped-def]
    """Best single Gaussian: fills width and shift of `parts`, returns its amplitude."""
    best = 0.0
    found = 0.0
    for width in _WIDTHS:
        for shift in _SHIFTS:
            profile[: high - low] = 0.0
            _fill(log_rest, low, high, centre, width, shift, 1.0, profile)
            amplitude, _, _, gain = _scale(rest, ivar, free, low, high, profile)
            if amplitude > 0.0 and gain > best:
                best, found = gain, amplitude
                parts[0], parts[1] = width, shift
    return found


@njit(cache=True, fastmath=True, nogil=True)
def window(log_rest, centre):  # type: ignore[no-untyped-def]
    """Pixels within reach of a broad line."""
    reach = _REACH / _PER_DEX
    return np.searchsorted(log_rest, centre - reach), np.searchsorted(log_rest, centre + reach)


@njit(cache=True, fastmath=True, nogil=True)
def find_profile(rest, ivar, free, log_rest, line, profile, parts):  # type: ignore[no-untyped-def]
    """Profile of one broad line, Hα (0) or Hβ (1), as two Gaussians; False if there is none."""
    centre = _CENTRES[line]
    low, high = window(log_rest, centre)
    parts[:] = 0.0
    first = _search(rest, ivar, free, low, high, log_rest, centre, profile, parts[:3])
    if first <= 0.0:
        return False
    profile[: high - low] = 0.0
    _fill(log_rest, low, high, centre, parts[0], parts[1], 1.0, profile)
    _, _, zero, _ = _scale(rest, ivar, free, low, high, profile)
    left = rest[low:high] - first * profile[: high - low] - zero
    second = _search(
        left, ivar[low:high], free[low:high], 0, high - low, log_rest[low:high], centre, profile,
        parts[3:],
    )  # fmt: skip
    total = first + second
    parts[2], parts[5] = first / total, second / total
    return True


@njit(cache=True, fastmath=True, nogil=True)
def measure_broad(rest, ivar, free, log_rest, stretch, profile, parts, flux, error):  # type: ignore[no-untyped-def]
    """Fit the profile `parts` to Hα, Hβ, Hγ and Hδ and take it out of `rest`.

    Fills flux and error, shape (4,), 0 where a line is not in the spectrum.
    """
    for k in range(4):
        low, high = window(log_rest, _CENTRES[k])
        flux[k] = error[k] = 0.0
        if high - low < 30:
            continue
        profile[: high - low] = 0.0
        for c in range(2):
            if parts[3 * c + 2] > 0.0:
                _fill(log_rest, low, high, _CENTRES[k], parts[3 * c], parts[3 * c + 1],
                      parts[3 * c + 2], profile)  # fmt: skip
        amplitude, sigma, _, _ = _scale(rest, ivar, free, low, high, profile)
        # Per dex of wavelength to per Å.
        to_flux = 10.0 ** _CENTRES[k] * log(10.0) * stretch
        if sigma > 0.0 and amplitude > 0.0:
            flux[k], error[k] = amplitude * to_flux, sigma * to_flux
            for j in range(low, high):
                rest[j] -= amplitude * profile[j - low]


@njit(cache=True, fastmath=True, nogil=True)
def full_width(parts):  # type: ignore[no-untyped-def]
    """FWHM (km/s) of a profile."""
    step = 25.0
    n = 1200
    values = np.zeros(2 * n + 1)
    for c in range(2):
        width, shift, share = parts[3 * c : 3 * c + 3]
        if share > 0.0:
            for i in range(2 * n + 1):
                x = ((i - n) * step - shift * width) / width
                values[i] += share / width * exp(-0.5 * x * x)
    above = np.flatnonzero(values > 0.5 * values.max())
    return (above[-1] - above[0]) * step
