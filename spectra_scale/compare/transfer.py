"""An auto-encoder trained on the mock, used on real spectra: what it does not know shows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compare.linear import SNR_CAP, Scaled
from spectra_scale.compare.matching import Matches, match
from spectra_scale.compare.sides import Side
from spectra_scale.compare.statistics import class_masks
from spectra_scale.models.batches import VirtualStreams
from spectra_scale.models.normalise import Normalisation
from spectra_scale.spectrum.grid import WavelengthGrid

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

WINDOWS: dict[str, tuple[float, float]] = {
    "Ca H&K": (3890.0, 4020.0),
    "Mg b": (5100.0, 5260.0),
    "Na D": (5830.0, 5970.0),
    "Hα": (6480.0, 6650.0),
}
"""Where the mean residual is looked at, rest-frame vacuum Å."""

_VALIDATION_SHARE = 4


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How the auto-encoder is trained.

    Parameters
    ----------
    epochs, batch_size
        Of the training.
    max_train
        Mock spectra to train on at most.
    k
        Validation spectra of the mock for each real one.
    """

    epochs: int = 30
    batch_size: int = 64
    max_train: int = 6000
    k: int = 3


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """What the auto-encoder makes of both sides.

    Parameters
    ----------
    n_train
        Mock spectra that were learnt from.
    history
        Training and validation χ² (eq. 2) of each epoch, shape (epoch, 2).
    matches
        Partners of the real spectra among the mock's validation split; rows of `validation`.
    validation
        Rows of the mock that were held out, shape (validation,).
    chi2_real, chi2_mock
        χ² per valid pixel with capped weights: of each real and of each held-out spectrum.
    residual_real, residual_mock
        (F - F_rec)·√v, shape (spectrum, pixel); NaN where missing.
    """

    n_train: int
    history: Doubles
    matches: Matches
    validation: Ints
    chi2_real: Doubles
    chi2_mock: Doubles
    residual_real: Floats
    residual_mock: Floats


def transfer(
    real: Side, mock: Side, settings: TransferSettings, seed: int, report: Callable[[str], None]
) -> Transfer:
    """Train on three quarters of the mock, then encode the rest of it and the real spectra.

    The start is the weighted PCA of the training spectra, missing pixels are fed the PCA's guess
    (as in `[train]` of a job), and the loss is χ² with the S/N of a pixel capped at 50.

    Parameters
    ----------
    real, mock
        Both sides.
    settings
        Of the training.
    seed
        Of the split, the weights and the order.
    report
        Told about progress.
    """
    import torch

    from spectra_scale.models.autoencoder import Architecture, seeded_autoencoder
    from spectra_scale.models.baseline import fit_weighted_pca
    from spectra_scale.models.initialise import start_from_components
    from spectra_scale.models.inputs import ModelInputs
    from spectra_scale.models.loading import ArrayRows
    from spectra_scale.models.training import SingleProcess, TrainSettings, train

    rng = np.random.default_rng(seed)
    # Repeats of one object must not be on both sides of the split.
    held = (rng.permutation(mock.group.max() + 1) % _VALIDATION_SHARE == 0)[mock.group]
    chosen = rng.permutation(np.flatnonzero(~held))[: settings.max_train]
    validation = np.flatnonzero(held)
    plain = Normalisation("median").apply(mock.flux, mock.ivar)
    pca = fit_weighted_pca(plain.flux[chosen], plain.ivar[chosen], 10, seed)
    inputs = ModelInputs(Normalisation("median"), pca)
    prepared = inputs.apply(mock.flux, mock.ivar)
    model = seeded_autoencoder(Architecture(mock.flux.shape[1]), seed)
    scale = pca.coefficients(plain.flux[chosen], plain.ivar[chosen]).std(axis=0)
    start_from_components(model, pca.mean, pca.components, scale)
    torch.set_num_threads(1)
    how = TrainSettings(epochs=settings.epochs, batch_size=settings.batch_size, seed=seed,
                        gamma=0.95, loss="chi2_valid", snr_cap=SNR_CAP)  # fmt: skip
    streams = VirtualStreams(np.sort(chosen), 64, seed)
    source = ArrayRows(torch.from_numpy(prepared.flux), torch.from_numpy(prepared.ivar))

    def after(record: Any, _: object) -> None:
        report(f"auto-encoder epoch {record.epoch}: χ² {record.train_chi2_valid:.3f} learnt, "
               f"{record.validation_chi2_valid:.3f} held out")  # fmt: skip

    state = train(model, source, streams, validation, how, SingleProcess(), on_epoch=after)
    history = [(r.train_chi2_valid, r.validation_chi2_valid) for r in state.history]
    ours = inputs.apply(real.flux, real.ivar)
    chi2_real, residual_real = _apply(model, Scaled(ours.flux, ours.ivar))
    chi2_mock, residual_mock = _apply(
        model, Scaled(prepared.flux[validation], prepared.ivar[validation])
    )
    matches = match(real, mock.take(validation), settings.k, rng, reuse=True)
    return Transfer(len(chosen), np.array(history), matches, validation, chi2_real, chi2_mock,
                    residual_real, residual_mock)  # fmt: skip


