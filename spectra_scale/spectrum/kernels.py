"""The compiled loops over pixels: exact resampling to the rest frame, and where the others are.

Every kernel reads native float32 spectra, decides which pixels are valid, adds in float64 and
releases the GIL. None starts threads: whoever calls them decides how many blocks run at once.
A pixel is valid where no rejected mask bit is set and flux and ivar are finite with ivar > 0
(science.md §2.1). What an invalid pixel holds never reaches a sum.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.compiled import LARGEST, ONE, ZERO, compiled, readonly
from spectra_scale.spectrum.reference import rest_frame_reference
from spectra_scale.spectrum.stack_kernels import add_to_stacks, masked_median, shift_spectra

__all__ = [
    "add_to_stacks",
    "masked_median",
    "rest_frame_conserve",
    "rest_frame_reference",
    "shift_spectra",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.int64]

# (is log, pixels per unit of u, u of the first edge, four coefficients of the curve)
_Law = tuple[bool, float, float, float, float, float, float]

# A fully covered pixel whose overlaps sum to 1 - 1e-15 still counts as fully covered.
_COVERAGE_SLACK = 1.0 - 1e-9


@compiled
def _weigh_pixels(
    flux: Floats,
    ivar: Floats,
    bits: Bits,
    width: Doubles,
    reject: np.uint32,
    out_w: Doubles,
    out_wf: Doubles,
    out_wv: Doubles,
) -> None:
    """Per native pixel: width, width·flux, width²/ivar; 0 where invalid.

    Two loops, because LLVM does not vectorise one over seven arrays: it would have to check too
    many pairs of them for overlap.
    """
    n = flux.shape[0]
    for i in range(n):
        clear = (bits[i] & reject) == 0
        known = (ivar[i] > ZERO) & (ivar[i] <= LARGEST) & (abs(flux[i]) <= LARGEST)
        out_w[i] = width[i] if clear & known else 0.0
    for i in range(n):
        w = out_w[i]
        good = w > 0.0
        out_wf[i] = w * np.float64(flux[i] if good else ZERO)
        out_wv[i] = w * w / np.float64(ivar[i] if good else ONE)


@compiled
def place_edges(
    u: Doubles, law: _Law, stretch: float, n_native: int, out_pixel: Indices, out_fraction: Doubles
) -> None:
    """Find each stretched grid edge on a native grid that follows a law; vectorises.

    Position in native pixels is exact arithmetic on log λ (or λ); `curve` turns the fraction of a
    pixel in log λ into the fraction in λ.
    """
    is_log, slope, offset, c1, c2, c3, c4 = law
    shift = np.log10(stretch) if is_log else 0.0
    scale = 1.0 if is_log else stretch
    end = np.float64(n_native)
    for j in range(u.shape[0]):
        where = (u[j] * scale + shift - offset) * slope
        # Outside, nothing of the pixel lies left of the edge: pixel n_native is a pad of zeros.
        where = where if where > 0.0 else 0.0
        where = where if where < end else end
        whole = np.floor(where)
        x = where - whole
        out_pixel[j] = np.int64(whole)
        out_fraction[j] = x * (c1 + x * (c2 + x * (c3 + x * c4)))


@compiled
def _walk_edges(
    edges: Doubles, native: Doubles, stretch: float, out_pixel: Indices, out_fraction: Doubles
) -> None:
    """Find each stretched grid edge on any rising native grid."""
    n_native = native.shape[0] - 1
    pixel = 0
    for j in range(edges.shape[0]):
        edge = edges[j] * stretch
        while pixel < n_native and native[pixel + 1] <= edge:
            pixel += 1
        out_pixel[j] = pixel
        out_fraction[j] = 0.0
        if pixel < n_native and edge > native[pixel]:
            out_fraction[j] = (edge - native[pixel]) / (native[pixel + 1] - native[pixel])


@compiled
def _overlap_sums(
    pixel: Indices,
    fraction: Doubles,
    w: Doubles,
    wf: Doubles,
    wv: Doubles,
    total: Doubles,
    value: Doubles,
    spread: Doubles,
    cross: Doubles,
) -> bool:
    """Add up the native pixels under each grid pixel.

    `cross[j]` is the shared term of grid pixels j-1 and j, the product of their overlaps with
    the native pixel that grid edge j cuts, over its ivar. Returns whether some native pixel
    holds a whole grid pixel: then not only neighbours share native pixels.
    """
    nested = False
    for j in range(total.shape[0]):
        left = np.uint64(pixel[j])
        right = np.uint64(pixel[j + 1])
        a = fraction[j]
        b = fraction[j + 1]
        share = 1.0 - a
        cross[j] = a * share * wv[left]
        if left != right:
            t = share * w[left] + b * w[right]
            f = share * wf[left] + b * wf[right]
            v = share * share * wv[left] + b * b * wv[right]
            for i in range(left + np.uint64(1), right):
                t += w[i]
                f += wf[i]
                v += wv[i]
        else:
            share = b - a
            t = share * w[left]
            f = share * wf[left]
            v = share * share * wv[left]
            nested |= share > 0.0
        total[j] = t
        value[j] = f
        spread[j] = v
    return nested


@compiled
def _finish(
    total: Doubles,
    value: Doubles,
    spread: Doubles,
    need: Doubles,
    stretch: float,
    out_flux: Floats,
    out_ivar: Floats,
    per_total: Doubles,
) -> float:
    """Turn sums into flux and ivar; `per_total` is 1/Σw, 0 where missing. Vectorises.

    Returns the sum of the variances.
    """
    added = 0.0
    inverse = 1.0 / (stretch * stretch)
    for j in range(total.shape[0]):
        t = total[j]
        enough = (t > 0.0) & (t >= need[j] * stretch)
        one = 1.0 / (t if enough else 1.0)
        variance = spread[j] * one * one
        f = np.float32(value[j] * one * stretch)
        v = np.float32(inverse / (variance if enough else 1.0))
        # Beyond the range of float32 a pixel is missing too: ivar 0 and flux 0 go together.
        kept = enough & (v > ZERO) & (v <= LARGEST) & (abs(f) <= LARGEST)
        out_flux[j] = f if kept else ZERO
        out_ivar[j] = v if kept else ZERO
        per_total[j] = one if kept else 0.0
        added += variance if kept else 0.0
    return added


@compiled
def _neighbour_sum(cross: Doubles, per_total: Doubles) -> float:
    """Sum the covariances of neighbours; grid pixels share native pixels with no others."""
    added = 0.0
    for j in range(1, per_total.shape[0]):
        added += cross[j] * per_total[j - 1] * per_total[j]
    return added


@compiled
def _nested_sum(pixel: Indices, fraction: Doubles, wv: Doubles, per_total: Doubles) -> float:
    """Sum the covariances of all pairs i < j of grid pixels, however many share a native pixel."""
    added = 0.0
    carried = 0.0  # Σ overlap/Σw of earlier grid pixels with the native pixel left of this one
    for j in range(per_total.shape[0]):
        left = pixel[j]
        inside = left == pixel[j + 1]
        share = (fraction[j + 1] if inside else 1.0) - fraction[j]
        added += carried * share * per_total[j] * wv[left]
        if inside:
            carried += share * per_total[j]
        else:
            carried = fraction[j + 1] * per_total[j]
    return added


@compiled
def _conserve(
    flux: Floats,
    ivar: Floats,
    bits: Bits,
    native: Doubles,
    edges: Doubles,
    u: Doubles,
    law: _Law,
    redshift: Doubles,
    reject: np.uint32,
    need: Doubles,
    outputs: tuple[Floats, Floats, Doubles],
) -> None:
    out_flux, out_ivar, out_variance = outputs
    n_native = flux.shape[1]
    n_grid = out_flux.shape[1]
    width = np.diff(native)
    # One more pixel than there are: the pad that stands for everything beyond the red end.
    w = np.zeros(n_native + 1)
    wf = np.zeros(n_native + 1)
    wv = np.zeros(n_native + 1)
    pixel = np.zeros(n_grid + 1, dtype=np.int64)
    fraction = np.zeros(n_grid + 1)
    total = np.empty(n_grid)
    value = np.empty(n_grid)
    spread = np.empty(n_grid)
    cross = np.empty(n_grid)
    per_total = np.empty(n_grid)
    for s in range(flux.shape[0]):
        stretch = 1.0 + redshift[s]
        if not (stretch > 0.0 and stretch < np.inf):
            out_flux[s] = 0.0
            out_ivar[s] = 0.0
            out_variance[s] = 0.0
            continue
        if law[1] > 0.0:
            place_edges(u, law, stretch, n_native, pixel, fraction)
        else:
            _walk_edges(edges, native, stretch, pixel, fraction)
        a = pixel[0]
        b = min(pixel[-1] + 1, n_native)
        _weigh_pixels(
            flux[s, a:b], ivar[s, a:b], bits[s, a:b], width[a:b], reject, w[a:b], wf[a:b], wv[a:b]
        )
        nested = _overlap_sums(pixel, fraction, w, wf, wv, total, value, spread, cross)
        variances = _finish(
            total, value, spread, need, stretch, out_flux[s], out_ivar[s], per_total
        )
        if nested:
            covariances = _nested_sum(pixel, fraction, wv, per_total)
        else:
            covariances = _neighbour_sum(cross, per_total)
        out_variance[s] = (variances + 2.0 * covariances) * stretch * stretch


def law_of(native: Doubles, edges: Doubles) -> tuple[_Law, Doubles]:
    """Recognise a log-uniform or linear native grid, and give the grid edges in its unit.

    A slope of 0 says that there is no law. Fractions of a pixel from the law must be as good as
    those from the edges, hence the strict test.
    """
    n = len(native) - 1
    for is_log, transform in ((True, np.log10), (False, np.positive)):
        u = transform(native)
        step = float(u[-1] - u[0]) / n
        a = step * float(np.log(10.0))
        line = u[0] + step * np.arange(n + 1)
        # Four terms of the curve suffice (error a⁴/120 of a pixel) for pixels below 1 % in λ.
        if np.abs(u - line).max() < 1e-7 * step and (a < 1e-2 or not is_log):
            curve = (
                [a**k / math.factorial(k) / math.expm1(a) for k in (1, 2, 3, 4)]
                if is_log
                else [1.0, 0.0, 0.0, 0.0]
            )
            c1, c2, c3, c4 = curve
            law = (is_log, 1.0 / step, float(u[0]), c1, c2, c3, c4)
            return law, readonly(transform(edges), np.float64)
    return (False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), edges


def rest_frame_conserve(
    flux: npt.ArrayLike,
    ivar: npt.ArrayLike,
    mask_bits: npt.ArrayLike,
    native_edges: npt.ArrayLike,
    redshift: npt.ArrayLike,
    grid_edges: npt.ArrayLike,
    reject_bits: int,
    min_coverage: float,
) -> tuple[Floats, Floats, Doubles]:
    """Move spectra to the rest frame and rebin them, exactly and conserving flux.

    science.md §2, preset ``conserve``: with w_ij the overlap of native pixel i and grid pixel j
    over valid i, ``F_j = (1+z) Σ w_ij F_i / Σ w_ij`` and
    ``1/v_j = (1+z)² Σ w_ij²/v_i / (Σ w_ij)²``.

    Parameters
    ----------
    flux
        Observed-frame flux density, float32, shape (spectrum, native). Anything where invalid.
    ivar
        Its inverse variance, same shape; 0 marks a missing pixel.
    mask_bits
        Survey mask, uint32, same shape.
    native_edges
        Edges of the native pixels, observed frame, Å, rising, shape (native + 1,). Log-uniform
        and linear grids are fast, any other works.
    redshift
        Shape (spectrum,). A spectrum whose 1+z is not positive and finite comes out missing.
    grid_edges
        Edges of the rest-frame pixels, Å, rising, shape (pixel + 1,).
    reject_bits
        A native pixel with any of these bits set is invalid.
    min_coverage
        A grid pixel is kept where valid native pixels cover at least this fraction of it.

    Returns
    -------
    flux : numpy.ndarray
        Rest-frame flux density, float32, shape (spectrum, pixel); 0 where ivar is 0.
    ivar : numpy.ndarray
        Its inverse variance, float32; 0 where missing.
    variance_of_sum : numpy.ndarray
        Variance of the sum of a spectrum's valid pixels, float64, shape (spectrum,): all
        variances and, for grid pixels that share a native pixel, covariances (science.md §2.5).
    """
    flux = readonly(flux, np.float32)
    native = readonly(native_edges, np.float64)
    edges = readonly(grid_edges, np.float64)
    law, u = law_of(native, edges)
    shape = (flux.shape[0], len(edges) - 1)
    outputs = (np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape[0]))
    _conserve(
        flux,
        readonly(ivar, np.float32),
        readonly(mask_bits, np.uint32),
        native,
        edges,
        u,
        law,
        readonly(redshift, np.float64),
        np.uint32(reject_bits),
        readonly(np.diff(edges) * (min_coverage * _COVERAGE_SLACK), np.float64),
        outputs,
    )
    return outputs
