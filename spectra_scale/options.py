"""Options and arguments of the command line that several commands have, or that are long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(help="Job file (TOML).", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="Directory of a run.", show_default=False)]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: path=value, repeatable.")
]
Source = Annotated[
    list[Path] | None, typer.Option("--source", help="Folder of survey files, repeatable.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Directory of the results.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Spectra of each release, at most.")]

# Of `mock`.
SpecFiles = Annotated[
    int | None, typer.Option(help="Of these, as single files. (default: 200, if so many)")
]
BossFraction = Annotated[float | None, typer.Option(help="Share of BOSS spectra. (default: 0.25)")]
DesiFraction = Annotated[float | None, typer.Option(help="Share of DESI spectra. (default: 0)")]
SdssvFraction = Annotated[float | None, typer.Option(help="Share of SDSS-V spectra. (default: 0)")]
SdssvRelease = Annotated[str, typer.Option(help="Names of SDSS-V files: dr18, dr19 or dr20.")]
OneSurvey = Annotated[
    str | None, typer.Option(help="One survey only: sdss (legacy), boss, desi or sdssv.")
]
Plates = Annotated[
    str | None, typer.Option(help="Write these plates only: 266,267.", show_default=False)
]
Healpix = Annotated[
    str | None, typer.Option(help="Write these healpixels only: 9144.", show_default=False)
]
Compare = Annotated[
    Path | None,
    typer.Option(help="Real SDSS files: write a page beside them.", show_default=False),
]

# Of `scaling`.
OwnJobFile = Annotated[
    Path | None, typer.Argument(help="Job file (TOML); without, a mock release is measured.")
]
Stages = Annotated[str | None, typer.Option(help="ingest, train, encode: those to measure.")]
Mode = Annotated[str | None, typer.Option(help="weak, strong or weak,strong.")]
WorkerNumbers = Annotated[str | None, typer.Option(help="Numbers of workers: 1,2,4.")]
