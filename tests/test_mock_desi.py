"""DESI files of a mock release, held against formats.md A5 and against real files."""

from __future__ import annotations

import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy_healpix import HEALPix

from spectra_scale.mock.desi_files import resolution
from spectra_scale.mock.desi_rows import target_id
from spectra_scale.mock.instrument import desi_arms
from spectra_scale.mock.plan import plan
from spectra_scale.mock.plates import write_plate
from spectra_scale.mock.release import finish
from spectra_scale.mock.settings import MockSettings

SMALL = MockSettings(
    n_spectra=330, n_spec_files=0, fibers_legacy=240, fibers_boss=30, fibers_desi=60,
    boss_fraction=0.0, desi_fraction=0.3, repeat_fraction=0.06, missing_arm_fraction=0.0, seed=3,
)  # fmt: skip
ARMS = {"B": (3600.0, 5800.0, 2751), "R": (5760.0, 7620.0, 2326), "Z": (7520.0, 9824.0, 2881)}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("desi")
    tasks = plan(SMALL)
    for task in tasks:
        write_plate(task, folder, SMALL)
    finish(folder, tasks, SMALL)
    return folder


def coadds(folder: Path) -> list[Path]:
    return sorted(folder.rglob("coadd-*.fits"))


def columns_of(hdu) -> dict[str, tuple[str, object]]:
    return {c.name: (c.format, c.bzero) for c in hdu.columns}


def texts(column) -> np.ndarray:
    return np.char.strip(np.asarray(column).astype(str))


def test_files_lie_where_the_archive_has_them(release):
    found = coadds(release)
    assert len(found) == sum(task.layout == "healpix" for task in plan(SMALL))
    for path in found:
        with fits.open(path) as hdus:
            header = hdus[0].header
            pixel, program = header["HPXPIXEL"], header["PROGRAM"]
            assert (header["HPXNSIDE"], header["HPXNEST"], header["SURVEY"]) == (64, True, "main")
            expected = (
                f"healpix/main/{program}/{pixel // 100}/{pixel}/coadd-main-{program}-{pixel}"
            )
            assert str(path.relative_to(release)) == f"{expected}.fits"
        assert (path.parent / path.name.replace("coadd", "redrock")).exists()


def test_every_desi_file_is_valid(release):
    fitsio = pytest.importorskip("fitsio")
    for path in [*coadds(release)[:1], *sorted(release.rglob("redrock-*.fits"))[:1],
                 release / "zall-pix-mock.fits"]:  # fmt: skip
        assert path.stat().st_size % 2880 == 0
        with fits.open(path) as hdus, fitsio.FITS(str(path)) as other:
            hdus.verify("exception")
            assert len(hdus) == len(other)
            for mine, theirs in zip(hdus, other, strict=True):
                if mine.data is None:
                    continue
                found = theirs.read()
                if mine.is_image:
                    np.testing.assert_array_equal(found, mine.data)
                    continue
                for name in mine.columns.names:
                    expected, value = np.asarray(mine.data[name]), found[name]
                    if expected.dtype.kind in "US":
                        expected, value = texts(expected), texts(value)
                    np.testing.assert_array_equal(value, expected, err_msg=f"{path} {name}")


def test_arms_have_the_survey_s_grid_and_overlap(release):
    for path in coadds(release):
        with fits.open(path) as hdus:
            n = len(hdus["FIBERMAP"].data)
            for arm, (first, last, n_pixels) in ARMS.items():
                wave = hdus[f"{arm}_WAVELENGTH"].data
                assert wave.dtype == ">f8"
                np.testing.assert_allclose(wave[[0, -1]], (first, last), atol=1e-6)
                np.testing.assert_allclose(np.diff(wave), 0.8, atol=1e-8)
                for name, kind in (("FLUX", ">f4"), ("IVAR", ">f4"), ("MASK", "uint32")):
                    values = hdus[f"{arm}_{name}"].data
                    assert values.shape == (n, n_pixels)
                    assert values.dtype == kind
                assert hdus[f"{arm}_RESOLUTION"].data.shape == (n, 11, n_pixels)
                u.Unit(hdus[f"{arm}_FLUX"].header["BUNIT"])
                u.Unit(hdus[f"{arm}_IVAR"].header["BUNIT"])


