"""Compiled sums over the residuals of reconstructed spectra: each in one pass over its arrays.

A pixel is missing where ivar is 0; what its flux holds, NaN included, never reaches a sum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.compiled import ONE, ZERO, compiled, readonly

__all__ = ["add_residuals", "chi2_sums"]

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
