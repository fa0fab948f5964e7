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

# Weaker lines of H II regions and Seyfert galaxies: the air wavelengths of Osterbrock & Ferland
# (2006, "Astrophysics of Gaseous Nebulae and Active Galactic Nuclei"), made vacuum by
# `air_to_vacuum`. NI5200 is the mean of a doublet.
WEAK_LINES: Mapping[str, float] = MappingProxyType(
    {
        "OIII3445": 3445.04,
        "FeVII3587": 3587.34,
        "H16": 3704.91,
        "H12": 3751.22,
        "FeVII3760": 3759.99,
        "H11": 3771.70,
        "H10": 3798.98,
        "HeI3821": 3820.69,
        "H9": 3836.47,
        "H8": 3890.15,
        "NeIII3969": 3968.59,
        "Hepsilon": 3971.19,
        "HeI4027": 4027.33,
        "SII4070": 4069.75,
        "SII4078": 4077.50,
        "HeI4145": 4144.93,
        "FeII4245": 4245.17,
        "FeII4289": 4288.60,
        "HeI4389": 4389.16,
        "HeI4473": 4472.74,
        "FeIII4659": 4659.35,
        "ArIV4713": 4712.69,
        "ArIV4742": 4741.50,
        "HeI4923": 4923.31,
        "FeIII4987": 4987.29,
        "HeI5017": 5017.08,
        "FeVI5147": 5147.19,
        "FeVII5160": 5160.33,
        "ArIII5193": 5193.27,
        "NI5200": 5200.53,
        "FeIII5272": 5271.87,
        "FeVII5278": 5277.85,
        "FeXIV5304": 5304.34,
        "CaV5311": 5310.59,
        "HeII5413": 5413.03,
        "ClIII5519": 5519.24,
        "ClIII5539": 5539.42,
        "FeVII5722": 5722.29,
        "NII5756": 5756.24,
        "FeVII6089": 6088.69,
        "SIII6314": 6313.81,
        "OI6366": 6365.54,
        "FeX6376": 6376.28,
        "HeI6680": 6680.00,
        "HeI7067": 7067.14,
        "ArIII7138": 7137.76,
        "FeII7157": 7157.14,
        "HeI7283": 7283.36,
        "OII7322": 7322.01,
        "OII7333": 7332.75,
        "NiII7380": 7379.87,
        "ArIII7753": 7753.24,
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
