"""The night sky of a plate: its continuum, its lines, and what differs from night to night."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.instrument_tables import DISPERSION
from spectra_scale.mock.sky_lines import (
    SKY_CONTINUUM,
    SKY_DETAIL,
    SKY_DETAIL_START,
    SKY_DETAIL_STEP,
    SKY_LINES,
)

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Å: lines of one band rise, fall and go wrong together (log-strengths of two hydroxyl bands
# correlate at 0.98 or more in BOSS files, those of oxygen at 5578.9 Å with none of them).
LINE_BANDS = (3500.0, 5570.0, 5590.0, 5905.0, 6290.0, 6390.0, 7150.0, 7600.0, 8200.0, 8590.0,
              8720.0, 9200.0, 9700.0, 10400.0)  # fmt: skip
OXYGEN_BAND = 1
_RED_OXYGEN, _STREET, _HYDROXYL = 4, (0, 2), (3, 5, 6, 7, 8, 9, 10, 11, 12)
# Widths of a fibre image in a 1e-4 dex pixel: half a pixel of rebinning adds to the optics'.
_REBINNED = 0.29


@dataclass(frozen=True, slots=True, eq=False)
class SkyTemplates:
    """The mean sky on one grid of wavelengths.

    Attributes
    ----------
    continuum
        Between the lines, 1e-17 erg/s/cm²/Å, shape (pixel,).
    bands
        Lines of each of `LINE_BANDS`, same unit, shape (band, pixel).
    """

    continuum: Floats
    bands: Floats


@lru_cache(maxsize=1)
def _table() -> tuple[Floats, Floats, Floats]:
    lines = np.array([row.split() for row in SKY_LINES.split(",")], dtype=np.float64)
    knots = np.array([row.split() for row in SKY_CONTINUUM.split(",")], dtype=np.float64)
    dispersion = np.array([row.split() for row in DISPERSION["boss"].split(",")], dtype=np.float64)
    centre = lines[:, 0]
    sigma = np.hypot(np.interp(centre, *dispersion.T), _REBINNED) * 1e-4 * np.log(10) * centre
    return centre, lines[:, 1] * sigma, knots


def sky_templates(wave: Floats, sigma: Floats, *, is_legacy: bool, scale: float) -> SkyTemplates:
    """Put the mean sky on a grid.

    Parameters
    ----------
    wave, sigma
        Vacuum wavelength and Gaussian sigma of the instrument, Å, shape (pixel,).
    is_legacy
        Whether to take the continuum of the legacy files. Their lines are 1.75 times those of
        BOSS, larger fibres and a calibration to point sources, and 12 % broader than wdisp says.
    scale
        Of all of it, for a fibre of another size.
    """
    centre, area, knots = _table()
    continuum = np.interp(np.log(wave), np.log(knots[:, 0]), knots[:, 1 if is_legacy else 2])
    detail = np.array(SKY_DETAIL.split(), dtype=np.float64) / 100
    middle = SKY_DETAIL_START + SKY_DETAIL_STEP * (np.arange(len(detail)) + 0.5) - 0.5
    continuum *= np.interp(1e4 * np.log10(wave), middle, detail, left=1.0, right=1.0)
    bands = np.zeros((len(LINE_BANDS) - 1, len(wave)))
    which = np.digitize(centre, LINE_BANDS) - 1
    step = np.gradient(wave)
    for one, flux, band in zip(centre, area * (1.75 if is_legacy else 1.0), which, strict=True):
        if not wave[0] < one < wave[-1]:
            continue
        at = int(np.searchsorted(wave, one))
        width = float(np.hypot(sigma[at], _REBINNED * step[at])) * (1.12 if is_legacy else 1.0)
        near = slice(max(at - 8, 0), at + 9)
        bands[band, near] += flux / width * np.exp(-0.5 * ((wave[near] - one) / width) ** 2)
    return SkyTemplates(scale * continuum, scale * bands)


@dataclass(frozen=True, slots=True, eq=False)
class Night:
    """What a night does to the mean sky.

    Attributes
    ----------
    continuum
        Level of the continuum; moonlight and twilight make some nights brighter.
    blue
        Logarithmic slope of that: moonlight is blue.
    bands
        Strength of each line band, shape (band,).
    depth
        Logarithm of the variance over that of a typical plate.
    bright_share
        Share of pixels that the pipeline calls BRIGHTSKY in every exposure.
    """

    continuum: float
    blue: float
    bands: Floats
    depth: float
    bright_share: float


def draw_night(survey: str, rng: np.random.Generator) -> Night:
    """Draw a night.

    Scatter as in the files: 0.35 (legacy) and 0.28 (BOSS) in the logarithm of the continuum, 0.38
    in hydroxyl, 0.55 in oxygen at 5578.9 Å, 0.3 in variance; one plate in twelve was exposed
    three times as long. BRIGHTSKY is set in 0.7 to 7.3 % of a legacy spectrum (5 to 95 %), in 1.5
    to 8.3 % of a BOSS one.
    """
    is_legacy = survey == "sdss"
    bands = np.exp(rng.normal(0, 0.06, len(LINE_BANDS) - 1))
    bands[list(_HYDROXYL)] *= np.exp(rng.normal(-0.05, 0.34))
    bands[OXYGEN_BAND] *= np.exp(rng.normal(0, 0.5))
    bands[_RED_OXYGEN] *= np.exp(rng.normal(0, 0.5))
    bands[list(_STREET)] *= np.exp(rng.normal(0, 0.3))
    moon = rng.normal(0, 0.33 if is_legacy else 0.26)
    deep = rng.random() < (0.08 if is_legacy else 0.02)
    share = (0.033 if is_legacy else 0.050) * np.exp(rng.normal(0, 0.55))
    return Night(
        continuum=float(np.exp(moon)),
        blue=float(0.35 * moon + rng.normal(0, 0.08)),
        bands=bands,
        depth=float(rng.normal(0, 0.26) - (1.0 if deep else 0.0)),
        bright_share=float(np.clip(share, 0.006, 0.085)),
    )