def test_hdus_columns_and_units_are_those_of_a_real_coadd(release, real_data):
    real_path = real_data / "desi/coadd-sv3-dark-26065.fits"
    with fits.open(coadds(release)[0]) as mine, fits.open(real_path) as real:
        assert [hdu.name for hdu in mine] == [hdu.name for hdu in real]
        for hdu, theirs in zip(mine[1:], real[1:], strict=True):
            if theirs.is_image:
                assert hdu.header["BITPIX"] == theirs.header["BITPIX"], hdu.name
                for key in ("BUNIT", "BZERO", "NAXIS", "NAXIS1"):
                    assert hdu.header.get(key) == theirs.header.get(key), hdu.name
                if hdu.name.endswith("WAVELENGTH"):
                    # float64 there carries 5e-10 Å of dust.
                    np.testing.assert_allclose(hdu.data, theirs.data, atol=1e-8)
                continue
            expected = columns_of(theirs)
            # That file is of survey validation: its own target bits stand before the main ones.
            for name in ("DESI", "BGS", "MWS", "SCND"):
                expected.pop(f"SV3_{name}_TARGET", None)
            assert columns_of(hdu) == expected, hdu.name
            assert list(columns_of(hdu)) == list(expected), hdu.name


def test_redrock_files_have_the_tables_of_real_ones(release, real_data):
    mine_path = sorted(release.rglob("redrock-*.fits"))[0]
    with fits.open(mine_path) as mine, fits.open(real_data / "desi/redrock-test.fits") as real:
        assert [hdu.name for hdu in mine] == [hdu.name for hdu in real]
        for name in ("REDSHIFTS", "EXP_FIBERMAP", "TSNR2"):
            assert columns_of(mine[name]) == columns_of(real[name])
        # Tile-based, with more columns than a healpixel has.
        theirs = columns_of(real["FIBERMAP"])
        for name, kind in columns_of(mine["FIBERMAP"]).items():
            assert theirs[name] == kind
        units = {c.name: c.unit for c in real["FIBERMAP"].columns}
        for column in mine["FIBERMAP"].columns:
            # Offsets on the sky are in arcsec by the data model; that file says deg.
            if not column.name.startswith("STD_FIBER"):
                assert column.unit == units[column.name], column.name


def test_rows_of_coadd_and_redrock_match(release):
    for path in coadds(release):
        redrock = path.parent / path.name.replace("coadd", "redrock")
        with fits.open(path) as mine, fits.open(redrock) as found:
            ids = mine["FIBERMAP"].data["TARGETID"]
            assert len(np.unique(ids)) == len(ids)
            for hdu in (found["REDSHIFTS"], found["FIBERMAP"], found["TSNR2"], mine["SCORES"]):
                np.testing.assert_array_equal(hdu.data["TARGETID"], ids)
            assert set(mine["EXP_FIBERMAP"].data["TARGETID"]) == set(ids)


def test_sky_fibres_and_fibres_without_a_target_stand_among_the_targets():
    # Rates of a few per cent: many rows.
    big = MockSettings(
        n_spectra=475, n_spec_files=0, boss_fraction=0, desi_fraction=1, repeat_fraction=0, seed=5
    )
    from spectra_scale.mock.desi_observation import observe_healpix
    from spectra_scale.mock.desi_rows import fibermap_rows

    seen = observe_healpix(plan(big)[0], big)
    rows = fibermap_rows(seen)
    kind = rows["OBJTYPE"].astype(str)
    assert (kind == "TGT").sum() == 475
    assert (kind == "SKY").sum() == 24
    assert (kind == "").sum() == 5
    assert (np.diff(np.flatnonzero(kind == "TGT")) > 1).any()
    status = rows["COADD_FIBERSTATUS"]
    assert (status[kind == ""] != 0).all()
    # Bit 0 is UNASSIGNED. 2 % of 475 targets: 9.5 +- 3.
    assert (status[kind == ""] & 1).all()
    assert not (status[kind != ""] & 1).any()
    assert 0 < (status[kind == "TGT"] != 0).sum() < 25
    ivar = np.stack([exposure.ivar.any(axis=1) for exposure in seen.exposures])
    assert not ivar[:, (kind == "") | (status & (1 << 9) != 0)].any()
    assert ivar[:, (kind == "TGT") & (status == 0)].any(axis=0).all()
    assert (rows["DESI_TARGET"][kind == "SKY"] == 1 << 32).all()
    # Bit 59 of a sky fibre's TARGETID, and the sign of one without a target.
    ids = rows["TARGETID"]
    assert (((ids >> 59) & 1)[kind == "SKY"] == 1).all()
    assert (ids[kind == ""] < 0).all()
    assert (ids[kind == "TGT"] > 0).all()


