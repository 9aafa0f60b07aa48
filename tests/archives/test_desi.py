"""DESI's coadds over ranges: the right rows of real files, few bytes, and what can go wrong."""

import io

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import ICRS, SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy_healpix import HEALPix
from hypothesis import given
from hypothesis import strategies as st
from specutils import SpectrumList

import astroclip
from astroclip.archives import DESI, ArchiveError, fetch, fetch_many
from astroclip.archives.ranges import RangeFile
from astroclip.archives.transport import Transport
from astroclip.datasets import DATA
from tests.archives.conftest import fits_bytes

SAMPLE = DATA / "samples" / "desi-27247.fits"
GALAXY = SkyCoord(149.46540425, 1.79364675, unit="deg")
N_TARGETS = 60
STEP = 5.0  # arcsec in declination from one target of the grown coadd to the next
GRID = HEALPix(nside=64, order="nested", frame=ICRS())
FAULTS = {
    "500": "HTTP 500 Internal Server Error",
    "hang": "no .*answer",
    "drip": "no complete answer",
    "plug": "the connection broke before the end",
    "truncated": "or not all of it",
    "html": "a web page .Scheduled maintenance. instead of a part of a file",
    "empty": "an empty answer instead of a part of a file",
}


def ask(quick, coord=GALAXY, archives="desi", **options):
    options = {"products": ["spectra", "catalog"], **quick, **options}
    return fetch(coord, archives=archives, **options)


def grown(*, n_targets=N_TARGETS, cameras="BRZ", is_sky=()):
    """Return the sample's coadd with rows of other fluxes, and resolution matrices, as DESI's."""
    with fits.open(SAMPLE) as hdus:
        fibermap = Table(hdus["FIBERMAP"].data[np.zeros(n_targets, int)])
        fibermap["TARGETID"] += np.arange(n_targets)
        fibermap["TARGET_DEC"] += np.arange(n_targets) * STEP / 3600
        fibermap["OBJTYPE"][list(is_sky)] = "SKY"
        result = [hdus[0].copy(), fits.BinTableHDU(fibermap, name="FIBERMAP")]
        for camera in cameras:
            for name in ("WAVELENGTH", "FLUX", "IVAR", "MASK"):
                hdu = hdus[f"{camera}_{name}"]
                values = hdu.data
                if name != "WAVELENGTH":
                    values = np.repeat(values, n_targets, axis=0)
                if name == "FLUX":
                    values += np.arange(n_targets, dtype=np.float32)[:, None]
                result.append(fits.ImageHDU(values, hdu.header, name=hdu.name))
            resolution = np.zeros((n_targets, 11, values.shape[1]), np.float32)
            result.append(fits.ImageHDU(resolution, name=f"{camera}_RESOLUTION"))
    return fits_bytes(*result)


def redrock(first=39089837499744649, n_targets=1, **changes):
    """Return a redrock file with a redshift for each target, in another order."""
    values = {"Z": 0.00727, "ZERR": 2e-5, "ZWARN": 0, "SPECTYPE": "GALAXY", "DELTACHI2": 724.5}
    table = Table({"TARGETID": first + np.arange(n_targets)[::-1]})
    for name, value in (values | changes).items():
        table[name] = np.full(n_targets, value)
    table["Z"] += 1e-4 * np.arange(n_targets)[::-1]
    return fits_bytes(fits.PrimaryHDU(), fits.BinTableHDU(table, name="REDSHIFTS"))


@pytest.fixture
def desi_server(server):
    """Return the service with the bundled real galaxy in its healpixel."""
    server.desi_files["coadd-special-dark-27247.fits"] = SAMPLE.read_bytes()
    server.desi_files["redrock-special-dark-27247.fits"] = redrock()
    return server


@pytest.fixture(scope="module")
def many():
    """Return a coadd of many targets and its redshifts, in bytes."""
    return grown(), redrock(n_targets=N_TARGETS)


@pytest.fixture
def full_server(server, many):
    """Return the service with a coadd of many targets."""
    for name, content in zip(("coadd", "redrock"), many, strict=True):
        server.desi_files[f"{name}-main-dark-27247.fits"] = content
    return server


def target_coord(row):
    return GALAXY.spherical_offsets_by(0 * u.arcsec, row * STEP * u.arcsec)


