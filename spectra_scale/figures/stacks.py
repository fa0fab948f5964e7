"""Stacked spectra with zooms on the lines, and their indices (paper Figs. 5 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra_scale.figures.maps import SEQUENCE_STYLES, name_colours
from spectra_scale.figures.marks import (
    HALPHA_LINES,
    HALPHA_WINDOW,
    HBETA_LINES,
    HBETA_WINDOW,
    OVERVIEW_LINES,
    mark_lines,
)
from spectra_scale.figures.style import (
    FLUX_LABEL,
    WAVE_LABEL,
    Floats,
    column,
    dress,
    head,
    new_figure,
    say,
    span,
)

Stack = tuple[str, npt.ArrayLike, npt.ArrayLike | None]
"""Name, flux and error (or None) of one stack."""

NORMALISATION_WINDOW = (5400.0, 5600.0)
# Broad lines reach thousands of km/s: the windows of the narrow-line zooms would show only wings.
_BROAD_HBETA, _BROAD_HALPHA = (4700.0, 5100.0), (6380.0, 6760.0)
_REFERENCE_COLOUR = "#5ab4e5"

INDEX_LABELS: Mapping[str, str] = {
    "d4000n": "D4000n",
    "hdelta_a": "HδA (Å)",
    "balmer_break": "Balmer break",
    "beta": "continuum slope β",
    "balmer_decrement": "Hα / Hβ",
    "ew_halpha": "EW(Hα) (Å)",
}


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    """One line of a panel of stacks."""

    name: str
    wave: Floats
    flux: Floats
    error: Floats
    colour: str
    style: str
    width: float = 1.1


def sequence_stacks(
    wave: npt.ArrayLike,
    stacks: Mapping[str, Sequence[Stack]],
    *,
    window: tuple[float, float] | None = NORMALISATION_WINDOW,
) -> Figure:
    """Stacks of the sequences of boxes, with zooms at Hβ + [O III] and Hα + [N II] (paper Fig. 5).

    The first sequence is solid, the second dashed; equal names share a colour, which is that of
    the box in `map_with_boxes`.

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength in Å, shape (pixel,).
    stacks
        For each sequence its stacks: name, flux and error of shape (pixel,); NaN where no spectrum
        contributed. The error may be None.
    window
        Each stack is divided by its median flux in this interval (Å), so that shapes compare; the
        title says so. None leaves the flux as it is, in 1e-17 erg s⁻¹ cm⁻² Å⁻¹.

    Returns
    -------
    Figure
        Overview above, zooms below, lines marked at vacuum wavelengths.
    """
    grid = column("wave", wave)
    colours = name_colours([name for rows in stacks.values() for name, _, _ in rows])
    curves = [
        _curve(grid, stack, window, (colours[stack[0]], SEQUENCE_STYLES[i % len(SEQUENCE_STYLES)]))
        for i, rows in enumerate(stacks.values())
        for stack in rows
    ]
    names = list(stacks)
    styles = "; ".join(
        f"{name}: {('solid', 'dashed', 'dotted', 'dash-dotted')[i % 4]}"
        for i, name in enumerate(names)
    )
    title = f"Stacked spectra of the sequences ({styles})" if names else "Stacked spectra"
    return _overview(curves, title, window, (HBETA_WINDOW, HALPHA_WINDOW))


def polygon_stacks(
    wave: npt.ArrayLike,
    stacks: Sequence[Stack],
    *,
    reference: tuple[npt.ArrayLike, npt.ArrayLike, str] | None = None,
    window: tuple[float, float] | None = NORMALISATION_WINDOW,
) -> Figure:
    """Stacks of the broad-line regions, with zooms at Hβ and Hα (paper Fig. 7).

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength in Å, shape (pixel,).
    stacks
        Name, flux and error (or None) of each region, as in `sequence_stacks`.
    reference
        Wavelength (Å), flux (any unit) and name of a composite to compare with, such as Vanden
        Berk et al. (2001), on its own pixels; drawn only where given.
    window
        As in `sequence_stacks`; without it the reference has its own scale.

    Returns
    -------
    Figure
        Overview above, zooms below, lines marked at vacuum wavelengths.
    """
    grid = column("wave", wave)
    colours = name_colours([name for name, _, _ in stacks])
    curves = [_curve(grid, stack, window, (colours[stack[0]], "-")) for stack in stacks]
    if reference is not None:
        curves.insert(0, _composite(grid, reference, window))
    zooms = (_BROAD_HBETA, _BROAD_HALPHA)
    return _overview(curves, "Stacked spectra of the broad-line regions", window, zooms)


def stack_indices(table: Mapping[str, Sequence[object]]) -> Figure:
    """Indices of the stacks along each sequence: D4000n, HδA and others (science.md §9).

    Parameters
    ----------
    table
        Columns of equal length: ``sequence`` and ``region`` (text), then one column an index; a
        column named ``<index>_error`` holds its error. Regions are drawn in the order given;
        missing values are NaN or None. Other columns of text are passed over.

    Returns
    -------
    Figure
        One panel an index, one line a sequence; D4000n against HδA last, where both are given.
    """
    sequences = list(dict.fromkeys(str(name) for name in table.get("sequence", ())))
    indices = _index_names(table) if sequences else []
    plane = [("d4000n", "hdelta_a")] if {"d4000n", "hdelta_a"} <= set(indices) else []
    n_panels = max(1, len(indices) + len(plane))
    n_columns = 2 if n_panels in {2, 4} else min(3, n_panels)
    n_rows = -(-n_panels // n_columns)
    figure = new_figure(4.6 * n_columns + 0.4, 3.6 * n_rows + 0.5)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    if not indices:
        say(panels[0], "no indices")
    regions = list(dict.fromkeys(str(name) for name in table.get("region", ())))
    for axes, name in zip(panels, indices, strict=False):
        _index_panel(axes, table, name, (sequences, regions))
    for axes, pair in zip(panels[len(indices) :], plane, strict=False):
        _plane_panel(axes, table, pair, sequences)
    for axes in panels[n_panels:]:
        axes.set_axis_off()
    head(figure, "Indices of the stacked spectra")
    return figure


def _curve(
    wave: Floats, stack: Stack, window: tuple[float, float] | None, look: tuple[str, str]
) -> _Curve:
    name, flux, error = stack
    values = column(f"flux of stack {name}", flux, len(wave))
    errors = np.full(len(wave), np.nan) if error is None else column(name, error, len(wave))
    scale = 1.0
    if window is not None:
        part = values[(wave >= window[0]) & (wave <= window[1])]
        part = part[np.isfinite(part)]
        scale = float(np.median(part)) if part.size else np.nan
        if not scale > 0:
            scale = np.nan
    return _Curve(name, wave, values / scale, errors / scale, *look)


def _composite(
    grid: Floats,
    reference: tuple[npt.ArrayLike, npt.ArrayLike, str],
    window: tuple[float, float] | None,
) -> _Curve:
    """Return the reference on the range of the stacks; a composite may start at Lyα."""
    wave, flux, name = reference
    at = column("reference wavelength", wave)
    values = column("reference flux", flux, len(at))
    if len(grid):
        inside = (at >= grid.min()) & (at <= grid.max())
        at, values = at[inside], values[inside]
    return _curve(at, (name, values, None), window, (_REFERENCE_COLOUR, "-"))


def _overview(
    curves: Sequence[_Curve],
    title: str,
    window: tuple[float, float] | None,
    zooms: tuple[tuple[float, float], tuple[float, float]],
) -> Figure:
    figure = new_figure(12.5, 9.0)
    panels = figure.subplot_mosaic(
        [["all", "all"], ["hbeta", "halpha"]], height_ratios=[1.25, 1.0]
    )
    where = (
        "" if window is None else f"each divided by its median in {window[0]:g}–{window[1]:g} Å"
    )
    ylabel = FLUX_LABEL if window is None else "relative $F_λ$"
    covered = [curve.wave[np.isfinite(curve.flux)] for curve in curves]
    reach = np.concatenate(covered) if covered else np.empty(0)
    for key, limits, lines in (
        ("all", span(reach, pad=0.01), OVERVIEW_LINES),
        ("hbeta", zooms[0], HBETA_LINES),
        ("halpha", zooms[1], HALPHA_LINES),
    ):
        axes = panels[key]
        _draw(axes, curves, limits)
        mark_lines(axes, lines)
        dress(axes, WAVE_LABEL, ylabel)
    if curves:
        _stack_legend(panels["all"], curves)
    else:
        say(panels["all"], "no stacks")
    head(figure, f"{title}; {where}" if where else title)
    return figure


def _draw(axes: Axes, curves: Sequence[_Curve], limits: tuple[float, float]) -> None:
    low, high = np.inf, -np.inf
    for curve in curves:
        inside = (curve.wave >= limits[0]) & (curve.wave <= limits[1])
        x, y, e = curve.wave[inside], curve.flux[inside], curve.error[inside]
        axes.plot(x, y, color=curve.colour, ls=curve.style, lw=curve.width, label=curve.name)
        if np.isfinite(e).any():
            axes.fill_between(x, y - e, y + e, color=curve.colour, alpha=0.2, lw=0)
        if np.isfinite(y).any():
            low, high = min(low, float(np.nanmin(y))), max(high, float(np.nanmax(y)))
    axes.set_xlim(*limits)
    if np.isfinite(low):
        axes.set_ylim(*span(np.array([low, high])))


def _stack_legend(axes: Axes, curves: Sequence[_Curve]) -> None:
    columns = 1 if len(curves) <= 8 else 2
    axes.legend(ncols=columns, fontsize=8.5, loc="upper right", framealpha=0.9, handlelength=2.6)


def _index_names(table: Mapping[str, Sequence[object]]) -> list[str]:
    return [
        name
        for name, values in table.items()
        if name not in {"sequence", "region"}
        and not name.endswith("_error")
        and not any(isinstance(value, str) for value in values)
    ]


def _numbers(table: Mapping[str, Sequence[object]], name: str) -> Floats:
    n = len(table["sequence"])
    values = table.get(name)
    return np.full(n, np.nan) if values is None else column(name, np.asarray(values, float), n)


def _index_panel(
    axes: Axes,
    table: Mapping[str, Sequence[object]],
    name: str,
    order: tuple[list[str], list[str]],
) -> None:
    sequences, regions = order
    values, errors = _numbers(table, name), _numbers(table, f"{name}_error")
    place = np.array([regions.index(str(region)) for region in table["region"]], dtype=float)
    member = np.array([str(sequence) for sequence in table["sequence"]])
    for i, sequence in enumerate(sequences):
        rows = (member == sequence) & np.isfinite(values)
        bars = np.nan_to_num(errors[rows])
        axes.errorbar(place[rows], values[rows], bars, **_look(i), label=sequence)
    axes.set_xticks(range(len(regions)), regions)
    axes.set_xlim(-0.5, max(len(regions) - 0.5, 0.5))
    dress(axes, "region", INDEX_LABELS.get(name, name.replace("_", " ")))
    axes.legend(frameon=False, fontsize=8.5)


def _plane_panel(
    axes: Axes, table: Mapping[str, Sequence[object]], pair: tuple[str, str], sequences: list[str]
) -> None:
    x, y = (_numbers(table, name) for name in pair)
    member = np.array([str(sequence) for sequence in table["sequence"]])
    for i, sequence in enumerate(sequences):
        rows = np.flatnonzero((member == sequence) & np.isfinite(x) & np.isfinite(y))
        axes.errorbar(x[rows], y[rows], **_look(i), label=sequence)
        for row in rows.tolist():
            axes.annotate(
                str(table["region"][row]), (x[row], y[row]), xytext=(4, 4),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
    dress(axes, *(INDEX_LABELS[name] for name in pair))
    axes.legend(frameon=False, fontsize=8.5)


def _look(i: int) -> dict[str, Any]:
    return {
        "color": ("#1f4e9c", "#c8501e", "#2a8a57", "#7a4ba0")[i % 4],
        "ls": SEQUENCE_STYLES[i % len(SEQUENCE_STYLES)],
        "marker": "osD^"[i % 4],
        "ms": 5,
        "lw": 1.3,
        "capsize": 2.5,
    }
