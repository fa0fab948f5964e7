"""DATASUM of survey files: judged as astropy wrote it, and told by `verify`."""

import gzip

import numpy as np
import pytest
from astropy.io import fits
from pipeline_builders import ingest_release
from test_ingest import good, name_of

from spectra_scale.compute.place import Here
from spectra_scale.surveys.datasum import wrong_datasums
from spectra_scale.verify import verify


def written(path, rng):
    images = [fits.ImageHDU(rng.normal(size=(3, 50)).astype("f4"), name=name)
              for name in ("B_FLUX", "B_IVAR", "B_RESOLUTION")]  # fmt: skip
    table = fits.BinTableHDU(np.array([(1, 2.0)], "i8,f4"), name="FIBERMAP")
    fits.HDUList([fits.PrimaryHDU(), table, *images]).writeto(path, checksum=True)
    with fits.open(path) as hdus:
        return {hdu.name: (hdu.fileinfo()["datLoc"], hdu.size) for hdu in hdus}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["FIBERMAP", "B_FLUX", "B_IVAR", "B_RESOLUTION"])
def test_any_changed_bit_is_found_where_it_is(tmp_path, name, packed):
    rng = np.random.default_rng(len(name))
    path = tmp_path / ("a.fits.gz" if packed else "a.fits")
    places = written(tmp_path / "b.fits", rng)
    whole = (tmp_path / "b.fits").read_bytes()
    put = gzip.compress if packed else bytes
    path.write_bytes(put(whole))
    assert wrong_datasums(path) == []
    for _ in range(20):
        start, size = places[name]
        changed = bytearray(whole)
        changed[start + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
        path.write_bytes(put(bytes(changed)))
        # Resolution matrices are never read, and most of a file.
        assert wrong_datasums(path) == ([] if name == "B_RESOLUTION" else [name])


def test_a_file_that_is_none_or_is_cut_is_not_judged(tmp_path):
    written(tmp_path / "a.fits", np.random.default_rng(0))
    content = (tmp_path / "a.fits").read_bytes()
    for n in (0, 100, 2880, 5000, len(content) - 2880):
        (tmp_path / "a.fits").write_bytes(content[:n])
        wrong_datasums(tmp_path / "a.fits")
    (tmp_path / "a.fits").write_text("<html>not found</html>")
    assert wrong_datasums(tmp_path / "a.fits") == []


def test_verify_tells_of_a_file_whose_bits_changed_before_it_was_ingested(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for fiber in (1, 2):
        good(folder, fiber)
        with fits.open(folder / name_of(fiber), mode="update") as hdus:
            hdus[1].add_datasum()
    path = folder / name_of(2)
    with fits.open(path) as hdus:
        start = hdus[1].fileinfo()["datLoc"]
    content = bytearray(path.read_bytes())
    content[start + 3] ^= 1  # the last bit of the first flux
    path.write_bytes(content)
    release = ingest_release(tmp_path / "r", folder)
    assert len(release.catalogue) == 2
    (problem,) = [c.problem for c in verify(release.path, Here(), "all") if c.problem]
    assert name_of(2) in problem
    assert "COADD contradicts its DATASUM" in problem
    assert name_of(1) not in problem
