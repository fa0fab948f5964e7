"""Catalogues of SDSS-V and DESI, and rows of any catalogue that cannot be used: formats.md A3, A5.

Column names and types are those of the surveys' public data models; no real file was seen.
"""

import math

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from desi_builders import FIRST_TARGET, table
from surveys_builders import legacy_row, table_hdu

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys import sdssv
from spectra_scale.surveys.canonical import UNKNOWN, UnusableColumnError, canonical_rows, table_of
from spectra_scale.surveys.catalogue import (
    CATALOGUE_COLUMNS,
    CATALOGUE_SCHEMA,
    WANTED,
    bad_rows,
    catalogue_blocks,
    is_catalogue,
    origin_of,
    read_catalogue,
)
from spectra_scale.surveys.catalogue_columns import SDSSV_MAP
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.tables import open_source

N = 6
# zall-pix v1: formats.md A5 (types of the data model).
ZALL = {
    "TARGETID": FIRST_TARGET + 2 * np.arange(N),
    "SURVEY": np.array(["main", "main   ", "sv1", "sv3", "special", "main"]),
    "PROGRAM": np.array(["dark", "bright", "dark", "other", "backup", "dark"]),
    "HEALPIX": np.arange(9144, 9144 + N, dtype="i4"),
    "SPGRPVAL": np.arange(9144, 9144 + N, dtype="i4"),
    "Z": np.array([0.1, 0.2, 0.3, 1.5, -0.0001, 0.12345678901]),
    "ZERR": np.full(N, 1e-5),
    "ZWARN": np.array([0, 4, 0, 0, 0, 0], "i8"),
    "SPECTYPE": np.array(["GALAXY", "GALAXY", "QSO", "QSO", "STAR", "GALAXY"]),
    "SUBTYPE": np.array(["", "", "LOZ", "HIZ", "K", ""]),
    "COADD_FIBERSTATUS": np.array([0, 0, 8, 0, 0, 0], "i4"),
    "TARGET_RA": np.linspace(10, 11, N),
    "TARGET_DEC": np.linspace(-1, 1, N),
    "OBJTYPE": np.array(["TGT", "TGT", "TGT", "SKY", "", "BAD"]),
    "EBV": np.full(N, 0.03, "f4"),
    "MEAN_MJD": np.array([59311.9, 59312.0, np.nan, -1, 59400.5, 60000]),
    "SV_PRIMARY": np.array([False, False, True, False, False, False]),
    "MAIN_PRIMARY": np.array([True, False, False, False, False, False]),
    "ZCAT_PRIMARY": np.array([True, False, True, True, True, False]),
}
V2_NAMES = {
    "Z": "Z_BEST", "ZERR": "ZERR_BEST", "ZWARN": "ZWARN_BEST", "SPECTYPE": "SPECTYPE_BEST",
    "SUBTYPE": "SUBTYPE_BEST",
}  # fmt: skip
# Columns of v2 that are in the -imaging and -extra files, not in the core file.
MOVED = ("EBV", "SPGRPVAL", "HEALPIX")


def zall(*without, **changes):
    columns = {name: values for name, values in ZALL.items() if name not in without}
    return columns | changes


def write(path, columns, header=None, primary=None):
    hdu = table(columns, "ZCATALOG")
    hdu.header.update(header or {})
    first = fits.PrimaryHDU()
    first.header.update(primary or {})
    fits.HDUList([first, hdu]).writeto(path, overwrite=True)
    return path


# DESI ------------------------------------------------------------------------------------------


