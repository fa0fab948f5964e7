"""Does a linear model of one side explain the other: weighted PCA across (issue of the mock)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compare.sides import Floats, Side
from spectra_scale.compare.threads import one_thread
from spectra_scale.models.baseline import WeightedPCA, fit_weighted_pca
from spectra_scale.models.normalise import Normalisation

Doubles = NDArray[np.float64]
SNR_CAP = 50.0
N_COMPONENTS = 10
N_NEEDED = 2 * N_COMPONENTS
"""Spectra that a linear model is learnt from, at least."""
_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Spectra divided by their median, with the weights of the training loss.

    Parameters
    ----------
    flux, ivar
        Shape (spectrum, pixel); ivar is capped so that no pixel has an S/N above 50.
    """

    flux: Floats
    ivar: Floats

    def take(self, rows: NDArray[np.int64]) -> Scaled:
        """The given rows."""
        return Scaled(self.flux[rows], self.ivar[rows])


def scaled(side: Side) -> Scaled:
    """Median-normalised spectra of a side with capped weights."""
    done = Normalisation("median").apply(side.flux, side.ivar)
    with np.errstate(divide="ignore"):
        limit = np.where(done.ivar > 0, (SNR_CAP / done.flux) ** 2, 0)
    return Scaled(done.flux, np.minimum(done.ivar, limit).astype(np.float32))


def chi2_of(model: WeightedPCA, spectra: Scaled) -> Doubles:
    """χ² per valid pixel (paper eq. 2) of each spectrum."""
    return model.chi2(spectra.flux, spectra.ivar).chi2_valid


def explained(model: WeightedPCA, spectra: Scaled, mean: Doubles) -> float:
    """Share of the weighted variance about `mean` that the model removes, noise included."""
    left = (chi2_of(model, spectra) * (spectra.ivar > 0).sum(axis=1)).sum()
    about = (np.where(spectra.ivar > 0, spectra.flux - mean, 0) ** 2 * spectra.ivar).sum()
    return float(1 - left / about)


def fit(spectra: Scaled, seed: int) -> WeightedPCA:
    """Ten weighted components."""
    return fit_weighted_pca(spectra.flux, spectra.ivar, N_COMPONENTS, seed)


@one_thread()
def cross_validated(spectra: Scaled, group: NDArray[np.int64], seed: int) -> Doubles:
    """χ² of each spectrum under components of the others; repeats of an object stay together."""
    folds = np.random.default_rng(seed).permutation(group.max() + 1)[group] % _FOLDS
    out = np.empty(len(group))
    for fold in range(_FOLDS):
        inside = np.flatnonzero(folds == fold)
        if len(inside):
            model = fit(spectra.take(np.flatnonzero(folds != fold)), seed)
            out[inside] = chi2_of(model, spectra.take(inside))
    return out


@one_thread()
def across(real: Side, twin: Side, pool: Side, seed: int) -> list[dict[str, Any]]:
    """χ² of real and matched mock spectra under components of either.

    Parameters
    ----------
    real
        Real spectra.
    twin
        One matched mock spectrum for each real one, row by row.
    pool
        Mock spectra that are not among the twins: a training set of full size.
    seed
        Of folds and of the choice of rows.

    Returns
    -------
    One row a pair of trained-on and applied-to: mean and median χ² per valid pixel.
    """
    here, there, rest = scaled(real), scaled(twin), scaled(pool)
    n = min(len(pool), max(len(real) * (_FOLDS - 1) // _FOLDS, N_NEEDED))
    full, own = fit(rest, seed), fit(here, seed)
    small = fit(there.take(np.random.default_rng(seed).permutation(len(twin))[:n]), seed)
    found = {
        ("mock", "real"): chi2_of(full, here),
        ("mock", "mock"): chi2_of(full, there),
        ("mock, as few as real", "real"): chi2_of(small, here),
        ("real, others", "real"): cross_validated(here, real.group, seed),
        ("real", "mock"): chi2_of(own, there),
        ("mock twins, others", "mock"): cross_validated(there, real.group, seed),
    }
    return [
        {
            "trained_on": pair[0],
            "applied_to": pair[1],
            "chi2_mean": float(chi2.mean()),
            "chi2_median": float(np.median(chi2)),
        }
        for pair, chi2 in found.items()
    ]
