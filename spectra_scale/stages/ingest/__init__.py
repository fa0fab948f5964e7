"""Ingest: the files of a survey release to native arrays, a catalogue and a ledger.

One directory a release, immutable once its manifest is there. Tasks write whole shards; a task
that was done before is not done again, so a killed ingest goes on where it stopped.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import ReleaseSection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import digest, file_digest, files_fingerprint
from spectra_scale.stages.ingest.arrays import (
    SDSS_FIRST_PIXEL,
    SDSS_N_PIXELS,
    ArrayTask,
    write_arrays,
)
from spectra_scale.stages.ingest.inventory import Inventory, look, rows_of
from spectra_scale.store.arrays import Layout, create_arrays, publish_arrays, shards_of
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import column
from spectra_scale.store.release import KIND, files_named
from spectra_scale.store.schema import RELEASE_ARRAYS
from spectra_scale.store.tables import read_table, write_table

__all__ = ["Inventory", "look", "recipe", "run"]

VERSION = 1
PARTS = "parts"


def recipe(
    section: ReleaseSection, inventory: Inventory, limit: int | None, layout: Layout
) -> Recipe:
    """What a release is made from: paths and sizes of its files, checksum of its catalogue."""
    files = inventory.files
    plates = [f for plate in files.plates for f in (plate.spplate, plate.zbest) if f is not None]
    prints = []
    for root in inventory.roots:
        others = (*files.catalogues, *files.line_catalogues, *(o.file for o in files.others))
        mine = [f.path for f in (*files.spec_files, *plates, *others) if f.root == root]
        prints.append(files_fingerprint(root, mine))
    parents = {"files": digest(prints)}
    if section.catalogue is not None:
        parents["catalogue"] = file_digest(section.catalogue)
    settings: dict[str, Any] = {"name": section.name}
    if limit is not None:
        settings["limit"] = limit
    if layout != Layout():
        settings["layout"] = [layout.shard_rows, layout.chunk_rows]
    return Recipe(KIND, VERSION, settings, parents)


def run(
    inputs: Inventory, config: ReleaseSection, place: Place, out: Path, recipe: Recipe
) -> Artifact:
    """Ingest a release.

    Parameters
    ----------
    inputs
        Its files, from `look`.
    config
        Its `[[release]]` table.
    place
        Where the tasks run.
    out
        Directory of the release: ``arrays/`` (flux, ivar, mask_bits on the native grid),
        ``catalogue.parquet``, ``lines.parquet``, ``ledger.parquet``, ``shards.parquet``.
    recipe
        What it is made from.

    Raises
    ------
    SpectraScaleError
        If no row has a spectrum, or rows and files in are not rows and files accounted for.
    """
    done = begin(out, recipe)
    parts = out.resolve() / PARTS
    if done:
        shutil.rmtree(parts, ignore_errors=True)
        return done
    parts.mkdir(exist_ok=True)
    rows, ledger, found = rows_of(inputs, place, parts)
    counts: dict[str, Any] = dict(found)
    limit = recipe.settings.get("limit", rows.num_rows)
    counts["rows beyond --limit"] = max(rows.num_rows - limit, 0)
    counts["redshift files"] = sum(plate.zbest is not None for plate in inputs.files.plates)
    _check_files(counts, rows, ledger)
    rows = rows.slice(0, limit)
    if rows.num_rows == 0:
        raise SpectraScaleError(_no_rows(config, ledger))
    layout = Layout(*recipe.settings.get("layout", ()))
    status = _write(rows, layout, inputs, place, out)
    catalogue = rows
    for name in status.column_names:
        catalogue = catalogue.append_column(name, status[name])
    write_table(out / "catalogue.parquet", catalogue.combine_chunks())
    write_table(out / "ledger.parquet", ledger)
    kept = column(status, "status").tolist().count("kept")
    counts |= {"rows": rows.num_rows, "kept": kept, "quarantined": rows.num_rows - kept}
    counts["by reason"] = _by_reason(status, ledger)
    _check_rows(counts, ledger)
    artifact = finish(
        out,
        recipe,
        counts=counts,
        metrics={"name": config.name, "first_pixel": SDSS_FIRST_PIXEL,
                 "n_pixels": SDSS_N_PIXELS},
        where={"place": place.name, "source": [str(root) for root in inputs.roots]},
    )  # fmt: skip
    shutil.rmtree(parts, ignore_errors=True)
    return artifact


def _write(rows: pa.Table, layout: Layout, inputs: Inventory, place: Place, out: Path) -> pa.Table:
    """Write arrays and lines of all rows; the status of each comes back."""
    parts, arrays = out.resolve() / PARTS, out.resolve() / "arrays"
    plan = parts / "rows.parquet"
    write_table(plan, rows)
    attributes = {"grid": "native, observed frame, vacuum: log10 wavelength = k * 1e-4",
                  "first_pixel": SDSS_FIRST_PIXEL}  # fmt: skip
    create_arrays(arrays, RELEASE_ARRAYS, (rows.num_rows, SDSS_N_PIXELS), layout, attributes)
    shards = shards_of(rows.num_rows, layout.shard_rows)
    roots = tuple(root.resolve() for root in inputs.roots)
    tasks = [
        ArrayTask(shard, plan, roots, arrays, parts / f"status-{shard.index:06d}.parquet")
        for shard in shards
    ]
    place.map(write_arrays, tasks, Work("ingest", "spectra", [s.n_rows for s in shards]))
    publish_arrays(arrays, RELEASE_ARRAYS, shards, out / "shards.parquet")
    lines = pa.concat_tables([read_table(task.lines) for task in tasks])
    write_table(out / "lines.parquet", lines.combine_chunks())
    return pa.concat_tables([read_table(task.part) for task in tasks]).combine_chunks()


def _by_reason(status: pa.Table, ledger: pa.Table) -> dict[str, int]:
    reasons = [r for r in status["reason"].to_pylist() if r] + ledger["reason"].to_pylist()
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def _check_files(counts: dict[str, Any], rows: pa.Table, ledger: pa.Table) -> None:
    """Every file of the folders has a row, a line in the ledger, or is a plate's spZbest."""
    found = len(files_named(rows, ledger)) + counts["redshift files"]
    if counts["files in"] != found:
        msg = (
            f"files do not add up: {counts['files in']} in, {found} accounted for. This is a bug: "
            "nothing was committed. Please report it."
        )
        raise SpectraScaleError(msg)


def _check_rows(counts: dict[str, Any], ledger: pa.Table) -> None:
    """Rows in = rows of the catalogue + rows of the ledger + rows beyond the limit."""
    lost = ledger["reason"].to_pylist().count("row_without_file") + counts["duplicates"]
    found = counts["rows"] + counts["rows beyond --limit"] + lost
    if counts["rows in"] != found:
        msg = (
            f"rows do not add up: {counts['rows in']} in, {found} accounted for. This is a bug: "
            "nothing was committed. Please report it."
        )
        raise SpectraScaleError(msg)


def _no_rows(config: ReleaseSection, ledger: pa.Table) -> str:
    reasons = ledger["reason"].to_pylist()
    table = ", ".join(f"{name} {reasons.count(name)}" for name in sorted(set(reasons)))
    return (
        f"release {config.name}: no spectrum could be used; found {table}. Expected SDSS spec or "
        "spPlate + spZbest files that match the catalogue. Look at the messages: run "
        f"`spectra-scale ingest` on one file of {', '.join(str(s) for s in config.source)}."
    )
