"""Cutouts of one mosaic, against Cutout2D and prepare_images one by one."""

import gc

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, Cutout2D, InverseVariance
from astropy.wcs import WCS, DistortionLookupTable, Sip

from astroclip.exceptions import PreparationError
from astroclip.preparation import prepare_images
from astroclip.preparation.mosaics import MosaicCutouts
from astroclip.tables import Flag

SIZE, SCALE = 24, 0.262
HEIGHT, WIDTH = 420, 500


def make_wcs(*, scale=SCALE, angle=0.0, shift=(0, 0), parity=-1):
    """Return a tangential projection about (150, 2) deg."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [WIDTH / 2 + shift[0], HEIGHT / 2 + shift[1]]
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([parity, 1])
    wcs.wcs.cd = matrix * scale / 3600
    return wcs


def make_mosaic(seed=0, **wcs_of):
    """Return a smooth and noisy mosaic in three bands, with inverse variances and masks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mosaic = {}
    for number, band in enumerate("grz"):
        pixels = 2 + np.sin(x / 30 + number) * np.cos(y / 40) + 0.3 * rng.normal(size=x.shape)
        mosaic[band] = CCDData(
            pixels.astype(np.float32), unit=u.nmgy, wcs=wcs_of.get(band, make_wcs()),
            uncertainty=InverseVariance(np.full(x.shape, 10.0, np.float32)),
            mask=rng.random(x.shape) < 0.01,
        )
    return mosaic


def draw_positions(n_positions, *, seed=1, beyond=-40):
    """Return positions on the mosaic, or up to ``beyond`` pixels off it."""
    x, y = np.random.default_rng(seed).uniform(size=(2, n_positions))
    x, y = ((v * (n + 2 * beyond)) - beyond for v, n in ((x, WIDTH), (y, HEIGHT)))
    return make_wcs().pixel_to_world(x, y)


def prepare(images, position, **options):
    return prepare_images(images, position=position, size=SIZE, on_error="flag", **options)


def write_mosaic(folder, mosaic, *, kind="plain"):
    """Write a file a band and return their paths by band."""
    paths = {}
    for band, ccd in mosaic.items():
        header = ccd.wcs.to_header(relax=True)
        header["BUNIT"], header["FILTER"] = "nmgy", band
        path = folder / f"{band}.fits{'.gz' if kind == 'gzip' else ''}"
        hdu = fits.ImageHDU(ccd.data, header)
        if kind == "tiles":
            options = {"compression_type": "GZIP_1", "quantize_level": 0, "tile_shape": (50, 60)}
            hdu = fits.CompImageHDU(ccd.data, header, **options)
        if kind == "scaled":
            hdu.data = ccd.data.astype(float)
            hdu.scale("int32", bscale=1e-8, bzero=1.0)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
        paths[band] = str(path)
    return paths


def assert_same(found, expected):
    np.testing.assert_allclose(found.pixels, expected.pixels, atol=1e-6)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.flags, expected.flags)
    np.testing.assert_allclose([found.ra, found.dec], [expected.ra, expected.dec])


# ---------------------------------------------------------------------- cutouts
def test_two_hundred_positions_are_as_cutouts_one_by_one():
    mosaic = make_mosaic(g=make_wcs(shift=(7, -3)), z=make_wcs(shift=(-2, 40)))
    position = draw_positions(200, beyond=-60)
    cutouts = []
    for one in position:
        cutouts.append({})
        for band, ccd in mosaic.items():
            cutout = Cutout2D(ccd.data, one, 60, wcs=ccd.wcs)
            cutouts[-1][band] = CCDData(
                cutout.data, unit=u.nmgy, wcs=cutout.wcs,
                mask=ccd.mask[cutout.slices_original],
            )
    assert_same(prepare(mosaic, position), prepare(cutouts, position))


