"""Training: rates beside the plain loop, time to the paper's χ², and the loader beside Ray Data.

Run as ``python tests/benchmarks/train.py [--quick] [--n N] [--folder DIR] [--device cuda]``. Rates
are per CPU-second of one core on a CPU, per second on a GPU. `paper` is science.md §6 to the
letter, `fast` the preset of that name; both start from nothing, and the time of `fast` is that of
its first epoch whose validation χ² (eq. 1, as in the loss) is not above the lowest of `paper`.
``--curves FILE.png`` draws both. The last line is JSON.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy

import argparse
import dataclasses
import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sample_data import Normalised, mock_sample, normalised
from torch.utils.data import DataLoader, TensorDataset

from spectra_scale.config import TrainSection
from spectra_scale.config.train import FAST
from spectra_scale.models.autoencoder import Architecture, AutoEncoder, seeded_autoencoder
from spectra_scale.models.baseline import fit_weighted_pca
from spectra_scale.models.batches import VirtualStreams
from spectra_scale.models.initialise import start_from_components
from spectra_scale.models.loading import ArrayRows
from spectra_scale.models.losses import cap_ivar
from spectra_scale.models.precision import resolve
from spectra_scale.models.records import EpochRecord
from spectra_scale.models.training import SingleProcess, TrainSettings, train

# Multiplications and additions a weight and spectrum: forward, and backward to input and weight;
# the gradient with respect to the spectrum itself is not taken.
_P = sum(a * b for a, b in ((1000, 800), (800, 590), (590, 10))) * 2
FLOP = 2 * (3 * _P - 1000 * 800)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute, 10 paper epochs")
    parser.add_argument("--n", type=int, help="mock spectra (20,000; quick: 5,000)")
    parser.add_argument("--folder", type=Path, help="keep the mock sample here")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--curves", type=Path, help="draw χ² by CPU-second")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        sample = mock_sample(folder, options.n or (5000 if options.quick else 20_000))
        data = normalised(sample)
        print(f"{len(data.train):,} training and {len(data.validation):,} validation spectra, "
              f"{options.device}, one thread")  # fmt: skip
        found = rates(data, options.device, 2.0 if options.quick else 5.0)
        found |= race(data, options.device, 10 if options.quick else 200, options.curves)
        found |= loader(sample, Path(scratch), quick=options.quick)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


# Rates ------------------------------------------------------------------------------------------


def rates(data: Normalised, device: str, seconds: float) -> dict[str, float]:
    """Spectra per CPU-second of the plain loop and of both presets, and of the hardware."""
    source = rows_of(data, device)
    loop = plain_loop(data, device, seconds)
    found = {"loop_per_s": loop}
    print(f"\n{'loop':<26}{'spectra/s':>12}{'over loop':>12}{'of matmul peak':>16}")
    peaks = {name: matmul_peak(getattr(torch, name), device) for name in ("float32", "bfloat16")}

    def show(name: str, rate: float, precision: str) -> float:
        share = rate * FLOP / peaks[precision]
        print(f"{name:<26}{rate:>12,.0f}{rate / loop:>12.2f}{share:>16.2f}")
        return share

    show("DataLoader, batch 32", loop, "float32")
    for name, settings in (("paper", paper(1)), ("fast", fast(device))):
        rate = loop_rate(source, data, settings, device, seconds)
        found[f"{name}_per_s"] = rate
        found["matmul_fraction"] = show(f"ours, {name}", rate, settings.precision)
    print(f"matmul peak: float32 {peaks['float32'] / 1e9:,.0f}, bfloat16 "
          f"{peaks['bfloat16'] / 1e9:,.0f} GFLOP/s")  # fmt: skip
    return found


def plain_loop(data: Normalised, device: str, seconds: float) -> float:
    """What everybody writes first: DataLoader, batch 32, Adam, the χ² of eq. 1."""
    flux, ivar = (torch.from_numpy(v[data.train]) for v in (data.flux, data.ivar))
    batches = DataLoader(TensorDataset(flux, cap_ivar(flux, ivar, 50.0)), 32, shuffle=True)
    model = seeded_autoencoder(Architecture(), 0).to(device)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)

    def steps() -> Any:
        while True:
            for x, v in batches:
                adam.zero_grad()
                x, v = x.to(device), v.to(device)  # noqa: PLW2901 - as everybody writes it
                loss = ((model(x) - x) ** 2 * v).sum(dim=1).mean() / x.shape[1]
                loss.backward()
                adam.step()
                yield len(x)

    return rate_of(steps(), seconds, device)


def loop_rate(
    source: ArrayRows, data: Normalised, settings: TrainSettings, device: str, seconds: float
) -> float:
    """Our loop's own rate: epochs without their validation, so on one validation row."""
    model = seeded_autoencoder(Architecture(), 0).to(device)
    streams = VirtualStreams(data.train, 256, 0)
    rows, spent = 0, [clock(device)]

    def after(record: EpochRecord, _: Any) -> None:
        nonlocal rows
        rows += record.rows
        spent.append(clock(device))
        if spent[-1] - spent[0] > seconds:
            raise StopIteration

    endless = dataclasses.replace(settings, epochs=10_000)
    with suppress(StopIteration):
        train(model, source, streams, data.validation[:1], endless, SingleProcess(),
              on_epoch=after)  # fmt: skip
    return rows / (spent[-1] - spent[0])


