"""Plan: what a job would read, make and leave on disk, before it runs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectra_scale.compute.progress import duration
from spectra_scale.config import Job
from spectra_scale.planning import Plan, check, make_plan
from spectra_scale.spectrum.grid import SDSS_NATIVE
from spectra_scale.stages import mock
from spectra_scale.stages.ingest import Piece
from spectra_scale.store.schema import SAMPLE_ARRAYS
from spectra_scale.surveys.formats import FORMATS
from spectra_scale.surveys.release import open_release
from spectra_scale.surveys.tables import open_source

#: Bytes a pixel after compression, measured on SDSS spectra (docs/performance.md).
NATIVE_BYTES = 9.0
REST_BYTES = 6.5
#: Bytes of survey files a mock spectrum.
MOCK_BYTES = 125e3
#: Spectra a second and worker, by stage, as a run of the demo on two busy cores gave them: for the
#: estimate only, so low rather than high.
RATES = {"mock": 250.0, "ingest": 2000.0, "prepare": 5000.0, "encode": 2500.0, "stack": 500.0}
TRAIN_RATE = 1600.0
#: Seconds that a stage takes at any size: Ray's start, UMAP's compilation, drawing the figures.
FIXED = {
    "train": 40.0, "density": 5.0, "embed-latents": 12.0, "embed-flux": 5.0, "outliers": 10.0,
    "stack": 3.0, "report": 13.0,
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


def estimate_ingest(job: Job) -> Estimate:
    """Estimate the ingest of a job's releases alone.

    Parameters
    ----------
    job
        The job, as `spectra-scale ingest` makes it.
    """
    check(job)
    plan = make_plan(job)
    sizes = _sizes(job, plan)
    states = {stage: state for stage, state in plan.states().items() if stage in plan.recipes
              and stage.startswith("ingest ")}  # fmt: skip
    todo = [size for size in sizes if size.to_do]
    needs = _by_file_system([_native_bytes(job, size) for size in todo])
    seconds = sum(size.rows for size in todo) / RATES["ingest"] / job.compute.workers
    facts = _in_words(sizes) | _disk(needs)
    facts["time"] = f"about {duration(seconds)} on this machine"
    return Estimate(states, facts, _problem(states, needs))


def estimate(job: Job) -> Estimate:
    """Estimate a job.

    Parameters
    ----------
    job
        The job, its paths checked.
    """
    if job.mock is not None and not mock.check(job.mock):
        rows = job.mock.n_spectra
        sizes = [_Size("mock", job.out / "releases", rows, SDSS_NATIVE.n_pixels, to_do=True)]
        states = {"mock": "to do", "all other stages": "known once the mock release is written"}
        facts = {"files": "to be written by mock", "spectra": f"{rows:,} (mock)"}
    else:
        plan = make_plan(job)
        states = dict(plan.states())
        sizes = _sizes(job, plan)
        rows = sum(size.rows for size in sizes)
        facts = _in_words(sizes)
    needs = _needs(job, rows, sizes)
    facts |= _disk(needs)
    facts["time"] = f"about {duration(_seconds(job, rows, states))} on this machine"
    return Estimate(states, facts, _problem(states, needs))


def _disk(needs: Mapping[Path, tuple[float, int]]) -> dict[str, str]:
    return {
        f"disk needed at {place}": f"{need / 2**30:.2f} GiB at most, {free / 2**30:.1f} GiB free"
        for place, (need, free) in needs.items()
    }


def _problem(states: Mapping[str, str], needs: Mapping[Path, tuple[float, int]]) -> str:
    """What would stop the job."""
    stale = [stage for stage, state in states.items() if state == "other settings"]
    if stale:
        return (
            f"{', '.join(stale)}: made from other settings. Give another --out, or delete them "
            "with `spectra-scale clean`."
        )
    for place, (need, free) in needs.items():
        if need > free:
            return f"{place}: needs {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free."
    return ""


@dataclass(frozen=True, slots=True)
class _Size:
    """A release or revision: where it is stored, and how large it is."""

    name: str
    path: Path
    rows: int
    n_pixels: int
    to_do: bool
    n_files: int = 0
    file_bytes: int = 0
    kinds: str = ""


def _sizes(job: Job, plan: Plan) -> list[_Size]:
    states = plan.states()
    sizes = []
    for name, path in plan.folders.items():
        piece = plan.pieces.get(name)
        if piece is None or states[f"ingest {name}"] == "done":
            found = open_release(path)
            sizes.append(_Size(name, path, found.n_rows, found.grid.n_pixels, to_do=False))
        else:
            sizes.append(_size_of(job, piece))
    return sizes


def _size_of(job: Job, piece: Piece) -> _Size:
    sizes = dict(zip(piece.listing["path"].to_pylist(), piece.listing["bytes"].to_pylist(),
                     strict=True))  # fmt: skip
    rows = sum(
        FORMATS[kind].expected_rows(sizes[file.locator]) for kind, file in piece.inventory.inputs()
    )
    if piece.inventory.catalogue is not None:
        rows = min(rows, open_source(piece.inventory.catalogue, ()).n_rows)
    if job.limit is not None:
        rows = min(rows, job.limit)
    n_pixels = piece.inventory.grid.n_pixels
    kinds = Counter(each.format for each in piece.inventory.files.spectra)
    total = sum(max(size, 0) for size in sizes.values())
    words = ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items()))
    return _Size(piece.name, piece.path, rows, n_pixels, to_do=True, n_files=len(sizes),
                 file_bytes=total, kinds=words)  # fmt: skip


def _in_words(sizes: Sequence[_Size]) -> dict[str, str]:
    return {
        f"release {size.name}": f"{size.n_files:,} files of {size.file_bytes / 2**30:.2f} GiB, "
        f"with spectra {size.kinds}, "
        f"about {size.rows:,} spectra to ingest" if size.to_do else f"{size.rows:,} spectra"
        for size in sizes
    }  # fmt: skip


def _needs(job: Job, rows: int, sizes: Sequence[_Size]) -> dict[Path, tuple[float, int]]:
    """Bytes needed and free, by the folder on each file system that is written to."""
    # The rest-frame rows are on disk twice while prepare packs them.
    rest = rows * job.prepare.n_pixels * (REST_BYTES + 8) * len(SAMPLE_ARRAYS) / 2
    mock_files = rows * MOCK_BYTES if job.mock is not None and not mock.check(job.mock) else 0.0
    wanted = [(job.out, rest + mock_files + 50e6)]
    wanted += [_native_bytes(job, size) for size in sizes if size.to_do]
    return _by_file_system(wanted)


def _native_bytes(job: Job, size: _Size) -> tuple[Path, float]:
    return size.path, size.rows * size.n_pixels * NATIVE_BYTES * job.ingest.copy_spectra


def _by_file_system(
    wanted: Sequence[tuple[Path, float]],
) -> dict[Path, tuple[float, int]]:
    places: dict[int, Path] = {}
    needs: dict[Path, tuple[float, int]] = {}
    for path, need in wanted:
        there = _there(path)
        place = places.setdefault(there.stat().st_dev, path)
        before = needs.get(place, (0.0, 0))[0]
        needs[place] = (before + need, shutil.disk_usage(there).free)
    return needs


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


def _there(path: Path) -> Path:
    """The nearest folder that exists."""
    return next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())
