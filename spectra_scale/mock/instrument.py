"""The two spectrographs: grid, throughput and noise, night sky, masks, and known faults.

Noise levels were measured on public spectra of each instrument as variance = a + b F. Sky lines
(mercury, sodium, oxygen and the OH forest) are the peaks of the mean sky of the BOSS files;
shares of the mask bits are those of 196 legacy and 71 BOSS files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.population import Floats

Singles = NDArray[np.float32]
Bits = NDArray[np.int32]

BADTRACE, BADFLAT, MANYBADCOLUMNS = 1, 2, 4
NEARBADPIXEL, LOWFLAT, FULLREJECT, PARTIALREJECT, SCATTEREDLIGHT = 16, 17, 18, 19, 20
BRIGHTSKY, COMBINEREJ, BADFLUXFACTOR, BADSKYCHI = 23, 25, 26, 27

# Artefacts, as the truth table names them.
ARTEFACTS = ("none", "sky-residual", "calibration-step", "half-lost")

# Vacuum wavelength (Å), height over the continuum sky (1e-17 erg/s/cm²/Å) at BOSS resolution.
_SKY_LINES = """
3557 3, 3651 5, 3656 3, 3734 3, 3741 3, 3832 3, 3911 4, 4047.6 8, 4166 2, 4359.1 17, 4982 2,
5201.2 2, 5462.6 11, 5578.9 190, 5689.8 6, 5771 3, 5792 3, 5868 3, 5891.2 39, 5897.4 24, 5917 3,
5934.7 4, 5955 3, 6237.3 6, 6258.9 5, 6289.3 4, 6302 39, 6308 6, 6331 4, 6365.5 12, 6467 3,
6499.8 6, 6534.3 4, 6555.4 5, 6579.6 4, 6831.2 10, 6865.9 15, 6902 3, 6913.5 4, 6924.7 8, 6950.2
9, 6980.7 5, 7242.7 22, 7256 4, 7277.8 32, 7286.2 12, 7306.3 6, 7318.1 23, 7331.6 9, 7343.4 25,
7360.4 8, 7370.6 19, 7394.3 6, 7404.6 11, 7440.5 6, 7474.8 5, 7483.4 6, 7526.6 15, 7573.6 11,
7601.5 11, 7631.3 8, 7664.8 3, 7717.9 30, 7726.8 6, 7751.8 37, 7762.5 12, 7782.2 7, 7796.5 27,
7810.9 10, 7823.5 33, 7843.3 7, 7856 34, 7872.3 14, 7881.3 8, 7892.2 16, 7916 50, 7923.2 25,
7934.1 10, 7950.6 8, 7967.1 32, 7981.8 12, 7994.7 34, 8016.8 9, 8027.9 27, 8053.8 6, 8064.9 12,
8104 6, 8283.2 23, 8290.9 32, 8300.4 35, 8311.9 10, 8346.4 84, 8354.1 26, 8367.6 9, 8384.9 18,
8402.3 55, 8417.8 22, 8431.4 62, 8454.7 20, 8468.4 43, 8495.7 13, 8507.5 27, 8550.7 11, 8631.8
21, 8661.6 21, 8671.6 15, 8683.6 5, 8770 52, 8780.1 59, 8794.3 16, 8828.8 104, 8838.9 44, 8851.2
13, 8869.5 30, 8887.9 91, 8904.3 34, 8922.8 88, 8945.4 33, 8959.8 76, 8990.8 25, 9003.3 49,
9040.7 11, 9051.1 21, 9105.4 10, 9162 5, 9315.4 113, 9326.1 115, 9341.1 28, 9377.8 110, 9403.7
25, 9423.2 45, 9442.8 168, 9460.2 72, 9479.8 117, 9503.9 60, 9521.4 65, 9554.3 38, 9569.7 91,
9609.5 19, 9622.8 27, 9671.6 21, 9682.8 34, 9702.9 38, 9714 16, 9723 51, 9740.9 21, 9792.6 99,
9801.7 31, 9851.4 31, 9874.2 99, 9896.9 44, 9917.4 105, 9949.5 130, 9958.6 95, 9974.7 25,
10016.1 188, 10027.7 51, 10062.4 30, 10085.6 106, 10106.5 41, 10127.4 119, 10155.5 48, 10174.2
152, 10193 83, 10214.1 111, 10228.2 67, 10287 90, 10297 85, 10370 60
"""
_LEGACY = """
3790 1.3 .46 1.25 6.9, 3890 .8 .22 1.19 6.9, 3981 .55 .117 1.15 7, 4169 .29 .076 1.10 7.1, 4365
.18 .055 1.07 7, 4571 .145 .042 1.02 7, 4786 .114 .0355 .98 6.9, 5012 .091 .0304 .94 6.5, 5248
.079 .028 .90 6.5, 5495 .085 .0265 .86 7.1, 5754 .105 .0262 .83 9.4, 5900 .11 .025 .85 10.5,
6026 .085 .0215 .92 9.5, 6310 .043 .0187 .94 7.5, 6607 .026 .0156 .89 6.1, 6918 .022 .0149 .84
5.8, 7244 .021 .0159 .80 6, 7586 .026 .0178 .76 6.6, 7943 .028 .0208 .73 7, 8318 .032 .025 .71
5.6, 8710 .044 .042 .69 6, 9120 .06 .063 .69 5, 9250 .08 .08 .69 5
"""
_BOSS = """
3540 6 .65 1.3 6.5, 3631 2.6 .30 1.26 6, 3802 .52 .105 1.21 4.6, 3981 .22 .056 1.15 4.5, 4169
.14 .039 1.09 4.5, 4365 .10 .0305 1.04 4.4, 4571 .08 .0258 1.02 4.4, 4786 .068 .0231 1.01 4.3,
5012 .055 .0212 .98 4, 5248 .048 .019 .96 4, 5495 .051 .0188 .93 4.4, 5754 .066 .0194 .91 5.4,
5900 .08 .019 .92 6.6, 6026 .08 .0183 .96 6, 6310 .055 .016 .98 4.3, 6607 .032 .0133 .95 3.5,
6918 .027 .0123 .92 3.4, 7244 .024 .0117 .89 3.4, 7586 .026 .012 .86 3.9, 7943 .026 .0122 .83
4.4, 8318 .024 .0124 .80 3.3, 8710 .020 .0127 .76 3.4, 9120 .021 .0124 .74 3, 9550 .045 .0198
.74 4.4, 10000 .13 .054 .78 7, 10400 .35 .12 .80 9
"""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrograph:
    """A spectrograph on one plate's native grid.

    Attributes
    ----------
    first_pixel
        Native index k of the first pixel: wavelength is ``10**(1e-4 k)`` Å.
    variance_sky, variance_flux
        Variance a and b F of a mean exposure, shape (pixel,).
    wdisp
        Gaussian dispersion in pixels, shape (pixel,).
    sky, lines
        Night sky, and its lines alone, 1e-17 erg/s/cm²/Å, shape (pixel,).
    bright
        Pixels of bright sky lines, shape (pixel,).
    is_boss
        Whether it is the BOSS spectrograph.
    """

    first_pixel: int
    variance_sky: Floats
    variance_flux: Floats
    wdisp: Singles
    sky: Floats
    lines: Floats
    bright: NDArray[np.bool_]
    is_boss: bool

    @property
    def n_pixels(self) -> int:
        """Pixels of the plate's grid, the untrimmed edges included."""
        return len(self.sky)

    @property
    def wave(self) -> Floats:
        """Vacuum wavelengths, Å, shape (pixel,)."""
        return np.asarray(10 ** (1e-4 * (self.first_pixel + np.arange(self.n_pixels))))

    @property
    def split(self) -> int:
        """Pixel where the red camera takes over from the blue, 6000 Å in legacy, 6150 in BOSS."""
        return int(np.searchsorted(self.wave, 6150.0 if self.is_boss else 6000.0))


