"""Faults of single spectra, each marked in the truth: what a release is never quite free of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.exposure_kernels import Raw
from spectra_scale.mock.fibers import knot_wave
from spectra_scale.mock.sky import Singles
from spectra_scale.mock.spectrograph import Spectrograph

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ARTEFACTS = ("none", "sky-residual", "calibration-step", "half-lost", "cosmic-ray")
"""As the truth table names them."""
SKY_RESIDUAL, CALIBRATION_STEP, HALF_LOST, COSMIC_RAY = 1, 2, 3, 4

# Pulls beyond 4 that are neither lines nor sky, with quiet neighbours: 1.2e-3 of the pixels of the
# legacy files; beyond 5 3.5e-4, beyond 8 2.5e-5 (BOSS: 0.9e-3, 3.2e-4 and 4e-5).
_OUTLIERS, _OUTLIER_SCALE = 1.1e-3, 0.9


def add_steps(
    losses: Singles, artefact: Ints, instrument: Spectrograph, rng: np.random.Generator
) -> None:
    """Scale one camera against the other by 10 to 35 % where a calibration failed.

    Parameters
    ----------
    losses
        Relative errors of the flux at the knots, shape (fiber, knot), changed.
    artefact, instrument, rng
        The plate. DESI's arms are scaled as a whole.
    """
    rows = np.flatnonzero(artefact == CALIBRATION_STEP)
    step = rng.uniform(0.10, 0.35, len(rows)) * rng.choice((-1, 1), len(rows))
    blue = knot_wave(instrument) < instrument.wave[min(instrument.split, len(instrument.wave) - 1)]
    if instrument.survey == "desi":
        blue[:] = True
    losses[np.ix_(rows, np.flatnonzero(blue))] += step[:, None].astype(np.float32)


def lose_halves(
    artefact: Ints, instrument: Spectrograph, start: Ints, stop: Ints, rng: np.random.Generator
) -> None:
    """Move one end of a spectrum to the other camera's edge where a camera gave nothing.

    Parameters
    ----------
    artefact, instrument, rng
        The plate. DESI's arms are lost as a whole, see `lost_arms`: nothing is done to one here.
    start, stop
        First and one past the last pixel of each fibre, shape (fiber,), changed.
    """
    if instrument.survey == "desi":
        return
    rows = np.flatnonzero(artefact == HALF_LOST)
    blue = rng.random(len(rows)) < 0.35
    ragged = rng.integers(0, 40, len(rows))
    start[rows[blue]] = np.maximum(start[rows[blue]], instrument.split + ragged[blue])
    stop[rows[~blue]] = np.minimum(stop[rows[~blue]], instrument.split - ragged[~blue])


def lost_arms(artefact: Ints, there: Bools, rng: np.random.Generator) -> Bools:
    """Which arms of DESI give nothing of a spectrum that is half lost: one or two of the three.

    Parameters
    ----------
    artefact, rng
        The healpixel.
    there
        Which arms the coadd has at all, shape (3,): one that it lacks counts as lost, and one
        other always stays.

    Returns
    -------
        Shape (fiber, 3); False for an arm that is not there, and for spectra without this fault.
    """
    out = np.zeros((len(artefact), len(there)), dtype=np.bool_)
    present = np.flatnonzero(there)
    for row in np.flatnonzero(artefact == HALF_LOST):
        out[row, rng.permutation(present)[: int(rng.integers(1, len(present)))]] = True
    return out


def add_cosmic_rays(raw: Raw, artefact: Ints, rng: np.random.Generator) -> None:
    """Leave cosmic rays in the flux: three to ten hits of 10 to 80 sigma, one to four pixels."""
    n_pixels = raw.flux.shape[1]
    for row in np.flatnonzero(artefact == COSMIC_RAY):
        for place in rng.integers(20, n_pixels - 20, int(rng.integers(3, 11))):
            width = int(rng.integers(1, 5))
            near = slice(int(place), int(place) + width)
            height = 10 ** rng.uniform(1.0, 1.9) * rng.dirichlet(np.full(width, 2.0)) * width
            raw.flux[row, near] += (height * raw.sigma[row, near]).astype(np.float32)


def add_outliers(raw: Raw, rng: np.random.Generator) -> None:
    """Add the few bad pixels that every spectrum has although its ivar is above 0."""
    n, n_pixels = raw.flux.shape
    count = int(rng.poisson(_OUTLIERS * n * n_pixels))
    fiber, pixel = rng.integers(0, n, count), rng.integers(0, n_pixels, count)
    sign = np.where(rng.random(count) < 0.58, 1.0, -1.0)
    pull = sign * (4.0 + rng.exponential(_OUTLIER_SCALE, count))
    wrong = pull / np.sqrt(np.maximum(raw.ivar[fiber, pixel], 1e-12))
    raw.flux[fiber, pixel] = raw.model[fiber, pixel] + wrong.astype(np.float32)
