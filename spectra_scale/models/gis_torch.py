"""The flow on a device of PyTorch: layers, and the direction search.

The same algorithm as in `gis_spline` and `gis_directions`, written for a device that does many
rows at once. Rows lie with one dimension a row, shape (D, n), and every sum over dimensions or
directions is taken term by term: so what a row gives does not depend on the rows beside it here
either. Next to the CPU's own loops, results differ by rounding.

The fit is in float64: its cost is that of sorting, and the sort ranks float32 keys as on the CPU.
The kernel densities of the slices are made in main memory, from slices sorted on the device. A
fitted flow can be used in float32, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectra_scale.errors import UsageError
from spectra_scale.models.gis_directions import Floats, Point, normal_quantiles
from spectra_scale.models.gis_kde import effective_count
from spectra_scale.models.gis_layers import Layers
from spectra_scale.models.gis_rows import Whitening, trimmed_mean

FlowPrecision = Literal["float64", "float32"]

#: Rows at once: some thirty arrays of 8 directions a row are alive in a layer, 0.5 GB in float64.
BATCH = 2**18


@dataclass(frozen=True, slots=True)
class Place:
    """Where, in which arithmetic and how many rows at once."""

    device: torch.device
    dtype: torch.dtype
    batch: int = BATCH

    @classmethod
    def of(cls, device: str | torch.device, precision: FlowPrecision, batch: int | None) -> Place:
        """Refuse devices that are not there, or that cannot do this arithmetic.

        Raises
        ------
        UsageError
            With torch's own reason.
        """
        types = {"float64": torch.float64, "float32": torch.float32}
        if precision not in types:
            msg = f"precision {precision!r} is none of {sorted(types)}."
            raise UsageError(msg)
        try:
            found = torch.device(device)
            # Whitening is in float64 either way.
            torch.zeros(1, dtype=torch.float64, device=found)
        # Torch says by AssertionError that it was built without a kind of device.
        except (AssertionError, RuntimeError, TypeError, NotImplementedError) as error:
            msg = (
                f"The flow cannot run on device {str(device)!r}: {error} Leave `device` out to "
                "run on the processor."
            )
            raise UsageError(msg) from error
        return cls(found, types[precision], BATCH if batch is None else batch)

    def tensor(self, values: NDArray[np.generic]) -> Tensor:
        """Copy of an array on the device; float64 arrays become this place's type."""
        found = _on_device(values, self.device)
        return found.to(self.dtype) if found.dtype == torch.float64 else found


def _on_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    # torch warns about arrays that cannot be written to: those are copied.
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(device)


