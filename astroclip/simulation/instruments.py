"""What a survey records: noise, resolution, range and calibration of spectra, depth of images.

Noiseless light is stored once and observed afresh whenever it is used, which is both
the simulation's last room and the training's augmentation. Everything here is torch,
driven by one `torch.Generator`, so a seed fixes every draw.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch

__all__ = [
    "ObservedImages",
    "ObservedSpectra",
    "observe_images",
    "observe_spectra_desi",
    "observe_spectra_varied",
]

NOISE_FILE = Path(__file__).parents[1] / "data" / "desi_noise.npz"
WAVELENGTH = 3600.0 * 10 ** (1e-4 * np.arange(4360))  # A, vacuum: the model's grid
NORMALIZATION_RANGE = (6400.0, 7200.0)
NATIVE_PIXEL = 0.8  # A, DESI
DEPTHS = (24.6, 24.0, 23.0)  # 5 sigma point source, AB, DR9 g r z
# centre, width (A) and depth of the O2 and H2O bands seen at low resolution
TELLURIC_BANDS = (
    (6885.0, 22.0, 0.4),
    (7210.0, 50.0, 0.2),
    (7620.0, 28.0, 0.8),
    (8190.0, 60.0, 0.2),
    (9000.0, 80.0, 0.2),
    (9370.0, 90.0, 0.5),
)
POISSON = (0.6e-4, 0.9e-4, 2.4e-4)  # variance per nanomaggy of signal, DR9 g r z


@dataclasses.dataclass(frozen=True)
class ObservedSpectra:
    """Recorded spectra: ``flux``, ``ivar`` and ``mask`` (True = bad), each (N, P)."""

    flux: torch.Tensor
    ivar: torch.Tensor
    mask: torch.Tensor


@dataclasses.dataclass(frozen=True)
class ObservedImages:
    """Recorded images: ``pixels`` in nanomaggies and ``mask`` (True = bad), each (N, 3, S, S)."""

    pixels: torch.Tensor
    mask: torch.Tensor


def _uniform(generator, shape, low=0.0, high=1.0):
    draw = torch.rand(shape, generator=generator, device=generator.device)
    return low + (high - low) * draw


def _normal(generator, shape, scale=1.0):
    return scale * torch.randn(shape, generator=generator, device=generator.device)


def _log_uniform(generator, shape, low, high):
    return torch.exp(_uniform(generator, shape, math.log(low), math.log(high)))


def noise_templates():
    """Return the relative noise (2, P) of real DESI coadds on the model's grid."""
    with np.load(NOISE_FILE, allow_pickle=False) as archive:
        return torch.from_numpy(archive["sigma"].astype(np.float32))


def _blend_templates(generator, n_spectra, templates):
    """Return geometric blends (N, P) of two noise templates."""
    share = _uniform(generator, (n_spectra, 1))
    return torch.exp(share * templates[0].log() + (1 - share) * templates[1].log())


def observe_spectra_desi(flux, generator, *, templates, noise_range=(0.2, 0.9)):
    """Record spectra as DESI does in a main-survey exposure.

    Parameters
    ----------
    flux : (N, P) `torch.Tensor`
        Noiseless flux density, 1e-17 erg/s/cm2/A, on the model's logarithmic grid.
    generator : `torch.Generator`
    templates : (2, P) `torch.Tensor`
        From `noise_templates`.
    noise_range : (float, float)
        Noise per native 0.8 A pixel at 6400-7200 A is log-uniform between these,
        1e-17 erg/s/cm2/A.

    Returns
    -------
    `ObservedSpectra`
        Median S/N is 2.6 per native pixel for galaxies with r < 19.5.
    """
    n = len(flux)
    at = math.sqrt(NORMALIZATION_RANGE[0] * NORMALIZATION_RANGE[1])
    per_pixel = math.sqrt(NATIVE_PIXEL / (at * 1e-4 * math.log(10)))
    level = _log_uniform(generator, (n, 1), *noise_range) * per_pixel
    sky = _blend_templates(generator, n, templates) * level
    sigma = torch.sqrt(sky**2 + 0.035 * per_pixel * sky * flux.clamp(min=0))
    throughput = torch.exp(_normal(generator, (n, 1), 0.08))
    recorded = flux * throughput + sigma * _normal(generator, flux.shape)
    return ObservedSpectra(recorded, sigma**-2, torch.zeros_like(flux, dtype=torch.bool))


