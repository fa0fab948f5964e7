"""Objects of a plate: what is drawn for each before any light is made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from spectra_scale.mock.lines import HA, LINE_WAVE, calzetti, kauffmann, kewley, line_ratios
from spectra_scale.mock.population import AGES_GYR, DISPERSIONS, Floats
from spectra_scale.mock.settings import MockSettings, MockTask

Ints = NDArray[np.int64]

# What an object truly is. The label of the line table is measured, and differs for some.
KINDS = (
    "star-forming", "composite", "seyfert", "liner", "broad-line", "retired", "passive",
    "bl-lac", "star", "distant-quasar",
)  # fmt: skip
STAR_FORMING, COMPOSITE, SEYFERT, LINER, BROAD, RETIRED, PASSIVE, BL_LAC, STAR, QUASAR = range(10)
# Shares of the kinds among objects that pass the selection; tuned so that the *measured* labels
# come out at the paper's fractions (science.md section 5).
_SHARES = (0.322, 0.137, 0.016, 0.009, 0.0330, 0.268, 0.213, 0.0015)

# By kind: median, scatter (dex) and range of redshift; r fibre magnitude; velocity dispersions.
_Z_MEDIAN = (0.086, 0.098, 0.105, 0.098, 0.19, 0.112, 0.128, 0.22, 1e-4, 1.2)
_Z_SCATTER = (0.17, 0.16, 0.19, 0.17, 0.22, 0.18, 0.21, 0.15, 0.1, 0.17)
_MAGNITUDE = (18.6, 18.45, 18.3, 18.3, 18.55, 18.4, 18.4, 18.4, 17.8, 19.0)
_SIGMA_STARS = (85.0, 115.0, 140.0, 165.0, 150.0, 175.0, 195.0, 190.0, 60.0, 150.0)
# EW(Hα) of the narrow lines: median (Å) and scatter (dex).
_EW_MEDIAN = (24.0, 10.5, 14.0, 4.0, 8.0, 0.86, 0.17, 0.05, 0.01, 5.0)
_EW_SCATTER = (0.30, 0.24, 0.30, 0.20, 0.30, 0.12, 0.26, 0.1, 0.1, 0.3)
# Light at 5100 Å: of a young burst and of 0.2-1 Gyr, medians, of the galaxy.
_YOUNG = (0.20, 0.09, 0.06, 0.03, 0.07, 0.008, 0.003, 0.0, 0.0, 0.05)
_MIDDLE = (0.30, 0.22, 0.16, 0.09, 0.15, 0.07, 0.035, 0.01, 0.0, 0.15)
_DUST = (0.55, 0.70, 0.55, 0.40, 0.40, 0.22, 0.13, 0.05, 0.0, 0.2)
_HARD = (0.0, 0.35, 1.0, 0.85, 1.0, 0.8, 0.8, 1.0, 0.0, 1.0)
Z_RANGE = (0.0502, 0.3598)


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Parameters of n objects, each attribute of shape (n,) unless said otherwise.

    Attributes
    ----------
    kind
        Index into `KINDS`.
    redshift
        True redshift (for a star, its velocity / c).
    magnitude
        r magnitude in the fibre: sets the flux at 6166 Å.
    ages
        Light weights of the stellar populations, shape (n, age), of sum 1.
    dispersion, sigma_stars
        Index of the template dispersion; the dispersion itself in km/s.
    dust_stars, dust_gas, dust_nucleus
        A_V in magnitudes.
    nucleus
        Share of the nucleus in the unobscured light at 5100 Å.
    slope
        α of its power law F_λ ∝ λ^α.
    balmer_continuum, iron
        Balmer continuum at its edge, and Fe II mean over 4434-4684 Å, relative to the power law.
    broad_ew
        Equivalent width (Å) of broad Hβ against the unobscured nuclear continuum.
    fwhm
        FWHM (km/s) of the broad lines.
    ew_ha, ratios
        EW (Å, rest frame) of narrow Hα against all light as observed, and the fluxes of all lines
        relative to Hα with dust in, shape (n, line).
    sigma_gas
        km/s.
    """

    kind: Ints
    redshift: Floats
    magnitude: Floats
    ages: Floats
    dispersion: Ints
    sigma_stars: Floats
    dust_stars: Floats
    dust_gas: Floats
    dust_nucleus: Floats
    nucleus: Floats
    slope: Floats
    balmer_continuum: Floats
    iron: Floats
    broad_ew: Floats
    fwhm: Floats
    ew_ha: Floats
    ratios: Floats
    sigma_gas: Floats

    def __len__(self) -> int:
        return len(self.kind)


