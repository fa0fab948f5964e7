"""Catalogues of spectra: formats.md A3."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from surveys_builders import SHARED, boss_row, legacy_row, table_hdu

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys.canonical import ebv_of_extinction, table_of
from spectra_scale.surveys.catalogue import (
    CATALOGUE_COLUMNS,
    CATALOGUE_SCHEMA,
    COLUMN_MAPS,
    read_catalogue,
)
from spectra_scale.surveys.sdss_spec import read_spec

needs_real_files = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")


def columns_of(rows):
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def write_fits(path, columns):
    fits.HDUList([fits.PrimaryHDU(), table_hdu(columns)]).writeto(path, overwrite=True)
    return path


CAS = {
    "specObjID": ["299489676975171584", "4060181793114181632"],
    "plate": [266, 3606],
    "mjd": [51602, 55182],
    "fiberID": [1, 679],
    "run2d": ["26", "v5_13_0"],
    "ra": [146.71421, 12.5],
    "dec": [-1.0413043, 0.25],
    "z": [0.0212, 0.31],
    "zErr": [1e-5, -9999.0],
    "zWarning": [0, 4],
    "class": ["GALAXY", "QSO"],
    "subClass": ["", "STARBURST BROADLINE"],
    "snMedian": [31.5, 2.5],
    "sciencePrimary": [1, 0],
    "extinction_u": [0.5155, 0.4239],
    "extinction_r": [0.2751, 0.2285],
}


def write_cas(folder, suffix, **changes):
    table = pa.table({k: v for k, v in (CAS | changes).items() if v is not None})
    path = folder / f"export{suffix}"
    if suffix == ".csv":
        pa_csv.write_csv(table, path)
    elif suffix == ".parquet":
        pq.write_table(table, path)
    else:
        write_fits(path, {name: np.array(table[name].to_pylist()) for name in table.column_names})
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".fits"])
def test_a_cas_export_reads_alike_from_every_format(tmp_path, suffix):
    table = read_catalogue(write_cas(tmp_path, suffix))
    assert table.schema == CATALOGUE_SCHEMA
    first, second = table.to_pylist()
    assert first["spectrum_key"] == "sdss:266-51602-1"
    assert (first["survey"], second["survey"]) == ("sdss", "boss")
    assert (first["specobjid"], second["specobjid"]) == tuple(CAS["specObjID"])
    assert (first["reduction"], second["subclass"]) == ("26", "STARBURST BROADLINE")
    assert first["sn_median_all"] == 31.5
    assert [first["specprimary"], second["specprimary"]] == [1, 0]
    # -9999 is "no value" in CAS.
    assert math.isnan(second["z_err"])
    # Both laws, each told by its own A_u/A_r; values are float32.
    assert [first["ebv"], second["ebv"]] == pytest.approx([0.1, 0.1], rel=1e-6)
    assert first["platequality"] == ""


def test_the_first_line_of_a_cas_csv_is_passed_over(tmp_path):
    path = write_cas(tmp_path, ".csv")
    path.write_bytes(b"#Table1\n" + path.read_bytes())
    assert read_catalogue(path)["plate"].to_pylist() == [266, 3606]


@pytest.mark.parametrize("suffix", [".csv", ".fits"])
@pytest.mark.parametrize("objid", [None, "float", "text"])
def test_a_missing_or_rounded_specobjid_is_rebuilt(tmp_path, suffix, objid):
    exact = CAS["specObjID"]
    values = {
        None: None,
        # Data Lab keeps it as float32: the last digits are gone (formats.md A3).
        "float": np.array([float(text) for text in exact], "f4"),
        "text": [f"{float(text):.5E}" for text in exact],
    }[objid]
    table = read_catalogue(write_cas(tmp_path, suffix, specObjID=values))
    assert table["specobjid"].to_pylist() == exact


def test_an_unsigned_id_in_a_signed_column_is_restored(tmp_path):
    # Plate 8192 and above set the sign bit.
    unsigned = (9000 << 50) | (1 << 38) | ((57000 - 50000) << 24)
    values = np.array([unsigned - (1 << 64), 5], "i8")
    table = read_catalogue(write_cas(tmp_path, ".fits", specObjID=values))
    assert table["specobjid"].to_pylist() == [str(unsigned), "5"]


def test_data_lab_names_are_known(tmp_path):
    names = {"specObjID": "specobjid", "zErr": "zerr", "zWarning": "zwarning"}
    columns = {names.get(name, name.lower()): values for name, values in CAS.items()}
    columns |= {"survey": ["sdss", "boss"], "z_noqso": [0.0, 0.3], "zwarning_noqso": [0, 0]}
    path = tmp_path / "datalab.csv"
    pa_csv.write_csv(pa.table(columns), path)
    table = read_catalogue(path)
    assert table["specprimary"].to_pylist() == [1, 0]
    # Not filled for legacy spectra.
    assert math.isnan(table["z_noqso"][0].as_py())
    assert table["zwarning_noqso"].to_pylist() == [-1, 0]


@pytest.mark.parametrize("rows", [[legacy_row()], [boss_row()], [boss_row(), boss_row(Z=0.5)]])
def test_rows_of_a_specobj_file_are_those_of_the_spec_files(tmp_path, rows):
    table = read_catalogue(write_fits(tmp_path / "specObj-dr17.fits", columns_of(rows)))
    hdus = fits.HDUList([fits.PrimaryHDU(), table_hdu({"flux": np.ones(3, "f4"),
                         "loglam": np.array([3.6, 3.6001, 3.6002], "f4"),
                         "ivar": np.ones(3, "f4"), "and_mask": np.zeros(3, "i4")})])  # fmt: skip
    for row, found in zip(rows, table.to_pylist(), strict=True):
        single = fits.HDUList([*hdus, table_hdu(columns_of([row]))])
        single.writeto(tmp_path / "x.fits", overwrite=True)
        assert_same_row(read_spec(tmp_path / "x.fits").row, found)


def assert_same_row(one, other):
    for column in CATALOGUE_COLUMNS:
        a, b = one[column.name], other[column.name]
        if column.dtype == "float32":
            # A spec row holds Python floats; the catalogue stores them as float32.
            assert np.array_equal(np.float32(a), np.float32(b), equal_nan=True), column.name
        else:
            assert a == b, column.name


@needs_real_files
def test_one_row_and_many_rows_are_made_canonical_alike_on_real_files(tmp_path):
    for path in sorted((SHARED / "sdss" / "spec-lite").glob("*.fits"))[::16]:
        with fits.open(path) as hdus:
            hdus[2].writeto(tmp_path / "row.fits", overwrite=True)
        (found,) = read_catalogue(tmp_path / "row.fits").to_pylist()
        assert_same_row(read_spec(path).row, found)


def test_many_rows_are_read_in_blocks_in_their_order(tmp_path):
    n_rows = 70_000  # more than one block of 65,536
    columns = columns_of([legacy_row(SN_MEDIAN=None)])
    columns = {name: np.repeat(values, n_rows) for name, values in columns.items()}
    columns["FIBERID"] = np.arange(n_rows, dtype="i4")
    table = read_catalogue(write_fits(tmp_path / "many.fits", columns))
    assert table.num_rows == n_rows
    np.testing.assert_array_equal(table["fiber"], np.arange(n_rows))
    assert table["spectrum_key"][n_rows - 1].as_py() == f"sdss:266-51602-{n_rows - 1}"


def test_an_empty_catalogue_has_no_rows(tmp_path):
    columns = {name: values[:0] for name, values in columns_of([boss_row()]).items()}
    table = read_catalogue(write_fits(tmp_path / "none.fits", columns))
    assert (table.num_rows, table.schema) == (0, CATALOGUE_SCHEMA)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".fits"])
def test_a_missing_column_is_named_with_what_was_found(tmp_path, suffix):
    path = write_cas(tmp_path, suffix, zWarning=None)
    with pytest.raises(SpectraScaleError, match="ZWARNING") as caught:
        read_catalogue(path)
    message = str(caught.value)
    assert path.name in message
    assert "fiberid" in message.lower()


@pytest.mark.parametrize(
    ("column", "value"),
    [("plate", ["a", "b"]), ("z", ["x", "y"]), ("fiberID", [[1], [2]]), ("zWarning", ["x", "y"])],
)
def test_a_column_of_another_type_is_an_error(tmp_path, column, value):
    with pytest.raises(SpectraScaleError, match=column.lower().removesuffix("id")):
        read_catalogue(write_cas(tmp_path, ".parquet", **{column: value}))


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.fits"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_that_is_no_table_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpectraScaleError, match=name):
        read_catalogue(tmp_path / name)
    with pytest.raises(SpectraScaleError, match="no file"):
        read_catalogue(tmp_path / "absent.fits")


@needs_real_files
def test_a_real_cas_export_is_read():
    path = SHARED / "catalogues" / "dr12PeastoPortStarforming.fits"
    table = read_catalogue(path)
    with fits.open(path) as hdus:
        data = hdus[1].data
        assert table.num_rows == len(data)
        np.testing.assert_array_equal(table["plate"], data["plate"])
        np.testing.assert_array_equal(table["z"], data["z"])
        assert table["specobjid"].to_pylist() == [str(i) for i in data["specObjID"].tolist()]
        # All from before Schlafly & Finkbeiner: A_r = 2.751 E(B-V).
        np.testing.assert_allclose(table["ebv"], data["extinction_r"] / 2.751, rtol=1e-6)
    # It has no RUN2D.
    assert set(table["reduction"].to_pylist()) == {""}


@needs_real_files
def test_a_real_table_without_redshifts_is_no_catalogue():
    with pytest.raises(SpectraScaleError, match="ZWARNING"):
        read_catalogue(SHARED / "catalogues" / "SDSS_spectral_plateid.csv")


def test_every_map_gives_canonical_names_only():
    canonical = {column.name for column in CATALOGUE_COLUMNS}
    made_from = {
        "sdss": {"extinction", "extinction_u", "extinction_r", "class_noqso"},
        "sdssv": {"sfd_ebv", "ebv_type", "class_noqso"},
        "desi": {"uniqpix", "tileid", "spgrpval", "mean_mjd", "main_primary", "sv_primary"},
    }
    for each in COLUMN_MAPS:
        assert set(each.columns) <= canonical | made_from[each.kind]
        assert set(each.needed) <= set(each.columns)


def test_an_unknown_extinction_law_gives_no_reddening():
    ebv = ebv_of_extinction(np.array([0.5155, 0.5, np.nan, 0.0]), np.array([0.2751, 0.2, 1, 0]))
    np.testing.assert_allclose(ebv, [0.1, np.nan, np.nan, np.nan], rtol=1e-6)


def test_sky_and_standard_fibres_are_told_from_science():
    types = np.array(["SKY", "SPECTROPHOTO_STD", "QSO", "NA", "SCIENCE", ""])
    columns = {name: np.repeat(v, 6) for name, v in {"plate": 1, "mjd": 2, "z": 0.1}.items()}
    columns |= {"fiber": np.arange(6), "ra": np.zeros(6), "dec": np.zeros(6)}
    columns |= {"zwarning": np.zeros(6, int), "class": types, "targettype": types}
    assert table_of(columns)["targettype"].to_pylist() == [
        "SKY", "STANDARD", "SCIENCE", "SCIENCE", "SCIENCE", "",
    ]  # fmt: skip


def test_two_columns_of_one_name_and_text_that_is_none_are_told(tmp_path):
    csv = tmp_path / "twice.csv"
    csv.write_text("plate,mjd,fiberid,ra,dec,z,z,zwarning,class\n266,51602,1,1,2,.1,.2,0,GALAXY\n")
    with pytest.raises(SpectraScaleError, match="2 times"):
        read_catalogue(csv)
    columns = {"plate": [266], "mjd": [51602], "fiberid": [1], "ra": [1.0], "dec": [2.0],
               "z": [0.1], "zwarning": [0]}  # fmt: skip
    bad = pa.array([b"GAL\xff\xfeAXY"], pa.binary()).cast(pa.string(), safe=False)
    parquet = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns | {"class": bad}), parquet)
    with pytest.raises(SpectraScaleError, match=r"(?i)class"):
        read_catalogue(parquet)
