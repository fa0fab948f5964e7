"""Neighbours among latents: one pass, exact index and approximate index.

Run as ``python tests/benchmarks/similar.py [--quick]``. Latents are synthetic: ten dimensions, a
mixture of 40 Gaussians of unlike size and a heavy tail. Recall is the share of the 10 true
neighbours that is found. Times are CPU time of this process. The last line is JSON. ``--quick``
leaves NN-descent out: numba compiles it for a minute in every process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from spectra_scale.models.neighbours import ApproximateIndex, ExactIndex  # noqa: E402
from spectra_scale.models.similar import scan  # noqa: E402

DIMS, K, N_QUERIES, N_SCANS = 10, 10, 2000, 20


def latents(n: int, rng: np.random.Generator) -> np.ndarray:
    """Clusters on different scales, and one row in a hundred far out."""
    centres = rng.standard_normal((40, DIMS)) * 2
    mixing = rng.standard_normal((40, DIMS, DIMS)) * rng.uniform(0.05, 0.6, (40, 1, 1))
    part = rng.integers(0, 40, n)
    rows = np.einsum("nij,nj->ni", mixing[part], rng.standard_normal((n, DIMS)))
    tail = np.where(rng.random((n, 1)) < 0.01, 5.0, 1.0)
    return (centres[part] + rows * tail).astype(np.float32)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def measure(n: int, *, approximate: bool) -> dict[str, float]:
    rng = np.random.default_rng(1)
    rows = latents(n + N_QUERIES, rng)
    reference, queries = rows[:n], rows[n:]
    exact, exact_build = timed(lambda: ExactIndex(reference))
    (truth, _), exact_time = timed(lambda: exact.query(queries, K))
    _, scan_time = timed(
        lambda: [scan(reference, row.astype("f8"), np.eye(DIMS), K) for row in queries[:N_SCANS]]
    )
    found = {
        "scan_per_s": N_SCANS / scan_time,
        "exact_build_s": exact_build,
        "exact_per_s": N_QUERIES / exact_time,
    }
    if not approximate:
        return found
    index, build = timed(lambda: ApproximateIndex(reference))
    index.query(queries[:10], K)  # what is searched first
    (near, _), query_time = timed(lambda: index.query(queries, K))
    shared = [len(np.intersect1d(a, b)) for a, b in zip(truth, near, strict=True)]
    return found | {
        "approximate_build_s": build,
        "approximate_per_s": N_QUERIES / query_time,
        "recall_at_10": float(np.mean(shared) / K),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 latents, exact alone")
    quick = parser.parse_args().quick
    logging.disable(logging.WARNING)
    small = latents(2000, np.random.default_rng(0))
    scan(small, small[0].astype("f8"), np.eye(DIMS), K)
    ExactIndex(small).query(small[:5], K)
    found: dict[str, float] = {}
    if not quick:
        # What numba compiles, so that it is not in the other times.
        _, compiled = timed(lambda: ApproximateIndex(small).query(small[:5], K))
        found["approximate_compile_s"] = round(compiled, 1)
        print(f"compiling NN-descent, in every process: {compiled:.1f} s", flush=True)
    for n in [20_000] if quick else [100_000, 1_000_000]:
        result = measure(n, approximate=not quick)
        print(f"\n{n:,} latents of {DIMS} dimensions, {K} neighbours, one thread")
        for name, value in result.items():
            print(f"  {name:22} {value:12,.4g}", flush=True)
            found[f"{name}_{n}"] = round(value, 4)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
