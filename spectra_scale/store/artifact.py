"""A stage's output: a directory that is finished when its manifest is there.

`begin` decides whether a stage skips, resumes or refuses; `finish` writes the manifest, last.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra_scale.errors import DamagedArtifactError, StaleArtifactError, UsageError
from spectra_scale.provenance import file_digest, fingerprint, read_json, versions, write_json

MANIFEST = "manifest.json"
STARTED = "started.json"
#: What an artifact's manifest is called from when its deletion begins until it ends.
DELETED = "deleted.json"
#: Folders of an artifact: its Zarr group, and what its tasks leave behind until it is finished.
ARRAYS = "arrays"
PARTS = "parts"
#: Learning curves of a training: they hold the time of day, and may be deleted.
CURVES = "tensorboard"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Artifact:
    """One finished output on disk.

    Parameters
    ----------
    path
        Its directory.
    manifest
        What `manifest.json` says: kind, fingerprint, parents, settings, counts, metrics.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """What this was made from."""
        return str(self.manifest["fingerprint"])

    @property
    def counts(self) -> dict[str, Any]:
        """Numbers of rows, by what became of them."""
        return dict(self.manifest["counts"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Scientific figures of the stage."""
        return dict(self.manifest["metrics"])


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an artifact is made from: everything its fingerprint depends on.

    Parameters
    ----------
    kind
        Stage name.
    version
        Integer version of the stage.
    settings
        Settings that differ from their defaults, as JSON values.
    parents
        Fingerprints of the inputs, by name.
    """

    kind: str
    version: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the artifact this recipe makes."""
        return fingerprint(self.kind, self.version, self.settings, self.parents)

    def differences(self, recorded: Mapping[str, Any]) -> str:
        """Name what differs from a recorded recipe, in words."""
        found = [
            f"{part} {key} ({then} -> {now})"
            for part, mine in (("setting", self.settings), ("input", self.parents))
            for key, then, now in _changed(mine, recorded.get(f"{part}s", {}))
        ]
        if recorded.get("stage_version") != self.version:
            found.append(f"version ({recorded.get('stage_version')} -> {self.version})")
        return ", ".join(found)


def _changed(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, recorded value and present value of what differs."""
    return [
        (key, theirs.get(key, "default"), mine.get(key, "default"))
        for key in sorted({*mine, *theirs})
        if mine.get(key) != theirs.get(key)
    ]


def recorded_recipe(path: Path) -> dict[str, Any] | None:
    """What a directory was begun or made from; None if it holds no artifact."""
    found = _record(path)
    return None if found is None else found[1]


def _record(path: Path) -> tuple[str, dict[str, Any]] | None:
    """What a directory says it holds: the manifest, or the recipe of an unfinished artifact."""
    # The manifest twice: another process may finish the artifact between the two looks.
    for name in (MANIFEST, STARTED, MANIFEST):
        with suppress(FileNotFoundError, NotADirectoryError):
            return name, _read(path / name)
    return None


def _read(path: Path) -> dict[str, Any]:
    """A manifest, or what an unfinished artifact says of itself."""
    try:
        return dict(read_json(path))
    except ValueError as error:
        msg = f"{path}: not JSON: {error}. The artifact is damaged: delete {path.parent}."
        raise DamagedArtifactError(msg) from error


def refuse_stale(path: Path, recipe: Recipe) -> None:
    """Refuse a directory that holds something else; nothing is written.

    Raises
    ------
    StaleArtifactError
        If it holds something made from other inputs or settings.
    UsageError
        If it holds files that no stage of ours has written.
    """
    found = _record(path)
    if found is not None:
        recorded = found[1]
        if recorded["fingerprint"] != recipe.fingerprint:
            raise StaleArtifactError(
                path, recorded["fingerprint"], recipe.fingerprint, recipe.differences(recorded)
            )
    elif not (path / DELETED).exists() and any(not _is_scrap(file) for file in _inside(path)):
        msg = (
            f"{path} holds files, but no {MANIFEST}: found something this program did not write, "
            "expected an empty or absent directory. Give another place, or move the files away."
        )
        raise UsageError(msg)


def _inside(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def _is_scrap(file: Path) -> bool:
    """Whether a file is what a killed writer left, before it had a name."""
    return file.name.startswith(".") and file.suffix == ".part"


def begin_state(path: Path, recipe: Recipe) -> str:
    """What `begin` would find: ``done``, ``unfinished``, ``other settings`` or ``to do``."""
    found = _record(path)
    if found is None:
        return "to do"
    name, recorded = found
    if recorded["fingerprint"] != recipe.fingerprint:
        return "other settings"
    return "done" if name == MANIFEST else "unfinished"


def begin(path: Path, recipe: Recipe) -> Artifact | None:
    """Say what to do with an output directory.

    Returns
    -------
    Artifact or None
        The finished artifact, if `path` already holds what `recipe` makes (skip). None if it is
        to be made: from nothing, or resumed where an earlier run of the same recipe stopped.

    Raises
    ------
    StaleArtifactError, UsageError
        As `refuse_stale`.
    """
    refuse_stale(path, recipe)
    found = _record(path)
    if found is not None and found[0] == MANIFEST:
        if (path / STARTED).is_file():
            # Its writer was killed after the last file.
            (path / STARTED).unlink(missing_ok=True)
        return Artifact(path, found[1])
    if found is None:
        if (path / DELETED).exists():
            remove(path)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / STARTED, _recorded(recipe))
    return None


def _recorded(recipe: Recipe) -> dict[str, Any]:
    return {
        "kind": recipe.kind,
        "schema_version": SCHEMA_VERSION,
        "stage_version": recipe.version,
        "fingerprint": recipe.fingerprint,
        "inputs": dict(recipe.parents),
        "settings": dict(recipe.settings),
    }


def finish(
    path: Path,
    recipe: Recipe,
    *,
    counts: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
) -> Artifact:
    """Publish an artifact: write its manifest, the last file of all.

    Parameters
    ----------
    path, recipe
        As given to `begin`.
    counts
        Rows in and out, by what became of them.
    metrics
        Scientific figures.
    where
        Where and how long it ran: recorded, not part of the fingerprint.
    """
    # What a killed writer left half-written; nobody writes here any more.
    for pattern in (".*.part", "*.partial"):
        for scrap in path.rglob(pattern):
            scrap.unlink(missing_ok=True)
    manifest = _recorded(recipe) | {
        "counts": dict(counts),
        "metrics": dict(metrics or {}),
        "files": {name: file_digest(path / name) for name in _files(path)},
        "versions": versions(),
        "where": dict(where or {}),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(path / MANIFEST, manifest)
    (path / STARTED).unlink(missing_ok=True)
    return Artifact(path, manifest)


def _files(path: Path) -> list[str]:
    """Files of an artifact, but for shards, which have a list of their own, curves and scraps."""
    names = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
    return [
        name.as_posix()
        for name in names
        if name.parts[0] not in (MANIFEST, STARTED, PARTS, CURVES)
        and (name.parts[0] != ARRAYS or name.name == "zarr.json")
    ]


def check_files(artifact: Artifact) -> int:
    """Compare an artifact's files with the checksums in its manifest.

    Returns
    -------
    int
        Number of files checked.

    Raises
    ------
    DamagedArtifactError
        Naming the first file that is missing or differs.
    """
    listed = dict(artifact.manifest.get("files", {}))
    for name, checksum in listed.items():
        file = artifact.path / name
        found = f"checksum {file_digest(file)}" if file.is_file() else "no file"
        if found != f"checksum {checksum}":
            msg = (
                f"{file}: found {found}, expected checksum {checksum}. The artifact is damaged: "
                f"delete {artifact.path} and run the job again."
            )
            raise DamagedArtifactError(msg)
    return len(listed)


def open_artifact(path: Path, kind: str | None = None) -> Artifact:
    """Open a finished artifact.

    Raises
    ------
    DamagedArtifactError
        If there is none, it is unfinished, of another kind, or of a newer schema.
    """
    if not (path / MANIFEST).is_file():
        state = "an unfinished artifact" if (path / STARTED).is_file() else "no artifact"
        msg = f"{path}: found {state}, expected {MANIFEST}. Run the job that makes it to its end."
        raise DamagedArtifactError(msg)
    manifest = _read(path / MANIFEST)
    if kind is not None and manifest["kind"] != kind:
        msg = f"{path}: found an artifact of kind {manifest['kind']}, expected {kind}."
        raise DamagedArtifactError(msg)
    if manifest["schema_version"] > SCHEMA_VERSION:
        msg = (
            f"{path}: found schema version {manifest['schema_version']}, this program reads up to "
            f"{SCHEMA_VERSION}. Update spectra-scale."
        )
        raise DamagedArtifactError(msg)
    return Artifact(path, manifest)


def remove(path: Path) -> None:
    """Delete an artifact.

    What a killed deletion leaves is taken for no artifact, finished or not: `begin` deletes the
    rest of it.

    Raises
    ------
    OSError
        If something of it cannot be deleted.
    """
    if (path / MANIFEST).is_file():
        (path / STARTED).unlink(missing_ok=True)
    for name in (MANIFEST, STARTED):
        if (path / name).is_file():
            # A name takes no room: a full disk is a reason to delete.
            (path / name).replace(path / DELETED)
    for each in _inside(path):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != DELETED:
            each.unlink(missing_ok=True)
    (path / DELETED).unlink(missing_ok=True)
    # A link to a folder elsewhere, or a file system of its own, stays as an empty folder.
    with suppress(OSError):
        path.rmdir()