@dataclass(frozen=True, slots=True, eq=False)
class Splines:
    """Splines of one layer: knots, values and slopes (K, M), widths and heights (K, M - 1).

    Widths and heights are differences in float64, so that in float32 two knots that fall on the
    same number still have an interval between them.
    """

    knots: Tensor
    values: Tensor
    slopes: Tensor
    widths: Tensor
    heights: Tensor

    @classmethod
    def of(cls, tables: Floats, place: Place) -> Splines:
        """Splines of a layer from its tables, shape (K, 3, M)."""
        knots, values, slopes = tables[:, 0], tables[:, 1], tables[:, 2]
        differences = np.diff(knots, axis=1), np.diff(values, axis=1)
        return cls(*(place.tensor(each) for each in (knots, values, slopes, *differences)))

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Values and slopes of spline k at u[k], shape (K, n)."""
        j, place = self._interval(self.knots, u)
        width, height = self.widths.gather(1, place), self.heights.gather(1, place)
        left, right = self.slopes.gather(1, place), self.slopes.gather(1, place + 1)
        secant = height / width
        xi = ((u - self.knots.gather(1, place)) / width).clamp_(0.0, 1.0)
        across, rest = xi * (1.0 - xi), 1.0 - xi
        below = secant + (right + left - 2.0 * secant) * across
        inside = height * (secant * xi * xi + left * across) / below
        value = self.values.gather(1, place) + inside
        above = right * xi * xi + 2.0 * secant * across + left * rest * rest
        slope = secant * secant * above / (below * below)
        beyond, end, tail = self._tails(j, u)
        line = self.values.gather(1, end) + tail * (u - self.knots.gather(1, end))
        return torch.where(beyond, line, value), torch.where(beyond, tail, slope)

    def inverse(self, y: Tensor) -> Tensor:
        """Points at which spline k has the values y[k], shape (K, n)."""
        j, place = self._interval(self.values, y)
        width, height = self.widths.gather(1, place), self.heights.gather(1, place)
        left, right = self.slopes.gather(1, place), self.slopes.gather(1, place + 1)
        secant = height / width
        rise = y - self.values.gather(1, place)
        bend = right + left - 2.0 * secant
        a = height * (secant - left) + rise * bend
        b = height * left - rise * bend
        c = -secant * rise
        # The true discriminant is never negative; rounding can leave it below zero.
        root = (b * b - 4.0 * a * c).clamp_(min=0.0).sqrt_()
        xi = (-2.0 * c / (b + root)).clamp_(0.0, 1.0)
        beyond, end, tail = self._tails(j, y)
        line = self.knots.gather(1, end) + (y - self.values.gather(1, end)) / tail
        return torch.where(beyond, line, self.knots.gather(1, place) + width * xi)

    def _interval(self, edges: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Number of edges at or below u, and the interval that u lies in or next to."""
        j = torch.searchsorted(edges, u, right=True)
        return j, (j - 1).clamp(0, edges.shape[1] - 2)

    def _tails(self, j: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which u lie outside the knots, and the end knot they are beyond with its slope."""
        last = self.knots.shape[1] - 1
        end = torch.where(j == 0, 0, last)
        return (j == 0) | (j > last), end, self.slopes.gather(1, end)


def project(frame: Tensor, z: Tensor) -> Tensor:
    """``frame @ z`` term by term, of shapes (K, D) and (D, n)."""
    out = frame[:, :1] * z[:1]
    for d in range(1, len(z)):
        out.addcmul_(frame[:, d : d + 1], z[d : d + 1])
    return out


def _push(z: Tensor, frame: Tensor, splines: Splines, logdet: Tensor) -> None:
    """Carry rows, shape (D, n), through one layer and add to log-determinants, both in place."""
    u = project(frame, z)
    value, slope = splines.forward(u)
    z += project(frame.T, value.sub_(u))
    for each in slope.log_():
        logdet += each


def _pull(z: Tensor, frame: Tensor, splines: Splines) -> None:
    """Carry rows, shape (D, n), back through one layer in place."""
    value = project(frame, z)
    z += project(frame.T, splines.inverse(value).sub_(value))


def transform(
    rows: Floats, whitening: Whitening, layers: Layers, place: Place
) -> tuple[Floats, Floats]:
    """`GIS.transform` of checked rows, shape (n, D), on a device."""
    z, logdet = np.empty(rows.shape), np.empty(len(rows))
    loaded = _loaded(layers, place)
    for start in range(0, len(rows), place.batch):
        here = slice(start, start + place.batch)
        part = _whiten(rows[here], whitening, place)
        volume = torch.full(part.shape[1:], whitening.logdet, dtype=place.dtype).to(place.device)
        for frame, splines in loaded:
            _push(part, frame, splines, volume)
        z[here], logdet[here] = part.T.contiguous().cpu().numpy(), volume.cpu().numpy()
    return z, logdet


def inverse(rows: Floats, whitening: Whitening, layers: Layers, place: Place) -> Floats:
    """`GIS.inverse` of checked rows, shape (n, D), on a device."""
    x = np.empty(rows.shape)
    loaded = _loaded(layers, place)[::-1]
    matrix, mean = (_on_device(v, place.device) for v in (whitening.inverse, whitening.mean))
    for start in range(0, len(rows), place.batch):
        here = slice(start, start + place.batch)
        # Turned on the device; a copy even of one row, as it is changed in place.
        part = place.tensor(rows[here]).T.clone(memory_format=torch.contiguous_format)
        for frame, splines in loaded:
            _pull(part, frame, splines)
        found = project(matrix, part.double()) + mean[:, None]
        x[here] = found.T.contiguous().cpu().numpy()
    return x


def _loaded(layers: Layers, place: Place) -> list[tuple[Tensor, Splines]]:
    return [
        (place.tensor(frame), Splines.of(tables, place))
        for frame, tables in zip(layers.frames, layers.tables, strict=True)
    ]


def _whiten(rows: Floats, whitening: Whitening, place: Place) -> Tensor:
    """Whitened rows, shape (D, n): in float64, then in the type of the place."""
    x, mean, matrix = (
        _on_device(v, place.device) for v in (rows, whitening.mean, whitening.matrix)
    )
    return project(matrix, x.T.contiguous() - mean[:, None]).to(place.dtype)


class TorchRows:
    """Rows on a device, on their way through the flow while it is fitted (`gis_layers.Rows`).

    Parameters
    ----------
    rows
        Checked rows, shape (n, D), float64.
    whitening
        Where they start.
    place
        Device; in float64.
    weights
        Positive, of mean 1, shape (n,); None if all rows count alike.
    """

    def __init__(
        self, rows: Floats, whitening: Whitening, place: Place, weights: Floats | None = None
    ) -> None:
        self._place, self._weights = place, weights
        self._on_device = None if weights is None else place.tensor(weights)
        self.z = _whiten(rows, whitening, place)
        self.logdet = torch.full_like(self.z[0], whitening.logdet)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of dimensions."""
        return self.z.shape[1], self.z.shape[0]

    @property
    def effective(self) -> float:
        """Effective number of rows."""
        return effective_count(self._weights, self.shape[0])

    def score(self, trim: float) -> tuple[float, float]:
        """Mean log-density of the rows if the flow ended here, and its `trimmed_mean`."""
        n, dims = self.shape
        square = self.z[0].square()
        for row in self.z[1:]:
            square.addcmul_(row, row)
        found = self.logdet - 0.5 * square - 0.5 * dims * float(np.log(2 * np.pi))
        if self._weights is not None:
            host = found.cpu().numpy()
            return float(np.mean(self._weights * host)), trimmed_mean(host, trim, self._weights)
        dropped = min(max(int(np.ceil(trim * n)), 1), n - 1) if trim > 0 else 0
        trimmed = found.sort().values[dropped:].mean()
        return float(found.mean()), float(trimmed)

    def push(self, frame: Floats, tables: Floats) -> None:
        """Carry the rows through one layer, some at a time."""
        on_device, splines = self._place.tensor(frame), Splines.of(tables, self._place)
        for start in range(0, self.shape[0], self._place.batch):
            here = slice(start, start + self._place.batch)
            _push(self.z[:, here], on_device, splines, self.logdet[here])

    def sample(self, picked: NDArray[np.int64] | None) -> TorchSample:
        """Some of the rows by number, or all, for the direction search."""
        if picked is None:
            return TorchSample(self.z, self._on_device)
        rows = torch.from_numpy(picked).to(self._place.device)
        weights = None if self._on_device is None else self._on_device[rows]
        return TorchSample(self.z[:, rows], weights)

    def slices(self, frame: Floats) -> Iterator[tuple[Floats, Floats | None]]:
        """Yield the projections on each direction, (n,) ascending, and their weights if any."""
        projected = project(self._place.tensor(frame), self.z)
        for values in projected:
            found = values.sort(stable=self._on_device is not None)
            weights = None if self._on_device is None else self._on_device[found.indices]
            yield found.values.cpu().numpy(), None if weights is None else weights.cpu().numpy()


class TorchSample:
    """Rows on a device that the ascent looks at (`gis_directions.Sample`).

    The few numbers of a frame and its gradient go back and forth; the line search waits for one
    number a trial.

    Parameters
    ----------
    rows
        Shape (D, n).
    weights
        Shape (n,), or None.
    """

    def __init__(self, rows: Tensor, weights: Tensor | None) -> None:
        self._rows, self._weights = rows, weights
        quantiles = torch.from_numpy(normal_quantiles(rows.shape[1]))
        self._quantiles = quantiles.to(rows.device)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of dimensions."""
        return self._rows.shape[1], self._rows.shape[0]

    def at(self, frame: Floats) -> Point:
        """Project all rows on the directions, shape (K, D), and compare with the quantiles."""
        projected = torch.from_numpy(frame).to(self._rows.device) @ self._rows
        # Ranked as on the CPU: by float32 keys, ties by position.
        order = projected.float().sort(dim=1, stable=True).indices
        gaps = projected.gather(1, order) - self._goals(order)
        total = self._square(gaps, order).sum()
        return Point(frame, (order, gaps), float(total) / gaps.numel())

    def slopes(self, point: Point) -> Floats:
        """Weighted sum over the rows of residual times row, shape (K, D)."""
        order, gaps = point.residuals
        residuals = torch.empty_like(gaps).scatter_(1, order, gaps)
        if self._weights is not None:
            residuals *= self._weights
        return np.asarray((residuals @ self._rows.T).cpu().numpy())

    def distances(self, point: Point) -> Floats:
        """Mean squared residual of each direction, shape (K,)."""
        order, gaps = point.residuals
        return np.asarray(self._square(gaps, order).mean(dim=1).cpu().numpy())

    def _goals(self, order: Tensor) -> Tensor:
        if self._weights is None:
            return self._quantiles
        ordered = self._weights[order]
        reached = ordered.cumsum(dim=1)
        goals: Tensor = torch.special.ndtri((reached - 0.5 * ordered) / reached[:, -1:])
        return goals

    def _square(self, gaps: Tensor, order: Tensor) -> Tensor:
        return gaps.square() if self._weights is None else self._weights[order] * gaps.square()
