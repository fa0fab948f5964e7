"""Truths of the two presets and of signal to noise (science.md §2 and §3, formats.md §0.2)."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.observed import (
    ObservedSpectra,
    OffGridError,
    RestSpectra,
    ShapeError,
    snap_loglam,
)
from spectra_scale.spectrum.preprocess import Preprocess, to_rest_frame
from spectra_scale.spectrum.quality import measure_quality

BRIGHTSKY = np.uint32(1 << 23)


def observed(seed, n=4, m=900, first=36000):
    rng = np.random.default_rng(seed)
    ivar = rng.uniform(0.1, 4.0, (n, m)).astype(np.float32)
    ivar[rng.random((n, m)) < 0.05] = 0
    bits = np.where(rng.random((n, m)) < 0.1, BRIGHTSKY, 0).astype(np.uint32)
    flux = rng.normal(20, 5, (n, m)).astype(np.float32)
    flux[(ivar == 0) | (bits != 0)] = np.nan
    keys = np.array([f"sdss:1-{seed}-{i}" for i in range(n)])
    return ObservedSpectra(keys, first, flux, ivar, bits), rng.uniform(0.05, 0.36, n)


def reference_by_hand(block, s, redshift, factor, grid):
    """Steps 1, 2, 3 and 5 of science.md §2 ``reference``, one pixel at a time."""
    flux, ivar = np.zeros(grid.n_pixels), np.zeros(grid.n_pixels)
    for j, (left, right) in enumerate(zip(grid.edges[:-1], grid.edges[1:], strict=True)):
        values, variances = [], []
        for i, wavelength in enumerate(block.wavelength):
            inside = left <= wavelength / (1 + redshift) < right
            if inside and block.mask_bits[s, i] == 0 and block.ivar[s, i] != 0:
                unit = wavelength * factor
                values.append(block.flux[s, i] * unit)
                variances.append(unit**2 / float(block.ivar[s, i]))
        if values:
            flux[j] = np.mean(values)
            ivar[j] = len(values) / np.mean(variances)
            if flux[j] * np.sqrt(ivar[j]) > 50:
                ivar[j] = (50 / flux[j]) ** 2
    return flux, ivar


SMALL = WavelengthGrid(np.log10(3600.0), 6e-4, 100)


@pytest.mark.parametrize("boost", [0.1, 30.0])
def test_the_reference_preset_is_the_mean_of_the_native_pixels_in_each_grid_pixel(boost):
    block, redshift = observed(3, n=3, m=500, first=36200)
    # Boosted flux, with its noise as it was, meets the cap on S/N.
    block = dataclasses.replace(block, flux=block.flux * np.float32(boost))
    block.flux[1, 100:110] *= -1  # the cap is on F√v, and so not on negative flux
    factor = np.array([0.4, 1.7, 6.0])
    rest, quality = to_rest_frame(
        block, redshift, Preprocess("reference", "paper", grid=SMALL), factor
    )
    capped = 0
    for s in range(3):
        flux, ivar = reference_by_hand(block, s, redshift[s], factor[s], SMALL)
        # Rounding to float32; the cap squares it.
        np.testing.assert_allclose(rest.flux[s], flux, rtol=2e-7)
        np.testing.assert_allclose(rest.ivar[s], ivar, rtol=5e-7)
        good = ivar > 0
        snr = flux[good] * np.sqrt(ivar[good])
        capped += np.isclose(snr, 50, rtol=1e-6).sum()
        assert snr.max() <= 50 * (1 + 1e-6)
        total = flux[good].sum() / np.sqrt((1 / ivar[good]).sum())
        assert quality.snr_total[s] == pytest.approx(total, rel=1e-6)  # covariance left out
        assert quality.masked_fraction[s] == pytest.approx(1 - good.mean())
    assert (capped > 0) == (boost > 1)


def test_reference_needs_a_luminosity_factor_and_conserve_has_none():
    block, redshift = observed(0)
    with pytest.raises(UsageError, match="missing with preset 'reference'"):
        to_rest_frame(block, redshift, Preprocess("reference"))
    with pytest.raises(UsageError, match="given with preset 'conserve'"):
        to_rest_frame(block, redshift, Preprocess(), np.ones(4))


def test_a_luminosity_factor_that_is_no_number_leaves_the_spectrum_missing():
    block, redshift = observed(0)
    factor = np.array([1.0, np.nan, 0.0, np.inf])
    rest, quality = to_rest_frame(block, redshift, Preprocess("reference"), factor)
    np.testing.assert_array_equal(quality.masked_fraction[1:], 1.0)
    assert quality.masked_fraction[0] < 1
    assert np.isfinite(rest.flux).all()


def test_signal_to_noise_is_the_same_in_any_unit_and_frame():
    block, redshift = observed(1, m=3000, first=35900)
    _, quality = to_rest_frame(block, redshift, Preprocess())
    scaled = dataclasses.replace(block, flux=block.flux * 4, ivar=block.ivar / 16)
    _, same = to_rest_frame(scaled, redshift, Preprocess())
    for name in ("snr_median", "snr_mean", "snr_total", "masked_fraction"):
        # Powers of two scale floats exactly, but for the order of fused sums.
        np.testing.assert_allclose(getattr(same, name), getattr(quality, name), rtol=1e-6)


def test_quality_is_what_numpy_makes_of_the_valid_pixels():
    block, redshift = observed(2, m=3000, first=35900)
    rest, quality = to_rest_frame(block, redshift, Preprocess())
    for s in range(len(rest)):
        good = rest.mask[s]
        ratio = rest.flux[s, good].astype(float) * np.sqrt(rest.ivar[s, good].astype(float))
        # The median is taken of float32 values.
        assert quality.snr_median[s] == pytest.approx(np.median(ratio), rel=1e-7)
        assert quality.snr_mean[s] == pytest.approx(ratio.mean(), rel=1e-12)
        assert quality.masked_fraction[s] == pytest.approx(1 - good.mean(), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**99), 2.0**99, width=32))
    | hnp.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-2.0, -0.0, 0.0, 1.5])),
)
def test_median_signal_to_noise_is_the_median_for_any_values_ties_and_signs(flux):
    quality = measure_quality(flux[None], np.ones((1, flux.size)))
    # Exact, but for the rounding of the mean of the two in the middle.
    want = np.median(flux.astype(np.float64))
    assert quality.snr_median[0] == pytest.approx(want, rel=1e-15, abs=0)


def test_a_spectrum_without_a_valid_pixel_has_no_signal_and_is_fully_masked():
    block, _ = observed(4, n=2)
    block = dataclasses.replace(block, ivar=np.zeros_like(block.ivar))
    rest, quality = to_rest_frame(block, [0.1, 0.2], Preprocess())
    assert not rest.flux.any()
    assert not rest.mask.any()
    for values in (quality.snr_median, quality.snr_mean, quality.snr_total):
        np.testing.assert_array_equal(values, 0.0)
    np.testing.assert_array_equal(quality.masked_fraction, 1.0)


def test_quality_without_covariance_counts_pixels_as_independent():
    flux, ivar = np.array([[3.0, 4.0, 99.0]]), np.array([[1.0, 0.25, 0.0]])
    quality = measure_quality(flux, ivar)
    assert quality.snr_total[0] == pytest.approx(7 / np.sqrt(5))
    assert quality.snr_median[0] == pytest.approx(2.5)


@pytest.mark.parametrize("per_spectrum", [False, True])
def test_dereddening_multiplies_flux_and_leaves_signal_to_noise_of_a_pixel_alone(per_spectrum):
    block, redshift = observed(5)
    curve = 10 ** (0.4 * 0.3 * (block.wavelength / 5500.0) ** -1.3)
    if per_spectrum:
        curve = np.tile(curve, (4, 1))
    rest, _ = to_rest_frame(block, redshift, Preprocess(grid=SMALL), extinction=curve)
    by_hand = dataclasses.replace(block, flux=block.flux * curve, ivar=block.ivar / curve**2)
    want, _ = to_rest_frame(by_hand, redshift, Preprocess(grid=SMALL))
    # The factor is float32 in one and float64 in the other; it enters ivar twice.
    np.testing.assert_allclose(rest.flux, want.flux, rtol=5e-7)
    np.testing.assert_allclose(rest.ivar, want.ivar, rtol=1e-6)
    plain, _ = to_rest_frame(block, redshift, Preprocess(grid=SMALL))
    assert (rest.flux[plain.mask] > plain.flux[plain.mask]).all()


@pytest.mark.parametrize("extinction", [np.ones(3), np.zeros(900), np.full(900, np.nan)])
def test_an_extinction_that_does_not_fit_is_refused(extinction):
    block, redshift = observed(5)
    with pytest.raises(ShapeError, match="extinction"):
        to_rest_frame(block, redshift, Preprocess(), extinction=extinction)


@pytest.mark.parametrize(
    ("choice", "named"),
    [({"preset": "best"}, "preset"), ({"mask": "none"}, "mask"), ({"min_coverage": 1.5}, "min_")],
)
def test_settings_that_make_no_sense_are_refused(choice, named):
    with pytest.raises(UsageError, match=named):
        Preprocess(**choice)


def test_a_block_is_the_same_whole_or_in_parts():
    block, redshift = observed(6, n=5)
    whole, _ = to_rest_frame(block, redshift, Preprocess(grid=SMALL))
    for s in range(5):
        one = ObservedSpectra(
            block.spectrum_key[s : s + 1],
            block.first_pixel,
            block.flux[s : s + 1],
            block.ivar[s : s + 1],
            block.mask_bits[s : s + 1],
        )
        part, _ = to_rest_frame(one, redshift[s : s + 1], Preprocess(grid=SMALL))
        np.testing.assert_array_equal(part.flux[0], whole.flux[s])
        np.testing.assert_array_equal(part.ivar[0], whole.ivar[s])


def test_padding_with_missing_pixels_changes_nothing():
    block, redshift = observed(7)
    pad = ((0, 0), (57, 31))
    padded = ObservedSpectra(
        block.spectrum_key,
        block.first_pixel - 57,
        np.pad(block.flux, pad, constant_values=np.nan),
        np.pad(block.ivar, pad),
        np.pad(block.mask_bits, pad),
    )
    want, _ = to_rest_frame(block, redshift, Preprocess(grid=SMALL))
    got, _ = to_rest_frame(padded, redshift, Preprocess(grid=SMALL))
    # Edges are placed relative to the first pixel: float64 rounding, and then float32.
    np.testing.assert_allclose(got.flux, want.flux, rtol=2e-7)
    np.testing.assert_allclose(got.ivar, want.ivar, rtol=2e-7)


def test_rows_are_checked_where_frames_meet():
    block, redshift = observed(8)
    with pytest.raises(ShapeError, match="redshift"):
        to_rest_frame(block, redshift[:2], Preprocess())
    with pytest.raises(ShapeError, match="ivar"):
        ObservedSpectra(block.spectrum_key, 0, block.flux, block.ivar[:, 1:], block.mask_bits)
    with pytest.raises(ShapeError, match="flux"):
        RestSpectra(block.spectrum_key, redshift, SMALL, block.flux, block.ivar)


def test_big_endian_columns_of_fits_are_turned_round():
    block, _ = observed(9)
    again = ObservedSpectra(
        block.spectrum_key,
        36000,
        block.flux.astype(">f4"),
        block.ivar.astype(">f4"),
        block.mask_bits.astype(">i4"),
    )
    assert again.flux.dtype.isnative
    assert again.mask_bits.dtype == np.uint32
    np.testing.assert_array_equal(again.flux, block.flux)
    np.testing.assert_array_equal(again.mask_bits, block.mask_bits)


@settings(max_examples=50, deadline=None)
@given(st.integers(30_000, 41_000), st.integers(1, 4700))
def test_float32_loglam_snaps_to_the_pixel_it_was_made_from(first, n):
    pixel = np.arange(first, first + n)
    loglam = (pixel * 1e-4).astype(np.float32)
    np.testing.assert_array_equal(snap_loglam(loglam), pixel)


@pytest.mark.parametrize(
    ("loglam", "said"),
    [
        ([3.6, 3.60012], "off the native grid"),
        ([3.6, 3.6002], "consecutive"),
        ([3.6001, 3.6], "consecutive"),
        ([3.6, np.nan], "not finite"),
        ([[3.6]], "shape"),
    ],
)
def test_wavelengths_off_the_grid_are_refused(loglam, said):
    with pytest.raises(OffGridError, match=said) as caught:
        snap_loglam(loglam)
    assert isinstance(caught.value, SpectraScaleError)
    assert isinstance(caught.value, ValueError)


def test_linear_pixels_of_desi_have_the_wavelengths_of_its_files():
    ones = np.ones((1, 7781), np.float32)
    block = ObservedSpectra(np.array(["desi:a"]), 4500, ones, ones, 0 * ones, linear_step=0.8)
    # formats.md §A5: 3600 to 9824 Å, 7781 pixels.
    np.testing.assert_allclose(block.wavelength[[0, -1]], [3600.0, 9824.0], rtol=1e-14)
    np.testing.assert_allclose(block.edges[[0, -1]], [3599.6, 9824.4], rtol=1e-14)
    rest, _ = to_rest_frame(block, [0.1], Preprocess())
    # Covered in full from 3388 to 8318 Å at this redshift, and constant: F(1+z).
    np.testing.assert_allclose(rest.flux, 1.1, rtol=1.2e-7)