def spectrograph(*, is_boss: bool, rng: np.random.Generator) -> Spectrograph:
    """Set up a plate: its grid starts and ends within a few pixels of others of the survey."""
    first, last = (35_501, 40_169) if is_boss else (35_779, 39_659)
    first, last = first + int(rng.integers(0, 8)), last - int(rng.integers(0, 6))
    wave: Floats = np.power(10.0, 1e-4 * np.arange(first, last + 1), dtype=np.float64)
    table = np.array([r.split() for r in (_BOSS if is_boss else _LEGACY).split(",")], dtype=float)
    x = np.log(table[:, 0])
    a, b, wdisp, level = (
        np.exp(np.interp(np.log(wave), x, np.log(column))) for column in table[:, 1:].T
    )
    lines = _sky_lines(wave, wdisp) * (1.0 if is_boss else 1.9) * rng.uniform(0.7, 1.3)
    # BRIGHTSKY is set where lines rule: the same share of pixels as in real plates.
    contrast = np.where(wave > 5500, lines / level, 0.0)
    bright = contrast > np.quantile(contrast, 0.952 if is_boss else 0.966)
    return Spectrograph(
        first_pixel=first,
        # The tables are those of good plates: the mean plate is noisier.
        variance_sky=a * (1 + 0.75 * lines / level) * (1.25 if is_boss else 1.45),
        variance_flux=b * (1.25 if is_boss else 1.45),
        wdisp=wdisp.astype(np.float32),
        sky=level * rng.uniform(0.8, 1.2) + lines,
        lines=lines,
        bright=bright,
        is_boss=is_boss,
    )


