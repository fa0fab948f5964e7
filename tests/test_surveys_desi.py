"""DESI coadds: formats.md A5, science.md §2."""

import gzip
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from desi_builders import (
    ARMS,
    NAME,
    TILE_HEADER,
    coadd_hdus,
    target_ids,
    wavelength,
    write_coadd,
)
from hypothesis import given
from hypothesis import strategies as st
from surveys_builders import SHARED

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.arms_kernels import combine_overlap
from spectra_scale.spectrum.grid import DESI_NATIVE
from spectra_scale.surveys.desi import CoaddPlace, coadd_name, find_redrock
from spectra_scale.surveys.desi_coadd import read_coadd
from spectra_scale.surveys.desi_hdus import open_desi
from spectra_scale.surveys.reasons import Reason

N_PIXELS = DESI_NATIVE.n_pixels
REAL = sorted((SHARED / "desi").glob("coadd-*")) + sorted((SHARED / "desi").glob("spectra-*"))
REAL += sorted((SHARED / "malformed" / "desi").glob("*.fits"))
needs_real_files = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")


def reason_of(path, **arguments):
    with pytest.raises(BadSpectrumError) as caught:
        read_coadd(path, **arguments)
    assert caught.value.message
    return caught.value.reason


class Reference:
    """Arms merged in float64, pixel by pixel where they overlap, read by astropy."""

    def __init__(self, path):
        with fits.open(path, memmap=False) as hdus:
            names = [hdu.name for hdu in hdus]
            self.ids = np.array(hdus["FIBERMAP"].data["TARGETID"])
            shape = (len(self.ids), N_PIXELS)
            self.weight, self.sum = np.zeros(shape), np.zeros(shape)
            self.single = np.full(shape, np.nan, "f4")
            self.n_arms, self.mask = np.zeros(shape, int), np.zeros(shape, "u4")
            self.scale = np.zeros(shape)
            for arm in "BRZ":
                if {f"{arm}_FLUX", f"{arm}_IVAR"} <= set(names):
                    self.add(arm, hdus, names)
        self.mask[self.weight > 0] = 0

    def add(self, arm, hdus, names):
        flux, ivar = (hdus[f"{arm}_{kind}"].data.astype("f8") for kind in ("FLUX", "IVAR"))
        k = np.rint(hdus[f"{arm}_WAVELENGTH"].data / 0.8).astype(int) - 4500
        with np.errstate(invalid="ignore"):
            good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
        self.single[:, k] = np.where(good, hdus[f"{arm}_FLUX"].data, self.single[:, k])
        self.n_arms[:, k] += good
        self.weight[:, k] += np.where(good, ivar, 0)
        self.sum[:, k] += np.where(good, ivar * np.where(good, flux, 0), 0)
        self.scale[:, k] = np.maximum(self.scale[:, k], np.where(good, np.abs(flux), 0))
        if f"{arm}_MASK" in names:
            self.mask[:, k] |= hdus[f"{arm}_MASK"].data.astype("u4")

    def check(self, block, rows=slice(None)):
        weight, n_arms = self.weight[rows], self.n_arms[rows]
        # float64 sums rounded once to float32, whose half unit is 6e-8 of the number.
        np.testing.assert_allclose(block.ivar, weight, rtol=1.2e-7, atol=0)
        np.testing.assert_array_equal(block.mask_bits, self.mask[rows])
        assert (block.ivar[n_arms == 1] == weight[n_arms == 1]).all()
        single = self.single[rows][n_arms == 1]
        np.testing.assert_array_equal(block.flux[n_arms == 1], single)
        both = n_arms == 2
        mean = self.sum[rows][both] / weight[both]
        assert (np.abs(block.flux[both] - mean) <= 1.2e-7 * self.scale[rows][both]).all()
        assert not (n_arms > 2).any()


# Arms merged -----------------------------------------------------------------------------------