def test_target_ids_are_packed_as_the_survey_packs_them(real_data):
    with fits.open(real_data / "desi/coadd-sv3-dark-26065.fits") as hdus:
        rows = hdus["FIBERMAP"].data
        for row in rows[rows["TARGETID"] > 0]:
            found = target_id(
                np.array([row["BRICK_OBJID"]]), int(row["BRICKID"]), int(row["RELEASE"]),
                is_sky=row["OBJTYPE"] == "SKY",
            )  # fmt: skip
            assert found[0] == row["TARGETID"]


def test_targets_lie_in_their_pixel(release):
    grid = HEALPix(nside=64, order="nested", frame="icrs")
    for path in coadds(release):
        with fits.open(path) as hdus:
            rows = hdus["FIBERMAP"].data
            rows = rows[texts(rows["OBJTYPE"]) == "TGT"]
            place = SkyCoord(rows["TARGET_RA"], rows["TARGET_DEC"], unit="deg")
            assert set(grid.skycoord_to_healpix(place)) == {hdus[0].header["HPXPIXEL"]}


def test_masked_pixels_have_no_inverse_variance_and_nothing_is_nan(release):
    for path in coadds(release)[:2]:
        with fits.open(path) as hdus:
            for arm in ARMS:
                ivar, mask = hdus[f"{arm}_IVAR"].data, hdus[f"{arm}_MASK"].data
                assert (ivar >= 0).all()
                assert not ivar[mask != 0].any()
                assert np.isfinite(hdus[f"{arm}_FLUX"].data).all()
            for hdu in hdus:
                if hdu.data is not None and not hdu.is_image:
                    for name in hdu.columns.names:
                        if hdu.data[name].dtype.kind == "f":
                            assert np.isfinite(hdu.data[name]).all(), name


def test_the_catalogue_has_every_row_of_every_healpixel(release):
    truth = pq.read_table(release / "truth.parquet").to_pydict()
    is_desi = np.array(truth["survey"]) == "desi"
    with fits.open(release / "zall-pix-mock.fits") as hdus:
        assert hdus[1].name == "ZCATALOG"
        rows = hdus[1].data
        assert len(hdus[1].columns) == 136
        assert rows["ZCAT_PRIMARY"].dtype == bool
        target = texts(rows["OBJTYPE"]) == "TGT"
        assert target.sum() == is_desi.sum()
        keys = {
            f"desi:{s}-{p}-{t}"
            for s, p, t in zip(texts(rows["SURVEY"])[target], texts(rows["PROGRAM"])[target],
                               rows["TARGETID"][target], strict=True)
        }  # fmt: skip
        assert keys == set(np.array(truth["spectrum_key"])[is_desi])
        good = target & (rows["ZWARN"] == 0) & (rows["COADD_FIBERSTATUS"] == 0)
        z_true = dict(zip(truth["spectrum_key"], truth["z_true"], strict=True))
        names = [
            f"desi:main-{p}-{t}"
            for p, t in zip(texts(rows["PROGRAM"])[good], rows["TARGETID"][good], strict=True)
        ]
        error = np.abs(rows["Z"][good] - np.array([z_true[name] for name in names]))
        # One in a hundred has a wrong redshift; 3e-4 is a broad line's offset.
        assert np.median(error) < 1e-4
        assert (error < 2e-3).mean() > 0.95


