"""Write the reference pages that are made from the code, so that they cannot drift from it.

Usage: python docs/make_pages.py     (writes settings.md, data-model.md, ledger.md, formats.md)

The pages are committed; `tests/test_docs.py` fails if one of them is not what this file makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectra_scale.config import Job
from spectra_scale.store.run import FOLDERS
from spectra_scale.store.schema import (
    CATALOGUE_EXTRA,
    RELEASE_ARRAYS,
    SAMPLE_ARRAYS,
    TABLES,
    ArraySpec,
    ColumnSpec,
)
from spectra_scale.surveys.catalogue_columns import CATALOGUE_COLUMNS, COLUMN_MAPS
from spectra_scale.surveys.formats import FORMATS
from spectra_scale.surveys.line_formats import FORMATS as LINE_FORMATS
from spectra_scale.surveys.names import REFUSED
from spectra_scale.surveys.reasons import Reason, describe

HERE = Path(__file__).parent
MADE = "<!-- Made by docs/make_pages.py from {source}. Edit that, then run it again. -->\n"
#: Bounds of JSON schema, in the words of the page.
BOUNDS = (
    ("minimum", "≥"),
    ("exclusiveMinimum", ">"),
    ("maximum", "≤"),
    ("exclusiveMaximum", "<"),
)
PLAIN = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}

Schema = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def linked(text: str) -> str:
    """Text of the code for the page: sections of science.md become links, names become code."""
    text = re.sub(r"science\.md §(\d+)(-§\d+)?", _science, text)
    text = re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)
    return text.replace("``", "`")


def _science(found: re.Match[str]) -> str:
    page = (HERE / "science-choices.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (\d+\. .+)$", page, re.MULTILINE)
    title = next(title for title in titles if title.startswith(f"{found[1]}."))
    return f"[science §{found[1]}{found[2] or ''}](science-choices.md#{slug(title)})"


def slug(title: str) -> str:
    """The anchor of a heading, as Python-Markdown and GitHub make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


# --- settings ----------------------------------------------------------------------------------


def kind_of(schema: Schema) -> str:
    """The type of a setting in words, from its JSON schema."""
    if "enum" in schema or "const" in schema:
        return _any_of([code(value) for value in schema.get("enum", [schema.get("const")])])
    if "anyOf" in schema:
        # null is how JSON says that the setting may be absent.
        return _any_of([kind_of(p) for p in schema["anyOf"] if p.get("type") != "null"])
    if schema["type"] == "object":
        return f"table of {kind_of(schema['additionalProperties'])}s"
    return _array(schema) if schema["type"] == "array" else _single(schema)


def _any_of(kinds: Sequence[str]) -> str:
    *first, last = kinds
    return f"{', '.join(first)} or {last}" if first else last


def _single(schema: Schema) -> str:
    if schema.get("format") == "path":
        return "path"
    if "pattern" in schema:
        return f"name (letters, digits, `_`, `.`, `-`; at most {schema['maxLength']})"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in BOUNDS if key in schema]
    return " ".join([PLAIN[schema["type"]], " and ".join(bounds)]).strip()


def _array(schema: Schema) -> str:
    if "prefixItems" in schema:
        return f"[{', '.join(kind_of(part) for part in schema['prefixItems'])}]"
    least = f", at least {schema['minItems']}" if "minItems" in schema else ""
    kind = re.sub(r"^(path|integer|number)\b", r"\1s", kind_of(schema["items"]))
    return f"list of {kind}{least}"


