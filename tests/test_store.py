"""Arrays, tables and per-object results on disk, and what `verify` finds wrong with them."""

import tempfile
from pathlib import Path

import dask
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pipeline_builders import SMALL, index_of, ingest_release, low_rank_spectra, make_sample
from surveys_builders import write_spec

from spectra_scale.errors import DamagedArtifactError, UsageError
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.store.arrays import (
    Layout,
    Shard,
    add_coordinate,
    check_shards,
    create_arrays,
    list_shards,
    open_array,
    publish_arrays,
    shards_of,
    write_shard,
)
from spectra_scale.store.objects import column, columns_of, read_objects, write_objects
from spectra_scale.store.sample import open_sample
from spectra_scale.store.schema import SAMPLE_ARRAYS
from spectra_scale.store.tables import read_partitions, read_table, write_table
from spectra_scale.surveys.release import open_release
from spectra_scale.verify import verify

N_ROWS = 150


@pytest.fixture
def sample(tmp_path):
    return make_sample(tmp_path / "sample", *low_rank_spectra(N_ROWS))


def problems(path, place):
    return [check.problem for check in verify(path, place) if check.problem]


# Arrays ------------------------------------------------------------------------------------------


@st.composite
def stored(draw):
    """An array with any bits, NaN and infinities among them, and how it is laid out."""
    chunk = draw(st.integers(1, 4))
    layout = Layout(chunk * draw(st.integers(1, 3)), chunk)
    shape = (draw(st.integers(1, 20)), draw(st.integers(1, 7)))
    return draw(hnp.arrays(np.float32, shape)), layout


@settings(max_examples=25, deadline=None)
@given(stored())
def test_what_is_read_is_what_was_written(case):
    values, layout = case
    specs = SAMPLE_ARRAYS[:1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "arrays")
        create_arrays(path, specs, values.shape, layout, {})
        shards = shards_of(len(values), layout.shard_rows)
        for shard in shards:
            write_shard(path, "flux", shard, values[shard.rows])
        publish_arrays(path, list_shards(path, specs, shards), Path(folder, "shards.parquet"))
        found = np.asarray(open_array(path, "flux")[:])
        # As bits: NaN is not equal to itself, and -0 must stay -0.
        np.testing.assert_array_equal(found.view(np.uint32), values.view(np.uint32))
        assert check_shards(path, Path(folder, "shards.parquet")) == len(shards)


@pytest.mark.parametrize(
    "shard",
    [Shard(0, 1, 64), Shard(0, 0, 63), Shard(1, 32, 96), Shard(1, 64, 128), Shard(0, 0, 150)],
    ids=["late start", "early end", "chunk-aligned only", "short values", "two shards"],
)
def test_a_task_writes_whole_shards_or_is_stopped(tmp_path, shard):
    create_arrays(tmp_path / "arrays", SAMPLE_ARRAYS, (N_ROWS, 5), SMALL, {})
    n = 60 if shard == Shard(1, 64, 128) else shard.n_rows
    with pytest.raises(AssertionError):
        write_shard(tmp_path / "arrays", "flux", shard, np.ones((n, 5), "f4"))
    assert not np.asarray(open_array(tmp_path / "arrays", "flux")[:]).any()


def test_the_last_shard_ends_with_the_rows(tmp_path):
    create_arrays(tmp_path / "arrays", SAMPLE_ARRAYS, (N_ROWS, 5), SMALL, {})
    write_shard(tmp_path / "arrays", "flux", Shard(2, 128, N_ROWS), np.ones((22, 5), "f4"))
    found = np.asarray(open_array(tmp_path / "arrays", "flux")[:])
    assert found.sum() == 22 * 5
    assert found[128:].all()


def test_a_coordinate_that_a_killed_run_left_empty_is_filled_when_resumed(tmp_path):
    path = tmp_path / "arrays"
    wave = WavelengthGrid.rest_frame(7).centres
    add_coordinate(path, "wavelength", wave, "Angstrom")
    # What is there if the process is killed between making the array and filling it.
    (path / "wavelength" / "c" / "0").unlink()
    assert not np.asarray(open_array(path, "wavelength")[:]).any()
    add_coordinate(path, "wavelength", wave, "Angstrom")
    np.testing.assert_array_equal(open_array(path, "wavelength")[:], wave)


def test_lazy_arrays_are_the_arrays_one_dask_chunk_a_shard(sample):
    flux, ivar = low_rank_spectra(N_ROWS)
    assert sample.flux.chunks == ((64, 64, 22), (60,))
    assert sample.flux.dtype == np.float32
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(sample.flux.compute(), flux)
        np.testing.assert_array_equal(sample.ivar[60:70, ::3].compute(), ivar[60:70, ::3])
        # A sum over shards in float64 is the sum of the rows to rounding of 150 terms.
        total = sample.flux.sum(axis=0, dtype="f8").compute()
    np.testing.assert_allclose(total, flux.sum(axis=0, dtype="f8"), rtol=1e-13)


