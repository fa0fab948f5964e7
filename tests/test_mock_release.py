"""A mock release on disk: its parts, interruptions, full disks, folders not its own."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from spectra_scale.cli import main
from spectra_scale.compute.place import Here
from spectra_scale.config import MockSection
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.mock import fits as writer
from spectra_scale.mock.plan import plan
from spectra_scale.stages import mock as stage

N = {"n_spectra": 60, "n_spec_files": 12, "boss_fraction": 0.3, "desi_fraction": 0.3, "seed": 4}


def section(folder: Path, **changes) -> MockSection:
    return MockSection(path=folder, **(N | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "mock"
    stage.run(section(folder), Here())
    return contents(folder)


def test_parts_written_alone_are_those_of_the_whole_and_add_up_to_it(whole, tmp_path):
    folder = tmp_path / "mock"
    tasks = plan(stage.settings_of(section(folder)))
    pixel = next(task.healpix for task in tasks if task.layout == "healpix")
    stage.run(section(folder, plates=(3600,)), Here())
    stage.run(section(folder, healpix=(pixel,)), Here())
    summary = json.loads((folder / "mock.json").read_text())
    assert summary["whole"] is False
    names = {task.name for task in tasks if task.plate == 3600 or task.healpix == pixel}
    assert set(summary["parts"]) == names
    written = {k: v for k, v in contents(folder).items() if "/" in k and ".parts" not in k}
    assert written
    assert all(whole[name] == data for name, data in written.items())
    truth = pq.read_table(folder / "truth.parquet")
    assert len(truth) == summary["n_spectra"] < 60
    with fits.open(folder / "specObj-mock.fits") as hdus:
        assert set(hdus[1].data["PLATE"]) == {3600}
    # The rest in one go: the same files to the last byte, and no trace of the parts.
    stage.run(section(folder), Here())
    assert contents(folder) == whole


def test_every_column_of_the_truth_is_explained(whole):
    names = set(pq.read_table(io.BytesIO(whole["truth.parquet"])).column_names)
    page = (Path(__file__).parents[1] / "docs" / "mock.md").read_text()
    table = page.partition("### The truth table")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([a-z0-9_.]+)`", table)) - {"mock/kinds.py"}
    light = {name for name in names if name.startswith("light_")}
    # Eight shares stand as the first and the last of them.
    assert explained & light == {"light_0.01_gyr", "light_12_gyr"}
    assert explained - light == names - light


def test_every_place_writes_the_same_release(whole, executor, tmp_path):
    stage.run(section(tmp_path / "mock"), executor)
    assert contents(tmp_path / "mock") == whole


def test_a_part_that_is_there_is_kept(tmp_path):
    folder = tmp_path / "mock"
    one = section(folder, plates=(266,))
    assert stage.run(one, Here())["plates"] == 1
    assert stage.check(one)
    assert not stage.check(section(folder))
    before = (folder / "mock.json").stat().st_mtime_ns
    assert stage.run(one, Here()) == {}
    assert (folder / "mock.json").stat().st_mtime_ns == before


def call(*words: str) -> int:
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


class Killed(BaseException):
    """What stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9, 14, 22, 26, 28, 29, 30])
def test_a_killed_run_goes_on_where_it_stopped(whole, tmp_path, monkeypatch, after):
    folder, count = tmp_path / "mock", [0]
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        # The file is written under its other name and never gets its own.
        if count[0] == after:
            raise Killed
        count[0] += 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        try:
            stage.run(section(folder), Here())
            pytest.fail(f"only {count[0]} files")
        except Killed:
            pass
    # Nothing half-written looks finished, neither a file nor the release.
    for name, data in contents(folder).items():
        if not Path(name).name.startswith(".") and ".parts" not in name:
            assert whole[name] == data
    assert not (folder / "mock.json").exists()
    assert not stage.check(section(folder))
    stage.run(section(folder), Here())
    assert contents(folder) == whole


