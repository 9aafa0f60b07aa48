"""What a spectrograph records: noise, resolution, range, aperture and flux calibration.

Noiseless light is stored once and observed afresh whenever it is used: the simulation's last
step is training's augmentation. Everything here is torch, driven by one `torch.Generator`, so a
seed fixes every draw.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch

from astroclip.preparation.grids import wavelength_grid
from astroclip.simulation.numerics import (
    SPEED_OF_LIGHT,
    gaussian_blur,
    log_uniform,
    normal,
    uniform,
)
from astroclip.simulation.spectra import DESI_LINE_SPREAD

__all__ = [
    "SDSS_SPECTROGRAPHS",
    "WAVELENGTH",
    "ObservedSpectra",
    "SDSSSpectrograph",
    "noise_templates",
    "observe_spectra_desi",
    "observe_spectra_sdss",
    "observe_spectra_varied",
]

NOISE_FILE = Path(__file__).parents[1] / "data" / "desi_noise.npz"
WAVELENGTH = wavelength_grid("log")  # A, vacuum: the model's grid
NORMALIZATION_RANGE = (6400.0, 7200.0)  # A: where noise levels are stated
NATIVE_PIXEL = 0.8  # A, DESI
PIXEL_VELOCITY = 1e-4 * math.log(10) * SPEED_OF_LIGHT  # km/s: 69 per pixel of the model's grid
SDSS_DICHROIC = 6000.0  # A
# center, width (A) and depth of the O2 and H2O bands seen at low resolution
TELLURIC_BANDS = (
    (6885.0, 22.0, 0.4),
    (7210.0, 50.0, 0.2),
    (7620.0, 28.0, 0.8),
    (8190.0, 60.0, 0.2),
    (9000.0, 80.0, 0.2),
    (9370.0, 90.0, 0.5),
)


@dataclasses.dataclass(frozen=True)
class SDSSSpectrograph:
    """What tells the SDSS spectrographs before and after their upgrade from each other.

    Attributes
    ----------
    light : float
        Typical light in a fiber, that in DESI's of 1.5 arcsec being one.
    noise : float
        Factor of the noise range.
    first, last : (float, float)
        Ranges of the first and last recorded wavelength, A.
    """

    light: float
    noise: float
    first: tuple
    last: tuple


# fibers of 3 arcsec: York et al. (2000), AJ 120, 1579; of 2 arcsec: Smee et al. (2013), AJ 146, 32
SDSS_SPECTROGRAPHS = {
    "sdss": SDSSSpectrograph(2.3, 1.0, (3795.0, 3830.0), (9185.0, 9210.0)),
    "boss": SDSSSpectrograph(1.5, 0.45, (3650.0, 3650.0), (9820.0, 9820.0)),
}
"""Spectrographs of the SDSS by name."""


@dataclasses.dataclass(frozen=True)
class ObservedSpectra:
    """Recorded spectra: ``flux``, ``ivar`` and ``mask`` (True = bad), each (N, P)."""

    flux: torch.Tensor
    ivar: torch.Tensor
    mask: torch.Tensor


def noise_templates():
    """Return the relative noise (2, P) of real DESI coadds on the model's grid."""
    with np.load(NOISE_FILE, allow_pickle=False) as archive:
        return torch.from_numpy(archive["sigma"].astype(np.float32))


def _blend_templates(generator, n_spectra, templates):
    """Return geometric blends (N, P) of two noise templates."""
    share = uniform(generator, (n_spectra, 1))
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
    # a pixel of the logarithmic grid averages more than one of the instrument's
    middle = math.sqrt(NORMALIZATION_RANGE[0] * NORMALIZATION_RANGE[1])
    per_pixel = math.sqrt(NATIVE_PIXEL / (middle * 1e-4 * math.log(10)))
    level = log_uniform(generator, (n, 1), *noise_range) * per_pixel
    sky = _blend_templates(generator, n, templates) * level
    sigma = torch.sqrt(sky**2 + 0.035 * per_pixel * sky * flux.clamp(min=0))
    throughput = torch.exp(normal(generator, (n, 1), 0.08))
    recorded = flux * throughput + sigma * normal(generator, flux.shape)
    return ObservedSpectra(recorded, sigma**-2, torch.zeros_like(flux, dtype=torch.bool))


def _smooth(values, sigma):
    """Return rows convolved with Gaussians of ``sigma`` (N, 1) pixels, reflected at the ends."""
    pad = 32  # pixels, seven standard deviations of the widest blur
    padded = torch.nn.functional.pad(values[:, None], (pad, pad), mode="reflect")[:, 0]
    return gaussian_blur(padded, sigma)[:, pad:-pad]


