"""Errors that say what was found, what was expected, where, and what to do.

Every error a user can cause derives from `SpectraScaleError`. The command line prints its message
without a traceback and leaves with its `exit_code`: 2 for wrong usage, 1 for a job that failed.
"""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress
from pathlib import Path


class SpectraScaleError(Exception):
    """Base of all errors that bad input or bad settings can cause."""

    exit_code = 1


class UsageError(SpectraScaleError):
    """A setting, option or path is wrong; nothing was started."""

    exit_code = 2


class BadSpectrumError(SpectraScaleError):
    """A survey file, or one spectrum in it, cannot be used.

    Not an error of the run: ingest turns it into a ledger or catalogue row with `reason`.

    Parameters
    ----------
    reason
        Reason code of the ledger, such as ``truncated`` or ``missing_hdu``.
    message
        What was found and what was expected.
    path
        The file.
    """

    def __init__(self, reason: str, message: str, path: Path | str) -> None:
        super().__init__(f"{path}: {message}")
        self.reason = reason
        self.message = message
        self.path = str(path)

    def __reduce__(self) -> tuple[type[BadSpectrumError], tuple[str, str, str]]:
        return (BadSpectrumError, (self.reason, self.message, self.path))


class StaleArtifactError(SpectraScaleError):
    """An output exists, but it was made from other inputs or settings.

    Parameters
    ----------
    path
        Directory of the artifact.
    recorded
        Fingerprint it was made with.
    expected
        Fingerprint the present inputs and settings give.
    changed
        Which settings or parents differ, in words.
    """

    exit_code = 2

    def __init__(self, path: Path, recorded: str, expected: str, changed: str = "") -> None:
        why = f" Changed: {changed}." if changed else ""
        super().__init__(
            f"{path} was made with fingerprint {recorded[:12]}, but the inputs and settings now "
            f"give {expected[:12]}.{why} Give another --out, or delete it (`spectra-scale clean` "
            "with the same job deletes what is stale), then run again."
        )
        self.recorded = recorded
        self.expected = expected

    def __reduce__(self) -> tuple[type[SpectraScaleError], tuple[str]]:
        return (SpectraScaleError, (str(self),))


class DamagedArtifactError(SpectraScaleError):
    """An output is listed as finished, but its files are missing or changed."""


# What the name of a file or folder can be wrong by.
_WRONG_NAME = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS})


def explain_system_error(error: OSError) -> tuple[str, int]:
    """What the operating system refused, and what to do; and the exit code for it."""
    what = error.strerror or str(error) or type(error).__name__
    where = "" if error.filename is None else f": {error.filename}"
    if error.errno in _WRONG_NAME:
        return f"{what}{where}. Expected the path of a file or folder: give another.", 2
    if error.errno in _DISK:
        where += _free(Path(error.filename or "."))
    return f"{what}{where}. Correct that and run the same command to go on.", 1


def _free(path: Path) -> str:
    """Free space of the disk that a file is on, or was to be on."""
    for folder in (path, *path.absolute().parents):
        with suppress(OSError):
            return f" ({shutil.disk_usage(folder).free / 2**30:.2f} GiB free there)"
    return ""
