"""The command ``astroclip``: quickstart, embed, models, train, bundle, evaluate."""

import argparse
import sys
from pathlib import Path

from astroclip import __version__

__all__ = ["main"]

PROPERTIES = ("redshift", "log_stellar_mass", "log_ssfr", "log_metallicity")
N_NEIGHBORS = 16
N_SHOWN = 5


def say(text=""):
    """Write a line to the standard output."""
    sys.stdout.write(f"{text}\n")


def main(arguments=None):
    """Run the command line and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        Zero, or 1 after an error that the user can mend, which is shown without a traceback.
    """
    options = build_parser().parse_args(arguments)
    from astroclip.exceptions import CheckpointError, MissingExtraError, PreparationError

    mendable = (
        CheckpointError, MissingExtraError, PreparationError, OSError, ValueError, TypeError
    )
    try:
        return options.run(options)
    except mendable as error:
        sys.stderr.write(f"astroclip: {error}\n")
        return 1


def build_parser():
    """Return the parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="astroclip", description="Find galaxies like this one, from spectra and images."
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_quickstart(subparsers)
    _add_embed(subparsers)
    models = subparsers.add_parser("models", help="list the models that have names")
    models.set_defaults(run=run_models)
    from astroclip.evaluation.commands import add_parser as add_evaluation
    from astroclip.training.commands import add_parser as add_training

    add_training(subparsers)
    add_evaluation(subparsers)
    return parser


def _add_quickstart(subparsers):
    parser = subparsers.add_parser(
        "quickstart",
        help="embed the bundled samples, show their neighbours and estimates",
        description="Embed two real DESI spectra and a real Legacy Survey cutout with the "
        "bundled model, find their nearest simulated galaxies and estimate their properties.",
    )
    parser.add_argument(
        "--output", default="astroclip-quickstart.png", help="figure to write (PNG)"
    )
    parser.set_defaults(run=run_quickstart)


def _add_embed(subparsers):
    parser = subparsers.add_parser(
        "embed",
        help="embed spectrum or image files",
        description="Embed files that specutils reads (spectra) or Legacy Survey cutouts "
        "(images), all of one kind.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--model", default="astroclip-small", help="name, file or hub id")
    parser.add_argument("--medium", default="vacuum", choices=("vacuum", "air"))
    parser.add_argument("--output", default=None, help="table to write: .ecsv, .fits or .parquet")
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument(
        "--neighbors", type=int, default=0, help="also list this many bundled neighbours"
    )
    parser.set_defaults(run=run_embed)


def run_models(options):
    """List the models; return the exit status."""
    from astroclip import list_models

    say("\n".join(list_models().pformat(max_width=-1, max_lines=-1)))
    return 0


def run_embed(options):
    """Embed files, show a summary and write the table; return the exit status."""
    import warnings

    from astroclip import SimilarityIndex, embed, reference_table
    from astroclip.exceptions import FailedObjectWarning
    from astroclip.tables import write_table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedObjectWarning)  # the summary shows them
        table = embed(
            [Path(name) for name in options.files], model=options.model, medium=options.medium
        )
    show(summary(table), "Embeddings")
    if options.neighbors:
        neighbors = SimilarityIndex(reference_table()).query(table, options.neighbors)
        show(neighbors[neighbor_columns(neighbors)], "Neighbours")
    if options.output is not None:
        write_table(table, options.output, overwrite=options.overwrite)
        say(f"wrote {options.output}")
    return 0


def summary(table):
    """Return a short version of an embedding table."""
    from astropy.table import Table

    from astroclip.tables import embedding_matrix, flag_names

    matrix, _ = embedding_matrix(table)
    return Table(
        {
            "id": table["id"],
            "modality": table["modality"],
            "coverage": [f"{value:.3f}" for value in table["coverage"]],
            "flags": [" ".join(flag_names(value)) or "-" for value in table["flags"]],
            "embedding": [
                "  ".join(f"{value:+.3f}" for value in row[:4]) + "  ..." for row in matrix
            ],
            "message": table["message"],
        }
    )


def neighbor_columns(neighbors):
    """Return the columns of a neighbor table that fit a screen."""
    first = ("query_id", "rank", "neighbor_id", "similarity", "source")
    return [name for name in (*first, *PROPERTIES) if name in neighbors.colnames]


def show(table, title):
    """Print a table under a title."""
    say(f"\n{title}")
    table = table.copy()
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            table[name].info.format = ".3f"
    say("\n".join(table.pformat(max_width=-1, max_lines=-1)))


# ---------------------------------------------------------------------- quickstart
def run_quickstart(options):
    """Show the whole path on the bundled samples; return the exit status."""
    from astropy.table import vstack

    from astroclip import PropertyEstimator, SimilarityIndex, embed, reference_table
    from astroclip.reference import sample_image, sample_spectra

    spectra, image = sample_spectra(), sample_image()
    say("Embedding two DESI spectra and a Legacy Survey cutout with astroclip-small ...")
    image_id = "legacysurvey-59.107-30.485"
    embedded = vstack(
        [embed(spectra), embed([image], ids=[image_id])], metadata_conflicts="silent"
    )
    show(summary(embedded), "1. Embeddings")

    reference = reference_table()
    neighbors = SimilarityIndex(reference).query(embedded, N_SHOWN)
    title = f"2. Nearest of {len(reference) // 2} reference galaxies (all simulated)"
    show(neighbors[neighbor_columns(neighbors)], title)

    estimator = PropertyEstimator(n_neighbors=N_NEIGHBORS).fit(reference, PROPERTIES)
    known = {spectrum.meta["id"]: spectrum.meta["redshift"] for spectrum in spectra}
    show(
        estimate_rows(estimator.predict(embedded), known),
        f"3. Estimates: mean of {N_NEIGHBORS} neighbours and a 68 % interval",
    )
    say("\nThe reference is simulated; how far estimates for real galaxies can be trusted is")
    say("measured in the model card (MODEL_CARD.rst in the package's data folder).")
    draw_quickstart(options.output, spectra, image, image_id, neighbors)
    say(f"\nwrote {options.output}")
    return 0


def estimate_rows(estimates, known):
    """Return estimates as text, one object a row, beside the catalogue's redshift."""
    from astropy.table import Table

    rows = Table({"id": estimates["id"], "modality": estimates["modality"]})
    for name in PROPERTIES:
        columns = (estimates[f"{name}{suffix}"] for suffix in ("", "_lower", "_upper"))
        rows[name] = [
            f"{value:.3f} [{low:.3f}, {high:.3f}]"
            for value, low, high in zip(*columns, strict=True)
        ]
    rows["catalogue_redshift"] = [
        f"{known[name]:.4f}" if name in known else "-" for name in estimates["id"]
    ]
    rows["unusual"] = estimates["out_of_distribution"]
    return rows


