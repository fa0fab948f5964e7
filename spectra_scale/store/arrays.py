"""Row-aligned Zarr v3 arrays, written a whole shard at a time.

Chunk-aligned but not shard-aligned writers lose data silently, so there is one rule: one task
writes one whole shard, and `write_shard` asserts it. A shard that was never written reads as
zeros, so the shards of a finished artifact are listed with their checksums.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning

from spectra_scale.errors import DamagedArtifactError
from spectra_scale.provenance import naming
from spectra_scale.store.schema import SHARDS, ArraySpec
from spectra_scale.store.shards import (
    CODEC,
    ShardedArray,
    file_checksum,
    read_some,
    read_span,
    sharded_array,
    write_shard_file,
)
from spectra_scale.store.tables import read_table, write_table


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows `start` to `stop` of row-aligned arrays: all that a worker is told.

    Parameters
    ----------
    index
        Number of the shard.
    start, stop
        First row, and the row after the last.
    """

    index: int
    start: int
    stop: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows are grouped on disk.

    Parameters
    ----------
    shard_rows
        Rows in one file, the unit of writing.
    chunk_rows
        Rows compressed together, the unit of reading.
    """

    shard_rows: int = 4096
    chunk_rows: int = 256


def shards_of(n_rows: int, shard_rows: int) -> list[Shard]:
    """Cut rows into shards.

    Examples
    --------
    >>> [(s.start, s.stop) for s in shards_of(10, 4)]
    [(0, 4), (4, 8), (8, 10)]
    """
    starts = range(0, n_rows, shard_rows)
    return [Shard(i, start, min(start + shard_rows, n_rows)) for i, start in enumerate(starts)]


def create_arrays(
    path: Path,
    specs: Sequence[ArraySpec],
    shape: tuple[int, int],
    layout: Layout,
    attributes: dict[str, Any],
) -> None:
    """Create a Zarr group with one empty array for each spec, or keep an equal one.

    Parameters
    ----------
    path
        Directory of the group.
    specs
        Arrays to create.
    shape
        Rows and pixels.
    layout
        Shards and chunks, in rows. Every chunk spans all pixels.
    attributes
        Attributes of the group.
    """
    with naming(path):
        _create(path, specs, shape, layout, attributes)


def _create(
    path: Path,
    specs: Sequence[ArraySpec],
    shape: tuple[int, int],
    layout: Layout,
    attributes: dict[str, Any],
) -> None:
    group = zarr.open_group(path, mode="a", use_consolidated=False)
    group.attrs.update(attributes)
    for spec in specs:
        if spec.name in group:
            _check_same(path, group[spec.name], (spec, shape, layout))
            continue
        group.create_array(
            spec.name,
            shape=shape,
            dtype=spec.dtype,
            chunks=(layout.chunk_rows, shape[1]),
            shards=(layout.shard_rows, shape[1]),
            # CRC32C after Blosc, or a flipped byte of the payload would be read as data.
            compressors=[BloscCodec(**CODEC), Crc32cCodec()],
            fill_value=0,
            dimension_names=spec.dims,
            attributes={"units": spec.unit, "description": spec.doc},
        )


def _check_same(path: Path, found: Any, wanted: tuple[ArraySpec, tuple[int, int], Layout]) -> None:
    """Refuse an array of another shape or layout: a task done before was another task.

    Raises
    ------
    DamagedArtifactError
        Naming the array.
    """
    spec, shape, layout = wanted
    expected = (shape, spec.dtype, layout.shard_rows, layout.chunk_rows)
    there = (found.shape, str(found.dtype), *(found.shards or (0,))[:1], found.chunks[0])
    if there != expected:
        msg = (
            f"{path / spec.name}: found an array (shape, type, rows a shard and a chunk) {there}, "
            f"expected {expected}. It was begun from something else: delete {path.parent}."
        )
        raise DamagedArtifactError(msg)


def check_present(path: Path, list_path: Path) -> None:
    """Look whether every shard file is there with its size: a missing one would read as zeros.

    Raises
    ------
    DamagedArtifactError
        Naming the first that is not.
    """
    for row in read_table(list_path, ["array", "shard", "bytes"]).to_pylist():
        file = _shard_file(path, row["array"], row["shard"])
        size = file.stat().st_size if file.is_file() else 0
        if size != row["bytes"]:
            msg = (
                f"{file}: found {size} bytes, expected {row['bytes']}. The artifact is damaged: "
                f"delete {path.parent} and run the job again."
            )
            raise DamagedArtifactError(msg)


def add_coordinate(path: Path, name: str, values: NDArray[Any], unit: str) -> None:
    """Add a one-dimensional coordinate array (for instance `wavelength`) to a group."""
    with naming(path / name):
        group = zarr.open_group(path, mode="a", use_consolidated=False)
        if name not in group:
            group.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=values.shape,
                dimension_names=(name,), attributes={"units": unit},
            )  # fmt: skip
        # Written again when resumed: a killed run may have left the array without its values.
        open_array(path, name, "r+")[:] = values


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write an ``.npy`` file, as `numpy.save`, whose errors do not say what the system said."""
    values = np.ascontiguousarray(values)
    with naming(path), path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, np.lib.format.header_data_from_array_1_0(values)
        )
        file.write(values.data)
        file.flush()
        # A task is marked as done after this: not even a power cut may undo it.
        os.fsync(file.fileno())


