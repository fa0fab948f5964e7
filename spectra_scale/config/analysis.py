"""Settings of the stages after the auto-encoder: density, maps, regions, stacks, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spectra_scale.config.base import LabelName, Name, Positive, Settings


class EncodeSection(Settings):
    """`[encode]`: latents, their covariance and χ² of every spectrum (science.md §6)."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the network's products; auto: latents and χ² in float32, the Jacobian of "
        "the covariance in bfloat16 where the hardware has it",
    )
    inpaint: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="how often to encode again with missing pixels taken from the reconstruction; "
        "default: as the model was trained, once with `train.inpaint_epochs`, else never",
    )
    covariance: bool = Field(
        True, description="store the covariance of each object's latents: cov_0_0, cov_0_1 ..."
    )
    batch: Positive = Field(1024, description="spectra encoded at once")


class DensitySection(Settings):
    """`[density]`: the flow on the latents (science.md §7)."""

    method: Literal["refined", "gis"] = Field(
        "refined",
        description="gis: the paper's flow, fitted layer by layer; refined: layers fitted "
        "together by maximum likelihood over a Gaussian mixture",
    )
    epochs: Positive = Field(16, description="refined: passes over the training split")
    max_components: Positive = Field(
        24, description="refined: most components of the mixture it may begin with"
    )
    n_iterations: Positive = Field(200, description="gis: layers")
    n_slices: Positive | None = Field(
        None, description="gis, and by class: slices a layer; default by size"
    )
    subsample: Positive = Field(
        10_000, description="gis, and by class: points of the direction search"
    )
    max_steps: Positive = Field(100, description="gis: ascent steps of the direction search")
    early_stop: bool = Field(
        False, description="gis: stop when the validation likelihood stops improving; paper: off"
    )
    patience: Positive = Field(
        5,
        description="layers without improvement before stopping: gis, and the densities by class",
    )
    conditional: bool = Field(
        True, description="a density for each class too, and the probability of each class"
    )
    conditional_layers: Positive = Field(
        200, description="most layers of the densities of the classes, which stop by themselves"
    )
    seed: int = Field(1, ge=0, description="of the flows: weights, order of the rows, directions")


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


class OutliersSection(Settings):
    """`[outliers]`: who is improbable, and what is wrong with whom (science.md §7)."""

    p_value: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.01, description="an object is an outlier (of the flow, of distance) below this p-value"
    )
    sigma: Annotated[float, Field(gt=0)] = Field(
        5.0,
        description="strength from which a fault is one: distance from the validation split's "
        "median at that S/N, in its widths",
    )
    scan_sigma: float = Field(
        1.0,
        description="strength of the misfit from which other redshifts are tried, or a third of "
        "that of any other fault; outliers of the flow always are",
    )
    redshift_reach: Annotated[float, Field(gt=0.0032, lt=1)] = Field(
        0.14, description="greatest shift of the redshift scan, in log10(1 + z)"
    )
    k: Positive = Field(10, description="distance is that to the k-th nearest training object")
    min_island: Annotated[int, Field(ge=2)] = Field(
        10, description="fewest objects of an island of the map (HDBSCAN's min_cluster_size)"
    )
    island_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.01, description="an island with at most this share of the objects is small"
    )
    max_fit: Annotated[int, Field(ge=3)] = Field(
        20_000, description="objects that islands are looked for in; others go with the nearest"
    )
    seed: int = Field(1, ge=0, description="of the subsamples")


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
