"""The FITS layer below all readers: opening, reading by position, plain tables, packed files."""

import gzip
import os
import pathlib
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from surveys_builders import (
    SDSSV_NAMES,
    SHARED,
    coadd_columns,
    plate_hdus,
    sdssv_hdus,
    spec_hdus,
    table_hdu,
    write_spec,
    zbest_columns,
)

from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.surveys import fits_files, fits_table, fits_unpack, sdss_plate
from spectra_scale.surveys.fits_bytes import UnsureError, load, read_hdus
from spectra_scale.surveys.fits_fallback import astropy_hdus
from spectra_scale.surveys.fits_files import OpenFile, OpenGzip
from spectra_scale.surveys.fits_table import RawTable
from spectra_scale.surveys.fits_unpack import unpacked
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.sdss_plate import read_plate, read_plate_block, read_zbest
from spectra_scale.surveys.sdss_spec import read_spec, read_spec_block
from spectra_scale.surveys.tables import open_source

PLATE = "spPlate-4055-55359.fits"


def reason_of(function, *args):
    with pytest.raises(BadSpectrumError) as caught:
        function(*args)
    return caught.value.reason


def assert_same_arrays(found, expected):
    for name in ("flux", "ivar", "mask_bits"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name


# What is no regular file ------------------------------------------------------------------------


def within(seconds, function, *args):
    """Call a function that must not hang."""
    found = []
    thread = threading.Thread(target=lambda: found.append(reason_of(function, *args)), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return found[0]


READERS = [read_spec, read_plate, lambda path: read_plate_block(path, [1]), read_zbest]


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_a_device_and_a_folder_are_unreadable_and_no_reader_waits_for_them(
    tmp_path, reader
):
    pipe = tmp_path / "spec-0266-51602-0001.fits"
    os.mkfifo(pipe)
    folder = tmp_path / PLATE
    folder.mkdir()
    device = tmp_path / "device.fits"
    device.symlink_to("/dev/zero")
    for path in (pipe, folder, device, tmp_path / "absent.fits"):
        assert within(10, reader, path) == Reason.UNREADABLE


@pytest.mark.skipif(not pathlib.Path("/proc/self/mem").exists(), reason="no /proc here")
def test_a_read_error_is_an_unreadable_file(tmp_path):
    # Reading the first byte of a process's memory gives EIO.
    path = tmp_path / "spec-0266-51602-0001.fits"
    path.symlink_to("/proc/self/mem")
    for reader in (read_spec, read_plate):
        with pytest.raises(BadSpectrumError, match="error") as caught:
            reader(path)
        assert caught.value.reason == Reason.UNREADABLE


def test_a_file_that_is_made_as_it_is_read_is_not_taken_for_an_empty_one(tmp_path):
    path = tmp_path / "x.fits"
    path.symlink_to("/proc/self/status")
    assert reason_of(load, path) == Reason.UNREADABLE
    path.unlink()
    path.touch()
    assert reason_of(load, path) == Reason.EMPTY_FILE


# What changes while it is read ------------------------------------------------------------------


def test_a_plate_that_is_cut_while_it_is_read_is_a_changed_file_and_kills_nothing(
    tmp_path, monkeypatch
):
    path = tmp_path / PLATE
    plate_hdus(n_fibers=100, n_pixels=1000).writeto(path)

    opened = sdss_plate.open_plate
    monkeypatch.setattr(sdss_plate, "open_plate", lambda which: cut_after(opened, which))
    assert reason_of(read_plate, path) == Reason.FILE_CHANGED


def cut_after(open_it, path):
    found = open_it(path)
    os.truncate(path, 5000)
    return found


def test_a_file_that_is_written_to_while_it_is_read_is_a_changed_file(tmp_path, monkeypatch):
    path = write_spec(tmp_path)
    pread = os.pread

    def slow_pread(fd, n, at):
        found = pread(fd, n, at)
        os.utime(path, ns=(1, 1))
        return found

    monkeypatch.setattr(os, "pread", slow_pread)
    assert reason_of(read_spec, path) == Reason.FILE_CHANGED


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path):
    path = tmp_path / PLATE
    plate_hdus(seed=1).writeto(path)
    before = read_plate(path)
    file = load(path, mapped=True)
    plate_hdus(seed=2).writeto(tmp_path / "new.fits")
    pathlib.Path(tmp_path / "new.fits").replace(path)
    assert file[2880:2900] != path.read_bytes()[2880:2900]
    assert before.flux[0].astype(">f4").tobytes()[:20] in file[:]
    file.check_unchanged()


def test_short_reads_are_continued(tmp_path, monkeypatch):
    # One read gives 2 GB at most, and a signal may end it early.
    path = tmp_path / PLATE
    plate_hdus().writeto(path)
    expected = read_plate(path)
    spec = write_spec(tmp_path)
    spectrum = read_spec(spec).arrays
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 1000), at))
    monkeypatch.setattr(os, "preadv", lambda fd, out, at: preadv(fd, [out[0][:1000]], at))
    assert_same_arrays(read_plate(path), expected)
    assert_same_arrays(read_spec(spec).arrays, spectrum)


