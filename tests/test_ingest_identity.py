"""Which file a row is of, and which of two observations stands: a wrong answer here is silent."""

import shutil

import numpy as np
import pytest
from astropy.io import fits
from pipeline_builders import DyingPlace, Killed, digests, ingest_all, ingest_release, keys_of
from surveys_builders import plate_hdus, table_hdu, zbest_columns
from test_ingest import catalogue_of, good, name_of
from test_ingest_revisions import ALL, folder, sound, spectrum  # noqa: F401 - a fixture

from spectra_scale.compute.place import Here
from spectra_scale.errors import DamagedArtifactError, StaleArtifactError, UsageError
from spectra_scale.jobfile import make_job
from spectra_scale.planning import check, make_plan, stale
from spectra_scale.store.objects import column
from spectra_scale.verify import verify


def first_flux(release, key):
    return float(release.get(key).flux[0, np.flatnonzero(release.get(key).ivar[0])[0]])


# Reductions --------------------------------------------------------------------------------------


def plates_of(root, *reductions):
    """The same plate in several reductions, of other fluxes each."""
    for i, reduction in enumerate(reductions):
        below = root / reduction / "4055"
        below.mkdir(parents=True)
        hdus = plate_hdus(4)
        hdus[0].data = hdus[0].data + 100 * (i + 1)
        hdus.writeto(below / "spPlate-4055-55359.fits")
        columns = zbest_columns(4) | {"RUN2D": np.array([reduction] * 4)}
        table_hdu(columns).writeto(below / "spZbest-4055-55359.fits")
    return root


@pytest.mark.parametrize("reduction", ["v5_7_0", "v5_13_0"])
def test_a_row_is_of_the_file_of_its_own_reduction(tmp_path, reduction):
    root = plates_of(tmp_path / "in", "v5_7_0", "v5_13_0")
    columns = zbest_columns(4) | {"RUN2D": np.array([reduction] * 4)}
    table_hdu(columns | {"PLUG_RA": np.arange(4.0), "PLUG_DEC": np.zeros(4)}).writeto(
        tmp_path / "cat.fits"
    )
    release = ingest_release(tmp_path / "r", root, "made", tmp_path / "cat.fits")
    assert set(release.catalogue["source_file"].to_pylist()) == {
        f"{reduction}/4055/spPlate-4055-55359.fits"
    }
    sound(release)


def test_without_a_catalogue_the_newest_reduction_stands(tmp_path):
    root = plates_of(tmp_path / "in", "v5_7_0", "v5_13_0")
    release = ingest_release(tmp_path / "r", root)
    assert set(release.catalogue["reduction"].to_pylist()) == {"v5_13_0"}  # not the last as text
    lost = [line for line in release.ledger.to_pylist() if line["kind"] == "row"]
    assert {line["reason"] for line in lost} == {"duplicate"}
    sound(release)


def test_a_file_of_another_reduction_alone_is_not_the_rows(tmp_path):
    root = plates_of(tmp_path / "in", "v5_13_0")
    good(root, 1)
    columns = zbest_columns(4) | {"RUN2D": np.array(["v5_7_0"] * 4)}
    rows = columns | {"PLUG_RA": np.arange(4.0), "PLUG_DEC": np.zeros(4)}
    table_hdu(rows).writeto(tmp_path / "cat.fits")
    with pytest.raises(Exception, match="row_without_file 4"):
        ingest_release(tmp_path / "r", root, "made", tmp_path / "cat.fits")


# Good and bad copies -----------------------------------------------------------------------------


def test_of_two_copies_the_whole_one_is_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        good(tmp_path / "in" / name, 1)
    cut = tmp_path / "in" / "a" / name_of(1)
    cut.write_bytes(cut.read_bytes()[:9000])
    catalogue = catalogue_of(tmp_path / "cat.fits", [1])
    release = ingest_release(tmp_path / "r", tmp_path / "in", "made", catalogue)
    assert release.catalogue.to_pylist()[0]["status"] == "kept"
    sound(release)


