"""Several surveys and releases in one sample: who is whose repeat, and what supersedes what.

The mock's truth table says which observations are of one object; keys and frames are those of
science.md §2 and §4.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from pipeline_builders import ingest_release, label_releases, manifest, prepare_sample, write_mock

from spectra_scale.compute.place import Here
from spectra_scale.config import PrepareSection, StackSection
from spectra_scale.mock.release import CATALOGUE_FILE
from spectra_scale.stages import stack
from spectra_scale.store import artifact
from spectra_scale.store.objects import column, write_objects
from spectra_scale.verify import verify

#: Cuts that few spectra fail: this is about identity, not about quality.
LOOSE = {
    "min_snr": -1e9, "max_masked_fraction": 1.0, "z_min": 0.0, "z_max": 1.0,
    "classes": ("GALAXY", "QSO", "STAR"), "require_primary": False, "require_good_plate": False,
    "require_science_target": False, "require_good_fiber": False,
    "zwarning_ignore_bits": tuple(range(32)),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Legacy, BOSS, SDSS-V and DESI spectra in one folder, some of the same objects."""
    out = tmp_path_factory.mktemp("several") / "mock"
    return write_mock(out, 150, 12, boss_fraction=0.2, desi_fraction=0.3, sdssv_fraction=0.3,
                      sdssv_repeat_fraction=0.3)  # fmt: skip


@pytest.fixture(scope="module")
def releases(folder, tmp_path_factory):
    """The three releases that a user would make of it, stored and not."""
    out = tmp_path_factory.mktemp("releases")
    (zall,) = folder.glob("zall-pix-*.fits")
    (spall,) = folder.rglob("spAll-*.fits")

    def three(kind, **settings):
        return [
            ingest_release(out / f"dr17{kind}", folder, "dr17", folder / CATALOGUE_FILE,
                           survey="sdss", **settings),
            ingest_release(out / f"dr19{kind}", folder, "dr19", spall, survey="sdss", **settings),
            ingest_release(out / f"iron{kind}", folder, "iron", zall, survey="desi", **settings),
        ]  # fmt: skip

    return three(""), three("-lean", copy=False)


def test_every_survey_of_a_folder_becomes_a_release_and_nothing_is_lost(folder, releases):
    truth = pq.read_table(folder / "truth.parquet")
    found = {release.name: release.catalogue for release in releases[0]}
    keys = [key for table in found.values() for key in table["spectrum_key"].to_pylist()]
    assert len(keys) == len(set(keys))
    # Sky and standard stars of plates are in its own tables, not in the truth of objects.
    assert set(truth["spectrum_key"].to_pylist()) <= set(keys)
    for pair in zip(*releases, strict=True):
        for release in pair:
            assert [c.problem for c in verify(release.path, Here(), "all") if c.problem] == []
            counts = release.artifact.counts
            n_files = sum(path.is_file() for path in folder.rglob("*"))
            assert counts["files in"] == n_files


def test_desi_spectra_are_stored_with_their_arms_merged(folder, releases):
    release = releases[0][2]
    assert (release.grid.name, release.grid.n_pixels, release.grid.linear_step) == (
        "desi", 7781, 0.8,
    )  # fmt: skip
    row = release.catalogue.to_pylist()[0]
    with fits.open(folder / row["source_file"]) as hdus:
        at = int(np.flatnonzero(hdus["FIBERMAP"].data["TARGETID"] == row["targetid"])[0])
        blue = hdus["B_FLUX"].data[at], hdus["B_IVAR"].data[at]
    spectrum = release.get(row["spectrum_key"])
    assert spectrum.wavelength[0] == pytest.approx(3600.0)
    assert spectrum.wavelength[-1] == pytest.approx(9824.0)
    # Below 5760 Å (pixel 2700) only the blue arm sees.
    good = blue[1][:2700] > 0
    np.testing.assert_array_equal(spectrum.flux[0, :2700][good], blue[0][:2700][good])
    np.testing.assert_array_equal(spectrum.ivar[0, :2700][good], blue[1][:2700][good])


def test_one_object_seen_by_several_surveys_is_one_object(folder, releases, tmp_path):
    sample = prepare_sample(tmp_path, releases[0], **LOOSE)
    index, truth = sample.index.to_pylist(), pq.read_table(folder / "truth.parquet").to_pylist()
    object_of = {row["spectrum_key"]: row["object_id"] for row in truth}
    known = [row for row in index if row["spectrum_key"] in object_of]  # no sky
    groups = {}
    for row in known:
        groups.setdefault(row["sky_id"], []).append(row)
    surveys = [{r["release"] for r in rows} for rows in groups.values() if len(rows) > 1]
    assert {"dr17", "dr19"} in surveys  # SDSS-V looked again at what plates had seen
    for rows in groups.values():
        assert len({object_of[r["spectrum_key"]] for r in rows}) == 1
        assert sum(r["primary"] for r in rows) == 1
    assert len(groups) == len({object_of[r["spectrum_key"]] for r in known})
    counts = sample.artifact.counts
    assert counts["repeats"] == sum(not r["superseded"] and not r["primary"] for r in index)
    assert counts["repeats"] >= len(surveys)
    by_release = {r["release"] for r in index}
    assert by_release == {"dr17", "dr19", "iron"}
    assert {r["targetid"] > 0 for r in index if r["release"] == "iron"} == {True}


