"""What a training can minimise, one small module a loss (science.md §6).

Each is a final `torch.nn.Module` that turns a reconstruction into one number a spectrum. All agree
with paper eq. 1 where residuals are small and no pixel is an outlier, so learning rates keep their
meaning. Some have parameters of their own, which are learnt with the network's.

Shapes are (spectrum, pixel). A pixel is missing where its weight is 0: it adds nothing, whatever
its finite flux is.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from spectra_scale.errors import UsageError
from spectra_scale.models.losses import valid_count, weighted_squares

LossName = Literal["chi2", "chi2_valid", "batch_masked", "gaussian_kernel", "mixture_density"]

#: Share of outliers and their widening when `MixtureDensity` begins.
_FRACTION, _WIDENING = 0.02, 5.0
#: Adam moves any parameter by about the learning rate a step: so many times faster for the two
#: numbers a pixel of `MixtureDensity`, which have to go far and are determined by many spectra.
_PACE = 10.0


class Misfit(NamedTuple):
    """How far a reconstruction is from the data, one number a spectrum.

    Parameters
    ----------
    loss
        What is minimised, with its graph; shape (spectrum,).
    squares
        Σ (F_rec - F)² w, shape (spectrum,).
    residual
        F_rec - F without a graph, shape (spectrum, pixel), float32.
    """

    loss: Tensor
    squares: Tensor
    residual: Tensor


class Chi2(nn.Module):
    """χ² of each spectrum.

    Parameters
    ----------
    name
        ``chi2`` divides by all pixels (paper eq. 1), ``chi2_valid`` by the valid ones (eq. 2);
        ``batch_masked`` does not divide: the training loop does, by the valid pixels of the batch.
    """

    def __init__(self, name: LossName) -> None:
        super().__init__()
        self.name = name

    def forward(self, recon: Tensor, flux: Tensor, weight: Tensor, softness: float) -> Misfit:
        """Misfit of spectra; `softness` is not used."""
        del softness
        squares, residual = weighted_squares(recon, flux, weight)
        if self.name == "batch_masked":
            return Misfit(squares, squares, residual)
        n = weight.shape[1] if self.name == "chi2" else valid_count(weight)
        return Misfit(squares / n, squares, residual)


class GaussianKernel(nn.Module):
    """Correntropy of the pull p: Σ 2h² (1 - exp(-p²/2h²)) / n_pixels, with p² = (F_rec - F)² w.

    The Gaussian-kernel loss of the paper's outlook (§5). It is p² for p ≪ h and ends at 2h², so
    that the pull of a pixel on the network grows up to h σ, and is forgotten beyond: a cosmic ray
    or a sky residual of 50 σ counts as little as none.

    Parameters
    ----------
    width
        h, in σ.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, recon: Tensor, flux: Tensor, weight: Tensor, softness: float) -> Misfit:
        """Misfit of spectra, with a kernel `softness` times as wide."""
        residual = recon - flux
        squared = residual.square() * weight
        scale = 2 * (self.width * softness) ** 2
        # expm1, because 1 - exp(-x) has no digits left for small pulls.
        loss = -scale * torch.expm1(-squared / scale).sum(dim=1) / weight.shape[1]
        return Misfit(loss, squared.detach().sum(dim=1), residual.detach())


class MixtureDensity(nn.Module):
    """-2 log of a density with two Gaussians about the reconstruction, summed, over n_pixels.

    A pixel is as noisy as its variance says, or, with probability ε, an outlier whose σ is s times
    as large:

        p(F) = (1-ε) N(F; F_rec, σ²) + ε N(F; F_rec, s²σ²),    1/σ² = w.

    ε < 1/2 and s > 1 are learnt for every pixel of the grid. This is a mixture density whose
    components share their mean: the network's output stays one spectrum. -2 log is that of
    p(F) √(2π) σ, so it is p² where ε is 0, and never negative.

    Parameters
    ----------
    n_pixels
        Pixels of the grid.
    """

    def __init__(self, n_pixels: int) -> None:
        super().__init__()
        share, excess = 2 * _FRACTION, math.log(_WIDENING)
        self.fraction_logit = _constant(n_pixels, math.log(share / (1 - share)))
        self.widening_logit = _constant(n_pixels, math.log(math.expm1(excess)))

    @property
    def fraction(self) -> Tensor:
        """Probability ε that a pixel is an outlier, shape (pixel,)."""
        return 0.5 * torch.sigmoid(_PACE * self.fraction_logit)

    @property
    def log_widening(self) -> Tensor:
        """Natural logarithm of an outlier's σ in units of the quoted one, shape (pixel,)."""
        return functional.softplus(_PACE * self.widening_logit)

    def forward(self, recon: Tensor, flux: Tensor, weight: Tensor, softness: float) -> Misfit:
        """Misfit of spectra; `softness` is not used."""
        del softness
        residual = recon - flux
        squared = residual.square() * weight
        fraction, wider = self.fraction, self.log_widening
        # log ε from the logit itself: ε may be too small for float32 to have a logarithm.
        log_fraction = functional.logsigmoid(_PACE * self.fraction_logit) - math.log(2)
        narrow = torch.log1p(-fraction) - 0.5 * squared
        wide = log_fraction - wider - 0.5 * squared * torch.exp(-2 * wider)
        each = torch.where(weight > 0, -2 * torch.logaddexp(narrow, wide), 0.0)
        loss = each.sum(dim=1) / weight.shape[1]
        return Misfit(loss, squared.detach().sum(dim=1), residual.detach())

    @torch.no_grad()
    def learnt(self) -> dict[str, Tensor]:
        """``outlier_fraction`` and ``outlier_widening`` (in σ) of every pixel, shape (pixel,)."""
        return {
            "outlier_fraction": self.fraction.cpu(),
            "outlier_widening": self.log_widening.exp().cpu(),
        }


Loss = Chi2 | GaussianKernel | MixtureDensity


def make_loss(name: LossName, n_pixels: int, kernel_width: float) -> Loss:
    """The loss of a name, on the CPU and as it is before training.

    Parameters
    ----------
    name
        One of `LossName`.
    n_pixels
        Pixels of the grid.
    kernel_width
        Of ``gaussian_kernel``, in σ.
    """
    if name not in get_args(LossName):
        message = f"loss {name!r} is none of {get_args(LossName)}."
        raise UsageError(message)
    if name == "gaussian_kernel":
        return GaussianKernel(kernel_width)
    return MixtureDensity(n_pixels) if name == "mixture_density" else Chi2(name)


def _constant(n: int, value: float) -> nn.Parameter:
    return nn.Parameter(torch.full((n,), value / _PACE))
