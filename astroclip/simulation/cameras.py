"""What a camera records: depth, correlated noise, seeing, bad pixels and missing bands.

Noiseless images are stored once and observed afresh whenever they are used. Everything
here is torch, driven by one `torch.Generator`, so a seed fixes every draw. Cameras are data: to
add a survey's, add a line to `CAMERAS`.
"""

import dataclasses
import math

import torch

from astroclip._validation import check_choice
from astroclip.simulation.numerics import FWHM, log_uniform, normal, uniform

__all__ = [
    "CAMERAS",
    "Camera",
    "ObservedImages",
    "observe_images",
    "observe_images_varied",
]


@dataclasses.dataclass(frozen=True)
class Camera:
    """What a survey's camera does to noiseless g, r, z images.

    Attributes
    ----------
    depths : (float, float, float)
        Mean depths: magnitude (AB) of a point source of five times its noise.
    depth_scatter : float
        rms of an image's depths about them, mag.
    photon_variance : (float, float, float)
        Variance of the photon noise per nanomaggy of signal, nanomaggies.
    correlation : (float, float, float)
        The weight w of `_correlated_noise` is low + (high - low) u^p with a uniform u;
        resampling correlates the noise of neighboring pixels.
    seeing : (float, float, float), optional
        Median full widths at half maximum, arcsec, to which sharper images are blurred; by
        default images keep their own.
    seeing_scatter : float
        rms of the seeing about them, the same for all bands, arcsec.
    """

    depths: tuple
    depth_scatter: float
    photon_variance: tuple
    correlation: tuple
    seeing: tuple | None = None
    seeing_scatter: float = 0.0


SCALE_ERROR = 0.04  # largest relative error of the pixel scale of a varied camera
CAMERAS = {
    "legacysurvey": Camera(  # the Legacy Surveys' DR9
        depths=(24.6, 24.0, 23.0), depth_scatter=0.3, photon_variance=(0.6e-4, 0.9e-4, 2.4e-4),
        correlation=(0.0, 0.38, 3),
    ),
    # one exposure of 54 s with a 2.5 m telescope: depths and seeing of the SDSS's pages on image
    # quality (sdss.org, imaging; DR7 and later), camera of Gunn et al. (1998), AJ 116, 3040
    "sdss": Camera(
        depths=(23.13, 22.70, 20.71), depth_scatter=0.15, photon_variance=(1.0e-3, 0.7e-3, 7.0e-3),
        correlation=(0.05, 0.25, 1), seeing=(1.50, 1.43, 1.40), seeing_scatter=0.2,
    ),
}  # fmt: skip
"""Cameras by name."""


@dataclasses.dataclass(frozen=True)
class ObservedImages:
    """Recorded images: ``pixels`` in nanomaggies and ``mask`` (True = bad), each (N, 3, S, S)."""

    pixels: torch.Tensor
    mask: torch.Tensor


def _correlated_noise(generator, shape, weight):
    """Return noise (N, B, S, S) of unit variance, correlated between neighboring pixels.

    Rows and columns are convolved with (w, 1, w): the correlation at a lag of one pixel
    is 2 w / (1 + 2 w^2).
    """
    n, n_bands, size, _ = shape
    noise = normal(generator, (n, n_bands, size + 2, size + 2))
    noise = weight * (noise[:, :, :-2] + noise[:, :, 2:]) + noise[:, :, 1:-1]
    noise = weight * (noise[..., :-2] + noise[..., 2:]) + noise[..., 1:-1]
    return noise / (1 + 2 * weight**2)


def _add_noise(pixels, noise, seeing, depth, photon_variance, pixel_scale):
    """Return images with sky and photon noise, and the sky's rms (N, 3) per pixel.

    ``depth`` (N, 3) is the magnitude of a point source of five times its noise in the
    effective area of a Gaussian point spread function, 4 pi sigma^2.
    """
    effective_area = 4 * math.pi * (seeing / FWHM / pixel_scale) ** 2
    sky = 10 ** (-0.4 * (depth - 22.5)) / 5 / torch.sqrt(effective_area)
    photons = torch.tensor(photon_variance, device=pixels.device)[None, :, None, None]
    variance = sky[:, :, None, None] ** 2 + photons * pixels.clamp(min=0)
    return pixels + torch.sqrt(variance) * noise, sky


