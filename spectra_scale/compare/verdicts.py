"""Every number that the issue of the mock asks for, beside its target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from spectra_scale.compare.statistics import FRACTION_TARGETS

_REAL_D4000N = (1.14, 1.35, 1.90)


@dataclass(frozen=True, slots=True)
class Asked:
    """One number and what is asked of it.

    Parameters
    ----------
    what
        Name.
    found
        In the mock; NaN where it was not measured.
    real
        In the real files, by the same function; NaN where it makes no sense.
    target
        As the issue says it.
    low, high
        The range that passes.
    room
        What is this close to the real value passes as well: the issue's numbers for the noise were
        found by another function than the one both sides go through here.
    """

    what: str
    found: float
    real: float
    target: str
    low: float
    high: float
    room: float = 0.0

    @property
    def verdict(self) -> str:
        """``PASS``, ``short``, or ``not measured``."""
        if math.isnan(self.found):
            return "not measured"
        as_real = abs(self.found - self.real) <= self.room
        return "PASS" if self.low <= self.found <= self.high or as_real else "short"

    def row(self) -> list[object]:
        """Cells of a table."""
        return [self.what, self.found, self.real, self.target, self.verdict]


def asked(numbers: dict[str, Any]) -> list[Asked]:
    """All targets with what was found.

    Parameters
    ----------
    numbers
        Of a comparison.
    """
    return [*_whole(numbers), *_breaks(numbers), *_noise(numbers), *_learnt(numbers)]


def _whole(numbers: dict[str, Any]) -> list[Asked]:
    nan = float("nan")
    out = [
        Asked(f"{name} (%)", numbers["class_fractions"][name], nan, f"{target:g} ± 1",
              target - 1, target + 1)
        for name, target in FRACTION_TARGETS.items()
    ]  # fmt: skip
    z = numbers["redshift"]
    return [
        *out,
        Asked("z, mode", z["z_mode"], nan, "near 0.08", 0.065, 0.095),
        Asked("z, median", z["z_median"], nan, "near 0.11", 0.10, 0.12),
    ]


def _breaks(numbers: dict[str, Any]) -> list[Asked]:
    """D4000n of galaxies: the 1.14, 1.35 and 1.90 of the issue are those of the real ones here."""
    rows = [row for row in numbers["distributions"]
            if (row["class"], row["measure"]) == ("galaxies", "d4000n")]  # fmt: skip
    return [
        Asked(f"D4000n of matched galaxies, {name} %", mock, real, f"{target:.2f} ± 0.05",
              target - 0.05, target + 0.05)
        for row in rows
        for name, mock, real, target in zip(
            (5, 50, 95), row["mock"], row["real"], _REAL_D4000N, strict=True
        )
    ]  # fmt: skip


def _noise(numbers: dict[str, Any]) -> list[Asked]:
    noise, masks = numbers["noise"], numbers["masks"]

    def both(spectrograph: str, name: str) -> tuple[float, float]:
        mock, real = (
            float(noise[side].get(spectrograph, {}).get(name, float("nan")))
            for side in ("mock", "real")
        )
        return mock, real

    out = []
    for where, variance in (("legacy", 1.22), ("boss", 1.05)):
        found = both(where, "width")
        out.append(Asked(f"pull width, {where}", *found, "0.93 to 0.98, or real ± 0.02",
                         0.925, 0.985, 0.02))  # fmt: skip
        found = both(where, "variance4")
        out.append(Asked(f"variance in 4-pixel bins, {where}", *found,
                         f"{variance:g} ± 0.06, or real ± 0.06", variance - 0.06,
                         variance + 0.06, 0.06))  # fmt: skip
    found = both("legacy", "lag1")
    out.append(Asked("lag-1 correlation, legacy", *found, "0.17 to 0.20, or real ± 0.02",
                     0.165, 0.205, 0.02))  # fmt: skip
    bright = {side: 100 * masks[side]["all"]["bits"]["BRIGHTSKY"] for side in masks}
    half = {side: masks[side]["all"]["half_masked"] for side in masks}
    out.append(Asked("pixels with BRIGHTSKY (%)", bright["mock"], bright["real"], "3.5 ± 0.5",
                     3.0, 4.0))  # fmt: skip
    out.append(Asked("share half masked under any bit", half["mock"], half["real"], "about 0.1",
                     0.07, 0.13))  # fmt: skip
    return out


def _learnt(numbers: dict[str, Any]) -> list[Asked]:
    nan = float("nan")
    out = []
    for name, row in numbers["transfer"].items():
        out.append(Asked(f"χ² of real over mock, {name} (n = {row['n_real']})", row["ratio"], nan,
                         "within 15 %", 0.85, 1.15))  # fmt: skip
    for name, row in numbers["structure"].items():
        for window, (real, mock) in row.items():
            out.append(Asked(f"mean residual of real at {window} in its errors, {name}",
                             real, mock, "≤ 2 (1 is noise; beside: mock)", 0, 2))  # fmt: skip
    auc = numbers["classifier"]["auc"]
    return [*out, Asked("AUC of mock against real", auc, nan, "< 0.75", 0, 0.75)]
