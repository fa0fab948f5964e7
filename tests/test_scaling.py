"""Scaling: efficiencies are right, a stopped test goes on, start-up is not work."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from matplotlib.colors import to_rgba
from pipeline_builders import Killed, low_rank_spectra, make_sample

from spectra_scale import figures
from spectra_scale.cli import main
from spectra_scale.compute.dask import LocalDask
from spectra_scale.compute.place import Here, Work
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.figures import ScalingPoint, scaling_figure
from spectra_scale.scaling import command, inputs, meter
from spectra_scale.scaling.measure import training_numbers
from spectra_scale.scaling.plan import DEFAULT_JOB, Measurement, measurements, scaling_job
from spectra_scale.scaling.table import (
    Result,
    baseline,
    efficiency,
    fastest,
    growth,
    markdown,
    notes,
    parts,
    read_results,
    tables,
    write_results,
)
from spectra_scale.store.arrays import Layout

ROOT = Path(__file__).parents[1]


def result(mode="weak", workers=1, seconds=2.0, cpu=1.5, **changes):
    """A made result; weak ones have 4096 rows a worker, strong ones in all."""
    rows = 4096 * (workers if mode == "weak" else 1)
    values = {
        "stage": "encode", "mode": mode, "workers": workers, "repeat": 1, "rows": rows,
        "batch": 0, "settings": "abc", "rows_done": float(rows), "total_seconds": seconds + 8,
        "startup_seconds": 7.5, "work_seconds": seconds, "cpu_seconds": cpu,
        "ray_cpu_seconds": 0.1, "data_seconds": None, "compute_seconds": 0.75 * seconds,
        "reduce_seconds": None, "driver_seconds": 0.25 * seconds, "memory_sum_mib": 400.0,
        "memory_max_mib": 210.0, "cores": 2, "other_cpus": 0.0, "load_begin": 0.5,
        "load_end": 1.5,
    }  # fmt: skip
    return Result(**(values | changes))


def found_for(this):
    """What a measurement that did not happen found."""
    made = result(this.mode, this.workers)
    names = set(Result.__dataclass_fields__) - set(Measurement.__dataclass_fields__)
    return {name: getattr(made, name) for name in names} | {"rows_done": float(this.rows)}


def small_job(out, *settings, **changes):
    return scaling_job(None, {"rows": 512, "batch": 256} | changes,
                       ["scaling.shard_rows=256", *settings], out)  # fmt: skip


# Efficiencies, by hand ---------------------------------------------------------------------------


def test_weak_efficiency_is_the_time_of_one_worker_over_that_of_many():
    # Twice the rows on twice the workers in 2.5 s, where one worker takes 2 s.
    assert efficiency(result(workers=2, seconds=2.5), result()) == pytest.approx(2.0 / 2.5)


def test_strong_efficiency_is_the_time_of_one_worker_over_n_times_that_of_many():
    many = result("strong", workers=4, seconds=0.8)
    assert efficiency(many, result("strong")) == pytest.approx(2.0 / (4 * 0.8))


def test_without_one_worker_the_fewest_are_what_others_are_compared_with():
    two, four = result("strong", workers=2), result("strong", workers=4, seconds=1.0)
    assert baseline(four, [four, two]) == two
    assert efficiency(four, two) == pytest.approx(1.0)


def test_cpu_time_a_row_of_many_is_compared_with_that_of_one():
    # 1.5 s for 4096 rows, 3.3 s for 8192: 366 and 403 µs a row.
    assert growth(result(workers=2, cpu=3.3), result()) == pytest.approx(0.10)
    assert growth(result(workers=2, cpu=None), result()) is None


def test_results_of_other_sizes_settings_or_modes_are_not_compared():
    many = result(workers=2)
    others = [
        replace(result(), settings="other"),
        result("strong"),
        replace(result(), rows=2048),
        replace(result(), batch=512),
        replace(result(), stage="ingest"),
    ]
    assert baseline(many, [*others, many]) == many
    assert baseline(many, [*others, many, result()]) == result()


def test_the_fastest_repeat_is_shown_and_compared_with():
    slow, fast = result(seconds=3.0), result(seconds=2.0, repeat=2)
    many = result(workers=2, seconds=2.0)
    wanted = [each.measurement for each in (slow, many, fast)]
    assert fastest([slow, fast, many], wanted) == [fast, many]
    assert baseline(many, [slow, fast, many]) == fast
    # A result that nobody asked for now is kept on disk, and not shown.
    assert fastest([slow, fast, many], wanted[:1]) == [slow]


def test_more_workers_than_free_cores_are_marked_and_noted():
    free, crowded = result(workers=2), result(workers=2, other_cpus=0.8)
    assert not free.crowded
    assert crowded.crowded
    assert result(workers=3, other_cpus=None).crowded
    assert "† 1 of 2 measurements had more workers than free cores" in "\n".join(
        notes([free, crowded])
    )
    assert tables([free, crowded])["Time a row"][1][1][0] == "encode weak 2 †"
    assert "†" not in "\n".join(notes([free]))


def test_parts_of_the_work_add_up_to_its_time():
    assert parts(result()) == {"tasks": 1.5, "driver alone": 0.5}
    told = result(stage="train", data_seconds=0.2, compute_seconds=1.5, reduce_seconds=0.3,
                  driver_seconds=None)  # fmt: skip
    assert parts(told) == {"data": 0.2, "compute": 1.5, "all-reduce": 0.3}
    not_told = replace(told, data_seconds=None, compute_seconds=None, reduce_seconds=None)
    assert parts(not_told) == {"not told apart": 2.0}


def test_the_work_of_a_training_is_its_epochs_after_the_first():
    history = pa.table(
        {
            "epoch": [1, 2, 3],
            "rows": [1000, 1000, 1000],
            "seconds": [9.0, 1.0, 2.0],
            "data_seconds": [5.0, 0.25, 0.5],
            "reduce_seconds": [1.0, 0.25, 0.25],
            "cpu_seconds": [9.0, 1.5, 3.5],
        }
    )
    found = training_numbers(history)
    assert found["rows_done"] == 2000
    assert found["work_seconds"] == 3.0
    assert found["cpu_seconds"] == 5.0
    assert (found["data_seconds"], found["reduce_seconds"]) == (0.75, 0.5)
    assert found["compute_seconds"] == 1.75


def test_a_history_without_clocks_leaves_what_it_cannot_tell_empty():
    found = training_numbers(pa.table({"rows": [10, 10], "seconds": [2.0, 1.0]}))
    assert found["work_seconds"] == 1.0
    names = ("cpu_seconds", "data_seconds", "reduce_seconds", "compute_seconds")
    assert [found[name] for name in names] == [None] * 4


# What is measured --------------------------------------------------------------------------------


def test_weak_work_grows_with_the_workers_and_strong_work_does_not(tmp_path):
    job = small_job(tmp_path, rows=2048, workers="1,2,4", stages="train,encode")
    found = {(m.stage, m.mode, m.workers): (m.rows, m.batch) for m in measurements(job)}
    assert [found["train", "weak", n] for n in (1, 2, 4)] == [
        (2048, 256), (4096, 512), (8192, 1024)
    ]  # fmt: skip
    # No share of a batch is below 256 on the most workers.
    assert {found["train", "strong", n] for n in (1, 2, 4)} == {(2048, 1024)}
    assert {found["encode", "strong", n] for n in (1, 2, 4)} == {(2048, 0)}
    assert len(found) == 12


def test_without_a_job_file_the_shipped_job_is_measured(tmp_path):
    assert scaling_job(None, {}, (), None) == scaling_job(ROOT / "jobs/scaling.toml", {}, (), None)
    moved = scaling_job(None, {}, (), tmp_path / "x")
    text = DEFAULT_JOB.replace("runs/scaling", str(tmp_path / "x"))
    assert moved.mock.path == tmp_path / "x" / "mock"
    assert moved.release[0].source == (tmp_path / "x" / "mock",)
    assert str(moved.out) == tomllib.loads(text)["out"]


def test_settings_that_numbers_depend_on_make_another_measurement(tmp_path):
    def digests(*settings, **changes):
        job = small_job(tmp_path, *settings, **changes)
        return {each.stage: each.settings for each in measurements(job)}

    plain = digests()
    wider = digests("train.hidden=[100,50]")
    assert wider["train"] != plain["train"]
    assert wider["encode"] != plain["encode"]
    assert wider["ingest"] == plain["ingest"]
    assert digests(epochs=4)["train"] != plain["train"]
    # Where it lies, and how often it is measured, changes no number.
    assert digests(repeats=3, workers="1,2,4", rows=1024) == plain
    assert digests('mock.path="elsewhere"') == plain


def run_command(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["scaling", *(str(a) for a in arguments)])
    return end.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "scaling.workers.0: Input should be greater than or equal to 1"),
        (["--workers", ""], "scaling.workers: expected at least one, found none"),
        (["--workers", "1,1"], "scaling.workers: expected each once, found 1, 1"),
        (["--workers", "two"], "scaling.workers.0: Input should be a valid integer"),
        (["--stages", "label"], "Input should be 'ingest', 'train' or 'encode', found 'label'"),
        (["--stages", ","], "scaling.stages: expected at least one, found none"),
        (["--mode", "odd"], "Input should be 'weak' or 'strong', found 'odd'"),
        (["--rows", "1000"], "need rows of at least one global batch, 2048 (1024 a worker)"),
        (["--rows", "700", "--stages", "encode"], "at least one task for each worker, 1024"),
        (["--epochs", "1"], "scaling.epochs: Input should be greater than or equal to 2"),
        (["--set", "scaling.shard_rows=300"], "must be a multiple of compute.chunk_rows"),
        (["none.toml"], "none.toml: found No such file"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(tmp_path, capsys, arguments, words):
    code, out, err = run_command(capsys, "--out", tmp_path / "x", *arguments)
    assert code == 2
    assert words in err
    assert err.startswith("error: ")
    assert out == ""
    assert not (tmp_path / "x").exists()


def test_weak_scaling_alone_needs_rows_for_one_worker_only(tmp_path):
    job = small_job(tmp_path, rows=256, modes="weak", workers="1,2,4,8")
    assert max(each.rows for each in measurements(job)) == 2048


# On disk -----------------------------------------------------------------------------------------


def test_results_on_disk_are_read_as_they_were(tmp_path):
    path = tmp_path / "scaling.csv"
    written = [result(), result(workers=2, seconds=2.5, other_cpus=None, cpu_seconds=None)]
    write_results(path, written)
    assert read_results(path) == written
    assert read_results(tmp_path / "none.csv") == []
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert float(lines[1]["efficiency"]) == pytest.approx(0.8)
    assert float(lines[0]["wall_us_a_row"]) == pytest.approx(2e6 / 4096, rel=1e-5)
    assert lines[1]["cpu_us_a_row"] == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("work_seconds", "work"), "found the columns"),
        (lambda text: text.replace("encode,weak,1,", "encode,weak,one,"), "invalid literal"),
        (lambda text: text[: len(text) // 2], "expected results of this version"),
        (lambda _: "", "found the columns"),
    ],
    ids=["column", "number", "half", "empty"],
)
def test_a_csv_of_something_else_is_refused_and_left_alone(tmp_path, change, words):
    path = tmp_path / "scaling.csv"
    write_results(path, [result()])
    path.write_text(change(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=re.escape(words)):
        read_results(path)
    assert path.read_bytes() == before
    path.write_bytes(b"\xff\x00PNG")
    with pytest.raises(UsageError, match="Give another --out, or move the file"):
        read_results(path)


@pytest.fixture
def measured(monkeypatch):
    """Measurements that were asked for; none of them takes place."""
    asked = []

    def measure(job, this):
        asked.append(this)
        return found_for(this)

    monkeypatch.setattr(command, "_measured", measure)
    monkeypatch.setattr(command, "make_inputs", lambda *_: None)
    return asked


def test_a_test_that_was_killed_goes_on_with_what_is_missing(tmp_path, monkeypatch, measured):
    job = small_job(tmp_path)
    wanted = measurements(job)

    def dies(job, this):
        if len(measured) == 5:
            raise Killed
        measured.append(this)
        return found_for(this)

    with monkeypatch.context() as patch:
        patch.setattr(command, "_measured", dies)
        with pytest.raises(Killed):
            command.scale(job, "x")
    assert [each.measurement for each in read_results(tmp_path / "scaling.csv")] == wanted[:5]
    report = command.scale(job, "x")
    assert measured == wanted
    assert [each.measurement for each in report.results] == wanted
    # A third time there is nothing left, and the inputs are not asked for.
    monkeypatch.setattr(command, "make_inputs", None)
    again = command.scale(job, "x")
    assert measured == wanted
    assert [each.measurement for each in again.results] == wanted


def test_rows_of_other_sizes_stay_in_the_csv_and_out_of_the_table(tmp_path, measured):
    command.scale(small_job(tmp_path), "x")
    report = command.scale(small_job(tmp_path, rows=1024, stages="encode"), "x")
    assert {each.stage for each in report.results} == {"encode"}
    assert len(read_results(tmp_path / "scaling.csv")) == 12 + 4


def test_the_command_prints_its_table_and_names_its_files(tmp_path, capsys, measured):
    code, out, _ = run_command(
        capsys, "--out", tmp_path, "--rows", 512, "--batch", 256, "--set",
        "scaling.shard_rows=256",
    )  # fmt: skip
    assert code == 0
    assert "encode strong 2" in out
    assert out.endswith("".join(f"{tmp_path / f'scaling.{s}'}\n" for s in ("md", "csv", "png")))
    page = (tmp_path / "scaling.md").read_text()
    assert f"`spectra-scale scaling --out {tmp_path} --rows 512 --batch 256 --set" in page
    assert page.count("\n| ") == 3 * (2 + 12)
    assert "| measured | rows | batch | wall µs/row |" in page
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_more_workers_than_cores_are_measured_with_a_warning(tmp_path, caplog, measured):
    many = 2 * (os.cpu_count() or 1)
    report = command.scale(small_job(tmp_path, modes="weak", workers=f"1,{many}"), "x")
    assert f"{many} workers on {meter.cores()} cores will wait for each other" in caplog.text
    assert max(each.workers for each in report.results) == many


def test_the_page_names_the_command_that_made_it():
    assert "`spectra-scale scaling --rows 512`" in markdown(
        [result()], "spectra-scale scaling --rows 512"
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [('{"error": "the disk is full"}', "the disk is full"), (None, "its process ended with -9")],
)
def test_a_measurement_that_fails_says_why_and_how_to_go_on(tmp_path, monkeypatch, answer, words):
    def run(arguments, **_):
        if answer:
            Path(arguments[-1]).write_text(answer)
        return subprocess.CompletedProcess(arguments, -9)

    monkeypatch.setattr(command.subprocess, "run", run)
    job = small_job(tmp_path)
    with pytest.raises(SpectraScaleError, match="Give the same command again") as error:
        command._measured(job, measurements(job)[0])
    assert words in str(error.value)
    assert "ingest, weak, 1 worker, 512 rows" in str(error.value)


# Clocks ------------------------------------------------------------------------------------------


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def test_tasks_say_what_they_used_and_give_what_they_gave():
    place = meter.MeteredPlace(Here())
    assert place.map(burn, [0.05, 0.1], Work("burn")) == [0.05, 0.1]
    assert place.map(burn, [0.05], Work("burn")) == [0.05]
    # The clock of a process ticks in parts of a microsecond; more is the loop's last round.
    assert 0.2 <= place.cpu_seconds < 0.3
    # Wall time is at least the CPU time of one thread.
    assert place.seconds >= 0.2
    assert len(place.uses) == 3
    assert list(place.memory) == [os.getpid()]
    assert place.memory[os.getpid()] > 10


def test_every_worker_gets_a_task_before_the_clock_starts(tmp_path):
    workers = set()

    def note(item):
        workers.add(threading.get_ident())
        return item

    place = meter.WarmingPlace(LocalDask("threads", 3), 3, tmp_path)
    # Tasks of no time, which one worker would do alone.
    assert place.map(note, list(range(3)), Work("warm")) == [0, 1, 2]
    assert len(workers) == 3
    # With fewer tasks than workers nobody waits for those who will not come.
    assert place.map(note, [5], Work("warm")) == [5]


def test_the_machine_is_told_apart_from_what_is_measured(monkeypatch):
    monkeypatch.setattr(meter, "cores", os.cpu_count)
    begin = meter.Snapshot(10.0, 1.0, 5.0, 100.0, {})
    end = meter.Snapshot(12.0, 1.5, 7.0, 105.5, {})
    # In 2 s all used 5.5 s, this process 0.5 s and its children 2 s: 3 s are of others.
    assert meter.used_by_others(begin, end) == pytest.approx(1.5)
    assert meter.used_by_others(begin, begin) is None
    monkeypatch.setattr(meter, "cores", lambda: 10_000)
    assert meter.used_by_others(begin, end) is None


def test_a_snapshot_sees_what_children_use():
    child = subprocess.Popen(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass\n"
                               "print('done', flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout.readline() == "done\n"
        found = meter.snapshot(psutil.Process())
        child.communicate("\n")
    # The system counts in hundredths of a second.
    assert found.tree_cpu >= 0.45
    assert found.busy > found.tree_cpu
    assert found.workers == {}


def test_a_watch_sees_the_first_and_the_last():
    counts = iter([0, 0, 1, 1, 2])
    with meter.Watch(lambda: next(counts, 3), interval=0.01) as watch:
        time.sleep(0.5)
    assert {0, 1, 3} <= set(watch.seen)
    assert watch.seen[0].time < watch.seen[1].time < watch.seen[3].time


# Inputs ------------------------------------------------------------------------------------------


def test_a_repeated_sample_has_exactly_the_rows_that_are_asked_for(tmp_path):
    flux, ivar = low_rank_spectra(50)
    base = make_sample(tmp_path / "base", flux, ivar)
    made = inputs._write_sample(tmp_path / "made", base, (256, 32), Layout(64, 32))
    assert made.n_rows == 288
    assert made.training_rows().sum() == 256
    assert made.validation_rows().sum() == 32
    got, _ = made.read(slice(0, 288))
    np.testing.assert_array_equal(got, flux[np.arange(288) % 50])
    # Every task has rows of both splits, as it would in a sample of the sky.
    assert all(0 < made.validation_rows()[s.rows].sum() < s.n_rows for s in made.shards)
    again = inputs._write_sample(tmp_path / "made", base, (256, 32), Layout(64, 32))
    assert again.artifact.fingerprint == made.artifact.fingerprint


# The figure --------------------------------------------------------------------------------------


def point(**changes):
    values = {
        "stage": "train", "mode": "weak", "workers": 1, "efficiency": 1.0, "wall_us": 200.0,
        "cpu_us": 150.0, "startup": 9.0, "parts": {"data": 0.5, "compute": 1.5},
        "memory": (900.0, 500.0), "crowded": False,
    }  # fmt: skip
    return ScalingPoint(**(values | changes))


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_figure_has_a_row_of_panels_a_stage():
    two = [point(), point(workers=2, efficiency=0.8), point(stage="encode")]
    figure = scaling_figure(two, 2)
    assert len(figure.axes) == 2 * 5
    assert figure.axes[0].get_title(loc="left") == "train: efficiency"
    assert figure.axes[5].get_title(loc="left") == "encode: efficiency"
    [ideal, curve] = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2][:2]
    assert list(ideal.get_ydata()) == [1.0, 1.0]
    assert list(curve.get_xdata()) == [1, 2]
    assert list(curve.get_ydata()) == [1.0, 0.8]
    # Start-up, and apart from it the seconds of the work.
    assert " 9.0" in texts(figure)
    assert " 2" in texts(figure)
    assert figures.png_of(figure) == figures.png_of(scaling_figure(two, 2))


def test_a_crowded_measurement_is_hollow_and_said():
    figure = scaling_figure([point(), point(workers=2, crowded=True)], 2)
    faces = [line.get_markerfacecolor() for line in figure.axes[0].lines
             if len(line.get_xdata()) == 1]  # fmt: skip
    assert [to_rgba(face) == to_rgba("white") for face in faces] == [False, True]
    labels = [label.get_text() for label in figure.axes[2].get_yticklabels()]
    assert labels == ["weak, 1", "weak, 2 †"]
    assert "† hollow" in figure.get_supxlabel()
    assert "†" not in scaling_figure([point()], 2).get_supxlabel()


def test_what_is_not_known_is_not_drawn():
    unknown = point(cpu_us=None, startup=None, memory=(None, None), parts={"not told apart": 2.0})
    figure = scaling_figure([unknown], 2)
    assert "not known" in texts(figure)
    figures.png_of(figure)
    with pytest.raises(SpectraScaleError, match="found no measurement"):
        scaling_figure([], 2)


# All of it ---------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(240)  # 25 s each on two free cores: Ray is started once or twice
@pytest.mark.parametrize(
    "stages", [pytest.param("ingest,encode", marks=pytest.mark.exhaustive), "train"]
)
def test_stages_are_measured_on_ray(tmp_path, capsys, stages):
    arguments = ["--out", tmp_path, "--stages", stages, "--mode", "weak", "--workers", 2,
                 "--rows", 256, "--batch", 64, "--epochs", 2, "--set", "mock.n_spectra=200",
                 "--set", "scaling.shard_rows=128", "--set", "compute.chunk_rows=64",
                 "--set", "train.hidden=[48,24]"]  # fmt: skip
    code, out, err = run_command(capsys, *arguments)
    assert code == 0, err
    found = read_results(tmp_path / "scaling.csv")
    assert [each.stage for each in found] == stages.split(",")
    for each in found:
        # Two workers have 256 rows each; a training goes once more through its own.
        assert each.rows_done == 512
        assert each.total_seconds > each.startup_seconds + each.work_seconds
        # Starting Ray and importing PyTorch take seconds, and so few rows do not.
        assert each.startup_seconds > each.work_seconds
        assert each.memory_sum_mib >= each.memory_max_mib > 50
        if each.stage != "train":
            told = each.compute_seconds + each.driver_seconds
            # Six digits are on disk.
            assert each.work_seconds == pytest.approx(told, rel=1e-5)
            assert 0 < each.cpu_seconds < 2 * each.work_seconds * each.cores
    assert not (tmp_path / "work").exists()
    # Given again it measures nothing, and says the same.
    assert run_command(capsys, *arguments)[1] == out
