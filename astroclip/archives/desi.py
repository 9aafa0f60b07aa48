"""DESI: spectra and redshifts through NOIRLab's SPARCL."""

import json
import pickle
import sys
from urllib.parse import urlsplit

import numpy as np
import requests
from astropy import units as u
from astropy.table import QTable

from astroclip._validation import import_extra
from astroclip.archives.base import Archive, offsets
from astroclip.archives.spectra import make_spectrum
from astroclip.archives.transport import TRY_LATER, ArchiveError
from astroclip.exceptions import MissingExtraError

__all__ = ["DESI"]

FIELDS = ("sparcl_id", "specid", "targetid", "data_release", "ra", "dec", "redshift",
          "redshift_err", "redshift_warning", "spectype", "survey", "specprimary")
ARRAYS = ("flux", "ivar", "mask", "wavelength")
INSTALL = "install it with: python -m pip install 'astroclip[archives]'"
if sys.version_info < (3, 13):  # there it asks for numpy 1, which it does not need
    INSTALL = "install it with: python -m pip install --no-deps sparclclient pyjwt spectres"
FLUX_UNIT = u.Unit("1e-17 erg / (s cm2 AA)")


class DESI(Archive):
    """The Dark Energy Spectroscopic Instrument's public spectra through ``sparclclient``.

    Parameters
    ----------
    server : str, optional
        Address of the SPARCL service.
    data_releases : sequence of str, optional
        Best first: of a target in several, the first one's spectra are taken.

    Notes
    -----
    Needs the extra ``archives``, on Python below 3.13 ``pip install --no-deps sparclclient
    pyjwt spectres``: there the client asks for a numpy that astroclip cannot use, though it
    works with newer ones. The client unpickles what the service sends, so the
    service's address must be one to trust, over https.
    """

    name = "desi"
    products = ("spectra", "catalog")
    limits = "24,000 spectra a request"
    credit = (
        "DESI public data (CC BY 4.0), see https://data.desi.lbl.gov/doc/acknowledgments/; "
        "obtained from SPARCL at NSF NOIRLab's Astro Data Lab"
    )
    url = "https://data.desi.lbl.gov/doc/acknowledgments/"
    server = "https://astrosparcl.datalab.noirlab.edu"

    def __init__(self, *, server=None, data_releases=("DESI-DR1", "DESI-EDR")):
        self.server = type(self).server if server is None else server
        self.data_releases = tuple(data_releases)
        self._found = {}

    def connected(self, settings, transport):
        """Return a copy that works with these settings over this connection."""
        archive = super().connected(settings, transport)
        archive._found = {}
        return archive

    def fetch_catalog(self, coord):
        """Return redshifts near a position; see `Archive.fetch_catalog`."""
        _, records = self._records(coord)
        table = QTable()
        table["archive"] = np.full(len(records), self.name)
        table["id"] = [_record_id(record) for record in records]
        for name in ("ra", "dec"):
            table[name] = np.array([record[name] for record in records], float) * u.deg
        table["separation"] = [record["separation"] for record in records] * u.arcsec
        table["redshift"] = [_number(record, "redshift") for record in records]
        table["redshift_error"] = [_number(record, "redshift_err") for record in records]
        table["redshift_warning"] = [int(record.get("redshift_warning") or 0) for record in records]
        table["class"] = [str(record.get("spectype", "")) for record in records]
        table["survey"] = [str(record.get("data_release", "")) for record in records]
        return table

    def fetch_spectra(self, coord):
        """Return spectra with the three arms merged; see `Archive.fetch_spectra`."""
        client, records = self._records(coord)
        records = records[: self.settings.max_spectra]
        ids = [record["sparcl_id"] for record in records]
        releases = sorted({record["data_release"] for record in records})
        answer = self._call(
            lambda: client.retrieve(ids, include=[*ARRAYS], dataset_list=releases).records
        )
        arrays = {record["sparcl_id"]: record for record in answer}
        spectra = [
            self._spectrum(record, arrays[record["sparcl_id"]])
            for record in records
            if record["sparcl_id"] in arrays
        ]
        if len(spectra) < len(records):
            raise ArchiveError(
                f"{len(records) - len(spectra)} of {len(records)} spectra listed were not sent",
                TRY_LATER, partial=spectra,
            )
        return spectra

    def _records(self, coord):
        """Return the client and what the service lists near a position, asked once."""
        key = (coord.icrs.ra.deg, coord.icrs.dec.deg)
        if key not in self._found:
            try:
                client = self._call(self._connect)
                self._found[key] = (client, self._find(client, coord.icrs))
            except ArchiveError as error:
                self._found[key] = error
        if isinstance(self._found[key], ArchiveError):
            raise self._found[key]
        return self._found[key]

    def _connect(self):
        try:
            sparcl = import_extra("sparcl.client", "archives")
        except MissingExtraError as error:
            raise ArchiveError("sparclclient is not installed", INSTALL) from error
        timeout = self.settings.timeout
        return sparcl.SparclClient(
            url=self.server, announcement=False, connect_timeout=timeout, read_timeout=timeout
        )

    def _find(self, client, icrs):
        """Return the records of the wanted releases within the radius, nearest first."""
        releases = [name for name in self.data_releases if name in client.all_datasets]
        fields = client.get_available_fields(dataset_list=releases) if releases else set()
        radius = self.settings.radius
        records = []
        for ra_range, dec_range in _boxes(icrs, radius):
            constraints = {"data_release": releases, "ra": ra_range, "dec": dec_range}
            outfields = [name for name in FIELDS if name in fields]
            if releases:
                records += self._call(
                    lambda c=constraints, o=outfields: client.find(outfields=o, constraints=c)
                ).records
        if records:
            separation = offsets(icrs, [r["ra"] for r in records], [r["dec"] for r in records])
            for record, value in zip(records, separation, strict=True):
                record["separation"] = float(value)
        near = [record for record in records if record["separation"] <= radius]
        if not near:
            raise ArchiveError(
                f"has no spectrum within {radius:g} arcsec in {', '.join(self.data_releases)}",
                "pass a larger radius, or check the position",
            )
        return self._best_release(near)

    def _best_release(self, records):
        """Return records without those of a target that a better release has too."""
        order = {name: number for number, name in enumerate(self.data_releases)}
        best = {}
        for record in records:
            key = record.get("targetid", record.get("specid"))
            rank = order[record["data_release"]]
            best[key] = min(best.get(key, rank), rank)
        kept = [
            record for record in records
            if order[record["data_release"]] == best[record.get("targetid", record.get("specid"))]
        ]
        return sorted(kept, key=lambda r: (r["separation"], not r.get("specprimary", True)))

    def _call(self, function):
        """Return what the client returns, its errors told in our way."""
        host = urlsplit(self.server).netloc
        return self.transport.call(function, host=host, translate=_translate)

    def _spectrum(self, record, arrays):
        """Return the spectrum of a listed record and the arrays sent for it."""
        shapes = {np.shape(arrays.get(name)) for name in ("flux", "ivar", "wavelength")}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ArchiveError(
                f"spectrum {_record_id(record)} has arrays of shapes {sorted(shapes)}",
                "report it to the archive, or take the spectrum from data.desi.lbl.gov",
            )
        mask = arrays.get("mask")
        return make_spectrum(
            np.asarray(arrays["flux"], float) * FLUX_UNIT,
            np.asarray(arrays["wavelength"], float) * u.AA,
            arrays["ivar"],
            None if mask is None else np.asarray(mask) != 0,
            archive=self, id=_record_id(record), redshift=_number(record, "redshift"),
            redshift_error=_number(record, "redshift_err"),
            redshift_warning=int(record.get("redshift_warning") or 0),
            object_class=str(record.get("spectype", "")), ra=float(record["ra"]),
            dec=float(record["dec"]), survey=str(record["data_release"]),
        )


