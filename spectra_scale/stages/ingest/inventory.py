"""What lies in a release's source folders, and what of it a revision takes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from spectra_scale.config import ReleaseSection
from spectra_scale.spectrum.grid import NativeGrid
from spectra_scale.store.schema import FILES
from spectra_scale.surveys.files import NUMBERED, SourceFile, SpectrumFile, locate
from spectra_scale.surveys.formats import FORMATS, SURVEY_GRIDS, FileIn
from spectra_scale.surveys.scan import Scan, scan

#: Size of a file that cannot be looked at, such as a link to nothing.
UNKNOWN_SIZE = -1


@dataclass(frozen=True, slots=True)
class Inventory:
    """Files of a release's source folders.

    Parameters
    ----------
    roots
        The folders, in the order of the job.
    files
        What is in them.
    catalogue
        The survey's catalogue, or None.
    """

    roots: tuple[Path, ...]
    files: Scan
    catalogue: Path | None

    @property
    def grid(self) -> NativeGrid:
        """Native grid of the release."""
        return SURVEY_GRIDS[self.files.survey]

    def locator(self, file: SourceFile) -> str:
        """A file's name in the catalogue and the ledger: its path below its folder.

        Of a folder after the first its number stands before it, so that names stay when a folder
        is added.
        """
        # A name that is no UTF-8 cannot stand in a table: such a file is refused (recognise).
        name = os.fsencode(file.relative).decode("utf-8", "backslashreplace")
        number = self.roots.index(file.root)
        return name if number == 0 and not NUMBERED.match(name) else f"{number}:{name}"

    def path(self, locator: str) -> Path:
        """A file by its locator."""
        return locate(self.roots, locator)

    def inputs(self) -> list[tuple[str, FileIn]]:
        """Format and file of everything with spectra."""
        return [
            (each.format, FileIn(
                self.locator(each.file), each.file.path,
                None if each.redshifts is None else each.redshifts.path,
            ))
            for each in self.files.spectra
        ]  # fmt: skip

    def listing(self) -> pa.Table:
        """Every file with its size (`store.schema.FILES`), in the order of their names."""
        sizes = {self.locator(file): _size(file.path) for file in self.files.files()}
        names = sorted(sizes)
        return pa.table({"path": pa.array(names, pa.string()),
                         "bytes": pa.array([sizes[name] for name in names], pa.int64())},
                        schema=FILES.arrow())  # fmt: skip

    def stamps(self, locators: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Size and time of change of some files: what tells that one was replaced."""
        return {locator: stamp_of(self.path(locator)) for locator in locators}

    def only(
        self, spectra: Collection[str], others: Collection[str], redshifts: Collection[str]
    ) -> Inventory:
        """The same folders, with some of the files alone.

        Parameters
        ----------
        spectra, others
            Spectrum files that stay, and tables and side files that do.
        redshifts
            Redshift files that are known; a spectrum file whose own is not has none.
        """

        def known(each: SpectrumFile) -> SpectrumFile:
            there = each.redshifts is not None and self.locator(each.redshifts) in redshifts
            return each if there else replace(each, redshifts=None)

        locators = others
        files = replace(
            self.files,
            spectra=tuple(
                known(each) for each in self.files.spectra if self.locator(each.file) in spectra
            ),
            catalogues=self._some(self.files.catalogues, locators),
            line_catalogues=self._some(self.files.line_catalogues, locators),
            others=tuple(
                each for each in self.files.others if self.locator(each.file) in locators
            ),
        )
        return replace(self, files=files)

    def fresh(self, locators: Collection[str]) -> set[str]:
        """Spectrum files that are among some files, or whose redshift files are."""
        found = set()
        for each in self.files.spectra:
            name = self.locator(each.file)
            partner = None if each.redshifts is None else self.locator(each.redshifts)
            if name in locators or partner in locators:
                found.add(name)
        return found

    def groups(self) -> set[str]:
        """Files of many spectra, of which a catalogue may take some now and more later."""
        return {
            self.locator(each.file)
            for each in self.files.spectra
            if not FORMATS[each.format].single
        }

    def _some(
        self, files: Iterable[SourceFile], locators: Collection[str]
    ) -> tuple[SourceFile, ...]:
        return tuple(file for file in files if self.locator(file) in locators)


def look(section: ReleaseSection) -> Inventory:
    """List the files of a release; nothing is read but what names do not tell."""
    files = scan(list(section.source), section.survey)
    return Inventory(section.source, files, section.catalogue)


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change (ns) of a file; -1 if it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return UNKNOWN_SIZE, UNKNOWN_SIZE
    return found.st_size, found.st_mtime_ns


def _size(path: Path) -> int:
    return stamp_of(path)[0]
