"""SDSS-V spectrum files, written here from formats.md A1 and from sdss/datamodel's specLite."""

import math

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from surveys_builders import (
    FIRST_PIXEL,
    SDSSV_NAMES,
    coadd_columns,
    legacy_row,
    row_hdu,
    sdssv_hdus,
    sdssv_row,
    write_spec,
)

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys import sdss_spec, sdssv
from spectra_scale.surveys.canonical import CATALOGUE_SCHEMA
from spectra_scale.surveys.catalogue import read_catalogue
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss_spec import FILE_NAME, read_spec, read_spec_block

RELEASES = ("DR18", "DR19", "DR20")


def write(folder, release="DR19", name=None, **parts):
    path = folder / (name or SDSSV_NAMES[release])
    sdssv_hdus(release, **parts).writeto(path, overwrite=True)
    return path


def reason_of(path):
    with pytest.raises(BadSpectrumError) as caught:
        read_spec(path)
    return caught.value.reason


@pytest.mark.parametrize("release", RELEASES)
def test_pixels_of_each_release_are_those_that_astropy_reads(tmp_path, release, monkeypatch):
    monkeypatch.setattr(sdss_spec, "_slow_tables", lambda *_: pytest.fail("astropy was asked"))
    path = write(tmp_path, release)
    found = read_spec(path).arrays
    with fits.open(path) as hdus:
        for name, array in (("FLUX", found.flux), ("IVAR", found.ivar)):
            assert array.tobytes() == hdus["COADD"].data[name].astype("f4").tobytes()
        assert (found.mask_bits == hdus["COADD"].data["AND_MASK"].astype("u4")).all()
    assert found.first_pixel == FIRST_PIXEL


@pytest.mark.parametrize("release", RELEASES)
def test_a_row_is_named_by_field_mjd_and_catalogid(tmp_path, release):
    row = read_spec(write(tmp_path, release)).row
    assert list(row) == CATALOGUE_SCHEMA.names
    expected = {
        "DR18": ("sdssv:15143-59205-4544940698", 15143, 59205, 4544940698, -1, "v6_0_4"),
        "DR19": ("sdssv:112360-60000-27021598150202075", 112360, 60000, 27021598150202075,
                 58339379, "v6_1_3"),
        "DR20": ("sdssv:112360-60000-27021598150202075", 112360, 60000, 27021598150202075,
                 58339379, "v6_2_1"),
    }[release]  # fmt: skip
    names = ("spectrum_key", "field", "mjd", "catalogid", "sdss_id", "reduction")
    assert tuple(row[name] for name in names) == expected
    assert (row["survey"], row["instrument"], row["plate"], row["fiber"]) == (
        "sdssv", "BOSS", -1, -1,
    )  # fmt: skip


def test_the_row_holds_what_the_columns_of_the_release_hold(tmp_path):
    row = read_spec(write(tmp_path)).row
    assert (row["ra"], row["dec"]) == (148.965814255, 1.51883669717)
    assert (row["class"], row["subclass"], row["zwarning"]) == ("GALAXY", "BROADLINE", 4)
    assert (row["z"], row["z_noqso"]) == (0.25, float(np.float32(0.26)))
    assert (row["platequality"], row["specprimary"], row["targettype"]) == ("good", 1, "SCIENCE")
    # An id of 23 digits is text: no integer of 64 bits holds it.
    assert row["specobjid"] == "11236060000270215981502"
    assert row["ebv"] == float(np.float32(0.03))
    old = read_spec(write(tmp_path, "DR18")).row
    assert (old["ra"], old["ebv"]) == (148.965814255, float(np.float32(0.05)))
    # DR18 says neither which spectrum is the best nor how good the field is.
    assert (old["platequality"], old["specprimary"]) == ("", -1)
    assert old["specobjid"] == str(2**64 - 5)


@pytest.mark.parametrize("release", RELEASES)
def test_a_catalogue_of_the_same_rows_says_the_same(tmp_path, release):
    header = sdssv_hdus(release)
    row = sdssv_row(release, FIELD=np.int64(header[0].header["FIELDID"]))
    found = read_spec(write(tmp_path, release, row=row)).row
    path = tmp_path / "spAll.fits"
    fits.HDUList([fits.PrimaryHDU(), row_hdu(row)]).writeto(path)
    table = read_catalogue(path)
    # The catalogue has the precision of its columns: z_err, ebv and others are float32.
    same = pa.Table.from_pylist([found], schema=table.schema)
    assert repr(same.to_pylist()) == repr(table.to_pylist())


def test_reddening_of_another_map_than_that_of_schlegel_is_not_taken_for_it(tmp_path):
    path = write(tmp_path, row=sdssv_row(EBV_TYPE="bayestar15"))
    assert math.isnan(read_spec(path).row["ebv"])


