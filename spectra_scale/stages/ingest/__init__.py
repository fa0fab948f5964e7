"""Ingest: the files of a survey release to native arrays, a catalogue and a ledger.

One directory a release or revision, immutable once its manifest is there. Tasks write whole
shards; a task that was done before is not done again, so a killed ingest goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import IngestSection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import file_digest, read_json, write_json
from spectra_scale.stages.ingest import ledger as lines
from spectra_scale.stages.ingest.arrays import PLACE, STATUS, ArrayTask, write_arrays
from spectra_scale.stages.ingest.inventory import Inventory, look
from spectra_scale.stages.ingest.revisions import (
    FILES,
    PARTS,
    STAMPS,
    Piece,
    Settings,
    pieces_of,
    revision_path,
    revisions_of,
)
from spectra_scale.stages.ingest.rows import Found, rows_of
from spectra_scale.store.arrays import (
    Layout,
    Shard,
    create_arrays,
    publish_arrays,
    shards_of,
)
from spectra_scale.store.artifact import MANIFEST, Artifact, begin, finish, remove
from spectra_scale.store.lock import locked
from spectra_scale.store.objects import column
from spectra_scale.store.release import files_named
from spectra_scale.store.schema import LINES, RELEASE_ARRAYS, SHARDS
from spectra_scale.store.tables import read_table, write_table

__all__ = [
    "Inventory",
    "Piece",
    "Settings",
    "look",
    "pieces_of",
    "revision_path",
    "revisions_of",
    "run",
]


#: Size and time of change of files, by locator.
Stamps = Mapping[str, Sequence[int]]


def run(piece: Piece, config: IngestSection, place: Place) -> Artifact:
    """Ingest a release, or one revision of it.

    Parameters
    ----------
    piece
        What to make, from `pieces_of`. Its directory gets ``arrays/`` (flux, ivar, mask_bits on
        the native grid; not with ``copy = false``), ``catalogue.parquet``, ``lines.parquet``,
        ``ledger.parquet``, ``files.parquet`` and ``shards.parquet``.
    config
        `[ingest]` of the job.
    place
        Where the tasks run.

    Raises
    ------
    SpectraScaleError
        If no row has a spectrum, another process ingests the same release, files change while
        they are read, or rows and files in are not rows and files accounted for.
    """
    with locked(piece.path.parent, f".{piece.path.name}.lock"):
        return _run(piece, config, place)


def _run(piece: Piece, config: IngestSection, place: Place) -> Artifact:
    out, recipe = piece.path, piece.recipe
    if piece.restart and not (out / MANIFEST).is_file():
        # With a manifest, another process has finished it since this one looked.
        remove(out)
    done = begin(out, recipe)
    parts = out.resolve() / PARTS
    if done:
        shutil.rmtree(parts, ignore_errors=True)
        return done
    stamps = _begin_parts(piece, parts)
    found = rows_of(piece, config, place, parts)
    limit = int(recipe.settings.get("limit", found.rows.num_rows))
    counts: dict[str, Any] = {"files in": piece.listing.num_rows} | found.counts
    counts["rows beyond --limit"] = max(found.rows.num_rows - limit, 0)
    _check_files(counts, found, piece)
    rows = found.rows.slice(0, limit)
    if rows.num_rows == 0 and not piece.earlier:
        raise SpectraScaleError(_no_rows(piece, found.ledger))
    layout = Layout(*recipe.settings.get("layout", ()))
    status = _write(rows, layout, config, piece, place)
    for name in status.column_names:
        rows = rows.append_column(name, status[name])
    rows = rows.combine_chunks()
    write_table(out / "catalogue.parquet", rows)
    write_table(out / "ledger.parquet", found.ledger)
    counts |= _counts(rows, found.ledger)
    _check_rows(counts)
    _check_unchanged(piece, stamps, piece.inventory.stamps(stamps))
    _check_catalogue(piece)
    artifact = finish(
        out,
        recipe,
        counts=counts,
        metrics=_facts(piece, layout, config),
        where={"place": place.name, "source": [str(r.resolve()) for r in piece.inventory.roots]},
    )
    shutil.rmtree(parts, ignore_errors=True)
    return artifact


def _begin_parts(piece: Piece, parts: Path) -> Stamps:
    """Note what the files are now: one that changes before the end must not be committed."""
    parts.mkdir(exist_ok=True)
    if (piece.path / FILES).is_file():
        # What was read before it was killed is of the files as they were then.
        return dict(read_json(parts / STAMPS))
    stamps = piece.inventory.stamps(piece.listing["path"].to_pylist())
    sizes = zip(piece.listing["path"].to_pylist(), piece.listing["bytes"].to_pylist(), strict=True)
    then = {name: [size, *stamps[name][1:]] for name, size in sizes}
    _check_unchanged(piece, then, stamps)
    write_json(parts / STAMPS, stamps)
    write_table(piece.path / FILES, piece.listing)
    return stamps


def _facts(piece: Piece, layout: Layout, config: IngestSection) -> dict[str, Any]:
    grid = piece.inventory.grid
    return {"name": piece.name, "survey": piece.inventory.files.survey, "grid": grid.name,
            "first_pixel": grid.first_pixel, "n_pixels": grid.n_pixels,
            "copy": config.copy_spectra, "shard_rows": layout.shard_rows,
            "chunk_rows": layout.chunk_rows}  # fmt: skip


def _write(
    rows: pa.Table, layout: Layout, config: IngestSection, piece: Piece, place: Place
) -> pa.Table:
    """Write arrays and lines of all rows; the status of each comes back."""
    out, grid = piece.path, piece.inventory.grid
    parts, arrays = out.resolve() / PARTS, out.resolve() / "arrays"
    shards = shards_of(rows.num_rows, layout.shard_rows)
    if config.copy_spectra:
        step = "k * 1e-4" if not grid.linear_step else f"k * {grid.linear_step} Angstrom"
        law = f"{'log10 wavelength' if not grid.linear_step else 'wavelength'} = {step}"
        attributes = {"grid": f"native, observed frame, vacuum: {law}",
                      "first_pixel": grid.first_pixel}  # fmt: skip
        create_arrays(arrays, RELEASE_ARRAYS, (rows.num_rows, grid.n_pixels), layout, attributes)
    roots = tuple(root.resolve() for root in piece.inventory.roots)
    store = arrays if config.copy_spectra else None
    tasks = [
        ArrayTask(shard, _plan(rows, shard, parts), roots, grid.name, store,
                  parts / f"status-{shard.index:06d}.parquet")
        for shard in shards
    ]  # fmt: skip
    place.map(write_arrays, tasks, Work("ingest", "spectra", [s.n_rows for s in shards]))
    if config.copy_spectra:
        listed = [SHARDS.arrow().empty_table(), *(read_table(task.shards) for task in tasks)]
        publish_arrays(arrays, pa.concat_tables(listed), out / "shards.parquet")
    measured = [LINES.arrow().empty_table(), *(read_table(task.lines) for task in tasks)]
    write_table(out / "lines.parquet", pa.concat_tables(measured).combine_chunks())
    status = [STATUS.empty_table(), *(read_table(task.part) for task in tasks)]
    return pa.concat_tables(status).combine_chunks()


def _plan(rows: pa.Table, shard: Shard, parts: Path) -> Path:
    """Write what a task has to know of its rows, apart: a release has thousands of tasks."""
    path = parts / f"plan-{shard.index:06d}.parquet"
    write_table(path, rows.slice(shard.start, shard.n_rows).select(PLACE))
    return path


# Accounting -----------------------------------------------------------------------------------


def _counts(rows: pa.Table, ledger: pa.Table) -> dict[str, Any]:
    kept = column(rows, "status").tolist().count("kept")
    reasons = Counter(reason for reason in rows["reason"].to_pylist() if reason)
    classes = Counter(rows["class"].to_pylist())
    return {
        "rows": rows.num_rows,
        "kept": kept,
        "quarantined": rows.num_rows - kept,
        "rows left out": lines.count(ledger, "row"),
        "files without row": lines.count(ledger, "file"),
        "spectra without row": lines.count(ledger, "fibre"),
        "by class": {name or "unknown": n for name, n in sorted(classes.items())},
        "by reason": {f"spectrum: {name}": n for name, n in sorted(reasons.items())}
        | lines.by_reason(ledger),
    }


def _check_files(counts: dict[str, Any], found: Found, piece: Piece) -> None:
    """Every listed file has a row, a line in the ledger, or is the redshift file of one.

    Rows may also come from files that an earlier revision lists.
    """
    listed = set(piece.listing["path"].to_pylist())
    named = files_named(found.rows, found.ledger)
    inventory = piece.inventory
    redshifts = {inventory.locator(each.redshifts) for each in inventory.files.spectra
                 if each.redshifts is not None}  # fmt: skip
    counts["redshift files"] = len(redshifts & listed - named)
    lost = listed - named - redshifts
    if lost:
        msg = (
            f"files do not add up: of {len(listed)} files, {len(lost)} are accounted for nowhere, "
            f"the first {min(lost)}. This is a bug: nothing was committed. Please report it."
        )
        raise SpectraScaleError(msg)


def _check_rows(counts: dict[str, Any]) -> None:
    """Rows in = rows + rows left out + rows of earlier revisions + rows beyond the limit."""
    names = ("rows", "rows left out", "rows of earlier revisions", "rows beyond --limit")
    found = sum(counts[name] for name in names)
    if counts["rows in"] != found:
        msg = (
            f"rows do not add up: {counts['rows in']} in, {found} accounted for "
            f"({', '.join(f'{name} {counts[name]}' for name in names)}). This is a bug: nothing "
            "was committed. Please report it."
        )
        raise SpectraScaleError(msg)


def _check_unchanged(piece: Piece, then: Stamps, now: Stamps) -> None:
    """A file that was replaced while it was read may be in the arrays half old and half new."""
    changed = [name for name, stamp in now.items() if list(stamp) != list(then[name])]
    if changed:
        first, sizes = changed[0], f"size {then[changed[0]][0]} -> {now[changed[0]][0]}"
        what = f"{len(changed)} files changed while they were read, the first {first} ({sizes})"
        raise SpectraScaleError(_changed(piece, what))


def _check_catalogue(piece: Piece) -> None:
    """The catalogue is read long after its checksum was taken for the recipe."""
    path = piece.inventory.catalogue
    if path is None:
        return
    now = file_digest(path) if path.is_file() else "no file"
    if now != piece.recipe.parents["catalogue"]:
        raise SpectraScaleError(_changed(piece, f"the catalogue {path} changed while it was read"))


def _changed(piece: Piece, what: str) -> str:
    return (
        f"release {piece.name}: {what}. Nothing was committed. Wait until nobody writes into the "
        "source folders, then give the same command again: it begins anew."
    )


def _no_rows(piece: Piece, ledger: pa.Table) -> str:
    table = ", ".join(f"{name} {n}" for name, n in lines.by_reason(ledger).items())
    first = next((line for line in ledger.to_pylist() if line["kind"] == "file"), None)
    example = f" (for instance {first['path']}: {first['message']})" if first else ""
    return (
        f"release {piece.name}: no spectrum could be used; found {table}{example}. Expected "
        "spectrum files that match the catalogue, or that have redshifts of their own."
    )
