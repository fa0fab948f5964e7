"""Figures of the auto-encoder: its layers and its training (paper Figs. 8 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.style import (
    INK,
    TRAIN_COLOUR,
    VALIDATION_COLOUR,
    Floats,
    column,
    dress,
    head,
    new_figure,
    say,
)

_ENCODER, _LATENT, _DECODER, _DATA = "#cfe0f4", "#f9d9a8", "#d5ecd4", "#e9e9e9"
# The level the paper draws in its Fig. 9 for comparison.
PAPER_LEVEL = 1.25


def parameter_count(layer_sizes: Sequence[int]) -> int:
    """Weights and biases of a fully connected network.

    Parameters
    ----------
    layer_sizes
        Nodes of each layer from input to output.

    Returns
    -------
    int
        Their number.

    Examples
    --------
    >>> parameter_count([1000, 800, 590, 10, 590, 800, 1000])
    2559590
    """
    return sum(a * b + b for a, b in pairwise(layer_sizes))


def architecture(layer_sizes: Sequence[int]) -> Figure:
    """Diagram of the fully connected auto-encoder (paper Fig. 8, science.md §6).

    Parameters
    ----------
    layer_sizes
        Nodes of each layer from input to output, such as 1000, 800, 590, 10, 590, 800, 1000; the
        smallest is the latent layer.

    Returns
    -------
    Figure
        One box a layer, its height growing with the logarithm of its nodes, with its purpose.

    Raises
    ------
    SpectraScaleError
        If there are fewer than three layers or one has no node.
    """
    sizes = [int(size) for size in layer_sizes]
    if len(sizes) < 3 or min(sizes) < 1:
        message = (
            f"layer_sizes is {sizes}, expected at least three positive numbers: input, latent and "
            "output."
        )
        raise SpectraScaleError(message)
    figure = new_figure(1.7 * len(sizes) + 0.6, 4.6)
    axes = figure.add_subplot()
    latent = sizes.index(min(sizes))
    heights = 0.5 + np.log10(sizes)
    for i, (size, height) in enumerate(zip(sizes, heights, strict=True)):
        _layer(axes, i, float(height), (str(size), *_purpose(i, latent, len(sizes))))
    for i in range(len(sizes) - 1):
        arrow = FancyArrowPatch((i + 0.29, 0), (i + 0.71, 0), arrowstyle="-|>", mutation_scale=13)
        arrow.set_color(INK)
        axes.add_patch(arrow)
    top = float(heights.max()) / 2
    axes.text(latent / 2, top + 0.45, "encoder", ha="center", fontsize=11)
    axes.text((latent + len(sizes) - 1) / 2, top + 0.45, "decoder", ha="center", fontsize=11)
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set_ylim(-top - 1.0, top + 0.8)
    axes.set_axis_off()
    shape = "–".join(map(str, sizes))
    head(figure, f"Auto-encoder {shape}: {parameter_count(sizes):,} parameters")
    return figure


def _purpose(i: int, latent: int, n: int) -> tuple[str, str]:
    if i == 0:
        return "input\nrest-frame flux", _DATA
    if i == latent:
        return "latent\nlinear", _LATENT
    if i == n - 1:
        return "output\nlinear", _DATA
    return "hidden\nReLU", _ENCODER if i < latent else _DECODER


def _layer(axes: Axes, i: int, height: float, text: tuple[str, str, str]) -> None:
    size, purpose, colour = text
    box = FancyBboxPatch(
        (i - 0.24, -height / 2), 0.48, height, boxstyle="round,pad=0.02,rounding_size=0.06",
        fc=colour, ec=INK, lw=1.1,
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(i, 0, size, ha="center", va="center", fontsize=12, weight="bold", zorder=5)
    axes.text(i, -height / 2 - 0.15, purpose, ha="center", va="top", fontsize=9)


def loss_by_epoch(
    history: Mapping[str, npt.ArrayLike],
    *,
    baseline: float | None = None,
    level: float | None = PAPER_LEVEL,
) -> Figure:
    """χ² of both splits by epoch (paper Fig. 9, eqs. 1 and 2).

    Parameters
    ----------
    history
        ``epoch``, and any of ``train_chi2``, ``validation_chi2`` (divided by the number of pixels,
        eq. 1), ``train_chi2_valid``, ``validation_chi2_valid`` (by that of valid pixels, eq. 2),
        all of shape (epoch,). NaN leaves a gap. A scalar ``baseline`` is read from here as well.
    baseline
        χ² of the linear baseline (weighted PCA) on the validation split.
    level
        Horizontal line for comparison, 1.25 in the paper; None draws none.

    Returns
    -------
    Figure
        One panel, logarithmic if the losses span more than a factor of 2.5.
    """
    epoch = column("history['epoch']", history.get("epoch", ()))
    figure = new_figure(8.6, 5.4)
    axes = figure.add_subplot()
    seen: list[Floats] = []
    for split, colour in (("train", TRAIN_COLOUR), ("validation", VALIDATION_COLOUR)):
        for suffix, style, equation in (("chi2", "-", "1"), ("chi2_valid", "--", "2")):
            if f"{split}_{suffix}" in history:
                values = column(f"{split}_{suffix}", history[f"{split}_{suffix}"], len(epoch))
                kind = "per pixel" if suffix == "chi2" else "per valid pixel"
                text = f"{split}, {kind} (eq. {equation}){_last(values)}"
                marker = "o" if len(epoch) < 40 else ""
                axes.plot(epoch, values, style, color=colour, marker=marker, ms=3.5, label=text)
                seen.append(values)
    given = history.get("baseline") if baseline is None else baseline
    if given is not None and np.isfinite(float(np.asarray(given))):
        linear = float(np.asarray(given))
        text = f"linear baseline (eq. 2, not capped): {linear:.3f}"
        axes.axhline(linear, color="#7a4ba0", ls="-.", lw=1.3, label=text)
    if level is not None:
        axes.axhline(level, color="#777777", ls=":", lw=1.3, label=f"{level:g} (paper, Fig. 9)")
    _loss_axes(axes, np.concatenate(seen) if seen else np.empty(0))
    head(figure, "Training of the auto-encoder")
    return figure


def _last(values: Floats) -> str:
    good = values[np.isfinite(values)]
    return f": {good[-1]:.3f}" if good.size else ""


def _loss_axes(axes: Axes, values: Floats) -> None:
    good = values[np.isfinite(values)]
    dress(axes, "epoch", "χ²")
    if good.size == 0:
        say(axes, "no epochs")
    elif good.min() > 0 and good.max() > 2.5 * good.min():
        axes.set_yscale("log")
        _plain_ticks(axes, float(good.min()), float(good.max()))
    axes.legend(frameon=False, fontsize=9)


def _plain_ticks(axes: Axes, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers: 1.2, 1.5, 2, 3 …, not powers of ten."""
    steps = np.outer(10.0 ** np.arange(-6, 9), [1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0]).ravel()
    few = steps[(steps > low / 1.5) & (steps < high * 1.5)]
    if len(few) > 14:
        few = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    axes.set_yticks(few, [f"{tick:g}" for tick in few])
    axes.set_yticks([], minor=True)
