"""What a camera records: depth, correlated noise, seeing, bad pixels and missing bands.

Noiseless images are stored once and observed afresh whenever they are used. Everything
here is torch, driven by one `torch.Generator`, so a seed fixes every draw.
"""

import dataclasses
import math

import torch

from astroclip.simulation._draws import log_uniform, normal, uniform

__all__ = [
    "ObservedImages",
    "observe_images",
    "observe_images_sdss",
    "observe_images_varied",
]

DEPTHS = (24.6, 24.0, 23.0)  # 5 sigma point source, AB, DR9 g r z
POISSON = (0.6e-4, 0.9e-4, 2.4e-4)  # variance per nanomaggy of signal, DR9 g r z
SDSS_DEPTHS = (23.13, 22.70, 20.71)  # 5 sigma point source, AB, g r z
SDSS_SEEING = ((1.50, 1.43, 1.40), 0.2)  # FWHM: medians and scatter, arcsec
SDSS_POISSON = (1.0e-3, 0.7e-3, 7.0e-3)  # one 54 s exposure with a 2.5 m telescope
FWHM = 2.355  # of a Gaussian of unit standard deviation


@dataclasses.dataclass(frozen=True)
class ObservedImages:
    """Recorded images: ``pixels`` in nanomaggies and ``mask`` (True = bad), each (N, 3, S, S)."""

    pixels: torch.Tensor
    mask: torch.Tensor


def _correlated_noise(generator, shape, weight):
    """Return noise (N, B, S, S) of unit variance, correlated between neighbouring pixels.

    Rows and columns are convolved with (w, 1, w): the correlation at a lag of one pixel
    is 2 w / (1 + 2 w^2).
    """
    n, n_bands, size, _ = shape
    noise = normal(generator, (n, n_bands, size + 2, size + 2))
    noise = weight * (noise[:, :, :-2] + noise[:, :, 2:]) + noise[:, :, 1:-1]
    noise = weight * (noise[..., :-2] + noise[..., 2:]) + noise[..., 1:-1]
    return noise / (1 + 2 * weight**2)


def _add_noise(pixels, noise, seeing, depth, poisson, pixel_scale):
    """Return images with sky noise of a 5-sigma ``depth`` (N, 3) and photon noise."""
    effective_area = 4 * math.pi * (seeing / FWHM / pixel_scale) ** 2
    sky = 10 ** (-0.4 * (depth - 22.5)) / 5 / torch.sqrt(effective_area)
    photons = torch.tensor(poisson, device=pixels.device)[None, :, None, None]
    variance = sky[:, :, None, None] ** 2 + photons * pixels.clamp(min=0)
    return pixels + torch.sqrt(variance) * noise, sky


def observe_images(pixels, seeing, generator, *, pixel_scale=0.524, depths=DEPTHS):
    """Record images at the depth of the Legacy Surveys' DR9.

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
        Mean 5-sigma point-source depths; each image's differ by 0.3 mag rms.

    Returns
    -------
    `ObservedImages`
        The noise is correlated between neighbouring pixels, as in resampled coadds.
    """
    n, n_bands = pixels.shape[:2]
    depth = torch.tensor(depths, device=pixels.device) + normal(generator, (n, n_bands), 0.3)
    weight = 0.38 * uniform(generator, (n, 1, 1, 1), 0, 1) ** 3
    noise = _correlated_noise(generator, pixels.shape, weight)
    recorded, _ = _add_noise(pixels, noise, seeing, depth, POISSON, pixel_scale)
    return ObservedImages(recorded, torch.zeros_like(recorded, dtype=torch.bool))


def _cosines(size, device):
    """Return the orthonormal cosine basis (S, S), frequency by pixel, and its frequencies."""
    order = torch.arange(size, device=device, dtype=torch.float32)
    basis = torch.cos(math.pi / size * order[:, None] * (order[None] + 0.5))
    basis = basis * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis, math.pi / size * order


def _blur(pixels, width):
    """Return images convolved with Gaussians of ``width`` (N, B) pixels, reflected at edges."""
    basis, frequency = _cosines(pixels.shape[-1], pixels.device)
    transfer = torch.exp(-0.5 * (width[..., None] * frequency) ** 2)
    coefficients = basis @ pixels @ basis.T
    coefficients = coefficients * transfer[..., :, None] * transfer[..., None, :]
    return basis.T @ coefficients @ basis


def _rescale(pixels, factor):
    """Return images magnified about their centres by ``factor`` (N,), total flux kept.

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
    pixels, seeing, generator, *, pixel_scale=0.524, depths=DEPTHS, depth_range=(-1.0, 0.5),
    largest_blur=1.2, scale_error=0.04, star_share=0.1, missing_band_share=0.1,
):
    """Record images with a camera drawn at random for each: domain randomisation.

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
    scale_error : float
        Largest relative error of the pixel scale.
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
    factor = 1 + uniform(generator, (n,), -scale_error, scale_error)
    seen = _rescale(_blur(pixels, blur / FWHM / pixel_scale), factor)
    seeing = torch.sqrt((seeing * factor[:, None]) ** 2 + blur**2)

    depth = torch.tensor(depths, device=pixels.device) + normal(generator, shape, 0.2)
    depth = depth + uniform(generator, (n, 1), *depth_range)
    weight = 0.4 * uniform(generator, (n, 1, 1, 1)) ** 2
    noise = _correlated_noise(generator, pixels.shape, weight)
    recorded, sky = _add_noise(seen, noise, seeing, depth, POISSON, pixel_scale)
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


def observe_images_sdss(pixels, seeing, generator, *, pixel_scale=0.524):
    """Record images as shallow and as blurred as the SDSS's, resampled to ``pixel_scale``.

    Parameters
    ----------
    pixels : (N, 3, S, S) `torch.Tensor`
        Noiseless g, r, z in nanomaggies per pixel.
    seeing : (N, 3) `torch.Tensor`
        Full width at half maximum in arcsec; where the SDSS's drawn one is smaller, the
        image keeps its own.
    generator : `torch.Generator`
    pixel_scale : float
        Arcsec per pixel.

    Returns
    -------
    `ObservedImages`
        The 5-sigma point-source depths are 23.13, 22.70 and 20.71 (AB) in g, r and z, with
        0.15 mag rms; the median seeing in r is 1.43 arcsec.

    References
    ----------
    Depths and seeing: the SDSS's pages on image quality (sdss.org, imaging; DR7 and later);
    camera: Gunn et al. (1998), AJ 116, 3040.
    """
    n, n_bands = pixels.shape[:2]
    shape = (n, n_bands)
    medians, scatter = SDSS_SEEING
    night = normal(generator, (n, 1), scatter).clamp(-0.4, 0.5)  # bands are taken together
    wanted = torch.tensor(medians, device=pixels.device) + night
    blur = torch.sqrt((wanted**2 - seeing**2).clamp(min=0))
    seen = _blur(pixels, blur / FWHM / pixel_scale)
    depth = torch.tensor(SDSS_DEPTHS, device=pixels.device) + normal(generator, shape, 0.15)
    weight = uniform(generator, (n, 1, 1, 1), 0.05, 0.25)  # of the resampling
    noise = _correlated_noise(generator, pixels.shape, weight)
    recorded, _ = _add_noise(
        seen, noise, torch.maximum(wanted, seeing), depth, SDSS_POISSON, pixel_scale
    )
    return ObservedImages(recorded, torch.zeros_like(recorded, dtype=torch.bool))
