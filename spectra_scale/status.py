"""Status: what a directory holds, a line an artifact, and a line each release."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import read_json
from spectra_scale.stages.ingest import revisions_of
from spectra_scale.stages.train.card_text import CARD, PAGE, summary
from spectra_scale.store.artifact import MANIFEST, STARTED
from spectra_scale.store.objects import column
from spectra_scale.store.release import KIND
from spectra_scale.store.run import FOLDERS
from spectra_scale.store.sample import open_sample
from spectra_scale.store.tables import read_table
from spectra_scale.surveys.release import Release, open_release


def status_rows(path: Path) -> list[tuple[str, str, str, str]]:
    """Artifacts under a directory: name, state, when made, counts and figures.

    Raises
    ------
    SpectraScaleError
        If there is none.
    """
    return [_row(path, folder) for folder in _folders(path)]


def _folders(path: Path) -> list[Path]:
    folders = {file.parent for name in (MANIFEST, STARTED) for file in path.rglob(name)}
    if not folders:
        msg = f"{path}: found no artifact, expected a run, a release or a sample. Check the path."
        raise SpectraScaleError(msg)
    if path in folders:
        # Revisions of a release lie beside it.
        folders |= set(revisions_of(path))
    return sorted(folders)


def _row(root: Path, folder: Path) -> tuple[str, str, str, str]:
    name = folder.name if folder.parent == root.parent else folder.relative_to(root).as_posix()
    if not (folder / MANIFEST).is_file():
        return name, "unfinished", "", ""
    manifest = read_json(folder / MANIFEST)
    facts = _facts(manifest["counts"]) + _facts(manifest["metrics"])
    return name, "done", str(manifest["finished"]), ", ".join(facts[:14])


def _facts(values: dict[str, Any]) -> list[str]:
    """Numbers and words of a manifest; a table of numbers is spelled out once."""
    facts = []
    for name, value in values.items():
        if isinstance(value, dict):
            inner = {k: v for k, v in value.items() if isinstance(v, int | float)}
            facts += [f"{name}: {k} {_number(v)}" for k, v in inner.items()]
        elif isinstance(value, int | float | str):
            facts.append(f"{name} {_number(value)}")
    return facts


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def card_lines(path: Path) -> list[str]:
    """What the card of each finished auto-encoder under a directory says, in a line."""
    cards = [f for f in sorted(path.rglob(CARD)) if (f.parent / MANIFEST).is_file()]
    return [
        f"auto-encoder {card.parent.relative_to(path.parent).as_posix()}: "
        f"{summary(read_json(card))}; more in {PAGE}"
        for card in cards
    ]


# Releases -------------------------------------------------------------------------------------


def release_lines(path: Path) -> list[str]:
    """What each finished release under a directory holds, in words.

    Superseded and repeats are facts of a sample: where the directory is a run they are counted in
    it. Else superseded are the rows that a later revision of the same release has again, and
    repeats are not known.
    """
    releases = [open_release(folder) for folder in _folders(path) if _is_release(folder)]
    sample = path / FOLDERS["prepare"]
    if (sample / MANIFEST).is_file():
        facts = _in_sample(open_sample(sample).index)
    else:
        facts = _in_revisions(releases)
    return [_release(release, facts.get(release.name, ("0", "0"))) for release in releases]


def _is_release(folder: Path) -> bool:
    manifest = folder / MANIFEST
    return manifest.is_file() and read_json(manifest)["kind"] == KIND


def _release(release: Release, facts: tuple[str, str]) -> str:
    counts = release.artifact.counts
    names = ("rows", "kept", "quarantined", "rows left out", "files without row")
    numbers = ", ".join(f"{counts[name]:,} {name}" for name in names)
    classes = ", ".join(f"{name} {n:,}" for name, n in counts["by class"].items()) or "no rows"
    stored = "spectra stored" if release.has_copy else "spectra in the survey's files"
    return (
        f"release {release.name} ({release.survey}, {stored}): {numbers}; {classes}; "
        f"superseded {facts[0]}, repeats {facts[1]}"
    )


def _in_sample(index: pa.Table) -> dict[str, tuple[str, str]]:
    names = column(index, "release")
    old = column(index, "superseded").astype(bool)
    again = ~old & ~column(index, "primary").astype(bool)
    return {
        str(name): (f"{int((old & mine).sum()):,}", f"{int((again & mine).sum()):,}")
        for name in np.unique(names.astype(str))
        for mine in [names == name]
    }


def _in_revisions(releases: Sequence[Release]) -> dict[str, tuple[str, str]]:
    by_path = {release.path: release for release in releases}
    facts = {}
    for release in releases:
        later = [_keys(by_path[path]) for path in _after(release) if path in by_path]
        keys = pa.concat_arrays([pa.array([], pa.string()), *later])
        n_old = pc.sum(pc.is_in(_keys(release), value_set=keys)).as_py() or 0
        facts[release.name] = (f"{n_old:,}", "not known")
    return facts


def _after(release: Release) -> list[Path]:
    """Directories of the revisions after a release or revision."""
    base, number = release.path, 0
    if "earlier revision" in release.artifact.manifest["inputs"]:
        stem, _, last = base.name.rpartition(".")
        base, number = base.with_name(stem), int(last)
    return revisions_of(base)[number + 1 :]


def _keys(release: Release) -> pa.Array:
    table = read_table(release.path / "catalogue.parquet", ["spectrum_key"])
    return table["spectrum_key"].combine_chunks()