@pytest.mark.parametrize("scale", [SCALE, 0.4, 0.1])
def test_edges_and_beyond_are_as_in_the_whole_image(scale):
    wcs = make_wcs(scale=scale)
    mosaic = make_mosaic(g=wcs, r=wcs, z=wcs)
    x, y = np.random.default_rng(2).uniform(-30, 30, (2, 20))
    position = wcs.pixel_to_world(x % (WIDTH + 15), y % (HEIGHT + 15))
    found, expected = prepare(mosaic, position), prepare([mosaic] * 20, position)
    assert_same(found, expected)
    assert 0 < found.failed.sum() < 20
    row = np.flatnonzero(found.flags & Flag.NO_OVERLAP)[0]
    message = f"images[{row}]: position {position[row].to_string('decimal')} is at pixel ("
    assert found.messages[row].startswith(message)
    assert "off the mosaic of 500 x 420 in band 'r'; expected it inside." in found.messages[row]


@pytest.mark.parametrize(
    "wcs",
    [make_wcs(shift=(0.4, 0.3)), make_wcs(angle=33), make_wcs(scale=0.2), make_wcs(parity=1),
     make_wcs(scale=0.5, angle=100, shift=(20, 9))],
)  # fmt: skip
def test_every_band_is_cut_by_its_own_world_coordinates(wcs):
    mosaic = make_mosaic(g=wcs)
    position = draw_positions(4, beyond=-150)
    assert_same(prepare(mosaic, position), prepare([mosaic] * 4, position))


def test_distortions_go_with_the_cutout():
    sip, table = make_wcs(), make_wcs()
    sip.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    a = np.zeros((3, 3))
    a[2, 0], a[0, 2] = 2e-5, -1e-5
    sip.sip = Sip(a, a.T, None, None, sip.wcs.crpix)
    shifts = np.random.default_rng(0).normal(size=(30, 30)).astype(np.float32)
    table.cpdis1 = DistortionLookupTable(shifts, (1, 1), (1, 1), (20, 20))
    position = draw_positions(4)
    for wcs in (sip, table):
        mosaic = MosaicCutouts(make_mosaic(r=wcs), position)
        for row in range(4):
            cutout = mosaic.image(row, 6.0, "image")["r"]
            at = cutout.wcs.pixel_to_world(12, 17)
            x, y = wcs.world_to_pixel(at)
            np.testing.assert_allclose([x, y], np.rint([x, y]), atol=1e-3)
            expected = make_mosaic(r=wcs)["r"].data[round(float(y)), round(float(x))]
            assert cutout.data[17, 12] == expected


def test_blank_regions_and_bad_positions_cost_the_others_nothing():
    mosaic = make_mosaic()
    position = draw_positions(20)
    right = prepare(mosaic, position)
    for band in "grz":
        mosaic[band].data[:, 250:] = np.nan
    x, _ = mosaic["r"].wcs.world_to_pixel(position)
    ra, dec = position.ra.deg.copy(), position.dec.deg.copy()
    ra[3], dec[4], ra[5] = np.nan, -88, 330
    found = prepare(mosaic, SkyCoord(ra, dec, unit="deg"))
    good = (x < 235) & ~np.isin(np.arange(20), [3, 4, 5])
    np.testing.assert_allclose(found.pixels[good], right.pixels[good], atol=1e-6)
    np.testing.assert_array_equal(found.failed[x > 265], True)
    assert found.failed[[3, 4, 5]].all()
    for row in (3, 4, 5):
        assert "the mosaic of 500 x 420" in found.messages[row]
    assert "no pixel of" in found.messages[3]
    blank = np.flatnonzero((x > 265) & ~np.isin(np.arange(20), [3, 4, 5]))[0]
    assert found.messages[blank].startswith(f"images[{blank}]")


def test_the_same_position_in_another_frame():
    position = draw_positions(5)
    mosaic = make_mosaic()
    expected = prepare(mosaic, position)
    assert_same(prepare(mosaic, position.galactic), expected)
    b1950 = position.transform_to("fk4")
    np.testing.assert_allclose(prepare(mosaic, b1950).pixels, expected.pixels, atol=1e-6)
    assert_same(prepare(mosaic, position[[1, 1, 1]]), expected[[1, 1, 1]])


