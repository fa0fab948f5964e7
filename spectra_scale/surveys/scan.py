"""What is in a survey's folder: every file is named, none is passed over in silence."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectra_scale.errors import BadSpectrumError, SpectraScaleError, UsageError
from spectra_scale.surveys import catalogue, lines
from spectra_scale.surveys.fits_bytes import card_value, load
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss_plate import PLATE_NAME, ZBEST_NAME, find_zbest
from spectra_scale.surveys.sdss_spec import FILE_NAME
from spectra_scale.surveys.tables import Source, open_source

log = logging.getLogger(__name__)

_FITS = re.compile(r".*\.(fits|fit|fts)(\.gz)?", re.IGNORECASE)
_CSV = re.compile(r".*\.csv(\.gz)?", re.IGNORECASE)
# By name alone: kind of file, pattern, what to say.
_OTHERS = (
    (
        Reason.OTHER_SURVEY,
        re.compile(r"spec-\d+p?-\d{5}-\d{5,}\.fits(\.gz)?", re.IGNORECASE),
        "an SDSS-V spectrum (FIELD-MJD-CATALOGID), which is another survey here",
    ),
    (
        Reason.DR7_SPSPEC,
        re.compile(r"spSpec-.*\.fits?(\.gz)?", re.IGNORECASE),
        "a DR7 spSpec file: get spec-PLATE-MJD-FIBER.fits of DR8 or later",
    ),
    (
        Reason.OTHER_SURVEY,
        re.compile(r"(coadd|redrock|spectra|zbest|zall|zpix|fastspec)-.*\.fits(\.gz)?"),
        "a DESI file, which is another survey here",
    ),
)
_SPEC_MARKS = ("flux", "loglam", "ivar", "and_mask")
_WANTED = catalogue.WANTED | lines.WANTED


@dataclass(frozen=True, slots=True, order=True)
class SourceFile:
    """A file under one of the scanned folders.

    Parameters
    ----------
    root
        The folder.
    relative
        Path below it, with forward slashes.
    """

    root: Path
    relative: str

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.root / self.relative


@dataclass(frozen=True, slots=True, order=True)
class PlateFiles:
    """A plate file and the redshifts of its fibres, if there are any."""

    spplate: SourceFile
    zbest: SourceFile | None


@dataclass(frozen=True, slots=True, order=True)
class OtherFile:
    """A file that yields no spectra: a line of the ledger."""

    file: SourceFile
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Scan:
    """All files of the scanned folders, each in one of these lists, sorted by folder and path.

    Parameters
    ----------
    spec_files
        Single-object spectrum files. Those with such a name were not opened yet.
    plates
        Plate files with their redshift files.
    catalogues, line_catalogues
        FITS and CSV tables with the columns of a catalogue of spectra, or of line measurements.
        Parquet files are taken for side files: name a Parquet catalogue in the job.
    others
        Everything else, with a reason.
    """

    spec_files: tuple[SourceFile, ...]
    plates: tuple[PlateFiles, ...]
    catalogues: tuple[SourceFile, ...]
    line_catalogues: tuple[SourceFile, ...]
    others: tuple[OtherFile, ...]

    @property
    def n_files(self) -> int:
        """How many files were found; each is in exactly one list."""
        plates = sum(2 if plate.zbest else 1 for plate in self.plates)
        singles = (self.spec_files, self.catalogues, self.line_catalogues, self.others)
        return plates + sum(len(files) for files in singles)


def scan(folders: Path | Sequence[Path]) -> Scan:
    """List the files of one or several folders, and of all folders below them.

    Parameters
    ----------
    folders
        Folders, or single files.

    Returns
    -------
    Scan
        The same for the same files, whatever the order of the file system. A file is recognised
        by its name, and by a look inside where the name does not tell.

    Raises
    ------
    UsageError
        If a folder does not exist, or no spectra are found in any.
    """
    roots = [folders] if isinstance(folders, Path) else list(folders)
    files = [file for root in roots for file in _walk(root)]
    plates = [_plate(file) for file in files if PLATE_NAME.fullmatch(file.path.name)]
    zbests = {plate.zbest for plate in plates}
    kinds: dict[str, list[SourceFile]] = {"spec": [], "catalogue": [], "lines": []}
    others = []
    for file in files:
        if PLATE_NAME.fullmatch(file.path.name) or file in zbests:
            continue
        found = _recognise(file)
        if isinstance(found, OtherFile):
            others.append(found)
        else:
            kinds[found].append(file)
    if not kinds["spec"] and not plates:
        raise UsageError(_nothing(roots, others))
    log.info("scanned files=%d spectra=%d plates=%d", len(files), len(kinds["spec"]), len(plates))
    single = (tuple(kinds["spec"]), tuple(plates), tuple(kinds["catalogue"]))
    return Scan(*single, tuple(kinds["lines"]), tuple(others))


def _walk(root: Path) -> Iterator[SourceFile]:
    if root.is_file():
        yield SourceFile(root.parent, root.name)
        return
    if not root.is_dir():
        msg = f"{root} does not exist; expected a folder with SDSS spectra. Check the path."
        raise UsageError(msg)
    found = []
    seen = {os.path.realpath(root)}
    for folder, below, names in os.walk(root, followlinks=True):
        # Links may lead back up.
        below[:] = [name for name in sorted(below) if _is_new(Path(folder, name), seen)]
        relative = Path(folder).relative_to(root)
        found += [(relative / name).as_posix() for name in names]
    for name in sorted(found):
        yield SourceFile(root, name)


def _is_new(folder: Path, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    if real in seen:
        return False
    seen.add(real)
    return True


def _plate(file: SourceFile) -> PlateFiles:
    zbest = find_zbest(file.path)
    if zbest is None:
        return PlateFiles(file, None)
    return PlateFiles(file, SourceFile(file.root, zbest.relative_to(file.root).as_posix()))


def _recognise(file: SourceFile) -> str | OtherFile:
    name = file.path.name
    if FILE_NAME.fullmatch(name):
        return "spec"
    for reason, pattern, message in _OTHERS:
        if pattern.fullmatch(name):
            return OtherFile(file, reason, message)
    if ZBEST_NAME.fullmatch(name):
        message = "redshifts of a plate whose spPlate file is not there"
        return OtherFile(file, Reason.ROW_WITHOUT_FILE, message)
    if _FITS.fullmatch(name) or _CSV.fullmatch(name):
        return _look_inside(file)
    return OtherFile(file, Reason.NOT_A_SPECTRUM, "a side file, by its name")


def _look_inside(file: SourceFile) -> str | OtherFile:
    try:
        if _FITS.fullmatch(file.path.name) and _is_spspec(file.path):
            return OtherFile(file, Reason.DR7_SPSPEC, _OTHERS[1][2])
        source = open_source(file.path, _WANTED)
    except BadSpectrumError as error:
        return OtherFile(file, Reason(error.reason), error.message)
    except SpectraScaleError as error:
        return OtherFile(file, Reason.UNKNOWN_FORMAT, str(error))
    return _kind_of(source) or OtherFile(
        file,
        Reason.NOT_A_SPECTRUM if _CSV.fullmatch(file.path.name) else Reason.UNKNOWN_FORMAT,
        f"a table, but of no known kind: its columns are {source.some_names()}",
    )


def _kind_of(source: Source) -> str | None:
    if all(name in source for name in _SPEC_MARKS):
        return "spec"
    if lines.is_line_catalogue(source):
        return "lines"
    return "catalogue" if catalogue.is_catalogue(source) else None


def _is_spspec(path: Path) -> bool:
    header = bytes(load(path, mapped=True)[: 16 * 2880])
    return card_value(header, "SPEC_CLN") is not None


def _nothing(roots: list[Path], others: list[OtherFile]) -> str:
    where = ", ".join(str(root) for root in roots)
    seen = ""
    if others:
        first = others[0]
        seen = f" ({len(others)} other files, the first {first.file.relative}: {first.message})"
    return (
        f"{where}: found no spectra{seen}; expected spec-PLATE-MJD-FIBER.fits or "
        "spPlate-PLATE-MJD.fits files, in it or below. Check the path."
    )
