"""Images: total flux, size, point spread function and fibre against independent formulas."""

import numpy as np
import pytest
import torch
from photutils.aperture import CircularAperture, aperture_photometry
from scipy.special import gammaincinv

from astroclip.simulation import images as module
from astroclip.simulation.images import _moffat_transform, _sersic_coefficient, render_images
from astroclip.simulation.population import draw_galaxies


@pytest.fixture
def lone(monkeypatch, simulator):
    """Return thirty compact galaxies and no neighbours."""
    monkeypatch.setattr(module, "NEIGHBOR_DENSITY", 0.0)
    sample = draw_galaxies(np.random.default_rng(4), 30, redshift_range=(0.15, 0.4))
    sample.bulge_flux, sample.disc_flux = simulator.photometry(sample)
    return sample


def test_flux_is_kept(lone):
    rendered = render_images(np.random.default_rng(1), lone, size=128)
    total = rendered.pixels.sum(dim=(2, 3)).numpy()
    np.testing.assert_allclose(total, lone.bulge_flux + lone.disc_flux, rtol=1e-3)


def test_neighbors_only_add_light(simulator):
    sample = draw_galaxies(np.random.default_rng(4), 10, redshift_range=(0.15, 0.4))
    sample.bulge_flux, sample.disc_flux = simulator.photometry(sample)
    rendered = render_images(np.random.default_rng(1), sample, size=128)
    total = rendered.pixels.sum(dim=(2, 3)).numpy()
    assert np.all(total >= (sample.bulge_flux + sample.disc_flux) * (1 - 1e-3))


def test_same_seed_renders_the_same(lone):
    first, second = (render_images(np.random.default_rng(9), lone[:3]).pixels for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("index", [0.7, 1.0, 2.5, 4.0, 6.0])
def test_sersic_coefficient_encloses_half_the_light(index):
    assert _sersic_coefficient(index) == pytest.approx(gammaincinv(2 * index, 0.5), rel=5e-3)


def test_point_spread_function_has_the_width_asked_for():
    n, step, seeing = 256, 0.1, np.array([1.0, 1.6])
    transform = _moffat_transform(seeing, np.array([3.0, 3.0]), n, step)
    profile = torch.fft.fftshift(torch.fft.irfft2(transform, (n, n)), dim=(1, 2)).numpy()
    for row, width in enumerate(seeing):
        along = profile[row, n // 2]
        above = np.flatnonzero(along > along.max() / 2)
        assert (above[-1] - above[0] + 1) * step == pytest.approx(width, abs=1.5 * step)


def test_fibre_fractions_agree_with_an_aperture(lone):
    for name in ("bulge_flux", "disc_flux"):
        single = lone[:]
        other = "disc_flux" if name == "bulge_flux" else "bulge_flux"
        setattr(single, other, np.zeros_like(getattr(single, other)))
        rendered = render_images(np.random.default_rng(2), single, size=256, pixel_scale=0.131)
        fraction = rendered.bulge_fraction if name == "bulge_flux" else rendered.disc_fraction
        centre = (256 - 1) / 2
        aperture = CircularAperture((centre, centre), r=0.75 / 0.131)
        for row in range(0, len(single), 6):
            image = rendered.pixels[row, 1].numpy().astype(float)
            inside = aperture_photometry(image, aperture)["aperture_sum"][0]
            expected = inside / getattr(single, name)[row, 1]
            assert fraction[row] == pytest.approx(expected, rel=0.04)