def test_a_zall_of_desi_is_read_with_its_ids_to_the_last_digit(tmp_path):
    found = read_catalogue(write(tmp_path / "zall-pix-iron.fits", ZALL))
    assert found.schema == CATALOGUE_SCHEMA
    ids = ZALL["TARGETID"].tolist()
    assert found["targetid"].to_pylist() == ids
    assert found["spectrum_key"].to_pylist()[:2] == [
        f"desi:main-dark-{ids[0]}", f"desi:main-bright-{ids[1]}"
    ]  # fmt: skip
    assert found["survey"].to_pylist() == ["main", "main", "sv1", "sv3", "special", "main"]
    assert found["z"].to_pylist() == ZALL["Z"].tolist()
    assert found["zwarning"].to_pylist() == [0, 4, 0, 0, 0, 0]
    assert found["class"].to_pylist() == ZALL["SPECTYPE"].tolist()
    assert found["subclass"][2].as_py() == "LOZ"
    assert found["targettype"].to_pylist() == [
        "SCIENCE", "SCIENCE", "SCIENCE", "SKY", "UNASSIGNED", "BAD"
    ]  # fmt: skip
    assert found["mjd"].to_pylist() == [59311, 59312, -1, -1, 59400, 60000]
    assert found["specprimary"].to_pylist() == [1, 0, 1, 1, 1, 0]
    assert found["healpix"].to_pylist() == list(range(9144, 9144 + N))
    assert found["fiberstatus"].to_pylist() == [0, 0, 8, 0, 0, 0]
    assert set(found["instrument"].to_pylist()) == {"DESI"}
    assert set(found["reduction"].to_pylist()) == {"iron"}
    for name in ("plate", "fiber", "field", "catalogid", "sdss_id"):
        assert set(found[name].to_pylist()) == {-1}


def test_version_2_of_a_zcatalog_is_read_by_its_own_names(tmp_path):
    columns = {V2_NAMES.get(name, name): values for name, values in zall(*MOVED).items()}
    # UNIQPIX of nside 64 is the pixel and 4 · 64²; of another nside it is no healpixel here.
    columns["UNIQPIX"] = np.array([16384, 16384 + 9145, 65535, 16383, 65536, -1], "i4")
    columns["FIBER"] = np.arange(N, dtype="i4")
    found = read_catalogue(write(tmp_path / "zall-pix-loa.fits", columns))
    first = read_catalogue(write(tmp_path / "zall-pix-loa2.fits", ZALL))
    changed = {"ebv", "healpix", "fiber", "reduction"}
    for name in set(CATALOGUE_SCHEMA.names) - changed - {"sn_median_all", "z_noqso"}:
        assert found[name].to_pylist() == first[name].to_pylist(), name
    assert found["healpix"].to_pylist() == [0, 9145, 49151, -1, -1, -1]
    assert found["fiber"].to_pylist() == list(range(N))
    assert all(math.isnan(value) for value in found["ebv"].to_pylist())
    assert set(found["reduction"].to_pylist()) == {"loa"}


def test_of_both_redshifts_of_a_joined_version_2_the_recommended_one_is_taken(tmp_path):
    best = {V2_NAMES[name]: ZALL[name] for name in V2_NAMES}
    best["Z_BEST"] = ZALL["Z"] + 1
    found = read_catalogue(write(tmp_path / "joined.fits", ZALL | best))
    assert found["z"].to_pylist() == (ZALL["Z"] + 1).tolist()


def test_without_a_primary_of_the_whole_catalogue_that_of_each_survey_counts(tmp_path):
    found = read_catalogue(write(tmp_path / "zall-pix-fuji.fits", zall("ZCAT_PRIMARY")))
    assert found["specprimary"].to_pylist() == [1, 0, 1, 0, -1, 0]
    found = read_catalogue(write(tmp_path / "x.fits", zall("ZCAT_PRIMARY", "MAIN_PRIMARY")))
    # SV_PRIMARY says nothing of the main survey.
    assert found["specprimary"].to_pylist() == [-1, -1, 1, 0, -1, -1]


@pytest.mark.parametrize("place", ["header", "primary header", "name"])
def test_a_zpix_without_survey_and_program_says_them_elsewhere(tmp_path, place):
    cards = {"SURVEY": "sv3", "PROGRAM": "bright"}
    name = "zpix-sv3-bright.fits" if place == "name" else "zpix.fits"
    path = write(
        tmp_path / name,
        zall("SURVEY", "PROGRAM"),
        header=cards if place == "header" else None,
        primary=cards if place == "primary header" else None,
    )
    keys = read_catalogue(path)["spectrum_key"].to_pylist()
    assert keys[0] == f"desi:sv3-bright-{FIRST_TARGET}"


