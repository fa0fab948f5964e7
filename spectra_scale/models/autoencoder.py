"""The auto-encoder of the paper (§3.1, figure 8; science.md §6), and its use on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.precision import Precision, products_in
from spectra_scale.spectrum.residual_kernels import chi2_sums

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of an auto-encoder's layers; the decoder mirrors the encoder.

    Parameters
    ----------
    n_pixels
        Pixels of a spectrum.
    hidden
        Widths of the hidden layers from the input to the latent.
    n_latent
        Latent dimensions.
    """

    n_pixels: int = 1000
    hidden: tuple[int, ...] = (800, 590)
    n_latent: int = 10

    def __post_init__(self) -> None:
        if not self.hidden or min(self.n_pixels, self.n_latent, *self.hidden) < 1:
            message = (
                f"{self} has a layer without units, or no hidden layer: every size must be at "
                "least 1."
            )
            raise UsageError(message)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Layer sizes from input to latent."""
        return (self.n_pixels, *self.hidden, self.n_latent)

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON can hold them."""
        return {"n_pixels": self.n_pixels, "hidden": list(self.hidden), "n_latent": self.n_latent}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Architecture:
        """Inverse of `to_dict`."""
        hidden = tuple(int(width) for width in fields["hidden"])
        return cls(int(fields["n_pixels"]), hidden, int(fields["n_latent"]))


def _stack(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])  # the last layer is linear


class AutoEncoder(nn.Module):
    """Fully connected auto-encoder with ReLU between layers, linear latent and linear output.

    Missing pixels are fed as `Normalisation` (0, the paper) or `ModelInputs` (a fill) left them.
    With the default sizes it has 2,559,590 parameters (paper §3.1).

    Parameters
    ----------
    n_pixels, hidden, n_latent
        See `Architecture`.
    """

    def __init__(
        self, n_pixels: int = 1000, hidden: Sequence[int] = (800, 590), n_latent: int = 10
    ) -> None:
        super().__init__()
        self.architecture = Architecture(n_pixels, tuple(hidden), n_latent)
        self.encoder = _stack(self.architecture.sizes)
        self.decoder = _stack(self.architecture.sizes[::-1])

    @classmethod
    def of(cls, architecture: Architecture) -> AutoEncoder:
        """Auto-encoder with the given sizes."""
        return cls(architecture.n_pixels, architecture.hidden, architecture.n_latent)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def encode(self, x: Tensor) -> Tensor:
        """Latents of shape (spectrum, n_latent) of normalised flux (spectrum, pixel)."""
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Normalised flux (spectrum, pixel) of latents (spectrum, n_latent)."""
        x: Tensor = self.decoder(z)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of normalised flux, shape (spectrum, pixel)."""
        return self.decode(self.encode(x))


def seeded_autoencoder(architecture: Architecture, seed: int) -> AutoEncoder:
    """Auto-encoder whose starting weights depend on `seed` alone.

    The distribution is that of torch's linear layers, U(-1/√n_in, 1/√n_in). It is drawn on the CPU
    from a generator of its own, so every worker starts with the same weights whatever it
    computed before.

    Parameters
    ----------
    architecture
        Layer sizes.
    seed
        Seed of the weights.

    Returns
    -------
    A model on the CPU.
    """
    model = AutoEncoder.of(architecture)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (*model.encoder, *model.decoder):
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
    return model


def to_tensor(values: Floats, device: torch.device) -> Tensor:
    """Float32 tensor on `device`, sharing memory with `values` where that is possible."""
    # torch warns about arrays that cannot be written to, such as memory maps: those are copied.
    return torch.from_numpy(np.require(values, np.float32, ["C", "W"])).to(device)


class Encoded(NamedTuple):
    """What `encode` gives; row i belongs to input row i.

    Parameters
    ----------
    latents
        Shape (spectrum, n_latent), float32.
    chi2, chi2_valid
        χ² per spectrum, paper eq. 1 and eq. 2, with the ivar that was given; float32.
    reconstruction
        Normalised flux (spectrum, pixel), float32; None unless asked for.
    """

    latents: Floats
    chi2: Floats
    chi2_valid: Floats
    reconstruction: Floats | None


def _encode_batch(
    model: AutoEncoder, flux: Tensor, ivar: Tensor, inpaint_passes: int
) -> tuple[Tensor, Tensor]:
    valid = ivar > 0
    latents = model.encode(flux)
    recon = model.decode(latents)
    for _ in range(inpaint_passes):
        latents = model.encode(torch.where(valid, flux, recon))
        recon = model.decode(latents)
    return latents.float(), recon.float()


