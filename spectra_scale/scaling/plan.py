"""What is measured: the job of a scaling test, and its measurements in order."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spectra_scale.config import Job, changed_settings
from spectra_scale.errors import UsageError
from spectra_scale.jobfile import make_job, read_job, set_value
from spectra_scale.provenance import digest

#: What is measured without a job file; the same as jobs/scaling.toml.
DEFAULT_JOB = """
name = "scaling"
out = "runs/scaling"

[mock]
path = "runs/scaling/mock"
n_spectra = 1120
n_spec_files = 0

[[release]]
name = "mock"
source = ["runs/scaling/mock"]
catalogue = "runs/scaling/mock/specObj-mock.fits"

[prepare]
min_snr = 5.0

[train]
learning_rate = 3e-4
initial = "linear"
fill = "linear"
"""
#: Rows of one task of the runs that warm workers up.
WARM_ROWS = 64


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one stage on so many workers.

    Parameters
    ----------
    stage, mode, workers, repeat
        Which it is; `repeat` counts from 1.
    rows
        Spectra that the stage reads in all: for training, those of the training split.
    batch
        Global batch of training; 0 elsewhere.
    settings
        Short checksum of all else that the numbers depend on.
    """

    stage: str
    mode: str
    workers: int
    repeat: int
    rows: int
    batch: int
    settings: str

    @property
    def label(self) -> str:
        """In words."""
        plural = "worker" if self.workers == 1 else "workers"
        return f"{self.stage}, {self.mode}, {self.workers} {plural}, {self.rows:,} rows"

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON can hold them."""
        return asdict(self)


def scaling_job(
    path: Path | None, changes: Mapping[str, Any], settings: Sequence[str], out: Path | None
) -> Job:
    """The job of a scaling test.

    Parameters
    ----------
    path
        Job file; None for `DEFAULT_JOB`, whose files then all lie in `out`.
    changes
        Settings of `[scaling]` from the command line; None and an empty text are left as they are
        and made an empty list.
    settings
        Further changes, as in `set_value`.
    out
        Replaces `out` of the job.

    Raises
    ------
    UsageError
        If a setting is unknown, of a wrong type, or too small for what is asked.
    """
    given = [f"scaling.{k}={json.dumps(_items(v))}" for k, v in changes.items() if v is not None]
    given += list(settings)
    if path is not None:
        return _checked(read_job(path, given, out=out))
    text = DEFAULT_JOB if out is None else DEFAULT_JOB.replace("runs/scaling", "@OUT@")
    data = tomllib.loads(text)
    if out is not None:
        data = _moved(data, str(out))
    for setting in given:
        set_value(data, setting)
    return _checked(make_job(data, "scaling"))


def command_line(
    path: Path | None, changes: Mapping[str, Any], settings: Sequence[str], out: Path | None
) -> str:
    """The command that gives `scaling_job` these arguments, to stand above its tables.

    Examples
    --------
    >>> command_line(None, {"modes": "weak", "rows": 512, "batch": None}, ["limit=9"], Path("x"))
    'spectra-scale scaling --out x --mode weak --rows 512 --set limit=9'
    """
    words = ["spectra-scale", "scaling"] + ([] if path is None else [str(path)])
    words += [] if out is None else ["--out", str(out)]
    for name, value in changes.items():
        if value is not None:
            words += ["--mode" if name == "modes" else f"--{name}", str(value)]
    return shlex.join(words + [word for setting in settings for word in ("--set", setting)])


def _items(value: Any) -> Any:
    """A comma-separated list as the command line has it; numbers are left to the settings."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _moved(value: Any, out: str) -> Any:
    if isinstance(value, dict):
        return {name: _moved(inner, out) for name, inner in value.items()}
    if isinstance(value, list):
        return [_moved(inner, out) for inner in value]
    return value.replace("@OUT@", out) if isinstance(value, str) else value


def _checked(job: Job) -> Job:
    rows, chunk = job.scaling.shard_rows, job.compute.chunk_rows
    if rows % chunk:
        msg = (
            f"scaling.shard_rows must be a multiple of compute.chunk_rows, found {rows} and "
            f"{chunk}. Correct one of them."
        )
        raise UsageError(msg)
    return job


def measurements(job: Job) -> list[Measurement]:
    """All measurements of a job, in order: repeats last, so that one disturbance meets few."""
    section = job.scaling
    return [
        _measurement(job, stage, mode, workers, repeat)
        for repeat in range(1, section.repeats + 1)
        for stage in section.stages
        for mode in section.modes
        for workers in sorted(section.workers)
    ]


def _measurement(job: Job, stage: str, mode: str, workers: int, repeat: int) -> Measurement:
    section = job.scaling
    weak = mode == "weak"
    # In strong scaling no share of a batch is smaller than `batch`, on the most workers either.
    batch = section.batch * (workers if weak else max(section.workers))
    return Measurement(
        stage,
        mode,
        workers,
        repeat,
        section.rows * (workers if weak else 1),
        batch if stage == "train" else 0,
        settings_digest(job, stage),
    )


def settings_digest(job: Job, stage: str) -> str:
    """Checksum of settings that the numbers of a stage depend on, but for sizes and workers."""
    mock = None if job.mock is None else changed_settings(job.mock) | {"path": ""}
    found: dict[str, Any] = {"mock": mock, "prepare": changed_settings(job.prepare),
                             "shard_rows": job.scaling.shard_rows,
                             "chunk_rows": job.compute.chunk_rows}  # fmt: skip
    if stage == "ingest":
        found["ingest"] = changed_settings(job.ingest)
    else:
        found["train"] = changed_settings(job.train) | {"workers": 0, "epochs": 0}
        found["train"] |= {"batch_size": 0, "engine": ""}
    if stage == "encode":
        found["encode"] = changed_settings(job.encode)
    if stage == "train":
        found |= {"epochs": job.scaling.epochs, "memory_gib": job.compute.memory_gib,
                  "gpus": job.compute.gpus_per_worker}  # fmt: skip
    return digest(found)[:8]
