"""Train: the auto-encoder of science.md §6, data-parallel on Ray or in one process without it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load, save

from spectra_scale.compute.place import Place
from spectra_scale.config import ComputeSection, TrainSection, changed_settings
from spectra_scale.provenance import write_bytes
from spectra_scale.stages.train.scan import RAY_STATE, UsableRows, usable_rows
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.sample import Sample
from spectra_scale.store.tables import write_table

if TYPE_CHECKING:
    from spectra_scale.models.normalise import Normalisation
    from spectra_scale.stages.train.worker import Training

VERSION = 3
KIND = "train"
#: Settings that say where and how safely it runs, not what comes out.
FREE = ("engine", "workers", "min_workers", "max_failures", "checkpoint_every",
        "checkpoint_batches")  # fmt: skip
#: Rows the linear baseline is fitted on and judged on at most.
BASELINE_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class TrainInputs:
    """Inputs of `run`.

    Parameters
    ----------
    sample
        The sample.
    compute
        `[compute]`: GPUs and memory of a worker.
    """

    sample: Sample
    compute: ComputeSection


def recipe(sample: str, config: TrainSection) -> Recipe:
    """What the auto-encoder is made from; the number of workers is not part of it."""
    settings = {k: v for k, v in changed_settings(config).items() if k not in FREE}
    return Recipe(KIND, VERSION, settings, {"sample": sample})


def run(
    inputs: TrainInputs, config: TrainSection, place: Place, out: Path, recipe: Recipe
) -> Artifact:
    """Train the auto-encoder.

    Parameters
    ----------
    inputs
        The sample, and what a worker may use.
    config
        `[train]`.
    place
        Where the pass over the sample runs that finds usable rows and normalisation.
    out
        Directory of the artifact: ``model.safetensors`` and ``model.json``, ``history.parquet``
        (both losses on both splits by epoch), ``baseline.safetensors``, ``model_card.json`` and
        ``MODEL_CARD.md``, ``checkpoint/``, and learning curves in ``tensorboard/``.
    recipe
        What it is made from.

    Raises
    ------
    SpectraScaleError
        If fewer training spectra are left than latent dimensions, or none to validate on.
    """
    done = begin(out, recipe)
    if done:
        return done
    sample = inputs.sample
    rows, normalisation = usable_rows(sample, config, place)
    rows.check(config.n_latent)
    rows.save(out)
    write_table(out / "unusable.parquet", rows.unusable)
    baseline = _baseline(sample, rows, normalisation, config, out)
    training = _training(inputs, config, normalisation, out)
    if config.engine == "ray":
        from spectra_scale.compute.ray import ray_session
        from spectra_scale.stages.train.cluster import train_on_ray

        cpus = max(config.workers, inputs.compute.workers)
        with ray_session(inputs.compute.ray_address, cpus):
            train_on_ray(training, config, inputs.compute)
    else:
        _train_here(training, inputs.compute.workers)
    # Also where it went on without Ray.
    shutil.rmtree(out / RAY_STATE, ignore_errors=True)
    from spectra_scale.stages.train.card import write_card

    card = write_card(sample, rows, training, config, recipe, place)
    history = _publish_history(out)
    last = {name: history[name][-1].as_py() for name in history.column_names}
    return finish(
        out,
        recipe,
        counts=rows.counts,
        metrics={"last epoch": last, "baseline": baseline,
                 "parameters": card["model"]["parameters"]},
        where={"engine": config.engine, "workers": config.workers},
    )  # fmt: skip


def _training(
    inputs: TrainInputs, config: TrainSection, normalisation: Normalisation, out: Path
) -> Training:
    from spectra_scale.models.autoencoder import Architecture
    from spectra_scale.models.training import TrainSettings
    from spectra_scale.stages.train.worker import Training

    sample = inputs.sample
    reference = sample.artifact.metrics["preset"] == "reference"
    # The reference preset has capped the S/N already (science.md §2, step 7).
    cap = None if config.snr_cap == "off" or reference else config.snr_cap
    return Training(
        arrays=sample.arrays.resolve(),
        shape=(sample.n_rows, sample.grid.n_pixels),
        chunk_rows=sample.chunk_rows,
        out=out.resolve(),
        architecture=Architecture(sample.grid.n_pixels, config.hidden, config.n_latent),
        normalisation=normalisation,
        settings=TrainSettings(
            epochs=config.epochs,
            batch_size=config.batch_size,
            validation_batch_size=config.validation_batch_size,
            learning_rate=config.learning_rate,
            gamma=config.gamma,
            schedule=config.schedule,
            warmup_epochs=config.warmup_epochs,
            loss=config.loss,
            kernel_width=config.kernel_width,
            snr_cap=cap,
            variance_scale=config.variance_scale,
            patience=config.patience,
            min_gain=config.min_gain,
            inpaint_epochs=config.inpaint_epochs,
            seed=config.seed,
            checkpoint_every=config.checkpoint_every,
            checkpoint_batches=config.checkpoint_batches,
        ),
        precision=config.precision,
        memory_gib=inputs.compute.memory_gib,
        buffer_gib=config.buffer_gib,
        initial=config.initial,
        fill=config.fill == "linear",
    )


def _train_here(training: Training, threads: int) -> None:
    import torch

    from spectra_scale.compute.progress import Progress
    from spectra_scale.models.training import EpochRecord, SingleProcess
    from spectra_scale.stages.train.worker import pick_device, work

    progress = Progress("train", training.settings.epochs, "epochs")

    def report(record: EpochRecord) -> None:
        progress.advance(
            record.epoch - progress.done,
            f"χ² train {record.train_chi2:.3f}, validation {record.validation_chi2:.3f}",
        )

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        work(training, SingleProcess(), pick_device(), report)
    finally:
        torch.set_num_threads(before)


def _publish_history(out: Path) -> pa.Table:
    from spectra_scale.stages.train.worker import HISTORY, read_history

    table = pa.Table.from_pylist(read_history(out / HISTORY))
    write_table(out / "history.parquet", table)
    return table


def _baseline(
    sample: Sample,
    rows: UsableRows,
    normalisation: Normalisation,
    config: TrainSection,
    out: Path,
) -> dict[str, float]:
    """χ² on the validation split of a weighted PCA with as many components (science.md §6)."""
    from spectra_scale.models.baseline import WeightedPCA, fit_weighted_pca
    from spectra_scale.models.inputs import ModelInputs
    from spectra_scale.stages.train.rows import Spectra, held_rows

    shape = (sample.n_rows, sample.grid.n_pixels)
    spectra = Spectra(
        sample.arrays, shape, sample.chunk_rows, ModelInputs(normalisation), rows.factor
    )
    rng = np.random.default_rng(config.seed)
    chosen = {
        name: np.sort(rng.permutation(getattr(rows, name))[:BASELINE_ROWS])
        for name in ("train", "validation")
    }

    def take(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        flux, ivar = held_rows(spectra, chosen[name]).take(chosen[name])
        return flux.numpy(), ivar.numpy()

    path = out / "baseline.safetensors"
    if path.is_file():
        # Resumed: what the training started from. Fitted again it may differ in its last bits,
        # where another number of threads adds in another order.
        stored = load(path.read_bytes())
        model = WeightedPCA(stored["mean"], stored["components"])
    else:
        flux, ivar = take("train")
        model = fit_weighted_pca(flux, ivar, config.n_latent, config.seed)
        arrays = {
            "mean": np.asarray(model.mean),
            "components": np.ascontiguousarray(model.components),
            "scale": model.coefficients(flux, ivar).std(axis=0),
        }
        write_bytes(path, save(arrays))
    found = model.chi2(*take("validation"))
    return {
        "components": config.n_latent,
        "fitted on": len(chosen["train"]),
        "validation_chi2_uncapped": float(np.mean(found.chi2)),
        "validation_chi2_valid_uncapped": float(np.mean(found.chi2_valid)),
    }