@needs_real_files
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_arms_of_real_files_are_merged_as_in_float64(path, tmp_path):
    # This one lies in a folder of another survey than its own: see the test of names.
    named = path.name.replace("coadd-main-dark-9144", "coadd-sv3-dark-9144")
    copy = tmp_path / named
    shutil.copy(path, copy)
    block, reference = read_coadd(copy), Reference(copy)
    reference.check(block)
    assert (block.first_pixel, block.flux.shape[1]) == (4500, N_PIXELS)
    usable = (reference.weight > 0).any(axis=1)
    assert [not reason for reason in block.reason] == usable.tolist()
    assert not block.n_repaired.any()
    some = np.arange(len(usable))[::-2]
    reference.check(read_coadd(copy, reference.ids[some]), some)


def test_arms_are_merged_as_in_float64(tmp_path):
    path = write_coadd(tmp_path, n_rows=400, resolution=False)
    block, reference = read_coadd(path), Reference(path)
    reference.check(block)
    # Both arms of an overlap have a pixel, or one, or none: all cases are there.
    overlap = reference.n_arms[:, 2700:2751]
    assert sorted(np.unique(overlap)) == [0, 1, 2]
    assert list(block.reason) == list(block.message) == [""] * 400


def test_pixel_k_is_the_wavelength_k_times_the_step(tmp_path):
    hdus = coadd_hdus(1)
    for arm in ARMS:
        hdus[f"{arm}_FLUX"].data[:] = wavelength(arm)
    hdus.writeto(tmp_path / NAME)
    block = read_coadd(tmp_path / NAME)
    k = block.first_pixel + np.arange(N_PIXELS)
    good = block.ivar[0] > 0
    # float32 holds wavelengths to 5e-4 Å; pixels are 0.8 Å apart.
    np.testing.assert_allclose(block.flux[0][good], 0.8 * k[good], atol=1e-3)


_NUMBERS = st.floats(-(2.0**20), 2.0**20, width=32)
_WEIGHTS = st.one_of(st.just(0.0), st.floats(2.0**-20, 2.0**20, width=32))


@given(st.lists(st.tuples(_NUMBERS, _WEIGHTS, _NUMBERS, _WEIGHTS), min_size=1, max_size=20))
def test_no_value_fits_two_arms_better_than_their_merge(pixels):
    f1, v1, f2, v2 = (np.array(values, "f4")[None] for values in zip(*pixels, strict=True))
    flux, ivar = f1.copy(), v1.copy()
    combine_overlap(f2.copy(), v2.copy(), flux, ivar, np.zeros(1, np.int64), 0)
    f1, v1, f2, v2, merged = (array.astype("f8") for array in (f1, v1, f2, v2, flux))
    np.testing.assert_allclose(ivar, v1 + v2, rtol=1.2e-7)

    def chi2(value):
        return v1 * (f1 - value) ** 2 + v2 * (f2 - value) ** 2

    # The merge is rounded to float32: χ² rises by its curvature times half a unit, squared.
    rounding = (v1 + v2) * (6e-8 * np.maximum(np.abs(f1), np.abs(f2))) ** 2
    slack = rounding + 1e-9 * chi2(merged)
    for other in (f1, f2, 0.5 * (f1 + f2), merged + 1, merged - 1):
        assert (chi2(merged) <= chi2(other) + slack).all()
    only = (v1 > 0) != (v2 > 0)
    assert (merged[only] == np.where(v1 > 0, f1, f2)[only]).all()


# Rows ------------------------------------------------------------------------------------------


def test_spectra_come_in_the_order_asked_for(tmp_path):
    path = write_coadd(tmp_path, n_rows=75)
    whole, ids = read_coadd(path), target_ids(75)
    for rows in ([74, 0, 3, 3, 40], [5], list(range(1, 75, 3)), [1, 2, 4, 9, 10, 70], []):
        block = read_coadd(path, ids[rows])
        for name in ("flux", "ivar", "mask_bits", "n_repaired"):
            np.testing.assert_array_equal(getattr(block, name), getattr(whole, name)[rows])
    shuffled = np.random.default_rng(3).permutation(75)
    np.testing.assert_array_equal(read_coadd(path, ids[shuffled]).flux, whole.flux[shuffled])