def test_stacks_are_cut_as_dicts_are():
    mosaic, position = make_mosaic(), draw_positions(6)
    stack = CCDData(
        np.stack([mosaic[band].data for band in "grz"]), unit=u.nmgy, wcs=make_wcs(),
        mask=np.stack([mosaic[band].mask for band in "grz"]), meta={"BANDS": "grz"},
        uncertainty=InverseVariance(np.full((3, HEIGHT, WIDTH), 10.0)),
    )
    assert_same(prepare(stack, position), prepare(mosaic, position))


# ---------------------------------------------------------------------- files
@pytest.mark.parametrize("kind", ["plain", "tiles", "scaled", "gzip"])
def test_files_are_as_arrays(tmp_path, kind):
    mosaic = make_mosaic(g=make_wcs(shift=(7, -3)))
    position = draw_positions(5, beyond=10)
    for ccd in mosaic.values():
        ccd.mask = ccd.uncertainty = None
    paths = write_mosaic(tmp_path, mosaic, kind=kind)
    assert_same(prepare(paths, position), prepare(mosaic, position))
    assert_same(prepare(paths, position[2]), prepare(mosaic, position[2]))
    assert_same(prepare(paths, None), prepare(mosaic, None))
    mixed = {"g": paths["g"], "r": mosaic["r"], "z": paths["z"]}
    assert_same(prepare(mixed, position), prepare(mosaic, position))


@pytest.mark.parametrize("kind", ["plain", "tiles", "scaled"])
def test_files_are_never_read_whole_and_opened_once(tmp_path, monkeypatch, kind):
    paths = write_mosaic(tmp_path, make_mosaic(), kind=kind)
    opened, largest, read = [], [0], np.asarray
    open_file = fits.open
    monkeypatch.setattr(fits, "open", lambda path, **k: opened.append(path) or open_file(path, **k))

    def counting(values, *args, **kwargs):
        result = read(values, *args, **kwargs)
        largest.append(result.size)
        return result

    monkeypatch.setattr("astroclip.preparation.mosaics.np.asarray", counting)
    prepare(paths, draw_positions(8, beyond=10))
    monkeypatch.undo()
    assert len(opened) == 3
    assert max(largest) < HEIGHT * WIDTH / 10
    gc.collect()  # a file left open would warn, which is an error


# ---------------------------------------------------------------------- refusals
def test_faults_of_the_call(tmp_path):
    mosaic, position = make_mosaic(), draw_positions(4)
    with pytest.raises(ValueError, match="position has 4 coordinates; .* not in a list"):
        prepare([mosaic], position)
    with pytest.raises(ValueError, match=r"^position has shape \(2, 2\); expected \(n_pos"):
        prepare(mosaic, position.reshape(2, 2))
    with pytest.raises(ValueError, match="^position is empty"):
        prepare(mosaic, position[:0])
    with pytest.raises(TypeError, match=r"^images\['g'\] is a int; expected a CCDData or the"):
        prepare({"g": 3, "r": "r.fits"}, position)
    with pytest.raises(TypeError, match="^position is of type list; expected an astropy"):
        prepare({"g": "g.fits"}, [150.0, 2.0])
    with pytest.raises(FileNotFoundError, match=r"^images\['g'\]: path .* does not exist"):
        prepare({"g": tmp_path / "g.fits"}, position)
    bare = {band: CCDData(ccd.data, unit=u.nmgy) for band, ccd in mosaic.items()}
    found = prepare(bare, position)
    assert found.failed.all()
    assert found.messages[0].startswith("images['g'] has no celestial world coordinates")
    with pytest.raises(PreparationError, match=r"^images\[0\]: position .* off the mosaic"):
        prepare_images(mosaic, position=SkyCoord([151], [2], unit="deg"), size=SIZE)
