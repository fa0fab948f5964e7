"""What is killed: survey files, and the commands that take them in."""

import json
import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from kill_harness import Birth, Moment, command, up_to_sample
from pipeline_builders import digests, write_job
from surveys_builders import (
    coadd_columns,
    legacy_row,
    plate_hdus,
    table_hdu,
    write_spec,
    zbest_columns,
)

from spectra_scale.compute.place import Here
from spectra_scale.store.tables import read_table
from spectra_scale.verify import verify

N_SPEC, N_FIBERS, N_PIXELS = 14, 9, 1500
#: Cuts of prepare that few spectra fail.
LOOSE = {"min_snr": 100.0, "max_masked_fraction": 1.0, "z_min": -0.5, "z_max": 9.0,
         "mask": "brightsky", "require_primary": False, "require_good_plate": False}  # fmt: skip
COMPUTE = {"engine": "serial", "shard_rows": 8, "chunk_rows": 4}


# Survey files ------------------------------------------------------------------------------------


def spec_name(fiber):
    return f"spec-0266-51602-{fiber:04d}.fits"


def spectrum(folder, fiber, seed=0, n_pixels=N_PIXELS, **parts):
    """A file of one spectrum; with more pixels it is another file, by its size."""
    row = legacy_row(FIBERID=np.int32(fiber), Z=np.float32(0.02 * fiber), PLUG_RA=140.0 + fiber)
    made = {"row": row, "coadd": coadd_columns(n_pixels, seed=seed or fiber)} | parts
    return write_spec(folder, spec_name(fiber), **made)


def survey_files(folder):
    """Single files, a plate, and files of some kinds of trouble."""
    folder.mkdir(parents=True)
    for fiber in range(1, N_SPEC + 1):
        spectrum(folder, fiber)
    blind = coadd_columns(N_PIXELS) | {"ivar": np.zeros(N_PIXELS, "f4")}
    spectrum(folder, 101, coadd=blind)
    whole = spectrum(folder, 102).read_bytes()
    (folder / spec_name(102)).write_bytes(whole[:9000])
    (folder / spec_name(103)).write_bytes(b"")
    (folder / "notes.txt").write_text("observed at night")
    plate_hdus(N_FIBERS, N_PIXELS).writeto(folder / "spPlate-4055-55359.fits")
    table_hdu(zbest_columns(N_FIBERS)).writeto(folder / "spZbest-4055-55359.fits")
    return folder


def catalogue_file(path, fibers):
    """A specObj table of some fibres of plate 266."""
    columns = zbest_columns(len(fibers), 266, 51602)
    columns["FIBERID"] = np.array(fibers, "i4")
    columns["OBJTYPE"] = np.array(["GALAXY".ljust(16)] * len(fibers))
    table_hdu(columns).writeto(path)
    return path


# Commands ----------------------------------------------------------------------------------------


def ingest_arguments(source, out, *more, engine="serial"):
    settings = [f"compute.{name}={value}" for name, value in COMPUTE.items() if name != "engine"]
    given = [word for setting in settings for word in ("--set", setting)]
    return ["ingest", "made", source, "--out", out, "--engine", engine, *given, *more]


def job_file(path, out, releases, **changes):
    """A job over some releases, by their name and folder."""
    section = [{"name": name, "source": [str(source)]} for name, source in releases.items()]
    data = {"name": "made", "out": str(out), "release": section, "prepare": LOOSE,
            "compute": COMPUTE} | changes  # fmt: skip
    return write_job(path, data)


