"""Speed of ingest and prepare, each beside a peer in the same run.

    python tests/benchmarks/ingest.py [--quick] [--real FOLDER] [--work FOLDER]

Prints a table and, as its last line, one JSON object: rebin_per_s, rebin_vs_spectres_numba and
rebin_vs_specutils (3800 to 1000 pixels with ivar and mask); spec_lite_per_s and
spec_lite_vs_fitsio (files with their catalogue row, warm cache); spplate_per_s and desi_per_s
(spectra of one file, read and checked; ..._vs_bare: beside images that are mapped and turned to
native byte order, and nothing else); ingest_per_s (plate files to a release: read, compress,
write) and prepare_per_s (release to sample: read, rebin, write); rss_ratio (peak memory of both
with all rows over that with 1,000); two_worker_speedup (wall time of both with one worker over
that with two). Rates are per CPU-second, all threads counted. 100,000 rows, with --quick 10,000.
"""

from __future__ import annotations

import os

# Before anything heavy: the same one core for every library.
for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "BLOSC_NTHREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from astropy.io import fits  # noqa: E402
from ingest_data import write_coadd, write_plates, write_spplate  # noqa: E402
from read_spec import DEFAULT, READERS, rate  # noqa: E402

from spectra_scale.compute.place import Place, open_place  # noqa: E402
from spectra_scale.config import (  # noqa: E402
    ComputeSection,
    IngestSection,
    LabelSection,
    PrepareSection,
    ReleaseSection,
)
from spectra_scale.stages import ingest, label, prepare  # noqa: E402
from spectra_scale.store.arrays import Layout  # noqa: E402
from spectra_scale.surveys.desi_coadd import read_coadd  # noqa: E402
from spectra_scale.surveys.release import Release  # noqa: E402
from spectra_scale.surveys.sdss_plate import read_plate_block  # noqa: E402

HERE = Path(__file__).parent
SMALL = 1000


def best_rate(n: int, call: Callable[[], object], rounds: int) -> float:
    """Units of `n` per CPU-second, the best of some rounds after one to warm up."""
    call()
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return n / min(seconds)


# Ingest and prepare ----------------------------------------------------------------------------


def run_ingest(source: Path, catalogue: Path, out: Path, place: Place, limit: int) -> Release:
    """Make a release of the first rows of a catalogue."""
    section = ReleaseSection(name="bench", source=(source,), catalogue=catalogue)
    settings = ingest.Settings(IngestSection(), limit, Layout())
    (piece,) = ingest.pieces_of(section, out, ingest.look(section), settings)
    return Release(ingest.run(piece, settings.config, place))


def run_prepare(release: Release, out: Path, place: Place) -> None:
    """Make a sample of all rows of a release."""
    prints = {release.name: release.artifact.fingerprint}
    labelled = label.run([release], LabelSection(), place, out / "labels",
                         label.recipe(prints, LabelSection()))  # fmt: skip
    config = PrepareSection(min_snr=-1e9, max_masked_fraction=1.0, require_primary=False,
                            require_good_plate=False, require_science_target=False)  # fmt: skip
    inputs = prepare.PrepareInputs([release], labelled)
    start = time.process_time(), time.monotonic()
    recipe = prepare.recipe(prints, labelled.fingerprint, config, Layout())
    prepare.run(inputs, config, place, out / "sample", recipe)
    run_prepare.seconds = (time.process_time() - start[0], time.monotonic() - start[1])  # type: ignore[attr-defined]


def both(work: Path, limit: int, workers: int) -> dict[str, float]:
    """Ingest and prepare in this process: CPU-seconds, wall seconds, and peak memory."""
    source, catalogue = work / "plates", work / "catalogue.parquet"
    with (
        tempfile.TemporaryDirectory(dir=work) as folder,
        open_place(
            ComputeSection(engine="threads" if workers > 1 else "serial", workers=workers)
        ) as place,
    ):
        start = time.process_time(), time.monotonic()
        release = run_ingest(source, catalogue, Path(folder) / "release", place, limit)
        taken = time.process_time() - start[0], time.monotonic() - start[1]
        run_prepare(release, Path(folder), place)
    cpu, wall = run_prepare.seconds  # type: ignore[attr-defined]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ingest": taken[0], "prepare": cpu, "wall": taken[1] + wall, "peak_mib": peak}


