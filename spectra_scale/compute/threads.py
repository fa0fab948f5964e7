"""How many threads a task may use."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread_in_workers() -> Iterator[None]:
    """One torch thread for as long as the block lasts, but in a process that works alone.

    Tasks run side by side: with threads of their own they would fight for the same cores.
    """
    alone = (
        multiprocessing.parent_process() is None
        and threading.current_thread() is threading.main_thread()
    )
    if alone:
        yield
        return
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread for as long as the block lasts, wherever it runs.

    On some processors the rounding of a product depends on the number of threads, so this is for
    small products whose results must be the same bits everywhere.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
