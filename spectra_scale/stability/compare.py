"""The rankings of all members compared: a table, a figure, an answer in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spectra_scale.models import stability as compared
from spectra_scale.models.stability import FLOW, Agreement, Ensemble, Member, Summary
from spectra_scale.provenance import write_bytes
from spectra_scale.stability.members import Model, Rows, Scores
from spectra_scale.store.tables import write_table

Floats = NDArray[np.float64]

#: Files of a comparison.
OBJECTS, PAIRS, TEXT, FIGURE = (
    "objects.parquet", "pairs.parquet", "stability.md", "stability.png",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Parameters
    ----------
    summaries
        Agreement by score, by what differs, and by rows.
    n_least
        By rows: objects that count as least probable.
    verdict
        The answer in words.
    files
        What was written.
    """

    summaries: tuple[Summary, ...]
    n_least: dict[str, int]
    verdict: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Members, their scores, shape (member, object), and what comes of them."""

    members: list[Member]
    values: Floats
    agreements: list[Agreement]
    ensemble: Ensemble
    alike: float | None


def compare(
    models: Sequence[Model], rows: Rows, scores: Sequence[Scores], flow_seeds: int
) -> Found:
    """Compare every pair of members, and of auto-encoders by scores that need no flow.

    Parameters
    ----------
    models, scores
        The runs, and their scores of the objects.
    rows
        The objects.
    flow_seeds
        Flows of each.
    """
    which = {"validation": rows.validation, "all": np.ones(len(rows.validation), dtype=bool)}
    members = [
        Member(m.seed, seed) for m, s in zip(models, scores, strict=True) for seed in s.flows
    ]
    values = np.stack([value for each in scores for value in each.flows.values()])
    found = compared.agreements(FLOW, members, values, which)
    if len(models) > 1:
        alone = [Member(model.seed) for model in models]
        if flow_seeds > 1:
            means = np.stack([np.mean(list(each.flows.values()), axis=0) for each in scores])
            found += compared.agreements(f"{FLOW}, mean of its seeds", alone, means, which)
        for name in scores[0].simple:
            simple = np.stack([each.simple[name] for each in scores])
            found += compared.agreements(name, alone, simple, which)
    alike = max(
        (compared.likeness(a.latents, b.latents) for a, b in combinations(scores, 2)), default=None
    )
    return Found(members, values, found, compared.ensemble(values, rows.validation), alike)


def write(found: Found, rows: Rows, out: Path) -> Report:
    """Write tables, figure and text."""
    summaries = compared.summarise(found.agreements)
    n_least = {each.rows: each.n_least for each in found.agreements}
    text = compared.verdict(summaries, found.alike)
    write_table(out / OBJECTS, _objects(found, rows))
    write_table(out / PAIRS, _pairs(found.agreements))
    write_bytes(out / FIGURE, _figure(found, rows, summaries, n_least))
    report = Report(tuple(summaries), n_least, text,
                    tuple(out / name for name in (OBJECTS, PAIRS, TEXT, FIGURE)))  # fmt: skip
    names, lines = table_of(report, ranges=True)
    page = ["# Stability over seeds", "", text, "", _row(names), _row(["---"] * len(names))]
    page += [*(_row(line) for line in lines), "", f"{_how(found, rows)}", ""]
    write_bytes(out / TEXT, "\n".join(page).encode())
    return report


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _how(found: Found, rows: Rows) -> str:
    members = ", ".join(f"({m.autoencoder}, {m.flow})" for m in found.members)
    return (
        f"{len(rows.validation):,} objects, {int(rows.validation.sum()):,} of them of the "
        f"validation split. Seeds (auto-encoder, flow): {members}. Median over pairs, least and "
        "greatest in brackets; ρ is Spearman's rank correlation; after the objects, how many of "
        "them count as least probable."
    )


def _objects(found: Found, rows: Rows) -> pa.Table:
    names = ("release", "row", "spectrum_key", "reduction", "split", "label")
    table = rows.index.select(names)
    columns = {
        "in_training": rows.training,
        "mean_rank": found.ensemble.mean_rank,
        "rank_spread": found.ensemble.rank_spread,
        "p_ensemble": found.ensemble.p_value,
    } | {
        f"log_prob_{member.autoencoder}_{member.flow}": values
        for member, values in zip(found.members, found.values, strict=True)
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table.take(pc.sort_indices(table["mean_rank"]))


def _pairs(agreements: Sequence[Agreement]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "rows": each.rows,
                "score": each.score,
                "differ": each.differ,
                "autoencoder_a": each.first.autoencoder,
                "flow_a": each.first.flow,
                "autoencoder_b": each.second.autoencoder,
                "flow_b": each.second.flow,
                "rank_correlation": each.rank_correlation,
                "overlap_least": each.overlap_least,
                "n_least": each.n_least,
                "overlap_percent": each.overlap_percent,
            }
            for each in agreements
        ]
    )


def table_of(report: Report, *, ranges: bool = False) -> tuple[list[str], list[list[str]]]:
    """The summary as a table: its columns, and a line a kind of pair.

    Parameters
    ----------
    report
        What was found.
    ranges
        Whether medians over pairs are followed by the least and the greatest.
    """
    names = ["objects", "score", "differ in", "pairs", "ρ", "least shared", "1 % shared"]

    def shown(three: tuple[float, float, float], form: str, factor: float = 1.0) -> str:
        median, low, high = (format(factor * value, form) for value in three)
        return f"{median} ({low}–{high})" if ranges else median

    lines = [
        [
            f"{each.rows}, {report.n_least[each.rows]}",
            each.score,
            each.differ,
            str(each.pairs),
            shown(each.rank_correlation, ".3f"),
            *(f"{shown(share, '.0f', 100)} %" for share in
              (each.overlap_least, each.overlap_percent)),
        ]
        for each in report.summaries
    ]  # fmt: skip
    return names, lines


def _figure(
    found: Found, rows: Rows, summaries: Sequence[Summary], n_least: dict[str, int]
) -> bytes:
    from spectra_scale.figures.page import png_of
    from spectra_scale.figures.stability import RankPair, stability_figure

    order = {member: i for i, member in enumerate(found.members)}
    pairs = []
    for differ in compared.DIFFER:
        shown = [a for a in found.agreements if a.differ == differ and a.rows == "validation"
                 and a.score == FLOW]  # fmt: skip
        if shown:
            # The one in the middle stands for the others.
            each = sorted(shown, key=lambda a: a.rank_correlation)[len(shown) // 2]
            a, b = (found.values[order[m]][rows.validation] for m in (each.first, each.second))
            names = [f"auto-encoder {m.autoencoder}, flow {m.flow}"
                     for m in (each.first, each.second)]  # fmt: skip
            pairs.append(RankPair(differ, names[0], names[1], a, b, each.rank_correlation))
    bars: dict[tuple[str, str], tuple[float, float, float]] = {
        (s.score, s.differ): s.overlap_least for s in summaries if s.rows == "validation"
    }
    return png_of(stability_figure(pairs, bars, n_least["validation"]))
