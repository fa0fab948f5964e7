"""PyTorch, GIS and UMAP models; no cluster, no device names; imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectra_scale.models.autoencoder import Architecture, AutoEncoder
    from spectra_scale.models.baseline import WeightedPCA, fit_weighted_pca
    from spectra_scale.models.checkpoint import load_model
    from spectra_scale.models.embedding import FittedMap, MapSettings
    from spectra_scale.models.gis import GIS, GISSettings
    from spectra_scale.models.normalise import Normalisation
    from spectra_scale.models.refined import RefinedFlow
    from spectra_scale.models.refined_fit import RefinedSettings
    from spectra_scale.models.uncertainty import Propagation

__all__ = [
    "GIS",
    "Architecture",
    "AutoEncoder",
    "FittedMap",
    "GISSettings",
    "MapSettings",
    "Normalisation",
    "Propagation",
    "RefinedFlow",
    "RefinedSettings",
    "WeightedPCA",
    "fit_weighted_pca",
    "load_model",
]

_MODULES = {
    "Architecture": "autoencoder",
    "AutoEncoder": "autoencoder",
    "FittedMap": "embedding",
    "GIS": "gis",
    "GISSettings": "gis",
    "MapSettings": "embedding",
    "Normalisation": "normalise",
    "Propagation": "uncertainty",
    "RefinedFlow": "refined",
    "RefinedSettings": "refined_fit",
    "WeightedPCA": "baseline",
    "fit_weighted_pca": "baseline",
    "load_model": "checkpoint",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        msg = f"module 'spectra_scale.models' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"spectra_scale.models.{_MODULES[name]}"), name)
