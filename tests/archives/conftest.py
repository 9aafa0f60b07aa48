"""A server on loopback that speaks the archives' protocols and serves real files."""

import io
import json
import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from astropy.config import set_temp_cache
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import InverseVariance

import astroclip
from astroclip.datasets import DATA
from astroclip.preparation import read_images

LEGACY = DATA / "samples" / "legacysurvey-59.1067-30.4848.fits"
POSITION = SkyCoord(59.1067, -30.4848, unit="deg")
FRAME_SCALE = 0.396
SQL_COLUMNS = ("specObjID,ra,dec,plate,mjd,fiberID,run2d,survey,instrument,class,subClass,z,zErr,"
               "zWarning,sciencePrimary")
HTML = b"<!DOCTYPE html><html><head><title>Scheduled maintenance</title></head></html>"
FIELDS = ("sparcl_id", "specid", "targetid", "data_release", "ra", "dec", "redshift",
          "redshift_err", "redshift_warning", "spectype", "survey", "specprimary", "flux", "ivar",
          "mask", "wavelength")


def fits_bytes(*hdus):
    """Return FITS as bytes."""
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream)
    return stream.getvalue()


class Service:
    """Answers of all archives, and the faults that tests switch on."""

    def __init__(self, legacy):
        self.requests, self.faults = [], []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.legacy = legacy  # images by band
        self.spectrum_files, self.spectrum_rows = {}, []
        self.sparcl_records = []
        self.desi_files = {}  # bytes by name
        self.ranges, self.n_bytes = True, 0
        self.empty = False

    def fail(self, path, kind, times=None):
        """Answer requests whose path contains ``path`` with a fault, some times or for good."""
        self.faults.append({"path": path, "kind": kind, "left": times})

    def fault_of(self, path):
        """Return the fault due for a path, or None."""
        with self.lock:
            for fault in self.faults:
                if fault["path"] in path and fault["left"] != 0:
                    if fault["left"] is not None:
                        fault["left"] -= 1
                    return fault["kind"]
        return None

    def count(self, path):
        """Return how often a path was asked for."""
        return sum(path in asked for asked in self.requests)

    # ------------------------------------------------------------------ protocols
    def answer(self, path, query, body):
        """Return the status, type and bytes of an answer."""
        routes = {
            "/sesame/": self.sesame,
            "/viewer/fits-cutout": self.cutout,
            "/hips2fits": self.hips,
            "/ps1filenames.py": self.ps1_names,
            "/fitscut.cgi": self.ps1_cutout,
            "/x_results.aspx": self.sql,
            "/sas/": self.sas,
            "/api/": self.sparcl,
            "/public/": self.desi,
        }
        for part, route in routes.items():
            if part in path:
                return route(path, query, body)
        return 404, "text/html", b"<html><title>Not Found</title></html>"

    def sesame(self, path, query, body):
        """Return a position as Sesame writes it."""
        known = "SNV" in path and "GC" in str(query)
        text = f"# GC 1\n#=S=Simbad\n%J {POSITION.ra.deg:.6f} {POSITION.dec.deg:+.6f} = 03:56\n"
        return 200, "text/plain", (text if known else "#!SIMBAD: Nothing found\n").encode()

    def plane(self, band, size):
        """Return the real cutout's pixels and header of a band, cropped at the centre."""
        ccd = self.legacy[band]
        start = (ccd.data.shape[0] - size) // 2
        part = slice(start, start + size)
        header = ccd.wcs[part, part].to_header()
        pixels = ccd.data[part, part]
        return np.zeros_like(pixels) if self.empty else pixels, header

    def cutout(self, path, query, body):
        """Return a cube as the viewer writes it."""
        bands, size = query["bands"][0], int(query["size"][0])
        planes = [self.plane(band, size) for band in bands]
        header = planes[0][1]
        header["BANDS"], header["SURVEY"] = bands, "LegacySurvey"
        return 200, "image/fits", fits_bytes(
            fits.PrimaryHDU(np.stack([pixels for pixels, _ in planes]), header)
        )

    def hips(self, path, query, body):
        """Return one band on the pixels asked for."""
        wcs = json.loads(query["wcs"][0])
        band = query["hips"][0].rsplit("/", 1)[-1]
        if band not in self.legacy:
            answer = {"title": "Bad hips", "description": "no such HiPS"}
            return 400, "application/json", json.dumps(answer).encode()
        pixels, _ = self.plane(band, wcs["NAXIS1"])
        pixels = np.full_like(pixels, np.nan) if self.empty else pixels
        header = fits.Header({key: value for key, value in wcs.items() if "NAXIS" not in key})
        return 200, "image/fits", fits_bytes(fits.PrimaryHDU(pixels, header))

    def ps1_names(self, path, query, body):
        """Return the table of files."""
        lines = ["projcell subcell ra dec filter mjd type filename shortname badflag"]
        if not self.empty:
            lines += [
                f"1 2 59.1 -30.4 {band} 0 stack /rings.v3/{band}.fits {band}.fits 0"
                for band in query["filters"][0]
            ]
        return 200, "text/plain", "\n".join(lines).encode()

    def ps1_cutout(self, path, query, body):
        """Return counts of 100 s."""
        band = query["red"][0].split("/")[-1][0]
        pixels, header = self.plane(band, min(160, int(query["size"][0])))
        header["EXPTIME"] = 100.0
        return 200, "image/fits", fits_bytes(fits.PrimaryHDU(pixels * 10 ** 3, header))

    def sql(self, path, query, body):
        """Return rows as comma-separated values."""
        command = query["cmd"][0]
        if "SpecObjAll" in command:
            rows, columns = self.spectrum_rows, SQL_COLUMNS
        else:
            columns = "objID,ra,dec,run,rerun,camcol,field"
            rows = [f"1,{POSITION.ra.deg},{POSITION.dec.deg},94,301,3,17"]
        rows = [] if self.empty else rows
        return 200, "text/csv", "\n".join(["#Table1", columns, *rows, ""]).encode()

    def sas(self, path, query, body):
        """Return a spectrum's real file, or a frame."""
        name = path.rsplit("/", 1)[-1]
        if name in self.spectrum_files:
            return 200, "image/fits", self.spectrum_files[name].read_bytes()
        if name.startswith("frame-") and name.split("-")[1] in self.legacy:
            pixels, header = self.plane(name.split("-")[1], 160)
            return 200, "image/fits", fits_bytes(fits.PrimaryHDU(pixels, header))
        return 404, "text/html", b"<html><title>404 Not Found</title></html>"

    def desi(self, path, query, body):
        """Return a file of data.desi.lbl.gov."""
        name = path.rsplit("/", 1)[-1]
        if name in self.desi_files and not self.empty:
            return 200, "application/fits", self.desi_files[name]
        return 404, "text/html", b"<html><title>404 Not Found</title></html>"

    def sparcl(self, path, query, body):
        """Return what SPARCL's API gives."""
        if "/version" in path:
            return 200, "text/plain", b"14.2"
        if "/datafields" in path:
            fields = [
                {"data_release": release, "origdp": name, "newdp": name, "storage": "C",
                 "default": True, "all": True}
                for release in ("DESI-DR1", "DESI-EDR", "BOSS-DR17") for name in FIELDS
            ]
            return 200, "application/json", json.dumps(fields).encode()
        records = [] if self.empty else self.sparcl_records
        header = {"status": {"info": [], "warnings": []}}
        if "/find" in path:
            asked = {item[0]: item[1:] for item in json.loads(body)["search"]}
            low, high = asked["ra"]
            near = [
                {k: v for k, v in record.items() if np.ndim(v) == 0} for record in records
                if low <= record["ra"] <= high and record["_dr"] in asked["data_release"]
            ]
            return 200, "application/json", json.dumps([header, *near]).encode()
        chosen = [record for record in records if record["sparcl_id"] in json.loads(body)]
        return 200, "application/octet-stream", pickle.dumps([header, *chosen])


