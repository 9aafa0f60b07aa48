"""Objects of archives: named targets, tables of positions, and files of what was found."""

import re
import sys
from pathlib import Path

import numpy as np

from astroclip.cli.output import tell

__all__ = [
    "add_target_option",
    "fetched_objects",
    "parse_target",
    "read_targets",
    "write_images",
    "write_spectrum",
]

NUMBER = r"[+-]?\d+(\.\d*)?"
DEGREES = re.compile(rf"^\s*({NUMBER})[\s,]+({NUMBER})\s*$")
SEXAGESIMAL = re.compile(r"^\s*\d{1,2}[h:\s]\s*\d{1,2}[m:\s].*[+-]\s*\d{1,2}[d:°\s]")
COORDINATE_SUFFIXES = (".ecsv", ".fits", ".csv", ".parquet", ".vot", ".xml")


def add_target_option(parser):
    """Add ``--target``, which fetches an object by its name or position."""
    parser.add_argument(
        "--target", default=None, metavar="NAME",
        help="fetch this object from archives instead: a name, or 'RA DEC' in degrees",
    )


def parse_target(text):
    """Return a sky position, or a name as it is.

    Parameters
    ----------
    text : str
        ``"185.479 4.474"`` in degrees, ``"12h21m54.9s +4d28m25s"``, or a name.

    Returns
    -------
    `~astropy.coordinates.SkyCoord` or str

    Raises
    ------
    ValueError
        If it looks like a position and is none.
    """
    degrees = DEGREES.match(text)
    if not degrees and not SEXAGESIMAL.match(text):
        return text.strip()
    from astropy.coordinates import SkyCoord

    try:
        if degrees:
            return SkyCoord(float(degrees[1]), float(degrees[3]), unit="deg")
        return SkyCoord(text, unit=("hourangle", "deg"))
    except ValueError as error:
        msg = f"target {text!r} looks like a position and is none: {error}."
        raise ValueError(msg) from error


def read_targets(path):
    """Return the names or positions of a table.

    Parameters
    ----------
    path : path-like
        With columns ``ra`` and ``dec`` (degrees, or with a unit), or ``name``; positions
        are taken if there are both.

    Returns
    -------
    list of str or `~astropy.coordinates.SkyCoord`

    Raises
    ------
    ValueError
        If it cannot be read or lacks those columns.
    """
    from astropy import units as u
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable

    try:
        table = QTable.read(path)
    except Exception as error:  # each format raises what its reader meets
        msg = f"table of targets {str(path)!r} cannot be read: {error}."
        raise ValueError(msg) from error
    columns = {name.lower(): table[name] for name in table.colnames}
    if {"ra", "dec"} <= set(columns):
        ra, dec = (u.Quantity(columns[name], unit=u.deg) for name in ("ra", "dec"))
        return list(SkyCoord(ra, dec))
    if "name" in columns:
        return [
            name.decode() if isinstance(name, bytes) else str(name) for name in columns["name"]
        ]
    msg = (
        f"table of targets {str(path)!r} has columns {', '.join(table.colnames)}; expected ra "
        f"and dec in degrees, or name."
    )
    raise ValueError(msg)


def is_target_table(text):
    """Return whether an argument names a file of targets rather than a target."""
    return Path(text).suffix.lower() in COORDINATE_SUFFIXES


def fetched_objects(options, *, model):
    """Fetch ``--target`` and return the embeddings of its spectra and images.

    Raises
    ------
    ValueError
        If nothing could be fetched or embedded; the message holds the reasons.
    """
    import tempfile

    from astroclip import archives
    from astroclip.cli.inputs import embed_files

    if options.inputs:
        msg = "--target and INPUT are both given; expected one of them."
        raise ValueError(msg)
    watched = sys.stderr.isatty() and not options.quiet
    target = archives.fetch(parse_target(options.target), show_progress=watched)
    for line in failure_lines(target):
        tell(line)
    with tempfile.TemporaryDirectory() as folder:
        written = write_target(target, Path(folder))
        paths = [path for product, path in written if product != "catalog"]
        if not paths:
            msg = f"no archive has a spectrum or an image of {options.target!r}."
            raise ValueError(msg)
        table = embed_files(paths, options, model=options.model or model)
    table.remove_column("file")
    return table