@torch.inference_mode()
def encode(  # noqa: PLR0913  # a block of spectra, and how it is done
    model: AutoEncoder,
    flux: Floats,
    ivar: Floats,
    batch_size: int = 1024,
    *,
    want_reconstruction: bool = False,
    inpaint_passes: int = 0,
    precision: Precision = "float32",
) -> Encoded:
    """Encode spectra in batches, on the device of the model.

    Parameters
    ----------
    model
        Trained auto-encoder.
    flux, ivar
        Normalised as the model was trained (`Normalisation.apply`), shape (spectrum, pixel).
        A pixel with ivar 0 is missing; its flux is fed as it is: 0, or a fill.
    batch_size
        Spectra in memory of the device at once.
    want_reconstruction
        Whether to return the reconstructions.
    inpaint_passes
        How often to encode again with missing pixels taken from the last reconstruction
        (science.md §6, after Böhm et al. 2023), so that a latent depends less on which pixels
        were masked. χ² is that of the last reconstruction.
    precision
        Of the network's products; χ² is in float32 either way.

    Returns
    -------
    Latents, χ² of each spectrum and, if wanted, reconstructions.
    """
    _check(model, flux, ivar)
    parts = []
    for start in range(0, len(flux), batch_size):
        f, v = flux[start : start + batch_size], ivar[start : start + batch_size]
        tensors = to_tensor(f, model.device), to_tensor(v, model.device)
        with products_in(precision, model.device):
            z, recon = _encode_batch(model, *tensors, inpaint_passes)
        parts.append(_judged(z, recon.cpu().numpy(), f, v))
    return _joined(model, parts, want_reconstruction=want_reconstruction)


@torch.inference_mode()
def decode_latents(
    model: AutoEncoder,
    latents: Floats,
    flux: Floats,
    ivar: Floats,
    batch_size: int = 1024,
    *,
    precision: Precision = "float32",
) -> Encoded:
    """What `encode` gives, of spectra whose latents are known already.

    Parameters
    ----------
    model
        Trained auto-encoder.
    latents
        Shape (spectrum, n_latent).
    flux, ivar, batch_size, precision
        As of `encode`.

    Returns
    -------
    The same latents, χ² of each spectrum and reconstructions.
    """
    _check(model, flux, ivar)
    parts = []
    for start in range(0, len(flux), batch_size):
        rows = slice(start, start + batch_size)
        z = to_tensor(latents[rows], model.device)
        with products_in(precision, model.device):
            recon = model.decode(z).float()
        parts.append(_judged(z, recon.cpu().numpy(), flux[rows], ivar[rows]))
    return _joined(model, parts, want_reconstruction=True)


def _check(model: AutoEncoder, flux: Floats, ivar: Floats) -> None:
    expected = (len(flux), model.architecture.n_pixels)
    if flux.shape != expected or ivar.shape != expected:
        message = (
            f"encode got flux {flux.shape} and ivar {ivar.shape}, but the model takes spectra of "
            f"{expected[1]} pixels. Prepare the sample on the grid the model was trained on."
        )
        raise SpectraScaleError(message)


def _judged(z: Tensor, recon: Floats, flux: Floats, ivar: Floats) -> Encoded:
    # One compiled pass; torch makes several, each through memory.
    total, n_valid = chi2_sums(recon, flux, ivar)
    eq1 = total / np.float32(flux.shape[1])
    eq2 = (total / np.maximum(n_valid, 1)).astype(np.float32, copy=False)
    return Encoded(z.cpu().numpy(), eq1, eq2, recon)


def _joined(model: AutoEncoder, parts: Sequence[Encoded], *, want_reconstruction: bool) -> Encoded:
    if len(parts) == 1:
        found = parts[0]  # nothing is copied
    else:
        sizes = model.architecture
        shapes = ((0, sizes.n_latent), (0,), (0,), (0, sizes.n_pixels))
        columns = zip(*parts, strict=True) if parts else ((),) * len(shapes)
        found = Encoded(
            *(
                np.concatenate([np.empty(shape, np.float32), *arrays])
                for shape, arrays in zip(shapes, columns, strict=True)
            )
        )
    return found if want_reconstruction else found._replace(reconstruction=None)
