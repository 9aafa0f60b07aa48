"""The DESI Legacy Imaging Surveys: coadded images from their viewer's cutout service."""

from astropy.io import fits

from astroclip.archives.base import Archive, check_fits, make_image, quiet
from astroclip.archives.transport import ArchiveError
from astroclip.exceptions import PreparationError
from astroclip.preparation.image_files import read_images

__all__ = ["LegacySurvey"]


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
    largest = 512
    limits = "512 pixels a side"
    credit = "DESI Legacy Imaging Surveys; https://www.legacysurvey.org/acknowledgment/"
    url = "https://www.legacysurvey.org/acknowledgment/"
    server = "https://www.legacysurvey.org/viewer/fits-cutout"

    def __init__(self, *, layer="ls-dr9"):
        self.layer = layer
        if "dr10" in layer:
            self.bands = ("g", "r", "i", "z")
            self.name = "legacysurvey-dr10"

    def fetch_images(self, coord):
        """Return all bands from one request; see `Archive.fetch_images`."""
        bands = self.wanted_bands()
        params = {
            "ra": f"{coord.icrs.ra.deg:.6f}", "dec": f"{coord.icrs.dec.deg:.6f}",
            "layer": self.layer, "pixscale": f"{self.settings.pixel_scale:g}",
            "bands": "".join(bands), "size": str(self.wanted_size()),
        }
        path = self.transport.download(self.server, params=params, check=self._check)
        with quiet():
            images = read_images(path)
        return {
            band: make_image(images[band].data, images[band].wcs, self, band)
            for band in bands
        }

    def _check(self, path):
        """Raise ArchiveError unless a file holds the bands and the size asked for."""
        check_fits(path)
        bands, size = self.wanted_bands(), self.settings.size
        other = "ask again, or for another layer or archive"
        try:
            with quiet():
                images = read_images(path)
        except PreparationError as error:
            with quiet(), fits.open(path, memmap=False) as hdus:
                shapes = [" x ".join(map(str, hdu.shape)) for hdu in hdus if hdu.shape]
            raise ArchiveError(
                f"a cutout that does not hold the {len(bands)} bands asked for (its arrays are "
                f"{', '.join(shapes)})", other,
            ) from error
        if any(band not in images for band in bands):
            raise ArchiveError(
                f"a cutout of {len(images)} bands ({', '.join(images)}) instead of "
                f"{len(bands)} ({', '.join(bands)})", other,
            )
        shape = images[bands[0]].data.shape
        if shape != (size, size):
            raise ArchiveError(
                f"a cutout of {shape[1]} x {shape[0]} pixels instead of {size} x {size}",
                "pass a smaller size",
            )
        if any(images[band].wcs is None for band in bands):
            raise ArchiveError("a cutout without world coordinates", "ask again")
