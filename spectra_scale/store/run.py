"""A run on disk: the artifacts of one job, and their per-object results joined."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from spectra_scale.errors import UsageError
from spectra_scale.store.artifact import MANIFEST, Artifact, open_artifact
from spectra_scale.store.objects import KEYS, read_objects
from spectra_scale.store.sample import Sample, open_sample

#: Directory of each stage in a run.
FOLDERS = {
    "label": "labels",
    "prepare": "sample",
    "train": "autoencoder",
    "encode": "latents",
    "density": "density",
    "embed-flux": "map-flux",
    "embed-latents": "map-latents",
    "outliers": "outliers",
    "regions": "regions",
    "stack": "stacks",
    "report": "report",
}
#: Stages with a per-object table.
OBJECT_STAGES = ("encode", "density", "embed-flux", "embed-latents", "outliers", "regions")
OBJECTS = "objects"


@dataclass(frozen=True, slots=True)
class Run:
    """A run's directory.

    Parameters
    ----------
    path
        The directory.
    """

    path: Path

    def folder(self, stage: str) -> Path:
        """Directory of a stage's artifact."""
        return self.path / FOLDERS[stage]

    def has(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return (self.folder(stage) / MANIFEST).is_file()

    def require(self, *stages: str) -> None:
        """Refuse a run that lacks a stage of its own.

        Raises
        ------
        UsageError
            Naming what is missing.
        """
        missing = [stage for stage in stages if not self.has(stage)]
        if missing:
            msg = (
                f"{self.path} has no finished {', '.join(missing)} of its own. Run the job to its "
                "end, or give the run that its job names in [models] from."
            )
            raise UsageError(msg)

    def artifact(self, stage: str) -> Artifact:
        """A finished stage.

        Raises
        ------
        DamagedArtifactError
            If it is not finished.
        """
        return open_artifact(self.folder(stage), stage)

    @property
    def sample(self) -> Sample:
        """The run's sample."""
        return open_sample(self.folder("prepare"))

    @property
    def index(self) -> pa.Table:
        """Index of the sample."""
        return self.sample.index

    def objects(self, stage: str, columns: list[str] | None = None) -> pa.Table:
        """A stage's per-object table, row-aligned with the sample."""
        return read_objects(self.folder(stage) / OBJECTS, self.index, columns)

    def table(self) -> pa.Table:
        """Everything known of every object: index and all per-object results, joined.

        The two maps' columns are ``flux_map_0`` … and ``latent_map_0`` ….
        """
        table = self.index
        for stage in OBJECT_STAGES:
            if self.has(stage):
                part = self.objects(stage).drop_columns(list(KEYS))
                for name in part.column_names:
                    table = table.append_column(name, part[name])
        return table


def open_run(path: Path | str) -> Run:
    """Open a run, finished or not.

    Raises
    ------
    DamagedArtifactError
        If `path` holds no sample.
    """
    run = Run(Path(path))
    open_sample(run.folder("prepare"))
    return run
