"""One measurement, in a process of its own: ``python -m spectra_scale.scaling.measure TASK OUT``.

So the driver's memory and libraries are as in a run of that stage alone, and Ray begins anew.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from spectra_scale.compute.place import Place, open_place
from spectra_scale.compute.progress import log_to_terminal
from spectra_scale.config import Job, ReleaseSection
from spectra_scale.errors import SpectraScaleError, explain_system_error
from spectra_scale.jobfile import make_job
from spectra_scale.provenance import read_json, write_json
from spectra_scale.scaling import inputs
from spectra_scale.scaling.meter import (
    MeteredPlace,
    Snapshot,
    WarmingPlace,
    Watch,
    cores,
    load,
    snapshot,
    used_by_others,
)
from spectra_scale.scaling.plan import WARM_ROWS, Measurement
from spectra_scale.stages import encode, ingest, train
from spectra_scale.store.arrays import Layout
from spectra_scale.store.artifact import open_artifact
from spectra_scale.store.tables import read_table

#: Numbers by column; None where one cannot be told.
Found = dict[str, float | None]


def measure(job: Job, this: Measurement) -> Found:
    """Start Ray, run one stage on it, and say what it took.

    Parameters
    ----------
    job
        The job whose inputs are there.
    this
        What to measure.

    Returns
    -------
    dict
        Numbers by the columns of the table; None where one cannot be told.
    """
    work = job.out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    compute = job.compute.model_copy(
        update={"engine": "ray", "ray_address": None, "workers": this.workers}
    )
    found: Found = {"cores": cores(), "load_begin": load()}
    begin = time.perf_counter()
    try:
        with open_place(compute) as place:
            opened = time.perf_counter() - begin
            found |= _STAGES[this.stage](_Run(job.model_copy(update={"compute": compute}),
                                              this, place, work))  # fmt: skip
            found["startup_seconds"] = opened + (found["startup_seconds"] or 0.0)
            found["total_seconds"] = time.perf_counter() - begin
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found | {"load_end": load()}


@dataclass(frozen=True, slots=True)
class _Run:
    """A job with the compute section of a measurement, what to measure, where, and a folder."""

    job: Job
    this: Measurement
    place: Place
    work: Path

    def warming(self) -> WarmingPlace:
        return WarmingPlace(self.place, self.this.workers, self.work / "meetings")


# Stages whose tasks are Dask's -----------------------------------------------------------------


def _ingest(run: _Run) -> Found:
    section = inputs.plates_section(run.job, run.this.rows)
    inputs.read_through(section.source[0])
    warm = WARM_ROWS * run.this.workers
    small = ingest.Settings(run.job.ingest, warm, Layout(WARM_ROWS, WARM_ROWS))
    begin = time.perf_counter()
    _ingest_once(run.job, section, small, run.warming(), run.work / "warm")
    startup = time.perf_counter() - begin
    settings = ingest.Settings(run.job.ingest, None, inputs.layout(run.job))
    place = MeteredPlace(run.place)
    clock = _Clock()
    rows = _ingest_once(run.job, section, settings, place, run.work / "release")
    return clock.stop(place, rows, startup)


def _ingest_once(
    job: Job, section: ReleaseSection, settings: ingest.Settings, place: Place, out: Path
) -> int:
    [piece] = ingest.pieces_of(section, out, ingest.look(section), settings)
    return int(ingest.run(piece, job.ingest, place).counts["rows"])


def _encode(run: _Run) -> Found:
    sample = inputs.open_input_sample(run.job, "encode", run.this.rows)
    warm = inputs.open_input_sample(run.job, "warm", WARM_ROWS * run.this.workers)
    model = open_artifact(inputs.model_path(run.job), train.KIND)
    inputs.read_through(sample.arrays)
    begin = time.perf_counter()
    how = run.job.encode
    recipe = encode.recipe(warm.artifact.fingerprint, model.fingerprint, how)
    given = encode.EncodeInputs(warm, model)
    encode.run(given, how, run.warming(), run.work / "warm", recipe)
    startup = time.perf_counter() - begin
    recipe = encode.recipe(sample.artifact.fingerprint, model.fingerprint, how)
    given = encode.EncodeInputs(sample, model)
    place = MeteredPlace(run.place)
    clock = _Clock()
    artifact = encode.run(given, how, place, run.work / "latents", recipe)
    return clock.stop(place, int(artifact.counts["rows"]), startup)


class _Clock:
    """From the beginning of a stage to its end."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = snapshot(self._process)
        # After the look, which takes time of its own.
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def stop(self, place: MeteredPlace, rows: int, startup: float) -> Found:
        """Numbers of the stage that ran since."""
        wall = time.perf_counter() - self._wall
        driver_cpu = time.process_time() - self._cpu
        after = snapshot(self._process)
        memory = place.memory
        return {
            "rows_done": rows,
            "startup_seconds": startup,
            "work_seconds": wall,
            "cpu_seconds": driver_cpu + place.cpu_seconds,
            "ray_cpu_seconds": max(0.0, after.tree_cpu - self._before.tree_cpu
                                   - place.cpu_seconds),
            "data_seconds": None,
            "compute_seconds": place.seconds,
            "reduce_seconds": None,
            "driver_seconds": wall - place.seconds,
            "memory_sum_mib": sum(memory.values()),
            "memory_max_mib": max(memory.values()),
            "other_cpus": used_by_others(self._before, after),
        }  # fmt: skip


