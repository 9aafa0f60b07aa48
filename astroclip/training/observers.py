"""How training sees pairs: light through an instrument, survey data with noise added at most.

`Observer` records pairs, `AugmentingObserver` changes images before it records them, and
`encode_pairs` records a whole data set once and encodes it.
"""

import dataclasses
import functools
import math

import numpy as np
import torch
from torch.nn import functional

from astroclip.models.small import ARCSINH_SCALES
from astroclip.preparation.bands import EXTINCTION
from astroclip.simulation.cameras import observe_images, observe_images_varied
from astroclip.simulation.numerics import normal, uniform
from astroclip.simulation.spectrographs import (
    ObservedSpectra,
    noise_templates,
    observe_spectra_desi,
    observe_spectra_sdss,
    observe_spectra_varied,
)

__all__ = [
    "AugmentingObserver",
    "Observer",
    "Recording",
    "blur_images",
    "encode_pairs",
    "image_inputs",
    "redden_images",
    "rotate_and_flip_images",
    "shift_images",
]

PIXEL_SCALE = 0.524  # arcsec, of the images that training uses
FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))
SIGMA_PER_MEDIAN = 1.4826 / math.sqrt(2)
"""Standard deviation of Gaussian noise over the median absolute difference of two pixels."""


def image_inputs(pixels):
    """Return g, r, z nanomaggies (N, 3, S, S) scaled as `normalize_images` does for "asinh".

    The same formula in torch, for use on the training device.
    """
    scales = torch.tensor(ARCSINH_SCALES, device=pixels.device)[None, :, None, None]
    return torch.asinh(pixels * scales) / 2


def _full_precision(record):
    """Make a method record light in its own precision under autocast.

    bfloat16 would round fluxes to three digits, and mix types.
    """

    @functools.wraps(record)
    def recorded(observer, light, *arguments, **options):
        with torch.autocast(light.device.type, enabled=False):
            return record(observer, light, *arguments, **options)

    return recorded