def test_xarray_opens_a_sample_with_its_wavelengths(sample):
    data = sample.to_xarray()
    flux, ivar = low_rank_spectra(N_ROWS)
    assert data["flux"].dims == ("spectrum", "wavelength")
    np.testing.assert_array_equal(data["wavelength"], WavelengthGrid.rest_frame(60).centres)
    np.testing.assert_array_equal(data["flux"], flux)
    np.testing.assert_array_equal(data["ivar"], ivar)
    assert data["flux"].attrs["units"] == "1e-17 erg s-1 cm-2 Angstrom-1"
    near = data["flux"].sel(wavelength=5000.0, method="nearest")
    at = int(np.argmin(np.abs(WavelengthGrid.rest_frame(60).centres - 5000)))
    np.testing.assert_array_equal(near, flux[:, at])


# Tables ------------------------------------------------------------------------------------------


def test_the_same_rows_make_the_same_bytes(tmp_path):
    whole = index_of(40)
    pieces = pa.concat_tables([whole.slice(0, 13), whole.slice(13)])
    write_table(tmp_path / "a.parquet", whole)
    write_table(tmp_path / "b.parquet", whole)
    write_table(tmp_path / "c.parquet", pieces.combine_chunks())
    a, b, c = ((tmp_path / f"{x}.parquet").read_bytes() for x in "abc")
    assert a == b == c
    assert read_table(tmp_path / "a.parquet").equals(whole)


def test_a_failed_write_leaves_the_old_table_and_no_scrap(tmp_path, monkeypatch):
    write_table(tmp_path / "a.parquet", index_of(4))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_table(tmp_path / "a.parquet", index_of(9))
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]
    assert read_table(tmp_path / "a.parquet").num_rows == 4


def test_a_table_that_is_no_table_says_so(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DamagedArtifactError, match=r"a\.parquet: .* expected a Parquet table"):
        read_table(tmp_path / "a.parquet")
    with pytest.raises(DamagedArtifactError, match="expected one a release"):
        read_partitions(tmp_path / "nothing")


# Objects -----------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_per_object_results_come_in_the_order_they_are_asked_for(data):
    names = data.draw(st.lists(st.sampled_from(["dr7", "dr17"]), min_size=1, max_size=12))
    n = len(names)
    index = index_of(n, row=np.arange(100, 100 + n)).set_column(0, "release", pa.array(names))
    values = np.arange(2.0 * n).reshape(n, 2)
    order = data.draw(st.permutations(range(n)))
    with tempfile.TemporaryDirectory() as folder:
        write_objects(Path(folder), index, {"latent": values, "flag": values[:, 0] > 3})
        found = read_objects(Path(folder), index.take(pa.array(order)))
        assert {p.stem for p in Path(folder).iterdir()} == set(names)
    np.testing.assert_array_equal(columns_of(found, "latent"), values[order])
    np.testing.assert_array_equal(column(found, "flag"), values[order, 0] > 3)
    assert found["spectrum_key"].to_pylist() == index["spectrum_key"].take(order).to_pylist()


def test_adding_a_release_rewrites_none_of_the_others_files(tmp_path):
    old = index_of(5)
    both = pa.concat_tables([old, index_of(3, release="newer")])
    write_objects(tmp_path, old, {"x": np.arange(5.0)})
    before = (tmp_path / "made.parquet").read_bytes()
    write_objects(tmp_path, both, {"x": np.arange(8.0)})
    assert (tmp_path / "made.parquet").read_bytes() == before
    assert column(read_objects(tmp_path, both), "x").tolist() == list(range(8))


def test_a_wrong_join_is_an_error_and_never_a_wrong_figure(tmp_path):
    index = index_of(5)
    write_objects(tmp_path, index, {"x": np.arange(5.0)})
    keys = index["spectrum_key"].to_pylist()
    swapped = index.set_column(2, "spectrum_key", pa.array([keys[1], keys[0], *keys[2:]]))
    with pytest.raises(DamagedArtifactError, match="spectrum_key differs"):
        read_objects(tmp_path, swapped)
    with pytest.raises(DamagedArtifactError, match=r"no row for \('made', 5\)"):
        read_objects(tmp_path, index_of(6))


# Finding spectra ---------------------------------------------------------------------------------


def test_a_sample_gives_the_newest_observation_of_a_key_and_names_a_missing_one(tmp_path):
    flux, ivar = low_rank_spectra(6)
    keys = [f"sdss:1-2-{k}" for k in (1, 2, 3, 1, 4, 5)]
    sample = make_sample(tmp_path / "s", flux, ivar, spectrum_key=keys)
    np.testing.assert_array_equal(sample.get("sdss:1-2-1")[0], flux[3])
    np.testing.assert_array_equal(sample.get("sdss:1-2-2")[1], ivar[1])
    with pytest.raises(UsageError, match="no spectrum 'sdss:9-9-9'"):
        sample.get("sdss:9-9-9")


