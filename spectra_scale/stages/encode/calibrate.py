"""The factor on the covariances of latents, from repeats or from noise realisations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compute.place import Place, Work
from spectra_scale.stages.encode.shard import (
    How,
    correlation_of,
    on_linear_grid,
    one_thread_in_workers,
)
from spectra_scale.store.arrays import read_rows
from spectra_scale.store.objects import column
from spectra_scale.store.sample import Sample

if TYPE_CHECKING:
    from spectra_scale.models.calibration import Pulls

#: Spectra that noise is added to, spread over the validation split.
ROWS = 512
SEED = 1


def calibrate(
    how: How, sample: Sample, columns: dict[str, NDArray[Any]], place: Place
) -> tuple[dict[str, Any], str]:
    """Find the factor and multiply the columns of the covariance with it.

    Parameters
    ----------
    how
        As of the tasks.
    sample
        The sample.
    columns
        Per-object columns of all rows; ``cov_i_j`` are replaced.
    place
        Where the noise realisations are encoded: one task.

    Returns
    -------
    What the manifest records, and the precision of latents and Jacobian, in words.
    """
    from spectra_scale.models.calibration import Calibration, repeat_pulls

    usable = columns["usable"].astype(bool)
    index = sample.index
    chosen = np.flatnonzero(sample.validation_rows() & usable)
    if not len(chosen):
        chosen = np.flatnonzero(usable)
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, min(ROWS, len(chosen)), dtype=int))]
    facts = (
        chosen,
        column(index, "z").astype(np.float64)[chosen],
        on_linear_grid(column(index, "spectrum_key")[chosen]),
    )
    work = Work("encode (calibrate)", "spectra", [len(chosen)])
    [(noise, about_truth, precision)] = place.map(partial(_noise, how), [facts], work)
    latents, covariance = latents_of(columns), covariance_of(columns)
    # A superseded observation is the same one in an older reduction: no repeat.
    repeated = usable & ~column(index, "superseded").astype(bool)
    sky_id = column(index, "sky_id")[repeated]
    repeats = repeat_pulls(latents[repeated], covariance[repeated], sky_id)
    found = Calibration.of(repeats, noise, about_truth)
    factor = np.float32(found.factor)
    columns |= {k: v * factor for k, v in columns.items() if k.startswith("cov_")}
    return found.to_dict(), precision


def _noise(
    how: How, facts: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]
) -> tuple[Pulls, Pulls, str]:
    from spectra_scale.models.calibration import noise_pulls

    numbers, redshift, linear = facts
    with one_thread_in_workers():
        propagation = how.load()
        n_pixels = propagation.model.architecture.n_pixels
        flux = read_rows(how.arrays, "flux", numbers)
        ivar = read_rows(how.arrays, "ivar", numbers)
        rho = np.zeros((len(numbers), n_pixels - 1), np.float32)
        if how.correlated:
            rho = correlation_of(redshift, linear, n_pixels)
        noise, about_truth = noise_pulls(propagation, (flux, ivar, rho), SEED)
    said = f"latents {propagation.forward}, Jacobian {propagation.precision}"
    return noise, about_truth, f"{said}, {propagation.model.device.type}"


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
