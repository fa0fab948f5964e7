"""The mock instrument: noise, sky, masks and faults, beside those of real files where they are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from astropy.io import fits

from spectra_scale.errors import UsageError
from spectra_scale.mock.exposure import Exposure
from spectra_scale.mock.instrument import (
    ARTEFACTS,
    Spectrograph,
    desi_arms,
    observe,
    observe_arms,
    spectrograph,
)
from spectra_scale.mock.masks import BRIGHTSKY
from spectra_scale.mock.noise_statistics import (
    NoiseStatistics,
    median_statistics,
    noise_statistics,
    robust_width,
)
from spectra_scale.mock.spectrograph import moving_average

PLATES, FIBERS = 24, 14


class Spectrum(NamedTuple):
    """A spectrum as its file has it, shape (pixel,) each."""

    wave: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    and_mask: np.ndarray
    or_mask: np.ndarray
    sky: np.ndarray
    model: np.ndarray

    @property
    def statistics(self) -> NoiseStatistics:
        return noise_statistics(self.flux, self.ivar, self.model, self.and_mask)


def galaxy_light(wave: np.ndarray, level: np.ndarray) -> np.ndarray:
    """A continuum that rises to the red, of the level of each fibre."""
    shape = 0.5 + 0.6 * np.clip((wave - 3800) / 2500, 0, 1)
    return (level[:, None] * shape).astype(np.float32)


def spectra_of(instrument: Spectrograph, seen: Exposure) -> list[Spectrum]:
    cuts = [slice(a, b) for a, b in zip(seen.start, seen.stop, strict=True)]
    names = ("flux", "ivar", "and_mask", "or_mask", "sky", "model")
    return [
        Spectrum(instrument.wave[cut], *(getattr(seen, name)[i, cut] for name in names))
        for i, cut in enumerate(cuts)
    ]


@pytest.fixture(scope="module", params=["sdss", "boss"])
def survey(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def mock(survey) -> list[Spectrum]:
    """Spectra of 24 nights: what a plate shows depends on its sky."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(PLATES):
        instrument = spectrograph(survey, rng)
        level = 10 ** rng.normal(0.95 if survey == "sdss" else 0.5, 0.25, FIBERS)
        light = galaxy_light(instrument.wave, level)
        seen = observe(light, np.zeros(FIBERS, dtype=np.int64), instrument, rng)
        found += spectra_of(instrument, seen)
    return found


@pytest.fixture(scope="module")
def real(survey, real_data: Path) -> list[Spectrum]:
    found = []
    for path in sorted((real_data / "sdss" / "spec-lite").glob("*.fits")):
        rows = fits.getdata(path, 1)
        wave = 10 ** rows["loglam"].astype(float)
        names = ("flux", "ivar", "and_mask", "or_mask", "sky", "model")
        if (wave[-1] > 9500) == (survey == "boss"):
            columns = (rows[name].astype(rows[name].dtype.newbyteorder("=")) for name in names)
            found.append(Spectrum(wave, *columns))
    return found


def shares(spectra: list[Spectrum], column: str) -> np.ndarray:
    """Mean share of pixels with each bit, shape (32,)."""
    bits = np.arange(31)
    each = [((getattr(s, column)[:, None] >> bits) & 1).mean(axis=0) for s in spectra]
    return np.mean(each, axis=0)


def level(spectra: list[Spectrum], name: str, low: float, high: float) -> float:
    """Median over spectra of the median sky or quoted sigma between two wavelengths."""
    found = []
    for s in spectra:
        inside = (s.ivar > 0) & (s.wave > low) & (s.wave < high)
        if inside.sum() > 20:
            values = s.sky[inside] if name == "sky" else s.ivar[inside] ** -0.5
            found.append(np.median(values))
    return float(np.median(found))


def test_pulls_are_as_wide_and_as_correlated_as_the_survey_s(survey, mock):
    found = median_statistics(s.statistics for s in mock)
    # The targets; medians over 336 spectra scatter by 0.005.
    assert 0.91 < found.width < 1.0
    if survey == "sdss":
        # 0.17 of the pulls themselves: a running median of 41 pixels takes 0.03 off it.
        assert 0.12 < found.lag1 < 0.19
        assert found.variance4 == pytest.approx(1.19, abs=0.07)
    else:
        assert 0.15 < found.lag1 < 0.22
        assert found.variance4 == pytest.approx(1.05, abs=0.05)


