"""Ingest while files change, and two ingests or runs at once.

Nothing is committed that is half of this and half of that; one of two wins, the other is told.
"""

import dataclasses
import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from kill_harness import Birth, Moment, cut, overwrite, replace, stop
from kill_scenes import (
    Ingest,
    catalogue_file,
    contents,
    ingest_arguments,
    same,
    sound,
    spec_name,
    spectrum,
)
from pipeline_builders import COMMAND

from spectra_scale.store.tables import read_table

PLATE = "spPlate-4055-55359.fits"


@pytest.fixture
def source(scenes, tmp_path):
    """A copy of the survey's files, to be spoiled."""
    return Path(shutil.copytree(scenes.source, tmp_path / "in"))


# Files that change -------------------------------------------------------------------------------

BEGUN = Moment("r/files.parquet", "rename", after=True)
HALF_READ = Moment("r/parts/status-000000.parquet", "rename", after=True)
READ = Moment("r/catalogue.parquet", "rename", after=True)


CHANGES = [(BEGUN, replace), (BEGUN, cut), (HALF_READ, overwrite), (HALF_READ, os.remove),
           (READ, replace), (READ, cut)]  # fmt: skip


def ingested(nursery, source, tmp_path):
    """What an ingest of files gives that nobody disturbs."""
    ingest = Ingest(nursery, source, tmp_path / "whole")
    ingest.done()
    return contents(ingest.folder)


