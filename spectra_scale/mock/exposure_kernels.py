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
        As in `Exposure`. On entry `model` is the light that enters the telescope.
    white
        White noise of unit variance, three pixels longer.
    """

    flux: Singles
    ivar: Singles
    sky: Singles
    model: Singles
    sigma: Singles
    white: Singles


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
    for an exponential; true noise is `width` and the fibre's error times its root.
    """
    n_fibers, n_pixels = raw.flux.shape
    for i in range(n_fibers):
        depth, tilt, bend = fibers.depth[i], fibers.tilt[i], fibers.bend[i]
        blue, change = fibers.error_blue[i], fibers.error_red[i] - fibers.error_blue[i]
        shift = fibers.shift[i]
        for knot in range((n_pixels + KNOT - 1) // KNOT):
            first = knot * KNOT
            loss, calibration = errors.losses[i, knot], errors.calibration[i, knot]
            loss_step = (errors.losses[i, knot + 1] - loss) * _STEP
            calibration_step = (errors.calibration[i, knot + 1] - calibration) * _STEP
            for p in range(first, min(first + KNOT, n_pixels)):
                t = np.float32(p - first)
                light = raw.model[i, p] * (ONE + loss + t * loss_step)
                sky = fibers.sky[i] * curves.continuum[p] + fibers.lines[i] * curves.lines[p]
                factor = ONE + _EIGHTH * (depth + tilt * curves.tilt[p] + bend * curves.bend[p])
                factor *= factor
                factor *= factor
                factor *= factor
                source = max(light, ZERO) + curves.sky_weight[p] * sky
                variance = factor * (curves.read[p] + curves.photon[p] * source)
                sigma = np.sqrt(variance) * (blue + change * curves.red[p])
                noise = raw.white[i, p + 3] + curves.lag1[p] * raw.white[i, p + 2]
                noise += curves.lag2[p] * raw.white[i, p + 1] + curves.lag3[p] * raw.white[i, p]
                wrong = calibration + t * calibration_step
                wrong += fibers.telluric[i] * curves.telluric[p]
                raw.flux[i, p] = light * (ONE + wrong) + sigma * curves.width[p] * noise
                raw.ivar[i, p] = (ONE + errors.pixel[shift + p]) / variance
                raw.sky[i, p] = sky
                raw.model[i, p] = light
                raw.sigma[i, p] = sigma


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