@pytest.mark.parametrize("with_catalogue", [True, False])
def test_a_good_copy_that_comes_later_is_taken(tmp_path, with_catalogue):
    source = tmp_path / "in"
    source.mkdir()
    for fiber in (1, 2):
        good(source, fiber)
    whole = (source / name_of(1)).read_bytes()
    (source / name_of(1)).write_bytes(whole[:9000])
    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2]) if with_catalogue else None
    ingest_release(tmp_path / "r", source, "made", catalogue)
    (source / "again").mkdir()
    (source / "again" / name_of(1)).write_bytes(whole)
    base, revision = ingest_all(tmp_path / "r", source, "made", catalogue)
    assert keys_of(revision.catalogue) == ["sdss:266-51602-1"]
    assert revision.catalogue["status"].to_pylist() == ["kept"]
    sound(base, revision)


def test_a_file_that_was_spoilt_supersedes_nothing(folder, tmp_path):  # noqa: F811
    from pipeline_builders import prepare_sample

    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2, 3])
    base = ingest_release(tmp_path / "r", folder, "made", catalogue)
    content = (folder / name_of(1)).read_bytes()
    (folder / name_of(1)).write_bytes(content[: len(content) // 2 // 2880 * 2880])
    _, revision = ingest_all(tmp_path / "r", folder, "made", catalogue)
    assert revision.catalogue["status"].to_pylist() == ["quarantined"]
    every = ALL | {"zwarning_ignore_bits": tuple(range(32))}
    sample = prepare_sample(tmp_path / "s", [base, revision], **every)
    assert sample.artifact.counts["kept"] == 3
    assert not any(sample.index["superseded"].to_pylist())


def test_a_replaced_file_in_another_folder_is_taken(folder, tmp_path):  # noqa: F811
    more = tmp_path / "more"
    more.mkdir()
    ingest_release(tmp_path / "r", folder)
    spectrum(more, 2, 3900, seed=7)
    shutil.copy(folder / name_of(3), more / name_of(3))
    base, revision = ingest_all(tmp_path / "r", [folder, more])
    assert keys_of(revision.catalogue) == ["sdss:266-51602-2"]
    # Nothing of the first folder is news because there is a second; a copy is a copy.
    assert {(x["path"], x["reason"]) for x in revision.ledger.to_pylist()} == {
        (f"1:{name_of(3)}", "duplicate")
    }
    sound(base, revision)


def test_what_any_earlier_revision_has_is_a_copy(folder, tmp_path):  # noqa: F811
    ingest_release(tmp_path / "r", folder)
    spectrum(folder, 2, 3900, seed=7)
    ingest_all(tmp_path / "r", folder)
    (folder / "again").mkdir()
    shutil.copy(folder / name_of(2), folder / "again" / name_of(2))
    *_, last = ingest_all(tmp_path / "r", folder)
    assert last.n_rows == 0
    assert set(last.ledger["reason"].to_pylist()) == {"duplicate"}


# Halves that come later --------------------------------------------------------------------------


def test_a_plate_gives_more_rows_when_the_catalogue_grows(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    plate_hdus(4).writeto(source / "spPlate-0266-51602.fits")
    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2])
    ingest_release(tmp_path / "r", source, "made", catalogue)
    catalogue.unlink()
    catalogue_of(tmp_path / "cat.fits", [1, 2, 3])
    base, revision = ingest_all(tmp_path / "r", source, "made", catalogue)
    assert keys_of(revision.catalogue) == ["sdss:266-51602-3"]
    assert revision.ledger.num_rows == 0
    counts = revision.artifact.counts
    assert (counts["rows in"], counts["rows of earlier revisions"], counts["files in"]) == (
        3,
        2,
        0,
    )
    sound(base, revision)
    assert len(ingest_all(tmp_path / "r", source, "made", catalogue)) == 2


def test_new_redshifts_of_a_plate_are_taken(tmp_path):
    source = plates_of(tmp_path / "in", "v5_7_0")
    base = ingest_release(tmp_path / "r", source)
    zbest = source / "v5_7_0" / "4055" / "spZbest-4055-55359.fits"
    columns = zbest_columns(4)
    zbest.unlink()
    extra = {f"X{i}": np.zeros((4, 400)) for i in range(2)}  # another file, by its size
    table_hdu(columns | {"Z": np.full(4, 0.3), "RUN2D": np.array(["v5_7_0"] * 4)} | extra).writeto(
        zbest
    )
    _, revision = ingest_all(tmp_path / "r", source)
    assert keys_of(revision.catalogue) == keys_of(base.catalogue)
    assert set(column(revision.catalogue, "z")) == {0.3}
    sound(base, revision)


def test_redshifts_that_come_while_an_ingest_lies_killed_are_the_next_revisions(tmp_path):
    source = plates_of(tmp_path / "in", "v5_7_0")
    good(source, 1)
    zbest = source / "v5_7_0" / "4055" / "spZbest-4055-55359.fits"
    content = zbest.read_bytes()
    zbest.unlink()
    with pytest.raises(Killed):
        ingest_release(tmp_path / "r", source, place=DyingPlace(0))
    zbest.write_bytes(content)
    base = ingest_release(tmp_path / "r", source)
    assert keys_of(base.catalogue) == ["sdss:266-51602-1"]
    *_, revision = ingest_all(tmp_path / "r", source)
    assert len(keys_of(revision.catalogue)) > 0
    sound(base, revision)


def test_files_that_wait_are_told_of_once(folder, tmp_path):  # noqa: F811
    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2])
    ingest_release(tmp_path / "r", folder, "made", catalogue)
    for fiber in (8, 9):
        good(folder, fiber)
        *_, last = ingest_all(tmp_path / "r", folder, "made", catalogue)
        assert [line["path"] for line in last.ledger.to_pylist()] == [name_of(fiber)]