def test_tables_never_claim_to_be_finished_while_they_are_replaced(tmp_path, monkeypatch):
    folder = tmp_path / "mock"
    stage.run(section(folder, plates=(266,)), Here())

    def dying(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("spectra_scale.mock.release._write_truth", dying)
        with pytest.raises(Killed):
            stage.run(section(folder, plates=(3600,)), Here())
    assert not (folder / "mock.json").exists()
    assert not stage.check(section(folder, plates=(266,)))


@pytest.mark.parametrize("names", [["notes.txt"], ["26", "specObj-dr17.fits"], list("abcdefgh")])
def test_a_folder_with_other_things_is_refused_by_what_is_in_it(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"holds {names[0]}"):
        stage.run(section(tmp_path), Here())
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "mock").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        stage.run(section(tmp_path / "mock"), Here())


@pytest.mark.parametrize("name", ["mock.json", ".mock-begun.json"])
def test_a_damaged_mark_of_a_release_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{")
    with pytest.raises(UsageError, match="is no JSON"):
        stage.check(section(tmp_path))


def test_another_release_is_refused_by_the_settings_that_differ(tmp_path):
    stage.run(section(tmp_path / "mock", plates=(266,)), Here())
    with pytest.raises(UsageError, match="differing: n_spectra, seed"):
        stage.run(section(tmp_path / "mock", seed=5, n_spectra=61), Here())


def test_the_command_refuses_what_means_nothing(tmp_path, capsys):
    for words, said in (
        (["--n", "0"], "n_spectra"),
        (["--survey", "2df"], "Known ones: sdss, boss, desi"),
        (["--plates", "a,b"], "expected whole numbers"),
        (["--plates", "1"], "not in this release"),
        (["--boss-fraction", "0.8", "--desi-fraction", "0.4"], "more than all"),
        (["--n", "50", "--spec-files", "60"], "no more spec files"),
    ):
        code = call("mock", str(tmp_path / "m"), *words)
        assert code == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "m").exists()


def test_the_command_writes_the_parts_it_is_asked_for(tmp_path, capsys):
    words = [
        "--n",
        "700",
        "--survey",
        "sdss",
        "--spec-files",
        "0",
        "--plates",
        "267",
        "--workers",
        "1",
    ]
    code = call("mock", str(tmp_path / "m"), *words)
    assert code == 0
    assert "1 plates, 85 spectra" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "m/26").iterdir()] == ["0267"]


def test_a_full_disk_says_so_and_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(SpectraScaleError, match=r"no space on the disk.* same command again"):
            writer.write_atomically(tmp_path / "x.fits", [b"SIMPLE"])
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_once_a_full_disk_has_room_again(whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    # A disk of the size of half the release.
    size = sum(map(len, whole.values())) // 2
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)],
        capture_output=True, check=False,
    ) if os.geteuid() == 0 else None  # fmt: skip
    if made is None or made.returncode != 0:
        pytest.skip("needs a small file system, which only root can mount")
    try:
        folder = disk / "mock"
        with pytest.raises(SpectraScaleError, match="no space"):
            stage.run(section(folder), Here())
        for name, data in contents(folder).items():
            if not Path(name).name.startswith(".") and ".parts" not in name:
                assert whole[name] == data
        assert not (folder / "mock.json").exists()
        remount = ["mount", "-o", f"remount,size={4 * size}", str(disk)]
        subprocess.run(remount, capture_output=True, check=True)
        stage.run(section(folder), Here())
        assert contents(folder) == whole
    finally:
        subprocess.run(["umount", str(disk)], capture_output=True, check=False)


def test_no_two_objects_share_a_number_and_repeats_do(whole, tmp_path):
    path = tmp_path / "truth.parquet"
    path.write_bytes(whole["truth.parquet"])
    truth = pq.read_table(path).to_pydict()
    first = ~np.array(truth["is_repeat"])
    numbers = np.array(truth["object_id"])
    assert len(np.unique(numbers[first])) == first.sum()
    assert set(numbers[~first]) <= set(numbers[first])
    assert {"survey", "target", "program", "healpix", "spectrum_key"} <= set(truth)
