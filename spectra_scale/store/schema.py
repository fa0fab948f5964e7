"""Every array and table on disk, as data; docs/data-model.md is made from it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

FLUX_UNIT = "1e-17 erg s-1 cm-2 Angstrom-1"
IVAR_UNIT = "1e34 s2 cm4 Angstrom2 erg-2"


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array on disk.

    Parameters
    ----------
    name, dtype, dims, unit, doc
        Name, NumPy type, names of the dimensions, unit, and what it is.
    """

    name: str
    dtype: str
    dims: tuple[str, ...]
    unit: str
    doc: str


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """One column of a table on disk."""

    name: str
    dtype: str
    doc: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One Parquet table on disk."""

    name: str
    doc: str
    columns: tuple[ColumnSpec, ...]

    def arrow(self) -> pa.Schema:
        """The table's Arrow schema."""
        return pa.schema([(c.name, pa.type_for_alias(c.dtype)) for c in self.columns])


_NATIVE = ("spectrum", "native_pixel")
RELEASE_ARRAYS = (
    ArraySpec("flux", "float32", _NATIVE, FLUX_UNIT, "F_λ, observed frame, vacuum"),
    ArraySpec("ivar", "float32", _NATIVE, IVAR_UNIT, "inverse variance of flux; 0 is missing"),
    ArraySpec("mask_bits", "uint32", _NATIVE, "", "AND_MASK of the survey (SPPIXMASK bits)"),
)
_REST = ("spectrum", "wavelength")
SAMPLE_ARRAYS = (
    ArraySpec("flux", "float32", _REST, FLUX_UNIT, "F_λ, rest frame; 0 where ivar is 0"),
    ArraySpec("ivar", "float32", _REST, IVAR_UNIT, "inverse variance; 0 is masked"),
)

