"""Spectra of a DESI coadd, arms merged: formats.md A5, science.md §2.

RESOLUTION is never read. Flux and ivar go from the file straight to where they stay, a block of
rows at a time that fits the cache, and are made usable there (`spectrum.arms_kernels`); the bits
of the mask matter only where a pixel is missing, and are read only for rows that miss one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.arms_kernels import COUNTS, add_masks, combine_overlap, make_usable
from spectra_scale.spectrum.grid import DESI_NATIVE
from spectra_scale.surveys.block import SpectraBlock
from spectra_scale.surveys.canonical_values import repeated
from spectra_scale.surveys.desi import place_of
from spectra_scale.surveys.desi_arms import ARMS, Arm, Bits, Ids, Image, arms_of, target_ids
from spectra_scale.surveys.desi_hdus import open_desi, rows_for
from spectra_scale.surveys.reasons import Reason

Out = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.uint32]]

_ROWS_AT_ONCE = 32  # 2 MB of flux and ivar; a block of one row costs more calls than bytes
_BRIDGED = 4  # rows ahead up to which the rows between are read over


@dataclass(frozen=True, slots=True, eq=False)
class _Spectra:
    """Native arrays of the spectra that are read, as bits, and what was counted in each arm.

    `scratch` holds the overlaps or the mask of one arm of some rows, `unwanted` takes a row that
    is passed over.
    """

    flux: Bits
    ivar: Bits
    mask: Bits
    counts: npt.NDArray[np.int32]
    scratch: Bits
    unwanted: Bits


def read_coadd(
    path: Path, ids: npt.ArrayLike | None = None, out: Out | None = None
) -> SpectraBlock:
    """Read spectra of a coadd, arms merged.

    Parameters
    ----------
    path
        The file: plain, gzipped or fpacked.
    ids
        TARGETIDs, int64, shape (spectrum,), in any order; all in the order of the file if None.
    out
        flux, ivar (float32) and mask bits (uint32) to fill, each contiguous, of the shape
        (spectrum, `DESI_NATIVE.n_pixels`) and its mask bits 0; new ones if None. Memory that was
        used before is filled in half the time of new memory.

    Returns
    -------
    SpectraBlock
        On `DESI_NATIVE`, observed frame, vacuum. Where arms overlap, the mean weighted by ivar,
        in float64; elsewhere the pixels of the file to the bit. A pixel whose flux or ivar is
        NaN or infinite, or whose ivar is negative, is missing (ivar 0) and counted in
        `n_repaired`, in each arm. Mask bits: those of all arms where a pixel is missing, 0
        elsewhere. `message` names an arm that the file or the spectrum lacks. A TARGETID that
        the file lacks has the reason ``row_without_fibre``, one that it has twice ``duplicate``.

    Raises
    ------
    BadSpectrumError
        ``missing_hdu`` without FIBERMAP or without any arm, ``bad_wavelength`` off the 0.8 Å
        grid, ``identity_mismatch`` if name and header contradict each other, and what is said
        of damaged files.
    """
    with open_desi(path) as file:
        place_of(file)
        held = target_ids(file)
        arms = arms_of(file, len(held))
        wanted = held if ids is None else np.atleast_1d(np.asarray(ids)).astype(np.int64)
        twice = np.isin(wanted, repeated(held))
        rows = np.arange(len(held)) if ids is None else rows_for(held, wanted)
        rows[twice] = -1
        found = _spectra(arms, rows, out)
        for first, places in _wanted(rows):
            _read_span(arms, found, first, places)
    return _block(arms, found, rows, (wanted, twice))


# Rows, read and merged ------------------------------------------------------------------------


def _spectra(arms: Sequence[Arm], rows: Ids, out: Out | None) -> _Spectra:
    shape = (len(rows), DESI_NATIVE.n_pixels)
    if out is None:
        # The mask is 0 nearly everywhere: pages of it that nobody writes to cost nothing.
        out = np.empty(shape, np.float32), np.empty(shape, np.float32), np.zeros(shape, np.uint32)
    assert all(array.shape == shape and array.flags.c_contiguous for array in out)
    widest = max(arm.flux.n_columns for arm in arms)
    found = _Spectra(
        out[0].view(np.uint32), out[1].view(np.uint32), out[2],
        np.zeros((len(arms), len(rows), COUNTS), np.int32),
        np.empty(2 * _ROWS_AT_ONCE * widest, np.uint32), np.empty(widest, np.uint32),
    )  # fmt: skip
    _clear(found, arms, rows)
    return found


def _wanted(rows: Ids) -> Iterator[tuple[int, Ids]]:
    order = np.argsort(rows, kind="stable")
    order = order[np.searchsorted(rows, 0, sorter=order) :]
    return _spans(rows[order], order)


def _clear(found: _Spectra, arms: Sequence[Arm], rows: Ids) -> None:
    """Set to zero what no arm will write: the arrays are not initialised."""
    reached = 0
    for arm in arms:
        for array in (found.flux, found.ivar):
            array[:, reached : arm.start] = 0
        reached = max(reached, arm.stop)
    for array in (found.flux, found.ivar):
        array[:, reached:] = 0
        array[rows < 0] = 0


def _spans(rows: Ids, places: Ids) -> Iterator[tuple[int, Ids]]:
    """Stretches of the file that are read at once.

    Parameters
    ----------
    rows, places
        Rows of the file, ascending, and where their spectra belong.

    Yields
    ------
    first, places
        First row of the stretch, and where each of its rows belongs: -1 for one that is not
        wanted, since reading over a few is quicker than reading twice.
    """
    gaps = np.diff(rows)
    breaks = np.flatnonzero((gaps < 1) | (gaps > _BRIDGED)) + 1
    for low, high in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
        start = low
        while start < high:
            stop = start + int(np.searchsorted(rows[start:high], rows[start] + _ROWS_AT_ONCE))
            span = np.full(rows[stop - 1] - rows[start] + 1, -1, np.int64)
            span[rows[start:stop] - rows[start]] = places[start:stop]
            yield int(rows[start]), span
            start = stop


def _read_span(arms: Sequence[Arm], found: _Spectra, first: int, places: Ids) -> None:
    rows = places[places >= 0]
    counts = np.zeros((len(arms), len(rows), COUNTS), np.int32)
    numbers = np.arange(len(rows))
    for arm, counted in zip(arms, counts, strict=True):
        side = found.scratch[: 2 * len(rows) * arm.overlap].reshape(2, len(rows), arm.overlap)
        arm.flux.read(_parts(found.flux, side[0], found.unwanted, arm, places), first, len(places))
        arm.ivar.read(_parts(found.ivar, side[1], found.unwanted, arm, places), first, len(places))
        make_usable(found.flux, found.ivar, rows, arm.start + arm.overlap, arm.stop, counted)
        if arm.overlap:
            make_usable(side[0], side[1], numbers, 0, arm.overlap, counted)
            merged = (side[0].view("f4"), side[1].view("f4"))
            whole = (found.flux.view("f4"), found.ivar.view("f4"))
            combine_overlap(*merged, *whole, rows, arm.start)
    found.counts[:, rows] = counts
    for arm, counted in zip(arms, found.counts, strict=True):
        if arm.mask is not None:
            lacking = (places >= 0) & (counted[places, 0] < arm.mask.n_columns)
            _add_mask(arm.mask, arm.start, found, first, np.where(lacking, places, -1))


def _parts(values: Bits, side: Bits, unwanted: Bits, arm: Arm, places: Ids) -> list[memoryview]:
    """Where the pixels of rows of an arm go: into the arrays, and aside where arms overlap."""
    width, size = 4 * values.shape[1], 4 * arm.overlap
    start, length = 4 * arm.start + size, 4 * arm.flux.n_columns - size
    held = values.reshape(-1).view(np.uint8).data
    kept = [place * width + start for place in places.tolist() if place >= 0]
    parts = [held[at : at + length] for at in kept]
    if size:
        aside = side.reshape(-1).view(np.uint8).data
        both = parts * 2
        both[::2] = [aside[at : at + size] for at in range(0, size * len(kept), size)]
        both[1::2] = parts
        parts = both
    if len(kept) < len(places):
        # Behind each wanted row stand the rows that are read over.
        thrown = unwanted[: arm.flux.n_columns].view(np.uint8).data
        step = 2 if size else 1
        gaps = np.diff(np.flatnonzero(places >= 0)) - 1
        for row in np.flatnonzero(gaps)[::-1].tolist():
            at = (row + 1) * step
            parts[at:at] = [thrown] * int(gaps[row])
    return parts


def _add_mask(mask: Image, start: int, found: _Spectra, first: int, places: Ids) -> None:
    """Read the mask of one arm from the first to the last of the spectra that miss a pixel."""
    lacking = np.flatnonzero(places >= 0)
    if len(lacking):
        low, high = int(lacking[0]), int(lacking[-1]) + 1
        big = found.scratch[: (high - low) * mask.n_columns].reshape(high - low, mask.n_columns)
        mask.read([big.reshape(-1).view(np.uint8).data], first + low, high - low)
        flip, rows = np.uint32(mask.flip), places[low:high]
        add_masks(big, flip, found.ivar, found.mask, rows, start)


# What is said of them -------------------------------------------------------------------------


def _block(
    arms: Sequence[Arm], found: _Spectra, rows: Ids, of: tuple[Ids, npt.NDArray[np.bool_]]
) -> SpectraBlock:
    usable, present, positive = found.counts.transpose(2, 0, 1)
    reason = [""] * len(rows)
    message = [_without_arms(arms)] * len(rows)
    for row in np.flatnonzero((usable == 0).any(axis=0)).tolist():
        if rows[row] < 0:
            reason[row], message[row] = _absent(int(of[0][row]), twice=bool(of[1][row]))
        elif usable[:, row].any():
            dead = [arm.name for arm, n in zip(arms, usable[:, row], strict=True) if not n]
            lacks = [name for name in ARMS if name in dead or name not in _names(arms)]
            message[row] = f"no usable pixel in arm {', '.join(lacks)}"
        else:
            reason[row], message[row] = _unusable(present[:, row].any(), positive[:, row].any())
    repaired = (present - usable).sum(axis=0, dtype=np.int32)
    return SpectraBlock(
        DESI_NATIVE.first_pixel, found.flux.view(np.float32), found.ivar.view(np.float32),
        found.mask, reason, message, np.asarray(repaired, np.int32),
    )  # fmt: skip


def _absent(target: int, *, twice: bool) -> tuple[str, str]:
    if twice:
        message = f"TARGETID {target} is in the file twice: which spectrum is its cannot be told"
        return str(Reason.DUPLICATE), message
    return str(Reason.ROW_WITHOUT_FIBRE), f"the file has no spectrum of TARGETID {target}"


def _names(arms: Sequence[Arm]) -> list[str]:
    return [arm.name for arm in arms]


def _without_arms(arms: Sequence[Arm]) -> str:
    lacking = [name for name in ARMS if name not in _names(arms)]
    return f"the file has no arm {', '.join(lacking)}" if lacking else ""


def _unusable(present: object, positive: object) -> tuple[str, str]:
    if positive:
        message = "flux is NaN or infinite wherever the inverse variance is positive"
        return str(Reason.NON_FINITE_FLUX), message
    if present:
        return str(Reason.BAD_IVAR), "no pixel has a usable inverse variance"
    return str(Reason.ALL_IVAR_ZERO), "no pixel has a positive inverse variance"
