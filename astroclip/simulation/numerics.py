"""What the simulator's modules share: constants, draws from a `torch.Generator`, Gaussian blur."""

import math

import torch

__all__ = [
    "FWHM",
    "LARGEST_FLUX",
    "SPEED_OF_LIGHT",
    "gaussian_blur",
    "log_uniform",
    "normal",
    "uniform",
]

FWHM = 2.355  # full width at half maximum of a Gaussian of unit standard deviation
LARGEST_FLUX = 6e4  # of a stored pixel, in its unit: float16 ends at 65504
SPEED_OF_LIGHT = 299792.458  # km/s


def uniform(generator, shape, low=0.0, high=1.0):
    """Return numbers uniform between ``low`` and ``high``, on the generator's device."""
    draw = torch.rand(shape, generator=generator, device=generator.device)
    return low + (high - low) * draw


def normal(generator, shape, scale=1.0):
    """Return Gaussian numbers of mean zero, on the generator's device."""
    return scale * torch.randn(shape, generator=generator, device=generator.device)


def log_uniform(generator, shape, low, high):
    """Return numbers whose logarithm is uniform, on the generator's device."""
    return torch.exp(uniform(generator, shape, math.log(low), math.log(high)))


def gaussian_blur(values, sigma):
    r"""Return values convolved with Gaussians along their last axis, which is periodic.

    Parameters
    ----------
    values : (..., P) `torch.Tensor`
        Pad it first where its ends must not see each other.
    sigma : (..., 1) `torch.Tensor`
        Standard deviations in pixels.

    Notes
    -----
    The transform is multiplied by that of the Gaussian, :math:`e^{-2 (\pi f \sigma)^2}`: exact for
    widths far below a pixel, where a sampled kernel is not.
    """
    n_pixels = values.shape[-1]
    frequency = torch.fft.rfftfreq(n_pixels, device=values.device)  # cycles per pixel
    transfer = torch.exp(-2 * (math.pi * frequency * sigma) ** 2)
    return torch.fft.irfft(torch.fft.rfft(values) * transfer, n_pixels)
