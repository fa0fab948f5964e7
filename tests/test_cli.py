"""The command line: exit codes, messages that say what to do, nothing half-done looks done."""

import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from pipeline_builders import COMMAND, digests, ingest_release, tiny_job, write_job, write_mock
from surveys_builders import coadd_columns, legacy_row, write_spec

from spectra_scale import pipeline
from spectra_scale.cli import main
from spectra_scale.compute.place import Here
from spectra_scale.surveys.release import open_release
from spectra_scale.verify import verify


def call(capsys, *arguments):
    """Run the command in this process: exit code, what it printed, what it complained."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return end.value.code or 0, out.out, out.err


def nothing_looks_finished(folder):
    return not list(Path(folder).rglob("manifest.json"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A mock release of 60 spectra, to be cut down to nothing."""
    return write_mock(tmp_path_factory.mktemp("cli") / "mock", n=60, n_spec=12)


@pytest.fixture
def no_workers(monkeypatch):
    def started(*_):
        message = "a worker was started"
        raise AssertionError(message)

    monkeypatch.setattr(pipeline, "open_place", started)


def job(tmp_path, source, **changes):
    release = [{"name": "mock", "source": [str(source)]}]
    data = tiny_job(tmp_path, mock=None, label=None, release=release, **changes)
    return write_job(tmp_path / "job.toml", data)


# Wrong usage: exit code 2, before any worker starts ----------------------------------------------


@pytest.mark.parametrize("command", ["run", "plan", "clean"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epoch=3", "unknown setting train.epoch"),
        ("train.epochs=three", "train.epochs: Input should be a valid integer"),
        ("embed.n_neighbors=1", "embed.n_neighbors"),
        ("train.epochs", "expected path=value"),
    ],
)
def test_a_wrong_setting_is_wrong_usage(
    tmp_path, source, capsys, no_workers, command, setting, words
):
    code, out, err = call(capsys, command, job(tmp_path, source), "--set", setting)
    assert code == 2
    assert err.startswith("error: ")
    assert words in err
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_a_job_file_that_is_not_there_is_wrong_usage(tmp_path, capsys, no_workers):
    code, _, err = call(capsys, "run", tmp_path / "none.toml")
    assert code == 2
    assert "none.toml: found No such file or directory, expected a job file" in err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"release": [{"name": "x", "source": ["none"]}]}, "x: source: found nothing at none"),
        ({"label": {"lines": ["none.fits"]}}, "label.lines: found nothing at none.fits"),
        ({"models": {"from": "none"}}, "models.from"),
        ({"report": {"composite": "none.txt"}}, "report.composite"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_is_wrong_usage(
    tmp_path, source, capsys, no_workers, changes, words
):
    release = [{"name": "mock", "source": [str(source)]}]
    data = tiny_job(tmp_path, **({"mock": None, "label": None, "release": release} | changes))
    path = write_job(tmp_path / "job.toml", data)
    for command in ("run", "plan"):
        code, _, err = call(capsys, command, path)
        assert code == 2
        assert words in err
        assert "Correct the path" in err
    assert not (tmp_path / "run").exists()


def test_a_folder_without_spectra_is_wrong_usage(tmp_path, capsys, no_workers):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("none")
    path = job(tmp_path, tmp_path / "in")
    for arguments in (["run", path], ["plan", path]):
        code, _, err = call(capsys, *arguments)
        assert code == 2
        assert "found no spectra" in err
        assert "spec-PLATE-MJD-FIBER.fits" in err
    code, _, err = call(capsys, "ingest", "x", tmp_path / "in", "--out", tmp_path / "r")
    assert code == 2
    assert "found no spectra" in err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "r").exists()


def test_unknown_options_and_engines_are_wrong_usage(tmp_path, source, capsys):
    assert call(capsys, "run")[0] == 2
    assert call(capsys, "run", job(tmp_path, source), "--epochs", "3")[0] == 2
    assert call(capsys, "nonsense")[0] == 2
    assert call(capsys, "verify", tmp_path, "--workers", "0")[0] == 2
    code, _, err = call(
        capsys, "ingest", "x", source, "--out", tmp_path / "r", "--engine", "hadoop"
    )
    assert code == 2
    assert "compute.engine" in err
    assert "found 'hadoop'" in err
    code, _, err = call(capsys, "run", job(tmp_path, source), "--limit", "0")
    assert code == 2
    assert "limit" in err


def test_what_does_not_exist_is_said_so_by_every_command(tmp_path, source, capsys):
    none = tmp_path / "none"
    for arguments in (["status", none], ["verify", none], ["export", none, tmp_path / "x.csv"]):
        code, _, err = call(capsys, *arguments)
        assert code in (1, 2)
        assert err.startswith("error: ")
        assert str(none) in err
    code, _, err = call(capsys, "apply", tmp_path, none)
    assert code == 2
    assert f"{none}: found nothing, expected a release, a folder or a spectrum file" in err
    code, _, err = call(capsys, "apply", none, source)
    assert code == 1
    assert "found no artifact" in err


