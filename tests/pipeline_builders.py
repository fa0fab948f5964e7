"""Small releases, samples and jobs for the tests of what lies above surveys and models."""

import hashlib
import json
import shutil
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import tomli_w

from spectra_scale.compute.place import Here
from spectra_scale.config import IngestSection, LabelSection, PrepareSection, ReleaseSection
from spectra_scale.jobfile import make_job
from spectra_scale.mock.plates import write_plate
from spectra_scale.mock.release import CATALOGUE_FILE, LINES_FILE, finish, is_complete
from spectra_scale.mock.settings import MockSettings, plan
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.stages import ingest, label, prepare
from spectra_scale.store import artifact
from spectra_scale.store.arrays import (
    Layout,
    add_coordinate,
    create_arrays,
    list_shards,
    publish_arrays,
    shards_of,
    write_shard,
)
from spectra_scale.store.objects import column
from spectra_scale.store.run import Run
from spectra_scale.store.sample import Sample
from spectra_scale.store.schema import DROPPED, INDEX, SAMPLE_ARRAYS
from spectra_scale.store.tables import write_table
from spectra_scale.surveys.release import Release

COMMAND = [sys.executable, "-m", "spectra_scale.cli"]
SMALL = Layout(64, 32)
RELEASE_FACTS = ("catalogue.parquet", "lines.parquet", "ledger.parquet")


def write_mock(folder, n=120, n_spec=24, **settings):
    """A mock release as survey files."""
    chosen = MockSettings(n_spectra=n, n_spec_files=n_spec, **settings)
    if not is_complete(folder, chosen):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tasks = plan(chosen)
        for task in tasks:
            write_plate(task, Path(folder), chosen)
        finish(Path(folder), tasks, chosen)
    return Path(folder)


def ingest_all(out, source, name="mock", catalogue=None, *, place=None, limit=None, survey="auto",
               **settings):  # fmt: skip
    """Ingest a folder (or several) as `pipeline` does: the release, and its revisions."""
    sources = source if isinstance(source, list) else [source]
    section = ReleaseSection(name=name, source=tuple(sources), catalogue=catalogue, survey=survey)
    config = IngestSection(**settings)
    wanted = ingest.Settings(config, limit, SMALL)
    pieces = ingest.pieces_of(section, Path(out), ingest.look(section), wanted)
    for piece in pieces:
        if not piece.restart:
            artifact.refuse_stale(piece.path, piece.recipe)
    return [
        Release(ingest.run(piece, config, place or Here()), piece.inventory.roots)
        for piece in pieces
    ]


def ingest_release(out, source, name="mock", catalogue=None, **settings):
    """Ingest a folder (or several) as `pipeline` does; its newest revision."""
    return ingest_all(out, source, name, catalogue, **settings)[-1]


@dataclass
class Prepared:
    """What `prepare_sample` needs, so that a test can stop it and start it again."""

    releases: list
    labels: artifact.Artifact
    settings: PrepareSection
    layout: Layout = SMALL
    recipe: artifact.Recipe = field(init=False)

    def __post_init__(self):
        prints = {r.name: r.artifact.fingerprint for r in self.releases}
        self.recipe = prepare.recipe(prints, self.labels.fingerprint, self.settings, self.layout)

    def run(self, out, place=None):
        inputs = prepare.PrepareInputs(self.releases, self.labels)
        return Sample(prepare.run(inputs, self.settings, place or Here(), Path(out), self.recipe))


def label_releases(out, releases, lines=(), place=None):
    config = LabelSection(lines=tuple(lines))
    recipe = label.recipe({r.name: r.artifact.fingerprint for r in releases}, config)
    return label.run(releases, config, place or Here(), Path(out), recipe)


def prepare_sample(folder, releases, lines=(), place=None, **settings):
    """Label releases and make a sample of them, in `folder`."""
    labels = label_releases(Path(folder) / "labels", releases, lines, place)
    prepared = Prepared(list(releases), labels, PrepareSection(**settings))
    return prepared.run(Path(folder) / "sample", place)


def index_of(n, release="made", **columns):
    """An index of `n` rows, every fourth of them in the validation split."""
    made = {
        "release": [release] * n,
        "row": np.arange(n),
        "spectrum_key": [f"sdss:{266 + i // 640}-51602-{1 + i % 640}" for i in range(n)],
        "split": ["validation" if i % 4 == 3 else "train" for i in range(n)],
        "sky_id": np.arange(n),
        "primary": np.ones(n, bool),
        "superseded": np.zeros(n, bool),
        "label": (np.arange(n) % 7).astype("i1"),
        "ra": np.linspace(10.0, 20.0, n),
        "dec": np.linspace(-5.0, 5.0, n),
        "z": np.linspace(0.05, 0.36, n),
        "masked_fraction": np.zeros(n),
    } | columns
    zeros = {f.name: [""] * n if f.type == pa.string() else np.zeros(n) for f in INDEX.arrow()}
    return pa.table(zeros | made).cast(INDEX.arrow())


