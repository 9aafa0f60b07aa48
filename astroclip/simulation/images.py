"""What a galaxy looks like: bulge, disc, arms, bar and knots through a survey's optics."""

import dataclasses
import math

import numpy as np
import torch

from astroclip.simulation.numerics import FWHM

__all__ = [
    "RenderedImages",
    "add_neighbors",
    "draw_seeing",
    "moffat_transform",
    "pixels_of_transform",
    "render_images",
]

BANDS = ("g", "r", "z")
FIBER_RADIUS = 0.75  # arcsec, DESI
NEIGHBOR_DENSITY = 28.0  # galaxies and stars per square arcmin to r = 24
STAR_SHARE = 0.06  # of the neighbors
SEEING = ((1.4, 1.25, 1.2), (0.18, 0.16, 0.15))  # FWHM mean and scatter, arcsec, g r z
MOFFAT_INDEX = (2.5, 4.5)  # range of point spread functions
OVERSAMPLING = 2  # light is drawn on pixels of half the size


@dataclasses.dataclass(frozen=True)
class RenderedImages:
    """Noiseless images and what was drawn to make them.

    Attributes
    ----------
    pixels : (N, 3, S, S) `torch.Tensor`
        g, r, z in nanomaggies per pixel.
    seeing : (N, 3) `numpy.ndarray`
        Full width at half maximum of the point spread function in arcsec.
    bulge_fraction, disc_fraction : (N,) `numpy.ndarray`
        Fractions of the r-band light inside a DESI fiber (1.5 arcsec across).
    """

    pixels: torch.Tensor
    seeing: np.ndarray
    bulge_fraction: np.ndarray
    disc_fraction: np.ndarray


def _maps(values):
    """Return per-galaxy numbers as a float32 tensor that broadcasts over (N, y, x)."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[:, None, None]


def _unit_sum(maps):
    """Return maps scaled to a total of one."""
    return maps / maps.sum(dim=(1, 2), keepdim=True)


def _sersic_coefficient(index):
    """Return b_n of the Sersic profile: Ciotti & Bertin (1999), first terms."""
    return 2 * index - 1 / 3 + 4 / (405 * index)


def _bulge_map(galaxies, u, v, step):
    """Return Sersic bulges (N, M, M) of unit flux along axes ``u`` (major) and ``v``."""
    ratio = _maps(galaxies.bulge_axis_ratio)
    radius = _maps(galaxies.bulge_radius / np.sqrt(galaxies.bulge_axis_ratio))
    reduced = torch.sqrt(u**2 + (v / ratio) ** 2 + (0.35 * step) ** 2) / radius
    index = galaxies.bulge_index
    profile = reduced.clamp(min=1e-4) ** _maps(1 / index)
    return _unit_sum(torch.exp(-_maps(_sersic_coefficient(index)) * profile))


def _bar_map(u, v, scale):
    """Return bars (N, M, M) of unit flux, 0.8 disc scale lengths long."""
    length = 0.8 * scale
    return _unit_sum(torch.exp(-0.5 * ((u / length) ** 2 + (v / (0.28 * length)) ** 2) ** 1.2))


def _spiral_arms(rng, galaxies, x, angle):
    """Return arm strength maps in (0, 1] and each galaxy's contrast (N, 1, 1)."""
    n = len(galaxies)
    arms = _maps(rng.choice([2, 2, 2, 3, 4], n))
    pitch = np.deg2rad(rng.uniform(8, 32, n))
    start = _maps(rng.uniform(0, 2 * np.pi, n))
    phase = arms * (angle - torch.log(x.clamp(min=0.05)) / _maps(np.tan(pitch)) + start)
    sharpness = _maps(rng.uniform(1, 5, n))
    spiral = (galaxies.log_stellar_mass > 9.3) & ~galaxies.quiescent
    return torch.exp(sharpness * (torch.cos(phase) - 1)), _maps(spiral * rng.random(n) ** 0.5)