def observe_images(
    pixels, seeing, generator, *, camera="legacysurvey", pixel_scale=0.524, depths=None
):
    """Record images as a survey's camera does, resampled to ``pixel_scale``.

    Parameters
    ----------
    pixels : (N, 3, S, S) `torch.Tensor`
        Noiseless g, r, z in nanomaggies per pixel.
    seeing : (N, 3) `torch.Tensor`
        Full width at half maximum in arcsec. An image that is sharper than the camera's drawn
        seeing is blurred to it; others keep their own.
    generator : `torch.Generator`
    camera : str
        A name of `CAMERAS`: ``"legacysurvey"`` or ``"sdss"``.
    pixel_scale : float
        Arcsec per pixel.
    depths : sequence of float, optional
        Mean depths instead of the camera's.

    Returns
    -------
    `ObservedImages`
        The noise is correlated between neighboring pixels, as in resampled coadds.

    Raises
    ------
    ValueError
        If the camera is unknown.
    """
    camera = CAMERAS[check_choice(camera, CAMERAS, "camera")]
    n, n_bands = pixels.shape[:2]
    if camera.seeing is not None:
        # bands are taken together: one night's difference for all of them
        night = normal(generator, (n, 1), camera.seeing_scatter).clamp(-0.4, 0.5)
        wanted = torch.tensor(camera.seeing, device=pixels.device) + night
        blur = torch.sqrt((wanted**2 - seeing**2).clamp(min=0))
        pixels = _blur(pixels, blur / FWHM / pixel_scale)
        seeing = torch.maximum(wanted, seeing)
    depths = camera.depths if depths is None else depths
    depth = torch.tensor(depths, device=pixels.device)
    depth = depth + normal(generator, (n, n_bands), camera.depth_scatter)
    low, high, power = camera.correlation
    weight = low + (high - low) * uniform(generator, (n, 1, 1, 1)) ** power
    noise = _correlated_noise(generator, pixels.shape, weight)
    recorded, _ = _add_noise(pixels, noise, seeing, depth, camera.photon_variance, pixel_scale)
    return ObservedImages(recorded, torch.zeros_like(recorded, dtype=torch.bool))


def _blur(pixels, width):
    """Return images convolved with Gaussians of ``width`` (N, B) pixels, mirrored at edges.

    Mirrored rows are sums of cosines (the discrete cosine transform), each of which a Gaussian
    multiplies by its own Fourier transform: exact for widths far below a pixel, and as two
    products of small matrices faster than Fourier transforms of mirrored images.
    """
    size, device = pixels.shape[-1], pixels.device
    pixel = torch.arange(size, device=device, dtype=torch.float64)
    frequency = math.pi * pixel / size  # radians per pixel
    cosines = torch.cos(frequency[:, None] * (pixel + 0.5)) * math.sqrt(2 / size)
    cosines[0] /= math.sqrt(2)  # the rows are orthonormal
    cosines, frequency = cosines.to(pixels.dtype), frequency.to(pixels.dtype)
    transfer = torch.exp(-0.5 * (width[..., None] * frequency) ** 2)
    kernel = (cosines.T * transfer[..., None, :]) @ cosines  # (N, B, S, S), symmetric
    return kernel @ pixels @ kernel


def _rescale(pixels, factor):
    """Return images magnified about their centers by ``factor`` (N,), total flux kept.

    Pixels share their light by overlap; outside the image lies more of its outermost
    pixels.
    """
    size = pixels.shape[-1]
    edges = torch.arange(size + 1, device=pixels.device) - size / 2
    lower, upper = edges[:-1].clone(), edges[1:].clone()
    lower[0], upper[-1] = -size, size
    wanted = edges[None, :, None] / factor[:, None, None]
    first = torch.maximum(wanted[:, :-1], lower)
    overlap = (torch.minimum(wanted[:, 1:], upper) - first).clamp(min=0)[:, None]
    return overlap @ pixels @ overlap.transpose(-1, -2)


def _defects(generator, shape):
    """Return True (N, B, S, S) at single bad pixels and bad columns, different in each band."""
    n, n_bands, size, _ = shape
    rate = log_uniform(generator, (n, 1, 1, 1), 1e-4, 5e-3)
    bad = uniform(generator, shape) < rate
    column_rate = uniform(generator, (n, n_bands, 1, 1), 0, 0.01)
    return bad | (uniform(generator, (n, n_bands, 1, size)) < column_rate)


