"""Bands: names, flux scales and the models' image scalings against their formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astroclip.preparation import arcsinh_image, center_crop, deredden, normalize_images
from astroclip.preparation.bands import canonical_band


def images(seed=0, n_objects=3, n_bands=3, size=6):
    """Return fluxes about the noise, with some bright and some negative pixels."""
    rng = np.random.default_rng(seed)
    shape = (n_objects, n_bands, size, size)
    return (rng.normal(0, 0.02, shape) + rng.exponential(0.05, shape)).astype(np.float32)


# ---------------------------------------------------------------------- names
@pytest.mark.parametrize(
    ("name", "letter"),
    [
        ("g", "g"), ("G", "g"), ("r'", "r"), (" z ", "z"), ("DECam g", "g"), ("decals-r", "r"),
        ("z_sdss", "z"), ("SDSS/u", "u"), ("HSC-Y", "y"), ("LSST.i", "i"), ("Pan-STARRS g", "g"),
        ("CTIO/DECam.r", "r"), ("SLOAN/SDSS.g'", "g"), ("g DECam SDSS c0001 4720.0 1520.0", "g"),
        ("r.00000", "r"), ("i.MP9702", "i"), ("HSC-I2", "i"), ("r_SDSS", "r"), ("W-S-Z+", "z"),
        ("g_G0301", "g"), ("bokr", "r"), ("zd", "z"), ("gp", "g"), ("gSDSS", "g"), ("ps1_i", "i"),
        ("y band", "y"), ("r_03", "r"),
    ],
)
def test_band_names(name, letter):
    assert canonical_band(name) == letter


@pytest.mark.parametrize(
    "name",
    [
        "", "blue", "gr", "Gaia G", "DECam", "F606W", "H", 3, None, "G Gaia", "R_BESS", "R_SPECIAL",
        "Cousins R", "W-C-RC", "g+r", "gri.MP9605", "VR DECam c0007 6300.0 2600.0", "NB0921",
        "2MASS J", "CLEAR1L",
    ],
)
def test_names_that_are_no_band(name):
    with pytest.raises(ValueError, match=r"^band is .*; expected a letter of u, g, r, i, z, y, al"):
        canonical_band(name)


# ---------------------------------------------------------------------- extinction and crop
@pytest.mark.parametrize("ebv", [0.0, 0.1, [0.0, 0.1, 0.5]])
def test_dereddening_brightens_by_the_extinction(ebv):
    pixels = images()
    bright = deredden(pixels, "zgr", ebv)
    for row, value in enumerate(np.broadcast_to(ebv, 3)):
        for band, coefficient in enumerate((1.211, 3.214, 2.165)):
            expected = pixels[row, band] / 10 ** (-0.4 * coefficient * value)
            np.testing.assert_allclose(bright[row, band], expected, rtol=1e-6)


def test_dereddening_misused():
    with pytest.raises(ValueError, match=r"^ebv has shape \(2,\); expected one value, or one for"):
        deredden(images(), "grz", [0.1, 0.2])
    with pytest.raises(ValueError, match="^bands is 'i'; expected one of 'g', 'r', 'z'"):
        deredden(images(), "gri", 0.1)


@pytest.mark.parametrize(("shape", "size"), [((9, 9), 5), ((8, 10), 4), ((7, 8), 7), ((4, 4), 4)])
def test_center_crop(shape, size):
    pixels = np.zeros((2, *shape))
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    pixels[:, top : top + size, left : left + size] = 1
    cropped = center_crop(pixels, size)
    assert cropped.shape == (2, size, size)
    assert (cropped == 1).all()


def test_crop_larger_than_the_image():
    with pytest.raises(ValueError, match="^pixels are 6 x 6; expected at least 7 x 7 to crop"):
        center_crop(images(), 7)


# ---------------------------------------------------------------------- display
def display_slowly(pixels, bands, precedence):
    """Return the display image (3, S, S) of one object in double precision, pixel by pixel."""
    scale = {"g": 6.0, "r": 3.4, "z": 2.2}
    plane = {band: pixels[k].astype(float) for k, band in enumerate(bands)}
    size = pixels.shape[-1]
    shown = np.empty((3, size, size))
    for y in range(size):
        for x in range(size):
            parts = [max(0.0, plane[b][y, x] * scale[b] + 0.03) for b in "grz"]
            intensity = sum(parts) / 3
            stretch = np.arcsinh(20 * intensity) / np.sqrt(20) / (intensity or 1e-6)
            for channel, b in enumerate("zrg"):
                flux = plane[b][y, x]
                if precedence == "stein":
                    value = flux * (scale[b] + 0.03 * stretch)
                else:
                    value = (flux * scale[b] + 0.03) * stretch
                shown[channel, y, x] = min(max(value, 0.0), 1.0)
    return shown


@given(
    st.integers(0, 10_000),
    st.sampled_from(["astroclip", "stein"]),
    st.permutations("grz"),
    st.sampled_from([0.1, 1.0, 30.0]),
)
def test_display_agrees_with_the_published_formula(seed, precedence, bands, brightness):
    pixels = brightness * images(seed, n_objects=2, size=4)
    pixels[0, :, 0, 0] = -0.5  # no positive light: the intensity is zero
    shown = arcsinh_image(pixels, bands, precedence=precedence)
    assert shown.dtype == np.float32
    for row in range(2):
        expected = display_slowly(pixels[row], bands, precedence)
        np.testing.assert_allclose(shown[row], expected, atol=3e-6)


@pytest.mark.parametrize("name", ["astroclip", "stein"])
def test_normalization_names_the_display(name):
    pixels = images()
    expected = arcsinh_image(pixels, "grz", precedence=name)
    shown = normalize_images(pixels, bands="grz", normalization=name)
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("bands", ["grz", "zg", "r"])
def test_asinh(bands):
    pixels = images(n_bands=len(bands))
    scale = np.array([{"g": 20.0, "r": 12.0, "z": 6.0}[b] for b in bands])[:, None, None]
    original = pixels.copy()
    scaled = normalize_images(pixels, bands=bands, normalization="asinh")
    np.testing.assert_allclose(scaled, np.arcsinh(pixels * scale) / 2, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(pixels, original)


def test_none_changes_nothing():
    pixels = images(n_bands=2)
    same = normalize_images(pixels, bands="iy", normalization="none")
    np.testing.assert_array_equal(same, pixels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: normalize_images(images(), bands="grz", normalization="log"), "^normalization is"),
        (
            lambda: normalize_images(images(n_bands=2), bands="gr", normalization="astroclip"),
            r"^bands are \('g', 'r'\); expected all of \('g', 'r', 'z'\)",
        ),
        (
            lambda: normalize_images(images(n_bands=2), bands="gi", normalization="asinh"),
            r"^bands are \('g', 'i'\); expected some of \('g', 'r', 'z'\)",
        ),
        (
            lambda: normalize_images(images(n_bands=4), bands="grz", normalization="stein"),
            r"^pixels has shape \(3, 4, 6, 6\); expected \(N, 3, S, S\) for bands",
        ),
        (lambda: arcsinh_image(images(n_bands=2), "gr"), r"^bands are \('g', 'r'\); expected all"),
        (lambda: arcsinh_image(images(), "grz", precedence="lupton"), "^precedence is 'lupton'; e"),
    ],
)
def test_scalings_misused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
