"""The mock command: what it refuses, damaged parts, two runs in one folder, what it compares."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spectra_scale.cli import main
from spectra_scale.compute.place import Here
from spectra_scale.config import MockSection
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.mock import fits as writer
from spectra_scale.mock import parts
from spectra_scale.mock.plan import plan
from spectra_scale.mock.settings import (
    MockSettings,
    chosen_fractions,
    default_spec_files,
    whole_numbers,
)
from spectra_scale.stages import mock as stage
from spectra_scale.store.lock import LOCK, locked

N = {"n_spectra": 40, "n_spec_files": 8, "seed": 4}


def call(capsys, *words: object) -> tuple[int, str, str]:
    """Exit code of the command line, what it printed, what it complained."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return int(left.value.code or 0), out.out, out.err


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--desi-fraction", "nan"], "desi_fraction"),
        (["--desi-fraction", "inf"], "desi_fraction"),
        (["--desi-fraction", "-0.5"], "desi_fraction"),
        (["--boss-fraction", "nan"], "boss_fraction"),
        (["--n", "-3"], "n_spectra"),
        (["--plates", "²"], "--plates '²': expected whole numbers"),
        (["--plates", "٣"], "expected whole numbers"),
        (["--plates", "9" * 5000], "expected whole numbers"),
        (["--healpix", "1,,-2"], "--healpix '1,,-2': expected whole numbers"),
        (["--survey", "desi", "--boss-fraction", "0.5"], "boss_fraction=0.5 beside it"),
        (["--survey", "boss", "--boss-fraction", "1"], "Leave either out"),
        (["--survey", "desi", "--compare", "."], "all spectra of this release are DESI's"),
    ],
)
def test_an_option_that_means_nothing_is_wrong_usage(tmp_path, capsys, words, said):
    code, out, err = call(capsys, "mock", tmp_path / "m", *words)
    assert code == 2
    assert err.startswith("error: ")
    assert said in err
    assert len(err) < 2000
    assert out == ""
    assert not (tmp_path / "m").exists()


def test_a_name_that_no_folder_can_have_is_wrong_usage(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path, said in (
        (tmp_path / ("a" * 300), "File name too long"),
        (tmp_path / ("a" * 300) / "b", "File name too long"),
        (tmp_path / "file" / "m", "Not a directory"),
        (tmp_path / "file", "is a file"),
    ):
        code, _, err = call(capsys, "mock", path, "--n", "10")
        assert code == 2
        assert err.startswith("error: ")
        assert said in err


def test_a_name_of_real_files_that_no_folder_can_have_is_wrong_usage(tmp_path, capsys):
    code, _, err = call(capsys, "mock", tmp_path / "m", "--compare", tmp_path / ("a" * 300))
    assert code == 2
    assert err.startswith("error: ")


def test_what_the_system_refuses_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    for number, expected in (
        (errno.EIO, 1),
        (errno.ENOENT, 1),
        (errno.EMFILE, 1),
        (errno.ENAMETOOLONG, 2),
        (errno.ENOTDIR, 2),
    ):

        def fail(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number), str(tmp_path / "x"))

        monkeypatch.setattr("spectra_scale.status.status_rows", fail)
        code, _, err = call(capsys, "status", tmp_path)
        assert code == expected
        assert err.startswith(f"error: {os.strerror(number)}: {tmp_path / 'x'}")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["mock.json", ".mock-begun.json"])
def test_a_folder_in_place_of_the_mark_of_a_release_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=r"is a folder; expected the file"):
        stage.check(MockSection(path=tmp_path, **N))


@pytest.mark.parametrize(
    "content", ['{"settings": [1]}', '{"settings": "x", "format": 2}', "[1]", "7", '{"format": 1}']
)
def test_a_mark_that_says_something_else_is_refused(tmp_path, content):
    (tmp_path / "mock.json").write_text(content)
    with pytest.raises(UsageError, match="holds a mock release of other settings"):
        stage.check(MockSection(path=tmp_path, **N))