def open_array(path: Path, name: str, mode: Literal["r", "r+"] = "r") -> zarr.Array[Any]:
    """Open one array of a group; consolidated metadata, which may be stale, is not used."""
    group = zarr.open_group(path, mode=mode, use_consolidated=False)
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def write_shard(path: Path, name: str, shard: Shard, values: NDArray[Any]) -> dict[str, Any]:
    """Write one whole shard of one array: the file takes its name when it is whole.

    Parameters
    ----------
    path, name
        Group and array.
    shard
        Rows to write. It must begin on a shard boundary and reach the next one or the end.
    values
        Shape (rows of the shard, pixels).

    Returns
    -------
    dict
        Its line of the shard list (`store.schema.SHARDS`).
    """
    ours = sharded_array(path, name)
    array = open_array(path, name, "r+") if ours is None else ours
    shard_rows = _shard_rows(array)
    assert shard.start % shard_rows == 0, f"{name}: shard starts at {shard.start}"
    end = min(shard.start + shard_rows, array.shape[0])
    assert shard.stop == end, f"{name}: ends {shard.stop}"
    assert values.shape == (shard.n_rows, array.shape[1]), f"{name}: {values.shape}"
    assert values.dtype == array.dtype, f"{name}: {values.dtype}"
    if isinstance(array, ShardedArray):
        found = write_shard_file(array, shard.start // shard_rows, values)
        return _fact(name, shard, *found)
    with naming(path / name):
        array[shard.rows] = values
    return _fact_of_file(path, name, shard)


def _fact(name: str, shard: Shard, size: int, checksum: str) -> dict[str, Any]:
    return {"array": name, "shard": shard.index, "rows": shard.n_rows, "bytes": size,
            "checksum": checksum}  # fmt: skip


def _fact_of_file(path: Path, name: str, shard: Shard) -> dict[str, Any]:
    file = _shard_file(path, name, shard.index)
    if not file.is_file():
        return _fact(name, shard, 0, "")
    return _fact(name, shard, file.stat().st_size, file_checksum(file))


def _shard_rows(array: ShardedArray | zarr.Array[Any]) -> int:
    if isinstance(array, ShardedArray):
        return array.shard_rows
    assert array.shards is not None
    return int(array.shards[0])


def read_rows(
    path: Path, name: str, rows: slice | NDArray[np.int64], out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Read rows of one array.

    Parameters
    ----------
    path, name
        Group and array.
    rows
        A slice without a step, or row numbers, ascending.
    out
        Where consecutive rows go, C-contiguous, shape (row, column), of as many rows or more; a
        new array if not given.

    Raises
    ------
    DamagedArtifactError
        If a shard is cut, or a checksum does not agree.
    """
    array = sharded_array(path, name)
    if array is None:
        found = open_array(path, name)
        return np.asarray(found[rows] if isinstance(rows, slice) else found.oindex[rows])
    if isinstance(rows, slice):
        start, stop, _ = rows.indices(array.shape[0])
        stop = max(start, stop)
        return read_span(array, start, stop, None if out is None else out[: stop - start])
    return read_some(array, rows)


def _shard_file(path: Path, name: str, index: int) -> Path:
    return path / name / "c" / str(index) / "0"


def list_shards(path: Path, specs: Sequence[ArraySpec], shards: Sequence[Shard]) -> pa.Table:
    """Rows and checksums of all shards; an all-zero shard has no file, 0 bytes and no checksum."""
    rows = [_fact_of_file(path, spec.name, shard) for spec in specs for shard in shards]
    return pa.Table.from_pylist(rows, schema=SHARDS.arrow())


def publish_arrays(path: Path, listed: pa.Table, list_path: Path) -> None:
    """Write the shard list and consolidate the metadata, for readers that use it.

    Parameters
    ----------
    path
        Group.
    listed
        A line for each shard of each array, from `write_shard` or `list_shards`, in any order.
    list_path
        Where the list goes.
    """
    listed = listed.sort_by([("array", "ascending"), ("shard", "ascending")])
    write_table(list_path, listed.combine_chunks())
    with naming(path), warnings.catch_warnings():
        # zarr warns that v3 does not specify consolidated metadata yet; xarray reads it, and our
        # own readers do without.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(path)


def check_shards(path: Path, list_path: Path) -> int:
    """Compare all shard files with their list.

    Returns
    -------
    int
        Number of shards checked.

    Raises
    ------
    DamagedArtifactError
        Naming the first file that is missing or differs.
    """
    listed = read_table(list_path).to_pylist()
    for row in listed:
        file = _shard_file(path, row["array"], row["shard"])
        found = file_checksum(file) if file.is_file() else ""
        if found != row["checksum"]:
            what = "no file" if not found else f"checksum {found}"
            msg = (
                f"{file}: found {what}, expected checksum {row['checksum']}. The artifact is "
                f"damaged: delete {path.parent} and run the job again."
            )
            raise DamagedArtifactError(msg)
    return len(listed)
