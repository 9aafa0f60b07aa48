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
from astroclip.preparation.image_files import open_images
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
        ({"BANDS": "g|r|z"}, {}, "grz"),
        ({"BANDS": "DECam-g DECam-r DECam-z"}, {}, "grz"),
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


# ---------------------------------------------------------------------- roles of planes
def test_one_band_with_mask_and_uncertainty_as_ccddata_writes_it(tmp_path):
    original = sample_image()["r"]
    mask = np.zeros(original.data.shape, bool)
    mask[3, 5:9] = True
    for kind, value in ((StdDevUncertainty, 0.1), (VarianceUncertainty, 0.01),
                        (InverseVariance, 100.0)):
        path = tmp_path / f"{kind.__name__}.fits"
        CCDData(
            original.data, unit="nmgy", wcs=original.wcs, mask=mask, meta={"FILTER": "r"},
            uncertainty=kind(np.full(mask.shape, value)), psf=np.ones((9, 9)),
        ).write(path)
        ((band, image),) = read_images(path).items()
        assert band == "r"
        np.testing.assert_array_equal(image.data, original.data)
        np.testing.assert_array_equal(image.mask, mask)
        assert type(image.uncertainty) is kind
        assert image.uncertainty.array[0, 0] == value
        assert "PSFIMAGE" in image.meta["UNUSED"]
        with pytest.raises(PreparationError, match=r"lacks band 'g', 'z'"):
            prepare_images(read_images(path))


@pytest.mark.parametrize(
    "names", [("PRIMARY", "MASK", "UNCERT"), ("SCI", "WHT", "CTX"), ("IMAGE", "MASK", "VARIANCE")]
)
def test_three_planes_are_not_three_bands(tmp_path, names):
    path = write(tmp_path / "a.fits", *(extension(1.0, name) for name in names))
    with pytest.raises(PreparationError, match=r"does not say which bands .*: bands=\(\.\.\.\)"):
        read_images(path)
    assert list(read_images(path, bands=["g"])) == ["g"]
    assert read_images(path, bands=["DECam r"])["DECam r"].data.shape == SHAPE


@pytest.mark.parametrize(
    ("keyword", "name", "role"),
    [
        ("EXTNAME", "IVAR_G", InverseVariance), ("IMAGETYP", "invvar", InverseVariance),
        ("IMTYPE", "invvar", InverseVariance), ("EXTNAME", "Inverse variance", InverseVariance),
        ("EXTTYPE", "VARIANCE", VarianceUncertainty), ("EXTNAME", "VAR", VarianceUncertainty),
        ("EXTNAME", "ERR", StdDevUncertainty), ("EXTNAME", "RMS", StdDevUncertainty),
        ("EXTNAME", "SIGMAS", StdDevUncertainty), ("EXTNAME", "STAT", VarianceUncertainty),
        ("EXTNAME", "WHT", "weight"),
        ("PRODTYPE", "wtmap", "weight"), ("EXTNAME", "DQ", "mask"), ("EXTNAME", "MASK_G", "mask"),
        ("PRODTYPE", "dqmask", "mask"), ("EXTNAME", "BPM", "mask"), ("EXTNAME", "NEXP", None),
        ("EXTNAME", "PSF_g", None), ("EXTNAME", "MODEL", None), ("EXTNAME", "VAR_POISSON", None),
        ("EXTNAME", "SEGMENTATION_MASK", None), ("EXTNAME", "BACKGROUND", None),
    ],
)
def test_roles(tmp_path, keyword, name, role):
    plane = extension(4.0, **{keyword: name})
    plane.data[2, :7] = 0
    path = write(tmp_path / "a.fits", extension(1.0, FILTER="g"), plane)
    image = read_images(path)["g"]
    np.testing.assert_array_equal(image.data, picture(1.0))
    if isinstance(role, type):
        assert type(image.uncertainty) is role
        np.testing.assert_array_equal(image.uncertainty.array, plane.data)
    else:
        assert image.uncertainty is None
    if role is None:
        assert image.mask is None
        assert "other" in image.meta["UNUSED"]
    else:
        expected = plane.data != 0 if role == "mask" else plane.data == 0
        np.testing.assert_array_equal(image.mask, expected)
        assert "UNUSED" not in image.meta


