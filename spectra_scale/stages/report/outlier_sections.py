"""The report's section on outliers: what is wrong with whom, and three ways to find the rare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale import figures
from spectra_scale.config import Job
from spectra_scale.figures.page import FigureItem, Section, Table, png_of
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum.triage import FAULTS, RARE, SHOWN, VERDICTS, evidence_in_words
from spectra_scale.stages.report import gather
from spectra_scale.stages.report.gather import Objects, ReportInputs
from spectra_scale.stages.report.items import title_of
from spectra_scale.store.objects import column, read_objects
from spectra_scale.store.run import OBJECTS

#: Spectra shown of each verdict.
N_EACH = 4
Words = NDArray[np.object_]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Verdicts of all rows, and the evidence in words.

    Parameters
    ----------
    verdict
        Shape (row,).
    evidence
        Its strength, shape (row,).
    columns
        Columns of evidence by name.
    """

    verdict: Words
    evidence: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]

    def words(self, row: int) -> str:
        """Verdict of a row with its main evidence."""
        word = str(self.verdict[row])
        value = {name: float(values[row]) for name, values in self.columns.items()}
        shown = evidence_in_words(word, value)
        return f"{word}: {shown}" if shown else word


def read_judged(inputs: ReportInputs) -> Judged:
    """Verdicts and evidence, row-aligned with the sample."""
    path = inputs.artifacts["outliers"].path / OBJECTS
    table = read_objects(path, inputs.sample.index, ["verdict", "evidence", *SHOWN])
    return Judged(
        column(table, "verdict"),
        column(table, "evidence"),
        {name: column(table, name) for name in SHOWN},
    )


def outlier_section(inputs: ReportInputs, objects: Objects, judged: Judged, job: Job) -> Section:
    """Verdicts on every spectrum, the strongest of each, and how three ways agree."""
    drawn = gather.some(len(objects.label), job.report.max_points)
    words = judged.verdict[drawn]
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.stack([np.log10(objects.chi2_valid[drawn]), objects.log_prob[drawn]], axis=1)
    plane = figures.objects_by_verdict(
        scores, words.tolist(), ("log10 of χ² per valid pixel", "log p"), trim=0.0005,
        heading="Improbable, badly reproduced, or both",
    )  # fmt: skip
    on_map = figures.objects_by_verdict(
        objects.latent_map[drawn, :2], words.tolist(), ("map of latents, 0", "map of latents, 1"),
        heading="Verdicts on the map of latents",
    )  # fmt: skip
    n_rare = int((judged.verdict == RARE).sum())
    text = (
        "<p>An outlier of the flow may be a rare object or a broken spectrum. Faults are looked "
        "for in the residuals of every spectrum, and judged by how far they lie from what is "
        "usual in the validation split at that S/N; an outlier without a fault that is well "
        f"reproduced is a rare shape: {n_rare:,} here. Training rows that the model has learnt by "
        "heart have no residuals, and so no faults.</p>"
    )
    items = [
        FigureItem("Verdicts by χ² and log p.", png_of(plane), "Verdicts by χ² and log p"),
        FigureItem("Verdicts on the map of latents.", png_of(on_map), "Verdicts on the map"),
        *_strongest(inputs, objects, judged),
    ]
    return Section(
        "Outliers",
        text,
        items,
        [_by_class(objects, judged, job.outliers.p_value), *_overlap(inputs)],
    )


def _strongest(inputs: ReportInputs, objects: Objects, judged: Judged) -> list[FigureItem]:
    rows: list[int] = []
    for word in (*FAULTS, RARE):
        found = np.flatnonzero(judged.verdict == word)
        # Rare shapes have no fault: the least probable stand first.
        order = objects.log_prob[found] if word == RARE else -judged.evidence[found]
        rows += found[np.argsort(order, kind="stable")[:N_EACH]].tolist()
    if not rows:
        return []
    shown = gather.show(inputs, np.array(rows))
    titles = [f"{title_of(objects, row)}\n{judged.words(row)}" for row in rows]
    figure = figures.spectra_grid(
        inputs.sample.grid.centres, shown.flux, [int(objects.label[row]) for row in rows], titles,
        reconstructions=shown.reconstruction, heading="The strongest of each verdict",
        unit="flux / normalisation",
    )  # fmt: skip
    caption = "The spectra with the strongest evidence of each verdict, and their reconstructions."
    return [FigureItem(caption, png_of(figure), caption)]


def _by_class(objects: Objects, judged: Judged, p_value: float) -> Table:
    rare = objects.p_value < p_value
    rows = []
    for word in (w for w in VERDICTS if (judged.verdict == w).any()):
        mine = judged.verdict == word
        by_class = [
            int((mine & (objects.label == code)).sum()) for code in range(len(CLASS_NAMES))
        ]
        rows.append([word, int(mine.sum()), int((mine & rare).sum()), *by_class])
    columns = ["verdict", "spectra", "of them p < 0.01", *CLASS_NAMES]
    return Table("Verdicts by class", columns, rows)


def _overlap(inputs: ReportInputs) -> list[Table]:
    rows = [
        [pair, *values.values()]
        for pair, values in inputs.artifacts["outliers"].metrics["overlap"].items()
    ]
    columns = ["pair", "the first", "the second", "both", "Jaccard"]
    return [
        Table("Outliers of the flow, by distance, and on small islands of the map", columns, rows)
    ]