def _number(record, key):
    value = record.get(key)
    return np.nan if value is None else float(value)


def _record_id(record):
    return f"desi-{record.get('targetid', record.get('specid'))}"


def _boxes(icrs, radius):
    """Return ranges of ra and dec (deg) that hold a circle of a radius in arcsec."""
    reach = radius / 3600
    ra, dec = icrs.ra.deg, icrs.dec.deg
    dec_range = [max(-90.0, dec - reach), min(90.0, dec + reach)]
    cosine = np.cos(np.radians(max(abs(value) for value in dec_range)))
    width = 180.0 if cosine < reach / 180 else min(180.0, reach / cosine)
    low, high = ra - width, ra + width
    if width >= 180.0:
        return [([0.0, 360.0], dec_range)]
    if low < 0:
        return [([0.0, high], dec_range), ([low + 360.0, 360.0], dec_range)]
    if high > 360:
        return [([low, 360.0], dec_range), ([0.0, high - 360.0], dec_range)]
    return [([low, high], dec_range)]


def _translate(error):
    """Return an exception of the client as an ArchiveError, None if it is no such one."""
    kind = type(error).__name__
    if kind in ("ServerConnectionError", "UnknownSparcl"):
        return ArchiveError("no connection to SPARCL",
                            "check the network; " + TRY_LATER, retry=True)
    if kind == "ReadTimeout" and not isinstance(error, requests.RequestException):
        return ArchiveError("no answer in time", TRY_LATER, retry=True)
    if kind in ("UnknownServerError", "TooManyRequests"):
        return ArchiveError(f"SPARCL is in trouble or busy ({error})", TRY_LATER, retry=True)
    unreadable = (json.JSONDecodeError, requests.JSONDecodeError, pickle.UnpicklingError, EOFError)
    if isinstance(error, unreadable) or "could not convert string to float" in str(error):
        # the client does not say which status came with it
        return ArchiveError("an answer that is not SPARCL's (a web page, or one cut short)",
                            TRY_LATER, retry=True)
    if type(error).__module__.startswith("sparcl"):
        return ArchiveError(f"SPARCL refused the request ({error})",
                            "upgrade sparclclient, or report it to the archive")
    return None
