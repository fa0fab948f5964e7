"""A release on disk: immutable, faithful to what the survey published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spectra_scale.errors import UsageError
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.store.arrays import Layout, Shard, open_array, shards_of
from spectra_scale.store.artifact import Artifact, open_artifact
from spectra_scale.store.lazy import lazy_array
from spectra_scale.store.objects import column
from spectra_scale.store.tables import read_table

KIND = "ingest"


@dataclass(frozen=True, slots=True)
class Release:
    """A finished release.

    Parameters
    ----------
    artifact
        Its directory and manifest.
    """

    artifact: Artifact

    @property
    def path(self) -> Path:
        """Directory."""
        return self.artifact.path

    @property
    def name(self) -> str:
        """Name, as in the job that made it."""
        return str(self.artifact.manifest["metrics"]["name"])

    @property
    def arrays(self) -> Path:
        """Zarr group of flux, ivar and mask_bits."""
        return self.path / "arrays"

    @property
    def first_pixel(self) -> int:
        """Native pixel k of column 0: log10 λ/Å = k·1e-4, vacuum, observed frame."""
        return int(self.artifact.manifest["metrics"]["first_pixel"])

    @property
    def layout(self) -> Layout:
        """Shards and chunks."""
        array = open_array(self.arrays, "flux")
        assert array.shards is not None
        return Layout(array.shards[0], array.chunks[0])

    @property
    def shards(self) -> list[Shard]:
        """Row-aligned shards."""
        return shards_of(self.n_rows, self.layout.shard_rows)

    @property
    def n_rows(self) -> int:
        """Rows of the catalogue and of every array."""
        return int(self.artifact.counts["rows"])

    @property
    def flux(self) -> Any:
        """F_λ (Dask array, spectrum × native pixel)."""
        return lazy_array(self.arrays, "flux")

    @property
    def ivar(self) -> Any:
        """Inverse variance (Dask array); 0 is missing."""
        return lazy_array(self.arrays, "ivar")

    @property
    def mask_bits(self) -> Any:
        """The survey's mask bits (Dask array)."""
        return lazy_array(self.arrays, "mask_bits")

    @property
    def catalogue(self) -> pa.Table:
        """The survey's catalogue, row-aligned with the arrays."""
        return read_table(self.path / "catalogue.parquet")

    @property
    def lines(self) -> pa.Table:
        """The pipeline's own line fits (SPZLINE), row-aligned; NaN where there are none."""
        return read_table(self.path / "lines.parquet")

    @property
    def ledger(self) -> pa.Table:
        """Every file or row that is not a row of the catalogue, with its reason."""
        return read_table(self.path / "ledger.parquet")

    def read(self, rows: slice | NDArray[np.int64]) -> ObservedSpectra:
        """Read native spectra.

        Parameters
        ----------
        rows
            A slice, or sorted row numbers.
        """
        keys = read_table(self.path / "catalogue.parquet", ["spectrum_key"])
        return read_native(self.arrays, self.first_pixel, rows, column(keys, "spectrum_key")[rows])

    def get(self, spectrum_key: str) -> ObservedSpectra:
        """One spectrum by its key.

        Raises
        ------
        UsageError
            If the release has no such spectrum.
        """
        keys = read_table(self.path / "catalogue.parquet", ["spectrum_key"])["spectrum_key"]
        row = pc.index(keys, spectrum_key).as_py()
        if row < 0:
            msg = (
                f"{self.path}: no spectrum {spectrum_key!r}, expected a key such as "
                f"{keys[0].as_py()!r}. Look in the catalogue or the ledger."
            )
            raise UsageError(msg)
        return self.read(slice(row, row + 1))

    def cone(self, ra: float, dec: float, radius: float) -> pa.Table:
        """Catalogue rows within `radius` (deg) of a position (deg, ICRS)."""
        table = self.catalogue
        return table.filter(pa.array(within(table, ra, dec, radius)))

    def to_xarray(self) -> Any:
        """The arrays as an xarray Dataset."""
        return open_dataset(self.arrays)


def open_release(path: Path | str) -> Release:
    """Open a finished release.

    Raises
    ------
    DamagedArtifactError
        If there is none.
    """
    return Release(open_artifact(Path(path), KIND))


def files_named(rows: pa.Table, ledger: pa.Table) -> set[str]:
    """Files that have a row in the catalogue or a line in the ledger."""
    return (set(rows["source_file"].to_pylist()) | set(ledger["path"].to_pylist())) - {""}


def read_native(
    arrays: Path, first_pixel: int, rows: slice | NDArray[np.int64], keys: NDArray[Any]
) -> ObservedSpectra:
    """Read native spectra of one Zarr group; usable inside a task, by path."""
    flux, ivar, bits = (_take(arrays, name, rows) for name in ("flux", "ivar", "mask_bits"))
    return ObservedSpectra(keys, first_pixel, flux, ivar, bits)


def _take(path: Path, name: str, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
    array = open_array(path, name)
    if isinstance(rows, slice):
        return np.asarray(array[rows])
    return np.asarray(array.oindex[rows]) if len(rows) else np.asarray(array[:0])


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
