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

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.arms_kernels import COUNTS, add_masks, combine_overlap, make_usable
from spectra_scale.spectrum.grid import DESI_NATIVE
from spectra_scale.surveys.block import SpectraBlock
from spectra_scale.surveys.desi import place_of
from spectra_scale.surveys.desi_hdus import DesiFile, ScatteredFile, open_desi, rows_for
from spectra_scale.surveys.fits_bytes import Hdu, UnsureError
from spectra_scale.surveys.reasons import Reason

Bits = npt.NDArray[np.uint32]
Ids = npt.NDArray[np.int64]
Out = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.uint32]]

ARMS = ("B", "R", "Z")
_TOLERANCE = 1e-3  # pixels: 0.0008 Å, four times the dust of wavelengths kept as float32
_ROWS_AT_ONCE = 32  # 2 MB of flux and ivar; a block of one row costs more calls than bytes
_BRIDGED = 4  # rows ahead up to which the rows between are read over
_SIGN = 1 << 31


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """An image of one arm, of which rows are read as they are on disk, big-endian.

    `at` is its first byte in `file`; where the image had to be unpacked, `values` holds it.
    """

    file: ScatteredFile | None
    at: int
    n_columns: int
    values: Bits | None = None
    flip: int = 0

    def read(self, parts: Sequence[memoryview], first: int, n_rows: int) -> None:
        """Fill `parts`, one after the other, with `n_rows` rows from `first` on."""
        start, size = 4 * self.n_columns * first, 4 * self.n_columns * n_rows
        if self.file is not None:
            self.file.scatter(parts, self.at + start, size)
            return
        assert self.values is not None
        held = self.values.reshape(-1).view(np.uint8).data
        for part in parts:
            part[:] = held[start : start + len(part)]
            start += len(part)


@dataclass(frozen=True, slots=True, eq=False)
class _Arm:
    """One arm: where its first pixel is on the native grid, and its images.

    `overlap` pixels at its blue end are those of an earlier arm too.
    """

    name: str
    start: int
    overlap: int
    flux: _Image
    ivar: _Image
    mask: _Image | None

    @property
    def stop(self) -> int:
        return self.start + self.flux.n_columns


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
        the file lacks has the reason ``row_without_fibre``.

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
        arms = _arms(file, len(held))
        wanted = held if ids is None else np.atleast_1d(np.asarray(ids)).astype(np.int64)
        rows = np.arange(len(held)) if ids is None else rows_for(held, wanted)
        found = _spectra(arms, rows, out)
        for first, places in _wanted(rows):
            _read_span(arms, found, first, places)
    return _block(arms, found, rows, wanted)


def target_ids(file: DesiFile) -> Ids:
    """TARGETID of each spectrum of a coadd, in order, from its FIBERMAP.

    Raises
    ------
    BadSpectrumError
        ``missing_hdu``, ``missing_column`` or ``no_rows``.
    """
    hdu = file.find("FIBERMAP")
    if hdu is None:
        names = ", ".join(each.name for each in file.hdus[1:])
        what = "is cut: it " if file.is_cut else ""
        message = f"{what}has no FIBERMAP; found {names or 'no HDUs'}: fetch the file again"
        raise BadSpectrumError(_if_cut(file, Reason.MISSING_HDU), message, file.path)
    table = file.table(hdu)
    if "TARGETID" not in table:
        message = "its FIBERMAP has no column TARGETID, so its spectra have no names"
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, file.path)
    try:
        ids = table.column("TARGETID")
    except UnsureError as error:
        message = f"column TARGETID of its FIBERMAP cannot be read: {error}"
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, file.path) from error
    if not len(ids):
        raise BadSpectrumError(Reason.NO_ROWS, "its FIBERMAP has no rows", file.path)
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        message = f"column TARGETID of its FIBERMAP holds {ids.dtype}, expected int64"
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, file.path)
    return np.asarray(ids.astype(np.int64))


def _if_cut(file: DesiFile, reason: Reason) -> Reason:
    return Reason.TRUNCATED if file.is_cut else reason


# The images of the arms -----------------------------------------------------------------------


