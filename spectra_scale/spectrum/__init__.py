"""The science: NumPy and Numba only, arrays in, arrays out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectra_scale.spectrum.classify import Label, LineMeasurements
    from spectra_scale.spectrum.grid import WavelengthGrid
    from spectra_scale.spectrum.indices import measure_indices
    from spectra_scale.spectrum.linefit import fit_lines
    from spectra_scale.spectrum.observed import ObservedSpectra, RestSpectra
    from spectra_scale.spectrum.preprocess import Preprocess, to_rest_frame
    from spectra_scale.spectrum.stacking import StackSums, stack_regions

__all__ = [
    "Label",
    "LineMeasurements",
    "ObservedSpectra",
    "Preprocess",
    "RestSpectra",
    "StackSums",
    "WavelengthGrid",
    "fit_lines",
    "measure_indices",
    "stack_regions",
    "to_rest_frame",
]

_MODULES = {
    "Label": "classify",
    "LineMeasurements": "classify",
    "ObservedSpectra": "observed",
    "Preprocess": "preprocess",
    "RestSpectra": "observed",
    "StackSums": "stacking",
    "WavelengthGrid": "grid",
    "fit_lines": "linefit",
    "measure_indices": "indices",
    "stack_regions": "stacking",
    "to_rest_frame": "preprocess",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: kernels take a moment to load."""
    if name not in _MODULES:
        msg = f"module 'spectra_scale.spectrum' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"spectra_scale.spectrum.{_MODULES[name]}"), name)
