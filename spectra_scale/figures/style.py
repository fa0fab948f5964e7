"""What all figures share: class colours, seeded drawing order, limits.

Colours follow the paper (N/A grey, star-forming blue, composite green, narrow-line AGN lime green,
broad-line orange, retired light red, passive dark red). The shades are chosen so that classes
near each other on the map differ in lightness as well as in hue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.classify import CLASS_NAMES, Label

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ClassKey = int | str
"""A class by its code or by its name."""

CLASS_COLOURS: tuple[str, ...] = (
    "#8a8a8a",
    "#2166c4",
    "#1a7a3c",
    "#a4d41e",
    "#f58a07",
    "#f4877d",
    "#8c0d18",
)
"""Colour of each class, in code order."""

OTHER_COLOUR = "#444444"
TRAIN_COLOUR, VALIDATION_COLOUR = "#1f77b4", "#ff7f0e"
INK, FAINT = "#222222", "#9a9a9a"

# More points than pixels of the figure only cost time; a figure with fewer says so.
MAX_POINTS = 300_000

WAVE_LABEL = "rest-frame vacuum wavelength (Å)"
FLUX_LABEL = "$F_λ$ (10$^{-17}$ erg s$^{-1}$ cm$^{-2}$ Å$^{-1}$)"


def class_name(key: ClassKey) -> str:
    """Name of a class given by code or name; other text is returned as it is.

    Parameters
    ----------
    key
        Code 0 to 6 (science.md §5), or a name.

    Returns
    -------
    str
        The name.

    Examples
    --------
    >>> class_name(3)
    'narrow-line AGN'
    """
    if isinstance(key, str):
        return key
    return CLASS_NAMES[key] if 0 <= key < len(CLASS_NAMES) else f"class {key}"


def class_colour(key: ClassKey) -> str:
    """Colour of a class given by code or name; dark grey for anything else.

    Parameters
    ----------
    key
        Code 0 to 6 (science.md §5), or a name.

    Returns
    -------
    str
        Colour as ``#rrggbb``.
    """
    name = class_name(key)
    return CLASS_COLOURS[CLASS_NAMES.index(name)] if name in CLASS_NAMES else OTHER_COLOUR


def line_colour(key: ClassKey) -> str:
    """Colour of a class for thin lines: its own, darkened where it is too pale on white.

    Parameters
    ----------
    key
        Code 0 to 6 (science.md §5), or a name.

    Returns
    -------
    str
        Colour as ``#rrggbb``.
    """
    rgb = np.array(to_rgb(class_colour(key)))
    lightness = float(rgb @ (0.299, 0.587, 0.114))
    return to_hex(tuple(rgb * min(1.0, 0.5 / lightness)))


def class_order(keys: Iterable[ClassKey]) -> list[ClassKey]:
    """Keys in code order, with what is no class after them in the order given."""
    rank = {name: code for code, name in enumerate(CLASS_NAMES)}
    return sorted(keys, key=lambda key: rank.get(class_name(key), len(CLASS_NAMES)))


def new_figure(
    width: float, height: float, *, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Empty figure of `width` × `height` inches on its own Agg canvas, unknown to pyplot."""
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    """Give axes their labels and the ticks of the house: inwards, on all four sides."""
    axes.set_xlabel(xlabel, fontsize=10)
    axes.set_ylabel(ylabel, fontsize=10)
    if title:
        axes.set_title(title, fontsize=10.5, loc="left")
    axes.tick_params(which="both", direction="in", top=True, right=True, labelsize=9)
    axes.set_axisbelow(False)


def head(figure: Figure | SubFigure, title: str, note: str = "") -> None:
    """Put a title on top of the figure and, where given, a small note at its foot."""
    figure.suptitle(title, fontsize=12, x=0.012, ha="left")
    if note:
        figure.supxlabel(note, fontsize=8, color="#555555", x=0.012, ha="left")


