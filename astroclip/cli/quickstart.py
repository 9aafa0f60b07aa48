"""The command ``astroclip quickstart``: the whole path on the bundled samples."""

import shutil
from pathlib import Path

import numpy as np

from astroclip._files import written
from astroclip.cli.embed import summary
from astroclip.cli.estimate import N_NEIGHBORS, screen_version
from astroclip.cli.neighbors import PROPERTIES
from astroclip.cli.neighbors import screen_version as neighbor_version
from astroclip.cli.options import add_command
from astroclip.cli.output import say, show, tell

__all__ = ["add_parser", "run_quickstart"]

N_SHOWN = 5
IMAGE_ID = "legacysurvey-59.107-30.485"
EXAMPLE = """\
  astroclip quickstart
  astroclip quickstart --samples samples      and then: astroclip neighbors samples"""


def add_parser(subparsers):
    """Add ``quickstart`` to the command line's subparsers."""
    parser = add_command(
        subparsers, "quickstart", run_quickstart,
        help="embed the bundled samples, show their neighbors and estimates",
        description="Embed two real DESI spectra and a real Legacy Survey cutout with the bundled "
        "model, find\ntheir nearest simulated galaxies and estimate their properties. Needs no "
        "network.",
        example=EXAMPLE,
    )
    parser.add_argument(
        "--output", default="astroclip-quickstart.png", metavar="FIGURE", help="PNG to write"
    )
    parser.add_argument(
        "--samples", default=None, metavar="FOLDER",
        help="also copy the sample files there, to try the other commands on",
    )


def run_quickstart(options):
    """Show the whole path on the bundled samples; return the exit status."""
    from astroclip import PropertyEstimator, SimilarityIndex, embed, reference_table
    from astroclip.datasets import sample_image, sample_spectra

    if options.samples is not None:
        copy_samples(options.samples)
    spectra, image = sample_spectra(), sample_image()
    tell("embedding two DESI spectra and a Legacy Survey cutout with astroclip-small")
    ids = [*(spectrum.meta["id"] for spectrum in spectra), IMAGE_ID]
    embedded = embed([*spectra, image], ids=ids)
    show(summary(embedded), title="1. Embeddings")

    reference = reference_table()
    neighbors = SimilarityIndex(reference).query(embedded, N_SHOWN)
    title = f"2. Nearest of {len(reference) // 2} reference galaxies (all simulated)"
    show(neighbor_version(neighbors), title=title)

    estimator = PropertyEstimator(n_neighbors=N_NEIGHBORS).fit(reference, PROPERTIES)
    rows = screen_version(estimator.predict(embedded), PROPERTIES)
    known = {spectrum.meta["id"]: spectrum.meta["redshift"] for spectrum in spectra}
    rows["catalog_redshift"] = [
        f"{known[name]:.4f}" if name in known else "-" for name in rows["id"]
    ]
    show(rows, title=f"3. Estimates: mean of {N_NEIGHBORS} neighbors and a 68 % interval")
    say("\nThe reference is simulated; how far estimates for real galaxies can be trusted is")
    say("measured in the model card (MODEL_CARD.rst in the package's data folder).")
    draw_quickstart(options.output, spectra, image, neighbors)
    tell(f"wrote {options.output}")
    return 0


def copy_samples(folder):
    """Copy the bundled sample files to a folder."""
    from astroclip.datasets import DATA

    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((DATA / "samples").glob("*.fits")):
        shutil.copyfile(path, folder / path.name)
    tell(f"copied the sample files to {folder}")


def draw_quickstart(path, spectra, image, neighbors):
    """Write the figure of the queries beside their neighbors, complete or not at all."""
    from matplotlib.figure import Figure

    from astroclip import reference_previews
    from astroclip.plotting import neighbor_panel
    from astroclip.plotting.objects import query_parts

    queries = [
        {
            "label": f"DESI {spectrum.meta['id']}\nz = {spectrum.meta['redshift']:.4f}",
            "id": spectrum.meta["id"], **query_parts(spectrum),
        }
        for spectrum in spectra
    ]
    queries.append({"label": IMAGE_ID, "id": IMAGE_ID, **query_parts(image)})
    for query in queries:
        rows = neighbors[np.asarray(neighbors["query_id"]) == query["id"]]
        query["neighbors"], query["previews"] = rows, reference_previews(rows["neighbor_id"])
    figure = Figure(figsize=(11.4, 2.9 * len(queries)), layout="constrained")  # shows no window
    with written(path) as partial:
        neighbor_panel(queries, figure=figure).savefig(partial, dpi=150, format="png")
