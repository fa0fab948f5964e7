"""The flows on a GPU and beside it: sections of `gpu.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gpu_run import CORES, Found, Run, places, say, threads

# The modules below are where gpu_run says.
# isort: split
import gpu_checks
import numpy as np

from spectra_scale.models.gis import GIS, GISSettings
from spectra_scale.models.refined import RefinedFlow, RefinedSettings


def flow(run: Run) -> Found:
    """Seconds a layer of the fit, held-out likelihood, and points a second."""
    rng = np.random.default_rng(5)
    layers = run.size(20, 3)
    settings = GISSettings(n_iterations=layers)
    warm_up = gpu_checks.chain(2000, rng)
    GIS.fit(warm_up, replace(settings, n_iterations=2))
    GIS.fit(warm_up, replace(settings, n_iterations=2), device=run.device)
    found: Found = {}
    held_out = gpu_checks.chain(run.size(20_000, 500), rng)
    fitted = None
    for n in (run.size(40_000, 1000), run.size(200_000, 2000)):
        x = gpu_checks.chain(n, rng)
        for name, device in (("cpu", None), ("device", run.device)):
            start, cpu = time.perf_counter(), time.process_time()
            fitted = GIS.fit(x, settings, held_out, device=device)
            run.wait()
            took = (time.perf_counter() - start) / layers
            cpu = (time.process_time() - cpu) / layers
            mean = fitted.history[-1].validation_mean
            found |= {
                f"gis_fit_{n}_{name}_s": took,
                f"gis_fit_{n}_{name}_cpu_s": cpu,
                f"gis_fit_{n}_{name}_log_prob": mean,
            }
            say(f"flow of {n:,}, {name}: {took:.4f} s a layer (CPU {cpu:.4f}), log p {mean:.4f}")
        gap = found[f"gis_fit_{n}_device_log_prob"] - found[f"gis_fit_{n}_cpu_log_prob"]
        found[f"gis_fit_{n}_log_prob_difference"] = gap
        found |= parts_of_a_layer(run, x)
    assert fitted is not None
    return found | evaluation(run, fitted, rng)


def parts_of_a_layer(run: Run, x: np.ndarray) -> Found:
    """Where the time of a layer goes on the device."""
    from spectra_scale.models.gis_directions import AscentSettings, search_directions
    from spectra_scale.models.gis_kde import fit_slice, gaussian_scores
    from spectra_scale.models.gis_rows import whiten_rows
    from spectra_scale.models.gis_torch import Place, TorchRows

    place = Place.of(run.device, "float64", None)
    rows = TorchRows(x, whiten_rows(x, whiten=True), place)
    rng = np.random.default_rng(0)
    picked = rng.choice(len(x), min(10_000, len(x)), replace=False)
    sample = rows.sample(picked)
    frame = search_directions(sample, 8, np.random.default_rng(1), AscentSettings())
    slices = list(rows.slices(frame))
    scores = gaussian_scores(len(x))
    tables = np.stack([fit_slice(u, scores, 200, "midrank", rng) for u, _ in slices])
    calls: dict[str, Callable[[], object]] = {
        "search": lambda: search_directions(
            rows.sample(picked), 8, np.random.default_rng(1), AscentSettings()
        ),
        "one_trial": lambda: sample.at(frame),
        "slices": lambda: list(rows.slices(frame)),
        "kernel": lambda: [fit_slice(u, scores, 200, "midrank", rng) for u, _ in slices],
        "score": lambda: rows.score(1e-3),
        "push": lambda: rows.push(frame, tables),
    }
    found = {name: run.seconds(call, 2) for name, call in calls.items()}
    say(f"a layer of {len(x):,}: " + ", ".join(f"{k} {1e3 * v:.2f} ms" for k, v in found.items()))
    return {f"gis_layer_{len(x)}_{name}_s": value for name, value in found.items()}


def evaluation(run: Run, fitted: GIS, rng: np.random.Generator) -> Found:
    """Points a second, and what a way there and back leaves."""
    points = gpu_checks.chain(run.size(1_000_000, 3000), rng)
    found: Found = {}
    for precision in ("float64", "float32"):
        took = run.seconds(lambda p=precision: fitted.log_prob(points, device=run.device,
                                                               precision=p), 2)  # fmt: skip
        found[f"gis_eval_{precision}_per_s"] = len(points) / took
        say(f"log p, device, {precision}: {len(points) / took:,.0f} points/s")
        few = np.concatenate([points[:20_000], 1e3 * rng.standard_normal((100, 10))])
        z, _ = fitted.transform(few, device=run.device, precision=precision)
        back = fitted.inverse(z, device=run.device, precision=precision)
        found[f"gis_round_trip_{precision}"] = float(np.abs(back - few).max())
        say(f"there and back, {precision}: at most {found[f'gis_round_trip_{precision}']:.2g}")
    few = points[: run.size(160_000, 2000)]
    one = run.seconds(lambda: fitted.log_prob(few[: len(few) // 4]), 2)
    parts = np.array_split(few, 4 * CORES)
    with ThreadPoolExecutor(CORES) as pool:
        all_cores = run.seconds(lambda: list(pool.map(fitted.log_prob, parts)), 2)
    found["gis_eval_thread_per_s"] = len(few) / 4 / one
    found["gis_eval_cores_per_s"] = len(few) / all_cores
    difference = fitted.log_prob(few, device=run.device) - fitted.log_prob(few)
    found["gis_eval_difference"] = float(np.abs(difference).max())
    say(f"log p, one thread: {len(few) / 4 / one:,.0f} points/s; {CORES} cores "
        f"{len(few) / all_cores:,.0f}; largest difference {np.abs(difference).max():.2g} nats"
        )  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------


def refined(run: Run) -> Found:
    """Wall time of whole fits of the refined flow, held-out likelihood, and points a second."""
    rng = np.random.default_rng(6)
    settings = RefinedSettings() if not run.quick else RefinedSettings(min_steps=5, epochs=1)
    RefinedFlow.fit(gpu_checks.chain(2000, rng), RefinedSettings(min_steps=5, epochs=1),
                    device=run.device)  # fmt: skip
    held_out = gpu_checks.chain(run.size(20_000, 500), rng)
    found: Found = {}
    fitted = None
    for n, name, device in (
        (run.size(40_000, 1000), "cpu", None),
        (run.size(40_000, 1000), "device", run.device),
        (run.size(200_000, 2000), "device", run.device),
    ):
        x = gpu_checks.chain(n, rng)
        start = time.perf_counter()
        fitted = RefinedFlow.fit(x, settings, held_out, device=device)
        took, mean = time.perf_counter() - start, float(fitted.log_prob(held_out).mean())
        found |= {f"refined_fit_{n}_{name}_s": took, f"refined_fit_{n}_{name}_log_prob": mean}
        say(f"refined flow of {n:,}, {name}: {took:.2f} s, log p {mean:.4f}")
    assert fitted is not None
    x = gpu_checks.chain(run.size(1_000_000, 2000), rng)
    for name, device, count in places(run):
        rows = x if name != "thread" else x[: len(x) // 10]
        with threads(count):
            took = run.seconds(lambda rows=rows, d=device: fitted.log_prob(rows, device=d), 2)
        found[f"refined_eval_{name}_per_s"] = len(rows) / took
        say(f"refined log p, {name}: {len(rows) / took:,.0f} points/s")
    device_log_prob = fitted.log_prob(held_out, device=run.device)
    worst = np.abs(device_log_prob - fitted.log_prob(held_out)).max()
    return found | {"refined_eval_difference": float(worst)}