@given(
    st.permutations("ugrizy"), st.integers(1, 6), st.sampled_from(["own", "order", "one", "none"]),
    st.booleans(), st.sampled_from(["MASK", "IVAR", "ERR"]),
)
@settings(max_examples=10)
def test_any_number_of_bands_with_their_planes(tmp_path_factory, order, n, pairing, blocks, role):
    path = tmp_path_factory.mktemp("planes") / "a.fits"
    bands = order[:n]
    pictures = [extension(k + 1.0, FILTER=f"DECam {b}") for k, b in enumerate(bands)]
    cards = [{"FILTER": f"DECam {b}"} if pairing == "own" else {} for b in bands]
    planes = [extension(10.0 + k, role, **cards[k]) for k in range(n)]
    planes = {"own": planes[::-1], "order": planes, "one": planes[:1], "none": []}[pairing]
    if pairing == "order" and not blocks:
        hdus = [hdu for pair in zip(pictures, planes, strict=True) for hdu in pair]
    else:
        hdus = pictures + planes
    images = read_images(write(path, *hdus))
    assert list(images) == list(bands)
    for k, band in enumerate(bands):
        np.testing.assert_array_equal(images[band].data, picture(k + 1.0))
        value = 10.0 + (0 if pairing == "one" else k)
        if pairing == "none":
            assert images[band].mask is None
        elif role == "MASK":
            assert images[band].mask.all()
        else:
            np.testing.assert_array_equal(images[band].uncertainty.array, picture(value))


def test_cube_with_a_cube_of_masks(tmp_path):
    cube = np.stack([picture(k) for k in range(6)])
    bad = np.zeros(cube.shape, "i4")
    bad[np.arange(6), np.arange(6), :] = 1
    hdus = [fits.PrimaryHDU(cube, fits.Header({**SKY, "BANDS": "ugrizy"})), fits.ImageHDU(bad)]
    hdus[1].name = "MASK"
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    images = read_images(tmp_path / "a.fits")
    assert "".join(images) == "ugrizy"
    for k, image in enumerate(images.values()):
        np.testing.assert_array_equal(image.data, cube[k])
        np.testing.assert_array_equal(image.mask, bad[k] != 0)


def test_extensions_of_one_chip_belong_together(tmp_path):
    hdus = [
        extension(10 * v + k, name, EXTVER=v, FILTER=band) if name == "SCI" else
        extension(10 * v + k, name, EXTVER=v)
        for v, band in ((2, "g"), (1, "r")) for k, name in enumerate(("SCI", "ERR", "DQ"))
    ]
    images = read_images(write(tmp_path / "a.fits", *hdus[:3], *hdus[:2:-1]))
    assert [round(float(images[band].uncertainty.array[0, 0])) for band in "gr"] == [21, 11]


