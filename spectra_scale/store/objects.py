"""Per-object results: Parquet tables partitioned by release, joined by (release, row).

A new release adds a file and rewrites none. Every table repeats the `spectrum_key`, which is
checked when tables are joined: a wrong join is an error, never a wrong figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.errors import DamagedArtifactError
from spectra_scale.store.tables import read_table, write_table

KEYS = ("release", "row", "spectrum_key")


def write_objects(folder: Path, index: pa.Table, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write one Parquet file a release.

    Parameters
    ----------
    folder
        Where the files go.
    index
        The sample's index (or any table with release, row and spectrum_key), row-aligned with
        `columns`.
    columns
        Arrays of shape (row,) or (row, k); the latter become k columns ``name_0`` …
    """
    names = np.asarray(index["release"].to_pylist())
    keys = index.select(KEYS)
    for release in dict.fromkeys(names.tolist()):
        rows = np.flatnonzero(names == release)
        table = keys.take(pa.array(rows))
        for name, values in columns.items():
            for column, array in _flat(name, values):
                table = table.append_column(column, pa.array(array[rows]))
        write_table(folder / f"{release}.parquet", table.combine_chunks())


def _flat(name: str, values: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    if values.ndim == 1:
        return [(name, values)]
    return [(f"{name}_{k}", values[:, k]) for k in range(values.shape[1])]


def read_objects(folder: Path, index: pa.Table, columns: list[str] | None = None) -> pa.Table:
    """Read per-object results in the order of an index.

    Parameters
    ----------
    folder
        Folder of Parquet files, one a release.
    index
        Rows wanted, in order: release, row, spectrum_key.
    columns
        Columns wanted beside the keys; all if not given.

    Raises
    ------
    DamagedArtifactError
        If a row is missing or its key differs.
    """
    wanted = None if columns is None else [*KEYS, *columns]
    releases = index["release"].to_pylist()
    parts = [read_table(folder / f"{name}.parquet", wanted) for name in dict.fromkeys(releases)]
    table = pa.concat_tables(parts) if parts else pa.table({k: index[k] for k in KEYS})
    places = {pair: i for i, pair in enumerate(_pairs(table))}
    try:
        order = [places[pair] for pair in _pairs(index)]
    except KeyError as error:
        msg = f"{folder}: no row for {error.args[0]}, which the sample has. Rebuild the artifact."
        raise DamagedArtifactError(msg) from error
    table = table.take(pa.array(order, pa.int64())).combine_chunks()
    if not table["spectrum_key"].combine_chunks().equals(index["spectrum_key"].combine_chunks()):
        msg = (
            f"{folder}: spectrum_key differs from the sample's at the same release and row: the "
            "tables were not made from the same releases. Rebuild the artifact."
        )
        raise DamagedArtifactError(msg)
    return table


def _pairs(table: pa.Table) -> list[tuple[str, int]]:
    return list(zip(table["release"].to_pylist(), table["row"].to_pylist(), strict=True))


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """One column as a NumPy array: strings as objects, nulls as NaN or ''."""
    values = table[name].combine_chunks()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return np.array([v or "" for v in values.to_pylist()], dtype=object)
    return np.asarray(values.to_numpy(zero_copy_only=False))


def columns_of(table: pa.Table, prefix: str) -> NDArray[Any]:
    """Columns ``prefix_0`` … stacked, shape (row, k)."""
    names = [name for name in table.column_names if name.removeprefix(f"{prefix}_").isdigit()]
    if not names:
        return np.empty((table.num_rows, 0))
    return np.stack([column(table, name) for name in names], axis=1)
