"""Compiled loops that merge the arms of a spectrograph, from the bytes of a file.

A survey writes big-endian floats. Swapping bytes, finding the pixels that cannot be used and
counting them is one pass over memory here, since memory is what the reader waits for: all tests
are made on the bits of the numbers, as integers. science.md §2: overlaps are weighted by inverse
variance, everything else is a plain copy, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from spectra_scale.spectrum.compiled import LARGEST, ZERO, compiled

__all__ = ["COUNTS", "add_masks", "combine_overlap", "make_usable"]

Bits = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]

COUNTS = 3
"""Numbers `make_usable` counts: usable pixels, pixels with an ivar that is not 0, and pixels with
a positive and finite one."""

_U0 = np.uint32(0)
_U1 = np.uint32(1)
_INFINITY = np.uint32(0x7F800000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@intrinsic
def _swapped(_context: Any, _bits: Any) -> Any:
    """Reverse the four bytes: LLVM knows it as one instruction, and as one on whole vectors."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return types.uint32(types.uint32), generate


@compiled
def make_usable(flux: Bits, ivar: Bits, rows: Rows, start: int, stop: int, counts: Counts) -> None:
    """Turn columns of big-endian flux and ivar into native ones, in place.

    Parameters
    ----------
    flux, ivar
        Bits of float32, big-endian in the columns, shape (spectrum, pixel); changed in place.
        Flux stays to the bit; ivar becomes 0 where it or the flux is NaN or infinite, and where
        it is negative.
    rows
        Which spectra, shape (n,).
    start, stop
        Columns.
    counts
        `COUNTS` numbers, shape (n, 3); added to.
    """
    for i in range(rows.shape[0]):
        values = flux[rows[i], start:stop]
        weights = ivar[rows[i], start:stop]
        usable = _U0
        present = _U0
        positive = _U0
        for j in range(values.shape[0]):
            f = _swapped(values[j])
            v = _swapped(weights[j])
            # Positive and finite: as an integer between 0 and infinity, both excluded.
            sound = (v != _U0) & (v < _INFINITY)
            good = sound & ((f & _INFINITY) != _INFINITY)
            values[j] = f
            weights[j] = v if good else _U0
            usable += _U1 if good else _U0
            present += _U1 if (v & _MAGNITUDE) != _U0 else _U0
            positive += _U1 if sound else _U0
        counts[i, 0] += usable
        counts[i, 1] += present
        counts[i, 2] += positive


@compiled
def combine_overlap(
    other_flux: Floats, other_ivar: Floats, flux: Floats, ivar: Floats, rows: Rows, start: int
) -> None:
    """Merge the pixels of another arm into columns that already hold one.

    Parameters
    ----------
    other_flux, other_ivar
        The other arm where it overlaps, shape (n, overlap); ivar 0 is missing.
    flux, ivar
        What is there, shape (spectrum, pixel); changed in place. Where both arms have a pixel
        the mean weighted by ivar and the sum of the ivars, where one has it that one, to the
        bit; where none has it nothing changes.
    rows
        Which spectra of `flux` and `ivar`, shape (n,).
    start
        First column of the overlap.
    """
    for i in range(rows.shape[0]):
        values = flux[rows[i], start : start + other_flux.shape[1]]
        weights = ivar[rows[i], start : start + other_flux.shape[1]]
        for j in range(values.shape[0]):
            second = other_ivar[i, j]
            if not second > ZERO:
                continue
            first = weights[j]
            if first > ZERO:
                total = np.float64(first) + np.float64(second)
                summed = np.float64(first) * np.float64(values[j])
                summed += np.float64(second) * np.float64(other_flux[i, j])
                values[j] = summed / total
                weights[j] = min(total, np.float64(LARGEST))
            else:
                values[j] = other_flux[i, j]
                weights[j] = second


@compiled
def add_masks(big: Bits, flip: np.uint32, ivar: Bits, mask: Bits, rows: Rows, start: int) -> None:
    """Add the mask bits of an arm to the pixels that are missing.

    Parameters
    ----------
    big
        Big-endian mask of the arm, shape (n, pixel of the arm).
    flip
        Bits to invert: the highest for a mask that is stored as int32 less 2^31.
    ivar
        Bits of the merged ivar, native, shape (spectrum, pixel).
    mask
        Mask bits, native, shape (spectrum, pixel); changed in place, by OR, where `ivar` is 0.
    rows
        Spectrum of each row of `big`, shape (n,); a row of -1 is passed over.
    start
        First column of the arm.
    """
    for i in range(rows.shape[0]):
        if rows[i] < 0:
            continue
        words = big[i]
        weights = ivar[rows[i], start : start + big.shape[1]]
        out = mask[rows[i], start : start + big.shape[1]]
        for j in range(words.shape[0]):
            bits = _swapped(words[j]) ^ flip
            out[j] |= bits if weights[j] == _U0 else _U0
