"""The command ``astroclip embed``."""

from astroclip.cli.inputs import embed_positions, load_index, load_objects
from astroclip.cli.options import (
    add_command,
    model_options,
    output_options,
    positive_integer,
    query_options,
)
from astroclip.cli.output import check_output, exit_status, show, write_output

__all__ = ["add_parser", "run_embed", "summary"]

DESCRIPTION = """\
Embed spectra and images into one table. Inputs are files that specutils reads and cutouts of
the Legacy Surveys. A file that cannot be used keeps a row with the reason."""
EXAMPLE = """\
  astroclip embed spec-0266-51602-0001.fits
  astroclip embed night1/ 'night2/*.fits' --output embeddings.fits
  astroclip embed spectra/ --model astroclip-small-rest --redshift redshifts.ecsv
  astroclip embed g.fits r.fits z.fits --bands g,r,z --positions targets.ecsv"""
N_VALUES = 4  # of an embedding, on the screen


def add_parser(subparsers):
    """Add ``embed`` to the command line's subparsers."""
    parser = add_command(
        subparsers, "embed", run_embed, help="embed spectrum and image files",
        description=DESCRIPTION, example=EXAMPLE,
        parents=(query_options(n_inputs="+"), model_options(), output_options()),
    )
    parser.add_argument(
        "--positions", default=None, metavar="TABLE",
        help="INPUT is one mosaic, a file of all bands or one for each of --bands: cut out the "
        "objects of this table with columns ra and dec (deg), and id and redshift if it has them",
    )
    parser.add_argument(
        "--n-neighbors", "--neighbors", type=positive_integer, default=None, metavar="N",
        help="also list N neighbors of each in the bundled reference",
    )


def run_embed(options):
    """Embed files, write the table and show a summary; return the exit status."""
    check_output(options)
    table = load_objects(options) if options.positions is None else embed_positions(options)
    write_output(table, options)
    show(summary(table), title="Embeddings", format=options.format, whole=table)
    if options.n_neighbors is not None:
        from astroclip.cli.neighbors import screen_version
        neighbors = load_index(None, table.meta["MODEL"]).query(table, options.n_neighbors)
        show(screen_version(neighbors), title="Neighbors", format=options.format, whole=neighbors)
    return exit_status(table)


def summary(table):
    """Return a version of an embedding table that fits a screen."""
    from astropy.table import Table

    from astroclip.tables import embedding_matrix, flag_names

    matrix, valid = embedding_matrix(table)
    rows = {
        "id": table["id"],
        "modality": table["modality"],
        "coverage": [f"{value:.3f}" for value in table["coverage"]],
        "flags": [" ".join(flag_names(value)) or "-" for value in table["flags"]],
        "embedding": [
            "  ".join(f"{value:+.3f}" for value in row[:N_VALUES]) + "  ..." if good else "-"
            for row, good in zip(matrix, valid, strict=True)
        ],
    }
    if any(table["message"]):
        rows["message"] = table["message"]
    return Table(rows)
