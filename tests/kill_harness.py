"""Processes that are killed, stopped or disturbed at a chosen moment.

A `Nursery` is a process with everything imported and no thread; its children are forked, so that
one begins within milliseconds, and each lives as a process of its own. The moment is told by what
the child does to files, as Python's audit hooks see it: nothing of the program is changed for it.
"""

import contextlib
import importlib
import itertools
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
#: A child that lives longer hangs: it is killed, and the test fails.
PATIENCE = 100.0


# Moments -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A moment in the life of a process, by what it does to the files below a folder.

    Parameters
    ----------
    path
        Pattern of the file, relative to the folder.
    what
        "rename" (a file gets its name), "write" (it is opened for writing), "read", "remove",
        "mkdir"; "change": any of these but "read".
    n
        Which time.
    after
        Just after, at the next thing the process does; else just before.
    """

    path: str = "*"
    what: str = "change"
    n: int = 1
    after: bool = False

    def __str__(self):
        when = "after" if self.after else "before"
        return f"{when} {self.what} {self.n} of {self.path}"


def _at(path, folder):
    """A path that may be relative to an open folder."""
    if folder is not None and folder >= 0:
        return str(Path(f"/proc/self/fd/{folder}").readlink() / os.fsdecode(path))
    return os.fsdecode(path)


def operation(event, args):
    """What is about to be done to which file; None if it is something else."""
    if event == "open" and not isinstance(args[0], int) and args[0] is not None:
        return ("write" if args[2] & WRITING else "read"), os.fsdecode(args[0])
    if event in ("os.rename", "os.link"):
        return "rename", _at(args[1], args[3])
    if event in ("os.remove", "os.rmdir"):
        return "remove", _at(args[0], args[1])
    if event == "os.mkdir":
        return "mkdir", _at(args[0], args[2])
    return None


class Watch:
    """An audit hook that does something at a moment, once."""

    def __init__(self, folder, moment, act):
        self.folder, self.moment, self.act = os.path.realpath(folder), moment, act
        self.left, self.armed = moment.n, False

    def __call__(self, event, args):
        if self.armed:
            self.armed = False
            self.act()
        elif self.left > 0 and self._is_it(event, args):
            self.left -= 1
            if self.left == 0:
                self.armed = self.moment.after
                if not self.armed:
                    self.act()

    def _is_it(self, event, args):
        found = operation(event, args)
        if found is None:
            return False
        what, path = found
        if self.moment.what not in (what, "change") or (what == "read") != (
            self.moment.what == "read"
        ):
            return False
        # The folder may be reached through a link; the file itself is taken by its own name.
        parent, name = os.path.split(path)
        path = f"{os.path.realpath(parent)}/{name}"
        below = path.removeprefix(self.folder + os.sep)
        return below != path and fnmatchcase(below, self.moment.path)


# What may happen at a moment ---------------------------------------------------------------------


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_once(mark):
    """Kill the process if no other was killed for this mark; its number is left there."""
    with contextlib.suppress(FileExistsError), Path(mark).open("x") as file:
        file.write(str(os.getpid()))
        file.flush()
        kill()


def stop():
    """Stand still until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def cut(path, n_bytes):
    """Cut a file in place."""
    os.truncate(path, n_bytes)


def replace(path, other):
    """Put another file in its place: whoever has it open still reads the old one."""
    Path(other).replace(path)


def overwrite(path, other):
    """Write another file's bytes into it: whoever has it open reads both."""
    content = Path(other).read_bytes()
    with Path(path).open("r+b") as file:
        file.write(content)
        file.truncate()


# Children ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Birth:
    """What a child does.

    Parameters
    ----------
    action
        What it runs; its result is the exit code, None is 0.
    log
        File that its output is added to.
    folder, moment, act
        At `moment` of what it does to the files below `folder`, it does `act`.
    """

    action: Callable
    log: Path
    folder: Path | None = None
    moment: Moment | None = None
    act: Callable = kill