def _arms(file: DesiFile, n_rows: int) -> list[_Arm]:
    arms = [arm for name in ARMS if (arm := _arm(file, name, n_rows)) is not None]
    lacks = len(arms) < len(ARMS) or any(arm.mask is None for arm in arms)
    if lacks and file.is_cut:
        message = f"ends at byte {len(file.buffer)}, before all its arms: fetch the file again"
        raise BadSpectrumError(Reason.TRUNCATED, message, file.path)
    if not arms:
        names = ", ".join(each.name for each in file.hdus[1:])
        message = f"has flux and ivar of no arm, expected B, R and Z; found {names}"
        raise BadSpectrumError(Reason.MISSING_HDU, message, file.path)
    arms.sort(key=lambda arm: arm.start)
    placed: list[_Arm] = []
    reached = 0
    for arm in arms:
        overlap = min(max(reached - arm.start, 0), arm.flux.n_columns)
        placed.append(_Arm(arm.name, arm.start, overlap, arm.flux, arm.ivar, arm.mask))
        reached = max(reached, arm.stop)
    return placed


def _arm(file: DesiFile, name: str, n_rows: int) -> _Arm | None:
    wave, flux, ivar, mask = (
        file.find(f"{name}_{kind}") for kind in ("WAVELENGTH", "FLUX", "IVAR", "MASK")
    )
    if flux is None or ivar is None:
        return None
    if wave is None:
        message = f"has {name}_FLUX, but no {name}_WAVELENGTH: its pixels have no place"
        raise BadSpectrumError(_if_cut(file, Reason.MISSING_HDU), message, file.path)
    start, n_pixels = _start(file, wave)
    shape = (n_rows, n_pixels)
    pair = _floats(file, flux, shape), _floats(file, ivar, shape)
    bits = None if mask is None else _words(file, mask, shape)
    return _Arm(name, start, 0, *pair, bits)


def _start(file: DesiFile, hdu: Hdu) -> tuple[int, int]:
    """First pixel on the native grid, and how many there are."""
    wavelength = np.asarray(file.image(hdu), np.float64)
    step, first, n_native = DESI_NATIVE.linear_step, DESI_NATIVE.first_pixel, DESI_NATIVE.n_pixels
    if wavelength.ndim == 1 and len(wavelength):
        start = wavelength[0] / step - first
        if -0.5 < start < n_native:
            at = round(start)
            expected = np.arange(at, at + len(wavelength)) + first
            with np.errstate(invalid="ignore"):
                on_grid = bool((np.abs(wavelength / step - expected) < _TOLERANCE).all())
            if on_grid and at + len(wavelength) <= n_native:
                return at, len(wavelength)
    ends = f"{wavelength.flat[0]} to {wavelength.flat[-1]} Å" if wavelength.size else "nothing"
    message = (
        f"{hdu.name} has {wavelength.size} pixels from {ends}, expected multiples of {step} Å "
        f"between {first * step:g} and {(first + n_native - 1) * step:g} Å"
    )
    raise BadSpectrumError(Reason.BAD_WAVELENGTH, message, file.path)


def _floats(file: DesiFile, hdu: Hdu, shape: tuple[int, int]) -> _Image:
    plain = _plain(file, hdu, shape, "-32")
    if plain is not None and not _is_scaled(hdu):
        return plain
    with np.errstate(over="ignore"):
        values = _whole(file, hdu, shape).astype(">f4")
    return _Image(None, 0, shape[1], values.view(np.uint32))


def _words(file: DesiFile, hdu: Hdu, shape: tuple[int, int]) -> _Image:
    plain = _plain(file, hdu, shape, "32")
    if plain is not None:
        zero, scale = hdu.card("BZERO"), hdu.card("BSCALE")
        offset = _number(zero, 0.0)
        if _number(scale, 1.0) == 1.0 and offset in {0.0, float(_SIGN)}:
            flip = _SIGN if offset else 0
            return _Image(plain.file, plain.at, plain.n_columns, plain.values, flip)
    found = _whole(file, hdu, shape)
    with np.errstate(invalid="ignore"):
        bits = found.astype(np.int64).astype(">u4")
    return _Image(None, 0, shape[1], bits.view(np.uint32))


