"""The task of ingest: spectra of one shard, read from survey files into native arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spectra_scale.errors import BadSpectrumError
from spectra_scale.store.arrays import Shard, write_shard
from spectra_scale.store.objects import column
from spectra_scale.store.schema import LINES
from spectra_scale.store.tables import read_table, write_table
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss import (
    SDSS_FIRST_PIXEL,
    SDSS_N_PIXELS,
    is_outside_native_grid,
    place_on_native,
)
from spectra_scale.surveys.sdss_plate import read_plate
from spectra_scale.surveys.sdss_spec import read_spec

__all__ = ["SDSS_FIRST_PIXEL", "SDSS_N_PIXELS", "ArrayTask", "write_arrays"]

STATUS = pa.schema(
    [("status", pa.string()), ("reason", pa.string()), ("message", pa.string()),
     ("n_repaired", pa.int32())]
)  # fmt: skip
MEASURED = [name for name in LINES.arrow().names if name not in ("measured", "source")]


@dataclass(frozen=True, slots=True)
class ArrayTask:
    """One shard of a release.

    Parameters
    ----------
    shard
        Its rows.
    rows
        Table of all rows of the release, with `source_file` and `source_row`.
    roots
        Source folders; a locator with a number before it says which.
    arrays
        Zarr group.
    part
        Where the status of each row goes: written last, it marks the task as done.
    """

    shard: Shard
    rows: Path
    roots: tuple[Path, ...]
    arrays: Path
    part: Path

    @property
    def lines(self) -> Path:
        """Where the pipeline's line fits go."""
        return self.part.with_name(self.part.name.replace("status-", "lines-"))

    def file(self, locator: str) -> Path:
        """A file by its locator."""
        if len(self.roots) == 1:
            return self.roots[0] / locator
        number, _, relative = locator.partition(":")
        return self.roots[int(number)] / relative


class _Block:
    """Arrays and facts of the rows of a shard, filled file by file."""

    def __init__(self, n_rows: int) -> None:
        shape = (n_rows, SDSS_N_PIXELS)
        self.flux = np.zeros(shape, np.float32)
        self.ivar = np.zeros(shape, np.float32)
        self.mask_bits = np.zeros(shape, np.uint32)
        self.status: list[dict[str, Any]] = [{} for _ in range(n_rows)]
        self.lines: list[dict[str, Any]] = [{} for _ in range(n_rows)]

    def arrays_at(self, rows: Any) -> tuple[Any, Any, Any]:
        return self.flux[rows], self.ivar[rows], self.mask_bits[rows]

    def keep(self, row: int, n_repaired: int) -> None:
        self.status[row] = _status("kept", "", "", n_repaired)

    def quarantine(self, row: int, reason: str, message: str) -> None:
        """Keep the row without a spectrum: ivar 0 throughout, with its reason."""
        for array in (self.flux, self.ivar, self.mask_bits):
            array[row] = 0
        self.status[row] = _status("quarantined", str(reason), message, 0)


def _status(status: str, reason: str, message: str, n_repaired: int) -> dict[str, Any]:
    return {"status": status, "reason": reason, "message": message, "n_repaired": n_repaired}


def write_arrays(task: ArrayTask) -> dict[str, int]:
    """Read the spectra of one shard and write it; done before, only count.

    Returns
    -------
    dict
        Rows by status.
    """
    if not task.part.is_file():
        block = _read(task)
        for name in ("flux", "ivar", "mask_bits"):
            write_shard(task.arrays, name, task.shard, getattr(block, name))
        write_table(task.lines, _lines_table(block))
        write_table(task.part, pa.Table.from_pylist(block.status, schema=STATUS))
    return dict(Counter(read_table(task.part, ["status"])["status"].to_pylist()))


def _read(task: ArrayTask) -> _Block:
    rows = read_table(task.rows, ["source_file", "source_row"]).slice(
        task.shard.start, task.shard.n_rows
    )
    files, fibers = column(rows, "source_file").astype(str), column(rows, "source_row")
    block = _Block(task.shard.n_rows)
    for name in dict.fromkeys(files.tolist()):
        here = np.flatnonzero(files == name)
        path = task.file(name)
        try:
            if fibers[here[0]] > 0:
                _fill_from_plate(block, path, here, fibers[here])
            else:
                _fill_from_spec(block, path, int(here[0]))
        except BadSpectrumError as error:
            for row in here:
                block.quarantine(int(row), error.reason, error.message)
        except OSError as error:
            for row in here:
                block.quarantine(int(row), Reason.UNREADABLE, f"{error.strerror or error}")
    return block


def _fill_from_spec(block: _Block, path: Path, row: int) -> None:
    spec = read_spec(path, want_lines=True)
    arrays = spec.arrays
    place_on_native(
        arrays.first_pixel, (arrays.flux, arrays.ivar, arrays.mask_bits), block.arrays_at(row)
    )
    if spec.lines is not None:
        block.lines[row] = spec.lines | {"measured": True}
    if is_outside_native_grid(arrays.first_pixel, arrays.ivar):
        block.quarantine(row, Reason.OUTSIDE_NATIVE_GRID, "data outside 3532-10508 Å")
    else:
        block.keep(row, spec.n_repaired)


def _fill_from_plate(block: _Block, path: Path, here: Any, fibers: Any) -> None:
    try:
        plate = read_plate(path, fibers)
    except BadSpectrumError as error:
        if error.reason != Reason.ROW_WITHOUT_FIBRE:
            raise
        # Rows of a catalogue may name fibres that the file lacks; the others are fine.
        there = np.isin(fibers, read_plate(path).fiber)
        for row, fiber in zip(here[~there], fibers[~there], strict=True):
            block.quarantine(int(row), error.reason, f"the plate file has no fibre {fiber}")
        if there.any():
            _fill_from_plate(block, path, here[there], fibers[there])
        return
    out = np.zeros((3, len(here), SDSS_N_PIXELS), np.float32)
    bits = np.zeros((len(here), SDSS_N_PIXELS), np.uint32)
    place_on_native(
        plate.first_pixel, (plate.flux, plate.ivar, plate.mask_bits), (out[0], out[1], bits)
    )
    block.flux[here], block.ivar[here], block.mask_bits[here] = out[0], out[1], bits
    for i, row in enumerate(here):
        if plate.reason[i]:
            message = f"fibre {fibers[i]}: no usable pixel"
            block.quarantine(int(row), plate.reason[i], message)
        else:
            block.keep(int(row), int(plate.n_repaired[i]))


def _lines_table(block: _Block) -> pa.Table:
    rows = [
        {name: found.get(name, np.nan) for name in MEASURED}
        | {"measured": bool(found.get("measured", False)), "source": found.get("source", "")}
        for found in block.lines
    ]
    return pa.Table.from_pylist(rows, schema=LINES.arrow())
