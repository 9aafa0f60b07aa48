"""Bands on other grids against analytic sources: flux, position and shape on the sky."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from astroclip.exceptions import PreparationError
from astroclip.preparation import prepare_images
from astroclip.tables import Flag

SCALE, SIZE, SHAPE = 0.262, 48, (80, 90)
CENTER = SkyCoord(150, 2, unit="deg")


def make_wcs(matrix, *, shape=SHAPE, shift=(0, 0), projection="TAN", frame="icrs", **cards):
    """Return world coordinates of a matrix in arcsec per pixel about (150, 2) deg."""
    center = CENTER.transform_to(frame)
    names = ("GLON", "GLAT") if frame == "galactic" else ("RA--", "DEC-")
    matrix = np.array(matrix) / 3600
    header = fits.Header({
        "NAXIS": 2, "NAXIS1": shape[1], "NAXIS2": shape[0],
        "CTYPE1": f"{names[0]}-{projection}", "CTYPE2": f"{names[1]}-{projection}",
        "CRVAL1": center.spherical.lon.deg, "CRVAL2": center.spherical.lat.deg,
        "CRPIX1": (shape[1] + 1) / 2 + shift[0], "CRPIX2": (shape[0] + 1) / 2 + shift[1],
        "CD1_1": matrix[0, 0], "CD1_2": matrix[0, 1], "CD2_1": matrix[1, 0], "CD2_2": matrix[1, 1],
        **cards,
    })
    if projection == "TAN-SIP":
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    return WCS(header)


def turned(angle, *, scale=SCALE, parity=-1):
    cosine, sine = np.cos(angle), np.sin(angle)
    return scale * np.array([[parity * cosine, sine], [-parity * sine, cosine]])


def paint(wcs, shape=SHAPE, *, total=100.0, n=3):
    """Return flux per pixel of an elliptical Gaussian 1.3, 0.7 arcsec off the center."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)

    def offsets(x, y):
        sky = wcs.pixel_to_world(x, y).icrs
        east = (sky.ra.deg - CENTER.ra.deg) * np.cos(CENTER.dec.rad)
        return 3600 * east, 3600 * (sky.dec.deg - CENTER.dec.deg)

    light = np.zeros(shape)
    for step in np.stack(np.meshgrid(*2 * [(np.arange(n) + 0.5) / n - 0.5]), -1).reshape(-1, 2):
        east, north = offsets(x + step[0], y + step[1])
        east, north = east - 1.3, north - 0.7
        along, across = 0.8 * east + 0.6 * north, -0.6 * east + 0.8 * north
        light += np.exp(-0.5 * ((along / 1.6) ** 2 + (across / 0.9) ** 2)) / n**2
    east, north = offsets(x, y)
    area = np.abs(
        np.gradient(east, axis=1) * np.gradient(north, axis=0)
        - np.gradient(east, axis=0) * np.gradient(north, axis=1)
    )
    return total * light * area / (2 * np.pi * 1.6 * 0.9)


def moments(pixels):
    """Return total, centroid and second moments of an image."""
    pixels = pixels.astype(float)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    total = pixels.sum()
    x0, y0 = (x * pixels).sum() / total, (y * pixels).sum() / total
    second = [
        (pixels * a * b).sum() / total
        for a, b in ((x - x0, x - x0), (y - y0, y - y0), (x - x0, y - y0))
    ]
    return total, np.array([x0, y0]), np.array(second)


REFERENCE = make_wcs(turned(0.0))
LIGHT = paint(REFERENCE)


def prepare(images, **options):
    images = {
        band: CCDData(pixels, unit=u.nmgy, wcs=wcs) for band, (pixels, wcs) in images.items()
    }
    return prepare_images(images, **{"bands": tuple(images), "size": SIZE, **options})


