"""MultimodalUniverse HDF5 files: formats.md A6, and what its public scripts write."""

import os

import h5py
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.grid import DESI_NATIVE, SDSS_NATIVE
from spectra_scale.spectrum.identity import desi_key, sdss_key, sdss_specobjid
from spectra_scale.surveys import mmu
from spectra_scale.surveys.canonical import CATALOGUE_SCHEMA
from spectra_scale.surveys.reasons import Reason

N = 5
# Plates of two lengths in one file: the shorter one is padded.
FIRST = np.array([35800, 35800, 35793, 35793, 35793])
LENGTH = np.array([3840, 3840, 3827, 3827, 3827])
PLATE = np.array([266, 266, 3606, 3606, 3606], "i4")
MJD = np.array([51602, 51602, 55182, 55182, 55182], "i4")
FIBER = np.array([1, 640, 2, 679, 1000], "i4")
RUN2D = np.array(["26", "26", "v5_13_2", "v5_13_2", "v5_13_2"])
IDS = sdss_specobjid(PLATE, FIBER, MJD, RUN2D)


def padded(rows, fill):
    """Rows of several lengths as one array; `fill` is a number, or 'edge'."""
    width = max(map(len, rows))
    return np.array(
        [
            np.pad(row, (0, width - len(row)), mode="edge")
            if fill == "edge"
            else np.pad(row, (0, width - len(row)), constant_values=fill)
            for row in rows
        ]
    )


def sdss_datasets(seed=1, **changes):
    """What is made of specObj and plate files: all columns, and the spectra padded at the end."""
    rng = np.random.default_rng(seed)
    wave = [
        (10 ** (3.0 + 1e-4 * (np.arange(n) + first - 30000))).astype("f4")
        for first, n in zip(FIRST, LENGTH, strict=True)
    ]
    flux = [rng.normal(10, 1, n).astype("f4") for n in LENGTH]
    ivar = [rng.uniform(0.5, 1.5, n).astype("f4") for n in LENGTH]
    for each in ivar:
        each[:4] = 0
    mask = [(rng.random(n) < 0.2) | (v <= 1e-6) for n, v in zip(LENGTH, ivar, strict=True)]
    found = {
        "object_id": np.array([f"{i:>22}" for i in IDS.tolist()], "S22"),
        "SPECOBJID": np.array([f"{i:>22}" for i in IDS.tolist()], "S22"),
        "SURVEY": np.array(["sdss  "] * 2 + ["boss  "] * 3, "S6"),
        "INSTRUMENT": np.array(["SDSS"] * 2 + ["BOSS"] * 3, "S4"),
        "PLATEQUALITY": np.full(N, "good    ", "S8"),
        "TARGETTYPE": np.full(N, "SCIENCE ", "S8"),
        "SPECPRIMARY": np.ones(N, "u1"),
        "RUN2D": RUN2D.astype("S7"),
        "PLATE": PLATE,
        "MJD": MJD,
        "FIBERID": FIBER,
        "PLUG_RA": np.linspace(10, 11, N),
        "PLUG_DEC": np.linspace(-1, 1, N),
        "CLASS": np.array(["GALAXY", "QSO   ", "GALAXY", "STAR  ", "GALAXY"], "S6"),
        "SUBCLASS": np.array(["", "BROADLINE", "STARFORMING", "K3", ""], "S21"),
        "Z": np.array([0.1, 0.2, 0.3, 0.0, 0.05], "f4"),
        "Z_ERR": np.full(N, 1e-5, "f4"),
        "ZWARNING": np.array([0, 16, 4, 0, 0], "i4"),
        "SN_MEDIAN_ALL": np.arange(N, dtype="f4"),
        "SN_MEDIAN": np.ones((N, 5), "f4"),
        "Z_NOQSO": np.array([0, 0, 0.31, 0, 0.05], "f4"),
        "ZWARNING_NOQSO": np.zeros(N, "i4"),
        "CLASS_NOQSO": np.array(["", "", "GALAXY", "STAR", "GALAXY"], "S6"),
        "ra": np.linspace(10, 11, N),
        "dec": np.linspace(-1, 1, N),
        "healpix": np.full(N, 1187, "i8"),
        "spectrum_lambda": padded(wave, -1),
        "spectrum_flux": padded(flux, "edge"),
        "spectrum_ivar": padded(ivar, 0),
        "spectrum_mask": padded(mask, True),  # noqa: FBT003
        "spectrum_lsf_sigma": np.ones((N, int(LENGTH.max())), "f4"),
    }
    return {name: v for name, v in (found | changes).items() if v is not None}


