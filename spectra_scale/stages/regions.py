"""Regions: named sets of objects on the map (science.md §9), from the job or automatic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.config import RegionsSection, changed_settings
from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import read_json, write_json
from spectra_scale.spectrum.auto_regions import auto_broad_polygons, auto_sequence_boxes
from spectra_scale.spectrum.classify import CLASS_NAMES, Label
from spectra_scale.spectrum.geometry import check_polygon, points_in_box, points_in_polygon
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import column, columns_of, read_objects, write_objects
from spectra_scale.store.run import OBJECTS
from spectra_scale.store.sample import Sample
from spectra_scale.store.tables import write_table

VERSION = 1
KIND = "regions"
DEFINITIONS = "regions.json"
POLYGON_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Region:
    """A named set of objects.

    Parameters
    ----------
    name
        Unique name, for instance ``top-0``.
    sequence
        What it is drawn with: the regions of one sequence stand in order.
    rule
        ``{"box": [x_low, x_high, y_low, y_high]}`` or ``{"polygon": [[x, y], …]}``.
    labels
        Classes it is restricted to; empty is all.
    """

    name: str
    sequence: str
    rule: Mapping[str, Any]
    labels: tuple[str, ...] = ()

    def members(
        self, x: NDArray[np.float64], y: NDArray[np.float64], label: NDArray[np.int8]
    ) -> NDArray[np.bool_]:
        """Objects inside; boundary points are, objects that are not on the map are not."""
        if "box" in self.rule:
            inside = points_in_box(x, y, self.rule["box"])
        else:
            inside = points_in_polygon(x, y, self.rule["polygon"])
        if self.labels:
            inside = inside & np.isin(label, [CLASS_NAMES.index(name) for name in self.labels])
        return np.asarray(inside & np.isfinite(x) & np.isfinite(y), dtype=bool)


@dataclass(frozen=True, slots=True)
class RegionsInputs:
    """Inputs of `run`.

    Parameters
    ----------
    sample, map, density
        The sample, the map the regions are drawn on, and the density (for the exported columns).
    fitted
        Regions of an earlier run, to apply; None makes new ones.
    """

    sample: Sample
    map: Artifact
    density: Artifact
    fitted: Artifact | None = None


def recipe(map_: str, density: str, config: RegionsSection, fitted: str | None) -> Recipe:
    """What the regions are made from."""
    parents = {"map": map_, "density": density}
    if fitted is not None:
        return Recipe(KIND, VERSION, {}, parents | {"fitted": fitted})
    return Recipe(KIND, VERSION, changed_settings(config), parents)


def run(inputs: RegionsInputs, config: RegionsSection, out: Path, recipe: Recipe) -> Artifact:
    """Find the members of all regions.

    Parameters
    ----------
    inputs
        Sample and map.
    config
        `[regions]`.
    out
        Directory of the artifact: ``regions.json`` with the rules, ``objects/`` with one column
        ``in_NAME`` a region, ``members.parquet`` with the exported columns of science.md §9.
    recipe
        What it is made from.
    """
    done = begin(out, recipe)
    if done:
        return done
    sample = inputs.sample
    index = sample.index
    label = column(index, "label")
    prefix = "flux_map" if inputs.map.manifest["kind"] == "embed-flux" else "latent_map"
    xy = columns_of(read_objects(inputs.map.path / OBJECTS, index), prefix)
    x, y = xy[:, 0].astype(np.float64), xy[:, 1].astype(np.float64)
    if inputs.fitted is not None:
        regions = read_regions(inputs.fitted.path)
    else:
        regions = _regions(config, x, y, label)
    # A superseded reduction is no member: its observation is there in a newer one.
    current = ~column(index, "superseded").astype(bool)
    inside = {region.name: region.members(x, y, label) & current for region in regions}
    write_json(out / DEFINITIONS, [_as_json(region) for region in regions])
    write_objects(out / OBJECTS, index, {f"in_{name}": rows for name, rows in inside.items()})
    write_table(out / "members.parquet", _export(index, inside, _facts(inputs, x, y)))
    counts = {name: int(rows.sum()) for name, rows in inside.items()}
    return finish(out, recipe, counts=counts, metrics={"map": prefix})


def read_regions(path: Path) -> list[Region]:
    """The regions of an artifact."""
    return [
        Region(r["name"], r["sequence"], r["rule"], tuple(r["labels"]))
        for r in read_json(path / DEFINITIONS)
    ]


def _as_json(region: Region) -> dict[str, Any]:
    return {
        "name": region.name,
        "sequence": region.sequence,
        "rule": dict(region.rule),
        "labels": list(region.labels),
    }


def _regions(
    config: RegionsSection,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    label: NDArray[np.int8],
) -> list[Region]:
    boxes = [Region(b.name, b.sequence, {"box": [*b.x, *b.y]}) for b in config.boxes]
    polygons = [
        Region(p.name, "polygons", {"polygon": [list(v) for v in p.vertices]}, p.labels)
        for p in config.polygons
    ]
    for region in polygons:
        check_polygon(region.rule["polygon"], region.name)
    if config.automatic and not boxes:
        boxes = _automatic_boxes(x, y, label, config.min_count)
    if config.automatic and not polygons:
        polygons = _automatic_polygons(x, y, label)
    names = [region.name for region in (*boxes, *polygons)]
    if len(set(names)) != len(names):
        msg = f"[regions]: names must differ, found {names}. Rename the boxes or polygons."
        raise SpectraScaleError(msg)
    return [*boxes, *polygons]


def _automatic_boxes(
    x: NDArray[np.float64], y: NDArray[np.float64], label: NDArray[np.int8], min_count: int
) -> list[Region]:
    on_map = np.isfinite(x) & np.isfinite(y)
    sequences = auto_sequence_boxes(x[on_map], y[on_map], label[on_map], min_count=min_count)
    return [
        Region(f"{name}-{i}", name, {"box": [float(edge) for edge in box]})
        for name, boxes in zip(("top", "bottom"), sequences, strict=True)
        for i, box in enumerate(boxes)
    ]


def _automatic_polygons(
    x: NDArray[np.float64], y: NDArray[np.float64], label: NDArray[np.int8]
) -> list[Region]:
    on_map = np.isfinite(x) & np.isfinite(y)
    broad = label[on_map] == Label.BROAD_LINE
    polygons = auto_broad_polygons(x[on_map], y[on_map], broad)
    return [
        Region(letter, "polygons", {"polygon": np.asarray(p).tolist()}, ("broad-line",))
        for letter, p in zip(POLYGON_LETTERS, polygons, strict=False)
    ]


def _facts(
    inputs: RegionsInputs, x: NDArray[np.float64], y: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    table = read_objects(inputs.density.path / OBJECTS, inputs.sample.index, ["log_prob"])
    return {"map_x": x, "map_y": y, "log_prob": column(table, "log_prob")}


def _export(
    index: pa.Table,
    inside: Mapping[str, NDArray[np.bool_]],
    facts: Mapping[str, NDArray[np.float64]],
) -> pa.Table:
    """Members of every region with the columns that science.md §9 asks for."""
    names: Sequence[str] = (
        "release", "row", "spectrum_key", "specobjid", "plate", "mjd", "fiber", "ra", "dec", "z",
        "class", "label",
    )  # fmt: skip
    table = index.select(list(names))
    for name, values in facts.items():
        table = table.append_column(name, pa.array(values))
    parts = []
    for name, rows in inside.items():
        part = table.take(pa.array(np.flatnonzero(rows)))
        region = pa.array([name] * part.num_rows, pa.string())
        parts.append(part.add_column(0, "region", region))
    if not parts:
        return table.slice(0, 0).add_column(0, "region", pa.array([], pa.string()))
    return pa.concat_tables(parts).combine_chunks()
