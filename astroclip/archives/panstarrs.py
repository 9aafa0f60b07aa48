"""Pan-STARRS: stacked images from the PS1 image cutout service."""

import numpy as np
from astropy.table import Table

from astroclip.archives.base import (
    Archive,
    check_fits,
    gather,
    make_image,
    quiet,
    read_image,
    refuse_html,
)
from astroclip.archives.transport import ArchiveError

__all__ = ["PanSTARRS"]

PIXEL_SCALE = 0.25  # arcsec


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
    largest = 6000
    limits = "north of declination -30; 0.25 arcsec pixels"
    credit = (
        "The Pan-STARRS1 Surveys, see https://outerspace.stsci.edu/display/PANSTARRS/; "
        "data from MAST at STScI"
    )
    url = "https://outerspace.stsci.edu/display/PANSTARRS/"
    server = "https://ps1images.stsci.edu/cgi-bin"

    def fetch_images(self, coord):
        """Return one request's image per band; see `Archive.fetch_images`."""
        bands = self.wanted_bands()
        params = {"size": str(self.wanted_size(PIXEL_SCALE)), "format": "fits"}
        position = {"ra": f"{coord.icrs.ra.deg:.6f}", "dec": f"{coord.icrs.dec.deg:.6f}"}
        path = self.transport.download(
            f"{self.server}/ps1filenames.py", params=position | {"filters": "".join(bands)},
            check=_check_names,
        )
        with quiet():
            table = Table.read(path, format="ascii.basic")
        files = dict(zip(table["filter"], table["filename"], strict=True)) if len(table) else {}
        if not files:
            raise ArchiveError(
                "has no image of this position",
                "it lies outside Pan-STARRS; ask for another archive",
            )
        return gather(
            lambda band: self._image(position | params | {"red": files[band]}, band),
            [band for band in bands if band in files],
        )

    def _image(self, params, band):
        path = self.transport.download(
            f"{self.server}/fitscut.cgi", params=params, check=check_fits
        )
        pixels, header = read_image(path)
        if "EXPTIME" not in header:
            raise ArchiveError(f"band {band} without exposure time", "ask again")
        # counts of a stack have the zero point 25 for one second
        zero_point = 25.0 + 2.5 * np.log10(header["EXPTIME"])
        return make_image(pixels, header, self, band, factor=10 ** (0.4 * (22.5 - zero_point)))


def _check_names(path):
    """Raise ArchiveError unless a file is the service's table of files."""
    start = path.read_bytes()[:2048]
    refuse_html(start, "a table")
    if not start.lstrip().startswith(b"projcell"):
        raise ArchiveError(f"an answer that is no table (it begins {start[:20]!r})", "ask again")
