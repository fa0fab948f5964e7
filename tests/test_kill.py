"""Nothing is lost when ingest and prepare are killed: what is finished later is what it would be.

Every kill is a SIGKILL of a real process, at a named point or at a moment drawn at random. Each
process begins where the one before was killed, until one ends by itself; then arrays, catalogue,
ledger and index are, byte for byte, those of a run that nobody disturbed, and all that is stored
is what the survey's files say.
"""

import itertools
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from kill_harness import Moment
from kill_scenes import DeadlyPlace, ingest_arguments, same, sound
from pipeline_builders import COMMAND

from spectra_scale.config import IngestSection, ReleaseSection
from spectra_scale.jobfile import read_job
from spectra_scale.pipeline import Pipeline
from spectra_scale.planning import make_plan
from spectra_scale.stages import ingest
from spectra_scale.store.arrays import Layout


@pytest.fixture(scope="module")
def files(scenes):
    return scenes.ingest()


@pytest.fixture(scope="module")
def prepare(scenes):
    return scenes.prepare()


class Trial:
    """One run of a scene: killed again and again, and at last compared."""

    def __init__(self, nursery, scene, folder):
        self.nursery, self.scene, self.folder, self.kills = nursery, scene, folder, 0
        scene.again(folder)

    def live(self, moment=None):
        """Whether a process that is to be killed at a moment ends before it comes."""
        return self._ended(self.nursery.start(self.scene.birth(self.folder, moment)))

    def live_for(self, seconds):
        """Whether a process ends by itself before it is killed, after some seconds."""
        child = self.nursery.start(self.scene.birth(self.folder))
        if not child.ended(seconds):
            child.kill()
        return self._ended(child)

    def _ended(self, child):
        code = child.wait()
        assert code in (0, -signal.SIGKILL), child.text
        self.kills += code != 0
        return code == 0

    def finish(self):
        """Run it to its end, and compare it with one that nobody disturbed."""
        while not self.live():
            pass
        same(self.folder, self.scene.whole)
        sound(self.folder)


def killed_at(moments, trial):
    for moment in moments:
        assert not trial.live(moment), f"was not killed {moment}"
    trial.finish()
    assert trial.kills == len(moments)


def before(path, what="rename", n=1):
    return Moment(path, what, n)


def after(path, what="rename", n=1):
    return Moment(path, what, n, after=True)


INGEST = (
    before("r", "mkdir"),
    after("r", "mkdir"),
    before("r/started.json"),
    after("r/started.json"),
    after("r/parts/stamps.json"),
    before("r/files.parquet"),
    after("r/files.parquet"),
    after("r/parts/ledger-spec-*"),
    after("r/parts/rows-spec-*"),
    after("r/parts/rows-spplate-*"),
    after("r/arrays/zarr.json"),
    after("r/arrays/ivar/zarr.json"),
    after("r/parts/plan-000001.parquet"),
    before("r/arrays/flux/c/0/0"),
    after("r/arrays/flux/c/0/0"),
    after("r/arrays/ivar/c/0/0"),
    after("r/arrays/mask_bits/c/0/0"),
    after("r/parts/lines-000000.parquet"),
    before("r/parts/status-000000.parquet"),
    after("r/parts/status-000000.parquet"),
    after("r/arrays/flux/c/*", n=2),
    after("r/parts/status-000002.parquet"),
    before("r/shards.parquet"),
    after("r/shards.parquet"),
    after("r/arrays/zarr.json", n=2),
    after("r/lines.parquet"),
    before("r/catalogue.parquet"),
    after("r/catalogue.parquet"),
    after("r/ledger.parquet"),
    before("r/manifest.json"),
    after("r/manifest.json"),
    after("r/parts/*", "remove", n=2),
)


def test_ingest_killed_at_every_named_point_of_one_run(nursery, files, tmp_path):
    killed_at(INGEST, Trial(nursery, files, tmp_path))


