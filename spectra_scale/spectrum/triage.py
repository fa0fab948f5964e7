"""Verdicts: what is wrong with a spectrum, by how far its statistics lie from what is usual.

Each kind of fault has one statistic. Its distribution in the validation split, at about the same
S/N, gives a centre (the median) and a width (of the upper side, from its 84 and 95 % quantiles, so
that a few per cent of broken spectra do not widen it). The strength of the evidence is the
distance from the centre in widths. Broad-line spectra, which models reproduce worse, are compared
with each other where there are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

__all__ = [
    "FAULTS",
    "LEVEL_NAMES",
    "NONE",
    "OWN_LEVEL",
    "RARE",
    "SHOWN",
    "VERDICTS",
    "WRONG_REDSHIFT",
    "Levels",
    "evidence_in_words",
    "scan_gain",
    "statistics_of",
    "verdicts",
]

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

WRONG_REDSHIFT = "wrong-redshift"
FAULTS = (
    "missing-range", "calibration-step", WRONG_REDSHIFT, "sky-residual", "bad-pixels",
    "reconstruction",
)  # fmt: skip
"""Kinds of fault, those that explain others first: a step makes other redshifts fit better, lines
at the wrong place look like bad pixels, and all spoil the fit."""
NONE, RARE, UNUSABLE = "none", "rare-shape", "unusable"
VERDICTS = (NONE, *FAULTS, RARE, UNUSABLE)
"""All verdicts."""

#: Least width of each statistic, in its own unit: where the usual spectra are all alike, a trifle
#: must not count as many widths. 2 % of the grid, so that a tenth of it is a missing range; what
#: noise alone does to those in σ; 10 % in the misfit, whose 1000 squares scatter by 5 %.
_LEAST = {
    "missing-range": 0.02,
    WRONG_REDSHIFT: 1.0,
    "calibration-step": 1.0,
    "sky-residual": 1.0,
    "bad-pixels": 0.5,
    "reconstruction": 0.1,
}
#: Validation spectra in one bin of S/N: the error of a width is then under a tenth.
_IN_BIN, _MOST_BINS = 200, 10
OWN_LEVEL = 50
"""Broad-line validation spectra from which they have levels of their own: the 95 % quantile of 50
is that of 92 to 98 %, an error of a fifth."""


def statistics_of(columns: Mapping[str, Doubles]) -> dict[str, Doubles]:
    """The statistic of each kind of fault, from the columns of evidence.

    Parameters
    ----------
    columns
        Of `faults.measure_faults`, and ``scan_gain``: by how many σ another redshift fits better;
        NaN where none was tried; shape (spectrum,) each.

    Returns
    -------
    dict
        By kind, shape (spectrum,); NaN where it could not be measured. All grow with the fault;
        ratios are logarithms.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "missing-range": np.maximum.reduce(
                [columns[f"missing_{place}"] for place in ("blue", "red", "gap")]
            ),
            # A worse fit elsewhere is as good as none: how much worse tells nothing.
            WRONG_REDSHIFT: np.maximum(columns["scan_gain"], 0.0),
            "calibration-step": columns["step_sigma"],
            # A mean of n squares scatters by √(2/n).
            "sky-residual": (columns["sky_ratio"] - 1) * np.sqrt(columns["n_sky"] / 2),
            "bad-pixels": columns["spike"],
            "reconstruction": np.log(columns["misfit"]),
        }


