"""Mock: a release of known truth, written in the survey's own formats, one task a plate."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import MockSection
from spectra_scale.mock.plates import is_written, write_plate
from spectra_scale.mock.release import begin, check_folder, finish
from spectra_scale.mock.settings import MockSettings, MockTask, plan

__all__ = ["check", "run", "settings_of"]


def settings_of(config: MockSection) -> MockSettings:
    """Settings of the writer."""
    return MockSettings(
        n_spectra=config.n_spectra,
        n_spec_files=config.n_spec_files,
        boss_fraction=config.boss_fraction,
        seed=config.seed,
    )


def check(config: MockSection) -> bool:
    """Whether the release is there already.

    Raises
    ------
    UsageError
        If the folder holds another release.
    """
    return check_folder(config.path, settings_of(config))


def run(config: MockSection, place: Place) -> dict[str, Any]:
    """Write a mock release, or keep the one that is there.

    Parameters
    ----------
    config
        `[mock]`.
    place
        Where the tasks run, one a plate. A plate that is written already is kept.

    Returns
    -------
    dict
        Counts; empty if the release was there.

    Raises
    ------
    UsageError
        If the folder holds another release.
    """
    settings = settings_of(config)
    if check(config):
        return {}
    begin(config.path, settings)
    tasks = plan(settings)
    work = Work("mock", "spectra", [task.n_science for task in tasks])
    counts: Counter[str] = Counter()
    write = partial(_write, config.path.resolve(), settings)
    for found in place.map(write, tasks, work):
        counts.update(found)
    finish(config.path, tasks, settings)
    return dict(counts)


def _write(folder: Path, settings: MockSettings, task: MockTask) -> dict[str, int]:
    if not is_written(folder, task, settings):
        write_plate(task, folder, settings)
    return {"plates": 1, "spectra": task.n_science}
