"""Noiseless light in, spectra as the pipeline delivers them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spectra_scale.errors import UsageError
from spectra_scale.mock.exposure_kernels import (
    Bits,
    Errors,
    Ints,
    Raw,
    expose_kernel,
    finish_kernel,
    residual_kernel,
)
from spectra_scale.mock.faults import (
    SKY_RESIDUAL,
    add_cosmic_rays,
    add_outliers,
    add_steps,
    lose_halves,
)
from spectra_scale.mock.fibers import (
    Fibers,
    calibration_errors,
    draw_fibers,
    fibre_losses,
    sky_leftovers,
    slit_position,
)
from spectra_scale.mock.masks import draw_masks
from spectra_scale.mock.sky import Singles
from spectra_scale.mock.spectrograph import Spectrograph

# The logarithm of ivar scatters by 6 to 7 % from pixel to pixel about what light and sky explain.
# Neighbours correlate at 0.62, 0.25, 0.05 in legacy files, at 0.52, 0.24, 0.17 in BOSS files:
# pixels of the sum share pixels of its exposures. DESI coadds scatter by 3 %.
_PIXEL_ERROR = {"sdss": 0.060, "boss": 0.060, "desi": 0.030}
_SMEARED = {"sdss": (1.0, 1.0, 0.9), "boss": (1.0, 0.55, 0.3, 0.2), "desi": (1.0, 0.3)}


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """Spectra of a plate as the pipeline delivers them, each array of shape (fiber, pixel).

    Attributes
    ----------
    flux, ivar, and_mask, or_mask, sky
        As in spPlate. Pixels beyond a fibre's ends have ivar 0 and flux 0. Within, flux may be
        anything where ivar is 0, and sky is 0 there as in real files.
    model
        The noiseless spectrum with its fibre losses and slopes of calibration, which a best fit
        follows, and without the wiggles of calibration and sky that it does not: it stands in
        for the pipeline's best fit.
    sigma
        True noise of a pixel; neighbours are correlated. What sky subtraction and calibration
        left besides, and the few bad pixels, are not in it.
    start, stop
        First and one past the last pixel of each fibre, shape (fiber,).
    slit_place
        Of `Spectrograph.wdisp_of`, shape (fiber,).
    """

    flux: Singles
    ivar: Singles
    and_mask: Bits
    or_mask: Bits
    sky: Singles
    model: Singles
    sigma: Singles
    start: Ints
    stop: Ints
    slit_place: Singles


def observe(
    model: Singles, artefact: Ints, instrument: Spectrograph, rng: np.random.Generator
) -> Exposure:
    """Expose noiseless spectra.

    Parameters
    ----------
    model
        F_λ, 1e-17 erg/s/cm²/Å, shape (fiber, pixel); rows of zeros are sky fibres. The first half
        of the rows feeds the first spectrograph.
    artefact
        Index into `ARTEFACTS`, shape (fiber,).
    instrument, rng
        The spectrograph on this plate; everything random about this observation.
    """
    fibers = draw_fibers(instrument, len(model), rng)
    return _expose(model, artefact, instrument, (fibers, rng), rng)


def observe_arms(
    models: Sequence[Singles],
    artefact: Ints,
    arms: Sequence[Spectrograph],
    rng: np.random.Generator,
) -> tuple[Exposure, ...]:
    """Expose noiseless spectra through the arms of one DESI plate.

    All arms are fed by the same fibres: they share the sky, and what misses a fibre.

    Parameters
    ----------
    models
        F_λ on the grid of each arm, shape (fiber, pixel) each.
    artefact, arms, rng
        As in `observe`, and `desi_arms`. DESI has one mask: `and_mask` and `or_mask` are equal.
    """
    n = len(models[0])
    fibers = draw_fibers(arms[0], n, rng)
    seed = int(rng.integers(2**62))
    return tuple(
        _expose(model, artefact, arm, (fibers, np.random.default_rng(seed)), rng)
        for model, arm in zip(models, arms, strict=True)
    )


def _expose(
    model: Singles,
    artefact: Ints,
    instrument: Spectrograph,
    through: tuple[Fibers, np.random.Generator],
    rng: np.random.Generator,
) -> Exposure:
    """Expose through fibres, whose places on the objects come from a generator of their own."""
    fibers, places = through
    n, n_pixels = model.shape
    if n_pixels != instrument.n_pixels or len(artefact) != n:
        message = (
            f"Light of shape {model.shape} with {len(artefact)} artefacts does not fit: expected "
            f"{instrument.n_pixels} pixels of {instrument.name!r} and one artefact a fibre. "
            "Render it on this plate's own wavelengths."
        )
        raise UsageError(message)
    raw = _empty(model, rng)
    losses = fibre_losses(instrument, n, places)
    add_steps(losses, artefact, instrument, rng)
    errors = Errors(losses, calibration_errors(instrument, n, rng), _pixel_error(instrument, rng))
    expose_kernel(raw, instrument.curves, fibers, errors)
    _leave_sky(raw.flux, artefact, instrument, rng)
    add_outliers(raw, rng)
    add_cosmic_rays(raw, artefact, rng)
    masks = draw_masks(instrument, n, rng)
    lost = masks.lost.view(np.bool_)
    raw.ivar[lost] = 0
    # What stays in flux there is the remnant of what made it unusable.
    raw.flux[lost] += rng.exponential(4.0, int(lost.sum())).astype(np.float32) * raw.sigma[lost]
    start, stop = _ends(instrument, n, rng)
    lose_halves(artefact, instrument, start, stop, rng)
    finish_kernel(raw, masks.and_mask, masks.or_mask, start, stop)
    return Exposure(
        flux=raw.flux,
        ivar=raw.ivar,
        and_mask=masks.and_mask,
        or_mask=masks.or_mask,
        sky=raw.sky,
        model=raw.model,
        sigma=raw.sigma,
        start=start,
        stop=stop,
        slit_place=fibers.place,
    )


def _empty(model: Singles, rng: np.random.Generator) -> Raw:
    ivar, sky, sigma = (np.empty(model.shape, dtype=np.float32) for _ in range(3))
    light = np.array(model, dtype=np.float32, order="C")
    white = rng.standard_normal(model.shape, dtype=np.float32)
    return Raw(flux=white, ivar=ivar, sky=sky, model=light, sigma=sigma)


def _pixel_error(instrument: Spectrograph, rng: np.random.Generator) -> Singles:
    kernel = np.array(_SMEARED[instrument.survey], dtype=np.float32)
    kernel *= np.float32(_PIXEL_ERROR[instrument.survey]) / np.sqrt((kernel**2).sum())
    n = 3 * instrument.n_pixels
    white = rng.standard_normal(n + len(kernel) - 1, dtype=np.float32)
    error = np.zeros(n, dtype=np.float32)
    for shift, weight in enumerate(kernel):
        error += weight * white[shift : shift + n]
    # A relative error of -1 would be no measurement: five sigma of the roughest pixels.
    return np.asarray(np.clip(error, -0.4, 0.4))


def _leave_sky(
    flux: Singles, artefact: Ints, instrument: Spectrograph, rng: np.random.Generator
) -> None:
    shares = sky_leftovers(instrument, len(flux), artefact == SKY_RESIDUAL, rng)
    bands = instrument.band_lines
    slope = np.gradient(bands, axis=1)
    shapes = np.stack([bands, slope, np.gradient(slope, axis=1)]).reshape(-1, bands.shape[1])
    there = shapes != 0
    ends = np.zeros((len(shapes), 2), dtype=np.int64)
    found = there.any(axis=1)
    ends[found, 0] = there[found].argmax(axis=1)
    ends[found, 1] = bands.shape[1] - there[found, ::-1].argmax(axis=1)
    residual_kernel(flux, shares.reshape(len(flux), -1), shapes.astype(np.float32), ends)


def _ends(instrument: Spectrograph, n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """First and one past the last pixel: spectra are curved on the detector.

    In legacy files fibres at the ends of a slit start 28 pixels redder; in BOSS files those of
    the second spectrograph start 50 pixels redder and end 23 pixels redder.
    """
    if instrument.survey == "desi":
        return np.zeros(n, dtype=np.int64), np.full(n, instrument.n_pixels, dtype=np.int64)
    half, x = slit_position(n)
    if instrument.is_boss:
        start, stop = 6 + 48 * half + 14 * x**2, instrument.n_pixels - 27 + 22 * half - 6 * x**2
    else:
        start, stop = 1 + 7 * half + 28 * x**2, instrument.n_pixels - 16 + 8 * half - 4 * x**2
    start, stop = start + rng.integers(0, 3, n), stop - rng.integers(0, 4, n)
    return start.astype(np.int64), stop.astype(np.int64)