def test_open_files_are_closed(tmp_path):
    path = tmp_path / PLATE
    plate_hdus().writeto(path)
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(3):
        read_plate(path)
        load(path, mapped=True)
        with load(path, mapped=True) as file:
            file.close()
    with pytest.raises(BadSpectrumError):
        read_spec(path)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


# Tables -----------------------------------------------------------------------------------------


COLUMNS = {
    "flag": ("L", [True, False, True]),
    "flags": ("2L", [[True, False], [False, False], [True, True]]),
    "byte": ("B", [0, 255, 7]),
    "signed": ("B", [-128, 127, 0]),
    "short": ("I", [-5, 0, 5]),
    "ushort": ("I", [0, 40000, 65535]),
    "int": ("J", [-(2**31), 0, 2**31 - 1]),
    "uint": ("J", [0, 2**31, 2**32 - 1]),
    "long": ("K", [-(2**63), 0, 2**63 - 1]),
    "ulong": ("K", [0, 2**63, 2**64 - 1]),
    "float": ("E", [1e-30, np.nan, np.inf]),
    "double": ("D", [1e-300, np.nan, -np.inf]),
    "vector": ("5E", np.arange(15).reshape(3, 5)),
    "text": ("8A", ["", "GALAXY  ", "  QSO"]),
}
ZERO = {"signed": -128, "ushort": 1 << 15, "uint": 1 << 31, "ulong": 1 << 63}
KIND = {"signed": "i1", "ushort": "u2", "uint": "u4", "ulong": "u8", "byte": "u1", "short": "i2",
        "int": "i4", "long": "i8", "float": "f4", "double": "f8", "vector": "f4"}  # fmt: skip


@pytest.fixture
def table_file(tmp_path):
    columns = [
        fits.Column(
            name, form, array=np.array(values, KIND.get(name)),
            **({"bzero": ZERO[name]} if name in ZERO else {}),
        )
        for name, (form, values) in COLUMNS.items()
    ]  # fmt: skip
    path = tmp_path / "table.fits"
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)])
    hdus.writeto(path)
    return path


def test_columns_of_every_type_are_read_as_astropy_reads_them(table_file):
    source = open_source(table_file, set())
    found = source.read_many(list(COLUMNS))
    with fits.open(table_file) as hdus:
        for name in COLUMNS:
            expected = np.asarray(hdus[1].data[name])
            if expected.dtype.kind in "SU":
                assert found[name].tolist() == np.char.strip(expected).tolist()
                continue
            native = expected.astype(expected.dtype.newbyteorder("="))
            assert found[name].dtype == native.dtype, name
            assert found[name].tobytes() == native.tobytes(), name


def test_the_values_of_one_row_are_those_of_the_columns(table_file):
    hdu = read_hdus(load(table_file), 2)[1]
    wanted = tuple((f"my {name}", ("absent", name.upper())) for name in COLUMNS)
    for table in (RawTable.of(hdu), astropy_hdus(load(table_file), 2)[1].table):
        plain = [each for each in wanted if each[0] != "my signed"]
        row = table.pick((*plain, ("nothing", ("absent",))))
        assert set(row) == {name for name, _ in plain}
        for name, (_, column) in plain:
            value = table.column(column, 0, 1)[0]
            np.testing.assert_array_equal(row[name], value)
            scalar = not isinstance(value, np.ndarray)
            assert not scalar or type(row[name]) in {int, float, str, bool}


def rename(path, before, after):
    """Give a column another name by its card, which astropy would keep from being a second."""
    content = path.read_bytes()
    card = f"= '{before:<8s}'".encode()
    assert content.count(card) == 1
    path.write_bytes(content.replace(card, f"= '{after:<8s}'".encode()))


