"""Catalogue rows of survey files from their own tables, one function a format."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.identity import sdss_key, sdssv_key
from spectra_scale.store.objects import column
from spectra_scale.surveys import mmu, sdssv
from spectra_scale.surveys.canonical import CATALOGUE_SCHEMA
from spectra_scale.surveys.canonical_values import repeated
from spectra_scale.surveys.desi import coadd_name
from spectra_scale.surveys.desi_redshift import rows_of_coadd
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss_plate import PLATE_NAME, read_zbest
from spectra_scale.surveys.sdss_plate_file import open_plate
from spectra_scale.surveys.sdss_spec import FILE_NAME, read_spec

ROW_SCHEMA = pa.schema(
    [
        *CATALOGUE_SCHEMA,
        ("source_format", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
    ]
)
"""Catalogue columns, and where the spectrum of a row is."""

_RUN2D = re.compile(r"26|103|104|v\d+_\d+_\d+")
SKY_TARGETS = ("SKY", "STANDARD", "SPECTROPHOTO_STD")


class FileIn(NamedTuple):
    """A spectrum file to look for rows in.

    Parameters
    ----------
    locator
        Its name in catalogue and ledger.
    path, redshifts
        The file, and the file with its redshifts if the format has one.
    """

    locator: str
    path: Path
    redshifts: Path | None


class Lost(NamedTuple):
    """One line of the ledger: see `store.schema.LEDGER`."""

    path: str
    spectrum_key: str
    kind: str
    reason: str
    message: str


Rows = tuple[pa.Table, list[Lost]]


# SDSS: files of one spectrum ------------------------------------------------------------------


def spec_key(path: Path) -> str:
    """Spectrum key that the name of a spec file says; '' if it does not."""
    match = FILE_NAME.fullmatch(path.name)
    if match is not None:
        return str(sdss_key(*(int(part) for part in match.groups()))[0])
    match = sdssv.FILE_NAME.fullmatch(path.name)
    return "" if match is None else str(sdssv_key(*(int(part) for part in match.groups()))[0])


def sdss_reduction(path: Path) -> str:
    """RUN2D that a folder of a spec or plate file is named by; '' if none is."""
    names = (parent.name for parent in path.parents)
    return next((name for name in names if _RUN2D.fullmatch(name)), "")


def spec_rows(files: Sequence[FileIn]) -> Rows:
    """Rows of spec files: HDU 2 of each."""
    rows: list[dict[str, Any]] = []
    lost = []
    for file in files:
        try:
            row = read_spec(file.path).row
        except BadSpectrumError as error:
            key = spec_key(file.path)
            lost.append(Lost(file.locator, key, "file", str(error.reason), error.message))
            continue
        assert row is not None
        place = {"source_format": "spec", "source_file": file.locator, "source_row": 0}
        rows.append(row | place)
    return pa.Table.from_pylist(rows, schema=ROW_SCHEMA), lost


# SDSS: plates ---------------------------------------------------------------------------------


def plate_group(path: Path) -> str:
    """Plate and MJD that the name of a plate file says."""
    match = PLATE_NAME.fullmatch(path.name)
    return "" if match is None else f"sdss:{int(match[1])}-{int(match[2])}"


def plate_groups(table: pa.Table) -> pa.Array:
    """Plate and MJD of catalogue rows; null where they have no plate."""
    plate, mjd = table["plate"].combine_chunks(), table["mjd"].combine_chunks()
    names = pc.binary_join_element_wise(plate.cast(pa.string()), mjd.cast(pa.string()), "-")
    names = pc.binary_join_element_wise(pa.scalar("sdss:"), names, "")
    return pc.if_else(pc.greater_equal(plate, 0), names, pa.scalar(None, pa.string()))


def plate_rows(files: Sequence[FileIn]) -> Rows:
    """Rows of plate files: their spZbest."""
    return _each(files, _rows_of_plate)


_TWICE = "its fibre number is twice in spPlate or spZbest: which row is its cannot be told"


def _rows_of_plate(file: FileIn) -> Rows:
    if file.redshifts is None:
        message = "no spZbest file beside it or in a RUN1D folder: redshifts are not known"
        return _no_rows(), [Lost(file.locator, "", "file", Reason.FILE_WITHOUT_ROW, message)]
    table = read_zbest(file.redshifts, file.path)
    fibers = open_plate(file.path).fiber
    target = column(table, "targettype")
    sky = np.isin(target.astype(str), SKY_TARGETS)
    numbers = column(table, "fiber")
    there = np.isin(numbers, fibers)
    twice = np.isin(numbers, np.append(repeated(numbers), repeated(fibers)))
    lost = [
        Lost(file.locator, key, "fibre", reason, message)
        for rows, reason, message in (
            (sky, Reason.SKY_FIBRE, "a fibre that points at no science target"),
            (~sky & ~there, Reason.ROW_WITHOUT_FIBRE, "its fibre is not in the plate file"),
            (~sky & there & twice, Reason.DUPLICATE, _TWICE),
        )
        for key in column(table, "spectrum_key")[rows].tolist()
    ]
    lost += [
        Lost(file.locator, "", "fibre", Reason.NO_REDSHIFT, f"fibre {fiber} has no row in spZbest")
        for fiber in np.setdiff1d(fibers, numbers).tolist()
    ]
    rows = table.filter(pa.array(~sky & there & ~twice))
    return _located(rows, "spplate", file.locator, column(rows, "fiber")), lost


# DESI: coadds ---------------------------------------------------------------------------------


def coadd_group(path: Path) -> str:
    """Survey, program and healpixel that the name of a coadd says; '' of a tile.

    The rows of a tile's coadd are matched by key: a catalogue does not say which petal has them.
    """
    place = coadd_name(path)
    if place is None or place.healpix < 0:
        return ""
    return f"desi:{place.survey}-{place.program}@{place.healpix}"


def coadd_groups(table: pa.Table) -> pa.Array:
    """Survey, program and healpixel of catalogue rows; null where they have no healpixel."""
    healpix = table["healpix"].combine_chunks()
    names = (table[name].combine_chunks() for name in ("survey", "program"))
    group = pc.binary_join_element_wise(*names, "-")
    group = pc.binary_join_element_wise(group, healpix.cast(pa.string()), "@")
    group = pc.binary_join_element_wise(pa.scalar("desi:"), group, "")
    return pc.if_else(pc.greater_equal(healpix, 0), group, pa.scalar(None, pa.string()))


def coadd_rows(files: Sequence[FileIn]) -> Rows:
    """Rows of coadds: their redrock files."""
    return _each(files, _rows_of_coadd)


def _rows_of_coadd(file: FileIn) -> Rows:
    if file.redshifts is None:
        message = "no redrock or zbest file beside it: redshifts are not known"
        return _no_rows(), [Lost(file.locator, "", "file", Reason.FILE_WITHOUT_ROW, message)]
    rows, found = rows_of_coadd(file.path, file.redshifts)
    lost = [Lost(file.locator, key, "fibre", str(reason), text) for key, reason, text in found]
    return _located(rows, "coadd", file.locator, column(rows, "source_row")), lost


# MultimodalUniverse ---------------------------------------------------------------------------


def mmu_rows(files: Sequence[FileIn]) -> Rows:
    """Rows of MultimodalUniverse files."""
    return _each(files, _rows_of_mmu)


def _rows_of_mmu(file: FileIn) -> Rows:
    rows, found = mmu.read_rows(file.path)
    lost = [
        Lost(file.locator, each.spectrum_key, "fibre", str(each.reason), each.message)
        for each in found
    ]
    return _located(rows, "mmu", file.locator, column(rows, "source_row")), lost


# What several formats share -------------------------------------------------------------------


def _no_rows() -> pa.Table:
    return ROW_SCHEMA.empty_table()


def _located(rows: pa.Table, kind: str, locator: str, ids: npt.ArrayLike) -> pa.Table:
    """Catalogue rows with the place of their spectra: format, file and id in the file."""
    n_rows = rows.num_rows
    rows = rows.select(CATALOGUE_SCHEMA.names)
    rows = rows.append_column("source_format", pa.array([kind] * n_rows, pa.string()))
    rows = rows.append_column("source_file", pa.array([locator] * n_rows, pa.string()))
    rows = rows.append_column("source_row", pa.array(np.asarray(ids, np.int64)))
    return rows.cast(ROW_SCHEMA)


def _each(files: Sequence[FileIn], rows_of: Callable[[FileIn], Rows]) -> Rows:
    """Rows of several files; a file that cannot be used is one line of the ledger."""
    tables, lost = [_no_rows()], []
    for file in files:
        try:
            table, more = rows_of(file)
        except BadSpectrumError as error:
            # What is wrong may be wrong with its redshifts.
            other = Path(error.path)
            which = "" if other == file.path else f"{other.name}: "
            lost.append(Lost(file.locator, "", "file", str(error.reason), which + error.message))
            continue
        if not table.num_rows and not more:
            lost.append(Lost(file.locator, "", "file", Reason.NO_ROWS, "it has no spectra"))
        tables.append(table)
        lost += more
    return pa.concat_tables(tables).combine_chunks(), lost
