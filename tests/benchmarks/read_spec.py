"""Reading SDSS files on one core: spec-lite beside astropy and fitsio, and plate files.

Run as ``python tests/benchmarks/read_spec.py [FOLDER] [--rounds N]``. FOLDER holds spec files (by
default ``../shared/data/sdss/spec-lite``), which are in the page cache after the first round. Each
reader takes flux, ivar, AND_MASK and loglam to native byte order; "row" adds the catalogue row
(for the peers: identity, Z, ZWARNING, CLASS). Of all rounds the best counts. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import fitsio
import numpy as np
from astropy.io import fits

from spectra_scale.surveys.sdss_plate import read_plate_block
from spectra_scale.surveys.sdss_spec import read_spec, read_spec_block

PIXELS = ("FLUX", "LOGLAM", "IVAR", "AND_MASK")
ROW = ("PLATE", "MJD", "FIBERID", "Z", "ZWARNING", "CLASS")
DEFAULT = Path(__file__).parents[3] / "shared" / "data" / "sdss" / "spec-lite"


def _native(column: np.ndarray) -> np.ndarray:
    return column.astype(column.dtype.newbyteorder("="))


def _astropy(path: Path, *, row: bool) -> None:
    with fits.open(path, memmap=False) as hdus:
        data = hdus[1].data
        for name in PIXELS:
            _native(np.asarray(data[name]))
        if row:
            for name in ROW:
                hdus[2].data[name][0]


def _fitsio(path: Path, *, row: bool) -> None:
    with fitsio.FITS(str(path)) as hdus:
        data = hdus[1].read(columns=list(PIXELS))
        for name in data.dtype.names:
            _native(data[name])
        if row:
            hdus[2].read(columns=list(ROW), rows=[0])


READERS: dict[str, Callable[[Path], object]] = {
    "spectra_scale, row": read_spec,
    "spectra_scale, row and lines": read_spec_block,
    "spectra_scale, pixels": lambda path: read_spec(path, want_row=False),
    "fitsio, row": lambda path: _fitsio(path, row=True),
    "fitsio, pixels": lambda path: _fitsio(path, row=False),
    "astropy, row": lambda path: _astropy(path, row=True),
    "astropy, pixels": lambda path: _astropy(path, row=False),
}


def rate(reader: Callable[[Path], object], paths: list[Path], rounds: int) -> float:
    """Files per CPU-second, the best of some rounds."""
    best = np.inf
    for _ in range(rounds):
        start = time.process_time()
        for path in paths:
            reader(path)
        best = min(best, time.process_time() - start)
    return len(paths) / best


def plate_rate(folder: Path, rounds: int) -> float:
    """Spectra per CPU-second of a made spPlate of 200 fibres, 4646 pixels."""
    rng = np.random.default_rng(1)
    shape = (200, 4646)
    primary = fits.PrimaryHDU(rng.normal(size=shape).astype("f4"))
    primary.header["COEFF0"], primary.header["COEFF1"] = 3.5513, 1e-4
    images = [fits.ImageHDU(np.ones(shape, kind)) for kind in ("f4", "i4", "i4")]
    path = folder / "spPlate-4055-55359.fits"
    fits.HDUList([primary, *images]).writeto(path, overwrite=True)
    fibers = np.arange(1, shape[0] + 1)
    return shape[0] * rate(lambda path: read_plate_block(path, fibers), [path], rounds * 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.fits"))
    if not paths:
        parser.error(f"{arguments.folder} holds no .fits files")
    warnings.simplefilter("ignore")
    rates = {}
    for name, reader in READERS.items():
        # astropy takes seconds a round: two are enough for a peer.
        rounds = 2 if name.startswith("astropy") else arguments.rounds
        rates[name] = rate(reader, paths, rounds)
        print(f"{name:30s} {rates[name]:10.0f} files / CPU-second")
    ours = rates["spectra_scale, row"]
    print(f"ratio to fitsio {ours / rates['fitsio, row']:.0f}, to astropy "
          f"{ours / rates['astropy, row']:.0f}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        rates["spPlate spectra"] = plate_rate(Path(folder), arguments.rounds)
    print(f"{'spPlate':30s} {rates['spPlate spectra']:10.0f} spectra / CPU-second")
    print(json.dumps({"files": len(paths), "per_cpu_second": rates}))


if __name__ == "__main__":
    main()
