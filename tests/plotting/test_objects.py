"""Images and spectra are drawn as given; a query comes first and then its neighbors, in order."""

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from specutils import Spectrum, SpectrumList

import astroclip
from astroclip import plotting
from astroclip.datasets import DATA
from astroclip.exceptions import AstroclipWarning
from astroclip.preparation import read_spectra

SAMPLES = DATA / "samples"
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


def test_a_spectrum_is_drawn_without_its_bad_pixels(tmp_path):
    flux, mask = np.linspace(1, 2, 50), np.zeros(50, bool)
    flux[7], mask[7] = 1e5, True
    flux_unit = u.Unit("1e-17 erg / (s cm2 AA)")
    spectrum = Spectrum(flux=flux * flux_unit, spectral_axis=WAVELENGTH * u.AA, mask=mask)
    per_hertz = Spectrum(
        flux=spectrum.flux.to(u.mJy, u.spectral_density(WAVELENGTH * u.AA)), mask=mask,
        spectral_axis=WAVELENGTH / 10 * u.nm,
    )
    for item in (spectrum, per_hertz, [spectrum], SpectrumList([spectrum])):
        ax = plotting.plot_spectrum(item)
        wavelength, drawn = ax.lines[0].get_data()
        assert_allclose(wavelength, WAVELENGTH / 1000)
        assert np.isnan(drawn[7])
        ratio = np.delete(drawn / flux, 7)
        assert_allclose(ratio, ratio[0], rtol=1e-6)
        mean_at, mean = ax.lines[1].get_data()
        expected = np.interp(mean_at, WAVELENGTH / 1000, np.linspace(1, 2, 50)) * ratio[0]
        there = np.isfinite(mean)
        assert there.mean() > 0.9
        assert_allclose(mean[there], expected[there], rtol=0.03)
        assert "wavelength" in ax.get_xlabel()


@pytest.mark.parametrize("as_type", [str, Path])
def test_files_are_drawn(as_type):
    ax = plotting.plot_spectrum(as_type(SAMPLES / "desi-27247.fits"))
    assert len(ax.lines[0].get_xdata()) == 7781
    image = plotting.plot_image(as_type(SAMPLES / "legacysurvey-59.1067-30.4848.fits")).images[0]
    expected = plotting.plot_image(astroclip.sample_image()).images[0]
    assert_array_equal(image.get_array(), expected.get_array())


def test_g_r_z_are_drawn_in_colors_and_whole():
    bands = astroclip.sample_image()
    (image,) = plotting.plot_image(bands).images
    expected = plotting.display_image(np.stack([bands[band].data for band in "grz"]))
    difference = image.get_array().astype(int) - expected
    assert image.get_array().shape == (160, 160, 3)
    assert (np.abs(difference) <= 1).mean() > 0.99  # but for pixels that are masked


@pytest.mark.parametrize(
    "image",
    [
        CCDData(np.arange(12.0).reshape(3, 4), unit="adu"),
        CCDData(np.arange(12.0).reshape(1, 3, 4), unit="adu"),
        {"F814W": CCDData(np.arange(12.0).reshape(3, 4), unit="electron / s")},
    ],
    ids=["ccd", "stack", "another band"],
)
def test_other_images_are_drawn_in_gray(image):
    (drawn,) = plotting.plot_image(image).images
    colors = drawn.get_array()
    assert colors.shape == (3, 4, 3)
    assert_array_equal(colors[..., 0], colors[..., 2])
    values = colors[..., 0].ravel().astype(int)
    assert np.all(np.diff(values[1:-1]) > 0) and values[0] == 0 and values[-1] == 255
    assert_allclose(values[5], 255 * np.arcsinh(5 / 11 / 0.03) / np.arcsinh(1 / 0.03), rtol=0.02)


def test_gray_images_may_be_bad_in_part_or_altogether():
    ccd = CCDData(np.ones((3, 4)), unit="adu", mask=np.zeros((3, 4), bool))
    ccd.data[0, 0], ccd.mask[1, 1] = np.nan, True
    colors = plotting.plot_image(ccd).images[0].get_array()
    assert colors[0, 0].max() == colors[1, 1].max() == 0
    plotting.plot_image(CCDData(np.full((3, 4), np.nan), unit="adu"))


