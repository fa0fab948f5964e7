"""Fits of single weak lines: a Gaussian of known place and width over the level beside it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.population import Floats

Ints = NDArray[np.int64]
Singles = NDArray[np.float32]

# Pixels to either side that are looked at, and where a line's continuum begins, in widths.
_HALF, _BESIDE = 30, 3.5


def fit_alone(
    pixels: tuple[Singles, Singles],
    row: Ints,
    centre: Floats,
    sigma: Floats,
    neighbour: tuple[Floats, Floats],
) -> tuple[Floats, Floats, Floats]:
    """Fit m lines, which may be negative, one by one.

    Parameters
    ----------
    pixels
        Flux and inverse variance (0 where missing), shape (spectrum, pixel).
    row, centre, sigma
        Spectrum, real index of the pixel and width in pixels of each line, shape (m,).
    neighbour
        A line beside each that is taken off first: its distance in pixels, and its peak, 0 for
        none; shape (m,).

    Returns
    -------
        Area in flux times pixels, its error, 0 where nothing was fitted, and the level beside the
        line; shape (m,) each.
    """
    flux, ivar = pixels
    half = np.arange(-_HALF, _HALF + 1)
    at = np.rint(centre).astype(np.int64)[:, None] + half
    inside = (at >= 0) & (at < flux.shape[1])
    where = row[:, None], np.clip(at, 0, flux.shape[1] - 1)
    weight = np.where(inside, ivar[where], 0).astype(np.float64)
    value = np.where(weight > 0, flux[where], 0).astype(np.float64)
    away = at - centre[:, None]
    width = np.minimum(sigma, _HALF / (_BESIDE + 1))[:, None]
    gap, peak = neighbour
    value -= peak[:, None] * np.exp(-0.5 * ((away - gap[:, None]) / width) ** 2)
    beside = weight * (np.abs(away) > np.maximum(_BESIDE * width, 5.0))
    level = _over((beside * value).sum(axis=1), beside.sum(axis=1))
    profile = np.exp(-0.5 * (away / width) ** 2) / (np.sqrt(2 * np.pi) * width)
    norm = (weight * profile**2).sum(axis=1)
    area = _over((weight * profile * (value - level[:, None])).sum(axis=1), norm)
    # The error of the level moves the area by the line's effective width.
    lever = _over((weight * profile).sum(axis=1), norm)
    variance = _over(np.ones_like(norm), norm) + lever**2 * _over(
        np.ones_like(norm), beside.sum(axis=1)
    )
    found = (norm > 0) & (beside.sum(axis=1) > 0)
    return np.where(found, area, 0), np.where(found, np.sqrt(variance), 0), level


def _over(value: Floats, by: Floats) -> Floats:
    return np.divide(value, by, out=np.zeros_like(value), where=by > 0)
