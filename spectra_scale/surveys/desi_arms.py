"""The arms of a DESI coadd: where their images lie in the file, and their pixels on the grid.

Plain images stay in the file, of which rows are read later; gzipped, compressed and scaled ones
are unpacked here. RESOLUTION is never touched (formats.md A5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.grid import DESI_NATIVE
from spectra_scale.surveys.desi_hdus import DesiFile, ScatteredFile
from spectra_scale.surveys.fits_bytes import Hdu, UnsureError
from spectra_scale.surveys.reasons import Reason

Bits = npt.NDArray[np.uint32]
Ids = npt.NDArray[np.int64]

ARMS = ("B", "R", "Z")
_TOLERANCE = 1e-3  # pixels: 0.0008 Å, four times the dust of wavelengths kept as float32
_SIGN = 1 << 31


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An image of one arm, of which rows are read as they are on disk: four-byte, big-endian.

    Parameters
    ----------
    file, at
        The file, and the first byte of the image in it; None if the image had to be unpacked.
    n_columns
        Pixels of the arm.
    values
        The image where it had to be unpacked, shape (row, pixel).
    flip
        Bits of a mask to invert: BZERO 2^31 is the highest.
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
class Arm:
    """One arm of a spectrograph.

    Parameters
    ----------
    name
        B, R or Z.
    start
        Its first pixel, counted from the first of `DESI_NATIVE`.
    overlap
        Pixels at its blue end that are those of an earlier arm too.
    flux, ivar, mask
        Its images; a mask may be absent.
    """

    name: str
    start: int
    overlap: int
    flux: Image
    ivar: Image
    mask: Image | None

    @property
    def stop(self) -> int:
        """The pixel behind its last."""
        return self.start + self.flux.n_columns


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


def arms_of(file: DesiFile, n_rows: int) -> list[Arm]:
    """Find the arms of a coadd.

    Parameters
    ----------
    file
        The open file.
    n_rows
        Its spectra, by its FIBERMAP.

    Returns
    -------
    list of Arm
        From the bluest to the reddest. An arm without flux or ivar is none.

    Raises
    ------
    BadSpectrumError
        ``missing_hdu`` if there is no arm, ``bad_wavelength`` off the 0.8 Å grid, ``truncated``
        if the file is cut and an arm or a mask is not there, ``unreadable`` if images are of
        other shapes than they should be.
    """
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
    placed: list[Arm] = []
    reached = 0
    for arm in arms:
        overlap = min(max(reached - arm.start, 0), arm.flux.n_columns)
        placed.append(replace(arm, overlap=overlap))
        reached = max(reached, arm.stop)
    return placed


def _arm(file: DesiFile, name: str, n_rows: int) -> Arm | None:
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
    return Arm(name, start, 0, *pair, bits)


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


def _floats(file: DesiFile, hdu: Hdu, shape: tuple[int, int]) -> Image:
    plain = _plain(file, hdu, shape, "-32")
    if plain is not None and not _is_scaled(hdu):
        return plain
    with np.errstate(over="ignore"):
        values = _whole(file, hdu, shape).astype(">f4")
    return Image(None, 0, shape[1], values.view(np.uint32))


def _words(file: DesiFile, hdu: Hdu, shape: tuple[int, int]) -> Image:
    plain = _plain(file, hdu, shape, "32")
    if plain is not None:
        zero, scale = hdu.card("BZERO"), hdu.card("BSCALE")
        offset = _number(zero, 0.0)
        if _number(scale, 1.0) == 1.0 and offset in {0.0, float(_SIGN)}:
            flip = _SIGN if offset else 0
            return Image(plain.file, plain.at, plain.n_columns, plain.values, flip)
    found = _whole(file, hdu, shape)
    with np.errstate(invalid="ignore"):
        bits = found.astype(np.int64).astype(">u4")
    return Image(None, 0, shape[1], bits.view(np.uint32))


def _plain(file: DesiFile, hdu: Hdu, shape: tuple[int, int], bitpix: str) -> Image | None:
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
        return Image(file.buffer, hdu.data_start, shape[1])
    # A gzip stream is read once, from its start to its end.
    return Image(None, 0, shape[1], file.raw(hdu).view(np.uint32).reshape(shape))


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
