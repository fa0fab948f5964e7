"""Commands on the density and the latents of a finished run: generate, similar, stability."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spectra_scale.errors import UsageError
from spectra_scale.options import Out, RunPath
from spectra_scale.terminal import print_table


def register(app: typer.Typer) -> None:
    """Add the commands to the program's."""
    for command in (generate, similar, stability):
        app.command()(command)


def generate(
    run_path: RunPath,
    n: Annotated[int, typer.Option("--n", min=1, help="Spectra.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same spectra.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="File: .fits or .npz.", show_default=False)
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Of one class, for instance star-forming.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare them with held-out spectra.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the first 16 (PNG).", show_default=False)
    ] = None,
) -> None:
    """Draw spectra that were never observed from the density of a run."""
    if check and label is not None:
        message = "--check with --label: spectra of one class are no sample of all. Leave one out."
        raise UsageError(message)
    if out is None and figure is None and not check:
        message = "nothing to do with the spectra: give --out FILE, --figure FILE or --check."
        raise UsageError(message)
    from spectra_scale import generate as work
    from spectra_scale.models.generate import realism_table
    from spectra_scale.store.run import open_run

    if out is not None:
        work.check_ending(out)
    run = open_run(run_path)
    made = work.generate_spectra(run, n, seed, label)
    if out is not None:
        work.write_generated(out, made)
        typer.echo(f"{out}: {n:,} spectra")
    if figure is not None:
        work.draw_generated(made, figure)
        typer.echo(f"figure: {figure}")
    if check:
        names, rows = realism_table(work.check_generated(run, made, seed))
        print_table(names, rows, "Generated beside held-out spectra")


def similar(
    run_path: RunPath,
    spectrum: Annotated[str, typer.Argument(help="spectrum_key, or a spectrum file.")],
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours.")] = 10,
    metric: Annotated[
        str, typer.Option(help="whitened, noise (of the spectrum's own latents) or raw.")
    ] = "whitened",
    approximate: Annotated[
        bool, typer.Option("--approximate", help="By NN-descent: for many queries of a huge run.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Table: .fits, .parquet, .csv, .vot.", show_default=False),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw them (PNG).", show_default=False)
    ] = None,
) -> None:
    """Find the spectra of a run that are most like one of its own, or like one from a file."""
    from spectra_scale import similar as work
    from spectra_scale.store.run import open_run
    from spectra_scale.store.table_files import check_table_file, write_table_file

    if out is not None:
        check_table_file(out)
    hood = work.Neighbourhood(open_run(run_path), work.metric_of(metric), approximate=approximate)
    found = hood.of(spectrum, k)
    names = ("spectrum", "distance", "z", "class", "label", "log p", "note")
    rows = [
        (r["spectrum_key"], f"{r['distance']:.3f}", f"{r['z']:.4f}", f"{r['class']}",
         r["label_name"], f"{r['log_prob']:.2f}", "same object" if r["same_object"] else "")
        for r in found.table.to_pylist()
    ]  # fmt: skip
    print_table(names, rows, f"Like {found.query.name}")
    if found.query.extrapolated:
        typer.echo(f"extrapolated: {found.query.extrapolated}")
    if out is not None:
        typer.echo(f"{out}: {write_table_file(out, found.table)} rows")
    if figure is not None:
        work.draw_similar(hood, found, figure)
        typer.echo(f"figure: {figure}")


def stability(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs that differ in train.seed.", show_default=False)
    ],
    flow_seeds: Annotated[
        int, typer.Option(min=1, help="Flows of each auto-encoder, the run's own included.")
    ] = 3,
    autoencoder_seeds: Annotated[
        int, typer.Option(min=0, help="Auto-encoders to train besides, as the first run's.")
    ] = 0,
    out: Out = None,
) -> None:
    """Say how far the ranking by log p depends on the seeds of flow and auto-encoder."""
    from spectra_scale import stability as work

    report = work.stability(work.Wanted(runs, out, flow_seeds, autoencoder_seeds))
    names, rows = work.table_of(report)
    print_table(names, rows, "Rankings by log p with other seeds")
    typer.echo(report.verdict)
    for path in report.files:
        typer.echo(path)
