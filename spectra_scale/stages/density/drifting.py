"""Drift of the objects of a run from those that its fitted density was judged on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from spectra_scale.models.drift import Scored, drift
from spectra_scale.provenance import write_bytes, write_json
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.store.objects import column

REFERENCE = "drift_reference.safetensors"
DRIFT = "drift.json"
#: Objects that are kept to compare later ones with.
MOST_KEPT = 10_000
_NAMES = ("latents", "log_prob", "label", "z", "snr")
log = logging.getLogger(__name__)


def scored(
    index: pa.Table, latents: NDArray[np.float64], log_prob: NDArray[np.float64],
    chosen: NDArray[np.bool_],
) -> Scored:  # fmt: skip
    """Some rows of the sample, as drift compares them."""
    return Scored(
        latents=latents[chosen],
        log_prob=log_prob[chosen],
        label=column(index, "label").astype(np.int64)[chosen],
        z=column(index, "z").astype(np.float64)[chosen],
        snr=column(index, "snr_total").astype(np.float64)[chosen],
    )


def keep_reference(out: Path, validation: Scored, seed: int) -> None:
    """Keep validation objects, at most 10,000, for later runs to be compared with."""
    kept = validation.at_most(MOST_KEPT, seed)
    arrays = {name: np.ascontiguousarray(getattr(kept, name)) for name in _NAMES}
    write_bytes(out / REFERENCE, save(arrays))


def compare(fitted: Path, new: Scored, out: Path) -> dict[str, Any]:
    """Compare objects with the reference of a fitted density.

    Parameters
    ----------
    fitted
        Directory of that density.
    new
        Objects of this run.
    out
        Directory of this run's density: gets ``drift.json`` and the reference.

    Returns
    -------
    dict
        What ``drift.json`` has; ``skipped`` where the fitted density keeps no reference.
    """
    file = fitted / REFERENCE
    if not file.is_file():
        return {"skipped": "the density was fitted by a version that kept no objects to compare"}
    # The same bytes, so that a run that starts from this one compares with the same objects.
    write_bytes(out / REFERENCE, file.read_bytes())
    found = drift(Scored(**load_file(file)), new).to_json()
    found["by_class"] = {CLASS_NAMES[code]: of for code, of in found["by_class"].items()}
    write_json(out / DRIFT, found)
    if found["log_prob"] is not None:
        log.info(
            "drift log_prob=%.3f error=%.3f nats",
            found["log_prob"]["difference"], found["log_prob"]["error"],
        )  # fmt: skip
    return found
