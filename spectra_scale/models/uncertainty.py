"""How uncertain latents and reconstructions are, given the noise of a spectrum (science.md §6).

A network of linear layers with ReLU between them is linear around every input, but for inputs on a
kink. Its Jacobian is the product of its weight matrices with the columns of inactive units left
out, so it is found for a whole batch with a few matrix products, exactly, without autograd. To
first order the covariance of the latents is then ``J C Jᵀ`` with C the covariance of the pixels:
tridiagonal, because a pixel shares native pixels with its two neighbours alone
(`spectra_scale.spectrum.covariance`). Missing pixels have no noise and contribute nothing.

What a missing pixel is fed depends on the valid ones, and the chain rule is followed through it:

zeros
    Nothing passes through a missing pixel.
linear fill
    The guess is a weighted least-squares fit of the baseline's components A to the valid pixels,
    at a given ivar V a linear function of them: ``∂x_m/∂x_v = A_m (A_vᵀ V A_v)⁻¹ A_vᵀ V``.
inpaint
    Each pass takes missing pixels from the last reconstruction, so that
    ``J_p = E_v + E_m D J_p-1`` with E and D the Jacobians of encoder and decoder in that pass.

All three are exact. What is left out: the noise of the median that a spectrum was divided by, and
whatever is not linear over the size of the noise. A calibration on repeats or on noise
realisations absorbs both (`spectra_scale.models.calibration`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectra_scale.models.autoencoder import AutoEncoder, to_tensor
from spectra_scale.models.baseline import WeightedPCA
from spectra_scale.models.precision import Precision

Floats = NDArray[np.float32]

#: Spectra at once: ten rows of 1000 numbers each then stay in a core's own cache.
_BATCH = 128
#: As the ridge of `baseline`, so that this is the derivative of that fit.
_RIDGE = 1e-10


class _Net:
    """Weights of one side of an auto-encoder, in the precision that its Jacobian is wanted in."""

    def __init__(self, side: nn.Sequential, precision: Precision) -> None:
        self.layers = [layer for layer in side if isinstance(layer, nn.Linear)]
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.weights = [layer.weight.detach().to(dtype) for layer in self.layers]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output (spectrum, out), and which hidden units are active, (spectrum, unit) a layer."""
        active = []
        for layer, following in pairwise(self.layers):
            x = layer(x)
            active.append(x > 0)
            x = torch.relu(x)
            assert following.in_features == x.shape[1]
        return self.layers[-1](x), active

    def pull_back(self, active: list[Tensor], rows: Tensor | None = None) -> Tensor:
        """Multiply `rows` (spectrum, row, out) with the Jacobian: (spectrum, row, in).

        Without `rows`, the Jacobian itself, a row an output.
        """
        last = self.weights[-1]
        if rows is None:
            rows = last.expand(len(active[0]) if active else 1, *last.shape)
        else:
            rows = _times(rows.to(last.dtype), last)
        for on, weight in zip(reversed(active), reversed(self.weights[:-1]), strict=True):
            rows = _times(rows * on[:, None, :], weight)
        return rows.float()


def _times(rows: Tensor, weight: Tensor) -> Tensor:
    """(spectrum, row, a) times (a, b), as one product of matrices."""
    flat = rows.reshape(-1, rows.shape[-1]) @ weight
    return flat.reshape(*rows.shape[:-1], -1)


@dataclass(frozen=True, slots=True, eq=False)
class Propagation:
    """From the noise of pixels to that of latents, for one model and one way of feeding it.

    Parameters
    ----------
    model
        The auto-encoder.
    fill
        Linear model that fills missing pixels, or None where they are fed as 0.
    inpaint_passes
        As in `spectra_scale.models.autoencoder.encode`.
    precision
        Of the products that make the Jacobian. ``bfloat16`` rounds each factor by at most 0.4 %,
        which changes a covariance by some 0.1 %; which units are active is found in float32.
    """

    model: AutoEncoder
    fill: WeightedPCA | None = None
    inpaint_passes: int = 0
    precision: Precision = "float32"

    @torch.inference_mode()
    def jacobian(self, flux: Floats, ivar: Floats) -> Floats:
        """Derivative of the latents by the flux of valid pixels, at a given ivar.

        Parameters
        ----------
        flux, ivar
            As the model is fed (`ModelInputs.apply`), shape (spectrum, pixel).

        Returns
        -------
        Shape (spectrum, n_latent, pixel), float32; 0 at missing pixels.
        """
        sides = self._sides()
        parts = [
            self._jacobian(*sides, *tensors).cpu().numpy() for tensors in self._batches(flux, ivar)
        ]
        shape = (0, self.model.architecture.n_latent, flux.shape[1])
        return np.concatenate([np.empty(shape, np.float32), *parts])

    @torch.inference_mode()
    def covariance(self, flux: Floats, ivar: Floats, correlation: Floats | None = None) -> Floats:
        """Covariance of the latents of each spectrum, to first order in the noise.

        Parameters
        ----------
        flux, ivar
            As the model is fed (`ModelInputs.apply`), shape (spectrum, pixel).
        correlation
            Of each pixel's noise with the next's, shape (spectrum, pixel - 1); None for
            independent pixels. It counts where both are valid.

        Returns
        -------
        Shape (spectrum, n_latent, n_latent), float32; 0 for a spectrum without valid pixels.
        """
        sides = self._sides()
        k = self.model.architecture.n_latent
        found = np.empty((len(flux), k, k), np.float32)
        for start, tensors in zip(
            range(0, len(flux), _BATCH), self._batches(flux, ivar), strict=True
        ):
            rows = slice(start, start + _BATCH)
            rho = None if correlation is None else to_tensor(correlation[rows], self.model.device)
            jacobian = self._jacobian(*sides, *tensors)
            found[rows] = _sandwich(jacobian, tensors[1], rho).cpu().numpy()
        return found

    def _sides(self) -> tuple[_Net, _Net]:
        return (
            _Net(self.model.encoder, self.precision),
            _Net(self.model.decoder, self.precision),
        )

    def _batches(self, flux: Floats, ivar: Floats) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(flux), _BATCH):
            rows = slice(start, start + _BATCH)
            yield (
                to_tensor(flux[rows], self.model.device),
                to_tensor(ivar[rows], self.model.device),
            )

    def _jacobian(self, encoder: _Net, decoder: _Net, x: Tensor, ivar: Tensor) -> Tensor:
        valid = (ivar > 0)[:, None, :]
        z, active = encoder.forward(x)
        rows = encoder.pull_back(active)
        found = self._through_fill(rows, valid, ivar)
        for _ in range(self.inpaint_passes):
            recon, lit = decoder.forward(z)
            z, active = encoder.forward(torch.where(ivar > 0, x, recon))
            rows = encoder.pull_back(active)
            through = decoder.pull_back(lit, torch.where(valid, 0.0, rows))
            found = torch.where(valid, rows, 0.0) + through @ found
        return found

    def _through_fill(self, rows: Tensor, valid: Tensor, ivar: Tensor) -> Tensor:
        """Add to the derivative by valid pixels what goes through the filled ones."""
        if self.fill is None:
            return torch.where(valid, rows, 0.0)
        basis = torch.from_numpy(self.fill.components).to(rows)
        direct = torch.where(valid, rows, 0.0)
        by_coefficient = torch.where(valid, 0.0, rows) @ basis.T
        share = _fit_derivative(by_coefficient, self.fill.components, ivar)
        return direct.addcmul_(share @ basis, ivar[:, None, :])


