"""Two-dimensional maps of the spectra: by class, with regions, by value (paper Figs. 3, 4, 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle

from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.style import (
    CLASS_COLOURS,
    INK,
    Floats,
    Ints,
    class_handles,
    codes,
    column,
    drawing_order,
    dress,
    head,
    marker_area,
    new_figure,
    palette,
    points,
    say,
    scatter,
    series_colours,
    span,
)
from spectra_scale.spectrum.classify import Label

Box = tuple[float, float, float, float]
"""xmin, xmax, ymin, ymax in map coordinates."""

SEQUENCE_STYLES: tuple[str, ...] = ("-", "--", ":", "-.")
# A few far outliers would shrink the map to a dot; each end loses this fraction of the axis.
_MAP_TRIM = 0.0002


def map_pair(
    flux_map: npt.ArrayLike, latent_map: npt.ArrayLike, label: npt.ArrayLike, *, seed: int = 0
) -> Figure:
    """Map made from the flux beside the map made from the latents, by class (paper Fig. 3).

    Parameters
    ----------
    flux_map, latent_map
        Map coordinates, arbitrary units, shape (n, 2); rows with NaN are not drawn. Either may be
        empty if that map was not made.
    label
        Class codes (science.md §5), shape (n,).
    seed
        Seed of the drawing order.

    Returns
    -------
    Figure
        Two panels and one legend with the number of members.
    """
    left, right = points("flux_map", flux_map), points("latent_map", latent_map)
    code = codes(label, len(right) or len(left))
    if len(left) not in {0, len(code)}:
        message = (
            f"flux_map has {len(left)} rows, latent_map {len(right)}: expected the same objects "
            "in the same order. Give NaN rows for objects that are not on one of the maps."
        )
        raise SpectraScaleError(message)
    figure = new_figure(13.0, 6.9)
    panels = figure.subplots(1, 2)
    titles = ("UMAP of the rest-frame flux", "UMAP of the auto-encoder's latents")
    for axes, xy, title in zip(panels, (left, right), titles, strict=True):
        _by_class(axes, xy, code[: len(xy)], seed)
        _map_axes(axes, xy, title)
    _legend(figure, class_handles(code))
    head(figure, "Maps of the spectra, by class")
    return figure


def map_with_boxes(
    xy: npt.ArrayLike,
    label: npt.ArrayLike,
    sequences: Mapping[str, Sequence[tuple[str, Box]]],
    *,
    seed: int = 0,
) -> Figure:
    """Map by class with the boxes of one or more sequences (paper Fig. 4).

    Boxes of the first sequence have solid edges, of the second dashed ones, and the colour of a
    box is that of its stack in `sequence_stacks`.

    Parameters
    ----------
    xy
        Map coordinates, shape (n, 2).
    label
        Class codes, shape (n,).
    sequences
        For each sequence its boxes: name, and (xmin, xmax, ymin, ymax) in map coordinates.
    seed
        Seed of the drawing order.

    Returns
    -------
    Figure
        One panel.
    """
    coordinates = points("xy", xy)
    code = codes(label, len(coordinates))
    figure = new_figure(9.5, 8.8)
    axes = figure.add_subplot()
    _by_class(axes, coordinates, code, seed)
    _map_axes(axes, coordinates, "")
    colours = name_colours([name for boxes in sequences.values() for name, _ in boxes])
    handles = class_handles(code)
    for i, (sequence, boxes) in enumerate(sequences.items()):
        style = SEQUENCE_STYLES[i % len(SEQUENCE_STYLES)]
        handles.append(Line2D([], [], color=INK, ls=style, lw=1.8, label=f"{sequence} sequence"))
        for name, box in boxes:
            _box(axes, name, box, style, colours[name])
    _legend(figure, handles)
    head(figure, "Map of the latents with the boxes of the stacked spectra")
    return figure


def map_with_polygons(
    xy: npt.ArrayLike,
    label: npt.ArrayLike,
    polygons: Sequence[tuple[str, npt.ArrayLike]],
    *,
    seed: int = 0,
) -> Figure:
    """Map with broad-line spectra in black on top and the polygons A, B, … (paper Fig. 6).

    Parameters
    ----------
    xy
        Map coordinates, shape (n, 2).
    label
        Class codes, shape (n,).
    polygons
        Name and vertices, shape (v, 2) in map coordinates, of each region.
    seed
        Seed of the drawing order.

    Returns
    -------
    Figure
        One panel.
    """
    coordinates = points("xy", xy)
    code = codes(label, len(coordinates))
    figure = new_figure(9.5, 8.8)
    axes = figure.add_subplot()
    black = {int(Label.BROAD_LINE): "#000000"}
    _by_class(axes, coordinates, code, seed, replace=_paler() | black)
    rows = drawing_order((code == Label.BROAD_LINE) & np.isfinite(coordinates).all(axis=1), seed)
    area = 2.0 * marker_area(len(coordinates))
    scatter(axes, coordinates[rows], np.zeros((len(rows), 3)), area=area)
    colours = name_colours([name for name, _ in polygons])
    for name, vertices in polygons:
        corners = points(f"polygon {name}", vertices)
        if len(corners):
            _polygon(axes, name, corners, colours[name])
    _map_axes(axes, coordinates, "")
    _legend(figure, class_handles(code, _paler() | black))
    head(figure, "Map of the latents with the regions of the broad-line spectra")
    return figure


def map_coloured(
    xy: npt.ArrayLike, values: npt.ArrayLike, name: str, *, unit: str = "", seed: int = 0
) -> Figure:
    """Map coloured by a value of each spectrum: redshift, log_prob, signal-to-noise.

    Parameters
    ----------
    xy
        Map coordinates, shape (n, 2).
    values
        Shape (n,); rows with NaN are drawn in pale grey below the others.
    name
        What the values are, for the colour bar.
    unit
        Unit of the values, if they have one.
    seed
        Seed of the drawing order.

    Returns
    -------
    Figure
        One panel; colours span the 1st to the 99th percentile, arrows mark what lies beyond.
    """
    coordinates = points("xy", xy)
    value = column("values", values, len(coordinates))
    figure = new_figure(9.2, 8.0)
    axes = figure.add_subplot()
    drawable = np.isfinite(coordinates).all(axis=1)
    unknown = drawing_order(drawable & np.isnan(value), seed)
    rows = drawing_order(drawable & ~np.isnan(value), seed)
    area = marker_area(len(coordinates))
    scatter(axes, coordinates[unknown], np.full((len(unknown), 3), 0.85), area=area)
    if rows.size:
        style: dict[str, Any] = {"cmap": "viridis", "lw": 0, "rasterized": True, "s": area}
        low, high = span(value[rows], trim=0.01, pad=0.0)
        where = coordinates[rows]
        drawn = axes.scatter(where[:, 0], where[:, 1], c=value[rows], vmin=low, vmax=high, **style)
        bar = figure.colorbar(drawn, ax=axes, extend="both", shrink=0.85, pad=0.02, aspect=32)
        bar.set_label(f"{name} ({unit})" if unit else name, fontsize=10)
        bar.ax.tick_params(labelsize=9)
    _map_axes(axes, coordinates, "")
    head(figure, f"Map of the spectra, coloured by {name}")
    return figure


def name_colours(names: Sequence[str]) -> dict[str, str]:
    """Colour of each region by its place in the series; equal names have equal colours.

    Parameters
    ----------
    names
        Names in order, repeats allowed.

    Returns
    -------
    dict[str, str]
        Colour as ``#rrggbb`` by name.
    """
    distinct = list(dict.fromkeys(names))
    return dict(zip(distinct, series_colours(len(distinct)), strict=True))


def _paler() -> dict[int, str]:
    """Class colours halfway to white, so that what lies on top stands out."""
    blend = 0.5 + 0.5 * palette()
    return {
        code: "#" + "".join(f"{round(255 * channel):02x}" for channel in blend[code])
        for code in range(len(CLASS_COLOURS))
    }


def _by_class(
    axes: Axes, xy: Floats, code: Ints, seed: int, replace: Mapping[int, str] | None = None
) -> None:
    rows = drawing_order(np.isfinite(xy).all(axis=1), seed)
    if rows.size == 0:
        say(axes, "no objects")
        return
    scatter(axes, xy[rows], palette(replace)[code[rows]], area=marker_area(len(rows)))
    if rows.size < len(xy):
        text = f"{rows.size:,} of {len(xy):,} drawn"
        axes.text(0.99, 0.01, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8)


def _map_axes(axes: Axes, xy: Floats, title: str) -> None:
    dress(axes, "map x (arbitrary units)", "map y (arbitrary units)", title)
    axes.set_xlim(*span(xy[:, 0], trim=_MAP_TRIM))
    axes.set_ylim(*span(xy[:, 1], trim=_MAP_TRIM))


def _legend(figure: Figure, handles: list[Line2D]) -> None:
    if handles:
        columns = min(4, len(handles))
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5
        )


def _halo(width: float) -> list[patheffects.AbstractPathEffect]:
    return [patheffects.withStroke(linewidth=width, foreground="white")]


def _name(axes: Axes, name: str, at: tuple[float, float], colour: str) -> None:
    badge = {"boxstyle": "round,pad=0.22", "fc": colour, "ec": "white", "lw": 0.8}
    axes.annotate(
        name, at, ha="center", va="center", fontsize=9, color=_legible(colour), weight="bold",
        bbox=badge, zorder=7, annotation_clip=True,
    )  # fmt: skip


def _legible(colour: str) -> str:
    """Black or white, whichever reads better on `colour`."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 150 else "black"


def _box(axes: Axes, name: str, box: Box, style: str, colour: str) -> None:
    xmin, xmax, ymin, ymax = box
    frame: dict[str, Any] = {"fill": False, "ls": style, "lw": 1.7, "ec": INK, "zorder": 6}
    axes.add_patch(
        Rectangle((xmin, ymin), xmax - xmin, ymax - ymin, path_effects=_halo(3.6), **frame)
    )
    _name(axes, name, ((xmin + xmax) / 2, ymax), colour)


def _polygon(axes: Axes, name: str, corners: Floats, colour: str) -> None:
    frame: dict[str, Any] = {"fill": False, "lw": 2.0, "ec": colour, "zorder": 6}
    axes.add_patch(Polygon(corners, closed=True, path_effects=_halo(3.8), **frame))
    top = corners[np.argmax(np.nan_to_num(corners[:, 1], nan=-np.inf))]
    _name(axes, name, (float(top[0]), float(top[1])), colour)
