"""The class rules of science.md §5, written from the document and not from the code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.classify import (
    CLASS_NAMES,
    WHAN_NAMES,
    Label,
    LineMeasurements,
    Whan,
    bpt_coordinates,
    broad_from_subclass,
    classify,
    kauffmann,
    kewley,
    passive_with_strong_ew,
    whan_class,
)

BLANK = {
    "measured": True,
    "hbeta_flux": 10.0,
    "hbeta_err": 1.0,
    "oiii_flux": 10.0,
    "oiii_err": 1.0,
    "halpha_flux": 30.0,
    "halpha_err": 1.0,
    "nii_flux": 10.0,
    "nii_err": 1.0,
    "halpha_ew": 20.0,
    "halpha_ew_err": 1.0,
}


def lines(*rows: dict) -> LineMeasurements:
    """Rows given by what differs from a bright, well measured object."""
    full = [BLANK | row for row in rows]
    return LineMeasurements(**{name: np.array([row[name] for row in full]) for name in BLANK})


def on_bpt(x: float, y: float) -> dict:
    """A bright object at a point of the BPT diagram."""
    return {
        "nii_flux": 1000.0 * 10**x,
        "halpha_flux": 1000.0,
        "oiii_flux": 1000.0 * 10**y,
        "hbeta_flux": 1000.0,
        "nii_err": 1e-3,
        "oiii_err": 1e-3,
    }


def label_of(*rows: dict, broad: bool = False) -> list[int]:
    return classify(np.full(len(rows), broad), lines(*rows)).tolist()


def test_codes_and_names_are_in_the_fixed_order():
    assert CLASS_NAMES == (
        "N/A",
        "star-forming",
        "composite",
        "narrow-line AGN",
        "broad-line",
        "retired",
        "passive",
    )
    assert [int(code) for code in Label] == list(range(7))
    assert len(WHAN_NAMES) == len(Whan)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        # x = -0.5: Kauffmann 0.61/-0.55 + 1.30 = 0.190909, Kewley 0.61/-0.97 + 1.19 = 0.561134.
        (-0.5, 0.1908, Label.STAR_FORMING),
        (-0.5, 0.1910, Label.COMPOSITE),
        (-0.5, 0.5611, Label.COMPOSITE),
        (-0.5, 0.5612, Label.NARROW_LINE_AGN),
        # x = 0: Kauffmann -10.9, Kewley 1.19 - 1.297872 = -0.107872.
        (0.0, -0.5, Label.COMPOSITE),
        (0.0, -0.1078, Label.NARROW_LINE_AGN),
        (0.0, -0.1079, Label.COMPOSITE),
        # Beyond 0.05 Kauffmann's second branch is high above: 0.61/0.05 + 1.30 = 13.5 at x = 0.1.
        (0.1, -1.0, Label.COMPOSITE),
        (0.06, 1.0, Label.NARROW_LINE_AGN),
        (0.3, -3.0, Label.COMPOSITE),
        # Beyond 0.47 the same for Kewley: low points are AGN by the guard alone.
        (0.48, -5.0, Label.NARROW_LINE_AGN),
        (1.0, -2.0, Label.NARROW_LINE_AGN),
        # Far left the curves cross (at x = -1.279...): star-forming is tested first.
        (-2.0, 0.97, Label.STAR_FORMING),
        (-2.0, 1.01, Label.NARROW_LINE_AGN),
    ],
)
def test_points_beside_the_bpt_demarcations(x, y, expected):
    assert label_of(on_bpt(x, y)) == [expected]


def test_the_guards_hold_on_the_limits_themselves():
    x = np.array([0.05, 0.2, 0.47, 3.0])
    assert np.isnan(kauffmann(x)).all()
    assert np.isnan(kewley(x)).tolist() == [False, False, True, True]
    assert float(kauffmann(-0.95)) == pytest.approx(0.69, abs=1e-12)
    assert float(kewley(-0.53)) == pytest.approx(0.58, abs=1e-12)
    assert np.isnan(kauffmann([np.nan])).all()


def test_broad_line_comes_before_everything_and_missing_lines_before_the_diagram():
    rows = [on_bpt(-1.0, -1.0), {"measured": False}, {"measured": False} | on_bpt(-1.0, -1.0)]
    assert label_of(*rows, broad=True) == [Label.BROAD_LINE] * 3
    assert label_of(*rows) == [Label.STAR_FORMING, Label.NOT_AVAILABLE, Label.NOT_AVAILABLE]


@pytest.mark.parametrize(
    ("row", "on_diagram"),
    [
        ({}, True),
        ({"hbeta_err": 4.9}, True),  # 2.04
        ({"hbeta_err": 9.0}, True),  # one line at 1.1 will do
        ({"hbeta_err": 10.0}, False),  # exactly 1
        ({"hbeta_err": 9.0, "oiii_err": 9.0}, False),  # two faint lines
        ({"hbeta_err": 5.0, "oiii_err": 5.0}, False),  # two lines at exactly 2
        ({"oiii_flux": -10.0}, False),
        ({"oiii_flux": 0.0, "oiii_err": 0.0}, False),
        ({"nii_err": 0.0}, False),
        ({"nii_err": -1.0}, False),
        ({"nii_err": math.inf}, False),
        ({"nii_err": math.nan}, False),
        ({"nii_flux": math.inf}, False),
        ({"halpha_flux": math.nan}, False),
        ({"hbeta_flux": -9999.0, "hbeta_err": -9999.0}, False),
    ],
)
def test_signal_rule_of_the_bpt_diagram(row, on_diagram):
    # Off the diagram, with an EW of 20 Å, an object is passive; it never is one on the diagram.
    assert (label_of(row) != [Label.PASSIVE]) == on_diagram


@pytest.mark.parametrize(
    ("width", "error", "expected"),
    [
        (1.0, 0.4, Label.RETIRED),
        (1.0, 0.5, Label.PASSIVE),  # exactly 2 sigma
        (0.5, 0.1, Label.PASSIVE),
        (0.51, 0.1, Label.RETIRED),
        (2.99, 0.1, Label.RETIRED),
        (3.0, 0.1, Label.PASSIVE),
        (8.0, 0.1, Label.PASSIVE),
        (-2.0, 0.1, Label.PASSIVE),
        (math.nan, 0.1, Label.PASSIVE),
        (1.0, math.nan, Label.PASSIVE),
        (1.0, 0.0, Label.PASSIVE),
        (1.0, -9999.0, Label.PASSIVE),
        (-9999.0, -9999.0, Label.PASSIVE),
    ],
)
def test_equivalent_width_decides_off_the_diagram(width, error, expected):
    faint = {"hbeta_flux": -1.0, "halpha_ew": width, "halpha_ew_err": error}
    assert label_of(faint) == [expected]


def test_passive_with_strong_emission_is_counted():
    faint = {"hbeta_flux": -1.0}
    rows = lines(
        faint | {"halpha_ew": 3.0},
        faint | {"halpha_ew": 1.0},
        {"halpha_ew": 9.0},
        faint | {"halpha_ew": math.inf},
    )
    label = classify(np.zeros(4, dtype=bool), rows)
    assert passive_with_strong_ew(rows, label).tolist() == [True, False, False, False]


def reference_bpt(row: dict) -> int | None:
    """Rule 3 of science.md §5, one object at a time; None off the diagram."""
    ratios = []
    for name in ("hbeta", "oiii", "halpha", "nii"):
        flux, err = row[f"{name}_flux"], row[f"{name}_err"]
        good = math.isfinite(flux) and math.isfinite(err) and err > 0 and flux > 0
        ratios.append(flux / err if good else -1.0)
    if sum(ratio > 2 for ratio in ratios) < 3 or min(ratios) <= 1:
        return None
    x = math.log10(row["nii_flux"]) - math.log10(row["halpha_flux"])
    y = math.log10(row["oiii_flux"]) - math.log10(row["hbeta_flux"])
    if x < 0.05 and y < 0.61 / (x - 0.05) + 1.30:
        return 1
    return 3 if x >= 0.47 or y > 0.61 / (x - 0.47) + 1.19 else 2


def reference_label(row: dict) -> int:
    """Rules 1 to 4."""
    if row["broad"]:
        return 4
    if not row["measured"]:
        return 0
    on_diagram = reference_bpt(row)
    if on_diagram is not None:
        return on_diagram
    width, error = row["halpha_ew"], row["halpha_ew_err"]
    significant = math.isfinite(error) and error > 0 and width / error > 2
    return 5 if significant and 0.5 < width < 3 else 6


nasty = st.one_of(
    st.floats(0.125, 1e6, width=32),
    st.sampled_from([0.0, -1.0, -9999.0, math.nan, math.inf, -math.inf]),
)
errors = st.one_of(
    st.floats(0.0625, 1e3, width=32), st.sampled_from([0.0, -9999.0, math.nan, math.inf])
)
rows_of_anything = st.fixed_dictionaries(
    {
        name: st.booleans() if name == "measured" else errors if name.endswith("err") else nasty
        for name in BLANK
    }
)


@given(st.lists(st.tuples(st.booleans(), rows_of_anything), min_size=1, max_size=20))
def test_every_object_gets_the_one_label_the_rules_give(objects):
    broad = np.array([flag for flag, _ in objects])
    found = classify(broad, lines(*(row for _, row in objects)))
    assert found.dtype == np.int8
    assert found.tolist() == [reference_label(row | {"broad": flag}) for flag, row in objects]


@given(st.lists(rows_of_anything, min_size=1, max_size=20))
def test_coordinates_are_finite_or_missing_and_whan_is_total(rows):
    measured = lines(*rows)
    x, y = bpt_coordinates(measured)
    assert not np.isinf(x).any()
    assert not np.isinf(y).any()
    assert set(whan_class(measured).tolist()) <= {int(code) for code in Whan}


def test_whan_classes_of_cid_fernandes():
    rows = [
        on_bpt(-0.5, 0.0) | {"halpha_ew": 10.0},
        on_bpt(-0.3, 0.0) | {"halpha_ew": 10.0},
        on_bpt(-0.3, 0.0) | {"halpha_ew": 5.0},
        on_bpt(-0.3, 0.0) | {"halpha_ew": 2.0},
        {"nii_flux": -1.0, "halpha_ew": 0.2},
        {"nii_flux": -1.0, "halpha_ew": 5.0},
        {"halpha_ew": -9999.0},
        {"measured": False},
    ]
    assert whan_class(lines(*rows)).tolist() == [1, 2, 3, 4, 5, 0, 0, 0]


@pytest.mark.parametrize(
    "column",
    [
        np.array(["AGN BROADLINE", "AGN", "", "STARBURST BROADLINE  "]),
        np.array([b"AGN BROADLINE", b"AGN", b"", b"STARBURST BROADLINE  "]),
        np.array(["AGN BROADLINE", "AGN", None, "STARBURST BROADLINE"], dtype=object),
    ],
)
def test_broadline_is_found_anywhere_in_subclass(column):
    assert broad_from_subclass(column).tolist() == [True, False, False, True]


def test_columns_of_unequal_length_are_refused():
    good = lines({}, {})
    with pytest.raises(SpectraScaleError, match="expected the same objects"):
        classify(np.zeros(3, dtype=bool), good)
    columns = {name: np.array([value]) for name, value in BLANK.items()} | {"nii_err": np.ones(2)}
    with pytest.raises(SpectraScaleError, match="nii_err has shape"):
        LineMeasurements(**columns)
