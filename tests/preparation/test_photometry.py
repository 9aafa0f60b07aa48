"""Pixel values to nanomaggies: units, zero points of surveys, exposure times, stretches."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from astroclip.exceptions import PreparationError
from astroclip.preparation.photometry import check_zero_point, linear_pixels, nanomaggy_factor


def ab_magnitude(factor, value=1.0):
    """Return the AB magnitude of a pixel value."""
    return 22.5 - 2.5 * np.log10(factor * value)


# ---------------------------------------------------------------------- units
@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        (u.nmgy, 1.0), (u.mgy, 1e9), (u.Jy, 1e9 / 3631), (u.uJy, 1 / 3.631), (u.nJy, 1e-3 / 3.631),
        (u.erg / u.s / u.cm**2 / u.Hz, 1e32 / 3631), (u.nmgy / u.pix, 1.0), (u.AB, 1e9),
    ],
)
def test_fluxes(unit, factor):
    # astropy's AB zero point is 3630.78 Jy
    assert nanomaggy_factor(unit, "x") == pytest.approx(factor, rel=1e-4)


def test_surface_brightness_takes_the_pixel_area():
    area = 0.031**2  # arcsec2
    factor = nanomaggy_factor(u.MJy / u.sr, "x", pixel_area=area)
    steradian = area * (np.pi / 180 / 3600) ** 2
    assert factor == pytest.approx(1e6 * steradian / 3631 * 1e9, rel=1e-9)
    assert nanomaggy_factor(u.nmgy / u.arcsec**2, "x", pixel_area=area) == pytest.approx(area)
    counts = nanomaggy_factor(u.adu / u.s / u.arcsec**2, "x", pixel_area=area, zero_point=25.0)
    assert counts == pytest.approx(0.1 * area)
    with pytest.raises(u.UnitsError, match="^x has unit 'MJy / sr', a surface brightness, and no"):
        nanomaggy_factor(u.MJy / u.sr, "x")


def test_flux_per_wavelength_needs_the_pivot():
    flam = u.erg / u.s / u.cm**2 / u.AA
    factor = nanomaggy_factor(flam, "x", header={"PHOTPLAM": 6231.0})
    expected = (1 * flam).to(u.Jy, u.spectral_density(6231 * u.AA)).value / 3631 * 1e9
    assert factor == pytest.approx(expected)
    with pytest.raises(u.UnitsError, match="^x has unit 'erg / .*; expected nanomaggies, Jy, or"):
        nanomaggy_factor(flam, "x")


COUNTS = [None, u.adu, u.DN, u.ct, u.electron, u.ph]


@pytest.mark.parametrize("unit", COUNTS)
@given(st.floats(15, 32), st.floats(0.01, 1e5), st.sampled_from(["EXPTIME", "EXPOSURE"]))
def test_counts_have_the_magnitude_of_their_zero_point(unit, zero_point, seconds, key):
    rate = (u.dimensionless_unscaled if unit is None else unit) / u.s
    factor = nanomaggy_factor(rate, "x", zero_point=zero_point, header={key: 7.0})
    assert ab_magnitude(factor, 50.0) == pytest.approx(zero_point - 2.5 * np.log10(50.0))
    factor = nanomaggy_factor(unit, "x", zero_point=zero_point, header={key: seconds})
    assert ab_magnitude(factor, 50.0) == pytest.approx(zero_point - 2.5 * np.log10(50.0 / seconds))
    factor = nanomaggy_factor(unit, "x", zero_point=zero_point)
    assert ab_magnitude(factor) == pytest.approx(zero_point)
    minute = nanomaggy_factor(rate * u.s / u.min, "x", zero_point=zero_point)
    assert ab_magnitude(minute, 60.0) == pytest.approx(zero_point)


@pytest.mark.parametrize(
    ("unit", "found"),
    [(None, "no unit and no zero point"), (u.DN, "unit 'DN' and no zero"), (u.K, "unit 'K'")],
)
def test_unusable_units(unit, found):
    with pytest.raises(u.UnitsError, match=f"^x has {found}.*; expected nanomaggies, Jy, or count"):
        nanomaggy_factor(unit, "x")


# ---------------------------------------------------------------------- zero points of headers
@pytest.mark.parametrize(
    ("header", "unit", "magnitude"),
    [
        ({"MAGZPT": 25.0, "EXPTIME": 100.0}, u.adu, 30.0),  # CASU, per second
        ({"MAGZPT": 25.0, "EXPTIME": 100.0}, u.adu / u.s, 25.0),
        ({"FPA.ZP": 25.0, "EXPTIME": 1000.0}, None, 32.5),  # Pan-STARRS
        ({"PHOTZP": 30.0, "PHOTSYS": "AB", "EXPTIME": 100.0}, u.adu, 30.0),  # ESO
        ({"FLUXMAG0": 63095734448.0194, "EXPTIME": 100.0}, None, 27.0),  # HSC
        # ACS/WFC F814W: AB zero point 25.937
        ({"PHOTFLAM": 7.07236e-20, "PHOTPLAM": 8045.5, "EXPTIME": 507.0}, u.electron / u.s, 25.940),
        ({"PHOTFLAM": 7.07236e-20, "PHOTPLAM": 8045.5, "EXPTIME": 100.0}, u.electron, 30.940),
        ({"PHOTFNU": 3.631e-7, "EXPTIME": 100.0}, u.electron / u.s, 25.0),
        ({"MAGZERO": 25.0}, u.adu, 25.0),
        ({"MAGZERO": 25.0, "EXPTIME": 1.0}, u.adu, 25.0),
        ({"MAGZERO": 25.0, "EXPTIME": 60.0}, u.adu / u.s, 25.0),
        ({"magzero": " 25.0 "}, u.adu, 25.0),
        ({"MAGZERO": 99.0, "ZP": 25.0}, u.adu, 25.0),
        # a second keyword says which of the two readings is meant
        ({"MAGZERO": 30.0, "MAGZPT": 25.0, "EXPTIME": 100.0}, u.adu, 30.0),
        ({"MAGZERO": 25.0, "MAGZPT": 25.0, "EXPTIME": 100.0}, u.adu, 30.0),
    ],
)
def test_zero_points_by_keyword(header, unit, magnitude):
    assert ab_magnitude(nanomaggy_factor(unit, "x", header=header)) == pytest.approx(
        magnitude, abs=2e-3
    )


@pytest.mark.parametrize(
    ("comment", "magnitude"),
    [("[mag] AB mag per adu/sec", 30.0), ("mag of one count in the image", 25.0)],
)
def test_comments_say_what_a_zero_point_is_of(comment, magnitude):
    header = fits.Header([("MAGZERO", 25.0, comment), ("EXPTIME", 100.0)])
    assert ab_magnitude(nanomaggy_factor(u.adu, "x", header=header)) == pytest.approx(magnitude)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"MAGZERO": 25.0, "EXPTIME": 100.0}, "MAGZERO = 25 and an exposure time of 100 s; .*"),
        ({"MAGZERO": 25.0, "ZP": 24.0}, "contradict each other, MAGZERO = 25 and ZP = 24"),
        ({"MAGZPT": 25.0, "MAGSYS": "Vega"}, "MAGZPT = 25.0 in the system 'Vega'; expected AB"),
        ({"PHOTZP": 25.0, "PHOTSYS": "VEGA"}, "PHOTZP = 25.0 in the system 'VEGA'; expected AB"),
        ({"MAGZPT": 25.0, "INSTRUME": "VIRCAM"}, r"in the system 'Vega \(of VIRCAM\)'"),
        ({"MAGZPT": 25.0, "EXPTIME": 0.0}, "has EXPTIME = 0.0 in its header; expected"),
        ({"MAGZPT": 25.0, "EXPTIME": "N/A"}, "has EXPTIME = N/A in its header; expected the exp"),
        ({"MAGZPT": 25.0, "EXPTIME": -5}, "has EXPTIME = -5 in its header; expected"),
    ],
)
def test_what_a_header_leaves_open_or_gets_wrong_is_refused(header, message):
    with pytest.raises(PreparationError, match=f"^x has .*{message}|^x {message}"):
        nanomaggy_factor(u.adu, "x", header=header)


def test_a_vega_comment_is_read():
    header = fits.Header([("MAGZPT", 25.0, "Vega mag per sec")])
    with pytest.raises(PreparationError, match="in the system 'vega mag per sec'; expected AB"):
        nanomaggy_factor(u.adu, "x", header=header)
    assert ab_magnitude(nanomaggy_factor(u.adu, "x", header=header, zero_point=24)) == 24


@pytest.mark.parametrize(
    "value",
    ["UNKNOWN", "", None, 0, 0.0, 99.0, -99, 999.0, -999, -9999, np.inf, np.nan, [25.0], True],
)
def test_values_that_are_no_magnitude(value):
    with pytest.raises((PreparationError, u.UnitsError), match="no zero point in MAGZERO ="):
        nanomaggy_factor(u.adu, "x", header={"MAGZERO": value})


def test_undefined_card():
    header = fits.Header([("MAGZERO", fits.card.Undefined())])
    with pytest.raises(PreparationError, match="no zero point in MAGZERO = nothing; expected"):
        nanomaggy_factor(u.adu, "x", header=header)


@pytest.mark.parametrize(
    ("unit", "options"),
    [
        (u.nmgy, {"zero_point": 25.0}),
        (u.nmgy, {"header": {"MAGZERO": 25.0}}),
        (u.uJy, {"header": {"ZP": 22.5}}),
    ],
)
def test_a_zero_point_that_contradicts_the_unit(unit, options):
    with pytest.raises(PreparationError, match="^x has unit .*, whose AB zero point is .*; expec"):
        nanomaggy_factor(unit, "x", **options)


@pytest.mark.parametrize(
    ("unit", "header"),
    [(u.nmgy, {"MAGZERO": 22.5}), (u.uJy, {"MAGZERO": 23.9}), (u.nmgy, {"MAGZERO": "unknown"})],
)
def test_a_zero_point_that_agrees_with_the_unit(unit, header):
    assert nanomaggy_factor(unit, "x", header=header) == nanomaggy_factor(unit, "x")


def test_the_argument():
    check_zero_point(None)
    check_zero_point({"g": 25, "r": np.float32(25.0), "z": None})
    check_zero_point(25.0 * u.ABmag)
    for wrong in (25.0 * u.STmag, [22.5] * 3, "22.5", {"g": "x"}, np.array([22.5, 23.0]), True):
        with pytest.raises(TypeError, match="expected one AB magnitude, or a dict of band to"):
            check_zero_point(wrong)
    for wrong in (0, 99.0, -99, np.nan, np.inf, {"g": 0.0}):
        with pytest.raises(ValueError, match="expected the AB magnitude of one count per second"):
            check_zero_point(wrong)


# ---------------------------------------------------------------------- scales that are not linear
def test_asinh_pixels_of_pan_starrs():
    flux = np.random.default_rng(0).normal(30, 500, (20, 20))
    alpha, offset, soft = 2.5 * np.log10(np.e), 22.5, 104.2
    compressed = alpha * np.arcsinh((flux - offset) / (2 * soft))  # IPP's documentation
    header = {"BSOFTEN": soft, "BOFFSET": offset}
    linear = linear_pixels(compressed.astype(np.float32), None, "x", header=header)
    np.testing.assert_allclose(linear, flux, rtol=1e-4, atol=1e-3)
    with pytest.raises(PreparationError, match="Delete these two cards if the pixels are linear"):
        linear_pixels(flux, None, "x", header=header)
    assert linear_pixels(flux, u.nmgy, "x") is flux


@pytest.mark.parametrize(
    ("unit", "header"),
    [
        (u.mag, {}), (u.ABmag, {}), (u.mag / u.arcsec**2, {}), (u.dex(u.nmgy), {}),
        (None, {"BUNIT": "log10(counts)"}), (u.dimensionless_unscaled, {"BUNIT": "ABmag"}),
    ],
)
def test_magnitudes_and_logarithms_are_refused(unit, header):
    with pytest.raises(PreparationError, match="^x has unit .*expected linear flux. Convert the"):
        linear_pixels(np.ones((4, 4)), unit, "x", header=header)


@pytest.mark.parametrize("bunit", ["nanomaggy", "nanomaggies", "1e-9 maggies", "counts", "ADU"])
def test_names_of_linear_units(bunit):
    pixels = np.ones((4, 4))
    assert linear_pixels(pixels, None, "x", header={"BUNIT": bunit}) is pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("top", [255, 231, 1.0, 0.9])
def test_display_images_are_refused(dtype, top):
    brightest = round(255 * top) if top <= 1 else top
    pixels = np.random.default_rng(0).integers(0, brightest + 1, (30, 30))
    pixels = (pixels / 255).astype(np.float32) if top <= 1 else pixels.astype(dtype)
    with pytest.raises(PreparationError, match="^x holds the values of a display image .* Fetch"):
        linear_pixels(pixels, u.nmgy, "x")


def test_counts_up_to_255_are_counts():
    counts = np.random.default_rng(0).integers(0, 256, (30, 30)).astype(np.int32)
    counts[0, 0] = 255
    assert linear_pixels(counts, u.adu, "x") is counts
    squares = np.zeros((30, 30))
    squares[5:9, 5:9] = 1.0
    assert linear_pixels(squares, u.nmgy, "x") is squares


@pytest.mark.parametrize("dtype", [bool, complex, "U3"])
def test_types_that_are_no_numbers(dtype):
    with pytest.raises(PreparationError, match="^x has values of type .*; expected real numbers"):
        linear_pixels(np.zeros((4, 4)).astype(dtype), u.nmgy, "x")
