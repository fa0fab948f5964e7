"""Star-formation histories: what populations a galaxy's light is made of.

A history is a delayed exponential, SFR ∝ t exp(-t/τ), whose last Gyr is modulated by bursts or cut
off. Mass in a bin of age becomes light at 5500 Å by a mass-to-light ratio, and is shared among the
populations of neighbouring metallicity.
"""

from __future__ import annotations

import numpy as np

from spectra_scale.mock.kinds import (
    BROAD,
    COMPOSITE,
    EXTREME,
    LINER,
    PASSIVE,
    POST_STARBURST,
    QUASAR,
    RETIRED,
    SEYFERT,
    STAR_FORMING,
)
from spectra_scale.mock.population import (
    AGES_GYR,
    METALLICITIES,
    N_POPULATIONS,
    Floats,
)

# Bins of look-back time (Gyr) around the ages 0.01, 0.05, 0.2, 0.5, 1, 2.5, 6 and 12 Gyr, and
# M/L at 5500 Å of each, in the Sun's: about those of Bruzual & Charlot (2003), Chabrier, solar.
_EDGES = np.array([0.0, 0.02, 0.1, 0.35, 0.7, 1.6, 4.0, 8.5, 13.0])
_MASS_TO_LIGHT = np.array([0.0165, 0.075, 0.25, 0.58, 1.0, 1.75, 2.2, 2.9])
_BEGIN = 12.8
# By kind: log τ (Gyr) at 2·10¹⁰ solar masses, and its scatter.
_LOG_TAU = {
    STAR_FORMING: (0.69, 0.13), COMPOSITE: (0.54, 0.13), SEYFERT: (0.74, 0.15),
    LINER: (0.32, 0.10), BROAD: (0.50, 0.16), RETIRED: (0.20, 0.10), PASSIVE: (0.13, 0.10),
    EXTREME: (0.80, 0.15), POST_STARBURST: (0.20, 0.10), QUASAR: (0.55, 0.15),
}  # fmt: skip
_QUIET = (RETIRED, PASSIVE, POST_STARBURST)


def delayed_mass(tau: Floats) -> Floats:
    """Share of the mass formed in each bin of age by SFR ∝ t exp(-t/τ), shape (n, bin)."""
    time = np.clip(_BEGIN - _EDGES, 0, None)
    x = time / tau[:, None]
    formed = 1 - (1 + x) * np.exp(-x)
    share = -np.diff(formed, axis=1)
    return np.asarray(share / share.sum(axis=1, keepdims=True))


def light_weights(
    kind: np.ndarray, log_mass: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw a history and a metallicity for each galaxy.

    Parameters
    ----------
    kind
        Index into `kinds.KINDS`, shape (n,).
    log_mass
        log of the stellar mass over the Sun's, shape (n,). Massive galaxies formed early and are
        metal-rich (Gallazzi et al. 2005).
    rng
        What is random.

    Returns
    -------
    tuple
        Shares of the light at 5500 Å before dust, shape (n, population), of sum 1; and log of the
        metallicity over the Sun's, shape (n,).
    """
    n = len(kind)
    table = np.tile((0.4, 0.1), (kind.max(initial=0) + 1, 1))
    for k, row in _LOG_TAU.items():
        if k < len(table):
            table[k] = row
    log_tau = table[kind, 0] + table[kind, 1] * rng.standard_normal(n)
    log_tau -= 0.18 * (log_mass - 10.3)
    mass = delayed_mass(10 ** np.clip(log_tau, -0.3, 1.3))
    mass *= _modulation(kind, rng)
    light = mass / _MASS_TO_LIGHT
    light += _frosting(kind, light.sum(axis=1), rng)
    light /= light.sum(axis=1, keepdims=True)
    metallicity = -0.21 + 0.26 * (log_mass - 10.6) + 0.13 * rng.standard_normal(n)
    metallicity = np.clip(metallicity, -0.5, 0.2)
    return _spread(light, metallicity, rng), metallicity


def _modulation(kind: np.ndarray, rng: np.random.Generator) -> Floats:
    """Factors on the youngest five bins: bursts that fade backwards, and quenching."""
    n = len(kind)
    walk = 0.22 * rng.standard_normal((n, 1)) + 0.13 * rng.standard_normal((n, 8))
    walk *= np.array([1.0, 1.0, 0.9, 0.7, 0.5, 0.25, 0.1, 0.0])
    extreme = kind == EXTREME
    burst = rng.uniform(0.7, 1.9, n)
    walk[extreme, 0] += burst[extreme]
    walk[extreme, 1] += 0.6 * burst[extreme]
    walk[extreme, 2:4] += 0.2
    quiet = np.isin(kind, _QUIET)
    walk[quiet, 0] -= 1.2
    walk[quiet, 1] -= 0.5
    return np.asarray(10**walk)


def _frosting(kind: np.ndarray, light: Floats, rng: np.random.Generator) -> Floats:
    """Light of stars younger than 2 Gyr in quiet galaxies; most of it after a starburst."""
    n = len(kind)
    quiet = np.isin(kind, (RETIRED, PASSIVE, LINER))
    amount = np.where(quiet, 10 ** rng.normal(-1.6, 0.40, n), 0.0)
    # One quiet galaxy in six, the green valley, has formed stars within the last Gyr or two.
    valley = quiet & (rng.random(n) < 0.16)
    amount = np.where(valley, rng.uniform(0.06, 0.5, n), amount)
    after = kind == POST_STARBURST
    amount = np.where(after, 10 ** rng.uniform(-0.25, 0.75, n), amount)
    recent = rng.dirichlet((0.02, 0.25, 0.6, 1.4, 2.2), n)
    recent = np.where(after[:, None], rng.dirichlet((0.01, 0.1, 1.5, 3.0, 2.5), n), recent)
    recent[after, 0] = 0
    out = np.zeros((n, 8))
    out[:, :5] = recent * (np.minimum(amount, 8.0) * light)[:, None]
    return out


def _spread(light: Floats, metallicity: Floats, rng: np.random.Generator) -> Floats:
    """Share the light of each age among the populations of its neighbouring metallicities."""
    ages = np.unique(AGES_GYR)
    weights = np.zeros((len(light), N_POPULATIONS))
    # Stars of one galaxy differ: the light of an age is of the mean metallicity give or take 0.1.
    own = np.clip(metallicity[:, None] + 0.1 * rng.standard_normal((len(light), 8)), -0.5, 0.3)
    for i, age in enumerate(ages):
        at = np.flatnonzero(age == AGES_GYR)
        nodes = METALLICITIES[at]
        order = np.argsort(nodes)
        for j, column in enumerate(at[order]):
            hat = np.zeros(len(at))
            hat[j] = 1.0
            weights[:, column] = light[:, i] * np.interp(own[:, i], nodes[order], hat)
    return weights
