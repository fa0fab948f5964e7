"""Submit a job to a Ray cluster, which runs the same job file with `spectra-scale run`."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from spectra_scale.config import Job
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.jobfile import resolved

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

log = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)

#: Port of Ray's dashboard, which takes jobs.
PORT = 8265
#: Seconds an unreachable address may cost.
TIMEOUT = 5.0
#: Lines of its log that a failed job's error shows.
LAST_LINES = 20
#: Times the log is asked for again after the connection was lost, and seconds between.
RETRIES, PAUSE = 5, 2.0
#: Key of the job's metadata that names the run it writes.
RUN_KEY = "spectra_scale_out"
#: Loggers of Ray that set their own level, above the command line's.
_NOISY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_AUTH = (
    "Give the cluster's token: `export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...` with the value it "
    "was started with (for a plain `ray start --head`: the content of ~/.ray/auth_token there), "
    "and submit again."
)


def submit(
    job: Job,
    address: str,
    *,
    follow: bool = True,
    submission_id: str | None = None,
    echo: Callable[[str], None],
    python: str | None = None,
) -> str:
    """Run a job on a Ray cluster, as a Ray job.

    Only the job file is sent. The cluster's nodes must have the package installed and see the
    job's paths (made absolute here) under the same names: a shared file system.

    Parameters
    ----------
    job
        The job; see `for_cluster` for what is changed in it.
    address
        Of the cluster's dashboard, as ``http://HOST:8265``.
    follow
        Show the job's log until it ends.
    submission_id
        Name of the Ray job; none: Ray makes one.
    echo
        Takes each line to be shown.
    python
        Interpreter that runs the job on the cluster's head node; none: this one if the address is
        of this machine, else ``python``.

    Returns
    -------
    str
        The Ray job's name.

    Raises
    ------
    UsageError
        If the address cannot be reached or refuses the token, or if another job on that cluster
        is writing the same run. Nothing was started.
    SpectraScaleError
        If the job failed, was stopped, or could not be followed to its end.
    """
    address = dashboard_address(address)
    client = _connect(address)
    job = for_cluster(job)
    _refuse_second_writer(client, job, address)
    if python is None:
        local = urlsplit(address).hostname in {"127.0.0.1", "localhost", "::1"}
        python = sys.executable if local else "python"
    name = _send(client, job, python, submission_id)
    echo(f"submitted {name} to {address}; it writes {job.out}")
    later = (
        f"follow: ray job logs --follow {name} --address {address}\n"
        f"stop:   ray job stop {name} --address {address}"
    )
    if not follow:
        echo(later)
        return name
    try:
        _follow(client, name, echo)
    except KeyboardInterrupt:
        echo(f"stopped following; {name} goes on.\n{later}")
        raise
    echo(f"{name} is done: {job.out}")
    return name


def for_cluster(job: Job) -> Job:
    """The job as a cluster's driver must read it.

    Every path becomes absolute (symbolic links are kept, since a resolved one may be of this
    machine alone), `compute.ray_address` is left to Ray, and data stages go to Ray's workers
    unless the job names an engine itself.
    """
    compute: dict[str, str | None] = {"ray_address": None}
    if "engine" not in job.compute.model_fields_set:
        compute["engine"] = "ray"
    return _absolute_model(
        job.model_copy(update={"compute": job.compute.model_copy(update=compute)})
    )


def _absolute_model(model: M) -> M:
    found = {name: getattr(model, name) for name in type(model).model_fields}
    changed = {name: _absolute(value) for name, value in found.items()}
    return model.model_copy(update={k: v for k, v in changed.items() if v is not found[k]})


def _absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, BaseModel):
        return _absolute_model(value)
    if isinstance(value, tuple):
        return tuple(_absolute(v) for v in value)
    return value


def dashboard_address(address: str) -> str:
    """The address of a dashboard, written in full.

    Parameters
    ----------
    address
        ``http://HOST:PORT``, ``https://...``, ``HOST:PORT`` or ``HOST``.

    Raises
    ------
    UsageError
        If it is of another kind, or Ray's environment variables name another one.

    Examples
    --------
    >>> dashboard_address("login01")
    'http://login01:8265'
    """
    if "://" not in address:
        host = urlsplit(f"http://{address}")
        address = f"http://{address}" + ("" if host.port else f":{PORT}")
    if urlsplit(address).scheme not in {"http", "https"}:
        msg = (
            f"--address: found {address}, expected the address of the Ray dashboard, as "
            f"http://HOST:{PORT}; `ray start --head` prints it."
        )
        raise UsageError(msg)
    address = address.rstrip("/")
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        other = os.environ.get(variable, "")
        if other and other.rstrip("/") != address:
            msg = (
                f"found {variable}={other} in the environment, expected nothing or {address}: "
                f"Ray would prefer it to --address. `unset {variable}` and submit again."
            )
            raise UsageError(msg)
    return address


def _connect(address: str) -> JobSubmissionClient:
    _probe(address)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        what = str(error).splitlines()[0]
        msg = f"{address} refused this user's token: {what}. {_AUTH}"
        raise UsageError(msg) from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UsageError(_no_dashboard(address, str(error))) from error


def _probe(address: str) -> None:
    """Ask for the version with a time limit: Ray's own client has none."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=TIMEOUT):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {401, 403}:
            return  # it is there; the client below has the token
        raise UsageError(_no_dashboard(address, f"HTTP status {error.code}")) from error
    except (OSError, ValueError, HTTPException) as error:
        found = str(getattr(error, "reason", error)).strip()
        what = found if found.isprintable() else "no HTTP server"
        raise UsageError(_no_dashboard(address, what)) from error


