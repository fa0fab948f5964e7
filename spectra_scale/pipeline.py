"""From a job to its artifacts: which stages there are, what to skip, and where they run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from spectra_scale.compute.place import Place, open_place
from spectra_scale.compute.progress import duration
from spectra_scale.config import Job, ReleaseSection
from spectra_scale.errors import UsageError
from spectra_scale.jobfile import resolved
from spectra_scale.provenance import file_digest, write_bytes
from spectra_scale.stages import (
    density,
    embed,
    encode,
    ingest,
    label,
    mock,
    prepare,
    regions,
    report,
    stack,
    train,
)
from spectra_scale.store.arrays import Layout
from spectra_scale.store.artifact import Artifact, Recipe
from spectra_scale.store.release import Release
from spectra_scale.store.run import Run, open_run
from spectra_scale.store.sample import Sample

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class Pipeline:
    """The stages of one job, in order.

    Parameters
    ----------
    job
        The job.
    place
        Where shard tasks run.
    models
        Run whose models are used instead of training, or None.
    artifacts
        What has been made so far, by stage.
    """

    job: Job
    place: Place
    models: Run | None = None
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        """The run's directory."""
        return Run(self.job.out)

    def release_path(self, section: ReleaseSection) -> Path:
        """Where a release is stored."""
        return release_path(self.job, section)

    def all(self) -> Run:
        """Run every stage."""
        if self.job.mock is not None:
            self._timed("mock", lambda: mock.run(self._mock_section(), self.place))
        releases = [self._ingest(section) for section in self.job.release]
        self._label_and_prepare(releases)
        self._models()
        self._regions_and_stacks(releases)
        self._report(releases)
        return self.run

    def _mock_section(self) -> mock.MockSection:
        assert self.job.mock is not None
        return self.job.mock

    def _ingest(self, section: ReleaseSection) -> Release:
        out = self.release_path(section)
        if not section.source:
            from spectra_scale.store.release import open_release

            return open_release(out)
        layout = layout_of(self.job)
        inventory = ingest.look(section)
        recipe = ingest.recipe(section, inventory, self.job.limit, layout)
        artifact = self._timed(
            f"ingest {section.name}",
            lambda: ingest.run(inventory, section, self.place, out, recipe),
        )
        return Release(artifact)

    def _label_and_prepare(self, releases: list[Release]) -> None:
        prints = {release.name: release.artifact.fingerprint for release in releases}
        recipe = label.recipe(prints, self.job.label)
        self._stage("label", recipe, lambda out: label.run(
            releases, self.job.label, self.place, out, recipe))  # fmt: skip
        sample = prepare.recipe(
            prints, self._print("label"), self.job.prepare, layout_of(self.job)
        )
        inputs = prepare.PrepareInputs(releases, self.artifacts["label"])
        self._stage("prepare", sample, lambda out: prepare.run(
            inputs, self.job.prepare, self.place, out, sample))  # fmt: skip

    def _models(self) -> None:
        job, sample = self.job, Sample(self.artifacts["prepare"])
        if self.models is None:
            recipe = train.recipe(self._print("prepare"), job.train)
            inputs = train.TrainInputs(sample, job.compute)
            self._stage("train", recipe, lambda out: train.run(
                inputs, job.train, self.place, out, recipe))  # fmt: skip
        else:
            self.artifacts["train"] = self.models.artifact("train")
        encoding = encode.recipe(self._print("prepare"), self._print("train"))
        self._stage("encode", encoding, lambda out: encode.run(
            (sample, self.artifacts["train"]), self.place, out, encoding))  # fmt: skip
        self._density(sample)
        for what in ("latents", "flux"):
            self._embed(sample, what)

    def _density(self, sample: Sample) -> None:
        fitted = self._fitted("density")
        recipe = density.recipe(self._print("encode"), self.job.density, _print(fitted))
        inputs = density.DensityInputs(sample, self.artifacts["encode"], fitted)
        self._stage("density", recipe, lambda out: density.run(
            inputs, self.job.density, out, recipe))  # fmt: skip

    def _embed(self, sample: Sample, what: embed.What) -> None:
        stage = f"embed-{what}"
        fitted = self._fitted(stage)
        recipe = embed.recipe(what, self._print("encode"), self.job.embed, _print(fitted))
        inputs = embed.EmbedInputs(
            sample, self.artifacts["train"], self.artifacts["encode"], fitted
        )
        self._stage(stage, recipe, lambda out: embed.run(
            inputs, self.job.embed, self.place, out, recipe))  # fmt: skip

    def _regions_and_stacks(self, releases: list[Release]) -> None:
        sample = Sample(self.artifacts["prepare"])
        fitted = self._fitted("regions")
        which = f"embed-{self.job.regions.map}"
        recipe = regions.recipe(
            self._print(which), self._print("density"), self.job.regions, _print(fitted)
        )
        inputs = regions.RegionsInputs(
            sample, self.artifacts[which], self.artifacts["density"], fitted
        )
        self._stage("regions", recipe, lambda out: regions.run(
            inputs, self.job.regions, out, recipe))  # fmt: skip
        mask = self.job.prepare.mask
        stacking = stack.recipe(self._print("regions"), mask, self.job.stack)
        given = stack.StackInputs(releases, sample, self.artifacts["regions"], mask)
        self._stage("stack", stacking, lambda out: stack.run(
            given, self.job.stack, self.place, out, stacking))  # fmt: skip

    def _report(self, releases: list[Release]) -> None:
        prints = {stage: artifact.fingerprint for stage, artifact in self.artifacts.items()}
        composite = self.job.report.composite
        if composite is not None:
            prints["composite"] = file_digest(composite)
        if self.models is not None:
            prints["models"] = self.models.artifact("encode").fingerprint
        recipe = report.recipe(self.job, prints)
        inputs = report.ReportInputs(self.run, tuple(releases), self.artifacts, self.models)
        self._stage("report", recipe, lambda out: report.run(inputs, self.job, out, recipe))

    def _fitted(self, stage: str) -> Artifact | None:
        return None if self.models is None else self.models.artifact(stage)

    def _print(self, stage: str) -> str:
        return self.artifacts[stage].fingerprint

    def _stage(self, stage: str, recipe: Recipe, make: Callable[[Path], Artifact]) -> None:
        del recipe  # bound in `make`; named here so that a reader sees what is made from what
        self.artifacts[stage] = self._timed(stage, lambda: make(self.run.folder(stage)))

    def _timed(self, name: str, make: Callable[[], T]) -> T:
        import time

        log.info("stage %s: begins", name)
        start = time.monotonic()
        made = make()
        log.info("stage %s: done in %s", name, duration(time.monotonic() - start))
        return made


