"""Objects of a plate: what is drawn for each before any light is made of it.

Quantities hang together as in nature: redshift and magnitude give a luminosity, that and the kind
a stellar mass, and on the mass depend history, metallicity, dust, velocity dispersion and lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from spectra_scale.mock.gas import Gas, balmer_dust, draw_gas
from spectra_scale.mock.histories import light_weights
from spectra_scale.mock.kinds import (
    BROAD,
    COMPOSITE,
    EXTREME,
    KINDS,
    POST_STARBURST,
    QUASAR,
    SELECTED,
    STAR,
    STAR_FORMING,
)
from spectra_scale.mock.nuclei import Nuclei, draw_nuclei
from spectra_scale.mock.population import AGES_GYR, DISPERSIONS, N_STARS, Floats
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.task import MockTask

Ints = NDArray[np.int64]

# By kind, in the order of KINDS.
# Redshift: median and scatter (dex).
_Z_MEDIAN = (0.086, 0.098, 0.105, 0.098, 0.19, 0.112, 0.128, 0.22, 0.10, 0.11, 1e-4, 1.2)
_Z_SCATTER = (0.17, 0.16, 0.19, 0.17, 0.22, 0.18, 0.21, 0.15, 0.22, 0.18, 0.1, 0.17)
# r magnitude in the fibre.
_MAGNITUDE = (18.6, 18.45, 18.3, 18.3, 18.0, 18.4, 18.4, 18.4, 18.9, 18.5, 17.8, 19.0)
# The magnitudes were tuned as received: what the Milky Way takes of r on the average.
_FOREGROUND = 0.07
# log M/L_r over the Sun's.
_LOG_MASS_TO_LIGHT = (0.08, 0.22, 0.25, 0.38, 0.25, 0.42, 0.45, 0.42, -0.75, 0.2, 0.0, 0.25)
# A_V of the stars without H II regions: mean of a gamma distribution (mag).
_DUST = (0.0, 0.0, 0.35, 0.35, 0.35, 0.25, 0.22, 0.1, 0.0, 0.35, 0.05, 0.1)
Z_RANGE = (0.0502, 0.3598)


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Parameters of n objects, each attribute of shape (n,) unless said otherwise.

    Attributes
    ----------
    kind
        Index into `kinds.KINDS`.
    as_galaxy
        Stars that the pipeline takes for galaxies.
    redshift
        True redshift (for a star, its velocity / c).
    magnitude
        r magnitude in the fibre without the Milky Way's dust: sets the flux at 6166 Å.
    log_mass
        log of the stellar mass over the Sun's.
    weights
        Shares of the populations in the light at 5500 Å before dust, shape (n, population).
    metallicity
        log over the Sun's, of the stars.
    dispersion
        Place of `sigma_stars` among the dispersions of the templates, as a real index.
    sigma_stars
        km/s.
    dust_stars, dust_birth
        A_V (mag) of the diffuse dust, and what the birth clouds of stars of 10 Myr and of H II
        regions add to it (Charlot & Fall 2000).
    dust_slope
        δ of a factor (λ/5500 Å)^δ on the attenuation curve (Noll et al. 2009).
    sodium
        EW (Å) of interstellar Na D absorption.
    star
        Place among the stars, from hot to cool, as a real index.
    nucleus, gas
        Their parameters.
    """

    kind: Ints
    as_galaxy: NDArray[np.bool_]
    redshift: Floats
    magnitude: Floats
    log_mass: Floats
    weights: Floats
    metallicity: Floats
    dispersion: Floats
    sigma_stars: Floats
    dust_stars: Floats
    dust_birth: Floats
    dust_slope: Floats
    sodium: Floats
    star: Floats
    nucleus: Nuclei
    gas: Gas

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def log_age(self) -> Floats:
        """Mean log of the age in Gyr, weighted with light, shape (n,)."""
        return np.asarray(self.weights @ np.log10(AGES_GYR))


