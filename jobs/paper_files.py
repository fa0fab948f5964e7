"""List the files that the paper's sample is made of, for a download tool.

Usage: python jobs/paper_files.py specObj-dr16.fits > files.txt
Then, for instance: rsync -av --files-from=files.txt SERVER sdss-dr16/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from spectra_scale.config import PrepareSection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.jobfile import read_job
from spectra_scale.store.objects import column
from spectra_scale.surveys.catalogue import read_catalogue

LEGACY = ("26", "103", "104")


def wanted(catalogue: pa.Table, cuts: PrepareSection) -> np.ndarray:
    """Rows that pass the cuts that need the catalogue alone."""
    z = column(catalogue, "z")
    return (
        (z >= cuts.z_min)
        & (z <= cuts.z_max)
        & (column(catalogue, "zwarning") == 0)
        & np.isin(column(catalogue, "class").astype(str), cuts.classes)
        & (column(catalogue, "specprimary") != 0)
        & np.isin(column(catalogue, "platequality").astype(str), ("good", ""))
    )


def paths(catalogue: pa.Table, *, plates: bool) -> Iterator[str]:
    """Paths below the survey's data root, each once, in order."""
    rows = catalogue.select(["plate", "mjd", "fiber", "reduction"]).to_pylist()
    names = set()
    for row in rows:
        run2d, plate, mjd = row["reduction"], row["plate"], row["mjd"]
        root = f"{'sdss' if run2d in LEGACY else 'eboss'}/spectro/redux/{run2d}"
        stem = f"{plate:04d}-{mjd}"
        if plates:
            names.add(f"{root}/{plate:04d}/spPlate-{stem}.fits")
            folder = f"{plate:04d}" if run2d in LEGACY else f"{plate:04d}/{run2d}"
            names.add(f"{root}/{folder}/spZbest-{stem}.fits")
        else:
            file = f"spec-{stem}-{row['fiber']:04d}.fits"
            names.add(f"{root}/spectra/lite/{plate:04d}/{file}")
    yield from sorted(names)


def main() -> None:
    """Read the catalogue, apply the paper job's cuts, print one path a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("catalogue", type=Path, help="specObj table (FITS, CSV or Parquet)")
    parser.add_argument("--job", type=Path, default=Path(__file__).with_name("paper.toml"))
    parser.add_argument("--plates", action="store_true", help="plate files instead of spec files")
    options = parser.parse_args()
    try:
        catalogue = read_catalogue(options.catalogue)
        cuts = read_job(options.job).prepare
    except SpectraScaleError as error:
        sys.exit(f"error: {error}")
    chosen = catalogue.filter(pa.array(wanted(catalogue, cuts)))
    for path in paths(chosen, plates=options.plates):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
