"""Ingest and prepare on disks that are full, bad, or closed to them.

The error says what to do, nothing half is committed, what was written is kept; a spectrum that
cannot be read is a row or a line of the ledger with its reason.
"""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
from kill_harness import Birth, powerless, up_to_sample
from kill_scenes import Ingest, contents, job_file, reasons, same, sound, spec_name

from spectra_scale.compute.place import Here
from spectra_scale.store.tables import read_table
from spectra_scale.verify import verify

PLATE = "spPlate-4055-55359.fits"


@pytest.fixture
def source(scenes, tmp_path):
    """A copy of the survey's files, to be spoiled."""
    return Path(shutil.copytree(scenes.source, tmp_path / "in"))


# Full disks --------------------------------------------------------------------------------------


class Disk:
    """A small disk of its own, in memory."""

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def mount(self, options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.path],
                              capture_output=True, text=True, check=False)  # fmt: skip
        if done.returncode:
            pytest.skip(f"a disk of its own cannot be mounted here: {done.stderr.strip()}")

    def unmount(self):
        subprocess.run(["umount", self.path], check=True)


@pytest.fixture
def disk(tmp_path):
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    made = Disk(tmp_path / "disk")
    yield made
    while made.path.is_mount():
        made.unmount()


FULL = "No space left on device: /.*GiB free there.*run the same command to go on"


@pytest.mark.parametrize(
    ("engine", "step"),
    [
        ("serial", 90),
        ("threads", 150),
        pytest.param("processes", 220, marks=[pytest.mark.exhaustive, pytest.mark.timeout(400)]),
    ],
)
def test_an_ingest_goes_on_when_a_full_disk_has_room_again(nursery, scenes, disk, engine, step):
    files, refusals = scenes.ingest(), 0
    for size in range(8, 4000, step):
        disk.mount(f"size={size}k")
        ingest = Ingest(nursery, scenes.source, disk.path, "--engine", engine)
        ingest.log = disk.path.parent / "log"
        if ingest.run()[0] == 0:
            disk.unmount()
            break
        ingest.refused(FULL)  # still full, and still whole
        kept = contents(disk.path)
        assert kept
        subprocess.run(["mount", "-o", "remount,size=64m", disk.path], check=True)
        ingest.done()
        same(disk.path, files.whole)
        sound(disk.path)
        disk.unmount()
        refusals += 1
    assert refusals >= 2


def test_a_job_goes_on_when_a_full_disk_has_room_again(nursery, scenes, disk, tmp_path):
    scene, refusals = scenes.run(), 0
    for size in range(8, 8000, 130):
        disk.mount(f"size={size}k")
        job = job_file(tmp_path / "in.toml", disk.path / "run", scenes.releases())
        log = tmp_path / f"log-{size}"
        birth = Birth(up_to_sample(job), log)
        if nursery.run(birth) == 0:
            break
        assert re.search(f"^error: {FULL}", log.read_text(), re.MULTILINE), log.read_text()
        assert "Traceback" not in log.read_text()
        subprocess.run(["mount", "-o", "remount,size=64m", disk.path], check=True)
        assert nursery.run(birth) == 0, log.read_text()
        same(disk.path, scene.whole)
        disk.unmount()
        refusals += 1
    assert refusals >= 3


def limited(action, n_bytes, *, deadly):
    """The action, where no file may become larger; `deadly`: who tries is killed in the act."""
    return partial(_limited, action, n_bytes, deadly)


def _limited(action, n_bytes, deadly):
    if deadly:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    return action()


