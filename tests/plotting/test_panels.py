"""Panels show the query first and then its neighbors, in order."""

import io

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.table import QTable
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

import astroclip
from astroclip import plotting

WAVELENGTH = np.linspace(3600, 9800, 50)


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
    inside = (spectrum.spectral_axis.value > 6000) & (spectrum.spectral_axis.value < 6100)
    weight = spectrum.uncertainty.array[inside]
    expected = np.average(spectrum.flux.value[inside], weights=weight)
    top = np.nanpercentile(_query_flux(spectrum), 99.5)
    drawn = flux[(wavelength > 6.0) & (wavelength < 6.1)].mean() * top
    assert drawn == pytest.approx(expected, rel=0.05)


def _query_flux(spectrum):
    from astroclip.plotting.panels import query_parts

    return query_parts(spectrum)["spectrum"][1]


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