def test_a_target_that_the_file_lacks_has_a_reason(tmp_path):
    path, ids = write_coadd(tmp_path), target_ids(4)
    # One more than an id of the file, which as a float64 would be the same.
    block = read_coadd(path, [ids[1], ids[1] + 1, -7, ids[0]])
    lost = str(Reason.ROW_WITHOUT_FIBRE)
    assert list(block.reason) == ["", lost, lost, ""]
    assert str(ids[1] + 1) in block.message[1]
    for array in (block.flux, block.ivar, block.mask_bits, block.n_repaired):
        assert not array[[1, 2]].any()
    np.testing.assert_array_equal(block.flux[[3, 0]], read_coadd(path).flux[:2])


def test_arrays_that_are_there_are_filled(tmp_path):
    path, ids = write_coadd(tmp_path), target_ids(4)
    whole = read_coadd(path)
    out = (
        np.full((3, N_PIXELS), 7, "f4"),
        np.full((3, N_PIXELS), 7, "f4"),
        np.zeros((3, N_PIXELS), "u4"),
    )
    block = read_coadd(path, [ids[2], 5, ids[0]], out)
    assert np.shares_memory(block.flux, out[0])
    for new, old in ((out[0], whole.flux), (out[1], whole.ivar), (out[2], whole.mask_bits)):
        np.testing.assert_array_equal(new[[0, 2]], old[[2, 0]])
        assert not new[1].any()


# What is missing or wrong ----------------------------------------------------------------------


def test_pixels_that_cannot_be_used_become_missing_and_are_counted(tmp_path):
    hdus = coadd_hdus(2)
    for arm in ARMS:
        hdus[f"{arm}_IVAR"].data[:] = 1
        hdus[f"{arm}_MASK"].data[:] = 0
    flux, ivar = hdus["B_FLUX"].data, hdus["B_IVAR"].data
    flux[0, 10:12] = np.nan, np.inf
    ivar[0, 12:16] = np.nan, np.inf, -np.inf, -1
    ivar[0, 16] = -0.0
    flux[0, 17], ivar[0, 17] = np.nan, 0  # missing already
    # In the overlap the other arm has the pixel.
    ivar[0, 2749] = -1
    hdus["R_FLUX"].data[0, 50] = np.nan
    hdus.writeto(tmp_path / NAME)
    block = read_coadd(tmp_path / NAME)
    np.testing.assert_array_equal(block.n_repaired, [8, 0])
    assert np.flatnonzero(block.ivar[0] == 0).tolist() == list(range(10, 18))
    assert block.ivar[0, 2749] == 1
    assert block.flux[0, 2749] == hdus["R_FLUX"].data[0, 49]
    assert block.flux[0, 2750] == flux[0, 2750]
    assert list(block.reason) == ["", ""]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("IVAR", 0, Reason.ALL_IVAR_ZERO),
        ("IVAR", -1, Reason.BAD_IVAR),
        ("IVAR", np.inf, Reason.BAD_IVAR),
        ("FLUX", np.nan, Reason.NON_FINITE_FLUX),
    ],
)
def test_a_spectrum_without_usable_pixels_has_a_reason(tmp_path, name, value, reason):
    hdus = coadd_hdus(3)
    for arm in ARMS:
        hdus[f"{arm}_{name}"].data[1] = value
    hdus.writeto(tmp_path / NAME)
    block = read_coadd(tmp_path / NAME)
    assert list(block.reason) == ["", reason, ""]
    assert block.message[1]
    assert not block.ivar[1].any()


def test_an_arm_that_a_spectrum_or_the_file_lacks_is_named(tmp_path):
    hdus = coadd_hdus(3)
    hdus["R_IVAR"].data[1] = 0
    hdus.writeto(tmp_path / NAME)
    block = read_coadd(tmp_path / NAME)
    assert list(block.message) == ["", "no usable pixel in arm R", ""]
    del hdus["Z_FLUX"]
    hdus.writeto(tmp_path / NAME, overwrite=True)
    block = read_coadd(tmp_path / NAME)
    assert list(block.reason) == ["", "", ""]
    assert block.message[0] == "the file has no arm Z"
    assert "R, Z" in block.message[1]
    # Where no arm is, nothing is: not what was in memory before.
    assert not block.ivar[:, 9526 - 4500 :].any()
    assert not block.flux[:, 9526 - 4500 :].any()
    assert not block.mask_bits[:, 9526 - 4500 :].any()
    Reference(tmp_path / NAME).check(block)


