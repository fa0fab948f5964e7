"""A release on disk: immutable, faithful to what the survey published.

It is here, above the store, because without a copy of its spectra (``copy = false``) they are read
from the survey's own files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spectra_scale.errors import UsageError
from spectra_scale.spectrum.grid import NATIVE_GRIDS, NativeGrid
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.store.arrays import Layout, Shard, check_present, shards_of
from spectra_scale.store.artifact import Artifact, open_artifact
from spectra_scale.store.lazy import lazy_array
from spectra_scale.store.release import KIND, open_dataset, within
from spectra_scale.store.tables import read_table
from spectra_scale.surveys.native import PLACE, NativeRows


@dataclass(frozen=True, slots=True)
class Release:
    """A finished release.

    Parameters
    ----------
    artifact
        Its directory and manifest.
    roots
        Source folders with the survey's files, where its spectra are not stored; those it was
        made from, if none are given.
    """

    artifact: Artifact
    roots: tuple[Path, ...] = ()

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
    def survey(self) -> str:
        """Whose spectra it holds: `sdss` or `desi`."""
        return str(self.artifact.metrics["survey"])

    @property
    def grid(self) -> NativeGrid:
        """Native grid of its spectra, observed frame, vacuum."""
        return NATIVE_GRIDS[str(self.artifact.metrics["grid"])]

    @property
    def has_copy(self) -> bool:
        """Whether the spectra are stored, and not only where they are (``copy = false``)."""
        return bool(self.artifact.metrics["copy"])

    @property
    def layout(self) -> Layout:
        """Rows of a shard and of a chunk; a shard is a task also where spectra are not stored."""
        metrics = self.artifact.metrics
        return Layout(int(metrics["shard_rows"]), int(metrics["chunk_rows"]))

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
        return lazy_array(self._stored, "flux")

    @property
    def ivar(self) -> Any:
        """Inverse variance (Dask array); 0 is missing."""
        return lazy_array(self._stored, "ivar")

    @property
    def mask_bits(self) -> Any:
        """The survey's mask bits (Dask array)."""
        return lazy_array(self._stored, "mask_bits")

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

    @property
    def _stored(self) -> Path:
        if not self.has_copy:
            msg = (
                f"{self.path} was ingested with copy = false and holds no arrays; expected stored "
                "spectra. Read them with .read(rows) or .get(key), or ingest it with a copy."
            )
            raise UsageError(msg)
        return self.arrays

    def check_present(self) -> None:
        """Look whether every stored shard is there: a missing one would read as zeros.

        Raises
        ------
        DamagedArtifactError
            Naming the first that is not.
        """
        if self.has_copy:
            check_present(self.arrays, self.path / "shards.parquet")

    def places(self) -> pa.Table | None:
        """Where the spectrum of each row is (`native.PLACE`); None where they are stored."""
        return None if self.has_copy else read_table(self.path / "catalogue.parquet", list(PLACE))

    def rows(self, rows: NDArray[np.int64], places: pa.Table | None = None) -> NativeRows:
        """Some rows to read later, small enough to send to a worker.

        Parameters
        ----------
        rows
            Row numbers, ascending.
        places
            `places()`, for who asks more than once.
        """
        chunk_rows = self.layout.chunk_rows
        if self.has_copy:
            return NativeRows(self.grid, rows, chunk_rows, self.arrays.resolve())
        roots = self.roots or tuple(Path(p) for p in self.artifact.manifest["where"]["source"])
        all_ = self.places() if places is None else places
        assert all_ is not None
        mine = all_.take(pa.array(rows))
        folders = tuple(root.resolve() for root in roots)
        return NativeRows(self.grid, rows, chunk_rows, None, mine, folders)

    def read(self, rows: slice | NDArray[np.int64]) -> ObservedSpectra:
        """Read native spectra.

        Parameters
        ----------
        rows
            A slice, or sorted row numbers.

        Raises
        ------
        DamagedArtifactError
            Without a copy: if a survey file is gone, or is another than it was.
        """
        numbers = np.arange(self.n_rows)[rows]
        keys = read_table(self.path / "catalogue.parquet", ["spectrum_key"])["spectrum_key"]
        names = np.array(keys.take(pa.array(numbers)).to_pylist(), dtype=object)
        self.check_present()
        return self.rows(numbers).read(slice(None), names)

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
        return open_dataset(self._stored)


def open_release(path: Path | str) -> Release:
    """Open a finished release.

    Raises
    ------
    DamagedArtifactError
        If there is none.
    """
    return Release(open_artifact(Path(path), KIND))
