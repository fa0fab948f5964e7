"""Figures of the input sample: redshifts (paper Fig. 1), BPT and WHAN diagrams (paper Fig. 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
from scipy.ndimage import gaussian_filter

from spectra_scale.figures.style import (
    INK,
    MAX_POINTS,
    TRAIN_COLOUR,
    VALIDATION_COLOUR,
    Floats,
    Ints,
    class_handles,
    codes,
    column,
    drawing_order,
    dress,
    head,
    new_figure,
    palette,
    say,
    scatter,
    span,
)
from spectra_scale.spectrum.classify import (
    KAUFFMANN_LIMIT,
    KEWLEY_LIMIT,
    RETIRED_EW_MAX,
    RETIRED_EW_MIN,
    Label,
    kauffmann,
    kewley,
)

Bools = npt.NDArray[np.bool_]

_BPT_X, _BPT_Y = (-1.8, 0.9), (-1.4, 1.5)
_NARROW = (Label.STAR_FORMING, Label.COMPOSITE, Label.NARROW_LINE_AGN)
_LINELESS = (Label.RETIRED, Label.PASSIVE)
# The axis of the WHAN diagram is logarithmic: fainter widths than this (Å) say only "no line".
_FAINTEST_WIDTH = 0.02
# Fewer points give contours of noise.
_MIN_FOR_CONTOURS = 200


def redshift_histograms(
    z_train: npt.ArrayLike, z_validation: npt.ArrayLike, *, n_bins: int = 62
) -> Figure:
    """Redshift distribution of the training and the validation split (paper Fig. 1).

    Parameters
    ----------
    z_train, z_validation
        Redshifts, shape (n,) each; NaN is left out. Both share one set of bins.
    n_bins
        Number of bins between the lowest and the highest redshift.

    Returns
    -------
    Figure
        Counts an interval of redshift.
    """
    train, validation = column("z_train", z_train), column("z_validation", z_validation)
    edges = np.linspace(*span(np.concatenate([train, validation]), pad=0.0), n_bins + 1)
    figure = new_figure(7.2, 4.6)
    axes = figure.add_subplot()
    for name, values, colour in (
        ("training", train, TRAIN_COLOUR),
        ("validation", validation, VALIDATION_COLOUR),
    ):
        good = values[np.isfinite(values)]
        counts, _ = np.histogram(good, edges)
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.55)
        axes.stairs(counts, edges, color=colour, lw=1.3, label=f"{name} ({good.size:,})")
    dress(axes, "redshift $z$", f"spectra per Δz = {edges[1] - edges[0]:.3g}")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    head(figure, "Redshift distribution")
    return figure


def bpt_whan(
    bpt_x: npt.ArrayLike,
    bpt_y: npt.ArrayLike,
    whan_x: npt.ArrayLike,
    ew_halpha: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    seed: int = 0,
) -> Figure:
    """BPT diagram of narrow-line and of broad-line spectra, WHAN of retired and passive ones.

    Paper Fig. 2. Demarcations: Kauffmann et al. (2003, solid), Kewley et al. (2001, dashed), each
    only left of its asymptote, and EW(Hα) = 3 and 0.5 Å (dashed, Cid Fernandes et al. 2011).
    Contours are of point density, each level a factor of about 3 above the last.

    Parameters
    ----------
    bpt_x, bpt_y
        log10([N II]6584/Hα) and log10([O III]5007/Hβ), shape (n,); NaN where a flux is missing.
    whan_x, ew_halpha
        log10([N II]6584/Hα), and the rest-frame equivalent width of Hα in Å, positive in emission,
        shape (n,). The axis is logarithmic: widths below 0.02 Å are counted but not drawn.
    label
        Class codes (science.md §5), shape (n,). N/A is not drawn, as in the paper.
    seed
        Seed of the drawing order.

    Returns
    -------
    Figure
        Three panels; each says how many of its objects are drawn.
    """
    x = column("bpt_x", bpt_x)
    y = column("bpt_y", bpt_y, len(x))
    code = codes(label, len(x))
    width = column("ew_halpha", ew_halpha, len(x))
    log_width = np.log10(np.where(width > _FAINTEST_WIDTH, width, np.nan))
    figure = new_figure(13.5, 5.4)
    narrow, broad, whan = figure.subplots(1, 3)
    bpt = np.column_stack([x, y])
    _demarcate(narrow)
    _demarcate(broad)
    _panel(narrow, bpt, np.where(np.isin(code, _NARROW), code, -1), seed)
    _panel(broad, bpt, np.where(code == Label.BROAD_LINE, code, -1), seed)
    for axes, title in ((narrow, "BPT, narrow lines"), (broad, "BPT, broad-line spectra")):
        dress(axes, r"log$_{10}$ [N II] 6584 / Hα", r"log$_{10}$ [O III] 5007 / Hβ", title)
    whan_points = np.column_stack([column("whan_x", whan_x, len(x)), log_width])
    _panel(whan, whan_points, np.where(np.isin(code, _LINELESS), code, -1), seed)
    _whan_axes(whan, whan_points[np.isin(code, _LINELESS)])
    _count(narrow, bpt, np.isin(code, _NARROW))
    _count(broad, bpt, code == Label.BROAD_LINE)
    _count(whan, whan_points, np.isin(code, _LINELESS))
    head(figure, "Emission-line diagnostics", "Lines in air, as the diagrams name them.")
    return figure


def _panel(axes: Axes, xy: Floats, code: Ints, seed: int) -> None:
    """Points of the rows whose code is not -1, contours and legend."""
    members = code >= 0
    drawable = members & np.isfinite(xy).all(axis=1)
    rows = drawing_order(drawable, seed)
    if rows.size == 0:
        say(axes, "no objects")
        return
    scatter(axes, xy[rows], palette()[code[rows]])
    _contours(axes, xy[drawable])
    handles = [*class_handles(code[members]), *axes.get_lines()]
    axes.legend(handles=handles, fontsize=8, loc="lower left", framealpha=0.9)


def _count(axes: Axes, xy: Floats, member: Bools) -> None:
    """Say how many members are inside the limits of the axes: the others have no place there."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    inside = (xy[:, 0] >= left) & (xy[:, 0] <= right) & (xy[:, 1] >= low) & (xy[:, 1] <= high)
    # No more than MAX_POINTS points are drawn.
    n = min(int((inside & member).sum()), MAX_POINTS)
    text = f"{n:,} of {int(member.sum()):,} drawn"
    white = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1.2}
    place = axes.transAxes
    axes.text(0.98, 0.98, text, transform=place, ha="right", va="top", fontsize=7.5, bbox=white)


