"""Shards as they are written and read here are Zarr's own, to the byte."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.errors import DamagedArtifactError
from spectra_scale.store.arrays import (
    Layout,
    create_arrays,
    open_array,
    read_rows,
    shards_of,
    write_shard,
)
from spectra_scale.store.schema import ArraySpec
from spectra_scale.store.shards import read_some, sharded_array

LAYOUT = Layout(8, 4)
KINDS = {"flux": "float32", "mask_bits": "uint32", "wave": "float64", "count": "int32"}
SPECS = [ArraySpec(name, kind, ("row", "pixel"), "", "") for name, kind in KINDS.items()]


def made(folder, n_rows, n_pixels, seed=1, empty=()):
    """Values of every kind, with rows of zeros, and the group they are for."""
    rng = np.random.default_rng(seed)
    create_arrays(folder, SPECS, (n_rows, n_pixels), LAYOUT, {})
    values = {}
    for name, kind in KINDS.items():
        values[name] = (rng.normal(0, 9, (n_rows, n_pixels))).astype(kind)
        for rows in empty:
            values[name][rows] = 0
    return values


def write_ours(folder, values):
    for name, array in values.items():
        for shard in shards_of(len(array), LAYOUT.shard_rows):
            write_shard(folder, name, shard, array[shard.rows])


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@settings(deadline=None)
@given(
    n_rows=st.integers(1, 30),
    n_pixels=st.integers(1, 40),
    seed=st.integers(0, 99),
    zeros=st.lists(st.integers(0, 30), max_size=2),
)
def test_the_files_are_those_that_zarr_writes(tmp_path_factory, n_rows, n_pixels, seed, zeros):
    # Zeros that fill a chunk, a shard or neither: Zarr leaves out what is empty.
    empty = [slice(low, low + 9) for low in zeros]
    ours, theirs = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    values = made(ours, n_rows, n_pixels, seed, empty)
    made(theirs, n_rows, n_pixels, seed, empty)
    write_ours(ours, values)
    for name, array in values.items():
        open_array(theirs, name, "r+")[:] = array
    assert files(ours) == files(theirs)


def test_negative_zeros_are_kept(tmp_path):
    values = made(tmp_path, 5, 3)
    values["flux"][:] = -0.0
    write_ours(tmp_path, values)
    assert np.signbit(read_rows(tmp_path, "flux", slice(0, 5))).all()
    assert np.signbit(np.asarray(open_array(tmp_path, "flux")[:])).all()


@settings(deadline=None)
@given(data=st.data())
def test_any_rows_are_those_that_zarr_reads(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("g")
    n_rows = data.draw(st.integers(1, 30))
    values = made(folder, n_rows, 5, empty=[slice(0, 9)])
    write_ours(folder, values)
    start = data.draw(st.integers(0, n_rows))
    stop = data.draw(st.integers(0, n_rows))
    some = np.array(sorted(data.draw(st.sets(st.integers(0, n_rows - 1)))), np.int64)
    for name, array in values.items():
        zarrs = open_array(folder, name)
        found = read_rows(folder, name, slice(start, stop))
        np.testing.assert_array_equal(found, np.asarray(zarrs[start : max(start, stop)]))
        np.testing.assert_array_equal(read_rows(folder, name, some), array[some])
        assert found.dtype == array.dtype


def test_rows_are_read_into_a_given_array(tmp_path):
    values = made(tmp_path, 20, 5)
    write_ours(tmp_path, values)
    out = np.full((7, 5), np.nan, "f4")
    found = read_rows(tmp_path, "flux", slice(3, 10), out)
    assert np.shares_memory(found, out)
    np.testing.assert_array_equal(out, values["flux"][3:10])


def test_an_array_of_another_layout_is_left_to_zarr(tmp_path):
    group = zarr.open_group(tmp_path, mode="a")
    group.create_array("plain", shape=(10, 3), chunks=(4, 3), dtype="f4")
    group.create_array("big", shape=(10, 3), chunks=(4, 3), shards=(8, 3), dtype=">f4")
    values = np.arange(30, dtype="f4").reshape(10, 3)
    for name in ("plain", "big"):
        group[name][:] = values
        assert sharded_array(tmp_path, name) is None
        np.testing.assert_array_equal(read_rows(tmp_path, name, slice(2, 9)), values[2:9])
    assert sharded_array(tmp_path, "absent") is None


@pytest.mark.parametrize("what", ["cut", "flipped payload", "flipped index", "empty", "swapped"])
def test_a_damaged_shard_is_never_read_as_numbers(tmp_path, what):
    values = made(tmp_path, 16, 50)
    write_ours(tmp_path, values)
    file = tmp_path / "flux" / "c" / "1" / "0"
    content = bytearray(file.read_bytes())
    if what == "cut":
        content = content[:-7]
    elif what == "flipped payload":
        content[30] ^= 4
    elif what == "flipped index":
        content[-20] ^= 4
    elif what == "empty":
        content = bytearray()
    else:
        content = bytearray(content[40:] + content[:40])
    file.write_bytes(content)
    np.testing.assert_array_equal(read_rows(tmp_path, "flux", slice(0, 8)), values["flux"][:8])
    with pytest.raises(DamagedArtifactError, match="damaged"):
        read_rows(tmp_path, "flux", slice(0, 16))
    with pytest.raises(DamagedArtifactError):
        read_some(sharded_array(tmp_path, "flux"), np.array([9]))


def test_a_shard_takes_its_name_when_it_is_whole(tmp_path, monkeypatch):
    values = made(tmp_path, 8, 5)
    write_ours(tmp_path, values)
    before = files(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spectra_scale.store.shards._crc", fail)
    with pytest.raises(OSError, match="No space"):
        write_ours(tmp_path, {"flux": values["flux"] + 1})
    assert files(tmp_path) == before
