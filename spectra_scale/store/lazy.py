"""Lazy views of row-aligned arrays: the only module of `store` that knows Dask."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.store.arrays import open_array, read_rows


def read_block(
    path: Path, name: str, block_info: dict[int | None, dict[str, Any]] | None = None
) -> NDArray[Any]:
    """Read the rows of one Dask block, opening Zarr by path.

    `dask.array.from_zarr` breaks under Dask-on-Ray, which rebuilds Zarr's dataclasses
    (docs/libraries.md), so the array is opened inside the task.
    """
    assert block_info is not None
    rows, columns = block_info[None]["array-location"]
    return read_rows(path, name, slice(*rows))[:, slice(*columns)]


def lazy_array(path: Path, name: str) -> Any:
    """A Dask array of one Zarr array, one Dask chunk a shard."""
    import dask.array as da

    array = open_array(path, name)
    assert array.shards is not None
    n_rows, n_columns = array.shape
    step = array.shards[0]
    chunks = (tuple(min(step, n_rows - start) for start in range(0, n_rows, step)), (n_columns,))
    return da.map_blocks(
        partial(read_block, path, name), chunks=chunks, dtype=array.dtype, meta=np.empty((0, 0))
    )
