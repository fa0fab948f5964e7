"""Redshifts as a pipeline finds them: nearly right, flagged, or wrong without a flag."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.kinds import BROAD, QUASAR, STAR
from spectra_scale.mock.objects import Objects
from spectra_scale.mock.population import Floats
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.task import Survey

Ints = NDArray[np.int64]
SMALL_DELTA_CHI2, MANY_OUTLIERS, NEGATIVE_EMISSION = 4, 16, 64
# Share of the warnings that are false alarms.
_FALSE_ALARMS = 0.35
# Lines that a pipeline takes for one another: what it sees, and what it thinks it sees (Å).
_CONFUSED = np.array([(6564.6, 5008.2), (5008.2, 6564.6), (3728.5, 5008.2), (6564.6, 3728.5)])
# A star template is tried within 600 km/s, a galaxy's from here on.
_STAR_Z, _LEAST_Z = 0.0019, 0.005


@dataclass(frozen=True, slots=True, eq=False)
class Redshifts:
    """Redshifts of n spectra, each array (n,).

    Attributes
    ----------
    z, z_err
        As the pipeline gives them.
    zwarning
        SDSS bits: 2 SMALL_DELTA_CHI2 on wrong ones; on right ones 4 MANY_OUTLIERS in spectra of
        the legacy spectrograph, 6 NEGATIVE_EMISSION in others.
    is_wrong
        Whether z is not the object's, flagged or not.
    """

    z: Floats
    z_err: Floats
    zwarning: Ints
    is_wrong: NDArray[np.bool_]


def find_redshifts(
    objects: Objects,
    settings: MockSettings,
    rng: np.random.Generator,
    *,
    survey: Survey = "sdss",
) -> Redshifts:
    """Draw what the pipeline finds for `objects`.

    An eighth of the wrong redshifts have no warning: a line was taken for another. A third of the
    warnings are false alarms: broad lines and, in legacy spectra, high S/N set them off.
    """
    n = len(objects)
    error = 0.7e-5 * 10 ** (0.2 * (objects.magnitude - 17.5)) * rng.uniform(0.7, 1.6, n)
    # Broad lines give a redshift that is off by some 60 km/s.
    broad = np.isin(objects.kind, (BROAD, QUASAR))
    offset = np.where(broad, 2.0e-4 * rng.standard_normal(n), 0.0)
    z = objects.redshift + (error * rng.standard_normal(n) + offset) * (1 + objects.redshift)
    is_star = (objects.kind == STAR) & ~objects.as_galaxy
    flagged = rng.random(n) < (1 - _FALSE_ALARMS) * settings.bad_redshift_fraction
    wrong = np.where(is_star, rng.uniform(-_STAR_Z, _STAR_Z, n), rng.uniform(0.01, 0.8, n))
    z = np.where(flagged, wrong, z)
    # A star template has no lines to take for others.
    silent = (rng.random(n) < 0.1 * settings.bad_redshift_fraction) & ~flagged & ~is_star
    seen, thought = _CONFUSED[rng.integers(0, len(_CONFUSED), n)].T
    z = np.where(silent, _confused(objects.redshift, seen / thought), z)
    z = np.where(objects.as_galaxy, rng.uniform(0.06, 0.34, n), z)
    is_wrong = (flagged | silent | objects.as_galaxy).astype(np.bool_)
    alarm = rng.random(n) < _alarm_chance(objects, survey, is_wrong, settings)
    zwarning = np.where(alarm, MANY_OUTLIERS if survey == "sdss" else NEGATIVE_EMISSION, 0)
    zwarning = np.where(flagged & ~objects.as_galaxy, SMALL_DELTA_CHI2, zwarning)
    return Redshifts(z, error, zwarning.astype(np.int64), is_wrong)


def _confused(redshift: Floats, ratio: Floats) -> Floats:
    """Redshift when a line is taken for another; the other way round if it were negative."""
    z = (1 + redshift) * ratio - 1
    return np.asarray(np.where(z > _LEAST_Z, z, (1 + redshift) / ratio - 1))


def _alarm_chance(
    objects: Objects, survey: Survey, is_wrong: NDArray[np.bool_], settings: MockSettings
) -> Floats:
    """Chance of a warning on a right redshift (n,), greatest where a template cannot fit.

    MANY_OUTLIERS is of spectra with broad lines or a high S/N (formats.md A1): a magnitude is a
    factor of 16 here. NEGATIVE_EMISSION is only looked for in quasars' lines.
    """
    weight = 3.0 * np.isin(objects.kind, (BROAD, QUASAR))
    if survey == "sdss":
        weight = weight + 10 ** (1.2 * (16.8 - objects.magnitude))
    weight = np.where(is_wrong, 0.0, weight)
    mean = max(float(weight.mean()), 1e-9) if len(objects) else 1.0
    chance = _FALSE_ALARMS * settings.bad_redshift_fraction * weight / mean
    return np.asarray(np.minimum(chance, 0.9))
