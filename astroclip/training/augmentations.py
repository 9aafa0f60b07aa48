"""Changes of an image that leave its galaxy the same: what a survey could have seen instead.

Every function is pure: it takes images and a `torch.Generator`, and draws for each image on its
own. `~astroclip.training.augmenting_observer.AugmentingObserver` puts them together.
"""

import math

import torch

from astroclip.preparation.bands import EXTINCTION

__all__ = [
    "blur_images",
    "redden_images",
    "rotate_and_flip_images",
    "shift_images",
]

FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))


def rotate_and_flip_images(pixels, generator):
    """Return each image in one of the eight orientations of a square, all as likely.

    Parameters
    ----------
    pixels : (N, B, S, S) `torch.Tensor`
    generator : `torch.Generator`

    Returns
    -------
    (N, B, S, S) `torch.Tensor`
        The bands of an image are turned together.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.augmentations import rotate_and_flip_images
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


def blur_images(pixels, fwhm, *, pixel_scale=0.524):
    """Convolve images with round Gaussians, one for each image and band.

    Parameters
    ----------
    pixels : (N, B, S, S) `torch.Tensor`
    fwhm : (N, B) `torch.Tensor`
        Full widths at half maximum in arcsec; zero leaves the image as it is.
    pixel_scale : float
        Arcsec per pixel.

    Returns
    -------
    (N, B, S, S) `torch.Tensor`
        Near the edges the weights of the pixels inside are scaled to a sum of one: a flat
        background stays flat.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.augmentations import blur_images
    >>> flat = blur_images(torch.ones(1, 1, 8, 8), torch.tensor([[2.0]]))
    >>> bool(torch.allclose(flat, torch.ones(1, 1, 8, 8)))
    True
    """
    sigma = (fwhm / FWHM_PER_SIGMA / pixel_scale).clamp(min=1e-3)[:, :, None, None]
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
