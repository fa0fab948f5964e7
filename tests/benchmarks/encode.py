"""Encoding beside the plain forward pass, and the stage from Zarr to Parquet.

Run as ``python tests/benchmarks/encode.py [--quick]``. Rates are spectra per second of process CPU
time on one thread, the best of several rounds in which the programs take turns; reading a model,
compilation and the building of inputs are not counted. The last line is JSON.

*Kernel* rates are of arrays in memory that are normalised already: latents, reconstructions and
χ² (`encode`); the same with the latents' covariance (`propagate`, with the correlation of
neighbours). The ceiling is the bare forward pass through encoder and decoder, which computes no
χ². *Stage* rates are of one task of `stages.encode`: from a shard of a Zarr sample, normalised,
to Parquet, with the sums of residuals by class. The network is the paper's with starting weights;
its speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy and Numba are loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402

from spectra_scale.models.autoencoder import (  # noqa: E402
    Architecture,
    AutoEncoder,
    decode_latents,
    encode,
    seeded_autoencoder,
)
from spectra_scale.models.baseline import WeightedPCA  # noqa: E402
from spectra_scale.models.checkpoint import save_model  # noqa: E402
from spectra_scale.models.inputs import ModelInputs  # noqa: E402
from spectra_scale.models.normalise import Normalisation  # noqa: E402
from spectra_scale.models.precision import Precision, bf16_here  # noqa: E402
from spectra_scale.models.uncertainty import Propagation  # noqa: E402
from spectra_scale.stages.encode.shard import (  # noqa: E402
    How,
    Task,
    correlation_of,
    encode_shard,
)
from spectra_scale.store.arrays import Layout, Shard, create_arrays, write_shard  # noqa: E402
from spectra_scale.store.schema import SAMPLE_ARRAYS  # noqa: E402

Floats = np.ndarray


def spectra(n: int) -> tuple[Floats, Floats]:
    """Noise on a smooth continuum, 6 % of the pixels missing, most of them at one end."""
    rng = np.random.default_rng(0)
    flux = (10 + np.sin(np.arange(1000) / 100) + rng.normal(size=(n, 1000))).astype("f4")
    ivar = rng.uniform(0.5, 2.0, (n, 1000)).astype("f4")
    ivar[rng.random((n, 1000)) < 0.02] = 0
    for row, edge in enumerate(rng.integers(0, 80, n)):
        ivar[row, :edge] = 0
    return np.where(ivar > 0, flux, 0).astype("f4"), ivar


def cpu_seconds(call: Callable[[], object]) -> float:
    """Process CPU time of one call; all threads of the process count."""
    start = time.process_time()
    call()
    return time.process_time() - start


def kernels(model: AutoEncoder, n: int) -> dict[str, Callable[[], object]]:
    """Programs on arrays in memory, n spectra a round."""
    fed = ModelInputs(Normalisation()).apply(*spectra(n))
    rho = correlation_of(np.linspace(0.05, 0.36, n), np.zeros(n, bool), 1000)
    x = torch.from_numpy(fed.flux)

    @torch.inference_mode()
    def forward(precision: Precision) -> None:
        for start in range(0, n, 1024):
            part = x[start : start + 1024]
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                model(part)

    def whole(precision: Precision) -> object:
        return encode(model, fed.flux, fed.ivar, precision=precision)

    def covariance(precision: Precision, latents: Precision = "float32") -> object:
        how = Propagation(model, ModelInputs(Normalisation()), 0, precision, latents)
        z, _ = how.propagate(fed.flux, fed.ivar, rho)
        return decode_latents(model, z, fed.flux, fed.ivar, precision=latents)

    made: dict[str, Callable[[], object]] = {
        "forward pass, float32": lambda: forward("float32"),
        "encode, float32": lambda: whole("float32"),
        "with covariance, float32": lambda: covariance("float32"),
    }
    if bf16_here("cpu"):
        made |= {
            "forward pass, bfloat16": lambda: forward("bfloat16"),
            "encode, bfloat16": lambda: whole("bfloat16"),
            "with covariance, Jacobian bfloat16": lambda: covariance("bfloat16"),
            "with covariance, all bfloat16": lambda: covariance("bfloat16", "bfloat16"),
        }
    return made


def stages(model: AutoEncoder, n: int, folder: Path) -> dict[str, Callable[[], object]]:
    """One task of the stage, n spectra, with zeros and with a linear fill for missing pixels."""
    flux, ivar = spectra(n)
    create_arrays(folder / "arrays", SAMPLE_ARRAYS, flux.shape, Layout(n, 256), {})
    shard = Shard(0, 0, n)
    write_shard(folder / "arrays", "flux", shard, flux)
    write_shard(folder / "arrays", "ivar", shard, ivar)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(1000, 10)))[0].T
    for name, fill in (("zeros", None), ("linear", WeightedPCA(np.ones(1000), basis))):
        (folder / name).mkdir()
        inputs = ModelInputs(Normalisation(), fill)
        inputs.save(folder / name)
        save_model(folder / name, model, inputs.normalisation, {"fill": fill is not None})
    groups = np.arange(n) % 14
    task = Task(shard, groups, np.linspace(0.05, 0.36, n), np.zeros(n, bool))

    def one(fill: str, precision: str, *, covariance: bool = False) -> object:
        parts = folder / "parts"
        parts.mkdir(exist_ok=True)
        for path in parts.iterdir():
            path.unlink()
        how = How(folder / "arrays", folder / fill, fill, parts, precision, 0, covariance, 1024,
                  correlated=True)  # fmt: skip
        return encode_shard(how, task)

    made: dict[str, Callable[[], object]] = {
        "stage, float32": lambda: one("zeros", "float32"),
        "stage, float32, linear fill": lambda: one("linear", "float32"),
        "stage, defaults (auto, covariance)": lambda: one("zeros", "auto", covariance=True),
        "stage, defaults, linear fill": lambda: one("linear", "auto", covariance=True),
    }
    if bf16_here("cpu"):
        made["stage, bfloat16"] = lambda: one("zeros", "bfloat16")
    return made


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer spectra and rounds")
    quick = parser.parse_args().quick
    n, rounds = (2048, 3) if quick else (4096, 9)
    torch.set_num_threads(1)
    model = seeded_autoencoder(Architecture(), 1)
    with tempfile.TemporaryDirectory() as name:
        runs = kernels(model, n) | stages(model, n, Path(name))
        for call in runs.values():
            call()
        seconds: dict[str, list[float]] = {program: [] for program in runs}
        for _ in range(rounds):
            for program, call in runs.items():
                seconds[program].append(cpu_seconds(call))
    rate = {program: n / min(taken) for program, taken in seconds.items()}
    ceiling = rate["forward pass, float32"]
    print(f"{'program':<38}{'best /s':>12}{'median /s':>12}{'µs each':>10}{'of ceiling':>12}")
    for program, taken in seconds.items():
        print(
            f"{program:<38}{rate[program]:>12,.0f}{n / float(np.median(taken)):>12,.0f}"
            f"{1e6 / rate[program]:>10,.1f}{rate[program] / ceiling:>12.2f}"
        )
    fast = "with covariance, Jacobian bfloat16"
    print(
        json.dumps({
            "encode_per_s": round(rate["encode, float32"]),
            "encode_bf16_per_s": round(rate.get("encode, bfloat16", 0)),
            "encode_cov_per_s": round(rate.get(fast, rate["with covariance, float32"])),
            "forward_ceiling_per_s": round(ceiling),
            "stage_per_s": round(rate["stage, float32"]),
            "stage_default_per_s": round(rate["stage, defaults (auto, covariance)"]),
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
