"""What files hold: their modality by their headers, and what a user says of them."""

import bz2
import dataclasses
import gzip
import lzma
import warnings
from pathlib import Path

from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from astroclip.exceptions import PreparationError
from astroclip.preparation.spectrum_images import has_spectral_axis
from astroclip.preparation.spectrum_tables import role_of

__all__ = ["ReadOptions", "checked_path", "file_modality", "is_fits", "unreadable"]

COMPRESSIONS = ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma))


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """What a user says of files and tables that do not say it themselves.

    Attributes
    ----------
    unit : `~astropy.units.Unit` or None
        Of flux or pixels.
    bands : sequence of str or None
        Names of an image's bands in their order.
    flux, wavelength, ivar, error, mask : str or None
        Names of the columns that hold them.
    """

    unit: object = None
    bands: object = None
    flux: str | None = None
    wavelength: str | None = None
    ivar: str | None = None
    error: str | None = None
    mask: str | None = None


def file_modality(path):
    """Return what a file holds by its headers.

    Parameters
    ----------
    path : `pathlib.Path`

    Returns
    -------
    str
        ``"image"`` if it is FITS whose arrays have 2 or 3 axes, none of them spectral, and no
        table in it holds a spectrum; else ``"spectrum"``, also if it cannot be opened: what
        the readers of spectra say of it is clearer.
    """
    try:
        if not is_fits(path):
            return "spectrum"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # of truncated files
            with fits.open(path) as hdus:
                images = [hdu for hdu in hdus if hdu.is_image and hdu.shape]
                columns = [
                    {role_of(name) for name in hdu.columns.names}
                    for hdu in hdus
                    if not hdu.is_image
                ]
                is_spectrum = (
                    not images
                    or any({"flux", "wavelength"} <= roles for roles in columns)
                    or any(has_spectral_axis(hdu.header, hdu.shape) for hdu in images)
                )
    except (OSError, TypeError, ValueError):
        return "spectrum"
    return "spectrum" if is_spectrum else "image"


def checked_path(path):
    """Return a path that names an existing file; raise an error that says what it is."""
    path = Path(path)
    if path.is_dir():
        msg = f"path {str(path)!r} is a directory; expected a file. Pass a list of its files."
        raise IsADirectoryError(msg)
    if not path.exists():
        msg = f"path {str(path)!r} does not exist; check the path."
        raise FileNotFoundError(msg)
    return path


def is_fits(path):
    """Return whether a file is FITS, plain or compressed as a whole (gzip, bzip2, xz)."""
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((each for mark, each in COMPRESSIONS if start.startswith(mark)), None)
    if opener is not None:
        try:
            with opener.open(path) as file:
                start = file.read(6)
        except (OSError, EOFError, lzma.LZMAError):
            return False
    return start == b"SIMPLE"


def unreadable(path, what, error):
    """Return the error of a file that cannot be read as spectra or images."""
    return PreparationError(
        f"path {str(path)!r} cannot be read as {what}: {error}. Check that the file is "
        f"complete, or read it with another tool and pass the object."
    )
