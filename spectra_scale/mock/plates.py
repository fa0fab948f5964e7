"""One task of a mock release: its files, and its part of the tables."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.mock.linerows import cas_rows, portsmouth_rows
from spectra_scale.mock.observation import observe_plate
from spectra_scale.mock.parts import is_written, part_path, write_part
from spectra_scale.mock.plate_files import write_plate_files
from spectra_scale.mock.rows import catalogue_rows, spectrum_keys, target_names
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.spec_files import write_spec_files
from spectra_scale.mock.task import MockTask
from spectra_scale.mock.truth import truth_table

__all__ = ["MockCounts", "is_written", "part_path", "write_plate"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MockCounts:
    """What one plate wrote.

    Parameters
    ----------
    plate, mjd
        Its name.
    n_spectra, n_sky
        Science spectra and sky fibres.
    n_files, n_bytes
        FITS files and their size.
    n_galaxies, n_quasars, n_stars
        By the CLASS of the catalogue.
    n_line_rows
        Rows of the line table.
    """

    plate: int
    mjd: int
    n_spectra: int
    n_sky: int
    n_files: int
    n_bytes: int
    n_galaxies: int
    n_quasars: int
    n_stars: int
    n_line_rows: int


def write_plate(task: MockTask, folder: Path, settings: MockSettings) -> MockCounts:
    """Write all files of a plate, healpixel or field, and its part of the tables, in any case.

    The same task and settings give the same bytes wherever and whenever they run; every file is
    renamed into place when whole, the part file last.

    Parameters
    ----------
    task
        A task of ``plan(settings)``.
    folder
        Root of the release; made if it is not there.
    settings
        Those of the plan.

    Raises
    ------
    SpectraScaleError
        If the disk is full.
    """
    if task.layout == "healpix":
        from spectra_scale.mock.desi_files import write_healpix

        counts = _counts(task, *write_healpix(task, folder, settings))
    elif task.layout == "field":
        from spectra_scale.mock.sdssv_files import write_field

        counts = _counts(task, *write_field(task, folder, settings))
    else:
        counts = _write_sdss(task, folder, settings)
    log.info("mock plate=%s files=%d spectra=%d", task.name, counts.n_files, counts.n_spectra)
    return counts


def _write_sdss(task: MockTask, folder: Path, settings: MockSettings) -> MockCounts:
    seen = observe_plate(task, settings)
    rows = catalogue_rows(seen)
    write = write_spec_files if task.layout == "spec" else write_plate_files
    sizes = write(seen, rows, folder)
    lines = portsmouth_rows(seen)
    ids = rows["SPECOBJID"][seen.has_lines].astype(np.uint64)
    tables = {"catalogue": rows, "lines": lines, "cas": cas_rows(lines, ids)}
    names = {"spectrum_key": spectrum_keys(seen), "plate": task.plate, "fiber": seen.fiber}
    truth = truth_table(seen, names, seen.has_lines, target_names(seen))
    write_part(folder, task, settings, tables, pa.table(truth))
    return _counts(task, sizes, rows["CLASS"].astype(np.str_), len(tables["lines"]))


def _counts(
    task: MockTask, sizes: list[int], classes: NDArray[np.str_], n_line_rows: int
) -> MockCounts:
    return MockCounts(
        plate=task.plate,
        mjd=task.mjd,
        n_spectra=task.n_science,
        n_sky=task.n_sky,
        n_files=len(sizes),
        n_bytes=sum(sizes),
        n_galaxies=int((classes == "GALAXY").sum()),
        n_quasars=int((classes == "QSO").sum()),
        n_stars=int((classes == "STAR").sum()),
        n_line_rows=n_line_rows,
    )