def _calibration(generator, n_spectra, n_pixels, *, broad, tilt):
    """Return flux-calibration errors (N, P): a tilt, a curvature, ripples and a scale.

    ``broad`` lets two fifths of the spectra be of any brightness at all.
    """
    x = torch.linspace(-1, 1, n_pixels, device=generator.device)[None]
    shape = (n_spectra, 1)
    slope = normal(generator, shape, tilt) * x
    curve = normal(generator, shape, 7 / 12 * tilt) * x**2
    phase = uniform(generator, shape, 0, 2 * math.pi)
    strength = normal(generator, shape, 0.02)
    ripple = strength * torch.sin(uniform(generator, shape, 3, 15) * x + phase)
    # the aperture differs between surveys: 1.5 arcsec fibers to slits scaled to total light
    scale = normal(generator, shape, 0.5) + 0.4
    if broad:
        wide = uniform(generator, shape) < 0.4
        scale = torch.where(wide, normal(generator, shape, 2.0), scale)
    return torch.exp(slope + curve + ripple + scale)


def _telluric(generator, n_spectra, wavelength):
    """Return transmission (N, P) of the air in its red bands, uncorrected in a third."""
    absorption = 0.0
    for center, width, depth in TELLURIC_BANDS:
        profile = torch.exp(-0.5 * ((wavelength - center) / width) ** 2)
        absorption = absorption + depth * profile
    strength = (uniform(generator, (n_spectra, 1)) < 0.35) * uniform(generator, (n_spectra, 1))
    return 1 - strength * absorption.clamp(max=0.9)[None]


def _recorded_range(generator, n_spectra, n_pixels, blue_cut):
    """Return True (N, P) inside a random recorded range, with gaps and single bad pixels."""
    pixel = torch.arange(n_pixels, device=generator.device)[None]
    shape = (n_spectra, 1)
    cut_blue = uniform(generator, shape) < 0.7
    cut_red = uniform(generator, shape) < 0.7
    first = cut_blue * uniform(generator, shape, 0, blue_cut * n_pixels)
    last = n_pixels - cut_red * uniform(generator, shape, 0, 0.4 * n_pixels)
    good = (pixel >= first) & (pixel < last)
    for _ in range(2):
        start = uniform(generator, shape, 0, n_pixels)
        length = (uniform(generator, shape) < 0.4) * log_uniform(generator, shape, 5, 200)
        good &= ~((pixel >= start) & (pixel < start + length))
    return good & (uniform(generator, (n_spectra, n_pixels)) > 0.003)