def _fit_derivative(
    by_coefficient: Tensor, components: NDArray[np.float64], ivar: Tensor
) -> Tensor:
    """``by_coefficient · (A_vᵀ V A_v)⁻¹``, shape (spectrum, latent, component), in float64."""
    basis = torch.from_numpy(components).to(ivar.device)
    k = len(components)
    i, j = torch.triu_indices(k, k, device=ivar.device)
    packed = ivar.double() @ (basis[i] * basis[j]).T
    normal = packed.new_empty(len(ivar), k, k)
    normal[:, i, j] = packed
    normal[:, j, i] = packed
    trace = normal.diagonal(dim1=1, dim2=2).sum(dim=1)
    ridge = torch.where(trace > 0, _RIDGE * trace / k, 1.0)
    normal += ridge[:, None, None] * torch.eye(k, dtype=normal.dtype, device=normal.device)
    # The matrix is symmetric: X N⁻¹ = (N⁻¹ Xᵀ)ᵀ.
    solved: Tensor = torch.linalg.solve(normal, by_coefficient.double().mT)
    return solved.mT.to(ivar.dtype)


def _sandwich(rows: Tensor, ivar: Tensor, rho: Tensor | None) -> Tensor:
    """``J C Jᵀ`` with C tridiagonal; overwrites `rows`."""
    sigma = torch.where(ivar > 0, ivar, torch.inf).rsqrt()  # 0 where missing
    rows *= sigma[:, None, :]
    found = rows @ rows.mT
    if rho is not None:
        beside = (rows[:, :, :-1] * rho[:, None, :]) @ rows[:, :, 1:].mT
        found += beside
        found += beside.mT
    return found


@torch.inference_mode()
def reconstruction_variance(model: AutoEncoder, latents: Floats, covariance: Floats) -> Floats:
    """Variance of each pixel of a reconstruction, from the covariance of its latents.

    It is ``diag(D S Dᵀ)`` with D the decoder's Jacobian: what noise does to the reconstruction,
    not how well the network can reproduce a spectrum.

    Parameters
    ----------
    model
        The auto-encoder.
    latents
        Shape (spectrum, n_latent).
    covariance
        Of the latents, shape (spectrum, n_latent, n_latent).

    Returns
    -------
    Shape (spectrum, pixel), float32, in the square of the unit of the normalised flux. Missing
    pixels have one, too: the reconstruction is there as well.
    """
    decoder = _Net(model.decoder, "float32")
    found = np.empty((len(latents), model.architecture.n_pixels), np.float32)
    for start in range(0, len(latents), _BATCH):
        rows = slice(start, start + _BATCH)
        # With S = L Lᵀ the variance of a pixel is the squared length of its row of D L: pushed
        # forward, column by column of L.
        root = _root(to_tensor(covariance[rows], model.device))
        _, active = decoder.forward(to_tensor(latents[rows], model.device))
        pushed = root.mT
        for on, weight in zip(active, decoder.weights[:-1], strict=True):
            pushed = _times(pushed, weight.T) * on[:, None, :]
        found[rows] = _times(pushed, decoder.weights[-1].T).square().sum(dim=1).cpu().numpy()
    return found


def _root(covariance: Tensor) -> Tensor:
    """L with L Lᵀ the covariance, also where it is singular."""
    found: tuple[Tensor, Tensor] = torch.linalg.eigh(covariance.double())
    values, vectors = found
    return (vectors * values.clamp(min=0).sqrt()[:, None, :]).to(covariance.dtype)
