"""The density of each class, and what class an object's latents say it is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from scipy.special import logsumexp

from spectra_scale.compute.progress import Progress
from spectra_scale.config import DensitySection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.provenance import read_json, write_bytes, write_json
from spectra_scale.spectrum.classify import CLASS_NAMES, Label

if TYPE_CHECKING:
    from spectra_scale.models.conditional_gis import ConditionalGIS

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
CONDITIONAL = "conditional.safetensors"
SETTINGS = "conditional.json"
#: Codes of the classes that have a density: all but N/A, which is no class of objects.
CLASSES = tuple(int(label) for label in Label if label != Label.NOT_AVAILABLE)
#: Validation objects of known class below which posteriors are not given a temperature.
LEAST_CALIBRATED = 200
log = logging.getLogger(__name__)


def column_name(code: int) -> str:
    """Name of the column with the posterior of a class.

    Examples
    --------
    >>> column_name(3)
    'posterior_narrow_line_agn'
    """
    safe = CLASS_NAMES[code].lower().replace("-", "_").replace(" ", "_")
    return f"posterior_{safe}"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of the sample as the density sees them.

    Parameters
    ----------
    latents
        Shape (row, D).
    label
        Class code of each.
    usable, training, validation
        Which can be scored, may be fitted on, and judge.
    """

    latents: Floats
    label: NDArray[np.int64]
    usable: NDArray[np.bool_]
    training: NDArray[np.bool_]
    validation: NDArray[np.bool_]


def classify(
    rows: Rows, config: DensitySection, fitted: Path | None, out: Path
) -> tuple[Columns, dict[str, Any]]:
    """Fit the conditional flow, or take a fitted one, and score every object.

    Parameters
    ----------
    rows
        The objects.
    config
        `[density]`.
    fitted
        Density of an earlier run to score with; None fits a new one.
    out
        Where the flow is written.

    Returns
    -------
    tuple
        Columns by name, and figures for the manifest. No columns where there is no conditional
        density; ``skipped`` then says why.
    """
    from spectra_scale.models.conditional_layers import TooFewRowsError

    if fitted is None and not config.conditional:
        return {}, {"skipped": "[density] conditional is false"}
    if fitted is not None and not (fitted / CONDITIONAL).is_file():
        return {}, {"skipped": f"{fitted}: the density has no conditional flow"}
    try:
        flow = _fit(rows, config) if fitted is None else load_conditional(fitted)
    except TooFewRowsError as error:
        log.warning("no conditional density: %s", error)
        return {}, {"skipped": str(error)}
    write_bytes(out / CONDITIONAL, save(flow.to_arrays()))
    write_json(out / SETTINGS, flow.settings.to_json())
    n = len(rows.label)
    log_prob = np.full((n, len(CLASSES)), np.nan)
    log_prob[rows.usable] = flow.log_prob(rows.latents[rows.usable])
    posterior = np.full((n, len(CLASSES)), np.nan)
    posterior[rows.usable] = flow.posterior_of(log_prob[rows.usable])
    # An object is judged by its own class where it has one.
    own = np.full(n, np.nan)
    labelled = np.flatnonzero(np.isin(rows.label, CLASSES))
    own[labelled] = log_prob[labelled, rows.label[labelled] - CLASSES[0]]
    best = np.zeros(n, dtype=np.int8)
    best[rows.usable] = np.array(CLASSES)[np.argmax(posterior[rows.usable], axis=1)]
    columns: Columns = {column_name(code): posterior[:, k] for k, code in enumerate(CLASSES)}
    columns |= {"class_posterior_best": best, "log_prob_in_class": own}
    judged = rows.validation if fitted is None else rows.usable
    return columns, _metrics(flow, rows, log_prob, judged)


