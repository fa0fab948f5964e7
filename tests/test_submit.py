"""Submission to a Ray cluster: what is sent, what is shown, what is said when it goes wrong."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spectra_scale import submit as module
from spectra_scale.config import Job
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.jobfile import read_job, resolved
from spectra_scale.submit import dashboard_address, for_cluster, submit

DEMO = Path(__file__).parents[1] / "jobs" / "demo.toml"
ADDRESS = "http://127.0.0.1:8265"


def every_path_job() -> Job:
    """A job that sets every path there is, each one relative."""
    return Job.model_validate({
        "name": "paths",
        "out": "runs/a",
        "mock": {"path": "m"},
        "release": [
            {"name": "r", "source": ["s1", "../s2"], "catalogue": "c.fits", "path": "stored"},
            {"name": "absolute", "source": ["/elsewhere/s3"]},
        ],
        "label": {"lines": ["l1.fits", "l2.fits"]},
        "report": {"composite": "vandenberk.txt"},
        "models": {"from": "runs/b"},
    })  # fmt: skip


def paths_in(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from paths_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from paths_in(inner)


def test_every_path_of_a_submitted_job_is_absolute_and_names_the_same_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    job = every_path_job()
    before, after = (list(paths_in(j.model_dump())) for j in (job, for_cluster(job)))
    assert len(before) == 11
    assert all(path.is_absolute() for path in after)
    assert [tmp_path / path for path in before] == after


def test_a_submitted_job_means_the_same_read_from_another_folder(monkeypatch, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    sent = for_cluster(every_path_job())
    (there / "job.toml").write_text(resolved(sent))
    monkeypatch.chdir(there)
    assert read_job(Path("job.toml")).model_dump() == sent.model_dump()


def test_nothing_but_paths_and_the_place_to_run_is_changed():
    job = read_job(DEMO)
    plain, sent = job.model_dump(), for_cluster(job).model_dump()
    assert sent.pop("compute") == plain.pop("compute") | {"engine": "ray"}
    same = {
        "prepare",
        "train",
        "density",
        "embed",
        "outliers",
        "regions",
        "stack",
        "name",
        "limit",
    }
    assert {key: sent[key] for key in same} == {key: plain[key] for key in same}


def test_an_engine_that_the_job_names_is_kept():
    job = read_job(DEMO, ['compute.engine="processes"', 'compute.ray_address="10.0.0.1:6379"'])
    assert for_cluster(job).compute.engine == "processes"
    # Ray tells the driver of a Ray job which cluster it is on.
    assert for_cluster(job).compute.ray_address is None


@pytest.fixture(autouse=True)
def _no_ray_variables(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("head", "http://head:8265"),
        ("head:9000", "http://head:9000"),
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.example.org", "https://ray.example.org"),
    ],
)
def test_an_address_is_completed(given, full):
    assert dashboard_address(given) == full


def test_an_address_of_ray_client_is_refused():
    with pytest.raises(UsageError, match="ray://head:10001, expected the address of the Ray dash"):
        dashboard_address("ray://head:10001")


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_a_variable_that_ray_would_prefer_to_the_address_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "http://other:8265")
    with pytest.raises(UsageError, match=f"{name}=http://other:8265.*unset {name}"):
        dashboard_address(ADDRESS)
    monkeypatch.setenv(name, ADDRESS + "/")
    assert dashboard_address(ADDRESS) == ADDRESS


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_an_address_where_nothing_listens_fails_at_once_and_says_what_to_do():
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"(?s)expected the dashboard.*ray start --head") as error:
        submit(read_job(DEMO), f"http://127.0.0.1:{free_port()}", echo=print)
    assert time.monotonic() - start < 10.0  # what the command promises
    assert error.value.exit_code == 2


def test_an_address_that_never_answers_costs_the_time_limit_alone(monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(UsageError, match="timed out"):
            submit(read_job(DEMO), address, echo=print)
    assert time.monotonic() - start < 5.0  # the limit, and room for a busy machine


@contextmanager
def server(status: int, text: str) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Not on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_address[1]}"
        one.shutdown()


def test_another_web_server_is_not_taken_for_a_cluster():
    with server(404, "") as address, pytest.raises(UsageError, match="found HTTP status 404"):
        submit(read_job(DEMO), address, echo=print)
    with server(200, "hello") as address, pytest.raises(UsageError, match="expected the dashboar"):
        submit(read_job(DEMO), address, echo=print)


@pytest.mark.parametrize(
    ("status", "text"),
    [(401, "Unauthorized: Missing authentication token"), (403, "Forbidden: Invalid token")],
)
def test_a_refused_token_is_explained(status, text):
    with server(status, text) as address, pytest.raises(UsageError) as error:
        submit(read_job(DEMO), address, echo=print)
    assert text in str(error.value)
    assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=" in str(error.value)


class Status(str):
    """A status as Ray has it: a string that knows whether it is the last one."""

    __slots__ = ()

    def is_terminal(self) -> bool:
        return self in {"SUCCEEDED", "FAILED", "STOPPED"}


@dataclass
class Cluster:
    """Stands in for Ray's client: `logs` is what each look at the log yields or raises."""

    logs: Sequence[Sequence[str | BaseException]]
    statuses: list[str]
    message: str = ""
    running: Sequence[tuple[str, str]] = ()
    sent: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    looks: int = 0

    def get_address(self) -> str:
        return ADDRESS

    def list_jobs(self) -> list[Any]:
        jobs = []
        for i, (out, state) in enumerate(self.running):
            metadata = {module.RUN_KEY: out}
            jobs.append(
                SimpleNamespace(submission_id=f"job{i}", metadata=metadata, status=Status(state))
            )
        return jobs

    def submit_job(self, **sent: Any) -> str:
        self.sent = sent
        folder = Path(sent["runtime_env"]["working_dir"])
        self.files = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*")}
        return sent["submission_id"] or "job-of-ray"

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        self.looks += 1
        for chunk in self.logs[min(self.looks, len(self.logs)) - 1]:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def get_job_info(self, name: str) -> Any:
        return SimpleNamespace(status=Status(self.statuses.pop(0)), message=self.message)


