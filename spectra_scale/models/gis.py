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
from dataclasses import fields
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.gis_layers import (
    Floats,
    Flowing,
    GISSettings,
    LayerRecord,
    Layers,
    Progress,
    Whitening,
    check_fit,
    checked_rows,
    fit_layers,
    trimmed_mean,
    whiten_rows,
    whitened,
)
from spectra_scale.models.gis_spline import layer_forward, layer_inverse, matrix_rows

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
        self._whitening = whitening
        self._layers = layers
        self.settings = settings
        self.history = history

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
    def fit(
        cls,
        x_train: ArrayLike,
        settings: GISSettings | None = None,
        validation: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> GIS:
        """Fit the flow, layer by layer.

        Parameters
        ----------
        x_train
            Training rows, shape (n, D); never changed.
        settings
            Defaults to `GISSettings()`.
        validation
            Rows that score each layer, shape (m, D); needed for an early stop.
        progress
            Called after each layer with the number of layers and the fields of its `LayerRecord`.

        Returns
        -------
        GIS

        Raises
        ------
        SpectraScaleError
            If there are too few rows, rows that are not finite, or a singular covariance.
        """
        settings = GISSettings() if settings is None else settings
        x = checked_rows(x_train, "x_train")
        check_fit(x, settings, validation)
        whitening = whiten_rows(x, whiten=settings.whiten)
        flowing = [whitened(x, whitening)]
        if validation is not None:
            rows = checked_rows(validation, "validation", dims=x.shape[1])
            flowing.append(whitened(rows, whitening))
        layers, history = fit_layers(flowing, settings, progress)
        flow = cls(whitening, layers, settings, history)
        if not settings.early_stop:
            return flow
        best = flow.best_layer
        kept = Layers(layers.frames[:best].copy(), layers.tables[:best].copy())
        log.info("flow stopped layers=%d fitted=%d", len(kept.frames), len(layers.frames))
        return cls(whitening, kept, settings, history)

    def transform(self, x: ArrayLike) -> tuple[Floats, Floats]:
        """Carry data to the normal space.

        Parameters
        ----------
        x
            Rows, shape (n, D); never changed.

        Returns
        -------
        tuple
            z, shape (n, D), and the log-determinants log|dz/dx|, shape (n,). What a row gives does
            not depend on the other rows.
        """
        rows = checked_rows(x, "x", dims=self.n_dimensions)
        flowing = whitened(rows, self._whitening)
        for frame, tables in zip(self._layers.frames, self._layers.tables, strict=True):
            layer_forward(flowing.z, frame, tables, flowing.logdet)
        return flowing.z, flowing.logdet

    def log_prob(self, x: ArrayLike) -> Floats:
        """Log-density of rows x, shape (n, D), in nats per unit volume of x; shape (n,)."""
        return Flowing(*self.transform(x)).log_prob()

    def inverse(self, z: ArrayLike) -> Floats:
        """Carry rows z of the normal space, shape (n, D), back to the data space; shape (n, D)."""
        rows = checked_rows(z, "z", dims=self.n_dimensions).copy()
        for frame, tables in zip(
            self._layers.frames[::-1], self._layers.tables[::-1], strict=True
        ):
            layer_inverse(rows, frame, tables)
        return np.asarray(matrix_rows(rows, self._whitening.inverse) + self._whitening.mean)

    def sample(self, n: int, generator: np.random.Generator) -> Floats:
        """Draw n rows from the density, shape (n, D)."""
        return self.inverse(generator.standard_normal((n, self.n_dimensions)))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the settings as named arrays, for safetensors; see `from_arrays`."""
        names = [field.name for field in fields(LayerRecord)]
        rows = [[float(getattr(record, name)) for name in names] for record in self.history]
        return {
            "mean": self._whitening.mean.copy(),
            "whitening": self._whitening.matrix.copy(),
            "unwhitening": self._whitening.inverse.copy(),
            "whitening_logdet": np.array([self._whitening.logdet]),
            "frames": self._layers.frames.copy(),
            "tables": self._layers.tables.copy(),
            "history": np.array(rows, dtype=np.float64).reshape(-1, len(names)),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], settings: GISSettings) -> GIS:
        """Rebuild a flow from `to_arrays` and its settings.

        Raises
        ------
        SpectraScaleError
            If an array is missing.
        """
        wanted = ("mean", "whitening", "unwhitening", "whitening_logdet", "frames", "tables")
        missing = [name for name in (*wanted, "history") if name not in arrays]
        if missing:
            msg = (
                f"The arrays of the flow lack {', '.join(missing)}; found {sorted(arrays)}. "
                "They are not those that GIS.to_arrays wrote: fit the density again."
            )
            raise SpectraScaleError(msg)
        if np.asarray(arrays["history"]).shape[1:] != (len(fields(LayerRecord)),):
            msg = (
                f"The flow's history has shape {np.asarray(arrays['history']).shape}, expected "
                f"{len(fields(LayerRecord))} columns: another version wrote it. Fit it again."
            )
            raise SpectraScaleError(msg)
        parts = {name: np.array(arrays[name], dtype=np.float64, order="C") for name in wanted}
        whitening = Whitening(
            mean=parts["mean"],
            matrix=parts["whitening"],
            inverse=parts["unwhitening"],
            logdet=float(parts["whitening_logdet"][0]),
        )
        history = tuple(
            LayerRecord(int(row[0]), *(float(value) for value in row[1:]))
            for row in np.asarray(arrays["history"])
        )
        return cls(whitening, Layers(parts["frames"], parts["tables"]), settings, history)


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
