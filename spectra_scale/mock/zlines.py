"""SPZLINE: the pipeline's own line fits, from the fits to noisy spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.columns import SPZLINE, ZLINES
from spectra_scale.mock.lines import HA, HB, LINES
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.population import LIGHT_KM_S, Floats
from spectra_scale.mock.zline_fits import fit_alone

Rows = NDArray[Any]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Lines that may be broad, and their column among the fits.
_BALMER = {HA: 0, HB: 1}
# Of a pixel of 1e-4 dex, km/s; and width of the instrument and of the pixel, which LINESIGMA has.
_PIXEL_KM_S, _INSTRUMENT_KM_S = 69.0, 67.0
# Reach of a fit in widths; a line so many widths beyond the end of a spectrum was tried, too.
_REACH, _TRIED = 3.0, 5.0
_LEAST_PIXELS = 4
# What errors say of a line: not tried, and tried in vain.
_OUTSIDE, _FAILED = -1.0, -2.0
# The pipeline fits these by themselves, where the fits have them tied to a stronger line.
_UNTIED = {22: 21, 23: 25}
_O3_PAIR = {16: 17}
# Rest EW (Å) that the pipeline's templates have too much of, in any galaxy and more in a quiet
# one, by rest wavelength: public files of 0.05 < z < 0.36 have medians of -1.7, -0.7 and -0.3 at
# Hε with Ca H, Hζ and Hδ for EW(Hα) of 15 to 50 Å, and of -7.8, -1.4 and -1.6 below 3 Å. At He II
# 5411 old stars absorb less in the pipeline's continuum than in the level beside the line.
_EXCESS = {3868: (0.0, 0.7), 3890: (1.15, 0.5), 3970: (2.5, 6.0), 4102: (1.0, 0.9),
           4341: (0.35, 1.0), 4364: (0.0, 0.2), 4863: (0.1, 0.6), 5413: (0.05, -0.25)}  # fmt: skip
_QUIET_EW = 4.0
# Error of the continuum times the spectrum's S/N, by rest wavelength (Å), in the same files.
_CONT_WAVE = np.array([3700.0, 3870.0, 3970.0, 4103.0, 4200.0, 6800.0, 7137.0])
_CONT_ERROR = np.array([0.46, 0.32, 0.28, 0.226, 0.0183, 0.0183, 0.133])
# Misfit of a Gaussian profile, as a share of the line's S/N.
_PROFILE = 0.022
# Of templates that took too much: χ² is up to 15 a degree of freedom in public files.
_MOST_MISFIT = 120.0


@dataclass(frozen=True, slots=True, eq=False)
class _Fits:
    """Fits of lines, each array (n, line) unless said otherwise.

    Attributes
    ----------
    flux, error, level
        1e-17 erg/s/cm² and, for the continuum, per Å as observed.
    excess
        What templates took too much, over the error.
    """

    flux: Floats
    error: Floats
    level: Floats
    excess: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """Where lines are in their spectra, each array (n, line).

    Attributes
    ----------
    sigma
        km/s, with the instrument's.
    centre
        Real index of the pixel.
    left, right
        Valid pixels within three widths.
    near
        Whether the line is in the spectrum or not far from its ends.
    """

    sigma: Floats
    centre: Floats
    left: Ints
    right: Ints
    near: Bools


def zline_rows(seen: Observation, snr: Floats) -> Rows:
    """SPZLINE of all spectra, shape (n, line): 29 lines in legacy files, 32 in BOSS.

    Widths and centres are tied, Balmer lines apart; widths hold the instrument's, and LINEEW is in
    the observed frame. Errors are -1 where a line is not in the spectrum and -2 where there are
    too few pixels to fit it.

    Fluxes are those of `fit_lines`, with three differences. The pipeline lets them be negative:
    where the fit stopped at 0, noise below zero of the quoted error is drawn. Its templates have
    too little absorption filled in at Hδ, Hε and Ca H, which makes these lines negative in most
    galaxies: that is drawn around the medians of public files. Lines that `fit_lines` does not
    have are fitted to the noisy pixels, as are those whose neighbours are outside. LINECHI2 is
    drawn for LINEDOF degrees of freedom, with the misfit of strong lines' wings. All draws depend
    on the seed, the plate and the fibre alone.

    Parameters
    ----------
    seen
        The plate as observed.
    snr
        SN_MEDIAN_ALL, shape (n,).
    """
    lines = [z for z in ZLINES if z[2] in {"", seen.task.spectrograph}]
    wave, known = np.array([z[1] for z in lines]), np.array([z[3] for z in lines])
    names = np.array([z[0] for z in lines])
    drawn = _drawn(seen, len(lines))
    motion = _motion(seen, drawn[0])
    places = _places(seen, wave, np.char.startswith(names, "H_"), known, motion)
    fits = _measured(seen, (wave, known), places, drawn)
    n_pixels = places.left + places.right
    fitted = (n_pixels >= _LEAST_PIXELS) & (fits.error > 0) & (fits.level != 0)
    dof = n_pixels - np.select(
        [np.char.startswith(names, "H_"), np.isin(known, (16, 17))], [1.3, 0.6], 1.1
    )
    continuum = np.interp(wave, _CONT_WAVE, _CONT_ERROR) / np.maximum(snr, 0.5)[:, None]
    level = np.where(fits.level != 0, np.abs(fits.level), np.inf)
    values: dict[str, Any] = {
        "LINEAREA": fits.flux, "LINEAREA_ERR": fits.error, "LINEEW": fits.flux / level,
        "LINEEW_ERR": fits.error / level, "LINENPIXLEFT": places.left,
        "LINENPIXRIGHT": places.right, "LINEDOF": dof,
        "LINECHI2": _chi2(dof, fits, drawn),
    }  # fmt: skip
    tried: dict[str, Any] = {
        "LINEZ": seen.redshift[:, None] + seen.measured.fits.velocity[:, None] / LIGHT_KM_S,
        "LINEZ_ERR": motion[2][:, None] / LIGHT_KM_S, "LINESIGMA": places.sigma,
        "LINESIGMA_ERR": np.where(places.sigma > 800, 0.02 * places.sigma, motion[2][:, None]),
        "LINECONTLEVEL": fits.level, "LINECONTLEVEL_ERR": continuum * np.abs(fits.level),
    }  # fmt: skip
    rows = _blank(seen, names, wave)
    for name, value in tried.items():
        rows[name] = np.where(fitted | places.near, value, rows[name])
    for name in ("LINEAREA_ERR", "LINEEW_ERR"):
        rows[name][places.near & ~fitted] = _FAILED
    for name, value in values.items():
        rows[name] = np.where(fitted, value, rows[name])
    return rows


def _blank(seen: Observation, names: NDArray[np.str_], wave: Floats) -> Rows:
    rows = np.zeros((len(seen.fiber), len(wave)), dtype=SPZLINE)
    rows["PLATE"], rows["MJD"] = seen.task.plate, seen.task.mjd
    rows["FIBERID"] = seen.fiber[:, None]
    rows["LINENAME"], rows["LINEWAVE"] = names, wave
    for name in ("LINEZ_ERR", "LINESIGMA_ERR", "LINEAREA_ERR", "LINEEW_ERR", "LINECONTLEVEL_ERR"):
        rows[name] = _OUTSIDE
    rows["LINECHI2"] = -1
    return rows


def _drawn(seen: Observation, n_lines: int) -> Floats:
    """Standard normals (5, n, line) that a fibre has whoever else is observed."""
    task = seen.task
    rng = np.random.default_rng((task.seed, task.plate, 7))
    every = rng.standard_normal((seen.settings.fibers(task.survey), 5, n_lines))
    return np.moveaxis(every[seen.fiber - 1], 1, 0)


def _motion(seen: Observation, drawn: Floats) -> tuple[Floats, Floats, Floats]:
    """Widths (km/s, with the instrument's) of Balmer and other lines, and their error, (n,) each.

    Where no line is strong, widths are what noise makes of them: 60 to 600 km/s in public files.
    """
    fits = seen.measured.fits
    ratio = np.divide(fits.flux, fits.flux_err, out=np.zeros_like(fits.flux),
                      where=fits.flux_err > 0)  # fmt: skip
    snr = np.maximum(ratio.max(axis=1), 2.0)
    weak = fits.gain < 25
    by_noise = np.clip(10 ** (2.25 + 0.25 * drawn[:, 0]), 55, 600)
    sigma = np.where(weak, by_noise, np.hypot(fits.sigma, _INSTRUMENT_KM_S))
    error = np.clip(0.9 * sigma / snr, 0.3, 0.5 * sigma)
    balmer, other = (np.maximum(sigma + error * drawn[:, i], 40.0) for i in (1, 2))
    return balmer, other, error


def _places(
    seen: Observation,
    wave: Floats,
    is_balmer: Bools,
    known: Ints,
    motion: tuple[Floats, Floats, Floats],
) -> _Places:
    sigma = np.where(is_balmer, motion[0][:, None], motion[1][:, None])
    wide = _broad(seen)[0][:, known] > 0
    wide &= known >= 0
    fwhm = seen.measured.fits.broad_fwhm[:, None]
    sigma = np.where(wide, np.maximum(fwhm / 2.355, sigma), sigma)
    velocity = seen.measured.fits.velocity[:, None] / LIGHT_KM_S
    stretch = np.maximum((1 + seen.redshift[:, None]) * (1 + velocity), 0.1)
    centre = np.log10(wave * stretch) / 1e-4 - seen.instrument.first_pixel
    good = seen.exposure.ivar[seen.row] > 0
    count = np.zeros((len(good), good.shape[1] + 1), dtype=np.int64)
    np.cumsum(good, axis=1, out=count[:, 1:])

    def before(pixel: Floats) -> Ints:
        at = np.clip(np.rint(pixel), 0, good.shape[1]).astype(np.int64)
        return np.asarray(np.take_along_axis(count, at, axis=1))

    reach = np.rint(_REACH * sigma / _PIXEL_KM_S)
    middle = np.rint(centre)
    start, stop = seen.exposure.start[seen.row, None], seen.exposure.stop[seen.row, None]
    beyond = _TRIED * sigma / _PIXEL_KM_S
    return _Places(
        sigma=sigma,
        centre=centre,
        left=before(middle) - before(middle - reach),
        right=before(middle + reach) - before(middle),
        near=(centre > start - beyond) & (centre < stop + beyond) & (stop > start),
    )


def _measured(
    seen: Observation, lines: tuple[Floats, Ints], places: _Places, drawn: Floats
) -> _Fits:
    wave, known = lines
    narrow, error = _unconstrained(seen, known, drawn)
    broad, broad_err = (values[:, known] for values in _broad(seen))
    flux, error = narrow + broad, np.hypot(error, broad_err)
    there = (known >= 0) & (seen.measured.flux_err[:, known] > 0)
    level = np.where(known >= 0, seen.measured.fits.level[:, known], 0.0)
    tried = places.near & (places.left + places.right >= _LEAST_PIXELS)
    pairs = np.argwhere(tried & (~there | (level <= 0))).astype(np.int64)
    alone = pairs[:, 0], pairs[:, 1]
    own_flux, own_error, own_level = _alone(seen, lines, places, alone)
    by_itself = ~there[alone]
    chosen = alone[0][by_itself], alone[1][by_itself]
    flux[:], error[:] = np.where(there, flux, 0.0), np.where(there, error, 0.0)
    flux[chosen], error[chosen] = own_flux[by_itself], own_error[by_itself]
    level[alone] = own_level
    excess = _excess(seen, wave, drawn[3]) * np.maximum(level, 0.0)
    flux = np.where(error > 0, flux - excess, 0.0)
    over = np.divide(excess, error, out=np.zeros_like(excess), where=error > 0)
    return _Fits(flux, error, level, over)


def _unconstrained(seen: Observation, known: Ints, drawn: Floats) -> tuple[Floats, Floats]:
    """Narrow fluxes and errors as they would be if they could be negative, shape (n, line)."""
    fits = seen.measured.fits
    flux, error = fits.flux[:, known], fits.flux_err[:, known]
    place = {int(line): i for i, line in enumerate(known) if line >= 0}
    noise = drawn[4].copy()
    for line, partner in _O3_PAIR.items():
        noise[:, place[line]] = noise[:, place[partner]]
    flux = np.where((flux == 0) & (error > 0), -np.abs(noise) * error, flux)
    for line, partner in _UNTIED.items():
        i, own = place[line], fits.flux_err[:, partner]
        more = np.sqrt(np.maximum(own**2 - error[:, i] ** 2, 0.0))
        flux[:, i] = fits.flux[:, line] + noise[:, i] * more
        error[:, i] = np.where(error[:, i] > 0, np.maximum(own, error[:, i]), 0.0)
    # Hε and [Ne III] are one line for a spectrograph of this resolution: legacy files name it
    # after the latter, BOSS files share it out.
    both = fits.flux[:, 6] + fits.flux[:, 8], np.hypot(fits.flux_err[:, 6], fits.flux_err[:, 8])
    share = 0.5 if 8 in place else 1.0
    for line in {6, 8} & set(place):
        i = place[line]
        below = (both[0] == 0) & (both[1] > 0)
        total = np.where(below, -np.abs(noise[:, place[6]]) * both[1], both[0])
        flux[:, i], error[:, i] = share * total, share * both[1]
    return flux, error


def _alone(
    seen: Observation, lines: tuple[Floats, Ints], places: _Places, chosen: tuple[Ints, Ints]
) -> tuple[Floats, Floats, Floats]:
    """Fits of single lines (m,) to pixels from which the [O I] line beside [S III] is taken."""
    wave, known = lines
    row, line = chosen
    sigma = places.sigma[chosen] / _PIXEL_KM_S
    step = 1e-4 * np.log(10)
    # [O I] 6300 is eight pixels from [S III] 6312: its fitted profile is taken off.
    oxygen = int(np.flatnonzero(known == 21)[0])
    flux = np.where(known[line] == 31, seen.measured.fits.flux[row, 21], 0.0)
    gap = places.centre[row, oxygen] - places.centre[chosen]
    observed = wave[line] * np.maximum(1 + seen.redshift[row], 0.1)
    peak = flux / (np.sqrt(2 * np.pi) * sigma * step * observed)
    pixels = seen.exposure.flux, seen.exposure.ivar
    area, error, level = fit_alone(
        pixels, seen.row[row], places.centre[chosen], sigma, (gap, peak)
    )
    return area * step * observed, error * step * observed, level


def _excess(seen: Observation, wave: Floats, drawn: Floats) -> Floats:
    """Observed EW (Å) that templates take too much of each line, shape (n, line)."""
    shares = np.zeros((2, len(wave)))
    for centre, pair in _EXCESS.items():
        # Lines of the two surveys' lists lie within 4 Å of one another.
        shares[:, np.abs(wave - centre) < 4] = np.array(pair)[:, None]
    if seen.task.spectrograph == "boss":
        # Two lines there share what is one in legacy files.
        shares[:, np.abs(wave - 3970) < 4] *= 0.5
    ew = seen.measured.ew[:, HA]
    quiet = 1 / (1 + (ew / _QUIET_EW) ** 2)
    mean = shares[0] + shares[1] * quiet[:, None]
    scatter = 1 + 0.35 * drawn
    is_galaxy = (seen.classes == "GALAXY")[:, None]
    return np.asarray(mean * scatter * is_galaxy * (1 + seen.redshift[:, None]))


def _chi2(dof: Floats, fits: _Fits, drawn: Floats) -> Floats:
    """χ² of fits with `dof` degrees of freedom: Wilson & Hilferty (1931), and misfits."""
    free = np.maximum(dof, 1.0)
    normal, heavy = drawn[1], drawn[2]
    part = 2 / (9 * free)
    chi2 = free * np.maximum(1 - part + normal * np.sqrt(part), 0.05) ** 3
    snr = np.divide(fits.flux, fits.error, out=np.zeros_like(fits.flux), where=fits.error > 0)
    wings = free * (_PROFILE * snr) ** 2 * np.exp(0.8 * heavy - 0.3)
    return np.asarray(0.95 * chi2 + wings + 0.5 * np.minimum(fits.excess**2, _MOST_MISFIT))


def _broad(seen: Observation) -> tuple[Floats, Floats]:
    """Broad flux and error of every line, shape (n, line): Hα and Hβ as fitted, others by Hβ."""
    fits, n = seen.measured.fits, len(seen.fiber)
    flux, error = np.zeros((n, len(LINES))), np.zeros((n, len(LINES)))
    found = np.char.find(seen.subclass, "BROADLINE") >= 0
    for line, column in _BALMER.items():
        flux[found, line] = fits.broad_flux[found, column]
        error[found, line] = fits.broad_err[found, column]
    for line, share in ((9, 0.23), (10, 0.42)):
        flux[:, line], error[:, line] = share * flux[:, HB], share * error[:, HB]
    return flux, error
