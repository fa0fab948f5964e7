"""Normalised rows of a sample, straight from Zarr: resident where they fit, else streamed."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectra_scale.models.inputs import ModelInputs
from spectra_scale.store.sample import read_rest

Floats = NDArray[np.float32]
#: Bytes of flux and ivar a pixel.
PIXEL_BYTES = 8


class SampleRows:
    """Rows by number, a chunk of the array at a time; chunks used last are kept.

    A training rank reads the same blocks in every epoch (`VirtualStreams`), so it holds all of
    them after the first epoch if they fit into `memory`; otherwise the least recently used go.

    Parameters
    ----------
    arrays
        Zarr group of the sample.
    shape
        Its rows and pixels.
    chunk_rows
        Rows compressed together.
    inputs
        Normalisation and fill, applied when a chunk is read.
    memory
        Bytes to hold at most (at least one chunk is held).
    """

    def __init__(
        self,
        arrays: Path,
        shape: tuple[int, int],
        chunk_rows: int,
        inputs: ModelInputs,
        memory: float,
    ) -> None:
        self.arrays, self.chunk_rows, self.inputs = arrays, chunk_rows, inputs
        self.n_rows, self._n_pixels = shape
        self._most = max(1, int(memory // (chunk_rows * shape[1] * PIXEL_BYTES)))
        self._chunks: OrderedDict[int, tuple[Floats, Floats]] = OrderedDict()

    @property
    def n_pixels(self) -> int:
        """Pixels of a spectrum."""
        return self._n_pixels

    @property
    def resident(self) -> bool:
        """Whether all rows fit into memory."""
        return self._most * self.chunk_rows >= self.n_rows

    def take(self, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Normalised flux and ivar of rows, each (row, pixel); ivar 0 is missing."""
        flux = np.empty((len(rows), self._n_pixels), np.float32)
        ivar = np.empty_like(flux)
        chunk = rows // self.chunk_rows
        for number in np.unique(chunk):
            here = np.flatnonzero(chunk == number)
            source = self._chunk(int(number))
            at = rows[here] - number * self.chunk_rows
            flux[here], ivar[here] = source[0][at], source[1][at]
        return flux, ivar

    def _chunk(self, number: int) -> tuple[Floats, Floats]:
        if number in self._chunks:
            self._chunks.move_to_end(number)
            return self._chunks[number]
        start = number * self.chunk_rows
        rows = slice(start, min(start + self.chunk_rows, self.n_rows))
        found = self.inputs.apply(*read_rest(self.arrays, rows))
        self._chunks[number] = (found.flux, found.ivar)
        while len(self._chunks) > self._most:
            self._chunks.popitem(last=False)
        return self._chunks[number]
