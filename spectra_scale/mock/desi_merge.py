"""Arms of DESI on one grid, as line fits take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.desi_observation import ARMS, DesiObservation
from spectra_scale.mock.population import Floats

Singles = NDArray[np.float32]
Arm = tuple[Floats, Singles, Singles]

START, STEP, N_PIXELS = 3600.0, 0.8, 7781
# Arms of the mock disagree by a few per cent where they meet.
_ARM_SCATTER, _MOST_TIED = 0.05, 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Spectra of n targets on one grid of 0.8 Å.

    Attributes
    ----------
    flux, ivar
        Shape (n, 7781), 0 where missing.
    sigma_km_s
        Dispersion of the spectrograph, shape (7781,).
    """

    flux: Singles
    ivar: Singles
    sigma_km_s: Floats


def merge_arms(seen: DesiObservation) -> Merged:
    """Put B, R and Z of the targets on one grid, weighted by ivar where they overlap.

    B and Z are scaled to what R has in the overlap, as far as noise lets it be known. FastSpecFit
    takes a smooth continuum off each camera by itself; without either, a step of some per cent at
    5780 or 7570 Å passes for a broad line.
    """
    weight = np.zeros((len(seen.row), N_PIXELS), dtype=np.float32)
    total = np.zeros_like(weight)
    sigma = np.zeros(N_PIXELS)
    scale = _scales(seen)
    for name, arm, exposure in zip(ARMS, seen.arms, seen.exposures, strict=True):
        first = round((arm.wave[0] - START) / STEP)
        part = slice(first, first + arm.n_pixels)
        sigma[part] = arm.sigma_km_s
        if seen.has_arm(name):
            ivar = exposure.ivar[seen.row]
            ivar *= scale[name] ** -2
            weight[:, part] += ivar
            ivar *= scale[name]
            ivar *= exposure.flux[seen.row]
            total[:, part] += ivar
    flux = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return Merged(flux, weight, sigma)


def _scales(seen: DesiObservation) -> dict[str, Singles]:
    """What the flux of each arm is to be multiplied with, shape (n_science, 1)."""
    one = np.ones((len(seen.row), 1), dtype=np.float32)
    blue, red, infrared = (
        (arm.wave, exposure.flux, exposure.ivar)
        for arm, exposure in zip(seen.arms, seen.exposures, strict=True)
    )
    scales = {"b": one, "r": one, "z": one}
    if seen.has_arm("r") and seen.has_arm("b"):
        scales["b"] = _ratio(_overlap(red, blue, seen), _overlap(blue, red, seen))
    if seen.has_arm("r") and seen.has_arm("z"):
        scales["z"] = _ratio(_overlap(red, infrared, seen), _overlap(infrared, red, seen))
    return scales


def _overlap(mine: Arm, other: Arm, seen: DesiObservation) -> tuple[Floats, Floats]:
    """Mean flux of an arm where another one has pixels too, and its ivar; shape (n_science,)."""
    wave, flux, ivar = mine
    near = (wave > other[0][0] - 0.1 * STEP) & (wave < other[0][-1] + 0.1 * STEP)
    part = slice(int(np.argmax(near)), int(np.argmax(near)) + int(near.sum()))
    weight = ivar[:, part].astype(np.float64)
    total = weight.sum(axis=1)
    mean = (weight * flux[:, part]).sum(axis=1) / np.where(total > 0, total, 1)
    return mean[seen.row], total[seen.row]


def _ratio(mine: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> Singles:
    known = (mine[0] > 0) & (other[0] > 0) & (mine[1] > 0) & (other[1] > 0)
    a, b = (np.where(known, mean, 1.0) for mean, _ in (mine, other))
    ivars = [np.where(known, ivar, 1.0) for _, ivar in (mine, other)]
    variance = 1 / (ivars[0] * a**2) + 1 / (ivars[1] * b**2)
    # The mean of a Gaussian prior and a measurement.
    best = np.where(known, np.log(a / b) / (1 + variance / _ARM_SCATTER**2), 0.0)
    scale = np.exp(np.clip(best, -_MOST_TIED, _MOST_TIED))
    return np.asarray(scale[:, None], dtype=np.float32)
