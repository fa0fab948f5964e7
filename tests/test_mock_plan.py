"""Settings of a mock release, its plan, and which of its parts are written."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.errors import UsageError
from spectra_scale.mock.kinds import KINDS, SELECTED
from spectra_scale.mock.plan import plan, select, twin_of
from spectra_scale.mock.positions import chosen_objects, positions
from spectra_scale.mock.settings import MockSettings, survey_fractions
from spectra_scale.mock.targets import target_classes
from spectra_scale.mock.task import MockTask

THREE = MockSettings(
    n_spectra=3000, n_spec_files=100, n_full_files=7, boss_fraction=0.3, desi_fraction=0.3,
    repeat_fraction=0.03, fibers_desi=120,
)  # fmt: skip


@given(
    n=st.integers(1, 3000),
    share=st.floats(0, 1),
    boss=st.floats(0, 0.5),
    desi=st.floats(0, 0.5),
    repeats=st.floats(0, 0.3),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_holds_every_spectrum_once_and_every_plate_once(n, share, boss, desi, repeats):
    mock = MockSettings(
        n_spectra=n,
        n_spec_files=int(share * (n - round(desi * n))),
        boss_fraction=boss,
        desi_fraction=desi,
        repeat_fraction=repeats,
        fibers_legacy=64,
        fibers_boss=100,
        fibers_desi=50,
    )
    tasks = plan(mock)
    assert sum(task.n_science for task in tasks) == n
    assert len({task.plate for task in tasks}) == len(tasks)
    assert len({task.name for task in tasks}) == len(tasks)
    assert all(0 < task.n_science <= mock.fibers(task.survey) for task in tasks)
    assert sum(t.n_science for t in tasks if t.layout == "spec") == mock.n_spec_files
    assert all((t.survey == "desi") == (t.layout == "healpix") for t in tasks)
    assert pickle.loads(pickle.dumps(tasks)) == tasks


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_spectra": 0},
        {"n_spec_files": 6000},
        {"n_full_files": 201},
        {"boss_fraction": 1.2},
        {"boss_fraction": 0.7, "desi_fraction": 0.4},
        {"desi_fraction": 1.0},
        {"sky_fraction": 0.8},
        {"fibers_boss": 1},
        {"fibers_desi": 1},
        {"seed": -1},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError):
        MockSettings(**wrong)


def test_shares_of_kinds_must_be_of_known_kinds_and_sum_to_one():
    for wrong, words in (
        ({"seyfert": 0.5, "liner": 0.6}, "sum to 1.1"),
        ({"seyfert": 1.5, "liner": -0.5}, "0 or more|between 0 and 1"),
        ({}, "sum to 0"),
        ({"seyfert": float("nan"), "liner": 1.0}, "sum to nan|between 0 and 1"),
        ({"seyfert": 0.5, "blob": 0.5}, "names blob"),
        ({"star": 1.0}, "star_fraction"),
    ):
        with pytest.raises(UsageError, match=words) as refused:
            MockSettings(class_fractions=wrong)
        # What is no share at all is refused before its kind is looked at.
        if "between 0 and 1" not in str(refused.value):
            assert all(kind in str(refused.value) for kind in SELECTED)
    some = MockSettings(class_fractions={"seyfert": 0.25, "passive": 0.75}).class_shares()
    assert some["seyfert"] == 0.25
    assert set(some) == set(SELECTED) < set(KINDS)
    for shares in (some, MockSettings().class_shares()):
        assert sum(shares.values()) == pytest.approx(1)


def test_an_unknown_survey_is_refused_by_name():
    for act in (survey_fractions, MockSettings().fibers, MockSettings().run2d):
        with pytest.raises(UsageError, match="sdss, boss, desi"):
            act("2df")
    assert MockSettings(**survey_fractions("sdss")).boss_fraction == 0


def test_more_plates_than_plate_numbers_are_refused():
    with pytest.raises(UsageError, match="plate numbers"):
        plan(MockSettings(n_spectra=2_000_000, boss_fraction=0))


def test_the_release_of_the_paper_has_its_repeats():
    mock = MockSettings(n_spectra=280_000)
    repeats = [task for task in plan(mock) if task.is_repeat]
    assert sum(task.n_science for task in repeats) == 2800
    assert {(t.source_survey, t.survey) for t in repeats} == {("sdss", "sdss"), ("sdss", "boss")}


def test_shares_of_surveys_and_files_are_those_asked_for():
    tasks = plan(THREE)
    n = {s: sum(t.n_science for t in tasks if t.survey == s) for s in ("sdss", "boss", "desi")}
    # Repeats, 3 %, are shared in thirds, and not by these fractions.
    assert n["boss"] == pytest.approx(0.3 * 3000, abs=45)
    assert n["desi"] == pytest.approx(0.3 * 3000, abs=45)
    assert sum(task.n_full for task in tasks) == 7
    assert all(task.n_full <= task.n_science for task in tasks)
    programs = [task.program for task in tasks if task.layout == "healpix" and not task.is_repeat]
    assert abs(programs.count("bright") - programs.count("dark")) <= 1


def test_a_repeat_is_at_the_same_place_as_the_first_observation():
    tasks = plan(THREE)
    source = {task.plate: task for task in tasks}
    repeats = [task for task in tasks if task.is_repeat]
    assert {task.survey for task in repeats} == {"sdss", "boss", "desi"}
    for repeat in repeats:
        _, ra, dec = positions(repeat)
        _, ra0, dec0 = positions(source[repeat.source_plate])
        chosen = chosen_objects(repeat)
        assert len(ra) == len(chosen) == repeat.n_science
        np.testing.assert_array_equal(ra, ra0[chosen])
        np.testing.assert_array_equal(dec, dec0[chosen])


def test_pixels_of_their_own_never_meet_pixels_over_plates():
    tasks = [task for task in plan(THREE) if task.layout == "healpix"]
    assert {task.healpix % 2 for task in tasks if not task.is_repeat} == {0}
    over = [task for task in tasks if task.source_survey != "desi"]
    assert over
    assert {task.healpix % 2 for task in over} == {1}
    assert {task.healpix % 2 for task in tasks if task not in over} == {0}


def test_desi_observes_some_targets_in_both_programs():
    for mock in (THREE, MockSettings(n_spectra=2000, n_spec_files=0, repeat_fraction=0.02,
                                     boss_fraction=0, desi_fraction=1)):  # fmt: skip
        tasks = plan(mock)
        again = [t for t in tasks if t.is_repeat and t.source_survey == t.survey == "desi"]
        assert again
        for task in again:
            source = next(t for t in tasks if t.plate == task.source_plate)
            assert (task.healpix, task.n_source) == (source.healpix, source.n_science)
            assert {task.program, source.program} == {"bright", "dark"}
            assert task.mjd > source.mjd
            # Each knows of the other from the settings alone.
            assert twin_of(task, mock) == source
            assert twin_of(source, mock) == task
            for mine, theirs in zip(positions(task)[1:], positions(source)[1:], strict=True):
                np.testing.assert_array_equal(mine, theirs[: task.n_science])
        assert sum(twin_of(task, mock) is not None for task in tasks) == 2 * len(again)


def test_a_release_of_desi_alone_has_its_repeats():
    mock = MockSettings(n_spectra=5000, n_spec_files=0, boss_fraction=0, desi_fraction=1)
    assert sum(task.n_science for task in plan(mock) if task.is_repeat) == 50


def test_parts_are_chosen_by_number_and_others_are_refused():
    tasks = plan(THREE)
    pixel = next(task.healpix for task in tasks if task.layout == "healpix")
    assert select(tasks, None, None) == tasks
    chosen = select(tasks, [266, 3600], [pixel])
    assert {task.plate for task in chosen if task.layout != "healpix"} == {266, 3600}
    # Both programs of the pixel.
    assert {task.program for task in chosen if task.healpix == pixel} == {"bright", "dark"}
    with pytest.raises(UsageError, match=r"plate 7, 8: not in this release.*266, 267"):
        select(tasks, [266, 8, 7], None)
    with pytest.raises(UsageError, match="healpixel 1: not in this release"):
        select(tasks, None, [1])


def test_a_full_plate_does_not_depend_on_the_size_of_the_release():
    def first(n: int, survey: str) -> MockTask:
        mock = MockSettings(
            n_spectra=n, n_spec_files=0, boss_fraction=0.3, desi_fraction=0.3, fibers_legacy=20,
            fibers_boss=20, fibers_desi=20,
        )  # fmt: skip
        return next(task for task in plan(mock) if task.survey == survey)

    for survey in ("sdss", "boss", "desi"):
        assert first(150, survey) == first(1000, survey)


def test_surveys_take_objects_for_their_own_reasons():
    tasks = plan(THREE)
    kind = np.tile(np.arange(len(KINDS)), 200)
    redshift = np.linspace(0.02, 0.6, len(kind))
    magnitude = np.linspace(16, 21, len(kind))
    for survey, program, expected in (
        ("sdss", None, {"standard", "qso", "lrg", "main-galaxy"}),
        ("boss", None, {"standard", "qso", "lowz", "cmass", "ancillary"}),
        ("desi", "bright", {"standard", "qso", "bgs-bright", "bgs-faint"}),
        ("desi", "dark", {"standard", "qso", "lrg", "elg"}),
    ):
        task = next(
            t for t in tasks
            if t.survey == survey and program in {None, t.program} and not t.is_repeat
        )  # fmt: skip
        n = task.n_science
        found = target_classes(task, kind[:n], redshift[:n], magnitude[:n])
        assert set(found) <= expected
        assert len(set(found)) >= 3
        assert (found[kind[:n] == KINDS.index("star")] == "standard").all()
