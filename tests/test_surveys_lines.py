"""Emission-line tables: formats.md A4."""

import gzip
import logging
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from surveys_builders import SHARED, line_columns, table_hdu, write_spec

from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.identity import desi_key, sdss_key
from spectra_scale.surveys import fits_files, fits_named
from spectra_scale.surveys.lines import (
    LINE_COLUMNS,
    LINE_SCHEMA,
    WANTED,
    is_line_catalogue,
    line_table_survey,
    lines_from_spzline,
    read_line_catalogue,
    read_line_table,
    rows_of_keys,
)
from spectra_scale.surveys.sdss_spec import read_spec
from spectra_scale.surveys.tables import open_source

needs_real_files = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")

IDENTITY = {
    "PLATE": np.array([266, 3606], "i4"),
    "MJD": np.array([51602, 55182], "i4"),
    "FIBERID": np.array([1, 679], "i4"),
}
# 0-based places in the 28 lines of the Portsmouth table (formats.md A4).
HB, OIII, HA, NII = 15, 17, 24, 25


def write(path, columns):
    fits.HDUList([fits.PrimaryHDU(), table_hdu(columns)]).writeto(path, overwrite=True)
    return path


def assert_same(found, expected):
    """Equal tables, NaN where NaN is expected."""
    np.testing.assert_equal(found.to_pydict(), expected.to_pydict())
    assert found.schema == expected.schema


def portsmouth(**changes):
    # Every line has another value, so that a wrong index shows.
    flux = np.tile(np.arange(28, dtype="f8") * 10 + 100, (2, 1))
    columns = {"FLUX": flux, "FLUX_ERR": flux / 10, "EW": flux / 5, "EW_ERR": flux / 50}
    return IDENTITY | columns | changes


def test_the_28_lines_of_portsmouth_stand_where_the_document_says(tmp_path):
    table = read_line_catalogue(write(tmp_path / "emlinekin.fits", portsmouth()))
    assert table.schema == LINE_SCHEMA
    row = table.to_pylist()[0]
    expected = {"hbeta": HB, "oiii": OIII, "halpha": HA, "nii": NII}
    for line, index in expected.items():
        assert row[f"{line}_flux"] == 100 + 10 * index
        assert row[f"{line}_err"] == 10 + index
    assert row["halpha_ew"] == (100 + 10 * HA) / 5
    assert row["halpha_ew_err"] == (100 + 10 * HA) / 50
    assert row["source"] == "portsmouth"
    assert table["plate"].to_pylist() == [266, 3606]


def test_a_portsmouth_table_with_other_arrays_fails_loudly(tmp_path):
    short = np.ones((2, 27))
    path = write(tmp_path / "x.fits", portsmouth(EW=short))
    with pytest.raises(SpectraScaleError, match=r"EW has shape \(2, 27\), expected 28"):
        read_line_catalogue(path)


@pytest.mark.parametrize(
    ("flux", "error"),
    [(-9999, 1), (1, -9999), (1, np.inf), (1, 0), (1, -1), (np.nan, 1), (np.inf, 1), (1, np.nan)],
)
def test_a_value_that_was_not_measured_is_nan_with_its_error(tmp_path, flux, error):
    columns = portsmouth()
    columns["FLUX"][0, HB], columns["FLUX_ERR"][0, HB] = flux, error
    columns["EW"][1, HA], columns["EW_ERR"][1, HA] = flux, error
    first, second = read_line_catalogue(write(tmp_path / "x.fits", columns)).to_pylist()
    assert math.isnan(first["hbeta_flux"])
    assert math.isnan(first["hbeta_err"])
    assert math.isnan(second["halpha_ew"])
    assert math.isnan(second["halpha_ew_err"])
    assert first["oiii_flux"] == 270


def test_a_negative_flux_with_an_error_is_a_measurement(tmp_path):
    columns = portsmouth()
    columns["FLUX"][0, HB] = -3
    row = read_line_catalogue(write(tmp_path / "x.fits", columns)).to_pylist()[0]
    assert (row["hbeta_flux"], row["hbeta_err"]) == (-3, 10 + HB)


CAS_NAMES = {"hbeta": "Hb_4861", "oiii": "OIII_5006", "halpha": "Ha_6562", "nii": "NII_6583"}