def _smooth(values, sigma):
    """Return rows convolved with Gaussians of ``sigma`` (N, 1) pixels, reflected at the ends."""
    pad = 32
    padded = torch.nn.functional.pad(values[:, None], (pad, pad), mode="reflect")[:, 0]
    frequency = torch.fft.rfftfreq(padded.shape[1], device=values.device)
    transfer = torch.exp(-2 * (math.pi * frequency[None] * sigma) ** 2)
    smooth = torch.fft.irfft(torch.fft.rfft(padded) * transfer, padded.shape[1])
    return smooth[:, pad:-pad]


def _calibration(generator, n_spectra, n_pixels, *, broad, tilt):
    """Return flux-calibration errors (N, P): a tilt, a curvature, ripples and a scale.

    ``broad`` lets two fifths of the spectra be of any brightness at all.
    """
    x = torch.linspace(-1, 1, n_pixels, device=generator.device)[None]
    shape = (n_spectra, 1)
    slope = _normal(generator, shape, tilt) * x
    curve = _normal(generator, shape, 7 / 12 * tilt) * x**2
    phase = _uniform(generator, shape, 0, 2 * math.pi)
    strength = _normal(generator, shape, 0.02)
    ripple = strength * torch.sin(_uniform(generator, shape, 3, 15) * x + phase)
    # the aperture differs between surveys: 1.5 arcsec fibres to slits scaled to total light
    scale = _normal(generator, shape, 0.5) + 0.4
    if broad:
        wide = _uniform(generator, shape) < 0.4
        scale = torch.where(wide, _normal(generator, shape, 2.0), scale)
    return torch.exp(slope + curve + ripple + scale)


def _telluric(generator, n_spectra, wavelength):
    """Return transmission (N, P) of the air in its red bands, uncorrected in a third."""
    absorption = 0.0
    for centre, width, depth in TELLURIC_BANDS:
        profile = torch.exp(-0.5 * ((wavelength - centre) / width) ** 2)
        absorption = absorption + depth * profile
    strength = (_uniform(generator, (n_spectra, 1)) < 0.35) * _uniform(generator, (n_spectra, 1))
    return 1 - strength * absorption.clamp(max=0.9)[None]


def _recorded_range(generator, n_spectra, n_pixels, blue_cut):
    """Return True (N, P) inside a random recorded range, with gaps and single bad pixels."""
    pixel = torch.arange(n_pixels, device=generator.device)[None]
    shape = (n_spectra, 1)
    cut_blue = _uniform(generator, shape) < 0.7
    cut_red = _uniform(generator, shape) < 0.7
    first = cut_blue * _uniform(generator, shape, 0, blue_cut * n_pixels)
    last = n_pixels - cut_red * _uniform(generator, shape, 0, 0.4 * n_pixels)
    good = (pixel >= first) & (pixel < last)
    for _ in range(2):
        start = _uniform(generator, shape, 0, n_pixels)
        length = (_uniform(generator, shape) < 0.4) * _log_uniform(generator, shape, 5, 200)
        good &= ~((pixel >= start) & (pixel < start + length))
    return good & (_uniform(generator, (n_spectra, n_pixels)) > 0.003)


