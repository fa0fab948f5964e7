"""The second pass of prepare: rows that passed, packed into the sample's dense shards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.compute.place import Place, Work
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.store.arrays import (
    Layout,
    Shard,
    add_coordinate,
    create_arrays,
    publish_arrays,
    shards_of,
    write_shard,
)
from spectra_scale.store.schema import SAMPLE_ARRAYS, SHARDS


@dataclass(frozen=True, slots=True)
class Part:
    """Rest-frame rows that one task of the first pass left behind.

    Parameters
    ----------
    path
        Folder with ``flux.npy`` and ``ivar.npy``.
    start, stop
        The rows of the sample that these are.
    """

    path: Path
    start: int
    stop: int


def parts_of(paths: Sequence[Path], sizes: Sequence[int]) -> list[Part]:
    """Lay parts one behind the other."""
    ends = np.cumsum([0, *sizes])
    return [Part(p, int(a), int(b)) for p, a, b in zip(paths, ends[:-1], ends[1:], strict=True)]


def pack(
    parts: Sequence[Part], grid: WavelengthGrid, layout: Layout, place: Place, out: Path
) -> None:
    """Write the arrays of a sample from parts, one task a shard, and list their shards."""
    arrays = (out / "arrays").resolve()
    n_rows = parts[-1].stop
    attributes = {
        "grid": "rest frame, vacuum",
        "log10_start": grid.log10_start,
        "log10_step": grid.log10_step,
    }
    create_arrays(arrays, SAMPLE_ARRAYS, (n_rows, grid.n_pixels), layout, attributes)
    add_coordinate(arrays, "wavelength", grid.centres, "Angstrom")
    shards = shards_of(n_rows, layout.shard_rows)
    work = Work("prepare (pack)", "spectra", [shard.n_rows for shard in shards])
    tasks = [(shard, _overlapping(parts, shard)) for shard in shards]
    written = place.map(partial(_pack_shard, arrays), tasks, work)
    listed = pa.Table.from_pylist([fact for facts in written for fact in facts], SHARDS.arrow())
    publish_arrays(arrays, listed, out / "shards.parquet")


def _overlapping(parts: Sequence[Part], shard: Shard) -> tuple[Part, ...]:
    ends = [part.stop for part in parts]
    first = bisect_right(ends, shard.start)
    return tuple(takewhile(lambda part: part.start < shard.stop, parts[first:]))


def _pack_shard(arrays: Path, task: tuple[Shard, tuple[Part, ...]]) -> list[dict[str, Any]]:
    """Write one shard of both arrays; its lines of the shard list come back."""
    shard, parts = task
    written = []
    for name in ("flux", "ivar"):
        pieces: list[NDArray[np.float32]] = []
        for part in parts:
            first, last = max(part.start, shard.start), min(part.stop, shard.stop)
            if first < last:
                values = np.load(part.path / f"{name}.npy", mmap_mode="r")
                pieces.append(values[first - part.start : last - part.start])
        written.append(write_shard(arrays, name, shard, np.concatenate(pieces)))
    return written