@pytest.mark.parametrize("arms", ["B", "R", "Z", "BZ", "RZ", "BR"])
def test_whatever_arms_there_are_are_read(tmp_path, arms):
    path = write_coadd(tmp_path, arms=arms)
    block = read_coadd(path)
    Reference(path).check(block)
    assert (
        block.message[0] == f"the file has no arm {', '.join(a for a in 'BRZ' if a not in arms)}"
    )


def test_a_file_without_arms_or_fibermap_has_a_reason(tmp_path):
    assert reason_of(write_coadd(tmp_path, arms="")) == Reason.MISSING_HDU
    hdus = coadd_hdus()
    for arm in ARMS:
        del hdus[f"{arm}_IVAR"]
    hdus.writeto(tmp_path / NAME, overwrite=True)
    assert reason_of(tmp_path / NAME) == Reason.MISSING_HDU
    hdus = coadd_hdus()
    del hdus["B_WAVELENGTH"]
    hdus.writeto(tmp_path / NAME, overwrite=True)
    assert reason_of(tmp_path / NAME) == Reason.MISSING_HDU
    hdus = coadd_hdus()
    del hdus["FIBERMAP"]
    hdus.writeto(tmp_path / NAME, overwrite=True)
    assert reason_of(tmp_path / NAME) == Reason.MISSING_HDU
    fits.PrimaryHDU().writeto(tmp_path / NAME, overwrite=True)
    assert reason_of(tmp_path / NAME) == Reason.MISSING_HDU
    assert reason_of(write_coadd(tmp_path, TARGETID=None)) == Reason.MISSING_COLUMN
    assert reason_of(write_coadd(tmp_path, n_rows=0)) == Reason.NO_ROWS


OFF_GRID = {
    "a quarter of a pixel": lambda wave: wave + 0.2,
    "stretched": lambda wave: wave * 1.0001,
    "descending": lambda wave: wave[::-1],
    "bluer than the grid": lambda wave: wave - 2400,
    "redder than the grid": lambda wave: wave + 8000,
    "nan": lambda wave: np.full_like(wave, np.nan),
    "one nan": lambda wave: np.where(np.arange(len(wave)) == 9, np.nan, wave),
    "log": np.log10,
}


@pytest.mark.parametrize("change", OFF_GRID.values(), ids=OFF_GRID)
def test_wavelengths_off_the_grid_are_refused(tmp_path, change):
    hdus = coadd_hdus()
    hdus["R_WAVELENGTH"].data = change(wavelength("R"))
    hdus.writeto(tmp_path / NAME)
    assert reason_of(tmp_path / NAME) == Reason.BAD_WAVELENGTH


def test_dust_on_wavelengths_and_single_precision_do_not_matter(tmp_path):
    path = write_coadd(tmp_path)
    expected = read_coadd(path).flux
    hdus = coadd_hdus()
    hdus["B_WAVELENGTH"].data += 5e-10
    hdus["Z_WAVELENGTH"].data = wavelength("Z").astype("f4")
    hdus.writeto(path, overwrite=True)
    np.testing.assert_array_equal(read_coadd(path).flux, expected)


@pytest.mark.parametrize("name", ["B_FLUX", "R_IVAR", "Z_MASK", "B_WAVELENGTH"])
def test_images_that_do_not_fit_together_are_refused(tmp_path, name):
    hdus = coadd_hdus()
    hdus[name].data = hdus[name].data[..., :-1]
    hdus.writeto(tmp_path / NAME)
    assert reason_of(tmp_path / NAME) == Reason.UNREADABLE


# How files are written -------------------------------------------------------------------------


