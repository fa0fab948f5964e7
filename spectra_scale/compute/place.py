"""A place to run: the one thing a stage knows about where its tasks run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from spectra_scale.compute.progress import Progress
from spectra_scale.config import ComputeSection
from spectra_scale.errors import SpectraScaleError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Work:
    """What a batch of tasks is, for its progress line.

    Parameters
    ----------
    label
        What is being done.
    unit
        What is counted.
    sizes
        Units of each task; 1 each if not given.
    """

    label: str
    unit: str = "tasks"
    sizes: Sequence[int] | None = None

    def progress(self, n_tasks: int) -> Progress:
        """A progress line for these tasks."""
        return Progress(self.label, sum(self.sizes) if self.sizes else n_tasks, self.unit)

    def size(self, i: int) -> int:
        """Units of task `i`."""
        return self.sizes[i] if self.sizes else 1


def worker_lost(work: Work) -> SpectraScaleError:
    """The error of a batch whose workers were killed more often than they are replaced."""
    msg = (
        f"{work.label}: a worker process was killed, and again when its task was given to "
        "another, most often because memory ran out. Give it fewer workers or more memory, and "
        "run the same command to go on: what was written is kept."
    )
    return SpectraScaleError(msg)


class Place(Protocol):
    """Where independent tasks run."""

    @property
    def name(self) -> str:
        """Name and size, for the manifest."""
        ...

    def map(self, task: Callable[[T], R], items: Sequence[T], work: Work) -> list[R]:
        """Run `task` on every item.

        Parameters
        ----------
        task
            A top-level function (or a `functools.partial` of one): idempotent, opens its data by
            path, returns counts or sums, never spectra.
        items
            One argument each.
        work
            For the progress line.

        Returns
        -------
        list
            Results in the order of `items`.
        """
        ...


class Here:
    """The present process, one task after the other: for tests and for debugging."""

    name = "serial"

    def map(self, task: Callable[[T], R], items: Sequence[T], work: Work) -> list[R]:
        """Run `task` on every item, in order."""
        progress = work.progress(len(items))
        results = []
        for i, item in enumerate(items):
            results.append(task(item))
            progress.advance(work.size(i))
        return results


@contextmanager
def open_place(settings: ComputeSection) -> Iterator[Place]:
    """Open the place a job asks for, and close what was opened with it.

    Parameters
    ----------
    settings
        `[compute]` of the job.
    """
    if settings.engine == "serial":
        yield Here()
    elif settings.engine == "ray":
        from spectra_scale.compute.ray import DaskOnRay, ray_session

        with ray_session(settings.ray_address, settings.workers):
            yield DaskOnRay()
    elif settings.engine == "distributed":
        from spectra_scale.compute.dask import open_cluster

        with open_cluster(settings.address, settings.workers) as cluster:
            yield cluster
    else:
        from spectra_scale.compute.dask import LocalDask

        yield LocalDask(settings.engine, settings.workers)
