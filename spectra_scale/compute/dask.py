"""Dask: threads or processes of this machine, or a `distributed` cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import dask
from dask.callbacks import Callback

from spectra_scale.compute.place import Work, worker_lost

log = logging.getLogger(__name__)
#: How often the workers of a batch may be killed, and one more, as a `distributed` cluster has it.
LIVES = 4
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
        """Run `task` on every item; see `Place.map`. A lost worker's tasks run again."""
        if not items:
            return []
        progress = work.progress(len(items))
        graph = graph_of(task, items)
        places = {key: i for i, key in enumerate(graph)}
        results: dict[str, R] = {}

        def finished(key: str, result: R, *_: Any) -> None:
            if key in places:
                results[key] = result
                progress.advance(work.size(places[key]))

        for left in reversed(range(LIVES)):
            missing = {key: run for key, run in graph.items() if key not in results}
            try:
                with Callback(posttask=finished):
                    self._get(missing)
                break
            except BrokenProcessPool as error:
                if not left:
                    raise worker_lost(work) from error
                log.warning("%s: a worker process was killed; its tasks run again", work.label)
        return [results[key] for key in graph]

    def _get(self, graph: dict[str, tuple[Callable[[], R]]]) -> None:
        options: dict[str, Any] = {"num_workers": self.workers}
        if self.scheduler == "processes":
            # One task at a time: each is large, and Dask would hand out six.
            options |= {"chunksize": 1, "initializer": end_with_parent}
        dask.base.get_scheduler(scheduler=self.scheduler)(graph, list(graph), **options)


def end_with_parent() -> None:
    """End this process when the one that started it does.

    A worker of a pool whose driver is killed would wait for ever, after it has written whatever
    its task has to write, which by then may be what another run writes.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
        from distributed import KilledWorker, as_completed

        if not items:
            return []
        progress = work.progress(len(items))
        # Tasks write files: they are not pure, and equal ones must not be merged.
        futures = self.client.map(task, list(items), pure=False, retries=2)
        places = {future.key: i for i, future in enumerate(futures)}
        results: dict[str, R] = {}
        try:
            for future, result in as_completed(futures, with_results=True):
                results[future.key] = result
                progress.advance(work.size(places[future.key]))
        except BaseException as error:
            # Nobody waits for the others any more, but a cluster of its own lives on.
            self.client.cancel(futures)
            if isinstance(error, KilledWorker):
                raise worker_lost(work) from error
            raise
        return [results[key] for key in places]


#: What workers of this machine run first: they need not print an error of a task, which reaches
#: whoever gave it to them.
QUIET = """
import logging
logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
logging.getLogger("distributed.worker.memory").setLevel(logging.WARNING)
"""


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
    logging.getLogger("distributed").setLevel(logging.WARNING)
    # Tasks are large and release the GIL, and a process of its own bounds each one's memory.
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=":0",
            host="127.0.0.1",
            preload=QUIET,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield DistributedDask(client)
