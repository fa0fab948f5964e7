"""Native arrays of a release, and what releases and samples share: positions, datasets.

The release itself is `surveys.release`: without a copy of its spectra it reads survey files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spectra_scale.errors import UsageError
from spectra_scale.spectrum.grid import NativeGrid
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.store.arrays import read_rows
from spectra_scale.store.objects import column

KIND = "ingest"


def files_named(rows: pa.Table, ledger: pa.Table) -> set[str]:
    """Files that have a row in the catalogue or a line in the ledger."""
    names = set(pc.unique(rows["source_file"]).to_pylist())
    return (names | set(pc.unique(ledger["path"]).to_pylist())) - {""}


def read_native(
    arrays: Path, grid: NativeGrid, rows: slice | NDArray[np.int64], keys: NDArray[Any]
) -> ObservedSpectra:
    """Read native spectra of one Zarr group; usable inside a task, by path."""
    flux, ivar, bits = (read_rows(arrays, name, rows) for name in ("flux", "ivar", "mask_bits"))
    return ObservedSpectra(keys, grid.first_pixel, flux, ivar, bits, grid.linear_step)


def within(table: pa.Table, ra: float, dec: float, radius: float) -> NDArray[np.bool_]:
    """Rows of a table with ra, dec (deg) inside a cone."""
    if not (np.isfinite([ra, dec, radius]).all() and radius > 0):
        msg = f"found cone ({ra}, {dec}, {radius}), expected finite degrees and a radius above 0"
        raise UsageError(msg)
    lon, lat = np.radians(column(table, "ra")), np.radians(column(table, "dec"))
    lon0, lat0 = np.radians([ra, dec])
    # Haversine: exact for the small separations that the arc cosine loses.
    half = np.sin((lat - lat0) / 2) ** 2
    half = half + np.cos(lat) * np.cos(lat0) * np.sin((lon - lon0) / 2) ** 2
    inside = 2 * np.arcsin(np.sqrt(np.clip(half, 0, 1))) <= np.radians(radius)
    return np.asarray(inside, dtype=bool)


def open_dataset(arrays: Path) -> Any:
    """Open a Zarr group with xarray."""
    import xarray as xr

    return xr.open_zarr(arrays, consolidated=True)
