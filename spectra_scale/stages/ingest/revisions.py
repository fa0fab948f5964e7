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
from spectra_scale.errors import UsageError
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
#: Files that are looked at again when others come: the missing half may be among them, and a disk
#: or server that failed may be back.
WAITING = (Reason.FILE_WITHOUT_ROW, Reason.ROW_WITHOUT_FILE, Reason.UNREADABLE)


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
        Its files; those of a finished piece need not be there any more. A revision also looks at
        files of earlier ones that wait for another half, or for rows of a catalogue that grew.
    listing
        The files that it accounts for, and their sizes, as listed when it was begun.
    earlier
        Directories of the pieces before it.
    fresh
        Spectrum files that are new, or another than they were, or whose redshift files are.
    restart
        Whether what is there was begun from files that changed since: nothing of it is of use.
    """

    name: str
    path: Path
    recipe: Recipe
    inventory: Inventory
    listing: pa.Table
    earlier: tuple[Path, ...]
    fresh: frozenset[str]
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
    if number == 0:
        return path
    if path.name in ("", ".", ".."):
        path = path.resolve()
    return path.with_name(f"{path.name}.{number}")


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

    Raises
    ------
    UsageError
        If it was made with a catalogue and none is given now, or the other way round.
    """
    catalogue = None if section.catalogue is None else file_digest(section.catalogue)
    family = _Family(section, path, inventory, settings, catalogue)
    for folder in revisions_of(path):
        made = _recorded(folder)
        if made is None or _outdated(folder, made, inventory, catalogue):
            # Begun and never finished; it can only be the last.
            return family.with_new(restart=_is_ours(folder, family.next_name))
        family.add(folder, *made)
    return family.complete()


class _Family:
    """A release and its revisions, one after the other."""

    def __init__(
        self,
        section: ReleaseSection,
        path: Path,
        inventory: Inventory,
        settings: Settings,
        catalogue: str | None,
    ) -> None:
        self.section, self.path, self.whole = section, path, inventory
        self.settings, self.catalogue = settings, catalogue
        self.pieces: list[Piece] = []
        self.known: dict[str, int] = {}
        self.seen: str | None = None

    @property
    def next_name(self) -> str:
        number = len(self.pieces)
        return self.section.name if number == 0 else f"{self.section.name}.{number}"

    def add(self, folder: Path, listing: pa.Table, seen: str | None) -> None:
        """Add a piece that is there, with the files and the catalogue it was made from."""
        self._check_catalogue(folder, seen)
        self.pieces.append(self._piece(folder, listing, seen, restart=False))
        self.known |= sizes_of(listing)
        self.seen = seen

    def with_new(self, *, restart: bool = False) -> list[Piece]:
        """The pieces, and one of all that is not in them."""
        listing = self.whole.listing()
        if self.pieces:
            changed = [self.known.get(name) != size for name, size in sizes_of(listing).items()]
            listing = listing.filter(pa.array(changed, pa.bool_()))
        folder = revision_path(self.path, len(self.pieces))
        return [*self.pieces, self._piece(folder, listing, self.catalogue, restart=restart)]

    def complete(self) -> list[Piece]:
        """The pieces, and one of what came since, if anything did and it can be known yet."""
        if not self.pieces:
            return self.with_new()
        now = sizes_of(self.whole.listing())
        _tell_gone(self.section.name, self.known, now)
        changed = sum(self.known.get(name) != size for name, size in now.items())
        if not changed and self.seen == self.catalogue:
            return self.pieces
        last = self.pieces[-1].path
        if not (last / MANIFEST).is_file():
            # What a revision takes depends on the ledger of the one before.
            log.warning("%s is unfinished and goes on with the files it was begun with; %d files "
                        "came since: ingest again to take them", last, changed)  # fmt: skip
            return self.pieces
        if self.settings.limit is not None:
            log.warning("release %s was made with a limit: %d files that came since are left out",
                        self.section.name, changed)  # fmt: skip
            return self.pieces
        return self.with_new()

    def _piece(
        self, folder: Path, listing: pa.Table, catalogue: str | None, *, restart: bool
    ) -> Piece:
        names = set(listing["path"].to_pylist())
        fresh = self.whole.fresh(names)
        wanted = names | fresh
        if self.pieces:
            wanted |= _waiting([piece.path for piece in self.pieces])
            if catalogue != self.seen:
                # Of a plate or coadd the catalogue may have more rows now.
                wanted |= self.whole.groups()
        mine = self.whole.only(wanted, names, names | self.known.keys())
        recipe = self._recipe(listing, catalogue)
        earlier = tuple(piece.path for piece in self.pieces)
        return Piece(self.next_name, folder, recipe, mine, listing, earlier, frozenset(fresh),
                     restart)  # fmt: skip

    def _recipe(self, listing: pa.Table, catalogue: str | None) -> Recipe:
        """What a piece is made from: names and sizes of its files, checksum of its catalogue."""
        parents = {"files": digest(list(sizes_of(listing).items()))}
        if catalogue is not None:
            parents["catalogue"] = catalogue
        if self.pieces:
            parents["earlier revision"] = self.pieces[-1].recipe.fingerprint
        found: dict[str, Any] = {"name": self.next_name, "survey": self.whole.files.survey}
        found |= changed_settings(self.settings.config)
        if self.settings.limit is not None:
            found["limit"] = self.settings.limit
        layout = self.settings.layout
        if layout != Layout():
            found["layout"] = [layout.shard_rows, layout.chunk_rows]
        return Recipe(KIND, VERSION, found, parents)

    def _check_catalogue(self, folder: Path, seen: str | None) -> None:
        if (seen is None) == (self.catalogue is None):
            return
        then, now = ("with", "none") if seen is not None else ("without", "one")
        msg = (
            f"{folder} was made {then} a catalogue, and {now} is given now: its revisions would "
            "hold what it left out. Give the catalogue as then, or another name and --out."
        )
        raise UsageError(msg)


def sizes_of(listing: pa.Table) -> dict[str, int]:
    """Bytes of the files of a listing (`store.schema.FILES`)."""
    return dict(zip(listing["path"].to_pylist(), listing["bytes"].to_pylist(), strict=True))


def _is_ours(folder: Path, name: str) -> bool:
    """Whether an unfinished artifact is this piece, begun before: it may be begun anew."""
    recorded = recorded_recipe(folder)
    if recorded is None or (folder / MANIFEST).is_file():
        return False
    return bool(recorded["kind"] == KIND and recorded["settings"].get("name") == name)


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
        rows = read_table(folder / "catalogue.parquet", ["source_file", "reason"])
        waiting -= set(pc.unique(rows["source_file"]).to_pylist())
        failed = rows.filter(pc.equal(rows["reason"], str(Reason.UNREADABLE)))
        waiting |= set(pc.unique(failed["source_file"]).to_pylist())
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