def _sky_lines(wave: Floats, wdisp: Floats) -> Floats:
    sky = np.zeros_like(wave)
    for row in _SKY_LINES.split(","):
        centre, height = (float(x) for x in row.split())
        if not wave[0] < centre < wave[-1]:
            continue
        pixel = np.log10(centre / wave[0]) * 1e4
        width = float(np.hypot(wdisp[min(int(pixel), len(wdisp) - 1)], 0.29))
        near = slice(max(int(pixel) - 7, 0), int(pixel) + 9)
        x = (np.arange(len(wave))[near] - pixel) / width
        sky[near] += height * np.exp(-0.5 * x**2)
    return sky


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """Spectra of a plate as the pipeline delivers them, each array of shape (fiber, pixel).

    Attributes
    ----------
    flux, ivar, and_mask, or_mask, sky
        As in spPlate. Pixels beyond a fibre's ends have ivar 0, and flux 0.
    model
        The noiseless spectrum, standing in for the pipeline's best fit.
    sigma
        True noise.
    start, stop
        First and one past the last pixel of each fibre, shape (fiber,).
    """

    flux: Singles
    ivar: Singles
    and_mask: Bits
    or_mask: Bits
    sky: Singles
    model: Singles
    sigma: Singles
    start: NDArray[np.int64]
    stop: NDArray[np.int64]


def observe(
    model: Singles, artefact: NDArray[np.int64], instrument: Spectrograph, rng: np.random.Generator
) -> Exposure:
    """Expose noiseless spectra.

    Parameters
    ----------
    model
        F_λ, shape (fiber, pixel); rows of zeros are sky fibres.
    artefact
        Index into `ARTEFACTS`, shape (fiber,).
    instrument, rng
        The spectrograph on this plate; everything random about this observation.
    """
    n, n_pixels = model.shape
    model = _calibrate(model, artefact == 2, instrument, rng)
    # Nights differ, and so do fibres.
    scale = (10 ** rng.normal(0, 0.06) * 10 ** rng.normal(0, 0.05, (n, 1))).astype(np.float32)
    variance: Singles = instrument.variance_flux.astype(np.float32) * np.maximum(model, 0)
    variance += instrument.variance_sky.astype(np.float32)
    variance *= scale
    sigma: Singles = np.sqrt(variance)
    flux: Singles = model + sigma * _noise(rng, n, n_pixels, is_boss=instrument.is_boss)
    # The quoted variance has its own error: 4.5 % a pixel, 6 % a spectrum.
    error = 0.045 * rng.standard_normal((n, n_pixels), dtype=np.float32)
    error += (0.06 * rng.standard_normal((n, 1))).astype(np.float32)
    ivar = np.asarray(np.exp(error) / variance, dtype=np.float32)
    brightness = (1 + 0.05 * rng.standard_normal((n, 1))).astype(np.float32)
    sky = instrument.sky.astype(np.float32) * brightness
    flux += _sky_residual(artefact == 1, instrument, rng)
    and_mask, or_mask = _masks(instrument, n, rng)
    start, stop = _ends(instrument, n, rng)
    lost = np.flatnonzero(artefact == 3)
    stop[lost] = np.minimum(stop[lost], instrument.split - rng.integers(0, 40, len(lost)))
    exposure = Exposure(flux, ivar, and_mask, or_mask, sky, model, sigma, start, stop)
    _reject(exposure, instrument, rng)
    return exposure


