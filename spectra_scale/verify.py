"""Verify: whether what is on disk is what was written, and whether it can be true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.compute.place import Place, Work
from spectra_scale.errors import DamagedArtifactError, SpectraScaleError
from spectra_scale.stages.ingest import revisions_of
from spectra_scale.store.arrays import Shard, check_shards, open_array, read_rows
from spectra_scale.store.artifact import MANIFEST, STARTED, Artifact, check_files, open_artifact
from spectra_scale.store.objects import column
from spectra_scale.store.release import files_named
from spectra_scale.store.run import OBJECT_STAGES, Run
from spectra_scale.store.sample import Sample, read_rest
from spectra_scale.store.tables import read_table
from spectra_scale.surveys.release import Release
from spectra_scale.verify_sources import check_sources


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified.

    Parameters
    ----------
    what
        What it is.
    problem
        What is wrong; empty if nothing is.
    """

    what: str
    problem: str = ""


def verify(path: Path, place: Place, sources: int | Literal["all"] = 0) -> list[Check]:
    """Verify everything under a directory: a run, a release, a sample, or several of them.

    Parameters
    ----------
    path
        The directory.
    place
        Where shards are read.
    sources
        Spectra of each release that are read again from the survey's files and compared, drawn at
        random; ``all`` for every one.

    Raises
    ------
    SpectraScaleError
        If there is nothing of ours.
    """
    folders = {file.parent for name in (MANIFEST, STARTED) for file in path.rglob(name)}
    # Revisions of a release lie beside it.
    found = sorted(folders | set(revisions_of(path) if path in folders else ()))
    if not found:
        msg = f"{path}: found no artifact, expected a run, a release or a sample. Check the path."
        raise SpectraScaleError(msg)
    checks = [check for folder in found for check in _artifact(folder, place, sources)]
    if (path / "sample" / MANIFEST).is_file():
        checks += [_attempt(f"{stage}: keys", partial(Run(path).objects, stage))
                   for stage in OBJECT_STAGES if Run(path).has(stage)]  # fmt: skip
    return checks


def _artifact(folder: Path, place: Place, sources: int | Literal["all"]) -> list[Check]:
    name = str(folder)
    try:
        artifact = open_artifact(folder)
    except DamagedArtifactError as error:
        return [Check(name, str(error))]
    checks = [Check(f"{name}: {artifact.manifest['kind']}")]
    checks.append(_attempt(f"{name}: files", partial(check_files, artifact)))
    shards = folder / "shards.parquet"
    if shards.is_file():
        checks.append(_attempt(f"{name}: checksums",
                               partial(check_shards, folder / "arrays", shards)))  # fmt: skip
    if any(check.problem for check in checks):
        # What is damaged cannot be read; nothing more can be said of it.
        return checks
    if artifact.manifest["kind"] == "ingest":
        checks.append(_attempt(f"{name}: accounting", partial(_check_release, artifact)))
        what = f"{name}: invariants"
        if Release(artifact).has_copy:
            checks.append(_attempt(what, partial(_release_invariants, artifact, place)))
        if sources:
            checks.append(_sources(name, artifact, place, sources))
    if artifact.manifest["kind"] == "prepare":
        checks.append(_attempt(f"{name}: accounting", partial(_check_sample, artifact)))
        checks.append(_attempt(f"{name}: invariants", partial(_invariants, artifact, place)))
    return checks


def _attempt(what: str, test: Callable[[], object]) -> Check:
    try:
        test()
    except SpectraScaleError as error:
        return Check(what, str(error))
    return Check(what)


def _sources(name: str, artifact: Artifact, place: Place, n: int | Literal["all"]) -> Check:
    release = Release(artifact)
    rows = None if n == "all" else n
    checked = release.n_rows if rows is None else min(rows, release.n_rows)
    what = f"{name}: {checked:,} of {release.n_rows:,} spectra against the survey's files"
    return _attempt(what, partial(check_sources, release, place, rows))


def _expect(pairs: Sequence[tuple[str, int, int]], where: Path) -> None:
    for what, found, expected in pairs:
        if found != expected:
            msg = f"{where}: found {found} {what}, expected {expected}. Rebuild the artifact."
            raise DamagedArtifactError(msg)


