"""What differs from fibre to fibre of a plate: light that misses it, calibration, sky, errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.sky import LINE_BANDS, OXYGEN_BAND, Floats, Singles
from spectra_scale.mock.spectrograph import Spectrograph

Ints = NDArray[np.int64]

KNOT = 64
"""Pixels between the knots of a calibration curve."""

# Of each instrument: scatter of a fibre's log variance; rms of its tilt and bend; flux lost by a
# fibre one arcsecond off (arcsec⁻²: fibres of 3, 2 and 1.5 arcsec); rms of the calibration curve.
_SCATTER = {
    "sdss": (0.11, 0.085, 0.050, 0.05, 0.0115),
    "boss": (0.12, 0.120, 0.080, 0.12, 0.0115),
    "desi": (0.10, 0.060, 0.030, 0.18, 0.006),
}
_CENTERING = 0.22  # arcsec an axis
# Shares of a sky line that subtraction leaves: of its height, of its place (a pixel), its width.
_RESIDUAL = {
    "sdss": (0.006, 0.007, 0.006),
    "boss": (0.005, 0.014, 0.006),
    "desi": (0.004, 0.006, 0.003),
}
# Relative scatter of quoted errors: of a spectrum, and of each of its cameras besides.
_ERROR_ON_ERROR = (0.045, 0.030)


class Fibers(NamedTuple):
    """The fibres of a plate, arrays of length n.

    Attributes
    ----------
    place
        Of `Spectrograph.wdisp_of`: spectrograph or distance from the middle of the slit.
    depth, tilt, bend
        Logarithm of the variance over the plate's: level, slope, curvature.
    sky, lines
        Sky continuum and lines over those of the mean fibre.
    error_blue, error_red
        True over quoted noise, over that of the mean fibre, by camera.
    telluric
        Share of the object's light wrongly divided out at the bottom of the A band.
    shift
        Where in the common pattern of pixel errors this fibre starts.
    """

    place: Singles
    depth: Singles
    tilt: Singles
    bend: Singles
    sky: Singles
    lines: Singles
    error_blue: Singles
    error_red: Singles
    telluric: Singles
    shift: Ints


def slit_position(n: int) -> tuple[Ints, Floats]:
    """Which of two spectrographs each fibre feeds, and its place -1..1 in that slit."""
    half = (2 * np.arange(n) >= n).astype(np.int64)
    at = np.arange(n) - half * ((n + 1) // 2)
    length = np.where(half == 0, (n + 1) // 2, n // 2)
    return half, np.where(length > 1, 2 * at / np.maximum(length - 1, 1) - 1, 0.0)


def draw_fibers(instrument: Spectrograph, n: int, rng: np.random.Generator) -> Fibers:
    """Draw the fibres of a plate.

    The scatter of variances is that of the files, less what a plate shares. Widths of pulls in
    seven bands of a legacy spectrum scatter by 0.07 about the mean of all and correlate at 0.6:
    most of the error on the error belongs to the spectrum.
    """
    depth, tilt, bend, _, _ = _SCATTER[instrument.survey]
    half, x = slit_position(n)
    whole, camera = _ERROR_ON_ERROR
    error = rng.normal(0, whole, n)
    place = {"sdss": 1.0 - 2.0 * half, "boss": 1.9 * x**2 - 0.63}.get(instrument.survey, x)
    # Ends of a slit are vignetted: 12 % more variance.
    columns = (
        place + rng.normal(0, 0.12, n),
        rng.normal(0, depth, n) + 0.12 * (x**2 - 1 / 3) + 0.6 * depth * rng.normal(0, 1, 2)[half],
        rng.normal(0, tilt, n) + tilt * rng.normal(0, 0.7, 2)[half],
        rng.normal(0, bend, n) + bend * rng.normal(0, 0.7, 2)[half],
        1 + rng.normal(0, 0.035, n) + rng.normal(0, 0.02, 2)[half],
        1 + rng.normal(0, 0.045, n) + rng.normal(0, 0.02, 2)[half],
        np.exp(error + rng.normal(0, camera, n)),
        np.exp(error + rng.normal(0, camera, n)),
        rng.normal(0, 0.015, n) + rng.normal(0, 0.012, 2)[half],
    )
    shift = rng.integers(0, 2 * instrument.n_pixels, n)
    singles = [np.asarray(column, dtype=np.float32) for column in columns]
    return Fibers._make([*singles, shift])


def fibre_losses(instrument: Spectrograph, n: int, rng: np.random.Generator) -> Singles:
    """Light of each object that missed its fibre, over what the standard stars lost.

    An object a little off its fibre loses light, and more of it at wavelengths that the
    atmosphere refracts further off (Filippenko 1982, PASP 94, 715: refraction of air goes nearly
    as 1/λ²). What the mean fibre loses is calibrated away.

    Returns
    -------
    Singles
        Relative error of the flux at each knot, shape (fiber, knot).
    """
    wave = knot_wave(instrument)
    airmass = 1 + rng.exponential(0.12)
    # Arcsec at 4000 Å towards the zenith, zero at 5400 Å where the fibres are drilled for.
    refraction = 1.1 * np.sqrt(airmass**2 - 1) * ((5400.0 / wave) ** 2 - 1)
    along, across = rng.normal(0, _CENTERING, (2, n))
    lost = (along[:, None] + 0.5 * refraction) ** 2 + across[:, None] ** 2
    lost = np.exp(-_SCATTER[instrument.survey][3] * lost)
    grey = 1 + rng.normal(0, 0.03, (n, 1))
    mean = np.exp(-_SCATTER[instrument.survey][3] * ((0.5 * refraction) ** 2 + 2 * _CENTERING**2))
    return np.asarray(grey * lost / mean - 1, dtype=np.float32)


def calibration_errors(instrument: Spectrograph, n: int, rng: np.random.Generator) -> Singles:
    """Smooth errors of the flux calibration on the scale of 150 to 400 Å.

    Seven objects seen by both legacy SDSS and BOSS: the logarithm of the ratio of their spectra
    in windows of 2.2 %, less a cubic and less noise, wanders by 1.5 % at 3800-4100 Å, 1.7 at
    4100-5600, 2.3 at 5600-6200 where the cameras meet, 2.0 at 6200-8000 and 4.3 at 8000-9200.
    Mock pairs of the same spectra give 1.7, 1.6, 2.1, 1.5 and 2.5: the seven are quasars, whose
    lines vary too. Half of it is common to a spectrograph.

    Returns
    -------
    Singles
        Relative error of the flux at each knot, shape (fiber, knot).
    """
    wave = knot_wave(instrument)
    half, _ = slit_position(n)
    common, own = _wander(2, len(wave), rng), _wander(n, len(wave), rng)
    edges = instrument.wave[[0, instrument.split - 1, -1]]
    reach = np.array([220.0, 150.0, 300.0])
    more = np.array([1.6, 1.5 if instrument.survey != "desi" else 0.3, 1.0])
    rms = 1 + (more * np.exp(-np.abs(wave[:, None] - edges) / reach)).sum(axis=1)
    # Water, and flat fields that fringe.
    rms += 0.9 * np.clip((wave - 7900) / 500, 0, 1)
    rms *= _SCATTER[instrument.survey][4]
    return np.asarray(rms * (0.7 * common[half] + 0.7 * own), dtype=np.float32)


def knot_wave(instrument: Spectrograph) -> Floats:
    """Wavelengths of the knots, Å; the last is at or beyond the last pixel."""
    knots = KNOT * np.arange(-(-instrument.n_pixels // KNOT) + 1)
    return np.asarray(np.interp(knots, np.arange(instrument.n_pixels), instrument.wave))


def _wander(n: int, n_knots: int, rng: np.random.Generator) -> Floats:
    """Unit noise smoothed over a few knots, shape (n, knot)."""
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 2.0) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    white = rng.standard_normal((n, n_knots + len(kernel) - 1))
    smooth = np.zeros((n, n_knots))
    for shift, weight in enumerate(kernel):
        smooth += weight * white[:, shift : shift + n_knots]
    return smooth


def sky_leftovers(
    instrument: Spectrograph, n: int, failed: NDArray[np.bool_], rng: np.random.Generator
) -> Singles:
    """What sky subtraction leaves of each band of lines.

    Fibres of a spectrograph share a model of the sky that varies slowly along the slit, so most
    of its error is shared with neighbours; flat fields and fibre throughputs add each fibre's.

    Parameters
    ----------
    instrument, n, rng
        The plate.
    failed
        Fibres whose sky went badly wrong: ten times as much, shape (fiber,).

    Returns
    -------
    Singles
        Shares of a line's height, of its derivative and of its second derivative by pixel, shape
        (fiber, 3, band).
    """
    half, x = slit_position(n)
    n_bands = len(LINE_BANDS) - 1
    slow = rng.normal(0, 1, (3, 2, 3, n_bands))
    shared = slow[0][half] + x[:, None, None] * slow[1][half]
    shared += (2 * x**2 - 1)[:, None, None] * slow[2][half]
    own = rng.normal(0, 1, (n, 3, n_bands))
    scale = np.array(_RESIDUAL[instrument.survey])[:, None] * np.ones(n_bands)
    # The strongest line of all is undersampled, and saturates in some exposures.
    scale[:, OXYGEN_BAND] *= 2.0
    # Some plates and bands go worse than others.
    scale *= np.exp(rng.normal(-0.1, 0.45, n_bands))
    factor = np.where(failed, 10.0, 1.0)[:, None, None]
    return np.asarray(factor * scale * (0.55 * shared + 0.6 * own), dtype=np.float32)
