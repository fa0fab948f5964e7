"""The formats of survey files: how each is told, read, and turned into catalogue rows.

A new format is one module that reads it and one entry here. `docs/formats.md` is made from this
table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spectra_scale.spectrum.grid import DESI_NATIVE, SDSS_NATIVE
from spectra_scale.surveys import format_rows
from spectra_scale.surveys.block import SpectraBlock
from spectra_scale.surveys.desi import production_of_path
from spectra_scale.surveys.desi_coadd import read_coadd
from spectra_scale.surveys.format_rows import ROW_SCHEMA, FileIn, Lost, Rows
from spectra_scale.surveys.mmu import read_mmu, survey_of_file
from spectra_scale.surveys.sdss_plate import read_plate_block
from spectra_scale.surveys.sdss_spec import read_spec_block

__all__ = ["FORMATS", "ROW_SCHEMA", "SURVEY_GRIDS", "FileIn", "Format", "Lost"]

Ids = npt.NDArray[np.int64]
SURVEY_GRIDS = {"sdss": SDSS_NATIVE, "desi": DESI_NATIVE}
"""Native grid of a release, by whose it is."""


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
    reduction
        RUN2D or production that the folders of a file say; empty if they do not.
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
    reduction: Callable[[Path], str]
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


def _sdss(path: Path) -> str:
    del path
    return "sdss"


def _desi(path: Path) -> str:
    del path
    return "desi"


def _unnamed(path: Path) -> str:
    del path
    return ""


_ALL = (
    Format(
        name="spec",
        title="SDSS spectrum, full or lite: legacy (RUN2D 26, 103, 104), BOSS and eBOSS (v5), "
        "SDSS-V (v6, DR18 to DR20)",
        files="spec-PLATE-MJD-FIBER.fits, spec-FIELD-MJD-CATALOGID.fits",
        survey_of=_sdss,
        read=read_spec_block,
        rows=format_rows.spec_rows,
        place=format_rows.spec_key,
        reduction=format_rows.sdss_reduction,
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
        rows=format_rows.plate_rows,
        place=format_rows.plate_group,
        reduction=format_rows.sdss_reduction,
        group=format_rows.plate_groups,
        id_column="fiber",
        batch=1,
        row_bytes=105_000,
    ),
    Format(
        name="coadd",
        title="DESI coadd of a healpixel or a tile, with redrock (or zbest) beside it",
        files="coadd-SURVEY-PROGRAM-HEALPIX.fits, coadd-PETAL-TILE-thruNIGHT.fits, "
        "redrock-SURVEY-PROGRAM-HEALPIX.fits",
        survey_of=_desi,
        read=read_coadd,
        rows=format_rows.coadd_rows,
        place=format_rows.coadd_group,
        reduction=production_of_path,
        group=format_rows.coadd_groups,
        id_column="targetid",
        batch=8,
        row_bytes=450_000,
    ),
    Format(
        name="mmu",
        title="MultimodalUniverse: SDSS or DESI spectra in bulk",
        files="healpix=N/001-of-001.hdf5",
        survey_of=survey_of_file,
        read=read_mmu,
        rows=format_rows.mmu_rows,
        place=_unnamed,
        reduction=_unnamed,
        group=None,
        id_column="",
        batch=1,
        row_bytes=120_000,
    ),
)
FORMATS = {each.name: each for each in _ALL}
"""Known formats of spectrum files, by name."""
