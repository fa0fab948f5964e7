"""Fitting the refined flow: two beginnings, a short race between them, then the whole fit."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from spectra_scale.errors import UsageError
from spectra_scale.models.autoregressive import RefinedLayers
from spectra_scale.models.gis_rows import trimmed_mean
from spectra_scale.models.mixture import Mixture

Floats: TypeAlias = NDArray[np.float64]
Progress: TypeAlias = Callable[[int, dict[str, float]], None]

log = logging.getLogger(__name__)

_CHECKS = 20  # scores of the validation rows in a whole fit
_RACE = 0.25  # share of a whole fit that either beginning is tried for
_WARM_UP = 50  # steps
_MOST_GRADIENT = 10.0  # norm: one far outlier must not throw the fit off
_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class RefinedSettings:
    """What a fit of the refined flow depends on besides the data.

    Parameters
    ----------
    n_layers, hidden
        Masked layers, and the width of the two hidden layers of each.
    epochs
        Passes over the training rows, but for the bounds on steps.
    batch
        Rows a step; an eighth of the rows where there are fewer than eight times as many.
    learning_rate
        Adam's, the greatest: it warms up over 50 steps and falls to 0 along a cosine.
    min_steps, max_steps
        Bounds on the number of steps: small samples are seen more often, huge ones not whole.
    max_components
        Most components of the mixture that the second beginning is.
    trim
        Fraction of the least probable rows that scores leave out.
    seed
        Of the weights, the order of the rows and the mixture.
    """

    n_layers: int = 3
    hidden: int = 96
    epochs: int = 16
    batch: int = 1024
    learning_rate: float = 0.02
    min_steps: int = 400
    max_steps: int = 20_000
    max_components: int = 24
    trim: float = 1e-3
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RefinedSettings:
        """Settings back from `to_json`."""
        return cls(**values)

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises
        ------
        UsageError
            Naming the setting.
        """
        counts = ("n_layers", "hidden", "epochs", "batch", "max_components", "min_steps")
        wrong = [(getattr(self, name) < 1, f"{name} must be at least 1") for name in counts]
        wrong += [
            (self.max_steps < self.min_steps, "max_steps must be at least min_steps"),
            (not 0 < self.learning_rate < math.inf, "learning_rate must be above 0"),
            (not 0 <= self.trim < 1, "trim must lie in [0, 1)"),
        ]
        for fault, rule in wrong:
            if fault:
                msg = f"The settings of the flow cannot be used: {rule}; found {self}."
                raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A look at a fit: log-densities in nats of whitened rows plus the whitening's constant.

    `beginning` is 0 for one Gaussian of three widths and 1 for the mixture of least BIC, `round` 0
    for the race and 1 for the whole fit. `train_mean` is of the batches since the last look.
    """

    round: int
    beginning: int
    step: int
    train_mean: float
    validation_mean: float
    validation_trimmed: float


@dataclass(frozen=True, slots=True, eq=False)
class FitRows:
    """Whitened rows on their device, and the weights of those that are weighted.

    Parameters
    ----------
    train, validation
        Shape (n, D) and (m, D), float32.
    train_weights, validation_weights
        Shape (n,) float32 and (m,) float64, or None.
    constant
        Log-determinant of the whitening.
    """

    train: torch.Tensor
    validation: torch.Tensor
    train_weights: torch.Tensor | None
    validation_weights: Floats | None
    constant: float

    def score(self, layers: RefinedLayers, trim: float) -> tuple[float, float]:
        """Mean and trimmed mean log-density of the validation rows."""
        found = log_prob_of(layers, self.validation).cpu().double().numpy() + self.constant
        mean = float(np.average(found, weights=self.validation_weights))
        return mean, trimmed_mean(found, trim, self.validation_weights)


@dataclass(slots=True, eq=False)
class _Best:
    """The state of best score so far, and whether a step has bettered the beginning."""

    score: float
    state: dict[str, torch.Tensor]
    layers: RefinedLayers
    gained: bool = False


def log_prob_of(layers: RefinedLayers, rows: torch.Tensor) -> torch.Tensor:
    """Log-density of rows, shape (n,), without a graph and in blocks."""
    with torch.no_grad():
        return torch.cat([layers.log_prob(part) for part in torch.split(rows, _BLOCK_ROWS)])


def fit_refined(
    rows: FitRows,
    starts: tuple[Mixture, ...],
    settings: RefinedSettings,
    progress: Progress | None,
) -> tuple[RefinedLayers, tuple[StepRecord, ...]]:
    """Try each beginning for a quarter of the steps, then fit from the better one.

    The state of the best validation score of all is kept. Each beginning counts before its first
    step too, so the flow is never worse than the mixture it began as; and where the race cannot
    better the mixture that wins it, that is the answer and there is no whole fit.

    Parameters
    ----------
    rows
        See `FitRows`.
    starts
        Beginnings.
    settings
        See `RefinedSettings`.
    progress
        Called after each look with the steps done and the fields of the `StepRecord`.
    """
    n = len(rows.train)
    batch = min(settings.batch, max(n // 8, 1))
    most = int(np.clip(settings.epochs * n // batch, settings.min_steps, settings.max_steps))
    few = max(int(_RACE * most), 1)
    history: list[StepRecord] = []

    def run(round_: int, which: int, steps: int) -> _Best:
        def look(step: int, train_mean: float, scores: tuple[float, float]) -> None:
            history.append(StepRecord(round_, which, step, train_mean, *scores))
            if progress is not None:
                progress(len(history), asdict(history[-1]))

        every = max(most // _CHECKS, 1)
        return _ascend(rows, starts[which], settings, (batch, steps, every), look)

    race = [run(0, which, few) for which in range(len(starts))]
    leader = max(range(len(race)), key=lambda which: race[which].score)
    found = race[leader]
    if found.gained:
        found = max(found, run(1, leader, most), key=lambda best: best.score)
    components = starts[leader].n_components
    log.info("refined flow components=%d validation=%.4f", components, found.score)
    found.layers.load_state_dict(found.state)
    return found.layers, tuple(history)


def _ascend(
    rows: FitRows,
    start: Mixture,
    settings: RefinedSettings,
    size: tuple[int, int, int],
    look: Callable[[int, float, tuple[float, float]], None],
) -> _Best:
    """Adam on the log-likelihood of batches; gives the best of all looks at the validation."""
    batch, steps, every = size
    generator = torch.Generator().manual_seed(settings.seed)
    layers = RefinedLayers(start, settings.n_layers, settings.hidden, generator)
    layers.to(rows.train.device)
    optimiser = torch.optim.Adam(layers.parameters(), lr=settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    scores = rows.score(layers, settings.trim)
    look(0, math.nan, scores)
    best = _Best(scores[1], _state_of(layers), layers)
    seen: list[torch.Tensor] = []
    order = torch.empty(0, dtype=torch.int64)
    for step in range(1, steps + 1):
        if len(order) < batch:
            order = torch.randperm(len(rows.train), generator=generator)
        chosen, order = order[:batch].to(rows.train.device), order[batch:]
        seen.append(_step(layers, optimiser, rows, chosen))
        schedule.step()
        if step % every and step < steps:
            continue
        mean = float(torch.stack(seen).mean())
        seen.clear()
        if not math.isfinite(mean):
            log.warning("refined flow diverged step=%d; its best state so far is kept", step)
            break
        scores = rows.score(layers, settings.trim)
        look(step, mean + rows.constant, scores)
        if scores[1] > best.score:
            best = _Best(scores[1], _state_of(layers), layers, gained=True)
    return best


def _step(
    layers: RefinedLayers, optimiser: torch.optim.Optimizer, rows: FitRows, chosen: torch.Tensor
) -> torch.Tensor:
    """One step; gives the batch's mean log-density, still on its device."""
    found = layers.log_prob(rows.train[chosen])
    if rows.train_weights is None:
        mean = found.mean()
    else:
        weights = rows.train_weights[chosen]
        mean = (weights * found).sum() / weights.sum().clamp_min(1e-30)
    optimiser.zero_grad(set_to_none=True)
    (-mean).backward()  # type: ignore[no-untyped-call]  # torch
    torch.nn.utils.clip_grad_norm_(layers.parameters(), _MOST_GRADIENT)
    optimiser.step()
    return mean.detach()


def _rate(step: int, steps: int) -> float:
    """Share of the greatest learning rate."""
    warm = min(1.0, (step + 1) / min(_WARM_UP, steps))
    return warm * 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


def _state_of(layers: RefinedLayers) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in layers.state_dict().items()}
