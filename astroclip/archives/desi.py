"""DESI: spectra and redshifts from the public coadds of healpixels, read in ranges."""

import contextlib
import io

import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS
from astropy.io import fits

from astroclip._validation import check_choice
from astroclip.archives.base import (
    Archive,
    check_fits,
    gather,
    make_catalog,
    read_spectrum,
    separations,
)
from astroclip.archives.ranges import RangeFile
from astroclip.archives.transport import ArchiveError

__all__ = ["DESI"]

RELEASES = {"dr1": "iron", "edr": "fuji"}  # and the names of their reductions
# every survey and program of both releases, the largest first
PROGRAMS = {
    "main": ("dark", "bright", "backup"),
    "sv3": ("dark", "bright", "backup"),
    "sv1": ("dark", "bright", "other", "backup"),
    "sv2": ("dark", "bright", "backup"),
    "special": ("bright", "other", "dark", "backup"),
    "cmx": ("other",),
}
NSIDE = 64  # of the healpixels, nested, by which the files are grouped
TARGET_COLUMNS = ("TARGETID", "TARGET_RA", "TARGET_DEC", "COADD_FIBERSTATUS", "OBJTYPE")
REDSHIFT_COLUMNS = ("TARGETID", "Z", "ZERR", "ZWARN", "SPECTYPE", "DELTACHI2")
ARRAYS = ("WAVELENGTH", "FLUX", "IVAR", "MASK")  # of each camera
NO_REDSHIFT = {"Z": np.nan, "ZERR": np.nan, "ZWARN": -1, "SPECTYPE": "", "DELTACHI2": 0.0}


