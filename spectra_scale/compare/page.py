"""The comparison as one page: figures, tables, targets, and the key of the blind spectra."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from spectra_scale.compare.page_sections import all_sections
from spectra_scale.compare.run import Comparison
from spectra_scale.compare.verdicts import asked
from spectra_scale.figures.page import Section, render_page
from spectra_scale.provenance import write_bytes
from spectra_scale.spectrum.classify import CLASS_NAMES

PAGE, NUMBERS, KEY = "index.html", "numbers.json", "blind-key.json"


def page_folder(release: Path) -> Path:
    """Where the page of a release goes: beside it, so that the release holds survey files only."""
    return release.with_name(release.name + "-compare")


def write_page(found: Comparison, folder: Path) -> Path:
    """Write ``index.html``, ``numbers.json``, ``blind-key.json`` and each figure as PNG.

    Parameters
    ----------
    found
        The comparison.
    folder
        Made if it is not there; files of an earlier page are replaced.

    Returns
    -------
    Path of the page.
    """
    sections = all_sections(found)
    for number, item in enumerate([item for s in sections for item in s.figures], 1):
        write_bytes(folder / "figures" / f"{number:02d}.png", item.png)
    key = [
        {"number": i + 1, "from": "mock" if is_mock else "real", "class": CLASS_NAMES[label]}
        for i, (is_mock, label) in enumerate(
            zip(found.blind.is_mock.tolist(), found.blind.label.tolist(), strict=True)
        )
    ]
    write_bytes(folder / KEY, json.dumps(key, indent=1, ensure_ascii=False).encode())
    text = json.dumps(_jsonable(found.numbers), indent=1, ensure_ascii=False)
    write_bytes(folder / NUMBERS, text.encode())
    write_bytes(folder / PAGE, _page(found, sections, key).encode())
    return folder / PAGE


def _page(found: Comparison, sections: Sequence[Section], key: list[dict[str, object]]) -> str:
    results = asked(found.numbers)
    verdicts = [result.verdict for result in results]
    facts = {
        "mock spectra": len(found.mock),
        "real spectra": len(found.real),
        "AUC": found.numbers["classifier"]["auc"],
        "χ² of real over mock": found.numbers["transfer"]["all"]["ratio"],
        "largest error of a class (points)": found.numbers["max_class_fraction_error"],
        "targets met": f"{verdicts.count('PASS')} of {len(results)}, and "
        f"{verdicts.count('within error')} within their errors",
    }
    page = render_page("Mock beside real", "At equal class, redshift and S/N", facts, sections)
    rows = "".join(
        f"<tr><td>{row['number']}</td><td>{row['from']}</td><td>{escape(str(row['class']))}</td></tr>"
        for row in key
    )
    hidden = (
        "<details><summary>Key of the numbered spectra</summary><table><thead><tr><th>number</th>"
        f"<th>from</th><th>class</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )
    return page.replace("</main>", f"{hidden}\n</main>")


def _jsonable(value: object) -> object:
    """The same with NaN as null and tuples as lists."""
    if isinstance(value, dict):
        return {str(name): _jsonable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
