"""What files hold: their modality by their headers, and what a user says of them."""

import dataclasses
import warnings
from pathlib import Path

from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from astroclip.exceptions import PreparationError

__all__ = ["ReadOptions", "checked_path", "file_modality", "is_fits", "unreadable"]


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
        ``"image"`` if it is FITS without tables or 1-D arrays and with an array of 2 or 3
        axes, else ``"spectrum"``, also if it cannot be opened: what the readers of spectra
        say of it is clearer.
    """
    try:
        if not is_fits(path):
            return "spectrum"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # of truncated files
            with fits.open(path) as hdus:
                n_axes = [len(hdu.shape) for hdu in hdus if hdu.is_image]
                all_images = len(n_axes) == len(hdus)
    except (OSError, TypeError, ValueError):
        return "spectrum"
    holds_images = all_images and 1 not in n_axes and max(n_axes, default=0) >= 2
    return "image" if holds_images else "spectrum"


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
    """Return whether a file is FITS, plain or compressed by gzip."""
    with Path(path).open("rb") as file:
        start = file.read(6)
    return start == b"SIMPLE" or start[:2] == b"\x1f\x8b"  # plain or compressed by gzip


def unreadable(path, what, error):
    """Return the error of a file that cannot be read as spectra or images."""
    return PreparationError(
        f"path {str(path)!r} cannot be read as {what}: {error}. Check that the file is "
        f"complete, or read it with another tool and pass the object."
    )