def draw_objects(task: MockTask, settings: MockSettings) -> Objects:
    """Draw the objects that `task` observes; a repeat gets the very objects of its source.

    Returns
    -------
        ``task.n_science`` objects.
    """
    rng = task.object_rng()
    n = task.n_source
    kind = _kinds(rng, n, settings)
    nucleus = _nucleus(rng, kind)
    normal = rng.standard_normal((7, n))
    dust = np.clip(_of(_DUST, kind) * 10 ** (0.22 * normal[0]), 0, 2.2)
    sigma_stars = np.clip(_of(_SIGMA_STARS, kind) * 10 ** (0.10 * normal[1]), 40, 320)
    # BOSS targets are farther and fainter.
    far, faint = (1.35, 0.45) if task.source_survey == "boss" else (1.0, 0.0)
    redshift = _redshifts(rng, kind, far, settings)
    ew_ha, ratios, dust_gas = _gas(rng, kind, dust)
    magnitude = _of(_MAGNITUDE, kind) + faint + 0.68 * normal[2]
    magnitude += 2.0 * (redshift - 0.11).clip(-1, 0.3)
    objects = Objects(
        kind=kind,
        redshift=redshift,
        magnitude=np.clip(magnitude, 15.8, 20.2),
        ages=_ages(rng, kind),
        dispersion=np.abs(sigma_stars[:, None] - np.array(DISPERSIONS)).argmin(axis=1),
        sigma_stars=sigma_stars,
        dust_stars=dust,
        dust_gas=dust_gas,
        ew_ha=ew_ha,
        ratios=ratios,
        sigma_gas=np.clip(sigma_stars * (0.75 + 0.12 * normal[3]), 45, 320),
        **nucleus,
    )
    return _first(objects, task.n_science)


def _first(objects: Objects, n: int) -> Objects:
    return Objects(**{name: getattr(objects, name)[:n] for name in Objects.__slots__})


def _of(table: tuple[float, ...], kind: Ints) -> Floats:
    return np.array(table)[kind]


def _kinds(rng: np.random.Generator, n: int, settings: MockSettings) -> Ints:
    shares = np.array(_SHARES) / sum(_SHARES)
    kind = rng.choice(len(shares), size=n, p=shares)
    kind[rng.random(n) < settings.star_fraction] = STAR
    # A fifth of what lies out of range are quasars; the other galaxies get their redshift later.
    kind[rng.random(n) < 0.2 * settings.out_of_range_fraction] = QUASAR
    return kind


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


def _ages(rng: np.random.Generator, kind: Ints) -> Floats:
    n = len(kind)
    # One galaxy in five of the quiet kinds formed stars within the last two Gyr.
    recent = (rng.random(n) < 0.26) & np.isin(kind, (RETIRED, PASSIVE, LINER))
    young = _of(_YOUNG, kind) * 10 ** (0.28 * rng.standard_normal(n)) * np.where(recent, 3.0, 1.0)
    middle = (
        _of(_MIDDLE, kind) * 10 ** (0.20 * rng.standard_normal(n)) * np.where(recent, 3.5, 1.0)
    )
    young, middle = np.clip(young, 0, 0.72), np.clip(middle, 0, 0.6)
    total = np.maximum(young + middle, 1e-9)
    young, middle = (part * np.minimum(1, 0.95 / total) for part in (young, middle))
    burst, mid = rng.dirichlet((3.5, 1.6), n), rng.dirichlet((0.8, 1.2, 2.6), n)
    quiet = np.isin(kind, (RETIRED, PASSIVE)) & ~recent
    # 2.5, 6 and 12 Gyr, each of three metallicities.
    times = np.where(quiet[:, None], (0.6, 2.2, 4.2), (2.4, 4.5, 1.2))
    old = rng.standard_gamma(np.repeat(times, 3, axis=1) / 3)
    old /= old.sum(axis=1, keepdims=True)
    parts = (burst * young[:, None], mid * middle[:, None], old * (1 - young - middle)[:, None])
    ages = np.concatenate(parts, axis=1)
    assert ages.shape[1] == len(AGES_GYR)
    return ages


