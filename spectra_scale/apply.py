"""Apply: the models of a finished run on a release, on a folder, or on one spectrum file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from spectra_scale.config import Job
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.jobfile import make_job
from spectra_scale.pipeline import run_job
from spectra_scale.provenance import read_json
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.stages.train.card_text import CARD
from spectra_scale.store.artifact import MANIFEST
from spectra_scale.store.run import Run, open_run
from spectra_scale.surveys.release import open_release

if TYPE_CHECKING:
    from spectra_scale.models.autoencoder import AutoEncoder
    from spectra_scale.models.inputs import ModelInputs
    from spectra_scale.models.normalise import Normalised
    from spectra_scale.spectrum.observed import RestSpectra
    from spectra_scale.stages.outliers.single import One

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Extra:
    """What a new release may bring besides its files.

    Parameters
    ----------
    catalogue
        Its catalogue, or None.
    lines
        Its line tables; none: the pipeline's own line fits.
    settings
        Changes to the run's job, as in `--set`.
    """

    catalogue: Path | None = None
    lines: Sequence[Path] = ()
    settings: Sequence[str] = ()


def apply_to_release(run_path: Path, target: Path, out: Path | None, extra: Extra) -> Run:
    """Encode, score, place and stack new data with the models of a finished run.

    Parameters
    ----------
    run_path
        The run whose models are used.
    target
        A finished release, or a folder of survey files, which is ingested first.
    out
        Directory of the new run; default RUN/applied/NAME.
    extra
        Catalogue, line tables and settings of the new data.

    Returns
    -------
    Run
        The new run; its report says how far the data drift from what the models know.
    """
    from spectra_scale.jobfile import set_value

    open_run(run_path)
    data: dict[str, Any] = tomllib.loads((run_path / "job.toml").read_text())
    for name in ("mock", "limit", "release", "models"):
        data.pop(name, None)
    is_release = (target / MANIFEST).is_file()
    name = open_release(target).name if is_release else _name_of(target)
    section: dict[str, Any] = {"name": name}
    if is_release:
        section["path"] = str(target)
    else:
        section["source"] = [str(target)]
        if extra.catalogue is not None:
            section["catalogue"] = str(extra.catalogue)
    folder = out or run_path / "applied" / name
    data |= {
        "name": f"{data['name']}-on-{name}"[:64],
        "out": str(folder),
        "release": [section],
        "models": {"from": str(run_path)},
        "label": {"lines": [str(path) for path in extra.lines]},
    }
    for setting in extra.settings:
        set_value(data, setting)
    return run_job(make_job(data, f"apply {run_path}"))


def _name_of(folder: Path) -> str:
    name = "".join(c if c.isalnum() or c in "_.-" else "-" for c in folder.resolve().name)
    return name.strip("-._") or "release"


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What a run's models say of one spectrum.

    Parameters
    ----------
    facts
        Named numbers and words, in order.
    wave, flux, reconstruction
        Rest-frame wavelength (Å), normalised flux (NaN where masked) and its reconstruction.
    error
        One sigma of the reconstruction: what the noise of the spectrum does to it.
    latents, latent_errors
        The latents and one sigma of each, calibrated as the run's own (science.md §6).
    label
        Class code.
    """

    facts: dict[str, Any]
    wave: NDArray[np.float64]
    flux: NDArray[np.float32]
    reconstruction: NDArray[np.float32]
    error: NDArray[np.float32]
    latents: NDArray[np.float32]
    latent_errors: NDArray[np.float32]
    label: int