def _fit(rows: Rows, config: DensitySection) -> ConditionalGIS:
    from spectra_scale.models.conditional_gis import ConditionalGIS, ConditionalSettings

    settings = ConditionalSettings(
        classes=CLASSES,
        n_layers=config.conditional_layers,
        n_slices=config.n_slices,
        subsample=config.subsample,
        patience=config.patience,
        seed=config.seed,
    )
    progress = Progress("density by class", config.conditional_layers, "layers")

    def say(_: int, record: dict[str, float]) -> None:
        progress.advance(note=f"validation log p {record['validation_mean']:.3f}")

    train, held_out = rows.training, rows.validation
    flow = ConditionalGIS.fit(
        rows.latents[train], rows.label[train], settings,
        rows.latents[held_out], rows.label[held_out], say,
    )  # fmt: skip
    known = held_out & np.isin(rows.label, CLASSES)
    if np.sum(known) < LEAST_CALIBRATED:
        return flow
    return flow.calibrated(rows.latents[known], rows.label[known])


def load_conditional(path: Path) -> ConditionalGIS:
    """The conditional flow of a finished density.

    Raises
    ------
    SpectraScaleError
        If it has none.
    """
    from spectra_scale.models.conditional_gis import ConditionalGIS, ConditionalSettings

    if not (path / CONDITIONAL).is_file():
        msg = f"{path}: the density has no conditional flow"
        raise SpectraScaleError(msg)
    settings = ConditionalSettings.from_json(read_json(path / SETTINGS))
    return ConditionalGIS.from_arrays(load_file(path / CONDITIONAL), settings)


def _metrics(
    flow: ConditionalGIS, rows: Rows, log_prob: Floats, judged: NDArray[np.bool_]
) -> dict[str, Any]:
    from spectra_scale.models.class_prior import estimated_prior

    def by_class(values: NDArray[Any]) -> dict[str, Any]:
        return dict(zip((CLASS_NAMES[code] for code in CLASSES), values.tolist(), strict=True))

    means = {
        CLASS_NAMES[code]: float(np.mean(log_prob[inside, k]))
        for k, code in enumerate(CLASSES)
        if (inside := judged & (rows.label == code)).any()
    }
    found: dict[str, Any] = {
        "training rows": by_class(flow.counts),
        "layers": by_class(flow.n_layers),
        "pooled": [CLASS_NAMES[code] for code in flow.classes[flow.pooled]],
        "prior": by_class(flow.prior()),
        "mean log_prob in class": means,
    }
    posterior = flow.posterior_of(log_prob[judged])
    if judged.any():
        # What the calibrated posteriors say of the likelihood, up to a constant an object.
        ratio = np.log(np.maximum(posterior, 1e-300)) - np.log(flow.prior())
        found["fractions by likelihood"] = by_class(estimated_prior(ratio))
    plain = log_prob[judged] + np.log(flow.prior())
    plain = np.exp(plain - logsumexp(plain, axis=1, keepdims=True))
    scores = _reliability(posterior, plain, rows.label[judged])
    return found | {"temperature": flow.temperature, "reliability": scores}


def _reliability(posterior: Floats, plain: Floats, label: NDArray[np.int64]) -> dict[str, Any]:
    """Scores of the posteriors, and what a temperature does to those of Bayes' rule alone.

    For the comparison a temperature is fitted on every other object, and both are scored on the
    rest.
    """
    from spectra_scale.models.reliability import fit_temperature, reliability, tempered

    known = np.isin(label, CLASSES)
    chance, true = plain[known], label[known]
    if len(true) < 2:
        return {"n": len(true)}
    found = reliability(posterior[known], true, CLASSES).metrics()
    temperature = fit_temperature(chance[::2], true[::2], CLASSES)
    before = reliability(chance[1::2], true[1::2], CLASSES)
    after = reliability(tempered(chance[1::2], temperature), true[1::2], CLASSES)
    return found | {
        "other half, Bayes alone": {"log-loss": before.log_loss, "ece": before.ece},
        "other half, with temperature": {"log-loss": after.log_loss, "ece": after.ece},
    }
