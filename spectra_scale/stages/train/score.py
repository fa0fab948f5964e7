"""χ² of a finished model by class and by signal to noise: a pass over the validation spectra."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from spectra_scale.compute.place import Place, Work
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.stages.train.scan import UsableRows
from spectra_scale.store.arrays import Shard
from spectra_scale.store.objects import column
from spectra_scale.store.sample import Sample, read_rest

if TYPE_CHECKING:
    from spectra_scale.models.train_inputs import TrainSettings

Doubles = NDArray[np.float64]
#: Lower edges of the bins in `snr_median` (of F√v a pixel). Fixed, so that two models can be
#: compared bin by bin.
SNR_EDGES = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0)
#: What is added up: the auto-encoder's χ² with the loss's ivar and with that of the sample, and
#: the linear baseline's with that of the sample; each by eq. 1 and eq. 2 of the paper.
SCORES = ("chi2", "chi2_valid", "chi2_uncapped", "chi2_valid_uncapped",
          "linear_chi2_uncapped", "linear_chi2_valid_uncapped")  # fmt: skip
#: Spectra judged at once.
BATCH = 1024


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Rows of a shard to judge, ascending, and the group of each."""

    shard: Shard
    rows: NDArray[np.int64]
    group: NDArray[np.int64]


def score(
    sample: Sample, rows: UsableRows, settings: TrainSettings, model: Path, place: Place
) -> Doubles:
    """Add up χ² of all validation spectra, in float32, a shard at a time.

    Parameters
    ----------
    sample
        The sample.
    rows
        Which spectra are validation spectra.
    settings
        How the model was trained: cap, variance scale, and whether missing pixels are filled with
        a first reconstruction, as in the last epochs of a training with `inpaint_epochs`.
    model
        Directory with the finished model and the baseline.
    place
        Where it runs.

    Returns
    -------
    Sums by class, S/N bin and number, shape (class, bin, 1 + score): the number of spectra, then
    `SCORES`. Classes are in the order of their codes, bins in that of `SNR_EDGES`.
    """
    tasks = _tasks(sample, rows)
    work = Work("train (card)", "spectra", [len(task.rows) for task in tasks])
    sums = place.map(
        partial(_score_shard, sample.arrays.resolve(), model.resolve(), settings), tasks, work
    )
    return sum(sums, _nothing())


def _nothing() -> Doubles:
    return np.zeros((len(CLASS_NAMES), len(SNR_EDGES), 1 + len(SCORES)))


def _tasks(sample: Sample, rows: UsableRows) -> list[_Task]:
    index, found = sample.index, rows.validation
    snr = np.nan_to_num(column(index, "snr_median")[found].astype(float), nan=0.0)
    bins = np.clip(np.searchsorted(SNR_EDGES, snr, side="right") - 1, 0, None)
    group = column(index, "label")[found].astype(np.int64) * len(SNR_EDGES) + bins
    tasks = []
    for shard in sample.shards:
        here = slice(*np.searchsorted(found, (shard.start, shard.stop)))
        if here.start < here.stop:
            tasks.append(_Task(shard, found[here], group[here]))
    return tasks


def _score_shard(arrays: Path, model: Path, settings: TrainSettings, task: _Task) -> Doubles:
    import torch

    from spectra_scale.models.baseline import WeightedPCA
    from spectra_scale.models.inputs import load_encoder
    from spectra_scale.models.objective import chi2_by_spectrum
    from spectra_scale.stages.train.worker import BASELINE, pick_device

    network, inputs = load_encoder(model)
    network.to(pick_device())
    stored = load_file(model / BASELINE)
    linear = WeightedPCA(stored["mean"], stored["components"])
    sums = _nothing().reshape(-1, 1 + len(SCORES))
    for start in range(task.shard.start, task.shard.stop, BATCH):
        stop = min(start + BATCH, task.shard.stop)
        here = slice(*np.searchsorted(task.rows, (start, stop)))
        if here.start == here.stop:
            continue
        flux, ivar = (a[task.rows[here] - start] for a in read_rest(arrays, slice(start, stop)))
        flux, ivar = inputs.apply(flux, ivar)[:2]
        spectra = tuple(torch.from_numpy(a).to(network.device) for a in (flux, ivar))
        ours = chi2_by_spectrum(
            network, (spectra[0], spectra[1]), settings, inpaint=settings.inpaint_epochs > 0
        )
        theirs = linear.chi2(flux, ivar)
        each = np.vstack([np.ones(len(flux)), ours.cpu().numpy(), *theirs])
        np.add.at(sums, task.group[here], each.T)
    return sums.reshape(_nothing().shape)


def table(sums: Doubles) -> dict[str, dict[str, Any]]:
    """Means of all spectra, by class and by bin of S/N; groups without a spectrum are left out.

    Parameters
    ----------
    sums
        As `score` gives them.

    Returns
    -------
    ``all``, ``by class`` and ``by snr_median``: number of spectra ``n`` and `SCORES`, to five
    digits, which do not depend on the number of threads.
    """
    bins = [f"{low:g} to {high:g}" for low, high in pairwise(SNR_EDGES)]
    bins = [f"below {SNR_EDGES[1]:g}", *bins[1:], f"{SNR_EDGES[-1]:g} and more"]
    return {
        "all": _means(sums.sum(axis=(0, 1))),
        "by class": _groups(CLASS_NAMES, sums.sum(axis=1)),
        "by snr_median": _groups(bins, sums.sum(axis=0)),
    }


def _groups(names: list[str] | tuple[str, ...], sums: Doubles) -> dict[str, Any]:
    pairs = zip(names, sums, strict=True)
    return {name: _means(values) for name, values in pairs if values[0]}


def _means(sums: Doubles) -> dict[str, float | int]:
    n = sums[0]
    means = {name: float(f"{total / n:.5g}") for name, total in zip(SCORES, sums[1:], strict=True)}
    return {"n": int(n)} | means
