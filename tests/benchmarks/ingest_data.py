"""Files that the benchmark of ingest reads: made once, named many times."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from spectra_scale.mock.plates import write_plate
from spectra_scale.mock.release import CATALOGUE_FILE, finish
from spectra_scale.mock.settings import MockSettings, plan
from spectra_scale.surveys.catalogue import read_catalogue

#: Plates that are really written; further ones are links to them under other numbers.
PLATES = 8
DESI_ROWS, DESI_SAMPLES = 500, {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}


def write_plates(folder: Path, n_rows: int) -> tuple[Path, Path]:
    """Plate files of at least `n_rows` science spectra, and their catalogue of just so many.

    Returns
    -------
    source, catalogue
        Folder of plate files; Parquet catalogue with the names of specObj.
    """
    mock = folder / "mock"
    settings = MockSettings(n_spectra=PLATES * 560, n_spec_files=0, boss_fraction=0.0)
    mock.mkdir(parents=True)
    tasks = plan(settings)
    for task in tasks:
        write_plate(task, mock, settings)
    finish(mock, tasks, settings)
    table = read_catalogue(mock / CATALOGUE_FILE)
    files = {_numbers(path): path for path in sorted(mock.rglob("spPlate-*.fits"))}
    source = folder / "plates"
    source.mkdir()
    parts, total, number = [], 0, 1000
    while total < n_rows:
        for (plate, mjd), path in files.items():
            os.link(path, source / f"spPlate-{number:04d}-{mjd}.fits")
            rows = table.filter(pa.compute.equal(table["plate"], plate))
            new = pa.array(np.full(rows.num_rows, number, np.int32))
            parts.append(rows.set_column(rows.schema.get_field_index("plate"), "plate", new))
            total += rows.num_rows
            number += 1
    rows = pa.concat_tables(parts).slice(0, n_rows).select(list(_SPECOBJ))
    rows = rows.rename_columns([_SPECOBJ[name] for name in rows.column_names])
    # All of a redshift and class that prepare keeps: it is to shift every spectrum.
    z = np.random.default_rng(1).uniform(0.06, 0.35, n_rows)
    for name, values in (("Z", z), ("ZWARNING", np.zeros(n_rows, "i4"))):
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values))
    kinds = pa.array(["GALAXY"] * n_rows)
    rows = rows.set_column(rows.schema.get_field_index("CLASS"), "CLASS", kinds)
    catalogue = folder / "catalogue.parquet"
    pq.write_table(rows, catalogue)
    return source, catalogue


_SPECOBJ = {"fiber": "FIBERID", "ra": "PLUG_RA", "dec": "PLUG_DEC", "z": "Z", "mjd": "MJD",
            "plate": "PLATE", "zwarning": "ZWARNING", "class": "CLASS", "subclass": "SUBCLASS",
            "reduction": "RUN2D", "z_err": "Z_ERR"}  # fmt: skip


def _numbers(path: Path) -> tuple[int, int]:
    plate, mjd = path.name.removesuffix(".fits").split("-")[1:3]
    return int(plate), int(mjd)


def write_spplate(path: Path, n_fibers: int = 640, n_pixels: int = 4646) -> Path:
    """A plate file of noise, with all of its HDUs."""
    rng = np.random.default_rng(1)
    shape = (n_fibers, n_pixels)
    primary = fits.PrimaryHDU(rng.normal(10, 1, shape).astype("f4"))
    primary.header["COEFF0"], primary.header["COEFF1"] = 3.5513, 1e-4
    bits = np.where(rng.random(shape) < 0.02, 1 << 23, 0).astype("i4")
    images = [fits.ImageHDU(rng.uniform(0.5, 2, shape).astype("f4")), fits.ImageHDU(bits),
              fits.ImageHDU(bits), fits.ImageHDU(np.ones(shape, "f4"))]  # fmt: skip
    plugmap = fits.BinTableHDU.from_columns(
        [fits.Column("FIBERID", "J", array=np.arange(1, n_fibers + 1))]
    )
    sky = fits.ImageHDU(np.ones(shape, "f4"))
    fits.HDUList([primary, *images, plugmap, sky]).writeto(path)
    return path


def write_coadd(path: Path, n_rows: int = DESI_ROWS) -> Path:
    """A DESI coadd of noise with all of its HDUs, RESOLUTION included."""
    rng = np.random.default_rng(1)
    ids = 39627000000000000 + np.arange(n_rows)
    primary = fits.PrimaryHDU()
    primary.header["SURVEY"], primary.header["PROGRAM"] = "main", "dark"
    primary.header["HPXPIXEL"], primary.header["HPXNSIDE"] = 9144, 64
    hdus = [primary, fits.BinTableHDU.from_columns([fits.Column("TARGETID", "K", array=ids)],
                                                   name="FIBERMAP")]  # fmt: skip
    for arm, (start, n) in DESI_SAMPLES.items():
        mask = np.zeros((n_rows, n), "u4")
        mask[rng.random((n_rows, n)) < 0.01] = 1
        ivar = np.where(mask > 0, 0, rng.uniform(0.5, 2, (n_rows, n))).astype("f4")
        arrays = {"WAVELENGTH": start + 0.8 * np.arange(n), "IVAR": ivar, "MASK": mask,
                  "FLUX": rng.normal(5, 1, (n_rows, n)).astype("f4"),
                  "RESOLUTION": np.ones((n_rows, 11, n), "f4")}  # fmt: skip
        hdus += [fits.ImageHDU(values, name=f"{arm}_{name}") for name, values in arrays.items()]
    fits.HDUList(hdus).writeto(path)
    return path
