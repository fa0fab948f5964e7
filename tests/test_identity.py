"""Keys, specObjIDs, objects on the sky, repeats and the split (science.md §4, formats.md A3)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.identity import (
    desi_key,
    harmonise_split,
    primary_of_groups,
    sdss_key,
    sdss_specobjid,
    sdssv_key,
    sky_groups,
    split_of_cells,
    superseded,
    unpack_specobjid,
)


def test_keys_are_plain_numbers_whatever_the_column_type():
    expected = ["sdss:266-51602-1", "sdss:10500-58000-1000"]
    assert sdss_key([266, 10500], [51602, 58000], [1, 1000]).tolist() == expected
    assert sdss_key(["0266", "10500"], ["51602", "58000"], ["0001", "1000"]).tolist() == expected
    narrow = np.array([266, 10500], dtype=np.int16)
    assert sdss_key(narrow, np.array([51602.0, 58000.0]), [1, 1000]).tolist() == expected
    assert sdssv_key("015000", 59146, "04375787180").tolist() == ["sdssv:15000-59146-4375787180"]
    keys = desi_key([b"sv3 ", b"main"], "dark", [39628368387245557, -5])
    assert keys.tolist() == ["desi:sv3-dark-39628368387245557", "desi:main-dark--5"]
    assert sdss_key([], [], []).shape == (0,)


def test_keys_refuse_what_is_no_number():
    with pytest.raises(SpectraScaleError, match="MJD holds fractions or NaN"):
        sdss_key([266], [np.nan], [1])
    with pytest.raises(SpectraScaleError, match="FIBERID holds -1"):
        sdss_key([266], [51602], [-1])
    with pytest.raises(SpectraScaleError, match="PLATE holds something else"):
        sdss_key(["x"], [51602], [1])
    with pytest.raises(SpectraScaleError, match="differ in length"):
        sdss_key([1, 2], [51602, 51602, 51602], [1])


def test_specobjid_equals_the_values_pydl_and_idlutils_give():
    # formats.md A3, checked there against pydl 1.0.1.
    ids = sdss_specobjid([266, 3606], [1, 679], [51602, 55182], ["26", "v5_13_0"])
    assert ids.dtype == np.uint64
    assert ids.tolist() == [299489676975171584, 4060181793114181632]


@given(
    st.integers(0, 2**14 - 1),
    st.integers(0, 2**12 - 1),
    st.integers(50000, 50000 + 2**14 - 1),
    st.sampled_from(["26", "103", "104", "v5_4_45", "v5_13_2", "v6_0_4"]),
)
def test_specobjid_comes_apart_into_what_it_was_made_of(plate, fiber, mjd, run2d):
    packed = sdss_specobjid([plate], [fiber], [mjd], [run2d])
    for column in (packed, np.array([f"  {packed[0]}"])):
        parts = unpack_specobjid(column)
        assert (parts.plate[0], parts.fiber[0], parts.mjd[0]) == (plate, fiber, mjd)
        assert parts.run2d[0] == run2d


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16384, 1, 51602, "26"), "plate runs from 16384"),
        ((266, 4096, 51602, "26"), "fiber runs from"),
        ((266, 1, 49999, "26"), "mjd runs from 49999"),
        ((266, 1, 66384, "26"), "66384"),
        ((266, 1, 51602, "v7_0_0"), "RUN2D 'v7_0_0'"),
        ((266, 1, 51602, ""), "RUN2D ''"),
        ((266, 1, 51602, "v6_99_99"), "run2d runs from"),
    ],
)
def test_specobjid_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(SpectraScaleError, match=message):
        sdss_specobjid(*arguments)


# Sky ------------------------------------------------------------------------------------------


def brute_force_groups(ra: np.ndarray, dec: np.ndarray, radius: float) -> list[set[int]]:
    """Friends of friends by the haversine distance of all pairs."""
    a, d = np.deg2rad(ra), np.deg2rad(dec)
    half = np.sin((d[:, None] - d) / 2) ** 2
    half = half + np.cos(d[:, None]) * np.cos(d) * np.sin((a[:, None] - a) / 2) ** 2
    linked = np.rad2deg(2 * np.arcsin(np.sqrt(half))) * 3600 <= radius
    groups: list[set[int]] = []
    left = set(range(ra.size))
    while left:
        group, edge = set(), {left.pop()}
        while edge:
            group |= edge
            edge = {int(j) for i in edge for j in np.flatnonzero(linked[i])} - group
        left -= group
        groups.append(group)
    return groups


def as_partition(group: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(group == number).tolist()) for number in np.unique(group)}


@pytest.mark.parametrize("centre", [(180.0, 0.0), (0.0, 30.0), (40.0, 89.9995), (10.0, -89.9999)])
def test_sky_groups_are_those_of_brute_force(centre):
    # Around RA 0 and the poles, where plain coordinate differences fail. 150 points in a field of
    # 30" link to some and not to others; no pair sits on the limit to rounding.
    rng = np.random.default_rng(7)
    step = rng.uniform(-15, 15, (2, 150)) / 3600
    dec = np.clip(centre[1] + step[1], -90, 90)
    ra = (centre[0] + step[0] / max(np.cos(np.deg2rad(centre[1])), 1e-4)) % 360
    found = as_partition(sky_groups(ra, dec))
    assert found == {frozenset(group) for group in brute_force_groups(ra, dec, 1.5)}
    assert 5 < len(found) < 150


def test_the_link_is_1_5_arcsec_and_friends_of_friends_chain():
    dec = np.array([0.0, 1.49, 2.98, 4.49, 100.0]) / 3600
    assert sky_groups(np.zeros(5), dec).tolist() == [0, 0, 0, 1, 2]
    assert sky_groups(np.zeros(5), dec, radius_arcsec=1.0).tolist() == [0, 1, 2, 3, 4]


def test_right_ascension_wraps():
    ra = np.array([359.9999, 0.0001, -0.0001])
    assert sky_groups(ra, np.zeros(3)).tolist() == [0, 0, 0]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_group_numbers_follow_the_sky_and_not_the_order_of_rows(seed):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 0.01, 80), rng.uniform(-0.005, 0.005, 80)
    order = rng.permutation(80)
    group = sky_groups(ra, dec)
    np.testing.assert_array_equal(sky_groups(ra[order], dec[order]), group[order])
    southern = [dec[group == number].min() for number in range(group.max() + 1)]
    assert southern == sorted(southern)


def test_objects_without_a_position_stay_alone():
    ra = np.array([10.0, np.nan, np.nan, -9999.0, -9999.0, 10.0])
    dec = np.array([5.0, 5.0, np.nan, -9999.0, -9999.0, 5.0])
    assert sky_groups(ra, dec).tolist() == [0, 1, 2, 3, 4, 0]
    assert sky_groups(np.array([]), np.array([])).shape == (0,)
    assert sky_groups([np.nan], [np.nan]).tolist() == [0]


# Repeats --------------------------------------------------------------------------------------


def test_the_primary_has_the_highest_signal_and_ties_go_to_the_smallest_key():
    group = np.array([3, 3, 3, 5, 5, 9, 9])
    snr = np.array([1.0, 8.0, np.nan, 4.0, 4.0, np.nan, np.nan])
    key = np.array(["a", "b", "c", "e", "d", "g", "f"])
    expected = [False, True, False, False, True, False, True]
    assert primary_of_groups(group, snr, key).tolist() == expected
    eligible = np.array([True, False, True, False, False, True, True])
    expected = [True, False, False, False, False, False, True]
    assert primary_of_groups(group, snr, key, eligible).tolist() == expected


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_one_primary_an_object_in_any_order(seed):
    rng = np.random.default_rng(seed)
    group, snr = rng.integers(0, 10, 50), rng.integers(0, 3, 50).astype(float)
    key = np.array([f"sdss:{i}" for i in range(50)])
    primary = primary_of_groups(group, snr, key)
    assert sorted(group[primary]) == sorted(set(group.tolist()))
    order = rng.permutation(50)
    again = primary_of_groups(group[order], snr[order], key[order])
    np.testing.assert_array_equal(again, primary[order])


def test_a_key_in_a_newer_release_supersedes_the_older_row():
    key = np.array(["a", "b", "a", "c", "a", "b"])
    release = np.array([0, 1, 1, 2, 3, 1])
    assert superseded(key, release).tolist() == [True, False, True, False, False, False]


# Split ----------------------------------------------------------------------------------------


def splitmix64(number: int) -> int:
    """First output of SplitMix64 seeded with a number, in Python integers."""
    word = 2**64 - 1
    z = (number + 0x9E3779B97F4A7C15) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return z ^ (z >> 31)


def test_the_split_is_splitmix64_below_three_quarters():
    # The published first outputs of SplitMix64 for seed 1234567 and 0 pin the reference itself.
    assert splitmix64(1234567) == 6457827717110365317
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    cells = np.array([0, 1, 2, 3, 1234567, 12 * 512**2 - 1, -1])
    expected = [splitmix64(int(cell) % 2**64) < 3 * 2**62 for cell in cells]
    assert split_of_cells(cells).tolist() == expected


def test_the_split_is_three_to_one_and_depends_on_the_cell_alone():
    cells = np.arange(12 * 512**2)
    training = split_of_cells(cells)
    # A fair hash of n cells: binomial, 5 sigma.
    assert abs(training.mean() - 0.75) < 5 * np.sqrt(0.75 * 0.25 / cells.size)
    for block in np.split(training, 48):
        assert abs(block.mean() - 0.75) < 5 * np.sqrt(0.75 * 0.25 / block.size)
    order = np.random.default_rng(1).permutation(cells.size)
    np.testing.assert_array_equal(split_of_cells(cells[order]), training[order])


def test_repeats_across_a_cell_border_follow_their_primary():
    training = np.array([True, False, False, True, False, True, False])
    group = np.array([0, 0, 1, 1, 2, 3, 3])
    primary = np.array([False, True, False, True, True, False, False])
    expected = [False, False, True, True, False, True, True]
    assert harmonise_split(training, group, primary).tolist() == expected
    with pytest.raises(SpectraScaleError, match="object 0 has 2 primary"):
        harmonise_split(training, group, np.ones(7, dtype=bool))
