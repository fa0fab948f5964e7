"""From a job to its artifacts: stages in order, where they run, and what is skipped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from spectra_scale.compute.place import Place, open_place
from spectra_scale.compute.progress import duration
from spectra_scale.config import Job
from spectra_scale.errors import SpectraScaleError
from spectra_scale.jobfile import resolved
from spectra_scale.planning import Plan, check, make_plan, pieces_of
from spectra_scale.provenance import write_bytes
from spectra_scale.stages import (
    density,
    embed,
    encode,
    ingest,
    label,
    mock,
    outliers,
    prepare,
    regions,
    report,
    stack,
    train,
)
from spectra_scale.store.artifact import Artifact, Recipe, refuse_stale
from spectra_scale.store.lock import locked
from spectra_scale.store.run import Run
from spectra_scale.store.sample import Sample
from spectra_scale.surveys.release import Release, open_release

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class Pipeline:
    """The stages of one job, in order.

    Parameters
    ----------
    plan
        Recipes of the job.
    place
        Where shard tasks run.
    artifacts
        What has been made so far, by stage.
    """

    plan: Plan
    place: Place
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    @property
    def job(self) -> Job:
        """The job."""
        return self.plan.job

    @property
    def sample(self) -> Sample:
        """The sample, once it is prepared."""
        return Sample(self.artifacts["prepare"])

    def all(self) -> Run:
        """Run every stage that is not done."""
        releases = [self._release(name) for name in self.plan.releases]
        self._prepare(releases)
        self._models()
        self._score()
        self._stack(releases)
        inputs = report.ReportInputs(
            Run(self.job.out), tuple(releases), self.artifacts, density.load_flow, self.plan.models
        )
        self._stage("report", lambda out, recipe: report.run(inputs, self.job, out, recipe))
        return Run(self.job.out)

    def until_density(self) -> Run:
        """Run the stages up to the density that are not done: what seeds are compared by."""
        self._prepare([self._release(name) for name in self.plan.releases])
        self._models()
        self._density()
        return Run(self.job.out)

    def _release(self, name: str) -> Release:
        stage = f"ingest {name}"
        if stage not in self.plan.recipes:
            return open_release(self.plan.path(stage))
        piece = self.plan.pieces[name]
        self._stage(stage, lambda *_: ingest.run(piece, self.job.ingest, self.place))
        return Release(self.artifacts.pop(stage), piece.inventory.roots)

    def _prepare(self, releases: list[Release]) -> None:
        job, place = self.job, self.place
        self._stage("label", lambda out, recipe: label.run(
            releases, job.label, place, out, recipe))  # fmt: skip
        inputs = prepare.PrepareInputs(releases, self.artifacts["label"])
        self._stage("prepare", lambda out, recipe: prepare.run(
            inputs, job.prepare, place, out, recipe))  # fmt: skip

    def _enough(self) -> None:
        """Refuse a sample too small for the maps before the auto-encoder is trained, not after."""
        n = int(self.sample.training_rows().sum())
        if n <= self.job.embed.n_neighbors:
            msg = (
                f"found {n} training spectra in the sample, expected more than n_neighbors = "
                f"{self.job.embed.n_neighbors} of the maps. Lower [embed] n_neighbors, loosen the "
                "cuts in [prepare], or add spectra."
            )
            raise SpectraScaleError(msg)

    def _models(self) -> None:
        job, place, sample = self.job, self.place, self.sample
        model = self._fitted("train")
        if model is None:
            self._enough()
            inputs = train.TrainInputs(sample, job.compute)
            self._stage("train", lambda out, recipe: train.run(
                inputs, job.train, place, out, recipe))  # fmt: skip
        else:
            self.artifacts["train"] = model
        given = encode.EncodeInputs(sample, self.artifacts["train"], self._fitted("encode"))
        self._stage("encode", lambda out, recipe: encode.run(
            given, job.encode, place, out, recipe))  # fmt: skip

    def _density(self) -> None:
        job, latents = self.job, self.artifacts["encode"]
        flow = density.DensityInputs(self.sample, latents, self._fitted("density"))
        self._stage("density", lambda out, recipe: density.run(flow, job.density, out, recipe))

    def _score(self) -> None:
        self._density()
        job, place, sample = self.job, self.place, self.sample
        latents = self.artifacts["encode"]
        for stage in ("embed-latents", "embed-flux"):
            inputs = embed.EmbedInputs(
                sample, self.artifacts["train"], latents, self._fitted(stage)
            )
            self._stage(stage, partial(_embed, inputs, job, place))
        judged = outliers.OutliersInputs(
            sample,
            self.artifacts["train"],
            latents,
            self.artifacts["density"],
            self.artifacts["embed-latents"],
            self._fitted("outliers"),
        )
        self._stage("outliers", lambda out, recipe: outliers.run(
            judged, job.outliers, place, out, recipe))  # fmt: skip

    def _stack(self, releases: list[Release]) -> None:
        job, place, sample = self.job, self.place, self.sample
        inputs = regions.RegionsInputs(
            sample,
            self.artifacts[f"embed-{job.regions.map}"],
            self.artifacts["density"],
            self._fitted("regions"),
        )
        self._stage("regions", lambda out, recipe: regions.run(inputs, job.regions, out, recipe))
        given = stack.StackInputs(releases, sample, self.artifacts["regions"])
        self._stage("stack", lambda out, recipe: stack.run(given, job.stack, place, out, recipe))

    def _fitted(self, stage: str) -> Artifact | None:
        return None if self.plan.models is None else self.plan.models.artifact(stage)

    def _stage(self, stage: str, make: Callable[[Path, Recipe], Artifact]) -> None:
        out, recipe = self.plan.path(stage), self.plan.recipes[stage]
        self.artifacts[stage] = timed(stage, lambda: make(out, recipe))


def _embed(
    inputs: embed.EmbedInputs, job: Job, place: Place, out: Path, recipe: Recipe
) -> Artifact:
    return embed.run(inputs, job.embed, place, out, recipe)


def timed(name: str, make: Callable[[], T]) -> T:
    """Make something and log how long it took."""
    log.info("%s: begins", name)
    start = time.monotonic()
    made = make()
    log.info("%s: done in %s", name, duration(time.monotonic() - start))
    return made


def run_job(job: Job, *, until: Literal["density", "report"] = "report") -> Run:
    """Run a job: every stage that is not done already.

    Parameters
    ----------
    job
        The job.
    until
        The last stage: of a job that only its density is wanted of, no map is made.

    Returns
    -------
    Run
        The run, finished.

    Raises
    ------
    SpectraScaleError
        If an input or setting is wrong, or an output of other settings is in the way: before
        any worker starts, where it can be known.
    """
    check(job)
    section = job.mock
    plan = _checked_plan(job) if section is None or mock.check(section) else None
    with locked(job.out, ".run.lock"), _logged(job), open_place(job.compute) as place:
        if plan is None:
            assert section is not None
            timed("mock", lambda: mock.run(section, place))
            plan = _checked_plan(job)
        # Not before the plan is checked: a refused job leaves the run's own description alone.
        write_bytes(job.out / "job.toml", resolved(job).encode())
        for scrap in job.out.glob(".job.toml.*.part"):
            # Of a run that was killed; this one holds the folder.
            scrap.unlink(missing_ok=True)
        line = Pipeline(plan, place)
        return line.all() if until == "report" else line.until_density()


def _checked_plan(job: Job) -> Plan:
    plan = make_plan(job)
    plan.refuse_stale()
    return plan


class _RunLog(logging.FileHandler):
    """The log of a run, which says nothing of a full disk: what fills it says so itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Pass over a line that cannot be written."""

    def close(self) -> None:
        """Close the file, whether or not its last lines can be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def _logged(job: Job) -> Iterator[None]:
    job.out.mkdir(parents=True, exist_ok=True)
    handler = _RunLog(job.out / "run.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("spectra_scale")
    level = root.level
    root.addHandler(handler)
    # From Python, where nobody has set a level, the log of a run is still written.
    root.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def ingest_releases(job: Job) -> list[Release]:
    """Ingest the releases of a job, and run no other stage.

    Parameters
    ----------
    job
        The job.
    """
    check(job)
    pieces = [piece for section in job.release for piece in pieces_of(job, section)]
    for piece in pieces:
        if not piece.restart:
            refuse_stale(piece.path, piece.recipe)
    with open_place(job.compute) as place:
        return [
            Release(ingest.run(piece, job.ingest, place), piece.inventory.roots)
            for piece in pieces
        ]