# Scenes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """Something to be done, which is killed.

    Parameters
    ----------
    name
        Its name.
    begun
        Folder with what is there beforehand: it is copied.
    action
        What is run, of the folder that it is copied to.
    watched
        Folder whose changes are counted, relative.
    whole
        What an undisturbed run leaves: digests and manifests, by file.
    seconds
        How long that takes.
    """

    name: str
    begun: Path
    action: object
    watched: str
    whole: dict
    seconds: float = 0.0

    def again(self, folder):
        """The state before, in a new folder."""
        shutil.copytree(self.begun, folder, dirs_exist_ok=True)

    def birth(self, folder, moment=None):
        """A process that does it, and is killed at a moment."""
        return Birth(self.action(folder), folder / "log", folder / self.watched, moment)


def contents(folder):
    """Every file below a folder, as a checksum; of manifests what does not depend on when."""
    found = digests(folder, without=("manifest.json", "run.log", "log", "job.toml", "in.toml"))
    for path in sorted(folder.rglob("manifest.json")):
        said = json.loads(path.read_text())
        said["where"] = said["finished"] = None
        found[path.relative_to(folder).as_posix()] = json.dumps(said)
    return found


class Scenes:
    """Makes scenes, each once, and what undisturbed runs leave of them."""

    def __init__(self, nursery, folder):
        self.nursery, self.folder = nursery, folder
        self.table = folder / "specObj.fits"
        self.source, self.made = survey_files(folder / "source"), {}

    def scene(self, name, action, watched, begin=None):
        """A scene: what is there before, made by `begin`, and what is run then."""
        if name in self.made:
            return self.made[name]
        begun = self.folder / name
        begun.mkdir()
        if begin is not None:
            begin(begun)
        whole = Scene(name, begun, action, watched, {})
        done = self.folder / f"{name}-whole"
        whole.again(done)
        birth, start = whole.birth(done), time.monotonic()
        assert self.nursery.run(birth) == 0, birth.log.read_text()
        self.made[name] = replace(whole, whole=contents(done), seconds=time.monotonic() - start)
        return self.made[name]

    def ingest(self, name="files", *more, begin=None, source=None):
        """An ingest of all files."""
        source = source or self.source

        def action(folder):
            return command(*ingest_arguments(source, folder / "r", *more))

        return self.scene(name, action, ".", begin)

    def catalogue(self, name="catalogue", *more):
        """An ingest by a catalogue: rows without a file, and rows whose spectrum is bad."""
        if not self.table.exists():
            catalogue_file(self.table, [*range(2, N_SPEC + 1), 101, 102, 104])
        return self.ingest(name, "--catalogue", self.table, *more)

    def lean(self):
        """The same without a copy of the spectra."""
        return self.catalogue("lean", "--no-copy")

    def revision(self, name="revision"):
        """An ingest of what came since."""
        early = self.folder / "early"
        if not early.exists():
            shutil.copytree(self.source, early)
            for file in sorted(early.glob("spec*"))[5:] + sorted(early.glob("sp[PZ]*")):
                file.unlink()

        def begin(folder):
            birth = Birth(command(*ingest_arguments(early, folder / "r")), folder / "log")
            assert self.nursery.run(birth) == 0, birth.log.read_text()

        return self.ingest(name, begin=begin)

    def anew(self, name="anew"):
        """An ingest that begins anew, for a file changed since it was killed."""
        late = self.folder / "late"
        if not late.exists():
            shutil.copytree(self.source, late)
            spectrum(late, 3, seed=99)

        def begin(folder):
            moment = Moment("r/parts/status-000001.parquet", "rename", after=True)
            birth = Birth(command(*ingest_arguments(self.source, folder / "r")), folder / "log",
                          folder, moment)  # fmt: skip
            assert self.nursery.run(birth) == -9

        return self.ingest(name, begin=begin, source=late)

    def releases(self):
        """Files of two releases, the second a re-reduction of some spectra of the first."""
        new = self.folder / "new"
        if not new.exists():
            new.mkdir()
            for fiber in (2, 3, 5):
                spectrum(new, fiber, seed=50 + fiber, n_pixels=N_PIXELS + 10)
        return {"old": self.source, "new": new}

    def _job(self):
        releases = self.releases()

        def action(folder):
            return up_to_sample(job_file(folder / "in.toml", folder / "run", releases))

        return action

    def run(self, name="run"):
        """All of a job, up to its sample."""
        return self.scene(name, self._job(), "run")

    def prepare(self, name="prepare"):
        """The sample of the same job alone."""
        action = self._job()

        def begin(folder):
            birth = Birth(
                action(folder), folder / "log", folder / "run", Moment("sample", "mkdir")
            )
            assert self.nursery.run(birth) == -9, birth.log.read_text()

        return self.scene(name, action, "run/sample", begin)


# Processes ---------------------------------------------------------------------------------------


class Ingest:
    """``spectra-scale ingest`` of some files, as a process of its own."""

    def __init__(self, nursery, source, folder, *more):
        self.nursery, self.folder, self.log = nursery, Path(folder), Path(folder).parent / "log"
        self.action = command(*ingest_arguments(source, self.folder / "r", *more))

    def birth(self, moment=None, act=None, watched=None):
        folder = watched or self.folder
        return Birth(self.action, self.log, folder, moment, *([act] if act else []))

    def run(self, moment=None, act=None, watched=None):
        """Exit code, and what it said."""
        self.log.unlink(missing_ok=True)
        code = self.nursery.run(self.birth(moment, act, watched))
        text = self.log.read_text()
        assert "Traceback" not in text
        assert "Logging error" not in text
        return code, text

    def refused(self, pattern, **trouble):
        """It ends with an error that says so, and has committed nothing."""
        code, text = self.run(**trouble)
        assert code == 1, text
        assert re.search(rf"^error: .*{pattern}", text, re.MULTILINE), text
        assert not (self.folder / "r" / "manifest.json").exists()

    def done(self, **trouble):
        """It ends well; the counts of the release."""
        code, text = self.run(**trouble)
        assert code == 0, text
        return text


def sound(folder, sources="all"):
    assert [c.problem for c in verify(folder, Here(), sources) if c.problem] == []


def same(folder, expected):
    """Whether files are, byte for byte, what is expected (`contents`), and no more."""
    found = contents(folder)
    assert found.keys() == expected.keys()
    assert {name for name, value in found.items() if value != expected[name]} == set()


def reasons(folder):
    """Reason of every file and row of a release that is not as it should be, by file."""
    ledger = read_table(folder / "r" / "ledger.parquet").to_pylist()
    rows = read_table(folder / "r" / "catalogue.parquet").to_pylist()
    found = {line["path"]: (line["reason"], line["message"]) for line in ledger if line["path"]}
    return found | {
        row["source_file"]: (row["reason"], row["message"]) for row in rows if row["reason"]
    }


class DeadlyPlace:
    """A place whose worker is killed at each of some moments, once.

    Parameters
    ----------
    place
        Where tasks run.
    folder, moments
        A worker is killed at each of `moments` of what it does to the files below `folder`.
    marks
        Folder for one file a kill, with the number of the process.
    """

    name = "deadly"

    def __init__(self, place, folder, moments, marks):
        self.place, self.folder, self.moments, self.marks = place, folder, moments, marks

    def map(self, task, items, work):
        here, folder, marks = str(Path(__file__).parent), str(self.folder), str(self.marks)
        moments = [(n, asdict(moment)) for n, moment in enumerate(self.moments)]

        # Nested: Ray's workers cannot import what a test module can.
        def watched(item):
            import sys
            from functools import partial

            if here not in sys.path:
                sys.path.append(here)
            import kill_harness

            for n, moment in moments:
                act = partial(kill_harness.kill_once, f"{marks}/{n}")
                watch = kill_harness.Watch(folder, kill_harness.Moment(**moment), act)
                sys.addaudithook(watch)
            return task(item)

        return self.place.map(watched, items, work)

    @property
    def killed(self):
        """Numbers of the processes that were killed."""
        return [int(mark.read_text()) for mark in sorted(self.marks.iterdir())]
