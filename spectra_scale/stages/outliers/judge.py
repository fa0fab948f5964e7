"""The steps of outliers, in order: each adds columns, and what is usual to the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import OutliersSection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import write_bytes
from spectra_scale.spectrum.classify import Label
from spectra_scale.spectrum.faults import STATISTICS, Scales, ScaleSums
from spectra_scale.spectrum.triage import (
    FAULTS,
    LEVEL_NAMES,
    OWN_LEVEL,
    WRONG_REDSHIFT,
    Levels,
    statistics_of,
)
from spectra_scale.stages.outliers.isolation import Cloud, fit_cloud, islands_of, knn_distances
from spectra_scale.stages.outliers.shard import (
    SCAN_COLUMNS,
    How,
    Task,
    add_scales,
    measure_shard,
    scan_shard,
)
from spectra_scale.store.artifact import Artifact
from spectra_scale.store.objects import column, columns_of, read_objects
from spectra_scale.store.run import OBJECTS
from spectra_scale.store.sample import Sample
from spectra_scale.store.tables import read_table

REFERENCE = "reference.safetensors"
Columns = dict[str, NDArray[Any]]
#: Validation spectra whose redshifts are scanned, to know what is usual.
N_REFERENCE = 400


#: At least so many broad-line ones among them, where these have levels of their own.
N_BROAD = 100


def read_reference(path: Path) -> dict[str, NDArray[Any]]:
    """What a finished run found usual.

    Raises
    ------
    SpectraScaleError
        If an earlier version of this stage wrote it.
    """
    found: dict[str, NDArray[Any]] = load_file(path / REFERENCE)
    if found["scales_misfit"].ndim != 2:
        msg = (
            f"{path / REFERENCE}: found the outliers of an earlier version, expected those of "
            "this one. Make them anew: spectra-scale clean, then run, with that run's job."
        )
        raise SpectraScaleError(msg)
    return found


@dataclass(frozen=True, slots=True)
class OutliersInputs:
    """Inputs of `run`.

    Parameters
    ----------
    sample, autoencoder, latents, density, map
        The sample, the auto-encoder, and what was made of them; the map is that of latents.
    fitted
        Outliers of an earlier run, whose validation split says what is usual; None: this one's.
    """

    sample: Sample
    autoencoder: Artifact
    latents: Artifact
    density: Artifact
    map: Artifact
    fitted: Artifact | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of every row: all of shape (row,), but for latents and places on the map."""

    latents: NDArray[np.float32]
    xy: NDArray[np.float32]
    usable: NDArray[np.bool_]
    p_value: NDArray[np.float64]
    redshift: NDArray[np.float64]
    snr: NDArray[np.float64]
    survey: NDArray[np.object_]
    broad: NDArray[np.bool_]
    training: NDArray[np.bool_]
    validation: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """What the steps share.

    Parameters
    ----------
    inputs, config, place
        As of `run`.
    facts
        What is known of every row.
    how
        What the tasks share.
    reference
        What is usual: filled step by step, or that of an earlier run.
    """

    inputs: OutliersInputs
    config: OutliersSection
    place: Place
    facts: Facts
    how: How
    reference: Columns = field(default_factory=dict)

    @classmethod
    def of(
        cls, inputs: OutliersInputs, config: OutliersSection, place: Place, parts: Path
    ) -> Judge:
        """Read what is known of every row, and the reference of an earlier run if there is one."""
        how = How(
            arrays=inputs.sample.arrays.resolve(),
            model=inputs.autoencoder.path.resolve(),
            fingerprint=inputs.autoencoder.fingerprint,
            parts=parts,
            inpaint=int(inputs.latents.metrics["inpaint"]),
            reach=config.redshift_reach,
        )
        fitted = inputs.fitted
        stored = {} if fitted is None else read_reference(fitted.path)
        return cls(inputs, config, place, _facts(inputs), how, stored)

    @property
    def sample(self) -> Sample:
        """The sample."""
        return self.inputs.sample

    @property
    def applied(self) -> bool:
        """Whether what is usual comes from an earlier run."""
        return self.inputs.fitted is not None

    def _tasks(self, chosen: NDArray[np.bool_]) -> list[Task]:
        facts = self.facts
        return [
            Task(
                shard,
                facts.latents[shard.rows],
                facts.redshift[shard.rows],
                facts.survey[shard.rows],
                facts.broad[shard.rows],
                chosen[shard.rows],
            )
            for shard in self.sample.shards
        ]

    def _joined(self, tasks: list[Task], what: str, names: tuple[str, ...]) -> Columns:
        parts = self.how.parts
        table = pa.concat_tables([read_table(task.file(parts, what)) for task in tasks])
        return {name: column(table, name) for name in names}

    def measured(self) -> Columns:
        """Columns `STATISTICS`; NaN for a row that is not usable."""
        scales = self._scales()
        tasks = self._tasks(self.facts.usable)
        work = Work("outliers (measure)", "spectra", [task.shard.n_rows for task in tasks])
        self.place.map(partial(measure_shard, self.how, scales), tasks, work)
        return self._joined(tasks, "faults", STATISTICS)

    def _scales(self) -> Scales:
        names = [f"scales_{name}" for name in Scales._fields]
        if not self.applied:
            tasks = [task for task in self._tasks(self.facts.validation) if task.chosen.any()]
            sizes = [int(task.chosen.sum()) for task in tasks]
            work = Work("outliers (scales)", "spectra", sizes)
            total = ScaleSums.empty(self.sample.grid)
            for sums in self.place.map(partial(add_scales, self.how), tasks, work):
                total = total + sums
            self.reference.update(zip(names, Scales.of(total), strict=True))
        return Scales(*(self.reference[name] for name in names))

    def strengths(self, evidence: Columns, kinds: tuple[str, ...]) -> Columns:
        """Strength of each kind of fault, in widths of the validation split."""
        statistics = statistics_of(evidence)
        found: Columns = {}
        for kind in kinds:
            names = {name: f"levels_{kind}_{name}" for name in LEVEL_NAMES}
            if not self.applied:
                rows = self.facts.validation
                if kind == WRONG_REDSHIFT:
                    rows = rows & self._usual()
                facts = self.facts.snr[rows], self.facts.broad[rows]
                levels = Levels.of(kind, statistics[kind][rows], *facts)
                self.reference.update({key: getattr(levels, n) for n, key in names.items()})
            levels = Levels(**{name: self.reference[key] for name, key in names.items()})
            found[kind] = levels.strength(statistics[kind], self.facts.snr, self.facts.broad)
        return found

    def _usual(self) -> NDArray[np.bool_]:
        """Validation rows whose redshifts are scanned whatever they look like."""
        chosen = np.zeros(len(self.facts.usable), dtype=bool)
        rows = np.random.default_rng(self.config.seed).permutation(
            np.flatnonzero(self.facts.validation)
        )
        chosen[rows[:N_REFERENCE]] = True
        broad = rows[self.facts.broad[rows]]
        if len(broad) >= OWN_LEVEL:
            chosen[broad[:N_BROAD]] = True
        return chosen

    def scanned(self, evidence: Columns) -> Columns:
        """Columns `SCAN_COLUMNS` of rows that may have another redshift; NaN for the others."""
        nothing = {name: np.full(len(self.facts.usable), np.nan) for name in SCAN_COLUMNS}
        found = self.strengths(evidence | nothing, tuple(k for k in FAULTS if k != WRONG_REDSHIFT))
        misfit = found.pop("reconstruction") >= self.config.scan_sigma
        # Lines that are not where the model knows them look like other faults.
        faulty = np.max(list(found.values()), axis=0) >= 3 * self.config.scan_sigma
        improbable = self.facts.p_value < self.config.p_value
        candidate = self.facts.usable & (misfit | faulty | improbable)
        tasks = self._tasks(candidate | self._usual())
        work = Work("outliers (redshifts)", "spectra", [int(t.chosen.sum()) for t in tasks])
        self.place.map(partial(scan_shard, self.how), tasks, work)
        return self._joined(tasks, "scan", SCAN_COLUMNS)

    def redshifts(self, evidence: Columns) -> Columns:
        """Redshift and χ² at the best shift; NaN where none was tried."""
        before, after = evidence["chi2_scan_here"], evidence["chi2_scan"]
        factor = 10 ** (self.sample.grid.log10_step * evidence["scan_shift"])
        return {
            "other_redshift": (1 + self.facts.redshift) * factor - 1 + 0 * after,
            "delta_chi2": before - after,
            "chi2_ratio": before / after,
        }

    def distances(self, path: Path) -> Columns:
        """Distance to the nearest training objects, and its p-value.

        Parameters
        ----------
        path
            Where the reference is written, for the tasks to read.
        """
        from spectra_scale.models.gis import p_value

        facts = self.facts
        if self.applied:
            mean, axes, rows = (self.reference[f"cloud_{n}"] for n in ("mean", "axes", "rows"))
            cloud = Cloud(mean, axes, rows, np.empty(0, np.int64))
        else:
            cloud = fit_cloud(facts.latents, facts.training, self.config.seed)
            arrays: Columns = {"cloud_mean": cloud.mean, "cloud_axes": cloud.axes}
            arrays["cloud_rows"] = cloud.rows
            self.reference.update(arrays)
        write_bytes(path, save(self.reference))
        how = self.config.k, self.place
        distance = knn_distances(cloud, path.resolve(), facts.latents, self.sample.shards, how)
        distance[~facts.usable] = np.nan
        if not self.applied:
            self.reference["knn_validation"] = np.sort(distance[facts.validation])
        p = np.full(len(distance), np.nan)
        p[facts.usable] = p_value(-distance[facts.usable], -self.reference["knn_validation"])
        return {"knn_distance": distance, "knn_p_value": p}

    def islands(self) -> Columns:
        """Columns ``island``, ``island_size`` and ``small_island``."""
        fitted = self.reference if self.applied else None
        columns, arrays = islands_of(self.facts.xy, self.facts.usable, self.config, fitted)
        self.reference.update(arrays)
        return columns


def _facts(inputs: OutliersInputs) -> Facts:
    index = inputs.sample.index
    encoded = read_objects(inputs.latents.path / OBJECTS, index)
    usable = column(encoded, "usable").astype(bool)
    latents = columns_of(encoded, "latent").astype(np.float32)
    latents[~usable] = 0
    scored = read_objects(inputs.density.path / OBJECTS, index, ["p_value"])
    placed = read_objects(inputs.map.path / OBJECTS, index)
    ours = inputs.fitted is None
    return Facts(
        latents=latents,
        xy=columns_of(placed, "latent_map").astype(np.float32),
        usable=usable,
        p_value=column(scored, "p_value"),
        redshift=column(index, "z").astype(np.float64),
        snr=column(index, "snr_median").astype(np.float64),
        survey=survey_of(column(index, "spectrum_key")),
        broad=column(index, "label") == Label.BROAD_LINE,
        training=inputs.sample.training_rows() & usable & ours,
        validation=inputs.sample.validation_rows() & usable & ours,
    )


def survey_of(spectrum_key: NDArray[np.object_]) -> NDArray[np.object_]:
    """Survey of each spectrum: its key names it (science.md §4)."""
    return np.array([str(key).partition(":")[0] for key in spectrum_key], dtype=object)