def _sky_residual(
    failed: NDArray[np.bool_], instrument: Spectrograph, rng: np.random.Generator
) -> Singles:
    """What sky subtraction leaves: about 1.5 % of each line, six times as much where it failed.

    A line subtracted at a slightly wrong place leaves its derivative, besides a share of itself.
    """
    sky = instrument.lines
    shapes = np.stack([sky, np.gradient(sky)]).astype(np.float32)
    scale = np.where(failed, 6.0, 1.0)[:, None]
    share = (scale * rng.normal(0, (0.008, 0.018), (len(failed), 2))).astype(np.float32)
    # Neighbouring lines go wrong together, distant ones do not.
    both = (scale * rng.normal(0, (0.008, 0.018), (len(failed), 2))).astype(np.float32)
    residual = share @ shapes
    residual[:, : int(0.84 * sky.size)] = both @ shapes[:, : int(0.84 * sky.size)]
    return np.asarray(residual)


def _calibrate(
    model: Singles, stepped: NDArray[np.bool_], instrument: Spectrograph, rng: np.random.Generator
) -> Singles:
    """Flux calibration: a smooth error of 3 % for all, a step between the cameras for a few."""
    n, n_pixels = model.shape
    x = np.linspace(-1, 1, n_pixels, dtype=np.float32)
    curve = np.stack([x, 2 * x**2 - 1, 4 * x**3 - 3 * x])
    error = (rng.normal(0, 0.015, (n, 3)) @ curve).astype(np.float32)
    rows = np.flatnonzero(stepped)
    step = rng.uniform(0.10, 0.35, len(rows)) * rng.choice((-1, 1), len(rows))
    error[rows, : instrument.split] += step[:, None].astype(np.float32)
    return np.asarray(model * (1 + error))


def _noise(rng: np.random.Generator, n: int, n_pixels: int, *, is_boss: bool) -> Singles:
    """Unit noise, lag-1 correlation 0.17 in legacy spectra and 0.04 in BOSS (science.md §2)."""
    share = np.float32(0.04 if is_boss else 0.175)
    white = rng.standard_normal((n, n_pixels + 1), dtype=np.float32)
    # True noise is a little larger than the quoted one.
    scale = np.float32((1.01 if is_boss else 1.025) / np.sqrt(1 + share**2))
    return np.asarray((white[:, :-1] + share * white[:, 1:]) * scale)


