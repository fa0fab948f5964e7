"""What `spectra-scale scaling` does, but for printing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra_scale.compute.progress import Progress
from spectra_scale.config import Job
from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import read_json, write_bytes, write_json
from spectra_scale.scaling.inputs import make_inputs
from spectra_scale.scaling.meter import cores
from spectra_scale.scaling.plan import Measurement, measurements
from spectra_scale.scaling.table import (
    Result,
    baseline,
    efficiency,
    fastest,
    markdown,
    parts,
    read_results,
    write_results,
)
from spectra_scale.store.lock import locked

log = logging.getLogger(__name__)
#: Files of a scaling test.
CSV, TABLE, FIGURE = "scaling.csv", "scaling.md", "scaling.png"


@dataclass(frozen=True, slots=True)
class Report:
    """What a scaling test gave.

    Parameters
    ----------
    results
        The fastest repeat of each measurement, in order.
    files
        Table, CSV and figure.
    """

    results: list[Result]
    files: tuple[Path, ...]


def scale(job: Job, command: str) -> Report:
    """Run every measurement that is not there, and write table, CSV and figure.

    Parameters
    ----------
    job
        From `scaling_job`.
    command
        The command line, to be written above the table.

    Raises
    ------
    SpectraScaleError
        If a measurement failed: those before it are kept.
    """
    wanted = measurements(job)
    most = max(each.workers for each in wanted)
    if most > cores():
        log.warning("scaling: %d workers on %d cores will wait for each other", most, cores())
    with locked(job.out, ".scaling.lock"):
        path = job.out / CSV
        results = read_results(path)
        there = {result.measurement for result in results}
        missing = [each for each in wanted if each not in there]
        log.info("scaling: %d measurements, %d are there", len(wanted), len(wanted) - len(missing))
        if missing:
            make_inputs(job, missing)
        # Each is said: a measurement takes as long as starting Ray does, at least.
        progress = Progress("scaling", len(missing), "measurements", interval=0.0)
        for this in missing:
            log.info("scaling: %s", this.label)
            results.append(Result.of(this, _measured(job, this)))
            write_results(path, results)
            progress.advance(1, this.label)
        shown = fastest(results, wanted)
        write_bytes(job.out / TABLE, markdown(shown, command).encode())
        write_bytes(job.out / FIGURE, _figure(shown))
    return Report(shown, (job.out / TABLE, path, job.out / FIGURE))


def _measured(job: Job, this: Measurement) -> dict[str, Any]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="spectra-scale-") as folder:
        task, out = Path(folder, "task.json"), Path(folder, "result.json")
        settings = job.model_dump(mode="json", by_alias=True, exclude_none=True)
        write_json(task, {"job": settings, "measurement": this.to_dict()})
        # A cluster that this process is a part of is not what is measured.
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        ended = subprocess.run(
            [sys.executable, "-m", "spectra_scale.scaling.measure", str(task), str(out)],
            env=environment,
            check=False,
        )
        result = read_json(out) if out.is_file() else {}
    if "found" in result:
        return dict(result["found"])
    what = result.get("error") or f"its process ended with {ended.returncode}"
    msg = (
        f"scaling, {this.label}: {what}\nGive the same command again to go on: what was measured "
        f"is kept in {job.out / CSV}."
    )
    raise SpectraScaleError(msg)


def _figure(results: Sequence[Result]) -> bytes:
    from spectra_scale.figures.page import png_of
    from spectra_scale.figures.scaling import ScalingPoint, scaling_figure

    points = [
        ScalingPoint(
            stage=each.stage,
            mode=each.mode,
            workers=each.workers,
            efficiency=efficiency(each, baseline(each, results)),
            wall_us=each.wall_us,
            cpu_us=each.cpu_us,
            startup=each.startup_seconds,
            parts=parts(each),
            memory=(each.memory_sum_mib, each.memory_max_mib),
            crowded=each.crowded,
        )
        for each in results
    ]
    return png_of(scaling_figure(points, max(each.cores for each in results)))
