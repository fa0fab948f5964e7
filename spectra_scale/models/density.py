"""Densities of latents: what all have in common, and which of them an artifact holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError

if TYPE_CHECKING:
    from spectra_scale.models.gis import GISSettings
    from spectra_scale.models.refined_fit import RefinedSettings

Floats: TypeAlias = NDArray[np.float64]
Method = Literal["refined", "gis"]


class Density(Protocol):
    """A fitted density: a bijection to a space of simple density, `GIS` or `RefinedFlow`."""

    @property
    def n_dimensions(self) -> int:
        """Dimension D of the data."""

    @property
    def n_layers(self) -> int:
        """Number of layers, without the whitening."""

    def log_prob(self, x: ArrayLike) -> Floats:
        """Log-density of rows, shape (n, D), in nats; shape (n,)."""

    def transform(self, x: ArrayLike) -> tuple[Floats, Floats]:
        """Rows in the simple space, shape (n, D), and log-determinants, shape (n,)."""

    def inverse(self, z: ArrayLike, /) -> Floats:
        """Rows of the simple space back in the data space, shape (n, D)."""

    def sample(self, n: int, generator: np.random.Generator) -> Floats:
        """Rows drawn from the density, shape (n, D)."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the settings, as named arrays."""


def settings_json(settings: GISSettings | RefinedSettings) -> dict[str, Any]:
    """Method and settings as plain JSON values; see `rebuild`."""
    method: Method = "refined" if type(settings).__name__ == "RefinedSettings" else "gis"
    return {"method": method} | settings.to_json()


def rebuild(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> Density:
    """A density from its arrays and `settings_json`.

    Raises
    ------
    SpectraScaleError
        If the method is unknown, or arrays and settings do not make a density.
    """
    method = about.get("method")
    settings = {name: value for name, value in about.items() if name != "method"}
    try:
        if method == "gis":
            from spectra_scale.models.gis import GIS, GISSettings

            return GIS.from_arrays(arrays, GISSettings.from_json(settings))
        if method == "refined":
            from spectra_scale.models.refined import RefinedFlow, RefinedSettings

            return RefinedFlow.from_arrays(arrays, RefinedSettings.from_json(settings))
    except TypeError as error:
        msg = f"The settings of the density are of another version ({error}). Fit it again."
        raise SpectraScaleError(msg) from error
    msg = f"The density's method is {method!r}, expected refined or gis. Fit the density again."
    raise SpectraScaleError(msg)
