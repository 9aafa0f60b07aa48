"""Contaminants: images and spectra agree with each other and with what was drawn."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from astroclip.simulation.cameras import observe_images
from astroclip.simulation.contaminants import (
    _draw_magnitudes,
    fiber_share,
    make_quasars,
    make_stars,
    render_points,
)
from astroclip.simulation.spectrographs import (
    WAVELENGTH,
    noise_templates,
    observe_spectra_desi,
)


@pytest.fixture(scope="module")
def stars(basis):
    return make_stars(40, basis, seed=2)


@pytest.fixture(scope="module")
def quasars(basis):
    return make_quasars(40, basis, seed=2)


def test_points_keep_their_flux_and_width():
    flux = np.array([[10.0, 20.0, 30.0]] * 5)
    seeing = np.full((5, 3), 1.4)
    pixels = render_points(
        np.random.default_rng(1), flux, seeing, np.full(5, 3.0), size=128, neighbor_density=0.0
    )
    np.testing.assert_allclose(pixels.sum(dim=(2, 3)).numpy(), flux, rtol=2e-3)
    brightest = pixels.amax(dim=(2, 3)).numpy() / flux
    core = 1.4 / 2 / np.sqrt(2 ** (1 / 3) - 1)
    peak = 2 * 0.524**2 / (np.pi * core**2)  # Moffat's central density times a pixel
    assert np.all(brightest < peak)
    assert np.all(brightest > 0.7 * peak)


def test_thefiber_share_is_that_of_a_fine_image():
    seeing, beta = np.full((1, 3), 1.3), np.array([3.0])
    scale, rng = 0.05, np.random.default_rng(3)
    image = render_points(
        rng, np.ones((1, 3)), seeing, beta, size=400, pixel_scale=scale, neighbor_density=0.0
    )[0, 1].numpy()
    axis = np.arange(400)
    y, x = (np.sum(image.sum(axis=k) * axis) / image.sum() for k in (1, 0))
    inside = np.hypot(axis[:, None] - y, axis - x) * scale < 0.75
    total = 1 - (1 + (10 / (1.3 / 2 / np.sqrt(2 ** (1 / 3) - 1))) ** 2) ** -2
    found = image[inside].sum() / image.sum() * total
    assert found == pytest.approx(fiber_share(1.3, 3.0), rel=0.02)


@pytest.mark.parametrize("name", ["stars", "quasars"])
def test_spectra_have_the_brightness_of_their_images(name, basis, request):
    made = request.getfixturevalue(name)
    wavelength = basis.filter_wavelength
    on_grid = np.stack(
        [np.interp(wavelength, WAVELENGTH, row) for row in made["spectrum"].astype(float)]
    )
    fiber = 22.5 - 2.5 * np.log10(1e-8 * on_grid @ basis.filters.T)
    # the fiber misses the same fraction of a point in g and in r
    difference = fiber[:, :2] - made["magnitude"][:, :2]
    np.testing.assert_allclose(difference[:, 0], difference[:, 1], atol=0.01)
    expected = -2.5 * np.log10(
        [fiber_share(made["seeing"][:, 1], beta) for beta in (2.5, 4.5)]
    )
    assert np.all(difference[:, 1] <= expected[0] + 0.02)
    assert np.all(difference[:, 1] >= expected[1] - 0.02)
    center = made["image"][:, 1, 22:42, 22:42].astype(float).sum(axis=(1, 2))
    share = center / 10 ** (-0.4 * (made["magnitude"][:, 1] - 22.5))
    assert np.median(share) == pytest.approx(1.0, abs=0.1)  # a little is outside, or a neighbor's


@pytest.mark.parametrize("make", [make_stars, make_quasars])
def test_same_seed_makes_the_same(make, basis):
    first, second, other = (make(4, basis, seed=seed) for seed in ((1, 2), (1, 2), (1, 3)))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        assert np.isfinite(first[name]).all()
    assert not np.array_equal(first["spectrum"], other["spectrum"])


def test_stars_have_radial_velocities_and_no_redshift(stars):
    assert np.abs(stars["redshift"]).max() < 3e-3
    assert stars["temperature"].min() >= 3000
    assert len(np.unique(stars["temperature"])) == 40


def test_magnitudes_are_counted_as_the_slope_says():
    drawn = _draw_magnitudes(np.random.default_rng(1), 4000, (16.0, 20.0))
    law = lambda r: (10 ** (0.3 * r) - 10**4.8) / (10**6.0 - 10**4.8)  # noqa: E731
    assert kstest(drawn, law).pvalue > 0.001


def test_instruments_record_them(stars, quasars):
    generator = torch.Generator().manual_seed(1)
    for made in (stars, quasars):
        flux = torch.from_numpy(made["spectrum"]).float()
        seen = observe_spectra_desi(flux, generator, templates=noise_templates())
        assert seen.flux.isfinite().all()
        pixels, seeing = (torch.from_numpy(made[key]).float() for key in ("image", "seeing"))
        assert observe_images(pixels, seeing, generator).pixels.isfinite().all()
