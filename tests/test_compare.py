"""Mock beside real: what is known of made-up samples comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectra_scale.compare.discriminate import (
    Examples,
    discriminate,
    examples_of,
    null_aucs,
    null_of,
    weighted_auc,
)
from spectra_scale.compare.examples import blind
from spectra_scale.compare.linear import across, cross_validated, scaled
from spectra_scale.compare.matching import coordinates, match
from spectra_scale.compare.measures import MEASURES
from spectra_scale.compare.noise import MaskCounts
from spectra_scale.compare.run import check_enough
from spectra_scale.compare.sides import Native, Side, read_side, table_labels
from spectra_scale.compare.statistics import (
    FRACTION_TARGETS,
    class_fractions,
    ks_distance,
    max_fraction_error,
    redshift_facts,
    weighted_quantiles,
)
from spectra_scale.compare.transfer import WINDOWS, mean_residual, structure
from spectra_scale.compare.verdicts import COLUMNS, Asked, asked
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.masks import SPPIXMASK
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.surveys.lines import LINE_COLUMNS

WAVE = WavelengthGrid.rest_frame().centres
RED, BUMP = (WAVE / 6000.0) ** 1.5, np.exp(-0.5 * ((WAVE - 5500) / 300) ** 2)


def side(n: int, seed: int, *, name: str = "real", bump: float = 0.0) -> Side:
    """Spectra of one family (a slope that varies), S/N 10, with a bump of given height."""
    rng = np.random.default_rng(seed)
    slope = rng.normal(0, 0.3, n)
    shape = 1 + slope[:, None] * (RED - 1) + bump * BUMP
    flux = shape + 0.1 * rng.standard_normal((n, len(WAVE)))
    ivar = np.full(flux.shape, 100.0)
    ivar[rng.random(flux.shape) < 0.05] = 0
    z, snr = rng.uniform(0.05, 0.3, n), rng.uniform(5, 20, n)
    label = rng.integers(1, 3, n).astype(np.int8)
    return Side(
        name=name,
        key=np.array([f"{name}:{i}" for i in range(n)]),
        z=z,
        snr=snr,
        boss=np.zeros(n, bool),
        quasar=np.zeros(n, bool),
        group=np.arange(n),
        label=label,
        table_label=label,
        measures={m: slope.copy() for m in MEASURES},
        flux=np.where(ivar > 0, flux, 0).astype(np.float32),
        ivar=ivar.astype(np.float32),
    )


def auc_of(real: Side, mock: Side) -> tuple[float, float]:
    rng = np.random.default_rng(1)
    found = discriminate(examples_of(real, mock, match(real, mock, 2, rng, reuse=False)), 1)
    return found.auc, found.error


def test_samples_of_one_family_cannot_be_told_apart() -> None:
    auc, error = auc_of(side(120, 1), side(500, 2, name="mock"))
    # Three of its own errors: the bootstrap draws the objects, as the sample was drawn.
    assert abs(auc - 0.5) < 3 * error
    assert 0.01 < error < 0.06


def test_a_bump_that_only_the_mock_has_is_seen_and_found() -> None:
    real, mock = side(120, 1), side(500, 2, name="mock", bump=0.15)
    pairs = match(real, mock, 2, np.random.default_rng(1), reuse=False)
    found = discriminate(examples_of(real, mock, pairs), 1, explain=True)
    # The bump is 1.5 times the noise in each of a hundred pixels.
    assert found.auc > 0.9
    band = WAVE[int(found.importance.argmax()) * (len(WAVE) // len(found.importance))]
    assert abs(band - 5500) < 600


def test_real_against_real_is_chance() -> None:
    real = side(120, 3)
    found = [discriminate(null_of(real, seed), seed).auc for seed in range(2)]
    # 120 spectra: one AUC of chance scatters by 0.055, a mean of two by 0.04; three of these.
    assert abs(np.mean(found) - 0.5) < 0.12


def test_auc_is_that_of_scikit_learn_with_weights_and_ties() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(5)
    score = rng.integers(0, 20, 300).astype(float)
    positive, weight = rng.random(300) < 0.4, rng.random(300)
    expected = roc_auc_score(positive, score, sample_weight=weight)
    # The same sums in another order.
    assert weighted_auc(score, positive, weight) == pytest.approx(expected, abs=1e-12)


def test_matching_picks_the_nearest_of_the_same_class() -> None:
    real, mock = side(30, 1), side(400, 2, name="mock")
    found = match(real, mock, 3, np.random.default_rng(1), reuse=True)
    here, there = coordinates(real), coordinates(mock)
    for i, rows in enumerate(found.rows):
        apart = np.linalg.norm(there - here[i], axis=1)
        apart[mock.label != real.label[i]] = np.inf
        np.testing.assert_array_equal(rows, np.argsort(apart)[:3])


def test_without_reuse_every_mock_spectrum_is_used_once() -> None:
    real, mock = side(40, 1), side(100, 2, name="mock")
    found = match(real, mock, 5, np.random.default_rng(1), reuse=False)
    used = found.rows[found.rows >= 0]
    assert len(used) == len(set(used.tolist()))
    i, j = found.pairs()
    np.testing.assert_array_equal(real.label[i], mock.label[j])
    # Every real spectrum with a partner counts once, whatever its number of partners.
    np.testing.assert_allclose(np.bincount(i, found.weight)[np.unique(i)], 1.0, rtol=1e-12)


def test_a_class_that_the_mock_lacks_has_no_partners() -> None:
    real, mock = side(20, 1), side(50, 2, name="mock")
    lacking = mock.take(np.flatnonzero(mock.label == 1))
    found = match(real, lacking, 2, np.random.default_rng(1), reuse=False)
    assert (found.rows[real.label == 2] == -1).all()


def test_partners_miss_the_same_pixels() -> None:
    real, mock = side(20, 1), side(50, 2, name="mock")
    shown = examples_of(real, mock, match(real, mock, 2, np.random.default_rng(1), reuse=False))
    n = len(shown.group) // 2
    np.testing.assert_array_equal(np.isnan(shown.pixels[:n]), np.isnan(shown.pixels[n:]))


def test_blind_spectra_are_half_mock_and_of_different_objects() -> None:
    real, mock = side(60, 1), side(200, 2, name="mock")
    shown = examples_of(real, mock, match(real, mock, 2, np.random.default_rng(1), reuse=False))
    found = blind(shown, np.random.default_rng(2))
    assert found.is_mock.sum() == 20
    assert len(found.is_mock) == 40
    assert 0 < found.is_mock[:20].sum() < 20


def test_linear_models_of_one_family_explain_each_other() -> None:
    real, mock = side(150, 1), side(600, 2, name="mock")
    pairs = match(real, mock, 1, np.random.default_rng(1), reuse=False)
    has = np.flatnonzero(pairs.rows[:, 0] >= 0)
    twin = mock.take(pairs.rows[has, 0])
    pool = mock.take(np.setdiff1d(np.arange(len(mock)), pairs.rows.ravel()))
    found = {(row["trained_on"], row["applied_to"]): row["chi2_mean"]
             for row in across(real.take(has), twin, pool, 1)}  # fmt: skip
    # Ten coefficients of 950 pixels are fitted, so χ² is 0.99; components of 400 noisy spectra
    # add a few per cent.
    assert found["mock", "real"] == pytest.approx(1.0, abs=0.05)
    assert found["mock", "real"] == pytest.approx(found["mock", "mock"], rel=0.02)
    own = cross_validated(scaled(real), real.group, 1).mean()
    assert own == pytest.approx(found["real, others", "real"], rel=0.05)


def test_weighted_quantiles_are_plain_ones_for_equal_weights() -> None:
    values = np.random.default_rng(1).normal(size=2001)
    found = weighted_quantiles(values, np.ones(2001), (5, 50, 95))
    # Interpolation differs by at most one step between neighbours, 1/2001 of the sample.
    np.testing.assert_allclose(found, np.percentile(values, (5, 50, 95)), atol=0.02)
    assert np.isnan(weighted_quantiles(np.full(3, np.nan), np.ones(3), (50,))).all()


def test_ks_distance_is_that_of_scipy() -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(1)
    a, b = rng.normal(size=80), rng.normal(0.4, 1.2, 150)
    expected = ks_2samp(a, b).statistic
    assert ks_distance(a, b, np.ones(150)) == pytest.approx(expected, abs=1e-12)
    # A weight of two is the same spectrum twice.
    twice = ks_2samp(a, np.concatenate([b, b[:50]])).statistic
    weight = np.where(np.arange(150) < 50, 2.0, 1.0)
    assert ks_distance(a, b, weight) == pytest.approx(twice, abs=1e-12)


def test_class_fractions_and_their_largest_error() -> None:
    label = np.repeat(np.arange(7), [0, 40, 20, 10, 10, 10, 10]).astype(np.int8)
    found = class_fractions(label)
    assert found["star-forming"] == pytest.approx(40.0)
    # Passive: 10 % for 29.2.
    assert max_fraction_error(found) == pytest.approx(19.2)
    assert sum(FRACTION_TARGETS.values()) == pytest.approx(100, abs=0.2)


def test_redshift_mode_and_median() -> None:
    rng = np.random.default_rng(1)
    z = np.concatenate([rng.normal(0.08, 0.01, 3000), rng.uniform(0.05, 0.36, 3000)])
    found = redshift_facts(z)
    assert found["z_mode"] == pytest.approx(0.08, abs=0.011)  # bins are 0.01 wide
    assert found["z_median"] == pytest.approx(np.median(z))


def test_masks_are_counted_by_bit_and_by_half() -> None:
    n_pixels = 3800
    bits = np.zeros((2, n_pixels), np.uint32)
    bits[0, 100:290] = 1 << SPPIXMASK["BRIGHTSKY"]
    bits[1] = 1 << SPPIXMASK["BADFLAT"]
    ivar = np.ones((2, n_pixels), np.float32)
    ivar[0, 1000:2000] = 0
    observed = ObservedSpectra(np.array(["a", "b"], object), 35800, ivar, ivar, bits)
    rows: list[dict[str, Any]] = [{"instrument": "SDSS", "z": 0.1}] * 2
    counts = MaskCounts()
    counts(Native(rows, observed))
    counts(Native(rows, observed))
    found = counts.numbers()["all"]
    assert found["bits"]["BRIGHTSKY"] == pytest.approx(190 / (2 * n_pixels - 1000))
    assert found["bits"]["BADFLAT"] == pytest.approx(n_pixels / (2 * n_pixels - 1000))
    assert found["half_masked"] == 0.5
    assert found["spectra"] == 4


def test_residuals_of_noise_have_structure_one_and_a_line_stands_out() -> None:
    rng = np.random.default_rng(1)
    pulls = rng.standard_normal((400, len(WAVE))).astype(np.float32)
    pulls[:, ::7] = np.nan
    plain = structure(*mean_residual(pulls), WAVE)
    # Some 15 to 45 pixels a window: the root mean square of unit pulls is within 0.4 of 1.
    assert all(abs(value - 1) < 0.4 for value in plain.values())
    line = pulls + np.where((WAVE > 5880) & (WAVE < 5910), np.float32(0.5), np.float32(0))
    found = structure(*mean_residual(line.astype(np.float32)), WAVE)
    assert found["Na D"] > 3
    assert found["Mg b"] == plain["Mg b"]
    assert set(found) == set(WINDOWS)


def test_a_number_passes_in_its_range_or_beside_the_real_one() -> None:
    nan = float("nan")
    assert Asked("a", 1.0, nan, "", 0.5, 1.5).verdict == "PASS"
    assert Asked("a", 2.0, nan, "", 0.5, 1.5).verdict == "short"
    assert Asked("a", 2.0, 2.05, "", 0.5, 1.5, 0.1).verdict == "PASS"
    assert Asked("a", nan, 2.05, "", 0.5, 1.5, 0.1).verdict == "not measured"


def test_a_ratio_out_of_range_by_less_than_its_error_says_so() -> None:
    nan = float("nan")

    def ratio(value: float, error: float) -> Asked:
        return Asked("χ²", value, nan, "within 15 %", 0.85, 1.15, error=error, n=12)

    assert ratio(1.10, 0.3).verdict == "PASS"
    assert ratio(1.20, 0.06).verdict == "within error"
    assert ratio(0.80, 0.06).verdict == "within error"
    assert ratio(1.20, 0.04).verdict == "short"
    assert ratio(1.20, nan).verdict == "short"
    assert ratio(1.20, 0.06).line() == ("within error    1.200 ± 0.060  χ² (n = 12): within 15 %")
    assert len(ratio(1.2, 0.1).row()) == len(COLUMNS)


def learnt(structure: dict[str, list[float]]) -> list[Asked]:
    """What is asked of numbers where all else is missing."""
    nan = float("nan")
    noise = {
        side: {
            where: {"brightsky": share} for where, share in (("legacy", legacy), ("boss", boss))
        }
        for side, legacy, boss in (("mock", 0.036, 0.054), ("real", 0.039, 0.045))
    }
    return asked({
        "class_fractions": dict.fromkeys(FRACTION_TARGETS, nan),
        "redshift": {"z_mode": nan, "z_median": nan},
        "distributions": [{"class": "galaxies", "measure": "d4000n",
                           "real": [1.11, 1.35, 1.92], "mock": [1.09, 1.39, 1.98]}],
        "noise": noise,
        "masks": {side: {"all": {"half_masked": 0.1}} for side in ("mock", "real")},
        "transfer": {},
        "structure": {"all": structure},
        "classifier": {"auc": 0.754, "auc_error": 0.023},
    })  # fmt: skip


def test_targets_are_beside_what_the_same_function_finds_in_real_spectra() -> None:
    found = {item.what: item for item in learnt({"Hα": [2.9, 2.0], "Mg b": [2.1, 1.2]})}
    # 1.09 is within 0.05 of 1.14, 1.98 of neither 1.90 nor 1.92.
    breaks = [item.verdict for what, item in found.items() if what.startswith("D4000n")]
    assert breaks == ["PASS", "PASS", "short"]
    # Legacy against the 3.5 %, BOSS against the real BOSS spectra: 0.9 % away is too far.
    assert found["pixels with BRIGHTSKY, legacy (%)"].verdict == "PASS"
    boss = found["pixels with BRIGHTSKY, boss (%)"]
    assert (boss.found, boss.real) == (pytest.approx(5.4), pytest.approx(4.5))
    assert boss.verdict == "short"
    # Real residuals: no more structured than 1.5 times the mock's own, or than 2.
    high = found["mean residual at Hα in its errors, all"]
    assert (high.found, high.real, high.high, high.verdict) == (2.0, 2.9, 3.0, "PASS")
    low = found["mean residual at Mg b in its errors, all"]
    assert (low.found, low.real, low.high, low.verdict) == (1.2, 2.1, 2.0, "short")
    auc = found["AUC of mock against real (its error 0.023)"]
    assert auc.verdict == "short"


def test_what_one_side_lacks_is_not_measured() -> None:
    nan = float("nan")
    assert Asked("a", 1.0, nan, "", nan, nan).verdict == "not measured"
    assert Asked("a", 1.0, nan, "", 0, 2, of="real").verdict == "not measured"


def rows_of(*lines: dict[str, float] | None) -> list[dict[str, Any]]:
    return [{"subclass": "", "lines": row} for row in lines]


def test_classes_of_the_tables_are_those_of_the_label_stage() -> None:
    strong = dict.fromkeys(LINE_COLUMNS, 1.0) | {
        "hbeta_flux": 30.0, "oiii_flux": 10.0, "halpha_flux": 100.0, "nii_flux": 30.0,
    }  # fmt: skip
    nothing = dict.fromkeys(LINE_COLUMNS, float("nan"))
    found = table_labels(rows_of(strong, nothing, None))
    # log [N II]/Hα = -0.5 and log [O III]/Hβ = -0.5: star-forming. No line seen: passive. Not in
    # the table: N/A.
    assert [CLASS_NAMES[code] for code in found] == ["star-forming", "passive", "N/A"]
    broad = table_labels([{"subclass": "BROADLINE", "lines": None}])
    assert [CLASS_NAMES[code] for code in broad] == ["broad-line"]


def test_progress_is_told_fold_by_fold_and_null_by_null() -> None:
    real, mock = side(60, 1), side(200, 2, name="mock")
    shown = examples_of(real, mock, match(real, mock, 1, np.random.default_rng(1), reuse=False))
    told: list[str] = []
    discriminate(shown, 1, report=told.append)
    assert [text.split(" in ")[0] for text in told] == [
        f"classifier: fold {n} of 5" for n in range(1, 6)
    ]
    told.clear()
    assert len(null_aucs(real, 1, 2, told.append)) == 2
    assert [text.split(",")[0] for text in told] == [
        f"classifier of real against real: {n} of 2" for n in (1, 2)
    ]


def test_a_mock_without_spectra_to_spare_is_refused_with_numbers() -> None:
    real, mock = side(60, 1), side(70, 2, name="mock")
    pairs = match(real, mock, 3, np.random.default_rng(1), reuse=False)
    with pytest.raises(SpectraScaleError, match=r"^m: 70 mock spectra pass .* at least 100"):
        check_enough(Path("m"), real, mock, pairs)
    large = side(300, 2, name="mock")
    check_enough(Path("m"), real, large, match(real, large, 3, np.random.default_rng(1),
                                               reuse=False))  # fmt: skip


def test_a_folder_without_spectra_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")

    def unused(*_: object) -> Any:
        raise AssertionError

    with pytest.raises(UsageError, match="spectra"):
        read_side(tmp_path, "real", unused, unused)


def test_targets_name_every_class() -> None:
    assert set(FRACTION_TARGETS) == set(CLASS_NAMES)


def test_examples_are_balanced() -> None:
    real, mock = side(30, 1), side(200, 2, name="mock")
    shown: Examples = examples_of(
        real, mock, match(real, mock, 3, np.random.default_rng(1), reuse=False)
    )
    # Equal weight on both sides, or a classifier could win by the size of the sides.
    assert shown.weight[shown.is_mock].sum() == pytest.approx(shown.weight[~shown.is_mock].sum())
