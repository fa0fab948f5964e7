"""Figure of stability over seeds: ranks of two members, and the least probable they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata

from spectra_scale.figures.style import column, dress, head, new_figure, say

_COLOURS = {"flow": "#1f77b4", "auto-encoder": "#c8501e", "both": "#777777"}
_NAMES = {"flow": "flow's seed", "auto-encoder": "auto-encoder's seed", "both": "both seeds"}


@dataclass(frozen=True, slots=True, eq=False)
class RankPair:
    """Two rankings of the same objects.

    Parameters
    ----------
    differ
        What their makers differ in: ``flow``, ``auto-encoder`` or ``both``.
    first, second
        Names of the makers.
    a, b
        Scores, shape (object,); ranks are taken here.
    rank_correlation
        Spearman's ρ.
    """

    differ: str
    first: str
    second: str
    a: npt.ArrayLike
    b: npt.ArrayLike
    rank_correlation: float


def stability_figure(
    pairs: Sequence[RankPair],
    overlaps: Mapping[tuple[str, str], tuple[float, float, float]],
    n_least: int,
) -> Figure:
    """Draw ranks against ranks, and the shares of the least probable.

    Parameters
    ----------
    pairs
        One panel each.
    overlaps
        Share of the `n_least` least probable objects that two members have in common: median,
        least and greatest over pairs, by (score, what differs).
    n_least
        How many objects count as least probable.

    Returns
    -------
    Figure
        A panel a pair, with the density of objects, and one of bars.
    """
    n = max(1, len(pairs))
    figure = new_figure(4.1 * n + 0.4, 4.3 + 1.0 + 0.36 * len(overlaps))
    ratios = [4.3, 1.0 + 0.36 * len(overlaps)]
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
    panels = parts[0].subplots(1, n, squeeze=False)[0]
    if not pairs:
        say(panels[0], "no pair of members")
    for axes, pair in zip(panels, pairs, strict=False):
        _ranks(axes, pair)
    _bars(parts[1].subplots(), overlaps, n_least)
    head(parts[0], "Rank of log p with other seeds (0: least probable), validation split")
    return figure


def _ranks(axes: Axes, pair: RankPair) -> None:
    a, b = column("a", pair.a), column("b", pair.b)
    x, y = ((rankdata(values) - 0.5) / max(len(values), 1) for values in (a, b))
    bins = int(np.clip(np.sqrt(len(x)) / 1.5, 8, 60))
    axes.hist2d(x, y, bins=bins, range=[[0, 1], [0, 1]], cmap="Blues", cmin=1)
    axes.plot([0, 1], [0, 1], color="#444444", lw=0.8, ls=(0, (3, 3)))
    axes.set_aspect("equal")
    title = f"{_NAMES.get(pair.differ, pair.differ)}: ρ = {pair.rank_correlation:.3f}"
    dress(axes, f"rank, {pair.first}", f"rank, {pair.second}", title)


def _bars(
    axes: Axes, overlaps: Mapping[tuple[str, str], tuple[float, float, float]], n_least: int
) -> None:
    labels = []
    for place, ((score, differ), (median, low, high)) in enumerate(overlaps.items()):
        axes.barh(-place, median, height=0.68, color=_COLOURS.get(differ, "#444444"))
        axes.plot([low, high], [-place, -place], color="black", lw=1.4)
        axes.text(high + 0.01, -place, f"{100 * median:.0f} %", va="center", fontsize=8)
        labels.append(f"{score}: {_NAMES.get(differ, differ)}")
    axes.set_yticks(-np.arange(len(labels)), labels)
    axes.set_xlim(0, 1.1)
    dress(axes, f"share of the {n_least} least probable that is common; line: least to greatest")
    if not labels:
        say(axes, "no pairs")
