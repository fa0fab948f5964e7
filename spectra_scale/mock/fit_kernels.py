"""Compiled loops of `fit_lines`: Gaussians of common width and velocity, solved group by group."""

from __future__ import annotations

from math import exp, log, sqrt
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spectra_scale.mock.population import LIGHT_KM_S

_LN10 = log(10.0)
_PER_DEX = LIGHT_KM_S * _LN10
# Widths (km/s) tried for all narrow lines together.
_WIDTHS = np.array([35.0, 60.0, 100.0, 165.0, 280.0])
_FINER = 1.22


class Table(NamedTuple):
    """Which lines are fitted together.

    Attributes
    ----------
    log_wave
        log10 of the rest wavelength (vacuum Å) of every line, shape (line,).
    line, ratio
        The one or two lines of a component, -1 for none, and their fluxes relative to its
        amplitude, shape (component, 2).
    group
        First and one past the last component of a group, shape (group, 2).
    """

    log_wave: NDArray[np.float64]
    line: NDArray[np.int64]
    ratio: NDArray[np.float64]
    group: NDArray[np.int64]


class Spec(NamedTuple):
    """One spectrum without its continuum.

    Attributes
    ----------
    log_rest
        log10 of the rest wavelengths, shape (pixel,).
    rest, ivar
        Residual flux and inverse variance, 0 where missing, shape (pixel,).
    width2
        Squared dispersion (km/s) of instrument and pixel, shape (pixel,).
    stretch
        1 + z: fluxes are per observed Å.
    fit
        Pixels that a group is fitted in, none if it is not in the spectrum, shape (group, 2).
    zero
        Level of the residual beside the lines of a group, shape (group,).
    table
        The lines.
    """

    log_rest: NDArray[np.float64]
    rest: NDArray[np.float64]
    ivar: NDArray[np.float64]
    width2: NDArray[np.float64]
    stretch: float
    fit: NDArray[np.int64]
    zero: NDArray[np.float64]
    table: Table


class Work(NamedTuple):
    """Scratch of one group: profiles of its components, normal equations and their solution."""

    profile: NDArray[np.float64]
    normal: NDArray[np.float64]
    right: NDArray[np.float64]
    small: NDArray[np.float64]
    keep: NDArray[np.bool_]
    amplitude: NDArray[np.float64]
    variance: NDArray[np.float64]


@njit(cache=True, fastmath=True, nogil=True)
def gaussian(x2):  # type: ignore[no-untyped-def]
    """Give exp(-x²/2) of `x2` = x² up to 50, within 1e-3 of its value, in vector instructions.

    The 256th root of it is a short polynomial; the C library's exp would be called pixel by pixel.
    """
    u = x2 * (0.5 / 256.0)
    root = 1.0 - u * (1.0 - u * (0.5 - u * (1.0 / 6.0)))
    for _ in range(8):
        root *= root
    return root


@njit(cache=True, fastmath=True, nogil=True)
def baseline(rest, ivar, free, low, high):  # type: ignore[no-untyped-def]
    """Mean residual in pixels low to high that are `free` of lines, and its error; 0 if none."""
    total = 0.0
    weight = 0.0
    rest, ivar, free = rest[low:high], ivar[low:high], free[low:high]
    for j in range(rest.shape[0]):
        if free[j]:
            total += ivar[j] * rest[j]
            weight += ivar[j]
    if weight <= 0.0:
        return 0.0, 0.0
    return total / weight, 1.0 / sqrt(weight)


@njit(cache=True, fastmath=True, nogil=True)
def _add_profile(spec, line, ratio, motion, low, profile):  # type: ignore[no-untyped-def]
    """Add a Gaussian of flux `ratio` to `profile`, whose first pixel is `low`."""
    log_rest, width2, table = spec.log_rest, spec.width2, spec.table
    sigma, velocity = motion
    centre = table.log_wave[line] + velocity / _PER_DEX
    n = profile.shape[0]
    near = min(max(np.searchsorted(log_rest, centre), 0), log_rest.shape[0] - 1)
    width = sqrt(sigma * sigma + width2[near]) / _PER_DEX
    peak = ratio / (sqrt(2.0 * np.pi) * width * _LN10 * exp(_LN10 * centre) * spec.stretch)
    first = max(np.searchsorted(log_rest, centre - 5.0 * width) - low, 0)
    last = min(np.searchsorted(log_rest, centre + 5.0 * width) - low, n)
    if last <= first:
        return
    # Loops over slices from 0 need no check for negative indices: they run in vector instructions.
    here, wave = profile[first:last], log_rest[low + first : low + last]
    for j in range(here.shape[0]):
        x = (wave[j] - centre) / width
        here[j] += peak * gaussian(x * x)


@njit(cache=True, fastmath=True, nogil=True)
def _solve_group(spec, group, motion, zero, work):  # type: ignore[no-untyped-def]
    """Normal equations of one group of components of common `motion` (width, velocity; km/s)."""
    table = spec.table
    first, last = table.group[group]
    n = last - first
    low, high = spec.fit[group]
    m = high - low
    work.profile[:n, :m] = 0.0
    for c in range(n):
        for k in range(2):
            line = table.line[first + c, k]
            if line >= 0:
                ratio = table.ratio[first + c, k]
                _add_profile(spec, line, ratio, motion, low, work.profile[c, :m])
    ivar, rest = spec.ivar[low:high], spec.rest[low:high]
    for c in range(n):
        mine = work.profile[c, :m]
        total = 0.0
        for j in range(m):
            total += ivar[j] * mine[j] * (rest[j] - zero)
        work.right[c] = total
        for k in range(c + 1):
            other = work.profile[k, :m]
            total = 0.0
            for j in range(m):
                total += ivar[j] * mine[j] * other[j]
            work.normal[c, k] = total
    return n