class Observer:
    """Records pairs: noiseless light by an instrument, survey data with noise added at most.

    Noiseless light goes through the survey's instrument, SDSS's, or one drawn at random.
    What a survey recorded is noisy already: it may get more noise, lose a band and be turned;
    masked pixels stay masked, and no pixel's signal-to-noise ratio rises.

    Parameters
    ----------
    varied_share, sdss_share : float
        Fractions of noiseless spectra recorded by
        `~astroclip.simulation.spectrographs.observe_spectra_varied` and by
        `~astroclip.simulation.spectrographs.observe_spectra_sdss`; the rest by
        `~astroclip.simulation.spectrographs.observe_spectra_desi`.
    varied_image_share : float
        Fraction of noiseless images recorded by
        `~astroclip.simulation.cameras.observe_images_varied`; the rest by
        `~astroclip.simulation.cameras.observe_images`.
    missing_band_share : float
        Fraction of images that lose one band.
    extra_noise : float
        Largest standard deviation of the noise added to recorded spectra and images, in units
        of the noise that they have; uniform from zero for each.
    transform_images : bool
        Rotate and flip images at random.
    **varied
        Options of `~astroclip.simulation.spectrographs.observe_spectra_varied`.

    See Also
    --------
    astroclip.training.sources.read_source : tells noiseless from recorded pairs
    """

    def __init__(
        self, *, varied_share=0.0, sdss_share=0.0, varied_image_share=0.0,
        missing_band_share=0.0, extra_noise=0.0, transform_images=False, **varied,
    ):
        self.varied_share = varied_share
        self.sdss_share = sdss_share
        self.varied_image_share = varied_image_share
        self.missing_band_share = missing_band_share
        self.extra_noise = extra_noise
        self.transform_images = transform_images
        self.varied = varied
        self.templates = noise_templates()

    @_full_precision
    def spectra(self, flux, generator, *, ivar=None, mask=None, varied_share=None):
        """Return spectra as they are recorded.

        Parameters
        ----------
        flux : (N, P) `torch.Tensor`
            1e-17 erg/s/cm2/A on the model's grid.
        generator : `torch.Generator`
        ivar, mask : (N, P) `torch.Tensor`, optional
            Inverse variance, and not zero where bad. Spectra of infinite ivar throughout,
            or all if ivar is missing, are noiseless.
        varied_share : (N,) `torch.Tensor`, optional
            Replaces the observer's own, galaxy by galaxy.

        Returns
        -------
        `~astroclip.simulation.spectrographs.ObservedSpectra`
            Zero flux and ivar where the mask of a recorded spectrum is True.
        """
        share = torch.full((len(flux),), self.varied_share, device=flux.device)
        share = share if varied_share is None else varied_share
        if ivar is None:
            return self._noiseless_spectra(flux, share, generator)
        noiseless = torch.isinf(ivar).all(dim=1)
        return ObservedSpectra(
            *_joined_rows(
                (~noiseless, lambda rows: self._noisier_spectra(
                    flux[rows], ivar[rows], mask[rows], generator
                )),
                (noiseless, lambda rows: _parts(
                    self._noiseless_spectra(flux[rows], share[rows], generator)
                )),
            )
        )

    def _noiseless_spectra(self, flux, varied_share, generator):
        """Return `ObservedSpectra` of noiseless ones, each through one of three instruments."""
        draw = torch.rand(len(flux), generator=generator, device=flux.device)
        varied = draw < varied_share
        sdss = ~varied & (draw < varied_share + self.sdss_share)
        options = {"templates": self.templates.to(flux.device)}

        def by(instrument, **more):
            return lambda rows: _parts(instrument(flux[rows], generator, **options, **more))

        return ObservedSpectra(
            *_joined_rows(
                (varied, by(observe_spectra_varied, **self.varied)),
                (sdss, by(observe_spectra_sdss)),
                (~(varied | sdss), by(observe_spectra_desi)),
            )
        )

    def _noisier_spectra(self, flux, ivar, mask, generator):
        """Return flux, ivar and mask of recorded spectra with noise added."""
        good = (mask == 0) & torch.isfinite(flux) & torch.isfinite(ivar) & (ivar > 0)
        flux, ivar = torch.where(good, flux, 0.0), torch.where(good, ivar, 0.0)
        if self.extra_noise:
            share = uniform(generator, (len(flux), 1), 0, self.extra_noise)
            sigma = torch.where(good, ivar, 1.0).rsqrt() * good
            flux = flux + share * sigma * normal(generator, flux.shape)
            ivar = ivar / (1 + share**2)
        return flux, ivar, ~good

    @_full_precision
    def images(self, pixels, seeing, generator):
        """Return network inputs and masks of images.

        Parameters
        ----------
        pixels : (N, 3, S, S) `torch.Tensor`
            g, r, z in nanomaggies per pixel, NaN where bad.
        seeing : (N, 3) `torch.Tensor`
            Full width at half maximum in arcsec of noiseless images; NaN for recorded ones.
        generator : `torch.Generator`

        Returns
        -------
        inputs : (N, 3, S, S) `torch.Tensor`
            As `image_inputs` scales them, zero where masked.
        mask : (N, 3, S, S) bool `torch.Tensor`
            True where bad.
        """
        noiseless = torch.isfinite(seeing).all(dim=1)
        return tuple(
            _joined_rows(
                (~noiseless, lambda rows: self._noisier_images(pixels[rows], generator)),
                (noiseless, lambda rows: self._noiseless_images(
                    pixels[rows], seeing[rows], generator
                )),
            )
        )

    def _noiseless_images(self, pixels, seeing, generator):
        """Return inputs and masks of noiseless images, each through one of two cameras."""
        draw = torch.rand(len(pixels), generator=generator, device=pixels.device)
        varied = draw < self.varied_image_share

        def by(camera):
            return lambda rows: _parts(camera(pixels[rows], seeing[rows], generator))

        recorded, mask = _joined_rows(
            (varied, by(observe_images_varied)), (~varied, by(observe_images))
        )
        inputs = image_inputs(recorded)
        if self.missing_band_share:
            n, n_bands = mask.shape[:2]
            lost = uniform(generator, (n, 1)) < self.missing_band_share
            band = torch.randint(n_bands, (n, 1), generator=generator, device=generator.device)
            chosen = torch.arange(n_bands, device=mask.device) == band
            mask = mask | (lost & chosen)[:, :, None, None]
        inputs = inputs.masked_fill(mask, 0.0)
        if self.transform_images:  # all images of a batch alike, which costs nothing
            turns = int(torch.randint(8, (1,), generator=generator, device=generator.device))
            inputs, mask = (torch.rot90(part, turns % 4, (2, 3)) for part in (inputs, mask))
            if turns >= 4:
                inputs, mask = inputs.flip(3), mask.flip(3)
        return inputs, mask

    def _noisier_images(self, pixels, generator):
        """Return inputs and masks of recorded images with noise added."""
        if self.extra_noise:
            steps = (pixels[..., 1:] - pixels[..., :-1]).flatten(2).abs()
            noise = (SIGMA_PER_MEDIAN * steps.nanmedian(dim=2).values).nan_to_num(0.0)
            share = uniform(generator, (len(pixels), 1, 1, 1), 0, self.extra_noise)
            pixels = pixels + share * noise[:, :, None, None] * normal(generator, pixels.shape)
        if self.transform_images:
            pixels = rotate_and_flip_images(pixels, generator)
        mask = ~torch.isfinite(pixels)
        if self.missing_band_share:  # lost only where another band has data
            n, n_bands = mask.shape[:2]
            draw = uniform(generator, (n,))
            band = torch.randint(n_bands, (n,), generator=generator, device=generator.device)
            own = functional.one_hot(band, n_bands).bool()
            others = ((~mask).any(dim=(2, 3)) & ~own).any(dim=1)
            lost = own & ((draw < self.missing_band_share) & others)[:, None]
            mask = mask | lost[:, :, None, None]
        return image_inputs(torch.where(mask, 0.0, pixels)), mask


