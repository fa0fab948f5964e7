"""The task of ingest: spectra of one shard, read from survey files into native arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.grid import NATIVE_GRIDS, NativeGrid
from spectra_scale.store.arrays import Shard, write_shard
from spectra_scale.store.objects import column
from spectra_scale.store.schema import LINES, SHARDS
from spectra_scale.store.tables import read_table, write_table
from spectra_scale.surveys.block import SpectraBlock, spectrum_digest
from spectra_scale.surveys.files import locate
from spectra_scale.surveys.formats import FORMATS
from spectra_scale.surveys.native import files_of, place_rows
from spectra_scale.surveys.reasons import Reason

STATUS = pa.schema(
    [("status", pa.string()), ("reason", pa.string()), ("message", pa.string()),
     ("n_repaired", pa.int32()), ("checksum", pa.string())]
)  # fmt: skip
MEASURED = [
    field.name for field in LINES.arrow() if field.name not in ("measured", "source", "broad")
]
ARRAYS = ("flux", "ivar", "mask_bits")
PLACE = ["source_format", "source_file", "source_row"]


@dataclass(frozen=True, slots=True)
class ArrayTask:
    """One shard of a release.

    Parameters
    ----------
    shard
        Its rows.
    rows
        Table of these rows, with `source_format`, `source_file` and `source_row`.
    roots
        Source folders; a locator with a number before it says which.
    grid
        Name of the native grid.
    arrays
        Zarr group; None if the spectra are not stored.
    part
        Where the status of each row goes: written last, it marks the task as done.
    """

    shard: Shard
    rows: Path
    roots: tuple[Path, ...]
    grid: str
    arrays: Path | None
    part: Path

    @property
    def lines(self) -> Path:
        """Where the pipeline's line fits go."""
        return self.part.with_name(self.part.name.replace("status-", "lines-"))

    @property
    def shards(self) -> Path:
        """Where the lines of the shard list go."""
        return self.part.with_name(self.part.name.replace("status-", "shards-"))


class _Shard:
    """Arrays and facts of the rows of a shard, filled file by file."""

    def __init__(self, n_rows: int, grid: NativeGrid) -> None:
        shape = (n_rows, grid.n_pixels)
        self.grid = grid
        self.flux = np.zeros(shape, np.float32)
        self.ivar = np.zeros(shape, np.float32)
        self.mask_bits = np.zeros(shape, np.uint32)
        self.status: list[dict[str, Any]] = [{} for _ in range(n_rows)]
        self.lines: list[dict[str, Any]] = [{} for _ in range(n_rows)]

    def fill(self, rows: NDArray[np.int64], block: SpectraBlock) -> None:
        """Take the spectra of a file; one that cannot be used stays as a row with ivar 0."""
        place_rows(block, self.grid, rows, (self.flux, self.ivar, self.mask_bits))
        for i, row in enumerate(rows.tolist()):
            self.status[row] = _status(block.reason[i], block.message[i], int(block.n_repaired[i]))
            if block.lines and block.lines[i] is not None and not block.reason[i]:
                self.lines[row] = dict(block.lines[i] or {}) | {"measured": True}

    def refuse(self, rows: NDArray[np.int64], reason: str, message: str) -> None:
        """A file that cannot be read: its rows stay, with ivar 0 and the reason."""
        for row in rows.tolist():
            self.status[row] = _status(reason, message, 0)

    def checksum(self) -> None:
        """Note what each spectrum is, where it is not stored."""
        for row, status in enumerate(self.status):
            status["checksum"] = spectrum_digest(*(getattr(self, name)[row] for name in ARRAYS))


def _status(reason: str, message: str, n_repaired: int) -> dict[str, Any]:
    status = "quarantined" if reason else "kept"
    return {"status": status, "reason": str(reason), "message": message,
            "n_repaired": n_repaired, "checksum": ""}  # fmt: skip


def write_arrays(task: ArrayTask) -> dict[str, int]:
    """Read the spectra of one shard and write it; done before, only count.

    Returns
    -------
    dict
        Rows by status.
    """
    if not task.part.is_file():
        found = _read(task)
        if task.arrays is None:
            found.checksum()
        else:
            facts = [write_shard(task.arrays, name, task.shard, getattr(found, name))
                     for name in ARRAYS]  # fmt: skip
            write_table(task.shards, pa.Table.from_pylist(facts, schema=SHARDS.arrow()))
        write_table(task.lines, _lines_table(found))
        write_table(task.part, pa.Table.from_pylist(found.status, schema=STATUS))
    return dict(Counter(read_table(task.part, ["status"])["status"].to_pylist()))


def _read(task: ArrayTask) -> _Shard:
    table = read_table(task.rows, PLACE)
    ids = column(table, "source_row")
    found = _Shard(task.shard.n_rows, NATIVE_GRIDS[task.grid])
    for (kind, name), rows in files_of(table).items():
        try:
            block = FORMATS[kind].read(locate(task.roots, name), ids[rows])
            found.fill(rows, block)
        except BadSpectrumError as error:
            found.refuse(rows, error.reason, error.message)
        except OSError as error:
            found.refuse(rows, Reason.UNREADABLE, f"{error.strerror or error}")
    return found


def _lines_table(found: _Shard) -> pa.Table:
    rows = [
        {name: each.get(name, np.nan) for name in MEASURED}
        | {"measured": bool(each.get("measured", False)), "source": each.get("source", ""),
           "broad": False}
        for each in found.lines
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=LINES.arrow())
