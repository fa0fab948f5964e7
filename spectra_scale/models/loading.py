"""From row numbers to batches on the device that trains."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from spectra_scale.errors import UsageError
from spectra_scale.models.autoencoder import AutoEncoder
from spectra_scale.models.batches import Batch, VirtualStreams, prefetch
from spectra_scale.models.train_inputs import Communicator, Rows, RowSource


class ArrayRows:
    """Spectra that lie in memory, by row number (`RowSource`).

    Parameters
    ----------
    flux, ivar
        Normalised, float32 (row, pixel), on the device of the training or in main memory.
    rows
        Row numbers these arrays have, ascending; None if they have all from 0.
    """

    resident = True

    def __init__(self, flux: Tensor, ivar: Tensor, rows: Rows | None = None) -> None:
        self._flux, self._ivar, self._rows = flux, ivar, rows

    @property
    def n_pixels(self) -> int:
        """Pixels of a spectrum."""
        return self._flux.shape[1]

    def take(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Flux and ivar of rows, each (row, pixel), where they lie."""
        at = rows if self._rows is None else np.searchsorted(self._rows, rows)
        places = torch.from_numpy(at).to(self._flux.device)
        return self._flux.index_select(0, places), self._ivar.index_select(0, places)


def check_inputs(
    model: AutoEncoder,
    source: RowSource,
    streams: VirtualStreams,
    validation_rows: Rows,
    comm: Communicator,
) -> None:
    """Refuse a training that cannot work before it starts.

    Raises
    ------
    UsageError
        Other pixels than the model's, nothing to train or to validate on, or more workers than
        streams of rows.
    """
    if model.architecture.n_pixels != source.n_pixels:
        message = (
            f"The model takes {model.architecture.n_pixels} pixels, the sample has "
            f"{source.n_pixels}. Set the model's n_pixels to that of the sample's grid."
        )
        raise UsageError(message)
    if len(streams) == 0 or len(validation_rows) == 0:
        message = (
            f"There are {len(streams)} training and {len(validation_rows)} validation rows; both "
            "are needed. Loosen the selection, or add spectra: the split goes by sky position."
        )
        raise UsageError(message)
    if comm.world_size > streams.n_streams:
        message = (
            f"{comm.world_size} workers, but rows are dealt to {streams.n_streams} streams: more "
            f"workers than that have nothing to do. Set [train] workers to {streams.n_streams} "
            "at most."
        )
        raise UsageError(message)


def load_batches(
    source: RowSource, batches: Iterator[Batch], device: torch.device
) -> Generator[tuple[Batch, Tensor, Tensor]]:
    """Batches with their flux and ivar on a device, read ahead unless they are at hand.

    Parameters
    ----------
    source
        Spectra by row number.
    batches
        Which rows; a share without rows gives arrays without rows.
    device
        Where the training runs.

    Yields
    ------
    The batch, flux and ivar of shape (row, pixel).
    """
    nothing = torch.empty((0, source.n_pixels))

    def read() -> Generator[tuple[Batch, Tensor, Tensor]]:
        for batch in batches:
            flux, ivar = source.take(batch.rows) if len(batch.rows) else (nothing, nothing)
            if device.type == "cuda" and not flux.is_cuda:
                flux, ivar = flux.pin_memory(), ivar.pin_memory()
            yield batch, flux, ivar

    with closing(read() if source.resident else prefetch(read())) as ahead:
        for batch, flux, ivar in ahead:
            yield batch, flux.to(device, non_blocking=True), ivar.to(device, non_blocking=True)