@pytest.mark.parametrize(
    ("moment", "how"), CHANGES, ids=[f"{how.__name__} {moment}" for moment, how in CHANGES]
)
def test_a_file_that_changes_while_it_is_ingested_is_not_committed(
    nursery, source, tmp_path, moment, how
):
    (tmp_path / "new").mkdir()
    other = spectrum(tmp_path / "new", 4, seed=99)
    given = {cut: (12_000,), os.remove: ()}.get(how, (other,))
    ingest = Ingest(nursery, source, tmp_path / "out")
    trouble = {"moment": moment, "act": partial(how, source / spec_name(4), *given)}
    ingest.refused(rf"changed while they were read.*{spec_name(4)}.*begins anew", **trouble)
    ingest.done()
    same(tmp_path / "out", ingested(nursery, source, tmp_path))
    sound(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "n", "how"),
    [(spec_name(4), 1, cut), (spec_name(4), 2, overwrite), (PLATE, 1, overwrite), (PLATE, 2, cut)],
)
def test_a_file_that_changes_between_opening_and_reading_is_not_committed(
    nursery, source, tmp_path, name, n, how
):
    whole = (source / name).read_bytes()
    other = tmp_path / "other"
    other.write_bytes(whole[:-4000] + bytes(4000))
    given = {cut: (len(whole) // 2,)}.get(how, (other,))
    ingest = Ingest(nursery, source, tmp_path / "out")
    # Just after it is opened for the n-th time.
    ingest.refused(
        rf"changed while they were read.*{name}",
        moment=Moment(name, "read", n, after=True),
        act=partial(how, source / name, *given),
        watched=source,
    )
    ingest.done()
    same(tmp_path / "out", ingested(nursery, source, tmp_path))
    sound(tmp_path / "out")


def test_a_catalogue_that_is_replaced_while_it_is_read_is_not_committed(nursery, scenes, tmp_path):
    scenes.catalogue()
    table, other = tmp_path / "specObj.fits", tmp_path / "other.fits"
    shutil.copy(scenes.table, table)
    catalogue_file(other, [2, 3, 4])
    ingest = Ingest(nursery, scenes.source, tmp_path / "out", "--catalogue", table)
    change = {"moment": BEGUN, "act": partial(replace, table, other)}
    ingest.refused(rf"the catalogue {table} changed while it was read", **change)
    assert "rows: 3" in ingest.done()
    sound(tmp_path / "out")


def test_a_file_that_comes_while_others_are_read_waits_for_the_next_time(
    nursery, source, tmp_path
):
    (tmp_path / "new").mkdir()
    other = spectrum(tmp_path / "new", 50)
    whole = ingested(nursery, source, tmp_path)
    ingest = Ingest(nursery, source, tmp_path / "out")
    ingest.done(moment=HALF_READ, act=partial(replace, source / spec_name(50), other))
    same(tmp_path / "out", whole)
    assert "release made.1:" in ingest.done()
    assert read_table(tmp_path / "out" / "r.1" / "catalogue.parquet").num_rows == 1
    sound(tmp_path / "out")


# Two at once -------------------------------------------------------------------------------------

TOLD = r"is being written by process (\d+) on .*Wait until it ends"


@pytest.mark.parametrize(
    "moment",
    [
        Moment("r/started.json", "rename", after=True),
        HALF_READ,
        Moment("r/manifest.json", "rename"),
    ],
    ids=str,
)
def test_the_second_of_two_ingests_of_a_release_is_told(nursery, scenes, tmp_path, moment):
    files = scenes.ingest()
    first = Ingest(nursery, scenes.source, tmp_path / "out")
    holder = nursery.start(first.birth(moment, stop))
    holder.until_stopped()
    second = Ingest(nursery, scenes.source, tmp_path / "out")
    second.log = tmp_path / "second"
    code, text = second.run()
    assert code == 1
    assert int(re.search(f"^error: .*{TOLD}", text, re.MULTILINE)[1]) == holder.pid
    holder.go_on()
    assert holder.wait() == 0, holder.text
    same(tmp_path / "out", files.whole)
    # And nothing is left for a third to do.
    before = (tmp_path / "out" / "r" / "manifest.json").stat()
    second.done()
    assert (tmp_path / "out" / "r" / "manifest.json").stat() == before


def test_one_who_looked_while_another_wrote_touches_nothing_when_that_is_done(
    nursery, scenes, tmp_path
):
    files = scenes.ingest()
    first = Ingest(nursery, scenes.source, tmp_path / "out")
    # Begun, and has not said yet with which files: whoever finds it so would begin it anew.
    holder = nursery.start(first.birth(Moment("r/started.json", "rename", after=True), stop))
    holder.until_stopped()
    other = nursery.start(first.birth(Moment(".r.lock", "write"), stop))
    other.until_stopped()
    holder.go_on()
    assert holder.wait() == 0, holder.text
    before = (tmp_path / "out" / "r" / "manifest.json").stat()
    other.go_on()
    assert other.wait() == 0, other.text
    assert (tmp_path / "out" / "r" / "manifest.json").stat() == before
    same(tmp_path / "out", files.whole)
    sound(tmp_path / "out")


def test_the_second_of_two_runs_of_a_job_is_told(nursery, scenes, tmp_path):
    scene = scenes.run()
    birth = scene.birth(tmp_path, Moment("sample/index.parquet", "rename"))
    holder = nursery.start(dataclasses.replace(birth, act=stop))
    holder.until_stopped()
    (tmp_path / "second").mkdir()
    second = Birth(holder.birth.action, tmp_path / "second" / "log")
    assert nursery.run(second) == 1
    said = re.search(f"^error: .*{TOLD}", second.log.read_text(), re.MULTILINE)
    assert int(said[1]) == holder.pid
    holder.go_on()
    assert holder.wait() == 0, holder.text
    shutil.rmtree(tmp_path / "second")
    same(tmp_path, scene.whole)


def test_of_ingests_that_begin_together_one_at_least_ends_well(nursery, scenes, tmp_path):
    files = scenes.ingest()
    words = [*COMMAND, *map(str, ingest_arguments(scenes.source, tmp_path / "out" / "r"))]
    both = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in both]
    assert min(code for _, code in ends) == 0, ends
    for text, code in ends:
        assert code == 0 or (code == 1 and re.search(TOLD, text)), text
        assert "Traceback" not in text
    same(tmp_path / "out", files.whole)
    sound(tmp_path / "out")