def scan_gain(
    chi2: Doubles, chi2_here: Doubles, n_pixels: npt.ArrayLike, n_latent: int
) -> Doubles:
    """By how many σ a spectrum is reproduced better at another redshift; below 0: worse.

    Both χ² are scaled so that the better fit's is its number of pixels. The χ² that a fit of n
    latents takes up has variance 2 n: so much, twice, do two equally good fits differ.

    Parameters
    ----------
    chi2, chi2_here
        There and at its own redshift, over the same pixels, shape (spectrum,); NaN gives NaN.
    n_pixels
        Their number.
    n_latent
        Latents of the model.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        better = (chi2_here / chi2 - 1) * np.asarray(n_pixels)
    return np.asarray(better / np.sqrt(4 * n_latent), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """What is usual of one statistic, by S/N and for broad-line spectra.

    Parameters
    ----------
    snr
        ln of the median S/N of each bin, ascending, shape (bin,).
    centre, width
        Of the statistic, shape (bin,).
    broad
        Centre and width of the strengths of broad-line spectra, shape (2,); (0, 1) where there
        were too few (`OWN_LEVEL`), and the levels are of all spectra then.
    """

    snr: Doubles
    centre: Doubles
    width: Doubles
    broad: Doubles

    @classmethod
    def of(cls, kind: str, statistic: Doubles, snr: Doubles, broad: Bools) -> Levels:
        """Levels of the validation split.

        Parameters
        ----------
        kind
            One of `FAULTS`.
        statistic, snr, broad
            Of each validation spectrum, shape (spectrum,); NaN is left out.
        """
        good = np.isfinite(statistic) & np.isfinite(snr) & (snr > 0)
        if not good.any():
            return cls(np.zeros(1), np.zeros(1), np.full(1, np.inf), np.array([0.0, 1.0]))
        apart = good & broad
        own = OWN_LEVEL <= apart.sum() < good.sum()
        rest = good & ~broad if own else good
        levels = cls(*_by_snr(statistic[rest], snr[rest], _LEAST[kind]), np.array([0.0, 1.0]))
        if not own:
            return levels
        # Too few for bins of S/N: how the others depend on it is taken out first.
        centre, width = _centre_and_width(levels.strength(statistic, snr, broad)[apart])
        # Never judged more sharply than the others: their least width is that of noise.
        return replace(levels, broad=np.array([centre, max(width, 1.0)]))

    def strength(self, statistic: Doubles, snr: Doubles, broad: Bools) -> Doubles:
        """Distance of each spectrum from the usual, in widths; 0 where it was not measured."""
        at = np.log(np.where(snr > 0, snr, 1.0))
        found = (statistic - np.interp(at, self.snr, self.centre)) / np.interp(
            at, self.snr, self.width
        )
        own_centre, own_width = self.broad
        found = np.where(broad, (found - own_centre) / own_width, found)
        return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


def _by_snr(x: Doubles, snr: Doubles, least: float) -> tuple[Doubles, Doubles, Doubles]:
    s = np.log(snr)
    n_bins = int(np.clip(len(x) // _IN_BIN, 1, _MOST_BINS))
    rows = np.array_split(np.argsort(s, kind="stable"), n_bins)
    centre, width = np.array([_centre_and_width(x[r]) for r in rows]).T
    return np.array([np.median(s[r]) for r in rows]), centre, np.maximum(width, least)


def _centre_and_width(x: Doubles) -> tuple[float, float]:
    middle, upper, far = np.quantile(x, (0.5, 0.84, 0.95))
    return float(middle), float(max(upper - middle, (far - middle) / 1.645))


LEVEL_NAMES = tuple(field.name for field in fields(Levels))
"""Arrays of `Levels`."""


def verdicts(
    strength: Mapping[str, Doubles], rare: Bools, usable: Bools, limit: float
) -> tuple[npt.NDArray[np.object_], Doubles]:
    """One word for each spectrum, and how strong its evidence is.

    Parameters
    ----------
    strength
        Of each kind of `FAULTS`, in widths, shape (spectrum,).
    rare
        Outliers of the flow.
    usable
        Whether there is a spectrum at all.
    limit
        Strength from which a fault is one.

    Returns
    -------
    verdict : numpy.ndarray
        Of `VERDICTS`: the first fault beyond the limit in the order of `FAULTS`; without one,
        ``rare-shape`` for an outlier of the flow, and ``none``.
    evidence : numpy.ndarray
        Strength of that fault; of the strongest one where there is none beyond the limit.
    """
    table = np.stack([strength[kind] for kind in FAULTS])
    beyond = table >= limit
    first = np.argmax(beyond, axis=0)
    found = beyond.any(axis=0)
    names = np.array(FAULTS, dtype=object)[first]
    verdict = np.where(found, names, np.where(rare, RARE, NONE))
    verdict = np.where(usable, verdict, UNUSABLE).astype(object)
    at = np.where(found, first, np.argmax(table, axis=0))
    evidence = table[at, np.arange(table.shape[1])]
    return verdict, np.where(usable, evidence, np.nan)


#: Columns that `evidence_in_words` reads.
SHOWN = (
    "missing_blue", "missing_red", "missing_gap", "other_redshift", "chi2_ratio", "step",
    "step_sigma", "step_wave", "sky_ratio", "spike", "spike_wave", "n_spikes", "misfit",
    "knn_p_value",
)  # fmt: skip


def evidence_in_words(verdict: str, value: Mapping[str, float]) -> str:
    """Main evidence of a verdict, short enough for a title; empty where there is none.

    Parameters
    ----------
    verdict
        Of `VERDICTS`.
    value
        Columns `SHOWN` of the spectrum.
    """
    share = max(value["missing_blue"], value["missing_red"], value["missing_gap"])
    gain, other = value["chi2_ratio"], value["other_redshift"]
    texts = {
        "missing-range": f"{share:.0%} of the range in one piece",
        "wrong-redshift": f"χ² {gain:.2f} times better at z={other:.3f}",
        "calibration-step": f"{value['step']:+.0%} at {value['step_wave']:.0f} Å, "
        f"{value['step_sigma']:.0f}σ",
        "sky-residual": f"χ² {value['sky_ratio']:.1f} times that off the sky",
        "bad-pixels": f"{value['n_spikes']:.0f} spikes, {value['spike']:.0f}σ at "
        f"{value['spike_wave']:.0f} Å",
        "reconstruction": f"misfit {value['misfit']:.2f}",
        "rare-shape": f"kNN p={value['knn_p_value']:.4f}",
    }
    return texts.get(verdict, "")
