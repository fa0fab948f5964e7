"""Tables for others to read: FITS, Parquet, CSV or VOTable, by the ending of the file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from spectra_scale.errors import UsageError
from spectra_scale.provenance import write_bytes
from spectra_scale.store.objects import column
from spectra_scale.store.tables import write_table

FORMATS = {
    ".fits": "FITS", ".parquet": "Parquet", ".csv": "CSV", ".vot": "VOTable", ".xml": "VOTable",
}  # fmt: skip


def refuse_existing(path: Path) -> None:
    """Refuse to write over a file.

    Raises
    ------
    UsageError
        If there is one.
    """
    if path.exists():
        msg = f"{path} exists already. Give another name, or delete it."
        raise UsageError(msg)


def check_table_file(path: Path, *others: str) -> str:
    """The format of a file that is to be written.

    Parameters
    ----------
    path
        The file; its ending decides.
    others
        Endings that the caller takes besides, in words, for the message.

    Raises
    ------
    UsageError
        If the ending is none of `FORMATS`, or the file exists.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        endings = ", ".join([*FORMATS, *others])
        msg = f"{path}: found ending {path.suffix!r}, expected one of {endings}."
        raise UsageError(msg)
    refuse_existing(path)
    return kind


def write_table_file(path: Path, table: pa.Table, *others: str) -> int:
    """Write a table in the format that the file's ending says.

    Parameters
    ----------
    path
        File to write: .fits, .parquet, .csv, .vot or .xml (VOTable).
    table
        Columns of numbers, booleans and strings.
    others
        As of `check_table_file`.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    UsageError
        As `check_table_file`.
    """
    kind = check_table_file(path, *others)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "Parquet":
        write_table(path, table)
    elif kind == "CSV":
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(table, sink)
        write_bytes(path, sink.getvalue().to_pybytes())
    else:
        _write_astropy(table, path, "fits" if kind == "FITS" else "votable")
    return int(table.num_rows)


def _write_astropy(table: pa.Table, path: Path, kind: str) -> None:
    from astropy.table import Table

    columns = {}
    for name in table.column_names:
        values = column(table, name)
        if values.dtype == np.int8:  # a label; VOTable has no signed byte
            values = values.astype(np.int16)
        columns[name] = values.astype(str) if values.dtype == object else values
    partial = path.with_name(f".{path.name}.part")
    try:
        Table(columns).write(partial, format=kind, overwrite=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
