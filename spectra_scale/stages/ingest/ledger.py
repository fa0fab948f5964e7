"""Lines of the ledger as columns: there may be as many as a catalogue has rows.

Each line accounts for one thing: a *file* of the folders, a *row* of the catalogue (or of the
files' own tables), or a *fibre*, which is a spectrum of a file that is no row. A file of one
spectrum whose row is left out has two lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.store.schema import LEDGER
from spectra_scale.surveys.formats import Lost

SCHEMA = LEDGER.arrow()


def lines_of(lost: Iterable[Lost]) -> pa.Table:
    """Ledger lines given one by one."""
    rows = list(lost)
    columns: Sequence[Any] = list(zip(*rows, strict=True)) if rows else [()] * len(SCHEMA)
    return pa.table(
        {name: pa.array([str(value) for value in values], pa.string())
         for name, values in zip(SCHEMA.names, columns, strict=True)}, schema=SCHEMA,
    )  # fmt: skip


def lines_for(
    kind: str, reason: str, message: Any, paths: Any = "", keys: Any = "", n: int | None = None
) -> pa.Table:
    """Ledger lines of one kind and reason.

    Parameters
    ----------
    kind, reason
        The same in all.
    message, paths, keys
        One value for all, or an Arrow array of text.
    n
        How many, if none is an array.
    """
    arrays = [each for each in (message, paths, keys) if not isinstance(each, str)]
    n_lines = len(arrays[0]) if arrays else int(n or 0)

    def full(value: Any) -> pa.Array:
        return pa.repeat(pa.scalar(value, pa.string()), n_lines) if isinstance(value, str) else (
            pc.fill_null(value, "")
        )  # fmt: skip

    values = (paths, keys, kind, str(reason), message)
    return pa.table([full(value) for value in values], schema=SCHEMA)


def together(tables: Sequence[pa.Table]) -> pa.Table:
    """Ledger lines of several sources as one table."""
    return pa.concat_tables([SCHEMA.empty_table(), *tables]).combine_chunks()


def count(ledger: pa.Table, kind: str, reason: str | None = None) -> int:
    """How many lines there are of a kind, and of a reason if given."""
    chosen = pc.equal(ledger["kind"], kind)
    if reason is not None:
        chosen = pc.and_(chosen, pc.equal(ledger["reason"], str(reason)))
    return int(pc.sum(chosen).as_py() or 0)


def by_reason(ledger: pa.Table) -> dict[str, int]:
    """Number of lines by kind and reason, sorted."""
    if not ledger.num_rows:
        return {}
    groups = ledger.group_by(["kind", "reason"]).aggregate([([], "count_all")]).to_pylist()
    return dict(sorted((f"{g['kind']}: {g['reason']}", int(g["count_all"])) for g in groups))


def flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
