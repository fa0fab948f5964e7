"""Speed of the mock survey, and how far it is from real spectra.

    python tests/benchmarks/mock.py [--quick] [--real FOLDER] [--n 20000] [--release FOLDER]

Prints tables, and as its last line one JSON object: plate_per_s and spec_per_s (spectra into plate
files, and spec-lite files, per CPU-second of one core, everything included, numba's cache warm);
auc and chi2_transfer_ratio against the real files of FOLDER (null without them); and
max_class_fraction_error in points. --release compares one that is there, writes none
and measures no rate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from spectra_scale.compare.measures import measure_block
from spectra_scale.compare.run import CompareSettings, Comparison, compare
from spectra_scale.compare.sides import read_side
from spectra_scale.compare.statistics import (
    FRACTION_TARGETS,
    class_fractions,
    max_fraction_error,
    redshift_facts,
)
from spectra_scale.mock.plates import write_plate
from spectra_scale.mock.release import begin, finish
from spectra_scale.mock.settings import MockSettings, plan

REAL = Path(__file__).parents[3] / "shared" / "data" / "sdss"


def write(folder: Path, settings: MockSettings) -> float:
    """Write a release and give the CPU-seconds of it."""
    start = time.process_time()
    begin(folder, settings)
    tasks = plan(settings)
    for task in tasks:
        write_plate(task, folder, settings)
    finish(folder, tasks, settings)
    return time.process_time() - start


def rates(folder: Path, n: int, n_spec: int, seed: int) -> dict[str, float]:
    """Rates of both layouts, after a small release that fills numba's cache."""
    write(folder / "warm", MockSettings(n_spectra=40, n_spec_files=10, seed=seed))
    plate = write(folder / "plate", MockSettings(n_spectra=n, n_spec_files=0, seed=seed))
    spec = write(
        folder / "spec", MockSettings(n_spectra=n_spec, n_spec_files=n_spec, seed=seed + 1)
    )
    return {"plate_per_s": n / plate, "spec_per_s": n_spec / spec}


def show(found: Comparison) -> None:
    """Print the tables."""
    numbers = found.numbers
    print(json.dumps(numbers["samples"]))
    print(
        "\nby class                   n  measure     real 5/50/95         mock 5/50/95        KS"
    )
    for row in numbers["distributions"]:
        if row["n_real"]:
            real, mock = (" ".join(f"{v:6.2f}" for v in row[side]) for side in ("real", "mock"))
            mark = "*" if row["ks"] > row["ks_5_per_cent"] else " "
            print(f"  {row['class']:18s} {row['n_real']:5d}  {row['measure']:10s} {real}   {mock}"
                  f"   {row['ks']:.2f}{mark} ({row['ks_5_per_cent']:.2f})")  # fmt: skip
    print("\nrank correlations          real          mock")
    for row in numbers["correlations"]:
        if np.isfinite(row["real"]) and np.isfinite(row["mock"]):
            away = abs(row["real"] - row["mock"]) / row["real_error"]
            print(f"  {row['pair'][0]:10s} {row['pair'][1]:10s} {row['real']:6.2f} ± "
                  f"{row['real_error']:.2f} {row['mock']:6.2f}  {away:4.1f} sigma")  # fmt: skip
    print("\nPCA: trained on, applied to, mean and median χ² per valid pixel")
    for row in numbers["pca"]:
        print(f"  {row['trained_on']:24s} {row['applied_to']:6s} {row['chi2_mean']:7.3f} "
              f"{row['chi2_median']:7.3f}")  # fmt: skip
    show_learnt(found)


def show_learnt(found: Comparison) -> None:
    """Print what the auto-encoder and the classifier say."""
    numbers = found.numbers
    print("\nauto-encoder trained on mock: χ² real, mock, ratio, error, ratio of medians")
    for name, row in numbers["transfer"].items():
        print(f"  {name:18s} {row['n_real']:4d} {row['real']:7.3f} {row['mock']:7.3f} "
              f"{row['ratio']:6.3f} ± {row['ratio_error']:.3f}",
              f"{row['ratio_of_medians']:6.3f}")  # fmt: skip
    verdict = numbers["classifier"]
    print(f"\nAUC {verdict['auc']:.3f} ± {verdict['auc_error']:.3f}; by class", {
        code: round(pair[0], 3) for code, pair in verdict["by_class"].items()},
        "null", np.round(verdict["auc_null"], 2))  # fmt: skip
    bands = found.verdict.importance
    if len(bands):
        from spectra_scale.spectrum.grid import WavelengthGrid

        wave = WavelengthGrid.rest_frame().centres
        width = len(wave) // len(bands)
        best = np.argsort(bands)[::-1][:8]
        print("bands the classifier needs (Å, loss of AUC):", [
            (round(float(wave[b * width])), round(float(wave[b * width + width - 1])),
             round(float(bands[b]), 3)) for b in best])  # fmt: skip


def show_whole(fractions: dict[str, float], z: dict[str, float]) -> None:
    """Print what is asked of the release as a whole."""
    print("class fractions (%): found, target")
    for name, target in FRACTION_TARGETS.items():
        print(f"  {name:18s} {fractions[name]:6.2f} {target:6.2f}")
    print(f"z: mode {z['z_mode']:.3f} (0.08), median {z['z_median']:.3f} (0.11)")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--real", type=Path, default=REAL)
    parser.add_argument("--n", type=int, help="spectra of the release that is compared")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--release", type=Path, help="compare this one")
    args = parser.parse_args()
    n = args.n or (2500 if args.quick else 20_000)
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        found: dict[str, float | None] = {"plate_per_s": None, "spec_per_s": None}
        if args.release is None:
            found |= rates(Path(name), n, 60 if args.quick else 400, args.seed)
            print(", ".join(f"{key} {value:.0f}" for key, value in found.items()))
        release = args.release or Path(name) / "plate"
        out = dict(found) | {"auc": None, "chi2_transfer_ratio": None}
        if args.real.is_dir():
            settings = CompareSettings.quick() if args.quick else CompareSettings()
            done = compare(release, args.real, settings, lambda text: print(f"  .. {text}"))
            show_whole(done.numbers["class_fractions"], done.numbers["redshift"])
            show(done)
            out["auc"] = done.numbers["classifier"]["auc"]
            out["chi2_transfer_ratio"] = done.numbers["transfer"]["all"]["ratio"]
            out["max_class_fraction_error"] = done.numbers["max_class_fraction_error"]
        else:
            mock = read_side(release, "mock", measure_block, lambda _: None)
            fractions = class_fractions(mock.table_label)
            show_whole(fractions, redshift_facts(mock.z))
            out["max_class_fraction_error"] = max_fraction_error(fractions)
    print(json.dumps(out))


if __name__ == "__main__":
    # A rate per core must not profit from another core.
    with threadpool_limits(1):
        main()
