"""How deep and how good a plate is: the same in headers, catalogue and file tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.settings import MockSettings, MockTask

Ints = NDArray[np.int64]

# Shares of marginal and bad plates. Their spectra are lost to a cut on good plates: 1 to 2 % is
# what a release can spare. SPALL has four letters for the quality: BOSS plates are good or bad.
_MARGINAL = {"sdss": 0.012, "boss": 0.0}
_BAD = {"sdss": 0.003, "boss": 0.004}
# Lowest and highest (S/N)² of the worst camera, by quality. Public legacy plates: 10 to 90 % of
# the good ones have 16.1 to 36, of the marginal ones 12 to 24, of the bad ones 7 to 28; good BOSS
# plates 10.6 to 17.4.
_DEPTH = {
    ("sdss", "good"): (15.2, 36.0),
    ("sdss", "marginal"): (10.5, 15.0),
    ("sdss", "bad"): (5.8, 9.5),
    ("boss", "good"): (10.2, 17.5),
    ("boss", "bad"): (5.5, 8.5),
}
# (S/N)² in g, r, i over that of g: BOSS is far more sensitive in the red.
_BANDS = {"sdss": (1.0, 1.06, 0.97), "boss": (1.0, 3.1, 2.5)}


@dataclass(frozen=True, slots=True)
class PlateFacts:
    """Quality of a plate.

    Attributes
    ----------
    quality
        PLATEQUALITY.
    depth
        (S/N)² at the survey's magnitudes, by column: SPEC1_G to SPEC2_I.
    """

    quality: str
    depth: dict[str, float]

    @property
    def worst(self) -> float:
        """PLATESN2: the least of `depth`."""
        return min(self.depth.values())


def plate_facts(task: MockTask) -> PlateFacts:
    """Draw the quality of a plate from its number and the seed, repeat or not."""
    rng = np.random.default_rng((task.seed, task.plate, 8))
    chance = float(rng.random())
    bad, marginal = _BAD[task.spectrograph], _MARGINAL[task.spectrograph]
    quality = "bad" if chance < bad else "marginal" if chance < bad + marginal else "good"
    low, high = _DEPTH[task.spectrograph, quality]
    # Most plates were exposed until they were just deep enough.
    worst = low + (high - low) * float(rng.random()) ** 1.7
    bands = np.array(_BANDS[task.spectrograph]) * 10 ** rng.uniform(0, 0.08, (2, 3))
    depth = worst * bands / bands.min()
    names = [f"SPEC{i}_{band}" for i in (1, 2) for band in "GRI"]
    values = (round(float(value), 4) for value in depth.ravel())
    return PlateFacts(quality, dict(zip(names, values, strict=True)))


def spectrograph_of(fiber: Ints, task: MockTask, settings: MockSettings) -> Ints:
    """1 for the first half of a whole plate's fibres, 2 for the second, however few are used."""
    return 1 + (np.asarray(fiber, dtype=np.int64) > settings.fibers(task.survey) // 2)
