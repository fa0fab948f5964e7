"""Truths that a review found broken once: each of these was a silent wrong number."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from spectra_scale.compute.place import Here
from spectra_scale.config import MockSection, PrepareSection
from spectra_scale.dust import deredden, dereddening
from spectra_scale.errors import UsageError
from spectra_scale.jobfile import make_job
from spectra_scale.mock.release import begin
from spectra_scale.mock.settings import MockSettings
from spectra_scale.models.embedding import FittedMap
from spectra_scale.planning import check
from spectra_scale.spectrum.grid import native_edges
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.spectrum.residual_kernels import add_residuals
from spectra_scale.stages import mock
from spectra_scale.stages.encode import current_split
from spectra_scale.stages.encode.shard import group_of
from spectra_scale.stages.prepare.selection import redshift_of
from spectra_scale.stages.report.gather import composite


def fitted_map(rng: np.random.Generator) -> FittedMap:
    x = rng.normal(size=(200, 5)).astype(np.float32)
    return FittedMap(x, x[:, :2] * 10, np.arange(len(x)))


def test_a_row_that_comes_near_a_fitted_one_comes_near_its_place():
    rng = np.random.default_rng(1)
    fitted = fitted_map(rng)
    step = rng.normal(size=fitted.x.shape).astype(np.float32)
    moved = [
        np.abs(fitted.place(fitted.x + size * step) - fitted.coordinates).max()
        for size in (1e-2, 1e-4, 1e-6)
    ]
    # The pull of the other 14 neighbours falls with the distance to the nearest.
    assert moved[0] > moved[1] > moved[2]
    assert moved[2] < 1e-2


def test_z_noqso_is_for_galaxies_that_have_it():
    catalogue = pa.table({
        "z": [0.1, 0.2, 2.0], "zwarning": [4, 4, 0], "class": ["GALAXY", "GALAXY", "QSO"],
        "z_noqso": [0.11, 0.0, 0.7], "zwarning_noqso": [0, 0, 4],
    })  # fmt: skip
    z, zwarning = redshift_of(catalogue, PrepareSection(use_z_noqso=True))
    # The second is a legacy row, not filled; the third a quasar.
    np.testing.assert_array_equal(z, [0.11, 0.2, 2.0])
    np.testing.assert_array_equal(zwarning, [0, 4, 0])


def test_auto_mask_is_that_of_the_preset():
    assert PrepareSection().mask_preset == "strict"
    assert PrepareSection(preset="reference").mask_preset == "paper"
    assert PrepareSection(preset="reference", mask="brightsky").mask_preset == "brightsky"
    with pytest.raises(ValueError, match="conserve"):
        PrepareSection(preset="reference", deredden=True)


def test_dereddening_undoes_fitzpatrick_dust():
    # A_V = 3.1 E(B-V), and A(5500 Å) is A_V to 3 %: V is a band, its middle bluer than 5500 Å.
    k = round(np.log10(5500.0) / 1e-4)
    factor = dereddening(np.array([0.0, 0.1]), native_edges(k, 1))[:, 0]
    assert factor[0] == 1
    np.testing.assert_allclose(2.5 * np.log10(factor[1]), 0.31, rtol=0.03)
    flux = np.ones((1, 2000), np.float32)
    spectra = ObservedSpectra(
        np.array(["a"], dtype=object), 35700, flux, 4 * flux, np.zeros((1, 2000), np.uint32)
    )
    clean = deredden(spectra, np.array([0.2]))
    # Signal to noise is unchanged (float32), and blue gains more than red.
    np.testing.assert_allclose(clean.flux * np.sqrt(clean.ivar), 2 * flux, rtol=1e-6)
    assert (np.diff(clean.flux[0]) < 0).all()


def test_a_superseded_row_counts_in_no_split():
    index = pa.table({"split": ["train", "train", "validation"],
                      "superseded": [True, False, False]})  # fmt: skip
    split = current_split(index)
    assert split.tolist() == ["", "train", "validation"]
    group = group_of(np.array([1, 1, 2], np.int8), split)
    assert group.tolist() == [-1, 1, 7 + 2]
    ones = np.ones((3, 4), np.float32)
    square, pull, count = (np.zeros((14, 4)) for _ in range(3))
    add_residuals(2 * ones, ones, ones, group, (square, pull, count))
    assert count.sum() == 2 * 4
    assert square[1].tolist() == pull[1].tolist() == [1, 1, 1, 1]


def test_a_begun_mock_release_takes_no_other_into_its_folder(tmp_path: Path):
    begin(tmp_path, MockSettings(n_spectra=30, n_spec_files=5, seed=5))
    other = MockSection(path=tmp_path, n_spectra=30, n_spec_files=5, seed=6)
    with pytest.raises(UsageError, match="seed"):
        mock.run(other, Here())
    same = MockSection(path=tmp_path, n_spectra=30, n_spec_files=5, seed=5)
    mock.run(same, Here())
    assert json.loads((tmp_path / "mock.json").read_text())["settings"]["seed"] == 5
    assert mock.run(same, Here()) == {}


def test_a_composite_that_is_no_table_is_refused_before_anything_runs(tmp_path: Path):
    bad = tmp_path / "composite.txt"
    bad.write_text("not = a table\n")
    with pytest.raises(UsageError, match=r"report.composite.*composite.txt"):
        composite(bad)
    good = tmp_path / "vb.txt"
    good.write_text("# wave flux\n1000 1.0 0.1\n1001 2.0 0.1\n")
    found = composite(good)
    assert found is not None
    assert found[2] == "vb"
    (tmp_path / "in").mkdir()
    job = make_job(
        {"name": "a", "out": str(tmp_path / "out"), "report": {"composite": str(bad)},
         "release": [{"name": "r", "source": [str(tmp_path / "in")]}]},
        "test",
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"report.composite"):
        check(job)
    assert not (tmp_path / "out").exists()


def test_a_table_of_the_wrong_kind_is_refused_before_anything_runs(tmp_path: Path):
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    (tmp_path / "in").mkdir()
    release = {"name": "r", "source": [str(tmp_path / "in")]}
    base = {"name": "a", "out": str(tmp_path / "out")}
    with pytest.raises(UsageError, match=r"label.lines.*columns are"):
        check(make_job(base | {"release": [release], "label": {"lines": [str(table)]}}, "test"))
    with pytest.raises(UsageError, match=r"catalogue.*columns are"):
        check(make_job(base | {"release": [release | {"catalogue": str(table)}]}, "test"))