def apply_to_file(run_path: Path, path: Path) -> Scored:
    """Encode, score and place one spectrum file (SDSS spec format).

    Parameters
    ----------
    run_path
        The run whose models are used.
    path
        The file. No cut is applied; redshift and lines are the file's own.

    Raises
    ------
    BadSpectrumError
        If the file cannot be used.
    SpectraScaleError
        If its spectrum has no positive median in the rest-frame range.
    """
    from spectra_scale.models.autoencoder import decode_latents
    from spectra_scale.models.inputs import load_encoder
    from spectra_scale.models.uncertainty import Propagation, reconstruction_variance
    from spectra_scale.stages.outliers.single import One
    from spectra_scale.stages.prepare import shift_spectra
    from spectra_scale.surveys.sdss_spec import read_spec

    run = open_run(run_path)
    job: Job = make_job(tomllib.loads((run_path / "job.toml").read_text()), str(run_path))
    spec = read_spec(path, want_lines=True)
    assert spec.row is not None
    z = float(spec.row["z"])
    rest, quality = shift_spectra(spec.arrays, z, job.prepare)
    model, inputs_ = load_encoder(run.folder("train"))
    found = inputs_.apply(rest.flux, rest.ivar)
    if not found.usable[0]:
        msg = (
            f"{path}: no valid pixel, or a median flux that is not positive, in the rest-frame "
            f"range at z = {z:.4f}; expected a spectrum that can be normalised."
        )
        raise SpectraScaleError(msg)
    how = Propagation(model, inputs_, int(run.artifact("encode").metrics["inpaint"]))
    latents, covariance = how.propagate(found.flux, found.ivar, _correlation(job, rest))
    factors = _calibration(run, covariance.shape[-1])
    covariance = covariance * np.outer(factors, factors)
    encoded = decode_latents(model, latents, found.flux, found.ivar)
    assert encoded.reconstruction is not None
    error = np.sqrt(reconstruction_variance(model, latents, covariance)[0])
    sigma = np.sqrt(np.diagonal(covariance[0]))
    label = _label(spec.row, spec.lines)
    scores = _scores(run, job, encoded.latents, _map_flux(job, found, encoded.reconstruction))
    one = One(
        flux=rest.flux,
        ivar=rest.ivar,
        latents=latents,
        inpaint=how.inpaint_passes,
        redshift=z,
        snr=float(quality.snr_median[0]),
        p_value=scores["p-value"],
        survey=str(spec.row["spectrum_key"]).partition(":")[0],
    )
    facts = {
        "spectrum": spec.row["spectrum_key"],
        "class": f"{spec.row['class']} {spec.row['subclass']}".strip(),
        "label": CLASS_NAMES[label],
        "z": z,
        "S/N (total)": float(quality.snr_total[0]),
        "masked fraction": float(quality.masked_fraction[0]),
        "χ² per valid pixel": float(encoded.chi2_valid[0]),
        "latents": ", ".join(f"{z:.3f} ± {s:.3f}" for z, s in zip(latents[0], sigma, strict=True)),
        "uncertainty of the reconstruction, median": float(np.median(error)),
        **scores,
        **_verdict(run, job, (model, inputs_), one),
        **_beyond(run, {"z": z, "snr_median": float(quality.snr_median[0])}),
    }
    shown = np.where(found.ivar[0] > 0, found.flux[0], np.float32(np.nan))
    return Scored(
        facts=facts,
        wave=rest.grid.centres,
        flux=shown,
        reconstruction=encoded.reconstruction[0],
        error=error,
        latents=latents[0],
        latent_errors=sigma,
        label=label,
    )


def _verdict(
    run: Run, job: Job, trained: tuple[AutoEncoder, ModelInputs], one: One
) -> dict[str, str]:
    """What the run's triage says of it; nothing where the run has none."""
    from spectra_scale.stages.outliers import REFERENCE
    from spectra_scale.stages.outliers.single import judge_one

    if not run.has("outliers"):
        return {}
    reference = load_file(run.folder("outliers") / REFERENCE)
    return judge_one(reference, *trained, one, job.outliers)