def test_a_copy_of_redshifts_packed_otherwise_is_counted_once(tmp_path):
    source = plates_of(tmp_path / "in", "v5_7_0")
    plate = source / "v5_7_0" / "4055" / "spPlate-4055-55359.fits"
    with fits.open(plate) as hdus:
        hdus.writeto(plate.with_suffix(".fits.gz"))
    release = ingest_release(tmp_path / "r", source)
    sound(release)


def test_a_duplicate_row_of_the_catalogue_is_no_duplicate_file(folder, tmp_path):  # noqa: F811
    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2, 3, 1])
    release = ingest_release(tmp_path / "r", folder, "made", catalogue)
    assert [(x["kind"], x["reason"]) for x in release.ledger.to_pylist()] == [("row", "duplicate")]
    assert release.artifact.counts["files without row"] == 0
    sound(release)


def test_fibres_without_redshift_are_in_the_ledger(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    plate_hdus(4).writeto(source / "spPlate-4055-55359.fits")
    table_hdu(zbest_columns(2)).writeto(source / "spZbest-4055-55359.fits")
    release = ingest_release(tmp_path / "r", source)
    lost = [x for x in release.ledger.to_pylist() if x["reason"] == "no_redshift"]
    assert [x["message"][:7] for x in lost] == ["fibre 3", "fibre 4"]
    sound(release)


# What is refused ---------------------------------------------------------------------------------


def test_the_survey_is_part_of_what_a_release_is_made_from(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    good(source, 1)
    (source / "coadd-main-dark-9144.fits").write_bytes(b"whatever")
    ingest_release(tmp_path / "r", source, survey="sdss")
    with pytest.raises(StaleArtifactError, match="setting survey"):
        ingest_release(tmp_path / "r", source, survey="desi")


def test_a_forgotten_catalogue_is_asked_for(folder, tmp_path):  # noqa: F811
    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2])
    ingest_release(tmp_path / "r", folder, "made", catalogue)
    with pytest.raises(UsageError, match="was made with a catalogue, and none is given"):
        ingest_all(tmp_path / "r", folder, "made")


def job_of(tmp_path, **section):
    return make_job({"name": "j", "out": str(tmp_path / "run"), "release": [section]}, "job")


def test_releases_and_sources_lie_apart(folder, tmp_path):  # noqa: F811
    for source, out in ((folder, folder / "r"), (tmp_path / "r" / "in", tmp_path / "r")):
        source.mkdir(parents=True, exist_ok=True)
        with pytest.raises(UsageError, match="one within the other"):
            check(job_of(tmp_path, name="a", source=[str(source)], path=str(out)))
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        check(job_of(tmp_path, name="a", source=[str(folder / name_of(1))]))
    with pytest.raises(UsageError, match="of revisions"):
        job_of(tmp_path, name="dr17.1", source=[str(folder)])


