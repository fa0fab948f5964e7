"""Settings of the auto-encoder and its training (science.md §6)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from spectra_scale.config.base import LabelName, Positive, Settings

#: What the preset `fast` sets where a job does not (docs/performance.md has the measurements).
FAST: dict[str, Any] = {
    "epochs": 40,
    "batch_size": 512,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "initial": "linear",
    "precision": "auto",
}


class TrainSection(Settings):
    """`[train]`: the auto-encoder (science.md §6)."""

    preset: Literal["paper", "fast"] = Field(
        "paper",
        description="defaults of the settings below: the paper to the letter, or a large batch, "
        "warm-up, cosine schedule, linear start and bfloat16: the same network and loss, the χ² "
        "of `paper` in a fraction of the time",
    )
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        (800, 590), description="widths of the hidden layers"
    )
    n_latent: Positive = Field(10, description="latent dimensions")
    epochs: Positive = Field(200, description="passes over the training split; fast: 40")
    batch_size: Positive = Field(32, description="global batch, divided by the workers; fast: 512")
    validation_batch_size: Positive = Field(512, description="batch of the validation pass")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="Adam's largest step")
    schedule: Literal["exponential", "cosine"] = Field(
        "exponential",
        description="of the learning rate: times `gamma` after each epoch (the paper), or along "
        "half a cosine to 0; fast: cosine",
    )
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="factor on the learning rate after each epoch"
    )
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(
        0.0, description="epochs in which the learning rate rises from 0; fast: 1"
    )
    initial: Literal["random", "linear"] = Field(
        "random",
        description="weights at the start: random (the paper), or the linear baseline; "
        "fast: linear",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="of matrix products; weights, loss and validation are float32. auto: bfloat16 "
        "where the hardware has it; fast: auto",
    )
    loss: Literal["chi2", "chi2_valid", "batch_masked", "gaussian_kernel", "mixture_density"] = (
        Field(
            "chi2",
            description="what is minimised: paper eq. 1, eq. 2, the mean over valid pixels of the "
            "batch, or one that outlying pixels sway little: correntropy, or a density that takes "
            "a learnt share of each pixel's values for outliers; χ² is reported with all of them",
        )
    )
    kernel_width: Annotated[float, Field(gt=0)] = Field(
        5.0,
        description="residual in σ beyond which `gaussian_kernel` begins to forget a pixel; ten "
        "times as wide at the start, narrowing in the first half of the epochs",
    )
    normalisation: Literal["auto", "median", "global", "none"] = Field(
        "auto", description="of the input; auto: median with conserve, global with reference"
    )
    fill: Literal["zeros", "linear"] = Field(
        "zeros",
        description="what missing pixels are fed: 0 (the paper), or the linear baseline's guess, "
        "so that latents depend less on the mask",
    )
    inpaint_epochs: int = Field(
        0,
        ge=0,
        description="last epochs in which missing pixels are fed the network's own reconstruction "
        "(second stage, after Böhm et al. 2023)",
    )
    snr_cap: Annotated[float, Field(gt=0)] | Literal["off"] = Field(
        50.0, description="loss weights v <= (cap/F)^2; not applied twice with reference"
    )
    variance_scale: Annotated[float, Field(gt=0)] = Field(
        1.0, description="factor on the quoted variances in the loss"
    )
    classes: tuple[LabelName, ...] = Field((), description="train on these labels only; () is all")
    balance: bool = Field(
        False, description="weigh spectra so that every class has the same say in the loss"
    )
    patience: int = Field(
        0,
        ge=0,
        description="stop after so many epochs without a better validation loss, and take the "
        "best weights; 0: never",
    )
    min_gain: Annotated[float, Field(ge=0, lt=1)] = Field(
        1e-3, description="fraction by which the validation loss must fall to count as better"
    )
    seed: int = Field(1, ge=0, description="of weights and shuffling")
    buffer_gib: Annotated[float, Field(gt=0)] = Field(
        0.5, description="spectra shuffled together, over all workers"
    )
    engine: Literal["ray", "local"] = Field(
        "ray", description="Ray Train workers, or this process without Ray"
    )
    workers: Positive = Field(2, description="data-parallel workers (GPUs where there are any)")
    min_workers: Positive | None = Field(
        None, description="go on with as few after losses (elastic); default: all of them"
    )
    max_failures: int = Field(2, ge=0, description="restarts of the worker group after a loss")
    checkpoint_every: Positive = Field(5, description="epochs between checkpoints")
    checkpoint_batches: int = Field(
        2000, ge=0, description="batches between checkpoints within an epoch; 0: none"
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset") != "fast":
            return given
        found = FAST | given
        if "warmup_epochs" not in given and isinstance(found["epochs"], int):
            found["warmup_epochs"] = min(FAST["warmup_epochs"], found["epochs"] / 10)
        return found

    @model_validator(mode="after")
    def _possible(self) -> TrainSection:
        if self.initial == "linear" and min(self.hidden, default=0) < 2 * self.n_latent:
            msg = (
                f"initial = 'linear' needs hidden layers of at least {2 * self.n_latent} units, "
                f"two a latent; found hidden = {list(self.hidden)}"
            )
            raise ValueError(msg)
        if self.warmup_epochs >= self.epochs or self.inpaint_epochs > self.epochs:
            msg = (
                f"warmup_epochs = {self.warmup_epochs:g} and inpaint_epochs = "
                f"{self.inpaint_epochs} must lie within epochs = {self.epochs}"
            )
            raise ValueError(msg)
        if self.patience and self.inpaint_epochs:
            msg = (
                f"patience = {self.patience} would end a training before its last, inpainted "
                f"epochs (inpaint_epochs = {self.inpaint_epochs}): choose one"
            )
            raise ValueError(msg)
        if self.min_workers is not None and self.min_workers > self.workers:
            msg = f"min_workers = {self.min_workers} is more than workers = {self.workers}"
            raise ValueError(msg)
        return self
