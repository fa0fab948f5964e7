"""Line fits of noisy spectra: the same for mock and for real ones.

The continuum is a non-negative sum of few templates (`fit_continuum`); narrow lines are Gaussians
of one width and velocity, with non-negative fluxes, solved group by group (`fit_kernels`), as by
GANDALF (Sarzi et al. 2006); broad Balmer lines have a profile of two Gaussians (`fit_broad`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log, sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spectra_scale.mock.fit_broad import (
    N_PARTS,
    find_profile,
    full_width,
    looks_broad,
    measure_broad,
    window,
)
from spectra_scale.mock.fit_continuum import (
    BIN_START,
    BIN_STEP,
    N_BASIS,
    N_BINS,
    basis,
    bin_spectrum,
    fit_basis,
    model_spectrum,
)
from spectra_scale.mock.fit_kernels import Spec, Table, Work, baseline, find_motion, fit_groups
from spectra_scale.mock.lines import LINE_WAVE
from spectra_scale.mock.population import (
    DISPERSIONS,
    LIGHT_KM_S,
    LOG_START,
    LOG_STEP,
    N_REST,
    Floats,
    rest_wave,
)

Singles = NDArray[np.float32]

# Components of lines that are solved together; a pair has a fixed ratio.
_GROUPS: tuple[tuple[tuple[tuple[int, float], ...], ...], ...] = (
    (((0, 1.0),),),
    (((1, 1.0),),),
    (((2, 1.0),),),
    (((3, 1.0),), ((4, 1.0),)),
    (((5, 1.0),), ((7, 1.0),)),
    (((6, 1.0),), ((8, 1.0),)),
    (((9, 1.0),),),
    (((10, 1.0),), ((11, 1.0),)),
    (((12, 1.0),),),
    (((13, 1.0),), ((14, 1.0),)),
    (((15, 1.0),),),
    (((17, 1.0), (16, 1 / 2.98)),),
    (((18, 1.0),), ((19, 1.0),)),
    (((20, 1.0),),),
    (((21, 1.0), (22, 0.33)),),
    (((24, 1.0),), ((25, 1.0), (23, 1 / 2.96))),
    (((26, 1.0),), ((27, 1.0),)),
)
# Groups that say how wide the lines are: Hβ, [O III], Hα with [N II].
_MOVING = np.array([10, 11, 15])
# A group's window in Å beyond its outermost lines, and how near to a line a pixel is not free. The
# lines themselves are fitted without the outermost 26 Å (at 5000 Å) of it.
_MARGIN, _TAKEN = 48.0, 9.0
_INSET = 0.00226
_MOST_PIXELS = 400
# Where absorption lines say how wide they are: G band to beyond Mg b and Fe 5406.
_WIDE_FROM, _WIDE_TO = np.log10((5090.0, 5480.0))
# Where a line's continuum is taken: dex on both sides, 1200 to 2000 km/s.
_BESIDE = (0.00174, 0.00290)
# Columns of the scalars.
_N_SCALARS = 9
_SIGMA, _VELOCITY, _GAIN, _DISPERSION, _HA, _HA_ERR, _HB, _HB_ERR, _FWHM = range(_N_SCALARS)


@dataclass(frozen=True, slots=True, eq=False)
class LineFits:
    """Fits of n spectra, each array of shape (n, line) over `lines.LINES` unless said otherwise.

    Attributes
    ----------
    flux, flux_err
        1e-17 erg/s/cm² as received, narrow component; both 0 where a line is not measured.
    level
        Continuum from 1200 to 2000 km/s on both sides of the line, without broad lines,
        1e-17 erg/s/cm²/Å.
    covered
        Whether the line is in the spectrum.
    sigma, velocity
        Of the narrow lines, km/s, the instrument taken off, shape (n,); 100 and 0 where no line is
        strong enough.
    gain
        What Hβ, [O III], Hα and [N II] lower χ² by, shape (n,).
    sigma_stars
        km/s, shape (n,), between 90 and 270.
    broad_flux, broad_err
        Broad Hα and Hβ, shape (n, 2); 0 where none was looked for or found.
    broad_fwhm
        km/s, shape (n,).
    """

    flux: Floats
    flux_err: Floats
    level: Floats
    covered: NDArray[np.bool_]
    sigma: Floats
    velocity: Floats
    gain: Floats
    sigma_stars: Floats
    broad_flux: Floats
    broad_err: Floats
    broad_fwhm: Floats


@lru_cache(maxsize=1)
def _table() -> Table:
    components = [component for group in _GROUPS for component in group]
    line = np.full((len(components), 2), -1, dtype=np.int64)
    ratio = np.zeros((len(components), 2))
    for c, component in enumerate(components):
        for k, (index, share) in enumerate(component):
            line[c, k], ratio[c, k] = index, share
    last = np.cumsum([len(group) for group in _GROUPS])
    group = np.stack([last - [len(g) for g in _GROUPS], last], axis=1)
    return Table(np.log10(LINE_WAVE), line, ratio, group.astype(np.int64))


@lru_cache(maxsize=1)
def _windows() -> Floats:
    """log10 of the first and last rest wavelength of each group, shape (group, 2)."""
    edges = []
    for group in _GROUPS:
        wave = [LINE_WAVE[line] for component in group for line, _ in component]
        edges.append((min(wave) - _MARGIN, max(wave) + _MARGIN))
    return np.log10(edges)


@lru_cache(maxsize=1)
def _free() -> NDArray[np.bool_]:
    """Samples of the rest-frame grid that no line touches."""
    distance = np.abs(rest_wave()[:, None] - LINE_WAVE)
    wide = np.where(np.isin(np.arange(len(LINE_WAVE)), (16, 17, 23, 24, 25)), 14.0, _TAKEN)
    return np.asarray(np.all(distance > wide, axis=1))


def fit_lines(
    log_wave: Floats, flux: Singles, ivar: Singles, redshift: Floats, sigma_instrument: Floats
) -> LineFits:
    """Fit continuum and lines of spectra that share a grid.

    Parameters
    ----------
    log_wave
        log10 of the observed vacuum wavelengths (Å), increasing, shape (pixel,).
    flux, ivar
        1e-17 erg/s/cm²/Å and its inverse variance, shape (n, pixel); 0 or not finite is missing.
    redshift
        Where the lines are looked for, shape (n,).
    sigma_instrument
        Gaussian dispersion of the spectrograph, km/s, shape (pixel,).
    """
    n, n_lines = len(flux), len(LINE_WAVE)
    box = np.gradient(log_wave) * LIGHT_KM_S * log(10) / sqrt(12)
    width2 = np.asarray(sigma_instrument, dtype=np.float64) ** 2 + box**2
    templates = basis(5.0 * round(float(np.mean(sigma_instrument)) / 5.0))
    found = [np.zeros((n, n_lines)) for _ in range(3)]
    covered = np.zeros((n, n_lines), dtype=bool)
    scalars = np.zeros((n, _N_SCALARS))
    z = np.where(np.isfinite(redshift) & (redshift > -0.5), redshift, 0.0)
    _fit_rows(
        np.ascontiguousarray(log_wave, dtype=np.float64), flux, ivar, z, width2, templates,
        _table(), _windows(), _free(), (*found, covered, scalars),
    )  # fmt: skip
    place = np.interp(scalars[:, _DISPERSION], np.arange(3), DISPERSIONS[[2, 4, 6]])
    return LineFits(
        flux=found[0],
        flux_err=found[1],
        level=found[2],
        covered=covered,
        sigma=scalars[:, _SIGMA],
        velocity=scalars[:, _VELOCITY],
        gain=scalars[:, _GAIN],
        sigma_stars=place,
        broad_flux=scalars[:, [_HA, _HB]],
        broad_err=scalars[:, [_HA_ERR, _HB_ERR]],
        broad_fwhm=scalars[:, _FWHM],
    )


@njit(cache=True, fastmath=False, nogil=True)
def _clean(flux, ivar, rest, weight):  # type: ignore[no-untyped-def]
    """Copy a spectrum to float64, with 0 and 0 where it is missing; how many pixels are not."""
    n = 0
    for j in range(flux.shape[0]):
        good = ivar[j] > 0.0 and np.isfinite(flux[j]) and np.isfinite(ivar[j])
        rest[j] = flux[j] if good else 0.0
        weight[j] = ivar[j] if good else 0.0
        n += good
    return n


@njit(cache=True, fastmath=True, nogil=True)
def _continuum(templates, quiet, data, log_rest, bins, x, model):  # type: ignore[no-untyped-def]
    """Fill the continuum; returns its dispersion as a real index of the templates'."""
    flux, ivar = data
    weight, value = bins
    n = flux.shape[0]
    bin_spectrum(flux, ivar, log_rest, weight, value)
    fit_basis(templates, quiet, weight, value, x)
    n_disp = templates.fine.shape[0]
    chi2 = np.zeros(n_disp)
    low = np.searchsorted(log_rest, _WIDE_FROM)
    high = np.searchsorted(log_rest, _WIDE_TO)
    for d in range(n_disp):
        model_spectrum(templates.fine[d], x, log_rest, low, high, model)
        for j in range(low, high):
            b = min(max(int((log_rest[j] - BIN_START) / BIN_STEP), 0), N_BINS - 1)
            chi2[d] += ivar[j] * (flux[j] - model[j]) ** 2 * templates.quieter[b]
    best = np.argmin(chi2)
    model_spectrum(templates.fine[best], x, log_rest, 0, n, model)
    if 0 < best < n_disp - 1:
        curve = chi2[best - 1] - 2.0 * chi2[best] + chi2[best + 1]
        if curve > 0.0:
            return best + 0.5 * (chi2[best - 1] - chi2[best + 1]) / curve
    return float(best)


