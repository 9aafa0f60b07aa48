"""What archives have in common: settings, interface, and the spectra, images and rows they give."""

import copy
import re
import threading
import warnings
from abc import ABC
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.table import QTable
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS

from astroclip.archives.transport import ArchiveError, Transport
from astroclip.preparation.blanks import blank_pixels

__all__ = [
    "PRODUCTS",
    "Archive",
    "Settings",
    "check_fits",
    "gather",
    "make_catalog",
    "make_image",
    "make_spectrum",
    "quiet",
    "read_image",
    "read_spectrum",
    "refuse_html",
    "separations",
]

PRODUCTS = ("spectra", "images", "catalog")
AGAIN = "ask again: the download was not kept"
FITS_STARTS = (b"SIMPLE", b"\x1f\x8b", b"BZh")  # plain, gzip, bzip2


@dataclass(frozen=True)
class Settings:
    """What is asked of an archive and how patiently; see `astroclip.archives.fetch`.

    Parameters
    ----------
    bands : tuple of str
        Letters of the bands wanted.
    size : int
        Pixels on a side of the images wanted.
    pixel_scale : float
        Arcsec per pixel, from archives that resample; others keep their own.
    radius : float
        Arcsec around the position within which spectra are taken.
    max_spectra : int
        Spectra taken from one archive, nearest first.
    timeout : float
        Seconds one request may take in all.
    n_retries : int
        Further tries after an error that may pass.
    retry_wait : float
        Seconds before the first of them; doubled each time.
    cache : bool
        Whether downloads are kept in astropy's cache and taken from it.
    """

    bands: tuple = ("g", "r", "z")
    size: int = 256
    pixel_scale: float = 0.262
    radius: float = 3.0
    max_spectra: int = 5
    timeout: float = 60.0
    n_retries: int = 2
    retry_wait: float = 1.0
    cache: bool = True

    @property
    def width(self):
        """Width of the images wanted, arcsec."""
        return self.size * self.pixel_scale


class Archive(ABC):  # noqa: B024  # a subclass overrides what it gives, none of it compulsory
    """A source of spectra, images or catalog rows.

    To add one, derive from this class, set the attributes and override the methods of the
    products it gives; an instance may stand in the argument ``archives`` of
    `astroclip.archives.fetch`. A method returns what it found, or raises
    `ArchiveError` that says why there is nothing and what to try.

    Attributes
    ----------
    name : str
        Short name, as in tables.
    products : tuple of str
        Of "spectra", "images", "catalog".
    bands : tuple of str
        Letters of the bands of its images.
    largest : int
        Most pixels on a side of its images.
    limits, credit, url : str
        What its users must know.
    """

    name = ""
    products = ()
    bands = ()
    largest = 10**6
    limits = ""
    credit = ""
    url = ""
    settings = Settings()
    _transport = None

    @property
    def transport(self):
        """The connection, made when first needed."""
        if self._transport is None:
            self._transport = Transport.of(self.settings)
        return self._transport

    def connected(self, settings, transport):
        """Return a copy that works with these settings over this connection.

        Parameters
        ----------
        settings : Settings
        transport : Transport

        Returns
        -------
        Archive
        """
        archive = copy.copy(self)
        archive.settings, archive._transport = settings, transport
        archive._answers = {}
        return archive

    def fetch_spectra(self, coord):
        """Return the spectra near a position.

        Parameters
        ----------
        coord : `~astropy.coordinates.SkyCoord`

        Returns
        -------
        list of `~specutils.Spectrum`
            Observed frame; ``meta`` holds ``archive``, ``id``, ``medium``, ``redshift``,
            ``ra``, ``dec`` (degrees) and ``credit``.

        Raises
        ------
        ArchiveError
        """
        raise self._lacks("spectra")

    def fetch_images(self, coord):
        """Return cutouts centered on a position.

        Parameters
        ----------
        coord : `~astropy.coordinates.SkyCoord`

        Returns
        -------
        dict of str to `~astropy.nddata.CCDData`
            By band letter, nanomaggies per pixel, with WCS; True in the mask where there is
            no data.

        Raises
        ------
        ArchiveError
        """
        raise self._lacks("images")

    def fetch_catalog(self, coord):
        """Return the catalog rows near a position.

        Parameters
        ----------
        coord : `~astropy.coordinates.SkyCoord`

        Returns
        -------
        `~astropy.table.QTable`
            The columns of `make_catalog`, and others.

        Raises
        ------
        ArchiveError
        """
        raise self._lacks("catalog")

    def wanted_bands(self):
        """Return the wanted bands that this archive has.

        Raises
        ------
        ArchiveError
            If it has none of them.
        """
        bands = [band for band in self.settings.bands if band in self.bands]
        if not bands:
            raise ArchiveError(
                f"has no band {', '.join(self.settings.bands)}; it has {', '.join(self.bands)}",
                "ask for bands that it has, or for another archive",
            )
        return bands

    def wanted_size(self, pixel_scale=None):
        """Return the pixels on a side that are wanted, of its own ``pixel_scale`` if it has one.

        Raises
        ------
        ArchiveError
            If they are more than the archive gives.
        """
        size = self.settings.size
        if pixel_scale is not None:
            size = max(1, round(self.settings.width / pixel_scale))
        if size > self.largest:
            raise ArchiveError(
                f"gives at most {self.largest} pixels a side, and {size} are wanted",
                "pass a smaller size or a larger pixel_scale, or ask for another archive",
            )
        return size

    def ask_once(self, coord, function):
        """Return what a function of a position finds, which is called once for each position.

        Spectra and catalog rows come from the same query. An `ArchiveError` counts as an
        answer and is raised each time.
        """
        if "_answers" not in vars(self):
            self._answers = {}
        key = coord.icrs.ra.deg, coord.icrs.dec.deg
        if key not in self._answers:
            try:
                self._answers[key] = function(coord.icrs)
            except ArchiveError as error:
                self._answers[key] = error
        if isinstance(self._answers[key], ArchiveError):
            raise self._answers[key]
        return self._answers[key]

    def _lacks(self, product):
        return ArchiveError(
            f"gives no {product}, only {', '.join(self.products) or 'nothing'}",
            "see astroclip.archives.list_archives()",
        )

    def __repr__(self):
        return f"<Archive {self.name}: {', '.join(self.products)}>"


