"""Compiled sums over the residuals of reconstructed spectra: each in one pass over its arrays.

A pixel is missing where ivar is 0; what its flux holds, NaN included, never reaches a sum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.compiled import ONE, ZERO, compiled, readonly

__all__ = ["add_residuals", "chi2_sums", "sandwich"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def chi2_sums(recon: Floats, flux: Floats, ivar: Floats) -> tuple[Floats, Floats]:
    """χ² of each spectrum before it is divided, and its number of valid pixels.

    Parameters
    ----------
    recon, flux, ivar
        Reconstruction, flux and inverse variance in one unit, shape (spectrum, pixel).

    Returns
    -------
    total : numpy.ndarray
        Σ (F_rec - F)² v over valid pixels, float32, shape (spectrum,).
    n_valid : numpy.ndarray
        Number of valid pixels, float32, shape (spectrum,).
    """
    total = np.empty(len(flux), np.float32)
    n_valid = np.empty(len(flux), np.float32)
    arrays = (readonly(array, np.float32) for array in (recon, flux, ivar))
    _chi2_sums(*arrays, total, n_valid)
    return total, n_valid


@compiled
def _chi2_sums(recon: Floats, flux: Floats, ivar: Floats, total: Floats, n_valid: Floats) -> None:
    n_pixels = recon.shape[1]
    square = np.empty(n_pixels, np.float32)
    for s in range(recon.shape[0]):
        # Apart from the sums, or it does not vectorise.
        for j in range(n_pixels):
            v = ivar[s, j]
            residual = recon[s, j] - flux[s, j]
            square[j] = residual * residual * v if v > ZERO else ZERO
        # Sums of float32 in vector lanes: a few dozen terms each, so rounding stays below 1e-6.
        added = ZERO
        count = 0
        for j in range(n_pixels):
            added += square[j]
        for j in range(n_pixels):
            count += ivar[s, j] > ZERO
        total[s] = added
        n_valid[s] = np.float32(count)


def add_residuals(
    recon: Floats,
    flux: Floats,
    ivar: Floats,
    group: npt.NDArray[np.int64],
    sums: tuple[Doubles, Doubles, Doubles],
) -> None:
    """Add residuals of spectra to sums by group and pixel.

    Parameters
    ----------
    recon, flux, ivar
        Reconstruction, flux and inverse variance in one unit, shape (spectrum, pixel).
    group
        Group of each spectrum, shape (spectrum,); one below 0 adds nothing.
    sums
        Changed in place, each (group, pixel): Σ (F_rec - F)² v, Σ (F_rec - F) √v, and the number
        of valid pixels.
    """
    arrays = (readonly(array, np.float32) for array in (recon, flux, ivar))
    _add_residuals(*arrays, readonly(group, np.int64), *sums)


@compiled
def _add_residuals(
    recon: Floats,
    flux: Floats,
    ivar: Floats,
    group: npt.NDArray[np.int64],
    square: Doubles,
    pull: Doubles,
    count: Doubles,
) -> None:
    n_pixels = recon.shape[1]
    now = np.empty(n_pixels, np.float32)
    good = np.empty(n_pixels, np.float32)
    for s in range(recon.shape[0]):
        g = group[s]
        if g < 0:
            continue
        # Two loops: LLVM vectorises neither if it must rule out that seven arrays overlap.
        for j in range(n_pixels):
            v = ivar[s, j]
            valid = v > ZERO
            scaled = (recon[s, j] - flux[s, j]) * np.sqrt(v if valid else ZERO)
            now[j] = scaled if valid else ZERO
            good[j] = ONE if valid else ZERO
        for j in range(n_pixels):
            p = np.float64(now[j])
            square[g, j] += p * p
            pull[g, j] += p
            count[g, j] += np.float64(good[j])


def sandwich(jacobian: Floats, ivar: Floats, correlation: Floats | None = None) -> Floats:
    """Covariance of what is linear in the pixels of a spectrum: ``J C Jᵀ`` with C tridiagonal.

    Parameters
    ----------
    jacobian
        Shape (spectrum, row, pixel).
    ivar
        Inverse variance of the pixels, shape (spectrum, pixel); one of 0 contributes nothing.
    correlation
        Of each pixel's noise with the next's, shape (spectrum, pixel - 1); None for none.

    Returns
    -------
    Shape (spectrum, row, row), float32.
    """
    n, k, n_pixels = jacobian.shape
    found = np.empty((n, k, k), np.float32)
    rho = np.zeros((1, n_pixels), np.float32) if correlation is None else correlation
    arrays = (readonly(array, np.float32) for array in (jacobian, ivar, rho))
    _sandwich(*arrays, found)
    return found


@compiled
def _sandwich(rows: Floats, ivar: Floats, rho: Floats, out: Floats) -> None:
    n_spectra, k, n_pixels = rows.shape
    every = rho.shape[0] == n_spectra
    sigma = np.zeros(n_pixels, np.float32)
    weight = np.zeros(n_pixels + 1, np.float32)
    scaled = np.zeros((k, n_pixels + 2), np.float32)  # J √C_jj, between two zeros
    mixed = np.zeros((k, n_pixels), np.float32)  # the same times the matrix of correlations
    for s in range(n_spectra):
        for j in range(n_pixels):
            v = ivar[s, j]
            sigma[j] = ONE / np.sqrt(v) if v > ZERO else ZERO
        weight[1:n_pixels] = rho[s if every else 0, : n_pixels - 1]
        for i in range(k):
            _correlate(rows[s, i], sigma, weight, scaled[i], mixed[i])
        for i in range(k):
            for m in range(i, k):
                added = ZERO
                for j in range(n_pixels):
                    added += scaled[i, j + 1] * mixed[m, j]
                out[s, i, m] = added
                out[s, m, i] = added


@compiled
def _correlate(row: Floats, sigma: Floats, weight: Floats, scaled: Floats, mixed: Floats) -> None:
    """Scale a row of the Jacobian with the noise, and multiply it with the correlations."""
    for j in range(row.shape[0]):
        # Not a product alone: a missing pixel's derivative may be anything.
        scaled[j + 1] = row[j] * sigma[j] if sigma[j] > ZERO else ZERO
    for j in range(row.shape[0]):
        beside = weight[j] * scaled[j] + weight[j + 1] * scaled[j + 2]
        mixed[j] = scaled[j + 1] + beside
