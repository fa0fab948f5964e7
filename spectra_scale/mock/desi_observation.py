"""One DESI healpixel put together: targets, light, the three arms, and what redrock finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.faults import lost_arms
from spectra_scale.mock.instrument import Exposure, Spectrograph, desi_arms, observe_arms
from spectra_scale.mock.kinds import BROAD, QUASAR, STAR
from spectra_scale.mock.measure import QSO_SHARE
from spectra_scale.mock.objects import Objects
from spectra_scale.mock.population import Floats
from spectra_scale.mock.positions import positions
from spectra_scale.mock.redshifts import Redshifts, find_redshifts
from spectra_scale.mock.scene import Scene, look
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.targets import target_classes
from spectra_scale.mock.task import MockTask

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ARMS = ("b", "r", "z")
# Bits of FIBERSTATUS: RESTRICTED says nothing of the spectrum; with BADPOSITION or BADFIBER the
# pipeline leaves nothing of it.
RESTRICTED, BAD_POSITION, BAD_FIBER = 1 << 3, 1 << 9, 1 << 16
_BLANK_SHARE = 0.01
# Of fibres without a target: stuck, at times with a bad position or a broken one.
_BLANK_STATUS = (1, 1 | BAD_POSITION, 1 | RESTRICTED | (1 << 10))
_STATUS_SHARES = {RESTRICTED: 0.010, RESTRICTED | BAD_POSITION: 0.006, BAD_FIBER: 0.004}


@dataclass(frozen=True, slots=True, eq=False)
class Fibres:
    """Who is on which row of a healpixel's files; drawn by itself, cheaply.

    Attributes
    ----------
    n_rows
        Rows of the files.
    row, sky_row
        Those of the targets, shape (n_science,), and of sky fibres, shape (n_sky,); the others
        are fibres without a target.
    status
        COADD_FIBERSTATUS, shape (n_rows,).
    """

    n_rows: int
    row: Ints
    sky_row: Ints
    status: Ints

    @property
    def is_lost(self) -> Bools:
        """Rows without any data, shape (n_rows,)."""
        bad = (self.status & (BAD_POSITION | BAD_FIBER)) > 0
        blank = np.ones(self.n_rows, dtype=np.bool_)
        blank[self.row] = blank[self.sky_row] = False
        return np.asarray(bad | blank)


@dataclass(frozen=True, slots=True, eq=False)
class DesiObservation:
    """A healpixel as observed: n_science targets in n_rows rows of the files.

    Attributes
    ----------
    task, settings
        What was asked for.
    scene
        The targets and their light.
    fibres
        Who is on which row.
    ra, dec
        Degrees, shape (n_science,).
    target
        Target class, shape (n_science,).
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
    fibres: Fibres
    ra: Floats
    dec: Floats
    target: NDArray[np.str_]
    artefact: Ints
    arms: tuple[Spectrograph, ...]
    exposures: tuple[Exposure, ...]
    missing_arm: str
    redshifts: Redshifts
    spectype: NDArray[np.str_]
    n_exposures: Ints

    @property
    def row(self) -> Ints:
        """File row of each target, shape (n_science,)."""
        return self.fibres.row

    @property
    def sky_row(self) -> Ints:
        """File row of each sky fibre, shape (n_sky,)."""
        return self.fibres.sky_row

    @property
    def n_rows(self) -> int:
        """Rows of the files."""
        return self.fibres.n_rows

    @property
    def status(self) -> Ints:
        """COADD_FIBERSTATUS, shape (n_rows,)."""
        return self.fibres.status

    @property
    def is_lost(self) -> Bools:
        """Rows that the pipeline leaves nothing of, shape (n_rows,)."""
        return self.fibres.is_lost

    def has_data(self) -> Bools:
        """Targets with a pixel of any arm above an ivar of 0, shape (n_science,)."""
        pairs = zip(ARMS, self.exposures, strict=True)
        there = [exposure.ivar.max(axis=1) > 0 for n, exposure in pairs if self.has_arm(n)]
        return np.asarray(np.any(there, axis=0)[self.row])

    def has_arm(self, name: str) -> bool:
        """Whether the coadd has the arm b, r or z."""
        return name != self.missing_arm


