"""The order of training rows does not depend on the number of workers (design.md §2)."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.errors import UsageError
from spectra_scale.models.batches import VirtualStreams, prefetch


def streams(rows, block_rows=8, seed=0, n_streams=64):
    return VirtualStreams(np.asarray(rows, np.int64), block_rows, seed, n_streams)


@st.composite
def virtual_streams(draw):
    n = draw(st.integers(0, 700))
    gaps = np.random.default_rng(draw(st.integers(0, 99))).integers(1, 6, n)
    return streams(
        np.cumsum(gaps),
        draw(st.sampled_from([1, 7, 64, 1024])),
        draw(st.integers(0, 99)),
        draw(st.sampled_from([1, 5, 64])),
    )


def union(order, epoch, batch_size, world_size):
    """Rows of every batch over all ranks, and what each rank believes its size to be."""
    ranks = [list(order.epoch(epoch, batch_size, r, world_size)) for r in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    for together in zip(*ranks, strict=True):
        assert len({batch.index for batch in together}) == 1
        rows = np.concatenate([batch.rows for batch in together])
        assert {batch.n_global for batch in together} == {len(rows)}
        yield rows


@given(virtual_streams(), st.integers(0, 5), st.sampled_from([1, 32, 64, 100, 512]))
@settings(max_examples=30, deadline=None)
def test_batches_are_the_same_sets_for_any_number_of_workers(order, epoch, batch_size):
    alone = list(union(order, epoch, batch_size, 1))
    assert len(alone) == order.n_batches(batch_size)
    for world_size in (2, 3, 8, 64):
        shared = list(union(order, epoch, batch_size, world_size))
        for ours, theirs in zip(alone, shared, strict=True):
            np.testing.assert_array_equal(np.sort(ours), np.sort(theirs))


@given(virtual_streams(), st.integers(0, 5), st.sampled_from([1, 32, 100]), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_every_row_comes_exactly_once_an_epoch(order, epoch, batch_size, world_size):
    seen = list(union(order, epoch, batch_size, world_size))
    everything = np.concatenate([np.empty(0, np.int64), *seen])
    np.testing.assert_array_equal(np.sort(everything), order.rows)
    # Only the last batch may be short.
    assert all(len(rows) == batch_size for rows in seen[:-1])


@given(virtual_streams(), st.sampled_from([1, 3]), st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_an_epoch_can_go_on_in_its_middle(order, world_size, start):
    whole = list(order.epoch(2, 50, 0, world_size))
    rest = list(order.epoch(2, 50, 0, world_size, start_batch=start))
    assert [b.index for b in rest] == [b.index for b in whole[start:]]
    for a, b in zip(rest, whole[start:], strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)


def test_a_rank_serves_its_own_streams_and_always_the_same_rows():
    order = streams(np.arange(5000), n_streams=8)
    first = [np.concatenate([b.rows for b in order.epoch(0, 64, r, 4)]) for r in range(4)]
    later = [np.concatenate([b.rows for b in order.epoch(9, 64, r, 4)]) for r in range(4)]
    for a, b in zip(first, later, strict=True):
        assert not np.array_equal(a, b)
        np.testing.assert_array_equal(np.sort(a), np.sort(b))


def test_orders_differ_by_epoch_and_seed_and_repeat_otherwise():
    rows = np.arange(1000)

    def order(seed, epoch):
        return np.concatenate([b.rows for b in streams(rows, seed=seed).epoch(epoch, 32, 0, 1)])

    np.testing.assert_array_equal(order(1, 1), order(1, 1))
    assert not np.array_equal(order(1, 1), order(1, 2))
    assert not np.array_equal(order(1, 1), order(2, 1))


def test_rows_of_a_batch_come_from_all_over_the_sample():
    n = 40_960
    order = streams(np.arange(n), block_rows=1024)
    spread = [np.std(batch.rows) / n for batch in order.epoch(0, 512, 0, 1)]
    # A uniform draw has 1/sqrt(12) = 0.289. Rows of a stream share blocks, so a batch is about as
    # good as one of 64 independent rows, whose scatter is 0.016: 5 of these either side.
    assert abs(np.mean(spread) - 0.289) < 0.01
    assert max(abs(np.array(spread) - 0.289)) < 0.08


def test_a_stream_reads_few_blocks_at_a_time():
    order = streams(np.arange(64 * 1024 * 16), block_rows=1024)
    rows = np.concatenate([b.rows for b in order.epoch(0, 64, 0, 64)])
    # Four blocks are shuffled together, and as many rows span two such groups; a block more
    # where one is divided between streams.
    for start in range(0, 16 * 1024, 4096):
        assert len(np.unique(rows[start : start + 4096] // 1024)) <= order.active_blocks(64) == 9


def test_streams_come_to_new_blocks_at_different_times():
    order = streams(np.arange(64 * 64 * 16), block_rows=64)
    new, seen = [], set()
    for batch in order.epoch(0, 64 * 32, 0, 1):
        blocks = set((batch.rows // 64).tolist())
        new.append(len(blocks - seen))
        seen |= blocks
    # 1024 blocks over 32 batches; all at once would be 256 every eighth batch and none between.
    assert max(new[1:]) < 128


@pytest.mark.parametrize("world_size", [1, 3, 64])
def test_owned_rows_are_those_a_rank_trains_on(world_size):
    order = streams(np.arange(0, 3000, 3))
    for rank in range(world_size):
        rows = np.concatenate([b.rows for b in order.epoch(1, 32, rank, world_size)])
        np.testing.assert_array_equal(np.sort(rows), order.owned_rows(rank, world_size))


def test_small_samples_get_blocks_small_enough_for_four_a_stream():
    assert streams(np.arange(1000), block_rows=1024).block_size * 4 * 64 <= 1000
    assert streams(np.arange(10), block_rows=1024).block_size == 1
    assert streams(np.arange(4 * 64 * 8), block_rows=8).block_size == 8


def test_more_workers_than_streams_leaves_some_without_rows():
    order = streams(np.arange(100), n_streams=2)
    batches = list(order.epoch(0, 10, 2, 3))
    assert len(batches) == 10
    assert not any(len(batch.rows) for batch in batches)


@pytest.mark.parametrize("rows", [[3, 1, 2], [1, 1, 2]])
def test_rows_must_ascend(rows):
    with pytest.raises(UsageError, match="ascending"):
        streams(rows)


def test_impossible_settings_are_refused():
    with pytest.raises(UsageError, match="at least 1"):
        streams([1, 2], block_rows=0)
    with pytest.raises(UsageError, match="makes no sense"):
        next(streams([1, 2]).epoch(0, 8, 2, 2))


def test_prefetch_keeps_the_order_and_ends_its_thread():
    assert list(prefetch(iter(range(50)), depth=3)) == list(range(50))
    items = prefetch(iter(range(10**9)))
    assert next(items) == 0
    items.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_prefetch_raises_what_its_source_raised_where_it_raised_it():
    def source():
        yield 1
        message = "chunk 7 is damaged"
        raise OSError(message)

    items = prefetch(source())
    assert next(items) == 1
    with pytest.raises(OSError, match="chunk 7"):
        next(items)


def test_prefetch_does_not_run_far_ahead():
    made = []

    def source():
        for item in range(100):
            made.append(item)
            yield item

    items = prefetch(source(), depth=2)
    next(items)
    items.close()
    # One in use, two ahead.
    assert len(made) <= 3
