"""Where the reconstruction fails: by pixel and by class (paper Fig. 14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from spectra_scale.figures.marks import (
    HALPHA_LINES,
    HALPHA_SII_WINDOW,
    HBETA_LINES,
    HBETA_WINDOW,
    OVERVIEW_LINES,
    SII_LINES,
    mark_lines,
)
from spectra_scale.figures.style import (
    INK,
    WAVE_LABEL,
    ClassKey,
    class_colour,
    class_name,
    class_order,
    column,
    dress,
    fit_y,
    head,
    line_colour,
    new_figure,
    say,
    span,
)


def pixelwise_chi2(wave: npt.ArrayLike, chi2_minus_1: npt.ArrayLike) -> Figure:
    """Reduced χ² of each pixel minus 1 over the validation split (paper Fig. 14).

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength in Å, shape (pixel,).
    chi2_minus_1
        Σ_s (F_rec−F)² v m / Σ_s m − 1 for each pixel (science.md §10), shape (pixel,); NaN where
        no spectrum has the pixel. 0 is a perfect reconstruction with right errors.

    Returns
    -------
    Figure
        Overview above, zooms at Hβ + [O III] and Hα + [N II] + [S II] below.
    """
    grid = column("wave", wave)
    values = column("chi2_minus_1", chi2_minus_1, len(grid))
    figure = new_figure(12.5, 8.4)
    panels = figure.subplot_mosaic(
        [["all", "all"], ["hbeta", "halpha"]], height_ratios=[1.15, 1.0]
    )
    for key, limits, lines in (
        ("all", span(grid, pad=0.01), OVERVIEW_LINES),
        ("hbeta", HBETA_WINDOW, HBETA_LINES),
        ("halpha", HALPHA_SII_WINDOW, HALPHA_LINES + SII_LINES),
    ):
        axes = panels[key]
        axes.axhline(0.0, color="#999999", lw=0.9)
        axes.stairs(*_steps(grid, values), color=INK, lw=1.0, baseline=None)
        axes.set_xlim(*limits)
        fit_y(axes, grid, [values, np.zeros_like(values)])
        mark_lines(axes, lines)
        dress(axes, WAVE_LABEL, "reduced χ² − 1")
    if not np.isfinite(values).any():
        say(panels["all"], "no pixels")
    head(figure, "Pixelwise reduced χ² − 1 of the reconstruction, validation split")
    return figure


def chi2_by_class(
    bars: Mapping[str, Mapping[ClassKey, float]], *, ylabel: str = "mean χ² per valid pixel"
) -> Figure:
    """χ² of each class, one bar a method such as auto-encoder and linear baseline.

    Parameters
    ----------
    bars
        For each method its χ² by class (code or name); NaN or a missing class leaves a gap.
    ylabel
        Which χ² it is: eq. 1 divides by all pixels, eq. 2 by the valid ones.

    Returns
    -------
    Figure
        One panel; colours are classes, hatches are methods, the dashed line is χ² = 1.
    """
    keys = class_order(dict.fromkeys(key for method in bars.values() for key in method))
    figure = new_figure(max(6.0, 1.5 * len(keys) + 1.5), 4.8)
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(bars))
    hatches = ("", "///", "...", "xx")
    for i, values in enumerate(bars.values()):
        place = np.arange(len(keys)) + (i - (len(bars) - 1) / 2) * width
        height = np.array([float(values.get(key, np.nan)) for key in keys])
        style: dict[str, Any] = {"hatch": hatches[i % 4], "edgecolor": "white", "lw": 0.6}
        colours = [class_colour(key) for key in keys]
        axes.bar(place, np.nan_to_num(height), width * 0.94, color=colours, **style)
        for x, y in zip(place, height, strict=True):
            if np.isfinite(y):
                axes.annotate(
                    f"{y:.2f}",
                    (x, y),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
    axes.axhline(1.0, color=INK, ls="--", lw=1.0)
    axes.set_xticks(range(len(keys)), [class_name(key) for key in keys])
    dress(axes, "", ylabel)
    axes.margins(y=0.12)
    if keys:
        # Grey: the bars themselves have the colours of the classes.
        swatches = [
            Patch(fc="#777777", ec="white", hatch=hatches[i % 4], label=method)
            for i, method in enumerate(bars)
        ]
        axes.legend(handles=swatches, frameon=False, fontsize=9, ncols=len(bars))
    else:
        say(axes, "no classes")
    head(figure, "Reconstruction by class")
    return figure


def residual_by_class(wave: npt.ArrayLike, residuals: Mapping[ClassKey, npt.ArrayLike]) -> Figure:
    """Mean normalised residual of each class by pixel.

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength in Å, shape (pixel,).
    residuals
        For each class (code or name) the mean of (F_rec − F)·√v over the spectra that have the
        pixel, shape (pixel,); NaN where none has.

    Returns
    -------
    Figure
        One panel a class with one common scale, lines marked at vacuum wavelengths. The scale
        ends at three times what holds 99.8 % of the pixels of all classes.
    """
    grid = column("wave", wave)
    rows = {
        key: column(f"residual of {class_name(key)}", residuals[key], len(grid))
        for key in class_order(residuals)
    }
    figure = new_figure(11.5, 1.45 * max(1, len(rows)) + 1.6)
    panels = figure.subplots(max(1, len(rows)), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    everything = np.concatenate([*rows.values(), np.zeros(1)])
    limits = span(everything), span(everything, trim=0.001)
    # A few wild pixels where hardly any spectrum reaches must not flatten everything else.
    low, high = max(limits[0][0], 3 * limits[1][0]), min(limits[0][1], 3 * limits[1][1])
    for i, (axes, (key, values)) in enumerate(zip(panels, rows.items(), strict=False)):
        axes.axhline(0.0, color="#999999", lw=0.8)
        axes.plot(grid, values, color=line_colour(key), lw=0.9)
        axes.set_xlim(*span(grid, pad=0.01))
        axes.set_ylim(low, high)
        mark_lines(axes, OVERVIEW_LINES, labelled=i == 0)
        box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1.5}
        axes.text(
            0.01, 0.9, class_name(key), transform=axes.transAxes, va="top", fontsize=9, bbox=box
        )
        dress(axes)
    if not rows:
        say(panels[0], "no classes")
    panels[-1].set_xlabel(WAVE_LABEL, fontsize=10)
    figure.supylabel("mean of ($F_{rec}$ − $F$) / σ", fontsize=10)
    head(figure, "Mean normalised residual by class")
    return figure


def _steps(
    wave: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Values and pixel edges halfway between centres, so that pixels are drawn as steps."""
    if len(wave) < 2:
        return values, np.concatenate([wave - 0.5, wave[-1:] + 0.5]) if len(wave) else np.zeros(1)
    middle = 0.5 * (wave[1:] + wave[:-1])
    first, last = 2 * wave[0] - middle[0], 2 * wave[-1] - middle[-1]
    return values, np.concatenate([[first], middle, [last]])