@pytest.mark.parametrize(
    ("hdus", "primary", "reason"),
    [
        ([extension(), extension()], {}, r"which bands it holds: 1 \(image, 50 x 40\); 2 \(image"),
        ([extension(FILTER="g"), extension(name="SCI")], {}, "which bands"),
        ([extension(FILTER="g"), extension(FILTER="g' SDSS")], {}, "2 images in band g"),
        ([extension(name=f"S{k}") for k in range(62)], {"FILTER": "r"}, "62 images in .*and 54 m"),
        ([extension(FILTER=b) for b in "grz"] + [extension(name="DQ")] * 2, {}, "not say to which"),
        ([extension(FILTER="g"), extension(name="IVAR", shape=(20, 20))], {}, "does not fit image"),
        ([extension(name="MASK")], {}, r"no image of the sky, but 1 MASK \(mask"),
        ([fits.BinTableHDU(np.zeros(3, [("a", "f4")]), name="CAT")], {}, r"but 1 CAT \(table\)"),
        ([], {}, "no image of the sky, but no data"),
        ([extension(shape=(3, *SHAPE), BANDS="gr")], {}, "its header names the bands g, r; e"),
        ([extension(shape=(2, 3, *SHAPE), BANDS="gr")], {}, r"has shape \(2, 3, 40, 50\); ex"),
        ([extension(shape=(*SHAPE, 3), sky=False)], {}, r"\(40, 50, 3\); expected \(band, y, x\)"),
        ([extension(name="IMAGE_g"), extension(name="IMAGE_r")], {"BANDS": "r,g"}, "says r, g and"),
        ([extension(dtype="u1", shape=(3, *SHAPE), BANDS="grz")], {}, "8-bit pixels, as display"),
        ([extension(name=b) for b in "RGB"], {}, "B, G, R: channels of a display image"),
        ([extension(FILTER=b) for b in "BVRI"], {}, "Johnson's bands"),
        ([extension(FILTER="g", BUNIT="furlong")], {}, "BUNIT of 1 .* is 'furlong'.* with unit="),
        ([extension(FILTER="g", CTYPE3="AWAV", shape=(9, *SHAPE))], {}, "with a spectral axis"),
    ],
)
def test_refusals_say_what_the_file_holds(tmp_path, hdus, primary, reason):
    path = write(tmp_path / "a.fits", *hdus, **primary)
    with pytest.raises(PreparationError, match=f"^path '.*a.fits' cannot be read .*{reason}"):
        read_images(path)


# ---------------------------------------------------------------------- filters
@pytest.mark.parametrize(
    ("cards", "band"),
    [
        ({"FILTER": "r.MP9601"}, "r"), ({"HIERARCH FPA.FILTERID": "r.00000"}, "r"),
        ({"FILTER1": "CLEAR1L", "FILTER2": "F814W"}, "F814W"), ({"FILTER": "HSC-I2"}, "i"),
        ({"FILTER1": "F606W", "FILTER2": "POL0V"}, "F606W+POL0V"), ({"INSFLNAM": "z.MP9801"}, "z"),
        ({"HIERARCH ESO INS FILT1 NAME": "r_SDSS"}, "r"), ({"FILTNAM1": "F555W"}, "F555W"),
        ({"FILTER": "g DECam SDSS c0001 4720.0 1520.0"}, "g"), ({"BANDS": "z"}, "z"),
        ({"FILTER": "r", "BAND": "g"}, "g+r"),
    ],
)
@pytest.mark.parametrize("place", ["extension", "primary header"])
def test_one_band_by_its_filter(tmp_path, cards, band, place):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        image = fits.ImageHDU(picture(), fits.Header(cards if place == "extension" else {}))
        head = fits.PrimaryHDU(header=fits.Header({} if place == "extension" else cards))
        fits.HDUList([head, image]).writeto(tmp_path / "a.fits")
    assert list(read_images(tmp_path / "a.fits")) == [band]


def test_bands_asked_for(tmp_path):
    path = write(tmp_path / "a.fits", *(extension(k, FILTER=b) for k, b in enumerate("grz")))
    picked = read_images(path, bands=["DECam z", "g"])
    assert {name: round(float(ccd.data[0, 0])) for name, ccd in picked.items()} == {
        "DECam z": 2, "g": 0,
    }
    assert float(read_images(path, bands=["r"])["r"].data[0, 0]) == 1
    for bands in ("izy", "gr i", ["g", "r", "i", "z"]):
        with pytest.raises(PreparationError, match=r"bands is \(.*\), and it holds 1 \(image, g"):
            read_images(path, bands=bands)
    one = write(tmp_path / "one.fits", extension(FILTER="r"))
    with pytest.raises(PreparationError, match=r"bands is \('g',\), and it holds 1 \(image, r"):
        read_images(one, bands=["g"])
    hubble = write(tmp_path / "hubble.fits", extension(FILTER="F606W"))
    assert list(read_images(hubble, bands=["r"])) == ["r"]  # the user knows better


