"""Emission-line measurements, from every table that has them, in one form: formats.md A4.

Fluxes are in 1e-17 erg s⁻¹ cm⁻²; EW(Hα) is in Å, rest frame, positive in emission. A value that is
not measured (-9999, not finite, error not positive, ivar 0) is NaN together with its error. The
kinds of tables are in `line_formats`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys.fits_bytes import Array
from spectra_scale.surveys.line_formats import (
    BROAD_SIGMA,
    BROAD_SNR,
    FORMATS,
    LINE_COLUMNS,
    LINES,
    MISSING,
    WANTED,
    keys_of,
)
from spectra_scale.surveys.line_source import LineSource, kind_of, open_line_source
from spectra_scale.surveys.tables import Source

log = logging.getLogger(__name__)

__all__ = [
    "BROAD_SIGMA",
    "BROAD_SNR",
    "FORMATS",
    "LINES",
    "LINE_COLUMNS",
    "LINE_SCHEMA",
    "SPZLINE_COLUMNS",
    "WANTED",
    "LineTable",
    "is_line_catalogue",
    "line_table_survey",
    "lines_from_spzline",
    "read_line_catalogue",
    "read_line_table",
    "rows_of_keys",
]

LINE_SCHEMA = pa.schema(
    [("spectrum_key", pa.string())]
    + [(name, pa.int32()) for name in ("plate", "mjd", "fiber")]
    + [(name, pa.float64()) for name in LINE_COLUMNS]
    + [("broad", pa.bool_()), ("source", pa.string())]
)
"""Arrow schema of a canonical line catalogue; plate, mjd and fiber are -1 in one of DESI."""

SPZLINE_COLUMNS = ("LINENAME", "LINEAREA", "LINEAREA_ERR", "LINEEW", "LINEEW_ERR")
"""Columns of SPZLINE (ZLINE) that are read."""

_SPZLINE_NAMES = ("H_beta", "[O_III] 5007", "H_alpha", "[N_II] 6583")


def lines_from_spzline(table: Mapping[str, Array], redshift: float) -> dict[str, Any]:
    """Line measurements of one object from the pipeline's line fits.

    Parameters
    ----------
    table
        `SPZLINE_COLUMNS`, shape (line,).
    redshift
        Of the object: LINEEW is in the observed frame and is divided by 1 + z.

    Returns
    -------
    dict
        `LINE_COLUMNS` as floats and ``source`` ``spzline``. NaN for a line that is absent or has
        a negative error, which marks an invalid fit; EW is NaN for a redshift that is unusable.
    """
    names = {str(name).strip(): row for row, name in reversed([*enumerate(table["LINENAME"])])}
    out: dict[str, Any] = dict.fromkeys(LINE_COLUMNS, math.nan)
    for line, name in zip(LINES, _SPZLINE_NAMES, strict=True):
        if name in names:
            row = names[name]
            pair = float(table["LINEAREA"][row]), float(table["LINEAREA_ERR"][row])
            out[f"{line}_flux"], out[f"{line}_err"] = _valid_one(*pair)
    stretch = 1 + redshift
    if _SPZLINE_NAMES[2] in names and math.isfinite(stretch) and stretch > 0:
        row = names[_SPZLINE_NAMES[2]]
        pair = float(table["LINEEW"][row]), float(table["LINEEW_ERR"][row])
        ew, error = _valid_one(*pair)
        out["halpha_ew"], out["halpha_ew_err"] = ew / stretch, error / stretch
    out["source"] = "spzline"
    return out


def _valid_one(value: float, error: float) -> tuple[float, float]:
    good = math.isfinite(value) and value != MISSING and math.isfinite(error) and error > 0
    return (value, error) if good else (math.nan, math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class LineTable:
    """A line table, read.

    Parameters
    ----------
    table
        `LINE_SCHEMA`, one row a spectrum key, in the order of the file.
    survey
        Whose keys it has: `sdss` or `desi`.
    n_rows
        Rows of the file.
    n_nobody
        Rows that name no object (PLATEID -1).
    n_repeated
        Rows of a key that came before: the first row of an object counts.
    """

    table: pa.Table
    survey: str
    n_rows: int
    n_nobody: int
    n_repeated: int


def is_line_catalogue(source: Source) -> bool:
    """Whether a table is one of the known line catalogues, by its columns.

    Of a FITS file whose first table is none, a table FASTSPEC behind it counts too.
    """
    return kind_of(source) is not None or _is_line_file(source.path)


def _is_line_file(path: Path) -> bool:
    try:
        open_line_source(path)
    except SpectraScaleError:
        return False
    return True


def line_table_survey(path: Path) -> str:
    """Whose spectrum keys a line table has: `sdss` or `desi`. Cheap: no rows are read.

    Raises
    ------
    SpectraScaleError
        As `read_line_table` does.
    """
    return open_line_source(path).kind.survey


def read_line_catalogue(path: Path) -> pa.Table:
    """Read a line catalogue: the table of `read_line_table`."""
    return read_line_table(path).table


def read_line_table(path: Path) -> LineTable:
    """Read a line table: Portsmouth, MPA-JHU galSpecLine or FastSpecFit (`FORMATS`).

    Parameters
    ----------
    path
        FITS, CSV or Parquet. For MPA-JHU, `galSpecInfo` lies beside it if it has no RELIABLE. A
        FITS file may be larger than memory: only wanted columns are kept.

    Returns
    -------
    LineTable
        Rows without an identity (PLATEID -1) are left out, and all rows of an object but the
        first; both are counted. EW is positive in emission, whatever the sign in the source.
        `broad` is True where the table itself tells of a broad line; only FastSpecFit does: a
        broad Hα or Hβ of flux/error > `BROAD_SNR` and SIGMA > `BROAD_SIGMA` km/s. [choice] The
        width is SIGMA, "Gaussian emission-line width" in its data model (FWHM 1180 km/s): as FWHM
        the cut would cut nothing, since FastSpecFit keeps a broad line from SIGMA 250 on.

    Raises
    ------
    SpectraScaleError
        If the file cannot be read; the table is of no known kind, lacks a column, is the DR9
        release of Portsmouth (its EWs are wrong), or has EWs of the wrong sign.
    """
    source = open_line_source(path)
    parts = [_part(source, *block) for block in source.blocks()]
    table = pa.concat_tables([LINE_SCHEMA.empty_table(), *parts])
    keys = table["spectrum_key"].combine_chunks()
    first = _first_of_each(keys)
    n_nobody = keys.null_count
    found = LineTable(
        # Mostly there is nothing to leave out.
        table if len(first) == table.num_rows else table.take(pa.array(first)),
        source.kind.survey,
        source.n_rows,
        n_nobody,
        source.n_rows - n_nobody - len(first),
    )
    _check_sign(path, found.table)
    level = logging.WARNING if found.n_repeated else logging.INFO
    counts = (path.name, found.n_rows, found.table.num_rows, n_nobody, found.n_repeated)
    log.log(level, "line table %s rows=%d objects=%d nobody=%d repeated=%d", *counts)
    return found


def rows_of_keys(table: pa.Table, keys: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Row of each spectrum key in a line catalogue; -1 where it has none.

    Parameters
    ----------
    table
        `LINE_SCHEMA`, one row a key.
    keys
        Spectrum keys, of any survey; several may be the same.
    """
    rows = pc.index_in(keys, value_set=table["spectrum_key"].combine_chunks())
    rows = rows.combine_chunks() if isinstance(rows, pa.ChunkedArray) else rows
    return np.asarray(pc.fill_null(rows, -1).to_numpy(), np.int64)


