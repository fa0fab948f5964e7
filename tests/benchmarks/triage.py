"""Precision and recall of the triage's verdicts on a mock sample, whose truth is known.

Run as ``python tests/benchmarks/triage.py [--quick] [--run RUN --truth FILE] [--n N]``.
Without a run it makes one: a mock release of N spectra, with the redshifts of 1 % of the galaxies
made wrong. Every kind is reported over all objects and among the outliers of the flow. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from triage_data import make_run

from spectra_scale.spectrum.classify import Label
from spectra_scale.spectrum.triage import FAULTS, VERDICTS
from spectra_scale.store.objects import column
from spectra_scale.store.run import Run, open_run
from spectra_scale.store.tables import read_table

#: Verdict that is right for each word of the truth. A star's redshift is wrong as well, but no
#: shift makes a galaxy of it: both count.
RIGHT = {
    "half-lost": ("missing-range",),
    "wrong-redshift": ("wrong-redshift",),
    "calibration-step": ("calibration-step",),
    "sky-residual": ("sky-residual",),
    "cosmic-ray": ("bad-pixels",),
    "star-as-galaxy": ("wrong-redshift", "reconstruction"),
    "blend": ("reconstruction",),
}
#: Error of (1 + z) from which a redshift is wrong: 900 km/s, beyond broad lines' 60 km/s.
WRONG = 3e-3
Words = NDArray[np.object_]


def truth_of(run: Run, truth: Path) -> Words:
    """What is wrong with each spectrum of the sample, the gravest fault first."""
    index = run.index
    table = read_table(truth, ["spectrum_key", "z_true", "artefact", "failure"])
    rows = {key: i for i, key in enumerate(table["spectrum_key"].to_pylist())}
    at = np.array([rows[key] for key in index["spectrum_key"].to_pylist()])
    failure = column(table, "failure")[at]
    z, z_true = column(index, "z").astype(float), column(table, "z_true")[at].astype(float)
    wrong = np.abs(z - z_true) > WRONG * (1 + z_true)
    words = np.where(wrong & (failure != "star-as-galaxy"), "wrong-redshift", failure)
    return np.asarray(words.astype(object))


def scores(
    words: Words, verdict: Words, outlier: NDArray[np.bool_], among: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Numbers, precision and recall of each kind of truth, over some objects.

    Precision is the share of a verdict's objects whose truth it is right for.
    """
    found = {}
    for kind, right in RIGHT.items():
        is_kind, flagged = among & (words == kind), among & np.isin(verdict, right)
        good = among & np.array(
            [v in RIGHT.get(w, ()) for w, v in zip(words, verdict, strict=True)]
        )
        hit = int((is_kind & flagged).sum())
        found[kind] = {
            "truth": int(is_kind.sum()),
            "flagged": int(flagged.sum()),
            "hit": hit,
            "precision": _share((good & flagged).sum(), flagged.sum()),
            "recall": _share(hit, is_kind.sum()),
        }
    # Rare is who is improbable and has nothing wrong.
    sound, rare = among & outlier & (words == "none"), among & (verdict == "rare-shape")
    found["none, and improbable"] = {
        "truth": int(sound.sum()),
        "flagged": int(rare.sum()),
        "hit": int((sound & rare).sum()),
        "precision": _share((sound & rare).sum(), rare.sum()),
        "recall": _share((sound & rare).sum(), sound.sum()),
    }
    return found


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    print(f"\n{title}")
    text = [[_cell(value) for value in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in text) for i in range(len(columns))]
    for row in text:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def report(run: Run, truth: Path) -> dict[str, Any]:
    """Print the tables; gives what the last line says."""
    table = run.objects("outliers")
    words, verdict = truth_of(run, truth), column(table, "verdict")
    outlier = column(table, "outlier").astype(bool)
    everyone = np.ones(len(words), dtype=bool)
    found: dict[str, Any] = {"n": len(words), "outliers": int(outlier.sum())}
    columns = ("truth", "number", "flagged", "hit", "precision", "recall")
    for name, among in (("all objects", everyone), ("outliers of the flow", outlier)):
        made = scores(words, verdict, outlier, among)
        _print_table(f"{name}: {int(among.sum()):,}", columns,
                     [[kind, *values.values()] for kind, values in made.items()])  # fmt: skip
        found[name.replace(" ", "_")] = made
    seen = [v for v in VERDICTS if (verdict == v).any()]
    kinds = [w for w in ("none", *RIGHT) if (words == w).any()]
    rows = [[w, *(int(((words == w) & (verdict == v)).sum()) for v in seen)] for w in kinds]
    _print_table("truth by verdict, all objects", ("truth", *seen), rows)
    overlap = run.artifact("outliers").metrics["overlap"]
    _print_table("overlaps of outliers: the first, the second, both, Jaccard",
                 ("pair", "first", "second", "both", "jaccard"),
                 [[pair, *values.values()] for pair, values in overlap.items()])  # fmt: skip
    found["overlap"] = overlap
    found["split"] = _by_split(run, words, verdict)
    found["false_alarms"] = _false_alarms(run, words, verdict)
    found["scanned"] = run.artifact("outliers").counts["scanned"]
    return found


def _by_split(run: Run, words: Words, verdict: Words) -> dict[str, dict[str, Any]]:
    """Recall of each kind in either split: a model learns the faults of its training rows."""
    splits = {"train": run.sample.training_rows(), "validation": run.sample.validation_rows()}
    found: dict[str, dict[str, Any]] = {}
    for kind, right in RIGHT.items():
        hit, found[kind] = np.isin(verdict, right), {}
        for name, rows in splits.items():
            among = rows & (words == kind)
            recall = _share((among & hit).sum(), among.sum())
            found[kind] |= {name: int(among.sum()), f"recall {name}": recall}
    columns = ("truth", *next(iter(found.values())))
    _print_table("recall by split", columns, [[k, *v.values()] for k, v in found.items()])
    return found


def _false_alarms(run: Run, words: Words, verdict: Words) -> dict[str, list[int]]:
    """Faults found in spectra that have none: of all, and of broad-line ones."""
    broad = column(run.index, "label") == Label.BROAD_LINE
    sound = words == "none"
    wrong = {kind: sound & (verdict == kind) for kind in FAULTS}
    counts = {"sound": sound} | wrong
    found = {kind: [int(m.sum()), int((m & broad).sum())] for kind, m in counts.items()}
    _print_table("faults found in sound spectra", ("verdict", "spectra", "broad-line"),
                 [[kind, *values] for kind, values in found.items()])  # fmt: skip
    return found


def main() -> None:
    """Make the run if there is none, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,500 spectra: under a minute")
    parser.add_argument("--run", type=Path, help="a finished run of a mock release")
    parser.add_argument("--truth", type=Path, help="its truth.parquet")
    parser.add_argument("--n", type=int, default=16_000, help="spectra of the mock release")
    parser.add_argument("--keep", type=Path, help="where the run is made, and kept")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.run is not None:
        if options.truth is None:
            parser.error("--run needs --truth: the truth.parquet of its mock release")
        found = report(open_run(options.run), options.truth)
    else:
        with tempfile.TemporaryDirectory() as scrap:
            folder = options.keep or Path(scrap)
            changes = {"train": {"epochs": 8}, "density": {"epochs": 5}}
            run = make_run(
                folder,
                1500 if options.quick else options.n,
                options.workers,
                **(changes if options.quick else {}),
            )
            found = report(run, folder / "mock" / "truth.parquet")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