def in_own_process(work: Path, limit: int, workers: int) -> dict[str, float]:
    """`both` in a fresh interpreter, since memory that was used stays counted."""
    command = [sys.executable, __file__, "--measure", str(limit), str(workers), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


# All -------------------------------------------------------------------------------------------


def rebin_rates(*, quick: bool) -> dict[str, float]:
    """Figures of rebin.py, in a process of its own."""
    command = [sys.executable, str(HERE / "rebin.py"), *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: found[name] for name in (
        "rebin_per_s", "rebin_vs_spectres_numba", "rebin_vs_specutils")}  # fmt: skip


def spec_rates(folder: Path, work: Path, *, quick: bool) -> dict[str, float]:
    """Files a CPU-second with their catalogue row, ours and fitsio's."""
    paths = sorted(folder.glob("*.fits")) if folder.is_dir() else []
    paths = paths or sorted((work / "mock").rglob("spec-*.fits"))
    if not paths:
        return {"spec_lite_per_s": float("nan"), "spec_lite_vs_fitsio": float("nan")}
    ours = rate(READERS["spectra_scale, row"], paths, 5 if quick else 15)
    peer = rate(READERS["fitsio, row"], paths[:64] if quick else paths, 2)
    return {"spec_lite_per_s": ours, "spec_lite_vs_fitsio": ours / peer}


def file_rates(work: Path, *, quick: bool) -> dict[str, float]:
    """Spectra a CPU-second of a whole plate file and of a whole coadd."""
    rounds = 5 if quick else 15
    fibers = np.arange(1, 641)
    plate = write_spplate(work / "spPlate-4055-55359.fits")
    coadd = write_coadd(work / "coadd-main-dark-9144.fits", 250 if quick else 500)
    n_coadd = len(read_coadd(coadd))
    spplate = best_rate(640, lambda: read_plate_block(plate, fibers), rounds)
    desi = best_rate(n_coadd, lambda: read_coadd(coadd), rounds)
    arms = [f"{arm}_{name}" for arm in "BRZ" for name in ("FLUX", "IVAR", "MASK")]
    bare_plate, bare_coadd = bare_reader(plate, [0, 1, 2]), bare_reader(coadd, arms)
    return {
        "spplate_per_s": spplate,
        "desi_per_s": desi,
        "spplate_vs_bare": spplate / best_rate(640, bare_plate, rounds),
        "desi_vs_bare": desi / best_rate(n_coadd, bare_coadd, rounds),
    }


def bare_reader(path: Path, hdus: list[int] | list[str]) -> Callable[[], None]:
    """The least that a reader can do: images at known places, to native byte order, unchecked."""
    with fits.open(path) as opened:
        places = [(opened[i].fileinfo()["datLoc"], opened[i].shape) for i in hdus]

    def read() -> None:
        for start, shape in places:
            np.memmap(path, ">f4", "r", start, shape).astype("f4")

    return read


def stage_rates(work: Path, n_rows: int) -> dict[str, float]:
    """Rates of ingest and prepare, how their memory grows, and what a second worker brings."""
    write_plates(work, n_rows)
    both(work, SMALL, 1)  # fills numba's cache
    small = in_own_process(work, SMALL, 1)
    large = in_own_process(work, n_rows, 1)
    few = min(n_rows, 20_000)
    one = large if few == n_rows else in_own_process(work, few, 1)
    two = in_own_process(work, few, 2)
    peaks = [(SMALL, small), (n_rows, large), (few, two)]
    print("peak memory: " + ", ".join(f"{p['peak_mib']:.0f} MiB of {n:,} rows" for n, p in peaks)
          + " (the last with two workers)")  # fmt: skip
    return {
        "ingest_per_s": n_rows / large["ingest"],
        "prepare_per_s": n_rows / large["prepare"],
        "rss_ratio": large["peak_mib"] / small["peak_mib"],
        "two_worker_speedup": one["wall"] / two["wall"],
    }


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 rows, fewer rounds")
    parser.add_argument("--real", type=Path, default=DEFAULT, help="folder of spec-lite files")
    parser.add_argument("--work", type=Path, help="where to write; default a temporary folder")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.measure:
        limit, workers, work = given.measure
        print(json.dumps(both(Path(work), int(limit), int(workers))))
        return
    found: dict[str, float] = rebin_rates(quick=given.quick)
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        found |= stage_rates(work, 10_000 if given.quick else 100_000)
        found |= spec_rates(given.real, work, quick=given.quick)
        found |= file_rates(work, quick=given.quick)
    for name, value in found.items():
        print(f"{name:<26}{value:>14,.2f}" if value < 100 else f"{name:<26}{value:>14,.0f}")
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
