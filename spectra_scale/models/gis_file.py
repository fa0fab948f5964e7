"""A flow as named arrays, and as one file of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.errors import DamagedArtifactError, SpectraScaleError, UsageError
from spectra_scale.models.gis_layers import GISSettings, LayerRecord, Layers
from spectra_scale.models.gis_rows import Floats, Whitening
from spectra_scale.provenance import write_bytes

#: Of the file; raised whenever an older reader would misread it.
VERSION = 1
#: Key of the safetensors metadata: one, as the order of several is not kept.
KEY = "spectra_scale.gis"

_ARRAYS = ("mean", "whitening", "unwhitening", "whitening_logdet", "frames", "tables")
_RECORD = [field.name for field in fields(LayerRecord)]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """All that a flow is, but for its settings."""

    whitening: Whitening
    layers: Layers
    history: tuple[LayerRecord, ...]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of everything as named arrays."""
        rows = [[float(getattr(record, name)) for name in _RECORD] for record in self.history]
        return {
            "mean": self.whitening.mean.copy(),
            "whitening": self.whitening.matrix.copy(),
            "unwhitening": self.whitening.inverse.copy(),
            "whitening_logdet": np.array([self.whitening.logdet]),
            "frames": self.layers.frames.copy(),
            "tables": self.layers.tables.copy(),
            "history": np.array(rows, dtype=np.float64).reshape(-1, len(_RECORD)),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Parts:
        """Inverse of `to_arrays`.

        Raises
        ------
        SpectraScaleError
            If an array is missing, or their shapes or values do not make a flow.
        """
        missing = [name for name in (*_ARRAYS, "history") if name not in arrays]
        if missing:
            msg = (
                f"The arrays of the flow lack {', '.join(missing)}; found {sorted(arrays)}. "
                "They are not those that GIS.to_arrays wrote: fit the density again."
            )
            raise SpectraScaleError(msg)
        history = np.asarray(arrays["history"])
        if history.shape[1:] != (len(_RECORD),):
            msg = (
                f"The flow's history has shape {history.shape}, expected {len(_RECORD)} columns: "
                "another version wrote it. Fit it again."
            )
            raise SpectraScaleError(msg)
        parts = {name: np.array(arrays[name], dtype=np.float64, order="C") for name in _ARRAYS}
        _check_parts(parts)
        whitening = Whitening(
            mean=parts["mean"],
            matrix=parts["whitening"],
            inverse=parts["unwhitening"],
            logdet=float(parts["whitening_logdet"][0]),
        )
        records = (LayerRecord(int(row[0]), *(float(v) for v in row[1:])) for row in history)
        return cls(whitening, Layers(parts["frames"], parts["tables"]), tuple(records))


def _check_parts(parts: Mapping[str, Floats]) -> None:
    frames, tables = parts["frames"], parts["tables"]
    dims = parts["mean"].size
    square = (dims, dims)
    fits = (
        parts["mean"].shape == (dims,)
        and parts["whitening"].shape == parts["unwhitening"].shape == square
        and parts["whitening_logdet"].shape == (1,)
        and frames.ndim == 3
        and tables.ndim == 4
        and frames.shape[2] == dims
        and tables.shape[:3] == (*frames.shape[:2], 3)
    )
    shapes = {name: value.shape for name, value in parts.items()}
    if not fits:
        msg = f"The arrays of the flow do not fit one another: {shapes}. Fit the density again."
        raise SpectraScaleError(msg)
    rises = (np.diff(tables[:, :, :2], axis=-1) > 0).all() and (tables[:, :, 2] > 0).all()
    if not rises or not all(np.isfinite(value).all() for value in parts.values()):
        msg = (
            "The arrays of the flow are damaged: values are not finite, or splines do not rise. "
            "Fit the density again."
        )
        raise SpectraScaleError(msg)


def write_flow(path: Path, parts: Parts, settings: GISSettings) -> None:
    """Write one safetensors file, whole or not at all; the same flow gives the same bytes.

    Parameters
    ----------
    path
        File to write.
    parts
        The arrays.
    settings
        Go into the metadata, as JSON.
    """
    from safetensors.numpy import save

    about = json.dumps({"version": VERSION, "settings": settings.to_json()}, sort_keys=True)
    write_bytes(path, save(parts.to_arrays(), metadata={KEY: about}))


def read_flow(path: Path) -> tuple[Parts, GISSettings]:
    """Read what `write_flow` wrote.

    Raises
    ------
    UsageError
        If there is no such file, or it is not one of a flow, or of another version.
    DamagedArtifactError
        If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        msg = f"{path} is no file. Give the file that GIS.save wrote."
        raise UsageError(msg)
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError, ValueError) as error:
        msg = f"{path} cannot be read as a flow ({error}). Give the file that GIS.save wrote."
        raise DamagedArtifactError(msg) from error
    if not isinstance(about, dict):
        msg = (
            f"{path} holds no flow: its metadata lack {KEY!r}. Give the file that GIS.save wrote."
        )
        raise UsageError(msg)
    if about.get("version") != VERSION:
        msg = (
            f"{path} holds a flow of version {about.get('version')}, this is version {VERSION}. "
            "Fit the density again."
        )
        raise UsageError(msg)
    try:
        return Parts.from_arrays(arrays), GISSettings.from_json(about["settings"])
    except (SpectraScaleError, KeyError, TypeError) as error:
        msg = f"{path} holds a damaged flow: {error}"
        raise DamagedArtifactError(msg) from error
