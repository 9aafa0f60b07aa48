"""What is not a galaxy: stars and quasars, as images and as spectra.

They test whether a model trained on galaxies says that it does not know an object. Each
function returns arrays like those of `astroclip.simulation.pairs.make_pairs`, so that
the same instruments record them.
"""

import numpy as np
import torch

from astroclip.simulation.images import (
    FIBER_RADIUS,
    NEIGHBOR_DENSITY,
    OVERSAMPLING,
    add_neighbors,
    draw_seeing,
    moffat_transform,
    pixels_of_transform,
)
from astroclip.simulation.numerics import LARGEST_FLUX, SPEED_OF_LIGHT
from astroclip.simulation.quasars import draw_quasars, quasar_light
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.simulation.stars import stellar_light

__all__ = ["fiber_share", "make_quasars", "make_stars", "render_points"]

# the model's grid, continued to where the z band ends
GRID = 3600.0 * 10 ** (1e-4 * np.arange(-140, 4830))
ON_MODEL = slice(140, 140 + len(WAVELENGTH))
# mean and scatter (K) and share of M, K and earlier stars; a tenth of all are A stars instead
STELLAR_TEMPERATURES = ((3600.0, 250.0, 0.3), (5000.0, 700.0, 0.3), (6300.0, 900.0, 0.4))


def fiber_share(seeing, beta):
    """Return the fraction of a point's light inside a DESI fiber: Moffat's growth curve.

    Parameters
    ----------
    seeing, beta : float or `numpy.ndarray`
        Full width at half maximum in arcsec, and index.
    """
    core = seeing / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return 1 - (1 + (FIBER_RADIUS / core) ** 2) ** (1 - beta)


def _draw_magnitudes(rng, n_objects, limits):
    """Return r magnitudes between limits, with counts that grow as 10^(0.3 r)."""
    low, high = 10 ** (0.3 * np.asarray(limits))
    return np.log10(rng.uniform(low, high, n_objects)) / 0.3


def render_points(
    rng, flux, seeing, beta, *, size=64, pixel_scale=0.524, neighbor_density=NEIGHBOR_DENSITY
):
    """Render noiseless g, r, z images of point sources near the center.

    Parameters
    ----------
    rng : `numpy.random.Generator`
    flux : (N, 3) array-like
        Total fluxes in nanomaggies.
    seeing : (N, 3) `numpy.ndarray`
        Full width at half maximum in arcsec.
    beta : (N,) `numpy.ndarray`
        Moffat index.
    size : int
        Pixels on a side.
    pixel_scale : float
        Arcsec per pixel.
    neighbor_density : float
        Galaxies and stars nearby, mean number per square arcmin.

    Returns
    -------
    (N, 3, S, S) `torch.Tensor`
        Nanomaggies per pixel; centers scatter by 0.2 arcsec.
    """
    n, n_fine, step = len(flux), size * OVERSAMPLING, pixel_scale / OVERSAMPLING
    shift = (n_fine - 1) / 2 + 0.2 / step * rng.standard_normal((2, n, 1, 1))
    y = np.fft.fftfreq(n_fine)[None, :, None] * shift[0]
    x = np.fft.rfftfreq(n_fine)[None, None, :] * shift[1]
    phase = torch.from_numpy(np.exp(-2j * np.pi * (x + y)).astype(np.complex64))
    total = torch.from_numpy(np.asarray(flux, dtype=np.float32))
    pixels = torch.empty(n, 3, size, size)
    for band in range(3):
        transform = moffat_transform(seeing[:, band], beta, n_fine, step) * phase
        light = pixels_of_transform(transform, size) * total[:, band, None, None]
        pixels[:, band] = light.clamp(min=0)
    add_neighbors(rng, pixels, seeing, pixel_scale, density=neighbor_density)
    return pixels


