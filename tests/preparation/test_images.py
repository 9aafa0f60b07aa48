"""Images: exact crops and bins, conserved flux, positions, units, bands and bad pixels."""

import re

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from astroclip.datasets import DATA
from astroclip.exceptions import PreparationError
from astroclip.preparation import center_crop, prepare_images, read_images
from astroclip.tables import Flag

SIZE = 24


def make_wcs(shape, scale=0.262):
    """Return a tangential projection about (150, 2) deg at the centre of the image."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs


def make_images(seed=0, *, bands="grz", shape=(40, 40), scale=0.262, unit=u.nmgy, **options):
    """Return a dict of CCDData of positive random pixels."""
    rng = np.random.default_rng(seed)
    wcs = None if scale is None else make_wcs(shape, scale)
    return {
        band: CCDData(rng.uniform(1, 2, shape), unit=unit, wcs=wcs, **options) for band in bands
    }


def prepare(images, **options):
    return prepare_images(images, **{"size": SIZE, **options})


# ---------------------------------------------------------------------- pixels
@pytest.mark.parametrize("shape", [(24, 24), (40, 40), (41, 40), (33, 57)])
def test_the_central_pixels_are_copied(shape):
    images = make_images(shape=shape)
    batch = prepare(images)
    top, left = ((n + 1 - SIZE) // 2 for n in shape)
    for number, band in enumerate("grz"):
        expected = images[band].data[top : top + SIZE, left : left + SIZE]
        np.testing.assert_array_equal(batch.pixels[0, number], expected.astype(np.float32))
    assert batch.pixels.dtype == np.float32
    assert batch.coverage[0] == 1
    assert batch.flags[0] == 0


@pytest.mark.parametrize("n", [2, 3, 5])
def test_binning_by_whole_numbers_is_exact(n):
    images = make_images(shape=(n * SIZE, n * SIZE), scale=0.262 / n)
    batch = prepare(images)
    for number, band in enumerate("grz"):
        blocks = images[band].data.astype(np.float32).astype(float).reshape(SIZE, n, SIZE, n)
        np.testing.assert_allclose(batch.pixels[0, number], blocks.sum(axis=(1, 3)), rtol=1e-6)
    assert batch.flags[0] == Flag.RESAMPLED


@given(st.floats(0.1, 0.8).filter(lambda scale: abs(0.262 / scale - 1) > 0.021))
def test_resampling_conserves_flux(scale):
    n_pixels = int(np.ceil(SIZE * 0.262 / scale)) + 8
    light = np.zeros((n_pixels, n_pixels))
    light[n_pixels // 3 : -(n_pixels // 3), n_pixels // 3 : -(n_pixels // 3)] = 1.0
    images = {"r": CCDData(light, unit=u.nmgy, wcs=make_wcs(light.shape, scale))}
    batch = prepare(images, bands="r")
    assert batch.pixels.sum() == pytest.approx(light.sum(), rel=1e-5)
    assert batch.flags[0] == Flag.RESAMPLED


def resample_slowly(light, good, factor, size):
    """Return flux and covered share of square output pixels, by loops over all overlaps."""
    start = [np.floor((n - 1) / 2 + 1 - size * factor / 2) for n in light.shape]
    flux, area = np.zeros((2, size, size))
    for row in range(size):
        for column in range(size):
            for y in range(light.shape[0]):
                for x in range(light.shape[1]):
                    low = [start[0] + row * factor, start[1] + column * factor]
                    sides = [
                        min(low[k] + factor, at + 1) - max(low[k], at) for k, at in ((0, y), (1, x))
                    ]
                    if min(sides) > 0 and good[y, x]:
                        flux[row, column] += sides[0] * sides[1] * light[y, x]
                        area[row, column] += sides[0] * sides[1] / factor**2
    return flux, area


@pytest.mark.parametrize("factor", [0.6, 1.3, 1.7, 2.5])
def test_resampling_agrees_with_a_loop_and_bad_pixels_never_leak(factor):
    rng = np.random.default_rng(1)
    light, good = rng.uniform(1, 2, (14, 15)), rng.random((14, 15)) > 0.15
    image = CCDData(
        np.where(good, light, 1e9), unit=u.nmgy, mask=~good, wcs=make_wcs((14, 15), 0.262 / factor)
    )
    batch = prepare_images({"r": image}, bands="r", size=5)
    flux, area = resample_slowly(light, good, factor, 5)
    np.testing.assert_array_equal(batch.mask[0, 0], area < 0.5)
    clear = area >= 0.5
    np.testing.assert_allclose(batch.pixels[0, 0][clear], flux[clear] / area[clear], rtol=1e-5)
    assert batch.pixels.max() < 3 * factor**2


@pytest.mark.parametrize(("scale", "resampled"), [(0.2651, False), (0.27, True), (0.255, True)])
def test_small_differences_of_scale_are_left_alone(scale, resampled):
    batch = prepare(make_images(scale=scale))
    assert bool(batch.flags[0] & Flag.RESAMPLED) is resampled


# ---------------------------------------------------------------------- positions
def point_source(x, y, shape=(80, 90), *, scale=0.262, sigma=1.5, level=0.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    light = level + 5 * np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / sigma**2)
    return CCDData(light, unit=u.nmgy, wcs=make_wcs(shape, scale))


@pytest.mark.parametrize(("x", "y"), [(44.5, 39.5), (30, 50), (60, 25)])
def test_a_sky_position_is_brought_to_the_centre(x, y):
    image = point_source(x, y)
    sky = image.wcs.pixel_to_world(x, y)
    batch = prepare({"r": image}, bands="r", position=sky.galactic)
    row, column = np.unravel_index(batch.pixels[0, 0].argmax(), (SIZE, SIZE))
    assert abs(row - (SIZE - 1) / 2) <= 1
    assert abs(column - (SIZE - 1) / 2) <= 1
    assert batch.ra[0] == pytest.approx(sky.ra.deg)
    assert batch.dec[0] == pytest.approx(sky.dec.deg)


def test_the_centre_s_position_is_recorded():
    batch = prepare(make_images(scale=0.262))
    assert [batch.ra[0], batch.dec[0]] == pytest.approx([150, 2])
    assert np.isnan(prepare(make_images(scale=None), image_scale=0.262).ra[0])


def test_centring_on_the_source():
    image = point_source(48, 36)
    batch = prepare({"r": image}, bands="r", center="source")
    expected = image.data[36 - 12 + 1 : 36 + 13, 48 - 12 + 1 : 48 + 13].astype(np.float32)
    np.testing.assert_array_equal(batch.pixels[0, 0], expected)
    sky = image.wcs.pixel_to_world(48, 36)
    np.testing.assert_allclose([batch.ra[0], batch.dec[0]], [sky.ra.deg, sky.dec.deg], atol=1e-6)
    nothing = prepare({"r": point_source(5, 5)}, bands="r", center="source")
    assert nothing.flags[0] == Flag.NO_SOURCE


def test_bands_of_different_pixels_are_aligned_through_the_sky():
    first = point_source(50, 45, (80, 90))
    sky = first.wcs.pixel_to_world(50, 45)
    other = make_wcs((120, 100))
    x, y = (float(value) for value in other.world_to_pixel(sky))
    images = {"r": first, "z": point_source(x, y, (120, 100))}
    batch = prepare(images, bands="rz", position=sky)
    np.testing.assert_allclose(batch.pixels[0, 0], batch.pixels[0, 1], atol=1e-4)


def test_positions_of_a_list():
    images = [{"r": point_source(30, 50)}, {"r": point_source(60, 25)}]
    sky = SkyCoord([image["r"].wcs.pixel_to_world(*at) for image, at in
                    zip(images, [(30, 50), (60, 25)], strict=True)])
    batch = prepare(images, bands="r", position=sky)
    np.testing.assert_allclose(batch.ra, sky.ra.deg)
    with pytest.raises(ValueError, match="^position has 2 coordinates; expected one, or 1"):
        prepare(images[:1], bands="r", position=sky)
    with pytest.raises(TypeError, match="^position is of type tuple; expected an astropy"):
        prepare(images, position=(150.0, 2.0))


# ---------------------------------------------------------------------- units and background
@pytest.mark.parametrize(
    ("unit", "options", "factor"),
    [
        (u.nmgy, {}, 1.0),
        (u.uJy, {}, 1 / 3.631),
        (u.adu, {"zero_point": 25.0}, 0.1),
        (u.electron / u.s, {"zero_point": {"DECam g": 25.0, "r": 25.0, "sdss-z": 25.0}}, 0.1),
    ],
)
def test_units(unit, options, factor):
    batch = prepare(make_images(unit=unit), **options)
    expected = prepare(make_images())
    np.testing.assert_allclose(batch.pixels, factor * expected.pixels, rtol=1e-6)


def test_zero_points_by_band_and_by_header():
    images = make_images(unit=u.adu)
    for band, zero_point in zip("grz", (22.5, 25.0, 20.0), strict=True):
        images[band].meta["MAGZERO"] = zero_point
    expected = prepare(make_images()).pixels * np.float32([1, 0.1, 10])[:, None, None]
    np.testing.assert_allclose(prepare(images).pixels, expected, rtol=1e-6)
    by_band = {"g": 22.5, "r": 25.0, "z": 20.0}
    batch = prepare(make_images(unit=u.adu), zero_point=by_band)
    np.testing.assert_allclose(batch.pixels, expected, rtol=1e-6)
    with pytest.raises(u.UnitsError, match=r"^images\['z'\] has unit 'adu' and no zero point"):
        prepare(make_images(unit=u.adu), zero_point={"g": 22.5, "r": 25.0})


def test_background_is_removed_on_request():
    rng = np.random.default_rng(0)
    image = point_source(44.5, 39.5, level=3.0)
    image.data += 0.01 * rng.normal(size=image.shape)
    image.mask = np.zeros(image.shape, bool)
    image.mask[:5], image.data[:5] = True, 1e5
    removed = prepare({"r": image}, bands="r", subtract_background=True)
    kept = prepare({"r": image}, bands="r")
    np.testing.assert_allclose(kept.pixels - removed.pixels, 3.0, atol=0.01)
    assert abs(np.median(removed.pixels)) < 0.02


@pytest.mark.parametrize("key", ["EXPTIME", "EXPOSURE"])
@pytest.mark.parametrize("seconds", [0.5, 100.0])
def test_counts_are_divided_by_the_exposure_time(key, seconds):
    expected = prepare(make_images()).pixels
    images = make_images(unit=u.adu, meta={key: seconds})
    given = prepare(images, zero_point=22.5)
    np.testing.assert_allclose(given.pixels, expected / seconds, rtol=1e-6)
    rates = make_images(unit=u.adu / u.s, meta={key: seconds})
    np.testing.assert_allclose(prepare(rates, zero_point=22.5).pixels, expected, rtol=1e-6)
    card = prepare(make_images(unit=u.adu, meta={key: seconds, "MAGZPT": 22.5}))
    np.testing.assert_array_equal(card.pixels, given.pixels)


def test_the_unit_of_pixels_without_one():
    expected = prepare(make_images(unit=u.uJy)).pixels
    plain = make_images(unit=u.dimensionless_unscaled)
    np.testing.assert_array_equal(prepare(plain, unit="uJy").pixels, expected)
    np.testing.assert_array_equal(prepare(make_images(unit=u.uJy), unit="nmgy").pixels, expected)
    header = make_images(unit=u.dimensionless_unscaled, meta={"BUNIT": "uJy"})
    np.testing.assert_array_equal(prepare(header).pixels, expected)


def test_surface_brightness_takes_the_area_of_the_pixels():
    batch = prepare(make_images(unit=u.nmgy / u.arcsec**2))
    np.testing.assert_allclose(batch.pixels, 0.262**2 * prepare(make_images()).pixels, rtol=1e-5)


def test_asinh_stacks_are_made_linear():
    images, header = make_images(), {"BSOFTEN": 0.3, "BOFFSET": 1.4}
    stretched = {
        band: CCDData(
            2.5 * np.log10(np.e) * np.arcsinh((image.data - 1.4) / 0.6), unit=u.nmgy,
            wcs=image.wcs, meta=header,
        )
        for band, image in images.items()
    }
    np.testing.assert_allclose(prepare(stretched).pixels, prepare(images).pixels, rtol=1e-5)


def test_comments_of_a_file_s_zero_point_are_read(tmp_path):
    def written(comment):
        parts = [fits.PrimaryHDU(header=fits.Header([("MAGZERO", 25.0, comment)]))]
        for band, image in make_images().items():
            header = image.wcs.to_header()
            header.update({"FILTER": band, "BUNIT": "adu", "EXPTIME": 10.0})
            parts.append(fits.ImageHDU(image.data, header))
        path = tmp_path / "image.fits"
        fits.HDUList(parts).writeto(path, overwrite=True)
        return read_images(path)

    expected = prepare(make_images()).pixels
    np.testing.assert_allclose(prepare(written("mag per adu/s")).pixels, expected / 100, rtol=1e-6)
    with pytest.raises(PreparationError, match=r"^images\['g'\] has the zero .* 'vega mag'; expec"):
        prepare(written("Vega mag"))
    with pytest.raises(PreparationError, match=r"^images\['g'\] has unit 'adu', MAGZERO = 25 and"):
        prepare(written("magnitude"))


@pytest.mark.parametrize("zero_point", [[22.5] * 3, "22.5", {"g": [1]}])
def test_what_is_no_zero_point(zero_point):
    with pytest.raises(TypeError, match="expected one AB magnitude, or a dict of band to magnit"):
        prepare(make_images(), zero_point=zero_point)
    with pytest.raises(ValueError, match="^zero_point is 99.0; expected the AB magnitude of one"):
        prepare(make_images(), zero_point=99.0)


# ---------------------------------------------------------------------- pixel scales
def test_an_unknown_scale_is_asked_for():
    images = make_images(scale=None)
    for name in ("pixel_scale= in astroclip.embed", "--pixel-scale", "image_scale= in prepare_im"):
        with pytest.raises(PreparationError, match=rf"^images has no celestial world.*{name}"):
            prepare(images)
    batch = prepare(images, image_scale=0.262)
    np.testing.assert_array_equal(batch.pixels, prepare(make_images()).pixels)
    quantity = prepare(images, image_scale=0.262 * u.arcsec)
    np.testing.assert_array_equal(quantity.pixels, batch.pixels)
    with pytest.raises(ValueError, match="^the pixel scale is -1; expected arcsec per pixel, a po"):
        prepare(images, image_scale=-1)
    with pytest.raises(TypeError, match="^the pixel scale is '0.3'; expected one number, arcsec"):
        prepare(images, image_scale="0.3")


@pytest.mark.parametrize("scale", [0.131, 0.4])
def test_a_stated_scale_equals_world_coordinates(scale):
    expected = prepare(make_images(scale=scale, shape=(60, 60)))
    images = make_images(scale=None, shape=(60, 60))
    np.testing.assert_allclose(prepare(images, image_scale=scale).pixels, expected.pixels)
    for meta in (
        {"PIXSCALE": scale}, {"SECPIX": str(scale)}, {"PIXSCAL1": -scale, "PIXSCAL2": scale},
    ):
        images = make_images(scale=None, shape=(60, 60), meta=meta)
        np.testing.assert_allclose(prepare(images).pixels, expected.pixels)


@pytest.mark.parametrize("lost", ["g", "r", "gz"])
def test_a_band_without_world_coordinates_takes_those_of_the_others(lost):
    images = make_images(scale=0.4)
    expected = prepare(images, image_scale=0.4)
    for band in lost:
        images[band] = CCDData(images[band].data, unit=u.nmgy)
    batch = prepare(images)
    np.testing.assert_array_equal(batch.pixels, expected.pixels)
    assert batch.ra[0] == expected.ra[0]


@pytest.mark.parametrize(
    ("scale", "meta", "options", "message"),
    [
        (0.262, {}, {"image_scale": 0.4}, "has pixels of 0.262 arcsec by .* the scale given is 0"),
        (None, {"PIXSCALE": 0.4}, {"image_scale": 0.262}, "has pixels of 0.4 arcsec by .* given"),
        (None, {"PIXSCALE": 7e-5}, {}, "PIXSCALE = 7e-05 in its header; expected 0.001 to 60 ar"),
        (None, {"PIXSCALE": "unknown"}, {}, "PIXSCALE = unknown in its header; expected 0.001"),
        (None, {"PIXSCAL1": 0.2, "PIXSCAL2": 0.3}, {}, "PIXSCAL2 = 0.3 in its header; expected s"),
    ],
)
def test_scales_that_contradict_each_other(scale, meta, options, message):
    with pytest.raises(PreparationError, match=rf"^images\['g'\] .*{message}"):
        prepare(make_images(scale=scale, meta=meta), **options)


def test_a_band_s_card_that_contradicts_the_other_bands():
    images = make_images()
    images["z"] = CCDData(images["z"].data, unit=u.nmgy, meta={"PIXSCALE": 0.4})
    with pytest.raises(PreparationError, match=r"^images\['z'\] has pixels of 0.262 .* header sta"):
        prepare(images)


# ---------------------------------------------------------------------- bad pixels
@pytest.mark.parametrize("marked_by", ["mask", "nan", "ivar", "sigma"])
def test_bad_pixels_are_filled_and_counted(marked_by):
    images = make_images()
    clean = prepare(images)
    bad = np.zeros((40, 40), bool)
    bad[15:20, 15:22] = True
    if marked_by == "mask":
        images["r"].mask, images["r"].data[bad] = bad, 1e9
    elif marked_by == "nan":
        images["r"].data[bad] = np.nan
    elif marked_by == "ivar":
        images["r"].uncertainty = InverseVariance(np.where(bad, 0.0, 1.0))
    else:
        images["r"].uncertainty = StdDevUncertainty(np.where(bad, np.inf, 1.0))
    batch = prepare(images)
    inside = bad[8:32, 8:32]
    np.testing.assert_array_equal(batch.mask[0, 1], inside)
    np.testing.assert_array_equal(batch.pixels[~batch.mask], clean.pixels[~batch.mask])
    expected = np.median(clean.pixels[0, 1][~inside])
    np.testing.assert_array_equal(batch.pixels[batch.mask], expected)
    assert batch.coverage[0] == pytest.approx(1 - 35 / (3 * SIZE**2))
    assert batch.flags[0] == 0  # 2 % of the crop's pixels


@pytest.mark.parametrize(("n_rows", "flag"), [(2, 0), (3, Flag.BAD_PIXELS)])
def test_more_than_five_percent_of_bad_pixels_are_flagged(n_rows, flag):
    images = make_images(bands="gr")
    images["r"].mask = np.zeros((40, 40), bool)
    images["r"].mask[20 : 20 + n_rows] = True
    batch = prepare(images, bands="gr")  # 24 x 24 pixels in two bands: 2.4 rows are 5 %
    assert batch.flags[0] == flag


def test_padding():
    images = make_images(shape=(16, 20))
    with pytest.raises(PreparationError, match=r"^images\['g'\] is 20 x 16 pixels; .* at least 24"):
        prepare(images)
    batch = prepare(images, pad=True)
    np.testing.assert_array_equal(
        batch.pixels[0, 0, 4:20, 2:22], images["g"].data.astype(np.float32)
    )
    assert (~batch.mask[0, 0]).sum() == 320
    assert batch.flags[0] & Flag.PADDED
    assert batch.coverage[0] == pytest.approx(320 / 576)


@pytest.mark.parametrize("value", [np.nan, 5.0])
def test_a_band_without_valid_pixels_around_the_target_counts_as_missing(value):
    images = make_images()
    images["z"].mask = np.zeros((40, 40), bool)
    images["z"].mask[4:36, 4:36], images["z"].data[4:36, 4:36] = True, value
    with pytest.raises(PreparationError, match="^images has no valid pixel in band 'z' around the"):
        prepare(images)
    batch = prepare(images, missing_bands="fill")
    assert batch.flags[0] & Flag.MISSING_BAND
    assert not batch.pixels[0, 2].any()
    assert batch.mask[0, 2].all()


@pytest.mark.parametrize("value", [0.0, -999.0])
def test_a_blank_corner_is_no_coverage(value):
    images = make_images(shape=(60, 60))
    expected = prepare(images)
    images["r"].data[:30, :30] = value
    batch = prepare(images)
    top = (60 - SIZE) // 2
    blank = np.zeros((SIZE, SIZE), bool)
    blank[: 30 - top, : 30 - top] = True
    np.testing.assert_array_equal(batch.mask[0, 1], blank)
    np.testing.assert_array_equal(batch.pixels[~batch.mask], expected.pixels[~batch.mask])
    assert batch.flags[0] == 0  # outside the footprint no pixel is bad
    for image in images.values():
        image.wcs = make_wcs((60, 60), 0.131)
    assert prepare(images).flags[0] == Flag.RESAMPLED


def test_a_band_that_is_blank_everywhere_is_missing():
    images = make_images()
    images["z"].data[:] = 0
    with pytest.raises(PreparationError, match=r"^images\['z'\] has no valid pixel: .* blank or"):
        prepare(images)
    batch = prepare(images, missing_bands="fill")
    assert batch.flags[0] == Flag.MISSING_BAND
    assert batch.mask[0, 2].all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, ">i4", float])
def test_masks_of_any_type(dtype):
    images = make_images()
    bad = np.random.default_rng(0).random((40, 40)) < 0.02
    images["r"].mask = bad
    expected = prepare(images)
    images["r"].mask = bad.astype(dtype) * (1 if dtype is bool else 4)
    np.testing.assert_array_equal(prepare(images).mask, expected.mask)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "f8", "i4", ">i2", "u2"])
def test_data_of_any_type_and_with_axes_of_length_one(dtype):
    images = make_images()
    for image in images.values():
        image.data = np.round(image.data * 1000).astype("i4")
    expected = prepare(images)
    same = {
        band: CCDData(c.data.astype(dtype), unit=u.nmgy, wcs=c.wcs) for band, c in images.items()
    }
    np.testing.assert_array_equal(prepare(same).pixels, expected.pixels)
    axes = {band: CCDData(c.data[None, None], unit=u.nmgy) for band, c in images.items()}
    batch = prepare(axes, image_scale=0.262)
    np.testing.assert_array_equal(batch.pixels, expected.pixels)


# ---------------------------------------------------------------------- bands
def test_missing_bands():
    images = make_images(bands="gr")
    with pytest.raises(PreparationError, match=r"^images lacks band 'z'; it has \['g', 'r'\]") as e:
        prepare(images)
    assert e.value.flag & Flag.MISSING_BAND
    batch = prepare(images, missing_bands="fill")
    assert batch.mask[0, 2].all()
    assert not batch.mask[0, :2].any()
    assert batch.flags[0] & Flag.MISSING_BAND
    assert batch.coverage[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("bands", ["grz", "zrg", "rg"])
def test_bands_come_in_the_order_asked_for(bands):
    images = make_images(bands="zgri")
    batch = prepare(images, bands=bands)
    assert batch.bands == tuple(bands)
    for number, band in enumerate(bands):
        alone = prepare({band: images[band]}, bands=band)
        np.testing.assert_array_equal(batch.pixels[0, number], alone.pixels[0, 0])


@pytest.mark.parametrize(
    ("meta", "options"),
    [
        ({"BANDS": "zrg"}, {}),
        ({"BAND0": "DECam z", "BAND1": "DECam r", "BAND2": "DECam g"}, {}),
        ({}, {"stack_bands": ("z", "r", "g")}),
    ],
)
def test_stacks_equal_single_images(meta, options):
    images = make_images()
    mask = np.zeros((3, 40, 40), bool)
    mask[:, 20, 20] = True
    stack = CCDData(np.stack([images[b].data for b in "zrg"]), unit=u.nmgy, mask=mask, meta=meta)
    stack.uncertainty = StdDevUncertainty(np.ones(stack.shape))
    stack.uncertainty.array[0, 18, 18] = 0  # in z
    for band in "grz":
        images[band].mask = mask[0].copy()
    images["z"].mask[18, 18] = True
    batch, expected = prepare(stack, image_scale=0.262, **options), prepare(images)
    np.testing.assert_array_equal(batch.pixels, expected.pixels)
    np.testing.assert_array_equal(batch.mask, expected.mask)


def test_filters_have_names():
    images = make_images()
    renamed = {f"DECam {band}": image for band, image in images.items()}
    np.testing.assert_array_equal(prepare(renamed).pixels, prepare(images).pixels)
    with pytest.raises(PreparationError, match=r"^images names a band twice: \['g'"):
        prepare(images | {"sdss g": images["r"]})


# ---------------------------------------------------------------------- lists and misuse
def test_lists_keep_order_ids_and_failures():
    good = [make_images(seed) for seed in range(2)]
    batch = prepare([good[0], make_images(bands="gr"), good[1]], on_error="flag",
                    ids=["a", "b", "c"], redshift=[0.1, 0.2, 0.3])
    assert list(batch.failed) == [False, True, False]
    assert batch.messages[1].startswith("images[1] lacks band 'z'")
    assert batch.coverage[1] == 0
    assert list(batch.ids) == ["a", "b", "c"]
    np.testing.assert_array_equal(batch.redshift, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(batch[[0, 2]].pixels, prepare(good).pixels)


class Broken:
    """Metadata that cannot be asked for a keyword."""

    def get(self, key, default=None):
        if key != "id":
            raise KeyError(key)
        return default


def faults():
    """Yield the name and a dict of images of each fault, and what its message says."""
    def changed(**options):
        images = make_images()
        ccd = images["g"]
        arguments = {"unit": u.nmgy, "wcs": ccd.wcs} | options
        data = arguments.pop("data", ccd.data)
        return images | {"g": CCDData(data, **arguments)}

    yield "magnitudes", changed(unit=u.ABmag), r"\['g'\] has unit"
    yield "bytes", changed(data=np.ones((40, 40), np.uint8)), r"\['g'\] holds the values of a disp"
    yield "text", changed(data=np.full((40, 40), "x")), r"\['g'\] has values of type"
    yield "cube", changed(data=np.ones((2, 40, 40)), wcs=None), r"\['g'\] has data of shape"
    yield "empty", changed(data=np.ones((0, 40))), r"\['g'\] has data of shape"
    yield "zero point", changed(unit=u.adu, meta={"ZP": "?"}), r"\['g'\] has unit 'adu' and no zero"
    yield "exposure", changed(unit=u.adu, meta={"MAGZPT": 25, "EXPTIME": 0}), r"\['g'\] has EXPTIME"
    images = changed()
    images["g"]._meta = Broken()
    yield "anything", images, " cannot be used as an image"


@pytest.mark.parametrize(("images", "message"), [(i, m) for _, i, m in faults()])
def test_no_fault_of_an_object_costs_the_others(images, message):
    good = make_images()
    batch = prepare([good, images, good], on_error="flag")
    assert list(batch.failed) == [False, True, False]
    assert batch.flags[1] & Flag.BAD_INPUT
    assert re.match(rf"images\[1\]{message}", batch.messages[1])
    np.testing.assert_array_equal(batch.pixels[2], prepare(good).pixels[0])


@pytest.mark.parametrize("images", [np.ones((3, 40, 40)), [None], "image.fits", {}])
def test_what_is_no_image(images):
    message = "^images.* is .*; expected a CCDData, or a dict of band"
    with pytest.raises((TypeError, PreparationError), match=message):
        prepare(images)


def test_the_bundled_cutout():
    images = read_images(DATA / "samples" / "legacysurvey-59.1067-30.4848.fits")
    batch = prepare_images(images)
    for number, band in enumerate("grz"):
        ivar = center_crop(images[band].uncertainty.array, 152)
        np.testing.assert_array_equal(batch.mask[0, number], ivar <= 0)
        good = ~batch.mask[0, number]
        expected = center_crop(images[band].data, 152)
        np.testing.assert_array_equal(batch.pixels[0, number][good], expected[good])
    assert batch.ra[0] == pytest.approx(59.1067, abs=1e-3)
