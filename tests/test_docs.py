"""The documentation says what is there: commands, settings, jobs, names and links all exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import spectra_scale
from spectra_scale.cli import app
from spectra_scale.jobfile import make_job, read_job, set_value

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
COMMANDS = typer.main.get_command(app)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MINIMAL: dict[str, Any] = {"name": "job", "out": "out", "release": [{"name": "a"}]}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def blocks(page: Path, *languages: str) -> list[str]:
    """Code blocks of a page in some languages."""
    return [text for kind, text in FENCE.findall(page.read_text()) if kind in languages]


def without_blocks(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def shell_commands(page: Path) -> list[list[str]]:
    """Whole `spectra-scale` commands in the shell blocks of a page."""
    lines = "".join(blocks(page, "sh", "bash", "console")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    starts = [
        (w, next((i for i, x in enumerate(w) if Path(x).name == "spectra-scale"), -1))
        for w in words
    ]
    return [w[i + 1 :] for w, i in starts if i >= 0]


def inline_commands(page: Path) -> list[list[str]]:
    """Mentions of commands in running text, where arguments may be left out."""
    found = re.findall(r"`spectra-scale ([a-z]+(?: [^`]*)?)`", page.read_text())
    return [shlex.split(text) for text in found]


@pytest.fixture(scope="module")
def make_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pages", DOCS / "make_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "data-model.md", "ledger.md", "formats.md"])
def test_a_page_made_from_the_code_is_up_to_date(make_pages, name):
    assert (DOCS / name).read_text() == make_pages.pages()[name], (
        f"docs/{name} has drifted from the code: run .venv/bin/python docs/make_pages.py"
    )


def test_every_setting_has_a_description(make_pages):
    rows = [line for line in make_pages.settings_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith("|  |")] == []


@each_page
def test_whole_commands_of_a_page_parse(page):
    for words in shell_commands(page):
        name, *arguments = words
        assert name in COMMANDS.commands, f"no command {name!r}"
        # Raises for an unknown option, a missing argument or a wrong type.
        COMMANDS.commands[name].make_context(name, arguments)


@each_page
def test_commands_named_in_a_page_exist_with_their_options(page):
    for words in inline_commands(page):
        name, *arguments = words
        assert name in COMMANDS.commands, f"no command {name!r}"
        known = {
            option
            for parameter in COMMANDS.commands[name].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert options <= known


def test_the_commands_of_the_readme_are_really_looked_at():
    names = {words[0] for words in shell_commands(ROOT / "README.md")}
    assert {"run", "plan", "apply", "export", "submit", "status", "verify"} <= names


@each_page
def test_jobs_and_settings_given_to_commands_are_valid(page):
    for name, *arguments in shell_commands(page):
        given = COMMANDS.commands[name].make_context(name, arguments).params
        job, settings = given.get("job"), list(given.get("settings") or ())
        if job is not None and job.parent.name == "jobs":
            read_job(ROOT / job, settings, list(given.get("source") or ()))
        elif settings:
            data = tomllib.loads((ROOT / "jobs" / "demo.toml").read_text())
            for setting in settings:
                set_value(data, setting)
            make_job(data, str(page))


@each_page
def test_every_file_of_jobs_that_a_page_names_ships(page):
    named = set(re.findall(r"jobs/[\w.-]+\.(?:toml|py)\b", page.read_text()))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.toml")), ids=lambda p: p.name)
def test_every_job_that_ships_is_valid_and_named_in_the_docs(job):
    read_job(job)
    assert f"jobs/{job.name}" in (DOCS / "job-files.md").read_text()


@each_page
def test_toml_blocks_are_valid_parts_of_a_job(page):
    for text in blocks(page, "toml"):
        make_job(MINIMAL | tomllib.loads(text), str(page))


@each_page
def test_python_blocks_compile_and_use_names_that_exist(page):
    for text in blocks(page, "python"):
        compile(text, str(page), "exec")
        for dotted in re.findall(r"\bss((?:\.\w+)+)", text):
            thing: Any = spectra_scale
            for name in dotted.strip(".").split("."):
                thing = getattr(thing, name)
        for module, names in re.findall(r"^from (spectra_scale[\w.]*) import (.+)$", text, re.M):
            found = importlib.import_module(module)
            assert [n for n in names.split(", ") if not hasattr(found, n)] == []


@each_page
def test_relative_links_of_a_page_resolve(make_pages, page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no such file"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", without_blocks(file), re.MULTILINE)
            assert anchor in {make_pages.slug(heading) for heading in headings}, target


def test_pictures_are_small():
    pictures = [path for path in (DOCS / "images").iterdir() if path.is_file()]
    assert pictures
    # A clone should stay quick: 300 kB is enough for a figure of 1200 pixels.
    assert [path.name for path in pictures if path.stat().st_size > 300_000] == []


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    # A page that is read offline must not wait for a font or a script from elsewhere.
    page = (tmp_path / "index.html").read_text()
    assert re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', page) == []
