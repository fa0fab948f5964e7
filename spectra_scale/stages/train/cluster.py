"""Ray Train: the training on data-parallel workers, CPU (gloo) or GPU (nccl)."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from spectra_scale.compute.progress import Progress
from spectra_scale.config import ComputeSection, TrainSection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.training import DivergedError, EpochRecord, TorchDistributed
from spectra_scale.stages.train.scan import RAY_STATE
from spectra_scale.stages.train.worker import HISTORY, Training, pick_device, read_history, work

#: What rank 0 leaves when all ranks stopped.
FAILURE = "failure.txt"
log = logging.getLogger(__name__)


def train_on_ray(training: Training, config: TrainSection, compute: ComputeSection) -> None:
    """Run a training on Ray Train workers.

    A lost worker restarts the group, which goes on from the last checkpoint; so does the same
    command after the driver was lost.

    Parameters
    ----------
    training
        What each worker does.
    config
        `[train]`: workers and restarts.
    compute
        `[compute]`: GPUs a worker.

    Raises
    ------
    SpectraScaleError
        If the group failed more often than `max_failures` allows.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    resources = {"CPU": 1.0}
    if compute.gpus_per_worker:
        resources["GPU"] = compute.gpus_per_worker
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"training": training},
        scaling_config=ScalingConfig(
            num_workers=_n_workers(config),
            use_gpu=compute.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="training",
            storage_path=str(training.out / RAY_STATE),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    failure = training.out / FAILURE
    failure.unlink(missing_ok=True)
    try:
        with _Watch(training.out / HISTORY, training.settings.epochs):
            trainer.fit()
    except TrainingFailedError as error:
        msg = (
            f"training stopped after {config.max_failures} restarts: {_why(error)}. Run the same "
            "command again to go on from the last checkpoint."
        )
        raise SpectraScaleError(msg) from error
    if failure.is_file():
        raise SpectraScaleError(failure.read_text(encoding="utf-8"))


def _why(error: Exception) -> str:
    """What the first worker that failed said, without Ray's tracebacks."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    first = failures[min(failures)]
    while isinstance(first.__cause__, Exception):
        first = first.__cause__
    lines = str(first).strip().splitlines() or [type(first).__name__]
    return lines[-1].rstrip(".")


def _n_workers(config: TrainSection) -> int | tuple[int, int]:
    """Workers, or the fewest and the most: the batches are the same with any number of them."""
    if config.min_workers is None or config.min_workers == config.workers:
        return config.workers
    return config.min_workers, config.workers


def _ray_worker(settings: dict[str, Training]) -> None:
    import ray.train
    import torch

    # Ray gives each worker its CPUs; more threads than that fight each other (docs/libraries.md).
    torch.set_num_threads(1)

    training = settings["training"]

    def report(record: EpochRecord) -> None:
        # Not every epoch: `report` waits until the controller looks, once in two seconds. The
        # history is on disk, from which the driver tells of every epoch.
        if record.epoch == training.settings.epochs:
            ray.train.report(record.to_dict())

    comm = TorchDistributed()
    try:
        work(training, comm, pick_device(), report)
    except DivergedError as error:
        # Every rank finds it alike, and a restart would again: the group ends here, and the driver
        # says so. Any other error may be of one rank, whom the others would wait for.
        if comm.rank == 0:
            (training.out / FAILURE).write_text(str(error), encoding="utf-8")


class _Watch:
    """Progress lines in the driver, read from the history that rank 0 writes."""

    def __init__(self, history: Path, epochs: int) -> None:
        self._history = history
        self._progress = Progress("train", epochs, "epochs")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._look()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._end.wait(1.0):
            self._look()

    def _look(self) -> None:
        records = read_history(self._history)
        if len(records) > self._progress.done:
            last = records[-1]
            self._progress.advance(
                len(records) - self._progress.done,
                f"χ² train {last['train_chi2']:.3f}, validation {last['validation_chi2']:.3f}",
            )
