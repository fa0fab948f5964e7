"""What is minimised over a batch, and the sums that are reported of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spectra_scale.models.autoencoder import AutoEncoder
from spectra_scale.models.losses import training_ivar, valid_count, weighted_squares
from spectra_scale.models.precision import products_in
from spectra_scale.models.train_inputs import TrainSettings


class BatchLoss(NamedTuple):
    """Loss of a batch.

    Parameters
    ----------
    loss
        Sum over spectra, with its graph.
    by_spectrum
        Loss of each spectrum before row weights, shape (spectrum,), without a graph.
    sums
        `SUMS`, float64.
    """

    loss: Tensor
    by_spectrum: Tensor
    sums: Tensor


def filled(model: AutoEncoder, flux: Tensor, ivar: Tensor) -> Tensor:
    """Flux with missing pixels taken from the reconstruction (science.md §6, ``inpaint``).

    No gradient goes through it: what is learnt is to encode a whole spectrum.
    """
    with torch.no_grad():
        return torch.where(ivar > 0, flux, model(flux).to(flux.dtype))


def batch_loss(  # noqa: PLR0913 - a batch, its weights, and how the loss is taken
    model: AutoEncoder,
    flux: Tensor,
    ivar: Tensor,
    settings: TrainSettings,
    *,
    weights: Tensor | None = None,
    inpaint: bool = False,
    learning: bool = True,
) -> BatchLoss:
    """Loss of one batch under the present weights.

    Parameters
    ----------
    model
        The auto-encoder.
    flux, ivar
        Normalised, shape (spectrum, pixel), float32; ivar 0 is missing, flux finite throughout.
    settings
        Loss, cap, variance scale and precision.
    weights
        Factor on the loss of each spectrum, shape (spectrum,); None is 1. The reported sums are
        without it.
    inpaint
        Feed missing pixels the reconstruction of a first pass.
    learning
        False takes all products in float32.
    """
    precision = settings.precision if learning else "float32"
    with products_in(precision, flux.device):
        recon: Tensor = model(filled(model, flux, ivar) if inpaint else flux)
    weight = training_ivar(flux, ivar, settings.snr_cap, settings.variance_scale)
    capped, residual = weighted_squares(recon, flux, weight)
    n_valid, n_pixels = valid_count(ivar), ivar.shape[1]
    loss = {"chi2": capped / n_pixels, "chi2_valid": capped / n_valid, "batch_masked": capped}[
        settings.loss
    ]
    total = loss.sum() if weights is None else torch.dot(loss, weights)
    with torch.no_grad():
        plain = torch.linalg.vecdot(residual * ivar, residual)
        each = torch.stack([capped / n_pixels, capped / n_valid,
                            plain / n_pixels, plain / n_valid])  # fmt: skip
        sums = each.sum(dim=1, dtype=torch.float64)
        sums = torch.cat([sums, sums.new_full((1,), len(flux))])
    return BatchLoss(total, loss.detach(), sums)