@pytest.mark.parametrize(
    ("objtype", "expected"),
    [("SKY", "SKY"), ("sky_boss", "SKY"), ("standard_boss", "STANDARD"),
     ("SPECTROPHOTO_STD", "STANDARD"), ("science", "SCIENCE"), ("QSO", "SCIENCE")],
)  # fmt: skip
def test_what_a_fibre_points_at_has_one_name_in_all_releases(tmp_path, objtype, expected):
    path = write(tmp_path, row=sdssv_row(OBJTYPE=objtype))
    assert read_spec(path).row["targettype"] == expected


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("named", [True, False])
def test_lines_are_those_of_zline_and_never_of_zall(tmp_path, release, named):
    path = write(tmp_path, release, named=named)
    lines = read_spec(path, want_lines=True).lines
    assert (lines["halpha_flux"], lines["source"]) == (40, "spzline")
    # LINEEW is in the observed frame.
    assert lines["halpha_ew"] == pytest.approx(20 * 1.0212 / 1.25, rel=1e-6)
    assert read_spec_block(path, [0]).lines[0] == lines


def test_a_file_without_zline_has_no_lines(tmp_path):
    hdus = sdssv_hdus()
    path = tmp_path / SDSSV_NAMES["DR19"]
    hdus[:4].writeto(path)
    assert read_spec(path, want_lines=True).lines is None


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("spec-15143-59205-04544940698.fits", ("15143", "59205", "04544940698")),
        ("spec-015000-59146-4375786564.fits", ("015000", "59146", "4375786564")),
        ("spec-15000p-59146-4375786564.fits.gz", ("15000", "59146", "4375786564")),
        ("spec-112360-60000-27021598150202075.fits.fz", ("112360", "60000", "27021598150202075")),
        ("spec-15000-59147-0001.fits", None),
        ("spec-0266-51602-0001.fits", None),
        ("spec-112360-60000.fits", None),
    ],
)
def test_names_of_sdssv_and_of_earlier_releases_exclude_each_other(name, identity):
    found = sdssv.FILE_NAME.fullmatch(name)
    assert (found.groups() if found else None) == identity
    if identity:
        assert FILE_NAME.fullmatch(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("spec-112360-60000-27021598150202075.fits", None),
        ("spec-112360p-60000-27021598150202075.fits", None),
        ("spec-0112360-60000-27021598150202075.fits", None),  # no name of ours: not checked
        ("spec-112361-60000-27021598150202075.fits", Reason.IDENTITY_MISMATCH),
        ("spec-112360-60001-27021598150202075.fits", Reason.IDENTITY_MISMATCH),
        ("spec-112360-60000-27021598150202076.fits", Reason.IDENTITY_MISMATCH),
        # A name of an earlier release on a file of SDSS-V.
        ("spec-0266-51602-0001.fits", Reason.IDENTITY_MISMATCH),
    ],
)
def test_the_file_name_must_agree_with_the_row(tmp_path, name, reason):
    path = write(tmp_path, name=name)
    assert (reason_of(path) if reason else read_spec(path).row["field"]) == (reason or 112360)


def test_a_name_of_sdssv_on_an_earlier_file_is_refused(tmp_path):
    path = write_spec(tmp_path, SDSSV_NAMES["DR19"], row=legacy_row())
    assert reason_of(path) == Reason.IDENTITY_MISMATCH


def test_the_field_is_that_of_the_column_where_the_header_has_none(tmp_path):
    hdus = sdssv_hdus()
    del hdus[0].header["FIELDID"]
    path = tmp_path / SDSSV_NAMES["DR19"]
    hdus.writeto(path)
    assert read_spec(path).row["field"] == 112360


@pytest.mark.parametrize("name", ["Z", "ZWARNING", "PLUG_RA", "CLASS"])
def test_a_needed_column_that_is_absent_is_named(tmp_path, name):
    row = sdssv_row(**{name: None}, RACAT=None, DECCAT=None)
    with pytest.raises(BadSpectrumError, match=name) as caught:
        read_spec(write(tmp_path, row=row))
    assert caught.value.reason == Reason.MISSING_COLUMN


def test_positions_come_from_the_target_catalogue_where_no_hole_was_drilled(tmp_path):
    row = read_spec(write(tmp_path, row=sdssv_row(PLUG_RA=None, PLUG_DEC=None))).row
    assert (row["ra"], row["dec"]) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"CATALOGID": np.int64(-999)}, Reason.MISSING_COLUMN),
        ({"Z": np.float32(np.nan)}, Reason.BAD_REDSHIFT),
        ({"Z": np.float32(-1)}, Reason.BAD_REDSHIFT),
    ],
)
def test_values_that_are_none_have_a_reason(tmp_path, changes, reason):
    assert reason_of(write(tmp_path, name="x.fits", row=sdssv_row(**changes))) == reason


def test_layouts_that_differ_only_in_a_checksum_are_known_again_and_others_are_not(tmp_path):
    # From DR19 on each table has its own CHECKSUM, and text columns of their own width.
    for number, width in enumerate((3, 12, 3, 40)):
        row = sdssv_row(FIBERID_LIST="1" * width, Z=np.float32(0.1 * number))
        hdus = sdssv_hdus(row=row)
        hdus[1].data["FLUX"] = coadd_columns(seed=number)["flux"]
        for hdu in hdus[1:]:
            hdu.add_checksum()
        path = tmp_path / f"{number}.fits"
        hdus.writeto(path)
        found = read_spec(path)
        assert found.row["z"] == float(np.float32(0.1 * number))
        assert (found.arrays.flux == coadd_columns(seed=number)["flux"]).all()
