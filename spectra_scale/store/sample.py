"""A sample on disk: rest-frame spectra that pass the cuts, dense and rebuildable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.errors import UsageError
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.store.arrays import Shard, open_array, read_rows, shards_of
from spectra_scale.store.artifact import Artifact, open_artifact
from spectra_scale.store.lazy import lazy_array
from spectra_scale.store.objects import column
from spectra_scale.store.release import open_dataset, within
from spectra_scale.store.tables import read_table

KIND = "prepare"


@dataclass(frozen=True, slots=True)
class Sample:
    """A finished sample.

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
    def arrays(self) -> Path:
        """Zarr group of flux, ivar and wavelength."""
        return self.path / "arrays"

    @property
    def n_rows(self) -> int:
        """Number of spectra."""
        return int(self.artifact.counts["kept"])

    @property
    def grid(self) -> WavelengthGrid:
        """The rest-frame grid."""
        return WavelengthGrid.rest_frame(open_array(self.arrays, "flux").shape[1])

    @property
    def shards(self) -> list[Shard]:
        """Row-aligned shards."""
        array = open_array(self.arrays, "flux")
        assert array.shards is not None
        return shards_of(self.n_rows, array.shards[0])

    @property
    def chunk_rows(self) -> int:
        """Rows compressed together."""
        return int(open_array(self.arrays, "flux").chunks[0])

    @property
    def flux(self) -> Any:
        """Rest-frame flux (Dask array, spectrum × pixel); 0 where masked."""
        return lazy_array(self.arrays, "flux")

    @property
    def ivar(self) -> Any:
        """Inverse variance (Dask array); 0 is masked."""
        return lazy_array(self.arrays, "ivar")

    @property
    def index(self) -> pa.Table:
        """Facts of every row: keys, redshift, label, split, S/N."""
        return read_table(self.path / "index.parquet")

    @property
    def dropped(self) -> pa.Table:
        """Rows of the releases that are not in the sample, with the cut that removed them."""
        return read_table(self.path / "dropped.parquet")

    def read(self, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Flux and ivar of some rows, each (row, pixel)."""
        return read_rest(self.arrays, rows)

    def training_rows(self) -> NDArray[np.bool_]:
        """Rows that may train a model: training split, not superseded."""
        return self._rows("train")

    def validation_rows(self) -> NDArray[np.bool_]:
        """Rows that judge a model: validation split, not superseded."""
        return self._rows("validation")

    def _rows(self, split: str) -> NDArray[np.bool_]:
        index = self.index
        chosen = (column(index, "split") == split) & ~column(index, "superseded")
        return np.asarray(chosen, dtype=bool)

    def get(self, spectrum_key: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rest-frame flux and ivar of one spectrum (its newest row), each (pixel,).

        Raises
        ------
        UsageError
            If the sample has no such spectrum.
        """
        found = np.flatnonzero(column(self.index, "spectrum_key") == spectrum_key)
        if not len(found):
            msg = (
                f"{self.path}: no spectrum {spectrum_key!r}. The table of dropped rows says "
                "which cut removed a spectrum."
            )
            raise UsageError(msg)
        flux, ivar = self.read(slice(int(found[-1]), int(found[-1]) + 1))
        return flux[0], ivar[0]

    def cone(self, ra: float, dec: float, radius: float) -> pa.Table:
        """Index rows within `radius` (deg) of a position (deg, ICRS)."""
        table = self.index
        return table.filter(pa.array(within(table, ra, dec, radius)))

    def to_xarray(self) -> Any:
        """The arrays as an xarray Dataset with `wavelength` as coordinate."""
        return open_dataset(self.arrays)


def open_sample(path: Path | str) -> Sample:
    """Open a finished sample.

    Raises
    ------
    DamagedArtifactError
        If there is none.
    """
    return Sample(open_artifact(Path(path), KIND))


def read_rest(arrays: Path, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flux and ivar of some rows; usable inside a task, by path."""
    return read_rows(arrays, "flux", rows), read_rows(arrays, "ivar", rows)