def _parts(observed):
    """Return the tensors of `ObservedSpectra` or ``ObservedImages``."""
    return tuple(vars(observed).values())


def _joined_rows(*choices):
    """Return tensors (N, ...) whose rows are made in different ways.

    Each choice is a mask (N,) of rows and a function that takes the numbers of these rows and
    returns the tensors' parts; it is called where a row is chosen, one choice after another.
    """
    joined = None
    for chosen, make in choices:
        rows = torch.nonzero(chosen)[:, 0]
        if not len(rows):
            continue
        parts = make(rows)
        if joined is None:
            joined = [part.new_empty((len(chosen), *part.shape[1:])) for part in parts]
        for whole, part in zip(joined, parts, strict=True):
            whole[rows] = part
    return joined


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
    """

    def __init__(
        self, *, mean_reddening=0.03, largest_blur=0.8, largest_shift=1, missing_band_share=0.02,
        extra_noise=0.5,
    ):
        self.mean_reddening = mean_reddening
        self.largest_blur = largest_blur
        self.largest_shift = largest_shift
        self.observer = Observer(extra_noise=extra_noise, missing_band_share=missing_band_share)

    @_full_precision
    def images(self, pixels, seeing, generator):
        """Return network inputs and masks of images; see `Observer.images`."""
        n = len(pixels)
        reddening = -self.mean_reddening * torch.log1p(-uniform(generator, (n,)))
        blur = uniform(generator, seeing.shape, 0.0, self.largest_blur)
        bad = ~torch.isfinite(pixels)
        pixels = redden_images(pixels.masked_fill(bad, 0.0), reddening)
        pixels = blur_images(pixels, blur)
        pixels = pixels.masked_fill(bad, torch.nan)
        pixels = rotate_and_flip_images(pixels, generator)
        pixels, outside = shift_images(pixels, generator, largest=self.largest_shift)
        inputs, mask = self.observer.images(pixels, torch.hypot(seeing, blur), generator)
        mask = mask | outside
        return inputs.masked_fill(mask, 0.0), mask


def rotate_and_flip_images(pixels, generator):
    """Return each image (N, B, S, S) in one of the eight orientations of a square, all as likely.

    The bands of an image are turned together.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.observers import rotate_and_flip_images
    >>> images = torch.eye(4)[None, None]
    >>> float(rotate_and_flip_images(images, torch.Generator().manual_seed(1)).sum())
    4.0
    """
    shape = (3, len(pixels), 1, 1, 1)
    coins = torch.randint(2, shape, generator=generator, device=generator.device) == 1
    # a transposition and two flips generate all rotations and reflections
    pixels = torch.where(coins[0], pixels.transpose(2, 3), pixels)
    pixels = torch.where(coins[1], pixels.flip(2), pixels)
    return torch.where(coins[2], pixels.flip(3), pixels)


def shift_images(pixels, generator, *, largest):
    """Return images moved by whole pixels, and where nothing is known any more.

    Parameters
    ----------
    pixels : (N, B, S, S) `torch.Tensor`
    generator : `torch.Generator`
    largest : int
        Most pixels, in both directions; rows and columns move independently.

    Returns
    -------
    moved : (N, B, S, S) `torch.Tensor`
        Zero where the image ended.
    mask : (N, B, S, S) bool `torch.Tensor`
        True there.
    """
    n, n_bands, size, _ = pixels.shape
    shift = torch.randint(
        -largest, largest + 1, (2, n, 1), generator=generator, device=generator.device
    )
    source = torch.arange(size, device=pixels.device) + shift  # (2, N, S)
    inside = (source >= 0) & (source < size)
    rows, columns = source.clamp(0, size - 1)
    rows = rows[:, None, :, None].expand(-1, n_bands, -1, size)
    columns = columns[:, None, None, :].expand(-1, n_bands, size, -1)
    moved = pixels.gather(2, rows).gather(3, columns)
    mask = ~(inside[0][:, None, :, None] & inside[1][:, None, None, :]).expand_as(moved)
    return moved.masked_fill(mask, 0.0), mask


def blur_images(pixels, fwhm):
    """Convolve images with round Gaussians, one for each image and band.

    Parameters
    ----------
    pixels : (N, B, S, S) `torch.Tensor`
        Of 0.524 arcsec.
    fwhm : (N, B) `torch.Tensor`
        Full widths at half maximum in arcsec; zero leaves the image as it is.

    Returns
    -------
    (N, B, S, S) `torch.Tensor`
        Near the edges the weights of the pixels inside are scaled to a sum of one: a flat
        background stays flat.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.observers import blur_images
    >>> flat = blur_images(torch.ones(1, 1, 8, 8), torch.tensor([[2.0]]))
    >>> bool(torch.allclose(flat, torch.ones(1, 1, 8, 8)))
    True
    """
    sigma = (fwhm / FWHM_PER_SIGMA / PIXEL_SCALE).clamp(min=1e-3)[:, :, None, None]
    axis = torch.arange(pixels.shape[-1], device=pixels.device, dtype=pixels.dtype)
    weight = torch.exp(-0.5 * ((axis[:, None] - axis) / sigma) ** 2)
    weight = weight / weight.sum(dim=3, keepdim=True)  # (N, B, S, S), a row for every pixel
    return weight @ pixels @ weight.transpose(2, 3)


def redden_images(pixels, reddening):
    """Dim g, r and z images by the dust of our own Galaxy.

    Parameters
    ----------
    pixels : (N, 3, S, S) `torch.Tensor`
        Nanomaggies, any linear unit.
    reddening : (N,) `torch.Tensor`
        E(B-V) in magnitudes.

    Returns
    -------
    (N, 3, S, S) `torch.Tensor`
        ``pixels * 10 ** (-0.4 * A)`` with A / E(B-V) = 3.214, 2.165, 1.211: the inverse of
        `~astroclip.preparation.bands.deredden`.

    References
    ----------
    Coefficients: Schlafly & Finkbeiner (2011), ApJ 737, 103, as listed by the Legacy Surveys.
    As an augmentation: Hayat et al. (2021), arXiv:2101.04293.
    """
    coefficients = torch.tensor([EXTINCTION[band] for band in "grz"]).to(pixels)
    extinction = reddening[:, None, None, None] * coefficients[:, None, None]
    return pixels * 10 ** (-0.4 * extinction)


@dataclasses.dataclass
class Recording:
    """A batch of pairs as an observer recorded them.

    Attributes
    ----------
    spectra : `~astroclip.simulation.spectrographs.ObservedSpectra` or None
        flux, ivar and mask (N, P); None where the pairs have no spectra.
    pixels, pixel_mask : (N, 3, S, S) `torch.Tensor` or None
        Network inputs and True where they are bad; None where the pairs have no images.
    redshift : (N,) `torch.Tensor` or None
    """

    spectra: ObservedSpectra | None
    pixels: torch.Tensor | None
    pixel_mask: torch.Tensor | None
    redshift: torch.Tensor | None


@torch.inference_mode()
def encode_pairs(encode, pairs, *, observer=None, seed=0, batch_size=250):
    """Record every pair once and return what an encoder makes of them.

    Parameters
    ----------
    encode : callable
        Takes a `Recording` and returns arrays or tensors (N, ...) by name.
    pairs : dict of str to `numpy.ndarray`
        As `~astroclip.training.sources.read_source` returns them: ``spectrum``, or ``image``
        and ``seeing``, or both; ``ivar`` and ``mask`` of recorded spectra; ``redshift`` if
        ``encode`` uses it; ``varied_share`` to replace the observer's.
    observer : `Observer`, optional
        The survey's instruments alone by default.
    seed : int
        Fixes instruments and noise.
    batch_size : int
        Pairs in memory at a time. The draws depend on it.

    Returns
    -------
    dict of str to `numpy.ndarray`
        In the order of the pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.training.observers import encode_pairs
    >>> pairs = {"spectrum": np.ones((3, 4360), np.float32)}
    >>> seen = encode_pairs(lambda seen: {"flux": seen.spectra.flux}, pairs, batch_size=2)
    >>> seen["flux"].shape
    (3, 4360)
    """
    observer = Observer() if observer is None else observer
    generator = torch.Generator().manual_seed(seed)
    fields = ("spectrum", "ivar", "mask", "varied_share", "image", "seeing", "redshift")
    fields = [name for name in fields if name in pairs]
    n_pairs, encoded = len(pairs[fields[0]]), []
    for first in range(0, n_pairs, batch_size):
        batch = {
            name: torch.from_numpy(pairs[name][first : first + batch_size]).float()
            for name in fields
        }
        seen = Recording(None, None, None, batch.get("redshift"))
        if "spectrum" in batch:
            errors = {
                name: batch[name] for name in ("ivar", "mask", "varied_share") if name in batch
            }
            seen.spectra = observer.spectra(batch["spectrum"], generator, **errors)
        if "image" in batch:
            seen.pixels, seen.pixel_mask = observer.images(
                batch["image"], batch["seeing"], generator
            )
        encoded.append(encode(seen))
    return {
        name: np.concatenate([np.asarray(part[name]) for part in encoded]) for name in encoded[0]
    }
