"""Layers refined by maximum likelihood: a linear frame, then a masked autoregressive map.

A layer of the plain flow moves each of its slices by a function of that slice alone, and many are
needed to straighten one bent sheet. Here the shift and the stretch of a slice depend on the slices
before it (masked autoregressive flow, Papamakarios et al. 2017, arXiv 1705.07057, with the masks
of Germain et al. 2015, arXiv 1502.03509):

    s = W x,   x'_d = (s_d - m_d(s_1 .. s_d-1)) exp(a_d(s_1 .. s_d-1)),
    log-determinant = log|det W| + sum_d a_d

W starts as the identity and is free. Layers take the slices in turn forwards and backwards. The
networks see ``s / sqrt(1 + (s / 4)^2)``: far out a layer is a straight map, so an outlier is
neither folded nor lost.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from spectra_scale.models.mixture import Mixture

_SIGHT = 4.0  # standard deviations beyond which the networks see no difference
_MOST_STRETCH = 2.0  # greatest |a_d|: a factor of 7 a layer


class MaskedLayer(nn.Module):
    """One layer in D dimensions, the identity at first.

    Parameters
    ----------
    dims, hidden
        D, at least 2, and the width of the two hidden layers.
    backwards
        Take the slices from the last to the first.
    generator
        Draws the starting weights.
    """

    inner: torch.Tensor
    first_mask: torch.Tensor
    last_mask: torch.Tensor

    def __init__(
        self, dims: int, hidden: int, generator: torch.Generator, *, backwards: bool
    ) -> None:
        super().__init__()
        order = torch.arange(dims)
        self.order = [int(d) for d in (order.flip(0) if backwards else order)]
        rank = order.flip(0) if backwards else order
        unit = torch.arange(hidden) % max(dims - 1, 1)
        # A hidden unit of rank r sees the slices up to r; slice d is moved by units below it.
        self.register_buffer("first_mask", (unit[:, None] >= rank).float(), persistent=False)
        self.register_buffer("inner", (unit[:, None] >= unit).float(), persistent=False)
        last = (rank[:, None] > unit).float()
        self.register_buffer("last_mask", torch.cat([last, last]), persistent=False)
        self.frame = nn.Parameter(torch.eye(dims))
        self.weights = nn.ParameterList(
            [
                _drawn((hidden, dims), generator),
                _drawn((hidden, hidden), generator),
                torch.zeros(2 * dims, hidden),
            ]
        )
        self.biases = nn.ParameterList(
            [torch.zeros(hidden), torch.zeros(hidden), torch.zeros(2 * dims)]
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows, shape (n, D), one layer on, and their log-determinants, shape (n,)."""
        s = x @ self.frame.T
        shift, stretch = self._moves(s)
        volume = torch.linalg.slogdet(self.frame).logabsdet
        return (s - shift) * torch.exp(stretch), volume + stretch.sum(dim=1)

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        """Rows, shape (n, D), one layer back: a slice at a time, each given those before."""
        s = torch.zeros_like(y)
        for d in self.order:
            shift, stretch = self._moves(s)
            s[:, d] = y[:, d] * torch.exp(-stretch[:, d]) + shift[:, d]
        back: torch.Tensor = torch.linalg.solve(self.frame, s.T).T
        return back

    def _moves(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = s / torch.sqrt(1 + (s / _SIGHT) ** 2)
        masks = (self.first_mask, self.inner, self.last_mask)
        for i, (weight, bias, mask) in enumerate(
            zip(self.weights, self.biases, masks, strict=True)
        ):
            seen = nn.functional.linear(seen, weight * mask, bias)
            if i < 2:
                seen = nn.functional.silu(seen)
        shift, stretch = seen.chunk(2, dim=1)
        return shift, _MOST_STRETCH * torch.tanh(stretch / _MOST_STRETCH)


class RefinedLayers(nn.Module):
    """Masked layers over a Gaussian mixture, all of it trainable.

    Parameters
    ----------
    start
        The mixture it begins as.
    n_layers, hidden
        Layers, and the width of their networks.
    generator
        Draws the starting weights.
    """

    def __init__(
        self, start: Mixture, n_layers: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        dims = start.means.shape[1]
        self.layers = nn.ModuleList(
            MaskedLayer(dims, hidden, generator, backwards=i % 2 == 1) for i in range(n_layers)
        )
        roots = torch.as_tensor(start.roots, dtype=torch.float32)
        self.log_weights = nn.Parameter(torch.as_tensor(start.log_weights, dtype=torch.float32))
        self.means = nn.Parameter(torch.as_tensor(start.means, dtype=torch.float32))
        self.above = nn.Parameter(torch.triu(roots, 1))
        self.log_diagonal = nn.Parameter(
            torch.log(torch.diagonal(roots, dim1=1, dim2=2)).contiguous()
        )

    def transform(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows, shape (n, D), to where they follow the mixture, and log-determinants, (n,)."""
        logdet = x.new_zeros(len(x))
        for layer in self.layers:
            x, more = layer(x)
            logdet = logdet + more
        return x, logdet

    def inverse(self, u: torch.Tensor) -> torch.Tensor:
        """Rows that follow the mixture back to where they came from, shape (n, D)."""
        for layer in reversed(self.layers):
            assert isinstance(layer, MaskedLayer)
            u = layer.inverse(u)
        return u

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Log-density of rows, shape (n,)."""
        u, logdet = self.transform(x)
        return logdet + self._base(u)

    def mixture(self) -> Mixture:
        """The mixture as it is now."""
        log_weights = torch.log_softmax(self.log_weights.detach().double(), 0)
        parts = (log_weights, self.means.detach().double(), self._roots().detach().double())
        return Mixture(*(part.cpu().numpy() for part in parts))

    def _roots(self) -> torch.Tensor:
        return torch.triu(self.above, 1) + torch.diag_embed(torch.exp(self.log_diagonal))

    def _base(self, u: torch.Tensor) -> torch.Tensor:
        roots = self._roots()
        n_components, dims = self.means.shape
        flat = roots.permute(1, 0, 2).reshape(dims, -1)
        offset = torch.einsum("cd,cde->ce", self.means, roots).reshape(-1)
        y = (u @ flat - offset).view(-1, n_components, dims)
        weight = torch.log_softmax(self.log_weights, 0) + self.log_diagonal.sum(1)
        parts = weight - 0.5 * y.square().sum(2)
        return torch.logsumexp(parts, 1) - 0.5 * dims * math.log(2 * math.pi)


def _drawn(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Weights uniform within 1/sqrt(inputs), as torch's own linear layers begin."""
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(shape[1])