def test_two_columns_of_one_name_are_refused_and_the_others_read(tmp_path):
    hdu = table_hdu({"Z": np.zeros(2), "Y": np.ones(2), "X": np.ones(2)})
    path = tmp_path / "x.fits"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    rename(path, "X", "z")
    source = open_source(path, set())
    assert source.read("Y").tolist() == [1, 1]
    with pytest.raises(SpectraScaleError, match="two columns"):
        source.read("Z")


@pytest.mark.parametrize("name", ["FLUX", "flux"])
def test_a_spectrum_with_two_columns_of_one_name_has_a_reason(tmp_path, name):
    path = write_spec(tmp_path)
    rename(path, "wdisp", name)
    assert reason_of(read_spec, path) == Reason.UNREADABLE


def test_scaled_columns_are_left_to_astropy_and_those_of_variable_length_refused(tmp_path):
    lists = np.array([np.arange(n, dtype="f4") for n in (1, 2, 0, 3)], dtype=object)
    columns = [
        fits.Column("A", "J", array=np.arange(4)),
        fits.Column("V", "PE()", array=lists),
        fits.Column("S", "I", array=np.array([0, 2, 4, 7])),
        fits.Column("B", "E", array=np.arange(4)),
    ]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header["TSCAL3"], hdu.header["TZERO3"] = 0.5, 3
    path = tmp_path / "x.fits"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    source = open_source(path, set())
    assert source.read("S").tolist() == [3, 4, 5, 6.5]
    with pytest.raises(SpectraScaleError, match="variable length"):
        source.read("V")
    assert source.read("B").tolist() == [0, 1, 2, 3]
    assert source.read("A", 1, 3).tolist() == [1, 2]


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_larger_than_memory_is_read_in_blocks_each_once(tmp_path, monkeypatch, packed):
    n_rows = 1000
    path = tmp_path / "spZbest-4055-55359.fits"
    fits.HDUList([fits.PrimaryHDU(), table_hdu(zbest_columns(n_rows))]).writeto(path)
    expected = open_source(path, set()).read_many(["Z", "CLASS", "SN_MEDIAN"])
    if packed:
        path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_suffix(".gz")
        monkeypatch.setattr(fits_files, "_GZIP_WHOLE", 100)
    monkeypatch.setattr(fits_table, "BLOCK_BYTES", 10_000)
    source = open_source(path, set())
    assert isinstance(source.holder.raw.hdu.buffer, OpenGzip if packed else OpenFile)
    width = source.holder.raw.layout.offsets[-1]
    reads = []
    read = OpenFile.__getitem__

    def noted(self, wanted):
        reads.append((wanted.start, wanted.stop))
        return read(self, wanted)

    monkeypatch.setattr(OpenFile, "__getitem__", noted)
    parts = []
    for start, stop in source.blocks():
        parts.append({name: source.read(name, start, stop) for name in expected})
    # Three columns one by one, and each row was read once.
    assert sum(stop - start for start, stop in reads) == n_rows * width
    assert max(stop - start for start, stop in reads) <= 10_000
    for name, values in expected.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)
    whole = source.read_many(list(expected))
    for name, values in expected.items():
        np.testing.assert_array_equal(whole[name], values)


def test_a_table_that_is_cut_while_it_is_read_is_an_error_that_says_so(tmp_path):
    path = tmp_path / "x.fits"
    fits.HDUList([fits.PrimaryHDU(), table_hdu({"Z": np.zeros(10_000)})]).writeto(path)
    source = open_source(path, set())
    os.truncate(path, 20_000)
    with pytest.raises(SpectraScaleError, match="shorter"):
        source.read("Z")


