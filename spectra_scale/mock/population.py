"""Stellar light: analytic spectra of single-age populations on a rest-frame grid.

A population is a smooth continuum, multiplied by a forest of absorption features (atoms and
molecular bands of cool stars, whose strength grows with age) and by the Balmer series and jump of
hot stars. The list of features is that of atlases of late-type spectra. Their strengths and the
old continuum were fitted by least squares to the SDSS pipeline's galaxy eigenspectra, combined to
match a stack of ten public spectra of quiet galaxies; the younger continua were set by eye against
three more stacks. None of these is needed to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Floats = NDArray[np.float64]

LIGHT_KM_S = 299792.458
# Half a native SDSS pixel, so that linear interpolation between samples loses nothing visible.
LOG_STEP = 0.5e-4
LOG_START = 3.0200
N_REST = 20600
AGES_GYR = (0.01, 0.05, 0.2, 0.5, 1.0, 2.5, 6.0, 12.0)
DISPERSIONS = (70.0, 110.0, 150.0, 190.0, 230.0, 280.0)
# A fibre spectrograph of R about 1800: wdisp is near one native pixel of 69 km/s.
INSTRUMENT_SIGMA = 66.0

# Absorption in cool stars: air wavelength (Å), intrinsic sigma (Å), optical depth at 12 Gyr.
_FEATURES = """
2720 20 0.08, 2746 8 0.45, 2795 12 0.56, 2803 12 0.41, 2852 10 0.82, 2882 5 0.38, 2965 8 0.14,
3000 8 0.18, 3020 8 0.12, 3097 10 0.13, 3140 8 0.1, 3185 8 0.15, 3200 10 0.1, 3240 10 0.25,
3362 8 0.29, 3383 5 0.19, 3414 5 0.14, 3440 7 0.22, 3465 4 0.13, 3490 8 0.13, 3515 4 0.05, 3524
4 0.23, 3566 6 0.22, 3581 7 0.57, 3609 4 0.33, 3619 4 0.18, 3631 4 0.21, 3648 4 0.27, 3683 5
0.23, 3705 4 0.26, 3720 4 0.13, 3735 6 0.39, 3748 4 0.42, 3760 4 0.19, 3768 3 0.22, 3798 4
0.28, 3817 8 0.16, 3834 6 0.6, 3840 25 0.17, 3850 6 0.13, 3859 4 0.2, 3872 8 0.39, 3889 4 0.34,
3905 4 0.17, 3933.7 6 1.03, 3933.7 16 0.12, 3968.5 6 1.02, 3968.5 14 0.05, 3985 5 0.03, 4005 4
0.05, 4032 4 0.08, 4045.8 3 0.13, 4063 5 0.19, 4077.7 3 0.2, 4101.7 4 0.3, 4118 4 0.09, 4132 4
0.1, 4143.8 4 0.09, 4165 18 0.1, 4173 4 0.07, 4187 4 0.05, 4202 5 0.11, 4226.7 4 0.19, 4237 4
0.02, 4250.5 4 0.08, 4260.4 4 0.02, 4271.7 4 0.18, 4290 5 0.1, 4300 7 0.24, 4308 5 0.31, 4325.8
4 0.08, 4340.5 4 0.16, 4352 4 0.07, 4375 4 0.03, 4383.5 4 0.28, 4404.7 4 0.19, 4415 4 0.05,
4427 4 0.05, 4435 4 0.1, 4455 6 0.12, 4465 4 0.13, 4481 4 0.05, 4494 4 0.11, 4528 5 0.18, 4549
6 0.1, 4571 5 0.02, 4585 4 0.08, 4603 4 0.06, 4647 5 0.1, 4668 6 0.09, 4682 4 0.1, 4703 4 0.14,
4714 6 0.03, 4735 7 0.04, 4755 5 0.02, 4783 5 0.03, 4861.3 4 0.22, 4872 4 0.1, 4890.7 4 0.05,
4920 5 0.04, 4983 5 0.09, 5006 4 0.09, 5015 6 0.14, 5041 5 0.11, 5051 4 0.02, 5079 6 0.13, 5107
6 0.11, 5125 5 0.1, 5140 6 0.11, 5156 5 0.05, 5167.3 4 0.16, 5172.7 3 0.25, 5183.6 3 0.26, 5180
28 0.09, 5205 4 0.07, 5208 9 0.04, 5227 4 0.1, 5250 5 0.07, 5270 5 0.22, 5300 5 0.02, 5328 4
0.1, 5340 4 0.04, 5371 4 0.04, 5397 5 0.06, 5406 4 0.09, 5430 4 0.06, 5455 4 0.07, 5476 4 0.1,
5498 5 0.07, 5528 4 0.06, 5572 5 0.03, 5588 5 0.09, 5603 4 0.04, 5615 5 0.05, 5658 5 0.07, 5684
5 0.03, 5709 6 0.07, 5782 5 0.04, 5857 4 0.04, 5890 2.5 0.22, 5895.9 2.5 0.22, 5892 12 0.07,
5930 7 0.04, 5955 10 0.03, 5985 12 0.03, 6020 6 0.06, 6103 5 0.05, 6122 4 0.04, 6137 5 0.06,
6162 4 0.11, 6170 5 0.08, 6192 7 0.07, 6215 10 0.06, 6235 10 0.08, 6255 8 0.1, 6280 7 0.06,
6310 8 0.07, 6338 5 0.05, 6360 6 0.07, 6395 6 0.02, 6421 6 0.02, 6495 5 0.07, 6562.8 4 0.22,
6643 4 0.02, 6678 4 0.05, 6717 4 0.07, 6750 5 0.03, 6775 9 0.02, 6800 9 0.02, 6830 9 0.02, 6870
12 0.03, 7080 8 0.04, 7105 12 0.06, 7135 15 0.07, 7175 15 0.07, 7215 15 0.05, 7260 15 0.02,
7390 10 0.03, 7590 7 0.05, 7612 8 0.04, 7640 10 0.04, 7670 9 0.12, 7710 15 0.07, 7750 15 0.05,
7790 12 0.05, 7840 15 0.04, 7885 15 0.02, 7935 12 0.07, 8190 8 0.03, 8320 12 0.02, 8380 10
0.03, 8440 15 0.04, 8468 5 0.05, 8498 3.5 0.21, 8542.1 5 0.35, 8590 6 0.02, 8662.1 5 0.24, 8688
4 0.09, 8807 4 0.04, 8880 12 0.02, 9020 8 0.05, 9230 20 0.04, 9400 20 0.05
"""

_KNOTS = (
    "1050 1300 1600 2000 2400 2550 2650 2750 2900 3050 3250 3400 3550 3700 3800 3900 3985 4080 "
    "4200 4330 4500 4750 5000 5300 5700 6100 6600 7050 7350 7550 7900 8300 8700 9200 9650 11300"
)
_OLD = (
    "0.06 0.08 0.1 0.11 0.085 0.09 0.165 0.126 0.157 0.164 0.24 0.263 0.299 0.378 0.391 0.45 "
    "0.568 0.634 0.625 0.705 0.876 0.917 0.922 1.006 1.034 1.068 1.021 1.017 1.026 1.083 1.022 "
    "0.997 0.967 0.928 0.88 0.75"
)
# F_λ of line-free light without Balmer jump, 1 at 5500 Å, at the wavelengths of _YOUNG_KNOTS.
_YOUNG_KNOTS = "1050 1500 2000 2600 3300 3700 4000 4500 5000 5500 6500 7500 8500 9500 11300"
_YOUNG = (
    "15 10.5 7.2 5.0 3.35 2.75 2.32 1.78 1.32 1 0.70 0.54 0.45 0.40 0.33",
    "9 6.8 5.4 4.3 3.25 2.85 2.45 1.82 1.34 1 0.68 0.53 0.43 0.38 0.31",
    "3.2 3.6 3.3 3.05 2.75 2.6 2.36 1.80 1.33 1 0.69 0.53 0.43 0.37 0.30",
    "0.35 0.8 1.3 1.6 1.8 1.85 1.78 1.52 1.24 1 0.75 0.61 0.51 0.45 0.37",
    "0.1 0.3 0.55 0.78 1.05 1.18 1.27 1.25 1.12 1 0.83 0.72 0.63 0.57 0.48",
)
# By age: share of the cool-star features, Balmer absorption, and ln of the Balmer jump.
_METALS = (0.05, 0.07, 0.11, 0.20, 0.38, 0.72, 0.92, 1.10)
_BALMER = (0.12, 0.28, 0.50, 0.66, 0.52, 0.18, 0.05, 0.0)
_JUMP = (0.10, 0.28, 0.55, 0.68, 0.50, 0.16, 0.05, 0.0)


def vacuum(air: Floats) -> Floats:
    """Vacuum wavelength (Å) of an air wavelength, Morton (1991) without iteration."""
    return air * (1 + 2.735182e-4 + 131.4182 / air**2 + 2.76249e8 / air**4)


def rest_wave() -> Floats:
    """Rest wavelengths of the grid of all templates, vacuum Å, shape (sample,)."""
    return np.asarray(10 ** (LOG_START + LOG_STEP * np.arange(N_REST)))


def broaden(spectra: Floats, sigma_km_s: float) -> Floats:
    """Convolve with a Gaussian of `sigma_km_s` along the last axis, which is log-uniform.

    By FFT with the ends repeated, so that the edges do not wrap.
    """
    samples = sigma_km_s / (LIGHT_KM_S * np.log(10) * LOG_STEP)
    pad = int(6 * samples) + 1
    padded = np.pad(spectra, [(0, 0)] * (spectra.ndim - 1) + [(pad, pad)], mode="edge")
    frequency = np.fft.rfftfreq(padded.shape[-1])
    kernel = np.exp(-2 * (np.pi * frequency * samples) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(padded) * kernel, padded.shape[-1])
    return np.asarray(smooth[..., pad:-pad])


def balmer_depth(wave: Floats) -> Floats:
    """Optical depth of the Balmer series of an A star, about 1 in the cores, shape of `wave`."""
    depth = np.zeros_like(wave)
    for n in range(3, 24):
        centre = 3646.98 * n**2 / (n**2 - 4.0)
        # Stark wings narrow and cores weaken up the series; Hα is weaker than Hβ.
        width = 8.5 if n < 6 else 8.5 * (6.0 / n) ** 0.9
        core = (0.62, 0.95)[n > 3] * min(1.0, (12.0 / n) ** 1.5)
        depth += core / (1 + ((wave - centre) / width) ** 2) ** 1.15
    return depth


def balmer_edge(wave: Floats) -> Floats:
    """Bound-free opacity of hydrogen in its second level, 1 at 3646 Å and 0 redwards."""
    # Below the last resolved line the series merges: a ramp over 40 Å instead of a step.
    ramp = 1 / (1 + np.exp((wave - 3675.0) / 11.0))
    return np.asarray(ramp * (wave / 3646.98) ** 3)


def cool_depth(wave: Floats) -> Floats:
    """Optical depth of the features of old stars, shape of `wave`."""
    table = np.array([row.split() for row in _FEATURES.split(",")], dtype=np.float64)
    depth = np.zeros_like(wave)
    for centre, sigma, strength in zip(vacuum(table[:, 0]), table[:, 1], table[:, 2], strict=True):
        near = slice(*np.searchsorted(wave, (centre - 6 * sigma, centre + 6 * sigma)))
        depth[near] += strength * np.exp(-0.5 * ((wave[near] - centre) / sigma) ** 2)
    return depth


def _curve(knots: str, values: str, wave: Floats) -> Floats:
    x = np.log(np.array(knots.split(), dtype=np.float64))
    y = np.log(np.array(values.split(), dtype=np.float64))
    curve = np.exp(PchipInterpolator(x, y)(np.log(wave)))
    return np.asarray(curve / np.interp(5500.0, wave, curve))


def _continua(wave: Floats) -> Floats:
    old = _curve(_KNOTS, _OLD, wave)
    young = [_curve(_YOUNG_KNOTS, row, wave) for row in _YOUNG]
    # At 2.5 and 6 Gyr the old shape, with less of the blanketing that it holds in the blue.
    middle = old**0.72 * young[4] ** 0.28
    late = old**0.92 * young[4] ** 0.08
    # Old and metal-rich: redder than the mean old galaxy that the knots describe.
    return np.array([*young, middle, late, old * (wave / 5500.0) ** 0.12])


@dataclass(frozen=True, slots=True, eq=False)
class Populations:
    """Templates of single-age populations.

    Attributes
    ----------
    light
        F_λ, 1 at 5500 Å before broadening, float32, shape (dispersion, sample, age): ages are the
        fastest axis because a galaxy sums over all of them at one wavelength.
    smooth
        The same at the broadest dispersion smoothed by 1500 km/s, shape (sample, age): continuum
        levels for equivalent widths.
    """

    light: NDArray[np.float32]
    smooth: Floats


@lru_cache(maxsize=1)
def populations() -> Populations:
    """Build the templates once in a process (0.2 s)."""
    wave = rest_wave()
    metals, balmer, jump = (np.array(x)[:, None] for x in (_METALS, _BALMER, _JUMP))
    depth = metals * cool_depth(wave) + balmer * balmer_depth(wave) + jump * balmer_edge(wave)
    spectra = _continua(wave) * np.exp(-depth)
    light = [broaden(spectra, float(np.hypot(sigma, INSTRUMENT_SIGMA))) for sigma in DISPERSIONS]
    return Populations(
        light=np.ascontiguousarray(np.swapaxes(np.array(light), 1, 2), dtype=np.float32),
        smooth=np.ascontiguousarray(broaden(spectra, 1500.0).T),
    )
