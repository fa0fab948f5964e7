"""One plate or field put together: fibres, objects, light, exposure and measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.faults import CALIBRATION_STEP
from spectra_scale.mock.instrument import Exposure, Spectrograph, observe, spectrograph
from spectra_scale.mock.light import PIXEL_KM_S
from spectra_scale.mock.measure import Measured, measure, pipeline_class
from spectra_scale.mock.objects import Objects
from spectra_scale.mock.population import Floats
from spectra_scale.mock.positions import positions
from spectra_scale.mock.redshifts import Redshifts, find_redshifts
from spectra_scale.mock.reductions import reduce_with
from spectra_scale.mock.scene import Scene, look
from spectra_scale.mock.settings import MockSettings, MockTask

Ints = NDArray[np.int64]
Singles = NDArray[np.float32]
# Terms of the polynomial that the pipeline fits together with a template.
_N_POLY = 4


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A plate as observed. Arrays of length n_science unless said otherwise.

    Attributes
    ----------
    task, settings, instrument
        What was asked for, and with which spectrograph.
    centre
        RA and Dec (deg) of the plate.
    fiber
        FIBERID of each science spectrum.
    row
        Its row in the exposure.
    ra, dec
        Degrees.
    scene
        The truth: objects and their light.
    measured
        What is measured of the lines.
    exposure
        Spectra of all fibres, shape (n_fibers, pixel).
    sky_fiber
        FIBERID of the sky fibres, shape (n_sky,).
    artefact
        Index into ``instrument.ARTEFACTS``.
    redshifts
        As the pipeline finds them.
    classes, subclass
        As the pipeline finds them.
    has_lines
        Whether the line table has a row.
    """

    task: MockTask
    settings: MockSettings
    instrument: Spectrograph
    centre: tuple[float, float]
    fiber: Ints
    row: Ints
    ra: Floats
    dec: Floats
    scene: Scene
    measured: Measured
    exposure: Exposure
    sky_fiber: Ints
    artefact: Ints
    redshifts: Redshifts
    classes: NDArray[np.str_]
    subclass: NDArray[np.str_]
    has_lines: NDArray[np.bool_]

    @property
    def objects(self) -> Objects:
        """The objects of the science fibres."""
        return self.scene.objects

    @property
    def redshift(self) -> Floats:
        """Redshifts that the pipeline finds, shape (n,)."""
        return self.redshifts.z

    @property
    def redshift_err(self) -> Floats:
        """Their quoted errors."""
        return self.redshifts.z_err

    @property
    def zwarning(self) -> Ints:
        """Their ZWARNING."""
        return self.redshifts.zwarning


def observe_plate(task: MockTask, settings: MockSettings) -> Observation:
    """Draw, light up, expose and measure the objects of `task`."""
    rng = task.noise_rng()
    instrument = spectrograph(task.spectrograph, rng)
    scene = look(task, settings)
    objects = scene.objects
    fiber, sky_fiber = _fibers(task, settings, rng)
    every = np.sort(np.concatenate([fiber, sky_fiber]))
    row = np.searchsorted(every, fiber)
    artefact = np.zeros(len(every), dtype=np.int64)
    # Sky residuals are the common fault; every second one of the rest loses half a spectrum.
    wrong = rng.random(len(every)) < settings.artefact_fraction
    artefact[wrong] = rng.choice((1, 2, 3), int(wrong.sum()), p=(0.7, 0.15, 0.15))
    artefact[rng.random(len(every)) < settings.cosmic_ray_fraction] = 4
    model = np.zeros((len(every), instrument.n_pixels), dtype=np.float32)
    log_wave = np.log10(instrument.wave)
    sigma = np.asarray(instrument.wdisp, dtype=np.float64) * PIXEL_KM_S
    model[row] = scene.render(log_wave, sigma)
    exposure = observe(model, artefact, instrument, rng)
    _refit_steps(exposure, model, artefact)
    found = find_redshifts(objects, settings, rng, survey=task.spectrograph)
    if task.layout == "field":
        found = reduce_with(exposure, found, task, settings)
    measured = measure(log_wave, exposure.flux[row], exposure.ivar[row], found.z, sigma)
    classes, subclass = pipeline_class(objects, measured)
    centre, ra, dec = positions(task)
    return Observation(
        task=task,
        settings=settings,
        instrument=instrument,
        centre=centre,
        fiber=fiber,
        row=row,
        ra=ra,
        dec=dec,
        scene=scene,
        measured=measured,
        exposure=exposure,
        sky_fiber=sky_fiber,
        artefact=artefact[row],
        redshifts=found,
        classes=classes,
        subclass=subclass,
        has_lines=(classes == "GALAXY") & (rng.random(len(fiber)) >= settings.no_lines_fraction),
    )


def _refit_steps(exposure: Exposure, light: Singles, artefact: Ints) -> None:
    """Make the best fit of spectra with a step of calibration smooth: light times a polynomial.

    The exposure's own model has the step in it. No template with a polynomial could follow one, so
    that flux minus model shows it.

    Parameters
    ----------
    exposure
        Whose `model` is changed in the rows with a step.
    light
        Noiseless spectra, shape (fiber, pixel).
    artefact
        Index into ``instrument.ARTEFACTS``, shape (fiber,).
    """
    x = np.linspace(-1, 1, light.shape[1])
    terms = np.polynomial.legendre.legvander(x, _N_POLY - 1)
    for row in np.flatnonzero(artefact == CALIBRATION_STEP):
        wanted = exposure.model[row].astype(np.float64)
        good = (exposure.ivar[row] > 0) & (wanted != 0)
        if np.count_nonzero(good) < 100:
            continue
        design = terms[good] * light[row, good, None] * np.sqrt(exposure.ivar[row, good])[:, None]
        right = wanted[good] * np.sqrt(exposure.ivar[row, good])
        shape = terms @ np.linalg.lstsq(design, right, rcond=None)[0]
        exposure.model[row] = np.where(wanted != 0, light[row] * shape, 0)


def _fibers(task: MockTask, settings: MockSettings, rng: np.random.Generator) -> tuple[Ints, Ints]:
    if task.layout in {"spec", "field"}:
        # Scattered spectra of a plate, as they come from a query.
        drawn = rng.choice(settings.fibers(task.survey), task.n_science, replace=False) + 1
        return np.sort(drawn).astype(np.int64), np.zeros(0, dtype=np.int64)
    order = rng.permutation(task.n_fibers) + 1
    return np.sort(order[: task.n_science]), np.sort(order[task.n_science :])
