"""Light of active nuclei: Balmer continuum, Fe II pseudo-continuum and broad lines.

The power law is analytic and is added where a spectrum is rendered; what is tabulated here shares
the rest-frame grid of `population`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.population import Floats, broaden, rest_wave, vacuum

# FWHM (km/s) at which the templates exist; an object takes the nearest.
TEMPLATE_FWHM = (1200.0, 2000.0, 3300.0, 5500.0, 9000.0)
# Columns of the templates.
BALMER_CONTINUUM, IRON_BLUE, IRON_RED = range(3)

# Optical Fe II multiplets (27, 28, 37, 38, 42, 48, 49, 55, 74): air wavelength (Å), strength.
_FE_OPTICAL = """
4128.7 .35, 4173.5 .59, 4178.9 .68, 4233.2 1.19, 4258.2 .34, 4273.3 .25, 4296.6 .45, 4303.2 .77,
4351.8 1.02, 4369.4 .3, 4385.4 .68, 4416.8 .68, 4472.9 .3, 4489.2 .54, 4491.4 .54, 4508.3 .72,
4515.3 .72, 4520.2 .72, 4522.6 .81, 4541.5 .5, 4549.5 1.1, 4555.9 .9, 4576.3 .5, 4582.8 .5, 4583.8
1.2, 4620.5 .3, 4629.3 1., 4666.8 .4, 4731.5 .3, 4923.9 3.2, 4993.4 .3, 5018.4 4., 5132.7 .25,
5146.1 .25, 5154.4 .3, 5169.0 1.7, 5197.6 1., 5234.6 1., 5254.9 .4, 5264.8 .5, 5276.0 1.1, 5284.1
.7, 5316.6 1.5, 5325.6 .5, 5362.9 .9, 5414.1 .4, 5425.3 .4, 5534.8 .35, 6084 .1, 6149.2 .2, 6238.4
.25, 6247.6 .35, 6416.9 .2, 6432.7 .2, 6456.4 .4, 6516.1 .2, 7462.4 .15, 7711.7 .15
"""
# Ultraviolet Fe II and Fe III blends: centre (Å), sigma (Å), strength relative to 4570 Å.
_FE_ULTRAVIOLET = """
2080 35 .8, 2250 60 .9, 2380 45 1.9, 2490 50 2.2, 2580 40 1.6, 2630 22 1.2, 2750 28 .8, 2840 30
.55, 2910 45 .5, 2960 25 .45, 3190 40 .3, 3280 35 .25, 3420 60 .15
"""

# Broad lines: vacuum wavelength (Å), flux relative to broad Hβ of an unobscured nucleus.
BROAD_LINES = (
    (1215.67, 9.0), (1240.81, 1.6), (1549.48, 5.0), (1640.42, 0.5), (1908.73, 2.6),
    (2800.32, 2.2), (3970.08, 0.14), (4102.89, 0.23), (4341.68, 0.42), (4687.02, 0.15),
    (4862.68, 1.0), (5877.25, 0.18), (6564.61, 3.35), (7067.1, 0.08), (3890.17, 0.18),
)  # fmt: skip
# Scatter (dex) of each from nucleus to nucleus.
BROAD_SCATTER = np.array(
    [0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.15, 0.10, 0.06, 0.25, 0.0, 0.15, 0.06, 0.2, 0.2]
)
# Width of each over that of Hβ: high ionisation comes from deeper in the potential.
BROAD_WIDTH = np.array([1, 1.2, 1.3, 1.3, 1, 0.95, 1.1, 1.1, 1.05, 1.35, 1, 1.05, 0.9, 1, 1.1])


def _table(text: str) -> Floats:
    return np.array([row.split() for row in text.split(",")], dtype=np.float64)


def _iron(wave: Floats, fwhm: float) -> tuple[Floats, Floats]:
    blue, red = np.zeros_like(wave), np.zeros_like(wave)
    for air, strength in _table(_FE_OPTICAL):
        # Unresolved lines, 3 Å of sigma, are given their width by the broadening below.
        line = strength * np.exp(-0.5 * ((wave - vacuum(np.array(air))) / 3.0) ** 2)
        side = blue if air < 5050 else red
        side += line
    blue, red = (broaden(side, fwhm / 2.355) for side in (blue, red))
    blue /= np.mean(blue[(wave > 4434) & (wave < 4684)])
    red /= np.mean(red[(wave > 5150) & (wave < 5350)])
    for centre, sigma, strength in _table(_FE_ULTRAVIOLET):
        blue += strength * np.exp(-0.5 * ((wave - centre) / sigma) ** 2)
    return blue, red


def _balmer_continuum(wave: Floats, fwhm: float) -> Floats:
    """Partially thick Balmer continuum at 15,000 K (Grandi 1982) with its high-order lines."""
    planck = wave**-5 / np.expm1(1.43877e8 / (wave * 15000.0))
    thick = np.where(wave < 3646.98, -np.expm1(-((wave / 3646.98) ** 3)), 0.0)
    continuum = planck * thick
    edge = continuum[np.searchsorted(wave, 3646.0)]
    for n in range(9, 50):
        centre = 3646.98 * n**2 / (n**2 - 4.0)
        # Dietrich et al. (2003): the series joins the edge continuously, so that no jump is left.
        height = 0.95 * edge * min(1.0, (13.0 / n) ** -2.4)
        gap = centre - 3646.98 * (n + 1) ** 2 / ((n + 1) ** 2 - 4.0)
        width = np.maximum(4.0, 0.4 * gap)
        flat = gap / (np.sqrt(2 * np.pi) * width)
        continuum = continuum + height * flat * np.exp(-0.5 * ((wave - centre) / width) ** 2)
    return np.asarray(broaden(continuum, fwhm / 2.355) / edge)


@lru_cache(maxsize=1)
def nuclear_templates() -> NDArray[np.float32]:
    """Balmer continuum, 1 at its edge; Fe II with mean 1 over 4434-4684 Å, and over 5150-5350 Å.

    Returns
    -------
        F_λ, shape (fwhm, sample, 3), float32.
    """
    wave = rest_wave()
    every = [
        np.stack([_balmer_continuum(wave, f), *_iron(wave, f)], axis=-1) for f in TEMPLATE_FWHM
    ]
    return np.ascontiguousarray(np.array(every), dtype=np.float32)
