"""A small spectral basis with the shape of the real one and light that is known exactly."""

import numpy as np
import pytest

from astroclip.simulation.basis import LOG_STEP, SpectralBasis, age_bins
from astroclip.simulation.spectra import SpectrumSimulator


@pytest.fixture(scope="session")
def basis():
    """Return populations with f_lambda ~ lambda^-2 (flat in AB) that fade with age."""
    wavelength = 10 ** np.arange(np.log10(2000.0), np.log10(10900.0), LOG_STEP)
    centers, edges = age_bins()
    fading = (centers / 1e9 + 0.01) ** -0.8
    shape = 1e-4 * (wavelength / 5500.0) ** -2
    stars = np.ones((2, 1, 1)) * fading[None, :, None] * shape
    filter_wavelength = np.arange(3500.0, 10900.0, 4.0)
    edges_angstrom = np.array([[4000, 5500], [5600, 7100], [8300, 10000]])
    response = (filter_wavelength > edges_angstrom[:, :1]) & (
        filter_wavelength < edges_angstrom[:, 1:]
    )
    weighted = response * filter_wavelength
    ab = 3.631e-20 * 2.99792458e18 / filter_wavelength**2
    return SpectralBasis(
        wavelength=wavelength,
        age_edges=edges,
        metallicity=np.array([0.1, 3.0]),
        stars=stars.astype(np.float32),
        surviving=np.full((2, len(centers)), 0.7, np.float32),
        log_ionization=np.linspace(-4, -2, 5),
        lines=np.full((5, 2, 15, 2), 1e-1, np.float32),
        line_wavelength=np.array([5008.24, 6564.61]),
        continuum=np.zeros((2, 15, len(wavelength)), np.float32),
        filters=weighted / (weighted * ab).sum(axis=1, keepdims=True),
        filter_wavelength=filter_wavelength,
    )


@pytest.fixture(scope="session")
def simulator(basis):
    """Return a simulator on the small basis."""
    return SpectrumSimulator(basis)
