"""The factors on the errors of latents, from repeats or from noise realisations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compute.threads import one_thread_in_workers
from spectra_scale.stages.encode.shard import (
    How,
    correlation_of,
    on_linear_grid,
)
from spectra_scale.store.arrays import read_rows
from spectra_scale.store.artifact import Artifact
from spectra_scale.store.objects import column
from spectra_scale.store.sample import Sample

if TYPE_CHECKING:
    from spectra_scale.models.calibration import Pulls

#: Spectra that noise is added to, spread over the validation split.
ROWS = 512
SEED = 1
_LENT = "the models' run: "


@dataclass(frozen=True, slots=True, eq=False)
class NoiseTask:
    """Rows that noise is added to.

    Parameters
    ----------
    rows
        Row numbers of the sample, ascending.
    redshift, linear
        As of `shard.Task`.
    """

    rows: NDArray[np.int64]
    redshift: NDArray[np.float64]
    linear: NDArray[np.bool_]


class Found(NamedTuple):
    """What the task of the calibration gives.

    Parameters
    ----------
    pairs, about_truth
        As `noise_pulls` gives them.
    precision
        Precision of latents and Jacobian, and the device, in words.
    """

    pairs: Pulls
    about_truth: Pulls
    precision: str


def noise_task(sample: Sample) -> NoiseTask:
    """Spread the rows over the validation split; over the sample, if it has none."""
    index = sample.index
    chosen = np.flatnonzero(sample.validation_rows())
    if not len(chosen):
        chosen = np.arange(sample.n_rows)
    few = min(ROWS, len(chosen))
    rows = chosen[np.unique(np.linspace(0, len(chosen) - 1, few, dtype=np.int64))]
    redshift = column(index, "z").astype(np.float64)[rows]
    return NoiseTask(rows, redshift, on_linear_grid(column(index, "spectrum_key")[rows]))


def add_noise(how: How, task: NoiseTask) -> Found:
    """Pulls over noise realisations of some rows; those that cannot be normalised have none."""
    from spectra_scale.models.calibration import noise_pulls

    with one_thread_in_workers():
        propagation = how.load()
        n_pixels = propagation.model.architecture.n_pixels
        flux = read_rows(how.arrays, "flux", task.rows)
        ivar = read_rows(how.arrays, "ivar", task.rows)
        rho = np.zeros((len(task.rows), n_pixels - 1), np.float32)
        if how.correlated:
            rho = correlation_of(task.redshift, task.linear, n_pixels)
        pairs, about_truth = noise_pulls(propagation, (flux, ivar, rho), SEED)
    said = f"latents {propagation.forward}, Jacobian {propagation.precision}"
    return Found(pairs, about_truth, f"{said}, {propagation.model.device.type}")


def calibrate(
    sample: Sample, columns: dict[str, NDArray[Any]], noise: Found, fitted: Artifact | None
) -> dict[str, Any]:
    """Find the factors and multiply the columns of the covariance with them.

    Parameters
    ----------
    sample
        The sample.
    columns
        Per-object columns of all rows; ``cov_i_j`` are replaced.
    noise
        What `add_noise` gave.
    fitted
        Latents whose factors are taken, if they have them.

    Returns
    -------
    What the manifest records: pulls of this sample in any case.
    """
    from spectra_scale.models.calibration import Calibration, repeat_pulls

    index = sample.index
    # A superseded observation is the same one in an older reduction: no repeat.
    repeated = columns["usable"].astype(bool) & ~column(index, "superseded").astype(bool)
    repeats = repeat_pulls(
        latents_of(columns)[repeated],
        covariance_of(columns)[repeated],
        column(index, "sky_id")[repeated],
    )
    found = Calibration.of(repeats, noise.pairs, noise.about_truth)
    theirs = {} if fitted is None else fitted.metrics.get("covariance", {})
    if theirs:
        source = _LENT + str(theirs["from"]).removeprefix(_LENT)
        found = replace(found, factors=tuple(theirs["factors"]), source=source)
    columns |= found.apply(columns)
    return found.to_dict()


def latents_of(columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Columns ``latent_0`` … side by side, shape (row, latent)."""
    names = _numbered(columns, "latent_")
    return np.stack([columns[name] for name in names], axis=1)


def covariance_of(columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Columns ``cov_i_j`` as matrices, shape (row, latent, latent)."""
    k = len(_numbered(columns, "latent_"))
    found = np.empty((len(columns["cov_0_0"]), k, k), np.float32)
    for i in range(k):
        for j in range(i, k):
            found[:, i, j] = found[:, j, i] = columns[f"cov_{i}_{j}"]
    return found


def _numbered(columns: dict[str, NDArray[Any]], prefix: str) -> Sequence[str]:
    return [name for name in columns if name.removeprefix(prefix).isdigit()]
