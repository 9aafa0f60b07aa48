"""The command ``astroclip fetch``."""

import sys
from pathlib import Path

from astroclip.cli.options import add_command, names, output_options, positive_integer
from astroclip.cli.output import check_output, show, tell, write_output
from astroclip.cli.targets import is_target_table, parse_target, read_targets, write_target

__all__ = ["add_parser", "run_fetch"]

DESCRIPTION = """\
Fetch spectra and images of objects from archives into a folder of FITS files, which the other
commands take. Targets are names, positions or tables of either. What could not be fetched is a
row of the result that says why and what to try."""
EXAMPLE = """\
  astroclip fetch 'NGC 4303' --folder ngc4303
  astroclip fetch '185.479 4.474' --archives sdss,legacysurvey
  astroclip fetch targets.ecsv --folder targets --output found.ecsv
  astroclip neighbors ngc4303"""
CHUNK = 50  # targets asked for at a time
COLUMNS = ("target", "product", "archive", "file", "message")


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
        "--archives", type=names, default=None, metavar="NAME[,NAME...]", help="only these"
    )
    parser.add_argument(
        "--products", type=names, default=None, metavar="NAME[,NAME...]",
        help="of spectra, images, catalog; all by default",
    )
    parser.add_argument(
        "--bands", type=names, default=None, metavar="BAND[,BAND...]", help="g,r,z by default"
    )
    parser.add_argument(
        "--size", type=positive_integer, default=None, metavar="PIXELS", help="of images"
    )
    parser.add_argument(
        "--radius", type=float, default=None, metavar="ARCSEC", help="in which spectra are taken"
    )
    parser.add_argument(
        "--timeout", type=float, default=None, metavar="SECONDS", help="of one request"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="ask archives again for what was fetched before"
    )
    parser.add_argument(
        "--folder", default="astroclip-objects", metavar="FOLDER", help="for the FITS files"
    )


def run_fetch(options):
    """Fetch targets, write files and show what was found; return the exit status."""
    from astropy.table import Table

    from astroclip.cli.application import MENDABLE, SOME_FAILED

    check_output(options)
    objects = named_objects(options.targets)
    folder = Path(options.folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for target in fetched_targets(objects, options):
        rows += target_rows(target, folder)
    table = Table(rows=rows, names=COLUMNS)
    write_output(table, options)
    show(table, format=options.format)
    n_files = sum(bool(row[3]) for row in rows)
    tell(f"{n_files:,} files in {folder}; {len(rows) - n_files:,} products failed")
    if not n_files:
        return MENDABLE
    return SOME_FAILED if n_files < len(rows) else 0


def named_objects(arguments):
    """Return the names and positions that arguments and the tables among them hold.

    Raises
    ------
    FileNotFoundError
        If a table is not there.
    ValueError
        If a table cannot be read or has no targets.
    """
    found = []
    for text in arguments:
        if not is_target_table(text):
            found.append(parse_target(text))
            continue
        path = Path(text).expanduser()
        if not path.is_file():
            msg = f"table of targets {text!r} does not exist; check the path."
            raise FileNotFoundError(msg)
        found += read_targets(path)
    if not found:
        msg = f"table of targets {arguments[0]!r} has no rows; expected at least one."
        raise ValueError(msg)
    return found


def fetched_targets(objects, options):
    """Yield the targets as archives answer, some at a time, so that little is lost by Ctrl-C."""
    from astroclip import archives

    given = {
        name: getattr(options, name)
        for name in ("archives", "products", "bands", "size", "radius", "timeout")
        if getattr(options, name) is not None
    }
    watched = sys.stderr.isatty() and not options.quiet
    for first in range(0, len(objects), CHUNK):
        targets, _ = archives.fetch_many(
            objects[first : first + CHUNK], cache=not options.no_cache, show_progress=watched,
            **given,
        )
        yield from targets


def target_rows(target, folder):
    """Write a target's files; return a row for each, and for everything that failed."""
    rows = [
        (target.name, product, "", str(path), "")
        for product, path in write_target(target, folder)
    ]
    rows += [
        (
            target.name, str(failure["product"]), str(failure["archive"]), "",
            f"{failure['reason']}; {failure['advice']}",
        )
        for failure in target.failures
    ]
    return rows or [(target.name, "", "", "", "nothing was found and nothing failed")]
