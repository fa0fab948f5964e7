"""Rest-frame rebinning, 3800 to 1000 pixels with inverse variance and mask, beside two peers.

Run as ``python tests/benchmarks/rebin.py [--quick]``. Rates are spectra per second of process CPU
time, on one thread, the best of several rounds in which the programs take turns; compilation and
the building of inputs are not counted. The last line is JSON.

The peers get clean spectra (neither knows masks) already in the rest frame, with errors: spectres
by its Numba version, specutils by ``FluxConservingResampler`` with inverse variances. Ours gets
the same spectra in the observed frame, and does masks, redshift, coverage and the variance of the
sum as well; it is timed with 6 % of the pixels masked, at redshifts from 0.05 to 0.36. The whole
of `to_rest_frame`, with signal to noise, is timed too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy and Numba are loaded

import astropy.units as u  # noqa: E402
import numpy as np  # noqa: E402
from astropy.nddata import InverseVariance  # noqa: E402
from spectres.spectral_resampling_numba import spectres_numba  # noqa: E402
from specutils import Spectrum  # noqa: E402
from specutils.manipulation import FluxConservingResampler  # noqa: E402

from spectra_scale.spectrum.kernels import rest_frame_conserve  # noqa: E402
from spectra_scale.spectrum.masks import mask_bits_of  # noqa: E402
from spectra_scale.spectrum.observed import ObservedSpectra  # noqa: E402
from spectra_scale.spectrum.preprocess import Preprocess, to_rest_frame  # noqa: E402

N_NATIVE = 3800
FIRST = 35820
UNIT = u.Unit("1e-17 erg / (s cm2 Angstrom)")


def survey(n: int) -> tuple[ObservedSpectra, np.ndarray]:
    """White noise on a smooth continuum, 6 % of the pixels masked or missing."""
    rng = np.random.default_rng(0)
    flux = (10 + np.sin(np.arange(N_NATIVE) / 200) + rng.normal(size=(n, N_NATIVE))).astype("f4")
    ivar = rng.uniform(0.5, 2.0, (n, N_NATIVE)).astype("f4")
    ivar[rng.random((n, N_NATIVE)) < 0.02] = 0
    bits = np.where(rng.random((n, N_NATIVE)) < 0.04, 1 << 23, 0).astype("u4")
    keys = np.arange(n).astype(str)
    return ObservedSpectra(keys, FIRST, flux, ivar, bits), rng.uniform(0.05, 0.36, n)


def cpu_seconds(call: Callable[[], object]) -> float:
    """Process CPU time of one call; all threads of the process count."""
    start = time.process_time()
    call()
    return time.process_time() - start


def programs(n: int, settings: Preprocess) -> dict[str, tuple[int, Callable[[], object]]]:
    """How many spectra each program does a round, and the round; all are warmed up."""
    block, redshift = survey(n)
    edges, grid = block.edges, settings.grid
    reject = int(mask_bits_of(settings.mask))
    n_spectres, n_specutils = max(n // 8, 20), max(n // 400, 2)
    wave = block.wavelength
    flux = block.flux.astype(np.float64)
    ivar = np.where(block.ivar > 0, block.ivar, 1.0).astype(np.float64)
    error = 1.0 / np.sqrt(ivar)

    def ours() -> object:
        arrays = (block.flux, block.ivar, block.mask_bits)
        return rest_frame_conserve(*arrays, edges, redshift, grid.edges, reject, 0.5)

    def whole() -> object:
        return to_rest_frame(block, redshift, settings)

    def spectres(count: int = n_spectres) -> None:
        for s in range(count):
            rest = wave / (1 + redshift[s])
            spectres_numba(grid.centres, rest, flux[s], error[s], verbose=False)

    def specutils(count: int = n_specutils) -> None:
        resample = FluxConservingResampler()
        for s in range(count):
            spectrum = Spectrum(
                flux=flux[s] * UNIT,
                spectral_axis=wave / (1 + redshift[s]) * u.AA,
                uncertainty=InverseVariance(ivar[s] * UNIT**-2),
            )
            resample(spectrum, grid.centres * u.AA)

    ours()
    whole()
    spectres(1)
    specutils(1)
    return {
        "rebin": (n, ours),
        "to_rest_frame": (n, whole),
        "spectres_numba": (n_spectres, spectres),
        "specutils": (n_specutils, specutils),
    }


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer spectra and rounds")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")  # specutils warns of what it cannot know about the units
    rounds = 3 if quick else 9
    runs = programs(400 if quick else 2000, Preprocess())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (_, call) in runs.items():
            seconds[name].append(cpu_seconds(call))
    rate = {name: runs[name][0] / min(taken) for name, taken in seconds.items()}
    middle = {name: runs[name][0] / float(np.median(taken)) for name, taken in seconds.items()}
    print(f"{'program':<16}{'best /s':>12}{'median /s':>12}{'µs each':>12}{'ours is':>10}")
    for name in runs:
        ratio = rate["rebin"] / rate[name]
        print(
            f"{name:<16}{rate[name]:>12,.0f}{middle[name]:>12,.0f}{1e6 / rate[name]:>12,.1f}"
            f"{ratio:>9,.1f}x"
        )
    print(
        json.dumps(
            {
                "rebin_per_s": round(rate["rebin"]),
                "rebin_vs_spectres_numba": round(rate["rebin"] / rate["spectres_numba"], 2),
                "rebin_vs_specutils": round(rate["rebin"] / rate["specutils"], 1),
                "to_rest_frame_per_s": round(rate["to_rest_frame"]),
            }
        )
    )


if __name__ == "__main__":
    main()
