"""What is DESI's targets' own: identifiers, photometry, target bits; the same in both programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.desi_observation import DesiObservation, draw_fibres, redrock
from spectra_scale.mock.objects import draw_objects, take
from spectra_scale.mock.plan import twin_of
from spectra_scale.mock.population import Floats
from spectra_scale.mock.positions import chosen_objects, pixel_centre
from spectra_scale.mock.redshifts import SMALL_DELTA_CHI2, Redshifts
from spectra_scale.mock.targets import BGS_BITS, DESI_BITS, bits_of, target_classes
from spectra_scale.mock.task import MockTask, Program

Rows = NDArray[Any]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BANDS = {"G": 4770.0, "R": 6231.0, "Z": 9134.0}
_FLUX_OF_NMGY, _PIVOT = 0.2864, 6166.0
# The imaging is of two surveys: BASS and MzLS are north of this declination (deg), DECaLS south.
_NORTH_FROM = 32.375
_RELEASE = {True: 9011, False: 9010}


def target_id(objid: Ints, brick: int, release: int, *, is_sky: bool = False) -> Ints:
    """DESI TARGETID: OBJID in bits 0-21, BRICKID 22-41, RELEASE 42-57, SKY 59 (desitarget).

    Examples
    --------
    >>> int(target_id(np.array([2281]), 349954, 9010)[0])
    39627866878511337
    """
    constant = (brick << 22) | (release << 42) | (int(is_sky) << 59)
    return np.asarray(objid, dtype=np.int64) | np.int64(constant)


@dataclass(frozen=True, slots=True)
class Brick:
    """The part of the sky that numbers of targets count in.

    Parameters
    ----------
    number, name, release
        BRICKID, BRICKNAME and RELEASE.
    """

    number: int
    name: str
    release: int

    @property
    def is_north(self) -> bool:
        """Whether its images are those of BASS and MzLS."""
        return self.release == _RELEASE[True]


def brick_of(task: MockTask, *, is_sky: bool = False) -> Brick:
    """Brick of the targets of a healpixel, or of its blank sky.

    Each program counts its own, so that no two objects share a number; a target that both
    observe has that of the program which had it first.
    """
    ra, dec = pixel_centre(task.healpix)
    program: Program = task.program
    if task.source_survey == "desi" and not is_sky:
        program = replace(task, plate=task.source_plate).program
    sign = "p" if dec >= 0 else "m"
    return Brick(
        number=2 * task.healpix + (program == "dark"),
        name=f"{round(10 * ra):04d}{sign}{abs(round(10 * dec)):03d}",
        release=_RELEASE[dec > _NORTH_FROM],
    )


def target_columns(seen: DesiObservation) -> dict[str, Any]:
    """Columns of FIBERMAP that belong to the targets, each one value or of shape (n_science,).

    A target that the other program observes too has the same values there: they hang on the
    source's seed and on the object alone.
    """
    task, objects = seen.task, seen.scene.objects
    rng = np.random.default_rng((task.seed, task.source_plate, 5))
    chosen = chosen_objects(task)
    size, shape, subpriority = rng.random((3, task.n_source))[:, chosen]
    scatter, pm_ra, pm_dec = rng.standard_normal((3, task.n_source))[:, chosen]
    flux = photometry(seen)
    red = flux[:, 1]
    fiber_share = np.clip(0.55 + 0.15 * scatter, 0.15, 0.85)
    disc, is_star = shape < 0.5, seen.target == "standard"
    desi, bgs = target_bits(seen)
    brick = brick_of(task)
    values: dict[str, Any] = {
        "TARGETID": target_id(chosen, brick.number, brick.release), "BRICK_OBJID": chosen,
        "BRICKID": brick.number, "BRICKNAME": brick.name, "RELEASE": brick.release,
        "TARGET_RA": seen.ra, "TARGET_DEC": seen.dec, "SUBPRIORITY": subpriority,
        "FA_TARGET": desi, "DESI_TARGET": desi, "BGS_TARGET": bgs,
        "MORPHTYPE": np.select([is_star, disc], ["PSF", "EXP"], "DEV"),
        "SERSIC": np.select([is_star, disc], [0, 1], 4),
        "SHAPE_R": np.where(is_star, 0, 0.5 + 2.0 * size),
        "EBV": seen.scene.excess,
        "REF_EPOCH": 2015.5, "PHOTSYS": "N" if brick.is_north else "S",
        "PRIORITY_INIT": np.where(seen.target == "qso", 3400, 3200), "NUMOBS_INIT": 4,
        "PMRA": np.where(is_star, 8 * pm_ra, 0), "PMDEC": np.where(is_star, 8 * pm_dec, 0),
        "GAIA_PHOT_G_MEAN_MAG": np.where(is_star, objects.magnitude + 0.1, 0),
        "FLUX_W1": 2.5 * red, "FLUX_W2": 1.6 * red, "FLUX_IVAR_W1": 2.0, "FLUX_IVAR_W2": 0.5,
    }  # fmt: skip
    for i, (band, ivar) in enumerate((("G", 700.0), ("R", 240.0), ("Z", 48.0))):
        values |= {
            f"FIBERFLUX_{band}": flux[:, i], f"FIBERTOTFLUX_{band}": flux[:, i] * 1.01,
            f"FLUX_{band}": flux[:, i] / fiber_share, f"FLUX_IVAR_{band}": ivar,
        }  # fmt: skip
    return values


def photometry(seen: DesiObservation) -> Floats:
    """Flux in the fibre in g, r and z, nanomaggies, shape (n_science, 3)."""
    wave = np.array(list(_BANDS.values()))
    flux = seen.scene.received(wave)
    return np.asarray(np.maximum(flux / _FLUX_OF_NMGY * (wave / _PIVOT) ** 2, 1e-4))


def target_bits(seen: DesiObservation) -> tuple[Ints, Ints]:
    """DESI_TARGET and BGS_TARGET, shape (n_science,), with the bits of both programs."""
    desi, bgs = bits_of(seen.target, DESI_BITS), bits_of(seen.target, BGS_BITS)
    twin = twin_of(seen.task, seen.settings)
    if twin is not None:
        n = min(seen.task.n_science, twin.n_science)
        o = seen.scene.objects
        other = replace(twin, n_science=n)
        found = target_classes(other, o.kind[:n], o.redshift[:n], o.magnitude[:n], o.as_galaxy[:n])
        desi[:n] |= bits_of(found, DESI_BITS)
        bgs[:n] |= bits_of(found, BGS_BITS)
    return desi, bgs


def redshift_warning(task: MockTask, found: Redshifts) -> tuple[Ints, Bools]:
    """ZWARN of the targets of a healpixel, NODATA apart, and which have no data; (n_science,)."""
    fibres = draw_fibres(task)
    # redrock has no flag for outliers that is set in practice.
    warning = np.where(found.zwarning == SMALL_DELTA_CHI2, SMALL_DELTA_CHI2, 0)
    return warning, fibres.is_lost[fibres.row]


def spectra_of_targets(seen: DesiObservation) -> tuple[Ints, Bools]:
    """How many spectra of each target there are, and whether this one is the best of them.

    The rule is desispec's: one without a warning before one with, then the greater TSNR2_LRG,
    which is the dark program's: its exposures are three times as long.

    Returns
    -------
        NSPEC and PRIMARY, shape (n_science,).
    """
    task = seen.task
    count = np.ones(task.n_science, dtype=np.int64)
    primary = np.ones(task.n_science, dtype=np.bool_)
    twin = twin_of(task, seen.settings)
    if twin is None:
        return count, primary
    n = min(task.n_science, twin.n_science)
    mine, theirs = (
        np.where(warning | lost, 0, 2)[:n] + (t.program == "dark")
        for t, (warning, lost) in (
            (task, redshift_warning(task, seen.redshifts)),
            (twin, redshift_warning(twin, _redrock_alone(twin, seen))),
        )
    )
    count[:n], primary[:n] = 2, mine > theirs
    return count, primary


def _redrock_alone(task: MockTask, seen: DesiObservation) -> Redshifts:
    """What redrock finds for the twin `task` of `seen`, without its spectra."""
    every = draw_objects(task, seen.settings)
    return redrock(task, take(every, chosen_objects(task)), seen.settings)
