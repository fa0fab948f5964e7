"""Where the time of an epoch goes: waiting for rows, sums over ranks, and the rest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from spectra_scale.models.train_inputs import Communicator
from spectra_scale.provenance import peak_memory

T = TypeVar("T")


class Meter:
    """Clocks of one epoch on one rank; they run from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._data = self._reduce = 0.0

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; what it takes to get one counts as data."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._data += time.perf_counter() - start
            yield item

    def reduce(self, tensor: torch.Tensor, comm: Communicator) -> None:
        """Sum a tensor over ranks; what that takes counts as such."""
        start = time.perf_counter()
        comm.sum_(tensor)
        self._reduce += time.perf_counter() - start

    def read(self, comm: Communicator, device: torch.device) -> dict[str, float]:
        """Times and memory for `EpochRecord`, over all ranks; every rank must call it.

        Parameters
        ----------
        comm
            How ranks talk.
        device
            Where they sum: nccl knows no tensors of main memory.
        """
        found = [self._data, self._reduce, time.process_time() - self._cpu]
        seconds = time.perf_counter() - self._wall
        memory = peak_memory()
        each = [memory if rank == comm.rank else 0.0 for rank in range(comm.world_size)]
        together = torch.tensor([*found, *each], dtype=torch.float64, device=device)
        comm.sum_(together)
        data, reduce, cpu, *memories = together.tolist()
        return {
            "seconds": seconds,
            "data_seconds": data / comm.world_size,
            "reduce_seconds": reduce / comm.world_size,
            "cpu_seconds": cpu,
            "memory_mib": max(memories),
        }
