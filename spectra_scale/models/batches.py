"""Which rows make up which batch, whatever the number of workers (design.md §2).

An epoch is one sequence of rows. Position p of it is served by virtual stream ``p % n_streams``,
batch t holds the positions [t·B, (t+1)·B), and a rank serves the streams it owns. So 1, 2 or 8
workers train on the same batches, and each rank knows without asking how many rows a batch has
in all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spectra_scale.errors import UsageError

Rows = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One rank's share of a batch.

    Parameters
    ----------
    rows
        Row numbers of the sample this rank computes; may be empty.
    n_global
        Rows of the batch over all ranks.
    index
        Number of the batch in the epoch.
    """

    rows: Rows
    n_global: int
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class VirtualStreams:
    """Seeded order of training rows, the same for any number of workers.

    Rows are cut into blocks aligned to `block_rows`, which should be the rows of a chunk on disk.
    The blocks are shuffled once and laid end to end; stream s is the s-th of `n_streams` equal
    parts, so streams differ by one row at most and only the end of an epoch has absent rows. In
    every epoch each stream puts its blocks in a new order and shuffles the rows of
    `buffer_blocks` blocks together (the first time of fewer, another number in each stream, so
    that not all of them come to new blocks at once). A stream always reads the same blocks: a
    rank can keep them.

    Parameters
    ----------
    rows
        Eligible row numbers, strictly ascending.
    block_rows
        Most rows of a block. Halved until there are 4 blocks a stream, if there are that many
        rows, so that a small sample is shuffled well too.
    seed
        Seed of all shuffles.
    n_streams
        Number of virtual streams; ranks beyond it get no rows.
    buffer_blocks
        Blocks a stream shuffles together: its rows in memory at once.
    """

    rows: Rows
    block_rows: int
    seed: int
    n_streams: int = 64
    buffer_blocks: int = 4

    def __post_init__(self) -> None:
        if min(self.block_rows, self.n_streams, self.buffer_blocks) < 1 or self.seed < 0:
            message = (
                f"block_rows={self.block_rows}, n_streams={self.n_streams} and buffer_blocks="
                f"{self.buffer_blocks} must be at least 1, seed={self.seed} at least 0."
            )
            raise UsageError(message)
        if self.rows.ndim != 1 or (np.diff(self.rows) <= 0).any():
            message = "Training rows must be one list in strictly ascending order: sort them."
            raise UsageError(message)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def block_size(self) -> int:
        """Most rows of a block after halving for small samples."""
        size = self.block_rows
        while size > 1 and size * 4 * self.n_streams > len(self.rows):
            size //= 2
        return size

    def n_batches(self, batch_size: int) -> int:
        """Number of batches of an epoch, the same on all ranks."""
        return -(-len(self.rows) // batch_size)

    def epoch(
        self, epoch: int, batch_size: int, rank: int, world_size: int, start_batch: int = 0
    ) -> Iterator[Batch]:
        """Batches of one epoch, as one rank sees them.

        Parameters
        ----------
        epoch
            Number of the epoch; each has an order of its own.
        batch_size
            Rows of a batch over all ranks.
        rank, world_size
            This worker and how many there are. Rank r owns the streams s with
            ``s % world_size == r``.
        start_batch
            First batch to give, for going on in the middle of an epoch.

        Yields
        ------
        As many batches on every rank. Over all ranks each eligible row comes exactly once; the
        last batch may be smaller, and a rank's share may be empty.
        """
        if batch_size < 1 or not 0 <= rank < world_size:
            message = f"batch_size={batch_size}, rank={rank} of {world_size} makes no sense."
            raise UsageError(message)
        owned = np.arange(rank, self.n_streams, world_size)
        order = self._order(epoch, owned)
        for index in range(start_batch, self.n_batches(batch_size)):
            start, stop = index * batch_size, min((index + 1) * batch_size, len(self.rows))
            local = slice(self._before(owned, start), self._before(owned, stop))
            yield Batch(order[local], stop - start, index)

    def _before(self, owned: Rows, position: int) -> int:
        """How many positions before `position` belong to the `owned` streams."""
        rounds, rest = divmod(position, self.n_streams)
        return rounds * len(owned) + int(np.searchsorted(owned, rest))

    def _order(self, epoch: int, owned: Rows) -> Rows:
        """Rows of the owned streams in the order of their positions in the epoch."""
        n_rounds = -(-len(self.rows) // self.n_streams)
        # The longer streams come first, so the last round is filled without a gap and what lies
        # beyond it is never reached by `epoch`.
        order = np.full((n_rounds, len(owned)), -1, np.int64)
        segments = self._segments()
        for column, stream in enumerate(owned):
            rng = np.random.default_rng([self.seed, 1, epoch, stream])
            shuffled = self._shuffle(segments[stream], 1 + stream % self.buffer_blocks, rng)
            order[: len(shuffled), column] = shuffled
        return order.ravel()

    def _segments(self) -> list[NDArray[np.int64]]:
        """For every stream, its blocks as (start, stop) in `rows`."""
        cuts = np.flatnonzero(np.diff(self.rows // self.block_size)) + 1
        edges = np.concatenate(([0], cuts, [len(self.rows)])).astype(np.int64)
        blocks = np.random.default_rng([self.seed, 0]).permutation(len(edges) - 1)
        start, stop = edges[:-1][blocks], edges[1:][blocks]
        laid = np.concatenate(([0], np.cumsum(stop - start)))
        whole, longer = divmod(len(self.rows), self.n_streams)
        ends = np.cumsum(np.full(self.n_streams, whole) + (np.arange(self.n_streams) < longer))
        segments = []
        for first, last in zip(ends - np.diff(ends, prepend=0), ends, strict=True):
            # A block that straddles the border of two streams is divided between them.
            inside = slice(np.searchsorted(laid, first, "right") - 1, np.searchsorted(laid, last))
            a, at = start[inside], laid[:-1][inside]
            low = a + np.maximum(first - at, 0)
            high = np.minimum(stop[inside], a + (last - at))
            segments.append(np.stack([low, high], axis=1))
        return segments

    def _shuffle(self, segments: NDArray[np.int64], first: int, rng: np.random.Generator) -> Rows:
        """Rows of one stream: blocks in random order, rows shuffled within a few blocks."""
        parts = [np.empty(0, np.int64)]
        shuffled = segments[rng.permutation(len(segments))]
        starts = [0, *range(first, len(shuffled), self.buffer_blocks)]
        for start, stop in pairwise([*starts, len(shuffled)]):
            together = [self.rows[low:high] for low, high in shuffled[start:stop]]
            if together:
                parts.append(rng.permutation(np.concatenate(together)))
        return np.concatenate(parts)

    def owned_rows(self, rank: int, world_size: int) -> Rows:
        """Rows that one rank trains on, in every epoch; ascending."""
        segments = self._segments()
        mine = [self.rows[low:high] for stream in range(rank, self.n_streams, world_size)
                for low, high in segments[stream]]  # fmt: skip
        return np.sort(np.concatenate([np.empty(0, np.int64), *mine]))

    def active_blocks(self, world_size: int) -> int:
        """Blocks that a rank draws from at one moment, at most."""
        owned = -(-self.n_streams // world_size)
        # Blocks that straddle two streams, and the next group that is read ahead.
        return owned * (2 * self.buffer_blocks + 1)


def prefetch(source: Iterator[T], depth: int = 2) -> Generator[T]:
    """Items of `source`, prepared up to `depth` ahead in one background thread.

    Parameters
    ----------
    source
        Any iterator. An exception in it is raised here, at the item it stands for.
    depth
        Items in memory beside the one in use.

    Yields
    ------
    The items in their order. The thread ends with this generator, also when it is closed early.
    """
    end = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        pending = deque(pool.submit(next, source, end) for _ in range(depth))
        while True:
            item = pending.popleft().result()
            if item is end:
                return
            pending.append(pool.submit(next, source, end))
            yield item  # type: ignore[misc]  # `end` was returned on above
