"""GIS, the sliced iterative normalizing flow: a density fitted without back-propagation.

Dai & Seljak 2021, "Sliced Iterative Normalizing Flows" (ICML, arXiv 2007.00674), as the paper uses
it on the latents (science.md section 7; every choice is described in gis.md). Layer by layer it
finds the directions along which the training data are least Gaussian, makes those slices Gaussian
and goes on with the transformed data: ``log p(x) = log N(z; 0, I) + sum of the layers'
log-determinants``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import UsageError
from spectra_scale.models.gis_file import Parts, read_flow, write_flow
from spectra_scale.models.gis_layers import (
    GISSettings,
    LayerRecord,
    Layers,
    Progress,
    Rows,
    check_fit,
    fit_layers,
)
from spectra_scale.models.gis_rows import (
    Floats,
    Flowing,
    Whitening,
    check_batch,
    checked_rows,
    host_batches,
    trimmed_mean,
    weighted_rows,
    whiten_rows,
    whitened,
)
from spectra_scale.models.gis_spline import layer_inverse, matrix_rows

if TYPE_CHECKING:
    import torch

    from spectra_scale.models.gis_torch import FlowPrecision

__all__ = ["GIS", "GISSettings", "LayerRecord", "p_value", "trimmed_mean"]

log = logging.getLogger(__name__)


@final
class GIS:
    """A fitted flow.

    Attributes
    ----------
    settings
        What it was fitted with.
    history
        One `LayerRecord` a layer fitted, layer 0 (the whitening) first. After an early stop it is
        longer than the flow.
    """

    def __init__(
        self,
        whitening: Whitening,
        layers: Layers,
        settings: GISSettings,
        history: tuple[LayerRecord, ...],
    ) -> None:
        self._whitening, self._layers = whitening, layers
        self.settings, self.history = settings, history

    @property
    def _parts(self) -> Parts:
        return Parts(self._whitening, self._layers, self.history)

    @property
    def n_dimensions(self) -> int:
        """Dimension D of the data."""
        return len(self._whitening.mean)

    @property
    def n_layers(self) -> int:
        """Number of layers, without the whitening."""
        return len(self._layers.frames)

    @property
    def frames(self) -> Floats:
        """Orthonormal directions of every layer as rows, shape (layer, K, D)."""
        return self._layers.frames.copy()

    @property
    def best_layer(self) -> int | None:
        """Number of layers with the best trimmed validation score; None without validation."""
        scores = np.array([record.validation_trimmed for record in self.history])
        return None if np.isnan(scores).any() else int(np.argmax(scores))

    @classmethod
    def fit(  # noqa: PLR0913 - the data, how to fit, where to go on from, and where to run
        cls,
        x_train: ArrayLike,
        settings: GISSettings | None = None,
        validation: ArrayLike | None = None,
        progress: Progress | None = None,
        *,
        weights: ArrayLike | None = None,
        validation_weights: ArrayLike | None = None,
        start: GIS | None = None,
        device: str | torch.device | None = None,
        batch: int | None = None,
    ) -> GIS:
        """Fit the flow, layer by layer.

        Parameters
        ----------
        x_train
            Training rows, shape (n, D); never changed.
        settings
            Defaults to those of `start`, or to `GISSettings()`.
        validation
            Rows that score each layer, shape (m, D); needed for an early stop.
        progress
            Called after each layer with the number of layers and the fields of its `LayerRecord`.
        weights, validation_weights
            Weights of the rows, shapes (n,) and (m,), in any unit. Rows whose weight is 0, or less
            than 1e-8 of the mean, are as if absent; n becomes (sum w)^2 / sum w^2 wherever a
            default depends on it. None: all rows count alike.
        start
            A flow fitted before, to go on from: its whitening and its first
            ``settings.n_iterations`` layers are kept and scored on these rows, then layers are
            added. On the same rows, settings and device the result is that of a fit at once, to
            the bit, also where an early stop cut it.
        device
            A device of torch, such as ``"cuda"``. None is the processor, without torch; the two
            differ by rounding, which the search for directions amplifies: see docs/density.md.
        batch
            Rows that a device works on at once; bounds its memory, changes nothing else.

        Returns
        -------
        GIS

        Raises
        ------
        SpectraScaleError
            If there are too few rows, rows that are not finite, or a singular covariance; for
            weights that cannot be used; if the device is not there.
        """
        settings = _settings_of(settings, start)
        dims = None if start is None else start.n_dimensions
        x, mass = weighted_rows(x_train, weights, "x_train", dims)
        check_fit(x, settings, validation, mass)
        if start is None:
            whitening, known = whiten_rows(x, whiten=settings.whiten, weights=mass), None
        else:
            whitening, known = start._whitening, start._layers
        parts = [(x, mass)]
        if validation is not None:
            parts.append(weighted_rows(validation, validation_weights, "validation", x.shape[1]))
        flowing = [_rows_on(part, whitening, device, check_batch(batch)) for part in parts]
        layers, history = fit_layers(flowing, settings, progress, known)
        flow = cls(whitening, layers, settings, history)
        if not settings.early_stop:
            return flow
        best = flow.best_layer
        log.info("flow stopped layers=%s fitted=%d", best, len(layers.frames))
        kept = Layers(layers.frames[:best].copy(), layers.tables[:best].copy())
        return cls(whitening, kept, settings, history)

    def transform(
        self,
        x: ArrayLike,
        *,
        device: str | torch.device | None = None,
        precision: FlowPrecision = "float64",
        batch: int | None = None,
    ) -> tuple[Floats, Floats]:
        """Carry data to the normal space.

        Parameters
        ----------
        x
            Rows, shape (n, D); never changed.
        device
            A device of torch, such as ``"cuda"``; None is the processor, without torch.
        precision
            Of the layers' arithmetic on a device; whitening, and what comes back, is float64.
        batch
            Rows at once; bounds memory, never changes the result.

        Returns
        -------
        tuple
            z, shape (n, D), and the log-determinants log|dz/dx|, shape (n,). What a row gives does
            not depend on the other rows.
        """
        rows = checked_rows(x, "x", dims=self.n_dimensions)
        if device is not None:
            from spectra_scale.models import gis_torch

            place = gis_torch.Place.of(device, precision, check_batch(batch))
            return gis_torch.transform(rows, self._whitening, self._layers, place)
        z, logdet = np.empty(rows.shape), np.empty(len(rows))
        for here in host_batches(len(rows), precision, batch):
            part = whitened(rows[here], self._whitening)
            for frame, tables in zip(self._layers.frames, self._layers.tables, strict=True):
                part.push(frame, tables)
            z[here], logdet[here] = part.z, part.logdet
        return z, logdet

    def log_prob(
        self,
        x: ArrayLike,
        *,
        device: str | torch.device | None = None,
        precision: FlowPrecision = "float64",
        batch: int | None = None,
    ) -> Floats:
        """Log-density of rows, in nats per unit volume of x.

        Parameters
        ----------
        x
            Rows, shape (n, D); none is well, too.
        device, precision, batch
            As of `transform`.

        Returns
        -------
        numpy.ndarray
            Shape (n,).
        """
        found = self.transform(x, device=device, precision=precision, batch=batch)
        return Flowing(*found).log_prob()

    def inverse(
        self,
        z: ArrayLike,
        *,
        device: str | torch.device | None = None,
        precision: FlowPrecision = "float64",
        batch: int | None = None,
    ) -> Floats:
        """Carry rows of the normal space back to the data space.

        Parameters
        ----------
        z
            Shape (n, D); never changed.
        device, precision, batch
            As of `transform`.

        Returns
        -------
        numpy.ndarray
            x, shape (n, D).
        """
        rows = checked_rows(z, "z", dims=self.n_dimensions)
        if device is not None:
            from spectra_scale.models import gis_torch

            place = gis_torch.Place.of(device, precision, check_batch(batch))
            return gis_torch.inverse(rows, self._whitening, self._layers, place)
        x = np.empty(rows.shape)
        for here in host_batches(len(rows), precision, batch):
            part = rows[here].copy()
            for layer in reversed(range(self.n_layers)):
                layer_inverse(part, self._layers.frames[layer], self._layers.tables[layer])
            x[here] = matrix_rows(part, self._whitening.inverse) + self._whitening.mean
        return x

    def sample(
        self,
        n: int,
        generator: np.random.Generator,
        *,
        device: str | torch.device | None = None,
        precision: FlowPrecision = "float64",
        batch: int | None = None,
    ) -> Floats:
        """Draw rows from the density.

        Parameters
        ----------
        n
            How many; 0 is well, too.
        generator
            Draws in the normal space, on the processor: a device gives the same rows to rounding.
        device, precision, batch
            As of `transform`.

        Returns
        -------
        numpy.ndarray
            Shape (n, D).
        """
        if n < 0:
            msg = f"sample was asked for {n} rows; give 0 or more."
            raise UsageError(msg)
        z = generator.standard_normal((n, self.n_dimensions))
        return self.inverse(z, device=device, precision=precision, batch=batch)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the settings as named arrays; see `from_arrays`."""
        return self._parts.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], settings: GISSettings) -> GIS:
        """Rebuild a flow from `to_arrays` and its settings.

        Raises
        ------
        SpectraScaleError
            If an array is missing, or their shapes or values do not make a flow.
        """
        parts = Parts.from_arrays(arrays)
        return cls(parts.whitening, parts.layers, settings, parts.history)

    def save(self, path: str | Path) -> None:
        """Write arrays and settings as one safetensors file, whole or not at all."""
        write_flow(Path(path), self._parts, self.settings)

    @classmethod
    def load(cls, path: str | Path) -> GIS:
        """Read what `save` wrote.

        Raises
        ------
        SpectraScaleError
            If there is no such file, or it is damaged, no flow, or of another version.
        """
        parts, settings = read_flow(Path(path))
        return cls(parts.whitening, parts.layers, settings, parts.history)


