"""What a mock release contains: its settings, and the list of plates that they mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from spectra_scale.errors import UsageError

Survey = Literal["sdss", "boss"]
Layout = Literal["plate", "spec"]

# First plate number and how many are kept: they fit the 14 bits of specObjID and never meet.
_PLATES = {
    ("sdss", "plate"): (266, 2700),
    ("sdss", "spec"): (3000, 400),
    ("boss", "plate"): (3600, 9000),
    ("boss", "spec"): (12700, 3000),
}
_REPEAT_PLATE = {"sdss": 3500, "boss": 12650}
_FIRST_MJD = {"sdss": 51600, "boss": 55200}
# Real plates lie weeks apart: plate numbers and dates grow together.
_DAYS_A_PLATE = 3


@dataclass(frozen=True, slots=True)
class MockSettings:
    """Settings of a mock release.

    Parameters
    ----------
    n_spectra
        Rows of the catalogue: science spectra, repeats and contaminants included, sky fibres not.
    n_spec_files
        How many of them are written one a file (spec-lite); the others are in plate files.
    boss_fraction
        Share of the spectra from the BOSS spectrograph (3600-10400 Å, RUN2D ``v5_13_2``); the
        others are legacy (3800-9200 Å, RUN2D ``26``).
    seed
        Seed of everything random.
    star_fraction, out_of_range_fraction, bad_redshift_fraction
        Shares of what a selection should remove: stars, redshifts outside 0.05-0.36, ZWARNING > 0.
    repeat_fraction
        Share of the spectra that observe objects of another plate again, half of them with the
        other spectrograph.
    no_lines_fraction
        Share of galaxies without a row in the line table.
    artefact_fraction
        Share of spectra with a known fault: sky residuals, a calibration step, a lost half.
    fibers_legacy, fibers_boss
        Fibres of a plate, sky fibres included.
    sky_fraction
        Share of a plate's fibres on blank sky.
    """

    n_spectra: int = 5000
    n_spec_files: int = 200
    boss_fraction: float = 0.25
    seed: int = 1
    star_fraction: float = 0.02
    out_of_range_fraction: float = 0.02
    bad_redshift_fraction: float = 0.01
    repeat_fraction: float = 0.01
    no_lines_fraction: float = 0.0014
    artefact_fraction: float = 0.02
    fibers_legacy: int = 640
    fibers_boss: int = 1000
    sky_fraction: float = 0.05

    def __post_init__(self) -> None:
        if self.n_spectra < 1 or not 0 <= self.n_spec_files <= self.n_spectra:
            message = (
                f"n_spectra={self.n_spectra}, n_spec_files={self.n_spec_files}: need at least one "
                "spectrum, and no more spec files than spectra. Change either."
            )
            raise UsageError(message)
        for name, value in asdict(self).items():
            if name.endswith("_fraction") and not 0 <= value <= 1:
                message = f"{name}={value}: expected a share between 0 and 1."
                raise UsageError(message)
        if min(self.fibers_legacy, self.fibers_boss) < 2 or self.sky_fraction > 0.5:
            message = (
                f"fibers_legacy={self.fibers_legacy}, fibers_boss={self.fibers_boss}, "
                f"sky_fraction={self.sky_fraction}: a plate needs two fibres, half of them on "
                "objects."
            )
            raise UsageError(message)

    def fibers(self, survey: Survey) -> int:
        """Fibres of one plate of `survey`."""
        return self.fibers_legacy if survey == "sdss" else self.fibers_boss

    def run2d(self, survey: Survey) -> str:
        """Name of the reduction: `26` for legacy plates, `v5_13_2` (DR17) for BOSS."""
        return "26" if survey == "sdss" else "v5_13_2"


@dataclass(frozen=True, slots=True)
class MockTask:
    """One plate of a mock release; small and picklable, all that a worker needs beside settings.

    Parameters
    ----------
    survey
        Spectrograph that observes.
    layout
        ``plate``: one spPlate and one spZbest; ``spec``: one spec-lite file for each spectrum.
    plate, mjd
        Name of the observation.
    n_science, n_sky
        Fibres on objects and on blank sky; a spec layout writes the science fibres alone.
    source_survey, source_plate, n_source
        Whose objects are observed: this plate's own, or the first `n_science` of the `n_source`
        objects of another plate.
    seed
        Seed of the release.
    """

    survey: Survey
    layout: Layout
    plate: int
    mjd: int
    n_science: int
    n_sky: int
    source_survey: Survey
    source_plate: int
    n_source: int
    seed: int

    @property
    def is_repeat(self) -> bool:
        """Whether its objects were observed before, on another plate."""
        return self.plate != self.source_plate

    @property
    def n_fibers(self) -> int:
        """Fibres used on the plate."""
        return self.n_science + self.n_sky

    @property
    def name(self) -> str:
        """PPPP-MMMMM, as in file names."""
        return f"{self.plate:04d}-{self.mjd:05d}"

    def object_rng(self) -> np.random.Generator:
        """Generator of the objects: the same for an observation and its repeats."""
        return self._rng(self.source_plate, 0)

    def noise_rng(self) -> np.random.Generator:
        """Generator of everything about this observation: noise, masks, fibres."""
        return self._rng(self.plate, 1)

    def _rng(self, plate: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(plate, purpose)))


def plan(settings: MockSettings) -> list[MockTask]:
    """List the plates of a release, in the order of its catalogue.

    Each depends on its own number and the seed alone, so that a part can be written by itself, in
    any order, on any worker.

    Returns
    -------
        Tasks whose `n_science` sum to ``settings.n_spectra``, with distinct plates.

    Raises
    ------
    UsageError
        If there are more plates than plate numbers kept for them.
    """
    n_repeat = round(settings.repeat_fraction * settings.n_spectra)
    n_plate = settings.n_spectra - settings.n_spec_files
    tasks = _observed_once(settings, max(n_plate - n_repeat, 0))
    repeats = _repeats(settings, tasks, n_repeat)
    if sum(task.n_science for task in repeats) < n_repeat:
        # A tiny release has too few objects to observe so many again: none is repeated.
        return _observed_once(settings, n_plate)
    return tasks + repeats


def _observed_once(settings: MockSettings, n_plate: int) -> list[MockTask]:
    tasks: list[MockTask] = []
    layouts: tuple[tuple[Layout, int], ...] = (("plate", n_plate), ("spec", settings.n_spec_files))
    for layout, n in layouts:
        n_boss = round(settings.boss_fraction * n)
        surveys: tuple[tuple[Survey, int], ...] = (("sdss", n - n_boss), ("boss", n_boss))
        for survey, n_survey in surveys:
            tasks += _plates(settings, survey, layout, n_survey)
    return tasks


def _plates(settings: MockSettings, survey: Survey, layout: Layout, n: int) -> list[MockTask]:
    fibers = settings.fibers(survey)
    capacity = fibers - ceil(settings.sky_fraction * fibers)
    first, n_kept = _PLATES[survey, layout]
    if ceil(n / capacity) > n_kept:
        message = (
            f"{n} {survey} spectra in {layout} files need {ceil(n / capacity)} plates of {fibers} "
            f"fibres, more than the {n_kept} plate numbers kept for them. Ask for fewer spectra."
        )
        raise UsageError(message)
    tasks = []
    for i in range(ceil(n / capacity)):
        n_science = min(capacity, n - i * capacity)
        plate = first + i
        tasks.append(
            MockTask(
                survey=survey,
                layout=layout,
                plate=plate,
                mjd=_mjd(survey, i, layout),
                n_science=n_science,
                n_sky=ceil(settings.sky_fraction * n_science) if layout == "plate" else 0,
                source_survey=survey,
                source_plate=plate,
                n_source=n_science,
                seed=settings.seed,
            )
        )
    return tasks


def _mjd(survey: Survey, index: int, layout: Layout) -> int:
    late = 2000 if layout == "spec" else 0
    return _FIRST_MJD[survey] + late + _DAYS_A_PLATE * (index % 1500)


def _repeats(settings: MockSettings, tasks: list[MockTask], n_repeat: int) -> list[MockTask]:
    source = next((t for t in tasks if t.layout == "plate"), None)
    if source is None:
        return []
    n_boss = round(n_repeat / 2) if 0 < settings.boss_fraction < 1 else 0
    other: Survey = "boss" if source.survey == "sdss" else "sdss"
    surveys: tuple[tuple[Survey, int], ...] = ((source.survey, n_repeat - n_boss), (other, n_boss))
    repeats = []
    for survey, n in surveys:
        n_science = min(n, source.n_science, settings.fibers(survey) * 9 // 10)
        if n_science > 0:
            repeat = replace(
                source,
                survey=survey,
                plate=_REPEAT_PLATE[survey],
                mjd=_FIRST_MJD[survey] + 3000,
                n_science=n_science,
                n_sky=ceil(settings.sky_fraction * n_science),
            )
            repeats.append(repeat)
    return repeats
