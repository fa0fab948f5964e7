"""What all compiled loops share: how they are compiled, and how arrays are handed to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["LARGEST", "ONE", "ZERO", "compiled", "readonly"]

compiled = njit(
    nogil=True,
    cache=True,
    error_model="numpy",
    # Reordering and fused multiply-adds are allowed, so that sums vectorise. NaN and infinity are
    # not assumed away ("nnan", "ninf" are absent): the tests for valid pixels rely on them.
    fastmath={"reassoc", "contract", "nsz", "arcp"},
)
"""Decorator of every kernel: no Python inside, GIL released, cached, one thread."""

# Named, because a bare literal would turn float32 arithmetic into float64.
ZERO = np.float32(0.0)
ONE = np.float32(1.0)
LARGEST = np.finfo(np.float32).max


def readonly(array: npt.ArrayLike, dtype: type) -> npt.NDArray[Any]:
    """Give a contiguous, native-endian, read-only view (a copy only where needed).

    Read-only always, so that Numba compiles one version of a kernel and not one for arrays from
    memory and another for those from Zarr or an object store.

    Parameters
    ----------
    array
        Anything array-like.
    dtype
        Wanted element type.
    """
    held: npt.NDArray[Any] = np.ascontiguousarray(array, dtype=dtype).view()
    held.flags.writeable = False
    return held
