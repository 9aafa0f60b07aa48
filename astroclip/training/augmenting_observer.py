"""Images as momentum contrast sees them: changed at random, then recorded."""

import torch

from astroclip.simulation._draws import uniform
from astroclip.training.augmentations import (
    blur_images,
    redden_images,
    rotate_and_flip_images,
    shift_images,
)
from astroclip.training.data import Observer, full_precision
from astroclip.training.recorded import Recorded

__all__ = ["AugmentingObserver"]


class AugmentingObserver:
    """Records images after changing them at random: two views are two recordings of a galaxy.

    In this order: reddening, a wider point spread function, orientation, position; then
    noise for the seeing that results, and at times a missing band. Images that a survey
    recorded are noisy already and get no more than ``extra_noise``.

    Parameters
    ----------
    mean_reddening : float
        Mean E(B-V) in magnitudes of an exponential distribution.
    largest_blur : float
        Full width at half maximum in arcsec of the widest Gaussian; each image and band gets
        one from zero to this.
    largest_shift : int
        Pixels.
    missing_band_share : float
        Fraction of images that lose one band.
    extra_noise : float
        Largest noise added to recorded images, in units of theirs.
    pixel_scale : float
        Arcsec per pixel.
    """

    def __init__(
        self, *, mean_reddening=0.03, largest_blur=0.8, largest_shift=1, missing_band_share=0.02,
        extra_noise=0.5, pixel_scale=0.524,
    ):
        self.mean_reddening = mean_reddening
        self.largest_blur = largest_blur
        self.largest_shift = largest_shift
        self.pixel_scale = pixel_scale
        self.observer = Recorded(
            extra_noise=extra_noise,
            missing_band_share=missing_band_share,
            noiseless=Observer(missing_band_share=missing_band_share),
        )

    @full_precision
    def images(self, pixels, seeing, generator):
        """Return network input (N, 3, S, S) and mask of noiseless or recorded images.

        Parameters
        ----------
        pixels : (N, 3, S, S) `torch.Tensor`
            g, r, z in nanomaggies, NaN where bad.
        seeing : (N, 3) `torch.Tensor`
            Full width at half maximum in arcsec that they already have; NaN for recorded
            images.
        generator : `torch.Generator`

        Returns
        -------
        inputs : (N, 3, S, S) `torch.Tensor`
        mask : (N, 3, S, S) bool `torch.Tensor`
            True where the image has no data.
        """
        n = len(pixels)
        reddening = -self.mean_reddening * torch.log1p(-uniform(generator, (n,)))
        blur = uniform(generator, seeing.shape, 0.0, self.largest_blur)
        bad = ~torch.isfinite(pixels)
        pixels = redden_images(pixels.masked_fill(bad, 0.0), reddening)
        pixels = blur_images(pixels, blur, pixel_scale=self.pixel_scale)
        pixels = pixels.masked_fill(bad, torch.nan)
        pixels = rotate_and_flip_images(pixels, generator)
        pixels, outside = shift_images(pixels, generator, largest=self.largest_shift)
        inputs, mask = self.observer.images(pixels, torch.hypot(seeing, blur), generator)
        mask = mask | outside
        return inputs.masked_fill(mask, 0.0), mask
