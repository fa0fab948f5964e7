"""Ray: its lifetime, and Dask graphs on its workers (Dask-on-Ray)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import ray

from spectra_scale.compute.dask import graph_of
from spectra_scale.compute.place import Work, worker_lost

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)

# At its first message about a lost worker, Ray puts a function of its own in place of `print` in
# the driver; from then on numba, whose parallel functions name `print`, compiles none of them.
os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")


@contextmanager
def ray_session(address: str | None, workers: int) -> Iterator[None]:
    """Connect to Ray for as long as the block lasts.

    Inside a Ray job, Ray's own variable says which cluster to use; with an address that one is
    used; else a local Ray with `workers` CPUs is started and stopped again. A session that is
    already open is used and left open.

    Parameters
    ----------
    address
        Of a running cluster, or None.
    workers
        CPUs of a local Ray.
    """
    if ray.is_initialized():
        yield
        return
    if address is None and "RAY_ADDRESS" in os.environ:
        address = "auto"
    own = {} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    log.info(
        "ray address=%s nodes=%d cpus=%g gpus=%g",
        address or "local",
        len(ray.nodes()),
        ray.cluster_resources().get("CPU", 0),
        ray.cluster_resources().get("GPU", 0),
    )
    try:
        yield
    finally:
        ray.shutdown()


class DaskOnRay:
    """Dask graphs run by Ray's workers: `ray.util.dask`."""

    @property
    def name(self) -> str:
        """Name and size, for the manifest."""
        return f"dask-on-ray x{ray.cluster_resources().get('CPU', 0):g}"

    def map(self, task: Callable[[T], R], items: Sequence[T], work: Work) -> list[R]:
        """Run `task` on every item; see `Place.map`. A lost worker's tasks run again."""
        from ray.exceptions import RayError, RayTaskError
        from ray.util.dask import ray_dask_get

        if not items:
            return []
        progress = work.progress(len(items))
        graph = graph_of(task, items)
        references = list(ray_dask_get(graph, list(graph), ray_persist=True))
        places = {reference: i for i, reference in enumerate(references)}
        try:
            waiting = references
            while waiting:
                done, waiting = ray.wait(waiting, num_returns=1)
                # A task that failed ends the batch at once.
                ray.get(done)
                for reference in done:
                    progress.advance(work.size(places[reference]))
            return list(ray.get(references))
        except RayTaskError as error:
            # The task's own error: Ray's has a traceback for a message.
            raise error.cause from error
        except RayError as error:
            raise worker_lost(work) from error