def test_a_target_without_a_survey_is_no_name(tmp_path):
    path = write(tmp_path / "x.fits", zall("SURVEY", "PROGRAM"))
    with pytest.raises(SpectraScaleError, match="zpix-SURVEY-PROGRAM"):
        read_catalogue(path)
    survey = ZALL["SURVEY"].copy()
    survey[2] = ""
    (block,) = catalogue_blocks(write(tmp_path / "y.fits", zall(SURVEY=survey)))
    assert [lost.row for lost in block.lost] == [2]
    assert block.rows.tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "header", "first"),
    [
        ("ztile-main-dark-cumulative.fits", {}, "cumulative-80613"),
        ("zall-tilecumulative-iron.fits", {}, "cumulative-80613"),
        ("ztile-main-dark-pernight.fits", {}, "pernight-80613.20210324"),
        ("x.fits", {"SPGRP": "perexp"}, "perexp-80613.20210324"),
    ],
)
def test_a_catalogue_of_tiles_names_spectra_as_their_coadds_do(tmp_path, name, header, first):
    columns = zall("HEALPIX", TILEID=np.full(N, 80613, "i4"), SPGRPVAL=np.full(N, 20210324, "i4"))
    found = read_catalogue(write(tmp_path / name, columns, header=header))
    assert found["spectrum_key"][0].as_py() == f"desi:{first}-{FIRST_TARGET}"
    assert set(found["healpix"].to_pylist()) == {-1}


def test_tiles_that_are_grouped_in_an_unknown_way_are_refused(tmp_path):
    columns = zall("HEALPIX", TILEID=np.full(N, 80613, "i4"))
    with pytest.raises(SpectraScaleError, match="SPGRP"):
        read_catalogue(write(tmp_path / "x.fits", columns))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_ids_are_exact_where_others_are_null(tmp_path, suffix):
    ids = [int(value) for value in ZALL["TARGETID"]]
    ids[3] = None
    arrow = pa.table(
        {name: values.tolist() for name, values in zall().items()} | {"TARGETID": ids}
    )
    path = tmp_path / f"zall-pix-iron{suffix}"
    if suffix == ".csv":
        pa_csv.write_csv(arrow, path)
    else:
        pq.write_table(arrow, path)
    (block,) = catalogue_blocks(path)
    assert block.table["targetid"].to_pylist() == [value for value in ids if value is not None]
    assert [(lost.row, lost.reason) for lost in block.lost] == [(3, Reason.BAD_IDENTITY)]
    assert "TARGETID is missing" in block.lost[0].message
    assert block.table["specprimary"].to_pylist() == [1, 0, 1, 1, 0]
    with pytest.raises(SpectraScaleError, match="TARGETID"):
        read_catalogue(path)


def test_an_id_that_went_through_a_float_is_not_trusted(tmp_path):
    arrow = pa.table(
        {name: values.tolist() for name, values in zall().items()}
        | {"TARGETID": ZALL["TARGETID"].astype("f8")}
    )
    pq.write_table(arrow, tmp_path / "x.parquet")
    (block,) = catalogue_blocks(tmp_path / "x.parquet")
    assert len(block.lost) == N
    assert block.table.num_rows == 0


def test_a_table_of_targets_without_positions_is_no_catalogue(tmp_path):
    # METADATA of FastSpecFit has RA and DEC.
    columns = zall("TARGET_RA", "TARGET_DEC", RA=ZALL["TARGET_RA"], DEC=ZALL["TARGET_DEC"])
    source = open_source(write(tmp_path / "fastspec-iron.fits", columns), WANTED)
    assert not is_catalogue(source)
    with pytest.raises(SpectraScaleError, match="TARGET_RA"):
        read_catalogue(source.path)


