"""A release and its revisions: what is there, and what files came since.

A release is immutable. Files that come later into its source folders become a revision, NAME.1,
NAME.2 ..., beside it, that holds only them. Each piece has `files.parquet`, the list of files it
accounts for, written when it is begun: what it is made from does not change when more files come.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.config import IngestSection, ReleaseSection, changed_settings
from spectra_scale.provenance import digest, file_digest, read_json
from spectra_scale.stages.ingest.inventory import Inventory
from spectra_scale.store.arrays import Layout
from spectra_scale.store.artifact import MANIFEST, STARTED, Recipe, recorded_recipe
from spectra_scale.store.release import KIND
from spectra_scale.store.tables import read_table
from spectra_scale.surveys.reasons import Reason

log = logging.getLogger(__name__)

VERSION = 2
FILES = "files.parquet"
PARTS = "parts"
STAMPS = "stamps.json"
#: Files that are looked at again when others come: the missing half may be among them.
WAITING = (Reason.FILE_WITHOUT_ROW, Reason.ROW_WITHOUT_FILE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A release, or one revision of it: made, begun or to be made.

    Parameters
    ----------
    name, path
        Its name, and its directory.
    recipe
        What it is made from.
    inventory
        Its files; those of a finished piece need not be there any more.
    listing
        Its files and their sizes, as listed when it was begun.
    earlier
        Directories of the pieces before it.
    restart
        Whether what is there was begun from files that changed since: nothing of it is of use.
    """

    name: str
    path: Path
    recipe: Recipe
    inventory: Inventory
    listing: pa.Table
    earlier: tuple[Path, ...]
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an ingest that its recipe depends on.

    Parameters
    ----------
    config
        `[ingest]` of the job.
    limit
        Rows of each piece at most; None for all.
    layout
        Shards and chunks.
    """

    config: IngestSection
    limit: int | None
    layout: Layout


def revision_path(path: Path, number: int) -> Path:
    """Directory of a release (number 0) or of one of its revisions."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


def revisions_of(path: Path) -> list[Path]:
    """Directories of a release and of its revisions, as far as they are there, in order."""
    numbered = (revision_path(path, number) for number in itertools.count())
    return list(itertools.takewhile(_is_there, numbered))


def _is_there(path: Path) -> bool:
    return any((path / name).is_file() for name in (MANIFEST, STARTED))


def pieces_of(
    section: ReleaseSection, path: Path, inventory: Inventory, settings: Settings
) -> list[Piece]:
    """The pieces of a release: those that are there, and one of what came since, if anything did.

    Parameters
    ----------
    section
        Its `[[release]]` table.
    path
        Its directory; revisions lie beside it.
    inventory
        All files of its source folders, from `look`.
    settings
        What else it depends on.
    """
    now = _sizes(inventory.listing())
    catalogue = None if section.catalogue is None else file_digest(section.catalogue)
    pieces: list[Piece] = []
    known: dict[str, int] = {}
    seen: str | None = None
    for number, folder in enumerate(revisions_of(path)):
        made = _recorded(folder)
        if made is None or _outdated(folder, made, inventory, catalogue):
            # Begun and never finished; it can only be the last.
            return [*pieces, _new(section, path, inventory, settings, pieces, known, catalogue)]
        listing, seen = made
        known |= _sizes(listing)
        mine = inventory.only(set(listing["path"].to_pylist()))
        recipe = _recipe(_name(section, number), listing, settings, seen, pieces)
        earlier = tuple(piece.path for piece in pieces)
        pieces.append(Piece(recipe.settings["name"], folder, recipe, mine, listing, earlier))
    _tell_gone(section.name, known, now)
    changed = {name for name, size in now.items() if known.get(name) != size}
    if pieces and not (pieces[-1].path / MANIFEST).is_file():
        # What a revision takes depends on the ledger of the one before.
        if changed:
            log.warning(
                "%s is unfinished and goes on with the files it was begun with; %d files "
                "came since: ingest again to take them",
                pieces[-1].path,
                len(changed),
            )
        return pieces
    if changed or not pieces:
        pieces.append(_new(section, path, inventory, settings, pieces, known, catalogue))
    elif seen != catalogue:
        more = _new(section, path, inventory, settings, pieces, known, catalogue)
        if more.listing.num_rows:
            return [*pieces, more]
        log.warning("release %s: its catalogue changed, but no file waits for a row of it. To "
                    "take the new values, ingest it under another name", section.name)  # fmt: skip
    return pieces