def test_a_gzip_stream_that_ends_too_early_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(fits_files, "_GZIP_WHOLE", 100)
    path = tmp_path / "x.fits.gz"
    values = np.random.default_rng(1).random(9999)
    fits.HDUList([fits.PrimaryHDU(), table_hdu({"Z": values})]).writeto(path)
    content = path.read_bytes()
    for cut in (200, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(SpectraScaleError, match="gzip"):
            open_source(path, set()).read("Z")


# Packed files -----------------------------------------------------------------------------------


def packed_table(hdu, rows_a_tile=7):
    """A tiled table (FITS standard 4.0, section 10.3): columns as GZIP_1 and GZIP_2, in turn."""
    data = np.asarray(hdu.data)
    raw = data.tobytes()
    n_rows, width = len(data), data.dtype.itemsize
    table = np.frombuffer(raw, np.uint8).reshape(n_rows, width)
    header = hdu.header.copy()
    forms, methods, heap, where = [], [], b"", []
    n_columns = header["TFIELDS"]
    tiles = range(0, n_rows, rows_a_tile)
    where = np.zeros((len(tiles), n_columns, 2), ">i8")
    for number in range(n_columns):
        name = data.dtype.names[number]
        kind, at = data.dtype.fields[name][:2]
        size = kind.base.itemsize if kind.base.kind != "S" else 1
        methods.append(f"GZIP_{1 + number % 2}")
        forms.append(header[f"TFORM{number + 1}"])
        for tile, start in enumerate(tiles):
            cells = table[start : start + rows_a_tile, at : at + kind.itemsize]
            content = cells.tobytes()
            if number % 2:
                content = np.frombuffer(content, np.uint8).reshape(-1, size).T.tobytes()
            content = gzip.compress(content)
            where[tile, number] = len(content), len(heap)
            heap += content
    header["NAXIS1"], header["NAXIS2"], header["PCOUNT"] = 16 * n_columns, len(tiles), len(heap)
    header["ZTABLE"], header["ZNAXIS1"], header["ZNAXIS2"] = True, width, n_rows
    header["ZPCOUNT"], header["ZTILELEN"] = 0, rows_a_tile
    for number in range(n_columns):
        header[f"TFORM{number + 1}"] = "1QB"
        header[f"ZFORM{number + 1}"] = forms[number]
        header[f"ZCTYP{number + 1}"] = methods[number]
    content = where.tobytes() + heap
    return header.tostring().encode() + content + b"\0" * (-len(content) % 2880)


def pack(hdus, folder, name):
    """Write a file whose tables are tiled; the primary HDU has no data."""
    path = folder / name
    hdus.writeto(path)
    with fits.open(path, memmap=False) as plain:
        tables = b"".join(packed_table(hdu) for hdu in plain[1:])
        content = plain[0].header.tostring().encode() + tables
    path.write_bytes(content)
    return path


def test_a_spectrum_file_of_tiled_tables_is_read_as_the_plain_one(tmp_path):
    hdus = spec_hdus()
    plain = write_spec(tmp_path)
    path = pack(hdus, tmp_path, "spec-0266-51602-0001.fits.fz")
    found, expected = read_spec(path, want_lines=True), read_spec(plain, want_lines=True)
    assert_same_arrays(found.arrays, expected.arrays)
    assert repr(found.row) == repr(expected.row)
    assert repr(found.lines) == repr(expected.lines)


def test_a_catalogue_of_a_tiled_table_is_read_as_the_plain_one(tmp_path):
    hdus = fits.HDUList([fits.PrimaryHDU(), table_hdu(zbest_columns(30))])
    plain = tmp_path / "spZbest-4055-55359.fits"
    hdus.writeto(plain)
    path = pack(hdus, tmp_path, "spZbest-4055-55359.fits.fz")
    # NaN is not equal to itself.
    assert repr(read_zbest(path).to_pylist()) == repr(read_zbest(plain).to_pylist())


def test_a_damaged_tile_has_a_reason(tmp_path):
    path = pack(spec_hdus(), tmp_path, "x.fits.fz")
    content = path.read_bytes()
    at = content.index(b"\x1f\x8b")
    path.write_bytes(content[: at + 12] + b"\xff" * 20 + content[at + 32 :])
    assert reason_of(read_spec, path) in {Reason.UNREADABLE, Reason.TRUNCATED}
    path.write_bytes(content[: at + 100])
    assert reason_of(read_spec, path) in {Reason.UNREADABLE, Reason.TRUNCATED}


@pytest.mark.parametrize("method", ["GZIP_1", "GZIP_2", "RICE_1"])
def test_a_plate_of_tiled_images_is_read_as_astropy_reads_it(tmp_path, method):
    plain = plate_hdus()
    # fpack moves the image of the primary HDU behind an empty one.
    hdus = [fits.PrimaryHDU()]
    for number, hdu in enumerate(plain):
        if isinstance(hdu, fits.BinTableHDU):
            hdus.append(hdu)
            continue
        # Floats without loss, as `fpack -q 0` does; Rice is for integers.
        kind = method if hdu.data.dtype.kind == "i" or "GZIP" in method else "GZIP_2"
        header = hdu.header if number == 0 else None
        hdus.append(fits.CompImageHDU(hdu.data, header, compression_type=kind, quantize_level=0))
    path = tmp_path / f"{PLATE}.fz"
    fits.HDUList(hdus).writeto(path)
    content = path.read_bytes()
    at = content.index(b"ZTENSION=")
    path.write_bytes(content[:at] + b"ZSIMPLE =".ljust(29) + b"T".ljust(51) + content[at + 80 :])
    found = read_plate(path)
    plain.writeto(tmp_path / PLATE)
    assert_same_arrays(found, read_plate(tmp_path / PLATE))
    assert found.fiber.tolist() == [1, 2, 3, 4]


def tiled_plate(folder):
    """A plate of tiled images as astropy packs them; their place is one later than it should."""
    path = folder / f"{PLATE}.fz"
    images = [fits.CompImageHDU(hdu.data) for hdu in plate_hdus() if hdu.is_image]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path)
    return path