def _contours(axes: Axes, xy: Floats) -> None:
    low, high = np.quantile(xy, [0.0005, 0.9995], axis=0)
    if len(xy) < _MIN_FOR_CONTOURS or not np.all(high > low):
        return
    pad = 0.15 * (high - low)
    edges = [np.linspace(low[i] - pad[i], high[i] + pad[i], 101) for i in range(2)]
    counts, _, _ = np.histogram2d(xy[:, 0], xy[:, 1], bins=edges)
    density = gaussian_filter(counts, 1.8)
    top = float(density.max())
    levels = top * 10.0 ** np.arange(-2.5, 0.0, 0.5) * 0.95
    centres = [0.5 * (edge[1:] + edge[:-1]) for edge in edges]
    # The lowest levels may lie under one object a bin: those would circle single points.
    levels = levels[levels > 0.25]
    style: dict[str, Any] = {"levels": levels, "linewidths": 0.8, "colors": "black", "alpha": 0.75}
    if len(levels):
        axes.contour(*centres, density.T, **style)


def _demarcate(axes: Axes) -> None:
    style: dict[str, Any] = {"color": INK, "lw": 1.6, "zorder": 4}
    x = np.linspace(_BPT_X[0], KAUFFMANN_LIMIT, 400, endpoint=False)
    axes.plot(x, kauffmann(x), ls="-", label="Kauffmann+ 2003", gid="kauffmann", **style)
    x = np.linspace(_BPT_X[0], KEWLEY_LIMIT, 400, endpoint=False)
    axes.plot(x, kewley(x), ls="--", label="Kewley+ 2001", gid="kewley", **style)
    # Set before the points: they must not widen the axes.
    axes.set_xlim(*_BPT_X)
    axes.set_ylim(*_BPT_Y)


def _whan_axes(axes: Axes, xy: Floats) -> None:
    for width in (RETIRED_EW_MIN, RETIRED_EW_MAX):
        axes.axhline(np.log10(width), color=INK, ls="--", lw=1.4, gid=f"whan:{width:g}")
    axes.set_xlim(*span(xy[:, 0], trim=0.0005, pad=0.1))
    low, high = span(xy[:, 1], trim=0.0005, pad=0.1)
    axes.set_ylim(min(low, -1.0), max(high, 1.0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{10.0**value:.3g}"))
    axes.yaxis.set_major_locator(_whole_decades(axes))
    dress(axes, r"log$_{10}$ [N II] 6584 / Hα", "rest-frame EW(Hα) (Å)", "WHAN, weak lines")


def _whole_decades(axes: Axes) -> FixedLocator:
    """Ticks of log10 at 1 and 3 times the powers of ten inside the y limits."""
    low, high = axes.get_ylim()
    steps = np.log10(np.outer(10.0 ** np.arange(-6, 6), [1.0, 3.0])).ravel()
    return FixedLocator(list(steps[(steps >= low) & (steps <= high)]))
