"""One part of a mock release: what a worker is told besides the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Survey = Literal["sdss", "boss", "desi", "sdssv"]
Layout = Literal["plate", "spec", "healpix", "field"]
Program = Literal["bright", "dark"]
SURVEYS: tuple[Survey, ...] = ("sdss", "boss", "desi", "sdssv")

NSIDE = 64
# Numbers of healpixels start where no plate number does: 14 bits hold those.
_FIRST_PIXEL = 1_000_000


def pixel_number(healpix: int, program: Program) -> int:
    """Number of a healpixel of a program, beyond all plate numbers.

    Examples
    --------
    >>> pixel_number(9144, "dark")
    1018289
    """
    return _FIRST_PIXEL + 2 * healpix + (program == "dark")


@dataclass(frozen=True, slots=True)
class MockTask:
    """One plate, healpixel or SDSS-V field of a release; small and picklable.

    Parameters
    ----------
    survey
        Who observes.
    layout
        ``plate``: one spPlate and one spZbest; ``spec``: one file for each spectrum; ``healpix``:
        one coadd and one redrock file; ``field``: one file for each spectrum as SDSS-V names it.
    plate, mjd
        Name of the observation. A healpixel has the number `pixel_number` gives it, and the MJD of
        its first night; SDSS-V has fields, whose numbers are those of no plate.
    n_science, n_sky
        Fibres on objects and on blank sky; spec and field layouts write the science fibres alone.
    source_survey, source_plate, n_source
        Whose objects are observed: this plate's own, or some of the `n_source` objects of another
        plate: the first `n_science`, for a healpixel the first of those that lie in it.
    seed
        Seed of the release.
    n_full
        Of a spec layout, the first so many files have the HDUs of the single exposures.
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
    n_full: int = 0

    @property
    def spectrograph(self) -> Survey:
        """Whose spectrograph observes: SDSS-V has that of BOSS."""
        return "boss" if self.survey == "sdssv" else self.survey

    @property
    def is_repeat(self) -> bool:
        """Whether its objects were observed before, on another plate."""
        return self.plate != self.source_plate

    @property
    def n_fibers(self) -> int:
        """Fibres used on the plate."""
        return self.n_science + self.n_sky

    @property
    def healpix(self) -> int:
        """Nested pixel of nside 64 that a healpix layout writes; -1 for a plate."""
        return (self.plate - _FIRST_PIXEL) // 2 if self.layout == "healpix" else -1

    @property
    def program(self) -> Program:
        """DESI program."""
        return "dark" if (self.plate - _FIRST_PIXEL) % 2 else "bright"

    @property
    def name(self) -> str:
        """PPPP-MMMMM, as in file names; of a healpixel main-PROGRAM-PIXEL.

        Of a field FIELD-MMMMM without padding, which differs between releases.
        """
        if self.layout == "healpix":
            return f"main-{self.program}-{self.healpix}"
        return f"{self.plate:04d}-{self.mjd:05d}"

    def object_rng(self) -> np.random.Generator:
        """Generator of the objects: the same for an observation and its repeats."""
        return self._rng(self.source_plate, 0)

    def noise_rng(self) -> np.random.Generator:
        """Generator of everything about this observation: noise, masks, fibres."""
        return self._rng(self.plate, 1)

    def position_rng(self) -> np.random.Generator:
        """Generator of the places on the sky: the same for an observation and its repeats."""
        return self._rng(self.source_plate, 2)

    def target_rng(self) -> np.random.Generator:
        """Generator of what a survey takes the objects for."""
        return self._rng(self.source_plate, 3)

    def blend_rng(self) -> np.random.Generator:
        """Generator of which objects blend with others: the same for repeats."""
        return self._rng(self.source_plate, 4)

    def pointing_rng(self) -> np.random.Generator:
        """Generator of where this observation's catalogue has its objects."""
        return self._rng(self.plate, 5)

    def _rng(self, plate: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(plate, purpose)))