def _plain(file: DesiFile, hdu: Hdu, shape: tuple[int, int], bitpix: str) -> _Image | None:
    """The image if it is an array of four-byte numbers in the file, scaled or not."""
    axes = tuple(hdu.card(f"NAXIS{axis}") for axis in (2, 1))
    is_image = hdu.card("XTENSION") == "IMAGE" and hdu.card("NAXIS") == "2"
    if not is_image or hdu.card("BITPIX") != bitpix:
        return None
    if axes != tuple(str(n) for n in shape) or hdu.data_size != 4 * shape[0] * shape[1]:
        raise _wrong_shape(file, hdu, axes, shape)
    if not hdu.complete:
        message = (
            f"ends at byte {len(file.buffer)}, but {hdu.name} needs "
            f"{hdu.data_start + hdu.data_size}: fetch the file again"
        )
        raise BadSpectrumError(Reason.TRUNCATED, message, file.path)
    if isinstance(file.buffer, ScatteredFile):
        return _Image(file.buffer, hdu.data_start, shape[1])
    # A gzip stream is read once, from its start to its end.
    return _Image(None, 0, shape[1], file.raw(hdu).view(np.uint32).reshape(shape))


def _whole(file: DesiFile, hdu: Hdu, shape: tuple[int, int]) -> npt.NDArray[np.generic]:
    found = file.image(hdu)
    if found.shape != shape:
        raise _wrong_shape(file, hdu, found.shape, shape)
    return found


def _wrong_shape(
    file: DesiFile, hdu: Hdu, found: tuple[object, ...], expected: tuple[int, int]
) -> BadSpectrumError:
    message = (
        f"{hdu.name} has the shape {tuple(found)}, expected (rows of FIBERMAP, pixels of "
        f"WAVELENGTH) = {expected}: fetch the file again"
    )
    return BadSpectrumError(Reason.UNREADABLE, message, file.path)


def _is_scaled(hdu: Hdu) -> bool:
    return _number(hdu.card("BSCALE"), 1.0) != 1.0 or _number(hdu.card("BZERO"), 0.0) != 0.0


def _number(card: str | None, default: float) -> float:
    try:
        return default if card is None else float(card)
    except ValueError:
        return float("nan")


# Rows, read and merged ------------------------------------------------------------------------


def _spectra(arms: Sequence[_Arm], rows: Ids, out: Out | None) -> _Spectra:
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


def _clear(found: _Spectra, arms: Sequence[_Arm], rows: Ids) -> None:
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


def _read_span(arms: Sequence[_Arm], found: _Spectra, first: int, places: Ids) -> None:
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


def _parts(values: Bits, side: Bits, unwanted: Bits, arm: _Arm, places: Ids) -> list[memoryview]:
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


def _add_mask(mask: _Image, start: int, found: _Spectra, first: int, places: Ids) -> None:
    """Read the mask of one arm from the first to the last of the spectra that miss a pixel."""
    lacking = np.flatnonzero(places >= 0)
    if len(lacking):
        low, high = int(lacking[0]), int(lacking[-1]) + 1
        big = found.scratch[: (high - low) * mask.n_columns].reshape(high - low, mask.n_columns)
        mask.read([big.reshape(-1).view(np.uint8).data], first + low, high - low)
        flip, rows = np.uint32(mask.flip), places[low:high]
        add_masks(big, flip, found.ivar, found.mask, rows, start)


# What is said of them -------------------------------------------------------------------------


def _block(arms: Sequence[_Arm], found: _Spectra, rows: Ids, wanted: Ids) -> SpectraBlock:
    usable, present, positive = found.counts.transpose(2, 0, 1)
    reason = [""] * len(rows)
    message = [_without_arms(arms)] * len(rows)
    for row in np.flatnonzero((usable == 0).any(axis=0)).tolist():
        if rows[row] < 0:
            reason[row] = str(Reason.ROW_WITHOUT_FIBRE)
            message[row] = f"the file has no spectrum of TARGETID {wanted[row]}"
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


def _names(arms: Sequence[_Arm]) -> list[str]:
    return [arm.name for arm in arms]


def _without_arms(arms: Sequence[_Arm]) -> str:
    lacking = [name for name in ARMS if name not in _names(arms)]
    return f"the file has no arm {', '.join(lacking)}" if lacking else ""


def _unusable(present: object, positive: object) -> tuple[str, str]:
    if positive:
        message = "flux is NaN or infinite wherever the inverse variance is positive"
        return str(Reason.NON_FINITE_FLUX), message
    if present:
        return str(Reason.BAD_IVAR), "no pixel has a usable inverse variance"
    return str(Reason.ALL_IVAR_ZERO), "no pixel has a positive inverse variance"
