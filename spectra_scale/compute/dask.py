"""Dask: threads or processes of this machine, or a `distributed` cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import dask
from dask.callbacks import Callback

from spectra_scale.compute.place import Work

T = TypeVar("T")
R = TypeVar("R")


def graph_of(task: Callable[[T], R], items: Sequence[T]) -> dict[str, tuple[Callable[[], R]]]:
    """A Dask graph of independent tasks; items are bound, so that Dask never looks inside them."""
    return {f"task-{i}": (partial(task, item),) for i, item in enumerate(items)}


class LocalDask:
    """Dask's threaded or multiprocessing scheduler.

    Parameters
    ----------
    scheduler
        ``threads`` (the kernels release the GIL) or ``processes``.
    workers
        How many.
    """

    def __init__(self, scheduler: Literal["threads", "processes"], workers: int) -> None:
        self.scheduler, self.workers = scheduler, workers

    @property
    def name(self) -> str:
        """Name and size, for the manifest."""
        return f"dask {self.scheduler} x{self.workers}"

    def map(self, task: Callable[[T], R], items: Sequence[T], work: Work) -> list[R]:
        """Run `task` on every item; see `Place.map`."""
        if not items:
            return []
        progress = work.progress(len(items))
        graph = graph_of(task, items)
        places = {key: i for i, key in enumerate(graph)}

        def finished(key: str, *_: Any) -> None:
            if key in places:
                progress.advance(work.size(places[key]))

        get = dask.base.get_scheduler(scheduler=self.scheduler)
        with Callback(posttask=finished):
            return list(get(graph, list(graph), num_workers=self.workers))


class DistributedDask:
    """A `distributed` cluster.

    Parameters
    ----------
    client
        A connected `distributed.Client`.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    @property
    def name(self) -> str:
        """Name and size, for the manifest."""
        return f"dask distributed x{len(self.client.nthreads())}"

    def map(self, task: Callable[[T], R], items: Sequence[T], work: Work) -> list[R]:
        """Run `task` on every item; see `Place.map`. A lost worker's tasks run again."""
        from distributed import as_completed

        if not items:
            return []
        progress = work.progress(len(items))
        # Tasks write files: they are not pure, and equal ones must not be merged.
        futures = self.client.map(task, list(items), pure=False, retries=2)
        places = {future.key: i for i, future in enumerate(futures)}
        for future in as_completed(futures, raise_errors=True):
            progress.advance(work.size(places[future.key]))
        return list(self.client.gather(futures))


@contextmanager
def open_cluster(address: str | None, workers: int) -> Iterator[DistributedDask]:
    """Connect to a Dask scheduler, or start a cluster of processes on this machine.

    Parameters
    ----------
    address
        Of a running scheduler; None starts a local cluster.
    workers
        Processes of the local cluster.
    """
    from distributed import Client, LocalCluster

    if address is not None:
        with Client(address) as client:
            yield DistributedDask(client)
        return
    # Tasks are large and release the GIL, and a process of its own bounds each one's memory.
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield DistributedDask(client)