def test_pulls_are_those_of_real_files(mock, real):
    ours = median_statistics(s.statistics for s in mock)
    theirs = median_statistics(s.statistics for s in real)
    # Best fits to real spectra miss more than noise, in BOSS files most: a quarter has S/N > 25.
    assert ours.width == pytest.approx(theirs.width, abs=0.03)
    assert ours.lag1 == pytest.approx(theirs.lag1, abs=0.04)
    assert ours.lag2 == pytest.approx(theirs.lag2, abs=0.04)
    assert ours.variance4 == pytest.approx(theirs.variance4, abs=0.08)


def test_quoted_errors_differ_from_spectrum_to_spectrum(mock, real):
    def scatter(spectra: list[Spectrum]) -> float:
        return robust_width(np.array([s.statistics.width for s in spectra]))

    # Sampling alone gives 0.018; in real files bad fits to bright objects add to their own.
    assert 0.035 < scatter(mock) < scatter(real) + 0.01


def test_quoted_noise_follows_wavelength_like_that_of_real_files(survey, mock, real):
    edges = (4000, 4600, 5300, 5800, 6100, 6700, 7200, 7600, 8200, 8700, 9150)
    ours = np.array([level(mock, "sigma", a, b) for a, b in pairwise(edges)])
    real_sigma = [level(real, "sigma", a, b) for a, b in pairwise(edges)]
    ratio = np.log(ours / np.array(real_sigma))
    # The level is of the objects and nights at hand; the shape is the instrument's.
    assert np.abs(ratio - ratio.mean()).max() < (0.12 if survey == "sdss" else 0.15)
    assert abs(ratio.mean()) < 0.3


def test_the_sky_has_the_level_of_real_files(mock, real):
    for low, high in ((4500, 5300), (5700, 6000), (6400, 6800), (7200, 7500), (8300, 8500)):
        ratio = level(mock, "sky", low, high) / level(real, "sky", low, high)
        # Nights scatter by 30 %, and these are 24: 8 %, and as much again for the real ones.
        assert 0.75 < ratio < 1.33


def test_pixels_have_the_bits_of_real_files(survey, mock, real):
    ours, theirs = shares(mock, "and_mask"), shares(real, "and_mask")
    # Bits of few fibres are counted in spectra: 196 and 71 of them, so 30 % for the commonest.
    assert ours[BRIGHTSKY] == pytest.approx(theirs[BRIGHTSKY], rel=0.35)
    np.testing.assert_allclose(ours, theirs, atol=0.02)
    ours, theirs = shares(mock, "or_mask"), shares(real, "or_mask")
    common = theirs > 0.01
    common[:16] = False
    np.testing.assert_allclose(ours[common], theirs[common], rtol=0.4)
    assert not ours[(theirs == 0) & (np.arange(31) > 15)].any()


def test_a_tenth_of_legacy_spectra_is_half_masked_under_any_bit(survey, mock):
    half = np.mean([(s.and_mask != 0).mean() > 0.4 for s in mock])
    # 23 of 196 legacy files, 1 of 71 of BOSS; three sigma of 336 spectra.
    assert (0.06 < half < 0.17) if survey == "sdss" else (half < 0.05)
    bright = np.mean([((s.and_mask >> BRIGHTSKY) & 1).mean() for s in mock])
    assert 0.02 < bright < 0.065
    assert all(not np.any(s.and_mask & ~s.or_mask) for s in mock)


def test_lost_pixels_are_few_and_have_no_sky(mock):
    lost = np.mean([(s.ivar == 0).mean() for s in mock])
    # 0.29 % in legacy files, most of it dead columns of few fibres, 0.25 % in BOSS.
    assert 0.0008 < lost < 0.006
    assert all(not s.sky[s.ivar == 0].any() for s in mock)
    assert all(np.isfinite(s.flux).all() and (s.ivar >= 0).all() for s in mock)


