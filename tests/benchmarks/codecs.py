"""Codecs, chunks and shards: size, speed and access patterns of native and rest-frame arrays.

    python tests/benchmarks/codecs.py [--quick] [--real FOLDER]

Real spec files of FOLDER are put on the native grid and repeated with fresh noise of their own
ivar, so that the arrays compress as those of a survey do. First table: compression ratio, and MB
(unpacked) a CPU-second to encode and decode, for each array and codec. Second: for chunks of 64
to 4096 rows (a sample of 1000 pixels), rows a CPU-second of three patterns: shuffled batches of
training (chunks in random order, rows shuffled in a window of four), a scan of all rows, and
single spectra; and the same of native arrays. One core, page cache warm.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "BLOSC_NTHREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from numcodecs import LZ4, Zstd  # noqa: E402
from numcodecs.blosc import BITSHUFFLE, NOSHUFFLE, SHUFFLE, Blosc  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from spectra_scale.spectrum.grid import SDSS_NATIVE  # noqa: E402
from spectra_scale.store.arrays import (  # noqa: E402
    Layout,
    create_arrays,
    read_rows,
    shards_of,
    write_shard,
)
from spectra_scale.store.schema import ArraySpec  # noqa: E402
from spectra_scale.surveys.sdss_spec import read_spec_block  # noqa: E402

REAL = Path(__file__).parents[3] / "shared" / "data" / "sdss" / "spec-lite"
CODECS: dict[str, Any] = {
    "blosc lz4-5 bit-shuffle": Blosc("lz4", 5, BITSHUFFLE),
    "blosc lz4-5 byte-shuffle": Blosc("lz4", 5, SHUFFLE),
    "blosc lz4-5, no shuffle": Blosc("lz4", 5, NOSHUFFLE),
    "blosc lz4-1 bit-shuffle": Blosc("lz4", 1, BITSHUFFLE),
    "blosc zstd-1 bit-shuffle": Blosc("zstd", 1, BITSHUFFLE),
    "blosc zstd-3 bit-shuffle": Blosc("zstd", 3, BITSHUFFLE),
    "lz4": LZ4(),
    "zstd-1": Zstd(1),
}
CHUNKS = (64, 256, 1024, 4096)
Arrays = dict[str, NDArray[Any]]


def native(folder: Path, n_rows: int) -> Arrays:
    """Spectra of real files (or made ones) on the native grid."""
    rng = np.random.default_rng(1)
    shape = (n_rows, SDSS_NATIVE.n_pixels)
    flux, ivar = np.zeros(shape, "f4"), np.zeros(shape, "f4")
    bits = np.zeros(shape, "u4")
    files = sorted(folder.glob("spec-*.fits")) if folder.is_dir() else []
    for row in range(n_rows):
        part = (flux[row : row + 1], ivar[row : row + 1], bits[row : row + 1])
        if files:
            read_spec_block(files[row % len(files)]).place(SDSS_NATIVE, part)
        else:
            flux[row, 320:4150], ivar[row, 320:4150] = 10, rng.uniform(0.5, 2, 3830)
            bits[row, 320:4150] = np.where(rng.random(3830) < 0.05, 1 << 23, 0)
    good = ivar > 0
    flux[good] += rng.normal(size=int(good.sum())).astype("f4") / np.sqrt(ivar[good])
    ivar[good] *= rng.uniform(0.97, 1.03, int(good.sum())).astype("f4")
    return {"flux": flux, "ivar": ivar, "mask_bits": bits}


def seconds(call: Callable[[], object], rounds: int) -> float:
    """CPU-seconds of a call, the best of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def codec_table(arrays: Arrays, rounds: int) -> list[dict[str, Any]]:
    """Ratio and speed of every codec on chunks of 1024 rows."""
    rows = []
    for name, values in arrays.items():
        chunk = np.ascontiguousarray(values[:1024])
        out = np.empty_like(chunk)
        for title, codec in CODECS.items():
            packed = codec.encode(chunk)
            mb = chunk.nbytes / 1e6
            rows.append({
                "array": name, "codec": title, "ratio": chunk.nbytes / len(packed),
                "encode": mb / seconds(lambda c=codec, x=chunk: c.encode(x), rounds),
                "decode": mb / seconds(lambda c=codec, p=packed, o=out: c.decode(p, o), rounds),
            })  # fmt: skip
    return rows


