"""The whole comparison: from two folders to numbers, and to the arrays the figures need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spectra_scale.compare import discriminate, linear, statistics
from spectra_scale.compare.discriminate import Examples, Verdict
from spectra_scale.compare.examples import Blind, Gallery, blind, gallery
from spectra_scale.compare.matching import Matches, match
from spectra_scale.compare.measures import measure_block
from spectra_scale.compare.noise import MaskCounts, noise_of
from spectra_scale.compare.sides import Side, read_side
from spectra_scale.compare.transfer import (
    Transfer,
    TransferSettings,
    ratios,
    structure_by_class,
    transfer,
)

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """How thorough a comparison is.

    Parameters
    ----------
    k
        Mock spectra for each real one.
    seed
        Of matching, folds, training and the order of the blind spectra.
    training
        Of the auto-encoder.
    explain
        Whether to look for what the classifier sees.
    n_null
        Times that real spectra are told apart from themselves.
    n_noise
        Files whose noise is measured, of each side.
    """

    k: int = 3
    seed: int = 1
    training: TransferSettings = field(default_factory=TransferSettings)
    explain: bool = True
    n_null: int = 10
    n_noise: int = 400

    @classmethod
    def quick(cls, seed: int = 1) -> CompareSettings:
        """Under half a minute with 2500 mock spectra."""
        return cls(seed=seed, training=TransferSettings(epochs=12), explain=False, n_null=0,
                   n_noise=120)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """All that was found.

    Parameters
    ----------
    real, mock
        Both sides.
    matches
        Partners of the real spectra, each mock spectrum once.
    examples, verdict
        What the classifier saw and said.
    transfer
        What the auto-encoder made of both.
    gallery, blind
        Spectra to look at.
    numbers
        Everything that JSON can hold: the content of ``numbers.json``.
    """

    real: Side
    mock: Side
    matches: Matches
    examples: Examples
    verdict: Verdict
    transfer: Transfer
    gallery: Gallery
    blind: Blind
    numbers: dict[str, Any]


def compare(mock: Path, real: Path, settings: CompareSettings, report: Report) -> Comparison:
    """Compare a mock release with real spectra.

    Parameters
    ----------
    mock, real
        Folders with spec or spPlate files.
    settings
        How thorough.
    report
        Told about progress, a line at a time.

    Raises
    ------
    UsageError
        If a folder holds nothing to compare.
    """
    rng = np.random.default_rng(settings.seed)
    folders = {"mock": mock, "real": real}
    sides, masks, noise = {}, {}, {}
    for name, folder in folders.items():
        report(f"reading {folder}")
        counts = MaskCounts()
        sides[name] = read_side(folder, name, measure_block, counts)
        masks[name] = counts.numbers()
        noise[name] = noise_of(folder, settings.n_noise, rng)
    n_mock, n_real = len(sides["mock"]), len(sides["real"])
    report(f"{n_mock:,} mock and {n_real:,} real spectra pass the cuts")
    numbers = {"masks": masks, "noise": noise}
    shown = gallery(mock, rng)
    return _compare(sides["real"], sides["mock"], settings, report, (numbers, shown))


def _compare(
    real: Side,
    mock: Side,
    settings: CompareSettings,
    report: Report,
    known: tuple[dict[str, Any], Gallery],
) -> Comparison:
    rng = np.random.default_rng(settings.seed)
    matches = match(real, mock, settings.k, rng, reuse=False)
    numbers, shown = known
    numbers |= {"samples": _samples(real, mock, matches)} | _distributions(real, mock, matches)
    report("linear models across")
    numbers["pca"] = _linear(real, mock, matches, settings.seed)
    report("classifier")
    examples = discriminate.examples_of(real, mock, matches)
    verdict = discriminate.discriminate(examples, settings.seed, explain=settings.explain)
    numbers["classifier"] = discriminate.summary(verdict) | {
        "auc_null": _null(real, settings.seed, settings.n_null)
    }
    found = transfer(real, mock, settings.training, settings.seed, report)
    numbers |= {"transfer": ratios(real, found), "structure": structure_by_class(real, found)}
    return Comparison(real, mock, matches, examples, verdict, found, shown,
                      blind(examples, rng), numbers)  # fmt: skip


def _samples(real: Side, mock: Side, matches: Matches) -> dict[str, Any]:
    def counts(side: Side) -> list[int]:
        return [int(n) for n in np.bincount(side.label, minlength=7)]

    return {
        "n_real": len(real),
        "n_mock": len(mock),
        "real_by_class": counts(real),
        "mock_by_class": counts(mock),
        "n_pairs": int((matches.rows >= 0).sum()),
        "distance_median": float(np.nanmedian(matches.distance)),
        "distance_95": float(np.nanpercentile(matches.distance, 95)),
    }


def _distributions(real: Side, mock: Side, matches: Matches) -> dict[str, Any]:
    fractions = statistics.class_fractions(mock.label)
    return {
        "class_fractions": fractions,
        "max_class_fraction_error": statistics.max_fraction_error(fractions),
        "redshift": statistics.redshift_facts(mock.z),
        "snr_quantiles": np.percentile(mock.snr, (5, 50, 95)).tolist(),
        "distributions": statistics.distribution_rows(real, mock, matches),
        "correlations": statistics.rank_correlations(real, mock, matches),
    }


def _linear(real: Side, mock: Side, matches: Matches, seed: int) -> list[dict[str, Any]]:
    first = matches.rows[:, 0]
    has = np.flatnonzero(first >= 0)
    rest = np.setdiff1d(np.arange(len(mock)), matches.rows.ravel())
    return linear.across(real.take(has), mock.take(first[has]), mock.take(rest), seed)


def _null(real: Side, seed: int, n: int) -> list[float]:
    """AUC of real against real spectra, `n` times."""
    return [
        discriminate.discriminate(discriminate.null_of(real, seed + i), seed + i).auc
        for i in range(n)
    ]
