"""What a job would do: the recipe of every stage, known before anything runs.

A fingerprint depends on settings and on parents' fingerprints alone, so the whole chain can be
computed from the job and the survey's files: an output of other settings is refused before any
worker starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    outliers,
    prepare,
    regions,
    report,
    stack,
    train,
)
from spectra_scale.store.arrays import Layout
from spectra_scale.store.artifact import (
    MANIFEST,
    Recipe,
    begin_state,
    recorded_recipe,
    refuse_stale,
)
from spectra_scale.store.run import Run
from spectra_scale.surveys.release import Release, open_release


@dataclass(frozen=True, slots=True)
class Plan:
    """Recipes of a job.

    Parameters
    ----------
    job
        The job.
    models
        Run whose models are used, or None.
    pieces
        Releases and revisions that are ingested here, by name.
    releases
        Fingerprint of each release and revision, oldest first.
    folders
        Directory of each.
    recipes
        Recipe of each stage; ``ingest NAME`` for releases.
    """

    job: Job
    models: Run | None
    pieces: Mapping[str, ingest.Piece]
    releases: Mapping[str, str]
    folders: Mapping[str, Path]
    recipes: Mapping[str, Recipe] = field(default_factory=dict)

    def path(self, stage: str) -> Path:
        """Directory of a stage's artifact."""
        kind, _, name = stage.partition(" ")
        if kind == "ingest":
            return self.folders[name]
        return Run(self.job.out).folder(stage)

    def states(self) -> dict[str, str]:
        """State of every stage: done, unfinished, to do, or other settings."""
        states = {stage: begin_state(self.path(stage), r) for stage, r in self.recipes.items()}
        begun_anew = {f"ingest {piece.name}": "to do" for piece in self.pieces.values()
                      if piece.restart}  # fmt: skip
        return states | begun_anew

    def refuse_stale(self) -> None:
        """Refuse outputs that were made from something else; see `store.artifact.refuse_stale`."""
        for stage, recipe in self.recipes.items():
            piece = self.pieces.get(stage.removeprefix("ingest "))
            if piece is None or not piece.restart:
                refuse_stale(self.path(stage), recipe)


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
    pieces: dict[str, ingest.Piece] = {}
    releases: dict[str, str] = {}
    folders: dict[str, Path] = {}
    for section in job.release:
        mine = pieces_of(job, section) if section.source else []
        pieces |= {piece.name: piece for piece in mine}
        found = [(piece.name, piece.path, piece.recipe.fingerprint) for piece in mine] or [
            (each.name, each.path, each.artifact.fingerprint) for each in _finished(job, section)
        ]
        for name, folder, fingerprint in found:
            if name in releases:
                msg = f"release {section.name}: {name} is the name of two releases. Rename one."
                raise UsageError(msg)
            releases[name], folders[name] = fingerprint, folder
    recipes = {f"ingest {name}": piece.recipe for name, piece in pieces.items()}
    recipes |= _recipes(job, models, releases)
    return Plan(job, models, pieces, releases, folders, recipes)


def pieces_of(job: Job, section: ReleaseSection) -> list[ingest.Piece]:
    """Look at a release's source folders: what of it is there, and what came since."""
    settings = ingest.Settings(job.ingest, job.limit, layout_of(job))
    return ingest.pieces_of(section, release_path(job, section), ingest.look(section), settings)


def _finished(job: Job, section: ReleaseSection) -> list[Release]:
    """A release that is there, with its revisions."""
    found = [open_release(path) for path in ingest.revisions_of(release_path(job, section))]
    before = None
    for number, release in enumerate(found):
        expected = section.name if number == 0 else f"{section.name}.{number}"
        if release.name != expected:
            msg = (
                f"release {section.name}: {release.path} holds release {release.name}, expected "
                f"{expected}. Correct the name in the job, or move what is not of this release."
            )
            raise UsageError(msg)
        recorded = release.artifact.manifest["inputs"].get("earlier revision")
        if number and recorded != before:
            msg = (
                f"{release.path} is a revision of another {section.name} than the one at "
                f"{found[0].path}, which was made anew. Delete it, and ingest again."
            )
            raise UsageError(msg)
        before = release.artifact.fingerprint
    return found


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
        ("encode.inpaint", theirs.encode.inpaint, job.encode.inpaint),
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
    latents = add("encode", encode.recipe(sample, model, job.encode, fitted("encode")))
    flow = add("density", density.recipe(latents, job.density, fitted("density")))
    maps = {}
    for what in ("latents", "flux"):
        stage = f"embed-{what}"
        maps[what] = add(stage, embed.recipe(what, latents, job.embed, fitted(stage)))
    judged = add(
        "outliers", outliers.recipe(flow, maps["latents"], job.outliers, fitted("outliers"))
    )
    regions_ = add(
        "regions", regions.recipe(maps[job.regions.map], flow, job.regions, fitted("regions"))
    )
    stacks = add("stack", stack.recipe(regions_, job.prepare, job.stack))
    parents = {"label": labels, "train": model, "density": flow, "stack": stacks, **maps}
    parents["outliers"] = judged
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
                    f"columns are {source.some_names()}. Give a specObj, spAll, CAS or zall-pix "
                    "table."
                )
                raise UsageError(msg)
    for path in filter(ours, job.label.lines):
        source = open_source(path, lines.WANTED)
        if not lines.is_line_catalogue(source):
            msg = (
                f"label.lines: {path} is no table of line measurements: its columns are "
                f"{source.some_names()}. Give a Portsmouth, CAS, MPA-JHU or FastSpecFit table."
            )
            raise UsageError(msg)
    composite(job.report.composite)


def _inputs(job: Job) -> Iterator[tuple[str, Path, str]]:
    """Every path a job reads: the setting, the path, and what it should be."""
    for section in job.release:
        name = f"release {section.name}"
        _check_sources(name, section.source, release_path(job, section))
        for source in section.source:
            yield f"{name}: source", source, "a folder with survey files"
        if section.catalogue is not None:
            yield (
                f"{name}: catalogue",
                section.catalogue,
                "a specObj, spAll, CAS, zall-pix or Parquet table",
            )
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


def _check_sources(name: str, sources: Sequence[Path], out: Path) -> None:
    """Folders, each once, and not the one that the release is written to."""
    for source in sources:
        if source.is_file():
            msg = f"{name}: source: {source} is a file, expected a folder. Give its folder."
            raise UsageError(msg)
        inside = out.resolve().is_relative_to(source.resolve())
        if inside or source.resolve().is_relative_to(out.resolve()):
            msg = (
                f"{name}: {out} and its source {source} lie one within the other: the next ingest "
                "would take the release's own files for new ones. Give another --out."
            )
            raise UsageError(msg)
    if len({source.resolve() for source in sources}) != len(sources):
        msg = f"{name}: source names a folder twice; expected each once. Correct the job."
        raise UsageError(msg)


def stale(plan: Plan) -> list[Path]:
    """Artifacts of the run that were made from other inputs or settings than the job's."""
    found = [name for name, state in plan.states().items() if state == "other settings"]
    return [plan.path(name) for name in found if _is_of(plan, name)]


def _is_of(plan: Plan, stage: str) -> bool:
    """Whether what is there is of this job: beside a release may lie another of such a name."""
    kind, _, name = stage.partition(" ")
    recorded = recorded_recipe(plan.path(stage))
    return kind != "ingest" or recorded is None or recorded["settings"].get("name") == name
