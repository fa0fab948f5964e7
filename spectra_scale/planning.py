"""What a job would do: the recipe of every stage, known before anything runs.

A fingerprint depends on settings and on parents' fingerprints alone, so the whole chain can be
computed from the job and the survey's files: an output of other settings is refused before any
worker starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spectra_scale.config import Job, ReleaseSection
from spectra_scale.errors import UsageError
from spectra_scale.jobfile import read_job
from spectra_scale.provenance import file_digest
from spectra_scale.spectrum.geometry import check_polygon
from spectra_scale.stages import (
    density,
    embed,
    encode,
    ingest,
    label,
    prepare,
    regions,
    report,
    stack,
    train,
)
from spectra_scale.store.arrays import Layout
from spectra_scale.store.artifact import MANIFEST, Recipe, begin_state
from spectra_scale.store.release import open_release
from spectra_scale.store.run import Run


@dataclass(frozen=True, slots=True)
class Plan:
    """Recipes of a job.

    Parameters
    ----------
    job
        The job.
    models
        Run whose models are used, or None.
    inventories
        Files of each release that is ingested here.
    releases
        Fingerprint of each release.
    recipes
        Recipe of each stage; ``ingest NAME`` for releases.
    """

    job: Job
    models: Run | None
    inventories: Mapping[str, ingest.Inventory]
    releases: Mapping[str, str]
    recipes: Mapping[str, Recipe] = field(default_factory=dict)

    def path(self, stage: str) -> Path:
        """Directory of a stage's artifact."""
        kind, _, name = stage.partition(" ")
        if kind == "ingest":
            section = next(s for s in self.job.release if s.name == name)
            return release_path(self.job, section)
        return Run(self.job.out).folder(stage)

    def states(self) -> dict[str, str]:
        """State of every stage: done, unfinished, to do, or other settings."""
        return {stage: begin_state(self.path(stage), r) for stage, r in self.recipes.items()}


def layout_of(job: Job) -> Layout:
    """Shards and chunks of a job."""
    return Layout(job.compute.shard_rows, job.compute.chunk_rows)


def release_path(job: Job, section: ReleaseSection) -> Path:
    """Where a release of a job is stored."""
    return section.path or job.out / "releases" / section.name


def make_plan(job: Job) -> Plan:
    """Compute every recipe of a job; the mock release, if there is one, must be written.

    Raises
    ------
    SpectraScaleError
        If an input is missing or a folder holds no spectra.
    """
    models = None if job.models.source is None else Run(job.models.source)
    if models is not None:
        _check_models(job, models)
    inventories, releases, recipes = {}, {}, {}
    for section in job.release:
        if section.source:
            inventories[section.name] = ingest.look(section)
            recipe = ingest.recipe(section, inventories[section.name], job.limit, layout_of(job))
            recipes[f"ingest {section.name}"] = recipe
            releases[section.name] = recipe.fingerprint
        else:
            found = open_release(release_path(job, section))
            if found.name != section.name:
                msg = (
                    f"release {section.name}: {found.path} holds release {found.name}. Rename it."
                )
                raise UsageError(msg)
            releases[section.name] = found.artifact.fingerprint
    recipes |= _recipes(job, models, releases)
    return Plan(job, models, inventories, releases, recipes)


#: Settings of the data that a model is only right for as it was trained.
MODEL_DATA = ("preset", "mask", "n_pixels", "min_coverage", "deredden")


def _check_models(job: Job, models: Run) -> None:
    """Refuse models for data that are prepared otherwise than those they were trained on.

    Raises
    ------
    UsageError
        Naming what differs.
    """
    theirs = read_job(models.path / "job.toml")
    pairs = [
        (f"prepare.{name}", getattr(theirs.prepare, name), getattr(job.prepare, name))
        for name in MODEL_DATA
        if name != "mask"
    ]
    pairs += [
        ("prepare.mask", theirs.prepare.mask_preset, job.prepare.mask_preset),
        ("embed.masked_flux", theirs.embed.masked_flux, job.embed.masked_flux),
        ("embed.n_neighbors", theirs.embed.n_neighbors, job.embed.n_neighbors),
        ("regions.map", theirs.regions.map, job.regions.map),
    ]
    different = [f"{name} was {old!r}, is {new!r}" for name, old, new in pairs if old != new]
    if different:
        msg = (
            f"models.from = {models.path}: its models were made from data prepared otherwise: "
            f"{'; '.join(different)}. Set these as there, or train a new model."
        )
        raise UsageError(msg)


