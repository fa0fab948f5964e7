"""Draw mock spectra beside real ones, class by class, to judge whether the mock is believable.

    python tests/benchmarks/mock_look.py --out look.png [--real FOLDER] [--n 500] [--seed 1]

FOLDER is searched for real spec-lite files. Both sides are read and classed alike, from the files:
BROADLINE in SUBCLASS, then the rules of science.md section 5 on SPZLINE.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from astropy.io import fits

from spectra_scale.mock.plates import write_plate
from spectra_scale.mock.settings import MockSettings, plan

CLASSES = ("star-forming", "composite", "narrow-line AGN", "broad-line", "retired", "passive")
LINES = {"H_beta": 4862.68, "[O_III] 5007": 5008.24, "H_alpha": 6564.61, "[N_II] 6583": 6585.27}
PER_CLASS = 3


@dataclass(frozen=True)
class Spectrum:
    name: str
    label: str
    redshift: float
    wave: np.ndarray
    flux: np.ndarray
    good: np.ndarray
    snr: float


def read(path: Path) -> Spectrum | None:
    """One spectrum of the sample (0.05 < z < 0.36, a galaxy or a quasar), or None."""
    with fits.open(path) as hdus:
        info = {name.upper(): hdus[2].data[name][0] for name in hdus[2].columns.names}
        z = float(info["Z"])
        if info["CLASS"].strip() == "STAR" or not 0.05 < z < 0.36 or info["ZWARNING"]:
            return None
        coadd = hdus[1].data
        data = {name.lower(): np.array(coadd[name], float) for name in coadd.names}
        label = classify(info["SUBCLASS"].strip(), hdus[3].data, z)
    wave = 10 ** data["loglam"] / (1 + z)
    good = data["ivar"] > 0
    snr = float(np.median((data["flux"] * np.sqrt(data["ivar"]))[good])) if good.any() else 0.0
    return Spectrum(path.stem, label, z, wave, data["flux"], good, snr)


def classify(subclass: str, lines: fits.FITS_rec, z: float) -> str:
    if "BROADLINE" in subclass:
        return "broad-line"
    names = [str(name).strip() for name in lines["LINENAME"]]
    at = [names.index(name) for name in LINES]
    flux, err = (np.array([lines[c][i] for i in at], float) for c in ("LINEAREA", "LINEAREA_ERR"))
    snr = np.where(err > 0, flux / np.where(err > 0, err, 1), 0)
    if (snr > 2).sum() >= 3 and (snr > 1).all():
        x, y = np.log10(flux[3] / flux[2]), np.log10(flux[1] / flux[0])
        if x < 0.05 and y < 0.61 / (x - 0.05) + 1.30:
            return "star-forming"
        return "narrow-line AGN" if x >= 0.47 or y > 0.61 / (x - 0.47) + 1.19 else "composite"
    width, width_err = (float(lines[c][at[2]]) / (1 + z) for c in ("LINEEW", "LINEEW_ERR"))
    return "retired" if 0.5 < width < 3 and width > 2 * width_err else "passive"


def gather(paths: list[Path], rng: np.random.Generator) -> list[Spectrum]:
    found = []
    for path in paths:
        try:
            spectrum = read(path)
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            print(f"skipped {path.name}: {error}")
            continue
        if spectrum is not None:
            found.append(spectrum)
    return [found[i] for i in rng.permutation(len(found))]


def smooth(spectrum: Spectrum, n: int = 3) -> np.ndarray:
    weight = spectrum.good.astype(float)
    kernel = np.ones(n)
    total = np.convolve(np.where(spectrum.good, spectrum.flux, 0), kernel, "same")
    return total / np.maximum(np.convolve(weight, kernel, "same"), 1e-9)


def numbers(name: str, spectra: list[Spectrum]) -> None:
    d4000 = []
    for s in spectra:
        nu = s.flux * s.wave**2
        red = s.good & (s.wave > 4001.1) & (s.wave < 4101.2)
        blue = s.good & (s.wave > 3851.1) & (s.wave < 3951.1)
        if red.sum() > 50 and blue.sum() > 50 and nu[blue].mean() > 0:
            d4000.append(nu[red].mean() / nu[blue].mean())
    snr, z = [s.snr for s in spectra], [s.redshift for s in spectra]
    shares = {c: round(100 * np.mean([s.label == c for s in spectra]), 1) for c in CLASSES}
    print(f"{name}: n={len(spectra)} D4000n 5/50/95 {np.percentile(d4000, (5, 50, 95)).round(2)}")
    print(f"  S/N 5/50/95 {np.percentile(snr, (5, 50, 95)).round(1)} z {np.median(z):.3f}")
    print(f"  classes by SPZLINE (%): {shares}")


def draw(sides: dict[str, list[Spectrum]], out: Path) -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns = PER_CLASS * len(sides)
    figure, axes = plt.subplots(
        len(CLASSES), columns, figsize=(4.6 * columns, 2.7 * len(CLASSES)), squeeze=False
    )
    for row, label in enumerate(CLASSES):
        for side, (name, spectra) in enumerate(sides.items()):
            chosen = [s for s in spectra if s.label == label and s.snr > 6][:PER_CLASS]
            for i in range(PER_CLASS):
                ax = axes[row, side * PER_CLASS + i]
                ax.set_xlim(3400, 8200)
                if i >= len(chosen):
                    ax.set_axis_off()
                    continue
                s = chosen[i]
                flux = smooth(s)
                ax.plot(s.wave, flux, lw=0.5, color="C0" if side == 0 else "C3")
                ax.set_ylim(0, 1.12 * np.percentile(flux[s.good], 99.6))
                ax.set_title(f"{name} {label} z={s.redshift:.3f} S/N={s.snr:.0f}", fontsize=8)
                ax.tick_params(labelsize=6)
    figure.tight_layout()
    figure.savefig(out, dpi=70)
    print(f"wrote {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    settings = MockSettings(n_spectra=args.n, n_spec_files=args.n, seed=args.seed)
    sides = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in plan(settings):
            write_plate(task, Path(folder), settings)
        sides["mock"] = gather(sorted(Path(folder).rglob("spec-*.fits")), rng)
    if args.real is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sides["real"] = gather(sorted(args.real.rglob("spec-*.fits")), rng)
    for name, spectra in sides.items():
        numbers(name, spectra)
    draw(sides, args.out)


if __name__ == "__main__":
    main()