_ROW = (
    ColumnSpec("release", "string", "name of the release"),
    ColumnSpec("row", "int64", "row in the release"),
    ColumnSpec("spectrum_key", "string", "names the observation, without its reduction"),
)
LEDGER = TableSpec(
    "ledger",
    "Everything that is not a row: files without a row, rows without a file, duplicates, "
    "malformed files.",
    (
        ColumnSpec("path", "string", "file, relative to its source folder ('' where none)"),
        ColumnSpec("spectrum_key", "string", "observation, where it is known"),
        ColumnSpec("kind", "string", "file, row or fibre: what this line accounts for"),
        ColumnSpec("reason", "string", "reason code (docs/ledger.md)"),
        ColumnSpec("message", "string", "what was found and what was expected"),
    ),
)
#: Columns that ingest adds to the survey's own (surveys.catalogue.CATALOGUE_COLUMNS).
CATALOGUE_EXTRA = (
    ColumnSpec("source_format", "string", "kind of that file: spec, spplate, coadd or mmu"),
    ColumnSpec("source_file", "string", "file the spectrum was read from, below its folder"),
    ColumnSpec(
        "source_row",
        "int64",
        "which spectrum of the file: fibre of a plate, TARGETID of a coadd, row of an HDF5 file; "
        "0 of a file of one spectrum",
    ),
    ColumnSpec("status", "string", "kept, or quarantined: unreadable, all ivar 0"),
    ColumnSpec("reason", "string", "reason code where quarantined, else empty"),
    ColumnSpec("message", "string", "what was found: why quarantined, or an arm that is missing"),
    ColumnSpec("n_repaired", "int32", "pixels whose ivar was set to 0: not finite or negative"),
    ColumnSpec(
        "checksum",
        "string",
        "BLAKE2b of the native flux, ivar and mask bits where they are not stored (copy = false)",
    ),
)
FILES = TableSpec(
    "files",
    "Every file of the source folders that this release or revision accounts for.",
    (
        ColumnSpec("path", "string", "file, below its source folder (its number before it, if "
                                     "there are several)"),
        ColumnSpec("bytes", "int64", "size; -1 if it could not be looked at"),
    ),
)  # fmt: skip
LINES = TableSpec(
    "lines",
    "Line measurements, row-aligned with the catalogue; NaN where not measured.",
    (
        *(
            ColumnSpec(f"{line}_{what}", "float64", f"{what} of {line}", "1e-17 erg s-1 cm-2")
            for line in ("hbeta", "oiii", "halpha", "nii")
            for what in ("flux", "err")
        ),
        ColumnSpec("halpha_ew", "float64", "rest-frame EW of Hα, emission positive", "Angstrom"),
        ColumnSpec("halpha_ew_err", "float64", "its error", "Angstrom"),
        ColumnSpec("broad", "bool", "the table itself tells of a broad Hα or Hβ (FastSpecFit)"),
        ColumnSpec("measured", "bool", "a line table has this object"),
        ColumnSpec("source", "string", "which table: spzline, portsmouth, cas, mpa-jhu, "
                                       "fastspecfit"),
    ),
)  # fmt: skip
LABELS = TableSpec(
    "labels",
    "Classes of science.md §5 for every row of the releases, with the lines they rest on.",
    (
        *_ROW,
        ColumnSpec("label", "int8", "0 N/A, 1 star-forming, 2 composite, 3 narrow-line AGN, "
                                    "4 broad-line, 5 retired, 6 passive"),
        *LINES.columns,
    ),
)  # fmt: skip
INDEX = TableSpec(
    "index",
    "The rows of a sample, row-aligned with its arrays.",
    (
        *_ROW,
        ColumnSpec("survey", "string", "survey, as in the release's catalogue"),
        ColumnSpec("reduction", "string", "RUN2D or production"),
        ColumnSpec("specobjid", "string", "the survey's own id"),
        ColumnSpec("plate", "int32", "plate; -1 where the survey has none"),
        ColumnSpec("mjd", "int32", "modified Julian date of the observation; -1 if unknown"),
        ColumnSpec("fiber", "int32", "fibre; -1 if unknown"),
        ColumnSpec("field", "int32", "FIELD of SDSS-V; -1 elsewhere"),
        ColumnSpec("catalogid", "int64", "CATALOGID of SDSS-V; -1 elsewhere"),
        ColumnSpec("sdss_id", "int64", "SDSS_ID of SDSS-V; -1 if unknown"),
        ColumnSpec("targetid", "int64", "TARGETID of DESI; -1 elsewhere"),
        ColumnSpec("program", "string", "PROGRAM of DESI; empty elsewhere"),
        ColumnSpec("healpix", "int32", "healpixel of DESI; -1 elsewhere"),
        ColumnSpec("ra", "float64", "right ascension (ICRS)", "deg"),
        ColumnSpec("dec", "float64", "declination (ICRS)", "deg"),
        ColumnSpec("z", "float64", "redshift used to shift to the rest frame"),
        ColumnSpec("class", "string", "class of the survey's pipeline"),
        ColumnSpec("subclass", "string", "subclass of the survey's pipeline"),
        ColumnSpec("label", "int8", "class of science.md §5"),
        ColumnSpec("split", "string", "train or validation, by sky cell"),
        ColumnSpec("sky_id", "int64", "object on the sky: observations within 1.5 arcsec"),
        ColumnSpec("primary", "bool", "the observation of highest S/N of this sky_id"),
        ColumnSpec("superseded", "bool", "a newer release has the same observation"),
        ColumnSpec("snr_total", "float64", "ΣF / √ΣΣcov"),
        ColumnSpec("snr_median", "float64", "median of F√v a grid pixel"),
        ColumnSpec("snr_mean", "float64", "mean of F√v a grid pixel"),
        ColumnSpec("masked_fraction", "float64", "share of grid pixels with ivar 0"),
    ),
)
DROPPED = TableSpec(
    "dropped",
    "Rows of the releases that are not in the sample, with the first cut that removed them.",
    (*_ROW, ColumnSpec("cut", "string", "name of the cut"),
     ColumnSpec("found", "string", "the value that failed it")),
)  # fmt: skip
SHARDS = TableSpec(
    "shards",
    "The shards of an artifact's arrays: a missing shard reads as zeros, so it is listed.",
    (
        ColumnSpec("array", "string", "name of the array"),
        ColumnSpec("shard", "int64", "index of the shard"),
        ColumnSpec("rows", "int64", "rows in it"),
        ColumnSpec("bytes", "int64", "size of its file"),
        ColumnSpec("checksum", "string", "CRC32C of its file"),
    ),
)
TABLES = (FILES, LEDGER, LINES, LABELS, INDEX, DROPPED, SHARDS)
