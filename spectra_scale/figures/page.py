"""One self-contained HTML file: text, figures as data URIs, tables, no script, nothing loaded.

A Content-Security-Policy in the page itself forbids every other resource, so that a report can be
mailed, archived and opened without a network. Figures are enlarged by a check box and CSS alone.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING

from spectra_scale.errors import SpectraScaleError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TAGS = frozenset(
    {
        *("p", "em", "strong", "b", "i", "code", "pre", "ul", "ol", "li", "dl", "dt", "dd"),
        *("br", "sub", "sup", "h3", "h4", "blockquote", "a"),
    }
)
_VOID = frozenset({"br"})
# Links are followed by a reader, never loaded by the page.
_LINK = re.compile(r"^(#[\w.-]+|https?://[^\s\"'<>]+)$")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True, eq=False)
class FigureItem:
    """A figure of the page.

    Parameters
    ----------
    caption
        Plain text below it.
    png
        Image, as of `png_of`.
    alt
        Plain text for those who cannot see it.
    """

    caption: str
    png: bytes
    alt: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table of the page.

    Parameters
    ----------
    caption
        Plain text above it.
    columns
        Column heads.
    rows
        Cells, as many a row as there are columns: text, numbers, booleans or None. Numbers are
        formatted by `format_value`, so give identifiers such as plate and MJD as text.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                message = (
                    f"row {i} of table {self.caption!r} has {len(row)} cells, expected "
                    f"{len(self.columns)}: one for each of {', '.join(map(str, self.columns))}."
                )
                raise SpectraScaleError(message)


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """A section of the page.

    Parameters
    ----------
    title
        Plain text; also the entry in the table of contents.
    text_html
        Simple markup: paragraphs, lists, emphasis, code, links to http(s) or to an anchor. Any
        other tag and every other attribute is shown as text or dropped, so that no section can
        load or run anything.
    figures, tables
        What follows the text: figures first, then tables.
    """

    title: str
    text_html: str = ""
    figures: Sequence[FigureItem] = field(default=())
    tables: Sequence[Table] = field(default=())


def png_of(figure: Figure, dpi: int = 130) -> bytes:
    """PNG of a figure, the same bytes for the same figure.

    Parameters
    ----------
    figure
        A figure with an Agg canvas.
    dpi
        Pixels an inch.

    Returns
    -------
    bytes
        The file, without matplotlib's version and without a date.
    """
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def render_page(
    title: str, subtitle: str, facts: Mapping[str, object], sections: Sequence[Section]
) -> str:
    """Self-contained HTML of a report.

    Parameters
    ----------
    title, subtitle
        Plain text.
    facts
        A few named values for the top of the page.
    sections
        In order; each gets an anchor and an entry in the table of contents.

    Returns
    -------
    str
        The page, to be written as UTF-8. Equal arguments give equal text.
    """
    anchors = _anchors([section.title for section in sections])
    contents = "\n".join(
        f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    numbers = _first_numbers(sections)
    body = "\n".join(
        _section(anchor, section, first)
        for anchor, section, first in zip(anchors, sections, numbers, strict=True)
    )
    cells = "\n".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(format_value(value))}</dd></div>"
        for name, value in facts.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{_style_sheet()}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="subtitle">{escape(subtitle)}</p>
{f'<dl class="facts">{cells}</dl>' if cells else ""}
</header>
<div class="columns">
<nav aria-label="Contents"><p>Contents</p><ol>
{contents}
</ol></nav>
<main>
{body}
</main>
</div>
</body>
</html>
"""


def format_value(value: object) -> str:
    """A value as people read it.

    Parameters
    ----------
    value
        Integers get thousands separators, other numbers four significant digits; NaN and None are
        a dash, booleans yes and no; anything else is its text.

    Returns
    -------
    str
        Plain text, not yet escaped.

    Examples
    --------
    >>> format_value(279284), format_value(1.2634), format_value(2.5e-7), format_value(None)
    ('279,284', '1.263', '2.5e-07', '–')
    """
    plain = _plain(value)
    if plain is None:
        return "–"
    if isinstance(plain, bool):
        return "yes" if plain else "no"
    if isinstance(plain, int):
        return f"{plain:,}"
    return _format_float(plain) if isinstance(plain, float) else str(plain)


