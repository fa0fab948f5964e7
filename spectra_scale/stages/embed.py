"""Embed: UMAP of flux or of latents, every object placed on the map (science.md §8).

UMAP is fitted on the training split (or on a seeded subsample of it); every other object is
placed by weighted kNN in the fitted set: deterministic, in parallel, the same in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import EmbedSection, changed_settings
from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import write_bytes
from spectra_scale.store.arrays import Shard
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import column, columns_of, read_objects, write_objects
from spectra_scale.store.run import OBJECTS
from spectra_scale.store.sample import Sample, read_rest

VERSION = 1
MAP = "map.safetensors"
Floats = NDArray[np.float32]
What = Literal["flux", "latents"]


@dataclass(frozen=True, slots=True)
class EmbedInputs:
    """Inputs of `run`.

    Parameters
    ----------
    sample, autoencoder, latents
        The sample, the auto-encoder and the latents it gave.
    fitted
        Map of an earlier run, to place objects on; None fits a new one.
    """

    sample: Sample
    autoencoder: Artifact
    latents: Artifact
    fitted: Artifact | None = None


def recipe(what: What, latents: str, config: EmbedSection, fitted: str | None) -> Recipe:
    """What a map is made from. The latents' fingerprint stands for sample and model too."""
    settings = changed_settings(config)
    if what == "latents":
        settings.pop("masked_flux", None)
    if fitted is None:
        return Recipe(f"embed-{what}", VERSION, settings, {"latents": latents})
    kept = {k: v for k, v in settings.items() if k in ("masked_flux", "n_neighbors")}
    return Recipe(f"embed-{what}", VERSION, kept, {"latents": latents, "fitted": fitted})


def run(
    inputs: EmbedInputs, config: EmbedSection, place: Place, out: Path, recipe: Recipe
) -> Artifact:
    """Fit a map, or take a fitted one, and place every object on it.

    Parameters
    ----------
    inputs
        What is embedded, and what gives the flux of masked pixels.
    config
        `[embed]`.
    place
        Where objects are read and placed, one task a shard.
    out
        Directory of the artifact: ``map.safetensors`` (the arrays the map is made of) and
        ``objects/`` with ``flux_map_0`` … or ``latent_map_0`` … and `fitted`.
    recipe
        What it is made from.

    Raises
    ------
    SpectraScaleError
        If there are no more objects to fit on than neighbours.
    """
    done = begin(out, recipe)
    if done:
        return done
    what: What = "flux" if recipe.kind == "embed-flux" else "latents"
    sample = inputs.sample
    table = read_objects(inputs.latents.path / OBJECTS, sample.index)
    usable = column(table, "usable").astype(bool)
    features = _features(what, inputs, table, config)
    metrics: dict[str, float] = {}
    fitted_rows = np.zeros(len(usable), dtype=bool)
    if inputs.fitted is None:
        fitted_rows = _fit_rows(sample.training_rows() & usable, config)
        arrays, metrics = _fit(features, fitted_rows, sample.shards, config)
    else:
        arrays = load_file(inputs.fitted.path / MAP)
        arrays.pop("pixels")
    write_bytes(out / MAP, save(arrays | {"pixels": features.pixels}))
    shards = sample.shards
    work = Work(f"embed {what} (place)", "spectra", [shard.n_rows for shard in shards])
    locate = partial(_place_shard, features, (out / MAP).resolve(), config.n_neighbors)
    coordinates = np.concatenate(place.map(locate, shards, work))
    coordinates[~usable] = np.nan
    name = "flux_map" if what == "flux" else "latent_map"
    columns = {name: coordinates, f"{name}_fitted": fitted_rows}
    write_objects(out / OBJECTS, sample.index, columns)
    counts = {
        "rows": len(usable),
        "placed": int(usable.sum()),
        "fitted on": int(fitted_rows.sum()),
    }
    return finish(out, recipe, counts=counts, metrics=metrics, where={"place": place.name})


