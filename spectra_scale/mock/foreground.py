"""Dust of the Milky Way in front of a mock release: by place on the sky, in the observed frame."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spectra_scale.mock.fit_kernels import gaussian
from spectra_scale.mock.population import Floats

Singles = NDArray[np.float32]

R_V = 3.1
# Of ln E(B-V): mean and spread at high galactic latitude (Schlafly & Finkbeiner 2011).
_MEAN, _SPREAD = np.log(0.026), 0.45
# Waves that make up the clouds: cycles in RA and Dec over a degree, and phases.
_WAVES = np.array([
    (0.021, 0.013, 0.3), (-0.034, 0.027, 1.9), (0.071, -0.055, 4.0), (0.113, 0.149, 2.2),
    (-0.31, 0.23, 5.1), (0.47, 0.61, 0.8),
])  # fmt: skip


def colour_excess(ra: Floats, dec: Floats) -> Floats:
    """E(B-V) (mag) at `ra` and `dec` (deg), each of shape (n,): the same sky for every release."""
    phase = (
        2 * np.pi * (np.multiply.outer(ra, _WAVES[:, 0]) + np.multiply.outer(dec, _WAVES[:, 1]))
    )
    clouds = np.sin(phase + _WAVES[:, 2]).sum(axis=-1) / np.sqrt(len(_WAVES) / 2)
    return np.asarray(np.exp(_MEAN + _SPREAD * clouds))


@lru_cache(maxsize=1)
def _curve() -> tuple[Floats, Floats]:
    from astropy import units
    from dust_extinction.parameter_averages import F99

    # The package takes a millisecond a call: a table in steps of two native pixels serves all.
    log_wave = np.arange(3.001, 4.518, 2e-4)
    return log_wave, R_V * np.asarray(F99(Rv=R_V)(10**log_wave * units.AA), dtype=np.float64)


def extinction(wave: Floats) -> Floats:
    """A(λ)/E(B-V) of Fitzpatrick (1999) with R_V 3.1, at observed wavelengths (Å)."""
    return np.asarray(np.interp(np.log10(wave), *_curve()))


def transmission(wave: Floats, excess: Floats) -> Floats:
    """Share of the light that passes.

    Parameters
    ----------
    wave
        Observed wavelengths (Å), shape (n, m) or (m,).
    excess
        E(B-V), mag, shape (n,).

    Returns
    -------
        Shape (n, m).
    """
    return np.asarray(10 ** (-0.4 * excess[:, None] * extinction(wave)))


@njit(cache=True, fastmath=True, nogil=True)
def _dim(model: Singles, depth: Floats, curve: Floats) -> None:
    for i in range(model.shape[0]):
        row, own = model[i], 2.0 * depth[i]
        for j in range(row.shape[0]):
            row[j] *= gaussian(own * curve[j])


def dim(model: Singles, log_wave: Floats, excess: Floats) -> None:
    """Let spectra pass through the dust, in place.

    Parameters
    ----------
    model
        F_λ, shape (n, pixel).
    log_wave
        log10 of the observed wavelengths (Å), shape (pixel,).
    excess
        E(B-V), mag, at most 10, shape (n,).
    """
    _dim(model, 0.4 * np.log(10) * excess, extinction(10**log_wave))