class Handler(BaseHTTPRequestHandler):
    """Sends answers, whole or spoilt."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        """Answer a GET or a POST."""
        service = self.server.service
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service.requests.append(self.path)
        fault = service.fault_of(self.path)
        query = parse_qs(parts.query, keep_blank_values=True) or parts.query

        def answer():
            status, kind, content = service.answer(parts.path, query, body)
            asked = self.headers.get("Range")
            if not (asked and status == 200 and service.ranges):
                return status, kind, content
            first, last = (int(value) for value in asked.removeprefix("bytes=").split("-"))
            part = content[first : last + 1]
            self.part = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            return 206, kind, part

        self.part = None
        try:
            if fault is None:
                self.send(*answer())
            else:
                self.spoil(fault, answer)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_POST = do_GET

    def send(self, status, kind, content, *, n_promised=None, retry_after=None):
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(n_promised or len(content)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        if self.part is not None and status == 206:
            self.send_header("Content-Range", self.part)
        self.end_headers()
        self.wfile.write(content)
        self.server.service.n_bytes += len(content)

    def spoil(self, fault, answer):
        """Send an answer with a fault."""
        closing = self.server.service.closing
        if fault in ("404", "500", "503"):
            self.send(int(fault), "text/html", b"<html><title>Trouble</title></html>",
                      retry_after="0" if fault == "503" else None)
        elif fault == "html":
            self.send(200, "text/html", HTML)
        elif fault == "empty":
            self.send(200, "image/fits", b"")
        elif fault == "hang":
            closing.wait(5)
            self.close_connection = True
        else:
            status, kind, content = answer()
            if fault == "truncated":  # a complete answer with half a file in it
                self.send(status, kind, content[: len(content) // 2880 // 2 * 2880])
            elif fault == "plug":  # the connection breaks in the middle
                self.send(status, kind, content[: len(content) // 2], n_promised=len(content))
                self.close_connection = True
            elif fault == "bands":
                with fits.open(io.BytesIO(content)) as hdus:
                    header = hdus[0].header
                    header["BANDS"] = header.get("BANDS", "grz")[:2]
                    self.send(status, kind, fits_bytes(fits.PrimaryHDU(hdus[0].data[:2], header)))
            elif fault == "drip":
                self.send(status, kind, b"", n_promised=len(content))
                end = time.monotonic() + 5
                for byte in content:
                    if closing.wait(0.15) or time.monotonic() > end:
                        break
                    self.wfile.write(bytes([byte]))
                self.close_connection = True


@pytest.fixture(scope="session")
def legacy_images():
    """Return a real cutout of the Legacy Surveys, by band."""
    return read_images(LEGACY)


@pytest.fixture
def server(monkeypatch, tmp_path, legacy_images):
    """Return the service, with all clients' addresses pointed at it and an empty cache."""
    import astroquery.sdss
    from astropy.coordinates.name_resolve import sesame_url
    from astroquery.hips2fits import hips2fitsClass

    from astroclip.archives import DESI, SPARCL, LegacySurvey, PanSTARRS

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.service = service = Service(legacy_images)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    service.url = url = f"http://127.0.0.1:{http.server_port}"
    service.stop = http.shutdown
    monkeypatch.setattr(LegacySurvey, "server", f"{url}/viewer/fits-cutout")
    monkeypatch.setattr(PanSTARRS, "server", f"{url}/cgi-bin")
    monkeypatch.setattr(DESI, "server", f"{url}/public")
    monkeypatch.setattr(SPARCL, "server", url)
    monkeypatch.setattr(hips2fitsClass, "server", f"{url}/hips2fits")
    conf = astroquery.sdss.conf
    cache = tmp_path / "cache"
    cache.mkdir()
    with (
        set_temp_cache(cache), sesame_url.set([f"{url}/sesame/"]),
        conf.set_temp("skyserver_baseurl", url), conf.set_temp("sas_baseurl", f"{url}/sas"),
    ):
        yield service
        service.closing.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(scope="session")
