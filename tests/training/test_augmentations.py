"""Augmentations against slow loops, scipy and their inverses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from astroclip.preparation.bands import deredden
from astroclip.training.augmentations import (
    blur_images,
    redden_images,
    rotate_and_flip_images,
    shift_images,
)

SEEING = torch.tensor([[1.4, 1.25, 1.2]])


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def orientations(image):
    """Return the eight rotations and reflections of an image (B, S, S)."""
    turned = [np.rot90(image, k, (1, 2)) for k in range(4)]
    return turned + [image[:, :, ::-1] for image in turned]


def test_each_image_takes_one_of_eight_orientations_as_likely():
    image = np.random.default_rng(1).normal(size=(3, 5, 5)).astype(np.float32)
    n_images = 1600
    turned = rotate_and_flip_images(torch.from_numpy(image).repeat(n_images, 1, 1, 1), seeded())
    count = [int((turned == torch.from_numpy(o.copy())).all((1, 2, 3)).sum())
             for o in orientations(image)]
    assert sum(count) == n_images
    assert min(count) > 150 and max(count) < 250


def test_shift_is_a_copy_of_what_is_inside():
    images = torch.from_numpy(np.random.default_rng(2).normal(size=(12, 2, 9, 9)))
    moved, mask = shift_images(images, seeded(), largest=3)
    steps = set()
    for image, result, bad in zip(images.numpy(), moved.numpy(), mask.numpy()):
        rows, columns = np.nonzero(~bad[0])
        matches = [
            (down, right)
            for down in range(-3, 4)
            for right in range(-3, 4)
            if len(rows) == (9 - abs(down)) * (9 - abs(right))
            and all(0 <= r + down < 9 and 0 <= c + right < 9 for r, c in zip(rows, columns))
            and np.array_equal(result[:, rows, columns], image[:, rows + down, columns + right])
        ]
        assert len(matches) == 1
        assert (bad == bad[0]).all()
        assert (result[bad] == 0).all()
        steps.add(matches[0])
    assert len(steps) > 6


def test_no_shift_leaves_images_complete():
    images = torch.randn(3, 3, 8, 8, generator=seeded())
    moved, mask = shift_images(images, seeded(), largest=0)
    assert torch.equal(moved, images)
    assert not mask.any()


@pytest.mark.parametrize("fwhm", [0.4, 1.1, 2.0])
def test_blur_equals_scipy_inside(fwhm):
    images = np.random.default_rng(3).normal(size=(2, 3, 40, 40)).astype(np.float32)
    widths = torch.tensor([[fwhm, 0.5 * fwhm, 0.0], [fwhm, fwhm, fwhm]])
    blurred = blur_images(torch.from_numpy(images), widths, pixel_scale=0.524).numpy()
    for number, band in np.ndindex(2, 3):
        sigma = float(widths[number, band]) / 2.3548200450309493 / 0.524
        expected = gaussian_filter(images[number, band].astype(float), sigma, truncate=8)
        inside = (slice(14, -14),) * 2
        np.testing.assert_allclose(
            blurred[number, band][inside], expected[inside], rtol=0, atol=2e-6
        )
    np.testing.assert_array_equal(blurred[0, 2], images[0, 2])


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 5), st.floats(-100, 100))
def test_blur_keeps_a_flat_background(fwhm, level):
    blurred = blur_images(torch.full((1, 1, 12, 12), level), torch.tensor([[fwhm]]))
    np.testing.assert_allclose(blurred.numpy(), level, rtol=1e-5, atol=1e-6)


def test_dereddening_undoes_reddening():
    images = torch.rand(4, 3, 6, 6, generator=seeded())
    reddening = torch.tensor([0.0, 0.03, 0.1, 0.5])
    reddened = redden_images(images, reddening)
    restored = deredden(reddened.numpy(), ("g", "r", "z"), reddening.numpy())
    np.testing.assert_allclose(restored, images.numpy(), rtol=1e-5)
    assert torch.equal(reddened[0], images[0])
    assert (reddened[1:] < images[1:]).all()