def cas_columns():
    out = {"plate": [266], "mjd": [51602], "fiberid": [1], "bpt": ["Composi"]}
    for number, name in enumerate(CAS_NAMES.values(), start=1):
        out |= {f"Flux_{name}": [10.0 * number], f"Flux_{name}_Err": [float(number)]}
    return out | {"EW_Ha_6562": [3.5], "EW_Ha_6562_Err": [0.5]}


@pytest.mark.parametrize("lower", [False, True])
def test_cas_columns_are_read_from_csv_in_any_case(tmp_path, lower):
    columns = {(k.lower() if lower else k): v for k, v in cas_columns().items()}
    path = tmp_path / "lines.csv"
    pa_csv.write_csv(pa.table(columns), path)
    row = read_line_catalogue(path).to_pylist()[0]
    assert [row[f"{line}_flux"] for line in CAS_NAMES] == [10, 20, 30, 40]
    assert [row[f"{line}_err"] for line in CAS_NAMES] == [1, 2, 3, 4]
    assert (row["halpha_ew"], row["halpha_ew_err"], row["source"]) == (3.5, 0.5, "cas")


def mpa(**changes):
    columns = {
        "PLATEID": np.array([266, -1, 267], "i4"),
        "MJD": np.array([51602, -1, 51608], "i4"),
        "FIBERID": np.array([1, -1, 2], "i2"),
        "RELIABLE": np.array([1, 0, 0], "i2"),
    }
    for number, name in enumerate(["H_BETA", "OIII_5007", "H_ALPHA", "NII_6584"], start=1):
        columns[f"{name}_FLUX"] = np.full(3, 10 * number, "f4")
        columns[f"{name}_FLUX_ERR"] = np.full(3, number, "f4")
    columns |= {"H_ALPHA_EQW": np.full(3, -7, "f4"), "H_ALPHA_EQW_ERR": np.full(3, 2, "f4")}
    return {name: v for name, v in (columns | changes).items() if v is not None}


def test_mpa_jhu_equivalent_widths_are_negated_and_unreliable_fits_not_used(tmp_path):
    first, second = read_line_catalogue(write(tmp_path / "galSpecLine.fits", mpa())).to_pylist()
    assert (first["halpha_ew"], first["halpha_ew_err"], first["source"]) == (7, 2, "mpa-jhu")
    assert first["nii_flux"] == 40
    # PLATEID -1 is a row without a result; RELIABLE 0 keeps its identity, not its values.
    assert second["plate"] == 267
    assert all(math.isnan(second[name]) for name in LINE_COLUMNS)


def test_mpa_jhu_reliability_is_read_from_the_file_beside(tmp_path):
    path = write(tmp_path / "galSpecLine-dr8.fits", mpa(RELIABLE=None))
    with pytest.raises(SpectraScaleError, match="galSpecInfo"):
        read_line_catalogue(path)
    info = {"PLATEID": mpa()["PLATEID"], "RELIABLE": np.array([0, 0, 1], "i2")}
    write(tmp_path / "galSpecInfo-dr8.fits", info)
    first, second = read_line_catalogue(path).to_pylist()
    assert math.isnan(first["halpha_flux"])
    assert second["halpha_flux"] == 30
    write(tmp_path / "galSpecInfo-dr8.fits", {"RELIABLE": np.ones(2, "i2")})
    with pytest.raises(SpectraScaleError, match="row by row"):
        read_line_catalogue(path)


def test_equivalent_widths_of_the_wrong_sign_are_refused(tmp_path):
    path = write(tmp_path / "galSpecLine.fits", mpa(H_ALPHA_EQW=np.full(3, 7, "f4")))
    with pytest.raises(SpectraScaleError, match="convention"):
        read_line_catalogue(path)


def test_another_plate_id_is_not_taken_for_a_plate(tmp_path):
    ids = np.array([299489676975171584, -1, 5], "i8")
    with pytest.raises(SpectraScaleError, match="five digits"):
        read_line_catalogue(write(tmp_path / "x.fits", mpa(PLATEID=ids)))


