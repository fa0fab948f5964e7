"""Native spectra of some rows of a release: from its arrays, or from the survey's own files."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.errors import BadSpectrumError, DamagedArtifactError
from spectra_scale.spectrum.grid import NativeGrid
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.store.arrays import read_rows
from spectra_scale.store.objects import column
from spectra_scale.store.release import read_native
from spectra_scale.surveys.block import SpectraBlock, spectrum_digest
from spectra_scale.surveys.files import locate
from spectra_scale.surveys.formats import FORMATS

PLACE = ("source_format", "source_file", "source_row", "status", "checksum")
"""Catalogue columns that say where a spectrum is, and what it was."""
NAMES = ("flux", "ivar", "mask_bits")
Ints = NDArray[np.int64]
Buffers = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint32]]


@dataclass(frozen=True, slots=True, eq=False)
class NativeRows:
    """Rows of one release whose spectra are read later, in a task.

    Parameters
    ----------
    grid
        Native grid of the release.
    numbers
        Row numbers, ascending.
    chunk_rows
        Rows that are compressed together.
    arrays
        Zarr group; None if the spectra are not stored.
    places
        `PLACE` of each row, row-aligned with `numbers`, where they are not stored.
    roots
        Source folders, where they are not stored.
    """

    grid: NativeGrid
    numbers: Ints
    chunk_rows: int
    arrays: Path | None
    places: pa.Table | None = None
    roots: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def blocks(self) -> list[slice]:
        """Parts to read one by one: the rows of one chunk each, so that each is unpacked once."""
        chunks = self.numbers // self.chunk_rows
        edges = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(chunks)]
        return [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]

    def buffers(self) -> Buffers | None:
        """Arrays that `read` may fill again and again; None where it needs none."""
        if self.arrays is None:
            return None
        shape = (self.chunk_rows, self.grid.n_pixels)
        return np.empty(shape, "f4"), np.empty(shape, "f4"), np.empty(shape, "u4")

    def read(
        self, part: slice, keys: NDArray[Any] | None = None, into: Buffers | None = None
    ) -> ObservedSpectra:
        """Read some of the rows.

        Parameters
        ----------
        part
            Which of them, by their place here.
        keys
            Key of each spectrum read; '' if not given.
        into
            `buffers` to unpack one of the `blocks` into: what is returned may be a view of them,
            good until the next reading. In a loop this saves the making of memory pages.

        Returns
        -------
        ObservedSpectra
            On `grid`; a spectrum that ingest could not use has ivar 0.

        Raises
        ------
        DamagedArtifactError
            If a survey file is gone, or is another than it was when the release was made.
        """
        numbers = self.numbers[part]
        if keys is None:
            keys = np.full(len(numbers), "", dtype=object)
        if self.arrays is None:
            return self._from_files(part, keys)
        if into is None or not len(numbers):
            return read_native(self.arrays, self.grid, numbers, keys)
        first = int(numbers[0]) // self.chunk_rows * self.chunk_rows
        assert numbers[-1] < first + self.chunk_rows, "rows of more than one chunk"
        chunk = slice(first, first + self.chunk_rows)
        found = [read_rows(self.arrays, name, chunk, out)
                 for name, out in zip(NAMES, into, strict=True)]  # fmt: skip
        pick: Any = numbers - first
        if pick[-1] - pick[0] + 1 == len(pick):
            pick = slice(int(pick[0]), int(pick[-1]) + 1)
        flux, ivar, bits = (array[pick] for array in found)
        return ObservedSpectra(keys, self.grid.first_pixel, flux, ivar, bits,
                               self.grid.linear_step)  # fmt: skip

    def _from_files(self, part: slice, keys: NDArray[Any]) -> ObservedSpectra:
        assert self.places is not None
        table = self.places.slice(*_span(part, len(self)))
        shape = (table.num_rows, self.grid.n_pixels)
        out = (np.zeros(shape, "f4"), np.zeros(shape, "f4"), np.zeros(shape, "u4"))
        ids, kept = column(table, "source_row"), column(table, "status") == "kept"
        checksums = column(table, "checksum")
        for (kind, name), rows in files_of(table).items():
            mine = rows[kept[rows]]
            if not len(mine):
                continue
            place_rows(self._block(kind, name, ids[mine]), self.grid, mine, out)
            for row in mine.tolist():
                if spectrum_digest(*(array[row] for array in out)) != checksums[row]:
                    msg = (
                        f"{locate(self.roots, name)}: spectrum {ids[row]} is not what it was when "
                        "the release was made (copy = false). Put the file back as it was, or "
                        "ingest it again under another name."
                    )
                    raise DamagedArtifactError(msg)
        return ObservedSpectra(keys, self.grid.first_pixel, *out, self.grid.linear_step)

    def _block(self, kind: str, name: str, ids: Ints) -> SpectraBlock:
        path = locate(self.roots, name)
        try:
            block = FORMATS[kind].read(path, ids)
        except (BadSpectrumError, OSError) as error:
            msg = (
                f"{path}: could be read when the release was made (copy = false), now it cannot: "
                f"{error}. Put the file back, or give its folder as the release's source."
            )
            raise DamagedArtifactError(msg) from error
        return block


def _span(part: slice, length: int) -> tuple[int, int]:
    start, stop, _ = part.indices(length)
    return start, max(stop - start, 0)


def files_of(table: pa.Table) -> dict[tuple[str, str], Ints]:
    """Rows of a table by format and file, in the order of their first appearance."""
    found: dict[tuple[str, str], list[int]] = {}
    places = zip(table["source_format"].to_pylist(), table["source_file"].to_pylist(), strict=True)
    for row, place in enumerate(places):
        found.setdefault(place, []).append(row)
    return {place: np.array(rows, np.int64) for place, rows in found.items()}


def place_rows(
    block: SpectraBlock, grid: NativeGrid, rows: Ints, out: tuple[NDArray[Any], ...]
) -> None:
    """Write the usable spectra of a file into rows of native arrays.

    Parameters
    ----------
    block
        Spectra of the file.
    grid
        Native grid.
    rows
        Row of `out` that each belongs to, ascending.
    out
        flux, ivar and mask bits, shape (row, grid.n_pixels), zero so far; changed in place.
    """
    good = np.array([not reason for reason in block.reason], bool)
    first, n_rows = int(rows[0]), len(rows)
    if good.all() and rows[-1] - first + 1 == n_rows:
        # Neighbours are written where they belong, without a copy between.
        flux, ivar, bits = (array[first : first + n_rows] for array in out)
        block.place(grid, (flux, ivar, bits))
        return
    shape = (n_rows, grid.n_pixels)
    parts = (np.zeros(shape, "f4"), np.zeros(shape, "f4"), np.zeros(shape, "u4"))
    block.place(grid, parts)
    for array, values in zip(out, parts, strict=True):
        array[rows[good]] = values[good]