def test_help_names_every_command(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for command in ("run", "plan", "status", "verify", "clean", "ingest", "mock", "apply",
                    "export", "submit"):  # fmt: skip
        assert re.search(rf"\b{command}\b", out)


# Jobs that fail: exit code 1 ---------------------------------------------------------------------


def test_a_sample_without_rows_names_the_cuts(tmp_path, source, capsys):
    path = job(tmp_path, source, prepare={"min_snr": 1e9, "z_max": 0.12})
    code, out, err = call(capsys, "run", path)
    assert code == 1
    assert re.search(r"error: no spectrum is left .*removed by .*redshift \d+, snr_total \d+", err)
    assert "report" not in out
    assert not (tmp_path / "run" / "sample" / "manifest.json").exists()
    # What came before is done and stays: the same command with looser cuts goes on from there.
    assert (tmp_path / "run" / "releases" / "mock" / "manifest.json").exists()


def few(folder, n):
    """`n` good spectra of one sky cell each."""
    folder.mkdir()
    for fiber in range(1, n + 1):
        coadd = coadd_columns(3600, 35800, fiber)
        coadd["and_mask"][:] = 0
        row = legacy_row(FIBERID=np.int32(fiber), Z=np.float32(0.1), PLUG_RA=10.0 + fiber)
        write_spec(folder, f"spec-0266-51602-{fiber:04d}.fits", row=row, coadd=coadd)
    return folder


def test_fewer_objects_than_neighbours_are_refused_before_training(tmp_path, capsys):
    path = job(tmp_path, few(tmp_path / "in", 12))
    code, _, err = call(capsys, "run", path)
    assert code == 1
    assert re.search(r"found \d+ training spectra .* expected more than n_neighbors = 15", err)
    assert "Lower [embed] n_neighbors" in err
    assert not (tmp_path / "run" / "autoencoder").exists()


def test_fewer_objects_than_latents_are_refused(tmp_path, capsys):
    path = job(tmp_path, few(tmp_path / "in", 12),
               train={"n_latent": 12, "initial": "random"}, embed={"n_neighbors": 2})  # fmt: skip
    code, _, err = call(capsys, "run", path)
    assert code == 1
    assert re.search(r"found \d+ training .* more than n_latent = 12", err)
    assert not (tmp_path / "run" / "autoencoder" / "manifest.json").exists()


def test_a_catalogue_of_other_objects_leaves_no_release(tmp_path, source, capsys):
    other = write_mock(tmp_path / "other", n=30, n_spec=30, seed=9)
    code, _, err = call(
        capsys, "ingest", "x", source, "--out", tmp_path / "r",
        "--catalogue", other / "truth.parquet",
    )  # fmt: skip
    assert code in (1, 2)
    assert "truth.parquet" in err
    assert nothing_looks_finished(tmp_path / "r")


def test_an_out_of_other_settings_is_refused_and_left_alone(tmp_path, source, capsys, monkeypatch):
    path = job(tmp_path, source)
    code, out, _ = call(capsys, "ingest", "mock", source, "--out", tmp_path / "run/releases/mock")
    assert code == 0
    assert f"release mock: {tmp_path / 'run/releases/mock'}" in out
    before = digests(tmp_path / "run", without=())

    def started(*_):
        message = "a worker was started"
        raise AssertionError(message)

    monkeypatch.setattr(pipeline, "open_place", started)
    # The command has the default layout, the job another one.
    code, _, err = call(capsys, "run", path)
    assert code == 2
    assert "was made with fingerprint" in err
    assert "setting layout (default -> [128, 64])" in err
    assert "spectra-scale clean" in err
    assert digests(tmp_path / "run", without=()) == before
    code, out, err = call(capsys, "plan", path)
    assert code == 1
    assert "ingest mock: made from other settings" in err
    assert re.search(r"ingest mock.*other settings", out)


def test_files_of_somebody_else_are_never_written_over(tmp_path, source, capsys, no_workers):
    (tmp_path / "run" / "stacks").mkdir(parents=True)
    (tmp_path / "run" / "stacks" / "mine.txt").write_text("do not touch")
    code, _, err = call(capsys, "run", job(tmp_path, source))
    assert code == 2
    assert "did not write" in err
    assert [p.name for p in (tmp_path / "run").rglob("*") if p.is_file()] == ["mine.txt"]


# Commands that work ------------------------------------------------------------------------------


def test_mock_and_ingest_say_what_they_made(tmp_path, capsys):
    code, out, _ = call(capsys, "mock", tmp_path / "m", "--n", "40", "--spec-files", "8")
    assert code == 0
    assert "40 spectra" in out
    code, out, _ = call(capsys, "mock", tmp_path / "m", "--n", "40", "--spec-files", "8")
    assert code == 0
    assert "was there" in out
    code, _, err = call(capsys, "mock", tmp_path / "m", "--n", "41", "--spec-files", "8")
    assert code == 2
    assert "differing: n_spectra" in err
    catalogue = tmp_path / "m" / "specObj-mock.fits"
    arguments = ["ingest", "m", tmp_path / "m", "--out", tmp_path / "r", "--catalogue", catalogue]
    code, out, _ = call(capsys, *arguments, "--limit", "30", "--engine", "serial")
    assert code == 0
    assert "rows: 30" in out
    assert "rows beyond --limit: 10" in out
    assert open_release(tmp_path / "r").n_rows == 30
    code, out, _ = call(capsys, "status", tmp_path / "r")
    assert code == 0
    assert "done" in out
    assert "kept 30" in out
    code, out, _ = call(capsys, "verify", tmp_path / "r")
    assert code == 0
    assert "0 failed" in out
    shard = tmp_path / "r" / "arrays" / "flux" / "c" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-1])
    code, out, _ = call(capsys, "verify", tmp_path / "r")
    assert code == 1
    assert "FAILED" in out
    assert str(shard) in out