def sdss_redshifts(shared_data):
    """Return the redshifts in the files of a galaxy that SDSS observed twice, by path."""
    names = ("spec-0412-51871-0308.fits", "spec-0412-52235-0305.fits")
    paths = [shared_data / "sdss" / name for name in names]
    return {path: fits.getdata(path, 2)["Z"][0] for path in paths}


@pytest.fixture
def sdss_server(server, sdss_redshifts):
    """Return the service with real SDSS spectra of a galaxy observed twice."""
    for path, z in sdss_redshifts.items():
        _, plate, mjd, fiber = path.stem.split("-")
        server.spectrum_files[path.name] = path
        server.spectrum_rows.append(
            f"46{mjd},46.560472,-0.34435898,{int(plate)},{mjd},{int(fiber)},26,sdss,SDSS,GALAXY,"
            f"STARFORMING,{z},0.00001,0,{int(mjd == '52235')}"
        )
    server.position = SkyCoord(46.560472, -0.34435898, unit="deg")
    return server


@pytest.fixture(scope="session")
def sparcl_client():
    """Skip what needs SPARCL's client where it is not installed."""
    pytest.importorskip("sparcl.client")


@pytest.fixture
def sparcl_server(sparcl_client, server):
    """Return the service with a real DESI spectrum of two releases."""
    spectrum = astroclip.sample_spectrum()
    for release in ("DESI-EDR", "DESI-DR1"):
        server.sparcl_records.append({
            "sparcl_id": f"uuid-{release}", "_dr": release, "data_release": release,
            "specid": 39627776344457978, "targetid": 39627776344457978,
            "ra": POSITION.ra.deg, "dec": POSITION.dec.deg, "redshift": 0.2036,
            "redshift_err": 1e-5, "redshift_warning": 0, "spectype": "GALAXY", "survey": "sv3",
            "specprimary": True,
            "flux": spectrum.flux.value, "wavelength": spectrum.spectral_axis.value,
            "ivar": spectrum.uncertainty.represent_as(InverseVariance).array,
            "mask": np.zeros(len(spectrum.flux), int),
        })
    return server


@pytest.fixture
def quick():
    """Return options of one quick retry."""
    return {"timeout": 20.0, "n_retries": 1, "retry_wait": 0.01, "size": 152}


@pytest.fixture
def impatient(quick):
    """Return options that give up within half a second, and do not try again."""
    return quick | {"timeout": 0.4, "n_retries": 0}
