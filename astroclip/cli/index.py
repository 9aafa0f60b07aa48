"""The commands ``astroclip index build``, ``info`` and ``query``."""

from pathlib import Path

import numpy as np

from astroclip.cli.inputs import load_objects
from astroclip.cli.neighbors import add_modality_options, search
from astroclip.cli.options import (
    add_command,
    add_target_option,
    index_argument,
    model_options,
    output_options,
    probability,
    query_options,
    search_options,
)
from astroclip.cli.output import check_output, exit_status, say, show, tell

__all__ = ["add_parser", "run_build", "run_info", "run_query"]

BUILD_EXAMPLE = """\
  astroclip index build survey-*.fits --output survey.index
  astroclip index build spectra/ --output night1.index"""
INFO_EXAMPLE = "  astroclip index info survey.index"
QUERY_EXAMPLE = """\
  astroclip index query survey.index spec-0266-51602-0001.fits --n-neighbors 5
  astroclip index query survey.index --ids 39627776344457978 --exclude-self"""


def add_parser(subparsers):
    """Add ``index`` and its own commands to the command line's subparsers."""
    parser = add_command(
        subparsers, "index", None, help="build, describe and search an index of your own",
        description="Build an index of your own embeddings once, and search it many times.",
        example=f"{BUILD_EXAMPLE}\n{INFO_EXAMPLE}\n{QUERY_EXAMPLE}",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="index_command")
    _add_build(commands)
    add_command(
        commands, "info", run_info, help="describe an index",
        description="List rows, model and columns of an index.", example=INFO_EXAMPLE,
        parents=(index_argument(),),
    )
    query = add_command(
        commands, "query", run_query, help="search an index",
        description="List the rows of an index most similar to each object.",
        example=QUERY_EXAMPLE,
        parents=(
            index_argument(), query_options(), search_options(reference=False), model_options(),
            output_options(),
        ),
    )
    add_target_option(query)
    add_modality_options(query)


def _add_build(commands):
    build = add_command(
        commands, "build", run_build, help="build an index from tables or files",
        description="Build an index from tables of embeddings of one model; files of spectra and "
        "images are embedded first. Every column of the tables is kept.",
        example=BUILD_EXAMPLE, parents=(query_options(n_inputs="+"), model_options()),
    )
    build.add_argument("--output", required=True, metavar="INDEX", help="folder to write")
    build.add_argument("--overwrite", action="store_true", help="replace what exists")
    build.add_argument(
        "--method", choices=("auto", "exact", "approximate"), default="auto",
        help="exact search, or approximate search by FAISS; auto (default) is approximate from "
        "50,000 rows of a modality, if FAISS is installed",
    )
    build.add_argument(
        "--recall", type=probability, default=0.97, metavar="P",
        help="share of the true neighbors that an approximate search is to find (0.97)",
    )
    build.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32",
        help="how vectors are stored; float16 takes half the space",
    )
    build.add_argument(
        "--center-modalities", action="store_true",
        help="subtract the mean of spectra from spectra and that of images from images",
    )
    build.add_argument("--quiet", action="store_true", help="no progress bar")


def run_build(options):
    """Build an index and save it; return the exit status."""
    from astroclip import SimilarityIndex
    from astroclip.similarity.files import check_writable

    check_output(options)
    check_writable(options.output)  # before hours of embedding
    table = load_objects(options)
    status = exit_status(table)
    if status == 1:
        return status
    index = SimilarityIndex(
        table, method=options.method, recall=options.recall, dtype=options.dtype,
        center_modalities=options.center_modalities,
    )
    index.save(options.output)
    tell(f"wrote {options.output}")
    say(repr(index))
    return status


def run_info(options):
    """Describe an index; return the exit status."""
    from astropy.table import Table

    index = open_index(options.index)
    columns = index.columns  # read in place: a large table is not put together for this
    modalities, counts = np.unique(np.asarray(columns["modality"]), return_counts=True)
    facts = {
        "rows": f"{len(index):,}",
        **{
            f"{modality} rows": f"{count:,}"
            for modality, count in zip(modalities, counts, strict=True)
        },
        "values in an embedding": f"{index.dim}",
        "search": f"{index.method}, recall {index.recall_:.3f}, {index.dtype}",
        "model": str(index.meta["MODEL"]),
        "weights (sha256)": str(index.meta["WSHA"])[:16],
        "made": str(index.meta.get("DATE", "-")),
        "columns": ", ".join(name for name in columns.colnames if name != "embedding"),
    }
    show(Table({"what": list(facts), "found": list(facts.values())}))
    return 0


def open_index(path):
    """Return a saved index.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is damaged or something else.
    """
    from astroclip import SimilarityIndex

    path = Path(path).expanduser()
    if not path.exists():
        msg = f"index {str(path)!r} does not exist; make it with astroclip index build."
        raise FileNotFoundError(msg)
    return SimilarityIndex.open(path)


def run_query(options):
    """Search an index; return the exit status."""
    check_output(options)
    options.reference = options.index  # beside it lie the weights of a model of one's own
    return search(open_index(options.index), options)
