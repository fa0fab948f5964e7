"""Grids of single spectra: rare and common ones, mock beside real (paper Figs. 12 and 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.marks import OVERVIEW_LINES, mark_lines
from spectra_scale.figures.style import (
    FLUX_LABEL,
    INK,
    WAVE_LABEL,
    ClassKey,
    Floats,
    class_colour,
    class_name,
    class_order,
    column,
    dress,
    head,
    line_colour,
    new_figure,
    points,
    say,
    span,
)

_COLUMNS = 4
_RECONSTRUCTION_COLOUR = "#d62728"
_MASKED = "#eeeeee"


def spectra_grid(  # noqa: PLR0913  # six arrays of one table and two texts
    wave: npt.ArrayLike,
    flux: npt.ArrayLike,
    labels: Sequence[ClassKey],
    titles: Sequence[str],
    *,
    reconstructions: npt.ArrayLike | None = None,
    errors: npt.ArrayLike | None = None,
    heading: str = "Spectra",
    unit: str = FLUX_LABEL,
) -> Figure:
    """Grid of spectra with their class at the upper right (paper Figs. 12 and 13).

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength in Å, shape (pixel,).
    flux
        Shape (spectrum, pixel), 16 in the paper, any number here. Masked pixels are NaN or exactly
        0 (as samples store them); they are gaps on a grey ground, where the paper draws zeros.
    labels
        Class of each spectrum, by code or name.
    titles
        Text above each panel, such as key, redshift and log_prob.
    reconstructions
        What the auto-encoder makes of each, same shape as `flux`, drawn over it. For
        reconstructions alone, as in the paper, give them as `flux`.
    errors
        One sigma of each reconstruction, same shape; drawn as a band around it.
    heading
        Title of the figure.
    unit
        Label of the flux axis.

    Returns
    -------
    Figure
        Four columns.

    Raises
    ------
    SpectraScaleError
        If the numbers of spectra, labels and titles differ.
    """
    grid = column("wave", wave)
    rows = points("flux", flux, len(grid))
    models = (
        None if reconstructions is None else points("reconstructions", reconstructions, len(grid))
    )
    bands = None if errors is None else points("errors", errors, len(grid))
    lengths = {len(rows), len(labels), len(titles), len(rows) if models is None else len(models)}
    if len(lengths) != 1:
        message = (
            f"found {len(rows)} spectra, {len(labels)} labels and {len(titles)} titles"
            f"{'' if models is None else f', {len(models)} reconstructions'}: expected as many of "
            "each."
        )
        raise SpectraScaleError(message)
    n_rows = max(1, -(-len(rows) // _COLUMNS))
    n_columns = max(1, min(_COLUMNS, len(rows)))
    figure = new_figure(3.7 * n_columns + 0.4, 2.45 * n_rows + 0.8)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True)
    for i, axes in enumerate(panels.ravel()):
        if i >= len(rows):
            axes.set_axis_off()
            continue
        _spectrum(axes, grid, rows[i], None if models is None else models[i])
        if models is not None and bands is not None:
            low, high = models[i] - bands[i], models[i] + bands[i]
            axes.fill_between(grid, low, high, color=_RECONSTRUCTION_COLOUR, alpha=0.25, lw=0)
        _tag(axes, labels[i])
        axes.set_title(titles[i], fontsize=8, loc="left")
    if not len(rows):
        say(panels[0, 0], "no spectra")
    figure.supylabel(unit, fontsize=10)
    notes = [f"{WAVE_LABEL}.", "Grey bands: masked pixels."]
    if models is not None:
        notes.append(
            "Red: reconstruction." if bands is None else "Red: reconstruction and its 1σ."
        )
    head(figure, heading)
    # Below a single panel they do not fit side by side.
    figure.supxlabel(("\n" if panels.shape[1] == 1 else "  ").join(notes), fontsize=10)
    return figure


def class_comparison(
    wave: npt.ArrayLike,
    groups: Mapping[ClassKey, Sequence[tuple[str, npt.ArrayLike]]],
    *,
    unit: str = FLUX_LABEL,
) -> Figure:
    """Spectra of each class side by side, such as mock beside real ones.

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength in Å, shape (pixel,).
    groups
        For each class (code or name) the title and flux, shape (pixel,), of each column. Masked
        pixels are NaN or 0.
    unit
        Label of the flux axis.

    Returns
    -------
    Figure
        One row a class, one column an entry; each panel has its own flux scale.
    """
    grid = column("wave", wave)
    order = class_order(groups)
    n_columns = max([1, *(len(groups[key]) for key in order)])
    figure = new_figure(5.4 * n_columns + 0.4, 2.0 * max(1, len(order)) + 0.9)
    panels = figure.subplots(max(1, len(order)), n_columns, squeeze=False, sharex=True)
    for row, key in zip(panels, order, strict=False):
        for axes in row[len(groups[key]) :]:
            axes.set_axis_off()
        for axes, (title, flux) in zip(row, groups[key], strict=False):
            _spectrum(axes, grid, column(title, flux, len(grid)), None, line_colour(key))
            _tag(axes, key)
            axes.set_title(title, fontsize=8.5, loc="left")
            mark_lines(axes, OVERVIEW_LINES, labelled=False)
    if not order:
        say(panels[0, 0], "no spectra")
    figure.supylabel(unit, fontsize=10)
    figure.supxlabel(f"{WAVE_LABEL}.  Dotted: lines at vacuum wavelengths.", fontsize=10)
    head(figure, "Spectra by class")
    return figure


def _spectrum(
    axes: Axes, wave: Floats, flux: Floats, model: Floats | None, colour: str = INK
) -> None:
    masked = np.isnan(flux) | (flux == 0)
    shown = np.where(masked, np.nan, flux)
    axes.plot(wave, shown, color=colour, lw=0.7)
    curves = [shown]
    if model is not None:
        axes.plot(wave, model, color=_RECONSTRUCTION_COLOUR, lw=0.9, alpha=0.9)
        curves.append(model)
    if len(wave) > 1:
        axes.set_xlim(wave[0], wave[-1])
    for start, stop in _runs(masked, wave):
        axes.axvspan(start, stop, color=_MASKED, lw=0, zorder=0)
    low, high = span(np.concatenate(curves), pad=0.06)
    # Room above for the name of the class.
    axes.set_ylim(low, high + 0.18 * (high - low))
    dress(axes)
    axes.tick_params(labelsize=7.5)


def _runs(masked: npt.NDArray[np.bool_], wave: Floats) -> list[tuple[float, float]]:
    """First and last wavelength of each run of at least three masked pixels."""
    padded = np.concatenate([[False], masked, [False]])
    edges = np.flatnonzero(np.diff(padded.astype(np.int8)))
    return [
        (float(wave[start]), float(wave[stop - 1]))
        for start, stop in edges.reshape(-1, 2)
        if stop - start >= 3
    ]


def _tag(axes: Axes, key: ClassKey) -> None:
    name = class_name(key)
    axes.text(
        0.975, 0.93, name, transform=axes.transAxes, ha="right", va="top", fontsize=8,
        bbox={"boxstyle": "round,pad=0.3", "fc": "white", "ec": class_colour(key), "lw": 1.6},
    )  # fmt: skip
