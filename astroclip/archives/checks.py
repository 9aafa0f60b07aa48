"""Checks of downloaded files: whole, of the format asked for, with the bands asked for."""

import re
import threading
import warnings

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS

from astroclip.archives.transport import ArchiveError

__all__ = ["PARSING", "check_fits", "check_text", "image_from_plane", "quiet", "refuse_html"]

PARSING = threading.RLock()
"""Held while files are read: Python's warning filters belong to all threads at once."""

AGAIN = "ask again: the download was not kept"
MAGIC = (b"SIMPLE", b"\x1f\x8b", b"BZh")


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
    """Raise ArchiveError unless a file is complete FITS, possibly compressed.

    Parameters
    ----------
    path : `pathlib.Path`
    """
    with path.open("rb") as file:
        start = file.read(2048)
    refuse_html(start, "FITS")
    if not start.startswith(MAGIC):
        raise ArchiveError(f"an answer that is not FITS (it begins {start[:20]!r})", AGAIN)
    try:
        # a stream of ours: astropy leaves one of its own open if it stumbles
        with quiet(), path.open("rb") as stream, fits.open(stream, memmap=False) as hdus:
            n_arrays = sum(hdu.data is not None for hdu in hdus)
    except Exception as error:  # astropy raises whatever half a header makes it stumble over
        said = str(error).strip().splitlines()[0][:120] if str(error).strip() else "it ends early"
        raise ArchiveError(f"FITS that is damaged or cut short ({said})", AGAIN) from error
    if not n_arrays:
        raise ArchiveError("FITS without any data", "the position may lie outside the survey")


def check_text(path, *, first):
    """Raise ArchiveError unless a text file begins as it should.

    Parameters
    ----------
    path : `pathlib.Path`
    first : str
        Its first word.
    """
    with path.open("rb") as file:
        start = file.read(2048)
    refuse_html(start, "a table")
    if not start.lstrip().startswith(first.encode()):
        raise ArchiveError(f"an answer that is no table (it begins {start[:20]!r})", AGAIN)


def image_from_plane(pixels, wcs, archive, band, *, factor=1.0, blank=None):
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
    blank : float, optional
        Value of pixels without data, besides those that are not finite.

    Returns
    -------
    `~astropy.nddata.CCDData`

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
    if blank is not None:
        mask |= pixels == np.float32(blank)
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