def test_pipeline_fits_are_moved_to_the_rest_frame():
    found = lines_from_spzline(line_columns(), 0.0212)
    assert (found["hbeta_flux"], found["oiii_flux"], found["nii_err"]) == (10, 6, 3)
    # Observed 20·(1+z) in float32, so its rounding: 6e-8 of 20.
    assert found["halpha_ew"] == pytest.approx(20, rel=1e-6)
    assert found["halpha_ew_err"] == pytest.approx(2, rel=1e-6)
    assert found["source"] == "spzline"
    assert list(found) == [*LINE_COLUMNS, "source"]


def test_a_flux_below_the_missing_value_is_a_measurement():
    # Real files have line fluxes of -10191 with a positive error.
    areas = np.array([0, 10, 2, 6, -10191.1875, -9999], "f4")
    found = lines_from_spzline(line_columns(LINEAREA=areas), 0.1)
    assert found["halpha_flux"] == -10191.1875
    assert math.isnan(found["nii_flux"])


def test_a_negative_error_marks_an_invalid_fit():
    errors = np.array([-1, -1, 1, 0, 4, np.nan], "f4")
    found = lines_from_spzline(line_columns(LINEAREA_ERR=errors), 0.1)
    assert [math.isnan(found[f"{x}_flux"]) for x in ("hbeta", "oiii", "halpha", "nii")] == [
        True, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("z", [np.nan, -1.0, -2.0])
def test_without_a_redshift_there_is_no_equivalent_width(z):
    found = lines_from_spzline(line_columns(), z)
    assert math.isnan(found["halpha_ew"])
    assert found["halpha_flux"] == 40


def test_a_line_that_is_not_listed_is_not_measured():
    columns = {name: values[:4] for name, values in line_columns().items()}
    found = lines_from_spzline(columns, 0.1)
    assert math.isnan(found["halpha_flux"])
    assert found["oiii_flux"] == 6


def test_blank_padded_line_names_are_known(tmp_path):
    names = np.array([name.ljust(13) for name in line_columns()["LINENAME"]])
    path = write_spec(tmp_path, lines=line_columns(LINENAME=names))
    assert read_spec(path, want_lines=True).lines["halpha_flux"] == 40
    assert read_spec(path, want_row=False, want_lines=True).lines["halpha_ew_err"] > 0


@needs_real_files
def test_real_pipeline_fits_agree_with_astropy():
    measured = 0
    for path in sorted((SHARED / "sdss" / "spec-lite").glob("*.fits"))[::8]:
        found = read_spec(path, want_lines=True)
        with fits.open(path) as hdus:
            data = hdus[3].data
        (row,) = np.flatnonzero(data["LINENAME"] == "H_alpha")
        if data["LINEAREA_ERR"][row] > 0:
            measured += 1
            assert found.lines["halpha_flux"] == data["LINEAREA"][row]
            assert found.lines["halpha_err"] == data["LINEAREA_ERR"][row]
            ew = float(data["LINEEW"][row]) / (1 + found.row["z"])
            # Each error speaks for its own value: a flux may be good where the EW is not.
            expected = ew if data["LINEEW_ERR"][row] > 0 else math.nan
            np.testing.assert_equal(found.lines["halpha_ew"], expected)
        else:
            assert math.isnan(found.lines["halpha_flux"])
    assert measured > 10


@needs_real_files
def test_a_real_portsmouth_export_is_read():
    path = SHARED / "catalogues" / "dr14peaPortmatch_ccardamone.fits"
    found = read_line_table(path)
    with fits.open(path) as hdus:
        data = hdus[1].data
    # 35 of its objects stand there twice, in rows that are the same.
    keys = sdss_key(data["plate"], data["mjd"], data["fiberID"])
    _, first = np.unique(keys, return_index=True)
    first.sort()
    assert (found.n_rows, found.n_repeated, found.n_nobody) == (7724, 35, 0)
    assert found.table["spectrum_key"].to_pylist() == keys[first].tolist()
    for line, name in CAS_NAMES.items():
        flux, error = data[f"Flux_{name}"][first], data[f"Flux_{name}_Err"][first]
        valid = (error > 0) & np.isfinite(error) & (flux != -9999)
        expected = np.where(valid, flux, np.nan)
        np.testing.assert_array_equal(found.table[f"{line}_flux"], expected)
    assert set(found.table["source"].to_pylist()) == {"cas"}
    assert not any(found.table["broad"].to_pylist())


@needs_real_files
@pytest.mark.parametrize(
    "name",
    [
        "RESOLVE_SDSS_all_dext.fits",  # fluxes by the names of another survey's galaxies
        "dr12PeastoPortStarforming.fits",  # plate, MJD and fibre, but no lines
        "SDSS_spectral_plateid.csv",  # as well
    ],
)
def test_real_tables_of_another_kind_are_refused_with_their_columns(name):
    with pytest.raises(SpectraScaleError, match="no line catalogue: found columns"):
        read_line_catalogue(SHARED / "catalogues" / name)


# FastSpecFit ----------------------------------------------------------------------------------

TARGETS = np.array([39627835576420141, 39628517884825354, -39628517884825354], "i8")


def fastspec(**changes):
    """FASTSPEC of three targets: no broad line, a broad Hα, lines that were not measured."""
    columns = {
        "TARGETID": TARGETS,
        "SURVEY": np.array(["main", "sv3", "main"]),
        "PROGRAM": np.array(["bright", "dark", "dark"]),
        "HEALPIX": np.array([9144, 26065, 9144], "i4"),
        "COEFF": np.zeros((3, 5), "f4"),
    }
    for number, name in enumerate(["HBETA", "OIII_5007", "HALPHA", "NII_6584"], start=1):
        columns[f"{name}_FLUX"] = np.array([number, 10 * number, 0], "f4")
        columns[f"{name}_FLUX_IVAR"] = np.array([4, 0.25, 0], "f4")
        columns[f"{name}_EW"] = np.array([number, number, 0], "f4")
        columns[f"{name}_EW_IVAR"] = np.array([16, 16, 0], "f4")
    for name, flux in (("HALPHA_BROAD", [0, 60, 0]), ("HBETA_BROAD", [0, 0, 0])):
        columns[f"{name}_FLUX"] = np.array(flux, "f4")
        columns[f"{name}_FLUX_IVAR"] = np.array([0, 0.01, 0], "f4")
        columns[f"{name}_SIGMA"] = np.array([0, 1500, 0], "f4")
    return {name: values for name, values in (columns | changes).items() if values is not None}


def metadata(**changes):
    columns = {
        "TARGETID": TARGETS,
        "SURVEY": np.array(["main", "sv3", "main"]),
        "PROGRAM": np.array(["bright", "dark", "dark"]),
        "EBV": np.zeros(3, "f4"),
    }
    return columns | changes


def write_fastspec(path, order=("FASTSPEC", "METADATA", "MODELS"), table=None, meta=None):
    made = {
        "FASTSPEC": table_hdu(fastspec() if table is None else table, "FASTSPEC"),
        "METADATA": table_hdu(metadata() if meta is None else meta, "METADATA"),
        "SPECPHOT": table_hdu({"TARGETID": TARGETS, "DN4000": np.ones(3, "f4")}, "SPECPHOT"),
        "MODELS": fits.ImageHDU(np.zeros((3, 3, 7781), "f4"), name="MODELS"),
    }
    hdus = [fits.PrimaryHDU(), *(made[name] for name in order)]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


ORDERS = [
    ("FASTSPEC", "METADATA", "MODELS"),  # version 2
    ("METADATA", "SPECPHOT", "FASTSPEC", "MODELS"),  # version 3
    ("METADATA", "FASTSPEC"),  # merged catalogues have no models
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_fastspecfit_is_found_by_name_wherever_it_stands(tmp_path, order, suffix):
    path = write_fastspec(tmp_path / f"fastspec-main-dark-9144{suffix}", order)
    table = read_line_catalogue(path)
    assert table.schema == LINE_SCHEMA
    keys = desi_key(["main", "sv3", "main"], ["bright", "dark", "dark"], TARGETS)
    assert table["spectrum_key"].to_pylist() == keys.tolist()
    first, second, third = table.to_pylist()
    assert [first[f"{line}_flux"] for line in CAS_NAMES] == [1, 2, 3, 4]
    # The error is the inverse root of the inverse variance: 4 and 1/4.
    assert [first[f"{line}_err"] for line in CAS_NAMES] == [0.5] * 4
    assert [second[f"{line}_err"] for line in CAS_NAMES] == [2] * 4
    assert (first["halpha_ew"], first["halpha_ew_err"]) == (3, 0.25)
    # An inverse variance of 0 says "not measured", not "flux 0".
    assert all(math.isnan(third[name]) for name in LINE_COLUMNS)
    assert [row["broad"] for row in (first, second, third)] == [False, True, False]
    assert (first["source"], first["plate"]) == ("fastspecfit", -1)
    assert line_table_survey(path) == "desi"
    assert is_line_catalogue(open_source(path, WANTED))


def test_fastspecfit_agrees_with_astropy_in_every_block(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    n = 1000
    columns = {name: np.resize(v, (n, *v.shape[1:])) for name, v in fastspec().items()}
    columns["TARGETID"] = np.arange(n) + (1 << 60)
    for name in columns:
        if name.endswith(("_FLUX", "_EW", "_IVAR", "_SIGMA")):
            columns[name] = rng.lognormal(3, 3, n).astype("f4")
    path = write(tmp_path / "fastspec.fits", columns)
    with fits.open(path, mode="update") as hdus:
        hdus[1].name = "FASTSPEC"
    # Rows of some 250 bytes: eighty blocks.
    monkeypatch.setattr(fits_named, "_BLOCK_BYTES", 3000)
    table = read_line_catalogue(path)
    with fits.open(path) as hdus:
        data = hdus["FASTSPEC"].data
        np.testing.assert_array_equal(table["nii_flux"], data["NII_6584_FLUX"].astype("f8"))
        expected = 1 / np.sqrt(data["HALPHA_EW_IVAR"].astype("f8"))
        np.testing.assert_array_equal(table["halpha_ew_err"], expected)
        broad = np.zeros(n, bool)
        for name in ("HALPHA_BROAD", "HBETA_BROAD"):
            # In float64, as the reader does: a ratio near 5 must not fall to the other side.
            error = 1 / np.sqrt(data[f"{name}_FLUX_IVAR"].astype("f8"))
            broad |= (data[f"{name}_FLUX"] > 5 * error) & (data[f"{name}_SIGMA"] > 500)
    assert 0 < broad.sum() < n
    np.testing.assert_array_equal(table["broad"], broad)


@pytest.mark.parametrize(
    ("flux", "ivar", "sigma", "broad"),
    [
        (51, 0.01, 501, True),
        (49, 0.01, 501, False),  # 4.9 sigma
        (51, 0.01, 499, False),  # too narrow
        (51, 0.0, 501, False),  # not measured
        (np.nan, 0.01, 501, False),
        (51, np.nan, 501, False),
        (51, -0.01, 501, False),
        (np.inf, 0.01, 501, False),
        (51, 0.01, np.nan, False),
    ],
)
@pytest.mark.parametrize("line", ["HALPHA_BROAD", "HBETA_BROAD"])
def test_a_broad_line_is_significant_and_wide(tmp_path, line, flux, ivar, sigma, broad):
    changes = {
        f"{line}_FLUX": np.array([flux, 0, 0], "f4"),
        f"{line}_FLUX_IVAR": np.array([ivar, 0, 0], "f4"),
        f"{line}_SIGMA": np.array([sigma, 0, 0], "f4"),
    }
    path = write_fastspec(tmp_path / "f.fits", table=fastspec(**changes))
    assert read_line_catalogue(path)["broad"].to_pylist()[0] is broad


def test_keys_that_fastspec_lacks_come_from_metadata_row_by_row(tmp_path):
    bare = fastspec(SURVEY=None, PROGRAM=None)
    path = write_fastspec(tmp_path / "f.fits", table=bare)
    assert read_line_catalogue(path)["spectrum_key"].to_pylist()[1].startswith("desi:sv3-dark-")
    other = write_fastspec(tmp_path / "g.fits", table=bare, meta=metadata(TARGETID=TARGETS[::-1]))
    with pytest.raises(SpectraScaleError, match="TARGETID is not the same, row by row"):
        read_line_catalogue(other)
    fits.HDUList([fits.PrimaryHDU(), table_hdu(bare, "FASTSPEC")]).writeto(tmp_path / "h.fits")
    with pytest.raises(SpectraScaleError, match="no column SURVEY"):
        read_line_catalogue(tmp_path / "h.fits")


def test_a_fastspecfit_table_without_its_broad_lines_is_refused(tmp_path):
    # Without them every broad-line object would pass for another class.
    path = write_fastspec(tmp_path / "f.fits", table=fastspec(HALPHA_BROAD_SIGMA=None))
    with pytest.raises(SpectraScaleError, match="no column HALPHA_BROAD_SIGMA"):
        read_line_catalogue(path)


@pytest.mark.parametrize("lower", [False, True])
def test_an_export_of_fastspecfit_is_read_from_parquet_and_csv(tmp_path, lower):
    columns = {k.lower() if lower else k: v for k, v in fastspec(COEFF=None).items()}
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(table, tmp_path / "f.parquet")
    pa_csv.write_csv(table, tmp_path / "f.csv")
    expected = read_line_catalogue(write_fastspec(tmp_path / "f.fits"))
    assert_same(read_line_catalogue(tmp_path / "f.parquet"), expected)
    # All numbers of this table are short decimals.
    assert_same(read_line_catalogue(tmp_path / "f.csv"), expected)


def test_a_rounded_targetid_is_no_key(tmp_path):
    table = fastspec(TARGETID=TARGETS.astype("f8"))
    with pytest.raises(SpectraScaleError, match="TARGETID is float64, expected whole numbers"):
        read_line_catalogue(write_fastspec(tmp_path / "f.fits", table=table))


# Identity and damage --------------------------------------------------------------------------


def test_the_first_row_of_an_object_counts_and_the_others_are_counted(tmp_path, caplog):
    columns = {name: np.repeat(values, 2, axis=0) for name, values in portsmouth().items()}
    columns["PLATE"] = np.array([266, 266, -1, 266], "i4")
    columns["MJD"], columns["FIBERID"] = np.full(4, 51602, "i4"), np.array([1, 1, 1, 2], "i4")
    columns["FLUX"][:, HA] = [1, 2, 3, 4]
    with caplog.at_level(logging.INFO):
        found = read_line_table(write(tmp_path / "x.fits", columns))
    assert found.table["halpha_flux"].to_pylist() == [1, 4]
    assert found.table["spectrum_key"].to_pylist() == ["sdss:266-51602-1", "sdss:266-51602-2"]
    assert (found.n_rows, found.n_nobody, found.n_repeated) == (4, 1, 1)
    assert found.n_rows == found.table.num_rows + found.n_nobody + found.n_repeated
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "rows=4 objects=2 nobody=1 repeated=1" in record.getMessage()


def test_objects_are_joined_by_their_keys_across_surveys(tmp_path):
    table = read_line_catalogue(write(tmp_path / "x.fits", portsmouth()))
    keys = ["sdss:3606-55182-679", "desi:main-dark-1", "sdss:266-51602-1", "sdss:266-51602-2"]
    keys = pa.chunked_array([keys, ["sdss:266-51602-1"]])
    assert rows_of_keys(table, keys).tolist() == [1, -1, 0, -1, 0]
    assert rows_of_keys(table.slice(0, 0), keys).tolist() == [-1] * 5
    assert rows_of_keys(table, keys.slice(0, 0)).tolist() == []


@pytest.mark.parametrize("order", ["portsmouth", "fastspec", "mpa"])
def test_a_table_without_rows_has_no_objects(tmp_path, order):
    columns = {"portsmouth": portsmouth(), "fastspec": fastspec(), "mpa": mpa()}[order]
    path = write(tmp_path / "x.fits", {name: values[:0] for name, values in columns.items()})
    assert read_line_catalogue(path).equals(LINE_SCHEMA.empty_table())


def test_columns_are_found_in_any_case(tmp_path):
    for name, columns in (("p", portsmouth()), ("m", mpa()), ("f", fastspec())):
        upper = read_line_catalogue(write(tmp_path / f"{name}.fits", columns))
        cases = [str.title, str.lower, str.upper] * len(columns)
        mixed = {case(k): v for case, (k, v) in zip(cases, columns.items(), strict=False)}
        assert_same(read_line_catalogue(write(tmp_path / f"{name}2.fits", mixed)), upper)


@pytest.mark.parametrize(
    "name",
    [
        "portsmouth_emlinekin_full-DR9.fits",
        "portsmouth_emlinekin_full-v5_4_45.fits",
        "emissionLinesPort_dr9.csv",
    ],
)
def test_the_first_portsmouth_release_is_refused_for_its_equivalent_widths(tmp_path, name):
    path = tmp_path / name
    if name.endswith("csv"):
        pa_csv.write_csv(pa.table(cas_columns()), path)
    else:
        write(path, portsmouth())
    with pytest.raises(SpectraScaleError, match="wrong by a factor of 1 \\+ z"):
        read_line_catalogue(path)


def damaged(folder):
    whole = write(folder / "whole.fits", portsmouth()).read_bytes()
    fast = write_fastspec(folder / "fast.fits").read_bytes()
    yield "empty.fits", b""
    yield "page.fits", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    yield "page.csv", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    yield "cut.fits", whole[:-3000]
    yield "cut_header.fits", whole[:4000]
    yield "cut_models.fits", fast[:-100000]
    yield "cut_fast.fits", fast[: 2880 * 10]
    yield "cut.fits.gz", gzip.compress(whole)[:-200]
    yield "noise.fits", np.random.default_rng(1).bytes(5000)
    yield "noise.parquet", b"PAR1" + bytes(100)
    yield "no_table.fits", whole[:2880]


def test_a_damaged_line_table_is_an_error_that_names_it(tmp_path):
    for name, content in damaged(tmp_path):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SpectraScaleError, match=name):
            read_line_catalogue(path)


@pytest.mark.parametrize("whole", [0, 1 << 26])
def test_a_packed_table_is_read_as_an_unpacked_one_and_its_end_is_missed(
    tmp_path, monkeypatch, whole
):
    # Above a size, gzip files are unpacked as they are read.
    monkeypatch.setattr(fits_files, "_GZIP_WHOLE", whole)
    monkeypatch.setattr(fits_named, "_BLOCK_BYTES", 300)
    plain = write_fastspec(tmp_path / "f.fits", ORDERS[1])
    path = tmp_path / "g.fits.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    assert_same(read_line_catalogue(path), read_line_catalogue(plain))
    for name in ("FASTSPEC", "METADATA"):
        with fits.open(plain) as hdus:
            at = hdus[name]._header_offset + 4000
        path.write_bytes(gzip.compress(plain.read_bytes()[:at]))
        with pytest.raises(SpectraScaleError, match=r"g\.fits\.gz"):
            read_line_catalogue(path)
        path.write_bytes(gzip.compress(plain.read_bytes())[:-100])
        with pytest.raises(SpectraScaleError, match=r"g\.fits\.gz"):
            read_line_catalogue(path)


def test_a_pipe_or_a_folder_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.fits")
    for path in (tmp_path / "pipe.fits", tmp_path, tmp_path / "nothing.fits"):
        with pytest.raises(SpectraScaleError, match="no file"):
            read_line_catalogue(path)


def test_bytes_that_flip_never_crash_a_reader(tmp_path):
    rng = np.random.default_rng(7)
    wholes = [write(tmp_path / "p.fits", portsmouth()), write_fastspec(tmp_path / "f.fits")]
    refused = 0
    for whole in wholes:
        content = np.frombuffer(whole.read_bytes(), "u1")
        # Headers and tables, not the zeros of the models.
        reach = min(len(content), 60_000)
        for _ in range(150):
            bad = content.copy()
            bad[rng.integers(reach, size=rng.integers(1, 20))] = rng.integers(256, dtype="u1")
            path = tmp_path / "bad.fits"
            path.write_bytes(bad.tobytes())
            try:
                assert read_line_catalogue(path).schema == LINE_SCHEMA
            except SpectraScaleError:
                refused += 1
    assert refused > 0


def test_a_line_table_larger_than_its_blocks_is_read_in_little_memory(tmp_path):
    import tracemalloc

    n = 30_000
    columns = {name: np.resize(v, (n, *v.shape[1:])) for name, v in fastspec().items()}
    columns["TARGETID"] = np.arange(n)
    # Columns that are not wanted: 2 kB a row, 60 MB in all.
    columns["COEFF"] = np.zeros((n, 512), "f4")
    path = tmp_path / "f.fits"
    fits.HDUList([fits.PrimaryHDU(), table_hdu(columns, "FASTSPEC")]).writeto(path)
    size = path.stat().st_size
    tracemalloc.start()
    assert read_line_catalogue(path).num_rows == n
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A block of 32 MiB and its columns; the file is twice that.
    assert peak < 0.75 * size
