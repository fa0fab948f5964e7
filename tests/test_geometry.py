"""Boxes and polygons on the map, drawn by hand or by themselves (science.md §9)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path

from spectra_scale.errors import UsageError
from spectra_scale.spectrum.auto_regions import auto_broad_polygons, auto_sequence_boxes
from spectra_scale.spectrum.classify import Label
from spectra_scale.spectrum.geometry import (
    check_polygon,
    points_in_box,
    points_in_polygon,
)

STAR = np.array([[0, 0], [4, 1], [8, 0], [6, 4], [8, 8], [4, 6], [0, 8], [2, 4]], dtype=float)


def test_a_box_holds_its_boundary_and_nothing_that_is_not_a_number():
    x = np.array([0.0, 1.0, 0.5, 1.0 + 1e-15, np.nan, 0.5])
    y = np.array([0.0, 2.0, 1.0, 1.0, 1.0, np.nan])
    inside = points_in_box(x, y, (0.0, 1.0, 0.0, 2.0))
    assert inside.tolist() == [True, True, True, False, False, False]
    assert points_in_box([3.0], [4.0], (3.0, 3.0, 4.0, 4.0)).tolist() == [True]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1.0, 0.0, 0.0, 1.0), "low end first"),
        ((0.0, 1.0, 2.0, 1.0), "low end first"),
        ((0.0, np.inf, 0.0, 1.0), "four finite numbers"),
        ((0.0, 1.0, 0.0), "four finite numbers"),
    ],
)
def test_a_box_that_makes_no_sense_is_refused(box, message):
    with pytest.raises(UsageError, match=message):
        points_in_box([0.0], [0.0], box)


def test_a_polygon_agrees_with_matplotlib_off_its_boundary():
    rng = np.random.default_rng(3)
    points = rng.uniform(-1, 9, (20_000, 2))
    inside = points_in_polygon(points[:, 0], points[:, 1], STAR)
    # No random float64 point falls on an edge, where matplotlib's answer is undefined.
    np.testing.assert_array_equal(inside, Path(STAR).contains_points(points))
    reverse = points_in_polygon(points[:, 0], points[:, 1], STAR[::-1])
    np.testing.assert_array_equal(inside, reverse)
    closed = points_in_polygon(points[:, 0], points[:, 1], np.vstack((STAR, STAR[:1])))
    np.testing.assert_array_equal(inside, closed)


def exactly_inside(x: int, y: int, corners: np.ndarray) -> bool:
    """Boundary or odd crossings, in rational numbers."""
    odd = False
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        a, b = (int(x1), int(y1)), (int(x2), int(y2))
        cross = (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        within = min(a[0], b[0]) <= x <= max(a[0], b[0]) and min(a[1], b[1]) <= y <= max(
            a[1], b[1]
        )
        if cross == 0 and within:
            return True
        if (a[1] > y) != (b[1] > y):
            at = a[0] + Fraction((y - a[1]) * (b[0] - a[0]), b[1] - a[1])
            odd ^= x < at
    return odd


def test_edges_and_vertices_are_inside():
    # Whole numbers: edges pass exactly through many of them.
    y, x = (axis.ravel() for axis in np.mgrid[-1:10, -1:10])
    expected = [exactly_inside(int(a), int(b), STAR) for a, b in zip(x, y, strict=True)]
    assert points_in_polygon(x, y, STAR).tolist() == expected
    assert points_in_polygon(STAR[:, 0], STAR[:, 1], STAR).all()
    assert points_in_polygon([np.nan, np.inf, 4.0], [4.0, 4.0, np.nan], STAR).sum() == 0


triangles = st.lists(
    st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=3, max_size=3, unique=True
).filter(
    lambda p: (
        (p[1][0] - p[0][0]) * (p[2][1] - p[0][1]) != (p[1][1] - p[0][1]) * (p[2][0] - p[0][0])
    )
)


@given(triangles, st.integers(-20, 20), st.integers(-20, 20))
def test_membership_in_whole_numbers_is_exact(corners, x, y):
    vertices = np.array(corners, dtype=np.float64)
    assert points_in_polygon([x], [y], vertices)[0] == exactly_inside(x, y, vertices)


@pytest.mark.parametrize(
    ("vertices", "message"),
    [
        ([[0, 0], [1, 1]], "found 2 different vertices"),
        ([[0, 0], [1, 1], [0, 0]], "found 2 different vertices"),
        ([[0, 0], [1, 1], [np.nan, 0]], "not finite"),
        ([[0, 0], [1, 1], [1, 0], [0, 1]], "cross"),  # a bow tie
        ([[0, 0], [2, 0], [2, 2], [1, 0], [0, 2]], "cross, touch"),  # a vertex on an edge
        ([[0, 0], [0, 0], [1, 1], [1, 0]], "no length"),
        ([[0, 0], [1, 1], [2, 2]], "cross, touch"),  # no area
        ([[0, 0], [2, 0], [2, 2], [2, 1]], "cross, touch|edges"),  # a spike
        ([0, 1, 2], "shape"),
    ],
)
def test_a_polygon_that_makes_no_sense_is_refused(vertices, message):
    with pytest.raises(UsageError, match=message):
        points_in_polygon([0.0], [0.0], vertices)


def test_a_small_polygon_is_as_good_as_a_large_one():
    # Products of cross products would underflow here.
    tiny = STAR * 1e-90
    assert points_in_polygon(tiny[:, 0], tiny[:, 1], tiny).all()
    assert len(check_polygon(STAR.tolist())) == len(STAR)


# Automatic boxes ------------------------------------------------------------------------------


def two_branches(seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A map like the paper's Figure 4.

    Quiet galaxies left in two groups, star-forming right; the upper way passes through AGN and
    composites, the lower one through composites and retired galaxies.
    """
    rng = np.random.default_rng(seed)

    def cloud(n: int, start: tuple, stop: tuple, classes: dict) -> tuple:
        along = rng.uniform(0, 1, n)[:, None]
        points = np.array(start) * (1 - along) + np.array(stop) * along
        points = points + rng.normal(0, 0.35, (n, 2))
        codes, weights = np.array(list(classes)), np.array(list(classes.values()))
        return points, rng.choice(codes, n, p=weights / weights.sum())

    parts = [
        cloud(3000, (10, 4), (13, 4), {Label.STAR_FORMING: 9, Label.COMPOSITE: 1}),
        cloud(
            1200,
            (6, 6),
            (10, 4),
            {Label.COMPOSITE: 5, Label.NARROW_LINE_AGN: 4, Label.STAR_FORMING: 1},
        ),
        cloud(800, (3.5, 7), (6, 6), {Label.NARROW_LINE_AGN: 6, Label.RETIRED: 3}),
        cloud(1500, (0, 8), (3.5, 7), {Label.PASSIVE: 5, Label.RETIRED: 5}),
        cloud(1000, (6, 1.5), (10, 4), {Label.COMPOSITE: 7, Label.STAR_FORMING: 3}),
        cloud(800, (3.5, 1), (6, 1.5), {Label.RETIRED: 7, Label.COMPOSITE: 3}),
        cloud(2000, (0, 0), (3.5, 1), {Label.PASSIVE: 8, Label.RETIRED: 3}),
    ]
    points = np.vstack([part[0] for part in parts])
    return points[:, 0], points[:, 1], np.concatenate([part[1] for part in parts])


