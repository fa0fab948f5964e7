"""What the report's sections share: a figure with its caption, and how a spectrum is named."""

from __future__ import annotations

from matplotlib.figure import Figure

from spectra_scale.figures.page import FigureItem, png_of
from spectra_scale.stages.report.gather import Objects

FLUX_UNIT = "flux / normalisation"


def item(number: str, figure: Figure, caption: str) -> FigureItem:
    """Make an item; `number` is that of the figure in the paper, or empty."""
    where = f" (the paper's figure {number})" if number else ""
    return FigureItem(caption=f"{caption}{where}", png=png_of(figure), alt=caption)


def key_of(objects: Objects, row: int) -> str:
    """Key of a row."""
    return str(objects.index["spectrum_key"][int(row)].as_py())


def title_of(objects: Objects, row: int) -> str:
    """Key, redshift and log p of a row, for above a spectrum."""
    return (
        f"{key_of(objects, row).removeprefix('sdss:')}  z={objects.z[row]:.3f}  "
        f"log p={objects.log_prob[row]:.1f}"
    )
