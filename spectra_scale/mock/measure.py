"""What a pipeline would measure of the lines: truth with errors of the size of the noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.instrument import Spectrograph
from spectra_scale.mock.kinds import BROAD, QUASAR, STAR
from spectra_scale.mock.light import PIXEL_KM_S, Continuum, Emission, broad_flux
from spectra_scale.mock.lines import HA, HB, LINE_WAVE, NII, OIII
from spectra_scale.mock.population import Floats

# Absorption under a Balmer line and template mismatch leave an error of the EW (Å), whatever the
# S/N: it is why weak Hβ is rarely significant in quiet galaxies. The values are not measured but
# tuned, with the shares of the kinds, for the paper's class fractions.
_EW_FLOOR = {HB: 0.48, HA: 0.12}
_EW_FLOOR_OTHERS = 0.18
_PROFILE = 2 * np.sqrt(np.pi)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Narrow-line fits of n objects, each array of shape (n, line) over `lines.LINES`.

    Attributes
    ----------
    flux, flux_err
        1e-17 erg/s/cm² as received. Both are 0 where the line is not in the spectrum.
    ew, ew_err
        Rest-frame Å, positive in emission.
    level
        Continuum, 1e-17 erg/s/cm²/Å.
    pixel_err
        Noise of one pixel at the line.
    sigma
        km/s.
    covered
        Whether the line is in the spectrum.
    """

    flux: Floats
    flux_err: Floats
    ew: Floats
    ew_err: Floats
    level: Floats
    pixel_err: Floats
    sigma: Floats
    covered: NDArray[np.bool_]

    @property
    def snr(self) -> Floats:
        """Flux over its error; 0 where there is none."""
        return np.divide(
            self.flux, self.flux_err, out=np.zeros_like(self.flux), where=self.flux_err > 0
        )


def measure(
    continuum: Continuum, lines: Emission, instrument: Spectrograph, rng: np.random.Generator
) -> Measured:
    """Measure the narrow lines with the noise that the spectrograph has there.

    Fluxes below zero are set to zero, as by a fit of positive amplitudes (GANDALF).
    """
    n_narrow = len(LINE_WAVE)
    stretch = 1 + continuum.objects.redshift[:, None]
    level = continuum.at(LINE_WAVE)
    pixel = np.log10(LINE_WAVE * stretch) * 1e4 - instrument.first_pixel
    covered = (pixel > 25) & (pixel < instrument.n_pixels - 25)
    at = np.clip(pixel, 0, instrument.n_pixels - 1).astype(np.int64)
    pixel_err = np.sqrt(instrument.variance_sky[at] + instrument.variance_flux[at] * level)
    truth, sigma = lines.flux[:, :n_narrow], lines.sigma[:, :n_narrow]
    width = np.sqrt((sigma / PIXEL_KM_S) ** 2 + instrument.wdisp[at] ** 2)
    step = LINE_WAVE * stretch * np.log(10) * 1e-4
    floor = np.full(n_narrow, _EW_FLOOR_OTHERS)
    floor[list(_EW_FLOOR)] = list(_EW_FLOOR.values())
    noise = 1.2 * pixel_err * step * np.sqrt(_PROFILE * width)
    # Bright lines are limited by the shape of their profiles: 1.5 %.
    error = np.sqrt(noise**2 + (floor * level * stretch) ** 2 + (0.015 * truth) ** 2)
    flux = np.maximum(truth + error * rng.standard_normal(truth.shape), 0)
    # Errors of the error: 10 %.
    quoted = error * np.exp(0.1 * rng.standard_normal(truth.shape))
    level_seen = np.maximum(level, 1e-3) * (1 + 0.02 * rng.standard_normal(truth.shape))
    seen = np.where(covered, 1.0, 0.0)
    ew, ew_err = flux / level_seen / stretch, quoted / level_seen / stretch
    spread = 1 + np.clip(0.5 * quoted / np.maximum(flux, quoted), 0, 0.5) * rng.standard_normal(
        truth.shape
    )
    return Measured(
        flux=flux * seen,
        flux_err=quoted * seen,
        ew=ew * seen,
        ew_err=ew_err * seen,
        level=level_seen * seen,
        pixel_err=pixel_err,
        sigma=np.clip(sigma * spread, 20, 500) * seen,
        covered=covered,
    )


def broad_detected(continuum: Continuum, lines: Emission, measured: Measured) -> NDArray[np.bool_]:
    """Whether the pipeline sees a broad line: at 10 sigma in Hα, Hβ or, far away, Mg II."""
    objects = continuum.objects
    width = np.sqrt(np.maximum(objects.nucleus.fwhm, 100.0) / 2.355 / PIXEL_KM_S * _PROFILE)
    found = objects.kind == QUASAR
    for line, rest in ((HA, 6564.61), (HB, 4862.68)):
        step = rest * (1 + objects.redshift) * np.log(10) * 1e-4
        # Host light under a broad line hides it more than photon noise does: 2 % of its level.
        host = 0.02 * measured.level[:, line] * step * width**2
        noise = np.hypot(measured.pixel_err[:, line] * step * width, host)
        found = found | (measured.covered[:, line] & (broad_flux(lines, rest) > 10 * noise))
    return np.asarray(found & np.isin(objects.kind, (BROAD, QUASAR)))


def pipeline_class(
    continuum: Continuum, measured: Measured, found_broad: NDArray[np.bool_]
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """CLASS and SUBCLASS as idlspec2d gives them, from measured lines.

    Returns
    -------
        Two string arrays (n,). SUBCLASS is by the pipeline's own cut, log [O III]/Hβ against
        1.2 log [N II]/Hα + 0.22 at 3 sigma, and starburst above EW(Hα) 50 Å.
    """
    objects = continuum.objects
    strong = (measured.snr[:, [HB, OIII, HA, NII]] > 3).all(axis=1)
    flux = np.maximum(measured.flux, 1e-9)
    x = np.log10(flux[:, NII] / flux[:, HA])
    y = np.log10(flux[:, OIII] / flux[:, HB])
    is_agn = y >= 1.2 * x + 0.22
    subclass = np.select(
        [strong & is_agn, strong & (measured.ew[:, HA] > 50), strong],
        ["AGN", "STARBURST", "STARFORMING"],
        "",
    )
    # Two broad-line spectra in three have no narrow class beside it.
    plain = np.mod(objects.magnitude * 977.0, 1.0) < 0.8
    prefix = np.where((subclass == "") | plain, "", np.char.add(subclass, " "))
    subclass = np.where(found_broad, np.char.add(prefix, "BROADLINE"), subclass)
    parts = continuum.parts(np.array([5100.0]))[:, 0]
    nuclear = parts[:, 1] / np.maximum(parts.sum(axis=1), 1e-9)
    is_qso = (objects.kind == QUASAR) | (found_broad & (nuclear > 0.35))
    classes = np.select([objects.kind == STAR, is_qso], ["STAR", "QSO"], "GALAXY")
    types = np.array(["A0", "F2", "F5", "F9", "G2", "K1"])
    star = types[np.clip(np.rint(objects.star).astype(int), 0, len(types) - 1)]
    return classes, np.where(objects.kind == STAR, star, subclass)
