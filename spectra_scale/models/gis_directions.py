"""Directions along which a sample is least Gaussian.

Step 1 of the flow: maximise, over K orthonormal directions, the mean squared distance between the
sorted projections and the quantiles of a standard normal (max K-sliced 2-Wasserstein distance; Dai &
Seljak 2021, section 3.1), by gradient ascent along Cayley curves of the Stiefel manifold (Wen & Yin
2013) with Armijo back-tracking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats: TypeAlias = NDArray[np.float64]

_ARMIJO = 0.5
_FIRST_STEP = 0.1
_MAX_HALVINGS = 40
_LEAST_MOVE = 1e-6


@dataclass(frozen=True, slots=True)
class AscentSettings:
    """When the ascent ends.

    Parameters
    ----------
    max_steps
        Greatest number of ascent steps.
    tolerance
        Relative gain of the objective, averaged over `window` steps, below which it stops.
    window
        Number of steps the gain is averaged over: single steps of a line search may be short.
    """

    max_steps: int = 100
    tolerance: float = 1e-5
    window: int = 5


def random_frame(dims: int, n_slices: int, rng: np.random.Generator) -> Floats:
    """Orthonormal rows, uniform over the Stiefel manifold.

    Parameters
    ----------
    dims
        Dimension of the space.
    n_slices
        Number of directions, at most `dims`.
    rng
        Source of the draw.

    Returns
    -------
    numpy.ndarray
        Shape (n_slices, dims).
    """
    q, r = np.linalg.qr(rng.standard_normal((dims, n_slices)))
    # Without the signs of R's diagonal the QR of a Gaussian matrix is not uniform.
    return np.ascontiguousarray((q * np.sign(np.diag(r))).T)


def normal_quantiles(n: int) -> Floats:
    """Quantiles of the standard normal at n equally spaced levels from 0.5/n, shape (n,)."""
    return np.asarray(ndtri((np.arange(n) + 0.5) / n))


def sliced_distance(x: Floats, frame: Floats, quantiles: Floats) -> Floats:
    """Squared 2-Wasserstein distance to N(0, 1) of the projection on each direction.

    Parameters
    ----------
    x
        Rows, shape (n, D).
    frame
        Directions as rows, shape (K, D).
    quantiles
        `normal_quantiles` of n.

    Returns
    -------
    numpy.ndarray
        Shape (K,).
    """
    projected = np.sort(frame @ x.T, axis=1)
    return np.asarray(np.mean((projected - quantiles) ** 2, axis=1))


def search_directions(
    x: Floats, n_slices: int, rng: np.random.Generator, settings: AscentSettings
) -> Floats:
    """Find the orthonormal directions along which `x` is least Gaussian.

    Parameters
    ----------
    x
        Rows, shape (n, D), of zero mean and about unit variance.
    n_slices
        Number of directions K, at most D.
    rng
        Draws the starting frame.
    settings
        When to stop.

    Returns
    -------
    numpy.ndarray
        Directions as rows, least Gaussian first, shape (K, D).
    """
    quantiles = normal_quantiles(len(x))
    frame = random_frame(x.shape[1], n_slices, rng)
    if n_slices == 1 == x.shape[1]:
        return frame
    rows = np.ascontiguousarray(x.T)
    score = _objective(rows, frame, quantiles)
    step, past = _FIRST_STEP, [score]
    for _ in range(settings.max_steps):
        gradient = _gradient(x, rows, frame, quantiles)
        found, step = _line_search(rows, (frame, gradient, score), quantiles, 2.0 * step)
        if found is None:
            break
        moved = float(np.abs(found[0] - frame).max())
        frame, score = found
        step *= 1.5
        past.append(score)
        before = past[max(len(past) - 1 - settings.window, 0)]
        settled = len(past) > settings.window and (
            score - before <= settings.window * settings.tolerance * score
        )
        if moved < _LEAST_MOVE or settled:
            break
    order = np.argsort(-sliced_distance(x, frame, quantiles), kind="stable")
    q, r = np.linalg.qr(frame[order].T)
    return np.ascontiguousarray((q * np.sign(np.diag(r))).T)


def _objective(rows: Floats, frame: Floats, quantiles: Floats) -> float:
    projected = frame @ rows
    projected.sort(axis=1)
    projected -= quantiles
    return float(np.vdot(projected, projected)) / projected.size


def _gradient(x: Floats, rows: Floats, frame: Floats, quantiles: Floats) -> Floats:
    """Gradient of minus the objective, shape (K, D); the order of the projections is held fixed."""
    projected = frame @ rows
    order = np.argsort(projected, axis=1)
    for k in range(len(frame)):
        projected[k, order[k]] -= quantiles
    return np.asarray((-2.0 / projected.size) * (projected @ x))


def _cayley(frame: Floats, skew: Floats, step: float) -> Floats:
    """Point of the Cayley curve: frame (I - step/2 skew) (I + step/2 skew)^-1, again orthonormal.

    I + step/2 skew is invertible for any skew matrix. D is some tens at most here, so the full solve
    costs nothing beside the sorts and the low-rank form for 2K < D is not worth its lines.
    """
    half = 0.5 * step * skew
    eye = np.eye(len(skew))
    # X M^-1 = (M^-T X^T)^T, and M^T = I - half because half is skew.
    return np.asarray(np.linalg.solve(eye - half, (frame @ (eye - half)).T).T)


def _line_search(
    rows: Floats, here: tuple[Floats, Floats, float], quantiles: Floats, step: float
) -> tuple[tuple[Floats, float] | None, float]:
    """Halve the step until the objective rises by half of what the slope promises (Armijo)."""
    frame, gradient, score = here
    skew = frame.T @ gradient - gradient.T @ frame
    rise = float(np.sum(gradient * (frame @ skew)))
    for _ in range(_MAX_HALVINGS):
        step *= 0.5
        trial = _cayley(frame, skew, step)
        value = _objective(rows, trial, quantiles)
        if value >= score + _ARMIJO * rise * step:
            return (trial, value), step
    return None, step
