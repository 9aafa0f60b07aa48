"""Real pairs as a training step sees them: what was recorded, made worse but never better."""

import torch

from astroclip.simulation._draws import normal, uniform
from astroclip.simulation.instruments import ObservedSpectra
from astroclip.training.augmentations import rotate_and_flip_images
from astroclip.training.data import Observer, full_precision, image_inputs

__all__ = ["Recorded"]

LEAST_KEPT = 0.3  # of a spectrum's valid pixels when its ends are cut
LARGEST_CUT = 0.4  # of the range, at either end


class Recorded:
    """Passes recorded pairs on, with augmentation that invents no signal.

    It stands in for `~astroclip.training.data.Observer` where pairs come from a survey and
    are noisy already. Each spectrum and image may get more noise, lose the ends of its
    range or a band, be tilted, turned and flipped; what is masked stays masked, and no
    pixel's signal-to-noise ratio is believed to be higher than it was recorded.

    Parameters
    ----------
    extra_noise : float
        Largest standard deviation of the noise added, in units of what is there already,
        uniform from zero for each spectrum and image.
    cut_share : float
        Fraction of spectra whose range is cut, by up to two fifths at each end.
    tilt : float
        Scatter of the natural logarithm of the flux calibration from the middle of the
        range to its ends.
    missing_band_share : float
        Fraction of images that lose one band.
    transform_images : bool
        Rotate and flip each image at random.
    noiseless : `~astroclip.training.data.Observer`, optional
        Records the noiseless pairs among the others, a plain one by default.

    See Also
    --------
    astroclip.training.sources.read_source : which pairs are noiseless
    """

    def __init__(
        self, *, extra_noise=0.0, cut_share=0.0, tilt=0.0, missing_band_share=0.0,
        transform_images=False, noiseless=None,
    ):
        self.extra_noise = extra_noise
        self.cut_share = cut_share
        self.tilt = tilt
        self.missing_band_share = missing_band_share
        self.transform_images = transform_images
        self.noiseless = Observer() if noiseless is None else noiseless

    @full_precision
    def spectra(self, flux, generator, *, ivar=None, mask=None, varied_share=None):
        """Return `ObservedSpectra` of recorded ones.

        Parameters
        ----------
        flux : (N, P) `torch.Tensor`
            1e-17 erg/s/cm2/A on the model's grid.
        generator : `torch.Generator`
        ivar, mask : (N, P) `torch.Tensor`, optional
            Inverse variance, and not zero where bad. Spectra of infinite ivar throughout,
            or all if there is none, are noiseless and go through an instrument first.
        varied_share : (N,) `torch.Tensor`, optional
            As the observer of noiseless spectra takes it.

        Returns
        -------
        `~astroclip.simulation.spectrographs.ObservedSpectra`
            Zero flux and ivar where the mask of a recorded spectrum is True.
        """
        if ivar is None:
            return self.noiseless.spectra(flux, generator, varied_share=varied_share)
        awaiting = torch.isinf(ivar).all(dim=1)
        parts = {}
        if not awaiting.all():
            chosen = ~awaiting
            good = mask[chosen] == 0
            parts[False] = self._degraded(flux[chosen], ivar[chosen], good, generator)
        if awaiting.any():
            share = None if varied_share is None else varied_share[awaiting]
            parts[True] = self.noiseless.spectra(flux[awaiting], generator, varied_share=share)
        merged = (
            _merged(awaiting, {kind: getattr(part, name) for kind, part in parts.items()})
            for name in ("flux", "ivar", "mask")
        )
        return ObservedSpectra(*merged)

    def _degraded(self, flux, ivar, good, generator):
        """Return recorded spectra with augmentation."""
        good = good & torch.isfinite(flux) & torch.isfinite(ivar) & (ivar > 0)
        shape = (len(flux), 1)
        if self.cut_share:
            good = self._cut(good, generator)
        flux, ivar = torch.where(good, flux, 0.0), torch.where(good, ivar, 0.0)
        if self.extra_noise:
            share = uniform(generator, shape, 0, self.extra_noise)
            sigma = torch.where(good, ivar, 1.0).rsqrt() * good
            flux = flux + share * sigma * normal(generator, flux.shape)
            ivar = ivar / (1 + share**2)
        if self.tilt:
            along = torch.linspace(-1, 1, flux.shape[1], device=flux.device)
            response = torch.exp(normal(generator, shape, self.tilt) * along)
            flux, ivar = flux * response, ivar / response**2
        return ObservedSpectra(flux, ivar, ~good)

    def _cut(self, good, generator):
        """Return valid pixels (N, P) inside a range cut at random, where enough stay."""
        n_spectra, n_pixels = good.shape
        draw = uniform(generator, (3, n_spectra, 1))
        ends = LARGEST_CUT * n_pixels * draw[1:] * (draw[0] < self.cut_share)
        pixel = torch.arange(n_pixels, device=good.device)
        kept = good & (pixel >= ends[0]) & (pixel < n_pixels - ends[1])
        enough = kept.sum(dim=1) >= LEAST_KEPT * good.sum(dim=1)
        return torch.where(enough[:, None], kept, good)

    @full_precision
    def images(self, pixels, seeing, generator):
        """Return network input (N, 3, S, S) and mask of recorded images.

        Parameters
        ----------
        pixels : (N, 3, S, S) `torch.Tensor`
            Nanomaggies per pixel, NaN where bad.
        seeing : (N, 3) `torch.Tensor`
            NaN for recorded images; those with seeing, arcsec, are noiseless and are
            recorded first.
        generator : `torch.Generator`

        Returns
        -------
        inputs : (N, 3, S, S) `torch.Tensor`
            As `~astroclip.training.data.image_inputs` scales them, zero where masked.
        mask : (N, 3, S, S) bool `torch.Tensor`
            True where bad.
        """
        awaiting = torch.isfinite(seeing).all(dim=1)
        parts = {}
        if not awaiting.all():
            parts[False] = self._degraded_images(pixels[~awaiting], generator)
        if awaiting.any():
            parts[True] = self.noiseless.images(pixels[awaiting], seeing[awaiting], generator)
        inputs, masks = ({kind: part[k] for kind, part in parts.items()} for k in range(2))
        return _merged(awaiting, inputs), _merged(awaiting, masks)

    def _degraded_images(self, pixels, generator):
        """Return network input and mask of recorded images with augmentation."""
        if self.extra_noise:
            share = uniform(generator, (len(pixels), 1, 1, 1), 0, self.extra_noise)
            pixels = pixels + share * _pixel_noise(pixels) * normal(generator, pixels.shape)
        if self.transform_images:
            pixels = rotate_and_flip_images(pixels, generator)
        mask = ~torch.isfinite(pixels)
        if self.missing_band_share:
            mask = self._lose_bands(mask, generator)
        return image_inputs(torch.where(mask, 0.0, pixels)), mask

    def _lose_bands(self, mask, generator):
        """Return the mask with one band lost in some of the images that have another."""
        n_images, n_bands = mask.shape[:2]
        draw = uniform(generator, (n_images,))
        band = torch.randint(n_bands, (n_images,), generator=generator, device=generator.device)
        own = torch.nn.functional.one_hot(band, n_bands).bool()
        others = ((~mask).any(dim=(2, 3)) & ~own).any(dim=1)
        lost = own & ((draw < self.missing_band_share) & others)[:, None]
        return mask | lost[:, :, None, None]


def _merged(chosen, parts):
    """Return rows of ``parts[True]`` where ``chosen`` is True and of ``parts[False]`` elsewhere."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    values = parts[True]
    merged = values.new_empty((len(chosen), *values.shape[1:]))
    merged[chosen], merged[~chosen] = values, parts[False]
    return merged


def _pixel_noise(pixels):
    """Return the noise (N, 3, 1, 1) of images: the scatter between neighbouring pixels."""
    steps = (pixels[..., 1:] - pixels[..., :-1]).flatten(2).abs()
    noise = 1.4826 / 2**0.5 * steps.nanmedian(dim=2).values
    return noise.nan_to_num(0.0)[:, :, None, None]

