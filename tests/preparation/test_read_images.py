"""One image in every format of the page "What is read, and how" has one embedding."""

import gzip
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

import astroclip
from astroclip.exceptions import FailedObjectWarning
from astroclip.preparation import ImageBatch, prepare_images
from tests.preparation.page import Register, covers

SAME = 0.9999  # cosine of two embeddings of one image
SIZE, SCALE = 160, 0.262
SKY = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 80.5,
    "CRPIX2": 80.5, "CD1_1": -SCALE / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE / 3600,
    "CUNIT1": "deg", "CUNIT2": "deg",
}
WORLD = WCS(fits.Header(SKY))
taken, refused, tables, refused_tables = Register(), Register(), Register(), Register()


def galaxy():
    """Return nanomaggies by band and bad pixels of a disk with noise."""
    rng = np.random.default_rng(3)
    y, x = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    disk = np.exp(-np.hypot(x, 1.8 * y) / 6) + 0.3 * np.exp(-np.hypot(x - 15, y - 9) / 2)
    pixels = {
        band: (height * disk + rng.normal(0, noise, disk.shape)).astype("f4")
        for band, height, noise in (("g", 1.0, 0.01), ("r", 2.5, 0.015), ("z", 4.0, 0.03))
    }
    return pixels, rng.random(disk.shape) < 0.01


PIXELS, BAD = galaxy()
SPOILED = {band: np.where(BAD, np.nan, pixels) for band, pixels in PIXELS.items()}
IVAR = np.where(BAD, 0, 2500.0).astype("f4")


def ccd(band, factor=1.0, unit=u.nmgy, wcs=WORLD, meta=(), **options):
    """Return a band whose pixels are nanomaggies divided by a factor."""
    options = {"mask": BAD} | options
    return CCDData(PIXELS[band] / factor, unit=unit, wcs=wcs, meta=dict(meta), **options)


def image(**options):
    """Return the image as a dict of CCDData."""
    return {band: ccd(band, **options) for band in PIXELS}


def write(path, *hdus, header=()):
    """Write extensions (array, cards, name) below a primary header."""
    made = [fits.PrimaryHDU(header=fits.Header(dict(header)))]
    for values, cards, name in hdus:
        values = values.astype("i2") if values.dtype == bool else values
        made.append(fits.ImageHDU(values, fits.Header(SKY | cards), name=name))
    fits.HDUList(made).writeto(path)
    return path


def extensions(order="grz", unit="nanomaggy", factor=1.0, **cards):
    """Return an extension of each band with its inverse variances."""
    for band in order:
        yield SPOILED[band] / factor, {"FILTER": f"{band} DECam", "BUNIT": unit, **cards}, None


def write_cube(path, **header):
    fits.PrimaryHDU(np.stack(list(SPOILED.values())), fits.Header(SKY | header)).writeto(path)
    return path


# ---------------------------------------------------------------------- in memory
@taken("dict of CCDData")
def dicts_in_any_unit(folder):
    flipped = {f"DECam {band}": one for band, one in reversed(image().items())}
    yield flipped
    yield image(unit=u.uJy, factor=1 / 3.631)
    yield image(mask=None, uncertainty=InverseVariance(IVAR))
    error = np.where(BAD, -1.0, 0.02)
    yield image(mask=BAD.astype(np.uint8) * 4, uncertainty=StdDevUncertainty(error))
    factor = 10 ** ((22.5 - 25.0) / 2.5)
    rate = {"unit": u.electron / u.s, "factor": factor}
    yield image(meta={"MAGZPT": 25.0, "EXPTIME": 90.0}, **rate)
    yield image(unit=u.adu, factor=factor / 90, meta={"MAGZPT": 25.0, "EXPTIME": 90.0})
    yield image(unit=u.adu, factor=factor, meta={"PHOTZP": 25.0, "EXPTIME": 90.0})
    yield image(unit=u.adu / u.s, factor=factor, meta={"MAGZERO": 25.0, "EXPTIME": 90.0})
    yield image() | {"g": ccd("g", wcs=None)}
    yield image(wcs=None, meta={"PIXSCALE": SCALE})


@refused("dict of CCDData")
def pixels_without_a_calibration(folder):
    yield image(unit=u.adu), "no zero point; .*zero_point"
    yield image(unit=u.adu, meta={"MAGZERO": "UNKNOWN"}), "no zero point in MAGZERO = UNKNOWN"
    yield image(unit=u.adu, meta={"MAGZERO": 25.0, "MAGSYS": "Vega"}), "'Vega'; expected AB"
    yield image(wcs=None), "pixel_scale="


