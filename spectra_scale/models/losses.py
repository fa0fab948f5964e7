"""Masked χ², with the names of science.md §6, so that a printed number says which one it is.

Every function takes tensors of shape (spectrum, pixel) and follows the device and dtype of its
inputs. A pixel is missing where ``ivar`` is 0 (mask ≡ ``ivar > 0``); flux there may be anything,
NaN included, and changes nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

LossName = Literal["chi2", "chi2_valid", "batch_masked"]


def squared_residual(recon: Tensor, flux: Tensor, ivar: Tensor) -> Tensor:
    """Square of reconstruction minus flux, and 0 at missing pixels.

    Parameters
    ----------
    recon, flux, ivar
        Reconstruction, flux and inverse variance in one unit, shape (spectrum, pixel).

    Returns
    -------
    Shape (spectrum, pixel).
    """
    return torch.where(ivar > 0, recon - flux, 0.0).square()


class _WeightedSquares(torch.autograd.Function):
    """Σ (F_rec - F)² w of each spectrum, in float32, with three passes less than autograd's."""

    @staticmethod
    def forward(ctx: Any, recon: Tensor, flux: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        residual = recon - flux  # float32, whatever the precision of `recon`
        weighted = residual * weight
        ctx.save_for_backward(weighted)
        ctx.dtype = recon.dtype
        ctx.mark_non_differentiable(residual)
        return torch.linalg.vecdot(residual, weighted), residual

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weighted,) = ctx.saved_tensors
        return (weighted * (2 * gradients[0])[:, None]).to(ctx.dtype), None, None


def weighted_squares(recon: Tensor, flux: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sum of squared residuals of each spectrum, made for training.

    Unlike `squared_residual` it trusts that flux and reconstruction are finite at missing pixels.

    Parameters
    ----------
    recon
        Shape (spectrum, pixel), float32 or bfloat16; the gradient goes to it.
    flux, weight
        Shape (spectrum, pixel), float32; weight 0 where missing.

    Returns
    -------
    squares, residual
        Σ (F_rec - F)² w, shape (spectrum,), and F_rec - F without a gradient; float32.
    """
    # torch ships no type for `apply`.
    squares, residual = _WeightedSquares.apply(recon, flux, weight)  # type: ignore[no-untyped-call]
    return squares, residual


def valid_count(ivar: Tensor) -> Tensor:
    """Number of valid pixels of each spectrum, at least 1 so that it can be divided by.

    A spectrum with no valid pixel has residual 0 everywhere, hence χ² 0 with any divisor.

    Parameters
    ----------
    ivar
        Inverse variance, shape (spectrum, pixel).

    Returns
    -------
    Shape (spectrum,), dtype of `ivar`.
    """
    return (ivar > 0).sum(dim=1).clamp(min=1).to(ivar.dtype)


def chi2(recon: Tensor, flux: Tensor, ivar: Tensor) -> Tensor:
    """χ² of each spectrum divided by the number of pixels (paper eq. 1).

    Parameters
    ----------
    recon, flux, ivar
        Shape (spectrum, pixel).

    Returns
    -------
    Shape (spectrum,): Σ (F_rec - F)² v m / n_pixels.
    """
    return (squared_residual(recon, flux, ivar) * ivar).sum(dim=1) / ivar.shape[1]


def chi2_valid(recon: Tensor, flux: Tensor, ivar: Tensor) -> Tensor:
    """χ² of each spectrum divided by the number of its valid pixels (paper eq. 2).

    Parameters
    ----------
    recon, flux, ivar
        Shape (spectrum, pixel).

    Returns
    -------
    Shape (spectrum,); 0 for a spectrum with no valid pixel.
    """
    return (squared_residual(recon, flux, ivar) * ivar).sum(dim=1) / valid_count(ivar)


def batch_masked_chi2(recon: Tensor, flux: Tensor, ivar: Tensor) -> Tensor:
    """χ² averaged over the valid pixels of the whole batch, as the reference code does.

    Parameters
    ----------
    recon, flux, ivar
        Shape (spectrum, pixel).

    Returns
    -------
    A scalar; 0 if the batch has no valid pixel.
    """
    n_valid = (ivar > 0).sum().clamp(min=1)
    return (squared_residual(recon, flux, ivar) * ivar).sum() / n_valid


def cap_ivar(flux: Tensor, ivar: Tensor, cap: float | None) -> Tensor:
    """Inverse variance limited so that no pixel has a signal to noise above `cap`.

    Parameters
    ----------
    flux, ivar
        Shape (spectrum, pixel).
    cap
        Largest F√v, so v ≤ (cap/F)² (science.md §6, ``snr_cap``); None leaves `ivar` as it is.

    Returns
    -------
    Shape (spectrum, pixel); 0 where `ivar` is 0.
    """
    if cap is None:
        return ivar
    # A flux of 0 gives an infinite limit, which is right: its signal to noise is 0.
    return torch.where(ivar > 0, torch.minimum(ivar, (cap / flux).square_()), 0.0)


def training_ivar(
    flux: Tensor, ivar: Tensor, snr_cap: float | None, variance_scale: float
) -> Tensor:
    """Loss weights: variance multiplied by `variance_scale`, then capped in signal to noise.

    Parameters
    ----------
    flux, ivar
        Shape (spectrum, pixel).
    snr_cap
        See `cap_ivar`.
    variance_scale
        Factor on the variance; 1.05 says that the survey's errors are 5 % too small in variance.

    Returns
    -------
    Shape (spectrum, pixel); 0 where `ivar` is 0.
    """
    scaled = ivar if variance_scale == 1.0 else ivar / variance_scale
    return cap_ivar(flux, scaled, snr_cap)


def pixelwise_chi2_sums(recon: Tensor, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over spectra for the χ² of each pixel (paper figure 14, science.md §10).

    The sums of two sets of spectra add up to those of their union. Figure 14 shows their ratio
    minus 1.

    Parameters
    ----------
    recon, flux, ivar
        Shape (spectrum, pixel).

    Returns
    -------
    Σ_s (F_rec - F)² v m and Σ_s m, both float64 of shape (pixel,).
    """
    weighted = squared_residual(recon, flux, ivar) * ivar
    return weighted.sum(dim=0, dtype=torch.float64), (ivar > 0).sum(dim=0, dtype=torch.float64)
