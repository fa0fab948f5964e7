"""Figures of the density: log-probability (paper Fig. 11) and the drift of new data from it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra_scale.figures.style import (
    TRAIN_COLOUR,
    VALIDATION_COLOUR,
    ClassKey,
    Floats,
    class_name,
    class_order,
    column,
    dress,
    head,
    line_colour,
    new_figure,
    say,
    span,
)

# The tail of log_prob is long: the axis leaves out this fraction below and says how many.
_TAIL = 0.0005

SCORE_LABELS: Mapping[str, str] = {
    "log_prob": "log probability",
    "chi2": "χ² of the reconstruction",
    "chi2_valid": "χ² per valid pixel",
    "p_value": "outlier p-value",
    "snr_median": "median S/N per pixel",
    "snr_total": "total S/N",
    "z": "redshift",
}


def log_prob_histogram(
    log_prob_train: npt.ArrayLike,
    log_prob_validation: npt.ArrayLike,
    *,
    by_class: Mapping[ClassKey, npt.ArrayLike] | None = None,
    n_bins: int = 120,
) -> Figure:
    """Distribution of log-probability under the flow, by split and by class (paper Fig. 11).

    Parameters
    ----------
    log_prob_train, log_prob_validation
        log_prob (natural logarithm, a density in latent space), shape (n,) each; NaN is left out.
        Training rows are optimistic (science.md §7).
    by_class
        log_prob of each class (code or name), for a second panel.
    n_bins
        Number of bins.

    Returns
    -------
    Figure
        Normalised histograms with logarithmic counts. The axis starts at the lowest 0.05 %, and
        the note says how many lie below it.
    """
    splits = {
        "training": column("log_prob_train", log_prob_train),
        "validation": column("log_prob_validation", log_prob_validation),
    }
    groups = {
        class_name(key): column(f"log_prob of {class_name(key)}", values)
        for key, values in sorted_groups(by_class or {})
    }
    figure = new_figure(13.0 if groups else 7.8, 4.9)
    panels = figure.subplots(1, 2 if groups else 1, squeeze=False)[0]
    values = np.concatenate(list(splits.values()))
    edges = np.linspace(*span(values, trim=_TAIL, pad=0.02), n_bins + 1)
    colours = {"training": TRAIN_COLOUR, "validation": VALIDATION_COLOUR}
    _histograms(panels[0], splits, edges, colours)
    panels[0].set_title("by split", fontsize=10.5, loc="left")
    if groups:
        _histograms(panels[1], groups, edges, {name: line_colour(name) for name in groups})
        panels[1].set_title("by class", fontsize=10.5, loc="left")
    below = int((values < edges[0]).sum())
    note = f"{below:,} of {int(np.isfinite(values).sum()):,} lie left of the axis" if below else ""
    head(figure, "Log-probability of the latents", note)
    return figure


def sorted_groups(
    groups: Mapping[ClassKey, npt.ArrayLike],
) -> list[tuple[ClassKey, npt.ArrayLike]]:
    """Groups in the order of the class codes.

    Parameters
    ----------
    groups
        Values by class (code or name).

    Returns
    -------
    list[tuple[ClassKey, npt.ArrayLike]]
        Its items, sorted.
    """
    return [(key, groups[key]) for key in class_order(groups)]


def _histograms(
    axes: Axes, groups: Mapping[str, Floats], edges: Floats, colours: Mapping[str, str]
) -> None:
    drawn = False
    for name, values in groups.items():
        good = values[np.isfinite(values)]
        counts, _ = np.histogram(good, edges)
        if counts.sum():
            density = counts / (good.size * np.diff(edges))
            axes.stairs(
                density, edges, color=colours[name], lw=1.5, label=f"{name} ({good.size:,})"
            )
            drawn = True
    dress(axes, "log probability (natural logarithm)", "fraction per unit of log probability")
    axes.set_xlim(edges[0], edges[-1])
    if drawn:
        axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    else:
        say(axes, "no values")


def drift_histograms(
    trained: Mapping[str, npt.ArrayLike],
    new: Mapping[str, npt.ArrayLike],
    *,
    numbers: Mapping[str, str] | None = None,
    n_bins: int = 60,
) -> Figure:
    """Scores of new data beside those the models were trained on.

    Parameters
    ----------
    trained, new
        Scores by name (``log_prob``, ``chi2``, ``p_value`` …), shape (n,) each; NaN is left out.
        A name missing on one side is drawn for the other alone.
    numbers
        Text by name of a score, for a line below the title of its panel.
    n_bins
        Number of bins, shared by both.

    Returns
    -------
    Figure
        One panel a score, with the Kolmogorov-Smirnov distance (largest difference of the two
        cumulative distributions, 0 to 1) in its title.
    """
    names = list(dict.fromkeys([*trained, *new]))
    n_columns = max(1, min(3, len(names)))
    n_rows = max(1, -(-len(names) // n_columns))
    figure = new_figure(4.7 * n_columns + 0.3, 3.7 * n_rows + 0.5)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        old = column(f"trained {name}", trained.get(name, ()))
        fresh = column(f"new {name}", new.get(name, ()))
        _drift_panel(axes, name, (old[np.isfinite(old)], fresh[np.isfinite(fresh)]), n_bins)
        if numbers is not None and name in numbers:
            title = axes.get_title(loc="left")
            axes.set_title(f"{title}\n{numbers[name]}".strip(), fontsize=10.5, loc="left")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    if not names:
        say(panels[0], "no scores")
    note = "Values beyond an axis are counted in its outermost bin."
    head(figure, "Drift: new data against the data the models were trained on", note)
    return figure


def ks_distance(a: Floats, b: Floats) -> float:
    """Kolmogorov-Smirnov distance of two samples; NaN if one is empty.

    Parameters
    ----------
    a, b
        Finite values, shape (n,) and (m,).

    Returns
    -------
    float
        Largest difference of their cumulative distributions.

    Examples
    --------
    >>> ks_distance(np.array([0.0, 1.0]), np.array([2.0, 3.0]))
    1.0
    """
    if not len(a) or not len(b):
        return float("nan")
    every = np.concatenate([a, b])
    parts = [np.searchsorted(np.sort(x), every, side="right") / len(x) for x in (a, b)]
    return float(np.abs(parts[0] - parts[1]).max())


def _drift_panel(axes: Axes, name: str, pair: tuple[Floats, Floats], n_bins: int) -> None:
    edges = np.linspace(*span(np.concatenate(pair), trim=0.001, pad=0.02), n_bins + 1)
    looks = (("trained on", "#777777", 0.45), ("new", "#c8501e", 0.0))
    for values, (text, colour, alpha) in zip(pair, looks, strict=True):
        if not values.size:
            continue
        # What lies beyond the axis is counted in the first and the last bin, not lost.
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        fraction = counts / values.size
        if alpha:
            axes.stairs(fraction, edges, fill=True, color=colour, alpha=alpha)
        axes.stairs(fraction, edges, color=colour, lw=1.5, label=f"{text} ({values.size:,})")
    distance = ks_distance(*pair)
    title = "" if np.isnan(distance) else f"Kolmogorov–Smirnov distance {distance:.3f}"
    dress(axes, SCORE_LABELS.get(name, name.replace("_", " ")), "fraction per bin", title)
    if any(values.size for values in pair):
        axes.legend(frameon=False, fontsize=8.5)
    else:
        say(axes, "no values")