@njit(cache=True, fastmath=True, nogil=True)
def _broad(rest, ivar, free, log_rest, stretch, scratch, scalars):  # type: ignore[no-untyped-def]
    """Measure broad lines and take them out of `rest`."""
    profile, parts = scratch
    flux = np.zeros(4)
    error = np.zeros(4)
    low, high = window(log_rest, np.log10(6564.61))
    # Hα shows the profile best; where it is not in the spectrum, Hβ does.
    line = 0 if ivar[low:high].sum() > 0.0 and high - low > 300 else 1
    if not find_profile(rest, ivar, free, log_rest, line, profile, parts):
        return
    measure_broad(rest, ivar, free, log_rest, stretch, profile, parts, flux, error)
    scalars[_HA], scalars[_HA_ERR] = flux[0], error[0]
    scalars[_HB], scalars[_HB_ERR] = flux[1], error[1]
    scalars[_FWHM] = full_width(parts)


@njit(cache=True, fastmath=True, nogil=True)
def _cover(log_rest, ivar, table, windows, covered, fit):  # type: ignore[no-untyped-def]
    """Say which lines are in the spectrum, and in which pixels each group is fitted."""
    n = log_rest.shape[0]
    for m in range(table.log_wave.shape[0]):
        at = np.searchsorted(log_rest, table.log_wave[m])
        good = 0
        for j in range(max(at - 8, 0), min(at + 8, n)):
            good += ivar[j] > 0.0
        covered[m] = good >= 10
    for g in range(table.group.shape[0]):
        whole = True
        for c in range(table.group[g, 0], table.group[g, 1]):
            whole = whole and covered[table.line[c, 0]]
        low = np.searchsorted(log_rest, windows[g, 0] + _INSET)
        high = np.searchsorted(log_rest, windows[g, 1] - _INSET)
        fit[g, 0] = low
        fit[g, 1] = min(high, low + _MOST_PIXELS) if whole else low


