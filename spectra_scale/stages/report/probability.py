"""The report's section on log p: the paper's figures 11 to 13."""

from __future__ import annotations

import numpy as np

from spectra_scale import figures
from spectra_scale.figures.page import Section, Table
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.stages.report import gather
from spectra_scale.stages.report.gather import Objects, ReportInputs
from spectra_scale.stages.report.generated import generated
from spectra_scale.stages.report.items import FLUX_UNIT, item, key_of, title_of
from spectra_scale.stages.report.outlier_sections import Judged


def density_section(inputs: ReportInputs, objects: Objects, judged: Judged) -> Section:
    """Histogram of log p, the least probable, the common and the generated (figures 11-13)."""
    by_class = {code: objects.log_prob[objects.label == code] for code in np.unique(objects.label)}
    histogram = figures.log_prob_histogram(
        objects.log_prob[objects.training], objects.log_prob[~objects.training],
        by_class={int(code): values for code, values in by_class.items()},
    )  # fmt: skip
    wave = inputs.sample.grid.centres
    rare = gather.show(inputs, gather.least_probable(objects))
    usual = gather.show(inputs, gather.common(objects))
    least = figures.spectra_grid(
        wave, rare.flux, [int(objects.label[row]) for row in rare.rows],
        [f"{title_of(objects, row)}\n{judged.words(row)}" for row in rare.rows],
        reconstructions=rare.reconstruction,
        heading="Least probable spectra", unit=FLUX_UNIT,
    )  # fmt: skip
    most = figures.spectra_grid(
        wave, usual.reconstruction, [int(objects.label[row]) for row in usual.rows],
        [title_of(objects, row) for row in usual.rows],
        heading="Reconstructions of common spectra", unit=FLUX_UNIT,
    )  # fmt: skip
    rows = [
        [key_of(objects, row), CLASS_NAMES[objects.label[row]], objects.z[row],
         objects.log_prob[row], objects.p_value[row], objects.chi2_valid[row],
         judged.words(row)]
        for row in rare.rows
    ]  # fmt: skip
    made, tables = generated(inputs, objects, FLUX_UNIT)
    return Section(
        "Density",
        "<p>log p of the latents under the density. The p-value is the share of validation "
        "spectra that are less probable; training rows are optimistic.</p>",
        [
            item("11", histogram, "log p of both splits and of each class."),
            item("12", least, "The 16 least probable spectra, and their reconstructions."),
            item("13", most, "16 reconstructions, a random choice of the more probable half."),
            item("", made, "16 spectra drawn from the density and decoded: none was observed."),
        ],
        [Table("Least probable spectra", ["spectrum", "class", "z", "log p", "p-value",
                                          "χ² per valid pixel", "verdict"], rows), *tables],
    )  # fmt: skip
