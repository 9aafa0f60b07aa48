"""Random numbers from one `torch.Generator`, on its device."""

import math

import torch


def uniform(generator, shape, low=0.0, high=1.0):
    """Return numbers uniform between ``low`` and ``high``."""
    draw = torch.rand(shape, generator=generator, device=generator.device)
    return low + (high - low) * draw


def normal(generator, shape, scale=1.0):
    """Return Gaussian numbers of mean zero."""
    return scale * torch.randn(shape, generator=generator, device=generator.device)


def log_uniform(generator, shape, low, high):
    """Return numbers whose logarithm is uniform."""
    return torch.exp(uniform(generator, shape, math.log(low), math.log(high)))
