"""Mock beside real: class fractions, redshift and S/N, distributions by class, BPT, masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra_scale.figures.style import (
    FAINT,
    INK,
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
    scatter,
    span,
)
from spectra_scale.spectrum.classify import kauffmann, kewley

MOCK_COLOUR = "#c8323c"
"""Colour of the mock; real spectra are in ink."""

_BPT_X, _BPT_Y = (-1.6, 0.8), (-1.3, 1.5)


def whole_release(
    z: npt.ArrayLike,
    snr: npt.ArrayLike,
    fractions: Mapping[ClassKey, tuple[float, float]],
    *,
    mode: float,
    median: float,
) -> Figure:
    """Redshifts and S/N of a mock release, and its classes beside their targets.

    Parameters
    ----------
    z, snr
        Redshift and median S/N a pixel, shape (n,).
    fractions
        For each class its per cent of the mock, and the target.
    mode, median
        Targets of the redshift distribution, drawn as lines.

    Returns
    -------
    Figure
        Three panels.
    """
    redshift, ratio = column("z", z), column("snr", snr)
    figure = new_figure(13.0, 4.0)
    left, middle, right = figure.subplots(1, 3)
    left.hist(redshift, np.arange(0.05, 0.365, 0.01), color=MOCK_COLOUR, alpha=0.75)
    left.axvline(mode, color=INK, ls="--", lw=1.2, label=f"mode asked for, {mode:g}")
    left.axvline(median, color=INK, ls=":", lw=1.4, label=f"median asked for, {median:g}")
    left.legend(frameon=False, fontsize=9)
    dress(left, "redshift", "mock spectra")
    positive = ratio[ratio > 0]
    if positive.size:
        middle.hist(np.log10(positive), 40, color=MOCK_COLOUR, alpha=0.75)
        ticks = np.array([1, 2, 5, 10, 20, 50])
        middle.set_xticks(np.log10(ticks), [str(tick) for tick in ticks])
    dress(middle, "median S/N a pixel", "mock spectra")
    keys = class_order(fractions)
    place = np.arange(len(keys))
    for i, (name, colour) in enumerate((("mock", MOCK_COLOUR), ("target", INK))):
        height = [fractions[key][i] for key in keys]
        right.bar(place + 0.4 * i - 0.2, height, 0.38, color=colour, label=name)
    right.set_xticks(place, [class_name(key) for key in keys], rotation=30, ha="right")
    right.legend(frameon=False, fontsize=9)
    dress(right, "", "per cent of all")
    head(figure, "The mock release as a whole")
    return figure


def cumulative_grid(
    panels: Mapping[ClassKey, Sequence[tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]]],
    titles: Sequence[str],
    notes: Mapping[ClassKey, Sequence[str]],
) -> Figure:
    """Cumulative distributions of measures by class, mock over real.

    Parameters
    ----------
    panels
        For each class one entry a measure: real values (n,), mock values (m,), mock weights (m,).
        NaN is not measured.
    titles
        Names of the measures.
    notes
        For each class one short text a measure, such as the KS distance.

    Returns
    -------
    Figure
        One row a class, one column a measure. Axes hold 98 % of the values.
    """
    keys = class_order(panels)
    figure = new_figure(2.35 * len(titles) + 0.6, 1.75 * max(1, len(keys)) + 0.9)
    grid = figure.subplots(max(1, len(keys)), len(titles), squeeze=False, sharey=True)
    for row, key in zip(grid, keys, strict=False):
        for i, axes in enumerate(row):
            real, mock, weight = (column(titles[i], values) for values in panels[key][i])
            _steps_of(axes, real, np.ones(len(real)), INK, "real")
            _steps_of(axes, mock, weight, MOCK_COLOUR, "mock")
            both = np.concatenate([real, mock])
            axes.set_xlim(*span(both, trim=0.02))
            if not np.isfinite(both).any():
                say(axes, "not measured")
            axes.set_ylim(0, 1)
            dress(axes)
            axes.tick_params(labelsize=7.5)
            axes.text(
                0.97, 0.05, notes[key][i], transform=axes.transAxes, ha="right", fontsize=7.5
            )
        row[0].set_ylabel(class_name(key), fontsize=9)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9.5)
    grid[0, 0].legend(frameon=False, fontsize=8, loc="upper left")
    head(figure, "Cumulative distributions at equal class, redshift and S/N")
    return figure


def _steps_of(axes: Axes, values: Floats, weight: Floats, colour: str, label: str) -> None:
    good = np.isfinite(values)
    if not good.any():
        return
    order = np.argsort(values[good])
    share = np.cumsum(weight[good][order])
    axes.step(
        values[good][order], share / share[-1], color=colour, lw=1.3, where="post", label=label
    )


def bpt_beside(
    real: Mapping[ClassKey, tuple[npt.ArrayLike, npt.ArrayLike]],
    mock: Mapping[ClassKey, tuple[npt.ArrayLike, npt.ArrayLike]],
) -> Figure:
    """BPT diagram of real and of matched mock spectra, side by side.

    Parameters
    ----------
    real, mock
        For each class log [N II]/Hα and log [O III]/Hβ, shape (n,) each; NaN is not drawn.

    Returns
    -------
    Figure
        Two panels with the curves of Kauffmann et al. (2003) and Kewley et al. (2001).
    """
    figure = new_figure(10.0, 4.8)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, name, groups in zip(panels, ("real", "mock, matched"), (real, mock), strict=True):
        for curve, limit, style in ((kauffmann, 0.05, "-"), (kewley, 0.47, "--")):
            x = np.linspace(_BPT_X[0], limit - 1e-3, 300)
            axes.plot(x, curve(x), color=INK, ls=style, lw=1.2)
        n = 0
        for key in class_order(groups):
            xy = np.column_stack([column("bpt", values) for values in groups[key]])
            shown = xy[np.isfinite(xy).all(axis=1)]
            n += len(shown)
            if len(shown):
                scatter(axes, shown, [line_colour(key)] * len(shown), area=14)
                axes.plot([], [], "o", ms=5, color=line_colour(key), label=class_name(key))
        axes.set_xlim(*_BPT_X)
        axes.set_ylim(*_BPT_Y)
        dress(axes, "log [N II]/Hα", "log [O III]/Hβ", f"{name} ({n:,})")
    panels[0].legend(frameon=False, fontsize=8.5, loc="lower left")
    head(figure, "BPT diagram, lines at 3σ")
    return figure


def mask_shares(bits: Mapping[str, tuple[float, float]]) -> Figure:
    """Share of the pixels with each bit of AND_MASK, mock beside real.

    Parameters
    ----------
    bits
        For each bit the share of real and of mock pixels, 0 to 1.

    Returns
    -------
    Figure
        Bars on a logarithmic scale; bits that neither has are left out.
    """
    names = [name for name, pair in bits.items() if max(pair) > 0]
    figure = new_figure(max(6.0, 0.8 * len(names) + 2.5), 4.0)
    axes = figure.add_subplot()
    place = np.arange(len(names))
    for i, (label, colour) in enumerate((("real", INK), ("mock", MOCK_COLOUR))):
        height = np.array([bits[name][i] for name in names]) * 100
        axes.bar(place + 0.4 * i - 0.2, height, 0.38, color=colour, label=label)
    axes.set_yscale("log")
    axes.set_xticks(place, names, rotation=35, ha="right")
    dress(axes, "", "per cent of pixels with data")
    if names:
        axes.legend(frameon=False)
    else:
        say(axes, "no bits")
    head(figure, "AND_MASK by bit")
    return figure


def correlation_pairs(rows: Sequence[tuple[str, float, float, float]]) -> Figure:
    """Rank correlations of pairs of measures, mock over real.

    Parameters
    ----------
    rows
        Name of the pair, correlation in real spectra, its error, correlation in the mock.

    Returns
    -------
    Figure
        One panel, one line a pair; NaN pairs are left out.
    """
    known = [row for row in rows if np.isfinite(row[1]) and np.isfinite(row[3])]
    known.sort(key=lambda row: row[1])
    figure = new_figure(8.0, 0.26 * max(4, len(known)) + 1.4)
    axes = figure.add_subplot()
    place = np.arange(len(known))
    axes.axvline(0, color=FAINT, lw=0.8)
    real, error, mock = (np.array([row[i] for row in known]) for i in (1, 2, 3))
    axes.errorbar(real, place, xerr=error, fmt="o", ms=4, color=INK, lw=1, label="real")
    axes.plot(mock, place, "D", ms=5, color=MOCK_COLOUR, label="mock")
    axes.set_yticks(place, [row[0] for row in known], fontsize=8)
    axes.set_xlim(-1, 1)
    dress(axes, "Spearman's rank correlation")
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(frameon=False, loc="lower right")
    head(figure, "Correlations between measures")
    return figure
