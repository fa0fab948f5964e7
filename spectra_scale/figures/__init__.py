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

_MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "autoencoder": ("architecture", "loss_by_epoch", "parameter_count"),
        "density": ("drift_histograms", "log_prob_histogram"),
        "diagnostics": ("bpt_whan", "redshift_histograms"),
        "latents": ("latent_corner",),
        "maps": ("map_coloured", "map_pair", "map_with_boxes", "map_with_polygons"),
        "page": ("FigureItem", "Section", "Table", "png_of", "render_page"),
        "residuals": ("chi2_by_class", "pixelwise_chi2", "residual_by_class"),
        "spectra": ("class_comparison", "spectra_grid"),
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