# ---------------------------------------------------------------------- masks by bits
def test_bits_of_masks(tmp_path):
    planes = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "NO_DATA": 8}
    cards = {f"{'HIERARCH ' * (len(k) > 5)}MP_{k}": v for k, v in planes.items()}
    mask = extension(name="MASK", dtype="i4", **cards)
    mask.data[:] = 1 << 5  # detected
    for x, bit in enumerate(planes.values()):
        mask.data[0, x] |= 1 << bit
    path = write(tmp_path / "hsc.fits", extension(name="IMAGE"), mask, FILTER="HSC-R")
    found = read_images(path)["r"].mask
    assert [name for x, name in enumerate(planes) if found[0, x]] == ["BAD", "SAT", "CR", "NO_DATA"]
    assert found.sum() == 4

    webb = extension(name="DQ", dtype="u4")
    webb.data[:] = [[0, 1, 2, 4, 5] * 10] * SHAPE[0]  # 1 = DO_NOT_USE, 2 = SATURATED, 4 = JUMP_DET
    path = write(
        tmp_path / "w.fits", extension(name="SCI"), webb, FILTER="F090W", TELESCOP="JWST"
    )
    np.testing.assert_array_equal(read_images(path)["F090W"].mask, webb.data % 2 == 1)

    legacy = extension(IMAGETYP="maskbits", dtype="i4")
    legacy.data[:] = [[0, 1 << 12, 1 << 5, 1 << 6, 1 << 15] * 10] * SHAPE[0]  # 12: a large galaxy
    path = write(tmp_path / "m.fits", extension(BAND="g"), extension(BAND="r"), legacy)
    images = read_images(path)
    np.testing.assert_array_equal(images["g"].mask, legacy.data == 1 << 5)
    np.testing.assert_array_equal(images["r"].mask, legacy.data == 1 << 6)


# ---------------------------------------------------------------------- headers
def test_the_primary_header_holds_for_extensions(tmp_path):
    other = {**SKY, "CRVAL1": 200.0}
    path = write(
        tmp_path / "a.fits", extension(FILTER="g", sky=False, EXPTIME=30.0),
        extension(FILTER="r", **other), **SKY, EXPTIME=100.0, MAGZERO=25.0, BUNIT="ADU",
    )
    images = read_images(path)
    for band, ra in (("g", 150.0), ("r", 200.0)):
        sky = images[band].wcs.pixel_to_world(24.5, 19.5)
        assert sky.ra.deg == pytest.approx(ra)
        assert images[band].unit == u.adu
        assert images[band].meta["MAGZERO"] == 25.0
    assert [images[band].meta["EXPTIME"] for band in "gr"] == [30.0, 100.0]


def test_distortions_are_kept_and_windows_agree(tmp_path):
    sip = {**SKY, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2,
           "A_2_0": 1e-4, "B_0_2": -2e-4}
    ivar = extension(5.0, "IVAR")
    ivar.data[7, 9] = 0
    header = fits.Header({**sip, "FILTER": "g"})
    path = write(tmp_path / "a.fits", fits.ImageHDU(picture(), header), ivar)
    whole = read_images(path)["g"]
    x, y = [3.0, 44.0], [2.0, 31.0]
    np.testing.assert_allclose(
        whole.wcs.pixel_to_world_values(x, y), WCS(header).pixel_to_world_values(x, y), rtol=1e-12
    )
    with open_images(path) as images:
        assert images["g"].shape == SHAPE
        part = images["g"].read((slice(5, 25), slice(8, 38)))
    np.testing.assert_array_equal(part.data, whole.data[5:25, 8:38])
    np.testing.assert_array_equal(part.mask, whole.mask[5:25, 8:38])
    np.testing.assert_array_equal(part.uncertainty.array, whole.uncertainty.array[5:25, 8:38])
    np.testing.assert_allclose(
        part.wcs.pixel_to_world_values(4, 5), whole.wcs.pixel_to_world_values(12, 10), rtol=1e-12
    )


