"""Light of mock objects, held against definitions and plain float64 sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from spectra_scale.mock.foreground import transmission
from spectra_scale.mock.kinds import STAR, STAR_FORMING
from spectra_scale.mock.light import Continuum, Emission, broad_flux, emission, render
from spectra_scale.mock.lines import HA, LINE_WAVE, attenuation, calzetti
from spectra_scale.mock.objects import Objects, draw_objects, take
from spectra_scale.mock.population import (
    AGES_GYR,
    DISPERSIONS,
    LOG_START,
    LOG_STEP,
    METALLICITIES,
    N_REST,
    broaden,
    populations,
    rest_wave,
    vacuum,
)
from spectra_scale.mock.scene import look
from spectra_scale.mock.settings import MockSettings, plan

PIXEL = 69.03  # km/s of 1e-4 dex
LOG_WAVE = 1e-4 * (35_500 + np.arange(4700))
MOCK = MockSettings(n_spectra=300, n_spec_files=0, boss_fraction=0, repeat_fraction=0)


@pytest.fixture(scope="module")
def objects() -> Objects:
    return draw_objects(plan(MOCK)[0], MOCK)


@pytest.fixture(scope="module")
def continuum(objects) -> Continuum:
    return Continuum.of(objects)


@pytest.fixture(scope="module")
def lines(objects, continuum) -> Emission:
    return emission(objects, continuum)


def break_4000(flux: np.ndarray) -> float:
    """D4000n from its definition: mean F_ν of 4000-4100 over 3850-3950 Å (air)."""
    wave = rest_wave()
    red = (wave > 4001.13) & (wave < 4101.16)
    blue = (wave > 3851.09) & (wave < 3951.12)
    nu = flux * wave**2
    return float(nu[red].mean() / nu[blue].mean())


def depth_hdelta(flux: np.ndarray) -> float:
    wave = rest_wave()
    line = (wave > 4092) & (wave < 4114)
    side = ((wave > 4050) & (wave < 4075)) | ((wave > 4130) & (wave < 4155))
    return float(1 - flux[line].mean() / flux[side].mean())


def test_wavelengths_are_moved_to_vacuum():
    # Hα and [O III] in air and in vacuum, science.md section 9.
    np.testing.assert_allclose(vacuum(np.array([6562.80, 5006.84])), [6564.61, 5008.24], atol=0.02)


def test_the_attenuation_curve_is_one_in_v_and_falls_to_the_red():
    assert calzetti(np.array([5500.0]))[0] == pytest.approx(1.0, abs=0.005)
    # The published halves of the curve miss each other by half a per cent at 6300 Å.
    assert np.all(np.diff(calzetti(np.linspace(1300, 15000, 500))) < 0.006)
    wave = np.array([3500.0, 5500.0, 8000.0])
    tilted = attenuation(wave, np.full(3, -0.5)) / calzetti(wave)
    np.testing.assert_allclose(tilted, (wave / 5500) ** -0.5)


def test_the_4000_angstrom_break_grows_with_age_and_metallicity():
    light = populations().light[2].astype(float)
    found = np.array([break_4000(light[:, i]) for i in range(len(AGES_GYR))])
    for metallicity in (-0.5, 0.0, 0.3):
        old = (metallicity == METALLICITIES) & (AGES_GYR >= 0.2)
        assert np.all(np.diff(found[old]) > 0)
    for age in (2.5, 6.0, 12.0):
        assert np.all(np.diff(found[age == AGES_GYR]) > 0)
    # Young populations have no break; models of 12 Gyr and solar metallicity have about 2.05.
    assert found[AGES_GYR <= 0.05].max() < 1.05
    assert found[(AGES_GYR == 12) & (METALLICITIES == 0)][0] == pytest.approx(2.05, abs=0.06)


def test_hdelta_absorption_peaks_at_intermediate_age():
    light = populations().light[2].astype(float)
    depth = np.array([depth_hdelta(light[:, i]) for i in range(len(AGES_GYR))])
    # A stars rule between 0.2 and 0.5 Gyr.
    assert AGES_GYR[depth.argmax()] in {0.2, 0.5}
    assert depth.max() > 0.15


def test_broadening_twice_is_broadening_by_the_root_of_the_sum_of_squares():
    rng = np.random.default_rng(1)
    spectra = 1 + 0.2 * rng.standard_normal((2, 4000))
    twice = broaden(broaden(spectra, 120.0), 160.0)
    # Away from the ends, where what was repeated beyond them differs.
    np.testing.assert_allclose(twice[:, 400:-400], broaden(spectra, 200.0)[:, 400:-400], atol=1e-6)


def test_light_has_the_magnitude_it_was_given(objects, continuum):
    level = continuum.at(6166.0 / (1 + objects.redshift[:, None]))[:, 0]
    # AB: f_λ = 10**(-0.4 (m + 2.408)) / λ², λ in Å, in erg/s/cm²/Å.
    expected = 1e17 * 10 ** (-0.4 * (objects.magnitude + 2.408)) / 6166.0**2
    np.testing.assert_allclose(level, expected, rtol=2e-3)


def test_rendering_is_the_sum_of_templates_under_their_dust(objects):
    """Against a float64 sum without interpolation in dust, for galaxies without a nucleus."""
    rows = np.flatnonzero((objects.nucleus.share == 0) & (objects.kind != STAR))[:25]
    some = take(objects, rows)
    some = replace_fields(some, dispersion=np.round(some.dispersion))
    continuum = Continuum.of(some)
    dark = Emission(np.array([6564.6]), np.zeros((25, 1)), np.ones((25, 1)), np.zeros((25, 1)))
    found = render(continuum, dark, LOG_WAVE, np.full(4700, 65.0))
    rest = LOG_START + LOG_STEP * np.arange(N_REST)
    wave = 10**rest
    light = populations(65.0).light.astype(float)
    for i in range(25):
        curve = calzetti(wave) * (wave / 5500.0) ** some.dust_slope[i]
        templates = light[int(some.dispersion[i])][:, : len(AGES_GYR)]
        dusty = templates[:, 1:] @ some.weights[i, 1:]
        young = templates[:, 0] * some.weights[i, 0] * 10 ** (-0.4 * some.dust_birth[i] * curve)
        model = (dusty + young) * 10 ** (-0.4 * some.dust_stars[i] * curve)
        seen = np.interp(LOG_WAVE - np.log10(1 + some.redshift[i]), rest, model)
        ratio = found[i] / seen
        # One factor for all pixels: the amplitude. Interpolation between samples 35 km/s apart,
        # linear here and cubic there, differs by 1 % at Ca I 4227, the narrowest strong feature.
        np.testing.assert_allclose(ratio / np.median(ratio), 1, atol=1.5e-2)


def replace_fields(objects: Objects, **changed: np.ndarray) -> Objects:
    return Objects(**{n: getattr(objects, n) for n in Objects.__slots__} | changed)


def test_dispersions_between_templates_lie_between_their_spectra(objects):
    row = take(objects, np.flatnonzero(objects.kind == STAR_FORMING)[:1])
    spectra = []
    for place in (2.0, 2.5, 3.0):
        one = replace_fields(row, dispersion=np.array([place]))
        continuum = Continuum.of(one)
        dark = Emission(np.array([6564.6]), np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 1)))
        spectra.append(render(continuum, dark, LOG_WAVE, np.full(4700, 65.0))[0].astype(float))
    np.testing.assert_allclose(spectra[1], (spectra[0] + spectra[2]) / 2, rtol=1e-5)
    assert len(DISPERSIONS) > 3


def test_any_grid_shows_the_same_light(continuum, lines):
    dark = replace(lines, flux=0 * lines.flux)
    wave = 3600 + 0.8 * np.arange(7781)
    linear = render(continuum, dark, np.log10(wave), np.full(7781, 65.0))
    log = render(continuum, dark, LOG_WAVE, np.full(4700, 65.0))
    inside = LOG_WAVE[(10**LOG_WAVE > 3610) & (10**LOG_WAVE < 9810)]
    rows = slice(0, 60)
    at = CubicSpline(wave, linear[rows], axis=1)(10**inside)
    first = round((inside[0] - LOG_WAVE[0]) * 1e4)
    seen = log[rows, first : first + len(inside)]
    # Float32, and cubics between samples 69 km/s apart of features as narrow as the instrument.
    np.testing.assert_allclose(at, seen, rtol=2e-2)
    assert np.sqrt(np.mean((at / seen - 1) ** 2)) < 1e-3


def test_a_line_holds_its_flux_whatever_the_instrument_does_to_its_shape(
    objects, continuum, lines
):
    wave = 10**LOG_WAVE
    pixel = np.log10(lines.wave * (1 + objects.redshift[:, None])) * 1e4 - 35_500
    # Lines well within the grid: wings of the broadest reach 300 pixels at 5 sigma.
    flux = lines.flux * ((pixel > 350) & (pixel < 4350)) * (lines.sigma < 3000)
    inner = replace(lines, flux=flux)
    light = render(continuum, inner, LOG_WAVE, np.full(4700, 76.0)).astype(float)
    light -= render(continuum, replace(lines, flux=0 * flux), LOG_WAVE, np.full(4700, 76.0))
    total, expected = light @ (wave * np.log(10) * 1e-4), flux.sum(axis=1)
    strong = expected > 50
    assert strong.sum() > 50
    # A pixel's width changes by 0.2 % over the wings of a broad line.
    np.testing.assert_allclose(total[strong], expected[strong], rtol=3e-3)


def test_line_widths_add_in_quadrature_to_the_instrument(objects, continuum, lines):
    one = np.zeros_like(lines.flux)
    one[:, HA] = 100.0
    width = np.full(4700, 1.2 * PIXEL)
    line = render(continuum, replace(lines, flux=one), LOG_WAVE, width).astype(float)
    line -= render(continuum, replace(lines, flux=0 * one), LOG_WAVE, width)
    line = np.maximum(line, 0)
    pixel = np.arange(4700)
    for i in np.flatnonzero((objects.redshift < 0.3) & (objects.redshift > 0.01))[:30]:
        near = np.abs(pixel - line[i].argmax()) < 18
        mean = np.average(pixel[near], weights=line[i, near])
        found = np.sqrt(np.average((pixel[near] - mean) ** 2, weights=line[i, near]))
        expected = np.sqrt((objects.gas.sigma[i] / PIXEL) ** 2 + 1.2**2 + 1 / 12)
        # Float32 sums on a continuum of tens, over 36 pixels.
        assert found == pytest.approx(expected, rel=0.03)
        shift = (1 + objects.redshift[i]) * (1 + objects.gas.offset[i] / 299792.458)
        assert 10 ** (1e-4 * (35_500 + mean)) == pytest.approx(LINE_WAVE[HA] * shift, rel=2e-5)


def test_broad_lines_are_where_the_kind_has_them(objects, lines):
    flux = broad_flux(lines, 6564.61)
    broad = objects.nucleus.fwhm > 0
    assert np.all((flux > 0) == broad)


def test_a_blend_is_the_light_of_two_objects():
    mock = MockSettings(
        n_spectra=100, n_spec_files=0, boss_fraction=0, repeat_fraction=0, blend_fraction=0.2
    )
    task = plan(mock)[0]
    scene = look(task, mock)
    assert 5 < len(scene.blended) < 40
    seen = scene.render(LOG_WAVE, np.full(4700, 65.0))
    alone = render(scene.continuum, scene.lines, LOG_WAVE, np.full(4700, 65.0))
    second = render(scene.partner, scene.partner_lines, LOG_WAVE, np.full(4700, 65.0))
    expected = alone.copy()
    expected[scene.blended] += second * scene.partner_share[:, None].astype(np.float32)
    # The Milky Way's dust lies before both.
    expected *= transmission(10**LOG_WAVE, scene.excess)
    # Float32, and an exponential that is a polynomial.
    np.testing.assert_allclose(seen, expected, rtol=2e-6)
    # Both have their light where the first one's magnitude says.
    assert np.all(scene.partner.objects.magnitude == scene.objects.magnitude[scene.blended])