def _saturated_stars(generator, shape, share, pixel_scale):
    """Return masks (N, 1, S, S) of saturated stars with bleed trails, and their wings.

    The wings fall with the third power of the distance, one at the edge of the mask.
    """
    n, _, size, _ = shape
    draw = (n, 1, 1, 1)
    present = uniform(generator, draw) < share
    radius = log_uniform(generator, draw, 1.5, 8.0) / pixel_scale
    angle = uniform(generator, draw, 0, 2 * math.pi)
    # the object itself stays visible: the star's mask ends outside 3 arcsec
    distance = radius + uniform(generator, draw, 3.0 / pixel_scale, size / 2)
    axis = torch.arange(size, device=generator.device) - (size - 1) / 2
    x = axis[None, None, None, :] - distance * torch.cos(angle)
    y = axis[None, None, :, None] - distance * torch.sin(angle)
    separation = torch.sqrt(x**2 + y**2)
    trail = (x.abs() < 0.15 * radius) & (y.abs() < 3 * radius)
    trail = trail & (distance * torch.cos(angle).abs() > 0.15 * radius + 3.0 / pixel_scale)
    mask = present & ((separation < radius) | trail)
    return mask, present * (separation / radius).clamp(min=1.0) ** -3


def _missing_bands(generator, n_images, n_bands, share):
    """Return True (N, B) where a band was not observed; one at least always is."""
    lost = uniform(generator, (n_images, 1)) < share
    two = uniform(generator, (n_images, 1)) < 0.25
    order = torch.argsort(uniform(generator, (n_images, n_bands)), dim=1)
    return lost & (order < 1 + two.long()) & (order < n_bands - 1)


def observe_images_varied(
    pixels, seeing, generator, *, pixel_scale=0.524, depths=CAMERAS["legacysurvey"].depths,
    depth_range=(-1.0, 0.5), largest_blur=1.2, star_share=0.1, missing_band_share=0.1,
):
    """Record images with a camera drawn at random for each: domain randomization.

    Depth, seeing, sky background, the correlation of the noise, the pixel scale, bad
    pixels and columns, saturated stars and missing bands vary.

    Parameters
    ----------
    pixels : (N, 3, S, S) `torch.Tensor`
        Noiseless g, r, z in nanomaggies per pixel.
    seeing : (N, 3) `torch.Tensor`
        Full width at half maximum in arcsec.
    generator : `torch.Generator`
    pixel_scale : float
        Arcsec per pixel.
    depths : sequence of float
        5-sigma point-source depths that the depths vary about.
    depth_range : (float, float)
        Each image is deeper by a uniform number between these, mag; its bands
        differ by a further 0.2 mag rms.
    largest_blur : float
        Full width at half maximum of the largest additional blur, arcsec.
    star_share : float
        Fraction of images with a saturated star in or near them, masked with its trail.
    missing_band_share : float
        Fraction of images that lose one band, or two in a quarter of cases.

    Returns
    -------
    `ObservedImages`
        Masked pixels hold zero.
    """
    n, n_bands = pixels.shape[:2]
    shape = (n, n_bands)
    blur = uniform(generator, (n, 1), 0, largest_blur) * uniform(generator, shape, 0.7, 1.0)
    factor = 1 + uniform(generator, (n,), -SCALE_ERROR, SCALE_ERROR)
    seen = _rescale(_blur(pixels, blur / FWHM / pixel_scale), factor)
    seeing = torch.sqrt((seeing * factor[:, None]) ** 2 + blur**2)

    depth = torch.tensor(depths, device=pixels.device) + normal(generator, shape, 0.2)
    depth = depth + uniform(generator, (n, 1), *depth_range)
    weight = 0.4 * uniform(generator, (n, 1, 1, 1)) ** 2
    noise = _correlated_noise(generator, pixels.shape, weight)
    photons = CAMERAS["legacysurvey"].photon_variance
    recorded, sky = _add_noise(seen, noise, seeing, depth, photons, pixel_scale)
    sky = sky[:, :, None, None]
    background = normal(generator, (*shape, 1, 1), 0.25)
    slopes = normal(generator, (2, *shape, 1, 1), 0.15)
    x = torch.linspace(-1, 1, pixels.shape[-1], device=pixels.device)
    plane = background + slopes[0] * x[None, None, None, :] + slopes[1] * x[None, None, :, None]
    stars, wings = _saturated_stars(generator, pixels.shape, star_share, pixel_scale)
    recorded = recorded + sky * (plane + 5 * wings)

    mask = _defects(generator, pixels.shape) | stars
    mask = mask | _missing_bands(generator, n, n_bands, missing_band_share)[:, :, None, None]
    return ObservedImages(recorded.masked_fill(mask, 0.0), mask)