def _ends(
    instrument: Spectrograph, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Spectra are curved on the detector: fibres at the ends of a slit start redder.
    across = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
    slit = np.mod(across + 1, 1.0) * 2 - 1
    start = 1 + (45 if not instrument.is_boss else 60) * slit**2 * rng.uniform(0.7, 1.2)
    stop = instrument.n_pixels - 1 - 16 * slit**2 - rng.integers(0, 4, n)
    return (start + rng.integers(0, 3, n)).astype(np.int64), stop.astype(np.int64)


def _masks(instrument: Spectrograph, n: int, rng: np.random.Generator) -> tuple[Bits, Bits]:
    n_pixels = instrument.n_pixels
    and_mask = np.zeros((n, n_pixels), dtype=np.int32)
    and_mask[:, instrument.bright] |= 1 << BRIGHTSKY
    # Bad columns cross some fibres at about the same place, for a few pixels.
    columns = rng.integers(0, n_pixels, 45 if not instrument.is_boss else 12)
    for column in columns:
        rows = rng.integers(0, max(n - 30, 1)) + np.arange(min(n, int(rng.integers(30, 250))))
        width = int(rng.integers(2, 9))
        and_mask[rows[rows < n], column : column + width] |= 1 << NEARBADPIXEL
    chance = rng.random(n)
    half = np.where(rng.random(n) < 0.5, 0, 1)
    for i in np.flatnonzero(chance < (0.0 if instrument.is_boss else 0.10)):
        side = slice(0, instrument.split) if half[i] == 0 else slice(instrument.split, None)
        and_mask[i, side] |= 1 << MANYBADCOLUMNS
    and_mask[(chance > 0.10) & (chance < 0.112)] |= 1 << BADFLAT
    if not instrument.is_boss:
        both = np.flatnonzero((chance > 0.112) & (chance < 0.116))
        and_mask[both, : instrument.split] |= (1 << BADTRACE) | (1 << BADFLAT)
    or_mask = and_mask.copy()
    wide = np.convolve(instrument.bright, np.ones(5), mode="same") > 0
    or_mask[:, wide] |= 1 << BRIGHTSKY
    or_mask[:, : 120 if instrument.is_boss else 40] |= 1 << SCATTEREDLIGHT
    bit = 1 << (BADFLUXFACTOR if instrument.is_boss else BADSKYCHI)
    or_mask[rng.random(n) < (0.25 if instrument.is_boss else 0.03)] |= bit
    _scatter_rejections(and_mask, or_mask, instrument, rng)
    return and_mask, or_mask


def _scatter_rejections(
    and_mask: Bits, or_mask: Bits, instrument: Spectrograph, rng: np.random.Generator
) -> None:
    """Cosmic rays reject a pixel in one exposure (OR), and in all of few BOSS fibres (AND)."""
    n, n_pixels = and_mask.shape
    share = 0.05 if instrument.is_boss else 0.008
    hits = rng.integers(0, n * n_pixels, int(share * n * n_pixels / 3))
    flat = or_mask.reshape(-1)
    for shift in range(3):
        at = np.minimum(hits + shift, flat.size - 1)
        flat[at] |= (1 << PARTIALREJECT) | (1 << NEARBADPIXEL) | (1 << COMBINEREJ)
    if instrument.is_boss:
        for i in np.flatnonzero(rng.random(n) < 0.05):
            runs = rng.integers(0, n_pixels, int(0.16 * n_pixels / 4))
            at = np.minimum(runs[:, None] + np.arange(4), n_pixels - 1)
            and_mask[i, at] |= (1 << PARTIALREJECT) | (1 << NEARBADPIXEL)
            or_mask[i, at] |= (1 << PARTIALREJECT) | (1 << NEARBADPIXEL)


def _reject(exposure: Exposure, instrument: Spectrograph, rng: np.random.Generator) -> None:
    """Set ivar to 0 where nothing was measured: rejected pixels and the untrimmed ends."""
    n, n_pixels = exposure.flux.shape
    share = 0.0020 if instrument.is_boss else 0.0007
    hits = rng.integers(0, n * n_pixels, int(share * n * n_pixels / 2))
    hits = np.minimum(np.concatenate([hits, hits + 1]), n * n_pixels - 1)
    exposure.ivar.reshape(-1)[hits] = 0
    # What stays in flux there is a remnant of the cosmic ray: it must not be used.
    exposure.flux.reshape(-1)[hits] += rng.exponential(8.0, len(hits)).astype(np.float32)
    bits = (1 << FULLREJECT) | (1 << PARTIALREJECT)
    exposure.and_mask.reshape(-1)[hits] |= bits
    exposure.or_mask.reshape(-1)[hits] |= bits
    pixel = np.arange(n_pixels)
    outside = (pixel < exposure.start[:, None]) | (pixel >= exposure.stop[:, None])
    for values in (exposure.ivar, exposure.flux, exposure.and_mask, exposure.or_mask):
        values[outside] = 0
