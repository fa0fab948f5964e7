"""One GPU beside the processor: training, encoding and the flows, in one run.

Run as ``python tests/benchmarks/gpu.py [--quick] [--device cuda] [--checks]``. It needs torch,
numpy, scipy, numba and scikit-learn alone (safetensors too, for the covariance of latents), and
takes five minutes on an H100. Rates are per second of wall time: of the device, of the processor
with all its cores, and of one of its threads; warm-up and compilation are not counted. A section
that fails prints its traceback, and the others go on. ``--checks`` runs what
`tests/test_gis_gpu.py` runs, without pytest. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

from gpu_run import BEGAN, CORES, Found, Run, places, say, threads

# The modules below are where gpu_run says.
# isort: split
import gpu_checks
import gpu_flows
import numpy as np
import torch

from spectra_scale.models.autoencoder import (
    Architecture,
    AutoEncoder,
    encode,
    seeded_autoencoder,
)
from spectra_scale.models.baseline import fit_weighted_pca
from spectra_scale.models.batches import VirtualStreams
from spectra_scale.models.initialise import start_from_components
from spectra_scale.models.loading import ArrayRows
from spectra_scale.models.precision import resolve
from spectra_scale.models.records import EpochRecord
from spectra_scale.models.training import SingleProcess, TrainSettings, train

# As in train.py: forward, and backward to weights and inputs but for the spectrum itself.
_P = sum(a * b for a, b in ((1000, 800), (800, 590), (590, 10))) * 2
FLOP = 2 * (3 * _P - 1000 * 800)
#: The preset `fast` of [train]: spectra_scale.config, which needs pydantic.
FAST = {"batch_size": 512, "learning_rate": 1e-3, "schedule": "cosine"}


# Products of matrices ---------------------------------------------------------------------------


def peaks(run: Run) -> Found:
    """FLOP/s of large products: what training can at most use."""
    n = run.size(8192, 512)
    found: Found = {}
    for name, dtype, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        a, b = (torch.randn(n, n, device=run.device).to(dtype) for _ in range(2))
        found[f"peak_{name}_tflops"] = 2e-12 * n**3 / run.seconds(lambda a=a, b=b: torch.mm(a, b))
        torch.set_float32_matmul_precision(before)
        say(f"matmul {name}: {found[f'peak_{name}_tflops']:.1f} TFLOP/s")
    return found


# Training ---------------------------------------------------------------------------------------


def settings_of(preset: str, epochs: int, device: str) -> TrainSettings:
    if preset == "paper":
        return TrainSettings(epochs=epochs, batch_size=32)
    warmup = min(1.0, epochs / 10)
    precision = resolve("auto", device)
    return TrainSettings(epochs=epochs, warmup_epochs=warmup, precision=precision, **FAST)


def trained(
    spectra: tuple[np.ndarray, np.ndarray], preset: str, epochs: int, device: str, seconds: float
) -> list[tuple[EpochRecord, float]]:
    """Train on nine tenths; after each epoch its record and when it was done."""
    flux, ivar = (torch.from_numpy(v).to(device) for v in spectra)
    rows = np.arange(len(flux))
    model = seeded_autoencoder(Architecture(), 1)
    if preset == "fast":
        few = spectra[0][:2000], spectra[1][:2000]
        pca = fit_weighted_pca(*few, 10, 1, n_iterations=1)
        start_from_components(model, pca.mean, pca.components, pca.coefficients(*few).std(axis=0))
    history: list[tuple[EpochRecord, float]] = []

    def after(record: EpochRecord, _: Any) -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        history.append((record, time.perf_counter()))
        if len(history) > 1 and time.perf_counter() - start > seconds:
            raise StopIteration

    held_out = max(len(rows) // 10, 1)
    streams = VirtualStreams(rows[held_out:], 256, 1)
    start = time.perf_counter()
    with suppress(StopIteration):
        settings = settings_of(preset, epochs, device)
        source = ArrayRows(flux, ivar)
        train(model.to(device), source, streams, rows[:held_out], settings, SingleProcess(),
              on_epoch=after)  # fmt: skip
    return history


def training(run: Run) -> Found:
    """Spectra a second, and χ² after as many epochs, of both presets."""
    spectra = gpu_checks.spectra(run.size(50_000, 1500))
    say(f"{len(spectra[0]):,} synthetic spectra made")
    found: Found = {}
    for preset in ("paper", "fast"):
        for name, device, n_threads in places(run):
            few = {"device": run.size(50_000, 1500), "cores": 5000, "thread": 2500}[name]
            part = tuple(v[: run.size(few, 600)] for v in spectra)
            with threads(n_threads):
                # The schedule must know its end, which is never reached.
                history = trained(part, preset, 1000, device, run.size(8, 1))
            # Epochs after the first, with their validation, which costs 4 % of them.
            seen = [record.rows for record, _ in history[1:]]
            took = history[-1][1] - history[0][1]
            found[f"train_{preset}_{name}_per_s"] = rate = sum(seen) / took
            say(f"train {preset}, {name}: {rate:,.0f} spectra/s ({len(history)} epochs)")
        found |= same_epochs(run, spectra, preset)
    return found


def same_epochs(run: Run, spectra: tuple[np.ndarray, np.ndarray], preset: str) -> Found:
    """Validation χ² after equally many epochs on the same rows."""
    few, epochs = (6000, 2) if preset == "paper" else (30_000, 5)
    part = tuple(v[: run.size(few, 600)] for v in spectra)
    found: Found = {}
    for name, device, n_threads in places(run)[:2]:
        with threads(n_threads):
            history = trained(part, preset, epochs, device, np.inf)
        chi2 = history[-1][0].validation_chi2
        found[f"chi2_{preset}_{name}"] = chi2
        say(f"train {preset}, {name}: χ² {chi2:.4f} after {epochs} epochs of {len(part[0]):,}")
    return found


def fractions(found: Found, run: Run) -> Found:
    """Share of the card's own products that training makes use of."""
    shares: Found = {}
    for preset, precision in (("paper", "fp32"), ("fast", resolve("auto", run.device))):
        peak = {"fp32": "fp32", "float32": "fp32", "bfloat16": "bf16"}[precision]
        rate, top = (found.get(f"train_{preset}_device_per_s"), found.get(f"peak_{peak}_tflops"))
        if rate and top:
            shares[f"train_{preset}_of_peak"] = rate * FLOP / (1e12 * top)
    return shares