def code(value: Any) -> str:
    """A value as it stands in TOML, as code."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def default_of(name: str, schema: Schema, required: Sequence[str]) -> str:
    """The default of a setting, as it would stand in TOML."""
    if name in required:
        return "required"
    value = schema.get("default")
    return "none" if value is None else code(value)


def setting_rows(model: Schema) -> list[list[str]]:
    """One row a setting: name, type, default, description."""
    required = model.get("required", ())
    return [
        [
            f"`{name}`",
            kind_of(schema),
            default_of(name, schema, required),
            linked(schema.get("description", "")),
        ]
        for name, schema in model["properties"].items()
    ]


def _reference(schema: Schema) -> tuple[str, bool]:
    """Name of the model a field holds ('' if none), and whether it is a list of them."""
    for part in (schema, *schema.get("anyOf", ())):
        if "$ref" in part:
            return part["$ref"].rpartition("/")[2], False
    if schema.get("type") == "array" and "$ref" in schema.get("items", {}):
        return schema["items"]["$ref"].rpartition("/")[2], True
    return "", False


def _sections(model: Schema, models: Mapping[str, Schema], prefix: str) -> Iterable[str]:
    head = ["setting", "type", "default", "what it is"]
    for name, schema in model["properties"].items():
        key, many = _reference(schema)
        if not key:
            continue
        inner = models[key]
        path = f"{prefix}{name}"
        title = f"[[{path}]]" if many else f"[{path}]"
        own = {n: s for n, s in inner["properties"].items() if not _reference(s)[0]}
        rows = setting_rows({**inner, "properties": own})
        yield f"\n## `{title}`\n\n{intro(inner['description'])}\n\n{table(head, rows)}"
        yield from _sections(inner, models, f"{path}.")


def intro(text: str) -> str:
    """The first paragraph of a docstring as a sentence, without the name of its table."""
    first = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    first = re.sub(r"^(One )?`\[+\w+\]+`: ", "", first)
    return linked(first[0].upper() + first[1:])


def settings_page() -> str:
    """All settings of a job file."""
    job = Job.model_json_schema(by_alias=True)
    models = job["$defs"]
    plain = {n: s for n, s in job["properties"].items() if not _reference(s)[0]}
    top = setting_rows({**job, "properties": plain})
    return (
        MADE.format(source="spectra_scale/config")
        + "\n# Settings\n\n"
        + "Every table and setting of a job file. An unknown name or a wrong type is an error,\n"
        + "with its place in the file. Paths are relative to the folder the command is run in.\n"
        + "Any setting can be changed on the command line: `--set train.epochs=5`,\n"
        + "`--set release.0.name=dr17`. How a job is put together is in\n"
        + "[Job files](job-files.md); why the defaults are what they are is in\n"
        + "[Choices of the science](science-choices.md).\n"
        + "\n## At the top of the file\n\n"
        + table(["setting", "type", "default", "what it is"], top)
        + "".join(_sections(job, models, ""))
    )


# --- data model --------------------------------------------------------------------------------


def array_table(specs: Sequence[ArraySpec]) -> str:
    """A table of arrays."""
    rows = [[f"`{s.name}`", s.dtype, ", ".join(s.dims), s.unit or "–", s.doc] for s in specs]
    return table(["array", "type", "dimensions", "unit", "what it is"], rows)


def column_table(columns: Sequence[ColumnSpec]) -> str:
    """A table of columns."""
    rows = [[f"`{c.name}`", c.dtype, c.unit or "–", linked(c.doc)] for c in columns]
    return table(["column", "type", "unit", "what it is"], rows)


def names_table() -> str:
    """What the canonical columns are called in each origin of a catalogue."""
    columns = [c.name for c in CATALOGUE_COLUMNS]
    extra = {name for origin in COLUMN_MAPS for name in origin.columns} - set(columns)
    rows = [
        [f"`{name}`"]
        + [", ".join(f"`{n}`" for n in origin.columns.get(name, ()))
           + (" (needed)" if name in origin.needed else "") or "–" for origin in COLUMN_MAPS]
        for name in (*columns, *sorted(extra))
        if any(name in origin.columns for origin in COLUMN_MAPS)
    ]  # fmt: skip
    return table(["here", *(origin.name for origin in COLUMN_MAPS)], rows)


FILES = {
    "ingest": "`arrays/` (not with `copy = false`), `catalogue.parquet`, `lines.parquet`, "
    "`ledger.parquet`, `files.parquet`, `shards.parquet`",
    "label": "`objects/RELEASE.parquet`",
    "prepare": "`arrays/`, `index.parquet`, `dropped.parquet`, `shards.parquet`",
    "train": "`model.safetensors`, `model.json`, `history.parquet`, `baseline.safetensors`, "
    '`fill.safetensors` (with `fill`), `loss.safetensors` (with `loss = "mixture_density"`), '
    "`model_card.json`, `MODEL_CARD.md`, `rows.npz`, `checkpoint/`, `tensorboard/` (curves; "
    "not among the manifest's files)",
    "encode": "`objects/RELEASE.parquet`, `residuals.safetensors`",
    "density": "`flow.safetensors`, `settings.json`, `history.parquet`, `conditional.safetensors` "
    "and `conditional.json` (with `conditional`), `drift_reference.safetensors`, `drift.json` "
    "(with models of another run), `objects/RELEASE.parquet`",
    "embed-flux": "`map.safetensors`, `objects/RELEASE.parquet`",
    "embed-latents": "`map.safetensors`, `objects/RELEASE.parquet`",
    "outliers": "`reference.safetensors`, `objects/RELEASE.parquet`",
    "regions": "`regions.json`, `members.parquet`, `objects/RELEASE.parquet`",
    "stack": "`stacks.parquet`, `indices.parquet`",
    "report": "`index.html`, `figures/NN.png`",
}

LAYOUT = """
## A run