def _first_of_each(keys: pa.Array) -> npt.NDArray[np.int64]:
    """Rows where a key stands for the first time; a null key is none."""
    codes = keys.dictionary_encode().indices.fill_null(-1).to_numpy()
    # Codes are numbered as they come: a new one is larger than all before it.
    highest = np.maximum.accumulate(codes) if len(codes) else codes
    before = np.concatenate([[-1], highest[:-1]])[: len(codes)]
    return np.flatnonzero(codes > before)


def _part(source: LineSource, start: int, stop: int) -> pa.Table:
    block = source.read(start, stop)
    try:
        identity, keys = keys_of(source.kind, block)
        found = source.kind.values(block)
        values = {name: np.asarray(found[name], np.float64) for name in LINE_COLUMNS}
    except (SpectraScaleError, ValueError, TypeError) as error:
        msg = f"{source.path}, rows from {start}: {error}"
        raise SpectraScaleError(msg) from error
    _blank_invalid(values)
    n_rows = stop - start
    columns = [keys, *identity.values(), *values.values()]
    columns.append(found.get("broad", np.zeros(n_rows, np.bool_)))
    columns.append(np.full(n_rows, source.kind.source))
    return pa.table([pa.array(column) for column in columns], LINE_SCHEMA)


def _blank_invalid(values: dict[str, Array]) -> None:
    pairs = [(f"{line}_flux", f"{line}_err") for line in LINES] + [("halpha_ew", "halpha_ew_err")]
    for value, error in pairs:
        v, e = values[value], values[error]
        good = np.isfinite(v) & (v != MISSING) & np.isfinite(e) & (e > 0)
        values[value], values[error] = np.where(good, v, np.nan), np.where(good, e, np.nan)


def _check_sign(path: Path, table: pa.Table) -> None:
    flux, error, ew = (table[n].to_numpy() for n in ("halpha_flux", "halpha_err", "halpha_ew"))
    with np.errstate(invalid="ignore"):
        strong = flux > 5 * error
    ew = ew[strong & np.isfinite(ew)]
    if len(ew) and np.median(ew) < 0:
        msg = (
            f"{path}: EW(Hα) has a median of {np.median(ew):.3g} Å in {len(ew)} objects with "
            "Hα in emission; expected positive values (after the sign of the source is undone). "
            "The catalogue has another convention than formats.md A4 says."
        )
        raise SpectraScaleError(msg)