def test_a_tiled_image_that_kills_what_unpacks_it_is_unreadable_and_kills_nothing_else(tmp_path):
    path = tiled_plate(tmp_path)
    content = path.read_bytes()
    # BYTEPIX of Rice code: astropy 8 hands it to compiled code as it is, and dies of this one.
    at = content.index(b"ZVAL2   =")
    path.write_bytes(content[: at + 10] + b"-1".ljust(70) + content[at + 80 :])
    assert reason_of(read_plate, path) == Reason.UNREADABLE


def test_a_scaled_plate_is_left_to_astropy(tmp_path):
    hdus = plate_hdus()
    whole = np.rint(hdus[0].data)
    hdus[0] = fits.PrimaryHDU(whole.astype("i2"), hdus[0].header)
    path = tmp_path / PLATE
    hdus.writeto(path, output_verify="silentfix")
    content = path.read_bytes()
    cards = b"BZERO   =                  2.0".ljust(80) + b"END".ljust(80)
    at = content.index(b"END".ljust(80))
    path.write_bytes(content[:at] + cards + content[at + 160 :])
    np.testing.assert_array_equal(read_plate(path).flux, whole + 2)


needs_fpack = pytest.mark.skipif(shutil.which("fpack") is None, reason="fpack is not here")


@needs_fpack
@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    "name", ["spec-0266-51602-0013.fits", "spec-3655-55240-0994.fits", "spec-7895-57659-0125.fits"]
)
def test_real_files_packed_by_fpack_are_read_as_before(tmp_path, name):
    plain = SHARED / "sdss" / "spec-lite" / name
    packed = tmp_path / f"{name}.fz"
    subprocess.run(["fpack", "-table", "-O", packed, plain], check=True, capture_output=True)
    assert unpacked(load(packed)) is not None
    found, expected = read_spec(packed, want_lines=True), read_spec(plain, want_lines=True)
    assert_same_arrays(found.arrays, expected.arrays)
    assert repr(found.row) == repr(expected.row)
    assert repr(found.lines) == repr(expected.lines)


@needs_fpack
@pytest.mark.parametrize("options", [["-r"], ["-g"], ["-g", "-q", "0"], ["-h"]])
def test_plates_packed_by_fpack_are_read_as_funpack_unpacks_them(tmp_path, options):
    path = tmp_path / PLATE
    plate_hdus(n_fibers=40, n_pixels=400).writeto(path)
    packed, back = tmp_path / f"{PLATE}.fz", tmp_path / "back.fits"
    subprocess.run(["fpack", *options, "-O", packed, path], check=True, capture_output=True)
    subprocess.run(["funpack", "-O", back, packed], check=True, capture_output=True)
    assert_same_arrays(read_plate(packed), read_plate(back))
    block = read_plate_block(packed, [5, 41])
    assert list(block.reason) == ["", Reason.ROW_WITHOUT_FIBRE]


RICE_VALUES = [
    0, 1, -1, 5, 1000, -1000, 2**30, -(2**30), 2**31 - 1, -(2**31), 0, 0, 0, *[3] * 12,
    5, -8, -6, -5, -6, 5, 6, 1, -9, -8, -4, -2, 2, -1, -5,
]  # fmt: skip
RICE_TILE = (
    "00000000d00000000000000010000000180000006000003e3000007cfc00003e87fffffffc0000000800000017"
    "fffffff80000000000000000000000300000000000000000000000000000000000000000000000000000000000"
    "00000000000000000000000000000000000020000000c8000000200000001000000008000000b000000010ca1f"
    "1108ae"
)


