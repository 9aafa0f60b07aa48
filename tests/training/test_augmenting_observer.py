"""Augmented recordings: seeded, only turned when nothing else is asked, never noisier than told."""

import numpy as np
import pytest
import torch

from astroclip.training.augmenting_observer import AugmentingObserver

SEEING = torch.tensor([[1.4, 1.25, 1.2]])
STILL = {"mean_reddening": 0.0, "largest_blur": 0.0, "largest_shift": 0, "missing_band_share": 0.0}


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def orientations(image):
    """Return the eight rotations and reflections of an image (B, S, S)."""
    turned = [np.rot90(image, k, (1, 2)) for k in range(4)]
    return turned + [image[:, :, ::-1] for image in turned]


def test_views_are_seeded_and_independent():
    images = 5 * torch.rand(8, 3, 32, 32, generator=seeded())
    kept, observer = images.clone(), AugmentingObserver()
    generator = seeded(4)
    first, second = (observer.images(images, SEEING.repeat(8, 1), generator) for _ in range(2))
    again = observer.images(images, SEEING.repeat(8, 1), seeded(4))
    assert torch.equal(images, kept)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.isclose(first[0], second[0])[~(first[1] | second[1])].all()
    for pixels, mask in (first, second):
        assert torch.isfinite(pixels).all()
        assert (pixels[mask] == 0).all()


def test_without_augmentation_the_image_only_turns():
    images = torch.rand(6, 3, 16, 16, generator=seeded()) * 1e5  # noise is one part in a thousand
    observer = AugmentingObserver(
        mean_reddening=0.0, largest_blur=0.0, largest_shift=0, missing_band_share=0.0
    )
    inputs, mask = observer.images(images, SEEING.repeat(6, 1), seeded())
    assert not mask.any()
    for image, result in zip(images.numpy(), inputs.numpy()):
        flux = np.sinh(2 * result) / np.array([20.0, 12.0, 6.0])[:, None, None]
        close = [np.allclose(flux, o, rtol=0.05, atol=50) for o in orientations(image)]
        assert sum(close) == 1


def test_reddening_has_the_stated_mean_and_bands_are_lost_in_their_share():
    n = 2000
    images = torch.full((n, 3, 4, 4), 1e6)
    observer = AugmentingObserver(
        mean_reddening=0.05, largest_blur=0.0, largest_shift=0, missing_band_share=0.2
    )
    inputs, mask = observer.images(images, SEEING.repeat(n, 1), seeded())
    lost = mask.all(dim=(2, 3))
    assert 0.17 < float(lost.any(dim=1).float().mean()) < 0.23
    flux = torch.sinh(2 * inputs.double()) / torch.tensor([20.0, 12.0, 6.0])[:, None, None]
    dimming = -2.5 * torch.log10(flux[~lost[:, 0], 0].mean(dim=(1, 2)) / 1e6)
    assert float(dimming.mean()) == pytest.approx(0.05 * 3.214, rel=0.07)


def test_recorded_images_get_no_noise_again_and_keep_their_bad_pixels():
    images = torch.rand(6, 3, 16, 16, generator=seeded())
    images[0, :, 3, 4] = torch.nan
    observer = AugmentingObserver(**STILL, extra_noise=0.0)
    inputs, mask = observer.images(images, torch.full((6, 3), torch.nan), seeded())
    assert torch.equal(mask.sum(dim=(2, 3)), torch.isnan(images).sum(dim=(2, 3)))
    assert torch.isfinite(inputs).all()
    for image, result in zip(images.numpy(), inputs.numpy(), strict=True):
        flux = np.sinh(2 * result) / np.array([20.0, 12.0, 6.0])[:, None, None]
        known = np.nan_to_num(image)
        assert any(np.allclose(flux, turned, atol=1e-5) for turned in orientations(known))


def test_bad_pixels_of_recorded_images_do_not_spread_when_blurred():
    images = torch.rand(4, 3, 16, 16, generator=seeded())
    images[:, 1, 5, 5] = torch.nan
    observer = AugmentingObserver(largest_shift=0, missing_band_share=0.0)
    inputs, mask = observer.images(images, torch.full((4, 3), torch.nan), seeded())
    assert mask.sum() == 4
    assert torch.isfinite(inputs).all()
