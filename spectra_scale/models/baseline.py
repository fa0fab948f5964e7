"""The linear baseline beside the auto-encoder: principal components of noisy, masked spectra.

Weighted least squares throughout, after the EM-PCA of Bailey (2012, PASP 124, 1015): mean and
components minimise Σ (F_rec - F)² v over the training spectra, which is the auto-encoder's own
loss, so with as many components as latents the two numbers can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from spectra_scale.errors import SpectraScaleError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)

_ROWS_AT_ONCE = 1024
_PIXELS_A_COMPONENT = 10  # fewer valid ones are not trusted to determine it in float32
_FILLED_AT_ONCE = 256  # arrays of these stay in a core's cache
# Relative ridge of every normal equation: far below the noise, and a spectrum or pixel with
# fewer valid data than unknowns still has a solution.
_RIDGE = 1e-10


class LinearChi2(NamedTuple):
    """χ² of each spectrum under the baseline, float64 of shape (spectrum,).

    Parameters
    ----------
    chi2
        Divided by all pixels (paper eq. 1).
    chi2_valid
        Divided by valid pixels (paper eq. 2); 0 for a spectrum without any.
    """

    chi2: Doubles
    chi2_valid: Doubles


def _pairs(
    vectors: NDArray[Real],
) -> tuple[NDArray[Real], NDArray[np.intp], NDArray[np.intp]]:
    """Products of every pair of rows of `vectors`, each pair once."""
    i, j = np.triu_indices(len(vectors))
    return vectors[i] * vectors[j], i, j


def _solve(normal: Doubles, right: Doubles) -> Doubles:
    """Solve a batch of symmetric normal equations (n, k, k) with right-hand sides (n, k)."""
    k = right.shape[1]
    trace = np.trace(normal, axis1=1, axis2=2)
    # Without data the equations are 0 = 0: ridge 1 makes the solution 0.
    ridge = np.where(trace > 0, _RIDGE * trace / k, 1.0)
    regular = normal + ridge[:, np.newaxis, np.newaxis] * np.eye(k)
    return np.linalg.solve(regular, right[:, :, np.newaxis])[:, :, 0].astype(float, copy=False)


def _weighted_fit(basis: Doubles, values: Doubles, weights: Doubles) -> Doubles:
    """Coefficients (n, k) of `values` (n, p) in `basis` (k, p), by weighted least squares."""
    # One matrix product gives the normal matrices of all rows; each pair of vectors once.
    products, i, j = _pairs(basis)
    packed = weights @ products.T
    normal = np.empty((len(values), len(basis), len(basis)))
    normal[:, i, j] = packed
    normal[:, j, i] = packed
    return _solve(normal, (weights * values) @ basis.T)


def _clean(flux: Floats, ivar: Floats) -> tuple[Doubles, Doubles]:
    valid = (ivar > 0) & np.isfinite(flux)
    return np.where(valid, flux, 0.0).astype(np.float64), np.where(valid, ivar, 0.0).astype(float)


@dataclass(frozen=True, slots=True, eq=False)
class WeightedPCA:
    """A mean and orthonormal components; see `fit_weighted_pca`.

    Parameters
    ----------
    mean
        Shape (pixel,), in the unit of the normalised flux.
    components
        Shape (component, pixel), orthonormal, ordered by the variance they carry.
    """

    mean: Doubles
    components: Doubles

    def coefficients(self, flux: Floats, ivar: Floats) -> Doubles:
        """Coefficients of each spectrum by weighted least squares.

        Parameters
        ----------
        flux, ivar
            Normalised as in the fit, shape (spectrum, pixel); ivar 0 is missing.

        Returns
        -------
        Shape (spectrum, component); 0 for a spectrum with no valid pixel.
        """
        self._check(flux)
        found = np.empty((len(flux), len(self.components)))
        for start in range(0, len(flux), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            values, weights = _clean(flux[rows], ivar[rows])
            found[rows] = _weighted_fit(self.components, values - self.mean, weights)
        return found

    def reconstruct(self, flux: Floats, ivar: Floats) -> Floats:
        """Best linear reconstruction of each spectrum, missing pixels filled in.

        Parameters
        ----------
        flux, ivar
            Normalised as in the fit, shape (spectrum, pixel); ivar 0 is missing.

        Returns
        -------
        Shape (spectrum, pixel), float32; the mean for a spectrum with no valid pixel.
        """
        image = self.mean + self.coefficients(flux, ivar) @ self.components
        return image.astype(np.float32)

    def fill_missing(self, flux: Floats, ivar: Floats) -> Floats:
        """Spectra with the best linear guess in their missing pixels.

        As `reconstruct`, but long sums are of float32 numbers, in half of the time: on mock
        spectra a guess moves by 1e-5 of its own noise, at most by 4e-4. A spectrum with few valid
        pixels, whose normal equations may have no unique solution, is left to `reconstruct`.

        Parameters
        ----------
        flux, ivar
            Normalised as in the fit, shape (spectrum, pixel); both 0 where missing.

        Returns
        -------
        Shape (spectrum, pixel), float32.
        """
        self._check(flux)
        few = (ivar > 0).sum(axis=1) < _PIXELS_A_COMPONENT * len(self.components)
        if few.any():
            filled = np.empty_like(flux)
            filled[~few] = self.fill_missing(flux[~few], ivar[~few])
            guess = self.reconstruct(flux[few], ivar[few])
            filled[few] = np.where(ivar[few] > 0, flux[few], guess)
            return filled
        mean = self.mean.astype(np.float32)
        basis = np.ascontiguousarray(self.components, np.float32)
        products, i, j = _pairs(basis)
        filled = np.empty_like(flux)
        for start in range(0, len(flux), _FILLED_AT_ONCE):
            rows = slice(start, start + _FILLED_AT_ONCE)
            normal = np.empty((len(flux[rows]), len(basis), len(basis)))
            normal[:, i, j] = ivar[rows] @ products.T
            normal[:, j, i] = normal[:, i, j]
            weighted = (flux[rows] - mean) * ivar[rows]
            found = _solve(normal, (weighted @ basis.T).astype(np.float64))
            guess = found.astype(np.float32) @ basis
            guess += mean
            filled[rows] = np.where(ivar[rows] > 0, flux[rows], guess)
        return filled

    def chi2(self, flux: Floats, ivar: Floats, weights: Floats | None = None) -> LinearChi2:
        """χ² of each spectrum.

        Parameters
        ----------
        flux, ivar
            Normalised as in the fit, shape (spectrum, pixel); ivar 0 is missing.
        weights
            Ivar for finding the coefficients where it is not that of the χ², as with a cap in
            signal to noise; same shape.

        Returns
        -------
        Both χ² of each spectrum.
        """
        fitted_with = ivar if weights is None else weights
        total = np.empty(len(flux))
        n_valid = np.empty(len(flux))
        for start in range(0, len(flux), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            values, v = _clean(flux[rows], ivar[rows])
            found = self.coefficients(flux[rows], fitted_with[rows])
            total[rows] = ((self.mean + found @ self.components - values) ** 2 * v).sum(axis=1)
            n_valid[rows] = (v > 0).sum(axis=1)
        return LinearChi2(total / len(self.mean), total / np.maximum(n_valid, 1.0))

    def _check(self, flux: Floats) -> None:
        if flux.ndim != 2 or flux.shape[1] != len(self.mean):
            message = f"The baseline takes (spectrum, {len(self.mean)}) arrays, not {flux.shape}."
            raise SpectraScaleError(message)


def fit_weighted_pca(
    flux: Floats,
    ivar: Floats,
    n_components: int,
    seed: int,
    n_iterations: int = 5,
    max_rows: int = 20_000,
) -> WeightedPCA:
    """Mean and principal components that minimise the weighted residual.

    Starts from ordinary PCA with missing pixels at the mean, then alternates weighted least
    squares for the coefficients of all spectra and for mean and components of all pixels. Where
    ivar is constant the start is the answer already, and the result is ordinary PCA.

    Parameters
    ----------
    flux, ivar
        Normalised training spectra, shape (spectrum, pixel); ivar 0 is missing.
    n_components
        Number of components: that of the auto-encoder's latents.
    seed
        Seed of the choice of rows.
    n_iterations
        Alternations.
    max_rows
        Spectra used at most, drawn without replacement.

    Returns
    -------
    The baseline.

    Raises
    ------
    SpectraScaleError
        There are no more spectra or pixels than components.
    """
    if min(flux.shape) <= n_components or n_components < 1:
        message = (
            f"Cannot find {n_components} components in {flux.shape[0]} spectra of {flux.shape[1]} "
            "pixels: more of both are needed. Add spectra or lower n_latent."
        )
        raise SpectraScaleError(message)
    if len(flux) > max_rows:
        chosen = np.random.default_rng(seed).choice(len(flux), max_rows, replace=False)
        chosen.sort()
        flux, ivar = flux[chosen], ivar[chosen]
    values, weights = _clean(flux, ivar)
    model = _plain_pca(values, weights, n_components)
    for _ in range(n_iterations):
        model = _iterate(model, values, weights)
    return model


def _plain_pca(values: Doubles, weights: Doubles, n_components: int) -> WeightedPCA:
    valid = weights > 0
    mean = values.sum(axis=0) / np.maximum(valid.sum(axis=0), 1)
    centred = np.where(valid, values - mean, 0.0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return WeightedPCA(mean, _signed(vectors[:, ::-1][:, :n_components].T))


def _iterate(model: WeightedPCA, values: Doubles, weights: Doubles) -> WeightedPCA:
    found = np.empty((len(values), len(model.components)))
    for start in range(0, len(values), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        found[rows] = _weighted_fit(model.components, values[rows] - model.mean, weights[rows])
    # The mean is one more vector, with coefficient 1 in every spectrum.
    basis = np.vstack([np.ones(len(values)), found.T])
    per_pixel = _weighted_fit(basis, values.T, weights.T)
    return _orthonormal(per_pixel[:, 0], per_pixel[:, 1:].T, found)


def _orthonormal(mean: Doubles, components: Doubles, coefficients: Doubles) -> WeightedPCA:
    """The same affine space, with orthonormal components ordered by variance."""
    centre = coefficients.mean(axis=0)
    q, r = np.linalg.qr(components.T)
    _, _, turn = np.linalg.svd((coefficients - centre) @ r.T, full_matrices=False)
    return WeightedPCA(mean + centre @ components, _signed(turn @ q.T))


def _signed(components: Doubles) -> Doubles:
    """Components with the sign that makes their largest element positive."""
    largest = np.abs(components).argmax(axis=1)
    sign = np.sign(components[np.arange(len(components)), largest])
    return np.ascontiguousarray(components * sign[:, np.newaxis])
