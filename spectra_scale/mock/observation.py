"""One plate put together: fibres, objects, light, exposure and measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.instrument import Exposure, Spectrograph, observe, spectrograph
from spectra_scale.mock.light import PIXEL_KM_S, Continuum, Emission
from spectra_scale.mock.measure import Measured, broad_detected, measure, pipeline_class
from spectra_scale.mock.objects import Objects
from spectra_scale.mock.population import Floats
from spectra_scale.mock.positions import positions
from spectra_scale.mock.redshifts import find_redshifts
from spectra_scale.mock.scene import look
from spectra_scale.mock.settings import MockSettings, MockTask

Ints = NDArray[np.int64]


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
    objects, continuum, lines, measured
        The truth, and what is measured of the lines.
    exposure
        Spectra of all fibres, shape (n_fibers, pixel).
    sky_fiber
        FIBERID of the sky fibres, shape (n_sky,).
    artefact
        Index into ``instrument.ARTEFACTS``.
    redshift, redshift_err, zwarning
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
    objects: Objects
    continuum: Continuum
    lines: Emission
    measured: Measured
    exposure: Exposure
    sky_fiber: Ints
    artefact: Ints
    redshift: Floats
    redshift_err: Floats
    zwarning: Ints
    classes: NDArray[np.str_]
    subclass: NDArray[np.str_]
    has_lines: NDArray[np.bool_]


def observe_plate(task: MockTask, settings: MockSettings) -> Observation:
    """Draw, light up, expose and measure the objects of `task`."""
    rng = task.noise_rng()
    instrument = spectrograph(task.survey, rng)
    scene = look(task, settings)
    objects, continuum, lines = scene.objects, scene.continuum, scene.lines
    fiber, sky_fiber = _fibers(task, settings, rng)
    every = np.sort(np.concatenate([fiber, sky_fiber]))
    row = np.searchsorted(every, fiber)
    artefact = np.zeros(len(every), dtype=np.int64)
    # Sky residuals are the common fault; every second one of the rest loses half a spectrum.
    wrong = rng.random(len(every)) < settings.artefact_fraction
    artefact[wrong] = rng.choice((1, 2, 3), int(wrong.sum()), p=(0.7, 0.15, 0.15))
    model = np.zeros((len(every), instrument.n_pixels), dtype=np.float32)
    model[row] = scene.render(
        np.log10(instrument.wave),
        np.asarray(instrument.wdisp, dtype=np.float64) * PIXEL_KM_S,
    )
    exposure = observe(model, artefact, instrument, rng)
    measured = measure(continuum, lines, instrument, rng)
    classes, subclass = pipeline_class(
        continuum, measured, broad_detected(continuum, lines, measured)
    )
    found = find_redshifts(objects, settings, rng)
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
        objects=objects,
        continuum=continuum,
        lines=lines,
        measured=measured,
        exposure=exposure,
        sky_fiber=sky_fiber,
        artefact=artefact[row],
        redshift=found.z,
        redshift_err=found.z_err,
        zwarning=found.zwarning,
        classes=classes,
        subclass=subclass,
        has_lines=(classes == "GALAXY") & (rng.random(len(fiber)) >= settings.no_lines_fraction),
    )


def _fibers(task: MockTask, settings: MockSettings, rng: np.random.Generator) -> tuple[Ints, Ints]:
    if task.layout == "spec":
        # Scattered spectra of a plate, as they come from a query.
        drawn = rng.choice(settings.fibers(task.survey), task.n_science, replace=False) + 1
        return np.sort(drawn).astype(np.int64), np.zeros(0, dtype=np.int64)
    order = rng.permutation(task.n_fibers) + 1
    return np.sort(order[: task.n_science]), np.sort(order[task.n_science :])
