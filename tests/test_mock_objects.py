"""Draws of mock objects: histories, gas, nuclei and redshifts hang together as in nature."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import spearmanr

from spectra_scale.mock import kinds
from spectra_scale.mock.histories import delayed_mass, light_weights
from spectra_scale.mock.lines import HA, HB, LINE_WAVE, NII, OIII, calzetti, kauffmann
from spectra_scale.mock.objects import Objects, draw_objects, take
from spectra_scale.mock.population import AGES_GYR, METALLICITIES, N_POPULATIONS
from spectra_scale.mock.redshifts import find_redshifts
from spectra_scale.mock.settings import MockSettings, plan

EDGES = (0.0, 0.02, 0.1, 0.35, 0.7, 1.6, 4.0, 8.5, 12.8)


def drawn(n: int = 4000, **changed) -> Objects:
    mock = MockSettings(
        n_spectra=n, n_spec_files=0, boss_fraction=0, repeat_fraction=0, fibers_legacy=2 * n,
        **changed,
    )  # fmt: skip
    return draw_objects(plan(mock)[0], mock)


@pytest.fixture(scope="module")
def objects() -> Objects:
    return drawn()


@given(tau=st.floats(0.4, 15))
@settings(max_examples=25, deadline=None)
def test_mass_in_a_bin_of_age_is_the_integral_of_the_history(tau):
    def rate(lookback: float) -> float:
        time = 12.8 - lookback
        return time * np.exp(-time / tau)

    whole = [quad(rate, a, b)[0] for a, b in pairwise(EDGES)]
    found = delayed_mass(np.array([tau]))[0]
    np.testing.assert_allclose(found, np.array(whole) / sum(whole), rtol=1e-6, atol=1e-12)


@given(kind=st.integers(0, len(kinds.KINDS) - 1), mass=st.floats(7.5, 12), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_shares_of_light_are_shares(kind, mass, seed):
    rng = np.random.default_rng(seed)
    weights, metallicity = light_weights(np.full(7, kind), np.full(7, mass), rng)
    assert weights.shape == (7, N_POPULATIONS)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    assert metallicity.min() >= METALLICITIES.min()
    assert metallicity.max() <= METALLICITIES.max()


def of_kind(objects: Objects, kind: int) -> Objects:
    return take(objects, np.flatnonzero(objects.kind == kind))


def test_kinds_come_in_the_shares_asked_for(objects):
    selected = objects.kind < kinds.STAR
    for kind, name in enumerate(kinds.SELECTED):
        share = np.mean(objects.kind[selected] == kind)
        wanted = kinds.SHARES[name] / sum(kinds.SHARES.values())
        # Four sigma of a binomial of 4000.
        assert abs(share - wanted) < 4 * np.sqrt(wanted / 4000) + 1e-3
    only = drawn(300, class_fractions={"seyfert": 1.0}, star_fraction=0, out_of_range_fraction=0,
                 star_as_galaxy_fraction=0)  # fmt: skip
    assert set(only.kind) == {kinds.SEYFERT}


def test_massive_galaxies_are_metal_rich_dusty_and_fast(objects):
    forming = of_kind(objects, kinds.STAR_FORMING)
    x = np.log10(forming.gas.ratios[:, NII] / forming.gas.ratios[:, HA])
    for with_mass in (x, forming.gas.dust, forming.sigma_stars, forming.metallicity):
        assert spearmanr(forming.log_mass, with_mass).statistic > 0.35


def test_lines_are_strong_where_stars_are_young(objects):
    forming = of_kind(objects, kinds.STAR_FORMING)
    assert spearmanr(forming.log_age, forming.gas.ew_ha).statistic < -0.6
    quiet = of_kind(objects, kinds.PASSIVE)
    assert np.median(quiet.log_age) > np.median(forming.log_age) + 0.3
    extreme = drawn(200, class_fractions={"extreme-emission": 1.0}, star_fraction=0.0)
    assert np.median(extreme.gas.ew_ha[extreme.kind == kinds.EXTREME]) > 150
    after = drawn(200, class_fractions={"post-starburst": 1.0}, star_fraction=0.0)
    light = after.weights[after.kind == kinds.POST_STARBURST]
    young = light[:, (AGES_GYR > 0.1) & (AGES_GYR < 1.5)].sum(axis=1)
    assert np.median(young) > 0.35
    assert np.median(after.gas.ew_ha) < 5


def test_star_forming_galaxies_lie_below_the_demarcation(objects):
    forming = of_kind(objects, kinds.STAR_FORMING)
    ratios = without_dust(forming)
    x = np.log10(ratios[:, NII] / ratios[:, HA])
    y = np.log10(ratios[:, OIII] / ratios[:, HB])
    assert np.all(y < kauffmann(x))


def without_dust(objects: Objects) -> np.ndarray:
    curve = calzetti(LINE_WAVE)
    return objects.gas.ratios * 10 ** (0.4 * objects.gas.dust[:, None] * (curve - curve[HA]))


def test_the_balmer_decrement_is_that_of_recombination_and_dust(objects):
    galaxies = take(objects, np.flatnonzero(np.isin(objects.kind, (0, 1, 2, 3, 5, 6))))
    ratios = without_dust(galaxies)
    decrement = ratios[:, HA] / ratios[:, HB]
    # 2.86 in H II regions, 3.1 in the narrow-line regions of nuclei (Osterbrock).
    assert decrement.min() > 2.85
    assert decrement.max() < 3.11
    seen = galaxies.gas.ratios[:, HA] / galaxies.gas.ratios[:, HB]
    assert np.all(seen >= decrement - 1e-9)


def test_doublets_have_the_ratios_of_atomic_physics(objects):
    galaxies = of_kind(objects, kinds.STAR_FORMING)
    ratios = without_dust(galaxies)
    np.testing.assert_allclose(ratios[:, NII] / ratios[:, 23], 2.96, rtol=1e-6)
    np.testing.assert_allclose(ratios[:, OIII] / ratios[:, 16], 2.98, rtol=1e-6)


def test_narrow_broad_lines_come_with_strong_iron():
    nuclei = drawn(800, class_fractions={"broad-line": 1.0}).nucleus
    on = nuclei.fwhm > 0
    # Eigenvector 1 (Boroson & Green 1992).
    assert spearmanr(nuclei.fwhm[on], nuclei.iron[on, 0]).statistic < -0.2
    np.testing.assert_allclose(nuclei.parts.sum(axis=1), 1)


def test_redshifts_are_right_unless_they_are_said_to_be_wrong(objects):
    mock = MockSettings(bad_redshift_fraction=0.2)
    rng = np.random.default_rng(4)
    found = find_redshifts(objects, mock, rng)
    right = ~found.is_wrong
    velocity = 299792.458 * np.abs(found.z - objects.redshift) / (1 + objects.redshift)
    assert velocity[right].max() < 1200
    assert np.median(velocity[found.is_wrong]) > 5000
    # A tenth of what is wrong has no warning, and some warnings are false alarms.
    assert np.any(found.is_wrong & (found.zwarning == 0))
    assert np.any(right & (found.zwarning == 16))


def test_stars_taken_for_galaxies_get_a_redshift_of_the_sample():
    odd = drawn(2000, star_as_galaxy_fraction=0.1)
    assert 100 < odd.as_galaxy.sum() < 300
    assert np.all(odd.kind[odd.as_galaxy] == kinds.STAR)
    found = find_redshifts(odd, MockSettings(), np.random.default_rng(1))
    assert np.all((found.z[odd.as_galaxy] > 0.05) & (found.zwarning[odd.as_galaxy] == 0))