def test_sky_lines_leave_more_than_noise_redwards_of_7200(survey, mock):
    widths = []
    for s in mock:
        pull = (s.flux - s.model) * np.sqrt(s.ivar)
        red = (s.wave > 7200) & (s.wave < 9200) & (s.ivar > 0)
        bright = (s.and_mask >> BRIGHTSKY) & 1 == 1
        if (red & bright).sum() > 40:
            widths.append((robust_width(pull[red & bright]), robust_width(pull[red & ~bright])))
    line, between = np.median(widths, axis=0)
    # Real files: 1.31 over 1.03 in legacy, 0.97 over 0.89 in BOSS.
    assert line / between == pytest.approx(1.22 if survey == "sdss" else 1.09, abs=0.10)


def test_neighbouring_fibres_share_what_the_sky_left(survey):
    rng = np.random.default_rng(4)
    neighbours, halves = [], []
    for _ in range(12):
        instrument = spectrograph(survey, rng)
        light = np.zeros((60, instrument.n_pixels), dtype=np.float32)
        seen = observe(light, np.zeros(60, dtype=np.int64), instrument, rng)
        lines = instrument.band_lines[8]  # hydroxyl, 8200-8590 Å
        strong = lines > 0.3 * lines.max()
        left = np.where(seen.ivar > 0, seen.flux, 0)[:, strong]
        share = (left * lines[strong]).sum(axis=1) / (lines[strong] ** 2).sum()
        neighbours.append(share[:-1] * share[1:] / (share**2).mean())
        halves.append(share[:30] * share[30:] / (share**2).mean())
    # Half of the error is the model's, which each spectrograph has for itself; the other half is
    # the fibre's own, and there is noise besides.
    assert np.mean(neighbours) > 0.12
    assert np.mean(neighbours) > np.mean(halves) + 0.08


def test_the_noise_of_repeated_light_is_independent():
    rng = np.random.default_rng(8)
    instrument = spectrograph("sdss", rng)
    light = np.full((30, instrument.n_pixels), 8.0, dtype=np.float32)
    none = np.zeros(30, dtype=np.int64)
    one, two = (observe(light, none, instrument, rng) for _ in range(2))
    quiet = (instrument.wave > 4500) & (instrument.wave < 5400)
    pulls = [((e.flux - e.model) / e.sigma)[:, quiet] for e in (one, two)]
    pulls = [p - p.mean(axis=1, keepdims=True) for p in pulls]
    # Calibration common to a spectrograph is small beside noise at S/N 12; 3e4 pixels.
    assert abs(np.mean(pulls[0] * pulls[1])) < 0.03


def test_the_same_generator_gives_the_same_exposure(survey):
    seen = []
    for _ in range(2):
        rng = np.random.default_rng(12)
        instrument = spectrograph(survey, rng)
        light = np.full((5, instrument.n_pixels), 3.0, dtype=np.float32)
        seen.append(observe(light, np.arange(5) % len(ARTEFACTS), instrument, rng))
    for name in ("flux", "ivar", "and_mask", "or_mask", "sky", "model", "start", "stop"):
        np.testing.assert_array_equal(getattr(seen[0], name), getattr(seen[1], name))


def test_one_fibre_is_a_plate_too(survey):
    rng = np.random.default_rng(2)
    instrument = spectrograph(survey, rng)
    light = np.full((1, instrument.n_pixels), 3.0, dtype=np.float32)
    seen = observe(light, np.zeros(1, dtype=np.int64), instrument, rng)
    assert np.isfinite(seen.flux).all()
    assert (seen.ivar > 0).mean() > 0.95


def test_sigma_is_the_scatter_of_repeated_exposures():
    rng = np.random.default_rng(21)
    instrument = spectrograph("boss", rng)
    light = np.full((400, instrument.n_pixels), 5.0, dtype=np.float32)
    seen = observe(light, np.zeros(400, dtype=np.int64), instrument, rng)
    quiet = (instrument.wave > 6400) & (instrument.wave < 7100) & ~instrument.bright
    pull = ((seen.flux - seen.model) / seen.sigma)[:, quiet]
    # 4e5 correlated pixels: 0.3 %. Calibration and sky add less than 2 % at S/N 20.
    assert robust_width(pull.ravel()) == pytest.approx(1.01, abs=0.02)


