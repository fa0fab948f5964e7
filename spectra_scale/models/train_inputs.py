"""What a training is handed: its settings, its rows, and its fellow workers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from spectra_scale.errors import UsageError
from spectra_scale.models.misfit import Loss, LossName, make_loss
from spectra_scale.models.precision import Precision

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Schedule = Literal["exponential", "cosine"]
#: How much wider the kernel of `gaussian_kernel` begins, and in which share of the epochs it
#: narrows. Ten widths of 5 σ are the default `snr_cap`, beyond which no residual of an output of 0
#: can lie: the first epoch sees χ².
_SOFT_START, _SOFT_SHARE = 10.0, 0.5


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
    learning_rate, gamma, schedule, warmup_epochs
        Adam's step in epoch e (from 0) is ``learning_rate * gamma**e`` with the schedule
        ``exponential``; with ``cosine`` it falls along half a cosine from `learning_rate` to 0 at
        the end of `epochs`. Either way it rises linearly from 0 in the first `warmup_epochs`.
    loss
        ``chi2`` (paper eq. 1), ``chi2_valid`` (eq. 2), ``batch_masked``, the reference code's
        mean over the valid pixels of a batch, ``gaussian_kernel`` or ``mixture_density``
        (`spectra_scale.models.misfit`).
    kernel_width
        Of ``gaussian_kernel``, in σ. In the first half of the epochs the kernel is wider, by a
        factor that falls from ten: to a narrow one, an untrained network's residuals are all
        outliers, and it would learn nothing from them.
    snr_cap
        Largest signal to noise of a pixel in the loss; None for no cap.
    variance_scale
        Factor on the variance in the loss, before the cap.
    seed
        Seed of the starting weights (`seeded_autoencoder`); the order of rows has its own.
    precision
        Of the matrix products of training: ``bfloat16`` needs hardware that has it to pay.
        Weights, loss, sums and the validation pass are float32 in either case.
    patience, min_gain
        Stop when the validation loss has not fallen by the fraction `min_gain` for `patience`
        epochs, and take the weights of the best; 0 never stops.
    inpaint_epochs
        In the last so many epochs missing pixels are fed the network's own reconstruction of a
        first pass (science.md §6, ``inpaint``).
    checkpoint_every, checkpoint_batches
        Epochs between checkpoints, and batches between those within an epoch (0 for none);
        `train` writes none, it says when they are due.
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
    schedule: Schedule = "exponential"
    warmup_epochs: float = 0.0
    precision: Precision = "float32"
    patience: int = 0
    min_gain: float = 1e-3
    inpaint_epochs: int = 0
    checkpoint_every: int = 5
    checkpoint_batches: int = 0
    kernel_width: float = 5.0

    def __post_init__(self) -> None:
        sizes = (self.epochs, self.batch_size, self.validation_batch_size, self.checkpoint_every)
        if min(sizes) < 1:
            message = f"epochs, batch sizes and checkpoint_every must be at least 1: {self}."
            raise UsageError(message)
        cap = 1.0 if self.snr_cap is None else self.snr_cap
        factors = (self.learning_rate, self.gamma, self.variance_scale, self.kernel_width, cap)
        if min(factors) <= 0:
            message = (
                "learning_rate, gamma, variance_scale, kernel_width and snr_cap must be positive: "
                f"{self}."
            )
            raise UsageError(message)
        for name, kinds in (("loss", LossName), ("schedule", Schedule), ("precision", Precision)):
            if getattr(self, name) not in get_args(kinds):
                message = f"{name} {getattr(self, name)!r} is none of {get_args(kinds)}."
                raise UsageError(message)
        within = 0 <= self.warmup_epochs < self.epochs, 0 <= self.inpaint_epochs <= self.epochs
        if not all(within):
            message = f"warmup_epochs and inpaint_epochs must lie within the epochs: {self}."
            raise UsageError(message)
        if self.patience and self.inpaint_epochs:
            message = (
                "patience would end a training before its last, inpainted epochs: choose one."
            )
            raise UsageError(message)
        if min(self.patience, self.checkpoint_batches, self.min_gain) < 0:
            message = f"patience, min_gain and checkpoint_batches must not be negative: {self}."
            raise UsageError(message)

    def rate(self, epoch: int, batch: int, n_batches: int) -> float:
        """Adam's step of one batch: a function of its place alone, so a resume needs no state.

        Parameters
        ----------
        epoch, batch
            Epochs done, and batches done of the present one.
        n_batches
            Batches of an epoch.
        """
        done = epoch + batch / n_batches
        rise = 1.0
        if self.warmup_epochs > 0:
            # The first batch is to move the weights, too.
            rise = min(1.0, (done + 1 / n_batches) / self.warmup_epochs)
        if self.schedule == "exponential":
            return float(self.learning_rate * self.gamma**epoch * rise)
        left = max(0.0, done - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return float(self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * left)))

    def softness(self, epoch: int) -> float:
        """Factor on the kernel's width in epoch `epoch` (from 0): from 10 down to 1."""
        left = 1 - epoch / (_SOFT_SHARE * self.epochs)
        return float(_SOFT_START ** max(0.0, left))

    @property
    def knows_its_end(self) -> bool:
        """Whether what an epoch does depends on how many are to come."""
        inpaints = self.inpaint_epochs > 0
        return self.schedule == "cosine" or self.loss == "gaussian_kernel" or inpaints

    def loss_for(self, n_pixels: int) -> Loss:
        """The loss as it is before training, on the CPU."""
        return make_loss(self.loss, n_pixels, self.kernel_width)

    def inpaints(self, epoch: int) -> bool:
        """Whether epoch `epoch` (from 0) is one of the second stage."""
        return epoch >= self.epochs - self.inpaint_epochs

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
    """Where spectra come from. `take` is called from one thread at a time."""

    @property
    def n_pixels(self) -> int:
        """Pixels of a spectrum."""
        ...

    @property
    def resident(self) -> bool:
        """Whether rows are at hand, so that reading ahead in another thread gains nothing."""
        ...

    def take(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Normalised flux and ivar of the rows asked for, float32 (row, pixel), in their order.

        Either on the device of the training, or in main memory.
        """
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
