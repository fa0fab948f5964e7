"""Dust of the Milky Way in the mock: one sky, Fitzpatrick's curve, the observed frame."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from dust_extinction.parameter_averages import F99

from spectra_scale.dust import dereddening
from spectra_scale.mock.foreground import colour_excess, dim, transmission
from spectra_scale.mock.observation import observe_plate
from spectra_scale.mock.plan import plan
from spectra_scale.mock.scene import look
from spectra_scale.mock.settings import MockSettings
from spectra_scale.spectrum.grid import native_edges

PLATES = MockSettings(
    n_spectra=200, n_spec_files=0, boss_fraction=0.0, repeat_fraction=0.1, seed=4
)


def test_high_latitudes_have_a_few_hundredths_of_a_magnitude():
    rng = np.random.default_rng(0)
    excess = colour_excess(rng.uniform(120, 240, 5000), rng.uniform(0, 58, 5000))
    # Schlegel, Finkbeiner & Davis (1998) over the northern cap of SDSS.
    assert 0.02 < np.median(excess) < 0.035
    assert excess.min() > 0.003
    assert excess.max() < 0.15


def test_neighbours_on_the_sky_have_nearly_the_same_dust():
    ra, dec = np.array([180.0, 180.0 + 1 / 3600]), np.array([30.0, 30.0])
    first, second = colour_excess(ra, dec)
    assert first == pytest.approx(second, rel=1e-2)


def test_light_is_dimmed_by_the_curve_in_the_observed_frame():
    log_wave = np.linspace(3.55, 4.01, 600)
    excess = np.array([0.0, 0.03, 0.5, 2.0])
    model = np.full((4, 600), 7.0, dtype=np.float32)
    dim(model, log_wave, excess)
    curve = 3.1 * F99(Rv=3.1)(10**log_wave * u.AA)
    expected = 7.0 * 10 ** (-0.4 * excess[:, None] * curve)
    # Float32, and the polynomial's exponential of up to 8.
    np.testing.assert_allclose(model, expected, rtol=1e-4)
    np.testing.assert_allclose(transmission(10**log_wave, excess) * 7.0, expected, rtol=1e-6)


def test_dereddening_by_the_catalogue_s_value_gives_the_light_before_the_dust():
    task = plan(PLATES)[0]
    scene = look(task, PLATES)
    first, n_pixels = 35_800, 3800
    log_wave = 1e-4 * (first + np.arange(n_pixels))
    seen = scene.render(log_wave, np.full(n_pixels, 69.0))
    back = seen * dereddening(scene.excess, native_edges(first, n_pixels))
    plain = look(task, PLATES)
    object.__setattr__(plain, "excess", np.zeros_like(scene.excess))
    # Float32 of the light; a pixel's centre is where both take the curve.
    np.testing.assert_allclose(back, plain.render(log_wave, np.full(n_pixels, 69.0)), rtol=1e-5)


def test_repeats_look_through_the_same_dust():
    tasks = plan(PLATES)
    again = next(task for task in tasks if task.is_repeat)
    source = next(task for task in tasks if task.plate == again.source_plate)
    first, second = observe_plate(source, PLATES), observe_plate(again, PLATES)
    n = again.n_science
    np.testing.assert_array_equal(first.scene.excess[:n], second.scene.excess)