# Training --------------------------------------------------------------------------------------


def _train(run: _Run) -> Found:
    sample = inputs.open_input_sample(run.job, "train", run.this.rows)
    inputs.read_through(sample.arrays)
    config = inputs.training_section(run.job, run.this)
    recipe = train.recipe(sample.artifact.fingerprint, config)
    out = run.work / "autoencoder"
    given = train.TrainInputs(sample, run.job.compute)
    begun = _Begun(out)
    with Watch(begun.look) as watch:
        train.run(given, config, run.place, out, recipe)
    history = read_table(out / "history.parquet")
    return {"startup_seconds": begun.startup} | training_numbers(history) | _around(watch, history)


class _Begun:
    """Notes when the workers were asked for, and when their first epoch began."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.startup: float | None = None

    def look(self) -> int:
        """Epochs done so far."""
        # Here, since it brings PyTorch, which ingest does without.
        from spectra_scale.stages.train.worker import BASELINE, HISTORY, read_history

        path = self._out / HISTORY
        records = read_history(path)
        if records and self.startup is None:
            # The baseline is the last thing that is written before the workers are asked for,
            # and the history is written at the end of an epoch.
            asked = (self._out / BASELINE).stat().st_mtime
            trained = sum(record["seconds"] for record in records)
            self.startup = max(0.0, path.stat().st_mtime - trained - asked)
        return len(records)


def training_numbers(history: pa.Table) -> Found:
    """Work of the epochs after the first, from the history of a training.

    Parameters
    ----------
    history
        One row an epoch. Columns that it does not have give None.
    """
    later = history.slice(1)
    sums = {name: _sum(later, name) for name in ("seconds", "cpu_seconds", "data_seconds",
                                                 "reduce_seconds")}  # fmt: skip
    seconds, data, reduce = sums["seconds"], sums["data_seconds"], sums["reduce_seconds"]
    compute = None
    if seconds is not None and data is not None and reduce is not None:
        compute = max(0.0, seconds - data - reduce)
    return {
        "rows_done": _sum(later, "rows"),
        "work_seconds": seconds,
        "cpu_seconds": sums["cpu_seconds"],
        "data_seconds": data,
        "compute_seconds": compute,
        "reduce_seconds": reduce,
        "driver_seconds": None,
    }


def _sum(table: pa.Table, name: str) -> float | None:
    if name not in table.column_names:
        return None
    values = table[name].to_pylist()
    return None if any(value is None for value in values) else float(sum(values))


def _around(watch: Watch, history: pa.Table) -> Found:
    """What processes and machine used from the end of the first epoch to that of the last."""
    first, last = _first(watch.seen, 1), _first(watch.seen, history.num_rows)
    most = watch.memory_max
    if "memory_mib" in history.column_names:
        # What the ranks say misses no peak between two looks.
        most = max(most, *history["memory_mib"].to_pylist())
    found: Found = {"memory_sum_mib": watch.memory_sum or None, "memory_max_mib": most or None,
                    "ray_cpu_seconds": None, "other_cpus": None}  # fmt: skip
    if first is not None and last is not None:
        found["other_cpus"] = used_by_others(first, last)
    return found


def _first(seen: Mapping[int, Snapshot], least: int) -> Snapshot | None:
    counts = [count for count in seen if count >= least]
    return seen[min(counts)] if counts else None


_STAGES = {"ingest": _ingest, "encode": _encode, "train": _train}


# The process -----------------------------------------------------------------------------------


def _end_with_parent() -> None:
    """End when the process that started this one is gone, and Ray with it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(task: Path, out: Path) -> None:
    """Read a task, measure, and write what was found, or why it failed."""
    log_to_terminal()
    _end_with_parent()
    data = read_json(task)
    try:
        job = make_job(data["job"], str(task))
        result: dict[str, Any] = {"found": measure(job, Measurement(**data["measurement"]))}
    except SpectraScaleError as error:
        result = {"error": str(error)}
    except OSError as error:
        result = {"error": explain_system_error(error)[0]}
    except KeyboardInterrupt:
        # The process that started this one was told too, and says so.
        raise SystemExit(130) from None
    write_json(out, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
