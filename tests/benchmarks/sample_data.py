"""A mock sample for benchmarks: written, ingested, labelled and prepared, as a job would."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compute.place import Here
from spectra_scale.config import Job
from spectra_scale.models.normalise import Normalisation
from spectra_scale.pipeline import Pipeline
from spectra_scale.planning import make_plan
from spectra_scale.stages import mock
from spectra_scale.store.sample import Sample, open_sample

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Normalised:
    """Spectra as a model is fed them, and the rows of both splits."""

    flux: Floats
    ivar: Floats
    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def mock_sample(folder: Path, n: int) -> Sample:
    """The sample of a mock release of `n` spectra; made anew only if it is not there."""
    done = folder / "run" / "sample"
    if (done / "manifest.json").is_file():
        return open_sample(done)
    source = folder / "mock"
    job = Job.model_validate(
        {
            "name": "benchmark",
            "out": folder / "run",
            "mock": {"path": source, "n_spectra": n, "n_spec_files": 0},
            "release": [
                {"name": "mock", "source": [source], "catalogue": source / "specObj-mock.fits"}
            ],
            "label": {"lines": [source / "portsmouth_emlinekin_full-mock.fits"]},
        }
    )
    assert job.mock is not None
    mock.run(job.mock, Here())
    pipeline = Pipeline(make_plan(job), Here())
    pipeline._prepare([pipeline._release(name) for name in pipeline.plan.releases])
    return open_sample(done)


def normalised(sample: Sample) -> Normalised:
    """All of a sample in memory, each spectrum divided by its median."""
    found = Normalisation("median").apply(*sample.read(slice(0, sample.n_rows)))
    rows = [np.flatnonzero(split & found.usable)
            for split in (sample.training_rows(), sample.validation_rows())]  # fmt: skip
    return Normalised(found.flux, found.ivar, *rows)
