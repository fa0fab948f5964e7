"""The report's sections: which figure, which table, and what to look for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale import figures
from spectra_scale.config import Job
from spectra_scale.figures.page import Section, Table
from spectra_scale.spectrum.classify import CLASS_NAMES, bpt_coordinates
from spectra_scale.stages.report import density_sections as by_class
from spectra_scale.stages.report import gather
from spectra_scale.stages.report.gather import Objects, ReportInputs
from spectra_scale.stages.report.items import item
from spectra_scale.stages.report.outlier_sections import outlier_section, read_judged
from spectra_scale.stages.report.probability import density_section
from spectra_scale.stages.report.uncertainty import uncertainty_tables
from spectra_scale.store.artifact import Artifact
from spectra_scale.store.objects import column


def all_sections(inputs: ReportInputs, job: Job) -> Iterator[Section]:
    """Every section, in order."""
    objects = gather.gather(inputs)
    yield _data(inputs, objects)
    yield _classes(inputs, objects)
    yield _autoencoder(inputs)
    yield _reconstruction(inputs)
    if inputs.models is not None:
        yield _drift(inputs, objects)
    yield _latents(objects, job)
    judged = read_judged(inputs)
    yield density_section(inputs, objects, judged)
    yield from by_class.posterior_section(inputs, objects)
    yield _maps(inputs, objects, job)
    yield outlier_section(inputs, objects, judged, job)
    yield from _stacks(inputs, objects, job)
    yield _provenance(inputs)


def _data(inputs: ReportInputs, objects: Objects) -> Section:
    rows = []
    for release in inputs.releases:
        counts = release.artifact.counts
        rows.append([release.name, counts["files in"], counts["rows in"], counts["kept"],
                     counts["quarantined"], counts["rows left out"], counts["files without row"],
                     counts["spectra without row"]])  # fmt: skip
    tables = [
        Table(
            "Releases: every file and row is accounted for",
            ["release", "files in", "rows in", "kept", "quarantined", "rows left out",
             "files without row", "spectra without row"],
            rows,
        )
    ]  # fmt: skip
    reasons = [
        [release.name, reason, n]
        for release in inputs.releases
        for reason, n in release.artifact.counts["by reason"].items()
    ]
    if reasons:
        tables.append(Table("Quarantined or without a row, by reason",
                            ["release", "reason", "number"], reasons))  # fmt: skip
    counts = inputs.artifacts["prepare"].counts
    cuts = [["rows in", counts["rows in"]]]
    cuts += [[f"removed by {cut}", -n] for cut, n in counts["dropped by cut"].items()]
    names = ("kept", "superseded", "repeats", "objects", "train", "validation")
    cuts += [[name, counts[name]] for name in names]
    tables.append(Table("Sample: what each cut removed, and the split", ["", "spectra"], cuts))
    figure = figures.redshift_histograms(objects.z[objects.training], objects.z[~objects.training])
    return Section(
        "Data",
        "<p>The split is by sky cell, so that repeats of one object fall on the same side.</p>",
        [item("1", figure, "Redshifts of the training and validation splits.")],
        tables,
    )


def _classes(inputs: ReportInputs, objects: Objects) -> Section:
    lines = gather.lines(inputs)
    measured = gather.measurements(lines)
    x, y = bpt_coordinates(measured)
    figure = figures.bpt_whan(x, y, x, np.asarray(measured.halpha_ew), objects.label)
    n = len(objects.label)
    rows = []
    for code, name in enumerate(CLASS_NAMES):
        inside = objects.label == code
        rows.append([name, int((inside & objects.training).sum()),
                     int((inside & ~objects.training).sum()),
                     f"{100 * inside.sum() / max(n, 1):.2f}"])  # fmt: skip
    return Section(
        "Classes",
        "<p>Labels come from line measurements (BPT, EW of Hα) and the pipeline's BROADLINE "
        "subclass. They colour the figures; no model has seen them.</p>",
        [item("2", figure, "BPT diagrams of narrow-line and broad-line spectra, and WHAN.")],
        [Table("Labels", ["class", "training", "validation", "% of all"], rows)],
    )


def _autoencoder(inputs: ReportInputs) -> Section:
    history = gather.history(inputs)
    baseline = inputs.artifacts["train"].metrics["baseline"]
    last = {name: float(values[-1]) for name, values in history.items()}
    loss = figures.loss_by_epoch(history, baseline=baseline["validation_chi2_valid_uncapped"])
    rows = [
        [name, *(last[f"{split}_{key}"] for split in ("train", "validation"))]
        for name, key in (
            ("χ² (eq. 1), weights capped as in training", "chi2"),
            ("χ² per valid pixel (eq. 2), capped", "chi2_valid"),
            ("χ² (eq. 1), not capped", "chi2_uncapped"),
            ("χ² per valid pixel (eq. 2), not capped", "chi2_valid_uncapped"),
        )
    ]
    rows.append(["weighted PCA, as many components: eq. 1, not capped", None,
                 baseline["validation_chi2_uncapped"]])  # fmt: skip
    rows.append(["weighted PCA: eq. 2, not capped", None,
                 baseline["validation_chi2_valid_uncapped"]])  # fmt: skip
    return Section(
        "Auto-encoder",
        "<p>The training column is the running mean of the last epoch; each batch is scored "
        "before the step it causes. The dashed line is a linear model with as many "
        "components.</p>",
        [
            item("8", figures.architecture(gather.layer_sizes(inputs)), "The auto-encoder."),
            item("9", loss, "Both losses on both splits, by epoch."),
        ],
        [Table(f"After {int(last['epoch'])} epochs", ["", "training", "validation"], rows)],
    )


def _reconstruction(inputs: ReportInputs) -> Section:
    encoded = inputs.artifacts["encode"]
    applied = inputs.models is not None
    split = None if applied else "validation"
    sums = gather.residuals(encoded.path, split)
    wave = inputs.sample.grid.centres
    total, count = sums["square"].sum(axis=0), sums["count"].sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        pixelwise = np.where(count > 0, total / count - 1, np.nan)
        mean = np.where(sums["count"] > 0, sums["pull"] / sums["count"], np.nan)
    present = [c for c in range(len(CLASS_NAMES)) if sums["count"][c].any()]
    residual = figures.residual_by_class(wave, {code: mean[code] for code in present})
    whose = "all spectra" if applied else "the validation split"
    return Section(
        "Reconstruction",
        f"<p>χ² of {whose}, with the inverse variances of the sample (not capped).</p>",
        [
            item("14", figures.pixelwise_chi2(wave, pixelwise), f"χ² − 1 by pixel, {whose}."),
            item("", residual, f"Mean of (reconstruction − data)/σ by class, {whose}: structure "
                                "at a line is something the model does not reproduce."),
        ],
        [_chi2_table(encoded), *uncertainty_tables(encoded)],
    )  # fmt: skip


def _chi2_table(encoded: Artifact) -> Table:
    rows = [
        [split, name, found["n"], found["chi2"], found["chi2_valid"], found["chi2_valid median"]]
        for split in ("train", "validation")
        for name, found in encoded.metrics[split].items()
    ]
    return Table("χ² by class", ["split", "class", "spectra", "eq. 1, mean", "eq. 2, mean",
                                 "eq. 2, median"], rows)  # fmt: skip


def _drift(inputs: ReportInputs, objects: Objects) -> Section:
    theirs = gather.trained_on(inputs)
    assert theirs is not None
    mine: dict[str, NDArray[Any]] = {
        "chi2_valid": objects.chi2_valid, "log_prob": objects.log_prob, "label": objects.label
    }  # fmt: skip
    bars: dict[str, Mapping[Any, float]] = {}
    rows = []
    for name, scores in (("trained on, validation split", theirs), ("this data", mine)):
        good = np.isfinite(scores["chi2_valid"])
        bars[name] = {
            CLASS_NAMES[code]: float(np.median(scores["chi2_valid"][good & inside]))
            for code in range(len(CLASS_NAMES))
            if (good & (inside := scores["label"] == code)).any()
        }
    for name in CLASS_NAMES:
        a, b = (values.get(name) for values in bars.values())
        ratio = None if a is None or b is None else b / a
        rows.append([name, int((objects.label == CLASS_NAMES.index(name)).sum()), a, b, ratio])
    columns = ["class", "spectra here", "trained on", "this data", "ratio"]
    drift = by_class.drift_of(inputs.artifacts["density"])
    histograms = figures.drift_histograms(
        {k: v for k, v in theirs.items() if k != "label"},
        {k: v for k, v in mine.items() if k != "label"},
        numbers=by_class.drift_numbers(drift),
    )
    return Section(
        "Drift",
        "<p>The models are those of another run. This is how far the data here lie from what "
        "they were trained on. With many spectra every difference is significant: read the sizes "
        "first, the p-values last.</p>",
        [
            item("", figures.chi2_by_class(bars, ylabel="median χ² per valid pixel (eq. 2)"),
                  "Median χ² per valid pixel by class."),
            item("", histograms, "Scores here and in the validation split of that run."),
        ],
        [Table("Median χ² per valid pixel (eq. 2), not capped", columns, rows),
         *by_class.drift_tables(drift)],
    )  # fmt: skip


def _latents(objects: Objects, job: Job) -> Section:
    drawn = gather.some(len(objects.label), job.report.max_points)
    figure = figures.latent_corner(objects.latents[drawn], objects.label[drawn])
    return Section(
        "Latents", "", [item("10", figure, "Latent dimensions by class, trimmed by 0.01 %.")]
    )


def _maps(inputs: ReportInputs, objects: Objects, job: Job) -> Section:
    drawn = gather.some(len(objects.label), job.report.max_points)
    pair = figures.map_pair(
        objects.flux_map[drawn, :2], objects.latent_map[drawn, :2], objects.label[drawn]
    )
    items = [item("3", pair, "UMAP of flux and of latents, by class.")]
    snr = np.log10(np.maximum(column(objects.index, "snr_total"), 1e-3))
    for name, values in (
        ("redshift z", objects.z), ("log p", objects.log_prob), ("log10 S/N (total)", snr)
    ):  # fmt: skip
        figure = figures.map_coloured(objects.latent_map[drawn, :2], values[drawn], name)
        items.append(item("", figure, f"Map of latents coloured by {name}."))
    rows = [
        [what, *(artifact.metrics.get(name) for name in
                 ("trustworthiness", "neighbour_overlap")), artifact.counts["fitted on"]]
        for what, artifact in (("flux", inputs.artifacts["embed-flux"]),
                               ("latents", inputs.artifacts["embed-latents"]))
    ]  # fmt: skip
    columns = ["map of", "trustworthiness", "neighbour overlap", "fitted on"]
    return Section("Maps", "", items, [Table("Quality of the maps", columns, rows)])


def _stacks(inputs: ReportInputs, objects: Objects, job: Job) -> Iterator[Section]:
    regions = gather.regions_of(inputs)
    stacks, indices = gather.stacks(inputs)
    wave = column(stacks, "wavelength")
    counts = inputs.artifacts["regions"].counts
    xy = objects.latent_map if job.regions.map == "latents" else objects.flux_map
    drawn = gather.some(len(objects.label), job.report.max_points)

    def stack(name: str) -> tuple[str, NDArray[Any], NDArray[Any]]:
        shown = name.rpartition("-")[2]
        return shown, column(stacks, f"{name}_flux"), column(stacks, f"{name}_error")

    boxes: dict[str, list[dict[str, Any]]] = {}
    for region in regions:
        if "box" in region["rule"]:
            boxes.setdefault(region["sequence"], []).append(region)
    polygons = [region for region in regions if "polygon" in region["rule"]]
    if boxes:
        drawn_boxes = {
            s: [(r["name"].rpartition("-")[2], r["rule"]["box"]) for r in rs]
            for s, rs in boxes.items()
        }
        names = [r["name"] for rs in boxes.values() for r in rs]
        yield Section(
            "Sequences",
            "<p>From star-forming (7) to passive (0). Stacks are inverse-variance weighted, on "
            "the native grid, without interpolation.</p>",
            [
                item("4", figures.map_with_boxes(xy[drawn, :2], objects.label[drawn],
                                                  drawn_boxes), "Two sequences of boxes."),
                item("5", figures.sequence_stacks(
                    wave, {s: [stack(r["name"]) for r in rs] for s, rs in boxes.items()}),
                    "Stacks of both sequences."),
                item("", figures.stack_indices(_index_columns(indices, boxes)),
                      "Indices along the sequences, with bootstrap errors."),
            ],
            [_region_table(names, counts, indices)],
        )  # fmt: skip
    if polygons:
        reference = gather.composite(job.report.composite)
        names = [r["name"] for r in polygons]
        yield Section(
            "Broad-line spectra",
            "" if reference is not None else
            "<p>No composite was given ([report] composite), so none is drawn.</p>",
            [
                item("6", figures.map_with_polygons(
                    xy[drawn, :2], objects.label[drawn],
                    [(r["name"], r["rule"]["polygon"]) for r in polygons]),
                    "Polygons over the broad-line spectra (black)."),
                item("7", figures.polygon_stacks(wave, [stack(name) for name in names],
                                                  reference=reference),
                      "Stacks of the polygons."),
            ],
            [_region_table(names, counts, indices)],
        )  # fmt: skip


#: Indices shown: column, unit.
INDICES = ("d4000n", "hdelta_a", "balmer_break", "continuum_slope")


def _index_columns(
    indices: Any, boxes: Mapping[str, list[dict[str, Any]]]
) -> dict[str, list[object]]:
    order = column(indices, "region").tolist()
    rows = [(s, r["name"]) for s, rs in boxes.items() for r in rs]
    places = [order.index(name) for _, name in rows]
    table: dict[str, list[object]] = {
        "sequence": [s for s, _ in rows],
        "region": [name.rpartition("-")[2] for _, name in rows],
    }
    for name in INDICES:
        for key in (name, f"{name}_error"):
            if key in indices.column_names:
                table[key] = column(indices, key)[places].tolist()
    return table


def _region_table(names: list[str], counts: Mapping[str, int], indices: Any) -> Table:
    order = column(indices, "region").tolist()
    shown = [name for name in (*INDICES, "halpha_ew", "hbeta_broad_fwhm", "halpha_broad_fwhm")
             if name in indices.column_names]  # fmt: skip
    rows = [
        [name, counts[name], *(float(column(indices, key)[order.index(name)]) for key in shown)]
        for name in names
    ]
    return Table("Regions", ["region", "spectra", *shown], rows)


def _provenance(inputs: ReportInputs) -> Section:
    rows = [
        [stage, artifact.fingerprint[:12], str(artifact.manifest["finished"]),
         ", ".join(f"{k} {v}" for k, v in artifact.manifest["where"].items() if k != "source")]
        for stage, artifact in inputs.artifacts.items()
    ]  # fmt: skip
    versions = inputs.artifacts["encode"].manifest["versions"]
    return Section(
        "Provenance",
        "",
        (),
        [
            Table("Stages", ["stage", "fingerprint", "finished", "where"], rows),
            Table("Versions", ["library", "version"], [list(pair) for pair in versions.items()]),
        ],
    )
