"""The command ``astroclip neighbors``."""

from astroclip.cli.inputs import embed_target, load_index, load_objects, model_of, only_ids
from astroclip.cli.options import (
    add_command,
    add_target_option,
    model_options,
    output_options,
    query_options,
    search_options,
)
from astroclip.cli.output import check_output, exit_status, show, write_output

__all__ = [
    "PROPERTIES",
    "add_modality_options",
    "add_parser",
    "asks_reference",
    "load_queries",
    "run_neighbors",
    "screen_version",
    "search",
]

PROPERTIES = ("redshift", "log_stellar_mass", "log_ssfr", "log_metallicity")
DESCRIPTION = """\
List the reference objects most similar to each of yours. Inputs are files of spectra or images,
which are embedded first, or tables that `astroclip embed` wrote."""
EXAMPLE = """\
  astroclip neighbors spec-0266-51602-0001.fits
  astroclip neighbors embeddings.fits --n-neighbors 5 --modality image
  astroclip neighbors embeddings.fits --reference survey.index --where 'redshift > 0.3' \\
      --output neighbors.ecsv
  astroclip neighbors --target 'NGC 4303'
  astroclip neighbors --ids sim-000012"""


def add_parser(subparsers):
    """Add ``neighbors`` to the command line's subparsers."""
    parser = add_command(
        subparsers, "neighbors", run_neighbors, help="find the most similar reference objects",
        description=DESCRIPTION, example=EXAMPLE,
        parents=(query_options(), search_options(), model_options(), output_options()),
    )
    add_target_option(parser)
    add_modality_options(parser)


def add_modality_options(parser):
    """Add the options that say what is compared and what may be found."""
    parser.add_argument(
        "--modality", choices=("spectrum", "image", "all"), default=None,
        help="reference rows to search; by default those of each object's own modality",
    )
    parser.add_argument(
        "--exclude-self", action="store_true", help="leave out reference rows with the object's id"
    )
    parser.add_argument(
        "--joint", action="store_true",
        help="search with the mean of an object's spectrum and image, which share its id",
    )
    parser.add_argument(
        "--near", type=float, nargs=3, default=None, metavar=("RA", "DEC", "RADIUS"),
        help="only reference rows in this cone on the sky, in degrees",
    )


def run_neighbors(options):
    """Search, write the neighbors and show them; return the exit status."""
    check_output(options)
    return search(load_index(options.reference, options.model), options)


def search(index, options):
    """Search an index for neighbors of what the options name; return the exit status."""
    asked = {"modality": options.modality, "where": options.where, "joint": options.joint}
    if options.near is not None:
        from astropy import units as u
        from astropy.coordinates import SkyCoord

        ra, dec, radius = options.near
        asked["near"] = (SkyCoord(ra, dec, unit="deg"), radius * u.deg)
    if asks_reference(options):
        neighbors, status = index.query_ids(options.ids, options.n_neighbors, **asked), 0
    else:
        queries = load_queries(index, options)
        neighbors = index.query(
            queries, options.n_neighbors, exclude_self=options.exclude_self, **asked
        )
        status = exit_status(queries)
    write_output(neighbors, options)
    show(screen_version(neighbors), format=options.format, whole=neighbors)
    return status


def load_queries(index, options):
    """Return the embedding table of what the options name.

    Inputs, a target to fetch or, without both, rows of the reference by their ids.

    Raises
    ------
    KeyError, ValueError
        If no row has an id, or nothing is named.
    """
    model = model_of(index, options.reference)
    if asks_reference(options):
        return only_ids(index.table, options.ids)
    if options.target is not None:
        return embed_target(options, model=model)
    return load_objects(options, model=model)


def asks_reference(options):
    """Return whether the objects are the reference's own rows, which must not find themselves.

    Raises
    ------
    ValueError
        If the options name no objects at all.
    """
    if options.target is not None or options.inputs:
        return False
    if options.ids is None:
        msg = (
            "nothing to look for; expected INPUT files or tables, --target NAME, or --ids of "
            "objects in the reference."
        )
        raise ValueError(msg)
    return True


def screen_version(neighbors):
    """Return a neighbor table's columns that fit a screen."""
    first = ("query_id", "rank", "neighbor_id", "similarity", "modality", "separation", "source")
    return neighbors[[name for name in (*first, *PROPERTIES) if name in neighbors.colnames]]
