"""The task of prepare's first pass: one native shard to the rest frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.config import PrepareSection
from spectra_scale.dust import dereddening
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.spectrum.preprocess import Preprocess, to_rest_frame
from spectra_scale.spectrum.quality import Quality
from spectra_scale.store.arrays import save_array
from spectra_scale.store.schema import DROPPED
from spectra_scale.store.tables import read_table, write_table
from spectra_scale.surveys.native import Buffers, NativeRows

#: Redshift the reference preset moves λF_λ to (science.md §2).
REFERENCE_REDSHIFT = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class RestTask:
    """Rows of one native shard that passed the catalogue's cuts.

    Parameters
    ----------
    release
        Name of the release.
    spectra
        Native spectra of the rows.
    redshift, keys
        Redshift and key of each row.
    extinction
        E(B−V) of each, or None for no dereddening.
    part
        Folder of this task's results.
    """

    release: str
    spectra: NativeRows
    redshift: NDArray[np.float64]
    extinction: NDArray[np.float64] | None
    keys: pa.Array
    part: Path

    @property
    def n_rows(self) -> int:
        """Rows to shift."""
        return len(self.spectra)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row numbers in the release."""
        return self.spectra.numbers

    @property
    def kept(self) -> Path:
        """Table of the rows that passed, written last: it marks the task as done."""
        return self.part / "kept.parquet"

    @property
    def dropped(self) -> Path:
        """Table of the rows that failed a cut on the spectrum."""
        return self.part / "dropped.parquet"


def rest_shard(config: PrepareSection, task: RestTask) -> dict[str, int]:
    """Shift one shard's rows to the rest frame and keep what passes the cuts on the spectrum."""
    if not task.kept.is_file():
        _make(config, task)
    return {"kept": read_table(task.kept, ["row"]).num_rows}


def _make(config: PrepareSection, task: RestTask) -> None:
    task.part.mkdir(parents=True, exist_ok=True)
    fluxes: list[NDArray[np.float32]] = []
    ivars: list[NDArray[np.float32]] = []
    tables, dropped = [], []
    buffers = task.spectra.buffers()
    for part in task.spectra.blocks():
        flux, ivar, quality = _shift(config, task, part, buffers)
        first, found = failed_cut(quality, config)
        good = first == ""
        fluxes.append(flux[good])
        ivars.append(ivar[good])
        tables.append(_kept_table(task, part, good, quality))
        dropped.append(_dropped_table(task, part, first, found))
    empty = np.empty((0, config.n_pixels), dtype=np.float32)
    save_array(task.part / "flux.npy", np.concatenate([empty, *fluxes]))
    save_array(task.part / "ivar.npy", np.concatenate([empty, *ivars]))
    write_table(task.dropped, pa.concat_tables([DROPPED.arrow().empty_table(), *dropped]))
    write_table(task.kept, pa.concat_tables([_kept_table(task, slice(0, 0), None, None), *tables]))


def _shift(
    config: PrepareSection, task: RestTask, part: slice, buffers: Buffers | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], Quality]:
    keys = np.array(task.keys[part.start : part.stop].to_pylist(), dtype=object)
    observed = task.spectra.read(part, keys, buffers)
    z = task.redshift[part]
    rest, quality = to_rest_frame(
        observed,
        z,
        how(config),
        luminosity_factor=luminosity_factor(z) if config.preset == "reference" else None,
        extinction=_factor(task, part, observed),
    )
    return rest.flux, rest.ivar, quality


def _factor(task: RestTask, part: slice, observed: ObservedSpectra) -> NDArray[np.float64] | None:
    if task.extinction is None:
        return None
    return dereddening(task.extinction[part], observed.edges)


def how(config: PrepareSection) -> Preprocess:
    """Settings of the kernel."""
    return Preprocess(
        preset=config.preset,
        mask=config.mask_preset,
        min_coverage=config.min_coverage,
        grid=WavelengthGrid.rest_frame(config.n_pixels),
    )


def luminosity_factor(redshift: NDArray[np.float64]) -> NDArray[np.float64]:
    """(d_L(z)/d_L(0.1))² with the Planck 2018 cosmology (science.md §2, `reference`)."""
    from astropy.cosmology import Planck18

    distance = Planck18.luminosity_distance(redshift).value
    return np.asarray((distance / Planck18.luminosity_distance(REFERENCE_REDSHIFT).value) ** 2)


def failed_cut(
    quality: Quality, config: PrepareSection
) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """Name the first cut on the spectrum that each row fails ('' if none), and its value."""
    masked = np.asarray(quality.masked_fraction, dtype=np.float64)
    snr = np.asarray(getattr(quality, config.snr), dtype=np.float64)
    first = np.full(len(snr), "", dtype=object)
    first[~(snr > config.min_snr)] = config.snr
    first[~(masked < config.max_masked_fraction)] = "masked fraction"
    return first, np.where(first == "masked fraction", masked, snr)


def _kept_table(
    task: RestTask, part: slice, good: NDArray[np.bool_] | None, quality: Quality | None
) -> pa.Table:
    keep = np.zeros(0, dtype=bool) if good is None else good

    def facts(name: str) -> NDArray[np.float64]:
        values = np.zeros(0) if quality is None else getattr(quality, name)
        return np.asarray(values, dtype=np.float64)[keep]

    names = ("snr_total", "snr_median", "snr_mean", "masked_fraction")
    return pa.table(
        {"row": task.rows[part][keep], "z": task.redshift[part][keep].astype(np.float64)}
        | {name: facts(name) for name in names}
    )


def _dropped_table(
    task: RestTask, part: slice, first: NDArray[np.object_], found: NDArray[np.float64]
) -> pa.Table:
    gone = np.flatnonzero(first != "")
    rows = task.rows[part][gone]
    table = pa.table({
        "release": pa.array([task.release] * len(gone), pa.string()),
        "row": pa.array(rows),
        "spectrum_key": task.keys[part.start : part.stop].take(pa.array(gone)),
        "cut": pa.array(first[gone], pa.string()),
        "found": pa.array([f"{value:.6g}" for value in found[gone]], pa.string()),
    })  # fmt: skip
    return table.cast(DROPPED.arrow())