def share(x, y, label, box, *classes: Label) -> float:
    inside = points_in_box(x, y, box)
    return float(np.isin(label[inside], classes).mean())


def centre(box) -> np.ndarray:
    return np.array([(box[0] + box[1]) / 2, (box[2] + box[3]) / 2])


def test_boxes_follow_the_two_branches_of_the_map():
    x, y, label = two_branches()
    top, bottom = auto_sequence_boxes(x, y, label)
    assert len(top) == len(bottom) == 8
    assert top[7] == bottom[7]
    assert share(x, y, label, top[7], Label.STAR_FORMING) > 0.8
    for box in (top[0], bottom[0]):
        assert share(x, y, label, box, Label.RETIRED, Label.PASSIVE) > 0.8
    assert centre(top[0])[1] > 6.5
    assert centre(bottom[0])[1] < 1.5
    agn = [
        max(share(x, y, label, box, Label.NARROW_LINE_AGN) for box in sequence)
        for sequence in (top, bottom)
    ]
    assert agn[0] > 0.3
    assert agn[1] < 0.05
    for sequence in (top, bottom):
        # The clouds are monotonic in x, and so is each sequence.
        assert (np.diff([centre(box)[0] for box in sequence]) > 0).all()
        assert min(points_in_box(x, y, box).sum() for box in sequence) >= 20


def test_boxes_do_not_depend_on_the_order_of_objects_and_scale_with_the_map():
    x, y, label = two_branches()
    order = np.random.default_rng(0).permutation(x.size)
    boxes = auto_sequence_boxes(x, y, label)
    assert auto_sequence_boxes(x[order], y[order], label[order]) == boxes
    scaled = auto_sequence_boxes(8 * x, y / 4, label)
    factor = np.array([8, 8, 0.25, 0.25])
    # Powers of two: only the rounding of the scaled extents differs.
    np.testing.assert_allclose(scaled, np.array(boxes) * factor, rtol=1e-9)


