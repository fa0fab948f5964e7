"""Rows on their way through the flow, in main memory: checked, whitened, pushed through layers.

`spectra_scale.models.gis_torch` has the same for rows on a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.gis_directions import HostSample, project
from spectra_scale.models.gis_kde import effective_count
from spectra_scale.models.gis_spline import layer_forward, matrix_rows

Floats: TypeAlias = NDArray[np.float64]

#: Weights below this, where 1 is the mean weight, count as 0 (as in SINF).
LEAST_WEIGHT = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """``z = matrix (x - mean)`` and back, with the constant log-determinant."""

    mean: Floats
    matrix: Floats
    inverse: Floats
    logdet: float


@dataclass(slots=True, eq=False)
class Flowing:
    """Rows on their way through the flow, and their log-determinants so far.

    Parameters
    ----------
    z
        Shape (n, D); changed in place by `push`.
    logdet
        Shape (n,); likewise.
    weights
        Positive, of mean 1, shape (n,); None if all rows count alike.
    """

    z: Floats
    logdet: Floats
    weights: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of dimensions."""
        return self.z.shape[0], self.z.shape[1]

    @property
    def effective(self) -> float:
        """Effective number of rows; see `effective_count`."""
        return effective_count(self.weights, len(self.z))

    def log_prob(self) -> Floats:
        """Log-density of the rows if the flow ended here, shape (n,)."""
        dims = self.z.shape[1]
        square = np.einsum("ij,ij->i", self.z, self.z)
        return np.asarray(self.logdet - 0.5 * square - 0.5 * dims * np.log(2 * np.pi))

    def score(self, trim: float) -> tuple[float, float]:
        """Mean log-density of the rows, and its `trimmed_mean`."""
        found = self.log_prob()
        if self.weights is None:
            return float(np.mean(found)), trimmed_mean(found, trim)
        return float(np.mean(self.weights * found)), trimmed_mean(found, trim, self.weights)

    def push(self, frame: Floats, tables: Floats) -> None:
        """Carry the rows through one layer; see `layer_forward`."""
        layer_forward(self.z, frame, tables, self.logdet)

    def sample(self, picked: NDArray[np.int64] | None) -> HostSample:
        """Some of the rows by number, or all, for the direction search."""
        if picked is None:
            return HostSample(self.z, self.weights)
        weights = None if self.weights is None else self.weights[picked]
        return HostSample(self.z[picked], weights)

    def slices(self, frame: Floats) -> Iterator[tuple[Floats, Floats | None]]:
        """Yield the projections on each direction, (n,) ascending, and their weights if any."""
        projected = project(frame, np.ascontiguousarray(self.z.T))
        if self.weights is None:
            for values in np.sort(projected, axis=1):
                yield values, None
            return
        for values in projected:
            order = np.argsort(values, kind="stable")
            yield values[order], self.weights[order]


def whitened(rows: Floats, whitening: Whitening, weights: Floats | None = None) -> Flowing:
    """Start rows, shape (n, D), on their way; they are copied."""
    z = matrix_rows(rows - whitening.mean, whitening.matrix)
    return Flowing(z, np.full(len(rows), whitening.logdet), weights)


def whiten_rows(x: Floats, *, whiten: bool, weights: Floats | None = None) -> Whitening:
    """Mean and the matrix that gives rows unit covariance, directions of most variance first.

    Parameters
    ----------
    x
        Rows, shape (n, D) with n > D.
    whiten
        If false, the identity.
    weights
        Positive, of mean 1, shape (n,); None if all rows count alike.

    Returns
    -------
    Whitening

    Raises
    ------
    SpectraScaleError
        If the covariance is singular; the message names the dimensions.
    """
    dims = x.shape[1]
    if not whiten:
        return Whitening(np.zeros(dims), np.eye(dims), np.eye(dims), 0.0)
    mean, covariance = _moments(x, weights)
    unit, (values, vectors) = np.ones(dims), _eigen(covariance)
    if values[-1] <= _floor(values):
        # Columns of very different size are no fault: in units of their spread they are alike.
        unit = np.sqrt(np.diag(covariance))
        unit[unit == 0] = 1.0
        values, vectors = _eigen(covariance / np.outer(unit, unit))
        _check_covariance(covariance, values, vectors)
    # LAPACK leaves the signs open; the largest component of each direction is made positive.
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(dims)]
    vectors = vectors * np.sign(largest)
    scale = np.sqrt(values)
    return Whitening(
        mean=mean,
        matrix=np.ascontiguousarray((vectors / scale).T / unit),
        inverse=np.ascontiguousarray(vectors * scale * unit[:, None]),
        logdet=-float(np.sum(np.log(scale)) + np.sum(np.log(unit))),
    )