def _gas(rng: np.random.Generator, kind: Ints, dust: Floats) -> tuple[Floats, Floats, Floats]:
    n = len(kind)
    x, y = _bpt(rng, kind)
    ew_ha = _of(_EW_MEDIAN, kind) * 10 ** (_of(_EW_SCATTER, kind) * rng.standard_normal(n))
    # Metal-poor star-forming galaxies are the ones with the strongest lines.
    ew_ha *= np.where(kind == STAR_FORMING, 10 ** (-0.55 * (x + 0.48)), 1.0)
    dust_gas = np.clip(dust * 1.9 * 10 ** (0.1 * rng.standard_normal(n)), 0, 4)
    dust_gas = np.where((kind == STAR_FORMING) & (x < -0.7), dust_gas * 0.5, dust_gas)
    curve = calzetti(LINE_WAVE)
    ratios = line_ratios(x, y, _of(_HARD, kind), rng)
    return ew_ha, ratios * 10 ** (-0.4 * dust_gas[:, None] * (curve - curve[HA])), dust_gas


def _bpt(rng: np.random.Generator, kind: Ints) -> tuple[Floats, Floats]:
    """Positions in the BPT diagram: the star-forming sequence, and what lies above it."""
    n = len(kind)
    normal = rng.standard_normal((2, n))
    # The sequence piles up at solar metallicity, with a tail to metal-poor galaxies.
    x = -0.37 - 0.16 * np.abs(rng.gamma(1.3, 1.0, n)) + 0.04 * normal[0]
    x = np.clip(x, -1.7, -0.30)
    # The sequence flattens where [O III] is weakest.
    y = np.maximum(0.61 / (x + 0.08) + 1.06, -0.68) + 0.11 * normal[1]
    y = np.minimum(y, kauffmann(x) - 0.03)
    between = rng.uniform(0.08, 0.85, n)
    x_mixed = np.clip(-0.22 + 0.10 * normal[0], -0.5, -0.02)
    floor = np.maximum(kauffmann(x_mixed), -0.65)
    y_mixed = floor + between * (kewley(x_mixed) - floor)
    x_seyfert, y_seyfert = -0.03 + 0.12 * normal[0], 0.78 + 0.17 * normal[1]
    x_liner, y_liner = 0.10 + 0.11 * normal[0], 0.32 + 0.16 * normal[1]
    y_liner = np.maximum(y_liner, kewley(x_liner) + 0.07)
    is_mixed, is_seyfert = kind == COMPOSITE, np.isin(kind, (SEYFERT, BROAD, BL_LAC, QUASAR))
    is_liner = np.isin(kind, (LINER, RETIRED, PASSIVE))
    x = np.select([is_mixed, is_seyfert, is_liner], [x_mixed, x_seyfert, x_liner], x)
    y = np.select([is_mixed, is_seyfert, is_liner], [y_mixed, y_seyfert, y_liner], y)
    return x, y


def _nucleus(rng: np.random.Generator, kind: Ints) -> dict[str, Floats]:
    n = len(kind)
    normal = rng.standard_normal((5, n))
    is_broad, is_quasar, is_lac = kind == BROAD, kind == QUASAR, kind == BL_LAC
    host = np.where(is_quasar, 0.02, rng.beta(1.7, 2.0, n))
    jet = rng.uniform(0.75, 0.97, n)
    nucleus = np.select([is_broad | is_quasar, is_lac], [1 - host, jet], 0.0)
    nucleus = np.where(kind == SEYFERT, 0.10 * rng.random(n), nucleus)
    # Half of the nuclei are clear; the others have an exponential tail of obscuration to A_V 3.
    dust = np.minimum(rng.exponential(0.7, n) * (rng.random(n) < 0.55) + 0.05, 3.0)
    fwhm = np.clip(3400 * 10 ** (0.22 * normal[0]), 1300, 12500)
    # Eigenvector 1: narrow lines come with strong Fe II (Boroson and Green 1992).
    iron = 0.16 * (fwhm / 3400) ** -0.7 * 10 ** (0.25 * normal[1])
    return {
        "nucleus": nucleus,
        "dust_nucleus": np.where(is_broad | is_quasar, dust, 0.0),
        "slope": np.where(is_lac, -1.3, -1.75) + 0.28 * normal[2],
        "balmer_continuum": np.where(is_broad | is_quasar, 0.22 * 10 ** (0.2 * normal[3]), 0.0),
        "iron": np.where(is_broad | is_quasar, np.clip(iron, 0.01, 0.45), 0.0),
        "broad_ew": np.where(is_broad | is_quasar, 72 * 10 ** (0.14 * normal[4]), 0.0),
        "fwhm": np.where(is_broad | is_quasar, fwhm, 0.0),
    }