def test_faults_are_where_the_truth_says():
    rng = np.random.default_rng(6)
    instrument = spectrograph("sdss", rng)
    light = np.full((60, instrument.n_pixels), 10.0, dtype=np.float32)
    artefact = np.zeros(60, dtype=np.int64)
    artefact[:20] = np.repeat((1, 2, 3, 4), 5)
    seen = observe(light, artefact, instrument, rng)
    pull = (seen.flux - seen.model) * np.sqrt(seen.ivar)
    red = instrument.bright & (instrument.wave > 7300)
    clean = np.sqrt((pull[20:, red] ** 2).mean())
    assert np.sqrt((pull[:5, red] ** 2).mean()) > 1.5 * clean
    edge = instrument.split
    step = seen.model[:, edge - 130 : edge - 70].mean(1) / seen.model[
        :, edge + 70 : edge + 130
    ].mean(1)
    # Steps are 10 to 35 %; differential losses over 200 pixels are below 2 %.
    assert np.all(np.abs(step[5:10] - 1) > 0.07)
    assert np.abs(step[20:] - 1).max() < 0.03
    covered = (seen.ivar > 0).mean(axis=1)
    assert np.all(covered[10:15] < 0.65)
    assert np.all(covered[10:15] > 0.25)
    # 0.35 sigma of ten hits at 10 sigma or more: none is masked.
    rays = ((pull > 9) & ~instrument.bright).sum(axis=1)
    assert np.all(rays[15:20] >= 2)
    assert rays[20:].max() <= 1


def test_fibres_lose_light_most_in_the_blue(survey):
    rng = np.random.default_rng(9)
    blue, red = [], []
    for _ in range(6):
        instrument = spectrograph(survey, rng)
        light = np.full((80, instrument.n_pixels), 1.0, dtype=np.float32)
        model = observe(light, np.zeros(80, dtype=np.int64), instrument, rng).model
        at = np.searchsorted(instrument.wave, (3900, 5400, 7000))
        blue.append((model[:, at[0]] / model[:, at[1]]).std())
        red.append((model[:, at[2]] / model[:, at[1]]).std())
    # Refraction goes as 1/λ²: 0.9 of its size at 5400 Å between 3900 and 5400, 0.4 on to 7000.
    assert np.mean(blue) > 1.5 * np.mean(red)
    assert 0.003 < np.mean(blue) < 0.06


def test_resolution_differs_along_the_slit_as_in_real_files():
    rng = np.random.default_rng(1)
    for survey, spread in (("sdss", 0.16), ("boss", 0.2)):
        instrument = spectrograph(survey, rng)
        light = np.zeros((40, instrument.n_pixels), dtype=np.float32)
        seen = observe(light, np.zeros(40, dtype=np.int64), instrument, rng)
        wdisp = instrument.wdisp_of(seen.slit_place)
        assert wdisp.shape == seen.flux.shape
        blue = (
            wdisp[:, np.searchsorted(instrument.wave, 4700)]
            / instrument.wdisp[np.searchsorted(instrument.wave, 4700)]
        )
        # The two legacy spectrographs differ by 16 %, BOSS's slits by as much from end to middle.
        assert np.ptp(blue) == pytest.approx(spread, abs=0.09)


def test_desi_arms_have_the_survey_s_grids_and_resolution():
    arms = desi_arms(np.random.default_rng(3))
    ends = [(arm.name, arm.n_pixels, arm.wave[0], arm.wave[-1]) for arm in arms]
    # formats.md section A5
    assert ends == [
        ("b", 2751, 3600.0, 5800.0),
        ("r", 2326, 5760.0, 7620.0),
        ("z", 2881, 7520.0, 9824.0),
    ]
    for arm in arms:
        # R = λ/FWHM of 2000 to 5500 over the three arms (DESI Collaboration 2022, AJ 164, 207).
        power = 299_792.458 / (2.3548 * arm.sigma_km_s)
        assert power.min() > 1900
        assert power.max() < 5600


