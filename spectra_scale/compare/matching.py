"""Pairs of equal class, redshift and S/N: every comparison is made on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compare.sides import Side

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

# A unit of distance: 0.02 in ln(1 + z), a factor 1.15 in S/N. Another spectrograph has another
# coverage and other noise, and a broad-line object of CLASS GALAXY is mostly host: one of them is
# taken only where its own has nothing within four units.
_Z_UNIT = 0.02
_SNR_UNIT = 0.06
_OTHER = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Mock spectra for every real one.

    Parameters
    ----------
    rows
        Row of the mock, shape (real, k); -1 where the class has no more.
    distance
        In units of `coordinates`, same shape; NaN where there is none.
    """

    rows: Ints
    distance: Doubles

    def pairs(self) -> tuple[Ints, Ints]:
        """Real rows and mock rows of all pairs, each of shape (pair,)."""
        real, column = np.nonzero(self.rows >= 0)
        return real, self.rows[real, column]

    @property
    def weight(self) -> Doubles:
        """Weight of each pair such that every real spectrum that has a partner counts once."""
        number = (self.rows >= 0).sum(axis=1)
        real, _ = self.pairs()
        return np.asarray(1.0 / number[real])


def coordinates(side: Side) -> Doubles:
    """Position in (redshift, S/N, spectrograph, CLASS) in units of distance, (spectrum, 4)."""
    return np.column_stack([
        np.log1p(side.z) / _Z_UNIT,
        np.log10(np.maximum(side.snr, 1e-3)) / _SNR_UNIT,
        np.where(side.boss, _OTHER, 0.0),
        np.where(side.quasar, _OTHER, 0.0),
    ])  # fmt: skip


def match(real: Side, mock: Side, k: int, rng: np.random.Generator, *, reuse: bool) -> Matches:
    """For every real spectrum the k nearest mock spectra of its class.

    Parameters
    ----------
    real, mock
        The two sides.
    k
        Partners wanted.
    rng
        Order in which real spectra choose, where each mock spectrum is used once.
    reuse
        Whether several real spectra may have the same partner. If not, each real spectrum of a
        class gets equally many, fewer than k where the class is too small.

    Returns
    -------
    Matches
        With at most k columns.
    """
    rows = np.full((len(real), k), -1, np.int64)
    distance = np.full((len(real), k), np.nan)
    here, there = coordinates(real), coordinates(mock)
    for label in np.unique(real.label):
        mine, theirs = np.flatnonzero(real.label == label), np.flatnonzero(mock.label == label)
        if not len(theirs):
            continue
        apart = np.linalg.norm(here[mine, None] - there[None, theirs], axis=2)
        n = min(k, len(theirs)) if reuse else min(k, max(len(theirs) // len(mine), 1))
        found = _choose(apart, n, rng, reuse=reuse)
        has = found >= 0
        at = mine[:, None], np.arange(n)[None, :]
        rows[at] = np.where(has, theirs[found], -1)
        distance[at] = np.where(has, np.take_along_axis(apart, found, axis=1), np.nan)
    return Matches(rows, distance)


def _choose(apart: Doubles, n: int, rng: np.random.Generator, *, reuse: bool) -> Ints:
    """Columns of the `n` smallest of each row; without reuse each column is given once.

    Rows choose in turn, in random order, so that no row gets all the near ones.
    """
    if reuse:
        return np.argsort(apart, axis=1, kind="stable")[:, :n]
    left = apart.copy()
    found = np.full((len(apart), n), -1, np.int64)
    for turn in range(n):
        for i in rng.permutation(len(apart)):
            j = int(np.argmin(left[i]))
            if np.isfinite(left[i, j]):
                found[i, turn] = j
                left[:, j] = np.inf
    return found
