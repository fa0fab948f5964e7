"""What the report shows, read once from the artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file

from spectra_scale.errors import UsageError
from spectra_scale.provenance import read_json
from spectra_scale.spectrum.classify import LineMeasurements
from spectra_scale.store.artifact import Artifact
from spectra_scale.store.objects import column, columns_of, read_objects
from spectra_scale.store.run import OBJECTS, Run
from spectra_scale.store.sample import Sample
from spectra_scale.store.tables import read_table
from spectra_scale.surveys.release import Release

if TYPE_CHECKING:
    from spectra_scale.models.density import Density

#: Spectra shown in figures 12 and 13.
N_SHOWN = 16
SPLITS = ("train", "validation")


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Inputs of the report.

    Parameters
    ----------
    run, releases
        The run's directory and its releases.
    artifacts
        Its finished stages, by name.
    load_flow
        Reads the flow, and the log p it was judged on, from the density's directory: that stage's
        own reader, given to this one, as stages do not know each other.
    models
        Run whose models were used, or None: they were trained here.
    """

    run: Run
    releases: tuple[Release, ...]
    artifacts: dict[str, Artifact]
    load_flow: Callable[[Path], tuple[Density, NDArray[np.float64]]]
    models: Run | None = None

    @property
    def sample(self) -> Sample:
        """The sample."""
        return Sample(self.artifacts["prepare"])


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Per-object columns, row-aligned with the sample's index.

    Parameters
    ----------
    index
        The index.
    label, z, training
        Class, redshift, and whether in the training split.
    usable
        Whether the spectrum could be normalised.
    latents, chi2_valid, log_prob, p_value
        Results; NaN where a spectrum is not usable.
    flux_map, latent_map
        Map coordinates, shape (row, 2 or 3).
    """

    index: pa.Table
    label: NDArray[np.int8]
    z: NDArray[np.float64]
    training: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    latents: NDArray[np.float32]
    chi2_valid: NDArray[np.float32]
    log_prob: NDArray[np.float64]
    p_value: NDArray[np.float64]
    flux_map: NDArray[np.float32]
    latent_map: NDArray[np.float32]


def gather(inputs: ReportInputs) -> Objects:
    """Read the per-object results of a run."""
    index = inputs.sample.index

    def table(stage: str) -> pa.Table:
        return read_objects(inputs.artifacts[stage].path / OBJECTS, index)

    encoded, scored = table("encode"), table("density")
    usable = column(encoded, "usable").astype(bool)
    latents = columns_of(encoded, "latent").astype(np.float32)
    latents[~usable] = np.nan
    chi2 = column(encoded, "chi2_valid").astype(np.float32)
    return Objects(
        index=index,
        label=column(index, "label"),
        z=column(index, "z"),
        training=column(index, "split") == "train",
        usable=usable,
        latents=latents,
        chi2_valid=np.where(usable, chi2, np.float32(np.nan)),
        log_prob=column(scored, "log_prob"),
        p_value=column(scored, "p_value"),
        flux_map=columns_of(table("embed-flux"), "flux_map").astype(np.float32),
        latent_map=columns_of(table("embed-latents"), "latent_map").astype(np.float32),
    )


def some(n: int, most: int) -> NDArray[np.int64]:
    """Rows to draw: all, or a seeded choice of the most that a figure can show."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, most, replace=False))


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Some spectra with their reconstructions, normalised; flux is NaN where masked."""

    rows: NDArray[np.int64]
    flux: NDArray[np.float32]
    reconstruction: NDArray[np.float32]


def show(inputs: ReportInputs, rows: NDArray[np.int64]) -> Shown:
    """Read spectra and reconstruct them."""
    from spectra_scale.models.autoencoder import encode
    from spectra_scale.models.inputs import load_encoder

    sample = inputs.sample
    model, inputs_ = load_encoder(inputs.artifacts["train"].path)
    pairs = [sample.read(slice(int(row), int(row) + 1)) for row in rows]
    empty = np.empty((0, sample.grid.n_pixels), np.float32)
    flux = np.concatenate([empty, *(pair[0] for pair in pairs)])
    ivar = np.concatenate([empty, *(pair[1] for pair in pairs)])
    found = inputs_.apply(flux, ivar)
    passes = int(inputs.artifacts["encode"].metrics["inpaint"])
    encoded = encode(
        model, found.flux, found.ivar, want_reconstruction=True, inpaint_passes=passes
    )
    assert encoded.reconstruction is not None
    shown = np.where(found.ivar > 0, found.flux, np.float32(np.nan))
    return Shown(rows, shown, encoded.reconstruction)


def least_probable(objects: Objects) -> NDArray[np.int64]:
    """The least probable spectra (paper figure 12)."""
    scored = np.flatnonzero(np.isfinite(objects.log_prob))
    return scored[np.argsort(objects.log_prob[scored], kind="stable")[:N_SHOWN]]


def common(objects: Objects) -> NDArray[np.int64]:
    """A seeded choice of the more probable half (paper figure 13)."""
    scored = np.flatnonzero(np.isfinite(objects.log_prob))
    if not len(scored):
        return scored
    half = scored[objects.log_prob[scored] >= np.median(objects.log_prob[scored])]
    return np.sort(np.random.default_rng(13).permutation(half)[:N_SHOWN])


def history(inputs: ReportInputs) -> dict[str, NDArray[Any]]:
    """Both losses on both splits, by epoch."""
    table = read_table(inputs.artifacts["train"].path / "history.parquet")
    return {name: column(table, name) for name in table.column_names}


def layer_sizes(inputs: ReportInputs) -> list[int]:
    """Nodes of each layer of the auto-encoder, input to output."""
    model = read_json(inputs.artifacts["train"].path / "model.json")["architecture"]
    half = [model["n_pixels"], *model["hidden"]]
    return [*half, model["n_latent"], *half[::-1]]


def residuals(path: Path, split: str | None) -> dict[str, NDArray[np.float64]]:
    """Sums of residuals by label and pixel, of one split or of both."""
    sums = load_file(path / "residuals.safetensors")
    if split is None:
        return {name: value.sum(axis=0) for name, value in sums.items()}
    return {name: value[SPLITS.index(split)] for name, value in sums.items()}


def lines(inputs: ReportInputs) -> pa.Table:
    """Line measurements of the sample's rows."""
    return read_objects(inputs.artifacts["label"].path / OBJECTS, inputs.sample.index)