@pytest.mark.parametrize("deadly", [False, True])
def test_a_file_that_is_only_written_in_part_is_written_again(nursery, scenes, tmp_path, deadly):
    # Where nobody may mount a disk: a limit on the size of files ends a write in its middle.
    scene, cut_short = scenes.run(), 0
    for n_bytes in (1_000, 7_000, 15_000, 30_000):
        folder = tmp_path / str(n_bytes)
        scene.again(folder)
        whole = scene.birth(folder)
        code = nursery.run(Birth(limited(whole.action, n_bytes, deadly=deadly), folder / "log"))
        if code == 0:
            break
        text = (folder / "log").read_text()
        assert code == (-signal.SIGXFSZ if deadly else 1), text
        assert deadly or re.search("^error: File too large: /", text, re.MULTILINE), text
        assert "Traceback" not in text
        assert nursery.run(whole) == 0, text
        same(folder, scene.whole)
        cut_short += 1
    assert cut_short >= 2


# Bad disks ---------------------------------------------------------------------------------------


def bad_blocks(action, name, start, healthy=0):
    """The action, where the bytes of a file from `start` on cannot be read: a bad disk.

    The first `healthy` times they can be read yet.
    """
    return partial(_bad_blocks, action, name, start, healthy)


def _bad_blocks(action, name, start, healthy):

    times = iter(range(healthy))

    def checked(read):
        def reads(fd, what, offset):
            n_bytes = what if isinstance(what, int) else sum(len(each) for each in what)
            path = str(Path(f"/proc/self/fd/{fd}").readlink())
            if path.endswith(name) and offset + n_bytes > start and next(times, None) is None:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(fd, what, offset)

        return reads

    os.pread, os.preadv = checked(os.pread), checked(os.preadv)
    return action()


BAD = ("unreadable", "cannot be read: Input/output error")


@pytest.mark.parametrize(
    ("by_catalogue", "healthy"),
    [(False, 0), (False, 1), (True, 0)],
    ids=["at the first look", "at the second look", "by a catalogue"],
)
def test_a_spectrum_on_a_bad_block_is_a_row_or_a_line_with_its_reason(
    nursery, scenes, tmp_path, by_catalogue, healthy
):
    scenes.catalogue()
    more = ["--catalogue", scenes.table] if by_catalogue else []
    ingest = Ingest(nursery, scenes.source, tmp_path / "out", *more)
    ingest.action = bad_blocks(ingest.action, spec_name(5), 30_000, healthy)
    ingest.done()
    assert reasons(tmp_path / "out")[spec_name(5)] == BAD
    rows = read_table(tmp_path / "out" / "r" / "catalogue.parquet").to_pylist()
    assert {spec_name(4), spec_name(6)} <= {r["source_file"] for r in rows if not r["reason"]}
    sound(tmp_path / "out", 0)
    # What is on the disk is found to be fine, once the disk is.
    problems = [c.problem for c in verify(tmp_path / "out", Here(), "all") if c.problem]
    if spec_name(5) in {r["source_file"] for r in rows}:
        (problem,) = problems
        assert "sdss:266-51602-5 is fine in the file, unreadable in the release" in problem
    else:
        assert problems == []


def test_a_plate_with_a_bad_block_costs_its_own_spectra_alone(nursery, scenes, tmp_path):
    ingest = Ingest(nursery, scenes.source, tmp_path / "out")
    ingest.action = bad_blocks(ingest.action, PLATE, 60_000, healthy=0)
    ingest.done()
    found = reasons(tmp_path / "out")
    assert found[PLATE] == BAD
    assert not any(spec_name(fiber) in found for fiber in range(1, 15))
    sound(tmp_path / "out", 0)


def test_a_catalogue_with_a_bad_block_is_said_in_one_line(nursery, scenes, tmp_path):
    scenes.catalogue()
    ingest = Ingest(nursery, scenes.source, tmp_path / "out", "--catalogue", scenes.table)
    well = ingest.action
    ingest.action = bad_blocks(well, scenes.table.name, 3_000)
    ingest.refused(f"{scenes.table}.*Input/output error")
    ingest.action = well
    ingest.done()
    sound(tmp_path / "out")


