"""The spectrographs on one plate: grid, throughput, resolution, noise and sky."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spectra_scale.errors import UsageError
from spectra_scale.mock.instrument_tables import DISPERSION, NOISE, ROUGHNESS, VARIANCE
from spectra_scale.mock.sky import Floats, Night, Singles, draw_night, sky_templates

# First and last native index of the longest grid a plate may have: legacy and BOSS files start
# and end within a few pixels of each other.
_LOG_GRIDS = {"sdss": (35_779, 39_666), "boss": (35_501, 40_176)}
# DESI: first wavelength (Å) and pixels of 0.8 Å, one grid for all of the survey.
_DESI_GRIDS = {"b": (3600.0, 2751), "r": (5760.0, 2326), "z": (7520.0, 2881)}
DESI_STEP = 0.8
_SPEED_OF_LIGHT = 299_792.458
_N_LAGS = 3


class Curves(NamedTuple):
    """What the compiled loops need of a plate, each float32 of shape (pixel,).

    Attributes
    ----------
    read, photon, sky_weight
        r, b and e of the quoted variance ``r + b (F + e S)``.
    continuum, lines
        The sky S of a mean fibre, 1e-17 erg/s/cm²/Å.
    tilt, bend
        How the logarithm of a fibre's variance differs from the mean fibre's.
    width
        True over quoted noise.
    lag0, lag1, lag2, lag3
        Weights of the moving average that correlates the noise, of unit norm.
    telluric
        Depth of the oxygen and water bands, 0 to 1.
    red
        1 in the red camera, 0 in the blue.
    noise_lines
        Sky lines as the quoted variance knows them, smoother than the sky itself.
    rough
        Scatter of ivar from pixel to pixel over its value in the middle of a camera.
    """

    read: Singles
    photon: Singles
    sky_weight: Singles
    continuum: Singles
    lines: Singles
    tilt: Singles
    bend: Singles
    width: Singles
    lag0: Singles
    lag1: Singles
    lag2: Singles
    lag3: Singles
    telluric: Singles
    red: Singles
    noise_lines: Singles
    rough: Singles


@dataclass(frozen=True, slots=True, eq=False)
class Spectrograph:
    """A spectrograph, or one arm of DESI's, on one plate's native grid.

    Attributes
    ----------
    name
        "sdss", "boss", or the arm of DESI: "b", "r", "z".
    first_pixel
        Native index k of the first pixel, wavelength ``10**(1e-4 k)`` Å; 0 in DESI.
    wave
        Vacuum wavelength, Å, shape (pixel,).
    wdisp
        Gaussian dispersion of a mean fibre in pixels, shape (pixel,).
    wdisp_slope
        Logarithmic change of it along the slit, shape (pixel,); see `wdisp_of`.
    variance_sky, variance_flux
        Quoted variance a + b F of a mean fibre on this plate, shape (pixel,).
    sky, lines
        Night sky, and its lines alone, 1e-17 erg/s/cm²/Å, shape (pixel,).
    bright, bright_any
        Pixels with BRIGHTSKY in every exposure and in any, shape (pixel,).
    night
        What was drawn of this plate's sky.
    curves
        The same and more, for the compiled loops.
    band_lines
        Lines of each band, shape (band, pixel), float32.
    """

    name: str
    first_pixel: int
    wave: Floats
    wdisp: Singles
    wdisp_slope: Singles
    variance_sky: Floats
    variance_flux: Floats
    sky: Floats
    lines: Floats
    bright: NDArray[np.bool_]
    bright_any: NDArray[np.bool_]
    night: Night
    curves: Curves
    band_lines: Singles

    @property
    def survey(self) -> str:
        """Whose files it fills: "sdss", "boss" or "desi"."""
        return self.name if self.name in _LOG_GRIDS else "desi"

    @property
    def is_boss(self) -> bool:
        """Whether it is the BOSS spectrograph."""
        return self.name == "boss"

    @property
    def n_pixels(self) -> int:
        """Pixels of the grid, the untrimmed edges of a plate included."""
        return len(self.wave)

    @property
    def sigma_km_s(self) -> Floats:
        """Gaussian dispersion of a mean fibre, km/s, shape (pixel,)."""
        step = np.gradient(self.wave) / self.wave
        return np.asarray(_SPEED_OF_LIGHT * step * self.wdisp)

    @property
    def split(self) -> int:
        """Pixel where the red camera takes over: 5930 Å in legacy, 6000 Å in BOSS."""
        return int(self.n_pixels - self.curves.red.sum())

    def wdisp_of(self, place: Singles) -> Singles:
        """Dispersion of fibres at their places in the slit.

        Parameters
        ----------
        place
            `Exposure.slit_place`, shape (fiber,) or a number.

        Returns
        -------
        Singles
            Gaussian dispersion in pixels, shape (fiber, pixel).
        """
        return np.asarray(self.wdisp * np.exp(np.multiply.outer(place, self.wdisp_slope)))


@dataclass(frozen=True, slots=True, eq=False)
class _Design:
    """What does not change from plate to plate, on the longest grid, shape (pixel,) each."""

    wave: Floats
    wdisp: Floats
    wdisp_slope: Floats
    variance: Floats
    noise: Floats
    lags: Floats
    continuum: Floats
    bands: Floats
    telluric: Floats
    rough: Floats
    red: NDArray[np.bool_]


def _knots(table: str, wave: Floats, *, log: bool = False) -> Floats:
    rows = np.array([row.split() for row in table.split(",")], dtype=np.float64)
    x, y = np.log(rows[:, 0]), np.log(rows[:, 1:]) if log else rows[:, 1:]
    found = np.stack([np.interp(np.log(wave), x, column) for column in y.T])
    return np.asarray(np.exp(found) if log else found)


def _telluric(wave: Floats) -> Floats:
    """Depths of the B and A bands of oxygen and of water, smooth as at resolution 2000."""
    depth = np.zeros_like(wave)
    for centre, width, strength in (
        (6876.0, 8.0, 0.35),
        (6892.0, 14.0, 0.20),
        (7607.0, 9.0, 1.0),
        (7636.0, 18.0, 0.75),
        (7200.0, 35.0, 0.10),
        (8190.0, 50.0, 0.12),
        (9000.0, 60.0, 0.08),
        (9380.0, 60.0, 0.45),
        (9500.0, 60.0, 0.30),
    ):
        depth += strength * np.exp(-0.5 * ((wave - centre) / width) ** 2)
    return np.minimum(depth, 1.0)


def moving_average(correlation: Floats) -> Floats:
    """Weights of the moving average whose neighbours are correlated as given.

    Noise ``c_0 w_i + c_1 w_{i-1} + c_2 w_{i-2} + c_3 w_{i-3}`` of unit white noise w has the
    autocovariance ``sum_j c_j c_{j+k}`` at lag k, solved here by fixed point.

    Parameters
    ----------
    correlation
        At lags 1, 2 and 3, shape (3, pixel).

    Returns
    -------
    Floats
        c_0 to c_3, of unit norm, shape (4, pixel).
    """
    c0 = np.ones_like(correlation[0])
    c1, c2, c3 = correlation.copy()
    for _ in range(60):
        power = 1 + c1**2 + c2**2 + c3**2
        c3 = correlation[2] * power
        c2 = correlation[1] * power - c1 * c3
        c1 = (correlation[0] * power - c2 * c3) / (1 + c2)
    weights = np.stack([c0, c1, c2, c3])
    return np.asarray(weights / np.sqrt((weights**2).sum(axis=0)))


@lru_cache(maxsize=5)
def _design(name: str) -> _Design:
    is_log = name in _LOG_GRIDS
    if is_log:
        first, last = _LOG_GRIDS[name]
        wave: Floats = np.power(10.0, 1e-4 * np.arange(first, last + 1), dtype=np.float64)
    else:
        start, n_pixels = _DESI_GRIDS[name]
        wave = np.round(start + DESI_STEP * np.arange(n_pixels), 1)
    wdisp = _knots(DISPERSION[name], wave, log=True)[0]
    scale = 1.0 if is_log else 0.8
    sky = sky_templates(wave, wdisp * np.gradient(wave), is_legacy=name == "sdss", scale=scale)
    noise = _knots(NOISE[name], wave)
    telluric = _telluric(wave)
    variance = _knots(VARIANCE[name], wave, log=True)
    # Less light at the bottom of a band is divided back: noise peaks there, in the files by 1.7
    # for bright objects and by 3 for faint ones at 7607 Å.
    if is_log:
        oxygen = np.where(wave < 7700, telluric, 0.0)
        variance[:2] *= 1 + np.array([[2.0], [0.7]]) * oxygen
    red = wave > {"sdss": 5930.0, "boss": 6000.0}.get(name, 0.0)
    return _Design(
        wave=wave,
        wdisp=wdisp,
        wdisp_slope=_wdisp_slope(name, wave, red),
        variance=variance,
        noise=noise[0],
        lags=moving_average(noise[1:]),
        continuum=sky.continuum,
        bands=sky.bands,
        telluric=telluric,
        rough=_knots(ROUGHNESS[name], wave)[0],
        red=red,
    )


def _wdisp_slope(name: str, wave: Floats, red: NDArray[np.bool_]) -> Floats:
    """How dispersions differ between fibres.

    In legacy files the first spectrograph is broader than the second by 16 % in the blue camera
    and 3 % in the red. In BOSS files dispersion grows to the ends of each slit, by 11 % rms around
    4500 Å and 2 % rms at 7500 Å. DESI's differ by 2 %.
    """
    if name == "sdss":
        return np.where(red, 0.015, 0.083)
    if name == "boss":
        return np.interp(wave, (3550, 4000, 4700, 5500, 6200, 8000, 10400), (0.06, 0.10, 0.105,
                         0.08, 0.045, 0.015, 0.015))  # fmt: skip
    return np.full(len(wave), 0.02)


def spectrograph(survey: str, rng: np.random.Generator) -> Spectrograph:
    """Set up a plate of SDSS or BOSS under the sky of one night.

    Parameters
    ----------
    survey
        "sdss" or "boss"; see `desi_arms` for DESI.
    rng
        Of this plate.
    """
    if survey not in _LOG_GRIDS:
        message = (
            f"No plate of survey {survey!r}: expected one of {', '.join(_LOG_GRIDS)}. "
            "The arms of DESI come from desi_arms."
        )
        raise UsageError(message)
    night = draw_night(survey, rng)
    first = int(rng.integers(0, 8))
    last = len(_design(survey).wave) - int(rng.integers(1, 7))
    return _set_up(survey, slice(first, last), night)


def desi_arms(rng: np.random.Generator) -> tuple[Spectrograph, Spectrograph, Spectrograph]:
    """Set up the arms B, R and Z of DESI under the sky of one night."""
    night = draw_night("desi", rng)
    b, r, z = (_set_up(name, slice(None), night) for name in _DESI_GRIDS)
    return b, r, z


def _set_up(name: str, cut: slice, night: Night) -> Spectrograph:
    design = _design(name)
    wave = design.wave[cut]
    continuum = design.continuum[cut] * night.continuum * (wave / 6000.0) ** -night.blue
    bands = design.bands[:, cut] * night.bands[:, None]
    lines = bands.sum(axis=0)
    curves = _curves(name, cut, night, continuum, lines)
    contrast = np.where(wave > 5500, lines / continuum, 0.0)
    share = night.bright_share
    return Spectrograph(
        name=name,
        first_pixel=_LOG_GRIDS[name][0] + (cut.start or 0) if name in _LOG_GRIDS else 0,
        wave=wave,
        wdisp=design.wdisp[cut].astype(np.float32),
        wdisp_slope=design.wdisp_slope[cut].astype(np.float32),
        variance_sky=np.asarray(
            curves.read + curves.photon * curves.sky_weight * (continuum + curves.noise_lines)
        ),
        variance_flux=curves.photon.astype(np.float64),
        sky=continuum + lines,
        lines=lines,
        bright=contrast > np.quantile(contrast, 1 - share),
        bright_any=_grown(contrast > np.quantile(contrast, 1 - 1.6 * share)),
        night=night,
        curves=curves,
        band_lines=bands.astype(np.float32),
    )


def _curves(name: str, cut: slice, night: Night, continuum: Floats, lines: Floats) -> Curves:
    design = _design(name)
    wave = design.wave[cut]
    read, photon, weight = design.variance[:, cut]
    lag0, lag1, lag2, lag3 = design.lags[:, cut]
    tilt, bend = _fibre_shapes(name, wave)
    # Legacy errors do not know all of the noise at the lines themselves: pulls of BRIGHTSKY
    # pixels redwards of 7200 Å are 1.31 wide, others 1.03 (BOSS: 0.97 and 0.89).
    excess = np.minimum(lines / continuum / 4, 1) * (wave > 7000)
    # Exposures a fraction of a pixel apart are added up: their noise at a line is smeared.
    smear = (0.06, 0.88, 0.06) if name == "sdss" else (0.0, 1.0, 0.0)
    curves: dict[str, NDArray[Any]] = {
        "read": np.exp(night.depth) * read,
        "photon": np.exp(night.depth) * photon,
        "sky_weight": weight,
        "continuum": continuum,
        "lines": lines,
        "tilt": tilt,
        "bend": bend,
        "width": design.noise[cut] * (1 + (0.28 if name == "sdss" else 0.03) * excess),
        "lag0": lag0,
        "lag1": lag1,
        "lag2": lag2,
        "lag3": lag3,
        "telluric": design.telluric[cut],
        "red": design.red[cut],
        "noise_lines": np.convolve(lines, smear, mode="same"),
        "rough": design.rough[cut],
    }
    singles = {key: np.ascontiguousarray(curve, np.float32) for key, curve in curves.items()}
    return Curves(**singles)


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Lines move by a pixel between exposures, so that any of them touches neighbours."""
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    return wide


def _fibre_shapes(name: str, wave: Floats) -> tuple[Floats, Floats]:
    """First two components of log variance over plates and fibres, unit rms.

    Of the files, less one number each: a tilt with a foot at the blue end (rms 0.105 legacy,
    0.156 BOSS), and both ends against the middle (rms 0.065 and 0.102).
    """
    ends = {"sdss": (3800.0, 9220.0), "boss": (3560.0, 10350.0)}.get(name, (wave[0], wave[-1]))
    t = np.clip(2 * np.log(wave / ends[0]) / np.log(ends[1] / ends[0]) - 1, -1, 1)
    tilt = np.interp(t, (-1, -0.7, -0.3, 0, 0.5, 1), (-1.9, -1.6, -0.7, 0, 0.8, 1.2))
    bend = np.interp(t, (-1, -0.8, -0.4, 0, 0.5, 0.9, 1), (2.6, 1.3, -0.3, -0.5, -0.3, 0.7, 1.8))
    return tilt, bend
