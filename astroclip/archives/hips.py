"""Surveys that are published as HiPS, through `astroquery.hips2fits`."""

from astropy import units as u
from astropy.wcs import WCS

from astroclip.archives.base import Archive, check_fits, gather, make_image, read_image
from astroclip.archives.transport import ArchiveError
from astroclip.preparation.photometry import nanomaggy_factor

__all__ = ["HiPS"]


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
        AB magnitude of one count per second.

    Notes
    -----
    HiPS are made to look at. Interpolation smooths noise and, at cell borders, sources:
    prefer a survey's own cutouts for photometry.
    """

    name = "hips"
    products = ("images",)
    largest = 7000
    limits = "50 million pixels; interpolated: for looking and finding, less for photometry"
    credit = (
        "This research has made use of hips2fits, a tool developed at CDS, Strasbourg, France; "
        "and the acknowledgement of the survey"
    )
    url = "https://alasky.cds.unistra.fr/hips-image-services/hips2fits"

    def __init__(self, surveys=None, *, unit="nmgy", native_scale=0.262, zero_point=None):
        if surveys is None:
            surveys = {band: f"CDS/P/DESI-Legacy-Surveys/DR10/{band}" for band in "griz"}
        self.surveys = dict(surveys)
        self.bands = tuple(self.surveys)
        self.native_scale = native_scale
        self.factor = nanomaggy_factor(u.Unit(unit), "HiPS", zero_point=zero_point)

    def fetch_images(self, coord):
        """Return one request's image per band; see `Archive.fetch_images`."""
        size, scale = self.wanted_size(), self.settings.pixel_scale
        wcs = WCS(naxis=2)  # north up, east left
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [coord.icrs.ra.deg, coord.icrs.dec.deg]
        wcs.wcs.crpix = [(size + 1) / 2, (size + 1) / 2]
        wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
        wcs.pixel_shape = (size, size)
        return gather(lambda band: self._image(wcs, band), self.wanted_bands())

    def _image(self, wcs, band):
        from astroquery.hips2fits import hips2fitsClass

        client = hips2fitsClass()
        client._session.close()
        params = client.query_with_wcs(
            self.surveys[band], wcs, format="fits", get_query_payload=True
        )
        params = {key: str(value) for key, value in params.items()}
        path = self.transport.download(client.server, params=params, check=self._check)
        pixels, header = read_image(path)
        factor = self.factor
        if self.native_scale is not None:
            factor *= (self.settings.pixel_scale / self.native_scale) ** 2
        return make_image(pixels, header, self, band, factor=factor)

    def _check(self, path):
        """Raise ArchiveError unless a file holds one image of the size asked for."""
        check_fits(path)
        shape, size = read_image(path)[0].shape, self.settings.size
        if shape != (size, size):
            raise ArchiveError(
                f"an image of shape {shape} instead of {size} pixels a side", "pass a smaller size"
            )
