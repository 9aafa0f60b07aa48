"""What goes wrong at an archive becomes a row that says what, why and what to try."""

import socket
import threading

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from astroclip.archives import HiPS, fetch
from astroclip.archives.transport import ArchiveError, Transport
from tests.archives.conftest import POSITION

IMAGES = {"legacysurvey": "viewer", "hips": "hips2fits", "panstarrs": "fitscut", "sdss": "frame-"}
FAULTS = {
    "404": "HTTP 404 Not Found",
    "500": "HTTP 500 Internal Server Error",
    "503": "HTTP 503 Service Unavailable",
    "hang": "no .*answer",
    "drip": "no complete answer within 0.4 s",
    "plug": "the connection broke before the end",
    "truncated": "FITS that is damaged or cut short",
    "html": "a web page .Scheduled maintenance. instead of FITS",
    "empty": "an empty answer instead of FITS",
}
SLOW = {"hang", "drip"}
FINAL = {"404", "truncated", "html", "empty"}  # not asked for again


@pytest.fixture(params=IMAGES)
def archive(request):
    """Return the name of each archive that gives images."""
    return request.param


def ask(archive, quick, **options):
    """Fetch one band, small."""
    quick = {"size": 64, "bands": "r", "products": "images"} | {
        key: value for key, value in quick.items() if key != "size"
    }
    return fetch(POSITION, archives=archive, **quick | options)


