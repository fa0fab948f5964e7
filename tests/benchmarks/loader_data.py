"""Rows a second from Zarr into batches: ours, streamed through a bounded pool, and Ray Data's."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spectra_scale.models.batches import VirtualStreams, prefetch
from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.normalise import Normalisation
from spectra_scale.stages.train.rows import Spectra, StreamedRows
from spectra_scale.store.arrays import Layout, create_arrays, read_rows, shards_of, write_shard
from spectra_scale.store.sample import Sample
from spectra_scale.store.schema import SAMPLE_ARRAYS

CHUNK, SHARD, BATCH = 256, 4096, 512
POOL = 0.4 * 2**30


def compare(sample: Sample, scratch: Path, *, quick: bool) -> dict[str, float]:
    """Both loaders over the same array, which is larger than the pool of ours."""
    n = 65_536 if quick else 262_144
    arrays, factor = repeated(sample, scratch / "loader", n)
    spectra = Spectra(arrays, (n, sample.grid.n_pixels), CHUNK,
                      ModelInputs(Normalisation("median")), factor)  # fmt: skip
    streams = VirtualStreams(np.arange(n), CHUNK, seed=1, buffer_blocks=1)
    pool = StreamedRows(spectra, POOL)
    epoch(pool, streams, 0, limit=n // 4)  # the pool's pages, and compilation
    cpu, wall = time.process_time(), time.perf_counter()
    epoch(pool, streams, 1)
    ours = n / (time.process_time() - cpu), n / (time.perf_counter() - wall)
    print(f"\n{n:,} rows of {sample.grid.n_pixels} pixels, flux and ivar, batches of {BATCH}, "
          f"{n * sample.grid.n_pixels * 8 / 2**30:.2f} GiB through "
          f"{POOL / 2**30:.2f} GiB")  # fmt: skip
    print(f"{'ours, shuffled':<28}{ours[0]:>10,.0f} rows/CPU-s{ours[1]:>10,.0f} rows/s")
    theirs = ray_data(arrays, factor, n)
    print(f"{'Ray Data, not shuffled':<28}{'':>21}{theirs:>10,.0f} rows/s, on all cores")
    return {"loader_rows_per_s": ours[0], "loader_vs_ray_data": ours[1] / theirs}


def epoch(source: StreamedRows, streams: VirtualStreams, number: int, limit: int = 2**62) -> None:
    """Take every batch, as the training does: made by one thread, used by another."""

    def read() -> Iterator[int]:
        for batch in streams.epoch(number, BATCH, 0, 1):
            flux, ivar = source.take(batch.rows)
            yield len(flux) + len(ivar)

    done = 0
    for rows in prefetch(read()):
        done += rows // 2
        if done >= limit:
            return


def repeated(sample: Sample, path: Path, n: int) -> tuple[Path, np.ndarray]:
    """The sample's spectra again and again, `n` rows of them, and their medians."""
    flux, ivar = sample.read(slice(0, sample.n_rows))
    medians = Normalisation("median").factor(flux, ivar)
    which = np.random.default_rng(0).integers(0, sample.n_rows, n)
    create_arrays(path, SAMPLE_ARRAYS, (n, flux.shape[1]), Layout(SHARD, CHUNK), {})
    for shard in shards_of(n, SHARD):
        for name, values in (("flux", flux), ("ivar", ivar)):
            write_shard(path, name, shard, values[which[shard.rows]])
    return path, medians[which]


def ray_data(arrays: Path, factor: np.ndarray, n: int) -> float:
    """Rows a second of `iter_torch_batches`, the second time (the first starts its workers)."""
    import ray

    def load(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {"flux": [], "ivar": []}
        for chunk in batch["id"]:
            rows = slice(int(chunk) * CHUNK, int(chunk + 1) * CHUNK)
            by = factor[rows, None]
            parts["flux"].append(read_rows(arrays, "flux", rows) / by)
            parts["ivar"].append(read_rows(arrays, "ivar", rows) * by * by)
        return {name: np.concatenate(values) for name, values in parts.items()}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            for chunks in (n // CHUNK // 8, n // CHUNK):
                start = time.perf_counter()
                data = ray.data.range(chunks).map_batches(load, batch_size=4)
                rows = sum(len(b["flux"]) for b in data.iter_torch_batches(batch_size=BATCH))
                rate = rows / (time.perf_counter() - start)
        finally:
            ray.shutdown()
    return rate