def _features(what: What, inputs: EmbedInputs, table: pa.Table, config: EmbedSection) -> _Features:
    everything = np.arange(inputs.sample.grid.n_pixels)
    return _Features(
        what=what,
        arrays=inputs.sample.arrays.resolve(),
        model=inputs.autoencoder.path.resolve(),
        latents=columns_of(table, "latent").astype(np.float32),
        inpaint=config.masked_flux == "inpaint",
        passes=int(inputs.latents.metrics["inpaint"]),
        pixels=_common_pixels(inputs) if config.masked_flux == "common" else everything,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Features:
    """What the map is made of, by row; spectra are read where they are needed."""

    what: What
    arrays: Path
    model: Path
    latents: Floats
    inpaint: bool
    passes: int
    pixels: NDArray[np.int64]

    def of(self, rows: slice) -> Floats:
        """Features of some rows, shape (row, feature)."""
        if self.what == "latents":
            return self.latents[rows]
        from spectra_scale.models.autoencoder import encode
        from spectra_scale.models.inputs import load_encoder

        model, inputs_ = load_encoder(self.model)
        flux, ivar, _, _ = inputs_.apply(*read_rest(self.arrays, rows))
        if self.inpaint:
            found = encode(model, flux, ivar, want_reconstruction=True, inpaint_passes=self.passes)
            assert found.reconstruction is not None
            flux = np.where(ivar > 0, flux, found.reconstruction)
        else:
            flux = np.where(ivar > 0, flux, np.float32(0))
        return flux[:, self.pixels]


#: Share of the spectra that must have a pixel for it to be common.
COMMON = 0.99


def _common_pixels(inputs: EmbedInputs) -> NDArray[np.int64]:
    """Pixels that nearly all spectra have, from the sums that encode left behind."""
    if inputs.fitted is not None:
        return np.asarray(load_file(inputs.fitted.path / MAP)["pixels"], dtype=np.int64)
    sums = load_file(inputs.latents.path / "residuals.safetensors")["count"].sum(axis=(0, 1))
    pixels = np.flatnonzero(sums >= COMMON * inputs.latents.counts["usable"])
    if len(pixels) < 2:
        msg = (
            f"[embed] masked_flux = 'common': found {len(pixels)} pixels that {COMMON:.0%} of the "
            "spectra have, expected at least 2. Narrow the redshift range, or use 'inpaint'."
        )
        raise SpectraScaleError(msg)
    return pixels


def _fit_rows(candidates: NDArray[np.bool_], config: EmbedSection) -> NDArray[np.bool_]:
    rows = np.flatnonzero(candidates)
    if len(rows) > config.max_fit:
        rng = np.random.default_rng(config.seed)
        rows = np.sort(rng.choice(rows, config.max_fit, replace=False))
    if len(rows) <= config.n_neighbors:
        msg = (
            f"found {len(rows)} objects to fit the map on, expected more than n_neighbors = "
            f"{config.n_neighbors}. Lower [embed] n_neighbors, or add spectra."
        )
        raise SpectraScaleError(msg)
    chosen = np.zeros(len(candidates), dtype=bool)
    chosen[rows] = True
    return chosen


def _fit(
    features: _Features, chosen: NDArray[np.bool_], shards: Sequence[Shard], config: EmbedSection
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    from spectra_scale.models.embedding import FittedMap, MapSettings
    from spectra_scale.models.map_quality import quality

    # Shard by shard, so that only what is fitted is held.
    x = np.concatenate([features.of(shard.rows)[chosen[shard.rows]] for shard in shards])
    settings = MapSettings(
        n_neighbors=config.n_neighbors,
        min_dist=config.min_dist,
        n_components=config.n_components,
        n_epochs=config.n_epochs,
        max_fit=len(x),
        seed=config.seed,
        backend=config.backend,
    )
    fitted = FittedMap.fit(x, settings)
    found = quality(x, fitted.coordinates, k=config.n_neighbors, seed=config.seed)
    return fitted.to_arrays(), {
        "trustworthiness": found.trustworthiness,
        "neighbour_overlap": found.neighbour_overlap,
        "quality over rows": found.n_rows,
    }


def _place_shard(features: _Features, map_file: Path, k: int, shard: Shard) -> Floats:
    from spectra_scale.models.embedding import FittedMap

    arrays = load_file(map_file)
    arrays.pop("pixels")
    return FittedMap.from_arrays(arrays).place(features.of(shard.rows), k)