def stack(**meta):
    pixels = np.stack(list(PIXELS.values()))
    masks = np.stack([BAD] * 3)
    return CCDData(pixels, unit=u.nmgy, mask=masks, wcs=WORLD, meta=meta)


@taken("CCDData stack")
def stacks(folder):
    yield stack(BANDS="grz")
    yield stack(FILTERS="DECam g, DECam r, DECam z")
    yield stack(BAND1="g", BAND2="r", BAND3="z")


@refused("CCDData stack")
def nameless_stacks(folder):
    yield stack(), "a stack of 3 bands and names 0"


# ---------------------------------------------------------------------- files
@taken("FITS cube")
def cubes(folder):
    yield write_cube(folder / "legacy.fits", SURVEY="LegacySurvey", BANDS="grz")
    yield write_cube(folder / "bands.fits", BUNIT="nmgy", BAND0="g", BAND1="r", BAND2="z")


@refused("FITS cube")
def cubes_that_say_too_little(folder):
    yield write_cube(folder / "nameless.fits", BUNIT="nmgy"), "bands"
    spectral = {"CTYPE3": "WAVE", "CUNIT3": "nm", "CRVAL3": 500.0, "CDELT3": 1.0, "CRPIX3": 1.0}
    yield write_cube(folder / "spectral.fits", **spectral), "spaxels|spectral axis"


@taken("FITS extensions")
def one_extension_per_band(folder):
    yield write(folder / "filters.fits", *extensions("zgr"))
    named = [(PIXELS[band], {"BUNIT": "nmgy"}, f"IMAGE_{band}") for band in "rzg"]
    named += [(IVAR, {}, f"INVVAR_{band}") for band in "rzg"]
    yield write(folder / "named.fits", *named)
    shared = [(PIXELS[band], {"BUNIT": "nmgy"}, f"DECAM-{band.upper()}") for band in "grz"]
    yield write(folder / "mask.fits", *shared, (BAD, {}, "MASK"), (IVAR, {}, "PSF"))
    weights = [(np.where(BAD, 0, 7.0), {"FILTER": band}, "WHT") for band in "grz"]
    science = [(PIXELS[band], {"FILTER": band, "BUNIT": "nmgy"}, "SCI") for band in "grz"]
    yield write(folder / "weights.fits", *weights, *science)
    counts = extensions(unit="adu", factor=0.1 / 50)
    yield write(folder / "counts.fits", *counts, header={"MAGZPT": 25.0, "EXPTIME": 50.0})


@refused("FITS extensions")
def bands_twice(folder):
    yield write(folder / "twice.fits", *extensions("grr")), "twice|each band once|2 images"


@taken("One file per band")
def files_by_band(folder):
    paths = {}
    for number, band in enumerate("grz"):
        one = ccd(band, uncertainty=StdDevUncertainty(np.full(BAD.shape, 0.02)))
        paths[band] = folder / f"{number}.fits"
        one.write(paths[band])
    yield paths
    yield {band: str(path) for band, path in paths.items()}


@refused("One file per band")
def a_mask_alone(folder):
    path = write(folder / "mask-alone.fits", (BAD, {}, "MASK"))
    yield path, "no image of the sky"


@taken("Compressed images")
def compressed(folder):
    plain = write(folder / "plain.fits", *extensions())
    packed = folder / "whole.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    yield packed
    tiles = [fits.PrimaryHDU()]
    for values, cards, _ in extensions():
        tiles.append(fits.CompImageHDU(
            values, fits.Header(SKY | cards), compression_type="GZIP_1", quantize_level=0
        ))
    fits.HDUList(tiles).writeto(folder / "tiles.fits.fz")
    yield folder / "tiles.fits.fz"


