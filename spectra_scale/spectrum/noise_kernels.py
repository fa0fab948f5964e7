"""Compiled loops of error propagation: from the noise of pixels to that of what is made of them.

A pixel is missing where ivar is 0: it has no noise, and what a Jacobian holds there reaches
nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.compiled import ONE, ZERO, compiled, readonly

__all__ = ["fill_sums", "follow_fill", "median_response", "sandwich"]

Floats = npt.NDArray[np.float32]

# Half width of the parabola that smooths the response of a median, in standard deviations of the
# pixel: with it the variance of a median comes out right where the true fluxes are spread out over
# much more than the noise, Σ Φ(1-Φ)/(Σφ)², and within a tenth where they are all the same.
_HALF_WIDTH = np.float32(1.0636)


def median_response(flux: Floats, ivar: Floats) -> Floats:
    """How the median of a spectrum follows small changes of its pixels.

    The derivative of a sample median is 1 at one pixel, or 1/2 at two, and another pixel's at the
    next realisation of the noise. What matters for errors is its mean over realisations: the
    density of each pixel's flux at the median, over the sum of all. It is estimated with a
    parabola of the pixel's own noise around its flux. Where the noise is less than the distance
    between neighbouring fluxes this is the plain derivative.

    Parameters
    ----------
    flux, ivar
        Spectra divided by their median, shape (spectrum, pixel); ivar 0 is missing.

    Returns
    -------
    Shape (spectrum, pixel), float32: the change of the median by that of each pixel; 0 at missing
    pixels, of sum 1 over the others. 0 throughout for a spectrum without valid pixels.
    """
    found = np.zeros(flux.shape, np.float32)
    _median_response(readonly(flux, np.float32), readonly(ivar, np.float32), found)
    return found


@compiled
def _median_response(flux: Floats, ivar: Floats, out: Floats) -> None:
    for s in range(flux.shape[0]):
        total = ZERO
        for j in range(flux.shape[1]):
            v = ivar[s, j]
            root = np.sqrt(v if v > ZERO else ZERO) / _HALF_WIDTH
            u = (flux[s, j] - ONE) * root
            near = ONE - u * u
            out[s, j] = near * root if (v > ZERO) & (near > ZERO) else ZERO
        for j in range(flux.shape[1]):
            total += out[s, j]
        if total > ZERO:
            for j in range(flux.shape[1]):
                out[s, j] /= total
        else:
            _nearest(flux[s], ivar[s], out[s])


@compiled
def _nearest(flux: Floats, ivar: Floats, out: Floats) -> None:
    """The two pixels beside the median, where the noise is less than the gap between them."""
    low = high = -1
    for j in range(flux.shape[0]):
        if ivar[j] > ZERO:
            if flux[j] <= ONE and (low < 0 or flux[j] > flux[low]):
                low = j
            if flux[j] > ONE and (high < 0 or flux[j] < flux[high]):
                high = j
    for j in (low, high):
        if j >= 0:
            out[j] = ONE / np.float32((low >= 0) + (high >= 0))


def sandwich(
    jacobian: Floats,
    ivar: Floats,
    correlation: Floats | None = None,
    scaling: tuple[Floats, Floats] | None = None,
) -> Floats:
    """Covariance of what is linear in the pixels of a spectrum: ``J C Jᵀ`` with C tridiagonal.

    Parameters
    ----------
    jacobian
        Derivative by the normalised flux, shape (spectrum, row, pixel).
    ivar
        Inverse variance of the pixels, shape (spectrum, pixel); one of 0 contributes nothing.
    correlation
        Of each pixel's noise with the next's, shape (spectrum, pixel - 1); None for none.
    scaling
        Normalised flux x and the response g of what it was divided by, each (spectrum, pixel);
        J is then ``J - (J x) gᵀ``. None where the divisor has no noise.

    Returns
    -------
    Shape (spectrum, row, row), float32.
    """
    n, k, n_pixels = jacobian.shape
    found = np.empty((n, k, k), np.float32)
    # A row of zeros stands for what is not given.
    zeros = np.zeros((1, n_pixels), np.float32)
    x, response = (zeros, zeros) if scaling is None else scaling
    given = (jacobian, ivar, zeros if correlation is None else correlation, x, response)
    _sandwich(*(readonly(array, np.float32) for array in given), found)
    return found


@compiled
def _sandwich(
    rows: Floats, ivar: Floats, rho: Floats, flux: Floats, response: Floats, out: Floats
) -> None:
    n_spectra, k, n_pixels = rows.shape
    sigma = np.zeros(n_pixels, np.float32)
    weight = np.zeros(n_pixels + 1, np.float32)
    scaled = np.zeros((k, n_pixels + 2), np.float32)  # J √C_jj, between two zeros
    mixed = np.zeros((k, n_pixels), np.float32)  # the same times the matrix of correlations
    for s in range(n_spectra):
        for j in range(n_pixels):
            v = ivar[s, j]
            sigma[j] = ONE / np.sqrt(v) if v > ZERO else ZERO
        weight[1:n_pixels] = rho[s % rho.shape[0], : n_pixels - 1]
        x, g = flux[s % flux.shape[0]], response[s % response.shape[0]]
        for i in range(k):
            _correlate(rows[s, i], sigma, weight, (x, g), (scaled[i], mixed[i]))
        for i in range(k):
            for m in range(i, k):
                added = ZERO
                for j in range(n_pixels):
                    added += scaled[i, j + 1] * mixed[m, j]
                out[s, i, m] = added
                out[s, m, i] = added


@compiled
def _correlate(
    row: Floats,
    sigma: Floats,
    weight: Floats,
    scaling: tuple[Floats, Floats],
    outputs: tuple[Floats, Floats],
) -> None:
    """Scale a row of the Jacobian with the noise, and multiply it with the correlations."""
    x, g = scaling
    scaled, mixed = outputs
    n_pixels = row.shape[0]
    for j in range(n_pixels):
        # Not a product alone: a missing pixel's derivative may be anything.
        scaled[j + 1] = row[j] if sigma[j] > ZERO else ZERO
    along = ZERO
    for j in range(n_pixels):
        along += scaled[j + 1] * x[j]
    for j in range(n_pixels):
        scaled[j + 1] = (scaled[j + 1] - along * g[j]) * sigma[j]
    for j in range(n_pixels):
        mixed[j] = scaled[j + 1] + (weight[j] * scaled[j] + weight[j + 1] * scaled[j + 2])


def fill_sums(jacobian: Floats, ivar: Floats, basis: Floats) -> Floats:
    """Derivative by the coefficients of a linear fill of missing pixels: ``J_m A_m``.

    Parameters
    ----------
    jacobian
        Derivative by what the network is fed, shape (spectrum, row, pixel).
    ivar
        Shape (spectrum, pixel); 0 is missing, hence filled.
    basis
        Components of the fill, shape (component, pixel).

    Returns
    -------
    Shape (spectrum, row, component), float32.
    """
    found = np.zeros((*jacobian.shape[:2], len(basis)), np.float32)
    by_pixel = np.ascontiguousarray(basis.T)
    arrays = (readonly(array, np.float32) for array in (jacobian, ivar, by_pixel))
    _fill_sums(*arrays, found)
    return found


@compiled
def _fill_sums(rows: Floats, ivar: Floats, basis: Floats, out: Floats) -> None:
    for s in range(rows.shape[0]):
        for j in range(rows.shape[2]):
            if ivar[s, j] > ZERO:
                continue
            for i in range(rows.shape[1]):
                for c in range(basis.shape[1]):
                    out[s, i, c] += rows[s, i, j] * basis[j, c]


def follow_fill(jacobian: Floats, ivar: Floats, basis: Floats, share: Floats) -> None:
    """Add to derivatives by valid pixels what passes through the filled ones, in place.

    Parameters
    ----------
    jacobian
        Shape (spectrum, row, pixel); changed. What it holds at missing pixels stays.
    ivar
        Weights of the fill's least squares, shape (spectrum, pixel).
    basis
        Components of the fill, shape (component, pixel).
    share
        Derivative by the right-hand side of the fill's normal equations, shape (spectrum, row,
        component).
    """
    arrays = (readonly(array, np.float32) for array in (ivar, basis, share))
    _follow_fill(jacobian, *arrays)


@compiled
def _follow_fill(rows: Floats, ivar: Floats, basis: Floats, share: Floats) -> None:
    through = np.empty(rows.shape[2], np.float32)
    for s in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            through[:] = ZERO
            for c in range(basis.shape[0]):
                part = share[s, i, c]
                for j in range(rows.shape[2]):
                    through[j] += part * basis[c, j]
            for j in range(rows.shape[2]):
                rows[s, i, j] += through[j] * ivar[s, j]
