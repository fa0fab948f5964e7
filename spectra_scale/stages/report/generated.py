"""Generated spectra in the report: beside those of figure 13, and how real they are."""

from __future__ import annotations

from matplotlib.figure import Figure

from spectra_scale import figures
from spectra_scale.figures.page import Table
from spectra_scale.models.generate import MAX_ROWS, MIN_ROWS, generate, realism, realism_table
from spectra_scale.models.inputs import load_encoder
from spectra_scale.stages.report.gather import N_SHOWN, Objects, ReportInputs

#: Of the samples in the report.
SEED = 13


def generated(inputs: ReportInputs, objects: Objects, unit: str) -> tuple[Figure, list[Table]]:
    """Sixteen generated spectra, and as many as there are held-out ones compared with these.

    Parameters
    ----------
    inputs, objects
        The run and its results.
    unit
        Label of the flux axis.

    Returns
    -------
    tuple
        The figure, and a table; none where there are too few held-out spectra to compare with, or
        the models are another run's (the drift says more there).
    """
    model, _ = load_encoder(inputs.artifacts["train"].path)
    flow, _ = inputs.load_flow(inputs.artifacts["density"].path)
    wave = inputs.sample.grid.centres
    sample = inputs.sample
    held_out, training = (
        objects.latents[rows & objects.usable].astype(float)
        for rows in (sample.validation_rows(), sample.training_rows())
    )
    n = max(N_SHOWN, min(len(held_out), MAX_ROWS))
    made = generate(model, flow, n, SEED)
    figure = figures.spectra_grid(
        wave,
        made.flux[:N_SHOWN],
        ["generated"] * N_SHOWN,
        [f"log p={value:.1f}" for value in made.log_prob[:N_SHOWN]],
        heading="Generated spectra",
        unit=unit,
    )
    if inputs.models is not None or min(len(held_out), len(training)) < MIN_ROWS:
        return figure, []
    names, rows = realism_table(realism(wave, model, made, (held_out, training), SEED))
    title = (
        "Generated beside held-out spectra: median (16 %, 84 %) and KS distance of indices; share "
        "of the 5 nearest neighbours that are of a latent's own set (0.5 if alike); AUC of a "
        "classifier. Last column: the same of training spectra"
    )
    return figure, [Table(title, names, rows)]