def test_a_cone_holds_what_astropy_says_is_inside(tmp_path):
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    rng = np.random.default_rng(3)
    ra, dec = (359.5 + rng.uniform(0, 1, 80)) % 360, rng.uniform(-0.5, 0.5, 80)
    sample = make_sample(tmp_path / "s", *low_rank_spectra(80), ra=ra, dec=dec)
    far = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(0.0, 0.1, unit="deg"))
    expected = np.flatnonzero(far < 0.3 * u.deg).tolist()
    assert len(expected) > 5
    assert sample.cone(0.0, 0.1, 0.3)["row"].to_pylist() == expected
    for bad in ((0.0, 0.0, 0.0), (np.nan, 0.0, 1.0), (0.0, 0.0, -1.0)):
        with pytest.raises(UsageError, match="expected finite degrees"):
            sample.cone(*bad)


def test_a_release_gives_a_spectrum_by_its_key(tmp_path):
    (tmp_path / "in").mkdir()
    write_spec(tmp_path / "in")
    release = ingest_release(tmp_path / "r", tmp_path / "in", "one")
    (key,) = release.catalogue["spectrum_key"].to_pylist()
    assert key == "sdss:266-51602-1"
    found = release.get(key)
    assert found.flux.shape == (1, 4736)
    np.testing.assert_array_equal(found.flux, release.read(np.array([0])).flux)
    assert np.count_nonzero(found.ivar) > 0
    with pytest.raises(UsageError, match="expected a key such as 'sdss:266-51602-1'"):
        release.get("sdss:1-1-1")
    with pytest.raises(DamagedArtifactError, match="kind ingest, expected prepare"):
        open_sample(release.path)
    assert open_release(release.path).n_rows == 1


# Verify ------------------------------------------------------------------------------------------


def test_a_sound_sample_passes(sample, here):
    checks = verify(sample.path, here)
    assert [check.problem for check in checks] == [""] * len(checks)
    assert len(checks) == 5


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "missing shard": ("arrays/flux/c/1/0", Path.unlink),
    "flipped byte of a shard": ("arrays/ivar/c/2/0", flip),
    "truncated index": ("index.parquet", lambda p: p.write_bytes(p.read_bytes()[:-40])),
    "flipped byte of a table": ("dropped.parquet", flip),
    "missing table": ("dropped.parquet", Path.unlink),
    "truncated list of shards": ("shards.parquet", lambda p: p.write_bytes(p.read_bytes()[:9])),
    "other metadata": ("arrays/flux/zarr.json", flip),
    "missing wavelengths": ("arrays/wavelength/c/0", Path.unlink),
    "truncated manifest": ("manifest.json", lambda p: p.write_text(p.read_text()[:50])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(sample, here, damage):
    name, act = DAMAGES[damage]
    act(sample.path / name)
    found = problems(sample.path, here)
    assert found
    # It says where, and what to do.
    assert any(name.split("/")[0] in problem for problem in found), found
    assert any(word in " ".join(found) for word in ("delete", "Rebuild")), found


def test_a_flipped_byte_is_never_read_as_data(sample):
    flip(sample.path / "arrays/flux/c/0/0", at=0.3)
    with pytest.raises(DamagedArtifactError, match="CRC32C"):
        sample.read(slice(0, 64))


def spoil(flux, ivar, kind):
    flux, ivar = flux.copy(), ivar.copy()
    if kind == "flux where ivar is 0":
        ivar[140, 5], flux[140, 5] = 0, 1
    elif kind == "NaN":
        flux[100, 3] = np.nan
    elif kind == "negative ivar":
        ivar[3, 3] = -1
    return flux, ivar


@pytest.mark.parametrize("kind", ["flux where ivar is 0", "NaN", "negative ivar"])
def test_a_sample_that_breaks_an_invariant_fails_with_its_shard(tmp_path, here, kind):
    flux, ivar = spoil(*low_rank_spectra(N_ROWS), kind)
    make_sample(tmp_path / "s", flux, ivar)
    (problem,) = problems(tmp_path / "s", here)
    shard = {"flux where ivar is 0": 2, "NaN": 1, "negative ivar": 0}[kind]
    assert f"shard {shard}" in problem


def test_masked_fractions_that_are_not_those_of_the_arrays_fail(tmp_path, here):
    flux, ivar = low_rank_spectra(N_ROWS)
    make_sample(tmp_path / "s", flux, ivar, masked_fraction=np.full(N_ROWS, 0.5))
    (problem,) = problems(tmp_path / "s", here)
    assert "masked fractions differ" in problem


def test_an_all_zero_shard_has_no_file_and_is_sound(tmp_path, here):
    flux, ivar = low_rank_spectra(N_ROWS)
    flux[64:128], ivar[64:128] = 0, 0
    sample = make_sample(tmp_path / "s", flux, ivar)
    assert not (sample.arrays / "flux" / "c" / "1" / "0").exists()
    listed = read_table(sample.path / "shards.parquet").to_pylist()
    assert [row["bytes"] for row in listed if row["shard"] == 1] == [0, 0]
    assert problems(sample.path, here) == []
    np.testing.assert_array_equal(sample.read(slice(0, N_ROWS))[0], flux)


def test_nothing_to_verify_is_an_error(tmp_path, here):
    with pytest.raises(DamagedArtifactError.__mro__[1], match="found no artifact"):
        verify(tmp_path, here)
