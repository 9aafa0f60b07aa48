"""SDSS, BOSS and eBOSS: spectra, ugriz frames and the spectroscopic catalog."""

import contextlib
import pickle

import numpy as np
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS

from astroclip.archives.base import (
    Archive,
    check_fits,
    gather,
    make_catalog,
    make_image,
    quiet,
    read_image,
    read_spectrum,
    refuse_html,
    separations,
)
from astroclip.archives.transport import ArchiveError

__all__ = ["SDSS"]

SPECTRA_SQL = """
SELECT TOP 50 s.specObjID, s.ra, s.dec, s.plate, s.mjd, s.fiberID, s.run2d, s.survey,
s.instrument, s.class, s.subClass, s.z, s.zErr, s.zWarning, s.sciencePrimary
FROM dbo.fGetNearbySpecObjAllEq({ra:.7f}, {dec:.7f}, {radius:.5f}) AS n
JOIN SpecObjAll AS s ON s.specObjID = n.specObjID"""
FRAME_SQL = """
SELECT TOP 1 p.objID, p.ra, p.dec, p.run, p.rerun, p.camcol, p.field
FROM dbo.fGetNearestObjEq({ra:.7f}, {dec:.7f}, {radius:.5f}) AS n
JOIN PhotoObjAll AS p ON p.objID = n.objID"""
NEAREST_OBJECT = 0.5  # arcmin around the position within which some object shows the frame
FRAME_SCALE = 0.396  # arcsec per pixel


