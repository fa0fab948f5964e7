"""Prepare: releases and labels to a sample of rest-frame spectra (science.md §1-§4).

Two passes of shard tasks. The first reads native shards, shifts what passes the catalogue's cuts
to the rest frame and keeps what passes the cuts on the spectrum; the second packs these rows into
the sample's dense shards. Between them the driver decides what depends on all rows: which rows
are one object on the sky, which is primary, and the split.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import PrepareSection, changed_settings
from spectra_scale.errors import DamagedArtifactError, SpectraScaleError
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.observed import ObservedSpectra, RestSpectra
from spectra_scale.spectrum.preprocess import to_rest_frame
from spectra_scale.spectrum.quality import Quality
from spectra_scale.stages.prepare.identity import identify
from spectra_scale.stages.prepare.pack import pack, parts_of
from spectra_scale.stages.prepare.rest import RestTask, how, luminosity_factor, rest_shard
from spectra_scale.stages.prepare.selection import Cuts, select_rows
from spectra_scale.store.arrays import Layout
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import column
from spectra_scale.store.run import OBJECTS
from spectra_scale.store.schema import DROPPED, INDEX
from spectra_scale.store.tables import read_table, write_table
from spectra_scale.surveys.release import Release
from spectra_scale.surveys.sdss import SpectrumArrays

VERSION = 2
KIND = "prepare"
PARTS = "parts"


@dataclass(frozen=True, slots=True)
class PrepareInputs:
    """Inputs of `run`.

    Parameters
    ----------
    releases
        Releases, oldest first: a later one supersedes the same observation in an earlier one.
    labels
        The labels' artifact.
    """

    releases: Sequence[Release]
    labels: Artifact


def recipe(
    releases: dict[str, str], labels: str, config: PrepareSection, layout: Layout
) -> Recipe:
    """What the sample is made from: fingerprints of releases and labels, settings, layout."""
    settings = changed_settings(config)
    if len(releases) > 1:
        # Their order says which observation is the newer one, and fingerprints sort their keys.
        settings["releases, oldest first"] = list(releases)
    if layout != Layout():
        settings["layout"] = [layout.shard_rows, layout.chunk_rows]
    parents = {f"release {k}": v for k, v in releases.items()} | {"labels": labels}
    return Recipe(KIND, VERSION, settings, parents)


def run(
    inputs: PrepareInputs, config: PrepareSection, place: Place, out: Path, recipe: Recipe
) -> Artifact:
    """Make a sample.

    Parameters
    ----------
    inputs
        Releases and labels.
    config
        `[prepare]`.
    place
        Where the tasks run.
    out
        Directory of the artifact.
    recipe
        What it is made from.

    Raises
    ------
    SpectraScaleError
        If no row is left after the cuts: which cut removed how many is said.
    """
    done = begin(out, recipe)
    if done:
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return done
    for release in inputs.releases:
        release.check_present()
    selections = [select_rows(i, r, config) for i, r in enumerate(inputs.releases)]
    tasks = _rest_tasks(inputs, selections, config, out)
    work = Work("prepare (rest frame)", "spectra", [task.n_rows for task in tasks])
    counts = place.map(partial(rest_shard, config), tasks, work)
    kept = _kept_rows(tasks, inputs)
    dropped = _dropped_rows(tasks, selections)
    removed = _count(dropped)
    n_in = sum(release.n_rows for release in inputs.releases)
    _require(kept.num_rows + dropped.num_rows == n_in, n_in, kept.num_rows, dropped.num_rows)
    if kept.num_rows == 0:
        raise SpectraScaleError(_nothing_left(n_in, removed))
    index = identify(kept, _superseded(kept, inputs.releases))
    parts = parts_of([task.part for task in tasks], [count["kept"] for count in counts])
    pack(parts, WavelengthGrid.rest_frame(config.n_pixels), _layout(recipe), place, out)
    write_table(out / "index.parquet", index.cast(INDEX.arrow()))
    write_table(out / "dropped.parquet", dropped)
    artifact = finish(
        out,
        recipe,
        counts={"rows in": n_in, "kept": index.num_rows, "dropped": dropped.num_rows,
                "dropped by cut": removed} | _facts(index),
        metrics={"preset": config.preset, "n_pixels": config.n_pixels,
                 "unit": how(config).flux_unit},
        where={"place": place.name},
    )  # fmt: skip
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return artifact


def _require(condition: bool, *found: int) -> None:  # noqa: FBT001
    if not condition:
        n_in, kept, dropped = found
        msg = f"rows do not add up: {n_in} in, {kept} kept, {dropped} dropped. This is a bug."
        raise SpectraScaleError(msg)


def _layout(recipe: Recipe) -> Layout:
    return Layout(*recipe.settings.get("layout", ()))


def _rest_tasks(
    inputs: PrepareInputs, selections: Sequence[Cuts], config: PrepareSection, out: Path
) -> list[RestTask]:
    tasks = []
    for number, (release, cuts) in enumerate(zip(inputs.releases, selections, strict=True)):
        places = release.places()
        for shard in release.shards:
            low, high = np.searchsorted(cuts.rows, (shard.start, shard.stop))
            inside = slice(int(low), int(high))
            tasks.append(
                RestTask(
                    release=release.name,
                    spectra=release.rows(cuts.rows[inside], places),
                    redshift=cuts.redshift[inside],
                    extinction=cuts.extinction[inside] if config.deredden else None,
                    keys=cuts.table["spectrum_key"].slice(inside.start, high - low),
                    part=out.resolve() / PARTS / f"{number:03d}-{shard.index:06d}",
                )
            )
    return tasks


def _kept_rows(tasks: Sequence[RestTask], inputs: PrepareInputs) -> pa.Table:
    """Rows that passed all cuts, with catalogue columns and labels, in the order of the parts."""
    parts = []
    labels = inputs.labels.path / OBJECTS
    paths = {release.name: release.path for release in inputs.releases}
    catalogues: dict[str, tuple[pa.Table, pa.Table]] = {}
    for task in tasks:
        if task.release not in catalogues:
            catalogue = read_table(paths[task.release] / "catalogue.parquet")
            marks = read_table(labels / f"{task.release}.parquet", ["spectrum_key", "label"])
            if not marks["spectrum_key"].equals(catalogue["spectrum_key"]):
                msg = f"{labels}: keys differ from release {task.release}'s. Rebuild the labels."
                raise DamagedArtifactError(msg)
            catalogues[task.release] = (catalogue, marks)
        catalogue, marks = catalogues[task.release]
        part = read_table(task.kept)
        table = catalogue.take(part["row"])
        for name in part.column_names:
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, part[name])
        table = table.append_column("label", marks["label"].take(part["row"]))
        names = pa.array([task.release] * table.num_rows, pa.string())
        parts.append(table.append_column("release", names))
    return pa.concat_tables(parts, promote_options="permissive").combine_chunks()


def _superseded(kept: pa.Table, releases: Sequence[Release]) -> NDArray[np.bool_]:
    """Rows whose observation is in a later release, whether or not it passed the cuts there.

    A newer reduction that was rejected says that the older one is not to be trusted either.
    """
    names = column(kept, "release")
    old = np.zeros(kept.num_rows, dtype=bool)
    later = pa.array([], pa.string())
    for release in reversed(releases):
        mine = np.flatnonzero(names == release.name)
        keys = kept["spectrum_key"].take(pa.array(mine))
        old[mine] = pc.is_in(keys, value_set=later).to_numpy()
        theirs = read_table(release.path / "catalogue.parquet", ["spectrum_key", "status"])
        # A spectrum that could not be read says nothing of the one before.
        theirs = theirs.filter(pc.equal(theirs["status"], "kept"))
        later = pa.concat_arrays([later, theirs["spectrum_key"].combine_chunks()])
    return old


def _dropped_rows(tasks: Sequence[RestTask], selections: Sequence[Cuts]) -> pa.Table:
    tables = [cuts.dropped for cuts in selections]
    tables += [read_table(task.dropped) for task in tasks]
    table = pa.concat_tables([t.cast(DROPPED.arrow()) for t in tables]).combine_chunks()
    return table.sort_by([("release", "ascending"), ("row", "ascending")])


def _count(dropped: pa.Table) -> dict[str, int]:
    cuts = dropped["cut"].to_pylist()
    return {cut: cuts.count(cut) for cut in dict.fromkeys(sorted(cuts))}


def _nothing_left(n_in: int, removed: dict[str, int]) -> str:
    table = ", ".join(f"{cut} {n}" for cut, n in removed.items())
    return (
        f"no spectrum is left after the cuts: found {n_in} rows, removed by {table}; expected at "
        "least one. Loosen the cuts in [prepare], or look at the releases' catalogues."
    )


def _facts(index: pa.Table) -> dict[str, int]:
    split = index["split"].to_pylist()
    current = ~column(index, "superseded").astype(bool)
    objects = len(np.unique(column(index, "sky_id")[current]))
    return {
        "train": split.count("train"),
        "validation": split.count("validation"),
        "superseded": sum(index["superseded"].to_pylist()),
        "objects": objects,
        # Further observations of an object that is in the sample already.
        "repeats": int(current.sum()) - objects,
    }


def shift_spectra(
    arrays: SpectrumArrays, redshift: float, config: PrepareSection
) -> tuple[RestSpectra, Quality]:
    """Shift one spectrum to the rest frame as a sample's spectra are; no cut is applied.

    Parameters
    ----------
    arrays
        The spectrum, as a reader of `surveys` gives it.
    redshift
        Its redshift.
    config
        `[prepare]`; Milky Way dust is not corrected for here, a file has no E(B−V).
    """
    observed = ObservedSpectra(
        np.array([""], dtype=object),
        arrays.first_pixel,
        arrays.flux[None, :],
        arrays.ivar[None, :],
        arrays.mask_bits[None, :],
    )
    z = np.array([redshift])
    factor = luminosity_factor(z) if config.preset == "reference" else None
    return to_rest_frame(observed, z, how(config), luminosity_factor=factor)