# SDSS-V ----------------------------------------------------------------------------------------

# spAll of DR19 (v6_1_3).
SPALL = {
    "FIELD": np.array([15143, 112359, 16000], "i8"),
    "MJD": np.array([59205, 60086, 59300], "i8"),
    "CATALOGID": np.array([4375786564, 27021598150201532, 63050394783147556], "i8"),
    "SDSS_ID": np.array([54392544, 114905251, -999], "i8"),
    "SPECOBJID": np.array(["15143", "112359060086", ""]),
    "RUN2D": np.array(["v6_1_3"] * 3),
    "SURVEY": np.array(["BHM-MWM", "mwm-bhm", "bhm"]),
    "PROGRAMNAME": np.array(["bhm_spiders", "FPS", "AQMES"]),
    "OBJTYPE": np.array(["QSO", "sky_boss", "SPECTROPHOTO_STD"]),
    "PLUG_RA": np.array([135.1, 20.0, 30.0]),
    "PLUG_DEC": np.array([2.1, -3.0, 4.0]),
    "RACAT": np.array([135.2, 20.1, 30.1]),
    "DECCAT": np.array([2.2, -3.1, 4.1]),
    "EBV": np.array([0.03, 0.04, 0.05], "f4"),
    "EBV_TYPE": np.array(["SFD", "edenhofer2023", ""]),
    "HEALPIX": np.array([1, 2, 3], "i8"),  # of nside 128
    "FIELDQUALITY": np.array(["good", "bad", "GOOD"]),
    "SN_MEDIAN_ALL": np.array([5, 6, 7], "f4"),
    "SPECPRIMARY": np.array([1, 0, 1], "i8"),
    "CLASS": np.array(["QSO", "GALAXY", "STAR"]),
    "SUBCLASS": np.array(["BROADLINE", "", "F5"]),
    "Z": np.array([0.5, 0.2, 0.0], "f4"),
    "Z_ERR": np.array([1e-4, 1e-4, 1e-5], "f4"),
    "ZWARNING": np.array([0, 4, 0], "i8"),
    "Z_NOQSO": np.array([0.0, 0.21, 0.0], "f4"),
    "ZWARNING_NOQSO": np.array([0, 4, 0], "i8"),
    "CLASS_NOQSO": np.array(["", "GALAXY", ""]),
}
# spAll of DR18 (v6_0_4): plates, with PLATE and FIBERID besides.
DR18 = {name: values for name, values in SPALL.items() if name not in {
    "SDSS_ID", "RACAT", "DECCAT", "EBV", "EBV_TYPE", "FIELDQUALITY"}} | {
    "PLATE": np.array([15143, 0, 16000], "i2"),
    "FIBERID": np.array([1, 2, 3], "i4"),
    "SFD_EBV": np.array([0.01, 0.02, 0.03], "f4"),
    "PLATEQUALITY": np.array(["good", "bad", "good"]),
    "SPECPRIMARY": np.array([True, False, True]),
    "SPECOBJID": np.array([123456789012345678, -1, 0], "i8"),
}  # fmt: skip


def write_spall(path, columns):
    fits.HDUList([fits.PrimaryHDU(), table(columns, "SPALL")]).writeto(path, overwrite=True)
    return path


