"""Active nuclei: continuum, Fe II, and the profiles of their broad lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectra_scale.mock.agn import BROAD_LINES, BROAD_SCATTER
from spectra_scale.mock.kinds import BL_LAC, BROAD, QUASAR, SEYFERT
from spectra_scale.mock.population import Floats

# Share of broad-line objects whose host outshines the nucleus: a third to a half of SDSS's spectra
# with BROADLINE in SUBCLASS at z < 0.36 have CLASS GALAXY.
_FAINT = 0.35


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """Nuclei of n objects, each array (n,) unless said otherwise.

    Attributes
    ----------
    share
        Of the nucleus in the unobscured light at 5100 Å.
    slope
        α of its power law F_λ ∝ λ^α.
    dust
        A_V (mag).
    balmer_continuum
        At its edge, relative to the power law at 5100 Å.
    iron
        Fe II relative to the power law: mean over 4434-4684 Å, and over 5150-5350 Å, shape (n, 2).
    broad_ew
        Equivalent width (Å) of broad Hβ against the unobscured nuclear continuum.
    fwhm
        FWHM (km/s) of the core of the broad lines.
    ratios
        Broad fluxes relative to Hβ, without dust, shape (n, broad line).
    parts
        Shares of core, wing and bump in a broad line, of sum 1, shape (n, 3).
    offsets, widths
        Velocity (km/s) of the parts, and their Gaussian width over that of the core, (n, 3).
    """

    share: Floats
    slope: Floats
    dust: Floats
    balmer_continuum: Floats
    iron: Floats
    broad_ew: Floats
    fwhm: Floats
    ratios: Floats
    parts: Floats
    offsets: Floats
    widths: Floats


def draw_nuclei(kind: np.ndarray, rng: np.random.Generator) -> Nuclei:
    """Draw a nucleus for each object; most have none.

    Narrow broad lines come with strong Fe II (eigenvector 1, Boroson & Green 1992). Medians and
    scatters are those of fits to 41 public SDSS spectra of broad-line objects at 0.05 < z < 0.36,
    all of them of CLASS QSO; those that their hosts outshine have narrower lines (Greene & Ho
    2007), and no public spectrum at hand to compare with.
    """
    n = len(kind)
    normal = rng.standard_normal((8, n))
    is_lac = kind == BL_LAC
    has_broad = np.isin(kind, (BROAD, QUASAR))
    # Every second one is outshone by its host: the pipeline calls these galaxies (`measure`).
    faint = has_broad & (kind != QUASAR) & (rng.random(n) < _FAINT)
    host = np.where(kind == QUASAR, 0.02, rng.beta(1.5, 2.0, n))
    host = np.where(faint, rng.uniform(0.6, 0.92, n), host)
    share = np.select([has_broad, is_lac], [1 - host, rng.uniform(0.6, 0.97, n)], 0.0)
    share = np.where(kind == SEYFERT, 0.20 * rng.random(n), share)
    # Half of the nuclei are clear; the others have an exponential tail of obscuration to A_V 3.
    dust = np.minimum(rng.exponential(0.7, n) * (rng.random(n) < 0.55) + 0.03, 3.0)
    typical = np.where(faint, 3600, 5000)
    fwhm = np.clip(typical * 10 ** (0.125 * normal[0]), 1700, 14000)
    iron = np.clip(0.11 * (fwhm / 5000) ** -0.8 * 10 ** (0.24 * normal[1]), 0.003, 0.35)
    red = iron * 10 ** (0.10 * normal[2])
    on = has_broad * 1.0
    return Nuclei(
        share=share,
        slope=np.where(is_lac, -1.3, -1.22) + 0.58 * normal[3],
        dust=np.where(has_broad, dust, 0.0),
        balmer_continuum=on * 0.37 * 10 ** (0.18 * normal[4]),
        iron=on[:, None] * np.stack([iron, red], axis=1),
        broad_ew=on * 110 * 10 ** (0.15 * normal[5]),
        fwhm=on * fwhm,
        ratios=_ratios(n, rng),
        **_profiles(fwhm, rng),
    )


def _ratios(n: int, rng: np.random.Generator) -> Floats:
    own = 10 ** (BROAD_SCATTER * rng.standard_normal((n, len(BROAD_LINES))))
    return np.asarray(np.array(BROAD_LINES)[:, 1] * own)


def _profiles(fwhm: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Core, wing and bump of each object: shares, velocities and widths."""
    n = len(fwhm)
    normal = rng.standard_normal((4, n))
    wing = np.clip(0.31 + 0.13 * normal[0], 0.05, 0.75)
    # A bump beside the core makes lines asymmetric; in one nucleus of seventeen it is a peak.
    double = rng.random(n) < 0.06
    bump = np.where(double, rng.uniform(0.2, 0.45, n), 0.27 * rng.random(n))
    side = np.where(rng.random(n) < 0.5, 1.0, -1.0)
    shift = side * rng.uniform(0.35, 0.9, n) * fwhm
    core = np.clip(1 - wing - bump, 0.1, None)
    parts = np.stack([core, wing, bump], axis=1)
    drift = fwhm * (0.01 + 0.055 * normal[1])
    offsets = np.stack([drift, drift + fwhm * (0.08 + 0.11 * normal[2]), drift + shift], axis=1)
    widths = np.stack(
        [np.ones(n), np.clip(2.6 + 0.4 * normal[3], 1.5, 4.0), rng.uniform(0.7, 1.5, n)], axis=1
    )
    return {
        "parts": parts / parts.sum(axis=1, keepdims=True),
        "offsets": offsets,
        "widths": widths,
    }
