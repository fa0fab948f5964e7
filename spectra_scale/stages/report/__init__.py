"""Report: one self-contained HTML page with the paper's figures 1-7 and 9-14, and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spectra_scale.config import Job, changed_settings
from spectra_scale.provenance import write_bytes
from spectra_scale.stages.report.gather import ReportInputs
from spectra_scale.store.artifact import Artifact, Recipe, begin, finish

__all__ = ["PAGE", "ReportInputs", "recipe", "run"]

VERSION = 3
KIND = "report"
PAGE = "index.html"


def recipe(job: Job, parents: dict[str, str]) -> Recipe:
    """What the report is made from."""
    settings: dict[str, Any] = changed_settings(job.report) | {"name": job.name}
    settings.pop("composite", None)  # its checksum is among the parents
    return Recipe(KIND, VERSION, settings, parents)


def run(inputs: ReportInputs, job: Job, out: Path, recipe: Recipe) -> Artifact:
    """Write the report.

    Parameters
    ----------
    inputs
        The run and its artifacts.
    job
        The job, for its name and what to draw.
    out
        Directory of the artifact: ``index.html`` and each figure as ``figures/NN.png``.
    recipe
        What it is made from.
    """
    done = begin(out, recipe)
    if done:
        return done
    from spectra_scale.figures.page import render_page
    from spectra_scale.stages.report.sections import all_sections

    sections = list(all_sections(inputs, job))
    counts = inputs.artifacts["prepare"].counts
    facts = {
        "spectra": counts["kept"],
        "releases": ", ".join(release.name for release in inputs.releases),
        "χ² per valid pixel, validation": _chi2(inputs),
    }
    title = job.report.title or job.name
    page = render_page(title, "From survey files to a map of spectra", facts, sections)
    figures = [item for section in sections for item in section.figures]
    for number, item in enumerate(figures):
        write_bytes(out / "figures" / f"{number:02d}.png", item.png)
    write_bytes(out / PAGE, page.encode())
    return finish(out, recipe, counts={"figures": len(figures), "sections": len(sections)})


def _chi2(inputs: ReportInputs) -> float | None:
    found = inputs.artifacts["encode"].metrics.get("validation", {}).get("all")
    return None if found is None else float(found["chi2_valid"])
