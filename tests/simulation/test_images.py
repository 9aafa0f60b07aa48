"""Images: total flux, size, point spread function and fibre against independent formulas."""

import numpy as np
import pytest
import torch
from photutils.aperture import CircularAperture, aperture_photometry
from scipy.special import gammaincinv

from astroclip.simulation.images import (
    _sersic_coefficient,
    moffat_transform,
    pixels_of_transform,
    render_images,
)
from astroclip.simulation.population import draw_galaxies

ALONE = {"neighbor_density": 0.0}


@pytest.fixture
def galaxies(simulator):
    """Return thirty compact galaxies."""
    sample = draw_galaxies(np.random.default_rng(4), 30, redshift_range=(0.15, 0.4))
    sample.bulge_flux, sample.disc_flux = simulator.photometry(sample)
    return sample


def test_flux_is_kept(galaxies):
    rendered = render_images(np.random.default_rng(1), galaxies, size=128, **ALONE)
    total = rendered.pixels.sum(dim=(2, 3)).numpy()
    np.testing.assert_allclose(total, galaxies.bulge_flux + galaxies.disc_flux, rtol=1e-3)


def test_neighbors_only_add_light(simulator):
    sample = draw_galaxies(np.random.default_rng(4), 10, redshift_range=(0.15, 0.4))
    sample.bulge_flux, sample.disc_flux = simulator.photometry(sample)
    rendered = render_images(np.random.default_rng(1), sample, size=128)
    total = rendered.pixels.sum(dim=(2, 3)).numpy()
    assert np.all(total >= (sample.bulge_flux + sample.disc_flux) * (1 - 1e-3))


def test_same_seed_renders_the_same(galaxies):
    first, second = (render_images(np.random.default_rng(9), galaxies[:3]).pixels for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("index", [0.7, 1.0, 2.5, 4.0, 6.0])
def test_sersic_coefficient_encloses_half_the_light(index):
    assert _sersic_coefficient(index) == pytest.approx(gammaincinv(2 * index, 0.5), rel=5e-3)


def test_point_spread_function_has_the_width_asked_for():
    n, step, seeing = 256, 0.1, np.array([1.0, 1.6])
    transform = moffat_transform(seeing, np.array([3.0, 3.0]), n, step)
    profile = torch.fft.fftshift(torch.fft.irfft2(transform, (n, n)), dim=(1, 2)).numpy()
    for row, width in enumerate(seeing):
        along = profile[row, n // 2]
        above = np.flatnonzero(along > along.max() / 2)
        assert (above[-1] - above[0] + 1) * step == pytest.approx(width, abs=1.5 * step)


def test_fibre_fractions_agree_with_an_aperture(galaxies):
    for name in ("bulge_flux", "disc_flux"):
        single = galaxies[::6]
        other = "disc_flux" if name == "bulge_flux" else "bulge_flux"
        setattr(single, other, np.zeros_like(getattr(single, other)))
        rendered = render_images(
            np.random.default_rng(2), single, size=256, pixel_scale=0.131, **ALONE
        )
        fraction = rendered.bulge_fraction if name == "bulge_flux" else rendered.disc_fraction
        center = (256 - 1) / 2
        aperture = CircularAperture((center, center), r=0.75 / 0.131)
        for row in range(len(single)):
            image = rendered.pixels[row, 1].numpy().astype(float)
            inside = aperture_photometry(image, aperture)["aperture_sum"][0]
            expected = inside / getattr(single, name)[row, 1]
            assert fraction[row] == pytest.approx(expected, rel=0.04)


def test_pixels_hold_the_light_of_the_finer_ones():
    fine = torch.rand(2, 32, 32)
    found = pixels_of_transform(torch.fft.rfft2(fine), 16)
    expected = fine.numpy().reshape(2, 16, 2, 16, 2).sum(axis=(2, 4))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
