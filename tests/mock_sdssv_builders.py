"""SDSS-V releases of the mock, and their files read with astropy."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from astropy.io import fits

from spectra_scale.mock.plan import plan
from spectra_scale.mock.plates import write_plate
from spectra_scale.mock.release import begin, finish
from spectra_scale.mock.settings import MockSettings

RELEASES = ("dr18", "dr19", "dr20")
ORDINARY = {
    "n_spectra": 100, "n_spec_files": 0, "boss_fraction": 0.25, "sdssv_fraction": 0.5,
    "repeat_fraction": 0.0, "sdssv_repeat_fraction": 0.2, "fibers_legacy": 70, "fibers_boss": 70,
    "fibers_sdssv": 30, "seed": 5,
    "class_fractions": {"star-forming": 0.7, "broad-line": 0.2, "passive": 0.1},
}  # fmt: skip
SUMMARIES = {
    "dr18": "v6_0_4/spAll-v6_0_4.fits",
    "dr19": "v6_1_3/spAll-v6_1_3.fits",
    "dr20": "v6_2_1/summary/daily/spAll-v6_2_1.fits",
}


def write(folder: Path, settings: MockSettings) -> Path:
    begin(folder, settings)
    tasks = plan(settings)
    for task in tasks:
        write_plate(task, folder, settings)
    finish(folder, tasks, settings)
    return folder


def write_all(folder: Path) -> dict[str, Path]:
    """One release by each set of names."""
    return {
        name: write(folder / name, MockSettings(**ORDINARY, sdssv_release=name))
        for name in RELEASES
    }


def spectra(folder: Path) -> list[Path]:
    return sorted(folder.rglob("spec-*.fits"))


@lru_cache(maxsize=512)
def hdus_of(path: Path) -> list[tuple[str, object, fits.Header]]:
    """Name, data and header of every HDU; kept, since astropy takes 50 ms for so many cards."""
    with warnings.catch_warnings():
        # Tables of DR18 have TDIM cards that were meant for another: see below.
        warnings.filterwarnings("ignore", message="Invalid keyword for column")
        with fits.open(path, memmap=False) as hdus:
            return [(hdu.name, hdu.data, hdu.header) for hdu in hdus]


def table(path: Path, name: str):
    return next(data for found, data, _ in hdus_of(path) if found == name)


def texts(column) -> np.ndarray:
    return np.char.strip(np.asarray(column).astype(str))


def truth_of(folder: Path):
    return pq.read_table(folder / "truth.parquet").to_pandas()
