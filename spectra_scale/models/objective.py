"""What is minimised over a batch, and the sums that are reported of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spectra_scale.models.autoencoder import AutoEncoder
from spectra_scale.models.losses import training_ivar, valid_count
from spectra_scale.models.misfit import Chi2, Loss, Misfit
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
    loss: Loss,
    spectra: tuple[Tensor, Tensor],
    settings: TrainSettings,
    *,
    weights: Tensor | None = None,
    inpaint: bool = False,
    learning: bool = True,
    softness: float = 1.0,
) -> BatchLoss:
    """Loss of one batch under the present weights.

    Parameters
    ----------
    model
        The auto-encoder.
    loss
        What is minimised (`TrainSettings.loss_for`).
    spectra
        Normalised flux and ivar, shape (spectrum, pixel), float32; ivar 0 is missing, flux finite
        throughout.
    settings
        Cap, variance scale and precision.
    weights
        Factor on the loss of each spectrum, shape (spectrum,); None is 1. The reported sums are
        without it.
    inpaint
        Feed missing pixels the reconstruction of a first pass.
    learning
        False takes all products in float32.
    softness
        Of this epoch (`TrainSettings.softness`).
    """
    flux, ivar = spectra
    precision = settings.precision if learning else "float32"
    with products_in(precision, flux.device):
        recon: Tensor = model(filled(model, flux, ivar) if inpaint else flux)
    weight = training_ivar(flux, ivar, settings.snr_cap, settings.variance_scale)
    found: Misfit = loss(recon, flux, weight, softness)
    total = found.loss.sum() if weights is None else torch.dot(found.loss, weights)
    return BatchLoss(total, found.loss.detach(), _sums(found, ivar, settings))


@torch.no_grad()
def _sums(found: Misfit, ivar: Tensor, settings: TrainSettings) -> Tensor:
    """`SUMS` of a batch, whatever is minimised."""
    four = _four_chi2(found, ivar)
    # The divisor of `batch_masked` is no spectrum's own.
    minimised = four[0] if settings.loss == "batch_masked" else found.loss
    sums = torch.cat([four, minimised[None]]).sum(dim=1, dtype=torch.float64)
    return torch.cat([sums, sums.new_full((1,), len(ivar))])


def _four_chi2(found: Misfit, ivar: Tensor) -> Tensor:
    """The four χ² of each spectrum in the order of `SUMS`, shape (4, spectrum)."""
    n_valid, n_pixels = valid_count(ivar), ivar.shape[1]
    plain = torch.linalg.vecdot(found.residual * ivar, found.residual)
    return torch.stack([found.squares / n_pixels, found.squares / n_valid,
                        plain / n_pixels, plain / n_valid])  # fmt: skip


@torch.inference_mode()
def chi2_by_spectrum(
    model: AutoEncoder,
    spectra: tuple[Tensor, Tensor],
    settings: TrainSettings,
    *,
    inpaint: bool = False,
) -> Tensor:
    """Eq. 1 and eq. 2 of the paper with the loss's ivar, then with that of the sample; float32.

    Parameters
    ----------
    model, spectra, settings, inpaint
        As for `batch_loss`.

    Returns
    -------
    Shape (4, spectrum): the first four of `SUMS`.
    """
    flux, ivar = spectra
    recon: Tensor = model(filled(model, flux, ivar) if inpaint else flux)
    weight = training_ivar(flux, ivar, settings.snr_cap, settings.variance_scale)
    found: Misfit = Chi2("chi2")(recon, flux, weight, 1.0)
    return _four_chi2(found, ivar)
