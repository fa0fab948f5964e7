"""Where a result comes from: fingerprints, versions and atomic JSON files.

A fingerprint says what a result was made from, never where or when: stage and version, settings
that differ from their defaults, the parents' fingerprints and, for files, relative path, size and
the checksum of catalogues (design.md §2). Runs can therefore be moved and copied.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBRARIES = ("spectra-scale", "numpy", "numba", "scipy", "zarr", "pyarrow", "dask", "ray", "torch",
             "scikit-learn", "umap-learn", "astropy", "matplotlib")  # fmt: skip


def digest(value: Any) -> str:
    """Checksum of any JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Checksum of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def fingerprint(
    stage: str, version: int, settings: Mapping[str, Any], parents: Mapping[str, str]
) -> str:
    """Fingerprint of one stage's output.

    Parameters
    ----------
    stage
        Name of the stage.
    version
        Its integer version, raised when its output changes for the same input.
    settings
        Settings that differ from their defaults.
    parents
        Fingerprint of every input artifact, by name.
    """
    return digest(
        {"stage": stage, "version": version, "settings": dict(settings), "parents": dict(parents)}
    )


def files_fingerprint(root: Path, paths: Sequence[Path]) -> str:
    """Fingerprint of many survey files: their relative paths and sizes.

    Contents are not read: a survey's files are immutable, and there are millions of them.
    """
    listing = sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in paths)
    return digest(listing)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that make the numbers."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one, the new one, or none, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error of the system that names no file, such as a full disk, the name of this."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, keys in the order given."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text())


def peak_memory() -> float:
    """Largest resident memory of this process so far, MiB."""
    try:
        # getrusage would count what the parent had when it forked this process.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    except (OSError, ValueError):  # no Linux
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