def test_a_pixel_over_a_plate_sees_the_objects_of_the_plate_again(release):
    truth = pq.read_table(release / "truth.parquet").to_pydict()
    again = (np.array(truth["survey"]) == "desi") & np.array(truth["is_repeat"])
    # Odd pixels lie over plates; even ones have objects of their own.
    again &= np.array(truth["healpix"]) % 2 == 1
    assert again.sum() >= 3
    number, z = np.array(truth["object_id"]), np.array(truth["z_true"])
    survey = np.array(truth["survey"])
    for i in np.flatnonzero(again):
        same = (number == number[i]) & (survey == "sdss") & ~np.array(truth["is_repeat"])
        assert same.sum() == 1
        assert z[same][0] == z[i]
    with (
        fits.open(release / "specObj-mock.fits") as sdss,
        fits.open(release / "zall-pix-mock.fits") as desi,
    ):
        mine = desi[1].data
        mine = mine[texts(mine["OBJTYPE"]) == "TGT"]
        a = SkyCoord(mine["TARGET_RA"], mine["TARGET_DEC"], unit="deg")
        b = SkyCoord(sdss[1].data["PLUG_RA"], sdss[1].data["PLUG_DEC"], unit="deg")
        _, distance, _ = a.match_to_catalog_sky(b)
        assert (distance.arcsec < 1).sum() == again.sum()


def test_a_coadd_may_lack_an_arm(tmp_path):
    some = MockSettings(
        n_spectra=20, n_spec_files=0, boss_fraction=0, desi_fraction=1, missing_arm_fraction=1
    )
    write_plate(plan(some)[0], tmp_path, some)
    with fits.open(coadds(tmp_path)[0]) as hdus:
        arms = {name[0] for name in (hdu.name for hdu in hdus) if name.endswith("_FLUX")}
        assert len(arms) == 2
        assert "SCORES" in hdus


def test_specutils_loads_a_coadd_as_desi_s(release):
    specutils = pytest.importorskip("specutils")
    path = coadds(release)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = specutils.SpectrumList.read(path, format="DESI coadd")
    assert len(found) == 3
    with fits.open(path) as hdus:
        for spectrum, arm in zip(found, "BRZ", strict=True):
            np.testing.assert_array_equal(spectrum.flux.value, hdus[f"{arm}_FLUX"].data)
            np.testing.assert_array_equal(spectrum.uncertainty.array, hdus[f"{arm}_IVAR"].data)
            wave = spectrum.spectral_axis.to_value("AA")
            np.testing.assert_allclose(wave, hdus[f"{arm}_WAVELENGTH"].data, rtol=1e-12)


def test_resolution_keeps_all_light_and_has_the_width_of_the_arm():
    for arm in desi_arms(np.random.default_rng(1)):
        band = resolution(arm).astype(float)
        offset = np.arange(-5, 6)[:, None]
        # Beyond 5 pixels lies less than 2e-3 of a Gaussian of 1.6 pixels.
        np.testing.assert_allclose(band.sum(axis=0), 1, atol=2e-3)
        width = np.sqrt((band * offset**2).sum(axis=0) / band.sum(axis=0))
        # A pixel adds a twelfth to the variance.
        np.testing.assert_allclose(width, np.hypot(arm.wdisp, 12**-0.5), rtol=0.02)


def test_a_healpixel_written_alone_has_the_same_bytes(release, tmp_path):
    task = [task for task in plan(SMALL) if task.layout == "healpix"][-1]
    write_plate(task, tmp_path, SMALL)
    again = sorted(tmp_path.rglob("*.fits"))
    assert len(again) == 2
    for path in again:
        assert path.read_bytes() == (release / path.relative_to(tmp_path)).read_bytes()


def test_arms_of_one_fibre_lose_the_same_light():
    """Where two arms see the same wavelengths, an object off its fibre is as faint in both."""
    bright = MockSettings(n_spectra=200, n_spec_files=0, desi_fraction=1, boss_fraction=0, seed=2)
    from spectra_scale.mock.desi_observation import observe_healpix

    seen = observe_healpix(plan(bright)[0], bright)
    ratios = []
    for first, second in ((0, 1), (1, 2)):
        wave = [arm.wave for arm in seen.arms]
        low, high = wave[second][0], wave[first][-1]
        sides = [
            seen.exposures[i].model[:, (wave[i] >= low) & (wave[i] <= high)].mean(axis=1)
            for i in (first, second)
        ]
        good = (sides[0] > 1) & (sides[1] > 1)
        ratios.append(sides[0][good] / sides[1][good])
    # Each arm's own calibration wanders by a per cent or two; losses alone scatter by 5 %.
    assert all(np.std(ratio) < 0.025 for ratio in ratios)
