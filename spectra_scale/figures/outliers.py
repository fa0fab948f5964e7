"""Figures of the triage: objects by verdict, on any two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.style import (
    column,
    drawing_order,
    dress,
    head,
    marker_area,
    new_figure,
    points,
    say,
    span,
)

_PALE = "#cfcfcf"
VERDICT_COLOURS: Mapping[str, str] = {
    "none": _PALE,
    "missing-range": "#8c564b",
    "wrong-redshift": "#d62728",
    "calibration-step": "#ff7f0e",
    "sky-residual": "#bcbd22",
    "bad-pixels": "#9467bd",
    "reconstruction": "#17becf",
    "rare-shape": "#1f3fbf",
    "unusable": "#000000",
}


def objects_by_verdict(
    xy: npt.ArrayLike,
    verdict: Sequence[str],
    labels: tuple[str, str],
    *,
    trim: float = 0.0,
    heading: str = "Objects by verdict",
) -> Figure:
    """Objects on two axes, coloured by their verdict; those without a fault pale, below.

    Parameters
    ----------
    xy
        Shape (n, 2); rows with NaN are left out.
    verdict
        Word of each, shape (n,).
    labels
        Of both axes.
    trim
        Share of the values cut at each end of each axis; points beyond lie on its edge.
    heading
        Title.

    Returns
    -------
    Figure
        One panel.

    Raises
    ------
    SpectraScaleError
        If there are not as many words as points.
    """
    where = points("xy", xy)
    words = np.asarray(verdict, dtype=object)
    if len(words) != len(where):
        message = f"found {len(where)} points and {len(words)} verdicts, expected as many of both."
        raise SpectraScaleError(message)
    figure = new_figure(9.5, 8.0)
    axes = figure.add_subplot()
    good = np.isfinite(where).all(axis=1)
    limits = [span(column("axis", where[good, i]), trim=trim, pad=0.03) for i in (0, 1)]
    low, high = np.array(limits).T
    where = np.clip(where, low, high)
    handles = []
    area = marker_area(len(where))
    for word in dict.fromkeys([*VERDICT_COLOURS, *words.tolist()]):
        rows = drawing_order(good & (words == word), 0)
        if not len(rows):
            continue
        colour = VERDICT_COLOURS.get(word, "#e377c2")
        size = area if word == "none" else max(6 * area, 9.0)
        axes.scatter(where[rows, 0], where[rows, 1], s=size, color=colour, lw=0, rasterized=True)
        text = f"{word} ({len(rows):,})"
        handles.append(Line2D([], [], ls="", marker="o", ms=6, color=colour, label=text))
    dress(axes, *labels)
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    else:
        say(axes, "no objects")
    # Not as a foot note: the legend is there.
    head(figure, f"{heading} (points beyond an axis lie on its edge)" if trim else heading)
    return figure
