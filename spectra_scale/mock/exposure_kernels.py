"""Compiled loops of an exposure: one pass over the pixels of each fibre."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.fibers import KNOT, Fibers
from spectra_scale.mock.sky import Singles
from spectra_scale.mock.spectrograph import Curves
from spectra_scale.spectrum.compiled import ONE, ZERO, compiled

Bits = NDArray[np.int32]
Ints = NDArray[np.int64]

_EIGHTH = np.float32(0.125)
_STEP = np.float32(1.0 / KNOT)


class Raw(NamedTuple):
    """The arrays of an exposure while it is made, shape (fiber, pixel) each, float32.

    Attributes
    ----------
    flux, ivar, sky, model, sigma
        As in `Exposure`. On entry `model` is the light that enters the telescope, and `flux`
        white noise of unit variance.
    """

    flux: Singles
    ivar: Singles
    sky: Singles
    model: Singles
    sigma: Singles


class Errors(NamedTuple):
    """Errors that are not noise.

    Attributes
    ----------
    losses, calibration
        Relative errors of the flux at the knots, shape (fiber, knot). The pipeline's best fit
        follows the first and not the second.
    pixel
        Pattern of the relative errors of ivar, shape (pixel,), three times a spectrum long.
    """

    losses: Singles
    calibration: Singles
    pixel: Singles


@compiled
def expose_kernel(raw: Raw, curves: Curves, fibers: Fibers, errors: Errors) -> None:
    """Fill flux, ivar, sky, model and sigma.

    Quoted variance ``D (r + b (F + e S))``, with D the fibre's own factor, a power that stands
    for an exponential; true noise is `width` and the fibre's error times its root. Each step is
    a loop over one row with one output, which the compiler can turn into vector instructions.
    """
    n_fibers, n_pixels = raw.flux.shape
    white = np.zeros(n_pixels + 3, dtype=np.float32)
    variance = np.empty(n_pixels, dtype=np.float32)
    for i in range(n_fibers):
        flux, light, sky, sigma = raw.flux[i], raw.model[i], raw.sky[i], raw.sigma[i]
        white[3:] = flux
        _scale(light, errors.losses[i])
        _shine(sky, curves.continuum, curves.noise_lines, (fibers.sky[i], fibers.lines[i]))
        shape = (fibers.depth[i], fibers.tilt[i], fibers.bend[i])
        _quote(variance, light, sky, curves, shape)
        _shine(sky, curves.continuum, curves.lines, (fibers.sky[i], fibers.lines[i]))
        blue, change = fibers.error_blue[i], fibers.error_red[i] - fibers.error_blue[i]
        for p in range(n_pixels):
            error = curves.width[p] * (blue + change * curves.red[p])
            sigma[p] = error * np.sqrt(variance[p])
        telluric = fibers.telluric[i]
        for p in range(n_pixels):
            flux[p] = light[p] * (ONE + telluric * curves.telluric[p])
        _scale(flux, errors.calibration[i])
        _correlate(flux, white, sigma, curves)
        # Shifts are drawn for the first arm, which may be the longest.
        shift = fibers.shift[i] % (2 * n_pixels)
        pattern, ivar = errors.pixel[shift:], raw.ivar[i]
        for p in range(n_pixels):
            ivar[p] = (ONE + curves.rough[p] * pattern[p]) / variance[p]


@compiled
def _scale(light: Singles, error: Singles) -> None:
    """Multiply by one and an error that runs straight from knot to knot."""
    n_pixels = len(light)
    for knot in range((n_pixels + KNOT - 1) // KNOT):
        first = knot * KNOT
        here, step = ONE + error[knot], (error[knot + 1] - error[knot]) * _STEP
        for p in range(first, min(first + KNOT, n_pixels)):
            light[p] *= here + np.float32(p - first) * step


@compiled
def _shine(sky: Singles, continuum: Singles, lines: Singles, level: tuple[float, float]) -> None:
    for p in range(len(sky)):
        sky[p] = level[0] * continuum[p] + level[1] * lines[p]


@compiled
def _quote(
    variance: Singles,
    light: Singles,
    sky: Singles,
    curves: Curves,
    fiber: tuple[float, float, float],
) -> None:
    depth, tilt, bend = fiber
    for p in range(len(variance)):
        source = max(light[p], ZERO) + curves.sky_weight[p] * sky[p]
        factor = ONE + _EIGHTH * (depth + tilt * curves.tilt[p] + bend * curves.bend[p])
        factor *= factor
        factor *= factor
        factor *= factor
        variance[p] = factor * (curves.read[p] + curves.photon[p] * source)


@compiled
def _correlate(flux: Singles, white: Singles, sigma: Singles, curves: Curves) -> None:
    """Add noise: a moving average of white noise, which starts three pixels earlier."""
    for p in range(len(flux)):
        noise = curves.lag0[p] * white[p + 3] + curves.lag1[p] * white[p + 2]
        noise += curves.lag2[p] * white[p + 1] + curves.lag3[p] * white[p]
        flux[p] += sigma[p] * noise


@compiled
def residual_kernel(flux: Singles, shares: Singles, shapes: Singles, ends: Ints) -> None:
    """Add what sky subtraction left.

    Parameters
    ----------
    flux
        Shape (fiber, pixel), changed.
    shares
        Of each shape in each fibre, shape (fiber, shape).
    shapes
        Lines of a band and their derivatives, shape (shape, pixel).
    ends
        First and one past the last pixel of each shape, shape (shape, 2).
    """
    for i in range(flux.shape[0]):
        for k in range(len(shapes)):
            share = shares[i, k]
            for p in range(ends[k, 0], ends[k, 1]):
                flux[i, p] += share * shapes[k, p]


@compiled
def stamp_kernel(mask: Bits, fiber: Ints, start: Ints, length: Ints, bits: int) -> None:
    """Set bits in runs of pixels; what leaves the grid is left out."""
    n_pixels = mask.shape[1]
    for j in range(len(fiber)):
        for p in range(max(start[j], 0), min(start[j] + length[j], n_pixels)):
            mask[fiber[j], p] |= np.int32(bits)


@compiled
def finish_kernel(raw: Raw, and_mask: Bits, or_mask: Bits, start: Ints, stop: Ints) -> None:
    """Empty what lies beyond a fibre's ends, and the sky where nothing was measured.

    What is set in every exposure is set in any: `or_mask` takes the bits of `and_mask`.
    """
    n_fibers, n_pixels = raw.flux.shape
    for i in range(n_fibers):
        for p in range(n_pixels):
            or_mask[i, p] |= and_mask[i, p]
            if p < start[i] or p >= stop[i]:
                raw.flux[i, p] = ZERO
                raw.ivar[i, p] = ZERO
                and_mask[i, p] = 0
                or_mask[i, p] = 0
            if raw.ivar[i, p] == ZERO:
                raw.sky[i, p] = ZERO
