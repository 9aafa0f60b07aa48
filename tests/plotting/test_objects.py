"""Images and spectra are drawn as given; a query comes first and then its neighbors, in order."""

import io
import math

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData
from astropy.table import QTable
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

import astroclip
from astroclip import plotting

WAVELENGTH = np.linspace(3600, 9800, 50)


# ---------------------------------------------------------------------- one object
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


# ---------------------------------------------------------------------- neighbor_panel
def make_query(label, n_neighbors, **parts):
    """Return a query of `neighbor_panel` with neighbors of different colors."""
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
    """A query with an image and three neighbors over one with a spectrum and two."""
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


# ---------------------------------------------------------------------- plot_neighbors
@pytest.fixture(scope="module")
def found():
    """Return the sample spectrum and its three nearest rows of the reference."""
    reference = astroclip.reference_table()[:300]
    spectrum = astroclip.sample_spectrum()
    neighbors = astroclip.SimilarityIndex(reference).query(reference[7:8], n_neighbors=3)
    return spectrum, neighbors


def test_neighbors_stand_beside_the_query_with_their_similarities(found):
    spectrum, neighbors = found
    ax = Figure(figsize=(8, 4)).subplots()
    assert plotting.plot_neighbors(spectrum, neighbors, label="DESI", ax=ax) is ax
    ax.figure.savefig(io.BytesIO())
    parts = np.array(ax.child_axes).reshape(4, 2)  # column by column, image first
    assert parts[0, 0].get_title() == "DESI"
    assert [text.get_text() for text in parts[0, 0].texts] == ["no image"]
    for column, row in zip(parts[1:], neighbors, strict=True):
        assert column[0].get_title().startswith(f"{row['neighbor_id']}\nsimilarity ")
        assert f"{row['similarity']:.3f}, z = {row['redshift']:.3f}" in column[0].get_title()
    previews = astroclip.reference_previews(neighbors["neighbor_id"])
    assert_array_equal(parts[2, 0].images[0].get_array(), previews["image"][1])
    assert_allclose(parts[2, 1].lines[0].get_xdata(), previews["wavelength"] / 1e3)
    centers = [part.get_position(original=True).x0 for part in parts[:, 0]]
    assert np.all(np.diff(centers) > 0)


def test_query_spectrum_is_the_ivar_weighted_mean_of_its_pixels(found):
    spectrum, neighbors = found
    ax = plotting.plot_neighbors(spectrum, neighbors)
    wavelength, flux = ax.child_axes[1].lines[0].get_data()
    drawn, expected = [], []
    for low in (5000, 6000):  # Angstrom; two windows, because the scale of the flux is not kept
        inside = (spectrum.spectral_axis.value > low) & (spectrum.spectral_axis.value < low + 100)
        weight = spectrum.uncertainty.array[inside]
        expected.append(np.average(spectrum.flux.value[inside], weights=weight))
        drawn.append(flux[(wavelength > low / 1e3) & (wavelength < low / 1e3 + 0.1)].mean())
    assert drawn[0] / drawn[1] == pytest.approx(expected[0] / expected[1], rel=0.05)


def test_image_and_spectrum_of_a_query_are_both_drawn_and_none_is_left_out(found):
    spectrum, neighbors = found
    image = astroclip.sample_image()
    both = plotting.plot_neighbors([spectrum, image], neighbors)
    assert both.child_axes[0].images[0].get_array().shape == (96, 96, 3)
    assert len(both.child_axes[1].lines) == 1
    assert len(plotting.plot_neighbors(None, neighbors).child_axes) == 6


def test_previews_of_an_own_reference_may_lack_a_kind(found):
    _, neighbors = found
    previews = {"image": np.zeros((3, 4, 4, 3), np.uint8)}
    own = neighbors["neighbor_id", "similarity"]
    ax = plotting.plot_neighbors(None, own, previews=previews)
    assert [text.get_text() for text in ax.child_axes[1].texts] == ["no spectrum"]
    assert "z =" not in ax.child_axes[0].get_title()


def test_what_cannot_be_drawn_is_named(found):
    spectrum, neighbors = found
    two = QTable({"query_id": ["a", "b"], "neighbor_id": ["x", "y"], "similarity": [0.1, 0.2]})
    with pytest.raises(TypeError, match="neighbors is of type list; expected the table"):
        plotting.plot_neighbors(spectrum, [1, 2])
    with pytest.raises(ValueError, match="neighbors is empty"):
        plotting.plot_neighbors(spectrum, neighbors[:0])
    with pytest.raises(ValueError, match="neighbors holds rows of 2 queries"):
        plotting.plot_neighbors(spectrum, two)
    with pytest.raises(TypeError, match="query is or holds a CCDData; expected a Spectrum"):
        plotting.plot_neighbors(CCDData(np.ones((3, 3)), unit="nmgy"), neighbors)
    with pytest.raises(KeyError, match=r"ids\[0\] is .*'x'"):
        plotting.plot_neighbors(spectrum, two[:1])