GRIDS = {
    "half a pixel": make_wcs(turned(0.0), shift=(0.4, -0.3)),
    "turned": make_wcs(turned(0.6)),
    "mirrored": make_wcs(turned(0.0, parity=1)),
    "turned and mirrored": make_wcs(turned(2.0, parity=1)),
    "sheared": make_wcs(SCALE * np.array([[-1, 0.2], [0, 1]])),
    "anisotropic": make_wcs(SCALE * np.array([[-1.1, 0], [0, 0.8]])),
    "coarser": make_wcs(turned(0.2, scale=0.4)),
    "SIP": make_wcs(
        turned(0.0), projection="TAN-SIP", A_ORDER=2, B_ORDER=2, A_2_0=3e-4, B_0_2=-2e-4, A_1_1=1e-4
    ),
    "TPV": make_wcs(turned(0.0), projection="TPV", PV1_1=1.0, PV1_4=30.0, PV2_1=1.0, PV2_4=-20.0),
    "galactic": make_wcs(turned(0.0), frame="galactic"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_flux_position_and_shape_are_those_of_the_reference(name):
    batch = prepare({"g": (paint(GRIDS[name]), GRIDS[name]), "r": (LIGHT, REFERENCE)})
    total, center, second = moments(batch.pixels[0, 0])
    expected = moments(batch.pixels[0, 1])
    assert total == pytest.approx(expected[0], rel=5e-3)
    np.testing.assert_allclose(center, expected[1], atol=0.1)
    # no broadening by the areas of both grids' pixels, but by coarser or sheared ones
    atol = 0.5 if name in ("coarser", "sheared", "anisotropic") else 0.05
    np.testing.assert_allclose(second, expected[2], atol=atol)
    assert batch.flags[0] == Flag.RESAMPLED
    left, bottom = ((n + 1 - SIZE) // 2 for n in SHAPE[::-1])
    crop = LIGHT[bottom : bottom + SIZE, left : left + SIZE].astype(np.float32)
    np.testing.assert_array_equal(batch.pixels[0, 1], crop)


@pytest.mark.parametrize("shift", [(0, 0), (7, -4), (0.05, 0.02)])
def test_bands_displaced_by_whole_pixels_are_copied(shift):
    wcs = make_wcs(turned(0.0), shift=shift)
    light = np.roll(LIGHT, np.rint(shift[::-1]).astype(int), (0, 1))
    batch = prepare({"g": (light, wcs), "r": (LIGHT, REFERENCE)}, bands="gr")
    np.testing.assert_array_equal(batch.pixels[0, 0], batch.pixels[0, 1])
    assert batch.flags[0] == 0


@pytest.mark.parametrize(("angle", "shift"), [(0, (0.5, 0.5)), (0.2, (0.3, 0)), (0.8, (0, 0))])
def test_stars_keep_their_width_beside_pixels_that_are_copied(angle, shift):
    sigma = 3 * SCALE / 2.3548  # 3 pixels wide

    def star(wcs):
        x, y = wcs.world_to_pixel(CENTER)
        edges = [np.arange(n + 1) - 0.5 - at for n, at in zip(SHAPE, (y, x), strict=True)]
        return 100 * np.outer(*(np.diff(ndtr(edge * SCALE / sigma)) for edge in edges))

    wcs = make_wcs(turned(angle), shift=shift)
    batch = prepare({"g": (star(wcs), wcs), "r": (star(REFERENCE), REFERENCE)})
    (total, center, second), expected = map(moments, batch.pixels[0])
    assert total == pytest.approx(expected[0], rel=1e-3)
    np.testing.assert_allclose(center, expected[1], atol=0.01)
    np.testing.assert_allclose(second, expected[2], atol=0.02)
    assert batch.pixels[0, 0].max() == pytest.approx(batch.pixels[0, 1].max(), rel=0.02)


def test_a_bad_pixel_of_a_turned_band_spoils_its_neighbors_only():
    wcs = GRIDS["half a pixel"]
    light = paint(wcs)
    clean = prepare({"g": (light, wcs), "r": (LIGHT, REFERENCE)})
    light[40, 45] = np.nan
    spoiled = prepare({"g": (light, wcs), "r": (LIGHT, REFERENCE)})
    change = np.abs(spoiled.pixels[0, 0] - clean.pixels[0, 0])
    assert np.count_nonzero(change > 2e-3 * light[np.isfinite(light)].max()) <= 36
    np.testing.assert_array_equal(spoiled.pixels[0, 1], clean.pixels[0, 1])


@pytest.mark.parametrize("name", ["sheared", "anisotropic"])
def test_pixels_that_are_not_square_are_made_so(name):
    batch = prepare({"r": (paint(GRIDS[name]), GRIDS[name])})
    total, center, second = moments(batch.pixels[0, 0])
    square = make_wcs(turned(0.0, scale=SCALE), shape=(SIZE, SIZE))
    expected = moments(paint(square, (SIZE, SIZE)))
    assert total == pytest.approx(expected[0], rel=5e-3)
    # whatever the orientation, the ellipse keeps its size and axis ratio
    for power in (1, 2):
        trace, reference = (
            np.trace(np.linalg.matrix_power([[s[0], s[2]], [s[2], s[1]]], power))
            for s in (second, expected[2])
        )
        assert trace == pytest.approx(reference, rel=0.05)
    assert batch.flags[0] == Flag.RESAMPLED


@settings(max_examples=4)
@given(st.floats(0, 6.28), st.floats(0.2, 0.45), st.sampled_from([-1, 1]), st.floats(-3, 3))
def test_any_rotation_scale_and_parity(angle, scale, parity, shift):
    shape = tuple(int(n * 1.3 * SCALE / scale) for n in SHAPE)
    wcs = make_wcs(turned(angle, scale=scale, parity=parity), shape=shape, shift=(shift, -shift))
    batch = prepare({"g": (paint(wcs, shape), wcs), "r": (LIGHT, REFERENCE)})
    total, center, _ = moments(batch.pixels[0, 0])
    expected = moments(batch.pixels[0, 1])
    assert total == pytest.approx(expected[0], rel=5e-3)
    np.testing.assert_allclose(center, expected[1], atol=0.1)


def test_bad_pixels_never_leak_and_the_footprint_ends():
    wcs = make_wcs(turned(0.6))
    flat = np.ones(SHAPE)
    bad = np.zeros(SHAPE, bool)
    bad[38:44, 32:38], bad[:, :26] = True, True
    image = CCDData(np.where(bad, 1e9, flat), unit=u.nmgy, wcs=wcs, mask=bad)
    images = {"g": image, "r": CCDData(flat, unit=u.nmgy, wcs=REFERENCE)}
    batch = prepare_images(images, bands="gr", size=SIZE)
    np.testing.assert_allclose(batch.pixels[0, 0], 1.0, rtol=1e-4)
    left, bottom = ((n + 1 - SIZE) // 2 for n in SHAPE[::-1])
    rows, columns = np.mgrid[bottom : bottom + SIZE, left : left + SIZE]
    x, y = wcs.world_to_pixel(REFERENCE.pixel_to_world(columns, rows))
    at = np.rint(y).astype(int), np.rint(x).astype(int)
    inside = (np.abs(x - 44.5) < 45) & (np.abs(y - 39.5) < 40)
    at = tuple(np.clip(index, 0, n - 1) for index, n in zip(at, SHAPE, strict=True))
    expected = ~inside | bad[at]
    assert (batch.mask[0, 0] != expected).mean() < 0.02  # pixels along edges
    assert batch.mask[0, 0].any()
    assert not batch.mask[0, 1].any()


def test_a_mosaic_is_cut_to_what_is_needed():
    shape = (400, 420)
    wcs = make_wcs(turned(0.6), shape=shape)
    large = paint(wcs, shape, n=1)
    small = large[150:250, 150:270]
    one = prepare({"g": (large, wcs), "r": (LIGHT, REFERENCE)})
    two = prepare({"g": (small, wcs[150:250, 150:270]), "r": (LIGHT, REFERENCE)})
    good = ~two.mask[0, 0]
    np.testing.assert_allclose(one.pixels[0, 0][good], two.pixels[0, 0][good], atol=1e-6)


def test_pixels_halved_along_one_axis_are_added_up():
    wcs = make_wcs(turned(0.0) @ np.diag([0.5, 1]), shape=(SHAPE[0], 2 * SHAPE[1]))
    halves = np.repeat(LIGHT / 2, 2, axis=1)
    batch = prepare({"r": (halves, wcs)})
    expected = prepare({"r": (LIGHT, REFERENCE)})
    np.testing.assert_allclose(batch.pixels, expected.pixels, atol=1e-5)


def test_the_size_of_pixels_that_are_not_square_counts_along_each_axis():
    wcs = make_wcs(SCALE * np.array([[-2.0, 0], [0, 1.0]]), shape=(SIZE + 2, SIZE // 2 + 1))
    batch = prepare({"r": (paint(wcs, (SIZE + 2, SIZE // 2 + 1)), wcs)})
    assert batch.flags[0] == Flag.RESAMPLED
    assert batch.coverage[0] > 0.95
    short = wcs[: SIZE // 2]
    with pytest.raises(PreparationError, match=rf"^images\['r'\] is {SIZE // 2 + 1} x {SIZE // 2}"):
        prepare({"r": (np.ones((SIZE // 2, SIZE // 2 + 1)), short)})


# ---------------------------------------------------------------------- what cannot be aligned
def singular():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150, 2]
    wcs.wcs.cdelt = [0, 0]
    return wcs


def elsewhere():
    wcs = REFERENCE.deepcopy()
    wcs.wcs.crval = [239.0, 30.0]
    return wcs


def default_scale():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150, 2]
    return wcs  # CDELT is 1 degree where no card says it


@pytest.mark.parametrize(
    ("wcs", "message"),
    [
        (singular(), "has world coordinates .*; expected"),
        (default_scale(), "has world coordinates of 3600 arcsec per pixel; expected 0.001 to 60"),
        (elsewhere(), r"lies .* arcmin beyond the image of the other bands by its WCS; expected"),
    ],
)
@pytest.mark.parametrize("missing_bands", ["raise", "fill"])
def test_world_coordinates_that_cannot_be_used(wcs, message, missing_bands):
    images = {"g": (LIGHT, wcs), "r": (LIGHT, REFERENCE)}
    with pytest.raises(PreparationError, match=rf"^images\['g'\] {message}"):
        prepare(images, missing_bands=missing_bands)


def test_world_coordinates_without_sky_are_none():
    plain = WCS(naxis=2)
    with pytest.raises(PreparationError, match="^images has no celestial world coordinates in"):
        prepare({"r": (LIGHT, plain)})
    expected = prepare({"r": (LIGHT, None)}, image_scale=SCALE)
    np.testing.assert_array_equal(
        prepare({"r": (LIGHT, plain)}, image_scale=SCALE).pixels, expected.pixels
    )
