"""Stars: black bodies with lines where spectroscopy has them and colours of real stars."""

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.physical_models import BlackBody

from astroclip.simulation.stars import _line, blanketing, stellar_light

WAVELENGTH = np.geomspace(3600.0, 10900.0, 12000)


def equivalent_width(light, center, half_width):
    """Return the width (A) of an absorption line below a straight continuum."""
    near = np.abs(WAVELENGTH - center) < half_width
    x, y = WAVELENGTH[near], light[near]
    edge = max(len(x) // 12, 3)
    ends = [x[:edge].mean(), x[-edge:].mean()]
    levels = [np.percentile(y[:edge], 90), np.percentile(y[-edge:], 90)]
    return np.trapezoid(1 - y / np.interp(x, ends, levels), x)


@pytest.mark.parametrize("temperature", [9800.0, 12000.0])
def test_continuum_is_a_black_body_short_of_its_break(temperature):
    light = stellar_light([temperature], [-3.0], WAVELENGTH)[0]
    model = BlackBody(temperature * u.K, scale=1 * u.erg / u.s / u.cm**2 / u.AA / u.sr)
    between = (WAVELENGTH > 5150) & (WAVELENGTH < 5500)
    expected = model(WAVELENGTH[between] * u.AA).value
    ratio = light[between] / expected
    np.testing.assert_allclose(ratio / ratio.mean(), 1.0, atol=0.02)


@pytest.mark.parametrize("width", [0.1, 1.5, 20.0])
def test_lines_have_their_equivalent_width_when_saturated_too(width):
    x = np.linspace(3000.0, 5000.0, 400_001)
    depth = _line(x, 4000.0, width, 2.5)
    assert np.trapezoid(1 - np.exp(-depth), x) == pytest.approx(width, rel=0.02)


def test_balmer_lines_peak_in_a_stars_and_metals_grow_in_cool_ones():
    temperatures = np.array([4400.0, 5770.0, 9800.0])
    light = stellar_light(temperatures, np.zeros(3), WAVELENGTH)
    alpha = [equivalent_width(row, 6564.6, 60) for row in light]
    assert alpha[2] > 2 * alpha[1]
    assert alpha[1] > 1.5 * alpha[0]
    assert 6 < equivalent_width(light[2], 4862.7, 60) < 18  # A, Vega has about 14
    sodium = [equivalent_width(row, 5893.9, 20) for row in light]
    assert sodium[0] > sodium[1] > sodium[2]


def test_lines_are_at_vacuum_wavelengths():
    light = stellar_light([9800.0, 5770.0], [0.0, 0.0], WAVELENGTH)
    near = np.abs(WAVELENGTH - 6564.6) < 15
    assert WAVELENGTH[near][np.argmin(light[0, near])] == pytest.approx(6564.6, abs=0.7)
    near = np.abs(WAVELENGTH - 8544.4) < 8
    assert WAVELENGTH[near][np.argmin(light[1, near])] == pytest.approx(8544.4, abs=0.7)


def test_titanium_oxide_marks_m_stars_only():
    light = stellar_light([3100.0, 5770.0], [0.0, 0.0], WAVELENGTH)
    before = (WAVELENGTH > 7030) & (WAVELENGTH < 7050)
    after = (WAVELENGTH > 7065) & (WAVELENGTH < 7090)
    ratio = np.median(light[:, after], axis=1) / np.median(light[:, before], axis=1)
    assert ratio[0] < 0.5
    assert ratio[1] > 0.9


def test_blanketing_of_the_sun_falls_to_the_red_and_is_in_its_light():
    assert np.all(np.diff(blanketing([3700.0, 4000.0, 4500.0, 5500.0, 7000.0])) < 0)
    with_lines = stellar_light([5770.0], [0.0], WAVELENGTH)[0]
    without = stellar_light([5770.0], [-9.0], WAVELENGTH)[0]
    between = (WAVELENGTH > 4500) & (WAVELENGTH < 4800)
    lost = 1 - with_lines[between].mean() / without[between].mean()
    assert lost == pytest.approx(blanketing(4650.0), rel=0.4)
