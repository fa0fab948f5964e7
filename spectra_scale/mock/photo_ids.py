"""Numbers of the objects of a release in the photometric survey, the same for all repeats."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.plan import plan
from spectra_scale.mock.positions import chosen_objects
from spectra_scale.mock.settings import MockSettings, MockTask

Ints = NDArray[np.int64]

#: Processing of the images that objIDs of DR8 and later are of.
SKY_VERSION, RERUN = 2, 301
#: That of the images that legacy targets were chosen from; its sky version is 0.
TARGET_RERUN = 40
_PLATE = 10_000


def object_numbers(task: MockTask) -> Ints:
    """Number of each object that `task` observes, as `object_id` of the truth; shape (n,).

    It is THING_ID too: below 2**31, and the same in all observations of an object.
    """
    return np.asarray(task.source_plate * _PLATE + chosen_objects(task), dtype=np.int64)


def photo_fields(number: Ints) -> Ints:
    """Run, camcol, field and id of objects, shape (n, 4): distinct for distinct numbers."""
    run, index = np.divmod(number, _PLATE)
    rest, camcol = np.divmod(index, 6)
    field, place = np.divmod(rest, 100)
    return np.stack([run, camcol + 1, field + 11, place + 1], axis=1)


def obj_id(fields: Ints, sky_version: int = SKY_VERSION, rerun: int = RERUN) -> Ints:
    """Pack objIDs: bits 59 sky version, 48 rerun, 32 run, 29 camcol, 16 field, 0 id.

    Parameters
    ----------
    fields
        Run, camcol, field and id, shape (n, 4).
    sky_version, rerun
        Processing of the images.

    Examples
    --------
    TARGETOBJID of spec-0266-51602-0162 (OBJID 752, 1, 3, 18, 61), and OBJID of
    spec-6685-56412-0003:

    >>> int(obj_id(np.array([[752, 3, 18, 61]]), 0, 1)[0])
    284706403909693
    >>> int(obj_id(np.array([[3059, 1, 105, 123]]))[0])
    1237658611445465211
    """
    run, camcol, field, number = fields.T
    constant = (sky_version << 59) | (rerun << 48)
    return np.asarray(constant | (run << 32) | (camcol << 29) | (field << 16) | number)


def n_observations(task: MockTask, settings: MockSettings) -> Ints:
    """How often the release's plates and spec files observe each object of `task`; shape (n,).

    A healpixel or field that observes them too is none of them: specObj knows neither DESI nor
    SDSS-V.
    """
    found = np.ones(task.n_science, dtype=np.int64)
    index = chosen_objects(task)
    for source, n_science in _repeats(json.dumps(asdict(settings), sort_keys=True)):
        if source == task.source_plate:
            found += index < n_science
    return found


@lru_cache(maxsize=8)
def _repeats(settings: str) -> tuple[tuple[int, int], ...]:
    """Source and number of spectra of every plate that repeats another one."""
    return tuple(
        (task.source_plate, task.n_science)
        for task in plan(MockSettings(**json.loads(settings)))
        if task.is_repeat and task.layout == "plate"
    )
