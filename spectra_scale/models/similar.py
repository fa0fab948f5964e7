"""Spectra like a given one: nearest neighbours among latents, by a stated metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.neighbours import (
    ApproximateIndex,
    ExactIndex,
    Floats,
    Indices,
    finite_rows,
)

Metric = Literal["whitened", "noise", "raw"]
METRICS: tuple[Metric, ...] = ("whitened", "noise", "raw")


def unit_scale(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix A such that |A (x - y)| is the Mahalanobis distance with a covariance.

    Parameters
    ----------
    covariance
        Shape (D, D).

    Raises
    ------
    SpectraScaleError
        If it is not positive definite.
    """
    try:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)))
    except np.linalg.LinAlgError as error:
        msg = (
            "the covariance of the latents is not positive definite: a latent is constant, or one "
            "is a copy of others. Use --metric raw, or train with fewer latents."
        )
        raise SpectraScaleError(msg) from error


@final
@dataclass(frozen=True, slots=True, eq=False)
class LatentSearch:
    """Nearest neighbours among latents that are scaled once.

    Parameters
    ----------
    scale
        Matrix that latents are multiplied with, shape (D, D).
    index
        Index of the scaled rows.
    """

    scale: NDArray[np.float64]
    index: ExactIndex | ApproximateIndex

    @classmethod
    def build(
        cls,
        latents: ArrayLike,
        training: NDArray[np.bool_],
        *,
        whiten: bool = True,
        approximate: bool = False,
        seed: int = 0,
    ) -> LatentSearch:
        """Scale latents and index them.

        Parameters
        ----------
        latents
            Shape (n, D), finite.
        training
            Rows whose covariance is the scale, shape (n,).
        whiten
            Measure in units of that covariance; else in the latents as they are.
        approximate
            Build an `ApproximateIndex`.
        seed
            Of that.
        """
        rows = np.asarray(latents, dtype=np.float64)
        scale = np.eye(rows.shape[1])
        if whiten:
            scale = unit_scale(np.atleast_2d(np.cov(rows[training], rowvar=False)))
        scaled = rows @ scale.T
        index = ApproximateIndex(scaled, seed) if approximate else ExactIndex(scaled)
        return cls(scale, index)

    def query(self, latents: ArrayLike, k: int) -> tuple[Indices, Floats]:
        """Indices and distances of the k nearest rows of each query, shape (m, k)."""
        return self.index.query(np.asarray(latents, dtype=np.float64) @ self.scale.T, k)


def scan(
    latents: ArrayLike, query: NDArray[np.float64], scale: NDArray[np.float64], k: int
) -> tuple[Indices, Floats]:
    """The k nearest rows of one query, exactly, by one pass over all rows.

    For a single query this takes less time than building any index does.

    Parameters
    ----------
    latents
        Shape (n, D), finite.
    query
        Shape (D,).
    scale
        Matrix that differences are multiplied with, shape (D, D).
    k
        Number of neighbours; all rows if there are fewer.

    Returns
    -------
    tuple
        Indices and distances, shape (k,), nearest first, equal distances in order of index.
    """
    rows = finite_rows(latents, "latents", dims=len(query))
    difference = (rows - np.asarray(query, dtype=np.float64)) @ scale.T
    distance = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    last = np.partition(distance, min(k, len(rows)) - 1)[min(k, len(rows)) - 1]
    among = np.flatnonzero(distance <= last)
    nearest = among[np.argsort(distance[among], kind="stable")][:k]
    return nearest.astype(np.int64), distance[nearest].astype(np.float32)
