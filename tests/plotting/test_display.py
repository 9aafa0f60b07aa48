"""One image or spectrum is drawn as given; colors follow the stretch of Lupton et al."""

import math

import numpy as np
import pytest
from astropy import units as u
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from astroclip import plotting

WAVELENGTH = np.linspace(3600, 9800, 50)


def lupton(pixel, scales):
    """Return red, green and blue of one g, r, z pixel, written out."""
    scaled = [value * scale for value, scale in zip(pixel, scales, strict=True)]
    mean = max(sum(scaled) / 3, 1e-6)
    stretch = math.asinh(8 * mean) / (3.5 * mean)
    return [round(255 * min(max(value * stretch, 0), 1)) for value in reversed(scaled)]


@pytest.mark.parametrize("scales", [(40.0, 24.0, 12.0), (1.0, 2.0, 3.0)])
def test_colors_are_the_formula(scales):
    pixels = np.random.default_rng(0).normal(0.005, 0.02, (3, 6, 6))
    colors = plotting.display_image(pixels, scales=scales)
    assert colors.shape == (6, 6, 3)
    assert colors.dtype == np.uint8
    for y, x in np.ndindex(6, 6):
        assert_allclose(colors[y, x].astype(int), lupton(pixels[:, y, x], scales), atol=1)


def test_colors_of_single_bands_and_of_bad_pixels():
    pixels = np.zeros((3, 1, 5))
    pixels[[0, 1, 2], 0, [0, 1, 2]] = 0.05  # g, r, z
    pixels[:, 0, 3] = [np.nan, np.inf, -np.inf]
    pixels[:, 0, 4] = [np.nan, 0.05, 0]
    colors = plotting.display_image(pixels)[0]
    assert_array_equal(colors[:3] > 0, np.eye(3, dtype=bool)[::-1])  # blue, green, red
    assert_array_equal(colors[3], [0, 0, 0])
    assert_array_equal(colors[4], colors[1])


def test_image_is_drawn_with_its_first_row_at_the_bottom():
    colors = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    ax = Figure().subplots()
    assert plotting.plot_image(colors, ax=ax, title="NGC 3073") is ax
    (image,) = ax.images
    assert_array_equal(image.get_array(), colors)
    assert image.origin == "lower"
    assert ax.get_title() == "NGC 3073"
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0


@pytest.mark.parametrize(
    ("flux", "scale"),
    [
        (np.linspace(0, 2, 50), np.percentile(np.linspace(0, 2, 50), 99.5)),
        (1e-17 * np.linspace(1, 3, 50), np.percentile(1e-17 * np.linspace(1, 3, 50), 99.5)),
        (np.zeros(50), 1),
        (np.full(50, -3.0), 1),
        (np.full(50, np.nan), 1),
    ],
)
def test_spectrum_is_drawn_relative_to_its_top(flux, scale):
    ax = plotting.plot_spectrum(WAVELENGTH, flux, title="sim-000012", color="black")
    (line,) = ax.lines
    assert_allclose(line.get_xdata(), WAVELENGTH / 1000)
    assert_allclose(line.get_ydata(), flux / scale)
    assert line.get_color() == "black"
    assert ax.get_title() == "sim-000012"


def test_bad_pixels_of_a_spectrum_do_not_set_its_scale():
    flux = np.ones(50)
    flux[[3, 4, 5]] = np.nan, np.inf, -np.inf
    ax = plotting.plot_spectrum(WAVELENGTH, flux)
    good = np.isfinite(flux)
    assert_allclose(ax.lines[0].get_ydata()[good], 1)
    assert ax.get_ylim() == (-0.1, 1.25)


def test_spectrum_with_units_is_drawn_in_thousands_of_angstrom():
    ax = plotting.plot_spectrum(WAVELENGTH / 10 * u.nm, np.ones(50) * u.Jy)
    assert_allclose(ax.lines[0].get_xdata(), WAVELENGTH / 1000)


def test_no_pyplot_figure_is_left_behind():
    import matplotlib.pyplot as plt

    plotting.plot_image(np.zeros((2, 2, 3), np.uint8))
    plotting.plot_spectrum(WAVELENGTH, np.ones(50))
    assert plt.get_fignums() == []


def test_axes_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="^ax is of type Figure; expected a matplotlib Axes"):
        plotting.plot_image(np.zeros((2, 2, 3), np.uint8), ax=Figure())
