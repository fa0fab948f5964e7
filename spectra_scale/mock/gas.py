"""Narrow lines of an object: where it lies in the BPT diagram, how strong and wide they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectra_scale.mock.kinds import (
    BL_LAC,
    BROAD,
    COMPOSITE,
    EXTREME,
    LINER,
    PASSIVE,
    POST_STARBURST,
    QUASAR,
    RETIRED,
    SEYFERT,
    STAR,
    STAR_FORMING,
)
from spectra_scale.mock.lines import HA, LINE_WAVE, calzetti, kauffmann, kewley, line_ratios
from spectra_scale.mock.population import Floats

#: EW(Hα) (Å) of a population of 10 Myr by itself, dust apart.
_EW_YOUNG = 740.0
# By kind: median EW(Hα) (Å) and scatter (dex) of what does not come from young stars.
_EW_OTHER = {
    SEYFERT: (20.0, 0.30), LINER: (4.4, 0.20), BROAD: (5.5, 0.33), RETIRED: (0.84, 0.12),
    PASSIVE: (0.17, 0.26), BL_LAC: (0.05, 0.1), POST_STARBURST: (0.9, 0.35), QUASAR: (5.0, 0.3),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Gas:
    """Ionised gas of n objects, each array (n,) unless said otherwise.

    Attributes
    ----------
    ew_ha
        EW (Å, rest frame) of narrow Hα against all light as observed.
    ratios
        Fluxes relative to Hα with dust in, shape (n, line).
    dust
        A_V (mag) of the lines.
    sigma
        km/s.
    offset
        Velocity relative to the stars, km/s.
    wing, wing_offset, wing_sigma
        Share of the strong lines in an outflow's component; its velocity and width, km/s.
    nuclear
        Share of Hα that a nucleus or old stars ionise.
    """

    ew_ha: Floats
    ratios: Floats
    dust: Floats
    sigma: Floats
    offset: Floats
    wing: Floats
    wing_offset: Floats
    wing_sigma: Floats
    nuclear: Floats


def balmer_dust(log_mass: Floats, rng: np.random.Generator) -> Floats:
    """A_V (mag) of H II regions: Garn & Best (2010) eq. 2 for A(Hα), over 0.82, with scatter."""
    x = np.clip(log_mass - 10, -1.6, 1.1)
    mean = (0.91 + 0.77 * x + 0.11 * x**2 - 0.09 * x**3) / 0.82
    return np.asarray(np.clip(mean + 0.38 * rng.standard_normal(len(x)), 0.0, 3.5))


def draw_gas(
    kind: np.ndarray, log_mass: Floats, young: Floats, dust: Floats, rng: np.random.Generator
) -> Gas:
    """Draw the lines.

    Parameters
    ----------
    kind, log_mass
        Kind and log stellar mass, shape (n,).
    young
        Share of stars of 10 Myr in the light at Hα, shape (n,): they ionise H II regions.
    dust
        A_V of the lines, shape (n,).
    rng
        What is random.
    """
    n = len(kind)
    normal = rng.standard_normal((8, n))
    ew_stars = _EW_YOUNG * young * 10 ** (0.10 * normal[0]) * (kind != STAR)
    median, scatter = np.zeros((2, n))
    for k, (m, s) in _EW_OTHER.items():
        median[kind == k], scatter[kind == k] = m, s
    ew_other = median * 10 ** (scatter * normal[1])
    # Where both a nucleus and young stars shine, by how much of Hα: composites in the middle.
    mixed = kind == COMPOSITE
    share = np.clip(rng.beta(1.2, 5.0, n), 0.06, 0.85)
    ew_other = np.where(mixed, ew_stars * share / (1 - share), ew_other)
    ew_ha = ew_stars + ew_other
    nuclear = np.divide(ew_other, ew_ha, out=np.ones(n), where=ew_ha > 0)
    x, y, source_x, source_y = _places(kind, log_mass, rng)
    stars = line_ratios(x, y, np.zeros(n), rng)
    other = line_ratios(source_x, source_y, np.ones(n), rng)
    ratios = (1 - nuclear[:, None]) * stars + nuclear[:, None] * other
    curve = calzetti(LINE_WAVE)
    ratios *= 10 ** (-0.4 * dust[:, None] * (curve - curve[HA]))
    active = np.isin(kind, (SEYFERT, BROAD, LINER, COMPOSITE, QUASAR))
    wing = np.where(active, np.clip(0.30 + 0.20 * normal[2], 0, 0.8), 0.0)
    wing = np.where(kind == COMPOSITE, 0.3 * wing, wing)
    sigma = _widths(kind, log_mass, normal[3])
    return Gas(
        ew_ha=ew_ha,
        ratios=ratios,
        dust=dust,
        sigma=sigma,
        # A redshift is that of the lines where they are strong.
        offset=np.where(np.isin(kind, (RETIRED, PASSIVE, POST_STARBURST)), 14.0, 3.0) * normal[4],
        wing=wing,
        wing_offset=-np.abs(90 + 110 * normal[5]) * (active * 1.0),
        wing_sigma=np.clip(sigma * (2.2 + 0.9 * np.abs(normal[6])), 150, 1000),
        nuclear=nuclear,
    )


def _widths(kind: np.ndarray, log_mass: Floats, normal: Floats) -> Floats:
    rotating = np.isin(kind, (STAR_FORMING, COMPOSITE, EXTREME))
    mean = np.where(rotating, 1.91 + 0.22 * (log_mass - 10.3), 2.17 + 0.15 * (log_mass - 10.7))
    return np.asarray(np.clip(10 ** (mean + np.where(rotating, 0.10, 0.14) * normal), 32, 330))


def _places(
    kind: np.ndarray, log_mass: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats, Floats]:
    """Places in the BPT diagram of an object's H II regions, and of what else ionises its gas."""
    n = len(kind)
    normal = rng.standard_normal((5, n))
    # Metallicity saturates in massive galaxies (Tremonti et al. 2004): so does [N II]/Hα.
    lack = np.clip(10.75 - log_mass, 0, None)
    x = -0.36 - 0.20 * lack**1.3 + (0.05 + 0.03 * lack) * normal[0]
    x = x + np.where(kind == COMPOSITE, 0.07, 0.0)
    x = np.where(kind == EXTREME, -1.35 + 0.25 * normal[0], x)
    x = np.clip(x, -1.75, -0.17)
    # The sequence flattens where [O III] is weakest.
    y = np.maximum(0.61 / (np.minimum(x, -0.2) + 0.08) + 1.06, -0.70) + 0.16 * normal[1]
    y = np.minimum(y, kauffmann(x) - 0.02)
    spread = np.where(kind == BROAD, 0.2, 0.13)
    seyfert_x, seyfert_y = -0.03 + spread * normal[2], 0.85 + 0.17 * normal[3]
    # Nuclei seen face-on show more of their narrow-line region's high ionisation.
    seyfert_y = seyfert_y + np.where(kind == BROAD, 0.36, 0.0)
    liner_x = np.where(kind == LINER, 0.08, -0.02) + 0.12 * normal[2]
    liner_y = np.maximum(0.33 + 0.16 * normal[3], kewley(liner_x) + 0.05)
    low = np.isin(kind, (LINER, RETIRED, PASSIVE, POST_STARBURST))
    # Most composites hide a LINER-like source: mixing with a Seyfert would lift [O III] too much.
    low |= (kind == COMPOSITE) & (rng.random(n) < 0.93)
    none = np.isin(kind, (STAR, BL_LAC))
    source_x = np.where(low, liner_x, seyfert_x)
    source_y = np.where(low, liner_y, seyfert_y)
    return x, y, np.where(none, 0.0, source_x), np.where(none, 0.3, source_y)