def test_islands_outliers_and_missing_positions_do_no_harm():
    x, y, label = two_branches()
    # The upper branch becomes an island, a few objects lie far out, some have no position.
    y = np.where(y > 5, y + 6, y)
    x = np.concatenate((x, [1e4, -1e4, np.nan]))
    y = np.concatenate((y, [1e4, -1e4, 0.0]))
    label = np.concatenate((label, [Label.PASSIVE, Label.STAR_FORMING, Label.PASSIVE]))
    top, bottom = auto_sequence_boxes(x, y, label)
    assert share(x, y, label, top[7], Label.STAR_FORMING) > 0.8
    assert centre(top[0])[1] > 12
    assert centre(bottom[0])[1] < 1.5
    assert min(points_in_box(x, y, box).sum() for box in top + bottom) >= 20


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.lists(st.integers(0, 6), min_size=1),
    st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_boxes_always_come_back_with_objects_in_them(seed, n, classes, spread):
    rng = np.random.default_rng(seed)
    x, y = np.round(rng.normal(0, 1, (2, n)) * spread, 2)
    label = rng.choice(classes, n)
    top, bottom = auto_sequence_boxes(x, y, label, n_boxes=4, min_count=5)
    assert len(top) == len(bottom) == (4 if n else 0)
    for box in top + bottom:
        assert points_in_box(x, y, box).sum() >= min(5, n)


def test_automatic_regions_refuse_columns_that_do_not_match():
    with pytest.raises(UsageError, match="three columns of equal length"):
        auto_sequence_boxes([0.0, 1.0], [0.0], [1])
    with pytest.raises(UsageError, match="labels run from 7"):
        auto_sequence_boxes([0.0], [0.0], [7])
    with pytest.raises(UsageError, match="at least one box"):
        auto_sequence_boxes([0.0], [0.0], [1], n_boxes=0)


# Automatic polygons ---------------------------------------------------------------------------


def broad_map() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six clumps of broad-line objects over ever more of other galaxies, and stray ones."""
    rng = np.random.default_rng(11)
    middles = np.array([[0, 9], [2, 7], [4, 9], [6, 6], [9, 8], [8, 1]], dtype=float)
    points, broad = [], []
    for i, middle in enumerate(middles):
        points.append(middle + rng.normal(0, 0.3, (200, 2)))
        broad.append(np.ones(200, dtype=bool))
        points.append(middle + rng.normal(0, 0.3, (300 * i, 2)))
        broad.append(np.zeros(300 * i, dtype=bool))
    points.append(rng.uniform(-5, 15, (12, 2)))
    broad.append(np.ones(12, dtype=bool))
    everything = np.vstack(points)
    return everything[:, 0], everything[:, 1], np.concatenate(broad)


def test_polygons_find_the_clumps_from_the_purest_to_the_most_mixed():
    x, y, broad = broad_map()
    polygons = auto_broad_polygons(x, y, broad)
    middles = [polygon.mean(axis=0) for polygon in polygons]
    expected = [[0, 9], [2, 7], [4, 9], [6, 6], [9, 8], [8, 1]]
    # Clumps have a scatter of 0.3: a mean of corners is good to about that.
    np.testing.assert_allclose(middles, expected, atol=0.5)
    inside = np.array([points_in_polygon(x, y, polygon) for polygon in polygons])
    assert inside.sum(axis=0).max() == 1
    purity = [broad[row].mean() for row in inside]
    assert purity == sorted(purity, reverse=True)
    assert (inside & broad).sum() > 0.85 * broad.sum()
    order = np.random.default_rng(0).permutation(x.size)
    again = auto_broad_polygons(x[order], y[order], broad[order])
    assert all(np.array_equal(a, b) for a, b in zip(polygons, again, strict=True))


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([0.0, 0.1, 1.0]))
def test_few_broad_lines_make_fewer_polygons_and_no_fault(seed, n, spread):
    rng = np.random.default_rng(seed)
    x, y = np.round(rng.normal(0, 1, (2, n)) * spread, 1)
    polygons = auto_broad_polygons(x, y, np.ones(n, dtype=bool))
    assert len(polygons) <= min(6, n // 3)
    for polygon in polygons:
        assert len(check_polygon(polygon)) == len(polygon)


def test_no_broad_lines_no_polygons():
    assert auto_broad_polygons(np.arange(9.0), np.arange(9.0), np.zeros(9, dtype=bool)) == []