def _print(artifact: Artifact | None) -> str | None:
    return None if artifact is None else artifact.fingerprint


def layout_of(job: Job) -> Layout:
    """Shards and chunks of a job."""
    return Layout(job.compute.shard_rows, job.compute.chunk_rows)


def release_path(job: Job, section: ReleaseSection) -> Path:
    """Where a release of a job is stored."""
    return section.path or job.out / "releases" / section.name


def run_job(job: Job) -> Run:
    """Run a job: every stage that is not done already.

    Parameters
    ----------
    job
        The job.

    Returns
    -------
    Run
        The run, finished.

    Raises
    ------
    SpectraScaleError
        If an input or setting is wrong (before any worker starts, where it can be known), or an
        output of other settings is in the way.
    """
    check(job)
    models = None if job.models.source is None else open_run(job.models.source)
    job.out.mkdir(parents=True, exist_ok=True)
    with _logged(job.out / "run.log"), ExitStack() as stack_:
        write_bytes(job.out / "job.toml", resolved(job).encode())
        place = stack_.enter_context(open_place(job.compute))
        return Pipeline(job, place, models).all()


def check(job: Job) -> None:
    """Check what can be known before anything runs.

    Raises
    ------
    UsageError
        Naming the setting and the path that is missing.
    """
    made = None if job.mock is None else job.mock.path.resolve()
    for section in job.release:
        for source in section.source:
            if made is None or not source.resolve().is_relative_to(made):
                _require(source.is_dir(), f"release {section.name}: source", source, "a folder")
        inside = made is not None and _inside(section.catalogue, made)
        if section.catalogue is not None and not inside:
            _require(
                section.catalogue.is_file(),
                f"release {section.name}: catalogue", section.catalogue, "a table",
            )  # fmt: skip
        if not section.source:
            path = release_path(job, section)
            _require((path / "manifest.json").is_file(), f"release {section.name}", path,
                     "a finished release, or a source to ingest")  # fmt: skip
    for table in job.label.lines:
        if made is None or not _inside(table, made):
            _require(table.is_file(), "label.lines", table, "a line table")
    if job.report.composite is not None:
        _require(job.report.composite.is_file(), "report.composite", job.report.composite,
                 "a composite spectrum")  # fmt: skip
    if job.models.source is not None:
        _require(job.models.source.is_dir(), "models.from", job.models.source, "a finished run")


def _inside(path: Path | None, folder: Path) -> bool:
    return path is not None and path.resolve().is_relative_to(folder)


def _require(condition: bool, setting: str, path: Path, expected: str) -> None:  # noqa: FBT001
    if not condition:
        msg = f"{setting}: found nothing at {path}, expected {expected}. Correct the path."
        raise UsageError(msg)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("spectra_scale")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def states(job: Job) -> Mapping[str, str]:
    """State of every stage of a run on disk: done, unfinished or not begun."""
    run = Run(job.out)
    found = {}
    for section in job.release:
        found[f"ingest {section.name}"] = _state(release_path(job, section))
    for stage in ("label", "prepare", "train", "encode", "density", "embed-latents", "embed-flux",
                  "regions", "stack", "report"):  # fmt: skip
        found[stage] = _state(run.folder(stage))
    return found


def _state(path: Path) -> str:
    if (path / "manifest.json").is_file():
        return "done"
    return "unfinished" if (path / "started.json").is_file() else "not begun"
