"""Instruments: recorded noise is what the inverse variance and the depth say."""

import numpy as np
import pytest
import torch

from astroclip.simulation.instruments import (
    NATIVE_PIXEL,
    WAVELENGTH,
    _smooth,
    noise_templates,
    observe_images,
    observe_spectra_desi,
    observe_spectra_varied,
)


@pytest.fixture(scope="module")
def templates():
    return noise_templates()


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def test_templates_are_real_noise_on_the_grid(templates):
    assert templates.shape == (2, len(WAVELENGTH))
    assert torch.all(templates > 0)
    blue, red = (int(np.searchsorted(WAVELENGTH, w)) for w in (3800, 6800))
    assert torch.all(templates[:, blue] > 2 * templates[:, red])


def test_desi_noise_matches_its_inverse_variance_and_level(templates):
    flux = torch.zeros(200, len(WAVELENGTH))
    seen = observe_spectra_desi(flux, generator(), templates=templates, noise_range=(0.4, 0.4001))
    pull = seen.flux * seen.ivar.sqrt()
    assert float(pull.std()) == pytest.approx(1.0, abs=0.01)
    assert abs(float(pull.mean())) < 0.01
    at = int(np.searchsorted(WAVELENGTH, 6788.0))
    sigma = seen.ivar[:, at - 100 : at + 100].rsqrt().median()
    native = float(sigma) * np.sqrt(WAVELENGTH[at] * 1e-4 * np.log(10) / NATIVE_PIXEL)
    assert native == pytest.approx(0.4, rel=0.05)
    assert not seen.mask.any()


def test_varied_spectra_are_consistent_and_cover_many_ranges(templates):
    flux = torch.ones(400, len(WAVELENGTH)) * 5
    seen = observe_spectra_varied(flux, generator(), templates=templates)
    assert torch.all((seen.ivar > 0) == ~seen.mask)
    assert torch.all(seen.flux[seen.mask] == 0)
    covered = (~seen.mask).float().mean(dim=1)
    assert float(covered.max()) > 0.95
    assert float(covered.min()) < 0.6
    assert float(covered.min()) > 0.1
    noise = (seen.flux * seen.ivar.sqrt()).median(dim=1).values
    assert float(noise.max()) > 20
    assert float(noise.min()) < 1.5


@pytest.mark.parametrize("observe", [observe_spectra_desi, observe_spectra_varied])
def test_same_seed_records_the_same(observe, templates):
    flux = torch.ones(5, len(WAVELENGTH))
    first, second = (observe(flux, generator(3), templates=templates) for _ in range(2))
    assert torch.equal(first.flux, second.flux)
    other = observe(flux, generator(4), templates=templates)
    assert not torch.equal(first.flux, other.flux)


def test_smoothing_keeps_a_constant_and_widens_a_line():
    rows = torch.zeros(2, 400)
    rows[:, 200] = 1.0
    smooth = _smooth(rows, torch.tensor([[2.0], [4.0]]))
    pixel = torch.arange(400) - 200.0
    width = torch.sqrt((smooth * pixel**2).sum(dim=1))
    np.testing.assert_allclose(width.numpy(), [2.0, 4.0], rtol=1e-3)
    constant = _smooth(torch.full((1, 300), 3.0), torch.tensor([[5.0]]))
    np.testing.assert_allclose(constant.numpy(), 3.0, rtol=1e-5)


def test_image_noise_reaches_the_depth_asked_for():
    depth, seeing, scale = 24.0, 1.3, 0.524
    empty = torch.zeros(300, 3, 32, 32)
    seen = observe_images(
        empty, torch.full((300, 3), seeing), generator(), pixel_scale=scale, depths=(depth,) * 3
    )
    sigma = seen.pixels.std(dim=(2, 3)).median()
    effective = 4 * np.pi * (seeing / 2.355 / scale) ** 2
    limit = 22.5 - 2.5 * np.log10(5 * float(sigma) * np.sqrt(effective))
    assert limit == pytest.approx(depth, abs=0.1)
    neighbour = (seen.pixels[..., 1:] * seen.pixels[..., :-1]).mean() / (seen.pixels**2).mean()
    assert 0.1 < float(neighbour) < 0.6


def test_options_of_varied_instruments_bound_what_they_say(templates):
    flux = torch.ones(400, len(WAVELENGTH))
    options = {"templates": templates, "signal_to_noise": (1e4, 1.1e4)}
    seen = observe_spectra_varied(flux, generator(), **options, blue_cut=0.6)
    first = (~seen.mask).int().argmax(dim=1) / len(WAVELENGTH)
    assert 0.4 < float(first.max()) <= 0.62
    usual = observe_spectra_varied(flux, generator(), **options)
    assert float(((~usual.mask).int().argmax(dim=1) / len(WAVELENGTH)).max()) <= 0.27
    scatter = []
    for tilt in (0.05, 0.5):
        seen = observe_spectra_varied(flux, generator(), **options, tilt=tilt)
        good = torch.where(seen.mask, torch.nan, seen.flux)
        blue, red = good[:, 1200:1400].nanmean(dim=1), good[:, 2500:2700].nanmean(dim=1)
        slope = (red / blue).log()
        scatter.append(float(slope[slope.isfinite()].std()))
    assert scatter[1] > 3 * scatter[0]
