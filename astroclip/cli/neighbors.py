"""The command ``astroclip neighbors``."""

from astroclip.cli.embed import exit_status
from astroclip.cli.inputs import load_objects, only_ids
from astroclip.cli.options import (
    add_command,
    model_options,
    output_options,
    query_options,
    search_options,
)
from astroclip.cli.output import check_output, fits_screen, show, write_output
from astroclip.cli.targets import add_target_option, fetched_objects

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
    """Add the options that say what may be found."""
    parser.add_argument(
        "--modality", choices=("spectrum", "image", "all"), default=None,
        help="of the reference rows to search; by default that of each object",
    )
    parser.add_argument(
        "--exclude-self", action="store_true", help="leave out reference rows of the object's id"
    )


def run_neighbors(options):
    """Search, write the neighbours and show them; return the exit status."""
    from astroclip.cli.references import load_index

    check_output(options)
    return search(load_index(options.reference, options.model), options)


def search(index, options):
    """Search an index for neighbours of what the options name; return the exit status."""
    queries = load_queries(index, options)
    neighbors = index.query(
        queries, options.n_neighbors, modality=options.modality, where=options.where,
        exclude_self=options.exclude_self or asks_reference(options),
    )
    write_output(neighbors, options)
    show(screen_version(neighbors), format=options.format, whole=neighbors)
    return exit_status(queries)


def load_queries(index, options):
    """Return the embedding table of what the options name.

    Inputs, a target to fetch or, without both, rows of the reference by their ids.

    Raises
    ------
    ValueError
        If nothing is named.
    """
    model = str(index.table.meta["MODEL"])
    if options.target is not None:
        return fetched_objects(options, model=model)
    if options.inputs:
        return load_objects(options, model=model)
    if options.ids is None:
        msg = (
            "nothing to look for; expected INPUT files or tables, --target NAME, or --ids of "
            "objects in the reference."
        )
        raise ValueError(msg)
    return only_ids(index.table, options.ids)


def asks_reference(options):
    """Return whether the objects are the reference's own rows, which must not find themselves."""
    return options.target is None and not options.inputs


def screen_version(neighbors):
    """Return a neighbor table's columns that fit a screen."""
    first = ("query_id", "rank", "neighbor_id", "similarity", "modality", "separation", "source")
    return fits_screen(neighbors, (*first, *PROPERTIES))
