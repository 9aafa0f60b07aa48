"""Pixel values of every archive are nanomaggies: the same light gives the same flux."""

import numpy as np
import pytest

from astroclip.archives import HiPS, fetch
from tests.archives.conftest import POSITION


def images(archive, quick, **options):
    quick = {"products": "images", "bands": "r", **quick, "size": 64}
    return fetch(POSITION, archives=archive, **quick | options).images


@pytest.mark.parametrize("archive", ["legacysurvey", "hips"])
def test_values_of_services_that_resample(server, quick, archive):
    expected = server.plane("r", 64)[0]
    np.testing.assert_allclose(images(archive, quick)["r"].data, expected, rtol=1e-6)


def test_hips_at_another_scale(server, quick):
    image = images("hips", quick, pixel_scale=0.524)["r"]
    np.testing.assert_allclose(image.data, 4 * server.plane("r", 64)[0], rtol=1e-6)


def test_hips_in_other_units(server, quick):
    archive = HiPS({"r": "CDS/P/x/r"}, unit="adu", zero_point=25.0, native_scale=None)
    image = images(archive, quick, pixel_scale=0.524)["r"]
    np.testing.assert_allclose(image.data, 0.1 * server.plane("r", 64)[0], rtol=1e-6)


def test_panstarrs_counts(server, quick):
    # 1000 times the pixels in 100 s: a zero point of 25 + 5
    image = images("panstarrs", quick)["r"]
    size = round(64 * 0.262 / 0.25)
    expected = server.plane("r", size)[0] * 1000 * 10 ** ((22.5 - 30) / 2.5)
    np.testing.assert_allclose(image.data, expected, rtol=1e-5)


def test_sdss_frames_are_cut_around_the_position(server, quick):
    image = images("sdss", quick)["r"]
    size = round(64 * 0.262 / 0.396)
    whole = server.legacy["r"]
    x, y = whole.wcs.world_to_pixel(POSITION)
    assert image.data.shape == (size, size)
    at = image.wcs.world_to_pixel(POSITION)
    np.testing.assert_allclose(
        image.data[int(round(float(at[1]))), int(round(float(at[0])))],
        whole.data[int(round(float(y))), int(round(float(x)))],
    )


def test_pixels_without_data_are_masked(server, quick):
    for ccd in server.legacy.values():
        ccd.data[60:70, 60:70] = 0.0
    image = images("legacysurvey", quick)["r"]
    assert image.mask.sum() == 100
