"""SDSS-V files of a mock release, held against formats.md A1 and the survey's data model.

Numbers and names are those that sdss/datamodel gives for specLite and spAll of DR18 and DR19.
Files are opened with astropy. No real file was at hand.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from functools import lru_cache
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from spectra_scale.cli import app
from spectra_scale.compute.place import open_place
from spectra_scale.config import ComputeSection, MockSection
from spectra_scale.errors import UsageError
from spectra_scale.mock.plan import plan, select
from spectra_scale.mock.plates import is_written, write_plate
from spectra_scale.mock.release import begin, check_folder, finish
from spectra_scale.mock.settings import MockSettings
from spectra_scale.stages import mock as stage

RELEASES = ("dr18", "dr19", "dr20")
ORDINARY = {
    "n_spectra": 100, "n_spec_files": 0, "boss_fraction": 0.25, "sdssv_fraction": 0.5,
    "repeat_fraction": 0.0, "sdssv_repeat_fraction": 0.2, "fibers_legacy": 70, "fibers_boss": 70,
    "fibers_sdssv": 30, "seed": 5,
    "class_fractions": {"star-forming": 0.7, "broad-line": 0.2, "passive": 0.1},
}  # fmt: skip
PATHS = {
    "dr18": r"v6_0_4/spectra/lite/(?P<f>\d+)p/(?P<m>\d{5})/"
    r"spec-(?P=f)-(?P=m)-(?P<c>\d{11,})\.fits",
    "dr19": r"v6_1_3/spectra/lite/(?P<f>\d{6})/(?P<m>\d{5})/"
    r"spec-(?P=f)-(?P=m)-(?P<c>[1-9]\d*)\.fits",
    "dr20": r"v6_2_1/spectra/daily/lite/(?P<g>\d{3})XXX/(?P<f>(?P=g)\d{3})/(?P<m>\d{5})/"
    r"spec-(?P=f)-(?P=m)-(?P<c>[1-9]\d*)\.fits",
}
SUMMARIES = {
    "dr18": "v6_0_4/spAll-v6_0_4.fits",
    "dr19": "v6_1_3/spAll-v6_1_3.fits",
    "dr20": "v6_2_1/summary/daily/spAll-v6_2_1.fits",
}
# NAXIS1 and TFIELDS that the data model prints. Its SPALL of DR19 was printed when SPECOBJID had 8
# bytes; the 30 letters that it says the column has now are 22 more.
ROWS = {
    "dr18": {"COADD": (36, 9), "SPALL": (2192, 145), "ZALL": (935, 50), "ZLINE": (85, 18)},
    "dr19": {"COADD": (36, 9), "SPALL": (2181 + 22, 144), "ZALL": (1002, 56), "ZLINE": (117, 21)},
    "dr20": {"COADD": (36, 9), "SPALL": (2181 + 21, 144), "ZALL": (1002, 56), "ZLINE": (117, 21)},
}
SUMMARY_ROWS = {"dr18": (1747, 125), "dr19": (3466 + 22, 144), "dr20": (3466 + 21, 144)}
COADD = ["FLUX", "LOGLAM", "IVAR", "AND_MASK", "OR_MASK", "WDISP", "SKY"]


def write(folder: Path, settings: MockSettings) -> Path:
    begin(folder, settings)
    tasks = plan(settings)
    for task in tasks:
        write_plate(task, folder, settings)
    finish(folder, tasks, settings)
    return folder


@pytest.fixture(scope="module")
def releases(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sdssv")
    return {
        name: write(folder / name, MockSettings(**ORDINARY, sdssv_release=name))
        for name in RELEASES
    }


@pytest.fixture(params=RELEASES)
def release(request, releases) -> tuple[str, Path]:
    return request.param, releases[request.param]


def spectra(folder: Path) -> list[Path]:
    return sorted(folder.rglob("spec-*.fits"))


@lru_cache(maxsize=512)
def hdus_of(path: Path) -> list[tuple[str, object, fits.Header]]:
    """Name, data and header of every HDU; kept, since astropy takes 50 ms for so many cards."""
    with warnings.catch_warnings():
        # Tables of DR18 have TDIM cards that were meant for another: see below.
        warnings.filterwarnings("ignore", message="Invalid keyword for column")
        with fits.open(path, memmap=False) as hdus:
            return [(hdu.name, hdu.data, hdu.header) for hdu in hdus]


def table(path: Path, name: str):
    return next(data for found, data, _ in hdus_of(path) if found == name)


def texts(column) -> np.ndarray:
    return np.char.strip(np.asarray(column).astype(str))


def truth_of(folder: Path):
    return pq.read_table(folder / "truth.parquet").to_pandas()


# Names and shapes --------------------------------------------------------------------------------


def test_files_lie_where_each_release_has_them(release):
    name, folder = release
    found = spectra(folder)
    assert len(found) == 50
    for path in found:
        match = re.fullmatch(PATHS[name], str(path.relative_to(folder)))
        assert match, path
        assert match["f"].lstrip("0") == str(int(match["f"]))
        assert len(match["c"]) == 11 or match["c"][0] != "0"
    widths = {len(re.fullmatch(PATHS[name], str(p.relative_to(folder)))["f"]) for p in found}
    # Fields of five digits are padded from DR19 on.
    assert widths == ({5, 6} if name == "dr18" else {6})
    assert (folder / SUMMARIES[name]).exists()


def test_a_spec_file_has_the_release_s_hdus_and_columns(release):
    name, folder = release
    for path in spectra(folder)[::12]:
        (primary, *tables) = hdus_of(path)
        assert primary[1] is None
        assert [hdu[0] for hdu in tables] == ["COADD", "SPALL", "ZALL", "ZLINE"]
        assert [len(hdu[1]) for hdu in tables] == [4648, 1, 134, 32]
        for found, data, header in tables:
            assert (header["NAXIS1"], header["TFIELDS"]) == ROWS[name][found]
            assert all(column == column.upper() for column in data.dtype.names)
        last = ["WRESL", "MODEL"] if name == "dr18" else ["MODEL", "WRESL"]
        assert list(tables[0][1].dtype.names) == [*COADD, *last]
        assert {"Z", "CLASS", "SUBCLASS", "ZWARNING"} <= set(tables[1][1].dtype.names)
        assert ("SDSS_ID" in tables[1][1].dtype.names) == (name != "dr18")
        assert ("OBS" in tables[1][1].dtype.names) == (name != "dr18")
        assert path.stat().st_size % 2880 == 0


def test_every_file_but_those_of_idl_is_valid_fits(releases):
    fitsio = pytest.importorskip("fitsio")
    for name in ("dr19", "dr20"):
        for path in (spectra(releases[name])[0], releases[name] / SUMMARIES[name]):
            with fits.open(path) as mine, fitsio.FITS(str(path)) as other:
                mine.verify("exception")
                for number, hdu in enumerate(mine[1:], start=1):
                    found = other[number].read()
                    for column in hdu.columns.names:
                        one, two = np.asarray(hdu.data[column]), found[column]
                        if one.dtype.kind in "US":
                            one, two = texts(one), texts(two)
                        np.testing.assert_array_equal(two, one, err_msg=column)


def test_tables_of_dr18_have_the_tdim_cards_that_were_meant_for_spall(releases):
    path = spectra(releases["dr18"])[0]
    with fits.open(path) as hdus:
        with pytest.warns(fits.verify.VerifyWarning, match="TDIM"):
            lines = hdus["ZLINE"].data
        assert (lines["MJD"] == lines["MJD"][0]).all()
        # Texts of the only row of SPALL have an axis of one.
        assert hdus["SPALL"].data["FIRSTCARTON"].shape == (1, 1)
        assert hdus["SPALL"].data["CLASS"].shape == (1,)


def test_header_keys_are_those_of_the_release(release):
    name, folder = release
    path = spectra(folder)[0]
    match = re.fullmatch(PATHS[name], str(path.relative_to(folder)))
    _, _, header = hdus_of(path)[0]
    assert ("BUNIT" in header) == (name == "dr18")
    assert ("MJDLIST" in header) == (name == "dr18")
    assert ("V_RAD" in header) == (name != "dr18")
    # A text, and no fibre: identity went from the plate to the field.
    assert header["FIELDID"] == match["f"]
    assert "FIBERID" not in header
    assert header["MJD"] == int(match["m"])
    assert header["RUN2D"] == header["VERS2D"] == str(path.relative_to(folder)).split("/")[0]
    assert (header["COEFF0"], header["COEFF1"], header["NWORDER"]) == (3.5523, 1e-4, 2)
    assert header["VACUUM"] is True
    assert header["DC-FLAG"] == 1
    assert header["EXPID01"].startswith("b1-")
    assert "EXPID001" not in header
    # The shape of an image that is not there.
    assert header.get("NAXIS1") == (4648 if name == "dr18" else None)
    assert header["NAXIS"] == 0


def test_units_are_words_that_no_parser_knows(release):
    name, folder = release
    _, _, header = hdus_of(spectra(folder)[0])[1]
    units = {header[f"TTYPE{i}"]: header.get(f"TUNIT{i}") for i in range(1, 10)}
    named = {key: unit for key, unit in units.items() if unit}
    if name == "dr18":
        assert not named
        return
    flux = "10^-17 ergs/s/cm^2/Angs"
    assert named == {
        "FLUX": flux, "LOGLAM": "log10(Angs)", "WDISP": "Pixels", "SKY": flux, "WRESL": "Angs",
    }  # fmt: skip
    with pytest.raises(ValueError, match="not supported"):
        u.Unit(flux, format="fits")


def test_texts_end_in_blanks_where_idl_wrote_them_and_in_nuls_where_python_did(release):
    name, folder = release
    path = next(p for p in spectra(folder) if table(p, "SPALL")["OBJTYPE"][0].strip() == "QSO")
    # OBJTYPE has 16 letters.
    assert b"QSO" + 13 * (b" " if name == "dr18" else b"\0") in path.read_bytes()


# Spectra -----------------------------------------------------------------------------------------


def test_pixels_are_the_whole_grid_and_empty_ones_have_no_ivar(release):
    _, folder = release
    for path in spectra(folder)[::15]:
        coadd = table(path, "COADD")
        pixel = np.rint(coadd["LOGLAM"].astype(np.float64) / 1e-4).astype(int)
        np.testing.assert_array_equal(pixel, 35_523 + np.arange(4648))
        # float32 is off the grid by at most half of its spacing at 4.
        assert np.abs(coadd["LOGLAM"] - 1e-4 * pixel).max() < 2.4e-7
        good = coadd["IVAR"] > 0
        assert (coadd["IVAR"] >= 0).all()
        assert 1500 < good.sum() < 4648
        ends = np.flatnonzero(good)[[0, -1]]
        beyond = np.r_[coadd["FLUX"][: ends[0]], coadd["FLUX"][ends[1] + 1 :]]
        assert len(beyond) > 0
        assert (beyond == 0).all()
        assert np.isfinite(coadd["FLUX"]).all()
        wave = 10.0 ** coadd["LOGLAM"].astype(np.float64)
        # σ in pixels of 1e-4 dex, and in Å.
        expected = coadd["WDISP"] * wave * np.log(10) * 1e-4
        np.testing.assert_allclose(coadd["WRESL"], expected, rtol=1e-5)


def test_the_best_candidate_is_spall_s_redshift(release):
    _, folder = release
    classes = set()
    for path in spectra(folder):
        spall, zall = table(path, "SPALL")[0], table(path, "ZALL")
        assert zall["Z"][0] == spall["Z"]
        assert zall["Z_ERR"][0] == spall["Z_ERR"]
        assert zall["ZWARNING"][0] == spall["ZWARNING"]
        kind = texts(zall["CLASS"])
        assert kind[0] == spall["CLASS"].strip()
        assert texts(zall["SUBCLASS"])[0] == spall["SUBCLASS"].strip()
        assert (np.diff(zall["RCHI2"]) >= 0).all()
        assert {name: int((kind == name).sum()) for name in ("GALAXY", "QSO", "STAR")} == {
            "GALAXY": 5, "QSO": 5, "STAR": 124,
        }  # fmt: skip
        first = int(np.flatnonzero(kind != "QSO")[0])
        assert spall["ZNUM_NOQSO"] == first + 1
        assert spall["Z_NOQSO"] == zall["Z"][first]
        assert spall["CLASS_NOQSO"].strip() == kind[first]
        classes.add(kind[0])
    assert {"GALAXY", "QSO"} <= classes


def test_equivalent_widths_are_of_the_observed_frame(releases):
    """Strong Hα lines, summed over the pixels: against LINEEW the ratio is 1, not 1 + z."""
    ratios, stretches = [], []
    for path in spectra(releases["dr19"]):
        coadd, lines = table(path, "COADD"), table(path, "ZLINE")
        line = lines[texts(lines["LINENAME"]) == "H_alpha"][0]
        if not (line["LINEAREA"] > 40 * line["LINEAREA_ERR"] > 0 and line["LINEEW"] > 25):
            continue
        wave = 10.0 ** coadd["LOGLAM"].astype(np.float64)
        centre = line["LINEWAVE"] * (1 + line["LINEZ"])
        width = line["LINESIGMA"] / 2.998e5 * centre
        near = np.abs(wave - centre) < 2.0 * width
        if (coadd["IVAR"][near] == 0).any():
            continue
        level = line["LINECONTLEVEL"]
        step = wave * np.log(10) * 1e-4
        summed = ((coadd["FLUX"] - level) * step)[near].sum() / level
        ratios.append(summed / line["LINEEW"])
        stretches.append(1 + line["LINEZ"])
        assert line["LINEEW"] == pytest.approx(line["LINEAREA"] / level, rel=1e-4)
    assert len(ratios) >= 5
    # 2 sigma of a Gaussian hold 95 %; [N II] beside the line adds to it, noise and blends scatter.
    assert np.median(stretches) > 1.1
    assert 0.9 < np.median(ratios) < 1.09


# Numbers -----------------------------------------------------------------------------------------


def test_numbers_of_spectra_are_packed_in_dr18_and_spelled_later(releases):
    for name, folder in releases.items():
        paths = spectra(folder)
        rows = [table(path, "SPALL")[0] for path in paths]
        header = hdus_of(paths[0])[2][2]
        place = next(i for i in range(1, 150) if header[f"TTYPE{i}"] == "SPECOBJID")
        if name == "dr18":
            assert (header[f"TFORM{place}"], header[f"TZERO{place}"]) == ("K", 2**63)
            for row, path in zip(rows, paths, strict=True):
                field = int(path.name.split("-")[1])
                value = int(row["SPECOBJID"])
                assert value >> 50 == field % 2**14
                assert (value >> 38) & (2**12 - 1) == row["FIBERID"]
                assert (value >> 24) & (2**14 - 1) == row["MJD"] - 50_000
                assert (value >> 10) & (2**14 - 1) == 10_004
            continue
        assert header[f"TFORM{place}"] == ("30A" if name == "dr19" else "29A")
        run2d = {"dr19": "060103", "dr20": "060201"}[name]
        for row in rows:
            expected = f"{row['SDSS_ID']}{row['FIELD']:07d}{row['MJD']}00{run2d}"
            assert row["SPECOBJID"].strip() == (expected if row["SDSS_ID"] > 0 else "")
        assert any(row["SDSS_ID"] == -999 for row in rows)


def test_a_name_says_what_the_file_is_of(release):
    name, folder = release
    ids, sdss = [], []
    for path in spectra(folder):
        field, mjd, catalog = path.stem.split("-")[1:]
        spall, zall, zline = (table(path, hdu) for hdu in ("SPALL", "ZALL", "ZLINE"))
        assert (spall["CATALOGID"][0], spall["MJD"][0]) == (int(catalog), int(mjd))
        for data in (zall, zline):
            assert (data["FIELD"] == int(field)).all()
            assert (data["MJD"] == int(mjd)).all()
        if name == "dr18":
            # FIELD of a plate's map is that of the images that the target was chosen from.
            assert spall["FIELD"][0] != int(field)
        else:
            assert spall["FIELD"][0] == int(field)
            assert spall["SPEC_FILE"][0].strip() == path.name
            assert (zline["CATALOGID"] == int(catalog)).all()
            sdss.append(int(spall["SDSS_ID"][0]))
        ids.append(int(catalog))
    assert len(set(ids)) == len(ids)
    assert min(ids) > 2**31
    # Of 17 digits: a float of 64 bits cannot tell them apart.
    assert sum(i > 2**53 for i in ids) > 20
    assert sum(i < 10**11 for i in ids) > 10
    known = [i for i in sdss if i > 0]
    assert len(set(known)) == len(known)


def test_spall_has_one_row_for_each_file(release):
    name, folder = release
    hdus = hdus_of(folder / SUMMARIES[name])
    assert [hdu[0] for hdu in hdus] == ["PRIMARY", "" if name == "dr18" else "SPALL"]
    rows, header = hdus[1][1], hdus[1][2]
    assert (header["NAXIS1"], header["TFIELDS"]) == SUMMARY_ROWS[name]
    found = {(int(r["FIELD"]), int(r["MJD"]), int(r["CATALOGID"])): r for r in rows}
    assert len(found) == len(rows) == 50
    for path in spectra(folder):
        row = found[tuple(int(part) for part in path.stem.split("-")[1:])]
        spall = table(path, "SPALL")[0]
        for column in ("Z", "Z_ERR", "ZWARNING", "CLASS", "SN_MEDIAN_ALL", "PLUG_RA", "SPECOBJID"):
            assert row[column] == spall[column]
        assert row["SPECPRIMARY"] == 1


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
    for key in list(by_key[0])[::2]:
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
