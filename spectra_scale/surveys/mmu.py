"""Spectra of MultimodalUniverse HDF5 files: a bulk alternative to survey files (formats.md A6).

SDSS spectra there come from plate files, DESI spectra from coadds with their arms merged. What it
dropped cannot be had back: of a mask only whether any bit was set, of SDSS all but the primary
spectra of good plates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.grid import NATIVE_GRIDS, NATIVE_STEP, NativeGrid
from spectra_scale.surveys.block import SpectraBlock
from spectra_scale.surveys.mmu_file import MmuFile, open_mmu
from spectra_scale.surveys.mmu_rows import ROW_SCHEMA, LostRow, read_rows
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss import reason_without_ivar, usable_ivar

__all__ = [
    "ANY_BIT",
    "ROW_SCHEMA",
    "LostRow",
    "is_mmu",
    "read_mmu",
    "read_rows",
    "survey_of_file",
]

ANY_BIT = np.uint32(0xFFFFFFFF)
"""Mask bits of a pixel that is bad for a reason that is not kept: every preset leaves it out."""

_PADDING = -1.0
_TOLERANCE = 0.1  # pixels; float32 wavelengths are off by 0.0006 (DESI) and 0.0003 (SDSS)
_FAR = 1 << 20  # no native pixel has so large an index
_MANY_KINDS = 64  # plates in a file of SDSS beyond which each spectrum is looked at by itself

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
UInts = npt.NDArray[np.uint32]


def is_mmu(path: Path) -> bool:
    """Whether a file is an HDF5 file of SDSS or DESI spectra of MultimodalUniverse."""
    try:
        with open_mmu(path):
            return True
    except BadSpectrumError:
        return False


def survey_of_file(path: Path) -> str:
    """Whose spectra a file holds: `sdss` or `desi`.

    Raises
    ------
    BadSpectrumError
        If it is no such file.
    """
    with open_mmu(path) as file:
        return file.survey


def read_mmu(path: Path, ids: npt.ArrayLike | None = None) -> SpectraBlock:
    """Read spectra of a file.

    Parameters
    ----------
    path
        The file.
    ids
        Row numbers in the file (`source_row` of `read_rows`), shape (spectrum,); all rows if not
        given.

    Returns
    -------
    SpectraBlock
        One spectrum an id, in their order, on the native grid of the survey; padding is dropped,
        wavelengths are snapped to pixels. `mask_bits` are `ANY_BIT` where the file's mask is
        True, else 0; ivar is as in the file. A spectrum with wavelengths off the grid, without a
        usable pixel, or with an id the file lacks has its reason.

    Raises
    ------
    BadSpectrumError
        If the file cannot be read, is no such file, or a dataset has another shape than the rest.
    """
    # Damaged numbers may not fit the type that they are cast to.
    with open_mmu(path) as file, np.errstate(over="ignore", invalid="ignore"):
        every = np.arange(file.n_rows)
        wanted = every if ids is None else np.atleast_1d(np.asarray(ids, np.int64))
        there = (wanted >= 0) & (wanted < file.n_rows)
        rows = wanted[there]
        n_pixels = file.n_pixels
        flux, ivar = (
            file.pixels(name, rows, n_pixels).astype(np.float32, copy=False)
            for name in ("spectrum_flux", "spectrum_ivar")
        )
        has_mask = "spectrum_mask" in file
        mask = file.pixels("spectrum_mask", rows, n_pixels) if has_mask else np.zeros(ivar.shape)
        bits = np.where(mask.astype(bool), ANY_BIT, np.uint32(0))
        first, length = _pixel_runs(file, rows, n_pixels)
    grid = NATIVE_GRIDS[file.survey]
    found = _Spectra(grid, len(wanted))
    found.reason[~there] = Reason.ROW_WITHOUT_FIBRE
    found.message[~there] = "the file has no such row"
    found.fill(np.flatnonzero(there), (flux, ivar, bits), (first, length))
    return found.block("" if has_mask else "the file has no mask: what it flagged is not known")


def _pixel_runs(file: MmuFile, rows: Ids, n_pixels: int) -> tuple[Ids, Ids]:
    """Native index of the first pixel, and number of pixels, of each row; -1 if off the grid."""
    grid = NATIVE_GRIDS[file.survey]
    if "spectrum_lambda" not in file:
        low = _index(grid, file.column("spectrum_lambda_min")[rows].astype(np.float64))
        high = _index(grid, file.column("spectrum_lambda_max")[rows].astype(np.float64))
        good = (low >= 0) & (high - low + 1 == n_pixels)
        return np.where(good, low, -1), np.where(good, n_pixels, -1)
    wave = file.pixels("spectrum_lambda", rows, n_pixels)
    first, length = np.full((2, len(rows)), -1, np.int64)
    left = np.arange(len(rows))
    for number in range(len(rows)):
        if not len(left):
            break
        # Most spectra of a file have the same wavelengths as others: a plate, or all of DESI.
        alike = np.zeros(len(left), np.bool_)
        if number < _MANY_KINDS:
            alike = (wave[left] == wave[left[0]]).all(axis=1)
        alike[0] = True
        first[left[alike]], length[left[alike]] = _run(grid, wave[left[0]].astype(np.float64))
        left = left[~alike]
    return first, length


def _run(grid: NativeGrid, wave: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Native index of the first pixel, and number of pixels, of one spectrum; -1 if off the grid.

    Pixels have to be consecutive up to the padding, which is at the end.
    """
    length = len(wave) - int(np.count_nonzero(wave == _PADDING))
    index = _index(grid, wave[:length])
    if not length or index[0] < 0 or not np.array_equal(index, index[0] + np.arange(length)):
        return -1, -1
    return int(index[0]), length


