"""Targets of the mock's DESI that both programs observe, lose an arm, or have no data at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from spectra_scale.mock.desi_observation import ARMS, observe_healpix
from spectra_scale.mock.faults import ARTEFACTS
from spectra_scale.mock.plan import plan
from spectra_scale.mock.plates import write_plate
from spectra_scale.mock.release import finish
from spectra_scale.mock.settings import MockSettings

# A quarter of the spectra are second ones, and faults are common.
TWICE = MockSettings(
    n_spectra=400, n_spec_files=0, boss_fraction=0, desi_fraction=1, fibers_desi=80,
    repeat_fraction=0.25, missing_arm_fraction=0, artefact_fraction=0.2, blend_fraction=0.3,
    bad_redshift_fraction=0.2, seed=11,
)  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    tasks = plan(TWICE)
    for task in tasks:
        write_plate(task, folder, TWICE)
    finish(folder, tasks, TWICE)
    return folder


@pytest.fixture(scope="module")
def catalogue(release) -> fits.FITS_rec:
    return rows_of(release)


def rows_of(folder: Path) -> fits.FITS_rec:
    with fits.open(folder / "zall-pix-mock.fits") as hdus:
        return hdus["ZCATALOG"].data.copy()


@pytest.fixture(scope="module")
def truth(release) -> dict[str, np.ndarray]:
    table = pq.read_table(release / "truth.parquet").to_pydict()
    return {name: np.array(values) for name, values in table.items()}


def texts(column) -> np.ndarray:
    return np.char.strip(np.asarray(column).astype(str))


def test_targetid_is_no_key_but_with_survey_and_program_it_is(catalogue):
    ids, count = np.unique(catalogue["TARGETID"], return_counts=True)
    assert len(ids) < len(catalogue)
    assert set(count) == {1, 2}
    keys = set(zip(catalogue["TARGETID"], texts(catalogue["SURVEY"]),
                   texts(catalogue["PROGRAM"]), strict=True))  # fmt: skip
    assert len(keys) == len(catalogue)
    # Sky and fibres without a target are of one program.
    twice = np.isin(catalogue["TARGETID"], ids[count == 2])
    assert set(texts(catalogue["OBJTYPE"])[twice]) == {"TGT"}
    # A quarter of 400 spectra see a target again.
    assert twice.sum() == 200


def test_one_spectrum_of_each_target_is_primary_and_it_is_the_best(catalogue):
    for identity in np.unique(catalogue["TARGETID"]):
        rows = catalogue[catalogue["TARGETID"] == identity]
        for name in ("MAIN", "ZCAT"):
            assert (rows[f"{name}_NSPEC"] == len(rows)).all()
        # desispec.zcatalog.find_primary_spectra: without a warning first, then by TSNR2_LRG.
        best = np.lexsort((-rows["TSNR2_LRG"], rows["ZWARN"] != 0))[0]
        expected = np.arange(len(rows)) == best
        np.testing.assert_array_equal(rows["ZCAT_PRIMARY"], expected)
        np.testing.assert_array_equal(rows["MAIN_PRIMARY"], expected)
    twice = catalogue[catalogue["ZCAT_NSPEC"] == 2]
    # Both programs win: the deeper as a rule, the other where that has a warning.
    dark = texts(twice["PROGRAM"]) == "dark"
    assert twice["ZCAT_PRIMARY"][dark].sum() > twice["ZCAT_PRIMARY"][~dark].sum() > 0
    assert not catalogue["SV_NSPEC"].any()


def test_a_target_is_the_same_in_both_programs(catalogue):
    same = [
        name for name in catalogue.names
        if name.startswith(("TARGET_", "FLUX_", "FIBER", "SHAPE", "BRICK", "DESI", "BGS", "GAIA"))
        or name in {"EBV", "RELEASE", "MORPHTYPE", "SERSIC", "PHOTSYS", "SUBPRIORITY", "HEALPIX"}
    ]  # fmt: skip
    twice = catalogue[catalogue["ZCAT_NSPEC"] == 2]
    order = np.lexsort((texts(twice["PROGRAM"]), twice["TARGETID"]))
    bright, dark = twice[order[::2]], twice[order[1::2]]
    for name in same:
        np.testing.assert_array_equal(bright[name], dark[name], err_msg=name)
    # The bits of both programs' reasons: BGS_ANY is 60; LRG and ELG are 0 and 1.
    galaxies = ~np.isin(bright["DESI_TARGET"], [1 << 2, 1 << 35])
    assert (bright["DESI_TARGET"][galaxies] & (1 << 60)).all()
    assert (bright["DESI_TARGET"][galaxies] & 0b11).all()
    # But their spectra are not.
    both = (bright["NPIXELS"] > 0) & (dark["NPIXELS"] > 0)
    assert (bright["CHI2"] != dark["CHI2"])[both].all()


def test_truth_has_one_object_and_two_spectra_of_a_target_in_both_programs(catalogue, truth):
    ids = np.array([int(key.rsplit("-", 1)[1]) for key in truth["spectrum_key"]])
    again = truth["is_repeat"]
    assert again.sum() == 100
    for i in np.flatnonzero(again):
        (first,) = np.flatnonzero((truth["object_id"] == truth["object_id"][i]) & ~again)
        assert ids[first] == ids[i]
        assert truth["program"][first] != truth["program"][i]
        for name in ("z_true", "kind", "healpix", "flux_ha", "is_blend"):
            assert truth[name][first] == truth[name][i]


def test_either_program_written_alone_has_the_same_bytes_and_knows_of_the_other(
    release, catalogue, tmp_path
):
    again = next(task for task in plan(TWICE) if task.is_repeat)
    first = next(task for task in plan(TWICE) if task.plate == again.source_plate)
    for task in (again, first):
        folder = tmp_path / task.program
        write_plate(task, folder, TWICE)
        finish(folder, [task], TWICE)
        for path in (folder / "healpix").rglob("*.fits"):
            assert path.read_bytes() == (release / path.relative_to(folder)).read_bytes()
        mine = rows_of(folder)
        whole = catalogue[
            (catalogue["HEALPIX"] == task.healpix) & (texts(catalogue["PROGRAM"]) == task.program)
        ]
        assert mine.tobytes() == whole.tobytes()
        assert (mine["ZCAT_NSPEC"] == 2).any()


def test_half_a_spectrum_lost_is_one_or_two_arms_of_the_three():
    for missing in (0.0, 1.0):
        lossy = MockSettings(
            n_spectra=300, n_spec_files=0, boss_fraction=0, desi_fraction=1, repeat_fraction=0,
            artefact_fraction=1, cosmic_ray_fraction=0, missing_arm_fraction=missing, seed=2,
        )  # fmt: skip
        seen = observe_healpix(plan(lossy)[0], lossy)
        empty = np.stack([
            np.ones(len(seen.row), bool) if not seen.has_arm(name)
            else ~exposure.ivar[seen.row].any(axis=1)
            for name, exposure in zip(ARMS, seen.exposures, strict=True)
        ])  # fmt: skip
        good = ~seen.is_lost[seen.row]
        half = good & (seen.artefact == ARTEFACTS.index("half-lost"))
        # 15 % of 300.
        assert half.sum() > 20
        n_empty = empty.sum(axis=0)
        # Where the coadd lacks an arm, that is one of the two.
        assert set(n_empty[half]) == ({2} if missing else {1, 2})
        assert set(n_empty[good & ~half]) == {int(missing)}
        for exposure in seen.exposures:
            lost = ~exposure.ivar.any(axis=1)
            # Real files have no flux and no mask there.
            assert not exposure.flux[lost].any()
            assert not exposure.and_mask[lost].any()


def test_truth_says_which_targets_have_no_data(release, catalogue, truth):
    rows = catalogue[texts(catalogue["OBJTYPE"]) == "TGT"]
    key = [
        f"desi:main-{p}-{t}" for p, t in zip(texts(rows["PROGRAM"]), rows["TARGETID"], strict=True)
    ]
    failure = dict(zip(truth["spectrum_key"], truth["failure"], strict=True))
    marked = np.array([failure[name] == "no-data" for name in key])
    assert marked.any()
    np.testing.assert_array_equal(marked, rows["ZWARN"] & (1 << 9) != 0)
    np.testing.assert_array_equal(marked, rows["NPIXELS"] == 0)
    # And redrock knows nothing of their redshifts.
    z_true = dict(zip(truth["spectrum_key"], truth["z_true"], strict=True))
    error = rows["Z"] - np.array([z_true[name] for name in key])
    assert (np.abs(error[marked]) > 1e-3).all()
    assert not truth["has_lines"][truth["failure"] == "no-data"].any()


def test_truth_says_which_spectra_are_blends_whatever_else_is_wrong(truth):
    blend, failure = truth["is_blend"], truth["failure"]
    assert blend.dtype == bool
    # 30 % of 400, of which 300 are independent: 4 sigma are 0.11.
    assert blend.mean() == pytest.approx(0.3, abs=0.11)
    assert blend[failure == "blend"].all()
    assert not blend[failure == "none"].any()
    assert {"blend", "wrong-redshift", "half-lost"} <= set(failure[blend])


def test_what_the_coadd_counts_is_what_the_exposures_say(release):
    for path in sorted(release.rglob("coadd-*.fits")):
        with fits.open(path) as hdus:
            coadd, exposures = hdus["FIBERMAP"].data, hdus["EXP_FIBERMAP"].data
            flux = np.concatenate([hdus[f"{arm}_IVAR"].data for arm in "BRZ"], axis=1)
        nights = exposures["NIGHT"]
        # A night begins in the afternoon: the date is that of the day before MJD's midnight.
        date = np.datetime64("1858-11-17") + np.floor(exposures["MJD"]).astype(int) - 1
        np.testing.assert_array_equal(nights, [int(str(d).replace("-", "")) for d in date])
        for row, ivar in zip(coadd, flux, strict=True):
            mine = exposures[exposures["TARGETID"] == row["TARGETID"]]
            assert len(mine) >= 1
            assert (mine["FIBERSTATUS"] == row["COADD_FIBERSTATUS"]).all()
            if not ivar.any():
                # As in coadd-sv3-dark-26065: what is thrown away is in no coadd.
                counts = [row[f"COADD_{name}"] for name in ("NUMEXP", "NUMNIGHT", "NUMTILE")]
                assert [*counts, row["COADD_EXPTIME"]] == [0, 0, 0, 0]
                continue
            assert row["COADD_NUMEXP"] == len(mine)
            assert row["COADD_NUMNIGHT"] == len(set(mine["NIGHT"]))
            assert row["COADD_NUMTILE"] == len(set(mine["TILEID"]))
            assert row["COADD_EXPTIME"] == pytest.approx(mine["EXPTIME"].sum())


def test_real_coadds_have_no_exposures_where_they_have_no_data(real_data):
    with fits.open(real_data / "desi/coadd-sv3-dark-26065.fits") as hdus:
        rows, exposures = hdus["FIBERMAP"].data, hdus["EXP_FIBERMAP"].data
        ivar = np.concatenate([hdus[f"{arm}_IVAR"].data for arm in "BRZ"], axis=1)
        np.testing.assert_array_equal(rows["COADD_NUMEXP"] == 0, ~ivar.any(axis=1))
        assert set(rows["TARGETID"]) == set(exposures["TARGETID"])
        # One exposure of the last row is bad; the good ones are of one night and one tile.
        good = exposures[(exposures["TARGETID"] == rows["TARGETID"][-1])
                         & (exposures["FIBERSTATUS"] == 0)]  # fmt: skip
        assert rows["COADD_NUMNIGHT"][-1] == len(set(good["NIGHT"]))


def test_a_fibre_is_on_one_target_in_an_exposure_and_an_exposure_of_one_tile():
    full = MockSettings(
        n_spectra=900, n_spec_files=0, boss_fraction=0, desi_fraction=1, fibers_desi=1200,
        repeat_fraction=0.02, seed=4,
    )  # fmt: skip
    from spectra_scale.mock.desi_rows import exposure_rows, fibermap_rows

    tile_of: dict[int, tuple[int, int]] = {}
    for task in plan(full):
        seen = observe_healpix(task, full)
        rows = exposure_rows(seen, fibermap_rows(seen))
        fibre = set(zip(rows["EXPID"], rows["FIBER"], strict=True))
        place = set(zip(rows["EXPID"], rows["LOCATION"], strict=True))
        assert len(fibre) == len(place) == len(rows)
        # Ten petals of 500 fibres: FIBER and LOCATION name the petal, as in real files.
        assert rows["FIBER"].max() < 5000
        np.testing.assert_array_equal(rows["FIBER"] // 500, rows["PETAL_LOC"])
        np.testing.assert_array_equal(rows["LOCATION"] // 1000, rows["PETAL_LOC"])
        np.testing.assert_array_equal(rows["LOCATION"] % 1000, rows["DEVICE_LOC"])
        # A target stays on its fibre from one exposure of a tile to the next.
        one = set(zip(rows["TARGETID"], rows["FIBER"], strict=True))
        assert len(one) == seen.n_rows
        for exposure, tile, night in zip(
            rows["EXPID"], rows["TILEID"], rows["NIGHT"], strict=True
        ):
            assert tile_of.setdefault(int(exposure), (int(tile), int(night))) == (tile, night)