# Encoding ---------------------------------------------------------------------------------------


def encoding(run: Run) -> Found:
    """Spectra a second from arrays in main memory to latents and χ² there."""
    flux, ivar = gpu_checks.spectra(run.size(32_768, 512))
    found: Found = {}
    for name, device, n_threads in places(run):
        n = len(flux) if name == "device" else run.size(8192, 256)
        model = seeded_autoencoder(Architecture(), 1).to(device)
        for precision in ("float32", "bfloat16"):
            with threads(n_threads):
                took = run.seconds(
                    lambda model=model, n=n, p=precision: encode(
                        model, flux[:n], ivar[:n], 4096, precision=p
                    )
                )
            found[f"encode_{precision}_{name}_per_s"] = n / took
            say(f"encode {precision}, {name}: {n / took:,.0f} spectra/s")
    return found


def covariance(run: Run) -> Found:
    """The same with the covariance of the latents; needs safetensors."""
    from spectra_scale.models.inputs import ModelInputs
    from spectra_scale.models.normalise import Normalisation
    from spectra_scale.models.uncertainty import Propagation

    flux, ivar = gpu_checks.spectra(run.size(16_384, 256))
    rho = np.full((len(flux), flux.shape[1] - 1), 0.2, dtype=np.float32)
    found: Found = {}
    for name, device, n_threads in places(run):
        n = len(flux) if name == "device" else run.size(2048, 256)
        model: AutoEncoder = seeded_autoencoder(Architecture(), 1).to(device)
        how = Propagation(model, ModelInputs(Normalisation()), 0, resolve("auto", device))
        with threads(n_threads):
            took = run.seconds(lambda how=how, n=n: how.propagate(flux[:n], ivar[:n], rho[:n]), 2)
        found[f"covariance_{name}_per_s"] = n / took
        say(f"latents with covariance, {name}: {n / took:,.0f} spectra/s")
    return found


def checks(run: Run) -> Found:
    """What test_gis_gpu.py runs; counts."""
    failed = 0
    for check in gpu_checks.ALL:
        try:
            check(run.device)
            say(f"check {check.__name__}: well")
        except Exception:  # noqa: BLE001 - every check is to be seen
            failed += 1
            say(f"check {check.__name__}: FAILED\n{traceback.format_exc()}")
    return {"checks": len(gpu_checks.ALL), "checks_failed": failed}


SECTIONS = {
    "checks": checks,
    "peaks": peaks,
    "flow": gpu_flows.flow,
    "refined": gpu_flows.refined,
    "training": training,
    "encoding": encoding,
    "covariance": covariance,
}


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--checks", action="store_true", help="checks alone")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--budget", type=float, default=300, help="s; no section begins later")
    options = parser.parse_args()
    run = Run(options.device, options.quick)
    gpu = torch.cuda.get_device_name() if options.device.startswith("cuda") else "no GPU"
    say(f"{gpu}, {CORES} cores, torch {torch.__version__}, Python {platform.python_version()}")
    found: dict[str, Any] = {"gpu": gpu, "cores": CORES}
    for name in ["checks"] if options.checks else options.sections:
        if time.perf_counter() - BEGAN > options.budget:
            say(f"--- {name} left out: the time is up")
            continue
        say(f"--- {name}")
        try:
            found |= SECTIONS[name](run)
        except Exception as error:  # noqa: BLE001 - the other sections are to go on
            traceback.print_exc(file=sys.stdout)
            found[f"{name}_error"] = repr(error)[:200]
    found |= fractions(found, run)
    print(f"\n{'figure':<44}{'value':>16}")
    for name, value in found.items():
        print(
            f"{name:<44}{value:>16,.5g}" if isinstance(value, float) else f"{name:<44}{value:>16}"
        )
    print(
        json.dumps({k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in found.items()})
    )
    sys.exit(1 if found.get("checks_failed") else 0)


if __name__ == "__main__":
    main()