def failure_lines(target):
    """Return a line for everything that could not be fetched."""
    return [
        f"{row['archive']} {row['product']}: {row['reason']}; {row['advice']}"
        for row in target.failures
    ]


# ---------------------------------------------------------------------- files
def write_target(target, folder):
    """Write what was fetched of a target: spectra and images as FITS, catalogue rows as ECSV.

    Parameters
    ----------
    target : object
        What `astroclip.archives.fetch` returns.
    folder : `pathlib.Path`

    Returns
    -------
    list of (str, `pathlib.Path`)
        ``"spectrum"``, ``"image"`` or ``"catalog"``, and its file.
    """
    stem = file_stem(target)
    written = []
    for number, spectrum in enumerate(target.spectra, start=1):
        suffix = "" if len(target.spectra) == 1 else f"-{number}"
        written.append(("spectrum", folder / f"{stem}-spectrum{suffix}.fits"))
        write_spectrum(spectrum, written[-1][1])
    if target.images:
        written.append(("image", folder / f"{stem}-image.fits"))
        write_images(target.images, written[-1][1])
    if len(target.catalog):
        from astroclip.tables import write_table

        written.append(("catalog", folder / f"{stem}-catalog.ecsv"))
        write_table(target.catalog, written[-1][1], overwrite=True)
    return written


def file_stem(target):
    """Return a target's name as the start of a file name."""
    return re.sub(r"[^\w.+-]+", "_", str(target.name)).strip("_.") or "target"


def write_spectrum(spectrum, path):
    """Write a spectrum to a FITS table that specutils reads, complete or not at all.

    Parameters
    ----------
    spectrum : `~specutils.Spectrum`
        Masked pixels get an uncertainty of NaN, which `astroclip.embed` leaves out.
    path : `pathlib.Path`
    """
    from astropy.io import fits
    from astropy.nddata import StdDevUncertainty
    from specutils import Spectrum

    sigma = None
    if spectrum.uncertainty is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            sigma = spectrum.uncertainty.represent_as(StdDevUncertainty).array.astype(float)
        bad = ~np.isfinite(sigma)
        if spectrum.mask is not None:
            bad |= np.asarray(spectrum.mask, dtype=bool)
        sigma = StdDevUncertainty(np.where(bad, np.nan, sigma))
    header = fits.Header()
    for key in ("ra", "dec", "id", "archive"):
        value = spectrum.meta.get(key)
        if isinstance(value, str | int | float | np.number):
            header[key.upper()[:8]] = value if isinstance(value, str) else float(value)
    plain = Spectrum(
        flux=spectrum.flux, spectral_axis=spectrum.spectral_axis, uncertainty=sigma,
        meta={"header": header},
    )
    partial = path.with_name(f".{path.stem}.part.fits")
    try:
        plain.write(partial, format="tabular-fits", overwrite=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_images(images, path):
    """Write images of several bands to one FITS file that `astroclip.embed` reads.

    Parameters
    ----------
    images : dict of str to `~astropy.nddata.CCDData`
    path : `pathlib.Path`
        Complete or not at all.
    """
    from astropy.io import fits
    from astropy.nddata import InverseVariance

    hdus = [fits.PrimaryHDU()]
    hdus[0].header["BANDS"] = ",".join(images)
    for band, image in images.items():
        header = fits.Header() if image.wcs is None else image.wcs.to_header()
        header["BUNIT"] = image.unit.to_string()  # FITS has no nanomaggies, astropy reads them
        values = np.asarray(image.data, dtype=np.float32)
        if image.uncertainty is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                ivar = image.uncertainty.represent_as(InverseVariance).array.astype(np.float32)
            bad = ~np.isfinite(ivar) if image.mask is None else ~np.isfinite(ivar) | image.mask
            ivar = np.where(bad, 0, ivar).astype(np.float32)
        else:
            ivar = np.where(False if image.mask is None else image.mask, 0, 1)
            values = np.where(ivar > 0, values, np.nan).astype(np.float32)
            ivar = None
        hdus.append(fits.ImageHDU(values, header, name=f"IMAGE_{band}"))
        if ivar is not None:
            hdus.append(fits.ImageHDU(ivar, header, name=f"INVVAR_{band}"))
    partial = path.with_name(f".{path.stem}.part.fits")
    try:
        fits.HDUList(hdus).writeto(partial, overwrite=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
