"""Correlation of neighbouring rest-frame pixels, from geometry (science.md §2, step 5)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, diags_array

from spectra_scale.spectrum.covariance import correlated_noise, edges_of, neighbour_correlation
from spectra_scale.spectrum.grid import DESI_NATIVE, SDSS_NATIVE, WavelengthGrid
from spectra_scale.spectrum.kernels import rest_frame_conserve

GRIDS = st.sampled_from([SDSS_NATIVE, DESI_NATIVE])


def exact_covariance(native, grid, redshift, variance):
    """Covariance matrix of a rebinned spectrum, float64, from overlaps in the rest frame."""
    edges = edges_of(native)
    stretched = grid.edges * (1 + redshift)
    rows = []
    for low, high in pairwise(stretched):
        overlap = np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)
        rows.append(overlap / overlap.sum() if overlap.sum() > 0 else overlap)
    share = csr_array(np.array(rows))
    spread = diags_array(np.broadcast_to(variance, share.shape[1:]))
    return (share @ spread @ share.T).toarray() * (1 + redshift) ** 2


@settings(max_examples=15, deadline=None)
@given(GRIDS, st.floats(0, 0.6), st.sampled_from([500, 1000, 2000, 3000]))
def test_the_correlation_is_that_of_a_brute_force_covariance(native, redshift, n_pixels):
    grid = WavelengthGrid.rest_frame(n_pixels)
    covariance = exact_covariance(native, grid, redshift, 0.3)
    sigma = np.sqrt(np.diag(covariance))
    there = sigma > 0
    scale = np.where(there, sigma, 1.0)
    expected = covariance / np.outer(scale, scale)
    found = neighbour_correlation(redshift, native, grid)[0]
    # Edges are placed to 1e-9 of a native pixel; float32 rounds at 6e-8.
    np.testing.assert_allclose(found, np.diag(expected, 1), rtol=1e-5, atol=1e-6)
    # There is nothing beyond the neighbours at any resolution that science.md §1 names.
    assert np.abs(np.triu(expected, 2)).max() < 1e-12
    assert found.min() >= 0
    # Neighbours of full pixels share at most half of their noise; one that the native grid's end
    # cuts to a sliver may share all of its own.
    inside = (grid.edges * (1 + redshift) > edges_of(native)[0])[:-2]
    inside &= (grid.edges * (1 + redshift) < edges_of(native)[-1])[2:]
    assert found[inside].max() <= 0.5 + 1e-6


@settings(max_examples=15, deadline=None)
@given(GRIDS, st.floats(0.05, 0.36), st.integers(0, 99))
def test_with_it_the_variance_of_a_sum_is_the_kernels_own(native, redshift, seed):
    """`snr_total` rests on the kernel's variance of the sum, which knows the native ivar."""
    grid = WavelengthGrid.rest_frame()
    rng = np.random.default_rng(seed)
    # An ivar that changes by a third over some fifty native pixels, as sensitivity does.
    wave = np.arange(native.n_pixels)
    ivar = (2.0 + np.sin(wave / 50.0 + rng.uniform(0, 6))).astype("f4")[None]
    bits = np.zeros(ivar.shape, "u4")
    _, v, of_sum = rest_frame_conserve(
        np.ones_like(ivar), ivar, bits, edges_of(native), [redshift], grid.edges, 0, 0.5
    )
    sigma = np.where(v > 0, 1 / np.sqrt(np.where(v > 0, v, 1)), 0)[0].astype(float)
    rho = neighbour_correlation(redshift, native, grid)[0]
    ours = (sigma**2).sum() + 2 * (rho * sigma[:-1] * sigma[1:]).sum()
    # Constant ivar under a pixel is what is assumed: the neglected slope is of first order in each
    # covariance and cancels over the wave.
    assert ours == pytest.approx(of_sum[0], rel=1e-3)
    assert (sigma**2).sum() < 0.97 * of_sum[0]


def test_the_approximation_errs_by_a_few_per_cent_where_native_noise_is_rough():
    """The figure that docs/science-choices.md gives: native ivar drawn from 0.5 to 2 a pixel."""
    grid, z, rng = WavelengthGrid.rest_frame(), 0.13, np.random.default_rng(3)
    variance = 1 / rng.uniform(0.5, 2.0, SDSS_NATIVE.n_pixels)
    covariance = exact_covariance(SDSS_NATIVE, grid, z, variance)
    sigma = np.sqrt(np.diag(covariance))
    exact = np.diag(covariance, 1) / (sigma[:-1] * sigma[1:])
    ours = neighbour_correlation(z, SDSS_NATIVE, grid)[0]
    # Single correlations are off by a quarter of themselves, the sum of all by little.
    assert np.abs(ours - exact).mean() < 0.03
    assert ours.sum() == pytest.approx(exact.sum(), rel=0.05)


def test_a_redshift_that_is_none_gives_no_correlation():
    grid = WavelengthGrid.rest_frame(50)
    found = neighbour_correlation([np.nan, -1.0, np.inf, 0.1], SDSS_NATIVE, grid)
    assert found.shape == (4, 49)
    assert not found[:3].any()
    assert found[3].any()


def test_correlated_noise_has_the_covariance_it_was_asked_for():
    rng = np.random.default_rng(1)
    n, n_pixels = 40_000, 6
    ivar = np.tile(np.float32([4.0, 1.0, 0.0, 2.0, 2.0, 9.0]), (n, 1))
    rho = np.tile(np.float32([0.4, 0.3, 0.3, 0.5, 0.2]), (n, 1))
    noise = correlated_noise(ivar, rho, rng).astype(float)
    sigma = np.where(ivar[0] > 0, 1 / np.sqrt(np.where(ivar[0] > 0, ivar[0], 1)), 0)
    expected = np.diag(sigma**2)
    for j in (0, 3, 4):  # a missing pixel, the third, breaks the chain
        expected[j, j + 1] = expected[j + 1, j] = rho[0, j] * sigma[j] * sigma[j + 1]
    found = noise.T @ noise / n
    # A covariance of n draws has sigma √((1+ρ²)/n) of the two sigmas.
    error = 5 * np.sqrt(1.25 / n) * np.outer(sigma, sigma)
    assert (np.abs(found - expected) <= error + 1e-12).all()
    assert n_pixels == ivar.shape[1]
    assert not noise[:, 2].any()
