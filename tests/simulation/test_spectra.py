"""Spectra: energies, wavelengths and fluxes against closed formulas."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy import constants
from astropy.cosmology import FlatLambdaCDM

from astroclip.simulation.population import draw_galaxies
from astroclip.simulation.spectra import _attenuation_curve


@pytest.fixture(scope="module")
def galaxies():
    sample = draw_galaxies(np.random.default_rng(2), 40, redshift_range=(0.05, 0.4))
    sample.dust[:] = 0.0
    return sample


def test_broadening_keeps_the_light_and_widens_a_line(simulator):
    light = torch.zeros(2, len(simulator.wavelength))
    light[:, 7000] = 1.0
    broad = simulator._broaden(light, np.array([100.0, 300.0]))
    np.testing.assert_allclose(broad.sum(dim=1).numpy(), 1.0, rtol=1e-5)
    pixel = torch.arange(light.shape[1]) - 7000.0
    near = pixel.abs() < 100  # float32 ripples far away would count as wings
    width = torch.sqrt((broad * pixel**2)[:, near].sum(dim=1)) * simulator.velocity_step
    np.testing.assert_allclose(width.numpy(), [100.0, 300.0], rtol=0.01)


def test_lines_carry_their_luminosity(simulator):
    light = torch.zeros(1, len(simulator.wavelength))
    simulator._add_lines(light, torch.tensor([[3.0]]), [6564.61], np.array([120.0]))
    step = simulator.wavelength * simulator.log_step
    assert float((light * step).sum()) == pytest.approx(3.0, rel=2e-3)


def test_a_line_is_observed_at_its_redshifted_vacuum_wavelength(simulator, galaxies):
    wavelength = np.arange(3600.0, 9824.0, 0.4)
    nothing, everything = np.zeros(len(galaxies)), np.ones(len(galaxies))
    forming = ~galaxies.quiescent & (galaxies.agn == 0)
    flux = simulator.spectra(galaxies, nothing, everything, wavelength).numpy()
    expected = 5008.24 * (1 + galaxies.redshift)
    for row in np.flatnonzero(forming)[:5]:
        near = np.abs(wavelength - expected[row]) < 20
        peak = wavelength[near][np.argmax(flux[row, near])]
        assert peak == pytest.approx(expected[row], abs=0.5)


def test_photometry_of_a_flat_spectrum_is_flat_and_matches_the_luminosity(
    simulator, basis, galaxies
):
    bulge, disc = simulator.photometry(galaxies)
    stars_only = bulge  # the bulge has no lines
    np.testing.assert_allclose(stars_only[:, 0] / stars_only[:, 1], 1.0, rtol=2e-3)
    light, _, _ = simulator.rest_light(galaxies)
    at = np.searchsorted(basis.wavelength, 5500.0)
    luminosity = light[:, at].numpy() * u.Lsun / u.AA
    distance = FlatLambdaCDM(70, 0.3).luminosity_distance(galaxies.redshift)
    rest = 5500 * u.AA
    # L_nu is flat, so the observed f_nu is (1 + z) L_nu / 4 pi d^2 at any frequency
    l_nu = luminosity * rest**2 / constants.c
    f_nu = (1 + galaxies.redshift) * l_nu / (4 * np.pi * distance**2)
    np.testing.assert_allclose(stars_only[:, 1], 1e9 * f_nu.to_value(u.AB), rtol=5e-3)


def test_stellar_mass_is_the_surviving_one(simulator, galaxies):
    bulge, disc = (np.array(part) for part in simulator._histories(galaxies))
    np.testing.assert_allclose(bulge.sum(axis=1), 1.0)
    np.testing.assert_allclose(disc.sum(axis=1), 1.0)
    assert (bulge >= 0).all()
    assert (disc >= 0).all()


def test_attenuation_is_one_at_v_and_steeper_in_the_blue():
    curve = _attenuation_curve(torch.tensor([3700.0, 5500.0, 8000.0]), torch.zeros(1))[0]
    assert float(curve[1]) == pytest.approx(1.0, abs=0.01)
    assert curve[0] > curve[1] > curve[2]


def test_dust_reddens(simulator, galaxies):
    dusty = galaxies[:]
    dusty.dust = np.full(len(dusty), 1.0)
    clear, red = (simulator.photometry(sample)[1] for sample in (galaxies, dusty))
    assert np.all(red[:, 0] / red[:, 2] < clear[:, 0] / clear[:, 2])
