"""Spectrographs: noise, resolution, range and aperture are what their options say."""

import numpy as np
import pytest
import torch

from astroclip.simulation.spectrographs import (
    DESI_LINE_SPREAD,
    NATIVE_PIXEL,
    PIXEL_VELOCITY,
    WAVELENGTH,
    _smooth,
    noise_templates,
    observe_spectra_desi,
    observe_spectra_sdss,
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


@pytest.mark.parametrize(
    "observe", [observe_spectra_desi, observe_spectra_sdss, observe_spectra_varied]
)
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


def test_sdss_resolving_power_follows_the_instrument_paper(templates):
    lines = {3900.0: (1100, 1600), 5200.0: (1500, 2050), 6600.0: (1700, 2300), 8700.0: (2350, 3000)}
    flux = torch.zeros(40, len(WAVELENGTH))
    columns = [int(np.searchsorted(WAVELENGTH, line)) for line in lines]
    flux[:, columns] = 1e6
    seen = observe_spectra_sdss(
        flux, generator(), templates=templates, noise_range=(1e-9, 2e-9), boss_share=0.0
    )
    offset = torch.arange(-8, 9)
    for column, (least, most) in zip(columns, lines.values(), strict=True):
        near = seen.flux[:, column - 8 : column + 9]
        whole = ~seen.mask[:, column - 8 : column + 9].any(dim=1)
        variance = (near * offset**2).sum(dim=1)[whole] / near.sum(dim=1)[whole]
        sigma = torch.sqrt(variance * PIXEL_VELOCITY**2 + DESI_LINE_SPREAD**2)
        power = 299792.458 / (2.3548 * sigma)
        assert least < float(power.min())
        assert float(power.max()) < most


def test_sdss_records_its_range_and_more_light_than_desi(templates):
    flux = torch.full((200, len(WAVELENGTH)), 100.0)
    options = {"templates": templates, "noise_range": (1e-6, 2e-6)}
    for share, (low, high) in ((0.0, (3795.0, 9210.0)), (1.0, (3650.0, 9820.0))):
        seen = observe_spectra_sdss(flux, generator(), boss_share=share, **options)
        good = WAVELENGTH[(~seen.mask).any(dim=0).numpy()]
        assert low <= good[0] < low + 40
        assert high - 30 < good[-1] <= high
        assert torch.all((seen.ivar > 0) == ~seen.mask)
        middle = torch.where(seen.mask, torch.nan, seen.flux)[:, 1500:3000].nanmedian(dim=1)
        gain = float(middle.values.median()) / 100
        # of a uniform source, the ratio of the fibres' areas is the most there can be
        assert 1.2 < gain < (3.0 / 1.5) ** 2 if share == 0 else 1.1 < gain < (2.0 / 1.5) ** 2


def test_sdss_noise_has_its_level_and_correlation(templates):
    flux = torch.zeros(300, len(WAVELENGTH))
    seen = observe_spectra_sdss(
        flux, generator(), templates=templates, noise_range=(1.0, 1.001), boss_share=0.0
    )
    at = int(np.searchsorted(WAVELENGTH, 6788.0))
    good = ~seen.mask[:, at - 150 : at + 150]
    sigma = seen.ivar[:, at - 150 : at + 150][good].rsqrt().median()
    assert float(sigma) == pytest.approx(1.0, rel=0.1)
    pull = (seen.flux * seen.ivar.sqrt())[:, at - 150 : at + 150]
    neighbor = (pull[:, 1:] * pull[:, :-1]).mean() / (pull**2).mean()
    assert 0.1 < float(neighbor) < 0.35
    assert 1.0 < float(pull.std()) < 1.3
    red = seen.ivar[:, int(np.searchsorted(WAVELENGTH, 9100.0))]
    assert float(red[red > 0].rsqrt().median()) > 1.2  # DESI's falls there


def test_flux_calibration_of_sdss_is_tilted_by_a_few_percent(templates):
    flux = torch.full((400, len(WAVELENGTH)), 100.0)
    seen = observe_spectra_sdss(
        flux, generator(), templates=templates, noise_range=(1e-6, 2e-6), boss_share=0.0
    )
    good = torch.where(seen.mask, torch.nan, seen.flux)
    ends = good[:, 300:340].nanmedian(dim=1).values, good[:, 3990:4030].nanmedian(dim=1).values
    tilt = (ends[1] / ends[0]).log() / 2
    assert float(tilt.std()) == pytest.approx(0.05 * 0.85, rel=0.15)  # 85 % of the way out
