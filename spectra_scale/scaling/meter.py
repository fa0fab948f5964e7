"""Clocks: what tasks, processes and the machine use while a stage is measured."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from spectra_scale.compute.place import Place, Work
from spectra_scale.provenance import peak_memory

T = TypeVar("T")
R = TypeVar("R")
MIB = 2.0**20
#: What Ray calls the processes that train; Ray Train has half a dozen others.
RANK = "RayTrainWorker"
#: Longest wait for all workers to have begun a task, in seconds.
PATIENCE = 60.0


# Tasks ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskUse:
    """What one task used, as the worker that ran it says.

    Parameters
    ----------
    process
        Number of the worker's process.
    cpu_seconds
        CPU time of that process, all threads, from the task's beginning to its end.
    memory_mib
        Most memory the process has ever held (resident).
    """

    process: int
    cpu_seconds: float
    memory_mib: float


def metered(task: Callable[[T], R], item: T) -> tuple[R, TaskUse]:
    """Run a task, and say what it used."""
    begin = time.process_time()
    result = task(item)
    return result, TaskUse(os.getpid(), time.process_time() - begin, peak_memory())


def together(task: Callable[[T], R], folder: Path, n: int, item: T) -> R:
    """Run a task once `n` tasks have begun: with `n` workers, every one of them gets a task."""
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    end = time.monotonic() + PATIENCE
    while len(list(folder.iterdir())) < n and time.monotonic() < end:
        time.sleep(0.02)
    return task(item)


@dataclass(slots=True)
class MeteredPlace:
    """A place that notes what its tasks use.

    Parameters
    ----------
    place
        Where tasks run.
    uses
        What each task used.
    seconds
        Wall time in which tasks ran; the rest of a stage's time is the driver's own.
    """

    place: Place
    uses: list[TaskUse] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Name and size of the place."""
        return self.place.name

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all tasks."""
        return sum(use.cpu_seconds for use in self.uses)

    @property
    def memory(self) -> dict[int, float]:
        """Peak memory (MiB) of each worker's process."""
        found: dict[int, float] = {}
        for use in self.uses:
            found[use.process] = max(found.get(use.process, 0.0), use.memory_mib)
        return found

    def map(self, task: Callable[[T], R], items: Sequence[T], work: Work) -> list[R]:
        """Run `task` on every item; see `Place.map`."""
        begin = time.perf_counter()
        found = self.place.map(partial(metered, task), items, work)
        self.seconds += time.perf_counter() - begin
        self.uses.extend(use for _, use in found)
        return [result for result, _ in found]


@dataclass(slots=True)
class WarmingPlace:
    """A place on which every worker gets a task of each batch, if there are as many tasks.

    Parameters
    ----------
    place
        Where tasks run.
    workers
        How many it has.
    folder
        For the workers to wait for each other in.
    """

    place: Place
    workers: int
    folder: Path

    @property
    def name(self) -> str:
        """Name and size of the place."""
        return self.place.name

    def map(self, task: Callable[[T], R], items: Sequence[T], work: Work) -> list[R]:
        """Run `task` on every item; see `Place.map`."""
        if len(items) < self.workers:
            return self.place.map(task, items, work)
        meeting = self.folder / str(time.monotonic_ns())
        meeting.mkdir(parents=True)
        return self.place.map(partial(together, task, meeting, self.workers), items, work)


# Processes and machine --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What this process, its descendants and the machine have used so far.

    Parameters
    ----------
    time
        Wall clock, from any zero.
    own_cpu
        CPU seconds of this process.
    tree_cpu
        CPU seconds of its descendants: Ray's workers and Ray itself.
    busy
        CPU seconds of the whole machine.
    workers
        Memory (MiB) now of each process that trains.
    """

    time: float
    own_cpu: float
    tree_cpu: float
    busy: float
    workers: dict[int, float]


def snapshot(process: psutil.Process) -> Snapshot:
    """Look at a process, its descendants, and the machine.

    What a process that has ended used is counted with the parent that waited for it.
    """
    tree, workers = 0.0, {}
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied), child.oneshot():
            times = child.cpu_times()
            tree += times.user + times.system + times.children_user + times.children_system
            if RANK in child.name():
                workers[child.pid] = child.memory_info().rss / MIB
    all_ = psutil.cpu_times()
    busy = sum(all_) - all_.idle - getattr(all_, "iowait", 0.0)
    # A guest's time is in the user's too.
    busy -= getattr(all_, "guest", 0.0) + getattr(all_, "guest_nice", 0.0)
    own = process.cpu_times()
    return Snapshot(time.perf_counter(), own.user + own.system, tree, busy, workers)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float:
    """Processes that want to run, mean over the last minute."""
    return os.getloadavg()[0]


def used_by_others(begin: Snapshot, end: Snapshot) -> float | None:
    """Cores that other processes of the machine kept busy, mean; None where it cannot be told."""
    seconds = end.time - begin.time
    if seconds <= 0 or cores() != os.cpu_count():
        # In a container the machine's clocks count the cores of its neighbours too.
        return None
    ours = end.tree_cpu - begin.tree_cpu + end.own_cpu - begin.own_cpu
    return max(0.0, (end.busy - begin.busy - ours) / seconds)


class Watch:
    """A thread that looks at the processes now and then, and when a first and a last thing happen.

    Parameters
    ----------
    count
        Says how often the awaited thing has happened.
    interval, look
        Seconds between two questions, and between two looks at the processes.
    """

    def __init__(self, count: Callable[[], int], interval: float = 0.1, look: float = 1.0) -> None:
        self._count, self._interval, self._look = count, interval, look
        self._process = psutil.Process()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._looked = 0.0
        #: Snapshots by how often it had happened, the first of each.
        self.seen: dict[int, Snapshot] = {}
        #: Most memory (MiB) of those that train together, and of one of them.
        self.memory_sum = self.memory_max = 0.0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        self._thread.join()
        self._see(self._count())

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            count = self._count()
            if count not in self.seen or time.perf_counter() - self._looked > self._look:
                self._see(count)

    def _see(self, count: int) -> None:
        found = snapshot(self._process)
        self._looked = found.time
        self.seen.setdefault(count, found)
        sizes = found.workers.values()
        self.memory_sum = max(self.memory_sum, sum(sizes))
        self.memory_max = max(self.memory_max, *sizes, 0.0)
