"""The command line: `spectra-scale`. Only `cli`, `cli_density` and `terminal` print."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from spectra_scale import cli_density, options
from spectra_scale.compute.progress import log_to_terminal
from spectra_scale.config import ComputeSection, Job, MockSection
from spectra_scale.errors import SpectraScaleError, UsageError, explain_system_error
from spectra_scale.jobfile import make_job, read_job
from spectra_scale.options import JobFile, Limit, Out, RunPath, Setting, Source
from spectra_scale.terminal import print_table

log = logging.getLogger(__name__)
app = typer.Typer(
    help="From the files of a spectroscopic survey release to a map of its spectra.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _job(
    path: Path,
    settings: Sequence[str] | None,
    source: Sequence[Path] | None = None,
    out: Path | None = None,
    limit: int | None = None,
) -> Job:
    changes = list(settings or ())
    if limit is not None:
        changes.append(f"limit={limit}")
    return read_job(path, changes, list(source or ()), out)


@app.command()
def run(
    job: JobFile,
    settings: Setting = None,
    source: Source = None,
    out: Out = None,
    limit: Limit = None,
) -> None:
    """Run a job through every stage that is not done already."""
    wanted = _job(job, settings, source, out, limit)
    from spectra_scale.pipeline import run_job
    from spectra_scale.stages.report import PAGE

    done = run_job(wanted)
    typer.echo(f"report: {done.folder('report') / PAGE}")


@app.command()
def plan(
    job: JobFile,
    settings: Setting = None,
    source: Source = None,
    out: Out = None,
    limit: Limit = None,
) -> None:
    """Say what a job would do: stages, files, rows, bytes on disk. Nothing is written."""
    wanted = _job(job, settings, source, out, limit)
    from spectra_scale.estimate import estimate
    from spectra_scale.planning import check

    check(wanted)
    _print_estimate(wanted, estimate(wanted))


def _print_estimate(wanted: Job, found: Any) -> None:
    title = f"{wanted.name} -> {wanted.out}"
    print_table(("stage", "state"), list(found.states.items()), title)
    for name, value in found.facts.items():
        typer.echo(f"{name}: {value}")
    if found.problem:
        raise SpectraScaleError(found.problem)


@app.command()
def status(path: RunPath) -> None:
    """Say what a run, a release or a sample holds."""
    from spectra_scale.status import card_lines, release_lines, status_rows

    print_table(("artifact", "state", "made", "rows and figures"), status_rows(path))
    for line in (*release_lines(path), *card_lines(path)):
        typer.echo(line)


@app.command()
def verify(
    path: RunPath,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read.")] = 2,
    sources: Annotated[
        str,
        typer.Option(help="Spectra of a release to compare with the survey's files: N or all."),
    ] = "0",
) -> None:
    """Check checksums, accounting and the invariants of spectra on disk."""
    from spectra_scale.compute.place import open_place
    from spectra_scale.verify import verify as verify_all

    if sources != "all" and not sources.isdecimal():
        message = f"--sources {sources}: expected a number of spectra, or all."
        raise UsageError(message)
    with open_place(ComputeSection(workers=workers)) as place:
        checks = verify_all(path, place, "all" if sources == "all" else int(sources))
    for check in checks:
        typer.echo(f"{'FAILED' if check.problem else 'ok':6} {check.what}")
        if check.problem:
            typer.echo(f"       {check.problem}")
    bad = sum(bool(check.problem) for check in checks)
    typer.echo(f"{len(checks)} checks, {bad} failed")
    if bad:
        raise typer.Exit(1)


@app.command()
def clean(
    job: JobFile,
    settings: Setting = None,
    source: Source = None,
    out: Out = None,
    limit: Limit = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Delete what a run holds that was made from other settings than the job's."""
    from spectra_scale.planning import check, make_plan, stale
    from spectra_scale.store.artifact import remove

    wanted = _job(job, settings, source, out, limit)
    check(wanted)
    found = stale(make_plan(wanted))
    for path in found:
        typer.echo(path)
    if not found:
        typer.echo("nothing is stale")
    elif yes or typer.confirm(f"Delete these {len(found)} directories?"):
        for path in found:
            remove(path)


