"""Mock: a release of known truth, in the surveys' own formats, one task a plate or the like."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import MockSection
from spectra_scale.mock.plan import plan, select
from spectra_scale.mock.plates import is_written, write_plate
from spectra_scale.mock.release import begin, check_folder, finish, parts_there
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.task import MockTask
from spectra_scale.store.lock import locked

__all__ = ["check", "run", "settings_of"]


def settings_of(config: MockSection) -> MockSettings:
    """Settings of the writer."""
    return MockSettings(
        n_spectra=config.n_spectra,
        n_spec_files=config.n_spec_files,
        n_full_files=config.n_full_files,
        boss_fraction=config.boss_fraction,
        desi_fraction=config.desi_fraction,
        sdssv_fraction=config.sdssv_fraction,
        sdssv_release=config.sdssv_release,
        seed=config.seed,
        class_fractions=config.class_fractions,
    )


def check(config: MockSection) -> bool:
    """Whether the release, or the part of it that is asked for, is there already.

    Raises
    ------
    UsageError
        If the folder holds another release, or anything else; or if the release has no such part.
    """
    settings = settings_of(config)
    wanted = select(plan(settings), config.plates, config.healpix)
    if check_folder(config.path, settings):
        return True
    return {task.name for task in wanted} <= parts_there(config.path, settings)


def run(config: MockSection, place: Place) -> dict[str, Any]:
    """Write a mock release or some of its parts, or keep what is there.

    The tables hold all parts that are there, those of earlier runs too.

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
        If the folder holds another release, or anything else.
    SpectraScaleError
        If another run is writing it, or the disk is full.
    """
    if check(config):
        return {}
    with locked(config.path):
        # Once more: another run may have ended since.
        return {} if check(config) else _run(config, place)


def _run(config: MockSection, place: Place) -> dict[str, Any]:
    settings = settings_of(config)
    begin(config.path, settings)
    every = plan(settings)
    tasks = select(every, config.plates, config.healpix)
    work = Work("mock", "spectra", [task.n_science for task in tasks])
    counts: Counter[str] = Counter()
    write = partial(_write, config.path.resolve(), settings)
    for found in place.map(write, tasks, work):
        counts.update(found)
    there = [task for task in every if is_written(config.path, task, settings)]
    finish(config.path, there, settings)
    return dict(counts)


def _write(folder: Path, settings: MockSettings, task: MockTask) -> dict[str, int]:
    if not is_written(folder, task, settings):
        write_plate(task, folder, settings)
    what = {"healpix": "healpixels", "field": "fields"}.get(task.layout, "plates")
    return {what: 1, "spectra": task.n_science}
