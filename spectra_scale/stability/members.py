"""The members of a comparison: runs, their further seeds, and scores of the same objects."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.config import Job
from spectra_scale.errors import DamagedArtifactError, UsageError
from spectra_scale.jobfile import make_job, read_job, resolved
from spectra_scale.models.stability import simple_scores
from spectra_scale.pipeline import run_job
from spectra_scale.stages import density
from spectra_scale.store.artifact import Artifact
from spectra_scale.store.objects import column, columns_of, read_objects
from spectra_scale.store.run import OBJECTS, Run, open_run

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]

#: What names an observation and its reduction in every run.
KEYS = ("release", "spectrum_key", "reduction")
STAGES = ("prepare", "train", "encode", "density")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is compared.

    Parameters
    ----------
    runs
        Finished runs of one sample that differ in the seed of the auto-encoder.
    out
        Where results go; None: ``stability`` in the first run.
    flow_seeds
        Flows of each auto-encoder, the run's own among them.
    autoencoder_seeds
        Auto-encoders that are trained besides those of the runs.
    """

    runs: Sequence[Path]
    out: Path | None = None
    flow_seeds: int = 3
    autoencoder_seeds: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """A run with an auto-encoder of its own, and the job it was made by."""

    run: Run
    job: Job

    @property
    def seed(self) -> int:
        """Seed of the auto-encoder."""
        return self.job.train.seed

    def settings(self) -> dict[str, Any]:
        """What must be the same for seeds to be all that differs."""
        found: dict[str, Any] = {}
        for stage in ("train", "encode", "density"):
            settings = dict(self.run.artifact(stage).manifest["settings"])
            found |= {f"{stage}.{name}": v for name, v in settings.items() if name != "seed"}
        return found


def opened(path: Path) -> Model:
    """Open a run that is finished up to its density and has its own models.

    Raises
    ------
    UsageError, DamagedArtifactError
        If it is no such run.
    """
    if not (path / "job.toml").is_file():
        msg = (
            f"{path}: found no job.toml, expected the directory of a finished run. Check the path."
        )
        raise UsageError(msg)
    job = read_job(path / "job.toml")
    if job.models.source is not None:
        msg = (
            f"{path} uses the models of {job.models.source} and has none of its own: their "
            "stability is that of the run they are from. Give that one."
        )
        raise UsageError(msg)
    run = Run(path)
    missing = [stage for stage in STAGES if not run.has(stage)]
    if missing:
        msg = (
            f"{path}: found no finished {', '.join(missing)}, expected a run that is finished up "
            "to its density. Run its job to the end."
        )
        raise DamagedArtifactError(msg)
    return Model(open_run(path), job)


def check(models: Sequence[Model], wanted: Wanted) -> None:
    """Refuse what cannot be compared, before anything is fitted.

    Raises
    ------
    UsageError
        If there is nothing to compare, or runs differ in other things than seeds, or in none.
    """
    first = models[0]
    if len(models) + wanted.autoencoder_seeds == 1 and wanted.flow_seeds < 2:
        msg = (
            "found one auto-encoder and one flow: nothing to compare. Give more runs, "
            "--flow-seeds 2 or more, or --autoencoder-seeds 1 or more."
        )
        raise UsageError(msg)
    seen: dict[int, Model] = {}
    for model in models:
        twin = seen.setdefault(model.seed, model)
        if twin is not model:
            msg = (
                f"{twin.run.path} and {model.run.path} both have train.seed = {model.seed}, "
                "expected auto-encoders of different seeds. Leave one out, or train it again with "
                "--set train.seed=N."
            )
            raise UsageError(msg)
        mine, theirs = model.settings(), first.settings()
        other = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
        if other:
            msg = (
                f"{first.run.path} and {model.run.path} differ in {', '.join(other)}, expected "
                "runs that differ in train.seed and density.seed alone. Compare others."
            )
            raise UsageError(msg)
    common(models)


def further(models: Sequence[Model], count: int) -> list[int]:
    """Seeds that no run has, counting up from the first run's."""
    used, seed = {model.seed for model in models}, models[0].seed
    found: list[int] = []
    while len(found) < count:
        seed += 1
        if seed not in used:
            found.append(seed)
    return found


# Other auto-encoders -----------------------------------------------------------------------------