def test_the_primary_header_says_what_the_file_is(tmp_path):
    path = write(tmp_path / "a.fits", extension(name="S4"), FILTER="r", PRODTYPE="dqmask")
    with pytest.raises(PreparationError, match=r"no image of the sky, but 1 S4 \(mask"):
        read_images(path)
    path = write(tmp_path / "b.fits", extension(name="S4"), FILTER="r", PRODTYPE="image")
    assert list(read_images(path)) == ["r"]


def test_planes_of_filters_that_are_no_letters(tmp_path):
    hdus = [extension(name="SCI", FILTER="F606W"), extension(name="SCI", FILTER="F814W")]
    error = extension(2.0, name="ERR", FILTER="F814W")
    images = read_images(write(tmp_path / "a.fits", *hdus, error))
    assert images["F606W"].uncertainty is None
    np.testing.assert_array_equal(images["F814W"].uncertainty.array, error.data)


def test_singular_wcs(tmp_path):
    path = write(tmp_path / "a.fits", extension(FILTER="g", CD1_1=0.0, CD1_2=0.0))
    with pytest.raises(PreparationError, match="the world coordinates of 1 .* are unusable"):
        read_images(path)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("nanomaggies", u.nmgy), ("nMgy", u.nmgy), ("10^-9 maggies", 1e-9 * u.mgy), ("ADU", u.adu),
        ("counts", u.ct), ("COUNTS/S", u.ct / u.s), ("DN", u.adu), ("DN/sec", u.DN / u.s),
        ("ELECTRONS", u.electron), ("electrons/s", u.electron / u.s), ("e-/s", u.electron / u.s),
        ("cps", u.ct / u.s), ("uJy", u.uJy), ("nJy", u.nJy), ("MJy/sr", u.MJy / u.sr),
        ("JY/BEAM", u.Jy / u.beam), ("  ", u.dimensionless_unscaled),
    ],
)
def test_spellings_of_units(tmp_path, text, unit):
    path = write(tmp_path / "a.fits", extension(FILTER="g", BUNIT=text))
    assert read_images(path)["g"].unit == unit


def test_a_unit_that_contradicts_the_file(tmp_path):
    path = write(tmp_path / "a.fits", extension(FILTER="g", BUNIT="Jy"))
    assert read_images(path, unit="Jy")["g"].unit == u.Jy
    with pytest.raises(PreparationError, match=r"BUNIT of 1 .* is 'Jy' and unit is 'nmgy'\. Leave"):
        read_images(path, unit="nanomaggy")


