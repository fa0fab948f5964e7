"""What a training is handed: its settings, its rows, and its fellow workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from spectra_scale.errors import UsageError
from spectra_scale.models.losses import LossName

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of one training (science.md §6).

    Parameters
    ----------
    epochs
        Passes over the training rows, counted from the start of the training, not of a resume.
    batch_size
        Spectra of a batch over all ranks.
    validation_batch_size
        Spectra of a batch when nothing is learnt.
    learning_rate, gamma
        Adam's step in epoch e (from 0) is ``learning_rate * gamma**e``.
    loss
        ``chi2`` (paper eq. 1), ``chi2_valid`` (eq. 2), or ``batch_masked``, the reference code's
        mean over the valid pixels of a batch.
    snr_cap
        Largest signal to noise of a pixel in the loss; None for no cap.
    variance_scale
        Factor on the variance in the loss, before the cap.
    seed
        Seed of the starting weights (`seeded_autoencoder`); the order of rows has its own.
    checkpoint_every
        Epochs between checkpoints; `train` writes none, see `checkpoint_due`.
    """

    epochs: int
    batch_size: int
    validation_batch_size: int = 512
    learning_rate: float = 1e-3
    gamma: float = 0.99
    loss: LossName = "chi2"
    snr_cap: float | None = 50.0
    variance_scale: float = 1.0
    seed: int = 0
    checkpoint_every: int = 5

    def __post_init__(self) -> None:
        sizes = (self.epochs, self.batch_size, self.validation_batch_size, self.checkpoint_every)
        if min(sizes) < 1:
            message = f"epochs, batch sizes and checkpoint_every must be at least 1: {self}."
            raise UsageError(message)
        cap = 1.0 if self.snr_cap is None else self.snr_cap
        if min(self.learning_rate, self.gamma, self.variance_scale, cap) <= 0:
            message = f"learning_rate, gamma, variance_scale, snr_cap must be positive: {self}."
            raise UsageError(message)
        if self.loss not in get_args(LossName):
            message = f"loss {self.loss!r} is none of {get_args(LossName)}."
            raise UsageError(message)

    def checkpoint_due(self, epoch: int) -> bool:
        """Whether to write a checkpoint once `epoch` epochs are done."""
        return epoch % self.checkpoint_every == 0 or epoch >= self.epochs

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrainSettings:
        """Inverse of `to_dict`."""
        return cls(**fields)


class RowSource(Protocol):
    """Where spectra come from. `take` is called from one background thread at a time."""

    @property
    def n_pixels(self) -> int:
        """Pixels of a spectrum."""
        ...

    def take(self, rows: Rows) -> tuple[Floats, Floats]:
        """Normalised flux and ivar of the rows asked for, float32 (row, pixel), in their order."""
        ...


class Communicator(Protocol):
    """How ranks talk."""

    @property
    def rank(self) -> int:
        """Number of this worker, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Number of workers."""
        ...

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over ranks; the result is the same on every rank."""
        ...

    def broadcast(self, tensor: Tensor) -> None:
        """Replace `tensor` by that of rank 0."""
        ...


@dataclass(frozen=True, slots=True)
class SingleProcess:
    """The only worker: sums and broadcasts are what they are."""

    rank: int = 0
    world_size: int = 1

    def sum_(self, tensor: Tensor) -> None:
        """Leave `tensor` as it is."""

    def broadcast(self, tensor: Tensor) -> None:
        """Leave `tensor` as it is."""


class TorchDistributed:
    """Workers of torch's default process group, which the caller has set up."""

    @property
    def rank(self) -> int:
        """Number of this worker, from 0."""
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        """Number of workers."""
        return dist.get_world_size()

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over ranks."""
        dist.all_reduce(tensor)

    def broadcast(self, tensor: Tensor) -> None:
        """Replace `tensor` by that of rank 0."""
        dist.broadcast(tensor, src=0)