def say(axes: Axes, text: str) -> None:
    """Write `text` in the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT)


def column(name: str, values: npt.ArrayLike, length: int | None = None) -> Floats:
    """Values as a float64 column, with anything infinite made NaN.

    Parameters
    ----------
    name
        What the values are, for the error.
    values
        Shape (n,).
    length
        Expected n, where there is one.

    Returns
    -------
    Floats
        A copy, shape (n,).

    Raises
    ------
    SpectraScaleError
        If the shape is another.
    """
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or (length is not None and len(array) != length):
        expected = "one dimension" if length is None else f"shape ({length},)"
        message = (
            f"{name} has shape {array.shape}, expected {expected}. "
            "Give columns of one table, row by row the same objects."
        )
        raise SpectraScaleError(message)
    array[~np.isfinite(array)] = np.nan
    return array


def points(name: str, values: npt.ArrayLike, width: int = 2) -> Floats:
    """Values as a float64 table of shape (n, `width`), with anything infinite made NaN.

    Parameters
    ----------
    name
        What the values are, for the error.
    values
        Shape (n, width); an empty list is a table without rows.
    width
        Expected number of columns.

    Returns
    -------
    Floats
        A copy, shape (n, width).

    Raises
    ------
    SpectraScaleError
        If the shape is another.
    """
    array = np.array(values, dtype=np.float64)
    if array.size == 0:
        return np.empty((0, width))
    if array.ndim != 2 or array.shape[1] != width:
        message = f"{name} has shape {array.shape}, expected (n, {width}): one row an object."
        raise SpectraScaleError(message)
    array[~np.isfinite(array)] = np.nan
    return array


def codes(label: npt.ArrayLike, length: int) -> Ints:
    """Class codes as int64 of shape (`length`,); codes outside 0 … 6 count as N/A.

    Parameters
    ----------
    label
        Codes, shape (length,).
    length
        Number of objects.

    Returns
    -------
    Ints
        A copy, shape (length,).
    """
    values = column("label", label, length)
    known = (values >= 0) & (values < len(CLASS_NAMES))
    return np.where(known, values, Label.NOT_AVAILABLE).astype(np.int64)


def drawing_order(mask: npt.ArrayLike, seed: int, limit: int = MAX_POINTS) -> Ints:
    """Rows to draw, in a seeded random order so that no class hides another.

    Parameters
    ----------
    mask
        Rows that can be drawn, shape (n,).
    seed
        Seed of the order.
    limit
        Most rows to draw; beyond, a random subset of that size.

    Returns
    -------
    Ints
        Row numbers, at most `limit`.
    """
    rows = np.flatnonzero(np.asarray(mask))
    return np.random.default_rng(seed).permutation(rows)[:limit].astype(np.int64)


def marker_area(n: int) -> float:
    """Area of a point in square points, such that many points stay distinct and few are seen."""
    return float(np.clip(6.0e4 / max(n, 1), 0.35, 10.0))


def scatter(axes: Axes, xy: Floats, colours: npt.ArrayLike, *, area: float = 0.0) -> None:
    """Draw points as one rasterised collection, in the order of the rows."""
    size = area or marker_area(len(xy))
    axes.scatter(xy[:, 0], xy[:, 1], s=size, c=np.asarray(colours), lw=0, rasterized=True)


def palette(replace: Mapping[int, str] | None = None) -> Floats:
    """RGB of every class code, shape (7, 3), with some colours replaced."""
    changed = dict(enumerate(CLASS_COLOURS)) | dict(replace or {})
    return np.array([to_rgb(changed[code]) for code in range(len(CLASS_COLOURS))])


def class_handles(label: Ints, replace: Mapping[int, str] | None = None) -> list[Line2D]:
    """Legend entries of the classes that have members, with their number."""
    counts = np.bincount(label, minlength=len(CLASS_NAMES))
    colours = palette(replace)
    return [
        Line2D([], [], ls="", marker="o", ms=6, color=colours[code], label=f"{name} ({n:,})")
        for code, (name, n) in enumerate(zip(CLASS_NAMES, counts, strict=True))
        if n
    ]


def span(values: Floats, trim: float = 0.0, pad: float = 0.04) -> tuple[float, float]:
    """Axis limits of the finite values, `trim` of them cut at each end; (0, 1) if there are none.

    Parameters
    ----------
    values
        Any shape; NaN is ignored.
    trim
        Fraction cut at each end.
    pad
        Fraction of the width added on both sides.

    Returns
    -------
    tuple[float, float]
        Lower and upper limit, always apart.
    """
    good = values[np.isfinite(values)]
    if good.size == 0:
        return 0.0, 1.0
    low, high = (float(edge) for edge in np.quantile(good, [trim, 1.0 - trim]))
    extra = pad * (high - low) if high > low else max(abs(low) * 0.05, 0.5)
    return low - extra, high + extra


def fit_y(axes: Axes, wave: Floats, curves: Sequence[Floats]) -> None:
    """Set the y limits to what `curves` reach inside the x limits of the axes."""
    low, high = sorted(axes.get_xlim())
    inside = (wave >= low) & (wave <= high)
    parts = [curve[inside] for curve in curves]
    axes.set_ylim(*span(np.concatenate(parts) if parts else np.empty(0), pad=0.06))


def series_colours(n: int) -> list[str]:
    """Colours of an ordered series of `n`: evenly spaced in plasma, without its pale end."""
    return [to_hex(colour) for colour in colormaps["plasma"](np.linspace(0.0, 0.88, n))]
