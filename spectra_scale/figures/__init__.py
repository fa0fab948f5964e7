"""One function a figure: arrays in, `matplotlib.figure.Figure` out.

For the report, the page and a notebook. Importing this package costs nothing: the modules behind
the names below, and matplotlib with them, are loaded when a name is first used.

Nothing here touches pyplot, the clock or any global state, so that the same arrays give the same
bytes (`png_of`) in any process and any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectra_scale.figures.autoencoder import architecture as architecture
    from spectra_scale.figures.autoencoder import loss_by_epoch as loss_by_epoch
    from spectra_scale.figures.autoencoder import parameter_count as parameter_count
    from spectra_scale.figures.classes import Curve as Curve
    from spectra_scale.figures.classes import class_reliability as class_reliability
    from spectra_scale.figures.density import drift_histograms as drift_histograms
    from spectra_scale.figures.density import log_prob_histogram as log_prob_histogram
    from spectra_scale.figures.diagnostics import bpt_whan as bpt_whan
    from spectra_scale.figures.diagnostics import redshift_histograms as redshift_histograms
    from spectra_scale.figures.latents import latent_corner as latent_corner
    from spectra_scale.figures.maps import map_coloured as map_coloured
    from spectra_scale.figures.maps import map_pair as map_pair
    from spectra_scale.figures.maps import map_with_boxes as map_with_boxes
    from spectra_scale.figures.maps import map_with_polygons as map_with_polygons
    from spectra_scale.figures.outliers import objects_by_verdict as objects_by_verdict
    from spectra_scale.figures.page import FigureItem as FigureItem
    from spectra_scale.figures.page import Section as Section
    from spectra_scale.figures.page import Table as Table
    from spectra_scale.figures.page import png_of as png_of
    from spectra_scale.figures.page import render_page as render_page
    from spectra_scale.figures.residuals import chi2_by_class as chi2_by_class
    from spectra_scale.figures.residuals import pixelwise_chi2 as pixelwise_chi2
    from spectra_scale.figures.residuals import residual_by_class as residual_by_class
    from spectra_scale.figures.scaling import ScalingPoint as ScalingPoint
    from spectra_scale.figures.scaling import scaling_figure as scaling_figure
    from spectra_scale.figures.spectra import class_comparison as class_comparison
    from spectra_scale.figures.spectra import spectra_grid as spectra_grid
    from spectra_scale.figures.stability import RankPair as RankPair
    from spectra_scale.figures.stability import stability_figure as stability_figure
    from spectra_scale.figures.stacks import polygon_stacks as polygon_stacks
    from spectra_scale.figures.stacks import sequence_stacks as sequence_stacks
    from spectra_scale.figures.stacks import stack_indices as stack_indices
    from spectra_scale.figures.style import CLASS_COLOURS as CLASS_COLOURS
    from spectra_scale.figures.style import class_colour as class_colour
    from spectra_scale.figures.style import class_name as class_name

_MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "autoencoder": ("architecture", "loss_by_epoch", "parameter_count"),
        "classes": ("Curve", "class_reliability"),
        "density": ("drift_histograms", "log_prob_histogram"),
        "diagnostics": ("bpt_whan", "redshift_histograms"),
        "latents": ("latent_corner",),
        "maps": ("map_coloured", "map_pair", "map_with_boxes", "map_with_polygons"),
        "outliers": ("objects_by_verdict",),
        "page": ("FigureItem", "Section", "Table", "png_of", "render_page"),
        "residuals": ("chi2_by_class", "pixelwise_chi2", "residual_by_class"),
        "scaling": ("ScalingPoint", "scaling_figure"),
        "spectra": ("class_comparison", "spectra_grid"),
        "stability": ("RankPair", "stability_figure"),
        "stacks": ("polygon_stacks", "sequence_stacks", "stack_indices"),
        "style": ("CLASS_COLOURS", "class_colour", "class_name"),
    }
)
_HOME: Mapping[str, str] = MappingProxyType(
    {name: module for module, names in _MODULES.items() for name in names}
)


def __getattr__(name: str) -> object:
    """Load the figure function `name` when it is first used."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Names of the figure functions."""
    return sorted(_HOME)
