"""What files hold: their modality by their headers, and what a user says of them."""

import bz2
import dataclasses
import glob
import gzip
import io
import lzma
import re
import warnings
from pathlib import Path

from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from astroclip.preparation.bands import band_letter
from astroclip.preparation.spectrum_images import has_spectral_axis, spectral_axis_number
from astroclip.preparation.spectrum_tables import role_of
from astroclip.tables import is_embedding_table

__all__ = [
    "ReadOptions",
    "checked_path",
    "file_ids",
    "file_modality",
    "file_stem",
    "find_files",
    "fits_source",
    "is_celestial",
    "is_display_image",
    "is_fits",
    "is_truncated",
    "is_spectral",
    "picture_shape",
]

OBJECT_NAMES = re.compile(r"(?!\.).+\.(fits?|fts|fz)(\.(gz|fz|bz2))?", re.IGNORECASE)
TABLE_NAMES = re.compile(r"(?!\.).+\.(ecsv|parquet)", re.IGNORECASE)
DISPLAY_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*", b"BM")
SHORTEST_SIDE = 8  # pixels; arrays with a shorter side hold rows of spectra
CELESTIAL = re.compile(r"\s*(RA|DEC|[A-Z]L(ON|AT)|[A-Z]{2}L[NT])(-|\s|$)", re.I)
TRUNCATED = re.compile("truncated|Error validating header")  # astropy's warnings
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
        ``"image"`` if it is FITS with an array of two or more long axes, none of them
        spectral, and no table of a spectrum; beside tables or 1-D arrays, an array must have
        celestial coordinates or a filter. Also if it is a display image (PNG, JPEG...), of
        which the reader of images says that it is none. Else ``"spectrum"``, also if it
        cannot be opened: what the readers of spectra say of it is clearer.
    """
    try:
        if is_display_image(path):
            return "image"
        if not is_fits(path):
            return "spectrum"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # of truncated files
            with fits.open(path) as hdus:
                arrays = [hdu for hdu in hdus if hdu.is_image]
                pictures = [hdu for hdu in arrays if picture_shape(hdu.shape)]
                tables = [hdu.columns.names for hdu in hdus if not hdu.is_image]
                alone = not tables and all(len(hdu.shape) != 1 for hdu in arrays)
                headers = [hdus[0].header, *(hdu.header for hdu in pictures)]
                celestial = any(map(is_celestial, headers))
                is_spectrum = (
                    not pictures
                    or any({"flux", "wavelength"} <= set(map(role_of, names)) for names in tables)
                    or any(is_spectral(hdu.header, hdu.shape) for hdu in pictures)
                    or (not celestial and is_spectral(hdus[0].header, ()))
                )
    except Exception:  # of compression, sizes or headers: the file is damaged
        return "spectrum"
    filters = any(band_letter(h.get(key, "")) for h in headers for key in ("FILTER", "BAND"))
    return "image" if not is_spectrum and (alone or celestial or filters) else "spectrum"


def picture_shape(shape):
    """Return the shape of an array without leading axes of length 1; None if it is no picture.

    Rows of spectra are pictures neither: a picture has several pixels along two axes.
    """
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    sizes = sorted(shape)[-2:]
    return tuple(shape) if len(sizes) == 2 and sizes[0] >= SHORTEST_SIDE else None


def is_celestial(header):
    """Return whether the first two axes of an array are positions on the sky."""
    return all(CELESTIAL.match(str(header.get(f"CTYPE{axis}", ""))) for axis in (1, 2))


def is_spectral(header, shape):
    """Return whether an axis of an array is spectral, by its header or, if mute, its shape.

    A frequency axis of length 1, as radio images have, is not.
    """
    axis = spectral_axis_number(header)
    is_dispersed = str(header.get("DISPAXIS", 0)) in ("1", "2", "3")
    if is_celestial(header):
        n_pixels = header.get(f"NAXIS{axis}", 2 if is_dispersed else 1)
        return axis > 2 and n_pixels > 1
    iraf = str(header.get("WAT0_001", "")).lower()
    return (
        axis > 0
        or is_dispersed
        or "multispec" in iraf
        or "equispec" in iraf
        or str(header.get("CTYPE1", "")).strip().upper() == "LINEAR"
        or has_spectral_axis(header, shape)
    )


def is_display_image(path):
    """Return whether a file is PNG, JPEG, GIF, TIFF, BMP or WebP."""
    with Path(path).open("rb") as file:
        start = file.read(12)
    return start.startswith(DISPLAY_STARTS) or (start[:4], start[8:]) == (b"RIFF", b"WEBP")


def find_files(arguments):
    """Return the files that arguments name, each once.

    Parameters
    ----------
    arguments : sequence of path-like
        Files; folders, of which the FITS files (``.fits``, ``.fit``, ``.fts``, ``.fz``, also
        compressed, in upper or lower case) and tables of embeddings are taken in order of name,
        hidden ones not; and patterns with ``*``, ``?``, ``[...]`` or ``**``.

    Returns
    -------
    list of `pathlib.Path`

    Raises
    ------
    FileNotFoundError
        If a file is not there, or a folder or pattern gives none.
    """
    files = {}
    for argument in arguments:
        text = str(argument)
        if not text:  # to pathlib, the present folder
            msg = "path '' is empty; pass the path of a file or folder."
            raise FileNotFoundError(msg)
        path = Path(argument).expanduser()
        try:
            is_folder, exists = path.is_dir(), path.exists()
        except (OSError, ValueError):  # longer than a name can be
            is_folder = exists = False
        if is_folder:
            paths = sorted(item for item in path.iterdir() if _is_usual(item))
            what = f"folder {text!r} holds no file ending in .fits, .fit, .fits.gz or .fits.fz"
        elif exists:
            paths, what = [path], ""
        elif glob.has_magic(text):
            matches = sorted(glob.glob(str(path), recursive=True))
            paths = [item for item in map(Path, matches) if item.is_file()]
            what = f"pattern {text!r} matches no file"
        else:
            paths, what = [], f"path {text[:200]!r} does not exist"
        if not paths:
            msg = f"{what}; check the path."
            raise FileNotFoundError(msg)
        files |= dict.fromkeys(paths)
    return list(files)


def _is_usual(path):
    """Return whether a folder's file is one to take: FITS or embeddings, and not hidden."""
    if TABLE_NAMES.fullmatch(path.name):
        return path.is_file() and is_embedding_table(path)  # catalogs are passed over
    return bool(OBJECT_NAMES.fullmatch(path.name)) and path.is_file()


