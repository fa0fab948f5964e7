"""Spectra of one survey file, whatever its format: what every reader gives to ingest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.grid import NativeGrid


@dataclass(frozen=True, slots=True, eq=False)
class SpectraBlock:
    """Spectra of one file on common native pixels, observed frame, vacuum.

    Parameters
    ----------
    first_pixel
        Native index k of the first column (`spectrum.grid.NativeGrid`).
    flux
        F_λ in 1e-17 erg s⁻¹ cm⁻² Å⁻¹, float32, shape (spectrum, pixel). As in the file: it may
        hold anything, NaN included, where `ivar` is 0.
    ivar
        Inverse variance of `flux`, float32, same shape; 0 marks a missing pixel. Finite and not
        negative: what was not so in the file is 0 here, and counted in `n_repaired`.
    mask_bits
        The survey's mask bits, uint32, same shape.
    reason
        Code of `reasons.Reason` of a spectrum that is unusable, '' of one that is fine, length
        (spectrum,). An unusable one has ivar 0 throughout.
    message
        What was found, in words: why a spectrum is unusable, or what is worth knowing of one that
        is fine (an arm that is missing); '' if nothing. Length (spectrum,).
    n_repaired
        Pixels whose ivar was set to 0, int32, shape (spectrum,).
    lines
        The pipeline's own line fits of each spectrum (`lines.LINE_COLUMNS` and ``source``), None
        where there are none; length (spectrum,), or empty if the format has none.
    """

    first_pixel: int
    flux: npt.NDArray[np.float32]
    ivar: npt.NDArray[np.float32]
    mask_bits: npt.NDArray[np.uint32]
    reason: Sequence[str]
    message: Sequence[str]
    n_repaired: npt.NDArray[np.int32]
    lines: Sequence[dict[str, Any] | None] = ()

    def __len__(self) -> int:
        return len(self.flux)

    def place(
        self,
        grid: NativeGrid,
        out: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.uint32]],
    ) -> None:
        """Write the spectra into rows of a release's native arrays.

        Pixels of `out` that the spectra do not reach are left as they are (zero in a new shard);
        pixels outside the grid are dropped: a reader quarantines spectra with data there.

        Parameters
        ----------
        grid
            Native grid of the release.
        out
            flux, ivar and mask bits, shape (spectrum, grid.n_pixels); changed in place.
        """
        at = self.first_pixel - grid.first_pixel
        start, stop = max(at, 0), min(at + self.flux.shape[1], grid.n_pixels)
        if stop > start:
            for source, target in zip((self.flux, self.ivar, self.mask_bits), out, strict=True):
                target[:, start:stop] = source[:, start - at : stop - at]


def spectrum_digest(*arrays: npt.NDArray[Any]) -> str:
    """Checksum of one spectrum on the native grid: flux, ivar and mask bits, in this order."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
