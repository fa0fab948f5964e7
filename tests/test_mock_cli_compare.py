"""A mock release on disk, as the comparison reads it: noise, classes, examples."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from spectra_scale.compare.examples import gallery
from spectra_scale.compare.measures import measure_block
from spectra_scale.compare.noise import noise_of
from spectra_scale.compare.sides import read_side
from spectra_scale.compute.place import Here
from spectra_scale.config import MockSection
from spectra_scale.figures.compare_spectra import numbered_spectra
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum.identity import sdss_key
from spectra_scale.stages import mock as stage
from spectra_scale.surveys.lines import read_line_catalogue


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plates alone, of three surveys."""
    folder = tmp_path_factory.mktemp("compare") / "mock"
    section = MockSection(path=folder, n_spectra=300, n_spec_files=0, boss_fraction=0.3,
                          desi_fraction=0.2, seed=3)  # fmt: skip
    stage.run(section, Here())
    return folder


def test_noise_of_plates_is_that_of_their_spectra(release: Path, tmp_path: Path) -> None:
    found = noise_of(release, 80, np.random.default_rng(1))
    assert set(found) == {"legacy", "boss"}
    # Plates of repeats are smaller than an equal share.
    assert 50 < sum(values["spectra"] for values in found.values()) <= 80
    for values in found.values():
        # Real files have widths of 0.94 to 0.98; a model of another fibre would leave the
        # objects in and give several.
        assert 0.8 < values["width"] < 1.15
        assert 0.05 < values["lag1"] < 0.3
    # The same objects as single files have the same noise, to the scatter of 30 medians.
    section = MockSection(path=tmp_path / "m", n_spectra=60, n_spec_files=60, boss_fraction=0.5,
                          seed=3)  # fmt: skip
    stage.run(section, Here())
    single = noise_of(tmp_path / "m", 80, np.random.default_rng(1))
    for where in ("legacy", "boss"):
        assert single[where]["width"] == pytest.approx(found[where]["width"], abs=0.06)


def test_a_plate_whose_models_are_cut_has_no_noise(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(release / "26", folder / "26")
    for path in folder.rglob("spZbest*"):
        data = path.read_bytes()
        path.write_bytes(data[: int(0.6 * len(data))])
    assert noise_of(folder, 10, np.random.default_rng(1)) == {}


def test_class_fractions_are_those_of_the_tables_that_lie_in_the_release(release: Path) -> None:
    shown = read_side(release, "mock", measure_block, lambda _: None)
    table = read_line_catalogue(release / "portsmouth_emlinekin_full-mock.fits")
    keys = sdss_key(*(table[name].to_numpy() for name in ("plate", "mjd", "fiber")))
    there = np.isin(shown.key, keys.astype(str))
    # Broad-line objects are so by their SUBCLASS, with or without a row.
    plain = shown.table_label != CLASS_NAMES.index("broad-line")
    np.testing.assert_array_equal(shown.table_label[plain & ~there], 0)
    assert (shown.table_label[plain & there] != 0).all()


def test_examples_of_a_release_are_drawn_whatever_fails_in_it(
    release: Path, tmp_path: Path
) -> None:
    """Spectra without data, flags, and rows of surveys without plates are no obstacle."""
    folder = tmp_path / "m"
    shutil.copytree(release, folder)
    path = folder / "truth.parquet"
    truth = pq.read_table(path).to_pandas()
    truth["is_blend"] = np.arange(len(truth)) % 50 == 0
    truth["failure"] = truth["failure"].astype(str)
    fibers = truth.index[truth["plate"] >= 0]
    truth.loc[fibers[:3], "failure"] = "no-data"
    truth.loc[fibers[:3], "r_fiber_magnitude"] = np.nan
    truth.loc[truth.index[truth["plate"] < 0][:3], "failure"] = "only-desi"
    pq.write_table(pa.Table.from_pandas(truth, preserve_index=False), path)
    found = gallery(folder, np.random.default_rng(1))
    words = " ".join(found.titles)
    assert "failure: no-data" in words
    assert "is_blend" in words
    assert "only-desi" not in words
    assert len(found.flux) == len(found.titles)
    found.flux[0] = np.nan
    figure = numbered_spectra(found.wave, found.flux, found.titles, heading="Kinds")
    assert len(figure.axes) >= len(found.titles)


def test_a_spectrum_file_that_the_reader_refuses_has_no_example(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    section = MockSection(path=folder, n_spectra=12, n_spec_files=12, boss_fraction=0, seed=3)
    stage.run(section, Here())
    for path in folder.rglob("spec-*.fits"):
        with fits.open(path, mode="update") as hdus:
            hdus[1].data["ivar"] = 0
    found = gallery(folder, np.random.default_rng(1))
    assert len(found.titles) == len(found.flux)
