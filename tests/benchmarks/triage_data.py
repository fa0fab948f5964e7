"""A mock run whose faults are known, with redshifts made wrong on purpose.

The mock's own wrong redshifts nearly all carry a warning or leave the selection, so that a sample
of 15,000 holds one. Here the catalogue's Z of some galaxies is replaced before anything is read: a
line taken for another where that stays in the selection, else any redshift of the selection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from spectra_scale.compute.place import Here, open_place
from spectra_scale.config import Job
from spectra_scale.pipeline import Pipeline
from spectra_scale.planning import make_plan
from spectra_scale.stages import mock
from spectra_scale.store.run import Run, open_run

#: Share of the galaxies whose redshift is made wrong.
PLANTED = 0.01
#: Lines that pipelines take for one another (Å, vacuum): Hα, [O III], [O II], Hβ.
PAIRS = ((6564.6, 5008.2), (6564.6, 3728.5), (5008.2, 3728.5), (6564.6, 4862.7), (5008.2, 4862.7))
Z_RANGE = (0.05, 0.36)


def make_run(folder: Path, n: int, workers: int = 1, **changes: Any) -> Run:
    """A run of a mock release of `n` spectra with planted wrong redshifts, up to its outliers."""
    out, source = folder / "run", folder / "mock"
    if (out / "outliers" / "manifest.json").is_file():
        return open_run(out)
    settings: dict[str, Any] = {
        "name": "triage",
        "out": out,
        "release": [
            {"name": "mock", "source": [source], "catalogue": folder / "specObj-wrong.fits"}
        ],
        "label": {"lines": [source / "portsmouth_emlinekin_full-mock.fits"]},
        # Half-lost spectra are dropped at the default of 0.4: here they are to be found.
        "prepare": {"max_masked_fraction": 0.7},
        "train": {"preset": "fast", "fill": "linear", "engine": "local"},
        "density": {"conditional": False},
        "embed": {"n_epochs": 100},
        "compute": {"workers": workers},
    }
    for name, value in changes.items():
        settings[name] = settings.get(name, {}) | value
    written = Job.model_validate(
        settings | {"mock": {"path": source, "n_spectra": n, "n_spec_files": 0}}
    ).mock
    assert written is not None
    mock.run(written, Here())
    plant_redshifts(source / "specObj-mock.fits", folder / "specObj-wrong.fits")
    job = Job.model_validate(settings)
    with open_place(job.compute) as place:
        line = Pipeline(make_plan(job), place)
        line._prepare([line._release(name) for name in line.plan.releases])
        line._models()
        line._score()
    return open_run(out)


def plant_redshifts(catalogue: Path, out: Path, seed: int = 11) -> int:
    """Write a catalogue again with some redshifts made wrong; gives their number."""
    table = Table.read(catalogue)
    z = np.asarray(table["Z"], dtype=np.float64)
    good = (np.asarray(table["ZWARNING"]) == 0) & (z > Z_RANGE[0]) & (z < Z_RANGE[1])
    good &= np.char.strip(np.asarray(table["CLASS"]).astype(str)) == "GALAXY"
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(good & (rng.random(len(z)) < PLANTED))
    for row in rows:
        table["Z"][row] = _wrong(float(z[row]), rng)
    table.write(out, overwrite=True)
    return len(rows)


def _wrong(z: float, rng: np.random.Generator) -> float:
    ratios = np.array([a / b for a, b in PAIRS])
    candidates = (1 + z) * np.concatenate([ratios, 1 / ratios]) - 1
    inside = candidates[(candidates > Z_RANGE[0]) & (candidates < Z_RANGE[1])]
    if len(inside) and rng.random() < 0.5:
        return float(rng.choice(inside))
    draws = rng.uniform(*Z_RANGE, 100)
    return float(draws[np.abs(draws - z) > 0.01][0])
