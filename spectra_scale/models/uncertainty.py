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

All three are exact. The median that a spectrum was divided by has noise, too, which all its pixels
share: with x the normalised flux and g the response of the median to a pixel, ``J - (J x) gᵀ``
stands for J. Leaving it out makes the pulls of some latents 2.6 wide. The response is that of
`spectra_scale.spectrum.noise_kernels.median_response`, an estimate of its mean. What remains, and
whatever is not linear over the size of the noise, is for the calibration on repeats or on noise
realisations (`spectra_scale.models.calibration`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectra_scale.models.autoencoder import AutoEncoder, to_tensor
from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.precision import Precision, products_in
from spectra_scale.spectrum.noise_kernels import (
    fill_sums,
    follow_fill,
    median_response,
    sandwich,
)

Floats = NDArray[np.float32]

#: Spectra at once: ten rows of 1000 numbers each then stay in a core's own cache.
_BATCH = 128
#: As the ridge of `baseline`, so that this is the derivative of that fit.
_RIDGE = 1e-10


class _Net:
    """Weights of one side of an auto-encoder, in the precision that its Jacobian is wanted in."""

    def __init__(
        self, side: nn.Sequential, precision: Precision, forward: Precision = "float32"
    ) -> None:
        self.in_precision = forward
        self.layers = [layer for layer in side if isinstance(layer, nn.Linear)]
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.weights = [layer.weight.detach().to(dtype) for layer in self.layers]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output (spectrum, out), and which hidden units are active, (spectrum, unit) a layer."""
        active = []
        with products_in(self.in_precision, x.device):
            for layer in self.layers[:-1]:
                x = torch.relu(layer(x))
                active.append(x > 0)
            return self.layers[-1](x).float(), active

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
    inputs
        How it is fed: what a spectrum is divided by, and what fills missing pixels.
    inpaint_passes
        As in `spectra_scale.models.autoencoder.encode`.
    precision
        Of the products that make the Jacobian. ``bfloat16`` rounds each factor by at most 0.4 %,
        which changes a standard deviation by some 0.1 %.
    forward
        Of the network itself: of the latents, and of which units are active.
    """

    model: AutoEncoder
    inputs: ModelInputs
    inpaint_passes: int = 0
    precision: Precision = "float32"
    forward: Precision = "float32"

    @torch.inference_mode()
    def jacobian(self, flux: Floats, ivar: Floats) -> Floats:
        """Derivative of the latents by the normalised flux of valid pixels, at a given ivar.

        Parameters
        ----------
        flux, ivar
            As the model is fed (`ModelInputs.apply`), shape (spectrum, pixel).

        Returns
        -------
        Shape (spectrum, n_latent, pixel), float32; 0 at missing pixels.
        """
        sizes = self.model.architecture
        found = np.empty((len(flux), sizes.n_latent, sizes.n_pixels), np.float32)
        for rows, (_, jacobian) in self._batches(flux, ivar):
            found[rows] = torch.where(
                to_tensor(ivar[rows], jacobian.device)[:, None, :] > 0, jacobian, 0.0
            ).cpu()
        return found

    @torch.inference_mode()
    def propagate(
        self, flux: Floats, ivar: Floats, correlation: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """Latents of each spectrum, and their covariance to first order in the noise.

        Parameters
        ----------
        flux, ivar
            As the model is fed (`ModelInputs.apply`), shape (spectrum, pixel).
        correlation
            Of each pixel's noise with the next's, shape (spectrum, pixel - 1); None for
            independent pixels. It counts where both are valid.

        Returns
        -------
        latents : numpy.ndarray
            Shape (spectrum, n_latent), float32: those of `encode`.
        covariance : numpy.ndarray
            Shape (spectrum, n_latent, n_latent), float32; 0 for a spectrum without valid pixels.
        """
        k = self.model.architecture.n_latent
        latents = np.empty((len(flux), k), np.float32)
        found = np.empty((len(flux), k, k), np.float32)
        for rows, (z, jacobian) in self._batches(flux, ivar):
            latents[rows] = z.cpu()
            rho = None if correlation is None else correlation[rows]
            scaling = None
            if self.inputs.normalisation.kind == "median":
                scaling = flux[rows], median_response(flux[rows], ivar[rows])
            found[rows] = _sandwich(jacobian, ivar[rows], rho, scaling)
        return latents, found

    def covariance(self, flux: Floats, ivar: Floats, correlation: Floats | None = None) -> Floats:
        """Covariance of the latents alone; see `propagate`."""
        return self.propagate(flux, ivar, correlation)[1]

    def _batches(
        self, flux: Floats, ivar: Floats
    ) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
        sides = (
            _Net(self.model.encoder, self.precision, self.forward),
            _Net(self.model.decoder, self.precision, self.forward),
        )
        device = self.model.device
        for start in range(0, len(flux), _BATCH):
            rows = slice(start, start + _BATCH)
            tensors = to_tensor(flux[rows], device), to_tensor(ivar[rows], device)
            yield rows, self._jacobian(*sides, *tensors)

    def _jacobian(
        self, encoder: _Net, decoder: _Net, x: Tensor, ivar: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Latents and their Jacobian; what that holds at missing pixels means nothing."""
        z, active = encoder.forward(x)
        found = encoder.pull_back(active)
        valid = (ivar > 0)[:, None, :]
        found = self._through_fill(found, ivar)
        for _ in range(self.inpaint_passes):
            recon, lit = decoder.forward(z)
            z, active = encoder.forward(torch.where(ivar > 0, x, recon))
            rows = encoder.pull_back(active)
            through = decoder.pull_back(lit, torch.where(valid, 0.0, rows))
            found = torch.where(valid, torch.baddbmm(rows, through, found), 0.0)
        return z, found

    def _through_fill(self, rows: Tensor, ivar: Tensor) -> Tensor:
        """Add to the derivative by valid pixels what goes through the filled ones."""
        fill = self.inputs.fill
        if fill is None:
            return rows
        basis = torch.from_numpy(fill.components).to(rows)
        if rows.device.type != "cpu":
            return _follow_on_device(rows, ivar, basis)
        # A few missing pixels: the compiled loops touch those alone.
        arrays = rows.numpy(), ivar.numpy(), basis.numpy()
        sums = torch.from_numpy(fill_sums(*arrays))
        follow_fill(*arrays, _fit_derivative(sums, basis, ivar).numpy())
        return rows


def _follow_on_device(rows: Tensor, ivar: Tensor, basis: Tensor) -> Tensor:
    """As `noise_kernels.follow_fill`, by torch's products."""
    sums = torch.where((ivar > 0)[:, None, :], 0.0, rows) @ basis.T
    through = _fit_derivative(sums, basis, ivar) @ basis
    return rows.addcmul(through, ivar[:, None, :])


def _fit_derivative(sums: Tensor, basis: Tensor, ivar: Tensor) -> Tensor:
    """``sums · (A_vᵀ V A_v)⁻¹``, shape (spectrum, latent, component)."""
    k = len(basis)
    i, j = torch.triu_indices(k, k, device=ivar.device)
    packed = (ivar @ (basis[i] * basis[j]).T).double()
    normal = packed.new_empty(len(ivar), k, k)
    normal[:, i, j] = packed
    normal[:, j, i] = packed
    trace = normal.diagonal(dim1=1, dim2=2).sum(dim=1)
    ridge = torch.where(trace > 0, _RIDGE * trace / k, 1.0)
    normal += ridge[:, None, None] * torch.eye(k, dtype=normal.dtype, device=normal.device)
    # The matrix is symmetric: X N⁻¹ = (N⁻¹ Xᵀ)ᵀ.
    solved: Tensor = torch.linalg.solve(normal, sums.double().mT)
    return solved.mT.to(ivar.dtype)


def _sandwich(
    rows: Tensor, ivar: Floats, rho: Floats | None, scaling: tuple[Floats, Floats] | None
) -> Floats:
    """As `noise_kernels.sandwich`, on the device of `rows`."""
    if rows.device.type == "cpu":
        # A compiled pass is six times as fast as torch's products of such slim matrices.
        return sandwich(rows.numpy(), ivar, rho, scaling)
    return _sandwich_on_device(rows, ivar, rho, scaling)


def _sandwich_on_device(
    rows: Tensor, ivar: Floats, rho: Floats | None, scaling: tuple[Floats, Floats] | None
) -> Floats:
    variance = to_tensor(ivar, rows.device)[:, None, :]
    rows = torch.where(variance > 0, rows, 0.0)
    if scaling is not None:
        x, response = (to_tensor(each, rows.device) for each in scaling)
        rows.baddbmm_(rows @ x[:, :, None], response[:, None, :], alpha=-1)
    rows *= torch.where(variance > 0, variance, torch.inf).rsqrt()
    found = rows @ rows.mT
    if rho is not None:
        beside = (rows[:, :, :-1] * to_tensor(rho, rows.device)[:, None, :]) @ rows[:, :, 1:].mT
        found = found + beside + beside.mT
    covariance: Floats = found.cpu().numpy()
    return covariance


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
