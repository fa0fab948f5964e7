"""What a training says of itself: a record an epoch, and where it stands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.autoencoder import AutoEncoder
from spectra_scale.models.misfit import Loss
from spectra_scale.models.train_inputs import Rows, TrainSettings

# Names of the sums kept over spectra, in their order; `rows` is what the others are divided by.
SUMS = ("chi2", "chi2_valid", "chi2_uncapped", "chi2_valid_uncapped", "loss", "rows")

#: What the names of a loss's own parameters begin with, where they are kept beside the network's.
_OF_LOSS = "loss."


class DivergedError(SpectraScaleError):
    """A loss that is not finite, or that grows instead of falling.

    Parameters
    ----------
    message
        What was found, where, and what to do.
    rows
        Rows of the sample with the largest loss in the last batch, the worst first.
    """

    def __init__(self, message: str, rows: Rows) -> None:
        super().__init__(message)
        self.message, self.rows = message, rows

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors of workers are pickled by Ray."""
        return (DivergedError, (self.message, self.rows))


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one epoch gave; all χ² are means over spectra.

    Parameters
    ----------
    epoch
        Epochs done, so the first is 1.
    learning_rate
        Adam's step at the end of this epoch.
    train_chi2, train_chi2_valid
        Paper eq. 1 and 2 of the training rows, with the loss's ivar (cap and variance scale). A
        running mean: each batch is taken before the step it causes, so early in a training it
        lies above what `evaluate` gives afterwards.
    train_chi2_uncapped, train_chi2_valid_uncapped
        The same with the ivar of the sample: neither cap nor variance scale.
    validation_chi2, validation_chi2_valid
        All validation rows with the weights at the end of the epoch, ivar as in the loss, in
        float32 whatever the precision of training.
    validation_chi2_uncapped, validation_chi2_valid_uncapped
        The same with the ivar of the sample.
    train_loss, validation_loss
        What is minimised, before row weights; a χ² again if that is what is minimised (for
        ``batch_masked`` eq. 1). The kernel of ``gaussian_kernel`` has its final width in
        validation.
    rows
        Training rows of the epoch over all ranks.
    seconds
        Wall time of training and validation; after a resume within an epoch, of its rest.
    data_seconds, reduce_seconds
        Wall time of it spent waiting for rows, and on sums over ranks; mean over ranks. On a GPU
        work runs on while the CPU waits, so these are what the CPU saw.
    cpu_seconds
        CPU time of it, all threads, summed over ranks.
    memory_mib
        Largest resident memory of a rank so far.
    """

    epoch: int
    learning_rate: float
    train_chi2: float
    train_chi2_valid: float
    train_chi2_uncapped: float
    train_chi2_valid_uncapped: float
    train_loss: float
    validation_chi2: float
    validation_chi2_valid: float
    validation_chi2_uncapped: float
    validation_chi2_valid_uncapped: float
    validation_loss: float
    rows: int
    seconds: float = 0.0
    data_seconds: float = 0.0
    reduce_seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mib: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EpochRecord:
        """Inverse of `to_dict`."""
        return cls(**fields)


@dataclass(slots=True, eq=False)
class TrainState:
    """Where a training stands, beside the weights: all that a resume needs.

    The order of rows is a function of the seed and the epoch, and the learning rate one of the
    epoch and the batch, so neither has a state of its own.

    Parameters
    ----------
    optimiser
        Adam with its moments.
    loss
        What is minimised, with its parameters, if it has any.
    epoch
        Epochs done.
    batch
        Batches done of the next epoch.
    totals
        `SUMS` over these batches and all ranks.
    history
        One record an epoch.
    start_chi2
        χ² of the validation rows before the first step, by which growth is told.
    best
        Weights after the best epoch so far, by the validation loss; only with early stopping.
    best_epoch
        That epoch; 0 before the first.
    """

    optimiser: torch.optim.Adam
    loss: Loss
    epoch: int = 0
    batch: int = 0
    totals: list[float] = field(default_factory=lambda: [0.0] * len(SUMS))
    history: list[EpochRecord] = field(default_factory=list)
    start_chi2: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0


def learnt(model: AutoEncoder, loss: Loss) -> dict[str, nn.Parameter]:
    """All that a training learns, by name: the network first, then what is the loss's own."""
    own = {f"{_OF_LOSS}{name}": value for name, value in loss.named_parameters()}
    return dict(model.named_parameters()) | own


def new_state(model: AutoEncoder, settings: TrainSettings) -> TrainState:
    """State of a training that has not begun; the model must be on its device already."""
    loss = settings.loss_for(model.architecture.n_pixels).to(model.device)
    parameters = list(learnt(model, loss).values())
    # The fused kernel updates all weights in one pass, several times faster than the plain loop.
    return TrainState(torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True), loss)
