"""Options that several commands share, spelled the same in each."""

import argparse
from pathlib import Path

__all__ = [
    "add_command",
    "add_target_option",
    "index_argument",
    "model_options",
    "names",
    "output_options",
    "positive_integer",
    "probability",
    "query_options",
    "search_options",
    "table_path",
]

SUFFIXES = (".ecsv", ".fits", ".parquet")


# ---------------------------------------------------------------------- values
def positive_integer(text):
    """Return a whole number of at least one."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        msg = f"{text!r}; expected a whole number of at least 1"
        raise argparse.ArgumentTypeError(msg)
    return value


def probability(text):
    """Return a number between zero and one."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        msg = f"{text!r}; expected a number between 0 and 1, such as 0.68"
        raise argparse.ArgumentTypeError(msg)
    return value


def table_path(text):
    """Return the path of a table to write, by its suffix in a format that can be."""
    path = Path(text).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        msg = f"{text!r}; expected a file name that ends in {', '.join(SUFFIXES)}"
        raise argparse.ArgumentTypeError(msg)
    return path


def names(text):
    """Return the names of a list separated by commas."""
    listed = [name.strip() for name in text.split(",") if name.strip()]
    if not listed:
        msg = f"{text!r}; expected names separated by commas"
        raise argparse.ArgumentTypeError(msg)
    return listed


# ---------------------------------------------------------------------- parsers
def add_command(subparsers, name, run, *, help, description, example, parents=()):  # noqa: A002
    """Add a command and return its parser.

    Parameters
    ----------
    subparsers : object
        What `argparse.ArgumentParser.add_subparsers` returned.
    name : str
    run : callable
        Takes the options and returns the exit status.
    help, description, example : str
        The line in the list of commands, what it does, and commands to copy.
    parents : sequence of `argparse.ArgumentParser`
        Options shared with other commands.

    Returns
    -------
    `argparse.ArgumentParser`
    """
    parser = subparsers.add_parser(
        name, help=help, description=description, epilog=f"examples:\n{example}",
        parents=list(parents), formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _group(title):
    parser = argparse.ArgumentParser(add_help=False)
    return parser, parser.add_argument_group(title)


def output_options(*, what="the table"):
    """Return options that say where results go."""
    parser, group = _group("output")
    group.add_argument(
        "--output", type=table_path, default=None, metavar="TABLE",
        help=f"write {what} here: .ecsv, .fits or .parquet",
    )
    group.add_argument("--overwrite", action="store_true", help="replace what exists")
    group.add_argument(
        "--format", choices=("table", "ecsv"), default="table",
        help="print a readable table (default), or all columns as ECSV",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def model_options():
    """Return options of embedding."""
    parser, group = _group("embedding")
    group.add_argument(
        "--model", default=None, metavar="MODEL",
        help="name, file or hub id; by default the model of the reference, or astroclip-small",
    )
    group.add_argument(
        "--device", default=None,
        help="cuda, mps or cpu; the first available by default",
    )
    group.add_argument(
        "--batch-size", type=positive_integer, default=None, metavar="N",
        help="objects in one pass through the network",
    )
    group.add_argument(
        "--medium", default=None, choices=("vacuum", "air"),
        help="medium of the wavelengths of spectra, if they do not declare it",
    )
    group.add_argument(
        "--zero-point", type=float, default=None, metavar="MAG",
        help="AB magnitude of one count per second, for images whose header has none",
    )
    group.add_argument(
        "--pixel-scale", type=float, default=None, metavar="ARCSEC",
        help="arcsec per pixel of images without world coordinates",
    )
    group.add_argument(
        "--unit", default=None, help="unit of flux or pixels that have none of their own"
    )
    group.add_argument(
        "--bands", type=names, default=None, metavar="BAND[,BAND...]",
        help="names of the bands of images that do not name them, in order",
    )
    for column in ("flux", "wavelength", "ivar", "error", "mask"):
        group.add_argument(
            f"--{column}", default=None, metavar="COLUMN",
            help=f"name of the column that holds {column}",
        )
    group.add_argument(
        "--redshift", default=None, metavar="Z",
        help="redshift of all objects, or a table with columns id and redshift; rest-frame models "
        "need it",
    )
    return parser


def query_options(*, n_inputs="*"):
    """Return what is looked at: files, a target by name, and some of their ids."""
    parser, group = _group("objects")
    group.add_argument(
        "inputs", nargs=n_inputs, metavar="INPUT",
        help="files of spectra or images, folders of them, patterns such as 'night1/*.fits', "
        "or tables of embeddings",
    )
    group.add_argument(
        "--ids", type=names, default=None, metavar="ID[,ID...]",
        help="only the objects with these ids",
    )
    return parser


def index_argument():
    """Return the index to describe or search, which stands before all other arguments."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("index", metavar="INDEX", help="folder that `astroclip index build` wrote")
    return parser


def search_options(*, reference=True, n_neighbors=10):
    """Return options of a search."""
    parser, group = _group("search")
    if reference:
        group.add_argument(
            "--reference", default=None, metavar="TABLE",
            help="table of embeddings or index to search; the bundled galaxies by default",
        )
    group.add_argument(
        "--n-neighbors", type=positive_integer, default=n_neighbors, metavar="N",
        help=f"neighbors of each object ({n_neighbors} by default)",
    )
    group.add_argument(
        "--where", default=None, metavar="CONDITION",
        help="search these reference rows only, such as 'redshift > 0.3 & log_ssfr < -11'",
    )
    return parser


def add_target_option(parser):
    """Add ``--target``, which fetches an object by its name or position."""
    parser.add_argument(
        "--target", default=None, metavar="NAME",
        help="fetch this object from archives instead: a name, or 'RA DEC' in degrees",
    )
