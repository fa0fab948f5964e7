"""Job files: what is refused and in which words, and that a job written out is the same job."""

import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.config import Job
from spectra_scale.errors import UsageError
from spectra_scale.jobfile import make_job, read_job, resolved, set_value
from spectra_scale.planning import check

JOBS = Path(__file__).parents[1] / "jobs"
BOW_TIE = [[0, 0], [1, 1], [1, 0], [0, 1]]
PLAIN = {"name": "a", "out": "o", "release": [{"name": "dr7", "source": ["in"]}]}


def job(tmp_path, text="", **changes):
    path = tmp_path / "job.toml"
    path.write_text(text or tomli_w.dumps(PLAIN | changes))
    return path


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_job_that_ships_is_valid(path):
    found = read_job(path)
    assert found.name == path.stem
    # Not by leaving the settings away: each table of the file is in the job.
    for table, values in tomllib.loads(path.read_text()).items():
        if isinstance(values, dict):
            written = getattr(found, table).model_dump(mode="json", by_alias=True)
            assert {key: written[key] for key in values} == values


def test_there_are_the_three_jobs_of_the_readme():
    assert {path.stem for path in JOBS.glob("*.toml")} >= {"demo", "paper", "real-sdss"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trian": {"epochs": 3}}, ["unknown setting trian"]),
        ({"train": {"epoch": 3}}, ["unknown setting train.epoch"]),
        ({"release": [{"name": "dr7", "sources": ["x"]}]}, ["unknown setting release.0.sources"]),
        ({"train": {"epochs": "many"}}, ["train.epochs", "integer", "found 'many'"]),
        ({"train": {"epochs": 0}}, ["train.epochs", "greater than or equal to 1", "found 0"]),
        ({"train": {"loss": "mse"}}, ["train.loss", "'chi2'", "found 'mse'"]),
        ({"train": {"learning_rate": -1.0}}, ["train.learning_rate", "greater than 0"]),
        ({"prepare": {"z_min": 0.4}}, ["prepare", "z_min = 0.4, z_max = 0.36"]),
        ({"prepare": {"min_snr": float("nan")}}, ["prepare.min_snr", "finite"]),
        ({"compute": {"shard_rows": 1000}}, ["compute", "multiple of chunk_rows"]),
        ({"embed": {"max_fit": 15}}, ["embed", "max_fit = 15, n_neighbors = 15"]),
        ({"release": []}, ["at least one [[release]]"]),
        ({"release": [{"name": "a"}, {"name": "a"}]}, ["release names must differ"]),
        ({"release": [{"name": "../a"}]}, ["release.0.name", "found '../a'"]),
        ({"name": "a b"}, ["name", "found 'a b'"]),
        (
            {"regions": {"boxes": [{"name": "b", "x": [1.0, 0.0], "y": [0.0, 1.0]}]}},
            ["box b", "[low, high]"],
        ),
        (
            {
                "regions": {
                    "boxes": [{"name": "b", "x": [0.0, 1.0], "y": [0.0, 1.0]}],
                    "polygons": [{"name": "b", "vertices": [[0, 0], [1, 0], [0, 1]]}],
                }
            },
            ["regions", "must differ", "['b', 'b']"],
        ),
        ({"train": 3}, ["train"]),
        (
            {"train": {"initial": "linear", "hidden": [800, 19]}},
            ["train", "at least 20 units", "[800, 19]"],
        ),
        ({"train": {"hidden": []}}, ["train.hidden", "at least 1 item"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_place_and_what_was_found(tmp_path, changes, words):
    path = job(tmp_path, **changes)
    with pytest.raises(UsageError) as error:
        read_job(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    for word in words:
        assert word in message, message
    assert error.value.exit_code == 2
    assert "docs/settings.md" in message


def test_all_wrong_settings_are_named_at_once(tmp_path):
    with pytest.raises(UsageError) as error:
        read_job(job(tmp_path, train={"epoch": 1, "seed": -1}, nonsense=1))
    for word in ("train.epoch", "train.seed", "unknown setting nonsense"):
        assert word in str(error.value)


def test_a_missing_setting_is_named(tmp_path):
    with pytest.raises(UsageError, match="missing setting out"):
        read_job(job(tmp_path, text='name = "a"\n[[release]]\nname = "b"\n'))


def test_a_file_that_is_not_there_or_is_no_toml_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml: found No such file"):
        read_job(tmp_path / "none.toml")
    with pytest.raises(UsageError, match=r"found Is a directory"):
        read_job(tmp_path)
    with pytest.raises(UsageError, match="not TOML"):
        read_job(job(tmp_path, text="epochs = = 3"))
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not TOML"):
        read_job(tmp_path / "job.toml")


# --set -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.epochs=5", lambda j: j.train.epochs == 5),
        ("train.learning_rate=1e-2", lambda j: j.train.learning_rate == 0.01),
        ("train.hidden=[32, 16]", lambda j: j.train.hidden == (32, 16)),
        ('train.classes=["passive"]', lambda j: j.train.classes == ("passive",)),
        ("train.snr_cap=off", lambda j: j.train.snr_cap == "off"),
        ("prepare.deredden=true", lambda j: j.prepare.deredden is True),
        ("report.title=Map of x = y", lambda j: j.report.title == "Map of x = y"),
        ("report.title=", lambda j: j.report.title == ""),
        ("release.0.name=dr17", lambda j: j.release[0].name == "dr17"),
        ('release.0.source=["a", "b"]', lambda j: len(j.release[0].source) == 2),
        ("models.from=runs/demo", lambda j: str(j.models.source) == "runs/demo"),
        ("mock.path=m", lambda j: str(j.mock.path) == "m"),
        ("limit=7", lambda j: j.limit == 7),
    ],
)  # fmt: skip
def test_any_setting_may_be_changed_on_the_command_line(tmp_path, setting, value):
    changes = {"report": {"title": "-"}, "mock": {"path": "-"}}
    path = job(tmp_path, **changes)
    assert not value(read_job(path))
    assert value(read_job(path, [setting]))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epochs", "expected path=value"),
        ("=5", "expected path=value"),
        ("train..epochs=5", "expected path=value"),
        ("train.epochs.x=5", "train.epochs is no table|unknown|train.epochs"),
        ("release.3.name=x", "from 0 to 0, found 3"),
        ("release.first.name=x", "from 0 to 0, found first"),
        ("name.x.y=1", "inside a value|no table"),
        ("train.epochs=five", "found 'five'"),
        ("train.epoch=5", "unknown setting train.epoch"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(tmp_path, setting, words):
    with pytest.raises(UsageError, match=words):
        read_job(job(tmp_path), [setting])


def test_source_and_out_replace_those_of_the_file(tmp_path):
    found = read_job(job(tmp_path), (), [Path("x"), Path("y")], Path("other"))
    assert [str(p) for p in found.release[0].source] == ["x", "y"]
    assert found.release[0].name == "dr7"
    assert found.out == Path("other")


names = st.from_regex(r"[a-z]{1,6}", fullmatch=True)


@given(
    st.lists(names, min_size=1, max_size=4),
    st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | names,
)
def test_setting_a_value_puts_it_where_the_path_says(path, value):
    data = {}
    text = tomli_w.dumps({"v": value}).partition("=")[2].strip()
    set_value(data, f"{'.'.join(path)}={text}")
    for part in path:
        data = data[part]
    assert data == value
    assert type(data) is type(value)


# Written out -------------------------------------------------------------------------------------


@st.composite
def jobs(draw):
    data = dict(PLAIN)
    if draw(st.booleans()):
        data["limit"] = draw(st.integers(1, 10**9))
    if draw(st.booleans()):
        data["mock"] = {"path": "m", "seed": draw(st.integers(0, 2**40))}
    if draw(st.booleans()):
        data["models"] = {"from": "runs/x"}
    data["train"] = {
        "hidden": draw(st.lists(st.integers(1, 2000), min_size=1, max_size=4)),
        "learning_rate": draw(st.floats(1e-9, 1e3)),
        "snr_cap": draw(st.sampled_from(["off", 10.0, 50.0])),
        "classes": draw(st.lists(st.sampled_from(["N/A", "broad-line"]), max_size=2)),
    }
    data["prepare"] = {"zwarning_ignore_bits": draw(st.lists(st.integers(0, 31), max_size=3))}
    data["report"] = {"title": draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=9))}
    if draw(st.booleans()):
        box = {"name": "b", "sequence": "top", "x": [0.1, 0.5], "y": [-1.0, 1.0]}
        polygon = {"name": "A", "vertices": [[0.0, 0.0], [1.0, 0.0], [0.3, 1e-3]], "labels": []}
        data["regions"] = {"boxes": [box], "polygons": [polygon]}
    return data


@settings(max_examples=60)
@given(jobs())
def test_a_job_written_out_is_the_same_job(data):
    found = make_job(data, "test")
    again = make_job(tomllib.loads(resolved(found)), "again")
    assert again == found
    assert resolved(again) == resolved(found)


def test_what_a_run_records_names_the_defaults_too():
    text = resolved(make_job(PLAIN, "test"))
    assert "epochs = 200" in text
    assert "[density]" in text


# Paths -------------------------------------------------------------------------------------------


def made(tmp_path, **changes):
    (tmp_path / "in").mkdir(exist_ok=True)
    release = {"name": "dr7", "source": [str(tmp_path / "in")]}
    data = {"name": "a", "out": str(tmp_path / "o"), "release": [release]} | changes
    return make_job(data, "test")


def test_a_job_whose_paths_are_there_passes(tmp_path):
    check(made(tmp_path))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"release": [{"name": "x", "source": ["none"]}]}, "release x: source: .* none, expected"),
        (
            {"release": [{"name": "x", "source": [str(JOBS)], "catalogue": "none.fits"}]},
            "release x: catalogue: found nothing at none.fits",
        ),
        ({"release": [{"name": "x"}]}, "release x: .*expected a finished release"),
        ({"label": {"lines": ["none.fits"]}}, "label.lines: found nothing at none.fits"),
        ({"report": {"composite": "none.txt"}}, "report.composite: .*none.txt"),
        ({"models": {"from": "none"}}, "models.from: .*finished run"),
        (
            {"regions": {"polygons": [{"name": "A", "vertices": BOW_TIE}]}},
            "regions.polygons A",
        ),
    ],
)  # fmt: skip
def test_what_is_not_there_or_cannot_be_is_named_before_anything_runs(tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        check(made(tmp_path, **changes))
    assert not (tmp_path / "o").exists()


def test_an_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "o").write_text("mine")
    with pytest.raises(UsageError, match="found a file at"):
        check(made(tmp_path))


def test_what_the_mock_will_write_need_not_be_there(tmp_path):
    mock = tmp_path / "mock"
    inside = {"name": "m", "source": [str(mock)], "catalogue": str(mock / "specObj-mock.fits")}
    check(made(tmp_path, mock={"path": str(mock)}, release=[inside]))
    beside = inside | {"catalogue": str(tmp_path / "mock-other.fits")}
    with pytest.raises(UsageError, match="catalogue"):
        check(made(tmp_path, mock={"path": str(mock)}, release=[beside]))


def test_a_job_is_frozen():
    with pytest.raises(Exception, match="frozen"):
        make_job(PLAIN, "x").train.epochs = 3
    assert Job.model_config["extra"] == "forbid"
