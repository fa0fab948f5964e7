# ruff: noqa: PLR0913, PLR0917, C901 - a kernel takes the arrays of one block, one by one
"""The preset ``reference``: how the paper's own data set was made (science.md §2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.compiled import LARGEST, ZERO, compiled, readonly

__all__ = ["REFERENCE_SNR_CAP", "rest_frame_reference"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint32]

REFERENCE_SNR_CAP = 50.0
"""Largest S/N of a pixel (science.md §2, ``reference``, step 5)."""


@compiled
def _reference(
    flux: Floats,
    ivar: Floats,
    bits: Bits,
    wavelength: Doubles,
    factor: Doubles,
    edges: Doubles,
    redshift: Doubles,
    reject: np.uint32,
    snr_cap: float,
    outputs: tuple[Floats, Floats, Doubles],
) -> None:
    out_flux, out_ivar, out_variance = outputs
    n_native = flux.shape[1]
    for s in range(flux.shape[0]):
        out_flux[s] = 0.0
        out_ivar[s] = 0.0
        out_variance[s] = 0.0
        stretch = 1.0 + redshift[s]
        if not (stretch > 0.0 and stretch < np.inf and factor[s] > 0.0 and factor[s] < np.inf):
            continue
        i = 0
        while i < n_native and wavelength[i] < edges[0] * stretch:
            i += 1
        for j in range(out_flux.shape[1]):
            count = 0
            total = 0.0
            spread = 0.0
            while i < n_native and wavelength[i] < edges[j + 1] * stretch:
                f = flux[s, i]
                v = ivar[s, i]
                known = (v > ZERO) & (v <= LARGEST) & (abs(f) <= LARGEST)
                if known and (bits[s, i] & reject) == 0:
                    unit = wavelength[i] * factor[s]
                    count += 1
                    total += f * unit
                    spread += unit * unit / v
                i += 1
            if count == 0:
                continue
            mean = total / count
            inverse: float = float(count) * count / spread
            if mean > 0.0 and mean * mean * inverse > snr_cap * snr_cap:
                inverse = (snr_cap / mean) ** 2
            f32 = np.float32(mean)
            v32 = np.float32(inverse)
            if v32 > ZERO and v32 <= LARGEST and abs(f32) <= LARGEST:
                out_flux[s, j] = f32
                out_ivar[s, j] = v32
                out_variance[s] += 1.0 / inverse


def rest_frame_reference(
    flux: npt.ArrayLike,
    ivar: npt.ArrayLike,
    mask_bits: npt.ArrayLike,
    native_wavelength: npt.ArrayLike,
    redshift: npt.ArrayLike,
    grid_edges: npt.ArrayLike,
    reject_bits: int,
    luminosity_factor: npt.ArrayLike,
    snr_cap: float = REFERENCE_SNR_CAP,
) -> tuple[Floats, Floats, Doubles]:
    """Make λF_λ at z = 0.1 on the grid, the way the paper's own data set was made.

    science.md §2, preset ``reference``, steps 1, 2, 3 and 5: each grid pixel is the unweighted
    mean of the valid native pixels whose centre falls in it (first edge included, last not), its
    variance their mean variance over their number; then the S/N of a pixel is capped.

    Parameters
    ----------
    flux
        Observed-frame flux density, float32, shape (spectrum, native). Anything where invalid.
    ivar
        Its inverse variance, same shape; 0 marks a missing pixel.
    mask_bits
        Survey mask, uint32, same shape.
    native_wavelength
        Centres of the native pixels, observed frame, Å, rising, shape (native,).
    redshift
        Shape (spectrum,). A spectrum whose 1+z is not positive and finite comes out missing.
    grid_edges
        Edges of the rest-frame pixels, Å, rising, shape (pixel + 1,).
    reject_bits
        A native pixel with any of these bits set is invalid.
    luminosity_factor
        (d_L(z)/d_L(0.1))², shape (spectrum,). Where not positive and finite, all is missing.
    snr_cap
        Where F√v exceeds this, v becomes (snr_cap/F)²; infinity for no cap.

    Returns
    -------
    flux : numpy.ndarray
        λF_λ in 1e-17 erg s⁻¹ cm⁻² at z = 0.1, float32, shape (spectrum, pixel); 0 where missing.
    ivar : numpy.ndarray
        Its inverse variance, float32; 0 where missing.
    variance_of_sum : numpy.ndarray
        Σ 1/v over a spectrum's valid pixels, float64, shape (spectrum,).
    """
    flux = readonly(flux, np.float32)
    edges = readonly(grid_edges, np.float64)
    shape = (flux.shape[0], len(edges) - 1)
    outputs = (np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape[0]))
    _reference(
        flux,
        readonly(ivar, np.float32),
        readonly(mask_bits, np.uint32),
        readonly(native_wavelength, np.float64),
        readonly(luminosity_factor, np.float64),
        edges,
        readonly(redshift, np.float64),
        np.uint32(reject_bits),
        float(snr_cap),
        outputs,
    )
    return outputs
