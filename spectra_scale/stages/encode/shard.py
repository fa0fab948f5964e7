"""The task of encode: the spectra of one shard, from Zarr to one small table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import save

from spectra_scale.compute.threads import one_thread_in_workers
from spectra_scale.provenance import write_bytes
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum.covariance import neighbour_correlation
from spectra_scale.spectrum.grid import DESI_NATIVE, SDSS_NATIVE, WavelengthGrid
from spectra_scale.spectrum.residual_kernels import add_residuals
from spectra_scale.store.arrays import Shard, read_rows
from spectra_scale.store.tables import write_table

if TYPE_CHECKING:
    from spectra_scale.models.autoencoder import AutoEncoder, Encoded
    from spectra_scale.models.inputs import ModelInputs
    from spectra_scale.models.normalise import Normalised
    from spectra_scale.models.precision import Precision
    from spectra_scale.models.uncertainty import Propagation

Floats = NDArray[np.float32]
SPLITS = ("train", "validation")
SUMS = ("square", "pull", "count")


@dataclass(frozen=True, slots=True)
class How:
    """What is the same for every shard.

    Parameters
    ----------
    arrays
        Zarr group of the sample.
    model, fingerprint
        Directory of the auto-encoder, and what it was made from.
    parts
        Folder of the tasks' results.
    precision, inpaint, covariance, batch
        As `[encode]` says.
    correlated
        Whether neighbouring pixels share noise: with the preset ``conserve``. In ``reference``
        every native pixel goes into one grid pixel.
    """

    arrays: Path
    model: Path
    fingerprint: str
    parts: Path
    precision: Literal["auto", "float32", "bfloat16"]
    inpaint: int
    covariance: bool
    batch: int
    correlated: bool

    def load(self) -> Propagation:
        """The model of this process, on its device, and how it is fed."""
        from spectra_scale.models.precision import bf16_here
        from spectra_scale.models.uncertainty import Propagation

        model, inputs = _loaded(self.model, self.fingerprint)
        latents: Precision = "bfloat16" if self.precision == "bfloat16" else "float32"
        fast = self.precision == "auto" and bf16_here(model.device)
        jacobian: Precision = "bfloat16" if fast else latents
        return Propagation(model, inputs, self.inpaint, jacobian, latents)


def _loaded(path: Path, fingerprint: str) -> tuple[AutoEncoder, ModelInputs]:
    import torch

    from spectra_scale.models.inputs import load_encoder_once

    return load_encoder_once(path, fingerprint, "cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Rows of one shard, with the facts of each that encoding needs.

    Parameters
    ----------
    shard
        The rows.
    group
        Split and label of each as one number; below 0 for a row of neither split.
    redshift
        Of each row.
    linear
        Whether a row's native pixels are linear in wavelength (DESI).
    """

    shard: Shard
    group: NDArray[np.int64]
    redshift: NDArray[np.float64]
    linear: NDArray[np.bool_]

    @property
    def file(self) -> str:
        """Name of its results, without ending."""
        return f"{self.shard.index:06d}"


def group_of(label: NDArray[np.int8], split: NDArray[np.object_]) -> NDArray[np.int64]:
    """Group of each row of `add_residuals`: by split, then label; -1 for neither split."""
    found = np.full(len(label), -1, np.int64)
    for s, name in enumerate(SPLITS):
        here = split == name
        found[here] = s * len(CLASS_NAMES) + label[here]
    return found


def encode_shard(how: How, task: Task) -> int:
    """Encode one shard, unless that was done before; gives its number of rows."""
    if not (how.parts / f"{task.file}.parquet").is_file():
        with one_thread_in_workers():
            _make(how, task)
    return task.shard.n_rows


