"""What is measured on: the job's release and sample, repeated to the sizes that are asked for."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spectra_scale.compute.place import Place, open_place
from spectra_scale.config import Job, ReleaseSection, TrainSection
from spectra_scale.errors import UsageError
from spectra_scale.planning import check, make_plan
from spectra_scale.scaling.plan import WARM_ROWS, Measurement, settings_digest
from spectra_scale.stages import ingest, label, mock, prepare, train
from spectra_scale.store.arrays import (
    Layout,
    add_coordinate,
    create_arrays,
    list_shards,
    publish_arrays,
    shards_of,
    write_shard,
)
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish, open_artifact
from spectra_scale.store.sample import Sample
from spectra_scale.store.schema import DROPPED, INDEX, SAMPLE_ARRAYS
from spectra_scale.store.tables import write_table
from spectra_scale.surveys.release import Release

#: Canonical columns of a catalogue under the names of specObj, as the repeated plates have them.
_SPECOBJ = {"plate": "PLATE", "mjd": "MJD", "fiber": "FIBERID", "ra": "PLUG_RA", "dec": "PLUG_DEC",
            "z": "Z", "z_err": "Z_ERR", "zwarning": "ZWARNING", "class": "CLASS",
            "subclass": "SUBCLASS", "reduction": "RUN2D"}  # fmt: skip
#: Number of the first repeated plate, and the spectra at least held out from training.
FIRST_PLATE, HELD_OUT = 1000, 64
#: A measurement trains few epochs, all alike, to their end.
WHOLE_RUN = {"warmup_epochs": 0.0, "inpaint_epochs": 0, "patience": 0, "checkpoint_every": 1}


def folder(job: Job) -> Path:
    """Where the inputs lie: made once, used by every measurement."""
    return job.out / "inputs"


def _plates_path(job: Job, rows: int) -> Path:
    """Plates of so many rows, of the release that these settings make."""
    return folder(job) / f"plates-{rows}-{settings_digest(job, 'ingest')}"


def sample_path(job: Job, stage: str, rows: int) -> Path:
    """Sample of a stage with so many rows."""
    return folder(job) / f"{stage}-{rows}"


def model_path(job: Job) -> Path:
    """The auto-encoder that encode uses."""
    return folder(job) / "autoencoder"


def plates_section(job: Job, rows: int) -> ReleaseSection:
    """The release of repeated plates with so many rows."""
    path = _plates_path(job, rows)
    return ReleaseSection(
        name="plates", source=(path / "files",), catalogue=path / "catalogue.parquet"
    )


def layout(job: Job) -> Layout:
    """Rows of tasks and chunks that are measured."""
    return Layout(job.scaling.shard_rows, job.compute.chunk_rows)


def make_inputs(job: Job, wanted: Sequence[Measurement]) -> None:
    """Make what the measurements read, and keep what is there.

    Parameters
    ----------
    job
        Whose release and sample are made as `run` would, and repeated.
    wanted
        Measurements that are to be run.

    Raises
    ------
    UsageError
        If ingest is asked for, and the release has no spPlate files.
    """
    with open_place(job.compute) as place:
        release, sample = _base(job, place)
        for rows in sorted({each.rows for each in wanted if each.stage == "ingest"}):
            _write_plates(job, release, rows)
        for rows in sorted({each.rows for each in wanted if each.stage == "train"}):
            held_out = max(rows // 8, HELD_OUT)
            _write_sample(sample_path(job, "train", rows), sample, (rows, held_out), layout(job))
        encoded = [each for each in wanted if each.stage == "encode"]
        for rows in sorted({each.rows for each in encoded}):
            split = (rows - rows // 8, rows // 8)
            _write_sample(sample_path(job, "encode", rows), sample, split, layout(job))
        for rows in sorted({each.workers * WARM_ROWS for each in encoded}):
            split = (rows - rows // 8, rows // 8)
            warm = Layout(WARM_ROWS, WARM_ROWS)
            _write_sample(sample_path(job, "warm", rows), sample, split, warm)
        if encoded:
            _train_model(job, sample, place)


def _base(job: Job, place: Place) -> tuple[Release, Sample]:
    """The first release of the job, and the sample of all of them, as `run` makes them."""
    check(job)
    if job.mock is not None:
        mock.run(job.mock, place)
    plan = make_plan(job)
    plan.refuse_stale()
    releases = [
        Release(ingest.run(piece, job.ingest, place), piece.inventory.roots)
        for piece in plan.pieces.values()
    ]
    if not releases:
        msg = "scaling: found releases without source, expected survey files. Give a source."
        raise UsageError(msg)
    labels = label.run(releases, job.label, place, plan.path("label"), plan.recipes["label"])
    inputs = prepare.PrepareInputs(releases, labels)
    made = prepare.run(inputs, job.prepare, place, plan.path("prepare"), plan.recipes["prepare"])
    return releases[0], Sample(made)


# Plates -----------------------------------------------------------------------------------------


def _write_plates(job: Job, release: Release, rows: int) -> None:
    """Plate files under further numbers, linked, with a catalogue of exactly so many rows.

    So a large release takes no more time to make, and no more room, than a small one.
    """
    path = _plates_path(job, rows)
    if path.is_dir():
        return
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "files").mkdir(parents=True)
    table = release.catalogue
    plates = _plates(release, table)
    parts, total, number = [], 0, FIRST_PLATE
    while total < rows:
        for file, theirs in plates:
            _link(file, partial / "files" / f"spPlate-{number:04d}-{theirs['mjd'][0]}.fits")
            numbers = pa.array(np.full(theirs.num_rows, number, np.int32))
            at = theirs.schema.get_field_index("plate")
            parts.append(theirs.set_column(at, "plate", numbers))
            total, number = total + theirs.num_rows, number + 1
            if total >= rows:
                break
    catalogue = pa.concat_tables(parts).slice(0, rows).select(list(_SPECOBJ))
    catalogue = catalogue.rename_columns(list(_SPECOBJ.values())).combine_chunks()
    write_table(partial / "catalogue.parquet", catalogue)
    partial.rename(path)


def _plates(release: Release, table: pa.Table) -> list[tuple[Path, pa.Table]]:
    """The spPlate files of a release, and the rows of each that have a spectrum there."""
    table = table.filter(pc.and_(pc.equal(table["source_format"], "spplate"),
                                 pc.equal(table["status"], "kept")))  # fmt: skip
    found = []
    for name in sorted(set(table["source_file"].to_pylist())):
        file = next((root / name for root in release.roots if (root / name).is_file()), None)
        if file is not None and re.fullmatch(r"spPlate-\d+-\d+\.fits", file.name):
            found.append((file, table.filter(pc.equal(table["source_file"], name))))
    if not found:
        msg = (
            f"scaling of ingest reads spPlate files; found none in release {release.name}, "
            f"{release.path}. Give a release that has them, or --stages train,encode."
        )
        raise UsageError(msg)
    return found


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file.resolve(), name)
    except OSError:
        # Another disk, or one without hard links.
        shutil.copyfile(file, name)


# Samples ----------------------------------------------------------------------------------------


def _write_sample(out: Path, base: Sample, split: tuple[int, int], how: Layout) -> Sample:
    """The rows of a sample again and again, with exact numbers to train and to validate."""
    rows = sum(split)
    settings = {"rows": list(split), "layout": [how.shard_rows, how.chunk_rows]}
    recipe = Recipe("prepare", prepare.VERSION, settings, {"repeats": base.artifact.fingerprint})
    done = begin(out, recipe)
    if done:
        return Sample(done)
    arrays = out / "arrays"
    create_arrays(arrays, SAMPLE_ARRAYS, (rows, base.grid.n_pixels), how, {})
    add_coordinate(arrays, "wavelength", base.grid.centres, "Angstrom")
    shards = shards_of(rows, how.shard_rows)
    flux, ivar = base.read(slice(0, base.n_rows))
    source = np.arange(rows) % base.n_rows
    for shard in shards:
        write_shard(arrays, "flux", shard, flux[source[shard.rows]])
        write_shard(arrays, "ivar", shard, ivar[source[shard.rows]])
    listed = list_shards(arrays, SAMPLE_ARRAYS, shards)
    publish_arrays(arrays, listed, out / "shards.parquet")
    write_table(out / "index.parquet", _index(base, source, split))
    write_table(out / "dropped.parquet", DROPPED.arrow().empty_table())
    counts = {"rows in": rows, "kept": rows, "dropped": 0}
    return Sample(finish(out, recipe, counts=counts, metrics=base.artifact.metrics))


def _index(base: Sample, source: NDArray[np.int64], split: tuple[int, int]) -> pa.Table:
    rows = len(source)
    names = np.full(rows, "train", dtype=object)
    # Spread evenly, as they are in a real sample: every shard has rows of both.
    names[np.linspace(0, rows - 1, split[1]).astype(int)] = "validation"
    changed = {
        "release": pa.array(["repeated"] * rows),
        "row": pa.array(np.arange(rows)),
        "split": pa.array(names.tolist()),
        "superseded": pa.array(np.zeros(rows, bool)),
    }
    table = base.index.take(pa.array(source))
    for name, values in changed.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table.cast(INDEX.arrow()).combine_chunks()


def _train_model(job: Job, sample: Sample, place: Place) -> Artifact:
    """An auto-encoder of the job's shape: one epoch, since its weights cost what others do."""
    config = job.train.model_copy(
        update=WHOLE_RUN | {"epochs": 1, "engine": "local", "batch_size": 256}
    )
    inputs = train.TrainInputs(sample, job.compute)
    recipe = train.recipe(sample.artifact.fingerprint, config)
    return train.run(inputs, config, place, model_path(job), recipe)


def open_input_sample(job: Job, stage: str, rows: int) -> Sample:
    """A sample that `make_inputs` has made."""
    return Sample(open_artifact(sample_path(job, stage, rows)))


def training_section(job: Job, measurement: Measurement) -> TrainSection:
    """`[train]` as it is measured: on Ray, with the workers and the batch of a measurement."""
    update = {
        "engine": "ray",
        "workers": measurement.workers,
        "epochs": job.scaling.epochs,
        "batch_size": measurement.batch,
        # A group that is restarted would be measured twice.
        "max_failures": 0,
        "checkpoint_every": job.scaling.epochs,
    }
    return job.train.model_copy(update=WHOLE_RUN | update)


def read_through(path: Path) -> None:
    """Read all files of a folder once, so that every measurement finds them in the page cache."""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as handle:
                while handle.read(2**24):
                    pass
