"""Cameras: depth, seeing, flux and masks are what their options say."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from astroclip.simulation.cameras import (
    CAMERAS,
    _blur,
    _correlated_noise,
    _rescale,
    observe_images,
    observe_images_varied,
)

observe_images_sdss = functools.partial(observe_images, camera="sdss")


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def gaussian(size, sigma):
    """Return an image (1, 1, S, S) of unit flux at the center."""
    axis = np.arange(size) - (size - 1) / 2
    image = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / sigma**2)
    return torch.from_numpy(image / image.sum()).float()[None, None]


def spread(image):
    """Return the standard deviation of an image along x in pixels."""
    axis = torch.arange(image.shape[-1]) - (image.shape[-1] - 1) / 2
    return float(torch.sqrt((image * axis**2).sum() / image.sum()))


def measured_depth(pixels, seeing, scale):
    """Return the 5-sigma point-source depth that the pixels' scatter means."""
    effective = 4 * np.pi * (seeing / 2.355 / scale) ** 2
    return 22.5 - 2.5 * np.log10(5 * float(pixels.std()) * np.sqrt(effective))


def test_image_noise_reaches_the_depth_asked_for():
    depth, seeing, scale = 24.0, 1.3, 0.524
    empty = torch.zeros(300, 3, 32, 32)
    seen = observe_images(
        empty, torch.full((300, 3), seeing), generator(), pixel_scale=scale, depths=(depth,) * 3
    )
    sigma = seen.pixels.std(dim=(2, 3)).median()
    effective = 4 * np.pi * (seeing / 2.355 / scale) ** 2
    limit = 22.5 - 2.5 * np.log10(5 * float(sigma) * np.sqrt(effective))
    assert limit == pytest.approx(depth, abs=0.1)
    neighbor = (seen.pixels[..., 1:] * seen.pixels[..., :-1]).mean() / (seen.pixels**2).mean()
    assert 0.1 < float(neighbor) < 0.6


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.38])
def test_noise_has_unit_variance_and_the_correlation_of_its_weight(weight):
    noise = _correlated_noise(generator(), (60, 3, 64, 64), weight)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.01)
    expected = 2 * weight / (1 + 2 * weight**2)
    assert float((noise[..., 1:] * noise[..., :-1]).mean()) == pytest.approx(expected, abs=0.01)
    lag = noise[..., 1:, :] * noise[..., :-1, :]
    assert float(lag.mean()) == pytest.approx(expected, abs=0.01)


@settings(deadline=None, max_examples=10)
@given(sigma=st.floats(1.0, 4.0), seed=st.integers(0, 100))
def test_blurring_agrees_with_scipy(sigma, seed):
    image = gaussian_filter(np.random.default_rng(seed).random((32, 32)), 1.0)
    ours = _blur(torch.from_numpy(image).float()[None, None], torch.tensor([[sigma]]))
    theirs = gaussian_filter(image, sigma, mode="reflect", truncate=8)
    np.testing.assert_allclose(ours[0, 0].numpy(), theirs, atol=1e-3)


def test_narrow_blurs_add_their_variance():
    for sigma in (0.1, 0.3, 0.6):
        seen = _blur(gaussian(32, 1.5), torch.tensor([[sigma]]))
        assert spread(seen) == pytest.approx(np.hypot(1.5, sigma), rel=1e-3)


@pytest.mark.parametrize("factor", [0.95, 1.0, 1.04])
def test_another_pixel_scale_keeps_the_flux_and_magnifies(factor):
    image = gaussian(64, 4.0)
    seen = _rescale(image, torch.tensor([factor]))
    assert float(seen.sum()) == pytest.approx(1.0, abs=1e-5)
    assert spread(seen) == pytest.approx(4.0 * factor, rel=0.01)
    assert seen[0, 0].argmax() == image[0, 0].argmax()


def test_varied_depth_spans_its_range_about_the_one_asked_for():
    scale, seeing, depth = 0.524, 1.3, 24.0
    seen = observe_images_varied(
        torch.zeros(300, 3, 32, 32), torch.full((300, 3), seeing), generator(),
        pixel_scale=scale, depths=(depth,) * 3, depth_range=(-1.0, 0.5), largest_blur=1e-6,
        star_share=0.0, missing_band_share=0.0,
    )
    clean = ~seen.mask.any(dim=3).any(dim=2).any(dim=1)
    depths = np.array([measured_depth(image[1], seeing, scale) for image in seen.pixels[clean]])
    # the tilted background adds at most a few per cent to the scatter
    assert np.percentile(depths, 50) == pytest.approx(depth - 0.25, abs=0.15)
    assert 1.2 < np.ptp(np.percentile(depths, [1, 99])) < 2.3