def observe_healpix(task: MockTask, settings: MockSettings) -> DesiObservation:
    """Draw, light up, expose and measure the targets of a healpixel."""
    rng = task.noise_rng()
    arms = desi_arms(rng)
    scene = look(task, settings)
    objects = scene.objects
    fibres = draw_fibres(task)
    _, ra, dec = positions(task)
    every = _artefacts(fibres.n_rows, settings, rng)
    models = []
    for arm in arms:
        model = np.zeros((fibres.n_rows, arm.n_pixels), dtype=np.float32)
        model[fibres.row] = scene.render(np.log10(arm.wave), arm.sigma_km_s)
        models.append(model)
    is_qso = (objects.kind == QUASAR) | (
        (objects.kind == BROAD) & (objects.nucleus.share > QSO_SHARE)
    )
    is_star = (objects.kind == STAR) & ~objects.as_galaxy
    most = 1 if task.program == "bright" else 4
    lacks = rng.random() < settings.missing_arm_fraction
    seen = DesiObservation(
        task=task,
        settings=settings,
        scene=scene,
        fibres=fibres,
        ra=ra,
        dec=dec,
        target=target_classes(
            task, objects.kind, objects.redshift, objects.magnitude, objects.as_galaxy
        ),
        artefact=every[fibres.row],
        missing_arm=str(rng.choice(ARMS)) if lacks else "",
        redshifts=redrock(task, objects, settings),
        spectype=np.select([is_star, is_qso], ["STAR", "QSO"], "GALAXY"),
        n_exposures=rng.integers(1, most + 1, fibres.n_rows),
        arms=arms,
        exposures=observe_arms(models, every, arms, rng),
    )
    there = np.array([seen.has_arm(name) for name in ARMS])
    _leave_nothing(seen, lost_arms(every, there, rng))
    return seen


def redrock(task: MockTask, objects: Objects, settings: MockSettings) -> Redshifts:
    """What redrock finds for the objects of `task`; drawn by itself, without any spectrum."""
    rng = np.random.default_rng((task.seed, task.plate, 8))
    return find_redshifts(objects, settings, rng, survey="desi")


def draw_fibres(task: MockTask) -> Fibres:
    """Put targets, sky fibres and fibres without a target on the rows of the files."""
    rng = np.random.default_rng((task.seed, task.plate, 9))
    n_rows = task.n_fibers + round(_BLANK_SHARE * task.n_science)
    order = rng.permutation(n_rows)
    row = np.sort(order[: task.n_science])
    sky_row = np.sort(order[task.n_science : task.n_fibers])
    status = np.asarray(rng.choice(_BLANK_STATUS, n_rows, p=(0.8, 0.1, 0.1)), dtype=np.int64)
    chance = rng.random(n_rows)
    drawn = np.zeros(n_rows, dtype=np.int64)
    low = 0.0
    for bits, share in _STATUS_SHARES.items():
        drawn[(chance >= low) & (chance < low + share)] = bits
        low += share
    used = np.concatenate([row, sky_row])
    status[used] = drawn[used]
    return Fibres(n_rows=n_rows, row=row, sky_row=sky_row, status=status)


def _artefacts(n: int, settings: MockSettings, rng: np.random.Generator) -> Ints:
    artefact = np.zeros(n, dtype=np.int64)
    wrong = rng.random(n) < settings.artefact_fraction
    artefact[wrong] = rng.choice((1, 2, 3), int(wrong.sum()), p=(0.7, 0.15, 0.15))
    artefact[rng.random(n) < settings.cosmic_ray_fraction] = 4
    return artefact


def _leave_nothing(seen: DesiObservation, lost: Bools) -> None:
    """Clear rows that the pipeline leaves empty, arms that are `lost`, and pixels it masks."""
    for exposure, of_arm in zip(seen.exposures, lost.T, strict=True):
        # In real coadds every masked pixel has no inverse variance either.
        exposure.ivar[exposure.and_mask != 0] = 0
        rows = np.flatnonzero(seen.is_lost | of_arm)
        for values in (exposure.flux, exposure.ivar, exposure.and_mask):
            values[rows] = 0
