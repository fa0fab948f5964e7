"""Mock beside real: mean spectra, residuals, what a classifier sees, blind and example grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.compare_statistics import MOCK_COLOUR
from spectra_scale.figures.marks import OVERVIEW_LINES, mark_lines
from spectra_scale.figures.style import (
    FAINT,
    INK,
    WAVE_LABEL,
    ClassKey,
    Floats,
    class_name,
    class_order,
    column,
    dress,
    fit_y,
    head,
    new_figure,
    say,
    span,
)

Pair = tuple[npt.ArrayLike, npt.ArrayLike]
Curve = tuple[npt.ArrayLike, npt.ArrayLike]

_BLIND_COLUMNS = 4


def mean_spectra(wave: npt.ArrayLike, groups: Mapping[ClassKey, Pair]) -> Figure:
    """Mean spectrum of each class of real and matched mock spectra, and their ratio.

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength in Å, shape (pixel,).
    groups
        For each class the mean real and the mean mock spectrum, shape (pixel,), each spectrum
        divided by its median before; NaN where there is none.

    Returns
    -------
    Figure
        One row a class: both means at the left, mock over real at the right.
    """
    grid = column("wave", wave)
    keys = class_order(groups)
    figure = new_figure(14.0, 1.9 * max(1, len(keys)) + 0.9)
    panels = figure.subplots(max(1, len(keys)), 2, squeeze=False, sharex=True)
    for i, (row, key) in enumerate(zip(panels, keys, strict=False)):
        real, mock = (column(class_name(key), values, len(grid)) for values in groups[key])
        row[0].plot(grid, real, color=INK, lw=0.9, label="real")
        row[0].plot(grid, mock, color=MOCK_COLOUR, lw=0.9, label="mock")
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(real > 0.02, mock / real, np.nan)
        row[1].axhline(1, color=FAINT, lw=0.8)
        row[1].plot(grid, ratio, color=MOCK_COLOUR, lw=0.9)
        row[1].set_ylim(0.7, 1.3)
        row[0].set_ylabel(class_name(key), fontsize=9)
        for axes in row:
            axes.set_xlim(grid[0], grid[-1])
            mark_lines(axes, OVERVIEW_LINES, labelled=i == 0)
            axes.tick_params(which="both", direction="in", top=True, right=True, labelsize=8)
        row[0].set_ylim(*span(np.concatenate([real, mock]), trim=0.002, pad=0.08))
    if keys:
        panels[0, 0].legend(frameon=False, fontsize=8, loc="upper right")
    else:
        say(panels[0, 0], "no spectra")
    for axes in panels[-1]:
        axes.set_xlabel(WAVE_LABEL, fontsize=10)
    head(figure, "Mean spectra (each over its median), and mock over real")
    return figure


def residual_zooms(
    wave: npt.ArrayLike,
    groups: Mapping[ClassKey, tuple[Curve, Curve]],
    windows: Mapping[str, tuple[float, float]],
) -> Figure:
    """Mean residual of an auto-encoder trained on the mock, real over mock, in some windows.

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength in Å, shape (pixel,).
    groups
        For each class the mean residual in sigma and its standard error, shape (pixel,), of real
        and of mock spectra.
    windows
        Name to wavelengths, Å.

    Returns
    -------
    Figure
        One row a class, one column a window after one of the whole range; bands are one standard
        error.
    """
    grid = column("wave", wave)
    keys = class_order(groups)
    shape = max(1, len(keys)), len(windows) + 1
    ratios = [2.4] + [1.0] * len(windows)
    figure = new_figure(15.0, 1.6 * shape[0] + 0.9)
    panels = figure.subplots(*shape, squeeze=False, width_ratios=ratios)
    places = {"whole range": (float(grid[0]), float(grid[-1]))} | dict(windows)
    for row, key in zip(panels, keys, strict=False):
        for axes, limits in zip(row, places.values(), strict=True):
            _residuals(axes, grid, groups[key], limits)
        row[0].set_ylabel(class_name(key), fontsize=9)
    for axes, name in zip(panels[0], places, strict=True):
        axes.set_title(name, fontsize=9.5)
    if keys:
        panels[0, 0].legend(frameon=False, fontsize=8, ncols=2, loc="lower left")
    figure.supxlabel(WAVE_LABEL, fontsize=10)
    head(figure, "Mean of (F − F_rec)/σ of the auto-encoder trained on the mock")
    return figure


def _residuals(
    axes: Axes, grid: Floats, curves: tuple[Curve, Curve], limits: tuple[float, float]
) -> None:
    drawn = []
    for (mean, error), colour, name in zip(
        curves, (INK, MOCK_COLOUR), ("real", "mock, held out"), strict=True
    ):
        m, e = column(name, mean, len(grid)), column(name, error, len(grid))
        axes.fill_between(grid, m - e, m + e, color=colour, alpha=0.2, lw=0)
        axes.plot(grid, m, color=colour, lw=0.8, label=name)
        drawn.append(m)
    axes.axhline(0, color=FAINT, lw=0.8)
    axes.set_xlim(*limits)
    if limits[1] - limits[0] > 1000:
        axes.set_ylim(*span(np.concatenate(drawn), trim=0.003, pad=0.1))
    else:
        fit_y(axes, grid, drawn)
    dress(axes)
    axes.tick_params(labelsize=7.5)


def classifier_bands(
    wave: npt.ArrayLike, real: npt.ArrayLike, mock: npt.ArrayLike, importance: npt.ArrayLike
) -> Figure:
    """What a classifier of mock against real needs, band by band, under the mean spectra.

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength in Å, shape (pixel,).
    real, mock
        Mean spectra of what it was shown, shape (pixel,).
    importance
        Loss of AUC when the pixels of a band are permuted, shape (band,): bands share the pixels
        equally.

    Returns
    -------
    Figure
        Two panels above each other.
    """
    grid, bands = column("wave", wave), column("importance", importance)
    figure = new_figure(12.0, 5.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.6, 1])
    for values, colour, name in ((real, INK, "real"), (mock, MOCK_COLOUR, "mock")):
        top.plot(grid, column(name, values, len(grid)), color=colour, lw=0.9, label=name)
    top.set_xlim(grid[0], grid[-1])
    top.legend(frameon=False, fontsize=9)
    mark_lines(top, OVERVIEW_LINES)
    dress(top, "", "mean of F over its median")
    if len(bands):
        edges = np.append(grid[np.arange(len(bands)) * (len(grid) // len(bands))], grid[-1])
        bottom.stairs(bands, edges, fill=True, color=MOCK_COLOUR, alpha=0.8)
    else:
        say(bottom, "not measured")
    dress(bottom, WAVE_LABEL, "loss of AUC")
    head(figure, "What the classifier sees")
    return figure


def numbered_spectra(
    wave: npt.ArrayLike, flux: npt.ArrayLike, titles: Sequence[str], *, heading: str
) -> Figure:
    """Grid of spectra that differ by their titles alone.

    Parameters
    ----------
    wave
        Vacuum wavelength in Å, shape (pixel,), or (spectrum, pixel) where each has its own.
    flux
        Shape (spectrum, pixel); NaN where missing.
    titles
        Text of each panel.
    heading
        Title of the figure.

    Returns
    -------
    Figure
        Four columns; the y axis holds 99.6 % of the pixels.
    """
    rows = np.asarray(flux, np.float64)
    grid = np.broadcast_to(np.asarray(wave, np.float64), rows.shape)
    if len(titles) != len(rows):
        message = f"found {len(rows)} spectra and {len(titles)} titles: expected one title each."
        raise SpectraScaleError(message)
    n_rows = max(1, -(-len(rows) // _BLIND_COLUMNS))
    figure = new_figure(16.0, 1.85 * n_rows + 0.7)
    panels = figure.subplots(n_rows, _BLIND_COLUMNS, squeeze=False)
    for axes in panels.ravel()[len(rows) :]:
        axes.set_axis_off()
    for axes, x, y, title in zip(panels.ravel(), grid, rows, titles, strict=False):
        axes.plot(x, y, color=INK, lw=0.55)
        good = np.isfinite(y)
        if good.any():
            axes.set_xlim(x[good][0], x[good][-1])
            low, high = np.percentile(y[good], (0.2, 99.8))
            axes.set_ylim(min(low, 0) - 0.03 * (high - low), high + 0.15 * (high - low))
        dress(axes)
        axes.set_title(title, fontsize=8.5, loc="left", pad=2)
        axes.tick_params(labelsize=7)
    head(figure, heading)
    return figure