def test_a_revision_of_a_release_that_was_made_anew_is_not_used(folder, tmp_path):  # noqa: F811
    ingest_release(tmp_path / "r", folder, "a")
    spectrum(folder, 4)
    ingest_all(tmp_path / "r", folder, "a")
    job = job_of(tmp_path, name="a", path=str(tmp_path / "r"))
    assert list(make_plan(job).releases) == ["a", "a.1"]
    shutil.rmtree(tmp_path / "r")
    spectrum(folder, 5)
    shutil.move(tmp_path / "r.1", tmp_path / "aside")
    ingest_release(tmp_path / "r", folder, "a")
    shutil.move(tmp_path / "aside", tmp_path / "r.1")
    with pytest.raises(UsageError, match="of another a than the one"):
        make_plan(job)


def test_clean_leaves_the_release_of_another_name_alone(folder, tmp_path):  # noqa: F811
    ingest_release(tmp_path / "r", folder, "a")
    ingest_release(tmp_path / "r.1", folder, "other")
    spectrum(folder, 4)
    job = job_of(tmp_path, name="a", source=[str(folder)], path=str(tmp_path / "r"))
    assert tmp_path / "r.1" not in stale(make_plan(job))


def test_an_unfinished_artifact_of_another_stage_is_not_deleted(folder, tmp_path):  # noqa: F811
    from spectra_scale.store import artifact

    assert artifact.begin(tmp_path / "r", artifact.Recipe("train", 1, {}, {})) is None
    (tmp_path / "r" / "checkpoint").write_text("weights")
    with pytest.raises(StaleArtifactError):
        ingest_release(tmp_path / "r", folder)
    assert (tmp_path / "r" / "checkpoint").read_text() == "weights"


def test_a_missing_shard_is_never_read_as_zeros(folder, tmp_path):  # noqa: F811
    from pipeline_builders import prepare_sample

    release = ingest_release(tmp_path / "r", folder)
    (release.arrays / "flux" / "c" / "0" / "0").unlink()
    with pytest.raises(DamagedArtifactError, match="found 0 bytes"):
        release.get("sdss:266-51602-1")
    with pytest.raises(DamagedArtifactError, match="found 0 bytes"):
        prepare_sample(tmp_path / "s", [release], **ALL)


def test_a_file_that_could_not_be_read_is_tried_again_when_others_come(tmp_path, monkeypatch):
    import os

    source = tmp_path / "in"
    source.mkdir()
    for fiber in (1, 2):
        good(source, fiber)
    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2, 3])
    bad = (source / name_of(2)).stat().st_ino
    pread = os.pread

    def failing(fd, *args):
        if os.fstat(fd).st_ino == bad:
            raise OSError(5, "Input/output error")
        return pread(fd, *args)

    monkeypatch.setattr(os, "pread", failing)
    base = ingest_release(tmp_path / "r", source, "made", catalogue)
    monkeypatch.undo()
    if base.catalogue["status"].to_pylist() == ["kept", "kept"]:
        pytest.skip("this file was read in another way than by pread")
    assert base.catalogue["reason"].to_pylist()[1] == "unreadable"
    good(source, 3)
    *_, revision = ingest_all(tmp_path / "r", source, "made", catalogue)
    assert keys_of(revision.catalogue) == ["sdss:266-51602-2", "sdss:266-51602-3"]
    assert revision.catalogue["status"].to_pylist() == ["kept", "kept"]
    assert [c.problem for c in verify(revision.path, Here(), "all") if c.problem] == []


def test_a_limited_release_has_no_revisions(folder, tmp_path):  # noqa: F811
    base = ingest_release(tmp_path / "r", folder, limit=2)
    spectrum(folder, 4)
    before = digests(base.path, without=())
    assert [r.name for r in ingest_all(tmp_path / "r", folder, limit=2)] == ["mock"]
    assert digests(base.path, without=()) == before
