"""SDSS plate files: formats.md A2."""

import gzip
import math

import numpy as np
import pytest
from astropy.io import fits
from surveys_builders import SHARED, plate_hdus, table_hdu, write_spec, zbest_columns

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.canonical import CATALOGUE_SCHEMA
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss import (
    SDSS_FIRST_PIXEL,
    SDSS_N_PIXELS,
    is_outside_native_grid,
    place_on_native,
)
from spectra_scale.surveys.sdss_plate import (
    find_zbest,
    read_plate,
    read_plate_block,
    read_zbest,
)
from spectra_scale.surveys.sdss_spec import read_spec

NAME = "spPlate-4055-55359.fits"


@pytest.fixture
def plate(tmp_path):
    path = tmp_path / NAME
    plate_hdus().writeto(path)
    return path


def write_zbest(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spZbest-4055-55359.fits"
    fits.HDUList([fits.PrimaryHDU(), table_hdu(zbest_columns(4, **changes))]).writeto(path)
    return path


def reason_of(function, *args):
    with pytest.raises(BadSpectrumError) as caught:
        function(*args)
    return caught.value.reason


def test_a_plate_is_read_as_astropy_reads_it(plate):
    found = read_plate(plate)
    with fits.open(plate) as hdus:
        np.testing.assert_array_equal(found.flux, hdus[0].data)
        np.testing.assert_array_equal(found.ivar, hdus[1].data)
        np.testing.assert_array_equal(found.mask_bits, hdus[2].data.view(">u4"))
    assert (found.flux.dtype, found.ivar.dtype, found.mask_bits.dtype) == ("f4", "f4", "u4")
    assert found.first_pixel == 35513
    assert found.fiber.tolist() == [1, 2, 3, 4]
    assert found.reason == [""] * 4


def test_some_fibres_are_those_of_all(plate):
    whole, some = read_plate(plate), read_plate(plate, [3, 1])
    assert some.fiber.tolist() == [3, 1]
    np.testing.assert_array_equal(some.flux, whole.flux[[2, 0]])
    np.testing.assert_array_equal(some.mask_bits, whole.mask_bits[[2, 0]])
    assert reason_of(read_plate, plate, [5]) == Reason.ROW_WITHOUT_FIBRE


def test_fibre_numbers_come_from_the_plug_map(tmp_path):
    hdus = plate_hdus()
    hdus[5].data["FIBERID"] = [501, 502, 503, 504]
    hdus.writeto(tmp_path / NAME)
    assert read_plate(tmp_path / NAME, [503]).fiber.tolist() == [503]
    hdus[:3].writeto(tmp_path / NAME, overwrite=True)
    assert read_plate(tmp_path / NAME).fiber.tolist() == [1, 2, 3, 4]


def test_a_gzipped_plate_is_read_alike(plate):
    packed = plate.with_suffix(".fits.gz")
    packed.write_bytes(gzip.compress(plate.read_bytes()))
    np.testing.assert_array_equal(read_plate(packed).flux, read_plate(plate).flux)


def test_a_fibre_that_cannot_be_used_has_a_reason_and_the_others_stay(tmp_path):
    hdus = plate_hdus(first_pixel=35470)
    hdus[1].data[:, :10] = 0
    hdus[1].data[0] = 0
    hdus[0].data[1] = np.nan
    hdus[1].data[2, 3] = 1  # a pixel with data before the first native one
    hdus[0].data[3, 20] = np.inf
    hdus.writeto(tmp_path / NAME)
    found = read_plate(tmp_path / NAME)
    assert found.reason == [
        Reason.ALL_IVAR_ZERO, Reason.NON_FINITE_FLUX, Reason.OUTSIDE_NATIVE_GRID, "",
    ]  # fmt: skip
    assert (found.ivar > 0).any(axis=1).tolist() == [False, False, False, True]
    assert found.n_repaired.tolist() == [0, 50, 0, 1]


def test_the_same_pixels_lie_on_the_same_native_columns_in_both_kinds_of_file(tmp_path):
    # A spec file is the trimmed row of its plate file.
    hdus = plate_hdus(n_pixels=60, first_pixel=35513)
    hdus.writeto(tmp_path / NAME)
    trimmed = {
        "flux": hdus[0].data[2, 5:].astype("f4"),
        "loglam": (np.arange(35518, 35573) * 1e-4).astype("f4"),
        "ivar": hdus[1].data[2, 5:].astype("f4"),
        "and_mask": hdus[2].data[2, 5:].astype("i4"),
    }
    spec = read_spec(write_spec(tmp_path, "x.fits", coadd=trimmed)).arrays
    plate = read_plate(tmp_path / NAME, [3])
    rows = [new_row(), new_row()]
    place_on_native(spec.first_pixel, (spec.flux, spec.ivar, spec.mask_bits), rows[0])
    arrays = (plate.flux[0], plate.ivar[0], plate.mask_bits[0])
    place_on_native(plate.first_pixel, arrays, rows[1])
    np.testing.assert_array_equal(rows[0][1], rows[1][1])
    good = rows[0][1] > 0
    np.testing.assert_array_equal(rows[0][0][good], rows[1][0][good])
    assert np.flatnonzero(good)[0] == 35518 - SDSS_FIRST_PIXEL


def new_row(n_pixels=SDSS_N_PIXELS):
    return tuple(np.zeros(n_pixels, dtype) for dtype in ("f4", "f4", "u4"))


@pytest.mark.parametrize("first", [30000, 35470, 35480, 38000, 40210, 40216, 45000])
def test_placing_keeps_what_is_inside_the_native_grid_and_only_that(first):
    n_pixels = 20
    ivar = np.arange(1, n_pixels + 1, dtype="f4")
    out = new_row()
    place_on_native(first, (ivar, ivar, ivar.astype("u4")), out)
    pixels = first + np.arange(n_pixels)
    inside = (pixels >= SDSS_FIRST_PIXEL) & (pixels < SDSS_FIRST_PIXEL + SDSS_N_PIXELS)
    expected = np.zeros(SDSS_N_PIXELS)
    expected[pixels[inside] - SDSS_FIRST_PIXEL] = ivar[inside]
    np.testing.assert_array_equal(out[1], expected)
    assert is_outside_native_grid(first, ivar) == (not inside.all())


@pytest.mark.parametrize("n_hdus", [1, 2])
def test_a_trimmed_plate_file_lacks_hdus(tmp_path, n_hdus):
    plate_hdus()[:n_hdus].writeto(tmp_path / NAME)
    assert reason_of(read_plate, tmp_path / NAME) == Reason.MISSING_HDU


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
def test_the_real_trimmed_plate_file_is_refused_by_name():
    path = SHARED / "sdss" / "spplate" / "spPlate-4055-55359-0020.fits"
    assert reason_of(read_plate, path) == Reason.MISSING_HDU


def test_other_damage_to_a_plate_file_has_a_reason(plate):
    content = plate.read_bytes()
    for cut, reason in ((3000, {"truncated"}), (2000, {"truncated", "unreadable"}),
                        (0, {"empty_file"})):  # fmt: skip
        plate.write_bytes(content[:cut])
        assert reason_of(read_plate, plate) in reason
    hdus = plate_hdus()
    hdus[0].header["COEFF1"] = 1.2e-4
    hdus.writeto(plate, overwrite=True)
    assert reason_of(read_plate, plate) == Reason.BAD_LOGLAM
    hdus = plate_hdus()
    hdus[1] = fits.ImageHDU(np.zeros((4, 59), "f4"))
    hdus.writeto(plate, overwrite=True)
    assert reason_of(read_plate, plate) == Reason.MISSING_HDU


def test_redshifts_lie_beside_the_plate_or_in_a_run1d_folder(plate):
    assert find_zbest(plate) is None
    old = write_zbest(plate.parent / "v5_6_0")
    new = write_zbest(plate.parent / "v5_7_0")
    assert find_zbest(plate) == new
    beside = write_zbest(plate.parent)
    assert find_zbest(plate) == beside
    beside.unlink()
    new.unlink()
    assert find_zbest(plate) == old


def test_redshifts_become_catalogue_rows(tmp_path):
    table = read_zbest(write_zbest(tmp_path))
    assert table.schema == CATALOGUE_SCHEMA
    row = table.to_pylist()[0]
    assert (row["spectrum_key"], row["reduction"]) == ("sdss:4055-55359-1", "v5_7_0")
    assert (row["survey"], row["instrument"], row["subclass"]) == ("boss", "BOSS", "BROADLINE")
    assert (row["specprimary"], row["platequality"]) == (-1, "")
    assert math.isnan(row["ebv"])
    assert table["targettype"].to_pylist() == ["SCIENCE", "SCIENCE", "SCIENCE", "SKY"]
    assert table["zwarning"].to_pylist() == [0, 1, 0, 1]
    # z is a float32 in the file.
    np.testing.assert_array_equal(table["z"], np.linspace(0.1, 0.3, 4).astype("f4"))


def test_the_reduction_of_a_legacy_plate_is_its_folder(tmp_path):
    path = write_zbest(tmp_path / "redux" / "26" / "0266", RUN2D=None)
    assert set(read_zbest(path)["reduction"].to_pylist()) == {"26"}
    path = write_zbest(tmp_path / "elsewhere", RUN2D=None)
    assert set(read_zbest(path, reduction="104")["reduction"].to_pylist()) == {"104"}


def test_positions_come_from_the_plug_map_where_the_redshifts_have_none(plate):
    zbest = write_zbest(plate.parent, PLUG_RA=None, PLUG_DEC=None)
    np.testing.assert_array_equal(read_zbest(zbest, plate)["ra"], np.linspace(10, 11, 4))
    assert reason_of(read_zbest, zbest) == Reason.MISSING_COLUMN


def test_damaged_redshifts_have_a_reason(tmp_path):
    path = write_zbest(tmp_path)
    path.write_bytes(b"")
    assert reason_of(read_zbest, path) == Reason.EMPTY_FILE
    path.write_bytes(b"<html>")
    assert reason_of(read_zbest, path) == Reason.NOT_FITS
    fits.PrimaryHDU().writeto(path, overwrite=True)
    assert reason_of(read_zbest, path) == Reason.UNREADABLE


# Blocks for ingest -----------------------------------------------------------------------------


def test_a_block_has_the_fibres_asked_for_in_order_and_a_reason_for_those_the_file_lacks(
    plate,
):
    whole = read_plate(plate)
    block = read_plate_block(plate, [3, 641, 1, 3, -1])
    np.testing.assert_array_equal(block.flux[[0, 2, 3]], whole.flux[[2, 0, 2]])
    np.testing.assert_array_equal(block.ivar[[0, 2, 3]], whole.ivar[[2, 0, 2]])
    np.testing.assert_array_equal(block.mask_bits[[0, 2, 3]], whole.mask_bits[[2, 0, 2]])
    lost = str(Reason.ROW_WITHOUT_FIBRE)
    assert list(block.reason) == ["", lost, "", "", lost]
    assert "641" in block.message[1]
    for array in (block.flux, block.ivar, block.mask_bits):
        assert not array[[1, 4]].any()
    assert block.first_pixel == 35513
    assert block.n_repaired.tolist() == [0] * 5


def test_an_unusable_fibre_of_a_block_says_what_was_found(tmp_path):
    hdus = plate_hdus()
    hdus[1].data[1] = -1
    hdus[0].data[2, 20] = np.nan
    hdus.writeto(tmp_path / NAME)
    block = read_plate_block(tmp_path / NAME, [1, 2, 3])
    assert list(block.reason) == ["", Reason.BAD_IVAR, ""]
    assert block.message[1]
    assert not block.ivar[1].any()
    assert block.n_repaired.tolist() == [0, 60, 1]