@refused("Compressed images")
def truncated(folder):
    plain = write(folder / "complete.fits", *extensions()).read_bytes()
    path = folder / "truncated.fits"
    path.write_bytes(plain[: len(plain) // 2])
    yield path, "damaged or incomplete"


def stretched(band, soft, offset, seconds):
    """Return the asinh pixels of counts whose zero point is 25 per second."""
    counts = SPOILED[band] * 10 ** ((25.0 - 22.5) / 2.5) * seconds
    return 2.5 / np.log(10) * np.arcsinh((counts - offset) / (2 * soft))


@taken("Pan-STARRS")
def asinh_stacks(folder):
    paths, cards = {}, {"BSOFTEN": 40.0, "BOFFSET": 0.5, "EXPTIME": 700.0}
    for band in "grz":
        header = fits.Header(SKY | cards)
        header["HIERARCH FPA.FILTERID"] = f"{band}.00000"
        header["HIERARCH FPA.ZP"] = 25.0
        paths[band] = folder / f"stack.{band}.fits"
        fits.PrimaryHDU(stretched(band, 40.0, 0.5, 700.0), header).writeto(paths[band])
    yield paths


@refused("Pan-STARRS")
def linear_in_spite_of_the_cards(folder):
    cards = {"BSOFTEN": 40.0, "BOFFSET": 0.5, "FPA.ZP": 25.0, "EXPTIME": 700.0}
    yield image(unit=u.adu, factor=1e-4, meta=cards), "Delete these two cards"


@taken("HST")
def hubble(folder):
    flam, pivot = 7.07236e-20, 8045.5
    jansky = flam * pivot**2 / 299792458e10 / 1e-23
    factor = jansky * 1e9 / 3631
    meta = {"PHOTFLAM": flam, "PHOTPLAM": pivot, "EXPTIME": 507.0}
    yield image(unit=u.electron / u.s, factor=factor, meta=meta)
    yield image(unit=u.electron, factor=factor / 507, meta=meta)
    yield image(unit=u.electron / u.s, factor=factor, meta={"PHOTFNU": jansky, "EXPTIME": 507.0})


@taken("HSC")
def hyper_suprime_cam(folder):
    bits = {"MP_SAT": 1, "HIERARCH MP_DETECTED": 5, "HIERARCH MP_CROSSTALK": 9}
    mask = (np.where(BAD, 1 << 1, 1 << 5)).astype("i4")
    paths = {}
    for band in "grz":
        pixels = PIXELS[band] / 10 ** ((22.5 - 27.0) / 2.5)
        paths[band] = write(
            folder / f"calexp-{band}.fits", (pixels, {}, "IMAGE"), (mask, bits, "MASK"),
            header={"FLUXMAG0": 10 ** (27 / 2.5), "FILTER": f"HSC-{band.upper()}"},
        )
    yield paths


STERADIAN = (SCALE * np.pi / 180 / 3600) ** 2


@taken("Surface brightness")
def surface_brightness(folder):
    yield image(unit=u.MJy / u.sr, factor=1e6 * STERADIAN / 3631 * 1e9)
    yield image(unit=u.nmgy / u.arcsec**2, factor=SCALE**2)


@refused("Surface brightness")
def surface_brightness_without_scale(folder):
    yield image(unit=u.MJy / u.sr, wcs=None), "pixel area|pixel_scale"


@refused("Display images")
def display_images(folder):
    path = folder / "galaxy.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    yield path, "display image"
    levels = {band: np.clip(pixels * 60, 0, 255).astype("u1") for band, pixels in PIXELS.items()}
    yield {
        band: CCDData(values, unit=u.nmgy, wcs=WORLD) for band, values in levels.items()
    }, "display image"


# ---------------------------------------------------------------------- tables
PLANES = [SPOILED[band] for band in "grz"]


@tables("Table of images")
def multimodal_universe(folder):
    row = {"band": ["des-g", "des-r", "des-z"], "flux": PLANES, "scale": [SCALE] * 3}
    yield pd.DataFrame({"object_id": ["a"], "image": [row]})
    by_band = {f"image_{band}": [pixels] for band, pixels in SPOILED.items()}
    yield Table({"id": ["a"], **by_band}), {"pixel_scale": SCALE}


@refused_tables("Table of images")
def planes_without_names(folder):
    row = {"band": ["g", "r"], "flux": PLANES, "scale": [SCALE] * 3}
    yield pd.DataFrame({"object_id": ["a"], "image": [row]}), "3 planes and names 2 bands"


# ---------------------------------------------------------------------- all of them
def embed(objects, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedObjectWarning)
        return astroclip.embed(objects, **options)


def cases(*registers):
    return [
        pytest.param(function, id=f"{row}: {function.__name__}")
        for register in registers for row, function in register.all()
    ]


@pytest.mark.parametrize("make", cases(taken, tables))
def test_one_embedding(make, tmp_path):
    groups = {}
    for made in make(tmp_path):
        item, options = made if isinstance(made, tuple) else (made, {})
        groups.setdefault(tuple(options.items()), []).append(item)
    for options, items in groups.items():
        table = embed([image(), *items], **dict(options))
        assert len(table) == 1 + len(items)
        assert set(table["message"]) == {""}, table["message"]
        cosines = table["embedding"] @ table["embedding"][0]
        assert np.min(cosines) >= SAME, cosines


@pytest.mark.parametrize("make", cases(refused, refused_tables))
def test_refusals(make, tmp_path):
    for item, message in make(tmp_path):
        table = embed([image(), item])
        assert table["message"][0] == ""
        assert re.search(message, table["message"][1]), table["message"][1]
        assert table["embedding"].mask[1].all()


@taken("Mosaic")
@refused("Mosaic")
def mosaic(folder):
    yield from ()


def test_a_mosaic(tmp_path):
    paths, rng = {}, np.random.default_rng(0)
    world = WORLD.deepcopy()
    world.wcs.crpix += [100, 60]
    for band, pixels in SPOILED.items():
        field = rng.normal(0, 0.02, (400, 420)).astype("f4")
        field[60 : 60 + SIZE, 100 : 100 + SIZE] = pixels
        header = world.to_header()
        header["BUNIT"] = "nmgy"
        paths[band] = tmp_path / f"field-{band}.fits"
        fits.PrimaryHDU(field, header).writeto(paths[band])
    position = SkyCoord([150.0, 170.0], [2.0, 2.0], unit="deg")
    table = embed(paths, position=position)
    assert table["embedding"][0] @ embed(image())["embedding"][0] >= SAME
    assert "off the mosaic" in table["message"][1]


def test_a_batch_of_arrays():
    pixels = np.stack(list(PIXELS.values()))[:, 4:-4, 4:-4]
    binned = pixels.reshape(1, 3, 76, 2, 76, 2).sum(axis=(3, 5))
    batch = ImageBatch.from_arrays(binned, bands="grz", pixel_scale=2 * SCALE)
    (found,), (expected,) = (embed(item)["embedding"] for item in (batch, image(mask=None)))
    assert found @ expected >= SAME


def test_every_row_of_the_page_is_here():
    covers("Images", taken, refused)


# ---------------------------------------------------------------------- any calibration, by hand
ZERO_POINTS = {  # keyword: nanomaggies of one count in the exposure, by hand
    "MAGZPT": lambda magnitude, seconds: 10 ** ((22.5 - magnitude) / 2.5) / seconds,
    "FPA.ZP": lambda magnitude, seconds: 10 ** ((22.5 - magnitude) / 2.5) / seconds,
    "PHOTZP": lambda magnitude, seconds: 10 ** ((22.5 - magnitude) / 2.5),
    "FLUXMAG0": lambda magnitude, seconds: 10 ** ((22.5 - magnitude) / 2.5),
    "argument": lambda magnitude, seconds: 10 ** ((22.5 - magnitude) / 2.5) / seconds,
}


@settings(max_examples=20)
@given(
    st.permutations("grz"), st.sampled_from(sorted(ZERO_POINTS)), st.floats(20, 30),
    st.sampled_from(["EXPTIME", "EXPOSURE", "TEXPTIME"]), st.floats(0.5, 5000),
    st.sampled_from([u.adu, u.electron, u.ct, u.dimensionless_unscaled]),
    st.sampled_from([np.float32, np.float64, ">f4", "i4"]), st.booleans(), st.integers(0, 99),
)
def test_any_calibration(order, key, magnitude, clock, seconds, unit, dtype, in_stack, seed):
    rng = np.random.default_rng(seed)
    counts = rng.normal(3000, 500, (3, 40, 40)).astype(dtype)
    bad = rng.random(counts.shape) < 0.02
    meta = {clock: seconds} | {
        "argument": {}, "FLUXMAG0": {"FLUXMAG0": 10 ** (magnitude / 2.5)}
    }.get(key, {key: magnitude})
    options = {"zero_point": magnitude} if key == "argument" else {}
    if in_stack:
        meta["BANDS"] = "".join(order)
        images = CCDData(counts, unit=unit, mask=bad, meta=meta, wcs=WORLD)
    else:
        images = {
            band: CCDData(counts[k], unit=unit, mask=bad[k], meta=meta, wcs=WORLD)
            for k, band in enumerate(order)
        }
    batch = prepare_images(images, size=40, **options)
    places = [order.index(band) for band in "grz"]
    expected = counts.astype(float)[places] * ZERO_POINTS[key](magnitude, seconds)
    np.testing.assert_array_equal(batch.mask[0], bad[places])
    np.testing.assert_allclose(
        batch.pixels[0][~bad[places]], expected[~bad[places]], rtol=1e-5
    )
