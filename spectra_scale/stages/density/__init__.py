"""Density: a flow on the latents, log_prob and p-value of every object (science.md §7)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spectra_scale.config import DensitySection, changed_settings
from spectra_scale.stages.density import drifting
from spectra_scale.stages.density.classes import Rows, classify
from spectra_scale.stages.density.fitting import HISTORY, fit, keep, load_flow
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import column, columns_of, read_objects, write_objects
from spectra_scale.store.run import OBJECTS
from spectra_scale.store.sample import Sample
from spectra_scale.store.tables import read_table

__all__ = ["DensityInputs", "history_of", "load_flow", "recipe", "run"]

VERSION = 5
KIND = "density"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DensityInputs:
    """Inputs of `run`.

    Parameters
    ----------
    sample, latents
        The sample and its latents.
    fitted
        Density of an earlier run, to score with; None fits a new one.
    """

    sample: Sample
    latents: Artifact
    fitted: Artifact | None = None


def recipe(latents: str, config: DensitySection, fitted: str | None) -> Recipe:
    """What the density is made from."""
    if fitted is None:
        return Recipe(KIND, VERSION, changed_settings(config), {"latents": latents})
    return Recipe(KIND, VERSION, {}, {"latents": latents, "fitted": fitted})


def run(inputs: DensityInputs, config: DensitySection, out: Path, recipe: Recipe) -> Artifact:
    """Fit the flow on the training split, or take a fitted one, and score every object.

    Parameters
    ----------
    inputs
        Sample, latents and, to score with an earlier run's flow, that run's density.
    config
        `[density]`.
    out
        Directory of the artifact: ``flow.safetensors``, ``history.parquet`` and ``objects/`` with
        `log_prob`, `p_value` and `in_training` (such rows are optimistic). With `conditional`
        also ``conditional.safetensors`` and the posterior of each class; with a fitted density
        ``drift.json``.
    recipe
        What it is made from.
    """
    done = begin(out, recipe)
    if done:
        return done
    from spectra_scale.models.gis import p_value

    index = inputs.sample.index
    fitted = None if inputs.fitted is None else inputs.fitted.path
    table = read_objects(inputs.latents.path / OBJECTS, index)
    latents = columns_of(table, "latent").astype(np.float64)
    usable = column(table, "usable").astype(bool)
    training = inputs.sample.training_rows() & usable
    validation = inputs.sample.validation_rows() & usable
    metrics: dict[str, Any] = {}
    if fitted is None:
        flow, metrics = fit(latents[training], latents[validation], config, out)
        reference = flow.log_prob(latents[validation])
    else:
        flow, reference = load_flow(fitted)
        training = np.zeros(len(usable), dtype=bool)
    log_prob = np.full(len(latents), np.nan)
    log_prob[usable] = flow.log_prob(latents[usable])
    p = np.full(len(latents), np.nan)
    p[usable] = p_value(log_prob[usable], reference)
    keep(flow, reference, out)
    # A superseded reduction or a repeat of a training object is as optimistic as the object.
    seen = (column(index, "split") == "train") & usable & (fitted is None)
    rows = Rows(latents, column(index, "label").astype(np.int64), usable, training, validation)
    by_class, metrics["conditional"] = classify(rows, config, fitted, out)
    if fitted is None:
        judges = drifting.scored(index, latents, log_prob, validation)
        drifting.keep_reference(out, judges, config.seed)
    else:
        once = usable & ~column(index, "superseded").astype(bool)
        new = drifting.scored(index, latents, log_prob, once)
        metrics["drift"] = drifting.compare(fitted, new, out)
    columns = {"log_prob": log_prob, "p_value": p, "in_training": seen} | by_class
    write_objects(out / OBJECTS, index, columns)
    means = {
        f"mean log_prob {name}": float(np.mean(log_prob[rows])) if rows.any() else None
        for name, rows in (("train", training), ("validation", validation), ("all", usable))
    }
    counts = {"rows": len(usable), "scored": int(usable.sum()), "fitted on": int(training.sum())}
    return finish(out, recipe, counts=counts, metrics=metrics | means)


def history_of(path: Path) -> pa.Table | None:
    """Likelihood by layer, where this artifact was fitted here."""
    file = path / HISTORY
    return read_table(file) if file.is_file() else None
