"""Job files: TOML in, a validated `Job` out, or what was found and expected where it is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from spectra_scale.config import Job
from spectra_scale.errors import UsageError


def read_job(
    path: Path, settings: Sequence[str] = (), sources: Sequence[Path] = (), out: Path | None = None
) -> Job:
    """Read a job file.

    Parameters
    ----------
    path
        The file.
    settings
        Changes as ``path=value``: ``train.epochs=5``, ``release.0.name="dr17"``. The value is
        TOML; what is not TOML is taken as a string.
    sources
        Folders that replace the first release's `source`.
    out
        Replaces `out`.

    Raises
    ------
    UsageError
        If the file does not exist, is not TOML, or a setting is unknown or of a wrong type.
    """
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        msg = f"{path}: found {error.strerror or error}, expected a job file. Correct the path."
        raise UsageError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: not TOML: {error}. Correct the file."
        raise UsageError(msg) from error
    for setting in settings:
        set_value(data, setting)
    if sources:
        releases = data.setdefault("release", [{"name": "release"}])
        releases[0]["source"] = [str(source) for source in sources]
    if out is not None:
        data["out"] = str(out)
    return make_job(data, str(path))


def make_job(data: dict[str, Any], where: str) -> Job:
    """Validate the settings of a job.

    Raises
    ------
    UsageError
        Naming each setting that is unknown, missing or of a wrong type.
    """
    try:
        return Job.model_validate(data)
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors(include_url=False)]
        msg = f"{where}: " + "; ".join(lines) + ". See docs/settings.md for all settings."
        raise UsageError(msg) from error


def ingest_job(
    section: dict[str, Any],
    compute: dict[str, Any],
    *,
    copy: bool,
    limit: int | None,
    settings: Sequence[str],
) -> Job:
    """The job of one `spectra-scale ingest`.

    Parameters
    ----------
    section, compute
        Its `[[release]]` and `[compute]` tables; what is None is left out.
    copy
        `[ingest] copy`.
    limit
        Spectra at most, or None.
    settings
        Further changes, as in `set_value`.

    Raises
    ------
    UsageError
        If a setting is unknown or of a wrong type.
    """
    data: dict[str, Any] = {
        "name": "ingest",
        "out": str(Path(section["path"]).parent),
        "release": [{name: value for name, value in section.items() if value is not None}],
        "compute": {name: value for name, value in compute.items() if value is not None},
        "ingest": {"copy": copy},
    }
    if limit is not None:
        data["limit"] = limit
    for setting in settings:
        set_value(data, setting)
    return make_job(data, "ingest")


def _explain(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "the job"
    if error["type"] == "extra_forbidden":
        return f"unknown setting {place}"
    if error["type"] == "missing":
        return f"missing setting {place}"
    found = "" if isinstance(error["input"], dict | list) else f", found {error['input']!r}"
    return f"{place}: {error['msg'].removeprefix('Value error, ')}{found}"


def set_value(data: dict[str, Any], setting: str) -> None:
    """Change one setting, given as ``path=value``.

    Raises
    ------
    UsageError
        If there is no such place, or no value.
    """
    name, equals, text = setting.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        msg = f"--set {setting}: expected path=value, for instance train.epochs=5"
        raise UsageError(msg)
    place: Any = data
    for i, part in enumerate(parts[:-1]):
        place = _step(place, part, parts[i + 1], setting)
    if not isinstance(place, dict):
        msg = f"--set {setting}: {'.'.join(parts[:-1])} is no table of settings"
        raise UsageError(msg)
    place[parts[-1]] = _value(text)


def _step(place: Any, part: str, following: str, setting: str) -> Any:
    if isinstance(place, list):
        if not part.isdigit() or int(part) >= len(place):
            msg = f"--set {setting}: expected a number from 0 to {len(place) - 1}, found {part}"
            raise UsageError(msg)
        return place[int(part)]
    if not isinstance(place, dict):
        msg = f"--set {setting}: {part} is inside a value, not a table"
        raise UsageError(msg)
    return place.setdefault(part, [{}] if following.isdigit() else {})


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def resolved(job: Job) -> str:
    """The whole job as TOML, defaults included: what a run records as ``job.toml``."""
    return tomli_w.dumps(job.model_dump(mode="json", by_alias=True, exclude_none=True))
