"""The list of tasks that the settings of a mock release mean: plates, healpixels and fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from math import ceil

from spectra_scale.errors import UsageError
from spectra_scale.mock.fields import plan_fields
from spectra_scale.mock.positions import count_inside, own_pixels, pixel_over
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.task import SURVEYS, Layout, MockTask, Program, Survey, pixel_number

# First plate number and how many are kept: they fit the 14 bits of specObjID and never meet.
_PLATES = {
    ("sdss", "plate"): (266, 2700),
    ("sdss", "spec"): (3000, 400),
    ("boss", "plate"): (3600, 9000),
    ("boss", "spec"): (12700, 3000),
}
_REPEAT_PLATES = {"sdss": (3500, 100), "boss": (12600, 100)}
_FIRST_MJD = {"sdss": 51600, "boss": 55200, "desi": 59350}
# Real plates lie weeks apart: plate numbers and dates grow together.
_DAYS_A_PLATE = 3
# Four DESI tasks in three healpixels: two of these have one program to themselves, so that the
# other may observe the same targets again.
_PATTERN: tuple[tuple[int, Program], ...] = (
    (0, "bright"), (1, "dark"), (2, "bright"), (2, "dark"),
)  # fmt: skip
_OTHER: dict[Program, Program] = {"bright": "dark", "dark": "bright"}


def plan(settings: MockSettings) -> list[MockTask]:
    """List the plates, healpixels and fields of a release, in the order of its catalogues.

    Each depends on its own number and the seed alone, so that a part can be written by itself, in
    any order, on any worker.

    Returns
    -------
        Tasks whose `n_science` sum to ``settings.n_spectra``, with distinct plates.

    Raises
    ------
    UsageError
        If there are more plates than plate numbers kept for them.
    """
    n_repeat = round(settings.repeat_fraction * settings.n_spectra)
    n_plate = max(settings.n_spectra - settings.n_spec_files - settings.n_sdssv, 0)
    tasks = _observed_once(settings, max(n_plate - n_repeat, 0))
    repeats = _repeats(settings, tasks, n_repeat)
    if _n_science(repeats) != n_repeat:
        # A tiny release has too few objects to observe so many again: none is repeated.
        tasks, repeats = _observed_once(settings, n_plate), []
    return tasks + repeats + plan_fields(settings, tasks)


def select(
    tasks: Sequence[MockTask], plates: Sequence[int] | None, healpix: Sequence[int] | None
) -> list[MockTask]:
    """Some parts of a release: these plates or fields, and these healpixels in both programs.

    Parameters
    ----------
    tasks
        ``plan(settings)``.
    plates, healpix
        Numbers of plates or fields, and nested pixels; all tasks if there are neither.

    Raises
    ------
    UsageError
        If the release has no such plate or pixel.
    """
    if not plates and not healpix:
        return list(tasks)
    asked = {"plate": set(plates or ()), "healpixel": set(healpix or ())}
    there = {
        "plate": {task.plate for task in tasks if task.layout != "healpix"},
        "healpixel": {task.healpix for task in tasks if task.layout == "healpix"},
    }
    for what, numbers in asked.items():
        missing = sorted(numbers - there[what])
        if missing:
            known = sorted(there[what])
            words = ", ".join(str(n) for n in known[:6]) + (", …" if len(known) > 6 else "")
            message = (
                f"{what} {', '.join(map(str, missing))}: not in this release, which has "
                f"{len(known)} {what}s{': ' + words if known else ''}. Its n, seed and fractions "
                "say which there are."
            )
            raise UsageError(message)
    return [
        task
        for task in tasks
        if (
            task.healpix in asked["healpixel"]
            if task.layout == "healpix"
            else task.plate in asked["plate"]
        )
    ]


def _observed_once(settings: MockSettings, n_plate: int) -> list[MockTask]:
    n_desi = min(round(settings.desi_fraction * settings.n_spectra), n_plate)
    # Spec files have no DESI: their share of BOSS is that among the other two.
    rest = max(1 - settings.desi_fraction - settings.sdssv_fraction, 1e-9)
    tasks: list[MockTask] = []
    layouts: tuple[tuple[Layout, int], ...] = (
        ("plate", n_plate - n_desi),
        ("spec", settings.n_spec_files),
    )
    for layout, n in layouts:
        n_boss = min(round(settings.boss_fraction / rest * n), n)
        surveys: tuple[tuple[Survey, int], ...] = (("sdss", n - n_boss), ("boss", n_boss))
        for survey, n_survey in surveys:
            tasks += _plates(settings, survey, layout, n_survey)
    return _with_full(settings, tasks) + _pixels(settings, n_desi)


def _with_full(settings: MockSettings, tasks: list[MockTask]) -> list[MockTask]:
    left, out = settings.n_full_files, []
    for task in tasks:
        n_full = min(left, task.n_science) if task.layout == "spec" else 0
        left -= n_full
        out.append(replace(task, n_full=n_full))
    return out


def _capacity(settings: MockSettings, survey: Survey) -> int:
    fibers = settings.fibers(survey)
    return fibers - ceil(settings.sky_fraction * fibers)


def _plates(settings: MockSettings, survey: Survey, layout: Layout, n: int) -> list[MockTask]:
    capacity = _capacity(settings, survey)
    first, n_kept = _PLATES[survey, layout]
    n_plates = ceil(n / capacity)
    _check_room(n, f"{survey} spectra in {layout} files", n_plates, n_kept)
    tasks = []
    for i in range(n_plates):
        n_science = min(capacity, n - i * capacity)
        task = _task(settings, survey, layout, (first + i, _mjd(survey, i, layout)), n_science)
        tasks.append(task)
    return tasks


def _pixels(settings: MockSettings, n: int) -> list[MockTask]:
    if n == 0:
        return []
    capacity = _capacity(settings, "desi")
    pixels = own_pixels()
    n_tasks = ceil(n / capacity)
    _check_room(n, "desi spectra", n_tasks, 4 * (len(pixels) // 3))
    tasks = []
    for i in range(n_tasks):
        place, program = _PATTERN[i % 4]
        index = 3 * (i // 4) + place
        number, mjd = pixel_number(int(pixels[index]), program), _FIRST_MJD["desi"] + index % 390
        n_science = min(capacity, n - i * capacity)
        tasks.append(_task(settings, "desi", "healpix", (number, mjd), n_science))
    return tasks


def _check_room(n: int, what: str, n_plates: int, n_kept: int) -> None:
    if n_plates > n_kept:
        message = (
            f"{n} {what} need {n_plates} plates or healpixels, more than the {n_kept} plate "
            "numbers kept for them. Ask for fewer spectra."
        )
        raise UsageError(message)


def _task(
    settings: MockSettings, survey: Survey, layout: Layout, name: tuple[int, int], n_science: int
) -> MockTask:
    plate, mjd = name
    return MockTask(
        survey=survey,
        layout=layout,
        plate=plate,
        mjd=mjd,
        n_science=n_science,
        n_sky=ceil(settings.sky_fraction * n_science) if layout != "spec" else 0,
        source_survey=survey,
        source_plate=plate,
        n_source=n_science,
        seed=settings.seed,
    )


def _mjd(survey: Survey, index: int, layout: Layout) -> int:
    late = 2000 if layout == "spec" else 0
    return _FIRST_MJD[survey] + late + _DAYS_A_PLATE * (index % 1500)


def _repeats(settings: MockSettings, tasks: list[MockTask], n_repeat: int) -> list[MockTask]:
    """Plates and healpixels that observe objects of others again.

    DESI takes half of its share from the first plates, and half from healpixels of which it had
    observed one program; all of it from those where there is no plate.
    """
    sources = [task for task in tasks if task.layout == "plate"]
    if n_repeat == 0:
        return []
    if not sources:
        return _repeat_programs(settings, tasks, n_repeat)
    present = [survey for survey in SURVEYS if any(t.survey == survey for t in tasks)]
    first = sources[0].survey
    share = n_repeat // len(present)
    repeats: list[MockTask] = []
    if "desi" in present:
        repeats = _repeat_programs(settings, tasks, share // 2)
        repeats += _repeat_pixels(settings, sources, share - _n_science(repeats))
    others = [survey for survey in present if survey not in {"desi", first}]
    for survey in others:
        repeats += _repeat_plates(settings, survey, sources, share)
    # The survey of the first plate takes what the others leave.
    left = n_repeat - _n_science(repeats)
    return _repeat_plates(settings, first, sources, left) + repeats


def _n_science(tasks: Sequence[MockTask]) -> int:
    return sum(task.n_science for task in tasks)


def _repeat_plates(
    settings: MockSettings, survey: Survey, sources: list[MockTask], n: int
) -> list[MockTask]:
    repeats: list[MockTask] = []
    first, n_kept = _REPEAT_PLATES[survey]
    for i, source in enumerate(sources[:n_kept]):
        n_science = min(n, source.n_science, settings.fibers(survey) * 9 // 10)
        if n_science <= 0:
            break
        n -= n_science
        name = first + i, _FIRST_MJD[survey] + 3000 + i
        task = _task(settings, survey, "plate", name, n_science)
        repeats.append(_of_source(task, source))
    return repeats


def _repeat_pixels(settings: MockSettings, sources: list[MockTask], n: int) -> list[MockTask]:
    repeats: list[MockTask] = []
    used = set()
    for source in sources:
        pixel = pixel_over(source)
        n_science = min(n, count_inside(source, pixel), settings.fibers_desi * 9 // 10)
        if n_science <= 0 or pixel in used:
            continue
        n -= n_science
        used.add(pixel)
        name = pixel_number(pixel, "bright"), _FIRST_MJD["desi"] + 400 + len(used)
        repeats.append(_of_source(_task(settings, "desi", "healpix", name, n_science), source))
    return repeats


def _repeat_programs(settings: MockSettings, tasks: list[MockTask], n: int) -> list[MockTask]:
    """The other program of healpixels, on the first targets of the one that there is."""
    repeats: list[MockTask] = []
    taken = {task.plate for task in tasks}
    for source in tasks:
        if source.layout != "healpix":
            continue
        number = pixel_number(source.healpix, _OTHER[source.program])
        n_science = min(n, source.n_science, settings.fibers_desi * 9 // 10)
        if n_science <= 0 or number in taken:
            continue
        n -= n_science
        name = number, _FIRST_MJD["desi"] + 800 + len(repeats) % 390
        repeats.append(_of_source(_task(settings, "desi", "healpix", name, n_science), source))
    return repeats


def twin_of(task: MockTask, settings: MockSettings) -> MockTask | None:
    """The task that observes targets of `task` in DESI's other program, if there is one.

    It is derived from the settings, so that a healpixel that is written alone knows of it. The
    two have the first targets in common: as many as the smaller has.
    """
    if task.layout != "healpix":
        return None
    text = json.dumps(asdict(settings), sort_keys=True)
    return _twins(text).get(task.plate)


@lru_cache(maxsize=4)
def _twins(text: str) -> dict[int, MockTask]:
    """Twins of all healpixels that have one, by their number; `text` is the settings as JSON."""
    tasks = [t for t in plan(MockSettings(**json.loads(text))) if t.layout == "healpix"]
    by_number = {task.plate: task for task in tasks}
    twins: dict[int, MockTask] = {}
    for task in tasks:
        if task.is_repeat and task.source_survey == "desi":
            twins[task.plate] = by_number[task.source_plate]
            twins[task.source_plate] = task
    return twins


def _of_source(task: MockTask, source: MockTask) -> MockTask:
    return replace(
        task,
        source_survey=source.survey,
        source_plate=source.plate,
        n_source=source.n_science,
    )