@njit(cache=True, fastmath=True, nogil=True)
def _eliminate(work, n, keep):  # type: ignore[no-untyped-def]
    """Gauss-Jordan of the kept components, with the inverse; `work.small` is the scratch."""
    small = work.small
    small[:] = 0.0
    for i in range(n):
        small[i, n + 1 + i] = 1.0
        small[i, i] = 1.0
        if keep[i]:
            small[i, n] = work.right[i]
            for k in range(n):
                if keep[k]:
                    small[i, k] = work.normal[max(i, k), min(i, k)]
            small[i, i] *= 1.0 + 1e-9
    for i in range(n):
        pivot = small[i, i]
        if pivot <= 0.0:
            continue
        small[i] /= pivot
        for k in range(n):
            if k != i and small[k, i] != 0.0:
                small[k] -= small[k, i] * small[i]


@njit(cache=True, fastmath=True, nogil=True)
def _invert(work, n):  # type: ignore[no-untyped-def]
    """Solve up to three positive amplitudes; returns what they lower χ² by.

    Components that come out negative are taken out, the worst first (GANDALF's convention); they
    keep the error that they would have alone.
    """
    keep = work.keep
    for c in range(n):
        keep[c] = work.normal[c, c] > 0.0
        work.amplitude[c] = 0.0
        work.variance[c] = 1.0 / work.normal[c, c] if keep[c] else 0.0
    for _ in range(n):
        _eliminate(work, n, keep)
        worst = -1
        for c in range(n):
            negative = keep[c] and work.small[c, n] < 0.0
            if negative and (worst < 0 or work.small[c, n] < work.small[worst, n]):
                worst = c
        if worst < 0:
            break
        keep[worst] = False
    gain = 0.0
    for c in range(n):
        if keep[c]:
            work.amplitude[c] = max(work.small[c, n], 0.0)
            work.variance[c] = work.small[c, n + 1 + c]
            gain += work.amplitude[c] * work.right[c]
    return gain


@njit(cache=True, fastmath=True, nogil=True)
def _gain(spec, groups, motion, work):  # type: ignore[no-untyped-def]
    """What lines of this motion lower χ² by, summed over groups."""
    total = 0.0
    for g in groups:
        if spec.fit[g, 1] > spec.fit[g, 0]:
            n = _solve_group(spec, g, motion, spec.zero[g], work)
            total += _invert(work, n)
    return total


@njit(cache=True, fastmath=True, nogil=True)
def _find_velocity(spec, groups, sigma, work):  # type: ignore[no-untyped-def]
    """Velocity (km/s) by three parabolas, each half as wide as the last."""
    velocity = 0.0
    step = 60.0
    top = _gain(spec, groups, (sigma, velocity), work)
    for _ in range(3):
        up = _gain(spec, groups, (sigma, velocity + step), work)
        down = _gain(spec, groups, (sigma, velocity - step), work)
        curve = up + down - 2.0 * top
        if curve < 0.0:
            move = 0.5 * (down - up) / curve * step
            velocity += min(max(move, -step), step)
            top = _gain(spec, groups, (sigma, velocity), work)
        step *= 0.5
    return velocity


@njit(cache=True, fastmath=True, nogil=True)
def find_motion(spec, groups, work):  # type: ignore[no-untyped-def]
    """Width and velocity (km/s) of the narrow lines from the strongest of them, and the gain."""
    top = _gain(spec, groups, (95.0, 0.0), work)
    if top < 25.0:
        return 100.0, 0.0, top
    velocity = _find_velocity(spec, groups, 95.0, work)
    sigma = 100.0
    top = 0.0
    for width in _WIDTHS:
        gain = _gain(spec, groups, (width, velocity), work)
        if gain > top:
            sigma, top = width, gain
    for step in (_FINER, sqrt(_FINER)):
        wider = _gain(spec, groups, (sigma * step, velocity), work)
        narrower = _gain(spec, groups, (sigma / step, velocity), work)
        curve = wider + narrower - 2.0 * top
        if curve < 0.0:
            move = 0.5 * (narrower - wider) / curve
            sigma *= exp(min(max(move, -1.5), 1.5) * log(step))
            top = _gain(spec, groups, (sigma, velocity), work)
    return sigma, velocity, top


@njit(cache=True, fastmath=True, nogil=True)
def fit_groups(spec, motion, zero_error, work, flux, error):  # type: ignore[no-untyped-def]
    """Fill flux and its error (line,) for all groups that are in the spectrum."""
    table = spec.table
    for g in range(table.group.shape[0]):
        low, high = spec.fit[g]
        if high <= low:
            continue
        n = _solve_group(spec, g, motion, spec.zero[g], work)
        _invert(work, n)
        for c in range(n):
            # An error of the level below moves the flux by the line's effective width.
            area = 0.0
            for j in range(high - low):
                area += spec.ivar[low + j] * work.profile[c, j]
            lever = area / work.normal[c, c] if work.normal[c, c] > 0.0 else 0.0
            sigma = sqrt(work.variance[c] + (lever * zero_error[g]) ** 2)
            for k in range(2):
                line = table.line[table.group[g, 0] + c, k]
                if line >= 0 and sigma > 0.0:
                    ratio = table.ratio[table.group[g, 0] + c, k]
                    flux[line] = ratio * work.amplitude[c]
                    error[line] = ratio * sigma