def _check_release(artifact: Artifact) -> None:
    release = Release(artifact)
    counts, catalogue = artifact.counts, release.catalogue
    status = catalogue["status"].to_pylist()
    ledger = release.ledger
    listed = set(read_table(release.path / "files.parquet")["path"].to_pylist())
    named = files_named(catalogue, ledger)
    # A revision may take rows from files that an earlier one lists.
    is_revision = "earlier revision" in artifact.manifest["inputs"]
    # Files of rows beyond the limit are named nowhere.
    silent = len(listed - named) if not counts["rows beyond --limit"] else 0
    accounted = counts["rows"] + counts["rows beyond --limit"]
    accounted += counts["rows of earlier revisions"] + ledger["kind"].to_pylist().count("row")
    _expect(
        [
            ("catalogue rows", catalogue.num_rows, counts["rows"]),
            ("line rows", release.lines.num_rows, counts["rows"]),
            ("kept rows", status.count("kept"), counts["kept"]),
            ("quarantined rows", status.count("quarantined"), counts["quarantined"]),
            ("rows accounted for", accounted, counts["rows in"]),
            ("files listed", len(listed), counts["files in"]),
            ("files named that are not listed", 0 if is_revision else len(named - listed), 0),
            ("files neither row nor ledger", max(silent - counts["redshift files"], 0), 0),
            ("different keys", len(set(catalogue["spectrum_key"].to_pylist())), counts["rows"]),
        ],
        release.path,
    )


def _release_invariants(artifact: Artifact, place: Place) -> None:
    release = Release(artifact)
    kept = column(release.catalogue, "status") == "kept"
    shards = release.shards
    work = Work("verify", "spectra", [shard.n_rows for shard in shards])
    tasks = [(shard, kept[shard.rows]) for shard in shards]
    problems = place.map(partial(_native_invariants_of, release.arrays.resolve()), tasks, work)
    _raise_first(problems)


def _native_invariants_of(arrays: Path, task: tuple[Shard, NDArray[np.bool_]]) -> str:
    """What is wrong with a shard: its ivar, flux where there is ivar, or whether there is any."""
    shard, kept = task
    flux, ivar = (read_rows(arrays, name, shard.rows) for name in ("flux", "ivar"))
    where = f"{arrays}, shard {shard.index}"
    if not (np.isfinite(ivar).all() and (ivar >= 0).all()):
        return f"{where}: found ivar that is negative or not finite."
    if not np.isfinite(flux[ivar > 0]).all():
        return f"{where}: found flux that is not finite where ivar is above 0."
    if not np.array_equal((ivar > 0).any(axis=1), kept):
        return f"{where}: kept spectra without ivar, or quarantined ones with it."
    return ""


def _raise_first(problems: Sequence[str]) -> None:
    for problem in problems:
        if problem:
            raise DamagedArtifactError(problem)


def _check_sample(artifact: Artifact) -> None:
    sample = Sample(artifact)
    counts = artifact.counts
    _expect(
        [
            ("index rows", sample.index.num_rows, counts["kept"]),
            ("dropped rows", sample.dropped.num_rows, counts["dropped"]),
            ("rows accounted for", counts["kept"] + counts["dropped"], counts["rows in"]),
        ],
        sample.path,
    )


def _invariants(artifact: Artifact, place: Place) -> None:
    sample = Sample(artifact)
    if not np.array_equal(open_array(sample.arrays, "wavelength")[:], sample.grid.centres):
        msg = f"{sample.arrays}: wavelengths are not those of the grid. Rebuild the artifact."
        raise DamagedArtifactError(msg)
    shards = sample.shards
    work = Work("verify", "spectra", [shard.n_rows for shard in shards])
    fractions = column(sample.index, "masked_fraction")
    tasks = [(shard, fractions[shard.rows]) for shard in shards]
    _raise_first(place.map(partial(_invariants_of, sample.arrays.resolve()), tasks, work))


def _invariants_of(arrays: Path, task: tuple[Shard, pa.Array]) -> str:
    """What is wrong with a shard: flux 0 where ivar is 0, all finite, masks as in the index."""
    shard, fraction = task
    flux, ivar = read_rest(arrays, shard.rows)
    if not (np.isfinite(flux).all() and np.isfinite(ivar).all()):
        return f"{arrays}, shard {shard.index}: found values that are not finite."
    if (ivar < 0).any() or flux[ivar == 0].any():
        return f"{arrays}, shard {shard.index}: found ivar below 0, or flux where ivar is 0."
    masked = (ivar == 0).mean(axis=1)
    if not np.allclose(masked, fraction, rtol=0, atol=1e-9):
        return f"{arrays}, shard {shard.index}: masked fractions differ from the index."
    return ""