def _texture(rng, galaxies, n_pixels):
    """Return irregular brightness patterns (N, M, M), strong in dwarfs."""
    n = len(galaxies)
    coarse = rng.standard_normal((n, 1, n_pixels // 12, n_pixels // 12)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(coarse), size=(n_pixels, n_pixels), mode="bicubic"
    )[:, 0]
    return torch.exp(_maps(0.35 + 0.55 * (galaxies.log_stellar_mass < 9.5)) * smooth)


def _knot_map(rng, galaxies, activity, center, position_angle, step, n_pixels):
    """Return H II knots (N, M, M) and the share of young light in them (N, 1, 1)."""
    n = len(galaxies)
    count = rng.poisson(np.where(galaxies.quiescent, 0, 4 + 16 * activity))
    most = max(int(count.max(initial=0)), 1)
    weight = rng.lognormal(0, 0.9, (n, most)) * (np.arange(most)[None] < count[:, None])
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
    radius = rng.gamma(2.0, 1.0, (n, most)) * (galaxies.disc_radius / 1.678)[:, None]
    angle = rng.uniform(0, 2 * np.pi, (n, most))
    u, v = radius * np.cos(angle), radius * np.sin(angle) * galaxies.axis_ratio[:, None]
    cosine, sine = np.cos(position_angle)[:, None], np.sin(position_angle)[:, None]
    column = np.rint((u * cosine - v * sine + center[0][:, None]) / step + (n_pixels - 1) / 2)
    row = np.rint((u * sine + v * cosine + center[1][:, None]) / step + (n_pixels - 1) / 2)
    inside = (column >= 0) & (column < n_pixels) & (row >= 0) & (row < n_pixels)
    flat = np.where(inside, row * n_pixels + column, 0).astype(np.int64)
    knots = torch.zeros(n, n_pixels * n_pixels)
    knots.scatter_add_(
        1, torch.from_numpy(flat), torch.from_numpy(np.where(inside, weight, 0)).float()
    )
    return knots.view(n, n_pixels, n_pixels), _maps(0.3 * activity * (count > 0))


def _components(rng, galaxies, n_pixels, step):
    """Return unit-flux maps of bulge, old disc and young disc, each (N, M, M)."""
    n = len(galaxies)
    axis = (torch.arange(n_pixels) - (n_pixels - 1) / 2) * step
    center = 0.2 * rng.standard_normal((2, n))
    x = axis[None, None, :] - _maps(center[0])
    y = axis[None, :, None] - _maps(center[1])
    position_angle = rng.uniform(0, np.pi, n)
    cosine, sine = _maps(np.cos(position_angle)), _maps(np.sin(position_angle))
    u, v = x * cosine + y * sine, -x * sine + y * cosine
    deprojected = v / _maps(galaxies.axis_ratio)
    scale = _maps(galaxies.disc_radius / 1.678)
    reduced = torch.sqrt(u**2 + deprojected**2 + (0.3 * step) ** 2) / scale

    activity = np.clip((galaxies.log_ssfr + 11.3) / 1.8, 0, 1)
    arm, contrast = _spiral_arms(rng, galaxies, reduced, torch.atan2(deprojected, u))
    ring_at = _maps(rng.uniform(0.8, 2.2, n))
    ring = torch.exp(-0.5 * ((reduced - ring_at) / 0.35) ** 2) * _maps(rng.random(n) < 0.12)
    young = torch.exp(-reduced / 1.15) * (1 - 0.8 * contrast + 2.2 * contrast * arm + 1.5 * ring)
    young = young * _texture(rng, galaxies, n_pixels) * (1 - 0.8 * torch.exp(-2 * reduced))
    knots, knot_share = _knot_map(
        rng, galaxies, activity, center, position_angle, step, n_pixels
    )
    young = _unit_sum(young) * (1 - knot_share) + knots * knot_share
    old = _unit_sum(torch.exp(-reduced) * (1 + 0.35 * contrast * (arm - 0.4)))

    barred = (rng.random(n) < 0.4) & ~galaxies.quiescent & (galaxies.log_stellar_mass > 9.7)
    bar_share = _maps(barred * rng.uniform(0.1, 0.6, n))
    bulge = _bulge_map(galaxies, u, v, step)
    bulge = bulge * (1 - bar_share) + _bar_map(u, v, scale) * bar_share
    return bulge, old, young, activity


def draw_seeing(rng, n_images):
    """Return full widths at half maximum (N, 3), arcsec, and Moffat indices (N,)."""
    return rng.normal(*SEEING, (n_images, 3)).clip(0.75, 2.2), rng.uniform(*MOFFAT_INDEX, n_images)


def moffat_transform(seeing, beta, n_pixels, step):
    """Return the Fourier transforms of unit-flux Moffat profiles (N, M, M // 2 + 1).

    Parameters
    ----------
    seeing, beta : (N,) `numpy.ndarray`
        Full width at half maximum in arcsec, and index.
    n_pixels : int
        Pixels on a side, M.
    step : float
        Arcsec per pixel.
    """
    axis = (torch.arange(n_pixels) - n_pixels // 2) * step
    radius2 = axis[None, None, :] ** 2 + axis[None, :, None] ** 2
    core = seeing / 2 / np.sqrt(2 ** (1 / beta) - 1)
    profile = _unit_sum((1 + radius2 / _maps(core**2)) ** (-_maps(beta)))
    return torch.fft.rfft2(torch.fft.ifftshift(profile, dim=(1, 2)))


def pixels_of_transform(transform, size):
    """Return images (N, S, S) of transforms (N, M, M // 2 + 1) of light on finer pixels."""
    n_fine = size * OVERSAMPLING
    light = torch.fft.irfft2(transform, (n_fine, n_fine))
    return light.view(-1, size, OVERSAMPLING, size, OVERSAMPLING).sum(dim=(2, 4))


def _draw_neighbors(rng, n_images, size, pixel_scale, density):
    """Return the owner, fluxes (K, 3), radii, shapes and positions of galaxies and stars nearby."""
    area = (size * pixel_scale / 60) ** 2
    owner = np.repeat(np.arange(n_images), rng.poisson(density * area, n_images))
    n = len(owner)
    magnitude = 24.0 - rng.exponential(1 / (0.34 * np.log(10)), n)
    star = rng.random(n) < STAR_SHARE
    magnitude = np.where(star, rng.uniform(16.8, 23, n), magnitude).clip(17.2)
    g_r = np.where(star, rng.uniform(0.2, 1.5, n), rng.normal(0.75, 0.4, n).clip(0.05, 1.8))
    r_z = 0.1 + 0.55 * g_r + np.where(star, 0.05, 0.13) * rng.standard_normal(n)
    bands = np.stack([magnitude + g_r, magnitude, magnitude - r_z], axis=1)
    size_factor = (10 ** (0.1 * (22 - magnitude))).clip(0.7, 2.6)
    radius = np.where(star, 0, np.exp(rng.normal(-0.65, 0.45, n)) * size_factor).clip(0, 1.8)
    position = rng.uniform(0, size, (2, n))  # x and y in pixels
    apart = np.hypot(*(position - size / 2)) * pixel_scale > 1.9  # blends are not simulated
    flux = 10 ** (-0.4 * (bands - 22.5)) * apart[:, None]
    shape = rng.uniform(0.35, 1, n), rng.uniform(0, np.pi, n)
    return owner, flux, radius, shape, position


def add_neighbors(rng, pixels, seeing, pixel_scale, *, density=NEIGHBOR_DENSITY):
    """Add neighboring galaxies and stars, as sums of Gaussians, to images in place.

    Parameters
    ----------
    rng : `numpy.random.Generator`
    pixels : (N, 3, S, S) `torch.Tensor`
        Nanomaggies per pixel; changed.
    seeing : (N, 3) `numpy.ndarray`
        Full width at half maximum in arcsec.
    pixel_scale : float
        Arcsec per pixel.
    density : float
        Mean number per square arcmin.
    """
    n_images, _, size, _ = pixels.shape
    owner, flux, radius, (ratio, angle), position = _draw_neighbors(
        rng, n_images, size, pixel_scale, density
    )
    half = round(5.3 / pixel_scale)
    offsets = torch.arange(-half, half + 1)
    corner = np.floor(position).astype(int)
    local = (position - corner).astype(np.float32)
    x = (offsets[None, None, :] + 0.5 - _maps(local[0])) * pixel_scale
    y = (offsets[None, :, None] + 0.5 - _maps(local[1])) * pixel_scale
    cosine, sine = _maps(np.cos(angle)), _maps(np.sin(angle))
    u, v = x * cosine + y * sine, -x * sine + y * cosine
    column = torch.from_numpy(corner[0])[:, None, None] + offsets[None, None, :]
    row = torch.from_numpy(corner[1])[:, None, None] + offsets[None, :, None]
    inside = ((column >= 0) & (column < size) & (row >= 0) & (row < size)).float()
    first = torch.from_numpy(owner)[:, None, None] * size * size
    flat = (first + row.clamp(0, size - 1) * size + column.clamp(0, size - 1)).reshape(-1)
    # weight, fraction of the radius, width of the point spread function's component
    mixture = ((0.3, 0.45, 1.0), (0.55, 1.0, 1.0), (0.15, 1.5, 1.82))
    for band in range(pixels.shape[1]):
        psf = seeing[owner, band] / FWHM
        light = 0.0
        for weight, share, width in mixture:
            su = (share * radius) ** 2 / 1.39 + (psf * width) ** 2
            sv = (share * radius * ratio) ** 2 / 1.39 + (psf * width) ** 2
            norm = weight * pixel_scale**2 / (2 * math.pi) / np.sqrt(su * sv)
            light = light + _maps(norm) * torch.exp(-0.5 * (u**2 / _maps(su) + v**2 / _maps(sv)))
        total = torch.zeros(n_images * size * size)
        total.index_add_(0, flat, (light * _maps(flux[:, band]) * inside).reshape(-1))
        pixels[:, band] += total.view(n_images, size, size)


def render_images(
    rng, galaxies, *, size=64, pixel_scale=0.524, neighbor_density=NEIGHBOR_DENSITY
):
    """Render noiseless g, r, z images of galaxies with their surroundings.

    A Sersic bulge (with a bar in two fifths of the massive spirals) and an exponential
    disc, whose young light follows arms, rings, knots and an irregular texture, each
    convolved with a Moffat point spread function per band at twice the pixel density.

    Parameters
    ----------
    rng : `numpy.random.Generator`
    galaxies : `~astroclip.simulation.population.GalaxySample`
        With ``bulge_flux`` and ``disc_flux`` in nanomaggies.
    size : int
        Pixels on a side.
    pixel_scale : float
        Arcsec per pixel.
    neighbor_density : float
        Galaxies and stars nearby, mean number per square arcmin.

    Returns
    -------
    `RenderedImages`
    """
    n, n_fine, step = len(galaxies), size * OVERSAMPLING, pixel_scale / OVERSAMPLING
    *maps, activity = _components(rng, galaxies, n_fine, step)
    bulge, old, young = (torch.fft.rfft2(part) for part in maps)
    seeing, beta = draw_seeing(rng, n)
    axis = (torch.arange(n_fine) - (n_fine - 1) / 2) * step
    fiber = (axis[None, :] ** 2 + axis[:, None] ** 2) < FIBER_RADIUS**2
    pixels = torch.empty(n, 3, size, size)
    for band, slope in enumerate((0.6, 0.45, 0.3)):  # young light is blue
        transform = moffat_transform(seeing[:, band], beta, n_fine, step)
        share = _maps(slope * activity + 0.05 - 0.02 * band)
        disc = (1 - share) * old + share * young
        light = _maps(galaxies.bulge_flux[:, band]) * bulge
        light = light + _maps(galaxies.disc_flux[:, band]) * disc
        pixels[:, band] = pixels_of_transform(light * transform, size)
        if BANDS[band] == "r":
            inside = [
                (torch.fft.irfft2(part * transform, (n_fine, n_fine)) * fiber).sum(dim=(1, 2))
                for part in (bulge, disc)
            ]
    add_neighbors(rng, pixels, seeing, pixel_scale, density=neighbor_density)
    return RenderedImages(pixels, seeing, inside[0].numpy(), inside[1].numpy())