def test_plan_writes_nothing(tmp_path, source, capsys):
    code, out, _ = call(capsys, "plan", job(tmp_path, source))
    assert code == 0
    for stage in ("ingest mock", "prepare", "train", "report"):
        assert re.search(rf"{stage}.*to do", out)
    assert re.search(r"release mock: .* files of .* with spectra 12 spec, \d+ spplate", out)
    assert "GiB free" in out
    assert not (tmp_path / "run").exists()
    code, out, _ = call(capsys, "plan", job(tmp_path, source), "--limit", "7")
    assert "spectra" in out


def test_an_unknown_ending_and_an_existing_file_are_not_written(tmp_path, source, capsys):
    # No run is needed to know that: but the command opens it first, so one is made of a sample.
    from pipeline_builders import prepare_sample

    release = ingest_release(tmp_path / "r", source)
    prepare_sample(tmp_path / "run", [release], min_snr=0.0)
    code, _, err = call(capsys, "export", tmp_path / "run", tmp_path / "x.hdf5")
    assert code == 2
    assert "found ending '.hdf5', expected one of .fits, .parquet, .csv, .vot, .xml" in err
    (tmp_path / "x.csv").write_text("mine")
    code, _, err = call(capsys, "export", tmp_path / "run", tmp_path / "x.csv")
    assert code == 2
    assert "exists already" in err
    assert (tmp_path / "x.csv").read_text() == "mine"
    # What there is so far is exported: the index alone.
    code, out, _ = call(capsys, "export", tmp_path / "run", tmp_path / "deep" / "y.csv")
    assert code == 0
    n = len((tmp_path / "deep" / "y.csv").read_text().splitlines())
    assert f"y.csv: {n - 1} rows" in out


@pytest.mark.parametrize(
    ("number", "name", "code"), [(28, "No space left on device", 1), (13, "Permission denied", 1)]
)
def test_a_full_or_closed_disk_is_said_in_one_line(
    tmp_path, capsys, monkeypatch, number, name, code
):
    def fail(*_, **__):
        raise OSError(number, name, str(tmp_path / "shard"))

    monkeypatch.setattr("spectra_scale.status.status_rows", fail)
    found, _, err = call(capsys, "status", tmp_path)
    assert found == code
    assert re.search(rf"error: {name}: .*shard .*GiB free", err)


def test_the_command_itself_leaves_with_its_code_and_no_traceback(tmp_path):
    done = subprocess.run(
        [*COMMAND, "run", str(tmp_path / "none.toml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


# Killed ------------------------------------------------------------------------------------------

#: What is there at the moments when the driver is killed, in the order they come.
MOMENTS = {
    "mock being written": "mock/.parts/*",
    "first epoch": "run/autoencoder/history.jsonl",
    "sums of a stack": "run/stacks/parts/*.safetensors",
}


@pytest.mark.exhaustive
@pytest.mark.timeout(240)
def test_a_driver_that_is_killed_again_and_again_ends_like_an_unbroken_one(tmp_path, tiny_run):
    folder, whole = tmp_path, tiny_run.folder
    command = [*COMMAND, "run", str(write_job(folder / "job.toml", tiny_job(folder)))]
    rng = np.random.default_rng(int(time.time()))
    killed = 0
    for pattern in MOMENTS.values():
        with subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + 60
            while not list(folder.glob(pattern)) and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        assert not (folder / "run" / "report" / "manifest.json").exists()
    # A moment may have passed before it was seen; most must have been met.
    assert killed >= 2
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Survey files, arrays, tables, weights and maps, byte for byte; Parquet of the history apart,
    # which has the seconds of every epoch, and the checkpoints beside it.
    for part in ("mock", "run/releases", "run/labels", "run/sample", "run/latents", "run/density",
                 "run/map-latents", "run/map-flux", "run/outliers", "run/regions",
                 "run/stacks"):  # fmt: skip
        mine, theirs = (digests(where / part) for where in (folder, whole))
        assert mine == theirs, part
        assert mine
    for name in ("autoencoder/model.safetensors", "autoencoder/baseline.safetensors"):
        mine, theirs = ((where / "run" / name).read_bytes() for where in (folder, whole))
        assert mine == theirs, name
    figures = [digests(where / "run/report/figures") for where in (folder, whole)]
    assert figures[0] == figures[1]
    assert [c.problem for c in verify(folder / "run", Here()) if c.problem] == []
    assert not list((folder / "run").glob("*/parts"))
