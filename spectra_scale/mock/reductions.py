"""One observation reduced by several versions of a pipeline: nearly, but not quite, the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spectra_scale.mock.exposure import Exposure
from spectra_scale.mock.redshifts import Redshifts
from spectra_scale.mock.settings import SDSSV_RUN2D, MockSettings
from spectra_scale.mock.task import MockTask

# What calibrations of two versions differ by, in level and in slope and bend over the spectrum.
_CALIBRATION = 0.01
# Scatter of redshifts between versions, over the quoted error.
_REDSHIFT = 0.3


def reduce_with(
    exposure: Exposure, found: Redshifts, task: MockTask, settings: MockSettings
) -> Redshifts:
    """Apply what the version of ``settings.sdssv_release`` does in its own way.

    Who was observed, with what noise, masks and faults, is the same in all versions.

    Parameters
    ----------
    exposure
        Spectra as a common pipeline leaves them, changed: flux, model, sky and noise of a fibre
        are scaled by a smooth curve that differs from 1 by about 1 %.
    found
        Redshifts as a common pipeline finds them, shape (n_science,).
    task, settings
        The field, and which release.

    Returns
    -------
        Redshifts that differ by a third of their errors.
    """
    version = list(SDSSV_RUN2D).index(settings.sdssv_release)
    rng = np.random.default_rng((task.seed, task.plate, 11, version))
    n, n_pixels = exposure.flux.shape
    x = np.linspace(-1, 1, n_pixels)
    terms = np.stack([np.ones(n_pixels), x, 1.5 * x**2 - 0.5])
    scale = np.exp(_CALIBRATION * rng.standard_normal((n, 3)) @ terms).astype(np.float32)
    for values in (exposure.flux, exposure.model, exposure.sky, exposure.sigma):
        np.multiply(values, scale, out=values)
    np.divide(exposure.ivar, scale**2, out=exposure.ivar)
    shift = _REDSHIFT * found.z_err * rng.standard_normal(len(found.z))
    return replace(found, z=found.z + shift)
