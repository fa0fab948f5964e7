"""The settings of a job: one TOML file, validated before any worker starts.

A job is data. Every table of the file is one of the frozen models of this package; an unknown name
or a wrong type is refused with the place in the file. Paths are relative to the folder the command
is run in. `docs/settings.md` is made from the descriptions in this package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from spectra_scale.config.analysis import (
    BoxRegion,
    DensitySection,
    EmbedSection,
    EncodeSection,
    OutliersSection,
    PolygonRegion,
    RegionsSection,
    ReportSection,
    StackSection,
)
from spectra_scale.config.base import Name, Positive, Settings
from spectra_scale.config.data import (
    IngestSection,
    LabelSection,
    MockSection,
    PrepareSection,
    ReleaseSection,
)
from spectra_scale.config.scaling import ScalingSection
from spectra_scale.config.train import TrainSection

__all__ = [
    "BoxRegion",
    "ComputeSection",
    "DensitySection",
    "EmbedSection",
    "EncodeSection",
    "IngestSection",
    "Job",
    "LabelSection",
    "MockSection",
    "ModelsSection",
    "OutliersSection",
    "PolygonRegion",
    "PrepareSection",
    "RegionsSection",
    "ReleaseSection",
    "ReportSection",
    "ScalingSection",
    "Settings",
    "StackSection",
    "TrainSection",
    "changed_settings",
]


class ComputeSection(Settings):
    """`[compute]`: where tasks run. Recorded, not part of a fingerprint, but for rows a shard."""

    engine: Literal["serial", "threads", "processes", "distributed", "ray"] = Field(
        "threads", description="Dask's scheduler; ray is Dask-on-Ray"
    )
    workers: Positive = Field(2, description="threads or processes on this machine")
    address: str | None = Field(None, description="of a running Dask scheduler (distributed)")
    ray_address: str | None = Field(
        None, description="of a running Ray cluster; none: the one of a Ray job, else a local one"
    )
    gpus_per_worker: Annotated[float, Field(ge=0)] = Field(
        0, description="GPUs of each training worker (Ray)"
    )
    memory_gib: Annotated[float, Field(gt=0)] = Field(
        4.0, description="spectra that a training worker may hold; a larger sample is streamed"
    )
    shard_rows: Positive = Field(4096, description="spectra in one shard: one task, one file")
    chunk_rows: Positive = Field(256, description="spectra in one compressed chunk")

    @model_validator(mode="after")
    def _aligned(self) -> ComputeSection:
        if self.shard_rows % self.chunk_rows:
            msg = (
                f"shard_rows must be a multiple of chunk_rows, found {self.shard_rows} and "
                f"{self.chunk_rows}"
            )
            raise ValueError(msg)
        return self


class ModelsSection(Settings):
    """`[models]`: take trained models from an earlier run instead of training."""

    source: Path | None = Field(None, alias="from", description="run whose models are used")


class Job(Settings):
    """A whole job file."""

    name: Name = Field(description="name of the job, shown in the report")
    out: Path = Field(description="the run's directory")
    limit: Positive | None = Field(None, description="ingest at most this many spectra a release")
    mock: MockSection | None = None
    release: tuple[ReleaseSection, ...] = ()
    ingest: IngestSection = IngestSection.model_construct()
    label: LabelSection = LabelSection()
    prepare: PrepareSection = PrepareSection()
    train: TrainSection = TrainSection()
    encode: EncodeSection = EncodeSection()
    density: DensitySection = DensitySection()
    embed: EmbedSection = EmbedSection()
    outliers: OutliersSection = OutliersSection()
    regions: RegionsSection = RegionsSection()
    stack: StackSection = StackSection()
    report: ReportSection = ReportSection()
    compute: ComputeSection = ComputeSection()
    models: ModelsSection = ModelsSection.model_construct(source=None)
    scaling: ScalingSection = ScalingSection()

    @model_validator(mode="after")
    def _has_release(self) -> Job:
        if not self.release:
            msg = "a job needs at least one [[release]] table with a name and a source folder"
            raise ValueError(msg)
        names = [release.name for release in self.release]
        if len(set(names)) != len(names):
            msg = f"release names must differ, found {names}"
            raise ValueError(msg)
        return self


def changed_settings(settings: BaseModel) -> dict[str, Any]:
    """Settings that differ from their defaults, as plain JSON values.

    Only these enter a fingerprint, so that a new setting with a default does not make old runs
    stale (design.md §2).
    """
    return settings.model_dump(mode="json", exclude_defaults=True, by_alias=True)
