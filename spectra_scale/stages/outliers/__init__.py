"""Outliers: which spectra are rare, which are broken, and by what (science.md §7).

An outlier of the flow may be a rare object or a fault. Faults are measured on the residuals of
every spectrum's reconstruction, and judged by how far they lie from what is usual in the
validation split at that S/N (`spectrum.triage`). Only what is improbable, well reproduced and
without a fault is called rare. Two other ways to find outliers stand beside the flow: the distance
to the nearest training objects, and small islands of the map.
"""

from __future__ import annotations

import logging
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from spectra_scale.compute.place import Place
from spectra_scale.config import OutliersSection, changed_settings
from spectra_scale.provenance import write_bytes
from spectra_scale.spectrum.faults import STATISTICS
from spectra_scale.spectrum.triage import FAULTS, VERDICTS, verdicts
from spectra_scale.stages.outliers.judge import (
    REFERENCE,
    Columns,
    Judge,
    OutliersInputs,
    read_reference,
)
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import write_objects
from spectra_scale.store.run import OBJECTS

__all__ = ["REFERENCE", "OutliersInputs", "overlaps", "read_reference", "recipe", "run"]

VERSION = 2
KIND = "outliers"
log = logging.getLogger(__name__)
PARTS = "parts"


def recipe(density: str, map_latents: str, config: OutliersSection, fitted: str | None) -> Recipe:
    """What the outliers are made from. Density and map stand for sample, model and latents."""
    parents = {"density": density, "map": map_latents}
    if fitted is not None:
        parents["fitted"] = fitted
    return Recipe(KIND, VERSION, changed_settings(config), parents)


def run(
    inputs: OutliersInputs, config: OutliersSection, place: Place, out: Path, recipe: Recipe
) -> Artifact:
    """Find outliers, and judge every spectrum.

    Parameters
    ----------
    inputs
        What is judged.
    config
        `[outliers]`.
    place
        Where the tasks run, one a shard.
    out
        Directory of the artifact: ``objects/`` with verdicts and their evidence, and
        ``reference.safetensors``: what is usual, to judge other data by.
    recipe
        What it is made from.
    """
    done = begin(out, recipe)
    if done:
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return done
    judge = Judge.of(inputs, config, place, (out / PARTS).resolve())
    facts = judge.facts
    evidence = judge.measured()
    evidence |= judge.scanned(evidence)
    strength = judge.strengths(evidence, FAULTS)
    outlier = facts.p_value < config.p_value
    if not outlier.any():
        # With n validation spectra the least p-value is 1 / (n + 1).
        log.warning("no outliers: no p-value is below %g", config.p_value)
    verdict, sigma = verdicts(strength, outlier, facts.usable, config.sigma)
    columns: Columns = {"outlier": outlier, "verdict": verdict, "evidence": sigma}
    columns |= judge.distances(out / REFERENCE)
    columns |= judge.islands()
    columns |= {name: evidence[name] for name in STATISTICS}
    columns |= judge.redshifts(evidence)
    columns |= {f"sigma_{kind.replace('-', '_')}": strength[kind] for kind in FAULTS}
    write_bytes(out / REFERENCE, save(judge.reference))
    write_objects(out / OBJECTS, inputs.sample.index, columns)
    n_scanned = int(np.isfinite(evidence["chi2_scan"]).sum())
    counts = {"rows": len(outlier), "usable": int(facts.usable.sum()), "scanned": n_scanned}
    counts |= {word: int((verdict == word).sum()) for word in VERDICTS}
    metrics = {"overlap": overlaps(columns, facts.usable, config.p_value)}
    where = {"place": place.name}
    artifact = finish(out, recipe, counts=counts, metrics=metrics, where=where)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return artifact


def overlaps(
    columns: Columns, usable: NDArray[np.bool_], limit: float
) -> dict[str, dict[str, float]]:
    """How far three ways to find outliers agree: numbers and Jaccard index of each pair.

    Parameters
    ----------
    columns
        `outlier`, `knn_p_value` and `small_island`, shape (row,).
    usable
        Rows that count.
    limit
        p-value below which an object is an outlier by distance.
    """
    sets = {
        "flow": columns["outlier"] & usable,
        "neighbours": (columns["knn_p_value"] < limit) & usable,
        "islands": columns["small_island"] & usable,
    }
    found: dict[str, dict[str, float]] = {}
    for (a, in_a), (b, in_b) in combinations(sets.items(), 2):
        both, either = int((in_a & in_b).sum()), int((in_a | in_b).sum())
        found[f"{a} and {b}"] = {
            a: int(in_a.sum()),
            b: int(in_b.sum()),
            "both": both,
            "jaccard": both / either if either else 0.0,
        }
    return found