def test_an_spall_of_sdssv_is_read_by_field_mjd_and_catalogid(tmp_path):
    found = read_catalogue(write_spall(tmp_path / "spAll-v6_1_3.fits", SPALL)).to_pylist()
    first = found[0]
    assert first["spectrum_key"] == "sdssv:15143-59205-4375786564"
    assert [row["catalogid"] for row in found] == SPALL["CATALOGID"].tolist()
    assert [row["sdss_id"] for row in found] == [54392544, 114905251, -1]
    assert {row["survey"] for row in found} == {"sdssv"}
    assert {row["instrument"] for row in found} == {"BOSS"}
    assert {(row["plate"], row["fiber"], row["healpix"]) for row in found} == {(-1, -1, -1)}
    assert {row["program"] for row in found} == {""}
    assert [row["specobjid"] for row in found] == ["15143", "112359060086", ""]
    assert (first["ra"], first["dec"]) == (135.1, 2.1)
    # Another map than that of Schlegel et al. 1998 is another quantity.
    assert [math.isnan(row["ebv"]) for row in found] == [False, True, False]
    assert [row["targettype"] for row in found] == ["SCIENCE", "SKY", "STANDARD"]
    assert [row["platequality"] for row in found] == ["good", "bad", "good"]
    assert [row["specprimary"] for row in found] == [1, 0, 1]
    assert found[1]["z_noqso"] == pytest.approx(0.21)
    assert math.isnan(first["z_noqso"])
    assert first["reduction"] == "v6_1_3"


def test_an_spall_of_dr18_is_one_of_sdssv_although_it_has_plates_and_fibres(tmp_path):
    path = write_spall(tmp_path / "spAll-v6_0_4.fits", DR18)
    assert origin_of(open_source(path, WANTED)) is SDSSV_MAP
    found = read_catalogue(path).to_pylist()
    assert found[0]["spectrum_key"] == "sdssv:15143-59205-4375786564"
    assert [row["specprimary"] for row in found] == [1, 0, 1]
    assert found[0]["ebv"] == pytest.approx(0.01)
    assert found[0]["specobjid"] == "123456789012345678"
    assert found[2]["specobjid"] == ""
    assert [row["platequality"] for row in found] == ["good", "bad", "good"]


@pytest.mark.parametrize("columns", [SPALL, DR18], ids=["DR19", "DR18"])
def test_one_row_and_many_rows_of_sdssv_are_made_canonical_alike(tmp_path, columns):
    found = read_catalogue(write_spall(tmp_path / "spAll.fits", columns)).to_pylist()
    for number, row in enumerate(found):
        one = {name: values[number : number + 1] for name, values in columns.items()}
        path = write_spall(tmp_path / "one.fits", one)
        single = sdssv.row_of(open_source(path, WANTED).holder, b"")
        for column in CATALOGUE_COLUMNS:
            a, b = single[column.name], row[column.name]
            if column.dtype == "float32":
                assert np.array_equal(np.float32(a), np.float32(b), equal_nan=True), column.name
            else:
                assert a == b, column.name


def test_a_catalogid_that_is_null_is_no_name(tmp_path):
    ids = SPALL["CATALOGID"].copy()
    ids[1] = -999
    (block,) = catalogue_blocks(write_spall(tmp_path / "x.fits", SPALL | {"CATALOGID": ids}))
    assert [lost.row for lost in block.lost] == [1]
    assert "CATALOGID is -999" in block.lost[0].message
    assert block.table["field"].to_pylist() == [15143, 16000]


# Rows that cannot be used ------------------------------------------------------------------------


def many(n_rows, **changes):
    row = legacy_row(SN_MEDIAN=None)
    columns = {name: np.repeat(np.array([value]), n_rows) for name, value in row.items()}
    columns["FIBERID"] = np.arange(n_rows, dtype="i4")
    return columns | changes


def test_a_bad_row_does_not_stop_a_catalogue(tmp_path):
    n_rows = 70_000  # more than one block
    plate = np.full(n_rows, 266, "i4")
    plate[[3, 69_999]] = -1
    z = np.full(n_rows, 0.1, "f4")
    z[[0, 5, 66_000]] = np.nan, -1, np.inf
    path = tmp_path / "many.fits"
    hdu = table_hdu(many(n_rows, PLATE=plate, Z=z))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    blocks = list(catalogue_blocks(path))
    assert len(blocks) > 1
    lost = [each for block in blocks for each in block.lost]
    assert [each.row for each in lost] == [3, 69_999]
    assert {each.reason for each in lost} == {Reason.BAD_IDENTITY}
    rows = np.concatenate([block.rows for block in blocks])
    # Each row is a row of the table or is lost, and none is both.
    assert sorted([*rows.tolist(), *(each.row for each in lost)]) == list(range(n_rows))
    found = pa.concat_tables([block.table for block in blocks])
    np.testing.assert_array_equal(found["fiber"], rows)
    bad = bad_rows(found)
    assert [rows[row] for row, _, _ in bad] == [0, 5, 66_000]
    assert {reason for _, reason, _ in bad} == {Reason.BAD_REDSHIFT}
    assert "nan" in bad[0][2]
    with pytest.raises(SpectraScaleError, match="row 3: PLATE is -1"):
        read_catalogue(path)


