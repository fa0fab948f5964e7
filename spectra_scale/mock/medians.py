"""Medians of the S/N of spectra, by counting instead of sorting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Bins of the first 12 bits of a float: sign, exponent and 3 bits of the mantissa.
_N_BINS = 4096


def median_snr(
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    row: NDArray[np.int64],
    edges: NDArray[np.int64],
) -> Floats:
    """Median S/N a pixel of some spectra, in several ranges of pixels.

    The median of an even number of pixels is the upper of the middle two, as IDL's, which the
    pipelines use.

    Parameters
    ----------
    flux, ivar
        Shape (fiber, pixel); pixels with `ivar` 0 are left out.
    row
        Spectra wanted, shape (n,).
    edges
        First and one past the last pixel of each range, shape (range, 2).

    Returns
    -------
        Shape (n, range); 0 where no pixel is left.
    """
    out = np.zeros((len(row), len(edges)))
    _medians(flux, ivar, row, edges, out)
    return out


@njit(cache=True, nogil=True)
def _medians(flux: Any, ivar: Any, row: Any, edges: Any, out: Any) -> None:
    n_pixels = flux.shape[1]
    values = np.empty(n_pixels + 1, dtype=np.float32)
    raw = values.view(np.uint32)
    keys = np.empty(n_pixels, dtype=np.uint16)
    before = np.zeros(n_pixels + 1, dtype=np.int32)
    few = np.empty(n_pixels + 1, dtype=np.float32)
    counts = np.zeros(_N_BINS, dtype=np.int32)
    for i in range(row.shape[0]):
        n = 0
        for j in range(n_pixels):
            weight = ivar[row[i], j]
            before[j] = n
            values[n] = flux[row[i], j] * np.sqrt(weight)
            n += weight > 0
        before[n_pixels] = n
        for j in range(n):
            keys[j] = _bin(raw[j])
        for m in range(edges.shape[0]):
            low, high = before[edges[m, 0]], before[edges[m, 1]]
            if high <= low:
                continue
            out[i, m] = _median(values[low:high], keys[low:high], counts, few)


@njit(cache=True, nogil=True)
def _median(values: Any, keys: Any, counts: Any, few: Any) -> float:
    counts[:] = 0
    for key in keys:
        counts[key] += 1
    below = values.size // 2
    found = 0
    while below >= counts[found]:
        below -= counts[found]
        found += 1
    k = 0
    for j in range(values.size):
        few[k] = values[j]
        k += keys[j] == found
    return float(np.partition(few[:k], below)[below])


@njit(cache=True, nogil=True)
def _bin(key: Any) -> Any:
    # Bits of a float grow with its value once the sign is turned, all bits if it is negative.
    sign = key >> np.uint32(31)
    flip = (np.uint32(0) - sign) | np.uint32(0x80000000)
    return np.uint32(key ^ flip) >> np.uint32(20)