def test_what_is_no_image_or_no_spectrum_is_refused():
    spectrum, image = astroclip.sample_spectrum(), astroclip.sample_image()
    with pytest.raises(TypeError, match="spectrum holds one image; expected.*plot_image"):
        plotting.plot_spectrum(image)
    with pytest.raises(TypeError, match="image holds one spectrum; expected.*plot_spectrum"):
        plotting.plot_image(spectrum)
    with pytest.raises(ValueError, match="spectrum holds 2 objects; expected one spectrum"):
        plotting.plot_spectrum([spectrum, spectrum])
    pixels = Spectrum(flux=np.ones(9) * u.ct, spectral_axis=np.arange(9) * u.pix)
    with pytest.raises(u.UnitsError, match="spectral axis in 'pix'; expected wavelengths"):
        plotting.plot_spectrum(pixels)
    with pytest.raises(TypeError, match="flux is missing"):
        plotting.plot_spectrum(WAVELENGTH)
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\).*display_image first"):
        plotting.plot_image(np.zeros((3, 8, 8)))
    with pytest.raises(OSError, match="does not exist"):
        plotting.plot_spectrum("nowhere.fits")


DRAWINGS = """
import io, sys
import numpy as np
import matplotlib.pyplot as plt
from astropy.table import QTable
import astroclip
from astroclip import plotting
spectrum, reference = astroclip.sample_spectrum(), astroclip.reference_table()[:60]
neighbors = astroclip.SimilarityIndex(reference).query(reference[7:8], n_neighbors=2)
rows = {"label": "q", "neighbors": neighbors, "previews": astroclip.reference_previews(
    neighbors["neighbor_id"])}
x = np.linspace(0, 1, 30)
drawings = [
    lambda: plotting.plot_spectrum(spectrum).figure,
    lambda: plotting.plot_image(astroclip.sample_image()).figure,
    lambda: plotting.plot_neighbors(spectrum, neighbors).figure,
    lambda: plotting.neighbor_panel([rows]),
    lambda: plotting.plot_embedding_map(reference).figure,
    lambda: plotting.plot_estimates(x, x).figure,
    lambda: plotting.plot_reliability(x, x > 0.5).figure,
    lambda: plotting.plot_learning_curve([1, 2], [0.1, 0.2]).figure,
    lambda: plotting.plot_roc(x, x > 0.5).figure,
]
for draw in drawings:
    figure = draw()
    saved, blank = io.BytesIO(), io.BytesIO()
    plt.savefig(saved)
    image = plt.imread(io.BytesIO(saved.getvalue()))
    print(plt.gcf() is figure, bool(image[..., :3].std() > 0.01), len(plt.get_fignums()))
    plt.close()
"""


def test_figures_are_those_of_pyplot_in_a_new_process():
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", DRAWINGS], capture_output=True,
        text=True, env=os.environ | {"MPLBACKEND": "agg"}, check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == ["True True 1"] * 9


def test_given_axes_open_no_figure():
    ax = Figure().subplots()
    plotting.plot_image(np.zeros((2, 2, 3), np.uint8), ax=ax)
    plotting.plot_spectrum(WAVELENGTH, np.ones(50), ax=ax)
    assert ax.get_xlabel() == ""  # labels of given axes are the caller's
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
    with pytest.raises((TypeError, ValueError), match=r"query\[0\]"):
        plotting.plot_neighbors([3], neighbors)
    with pytest.raises(ValueError, match="query holds several objects; expected one spectrum"):
        plotting.plot_neighbors([spectrum, spectrum], neighbors)
    with pytest.raises(TypeError, match="objects is of type int; expected a dict of objects"):
        plotting.plot_neighbors(spectrum, neighbors, objects=3)
    with pytest.raises(ValueError, match="neighbors has no column 'similarity' among"):
        plotting.plot_neighbors(spectrum, neighbors["neighbor_id", "rank"])
    with pytest.raises(ValueError, match="objects holds 1 objects and neighbors 3 rows"):
        plotting.plot_neighbors(spectrum, neighbors, objects=[spectrum])


