"""Noise of rebinned spectra: how far neighbouring pixels are correlated, from geometry alone.

Two pixels of the rest-frame grid that an edge of the grid cuts out of one native pixel share its
noise (science.md §2, step 5). A sample stores variances and no covariances; these follow from
where the edges of both grids lie, that is from the redshift, if the native ivar is taken as equal
over the two or three native pixels that make up a grid pixel::

    cov(j, j+1) = o_ij o_ij+1 / v_i / (T_j T_j+1),    1/v_j = Σ_i o_ij² / v_i / T_j²

with o_ij the overlap of native pixel i and grid pixel j and T_j = Σ_i o_ij, so that with one v the
correlation is ``o_ij o_ij+1 / √(Σ o_kj² Σ o_kj+1²)``. It is exact where no native pixel under the
two is missing and their ivar is one; next to a missing native pixel it is not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.compiled import compiled, readonly
from spectra_scale.spectrum.grid import NativeGrid, WavelengthGrid, native_edges
from spectra_scale.spectrum.kernels import law_of, place_edges

__all__ = ["correlated_noise", "edges_of", "neighbour_correlation"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def edges_of(native: NativeGrid) -> Doubles:
    """Edges of a native grid, observed frame, Å, shape (native + 1,)."""
    if native.linear_step:
        index = np.arange(native.n_pixels + 1, dtype=np.float64) + (native.first_pixel - 0.5)
        return index * native.linear_step
    return native_edges(native.first_pixel, native.n_pixels)


def neighbour_correlation(
    redshift: npt.ArrayLike, native: NativeGrid, grid: WavelengthGrid
) -> Floats:
    """Correlation of the noise of each pixel of a rebinned spectrum with the next.

    Parameters
    ----------
    redshift
        Shape (spectrum,). Where 1+z is not positive and finite the correlation is 0.
    native
        Native grid the spectra came from.
    grid
        Grid of the sample, no finer than `native` where both lie: then a pixel shares native
        pixels with its two neighbours and no others.

    Returns
    -------
    Shape (spectrum, pixel - 1), float32, from 0 to 1/2 (a sliver at an end of the native grid may
    exceed it); 0 where one of the two pixels lies outside that grid. Which pixels are missing is
    not looked at: nothing correlates with those.
    """
    edges = edges_of(native)
    law, u = law_of(readonly(edges, np.float64), readonly(grid.edges, np.float64))
    z = readonly(np.atleast_1d(redshift), np.float64)
    found = np.zeros((len(z), grid.n_pixels - 1), np.float32)
    _correlations(readonly(np.diff(edges), np.float64), u, law, z, found)
    return found


@compiled
def _correlations(
    width: Doubles,
    u: Doubles,
    law: tuple[bool, float, float, float, float, float, float],
    redshift: Doubles,
    out: Floats,
) -> None:
    n_grid = u.shape[0] - 1
    n_native = width.shape[0]
    w = np.zeros(n_native + 1)  # the last is the pad that stands for everything beyond the end
    w[:n_native] = width
    pixel = np.zeros(n_grid + 1, dtype=np.int64)
    fraction = np.zeros(n_grid + 1)
    square = np.zeros(n_grid)  # Σ o² of each grid pixel
    # Sums of w² left of each native pixel: the whole pixels within a grid pixel are a difference.
    before = np.zeros(n_native + 2)
    before[1:] = np.cumsum(w * w)
    for s in range(redshift.shape[0]):
        stretch = 1.0 + redshift[s]
        if not (stretch > 0.0 and stretch < np.inf):
            continue
        place_edges(u, law, stretch, n_native, pixel, fraction)
        for j in range(n_grid):
            left, right = pixel[j], pixel[j + 1]
            a, b = fraction[j], fraction[j + 1]
            first = (1.0 - a) * w[left]
            last = b * w[right]
            within = (b - a) * w[left]
            several = first * first + last * last + before[right] - before[left + 1]
            square[j] = several if left != right else within * within
        for j in range(1, n_grid):
            cut = pixel[j]
            # Of the native pixel that the edge cuts, the parts on either side within the two.
            a = fraction[j] - (fraction[j - 1] if pixel[j - 1] == cut else 0.0)
            b = (fraction[j + 1] if pixel[j + 1] == cut else 1.0) - fraction[j]
            shared = a * b * w[cut] * w[cut]
            product = square[j - 1] * square[j]
            out[s, j - 1] = shared / np.sqrt(product if product > 0.0 else 1.0)


def correlated_noise(ivar: Floats, correlation: Floats, rng: np.random.Generator) -> Floats:
    """Gaussian noise with the variances and the neighbour correlations of given spectra.

    Parameters
    ----------
    ivar
        Inverse variance, shape (spectrum, pixel); 0 is missing.
    correlation
        As `neighbour_correlation` gives it, shape (spectrum, pixel - 1).
    rng
        Where the draws come from.

    Returns
    -------
    Shape (spectrum, pixel), float32, in the unit of the flux; 0 at missing pixels, which break
    the chain of correlations.
    """
    white = rng.standard_normal(ivar.shape, np.float32)
    noise = np.zeros_like(white)
    _colour(white, readonly(ivar, np.float32), readonly(correlation, np.float32), noise)
    return noise


@compiled
def _colour(white: Floats, ivar: Floats, correlation: Floats, out: Floats) -> None:
    """Multiply white noise with the Cholesky factor of a tridiagonal matrix, row by row."""
    for s in range(white.shape[0]):
        before = 0.0  # the factor's diagonal at the last pixel; 0 after a missing one
        for j in range(white.shape[1]):
            if ivar[s, j] <= 0.0:
                before = 0.0
                continue
            below = correlation[s, j - 1] / before if j > 0 and before > 0.0 else 0.0
            diagonal = np.sqrt(max(1.0 - below * below, 0.0))
            value = diagonal * white[s, j]
            if below > 0.0:
                value += below * white[s, j - 1]
            out[s, j] = value / np.sqrt(ivar[s, j])
            before = diagonal