def assert_same_spectra(one, other):
    for name in ("flux", "ivar", "mask_bits", "n_repaired"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (list(one.reason), list(one.message)) == (list(other.reason), list(other.message))


def test_hdus_are_found_by_name_in_any_order_and_case(tmp_path):
    path = write_coadd(tmp_path)
    expected = read_coadd(path)
    hdus = coadd_hdus()
    for hdu in hdus[1:]:
        hdu.name = hdu.name.lower()
        hdu.header["EXTNAME"] = hdu.name.lower()
    random.Random(5).shuffle(rest := list(hdus[1:]))
    fits.HDUList([hdus[0], *rest]).writeto(path, overwrite=True)
    assert b"b_flux" in path.read_bytes()
    assert_same_spectra(read_coadd(path), expected)


def test_gzipped_files_read_alike_whatever_they_are_called(tmp_path):
    path = write_coadd(tmp_path, resolution=False)
    expected = read_coadd(path)
    packed = gzip.compress(path.read_bytes(), 1)
    for name in (NAME + ".gz", NAME):
        (tmp_path / name).write_bytes(packed)
        assert_same_spectra(read_coadd(tmp_path / name), expected)
        ids = target_ids(4)[[2, 0]]
        np.testing.assert_array_equal(read_coadd(tmp_path / name, ids).flux, expected.flux[[2, 0]])


def test_fpacked_files_read_alike(tmp_path):
    expected = read_coadd(write_coadd(tmp_path))
    path = tmp_path / (NAME + ".fz")
    packed_hdus(coadd_hdus()).writeto(path)
    assert_same_spectra(read_coadd(path), expected)
    np.testing.assert_array_equal(
        read_coadd(path, target_ids(4)[[3, 1]]).mask_bits, expected.mask_bits[[3, 1]]
    )


@pytest.mark.parametrize("kind", ["i4", "i2", "u1", "i8", "u2"])
def test_masks_of_any_integer_type_have_the_same_bits(tmp_path, kind):
    hdus = coadd_hdus()
    for arm in ARMS:
        hdus[f"{arm}_MASK"].data &= 0x7F
    hdus.writeto(tmp_path / NAME)
    expected = read_coadd(tmp_path / NAME)
    assert expected.mask_bits.any()
    for arm in ARMS:
        plain = fits.ImageHDU(hdus[f"{arm}_MASK"].data.astype(kind), name=f"{arm}_MASK")
        hdus[f"{arm}_MASK"] = plain
    hdus.writeto(tmp_path / NAME, overwrite=True)
    assert_same_spectra(read_coadd(tmp_path / NAME), expected)


def test_a_coadd_without_masks_is_read(tmp_path):
    hdus = coadd_hdus()
    expected = read_coadd(write_coadd(tmp_path))
    for arm in ARMS:
        del hdus[f"{arm}_MASK"]
    hdus.writeto(tmp_path / NAME, overwrite=True)
    block = read_coadd(tmp_path / NAME)
    assert not block.mask_bits.any()
    np.testing.assert_array_equal(block.ivar, expected.ivar)


def test_scaled_and_double_images_are_left_to_astropy(tmp_path):
    hdus = coadd_hdus()
    hdus["B_FLUX"].data = hdus["B_FLUX"].data.astype("f8")
    hdus["R_FLUX"].data = np.rint(hdus["R_FLUX"].data * 100).astype("i2")
    hdus.writeto(tmp_path / NAME)
    with fits.open(tmp_path / NAME, mode="update", do_not_scale_image_data=True) as found:
        found["R_FLUX"].header["BSCALE"] = 0.01
        found["R_FLUX"].header["BZERO"] = 1.0
    block = read_coadd(tmp_path / NAME)
    with fits.open(tmp_path / NAME) as found:
        scaled = found["R_FLUX"].data.astype("f4")
    assert scaled.mean() == pytest.approx(4, abs=0.1)
    np.testing.assert_array_equal(block.flux[:, 2751:4900], scaled[:, 51:2200])
    np.testing.assert_array_equal(block.flux[:, :2700], hdus["B_FLUX"].data[:, :2700].astype("f4"))


def bytes_read():
    with Path("/proc/self/io").open() as file:
        return int(next(line for line in file if line.startswith("rchar")).split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc/self/io of Linux")
def test_not_one_byte_of_resolution_is_read(tmp_path):
    path = write_coadd(tmp_path, n_rows=20)
    with fits.open(path) as hdus:
        needed = sum(
            hdu._data_size for hdu in hdus if "RESOLUTION" not in hdu.name and hdu.name != "SCORES"
        )
        headers = sum(hdu._data_offset - hdu._header_offset for hdu in hdus)
        at = hdus["B_RESOLUTION"]._data_offset
    read_coadd(path)  # modules are loaded, kernels compiled
    before = bytes_read()
    expected = read_coadd(path)
    # 200 bytes: the first bytes are looked at, and the counter is read itself.
    assert bytes_read() - before <= needed + headers + 400
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 1000)
    assert_same_spectra(read_coadd(path), expected)


def test_only_the_rows_asked_for_are_read(tmp_path):
    path = write_coadd(tmp_path, n_rows=60)
    read_coadd(path, target_ids(60)[:1])
    before = bytes_read()
    read_coadd(path, target_ids(60)[30:32])
    rows = 2 * 12 * sum(n_pixels for _, n_pixels in ARMS.values())
    wavelengths = 8 * sum(n_pixels for _, n_pixels in ARMS.values())
    # Headers and FIBERMAP besides.
    assert bytes_read() - before < rows + wavelengths + 30 * 2880


# Damaged files ---------------------------------------------------------------------------------


def test_a_cut_file_has_a_reason_unless_all_spectra_are_there(tmp_path):
    whole = write_coadd(tmp_path)
    content = whole.read_bytes()
    expected = read_coadd(whole)
    with fits.open(whole) as hdus:
        places = {hdu.name: hdu._data_offset for hdu in hdus}
    for name in ("FIBERMAP", "B_WAVELENGTH", "B_FLUX", "B_RESOLUTION", "R_IVAR", "Z_MASK"):
        for more in (-1000, 100):
            whole.write_bytes(content[: places[name] + more])
            assert reason_of(whole) == Reason.TRUNCATED, (name, more)
    # RESOLUTION of the last arm and SCORES are not needed.
    whole.write_bytes(content[: places["Z_RESOLUTION"] + 100])
    assert_same_spectra(read_coadd(whole), expected)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"SIMPLE  =", b"\x1f\x8bxx"])