# ---------------------------------------------------------------------- what comes
def test_a_galaxy_as_the_file_holds_it(desi_server, quick):
    target = ask(quick)
    assert len(target.failures) == 0
    (spectrum,) = target.spectra
    for arm in SpectrumList.read(SAMPLE, format="DESI coadd"):
        alone = (arm.spectral_axis.value > 5830) & (arm.spectral_axis.value < 7500)
        if alone.any():
            at = np.searchsorted(spectrum.spectral_axis.value, arm.spectral_axis.value[alone] - 0.1)
            np.testing.assert_allclose(spectrum.flux.value[at], arm.flux.value[0, alone], rtol=1e-6)
    assert spectrum.meta["id"] == "desi-special-dark-39089837499744649"
    assert spectrum.meta["medium"] == "vacuum" and "CC BY 4.0" in spectrum.meta["credit"]
    (row,) = target.catalog
    assert (row["redshift"], row["redshift_warning"], row["class"]) == (0.00727, 0, "GALAXY")
    assert row["survey"] == "DESI-DR1 special-dark" and row["separation"] < 0.01 * u.arcsec
    np.testing.assert_allclose(
        np.asarray(astroclip.embed(target.spectra)["embedding"]),
        np.asarray(astroclip.embed([SAMPLE])["embedding"]), atol=1e-5,
    )
    path = "/public/dr1/spectro/redux/iron/healpix/special/dark/272/27247/"
    assert desi_server.count(f"{path}coadd-special-dark-27247.fits") > 1


def test_a_name_of_desi_is_a_position(desi_server, quick):
    target = ask(quick, "DESI J149.4654+01.7936")
    assert target.coord.separation(GALAXY) < 0.4 * u.arcsec
    assert len(target.spectra) == 1 and desi_server.count("sesame") == 0


def test_real_files(server, shared_data, quick):
    for name in ("coadd", "redrock"):
        file = shared_data / "desi" / f"{name}-special-dark-27247.fits"
        server.desi_files[file.name] = file.read_bytes()
    target = ask(quick)
    assert len(target.failures) == 0 and len(target.spectra) == 1
    assert target.catalog["redshift"][0] == pytest.approx(0.00726967, abs=1e-8)


@pytest.mark.parametrize("row", [0, 17, N_TARGETS - 1])
def test_one_row_of_many_costs_few_bytes(full_server, many, quick, row):
    target = ask(quick, target_coord(row))
    (spectrum,) = target.spectra
    (first,) = astroclip.preparation.read_spectra(SAMPLE)
    difference = (spectrum.flux - first.flux).value[~first.mask]
    np.testing.assert_allclose(difference, row, atol=1e-4)
    assert target.catalog["redshift"][0] == pytest.approx(0.00727 + 1e-4 * row)
    assert spectrum.meta["id"].endswith(str(39089837499744649 + row))
    assert full_server.n_bytes < 0.03 * sum(len(content) for content in many)


def test_catalog_alone_reads_no_flux(full_server, quick):
    assert len(ask(quick, products="catalog", radius=3 * STEP).catalog) == 4
    assert full_server.n_bytes < 60_000


def test_several_positions_read_the_tables_once(full_server, quick):
    coords = SkyCoord([target_coord(row) for row in range(3)])
    targets, failures = fetch_many(coords, archives="desi", products="catalog", n_workers=1,
                                   **quick)
    assert len(failures) == 0 and [len(target.catalog) for target in targets] == [1, 1, 1]
    assert full_server.count("redrock-main-dark") <= 2


def test_a_spectrum_is_kept(full_server, quick):
    ask(quick)
    n_bytes, n_asked = full_server.n_bytes, full_server.count("coadd-main-dark")
    assert len(ask(quick).spectra) == 1
    assert full_server.count("coadd-main-dark") < 2 * n_asked - 10
    ask(quick, cache=False)
    assert full_server.n_bytes > 2 * n_bytes


@pytest.mark.parametrize("cameras", ["BR", "RZ", "BZ", "Z"])
def test_cameras_may_be_missing(server, quick, cameras):
    server.desi_files["coadd-main-bright-27247.fits"] = grown(n_targets=2, cameras=cameras)
    (spectrum,) = ask(quick).spectra
    ends = {"B": (3600, 5800), "R": (5760, 7620), "Z": (7520, 9824)}
    assert spectrum.spectral_axis[0].value == pytest.approx(ends[cameras[0]][0])
    assert spectrum.spectral_axis[-1].value == pytest.approx(ends[cameras[-1]][1])


def test_sky_fibers_are_no_targets(server, quick):
    server.desi_files["coadd-main-dark-27247.fits"] = grown(n_targets=2, is_sky=[0])
    assert "has no spectrum within 3 arcsec in DR1" in ask(quick).failures["reason"][0]


def test_without_redrock_the_redshift_is_unknown(server, quick):
    server.desi_files["coadd-main-dark-27247.fits"] = grown(n_targets=1)
    target = ask(quick)
    assert np.isnan(target.catalog["redshift"][0]) and target.catalog["redshift_warning"][0] == -1
    assert len(target.spectra) == 1 and len(target.failures) == 0


def test_a_target_of_several_programs_gives_the_surest_first(desi_server, quick):
    programs = (("main-dark", 4, 9), ("main-bright", 0, 99), ("sv3-dark", 0, 50))
    for program, warning, surety in programs:
        desi_server.desi_files[f"coadd-{program}-27247.fits"] = SAMPLE.read_bytes()
        desi_server.desi_files[f"redrock-{program}-27247.fits"] = redrock(
            ZWARN=warning, DELTACHI2=surety
        )
    ids = [row["id"].rsplit("-", 1)[0] for row in ask(quick).catalog]
    assert ids == ["desi-special-dark", "desi-main-bright", "desi-sv3-dark", "desi-main-dark"]
    assert len(ask(quick, max_spectra=2).spectra) == 2