def _apply(model: Any, spectra: Scaled) -> tuple[Doubles, Floats]:
    from spectra_scale.models.autoencoder import encode

    flux, ivar = spectra.flux, spectra.ivar
    with np.errstate(divide="ignore"):
        limit = np.where(ivar > 0, (SNR_CAP / flux) ** 2, 0)
    weight = np.minimum(ivar, limit).astype(np.float32)
    done = encode(model, flux, weight, want_reconstruction=True)
    assert done.reconstruction is not None
    residual = (flux - done.reconstruction) * np.sqrt(weight)
    pulls = np.where(ivar > 0, residual, np.float32(np.nan)).astype(np.float32)
    return done.chi2_valid.astype(np.float64), pulls


def ratios(real: Side, found: Transfer) -> dict[str, dict[str, float]]:
    """χ² of real over mock at equal class, z and S/N, for all and by class name.

    Returns
    -------
    For each: numbers of spectra, means, medians, and the ratio of each with the bootstrap error
    of the former (real spectra drawn again with their partners).
    """
    i, j = found.matches.pairs()
    weight = found.matches.weight
    # The mean of the partners stands beside each real spectrum.
    partner = np.zeros(len(real))
    np.add.at(partner, i, weight * found.chi2_mock[j])
    has = np.isin(np.arange(len(real)), i)
    out = {}
    for name, mine in class_masks(real.label).items():
        rows = has & mine
        if rows.sum() < 3:
            continue
        pairs = rows[i]
        out[name] = _ratio(found.chi2_real[rows], partner[rows], found.chi2_mock[j[pairs]])
    return out


def _ratio(mine: Doubles, partner: Doubles, theirs: Doubles) -> dict[str, float]:
    drawn = np.random.default_rng(0).integers(0, len(mine), (400, len(mine)))
    many = mine[drawn].mean(axis=1) / partner[drawn].mean(axis=1)
    return {
        "n_real": len(mine),
        "real": float(mine.mean()),
        "mock": float(partner.mean()),
        "ratio": float(mine.mean() / partner.mean()),
        "ratio_error": float(many.std()),
        "ratio_of_medians": float(np.median(mine) / np.median(theirs)),
    }


def mean_residual(pulls: Floats) -> tuple[Doubles, Doubles]:
    """Mean residual of each pixel in sigma, and its standard error; NaN with under 3 spectra."""
    good = np.isfinite(pulls)
    n = good.sum(axis=0)
    values = np.where(good, pulls, 0.0).astype(np.float64)
    safe = np.maximum(n, 1)
    mean = values.sum(axis=0) / safe
    spread = np.sqrt(np.maximum((values**2).sum(axis=0) / safe - mean**2, 0) * safe
                     / np.maximum(n - 1, 1))  # fmt: skip
    few = n < 3
    return np.where(few, np.nan, mean), np.where(few, np.nan, spread / np.sqrt(safe))


def structure(mean: Doubles, error: Doubles, wave: Doubles) -> dict[str, float]:
    """RMS of the mean residual over its standard error, in each of `WINDOWS`: 1 is noise."""
    out = {}
    for name, (low, high) in WINDOWS.items():
        inside = (wave > low) & (wave < high) & np.isfinite(mean) & (error > 0)
        z = mean[inside] / error[inside]
        out[name] = float(np.sqrt((z**2).mean())) if inside.any() else float("nan")
    return out


def structure_by_class(real: Side, found: Transfer) -> dict[str, dict[str, list[float]]]:
    """`structure` of real and of mock spectra, equal numbers of both.

    Returns
    -------
    For each class of at least five spectra, and for ``all``: window to [real, mock].
    """
    wave = WavelengthGrid.rest_frame().centres
    first = found.matches.rows[:, 0]
    out = {}
    for name, members in class_masks(real.label).items():
        rows = (first >= 0) & members
        if rows.sum() < 5:
            continue
        mine = structure(*mean_residual(found.residual_real[rows]), wave)
        theirs = structure(*mean_residual(found.residual_mock[first[rows]]), wave)
        out[name] = {window: [mine[window], theirs[window]] for window in WINDOWS}
    return out
