"""Image files against the arrays, headers and WCS that were written into them."""

import gzip
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.datasets import DATA, sample_image
from astroclip.exceptions import PreparationError
from astroclip.preparation import prepare_images, read_images
from astroclip.preparation.image_files import open_images, read_band
from astroclip.preparation.reading import file_modality

SAMPLES = DATA / "samples"
SAMPLE = SAMPLES / "legacysurvey-59.1067-30.4848.fits"
SHAPE = (40, 50)
SKY = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 25.5,
    "CRPIX2": 20.5, "CD1_1": -7e-5, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 7e-5,
}


def picture(value=1.0, dtype=np.float32, shape=SHAPE):
    """Return an array whose pixels differ, around a value."""
    return (value + np.arange(np.prod(shape)).reshape(shape) / 1e4).astype(dtype)


def extension(value=1.0, name=None, dtype=np.float32, *, shape=SHAPE, sky=True, **cards):
    """Return an extension with an array and cards."""
    header = fits.Header({**(SKY if sky else {}), **cards})
    return fits.ImageHDU(picture(value, dtype, shape), header, name=name)


def write(path, *hdus, **primary):
    """Write extensions below a primary header without data, and return the path."""
    cards = {f"HIERARCH {k}" if " " in k or "." in k else k: v for k, v in primary.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        fits.HDUList([fits.PrimaryHDU(header=fits.Header(cards)), *hdus]).writeto(path)
    return path


# ---------------------------------------------------------------------- real files and names
def test_bundled_cutout():
    path = SAMPLES / "legacysurvey-59.1067-30.4848.fits"
    images = read_images(path)
    assert list(images) == ["g", "r", "z"]
    with fits.open(path) as hdus:
        for number, ccd in enumerate(images.values()):
            np.testing.assert_array_equal(ccd.data, hdus[1 + 2 * number].data)
            np.testing.assert_array_equal(ccd.uncertainty.array, hdus[2 + 2 * number].data)
            assert ccd.unit == u.nmgy
            assert ccd.data.dtype.isnative
    sky = images["g"].wcs.pixel_to_world(79.5, 79.5)
    assert sky.ra.deg == pytest.approx(59.1067, abs=1e-3)
    assert sky.dec.deg == pytest.approx(-30.4848, abs=1e-3)


def test_the_same_field_in_two_files_is_the_same_image(shared_data):
    images = read_images(shared_data / "images" / "cutout_59.1067_-30.4848.fits")
    small = read_images(SAMPLES / "legacysurvey-59.1067-30.4848.fits")
    np.testing.assert_array_equal(images["r"].data[48:208, 48:208], small["r"].data)
    first, second = (prepare_images(item) for item in (images, small))
    np.testing.assert_array_equal(first.pixels, second.pixels)


def write_cube(path, *, planes=3, **header):
    """Write a cube whose plane k holds k + 1, and return its path."""
    cube = np.arange(1.0, planes + 1)[:, None, None] * np.ones((planes, 8, 8))
    fits.PrimaryHDU(cube, fits.Header(header)).writeto(path)
    return path


@pytest.mark.parametrize(
    ("header", "options", "bands"),
    [
        ({"BANDS": "zrg"}, {}, "zrg"),
        ({"BANDS": "z, r, g"}, {}, "zrg"),
        ({"BAND0": "r", "BAND1": "g", "BAND2": "z"}, {}, "rgz"),
        ({"BANDS": "[g r z]"}, {}, "grz"),
        ({"BANDS": "DECam g,DECam r,DECam z"}, {}, "grz"),
        ({"BAND1": "g", "BAND2": "r", "BAND3": "z"}, {}, "grz"),
        ({"FILTER": "gri"}, {}, "gri"),
        ({}, {"bands": "izy"}, "izy"),
        ({}, {"bands": ["DECam i", "DECam z", "Y"]}, ["DECam i", "DECam z", "Y"]),
        ({"BANDS": "grz"}, {"bands": "grz"}, "grz"),
    ],
)
def test_band_names(tmp_path, header, options, bands):
    images = read_images(write_cube(tmp_path / "cube.fits", **header), **options)
    assert list(images) == list(bands)
    assert [ccd.data.max() for ccd in images.values()] == [1, 2, 3]


def test_one_image_per_extension_named_by_its_filter(tmp_path):
    hdus = [fits.PrimaryHDU()]
    for k, band in enumerate("gi"):
        hdus.append(fits.ImageHDU(np.full((8, 8), k), fits.Header({"FILTER": f"{band} DECam"})))
        hdus.append(fits.ImageHDU(np.full((8, 8), 4.0), name=f"IVAR_{band}"))
    hdus[2].data[0, 0] = 0
    fits.HDUList(hdus).writeto(tmp_path / "two.fits")
    images = read_images(tmp_path / "two.fits")
    assert list(images) == ["g", "i"]
    assert [ccd.mask.sum() for ccd in images.values()] == [1, 0]


@pytest.mark.parametrize(
    ("header", "options", "unit"),
    [
        ({"BUNIT": "Jy"}, {}, u.Jy),
        ({"BUNIT": "nanomaggy"}, {}, u.nmgy),
        ({"SURVEY": "DECaLS"}, {}, u.nmgy),
        ({}, {}, u.dimensionless_unscaled),
        ({"BUNIT": "ADU"}, {"unit": u.nmgy}, u.nmgy),
        ({"BUNIT": "furlong per fortnight"}, {"unit": "nmgy"}, u.nmgy),
    ],
)
def test_units(tmp_path, header, options, unit):
    images = read_images(write_cube(tmp_path / "cube.fits", BANDS="grz", **header), **options)
    assert {ccd.unit for ccd in images.values()} == {unit}
    assert {ccd.wcs for ccd in images.values()} == {None}


