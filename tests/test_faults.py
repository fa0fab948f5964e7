"""Faults planted in spectra of known truth are measured, and only those."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.spectrum.faults import (
    OWN_SCALE,
    SEAMS,
    STATISTICS,
    Scales,
    ScaleSums,
    measure_faults,
    observed_offset,
    quiet_pixels,
)
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.vacuum import LINES, WEAK_LINES, air_to_vacuum

GRID = WavelengthGrid.rest_frame()
WAVE = GRID.centres
SKY_LINES = (5578.9, 6302.0, 7278.0, 7342.9, 7753.0, 7796.3, 7823.6, 8346.9, 8401.5, 8432.4)
SNR = 30.0
MISFIT = 0.02


def made(n, seed=1, misfit=MISFIT):
    """n spectra with noise at S/N 30, twice that at lines of the sky, and a misfit of 2 %."""
    rng = np.random.default_rng(seed)
    redshift = rng.uniform(0.06, 0.3, n)
    recon = 1 + rng.normal(0, 0.3, (n, 1)) * np.linspace(-1, 1, GRID.n_pixels)
    seen = WAVE * (1 + redshift)[:, None]
    at_sky = (np.abs(np.log(seen[:, :, None] / np.array(SKY_LINES))) < 1e-3).any(axis=2)
    sigma = np.where(at_sky, 2.0, 1.0) / SNR
    true = recon * (1 + misfit * rng.standard_normal(recon.shape))
    flux = true + sigma * rng.standard_normal(recon.shape)
    covered = (seen > 3800) & (seen < 9200)
    ivar = np.where(covered, sigma**-2.0, 0)
    return recon.astype("f4"), np.where(covered, flux, 0).astype("f4"), ivar.astype("f4"), redshift


def narrow(spectra):
    return np.zeros(len(spectra[0]), bool)


def scales_of(*spectra, broad=None):
    broad = narrow(spectra) if broad is None else broad
    return Scales.of(ScaleSums.of(*spectra, broad, GRID))


@pytest.fixture(scope="module")
def scales():
    return scales_of(*made(600))


def measured(scales, spectra, survey="sdss", broad=None):
    broad = narrow(spectra) if broad is None else broad
    return measure_faults(*spectra, broad, (scales, GRID, survey))


def test_scales_are_those_that_the_spectra_were_made_with(scales):
    # 90 % of the pulls of noise and misfit together lie within 1.645 when f is the true one; where
    # the noise is 3.3 % the 2 % beside it are known to a bin (1/6 e-fold) and its sampling.
    inner = scales.misfit[:, 200:800]
    assert np.median(inner) == pytest.approx(MISFIT, rel=0.2)
    first = np.log10(WAVE[0])
    pixels = [round((np.log10(w) - first) / GRID.log10_step) for w in SKY_LINES]
    assert scales.sky[pixels].all()
    # A line is wider than a pixel by its two halves: no more than three pixels each.
    assert scales.sky.sum() <= 3 * len(SKY_LINES)
    usual = 10 ** (first + GRID.log10_step * np.flatnonzero(scales.usual))
    assert usual.min() == pytest.approx(3800, rel=3e-3)


def test_broad_lines_have_a_misfit_of_their_own_where_there_are_enough():
    worse = made(OWN_SCALE + 50, seed=21, misfit=5 * MISFIT)
    both = tuple(np.concatenate(pair) for pair in zip(made(400, seed=20), worse, strict=True))
    broad = np.arange(len(both[0])) >= 400
    scales = scales_of(*both, broad=broad)
    rest, own = np.median(scales.misfit[:, 200:800], axis=1)
    # The 90 % quantile of 100, in bins of 1/6 e-fold.
    assert own == pytest.approx(5 * MISFIT, rel=0.25)
    assert rest == pytest.approx(MISFIT, rel=0.2)
    found = measured(scales, worse, broad=np.ones(len(worse[0]), bool))
    assert np.median(found["misfit"]) == pytest.approx(0.975, abs=0.15)
    assert np.median(measured(scales, worse)["misfit"]) > 3
    few = np.arange(len(both[0])) >= 501 - OWN_SCALE
    np.testing.assert_array_equal(*scales_of(*both, broad=few).misfit)


def test_pulls_of_sound_spectra_have_unit_width(scales):
    found = measured(scales, made(300, seed=2))
    # Squares of a Gaussian, cut at 9: 0.975; binned f and its noise shift it by some per cent.
    assert np.mean(found["misfit"]) == pytest.approx(0.975, abs=0.08)
    assert set(found) == set(STATISTICS)
    assert np.median(found["sky_ratio"]) == pytest.approx(1.0, abs=0.15)
    assert np.median(found["n_spikes"]) == 0
    # A jump of Gaussian noise is within 4 of its σ.
    assert (found["step_sigma"] < 4.5).all()
    assert (found["missing_blue"] < 0.02).all()


@given(st.integers(0, 29), st.integers(250, 800), st.sampled_from([-1, 1]))
@settings(max_examples=25, deadline=None)
def test_a_cosmic_ray_is_a_spike_at_its_wavelength(row, pixel, sign):
    spectra = made(30, seed=3)
    scales = scales_of(*spectra)
    recon, flux, ivar, redshift = spectra
    before = measured(scales, spectra)
    hit = flux.copy()
    hit[row, pixel] += sign * 60 / np.sqrt(ivar[row, pixel])
    after = measured(scales, (recon, hit, ivar, redshift))
    place = WAVE[pixel] * (1 + redshift[row])
    at = pixel + observed_offset(redshift, GRID)[row]
    near_sky = scales.sky[at - 1 : at + 2].any()
    if near_sky or (sign > 0 and not quiet_pixels(GRID)[pixel]):
        # Of the neighbours' median it is one value.
        assert after["spike"][row] == pytest.approx(before["spike"][row], abs=0.5)
    else:
        # 60 σ of noise are over 30 of noise and misfit together.
        assert after["spike"][row] > 25
        assert after["spike_wave"][row] == pytest.approx(place, rel=1e-3)
        assert after["n_spikes"][row] == before["n_spikes"][row] + 1
    others = np.arange(30) != row
    for name in STATISTICS:
        np.testing.assert_array_equal(after[name][others], before[name][others])


def test_a_line_that_the_model_does_not_know_is_no_cosmic_ray(scales):
    recon, flux, ivar, redshift = made(5, seed=4)
    known = [LINES[name] for name in ("Halpha", "OIII5008", "OII3727")]
    for wave in (*known, *WEAK_LINES.values()):
        flux[:, np.abs(WAVE - wave).argmin()] += 40 / SNR
    assert (measured(scales, (recon, flux, ivar, redshift))["spike"] < 7).all()


@pytest.mark.parametrize("wave", [LINES["OIII5008"], WEAK_LINES["FeVII6089"]])
def test_a_line_that_the_model_draws_too_bright_is_no_bad_pixel_and_a_hole_is_one(scales, wave):
    recon, flux, ivar, redshift = made(5, seed=4)
    line = np.abs(WAVE - wave).argmin()
    before = measured(scales, (recon, flux, ivar, redshift))["spike"]
    bright = recon.copy()
    bright[:, line] += 60 / SNR
    after = measured(scales, (bright, flux, ivar, redshift))["spike"]
    # The noise below the continuum counts, and no more.
    assert (after < np.maximum(before, 5)).all()
    flux[:, line] -= 60 / SNR
    for model in (recon, bright):
        found = measured(scales, (model, flux, ivar, redshift))["spike"]
        seen = np.log10(WAVE[line] * (1 + redshift) / np.array(SKY_LINES)[:, None])
        assert (found[(np.abs(seen) > 2e-3).all(axis=0)] > 20).all()


@pytest.mark.parametrize(
    ("name", "air"),
    # Air, of NIST's Atomic Spectra Database; the Balmer series is Rydberg's formula.
    [("HeI4473", 4471.479), ("FeVII6089", 6086.97), ("SII4070", 4068.60), ("ArIII7138", 7135.79)],
)
def test_weak_lines_are_where_they_belong(name, air):
    # A tenth of a rest-frame pixel.
    assert WEAK_LINES[name] == pytest.approx(air_to_vacuum(air), abs=0.2)
    for n, line in ((8, "H8"), (9, "H9"), (10, "H10"), (11, "H11"), (12, "H12"), (16, "H16")):
        rydberg = 1e8 / (109677.58 * (1 / 4 - 1 / n**2))
        assert WEAK_LINES[line] == pytest.approx(rydberg, abs=0.05)


def test_lines_leave_most_of_the_spectrum_to_look_for_cosmic_rays():
    assert 0.7 < quiet_pixels(GRID).mean() < 0.9


@pytest.mark.parametrize("step", [0.12, -0.2])
def test_a_step_between_the_cameras_is_measured(scales, step):
    recon, flux, ivar, redshift = made(60, seed=5)
    seen = WAVE * (1 + redshift)[:, None]
    flux = np.where(seen > SEAMS["sdss"][0] - 45, flux * (1 + step), flux).astype("f4")
    found = measured(scales, (recon, flux, ivar, redshift))
    # Two means of 41 pixels at 4 % each.
    np.testing.assert_allclose(found["step"], step, atol=5 * 0.04 * np.sqrt(2 / 41))
    assert (found["step_sigma"] > 8).all()
    np.testing.assert_allclose(found["step_wave"], SEAMS["sdss"][0], rtol=1e-3)
    # DESI's arms meet elsewhere: of this step one window sees a part.
    desi = measured(scales, (recon, flux, ivar, redshift), "desi")
    assert (np.abs(desi["step"]) < np.abs(found["step"])).all()
    assert (measured(scales, (recon, flux, ivar, redshift), "other")["step_sigma"] == 0).all()


def test_a_residual_of_the_sky_is_told_from_a_bad_fit(scales):
    recon, flux, ivar, redshift = made(40, seed=6)
    places = np.arange(GRID.n_pixels) + observed_offset(redshift, GRID)[:, None]
    at_sky = scales.sky[places]
    left = np.where(at_sky, flux + 6 * (ivar > 0) / np.sqrt(np.maximum(ivar, 1)), flux)
    worse = np.where(ivar > 0, recon + 3 * (flux - recon), 0)
    sky = measured(scales, (recon, left.astype("f4"), ivar, redshift))
    fit = measured(scales, (recon, worse.astype("f4"), ivar, redshift))
    # 6 σ of noise squared; the misfit is small beside the noise of the sky's pixels.
    assert (sky["sky_ratio"] > 15).all()
    assert (sky["misfit"] < 1.15).all()
    assert np.median(fit["sky_ratio"]) < 2.5
    assert (fit["misfit"] > 2.5).all()


def test_a_lost_end_and_a_gap_count_where_others_have_data(scales):
    recon, flux, ivar, redshift = made(20, seed=7)
    blue = ivar.copy()
    blue[:, :300] = 0
    found = measured(scales, (recon, flux, blue, redshift))
    # What lies beyond the spectrograph's blue end at 3800 Å is nobody's loss.
    beyond = (WAVE * (1 + redshift)[:, None] < 3800).sum(axis=1)
    np.testing.assert_allclose(found["missing_blue"], (300 - beyond) / 1000, atol=0.012)
    assert (found["missing_gap"] < 0.01).all()
    gap = ivar.copy()
    gap[:, 400:520] = 0
    np.testing.assert_allclose(
        measured(scales, (recon, flux, gap, redshift))["missing_gap"], 0.12, atol=0.002
    )


@given(st.integers(0, 40))
@settings(max_examples=10, deadline=None)
def test_sums_do_not_depend_on_how_spectra_are_split(cut):
    spectra = made(40, seed=8)
    spectra = (*spectra, np.arange(40) % 3 == 0)
    whole = ScaleSums.of(*spectra, GRID)
    first, last = ((a[:cut] for a in spectra), (a[cut:] for a in spectra))
    joined = ScaleSums.of(*first, GRID) + ScaleSums.of(*last, GRID)
    np.testing.assert_array_equal(joined.misfit, whole.misfit)
    np.testing.assert_array_equal(joined.seen, whole.seen)
    # Only the order of a few additions differs.
    np.testing.assert_allclose(joined.excess, whole.excess, rtol=0, atol=1e-10)


def test_what_is_missing_is_never_looked_at(scales):
    recon, flux, ivar, redshift = made(5, seed=9)
    ivar[0] = 0
    broken = np.where(ivar > 0, flux, np.nan).astype("f4")
    found = measured(scales, (recon, broken, ivar, redshift))
    again = measured(scales, (recon, flux, ivar, redshift))
    for name in STATISTICS:
        np.testing.assert_array_equal(found[name], again[name])
    assert np.isnan(found["misfit"][0])
    assert found["spike"][0] == 0


def test_a_model_without_residuals_and_no_spectra_give_numbers():
    recon, _, ivar, redshift = made(3, seed=10)
    found = measured(scales_of(recon, recon, ivar, redshift), (recon, recon, ivar, redshift))
    assert (found["misfit"] == 0).all()
    nothing = ScaleSums.empty(GRID)
    assert not Scales.of(nothing).sky.any()
    none = tuple(a[:0] for a in (recon, recon, ivar, redshift))
    assert measured(Scales.of(nothing), none)["misfit"].shape == (0,)


@pytest.mark.parametrize("n_pixels", [2000, 3000])
def test_finer_grids_measure_the_same_step(n_pixels):
    grid = WavelengthGrid.rest_frame(n_pixels)
    rng = np.random.default_rng(1)
    redshift = np.full(50, 0.15)
    recon = np.ones((50, n_pixels), "f4")
    sigma = np.sqrt(n_pixels / 1000) / SNR
    flux = recon + sigma * rng.standard_normal(recon.shape)
    flux = np.where(grid.centres * 1.15 > 5975, 1.1 * flux, flux).astype("f4")
    ivar = np.full(recon.shape, sigma**-2, "f4")
    broad = redshift < 0
    made_scales = Scales.of(ScaleSums.of(recon, recon, ivar, redshift, broad, grid))
    found = measure_faults(recon, flux, ivar, redshift, broad, (made_scales, grid, "sdss"))
    # Two means over 0.016 dex each, whatever the pixels.
    error = np.sqrt(2 / (0.016 / grid.log10_step)) * sigma
    np.testing.assert_allclose(found["step"], 0.1, atol=5 * error)
