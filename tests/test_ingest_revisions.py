"""Releases grow by revisions: what is there is never touched, what is new is taken once."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from pipeline_builders import (
    SMALL,
    DyingPlace,
    Killed,
    digests,
    ingest_all,
    ingest_release,
    keys_of,
    prepare_sample,
)
from surveys_builders import coadd_columns, legacy_row, write_spec
from test_ingest import catalogue_of, good, name_of

from spectra_scale.compute.place import Here
from spectra_scale.errors import SpectraScaleError, StaleArtifactError
from spectra_scale.stages import ingest
from spectra_scale.store.objects import column
from spectra_scale.verify import verify

#: Cuts that nothing fails.
ALL = {
    "min_snr": -1e9, "max_masked_fraction": 1.0, "z_min": -0.5, "z_max": 9.0,
    "mask": "brightsky", "require_primary": False, "require_good_plate": False,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "in"
    made.mkdir()
    for fiber in (1, 2, 3):
        spectrum(made, fiber)
    return made


def spectrum(folder, fiber, n_pixels=3800, seed=0):
    """A file that prepare can use; one of more pixels is another file, by its size."""
    write_spec(folder, name_of(fiber), row=legacy_row(FIBERID=np.int32(fiber)),
               coadd=coadd_columns(n_pixels, seed=seed or fiber))  # fmt: skip


def everything(path):
    return digests(path, without=())


def sound(*releases):
    problems = [c.problem for r in releases for c in verify(r.path, Here(), "all") if c.problem]
    assert problems == []


def test_the_same_folder_again_changes_no_byte(folder, tmp_path):
    ingest_release(tmp_path / "r", folder)
    before = everything(tmp_path / "r")
    (only,) = ingest_all(tmp_path / "r", folder)
    assert only.path == tmp_path / "r"
    assert everything(tmp_path / "r") == before
    assert not (tmp_path / "r.1").exists()


def test_new_files_become_a_revision_of_them_alone(folder, tmp_path):
    base = ingest_release(tmp_path / "r", folder)
    before = everything(base.path)
    good(folder, 4)
    (folder / name_of(5)).write_text("<html>not found</html>")
    first, revision = ingest_all(tmp_path / "r", folder)
    assert everything(first.path) == before
    assert (revision.name, revision.path) == ("mock.1", tmp_path / "r.1")
    assert keys_of(revision.catalogue) == ["sdss:266-51602-4"]
    assert [(line["path"], line["reason"]) for line in revision.ledger.to_pylist()] == [
        (name_of(5), "not_fits")
    ]
    good(folder, 6)
    assert [keys_of(r.catalogue) for r in ingest_all(tmp_path / "r", folder)] == [
        ["sdss:266-51602-1", "sdss:266-51602-2", "sdss:266-51602-3"],
        ["sdss:266-51602-4"],
        ["sdss:266-51602-6"],
    ]
    sound(first, revision)


def test_a_revision_may_be_a_ledger_alone(folder, tmp_path):
    ingest_release(tmp_path / "r", folder)
    (folder / "spec-0266-51602-0009.fits").write_bytes(b"")
    base, revision = ingest_all(tmp_path / "r", folder)
    assert revision.n_rows == 0
    assert revision.ledger["reason"].to_pylist() == ["empty_file"]
    sound(base, revision)
    # And a sample of both is one of the base.
    sample = prepare_sample(tmp_path / "s", [base, revision], **ALL)
    assert sample.artifact.counts["rows in"] == 3


def test_a_replaced_file_is_taken_again_and_supersedes(folder, tmp_path):
    base = ingest_release(tmp_path / "r", folder)
    spectrum(folder, 2, 3900, seed=99)
    _, revision = ingest_all(tmp_path / "r", folder)
    assert keys_of(revision.catalogue) == ["sdss:266-51602-2"]
    old, new = base.get("sdss:266-51602-2"), revision.get("sdss:266-51602-2")
    assert not np.array_equal(old.flux, new.flux)
    sample = prepare_sample(tmp_path / "s", [base, revision], **ALL)
    rows = {(r["release"], r["spectrum_key"]): r for r in sample.index.to_pylist()}
    assert rows["mock", "sdss:266-51602-2"]["superseded"]
    assert not rows["mock.1", "sdss:266-51602-2"]["superseded"]
    assert sample.artifact.counts["superseded"] == 1


def test_the_same_observation_under_another_name_is_no_news(folder, tmp_path):
    base = ingest_release(tmp_path / "r", folder)
    (folder / "copy").mkdir()
    shutil.copy(folder / name_of(1), folder / "copy" / name_of(1))
    _, revision = ingest_all(tmp_path / "r", folder)
    assert revision.n_rows == 0
    lines = revision.ledger.to_pylist()
    assert {(r["kind"], r["path"], r["reason"]) for r in lines} == {
        ("row", f"copy/{name_of(1)}", "duplicate"), ("file", f"copy/{name_of(1)}", "duplicate"),
    }  # fmt: skip
    sound(base, revision)


def test_files_that_waited_for_the_catalogue_are_taken_when_it_has_them(folder, tmp_path):
    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2, 7])
    base = ingest_release(tmp_path / "r", folder, "made", catalogue)
    assert keys_of(base.catalogue) == ["sdss:266-51602-1", "sdss:266-51602-2"]
    assert sorted(base.ledger["reason"].to_pylist()) == ["file_without_row", "row_without_file"]
    catalogue.unlink()
    catalogue_of(tmp_path / "cat.fits", [1, 2, 3, 7, 8])
    _, revision = ingest_all(tmp_path / "r", folder, "made", catalogue)
    assert keys_of(revision.catalogue) == ["sdss:266-51602-3"]
    # Row 7 is in the first ledger; 8 is new, and has no file either.
    assert revision.ledger["spectrum_key"].to_pylist() == ["sdss:266-51602-8"]
    counts = revision.artifact.counts
    assert (counts["rows in"], counts["rows of earlier revisions"]) == (5, 3)
    good(folder, 7)
    *_, last = ingest_all(tmp_path / "r", folder, "made", catalogue)
    assert keys_of(last.catalogue) == ["sdss:266-51602-7"]
    sound(base, revision, last)


def test_other_settings_are_refused_whatever_came_since(folder, tmp_path):
    ingest_release(tmp_path / "r", folder)
    good(folder, 4)
    with pytest.raises(StaleArtifactError, match="setting z_max"):
        ingest_release(tmp_path / "r", folder, z_max=0.2)


def test_an_ingest_that_was_killed_goes_on_with_the_files_it_began_with(folder, tmp_path):
    whole = ingest_release(tmp_path / "whole", folder)
    with pytest.raises(Killed):
        ingest_release(tmp_path / "r", folder, place=DyingPlace(0))
    good(folder, 4)
    (base,) = ingest_all(tmp_path / "r", folder)
    assert digests(base.path) == digests(whole.path)
    base, revision = ingest_all(tmp_path / "r", folder)
    assert keys_of(revision.catalogue) == ["sdss:266-51602-4"]


def test_an_ingest_whose_files_changed_while_it_lay_killed_begins_anew(folder, tmp_path):
    with pytest.raises(Killed):
        ingest_release(tmp_path / "r", folder, place=DyingPlace(1))
    spectrum(folder, 2, 3900, seed=99)
    found = ingest_release(tmp_path / "r", folder)
    assert digests(found.path) == digests(ingest_release(tmp_path / "whole", folder).path)


class ReplacingPlace(Here):
    """Somebody replaces a file after the first batch of tasks."""

    def __init__(self, change):
        self.change = change

    def map(self, task, items, work):
        done = super().map(task, items, work)
        self.change()
        return done


def test_a_file_that_is_replaced_while_it_is_read_is_not_committed(folder, tmp_path):
    def change():
        (folder / name_of(3)).unlink()
        spectrum(folder, 3, seed=5)

    with pytest.raises(SpectraScaleError, match=f"changed while they were read.*{name_of(3)}"):
        ingest_release(tmp_path / "r", folder, place=ReplacingPlace(change))
    assert not (tmp_path / "r" / "manifest.json").exists()
    found = ingest_release(tmp_path / "r", folder)
    assert digests(found.path) == digests(ingest_release(tmp_path / "whole", folder).path)


def test_one_of_two_ingests_of_a_release_is_told(folder, tmp_path):
    pieces = ingest.pieces_of  # the second starts while the first holds the release

    class Second(Here):
        def map(self, task, items, work):
            with pytest.raises(SpectraScaleError, match="is being written by process"):
                ingest_release(tmp_path / "r", folder)
            return super().map(task, items, work)

    found = ingest_release(tmp_path / "r", folder, place=Second())
    assert found.n_rows == 3
    assert pieces is ingest.pieces_of
    assert not list(tmp_path.glob(".*lock"))


# Without a copy ----------------------------------------------------------------------------------


def test_without_a_copy_the_spectra_are_the_same(folder, tmp_path):
    (folder / name_of(8)).write_bytes((folder / name_of(1)).read_bytes()[:9000])
    copied = ingest_release(tmp_path / "copy", folder)
    lean = ingest_release(tmp_path / "lean", folder, copy=False)
    assert not (lean.path / "arrays").exists()
    for name in copied.catalogue.column_names:
        if name != "checksum":
            mine, theirs = column(lean.catalogue, name), column(copied.catalogue, name)
            np.testing.assert_array_equal(mine, theirs)
    a, b = copied.read(slice(0, 3)), lean.read(slice(0, 3))
    for name in ("flux", "ivar", "mask_bits", "spectrum_key"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(lean.get("sdss:266-51602-2").flux[0], a.flux[1])
    sound(copied, lean)


def test_without_a_copy_a_file_that_is_another_by_now_is_an_error(folder, tmp_path):
    lean = ingest_release(tmp_path / "lean", folder, copy=False)
    spectrum(folder, 2, seed=77)
    with pytest.raises(SpectraScaleError, match="not what it was"):
        lean.read(slice(0, 3))
    (folder / name_of(2)).unlink()
    with pytest.raises(SpectraScaleError, match="now it cannot"):
        lean.get("sdss:266-51602-2")
    assert lean.get("sdss:266-51602-1").ivar.any()
    problems = [c.problem for c in verify(lean.path, Here(), "all") if c.problem]
    assert len(problems) == 1
    assert name_of(2) in problems[0]


# Verify against the sources ----------------------------------------------------------------------


def test_verify_finds_a_stored_spectrum_that_is_not_the_files(folder, tmp_path):
    from spectra_scale.store.arrays import list_shards, open_array, publish_arrays, shards_of
    from spectra_scale.store.schema import RELEASE_ARRAYS

    release = ingest_release(tmp_path / "r", folder)
    flux = open_array(release.arrays, "flux", "r+")
    values = flux[:]
    values[1, 400] += 1
    flux[:] = values
    # Even where the checksums are made to agree.
    shards = shards_of(3, SMALL.shard_rows)
    listed = list_shards(release.arrays, RELEASE_ARRAYS, shards)
    publish_arrays(release.arrays, listed, release.path / "shards.parquet")
    manifest = json.loads((release.path / "manifest.json").read_text())
    manifest["files"] = {}
    (release.path / "manifest.json").write_text(json.dumps(manifest))
    assert [c.problem for c in verify(release.path, Here()) if c.problem] == []
    (problem,) = [c.problem for c in verify(release.path, Here(), "all") if c.problem]
    assert "sdss:266-51602-2" in problem


def test_cuts_at_ingest_leave_rows_out_with_their_reason(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for fiber, z, kind, warning in ((1, 0.1, "GALAXY", 0), (2, 0.5, "GALAXY", 0),
                                    (3, 0.1, "STAR", 0), (4, 0.1, "QSO", 4)):  # fmt: skip
        good(folder, fiber, Z=np.float32(z), CLASS=np.array(kind.ljust(6)),
             ZWARNING=np.int32(warning))  # fmt: skip
    settings = {"z_max": 0.36, "classes": ("GALAXY", "QSO"), "zwarning_zero": True}
    release = ingest_release(tmp_path / "r", folder, **settings)
    assert keys_of(release.catalogue) == ["sdss:266-51602-1"]
    rows = [r for r in release.ledger.to_pylist() if r["kind"] == "row"]
    assert {r["spectrum_key"][-1]: r["reason"] for r in rows} == {
        "2": "cut_redshift", "3": "cut_class", "4": "cut_zwarning",
    }  # fmt: skip
    counts = release.artifact.counts
    assert (counts["rows in"], counts["rows"], counts["rows left out"]) == (4, 1, 3)
    listed = pq.read_table(release.path / "files.parquet")["path"].to_pylist()
    assert listed == sorted(p.name for p in folder.iterdir())
    sound(release)
    assert column(release.catalogue, "z")[0] == pytest.approx(0.1)