def draw_quickstart(path, spectra, image, image_id, neighbors):
    """Write the figure of the queries beside their neighbours, complete or not at all."""
    import numpy as np

    from astroclip import reference_previews
    from astroclip.plotting import display_image, neighbor_panel
    from astroclip.preparation import prepare_images

    pixels = prepare_images(image, size=96, pixel_scale=0.262).pixels[0]
    queries = [
        {
            "label": f"DESI {spectrum.meta['id']}\nz = {spectrum.meta['redshift']:.4f}",
            "id": spectrum.meta["id"],
            "image": None,
            "spectrum": _binned(spectrum),
        }
        for spectrum in spectra
    ]
    queries.append(
        {"label": image_id, "id": image_id, "image": display_image(pixels), "spectrum": None}
    )
    for query in queries:
        rows = neighbors[np.asarray(neighbors["query_id"]) == query["id"]]
        query["neighbors"], query["previews"] = rows, reference_previews(rows["neighbor_id"])
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    neighbor_panel(queries).savefig(partial, dpi=150, format="png")
    partial.replace(path)


def _binned(spectrum, n_pixels=16):
    """Return wavelength and flux of a prepared spectrum, averaged over bins of pixels."""
    import numpy as np

    from astroclip.preparation import prepare_spectra

    batch = prepare_spectra(spectrum, wavelength="log")
    n_used = len(batch.wavelength) // n_pixels * n_pixels
    weight = batch.ivar[0, :n_used].reshape(-1, n_pixels) + 1e-12
    flux = batch.flux[0, :n_used].reshape(-1, n_pixels)
    wavelength = batch.wavelength[:n_used].reshape(-1, n_pixels).mean(axis=1)
    return wavelength, np.average(flux, axis=1, weights=weight)


if __name__ == "__main__":
    sys.exit(main())
