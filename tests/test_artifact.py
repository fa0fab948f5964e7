"""When a stage skips, resumes and refuses, and what a fingerprint depends on."""

import os
import pickle
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_builders import Prepared, digests, ingest_release, label_releases, write_mock

from spectra_scale.config import (
    DensitySection,
    EmbedSection,
    PrepareSection,
    RegionsSection,
    StackSection,
    TrainSection,
    changed_settings,
)
from spectra_scale.errors import DamagedArtifactError, StaleArtifactError, UsageError
from spectra_scale.provenance import digest, files_fingerprint, fingerprint
from spectra_scale.stages import prepare, train
from spectra_scale.store.arrays import Layout
from spectra_scale.store.artifact import (
    Recipe,
    begin,
    begin_state,
    check_files,
    finish,
    open_artifact,
    refuse_stale,
    remove,
)

RECIPE = Recipe("encode", 1, {"epochs": 3}, {"sample": "ab" * 16})


def make(path, recipe=RECIPE):
    assert begin(path, recipe) is None
    (path / "data.txt").write_text("data")
    return finish(path, recipe, counts={"rows": 3})


def test_a_finished_artifact_is_skipped_and_an_unfinished_one_resumed(tmp_path):
    out = tmp_path / "deep" / "latents"
    assert begin_state(out, RECIPE) == "to do"
    assert begin(out, RECIPE) is None
    assert begin_state(out, RECIPE) == "unfinished"
    (out / "part").write_text("half")
    assert begin(out, RECIPE) is None
    assert (out / "part").read_text() == "half"
    made = finish(out, RECIPE, counts={"rows": 3}, metrics={"chi2": 1.2}, where={"place": "x"})
    assert begin_state(out, RECIPE) == "done"
    found = begin(out, RECIPE)
    assert found is not None
    assert found.manifest == made.manifest
    assert (found.counts, found.metrics) == ({"rows": 3}, {"chi2": 1.2})
    assert not (out / "started.json").exists()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Recipe("encode", 1, {"epochs": 4}, RECIPE.parents), "setting epochs (3 -> 4)"),
        (Recipe("encode", 1, {}, RECIPE.parents), "setting epochs (3 -> default)"),
        (
            Recipe("encode", 1, {"epochs": 3, "seed": 2}, RECIPE.parents),
            "setting seed (default -> 2)",
        ),
        (Recipe("encode", 2, RECIPE.settings, RECIPE.parents), "version (1 -> 2)"),
        (
            Recipe("encode", 1, RECIPE.settings, {"sample": "cd" * 16}),
            f"input sample ({'ab' * 16} -> {'cd' * 16})",
        ),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_is_touched(
    tmp_path, finished, other, words
):
    out = tmp_path / "latents"
    if finished:
        make(out)
    else:
        begin(out, RECIPE)
    before = digests(out, without=())
    assert begin_state(out, other) == "other settings"
    with pytest.raises(StaleArtifactError) as error:
        begin(out, other)
    message = str(error.value)
    for part in (str(out), RECIPE.fingerprint[:12], other.fingerprint[:12], words):
        assert part in message
    assert "spectra-scale clean" in message
    assert error.value.exit_code == 2
    assert (error.value.recorded, error.value.expected) == (RECIPE.fingerprint, other.fingerprint)
    assert digests(out, without=()) == before


def test_a_refusal_survives_the_way_back_from_a_worker(tmp_path):
    error = StaleArtifactError(tmp_path, "a" * 32, "b" * 32, "setting x (1 -> 2)")
    assert "setting x (1 -> 2)" in str(pickle.loads(pickle.dumps(error)))


def test_files_of_somebody_else_are_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for act in (begin, refuse_stale):
        with pytest.raises(UsageError, match="did not write"):
            act(tmp_path, RECIPE)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_and_none_are_fine(tmp_path):
    refuse_stale(tmp_path, RECIPE)
    refuse_stale(tmp_path / "none", RECIPE)
    assert not (tmp_path / "none").exists()
    assert begin(tmp_path, RECIPE) is None


def test_what_is_not_finished_cannot_be_opened(tmp_path):
    with pytest.raises(DamagedArtifactError, match="found no artifact"):
        open_artifact(tmp_path)
    begin(tmp_path, RECIPE)
    with pytest.raises(DamagedArtifactError, match="found an unfinished artifact"):
        open_artifact(tmp_path)
    finish(tmp_path, RECIPE, counts={})
    assert open_artifact(tmp_path, "encode").fingerprint == RECIPE.fingerprint
    with pytest.raises(DamagedArtifactError, match="kind encode, expected prepare"):
        open_artifact(tmp_path, "prepare")


def test_a_newer_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("spectra_scale.store.artifact.SCHEMA_VERSION", 9)
    make(tmp_path / "new")
    monkeypatch.undo()
    with pytest.raises(DamagedArtifactError, match="found schema version 9"):
        open_artifact(tmp_path / "new")


@pytest.mark.parametrize("name", ["manifest.json", "started.json"])
def test_a_manifest_that_is_no_json_says_what_to_delete(tmp_path, name):
    if name == "manifest.json":
        make(tmp_path / "a")
    else:
        begin(tmp_path / "a", RECIPE)
    (tmp_path / "a" / name).write_text('{"kind": ')
    with pytest.raises(DamagedArtifactError, match=r"not JSON.* delete .*a\."):
        begin(tmp_path / "a", RECIPE)


