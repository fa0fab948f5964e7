"""What the sections of `gpu.py` share: where they run, how they are timed, what they say."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

# The package and the tests' own modules, where nothing is installed.
_HERE = Path(__file__).resolve()
sys.path[:0] = [str(_HERE.parents[1]), str(_HERE.parents[2])]

Found = dict[str, float]
CORES = len(os.sched_getaffinity(0))
BEGAN = time.perf_counter()


@dataclass(frozen=True)
class Run:
    """Where, and how much of everything."""

    device: str
    quick: bool

    def size(self, whole: int, quick: int) -> int:
        return quick if self.quick else whole

    def wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], rounds: int = 3) -> float:
        """Least wall time of a call, after one that is not counted."""
        call()
        taken = []
        for _ in range(rounds):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - start)
        return min(taken)


def say(text: str) -> None:
    print(f"[{time.perf_counter() - BEGAN:6.1f} s] {text}", flush=True)


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def places(run: Run) -> list[tuple[str, str, int]]:
    """Name, device and number of threads of what is compared."""
    return [("device", run.device, CORES), ("cores", "cpu", CORES), ("thread", "cpu", 1)]
