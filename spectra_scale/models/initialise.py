"""A start that is as good as the linear model: principal components written into the weights.

From random weights the network spends its first thousands of steps on finding the mean spectrum
and the first components, which linear algebra gives in a second. The architecture, and what the
network can become, are those of the paper; only where Adam starts is different, so this is a
setting (`[train] initial`), and the job that follows the paper to the letter does not use it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.autoencoder import AutoEncoder

Doubles = NDArray[np.float64]


@torch.no_grad()
def start_from_components(
    model: AutoEncoder, mean: Doubles, components: Doubles, scale: Doubles
) -> None:
    """Set weights so that the network begins as a projection on components.

    A number a passes a ReLU unharmed as the pair relu(a), relu(−a), so 2k units of each hidden
    layer carry k components. The other units keep their random weights but begin with no say in
    what follows; the gradient gives it to them.

    Parameters
    ----------
    model
        A new auto-encoder; changed in place.
    mean
        Mean normalised flux, shape (pixel,).
    components
        Orthonormal, shape (latent, pixel).
    scale
        Standard deviation of each coefficient, shape (latent,): latents begin with variance 1.

    Raises
    ------
    SpectraScaleError
        If a hidden layer has fewer than two units a latent.
    """
    k = len(components)
    if min(model.architecture.hidden) < 2 * k:
        msg = (
            f"[train] initial = 'linear' needs hidden layers of at least {2 * k} units, two a "
            f"latent; found {model.architecture.hidden}. Widen them, or use initial = 'random'."
        )
        raise SpectraScaleError(msg)
    p, m, s = (torch.as_tensor(np.asarray(v), dtype=torch.float32) for v in
               (components, mean, scale))  # fmt: skip
    encoder = [layer for layer in model.encoder if isinstance(layer, nn.Linear)]
    decoder = [layer for layer in model.decoder if isinstance(layer, nn.Linear)]
    signs = torch.tensor([1.0, -1.0]).repeat(k)
    pairs = torch.zeros(2 * k, k)
    pairs[torch.arange(2 * k), torch.arange(2 * k) // 2] = signs
    into = p / s[:, None]
    # Centred input: W (x − mean) is W x + b with b = −W mean, for all units.
    first = encoder[0]
    first.weight[: 2 * k] = pairs @ into
    first.bias.copy_(-(first.weight @ m))
    for layer in encoder[1:-1]:
        _pass_on(layer, pairs @ pairs.T, 2 * k)
    _read_out(encoder[-1], pairs.T, 2 * k)
    decoder[0].weight[: 2 * k] = pairs
    decoder[0].bias[: 2 * k] = 0
    for layer in decoder[1:-1]:
        _pass_on(layer, pairs @ pairs.T, 2 * k)
    _read_out(decoder[-1], (pairs @ (p * s[:, None])).T, 2 * k)
    decoder[-1].bias.copy_(m)


def _pass_on(layer: nn.Linear, weight: torch.Tensor, n: int) -> None:
    """The first `n` units repeat the first `n` of the layer before."""
    layer.weight[:n] = 0
    layer.weight[:n, :n] = weight
    layer.bias[:n] = 0


def _read_out(layer: nn.Linear, weight: torch.Tensor, n: int) -> None:
    """Output of the first `n` units alone."""
    layer.weight.zero_()
    layer.weight[:, :n] = weight
    layer.bias.zero_()
