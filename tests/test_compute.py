"""What every place to run promises."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numba
import psutil
import pytest

from spectra_scale.compute.place import Work
from spectra_scale.compute.progress import Progress
from spectra_scale.errors import BadSpectrumError, SpectraScaleError


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


def test_an_error_is_the_tasks_own_and_its_message_no_traceback(executor):
    def full(x):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"shard {x}")

    def bad(x):
        from spectra_scale.errors import BadSpectrumError

        raise BadSpectrumError("truncated", "found 3 bytes", f"shard {x}")

    with pytest.raises(OSError, match="No space left") as told:
        executor.map(full, [1], Work("full"))
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, "shard 1")
    assert "Traceback" not in str(told.value)
    with pytest.raises(BadSpectrumError, match=r"^shard 1: found 3 bytes$") as bad_one:
        executor.map(bad, [1], Work("bad"))
    assert bad_one.value.reason == "truncated"


#: Places whose workers are processes of their own.
WORKERS = pytest.mark.parametrize(
    "executor",
    [
        "processes",
        pytest.param("distributed", marks=pytest.mark.cluster),
        pytest.param("ray", marks=pytest.mark.cluster),
    ],
    indirect=True,
)


@WORKERS
def test_tasks_of_a_lost_worker_are_done_all_the_same(executor, tmp_path):
    def fragile(x):
        mark = tmp_path / str(x)
        if x % 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x * x

    assert executor.map(fragile, [0, 1, 2, 3], Work("fragile")) == [0, 1, 4, 9]
    assert sorted(mark.name for mark in tmp_path.iterdir()) == ["1", "3"]


@WORKERS
def test_kernels_can_be_compiled_after_a_worker_was_lost(executor, tmp_path):
    # Ray's message of the lost worker put its own `print` in place: numba could not compile
    # `get_num_threads` any more, which names it, and so neither our kernels nor pynndescent's.
    def fragile(mark):
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    @numba.njit
    def threads():
        return numba.get_num_threads()

    executor.map(fragile, [tmp_path / "mark"], Work("fragile"))
    time.sleep(1)  # the message comes from another thread
    assert threads() >= 1


@WORKERS
@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_an_error_that_says_so(executor):
    def deadly(x):
        os.kill(os.getpid(), signal.SIGKILL)
        return x

    with pytest.raises(SpectraScaleError, match="ingest: a worker process was killed, and again"):
        executor.map(deadly, [1], Work("ingest"))
    # And the place is still good for something.
    assert executor.map(str, [1, 2], Work("again")) == ["1", "2"]


DRIVER = """
import sys
from spectra_scale.compute.place import Work, open_place
from spectra_scale.config import ComputeSection

def note(folder):
    import os, pathlib, time
    pathlib.Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    with open_place(ComputeSection(engine=sys.argv[1], workers=2)) as place:
        place.map(note, [sys.argv[2]] * 2, Work("wait"))
"""


@pytest.mark.parametrize(
    "engine",
    [
        "processes",
        pytest.param("distributed", marks=pytest.mark.cluster),
        pytest.param("ray", marks=pytest.mark.cluster),
    ],
)
def test_workers_end_with_a_driver_that_is_killed(engine, tmp_path):
    script, notes = tmp_path / "driver.py", tmp_path / "notes"
    notes.mkdir()
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, script, engine, notes], stderr=subprocess.DEVNULL, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    try:
        wait_until(lambda: len(list(notes.iterdir())) == 2)
    finally:
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    workers = [int(note.name) for note in notes.iterdir()]
    wait_until(lambda: not any(map(psutil.pid_exists, workers)))


def wait_until(condition, seconds=50):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)


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