def file_stem(path):
    """Return a file's name without its suffix, and without that of its compression."""
    name = re.sub(r"\.(gz|fz|bz2|xz)$", "", Path(path).name, flags=re.IGNORECASE)
    return name[: name.rindex(".")] if "." in name[1:] else name


def file_ids(paths):
    """Return a name for each of some files, as short as tells them apart.

    Parameters
    ----------
    paths : sequence of `pathlib.Path`

    Returns
    -------
    dict of `pathlib.Path` to str
        The file's name without its suffix; for those that share it the whole name, or folders
        before it, as in ``night1/spec`` and ``night2/spec``.
    """
    names, groups = {}, {}
    for path in dict.fromkeys(paths):
        groups.setdefault(file_stem(path), []).append(path)
    for stem, group in groups.items():
        folders = [path.absolute().parent.parts for path in group]
        for depth in range(max(map(len, folders)) + 1):
            heads = ["/".join(parts[len(parts) - depth :]) for parts in folders]
            for tails in ([stem] * len(group), [path.name for path in group]):
                found = [f"{head}/{tail}" if head else tail
                         for head, tail in zip(heads, tails, strict=True)]
                if len(set(found)) == len(group):
                    break
            if len(set(found)) == len(group):
                break
        names |= dict(zip(group, found, strict=True))
    return names


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
    """Return whether a file is FITS, plain or compressed as a whole (gzip, bzip2, xz).

    One whose compression is damaged may be: readers of FITS say what is wrong with it.
    """
    start, opener = _compression(path)
    if opener is not None:
        try:
            with opener.open(path) as file:
                start = file.read(6)
        except (OSError, EOFError, lzma.LZMAError):
            return True
    return start == b"SIMPLE"


def _compression(path):
    """Return the first bytes of a file and the module that unpacks it, None if none is needed."""
    with Path(path).open("rb") as file:
        start = file.read(6)
    return start, next((each for mark, each in COMPRESSIONS if start.startswith(mark)), None)


def is_truncated(caught):
    """Return whether a FITS file ends early, by the warnings that opening it gave."""
    return any(TRUNCATED.search(str(each.message)) for each in caught)


def fits_source(path):
    """Return what astropy is to open: the path, or the content of a file compressed as a whole.

    astropy takes the end of a truncated gzip file for the end of its extensions.

    Raises
    ------
    EOFError, OSError, `lzma.LZMAError`
        If the compressed data end early or are damaged.
    """
    _, opener = _compression(path)
    if opener is None:
        return path
    with opener.open(path) as file:
        return io.BytesIO(file.read())