def layout_table(values: NDArray[Any], what: str, rounds: int) -> list[dict[str, Any]]:
    """Rows a CPU-second of three access patterns, for chunks of several sizes."""
    rows = []
    for chunk_rows in CHUNKS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_one_layout(Path(folder), values, Layout(4096, chunk_rows), rounds)
                        | {"array": what})  # fmt: skip
    return rows


def _one_layout(path: Path, values: NDArray[Any], layout: Layout, rounds: int) -> dict[str, Any]:
    spec = ArraySpec("flux", "float32", ("spectrum", "pixel"), "", "")
    shape, chunk_rows = (len(values), values.shape[1]), layout.chunk_rows
    create_arrays(path, [spec], shape, layout, {})
    shards = shards_of(len(values), layout.shard_rows)
    size = sum(write_shard(path, "flux", s, values[s.rows])["bytes"] for s in shards)
    return {
        "chunk_rows": chunk_rows, "ratio": values.nbytes / size,
        "batches": len(values) / seconds(lambda: batches(path, shape, chunk_rows), rounds),
        "scan": len(values) / seconds(lambda: scan(path, shape, chunk_rows), rounds),
        "one": 32 / seconds(lambda: singles(path, shape), rounds),
    }  # fmt: skip


def batches(path: Path, shape: tuple[int, int], chunk_rows: int) -> None:
    """Chunks in random order, rows shuffled in a window of four chunks, batches of 256."""
    rng = np.random.default_rng(1)
    order = rng.permutation(-(-shape[0] // chunk_rows))
    for at in range(0, len(order), 4):
        window = [
            read_rows(path, "flux", slice(chunk * chunk_rows, (chunk + 1) * chunk_rows))
            for chunk in order[at : at + 4]
        ]
        rows = np.concatenate(window)[rng.permutation(sum(map(len, window)))]
        for start in range(0, len(rows), 256):
            np.ascontiguousarray(rows[start : start + 256])


def scan(path: Path, shape: tuple[int, int], chunk_rows: int) -> None:
    """All rows in order, into one array."""
    out = np.empty((chunk_rows, shape[1]), "f4")
    for start in range(0, shape[0], chunk_rows):
        read_rows(path, "flux", slice(start, start + chunk_rows), out)


def singles(path: Path, shape: tuple[int, int]) -> None:
    """32 spectra here and there."""
    for row in np.random.default_rng(1).integers(0, shape[0], 32):
        read_rows(path, "flux", np.array([row]))


def main() -> None:
    """Measure, print two tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument("--real", type=Path, default=REAL, help="folder of spec files")
    given = parser.parse_args()
    n_rows, rounds = (4096, 2) if given.quick else (16384, 5)
    arrays = native(given.real, 4096)
    codecs = codec_table(arrays, rounds)
    print(f"{'array':<12}{'codec':<28}{'ratio':>8}{'encode':>10}{'decode':>10}")
    for row in codecs:
        print(f"{row['array']:<12}{row['codec']:<28}{row['ratio']:>8.2f}{row['encode']:>10,.0f}"
              f"{row['decode']:>10,.0f}")  # fmt: skip
    rest = np.resize(arrays["flux"][:, 400:4000].reshape(-1, 3600)[:, :1000], (n_rows, 1000))
    layouts = layout_table(rest, "sample flux", rounds)
    layouts += layout_table(arrays["flux"], "native flux", rounds)
    print(f"{'array':<14}{'chunk':>6}{'ratio':>8}{'batches':>12}{'scan':>12}{'single':>10}")
    for row in layouts:
        print(f"{row['array']:<14}{row['chunk_rows']:>6}{row['ratio']:>8.2f}{row['batches']:>12,.0f}"
              f"{row['scan']:>12,.0f}{row['one']:>10,.0f}")  # fmt: skip
    print(json.dumps({"codecs": codecs, "layouts": layouts}, default=float))


if __name__ == "__main__":
    main()