def _no_dashboard(address: str, found: str) -> str:
    return (
        f"{address}: found {found}, expected the dashboard of a Ray cluster. Start one with "
        "`ray start --head` (it prints the address), forward its port with "
        f"`ssh -L {PORT}:localhost:{PORT} HOST`, or correct --address. See docs/cluster.md."
    )


def _refuse_second_writer(client: JobSubmissionClient, job: Job, address: str) -> None:
    for other in client.list_jobs():
        if (other.metadata or {}).get(RUN_KEY) == str(job.out) and not other.status.is_terminal():
            name = other.submission_id
            msg = (
                f"found that {name} on {address} is writing {job.out}, expected no other writer. "
                f"Follow it with `ray job logs --follow {name} --address {address}`, stop it with "
                f"`ray job stop {name} --address {address}`, or give another --out."
            )
            raise UsageError(msg)


def _send(client: JobSubmissionClient, job: Job, python: str, submission_id: str | None) -> str:
    # The job file alone: Ray refuses more than 100 MiB, and workers read data by shared paths.
    with tempfile.TemporaryDirectory(prefix="spectra-scale-") as folder:
        Path(folder, "job.toml").write_text(resolved(job))
        try:
            return str(
                client.submit_job(
                    entrypoint=f"{shlex.quote(python)} -m spectra_scale.cli run job.toml",
                    runtime_env={"working_dir": folder},
                    metadata={RUN_KEY: str(job.out), "spectra_scale_job": job.name},
                    submission_id=submission_id,
                )
            )
        except RuntimeError as error:
            msg = f"the Ray cluster refused the job: {error}. Correct it and submit again."
            raise SpectraScaleError(msg) from error


class _Lines:
    """The log as whole lines, each shown once, however often it is sent from its beginning."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._seen = 0
        self._rest = ""
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    async def read(self, client: JobSubmissionClient, name: str) -> None:
        position = 0
        async for chunk in client.tail_job_logs(name):
            new = chunk[max(self._seen - position, 0) :]
            position += len(chunk)
            self._seen = max(self._seen, position)
            *whole, self._rest = (self._rest + new).split("\n")
            self._show(whole)

    def close(self) -> None:
        if self._rest:
            self._show([self._rest])
            self._rest = ""

    def _show(self, lines: list[str]) -> None:
        for line in lines:
            self._echo(line)
            self.last.append(line)


def _follow(client: JobSubmissionClient, name: str, echo: Callable[[str], None]) -> None:
    lines = _Lines(echo)
    job = _until_end(client, name, lines)
    lines.close()
    if job.status != "SUCCEEDED":
        raise SpectraScaleError(_failed(client, name, job, lines))


def _until_end(client: JobSubmissionClient, name: str, lines: _Lines) -> Any:
    from aiohttp import ClientError

    losses = 0
    while True:
        try:
            asyncio.run(lines.read(client, name))
            job = client.get_job_info(name)
        except (OSError, RuntimeError, ClientError) as error:
            losses += 1
            log.warning("lost the log of %s: %s", name, error)
            if losses > RETRIES:
                raise SpectraScaleError(_lost(client, name, error)) from error
        else:
            if job.status.is_terminal():
                return job
            losses = 0
        time.sleep(PAUSE)


def _lost(client: JobSubmissionClient, name: str, error: Exception) -> str:
    address = client.get_address()
    return (
        f"lost the connection to {address} while following {name}: {error}. The job goes on if "
        f"the cluster does: `ray job logs --follow {name} --address {address}`. If the cluster "
        "is gone, start one and submit the same job again: what is finished is kept."
    )


def _failed(client: JobSubmissionClient, name: str, job: Any, lines: _Lines) -> str:
    shown = "\n  ".join(lines.last) or "(empty)"
    if job.status == "STOPPED":
        what, todo = "was stopped", "Submit the same job again to go on where it ended."
    else:
        what = "failed"
        todo = "Correct what it names and submit the same job again: what is finished is kept."
    if "No module named" in shown:
        todo = (
            "Install spectra_scale in the environment that `ray start` was run in, on every node, "
            "and start the cluster again."
        )
    # Ray's message goes on with the log, which is shown here already.
    message = (job.message or "").strip().partition("\n")[0].partition(", last available logs")[0]
    why = f" ({message})" if message else ""
    return (
        f"{name} on {client.get_address()} {what}{why}. The last lines of its log:\n  {shown}\n"
        f"{todo}"
    )
