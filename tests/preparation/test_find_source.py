"""Synthetic sources at known positions are found in images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.preparation.images import find_source

SCALE = 0.262


def gaussian(x, y, *, sigma=2.0, peak=1.0, shape=(61, 71), noise=0.0, seed=0):
    """Return an image of a round Gaussian at pixel (x, y)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    light = peak * np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / sigma**2)
    return light + noise * np.random.default_rng(seed).normal(size=shape)


def find(pixels, x, y, bad=None, **options):
    bad = np.zeros(pixels.shape, bool) if bad is None else bad
    return find_source(pixels, bad, x, y, SCALE, **options)


@settings(max_examples=40)
@given(st.floats(28, 42), st.floats(24, 36), st.floats(1.2, 4.0))
def test_finds_a_source_to_a_tenth_of_a_pixel(x, y, sigma):
    pixels = 0.5 + gaussian(x, y, sigma=sigma)
    found = find(pixels, 35, 30)
    np.testing.assert_allclose(found, (x, y), atol=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_noise_moves_it_little(seed):
    pixels = gaussian(33.3, 31.7, noise=0.02, seed=seed)
    np.testing.assert_allclose(find(pixels, 35, 30), (33.3, 31.7), atol=0.3)


def test_nothing_stands_out():
    pixels = np.random.default_rng(0).normal(size=(61, 71))
    assert find(pixels, 35, 30) is None
    assert find(np.ones((61, 71)), 35, 30) is None


def test_the_threshold_is_in_units_of_the_noise():
    pixels = gaussian(35, 30, peak=0.2, noise=0.02)
    assert find(pixels, 35, 30, threshold=5.0) is not None
    assert find(pixels, 35, 30, threshold=20.0) is None


@pytest.mark.parametrize(("radius", "expected"), [(2.0, (35, 30)), (6.0, (49, 30))])
def test_a_brighter_source_counts_within_the_radius_only(radius, expected):
    pixels = gaussian(35, 30) + gaussian(49, 30, peak=3.0)
    np.testing.assert_allclose(find(pixels, 35, 30, radius=radius), expected, atol=0.1)


def test_bad_pixels_are_not_sources():
    pixels = gaussian(33, 31)
    bad = np.zeros(pixels.shape, bool)
    bad[28, 37] = bad[5, :] = True
    pixels[28, 37], pixels[5, :] = 1e6, np.nan
    np.testing.assert_allclose(find(pixels, 35, 30, bad), (33, 31), atol=0.1)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (70, 60), (0.4, 30)])
def test_sources_at_the_edge(x, y):
    np.testing.assert_allclose(find(gaussian(x, y), x, y), (x, y), atol=0.5)


@pytest.mark.parametrize(
    "core", [np.eye(3), np.ones((3, 3)), np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]])]
)
def test_light_without_a_single_peak_gives_a_pixel_of_it(core):
    pixels = np.zeros((61, 71))
    pixels[29:32, 34:37] = core
    x, y = find(pixels, 35, 30)
    assert pixels[round(y), round(x)] == 1
