"""Cutout services: the Legacy Surveys' viewer, any HiPS, and Pan-STARRS."""

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from astroclip.archives.base import Archive, gather
from astroclip.archives.checks import check_fits, check_text, image_from_plane, quiet
from astroclip.archives.transport import ArchiveError
from astroclip.exceptions import PreparationError
from astroclip.preparation.bands import nanomaggy_factor
from astroclip.preparation.reading import read_images

__all__ = ["HiPS", "LegacySurvey", "PanSTARRS"]


class LegacySurvey(Archive):
    """Coadded images of the DESI Legacy Imaging Surveys, from their viewer's cutout service.

    Parameters
    ----------
    layer : str, optional
        "ls-dr9" (g, r, z; what the models were trained on) or "ls-dr10" (g, r, i, z), or
        another layer of the viewer.
    """

    name = "legacysurvey"
    products = ("images",)
    bands = ("g", "r", "z")
    limits = "512 pixels a side"
    credit = "DESI Legacy Imaging Surveys; https://www.legacysurvey.org/acknowledgment/"
    url = "https://www.legacysurvey.org/acknowledgment/"
    server = "https://www.legacysurvey.org/viewer/fits-cutout"
    largest = 512

    def __init__(self, *, layer="ls-dr9"):
        self.layer = layer
        if "dr10" in layer:
            self.bands = ("g", "r", "i", "z")
            self.name = "legacysurvey-dr10"

    def fetch_images(self, coord):
        """Return all bands from one request; see `Archive.fetch_images`."""
        bands, size = self.wanted_bands(), self.settings.size
        if size > self.largest:
            raise ArchiveError(
                f"gives at most {self.largest} pixels a side, and size is {size}",
                "pass a smaller size or a larger pixel_scale, or ask for the archive 'hips'",
            )
        params = {
            "ra": f"{coord.icrs.ra.deg:.6f}", "dec": f"{coord.icrs.dec.deg:.6f}",
            "layer": self.layer, "pixscale": f"{self.settings.pixel_scale:g}",
            "bands": "".join(bands), "size": str(size),
        }
        path = self.transport.download(self.server, params=params, check=self._check)
        with quiet():
            images = read_images(path)
        return {
            band: image_from_plane(images[band].data, images[band].wcs, self, band, blank=0.0)
            for band in bands
        }

    def _check(self, path):
        """Raise ArchiveError unless a file holds the bands and the size asked for."""
        check_fits(path)
        bands, size = self.wanted_bands(), self.settings.size
        try:
            with quiet():
                images = read_images(path)
        except PreparationError as error:
            raise ArchiveError(
                f"a cutout that does not hold the {len(bands)} bands asked for "
                f"({_planes_said(path)})", "ask again, or for another layer or archive",
            ) from error
        missing = [band for band in bands if band not in images]
        if missing:
            raise ArchiveError(
                f"a cutout of {len(images)} bands ({', '.join(images)}) instead of "
                f"{len(bands)} ({', '.join(bands)})",
                "ask again, or for another layer or archive",
            )
        shape = images[bands[0]].data.shape
        if shape != (size, size):
            raise ArchiveError(
                f"a cutout of {shape[1]} x {shape[0]} pixels instead of {size} x {size}",
                "pass a smaller size",
            )
        if any(images[band].wcs is None for band in bands):
            raise ArchiveError("a cutout without world coordinates", "ask again")


def _planes_said(path):
    """Return what the images of a FITS file look like."""
    with quiet(), fits.open(path, memmap=False) as hdus:
        shapes = [" x ".join(map(str, hdu.shape)) for hdu in hdus if hdu.shape]
    return "its arrays are " + ", ".join(shapes)