TARGETS = np.array([39627835576420141, 39628517884825354, 39628517884825355], "i8")


def desi_datasets(n_pixels=7781, seed=2, **changes):
    """What is made of zall-pix and coadds: arms merged, 3600 to 9824 Å."""
    rng = np.random.default_rng(seed)
    n = len(TARGETS)
    ivar = rng.uniform(0.5, 1.5, (n, n_pixels)).astype("f4")
    ivar[:, 100:110] = 0
    found = {
        "object_id": TARGETS,
        "TARGETID": TARGETS,
        "SURVEY": np.array(["sv3", "sv3", "main"], "S7"),
        "PROGRAM": np.array(["dark", "bright", "dark"], "S6"),
        "HEALPIX": np.array([26065, 26065, 9144], "i4"),
        "healpix": np.full(n, 1629, "i8"),
        "TARGET_RA": np.linspace(10, 11, n),
        "TARGET_DEC": np.linspace(-1, 1, n),
        "ra": np.linspace(10, 11, n),
        "dec": np.linspace(-1, 1, n),
        "Z": np.array([0.1, 0.2, 0.3]),
        "ZERR": np.full(n, 1e-5),
        "ZWARN": np.array([0, 4, 0], "i8"),
        "SPECTYPE": np.array(["GALAXY", "QSO", "STAR"], "S6"),
        "SUBTYPE": np.array(["", "LOZ", "M"], "S20"),
        "OBJTYPE": np.array(["TGT", "TGT", ""], "S3"),
        "COADD_FIBERSTATUS": np.zeros(n, "i4"),
        "EBV": np.full(n, 0.02, "f4"),
        "MEAN_MJD": np.array([59300.7, 59301.2, np.nan]),
        "ZCAT_PRIMARY": np.array([True, False, True]),
        "spectrum_lambda": np.tile((3600 + 0.8 * np.arange(n_pixels)).astype("f4"), (n, 1)),
        "spectrum_flux": rng.normal(10, 1, (n, n_pixels)).astype("f4"),
        "spectrum_ivar": ivar,
        "spectrum_mask": (rng.random((n, n_pixels)) < 0.1) | (ivar <= 1e-6),
        "spectrum_lsf_sigma": np.ones((n, n_pixels), "f4"),
    }
    return {name: v for name, v in (found | changes).items() if v is not None}


