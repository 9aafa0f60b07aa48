"""Quasars: slopes, lines and absorbing gas against the composite and closed formulas."""

import numpy as np
import pytest

from astroclip.simulation.quasars import (
    BLUE_SLOPE,
    QuasarSample,
    _dust,
    _forest,
    draw_quasars,
    quasar_light,
)

WAVELENGTH = np.geomspace(3600.0, 9800.0, 6000)


def plain(redshift, *, lines=1.0):
    """Return quasars exactly like the composite."""
    n = len(redshift)
    return QuasarSample(
        redshift=np.asarray(redshift, dtype=float),
        slope=np.zeros(n),
        reddening=np.zeros(n),
        line_strength=np.full((n, 24), lines),
        line_width=np.ones(n),
    )


@pytest.mark.parametrize(
    ("redshift", "line"),
    [
        (0.2, 6564.61), (0.6, 4862.68), (1.5, 2798.75), (2.2, 1908.73), (3.0, 1549.06),
        (3.5, 1215.67),
    ],
)
def test_broad_lines_peak_at_their_redshifted_wavelengths(redshift, line):
    light = quasar_light(np.random.default_rng(1), plain([redshift]), WAVELENGTH)[0]
    flat = light * WAVELENGTH**1.56
    expected = line * (1 + redshift)
    near = np.abs(WAVELENGTH / expected - 1) < 0.02
    peak = WAVELENGTH[near][np.argmax(flat[near])]
    assert peak == pytest.approx(expected, rel=3e-3)


def test_a_line_has_its_rest_equivalent_width():
    redshift = 0.3
    sample = [plain([redshift], lines=strength) for strength in (1.0, 0.0)]
    with_lines, without = (
        quasar_light(np.random.default_rng(1), one, WAVELENGTH)[0] for one in sample
    )
    rest = WAVELENGTH / (1 + redshift)
    near = np.abs(rest - 6564.61) < 350
    width = np.trapezoid((with_lines / without - 1)[near], rest[near])
    assert width == pytest.approx(194.5 + 2.0 + 1.6 + 1.5, rel=0.01)  # with [N II] and [S II]


def test_the_continuum_is_the_power_law_asked_for():
    quasars = plain([1.0], lines=0.0)
    quasars.slope[:] = 0.3
    light = quasar_light(np.random.default_rng(1), quasars, WAVELENGTH)[0]
    slope = np.diff(np.log(light[[500, 3000]])) / np.diff(np.log(WAVELENGTH[[500, 3000]]))
    assert slope[0] == pytest.approx(BLUE_SLOPE + 0.3, abs=1e-6)


def test_the_forest_has_its_mean_transmission():
    rest = np.broadcast_to(np.linspace(1100.0, 1110.0, 4000), (20, 4000))
    redshift = np.full(20, 3.0)
    seen = _forest(np.random.default_rng(1), rest, redshift)
    absorber = 1105.0 * 4 / 1215.67 - 1
    assert seen.mean() == pytest.approx(np.exp(-0.0055 * (1 + absorber) ** 3.18), rel=0.02)
    assert 0 <= seen.min() < 0.1
    assert np.all(_forest(np.random.default_rng(1), rest + 200.0, redshift) == 1)


def test_dust_of_the_small_magellanic_cloud_reddens():
    # A_V / E(B - V) = 2.7-3.0 and A(1500 A) / A_V = 4.7 there: Gordon et al. (2003)
    rest = np.array([[1500.0, 5500.0]])
    absorbed = -2.5 * np.log10(_dust(rest, np.array([1.0])))[0]
    assert absorbed[1] == pytest.approx(2.8, abs=0.2)
    assert absorbed[0] / absorbed[1] == pytest.approx(4.7, abs=0.3)


def test_drawn_quasars_span_their_range_and_repeat():
    first, second = (draw_quasars(np.random.default_rng(5), 50) for _ in range(2))
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(second, name))
    assert first.redshift.min() >= 0.5
    assert first.redshift.max() <= 4.0
    with pytest.raises(ValueError, match="redshift_range"):
        draw_quasars(np.random.default_rng(5), 3, redshift_range=(2.0, 1.0))
