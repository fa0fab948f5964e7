"""Spectral lines on figures, marked at their vacuum wavelengths (science.md §9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from spectra_scale.spectrum.vacuum import LINES

LINE_LABELS: Mapping[str, str] = {
    "NeV3427": "[Ne V]",
    "OII3727": "[O II]",
    "NeIII3870": "[Ne III]",
    "CaK": "Ca K",
    "CaH": "Ca H",
    "Hdelta": "Hδ",
    "Gband": "G band",
    "Hgamma": "Hγ",
    "OIII4364": "[O III]",
    "HeII4687": "He II",
    "Hbeta": "Hβ",
    "OIII4960": "[O III]",
    "OIII5008": "[O III]",
    "Mgb": "Mg b",
    "HeI5877": "He I",
    "NaD": "Na D",
    "OI6302": "[O I]",
    "NII6549": "[N II]",
    "Halpha": "Hα",
    "NII6585": "[N II]",
    "SII6718": "[S II]",
    "SII6733": "[S II]",
}
OVERVIEW_LINES = (
    *("OII3727", "CaK", "CaH", "Hdelta", "Gband", "Hgamma", "Hbeta", "OIII5008", "Mgb", "NaD"),
    *("OI6302", "Halpha", "SII6718"),
)
HBETA_LINES = ("Hbeta", "OIII4960", "OIII5008")
HALPHA_LINES = ("NII6549", "Halpha", "NII6585")
SII_LINES = ("SII6718", "SII6733")
HBETA_WINDOW = (4780.0, 5060.0)
HALPHA_WINDOW = (6490.0, 6640.0)
HALPHA_SII_WINDOW = (6480.0, 6790.0)


def mark_lines(axes: Axes, names: Iterable[str], *, labelled: bool = True) -> None:
    """Draw dotted lines at the vacuum wavelengths of the named lines inside the x limits.

    Parameters
    ----------
    axes
        Axes whose x limits are set.
    names
        Keys of `spectra_scale.spectrum.vacuum.LINES`.
    labelled
        Whether to write the transitions above the axes.
    """
    low, high = sorted(axes.get_xlim())
    inside = sorted((n for n in names if low < LINES[n] < high), key=lambda name: LINES[name])
    width = axes.get_position().width * axes.get_figure(root=True).get_figwidth()  # type: ignore[union-attr]  # axes are on a figure here
    gap = (high - low) * 0.13 / max(width, 1.0)
    places = _spread([LINES[name] for name in inside], gap)
    style: dict[str, Any] = {"ls": (0, (1, 2)), "lw": 0.9, "color": "#666666", "zorder": 1.5}
    for name, place in zip(inside, places, strict=True):
        axes.axvline(LINES[name], gid=f"line:{name}", **style)
        if labelled:
            axes.annotate(
                LINE_LABELS.get(name, name),
                xy=(place, 1.0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(0, 3),
                textcoords="offset points",
                rotation=90,
                fontsize=7.5,
                ha="center",
                va="bottom",
                color="#444444",
            )


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Move sorted places apart until neighbours are `gap` apart, each cluster about its middle."""
    clusters: list[list[float]] = []
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and _edges(clusters[-1], gap)[0] < _edges(clusters[-2], gap)[1]:
            last = clusters.pop()
            clusters[-1].extend(last)
    moved: list[float] = []
    for cluster in clusters:
        first = _edges(cluster, gap)[0] + gap / 2
        moved.extend(first + gap * i for i in range(len(cluster)))
    return moved


def _edges(cluster: Sequence[float], gap: float) -> tuple[float, float]:
    middle, half = sum(cluster) / len(cluster), gap * len(cluster) / 2
    return middle - half, middle + half
