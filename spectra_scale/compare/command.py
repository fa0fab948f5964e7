"""What `spectra-scale mock --compare FOLDER` does, but for printing."""

from __future__ import annotations

from pathlib import Path

from spectra_scale.compare.page import page_folder, write_page
from spectra_scale.compare.run import CompareSettings, Read, Report, compare, read_real
from spectra_scale.compare.verdicts import asked
from spectra_scale.config import MockSection
from spectra_scale.errors import UsageError


def read_beside(section: MockSection, folder: Path, report: Report) -> Read:
    """Read what a release is compared with, before a long time is spent on writing it.

    Parameters
    ----------
    section
        The release.
    folder
        With real SDSS files.
    report
        Told about progress.

    Raises
    ------
    UsageError
        If there are too few real spectra, or none of the release can be compared with them.
    """
    if round(section.desi_fraction * section.n_spectra) == section.n_spectra:
        message = (
            "--compare reads SDSS files, and found that all spectra of this release are DESI's. "
            "Leave out --compare, or ask for SDSS spectra as well."
        )
        raise UsageError(message)
    return read_real(folder, CompareSettings(), report)


def write_beside(release: Path, real: Read, report: Report) -> list[str]:
    """Write the page of a mock release beside real files.

    Parameters
    ----------
    release
        Its folder.
    real
        What `read_beside` gave.
    report
        Told about progress.

    Returns
    -------
    What is asked for and what was found, a line each, and last where the page is.
    """
    found = compare(release, real, CompareSettings(), report)
    page = write_page(found, page_folder(release))
    return [*(item.line() for item in asked(found.numbers)), f"page: {page}"]
