"""Shared fixtures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from spectra_scale.compute.place import Here, Place, open_place
from spectra_scale.config import ComputeSection, Job

if TYPE_CHECKING:
    from kill_harness import Nursery
    from kill_scenes import Scenes

    from spectra_scale.store.run import Run

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real survey files, or a skip that says so."""
    if not SHARED.is_dir():
        pytest.skip(f"real survey files are not here ({SHARED.name} beside the project)")
    return SHARED


@dataclass(frozen=True)
class TinyRun:
    """A job that went through every stage, the folder it is in, and its run."""

    folder: Path
    job: Job
    run: Run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A small run by the command line, unbroken: half a minute, once a session."""
    from pipeline_builders import COMMAND, job_of, tiny_job, write_job

    from spectra_scale.store.run import open_run

    folder = tmp_path_factory.mktemp("run")
    path = write_job(folder / "job.toml", tiny_job(folder))
    done = subprocess.run([*COMMAND, "run", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report: {folder / 'run' / 'report' / 'index.html'}\n"
    return TinyRun(folder, job_of(tiny_job(folder)), open_run(folder / "run"))


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A process that bears others which are to be killed."""
    from kill_harness import Nursery

    with Nursery() as made:
        yield made


@pytest.fixture(scope="session")
def scenes(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """What such processes do."""
    from kill_scenes import Scenes

    return Scenes(nursery, tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def here() -> Place:
    return Here()


@pytest.fixture(
    params=[
        "serial",
        "threads",
        "processes",
        pytest.param("distributed", marks=pytest.mark.cluster),
        pytest.param("ray", marks=pytest.mark.cluster),
    ],
    scope="session",
)
def executor(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Every place a stage can run: what passes on one passes on all."""
    settings = ComputeSection(engine=request.param, workers=2)
    # Dask's nanny leaves OMP_NUM_THREADS=1 behind, which later processes would inherit.
    with patch.dict(os.environ), open_place(settings) as place:
        yield place
