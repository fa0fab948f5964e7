"""Normalised rows of a sample, straight from Zarr: resident where they fit, else streamed."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.loading import ArrayRows
from spectra_scale.store.arrays import read_rows
from spectra_scale.store.shards import read_span, sharded_array

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
#: Bytes of flux and ivar a pixel.
PIXEL_BYTES = 8


class Spectra:
    """A sample as a training reads it.

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
    factor
        What `Normalisation.factor` gave for every row, shape (row,), so that no median is taken
        twice; None takes them.
    """

    def __init__(
        self,
        arrays: Path,
        shape: tuple[int, int],
        chunk_rows: int,
        inputs: ModelInputs,
        factor: Floats | None = None,
    ) -> None:
        self.arrays, self.shape, self.chunk_rows = arrays, shape, chunk_rows
        self._inputs, self._factor = inputs, factor
        self._found = {name: sharded_array(arrays, name) for name in ("flux", "ivar")}

    @property
    def n_chunks(self) -> int:
        """Chunks of the array."""
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of flux and ivar of a chunk."""
        return self.chunk_rows * self.shape[1] * PIXEL_BYTES

    def read(self, chunk: int, flux: Floats, ivar: Floats) -> None:
        """Read and normalise a chunk.

        Parameters
        ----------
        chunk
            Its number.
        flux, ivar
            Where to put it, each (chunk_rows, pixel), C-contiguous; of the last chunk the first
            rows are used.

        Raises
        ------
        DamagedArtifactError
            If a shard is cut, or a checksum does not agree.
        """
        start = chunk * self.chunk_rows
        rows = slice(start, min(start + self.chunk_rows, self.shape[0]))
        flux, ivar = (values[: rows.stop - start] for values in (flux, ivar))
        for name, values in (("flux", flux), ("ivar", ivar)):
            array = self._found[name]
            if array is None:  # Zarr's own machinery for a layout that is not ours
                values[:] = read_rows(self.arrays, name, rows)
            else:
                read_span(array, rows.start, rows.stop, values)
        factor = None if self._factor is None else self._factor[rows]
        self._inputs.apply_in_place(flux, ivar, factor)


def held_rows(spectra: Spectra, rows: Rows, device: torch.device | str = "cpu") -> ArrayRows:
    """Read some rows of a sample into the memory of this machine or of its GPU.

    Parameters
    ----------
    spectra
        The sample.
    rows
        Rows to hold, ascending, each once.
    device
        Where to hold them.
    """
    flux = torch.empty((len(rows), spectra.shape[1]), device=device)
    ivar = torch.empty_like(flux)
    buffers = [np.empty((spectra.chunk_rows, spectra.shape[1]), np.float32) for _ in range(2)]
    chunks = np.unique(rows // spectra.chunk_rows)
    edges = np.searchsorted(rows, np.append(chunks, spectra.n_chunks) * spectra.chunk_rows)
    for i, chunk in enumerate(chunks):
        spectra.read(int(chunk), *buffers)
        here = slice(edges[i], edges[i + 1])
        wanted = rows[here] - chunk * spectra.chunk_rows
        for target, buffer in zip((flux, ivar), buffers, strict=True):
            target[here] = torch.from_numpy(buffer[wanted])
    return ArrayRows(flux, ivar, rows)


class StreamedRows:
    """Rows of a sample through a fixed pool of chunks; the least recently used gives way.

    Parameters
    ----------
    spectra
        The sample.
    memory
        Bytes of the pool at most; it holds one chunk at least.
    """

    resident = False

    def __init__(self, spectra: Spectra, memory: float) -> None:
        self.n_pixels, self._spectra = spectra.shape[1], spectra
        self.n_slots = max(1, min(int(memory // spectra.chunk_bytes), spectra.n_chunks))
        shape = (self.n_slots * spectra.chunk_rows, self.n_pixels)
        # Not touched before it is used: the system gives pages only then.
        self._flux, self._ivar = torch.empty(shape), torch.empty(shape)
        self._pools = self._flux.numpy(), self._ivar.numpy()
        self._slots: OrderedDict[int, int] = OrderedDict()

    def take(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Flux and ivar of rows, each (row, pixel), in main memory."""
        chunk_rows = self._spectra.chunk_rows
        chunks, which = np.unique(rows // chunk_rows, return_inverse=True)
        if len(chunks) <= self.n_slots:
            slots = np.array([self._slot(int(chunk)) for chunk in chunks])
            places = torch.from_numpy(slots[which] * chunk_rows + rows % chunk_rows)
            return self._flux.index_select(0, places), self._ivar.index_select(0, places)
        flux = torch.empty((len(rows), self.n_pixels))
        ivar = torch.empty_like(flux)
        for number in range(len(chunks)):
            here = np.flatnonzero(which == number)
            flux[here], ivar[here] = self.take(rows[here])
        return flux, ivar

    def _slot(self, chunk: int) -> int:
        if chunk in self._slots:
            self._slots.move_to_end(chunk)
            return self._slots[chunk]
        full = len(self._slots) == self.n_slots
        slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
        rows = slice(slot * self._spectra.chunk_rows, (slot + 1) * self._spectra.chunk_rows)
        self._spectra.read(chunk, *(pool[rows] for pool in self._pools))
        self._slots[chunk] = slot
        return slot