@pytest.fixture
def run_on(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)

    def run(cluster: Cluster, job: Job | None = None, **options: Any) -> list[str]:
        monkeypatch.setattr(module, "_connect", lambda address: cluster)
        shown: list[str] = []
        submit(job or read_job(DEMO), ADDRESS, echo=shown.append, **options)
        return shown

    return run


def test_only_the_job_file_is_sent_and_run_by_the_cluster(run_on, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "huge.fits").write_bytes(b"x")
    cluster = Cluster([["done\n"]], ["SUCCEEDED"])
    run_on(cluster, submission_id="mine", python="/opt/env/bin/python")
    assert cluster.files == {"job.toml": resolved(for_cluster(read_job(DEMO)))}
    assert cluster.sent["entrypoint"] == (
        "/opt/env/bin/python -m spectra_scale.cli run job.toml"
    )  # fmt: skip
    # Compute nodes are offline: nothing may be installed when a job starts.
    assert set(cluster.sent["runtime_env"]) == {"working_dir"}


def test_the_head_of_another_machine_uses_its_own_python(monkeypatch):
    entrypoints = {}
    for address in ("http://127.0.0.1:8265", "http://login01:8265"):
        cluster = Cluster([[]], ["SUCCEEDED"])
        monkeypatch.setattr(module, "_connect", lambda _, cluster=cluster: cluster)
        submit(read_job(DEMO), address, echo=lambda _: None)
        entrypoints[address] = cluster.sent["entrypoint"]
    assert entrypoints["http://127.0.0.1:8265"].startswith(sys.executable)
    assert entrypoints["http://login01:8265"].startswith("python -m ")


def test_lines_of_the_log_are_shown_whole_however_they_arrive(run_on):
    shown = run_on(Cluster([["fir", "st\nsec", "ond\n", "no end"]], ["SUCCEEDED"]))
    assert shown[1:-1] == ["first", "second", "no end"]


def test_a_lost_connection_is_taken_up_again_and_no_line_is_shown_twice(run_on):
    # Ray sends the log from its beginning each time it is asked.
    looks = [
        ["one\ntw", ConnectionResetError("gone")],
        ["one\n", "two\nth", RuntimeError("WebSocket closed")],
        ["one\ntwo\n", "three\n"],
    ]
    shown = run_on(Cluster(looks, ["SUCCEEDED"]))
    assert shown[1:-1] == ["one", "two", "three"]


def test_a_log_that_ends_before_the_job_does_is_asked_for_again(run_on):
    shown = run_on(Cluster([["one\n"], ["one\ntwo\n"]], ["RUNNING", "SUCCEEDED"]))
    assert shown[1:-1] == ["one", "two"]


