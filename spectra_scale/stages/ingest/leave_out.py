"""Rows that are left out of a release: by cuts, or because they are there already."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spectra_scale.config import IngestSection
from spectra_scale.stages.ingest.ledger import flat, lines_for, together
from spectra_scale.stages.ingest.places import single_formats
from spectra_scale.surveys.reasons import Reason

Bools = NDArray[np.bool_]


def failed_cuts(table: pa.Table, config: IngestSection) -> list[tuple[Reason, str, Bools]]:
    """Rows that a cut of `[ingest]` removes, each by the first that does.

    A redshift that is no number is no reason here: redshifts are revised, and the spectrum is
    what it is. `prepare` leaves such rows out.

    Returns
    -------
    list of (Reason, str, numpy.ndarray)
        Reason, message, and which rows.
    """
    z = np.asarray(table["z"].to_numpy(), np.float64)
    low = -np.inf if config.z_min is None else config.z_min
    high = np.inf if config.z_max is None else config.z_max
    kinds = pc.is_in(table["class"], value_set=pa.array(config.classes, pa.string()))
    warned = np.asarray(table["zwarning"].to_numpy()) != 0
    cuts = [
        (Reason.CUT_REDSHIFT, f"z outside {low} to {high}", (z < low) | (z > high)),
        (Reason.CUT_CLASS, f"class is none of {', '.join(config.classes)}",
         ~_numpy(kinds) if config.classes else np.zeros(len(z), bool)),
        (Reason.CUT_ZWARNING, "ZWARNING is not 0", warned & config.zwarning_zero),
    ]  # fmt: skip
    taken = np.zeros(len(z), bool)
    found = []
    for reason, message, which in cuts:
        found.append((reason, message, which & ~taken))
        taken |= which
    return found


def _numpy(values: pa.ChunkedArray) -> Bools:
    return np.asarray(values.to_numpy(), dtype=bool)


def left_out(table: pa.Table, reason: Reason, message: str | pa.Array, which: Bools) -> pa.Table:
    """Ledger lines of rows that are left out, and of their files if they hold nothing else.

    `message` is one for all, or one for each row that is left out.
    """
    rows = table.filter(pa.array(which))
    row_lines = lines_for("row", reason, message, flat(rows["source_file"]),
                          flat(rows["spectrum_key"]))  # fmt: skip
    alone = pc.is_in(rows["source_format"], value_set=pa.array(single_formats(), pa.string()))
    single = row_lines.filter(alone)
    files = single.set_column(2, "kind", pa.array(["file"] * single.num_rows, pa.string()))
    return together([row_lines, files])


def once(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows in order of file and id, each observation once: of the newest reduction, the first.

    Returns
    -------
    rows, ledger
    """
    order = pc.sort_indices(rows, [("source_file", "ascending"), ("source_row", "ascending")])
    rows = rows.take(order).combine_chunks()
    codes = np.asarray(flat(rows["spectrum_key"]).dictionary_encode().indices.to_numpy())
    ranked = np.lexsort((np.arange(len(codes)), -_ages(rows), codes))
    # The row that stays of each observation, by its code.
    _, at = np.unique(codes[ranked], return_index=True)
    best = ranked[at]
    stays = np.zeros(len(codes), bool)
    stays[best] = True
    if stays.all():
        return rows, together([])
    where = flat(rows["source_file"]).take(pa.array(best[codes[~stays]]))
    message = pc.binary_join_element_wise(
        pa.scalar("the same observation, in no newer reduction, as in"), where, " "
    )
    return rows.filter(pa.array(stays)), left_out(rows, Reason.DUPLICATE, message, ~stays)


def _ages(rows: pa.Table) -> NDArray[np.int64]:
    """Rank of each row's reduction, the newest highest: 26 < v5_7_0 < v5_13_2, fuji < iron."""
    encoded = flat(rows["reduction"]).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    rank = np.empty(max(len(names), 1), np.int64)
    rank[sorted(range(len(names)), key=lambda i: natural(names[i]))] = np.arange(len(names))
    return np.asarray(rank[encoded.indices.to_numpy()])


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key of a name with numbers in it: numbers as numbers, and before letters.

    Examples
    --------
    >>> sorted(["v5_13_0", "v5_7_0", "104", "26"], key=natural)
    ['26', '104', 'v5_7_0', 'v5_13_0']
    """
    parts = re.findall(r"\d+|\D+", name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