def test_what_is_no_fits_file_has_a_reason(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    assert reason_of(tmp_path / NAME) in {
        Reason.EMPTY_FILE, Reason.NOT_FITS, Reason.TRUNCATED, Reason.UNREADABLE
    }  # fmt: skip
    assert reason_of(tmp_path) == Reason.UNREADABLE
    assert reason_of(tmp_path / "absent.fits") == Reason.UNREADABLE


def test_a_cut_gzip_stream_has_a_reason(tmp_path):
    packed = gzip.compress(write_coadd(tmp_path, resolution=False).read_bytes(), 1)
    (tmp_path / NAME).write_bytes(packed[: len(packed) // 2])
    assert reason_of(tmp_path / NAME) == Reason.TRUNCATED


def test_a_damaged_header_is_not_taken_for_a_missing_arm(tmp_path):
    path = write_coadd(tmp_path)
    with fits.open(path) as hdus:
        at = hdus["B_RESOLUTION"]._header_offset
    content = bytearray(path.read_bytes())
    card = content.index(b"NAXIS2  =", at)
    content[card + 29 : card + 30] = b"2"  # 11 becomes 12: the next header is not found
    path.write_bytes(content)
    assert reason_of(path) == Reason.UNREADABLE


def test_a_file_that_is_cut_or_written_to_while_it_is_read_is_noticed(tmp_path):
    path = write_coadd(tmp_path)

    def read_and(change):
        with open_desi(path) as file:
            change()
            file.image(file.find("Z_FLUX"))

    with pytest.raises(BadSpectrumError) as caught:
        read_and(lambda: os.truncate(path, 10_000))
    assert caught.value.reason == Reason.FILE_CHANGED
    write_coadd(tmp_path)
    with pytest.raises(BadSpectrumError) as caught:
        read_and(lambda: os.utime(path, ns=(0, 0)))
    assert caught.value.reason == Reason.FILE_CHANGED


def test_a_read_that_gives_less_than_was_asked_for_is_completed(tmp_path, monkeypatch):
    path = write_coadd(tmp_path, n_rows=5)
    expected = read_coadd(path)
    whole, rng = os.preadv, random.Random(0)

    def short(fd, parts, start):
        if not len(parts[0]):
            return whole(fd, parts, start)
        return whole(fd, [parts[0][: rng.randrange(1, len(parts[0]) + 1)]], start)

    monkeypatch.setattr(os, "preadv", short)
    assert_same_spectra(read_coadd(path), expected)
    ids = target_ids(5)[[4, 2, 0]]
    np.testing.assert_array_equal(read_coadd(path, ids).flux, expected.flux[[4, 2, 0]])


def test_a_read_error_is_a_reason(tmp_path, monkeypatch):
    path = write_coadd(tmp_path)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    assert reason_of(path) == Reason.UNREADABLE


def _damaged(content, rng, header_ends):
    """One change: a byte of a header or of the data, a stretch of zeros, a cut."""
    made = bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        start, stop = rng.choice(header_ends)
        at = rng.randrange(start, stop)
        made[at] = rng.choice(b"0123456789 'TF-+.E=BRZ")
    elif kind == 1:
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        at = rng.randrange(len(made))
        made[at : at + 2880] = bytes(len(made[at : at + 2880]))
    else:
        del made[rng.randrange(len(made)) :]
    return bytes(made)


def read_or_reason(path):
    try:
        return read_coadd(path)
    except BadSpectrumError as error:
        return Reason(error.reason)


def check_damaged(folder, hdus, n_cases, seed):
    path = folder / NAME
    hdus.writeto(path)
    with fits.open(path, disable_image_compression=True) as found:
        ends = [(hdu._header_offset, hdu._data_offset) for hdu in found]
    content, rng = path.read_bytes(), random.Random(seed)
    n_read = 0
    for _ in range(n_cases):
        path.write_bytes(_damaged(content, rng, ends))
        block = read_or_reason(path)
        if isinstance(block, Reason):
            continue
        n_read += 1
        assert np.isfinite(block.ivar).all()
        assert (block.ivar >= 0).all()
        assert np.isfinite(block.flux[block.ivar > 0]).all()
        assert not block.mask_bits[block.ivar > 0].any()
        assert [not reason for reason in block.reason] == (block.ivar > 0).any(axis=1).tolist()
    # Most changes of a bit of flux are sound; most of headers are not.
    assert 0 < n_read < n_cases


def packed_hdus(hdus):
    """What fpack makes of the images, without loss."""
    gzipped = {"compression_type": "GZIP_2", "quantize_level": 0}
    return fits.HDUList([
        fits.CompImageHDU(hdu.data, hdu.header, name=hdu.name, **(
            {"compression_type": "RICE_1"} if hdu.name.endswith("MASK") else gzipped
        )) if isinstance(hdu, fits.ImageHDU) else hdu
        for hdu in hdus
    ])  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_gives_sound_spectra_or_a_reason(tmp_path, seed):
    check_damaged(tmp_path, coadd_hdus(2, resolution=False), 100, seed)


def test_a_damaged_packed_file_gives_sound_spectra_or_a_reason(tmp_path):
    check_damaged(tmp_path, packed_hdus(coadd_hdus(1, resolution=False)), 8, 1)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_thousands_of_damaged_files_give_sound_spectra_or_a_reason(tmp_path):
    check_damaged(tmp_path, coadd_hdus(2, resolution=False), 4000, 10)
    (tmp_path / NAME).unlink()
    check_damaged(tmp_path, packed_hdus(coadd_hdus(1, resolution=False)), 200, 11)


# Names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("coadd-main-dark-9144.fits", CoaddPlace("main", "dark", 9144)),
        ("coadd-sv3-bright-26065.fits.gz", CoaddPlace("sv3", "bright", 26065)),
        ("COADD-MAIN-DARK-1.FITS", CoaddPlace("main", "dark", 1)),
        ("coadd-4-80613-thru20210324.fits", CoaddPlace("cumulative", "80613", -1)),
        ("coadd-0-1-thru20210324.fits", CoaddPlace("cumulative", "1", -1)),
        ("coadd-4-80613-20210324.fits", CoaddPlace("pernight", "80613.20210324", -1)),
        ("coadd-4-80613-exp00069042.fits", CoaddPlace("perexp", "80613.69042", -1)),
        ("coadd-4-80613-1xsubset2.fits", CoaddPlace("1x_depth", "80613.2", -1)),
        ("coadd-16-1.fits", CoaddPlace("", "", -1)),
        ("spectra-main-dark-9144.fits", None),
        ("coadd-main-dark.fits", None),
        ("redrock-main-dark-9144.fits", None),
        ("coadd-main-dark-9144.txt", None),
    ],
)
def test_a_name_says_what_a_coadd_is_of(name, place):
    assert coadd_name(name) == place
    assert coadd_name(Path("folder") / name) == place


def test_redshifts_are_found_beside_a_coadd(tmp_path):
    coadd = tmp_path / NAME
    assert find_redrock(coadd) is None
    for name in ("zbest-main-dark-9144.fits", "redrock-main-dark-9144.fits.gz",
                 "redrock-main-dark-9144.fits"):  # fmt: skip
        (tmp_path / name).touch()
        assert find_redrock(coadd) == tmp_path / name
        (tmp_path / "redrock-main-dark-9145.fits").touch()
    packed = tmp_path / (NAME + ".gz")
    assert find_redrock(packed) == tmp_path / "redrock-main-dark-9144.fits.gz"
    assert find_redrock(tmp_path / "other.fits") is None


@needs_real_files
def test_a_real_file_under_the_name_of_another_survey_is_refused():
    path = SHARED / "desi" / "coadd-main-dark-9144.fits"
    with pytest.raises(BadSpectrumError, match="sv3") as caught:
        read_coadd(path)
    assert caught.value.reason == Reason.IDENTITY_MISMATCH


@pytest.mark.parametrize(
    ("name", "header", "agrees"),
    [
        ("coadd-main-dark-9144.fits", {}, True),
        ("coadd-main-dark-9145.fits", {}, False),
        ("coadd-main-bright-9144.fits", {}, False),
        ("renamed.fits", {}, True),
        ("coadd-main-dark-9144.fits", {"SURVEY": "MAIN", "PROGRAM": "dark"}, True),
        ("coadd-4-80613-thru20210324.fits", {}, False),
        ("coadd-4-80613-thru20210324.fits", TILE_HEADER, True),
        ("coadd-4-80613-thru20210401.fits", TILE_HEADER, True),
        ("coadd-4-80614-thru20210324.fits", TILE_HEADER, False),
        ("coadd-4-80613-20210324.fits", TILE_HEADER, False),
        ("coadd-4-80613-20210324.fits", TILE_HEADER | {"SPGRP": "pernight"}, True),
        ("coadd-4-80613-20210325.fits", TILE_HEADER | {"SPGRP": "pernight"}, False),
        ("coadd-16-1.fits", {}, True),
    ],
)
def test_a_name_that_contradicts_the_header_is_refused(tmp_path, name, header, agrees):
    path = write_coadd(tmp_path, name, n_rows=1, resolution=False, header=header or None)
    if agrees:
        assert len(read_coadd(path)) == 1
    else:
        assert reason_of(path) == Reason.IDENTITY_MISMATCH


def test_a_coadd_of_which_neither_name_nor_header_says_a_survey_is_refused(tmp_path):
    for name in ("coadd-16-1.fits", "x.fits"):
        path = write_coadd(tmp_path, name, n_rows=1, resolution=False, header={"A": 1})
        assert reason_of(path) == Reason.IDENTITY_MISMATCH
    path = write_coadd(tmp_path, n_rows=1, resolution=False, header={"A": 1})
    assert len(read_coadd(path)) == 1