@app.command()
def ingest(
    name: Annotated[str, typer.Argument(help="Name of the release.", show_default=False)],
    source: Annotated[list[Path], typer.Argument(help="Folders of survey files.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the release.")],
    catalogue: Annotated[
        Path | None, typer.Option(help="specObj, spAll, CAS, zall-pix or Parquet catalogue.")
    ] = None,
    survey: Annotated[str, typer.Option(help="auto, sdss or desi: whose spectra.")] = "auto",
    copy: Annotated[
        bool, typer.Option(help="Store the spectra; without, only where they are.")
    ] = True,
    limit: Limit = None,
    engine: Annotated[str, typer.Option(help="serial, threads, processes, distributed, ray")] = (
        "threads"
    ),
    workers: Annotated[int, typer.Option(help="Workers of the engine.")] = 2,
    address: Annotated[
        str | None, typer.Option(help="Of a Dask scheduler or Ray cluster.", show_default=False)
    ] = None,
    settings: Setting = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Say what would be done, and do nothing.")
    ] = False,
) -> None:
    """Ingest the files of a survey release: what is new in the folders, and nothing else.

    Given again, it does nothing; files that came since become a revision, NAME.1, beside it.
    """
    from spectra_scale.jobfile import ingest_job

    section = {"name": name, "source": source, "path": out, "catalogue": catalogue,
               "survey": survey}  # fmt: skip
    compute = {"engine": engine, "workers": workers,
               "ray_address" if engine == "ray" else "address": address}  # fmt: skip
    job = ingest_job(section, compute, copy=copy, limit=limit, settings=settings or ())
    if plan_only:
        from spectra_scale.estimate import estimate_ingest

        _print_estimate(job, estimate_ingest(job))
        return
    from spectra_scale.pipeline import ingest_releases

    for release in ingest_releases(job):
        _print_release(release)


def _print_release(release: Any) -> None:
    typer.echo(f"release {release.name}: {release.path}")
    for key, value in release.artifact.counts.items():
        if isinstance(value, dict):
            for inner, number in value.items():
                typer.echo(f"  {key}: {inner} {number:,}")
        else:
            typer.echo(f"  {key}: {value:,}")


@app.command()
def mock(
    path: Annotated[Path, typer.Argument(help="Folder to write to.", show_default=False)],
    n: Annotated[int, typer.Option("--n", help="Spectra.")] = 5000,
    spec_files: options.SpecFiles = None,
    full_files: Annotated[int, typer.Option(help="Of these, with all exposures.")] = 0,
    boss_fraction: options.BossFraction = None,
    desi_fraction: options.DesiFraction = None,
    sdssv_fraction: options.SdssvFraction = None,
    sdssv_release: options.SdssvRelease = "dr19",
    survey: options.OneSurvey = None,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 1,
    plates: options.Plates = None,
    healpix: options.Healpix = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    compare: options.Compare = None,
) -> None:
    """Write a mock release in the formats of SDSS, SDSS-V and DESI, with the truth beside it."""
    if compare is not None and not compare.is_dir():
        message = f"--compare {compare}: no such folder; expected one with real SDSS files."
        raise UsageError(message)
    from spectra_scale.compare.command import read_beside, write_beside
    from spectra_scale.compute.place import open_place
    from spectra_scale.mock.settings import chosen_fractions, default_spec_files, whole_numbers
    from spectra_scale.stages import mock as stage

    shares = chosen_fractions(survey, boss_fraction, desi_fraction, sdssv_fraction)
    others = shares["desi_fraction"], shares["sdssv_fraction"]
    n_spec = default_spec_files(n, *others) if spec_files is None else spec_files
    values: dict[str, Any] = {
        "path": path,
        "n_spectra": n,
        "n_spec_files": n_spec,
        "n_full_files": full_files,
        "seed": seed,
        "sdssv_release": sdssv_release,
        "plates": whole_numbers("--plates", plates),
        "healpix": whole_numbers("--healpix", healpix),
    } | shares
    job = make_job({"name": "mock", "out": "mock", "mock": values,
                    "release": [{"name": "mock"}]}, "mock")  # fmt: skip
    section: MockSection | None = job.mock
    assert section is not None
    stage.check(section)
    real = None if compare is None else read_beside(section, compare, _tell)
    with open_place(ComputeSection(workers=workers)) as place:
        counts = stage.run(section, place)
    typer.echo(f"{path}: " + (", ".join(f"{v:,} {k}" for k, v in counts.items()) or "was there"))
    if real is not None:
        for line in write_beside(path, real, _tell):
            typer.echo(line)