def test_parts_that_are_no_names_are_none(tmp_path):
    folder = tmp_path / "m"
    stage.run(MockSection(path=folder, **N, plates=(266,)), Here())
    summary = json.loads((folder / "mock.json").read_text())
    for wrong in (5, "266", [[1]], None):
        (folder / "mock.json").write_text(json.dumps(summary | {"parts": wrong}))
        assert not stage.check(MockSection(path=folder, **N, plates=(266,)))


def test_a_share_that_is_negative_is_named():
    shares = {"star-forming": 1.25, "passive": -0.25}
    with pytest.raises(UsageError, match=r"star-forming=1.25, passive=-0.25: expected shares"):
        MockSettings(class_fractions=shares)
    with pytest.raises(UsageError, match=r"passive=nan"):
        MockSettings(class_fractions={"star-forming": 1.0, "passive": float("nan")})
    with pytest.raises(UsageError, match=r"sum to 0.5: expected shares that sum to 1"):
        MockSettings(class_fractions={"star-forming": 0.5})


def test_one_survey_or_shares_are_asked_for():
    def shares(*asked: object) -> list[float]:
        found = chosen_fractions(*asked)
        return [found.pop(f"{name}_fraction") for name in ("boss", "desi", "sdssv")]

    assert shares(None, None, None) == [0.25, 0.0, 0.0]
    assert shares(None, None, 0.5) == [0.25, 0.5, 0.0]
    assert shares(None, None, None, 0.3) == [0.25, 0.0, 0.3]
    assert shares("desi", None, None) == [0.0, 1.0, 0.0]
    assert shares("sdssv", None, None) == [0.0, 0.0, 1.0]
    with pytest.raises(UsageError, match="survey=desi"):
        chosen_fractions("desi", None, 1.0)


def test_spec_files_are_those_of_legacy_and_boss_spectra():
    assert default_spec_files(10_000, 0.0) == 200
    assert default_spec_files(100, 0.75) == 25
    assert default_spec_files(100, 1.0) == 0
    assert default_spec_files(100, 0.5, 0.25) == 25


def test_numbers_of_an_option():
    assert whole_numbers("--plates", None) is None
    assert whole_numbers("--plates", " 266,267 ,") == (266, 267)
    with pytest.raises(UsageError, match="--plates ',': expected"):
        whole_numbers("--plates", ",")


# Damaged parts -----------------------------------------------------------------------------------


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zeroed(data: bytes) -> bytes:
    return b"\0" * len(data)