def train(model: Model, seed: int, out: Path) -> Run:
    """Run a job again with another seed up to the density, on the same sample.

    Releases are those of the run; labels and sample are links to the run's: they do not depend on
    the seed, and a sample can be large.
    """
    folder = out / f"seed-{seed}"
    theirs = model.run
    data = tomllib.loads(resolved(model.job))
    data.pop("mock", None)
    data["out"] = str(folder)
    data["train"]["seed"] = seed
    for section in data["release"]:
        section.pop("source", None)
        section.pop("catalogue", None)
        section.setdefault("path", str(theirs.path / "releases" / section["name"]))
    folder.mkdir(parents=True, exist_ok=True)
    for stage in ("label", "prepare"):
        link = Run(folder).folder(stage)
        if not link.exists():
            # Relative: a run can be moved with all that is in it.
            link.unlink(missing_ok=True)
            target = theirs.folder(stage).resolve()
            link.symlink_to(os.path.relpath(target, folder.resolve()), target_is_directory=True)
    return run_job(make_job(data, f"stability {theirs.path}"), until="density")


# The objects -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Objects that all runs score: their facts, and their rows in each run's sample."""

    index: pa.Table
    places: tuple[NDArray[np.int64], ...]
    validation: NDArray[np.bool_]
    training: NDArray[np.bool_]


def common(models: Sequence[Model]) -> Rows:
    """Join the samples of runs by release, spectrum_key and reduction.

    Raises
    ------
    UsageError
        If they have no usable object in common.
    """
    tables = []
    for model in models:
        index = model.run.index
        table = index.select(KEYS).append_column("place", pa.array(np.arange(index.num_rows)))
        usable = column(model.run.objects("encode", ["usable"]), "usable").astype(bool)
        current = usable & ~column(index, "superseded").astype(bool)
        tables.append(table.filter(pa.array(current)))
    joined = tables[0].rename_columns([*KEYS, "place_0"])
    for number, table in enumerate(tables[1:], start=1):
        named = table.rename_columns([*KEYS, f"place_{number}"])
        joined = joined.join(named, keys=list(KEYS), join_type="inner")
    joined = joined.sort_by("place_0")
    if joined.num_rows == 0:
        paths = ", ".join(str(model.run.path) for model in models)
        msg = (
            f"{paths}: found no object in common (release, spectrum_key and reduction), expected "
            "runs of one sample. Give runs of the same releases."
        )
        raise UsageError(msg)
    least = min(table.num_rows for table in tables)
    if joined.num_rows < least:
        log.warning("stability: %d objects are in all runs, the smallest has %d",
                    joined.num_rows, least)  # fmt: skip
    places = tuple(column(joined, f"place_{i}").astype(np.int64) for i in range(len(models)))
    # In every run: what one of them was trained on is optimistic there.
    splits = np.stack(
        [column(m.run.index, "split")[p] for m, p in zip(models, places, strict=True)]
    )
    return Rows(
        models[0].run.index.take(pa.array(places[0])), places,
        (splits == "validation").all(axis=0), (splits == "train").all(axis=0),
    )  # fmt: skip


# The scores --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of the common objects under one auto-encoder, and their latents."""

    flows: dict[int, Floats]
    simple: dict[str, Floats]
    latents: Floats


def scores(model: Model, place: NDArray[np.int64], flow_seeds: int, out: Path) -> Scores:
    """Score objects by the flows of a run, fitting those that are not there.

    Parameters
    ----------
    model
        The run.
    place
        Rows of its sample, shape (object,).
    flow_seeds
        How many flows, the run's own among them.
    out
        The others go to ``flows`` below it.
    """
    run = model.run
    first = model.job.density.seed
    flows = {}
    for number in range(flow_seeds):
        artifact = _flow(model, first + number, out) if number else run.artifact("density")
        table = read_objects(artifact.path / OBJECTS, run.index, ["log_prob"])
        flows[first + number] = column(table, "log_prob").astype(np.float64)[place]
    latents = columns_of(run.objects("encode"), "latent").astype(np.float64)[place]
    training = column(run.index, "split")[place] == "train"
    return Scores(flows, simple_scores(latents, training), latents)


def _flow(model: Model, seed: int, out: Path) -> Artifact:
    """The run's density with another seed."""
    config = model.job.density.model_copy(update={"seed": seed})
    latents = model.run.artifact("encode")
    recipe = density.recipe(latents.fingerprint, config, None)
    folder = out / "flows" / f"autoencoder-{model.seed}-flow-{seed}"
    log.info("stability: auto-encoder %d, flow %d", model.seed, seed)
    return density.run(density.DensityInputs(model.run.sample, latents), config, folder, recipe)