def membership_of(folder, sample):
    """Two regions, by hand: what the stacks are of."""
    index = sample.index
    recipe = artifact.Recipe("regions", 1, {}, {"sample": sample.artifact.fingerprint})
    assert artifact.begin(folder, recipe) is None
    n = index.num_rows
    columns = {"in_all": np.ones(n, bool), "in_desi": column(index, "release") == "iron"}
    write_objects(folder / "objects", index, columns)
    return artifact.finish(folder, recipe, counts={})


def stacks_of(folder, releases):
    sample = prepare_sample(folder, releases, **LOOSE)
    regions = membership_of(folder / "regions", sample)
    config = StackSection(n_bootstrap=2)
    recipe = stack.recipe(regions.fingerprint, PrepareSection(**LOOSE), config)
    inputs = stack.StackInputs(releases, sample, regions)
    return sample, stack.run(inputs, config, Here(), folder / "stacks", recipe)


def test_without_a_copy_sample_and_stacks_are_the_same(releases, tmp_path):
    (full, stacked), (lean, same) = (
        stacks_of(tmp_path / name, these)
        for name, these in zip(("full", "lean"), releases, strict=True)
    )
    assert full.n_rows == lean.n_rows > 100
    for shard in full.shards:
        mine, theirs = (s.read(shard.rows) for s in (full, lean))
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])
    assert full.index.equals(lean.index)
    for name in ("stacks.parquet", "indices.parquet"):
        mine, theirs = (pq.read_table(a.path / name) for a in (stacked, same))
        for each in mine.column_names:
            np.testing.assert_array_equal(mine[each].to_numpy(), theirs[each].to_numpy())
    # DESI spectra came into their stack: most of the rest-frame optical is covered.
    table = pq.read_table(stacked.path / "stacks.parquet")
    assert np.count_nonzero(table["desi_count"].to_numpy()) > 2000


@pytest.fixture(scope="module")
def reductions(tmp_path_factory):
    """One field of SDSS-V in two reductions, with their own names of files."""
    out = tmp_path_factory.mktemp("reductions")
    settings = {"boss_fraction": 0.0, "sdssv_fraction": 1.0, "sdssv_repeat_fraction": 0.0}
    return [
        ingest_release(
            out / name,
            write_mock(out / f"mock-{name}", 24, 0, sdssv_release=name, **settings),
            name,
        )
        for name in ("dr18", "dr19")
    ]


def test_a_reduction_anew_supersedes_whatever_its_files_are_called(reductions, tmp_path):
    old, new = reductions
    names = [set(r.catalogue["source_file"].to_pylist()) for r in reductions]
    assert not names[0] & names[1]
    keys = [set(r.catalogue["spectrum_key"].to_pylist()) for r in reductions]
    assert keys[0] == keys[1]
    sample = prepare_sample(tmp_path / "new-last", [old, new], **LOOSE)
    rows = sample.index.to_pylist()
    assert {(r["release"], r["superseded"]) for r in rows} == {("dr18", True), ("dr19", False)}
    assert not any(r["primary"] for r in rows if r["release"] == "dr18")
    counts = sample.artifact.counts
    assert counts["superseded"] == counts["kept"] // 2
    assert counts["repeats"] == 0
    # What is newer is what the job names last.
    other = prepare_sample(tmp_path / "old-last", [new, old], **LOOSE)
    assert {r["release"] for r in other.index.to_pylist() if r["superseded"]} == {"dr19"}


def test_labels_of_desi_come_from_fastspecfit(folder, releases, tmp_path):
    (table,) = folder.glob("fastspec-*.fits")
    labels = label_releases(tmp_path / "labels", releases[0], [table])
    found = pq.read_table(tmp_path / "labels" / "objects" / "iron.parquet")
    assert np.mean(column(found, "measured")) > 0.7
    assert set(found["source"].to_pylist()) <= {"fastspecfit", ""}
    sdss = pq.read_table(tmp_path / "labels" / "objects" / "dr17.parquet")
    assert not column(sdss, "measured").any()
    assert manifest(labels.path)["counts"]["rows"] == sum(r.n_rows for r in releases[0])
    assert pa.types.is_integer(found["label"].type)