class DESI(Archive):
    """The Dark Energy Spectroscopic Instrument's public spectra, from data.desi.lbl.gov.

    Parameters
    ----------
    data_release : str, optional
        ``"dr1"``, which holds the data of the early release too, or ``"edr"``.

    Notes
    -----
    The spectra of a healpixel (0.84 square degrees), survey and program are one file of about
    200 MB, and redrock's redshifts of them another. Of these, HTTP ranges fetch the headers,
    the tables of targets and redshifts, and the wanted rows. A target that was observed in
    several programs gives a spectrum for each, the one with the surest redshift first. Fibers
    on the sky are no targets.

    References
    ----------
    DESI Collaboration (2025), arXiv:2503.14745 (DR1); (2024), AJ 168, 58 (EDR). The files
    are described at https://desidatamodel.readthedocs.io.
    """

    name = "desi"
    products = ("spectra", "catalog")
    limits = "a new place takes some 50 requests, and about 1 MB for each file that covers it"
    credit = (
        "DESI public data (CC BY 4.0), see https://data.desi.lbl.gov/doc/acknowledgments/"
    )
    url = "https://data.desi.lbl.gov/doc/acknowledgments/"
    server = "https://data.desi.lbl.gov/public"

    def __init__(self, *, data_release="dr1"):
        self.data_release = check_choice(data_release, RELEASES, "data_release")

    def fetch_catalog(self, coord):
        """Return redrock's redshifts near a position; see `Archive.fetch_catalog`."""
        found, failure = self.ask_once(coord, self._find)
        catalog = make_catalog([observation for observation, *_ in found])
        if failure is not None:
            raise ArchiveError(failure.reason, failure.advice, partial=catalog) from failure
        return catalog

    def fetch_spectra(self, coord):
        """Return spectra with the cameras merged; see `Archive.fetch_spectra`."""
        found, failure = self.ask_once(coord, self._find)
        spectra = gather(
            lambda item: self._spectrum(*item), found[: self.settings.max_spectra],
            collect=lambda pairs: [spectrum for _, spectrum in pairs],
        )
        if failure is not None:
            raise ArchiveError(failure.reason, failure.advice, partial=spectra) from failure
        return spectra

    # ------------------------------------------------------------------ the targets
    def _find(self, icrs):
        """Return what is within the radius, nearest first, and what ended the search early.

        What is found are tuples of an observation, see `make_catalog`, the address of its
        coadd and its row there.
        """
        from astropy_healpix import HEALPix

        grid = HEALPix(nside=NSIDE, order="nested", frame=ICRS())
        pixels = grid.cone_search_skycoord(icrs, self.settings.radius * u.arcsec)
        found, failure = [], None
        try:
            for survey, programs in PROGRAMS.items():
                for program in programs:
                    for pixel in pixels:
                        found += self._near(icrs, survey, program, int(pixel))
        except ArchiveError as error:  # the other files are on the same server
            if not found:
                raise
            failure = error
        if not found:
            raise ArchiveError(
                f"has no spectrum within {self.settings.radius:g} arcsec in "
                f"{self.data_release.upper()}",
                "pass a larger radius, or check the position",
            )
        found.sort(key=lambda item: item[0])
        return [item[1:] for item in found], failure

    def _near(self, icrs, survey, program, pixel):
        """Return the targets of one file within the radius, each with a rank in front."""
        name = f"{survey}-{program}-{pixel}.fits"
        folder = (
            f"{self.server}/{self.data_release}/spectro/redux/{RELEASES[self.data_release]}/"
            f"healpix/{survey}/{program}/{pixel // 100}/{pixel}"
        )
        coadd = f"{folder}/coadd-{name}"
        targets = self._table(coadd, "FIBERMAP", TARGET_COLUMNS)
        if targets is None:
            return []
        distances = separations(icrs, targets["TARGET_RA"], targets["TARGET_DEC"])
        is_target = np.char.strip(targets["OBJTYPE"].astype(str)) == "TGT"
        rows = np.flatnonzero(is_target & (distances <= self.settings.radius))
        if not len(rows):
            return []
        redshifts = self._table(f"{folder}/redrock-{name}", "REDSHIFTS", REDSHIFT_COLUMNS)
        found = []
        for row in rows:
            target, best = targets[row], NO_REDSHIFT
            if redshifts is not None and target["TARGETID"] in redshifts["TARGETID"]:
                best = redshifts[np.argmax(redshifts["TARGETID"] == target["TARGETID"])]
            observation = {
                "archive": self.name,
                "id": f"desi-{survey}-{program}-{target['TARGETID']}",
                "ra": float(target["TARGET_RA"]),
                "dec": float(target["TARGET_DEC"]),
                "separation": float(distances[row]),
                "redshift": float(best["Z"]),
                "redshift_error": float(best["ZERR"]),
                "redshift_warning": int(best["ZWARN"]),
                "class": str(best["SPECTYPE"]).strip(),
                "survey": f"DESI-{self.data_release.upper()} {survey}-{program}",
            }
            rank = (round(distances[row], 1), best["ZWARN"] != 0, -best["DELTACHI2"])
            found.append((rank, observation, coadd, int(row)))
        return found

    def _table(self, url, name, columns):
        """Return columns of a table of a file as a structured array, None without the file.

        It is remembered: the next position may lie in the same healpixel.
        """
        known = vars(self).setdefault("_answers", {})
        if url not in known:
            try:
                with self._opened(url) as hdus:
                    data = hdus[name].data
                    arrays = [np.array(data[column]) for column in columns]
                    known[url] = np.rec.fromarrays(arrays, names=columns)
            except ArchiveError as error:
                if not error.missing:
                    raise
                known[url] = None
        return known[url]

    # ------------------------------------------------------------------ the files
    @contextlib.contextmanager
    def _opened(self, url):
        """Open a FITS file on the server; what is wrong with it becomes an ArchiveError."""
        try:
            with fits.open(RangeFile(self.transport, url), memmap=False) as hdus:
                yield hdus
        except ArchiveError:
            raise
        except Exception as error:  # astropy raises whatever half a header makes it stumble over
            lines = str(error).strip().splitlines() or ["it ends early"]
            raise ArchiveError(
                f"FITS that is damaged, cut short or no file of DESI ({lines[0][:120]})",
                f"look at the file: {url}",
            ) from error

    def _spectrum(self, observation, url, row):
        """Return the spectrum in a row of a coadd."""
        target = self._table(url, "FIBERMAP", TARGET_COLUMNS)[row : row + 1]
        path = self.transport.keep(
            f"{url}#{target['TARGETID'][0]}", lambda: self._one_target(url, row, target),
            check=check_fits,
        )
        return read_spectrum(path, observation, self.credit, url)

    def _one_target(self, url, row, target):
        """Return a coadd of one target as bytes, of the cameras that there are."""
        with self._opened(url) as hdus:
            kept = [
                fits.PrimaryHDU(header=hdus[0].header), fits.BinTableHDU(target, name="FIBERMAP")
            ]
            for name in (f"{camera}_{array}" for camera in "BRZ" for array in ARRAYS):
                if name in hdus:
                    rows = slice(None) if name.endswith("WAVELENGTH") else slice(row, row + 1)
                    kept.append(
                        fits.ImageHDU(hdus[name].section[rows], hdus[name].header, name=name)
                    )
        stream = io.BytesIO()
        fits.HDUList(kept).writeto(stream)
        return stream.getvalue()