@pytest.mark.parametrize("plate", [[266.5, 266.0], [np.nan, 266.0], [-1.0, 266.0], [1e30, 266.0]])
def test_a_row_without_a_plate_is_lost_and_the_next_is_read(tmp_path, plate):
    columns = many(2, PLATE=np.array(plate))
    path = tmp_path / "x.fits"
    fits.HDUList([fits.PrimaryHDU(), table_hdu(columns)]).writeto(path)
    (block,) = catalogue_blocks(path)
    assert block.table["spectrum_key"].to_pylist() == ["sdss:266-51602-1"]
    assert [each.row for each in block.lost] == [0]


def test_a_zwarning_that_cannot_be_read_is_not_good(tmp_path):
    columns = many(2, ZWARNING=np.array([np.nan, 0.0]), SPECPRIMARY=np.array([np.nan, 1.0]))
    path = tmp_path / "x.fits"
    fits.HDUList([fits.PrimaryHDU(), table_hdu(columns)]).writeto(path)
    found = read_catalogue(path)
    assert found["zwarning"].to_pylist() == [-1, 0]
    assert found["specprimary"].to_pylist() == [-1, 1]


def columns_of_sdss(**changes):
    columns = {"plate": [1], "mjd": [2], "fiber": [3], "z": [0.1], "ra": [0.0], "dec": [0.0],
               "zwarning": [0], "class": ["GALAXY"]}  # fmt: skip
    return {name: np.array(values) for name, values in (columns | changes).items()}


def test_what_a_source_does_not_say_is_unknown():
    (row,) = table_of(columns_of_sdss()).to_pylist()
    for name, value in UNKNOWN.items():
        assert row[name] == value or (math.isnan(value) and math.isnan(row[name])), name
    with pytest.raises(UnusableColumnError, match="PLATE"):
        table_of(columns_of_sdss(plate=[-1]))


@pytest.mark.parametrize(
    ("text", "number"),
    [("266", 266), ("0266", 266), (" 266 ", 266), ("266.0", 266), ("2.66E+2", 266), ("x", None),
     ("266.5", None), ("", None), ("9" * 30, None)],
)  # fmt: skip
def test_numbers_written_as_text_are_read(text, number):
    columns = {name: np.repeat(values, 2) for name, values in columns_of_sdss().items()}
    made = canonical_rows(columns | {"plate": np.array([text, "7"])}, "sdss")
    assert made.table["plate"].to_pylist() == ([number, 7] if number else [7])
    assert [row for row, _ in made.lost] == ([] if number else [0])


@pytest.mark.parametrize(
    "values",
    [np.array([True, False]), np.array([b"T", b"F"]), np.array(["true", "false"]),
     np.array(["t", "f"]), np.array([1.0, 0.0]), np.array([1, 0], "u1")],
    ids=["bool", "FITS", "CSV", "SQL", "float", "byte"],
)  # fmt: skip
def test_yes_and_no_are_read_whatever_they_are_written_as(values):
    columns = {name: np.repeat(each, 2) for name, each in columns_of_sdss().items()}
    columns["fiber"] = np.array([1, 2])
    made = canonical_rows(columns | {"specprimary": values}, "sdss")
    assert made.table["specprimary"].to_pylist() == [1, 0]
