"""The truth table of all surveys: what is true of an object, and of its observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.positions import chosen_objects
from spectra_scale.mock.task import MockTask


def truth_table(
    task: MockTask, columns: Mapping[str, Any], target: NDArray[np.str_]
) -> dict[str, Any]:
    """Add to the columns of `linerows.truth_columns` what belongs to the observation.

    Parameters
    ----------
    task
        The observation.
    columns
        Truth of its objects, each of shape (n_science,).
    target
        Target class of each, see `targets.target_classes`.

    Returns
    -------
        The same columns, and: `survey`; `object_id`, the same in all observations of one object;
        `target`; `program` and `healpix`, empty and -1 but for DESI.
    """
    n = task.n_science
    # A plate or pixel has fewer than 10,000 objects.
    object_id = task.source_plate * 10_000 + chosen_objects(task)
    return {
        **columns,
        "survey": [task.survey] * n,
        "object_id": object_id.astype(np.int64),
        "target": [str(name) for name in target],
        "program": [task.program if task.layout == "healpix" else ""] * n,
        "healpix": np.full(n, task.healpix, dtype=np.int32),
    }