def draw_objects(task: MockTask, settings: MockSettings) -> Objects:
    """Draw the objects of the plate or pixel that `task` takes its objects from.

    Returns
    -------
        ``task.n_source`` objects; `positions.chosen_objects` says which the task observes.
    """
    rng = task.object_rng()
    n = task.n_source
    kind, as_galaxy = _kinds(rng, n, settings)
    normal = rng.standard_normal((5, n))
    # BOSS and DESI targets are farther and fainter.
    far, faint = (1.0, 0.0) if task.source_survey == "sdss" else (1.35, 0.45)
    redshift = _redshifts(rng, kind, far, settings)
    magnitude = _of(_MAGNITUDE, kind) + faint + np.where(kind == BROAD, 0.9, 0.68) * normal[0]
    magnitude = np.clip(
        magnitude - _FOREGROUND + 2.0 * (redshift - 0.11).clip(-1, 0.3), 15.8, 20.2
    )
    log_mass = _log_mass(kind, redshift, magnitude) + 0.08 * normal[1]
    weights, metallicity = light_weights(kind, log_mass, rng)
    balmer = balmer_dust(log_mass, rng) * np.where(kind == COMPOSITE, 1.35, 1.0)
    forming = np.isin(kind, (STAR_FORMING, EXTREME)) | (kind == COMPOSITE)
    share = np.clip(np.where(kind == COMPOSITE, 0.40, 0.51) + 0.13 * normal[2], 0.05, 0.85)
    diffuse = _of(_DUST, kind) * rng.gamma(2.0, 0.5, n)
    diffuse = np.where(forming, balmer * share, diffuse)
    birth = np.where(forming, balmer * (1 - share), 0.7 * diffuse)
    # Young stars bear on Hα with less than their share at 5500 Å: they are blue.
    young = 0.62 * weights[:, 0]
    gas = draw_gas(kind, log_mass, young * 10 ** (-0.33 * birth), diffuse + birth, rng)
    sigma_stars = _dispersions(kind, log_mass, normal[4])
    return Objects(
        kind=kind,
        as_galaxy=as_galaxy,
        redshift=redshift,
        magnitude=magnitude,
        log_mass=log_mass,
        weights=weights,
        metallicity=metallicity,
        dispersion=np.interp(sigma_stars, DISPERSIONS, np.arange(len(DISPERSIONS))),
        sigma_stars=sigma_stars,
        dust_stars=diffuse,
        dust_birth=birth,
        # Curves are steeper where there is little dust (Salim & Narayanan 2020).
        dust_slope=np.clip(0.05 + 0.2 * (diffuse - 0.5) + 0.12 * normal[3], -0.5, 0.5),
        sodium=np.where(forming, 0.065, 0.02) * diffuse * 10 ** rng.normal(0, 0.25, n),
        star=rng.uniform(0, N_STARS - 1, n),
        nucleus=draw_nuclei(kind, rng),
        gas=gas,
    )


def take(objects: Objects, rows: Ints) -> Objects:
    """Some of the objects, in the order of `rows`."""

    def some(part: Any) -> Any:
        if isinstance(part, np.ndarray):
            return part[rows]
        return type(part)(**{name: some(getattr(part, name)) for name in type(part).__slots__})

    taken: Objects = some(objects)
    return taken


def _of(table: tuple[float, ...], kind: Ints) -> Floats:
    return np.array(table)[kind]


def _kinds(
    rng: np.random.Generator, n: int, settings: MockSettings
) -> tuple[Ints, NDArray[np.bool_]]:
    shares = settings.class_shares()
    kind = rng.choice(len(SELECTED), size=n, p=[shares[name] for name in SELECTED])
    kind[rng.random(n) < settings.star_fraction] = STAR
    # A fifth of what lies out of range are quasars; the other galaxies get their redshift later.
    kind[rng.random(n) < 0.2 * settings.out_of_range_fraction] = QUASAR
    as_galaxy = rng.random(n) < settings.star_as_galaxy_fraction
    kind[as_galaxy] = STAR
    return kind, as_galaxy


def _redshifts(rng: np.random.Generator, kind: Ints, far: float, settings: MockSettings) -> Floats:
    """Redshifts within `Z_RANGE`, medians times `far`; and a few outside, by the settings."""
    n = len(kind)
    median = np.log10(_of(_Z_MEDIAN, kind) * far)
    scatter = _of(_Z_SCATTER, kind)
    low, high = (ndtr((np.log10(edge) - median) / scatter) for edge in Z_RANGE)
    redshift = 10 ** (median + scatter * ndtri(low + (high - low) * rng.random(n)))
    out = rng.random(n) < 0.8 * settings.out_of_range_fraction
    near = 10 ** rng.uniform(np.log10(0.012), np.log10(0.0495), n)
    beyond = rng.uniform(0.362, 0.62, n)
    redshift = np.where(out, np.where(rng.random(n) < 0.6, near, beyond), redshift)
    redshift = np.where(kind == STAR, rng.normal(0, 2.5e-4, n), redshift)
    return np.where(kind == QUASAR, rng.uniform(0.45, 2.1, n), redshift)


def _log_mass(kind: Ints, redshift: Floats, magnitude: Floats) -> Floats:
    """Log stellar mass from the luminosity in r and an M/L by kind.

    Luminosity distance to second order in z for H0 = 70, q0 = -0.55; a fibre of 3″ catches 40 % of
    a galaxy's light.
    """
    z = np.clip(redshift, 1e-3, 1.0)
    modulus = 5 * np.log10(4283e5 * z * (1 + 0.775 * z))
    absolute = magnitude - 1.0 - modulus - z
    mass = 0.4 * (4.65 - absolute) + _of(_LOG_MASS_TO_LIGHT, kind)
    return np.asarray(np.clip(mass, 7.5, 12.0))


def _dispersions(kind: Ints, log_mass: Floats, normal: Floats) -> Floats:
    """Velocity dispersions (km/s): Faber-Jackson, and less in star-forming galaxies."""
    quiet = ~np.isin(kind, (STAR_FORMING, EXTREME, POST_STARBURST))
    mean = np.where(quiet, 2.20 + 0.26 * (log_mass - 10.8), 2.02 + 0.24 * (log_mass - 10.4))
    return np.asarray(np.clip(10 ** (mean + 0.08 * normal), 30, 339))


__all__ = ["KINDS", "Objects", "draw_objects", "take"]
