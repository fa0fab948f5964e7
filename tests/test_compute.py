"""What every place to run promises."""

from pathlib import Path

import pytest

from spectra_scale.compute.place import Work
from spectra_scale.compute.progress import Progress


def test_results_come_in_the_order_of_the_items(executor):
    def square(x):
        return x * x

    assert executor.map(square, list(range(7)), Work("square")) == [x * x for x in range(7)]


def test_items_that_look_like_dask_tasks_are_left_alone(executor):
    # A tuple whose first element is callable is a task to Dask, and a string may name a key.
    def same(x):
        return x

    items = [("task-0", 1), "task-1", (len, "abc"), Path("a")]
    assert executor.map(same, items, Work("same")) == items


def test_an_error_in_a_task_reaches_the_caller(executor):
    def fail(x):
        message = f"bad shard {x}"
        raise ValueError(message)

    with pytest.raises(ValueError, match="bad shard"):
        executor.map(fail, [1], Work("fail"))


def test_nothing_to_do_is_done(executor):
    assert executor.map(str, [], Work("nothing")) == []


def test_progress_says_rate_and_end(caplog):
    with caplog.at_level("INFO"):
        progress = Progress("ingest", 2, "spectra")
        progress.advance()
        progress.advance()
    (line,) = [record.message for record in caplog.records]
    assert "2/2 spectra (100 %)" in line
    assert "spectra/s" in line