def _tell(text: str) -> None:
    """Progress: not among what other programs may read."""
    typer.echo(text, err=True)


@app.command()
def apply(
    run_path: RunPath,
    target: Annotated[Path, typer.Argument(help="Release, folder, or one spectrum file.")],
    out: Out = None,
    catalogue: Annotated[Path | None, typer.Option(help="Catalogue of the folder.")] = None,
    lines: Annotated[list[Path] | None, typer.Option(help="Line tables.")] = None,
    settings: Setting = None,
) -> None:
    """Use the models of a finished run on new data."""
    from spectra_scale import apply as use
    from spectra_scale.stages.report import PAGE

    use.check_target(target)
    if target.is_file():
        scored = use.apply_to_file(run_path, target)
        for name, value in scored.facts.items():
            typer.echo(f"{name}: {value:.5g}" if isinstance(value, float) else f"{name}: {value}")
        if out is not None:
            use.draw(scored, out)
            typer.echo(f"figure: {out}")
        return
    extra = use.Extra(catalogue, tuple(lines or ()), tuple(settings or ()))
    done = use.apply_to_release(run_path, target, out, extra)
    typer.echo(f"report: {done.folder('report') / PAGE}")


@app.command()
def export(
    run_path: RunPath,
    path: Annotated[
        Path, typer.Argument(help="File: .fits, .parquet, .csv, .vot; .onnx is the auto-encoder.")
    ],
) -> None:
    """Write the joined per-object table of a run, or its auto-encoder as ONNX."""
    from spectra_scale.export import ONNX, export_model
    from spectra_scale.export import export as write
    from spectra_scale.store.run import open_run

    if path.suffix.lower() == ONNX:
        typer.echo(f"{path}: {export_model(open_run(run_path), path):,} bytes")
        return
    typer.echo(f"{path}: {write(open_run(run_path), path):,} rows")


@app.command()
def submit(
    job: JobFile,
    address: Annotated[
        str, typer.Option(help="Of the Ray cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    settings: Setting = None,
    source: Source = None,
    out: Out = None,
    limit: Limit = None,
    follow: Annotated[bool, typer.Option(help="Stream the job's log until it ends.")] = True,
) -> None:
    """Submit a job to a Ray cluster."""
    from spectra_scale.planning import check
    from spectra_scale.submit import submit as send

    wanted = _job(job, settings, source, out, limit)
    check(wanted)
    send(wanted, address, follow=follow, echo=typer.echo)


@app.command()
def scaling(
    job: options.OwnJobFile = None,
    out: Out = None,
    stages: options.Stages = None,
    mode: options.Mode = None,
    workers: options.WorkerNumbers = None,
    rows: Annotated[int | None, typer.Option(help="A worker (weak), in all (strong).")] = None,
    batch: Annotated[int | None, typer.Option(help="Of training, a worker.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of training; the first warms up.")] = None,
    repeats: Annotated[int | None, typer.Option(help="The fastest is shown.")] = None,
    settings: Setting = None,
) -> None:
    """Measure weak and strong scaling of stages on local Ray: a table, a CSV and a figure.

    What is not given is the job's own. The same command again goes on with what is missing.
    """
    from spectra_scale.scaling.plan import command_line, scaling_job

    changes = {"stages": stages, "modes": mode, "workers": workers, "rows": rows,
               "batch": batch, "epochs": epochs, "repeats": repeats}  # fmt: skip
    wanted = scaling_job(job, changes, settings or (), out)
    from spectra_scale.scaling.command import scale
    from spectra_scale.scaling.table import notes, tables

    report = scale(wanted, command_line(job, changes, settings or (), out))
    for title, (names, lines) in tables(report.results).items():
        print_table(names, lines, title)
    for note in notes(report.results):
        typer.echo(note)
    for path in report.files:
        typer.echo(path)


cli_density.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors of ours become a message and an exit code, never a traceback.

    Exit codes: 0 done, 1 the job failed, 2 wrong usage.
    """
    log_to_terminal()
    try:
        app(args=None if arguments is None else list(arguments), standalone_mode=True)
    except SpectraScaleError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        log.debug("what the system said", exc_info=True)
        message, code = explain_system_error(error)
        typer.echo(f"error: {message}", err=True)
        raise SystemExit(code) from None


if __name__ == "__main__":
    main()
