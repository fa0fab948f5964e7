"""Figure of class posteriors: do they mean what they say, and which classes are mistaken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.style import (
    INK,
    ClassKey,
    Floats,
    class_name,
    column,
    dress,
    head,
    line_colour,
    new_figure,
    say,
)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A calibration curve to draw: observed share with its interval against stated probability.

    Parameters
    ----------
    stated, observed, low, high
        Shape (bin,) each; NaN is left out.
    """

    stated: Floats
    observed: Floats
    low: Floats
    high: Floats


def class_reliability(
    top: Curve,
    by_class: Mapping[ClassKey, Curve],
    confusion: npt.ArrayLike,
    classes: Sequence[ClassKey],
    note: str = "",
) -> Figure:
    """Reliability diagram of class posteriors, and the confusion matrix.

    Parameters
    ----------
    top
        Curve of the probability of the most probable class.
    by_class
        Curve of the probability of each class (code or name).
    confusion
        Counts, true class by row, most probable by column, shape (C, C).
    classes
        The C classes, in the order of the matrix.
    note
        Scores, for the foot of the figure.

    Returns
    -------
    Figure
        Left: points on the diagonal are probabilities that mean what they say. Right: share of
        each true class, with counts.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    if counts.shape != (len(classes), len(classes)):
        message = (
            f"confusion has shape {counts.shape}, expected one row and column for each of "
            f"{len(classes)} classes. Give the matrix of these classes."
        )
        raise SpectraScaleError(message)
    figure = new_figure(12.6, 5.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.12))
    _curves(left, top, by_class)
    _matrix(right, counts, [class_name(key) for key in classes])
    head(figure, "Class posteriors from the latents, against the labels", note)
    return figure


def _curves(axes: Axes, top: Curve, by_class: Mapping[ClassKey, Curve]) -> None:
    axes.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, zorder=0)
    for key, curve in by_class.items():
        axes.plot(
            curve.stated, curve.observed, "o-", ms=3.5, lw=1, color=line_colour(key),
            label=class_name(key),
        )  # fmt: skip
    centre, low, high = (column("share", of) for of in (top.observed, top.low, top.high))
    reach = np.stack([centre - low, high - centre])
    axes.errorbar(
        top.stated, top.observed, yerr=np.maximum(reach, 0), fmt="s-", ms=5, lw=1.8, color=INK,
        capsize=2.5, label="most probable class",
    )  # fmt: skip
    dress(axes, "stated probability", "observed share")
    axes.set_title("reliability: equal counts a bin, bars of 68 %", fontsize=10.5, loc="left")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")


def _matrix(axes: Axes, counts: npt.NDArray[np.int64], names: Sequence[str]) -> None:
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(share):
        if counts[i, j]:
            axes.text(
                j, i, f"{100 * value:.0f} %\n{counts[i, j]:,}", ha="center", va="center",
                fontsize=8, color="white" if value > 0.55 else INK,
            )  # fmt: skip
    rows = [f"{name} ({int(n):,})" for name, n in zip(names, totals[:, 0], strict=True)]
    dress(axes, "most probable class", "class by its lines")
    axes.tick_params(top=False, right=False, length=0)
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=8.5)
    axes.set_yticks(range(len(names)), rows, fontsize=8.5)
    axes.set_title("share of each true class", fontsize=10.5, loc="left")
    if not counts.sum():
        say(axes, "no objects of known class")