def drawn(ax):
    """Return what is drawn in each column of `plot_neighbors`: image, spectrum, both, neither."""
    parts = np.array(ax.child_axes).reshape(-1, 2)
    return ["i" * bool(top.images) + "s" * bool(low.lines) for top, low in parts]


def test_an_own_reference_is_drawn_from_its_files():
    own = astroclip.embed(sorted(SAMPLES.glob("*.fits")))
    query = [astroclip.sample_spectrum(), astroclip.sample_image()]
    neighbors = astroclip.SimilarityIndex(own).query(query[0], n_neighbors=4, modality="all")
    ax = plotting.plot_neighbors(query, neighbors)
    assert drawn(ax) == ["is", *(row["modality"][0] for row in neighbors)]
    assert set(neighbors["modality"]) == {"image", "spectrum"}


def test_a_query_beyond_the_models_range_is_drawn(found):
    infrared = Spectrum(flux=np.linspace(1, 2, 50) * u.mJy, spectral_axis=WAVELENGTH * u.nm)
    line = plotting.plot_neighbors(infrared, found[1]).child_axes[1].lines[0]
    assert_allclose(line.get_xdata(), WAVELENGTH / 100)


def write_coadd(path, *, n_targets):
    """Write the sample galaxy several times, with other ids and noise."""
    with fits.open(SAMPLES / "desi-27247.fits") as hdus:
        for hdu in hdus[1:]:
            if not hdu.name.endswith("WAVELENGTH"):
                hdu.data = np.repeat(hdu.data, n_targets, axis=0)
            if hdu.name.endswith("FLUX"):
                hdu.data += np.random.default_rng(0).normal(0, 3, hdu.data.shape).astype("f4")
        hdus["FIBERMAP"].data["TARGETID"] += np.arange(n_targets)
        hdus.writeto(path)


def test_one_object_of_a_file_of_many_is_drawn(tmp_path):
    path = tmp_path / "coadd-main-dark-1.fits"
    write_coadd(path, n_targets=3)
    neighbors = QTable(
        {"neighbor_id": ["39089837499744651"], "similarity": [0.5], "file": [str(path)]}
    )
    ax = plotting.plot_neighbors(None, neighbors)
    expected = plotting.plot_neighbors(None, neighbors, objects=read_spectra(path)[2:])
    assert_array_equal(ax.child_axes[1].lines[0].get_ydata(),
                       expected.child_axes[1].lines[0].get_ydata())
    path.unlink()
    with pytest.warns(AstroclipWarning, match="nothing is known of the neighbors"):
        assert drawn(plotting.plot_neighbors(None, neighbors)) == [""]


def test_an_own_reference_in_memory_is_drawn_from_objects():
    spectra = astroclip.sample_spectra()
    objects = {spectrum.meta["id"]: spectrum for spectrum in spectra}
    own = astroclip.embed(spectra)
    neighbors = astroclip.SimilarityIndex(own).query(spectra[0], n_neighbors=2)
    with pytest.warns(AstroclipWarning, match="Pass their spectra or images as objects"):
        ax = plotting.plot_neighbors(spectra[0], neighbors)
    assert drawn(ax) == ["s", "", ""]
    assert ax.child_axes[2].get_title().startswith(f"{neighbors['neighbor_id'][0]}\nsimilarity 1.0")
    assert drawn(plotting.plot_neighbors(spectra[0], neighbors, objects=objects)) == ["s"] * 3
    del objects[str(neighbors["neighbor_id"][0])]
    assert drawn(plotting.plot_neighbors(spectra[0], neighbors, objects=objects)) == ["s", "", "s"]
    both = [[spectra[0], astroclip.sample_image()], None]
    assert drawn(plotting.plot_neighbors(None, neighbors, objects=both)) == ["is", ""]
