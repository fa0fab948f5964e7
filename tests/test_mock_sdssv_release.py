"""SDSS-V in a mock release: truth, repeats, re-reductions, writing and plan."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from mock_sdssv_builders import (
    ORDINARY,
    RELEASES,
    SUMMARIES,
    hdus_of,
    spectra,
    table,
    truth_of,
    write,
    write_all,
)

from spectra_scale.cli import app
from spectra_scale.compute.place import open_place
from spectra_scale.config import ComputeSection, MockSection
from spectra_scale.errors import UsageError
from spectra_scale.mock.plan import plan, select
from spectra_scale.mock.plates import is_written, write_plate
from spectra_scale.mock.release import begin, check_folder, finish
from spectra_scale.mock.settings import MockSettings
from spectra_scale.stages import mock as stage


@pytest.fixture(scope="module")
def releases(tmp_path_factory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("sdssv"))


@pytest.fixture(params=RELEASES)
def release(request, releases) -> tuple[str, Path]:
    return request.param, releases[request.param]


# Truth, repeats, reductions ----------------------------------------------------------------------


def test_truth_has_a_row_for_each_spectrum(release):
    _, folder = release
    truth = truth_of(folder)
    mine = truth[truth.survey == "sdssv"]
    keys = {
        "sdssv:" + "-".join(str(int(part)) for part in path.stem.split("-")[1:])
        for path in spectra(folder)
    }
    assert set(mine.spectrum_key) == keys
    assert len(mine) == 50
    assert (mine[["plate", "fiber", "healpix"]] == -1).all(axis=None)
    assert not mine.has_lines.any()
    # Positions, kinds and faults are drawn as for other surveys: z_true is near what is found.
    z = {
        f"sdssv:{r['FIELD']}-{r['MJD']}-{r['CATALOGID']}": float(r["Z"])
        for r in hdus_of(next(folder.rglob("spAll-*.fits")))[1][1]
    }
    right = mine[mine.failure == "none"]
    off = np.abs(right.spectrum_key.map(z) - right.z_true) / (1 + right.z_true)
    # Broad lines are off by 2e-4, see find_redshifts; five sigma.
    assert off.max() < 1e-3


def test_objects_of_plates_are_seen_again_at_nearly_the_same_place(release):
    _, folder = release
    truth = truth_of(folder)
    again = truth[(truth.survey == "sdssv") & truth.is_repeat]
    assert len(again) == 10
    plates = truth[truth.survey.isin(["sdss", "boss"])].set_index("object_id")
    assert again.object_id.isin(plates.index).all()
    assert set(plates.loc[again.object_id].survey) == {"sdss", "boss"}
    with fits.open(folder / "specObj-mock.fits") as hdus:
        rows = hdus[1].data
        place = {
            f"sdss:{r['PLATE']}-{r['MJD']}-{r['FIBERID']}": (r["PLUG_RA"], r["PLUG_DEC"])
            for r in rows
        }
    own = hdus_of(next(folder.rglob("spAll-*.fits")))[1][1]
    mine = {
        f"sdssv:{r['FIELD']}-{r['MJD']}-{r['CATALOGID']}": (r["PLUG_RA"], r["PLUG_DEC"])
        for r in own
    }
    one = SkyCoord([mine[key] for key in again.spectrum_key], unit="deg")
    keys = plates.loc[again.object_id].spectrum_key
    two = SkyCoord([place[key] for key in keys], unit="deg")
    apart = one.separation(two).arcsec
    assert apart.max() < 0.3
    assert np.median(apart) > 0.05
    # Objects of its own are on no plate.
    alone = truth[(truth.survey == "sdssv") & ~truth.is_repeat]
    assert not alone.object_id.isin(plates.index).any()


def test_releases_have_the_same_keys_and_truth_and_slightly_other_fluxes(releases):
    tables = [truth_of(folder) for folder in releases.values()]
    for other in tables[1:]:
        assert tables[0].equals(other)
    by_key = [
        {tuple(int(p) for p in path.stem.split("-")[1:]): path for path in spectra(folder)}
        for folder in releases.values()
    ]
    assert by_key[0].keys() == by_key[1].keys() == by_key[2].keys()
    spread = []
    for key in list(by_key[0])[::4]:
        old, new = (table(found[key], "COADD") for found in by_key[:2])
        np.testing.assert_array_equal(old["AND_MASK"], new["AND_MASK"])
        good = old["IVAR"] > 0
        np.testing.assert_array_equal(good, new["IVAR"] > 0)
        ratio = (new["FLUX"] / np.where(old["FLUX"] == 0, np.nan, old["FLUX"]))[good]
        spread.append(np.nanmedian(ratio) - 1)
        np.testing.assert_allclose(
            (new["FLUX"] ** 2 * new["IVAR"])[good], (old["FLUX"] ** 2 * old["IVAR"])[good],
            rtol=1e-4,
        )  # fmt: skip
        first, second = (table(found[key], "SPALL")[0] for found in by_key[:2])
        assert first["Z"] != second["Z"]
        # Each differs from a common one by 0.3 of its error: their difference by 0.42; six sigma.
        assert abs(first["Z"] - second["Z"]) < 6 * 0.42 * max(first["Z_ERR"], 1e-7)
    assert 0.003 < np.std(spread) < 0.03
    assert max(np.abs(spread)) < 0.1


def test_other_noise_where_a_plate_has_the_same_object(releases):
    folder = releases["dr19"]
    truth = truth_of(folder)
    again = truth[(truth.survey == "sdssv") & truth.is_repeat & (truth.failure == "none")]
    boss = truth[(truth.survey == "boss") & (truth.failure == "none")].set_index("object_id")
    shared = again[again.object_id.isin(boss.index)]
    by_key = {"sdssv:" + "-".join(str(int(x)) for x in p.stem.split("-")[1:]): p
              for p in spectra(folder)}  # fmt: skip
    plate = next(folder.rglob("spPlate-3600-*.fits"))
    with fits.open(plate) as hdus:
        flux, ivar = hdus[0].data.astype(float), hdus[1].data.astype(float)
        first = round(hdus[0].header["COEFF0"] / 1e-4)
    pulls = []
    for row in shared.itertuples():
        coadd = table(by_key[row.spectrum_key], "COADD")
        at = 35_523 - first + np.arange(4648)
        fiber = int(boss.loc[row.object_id].fiber) - 1
        a, b = flux[fiber, at], coadd["FLUX"].astype(float)
        good = (ivar[fiber, at] > 0) & (coadd["IVAR"] > 0)
        # What calibration left differs smoothly: differences of neighbours do not see it.
        scale = np.median(b[good]) / np.median(a[good])
        sigma = np.sqrt(1 / ivar[fiber, at][good] * scale**2 + 1 / coadd["IVAR"][good])
        pulls.append(np.median(np.abs(np.diff((b - a * scale)[good] / sigma))))
    assert len(pulls) >= 3
    # Differences of neighbours of unit noise that correlate at 0.2: 0.6745 √(2 · 0.8) = 0.85.
    assert 0.6 < np.median(pulls) < 1.1


# Writing -----------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


SMALL = {
    "n_spectra": 30, "n_spec_files": 0, "boss_fraction": 0.3, "sdssv_fraction": 0.6, "seed": 2,
}  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_and_any_order_write_the_same_bytes(tmp_path, workers):
    section = MockSection(path=tmp_path / "a", **SMALL)
    with open_place(ComputeSection(workers=workers)) as place:
        counts = stage.run(section, place)
    assert counts["fields"] == sum(task.survey == "sdssv" for task in plan(MockSettings(**SMALL)))
    settings = stage.settings_of(section)
    begin(tmp_path / "b", settings)
    tasks = plan(settings)
    for task in reversed(tasks):
        write_plate(task, tmp_path / "b", settings)
    finish(tmp_path / "b", tasks, settings)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path):
    settings = MockSettings(**SMALL)
    whole = write(tmp_path / "whole", settings)
    broken = tmp_path / "broken"
    begin(broken, settings)
    tasks = plan(settings)
    field = next(task for task in tasks if task.survey == "sdssv")
    write_plate(field, broken, settings)
    # As if it had been killed between two files: the part is the last to be written.
    shutil.rmtree(broken / ".parts")
    paths = spectra(broken)
    paths[-1].unlink()
    paths[-2].with_name(f".{paths[-2].name}.99.tmp").write_bytes(paths[-2].read_bytes()[:5000])
    assert not is_written(broken, field, settings)
    for task in tasks:
        write_plate(task, broken, settings)
    finish(broken, tasks, settings)
    assert contents(broken) == contents(whole)


def test_a_field_can_be_written_alone(tmp_path):
    settings = MockSettings(**SMALL)
    tasks = plan(settings)
    field = next(task for task in tasks if task.survey == "sdssv" and not task.is_repeat)
    assert select(tasks, [field.plate], None) == [field]
    begin(tmp_path, settings)
    write_plate(field, tmp_path, settings)
    finish(tmp_path, [field], settings)
    assert len(spectra(tmp_path)) == field.n_science
    assert len(hdus_of(tmp_path / SUMMARIES["dr19"])[1][1]) == field.n_science


def test_a_release_without_sdssv_says_nothing_of_it(tmp_path):
    settings = MockSettings(n_spectra=8, n_spec_files=0, sdssv_release="dr20")
    write(tmp_path, settings)
    assert "sdssv" not in (tmp_path / "mock.json").read_text()
    assert check_folder(tmp_path, MockSettings(n_spectra=8, n_spec_files=0))
    with pytest.raises(UsageError, match=r"differing: sdssv_fraction"):
        check_folder(tmp_path, MockSettings(n_spectra=8, n_spec_files=0, sdssv_fraction=0.5))


def test_a_release_says_which_sdssv_it_has(releases):
    content = json.loads((releases["dr20"] / "mock.json").read_text())
    assert content["settings"]["sdssv_release"] == "dr20"
    with pytest.raises(UsageError, match=r"differing: sdssv_release"):
        check_folder(releases["dr20"], MockSettings(**ORDINARY))


def test_the_command_writes_sdssv_alone(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        app(["mock", str(tmp_path / "m"), "--n", "12", "--survey", "sdssv"])
    assert not left.value.code
    assert "1 fields" in capsys.readouterr().out
    assert len(spectra(tmp_path / "m")) == 12
    assert {p.suffix for p in (tmp_path / "m").rglob("*") if p.is_file()} == {
        ".fits", ".json", ".parquet",
    }  # fmt: skip


# Plan --------------------------------------------------------------------------------------------


@given(
    n=st.integers(1, 2000),
    boss=st.floats(0, 0.3),
    desi=st.floats(0, 0.3),
    sdssv=st.floats(0, 0.4),
    again=st.floats(0, 1),
)
@examples(max_examples=60, deadline=None)
def test_a_plan_with_fields_holds_every_spectrum_once(n, boss, desi, sdssv, again):
    mock = MockSettings(
        n_spectra=n, n_spec_files=0, boss_fraction=boss, desi_fraction=desi, sdssv_fraction=sdssv,
        sdssv_repeat_fraction=again, fibers_legacy=64, fibers_boss=100, fibers_desi=50,
        fibers_sdssv=40,
    )  # fmt: skip
    tasks = plan(mock)
    assert sum(task.n_science for task in tasks) == n
    assert len({task.plate for task in tasks}) == len({task.name for task in tasks}) == len(tasks)
    fields = [task for task in tasks if task.survey == "sdssv"]
    assert sum(task.n_science for task in fields) == mock.n_sdssv
    assert all(0 < task.n_science <= 40 and task.layout == "field" for task in fields)
    assert all(task.source_survey in {"sdss", "boss"} for task in fields if task.is_repeat)
    plates = {task.plate for task in tasks if task.survey in {"sdss", "boss"}}
    assert {task.source_plate for task in fields if task.is_repeat} <= plates
    for release in RELEASES:
        other = MockSettings(**{**mock_values(mock), "sdssv_release": release})
        assert plan(other) == tasks


def mock_values(mock: MockSettings) -> dict[str, object]:
    return {name: getattr(mock, name) for name in mock.__slots__}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sdssv_fraction": 1.2}, "sdssv_fraction"),
        ({"boss_fraction": 0.6, "sdssv_fraction": 0.5}, "more than all spectra"),
        ({"sdssv_release": "dr21"}, "expected one of dr18, dr19, dr20"),
        ({"sdssv_fraction": 1.0, "boss_fraction": 0.0}, "neither DESI's nor SDSS-V's"),
        ({"fibers_sdssv": 1}, "fibers_sdssv=1"),
    ],
)
def test_settings_of_sdssv_that_mean_nothing_are_refused(wrong, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        MockSettings(**wrong)
