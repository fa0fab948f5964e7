"""Figures: what they must show, whatever the numbers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.stats import ks_2samp

from spectra_scale import figures
from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.density import ks_distance
from spectra_scale.figures.marks import _spread
from spectra_scale.figures.style import drawing_order, span
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum.vacuum import LINES

EDGES = np.logspace(np.log10(3388.0), np.log10(8318.0), 1001)
WAVE = np.sqrt(EDGES[1:] * EDGES[:-1])


def sample(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "label": rng.integers(0, 7, n),
        "xy": rng.normal(size=(n, 2)),
        "latents": rng.normal(size=(n, 10)),
        "column": rng.normal(size=n),
        "flux": 1.0 + rng.normal(size=(n, WAVE.size)) * 0.1,
    }


def every_figure(n, *, broken=False):
    """All figures on n objects; with `broken`, NaN and infinity among the values."""
    data = sample(n)
    if broken:
        for values in data.values():
            if values.dtype == float and len(values):
                values[0] = np.nan
                values[len(values) // 2] = np.inf
    label, xy, values, flux = (data[key] for key in ("label", "xy", "column", "flux"))
    box, corners = (-1.0, 1.0, -0.5, 0.5), [(0, 0), (1, 0), (1, 1)]
    pair = {"top": [("0", box), ("1", box)], "bottom": [("0", box)]}
    stack = [(str(i), row, np.abs(row)) for i, row in enumerate(flux[:3])]
    by_class = {code: values[label == code] for code in range(7)}
    chi2 = {code: float(code) if code else np.nan for code in range(min(n, 7))}
    table = {"sequence": ["top"] * n, "region": [str(i) for i in range(n)], "d4000n": values,
             "hdelta_a": values, "hdelta_a_error": np.abs(values)}  # fmt: skip
    pixel = flux[0] if n else np.full(WAVE.size, np.nan)
    curve = figures.Curve(np.abs(values), np.abs(values), values, np.abs(values) + 0.1)
    curves = {"epoch": np.arange(n), "train_chi2": values, "validation_chi2": values}
    return {
        "redshift_histograms": figures.redshift_histograms(values, values),
        "bpt_whan": figures.bpt_whan(values, values, values, values, label),
        "map_pair": figures.map_pair(xy, xy, label),
        "map_with_boxes": figures.map_with_boxes(xy, label, pair),
        "map_with_polygons": figures.map_with_polygons(xy, label, [("A", corners)]),
        "map_coloured": figures.map_coloured(xy, values, "redshift"),
        "objects_by_verdict": figures.objects_by_verdict(
            xy, ["none", "rare-shape", "else"][:n] + ["none"] * (n - 3), ("x", "y"), trim=0.1
        ),
        "sequence_stacks": figures.sequence_stacks(WAVE, {"top": stack, "bottom": stack[:1]}),
        "polygon_stacks": figures.polygon_stacks(WAVE, stack, reference=(WAVE, pixel, "VB01")),
        "stack_indices": figures.stack_indices(table),
        "architecture": figures.architecture([20, 3, 20]),
        "loss_by_epoch": figures.loss_by_epoch(curves, baseline=2.0 if n else None),
        "latent_corner": figures.latent_corner(data["latents"][:, :3], label),
        "log_prob_histogram": figures.log_prob_histogram(values, values, by_class=by_class),
        "class_reliability": figures.class_reliability(
            curve, {1: curve}, np.full((2, 2), n), [1, "passive"], "note"
        ),
        "drift_histograms": figures.drift_histograms(
            {"chi2": values}, {"chi2": values[:1]}, numbers={"chi2": "mean +0.1"}
        ),
        "spectra_grid": figures.spectra_grid(
            WAVE, flux, label.tolist(), ["t"] * n, reconstructions=flux
        ),
        "class_comparison": figures.class_comparison(
            WAVE, {int(c): [("mock", f), ("real", f)] for c, f in zip(label, flux, strict=True)}
        ),
        "pixelwise_chi2": figures.pixelwise_chi2(WAVE, pixel),
        "chi2_by_class": figures.chi2_by_class({"auto-encoder": chi2, "PCA": {}}),
        "residual_by_class": figures.residual_by_class(WAVE, dict(enumerate(flux[:7]))),
    }


@pytest.mark.parametrize(("n", "broken"), [(0, False), (1, False), (7, True)])
def test_any_figure_can_be_drawn_from_hardly_any_objects(n, broken):
    for name, figure in every_figure(n, broken=broken).items():
        assert isinstance(figure, Figure), name
        assert figures.png_of(figure, dpi=20).startswith(b"\x89PNG"), name


def test_values_that_are_all_equal_or_all_missing_do_not_stop_a_figure():
    for value in (0.0, np.nan):
        same = np.full(30, value)
        label = np.full(30, 5)
        figures.png_of(figures.bpt_whan(same, same, same, same, label), dpi=20)
        figures.png_of(figures.map_coloured(np.c_[same, same], same, "redshift"), dpi=20)
        figures.png_of(figures.log_prob_histogram(same, same), dpi=20)
        figures.png_of(figures.pixelwise_chi2(WAVE[:30], same), dpi=20)
        figures.png_of(figures.latent_corner(np.c_[same, same], label), dpi=20)


def test_every_panel_with_data_names_its_axes():
    for name, figure in every_figure(3).items():
        if name in {"architecture", "latent_corner"}:
            continue
        shared = bool(figure.get_supxlabel()), bool(figure.get_supylabel())
        for axes in figure.axes:
            if axes.axison and axes.get_label() != "<colorbar>":
                grouped = name in {"residual_by_class", "chi2_by_class"}
                assert axes.get_xlabel() or shared[0] or grouped, name
                assert axes.get_ylabel() or shared[1], name


def test_figures_are_unknown_to_pyplot_and_leave_its_settings_alone():
    # Reading the setting "backend" would choose one, and import pyplot for it.
    code = (
        "import sys, matplotlib\n"
        "def settings():\n"
        "    r = matplotlib.rcParams\n"
        "    return {k: r[k] for k in r if k != 'backend'}\n"
        "before = settings()\n"
        "from spectra_scale import figures\n"
        "f = figures.map_pair([[0, 1]], [[1, 0]], [1])\n"
        "figures.png_of(f)\n"
        "assert settings() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_package_of_figures_does_not_import_matplotlib():
    code = (
        "import sys, spectra_scale.figures as f\n"
        "assert 'map_pair' in dir(f)\n"
        "assert 'matplotlib' not in sys.modules\n"
        "f.render_page('t', 's', {}, [])\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_name_the_package_lists_exists():
    assert all(getattr(figures, name) is not None for name in dir(figures))
    assert not hasattr(figures, "no_such_figure")


def test_the_same_arrays_give_the_same_bytes():
    # The seeded ones, a grid with a solved layout, and a plain one.
    names = ("map_pair", "map_coloured", "latent_corner", "spectra_grid", "chi2_by_class")
    drawn = []
    for _ in range(2):
        made = every_figure(3)
        drawn.append([figures.png_of(made[name], 20) for name in names])
    assert drawn[0] == drawn[1]
    assert all(b"Software" not in png and b"matplotlib" not in png for png in drawn[0])


def test_demarcations_end_at_their_asymptotes_and_follow_the_published_curves():
    data = sample(50)
    values = data["column"]
    figure = figures.bpt_whan(values, values, values, np.exp(values), data["label"])
    for axes in figure.axes[:2]:
        curves = {line.get_gid(): line.get_xydata() for line in axes.get_lines()}
        for name, limit, offset in (("kauffmann", 0.05, 1.30), ("kewley", 0.47, 1.19)):
            x, y = curves[name].T
            assert x.max() < limit
            # Kauffmann et al. 2003 eq. 1 and Kewley et al. 2001 eq. 5; only rounding differs.
            np.testing.assert_allclose(y, 0.61 / (x - limit) + offset, rtol=1e-12)
            assert np.all(np.diff(y) < 0)
        # A curve that stopped inside the axes would not be a border: it must leave them below.
        assert all(curve[-1, 1] < axes.get_ylim()[0] for curve in curves.values())


def test_whan_lines_are_at_three_and_half_an_angstrom():
    data = sample(50)
    values = data["column"]
    axes = figures.bpt_whan(values, values, values, np.exp(values), data["label"]).axes[2]
    heights = sorted(10 ** float(line.get_ydata()[0]) for line in axes.get_lines())
    np.testing.assert_allclose(heights, [0.5, 3.0], rtol=1e-12)  # rounding of log10 only


@pytest.mark.parametrize("present", [(1,), (0, 4), (0, 1, 2, 3, 4, 5, 6)])
def test_a_legend_names_the_classes_with_members_and_no_others(present):
    label = np.repeat(present, 7)
    xy = np.random.default_rng(0).normal(size=(len(label), 2))
    for figure in (
        figures.map_pair(xy, xy, label),
        figures.map_with_boxes(xy, label, {}),
        figures.map_with_polygons(xy, label, []),
        figures.latent_corner(xy, label),
    ):
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts == [f"{CLASS_NAMES[code]} (7)" for code in present]


def test_diagnostic_diagrams_show_each_class_in_its_own_panel():
    label = np.repeat(np.arange(7), 5)
    values = np.linspace(-1, 1, len(label))
    figure = figures.bpt_whan(values, values, values, np.ones(len(label)), label)
    names = [
        [text.get_text().split(" (")[0] for text in axes.get_legend().get_texts()]
        for axes in figure.axes
    ]
    assert [set(panel) & set(CLASS_NAMES) for panel in names] == [
        {"star-forming", "composite", "narrow-line AGN"},
        {"broad-line"},
        {"retired", "passive"},
    ]


def test_class_colours_differ_and_belong_to_the_classes():
    assert len(set(figures.CLASS_COLOURS)) == len(CLASS_NAMES)
    assert figures.class_colour("passive") == figures.class_colour(6)
    assert figures.class_name(99) == "class 99"
    assert figures.class_colour(99) not in figures.CLASS_COLOURS


def marks(axes):
    return {
        line.get_gid().removeprefix("line:"): float(line.get_xdata()[0])
        for line in axes.get_lines()
        if str(line.get_gid()).startswith("line:")
    }


def test_lines_are_marked_at_vacuum_wavelengths():
    # science.md section 9; the air wavelengths differ by 1.3 to 1.9 Å.
    vacuum = {"Hbeta": 4862.68, "OIII4960": 4960.30, "OIII5008": 5008.24}
    vacuum |= {"NII6549": 6549.86, "Halpha": 6564.61, "NII6585": 6585.27}
    vacuum |= {"SII6718": 6718.29, "SII6733": 6732.67}
    panels = figures.pixelwise_chi2(WAVE, np.zeros(WAVE.size)).axes
    assert set(marks(panels[1])) == {"Hbeta", "OIII4960", "OIII5008"}
    assert set(marks(panels[2])) == {"NII6549", "Halpha", "NII6585", "SII6718", "SII6733"}
    for axes in panels:
        for name, place in marks(axes).items():
            assert place == vacuum.get(name, LINES[name])
    stacks = figures.sequence_stacks(WAVE, {"top": [("0", np.ones(WAVE.size), None)]})
    assert set(marks(stacks.axes[1])) == {"Hbeta", "OIII4960", "OIII5008"}
    assert set(marks(stacks.axes[2])) == {"NII6549", "Halpha", "NII6585"}


def test_lines_outside_the_axes_are_not_marked():
    short = np.linspace(4000.0, 5000.0, 200)
    assert set(marks(figures.pixelwise_chi2(short, np.zeros(200)).axes[0])) == {
        "Hdelta", "Gband", "Hgamma", "Hbeta", "OIII5008"
    }  # fmt: skip


def test_labels_are_moved_apart_in_order_and_isolated_ones_stay():
    moved = _spread([0.0, 10.0, 10.1, 10.2, 50.0], 2.0)
    # 1e-9: the sums of a few floats of order ten.
    assert np.all(np.diff(moved) >= 2.0 - 1e-9)
    assert (moved[0], moved[-1]) == (0.0, 50.0)
    assert sum(moved[1:4]) == pytest.approx(30.3)


def test_stacks_are_normalised_in_the_window_that_the_title_states():
    shape = np.linspace(1.0, 2.0, WAVE.size)
    curves = {"top": [("0", 3.0 * shape, None)], "bottom": [("0", 7.0 * shape, None)]}
    figure = figures.sequence_stacks(WAVE, curves, window=(5000.0, 5200.0))
    title = figure.get_suptitle()
    assert "5000–5200 Å" in title
    assert "top: solid" in title
    assert "bottom: dashed" in title
    top, bottom = [line for line in figure.axes[0].get_lines() if line.get_label() == "0"]
    np.testing.assert_allclose(top.get_ydata(), bottom.get_ydata(), rtol=1e-12)  # rounding only
    inside = (WAVE >= 5000.0) & (WAVE <= 5200.0)
    assert np.median(top.get_ydata()[inside]) == pytest.approx(1.0)
    assert (top.get_linestyle(), bottom.get_linestyle()) == ("-", "--")
    assert top.get_color() == bottom.get_color()


def test_without_a_window_stacks_keep_their_flux_and_its_unit():
    figure = figures.sequence_stacks(
        WAVE, {"top": [("0", np.full(WAVE.size, 3.0), None)]}, window=None
    )
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "0")
    assert set(line.get_ydata()) == {3.0}
    assert "erg" in figure.axes[0].get_ylabel()
    assert "divided" not in figure.get_suptitle()


def test_a_box_has_the_colour_of_its_stack():
    box = (0.0, 1.0, 0.0, 1.0)
    xy = np.random.default_rng(0).normal(size=(20, 2))
    names = [str(i) for i in range(8)]
    sequences = {"top": [(n, box) for n in names], "bottom": [(n, box) for n in names]}
    maps = figures.map_with_boxes(xy, np.ones(20), sequences)
    flux = [(name, np.ones(WAVE.size), None) for name in names]
    stacks = figures.sequence_stacks(WAVE, {"top": flux, "bottom": flux})
    badges = {t.get_text(): t.get_bbox_patch().get_facecolor() for t in maps.axes[0].texts}
    for line in stacks.axes[0].get_lines():
        if line.get_label() in names:
            assert badges[line.get_label()] == to_rgba(line.get_color())


def test_a_composite_is_drawn_only_where_the_stacks_are():
    far = np.linspace(1000.0, 9000.0, 4000)
    peak = np.where(far < 1300.0, 1e3, 1.0)
    flux = [("A", np.ones(WAVE.size), None)]
    figure = figures.polygon_stacks(WAVE, flux, reference=(far, peak, "VB01"))
    assert figure.axes[0].get_ylim()[1] < 10.0
    assert "VB01" in [line.get_label() for line in figure.axes[0].get_lines()]
    plain = figures.polygon_stacks(WAVE, flux)
    assert "VB01" not in [line.get_label() for line in plain.axes[0].get_lines()]


def test_architecture_counts_the_parameters_of_the_paper():
    figure = figures.architecture([1000, 800, 590, 10, 590, 800, 1000])
    assert "2,559,590" in figure.get_suptitle()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if text.isdigit()] == [
        "1000",
        "800",
        "590",
        "10",
        "590",
        "800",
        "1000",
    ]
    with pytest.raises(SpectraScaleError, match="at least three"):
        figures.architecture([1000])


def test_loss_names_the_two_chi2_apart_and_shows_baseline_and_level():
    epoch = np.arange(1, 21)
    loss = 1.26 + 3.0 / epoch
    history = {"epoch": epoch, "validation_chi2": loss, "validation_chi2_valid": 1.075 * loss}
    axes = figures.loss_by_epoch(history, baseline=1.8).axes[0]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any("per pixel (eq. 1)" in text for text in texts)
    assert any("per valid pixel (eq. 2)" in text for text in texts)
    assert any("baseline" in text and "1.800" in text for text in texts)
    assert any("1.25" in text for text in texts)


def test_masked_pixels_are_gaps_not_zeros():
    flux = np.full((1, WAVE.size), 2.0)
    flux[0, 100:200] = 0.0
    flux[0, 300:400] = np.nan
    axes = figures.spectra_grid(WAVE, flux, [1], ["a"]).axes[0]
    drawn = axes.get_lines()[0].get_ydata()
    assert np.isnan(drawn[100:200]).all()
    assert np.isnan(drawn[300:400]).all()
    assert len(axes.patches) == 2
    assert axes.get_ylim()[0] > 1.0


def test_spectra_without_a_label_each_are_refused():
    with pytest.raises(SpectraScaleError, match="16 spectra, 15 labels"):
        figures.spectra_grid(WAVE, np.ones((16, WAVE.size)), [1] * 15, ["t"] * 16)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(SpectraScaleError, match=r"shape \(3,\)"):
        figures.map_coloured(np.zeros((4, 2)), np.zeros(3), "z")
    with pytest.raises(SpectraScaleError, match="same objects"):
        figures.map_pair(np.zeros((4, 2)), np.zeros((5, 2)), np.zeros(5))


def test_drawing_order_is_a_seeded_permutation_that_mixes_the_classes():
    label = np.repeat([1, 6], 5000)
    order = drawing_order(np.ones(10_000, dtype=bool), 3)
    assert np.array_equal(np.sort(order), np.arange(10_000))
    assert np.array_equal(order, drawing_order(np.ones(10_000, dtype=bool), 3))
    assert not np.array_equal(order, drawing_order(np.ones(10_000, dtype=bool), 4))
    late = label[order[-1000:]]
    # Binomial: 500 expected among the last thousand, sigma below 16.
    assert abs((late == 6).sum() - 500) < 5 * 16
    assert len(drawing_order(np.ones(10_000, dtype=bool), 3, limit=10)) == 10


def test_points_are_rasterised_so_that_vector_output_stays_small():
    data = sample(100)
    axes = figures.map_pair(data["xy"], data["xy"], data["label"]).axes[0]
    assert axes.collections[0].get_rasterized()


def test_axis_limits_hold_the_values_and_are_never_equal():
    assert span(np.array([1.0, np.nan, 3.0]), pad=0.0) == (1.0, 3.0)
    for values in ([], [np.nan], [2.0], [0.0, 0.0]):
        low, high = span(np.array(values), pad=0.0)
        assert low < high


def test_corner_trims_outliers_from_the_axes():
    latents = np.random.default_rng(0).normal(size=(30_000, 2))
    latents[0] = 1e6
    figure = figures.latent_corner(latents, np.ones(30_000))
    # 0.01 % of 30,000 is three objects at each end: the wild one is cut, 4 sigma stays.
    assert figure.axes[0].get_xlim()[1] < 10.0
    assert "0.01%" in figure.get_suptitle()


def test_drift_distance_is_that_of_kolmogorov_and_smirnov():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=400), rng.normal(0.3, 1.2, size=250)
    # The same counts divided by the same numbers.
    assert ks_distance(a, b) == pytest.approx(ks_2samp(a, b).statistic, abs=1e-12)
    assert ks_distance(a, a) == 0.0
    assert np.isnan(ks_distance(a, np.empty(0)))


def test_the_confusion_matrix_shows_shares_of_the_true_class_and_counts():
    curve = figures.Curve(*(np.array([0.1, 0.9]) for _ in range(4)))
    figure = figures.class_reliability(curve, {}, [[30, 10], [0, 5]], [1, 4])
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert texts == ["75 %\n30", "25 %\n10", "100 %\n5"]
    with pytest.raises(SpectraScaleError, match="one row and column for each of 3"):
        figures.class_reliability(curve, {}, [[1, 0], [0, 1]], [1, 2, 3])
