"""Names of SDSS-V: where the files of each release lie, and the numbers of objects and spectra."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.fields import FIRST_OWN_FIELD
from spectra_scale.mock.positions import chosen_objects
from spectra_scale.mock.rows import spec_obj_id
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.task import MockTask

Ints = NDArray[np.int64]

# Objects of a plate or field, and where the numbers of fields go: after those of all plates.
_OBJECTS, _FIELDS_FROM = 10_000, 20_000
# Catalogues of three versions of the survey's cross-match: their numbers have 10 and 17 digits.
_CATALOGUES = np.array([4_300_000_000, 27_021_597_000_000_000, 63_050_394_000_000_000])
_FIRST_SDSS_ID = 54_000_000
#: What stands for no SDSS_ID.
NO_SDSS_ID = -999
# One object in so many has none.
_WITHOUT = 29


def _numbers(task: MockTask) -> Ints:
    """A number below 4e8 for each object of `task`, the same wherever it is observed; (n,)."""
    source = task.source_plate
    plate = source if source < FIRST_OWN_FIELD else source - FIRST_OWN_FIELD + _FIELDS_FROM
    return np.asarray(plate * _OBJECTS + chosen_objects(task), dtype=np.int64)


def catalog_ids(task: MockTask) -> Ints:
    """CATALOGID of the objects of `task`, shape (n_science,); those of 17 digits fit no float."""
    number = _numbers(task)
    return np.asarray(_CATALOGUES[number % len(_CATALOGUES)] + number)


def sdss_ids(task: MockTask) -> Ints:
    """SDSS_ID of the objects of `task`, shape (n_science,); `NO_SDSS_ID` for a few."""
    number = _numbers(task)
    return np.where(number % _WITHOUT == 0, NO_SDSS_ID, _FIRST_SDSS_ID + number)


def packed_ids(task: MockTask, fiber: Ints, run2d: str) -> NDArray[np.uint64]:
    """SPECOBJID of DR18, packed as that of plates: upper bits of a field's number are lost."""
    return spec_obj_id(task.plate % (1 << 14), fiber, task.mjd, run2d)


def spelled_ids(task: MockTask, run2d: str) -> list[str]:
    """SPECOBJID of DR19 and later: digits of SDSS_ID, field, MJD, coadd and RUN2D.

    Empty for an object without SDSS_ID.
    """
    version = "".join(f"{int(part):02d}" for part in run2d[1:].split("_"))
    # The daily coadd is the first kind.
    tail = f"{task.plate:07d}{task.mjd}00{version}"
    return ["" if i == NO_SDSS_ID else f"{i}{tail}" for i in sdss_ids(task).tolist()]


def spec_file(task: MockTask, catalog_id: int, release: str) -> str:
    """Name of a spec file.

    Examples
    --------
    >>> field = MockTask("sdssv", "field", 30073, 60188, 1, 0, "sdssv", 30073, 1, 1)
    >>> spec_file(field, 4375786564, "dr18"), spec_file(field, 4375786564, "dr19")
    ('spec-30073-60188-04375786564.fits', 'spec-030073-60188-4375786564.fits')
    """
    if release == "dr18":
        return f"spec-{task.plate}-{task.mjd}-{catalog_id:011d}.fits"
    return f"spec-{task.plate:06d}-{task.mjd}-{catalog_id}.fits"


def spec_folder(task: MockTask, settings: MockSettings) -> PurePosixPath:
    """Where the spec files of a field lie below the release: lite ones, of the daily coadd.

    Examples
    --------
    >>> field = MockTask("sdssv", "field", 112360, 60000, 1, 0, "sdssv", 112360, 1, 1)
    >>> print(spec_folder(field, MockSettings(sdssv_release="dr20")))
    v6_2_1/spectra/daily/lite/112XXX/112360/60000
    """
    root = PurePosixPath(settings.run2d("sdssv"), "spectra")
    field, mjd = f"{task.plate:06d}", str(task.mjd)
    if settings.sdssv_release == "dr18":
        return root / "lite" / f"{task.plate}p" / mjd
    if settings.sdssv_release == "dr19":
        return root / "lite" / field / mjd
    return root / "daily" / "lite" / f"{field[:3]}XXX" / field / mjd


def summary_file(settings: MockSettings) -> PurePosixPath:
    """The table of all spectra, spAll, below the release."""
    run2d = settings.run2d("sdssv")
    folder = PurePosixPath(run2d)
    if settings.sdssv_release == "dr20":
        folder = folder / "summary" / "daily"
    return folder / f"spAll-{run2d}.fits"
