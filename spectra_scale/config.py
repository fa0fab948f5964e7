"""The settings of a job: one TOML file, validated before any worker starts.

A job is data. Every table of the file is one of the frozen models below; an unknown name or a
wrong type is refused with the place in the file. Paths are relative to the folder the command is
run in. `docs/settings.md` is made from the descriptions in this module.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
LabelName = Literal[
    "N/A", "star-forming", "composite", "narrow-line AGN", "broad-line", "retired", "passive"
]


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MockSection(Settings):
    """`[mock]`: a release of known truth, written as survey files before anything else."""

    path: Path = Field(description="folder the survey files are written to")
    n_spectra: Positive = Field(5000, description="objects in the release, all classes together")
    n_spec_files: int = Field(200, ge=0, description="of these, written as single spec files")
    n_full_files: int = Field(
        0, ge=0, description="of the single spec files, written with the HDUs of the exposures"
    )
    boss_fraction: Fraction = Field(0.25, description="share observed with the BOSS spectrograph")
    desi_fraction: Fraction = Field(
        0.0, description="share observed with DESI, in healpixels; the rest are legacy spectra"
    )
    sdssv_fraction: Fraction = Field(
        0.0, description="share of SDSS-V: the BOSS spectrograph, one file for each spectrum"
    )
    sdssv_release: Literal["dr18", "dr19", "dr20"] = Field(
        "dr19", description="whose file names and columns the SDSS-V spectra have"
    )
    seed: int = Field(1, ge=0, description="seed of the release; same seed, same files")
    class_fractions: dict[str, float] | None = Field(
        None, description="shares of the kinds of objects, of sum 1; none: the paper's"
    )
    plates: tuple[int, ...] | None = Field(
        None, description="write these plates of the release only; none: all"
    )
    healpix: tuple[int, ...] | None = Field(
        None, description="write these healpixels (nside 64, nested) only; none: all"
    )


class ReleaseSection(Settings):
    """One `[[release]]`: the files of a survey release, ingested once and then immutable.

    Files that come later into the same folders become revisions of it, NAME.1, NAME.2 ...
    """

    name: Name = Field(description="name of the release, for instance dr17")
    source: tuple[Path, ...] = Field((), description="folders with the survey's files")
    catalogue: Path | None = Field(
        None,
        description="specObj, spAll, CAS, zall-pix or Parquet table; none: rows from the files' "
        "own tables",
    )
    survey: Literal["auto", "sdss", "desi"] = Field(
        "auto",
        description="whose spectra are taken: SDSS with all its phases, or DESI; auto: those that "
        "are there, if they are of one of them",
    )
    path: Path | None = Field(
        None, description="where the release is stored; default OUT/releases/NAME"
    )

    @model_validator(mode="after")
    def _no_revision(self) -> ReleaseSection:
        if self.source and re.search(r"\.\d+$", self.name):
            msg = f"found name = {self.name!r}: names with a number after a dot are of revisions"
            raise ValueError(msg)
        return self


class IngestSection(Settings):
    """`[ingest]`: how the releases of a job are taken in."""

    copy_spectra: bool = Field(
        True,
        alias="copy",
        description="store the native spectra; false: catalogue and locators only, spectra are "
        "read from the survey's own files when needed",
    )
    z_min: float | None = Field(
        None, description="rows of a lower redshift are dropped; none: no such cut"
    )
    z_max: float | None = Field(
        None, description="rows of a higher redshift are dropped; none: no such cut"
    )
    classes: tuple[Literal["GALAXY", "QSO", "STAR"], ...] = Field(
        (), description="rows of other pipeline classes are dropped; () keeps all"
    )
    zwarning_zero: bool = Field(False, description="rows with any ZWARNING bit are dropped")

    @model_validator(mode="after")
    def _ordered(self) -> IngestSection:
        low, high = self.z_min, self.z_max
        if low is not None and high is not None and low > high:
            msg = f"need z_min <= z_max, found z_min = {low}, z_max = {high}"
            raise ValueError(msg)
        return self


class LabelSection(Settings):
    """`[label]`: line measurements joined to the releases (science.md §5)."""

    lines: tuple[Path, ...] = Field(
        (),
        description="Portsmouth, CAS, MPA-JHU or FastSpecFit line tables, the first that has an "
        "object wins; "
        "none: the pipeline's own line fits (SPZLINE) stored with the release",
    )


class PrepareSection(Settings):
    """`[prepare]`: rest frame, selection and split (science.md §1-§4)."""

    preset: Literal["conserve", "reference"] = Field(
        "conserve", description="conserve: exact flux-conserving; reference: as the paper's own"
    )
    mask: Literal["auto", "strict", "brightsky", "paper"] = Field(
        "auto",
        description="which SPPIXMASK bits make a pixel missing; auto: strict with conserve, paper "
        "(any bit) with reference",
    )
    n_pixels: Positive = Field(1000, description="pixels of the rest-frame grid, 3388-8318 Å")
    min_coverage: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.5, description="share of a grid pixel that valid native pixels must cover (conserve)"
    )
    deredden: bool = Field(
        False,
        description="correct sample and stacks for Milky Way dust (Fitzpatrick 1999, R_V 3.1, "
        "catalogue EBV); conserve alone",
    )
    z_min: float = Field(0.05, description="lowest redshift kept (inclusive)")
    z_max: float = Field(0.36, description="highest redshift kept (inclusive)")
    use_z_noqso: bool = Field(False, description="take Z_NOQSO where it is filled (BOSS galaxies)")
    zwarning_ignore_bits: tuple[Annotated[int, Field(ge=0, le=31)], ...] = Field(
        (), description="ZWARNING bits that do not remove a spectrum; paper: none"
    )
    classes: tuple[Literal["GALAXY", "QSO", "STAR"], ...] = Field(
        ("GALAXY", "QSO"), description="pipeline classes kept"
    )
    require_primary: bool = Field(True, description="SPECPRIMARY = 1 where the catalogue says")
    require_science_target: bool = Field(
        True, description="TARGETTYPE SCIENCE where it is given: no standard stars, no sky"
    )
    require_good_plate: bool = Field(True, description="PLATEQUALITY good where it is given")
    require_good_fiber: bool = Field(
        True, description="COADD_FIBERSTATUS 0 where it is given (DESI)"
    )
    snr: Literal["snr_total", "snr_median", "snr_mean"] = Field(
        "snr_total", description="which S/N of science.md §3 the cut is on"
    )
    min_snr: float = Field(50.0, description="S/N must be above this")
    max_masked_fraction: Fraction = Field(0.4, description="masked share must be below this")

    @model_validator(mode="after")
    def _ordered(self) -> PrepareSection:
        if not -1.0 < self.z_min < self.z_max:
            msg = f"need -1 < z_min < z_max, found z_min = {self.z_min}, z_max = {self.z_max}"
            raise ValueError(msg)
        if self.deredden and self.preset == "reference":
            msg = "deredden is a setting of preset = 'conserve' (science.md §4): set one of them"
            raise ValueError(msg)
        return self

    @property
    def mask_preset(self) -> Literal["strict", "brightsky", "paper"]:
        """The mask preset that `auto` stands for."""
        if self.mask == "auto":
            return "paper" if self.preset == "reference" else "strict"
        return self.mask


class TrainSection(Settings):
    """`[train]`: the auto-encoder (science.md §6)."""

    hidden: tuple[Positive, ...] = Field((800, 590), description="widths of the hidden layers")
    n_latent: Positive = Field(10, description="latent dimensions")
    epochs: Positive = Field(200, description="passes over the training split")
    batch_size: Positive = Field(32, description="global batch, divided by the workers")
    validation_batch_size: Positive = Field(512, description="batch of the validation pass")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="Adam's, at epoch 1")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="factor on the learning rate after each epoch"
    )
    initial: Literal["random", "linear"] = Field(
        "random", description="weights at the start: random (the paper), or the linear baseline"
    )
    loss: Literal["chi2", "chi2_valid", "batch_masked"] = Field(
        "chi2", description="paper eq. 1, eq. 2, or the mean over valid pixels of the batch"
    )
    normalisation: Literal["auto", "median", "global", "none"] = Field(
        "auto", description="of the input; auto: median with conserve, global with reference"
    )
    fill: Literal["zeros", "linear"] = Field(
        "zeros",
        description="what missing pixels are fed: 0 (the paper), or the linear baseline's guess, "
        "so that latents depend less on the mask",
    )
    snr_cap: Annotated[float, Field(gt=0)] | Literal["off"] = Field(
        50.0, description="loss weights v <= (cap/F)^2; not applied twice with reference"
    )
    variance_scale: Annotated[float, Field(gt=0)] = Field(
        1.0, description="factor on the quoted variances in the loss"
    )
    classes: tuple[LabelName, ...] = Field((), description="train on these labels only; () is all")
    seed: int = Field(1, ge=0, description="of weights and shuffling")
    engine: Literal["ray", "local"] = Field(
        "ray", description="Ray Train workers, or this process without Ray"
    )
    workers: Positive = Field(2, description="data-parallel workers (GPUs where there are any)")
    max_failures: int = Field(2, ge=0, description="restarts of the worker group after a loss")
    checkpoint_every: Positive = Field(5, description="epochs between checkpoints")

    @model_validator(mode="after")
    def _wide_enough(self) -> TrainSection:
        if self.initial == "linear" and min(self.hidden, default=0) < 2 * self.n_latent:
            msg = (
                f"initial = 'linear' needs hidden layers of at least {2 * self.n_latent} units, "
                f"two a latent; found hidden = {list(self.hidden)}"
            )
            raise ValueError(msg)
        return self


class DensitySection(Settings):
    """`[density]`: the GIS flow on the latents (science.md §7)."""

    n_iterations: Positive = Field(200, description="layers")
    n_slices: Positive | None = Field(None, description="slices a layer; default by size")
    subsample: Positive = Field(10_000, description="points of the direction search")
    max_steps: Positive = Field(100, description="ascent steps of the direction search")
    early_stop: bool = Field(
        False, description="stop when the validation likelihood stops improving; paper: off"
    )
    patience: Positive = Field(5, description="layers without improvement before stopping")
    seed: int = Field(1, ge=0, description="of subsamples and directions")


class EmbedSection(Settings):
    """`[embed]`: the two maps (science.md §8)."""

    n_neighbors: Annotated[int, Field(ge=2)] = Field(15, description="UMAP's n_neighbors")
    min_dist: Annotated[float, Field(ge=0)] = Field(0.1, description="UMAP's min_dist")
    n_components: Literal[2, 3] = Field(2, description="dimensions of the map")
    masked_flux: Literal["inpaint", "zeros", "common"] = Field(
        "inpaint", description="masked pixels of the flux map: reconstruction, zero, or left out"
    )
    max_fit: Annotated[int, Field(ge=3)] = Field(
        100_000, description="objects UMAP is fitted on; the others are placed by weighted kNN"
    )
    n_epochs: Positive | None = Field(None, description="UMAP's n_epochs; default by size")
    backend: Literal["auto", "umap-learn", "cuml"] = Field("auto", description="library")
    seed: int = Field(1, ge=0, description="of UMAP and of the subsample")

    @model_validator(mode="after")
    def _enough(self) -> EmbedSection:
        if self.max_fit <= self.n_neighbors:
            msg = (
                f"need max_fit > n_neighbors, found max_fit = {self.max_fit}, "
                f"n_neighbors = {self.n_neighbors}"
            )
            raise ValueError(msg)
        return self


class BoxRegion(Settings):
    """A named box on the map; boundary points are inside."""

    name: Name = Field(description="name of the region, unique in the job")
    sequence: Name = Field("boxes", description="boxes of one sequence stand in order")
    x: tuple[float, float] = Field(description="lowest and highest x on the map")
    y: tuple[float, float] = Field(description="lowest and highest y on the map")

    @model_validator(mode="after")
    def _ordered(self) -> BoxRegion:
        if self.x[0] > self.x[1] or self.y[0] > self.y[1]:
            msg = f"box {self.name}: need x = [low, high] and y = [low, high]"
            raise ValueError(msg)
        return self


class PolygonRegion(Settings):
    """A named polygon on the map; boundary points are inside."""

    name: Name = Field(description="name of the region, unique in the job")
    vertices: Annotated[tuple[tuple[float, float], ...], Field(min_length=3)] = Field(
        description="corners, in order"
    )
    labels: tuple[LabelName, ...] = Field(
        ("broad-line",), description="classes it is restricted to; () is all"
    )


class RegionsSection(Settings):
    """`[regions]`: named sets of objects (science.md §9); automatic where none is given."""

    map: Literal["latents", "flux"] = Field("latents", description="map the regions are drawn on")
    boxes: tuple[BoxRegion, ...] = ()
    polygons: tuple[PolygonRegion, ...] = ()
    automatic: bool = Field(
        True, description="two sequences of eight boxes and six polygons, where none is given"
    )
    min_count: Positive = Field(20, description="objects an automatic box grows to hold")

    @model_validator(mode="after")
    def _named(self) -> RegionsSection:
        names = [*(box.name for box in self.boxes), *(polygon.name for polygon in self.polygons)]
        if len(set(names)) != len(names):
            msg = f"names of boxes and polygons must differ, found {names}"
            raise ValueError(msg)
        return self


class StackSection(Settings):
    """`[stack]`: inverse-variance stacks on the native grid (science.md §9)."""

    mask: Literal["same", "strict", "brightsky", "paper"] = Field(
        "same", description="mask preset; same: that of [prepare]"
    )
    normalise: tuple[float, float] | Literal["off"] = Field(
        "off", description="rest-frame window (Å) whose median scales each spectrum to 1"
    )
    n_bootstrap: int = Field(50, ge=0, description="object resamplings for the errors of indices")
    seed: int = Field(1, ge=0, description="of the bootstrap")


class ReportSection(Settings):
    """`[report]`: the page."""

    title: str = Field("", description="default: the job's name")
    composite: Path | None = Field(
        None, description="Vanden Berk et al. (2001) composite (text: wavelength, flux, error)"
    )
    max_points: Positive = Field(60_000, description="points drawn on a map")


class ComputeSection(Settings):
    """`[compute]`: where tasks run. Recorded, not part of a fingerprint, but for rows a shard."""

    engine: Literal["serial", "threads", "processes", "distributed", "ray"] = Field(
        "threads", description="Dask's scheduler; ray is Dask-on-Ray"
    )
    workers: Positive = Field(2, description="threads or processes on this machine")
    address: str | None = Field(None, description="of a running Dask scheduler (distributed)")
    ray_address: str | None = Field(
        None, description="of a running Ray cluster; none: the one of a Ray job, else a local one"
    )
    gpus_per_worker: Annotated[float, Field(ge=0)] = Field(
        0, description="GPUs of each training worker (Ray)"
    )
    memory_gib: Annotated[float, Field(gt=0)] = Field(
        4.0, description="spectra that a training worker may hold; a larger sample is streamed"
    )
    shard_rows: Positive = Field(4096, description="spectra in one shard: one task, one file")
    chunk_rows: Positive = Field(256, description="spectra in one compressed chunk")

    @model_validator(mode="after")
    def _aligned(self) -> ComputeSection:
        if self.shard_rows % self.chunk_rows:
            msg = (
                f"shard_rows must be a multiple of chunk_rows, found {self.shard_rows} and "
                f"{self.chunk_rows}"
            )
            raise ValueError(msg)
        return self


class ModelsSection(Settings):
    """`[models]`: take trained models from an earlier run instead of training."""

    source: Path | None = Field(None, alias="from", description="run whose models are used")


class Job(Settings):
    """A whole job file."""

    name: Name = Field(description="name of the job, shown in the report")
    out: Path = Field(description="the run's directory")
    limit: Positive | None = Field(None, description="ingest at most this many spectra a release")
    mock: MockSection | None = None
    release: tuple[ReleaseSection, ...] = ()
    ingest: IngestSection = IngestSection.model_construct()
    label: LabelSection = LabelSection()
    prepare: PrepareSection = PrepareSection()
    train: TrainSection = TrainSection()
    density: DensitySection = DensitySection()
    embed: EmbedSection = EmbedSection()
    regions: RegionsSection = RegionsSection()
    stack: StackSection = StackSection()
    report: ReportSection = ReportSection()
    compute: ComputeSection = ComputeSection()
    models: ModelsSection = ModelsSection.model_construct(source=None)

    @model_validator(mode="after")
    def _has_release(self) -> Job:
        if not self.release:
            msg = "a job needs at least one [[release]] table with a name and a source folder"
            raise ValueError(msg)
        names = [release.name for release in self.release]
        if len(set(names)) != len(names):
            msg = f"release names must differ, found {names}"
            raise ValueError(msg)
        return self


def changed_settings(settings: BaseModel) -> dict[str, Any]:
    """Settings that differ from their defaults, as plain JSON values.

    Only these enter a fingerprint, so that a new setting with a default does not make old runs
    stale (design.md §2).
    """
    return settings.model_dump(mode="json", exclude_defaults=True, by_alias=True)
