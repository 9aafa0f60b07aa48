"""What every archive has in common: its settings, its interface and the way it fails."""

import copy
from abc import ABC
from dataclasses import dataclass

from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable

from astroclip.archives.transport import ArchiveError, Transport

__all__ = ["PRODUCTS", "Archive", "Settings", "empty_catalog", "gather", "offsets"]

PRODUCTS = ("spectra", "images", "catalog")


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
    """A source of spectra, images or catalogue rows.

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
    limits, credit, url : str
        What its users must know.
    """

    name = ""
    products = ()
    bands = ()
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
        """Return cutouts centred on a position.

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
        """Return the catalogue rows near a position.

        Parameters
        ----------
        coord : `~astropy.coordinates.SkyCoord`

        Returns
        -------
        `~astropy.table.QTable`
            The columns of `empty_catalog`, and others.

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

    def _lacks(self, product):
        return ArchiveError(
            f"gives no {product}, only {', '.join(self.products) or 'nothing'}",
            "see astroclip.archives.list_archives()",
        )

    def __repr__(self):
        return f"<Archive {self.name}: {', '.join(self.products)}>"


def empty_catalog():
    """Return a catalogue without rows.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``archive``, ``id``, ``ra``, ``dec`` (deg), ``separation`` (arcsec),
        ``redshift``, ``redshift_error``, ``redshift_warning`` (0 is good), ``class`` and
        ``survey``.
    """
    table = QTable(
        names=("archive", "id", "ra", "dec", "separation", "redshift", "redshift_error",
               "redshift_warning", "class", "survey"),
        dtype=(str, str, float, float, float, float, float, int, str, str),
    )
    for name, unit in (("ra", u.deg), ("dec", u.deg), ("separation", u.arcsec)):
        table[name] = table[name] * unit
    return table


def offsets(coord, ra, dec):
    """Return the separations (N,) in arcsec of positions in degrees from a coordinate."""
    return coord.icrs.separation(SkyCoord(ra, dec, unit="deg")).arcsec


def gather(function, items):
    """Return the results of a function for each of several items, as a list of pairs.

    Parameters
    ----------
    function : callable
        Takes an item; may raise ArchiveError.
    items : sequence

    Returns
    -------
    results : list of (item, result)
        Of the items that came through.
    error : ArchiveError or None
        What became of the others: the first one's reason, and how many there are.
    """
    results, errors = [], []
    for item in items:
        try:
            results.append((item, function(item)))
        except ArchiveError as error:
            errors.append(error)
    if not errors:
        return results, None
    first = errors[0]
    reason = first.reason
    if len(items) > 1:
        reason = f"{len(errors)} of {len(items)} failed; the first: {reason}"
    return results, ArchiveError(reason, first.advice)