PREPARE = (
    after("started.json"),
    before("parts/000-000000/flux.npy", "write"),
    after("parts/000-000000/flux.npy", "write"),
    after("parts/000-000000/ivar.npy", "write"),
    after("parts/000-000000/dropped.parquet"),
    before("parts/000-000000/kept.parquet"),
    after("parts/000-000000/kept.parquet"),
    after("parts/000-000002/ivar.npy", "write"),
    after("parts/001-000000/kept.parquet"),
    before("arrays/zarr.json"),
    after("arrays/zarr.json"),
    after("arrays/ivar/zarr.json"),
    after("arrays/wavelength/zarr.json"),
    after("arrays/wavelength/c/0"),
    before("arrays/flux/c/0/0"),
    after("arrays/flux/c/0/0"),
    after("arrays/ivar/c/1/0"),
    after("arrays/ivar/c/2/0"),
    after("shards.parquet"),
    after("arrays/zarr.json", n=2),
    before("index.parquet"),
    after("index.parquet"),
    after("dropped.parquet"),
    before("manifest.json"),
    after("manifest.json"),
    after("parts/*", "remove", n=3),
)


def test_prepare_killed_at_every_named_point_of_one_run(nursery, prepare, tmp_path):
    killed_at(PREPARE, Trial(nursery, prepare, tmp_path))


# Moments that nobody has named -------------------------------------------------------------------


def ever_later(trial, step=1):
    """Kill it at its first change to a file, then at the second of what is left, and so on."""
    n = 1
    while not trial.live(Moment(n=n)):
        n += step
    trial.finish()
    return trial.kills


def test_an_ingest_killed_after_ever_more_changes(nursery, scenes, tmp_path):
    assert ever_later(Trial(nursery, scenes.catalogue(), tmp_path), step=2) >= 15


def test_a_revision_killed_after_ever_more_changes(nursery, scenes, tmp_path):
    assert ever_later(Trial(nursery, scenes.revision(), tmp_path), step=3) >= 10


def test_an_ingest_that_begins_anew_killed_after_ever_more_changes(nursery, scenes, tmp_path):
    # The deletion of what is of no use any more is among them.
    assert ever_later(Trial(nursery, scenes.anew(), tmp_path), step=3) >= 10


def test_a_whole_run_killed_after_ever_more_changes(nursery, scenes, tmp_path):
    assert ever_later(Trial(nursery, scenes.run(), tmp_path), step=6) >= 10


def at_random(nursery, scene, folder, n_kills, seed):
    """Kill runs after random times until there were enough kills, and compare each run."""
    draw = random.Random(seed)
    kills = runs = 0
    while kills < n_kills:
        trial = Trial(nursery, scene, folder / str(runs))
        assert runs < 25 * n_kills, "few runs lived long enough to be killed"
        while not trial.live_for(draw.uniform(0, 1.2 * scene.seconds)):
            pass
        trial.finish()
        kills, runs = kills + trial.kills, runs + 1


@pytest.mark.parametrize("engine", ["serial", "threads"])
def test_an_ingest_killed_at_random_moments(nursery, scenes, tmp_path, engine):
    scene = scenes.ingest(f"random-{engine}", "--engine", engine)
    at_random(nursery, scene, tmp_path, 4, seed=1)


def test_a_sample_killed_at_random_moments(nursery, prepare, tmp_path):
    at_random(nursery, prepare, tmp_path, 4, seed=2)


#: Scenes, and of how many changes one is chosen to be killed at.
EVERY = [("ingest", 2), ("catalogue", 4), ("lean", 2), ("revision", 4), ("anew", 4),
         ("prepare", 2), ("run", 8)]  # fmt: skip


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "step"), EVERY)
def test_killed_once_at_any_change_to_a_file(nursery, scenes, tmp_path, name, step):
    scene, kills = getattr(scenes, name)(), 0
    for n in itertools.count(1, step):
        trial = Trial(nursery, scene, tmp_path / str(n))
        if trial.live(Moment(n=n)):
            break
        trial.finish()
        kills += 1
        shutil.rmtree(trial.folder)
    assert kills >= 20


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name, _ in EVERY])
def test_killed_often_at_random_moments(nursery, scenes, tmp_path, name):
    at_random(nursery, getattr(scenes, name)(), tmp_path, 20, seed=len(name))


