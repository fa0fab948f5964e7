"""The verdict on one spectrum, by what a run found usual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.config import OutliersSection
from spectra_scale.spectrum.faults import Scales, measure_faults
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.triage import (
    FAULTS,
    LEVEL_NAMES,
    NONE,
    Levels,
    evidence_in_words,
    scan_gain,
    statistics_of,
    verdicts,
)
from spectra_scale.stages.outliers.isolation import Cloud

if TYPE_CHECKING:
    from spectra_scale.models.autoencoder import AutoEncoder
    from spectra_scale.models.inputs import ModelInputs

Floats = NDArray[np.float32]


#: Distance in whitened latents below which two spectra are one: rounding, not noise.
OWN = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class One:
    """A spectrum as the sample would hold it, and what the models said of it.

    Parameters
    ----------
    flux, ivar
        Rest frame, shape (1, pixel).
    latents
        Shape (1, latent).
    inpaint
        Passes with missing pixels from the reconstruction.
    redshift, snr, p_value
        Redshift, median S/N, and p-value of the flow.
    survey, broad
        First part of its key; whether it is a broad-line spectrum.
    """

    flux: Floats
    ivar: Floats
    latents: Floats
    inpaint: int
    redshift: float
    snr: float
    p_value: float
    survey: str
    broad: bool


def judge_one(
    reference: Mapping[str, NDArray[Any]],
    model: AutoEncoder,
    inputs: ModelInputs,
    one: One,
    config: OutliersSection,
) -> dict[str, str]:
    """Verdict, evidence and distance of one spectrum, in words.

    Parameters
    ----------
    reference
        Arrays of the run's ``reference.safetensors``.
    model, inputs
        Its auto-encoder, and how that is fed.
    one
        The spectrum.
    config
        `[outliers]` of the run.
    """
    from spectra_scale.models.autoencoder import decode_latents
    from spectra_scale.models.redshift_scan import scan_redshifts, shifts_within

    grid = WavelengthGrid.rest_frame(one.flux.shape[1])
    fed = inputs.apply(one.flux, one.ivar)
    made = decode_latents(model, one.latents, fed.flux, fed.ivar)
    assert made.reconstruction is not None
    redshift = np.array([one.redshift])
    scales = Scales(*(reference[f"scales_{name}"] for name in Scales._fields))
    how = (scales, grid, one.survey)
    broad = np.array([one.broad])
    columns = measure_faults(made.reconstruction, fed.flux, fed.ivar, redshift, broad, how)
    scan = scan_redshifts(
        model,
        inputs,
        one.flux,
        one.ivar,
        shifts_within(grid.log10_step, config.redshift_reach),
        log10_step=grid.log10_step,
        redshift=redshift,
        inpaint_passes=one.inpaint,
    )
    columns["scan_gain"] = scan_gain(
        scan.chi2, scan.chi2_here, scan.n_pixels, model.architecture.n_latent
    )
    columns["other_redshift"] = (1 + redshift) * 10 ** (grid.log10_step * scan.shift) - 1
    columns["chi2_ratio"] = scan.chi2_here / scan.chi2
    strength = _strength(reference, columns, np.array([one.snr]), broad)
    rare = np.array([one.p_value < config.p_value])
    verdict, evidence = verdicts(strength, rare, np.array([True]), config.sigma)
    p = _knn_p_value(reference, one.latents, config.k)
    value = {name: float(values[0]) for name, values in columns.items()} | {"knn_p_value": p}
    word = str(verdict[0])
    shown = evidence_in_words(word, value)
    strongest = ", ".join(f"{kind} {strength[kind][0]:.1f}" for kind in FAULTS)
    return {
        "verdict": f"{word} ({shown})" if shown else word,
        "strength of the evidence": f"{evidence[0]:.1f}"
        if word != NONE
        else f"none beyond {config.sigma:g}",
        "faults, in widths of what is usual": strongest,
        "p-value of the distance to its neighbours": f"{p:.4g}",
    }


def _strength(
    reference: Mapping[str, NDArray[Any]],
    columns: dict[str, NDArray[np.float64]],
    snr: NDArray[np.float64],
    broad: NDArray[np.bool_],
) -> dict[str, NDArray[np.float64]]:
    found = {}
    for kind, statistic in statistics_of(columns).items():
        levels = Levels(**{name: reference[f"levels_{kind}_{name}"] for name in LEVEL_NAMES})
        found[kind] = levels.strength(statistic, snr, broad)
    return found


def _knn_p_value(reference: Mapping[str, NDArray[Any]], latents: Floats, k: int) -> float:
    from spectra_scale.models.gis import p_value
    from spectra_scale.models.neighbours import ExactIndex

    mean, axes, rows = (reference[f"cloud_{name}"] for name in ("mean", "axes", "rows"))
    white = Cloud(mean, axes, rows, np.empty(0, np.int64)).whiten(latents)
    k = min(k, len(rows) - 1)
    _, distance = ExactIndex(rows).query(white, k + 1)
    # A spectrum of the training split is its own nearest neighbour, and is not counted.
    own = distance[:, 0] < OWN
    chosen = np.where(own, distance[:, k], distance[:, k - 1]).astype(np.float64)
    return float(p_value(-chosen, -reference["knn_validation"])[0])