# ---------------------------------------------------------------------- products
def make_catalog(observations):
    """Return a catalog of spectroscopic observations.

    Parameters
    ----------
    observations : sequence of dict
        Each with ``archive``, ``id``, ``ra``, ``dec`` (degrees), ``separation`` (arcsec),
        ``redshift``, ``redshift_error``, ``redshift_warning`` (0 is good), ``class`` and
        ``survey``; NaN where a number is unknown.

    Returns
    -------
    `~astropy.table.QTable`
        A row for each, with these columns; positions and separations with their units.
    """
    types = {
        "archive": str, "id": str, "ra": float, "dec": float, "separation": float,
        "redshift": float, "redshift_error": float, "redshift_warning": int, "class": str,
        "survey": str,
    }  # fmt: skip
    table = QTable({
        name: np.array([row[name] for row in observations], dtype=dtype)
        for name, dtype in types.items()
    })
    for name, unit in (("ra", u.deg), ("dec", u.deg), ("separation", u.arcsec)):
        table[name] = table[name] * unit
    return table


def make_spectrum(observation, credit, flux, wavelength, ivar, mask=None):
    """Return a spectrum whose meta says what it is and where it comes from.

    Parameters
    ----------
    observation : dict
        See `make_catalog`.
    credit : str
        Of the archive.
    flux, wavelength : (P,) `~astropy.units.Quantity`
        Observed frame, vacuum.
    ivar : (P,) array-like
        Inverse variance; pixels where it is zero or not finite are masked.
    mask : (P,) bool array-like, optional
        True where bad.

    Returns
    -------
    `~specutils.Spectrum`
    """
    from specutils import Spectrum

    ivar = np.asarray(ivar, dtype=float)
    bad = ~(np.isfinite(ivar) & (ivar > 0))
    if mask is not None:
        bad |= np.asarray(mask, dtype=bool)
    redshift = observation["redshift"]
    return Spectrum(
        flux=flux,
        spectral_axis=np.asarray(wavelength.value, dtype=float) * wavelength.unit,
        uncertainty=InverseVariance(ivar),
        mask=bad,
        redshift=redshift if np.isfinite(redshift) else 0.0,
        meta={**observation, "medium": "vacuum", "credit": credit},
    )


def make_image(pixels, wcs, archive, band, *, factor=1.0):
    """Return one band of a cutout.

    Parameters
    ----------
    pixels : (N, N) `numpy.ndarray`
    wcs : `~astropy.wcs.WCS` or `~astropy.io.fits.Header`
    archive : Archive
        Where it comes from.
    band : str
    factor : float, optional
        Nanomaggies in one unit of the pixels.

    Returns
    -------
    `~astropy.nddata.CCDData`
        Pixels that are not finite, or hold a constant in place of data, are masked.

    Raises
    ------
    ArchiveError
        If more than half of the pixels hold no data, or there is no celestial WCS.
    """
    pixels = np.array(pixels, dtype=np.float32)
    if isinstance(wcs, fits.Header):
        with quiet():
            wcs = WCS(wcs, naxis=2)
    if not wcs.has_celestial:
        raise ArchiveError(f"band {band} without world coordinates", AGAIN)
    mask = ~np.isfinite(pixels)
    blank = blank_pixels(pixels, mask)
    if blank is not None:
        mask |= blank
    if mask.mean() > 0.5:
        raise ArchiveError(
            f"band {band} holds no data in {100 * mask.mean():.0f} % of the cutout",
            "the position is outside the survey or at its edge; ask for another archive",
        )
    pixels[mask] = 0.0
    meta = {"archive": archive.name, "band": band, "credit": archive.credit}
    return CCDData(
        pixels * np.float32(factor), unit=u.nmgy, wcs=wcs, meta=meta,
        mask=mask if mask.any() else None,
    )


