"""Every number that the issue of the mock asks for, beside its target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from spectra_scale.compare.statistics import FRACTION_TARGETS

_REAL_D4000N = (1.14, 1.35, 1.90)

COLUMNS = ("", "what", "mock", "error", "real", "real spectra", "target")
"""What the cells of `Asked.row` are."""


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
        What is this close to the real value passes as well: the issue's numbers for noise and
        breaks were found by other functions than those that both sides go through here.
    error
        Of `found`, where it is known: what is out of the range by less is ``within error``.
    n
        Real spectra that it stands on, where they are few.
    of
        Whose value has to be in the range.
    """

    what: str
    found: float
    real: float
    target: str
    low: float
    high: float
    room: float = 0.0
    error: float = float("nan")
    n: int | None = None
    of: Literal["mock", "real"] = "mock"

    @property
    def verdict(self) -> str:
        """``PASS``, ``within error``, ``short``, or ``not measured``."""
        value = self.found if self.of == "mock" else self.real
        if any(map(math.isnan, (value, self.low, self.high))):
            return "not measured"
        excess = max(self.low - value, value - self.high)
        if excess <= 0 or abs(self.found - self.real) <= self.room:
            return "PASS"
        return "within error" if excess < self.error else "short"

    def row(self) -> list[object]:
        """Cells of a table, as `COLUMNS` names them."""
        numbers = (self.found, self.error, self.real)
        texts = ("" if math.isnan(number) else f"{number:.3g}" for number in numbers)
        n = "" if self.n is None else self.n
        return [self.verdict, self.what, *texts, n, self.target]

    def line(self) -> str:
        """The same as one line of text."""
        error = "" if math.isnan(self.error) else f" ± {self.error:.3f}"
        n = "" if self.n is None else f" (n = {self.n})"
        real = "" if math.isnan(self.real) else f", real {self.real:.3f}"
        return f"{self.verdict:12s} {self.found:8.3f}{error}{real}  {self.what}{n}: {self.target}"


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
    """D4000n of galaxies: by the function used here the real ones have 1.11, 1.35 and 1.92."""
    rows = [row for row in numbers["distributions"]
            if (row["class"], row["measure"]) == ("galaxies", "d4000n")]  # fmt: skip
    return [
        Asked(f"D4000n of matched galaxies, {name} %", mock, real,
              f"{target:.2f} ± 0.05, or real ± 0.05", target - 0.05, target + 0.05, 0.05)
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
    for where, low, high in (("legacy", 0.030, 0.040), ("boss", math.inf, -math.inf)):
        mock, real = (100 * share for share in both(where, "brightsky"))
        target = "3.5 ± 0.5, or real ± 0.7" if where == "legacy" else "real ± 0.7"
        out.append(Asked(f"pixels with BRIGHTSKY, {where} (%)", mock, real, target, 100 * low,
                         100 * high, 0.7))  # fmt: skip
    half = {side: masks[side]["all"]["half_masked"] for side in masks}
    out.append(Asked("share half masked under any bit", half["mock"], half["real"], "about 0.1",
                     0.07, 0.13))  # fmt: skip
    return out


def _learnt(numbers: dict[str, Any]) -> list[Asked]:
    nan = float("nan")
    out = []
    for name, row in numbers["transfer"].items():
        out.append(Asked(f"χ² of real over mock, {name}", row["ratio"], nan, "within 15 %",
                         0.85, 1.15, error=row["ratio_error"], n=row["n_real"]))  # fmt: skip
    for name, row in numbers["structure"].items():
        for window, (real, mock) in row.items():
            high = 2.0 if math.isnan(mock) else max(2.0, 1.5 * mock)
            out.append(Asked(f"mean residual at {window} in its errors, {name}", mock, real,
                             f"real ≤ {high:.2f}: 1.5 times the mock's, or 2 (1 is noise)",
                             0, high, of="real"))  # fmt: skip
    found = numbers["classifier"]
    what = f"AUC of mock against real (its error {found['auc_error']:.3f})"
    return [*out, Asked(what, found["auc"], nan, "< 0.75", 0, 0.75)]