def test_a_rice_tile_that_fpack_wrote_gives_the_integers_that_went_in():
    # The first block of 32 differences is stored as it is, the second in Rice code.
    assert fits_unpack._rice(bytes.fromhex(RICE_TILE), 40, 5, 25, 32) == RICE_VALUES
    with pytest.raises(ValueError, match=r"too early|not found"):
        fits_unpack._rice(bytes.fromhex(RICE_TILE)[:-3], 40, 5, 25, 32)


def test_a_file_without_packed_parts_is_left_as_it_is(tmp_path):
    assert unpacked(load(write_spec(tmp_path))) is None
    path = tmp_path / "cut.fits"
    path.write_bytes(write_spec(tmp_path).read_bytes()[:4000])
    with pytest.raises(UnsureError):
        unpacked(load(path))


def test_a_spectrum_file_larger_than_is_read_at_once_is_read_alike(tmp_path, monkeypatch):
    path = write_spec(tmp_path)
    expected = read_spec(path, want_lines=True)
    monkeypatch.setattr(fits_files, "_WHOLE", 1000)
    assert isinstance(load(path), OpenFile)
    found = read_spec(path, want_lines=True)
    assert_same_arrays(found.arrays, expected.arrays)
    assert repr(found.row) == repr(expected.row)
    assert repr(found.lines) == repr(expected.lines)
    coadd = coadd_columns()
    coadd["loglam"][0] = np.nan
    assert reason_of(read_spec, write_spec(tmp_path, "y.fits", coadd=coadd)) == Reason.BAD_LOGLAM


# Damage -----------------------------------------------------------------------------------------

LIES = ("0", "-1", "3", "999999999999", "1E30", "NaN", "'1QB(3)'", "'1000000000E'", "'X'",
        "'flux'", "'RICE_1'", "T", "''", "-32", "16")  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Name, bytes and reader of a sound file of each kind."""
    folder = tmp_path_factory.mktemp("sound")
    sdssv_hdus().writeto(folder / SDSSV_NAMES["DR19"])
    plate_hdus().writeto(folder / PLATE)
    tiled_plate(folder)
    pack(spec_hdus(), folder, "spec-0266-51602-0001.fits.fz")
    zbest = fits.HDUList([fits.PrimaryHDU(), table_hdu(zbest_columns(20))])
    zbest.writeto(folder / "spZbest-4055-55359.fits")
    readers = {"spec": read_spec_block, "spPl": read_plate, "spZb": read_zbest}
    return folder, [
        (p.name, p.read_bytes(), readers[p.name[:4]]) for p in sorted(folder.iterdir())
    ]


# Tiled images are unpacked by another process, which takes half a second each.
@pytest.mark.parametrize(
    ("n", "tiled"),
    [(300, False), (5, True), pytest.param(5000, False, marks=pytest.mark.exhaustive),
     pytest.param(300, True, marks=pytest.mark.exhaustive)],
)  # fmt: skip
@pytest.mark.timeout(900)
def test_damage_of_any_kind_of_file_gives_a_reason_or_a_result_in_order(sound, n, tiled):
    folder, files = sound
    files = [file for file in files if (file[0] == f"{PLATE}.fz") == tiled]
    rng = np.random.default_rng(n)
    for _ in range(n):
        name, content, reader = files[rng.integers(len(files))]
        path = folder / name
        path.write_bytes(damaged(bytearray(content), rng))
        try:
            found = reader(path)
        except BadSpectrumError as error:
            Reason(error.reason)
            continue
        if reader is not read_zbest:
            assert (np.isfinite(found.ivar) & (found.ivar >= 0)).all()
            assert np.isfinite(found.flux[found.ivar > 0]).all()


def damaged(content, rng):
    """Flip bits, let a card lie, cut, or swap two blocks."""
    kind = rng.integers(4)
    if kind == 0:
        for at in rng.integers(len(content), size=3):
            content[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        cards = [at for at in range(0, len(content), 80) if content[at + 8 : at + 9] == b"="]
        at = cards[rng.integers(len(cards))]
        content[at + 10 : at + 80] = f"{LIES[rng.integers(len(LIES))]:<70s}".encode()
    elif kind == 2:
        del content[rng.integers(len(content)) :]
    else:
        first, second = (2880 * int(at) for at in rng.integers(len(content) // 2880, size=2))
        one, other = content[first : first + 2880], content[second : second + 2880]
        content[first : first + 2880], content[second : second + 2880] = other, one
    return bytes(content)