def _live(birth):
    """The whole life of a child."""
    out = os.open(birth.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for handle in (1, 2):
        os.dup2(out, handle)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if birth.moment is not None:
        sys.addaudithook(Watch(birth.folder, birth.moment, birth.act))
    try:
        code = birth.action()
    except SystemExit as error:
        code = error.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _fork(birth):
    child = os.fork()
    if child:
        return child
    try:
        _live(birth)
    except BaseException:  # noqa: BLE001 - the child must end here, whatever happens
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    os._exit(70)


#: What children would import one by one, in half their time.
IMPORTED = (
    "email.policy", "multiprocessing.synchronize", "pandas", "pyarrow.dataset",
    "pyarrow.pandas_compat", "spectra_scale.pipeline", "spectra_scale.stages.report.gather",
    "spectra_scale.verify",
)  # fmt: skip


def _warm():
    """Import and load what children need, without a thread: they inherit it."""
    for name in IMPORTED:
        importlib.import_module(name)
    import numpy as np
    import typer

    from spectra_scale.cli import app
    from spectra_scale.spectrum.observed import ObservedSpectra
    from spectra_scale.spectrum.preprocess import Preprocess, to_rest_frame

    zeros = np.zeros((1, 100), np.float32)
    spectrum = ObservedSpectra(np.array([""], object), 35800, zeros, zeros, zeros.astype("u4"))
    to_rest_frame(spectrum, np.array([0.1]), Preprocess())
    typer.main.get_command(app)


def serve():
    """Fork children as asked on the standard input, and say how they ended."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _warm()
    living = set()
    with contextlib.suppress(EOFError):
        while True:
            number, request = pickle.load(sys.stdin.buffer)
            if isinstance(request, Birth):
                answer = _fork(request)
                living.add(answer)
            elif request is not None:
                answer = os.waitstatus_to_exitcode(os.waitpid(request, 0)[1])
                living.remove(request)
            else:
                answer = None
            pickle.dump((number, answer), answers)
            answers.flush()
    for child in living:
        # Of a test that failed: it may stand still for ever.
        os.kill(child, signal.SIGKILL)


class Nursery:
    """A process whose children are born ready; to be used in a `with` statement."""

    def __enter__(self):
        here = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        code = "import kill_harness; kill_harness.serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": here},
        )  # fmt: skip
        self._numbers = itertools.count()
        self.ask(None)  # it is ready when it answers
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def ask(self, request):
        wanted = next(self._numbers)
        pickle.dump((wanted, request), self._process.stdin)
        self._process.stdin.flush()
        number = None
        while number != wanted:
            # Answers to a test that ran out of time are not this one's: a number is a process.
            number, answer = pickle.load(self._process.stdout)
        return answer

    def start(self, birth):
        """A child that lives."""
        return Child(self, self.ask(birth), birth)

    def run(self, birth):
        """Exit code of a child, negative for a signal."""
        return self.start(birth).wait()


class Child:
    """A process of a nursery."""

    def __init__(self, nursery, pid, birth):
        self.nursery, self.pid, self.birth, self.code = nursery, pid, birth, None
        # By its handle, no other process can be meant than this one.
        self._handle = os.pidfd_open(pid)

    def _send(self, what):
        signal.pidfd_send_signal(self._handle, what)

    def ended(self, seconds):
        """Whether it ends by itself within a time."""
        return bool(select.select([self._handle], [], [], seconds)[0])

    def kill(self):
        self._send(signal.SIGKILL)

    def wait(self, patience=PATIENCE):
        """Exit code, negative for a signal."""
        if self.code is None:
            hangs = not self.ended(patience)
            if hangs:
                self.kill()
            self.code = self.nursery.ask(self.pid)
            os.close(self._handle)
            assert not hangs, f"hung for {patience} s; its output:\n{self.text}"
        return self.code

    def until_stopped(self, patience=PATIENCE):
        """Wait until it stands still (`stop`)."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return
            time.sleep(0.005)
        msg = f"did not come to the moment within {patience} s; its output:\n{self.text}"
        raise AssertionError(msg)

    def go_on(self):
        self._send(signal.SIGCONT)

    @property
    def text(self):
        """What it and its earlier siblings of the same log said."""
        return self.birth.log.read_text()


# What children do --------------------------------------------------------------------------------


def command(*arguments):
    """The command line, as an action."""
    return partial(_command, tuple(str(each) for each in arguments))


def _command(arguments):
    from spectra_scale import cli

    cli.main(arguments)


def up_to_sample(*arguments):
    """``spectra-scale run``, ended when there is a sample."""
    return partial(_up_to_sample, tuple(str(each) for each in arguments))


def _up_to_sample(arguments):
    from spectra_scale.pipeline import Pipeline

    def end(self):
        assert self.artifacts["prepare"]
        raise SystemExit(0)

    Pipeline._models = end
    _command(("run", *arguments))


def powerless(action):
    """The action, by somebody whom the permissions of files bind: root loses its powers."""
    return partial(_powerless, action)


def _powerless(action):
    import ctypes

    # capset(2), version 3: two words each of effective, permitted and inheritable capabilities.
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) == 0
    return action()
