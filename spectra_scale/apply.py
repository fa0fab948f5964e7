"""Apply: the models of a finished run on a release, on a folder, or on one spectrum file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from spectra_scale.config import Job
from spectra_scale.errors import UsageError
from spectra_scale.jobfile import make_job
from spectra_scale.pipeline import run_job
from spectra_scale.spectrum.classify import CLASS_NAMES, Label
from spectra_scale.spectrum_file import encode_file, job_of
from spectra_scale.store.artifact import MANIFEST
from spectra_scale.store.run import Run, open_run
from spectra_scale.surveys.release import open_release

if TYPE_CHECKING:
    from spectra_scale.models.normalise import Normalised
    from spectra_scale.spectrum_file import FileSpectrum

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
    BadSpectrumError, SpectraScaleError
        As `spectra_scale.spectrum_file.encode_file`.
    """
    from spectra_scale.models.uncertainty import reconstruction_variance

    run = open_run(run_path)
    job = job_of(run)
    spectrum = encode_file(run, job, path)
    row, found, quality = spectrum.row, spectrum.fed, spectrum.quality
    encoded, covariance = spectrum.encoded, spectrum.covariance
    assert encoded.reconstruction is not None
    error = np.sqrt(reconstruction_variance(spectrum.model, encoded.latents, covariance)[0])
    latents, sigma = encoded.latents[0], np.sqrt(np.diagonal(covariance[0]))
    scores = _scores(run, job, encoded.latents, _map_flux(job, found, encoded.reconstruction))
    facts = {
        "spectrum": row["spectrum_key"],
        "class": f"{row['class']} {row['subclass']}".strip(),
        "label": CLASS_NAMES[spectrum.label],
        "z": spectrum.z,
        "S/N (total)": float(quality.snr_total[0]),
        "masked fraction": float(quality.masked_fraction[0]),
        "χ² per valid pixel": float(encoded.chi2_valid[0]),
        "latents": ", ".join(f"{z:.3f} ± {s:.3f}" for z, s in zip(latents, sigma, strict=True)),
        "uncertainty of the reconstruction, median": float(np.median(error)),
        **scores,
        **_verdict(run, job, spectrum, scores["p-value"]),
        **({"extrapolated": spectrum.extrapolated} if spectrum.extrapolated else {}),
    }
    return Scored(
        facts=facts,
        wave=spectrum.wave,
        flux=spectrum.shown,
        reconstruction=encoded.reconstruction[0],
        error=error,
        latents=latents,
        latent_errors=sigma,
        label=spectrum.label,
    )


def _verdict(run: Run, job: Job, spectrum: FileSpectrum, p_value: float) -> dict[str, str]:
    """What the run's triage says of it; nothing where the run has none."""
    from spectra_scale.stages.outliers import read_reference
    from spectra_scale.stages.outliers.single import One, judge_one

    if not run.has("outliers"):
        return {}
    one = One(
        flux=spectrum.rest.flux,
        ivar=spectrum.rest.ivar,
        latents=spectrum.encoded.latents,
        inpaint=spectrum.inpaint,
        redshift=spectrum.z,
        snr=float(spectrum.quality.snr_median[0]),
        p_value=p_value,
        survey=str(spectrum.row["spectrum_key"]).partition(":")[0],
        broad=spectrum.label == Label.BROAD_LINE,
    )
    reference = read_reference(run.folder("outliers"))
    return judge_one(reference, spectrum.model, spectrum.inputs, one, job.outliers)


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
        **_posterior(run, latents),
    }
    for name, values in (("latents", latents), ("flux", flux)):
        arrays = load_file(run.folder(f"embed-{name}") / MAP)
        pixels = arrays.pop("pixels")
        features = values if name == "latents" else values[:, pixels]
        x, y = FittedMap.from_arrays(arrays).place(features, job.embed.n_neighbors)[0][:2]
        facts[f"place on the map of {name}"] = f"{x:.3f}, {y:.3f}"
    return facts


def _posterior(run: Run, latents: Floats) -> dict[str, str]:
    """The probable classes, most probable first; nothing where the run has no density by class."""
    from spectra_scale.stages.density.classes import CONDITIONAL, load_conditional

    folder = run.folder("density")
    if not (folder / CONDITIONAL).is_file():
        return {}
    flow = load_conditional(folder)
    chance = flow.posterior(latents.astype(np.float64))[0]
    order = np.argsort(-chance, kind="stable")
    said = [f"{CLASS_NAMES[flow.classes[k]]} {chance[k]:.3f}" for k in order if chance[k] >= 0.01]
    return {"class from the latents": ", ".join(said)}


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