def _points(rng, light, magnitude, basis):
    """Return images and spectra of point sources of f_lambda ``light`` at r ``magnitude``."""
    n = len(light)
    through_filters = np.stack([np.interp(basis.filter_wavelength, GRID, row) for row in light])
    flux = 1e9 * through_filters @ basis.filters.T  # nanomaggies (N, 3) in g, r, z
    scale = 10 ** (-0.4 * (magnitude - 22.5)) / flux[:, 1]
    flux = flux * scale[:, None]
    seeing, beta = draw_seeing(rng, n)
    share = fiber_share(seeing[:, 1], beta)
    spectrum = light[:, ON_MODEL] * (share * scale * 1e17)[:, None]
    image = render_points(rng, flux, seeing, beta)
    return {
        "image": image.clamp(max=LARGEST_FLUX).numpy().astype(np.float16),
        "seeing": seeing.astype(np.float32),
        "spectrum": np.minimum(spectrum, LARGEST_FLUX).astype(np.float16),
        "magnitude": (22.5 - 2.5 * np.log10(flux)).astype(np.float32),
    }


def make_stars(n_stars, basis, *, seed, r_range=(15.5, 20.5)):
    """Simulate stars of spectral types A to M as noiseless images and spectra.

    Parameters
    ----------
    n_stars : int
    basis : `~astroclip.simulation.basis.SpectralBasis`
        Only its filter curves are used.
    seed : int or sequence of int
        Fixes every draw.
    r_range : (float, float)
        r magnitudes (AB).

    Returns
    -------
    dict of str to `numpy.ndarray`
        ``image``, ``seeing``, ``spectrum`` and ``magnitude`` as of
        `~astroclip.simulation.pairs.make_pairs`; ``redshift`` (radial velocities of 100
        km/s rms) and ``temperature`` in K.
    """
    rng = np.random.default_rng(seed)
    means, widths, shares = np.array(STELLAR_TEMPERATURES).T
    group = rng.choice(len(shares), n_stars, p=shares)
    temperature = means[group] + widths[group] * rng.standard_normal(n_stars)
    hot = rng.random(n_stars) < 0.1
    temperature = np.where(hot, rng.uniform(7500, 10500, n_stars), temperature).clip(3000, 12000)
    redshift = 100.0 / SPEED_OF_LIGHT * rng.standard_normal(n_stars)
    at_rest = stellar_light(temperature, rng.normal(-0.3, 0.4, n_stars), GRID)
    shifted = zip(1 + redshift, at_rest, strict=True)
    light = np.stack([np.interp(GRID, GRID * factor, row) for factor, row in shifted])
    magnitude = _draw_magnitudes(rng, n_stars, r_range)
    return {
        **_points(rng, light, magnitude, basis),
        "redshift": redshift.astype(np.float32),
        "temperature": temperature.astype(np.float32),
    }


def make_quasars(n_quasars, basis, *, seed, redshift_range=(0.5, 4.0), r_range=(17.0, 20.5)):
    """Simulate quasars as noiseless images and spectra.

    Parameters
    ----------
    n_quasars : int
    basis : `~astroclip.simulation.basis.SpectralBasis`
        Only its filter curves are used.
    seed : int or sequence of int
        Fixes every draw.
    redshift_range : (float, float)
        Redshifts are uniform between these.
    r_range : (float, float)
        r magnitudes (AB).

    Returns
    -------
    dict of str to `numpy.ndarray`
        ``image``, ``seeing``, ``spectrum`` and ``magnitude`` as of
        `~astroclip.simulation.pairs.make_pairs`, and ``redshift``.
    """
    rng = np.random.default_rng(seed)
    quasars = draw_quasars(rng, n_quasars, redshift_range=redshift_range)
    light = quasar_light(rng, quasars, GRID)
    magnitude = _draw_magnitudes(rng, n_quasars, r_range)
    return {
        **_points(rng, light, magnitude, basis),
        "redshift": quasars.redshift.astype(np.float32),
    }
