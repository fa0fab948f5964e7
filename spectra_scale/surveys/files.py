"""Files of a survey's folder, by what they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from spectra_scale.surveys.reasons import Reason

NUMBERED = re.compile(r"(\d+):")
"""Number of a source folder before a path."""


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
class SpectrumFile:
    """A file with spectra.

    Parameters
    ----------
    format
        Its kind, a name of `formats.FORMATS`.
    file
        The file.
    redshifts
        The file with the redshifts of its spectra (spZbest, redrock), if the format has one and
        it is there.
    """

    format: str
    file: SourceFile
    redshifts: SourceFile | None = None


@dataclass(frozen=True, slots=True, order=True)
class OtherFile:
    """A file that yields no spectra: a line of the ledger."""

    file: SourceFile
    reason: Reason
    message: str


def locate(roots: tuple[Path, ...], locator: str) -> Path:
    """A file by its name in the catalogue or the ledger.

    Parameters
    ----------
    roots
        Source folders of the release.
    locator
        Path below the first folder; of another one, its number and a colon before it.
    """
    match = NUMBERED.match(locator)
    if match is None:
        return roots[0] / locator
    return roots[int(match[1])] / locator[match.end() :]
