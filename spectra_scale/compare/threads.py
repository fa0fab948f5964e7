"""How many threads the libraries below may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS and OpenMP to one thread, as a block or as a decorator.

    The samples are small, and threads that wait for each other on a machine that does something
    else as well take ten times as much of it: 93 seconds of two cores for 9 of one. Libraries
    that are not loaded yet are not limited.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