@njit(cache=True, nogil=True)
def _level(model, log_rest, log_wave):  # type: ignore[no-untyped-def]
    """Mean continuum beside a line: at its centre the model has the stars' absorption."""
    last = log_rest.shape[0] - 1
    at = min(np.searchsorted(log_rest, log_wave), last - 1)
    step = log_rest[at + 1] - log_rest[at]
    near, far = int(_BESIDE[0] / step), int(_BESIDE[1] / step)
    total = 0.0
    for j in range(near, far + 1):
        total += model[max(at - j, 0)] + model[min(at + j, last)]
    return total / (2 * (far - near + 1))


@njit(cache=True, nogil=True)
def _fit_rows(log_wave, flux, ivar, redshift, width2, templates, table, windows, free, out):  # type: ignore[no-untyped-def]
    line_flux, line_error, level, covered, scalars = out
    n_pixels = log_wave.shape[0]
    n_groups = table.group.shape[0]
    raw, weight, rest = np.zeros(n_pixels), np.zeros(n_pixels), np.zeros(n_pixels)
    model = np.zeros(n_pixels)
    bins = (np.zeros(N_BINS), np.zeros(N_BINS))
    x = np.zeros(N_BASIS)
    open_pixel = np.zeros(n_pixels, dtype=np.bool_)
    scratch = (np.zeros(n_pixels), np.zeros(N_PARTS))
    work = Work(np.zeros((3, _MOST_PIXELS)), np.zeros((3, 3)), np.zeros(3), np.zeros((3, 7)),
                np.zeros(3, dtype=np.bool_), np.zeros(3), np.zeros(3))  # fmt: skip
    fit = np.zeros((n_groups, 2), dtype=np.int64)
    zero, zero_error = np.zeros(n_groups), np.zeros(n_groups)
    for i in range(flux.shape[0]):
        if _clean(flux[i], ivar[i], raw, weight) < 100:
            continue
        log_rest = log_wave - np.log10(1.0 + redshift[i])
        own = scalars[i]
        for j in range(n_pixels):
            k = min(max(int((log_rest[j] - LOG_START) / LOG_STEP), 0), N_REST - 1)
            open_pixel[j] = free[k]
        data = (raw, weight)
        own[_DISPERSION] = _continuum(templates, templates.quiet, data, log_rest, bins, x, model)
        rest[:] = raw - model
        if looks_broad(rest, weight, open_pixel, log_rest, model):
            quieter = templates.quieter
            own[_DISPERSION] = _continuum(templates, quieter, data, log_rest, bins, x, model)
            rest[:] = raw - model
            _broad(rest, weight, open_pixel, log_rest, 1.0 + redshift[i], scratch, own)
        _cover(log_rest, weight, table, windows, covered[i], fit)
        for g in range(n_groups):
            low, high = np.searchsorted(log_rest, windows[g])
            zero[g], zero_error[g] = baseline(rest, weight, open_pixel, low, high)
        spec = Spec(log_rest, rest, weight, width2, 1.0 + redshift[i], fit, zero, table)
        sigma, velocity, own[_GAIN] = find_motion(spec, _MOVING, work)
        own[_SIGMA], own[_VELOCITY] = sigma, velocity
        fit_groups(spec, (sigma, velocity), zero_error, work, line_flux[i], line_error[i])
        for m in range(table.log_wave.shape[0]):
            if covered[i, m]:
                level[i, m] = _level(model, log_rest, table.log_wave[m])
