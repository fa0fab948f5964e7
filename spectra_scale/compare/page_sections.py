"""Sections of the comparison page."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compare.measures import MEASURES
from spectra_scale.compare.run import Comparison
from spectra_scale.compare.statistics import FRACTION_TARGETS, class_masks
from spectra_scale.compare.transfer import WINDOWS, mean_residual
from spectra_scale.compare.verdicts import COLUMNS, asked
from spectra_scale.figures import compare_spectra as pictures
from spectra_scale.figures import compare_statistics as charts
from spectra_scale.figures.page import FigureItem, Section, Table, png_of
from spectra_scale.figures.residuals import chi2_by_class
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum.grid import WavelengthGrid

Doubles = NDArray[np.float64]


def _figure(figure: Any, caption: str) -> FigureItem:
    return FigureItem(caption, png_of(figure))


def all_sections(found: Comparison) -> list[Section]:
    """Sections in their order: targets first, examples and blind spectra last."""
    return [
        _targets(found),
        _release(found),
        _noise(found),
        _measures(found),
        _linear(found),
        _transfer(found),
        _classifier(found),
        _gallery(found),
        _blind(found),
    ]


def _targets(found: Comparison) -> Section:
    rows = [item.row() for item in asked(found.numbers)]
    text = (
        "<p>Both sides are read from files by one reader, cut alike (0.05 ≤ z ≤ 0.36, ZWARNING 0, "
        "GALAXY or QSO, under 40 % masked), and labelled and measured by the same functions. "
        "Where the two are compared, each real spectrum stands beside the nearest mock spectra of "
        "its class in redshift and S/N, of its own spectrograph and CLASS where there are any.</p>"
    )
    return Section("What is asked for", text, tables=[Table("Targets", list(COLUMNS), rows)])


def _release(found: Comparison) -> Section:
    fractions = found.numbers["class_fractions"]
    pairs: dict[int | str, tuple[float, float]] = {
        name: (fractions[name], target) for name, target in FRACTION_TARGETS.items()
    }
    figure = charts.whole_release(found.mock.z, found.mock.snr, pairs, mode=0.08, median=0.11)
    rows = [
        [name, found.numbers["samples"]["mock_by_table"][i], fractions[name],
         FRACTION_TARGETS[name], found.numbers["samples"]["real_by_class"][i]]
        for i, name in enumerate(CLASS_NAMES)
    ]  # fmt: skip
    columns = ["class", "mock spectra", "mock (%)", "target (%)", "real spectra here"]
    caption = (
        "Redshift, S/N and classes of all mock spectra that pass the cuts. Classes of the mock by "
        "its own line tables; of real spectra by the lines measured here, as for the matching."
    )
    return Section("The release as a whole", figures=[_figure(figure, caption)],
                   tables=[Table("Classes, by our own labels", columns, rows)])  # fmt: skip


def _noise(found: Comparison) -> Section:
    noise, masks = found.numbers["noise"], found.numbers["masks"]
    names = ("width", "lag1", "lag2", "lag3", "variance4", "outliers", "spectra")
    rows = [
        [side, where, *(values[name] for name in names)]
        for side in ("real", "mock")
        for where, values in noise[side].items()
    ]
    bits = {
        bit: (masks["real"]["all"]["bits"][bit], share)
        for bit, share in masks["mock"]["all"]["bits"].items()
    }
    columns = ["", "spectrograph", "pull width", "lag 1", "lag 2", "lag 3",
               "variance of 4 pixels", "beyond 5σ", "spectra"]  # fmt: skip
    text = (
        "<p>Pulls against the model in the spec files, or for plates in spZbest, less their "
        "running median; median over spectra. Stars and all redshifts are in.</p>"
    )
    figure = _figure(charts.mask_shares(bits), "Share of pixels with data that have each bit.")
    return Section("Noise and masks", text, [figure], [Table("Noise", columns, rows)])


def _measures(found: Comparison) -> Section:
    real, mock = found.real, found.mock
    i, j = found.matches.pairs()
    weight = found.matches.weight
    panels: dict[int | str, Any] = {}
    notes: dict[int | str, Any] = {}
    rows = found.numbers["distributions"]
    masks = class_masks(real.label)
    for name in dict.fromkeys(row["class"] for row in rows):
        mine = masks[name]
        pair = mine[i]
        panels[name] = [
            (real.measures[m][mine], mock.measures[m][j[pair]], weight[pair]) for m in MEASURES
        ]
        notes[name] = [
            f"KS {row['ks']:.2f} ({row['ks_5_per_cent']:.2f})" if np.isfinite(row["ks"]) else ""
            for row in rows
            if row["class"] == name
        ]
    grid = charts.cumulative_grid(panels, list(MEASURES.values()), notes)
    correlations = [
        (" – ".join(MEASURES[name] for name in row["pair"]), row["real"], row["real_error"],
         row["mock"])
        for row in found.numbers["correlations"]
    ]  # fmt: skip
    table = [
        [row["class"], MEASURES[row["measure"]], row["n_real"],
         *(f"{v:.2f}" if np.isfinite(v) else "–" for v in (*row["real"], *row["mock"])),
         row["ks"], row["ks_5_per_cent"]]
        for row in rows if row["n_real"]
    ]  # fmt: skip
    columns = ["class", "measure", "n", "real 5 %", "50 %", "95 %", "mock 5 %", "50 %", "95 %",
               "KS", "5 % limit"]  # fmt: skip
    figures = [
        _figure(grid, "KS distance, in brackets the distance that 5 % of equal samples exceed."),
        _figure(charts.bpt_beside(_bpt(found, side="real"), _bpt(found, side="mock")),
                "Real spectra, and one matched mock spectrum for each."),
        _figure(charts.correlation_pairs(correlations), "Over all matched spectra."),
    ]  # fmt: skip
    return Section("Indices and lines by class", "", figures,
                   [Table("Distributions at equal class, z and S/N", columns, table)])  # fmt: skip


def _bpt(found: Comparison, *, side: str) -> dict[int | str, tuple[Doubles, Doubles]]:
    first = found.matches.rows[:, 0]
    shown = found.real if side == "real" else found.mock.take(first[first >= 0])
    return {
        int(code): (
            shown.measures["nii_ha"][shown.label == code],
            shown.measures["oiii_hb"][shown.label == code],
        )
        for code in np.unique(shown.label)
    }


def _linear(found: Comparison) -> Section:
    rows = [
        [row["trained_on"], row["applied_to"], row["chi2_mean"], row["chi2_median"]]
        for row in found.numbers["pca"]
    ]
    wave = WavelengthGrid.rest_frame().centres
    figure = pictures.mean_spectra(wave, _means(found))
    text = (
        "<p>Ten weighted principal components of one side, fitted to the other: χ² per valid "
        "pixel with the S/N of a pixel capped at 50.</p>"
    )
    columns = ["components of", "fitted to", "mean χ²", "median χ²"]
    return Section(
        "Mean spectra and linear models across", text,
        [_figure(figure, "Pairs miss the same pixels; each spectrum is over its median.")],
        [Table("Linear models", columns, rows)],
    )  # fmt: skip


def _mean(pixels: NDArray[np.float32], weight: Doubles) -> Doubles:
    good = np.isfinite(pixels)
    total = (weight[:, None] * good).sum(axis=0)
    summed = (np.where(good, pixels, 0) * weight[:, None]).sum(axis=0)
    return np.where(total > 0, summed / np.where(total > 0, total, 1), np.nan)


def _means(found: Comparison) -> dict[int | str, tuple[Doubles, Doubles]]:
    e = found.examples
    out: dict[int | str, tuple[Doubles, Doubles]] = {}
    for code in np.unique(e.label):
        sides = [(e.label == code) & (e.is_mock == is_mock) for is_mock in (False, True)]
        out[int(code)] = (_mean(e.pixels[sides[0]], e.weight[sides[0]]),
                          _mean(e.pixels[sides[1]], e.weight[sides[1]]))  # fmt: skip
    return out


def _transfer(found: Comparison) -> Section:
    rows = found.numbers["transfer"]
    t = found.transfer
    wave = WavelengthGrid.rest_frame().centres
    groups: dict[int | str, Any] = {}
    masks = class_masks(found.real.label)
    first = t.matches.rows[:, 0]
    for name in rows:
        mine = (first >= 0) & masks[name]
        groups[name] = (
            mean_residual(t.residual_real[mine]),
            mean_residual(t.residual_mock[first[mine]]),
        )
    bars = {side: {name: row[side] for name, row in rows.items()} for side in ("real", "mock")}
    columns = ["class", "real spectra", "χ² real", "χ² mock", "ratio", "error",
               "ratio of medians"]  # fmt: skip
    table = [
        [name, *(row[c] for c in ("n_real", "real", "mock", "ratio", "ratio_error",
                                  "ratio_of_medians"))]
        for name, row in rows.items()
    ]  # fmt: skip
    text = (
        f"<p>The auto-encoder of the paper, trained on {t.n_train:,} mock spectra for "
        f"{len(t.history)} epochs from the linear start; χ² per valid pixel (eq. 2), S/N of a "
        f"pixel capped at 50. Last epoch: {t.history[-1][0]:.3f} learnt, {t.history[-1][1]:.3f} "
        "on the mock's held-out objects, among which each real spectrum finds its partners.</p>"
    )
    figures = [
        _figure(chi2_by_class(bars), "Mean χ² of real spectra and of their mock partners."),
        _figure(pictures.residual_zooms(wave, groups, WINDOWS),
                "Structure in the real residuals that the mock's lack is what the mock misses."),
    ]  # fmt: skip
    return Section("An auto-encoder trained on the mock", text, figures,
                   [Table("χ² at equal class, z and S/N", columns, table)])  # fmt: skip


def _classifier(found: Comparison) -> Section:
    numbers, e = found.numbers["classifier"], found.examples
    wave = WavelengthGrid.rest_frame().centres
    real, mock = (_mean(e.pixels[rows], e.weight[rows]) for rows in (~e.is_mock, e.is_mock))
    figure = pictures.classifier_bands(wave, real, mock, found.verdict.importance)
    table: list[list[object]] = [["all", numbers["auc"], numbers["auc_error"]]]
    table += [[CLASS_NAMES[int(code)], *pair] for code, pair in numbers["by_class"].items()]
    null = numbers["auc_null"]
    text = (
        "<p>Boosted trees on the flux over its median in each rest-frame pixel, pairs with the "
        "same missing pixels, five folds by object on the sky. The AUC of all is the mean over "
        f"{len(numbers['aucs'])} draws of the mock partners "
        f"({min(numbers['aucs']):.3f} to {max(numbers['aucs']):.3f}).</p>"
    )
    if null:
        text += (
            f"<p>Real spectra against real spectra, halved at random {len(null)} times: AUC "
            f"{np.mean(null):.3f}, scatter {np.std(null):.3f}.</p>"
        )
    caption = "Loss of AUC when the pixels of a band are exchanged between spectra."
    return Section("A classifier of mock against real", text, [_figure(figure, caption)],
                   [Table("Area under the curve", ["class", "AUC", "error"], table)])  # fmt: skip


def _gallery(found: Comparison) -> Section:
    g = found.gallery
    if not g.titles:
        return Section("Examples", "<p>The release has no truth table.</p>")
    figure = pictures.numbered_spectra(g.wave, g.flux, g.titles, heading="Kinds and failures")
    caption = "Observed frame, means of four native pixels; what the truth table says of each."
    return Section("Kinds and failures of the mock", "", [_figure(figure, caption)])


def _blind(found: Comparison) -> Section:
    wave = WavelengthGrid.rest_frame().centres
    titles = [str(i + 1) for i in range(len(found.blind.is_mock))]
    figure = pictures.numbered_spectra(wave, found.blind.pixels, titles, heading="Which are mock?")
    text = "<p>Sort them first; the key is at the end of the page, folded.</p>"
    caption = "Half of each, in random order; rest frame, flux over its median."
    return Section("Sorted blind by eye", text, [_figure(figure, caption)])
