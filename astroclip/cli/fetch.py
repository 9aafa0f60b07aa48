"""The command ``astroclip fetch``."""

from pathlib import Path

import numpy as np

from astroclip._files import written
from astroclip.cli.inputs import file_stem, parse_target
from astroclip.cli.options import add_command, names, output_options, positive_integer
from astroclip.cli.output import (
    EXIT_ERROR,
    EXIT_SOME_FAILED,
    check_output,
    is_watched,
    show,
    tell,
    write_output,
)

__all__ = ["add_parser", "read_targets", "run_fetch", "write_images", "write_spectrum"]

DESCRIPTION = """\
Fetch spectra and images of objects from archives into a folder of FITS files, which the other
commands take. Targets are names, positions or tables of either. The result has a row for each
file, and one for each product that could not be fetched, with the reason and advice."""
EXAMPLE = """\
  astroclip fetch 'NGC 4303' --folder ngc4303
  astroclip fetch '185.479 4.474' --archives sdss,legacysurvey
  astroclip fetch targets.ecsv --folder targets --output found.ecsv
  astroclip neighbors ngc4303"""
CHUNK = 50  # targets asked for at a time
COLUMNS = ("target", "product", "archive", "file", "message")
TARGET_SUFFIXES = (".ecsv", ".fits", ".csv", ".parquet", ".vot", ".xml")


def add_parser(subparsers):
    """Add ``fetch`` to the command line's subparsers."""
    parser = add_command(
        subparsers, "fetch", run_fetch, help="fetch spectra and images from archives",
        description=DESCRIPTION, example=EXAMPLE,
        parents=(output_options(what="the table of what was found"),),
    )
    parser.add_argument(
        "targets", nargs="+", metavar="TARGET",
        help="a name, 'RA DEC' in degrees, or a table with columns ra and dec, or name",
    )
    parser.add_argument(
        "--archives", type=names, default=None, metavar="NAME[,NAME...]",
        help="ask these archives only",
    )
    parser.add_argument(
        "--products", type=names, default=None, metavar="NAME[,NAME...]",
        help="some of spectra, images, catalog; all by default",
    )
    parser.add_argument(
        "--bands", type=names, default=None, metavar="BAND[,BAND...]",
        help="bands of images; g,r,z by default",
    )
    parser.add_argument(
        "--size", type=positive_integer, default=None, metavar="PIXELS", help="side of images"
    )
    parser.add_argument(
        "--radius", type=float, default=None, metavar="ARCSEC",
        help="radius of the search for spectra",
    )
    parser.add_argument(
        "--timeout", type=float, default=None, metavar="SECONDS", help="time-out of one request"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="do not use earlier downloads"
    )
    parser.add_argument(
        "--folder", default="astroclip-objects", metavar="FOLDER", help="folder of the FITS files"
    )


def run_fetch(options):
    """Fetch targets, write files and show what was found; return the exit status."""
    from astropy.table import Table

    from astroclip import archives

    check_output(options)
    objects = named_objects(options.targets)
    folder = Path(options.folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        name: getattr(options, name)
        for name in ("archives", "products", "bands", "size", "radius", "timeout")
        if getattr(options, name) is not None
    }
    rows = []
    for first in range(0, len(objects), CHUNK):  # written chunk by chunk: Ctrl-C loses little
        targets, _ = archives.fetch_many(
            objects[first : first + CHUNK], cache=not options.no_cache,
            show_progress=is_watched(options), **given,
        )
        for target in targets:
            found = [
                (target.name, product, "", str(path), "")
                for product, path in write_target(target, folder)
            ]
            failed = [
                (
                    target.name, str(failure["product"]), str(failure["archive"]), "",
                    f"{failure['reason']}; {failure['advice']}",
                )
                for failure in target.failures
            ]
            nothing = (target.name, "", "", "", "nothing was found and nothing failed")
            rows += found + failed or [nothing]
    table = Table(rows=rows, names=COLUMNS)
    write_output(table, options)
    show(table, format=options.format)
    n_files = sum(bool(row[3]) for row in rows)
    tell(f"{n_files:,} files in {folder}; {len(rows) - n_files:,} products failed")
    if not n_files:
        return EXIT_ERROR
    return EXIT_SOME_FAILED if n_files < len(rows) else 0


def named_objects(arguments):
    """Return the names and positions that arguments and the tables among them hold.

    Raises
    ------
    FileNotFoundError
        If a table is not there.
    ValueError
        If a table cannot be read or has no targets.
    """
    targets = []
    for text in arguments:
        if Path(text).suffix.lower() in TARGET_SUFFIXES:
            targets += read_targets(Path(text).expanduser())
        else:
            targets.append(parse_target(text))
    return targets


def read_targets(path):
    """Return the names or positions of a table.

    Parameters
    ----------
    path : `pathlib.Path`
        With columns that `astroclip.archives.fetch_many` takes; positions are taken if there
        are names too.

    Returns
    -------
    list of str or `~astropy.coordinates.SkyCoord`

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, lacks those columns or has no rows.
    """
    from astropy.table import QTable

    from astroclip.archives.names import names_and_positions

    if not path.is_file():
        msg = f"table of targets {str(path)!r} does not exist; check the path."
        raise FileNotFoundError(msg)
    try:
        pairs = names_and_positions(QTable.read(path))
    except Exception as error:  # each format raises what its reader meets
        msg = f"table of targets {str(path)!r} cannot be used: {error}"
        raise ValueError(msg) from error
    return [name if position is None else position for name, position in pairs]


# ---------------------------------------------------------------------- files
def write_target(target, folder):
    """Write what was fetched of a target: spectra and images as FITS, catalog rows as ECSV.

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
    files = []
    for number, spectrum in enumerate(target.spectra, start=1):
        suffix = "" if len(target.spectra) == 1 else f"-{number}"
        files.append(("spectrum", folder / f"{stem}-spectrum{suffix}.fits"))
        write_spectrum(spectrum, files[-1][1])
    if target.images:
        files.append(("image", folder / f"{stem}-image.fits"))
        write_images(target.images, files[-1][1])
    if len(target.catalog):
        from astroclip.tables import write_table

        files.append(("catalog", folder / f"{stem}-catalog.ecsv"))
        write_table(target.catalog, files[-1][1], overwrite=True)
    return files


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
    with written(path) as partial:
        plain.write(partial, format="tabular-fits", overwrite=True)


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
        bad = np.zeros(values.shape, bool) if image.mask is None else image.mask
        if image.uncertainty is None:
            values = np.where(bad, np.float32(np.nan), values)
        hdus.append(fits.ImageHDU(values, header, name=f"IMAGE_{band}"))
        if image.uncertainty is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                ivar = image.uncertainty.represent_as(InverseVariance).array.astype(np.float32)
            ivar = np.where(bad | ~np.isfinite(ivar), np.float32(0), ivar)
            hdus.append(fits.ImageHDU(ivar, header, name=f"INVVAR_{band}"))
    with written(path) as partial:
        fits.HDUList(hdus).writeto(partial, overwrite=True)
