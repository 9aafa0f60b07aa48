"""Figures hold what they are given; colours follow the stretch of Lupton et al."""

import io
import math

import numpy as np
import pytest
from astropy.table import QTable
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
def test_colours_are_the_formula(scales):
    pixels = np.random.default_rng(0).normal(0.005, 0.02, (3, 6, 6))
    colours = plotting.display_image(pixels, scales=scales)
    assert colours.shape == (6, 6, 3)
    assert colours.dtype == np.uint8
    for y, x in np.ndindex(6, 6):
        assert_allclose(colours[y, x].astype(int), lupton(pixels[:, y, x], scales), atol=1)


def test_colours_of_single_bands_and_of_bad_pixels():
    pixels = np.zeros((3, 1, 5))
    pixels[[0, 1, 2], 0, [0, 1, 2]] = 0.05  # g, r, z
    pixels[:, 0, 3] = [np.nan, np.inf, -np.inf]
    pixels[:, 0, 4] = [np.nan, 0.05, 0]
    colours = plotting.display_image(pixels)[0]
    assert_array_equal(colours[:3] > 0, np.eye(3, dtype=bool)[::-1])  # blue, green, red
    assert_array_equal(colours[3], [0, 0, 0])
    assert_array_equal(colours[4], colours[1])


def test_image_is_drawn_with_its_first_row_at_the_bottom():
    colours = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    ax = Figure().subplots()
    assert plotting.plot_image(colours, ax=ax, title="NGC 3073") is ax
    (image,) = ax.images
    assert_array_equal(image.get_array(), colours)
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


def make_query(label, n_neighbors, **parts):
    """Return a query of `neighbor_panel` with neighbours of different colours."""
    neighbors = QTable(
        {
            "neighbor_id": [f"sim-{row:06d}" for row in range(n_neighbors)],
            "similarity": np.linspace(0.9, 0.8, n_neighbors),
            "redshift": np.linspace(0.1, 0.2, n_neighbors),
        }
    )
    previews = {
        "image": np.stack([np.full((3, 3, 3), 10 * row, np.uint8) for row in range(n_neighbors)]),
        "spectrum": np.ones((n_neighbors, 50)) * np.arange(1, n_neighbors + 1)[:, None],
        "wavelength": WAVELENGTH,
    }
    return {"label": label, "neighbors": neighbors, "previews": previews, **parts}


@pytest.fixture(scope="module")
def panel():
    """A query with an image and three neighbours over one with a spectrum and two."""
    image = np.full((3, 3, 3), 200, np.uint8)
    queries = [
        make_query("first", 3, image=image, spectrum=None),
        make_query("second", 2, spectrum=(WAVELENGTH, np.full(50, 4.0))),
    ]
    figure = plotting.neighbor_panel(queries)
    figure.savefig(io.BytesIO())
    return figure, np.array(figure.axes).reshape(4, 4)


def test_panel_shows_queries_in_the_first_column(panel):
    _, axes = panel
    assert [axes[row, 0].get_title() for row in (0, 2)] == ["first", "second"]
    assert_array_equal(axes[0, 0].images[0].get_array(), np.full((3, 3, 3), 200))
    assert [text.get_text() for text in axes[1, 0].texts] == ["no spectrum"]
    assert [text.get_text() for text in axes[2, 0].texts] == ["no image"]
    assert_allclose(axes[3, 0].lines[0].get_ydata(), 1)


def test_panel_shows_neighbors_in_order_and_leaves_the_rest_empty(panel):
    _, axes = panel
    titles = [axes[0, column].get_title() for column in (1, 2, 3)]
    assert titles == [
        "sim-000000\nsimilarity 0.900, z = 0.100",
        "sim-000001\nsimilarity 0.850, z = 0.150",
        "sim-000002\nsimilarity 0.800, z = 0.200",
    ]
    for top, n_neighbors in ((0, 3), (2, 2)):
        for column in range(1, n_neighbors + 1):
            expected = np.full((3, 3, 3), 10 * (column - 1))
            assert_array_equal(axes[top, column].images[0].get_array(), expected)
            assert len(axes[top + 1, column].lines) == 1
    assert [ax.axison for ax in axes[:, 3]] == [True, True, False, False]
    assert all("wavelength" in ax.get_xlabel() for ax in axes[-1])


def test_panel_draws_into_a_given_figure():
    figure = Figure()
    assert plotting.neighbor_panel([make_query("alone", 1)], figure=figure) is figure
    assert len(figure.axes) == 4


def test_panel_of_nothing():
    with pytest.raises(ValueError, match="^queries is empty; pass at least one"):
        plotting.neighbor_panel([])