@pytest.mark.parametrize("finished", [True, False])
def test_what_a_killed_deletion_leaves_is_never_used(tmp_path, monkeypatch, finished):
    out = tmp_path / "a"
    begin(out, RECIPE)
    (out / "parts").mkdir()
    (out / "parts" / "done").write_text("half")
    if finished:
        finish(out, RECIPE, counts={})

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(out)
    monkeypatch.undo()
    assert (out / "parts" / "done").is_file()
    with pytest.raises(DamagedArtifactError, match="no artifact"):
        open_artifact(out)
    assert begin_state(out, RECIPE) == "to do"
    refuse_stale(out, RECIPE)
    assert begin(out, RECIPE) is None
    assert [file.name for file in out.iterdir()] == ["started.json"]
    remove(out)
    assert not out.exists()


def test_a_deletion_may_be_given_again(tmp_path, monkeypatch):
    make(tmp_path / "a")
    (tmp_path / "a" / "arrays").mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        remove(tmp_path / "a")
    monkeypatch.undo()
    remove(tmp_path / "a")
    remove(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_every_file_but_scraps_is_listed_and_checked(tmp_path):
    out = tmp_path / "a"
    begin(out, RECIPE)
    (out / "objects").mkdir()
    (out / "objects" / "dr7.parquet").write_bytes(b"table")
    (out / ".dr7.parquet.x1.part").write_bytes(b"half")  # of a writer that was killed
    (out / "parts").mkdir()
    (out / "parts" / "000.npy").write_bytes(b"of a task")
    made = finish(out, RECIPE, counts={})
    assert list(made.manifest["files"]) == ["objects/dr7.parquet"]
    assert not list(out.glob(".*"))
    assert check_files(made) == 1
    (out / "objects" / "dr7.parquet").write_bytes(b"tablE")
    with pytest.raises(DamagedArtifactError, match=r"dr7\.parquet: found checksum"):
        check_files(made)
    (out / "objects" / "dr7.parquet").unlink()
    with pytest.raises(DamagedArtifactError, match="found no file"):
        check_files(made)


# Fingerprints ------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=5), st.randoms())
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(settings, random):
    names = list(settings)
    random.shuffle(names)
    other = {name: settings[name] for name in names}
    assert fingerprint("a", 1, settings, {"x": "1"}) == fingerprint("a", 1, other, {"x": "1"})
    assert fingerprint("a", 1, settings, {}) != fingerprint("a", 2, settings, {})
    assert fingerprint("a", 1, settings, {}) != fingerprint("b", 1, settings, {})
    changed = settings | {"new": 1, "new2": 2}
    assert fingerprint("a", 1, settings, {}) != fingerprint("a", 1, changed, {})


@given(st.lists(json_values, min_size=2, max_size=4))
def test_different_values_have_different_digests(values):
    # Equal as JSON text, not as Python values: True == 1, and 1 == 1.0.
    texts = {repr(digest([v])) for v in values}
    import json

    assert len(texts) == len({json.dumps(v, sort_keys=True) for v in values})


@pytest.mark.parametrize(
    "section",
    [PrepareSection, TrainSection, DensitySection, EmbedSection, RegionsSection, StackSection],
)
def test_a_setting_given_at_its_default_is_as_one_not_given(section):
    assert changed_settings(section()) == {}
    assert changed_settings(section(**section().model_dump())) == {}


def test_where_and_how_safely_a_training_runs_is_not_hashed():
    plain = train.recipe("s", TrainSection())
    elsewhere = TrainSection(engine="local", workers=8, max_failures=0, checkpoint_every=1)
    assert train.recipe("s", elsewhere).fingerprint == plain.fingerprint
    assert train.recipe("s", TrainSection(seed=2)).fingerprint != plain.fingerprint


def test_files_are_known_by_path_and_size_never_by_time(tmp_path):
    for name in ("a.fits", "b.fits"):
        (tmp_path / name).write_bytes(b"12345")
    paths = [tmp_path / "a.fits", tmp_path / "b.fits"]
    first = files_fingerprint(tmp_path, paths)
    os.utime(paths[0], (1, 1))
    assert files_fingerprint(tmp_path, paths[::-1]) == first
    moved = shutil.copytree(tmp_path, tmp_path / "copy")
    assert files_fingerprint(moved, [moved / "a.fits", moved / "b.fits"]) == first
    paths[0].write_bytes(b"123456")
    assert files_fingerprint(tmp_path, paths) != first


def test_the_order_of_releases_is_part_of_a_sample():
    # A later release supersedes an earlier one: swapped, another sample comes out.
    config, layout = PrepareSection(), Layout()
    one = prepare.recipe({"dr7": "1", "dr17": "2"}, "l", config, layout)
    other = prepare.recipe({"dr17": "2", "dr7": "1"}, "l", config, layout)
    assert one.fingerprint != other.fingerprint
    single = prepare.recipe({"dr7": "1"}, "l", config, layout)
    assert single.settings == {}


def test_releases_labels_and_samples_may_be_moved(tmp_path):
    source = write_mock(tmp_path / "mock", n=40, n_spec=8)
    old = tmp_path / "old"
    release = ingest_release(old / "r", source)
    labels = label_releases(old / "labels", [release])
    Prepared([release], labels, PrepareSection(min_snr=5.0)).run(old / "sample")
    before = digests(old, without=())
    shutil.move(source, tmp_path / "mock-moved")
    shutil.move(old, tmp_path / "new")
    new = tmp_path / "new"
    release = ingest_release(new / "r", tmp_path / "mock-moved")
    labels = label_releases(new / "labels", [release])
    sample = Prepared([release], labels, PrepareSection(min_snr=5.0)).run(new / "sample")
    # All were skipped: not a byte has changed, the time of making included.
    assert digests(new, without=()) == before
    assert sample.read(slice(0, 3))[0].any()
