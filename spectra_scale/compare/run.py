"""The whole comparison: from two folders to numbers, and to the arrays the figures need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compare import discriminate, linear, statistics
from spectra_scale.compare.discriminate import Examples, Verdict
from spectra_scale.compare.examples import Blind, Gallery, blind, gallery
from spectra_scale.compare.matching import Matches, match
from spectra_scale.compare.measures import measure_block
from spectra_scale.compare.noise import MaskCounts, noise_of
from spectra_scale.compare.sides import MAX_MASKED, Z_RANGE, Side, read_side
from spectra_scale.compare.threads import one_thread
from spectra_scale.compare.transfer import (
    Transfer,
    TransferSettings,
    ratios,
    structure_by_class,
    transfer,
)
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.spectrum.classify import CLASS_NAMES

Report = Callable[[str], None]

CUTS = f"GALAXY or QSO, ZWARNING 0, {Z_RANGE[0]} ≤ z ≤ {Z_RANGE[1]}, under {MAX_MASKED:.0%} masked"
MIN_MOCK = 100
"""Mock spectra that pass the cuts, at least: a quarter of them is held out of the training."""


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
    n_auc
        Times that partners are drawn and told apart: the AUC is the mean, since one draw of them
        moves it by 0.02.
    n_null
        Times that real spectra are told apart from themselves.
    n_noise
        Files whose noise is measured, of each side.
    """

    k: int = 3
    seed: int = 1
    training: TransferSettings = field(default_factory=TransferSettings)
    explain: bool = True
    n_auc: int = 6
    n_null: int = 10
    n_noise: int = 400

    @classmethod
    def quick(cls, seed: int = 1) -> CompareSettings:
        """Under half a minute with 2500 mock spectra."""
        return cls(seed=seed, training=TransferSettings(epochs=12), explain=False, n_null=0,
                   n_auc=3, n_noise=120)  # fmt: skip


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


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A folder as read and measured by itself.

    Parameters
    ----------
    side
        Its spectra that pass the cuts.
    masks, noise
        Numbers of its native pixels.
    """

    side: Side
    masks: dict[str, Any]
    noise: dict[str, Any]


def read_real(folder: Path, settings: CompareSettings, report: Report) -> Read:
    """Read the real spectra.

    Parameters
    ----------
    folder
        With spec or spPlate files.
    settings
        How thorough.
    report
        Told about progress.

    Raises
    ------
    UsageError
        If there are too few to compare anything with.
    """
    found = _read(folder, "real", settings, report)
    if len(found.side) < linear.N_NEEDED:
        message = (
            f"{folder}: {len(found.side)} real spectra pass the cuts ({CUTS}); expected at least "
            f"{linear.N_NEEDED}. Give a folder with more."
        )
        raise UsageError(message)
    return found


def _read(folder: Path, name: str, settings: CompareSettings, report: Report) -> Read:
    report(f"reading {folder}")
    counts = MaskCounts()
    side = read_side(folder, name, measure_block, counts)
    noise = noise_of(folder, settings.n_noise, np.random.default_rng(settings.seed))
    report(f"{len(side):,} {name} spectra pass the cuts")
    return Read(side, counts.numbers(), noise)


def compare(
    mock: Path, real: Path | Read, settings: CompareSettings, report: Report
) -> Comparison:
    """Compare a mock release with real spectra.

    Parameters
    ----------
    mock
        Folder with spec or spPlate files.
    real
        Another, or what `read_real` found there.
    settings
        How thorough.
    report
        Told about progress, a line at a time.

    Raises
    ------
    UsageError
        If a folder holds nothing to compare.
    SpectraScaleError
        If too few spectra of the mock pass the cuts.
    """
    theirs = real if isinstance(real, Read) else read_real(real, settings, report)
    ours = _read(mock, "mock", settings, report)
    rng = np.random.default_rng(settings.seed)
    matches = match(theirs.side, ours.side, settings.k, rng, reuse=False)
    check_enough(mock, theirs.side, ours.side, matches)
    numbers = {
        "masks": {"mock": ours.masks, "real": theirs.masks},
        "noise": {"mock": ours.noise, "real": theirs.noise},
    }
    shown = gallery(mock, rng)
    return _compare((theirs.side, ours.side, matches), settings, report, (numbers, shown))


def check_enough(folder: Path, real: Side, mock: Side, matches: Matches) -> None:
    """Refuse a mock that is too small to be learnt from beside the partners of real spectra.

    Parameters
    ----------
    folder
        Of the mock.
    real, mock, matches
        Both sides, and the partners that were found.

    Raises
    ------
    SpectraScaleError
        Saying how many there are and how many are needed.
    """
    has = int((matches.rows[:, 0] >= 0).sum())
    left = len(mock) - int((matches.rows >= 0).sum())
    if has >= linear.N_NEEDED and left >= linear.N_NEEDED and len(mock) >= MIN_MOCK:
        return
    message = (
        f"{folder}: {len(mock)} mock spectra pass the cuts ({CUTS}); {has} of the {len(real)} "
        f"real spectra find a partner of their class among them, and {left} are left over. "
        f"Expected at least {MIN_MOCK}, {linear.N_NEEDED} partners and {linear.N_NEEDED} left "
        f"over. Write a larger release into another folder, --n {max(1000, 5 * len(real))} or so."
    )
    raise SpectraScaleError(message)


def _compare(
    pair: tuple[Side, Side, Matches],
    settings: CompareSettings,
    report: Report,
    known: tuple[dict[str, Any], Gallery],
) -> Comparison:
    rng = np.random.default_rng(settings.seed)
    real, mock, matches = pair
    numbers, shown = known
    numbers |= {"samples": _samples(real, mock, matches)} | _distributions(real, mock, matches)
    report("linear models across")
    numbers["pca"] = _linear(real, mock, matches, settings.seed)
    examples = discriminate.examples_of(real, mock, matches)
    verdict = discriminate.discriminate(
        examples, settings.seed, explain=settings.explain, report=report
    )
    others = [_auc_of_others(real, mock, settings, i, report) for i in range(1, settings.n_auc)]
    null = discriminate.null_aucs(real, settings.seed, settings.n_null, report)
    numbers["classifier"] = discriminate.summary(verdict, others) | {"auc_null": null}
    with one_thread():
        found = transfer(real, mock, settings.training, settings.seed, report)
    numbers |= {"transfer": ratios(real, found), "structure": structure_by_class(real, found)}
    return Comparison(real, mock, matches, examples, verdict, found, shown,
                      blind(examples, rng), numbers)  # fmt: skip


def _auc_of_others(
    real: Side, mock: Side, settings: CompareSettings, number: int, report: Report
) -> float:
    """AUC of another draw of partners, in other folds."""
    seed = settings.seed + number
    report(f"classifier with other partners: {number} of {settings.n_auc - 1}")
    matches = match(real, mock, settings.k, np.random.default_rng(seed), reuse=False)
    return discriminate.discriminate(discriminate.examples_of(real, mock, matches), seed).auc


def _samples(real: Side, mock: Side, matches: Matches) -> dict[str, Any]:
    def counts(label: NDArray[np.int8]) -> list[int]:
        return [int(n) for n in np.bincount(label, minlength=len(CLASS_NAMES))]

    return {
        "n_real": len(real),
        "n_mock": len(mock),
        "real_by_class": counts(real.label),
        "mock_by_class": counts(mock.label),
        "mock_by_table": counts(mock.table_label),
        "n_pairs": int((matches.rows >= 0).sum()),
        "distance_median": float(np.nanmedian(matches.distance)),
        "distance_95": float(np.nanpercentile(matches.distance, 95)),
    }


def _distributions(real: Side, mock: Side, matches: Matches) -> dict[str, Any]:
    # Those of its own tables, as a job's label stage gives them; the classes of lines that are
    # measured here serve the matching alone.
    fractions = statistics.class_fractions(mock.table_label)
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
