"""χ² by class of an auto-encoder on the mock sample, beside what the noise alone leaves.

Run as ``python tests/benchmarks/noise_floor.py [--folder DIR] [--n N] [--set name=JSON]``: makes
the mock sample, trains on it (`[train] preset = "fast", fill = "linear"` unless settings say
otherwise), and takes the noiseless spectra from the mock's own spZbest files through the same
rest-frame rebinning. The floor is the χ² of these: above 1 where the mock's noise is larger than
it says, as a survey's is. Eq. 2 of the paper, ivar of the sample, validation split. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from sample_data import mock_sample

from spectra_scale.compute.place import Here
from spectra_scale.config import ComputeSection, EncodeSection, PrepareSection, TrainSection
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.spectrum.preprocess import to_rest_frame
from spectra_scale.stages import encode, train
from spectra_scale.stages.prepare import how
from spectra_scale.store.objects import column, read_objects
from spectra_scale.store.sample import Sample
from spectra_scale.surveys.release import Release, open_release

Doubles = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--n", type=int, default=20_000, help="mock spectra")
    parser.add_argument("--set", nargs="*", default=(), help="settings of [train], name=JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        sample = mock_sample(folder, options.n)
        release = open_release(folder / "run" / "releases" / "mock")
        floor = noise_floor(sample, release, folder / "mock")
        given = dict(each.split("=", 1) for each in options.set)
        settings = {"preset": "fast", "fill": "linear"} | {
            k: json.loads(v) for k, v in given.items()
        }
        found = chi2(sample, Path(scratch), settings)
    label = column(sample.index, "label")
    held = sample.validation_rows() & np.isfinite(floor) & np.isfinite(found["chi2_valid"])
    print(f"{'class':<18}{'spectra':>8}{'floor':>9}{'χ²':>9}{'median':>9}{'of floor':>10}")
    rows = {"all": held} | {CLASS_NAMES[c]: held & (label == c) for c in np.unique(label[held])}
    said = {}
    for name, chosen in rows.items():
        ours, least = found["chi2_valid"][chosen], floor[chosen]
        print(f"{name:<18}{chosen.sum():>8,}{least.mean():>9.3f}{ours.mean():>9.3f}"
              f"{np.median(ours):>9.3f}{np.median(ours / least):>10.3f}")  # fmt: skip
        said[name] = [round(float(value), 4) for value in (least.mean(), ours.mean())]
    print(json.dumps(said))


def noise_floor(sample: Sample, release: Release, mock: Path) -> Doubles:
    """χ² (eq. 2) of the noiseless spectra against the sample's, shape (row,)."""
    index, catalogue = sample.index, release.catalogue
    row = column(index, "row")
    files, fibres = (column(catalogue, name)[row] for name in ("source_file", "source_row"))
    found = np.full(sample.n_rows, np.nan)
    for name in np.unique(files.astype(str)):
        mine = np.flatnonzero(files == name)
        spectra = release.read(row[mine])
        with fits.open(mock / name, memmap=False) as hdus:
            # The release is on one grid for all plates; the plate's own begins within it.
            first = round(hdus[0].header["COEFF0"] * 1e4) - spectra.first_pixel
            there = hdus["PLUGMAP"].data["FIBERID"].tolist()
        # Beside the plate, or in a folder of the reduction as BOSS has it.
        (zbest,) = (mock / name).parent.rglob(Path(name).name.replace("spPlate", "spZbest"))
        with fits.open(zbest, memmap=False) as hdus:
            truth = hdus[2].data[[there.index(fibre) for fibre in fibres[mine]]].astype("f4")
        flux = np.zeros_like(spectra.flux)
        width = min(truth.shape[1], flux.shape[1] - first)
        flux[:, first : first + width] = truth[:, :width]
        noiseless = ObservedSpectra(
            spectra.spectrum_key, spectra.first_pixel, flux, spectra.ivar, spectra.mask_bits
        )
        rest, _ = to_rest_frame(noiseless, column(index, "z")[mine], how(PrepareSection()))
        for at, number in enumerate(mine):
            data, ivar = sample.read(slice(int(number), int(number) + 1))
            square = (rest.flux[at].astype(float) - data[0]) ** 2 * ivar[0]
            found[number] = square.sum() / max(1, (ivar[0] > 0).sum())
    return found


def chi2(sample: Sample, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Per-object columns of the latents of a model trained on the sample."""
    config = TrainSection(**{"engine": "local"} | settings)
    recipe = train.recipe(sample.artifact.fingerprint, config)
    inputs = train.TrainInputs(sample, ComputeSection(workers=1))
    model = train.run(inputs, config, Here(), out / "autoencoder", recipe)
    how_ = EncodeSection(covariance=False)
    recipe = encode.recipe(sample.artifact.fingerprint, model.fingerprint, how_)
    made = encode.run(encode.EncodeInputs(sample, model), how_, Here(), out / "latents", recipe)
    table = read_objects(made.path / "objects", sample.index)
    return {name: column(table, name) for name in ("chi2", "chi2_valid")}


if __name__ == "__main__":
    main()