def test_desi_noise_is_white_and_rightly_quoted(real_data):
    rng = np.random.default_rng(5)
    arms = desi_arms(rng)
    light = [np.full((60, arm.n_pixels), 0.5, dtype=np.float32) for arm in arms]
    seen = observe_arms(light, np.zeros(60, dtype=np.int64), arms, rng)
    path = real_data / "desi" / "coadd-sv3-dark-26065.fits"
    for arm, exposure in zip(arms, seen, strict=True):
        ours = median_statistics(
            noise_statistics(f, v) for f, v in zip(exposure.flux, exposure.ivar, strict=True)
        )
        with fits.open(path) as file:
            flux, ivar, mask = (
                file[f"{arm.name.upper()}_{part}"].data for part in ("FLUX", "IVAR", "MASK")
            )
        good = np.flatnonzero((ivar > 0).mean(axis=1) > 0.9)
        theirs = median_statistics(
            noise_statistics(flux[i].astype(float), ivar[i].astype(float)) for i in good
        )
        # Two real spectra of 2300 to 2900 pixels.
        assert ours.width == pytest.approx(theirs.width, abs=0.08)
        assert abs(ours.lag1) < 0.10
        assert abs(theirs.lag1) < 0.12
        sigma = [np.median(v[v > 0] ** -0.5) for v in (exposure.ivar, ivar[good])]
        # Effective exposure times of dark-time coadds differ by tens.
        assert 0.5 < sigma[0] / sigma[1] < 2
        assert np.all((exposure.and_mask != 0) <= (exposure.ivar == 0))
        assert np.all((mask[good] != 0) <= (ivar[good] == 0))
        np.testing.assert_array_equal(exposure.and_mask, exposure.or_mask)


def test_desi_arms_share_their_fibres_and_their_sky():
    rng = np.random.default_rng(15)
    arms = desi_arms(rng)
    light = [np.zeros((50, arm.n_pixels), dtype=np.float32) for arm in arms]
    b, r, z = observe_arms(light, np.zeros(50, dtype=np.int64), arms, rng)
    np.testing.assert_array_equal(b.slit_place, z.slit_place)
    overlap = np.searchsorted(arms[0].wave, 5790.0), np.searchsorted(arms[1].wave, 5790.0)
    sky = [
        seen.sky[:, at - 5 : at + 5].max(axis=1) for seen, at in zip((b, r), overlap, strict=True)
    ]
    # The same sky at the same wavelengths, but for the resolution of the arms, and for the few
    # fibres whose line has no data in one of them.
    assert np.quantile(np.abs(sky[0] / sky[1] - 1), 0.9) < 0.15


def test_a_moving_average_has_the_correlation_it_was_made_for():
    wanted = np.array([[0.25, 0.18, 0.0], [-0.05, -0.1, 0.04], [0.04, 0.09, 0.02]])
    c = moving_average(wanted)
    np.testing.assert_allclose((c**2).sum(axis=0), 1, rtol=1e-12)
    for k in (1, 2, 3):
        np.testing.assert_allclose((c[k:] * c[:-k]).sum(axis=0), wanted[k - 1], atol=1e-6)


def test_unit_white_noise_has_unit_statistics():
    rng = np.random.default_rng(0)
    flux = rng.standard_normal(40_000)
    found = noise_statistics(flux, np.ones_like(flux), np.zeros_like(flux))
    # The running median of 41 pixels takes up to 3 % off; 40,000 pixels.
    assert found.width == pytest.approx(0.985, abs=0.02)
    assert found.lag1 == pytest.approx(-0.025, abs=0.02)
    assert found.outliers == 0


def test_light_on_another_grid_is_refused():
    rng = np.random.default_rng(0)
    instrument = spectrograph("sdss", rng)
    with pytest.raises(UsageError, match="own wavelengths"):
        observe(np.zeros((3, 100), dtype=np.float32), np.zeros(3, dtype=np.int64), instrument, rng)
    with pytest.raises(UsageError, match="sdss, boss"):
        spectrograph("desi", rng)
