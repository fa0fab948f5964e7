"""Numbers of the comparison: class fractions, distributions at equal class, z and S/N."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compare.matching import Matches
from spectra_scale.compare.measures import MEASURES
from spectra_scale.compare.sides import Side
from spectra_scale.spectrum.classify import CLASS_NAMES, Label

Doubles = NDArray[np.float64]

FRACTION_TARGETS: dict[str, float] = {
    "N/A": 0.14,
    "star-forming": 30.5,
    "composite": 12.7,
    "narrow-line AGN": 5.4,
    "broad-line": 3.1,
    "retired": 18.8,
    "passive": 29.2,
}
"""Class fractions of the paper's sample in per cent."""

_MIN_KNOWN = 5
_QUANTILES = (5, 50, 95)


def class_fractions(label: NDArray[np.int8]) -> dict[str, float]:
    """Per cent of spectra in each class, in code order."""
    counts = np.bincount(label, minlength=len(CLASS_NAMES))
    shares = 100.0 * counts / max(len(label), 1)
    return {name: float(share) for name, share in zip(CLASS_NAMES, shares, strict=True)}


def max_fraction_error(fractions: dict[str, float]) -> float:
    """Largest distance of a class fraction from its target, in points (per cent of all)."""
    return max(abs(fractions[name] - target) for name, target in FRACTION_TARGETS.items())


def class_masks(label: NDArray[np.int8]) -> dict[str, NDArray[np.bool_]]:
    """Rows of all spectra, of all that are no broad-line ones, and of each class that is there."""
    groups = {"all": np.ones(len(label), bool), "galaxies": label != Label.BROAD_LINE}
    for code, name in enumerate(CLASS_NAMES):
        if (label == code).any():
            groups[name] = label == code
    return groups


def redshift_facts(z: Doubles) -> dict[str, float]:
    """Median, and mode of a histogram of 0.01 smoothed over three bins."""
    edges = np.arange(0.045, 0.375, 0.01)
    counts = np.histogram(z, edges)[0].astype(float)
    smooth = np.convolve(counts, np.ones(3) / 3, "same")
    mode = float(0.5 * (edges[:-1] + edges[1:])[smooth.argmax()])
    return {"z_median": float(np.median(z)), "z_mode": mode}


def weighted_quantiles(values: Doubles, weight: Doubles, per_cent: tuple[float, ...]) -> Doubles:
    """Quantiles of weighted values, NaN ignored; NaN where nothing is known.

    Parameters
    ----------
    values, weight
        Shape (n,).
    per_cent
        Which, in per cent.

    Returns
    -------
    Shape (len(per_cent),), by linear interpolation between the middles of the weights.
    """
    good = np.isfinite(values)
    if not good.any():
        return np.full(len(per_cent), np.nan)
    order = np.argsort(values[good])
    v, w = values[good][order], weight[good][order]
    middle = (np.cumsum(w) - 0.5 * w) / w.sum()
    return np.interp(np.array(per_cent) / 100.0, middle, v)


def ks_distance(a: Doubles, b: Doubles, b_weight: Doubles) -> float:
    """Largest distance of the two distributions, the second one weighted; NaN ignored."""
    first, keep = np.sort(a[np.isfinite(a)]), np.isfinite(b)
    if len(first) < _MIN_KNOWN or keep.sum() < _MIN_KNOWN:
        return float("nan")
    order = np.argsort(b[keep])
    second, weight = b[keep][order], b_weight[keep][order]
    steps = np.concatenate([[0.0], np.cumsum(weight) / weight.sum()])
    at = np.concatenate([first, second])
    worst = 0.0
    sides: tuple[Literal["left", "right"], ...] = ("left", "right")
    for side in sides:
        mine = np.searchsorted(first, at, side=side) / len(first)
        theirs = steps[np.searchsorted(second, at, side=side)]
        worst = max(worst, float(np.abs(mine - theirs).max()))
    return worst


def distribution_rows(real: Side, mock: Side, matches: Matches) -> list[dict[str, Any]]:
    """Quantiles of each measure of each class, real beside matched mock.

    Returns
    -------
    One row a class and measure, with ``all`` for the classes together: numbers known, quantiles
    of both, KS distance and the distance that 5 % of equal samples exceed. ``galaxies`` is
    all but broad-line.
    """
    i, j = matches.pairs()
    weight = matches.weight
    out = []
    for name, mine in class_masks(real.label).items():
        if mine.sum() < _MIN_KNOWN:
            continue
        pair = mine[i]
        for measure in MEASURES:
            a, b = real.measures[measure][mine], mock.measures[measure][j[pair]]
            w = weight[pair]
            out.append(_distribution(name, measure, (a, b, w)))
    return out


def _distribution(
    name: str, measure: str, values: tuple[Doubles, Doubles, Doubles]
) -> dict[str, Any]:
    a, b, w = values
    n, known = int(np.isfinite(a).sum()), np.isfinite(b)
    n_mock = float(w[known].sum() ** 2 / max((w[known] ** 2).sum(), 1e-12))
    limit = 1.36 * np.sqrt(1 / max(n, 1) + 1 / max(n_mock, 1.0))
    return {
        "class": name,
        "measure": measure,
        "n_real": n,
        "n_mock": int(known.sum()),
        "real": weighted_quantiles(a, np.ones(len(a)), _QUANTILES).tolist(),
        "mock": weighted_quantiles(b, w, _QUANTILES).tolist(),
        "ks": ks_distance(a, b, w),
        "ks_5_per_cent": float(limit),
    }


def rank_correlations(real: Side, mock: Side, matches: Matches) -> list[dict[str, Any]]:
    """Spearman's correlation of every pair of measures, over real and matched mock spectra."""
    _, j = matches.pairs()
    names = list(MEASURES)
    out = []
    for first, a in enumerate(names):
        for b in names[first + 1 :]:
            mine = spearman(real.measures[a], real.measures[b])
            theirs = spearman(mock.measures[a][j], mock.measures[b][j])
            out.append({"pair": (a, b), "real": mine[0], "real_error": mine[1], "mock": theirs[0]})
    return out


def spearman(a: Doubles, b: Doubles) -> tuple[float, float]:
    """Rank correlation of the rows where both are known, and its error 1.03/√(n-3)."""
    from scipy.stats import spearmanr

    good = np.isfinite(a) & np.isfinite(b)
    if good.sum() < 2 * _MIN_KNOWN:
        return float("nan"), float("nan")
    return float(spearmanr(a[good], b[good]).statistic), float(1.03 / np.sqrt(good.sum() - 3))