def matmul_peak(dtype: torch.dtype, device: str, n: int = 2048) -> float:
    """FLOP per CPU-second of large products."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))

    def steps() -> Any:
        while True:
            torch.mm(a, b)
            yield 2 * n**3

    return rate_of(steps(), 1.0, device)


def rate_of(steps: Any, seconds: float, device: str) -> float:
    for _ in range(3):
        next(steps)
    start, done = clock(device), 0
    while clock(device) - start < seconds:
        done += next(steps)
    return done / (clock(device) - start)


def clock(device: str) -> float:
    """CPU time of this process; on a GPU wall time, once it has done all it was told."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


# Time to the same χ² ----------------------------------------------------------------------------


def paper(epochs: int) -> TrainSettings:
    """Science.md §6 to the letter."""
    return TrainSettings(epochs=epochs, batch_size=32)


def fast(device: str) -> TrainSettings:
    """The preset `fast`."""
    section = TrainSection(preset="fast")
    names = {field.name for field in dataclasses.fields(TrainSettings)} & FAST.keys()
    chosen = {name: getattr(section, name) for name in names}
    return TrainSettings(**chosen | {"precision": resolve(section.precision, device)})


def race(data: Normalised, device: str, epochs: int, curves: Path | None) -> dict[str, float]:
    """Both presets on the same spectra; how much sooner `fast` is at the χ² of `paper`."""
    runs = {"paper": run(data, paper(epochs), device, linear=False),
            "fast": run(data, fast(device), device, linear=True)}  # fmt: skip
    aim = min(record.validation_chi2 for record, *_ in runs["paper"])
    print(
        f"\n{'preset':<8}{'epoch':>6}{'CPU-s':>9}{'wall s':>9}  validation χ² (capped, uncapped)"
    )
    for name, history in runs.items():
        for i in sorted({0, len(history) // 4, len(history) // 2, len(history) - 1}):
            record, cpu, wall = history[i]
            print(f"{name:<8}{record.epoch:>6}{cpu:>9.1f}{wall:>9.1f}  "
                  f"{record.validation_chi2:.4f}  "
                  f"{record.validation_chi2_uncapped:.4f}")  # fmt: skip
    reached = [each for each in runs["fast"] if each[0].validation_chi2 <= aim]
    if curves is not None:
        draw(runs, aim, curves)
    if not reached:
        print(f"fast did not reach {aim:.4f}")
        return {"time_to_chi2_ratio": 0.0}
    slow = next(each for each in runs["paper"] if each[0].validation_chi2 <= aim)
    record, cpu, wall = reached[0]
    print(f"χ² {aim:.4f}: paper in epoch {slow[0].epoch}, fast in epoch {record.epoch}; "
          f"{slow[1] / cpu:.1f} times less CPU, "
          f"{slow[2] / wall:.1f} times less wall time")  # fmt: skip
    return {"time_to_chi2_ratio": slow[1] / cpu}


def run(
    data: Normalised, settings: TrainSettings, device: str, *, linear: bool
) -> list[tuple[EpochRecord, float, float]]:
    """Train; after each epoch its record, and CPU and wall time from nothing."""
    source = rows_of(data, device)
    history = []
    cpu, wall = time.process_time(), time.perf_counter()
    model = seeded_autoencoder(Architecture(), 1)
    if linear:
        start(model, data)
    streams = VirtualStreams(data.train, 256, 1)

    def after(record: EpochRecord, _: Any) -> None:
        history.append((record, time.process_time() - cpu, time.perf_counter() - wall))

    train(model.to(device), source, streams, data.validation, settings, SingleProcess(),
          on_epoch=after)  # fmt: skip
    return history


def start(model: AutoEncoder, data: Normalised) -> None:
    """Weights from the linear baseline, fitted as the train stage fits it."""
    rows = np.sort(np.random.default_rng(1).permutation(data.train)[:10_000])
    flux, ivar = data.flux[rows], data.ivar[rows]
    pca = fit_weighted_pca(flux, ivar, 10, 1)
    scale = pca.coefficients(flux, ivar).std(axis=0)
    start_from_components(model, pca.mean, pca.components, scale)


def rows_of(data: Normalised, device: str) -> ArrayRows:
    return ArrayRows(*(torch.from_numpy(v).to(device) for v in (data.flux, data.ivar)))


def draw(runs: dict[str, list[tuple[EpochRecord, float, float]]], aim: float, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, history in runs.items():
        axes.plot([cpu for _, cpu, _ in history], [r.validation_chi2 for r, *_ in history],
                  label=name)  # fmt: skip
    axes.axhline(aim, color="0.6", lw=0.8)
    axes.set(
        xscale="log",
        yscale="log",
        yticks=[2, 3, 4, 6],
        yticklabels=["2", "3", "4", "6"],
        xlabel="CPU time, one core (s)",
        ylabel="validation χ² (eq. 1, capped)",
    )
    axes.legend()
    figure.savefig(path, dpi=150)


# Loader -----------------------------------------------------------------------------------------


def loader(sample: Any, scratch: Path, *, quick: bool) -> dict[str, float]:
    """Rows of flux and ivar, shuffled, from Zarr with checksums, beside Ray Data."""
    from loader_data import compare

    return compare(sample, scratch, quick=quick)


if __name__ == "__main__":
    main()
