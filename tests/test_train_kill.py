"""Trainings on Ray whose workers, driver or node are killed end like an unbroken one."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from pipeline_builders import low_rank_spectra, make_sample
from test_train_stage import LOSSES, history, run, weights

from spectra_scale.compute.place import Here
from spectra_scale.stages.train import worker

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    # Ray Data, which Ray Train copies settings of, warns about defaults of its own.
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning"),
]

EPOCHS = 200
LONG = {
    "epochs": EPOCHS,
    "batch_size": 32,
    "checkpoint_every": 5,
    "checkpoint_batches": 3,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("kill") / "sample", *low_rank_spectra(300, 60))


@pytest.fixture(scope="module")
def unbroken(sample, tmp_path_factory):
    return run(sample, tmp_path_factory.mktemp("unbroken") / "ae", Here(), **LONG)


def epochs_of(out):
    return len(worker.read_history(out / "history.jsonl"))


def wait_for_epochs(out, n, alive, seconds=90):
    end = time.monotonic() + seconds
    while epochs_of(out) < n:
        assert alive(), "it ended before it could be killed"
        assert time.monotonic() < end, f"{epochs_of(out)} epochs"
        time.sleep(0.01)


def train_workers(parent):
    """Processes of Ray Train's workers below a process."""
    return [p for p in psutil.Process(parent).children(recursive=True)
            if "RayTrainWorker" in " ".join(p.cmdline())]  # fmt: skip


def assert_like(made, unbroken):
    """The same optimisation: all epochs once, and losses but for the order of additions.

    Gradients of the shares of a batch are added in another order, in float32: 1e-7 of each, in
    1600 steps of Adam, whose learning rate of 3e-3 falls to 0. The losses of early epochs, where a
    step is large, agree to 1e-3, those of the end to 1e-4; weights are not compared, for units may
    drift along directions that change nothing.
    """
    mine, theirs = history(made.path), history(unbroken.path)
    np.testing.assert_array_equal(mine["epoch"], np.arange(1, EPOCHS + 1))
    np.testing.assert_array_equal(mine["rows"], theirs["rows"])
    np.testing.assert_allclose(mine["learning_rate"], theirs["learning_rate"], rtol=1e-12)
    for name in LOSSES:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=5e-3, err_msg=name)
        assert mine[name][-1] == pytest.approx(theirs[name][-1], rel=1e-3)
    assert all(np.isfinite(w).all() for w in weights(made.path).values())
    assert not (made.path / "ray").exists()
    assert made.fingerprint == unbroken.fingerprint


DRIVER = """
import sys, json, logging
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_train_stage import run
from spectra_scale.compute.place import Here
from spectra_scale.store.sample import open_sample
if __name__ == "__main__":
    run(open_sample(sys.argv[2]), Path(sys.argv[3]), Here(), **json.loads(sys.argv[4]))
"""


def start(sample, out, log, **settings):
    """A driver in a process of its own, on a Ray of its own."""
    import json

    tests = Path(__file__).parent
    script = out.parent / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, script, tests, sample.path, out, json.dumps(LONG | settings)]
    with log.open("ab") as file:
        return subprocess.Popen([*map(str, command)], stdout=file, stderr=file)


@pytest.mark.timeout(240)
def test_a_killed_worker_and_a_killed_driver_cost_nothing(sample, unbroken, tmp_path):
    out, log = tmp_path / "ae", tmp_path / "log"
    driver = start(sample, out, log, engine="ray", workers=2)
    try:
        wait_for_epochs(out, 12, lambda: driver.poll() is None)
        victim, *_ = train_workers(driver.pid)
        victim.kill()
        before = epochs_of(out)
        # The group starts again, and goes on from the last checkpoint.
        wait_for_epochs(out, before + 8, lambda: driver.poll() is None)
        workers = train_workers(driver.pid)
        assert victim.pid not in {p.pid for p in workers}
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert driver.returncode == -signal.SIGKILL, log.read_text()
    assert not (out / "manifest.json").exists()
    assert epochs_of(out) < EPOCHS
    # Fewer workers than it began with.
    driver = start(sample, out, log, engine="ray", workers=1)
    assert driver.wait(120) == 0, log.read_text()
    made = run(sample, out, Here(), **LONG)  # it is done
    assert_like(made, unbroken)
    assert made.manifest["where"] == {"engine": "ray", "workers": 1}


@pytest.mark.exhaustive
@pytest.mark.timeout(400)
def test_a_lost_node_leaves_fewer_workers_who_finish(sample, unbroken, tmp_path, monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1)
    out, log = tmp_path / "ae", tmp_path / "log"
    with patch_environment(RAY_ADDRESS=cluster.address):
        driver = start(sample, out, log, engine="ray", workers=2, min_workers=1)
    try:
        alive = partial(_running, driver)
        wait_for_epochs(out, 12, alive)
        cluster.remove_node(lost, allow_graceful=False)
        assert driver.wait(300) == 0, log.read_text()
    finally:
        driver.kill()
        cluster.shutdown()
    made = run(sample, out, Here(), **LONG)  # it is done
    assert_like(made, unbroken)
    assert made.manifest["where"]["engine"] == "ray"


def _running(process):
    return process.poll() is None


class patch_environment:  # noqa: N801 - used as a function
    def __init__(self, **values):
        self._values = values

    def __enter__(self):
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)

    def __exit__(self, *_):
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
