"""Which spectra of a sample can train and judge a model, and how they are normalised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import TrainSection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.store.arrays import Shard
from spectra_scale.store.objects import column
from spectra_scale.store.sample import Sample, read_rest

if TYPE_CHECKING:
    from spectra_scale.models.normalise import FluxSums, Normalisation

ROWS = "rows.npz"
#: Ray Train keeps its own state of the run here, in the artifact; deleted at the end.
RAY_STATE = "ray"
#: Why a spectrum of the sample neither trains nor judges a model, in the order of their codes.
REASONS = ("", "all_masked", "not_finite", "median_not_positive")


@dataclass(frozen=True, slots=True, eq=False)
class UsableRows:
    """Rows of a sample by what they are used for.

    Parameters
    ----------
    train, validation
        Row numbers, ascending.
    factor
        Divisor of the flux of every row of the sample (`Normalisation.factor`), shape (row,); 0
        where it cannot be used.
    weight
        Factor on the loss of every row of the sample, shape (row,); mean 1 over the training rows.
    unusable
        Rows of both splits that are left out: row, spectrum_key and reason.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    factor: NDArray[np.float32]
    weight: NDArray[np.float32]
    unusable: pa.Table

    @property
    def counts(self) -> dict[str, int]:
        """Numbers for the manifest; unusable ones by reason, too."""
        reasons = column(self.unusable, "reason")
        found = {name: int((reasons == name).sum()) for name in REASONS[1:]}
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "unusable": self.unusable.num_rows,
        } | {name: n for name, n in found.items() if n}

    def check(self, n_latent: int) -> None:
        """Refuse a sample that cannot train a model of so many latents.

        Raises
        ------
        SpectraScaleError
            If fewer training spectra are left than latent dimensions, or none to validate on.
        """
        n = len(self.train)
        if n <= n_latent or len(self.validation) == 0:
            counts = self.counts
            why = ", ".join(f"{name} {counts[name]}" for name in REASONS[1:] if name in counts)
            msg = (
                f"found {n} training and {len(self.validation)} validation spectra"
                f"{f' (unusable: {why})' if why else ''}, expected more than n_latent = "
                f"{n_latent} and at least one. Loosen the cuts in [prepare], add spectra, or use "
                "the models of another run: [models] from = RUN."
            )
            raise SpectraScaleError(msg)

    def save(self, out: Path) -> None:
        """Write what the workers read (`read_usable_rows`)."""
        np.savez(out / ROWS, train=self.train, validation=self.validation, factor=self.factor,
                 weight=self.weight)  # fmt: skip


def read_usable_rows(out: Path) -> dict[str, NDArray[Any]]:
    """Arrays of `UsableRows` by name, as `UsableRows.save` wrote them."""
    with np.load(out / ROWS) as file:
        return {name: file[name] for name in file.files}


def usable_rows(
    sample: Sample, config: TrainSection, place: Place
) -> tuple[UsableRows, Normalisation]:
    """Look at every spectrum of a sample once.

    Parameters
    ----------
    sample
        The sample.
    config
        `[train]`: classes, their balance, and the normalisation.
    place
        Where the pass runs.
    """
    from spectra_scale.models.normalise import FluxSums, Normalisation, fit_global

    kind = normalisation_kind(config, sample.artifact.metrics["preset"])
    training, validation = sample.training_rows(), sample.validation_rows()
    label = column(sample.index, "label")
    if config.classes:
        chosen = np.isin(label, [CLASS_NAMES.index(name) for name in config.classes])
        training, validation = training & chosen, validation & chosen
    tasks = [(shard, training[shard.rows]) for shard in sample.shards]
    work = Work("train (scan)", "spectra", [shard.n_rows for shard in sample.shards])
    found = place.map(partial(_scan_shard, sample.arrays.resolve(), kind), tasks, work)
    factor = np.concatenate([part[1] for part in found])
    reason = np.concatenate([part[2] for part in found])
    usable = reason == 0
    if kind == "global":
        normalisation = fit_global(sum((part[0] for part in found), FluxSums()))
        factor = np.where(usable, np.float32(normalisation.scale), np.float32(0))
    else:
        normalisation = Normalisation("median" if kind == "median" else "none")
    bad = np.flatnonzero((training | validation) & ~usable)
    rows = UsableRows(
        train=np.flatnonzero(training & usable),
        validation=np.flatnonzero(validation & usable),
        factor=factor,
        weight=_weights(label, training & usable, balance=config.balance),
        unusable=pa.table(
            {"row": bad, "spectrum_key": column(sample.index, "spectrum_key")[bad],
             "reason": np.array(REASONS)[reason[bad]].astype(object)}
        ),
    )  # fmt: skip
    return rows, normalisation


def normalisation_kind(config: TrainSection, preset: str) -> str:
    """The kind `auto` stands for: median with `conserve`, global with `reference`."""
    if config.normalisation != "auto":
        return config.normalisation
    return "global" if preset == "reference" else "median"


def _scan_shard(
    arrays: Path, kind: str, task: tuple[Shard, NDArray[np.bool_]]
) -> tuple[FluxSums, NDArray[np.float32], NDArray[np.int8]]:
    from spectra_scale.models.normalise import FluxSums, Normalisation

    shard, training = task
    flux, ivar = read_rest(arrays, shard.rows)
    factor = Normalisation("median" if kind == "median" else "none").factor(flux, ivar)
    # A sum is not finite if one of its terms is not: one pass instead of a mask for each array.
    finite = np.isfinite(flux.sum(axis=1, dtype=np.float64) + ivar.sum(axis=1, dtype=np.float64))
    masked = ~(ivar > 0).any(axis=1)
    reason = np.select([~finite, masked, ~(factor > 0)], [2, 1, 3], 0).astype(np.int8)
    usable = reason == 0
    sums = FluxSums.of(flux[training & usable], ivar[training & usable])
    return sums, np.where(usable, factor, np.float32(0)), reason


def _weights(
    label: NDArray[Any], training: NDArray[np.bool_], *, balance: bool
) -> NDArray[np.float32]:
    """Weight of every row; with `balance` all classes that train have the same sum."""
    weight = np.ones(len(label), np.float32)
    if balance and training.any():
        codes, counts = np.unique(label[training], return_counts=True)
        for code, n in zip(codes, counts, strict=True):
            weight[label == code] = counts.sum() / (len(codes) * n)
    return weight