def _make(how: How, task: Task) -> None:
    propagation = how.load()
    n_pixels = propagation.model.architecture.n_pixels
    shape = (len(SPLITS) * len(CLASS_NAMES), n_pixels)
    sums = (np.zeros(shape), np.zeros(shape), np.zeros(shape))
    rows_at_once = min(how.batch, task.shard.n_rows)
    # The same pages for every batch: fresh ones cost as much as unpacking into them.
    buffers = [np.empty((rows_at_once, n_pixels), np.float32) for _ in range(2)]
    tables = []
    for start in range(task.shard.start, task.shard.stop, rows_at_once):
        rows = slice(start, min(start + rows_at_once, task.shard.stop))
        here = slice(rows.start - task.shard.start, rows.stop - task.shard.start)
        flux = read_rows(how.arrays, "flux", rows, buffers[0])
        ivar = read_rows(how.arrays, "ivar", rows, buffers[1])
        fed = propagation.inputs.apply(flux, ivar)
        found, covariance = _encode_whole(how, propagation, fed, _correlation(how, task, here))
        assert found.reconstruction is not None
        add_residuals(found.reconstruction, fed.flux, fed.ivar, task.group[here], sums)
        tables.append(_table(found, covariance, fed))
    named = {
        name: total.reshape(len(SPLITS), len(CLASS_NAMES), n_pixels)
        for name, total in zip(SUMS, sums, strict=True)
    }
    write_bytes(how.parts / f"{task.file}.safetensors", save(named))
    write_table(how.parts / f"{task.file}.parquet", pa.concat_tables(tables))


def _encode_whole(
    how: How, propagation: Propagation, fed: Normalised, correlation: Floats | None
) -> tuple[Encoded, Floats | None]:
    """Encode a batch filled up to its full size, and give the rows that were there.

    On some processors the rounding of a product depends on its shape: a row must not change
    because the shard it is in has grown.
    """
    n, missing = len(fed.flux), how.batch - len(fed.flux)
    if missing <= 0:
        return encode_fed(how, propagation, fed, correlation)
    whole = type(fed)(*(_filled_up(values, missing) for values in fed))
    more = None if correlation is None else _filled_up(correlation, missing)
    found, covariance = encode_fed(how, propagation, whole, more)
    assert found.reconstruction is not None
    cut = found._replace(
        latents=found.latents[:n],
        chi2=found.chi2[:n],
        chi2_valid=found.chi2_valid[:n],
        reconstruction=found.reconstruction[:n],
    )
    return cut, None if covariance is None else covariance[:n]


def _filled_up(values: NDArray[Any], missing: int) -> NDArray[Any]:
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])


def encode_fed(
    how: How, propagation: Propagation, fed: Normalised, correlation: Floats | None
) -> tuple[Encoded, Floats | None]:
    """Latents, χ² and reconstructions of normalised spectra, and the latents' covariance."""
    from spectra_scale.models.autoencoder import decode_latents, encode

    model, precision = propagation.model, propagation.forward
    if not how.covariance:
        found = encode(
            model,
            fed.flux,
            fed.ivar,
            want_reconstruction=True,
            inpaint_passes=propagation.inpaint_passes,
            precision=precision,
        )
        return found, None
    latents, covariance = propagation.propagate(fed.flux, fed.ivar, correlation)
    # Where there is no spectrum there is no certainty either.
    covariance[~fed.usable] = np.nan
    return decode_latents(model, latents, fed.flux, fed.ivar, precision=precision), covariance


def _correlation(how: How, task: Task, rows: slice) -> Floats | None:
    if not (how.covariance and how.correlated):
        return None
    n_pixels = _loaded(how.model, how.fingerprint)[0].architecture.n_pixels
    return correlation_of(task.redshift[rows], task.linear[rows], n_pixels)


def on_linear_grid(spectrum_key: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Whether native pixels are linear in wavelength: the key names the survey (science.md §4)."""
    return np.array([str(key).startswith("desi:") for key in spectrum_key], dtype=bool)


def correlation_of(
    redshift: NDArray[np.float64], linear: NDArray[np.bool_], n_pixels: int
) -> Floats:
    """Correlation of neighbouring pixels (row, pixel - 1) of rows from either kind of grid."""
    grid = WavelengthGrid.rest_frame(n_pixels)
    found = np.empty((len(redshift), n_pixels - 1), np.float32)
    for native, mine in ((SDSS_NATIVE, ~linear), (DESI_NATIVE, linear)):
        if mine.all():
            return neighbour_correlation(redshift, native, grid)
        if mine.any():
            found[mine] = neighbour_correlation(redshift[mine], native, grid)
    return found


def _table(found: Encoded, covariance: Floats | None, fed: Normalised) -> pa.Table:
    n_latent = found.latents.shape[1]
    columns = {f"latent_{k}": found.latents[:, k] for k in range(n_latent)}
    columns |= {"chi2": found.chi2, "chi2_valid": found.chi2_valid, "factor": fed.factor}
    if covariance is not None:
        columns |= {
            f"cov_{i}_{j}": covariance[:, i, j]
            for i in range(n_latent)
            for j in range(i, n_latent)
        }
    return pa.table(columns | {"usable": fed.usable})