def flipped(data: bytes) -> bytes:
    """One byte of the middle, where the rows of the tables are."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "mock"
    stage.run(MockSection(path=folder, **N), Here())
    return contents(folder)


def emptied(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, zeroed, flipped, emptied])
def test_a_damaged_part_is_written_again(whole, tmp_path, damage):
    folder = tmp_path / "mock"
    one = MockSection(path=folder, **N, plates=(266,))
    stage.run(one, Here())
    task = next(t for t in plan(stage.settings_of(one)) if t.plate == 266)
    path = parts.part_path(folder, task)
    path.write_bytes(damage(path.read_bytes()))
    assert not parts.is_written(folder, task, stage.settings_of(one))
    stage.run(MockSection(path=folder, **N), Here())
    assert contents(folder) == whole


def test_a_part_that_breaks_while_it_is_collected_says_so(tmp_path):
    settings = MockSettings(**N)
    task = plan(settings)[0]
    path = parts.part_path(tmp_path, task)
    path.parent.mkdir()
    for data in (b"", b"PK", b"x" * 100):
        path.write_bytes(data)
        with pytest.raises(SpectraScaleError, match=r"cannot be read .* Delete it"):
            parts.sizes_of(tmp_path, [task])
        with pytest.raises(SpectraScaleError, match=r"cannot be read"):
            list(parts.rows_of(tmp_path, [task], "catalogue"))


# Two runs in one folder --------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from spectra_scale.store.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE,
                               text=True)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_another_run_writes_is_refused_and_named(tmp_path, capsys):
    folder = tmp_path / "m"
    with holder(folder) as other:
        try:
            code, _, err = call(capsys, "mock", folder, "--n", "10", "--spec-files", "0")
            assert code == 1
            assert f"{folder} is being written by process {other.pid} on {os.uname().nodename}" \
                in err  # fmt: skip
            assert "Wait until it ends" in err
            assert [path.name for path in folder.iterdir()] == [LOCK]
        finally:
            other.kill()


def test_a_lock_does_not_outlive_its_process(whole, tmp_path):
    folder = tmp_path / "m"
    with holder(folder) as other:
        other.send_signal(signal.SIGKILL)
    assert (folder / LOCK).exists()
    stage.run(MockSection(path=folder, **N), Here())
    assert contents(folder) == whole


def test_a_lock_is_given_back_and_leaves_nothing(tmp_path):
    with locked(tmp_path), pytest.raises(SpectraScaleError, match=f"process {os.getpid()} on"):  # noqa: SIM117
        with locked(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []

    def failing() -> None:
        with locked(tmp_path):
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_file_system_without_locks_is_written_with_a_warning(tmp_path, monkeypatch, caplog):
    def unknown(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("spectra_scale.store.lock.fcntl.flock", unknown)
    with locked(tmp_path):
        pass
    assert "knows no locks" in caplog.text


@pytest.mark.slow
def test_of_runs_that_begin_together_one_writes_and_the_others_say_so(whole, tmp_path):
    folder = tmp_path / "m"
    words = [sys.executable, "-m", "spectra_scale.cli", "mock", str(folder), "--n", "40",
             "--spec-files", "8", "--seed", "4", "--workers", "1"]  # fmt: skip
    runs = []
    for _ in range(3):
        runs.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True))
        time.sleep(0.1)
    errors = [run.communicate()[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert 0 in codes
    for code, error in zip(codes, errors, strict=True):
        # A run that comes late finds all there, which is as good.
        assert code == 0 or (code == 1 and "is being written by process" in error)
    assert contents(folder) == whole


def test_a_full_disk_is_not_said_to_have_room(tmp_path, monkeypatch):
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SpectraScaleError) as said:
        writer.write_atomically(tmp_path / "x.fits", [b"SIMPLE"])
    assert "free)" not in str(said.value)


# What is compared --------------------------------------------------------------------------------


def test_a_release_is_not_written_before_there_are_real_spectra_to_compare_with(tmp_path, capsys):
    (tmp_path / "real").mkdir()
    words = ["mock", tmp_path / "m", "--n", "10", "--compare", tmp_path / "real"]
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "found no spectra" in err
    assert not (tmp_path / "m").exists()


def test_too_few_real_spectra_are_refused_with_their_number(tmp_path, capsys):
    stage.run(MockSection(path=tmp_path / "real", n_spectra=8, n_spec_files=8), Here())
    code, _, err = call(capsys, "mock", tmp_path / "m", "--n", "10", "--compare",
                        tmp_path / "real")  # fmt: skip
    assert code == 2
    assert "expected at least 20" in err or "nothing to compare" in err
    assert not (tmp_path / "m").exists()


def test_a_mock_that_is_too_small_to_compare_says_how_many_are_needed(tmp_path, capsys):
    stage.run(MockSection(path=tmp_path / "real", n_spectra=60, n_spec_files=0, seed=9), Here())
    words = ["mock", tmp_path / "m", "--n", "40", "--spec-files", "0", "--workers", "1"]
    code, _, err = call(capsys, *words, "--compare", tmp_path / "real")
    assert code == 1
    assert "mock spectra pass the cuts" in err
    assert "Expected at least 100" in err
    assert "--n 1000" in err
    # The release itself is whole.
    assert json.loads((tmp_path / "m" / "mock.json").read_text())["whole"]
