"""Truths of the exact, flux-conserving resampling (science.md §1, §2 and §3)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spectra_scale.errors import UsageError
from spectra_scale.spectrum.grid import (
    STACK_FIRST,
    STACK_N_PIXELS,
    WavelengthGrid,
    native_edges,
    stack_edges,
    stack_wavelength,
)
from spectra_scale.spectrum.kernels import rest_frame_conserve
from spectra_scale.spectrum.quality import measure_quality

REJECT = 1 << 23


def log_edges(n):
    return native_edges(36000, n)


def linear_edges(n):
    return (4500 + np.arange(n + 1) - 0.5) * 0.8  # the pixels of DESI


def uneven_edges(n):
    return 4000.0 + np.cumsum(1.0 + 0.7 * np.sin(np.arange(n + 1)))


def overlap_matrix(native, edges, redshift):
    """Overlap in observed Å of grid pixel j and native pixel i, the plain way."""
    left = np.maximum(edges[:-1, None] * (1 + redshift), native[None, :-1])
    right = np.minimum(edges[1:, None] * (1 + redshift), native[None, 1:])
    return np.clip(right - left, 0.0, None)


def brute_force(flux, ivar, bits, native, redshift, edges):
    """Coverage, flux, variance and covariance matrix of one spectrum, in float64."""
    valid = (ivar > 0) & np.isfinite(ivar) & np.isfinite(flux) & ((bits & REJECT) == 0)
    overlap = overlap_matrix(native, edges, redshift) * valid
    total = overlap.sum(axis=1)
    coverage = total / (np.diff(edges) * (1 + redshift))
    share = overlap / np.where(total > 0, total, 1.0)[:, None]
    safe_flux = np.where(valid, flux, 0.0).astype(np.float64)
    variance = np.where(valid, 1.0 / np.where(valid, ivar, 1.0).astype(np.float64), 0.0)
    rest = share @ safe_flux * (1 + redshift)
    covariance = (share * variance) @ share.T * (1 + redshift) ** 2
    return coverage, rest, covariance


@st.composite
def problems(draw):
    n = draw(st.integers(2, 90))
    native = draw(st.sampled_from([log_edges, linear_edges, uneven_edges]))(n)
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    flux = rng.normal(0, 30, n).astype(np.float32)
    ivar = rng.uniform(0.01, 4.0, n).astype(np.float32)
    bits = np.where(rng.random(n) < draw(st.sampled_from([0.0, 0.1, 0.6])), REJECT, 3)
    ivar[rng.random(n) < draw(st.sampled_from([0.0, 0.1, 0.6]))] = 0.0
    flux[(ivar == 0) | (bits == REJECT)] = draw(st.sampled_from([np.nan, np.inf, 1e30, 0.0]))
    redshift = draw(st.floats(-0.3, 2.0))
    span = native[-1] - native[0]
    first = native[0] + draw(st.floats(-0.4, 0.8)) * span
    last = first + draw(st.floats(0.01, 1.5)) * span
    n_grid = draw(st.integers(1, 60))
    edges = np.geomspace(first, last, n_grid + 1) / (1 + redshift)
    coverage = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0.0, 1.0))
    return flux, ivar, bits.astype(np.uint32), native, redshift, edges, coverage


@settings(max_examples=300, deadline=None)
@given(problems())
def test_rebinning_equals_a_brute_force_sum_over_overlaps(problem):
    flux, ivar, bits, native, redshift, edges, min_coverage = problem
    got_flux, got_ivar, got_sum = (
        block[0]
        for block in rest_frame_conserve(
            flux[None], ivar[None], bits[None], native, [redshift], edges, REJECT, min_coverage
        )
    )
    coverage, want, covariance = brute_force(flux, ivar, bits, native, redshift, edges)
    kept = got_ivar > 0
    # Edges are placed to 1e-9 of a native pixel, so a coverage this close to the limit (or, with
    # no limit, to nothing at all) may fall on either side.
    sure = np.abs(coverage - min_coverage) > 1e-8
    np.testing.assert_array_equal(kept[sure], (coverage > max(min_coverage, 0.0))[sure])
    assert (got_flux[~kept] == 0).all()
    # float32 rounds at 6e-8; flux of both signs cancels, so the scale is that of the terms. The
    # rest is the 1e-9 of edges in pixels of which little more than that is covered.
    np.testing.assert_allclose(got_flux[kept], want[kept], rtol=3e-7, atol=1e-4)
    well = kept & (coverage > 1e-4)
    np.testing.assert_allclose(got_flux[well], want[well], rtol=3e-7, atol=3e-5)
    np.testing.assert_allclose(1 / got_ivar[well], np.diag(covariance)[well], rtol=1e-5)
    if (kept == well).all():
        both = np.ix_(kept, kept)
        np.testing.assert_allclose(got_sum, covariance[both].sum(), rtol=1e-5, atol=1e-30)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.uint32, (2, 40)),
    hnp.arrays(np.uint32, (2, 40)),
    st.floats(-0.9, 10.0),
)
def test_whatever_bits_a_file_holds_the_output_is_finite_and_flux_is_0_where_ivar_is_0(f, v, z):
    flux, ivar = f.view(np.float32), v.view(np.float32)
    native = log_edges(40)
    edges = np.geomspace(native[0], native[-1], 12) / (1 + z)
    bits = np.zeros((2, 40), np.uint32)
    out, inverse, _ = rest_frame_conserve(flux, ivar, bits, native, [z, z], edges, 0, 0.3)
    assert np.isfinite(out).all()
    assert np.isfinite(inverse).all()
    assert (inverse >= 0).all()
    assert (out[inverse == 0] == 0).all()


@pytest.fixture(scope="module")
def survey():
    """White noise on a constant of 10, on legacy pixels, with noise that varies along them."""
    rng = np.random.default_rng(11)
    n, m = 300, 3840
    ivar = (1.0 + 0.5 * np.sin(np.arange(m) / 300.0) * np.ones((n, 1))).astype(np.float32)
    flux = (10.0 + rng.normal(size=(n, m)) / np.sqrt(ivar)).astype(np.float32)
    bits = np.where(rng.random((n, m)) < 0.03, REJECT, 0).astype(np.uint32)
    redshift = rng.uniform(0.05, 0.36, n)
    return flux, ivar, bits, native_edges(35800, m), redshift


def test_a_constant_spectrum_stays_constant(survey):
    _, ivar, bits, native, redshift = survey
    flux = np.full(ivar.shape, 7.0, np.float32)
    edges = WavelengthGrid.rest_frame(1000).edges
    got, inverse, _ = rest_frame_conserve(flux, ivar, bits, native, redshift, edges, REJECT, 0.5)
    want = np.broadcast_to(7.0 * (1 + redshift)[:, None], got.shape)
    # One rounding to float32.
    np.testing.assert_allclose(got[inverse > 0], want[inverse > 0], rtol=1.2e-7)


@pytest.mark.parametrize("n_pixels", [1000, 2000, 3000])
def test_the_integral_over_a_fully_covered_range_is_kept(survey, n_pixels):
    flux, ivar, _, native, redshift = survey
    bits = np.zeros(ivar.shape, np.uint32)
    edges = WavelengthGrid.rest_frame(n_pixels).edges
    got, inverse, _ = rest_frame_conserve(flux, ivar, bits, native, redshift, edges, REJECT, 1.0)
    for s in range(0, len(flux), 37):
        kept = np.flatnonzero(inverse[s])
        assert (np.diff(kept) == 1).all()
        a, b = edges[kept[0]] * (1 + redshift[s]), edges[kept[-1] + 1] * (1 + redshift[s])
        inside = np.clip(np.minimum(native[1:], b) - np.maximum(native[:-1], a), 0.0, None)
        observed = (inside * flux[s].astype(np.float64)).sum()
        rest = (np.diff(edges)[kept] * got[s, kept].astype(np.float64)).sum()
        # science.md §2.5: 1e-6, by the rounding of each pixel to float32.
        assert rest == pytest.approx(observed, rel=1e-6)


def test_pulls_of_white_noise_have_unit_variance(survey):
    flux, ivar, bits, native, redshift = survey
    edges = WavelengthGrid.rest_frame(1000).edges
    got, inverse, _ = rest_frame_conserve(flux, ivar, bits, native, redshift, edges, REJECT, 0.5)
    kept = inverse > 0
    truth = np.broadcast_to(10.0 * (1 + redshift)[:, None], got.shape)
    pulls = (got - truth)[kept] * np.sqrt(inverse[kept])
    # Neighbours correlate by about 0.05, which lowers the number of free pulls by under 1 %.
    sigma = np.sqrt(2.0 / (0.99 * pulls.size))
    assert abs(pulls.var() - 1.0) < 5 * sigma
    # Of their sum it takes away more: a sum of n correlated pulls has variance 1.1 n.
    assert abs(pulls.mean()) < 5 * np.sqrt(1.2 / pulls.size)


@pytest.mark.parametrize(("n_pixels", "excess"), [(1000, 0.094), (2000, 0.21), (3000, 0.34)])
def test_pixels_that_share_a_native_pixel_hold_less_than_their_variances_say(n_pixels, excess):
    m = 3840
    native = native_edges(35800, m)
    ones = np.ones((20, m), np.float32)
    redshift = np.linspace(0.12, 0.14, 20)
    edges = WavelengthGrid.rest_frame(n_pixels).edges
    bits = np.zeros(ones.shape, np.uint32)
    _, inverse, total = rest_frame_conserve(ones, ones, bits, native, redshift, edges, 0, 0.5)
    alone = np.sum(1.0 / np.where(inverse > 0, inverse, np.inf), axis=1)
    # The figures of science.md §2.5, to the digits they are given with.
    np.testing.assert_allclose(total / alone - 1.0, excess, atol=0.006)


def test_total_snr_is_the_scatter_of_the_sum_over_noise_realisations():
    rng = np.random.default_rng(5)
    n, m = 20_000, 240
    native = native_edges(36500, m)
    redshift = 0.1234
    edges = np.geomspace(native[0] * 1.002, native[-1] / 1.002, 61) / (1 + redshift)
    ivar = np.broadcast_to(rng.uniform(0.5, 2.0, m).astype(np.float32), (n, m))
    flux = (5.0 + rng.standard_normal((n, m), np.float32) / np.sqrt(ivar)).astype(np.float32)
    bits = np.zeros((n, m), np.uint32)
    got, inverse, variance = rest_frame_conserve(
        flux, ivar, bits, native, np.full(n, redshift), edges, REJECT, 0.5
    )
    sums = got.sum(axis=1, dtype=np.float64)
    quality = measure_quality(got, inverse, variance)
    empirical = sums.mean() / sums.std()
    # A standard deviation of n draws is known to 1/√(2n) = 0.5 %; leaving the covariance out
    # would be wrong by 4.6 %, nine times as much.
    assert quality.snr_total.mean() == pytest.approx(empirical, rel=5 / np.sqrt(2 * n))
    independent = measure_quality(got, inverse)
    assert independent.snr_total.mean() > empirical * 1.03


def test_masked_pixels_never_leak(survey):
    flux, ivar, bits, native, redshift = survey
    edges = WavelengthGrid.rest_frame(1000).edges
    spoiled, unknown = flux.copy(), ivar.copy()
    spoiled[bits != 0] = np.nan
    unknown[(bits != 0) & (np.arange(flux.shape[1]) % 2 == 0)] = np.inf
    want = rest_frame_conserve(flux, ivar, bits, native, redshift, edges, REJECT, 0.5)
    got = rest_frame_conserve(spoiled, unknown, bits, native, redshift, edges, REJECT, 0.5)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    # The same holes told by flux or ivar that is no number, by ivar below 0, or by ivar 0.
    for hole_flux, hole_ivar in [(np.nan, 1), (np.inf, 1), (5, np.nan), (5, np.inf), (5, -1)]:
        holed = np.where(bits != 0, np.float32(hole_flux), flux)
        untold = np.where(bits != 0, np.float32(hole_ivar), ivar)
        got = rest_frame_conserve(holed, untold, 0 * bits, native, redshift, edges, REJECT, 0.5)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
    empty = np.where(bits != 0, np.float32(0), ivar)
    got = rest_frame_conserve(spoiled, empty, 0 * bits, native, redshift, edges, REJECT, 0.5)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("redshift", [-1.0, -3.0, np.nan, np.inf])
def test_a_spectrum_without_a_usable_redshift_comes_out_missing(redshift):
    flux = np.ones((2, 50), np.float32)
    native = log_edges(50)
    out = rest_frame_conserve(
        flux, flux, np.zeros((2, 50), np.uint32), native, [redshift, 0.0], native[::5], 0, 0.5
    )
    for block in out:
        assert (block[0] == 0).all()
        assert (block[1] > 0).all()


def test_read_only_and_big_endian_arrays_give_the_same_numbers(survey):
    flux, ivar, bits, native, redshift = (block[:3] for block in survey)
    native = survey[3]
    edges = WavelengthGrid.rest_frame(1000).edges
    want = rest_frame_conserve(flux, ivar, bits, native, redshift, edges, REJECT, 0.5)
    frozen = flux.astype(">f4")
    frozen.flags.writeable = False
    got = rest_frame_conserve(
        frozen, np.asfortranarray(ivar), bits.astype(">i4"), native, redshift, edges, REJECT, 0.5
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_flux_and_error_equal_those_of_spectres():
    spectres = pytest.importorskip("spectres.spectral_resampling")
    rng = np.random.default_rng(2)
    wave = 10.0 ** (np.arange(35800, 39640) * 1e-4)
    flux = rng.normal(10, 3, wave.size).astype(np.float32)
    ivar = rng.uniform(0.2, 3, wave.size).astype(np.float32)
    redshift = 0.2
    centres = WavelengthGrid.rest_frame(1000).centres[100:900]
    error = 1.0 / np.sqrt(ivar.astype(np.float64))
    want, want_error = spectres.spectres(
        centres, wave / (1 + redshift), flux.astype(np.float64), error, verbose=False
    )
    # spectres puts edges half way between centres in λ. Given the same edges it is the same sum.
    native, edges = spectres.make_bins(wave)[0], spectres.make_bins(centres)[0]
    bits = np.zeros(wave.size, np.uint32)
    got, inverse, _ = rest_frame_conserve(
        flux[None], ivar[None], bits[None], native, [redshift], edges, REJECT, 0.5
    )
    # float32 output.
    np.testing.assert_allclose(got[0], want * (1 + redshift), rtol=2e-7)
    np.testing.assert_allclose(1 / np.sqrt(inverse[0]), want_error * (1 + redshift), rtol=2e-7)
    # With edges half way in log λ, as they are, the edges of grid pixels (9e-4 wide in ln λ) move
    # by (9e-4)²/8 of λ: 4.4e-4 of a native pixel, 1.1e-4 of a grid pixel, times noise of 3.
    true_edges = WavelengthGrid.rest_frame(1000).edges[100:901]
    own, _, _ = rest_frame_conserve(
        flux[None],
        ivar[None],
        bits[None],
        native_edges(35800, wave.size),
        [redshift],
        true_edges,
        REJECT,
        0.5,
    )
    np.testing.assert_allclose(own[0], want * (1 + redshift), rtol=0, atol=1.1e-4 * 3 * 5 * 1.2)


def test_the_rest_frame_grid_is_the_paper_grid():
    grid = WavelengthGrid.rest_frame()
    np.testing.assert_allclose(
        grid.edges, np.logspace(np.log10(3388), np.log10(8318), 1001), rtol=1e-13
    )
    assert grid.log10_step == pytest.approx(3.9008e-4, abs=5e-9)
    np.testing.assert_allclose(grid.centres**2, grid.edges[1:] * grid.edges[:-1], rtol=1e-13)
    pixel = np.searchsorted(grid.edges, 6564.61)
    # "5.9 Å at Hα" (science.md §1).
    assert grid.edges[pixel] - grid.edges[pixel - 1] == pytest.approx(5.9, abs=0.05)


def test_native_and_stack_grids_are_centred_on_whole_pixels():
    edges = native_edges(36000, 10)
    np.testing.assert_allclose(np.log10(edges) * 1e4, np.arange(35999.5, 36010), rtol=1e-12)
    wave = stack_wavelength()
    assert len(wave) == STACK_N_PIXELS
    np.testing.assert_allclose(
        np.log10(wave[[0, -1]]), [STACK_FIRST * 1e-4, 3.8999], rtol=0, atol=1e-12
    )
    assert ((stack_edges()[:-1] < wave) & (wave < stack_edges()[1:])).all()


@pytest.mark.parametrize("n_pixels", [0, -5])
def test_a_grid_without_pixels_is_refused(n_pixels):
    with pytest.raises(UsageError, match="n_pixels"):
        WavelengthGrid.rest_frame(n_pixels)
