"""Settings of `spectra-scale scaling`: what is measured, on how many workers, how large."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from spectra_scale.config.base import Positive, Settings

Stage = Literal["ingest", "train", "encode"]
Mode = Literal["weak", "strong"]


class ScalingSection(Settings):
    """`[scaling]`: weak and strong scaling of stages on local Ray; read by `scaling` alone.

    The job's own release and sample are what is read; where they are too small, they are repeated.
    """

    stages: tuple[Stage, ...] = Field(
        ("ingest", "train", "encode"), description="stages that are measured"
    )
    modes: tuple[Mode, ...] = Field(
        ("weak", "strong"),
        description="weak: the work grows with the workers; strong: it stays the same",
    )
    workers: tuple[Positive, ...] = Field(
        (1, 2), description="numbers of workers; the smallest is what the others are compared with"
    )
    rows: Positive = Field(4096, description="spectra a worker (weak), in all (strong)")
    batch: Positive = Field(
        1024,
        description="of training, a worker; in strong scaling the global batch is this many for "
        "each of the most workers, and stays so",
    )
    epochs: Annotated[int, Field(ge=2)] = Field(
        6, description="of training; the first is not counted: it warms up"
    )
    repeats: Positive = Field(1, description="of each measurement; the fastest is shown")
    shard_rows: Positive = Field(
        512, description="spectra in one task of ingest and encode; fewer tasks share out worse"
    )

    @field_validator("stages", "modes", "workers")
    @classmethod
    def _once(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if not values:
            msg = "expected at least one, found none"
            raise ValueError(msg)
        if len(set(values)) != len(values):
            msg = f"expected each once, found {', '.join(str(value) for value in values)}"
            raise ValueError(msg)
        return values

    @model_validator(mode="after")
    def _large_enough(self) -> ScalingSection:
        most = max(self.workers)
        # Weak scaling gives each worker `rows` of its own.
        share = most if "strong" in self.modes else 1
        if "train" in self.stages and self.rows < self.batch * share:
            msg = (
                f"need rows of at least one global batch, {self.batch * share} ({self.batch} a "
                f"worker), found rows = {self.rows}: raise rows or lower batch"
            )
            raise ValueError(msg)
        if {"ingest", "encode"} & set(self.stages) and self.rows < self.shard_rows * share:
            msg = (
                f"need rows of at least one task for each worker, {self.shard_rows * share} "
                f"(shard_rows = {self.shard_rows}), found rows = {self.rows}: raise rows or lower "
                "shard_rows"
            )
            raise ValueError(msg)
        return self
