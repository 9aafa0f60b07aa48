"""SPARCL: DESI's spectra and redshifts through NOIRLab's service and its client."""

import json
import pickle
import sys
from functools import partial
from urllib.parse import urlsplit

import numpy as np
import requests
from astropy import units as u

from astroclip._validation import import_extra
from astroclip.archives.base import Archive, make_catalog, make_spectrum, separations
from astroclip.archives.transport import TRY_LATER, ArchiveError
from astroclip.exceptions import MissingExtraError

__all__ = ["SPARCL"]

FIELDS = ("sparcl_id", "specid", "targetid", "data_release", "ra", "dec", "redshift",
          "redshift_err", "redshift_warning", "spectype", "survey", "specprimary")
ARRAYS = ("flux", "ivar", "mask", "wavelength")
INSTALL = "install it with: python -m pip install 'astroclip[archives]'"
if sys.version_info < (3, 13):  # there it asks for numpy 1, which it does not need
    INSTALL = "install it with: python -m pip install --no-deps sparclclient pyjwt spectres"
FLUX_UNIT = u.Unit("1e-17 erg / (s cm2 AA)")


class SPARCL(Archive):
    """DESI's public spectra through ``sparclclient``, for when DESI's own server is down.

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
    works with newer ones. The client unpickles what the service sends, so the address of the
    service must be one to trust, over https.
    """

    name = "desi-sparcl"
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

    def fetch_catalog(self, coord):
        """Return redshifts near a position; see `Archive.fetch_catalog`."""
        _, records = self.ask_once(coord, self._find)
        return make_catalog([self._observation(record) for record in records])

    def fetch_spectra(self, coord):
        """Return spectra with the three arms merged; see `Archive.fetch_spectra`."""
        client, records = self.ask_once(coord, self._find)
        records = records[: self.settings.max_spectra]
        ids = [record["sparcl_id"] for record in records]
        releases = sorted({record["data_release"] for record in records})
        answer = self._call(
            lambda: client.retrieve(ids, include=[*ARRAYS], dataset_list=releases).records
        )
        arrays = {record["sparcl_id"]: record for record in answer}
        sent = [record for record in records if record["sparcl_id"] in arrays]
        spectra = [self._spectrum(record, arrays[record["sparcl_id"]]) for record in sent]
        if len(sent) < len(records):
            raise ArchiveError(
                f"{len(records) - len(sent)} of {len(records)} spectra listed were not sent",
                TRY_LATER, partial=spectra,
            )
        return spectra

    def _connect(self):
        try:
            sparcl = import_extra("sparcl.client", "archives")
        except MissingExtraError as error:
            raise ArchiveError("sparclclient is not installed", INSTALL) from error
        timeout = self.settings.timeout
        return sparcl.SparclClient(
            url=self.server, announcement=False, connect_timeout=timeout, read_timeout=timeout
        )

    def _find(self, icrs):
        """Return the client, and records of the wanted releases in the radius, nearest first."""
        client = self._call(self._connect)
        releases = [name for name in self.data_releases if name in client.all_datasets]
        records = []
        if releases:
            fields = client.get_available_fields(dataset_list=releases)
            outfields = [name for name in FIELDS if name in fields]
            for ra_range, dec_range in _boxes(icrs, self.settings.radius):
                limits = {"data_release": releases, "ra": ra_range, "dec": dec_range}
                ask = partial(client.find, outfields=outfields, constraints=limits)
                records += self._call(lambda ask=ask: ask().records)
        if records:
            distances = separations(icrs, [r["ra"] for r in records], [r["dec"] for r in records])
            for record, distance in zip(records, distances, strict=True):
                record["separation"] = float(distance)
        near = [record for record in records if record["separation"] <= self.settings.radius]
        if not near:
            raise ArchiveError(
                f"has no spectrum within {self.settings.radius:g} arcsec in "
                f"{', '.join(self.data_releases)}",
                "pass a larger radius, or check the position",
            )
        return client, self._best_release(near)

    def _best_release(self, records):
        """Return records without those of a target that a better release has too."""
        order = {name: number for number, name in enumerate(self.data_releases)}
        best = {}
        for record in records:
            target, rank = _target_id(record), order[record["data_release"]]
            best[target] = min(best.get(target, rank), rank)
        kept = [r for r in records if order[r["data_release"]] == best[_target_id(r)]]
        return sorted(kept, key=lambda r: (r["separation"], not r.get("specprimary", True)))

    def _call(self, function):
        """Return what the client returns, its errors as ArchiveErrors."""
        host = urlsplit(self.server).netloc
        return self.transport.call(function, host=host, translate=_translate)

    def _observation(self, record):
        """Return what `make_catalog` takes of a listed record."""
        redshift, error = (
            np.nan if record.get(key) is None else float(record[key])
            for key in ("redshift", "redshift_err")
        )
        return {
            "archive": self.name,
            "id": f"desi-{_target_id(record)}",
            "ra": float(record["ra"]),
            "dec": float(record["dec"]),
            "separation": record["separation"],
            "redshift": redshift,
            "redshift_error": error,
            "redshift_warning": int(record.get("redshift_warning") or 0),
            "class": str(record.get("spectype", "")),
            "survey": str(record["data_release"]),
        }

    def _spectrum(self, record, arrays):
        """Return the spectrum of a listed record and the arrays sent for it."""
        observation = self._observation(record)
        shapes = {np.shape(arrays.get(name)) for name in ("flux", "ivar", "wavelength")}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ArchiveError(
                f"spectrum {observation['id']} has arrays of shapes {sorted(shapes)}",
                "report it to the archive, or take the spectrum from data.desi.lbl.gov",
            )
        mask = arrays.get("mask")
        return make_spectrum(
            observation,
            self.credit,
            np.asarray(arrays["flux"], float) * FLUX_UNIT,
            np.asarray(arrays["wavelength"], float) * u.AA,
            arrays["ivar"],
            None if mask is None else np.asarray(mask) != 0,
        )


def _target_id(record):
    return record.get("targetid", record.get("specid"))


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
    name = type(error).__name__
    if name in ("ServerConnectionError", "UnknownSparcl"):
        return ArchiveError("no connection to SPARCL",
                            "check the network; " + TRY_LATER, retry=True)
    if name == "ReadTimeout" and not isinstance(error, requests.RequestException):
        return ArchiveError("no answer in time", TRY_LATER, retry=True)
    if name in ("UnknownServerError", "TooManyRequests"):
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
