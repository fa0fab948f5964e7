"""One DESI healpixel put together: targets, light, the three arms, and what redrock finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.instrument import Exposure, Spectrograph, desi_arms, observe_arms
from spectra_scale.mock.kinds import BROAD, QUASAR, STAR
from spectra_scale.mock.population import Floats
from spectra_scale.mock.positions import positions
from spectra_scale.mock.redshifts import Redshifts, find_redshifts
from spectra_scale.mock.scene import Scene, look
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.targets import target_classes
from spectra_scale.mock.task import MockTask

Ints = NDArray[np.int64]

ARMS = ("b", "r", "z")
# Bits of FIBERSTATUS: RESTRICTED says nothing of the spectrum; with BADPOSITION or BADFIBER the
# pipeline leaves nothing of it.
RESTRICTED, BAD_POSITION, BAD_FIBER = 1 << 3, 1 << 9, 1 << 16
_BLANK_SHARE = 0.01
_STATUS_SHARES = {RESTRICTED: 0.010, RESTRICTED | BAD_POSITION: 0.006, BAD_FIBER: 0.004}
# A nucleus that outshines its host makes redrock take the object for a quasar.
_QSO_SHARE = 0.45


@dataclass(frozen=True, slots=True, eq=False)
class DesiObservation:
    """A healpixel as observed: n_science targets in n_rows rows of the files.

    Attributes
    ----------
    task, settings
        What was asked for.
    scene
        The targets and their light.
    row
        File row of each target, shape (n_science,).
    sky_row
        Those of sky fibres, shape (n_sky,); the others are fibres without a target.
    n_rows
        Rows of the files.
    ra, dec
        Degrees, shape (n_science,).
    target
        Target class, shape (n_science,).
    status
        COADD_FIBERSTATUS, shape (n_rows,).
    artefact
        Index into ``instrument.ARTEFACTS``, shape (n_science,).
    arms, exposures
        Spectrographs and spectra of B, R and Z, the latter of shape (n_rows, pixel).
    missing_arm
        Name of the arm that the coadd lacks, or nothing.
    redshifts, spectype
        As redrock finds them, shape (n_science,).
    n_exposures
        Exposures of each row, shape (n_rows,).
    """

    task: MockTask
    settings: MockSettings
    scene: Scene
    row: Ints
    sky_row: Ints
    n_rows: int
    ra: Floats
    dec: Floats
    target: NDArray[np.str_]
    status: Ints
    artefact: Ints
    arms: tuple[Spectrograph, ...]
    exposures: tuple[Exposure, ...]
    missing_arm: str
    redshifts: Redshifts
    spectype: NDArray[np.str_]
    n_exposures: Ints

    @property
    def is_lost(self) -> NDArray[np.bool_]:
        """Rows without any data, shape (n_rows,)."""
        bad = (self.status & (BAD_POSITION | BAD_FIBER)) > 0
        blank = np.ones(self.n_rows, dtype=np.bool_)
        blank[self.row] = blank[self.sky_row] = False
        return np.asarray(bad | blank)


def observe_healpix(task: MockTask, settings: MockSettings) -> DesiObservation:
    """Draw, light up, expose and measure the targets of a healpixel."""
    rng = task.noise_rng()
    arms = desi_arms(rng)
    scene = look(task, settings)
    objects = scene.objects
    n_rows, row, sky_row = _rows(task, rng)
    _, ra, dec = positions(task)
    status = _status(row, sky_row, n_rows, rng)
    every = _artefacts(n_rows, settings, rng)
    models = []
    for arm in arms:
        model = np.zeros((n_rows, arm.n_pixels), dtype=np.float32)
        model[row] = scene.render(np.log10(arm.wave), arm.sigma_km_s)
        models.append(model)
    is_qso = (objects.kind == QUASAR) | (
        (objects.kind == BROAD) & (objects.nucleus.share > _QSO_SHARE)
    )
    is_star = (objects.kind == STAR) & ~objects.as_galaxy
    most = 1 if task.program == "bright" else 4
    lacks = rng.random() < settings.missing_arm_fraction
    seen = DesiObservation(
        task=task,
        settings=settings,
        scene=scene,
        row=row,
        sky_row=sky_row,
        n_rows=n_rows,
        ra=ra,
        dec=dec,
        target=target_classes(task, objects.kind, objects.redshift, objects.magnitude),
        status=status,
        artefact=every[row],
        missing_arm=str(rng.choice(ARMS)) if lacks else "",
        redshifts=find_redshifts(objects, settings, rng),
        spectype=np.select([is_star, is_qso], ["STAR", "QSO"], "GALAXY"),
        n_exposures=rng.integers(1, most + 1, n_rows),
        arms=arms,
        exposures=observe_arms(models, every, arms, rng),
    )
    _leave_nothing(seen)
    return seen


def _rows(task: MockTask, rng: np.random.Generator) -> tuple[int, Ints, Ints]:
    n_blank = round(_BLANK_SHARE * task.n_science)
    n_rows = task.n_fibers + n_blank
    order = rng.permutation(n_rows)
    science, sky = order[: task.n_science], order[task.n_science : task.n_fibers]
    return n_rows, np.sort(science), np.sort(sky)


def _status(row: Ints, sky_row: Ints, n_rows: int, rng: np.random.Generator) -> Ints:
    # Fibres without a target are stuck, and their status says so (bit 0, UNASSIGNED).
    status = np.ones(n_rows, dtype=np.int64)
    chance = rng.random(n_rows)
    drawn = np.zeros(n_rows, dtype=np.int64)
    low = 0.0
    for bits, share in _STATUS_SHARES.items():
        drawn[(chance >= low) & (chance < low + share)] = bits
        low += share
    status[row], status[sky_row] = drawn[row], 0
    return status


def _artefacts(n: int, settings: MockSettings, rng: np.random.Generator) -> Ints:
    artefact = np.zeros(n, dtype=np.int64)
    wrong = rng.random(n) < settings.artefact_fraction
    artefact[wrong] = rng.choice((1, 2, 3), int(wrong.sum()), p=(0.7, 0.15, 0.15))
    artefact[rng.random(n) < settings.cosmic_ray_fraction] = 4
    return artefact


def _leave_nothing(seen: DesiObservation) -> None:
    """Clear rows that the pipeline leaves empty, and pixels that it masks."""
    lost = np.flatnonzero(seen.is_lost)
    for exposure in seen.exposures:
        # In real coadds every masked pixel has no inverse variance either.
        exposure.ivar[exposure.and_mask != 0] = 0
        for values in (exposure.flux, exposure.ivar, exposure.and_mask):
            values[lost] = 0