def measurements(lines: pa.Table) -> LineMeasurements:
    """Line measurements of a table of labels."""
    names = [name for name in LineMeasurements.__slots__ if name != "measured"]
    return LineMeasurements(
        measured=column(lines, "measured").astype(bool),
        **{name: column(lines, name).astype(np.float64) for name in names},
    )


def stacks(inputs: ReportInputs) -> tuple[pa.Table, pa.Table]:
    """Stacks and indices of all regions."""
    path = inputs.artifacts["stack"].path
    return read_table(path / "stacks.parquet"), read_table(path / "indices.parquet")


def composite(path: Path | None) -> tuple[NDArray[np.float64], NDArray[np.float64], str] | None:
    """A composite spectrum from a text table: wavelength (Å, vacuum) and F_λ, any scale."""
    if path is None:
        return None
    try:
        table = np.loadtxt(path, comments="#", usecols=(0, 1), ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        msg = (
            f"report.composite: {path}: found {str(error)[:120]}, expected a text table of "
            "wavelength (Å, vacuum) and flux. Give another file."
        )
        raise UsageError(msg) from error
    return table[:, 0], table[:, 1], path.stem


def regions_of(inputs: ReportInputs) -> Sequence[dict[str, Any]]:
    """Rules of the regions, in order."""
    return list(read_json(inputs.artifacts["regions"].path / "regions.json"))


def trained_on(inputs: ReportInputs) -> dict[str, NDArray[Any]] | None:
    """Scores of the validation split of the run whose models were used; None if trained here."""
    if inputs.models is None:
        return None
    index = inputs.models.index
    encoded = read_objects(inputs.models.folder("encode") / OBJECTS, index, ["chi2_valid"])
    scored = read_objects(inputs.models.folder("density") / OBJECTS, index, ["log_prob"])
    held_out = column(index, "split") == "validation"
    return {
        "chi2_valid": column(encoded, "chi2_valid")[held_out],
        "log_prob": column(scored, "log_prob")[held_out],
        "label": column(index, "label")[held_out],
    }
