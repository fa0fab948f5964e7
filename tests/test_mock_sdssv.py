"""SDSS-V files of a mock release, held against formats.md A1 and the survey's data model.

Numbers and names are those that sdss/datamodel gives for specLite and spAll of DR18 and DR19.
Files are opened with astropy. No real file was at hand.
"""

from __future__ import annotations

import re
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from mock_sdssv_builders import (
    RELEASES,
    SUMMARIES,
    hdus_of,
    spectra,
    table,
    texts,
    write_all,
)

PATHS = {
    "dr18": r"v6_0_4/spectra/lite/(?P<f>\d+)p/(?P<m>\d{5})/"
    r"spec-(?P=f)-(?P=m)-(?P<c>\d{11,})\.fits",
    "dr19": r"v6_1_3/spectra/lite/(?P<f>\d{6})/(?P<m>\d{5})/"
    r"spec-(?P=f)-(?P=m)-(?P<c>[1-9]\d*)\.fits",
    "dr20": r"v6_2_1/spectra/daily/lite/(?P<g>\d{3})XXX/(?P<f>(?P=g)\d{3})/(?P<m>\d{5})/"
    r"spec-(?P=f)-(?P=m)-(?P<c>[1-9]\d*)\.fits",
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


@pytest.fixture(scope="module")
def releases(tmp_path_factory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("sdssv"))


@pytest.fixture(params=RELEASES)
def release(request, releases) -> tuple[str, Path]:
    return request.param, releases[request.param]


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
