"""Shared fixtures."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from spectra_scale.compute.place import Here, Place, open_place
from spectra_scale.config import ComputeSection

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real survey files, or a skip that says so."""
    if not SHARED.is_dir():
        pytest.skip(f"real survey files are not here ({SHARED.name} beside the project)")
    return SHARED


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
    with open_place(ComputeSection(engine=request.param, workers=2)) as place:
        yield place