def _eigen(matrix: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues, descending, and eigenvectors as columns."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(values[::-1]), np.asarray(vectors[:, ::-1])


def _floor(values: Floats) -> float:
    """Eigenvalue below which rounding is all that is left of one."""
    return float(1e-14 * max(values[0], np.finfo(np.float64).tiny) * len(values))


def _moments(x: Floats, weights: Floats | None) -> tuple[Floats, Floats]:
    """Mean and unbiased covariance of rows."""
    if weights is None:
        mean = np.asarray(x.mean(axis=0))
        centred = x - mean
        return mean, np.asarray(centred.T @ centred / (len(x) - 1))
    total = float(np.sum(weights))
    mean = np.asarray(weights @ x / total)
    centred = x - mean
    # Unbiased for weights that say how reliable a row is; n - 1 where all are 1.
    freedom = total - float(np.sum(weights**2)) / total
    return mean, np.asarray((weights[:, None] * centred).T @ centred / freedom)


def _check_covariance(covariance: Floats, values: Floats, vectors: Floats) -> None:
    floor = _floor(values)
    if values[-1] > floor:
        return
    null = np.abs(vectors[:, values <= floor])
    dims = sorted({int(d) for d in np.argwhere(null > 0.1 * null.max(axis=0))[:, 0]})
    constant = [d for d in range(len(values)) if covariance[d, d] == 0]
    msg = (
        f"The covariance of x_train is singular: dimensions {dims} depend on one another"
        f"{f' and {constant} are constant' if constant else ''} (smallest eigenvalue of "
        f"the correlation {values[-1]:.2g}, largest {values[0]:.2g}). A density needs independent "
        "dimensions: leave out such latents, or train the auto-encoder with fewer."
    )
    raise SpectraScaleError(msg)


def trimmed_mean(values: Floats, trim: float, weights: Floats | None = None) -> float:
    """Mean without the lowest `trim` of the values (of their weight), at least one of them."""
    if weights is not None:
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(weights[order])
        lowest = int(np.searchsorted(reached, trim * reached[-1])) + 1
        kept = order[min(lowest, len(values) - 1) if trim > 0 else 0 :]
        return float(np.average(values[kept], weights=weights[kept]))
    dropped = min(max(int(np.ceil(trim * len(values))), 1), len(values) - 1) if trim > 0 else 0
    return float(np.mean(np.sort(values)[dropped:]))


def checked_rows(values: ArrayLike, name: str, dims: int | None = None) -> Floats:
    """Rows as contiguous float64, shape (n, dims), all finite.

    Other kinds of real numbers, float16 and integers too, are converted; no number of these loses
    a digit by it, but for integers beyond 2^53 and extended floats.

    Raises
    ------
    SpectraScaleError
        For another shape, values that are no real numbers, NaN or infinity.
    """
    rows = _as_float64(values, name)
    if rows.ndim != 2 or (dims is not None and rows.shape[1] != dims):
        msg = (
            f"{name} has shape {rows.shape}, but rows of shape (n, {dims or 'dimensions'}) are "
            "needed. Pass one object a row, with the dimensions the flow was fitted on."
        )
        raise SpectraScaleError(msg)
    if rows.shape[1] == 0:
        msg = f"{name} has shape {rows.shape}: rows without dimensions. Pass the latents."
        raise SpectraScaleError(msg)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        msg = (
            f"{name} has {len(bad)} of {len(rows)} rows with NaN or infinity, the first at row "
            f"{bad[0]}. Drop or repair them before the density."
        )
        raise SpectraScaleError(msg)
    return rows


def _as_float64(values: ArrayLike, name: str) -> Floats:
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        msg = f"{name} has masked values. Drop or fill them before the density."
        raise SpectraScaleError(msg)
    try:
        found: NDArray[Any] = np.asarray(values)
    except ValueError as error:  # rows of unequal length
        msg = f"{name} is no array of numbers ({error}). Pass rows of shape (n, dimensions)."
        raise SpectraScaleError(msg) from error
    if found.dtype.kind not in "fiub":
        msg = (
            f"{name} holds {found.dtype} values, but real numbers are needed. Convert them to "
            "float64 first."
        )
        raise SpectraScaleError(msg)
    return np.asarray(found, dtype=np.float64, order="C")


def checked_weights(
    weights: ArrayLike | None, n: int, name: str
) -> tuple[NDArray[np.bool_], Floats | None]:
    """Weights divided by their mean, and which rows they keep.

    Parameters
    ----------
    weights
        One number a row, not negative, in any unit; None if all rows count alike.
    n
        Number of rows.
    name
        What to call them in an error.

    Returns
    -------
    tuple
        Rows whose weight is above `LEAST_WEIGHT` of the mean, shape (n,); and the weights of
        these, of mean 1, or None. Weights that are all the same are none.

    Raises
    ------
    SpectraScaleError
        For another length, negative weights, NaN or infinity, or if none is positive.
    """
    if weights is None:
        return np.ones(n, dtype=bool), None
    given = _as_float64(weights, name)
    if given.shape != (n,):
        msg = f"{name} has shape {given.shape}, but {n} rows need as many weights, shape ({n},)."
        raise SpectraScaleError(msg)
    bad = np.flatnonzero(~(np.isfinite(given) & (given >= 0)))
    if len(bad):
        msg = (
            f"{name} has {len(bad)} values that are negative, NaN or infinite, the first "
            f"{given[bad[0]]} at row {bad[0]}. Give such rows the weight 0 to leave them out."
        )
        raise SpectraScaleError(msg)
    if not given.any():
        msg = (
            f"{name} holds no positive weight, so no row would count. Leave it out for equal ones."
        )
        raise SpectraScaleError(msg)
    # Rows of weight 0 must be as if absent, so they have no part in the mean.
    given = given / given.max()
    kept = given > LEAST_WEIGHT * given[given > 0].mean()
    found = given[kept] / given[kept].mean()
    return kept, None if (found == found[0]).all() else found


def weighted_rows(
    rows: ArrayLike, weights: ArrayLike | None, name: str, dims: int | None
) -> tuple[Floats, Floats | None]:
    """Rows of positive weight, and their weights of mean 1; see `checked_rows`.

    Raises
    ------
    SpectraScaleError
        As `checked_rows` and `checked_weights`, and for no rows at all.
    """
    found = checked_rows(rows, name, dims=dims)
    if len(found) == 0:
        msg = f"{name} has no rows. Give some, or leave it out."
        raise SpectraScaleError(msg)
    kept, mass = checked_weights(weights, len(found), f"weights of {name}")
    return (found if kept.all() else found[kept]), mass


def check_batch(batch: int | None) -> int | None:
    """Rows at once; None leaves it to the place of work."""
    if batch is not None and batch < 1:
        msg = f"batch is {batch}; give 1 row or more, or leave it out."
        raise UsageError(msg)
    return batch


def host_batches(n: int, precision: str, batch: int | None) -> Iterator[slice]:
    """Rows at once on the processor: all, unless a batch is given."""
    if precision != "float64":
        msg = f"precision {precision!r} needs a device; the processor's own loops are in float64."
        raise UsageError(msg)
    size = check_batch(batch) or max(n, 1)
    for start in range(0, n, size):
        yield slice(start, start + size)