class HiPS(Archive):
    """Any survey published as a HiPS, through `astroquery.hips2fits`.

    Parameters
    ----------
    surveys : dict of str to str, optional
        HiPS identifier of each band's letter; by default the Legacy Surveys' DR10.
    unit : str, optional
        Unit of the pixels of the HiPS: nanomaggies, Jy, or counts with a zero point.
    native_scale : float or None, optional
        Arcsec per pixel of the images the HiPS was made from, whose pixels hold flux: a
        HiPS interpolates them, so flux in a pixel of another scale is larger by the ratio
        of areas. None if the HiPS holds surface brightness per the pixel asked for.
    zero_point : float, optional
        AB magnitude of one count.

    Notes
    -----
    HiPS are made to look at. Interpolation smooths noise and, at cell borders, sources:
    prefer a survey's own cutouts for photometry.
    """

    name = "hips"
    products = ("images",)
    limits = "50 million pixels; interpolated: for looking and finding, less for photometry"
    credit = (
        "This research has made use of hips2fits, a tool developed at CDS, Strasbourg, France; "
        "and the acknowledgement of the survey"
    )
    url = "https://alasky.cds.unistra.fr/hips-image-services/hips2fits"
    largest = 7000

    def __init__(self, surveys=None, *, unit="nmgy", native_scale=0.262, zero_point=None):
        if surveys is None:
            surveys = {band: f"CDS/P/DESI-Legacy-Surveys/DR10/{band}" for band in "griz"}
        self.surveys = dict(surveys)
        self.bands = tuple(self.surveys)
        self.native_scale = native_scale
        self.factor = nanomaggy_factor(u.Unit(unit), "HiPS", zero_point=zero_point)

    def fetch_images(self, coord):
        """Return one request's image per band; see `Archive.fetch_images`."""
        bands = self.wanted_bands()
        if self.settings.size > self.largest:
            raise ArchiveError(f"gives at most {self.largest} pixels a side", "pass a smaller size")
        found, error = gather(lambda band: self._image(coord.icrs, band), bands)
        if error is not None:
            error.partial = dict(found)
            raise error
        return dict(found)

    def _image(self, icrs, band):
        from astroquery.hips2fits import hips2fitsClass

        client = hips2fitsClass()
        client._session.close()
        params = client.query_with_wcs(
            self.surveys[band], self._wcs(icrs), format="fits", get_query_payload=True
        )
        params = {key: str(value) for key, value in params.items()}
        path = self.transport.download(client.server, params=params, check=self._check)
        with quiet(), fits.open(path, memmap=False) as hdus:
            pixels, header = hdus[0].data, hdus[0].header
        factor = self.factor
        if self.native_scale is not None:
            factor *= (self.settings.pixel_scale / self.native_scale) ** 2
        return image_from_plane(pixels, header, self, band, factor=factor)

    def _wcs(self, icrs):
        """Return the world coordinates asked for: north up, east left."""
        size = self.settings.size
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [icrs.ra.deg, icrs.dec.deg]
        wcs.wcs.crpix = [(size + 1) / 2, (size + 1) / 2]
        wcs.wcs.cdelt = [-self.settings.pixel_scale / 3600, self.settings.pixel_scale / 3600]
        wcs.pixel_shape = (size, size)
        return wcs

    def _check(self, path):
        """Raise ArchiveError unless a file holds one image of the size asked for."""
        check_fits(path)
        with quiet(), fits.open(path, memmap=False) as hdus:
            shape = hdus[0].shape
        if shape != (self.settings.size,) * 2:
            raise ArchiveError(
                f"an image of shape {shape} instead of one band of {self.settings.size} pixels "
                f"a side", "check that the HiPS is of one band, not of colours",
            )


class PanSTARRS(Archive):
    """Stacked images of Pan-STARRS DR2 from the PS1 image cutout service.

    Notes
    -----
    astroquery has no client for it (its module for MAST cuts out TESS, HST and deep
    fields); the service is two plain requests: which files, then a cutout of each.
    """

    name = "panstarrs"
    products = ("images",)
    bands = ("g", "r", "i", "z", "y")
    limits = "north of declination -30; 0.25 arcsec pixels"
    credit = (
        "The Pan-STARRS1 Surveys, see https://outerspace.stsci.edu/display/PANSTARRS/; "
        "data from MAST at STScI"
    )
    url = "https://outerspace.stsci.edu/display/PANSTARRS/"
    server = "https://ps1images.stsci.edu/cgi-bin"
    scale = 0.25
    largest = 6000

    def fetch_images(self, coord):
        """Return one request's image per band; see `Archive.fetch_images`."""
        bands = self.wanted_bands()
        size = max(1, round(self.settings.width / self.scale))
        if size > self.largest:
            raise ArchiveError(f"gives at most {self.largest} pixels a side", "pass a smaller size")
        place = {"ra": f"{coord.icrs.ra.deg:.6f}", "dec": f"{coord.icrs.dec.deg:.6f}"}
        path = self.transport.download(
            f"{self.server}/ps1filenames.py", params=place | {"filters": "".join(bands)},
            check=lambda path: check_text(path, first="projcell"),
        )
        with quiet():
            table = Table.read(path, format="ascii.basic")
        files = dict(zip(table["filter"], table["filename"], strict=True)) if len(table) else {}
        if not files:
            raise ArchiveError("has no image of this position",
                               "it lies outside Pan-STARRS; ask for another archive")
        place |= {"size": str(size), "format": "fits"}
        present = [band for band in bands if band in files]
        found, error = gather(lambda band: self._image(place | {"red": files[band]}, band), present)
        if error is not None:
            error.partial = dict(found)
            raise error
        return dict(found)

    def _image(self, params, band):
        path = self.transport.download(
            f"{self.server}/fitscut.cgi", params=params, check=check_fits
        )
        with quiet(), fits.open(path, memmap=False) as hdus:
            pixels, header = hdus[0].data, hdus[0].header
        if pixels is None or pixels.ndim != 2 or "EXPTIME" not in header:
            raise ArchiveError(f"band {band} is FITS without exposure time or image", "ask again")
        zero_point = 25.0 + 2.5 * np.log10(header["EXPTIME"])
        factor = 10 ** ((22.5 - zero_point) / 2.5)
        return image_from_plane(pixels, header, self, band, factor=factor)
