"""The formats of survey files: how each is told, read, and turned into catalogue rows.

A new format is one module that reads it and one entry here. `docs/formats.md` is made from this
table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.grid import DESI_NATIVE, SDSS_NATIVE
from spectra_scale.spectrum.identity import sdss_key
from spectra_scale.store.objects import column
from spectra_scale.surveys.block import SpectraBlock
from spectra_scale.surveys.canonical import CATALOGUE_SCHEMA
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss_plate import PLATE_NAME, read_plate_block, read_zbest
from spectra_scale.surveys.sdss_spec import FILE_NAME, read_spec, read_spec_block

ROW_SCHEMA = pa.schema(
    [
        *CATALOGUE_SCHEMA,
        ("source_format", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
    ]
)
"""Catalogue columns, and where the spectrum of a row is."""

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


Ids = npt.NDArray[np.int64]
Rows = tuple[pa.Table, list[Lost]]


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of spectrum file.

    Parameters
    ----------
    name
        What stands in `source_format`.
    title, files
        What it is and what its files are called, for people.
    survey_of
        Whose release a file belongs to: `sdss` or `desi`.
    read
        Spectra of a file for the given ids, in their order.
    rows
        Catalogue rows (`ROW_SCHEMA`) of some files from their own tables, and what is no row.
    place
        Spectrum key, or group of keys, that a file's name says it holds; empty if it does not.
    group
        Group that each row of a catalogue would be in, text, null where in none; None for
        formats whose files do not hold groups.
    id_column
        Catalogue column that is the id within a file of a group; empty for other formats.
    batch
        Files of which one task reads the rows.
    row_bytes
        Bytes of a file for each spectrum, about: to guess their number before it is opened. 0
        for a file of one spectrum.
    """

    name: str
    title: str
    files: str
    survey_of: Callable[[Path], str]
    read: Callable[[Path, Ids], SpectraBlock]
    rows: Callable[[Sequence[FileIn]], Rows]
    place: Callable[[Path], str]
    group: Callable[[pa.Table], pa.Array] | None
    id_column: str
    batch: int
    row_bytes: int

    @property
    def single(self) -> bool:
        """Whether a file holds one spectrum."""
        return self.row_bytes == 0

    def expected_rows(self, file_bytes: int) -> int:
        """Spectra of a file of this size, about."""
        return 1 if self.single else max(file_bytes // self.row_bytes, 1)


SURVEY_GRIDS = {"sdss": SDSS_NATIVE, "desi": DESI_NATIVE}
"""Native grid of a release, by whose it is."""


def _sdss(path: Path) -> str:
    del path
    return "sdss"


# SDSS: files of one spectrum ------------------------------------------------------------------


def _spec_key(path: Path) -> str:
    match = FILE_NAME.fullmatch(path.name)
    return "" if match is None else str(sdss_key(*(int(part) for part in match.groups()))[0])


def _spec_rows(files: Sequence[FileIn]) -> Rows:
    rows: list[dict[str, Any]] = []
    lost = []
    for file in files:
        try:
            row = read_spec(file.path).row
        except BadSpectrumError as error:
            key = _spec_key(file.path)
            lost.append(Lost(file.locator, key, "file", str(error.reason), error.message))
            continue
        assert row is not None
        place = {"source_format": "spec", "source_file": file.locator, "source_row": 0}
        rows.append(row | place)
    return pa.Table.from_pylist(rows, schema=ROW_SCHEMA), lost


# SDSS: plates ---------------------------------------------------------------------------------


def _plate_group(path: Path) -> str:
    match = PLATE_NAME.fullmatch(path.name)
    return "" if match is None else f"sdss:{int(match[1])}-{int(match[2])}"


def _plate_groups(table: pa.Table) -> pa.Array:
    plate, mjd = table["plate"].combine_chunks(), table["mjd"].combine_chunks()
    names = pc.binary_join_element_wise(plate.cast(pa.string()), mjd.cast(pa.string()), "-")
    names = pc.binary_join_element_wise(pa.scalar("sdss:"), names, "")
    return pc.if_else(pc.greater_equal(plate, 0), names, pa.scalar(None, pa.string()))


def _plate_rows(files: Sequence[FileIn]) -> Rows:
    return _each(files, _rows_of_plate)


def _rows_of_plate(file: FileIn) -> Rows:
    if file.redshifts is None:
        message = "no spZbest file beside it or in a RUN1D folder: redshifts are not known"
        return _no_rows(), [Lost(file.locator, "", "file", Reason.FILE_WITHOUT_ROW, message)]
    table = read_zbest(file.redshifts, file.path)
    fibers = _fibers_of(file.path)
    target = column(table, "targettype")
    sky = np.isin(target.astype(str), SKY_TARGETS)
    there = np.isin(column(table, "fiber"), fibers)
    lost = [
        Lost(file.locator, key, "fibre", reason, message)
        for rows, reason, message in (
            (sky, Reason.SKY_FIBRE, "a fibre that points at no science target"),
            (~sky & ~there, Reason.ROW_WITHOUT_FIBRE, "its fibre is not in the plate file"),
        )
        for key in column(table, "spectrum_key")[rows].tolist()
    ]
    rows = table.filter(pa.array(~sky & there))
    return located(rows, "spplate", file.locator, column(rows, "fiber")), lost


def _fibers_of(path: Path) -> npt.NDArray[np.int32]:
    from spectra_scale.surveys.sdss_plate import read_plate

    return read_plate(path).fiber


# What several formats share -------------------------------------------------------------------


def _no_rows() -> pa.Table:
    return ROW_SCHEMA.empty_table()


def located(rows: pa.Table, kind: str, locator: str, ids: npt.ArrayLike) -> pa.Table:
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
            lost.append(Lost(file.locator, "", "file", str(error.reason), error.message))
            continue
        tables.append(table)
        lost += more
    return pa.concat_tables(tables).combine_chunks(), lost


_ALL = (
    Format(
        name="spec",
        title="SDSS spectrum, full or lite: legacy (RUN2D 26, 103, 104), BOSS and eBOSS (v5), "
        "SDSS-V (v6, DR18 to DR20)",
        files="spec-PLATE-MJD-FIBER.fits, spec-FIELD-MJD-CATALOGID.fits",
        survey_of=_sdss,
        read=read_spec_block,
        rows=_spec_rows,
        place=_spec_key,
        group=None,
        id_column="",
        batch=256,
        row_bytes=0,
    ),
    Format(
        name="spplate",
        title="SDSS plate: legacy, BOSS and eBOSS, with spZbest beside it or in a RUN1D folder",
        files="spPlate-PLATE-MJD.fits, spZbest-PLATE-MJD.fits",
        survey_of=_sdss,
        read=read_plate_block,
        rows=_plate_rows,
        place=_plate_group,
        group=_plate_groups,
        id_column="fiber",
        batch=1,
        row_bytes=105_000,
    ),
)
FORMATS = {each.name: each for each in _ALL}
"""Known formats of spectrum files, by name."""
