"""What is in a survey's folder: every file is named, none is passed over in silence."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectra_scale.errors import UsageError
from spectra_scale.surveys.files import OtherFile, SourceFile, SpectrumFile
from spectra_scale.surveys.formats import FORMATS, SURVEY_GRIDS
from spectra_scale.surveys.names import format_by_name
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.recognise import recognise, redshifts_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scan:
    """All files of the scanned folders, each in one of these lists, sorted by folder and path.

    Parameters
    ----------
    survey
        Whose spectra they are: `sdss` or `desi`.
    spectra
        Spectrum files. Those that are told by their name were not opened yet.
    catalogues, line_catalogues
        FITS and CSV tables with the columns of a catalogue of spectra, or of line measurements.
        Parquet files are taken for side files: name a Parquet catalogue in the job.
    others
        Everything else, with a reason.
    """

    survey: str
    spectra: tuple[SpectrumFile, ...]
    catalogues: tuple[SourceFile, ...]
    line_catalogues: tuple[SourceFile, ...]
    others: tuple[OtherFile, ...]

    def files(self) -> Iterator[SourceFile]:
        """Every file, once: two packings of a coadd have one file of redshifts."""
        partners = (s.redshifts for s in self.spectra if s.redshifts is not None)
        yield from (spectrum.file for spectrum in self.spectra)
        yield from dict.fromkeys(partners)
        yield from self.catalogues
        yield from self.line_catalogues
        for other in self.others:
            yield other.file

    def of(self, kind: str) -> list[SpectrumFile]:
        """Spectrum files of one format (`formats.FORMATS`)."""
        return [each for each in self.spectra if each.format == kind]

    @property
    def n_files(self) -> int:
        """How many files were found; each is in exactly one list."""
        return sum(1 for _ in self.files())


def scan(folders: Path | Sequence[Path], survey: str = "auto") -> Scan:
    """List the files of one or several folders, and of all folders below them.

    Parameters
    ----------
    folders
        Folders, or single files.
    survey
        `sdss` or `desi`: whose spectra are wanted, those of the other are `other_survey`.
        `auto`: those that are there, if they are of one of them.

    Returns
    -------
    Scan
        The same for the same files, whatever the order of the file system. A file is recognised
        by its name, and by a look inside where the name does not tell.

    Raises
    ------
    UsageError
        If a folder does not exist or cannot be listed, no spectra are found in any, or those of
        two surveys are and `survey` does not say which.
    """
    roots = [folders] if isinstance(folders, Path) else list(folders)
    files = [file for root in roots for file in _walk(root)]
    spectra: list[SpectrumFile] = []
    tables: dict[str, list[SourceFile]] = {"catalogue": [], "lines": []}
    others: list[OtherFile] = []
    partners = _partners(files)
    for file in files:
        if file in partners:
            continue
        found = recognise(file)
        if isinstance(found, SpectrumFile):
            spectra.append(found)
        elif isinstance(found, OtherFile):
            others.append(found)
        else:
            tables[found].append(file)
    chosen = _survey(roots, spectra, others, survey)
    others += [_of_another(each, chosen) for each in spectra if _survey_of(each) != chosen]
    strangers = {each.redshifts: each for each in spectra if _survey_of(each) != chosen}
    others += [
        OtherFile(file, Reason.OTHER_SURVEY, f"redshifts of {each.file.relative}")
        for file, each in strangers.items()
        if file is not None
    ]
    mine = tuple(each for each in spectra if _survey_of(each) == chosen)
    log.info("scanned files=%d spectra=%d", len(files), len(mine))
    single = tuple(tables["catalogue"]), tuple(tables["lines"])
    return Scan(chosen, mine, *single, tuple(sorted(others)))


def _survey_of(found: SpectrumFile) -> str:
    return FORMATS[found.format].survey_of(found.file.path)


def _of_another(found: SpectrumFile, chosen: str) -> OtherFile:
    message = f"{FORMATS[found.format].title}; this is a release of {chosen.upper()}"
    return OtherFile(found.file, Reason.OTHER_SURVEY, message)


def _walk(root: Path) -> Iterator[SourceFile]:
    if root.is_file():
        yield SourceFile(root.parent, root.name)
        return
    if not root.is_dir():
        msg = f"{root} does not exist; expected a folder with survey files. Check the path."
        raise UsageError(msg)
    found = []
    seen = {os.path.realpath(root)}
    for folder, below, names in os.walk(root, followlinks=True, onerror=_refuse):
        # Links may lead back up.
        below[:] = [name for name in sorted(below) if _is_new(Path(folder, name), seen)]
        relative = Path(folder).relative_to(root)
        found += [(relative / name).as_posix() for name in names]
    for name in sorted(found):
        yield SourceFile(root, name)


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed would be passed over in silence."""
    msg = (
        f"{error.filename}: cannot be listed ({error.strerror}); expected a folder that can be "
        "read. Give yourself the right to read it, or move it out of the source folder."
    )
    raise UsageError(msg) from error


def _is_new(folder: Path, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    if real in seen:
        return False
    seen.add(real)
    return True


def _partners(files: Sequence[SourceFile]) -> set[SourceFile]:
    """Redshift files that belong to a plate or coadd of the folders."""
    found = set()
    for file in files:
        if format_by_name(file.path.name) in ("spplate", "coadd"):
            partner = redshifts_of(file)
            if partner is not None:
                found.add(partner)
    return found


def _survey(
    roots: list[Path], spectra: list[SpectrumFile], others: list[OtherFile], wanted: str
) -> str:
    counts = Counter(_survey_of(each) for each in spectra)
    if wanted == "auto" and len(counts) > 1:
        found = " and ".join(f"{n} of {survey.upper()}" for survey, n in sorted(counts.items()))
        msg = (
            f"{_where(roots)}: found spectrum files of two surveys, {found}; a release is of one. "
            f"Set its survey to {' or '.join(sorted(SURVEY_GRIDS))}, and give each a release."
        )
        raise UsageError(msg)
    chosen = wanted if wanted != "auto" else next(iter(counts), "")
    if not counts[chosen]:
        raise UsageError(_nothing(roots, others, counts, chosen))
    return chosen


def _where(roots: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in roots)


def _nothing(roots: list[Path], others: list[OtherFile], counts: Counter[str], chosen: str) -> str:
    seen = ""
    if others:
        first = others[0]
        seen = f" ({len(others)} other files, the first {first.file.relative}: {first.message})"
    if counts:
        seen = f" of {chosen.upper()}, but {counts.total()} of another survey"
    names = "; ".join(each.files for each in FORMATS.values())
    return (
        f"{_where(roots)}: found no spectra{seen}; expected files such as {names}, in it or "
        "below. Check the path."
    )
