"""A continuum for line fitting: a few populations, power laws and Fe II, never negative.

As GANDALF or pPXF do, with a basis that is much smaller than what mock spectra are made of: what
is left of a spectrum when it is subtracted is template mismatch as well as noise.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spectra_scale.mock.agn import nuclear_templates
from spectra_scale.mock.lines import LINE_WAVE, calzetti
from spectra_scale.mock.population import (
    AGES_GYR,
    LOG_START,
    LOG_STEP,
    METALLICITIES,
    N_REST,
    N_STARS,
    Floats,
    populations,
    rest_wave,
)

Singles = NDArray[np.float32]

# The fit is made in bins of log λ from 3160 to 9330 Å: one is 550 km/s, wider than stellar lines.
BIN_START, BIN_STEP, N_BINS = 3.50, 8e-4, 588
# Dispersions of the templates that a galaxy may have: indices into `population.DISPERSIONS`.
_DISPERSIONS = (2, 4, 6)
_A_V = (0.0, 1.1)
_SLOPES = (-2.0, -0.4)
N_STELLAR = 12
N_BASIS = N_STELLAR + len(_SLOPES) + 2
_SWEEPS = 45
# Bins within so many Å of a line say nothing of the continuum; of a broad Balmer line, many more.
_NEAR = 13.0
_BROAD_REGIONS = ((4040, 4170), (4240, 4430), (4740, 5080), (5780, 5960), (6330, 6810))


class Basis(NamedTuple):
    """Templates of the fit.

    Attributes
    ----------
    binned
        F_λ in bins, shape (bin, template).
    products
        Products of all pairs of templates in a bin, shape (bin, pair).
    fine
        F_λ at the samples of `population.rest_wave`, shape (dispersion, template, sample).
    quiet, quieter
        1 in bins without narrow lines, and in those without broad ones either, shape (bin,).
    """

    binned: Singles
    products: Singles
    fine: Singles
    quiet: Singles
    quieter: Singles


@lru_cache(maxsize=4)
def basis(instrument_sigma: float) -> Basis:
    """Build the templates for a spectrograph of this dispersion (km/s), once in a process."""
    wave = rest_wave()
    light = populations(instrument_sigma).light[list(_DISPERSIONS)]
    stars = np.stack([_stellar(light[d]) for d in range(len(_DISPERSIONS))])
    curve = calzetti(wave)[None, :, None]
    reddened = [stars * 10 ** (-0.4 * a_v * curve) for a_v in _A_V]
    nuclear = nuclear_templates()[2]
    smooth = [(wave / 5500.0) ** slope for slope in _SLOPES]
    smooth += [nuclear[:, 0], nuclear[:, 1] + nuclear[:, 2]]
    others = np.broadcast_to(np.stack(smooth, axis=1), (len(stars), N_REST, len(smooth)))
    fine = np.concatenate([*reddened, others], axis=2)
    edges = np.searchsorted(np.log10(wave), BIN_START + BIN_STEP * np.arange(N_BINS + 1))
    binned = np.add.reduceat(fine[1], edges[:-1], axis=0) / np.diff(edges)[:, None]
    centre = 10 ** (BIN_START + BIN_STEP * (np.arange(N_BINS) + 0.5))
    quiet = np.all(np.abs(centre[:, None] - LINE_WAVE) > _NEAR, axis=1)
    wide = np.zeros(N_BINS, dtype=bool)
    for low, high in _BROAD_REGIONS:
        wide |= (centre > low) & (centre < high)
    first, second = np.tril_indices(N_BASIS)
    return Basis(
        binned.astype(np.float32),
        (binned[:, first] * binned[:, second]).astype(np.float32),
        np.ascontiguousarray(np.swapaxes(fine, 1, 2), dtype=np.float32),
        quiet.astype(np.float32),
        (quiet & ~wide).astype(np.float32),
    )


def _stellar(light: Singles) -> Floats:
    """Six spectra from the templates (sample, population): young to old and metal-rich."""

    def mean(*chosen: tuple[float, float]) -> Floats:
        found = [
            light[:, np.flatnonzero((age == AGES_GYR) & (z == METALLICITIES))[0]]
            for age, z in chosen
        ]
        return np.asarray(np.mean(found, axis=0))

    assert light.shape[1] == len(AGES_GYR) + N_STARS
    return np.stack(
        [
            mean((0.01, 0.0)),
            mean((0.2, 0.0)),
            mean((0.5, 0.0), (1.0, 0.0)),
            mean((2.5, 0.0), (2.5, 0.3)),
            mean((12.0, -0.5), (6.0, -0.5)),
            mean((12.0, 0.0), (12.0, 0.3)),
        ],
        axis=1,
    )


@njit(cache=True, fastmath=True, nogil=True)
def bin_spectrum(flux, ivar, log_rest, weight, value):  # type: ignore[no-untyped-def]
    """Add a spectrum into bins: Σ ivar to `weight`, and its weighted mean to `value`."""
    weight[:] = 0.0
    value[:] = 0.0
    for j in range(flux.shape[0]):
        if ivar[j] > 0.0:
            b = int((log_rest[j] - BIN_START) / BIN_STEP)
            if 0 <= b < N_BINS:
                weight[b] += ivar[j]
                value[b] += ivar[j] * flux[j]
    for b in range(N_BINS):
        if weight[b] > 0.0:
            value[b] /= weight[b]
            # No model is better than a per cent: bright spectra must not be ruled by few bins.
            weight[b] = 1.0 / (1.0 / weight[b] + (0.01 * value[b]) ** 2)


@njit(cache=True, fastmath=True, nogil=True)
def fit_basis(basis, use, weight, value, x):  # type: ignore[no-untyped-def]
    """Non-negative least squares for the shares `x` of the templates, by coordinate descent.

    Zeros where nothing can be fitted.
    """
    n = basis.binned.shape[1]
    pairs = np.zeros(basis.products.shape[1], dtype=np.float32)
    right = np.zeros(n, dtype=np.float32)
    x[:] = 0.0
    scale = weight.max()
    if scale <= 0.0:
        return
    for b in range(N_BINS):
        w = np.float32(weight[b] / scale) * use[b]
        if w > 0.0:
            product = basis.products[b]
            for p in range(pairs.shape[0]):
                pairs[p] += w * product[p]
            t = w * np.float32(value[b])
            row = basis.binned[b]
            for i in range(n):
                right[i] += t * row[i]
    normal = np.zeros((n, n))
    p = 0
    for i in range(n):
        for k in range(i + 1):
            normal[i, k] = normal[k, i] = pairs[p]
            p += 1
    gradient = right.astype(np.float64)
    for _ in range(_SWEEPS):
        for i in range(n):
            if normal[i, i] > 0.0:
                move = max(-x[i], gradient[i] / normal[i, i])
                if move != 0.0:
                    x[i] += move
                    row = normal[i]
                    for k in range(n):
                        gradient[k] -= move * row[k]


@njit(cache=True, fastmath=True, nogil=True)
def model_spectrum(fine, x, log_rest, low, high, model):  # type: ignore[no-untyped-def]
    """Evaluate the continuum `x` of one dispersion at pixels low to high, linear in between."""
    if high <= low:
        return
    first = min(max(int((log_rest[low] - LOG_START) / LOG_STEP), 0), N_REST - 3)
    last = min(max(int((log_rest[high - 1] - LOG_START) / LOG_STEP) + 2, first + 2), N_REST)
    sums = np.zeros(last - first, dtype=np.float32)
    for i in range(x.shape[0]):
        if x[i] > 0.0:
            share = np.float32(x[i])
            template = fine[i, first:last]
            for k in range(sums.shape[0]):
                sums[k] += share * template[k]
    for j in range(low, high):
        place = (log_rest[j] - LOG_START) / LOG_STEP - first
        k = min(max(int(place), 0), last - first - 2)
        t = np.float32(place - k)
        model[j] = sums[k] + t * (sums[k + 1] - sums[k])
