"""What one file of a survey's folder is: by its name, or by a look inside."""

from __future__ import annotations

import re
import stat

from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.surveys import catalogue, lines, mmu
from spectra_scale.surveys.files import OtherFile, SourceFile, SpectrumFile
from spectra_scale.surveys.fits_bytes import UnsureError, card_value, load, read_hdus
from spectra_scale.surveys.names import (
    FITS_NAME,
    HDF5_NAME,
    TEXT_NAME,
    find_redshifts,
    format_by_name,
    is_redshift_file,
    refused,
)
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.tables import Source, open_source

_SPEC_MARKS = ("flux", "loglam", "ivar", "and_mask")
_ARM_MARKS = re.compile(r"[BRZ]_(FLUX|IVAR|WAVELENGTH)")
_WANTED = catalogue.WANTED | lines.WANTED
_HDUS_TO_TRY = 24


def redshifts_of(file: SourceFile) -> SourceFile | None:
    """File with the redshifts of a plate or coadd, if there is one."""
    found = find_redshifts(file.path)
    if found is None:
        return None
    return SourceFile(file.root, found.relative_to(file.root).as_posix())


def recognise(file: SourceFile) -> SpectrumFile | OtherFile | str:
    """Say what a file is.

    Returns
    -------
    SpectrumFile, OtherFile or str
        ``catalogue`` or ``lines`` for a table of one of these kinds.
    """
    name = file.path.name
    found = _not_regular(file) or _by_name(file)
    if found is not None:
        return found
    if HDF5_NAME.fullmatch(name):
        return _hdf5(file)
    if FITS_NAME.fullmatch(name) or TEXT_NAME.fullmatch(name):
        return _look_inside(file)
    return OtherFile(file, Reason.NOT_A_SPECTRUM, "a side file, by its name")


def _by_name(file: SourceFile) -> SpectrumFile | OtherFile | None:
    name = file.path.name
    kind = format_by_name(name)
    if kind is not None:
        return SpectrumFile(kind, file, redshifts_of(file))
    for reason, message in refused(name):
        return OtherFile(file, reason, message)
    if is_redshift_file(name):
        message = "redshifts of spectra whose file (spPlate, coadd) is not there"
        return OtherFile(file, Reason.ROW_WITHOUT_FILE, message)
    return None


def _not_regular(file: SourceFile) -> OtherFile | None:
    """A link to nothing, a pipe or a device: opening one of these may wait for ever."""
    try:
        mode = file.path.stat().st_mode
    except OSError as error:
        message = f"cannot be looked at: {error.strerror}"
        return OtherFile(file, Reason.UNREADABLE, message)
    if not _is_text(file.relative):
        message = "its name, or that of a folder it is in, is not UTF-8: rename it"
        return OtherFile(file, Reason.UNREADABLE, message)
    if stat.S_ISREG(mode):
        return None
    return OtherFile(file, Reason.UNREADABLE, "is a pipe or device, expected a regular file")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hdf5(file: SourceFile) -> SpectrumFile | OtherFile:
    if mmu.is_mmu(file.path):
        return SpectrumFile("mmu", file)
    message = "HDF5, but not a MultimodalUniverse file of SDSS or DESI spectra"
    return OtherFile(file, Reason.UNKNOWN_FORMAT, message)


def _look_inside(file: SourceFile) -> SpectrumFile | OtherFile | str:
    try:
        if FITS_NAME.fullmatch(file.path.name):
            found = _fits_kind(file)
            if found is not None:
                return found
        source = open_source(file.path, _WANTED)
    except BadSpectrumError as error:
        return OtherFile(file, Reason(error.reason), error.message)
    except SpectraScaleError as error:
        return OtherFile(file, Reason.UNKNOWN_FORMAT, str(error))
    kind = _kind_of(source)
    if kind == "spec":
        return SpectrumFile("spec", file)
    return kind or OtherFile(
        file,
        Reason.NOT_A_SPECTRUM if TEXT_NAME.fullmatch(file.path.name) else Reason.UNKNOWN_FORMAT,
        f"a table, but of no known kind: its columns are {source.some_names()}",
    )


def _kind_of(source: Source) -> str | None:
    if all(name in source for name in _SPEC_MARKS):
        return "spec"
    if lines.is_line_catalogue(source):
        return "lines"
    return "catalogue" if catalogue.is_catalogue(source) else None


def _fits_kind(file: SourceFile) -> SpectrumFile | OtherFile | None:
    """Kinds that are told by headers: DR7 spSpec files and DESI coadds of another name."""
    buffer = load(file.path)
    if card_value(bytes(buffer[: 16 * 2880]), "SPEC_CLN") is not None:
        reason, message = next(iter(refused("spSpec-.fit")))
        return OtherFile(file, reason, message)
    try:
        names = [hdu.name for hdu in read_hdus(buffer, _HDUS_TO_TRY)]
    except UnsureError:
        return None
    arms = sum(bool(_ARM_MARKS.fullmatch(name)) for name in names)
    if "FIBERMAP" in names and arms >= 2:
        return SpectrumFile("coadd", file)
    return None