class SDSS(Archive):
    """The Sloan Digital Sky Survey through `astroquery.sdss`.

    Parameters
    ----------
    data_release : int, optional
        By default 17, the last one with all SDSS, BOSS and eBOSS optical spectra.

    Notes
    -----
    Addresses are astroquery's: ``astroquery.sdss.conf.skyserver_baseurl`` and
    ``sas_baseurl``. Spectra are found by position among all observations, so a galaxy
    observed twice gives two.
    """

    name = "sdss"
    products = ("spectra", "images", "catalog")
    bands = ("u", "g", "r", "i", "z")
    limits = "60 queries a minute; images are cut from whole frames of 3 MB a band"
    credit = (
        "Funding for SDSS has been provided by the Alfred P. Sloan Foundation, the Heising-"
        "Simons Foundation, the National Science Foundation and the Participating "
        "Institutions; www.sdss.org"
    )
    url = "https://www.sdss.org/science/acknowledgement/"

    def __init__(self, *, data_release=17):
        self.data_release = data_release

    def fetch_catalog(self, coord):
        """Return the rows of SpecObjAll near a position; see `Archive.fetch_catalog`."""
        rows = self.ask_once(coord, self._find_spectra)
        return make_catalog([self._observation(row) for row in rows])

    def fetch_spectra(self, coord):
        """Return spectra by plate, MJD and fiber; see `Archive.fetch_spectra`."""
        rows = self.ask_once(coord, self._find_spectra)[: self.settings.max_spectra]
        return gather(
            self._spectrum, list(rows), collect=lambda pairs: [spectrum for _, spectrum in pairs]
        )

    def fetch_images(self, coord):
        """Return cutouts of the frame nearest to a position; see `Archive.fetch_images`.

        They keep the frame's 0.396 arcsec pixels and orientation; pixels off the frame are
        masked.
        """
        bands = self.wanted_bands()
        frame = self._query(FRAME_SQL, coord.icrs, NEAREST_OBJECT)
        if not len(frame):
            raise ArchiveError(
                f"has no object within {NEAREST_OBJECT:g} arcmin, so no frame",
                "the position is outside SDSS imaging; ask for another archive",
            )
        return gather(lambda band: self._cutout(frame, band, coord.icrs), bands)

    # ------------------------------------------------------------------ the database
    def _find_spectra(self, icrs):
        """Return rows of SpecObjAll within the radius, nearest first."""
        radius = self.settings.radius
        rows = self._query(SPECTRA_SQL, icrs, radius / 60)
        if not len(rows):
            raise ArchiveError(
                f"has no spectrum within {radius:g} arcsec",
                "pass a larger radius, or check the position",
            )
        rows["separation"] = separations(
            icrs, np.asarray(rows["ra"], float), np.asarray(rows["dec"], float)
        )
        rows["run2d"] = np.asarray(rows["run2d"], str)
        # where one object was observed several times, SDSS's own choice first
        primary = np.asarray(rows["sciencePrimary"], int)
        return rows[np.lexsort((-primary, np.round(rows["separation"], 1)))]

    def _client(self):
        """Return astroquery's client, working through our session."""
        from astroquery.sdss import SDSSClass

        client = SDSSClass()
        ours = self.transport.session(check=_check_rows)
        ours.headers.update(client._session.headers)
        client._session.close()
        client._session = ours
        return client

    def _query(self, sql, icrs, radius):
        """Return the table of a query's answer; radius in arcmin."""
        sql = sql.format(ra=icrs.ra.deg, dec=icrs.dec.deg, radius=radius)
        client = self._client()
        options = {"data_release": self.data_release, "timeout": self.settings.timeout}
        response = None
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # a half-written cache
            response = client.query_sql_async(sql, cache=self.settings.cache, **options)
        if response is None:
            response = client.query_sql_async(sql, cache=False, **options)
        return _parse_rows(response)

    # ------------------------------------------------------------------ the files
    def _observation(self, row):
        """Return what `make_catalog` takes of a row of SpecObjAll."""
        plate, mjd, fiber = (int(row[key]) for key in ("plate", "mjd", "fiberID"))
        return {
            "archive": self.name,
            "id": f"sdss-{plate:04d}-{mjd}-{fiber:04d}",
            "ra": float(row["ra"]),
            "dec": float(row["dec"]),
            "separation": float(row["separation"]),
            "redshift": float(row["z"]),
            "redshift_error": float(row["zErr"]),
            "redshift_warning": int(row["zWarning"]),
            "class": str(row["class"]),
            "survey": str(row["survey"]),
        }

    def _spectrum(self, row):
        """Return the spectrum of a row of SpecObjAll."""
        keys = ("run2d", "plate", "mjd", "fiberID")
        matches = Table(rows=[[row[key] for key in keys]], names=keys)
        (file,) = self._client().get_spectra_async(
            matches=matches, data_release=self.data_release
        )
        path = self.transport.download(file._target, check=check_fits)
        return read_spectrum(path, self._observation(row), self.credit, file._target)

    def _cutout(self, frame, band, icrs):
        """Return one band around a position from the frame of a row of PhotoObjAll."""
        (file,) = self._client().get_images_async(
            matches=frame, band=[band], data_release=self.data_release
        )
        path = self.transport.download(file._target, check=check_fits)
        pixels, header = read_image(path)
        with quiet():
            wcs = WCS(header)
            x, y = (float(value) for value in wcs.world_to_pixel(icrs))
            height, width = pixels.shape
            if not (0 <= x < width and 0 <= y < height):
                raise ArchiveError(
                    f"the position is off the nearest object's frame in band {band}",
                    "ask for another archive",
                )
            cutout = Cutout2D(
                pixels.astype(np.float32), (x, y), self.wanted_size(FRAME_SCALE), wcs=wcs,
                mode="partial", fill_value=np.nan, copy=True,
            )
            return make_image(cutout.data, cutout.wcs, self, band)


def _check_rows(response):
    """Raise ArchiveError unless a response is a table of the database."""
    refuse_html(response.content[:2048], "a table")
    text = response.text
    if "error_message" in text[:4096] or "ERROR" in text[:200]:
        said = " ".join(text.split())[:160]
        raise ArchiveError(f"the database refused the query ({said})",
                           "try again later, or another data release")


def _parse_rows(response):
    """Return the table of a response; one without rows where nothing was found."""
    lines = [line for line in response.text.splitlines() if line and not line.startswith("#")]
    if len(lines) < 2 or "," not in lines[0]:
        return Table()
    with quiet():
        try:
            return Table.read(lines, format="ascii.csv")
        except (ValueError, OSError) as error:
            raise ArchiveError(
                f"an answer that is no table ({error})", "ask again, or another data release"
            ) from error