def test_images_of_every_archive(server, quick, archive):
    target = ask(archive, quick, bands="grz")
    assert list(target.images) == ["g", "r", "z"]
    assert len(target.failures) == 0
    for ccd in target.images.values():
        assert str(ccd.unit) == "nmgy"
        middle = (ccd.data.shape[0] - 1) / 2
        centre = ccd.wcs.pixel_to_world(middle, middle)
        assert centre.separation(POSITION).arcsec < 0.5  # the server cuts whole pixels
        assert ccd.meta["credit"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_becomes_a_row(server, quick, impatient, archive, fault):
    server.fail(IMAGES[archive], fault)
    target = ask(archive, impatient if fault in SLOW else quick)
    assert target.images == {}
    (row,) = target.failures
    assert row["archive"] == archive and row["product"] == "images"
    assert np.char.count(row["advice"], " ") >= 2  # words, not a code
    with pytest.raises(ArchiveError, match=FAULTS[fault]):
        raise ArchiveError(row["reason"], "")
    assert server.count(IMAGES[archive]) == (1 if fault in FINAL | SLOW else 2)


@pytest.mark.parametrize("fault", ["500", "503", "plug"])
def test_a_fault_that_passes_is_got_over(server, quick, archive, fault):
    server.fail(IMAGES[archive], fault, times=1)
    target = ask(archive, quick)
    assert len(target.failures) == 0 and list(target.images) == ["r"]


@pytest.mark.parametrize("fault", sorted(SLOW))
def test_a_time_out_that_passes_is_got_over(server, impatient, fault):
    server.fail("viewer", fault, times=1)
    assert list(ask("legacysurvey", impatient, n_retries=1).images) == ["r"]


def test_a_bad_download_is_not_kept(server, quick, archive):
    server.fail(IMAGES[archive], "truncated", times=1)
    assert ask(archive, quick).images == {}
    assert list(ask(archive, quick).images) == ["r"]


def test_a_good_download_is_kept(server, quick, archive):
    first = ask(archive, quick)
    n_asked = len(server.requests)
    again = ask(archive, quick)
    assert len(server.requests) == n_asked
    np.testing.assert_array_equal(first.images["r"].data, again.images["r"].data)


def test_without_cache_nothing_is_kept(server, quick, archive, tmp_path):
    ask(archive, quick, cache=False)
    n_asked = server.count(IMAGES[archive])
    ask(archive, quick, cache=False)
    assert server.count(IMAGES[archive]) == 2 * n_asked
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_that_others_cached_meanwhile_is_not_replaced(server):
    address, others = f"{server.url}/sesame/-oI/SNV?NGC4303", []
    first, second = Transport(), Transport()

    def check(_):  # between the first's download and its place in the cache
        if not others:
            path = second.download(address, check=lambda _: None)
            others.append((path, path.stat().st_ino))

    path = first.download(address, check=check)
    assert [(path, path.stat().st_ino)] == others
    first.close()
    second.close()


def test_a_file_damaged_in_the_cache_is_fetched_again(server, quick, archive, tmp_path):
    ask(archive, quick)
    files = (tmp_path / "cache").rglob("contents")
    (kept,) = [path for path in files if path.read_bytes()[:6] == b"SIMPLE"]
    kept.write_bytes(kept.read_bytes()[:4000])
    assert list(ask(archive, quick).images) == ["r"]
    assert server.count(IMAGES[archive]) == 2


def test_nothing_at_the_position(server, quick, archive):
    server.empty = True
    target = ask(archive, quick)
    (row,) = target.failures
    with pytest.raises(ArchiveError, match="holds no data|no image|no object"):
        raise ArchiveError(row["reason"], "")
    assert "another archive" in row["advice"]


def test_a_server_that_is_gone(server, quick, archive, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    here = server.url.rsplit(":", 1)[1]
    from astroquery.hips2fits import hips2fitsClass
    from astroquery.sdss import conf

    from astroclip.archives import LegacySurvey, PanSTARRS

    for owner in (hips2fitsClass, LegacySurvey, PanSTARRS):
        monkeypatch.setattr(owner, "server", owner.server.replace(here, str(port)))
    with conf.set_temp("skyserver_baseurl", f"http://127.0.0.1:{port}"):
        target = ask(archive, quick)
    (row,) = target.failures
    assert row["reason"].startswith("no connection")
    assert "check the network" in row["advice"]


def test_wrong_band_count(server, quick):
    server.fail("viewer", "bands")
    target = ask("legacysurvey", quick, bands="grz")
    assert target.failures["reason"].tolist() == [
        "a cutout of 2 bands (g, r) instead of 3 (g, r, z)"
    ]


def test_wrong_size(server, quick, monkeypatch):
    whole = server.cutout
    monkeypatch.setattr(
        server, "cutout", lambda path, query, body: whole(path, query | {"size": ["32"]}, body)
    )
    target = ask("legacysurvey", quick)
    assert target.failures["reason"].tolist() == ["a cutout of 32 x 32 pixels instead of 64 x 64"]


def test_larger_than_the_service_gives(server, quick):
    for archive, size in (("legacysurvey", 513), ("hips", 8000), ("panstarrs", 8000)):
        target = ask(archive, quick, size=size)
        assert "gives at most" in target.failures["reason"][0]
        assert "smaller size" in target.failures["advice"][0]
    assert server.requests == []


def test_an_error_that_the_service_explains(server, quick):
    target = ask(HiPS({"r": "CDS/P/Nowhere/q"}), quick)
    assert target.failures["reason"].tolist() == ["HTTP 400 Bad Request (Bad hips: no such HiPS)"]


def test_part_of_the_bands(server, quick):
    server.fail("frame-z", "truncated")
    target = ask("sdss", quick, bands="grz")
    assert list(target.images) == ["g", "r"]
    assert "1 of 3 failed; the first: FITS that is damaged" in target.failures["reason"][0]


def test_off_the_frame(server, quick):
    coord = SkyCoord(POSITION.ra, POSITION.dec + 100 * POSITION.dec.unit / 3600)
    target = fetch(coord, archives="sdss", products="images", **quick)
    assert "off the nearest object's frame" in target.failures["reason"][0]


def test_requests_to_a_host_are_four_at_a_time():
    running, most, lock, full = 0, 0, threading.Lock(), threading.Event()
    transport = Transport(timeout=30)

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 4:
                full.set()
        assert full.wait(20)
        with lock:
            running -= 1

    threads = [
        threading.Thread(target=lambda: transport.call(work, host="a.test")) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    transport.close()
    assert most == 4


def test_unknown_errors_pass_through_a_transport():
    transport = Transport(n_retries=3, retry_wait=0)
    with pytest.raises(ZeroDivisionError):
        transport.call(lambda: 1 / 0, host="b.test")
    transport.close()


def test_a_stopped_transport_asks_no_more():
    transport = Transport()
    transport.close()
    with pytest.raises(ArchiveError, match="stopped"):
        transport.call(lambda: 1, host="c.test")
