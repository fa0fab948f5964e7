"""Label: line catalogues joined to releases by key, and the classes of science.md §5.

Labels are an artifact of their own, because line tables come later than spectra and there are
several.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.compute.place import Place, Work
from spectra_scale.config import LabelSection
from spectra_scale.errors import UsageError
from spectra_scale.provenance import file_digest
from spectra_scale.spectrum.classify import (
    CLASS_NAMES,
    LineMeasurements,
    broad_from_subclass,
    classify,
    passive_with_strong_ew,
)
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish
from spectra_scale.store.objects import column
from spectra_scale.store.run import OBJECTS
from spectra_scale.store.schema import LABELS, LINES
from spectra_scale.store.tables import write_table
from spectra_scale.surveys.lines import (
    LINE_COLUMNS,
    line_table_survey,
    read_line_catalogue,
    rows_of_keys,
)
from spectra_scale.surveys.release import Release, open_release

log = logging.getLogger(__name__)

VERSION = 2
KIND = "label"


@dataclass(frozen=True, slots=True)
class _Task:
    release: Path
    name: str
    tables: tuple[Path, ...]


def recipe(releases: dict[str, str], config: LabelSection) -> Recipe:
    """What the labels are made from.

    Parameters
    ----------
    releases
        Fingerprint of each release, by name.
    config
        `[label]`.

    Raises
    ------
    UsageError
        If a line table does not exist.
    """
    tables = {}
    for i, path in enumerate(config.lines):
        if not path.is_file():
            msg = f"[label] lines: found no file {path}, expected a line table. Correct the path."
            raise UsageError(msg)
        tables[f"lines {i}"] = file_digest(path)
    # The tables' checksums stand for their paths, so that runs can be moved.
    return Recipe(KIND, VERSION, {}, {f"release {k}": v for k, v in releases.items()} | tables)


def run(
    inputs: Sequence[Release], config: LabelSection, place: Place, out: Path, recipe: Recipe
) -> Artifact:
    """Classify every row of the releases.

    Parameters
    ----------
    inputs
        Releases.
    config
        `[label]`: line tables, the first that has an object wins; none: SPZLINE.
    place
        Where the tasks run, one a release.
    out
        Directory of the artifact.
    recipe
        What it is made from.
    """
    done = begin(out, recipe)
    if done:
        return done
    tasks = [_Task(r.path.resolve(), r.name, config.lines) for r in inputs]
    work = Work("label", "spectra", [release.n_rows for release in inputs])
    total: Counter[str] = Counter()
    for counts in place.map(partial(_label_release, out / OBJECTS), tasks, work):
        total.update(counts)
    return finish(out, recipe, counts=dict(total), where={"place": place.name})


def _label_release(folder: Path, task: _Task) -> dict[str, int]:
    release = open_release(task.release)
    catalogue = release.catalogue
    lines = _joined_lines(catalogue, task.tables) if task.tables else release.lines
    measured = measurements(lines)
    broad = broad_from_subclass(column(catalogue, "subclass")) | column(lines, "broad")
    label = classify(broad, measured)
    columns = {
        "release": pa.array([task.name] * catalogue.num_rows, pa.string()),
        "row": pa.array(np.arange(catalogue.num_rows)),
        "spectrum_key": catalogue["spectrum_key"],
        "label": pa.array(label, pa.int8()),
    } | {name: lines[name] for name in LINES.arrow().names}
    write_table(folder / f"{task.name}.parquet", pa.table(columns).cast(LABELS.arrow()))
    counts = {name: int(np.sum(label == code)) for code, name in enumerate(CLASS_NAMES)}
    strong = int(passive_with_strong_ew(measured, label).sum())
    return {"rows": len(label)} | counts | {"passive with EW(Hα) >= 3 Å": strong}


def measurements(lines: pa.Table) -> LineMeasurements:
    """Line measurements of a `lines` or `labels` table."""
    names = [name for name in LineMeasurements.__slots__ if name != "measured"]
    return LineMeasurements(
        measured=column(lines, "measured").astype(bool),
        **{name: column(lines, name).astype(np.float64) for name in names},
    )


def _joined_lines(catalogue: pa.Table, tables: Sequence[Path]) -> pa.Table:
    """Lines of each row of a catalogue, by its key: the first table that has the object wins."""
    keys = catalogue["spectrum_key"]
    n = len(keys)
    values = {name: np.full(n, np.nan) for name in LINE_COLUMNS}
    broad, found = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    source = np.full(n, "", dtype=object)
    for path in tables:
        if not _may_have(path, keys):
            continue
        table = read_line_catalogue(path)
        rows = rows_of_keys(table, keys)
        new = np.flatnonzero((rows >= 0) & ~found)
        theirs = pa.array(rows[new])
        for name, column_of in values.items():
            column_of[new] = table[name].take(theirs).to_numpy()
        broad[new] = table["broad"].take(theirs).to_numpy()
        source[new] = table["source"].take(theirs).to_numpy()
        found[new] = True
        log.info("joined table=%s rows=%d of %d", path.name, len(new), n)
    return pa.table(
        values | {"broad": broad, "measured": found, "source": pa.array(source, pa.string())}
    )


def _may_have(path: Path, keys: pa.ChunkedArray) -> bool:
    """Whether a table is of a survey that the keys are of: a table of another is not read."""
    return bool(pc.any(pc.starts_with(keys, f"{line_table_survey(path)}:")).as_py())