def _correlation(job: Job, rest: RestSpectra) -> Floats | None:
    """Correlation of neighbouring pixels; none in the preset that shares no native pixels."""
    from spectra_scale.spectrum.covariance import neighbour_correlation
    from spectra_scale.spectrum.grid import SDSS_NATIVE

    if job.prepare.preset != "conserve":
        return None
    return neighbour_correlation(rest.redshift, SDSS_NATIVE, rest.grid)


def _beyond(run: Run, values: Mapping[str, float]) -> dict[str, str]:
    """Where a spectrum lies outside of what the model was trained on; nothing if it does not."""
    trained = read_json(run.folder("train") / CARD)["sample"]
    found = []
    for name, value in values.items():
        least, most = trained[name]["least"], trained[name]["most"]
        if not least <= value <= most:
            found.append(f"{name} {value:.4g}, trained on {least:.4g} to {most:.4g}")
    return {"extrapolated": "; ".join(found)} if found else {}


def _calibration(run: Run, n_latent: int) -> Floats:
    """Factors on standard deviations that the run found; 1 where it stored none."""
    found = run.artifact("encode").metrics.get("covariance", {}).get("factors")
    return np.asarray(found or [1.0] * n_latent, np.float32)


def _label(row: dict[str, Any], lines: dict[str, Any] | None) -> int:
    from spectra_scale.spectrum.classify import LineMeasurements, broad_from_subclass, classify

    names = [name for name in LineMeasurements.__slots__ if name != "measured"]
    measured = LineMeasurements(
        measured=np.array([lines is not None]),
        **{name: np.array([float((lines or {}).get(name, np.nan))]) for name in names},
    )
    return int(classify(broad_from_subclass(np.array([row["subclass"]])), measured)[0])


def _map_flux(job: Job, found: Normalised, reconstruction: Floats) -> Floats:
    """Flux as the run's map of flux is made of, shape (spectrum, pixel)."""
    missing = reconstruction if job.embed.masked_flux == "inpaint" else np.float32(0)
    return np.where(found.ivar > 0, found.flux, missing)


def _scores(run: Run, job: Job, latents: Floats, flux: Floats) -> dict[str, Any]:
    from spectra_scale.models.embedding import FittedMap
    from spectra_scale.models.gis import p_value
    from spectra_scale.stages.density import load_flow
    from spectra_scale.stages.embed import MAP

    flow, reference = load_flow(run.folder("density"))
    log_prob = flow.log_prob(latents.astype(np.float64))
    facts: dict[str, Any] = {
        "log p": float(log_prob[0]),
        "p-value": float(p_value(log_prob, reference)[0]),
    }
    for name, values in (("latents", latents), ("flux", flux)):
        arrays = load_file(run.folder(f"embed-{name}") / MAP)
        pixels = arrays.pop("pixels")
        features = values if name == "latents" else values[:, pixels]
        x, y = FittedMap.from_arrays(arrays).place(features, job.embed.n_neighbors)[0][:2]
        facts[f"place on the map of {name}"] = f"{x:.3f}, {y:.3f}"
    return facts


def check_target(target: Path) -> None:
    """Refuse a target that is not there.

    Raises
    ------
    UsageError
        If nothing is at `target`.
    """
    if not target.exists():
        msg = f"{target}: found nothing, expected a release, a folder or a spectrum file."
        raise UsageError(msg)


def draw(scored: Scored, path: Path) -> None:
    """Draw a scored spectrum and its reconstruction as PNG."""
    from spectra_scale.figures import png_of, spectra_grid
    from spectra_scale.provenance import write_bytes

    facts = scored.facts
    title = f"{facts['spectrum']}  z={facts['z']:.4f}  log p={facts['log p']:.1f}"
    figure = spectra_grid(
        scored.wave,
        scored.flux[None, :],
        [scored.label],
        [title],
        reconstructions=scored.reconstruction[None, :],
        errors=scored.error[None, :],
        heading="Spectrum and reconstruction",
        unit="flux / normalisation",
    )
    write_bytes(path, png_of(figure))
