"""One spectrum file, encoded with the models of a run as its sample was."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.config import Job
from spectra_scale.errors import SpectraScaleError
from spectra_scale.jobfile import make_job
from spectra_scale.provenance import read_json
from spectra_scale.stages.train.card_text import CARD
from spectra_scale.store.run import Run

if TYPE_CHECKING:
    from spectra_scale.models.autoencoder import AutoEncoder, Encoded
    from spectra_scale.models.inputs import ModelInputs
    from spectra_scale.models.normalise import Normalised
    from spectra_scale.spectrum.observed import RestSpectra
    from spectra_scale.spectrum.quality import Quality

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FileSpectrum:
    """A file's spectrum, and what a run's auto-encoder makes of it; arrays have one row.

    Parameters
    ----------
    row
        What the file says of the object, as a row of a catalogue.
    label
        Class code, by the file's own line measurements.
    rest, quality
        The spectrum in the rest frame, and its S/N and masked fraction.
    model, inputs, inpaint
        The auto-encoder, how it is fed, and the passes that fill its missing pixels.
    fed
        What it was fed.
    encoded
        Latents, χ² and reconstruction.
    covariance
        Of the latents, calibrated as the run's own (science.md §6), shape (1, D, D).
    extrapolated
        Where the spectrum lies outside of what the model was trained on; empty if it does not.
    """

    row: dict[str, Any]
    label: int
    rest: RestSpectra
    quality: Quality
    model: AutoEncoder
    inputs: ModelInputs
    inpaint: int
    fed: Normalised
    encoded: Encoded
    covariance: Floats
    extrapolated: str

    @property
    def z(self) -> float:
        """Redshift, the file's own."""
        return float(self.row["z"])

    @property
    def wave(self) -> NDArray[np.float64]:
        """Rest-frame vacuum wavelength, Å, shape (pixel,)."""
        return self.rest.grid.centres

    @property
    def shown(self) -> Floats:
        """Normalised flux, NaN where masked, shape (pixel,)."""
        return np.where(self.fed.ivar[0] > 0, self.fed.flux[0], np.float32(np.nan))


def job_of(run: Run) -> Job:
    """The job that a run was made by."""
    return make_job(tomllib.loads((run.path / "job.toml").read_text()), str(run.path))


def encode_file(run: Run, job: Job, path: Path) -> FileSpectrum:
    """Encode one spectrum file (SDSS spec format).

    Parameters
    ----------
    run, job
        The run whose models are used, and its job.
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
    from spectra_scale.models.uncertainty import Propagation
    from spectra_scale.stages.prepare import shift_spectra
    from spectra_scale.surveys.sdss_spec import read_spec

    spec = read_spec(path, want_lines=True)
    assert spec.row is not None
    z = float(spec.row["z"])
    rest, quality = shift_spectra(spec.arrays, z, job.prepare)
    model, inputs = load_encoder(run.folder("train"))
    fed = inputs.apply(rest.flux, rest.ivar)
    if not fed.usable[0]:
        msg = (
            f"{path}: no valid pixel, or a median flux that is not positive, in the rest-frame "
            f"range at z = {z:.4f}; expected a spectrum that can be normalised."
        )
        raise SpectraScaleError(msg)
    how = Propagation(model, inputs, int(run.artifact("encode").metrics["inpaint"]))
    latents, covariance = how.propagate(fed.flux, fed.ivar, _correlation(job, rest))
    factors = _calibration(run, covariance.shape[-1])
    return FileSpectrum(
        row=spec.row,
        label=_label(spec.row, spec.lines),
        rest=rest,
        quality=quality,
        model=model,
        inputs=inputs,
        inpaint=how.inpaint_passes,
        fed=fed,
        encoded=decode_latents(model, latents, fed.flux, fed.ivar),
        covariance=covariance * np.outer(factors, factors),
        extrapolated=_beyond(run, {"z": z, "snr_median": float(quality.snr_median[0])}),
    )


def _beyond(run: Run, values: Mapping[str, float]) -> str:
    """Where a spectrum lies outside of what the model was trained on; nothing if it does not."""
    trained = read_json(run.folder("train") / CARD)["sample"]
    found = []
    for name, value in values.items():
        least, most = trained[name]["least"], trained[name]["most"]
        if not least <= value <= most:
            found.append(f"{name} {value:.4g}, trained on {least:.4g} to {most:.4g}")
    return "; ".join(found)


def _correlation(job: Job, rest: RestSpectra) -> Floats | None:
    """Correlation of neighbouring pixels; none in the preset that shares no native pixels."""
    from spectra_scale.spectrum.covariance import neighbour_correlation
    from spectra_scale.spectrum.grid import SDSS_NATIVE

    if job.prepare.preset != "conserve":
        return None
    return neighbour_correlation(rest.redshift, SDSS_NATIVE, rest.grid)


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