def write(path, datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
    return path


@pytest.fixture
def sdss(tmp_path):
    return write(tmp_path / "001-of-001.hdf5", sdss_datasets())


@pytest.fixture
def desi(tmp_path):
    return write(tmp_path / "desi.hdf5", desi_datasets())


def reason_of(function, *arguments):
    with pytest.raises(BadSpectrumError) as caught:
        function(*arguments)
    assert caught.value.message
    return caught.value.reason


# Rows -----------------------------------------------------------------------------------------


def test_rows_of_sdss_have_the_keys_of_the_surveys_own_files(sdss):
    table, lost = mmu.read_rows(sdss)
    assert lost == []
    assert table.schema == pa.schema([*CATALOGUE_SCHEMA, ("source_row", pa.int64())])
    assert table["spectrum_key"].to_pylist() == sdss_key(PLATE, MJD, FIBER).tolist()
    assert table["source_row"].to_pylist() == list(range(N))
    row = table.to_pylist()[1]
    assert (row["survey"], row["reduction"], row["instrument"]) == ("sdss", "26", "SDSS")
    assert (row["class"], row["subclass"], row["zwarning"]) == ("QSO", "BROADLINE", 16)
    assert (row["platequality"], row["targettype"], row["specprimary"]) == ("good", "SCIENCE", 1)
    assert row["specobjid"] == str(IDS[1])
    assert row["z"] == np.float32(0.2)
    assert (row["ra"], row["dec"]) == (10.25, -0.5)
    assert mmu.survey_of_file(sdss) == "sdss"


def test_what_a_short_export_lacks_is_taken_out_of_object_id(tmp_path):
    kept = ("object_id", "ra", "dec", "Z", "Z_ERR", "ZWARNING", "VDISP")
    whole = sdss_datasets(VDISP=np.ones(N, "f4"))
    short = {k: v for k, v in whole.items() if k in kept or k.startswith("spectrum")}
    # A flag instead of bits: some warning.
    short["ZWARNING"] = short["ZWARNING"] != 0
    table, lost = mmu.read_rows(write(tmp_path / "s.hdf5", short))
    assert lost == []
    assert table["spectrum_key"].to_pylist() == sdss_key(PLATE, MJD, FIBER).tolist()
    assert table["reduction"].to_pylist() == RUN2D.tolist()
    assert table["zwarning"].to_pylist() == [0, 1, 1, 0, 0]
    assert set(table["class"].to_pylist()) == {""}
    del short["ZWARNING"]
    table, _ = mmu.read_rows(write(tmp_path / "t.hdf5", short))
    # Not known is not "no warning".
    assert table["zwarning"].to_pylist() == [-1] * N


def test_rows_of_desi_have_the_keys_of_the_surveys_own_files(desi):
    table, lost = mmu.read_rows(desi)
    assert lost == []
    keys = desi_key(["sv3", "sv3", "main"], ["dark", "bright", "dark"], TARGETS)
    assert table["spectrum_key"].to_pylist() == keys.tolist()
    assert table.schema == mmu.ROW_SCHEMA
    first, second, third = table.to_pylist()
    assert (first["survey"], first["program"], first["targetid"]) == ("sv3", "dark", TARGETS[0])
    # HEALPIX is DESI's (nside 64); healpix is the cell of the file (nside 16).
    assert (first["healpix"], first["fiberstatus"], first["specprimary"]) == (26065, 0, 1)
    assert (second["zwarning"], second["class"], second["subclass"]) == (4, "QSO", "LOZ")
    assert (first["mjd"], third["mjd"]) == (59300, -1)
    assert (first["targettype"], third["targettype"]) == ("SCIENCE", "UNASSIGNED")
    assert (first["plate"], first["fiber"], first["field"]) == (-1, -1, -1)
    assert (second["z"], second["specprimary"], second["instrument"]) == (0.2, 0, "DESI")
    assert mmu.survey_of_file(desi) == "desi"


def test_every_row_is_kept_or_lost_with_a_reason(tmp_path):
    ids = sdss_datasets()["object_id"].copy()
    ids[1] = b"not an id"  # but it has plate, MJD and fibre
    ids[2] = str(IDS[3]).encode()  # another fibre's
    plate = PLATE.copy()
    plate[4] = -1
    path = write(tmp_path / "x.hdf5", sdss_datasets(object_id=ids, PLATE=plate))
    table, lost = mmu.read_rows(path)
    assert table["source_row"].to_pylist() == [0, 1, 3]
    assert [each.row for each in lost] == [2, 4]
    assert {each.reason for each in lost} == {Reason.IDENTITY_MISMATCH}
    assert lost[0].spectrum_key == "sdss:3606-55182-2"
    # The id that is none was made again from plate, MJD, fibre and RUN2D.
    assert table["specobjid"].to_pylist()[1] == str(IDS[1])
    nothing = {k: v for k, v in sdss_datasets(object_id=ids).items() if k not in
               ("PLATE", "MJD", "FIBERID")}  # fmt: skip
    table, lost = mmu.read_rows(write(tmp_path / "y.hdf5", nothing))
    assert [each.row for each in lost] == [1]
    blank = np.array(["sv3", "", "main"], "S7")
    table, lost = mmu.read_rows(write(tmp_path / "z.hdf5", desi_datasets(SURVEY=blank)))
    assert (table["source_row"].to_pylist(), [each.row for each in lost]) == ([0, 2], [1])


def test_spectra_of_a_plate_with_two_dates_are_not_trusted(tmp_path):
    # The spectra of a plate are all read from the plate file of one of its dates.
    mjd = np.array([51602, 51602, 55182, 55182, 55183], "i4")
    ids = np.array([str(i) for i in sdss_specobjid(PLATE, FIBER, mjd, RUN2D)], "S22")
    table, lost = mmu.read_rows(write(tmp_path / "x.hdf5", sdss_datasets(MJD=mjd, object_id=ids)))
    assert table["source_row"].to_pylist() == [0, 1]
    assert [each.row for each in lost] == [2, 3, 4]
    assert "observed at MJDs 55182, 55183" in lost[0].message


# Spectra --------------------------------------------------------------------------------------


def test_padding_is_dropped_and_pixels_stand_on_the_native_grid(sdss):
    block = mmu.read_mmu(sdss)
    data = sdss_datasets()
    assert (block.first_pixel, block.flux.shape) == (SDSS_NATIVE.first_pixel, (N, 4736))
    assert block.flux.dtype == block.ivar.dtype == np.float32
    assert block.mask_bits.dtype == np.uint32
    assert list(block.reason) == [""] * N
    for i in range(N):
        at, length = FIRST[i] - SDSS_NATIVE.first_pixel, LENGTH[i]
        inside = slice(at, at + length)
        np.testing.assert_array_equal(block.flux[i, inside], data["spectrum_flux"][i, :length])
        np.testing.assert_array_equal(block.ivar[i, inside], data["spectrum_ivar"][i, :length])
        bad = data["spectrum_mask"][i, :length]
        # Which bit is not known: all, so that every preset leaves the pixel out.
        np.testing.assert_array_equal(block.mask_bits[i, inside], np.where(bad, 0xFFFFFFFF, 0))
        for array in (block.flux, block.ivar, block.mask_bits):
            assert not array[i, :at].any()
            assert not array[i, at + length :].any()


def test_desi_spectra_stand_on_its_grid(desi):
    block, data = mmu.read_mmu(desi), desi_datasets()
    assert (block.first_pixel, block.flux.shape) == (DESI_NATIVE.first_pixel, (3, 7781))
    np.testing.assert_array_equal(block.flux, data["spectrum_flux"])
    np.testing.assert_array_equal(block.ivar, data["spectrum_ivar"])
    np.testing.assert_array_equal(block.mask_bits != 0, data["spectrum_mask"])


def test_an_early_desi_file_gives_only_the_ends_of_its_wavelengths(tmp_path, desi):
    ends = {
        "spectrum_lambda": None, "spectrum_mask": None,
        "spectrum_lambda_min": np.full(3, 3600, "f4"),
        "spectrum_lambda_max": np.full(3, 9824, "f4"),
    }  # fmt: skip
    block = mmu.read_mmu(write(tmp_path / "early.hdf5", desi_datasets(**ends)))
    np.testing.assert_array_equal(block.flux, mmu.read_mmu(desi).flux)
    assert not block.mask_bits.any()
    assert set(block.message) == {"the file has no mask: what it flagged is not known"}
    ends["spectrum_lambda_max"] = np.array([9824, 9823.2, 9824], "f4")
    block = mmu.read_mmu(write(tmp_path / "wrong.hdf5", desi_datasets(**ends)))
    assert list(block.reason) == ["", "bad_wavelength", ""]


@pytest.mark.parametrize("ids", [[3], [4, 0, 2], [1, 1, 0], [], [2, 99, -1, 0]])
def test_spectra_come_in_the_order_they_are_asked_for(sdss, ids):
    whole, block = mmu.read_mmu(sdss), mmu.read_mmu(sdss, np.array(ids, np.int64))
    assert len(block) == len(ids)
    for place, row in enumerate(ids):
        if 0 <= row < N:
            np.testing.assert_array_equal(block.flux[place], whole.flux[row])
            assert block.reason[place] == ""
        else:
            assert block.reason[place] == Reason.ROW_WITHOUT_FIBRE
            assert not block.ivar[place].any()


def test_rows_far_apart_are_picked_and_not_read_over(tmp_path):
    many = {name: np.repeat(v, 20, axis=0) for name, v in sdss_datasets().items()}
    path = write(tmp_path / "many.hdf5", many)
    block = mmu.read_mmu(path, [99, 0, 41])
    np.testing.assert_array_equal(block.flux, mmu.read_mmu(path).flux[[99, 0, 41]])


def test_a_spectrum_off_the_grid_has_its_reason_and_the_others_are_fine(tmp_path):
    wave = sdss_datasets()["spectrum_lambda"]
    wave[0] *= np.float32(10 ** (0.5e-4))  # half a pixel
    wave[1, 100] = np.nan
    wave[2] = -1  # nothing but padding
    wave[3, 7:] = np.roll(wave[3, 7:], 1)  # not consecutive
    block = mmu.read_mmu(write(tmp_path / "x.hdf5", sdss_datasets(spectrum_lambda=wave)))
    assert list(block.reason) == ["bad_loglam"] * 4 + [""]
    assert not block.ivar[:4].any()
    assert block.ivar[4].any()
    air = desi_datasets()["spectrum_lambda"]
    air[1] *= np.float32(1 - 2.8e-4)
    block = mmu.read_mmu(write(tmp_path / "y.hdf5", desi_datasets(spectrum_lambda=air)))
    assert list(block.reason) == ["", "bad_wavelength", ""]


def test_pixels_that_cannot_be_used_are_missing_and_counted(tmp_path):
    data = sdss_datasets()
    flux, ivar = data["spectrum_flux"], data["spectrum_ivar"]
    flux[0, 100], flux[0, 101] = np.nan, np.inf
    ivar[0, 102:105] = [-1, np.nan, np.inf]
    flux[0, 1] = np.nan  # where ivar is 0 already
    ivar[1] = 0
    flux[2] = np.nan
    ivar[3] = -ivar[3]
    path = write(tmp_path / "x.hdf5", sdss_datasets(spectrum_flux=flux, spectrum_ivar=ivar))
    block = mmu.read_mmu(path)
    assert block.n_repaired[0] == 5
    assert np.isfinite(block.ivar).all()
    assert (block.ivar >= 0).all()
    at = FIRST[0] - SDSS_NATIVE.first_pixel
    assert not block.ivar[0, at + 100 : at + 105].any()
    assert list(block.reason) == ["", "all_ivar_zero", "non_finite_flux", "bad_ivar", ""]


def test_data_outside_the_native_grid_are_not_cut_off_in_silence(tmp_path):
    wave = sdss_datasets()["spectrum_lambda"]
    inside = wave[0] > 0
    wave[0, inside] = 10 ** (1e-4 * (np.arange(inside.sum()) + 37000))
    ivar = sdss_datasets()["spectrum_ivar"]
    changes = {"spectrum_lambda": wave, "spectrum_ivar": ivar}
    block = mmu.read_mmu(write(tmp_path / "x.hdf5", sdss_datasets(**changes)))
    assert list(block.reason) == ["outside_native_grid"] + [""] * 4
    ivar[0, SDSS_NATIVE.first_pixel + SDSS_NATIVE.n_pixels - 37000 :] = 0
    block = mmu.read_mmu(write(tmp_path / "y.hdf5", sdss_datasets(**changes)))
    assert list(block.reason) == [""] * N


def test_numbers_of_another_byte_order_and_compressed_ones_are_the_same(tmp_path, sdss):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, values in sdss_datasets().items():
            swapped = values.astype(values.dtype.newbyteorder(">"))
            packed = {"compression": "gzip", "shuffle": True} if values.ndim == 2 else {}
            file.create_dataset(name.upper() if name == "object_id" else name, data=swapped,
                                **packed)  # fmt: skip
    found, expected = mmu.read_mmu(tmp_path / "x.hdf5"), mmu.read_mmu(sdss)
    for name in ("flux", "ivar", "mask_bits"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    found, expected = mmu.read_rows(tmp_path / "x.hdf5")[0], mmu.read_rows(sdss)[0]
    np.testing.assert_equal(found.to_pydict(), expected.to_pydict())


def test_real_spectra_come_back_to_the_bit(tmp_path, real_data):
    """Real spec files, turned into an HDF5 file as plate files are, against the files."""
    from spectra_scale.surveys.sdss_spec import read_spec

    paths = sorted((real_data / "sdss" / "spec-lite").glob("*.fits"))[::16]
    coadds, rows = [], []
    for path in paths:
        with fits.open(path) as hdus:
            data = hdus[1].data
            columns = {c.lower(): np.array(data[c]) for c in data.names}
            coadds.append({n: v.astype(v.dtype.newbyteorder("=")) for n, v in columns.items()})
            rows.append({n: hdus[2].data[n][0] for n in ("PLATE", "MJD", "FIBERID", "Z", "CLASS")})
    n = len(paths)
    # Different plates may be of one number and different dates: here each is its own.
    names = [str(sdss_specobjid(r["PLATE"], r["FIBERID"], r["MJD"], "26")) for r in rows]
    datasets = {
        "object_id": np.array(names, "S22"),
        "ra": np.zeros(n), "dec": np.zeros(n), "ZWARNING": np.zeros(n, "i4"),
        "Z": np.array([r["Z"] for r in rows], "f4"),
        "CLASS": np.array([r["CLASS"] for r in rows], "S6"),
        "spectrum_lambda": padded(
            [(10 ** c["loglam"].astype("f8")).astype("f4") for c in coadds], -1
        ),
        "spectrum_flux": padded([c["flux"] for c in coadds], "edge"),
        "spectrum_ivar": padded([c["ivar"] for c in coadds], 0),
        "spectrum_mask": padded(
            [(c["and_mask"] != 0) | (c["ivar"] <= 1e-6) for c in coadds], fill=True
        ),
    }  # fmt: skip
    path = write(tmp_path / "real.hdf5", datasets)
    block = mmu.read_mmu(path)
    table, lost = mmu.read_rows(path)
    keys = dict(
        zip(table["source_row"].to_pylist(), table["spectrum_key"].to_pylist(), strict=True)
    )
    assert len(keys) + len(lost) == n
    compared = 0
    for i, source in enumerate(paths):
        own = read_spec(source)
        if i in keys:
            assert keys[i] == own.row["spectrum_key"]
        if block.reason[i]:
            continue
        at = own.arrays.first_pixel - SDSS_NATIVE.first_pixel
        inside = slice(at, at + len(own.arrays.flux))
        np.testing.assert_array_equal(block.flux[i, inside], own.arrays.flux)
        np.testing.assert_array_equal(block.ivar[i, inside], own.arrays.ivar)
        bad = (own.arrays.mask_bits != 0) | (own.arrays.ivar <= 1e-6)
        np.testing.assert_array_equal(block.mask_bits[i, inside] != 0, bad)
        compared += 1
    assert compared > 10


# Damage ---------------------------------------------------------------------------------------


def test_files_that_are_none_are_told_apart(tmp_path, sdss, desi):
    assert mmu.is_mmu(sdss)
    assert mmu.is_mmu(desi)
    (tmp_path / "empty.hdf5").write_bytes(b"")
    (tmp_path / "page.hdf5").write_bytes(b"<!DOCTYPE html><html>404</html>")
    os.mkfifo(tmp_path / "pipe.hdf5")
    (tmp_path / "link.hdf5").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "images.hdf5", {"object_id": np.arange(3), "image_array": np.ones((3, 4, 4))})
    (tmp_path / "cut.hdf5").write_bytes(sdss.read_bytes()[:-5000])
    expected = {
        "empty": Reason.EMPTY_FILE, "page": Reason.UNREADABLE, "pipe": Reason.UNREADABLE,
        "link": Reason.UNREADABLE, "images": Reason.UNKNOWN_FORMAT, "cut": Reason.TRUNCATED,
        "no": Reason.UNREADABLE,
    }  # fmt: skip
    for name, reason in expected.items():
        path = tmp_path / f"{name}.hdf5"
        assert not mmu.is_mmu(path)
        for function in (mmu.read_rows, mmu.read_mmu, mmu.survey_of_file):
            assert reason_of(function, path) == reason, name
    assert reason_of(mmu.read_mmu, tmp_path) == Reason.UNREADABLE


@pytest.mark.parametrize(
    "changes",
    [
        {"spectrum_flux": np.ones((N, 7), "f4")},
        {"spectrum_ivar": np.ones((N - 1, 3840), "f4")},
        {"spectrum_flux": np.ones(N, "f4")},
        {"spectrum_mask": np.full((N, 3840), b"x")},
        {"object_id": np.ones((N, 2))},
        {"object_id": np.arange(N + 1)},
    ],
)
def test_datasets_that_do_not_go_together_are_refused(tmp_path, changes):
    path = write(tmp_path / "x.hdf5", sdss_datasets(**changes))
    assert reason_of(mmu.read_mmu, path) == Reason.UNREADABLE


@pytest.mark.parametrize("name", ["Z", "SURVEY", "PROGRAM", "TARGET_RA"])
def test_a_file_without_names_or_redshifts_is_refused(tmp_path, name):
    gone = {name: None} | ({"ra": None} if name == "TARGET_RA" else {})
    path = write(tmp_path / "x.hdf5", desi_datasets(**gone))
    assert reason_of(mmu.read_rows, path) == Reason.MISSING_COLUMN


@pytest.mark.parametrize("name", ["Z", "ra", "PLATE", "ZWARNING"])
def test_a_column_that_holds_something_else_is_refused(tmp_path, name):
    datasets = sdss_datasets()
    if name == "ra":
        del datasets["PLUG_RA"]
    for values in (np.full(N, b"galaxy"), np.ones((N, 2))):
        path = write(tmp_path / "x.hdf5", datasets | {name: values})
        assert reason_of(mmu.read_rows, path) == Reason.MISSING_COLUMN


def test_other_files_are_not_opened_for_a_dataset(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "other.hdf5", sdss_datasets())
    for kind in ("link", "external", "virtual", "group"):
        path = write(tmp_path / f"{kind}.hdf5", sdss_datasets(spectrum_flux=None))
        with h5py.File(path, "a") as file:
            if kind == "link":
                file["spectrum_flux"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/x")
            elif kind == "external":
                size = N * 3840 * 4
                file.create_dataset("spectrum_flux", (N, 3840), "f4",
                                    external=[(str(tmp_path / "pipe"), 0, size)])  # fmt: skip
            elif kind == "virtual":
                layout = h5py.VirtualLayout((N, 3840), "f4")
                source = str(tmp_path / "other.hdf5")
                layout[:] = h5py.VirtualSource(source, "spectrum_flux", (N, 3840))
                file.create_virtual_dataset("spectrum_flux", layout)
            else:
                file.create_group("spectrum_flux")
        assert reason_of(mmu.read_mmu, path) == Reason.UNREADABLE


def test_a_file_without_rows_has_none(tmp_path):
    for datasets in (sdss_datasets(), desi_datasets()):
        empty = {name: values[:0] for name, values in datasets.items()}
        path = write(tmp_path / "x.hdf5", empty)
        table, lost = mmu.read_rows(path)
        assert (table.num_rows, lost, table.schema) == (0, [], mmu.ROW_SCHEMA)
        assert len(mmu.read_mmu(path)) == 0
        assert list(mmu.read_mmu(path, [0]).reason) == [Reason.ROW_WITHOUT_FIBRE]


def bases(folder):
    """Small files of both surveys, plain, packed and in the later layout of HDF5."""
    for number, (datasets, later, packed) in enumerate(
        (d, later, packed)
        for d in (sdss_datasets(), desi_datasets())
        for later in (False, True)
        for packed in (False, True)
    ):
        path = folder / f"base{number}.hdf5"
        with h5py.File(path, "w", libver="latest" if later else "earliest") as file:
            for name, values in datasets.items():
                wide = values.ndim == 2 and name.startswith("spectrum")
                extra = {"compression": "gzip", "fletcher32": True} if packed and wide else {}
                file.create_dataset(name, data=values[:, :200] if wide else values, **extra)
        yield np.frombuffer(path.read_bytes(), "u1")


def damage(base, rng):
    kind = rng.integers(4)
    if kind == 0:
        return base[: rng.integers(len(base))]
    bad = base.copy()
    if kind == 1:
        bad[rng.integers(len(bad), size=rng.integers(1, 40))] ^= 1 << rng.integers(8, dtype="u1")
    elif kind == 2:
        # The first bytes that are not 0 are the structure of the file.
        bad[rng.choice(np.flatnonzero(bad[:20_000]), rng.integers(1, 10))] = rng.integers(256)
    else:
        start, end = rng.integers(len(bad) - 600, size=2)
        bad[start : start + 500] = base[end : end + 500]
    return bad


@pytest.mark.parametrize(
    "n_cases", [250, pytest.param(8000, marks=[pytest.mark.exhaustive, pytest.mark.timeout(600)])]
)
def test_a_damaged_file_is_a_reason_and_never_a_crash(tmp_path, n_cases):
    rng = np.random.default_rng(n_cases)
    whole = list(bases(tmp_path))
    refused = 0
    for _ in range(n_cases):
        path = tmp_path / "bad.hdf5"
        path.write_bytes(damage(whole[rng.integers(len(whole))], rng).tobytes())
        try:
            table, lost = mmu.read_rows(path)
            block = mmu.read_mmu(path)
        except BadSpectrumError as error:
            Reason(error.reason)  # which raises for a code that is none
            refused += 1
            continue
        assert table.num_rows + len(lost) == len(block)
        for reason, ivar in zip(block.reason, block.ivar, strict=True):
            assert np.isfinite(ivar).all()
            assert (ivar >= 0).all()
            assert ivar.any() == (reason == "")
    assert refused > n_cases / 5
