"""Survey files against what astropy.io.fits reads from the same bytes."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits

from astroclip.datasets import DATA
from astroclip.exceptions import PreparationError
from astroclip.preparation import prepare_images, read_images, read_spectra
from astroclip.tables import Flag

SAMPLES = DATA / "samples"


# ---------------------------------------------------------------------- images
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


def test_three_images_then_three_inverse_variances(tmp_path):
    cube = np.arange(1.0, 7)[:, None, None] * np.ones((6, 8, 8))
    fits.PrimaryHDU(cube).writeto(tmp_path / "six.fits")
    images = read_images(tmp_path / "six.fits")
    assert {band: ccd.data[0, 0] for band, ccd in images.items()} == {"g": 1, "r": 2, "z": 3}
    assert [ccd.uncertainty.array[0, 0] for ccd in images.values()] == [4, 5, 6]


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
        ({}, {}, "grz"),
        ({"BANDS": "grz"}, {"bands": "izy"}, "izy"),
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
    assert list(images) == ["g DECam", "i DECam"]
    assert [ccd.mask.sum() for ccd in images.values()] == [1, 0]


@pytest.mark.parametrize(
    ("header", "options", "unit"),
    [
        ({"BUNIT": "Jy"}, {}, u.Jy),
        ({"BUNIT": "nanomaggy"}, {}, u.nmgy),
        ({"SURVEY": "DECaLS"}, {}, u.nmgy),
        ({}, {}, u.dimensionless_unscaled),
        ({"BUNIT": "Jy"}, {"unit": u.adu}, u.adu),
        ({"BUNIT": "furlong per fortnight"}, {"unit": "nmgy"}, u.nmgy),
    ],
)
def test_units(tmp_path, header, options, unit):
    images = read_images(write_cube(tmp_path / "cube.fits", **header), **options)
    assert {ccd.unit for ccd in images.values()} == {unit}
    assert {ccd.wcs for ccd in images.values()} == {None}


@pytest.mark.parametrize(
    ("planes", "header", "reason"),
    [
        (3, {"BUNIT": "furlongs"}, "its BUNIT is unknown, pass unit .*furlongs"),
        (2, {}, "it holds 2 images and 0 inverse variances, and names the bands None; pass bands"),
        (3, {"BANDS": "gr"}, r"it holds 3 images .* names the bands \['g', 'r'\]"),
    ],
)
def test_files_that_do_not_say_what_they_hold(tmp_path, planes, header, reason):
    path = write_cube(tmp_path / "cube.fits", planes=planes, **header)
    with pytest.raises(PreparationError, match=f"^path '.*cube.fits' cannot be read .*: {reason}"):
        read_images(path)


@pytest.mark.parametrize("read", [read_spectra, read_images])
def test_unreadable_paths(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"^path '.*none.fits' does not exist; check the"):
        read(tmp_path / "none.fits")
    with pytest.raises(IsADirectoryError, match=r"^path '.*' is a directory; expected a file\."):
        read(tmp_path)
    (tmp_path / "empty.fits").touch()
    (tmp_path / "notes.fits").write_text("no data")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "bare.fits")
    for name in ("empty", "notes", "bare"):
        with pytest.raises(PreparationError, match=rf"^path '.*{name}.fits' cannot be read") as bad:
            read(tmp_path / f"{name}.fits")
        assert bad.value.flag == Flag.FAILED | Flag.BAD_INPUT