def _recipes(job: Job, models: Run | None, releases: Mapping[str, str]) -> dict[str, Recipe]:
    def fitted(stage: str) -> str | None:
        return None if models is None else models.artifact(stage).fingerprint

    made: dict[str, Recipe] = {}

    def add(stage: str, recipe: Recipe) -> str:
        made[stage] = recipe
        return recipe.fingerprint

    labels = add("label", label.recipe(dict(releases), job.label))
    sample = add("prepare", prepare.recipe(dict(releases), labels, job.prepare, layout_of(job)))
    model = fitted("train") or add("train", train.recipe(sample, job.train))
    latents = add("encode", encode.recipe(sample, model))
    flow = add("density", density.recipe(latents, job.density, fitted("density")))
    maps = {}
    for what in ("latents", "flux"):
        stage = f"embed-{what}"
        maps[what] = add(stage, embed.recipe(what, latents, job.embed, fitted(stage)))
    regions_ = add(
        "regions", regions.recipe(maps[job.regions.map], flow, job.regions, fitted("regions"))
    )
    stacks = add("stack", stack.recipe(regions_, job.prepare, job.stack))
    parents = {"label": labels, "train": model, "density": flow, "stack": stacks, **maps}
    if job.report.composite is not None:
        parents["composite"] = file_digest(job.report.composite)
    if models is not None:
        parents["models"] = models.artifact("encode").fingerprint
    add("report", report.recipe(job, parents))
    return made


def check(job: Job) -> None:
    """Check what can be known of a job beforehand: its polygons, and that its paths are there.

    What its mock release will write need not be there yet.

    Raises
    ------
    UsageError
        Naming the setting, and the path that is missing.
    """
    if job.out.exists() and not job.out.is_dir():
        msg = f"out: found a file at {job.out}, expected a directory or nothing. Correct the path."
        raise UsageError(msg)
    for polygon in job.regions.polygons:
        check_polygon(polygon.vertices, f"regions.polygons {polygon.name}")
    made = None if job.mock is None else job.mock.path.resolve()
    for setting, path, expected in _inputs(job):
        if made is not None and path.resolve().is_relative_to(made):
            continue
        if not path.exists():
            msg = f"{setting}: found nothing at {path}, expected {expected}. Correct the path."
            raise UsageError(msg)
    _check_tables(job, made)


def _check_tables(job: Job, made: Path | None) -> None:
    """Look at the columns of catalogues and line tables, and read the composite: cheap, early."""
    from spectra_scale.stages.report.gather import composite
    from spectra_scale.surveys import catalogue, lines
    from spectra_scale.surveys.tables import open_source

    def ours(path: Path) -> bool:
        return made is None or not path.resolve().is_relative_to(made)

    for section in job.release:
        path = section.catalogue
        if path is not None and ours(path):
            source = open_source(path, catalogue.WANTED)
            if not catalogue.is_catalogue(source):
                msg = (
                    f"release {section.name}: catalogue: {path} is no catalogue of spectra: its "
                    f"columns are {source.some_names()}. Give a specObj or CAS table."
                )
                raise UsageError(msg)
    for path in filter(ours, job.label.lines):
        source = open_source(path, lines.WANTED)
        if not lines.is_line_catalogue(source):
            msg = (
                f"label.lines: {path} is no table of line measurements: its columns are "
                f"{source.some_names()}. Give a Portsmouth, CAS or MPA-JHU table."
            )
            raise UsageError(msg)
    composite(job.report.composite)


def _inputs(job: Job) -> Iterator[tuple[str, Path, str]]:
    """Every path a job reads: the setting, the path, and what it should be."""
    for section in job.release:
        name = f"release {section.name}"
        for source in section.source:
            yield f"{name}: source", source, "a folder with survey files"
        if section.catalogue is not None:
            yield f"{name}: catalogue", section.catalogue, "a specObj, CAS or Parquet table"
        if not section.source:
            path = release_path(job, section) / MANIFEST
            yield name, path, "a finished release; or set its source"
    for table in job.label.lines:
        yield "label.lines", table, "a line table"
    if job.report.composite is not None:
        yield "report.composite", job.report.composite, "a composite spectrum"
    if job.models.source is not None:
        path = job.models.source / "report" / MANIFEST
        yield "models.from", path, "the report of a finished run"


def stale(plan: Plan) -> list[Path]:
    """Artifacts of the run that were made from other inputs or settings than the job's."""
    return [plan.path(name) for name, state in plan.states().items() if state == "other settings"]
