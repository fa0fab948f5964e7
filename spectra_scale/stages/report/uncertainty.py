"""The report's table of how far the uncertainties of latents are right (science.md §6)."""

from __future__ import annotations

from spectra_scale.figures.page import Table
from spectra_scale.store.artifact import Artifact


def uncertainty_tables(encoded: Artifact) -> list[Table]:
    """Widths of pulls before calibration; nothing if there are no covariances.

    Parameters
    ----------
    encoded
        The latents.
    """
    said = encoded.metrics.get("covariance")
    if said is None:
        return []
    rows = []
    for name in ("repeats", "noise realisations", "about the truth"):
        found = said[name]
        by_latent = ", ".join(f"{width:.2f}" for width in found.get("width by latent", ()))
        bias = ", ".join(f"{median:.2f}" for median in found.get("median by latent", ()))
        rows.append([name, found["n"], found.get("width"), by_latent, bias])
    caption = (
        f"Pulls of latents before calibration: the standard deviation of each latent is "
        f"multiplied by its width of {said['from']}"
    )
    return [Table(caption, ["pulls of", "pairs", "width", "by latent", "median by latent"], rows)]
