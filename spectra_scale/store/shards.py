"""Shards of row-aligned Zarr arrays, written and read without Zarr's machinery.

A shard is a Zarr v3 *sharding_indexed* file: compressed chunks, then their offsets and lengths
with a CRC32C. Zarr makes the arrays and stays the reference: tests hold the bytes written here to
Zarr's own, and an array of any other layout is left to it. It exists because most of Zarr's time
per shard goes into copies and scheduling, not into compression (docs/performance.md,
docs/adr/0006).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import SHUFFLE, Blosc
from numpy.typing import NDArray

from spectra_scale.errors import DamagedArtifactError
from spectra_scale.provenance import naming

Array = NDArray[Any]

CODEC: dict[str, Any] = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle"}
"""Blosc's settings: noisy float32 does not compress further, and bit-shuffle gains 2 % of size for
half of the speed (docs/performance.md)."""
_BLOSC = Blosc(cname="lz4", clevel=5, shuffle=SHUFFLE)
_MISSING = np.uint64(0xFFFFFFFFFFFFFFFF)
_CRC = 4
_CHECKSUM = "crc32c:{:08x}"
_DTYPES = {"float32": "<f4", "uint32": "<u4", "float64": "<f8", "int32": "<i4"}


@dataclass(frozen=True, slots=True)
class ShardedArray:
    """An array whose shards have the one layout that is read and written here.

    Parameters
    ----------
    path
        Its directory.
    shape
        Rows and columns.
    dtype
        Little-endian.
    shard_rows, chunk_rows
        Rows in a file, and rows compressed together; both span all columns.
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    shard_rows: int
    chunk_rows: int

    @property
    def chunks_a_shard(self) -> int:
        """Chunks in one file."""
        return self.shard_rows // self.chunk_rows

    def file(self, index: int) -> Path:
        """File of one shard; absent if it holds zeros alone."""
        return self.path / "c" / str(index) / "0"


