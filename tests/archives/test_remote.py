"""The same against the real services: run with ``pytest --remote-data=any``."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

import astroclip
from astroclip.archives import fetch, fetch_many, neighbors_of

pytestmark = pytest.mark.remote_data

GALAXY = SkyCoord(46.560472, -0.34435898, unit="deg")  # SDSS twice, z = 0.0287; all surveys


def reasons(target):
    """Return what failed, to be shown."""
    return [tuple(row) for row in target.failures]


def test_names():
    target = fetch("NGC 4303", archives="legacysurvey", products="images")
    assert target.coord.separation(SkyCoord(185.4788, 4.4737, unit="deg")) < 5 * u.arcsec
    assert list(target.images) == ["g", "r", "z"], reasons(target)


@pytest.mark.parametrize("archive", ["legacysurvey", "legacysurvey-dr10", "hips", "panstarrs",
                                     "sdss"])
def test_images(archive):
    target = fetch(GALAXY, archives=archive, products="images")
    assert list(target.images) == ["g", "r", "z"], reasons(target)
    table = astroclip.embed(target.images)
    assert not table["flags"][0] & 1


def test_surveys_agree_on_the_flux():
    """The galaxy's light in a 6 arcsec box, to a quarter."""
    fluxes = {}
    for archive in ("legacysurvey", "hips", "panstarrs", "sdss"):
        target = fetch(GALAXY, archives=archive, products="images", bands="r")
        ccd = target.images["r"]
        x, y = (int(round(float(value))) for value in ccd.wcs.world_to_pixel(GALAXY))
        scale = ccd.wcs.proj_plane_pixel_scales()[0].to_value(u.arcsec)
        half = round(3 / scale)
        box = ccd.data[y - half : y + half + 1, x - half : x + half + 1]
        fluxes[archive] = box.sum() * (6 / ((2 * half + 1) * scale)) ** 2
    values = np.array(list(fluxes.values()))
    np.testing.assert_allclose(values / np.median(values), 1, atol=0.25, err_msg=str(fluxes))


def test_sdss_spectra():
    target = fetch(GALAXY, archives="sdss", products=["spectra", "catalog"])
    assert len(target.spectra) >= 2, reasons(target)
    assert target.catalog["redshift"][0] == pytest.approx(0.0287, abs=1e-3)


@pytest.mark.parametrize("archive", ["desi", "desi-sparcl"])
def test_desi_spectra(archive):
    if archive == "desi-sparcl":
        pytest.importorskip("sparcl.client")
    coord = SkyCoord(150.1, 2.2, unit="deg")  # COSMOS
    target = fetch(coord, archives=archive, products=["spectra", "catalog"], radius=60)
    assert len(target.spectra) >= 1, reasons(target)
    assert len(astroclip.embed(target.spectra)) == len(target.spectra)


def test_nothing_there():
    pole = SkyCoord(0, -89.9, unit="deg")
    targets, failures = fetch_many([pole, GALAXY], archives=["sdss", "panstarrs"])
    assert targets[0].images == {} and targets[0].spectra == []
    assert {"sdss", "panstarrs"} <= set(failures["archive"])


def test_neighbors():
    table = neighbors_of("NGC 3073", n_neighbors=5)
    assert len(table) >= 5 and set(table["rank"]) == {1, 2, 3, 4, 5}