def _index(grid: NativeGrid, wave: npt.NDArray[np.float64]) -> Ids:
    """Native index of wavelengths in Å; -1 where one is not the centre of a pixel."""
    with np.errstate(invalid="ignore", divide="ignore"):
        place = wave / grid.linear_step if grid.linear_step else np.log10(wave) / NATIVE_STEP
        nearest = np.rint(place)
        good = (np.abs(place - nearest) < _TOLERANCE) & (nearest >= 0) & (nearest < _FAR)
    return np.where(good, nearest, -1).astype(np.int64)


class _Spectra:
    """Spectra on the native grid, filled run by run."""

    def __init__(self, grid: NativeGrid, n_spectra: int) -> None:
        shape = (n_spectra, grid.n_pixels)
        self.grid = grid
        self.flux, self.ivar = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.bits = np.zeros(shape, np.uint32)
        self.n_repaired = np.zeros(n_spectra, np.int32)
        self.reason = np.full(n_spectra, "", dtype=object)
        self.message = np.full(n_spectra, "", dtype=object)

    def fill(
        self,
        places: Ids,
        arrays: tuple[Floats, Floats, UInts],
        runs: tuple[Ids, Ids],
    ) -> None:
        """Put spectra into `places`; `runs` is where each begins on the grid, and its length."""
        off = runs[0] < 0
        self._lose(places[off], *self._off_grid())
        # Spectra of one plate have the same pixels.
        pairs, kind = np.unique(np.stack(runs, axis=1), axis=0, return_inverse=True)
        for number, (first, length) in enumerate(pairs.tolist()):
            if first >= 0:
                mine = np.flatnonzero(kind.reshape(-1) == number)
                # Neighbours stay where they are; others are copied together.
                near = len(mine) == mine[-1] - mine[0] + 1
                rows = slice(mine[0], mine[-1] + 1) if near else mine
                flux, ivar, bits = arrays
                part = flux[rows, :length], ivar[rows, :length], bits[rows, :length]
                self._put(places[mine], part, first)

    def _off_grid(self) -> tuple[Reason, str]:
        if self.grid.linear_step:
            return Reason.BAD_WAVELENGTH, "wavelengths are not consecutive pixels of 0.8 Å"
        return Reason.BAD_LOGLAM, "wavelengths are not consecutive pixels of 1e-4 dex"

    def _put(self, places: Ids, arrays: tuple[Floats, Floats, UInts], first: int) -> None:
        flux, found, bits = arrays
        ivar, self.n_repaired[places] = usable_ivar(flux, found)
        for row in np.flatnonzero(~ivar.any(axis=1)):
            reason = reason_without_ivar(flux[row], found[row]) or Reason.ALL_IVAR_ZERO
            self._lose(places[row], reason, "no usable pixel")
        at = first - self.grid.first_pixel
        low, high = max(-at, 0), max(min(self.grid.n_pixels - at, flux.shape[1]), 0)
        outside = (ivar[:, :low] > 0).any(axis=1) | (ivar[:, high:] > 0).any(axis=1)
        self._lose(places[outside], Reason.OUTSIDE_NATIVE_GRID, "data outside the native grid")
        good = self.reason[places] == ""
        if high > low:
            where = places[good], slice(at + low, at + high)
            self.flux[where], self.ivar[where] = flux[good, low:high], ivar[good, low:high]
            self.bits[where] = bits[good, low:high]

    def _lose(self, places: Ids | np.int64, reason: Reason, message: str) -> None:
        self.reason[places], self.message[places] = str(reason), message

    def block(self, message: str) -> SpectraBlock:
        """What is filled; `message` goes to each spectrum that is fine."""
        self.message[self.reason == ""] = message
        return SpectraBlock(
            self.grid.first_pixel,
            self.flux,
            self.ivar,
            self.bits,
            [str(each) for each in self.reason],
            [str(each) for each in self.message],
            self.n_repaired,
        )