def test_a_cluster_that_is_gone_ends_the_command_with_what_to_do(run_on):
    cluster = Cluster([[ConnectionRefusedError("refused")]], [])
    with pytest.raises(SpectraScaleError, match=r"lost the connection.*submit the same job again"):
        run_on(cluster)
    assert cluster.looks == module.RETRIES + 1


def test_the_error_of_a_failed_job_ends_with_the_last_lines_of_its_log(run_on):
    lines = [f"line {i}\n" for i in range(100)] + ["error: found nothing at x.fits\n"]
    cluster = Cluster([lines], ["FAILED"], "exit code 2, last available logs (20,000 chars):\nx")
    with pytest.raises(SpectraScaleError) as error:
        run_on(cluster)
    text = str(error.value)
    assert "failed (exit code 2)" in text
    assert "found nothing at x.fits" in text
    assert "line 99" in text
    assert "line 79" not in text
    assert "submit the same job again" in text


def test_a_head_without_the_package_is_told_apart(run_on):
    cluster = Cluster([["python: No module named spectra_scale\n"]], ["FAILED"])
    with pytest.raises(SpectraScaleError, match="Install spectra_scale in the environment"):
        run_on(cluster)


def test_a_stopped_job_is_an_error_of_its_own(run_on):
    with pytest.raises(SpectraScaleError, match="was stopped"):
        run_on(Cluster([["x\n"]], ["STOPPED"]))


def test_interrupting_says_how_to_follow_or_stop_the_job(monkeypatch):
    cluster = Cluster([["one\n", KeyboardInterrupt()]], [])
    monkeypatch.setattr(module, "_connect", lambda _: cluster)
    shown: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        submit(read_job(DEMO), ADDRESS, echo=shown.append)
    assert "ray job logs --follow job-of-ray" in shown[-1]
    assert "ray job stop job-of-ray" in shown[-1]


def test_without_follow_the_command_ends_at_once(run_on):
    cluster = Cluster([[]], [])
    shown = run_on(cluster, follow=False)
    assert cluster.looks == 0
    assert "ray job logs --follow job-of-ray" in shown[-1]


def test_two_jobs_never_write_one_run(run_on, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    out = str(tmp_path / "runs" / "demo")
    with pytest.raises(UsageError, match=r"job0 on .* is writing"):
        run_on(Cluster([[]], ["SUCCEEDED"], running=[(out, "RUNNING")]))
    run_on(Cluster([[]], ["SUCCEEDED"], running=[(out, "FAILED"), ("/other", "RUNNING")]))


@contextmanager
def ray_head(folder: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head of this test alone: own ports, own token, ended by its process group."""
    port, dashboard, client, agent = (free_port() for _ in range(4))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={folder}",
        f"--port={port}", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
    ]  # fmt: skip
    head = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(address, head)
        yield address, environment
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def wait_for(address: str, head: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and head.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=1).close()
        except urllib.error.HTTPError as error:
            error.close()
            return  # it asks for the token: it is up
        except OSError:
            time.sleep(0.3)
        else:
            return
    pytest.fail(f"the Ray head did not come up (exit code {head.poll()})")


TINY = {
    "mock.n_spectra": 400, "mock.n_spec_files": 10, "prepare.n_pixels": 200,
    "prepare.min_snr": 10.0, "train.hidden": [32], "train.epochs": 2, "train.batch_size": 64,
    "train.workers": 1, "density.n_iterations": 5, "density.subsample": 200,
    "density.max_steps": 10, "embed.n_epochs": 20, "stack.n_bootstrap": 2,
    "compute.shard_rows": 128, "compute.chunk_rows": 64,
}  # fmt: skip


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_runs_to_its_report_on_a_real_ray_cluster(tmp_path):
    options = [f"--set={name}={value}" for name, value in TINY.items()]
    command = [sys.executable, "-m", "spectra_scale.cli", "submit", str(DEMO), *options]
    # A socket's path has at most 107 letters, and pytest's folders are long.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as own,
        ray_head(own) as (address, environment),
    ):
        command += ["--address", address]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        stranger = environment | {"RAY_AUTH_TOKEN": "0" * 32}
        refused = subprocess.run(
            command, cwd=tmp_path, env=stranger, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "demo"
    assert (run / "report" / "index.html").is_file()
    # The cluster's own log came through: its driver saw the cluster, and the last stage ended.
    assert "ray address=" in done.stdout
    assert "report: done" in done.stdout
    assert refused.returncode == 2
    assert "RAY_AUTH_TOKEN" in refused.stderr
