"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Where tables and results go."""
    return Console(highlight=False, soft_wrap=True)


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table.

    Parameters
    ----------
    names
        Its columns.
    rows
        Its lines.
    title
        Above it.
    """
    table = Table(title=title or None, title_justify="left")
    for i, name in enumerate(names):
        # Where there is little room, what a line is of is the last to be cut.
        table.add_column(name, no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    console().print(table)
