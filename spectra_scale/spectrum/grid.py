"""Wavelength grids: the rest-frame grid of a sample, the native grid, the grid of stacks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import UsageError

__all__ = [
    "DESI_NATIVE",
    "NATIVE_GRIDS",
    "NATIVE_STEP",
    "SDSS_NATIVE",
    "STACK_FIRST",
    "STACK_N_PIXELS",
    "NativeGrid",
    "WavelengthGrid",
    "native_edges",
    "stack_edges",
    "stack_wavelength",
]

NATIVE_STEP = 1e-4
"""Step of the native SDSS grid in dex; pixel k is centred on ``log10 λ = k·1e-4``."""


@dataclass(frozen=True, slots=True)
class NativeGrid:
    """The pixels on which all spectra of a release are stored, observed frame, vacuum.

    Parameters
    ----------
    name
        Its name in manifests.
    first_pixel
        Native index k of the first pixel.
    n_pixels
        Number of pixels.
    linear_step
        Å per pixel: pixel k is centred on ``λ = k·linear_step``. 0 for the logarithmic grid of
        SDSS, where it is centred on ``log10 λ = k·1e-4``.
    """

    name: str
    first_pixel: int
    n_pixels: int
    linear_step: float = 0.0


SDSS_NATIVE = NativeGrid("sdss", 35480, 4736)
"""SDSS, all spectrographs: 10^3.548 = 3532 Å to 10^4.0215 = 10508 Å."""
DESI_NATIVE = NativeGrid("desi", 4500, 7781, 0.8)
"""DESI, arms merged: 3600 to 9824 Å in steps of 0.8 Å (formats.md A5)."""
NATIVE_GRIDS = {grid.name: grid for grid in (SDSS_NATIVE, DESI_NATIVE)}
"""Native grids by name."""

STACK_FIRST = 35000
"""Native index of the first pixel of a stack (science.md §1)."""

STACK_N_PIXELS = 4000
"""Pixels of a stack: 3.5 to 3.9 in log10 of the wavelength in Å."""

PAPER_RANGE = (3388.0, 8318.0)
"""First and last edge of the paper's rest-frame grid, vacuum Å."""


@dataclass(frozen=True, slots=True)
class WavelengthGrid:
    """A log-uniform grid in vacuum Å.

    Parameters
    ----------
    log10_start
        log10 of the first **edge** in Å.
    log10_step
        Width of a pixel in dex.
    n_pixels
        Number of pixels.

    Raises
    ------
    UsageError
        If the step or the number of pixels is not positive, or the start is not finite.

    Examples
    --------
    >>> grid = WavelengthGrid.rest_frame()
    >>> grid.n_pixels, round(float(grid.edges[0]), 6), round(float(grid.edges[-1]), 6)
    (1000, 3388.0, 8318.0)
    """

    log10_start: float
    log10_step: float
    n_pixels: int

    def __post_init__(self) -> None:
        sound = np.isfinite([self.log10_start, self.log10_step]).all()
        if not sound or self.log10_step <= 0 or self.n_pixels < 1:
            msg = (
                f"A wavelength grid needs a finite log10_start, log10_step > 0 and n_pixels >= 1; "
                f"found {self.log10_start}, {self.log10_step}, {self.n_pixels}. "
                "Correct [prepare] grid in the job."
            )
            raise UsageError(msg)

    @classmethod
    def rest_frame(cls, n_pixels: int = 1000) -> WavelengthGrid:
        """Give the paper's rest-frame grid, 3388 to 8318 Å between outer edges (science.md §1).

        Parameters
        ----------
        n_pixels
            1000 in the paper, 2000 and 3000 in its future work; any positive number works.
        """
        if n_pixels < 1:
            return cls(0.0, 1.0, n_pixels)  # the constructor refuses it, in words
        first, last = (float(np.log10(edge)) for edge in PAPER_RANGE)
        return cls(first, (last - first) / n_pixels, n_pixels)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Pixel edges in Å, shape (n_pixels + 1,)."""
        index = np.arange(self.n_pixels + 1, dtype=np.float64)
        edges: npt.NDArray[np.float64] = 10.0 ** (self.log10_start + self.log10_step * index)
        return edges

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Pixel centres in Å, half way between the edges in log λ, shape (n_pixels,)."""
        index = np.arange(self.n_pixels, dtype=np.float64) + 0.5
        centres: npt.NDArray[np.float64] = 10.0 ** (self.log10_start + self.log10_step * index)
        return centres


def native_edges(first_pixel: int, n_pixels: int) -> npt.NDArray[np.float64]:
    """Give the edges of native SDSS pixels: half of 1e-4 dex either side of ``k·1e-4``.

    Parameters
    ----------
    first_pixel
        Native index k of the first pixel.
    n_pixels
        Number of pixels.

    Returns
    -------
    numpy.ndarray
        Edges in vacuum Å, shape (n_pixels + 1,).
    """
    index = np.arange(n_pixels + 1, dtype=np.float64) + (first_pixel - 0.5)
    edges: npt.NDArray[np.float64] = 10.0 ** (index * NATIVE_STEP)
    return edges


def stack_wavelength() -> npt.NDArray[np.float64]:
    """Give the pixel centres of a stack in rest-frame vacuum Å, shape (4000,)."""
    index = np.arange(STACK_FIRST, STACK_FIRST + STACK_N_PIXELS, dtype=np.float64)
    centres: npt.NDArray[np.float64] = 10.0 ** (index * NATIVE_STEP)
    return centres


def stack_edges() -> npt.NDArray[np.float64]:
    """Give the pixel edges of a stack in rest-frame vacuum Å, shape (4001,)."""
    return native_edges(STACK_FIRST, STACK_N_PIXELS)
