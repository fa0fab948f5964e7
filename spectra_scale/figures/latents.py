"""Corner plot of the latents by class (paper Fig. 10)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.style import (
    CLASS_COLOURS,
    Floats,
    Ints,
    class_handles,
    codes,
    drawing_order,
    head,
    marker_area,
    new_figure,
    palette,
    points,
    scatter,
    span,
)

TRIM = 0.0001
# One panel is about 150 pixels wide: more points than this change nothing.
_POINTS_A_PANEL = 15_000


def latent_corner(
    latents: npt.ArrayLike, label: npt.ArrayLike, *, trim: float = TRIM, seed: int = 0
) -> Figure:
    """Every pair of latents as scatter plots, every latent as histograms by class (paper Fig. 10).

    Parameters
    ----------
    latents
        Shape (n, d), arbitrary units, d from 1 to about 12; rows with NaN are not drawn.
    label
        Class codes (science.md §5), shape (n,).
    trim
        Fraction cut off each axis at each end; 0.01 % in the paper.
    seed
        Seed of the drawing order.

    Returns
    -------
    Figure
        Scatter plots below the diagonal, normalised histograms of each class on it.
    """
    table = _table(latents)
    n_latents = table.shape[1]
    code = codes(label, len(table))
    good = np.isfinite(table).all(axis=1)
    rows = drawing_order(good, seed, _POINTS_A_PANEL)
    colours = palette()[code[rows]]
    limits = [span(table[good, k], trim=trim, pad=0.03) for k in range(n_latents)]
    size = 1.35 * n_latents + 1.5
    # Spaces between 100 panels are not worth a solver: fixed ones are faster and even.
    figure = new_figure(size, size, layout=None)
    panels = figure.subplots(n_latents, n_latents, squeeze=False)
    for i in range(n_latents):
        for j in range(n_latents):
            axes = panels[i, j]
            _ticks(axes, (i, j), n_latents)
            if j > i:
                axes.set_axis_off()
                continue
            axes.set_xlim(*limits[j])
            if i == j:
                _diagonal(axes, table[good, i], code[good])
            else:
                axes.set_ylim(*limits[i])
                area = 0.4 * marker_area(len(rows))
                scatter(axes, table[rows][:, [j, i]], colours, area=area)
    figure.subplots_adjust(0.06, 0.06, 0.99, 0.96, 0.08, 0.08)
    if good.any():
        figure.legend(
            handles=class_handles(code[good]), loc="upper right", fontsize=min(13, 6 + n_latents),
            frameon=False, bbox_to_anchor=(0.985, 0.945),
        )  # fmt: skip
    drawn = f", {rows.size:,} of {len(table):,} drawn" if rows.size < len(table) else ""
    head(figure, f"Latents by class (each axis without {trim:.2%} at both ends{drawn})")
    return figure


def _table(latents: npt.ArrayLike) -> Floats:
    array = np.asarray(latents, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        message = f"latents has shape {array.shape}, expected (n, d): one row an object."
        raise SpectraScaleError(message)
    return points("latents", array, array.shape[1]) if len(array) else array


def _ticks(axes: Axes, place: tuple[int, int], n: int) -> None:
    i, j = place
    axes.tick_params(direction="in", labelsize=6.5)
    axes.locator_params(nbins=3)
    if i == n - 1:
        axes.set_xlabel(f"latent {j}", fontsize=9)
        axes.xaxis.set_label_coords(0.5, -0.27)
        axes.tick_params(axis="x", rotation=45)
    else:
        axes.set_xticklabels([])
    if j == 0 and i > 0:
        axes.set_ylabel(f"latent {i}", fontsize=9)
        axes.yaxis.set_label_coords(-0.27, 0.5)
    else:
        axes.set_yticklabels([])


def _diagonal(axes: Axes, values: Floats, code: Ints) -> None:
    edges = np.linspace(*axes.get_xlim(), 61)
    axes.set_yticks([])
    for key, colour in enumerate(CLASS_COLOURS):
        member = values[code == key]
        counts, _ = np.histogram(member, edges)
        if counts.max(initial=0):
            axes.stairs(counts / counts.max(), edges, color=colour, lw=1.1)
    axes.set_ylim(0, 1.12)
