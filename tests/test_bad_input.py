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


def stack(images, **header):
    """Return a CCDData stack of a dict of images."""
    first = next(iter(images.values()))
    return CCDData(np.stack([ccd.data for ccd in images.values()]), unit=first.unit, meta=header)


def masked_image():
    images = make_image()
    for ccd in images.values():
        ccd.mask = np.ones(ccd.shape, bool)
    return images


def nan_image():
    images = make_image()
    for ccd in images.values():
        ccd.data[:] = np.nan
    return images


# name: object with a fault in its data, error when alone, message after "objects" or "objects[i]"
LONE_SPECTRA = {
    "no unit": (
        lambda: make_spectrum(unit=u.dimensionless_unscaled, uncertainty=None),
        u.UnitsError,
        r" has flux with no unit; expected a flux density convertible to .* Multiply the flux",
    ),
    "counts": (
        lambda: make_spectrum(unit=u.ct),
        u.UnitsError,
        r" has flux with unit 'ct'; expected a flux density .* Multiply the flux by its unit",
    ),
    "temperature": (
        lambda: make_spectrum(unit=u.K),
        u.UnitsError,
        r" has flux with unit 'K'; expected a flux density convertible",
    ),
    "flux without per wavelength": (
        lambda: make_spectrum(unit=u.erg / u.s / u.cm**2),
        u.UnitsError,
        r" has flux with unit 'erg / \(s cm2\)'; expected a flux density",
    ),
    "axis in pixels": (
        lambda: make_spectrum(axis_unit=u.pix),
        u.UnitsError,
        r" has a spectral axis in 'pix'; expected a wavelength, .* Set spectral_axis",
    ),
    "duplicate wavelengths": (
        lambda: make_spectrum(wavelength=np.repeat(np.linspace(3600, 9800, 700), 2)),
        PreparationError,
        r" has wavelengths that are not strictly monotonic: pixel 0 is at 3600 and pixel 1 at "
        r"3600 Angstrom. Sort them and average duplicates",
    ),
    "wavelengths below zero": (
        lambda: make_spectrum(wavelength=np.linspace(-100, 9800, 700)),
        PreparationError,
        r" has wavelengths",
    ),
    "five pixels": (
        lambda: make_spectrum(wavelength=[4000, 5000, 6000, 7000, 8000]),
        PreparationError,
        r" has 5 pixels; expected a spectrum of at least 6",
    ),
    "all masked": (
        lambda: make_spectrum(mask=np.ones(len(WAVELENGTH), bool)),
        PreparationError,
        r" has no valid pixel: all 1557 are masked, .* Check its mask and uncertainty",
    ),
    "all NaN": (
        lambda: with_flux(make_spectrum(), fill(np.nan)),
        PreparationError,
        r" has no valid pixel: all 1557 are masked, not finite",
    ),
    "all infinite": (
        lambda: with_flux(make_spectrum(), fill(np.inf)),
        PreparationError,
        r" has no valid pixel: all 1557 are masked, not finite",
    ),
    "zero ivar everywhere": (
        lambda: make_spectrum(uncertainty=InverseVariance(np.zeros(len(WAVELENGTH)))),
        PreparationError,
        r" has no valid pixel: .* zero inverse variance; .* Check its mask and uncertainty",
    ),
    "no overlap": (
        lambda: make_spectrum(wavelength=np.linspace(10000, 20000, 900)),
        PreparationError,
        r" covers 0.0 % of the model's range .* \(its own range is 10000-20000.* Lower min_coverage",
    ),
    "five per cent overlap": (
        lambda: make_spectrum(wavelength=np.linspace(9500, 12000, 900)),
        PreparationError,
        r" covers 5\.\d % of the model's range 3600-9824 .* expected at least 10 %. Lower",
    ),
    "negative redshift": (
        lambda: make_spectrum(redshift=-0.5),
        PreparationError,
        r" has redshift -0.5; expected a finite one of at least -0.01. Pass redshift=nan",
    ),
}

LONE_IMAGES = {
    "image without unit": (
        lambda: make_image(unit=u.dimensionless_unscaled),
        u.UnitsError,
        r"\['g'\] has no unit and no zero point; expected nanomaggies, .* Set its unit",
    ),
    "image in counts": (
        lambda: make_image(unit=u.adu),
        u.UnitsError,
        r"\['g'\] has unit 'adu' and no zero point; expected nanomaggies, .* pass zero_point",
    ),
    "image in kelvin": (
        lambda: make_image(unit=u.K),
        u.UnitsError,
        r"\['g'\] has unit 'K' and no zero point; expected nanomaggies",
    ),
    "wrong band names": (
        lambda: dict(zip(["blue", "red", "far"], make_image().values(), strict=True)),
        PreparationError,
        r": band is 'blue'; expected a letter of u, g, r, i, z, y",
    ),
    "missing band": (
        lambda: make_image(bands="gr"),
        PreparationError,
        r" lacks band 'z'; it has \['g', 'r'\] and the model needs .* Add the band",
    ),
    "other bands": (
        lambda: make_image(bands="uiy"),
        PreparationError,
        r" lacks band 'g', 'r', 'z'; it has \['i', 'u', 'y'\]",
    ),
    "bands of different shapes": (
        lambda: make_image(wcs=False, shapes={"r": (160, 160)}),
        PreparationError,
        r" has bands of different shapes .*'r': \(160, 160\).* Cut all bands to the same pixels",
    ),
    "image smaller than the crop": (
        lambda: make_image(shape=(100, 120)),
        PreparationError,
        r"\['g'\] is 120 x 100 pixels; expected at least 144 on a side .* Get a larger cutout",
    ),
    "image of one axis": (
        lambda: {band: CCDData(np.ones(152), unit=u.nmgy) for band in "grz"},
        PreparationError,
        r"\['g'\] has 1 axes; expected \(y, x\)",
    ),
    "stack of one plane": (
        lambda: make_image()["g"],
        PreparationError,
        r" has data of shape \(152, 152\); expected a stack \(band, y, x\), or a dict",
    ),
    "stack without band names": (
        lambda: stack(make_image()),
        PreparationError,
        r" is a stack of 3 bands and names 0 .*; expected a name for each. Pass stack_bands",
    ),
    "stack with too few names": (
        lambda: stack(make_image(), BANDS="gr"),
        PreparationError,
        r" is a stack of 3 bands and names 2",
    ),
    "all pixels masked": (
        masked_image,
        PreparationError,
        r"\['g'\] has no valid pixel: all 23104 are masked, .* Check its mask and uncertainty",
    ),
    "all pixels NaN": (
        nan_image,
        PreparationError,
        r"\['g'\] has no valid pixel: all 23104 are masked",
    ),
}
