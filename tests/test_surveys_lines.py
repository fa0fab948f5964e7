"""Emission-line tables: formats.md A4."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from astropy.io import fits
from surveys_builders import SHARED, line_columns, table_hdu, write_spec

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys.lines import (
    LINE_COLUMNS,
    LINE_SCHEMA,
    lines_from_spzline,
    read_line_catalogue,
)
from spectra_scale.surveys.sdss_spec import read_spec

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
    table = read_line_catalogue(path)
    with fits.open(path) as hdus:
        data = hdus[1].data
        assert table.num_rows == len(data)
        for line, name in CAS_NAMES.items():
            flux, error = data[f"Flux_{name}"], data[f"Flux_{name}_Err"]
            valid = (error > 0) & np.isfinite(error) & (flux != -9999)
            expected = np.where(valid, flux, np.nan)
            np.testing.assert_array_equal(table[f"{line}_flux"], expected)
    assert set(table["source"].to_pylist()) == {"cas"}


@needs_real_files
@pytest.mark.parametrize("name", ["RESOLVE_SDSS_all_dext.fits", "dr12PeastoPortStarforming.fits"])
def test_real_tables_of_another_kind_are_refused_with_their_columns(name):
    with pytest.raises(SpectraScaleError, match="no line catalogue: found columns"):
        read_line_catalogue(SHARED / "catalogues" / name)