def _settings_of(settings: GISSettings | None, start: GIS | None) -> GISSettings:
    """Settings of a fit; refuses those that `start` cannot go on with."""
    if start is None:
        return GISSettings() if settings is None else settings
    settings = start.settings if settings is None else settings
    shape = start._layers.tables.shape
    for name, found in (("n_slices", shape[1]), ("n_knots", shape[3])):
        wanted = getattr(settings, name)
        if wanted not in (None, found):
            msg = (
                f"The flow to go on from has {name} = {found}, the settings ask for {wanted}: all "
                "layers of a flow have the same. Leave the setting out, or fit from nothing."
            )
            raise UsageError(msg)
    return settings


def _rows_on(
    part: tuple[Floats, Floats | None],
    whitening: Whitening,
    device: str | torch.device | None,
    batch: int | None,
) -> Rows:
    """Rows at the start of a fit, in main memory or on a device."""
    rows, weights = part
    if device is None:
        return whitened(rows, whitening, weights)
    from spectra_scale.models.gis_torch import Place, TorchRows

    return TorchRows(rows, whitening, Place.of(device, "float64", batch), weights)


def p_value(log_prob: Floats, validation_log_prob: Floats) -> Floats:
    """Outlier p-value: how rarely a validation row is less probable (science.md section 7).

    Parameters
    ----------
    log_prob
        Log-densities of the objects, any shape, finite.
    validation_log_prob
        Log-densities of the n validation rows, shape (n,), finite.

    Returns
    -------
    numpy.ndarray
        (k + 1) / (n + 1) with k of the n validation rows strictly less probable; shape of
        `log_prob`. At least 1 / (n + 1).

    Examples
    --------
    >>> p_value(np.array([-9.0, -2.0, 0.0]), np.array([-3.0, -2.0, -1.0]))
    array([0.25, 0.5 , 1.  ])
    """
    below = np.searchsorted(np.sort(validation_log_prob), log_prob, side="left")
    return np.asarray((below + 1.0) / (len(validation_log_prob) + 1.0))
