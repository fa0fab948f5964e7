"""What a model is fed: normalised flux, and something in place of missing pixels.

The paper feeds missing pixels as 0 (science.md §6). Where the mask goes with redshift, as at the
ends of the rest-frame range, the latents then learn the mask: with `fill` a missing pixel is fed
the linear baseline's best guess instead, found by weighted least squares from the valid ones, so
that a latent depends less on which pixels were masked. χ² ignores missing pixels either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from spectra_scale.errors import DamagedArtifactError
from spectra_scale.models.autoencoder import AutoEncoder
from spectra_scale.models.baseline import WeightedPCA
from spectra_scale.models.checkpoint import load_model
from spectra_scale.models.normalise import Normalisation, Normalised, scale_in_place
from spectra_scale.provenance import write_bytes

Floats = NDArray[np.float32]
FILL = "fill.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class ModelInputs:
    """From a sample's spectra to what a model is fed; part of the model, stored with it.

    Parameters
    ----------
    normalisation
        How flux is scaled.
    fill
        Linear model that fills missing pixels; None feeds them as 0.
    inpaint
        How often the model wants to be fed again with missing pixels from its reconstruction: 1
        if its last epochs were (`[train] inpaint_epochs`).
    """

    normalisation: Normalisation
    fill: WeightedPCA | None = None
    inpaint: int = 0

    def apply(self, flux: Floats, ivar: Floats) -> Normalised:
        """Normalise spectra and fill their missing pixels.

        Parameters
        ----------
        flux, ivar
            Shape (spectrum, pixel); a pixel with ivar 0 is missing, and its flux may be NaN.

        Returns
        -------
        Normalised
            As `Normalisation.apply`, but flux at missing pixels is the fill, if there is one.
        """
        found = self.normalisation.apply(flux, ivar)
        if self.fill is None or not len(flux):
            return found
        return found._replace(flux=self.fill.fill_missing(found.flux, found.ivar))

    def apply_in_place(self, flux: Floats, ivar: Floats, factor: Floats | None = None) -> None:
        """Do what `apply` does, to the bit, in the arrays themselves.

        Parameters
        ----------
        flux, ivar
            Shape (spectrum, pixel), C-contiguous; a pixel with ivar 0 is missing. Valid pixels
            must be finite.
        factor
            What `Normalisation.factor` gave for these rows, shape (spectrum,); a row with 0 is
            missing throughout. None finds it.
        """
        if factor is None:
            factor = self.normalisation.factor(flux, ivar)
        scale_in_place(flux, ivar, factor)
        if self.fill is not None and len(flux):
            np.copyto(flux, self.fill.fill_missing(flux, ivar), where=ivar == 0)

    def save(self, directory: Path) -> None:
        """Write the fill, if there is one; the normalisation is in ``model.json``."""
        if self.fill is not None:
            arrays = {
                "mean": np.ascontiguousarray(self.fill.mean),
                "components": np.ascontiguousarray(self.fill.components),
            }
            write_bytes(directory / FILL, save(arrays))


def load_encoder(directory: Path) -> tuple[AutoEncoder, ModelInputs]:
    """Read a trained auto-encoder and what it is to be fed.

    Parameters
    ----------
    directory
        Where `save_model` and `ModelInputs.save` wrote.

    Raises
    ------
    DamagedArtifactError
        As `load_model`.
    """
    model, normalisation, metadata = load_model(directory)
    fill = None
    if metadata.get("fill"):
        fill = _read_fill(directory / FILL, model.architecture.n_pixels)
    return model, ModelInputs(normalisation, fill, int(metadata.get("inpaint", 0)))


@lru_cache(maxsize=2)
def load_encoder_once(
    directory: Path, fingerprint: str, device: str
) -> tuple[AutoEncoder, ModelInputs]:
    """Read a model once a process, not once a shard.

    Parameters
    ----------
    directory
        As of `load_encoder`.
    fingerprint
        Of what the model was made from: tells a retrained one.
    device
        Where it is put.
    """
    assert fingerprint
    model, inputs = load_encoder(directory)
    return model.to(device), inputs


def _read_fill(path: Path, n_pixels: int) -> WeightedPCA:
    try:
        arrays = load_file(path)
        mean, components = arrays["mean"], arrays["components"]
    except (OSError, SafetensorError, KeyError) as error:
        message = f"{path} cannot be read ({error}). Delete its directory and run again."
        raise DamagedArtifactError(message) from error
    if mean.shape != (n_pixels,) or components.shape[1:] != (n_pixels,):
        message = (
            f"{path} does not fit the model: found mean {mean.shape} and components "
            f"{components.shape}, expected {n_pixels} pixels. Delete its directory and run again."
        )
        raise DamagedArtifactError(message)
    return WeightedPCA(mean, components)
