"""Truths of stacks on the native grid (science.md §9)."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.spectrum.grid import STACK_FIRST, STACK_N_PIXELS, stack_wavelength
from spectra_scale.spectrum.observed import ObservedSpectra, ShapeError
from spectra_scale.spectrum.stacking import (
    StackSums,
    bootstrap_error,
    bootstrap_multiplicity,
    median_stack,
    shift_to_stack,
    stack_regions,
    unweighted_mean,
    window_scale,
)

REJECT = 1 << 23


def observed(seed, n=6, m=700, first=36400):
    rng = np.random.default_rng(seed)
    ivar = rng.uniform(0.1, 4.0, (n, m)).astype(np.float32)
    ivar[rng.random((n, m)) < 0.1] = 0
    bits = rng.choice(np.array([0, 1 << 16, REJECT], np.uint32), (n, m), p=[0.8, 0.1, 0.1])
    flux = rng.normal(20, 5, (n, m)).astype(np.float32)
    flux[(ivar == 0) | (bits == REJECT)] = np.nan
    keys = np.array([f"sdss:1-{seed}-{i}" for i in range(n)])
    return ObservedSpectra(keys, first, flux, ivar, bits), rng.uniform(0.05, 0.36, n)


def rows(block, which):
    return dataclasses.replace(
        block,
        spectrum_key=block.spectrum_key[which],
        flux=block.flux[which],
        ivar=block.ivar[which],
        mask_bits=block.mask_bits[which],
    )


def stack_by_hand(block, redshift, members, scale):
    """Σv, ΣvF, N and Σv² pixel by pixel, as science.md §9 writes it."""
    sums = np.zeros((4, STACK_N_PIXELS))
    for s in range(len(block)):
        for i in range(block.n_pixels):
            k_obs = block.first_pixel + i
            k_rest = k_obs - int(np.floor(1e4 * np.log10(1 + redshift[s]) + 0.5))
            valid = block.ivar[s, i] > 0 and not int(block.mask_bits[s, i]) & REJECT
            if not valid or not 0 <= k_rest - STACK_FIRST < STACK_N_PIXELS:
                continue
            factor = (1 + redshift[s]) * scale[s]
            v = float(block.ivar[s, i]) / factor**2
            flux = float(block.flux[s, i]) * factor
            sums[:, k_rest - STACK_FIRST] += members[s] * np.array([v, v * flux, 1.0, v * v])
    return sums


def as_array(sums):
    return np.array([sums.weight, sums.weighted_flux, sums.count, sums.weight_squared])


@st.composite
def blocks(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(0, 12)), draw(st.integers(1, 9))
    ivar = rng.uniform(0.01, 5.0, (n, m)) * (rng.random((n, m)) < 0.7)
    flux = np.where(ivar > 0, rng.normal(0, 100, (n, m)), np.nan)
    return flux, ivar


@given(blocks(), st.data())
def test_stack_does_not_depend_on_how_spectra_are_split(block, data):
    flux, ivar = block
    cut = data.draw(st.integers(0, len(flux)))
    whole = StackSums.of(flux, ivar)
    parts = StackSums.of(flux[:cut], ivar[:cut]) + StackSums.of(flux[cut:], ivar[cut:])
    # Only the order of float64 additions differs, so the scale is that of the largest term.
    scale = np.abs(np.nan_to_num(flux) * ivar).sum(axis=0).max(initial=1.0)
    np.testing.assert_allclose(parts.weighted_flux, whole.weighted_flux, atol=1e-12 * scale)
    np.testing.assert_allclose(parts.weight, whole.weight, rtol=1e-12)
    np.testing.assert_array_equal(parts.count, whole.count)


@given(blocks())
def test_an_empty_stack_changes_nothing_and_merging_commutes(block):
    one = StackSums.of(*block)
    zero = StackSums.zeros(block[0].shape[1])
    np.testing.assert_array_equal(as_array(one + zero), as_array(one))
    np.testing.assert_array_equal(as_array(zero + one), as_array(one))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 6), max_size=3))
def test_stacking_a_survey_in_shards_is_stacking_it_whole(seed, cuts):
    block, redshift = observed(seed, n=6, m=60)
    members = np.random.default_rng(seed).random((6, 3)) < 0.6
    whole = stack_regions(block, redshift, members, REJECT)
    total = [StackSums.zeros() for _ in range(3)]
    for part in np.split(np.arange(6), sorted(cuts)):
        sums = stack_regions(rows(block, part), redshift[part], members[part], REJECT)
        total = [a + b for a, b in zip(total, sums, strict=True)]
    for a, b in zip(total, whole, strict=True):
        # Order of float64 additions, and fused or not in the one-region path; terms are of order
        # 100 and have one sign.
        np.testing.assert_allclose(as_array(a), as_array(b), rtol=1e-12, atol=1e-10)
        np.testing.assert_array_equal(a.count, b.count)


@pytest.mark.parametrize("first", [34800, 36400, 39500])
def test_stacks_equal_a_loop_over_native_pixels(first):
    block, redshift = observed(1, first=first)
    members = np.array(
        [[1, 0, 0, 2], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 7]] + [[1, 0, 0, 0]] * 2
    )
    scale = np.array([1.0, 0.5, 3.0, 1.0, 2.0, 1.0])
    sums = stack_regions(block, redshift, members, REJECT, scale)
    assert len(sums) == 4
    for r, stack in enumerate(sums):
        want = stack_by_hand(block, redshift, members[:, r], scale)
        np.testing.assert_allclose(as_array(stack), want, rtol=1e-12)  # float64 rounding
    assert not sums[2].count.any()
    assert np.isnan(sums[2].flux()).all()


@given(st.floats(0.0, 1.5), st.integers(34000, 40000))
def test_each_native_pixel_lands_on_one_pixel_and_none_twice(redshift, first):
    m = 300
    ones = np.ones((1, m), np.float32)
    block = ObservedSpectra(np.array(["a"]), first, ones, ones, np.zeros((1, m), np.uint32))
    (stack,) = stack_regions(block, [redshift], [[True]], 0)
    shift = int(np.floor(1e4 * np.log10(1 + redshift) + 0.5))
    want = np.isin(np.arange(STACK_N_PIXELS) + STACK_FIRST + shift, np.arange(first, first + m))
    np.testing.assert_array_equal(stack.count, want)


def test_a_line_lands_within_half_a_pixel_of_its_rest_wavelength():
    redshift = 0.2137
    observed_line = 6564.61 * (1 + redshift)
    pixel = round(np.log10(observed_line) * 1e4)
    flux = np.zeros((1, 500), np.float32)
    flux[0, 250] = 1.0
    block = ObservedSpectra(
        np.array(["a"]), pixel - 250, flux, flux + 1, np.zeros(flux.shape, np.uint32)
    )
    (stack,) = stack_regions(block, [redshift], [[True]], 0)
    where = stack_wavelength()[np.nanargmax(stack.flux())]
    # Half a pixel by the shift and half by the line's own place in its native pixel.
    assert abs(np.log10(where / 6564.61)) <= 1e-4
    assert np.nanmax(stack.flux()) == pytest.approx(1 + redshift)


def test_the_stack_is_the_weighted_mean_with_its_error_and_effective_number():
    flux = np.array([[1.0, 5.0, np.nan], [3.0, np.nan, np.nan], [5.0, 7.0, 0.0]])
    ivar = np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 0.0], [2.0, 2.0, 0.0]])
    sums = StackSums.of(flux, ivar)
    np.testing.assert_allclose(sums.flux(), [14 / 4, 6.0, np.nan])
    np.testing.assert_allclose(sums.error(), [0.5, 0.5, np.nan])
    np.testing.assert_allclose(sums.n_eff(), [16 / 6, 2.0, np.nan])
    np.testing.assert_array_equal(sums.count, [3, 2, 0])


def test_the_error_of_a_stack_is_its_scatter_over_noise():
    rng = np.random.default_rng(3)
    ivar = rng.uniform(0.2, 3.0, (40, 3000))
    stack = StackSums.of(7.0 + rng.normal(size=ivar.shape) / np.sqrt(ivar), ivar)
    pulls = (stack.flux() - 7.0) / stack.error()
    assert abs(pulls.var() - 1.0) < 5 * np.sqrt(2.0 / 3000)  # sampling error of a variance


@pytest.mark.parametrize("regions", [1, 2])
@pytest.mark.parametrize(
    ("flux", "ivar"), [(np.nan, 1), (np.inf, 1), (5, np.nan), (5, np.inf), (5, -1)]
)
def test_a_pixel_whose_flux_or_ivar_is_no_number_is_missing(flux, ivar, regions):
    block, redshift = observed(10)
    members = np.ones((6, regions))
    want = stack_regions(block, redshift, members, REJECT)
    hidden = (block.mask_bits & REJECT) != 0
    holed = dataclasses.replace(
        block,
        flux=np.where(hidden, np.float32(flux), block.flux),
        ivar=np.where(hidden, np.float32(ivar), block.ivar),
    )
    got = stack_regions(holed, redshift, members, 0)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(as_array(a), as_array(b))
    aligned = shift_to_stack(holed, redshift, 0)
    for a, b in zip(aligned, shift_to_stack(block, redshift, REJECT), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_member_counted_twice_is_a_member_given_twice():
    block, redshift = observed(5, n=3)
    (twice,) = stack_regions(block, redshift, np.array([[2], [0], [1]]), REJECT)
    again = [0, 0, 2]
    (given_twice,) = stack_regions(rows(block, again), redshift[again], np.ones((3, 1)), REJECT)
    np.testing.assert_allclose(as_array(twice), as_array(given_twice), rtol=1e-12)  # rounding


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, np.inf])
def test_spectra_without_a_usable_scale_or_redshift_are_left_out(bad):
    block, redshift = observed(6, n=3)
    scale = np.array([1.0, bad, 1.0])
    (got,) = stack_regions(block, redshift, np.ones((3, 1)), REJECT, scale)
    keep = [0, 2]
    (want,) = stack_regions(rows(block, keep), redshift[keep], np.ones((2, 1)), REJECT)
    np.testing.assert_array_equal(as_array(got), as_array(want))
    if bad != 0:
        shifted = np.where(np.arange(3) == 1, bad, redshift)
        (got,) = stack_regions(block, shifted, np.ones((3, 1)), REJECT)
        np.testing.assert_array_equal(as_array(got), as_array(want))


def test_rows_that_do_not_fit_are_refused():
    block, redshift = observed(6, n=3)
    with pytest.raises(ShapeError, match="membership"):
        stack_regions(block, redshift, np.ones((2, 1)), REJECT)
    with pytest.raises(ShapeError, match="redshift"):
        stack_regions(block, redshift[:2], np.ones((3, 1)), REJECT)


def test_aligned_spectra_stack_to_the_same_sums():
    block, redshift = observed(7)
    flux, ivar = shift_to_stack(block, redshift, REJECT)
    (want,) = stack_regions(block, redshift, np.ones((6, 1), bool), REJECT)
    got = StackSums.of(flux, ivar)
    assert np.isnan(flux[ivar == 0]).all()
    assert np.isfinite(flux[ivar > 0]).all()
    np.testing.assert_array_equal(got.count, want.count)
    # Aligned spectra are float32, and v² has twice the rounding of v.
    np.testing.assert_allclose(got.weight, want.weight, rtol=2e-7)
    np.testing.assert_allclose(got.flux(), want.flux(), rtol=5e-7)


def test_median_and_unweighted_mean_ignore_missing_pixels():
    block, redshift = observed(8)
    flux, ivar = shift_to_stack(block, redshift, REJECT)
    seen = (ivar > 0).any(axis=0)
    median = median_stack(flux, ivar)
    np.testing.assert_allclose(median[seen], np.nanmedian(flux[:, seen], axis=0), rtol=1e-7)
    assert np.isnan(median[~seen]).all()
    mean, error = unweighted_mean(flux, ivar)
    # numpy adds in float32 here.
    np.testing.assert_allclose(mean[seen], np.nanmean(flux[:, seen], axis=0), rtol=1e-6)
    assert np.isnan(mean[~seen]).all()
    pixel = int(np.flatnonzero(seen)[9])
    good = ivar[:, pixel] > 0
    want = np.sqrt((1 / ivar[good, pixel].astype(float)).sum()) / good.sum()
    assert error[pixel] == pytest.approx(want, rel=1e-12)


def test_normalised_spectra_have_median_one_in_the_window():
    block, redshift = observed(9, m=1500)
    block.flux[4] = -np.abs(block.flux[4])
    block.ivar[5] = 0
    flux, ivar = shift_to_stack(block, redshift, REJECT)
    wave = stack_wavelength()
    window = (4200.0, 4400.0)
    scale = window_scale(flux, ivar, window)
    inside = (wave >= window[0]) & (wave <= window[1])
    medians = np.nanmedian(flux[:4][:, inside] * scale[:4, None], axis=1)
    np.testing.assert_allclose(medians, 1.0, rtol=1e-6)  # float32
    # A negative median and an empty window give no scale, and so no part in the stack.
    assert np.isnan(scale[4:]).all()
    (stack,) = stack_regions(block, redshift, np.ones((6, 1)), REJECT, scale)
    assert stack.count.max() <= 4


def test_bootstrap_draws_do_not_depend_on_blocks_or_on_other_objects():
    whole = bootstrap_multiplicity(np.arange(1000), 20, 7)
    order = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(bootstrap_multiplicity(order, 20, 7), whole[order])
    np.testing.assert_array_equal(bootstrap_multiplicity(order[:10], 5, 7), whole[order[:10], :5])
    assert (bootstrap_multiplicity(np.arange(1000), 20, 8) != whole).any()


@pytest.mark.parametrize("seed", [0, 1, -3, 2**63])
def test_bootstrap_multiplicities_are_independent_poisson_draws_of_mean_one(seed):
    n, r = 20_000, 10
    draws = bootstrap_multiplicity(np.arange(n) + 10**12, r, seed).astype(float)
    # Poisson(1): mean 1, variance 1, fourth central moment 4, P(0) = 1/e; 5 sigma of each.
    assert abs(draws.mean() - 1) < 5 / np.sqrt(n * r)
    assert abs(draws.var() - 1) < 5 * np.sqrt(3 / (n * r))
    zero = np.exp(-1)
    assert abs((draws == 0).mean() - zero) < 5 * np.sqrt(zero * (1 - zero) / (n * r))
    correlation = np.corrcoef(draws.T)[np.triu_indices(r, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    along = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(along) < 5 / np.sqrt(n)


def test_bootstrap_error_of_equal_noise_is_the_error_of_the_stack():
    rng = np.random.default_rng(4)
    n, m, r = 400, 200, 200
    flux = rng.normal(10.0, 1.0, (n, m)).astype(np.float32)
    ones = np.ones_like(flux)
    block = ObservedSpectra(
        np.arange(n).astype(str), 36000, flux, ones, np.zeros(flux.shape, np.uint32)
    )
    copies = bootstrap_multiplicity(np.arange(n), r, 1)
    replicas = stack_regions(block, np.zeros(n), copies, 0)
    error = bootstrap_error(replicas)[1000:1200]
    # A standard deviation of 200 replicas of 400 objects is known to 1/√400 and 1/√800; the mean
    # of 200 independent pixels, all with the same replicas, to about 1/√400 at worst.
    assert error.mean() == pytest.approx(1 / np.sqrt(n), rel=5 / np.sqrt(400))
    assert np.isnan(bootstrap_error(replicas)[:1000]).all()


def test_linear_spectra_are_rebinned_to_the_stack_grid():
    ones = np.ones((2, 7781), np.float32)
    block = ObservedSpectra(
        np.array(["a", "b"]), 4500, 3 * ones, ones, np.zeros(ones.shape, np.uint32), 0.8
    )
    redshift = np.array([0.1, 0.3])
    (stack,) = stack_regions(block, redshift, np.ones((2, 1)), 0)
    wave = stack_wavelength()
    edges = [3600.0, 9824.0] / (1 + redshift[:, None])
    # Half a DESI pixel and half a stack pixel of leeway at either end.
    deep = [(wave > low + 2) & (wave < high - 2) for low, high in edges]
    np.testing.assert_array_equal(stack.count[deep[0] & deep[1]], 2)
    alone = deep[1] & (wave < edges[0, 0] - 2)
    np.testing.assert_array_equal(stack.count[alone], 1)
    np.testing.assert_allclose(stack.flux()[alone], 3 * 1.3, rtol=2e-7)  # float32
    flux, ivar = shift_to_stack(block, redshift, 0)
    assert flux.shape == ivar.shape == (2, STACK_N_PIXELS)
    np.testing.assert_allclose(flux[0, deep[0]], 3.3, rtol=2e-7)
    assert np.isnan(flux[ivar == 0]).all()
