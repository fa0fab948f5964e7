"""Redshifts as a pipeline finds them: nearly right, flagged, or wrong without a flag."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.kinds import BROAD, QUASAR
from spectra_scale.mock.objects import Objects
from spectra_scale.mock.population import Floats
from spectra_scale.mock.settings import MockSettings

Ints = NDArray[np.int64]
SMALL_DELTA_CHI2, MANY_OUTLIERS = 4, 16
# Lines that a pipeline takes for one another: what it sees, and what it thinks it sees (Å).
_CONFUSED = np.array([(6564.6, 5008.2), (5008.2, 6564.6), (3728.5, 5008.2), (6564.6, 3728.5)])


@dataclass(frozen=True, slots=True, eq=False)
class Redshifts:
    """Redshifts of n spectra, each array (n,).

    Attributes
    ----------
    z, z_err
        As the pipeline gives them.
    zwarning
        SDSS bits: 2 SMALL_DELTA_CHI2 on wrong ones, 4 MANY_OUTLIERS on some right ones.
    is_wrong
        Whether z is not the object's, flagged or not.
    """

    z: Floats
    z_err: Floats
    zwarning: Ints
    is_wrong: NDArray[np.bool_]


def find_redshifts(
    objects: Objects, settings: MockSettings, rng: np.random.Generator
) -> Redshifts:
    """Draw what the pipeline finds for `objects`.

    A tenth of the wrong redshifts have no warning: a line was taken for another.
    """
    n = len(objects)
    error = 1.2e-5 * 10 ** (0.2 * (objects.magnitude - 17.5)) * rng.uniform(0.7, 1.6, n)
    # Broad lines give a redshift that is off by some hundred km/s.
    broad = np.isin(objects.kind, (BROAD, QUASAR))
    offset = np.where(broad, 3.5e-4 * rng.standard_normal(n), 0.0)
    z = objects.redshift + (error * rng.standard_normal(n) + offset) * (1 + objects.redshift)
    bad = rng.random(n) < settings.bad_redshift_fraction
    zwarning = np.where(bad, rng.choice((SMALL_DELTA_CHI2, MANY_OUTLIERS), n, p=(0.65, 0.35)), 0)
    flagged = zwarning == SMALL_DELTA_CHI2
    z = np.where(flagged, rng.uniform(0.01, 0.8, n), z)
    silent = (rng.random(n) < 0.1 * settings.bad_redshift_fraction) & (zwarning == 0)
    seen, thought = _CONFUSED[rng.integers(0, len(_CONFUSED), n)].T
    z = np.where(silent, (1 + objects.redshift) * seen / thought - 1, z)
    z = np.where(objects.as_galaxy, rng.uniform(0.06, 0.34, n), z)
    zwarning = np.where(objects.as_galaxy, 0, zwarning)
    is_wrong = flagged | silent | objects.as_galaxy
    return Redshifts(z, error, zwarning.astype(np.int64), is_wrong)