def _new(  # noqa: PLR0913, PLR0917 - the pieces of one release, seen from one place
    section: ReleaseSection,
    path: Path,
    inventory: Inventory,
    settings: Settings,
    pieces: Sequence[Piece],
    known: Mapping[str, int],
    catalogue: str | None,
) -> Piece:
    number = len(pieces)
    folder = revision_path(path, number)
    listing = inventory.listing()
    mine = inventory
    if pieces:
        wanted = {name for name, size in _sizes(listing).items() if known.get(name) != size}
        mine = inventory.only(wanted | _waiting([piece.path for piece in pieces]))
        listing = mine.listing()
    recipe = _recipe(_name(section, number), listing, settings, catalogue, pieces)
    earlier = tuple(piece.path for piece in pieces)
    restart = _is_there(folder) and (folder / MANIFEST).exists() is False
    return Piece(recipe.settings["name"], folder, recipe, mine, listing, earlier, restart)


def _name(section: ReleaseSection, number: int) -> str:
    return section.name if number == 0 else f"{section.name}.{number}"


def _recipe(
    name: str,
    listing: pa.Table,
    settings: Settings,
    catalogue: str | None,
    earlier: Sequence[Piece],
) -> Recipe:
    """What a piece is made from: names and sizes of its files, checksum of its catalogue."""
    parents = {"files": digest(list(_sizes(listing).items()))}
    if catalogue is not None:
        parents["catalogue"] = catalogue
    if earlier:
        parents["earlier revision"] = earlier[-1].recipe.fingerprint
    found: dict[str, Any] = {"name": name} | changed_settings(settings.config)
    if settings.limit is not None:
        found["limit"] = settings.limit
    if settings.layout != Layout():
        found["layout"] = [settings.layout.shard_rows, settings.layout.chunk_rows]
    return Recipe(KIND, VERSION, found, parents)


def _sizes(listing: pa.Table) -> dict[str, int]:
    return dict(zip(listing["path"].to_pylist(), listing["bytes"].to_pylist(), strict=True))


def _recorded(folder: Path) -> tuple[pa.Table, str | None] | None:
    """Files and catalogue a piece was begun with; None if it was killed before it said so."""
    if not (folder / FILES).is_file():
        return None
    recorded = recorded_recipe(folder)
    assert recorded is not None
    return read_table(folder / FILES), recorded["inputs"].get("catalogue")


def _outdated(
    folder: Path,
    made: tuple[pa.Table, str | None],
    inventory: Inventory,
    catalogue: str | None,
) -> bool:
    """Whether an unfinished piece was begun from files that are others, or gone, by now."""
    if (folder / MANIFEST).is_file():
        return False
    listing, seen = made
    if seen != catalogue:
        log.warning("%s was begun with another catalogue: it begins anew", folder)
        return True
    try:
        then = read_json(folder / PARTS / STAMPS)
    except (OSError, ValueError):
        return True
    now = inventory.stamps(listing["path"].to_pylist())
    changed = [name for name, stamp in now.items() if list(stamp) != then.get(name)]
    if changed:
        log.warning("%s was begun, but %d of its files changed since (%s): it begins anew",
                    folder, len(changed), changed[0])  # fmt: skip
    return bool(changed)


def _waiting(folders: Sequence[Path]) -> set[str]:
    """Files that still wait for their other half: a catalogue row, redshifts, a plate file."""
    reasons = pa.array([str(reason) for reason in WAITING])
    waiting: set[str] = set()
    for folder in folders:
        files = read_table(folder / "catalogue.parquet", ["source_file"])["source_file"]
        waiting -= set(pc.unique(files).to_pylist())
        ledger = read_table(folder / "ledger.parquet", ["path", "kind", "reason"])
        ledger = ledger.filter(pc.equal(ledger["kind"], "file"))
        waits = pc.is_in(ledger["reason"], value_set=reasons)
        waiting -= set(ledger.filter(pc.invert(waits))["path"].to_pylist())
        waiting |= set(ledger.filter(waits)["path"].to_pylist())
    return waiting


def _tell_gone(name: str, known: Mapping[str, int], now: Mapping[str, int]) -> None:
    gone = [file for file in known if file not in now]
    if gone:
        log.warning("release %s: %d files that it was made from are not in its folders any more "
                    "(%s); it stays as it is", name, len(gone), gone[0])  # fmt: skip