def separations(coord, ra, dec):
    """Return the separations (N,) in arcsec of positions in degrees from a coordinate."""
    return coord.icrs.separation(SkyCoord(ra, dec, unit="deg")).arcsec


def gather(function, items, *, collect=dict):
    """Return the results of a function for each of several items.

    Parameters
    ----------
    function : callable
        Takes an item; may raise ArchiveError.
    items : sequence
    collect : callable
        Takes a list of (item, result) and makes the product of it.

    Raises
    ------
    ArchiveError
        If an item failed: the first one's reason, how many failed, and the product of the
        others as ``partial``.
    """
    pairs, errors = [], []
    for item in items:
        try:
            pairs.append((item, function(item)))
        except ArchiveError as error:
            errors.append(error)
    if errors:
        first = errors[0]
        reason = first.reason
        if len(items) > 1:
            reason = f"{len(errors)} of {len(items)} failed; the first: {reason}"
        raise ArchiveError(reason, first.advice, partial=collect(pairs)) from first
    return collect(pairs)


# ---------------------------------------------------------------------- downloaded files
PARSING = threading.RLock()  # Python's warning filters belong to all threads at once


class quiet:  # noqa: N801  # used like contextlib's functions
    """Hold `PARSING` and ignore what astropy remarks on survey files' headers."""

    def __enter__(self):
        PARSING.acquire()
        self._filters = warnings.catch_warnings()
        self._filters.__enter__()
        warnings.simplefilter("ignore", AstropyWarning)
        damaged = "(?s).*(truncated|corrupted)"
        warnings.filterwarnings("error", message=damaged, category=AstropyWarning)

    def __exit__(self, *details):
        self._filters.__exit__(*details)
        PARSING.release()


def refuse_html(start, expected):
    """Raise ArchiveError if bytes are empty or a web page.

    Parameters
    ----------
    start : bytes
        How the answer begins.
    expected : str
        What it should have been.
    """
    text = start.lstrip()
    if not text:
        raise ArchiveError(f"an empty answer instead of {expected}", AGAIN)
    if text[:1] == b"<" and b"VOTABLE" not in text[:200]:
        title = re.search(rb"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        shown = f" ({title[1].decode('utf-8', 'replace').strip()[:80]})" if title else ""
        raise ArchiveError(
            f"a web page{shown} instead of {expected}",
            "the service may be down for maintenance, or a login page of the network in the "
            "way: look at the service in a browser, then " + AGAIN,
        )


def check_fits(path):
    """Raise ArchiveError unless a file is complete FITS, possibly compressed."""
    with path.open("rb") as file:
        start = file.read(2048)
    refuse_html(start, "FITS")
    if not start.startswith(FITS_STARTS):
        raise ArchiveError(f"an answer that is not FITS (it begins {start[:20]!r})", AGAIN)
    try:
        # a stream of ours: astropy leaves one of its own open if it stumbles
        with quiet(), path.open("rb") as stream, fits.open(stream, memmap=False) as hdus:
            n_arrays = sum(hdu.data is not None for hdu in hdus)
    except Exception as error:  # astropy raises whatever half a header makes it stumble over
        lines = str(error).strip().splitlines() or ["it ends early"]
        raise ArchiveError(
            f"FITS that is damaged or cut short ({lines[0][:120]})", AGAIN
        ) from error
    if not n_arrays:
        raise ArchiveError("FITS without any data", "the position may lie outside the survey")


def read_spectrum(path, observation, credit, url):
    """Return the one spectrum of a survey's file, see `make_spectrum`.

    Parameters
    ----------
    path : `pathlib.Path`
    observation, credit
        See `make_spectrum`.
    url : str
        Where the file comes from.

    Raises
    ------
    ArchiveError
        If the file holds something else.
    """
    from astroclip.preparation.noise import inverse_variance
    from astroclip.preparation.spectrum_files import read_spectra

    try:
        with quiet():
            (spectrum,) = read_spectra(path)
        (ivar,) = inverse_variance(spectrum, spectrum.flux.unit, "the spectrum")
    except (ValueError, TypeError) as error:
        raise ArchiveError(
            f"spectrum {observation['id']} is FITS of another kind than the archive's spectra",
            f"look at the file: {url}",
        ) from error
    return make_spectrum(
        observation, credit, spectrum.flux, spectrum.spectral_axis, ivar, spectrum.mask
    )


def read_image(path):
    """Return the pixels and header of a FITS file's first HDU, which must hold an image.

    Raises
    ------
    ArchiveError
        If it holds something else.
    """
    with quiet(), fits.open(path, memmap=False) as hdus:
        pixels, header = hdus[0].data, hdus[0].header
    if pixels is None or pixels.ndim != 2:
        shape = None if pixels is None else pixels.shape
        raise ArchiveError(
            f"FITS that begins with an array of shape {shape} instead of an image of one band",
            "look at the file in a browser",
        )
    return pixels, header