def test_a_file_that_only_gives_errors_is_a_line_of_the_ledger(nursery, source, tmp_path):
    # The memory of the reading process: a regular file, whose first page cannot be read.
    (source / spec_name(77)).symlink_to("/proc/self/mem")
    Ingest(nursery, source, tmp_path / "out").done()
    assert reasons(tmp_path / "out")[spec_name(77)] == BAD
    sound(tmp_path / "out")


def test_a_file_on_a_disk_that_breaks_off_is_read_as_far_as_it_is_there(
    nursery, source, tmp_path, disk
):
    # A file system in a file, which ends in the middle of the last survey file.
    import fcntl
    import struct

    image, last = tmp_path / "image", spec_name(14)
    image.write_bytes(bytes(16 << 20))
    made = shutil.which("mkfs.ext4") and subprocess.run(
        ["mkfs.ext4", "-q", "-b", "1024", "-O", "^has_journal", image], check=False
    ).returncode == 0  # fmt: skip
    if (
        not made
        or subprocess.run(["mount", "-o", "loop", image, disk.path], check=False).returncode
    ):
        pytest.skip("a file system in a file cannot be mounted here")
    content = (source / last).read_bytes()
    (source / last).unlink()
    shutil.copytree(source, disk.path, dirs_exist_ok=True)
    os.sync()
    (disk.path / last).write_bytes(content)
    os.sync()
    with (disk.path / last).open("rb") as file:
        fibmap = 1  # linux/fs.h: the number of a block of a file on its device
        (block,) = struct.unpack("i", fcntl.ioctl(file, fibmap, struct.pack("i", 30)))
    disk.unmount()
    subprocess.run(["mount", "-o", "loop,ro", image, disk.path], check=True)
    os.truncate(image, block * 1024)
    with pytest.raises(OSError, match="Input/output error"):
        (disk.path / last).read_bytes()
    Ingest(nursery, disk.path, tmp_path / "out").done()
    assert reasons(tmp_path / "out")[last] == BAD
    sound(tmp_path / "out")


# What may not be read or written -----------------------------------------------------------------


def test_an_output_folder_that_may_not_be_written_is_said_in_one_line(nursery, scenes, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    ingest = Ingest(nursery, scenes.source, out)
    ingest.action = powerless(ingest.action)
    ingest.refused(rf"Permission denied: {out}")
    assert list(out.iterdir()) == []
    out.chmod(0o755)
    ingest.done()


def test_a_disk_that_may_only_be_read_is_said_in_one_line(nursery, scenes, disk):
    disk.mount("size=1m,ro")
    ingest = Ingest(nursery, scenes.source, disk.path)
    ingest.log = disk.path.parent / "log"
    ingest.refused("Read-only file system: ")


def test_a_finished_release_on_a_disk_that_may_only_be_read_is_a_no_op(nursery, scenes, disk):
    disk.mount("size=16m")
    ingest = Ingest(nursery, scenes.source, disk.path)
    ingest.log = disk.path.parent / "log"
    ingest.done()
    subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
    sound(disk.path)
    job = job_file(disk.path.parent / "in.toml", disk.path.parent / "run", {})
    text = job.read_text() + f'[[release]]\nname = "made"\npath = "{disk.path}/r"\n'
    job.write_text(text.replace("release = []\n", ""))
    log = disk.path.parent / "log-run"
    assert nursery.run(Birth(up_to_sample(job), log)) == 0, log.read_text()


def test_files_that_may_not_be_read_are_lines_and_folders_are_refused(nursery, source, tmp_path):
    (source / spec_name(5)).chmod(0)
    ingest = Ingest(nursery, source, tmp_path / "out")
    ingest.action = powerless(ingest.action)
    ingest.done()
    assert reasons(tmp_path / "out")[spec_name(5)] == (
        "unreadable", "cannot be read: Permission denied",
    )  # fmt: skip
    (source / "deep").mkdir(mode=0)
    code, text = ingest.run()
    assert code == 2
    assert re.search(rf"^error: {source}/deep: cannot be listed \(Permission denied\)", text,
                     re.MULTILINE)  # fmt: skip
