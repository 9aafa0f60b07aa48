"""SDSS through astroquery: real spectra of a galaxy that was observed twice."""

import numpy as np
import pytest

import astroclip
from astroclip.archives import SDSS, ArchiveError, fetch
from astroclip.preparation import read_spectra

FAULTS = {
    "404": "HTTP 404",
    "500": "HTTP 500",
    "hang": "no .*answer",
    "drip": "no complete answer",
    "plug": "connection broke",
    "html": "a web page .Scheduled maintenance. instead of a table",
    "empty": "an empty answer",
}


def ask(server, quick, **options):
    options = {"products": ["spectra", "catalog"], **quick, **options}
    return fetch(server.position, archives="sdss", **options)


def test_spectra_and_catalogue(sdss_server, quick):
    target = ask(sdss_server, quick)
    assert len(target.failures) == 0
    first, second = target.spectra
    assert first.meta["id"] == "sdss-0412-52235-0305"  # SDSS's own choice
    assert second.meta["id"] == "sdss-0412-51871-0308"
    expected = read_spectra(sdss_server.spectrum_files["spec-0412-52235-0305.fits"])[0]
    np.testing.assert_array_equal(first.flux.value, expected.flux.value)
    np.testing.assert_array_equal(first.mask, expected.mask)
    np.testing.assert_allclose(first.uncertainty.array, expected.uncertainty.array, rtol=1e-6)
    np.testing.assert_allclose(first.spectral_axis.value, expected.spectral_axis.value)
    assert first.meta["archive"] == "sdss" and first.meta["medium"] == "vacuum"
    assert first.meta["redshift"] == pytest.approx(0.02867, abs=1e-4)
    assert float(first.redshift) == pytest.approx(0.02867, abs=1e-4)
    assert target.catalog["id"].tolist() == [first.meta["id"], second.meta["id"]]
    assert target.catalog["separation"].max().value < 0.1
    assert target.catalog["class"].tolist() == ["GALAXY", "GALAXY"]
    # one query served both
    assert sdss_server.count("x_results") == 1
    assert "fGetNearbySpecObjAllEq%2846.5604720%2C+-0.3443590%2C+0.05000%29" in (
        sdss_server.requests[0]
    )


def test_spectra_embed_as_they_are(sdss_server, quick):
    target = ask(sdss_server, quick)
    table = astroclip.embed(target.spectra)
    assert table["id"].tolist() == [spectrum.meta["id"] for spectrum in target.spectra]
    assert np.asarray(table["redshift"])[0] == pytest.approx(0.02867, abs=1e-4)
    # two observations of one galaxy are near each other
    embedding = np.asarray(table["embedding"])
    assert embedding[0] @ embedding[1] > 0.9


def test_only_so_many_spectra(sdss_server, quick):
    target = ask(sdss_server, quick, max_spectra=1)
    assert len(target.spectra) == 1 and len(target.catalog) == 2


def test_one_of_two_spectra_is_damaged(sdss_server, quick):
    sdss_server.fail("spec-0412-52235", "truncated")
    target = ask(sdss_server, quick)
    assert [spectrum.meta["id"] for spectrum in target.spectra] == ["sdss-0412-51871-0308"]
    (row,) = target.failures
    assert row["reason"].startswith("1 of 2 failed; the first: FITS that is damaged")
    assert row["product"] == "spectra"


def test_a_spectrum_that_is_something_else(sdss_server, quick, shared_data):
    other = shared_data / "images" / "copsf_59.1067_-30.4848.fits"
    sdss_server.spectrum_files["spec-0412-52235-0305.fits"] = other
    target = ask(sdss_server, quick)
    assert "FITS of another kind than the archive's spectra" in target.failures["reason"][0]


def test_a_spectrum_that_is_not_there(sdss_server, quick):
    sdss_server.spectrum_files.clear()
    target = ask(sdss_server, quick)
    assert "2 of 2 failed; the first: HTTP 404 Not Found" in target.failures["reason"][0]
    assert len(target.catalog) == 2


def test_nothing_at_the_position(sdss_server, quick):
    sdss_server.empty = True
    target = ask(sdss_server, quick)
    assert target.failures["product"].tolist() == ["catalog", "spectra"]
    assert target.failures["reason"][0] == "has no spectrum within 3 arcsec"
    assert "larger radius" in target.failures["advice"][0]
    assert sdss_server.count("x_results") == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_database(sdss_server, quick, impatient, fault):
    sdss_server.fail("x_results", fault)
    target = ask(sdss_server, impatient if fault in ("hang", "drip") else quick)
    assert len(target.failures) == 2 and target.spectra == []
    with pytest.raises(ArchiveError, match=FAULTS[fault]):
        raise ArchiveError(target.failures["reason"][0], "")
    # nothing of it was kept
    sdss_server.faults.clear()
    assert len(ask(sdss_server, quick, products="catalog").catalog) == 2


def test_a_database_that_recovers(sdss_server, quick):
    sdss_server.fail("x_results", "500", times=1)
    assert len(ask(sdss_server, quick).failures) == 0


def test_an_error_message_of_the_database(sdss_server, quick, monkeypatch):
    said = b'[{"error_message": "Incorrect syntax near FROM"}]'
    monkeypatch.setattr(sdss_server, "sql", lambda *_: (200, "text/plain", said))
    target = ask(sdss_server, quick)
    assert "the database refused the query" in target.failures["reason"][0]


def test_queries_and_spectra_are_kept(sdss_server, quick):
    ask(sdss_server, quick)
    n_asked = len(sdss_server.requests)
    assert len(ask(sdss_server, quick).spectra) == 2
    assert len(sdss_server.requests) == n_asked


def test_a_half_written_query_in_the_cache(sdss_server, quick, tmp_path):
    ask(sdss_server, quick, products="catalog")
    (kept,) = (tmp_path / "cache").rglob("*.pickle")
    kept.write_bytes(kept.read_bytes()[:100])
    assert len(ask(sdss_server, quick, products="catalog").catalog) == 2


def test_another_data_release(sdss_server, quick):
    fetch(sdss_server.position, archives=SDSS(data_release=16), **quick)
    assert sdss_server.count("/dr16/en/tools/search/x_results.aspx") >= 1
    assert sdss_server.count("/sas/dr16/") >= 1


def test_an_archive_by_itself(sdss_server):
    archive = SDSS()
    assert len(archive.fetch_spectra(sdss_server.position)) == 2
    assert len(archive.fetch_catalog(sdss_server.position)) == 2
    archive.transport.close()
