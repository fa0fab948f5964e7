"""Stability: whether other seeds of the flow and of the auto-encoder find the same outliers."""

from __future__ import annotations

import logging

from spectra_scale.stability.compare import Report, compare, table_of, write
from spectra_scale.stability.members import Wanted, check, common, further, opened, scores, train
from spectra_scale.store.lock import locked

__all__ = ["Report", "Wanted", "stability", "table_of"]

log = logging.getLogger(__name__)


def stability(wanted: Wanted) -> Report:
    """Fit and train with further seeds, and compare the rankings of the same objects.

    Nothing that is there is made again. Auto-encoders go to ``OUT/seed-N``, each a run of its own
    up to the density, flows to ``OUT/flows``.

    Parameters
    ----------
    wanted
        Runs, seeds and place.

    Raises
    ------
    UsageError
        If the runs have no object in common, two have the same auto-encoder, or they differ in
        more than seeds.
    DamagedArtifactError
        If a run is not finished up to its density.
    """
    models = [opened(path) for path in wanted.runs]
    out = wanted.out or wanted.runs[0] / "stability"
    check(models, wanted)
    with locked(out, ".stability.lock"):
        seeds = further(models, wanted.autoencoder_seeds)
        for number, seed in enumerate(seeds, start=1):
            log.info("stability: auto-encoder %d of %d, seed %d", number, len(seeds), seed)
            models.append(opened(train(models[0], seed, out).path))
        rows = common(models)
        found = [scores(model, place, wanted.flow_seeds, out)
                 for model, place in zip(models, rows.places, strict=True)]  # fmt: skip
        return write(compare(models, rows, found, wanted.flow_seeds), rows, out)