def _plain(value: object) -> object:
    """Python's own number for a NumPy scalar."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", 1) == 0 else value


def _format_float(value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 1e4:
        text = f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.4g}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def _style_sheet() -> str:
    return files("spectra_scale.figures").joinpath("page.css").read_text(encoding="utf-8")


def _anchors(titles: Sequence[str]) -> list[str]:
    """A distinct anchor for each title, readable where the title is."""
    seen: set[str] = set()
    anchors: list[str] = []
    for i, title in enumerate(titles, 1):
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        anchor = slug if slug and slug not in seen else f"{slug or 'section'}-{i}"
        while anchor in seen:
            anchor += "x"
        seen.add(anchor)
        anchors.append(anchor)
    return anchors


def _first_numbers(sections: Sequence[Section]) -> list[tuple[int, int]]:
    """Number of the first figure and of the first table of each section."""
    numbers: list[tuple[int, int]] = []
    n_figures = n_tables = 1
    for section in sections:
        numbers.append((n_figures, n_tables))
        n_figures += len(section.figures)
        n_tables += len(section.tables)
    return numbers


def _section(anchor: str, section: Section, first: tuple[int, int]) -> str:
    parts = [f'<section id="{anchor}">', f"<h2>{escape(section.title)}</h2>"]
    if section.text_html:
        parts.append(f'<div class="text">{clean_markup(section.text_html)}</div>')
    parts += [_figure(item, number) for number, item in enumerate(section.figures, first[0])]
    parts += [_table(table, number) for number, table in enumerate(section.tables, first[1])]
    return "\n".join([*parts, "</section>"])


def _figure(item: FigureItem, number: int) -> str:
    data = base64.b64encode(item.png).decode("ascii")
    alt = escape(item.alt or item.caption)
    return (
        f'<figure id="figure-{number}">'
        f'<input type="checkbox" id="zoom-{number}" aria-label="Enlarge figure {number}">'
        f'<label for="zoom-{number}" title="Click to enlarge or to go back">'
        f'<img alt="{alt}" src="data:image/png;base64,{data}"></label>'
        f"<figcaption><b>Figure {number}.</b> {escape(item.caption)}</figcaption></figure>"
    )


def _table(table: Table, number: int) -> str:
    numeric = [_is_numeric([row[i] for row in table.rows]) for i in range(len(table.columns))]
    kinds = [' class="number"' if right else "" for right in numeric]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(str(name))}</th>'
        for kind, name in zip(kinds, table.columns, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{escape(format_value(value))}</td>"
            for kind, value in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="table" id="table-{number}" role="region" tabindex="0" '
        f'aria-label="Table {number}"><table>'
        f"<caption><b>Table {number}.</b> {escape(table.caption)}</caption>"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _is_numeric(values: Sequence[object]) -> bool:
    """Whether a column holds numbers, with gaps allowed: those are set flush right."""
    known = [plain for plain in map(_plain, values) if plain is not None]
    return bool(known) and all(
        isinstance(plain, int | float) and not isinstance(plain, bool) for plain in known
    )


def clean_markup(text: str) -> str:
    """Markup with only the simple tags a section may have; all else is escaped.

    Parameters
    ----------
    text
        HTML written by the report.

    Returns
    -------
    str
        HTML whose tags are balanced and carry no attribute but a checked ``href``.

    Examples
    --------
    >>> clean_markup('<p onclick="x()">a &lt; b <script>y</script>')
    '<p>a &lt; b &lt;script&gt;y&lt;/script&gt;</p>'
    """
    parser = _Cleaner()
    parser.feed(text)
    parser.close()
    return parser.result()


class _Cleaner(HTMLParser):
    """Copies allowed tags and escapes the rest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            self._parts.append(escape(self.get_starttag_text() or ""))
            return
        link = dict(attrs).get("href") if tag == "a" else None
        safe = link is not None and _LINK.match(link)
        self._parts.append(f'<{tag} href="{escape(link or "")}">' if safe else f"<{tag}>")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _TAGS:
            self._parts.append(escape(f"</{tag}>"))
        elif tag in self._open:
            while (last := self._open.pop()) != tag:
                self._parts.append(f"</{last}>")
            self._parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self._parts.append(escape(data))

    def result(self) -> str:
        """All that was read, with what is still open closed."""
        return "".join(self._parts) + "".join(f"</{tag}>" for tag in reversed(self._open))
