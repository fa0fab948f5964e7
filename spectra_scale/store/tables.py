"""Parquet tables, written atomically and always with the same bytes for the same rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from spectra_scale.errors import DamagedArtifactError
from spectra_scale.provenance import write_bytes


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=1 << 18)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a table.

    Raises
    ------
    DamagedArtifactError
        If the file is missing or no Parquet file.
    """
    try:
        with path.open("rb") as file:
            return pq.read_table(pa.PythonFile(file, mode="r"), columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        msg = f"{path}: found {error}, expected a Parquet table. Rebuild the artifact it is in."
        raise DamagedArtifactError(msg) from error


def read_partitions(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Read all tables of a folder, in the order of their names, as one."""
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        msg = f"{folder}: found no Parquet file, expected one a release. Rebuild the artifact."
        raise DamagedArtifactError(msg)
    return pa.concat_tables([read_table(path, columns) for path in paths]).combine_chunks()