A run is the directory `out` of a job: `job.toml` (the job with all defaults written out),
`run.log`, and one directory a stage. A directory is finished when it has `manifest.json`, which
is written last: kind, fingerprint, parents, settings, versions, counts and figures, checksums of
the other files, and where it ran. An unfinished one has `started.json` instead. Nothing is ever
unpickled: weights and maps are safetensors, tables are Parquet, spectra are Zarr v3.

"""
OBJECTS = """
Per-object results (`objects/`) are one Parquet file a release, with the columns `release`, `row`
and `spectrum_key` first. They are joined by release and row, and the key is checked. The columns
of the joined table are listed in [Python](python.md#the-joined-table).
"""
ARRAYS = """
Arrays are Zarr v3 groups, row-aligned with the tables beside them. A shard (one file) holds
`compute.shard_rows` spectra, a chunk (compressed together) `compute.chunk_rows`; both span all
pixels. Compression is Blosc lz4 with byte-shuffle, then CRC32C. A shard of zeros has no file, so
`shards.parquet` lists all shards with their checksums.
"""


def data_model_page() -> str:
    """Every array and table on disk."""
    folders = {"ingest": "`releases/NAME`", **{k: f"`{v}`" for k, v in FOLDERS.items()}}
    stages = [[stage, folders[stage], FILES[stage]] for stage in folders]
    parts = [
        MADE.format(source="spectra_scale/store/ and surveys/catalogue_columns.py"),
        "\n# Data on disk\n",
        LAYOUT,
        table(["stage", "directory", "files beside `manifest.json`"], stages),
        OBJECTS,
        "\n## Arrays\n",
        ARRAYS,
        "\n### Of a release\n\n",
        "Native pixels of the survey, observed frame, vacuum; the group's attribute\n"
        "`first_pixel` is the k of column 0. SDSS: log10 λ/Å = k·1e-4. DESI, arms merged:\n"
        "λ = 0.8 k Å.\n\n",
        array_table(RELEASE_ARRAYS),
        "\n### Of a sample\n\n",
        "The rest-frame grid, with a coordinate `wavelength` (pixel centres, vacuum Å). With\n"
        '`preset = "reference"` the flux is λF_λ moved to z = 0.1: the manifest\'s `unit` says\n'
        "which. A pixel is good where `ivar` is above 0: there is no separate mask.\n\n",
        array_table(SAMPLE_ARRAYS),
        "\n## Tables\n",
        "\n### catalogue\n\nRows of a release: the survey's own columns, under one name for all\n"
        "origins, and what ingest adds.\n\n",
        column_table((*CATALOGUE_COLUMNS, *CATALOGUE_EXTRA)),
        *(f"\n### {t.name}\n\n{linked(t.doc)}\n\n{column_table(t.columns)}" for t in TABLES),
        "\n## Names of catalogue columns\n\n",
        "The first name found wins, upper and lower case are the same. A file without one of the\n"
        "needed columns is no catalogue.\n\n",
        names_table(),
    ]
    return "".join(parts)


# --- ledger ------------------------------------------------------------------------------------

LEDGER = """
# Ledger: what is not a row, and why

Every file of the source folders and every row of the catalogue ends in one of three places:

- **kept**: a row of the release's catalogue with a spectrum;
- **quarantined**: a row of the catalogue whose spectrum cannot be used. The row stays, with ivar 0
  in all pixels; its `status`, `reason` and `message` say why;
- **the ledger**: a file without a row, a row without a file or that a cut of `[ingest]` leaves
  out, a duplicate, a malformed file, a side file. One line each in `ledger.parquet`, with `reason`
  and `message`; a file of one spectrum whose row is left out has two, as a row and as a file.

Rows and files in must equal what is in these three, or the release is not committed;
`spectra-scale verify` counts again. The column `kind` says what a line stands for: `file`, `row`
(of the catalogue, or of the files' own tables) or `fibre` (a spectrum of a plate, coadd or HDF5
file that is no row).

What a *cut* removes is another matter: the rows of `dropped.parquet` in a sample are good spectra
that the job did not want ([selection](science-choices.md#4-identity-selection-and-split)).

## Reason codes

"""


def ledger_page() -> str:
    """Every reason code."""
    rows = [[f"`{reason.value}`", describe(reason)] for reason in Reason]
    made = MADE.format(source="spectra_scale/surveys/reasons.py")
    return made + LEDGER + table(["reason", "what it means"], rows)


# --- formats -----------------------------------------------------------------------------------

FORMATS_PAGE = """
# Formats

What ingest and label understand, made from the tables that the program itself goes by. Facts about
each format, and what was decided where they are silent, are in [Ingest](ingest.md).

Files are known by their names, columns and HDUs by theirs, without regard to case. Where a name
does not tell, the file is looked into. All may be gzipped; FITS files may be packed by fpack.

## Spectrum files

"""
CATALOGUES = """
## Catalogues

`catalogue` of a `[[release]]`: a table in FITS, CSV or Parquet. The origin with most of its
columns in the file is taken; [all of its names](data-model.md#names-of-catalogue-columns).

"""
LINES_HEAD = """
## Line tables

`lines` of `[label]`: a table in FITS, CSV or Parquet. It is joined by spectrum; tables of another
survey than a release's are not read for it. Without tables, and with spec files, the pipeline's
own fits (SPZLINE or ZLINE) are used.

"""
REFUSED_HEAD = """
## Known and refused

Each is one line of the [ledger](ledger.md).

"""


def formats_page() -> str:
    """Every kind of file that is understood, or refused by name."""
    spectra = [[f"`{f.name}`", f.title, linked_names(f.files)] for f in FORMATS.values()]
    keys = {"sdss": "sdss:PLATE-MJD-FIBER", "sdssv": "sdssv:FIELD-MJD-CATALOGID",
            "desi": "desi:SURVEY-PROGRAM-TARGETID"}  # fmt: skip
    catalogues = [
        [m.name, f"`{keys[m.kind]}`", ", ".join(f"`{m.columns[n][0]}`" for n in m.needed)]
        for m in COLUMN_MAPS
    ]
    lines = [[f"`{f.source}`", f.title, ", ".join(f"`{mark}`" for mark in f.marks)]
             for f in LINE_FORMATS]  # fmt: skip
    refused = [[f"`{reason}`", message] for reason, _, message in REFUSED]
    return "".join([
        MADE.format(source="spectra_scale/surveys/"),
        FORMATS_PAGE,
        table(["format", "what it is", "names of files"], spectra),
        CATALOGUES,
        table(["origin", "names a spectrum", "needed columns"], catalogues),
        LINES_HEAD,
        table(["source", "what it is", "told by its columns"], lines),
        REFUSED_HEAD,
        table(["reason", "what it is"], refused),
    ])  # fmt: skip


def linked_names(names: str) -> str:
    """Names of files as code."""
    return ", ".join(f"`{name}`" for name in names.split(", "))


def pages() -> dict[str, str]:
    """The text of every page made here, by file name."""
    return {
        "settings.md": settings_page(),
        "data-model.md": data_model_page(),
        "ledger.md": ledger_page(),
        "formats.md": formats_page(),
    }


def main() -> None:
    """Write the pages beside this file."""
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
