"""One process at a time writes into a folder: a mock release, a release, a run."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import naming

log = logging.getLogger(__name__)

LOCK = ".lock"
_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})


@contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold the only right to write into `folder` until the block is left, or the process ends.

    Whoever calls `release.begin`, `write_plate` and `release.finish` himself needs it where
    another run may have the same folder; workers of a run that holds it do not.

    Parameters
    ----------
    folder
        The folder; made if it is not there.
    name
        Name of the lock, where several things in one folder have one each.

    Raises
    ------
    SpectraScaleError
        If another run holds it: which, and what to do.
    """
    # The system drops a flock with the last process that holds the file open, however it ends,
    # so nothing has to be cleaned up after a kill. On NFS Linux turns it into a lock of the
    # server (since 2.6.12): it holds between hosts, unless the mount says nolock or local_lock,
    # when it holds between the processes of one host alone. File systems that know no locks are
    # written to all the same, with a warning.
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    handle = _open(path)
    try:
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        text = f"process {os.getpid()} on {socket.gethostname()} since {since}"
        with naming(path):
            os.ftruncate(handle, 0)
            os.write(handle, text.encode())
        yield
    finally:
        # First its name, then the lock: `_open` looks whether the name still means its file.
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _open(path: Path) -> int:
    """Open and lock the file that has this name once it is locked."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _flock(handle, path)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            # Its holder ended between the two lines, and took the name with it.
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _flock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            log.warning("folder=%s knows no locks: let one run at a time write", path.parent)
            return
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            raise
        holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        message = (
            f"{path.parent} is being written by {holder}; expected that nobody else writes there. "
            "Wait until it ends, or stop it, and give the same command again: what it wrote is "
            "kept. Or give another folder."
        )
        raise SpectraScaleError(message) from error