# ---------------------------------------------------------------------- how pixels are stored
@pytest.mark.parametrize("kind", ["i2", "u2", "blank", "scaled", "f8", "compressed", "gz", "4-D"])
def test_storage(tmp_path, kind):
    values = picture(100).astype("i2") + np.arange(50, dtype="i2")
    header = fits.Header({**SKY, "FILTER": "g", **({"BLANK": 103} if kind == "blank" else {})})
    types = {"u2": "u2", "f8": "f8", "scaled": "f8", "compressed": "f4"}
    values = values.astype(types.get(kind, "i2"))
    data = values[None, None] if kind == "4-D" else values
    hdu = fits.CompImageHDU(data, header) if kind == "compressed" else fits.PrimaryHDU(data, header)
    if kind == "scaled":
        hdu.data = hdu.data.copy()
        hdu.scale("int16", bscale=0.5, bzero=90)
    path = tmp_path / ("a.fits.fz" if kind == "compressed" else "a.fits")
    hdu.writeto(path)
    if kind == "gz":
        (tmp_path / "a.fits.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "a.fits.gz"
    assert file_modality(path) == "image"
    image = read_images(path)["g"]
    expected = np.where(values == 103, np.nan, values) if kind == "blank" else values
    np.testing.assert_array_equal(image.data, expected)
    assert image.data.dtype.isnative
    assert image.wcs is not None
    assert "BZERO" not in image.meta


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path, compress, fraction):
    rng = np.random.default_rng(1)
    hdus = [fits.ImageHDU(rng.normal(size=SHAPE), fits.Header({"FILTER": b})) for b in "grz"]
    content = write(tmp_path / "a.fits", *hdus).read_bytes()
    content = gzip.compress(content) if compress else content
    path = tmp_path / ("b.fits.gz" if compress else "b.fits")
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(PreparationError, match="it is damaged or incomplete. Check that the"):
        read_images(path)
    file_modality(path)  # whatever it says, it says something


# ---------------------------------------------------------------------- images or spectra
@pytest.mark.parametrize(
    ("shape", "cards", "modality"),
    [
        (SHAPE, SKY, "image"), (SHAPE, {}, "image"), ((1, 1, *SHAPE), SKY, "image"),
        ((1, *SHAPE), {**SKY, "CTYPE3": "FREQ"}, "image"), ((9, *SHAPE), SKY, "image"),
        ((9, *SHAPE), {**SKY, "CTYPE3": "AWAV"}, "spectrum"),
        ((9, *SHAPE), {**SKY, "CTYPE3": "WAVE-LOG"}, "spectrum"),
        (SHAPE, {"CTYPE1": "WAVE"}, "spectrum"), (SHAPE, {"CTYPE1": "LINEAR"}, "spectrum"),
        (SHAPE, {"CTYPE1": "LAMBDA"}, "spectrum"), (SHAPE, {"DISPAXIS": 1}, "spectrum"),
        (SHAPE, {"COEFF0": 3.58, "COEFF1": 1e-4}, "spectrum"),
        (SHAPE, {"CUNIT1": "Angstrom"}, "spectrum"), (SHAPE, {"CTYPE1": "MULTISPE"}, "spectrum"),
        (SHAPE, {"WAT0_001": "system=equispec"}, "spectrum"), ((5, 4954), {}, "spectrum"),
        ((400,), {}, "spectrum"),
    ],
)
def test_images_or_spectra(tmp_path, shape, cards, modality):
    fits.PrimaryHDU(np.ones(shape), fits.Header(cards)).writeto(tmp_path / "a.fits")
    assert file_modality(tmp_path / "a.fits") == modality


def test_images_beside_tables(tmp_path):
    table = fits.BinTableHDU(np.zeros(3, [("a", "f4")]))
    line = fits.ImageHDU(np.ones(50))
    for name, picture_of, modality in (
        ("sky", extension(), "image"), ("filter", extension(sky=False, FILTER="r"), "image"),
        ("fibers", extension(sky=False, name="B_FLUX"), "spectrum"),
    ):
        path = write(tmp_path / f"{name}.fits", picture_of, line, table)
        assert file_modality(path) == modality


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a"])
def test_display_images(tmp_path, start):
    (tmp_path / "a.png").write_bytes(start + bytes(20))
    assert file_modality(tmp_path / "a.png") == "image"
    with pytest.raises(PreparationError, match=r"is a display image .*Get the FITS images of its"):
        read_images(tmp_path / "a.png")


def test_masks_and_weights_by_their_file_s_name(tmp_path):
    for name, role in (("rings.stack.mask", "mask"), ("rings.stack.wt", "weight")):
        path = write(tmp_path / f"{name}.fits", extension(FILTER="r.00000"))
        with pytest.raises(PreparationError, match=f"its name says that it holds a {role}, and"):
            read_images(path)
