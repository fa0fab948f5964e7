"""Generate: spectra that were never observed, from a run's density of latents and its decoder."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.errors import UsageError
from spectra_scale.provenance import write_bytes
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.stages.density import classes, load_flow
from spectra_scale.store.objects import column, columns_of
from spectra_scale.store.run import Run
from spectra_scale.store.table_files import refuse_existing

if TYPE_CHECKING:
    from spectra_scale.models.generate import Realism

Floats = NDArray[np.float64]

ENDINGS = (".fits", ".npz")
#: Spectra of a figure.
N_SHOWN = 16


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedSpectra:
    """Generated spectra, noiseless; row i is the same spectrum throughout.

    Parameters
    ----------
    wavelength
        Rest frame, vacuum, Å, shape (pixel,).
    flux
        In units of the run's normalisation (a median of about 1, where it is by the median), shape
        (spectrum, pixel), float32.
    latents
        Shape (spectrum, D).
    log_prob
        log p of the latents under the run's flow, shape (spectrum,).
    posterior
        Probability of each class, by its name, shape (spectrum,) each; empty where the run has no
        densities by class.
    facts
        Where they come from: run, seed, class.
    """

    wavelength: Floats
    flux: NDArray[np.float32]
    latents: Floats
    log_prob: Floats
    posterior: dict[str, Floats]
    facts: dict[str, str]


def generate_spectra(
    run: Run, n: int = 1000, seed: int = 1, label: str | None = None
) -> GeneratedSpectra:
    """Draw spectra from the density of a run.

    Parameters
    ----------
    run
        A finished run with an auto-encoder of its own.
    n
        Number of spectra.
    seed
        Same seed, same spectra.
    label
        Class that they are drawn from, by name; None: from all. It needs densities by class.

    Raises
    ------
    UsageError
        If `n` is not positive, the run has no model or density, or `label` cannot be had.
    """
    from spectra_scale.models.generate import generate
    from spectra_scale.models.inputs import load_encoder

    if n < 1:
        msg = f"found n = {n}, expected at least one spectrum."
        raise UsageError(msg)
    run.require("train", "encode", "density")
    conditional = _conditional(run)
    draw = None
    if label is not None:
        code = _class_code(run, label, conditional)

        def draw(count: int, generator: np.random.Generator) -> Floats:
            return np.asarray(conditional.sample(count, code, generator), dtype=np.float64)

    flow, _ = load_flow(run.folder("density"))
    model, _ = load_encoder(run.folder("train"))
    made = generate(model, flow, n, seed, draw)
    return GeneratedSpectra(
        wavelength=run.sample.grid.centres,
        flux=made.flux,
        latents=made.latents,
        log_prob=made.log_prob,
        posterior=_posterior(conditional, made.latents),
        facts={
            "run": run.path.resolve().name,
            "density": run.artifact("density").fingerprint[:12],
            "seed": str(seed),
            "class": label or "all",
        },
    )


def _conditional(run: Run) -> Any:
    """The densities by class, or None if the run has none."""
    folder = run.folder("density")
    return classes.load_conditional(folder) if (folder / classes.CONDITIONAL).is_file() else None


def _class_code(run: Run, label: str, conditional: Any) -> int:
    if label not in CLASS_NAMES:
        msg = f"found class {label!r}, expected one of {', '.join(CLASS_NAMES)}."
        raise UsageError(msg)
    if conditional is None:
        msg = (
            f"{run.folder('density')}: found no {classes.CONDITIONAL}, so no class can be asked "
            "for. Fit the density with classes, or generate without --label and choose."
        )
        raise UsageError(msg)
    return CLASS_NAMES.index(label)


def _posterior(conditional: Any, latents: Floats) -> dict[str, Floats]:
    if conditional is None:
        return {}
    found = np.asarray(conditional.posterior(latents), dtype=np.float64)
    return {CLASS_NAMES[code]: found[:, i] for i, code in enumerate(conditional.classes)}


def check_generated(run: Run, made: GeneratedSpectra, seed: int = 1) -> Realism:
    """Compare generated spectra with the reconstructions of a run's held-out spectra.

    Parameters
    ----------
    run
        The run they are from.
    made
        The spectra, of all classes: those of one are no sample of the whole.
    seed
        Of subsamples and permutations.

    Raises
    ------
    SpectraScaleError
        If there are fewer than 50 of either.
    """
    from spectra_scale.models.generate import Generated, realism
    from spectra_scale.models.inputs import load_encoder

    table = run.objects("encode")
    latents = columns_of(table, "latent").astype(np.float64)
    usable = column(table, "usable").astype(bool)
    sample = run.sample
    held_out, training = (latents[rows & usable] for rows in
                          (sample.validation_rows(), sample.training_rows()))  # fmt: skip
    model, _ = load_encoder(run.folder("train"))
    generated = Generated(made.latents, made.log_prob, made.flux)
    return realism(made.wavelength, model, generated, (held_out, training), seed)


def check_ending(path: Path) -> None:
    """Refuse a file that cannot be written.

    Raises
    ------
    UsageError
        If its ending is not .fits or .npz, or it exists.
    """
    if path.suffix.lower() not in ENDINGS:
        msg = f"{path}: found ending {path.suffix!r}, expected one of {', '.join(ENDINGS)}."
        raise UsageError(msg)
    refuse_existing(path)


def write_generated(path: Path, made: GeneratedSpectra) -> None:
    """Write generated spectra.

    Parameters
    ----------
    path
        ``.fits``: a binary table SPECTRA with a row a spectrum (flux, latents, log_prob,
        posterior_…) and one WAVELENGTH with a row a pixel. ``.npz``: the same arrays for NumPy.
    made
        The spectra.

    Raises
    ------
    UsageError
        As `check_ending`.
    """
    check_ending(path)
    columns: dict[str, NDArray[Any]] = {
        "flux": made.flux, "latents": made.latents, "log_prob": made.log_prob
    }  # fmt: skip
    for name, values in made.posterior.items():
        columns[classes.column_name(CLASS_NAMES.index(name))] = values
    sink = io.BytesIO()
    if path.suffix.lower() == ".npz":
        columns["wavelength"] = made.wavelength
        columns |= {name: np.array(value) for name, value in made.facts.items()}
        np.savez(sink, allow_pickle=False, **columns)
    else:
        _fits(made, columns).writeto(sink)
    write_bytes(path, sink.getvalue())


def _fits(made: GeneratedSpectra, columns: dict[str, NDArray[Any]]) -> Any:
    from astropy.io import fits
    from astropy.table import Table

    spectra = fits.BinTableHDU(Table(columns), name="SPECTRA")
    pixels = fits.BinTableHDU(Table({"wavelength": made.wavelength}), name="WAVELENGTH")
    pixels.header["TUNIT1"] = ("Angstrom", "rest frame, vacuum")
    for name, value in made.facts.items():
        spectra.header[f"HIERARCH GENERATED {name.upper()}"] = value
    spectra.header["COMMENT"] = (
        "flux: F_lambda in units of the normalisation of the run, noiseless"
    )
    return fits.HDUList([fits.PrimaryHDU(), spectra, pixels])


def draw_generated(made: GeneratedSpectra, path: Path) -> None:
    """Draw the first 16 generated spectra as PNG."""
    from spectra_scale.figures import png_of, spectra_grid

    first = slice(0, N_SHOWN)
    names = list(made.posterior)
    labels = ["generated"] * len(made.flux[first])
    if names:
        best = np.argmax(np.stack(list(made.posterior.values()), axis=1)[first], axis=1)
        labels = [names[i] for i in best]
    titles = [f"{i}  log p={value:.1f}" for i, value in enumerate(made.log_prob[first])]
    figure = spectra_grid(
        made.wavelength, made.flux[first], labels, titles,
        heading="Generated spectra", unit="flux / normalisation",
    )  # fmt: skip
    write_bytes(path, png_of(figure))
