"""The density that `[density] method` names, fitted on the training split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from spectra_scale.compute.progress import Progress
from spectra_scale.config import DensitySection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.density import Density, rebuild, settings_json
from spectra_scale.provenance import read_json, write_bytes, write_json
from spectra_scale.store.tables import write_table

if TYPE_CHECKING:
    from spectra_scale.models.gis import GIS
    from spectra_scale.models.refined import RefinedFlow

Floats = NDArray[np.float64]
Say = Callable[[int, dict[str, float]], None]

FLOW = "flow.safetensors"
SETTINGS = "settings.json"
HISTORY = "history.parquet"
#: Settings of the plain flow alone.
_PLAIN = ("n_iterations", "n_slices", "subsample", "max_steps", "early_stop", "patience")
# Looks at a fit of the refined flow: two beginnings of a race and the whole; fewer where one wins.
_LOOKS = 33


def fit(
    train: Floats, validation: Floats, config: DensitySection, out: Path
) -> tuple[Density, dict[str, Any]]:
    """Fit the density and write its history.

    Parameters
    ----------
    train, validation
        Latents of both splits, shape (n, latent) and (m, latent).
    config
        `[density]`.
    out
        Where ``history.parquet`` goes.

    Returns
    -------
    tuple
        The density, and metrics of the manifest.

    Raises
    ------
    SpectraScaleError
        If the validation split is empty, or the data have no density.
    """
    if len(validation) == 0:
        msg = (
            "found no object in the validation split, expected at least one to score the density "
            "on. Loosen the cuts in [prepare], or add spectra."
        )
        raise SpectraScaleError(msg)
    if config.method == "gis":
        total, unit = config.n_iterations, "layers"
    else:
        total, unit = _LOOKS, "looks"
    progress = Progress("density", total, unit)

    def say(_: int, record: dict[str, float]) -> None:
        progress.advance(note=f"validation log p {record['validation_mean']:.3f}")

    make = _plain if config.method == "gis" else _refined
    flow, metrics = make(train, validation, config, say)
    records = [asdict(record) for record in flow.history]
    columns = {name: [record[name] for record in records] for name in records[0]}
    write_table(out / HISTORY, pa.table(columns))
    return flow, {"method": config.method, "layers": flow.n_layers} | metrics


def _plain(
    train: Floats, validation: Floats, config: DensitySection, say: Say
) -> tuple[GIS, dict[str, Any]]:
    from spectra_scale.models.gis import GIS, GISSettings

    settings = GISSettings(**{name: getattr(config, name) for name in (*_PLAIN, "seed")})
    flow = GIS.fit(train, settings, validation, say)
    best = flow.best_layer
    return flow, {"best layer": -1 if best is None else best}


def _refined(
    train: Floats, validation: Floats, config: DensitySection, say: Say
) -> tuple[RefinedFlow, dict[str, Any]]:
    from spectra_scale.models.refined import RefinedFlow, RefinedSettings

    settings = RefinedSettings(
        epochs=config.epochs, max_components=config.max_components, seed=config.seed
    )
    flow = RefinedFlow.fit(train, settings, validation, say, device=_device())
    return flow, {"components": flow.n_components}


def _device() -> str | None:
    import torch

    return "cuda" if torch.cuda.is_available() else None


def keep(flow: Any, reference: Floats, out: Path) -> None:
    """Write a density and the log_prob of the validation objects it is judged on."""
    write_bytes(out / FLOW, save(flow.to_arrays() | {"reference": np.sort(reference)}))
    write_json(out / SETTINGS, settings_json(flow.settings))


def load_flow(path: Path) -> tuple[Density, Floats]:
    """A fitted density and the log_prob of the validation objects it was judged on."""
    arrays = load_file(path / FLOW)
    reference = arrays.pop("reference")
    return rebuild(arrays, read_json(path / SETTINGS)), reference