def make_sample(out, flux, ivar, layout=SMALL, index=None, preset="conserve", **columns):
    """A finished sample of given spectra."""
    flux, ivar = np.asarray(flux, "f4"), np.asarray(ivar, "f4")
    n, n_pixels = flux.shape
    digest = hashlib.blake2b(flux.tobytes() + ivar.tobytes()).hexdigest()
    recipe = artifact.Recipe("prepare", 1, {}, {"made": digest})
    assert artifact.begin(Path(out), recipe) is None
    arrays = Path(out) / "arrays"
    create_arrays(arrays, SAMPLE_ARRAYS, flux.shape, layout, {})
    add_coordinate(arrays, "wavelength", WavelengthGrid.rest_frame(n_pixels).centres, "Angstrom")
    shards = shards_of(n, layout.shard_rows)
    for shard in shards:
        write_shard(arrays, "flux", shard, flux[shard.rows])
        write_shard(arrays, "ivar", shard, ivar[shard.rows])
    listed = list_shards(arrays, SAMPLE_ARRAYS, shards)
    publish_arrays(arrays, listed, Path(out) / "shards.parquet")
    if index is None:
        index = index_of(n, **({"masked_fraction": (ivar == 0).mean(axis=1)} | columns))
    write_table(Path(out) / "index.parquet", index)
    write_table(Path(out) / "dropped.parquet", DROPPED.arrow().empty_table())
    counts = {"rows in": n, "kept": n, "dropped": 0}
    metrics = {"preset": preset, "n_pixels": n_pixels, "unit": ""}
    return Sample(artifact.finish(Path(out), recipe, counts=counts, metrics=metrics))


def low_rank_spectra(n, n_pixels=60, seed=1):
    """Spectra of three hidden quantities with unit noise; one pixel in twenty is missing."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, n_pixels)
    shapes = np.stack([np.ones(n_pixels), np.sin(4 * x), np.exp(-(((x - 0.5) / 0.05) ** 2))])
    hidden = np.column_stack([rng.uniform(15, 40, n), rng.normal(0, 4, n), rng.normal(0, 6, n)])
    ivar = np.where(rng.random((n, n_pixels)) < 0.05, 0, 1).astype("f4")
    flux = (hidden @ shapes + rng.normal(0, 1, (n, n_pixels))).astype("f4")
    return np.where(ivar > 0, flux, 0).astype("f4"), ivar


def digests(folder, suffixes=(), without=("manifest.json", "started.json", "run.log")):
    """Checksum of every file below a folder, by its relative path."""
    return {
        p.relative_to(folder).as_posix(): hashlib.blake2b(p.read_bytes()).hexdigest()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file() and p.name not in without and (not suffixes or p.suffix in suffixes)
    }


class Killed(BaseException):
    """As SIGKILL, no code of the program catches it."""


class DyingPlace:
    """Runs tasks one by one and is killed before task number `after` of all its batches."""

    name = "dying"

    def __init__(self, after):
        self.left = after

    def map(self, task, items, work):
        results = []
        for item in items:
            if self.left == 0:
                raise Killed
            self.left -= 1
            results.append(task(item))
        return results


def tiny_job(folder, **changes):
    """Settings of a job that goes through every stage in seconds; tables are merged."""
    folder = Path(folder)
    data = {
        "name": "tiny",
        "out": str(folder / "run"),
        "mock": {"path": str(folder / "mock"), "n_spectra": 400, "n_spec_files": 40},
        "release": [
            {
                "name": "mock",
                "source": [str(folder / "mock")],
                "catalogue": str(folder / "mock" / CATALOGUE_FILE),
            }
        ],
        "label": {"lines": [str(folder / "mock" / LINES_FILE)]},
        "train": {
            "epochs": 3,
            "batch_size": 64,
            "hidden": [48, 24],
            "n_latent": 5,
            "engine": "local",
            "initial": "linear",
            "fill": "linear",
            "learning_rate": 3e-4,
            "checkpoint_every": 1,
        },
        "density": {"n_iterations": 5, "conditional_layers": 3},
        "embed": {"n_epochs": 20},
        "stack": {"n_bootstrap": 10},
        "compute": {"engine": "serial", "shard_rows": 128, "chunk_rows": 64},
    }
    for name, value in changes.items():
        merge = isinstance(data.get(name), dict) and value is not None
        data[name] = data[name] | value if merge else value
    return {name: value for name, value in data.items() if value is not None}


def write_job(path, data):
    Path(path).write_text(tomli_w.dumps(data))
    return Path(path)


def job_of(data):
    # Through TOML, as the command line gets it.
    return make_job(tomllib.loads(tomli_w.dumps(data)), "test")


def manifest(folder):
    return json.loads((Path(folder) / "manifest.json").read_text())


def keys_of(table):
    return column(table, "spectrum_key").tolist()


def copy_of_run(run, folder):
    """A copy of a run that can be changed."""
    shutil.copytree(run.path, Path(folder) / "run", symlinks=True)
    return Run(Path(folder) / "run")