def observe_spectra_varied(
    flux, generator, *, templates, signal_to_noise=(0.7, 42.0), broad=False, tilt=0.12,
    largest_blur=4.5, blue_cut=0.25,
):
    """Record spectra with an instrument drawn at random for each: domain randomisation.

    Resolution from DESI's to about 700 km/s FWHM by default, noise level, colour and correlation,
    misjudged errors, flux calibration, aperture, recorded range and gaps all vary, so
    that an encoder trained on it takes spectra of instruments it never saw.

    Parameters
    ----------
    flux : (N, P) `torch.Tensor`
        Noiseless flux density, 1e-17 erg/s/cm2/A, on the model's logarithmic grid.
    generator : `torch.Generator`
    templates : (2, P) `torch.Tensor`
        From `noise_templates`.
    signal_to_noise : (float, float)
        The median S/N per pixel is log-uniform between these.
    broad : bool
        Vary more: brightness over decades, noise colour up to DESI's own, and uncorrected
        telluric bands.
    tilt : float
        Scatter of the natural logarithm of the flux calibration from the middle of the
        range to its ends.
    largest_blur : float
        Largest standard deviation of the line spread in pixels of 69 km/s.
    blue_cut : float
        Largest fraction of the range that is not recorded at its blue end.

    Returns
    -------
    `ObservedSpectra`
    """
    n, n_pixels = flux.shape
    shape = (n, 1)
    if broad:
        wavelength = torch.from_numpy(WAVELENGTH).float().to(flux.device)
        flux = flux * _telluric(generator, n, wavelength)
    flux = _smooth(flux, _log_uniform(generator, shape, 0.1, largest_blur))
    colour = _uniform(generator, shape) * _uniform(generator, shape, 0.4, 1.0)
    if broad:
        colour = _uniform(generator, shape, 0.0, 1.5).clamp(max=1.0)
    sky = _blend_templates(generator, n, templates) ** colour
    middle = flux.clamp(min=0).median(dim=1, keepdim=True).values.clamp(min=1e-3)
    level = middle / _log_uniform(generator, shape, *signal_to_noise)
    poisson = _uniform(generator, shape, 0, 0.5)
    sigma = level * torch.sqrt(sky**2 + poisson * flux.clamp(min=0) / middle)

    correlation = (_uniform(generator, shape) < 0.5) * _uniform(generator, shape, 0.3, 1.2)
    noise = _smooth(_normal(generator, flux.shape), correlation)
    noise = noise / noise.std(dim=1, keepdim=True)
    sky_residual = 1 + (sky > 1.6) * _uniform(generator, shape, 0, 1.5)
    recorded = flux + sigma * noise * sky_residual
    believed = sigma * torch.exp(_normal(generator, shape, 0.15))
    unknown = _uniform(generator, shape) < 0.1  # no errors given: one level is estimated
    believed = torch.where(unknown, believed.median(dim=1, keepdim=True).values, believed)

    response = _calibration(generator, n, n_pixels, broad=broad, tilt=tilt)
    good = _recorded_range(generator, n, n_pixels, blue_cut)
    ivar = torch.where(good, (believed * response) ** -2, 0.0)
    return ObservedSpectra(torch.where(good, recorded * response, 0.0), ivar, ~good)


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
    n, n_bands, size, _ = pixels.shape
    depth = torch.tensor(depths, device=pixels.device) + _normal(generator, (n, n_bands), 0.3)
    effective_area = 4 * math.pi * (seeing / 2.355 / pixel_scale) ** 2
    sky = 10 ** (-0.4 * (depth - 22.5)) / 5 / torch.sqrt(effective_area)
    poisson = torch.tensor(POISSON, device=pixels.device)[None, :, None, None] * pixels.clamp(min=0)
    weight = _uniform(generator, (n, 1, 1, 1), 0, 0.38)
    noise = _normal(generator, (n, n_bands, size + 2, size + 2))
    noise = weight * (noise[:, :, :-2] + noise[:, :, 2:]) + noise[:, :, 1:-1]
    noise = weight * (noise[..., :-2] + noise[..., 2:]) + noise[..., 1:-1]
    noise = noise / (1 + 2 * weight**2)
    recorded = pixels + torch.sqrt(sky[:, :, None, None] ** 2 + poisson) * noise
    return ObservedImages(recorded, torch.zeros_like(recorded, dtype=torch.bool))
