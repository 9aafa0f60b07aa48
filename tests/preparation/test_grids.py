"""Wavelength grids: survey conventions, checks, units."""

import numpy as np
import pytest
from astropy import constants
from astropy import units as u

from astroclip.preparation import linear_grid, log_grid, wavelength_grid
from astroclip.preparation.grids import GRIDS


def test_desi_grid_is_that_of_merged_coadds():
    grid = wavelength_grid("desi")
    np.testing.assert_allclose(grid, 3600 + 0.8 * np.arange(7781), rtol=1e-13)
    assert grid[-1] == 9824


@pytest.mark.parametrize(
    ("name", "first", "n_pixels"),
    [("log", 3600.0, 4360), ("sdss", 3799.27, 3850), ("boss", 3548.13, 4650)],
)
def test_log_grids_have_pixels_of_constant_velocity(name, first, n_pixels):
    grid = wavelength_grid(name)
    velocity = constants.c.to_value(u.km / u.s) * np.diff(np.log(grid))
    np.testing.assert_allclose(velocity, 69.03, atol=0.01)
    assert len(grid) == n_pixels
    assert grid[0] == pytest.approx(first, abs=0.01)


@pytest.mark.parametrize("name", ["sdss", "boss"])
def test_sdss_pixels_lie_on_their_whole_ten_thousandths_of_a_dex(name):
    position = np.log10(wavelength_grid(name)) * 1e4
    np.testing.assert_allclose(position, np.round(position), atol=1e-6)


@pytest.mark.parametrize("n_pixels", [2, 3, 100])
def test_grid_functions_include_their_ends(n_pixels):
    np.testing.assert_allclose(np.diff(linear_grid(4000, 5000, n_pixels)), 1000 / (n_pixels - 1))
    grid = log_grid(4000, 0.01, n_pixels)
    assert grid[0] == 4000
    assert grid[-1] == pytest.approx(4000 * 10 ** (0.01 * (n_pixels - 1)))


def test_a_redshift_is_a_shift_of_whole_pixels_on_a_log_grid():
    grid = log_grid(3600, 1e-4, 500)
    np.testing.assert_allclose(grid[37:], (grid * 10 ** (37e-4))[:-37], rtol=1e-13)


def test_named_grids_are_valid_as_arrays():
    for name in GRIDS:
        np.testing.assert_array_equal(wavelength_grid(wavelength_grid(name)), wavelength_grid(name))


@pytest.mark.parametrize("unit", [u.AA, u.nm, u.um, u.m])
def test_quantities_are_converted(unit):
    grid = (np.array([4000.0, 5000.0, 7000.0]) * u.AA).to(unit)
    converted = wavelength_grid(grid)
    assert not isinstance(converted, u.Quantity)
    np.testing.assert_allclose(converted, [4000, 5000, 7000], rtol=1e-14)


def test_other_units_are_refused():
    with pytest.raises(u.UnitsError, match=r"^wavelength has unit 'Hz'; expected one convertible"):
        wavelength_grid([4000.0, 5000.0] * u.Hz)


@pytest.mark.parametrize(
    ("grid", "found"),
    [
        ([4000.0], r"has shape \(1,\)"),
        (4000.0, r"has shape \(\)"),
        (np.ones((2, 3)), r"has shape \(2, 3\)"),
        ([5000.0, 4000.0], "goes from 5000 to 4000, not ascending"),
        ([4000.0, 4000.0, 5000.0], "goes from 4000 to 5000, not ascending"),
        ([0.0, 4000.0], "goes from 0 to 4000, .* not positive"),
        ([4000.0, np.nan, 5000.0], "has values that are not finite"),
        ([4000.0, np.inf], "has values that are not finite"),
    ],
)
def test_bad_grid(grid, found):
    with pytest.raises(ValueError, match=f"^wavelength {found}.*; expected the name of a grid"):
        wavelength_grid(grid)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"^wavelength is 'keck'; expected one of 'desi', 'log'"):
        wavelength_grid("keck")