def observe_spectra_varied(
    flux, generator, *, templates, signal_to_noise=(0.7, 42.0), broad=False, tilt=0.12,
    largest_blur=4.5, blue_cut=0.25,
):
    """Record spectra with an instrument drawn at random for each: domain randomization.

    Resolution from DESI's to about 700 km/s FWHM by default, noise level, color and correlation,
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
        Vary more: brightness over decades, noise color up to DESI's own, and uncorrected
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
    flux = _smooth(flux, log_uniform(generator, shape, 0.1, largest_blur))
    color = uniform(generator, shape) * uniform(generator, shape, 0.4, 1.0)
    if broad:
        color = uniform(generator, shape, 0.0, 1.5).clamp(max=1.0)
    sky = _blend_templates(generator, n, templates) ** color
    middle = flux.clamp(min=0).median(dim=1, keepdim=True).values.clamp(min=1e-3)
    level = middle / log_uniform(generator, shape, *signal_to_noise)
    poisson = uniform(generator, shape, 0, 0.5)
    sigma = level * torch.sqrt(sky**2 + poisson * flux.clamp(min=0) / middle)

    correlation = (uniform(generator, shape) < 0.5) * uniform(generator, shape, 0.3, 1.2)
    noise = _smooth(normal(generator, flux.shape), correlation)
    noise = noise / noise.std(dim=1, keepdim=True)
    sky_residual = 1 + (sky > 1.6) * uniform(generator, shape, 0, 1.5)
    recorded = flux + sigma * noise * sky_residual
    believed = sigma * torch.exp(normal(generator, shape, 0.15))
    unknown = uniform(generator, shape) < 0.1  # no errors given: one level is estimated
    believed = torch.where(unknown, believed.median(dim=1, keepdim=True).values, believed)

    response = _calibration(generator, n, n_pixels, broad=broad, tilt=tilt)
    good = _recorded_range(generator, n, n_pixels, blue_cut)
    ivar = torch.where(good, (believed * response) ** -2, 0.0)
    return ObservedSpectra(torch.where(good, recorded * response, 0.0), ivar, ~good)


def _sdss_line_spread(generator, n_spectra, wavelength):
    """Return Gaussian widths (N, P) of SDSS line spreads in pixels of 69 km/s.

    Fitted by eye to the ``wdisp`` of public spectra: constant in Angstrom in each arm, so
    that the resolving power rises along it, from 1350 to 2100 and from 1800 to 2600.
    """
    blue = 1.40 * (3800.0 / wavelength)
    red = 0.99 * (6050.0 / wavelength)
    width = torch.where(wavelength < SDSS_DICHROIC, blue, red)[None]
    return width * uniform(generator, (n_spectra, 1), 0.95, 1.15)


def _blur_variably(flux, width):
    """Return flux (N, P) blurred by Gaussians whose width in pixels (N, P) varies along it.

    Two fixed blurs are mixed so that the second moment is the one wanted at every pixel.
    """
    narrow, wide = width.amin(dim=1, keepdim=True), width.amax(dim=1, keepdim=True)
    share = (width**2 - narrow**2) / (wide**2 - narrow**2).clamp(min=1e-6)
    return (1 - share) * _smooth(flux, narrow) + share * _smooth(flux, wide)


def _sdss_noise(generator, flux, sky, level, wavelength):
    """Return standard deviations and correlated noise of unit variance, both (N, P)."""
    shape = (len(flux), 1)
    # flatter than DESI's, and rising where SDSS's detectors lose the red
    flatter = sky ** uniform(generator, shape, 0.6, 0.85)
    rise = uniform(generator, shape, 2.0, 4.3)
    relative = flatter * torch.exp(rise * torch.log(wavelength / 6600.0).clamp(min=0)[None])
    sigma = level * torch.sqrt(relative**2 + 0.04 / level * flatter * flux.clamp(min=0))
    noise = _smooth(normal(generator, flux.shape), uniform(generator, shape, 0.25, 0.45))
    noise = noise / noise.std(dim=1, keepdim=True)
    # sky lines are subtracted worse than the errors say
    peak = (sky / _smooth(sky, torch.full_like(level, 10.0)) - 1).clamp(0, 2)
    return sigma, noise * (1 + uniform(generator, shape, 0, 0.7) * peak)


def observe_spectra_sdss(
    flux, generator, *, templates, noise_range=(0.4, 1.6), boss_share=0.35
):
    """Record spectra as the SDSS spectrographs do, before or after their BOSS upgrade.

    Line spread, noise level, color and correlation, and the share of bad pixels follow
    public spectra of both; R is about 1900 on average. A fiber of 3 arcsec (2 for BOSS)
    collects more of a galaxy than DESI's of 1.5.

    Parameters
    ----------
    flux : (N, P) `torch.Tensor`
        Noiseless flux density through a DESI fiber with a DESI-like line spread of 35
        km/s, 1e-17 erg/s/cm2/A, on the model's logarithmic grid.
    generator : `torch.Generator`
    templates : (2, P) `torch.Tensor`
        From `noise_templates`.
    noise_range : (float, float)
        Sky noise per pixel of 69 km/s at 6400-7200 A is log-uniform between these for
        the SDSS, 1e-17 erg/s/cm2/A; BOSS exposures reach 0.45 of it.
    boss_share : float
        Fraction of spectra with the BOSS range, 3650-9820 A, instead of 3800-9200 A.

    Returns
    -------
    `ObservedSpectra`
        The flux calibration is off by a tilt of 5 % rms and a scale of 5 % rms.

    References
    ----------
    Smee et al. (2013), AJ 146, 32; aperture of 3 arcsec: York et al. (2000), AJ 120, 1579.
    """
    n, n_pixels = flux.shape
    shape = (n, 1)
    wavelength = torch.from_numpy(WAVELENGTH).float().to(flux.device)
    rows = torch.tensor([
        (one.light, one.noise, *one.first, *one.last)
        for one in (SDSS_SPECTROGRAPHS["sdss"], SDSS_SPECTROGRAPHS["boss"])
    ], device=flux.device)
    is_boss = (uniform(generator, shape) < boss_share).long()
    # of each spectrum's spectrograph, (N, 1)
    light, noise_factor, *limits = rows[is_boss].unbind(dim=-1)
    aperture = light * torch.exp(normal(generator, shape, 0.2)).clamp(0.65, 1.6)
    spread = _sdss_line_spread(generator, n, wavelength)
    native = DESI_LINE_SPREAD / PIXEL_VELOCITY
    flux = aperture * _blur_variably(flux, torch.sqrt(spread**2 - native**2))

    sky = _blend_templates(generator, n, templates)
    level = noise_factor * log_uniform(generator, shape, *noise_range)
    sigma, noise = _sdss_noise(generator, flux, sky, level, wavelength)
    x = torch.linspace(-1, 1, n_pixels, device=flux.device)[None]
    slope, curve = normal(generator, shape, 0.05), normal(generator, shape, 0.03)
    response = torch.exp(slope * x + curve * x**2 + normal(generator, shape, 0.05))

    earliest, latest, shortest, longest = limits  # of the first and of the last wavelength
    first = uniform(generator, shape, earliest, latest)
    last = uniform(generator, shape, shortest, longest)
    good = (wavelength[None] >= first) & (wavelength[None] <= last)
    bad_share = uniform(generator, shape, 0, 0.012)
    good &= uniform(generator, (n, n_pixels)) > bad_share
    ivar = torch.where(good, (sigma * response) ** -2, 0.0)
    recorded = (flux + sigma * noise) * response
    return ObservedSpectra(torch.where(good, recorded, 0.0), ivar, ~good)
