"""Constants in place of data are found; zeros that are data are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from astroclip.preparation.blanks import blank_pixels

N = 120
ROWS, COLUMNS = np.mgrid[:N, :N]
GALAXY = 50 * np.exp(-0.5 * ((ROWS - 60) ** 2 + (COLUMNS - 60) ** 2) / 8**2)


def noise(seed=0):
    return np.random.default_rng(seed).normal(size=(N, N))


@pytest.mark.parametrize("value", [0.0, 7.0, -9999.0, -32768.0, 1e30])
@pytest.mark.parametrize("level", [0.0, 1000.0])
@pytest.mark.parametrize(
    "region",
    [
        (ROWS < 20) & (COLUMNS < 30), COLUMNS < 3, ROWS + COLUMNS < 50,
        (abs(ROWS - 30) < 8) & (abs(COLUMNS - 90) < 8), COLUMNS < 90,
    ],
    ids=["corner", "strip", "triangle", "hole", "most"],
)
def test_regions_of_a_constant_are_blank(value, level, region):
    pixels = (level + noise() + GALAXY).astype(np.float32)
    pixels[region] = value
    np.testing.assert_array_equal(blank_pixels(pixels), region)


@given(st.integers(0, 1000), st.integers(8, 60), st.integers(8, 60), st.sampled_from([1, 3]))
def test_any_corner(seed, height, width, rounding):
    pixels = np.round(noise(seed) * 100 + 400, rounding)
    pixels[-height:, -width:] = 0
    expected = np.zeros((N, N), bool)
    expected[-height:, -width:] = True
    np.testing.assert_array_equal(blank_pixels(pixels), expected)


def test_pixels_known_to_be_bad_are_left_out():
    pixels, bad = noise() + GALAXY, np.zeros((N, N), bool)
    bad[:20, :30] = True
    pixels[bad] = 0
    assert blank_pixels(pixels, bad) is None
    pixels[:20, :30] = np.nan
    assert blank_pixels(pixels) is None


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("galaxy", [0, 1])
@pytest.mark.parametrize("gain", [1, 0.37])
def test_images_of_few_counts_are_not_blank(rate, galaxy, gain):
    rng = np.random.default_rng(0)
    assert blank_pixels(gain * rng.poisson(rate + galaxy * GALAXY)) is None


@pytest.mark.parametrize(
    "pixels",
    [
        GALAXY.astype(np.float32),  # noiseless: far away it is exactly 0
        np.where(GALAXY > 0.5, GALAXY, 0),
        np.where(GALAXY > 0.5, 1.0, 0),
        np.ones((N, N)),
        noise() + GALAXY,
        np.round(2 * noise()) / 2,
        np.clip(noise() + GALAXY, 0, None),
        np.clip(gaussian_filter(noise(), 1.5) * 5 - 0.5 + GALAXY, 0, None),
        np.minimum(noise() + 100 * GALAXY, 2000),  # saturated
        gaussian_filter(noise(), 1.5) + GALAXY,
    ],
)
def test_what_is_data(pixels):
    assert blank_pixels(np.asarray(pixels)) is None


def test_an_image_of_zeros_is_blank():
    assert blank_pixels(np.zeros((N, N))).all()
