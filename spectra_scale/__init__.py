"""From the files of a spectroscopic survey release to a map of its spectra.

>>> import spectra_scale as ss
>>> ss.spectrum.WavelengthGrid.rest_frame().n_pixels
1000

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectra_scale import figures, models, spectrum
    from spectra_scale.generate import generate_spectra
    from spectra_scale.similar import Neighbourhood, find_similar
    from spectra_scale.store.run import open_run
    from spectra_scale.store.sample import open_sample
    from spectra_scale.surveys.release import open_release

__version__ = "0.1.0"
__all__ = [
    "Neighbourhood",
    "__version__",
    "figures",
    "find_similar",
    "generate_spectra",
    "models",
    "open_release",
    "open_run",
    "open_sample",
    "spectrum",
]

_FUNCTIONS = {
    "Neighbourhood": "spectra_scale.similar",
    "find_similar": "spectra_scale.similar",
    "generate_spectra": "spectra_scale.generate",
    "open_release": "spectra_scale.surveys.release",
    "open_run": "spectra_scale.store.run",
    "open_sample": "spectra_scale.store.sample",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in ("figures", "models", "spectrum"):
        return importlib.import_module(f"spectra_scale.{name}")
    msg = f"module 'spectra_scale' has no attribute {name!r}"
    raise AttributeError(msg)