def sharded_array(group: Path, name: str) -> ShardedArray | None:
    """One array of a group, if its layout is the one of this module; None leaves it to Zarr."""
    path = group / name
    try:
        found = json.loads((path / "zarr.json").read_bytes())
        shape, (shard_rows, _) = (
            found["shape"],
            found["chunk_grid"]["configuration"]["chunk_shape"],
        )
        (codec,) = found["codecs"]
        inner = codec["configuration"]
        chunk_rows = inner["chunk_shape"][0]
        blosc = inner["codecs"][1]["configuration"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    dtype = _DTYPES.get(str(found.get("data_type")))
    ours = (
        dtype is not None
        and _is_ours(found, codec)
        and inner["chunk_shape"] == [chunk_rows, shape[1]]
        and found["chunk_grid"]["configuration"]["chunk_shape"] == [shard_rows, shape[1]]
        and all(blosc.get(key) == value for key, value in CODEC.items())
        and shard_rows % chunk_rows == 0
    )
    if not ours:
        return None
    return ShardedArray(path, (shape[0], shape[1]), np.dtype(dtype), shard_rows, chunk_rows)


def _is_ours(found: dict[str, Any], codec: dict[str, Any]) -> bool:
    inner = codec["configuration"]
    names = [each["name"] for each in inner["codecs"]]
    return bool(
        found["fill_value"] == 0
        and found["chunk_key_encoding"]["name"] == "default"
        and codec["name"] == "sharding_indexed"
        and names == ["bytes", "blosc", "crc32c"]
        and [each["name"] for each in inner["index_codecs"]] == ["bytes", "crc32c"]
        and inner.get("index_location", "end") == "end"
        and inner["codecs"][0]["configuration"]["endian"] == "little"
    )


# Writing --------------------------------------------------------------------------------------


def write_shard_file(array: ShardedArray, index: int, values: Array) -> tuple[int, str]:
    """Write one shard: atomically, and no file where all is 0, as Zarr does.

    Parameters
    ----------
    array
        The array.
    index
        Number of the shard.
    values
        Shape (rows of the shard, columns).

    Returns
    -------
    size, checksum
        Bytes of the file, and its checksum as `file_checksum` gives it; 0 and '' without a file.
    """
    file = array.file(index)
    parts, table = [], np.full((array.chunks_a_shard, 2), _MISSING, "<u8")
    offset = 0
    for chunk in range(array.chunks_a_shard):
        rows = values[chunk * array.chunk_rows : (chunk + 1) * array.chunk_rows]
        encoded = _encoded(array, rows)
        if encoded is not None:
            table[chunk] = offset, len(encoded) + _CRC
            parts += [encoded, _crc(encoded)]
            offset += len(encoded) + _CRC
    if not parts:
        file.unlink(missing_ok=True)
        return 0, ""
    listing = table.tobytes()
    size, checksum = 0, 0
    with _replaced(file) as handle:
        for part in (*parts, listing, _crc(listing)):
            handle.write(part)
            size, checksum = size + len(part), google_crc32c.extend(checksum, part)
    return size, _CHECKSUM.format(checksum)


def file_checksum(path: Path) -> str:
    """CRC32C of a file, as text: enough for damage, at the speed of memory."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            checksum = google_crc32c.extend(checksum, block)
    return _CHECKSUM.format(checksum)


def _encoded(array: ShardedArray, rows: Array) -> bytes | None:
    """A compressed chunk; None if it is 0 throughout (-0.0 is not)."""
    if not len(rows) or not rows.view(f"u{array.dtype.itemsize}").any():
        return None
    if len(rows) < array.chunk_rows:
        # The last chunk of an array is full, too.
        padded = np.zeros((array.chunk_rows, rows.shape[1]), array.dtype)
        padded[: len(rows)] = rows
        rows = padded
    return bytes(_BLOSC.encode(np.ascontiguousarray(rows, array.dtype)))


def _crc(data: bytes | Array) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(_CRC, "little")


@contextmanager
def _replaced(path: Path) -> Iterator[Any]:
    """A file that takes its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        # Buffered: a raw file may take a part of what it is given, and not say so.
        with naming(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            # A task is marked as done after this: not even a power cut may undo it.
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


# Reading --------------------------------------------------------------------------------------


def read_some(array: ShardedArray, rows: NDArray[np.int64]) -> Array:
    """Read single rows, ascending: every chunk that holds one of them is unpacked once.

    Raises
    ------
    DamagedArtifactError
        As `read_span`.
    """
    found = np.empty((len(rows), array.shape[1]), array.dtype)
    chunks = rows // array.chunk_rows
    for chunk in np.unique(chunks).tolist():
        start = chunk * array.chunk_rows
        stop = min(start + array.chunk_rows, array.shape[0])
        mine = chunks == chunk
        found[mine] = read_span(array, start, stop)[rows[mine] - start]
    return found


def read_span(array: ShardedArray, start: int, stop: int, out: Array | None = None) -> Array:
    """Read consecutive rows.

    Parameters
    ----------
    array
        The array.
    start, stop
        First row, and the row after the last.
    out
        Where to put them, C-contiguous, shape (row, column); a new array if not given. In a loop
        one array saves the system the making of its pages.

    Raises
    ------
    DamagedArtifactError
        If a file is cut, or a checksum does not agree.
    """
    if out is None:
        out = np.empty((stop - start, array.shape[1]), array.dtype)
    for index in range(start // array.shard_rows, -(-stop // array.shard_rows)):
        first = index * array.shard_rows
        low, high = max(start, first), min(stop, first + array.shard_rows)
        if low < high:
            _read_shard(array, index, (low - first, high - first), out[low - start : high - start])
    return out


def _read_shard(array: ShardedArray, index: int, rows: tuple[int, int], out: Array) -> None:
    path = array.file(index)
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        out[:] = 0  # a shard of zeros has no file
        return
    try:
        table = _table(array, path, handle)
        size = array.chunk_rows
        for chunk in range(rows[0] // size, -(-rows[1] // size)):
            low, high = max(rows[0], chunk * size), min(rows[1], (chunk + 1) * size)
            target = out[low - rows[0] : high - rows[0]]
            offset, length = (int(value) for value in table[chunk])
            if table[chunk, 0] == _MISSING:
                target[:] = 0
                continue
            data = _checked(path, _pread(path, handle, length, offset))
            _decode(array, path, data, (low - chunk * size, high - chunk * size), target)
    finally:
        os.close(handle)


def _table(array: ShardedArray, path: Path, handle: int) -> Array:
    """Offset and length of every chunk of a shard."""
    length = 16 * array.chunks_a_shard + _CRC
    size = os.fstat(handle).st_size
    if size < length:
        raise _damaged(path, f"{size} bytes")
    data = _checked(path, _pread(path, handle, length, size - length))
    table: Array = np.frombuffer(data, "<u8").reshape(-1, 2)
    there = table[table[:, 0] != _MISSING]
    if (there.sum(axis=1) > size - length).any() or (there[:, 1] <= _CRC).any():
        raise _damaged(path, "chunks beyond its end")
    return table


def _pread(path: Path, handle: int, length: int, offset: int) -> bytes:
    data = os.pread(handle, length, offset)
    while len(data) < length:
        more = os.pread(handle, length - len(data), offset + len(data))
        if not more:
            raise _damaged(path, f"{offset + len(data)} bytes")
        data += more
    return data


def _checked(path: Path, data: bytes) -> Array:
    view = np.frombuffer(data, "u1")[:-_CRC]
    if _crc(view) != data[-_CRC:]:
        raise _damaged(path, "bytes that do not agree with their CRC32C")
    return view


def _decode(
    array: ShardedArray, path: Path, data: Array, rows: tuple[int, int], target: Array
) -> None:
    whole = rows == (0, array.chunk_rows)
    chunk = target if whole else np.empty((array.chunk_rows, array.shape[1]), array.dtype)
    try:
        _BLOSC.decode(data, chunk)
    except (RuntimeError, ValueError) as error:
        raise _damaged(path, f"a chunk that Blosc cannot unpack ({error})") from error
    if not whole:
        target[:] = chunk[rows[0] : rows[1]]


def _damaged(path: Path, found: str) -> DamagedArtifactError:
    msg = (
        f"{path}: found {found}, expected a whole shard. The artifact is damaged: delete "
        f"{path.parents[4]} and run the job again."
    )
    return DamagedArtifactError(msg)
