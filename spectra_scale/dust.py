"""Milky Way dust: Fitzpatrick (1999) with R_V = 3.1, by the dust_extinction package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spectra_scale.spectrum.observed import ObservedSpectra

R_V = 3.1


def dereddening(ebv: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factor on the flux that undoes Milky Way dust, in the observed frame (science.md §4).

    Parameters
    ----------
    ebv
        E(B−V) of each spectrum, mag, shape (spectrum,).
    edges
        Edges of the native pixels, observed frame, vacuum Å, shape (pixel + 1,).

    Returns
    -------
    numpy.ndarray
        Shape (spectrum, pixel), at least 1; inverse variances are divided by its square.
    """
    from astropy import units
    from dust_extinction.parameter_averages import F99

    wave = np.sqrt(edges[1:] * edges[:-1])
    curve = np.asarray(F99(Rv=R_V)(wave * units.AA))
    return np.asarray(10 ** (0.4 * R_V * ebv[:, None] * curve[None, :]))


def deredden(observed: ObservedSpectra, ebv: NDArray[np.float64]) -> ObservedSpectra:
    """Spectra without the reddening of the Milky Way; missing pixels stay missing."""
    factor = dereddening(ebv, observed.edges)
    return ObservedSpectra(
        observed.spectrum_key,
        observed.first_pixel,
        (observed.flux * factor).astype(np.float32),
        (observed.ivar / factor**2).astype(np.float32),
        observed.mask_bits,
        observed.linear_step,
    )
