"""DESI through sparclclient: a real spectrum, and what SPARCL can do wrong."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

import astroclip
from astroclip.archives import ArchiveError, fetch
from astroclip.archives.sparcl import _boxes
from tests.archives.conftest import POSITION

FAULTS = {
    "500": "SPARCL",
    "hang": "no .*answer",
    "drip": "no complete answer",
    "plug": "connection broke|no connection",
    "html": "not SPARCL's",
}


def ask(quick, coord=POSITION, **options):
    options = {"products": ["spectra", "catalog"], **quick, **options}
    return fetch(coord, archives="desi-sparcl", **options)


def test_without_the_client_a_row_says_what_to_install(server, quick, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sparcl", None)
    monkeypatch.setitem(sys.modules, "sparcl.client", None)
    target = ask(quick)
    assert set(target.failures["reason"]) == {"sparclclient is not installed"}
    assert "install it with: python -m pip install" in target.failures["advice"][0]
    assert server.requests == []


@pytest.mark.parametrize(("ra", "dec"), [(0.0001, 0), (359.9999, 60), (10, 89.9999), (200, -90)])
def test_boxes_hold_the_circle(ra, dec):
    centre = SkyCoord(ra, dec, unit="deg")
    circle = centre.directional_offset_by(np.arange(0, 360, 5) * u.deg, 2.999 * u.arcsec)
    inside = np.zeros(len(circle), bool)
    for (low, high), (south, north) in _boxes(centre, 3.0):
        inside |= (
            (circle.ra.deg >= low) & (circle.ra.deg <= high)
            & (circle.dec.deg >= south) & (circle.dec.deg <= north)
        )
    assert inside.all()


def test_spectra_and_catalogue(sparcl_server, quick):
    target = ask(quick)
    assert len(target.failures) == 0
    (spectrum,) = target.spectra  # the better release's alone
    expected = astroclip.sample_spectrum()
    np.testing.assert_array_equal(spectrum.flux.value, expected.flux.value)
    np.testing.assert_allclose(spectrum.spectral_axis.value, expected.spectral_axis.value)
    assert spectrum.flux.unit == u.Unit("1e-17 erg / (s cm2 AA)")
    assert spectrum.meta["id"] == "desi-39627776344457978"
    assert spectrum.meta["survey"] == "DESI-DR1"
    assert target.catalog["redshift"].tolist() == [0.2036]
    table = astroclip.embed(target.spectra)
    np.testing.assert_allclose(
        np.asarray(table["embedding"]), np.asarray(astroclip.embed(expected)["embedding"]),
        atol=1e-5,
    )
    assert sparcl_server.count("version") == sparcl_server.count("find") == 1


def test_nothing_at_the_position(sparcl_server, quick):
    target = ask(quick, SkyCoord(10, 10, unit="deg"))
    assert target.failures["reason"][0] == "has no spectrum within 3 arcsec in DESI-DR1, DESI-EDR"


@pytest.mark.parametrize("path", ["version", "datafields", "find", "spectras"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults(sparcl_server, quick, fault, path):
    sparcl_server.fail(path, fault)
    target = ask(quick, n_retries=0, timeout=0.5 if fault in ("hang", "drip") else 20.0)
    assert target.spectra == []
    assert len(target.failures) == (1 if path == "spectras" else 2)
    with pytest.raises(ArchiveError, match=FAULTS[fault]):
        raise ArchiveError(target.failures["reason"][-1], "")


def test_a_service_that_recovers(sparcl_server, quick):
    sparcl_server.fail("find", "500", times=1)
    assert len(ask(quick).failures) == 0


def test_a_spectrum_that_is_not_sent(sparcl_server, quick):
    whole = sparcl_server.sparcl_records[1]
    whole["flux"] = whole["flux"][:-1]
    target = ask(quick)
    assert "has arrays of shapes" in target.failures["reason"][0]
