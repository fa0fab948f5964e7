"""Fields of SDSS-V: their numbers and dates, and which objects of plates they observe again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil

from spectra_scale.errors import UsageError
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.task import MockTask

# First number and how many are kept, of fields of their own and of those over plates. Robots have
# fields from 16,000 on; both numbers of digits occur, and no plate or healpixel has any of them.
#: Number of the first field with objects of its own.
FIRST_OWN_FIELD = 112_000
_OWN, _OVER_PLATES = (FIRST_OWN_FIELD, 12_000), (20_000, 5_000)
_FIRST_MJD = {_OWN: 59_600, _OVER_PLATES: 60_200}
_DAYS_A_FIELD, _N_DATES = 3, 180


def plan_fields(settings: MockSettings, tasks: Sequence[MockTask]) -> list[MockTask]:
    """List the fields of a release; they depend on its settings but for ``sdssv_release``.

    Parameters
    ----------
    settings
        Of the release.
    tasks
        Its plates: fields look at some of their objects again, legacy ones as often as BOSS's.

    Raises
    ------
    UsageError
        If there are more fields than numbers kept for them.
    """
    n = settings.n_sdssv
    again = list(_over_plates(settings, tasks, round(settings.sdssv_repeat_fraction * n)))
    left = n - sum(task.n_science for task in again)
    n_fields = ceil(left / settings.fibers_sdssv)
    if n_fields > _OWN[1] or len(again) > _OVER_PLATES[1]:
        message = (
            f"{n} sdssv spectra need {n_fields} fields and {len(again)} over plates, more than "
            f"the {_OWN[1]} and {_OVER_PLATES[1]} numbers kept for them. Ask for fewer spectra."
        )
        raise UsageError(message)
    own = [
        _field(settings, _OWN, i, min(settings.fibers_sdssv, left - i * settings.fibers_sdssv))
        for i in range(n_fields)
    ]
    return own + again


def _over_plates(settings: MockSettings, tasks: Sequence[MockTask], n: int) -> Iterator[MockTask]:
    sources = {
        survey: iter([task for task in tasks if task.survey == survey and not task.is_repeat])
        for survey in ("sdss", "boss")
    }
    shares = {"sdss": n - n // 2, "boss": n // 2}
    number = 0
    while sources and n > 0:
        for survey in list(sources):
            source = next(sources[survey], None)
            if source is None:
                del sources[survey]
                # The other survey takes what this one leaves.
                shares = dict.fromkeys(sources, n)
                continue
            n_science = min(shares[survey], n, source.n_science, settings.fibers_sdssv)
            if n_science <= 0:
                continue
            shares[survey] -= n_science
            n -= n_science
            task = _field(settings, _OVER_PLATES, number, n_science)
            number += 1
            yield replace(
                task,
                source_survey=source.survey,
                source_plate=source.plate,
                n_source=source.n_science,
            )


def _field(
    settings: MockSettings, numbers: tuple[int, int], index: int, n_science: int
) -> MockTask:
    number = numbers[0] + index
    return MockTask(
        survey="sdssv",
        layout="field",
        plate=number,
        mjd=_FIRST_MJD[numbers] + _DAYS_A_FIELD * (index % _N_DATES),
        n_science=n_science,
        n_sky=0,
        source_survey="sdssv",
        source_plate=number,
        n_source=n_science,
        seed=settings.seed,
    )
