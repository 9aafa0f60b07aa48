"""What bad input gets: an error that names argument, index, value and fix, or a flagged row.

One row of a table is one case. ``LONE`` objects have a fault in their data: alone they
raise, in a list they keep a flagged row and leave the others untouched. ``MISUSE`` calls
are wrong as a whole and always raise.
"""

import dataclasses
import pickle
import warnings
import zipfile

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS
from specutils import Spectrum, SpectrumList

import astroclip
from astroclip import embed
from astroclip.exceptions import (
    CheckpointError,
    FailedObjectWarning,
    ModelMismatchError,
    PreparationError,
    UnsafeCheckpointError,
)
from astroclip.models.loading import load_model
from astroclip.preparation import ImageBatch, SpectrumBatch
from astroclip.tables import Flag

FLUX_UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
WAVELENGTH = np.linspace(3600, 9824, 1557)


def make_spectrum(seed=0, *, wavelength=WAVELENGTH, unit=FLUX_UNIT, axis_unit=u.AA, **options):
    """Return a noisy galaxy-like Spectrum."""
    rng = np.random.default_rng(seed)
    wavelength = np.asarray(wavelength, dtype=float)
    flux = 3 + np.sin(wavelength / 300 + seed) + 0.2 * rng.normal(size=len(wavelength))
    ivar = InverseVariance(np.full(len(wavelength), 25.0))
    return Spectrum(
        flux=flux * unit,
        spectral_axis=wavelength * axis_unit,
        **{"uncertainty": ivar, **options},
    )


def make_image(seed=0, *, shape=(152, 152), unit=u.nmgy, wcs=True, bands="grz", shapes=None):
    """Return a dict of CCDData of a round galaxy at the centre of a field at (10, 2) deg."""
    rng = np.random.default_rng(seed)
    images = {}
    for number, band in enumerate(bands):
        n_y, n_x = (shapes or {}).get(band, shape)
        y, x = np.mgrid[:n_y, :n_x]
        radius = np.hypot(y - (n_y - 1) / 2, x - (n_x - 1) / 2)
        flux = (1 + number) * 0.1 * np.exp(-radius / (6 + seed)) + 0.003 * rng.normal(size=(n_y, n_x))
        images[band] = CCDData(flux, unit=unit, wcs=make_wcs(n_x, n_y) if wcs else None)
    return images


def make_wcs(n_x, n_y, scale=0.262):
    """Return a tangential projection of 0.262 arcsec pixels."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10.0, 2.0]
    wcs.wcs.crpix = [(n_x + 1) / 2, (n_y + 1) / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs


def with_flux(spectrum, change):
    """Return the spectrum with ``change`` applied to its flux values."""
    flux = np.array(spectrum.flux.value)
    change(flux)
    return Spectrum(
        flux=flux * spectrum.flux.unit,
        spectral_axis=spectrum.spectral_axis,
        uncertainty=spectrum.uncertainty,
    )


def fill(value, where=slice(None)):
    """Return a function that sets part of an array."""

    def change(array):
        array[where] = value

    return change