def test_varied_images_keep_flux_and_blur_only_more():
    image = 1e4 * gaussian(64, 2.0).expand(40, 3, -1, -1)
    seen = observe_images_varied(
        image, torch.full((40, 3), 1.3), generator(), largest_blur=2.0,
        star_share=0.0, missing_band_share=0.0,
    )
    middle = (..., slice(20, 44), slice(20, 44))
    clean = ~seen.mask[middle].any(dim=3).any(dim=2).any(dim=1)
    assert int(clean.sum()) > 5
    inside = seen.pixels[middle][clean]
    np.testing.assert_allclose(inside.sum(dim=(2, 3)).numpy(), 1e4, rtol=0.02)
    widths = [spread(one[0]) for one in inside]
    assert min(widths) > 1.9
    assert max(widths) > 2.2


def test_masked_pixels_hold_zero_and_the_center_stays_visible():
    empty, seeing = torch.ones(200, 3, 64, 64), torch.full((200, 3), 1.3)
    seen = observe_images_varied(empty, seeing, generator(), star_share=1.0, missing_band_share=0.0)
    assert torch.all(seen.pixels[seen.mask] == 0)
    assert seen.pixels.isfinite().all()
    assert float(seen.mask[:, :, 29:35, 29:35].float().mean()) < 0.02
    masked = seen.mask.float().mean(dim=(1, 2, 3))
    without = observe_images_varied(
        empty, seeing, generator(), star_share=0.0, missing_band_share=0.0
    )
    assert float(masked.median()) > 3 * float(without.mask.float().mean(dim=(1, 2, 3)).median())


def test_bands_go_missing_in_their_share_and_never_all():
    empty, seeing = torch.zeros(500, 3, 16, 16), torch.full((500, 3), 1.3)
    seen = observe_images_varied(empty, seeing, generator(), star_share=0.0, missing_band_share=0.4)
    n_lost = seen.mask.all(dim=3).all(dim=2).sum(dim=1)
    assert float((n_lost > 0).float().mean()) == pytest.approx(0.4, abs=0.07)
    assert int(n_lost.max()) == 2


def test_sdss_images_reach_its_depths_and_its_seeing():
    scale, empty = 0.524, torch.zeros(200, 3, 32, 32)
    sharp = torch.full((200, 3), 0.8)
    seen = observe_images_sdss(empty, sharp, generator(), pixel_scale=scale)
    documented = zip((1.50, 1.43, 1.40), CAMERAS["sdss"].depths, strict=True)
    for band, (seeing, depth) in enumerate(documented):
        found = np.median([measured_depth(one[band], seeing, scale) for one in seen.pixels])
        assert found == pytest.approx(depth, abs=0.12)
    star = 1e6 * gaussian(64, 0.8 / 2.355 / scale).expand(50, 3, -1, -1)
    seen = observe_images_sdss(star, sharp[:50], generator(), pixel_scale=scale)
    widths = [2.355 * scale * spread(one[1, 16:48, 16:48]) for one in seen.pixels]
    assert np.median(widths) == pytest.approx(1.43, abs=0.1)
    np.testing.assert_allclose(seen.pixels.sum(dim=(2, 3)).numpy(), 1e6, rtol=5e-3)


@pytest.mark.parametrize("observe", [observe_images, observe_images_varied, observe_images_sdss])
def test_same_seed_records_the_same(observe):
    image, seeing = torch.ones(4, 3, 32, 32), torch.full((4, 3), 1.3)
    first, second, other = (observe(image, seeing, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.mask, second.mask)
    assert not torch.equal(first.pixels, other.pixels)


def test_an_unknown_camera_is_refused():
    empty, seeing = torch.zeros(1, 3, 8, 8), torch.ones(1, 3)
    with pytest.raises(ValueError, match="camera is 'hst'; expected one of 'legacysurvey', 'sdss'"):
        observe_images(empty, seeing, generator(), camera="hst")