# Workers -----------------------------------------------------------------------------------------


def all_dead(place, n):
    assert len(place.killed) == n
    assert not any(psutil.pid_exists(number) for number in place.killed)


@pytest.mark.parametrize("executor", ["processes"], indirect=True)
def test_an_ingest_whose_worker_is_killed_goes_on(executor, scenes, tmp_path):
    scene = scenes.catalogue()
    section = ReleaseSection(name="made", source=(scenes.source,), catalogue=scenes.table)
    settings = ingest.Settings(IngestSection(), None, Layout(8, 4))
    (piece,) = ingest.pieces_of(section, tmp_path / "r", ingest.look(section), settings)
    place = DeadlyPlace(executor, tmp_path, [after("r/arrays/flux/c/1/0")], marks(scenes))
    ingest.run(piece, IngestSection(), place)
    all_dead(place, 1)
    same(tmp_path, scene.whole)


def marks(scenes):
    return Path(tempfile.mkdtemp(dir=scenes.folder))


WORKERS = (
    before("releases/old/parts/rows-spec-*"),
    after("releases/old/arrays/flux/c/1/0"),
    before("releases/old/parts/status-000002.parquet"),
    after("releases/new/parts/lines-000000.parquet"),
    after("sample/parts/000-000001/flux.npy", "write"),
    before("sample/parts/001-000000/kept.parquet"),
    after("sample/arrays/ivar/c/0/0"),
)


@pytest.mark.parametrize(
    "executor",
    [
        pytest.param("processes", marks=pytest.mark.exhaustive),
        pytest.param("distributed", marks=pytest.mark.cluster),
        pytest.param("ray", marks=pytest.mark.cluster),
    ],
    indirect=True,
)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_whose_workers_are_killed_goes_on(executor, scenes, tmp_path):
    scene = scenes.run()
    scene.action(tmp_path)  # writes the job
    job = read_job(tmp_path / "in.toml")
    place = DeadlyPlace(executor, tmp_path / "run", WORKERS, marks(scenes))
    pipeline = Pipeline(make_plan(job), place)
    pipeline._prepare([pipeline._release(name) for name in pipeline.plan.releases])
    all_dead(place, len(WORKERS))
    same(tmp_path, scene.whole)


# The command line as anybody starts it -----------------------------------------------------------


def start_and_kill(arguments, folder, n_files, log):
    """Start a process and kill it once it has written so many files; whether it was killed."""
    with log.open("ab") as out:
        process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=out, stderr=out)
    while process.poll() is None:
        if sum(len(names) for *_, names in os.walk(folder)) >= n_files:
            process.kill()
            break
        time.sleep(0.001)
    assert process.wait() in (0, -signal.SIGKILL), log.read_text()
    return process.returncode != 0


def test_a_command_that_is_killed_and_given_again(nursery, scenes, files, tmp_path):
    arguments = ingest_arguments(scenes.source, tmp_path / "r", engine="processes")
    assert start_and_kill(arguments, tmp_path / "r", 12, tmp_path / "log")
    Trial(nursery, files, tmp_path).finish()


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_job_killed_again_and_again(nursery, scenes, tmp_path, engine):
    scene = scenes.run()
    scene.action(tmp_path)  # writes the job
    arguments = ["run", tmp_path / "in.toml", "--set", f"compute.engine={engine}"]
    # The lock, the log and the job's own description come first.
    for n_files in (1, 4, 12, 20, 25, 40, 45, 50):
        assert start_and_kill(arguments, tmp_path / "run", n_files, tmp_path / "log")
    Trial(nursery, scene, tmp_path).finish()