def test_the_early_release(desi_server, quick):
    target = ask(quick, archives=DESI(data_release="edr"))
    assert len(target.spectra) == 1
    assert desi_server.count("/edr/spectro/redux/fuji/") == desi_server.count("/public/")
    with pytest.raises(ValueError, match="data_release is 'dr3'; expected one of"):
        DESI(data_release="dr3")


def test_a_target_beyond_the_edge_of_a_healpixel(server, quick):
    edge = GRID.boundaries_skycoord([27247], 4)[0, 2]  # the middle of a side
    around = edge.directional_offset_by(np.arange(0, 360, 30) * u.deg, 1 * u.arcsec)
    pixels = GRID.skycoord_to_healpix(around)
    assert len(set(pixels)) == 2
    with fits.open(io.BytesIO(grown(n_targets=1))) as hdus:
        hdus["FIBERMAP"].data["TARGET_RA"] = around[0].ra.deg
        hdus["FIBERMAP"].data["TARGET_DEC"] = around[0].dec.deg
        server.desi_files[f"coadd-main-dark-{pixels[0]}.fits"] = fits_bytes(
            *[hdu.copy() for hdu in hdus]
        )
    for coord in around:
        assert len(ask(quick, coord, products="catalog").catalog) == 1


# ---------------------------------------------------------------------- what goes wrong
def test_nothing_at_the_position(desi_server, quick):
    target = ask(quick, SkyCoord(10, 10, unit="deg"))
    assert target.failures["reason"][0] == "has no spectrum within 3 arcsec in DR1"
    assert len(desi_server.requests) == 18  # a file for each program, and no second try


@pytest.mark.parametrize("path", ["coadd-special-dark", "redrock-special-dark"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults(desi_server, quick, fault, path):
    desi_server.fail(path, fault)
    target = ask(quick, n_retries=0, timeout=0.5 if fault in ("hang", "drip") else 20.0)
    assert target.spectra == [] and len(target.failures) == 2
    for reason in target.failures["reason"]:
        with pytest.raises(ArchiveError, match=FAULTS[fault]):
            raise ArchiveError(reason, "")


def test_a_service_that_recovers(desi_server, quick):
    desi_server.fail("coadd-special-dark", "500", times=1)
    assert len(ask(quick).failures) == 0


def test_what_was_found_before_a_fault_is_given(desi_server, quick):
    desi_server.desi_files["coadd-main-dark-27247.fits"] = SAMPLE.read_bytes()
    desi_server.fail("coadd-main-backup", "500")
    target = ask(quick)
    assert len(target.spectra) == len(target.catalog) == 1
    assert target.failures["product"].tolist() == ["catalog", "spectra"]


def test_a_server_without_ranges_is_not_read_whole(full_server, quick):
    full_server.ranges = False
    target = ask(quick)
    assert set(target.failures["reason"]) == {"the whole file instead of the part asked for"}
    assert "coadd-main-dark-27247.fits and pass the file to" in target.failures["advice"][0]


@pytest.mark.parametrize("length", [1000, 6000, 120_000])
def test_a_file_cut_short_on_the_server(desi_server, quick, length):
    desi_server.desi_files["coadd-special-dark-27247.fits"] = SAMPLE.read_bytes()[:length]
    target = ask(quick)
    assert target.spectra == []
    assert "damaged, cut short or no file of DESI" in target.failures["reason"][-1]
    assert "https" not in target.failures["reason"][-1]
    assert target.failures["advice"][-1].startswith("look at the file: http")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50_000), st.integers(0, 40_000))))
def test_a_range_file_is_as_a_file(content_transport, moves):
    content, transport = content_transport
    expected, file = io.BytesIO(content), RangeFile(transport, "http://any/file")
    for whence, offset, n_bytes in moves:
        offset = -offset if whence == 2 else offset
        assert file.seek(offset, whence) == expected.seek(offset, whence)
        assert file.read(n_bytes) == expected.read(n_bytes)
        assert file.tell() == expected.tell()


@pytest.fixture(scope="module")
def content_transport():
    """Return bytes and a transport that gives parts of them."""
    content = np.random.default_rng(0).bytes(70_000)

    class Response:
        status_code = 206

    class Memory(Transport):
        def get(self, url, *, headers):
            first, last = (int(n) for n in headers["Range"].removeprefix("bytes=").split("-"))
            response = Response()
            response.content = content[first : last + 1]
            response.headers = {
                "Content-Range": f"bytes {first}-{first + len(response.content) - 1}/{len(content)}"
            }
            return response

    transport = Memory()
    yield content, transport
    transport.close()
