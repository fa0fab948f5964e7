"""The refined flow: whitening, layers refined by maximum likelihood, a Gaussian mixture as base.

Plain GIS (`spectra_scale.models.gis`) is greedy: each layer makes slices Gaussian and never looks
back, which bends one Gaussian into separate clusters and needs many layers for one curved sheet.
Here clusters and heavy tails are the base's, a mixture; the layers in between are fitted together
by gradient ascent of the log-likelihood: ``log p(x) = log mixture(u(x)) + log|du/dx|``. Its space
u is that of the mixture, not of one normal; the way there and back is exact. docs/density.md says
what this gains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, fields
from typing import Any, TypeAlias, final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models.autoregressive import RefinedLayers
from spectra_scale.models.gis_layers import GISSettings, check_fit
from spectra_scale.models.gis_rows import (
    Floats,
    Whitening,
    checked_rows,
    weighted_rows,
    whiten_rows,
)
from spectra_scale.models.gis_spline import matrix_rows
from spectra_scale.models.mixture import (
    CANDIDATES,
    Mixture,
    choose_mixture,
    one_gaussian,
    some_rows,
)
from spectra_scale.models.refined_fit import (
    FitRows,
    Progress,
    RefinedSettings,
    StepRecord,
    fit_refined,
)

__all__ = ["RefinedFlow", "RefinedSettings", "StepRecord"]

Device: TypeAlias = "str | torch.device"

_BLOCK_ROWS = 1024
_DEVICE_ROWS = 65_536
_JUDGES = 100_000  # validation rows that a look scores, of more
_HELD_OUT = 10  # one row in so many scores a fit that was given no validation rows


@final
class RefinedFlow:
    """A fitted refined flow.

    Attributes
    ----------
    settings
        What it was fitted with.
    history
        The looks at the fit, in order.
    mixture
        The base, in the space that `transform` carries to.
    """

    def __init__(
        self,
        whitening: Whitening,
        layers: RefinedLayers,
        settings: RefinedSettings,
        history: tuple[StepRecord, ...],
    ) -> None:
        self._whitening = whitening
        # Fitted in float32, used in float64: an outlier's log-density is a difference of large
        # numbers, and the inverse loses no more than rounding.
        self._layers = layers.double().eval().requires_grad_(requires_grad=False)
        self.mixture = layers.mixture()
        self.settings = settings
        self.history = history

    @property
    def n_dimensions(self) -> int:
        """Dimension D of the data."""
        return len(self._whitening.mean)

    @property
    def n_layers(self) -> int:
        """Number of refined layers."""
        return len(self._layers.layers)

    @property
    def n_components(self) -> int:
        """Components of the base."""
        return self.mixture.n_components

    @classmethod
    def fit(  # noqa: PLR0913 - the data, how to fit, and where to run
        cls,
        x_train: ArrayLike,
        settings: RefinedSettings | None = None,
        validation: ArrayLike | None = None,
        progress: Progress | None = None,
        *,
        weights: ArrayLike | None = None,
        validation_weights: ArrayLike | None = None,
        device: Device | None = None,
    ) -> RefinedFlow:
        """Fit the flow.

        Parameters
        ----------
        x_train
            Training rows, shape (n, D); never changed.
        settings
            Defaults to `RefinedSettings()`.
        validation
            Rows whose log-density says when to stop, shape (m, D). None: every tenth training
            row, which is then not trained on.
        progress
            Called after each look with the number of looks and the fields of its `StepRecord`.
        weights, validation_weights
            Weights of the rows, shapes (n,) and (m,), in any unit; None: all alike.
        device
            A device of torch, such as ``"cuda"``; None is the processor.

        Returns
        -------
        RefinedFlow
            The same for the same rows, settings and device.

        Raises
        ------
        SpectraScaleError
            If there are too few rows, rows that are not finite, or a singular covariance; for
            weights and settings that cannot be used.
        """
        settings = RefinedSettings() if settings is None else settings
        settings.check()
        x, mass = weighted_rows(x_train, weights, "x_train", None)
        if validation is None:
            held = np.arange(len(x)) % _HELD_OUT == _HELD_OUT - 1
            judged = x[held], None if mass is None else mass[held]
            x, mass = x[~held], None if mass is None else mass[~held]
        else:
            judged = weighted_rows(validation, validation_weights, "validation", x.shape[1])
        check_fit(x, GISSettings(), None, mass)
        whitening = whiten_rows(x, whiten=True, weights=mass)
        with _one_thread():
            layers, history = _fit((x, mass), judged, whitening, (settings, device), progress)
        return cls(whitening, layers.cpu(), settings, history)

    def transform(self, x: ArrayLike) -> tuple[Floats, Floats]:
        """Carry data to the space in which they follow the mixture.

        Parameters
        ----------
        x
            Rows, shape (n, D); never changed.

        Returns
        -------
        tuple
            u, shape (n, D), and the log-determinants log|du/dx|, shape (n,). What a row gives does
            not depend on the other rows.
        """
        rows = self._whiten(x, "x")
        u, logdet = np.empty_like(rows), np.full(len(rows), self._whitening.logdet)
        for here, block in _blocks(rows):
            found, volume = self._layers.transform(block)
            n = here.stop - here.start
            u[here] = found.numpy()[:n]
            logdet[here] += volume.numpy()[:n]
        return u, logdet

    def log_prob(self, x: ArrayLike, *, device: Device | None = None) -> Floats:
        """Log-density of rows x, shape (n, D), in nats per unit volume of x.

        Parameters
        ----------
        x
            Rows; none is well, too.
        device
            Where to work; None is the processor.

        Returns
        -------
        numpy.ndarray
            Shape (n,). What a row gives does not depend on the other rows; on a device, to
            rounding.
        """
        rows = self._whiten(x, "x")
        found = np.full(len(rows), self._whitening.logdet)
        place = torch.device("cpu" if device is None else device)
        whole = -(-max(len(rows), 1) // _BLOCK_ROWS) * _BLOCK_ROWS
        size = _BLOCK_ROWS if device is None else min(_DEVICE_ROWS, whole)
        try:
            layers = self._layers.to(place)
            for here, block in _blocks(rows, size):
                scored = layers.log_prob(block.to(place))
                found[here] += scored[: here.stop - here.start].cpu().numpy()
        finally:
            self._layers.cpu()
        return found

    def inverse(self, u: ArrayLike) -> Floats:
        """Carry rows u of the mixture's space, shape (n, D), back to the data space; (n, D)."""
        rows = checked_rows(u, "u", dims=self.n_dimensions)
        z = np.empty_like(rows)
        for here, block in _blocks(rows):
            z[here] = self._layers.inverse(block).numpy()[: here.stop - here.start]
        return np.asarray(matrix_rows(z, self._whitening.inverse) + self._whitening.mean)

    def sample(self, n: int, generator: np.random.Generator) -> Floats:
        """Draw n rows from the density, shape (n, D)."""
        if n < 0:
            msg = f"sample was asked for {n} rows; give 0 or more."
            raise UsageError(msg)
        return self.inverse(self.mixture.sample(n, generator))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the settings as named arrays, for safetensors; see `from_arrays`."""
        state = {f"layers.{k}": v.numpy().copy() for k, v in self._layers.state_dict().items()}
        records = [[float(v) for v in astuple(record)] for record in self.history]
        return state | {
            "mean": self._whitening.mean.copy(),
            "whitening": self._whitening.matrix.copy(),
            "unwhitening": self._whitening.inverse.copy(),
            "whitening_logdet": np.array([self._whitening.logdet]),
            "history": np.array(records).reshape(-1, len(fields(StepRecord))),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], settings: RefinedSettings
    ) -> RefinedFlow:
        """Rebuild a flow from `to_arrays` and its settings.

        Raises
        ------
        SpectraScaleError
            If an array is missing, or shapes do not fit the settings.
        """
        try:
            whitening = Whitening(
                mean=np.array(arrays["mean"], np.float64),
                matrix=np.array(arrays["whitening"], np.float64, order="C"),
                inverse=np.array(arrays["unwhitening"], np.float64, order="C"),
                logdet=float(arrays["whitening_logdet"][0]),
            )
            means = np.asarray(arrays["layers.means"], np.float64)
            dims = means.shape[1]
            if whitening.mean.shape != (dims,) or not (
                whitening.matrix.shape == whitening.inverse.shape == (dims, dims)
            ):
                msg = f"layers of {dims} dimensions, a whitening of {whitening.mean.shape}"
                raise ValueError(msg)
            start = Mixture(
                np.zeros(len(means)),
                means,
                np.tile(np.eye(means.shape[1]), (len(means), 1, 1)),
            )
            generator = torch.Generator().manual_seed(0)
            layers = RefinedLayers(start, settings.n_layers, settings.hidden, generator).double()
            prefix = "layers."
            layers.load_state_dict(
                {
                    name.removeprefix(prefix): torch.from_numpy(np.array(value))
                    for name, value in arrays.items()
                    if name.startswith(prefix)
                }
            )
            history = tuple(
                StepRecord(*(int(v) for v in row[:3]), *(float(v) for v in row[3:]))
                for row in np.asarray(arrays["history"])
            )
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            msg = (
                f"The arrays are not those of a refined flow with these settings ({error}); found "
                f"{sorted(arrays)[:8]}. Fit the density again."
            )
            raise SpectraScaleError(msg) from error
        return cls(whitening, layers, settings, history)

    def _whiten(self, x: ArrayLike, name: str) -> Floats:
        return _whiten(checked_rows(x, name, dims=self.n_dimensions), self._whitening)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small matrices: more threads would add time, and rounding that depends on their number.

    torch keeps a count of its own once anybody has set it, and a library that is loaded later
    than the limit is not limited.
    """
    import sklearn.cluster  # noqa: F401

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _fit(
    train: tuple[Floats, Floats | None],
    judged: tuple[Floats, Floats | None],
    whitening: Whitening,
    how: tuple[RefinedSettings, Device | None],
    progress: Progress | None,
) -> tuple[RefinedLayers, tuple[StepRecord, ...]]:
    """Fit the layers to rows and their weights, judged by other rows and weights."""
    (x, mass), (settings, device) = train, how
    judges, judging = some_rows(*judged, _JUDGES, settings.seed)
    z = _whiten(x, whitening)
    counts = tuple(count for count in CANDIDATES if count <= settings.max_components)
    chosen = choose_mixture(z, weights=mass, seed=settings.seed, candidates=counts)
    rows = FitRows(
        train=_on(z, device),
        validation=_on(_whiten(judges, whitening), device),
        train_weights=None if mass is None else _on(mass, device),
        validation_weights=judging,
        constant=whitening.logdet,
    )
    return fit_refined(rows, (one_gaussian(z, mass), chosen), settings, progress)


def _blocks(rows: Floats, size: int = _BLOCK_ROWS) -> Iterator[tuple[slice, torch.Tensor]]:
    """Blocks of one size, the last filled up: what a row gives depends on the block's shape."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        missing = size - len(part)
        full = np.concatenate([part, np.zeros((missing, rows.shape[1]))]) if missing else part
        yield slice(start, start + len(part)), torch.from_numpy(full)


def _whiten(rows: Floats, whitening: Whitening) -> Floats:
    return np.asarray(matrix_rows(rows - whitening.mean, whitening.matrix))


def _on(values: Floats, device: Device | None) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=device)
