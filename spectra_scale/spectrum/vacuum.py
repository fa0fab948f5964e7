"""Vacuum and air wavelengths, and the rest wavelengths of the lines named on figures.

Everything in the package is vacuum (SDSS, SDSS-V and DESI are). Air appears in one place only: the
windows of the classical spectral indices, published in air, which `indices` converts on import.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# science.md section 9 for the eight measured lines; the others from SDSS's line list (vacuum Å).
# OII3727 is the mean of an unresolved doublet, Gband, Mgb and NaD are centres of blends.
LINES: Mapping[str, float] = MappingProxyType(
    {
        "NeV3427": 3426.85,
        "OII3727": 3728.48,
        "NeIII3870": 3869.86,
        "CaK": 3934.78,
        "CaH": 3969.59,
        "Hdelta": 4102.89,
        "Gband": 4305.61,
        "Hgamma": 4341.68,
        "OIII4364": 4364.44,
        "HeII4687": 4687.02,
        "Hbeta": 4862.68,
        "OIII4960": 4960.30,
        "OIII5008": 5008.24,
        "Mgb": 5176.63,
        "HeI5877": 5877.29,
        "NaD": 5895.60,
        "OI6302": 6302.05,
        "NII6549": 6549.86,
        "Halpha": 6564.61,
        "NII6585": 6585.27,
        "SII6718": 6718.29,
        "SII6733": 6732.67,
    }
)

# A step of the inversion shrinks the error by λ·dn/dλ, about 1e-5 in the optical: from 1 Å to
# below the last digit of float64 in four.
_INVERSION_STEPS = 4


def _refraction(wave_vacuum: Floats) -> Floats:
    inverse_square = 1.0 / wave_vacuum**2
    index: Floats = 1.0 + 2.735182e-4 + 131.4182 * inverse_square + 2.76249e8 * inverse_square**2
    return index


def vacuum_to_air(wave: npt.ArrayLike) -> Floats:
    """Air wavelength of a vacuum wavelength.

    Parameters
    ----------
    wave
        Vacuum wavelength in Å, any shape; meant for 2000 Å and longer. NaN stays NaN.

    Returns
    -------
    Floats
        Air wavelength in Å, same shape.

    References
    ----------
    Morton 1991, ApJS 77, 119, as SDSS quotes it (formats.md A7).

    Examples
    --------
    >>> print(f"{vacuum_to_air(6564.61):.2f}")
    6562.79
    """
    wave_vacuum = np.asarray(wave, dtype=np.float64)
    return np.asarray(wave_vacuum / _refraction(wave_vacuum), dtype=np.float64)


def air_to_vacuum(wave: npt.ArrayLike) -> Floats:
    """Vacuum wavelength of an air wavelength: the inverse of `vacuum_to_air`.

    Parameters
    ----------
    wave
        Air wavelength in Å, any shape; meant for 2000 Å and longer. NaN stays NaN.

    Returns
    -------
    Floats
        Vacuum wavelength in Å, same shape; the round trip holds to 1e-9 Å.

    Examples
    --------
    >>> print(f"{air_to_vacuum(6562.79):.2f}")
    6564.61
    """
    wave_air = np.asarray(wave, dtype=np.float64)
    wave_vacuum = wave_air
    for _ in range(_INVERSION_STEPS):
        wave_vacuum = wave_air * _refraction(wave_vacuum)
    return np.asarray(wave_vacuum, dtype=np.float64)
