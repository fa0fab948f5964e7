"""The report's section on class posteriors, and the numbers of the drift."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spectra_scale import figures
from spectra_scale.figures.page import FigureItem, Section, Table, png_of
from spectra_scale.models.reliability import CalibrationCurve, Reliability, reliability
from spectra_scale.provenance import read_json
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.stages.report.gather import Objects, ReportInputs
from spectra_scale.store.artifact import Artifact
from spectra_scale.store.objects import column, read_objects
from spectra_scale.store.run import OBJECTS

#: Codes of the classes that have a density.
CLASSES = tuple(range(1, len(CLASS_NAMES)))


def posterior_section(inputs: ReportInputs, objects: Objects) -> Iterator[Section]:
    """How well the latents tell the classes; nothing where there is no density by class."""
    density = inputs.artifacts["density"]
    said = density.metrics.get("conditional", {"skipped": "made by an earlier version"})
    if "skipped" in said:
        return
    applied = inputs.models is not None
    table = read_objects(density.path / OBJECTS, objects.index)
    # The stage writes the posteriors in the order of the codes, and no other column so named.
    names = [name for name in table.column_names if name.startswith("posterior_")]
    posterior = np.stack([column(table, name) for name in names], axis=1)
    judged = objects.usable & np.isin(objects.label, CLASSES)
    if not applied:
        judged &= ~objects.training
    if not judged.any():
        return
    found = reliability(posterior[judged], objects.label[judged], CLASSES)
    whose = "labelled spectra here" if applied else "the validation split"
    note = (
        f"{found.n:,} spectra; accuracy {found.accuracy:.3f}, expected calibration error "
        f"{found.ece:.3f}, log-loss {found.log_loss:.3f}, Brier score {found.brier:.3f}"
    )
    drawn = dict(zip(CLASSES, found.by_class, strict=True))
    figure = figures.class_reliability(
        _curve(found.top), {code: _curve(curve) for code, curve in drawn.items()},
        found.confusion, CLASSES, note,
    )  # fmt: skip
    caption = f"Reliability of the class posteriors and confusion matrix, {whose}."
    yield Section(
        "Classes from the latents",
        "<p>A density of the latents for each class, and by Bayes' rule with the class fractions "
        "of the training split the probability of each class. The labels come from lines, the "
        "posteriors from the latents alone: where they differ, either may be wrong.</p>",
        [FigureItem(caption=caption, png=png_of(figure), alt=caption)],
        [_class_table(said, found), _score_table(said)],
    )


def _curve(curve: CalibrationCurve) -> figures.Curve:
    return figures.Curve(curve.stated, curve.observed, curve.low, curve.high)


def _class_table(said: dict[str, Any], found: Reliability) -> Table:
    rows = []
    predicted, true = found.confusion.sum(axis=0), found.confusion.sum(axis=1)
    for k, code in enumerate(CLASSES):
        name, hits = CLASS_NAMES[code], int(found.confusion[k, k])
        rows.append([
            name, said["training rows"][name], said["layers"][name],
            "pooled" if name in said["pooled"] else "own",
            said["mean log_prob in class"].get(name), int(true[k]),
            _share(hits, int(true[k])), _share(hits, int(predicted[k])),
            said["prior"][name], said.get("fractions by likelihood", {}).get(name),
        ])  # fmt: skip
    columns = ["class", "training spectra", "layers", "density", "mean log p in its class",
               "spectra scored", "recall", "precision", "prior",
               "fraction by likelihood"]  # fmt: skip
    return Table("Densities of the classes", columns, rows)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _score_table(said: dict[str, Any]) -> Table:
    scores = said["reliability"]
    names = ("accuracy", "expected calibration error", "brier score", "log-loss")
    rows: list[list[Any]] = [[name, scores[name]] for name in names if name in scores]
    rows.append(["temperature of the posteriors (1: Bayes' rule alone)", said["temperature"]])
    for which in ("other half, Bayes alone", "other half, with temperature"):
        for key, what in (("log-loss", "log-loss"), ("ece", "expected calibration error")):
            if which in scores:
                rows.append([f"{what}, {which}", scores[which][key]])
    return Table("Scores of the posteriors", ["", "value"], rows)


def drift_of(density: Artifact) -> dict[str, Any] | None:
    """What the density says of the drift; None where it compared nothing."""
    file = density.path / "drift.json"
    return read_json(file) if file.is_file() else None


def drift_numbers(found: dict[str, Any] | None) -> dict[str, str]:
    """Lines for the panels of the drift figure."""
    said = None if found is None else found["log_prob"]
    if said is None:
        return {}
    mean = f"{said['difference']:+.2f}".replace("-", "−")
    return {"log_prob": f"mean {mean} ± {said['error']:.2f} nats"}


def drift_tables(found: dict[str, Any] | None) -> list[Table]:
    """Sizes of the drift first, p-values last."""
    if found is None or found["log_prob"] is None:
        return []
    rows = [["all", *_drift_row(found["log_prob"])]]
    rows += [[name, *_drift_row(of)] for name, of in found["by_class"].items()]
    columns = ["class", "trained on", "here", "mean difference (nats)", "its error",
               "median difference", "Kolmogorov–Smirnov distance", "p-value"]  # fmt: skip
    tables = [Table("log p here against the validation split trained on", columns, rows)]
    more: list[list[Any]] = []
    if found["matched"] is not None:
        of = found["matched"]
        more += [
            ["mean difference of log p at equal redshift and S/N (nats)", of["difference"]],
            ["its error", of["error"]],
            ["share of the spectra that could be matched", of["share"]],
        ]
    if found["latents"] is not None:
        of = found["latents"]
        more += [
            ["energy coefficient of the latents (0 same, 1 apart)", of["energy"]],
            ["a classifier tells new from old: AUC (0.5 it cannot)", of["classifier_auc"]],
            [f"p-value of the energy distance, {of['n_old']} and {of['n_new']} spectra",
             of["energy_p"]],
        ]  # fmt: skip
    if more:
        tables.append(Table("Latents, and log p of like with like", ["", "value"], more))
    return tables


def _drift_row(of: dict[str, Any]) -> list[Any]:
    names = ("n_old", "n_new", "difference", "error", "median_difference", "ks", "ks_p")
    return [of[name] for name in names]
