"""Status: what a directory holds, one line an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import read_json
from spectra_scale.store.artifact import MANIFEST, STARTED


def status_rows(path: Path) -> list[tuple[str, str, str, str]]:
    """Artifacts under a directory: name, state, when made, counts and figures.

    Raises
    ------
    SpectraScaleError
        If there is none.
    """
    folders = sorted({file.parent for name in (MANIFEST, STARTED) for file in path.rglob(name)})
    if not folders:
        msg = f"{path}: found no artifact, expected a run, a release or a sample. Check the path."
        raise SpectraScaleError(msg)
    return [_row(path, folder) for folder in folders]


def _row(root: Path, folder: Path) -> tuple[str, str, str, str]:
    name = folder.relative_to(root).as_posix()
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
