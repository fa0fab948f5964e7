"""The report page: it loads nothing, runs nothing and escapes what it is given."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from spectra_scale import figures
from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.page import clean_markup, format_value


class Elements(HTMLParser):
    """Collects tags and attributes, and checks that tags are balanced."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "input", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page():
    png = figures.png_of(figures.redshift_histograms([0.1, 0.2], [0.1]), dpi=20)
    table = figures.Table("Counts <b>", ["class", "n"], [["a&b", 279284], ["<i>", None]])
    item = figures.FigureItem('Caption "with" <angles>', png, "alt <text>")
    text = "<p>Some <em>text</em>, <script src='https://evil.example/x.js'>x()</script></p>"
    sections = [
        figures.Section("First & <second>", text, [item], [table]),
        figures.Section("First & <second>", "", [item], [table]),
    ]
    return figures.render_page("T <title>", "S & subtitle", {"χ²": 1.2634}, sections)


def test_page_loads_nothing_and_runs_nothing():
    parser = Elements()
    parser.feed(page())
    for tag, attributes in parser.found:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            if value is not None and tag != "a":
                assert value.startswith("data:")
    style = re.search(r"<style>(.*?)</style>", page(), re.S)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page()


def test_page_is_balanced_and_escapes_all_text():
    parser = Elements()
    parser.feed(page())
    assert parser.open == []
    for raw in ("T <title>", "First & <second>", "with\" <angles>", "alt <text>", "Counts <b>",
                "a&b", "<td><i>", "S & subtitle", "<script"):  # fmt: skip
        assert raw not in page()
    for shown in ("a&amp;b", "First &amp; &lt;second&gt;", "279,284", "1.263", "&lt;script"):
        assert shown in page()


def test_contents_lead_to_distinct_sections():
    parser = Elements()
    parser.feed(page())
    links = [attributes["href"] for tag, attributes in parser.found if tag == "a"]
    identifiers = [attributes["id"] for _, attributes in parser.found if "id" in attributes]
    assert len(links) == len(set(links)) == 2
    assert len(identifiers) == len(set(identifiers))
    assert {link.removeprefix("#") for link in links} <= set(identifiers)


def test_page_is_the_same_text_for_the_same_report():
    assert page() == page()


def test_markup_keeps_links_of_the_web_and_drops_those_that_run():
    assert clean_markup('<a href="https://doi.org/10.1/x">y</a>') == (
        '<a href="https://doi.org/10.1/x">y</a>'
    )
    assert clean_markup('<a href="#maps" onclick="x()">y</a>') == '<a href="#maps">y</a>'
    assert "javascript" not in clean_markup('<a href="javascript:x()">y</a>')
    assert clean_markup("<p>open <em>both") == "<p>open <em>both</em></p>"
    assert clean_markup("1 < 2 & 3 <img src=x>") == "1 &lt; 2 &amp; 3 &lt;img src=x&gt;"
    assert clean_markup("</p>text<!-- gone -->") == "text"


def test_numbers_are_written_as_people_read_them():
    cases = {
        "279,284": np.int64(279284),
        "1.263": np.float32(1.2634),
        "12,346": 12345.6,
        "−0.5": -0.5,
        "∞": float("inf"),
        "–": float("nan"),
        "yes": np.arange(1)[0] == 0,
        "0": 0,
        "4-51602-1": "4-51602-1",
    }
    assert {format_value(value): value for value in cases.values()}.keys() == cases.keys()
    assert format_value(None) == "–"


def test_a_table_row_of_another_length_is_refused():
    with pytest.raises(SpectraScaleError, match="has 1 cells, expected 2"):
        figures.Table("t", ["a", "b"], [["x"]])
