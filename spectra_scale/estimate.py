"""Plan: what a job would read, make and leave on disk, before it runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spectra_scale.compute.progress import duration
from spectra_scale.config import Job
from spectra_scale.planning import make_plan
from spectra_scale.stages import mock
from spectra_scale.store.schema import RELEASE_ARRAYS, SAMPLE_ARRAYS
from spectra_scale.surveys.sdss import SDSS_N_PIXELS

#: Bytes a pixel after compression, measured on SDSS spectra (docs/performance.md).
NATIVE_BYTES = 9.0
REST_BYTES = 6.5
#: Bytes of survey files a mock spectrum.
MOCK_BYTES = 125e3
#: Science fibres of a plate, about.
PLATE_ROWS = 600
#: Spectra a second and worker, by stage, as a run of the demo on two busy cores gave them: for the
#: estimate only, so low rather than high.
RATES = {"mock": 250.0, "ingest": 1000.0, "prepare": 2500.0, "encode": 2500.0, "stack": 500.0}
TRAIN_RATE = 1600.0
#: Seconds that a stage takes at any size: Ray's start, UMAP's compilation, drawing the figures.
FIXED = {
    "train": 40.0, "density": 5.0, "embed-latents": 12.0, "embed-flux": 5.0, "stack": 3.0,
    "report": 13.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job would do.

    Parameters
    ----------
    states
        State of every stage.
    facts
        Files, rows, bytes and time, in words.
    problem
        What would stop it; empty if nothing is known to.
    """

    states: Mapping[str, str]
    facts: Mapping[str, str]
    problem: str = ""


def estimate(job: Job) -> Estimate:
    """Estimate a job.

    Parameters
    ----------
    job
        The job, its paths checked.
    """
    if job.mock is not None and not mock.check(job.mock):
        rows = job.mock.n_spectra
        states = {"mock": "to do", "all other stages": "known once the mock release is written"}
        facts = {"files": "to be written by mock", "spectra": f"{rows:,} (mock)"}
    else:
        plan = make_plan(job)
        states = dict(plan.states())
        n_spec = sum(len(i.files.spec_files) for i in plan.inventories.values())
        n_plates = sum(len(i.files.plates) for i in plan.inventories.values())
        others = sum(len(i.files.others) for i in plan.inventories.values())
        rows = n_spec + n_plates * PLATE_ROWS
        facts = {
            "files": f"{n_spec:,} spectrum files, {n_plates:,} plates, {others:,} others",
            "spectra": f"about {rows:,}",
        }
    if job.limit is not None:
        rows = min(rows, job.limit * len(job.release))
    size = _bytes(job, rows)
    free = _free(job.out)
    facts["disk needed"] = f"{size / 2**30:.2f} GiB at most, {free / 2**30:.1f} GiB free"
    facts["time"] = f"about {duration(_seconds(job, rows, states))} on this machine"
    problem = ""
    stale = [stage for stage, state in states.items() if state == "other settings"]
    if stale:
        problem = (
            f"{', '.join(stale)}: made from other settings. Give another --out, or delete them "
            "with `spectra-scale clean`."
        )
    elif size > free:
        problem = f"{job.out}: needs {size / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free."
    return Estimate(states, facts, problem)


def _bytes(job: Job, rows: int) -> float:
    native = rows * SDSS_N_PIXELS * NATIVE_BYTES * len(RELEASE_ARRAYS) / 3
    # The rest-frame rows are on disk twice while prepare packs them.
    rest = rows * job.prepare.n_pixels * (REST_BYTES + 8) * len(SAMPLE_ARRAYS) / 2
    mock_files = rows * MOCK_BYTES if job.mock is not None and not mock.check(job.mock) else 0.0
    return native + rest + mock_files + 50e6


def _seconds(job: Job, rows: int, states: Mapping[str, str]) -> float:
    todo = {stage.partition(" ")[0] for stage, state in states.items() if state != "done"}
    if "all other stages" in states:
        todo |= {*RATES, *FIXED}
    seconds = sum(rows / rate / job.compute.workers for s, rate in RATES.items() if s in todo)
    seconds += sum(value for stage, value in FIXED.items() if stage in todo)
    if "train" in todo and job.models.source is None:
        workers = job.train.workers if job.train.engine == "ray" else job.compute.workers
        seconds += rows * job.train.epochs / TRAIN_RATE / workers
    return seconds


def _free(path: Path) -> int:
    there = next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())
    return shutil.disk_usage(there).free
